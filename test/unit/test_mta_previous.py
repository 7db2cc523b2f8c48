"""What the last apply changed comes back, if nobody has touched it since."""

import functools
import os
import stat

import pytest

import _mta_apply
import _mta_restore
import _mta_run
import _mta_snapshots
import _mta_transaction


@pytest.fixture
def roll_back(minion, server):
    """Roll back; the result."""
    return functools.partial(_mta_apply.roll_back, minion)


@pytest.fixture
def changed(transaction, main_cf, tmp_path):
    """A commit: main.cf is another, new.cf and a directory are new, old.cf is gone. Returns the paths."""
    old = tmp_path / "old.cf"
    old.write_text("old\n")
    os.utime(main_cf, (10**9, 10**9))
    transaction("write", str(main_cf), "myhostname = new\n", mode="0644", activate={"postfix": "restart"})
    transaction("write", str(tmp_path / "new.cf"), "x")
    transaction("directory", str(tmp_path / "made"))
    transaction("remove", str(old))
    assert transaction("commit")["result"] is True
    return main_cf, tmp_path / "new.cf", old


def test_everything_comes_back_and_is_put_in_force(transaction, roll_back, server, changed):
    main_cf, new, old = changed
    server.actions.clear()
    outcome = roll_back()
    assert outcome["result"] is True, outcome["comment"]
    assert main_cf.read_text() == "myhostname = old\n"
    assert stat.S_IMODE(main_cf.stat().st_mode) == 0o640
    # A program of Postfix would wait for a younger one.
    assert main_cf.stat().st_mtime == 10**9
    assert not new.exists()
    assert old.read_text() == "old\n"
    assert ("restart", "postfix") in server.actions


def test_in_test_mode_nothing_is(transaction, roll_back, changed):
    outcome = roll_back(test=True)
    assert outcome["result"] is None
    assert set(map(str, changed)) <= set(outcome["changes"])
    assert changed[0].read_text() == "myhostname = new\n"


def test_taking_back_twice_is_where_it_began(transaction, roll_back, changed):
    assert roll_back()["result"] is True
    assert roll_back()["result"] is True
    assert changed[0].read_text() == "myhostname = new\n"
    assert changed[1].read_text() == "x"
    assert not changed[2].exists()


def test_a_membership_comes_back_too_and_goes_again(transaction, roll_back, tmp_path):
    database, made = tmp_path / "group", tmp_path / "made"
    database.write_text("sasl:\n")
    add, delete = (["sed", "-i", f"s/{edit}/", str(database)] for edit in (":.*/:postfix", ":postfix/:"))
    transaction("directory", str(made))
    transaction("command", "group", [add], [delete], [str(database), "^sasl:(postfix)$"])
    assert transaction("commit")["result"] is True
    assert roll_back(test=True)["changes"].keys() == {"group", "activation"}
    for expected in ("sasl:\n", "sasl:postfix\n", "sasl:\n"):
        outcome = roll_back()
        assert (outcome["result"], "group" in outcome["changes"]) == (True, True)
        assert database.read_text() == expected
    # What somebody else has done meanwhile stays.
    database.write_text("sasl:postfix\n")
    assert "changed since the apply: group" in roll_back()["comment"]


def test_a_daemon_that_did_not_run_before_is_stopped_and_starts_no_longer(
    transaction, roll_back, server, main_cf, pretend
):
    services = {name: {"installed": True, "enabled": False, "active": False} for name in _mta_transaction.SERVICES}
    services["postfix"].update(enabled=True, active=True)
    pretend("_mta_services.status", lambda names: {name: dict(services[name]) for name in names})
    activate = {"saslauthd": "restart", "postfix": "reload"}
    transaction("write", str(main_cf), "myhostname = new\n", activate=activate)
    assert transaction("commit")["result"] is True
    services["saslauthd"].update(enabled=True, active=True)
    server.actions.clear()
    assert roll_back()["result"] is True
    wanted = [("reload", "postfix"), ("stop", "saslauthd"), ("disable", "saslauthd")]
    assert list(dict.fromkeys(server.actions)) == wanted


def test_a_daemon_that_the_apply_has_stopped_runs_again(transaction, roll_back, server, main_cf):
    transaction("write", str(main_cf), "myhostname = new\n", activate={"saslauthd": "stop"})
    assert transaction("commit")["result"] is True
    server.actions.clear()
    assert roll_back()["result"] is True
    assert ("restart", "saslauthd") in server.actions


def test_what_was_changed_since_is_not_overwritten(transaction, roll_back, changed):
    changed[0].write_text("by hand\n")
    outcome = roll_back()
    assert outcome["result"] is False
    assert str(changed[0]) in outcome["comment"]
    assert changed[0].read_text() == "by hand\n"
    assert changed[1].exists()


def test_another_commit_than_the_one_that_is_meant_stays(transaction, roll_back, changed, minion):
    outcome = roll_back(commit=_mta_snapshots.last_commit(minion) - 1)
    assert outcome["result"] is False
    assert "since" in outcome["comment"]
    assert changed[0].read_text() == "myhostname = new\n"
    assert roll_back(commit={"mail.example.com": _mta_snapshots.last_commit(minion)})["result"] is True


def test_a_server_that_does_not_answer_afterwards_keeps_what_it_had(transaction, roll_back, server, changed):
    server.breaks = True
    assert roll_back()["result"] is False
    assert changed[0].read_text() == "myhostname = new\n"


def test_an_apply_that_is_undone_leaves_what_can_be_taken_back(transaction, roll_back, server, changed):
    server.breaks = True
    transaction("write", str(changed[0]), "broken\n")
    assert transaction("commit")["result"] is False
    server.broken = server.breaks = False
    assert roll_back()["result"] is True
    assert changed[0].read_text() == "myhostname = old\n"


def test_without_an_apply_there_is_nothing(roll_back, minion):
    assert _mta_snapshots.last_commit(minion) is None
    assert "nothing" in roll_back()["comment"]


def test_another_apply_meanwhile_is_not_taken_back_in_its_place(
    transaction, roll_back, changed, context, monkeypatch
):
    """It ends while this one waits for the lock."""
    lock = _mta_transaction._lock

    def wait(*args):
        monkeypatch.setattr(_mta_transaction, "_lock", lock)
        mine = context.pop(_mta_run.KEY)
        transaction("write", str(changed[0]), "myhostname = other\n")
        assert transaction("commit")["result"] is True
        context[_mta_run.KEY] = mine
        return lock(*args)

    monkeypatch.setattr(_mta_transaction, "_lock", wait)
    outcome = roll_back()
    assert (outcome["result"], outcome["changes"]) == (False, {})
    assert "another apply has changed something since" in outcome["comment"]
    assert changed[0].read_text() == "myhostname = other\n"
    assert transaction("pending") is None


def test_a_changed_mode_is_a_change_and_a_record_of_our_own_is_none(transaction, roll_back, changed, minion):
    record = minion.state.path("maps.json")
    transaction("write", record, "{}")
    transaction("write", str(changed[0]), "x", mode="0644")
    assert transaction("commit")["result"] is True
    minion.state.write("maps.json", {"more": 1})
    changed[0].chmod(0o600)
    assert str(changed[0]) in _mta_restore.roll_back_plan(minion).errors[0]
    assert record not in _mta_restore.roll_back_plan(minion).errors[0]
