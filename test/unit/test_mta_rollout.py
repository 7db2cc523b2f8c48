"""A rollout's plan, its course over a fleet that is made up, and what is left of it after every kind of end."""

import json
import pathlib
import time

import jinja2
import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_rollout

SIX = [f"mail{number}" for number in range(1, 7)]
ORCHESTRATION = pathlib.Path(__file__).parents[2] / "postfix_mta" / "orch" / "rollout.sls"
WANTED = {
    "tgt": "mail*",
    "tgt_type": "glob",
    "mods": "postfix_mta",
    "canaries": 1,
    "share": 2,
    "role": None,
    "settle": 0,
    "patience": 20,
    "queue_slack": 10,
}
GOOD = {"a": {"result": True, "comment": ""}}
UNDONE = {
    "a": {"result": True, "comment": ""},
    "b": {"result": False, "comment": "One or more requisite failed: x"},
    "c": {"result": False, "comment": "The server did not answer as it should:\n  127.0.0.1:25 RCPT: 451"},
}


class Server:
    """A mail server: what its apply does, and how it is."""

    def __init__(self):
        self.commit = 1.0
        self.silent = False
        self.answers = True
        self.problems = []
        self.queue = 3
        self.drift = []
        self.conditions = []
        self.outcome = GOOD
        self.breaks = False
        self.new = False

    def report(self):
        if self.new:
            return "'mta_status.report' is not available."
        return {
            "answers": self.answers,
            "auth": True,
            "problems": self.problems,
            "queue": {"total": self.queue},
            "drift": self.drift,
            "conditions": self.conditions,
            "last_apply": {"result": True},
            "commit": self.commit,
        }


class Fleet:
    """Stands in for the runner's ``_ask``; what time passes is seconds slept."""

    def __init__(self, names):
        self.servers = {name: Server() for name in names}
        self.applied = []
        self.restored = []
        self.now = 100.0
        self.at_apply = lambda minion: None

    def __getitem__(self, name):
        return self.servers[name]

    def sleep(self, seconds):
        self.now += seconds
        for server in self.servers.values():
            if server.queue > 3:
                server.queue -= 10

    def ask(self, tgt, tgt_type, function, kwargs=None, timeout=15, patience=10, late=0):
        names = list(self.servers) if tgt_type == "glob" else tgt
        silent = [name for name in names if self[name].silent]
        there = [name for name in names if name not in silent]
        if function == "state.apply":
            assert kwargs == {"mods": "postfix_mta", "queue": True}
            self.applied.append(list(there))
        answers = {name: self.answer(name, function, kwargs) for name in there}
        return {name: answers[name] for name in there if not self[name].silent}, silent

    def answer(self, name, function, kwargs):
        server = self[name]
        if function == "mta_status.report":
            return server.report()
        if function == "grains.get":
            return "out" if name in SIX[:2] else "in"
        if function == "mta_transaction.roll_back":
            if kwargs["commit"][name] != server.commit:
                return {"result": False, "comment": "another apply has changed something since"}
            self.restored.append(name)
            server.commit += 1
            return {"result": True, "comment": ""}
        self.at_apply(name)
        server.new = False
        if server.outcome is GOOD:
            server.commit += 1
        if server.breaks:
            server.answers, server.problems = False, ["127.0.0.1:25 RCPT: 451"]
        return server.outcome


@pytest.fixture
def fleet(monkeypatch):
    made = Fleet(SIX)
    monkeypatch.setattr(time, "sleep", made.sleep)
    monkeypatch.setattr(time, "monotonic", lambda: made.now)
    return made


@pytest.fixture
def run(fleet, tmp_path):
    """``run("resume", share=1)``"""

    def go(action="start", test=False, name="default", **wanted):
        book = _mta_rollout.Book(str(tmp_path), name)
        return _mta_rollout.run(book, fleet.ask, action, {**WANTED, **wanted}, test)

    return go


def states(outcome):
    return {minion: one["state"] for minion, one in outcome["minions"].items()}


