"""Applies that events ask for: how many there are, and when there is none."""

import threading
import time

import pytest
from salt.exceptions import SaltInvocationError

import _mta_last_apply
import _mta_reprovision
import _mta_system
from _mta_minion import CUT_OFF


class Clock:
    """A clock that only ``sleep`` moves; ``at`` does something when it passes a time."""

    def __init__(self):
        self.now, self.plans = 1_000_000.0, []

    def sleep(self, seconds):
        end = self.now + seconds
        for moment, action in sorted(self.plans, key=lambda plan: plan[0]):
            if moment <= end and (moment, action) in self.plans:
                self.plans.remove((moment, action))
                self.now = max(self.now, moment)
                action()
        self.now = end

    def at(self, seconds, action):
        self.plans.append((self.now + seconds, action))


@pytest.fixture
def clock(monkeypatch):
    ticking = Clock()
    monkeypatch.setattr(time, "time", lambda: ticking.now)
    monkeypatch.setattr(time, "sleep", ticking.sleep)
    return ticking


@pytest.fixture
def world(pretend, clock, monkeypatch):
    """A host on which an apply takes 10 seconds, and what there is to be seen of it."""
    facts = {"applies": [], "good": True, "conditions": {}, "heals": True, "events": [], "flushed": 0}
    # Long ago.
    facts["last"] = {"result": True, "time": 0, "failed": []}

    def apply(minion):
        facts["applies"].append(clock.now)
        clock.sleep(10)
        good = facts["good"]
        facts["last"] = {"result": good, "time": clock.now, "failed": [] if good else ["config"]}
        if good and facts["heals"]:
            facts["conditions"].clear()
        return good

    monkeypatch.setattr(_mta_reprovision, "_apply", apply)
    settings = {"attempts": 3, "pause": 60, "hold": 3600, "splay": 0}
    monkeypatch.setattr(_mta_reprovision, "_settings", lambda minion: settings)
    pretend("_mta_beacon.conditions", lambda: dict(facts["conditions"]))
    pretend("_mta_beacon.found", lambda: dict(facts["conditions"]))
    pretend("_mta_last_apply.last", lambda: facts["last"])
    pretend("_mta_queue.flush", lambda everything: facts.update(flushed=facts["flushed"] + everything))
    pretend("pillar.items", lambda unmask: {})
    pretend("event.send", lambda tag, data: facts["events"].append((tag, data)))
    facts["settings"] = settings
    return facts


@pytest.fixture
def request_(minion):
    minion.opts["conf_file"] = "/etc/salt/minion"
    return lambda reason="reprovision": _mta_reprovision.request(minion, reason)


def test_a_request_is_an_apply(request_, world, clock):
    began = clock.now
    assert request_() == {"accepted": True, "comment": "Applied 1 times", "applies": 1, "result": True}
    assert world["applies"] == [began + 3]


def test_what_the_beacon_is_said_to_have_found_is_believed_only_if_it_has(request_, world):
    assert request_("beacon")["accepted"] is False
    assert world["applies"] == []
    world["conditions"]["saslauthd"] = {}
    assert request_("beacon")["result"] is True
    assert len(world["applies"]) == 1


@pytest.mark.parametrize("reason", ["", "{{ 7 * 7 }}", None, "start"])
def test_no_other_reason_is_taken(request_, world, reason):
    with pytest.raises(SaltInvocationError):
        request_(reason)


@pytest.mark.parametrize("reason", ["beacon", "reprovision", "pillar"])
def test_a_host_on_which_nothing_was_ever_applied_is_no_mail_server_and_does_not_become_one(
    minion, request_, world, reason
):
    world.update(last={}, conditions={"saslauthd": {}})
    answer = request_(reason)
    assert answer["accepted"] is False
    assert "state.apply postfix_mta has never run here" in answer["comment"]
    assert world["applies"] == []
    assert _mta_reprovision.due(minion) is True  # by the condition; but nothing was noted
    world.update(last={"result": False, "time": 0}, conditions={})
    assert _mta_reprovision.due(minion) is False
    assert request_()["applies"] == 1


def test_a_storm_is_two_applies(request_, world, clock):
    answers = []
    for moment in range(1, 12):
        clock.at(moment, lambda: answers.append(request_()["comment"]))
    assert request_()["applies"] == 2
    assert answers == ["One more apply follows the one that is under way"] * 11
    # The second waits for the pause after the first.
    assert world["applies"][1] - world["applies"][0] == 10 + 60


