"""How an apply ended: what is recorded of it, and what the master is told."""

import pytest

import _mta_apply
import _mta_last_apply
import _mta_minion


def state(sls, result=True, changes=None, duration=10.0):
    return {"__sls__": sls, "result": result, "changes": changes or {}, "duration": duration, "comment": "geheim"}


@pytest.fixture
def sent(pretend):
    events = []
    pretend("event.send", lambda tag, data: events.append((tag, data)))
    return events


@pytest.fixture
def files(tmp_path):
    """main.cf and master.cf below ``tmp_path``."""
    for name in ("main.cf", "master.cf"):
        (tmp_path / name).write_text(name)
    return tmp_path


FOLLOWS = "One or more requisite failed: postfix_mta.commit.postfix_mta_commit"
GOOD = {"postconf_|-a_|-/etc/postfix_|-managed": state("postfix_mta.config")}


def test_an_apply_that_changed_nothing_is_recorded_and_not_sent(minion, sent, files):
    _mta_last_apply.ended(minion, GOOD, config_directory=str(files), revision="0123456789ab")
    last = _mta_last_apply.last(minion)
    assert (last["result"], last["changed"], last["failed"], last["duration"]) == (True, [], [], 0.01)
    assert last["revision"] == "0123456789ab"
    assert sent == []


@pytest.mark.parametrize("bus", ["none", "left", "there"])
@pytest.mark.parametrize("client", ["local", "remote"])
def test_a_masterless_apply_waits_for_no_bus_that_is_not_there(
    minion, sent, files, tmp_path, client, bus, listening
):
    path = tmp_path / "minion_event_0123456789_pull.ipc"
    if bus == "left":
        # By a minion that was killed.
        path.touch()
    elif bus == "there":
        listening(path)
    opts = {**minion.opts, "file_client": client, "ipc_mode": "ipc", "sock_dir": str(tmp_path)}
    changed = {"postconf_|-a_|-/etc/postfix_|-managed": state("postfix_mta.config", changes={"x": 1})}
    _mta_last_apply.ended(minion._replace(opts=opts), changed, config_directory=str(files))
    assert len(sent) == (client == "remote" or bus == "there")


def test_changed_parts_are_sent_and_nothing_that_states_say(minion, sent, files):
    results = {
        **GOOD,
        "mta_cert_|-b_|-x_|-managed": state("postfix_mta.certificate", changes={"x": {"new": "geheim"}}),
        "file_|-c_|-x_|-managed": state("other.sls", result=False, changes={"x": 1}),
        "test_|-d_|-x_|-nop": state("postfix_mta", changes={"x": 1}),
    }
    _mta_last_apply.ended(minion, results, config_directory=str(files))
    data = {"result": True, "changed": ["certificate", "init"], "failed": [], "duration": 0.03}
    assert sent == [("postfix_mta/applied", data)]


def test_a_failure_is_sent_and_is_not_what_the_configuration_is_compared_with(minion, sent, files):
    _mta_last_apply.ended(minion, GOOD, config_directory=str(files))
    (files / "main.cf").write_text("by hand")
    bad = {"postconf_|-a_|-/etc/postfix_|-managed": state("postfix_mta.config", result=False)}
    _mta_last_apply.ended(minion, bad, config_directory=str(files))
    assert [data["failed"] for _, data in sent] == [["config"]]
    assert _mta_last_apply.differing(minion) == [str(files / "main.cf")]


def test_what_failed_by_itself_is_told_with_why_and_what_only_followed_is_not(minion, sent, files):
    undone = "\nThe server did not answer as it should:\n  127.0.0.1:25 RCPT: 451\nUndone: /etc/postfix/main.cf."
    results = {
        "mta_transaction_|-a_|-x_|-committed": {**state("postfix_mta.commit", False), "comment": undone},
        "mta_package_|-b_|-x_|-installed": {**state("postfix_mta.package", False), "comment": "no room\nmore"},
        "beacon_|-c_|-x_|-present": {**state("postfix_mta.watch", False), "comment": FOLLOWS},
    }
    _mta_last_apply.ended(minion, results, config_directory=str(files))
    last = _mta_last_apply.last(minion)
    assert last["failed"] == ["commit", "package"]
    assert last["reasons"] == {
        "commit": "The server did not answer as it should: 127.0.0.1:25 RCPT: 451",
        "package": "no room",
    }
    assert "reasons" not in sent[0][1]


def test_where_nothing_failed_by_itself_what_did_not_run_is_told(minion, sent, files):
    results = {"beacon_|-c_|-x_|-present": {**state("postfix_mta.watch", False), "comment": FOLLOWS}}
    _mta_last_apply.ended(minion, results, config_directory=str(files))
    assert _mta_last_apply.last(minion)["failed"] == ["watch"]


def test_a_part_without_the_configuration_does_not_accept_it(minion, sent, files):
    _mta_last_apply.ended(minion, GOOD, config_directory=str(files))
    (files / "main.cf").write_text("by hand")
    aliases = {"mta_aliases_|-a_|-/etc/aliases_|-managed": state("postfix_mta.aliases")}
    _mta_last_apply.ended(minion, aliases, config_directory=str(files))
    assert _mta_last_apply.differing(minion) == [str(files / "main.cf")]
    _mta_last_apply.ended(minion, GOOD, config_directory=str(files))
    assert _mta_last_apply.differing(minion) == []


