"""A transaction: what is written comes back, whoever dies when."""

import errno
import multiprocessing.util
import os
import shutil
import stat
import time

import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_apply
import _mta_journal
import _mta_obstacles
import _mta_run
import _mta_system
import _mta_transaction
from _mta_plan import Participant, Plan


def forget_run(context):
    """As if the process had been killed: the lock is gone, the journal stays."""
    context[_mta_run.KEY].transaction.close()
    context.clear()


def test_a_commit_keeps_the_new_file_and_its_mode(transaction, main_cf):
    transaction("write", str(main_cf), "myhostname = new\n", activate={"postfix": "reload"})
    outcome = transaction("commit")
    assert outcome["result"] is True
    assert main_cf.read_text() == "myhostname = new\n"
    assert stat.S_IMODE(main_cf.stat().st_mode) == 0o640
    assert transaction("pending") is None


def test_a_failed_conversation_brings_every_file_back(transaction, server, main_cf, tmp_path):
    new = tmp_path / "new.cf"
    folder = tmp_path / "a" / "b"
    old_times = main_cf.stat().st_mtime_ns
    transaction("write", str(main_cf), "broken\n", activate={"postfix": "reload"})
    transaction("write", str(new), "x", mode="0600")
    transaction("write", str(tmp_path / "state" / "record.json"), "{}")
    transaction("directory", str(folder), mode="0750")
    server.broken = True
    outcome = transaction("commit")
    assert outcome["result"] is False
    assert "record.json" not in outcome["comment"]
    assert "451 4.3.0 broken" in outcome["comment"]
    assert main_cf.read_text() == "myhostname = old\n"
    assert main_cf.stat().st_mtime_ns == old_times
    assert not new.exists()
    assert not folder.exists()
    assert server.actions[-1] == ("restart", "postfix")


def test_the_first_version_is_the_one_that_comes_back(transaction, main_cf):
    transaction("write", str(main_cf), "first\n")
    transaction("write", str(main_cf), "second\n")
    transaction("undo", "no reason")
    assert main_cf.read_text() == "myhostname = old\n"


def test_a_removed_file_comes_back(transaction, main_cf):
    transaction("remove", str(main_cf))
    assert not main_cf.exists()
    transaction("undo", "no reason")
    assert main_cf.read_text() == "myhostname = old\n"


def test_a_killed_run_is_resolved_by_the_next(transaction, context, main_cf):
    transaction("write", str(main_cf), "half\n", activate={"postfix": "restart"})
    forget_run(context)
    assert transaction("pending") == [str(main_cf)]
    assert transaction("recover") == {"restored": [str(main_cf)], "failed": [], "notes": []}
    assert main_cf.read_text() == "myhostname = old\n"
    assert transaction("pending") is None


def test_files_that_were_switched_while_postfix_stood_go_back_while_it_stands(transaction, server, main_cf):
    assert transaction("halt") is True
    assert server.actions == [("stop", "postfix")]
    transaction("write", str(main_cf), "new\n")
    server.act("start")("postfix")
    transaction("undo", "no reason")
    assert [action for action, name in server.actions if name == "postfix"] == ["stop", "start", "stop", "start"]
    assert main_cf.read_text() == "myhostname = old\n"


def test_a_run_that_is_killed_while_postfix_stands_has_it_started_by_the_next(
    transaction, server, context, main_cf
):
    transaction("halt")
    transaction("write", str(main_cf), "new\n")
    forget_run(context)
    assert transaction("recover")["restored"] == [str(main_cf)]
    assert [action for action, name in server.actions if name == "postfix"] == ["stop", "start"]


def test_a_postfix_that_does_not_run_is_not_halted(transaction, server):
    server.active = False
    assert transaction("halt") is False
    assert server.actions == []


def test_a_recovery_that_is_killed_can_be_repeated(transaction, context, main_cf, monkeypatch, tmp_path):
    other = tmp_path / "other"
    transaction("write", str(main_cf), "half\n")
    transaction("write", str(other), "half\n")
    forget_run(context)
    replace = os.replace

    def die(*_):
        raise SystemExit

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(SystemExit):
        transaction("recover")
    monkeypatch.setattr(os, "replace", replace)
    assert set(transaction("recover")["restored"]) == {str(main_cf), str(other)}
    assert main_cf.read_text() == "myhostname = old\n"
    assert not other.exists()


