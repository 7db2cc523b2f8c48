"""The script that undoes a transaction without Salt: when it does so, and how daemons come back."""

import fcntl
import os
import pathlib
import shutil
import subprocess

import pytest
from salt.exceptions import CommandExecutionError

import _mta_recovery
import _mta_system
from _mta_run import Run

SHELLS = [["dash"], *([["busybox", "sh"]] if shutil.which("busybox") else [])]


@pytest.fixture
def units(tmp_path, monkeypatch):
    """A host with systemd: the directory of its units."""
    folder = tmp_path / "units"
    folder.mkdir()
    (tmp_path / "booted").mkdir()
    monkeypatch.setattr(_mta_recovery, "UNIT_DIR", str(folder))
    monkeypatch.setattr(_mta_recovery, "SYSTEMD_RUNS", str(tmp_path / "booted"))
    return folder


@pytest.fixture
def commands(monkeypatch):
    """The commands that were run through the interface to the host."""
    found = []
    monkeypatch.setattr(_mta_system.host, "run", lambda command, check=True: found.append(command))
    return found


@pytest.fixture(params=SHELLS, ids=" ".join)
def script(request, tmp_path, units):
    """A function that begins the script, with a systemctl that notes how it is called and says what is enabled."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "systemctl").write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\n')
    (programs / "systemctl").chmod(0o755)
    text = _mta_recovery.script(tmp_path / "state", units, tmp_path / "booted")
    (tmp_path / "recover.sh").write_text(text)

    def run(way):
        env = {"PATH": f"{programs}:{os.environ['PATH']}"}
        argv = [*request.param, str(tmp_path / "recover.sh"), way]
        return subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    return run


def called(tmp_path):
    path = tmp_path / "calls"
    return path.read_text().splitlines() if path.exists() else []


def test_it_waits_as_long_as_the_apply_lives_and_undoes_what_one_that_died_has_left(
    transaction, minion, main_cf, script, commands, tmp_path
):
    transaction("write", str(main_cf), "new\n")
    job = script("watch")
    with pytest.raises(subprocess.TimeoutExpired):
        job.wait(1)
    assert main_cf.read_text() == "new\n"
    assert called(tmp_path) == []
    Run.of(minion).transaction.close()
    assert (job.communicate()[0], job.returncode) == ("postfix_mta: undoing an apply that has not ended\n", 0)
    assert main_cf.read_text() == "myhostname = old\n"
    assert "restart postfix" in called(tmp_path)


@pytest.mark.parametrize("good", [True, False])
def test_it_touches_nothing_after_an_apply_that_has_ended(
    transaction, server, main_cf, script, commands, tmp_path, good
):
    transaction("write", str(main_cf), "new\n")
    job = script("watch")
    with pytest.raises(subprocess.TimeoutExpired):
        job.wait(0.5)
    server.broken = not good
    assert transaction("commit")["result"] is good
    # Another one is under way by then.
    transaction("write", str(main_cf), "newer\n")
    assert job.wait(20) == 0
    assert main_cf.read_text() == "newer\n"
    assert called(tmp_path) == []
    transaction("undo", "no reason")


def test_by_hand_it_does_nothing_while_an_apply_is_under_way(transaction, main_cf, script, commands):
    transaction("write", str(main_cf), "new\n")
    job = script("hand")
    assert "an apply is under way" in job.communicate()[0]
    assert job.returncode == 1
    assert main_cf.read_text() == "new\n"
    transaction("undo", "no reason")


@pytest.mark.parametrize("way", ["boot", "watch"])
def test_daemons_and_units_come_back(transaction, minion, script, commands, units, tmp_path, way):
    """systemctl says of each service here that it is enabled."""
    transaction("write", str(units / "saslauthd.service"), "[Unit]\n")
    Run.of(minion).transaction.close()
    (tmp_path / "state/journal/services").write_text("saslauthd no no\npostfix yes yes\n")
    job = script(way)
    job.communicate()
    calls = called(tmp_path)
    assert calls[0] == "daemon-reload"
    assert "disable saslauthd" in calls
    if way == "boot":
        # It would have started at this boot, for the apply had enabled it.
        assert "--no-block stop saslauthd" in calls
        assert not [call for call in calls if call.startswith("restart")]
    else:
        assert "restart postfix" in calls
        assert "stop saslauthd" in calls
    assert not (units / "saslauthd.service").exists()


def test_it_is_armed_with_the_transaction_and_goes_with_it(transaction, main_cf, units, commands, tmp_path):
    transaction("write", str(main_cf), "new\n")
    unit = units / _mta_recovery.BOOT_UNIT
    assert (units / "multi-user.target.wants" / unit.name).resolve() == unit
    assert (tmp_path / "state/recover.sh").exists()
    (command,) = commands
    assert command[0] == "systemd-run" and command[-2:] == [str(tmp_path / "state/recover.sh"), "watch"]
    transaction("undo", "no reason")
    assert sorted(os.listdir(units)) == ["multi-user.target.wants"]
    assert os.listdir(units / "multi-user.target.wants") == []
    assert not (tmp_path / "state/recover.sh").exists()


def test_an_apply_works_where_nothing_can_watch_it(transaction, main_cf, units, monkeypatch):
    def fail(command, check=True):
        raise CommandExecutionError("there is no systemd-run")

    monkeypatch.setattr(_mta_system.host, "run", fail)
    transaction("write", str(main_cf), "new\n")
    assert transaction("commit")["result"]
    assert main_cf.read_text() == "new\n"


def test_without_systemd_there_is_the_script_alone(transaction, main_cf, commands, tmp_path, monkeypatch):
    monkeypatch.setattr(_mta_recovery, "SYSTEMD_RUNS", str(tmp_path / "none"))
    monkeypatch.setattr(_mta_recovery, "UNIT_DIR", str(tmp_path / "nowhere"))
    transaction("write", str(main_cf), "new\n")
    assert commands == []
    assert (tmp_path / "state/recover.sh").exists()
    transaction("undo", "no reason")


@pytest.fixture
def edited(main_cf):
    """main.cf is locked, as postconf(1) does it while it edits; gives the function that unlocks it."""
    with open(f"{main_cf}.tmp", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        def end():
            # Then it has a new main.cf, and the lock is gone with its file.
            os.rename(lock.name, main_cf)
            lock.close()

        yield end


def test_it_waits_for_a_postconf_that_edits(transaction, minion, main_cf, script, commands, tmp_path, edited):
    transaction("write", str(main_cf), "new\n")
    Run.of(minion).transaction.close()
    job = script("hand")
    with pytest.raises(subprocess.TimeoutExpired):
        job.wait(1.5)
    assert main_cf.read_text() == "new\n"
    pathlib.Path(f"{main_cf}.tmp").write_text("by postconf\n")
    edited()
    said = job.communicate()[0]
    assert main_cf.read_text() == "myhostname = old\n"
    (kept,) = tmp_path.glob("main.cf.edited-meanwhile-*")
    assert (kept.read_text(), str(kept) in said) == ("by postconf\n", True)
    assert not os.path.exists(f"{main_cf}.tmp")


def test_it_does_not_wait_for_ever(transaction, minion, main_cf, script, commands, edited):
    transaction("write", str(main_cf), "new\n")
    Run.of(minion).transaction.close()
    assert script("hand").wait(30) == 0
    assert main_cf.read_text() == "myhostname = old\n"
    assert os.path.exists(f"{main_cf}.tmp")