def test_what_came_just_before_the_apply_began_is_answered_by_another_one(request_, world, clock):
    clock.at(2.5, request_)
    assert request_()["applies"] == 2


def test_what_came_long_enough_before_is_answered_by_the_same(request_, world, clock):
    clock.at(0.5, request_)
    assert request_()["applies"] == 1


def test_a_condition_does_not_wait_for_the_pause(request_, world, clock):
    request_()
    world["conditions"]["saslauthd"] = {}
    asked = clock.now
    request_("beacon")
    assert world["applies"][1] == asked + 3


def test_a_failing_apply_is_tried_again_ever_later_and_then_given_up(request_, world, clock):
    world["good"] = False
    assert request_() == {"accepted": True, "comment": "Applied 3 times", "applies": 3, "result": False}
    first, second, third = world["applies"]
    assert (second - first, third - second) == (10 + 60, 10 + 120)
    ((tag, data),) = world["events"]
    assert tag == "postfix_mta/alert"
    assert (data["failed"], data["conditions"], data["attempts"]) == (["config"], [], 3)


def test_after_an_alert_requests_are_refused_for_a_while(request_, world, clock):
    world["good"] = False
    request_()
    clock.sleep(3599)
    assert request_()["accepted"] is False
    assert len(world["applies"]) == 3
    clock.sleep(2)
    assert request_()["accepted"] is True
    assert len(world["applies"]) == 6


def test_an_apply_by_hand_that_succeeds_ends_the_refusal(request_, world, clock):
    world["good"] = False
    request_()
    clock.sleep(60)
    world.update(good=True, last={"result": True, "time": clock.now, "failed": []})
    assert request_()["result"] is True


def test_a_condition_that_an_apply_does_not_end_is_an_alert(request_, world):
    world.update(heals=False, conditions={"certificate_renewal": {}})
    assert request_("beacon")["result"] is False
    assert len(world["applies"]) == 3
    assert world["events"][0][1]["conditions"] == ["certificate_renewal"]


def test_a_full_queue_is_flushed_once_and_may_take_its_time(request_, world):
    world.update(heals=False, conditions={"queue": {"messages": 101}})
    assert request_("beacon")["applies"] == 1
    assert world["flushed"] == 1
    assert world["events"] == []


def test_a_changed_pillar_is_applied_after_the_masters_window_and_at_a_moment_of_its_own(request_, world, clock):
    began = clock.now
    request_("pillar")
    assert world["applies"] == [began + 21]
    world["settings"]["splay"] = 300
    long_ago, moments = {"result": True, "time": 0}, set()
    for _ in range(5):
        asked, world["last"] = clock.now, long_ago
        request_("pillar")
        moments.add(round(world["applies"][-1] - asked))
    assert len(moments) > 1
    assert max(moments) <= 321


def test_a_pillar_that_is_said_to_have_changed_and_has_not_leads_to_no_apply(request_, world, pretend):
    pillar = {"postfix_mta": {"hostname": "mail.example.com", 5: None}, "other": 1}
    pretend("pillar.items", lambda unmask: pillar)
    pretend("_mta_last_apply.has_pillar", lambda now: _mta_last_apply.pillar_digest(now) == known)
    known = _mta_last_apply.pillar_digest(pillar)
    for _ in range(3):
        assert request_("pillar") == {"accepted": False, "comment": "The pillar is that of the last apply"}
    pillar["other"] = 2
    assert request_("pillar")["accepted"] is False
    assert world["applies"] == []
    pillar["postfix_mta"]["root_recipient"] = "alice"
    assert request_("pillar")["applies"] == 1
    assert request_()["applies"] == 1, "who asks for an apply gets one"


def test_what_a_reboot_cut_off_is_due_at_the_next_start(minion, request_, world, clock):
    assert _mta_reprovision.due(minion) is False
    clock.at(1, lambda: (_ for _ in ()).throw(SystemExit))
    with pytest.raises(SystemExit):
        request_()
    assert _mta_reprovision.due(minion) is True
    assert request_()["applies"] == 1
    assert _mta_reprovision.due(minion) is False