class TestPlan:
    @pytest.mark.parametrize(
        "share, size, number",
        [
            (1, 6, 1),
            (2, 6, 2),
            (9, 6, 6),
            ("25%", 6, 1),
            ("34%", 6, 2),
            ("50%", 6, 3),
            ("1%", 6, 1),
            ("100%", 6, 6),
        ],
    )
    def test_a_share_is_never_more_than_said_but_at_least_one(self, share, size, number):
        assert _mta_rollout.allowance(share, size) == number

    @pytest.mark.parametrize("share", [0, -1, "0%", "101%", "x", True, None, 1.5, "25 %"])
    def test_other_shares_are_refused(self, share):
        with pytest.raises(SaltInvocationError, match="share must be"):
            _mta_rollout.allowance(share, 6)

    def test_canaries_come_first(self):
        roles = dict.fromkeys(SIX, "")
        assert _mta_rollout.order(SIX, roles, 2) == (SIX, 2)
        assert _mta_rollout.order(SIX, roles, ["mail5", "mail2"])[0][:3] == ["mail5", "mail2", "mail1"]
        assert _mta_rollout.order(SIX, roles, 0) == (SIX, 0)

    def test_a_number_of_canaries_is_for_each_role(self):
        roles = {"a1": "in", "a2": "in", "b1": "out", "b2": "out"}
        assert _mta_rollout.order(list(roles), roles, 1) == (["a1", "b1", "a2", "b2"], 2)

    @pytest.mark.parametrize("canaries", [["nobody"], -1, True, "mail1", None])
    def test_other_canaries_are_refused(self, canaries):
        with pytest.raises(SaltInvocationError, match="canaries"):
            _mta_rollout.order(SIX, dict.fromkeys(SIX, ""), canaries)

    def test_batches(self):
        batches = _mta_rollout.plan(SIX, SIX[:1], dict.fromkeys(SIX, ""), 2)
        assert batches == [["mail1"], ["mail2", "mail3"], ["mail4", "mail5"], ["mail6"]]

    def test_the_share_holds_for_each_role(self):
        roles = {"a1": "in", "a2": "in", "b1": "out", "b2": "out", "b3": "out"}
        assert _mta_rollout.plan(list(roles), [], roles, 1) == [["a1", "b1"], ["a2", "b2"], ["b3"]]

    def test_servers_that_are_down_use_the_share_up(self):
        roles = dict.fromkeys(SIX, "")
        assert _mta_rollout.next_batch(SIX, [], roles, 2, ["mail6"]) == ["mail1", "mail6"]
        assert _mta_rollout.next_batch(SIX[:5], [], roles, 2, ["mail6"]) == ["mail1"]
        assert _mta_rollout.next_batch(SIX[:5], [], roles, 1, ["mail6"]) == []

    def test_every_server_is_in_one_batch_and_no_batch_is_too_large(self):
        names = [f"m{number:02}" for number in range(23)]
        roles = {name: "in" if number % 3 else "out" for number, name in enumerate(names)}
        for share in (1, 4, "10%", "50%", "100%"):
            for canaries in (0, 1, 3):
                sequence, count = _mta_rollout.order(names, roles, canaries)
                batches = _mta_rollout.plan(sequence, sequence[:count], roles, share)
                assert sorted(name for batch in batches for name in batch) == names
                for batch in batches:
                    for role in ("in", "out"):
                        size = len([name for name in names if roles[name] == role])
                        at_once = [name for name in batch if roles[name] == role]
                        assert len(at_once) <= _mta_rollout.allowance(share, size)
                first = [batch for batch in batches if set(batch) & set(sequence[:count])]
                assert batches[: len(first)] == first
                assert {name for batch in first for name in batch} == set(sequence[:count])