def stuck(path):
    """Have a directory where a file was: no file can replace it."""
    path.unlink()
    path.mkdir()


def test_an_undo_says_what_it_could_not_undo_and_brings_the_daemons_back(transaction, server, main_cf, tmp_path):
    other = tmp_path / "other.cf"
    other.write_text("other\n")
    transaction("halt")
    transaction("write", str(other), "new\n", activate={"postfix": "restart"})
    transaction("write", str(main_cf), "new\n")
    stuck(main_cf)
    undone = transaction("undo", "no reason")
    (kept,) = (tmp_path / "state").glob("not-restored-*/*/content")
    assert kept.read_text() == "myhostname = old\n"
    assert (undone["restored"], undone["failed"]) == ([str(other)], [str(main_cf)])
    assert f"Undone: {other}.\n" in undone["comment"]
    assert f"NOT UNDONE: {main_cf} could not be restored" in undone["comment"]
    assert str(kept) in undone["comment"]
    assert f"in part only, without {main_cf}: no reason" in transaction("outlook")["undone"]
    assert other.read_text() == "other\n"
    assert server.actions[-1] == ("start", "postfix")


@pytest.mark.parametrize("function", ["mta_service.stop", "mta_journal.restore"])
def test_the_daemons_come_back_whatever_an_undo_meets(transaction, server, main_cf, pretend, function):
    transaction("halt")
    transaction("write", str(main_cf), "new\n")

    def fail(*_):
        raise RuntimeError("unforeseen")

    pretend(function, fail)
    transaction("undo", "no reason")
    assert server.actions[-1] == ("start", "postfix")
    assert transaction("pending") is None


@pytest.fixture
def journalctl(tmp_path, monkeypatch):
    """A function that makes a shell script the host's journalctl."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    isdir = os.path.isdir
    monkeypatch.setattr(os.path, "isdir", lambda path: path == "/run/systemd/system" or isdir(path))

    def install(text):
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "journalctl").write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / "journalctl").chmod(0o755)

    return install


class TestTheServersLog:
    def test_a_log_that_takes_long_is_not_waited_for(self, transaction, server, main_cf, journalctl):
        journalctl("echo 'warning: slow'; sleep 30")
        transaction("write", str(main_cf), "broken\n")
        server.broken = True
        began = time.monotonic()
        outcome = transaction("commit")
        assert time.monotonic() - began < 10
        assert outcome["result"] is False
        assert "warning: slow" in outcome["comment"]
        assert main_cf.read_text() == "myhostname = old\n"

    def test_the_undo_comes_before_it(self, transaction, server, main_cf, journalctl, tmp_path):
        journalctl(f"cat {main_cf} >{tmp_path}/seen; echo 'warning: {main_cf} is bad'")
        transaction("write", str(main_cf), "broken\n")
        server.broken = True
        assert f"warning: {main_cf} is bad" in transaction("commit")["comment"]
        assert (tmp_path / "seen").read_text() == "myhostname = old\n"

    def test_without_it_a_bad_change_is_undone_too(self, transaction, server, main_cf, journalctl):
        journalctl("exit 1")
        os.environ["PATH"] = os.environ["PATH"].partition(os.pathsep)[0]
        (main_cf.parent / "bin" / "journalctl").chmod(0)
        transaction("write", str(main_cf), "broken\n")
        server.broken = True
        assert "451 4.3.0 broken" in transaction("commit")["comment"]
        assert main_cf.read_text() == "myhostname = old\n"


# What stands in the way of a commit, made after the transaction has begun.
OBSTACLES = {
    "the store of the originals": lambda state: (state / "originals").touch(),
    "what the transaction leaves": lambda state: (state / "journal" / "left").mkdir(),
    "the rename": lambda state: (state / "committed" / "x").mkdir(parents=True),
}


@pytest.mark.parametrize("name", OBSTACLES)
def test_what_cannot_be_committed_is_undone(transaction, server, main_cf, tmp_path, name):
    transaction("write", str(main_cf), "new\n", activate={"postfix": "reload"})
    OBSTACLES[name](tmp_path / "state")
    outcome = transaction("commit")
    assert outcome["result"] is False
    assert "could not be recorded" in outcome["comment"]
    assert f"Undone: {main_cf}." in outcome["comment"]
    assert main_cf.read_text() == "myhostname = old\n"
    assert server.actions[-1] == ("restart", "postfix")
    assert transaction("pending") is None


def test_an_apply_whose_journal_is_taken_away_does_not_claim_to_be_undone(transaction, main_cf, tmp_path):
    transaction("write", str(main_cf), "new\n", activate={"postfix": "reload"})
    shutil.rmtree(tmp_path / "state")
    outcome = transaction("commit")
    assert outcome["result"] is False
    assert f"NOT UNDONE: {tmp_path}/state/journal is gone" in outcome["comment"]
    assert "Undone: " not in outcome["comment"]
    assert main_cf.read_text() == "new\n"


def contents(folder):
    """All files below a directory, and what is in them."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_apply_that_could_not_be_committed_has_left_no_trace(transaction, main_cf, tmp_path):
    transaction("write", str(main_cf), "first\n")
    assert transaction("commit")["result"]
    stores = [contents(tmp_path / "state" / name) for name in ("originals", "previous")]
    transaction("write", str(main_cf), "second\n")
    transaction("write", str(tmp_path / "new"), "second\n")
    (tmp_path / "state" / "journal" / "left").mkdir()
    assert transaction("commit")["result"] is False
    assert [contents(tmp_path / "state" / name) for name in ("originals", "previous")] == stores