def test_a_condition_is_due_at_a_start_but_not_what_was_given_up(minion, request_, world, clock):
    world["conditions"]["saslauthd"] = {}
    assert _mta_reprovision.due(minion) is True
    world["good"] = False
    request_()
    assert _mta_reprovision.due(minion) is False


def test_of_two_at_the_same_time_one_applies(tmp_path):
    """The lock is one between processes: another descriptor of the same file does not get it."""
    path = str(tmp_path / "state" / "lock")
    with _mta_reprovision._lock(path) as first, _mta_reprovision._lock(path) as second:
        assert (first, second) == (True, False)
    with _mta_reprovision._lock(path) as third:
        assert third is True


def test_of_two_that_note_something_at_the_same_time_neither_is_lost(minion, monkeypatch):
    read, others = _mta_reprovision._recall, []

    def recall(minion):
        memory = read(minion)
        if not others:
            # Between this one's reading and writing.
            others.append(threading.Thread(target=_mta_reprovision._note, args=(minion,), kwargs={"asked": 7}))
            others[0].start()
            others[0].join(0.1)
        return memory

    monkeypatch.setattr(_mta_reprovision, "_recall", recall)
    _mta_reprovision._note(minion, answered=5)
    others[0].join()
    assert (read(minion)["asked"], read(minion)["answered"]) == (7, 5)


def test_where_the_configuration_makes_every_apply_a_dry_run_none_is_run(minion, request_, world):
    minion.opts["test"] = True
    assert request_()["accepted"] is False
    assert world["applies"] == []


@pytest.mark.parametrize(
    ("last", "configured", "arguments"),
    [
        ({}, None, []),
        ({"saltenv": "base"}, None, []),
        ({"saltenv": "prod", "pillarenv": None}, None, ["saltenv=prod"]),
        ({"saltenv": "prod", "pillarenv": "p1"}, None, ["saltenv=prod", "pillarenv=p1"]),
        ({"saltenv": "prod"}, "prod", []),
        ({"saltenv": "base"}, "prod", ["saltenv=base"]),
    ],
)
def test_the_apply_is_in_the_environments_of_the_last_one(minion, request_, pretend, last, configured, arguments):
    commands = []
    pretend("_mta_system.find_program", lambda name: "/usr/bin/salt-call")
    pretend("_mta_system.run", lambda command, **_: commands.append(command) or _mta_system.Finished(0, b"", b""))
    pretend("_mta_last_apply.last", lambda: last)
    minion.opts["saltenv"] = configured
    _mta_reprovision._apply(minion)
    assert commands[0][commands[0].index("queue=100") + 1 :] == arguments


def test_the_apply_is_a_salt_call_whose_exit_code_counts(minion, tmp_path, monkeypatch):
    minion.opts["conf_file"] = "/etc/salt/minion"
    program = tmp_path / "bin" / "salt-call"
    program.parent.mkdir()
    monkeypatch.setattr("sys.executable", str(tmp_path / "bin" / "python"))
    for code in (0, 2):
        program.write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/said\nexit {code}\n')
        program.chmod(0o755)
        assert _mta_reprovision._apply(minion) is (code == 0)
    said = (tmp_path / "said").read_text().split()
    assert said[:4] == ["--config-dir=/etc/salt", "--retcode-passthrough", "state.apply", "postfix_mta"]


def test_without_a_salt_call_there_is_no_apply(minion, tmp_path, monkeypatch):
    minion.opts["conf_file"] = "/etc/salt/minion"
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setattr("_mta_system.find_program", lambda name: None)
    assert _mta_reprovision._apply(minion) is False


def test_an_apply_that_died_and_was_undone_is_made_up_for_at_the_next_start(minion, world):
    """The script that undoes it leaves a file; an apply of the whole formula removes it."""
    assert _mta_reprovision.due(minion) is False
    minion.state.write(CUT_OFF, {})
    assert _mta_reprovision.due(minion) is True


def test_a_condition_of_the_dns_is_the_zones_administrator_s_and_no_apply_s(minion, request_, world):
    world["conditions"]["dns"] = {}
    assert request_("beacon") == {
        "accepted": False,
        "comment": "The beacon knows of no condition that an apply ends",
    }
    assert _mta_reprovision.due(minion) is False
    world.update(heals=False)
    assert request_()["applies"] == 1 and world["events"] == []