class TestJudgement:
    @pytest.mark.parametrize(
        "results, text",
        [
            (GOOD, None),
            ({"a": {"result": None, "comment": "would"}}, None),
            (["Rendering failed"], "Rendering failed"),
            ("Minion is down", "Minion is down"),
            ({"a": {"result": False, "comment": "no"}}, "no"),
            ({}, None),
            ([], "the apply returned nothing"),
        ],
    )
    def test_an_apply_is_good_or_says_why_not(self, results, text):
        assert _mta_rollout.failures(results) == text

    def test_the_cause_is_told_and_not_what_followed_from_it(self):
        assert _mta_rollout.failures(UNDONE).startswith("The server did not answer as it should")
        assert "requisite" not in _mta_rollout.failures(UNDONE)

    @pytest.mark.parametrize(
        "change, word",
        [
            ({}, None),
            ({"answers": False, "problems": ["STARTTLS: 454"]}, "STARTTLS: 454"),
            ({"answers": None, "problems": [], "errors": {"conversation": "no config"}}, "no config"),
            ({"auth": False}, "AUTH"),
            ({"auth": None}, None),
            ({"queue": {"total": 13}}, None),
            ({"queue": {"total": 14}}, "14 messages"),
            ({"queue": None}, None),
            ({"drift": ["/etc/postfix/main.cf"]}, "main.cf"),
            ({"drift": None}, None),
            ({"conditions": ["known"]}, None),
            ({"conditions": ["known", "queue"]}, "queue"),
            ({"conditions": ["dns"], "dns": ["a.example A, missing: it should be 192.0.2.1"]}, None),
        ],
    )
    def test_a_server_is_healthy_or_says_why_not(self, change, word):
        found = _mta_rollout.faults({**Server().report(), **change}, 13, ["known"])
        assert (word is None and found == []) or (len(found) == 1 and word in found[0])

    @pytest.mark.parametrize(
        "value", [[1], {1: 2, "a": 3, None: 4}, "x", 7, float("inf"), float("nan"), None, b"x"]
    )
    def test_whatever_a_minion_says_is_judged(self, value):
        _mta_rollout.faults(dict.fromkeys([*Server().report(), "errors"], value), 13)
        _mta_rollout.faults(
            {**Server().report(), "queue": {"total": value}, "problems": value, "errors": value}, 13
        )

    def test_no_answer_is_not_healthy(self):
        assert _mta_rollout.faults(None, 13) == ["no answer"]
        assert _mta_rollout.faults("is not available", 13) == ["is not available"]