def test_a_file_that_is_gone_differs(minion, sent, files):
    _mta_last_apply.ended(minion, GOOD, config_directory=str(files))
    (files / "master.cf").unlink()
    assert _mta_last_apply.differing(minion) == [str(files / "master.cf")]


def test_what_was_taken_back_is_forgotten(minion, sent, files):
    _mta_last_apply.ended(minion, GOOD, config_directory=str(files))
    _mta_last_apply.forget(minion)
    assert _mta_last_apply.last(minion) == {}
    assert _mta_last_apply.differing(minion) == []


def test_parameters_that_somebody_else_has_changed_are_named(minion, sent, files):
    main = files / "main.cf"
    main.write_text("myhostname = a.example\nsmtpd_banner = x\nbiff = no\n")
    _mta_last_apply.wrote(minion, [str(main), str(files / "master.cf")])
    assert _mta_last_apply.drifted(minion) == []
    main.write_text("myhostname = a.example\nsmtpd_banner = y\nrelayhost = z\n")
    # An apply that writes no main.cf does not make it its own.
    _mta_last_apply.ended(minion, GOOD, config_directory=str(files))
    assert _mta_last_apply.drifted(minion) == ["biff", "relayhost", "smtpd_banner"]


def test_a_disk_that_cannot_be_written_is_no_error(minion, sent, files, tmp_path):
    (tmp_path / "state").write_text("not a directory")
    changed = {"test_|-d_|-x_|-nop": state("postfix_mta", changes={"x": 1})}
    _mta_last_apply.ended(minion, changed, config_directory=str(files))
    assert len(sent) == 1


def test_a_run_of_states_ends_with_it_and_a_dry_run_leaves_no_trace(opts, sent, tmp_path, monkeypatch):
    import salt.state

    high = {
        "early": {"mta_apply": [{"name": str(tmp_path)}, {"order": "last"}, "ended"], "__sls__": "postfix_mta"},
        "failing": {"test": ["fail_without_changes"], "__sls__": "postfix_mta.config"},
        "follows": {"test": [{"require": [{"test": "failing"}]}, "nop"], "__sls__": "postfix_mta.aliases"},
        "verified": {"test": [{"order": -2}, "succeed_with_changes"], "__sls__": "postfix_mta.verify"},
    }
    high = {name: {**body, "__env__": "base"} for name, body in high.items()}
    record = tmp_path / "state" / "applied.json"
    for test in (True, False):
        running = salt.state.State({**opts, "test": test})
        results = running.call_high({name: dict(body) for name, body in high.items()})
        assert results[f"mta_apply_|-early_|-{tmp_path}_|-ended"]["changes"] == {}
        assert record.exists() is not test
    last = running.functions["mta_apply.last"]()
    assert (last["failed"], last["reasons"]) == (["config"], {"config": "Failure!"})
    assert last["changed"] == ["verify"]


def test_only_a_whole_apply_that_succeeded_brings_a_host_to_its_pillar(minion, sent, files):
    def ended(*parts, result=True):
        results = {f"test_|-{part}_|-x_|-nop": state(f"postfix_mta.{part}", result) for part in parts}
        _mta_last_apply.ended(minion, results, config_directory=str(files))
        return [_mta_last_apply.has_pillar(minion, {"postfix_mta": {"root_recipient": who}}) for who in names]

    names = ("alice", "bob")
    minion.pillar["postfix_mta"] = {"root_recipient": "alice"}
    assert ended("config") == [False, False]
    assert ended("config", "aliases", "firewall", "verify") == [True, False]
    minion.pillar["postfix_mta"] = {"root_recipient": "bob"}
    assert ended("aliases") == [True, False]
    assert ended("config", "aliases", "firewall", result=False) == [False, False]
    assert "pillar" not in _mta_last_apply.last(minion), "who sees it could try passwords"


def test_what_follows_an_apply_is_in_its_environments(minion, sent, files):
    assert minion.saltenv == "base"
    minion.opts["pillarenv"] = "p1"
    _mta_last_apply.ended(minion, GOOD, config_directory=str(files), saltenv="prod")
    assert minion.saltenv == "prod"
    assert _mta_last_apply.environment(minion) == {"saltenv": "prod", "pillarenv": "p1"}
    asked = []
    minion.functions["mta_settings.effective"] = lambda saltenv: asked.append(saltenv) or {}
    minion.settings()
    # The minion's own configuration, which says nothing of where the formula is.
    minion.opts["saltenv"] = "dev"
    minion.settings()
    minion.context[_mta_minion.SALTENV] = "base"
    minion.settings()
    assert asked == ["prod", "prod", "base"]
    del minion.opts["pillarenv"]
    assert _mta_last_apply.environment(minion) == {}


RELAYED = "delivery to postmaster@a.example"
SERVED = "192.0.2.1:25 as an untrusted client RCPT TO:<info@b.example>"


@pytest.mark.parametrize(
    ("before", "lost", "noted"), [([], 0, 1), ([RELAYED], 1, 0), ([SERVED], 1, 1), ([RELAYED, SERVED], 2, 0)]
)
def test_mail_of_other_domains_is_lost_only_where_it_went_its_way_before(before, lost, noted):
    reached = {RELAYED: "4.4.1 connect to a.example[192.0.2.1]:25: Connection refused", SERVED: "554 5.7.1 denied"}
    problems, notes = _mta_apply._lost(before, {**reached, "delivery to postmaster@c.example": ""})
    assert (len(problems), len(notes)) == (lost, noted)
    assert [text.partition(": ")[0] for text in problems] == [step for step in reached if step in before]