@pytest.mark.parametrize("steps", range(4))
def test_a_run_that_dies_after_its_commit_is_finished_by_the_next(
    transaction, context, minion, main_cf, monkeypatch, tmp_path, steps
):
    rename, done = os.replace, []

    def die(old, new):
        if len(done) > steps:
            raise SystemExit
        rename(old, new)
        done.append(new)

    transaction("write", str(main_cf), "first\n")
    assert transaction("commit")["result"]
    other = tmp_path / "other"
    transaction("write", str(main_cf), "second\n")
    transaction("write", str(other), "second\n")
    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(SystemExit):
        transaction("commit")
    monkeypatch.setattr(os, "replace", rename)
    assert len(done) == steps + 1
    context.clear()
    assert transaction("recover") is None
    assert (main_cf.read_text(), other.read_text()) == ("second\n", "second\n")
    for store in ("originals", "previous"):
        assert [entry["path"] for entry in _mta_journal.entries(minion, store)] == [str(main_cf), str(other)]
    assert _mta_apply.roll_back(minion)["result"]
    assert (main_cf.read_text(), other.exists()) == ("first\n", False)


class TestTheStates:
    """What users read of it."""

    def test_an_undo_in_part_is_called_so(self, states, transaction, context, main_cf):
        transaction("write", str(main_cf), "new\n")
        stuck(main_cf)
        forget_run(context)
        result = states["mta_transaction.recovered"]("t")
        assert result["result"] is True
        assert "undone in part only" in result["comment"]
        assert f"NOT UNDONE: {main_cf}" in result["comment"]
        assert str(main_cf) not in result["changes"]

    def test_later_members_say_so_too(self, states, transaction, server, main_cf):
        transaction("write", str(main_cf), "new\n", activate={"postfix": "reload"})
        stuck(main_cf)
        server.broken = True
        closed = states["mta_transaction.committed"]("t")
        assert f"NOT UNDONE: {main_cf}" in closed["comment"]
        again = states["mta_transaction.committed"]("t")
        assert again["comment"].startswith(f"This apply was undone in part only, without {main_cf}: ")

    def test_whatever_the_closing_state_meets_is_undone(self, states, transaction, pretend, server, main_cf):
        transaction("write", str(main_cf), "new\n", activate={"postfix": "reload"})

        def fail(names):
            pretend("_mta_services.status", server.status)
            raise RuntimeError("unforeseen")

        pretend("_mta_services.status", fail)
        with pytest.raises(RuntimeError, match="unforeseen"):
            states["mta_transaction.committed"]("t")
        assert main_cf.read_text() == "myhostname = old\n"