class TestCourse:
    def test_all_goes_well(self, run, fleet):
        outcome = run()
        assert fleet.applied == [["mail1"], ["mail2", "mail3"], ["mail4", "mail5"], ["mail6"]]
        assert outcome["result"] is True
        assert outcome["status"] == "finished"
        assert set(states(outcome).values()) == {"done"}

    def test_the_plan_alone_changes_nothing_and_leaves_nothing(self, run, fleet):
        outcome = run(test=True)
        assert fleet.applied == []
        assert outcome["batches"] == [["mail1"], ["mail2", "mail3"], ["mail4", "mail5"], ["mail6"]]
        lines = outcome["report"].splitlines()
        assert lines[:2] == ["6 of 6 minions would be applied to, batch by batch:", "  1 (canaries): mail1"]
        assert lines[-1].startswith("The plan is the order; what an apply changes on a minion says state.apply ")
        assert lines[-1].endswith(" postfix_mta test=True.")
        with pytest.raises(CommandExecutionError, match="no rollout"):
            run("show")

    def test_one_minion_is_not_told_as_several(self, run, fleet):
        fleet.servers = {"mail6": fleet["mail6"]}
        assert run(test=True)["report"].startswith("1 of 1 minion would be applied to, batch by batch:\n")
        assert run()["report"].startswith("The rollout of postfix_mta to 1 minion ")

    def test_a_canary_that_undoes_the_change_ends_it(self, run, fleet):
        fleet["mail1"].outcome = UNDONE
        outcome = run()
        assert fleet.applied == [["mail1"]]
        assert (outcome["result"], outcome["status"]) == (False, "stopped")
        assert states(outcome) == {"mail1": "failed", **dict.fromkeys(SIX[1:], "pending")}
        assert "127.0.0.1:25 RCPT: 451" in outcome["report"]
        assert "(1 failed, 5 pending)" in outcome["report"]
        assert outcome["report"].splitlines()[-1] == (
            "Mend the cause (in pillar, where a setting is wrong), then action=resume; action=forget drops this"
            " rollout and leaves the servers as they are, so that another one can start."
        )
        back = run("roll_back")["report"]
        assert "It had changed nothing, so there was nothing to roll back." in back
        assert run("roll_back", test=True)["report"] == "Nothing is left to be rolled back."

    def test_a_server_that_is_not_healthy_afterwards_ends_it(self, run, fleet):
        fleet["mail3"].breaks = True
        outcome = run()
        assert fleet.applied == [["mail1"], ["mail2", "mail3"]]
        assert outcome["minions"]["mail3"]["why"].startswith(
            "not healthy after 20 s: the live conversation failed"
        )
        assert states(outcome)["mail2"] == "done"

    def test_a_queue_has_time_to_drain(self, run, fleet):
        fleet.at_apply = lambda minion: setattr(fleet[minion], "queue", 33)
        assert run()["result"] is True

    def test_a_queue_that_does_not_drain_in_time_ends_it(self, run, fleet):
        fleet.at_apply = lambda minion: setattr(fleet[minion], "queue", 3000)
        outcome = run()
        assert fleet.applied == [["mail1"]]
        assert "messages are in the queue, and 13 are normal" in outcome["report"]

    def test_what_the_beacon_reports_newly_ends_it(self, run, fleet):
        fleet["mail2"].conditions = ["old"]
        fleet.at_apply = lambda minion: fleet["mail4"].conditions.append("queue") if minion == "mail4" else None
        outcome = run()
        assert states(outcome)["mail2"] == "done"
        assert "the beacon reports queue" in outcome["minions"]["mail4"]["why"]

    def test_canaries_have_to_be_healthy_after_a_while_still(self, run, fleet):
        def fail(seconds):
            fleet.now += seconds
            if seconds == 30:
                fleet["mail1"].answers = False

        fleet.sleep = fail
        time.sleep = fail
        outcome = run(settle=30)
        assert fleet.applied == [["mail1"]]
        assert "after it had been healthy" in outcome["report"]

    def test_a_server_that_fails_elsewhere_uses_the_share_up(self, run, fleet):
        fleet.at_apply = lambda minion: minion == "mail1" and setattr(fleet["mail6"], "answers", False)
        outcome = run(share=1)
        assert fleet.applied == [["mail1"], ["mail6"]]
        assert outcome["status"] == "stopped"
        fleet["mail6"].answers = True
        assert run("resume")["status"] == "finished"

    def test_with_too_many_down_nothing_begins(self, run, fleet):
        for name in ("mail5", "mail6"):
            fleet[name].silent = True
        outcome = run()
        assert fleet.applied == []
        used_up = (
            "mail5, mail6 are down, and the share (2) allows 2 at once; bring them back, or give a larger share"
        )
        assert f"Why: no server can be changed now: {used_up} (share=3)\n" in outcome["report"]
        plan = run(test=True)
        assert (plan["result"], plan["batches"]) == (False, [])
        assert plan["report"] == f"None of 6 minions can be changed now: {used_up} (share=3)"
        assert run(test=True, share=3)["result"] is True

    def test_what_a_part_of_two_servers_comes_to_is_told(self, run, fleet):
        fleet.servers = {name: fleet[name] for name in SIX[:2]}
        fleet["mail2"].silent = True
        assert run(test=True, share="25%")["report"] == (
            "None of 2 minions can be changed now: mail2 is down, and the share (25%) allows 1 at once;"
            " bring it back, or give a larger share (share=2)"
        )
        fleet["mail1"].silent = True
        assert run(test=True)["report"] == "None of 2 minions can be changed now: no answer from mail1, mail2"

    def test_the_plan_says_of_some_that_they_cannot_be_changed_now_and_why(self, run, fleet):
        """One that answers its master and nobody else can be changed, and nobody beside it."""
        fleet["mail6"].answers = False
        fleet.servers = {name: fleet[name] for name in SIX[4:]}
        report = run(test=True, share=1, canaries=0)["report"]
        assert report.startswith("1 of 2 minions would be applied to, batch by batch:\n  1: mail6\n")
        assert "\nmail5 cannot be changed now: mail6 is down, and the share (1) allows 1 at once; bring" in report

    def test_a_share_of_a_role_is_used_up_by_those_of_that_role(self, run, fleet):
        fleet["mail1"].answers = fleet["mail6"].answers = False
        report = run(test=True, share=1, role="place", canaries=0)["report"]
        assert report.startswith("2 of 6 minions would be applied to, batch by batch:\n  1: mail1, mail6\n")
        assert (
            "\nmail2, mail3, mail4, mail5 cannot be changed now: mail1, mail6 are down, and the share (1) "
            in report
        )
        assert "allows 1 at once of a role; bring them back, or give a larger share (share=2)\n" in report

    def test_a_minion_that_is_unreachable_comes_last_and_stops_it(self, run, fleet):
        fleet["mail2"].silent = True
        outcome = run()
        assert sorted(name for batch in fleet.applied for name in batch) == ["mail1", *SIX[2:]]
        assert max(map(len, fleet.applied)) == 1
        assert "no answer from mail2" in outcome["report"]
        fleet["mail2"].silent = False
        assert run("resume")["result"] is True
        assert fleet.applied[-1] == ["mail2"]

    def test_a_minion_that_goes_away_during_the_apply(self, run, fleet):
        fleet.at_apply = lambda minion: minion == "mail1" and setattr(fleet["mail1"], "silent", True)
        outcome = run()
        assert "may still be under way" in outcome["minions"]["mail1"]["why"]
        fleet.at_apply = lambda minion: None
        fleet["mail1"].silent = False
        assert run("resume")["status"] == "finished"

    @pytest.mark.parametrize("value", [{1: 2, "a": 3}, float("inf"), [None], b"x"])
    def test_a_minion_that_lies_ends_no_rollout_but_by_its_own_failure(self, run, fleet, value):
        fleet["mail2"].report = lambda: dict.fromkeys([*Server().report(), "errors"], value)
        outcome = run()
        assert outcome["minions"]["mail1"]["state"] == "done"
        assert "not healthy" in outcome["minions"]["mail2"]["why"]
        assert json.loads(json.dumps(outcome)) == outcome

    def test_what_a_stopped_resume_did_not_see_the_end_of_is_rolled_back(self, run, fleet):
        """The apply came to its end; the master never knew, and its resume came no further than asking."""
        fleet.at_apply = lambda minion: minion == "mail1" and setattr(fleet["mail1"], "silent", True)
        run()
        for name in SIX:
            fleet[name].silent = True
        assert run("resume")["status"] == "stopped"
        for name in SIX:
            fleet[name].silent = False
        fleet.at_apply = lambda minion: None
        fleet["mail1"].silent = False
        assert "1 of 6 minions would be rolled back" in run("roll_back", test=True)["report"]
        assert run("roll_back")["status"] == "rolled back"
        assert fleet.restored == ["mail1"]

    def test_a_server_that_was_not_heard_after_its_apply_is_looked_at_before_it_is_rolled_back(self, run, fleet):
        reports = fleet.answer

        def deaf(name, function, kwargs):
            if function == "mta_status.report" and name == "mail1" and fleet.applied and not fleet.restored:
                fleet["mail1"].silent = True
            return reports(name, function, kwargs)

        fleet.answer = deaf
        assert run()["minions"]["mail1"]["state"] == "applying"
        fleet.answer = reports
        fleet["mail1"].silent = False
        run("roll_back")
        assert fleet.restored == ["mail1"]

    def test_a_minion_without_the_formula_is_a_new_server(self, run, fleet):
        fleet["mail4"].new = True
        assert run()["result"] is True

    def test_roles_come_from_a_grain(self, run, fleet):
        run(role="place", share=1)
        assert fleet.applied[0] == ["mail1", "mail3"]


class TestLater:
    def test_it_is_resumed_where_it_stopped(self, run, fleet):
        fleet["mail3"].outcome = UNDONE
        run()
        fleet["mail3"].outcome = GOOD
        fleet.applied.clear()
        outcome = run("resume")
        assert fleet.applied == [["mail3", "mail4"], ["mail5", "mail6"]]
        assert outcome["status"] == "finished"

    def test_after_the_master_was_stopped_in_a_batch_it_is_resumed(self, run, fleet):
        def stop(minion):
            if minion == "mail3":
                raise KeyboardInterrupt

        fleet.at_apply = stop
        with pytest.raises(KeyboardInterrupt):
            run()
        assert states(run("show")) == {
            **{"mail1": "done", "mail2": "applying", "mail3": "applying"},
            **dict.fromkeys(SIX[3:], "pending"),
        }
        fleet.at_apply = lambda minion: None
        assert run("resume")["status"] == "finished"

    def test_what_it_did_is_rolled_back_in_the_opposite_order(self, run, fleet):
        fleet["mail4"].outcome = UNDONE
        assert "; action=roll_back restores what was changed; " in run()["report"]
        outcome = run("roll_back")
        assert fleet.restored == ["mail5", "mail3", "mail2", "mail1"]
        assert outcome["status"] == "rolled back"
        assert states(outcome) == {
            **dict.fromkeys(["mail1", "mail2", "mail3", "mail5"], "rolled back"),
            "mail4": "failed",
            "mail6": "pending",
        }
        assert "Take the change out of pillar" in outcome["report"]

    def test_after_the_master_was_stopped_in_a_batch_that_is_rolled_back_too(self, run, fleet):
        def stop(minion):
            if minion == "mail3":
                raise KeyboardInterrupt

        fleet.at_apply = stop
        with pytest.raises(KeyboardInterrupt):
            run()
        assert run("roll_back")["status"] == "rolled back"
        assert fleet.restored == ["mail2", "mail1"]

    def test_what_changed_nothing_is_not_rolled_back(self, run, fleet):
        fleet["mail2"].outcome = {"a": {"result": True, "comment": "", "changes": {}}}
        run()
        run("roll_back")
        assert "mail2" not in fleet.restored

    def test_what_somebody_changed_since_is_left(self, run, fleet):
        run()
        fleet["mail5"].commit += 1
        outcome = run("roll_back")
        assert outcome["status"] == "stopped"
        assert fleet.restored == ["mail6"]
        assert "changed something since" in outcome["minions"]["mail5"]["why"]
        assert "Mend the cause, then action=roll_back again; action=forget " in outcome["report"]

    def test_the_plan_of_rolling_back(self, run, fleet):
        fleet["mail3"].outcome = UNDONE
        run()
        outcome = run("roll_back", test=True)
        assert outcome["batches"] == [["mail2", "mail1"]]
        assert fleet.restored == []

    def test_an_unfinished_one_has_to_be_ended_before_another_starts(self, run, fleet):
        fleet["mail1"].outcome = UNDONE
        run()
        with pytest.raises(SaltInvocationError, match="resume it, roll it back, or forget it"):
            run()
        run("forget")
        fleet["mail1"].outcome = GOOD
        assert run()["result"] is True
        assert run()["result"] is True

    def test_two_do_not_run_at_once(self, run, fleet):
        failed = []

        def again(minion):
            with pytest.raises(CommandExecutionError, match="under way") as caught:
                run("resume")
            failed.append(str(caught.value))

        fleet.at_apply = again
        assert run()["result"] is True
        assert len(failed) == 6

    def test_it_is_remembered_for_its_master_alone(self, run, tmp_path):
        run()
        (file,) = tmp_path.glob("postfix_mta/rollout/default.json")
        assert file.stat().st_mode & 0o777 == 0o600
        assert json.loads(file.read_text())["status"] == "finished"

    @pytest.mark.parametrize(
        "wanted, word", [({"tgt": None}, "tgt"), ({"settle": -1}, "settle"), ({"patience": "x"}, "patience")]
    )
    def test_bad_arguments(self, run, wanted, word):
        with pytest.raises(SaltInvocationError, match=word):
            run(**wanted)

    def test_bad_actions_and_names(self, run):
        with pytest.raises(SaltInvocationError, match="action must be one of"):
            run("begin")
        with pytest.raises(SaltInvocationError, match="name must be"):
            run("show", name="../../etc/passwd")