@pytest.mark.parametrize(
    ("line", "flags", "reason"),
    [
        ("36 35 0:51 /x {path} rw - ext4 /dev/x rw", 0, "it is a mount of its own"),
        ("36 35 0:51 / / rw - ext4 /dev/x rw", 0x10, "chattr -i -a {path}"),
    ],
)
def test_what_cannot_be_replaced_is_refused_by_name_before_anything_is_done(
    transaction, main_cf, monkeypatch, line, flags, reason
):
    read = _mta_system.read
    mounted = line.format(path=main_cf)
    monkeypatch.setattr(_mta_system, "read", lambda path: mounted if path.endswith("mountinfo") else read(path))
    monkeypatch.setattr(_mta_obstacles, "_flags", lambda path: flags)
    for function, *more in (("write", "new\n"), ("remove",)):
        with pytest.raises(CommandExecutionError) as refused:
            transaction(function, str(main_cf), *more)
        assert str(refused.value).startswith(f"Cannot change {main_cf}: ")
        assert reason.format(path=main_cf) in str(refused.value)
    assert transaction("pending") is None


@pytest.mark.parametrize(
    ("before", "timeout"), [("EHLO: STARTTLS is not offered", 20), ("banner: no answer in time", 5)]
)
def test_a_server_that_did_not_answer_before_is_not_waited_for_long(
    transaction, minion, main_cf, pretend, before, timeout
):
    asked = []

    def check(**ask):
        asked.append(ask["timeout"])
        return {"problems": [f"127.0.0.1:25 {before}"], "speaking": [], "notes": [], "transcript": []}

    pretend("_mta_judge.check", check)
    transaction("write", str(main_cf), "new\n")
    transaction("undo", "it is a test")
    assert asked[1:] == [timeout]
    assert _mta_run.Run.of(minion).silent == (timeout == 5)


def test_a_run_that_ends_before_its_last_state_leaves_nothing_open(transaction, server, main_cf):
    child = os.fork()
    if not child:
        transaction("write", str(main_cf), "new\n")
        # What a process of Salt's, and any other of Python's, does at its end.
        multiprocessing.util._exit_function()
        os._exit(0)
    os.waitpid(child, 0)
    assert main_cf.read_text() == "myhostname = old\n"
    assert transaction("pending") is None


def test_a_journal_of_another_version_is_left_alone_and_reported(transaction, context, main_cf, tmp_path):
    transaction("write", str(main_cf), "new\n")
    forget_run(context)
    (tmp_path / "state/journal/version").write_text("77")
    with pytest.raises(CommandExecutionError, match=f"sh {tmp_path}/state/recover.sh"):
        transaction("recover")
    assert main_cf.read_text() == "new\n"


def test_a_second_run_waits_and_then_says_who_is_in_the_way(transaction, context, main_cf, monkeypatch):
    transaction("write", str(main_cf), "first run\n")
    mine = context.pop(_mta_run.KEY)
    monkeypatch.setattr(_mta_transaction, "LOCK_TIMEOUT", 0.3)
    with pytest.raises(CommandExecutionError, match="another apply"):
        transaction("write", str(main_cf), "second run\n")
    assert main_cf.read_text() == "first run\n"
    mine.transaction.close()


def test_a_bad_mode_or_activation_changes_nothing(transaction, main_cf):
    with pytest.raises(SaltInvocationError, match="octal"):
        transaction("write", str(main_cf), "x", mode=644)
    with pytest.raises(SaltInvocationError, match="reload"):
        transaction("write", str(main_cf), "x", activate={"postfix": "kick"})
    assert main_cf.read_text() == "myhostname = old\n"


def test_a_symbolic_link_is_followed_and_stays(transaction, main_cf, tmp_path):
    link = tmp_path / "link.cf"
    link.symlink_to(main_cf)
    transaction("write", str(link), "new\n")
    assert link.is_symlink()
    assert main_cf.read_text() == "new\n"