class TestRunner:
    """What salt-run and an orchestration see; see salt.cli.run for the exit code."""

    @pytest.fixture
    def rollout(self, runners, fleet, monkeypatch):
        monkeypatch.setitem(runners["postfix_mta.rollout"].func.__globals__, "_ask", fleet.ask)
        return runners["postfix_mta.rollout"]

    @pytest.mark.parametrize(("outcome", "code"), [(GOOD, 0), (UNDONE, 1)])
    def test_salt_run_exits_with_1_when_the_rollout_stopped(self, rollout, fleet, context, outcome, code):
        fleet["mail1"].outcome = outcome
        done = rollout("mail*", settle=0)
        assert done["result"] is (code == 0)
        assert done["retcode"] == code
        assert context.get("retcode", 0) == code

    def test_to_show_a_rollout_that_stopped_is_no_failure(self, rollout, fleet, context):
        fleet["mail1"].outcome = UNDONE
        rollout("mail*", settle=0)
        del context["retcode"]
        shown = rollout(action="show")
        assert (shown["result"], shown["retcode"]) == (False, 0)
        assert "retcode" not in context
        assert rollout(action="forget")["retcode"] == 0

    def test_what_cannot_be_done_is_a_reason_and_no_traceback(self, rollout, context):
        shown = rollout(action="resume")
        assert (shown["result"], shown["report"]) == (False, 'There is no rollout "default"')
        assert (shown["retcode"], context["retcode"]) == (1, 1)
        assert rollout(action="show")["retcode"] == 1

    def test_an_action_that_does_not_fit_is_a_reason_and_not_the_usage(self, rollout, fleet):
        fleet["mail1"].outcome = UNDONE
        rollout("mail*", settle=0)
        again, nobody = rollout("mail*", settle=0), rollout(name="new")
        assert (again["status"], again["retcode"], nobody["retcode"]) == ("refused", 1, 1)
        assert again["report"].startswith(
            'The rollout "default" stopped (1 failed, 5 pending): resume it, roll it'
        )
        assert nobody["report"] == "tgt: say which minions"
        assert rollout("mail*", name="../x")["report"].startswith("name must be")

    def test_a_forgotten_rollout_is_not_to_be_gone_on_with(self, rollout, fleet):
        fleet["mail1"].outcome = UNDONE
        rollout("mail*", settle=0)
        report = rollout(action="forget")["report"]
        assert report == 'The rollout "default" has been forgotten; the servers stay as they are.'

    @pytest.mark.parametrize(
        "plan, function",
        [
            ({"result": True, "report": "6 of 6"}, "configurable_test_state"),
            ({"result": False, "report": "None of 6"}, "fail_without_changes"),
            ("Exception occurred", "fail_without_changes"),
        ],
    )
    def test_an_orchestration_succeeds_with_a_plan_that_is_possible(self, plan, function):
        environment = jinja2.Environment(autoescape=False)
        environment.filters["json"] = json.dumps
        functions = {"pillar.get": lambda *_: {"tgt": "mail*"}, "saltutil.runner": lambda *_, **__: plan}
        text = environment.from_string(ORCHESTRATION.read_text()).render(salt=functions, opts={"test": True})
        assert f"test.{function}:" in text
        assert json.dumps(plan if isinstance(plan, str) else plan["report"]) in text

    def test_what_only_the_rollout_itself_needs_is_no_runner(self, runners):
        own = sorted(name for name in runners if name.startswith(("postfix_mta.", "mta_", "_mta_")))
        assert own == ["postfix_mta.rollout", "postfix_mta.status", "postfix_mta.zone"]