def test_a_new_secret_is_never_readable_by_others(transaction, tmp_path, monkeypatch):
    seen = {}
    fsync = os.fsync

    def watch(descriptor):
        seen[os.readlink(f"/proc/self/fd/{descriptor}")] = stat.S_IMODE(os.fstat(descriptor).st_mode)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    transaction("write", str(tmp_path / "key"), "secret", mode="0600")
    assert [mode for path, mode in seen.items() if "/.key." in path] == [0o600]
    assert stat.S_IMODE((tmp_path / "state" / "journal").stat().st_mode) == 0o700


def listening(service, port, host="127.0.0.1"):
    return {"service": service, "host": host, "port": port, "wrappermode": False}


SMTP, SUBMISSION = listening("smtp/inet", 25), listening("submission/inet", 587)


@pytest.mark.parametrize("left", [[SUBMISSION], [SUBMISSION, SMTP]], ids=["gone", "silent"])
def test_a_listener_that_spoke_smtp_before_and_does_not_now_undoes_the_change(transaction, server, main_cf, left):
    server.listeners = [SMTP, SUBMISSION]
    transaction("write", str(main_cf), "new\n", activate={"postfix": "reload"})
    server.listeners, server.silent = left, {25}
    outcome = transaction("commit")
    assert outcome["result"] is False
    words = "127.0.0.1:25 (smtp/inet in master.cf) spoke SMTP before this apply and does not now"
    assert words in outcome["comment"]
    assert "services: {smtp/inet: null}" in outcome["comment"]
    assert main_cf.read_text() == "myhostname = old\n"


def test_an_ipv6_listener_is_named_as_one_writes_it(transaction, server, main_cf):
    server.listeners = [listening("[::1]:25/inet", 25, "::1"), SUBMISSION]
    transaction("write", str(main_cf), "new\n")
    server.listeners, server.silent = [SUBMISSION], {25}
    assert "[::1]:25 ([::1]:25/inet in master.cf)" in transaction("commit")["comment"]


@pytest.mark.parametrize(
    ("before", "after", "silent", "let_go"),
    [
        # Taken out on request.
        ([SMTP, SUBMISSION], [SMTP], {587}, ["submission/inet"]),
        # At another address, as the parameters say.
        ([SMTP], [listening("smtp/inet", 2525, "192.0.2.1")], {25}, []),
        # By another program, which speaks it too.
        ([SMTP, SUBMISSION], [SUBMISSION], set(), []),
        # It did not speak before either.
        ([SUBMISSION], [SUBMISSION], {25}, []),
    ],
    ids=["let go", "moved", "answered", "never there"],
)
def test_a_listener_that_is_asked_to_go_or_still_answers_undoes_nothing(
    transaction, server, main_cf, before, after, silent, let_go
):
    server.listeners = before
    transaction("write", str(main_cf), "new\n", activate={"postfix": "reload"})
    transaction("need", {"postfix": "reload"}, let_go=let_go)
    server.listeners, server.silent = after, silent
    assert transaction("commit")["result"] is True
    assert main_cf.read_text() == "new\n"


@pytest.mark.parametrize("participant", ["mta_transaction.rolled_back", "mta_transaction.restored"])
def test_what_is_taken_back_takes_its_listener_with_it(transaction, server, main_cf, pretend, participant):
    pretend("_mta_postfix_view.listeners", lambda *_: server.listeners)
    server.listeners, server.silent = [SMTP], {587}
    transaction("write", str(main_cf), "new\n", activate={"postfix": "reload"})
    server.listeners, server.silent = [SMTP, SUBMISSION], set()
    assert transaction("commit")["result"] is True

    def old(name):
        server.listeners, server.silent = [SMTP], {587}

    pretend("_mta_services.reload", old)
    pretend("_mta_services.restart", old)
    outcome = transaction("participate", participant, "x", {})
    assert outcome["result"] is True, outcome["comment"]
    assert main_cf.read_text() == "myhostname = old\n"


def test_a_service_stops_last_and_is_disabled_after_the_commit(transaction, server, main_cf):
    transaction("write", str(main_cf), "new\n", activate={"saslauthd": "stop", "postfix": "reload"})
    transaction("need", {"saslauthd": "restart"})
    assert transaction("outlook")["done"] == {"saslauthd": "stopped", "postfix": "reloaded"}
    assert transaction("commit")["result"]
    assert server.actions == [("reload", "postfix"), ("stop", "saslauthd"), ("disable", "saslauthd")]


def test_a_service_of_an_undone_transaction_is_not_disabled(transaction, server, main_cf):
    transaction("write", str(main_cf), "new\n", activate={"saslauthd": "stop"})
    server.broken = True
    assert transaction("commit")["result"] is False
    assert ("disable", "saslauthd") not in server.actions
    assert ("restart", "saslauthd") in server.actions


@pytest.mark.parametrize(
    ("words", "culprits"),
    [
        ("warning: mynetworks: bad net/mask", ["mynetworks"]),
        ("127.0.0.1:25 RCPT TO: 451 4.3.0 hash:/etc/nope", ["virtual_alias_maps"]),
        ("fatal: submission: bad smtpd_tls_security_level", ["master.cf submission/inet"]),
    ],
)
def test_the_servers_words_lead_to_the_culprit(words, culprits):
    changes = {
        "mynetworks": {"old": None, "new": "10.0.0.1/8"},
        "virtual_alias_maps": {"old": None, "new": "hash:/etc/nope"},
        "biff": {"old": "yes", "new": "no"},
        "master.cf submission/inet": {"old": None, "new": {"-o smtpd_tls_security_level": "bogus"}},
    }
    named = ["Changed parameters that may be responsible: " + ", ".join(culprits)]
    assert _mta_apply._responsible({"postconf": changes, "saslauthd": {"OPTIONS": {}}}, words) == named


def test_where_the_servers_words_name_no_parameter_none_is_blamed():
    changes = {"postconf": {"biff": {"new": "no"}}, "saslauthd": {"OPTIONS": {"new": "-m /run/saslauthd"}}}
    words = "127.0.0.1:25 AUTH PLAIN of an unknown user: 454 4.7.0 Temporary authentication failure"
    assert _mta_apply._responsible(changes, words) == ["Changed by this apply: biff, OPTIONS"]
    changes["postconf"] = {f"{number}_class": {"new": "permit"} for number in range(17)}
    assert _mta_apply._responsible(changes, words) == []
    assert _mta_apply._responsible({}, words) == []


class TestMember:
    """The plan/apply pattern that every member's state goes through."""

    @pytest.fixture
    def thing(self, monkeypatch, main_cf):
        """``thing(plan=…, apply=…)`` replaces a function of the participant ``thing``."""

        def plan(minion, text, errors=()):
            same = main_cf.read_text() == text
            changes = {} if same else {"main.cf": {"old": "a", "new": "b"}}
            return Plan(changes, {"postfix": "reload"}, list(errors))

        def apply(minion, text, errors=()):
            _mta_transaction.write(minion, str(main_cf), text, activate={"postfix": "reload"})

        def replace(**functions):
            part = Participant("thing", **{"plan": plan, "apply": apply, **functions})
            monkeypatch.setitem(_mta_apply.PARTICIPANTS, "thing", lambda: part)
            return plan

        replace()
        return replace

    @pytest.fixture
    def member(self, minion, server, thing):
        """The result of the state ``name``, which hands over to the participant ``thing``."""
        return lambda name, arguments, **options: _mta_apply.participate(
            minion, "thing", name, arguments, **options
        )

    def test_no_change_touches_nothing(self, member, server, tmp_path):
        result = member("x", {"text": "myhostname = old\n"})
        assert (result["result"], result["changes"]) == (True, {})
        assert not (tmp_path / "state").exists()
        assert server.actions == []

    def test_what_another_apply_has_done_meanwhile_is_not_done_again(
        self, transaction, thing, member, server, main_cf, monkeypatch, tmp_path
    ):
        """The other one writes while this one waits for the lock."""
        plan, lock, planned = thing(), _mta_transaction._lock, []

        def note(minion, **args):
            planned.append(transaction("under_way"))
            return plan(minion, **args)

        def wait(*args):
            main_cf.write_text("new\n")
            return lock(*args)

        thing(plan=note, apply=lambda minion, **_: pytest.fail("it was applied"))
        monkeypatch.setattr(_mta_transaction, "_lock", wait)
        result = member("x", {"text": "new\n"})
        assert planned == [False, True]
        assert (result["result"], result["changes"]) == (True, {})
        assert result["comment"] == "x is in the correct state."
        assert transaction("pending") is None
        assert not transaction("under_way")
        assert {path.name for path in (tmp_path / "state").iterdir()} == {"lock"}
        assert server.actions == []

    @pytest.mark.parametrize("how", ["as an error", "raised"])
    def test_what_can_be_done_no_longer_when_the_lock_is_held_leaves_no_transaction(
        self, transaction, thing, member, server, how
    ):
        plan = thing()

        def second(minion, **args):
            if not transaction("under_way"):
                return plan(minion, **args)
            if how == "raised":
                raise CommandExecutionError("another apply was here")
            return Plan(errors=["another apply was here"])

        thing(plan=second)
        result = member("x", {"text": "new\n"})
        assert (result["result"], result["comment"]) == (False, "x: another apply was here")
        assert transaction("pending") is None
        assert not transaction("under_way")
        assert server.actions == []

    def test_in_an_open_transaction_a_plan_is_made_once(self, transaction, thing, member):
        plan, planned = thing(), []
        thing(plan=lambda minion, **args: (planned.append(args), plan(minion, **args))[1])
        transaction("begin")
        assert member("x", {"text": "new\n"}, transaction="t")["changes"]
        assert len(planned) == 1

    def test_test_mode_shows_the_changes_of_the_real_run(self, member, main_cf):
        predicted = member("x", {"text": "new\n"}, test=True)
        assert predicted["result"] is None
        assert main_cf.read_text() == "myhostname = old\n"
        real = member("x", {"text": "new\n"})
        assert real["result"] is True
        assert real["changes"] == predicted["changes"]

    def test_alone_it_is_undone_when_the_conversation_fails(self, transaction, thing, member, server, main_cf):
        def breaks(minion, text):
            transaction("write", str(main_cf), text)
            server.broken = True

        thing(apply=breaks)
        result = member("x", {"text": "new\n"})
        assert (result["result"], result["changes"]) == (False, {})
        assert main_cf.read_text() == "myhostname = old\n"

    @pytest.mark.parametrize(
        "error", [OSError(errno.EROFS, "Read-only", "/x"), CommandExecutionError("Read-only")]
    )
    @pytest.mark.parametrize("transaction_name", ["t", None])
    def test_what_the_host_does_not_let_it_do_is_told_and_undone(
        self, transaction, thing, member, main_cf, error, transaction_name
    ):
        def breaks(minion, text):
            transaction("write", str(main_cf), text)
            raise error

        thing(apply=breaks)
        result = member("x", {"text": "new\n"}, transaction=transaction_name)
        assert (result["result"], result["changes"]) == (False, {})
        assert result["comment"].startswith("x: ")
        assert "Read-only" in result["comment"]
        assert f"Undone: {main_cf}." in result["comment"]
        assert main_cf.read_text() == "myhostname = old\n"

    def test_what_was_broken_before_undoes_nothing_and_is_told(self, member, server, main_cf):
        server.broken = True
        result = member("x", {"text": "new\n"})
        assert result["result"] is True
        assert main_cf.read_text() == "new\n"
        assert "did not before this apply, which is kept:" in result["comment"]
        assert "  127.0.0.1:25 RCPT TO: 451 4.3.0 broken (so it was before)" in result["comment"]
        # A reload leaves a service that master(8) throttles as it is.
        assert server.actions == [("restart", "postfix")]

    def test_a_login_that_is_promised_has_to_succeed_whatever_was_before(self, member, server, pretend, main_cf):
        fault = "127.0.0.1:25 AUTH PLAIN: 535 5.7.8 Error: authentication failed"

        def check(*_args, **_kwargs):
            return {**server.check(), "problems": [fault], "logins": [fault]}

        pretend("_mta_judge.check", check)
        result = member("x", {"text": "new\n"})
        assert result["result"] is False
        assert fault in result["comment"]
        assert main_cf.read_text() == "myhostname = old\n"

    def test_an_error_of_the_plan_fails_in_test_mode_too(self, member):
        args = {"text": "new\n", "errors": ["unused parameter: smtpd_banne"]}
        for test in (True, False):
            result = member("x", args, test=test)
            assert (result["result"], result["changes"]) == (False, {})
            assert "smtpd_banne" in result["comment"]

    def test_changes_say_how_they_are_activated(self, member):
        for test in (True, False):
            result = member("x", {"text": "new\n"}, test=test)
            assert result["changes"]["activation"] == "reload"

    def test_an_unforeseen_error_is_undone_too(self, transaction, thing, member, main_cf):
        def fail(minion, text):
            transaction("write", str(main_cf), text)
            raise RuntimeError("unforeseen")

        thing(apply=fail)
        with pytest.raises(RuntimeError, match="unforeseen"):
            member("x", {"text": "new\n"})
        assert main_cf.read_text() == "myhostname = old\n"

    def test_where_postfix_is_not_to_run_nothing_is_verified(self, member, server, main_cf, pretend):
        stopped = {"installed": True, "enabled": False, "active": False}
        pretend("_mta_services.status", lambda names: {name: stopped for name in names})
        server.broken = True
        result = member("x", {"text": "new\n"})
        assert result["result"] is True
        assert "does not run" in result["comment"]
        assert main_cf.read_text() == "new\n"

    def test_after_a_failure_later_members_are_not_applied(self, member, main_cf):
        member("x", {"text": "new\n"}, transaction="t")
        failed = member("y", {"text": "z", "errors": ["no"]}, transaction="t")
        later = member("z", {"text": "later\n"}, transaction="t")
        assert failed["result"] is False
        assert later["result"] is False
        assert "undone" in later["comment"]
        assert main_cf.read_text() == "myhostname = old\n"

    def test_the_closing_state_predicts_what_it_does(self, transaction, member):
        member("x", {"text": "new\n"}, transaction="t", test=True)
        assert transaction("outlook")["activate"] == {"postfix": "reload"}


class TestAlone:
    """What writes without a transaction does so while no apply is under way."""

    def test_it_holds_the_lock_and_no_transaction(self, transaction):
        assert transaction("alone", lambda: transaction("under_way")) is True
        assert transaction("pending") is None
        assert not transaction("under_way")

    def test_what_an_apply_left_is_undone_before_it(self, transaction, context, main_cf):
        transaction("write", str(main_cf), "half\n")
        forget_run(context)
        assert transaction("alone", main_cf.read_text) == "myhostname = old\n"

    def test_within_a_transaction_it_does_not_wait_for_itself(self, transaction, main_cf):
        transaction("write", str(main_cf), "new\n")
        assert transaction("alone", main_cf.read_text) == "new\n"
        assert transaction("commit")["result"]

    def test_beside_another_apply_it_waits_or_is_not_called(self, transaction, context, main_cf, monkeypatch):
        transaction("write", str(main_cf), "first run\n")
        mine = context.pop(_mta_run.KEY)
        monkeypatch.setattr(_mta_transaction, "LOCK_TIMEOUT", 0.3)
        with pytest.raises(CommandExecutionError, match="another apply"):
            transaction("alone", lambda: pytest.fail("it was called"))
        assert transaction("alone", lambda: pytest.fail("it was called"), wait=False) is None
        mine.transaction.close()


def test_an_owner_without_a_name_is_a_number(tmp_path):
    """Of an account that is gone, or of a file server; states have it as text."""
    status = tmp_path.stat()
    assert _mta_transaction._numeric("54321", "54322", status) == (54321, 54322)
    assert _mta_transaction._numeric("root", None, status) == (0, status.st_gid)
    with pytest.raises(CommandExecutionError, match="no such user or group"):
        _mta_transaction._numeric("nobody-here", None, status)
