"""The journal: what is written comes back, whoever dies when."""

import os
import stat
import subprocess

import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError


class Server:
    """Stands in for the daemons and the conversation: ``broken`` makes every conversation fail."""

    def __init__(self):
        self.broken = False
        self.actions = []
        self.active = True

    def status(self, names):
        return {name: {"installed": True, "enabled": True, "active": self.active} for name in names}

    def check(self, **_):
        problems = ["127.0.0.1:25 RCPT TO: 451 4.3.0 broken"] if self.broken else []
        return {"answers": not problems, "problems": problems, "notes": [], "transcript": []}

    def act(self, action):
        def note(name=None, **_):
            self.actions.append((action, name))
            if name == "postfix" and action in ("start", "stop"):
                self.active = action == "start"

        return note


@pytest.fixture
def server(pretend):
    """A server whose daemons and answers the test decides."""
    fake = Server()
    pretend("mta_service.status", fake.status)
    pretend("mta_probe.check", fake.check)
    for action in ("start", "stop", "restart", "reload", "enable", "disable", "daemon_reload"):
        pretend(f"mta_service.{action}", fake.act(action))
    return fake


@pytest.fixture
def transaction(modules, server):
    """The module's functions by name."""
    return lambda function, *args, **kwargs: modules[f"mta_transaction.{function}"](*args, **kwargs)


@pytest.fixture
def main_cf(tmp_path):
    path = tmp_path / "main.cf"
    path.write_text("myhostname = old\n")
    path.chmod(0o640)
    return path


def forget_run(context):
    """As if the process had been killed: the lock is gone, the journal stays."""
    context["mta_transaction"]["lock"].close()
    context.clear()


def test_a_commit_keeps_the_new_file_and_its_mode(transaction, main_cf):
    transaction("write", str(main_cf), "myhostname = new\n", activate={"postfix": "reload"})
    outcome = transaction("close")
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
    transaction("directory", str(folder), mode="0750")
    server.broken = True
    outcome = transaction("close")
    assert outcome["result"] is False
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
    assert transaction("recover") == [str(main_cf)]
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
    assert transaction("recover") == [str(main_cf)]
    assert [action for action, name in server.actions if name == "postfix"] == ["stop", "start"]


def test_a_postfix_that_does_not_run_is_not_halted(transaction, server):
    server.active = False
    assert transaction("halt") is False
    assert server.actions == []


def test_a_draft_of_an_entry_is_not_mistaken_for_one(transaction, context, main_cf, tmp_path):
    transaction("write", str(main_cf), "half\n")
    draft = tmp_path / "state" / "journal" / ".0001"
    draft.mkdir()
    (draft / "path").write_text(str(tmp_path / "never"))
    forget_run(context)
    assert transaction("recover") == [str(main_cf)]


def test_a_recovery_that_is_killed_can_be_repeated(transaction, context, main_cf, monkeypatch, tmp_path):
    other = tmp_path / "other"
    transaction("write", str(main_cf), "half\n")
    transaction("write", str(other), "half\n")
    forget_run(context)
    replace = os.replace

    def die(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(CommandExecutionError, match="Cannot put back"):
        transaction("recover")
    monkeypatch.setattr(os, "replace", replace)
    assert set(transaction("recover")) == {str(main_cf), str(other)}
    assert main_cf.read_text() == "myhostname = old\n"
    assert not other.exists()


def test_a_second_run_waits_and_then_says_who_is_in_the_way(transaction, context, main_cf, modules, monkeypatch):
    transaction("write", str(main_cf), "first run\n")
    mine = context.pop("mta_transaction")
    monkeypatch.setitem(modules["mta_transaction.write"].func.__globals__, "LOCK_TIMEOUT", 0.3)
    with pytest.raises(CommandExecutionError, match="another apply"):
        transaction("write", str(main_cf), "second run\n")
    assert main_cf.read_text() == "first run\n"
    mine["lock"].close()


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


def test_what_was_there_before_the_first_apply_can_be_had_again(transaction, main_cf, tmp_path):
    new = tmp_path / "smtpd.conf"
    for text in ("first apply\n", "second apply\n"):
        transaction("write", str(main_cf), text)
        transaction("write", str(new), text)
        assert transaction("close")["result"]
    assert set(transaction("originals_plan")["changes"]) == {str(main_cf), str(new)}
    transaction("originals_apply")
    assert transaction("close")["result"]
    transaction("originals_forget")
    assert main_cf.read_text() == "myhostname = old\n"
    assert not new.exists()
    assert transaction("originals_plan")["changes"] == {}


class TestGivenBack:
    """What a member has changed once and no longer wants."""

    @pytest.fixture
    def database(self, tmp_path):
        path = tmp_path / "group"
        path.write_text("sasl:\n")
        return path

    @pytest.fixture
    def changed(self, transaction, context, main_cf, database, tmp_path):
        """One apply of the member ``thing``: a file, a new file, a directory that its daemon uses, a command."""
        folder = tmp_path / "run" / "daemon"
        transaction("write", str(main_cf), "new\n")
        context["mta_transaction"]["module"] = "thing"
        transaction("write", str(tmp_path / "option"), "secret", mode="0600")
        transaction("directory", str(folder), runtime=["mux"])
        add = ["sed", "-i", "s/$/postfix/", str(database)]
        delete = ["sed", "-i", "s/postfix//", str(database)]
        transaction("command", "group", [add], [delete], [str(database), "^sasl:postfix$"])
        context["mta_transaction"]["module"] = None
        return {"option": tmp_path / "option", "folder": folder, "database": database}

    def test_an_undo_takes_commands_back(self, transaction, changed):
        assert changed["database"].read_text() == "sasl:postfix\n"
        transaction("undo", "no reason")
        assert changed["database"].read_text() == "sasl:\n"
        assert not changed["folder"].exists()

    def test_the_boot_takes_commands_back(self, changed, modules, tmp_path):
        text = modules["mta_transaction.close"].func.__globals__["RECOVER_TEXT"]
        (changed["folder"] / "mux").touch()
        script = tmp_path / "recover.sh"
        script.write_text(text.format(state_dir=tmp_path / "state", unit_dir=tmp_path, unit="u"))
        subprocess.run(["sh", script], check=True)
        assert changed["database"].read_text() == "sasl:\n"
        assert not changed["folder"].exists()
        assert not changed["option"].exists()

    def test_only_what_is_no_longer_wanted_is_superseded(self, transaction, changed):
        assert transaction("close")["result"]
        folder = changed["folder"]
        assert transaction("superseded", "other", []) == {}
        assert set(transaction("superseded", "thing", [str(folder), "group"])) == {str(changed["option"])}
        (folder / "mux").touch()
        everything = {str(changed["option"]), str(folder), str(folder.parent), "group"}
        assert set(transaction("superseded", "thing", [])) == everything
        (folder / "of somebody else").touch()
        assert set(transaction("superseded", "thing", [])) == {str(changed["option"]), "group"}

    def test_what_somebody_has_replaced_since_is_theirs(self, transaction, changed):
        assert transaction("close")["result"]
        untouched = {str(changed["option"]), str(changed["folder"]), str(changed["folder"].parent), "group"}
        assert set(transaction("superseded", "thing", [], untouched=True)) == untouched
        changed["option"].write_text("theirs")
        assert set(transaction("superseded", "thing", [], untouched=True)) == untouched - {str(changed["option"])}
        assert set(transaction("superseded", "thing", [])) == untouched

    def test_what_a_later_apply_leaves_is_not_theirs(self, transaction, changed):
        assert transaction("close")["result"]
        transaction("write", str(changed["option"]), "renewed")
        assert transaction("close")["result"]
        assert str(changed["option"]) in transaction("superseded", "thing", [], untouched=True)

    def test_a_file_that_a_symbolic_link_leads_to_is_wanted_with_the_link(self, transaction, changed, tmp_path):
        assert transaction("close")["result"]
        (tmp_path / "link").symlink_to(changed["option"])
        assert str(changed["option"]) not in transaction("superseded", "thing", [str(tmp_path / "link")])

    def test_it_is_given_back_at_the_commit_and_then_forgotten(self, transaction, changed, main_cf):
        assert transaction("close")["result"]
        (changed["folder"] / "mux").touch()
        transaction("give_back", list(transaction("superseded", "thing", [])))
        assert changed["folder"].exists()
        assert transaction("close")["result"]
        assert not changed["option"].exists()
        assert not changed["folder"].parent.exists()
        assert changed["database"].read_text() == "sasl:\n"
        assert set(transaction("originals_plan")["changes"]) == {str(main_cf)}

    def test_what_is_taken_back_is_its_member_s_again(self, transaction, context, changed):
        assert transaction("close")["result"]
        option = str(changed["option"])
        context["mta_transaction"]["module"] = "thing"
        transaction("give_back", [option])
        assert transaction("close")["result"]
        assert not changed["option"].exists()
        assert transaction("take_back")["result"]
        assert changed["option"].read_text() == "secret"
        assert option in transaction("superseded", "thing", [], untouched=True)

    def test_an_undo_brings_it_all_back(self, transaction, server, changed):
        assert transaction("close")["result"]
        transaction("give_back", list(transaction("superseded", "thing", [])))
        server.broken = True
        assert transaction("close")["result"] is False
        assert changed["option"].read_text() == "secret"
        assert stat.S_IMODE(changed["option"].stat().st_mode) == 0o600
        assert changed["folder"].exists()
        assert changed["database"].read_text() == "sasl:postfix\n"

    def test_a_service_stops_last_and_is_disabled_after_the_commit(self, transaction, server, main_cf):
        transaction("write", str(main_cf), "new\n", activate={"saslauthd": "stop", "postfix": "reload"})
        transaction("need", {"saslauthd": "restart"})
        assert transaction("outlook")["done"] == {"saslauthd": "stopped", "postfix": "reloaded"}
        assert transaction("close")["result"]
        assert server.actions == [("reload", "postfix"), ("stop", "saslauthd"), ("disable", "saslauthd")]

    def test_a_service_of_an_undone_transaction_is_not_disabled(self, transaction, server, main_cf):
        transaction("write", str(main_cf), "new\n", activate={"saslauthd": "stop"})
        server.broken = True
        assert transaction("close")["result"] is False
        assert ("disable", "saslauthd") not in server.actions
        assert ("restart", "saslauthd") in server.actions


@pytest.mark.parametrize(
    ("words", "culprits"),
    [
        ("warning: mynetworks: bad net/mask", ["mynetworks"]),
        ("127.0.0.1:25 RCPT TO: 451 4.3.0 hash:/etc/nope", ["virtual_alias_maps"]),
        ("fatal: submission: bad smtpd_tls_security_level", ["master.cf submission/inet"]),
        ("127.0.0.1:25 closed", ["mynetworks", "virtual_alias_maps", "biff", "master.cf submission/inet"]),
    ],
)
def test_the_servers_words_lead_to_the_culprit(modules, words, culprits):
    changes = {
        "mynetworks": {"old": None, "new": "10.0.0.1/8"},
        "virtual_alias_maps": {"old": None, "new": "hash:/etc/nope"},
        "biff": {"old": "yes", "new": "no"},
        "master.cf submission/inet": {"old": None, "new": {"-o smtpd_tls_security_level": "bogus"}},
    }
    assert modules["mta_transaction.close"].func.__globals__["_responsible"](changes, words) == culprits


class TestMember:
    """The plan/apply pattern that every member's state goes through."""

    @pytest.fixture
    def thing(self, modules, pretend, main_cf):
        def plan(text, errors=()):
            same = main_cf.read_text() == text
            changes = {} if same else {"main.cf": {"old": "a", "new": "b"}}
            return {"changes": changes, "activate": {"postfix": "reload"}, "errors": list(errors)}

        def apply(text, errors=()):
            modules["mta_transaction.write"](str(main_cf), text, activate={"postfix": "reload"})

        pretend("thing.plan", plan)
        pretend("thing.apply", apply)
        return "thing"

    def test_no_change_touches_nothing(self, transaction, thing, server, tmp_path):
        result = transaction("member", "x", thing, {"text": "myhostname = old\n"})
        assert (result["result"], result["changes"]) == (True, {})
        assert not (tmp_path / "state").exists()
        assert server.actions == []

    def test_test_mode_shows_the_changes_of_the_real_run(self, transaction, thing, main_cf):
        predicted = transaction("member", "x", thing, {"text": "new\n"}, test=True)
        assert predicted["result"] is None
        assert main_cf.read_text() == "myhostname = old\n"
        real = transaction("member", "x", thing, {"text": "new\n"})
        assert real["result"] is True
        assert real["changes"] == predicted["changes"]

    def test_alone_it_is_undone_when_the_conversation_fails(self, transaction, thing, server, main_cf):
        server.broken = True
        result = transaction("member", "x", thing, {"text": "new\n"})
        assert (result["result"], result["changes"]) == (False, {})
        assert main_cf.read_text() == "myhostname = old\n"

    def test_an_error_of_the_plan_fails_in_test_mode_too(self, transaction, thing):
        args = {"text": "new\n", "errors": ["unused parameter: smtpd_banne"]}
        for test in (True, False):
            result = transaction("member", "x", thing, args, test=test)
            assert (result["result"], result["changes"]) == (False, {})
            assert "smtpd_banne" in result["comment"]

    def test_changes_say_how_they_are_activated(self, transaction, thing):
        for test in (True, False):
            result = transaction("member", "x", thing, {"text": "new\n"}, test=test)
            assert result["changes"]["activation"] == "reload"

    def test_an_unforeseen_error_is_undone_too(self, transaction, thing, pretend, main_cf):
        def fail(text):
            transaction("write", str(main_cf), text)
            raise RuntimeError("unforeseen")

        pretend("thing.apply", fail)
        with pytest.raises(RuntimeError, match="unforeseen"):
            transaction("member", "x", thing, {"text": "new\n"})
        assert main_cf.read_text() == "myhostname = old\n"

    def test_where_postfix_is_not_to_run_nothing_is_verified(self, transaction, thing, server, main_cf, pretend):
        stopped = {"installed": True, "enabled": False, "active": False}
        pretend("mta_service.status", lambda names: {name: stopped for name in names})
        server.broken = True
        result = transaction("member", "x", thing, {"text": "new\n"})
        assert result["result"] is True
        assert "does not run" in result["comment"]
        assert main_cf.read_text() == "new\n"

    def test_after_a_failure_later_members_are_not_applied(self, transaction, thing, main_cf):
        transaction("member", "x", thing, {"text": "new\n"}, transaction="t")
        failed = transaction("member", "y", thing, {"text": "z", "errors": ["no"]}, transaction="t")
        later = transaction("member", "z", thing, {"text": "later\n"}, transaction="t")
        assert failed["result"] is False
        assert later["result"] is False
        assert "undone" in later["comment"]
        assert main_cf.read_text() == "myhostname = old\n"

    def test_the_closing_state_predicts_what_it_does(self, transaction, thing, states, opts):
        opts["test"] = True
        transaction("member", "x", thing, {"text": "new\n"}, transaction="t", test=True)
        assert transaction("outlook")["activate"] == {"postfix": "reload"}


class TestTakeBack:
    """What the last apply changed comes back, if nobody has touched it since."""

    @pytest.fixture
    def changed(self, transaction, main_cf, tmp_path):
        """A commit: main.cf is another, new.cf and a directory are new, old.cf is gone. Returns the paths."""
        old = tmp_path / "old.cf"
        old.write_text("old\n")
        transaction("write", str(main_cf), "myhostname = new\n", mode="0644", activate={"postfix": "restart"})
        transaction("write", str(tmp_path / "new.cf"), "x")
        transaction("directory", str(tmp_path / "made"))
        transaction("remove", str(old))
        assert transaction("close")["result"] is True
        return main_cf, tmp_path / "new.cf", old

    def test_everything_comes_back_and_is_put_in_force(self, transaction, server, changed):
        main_cf, new, old = changed
        server.actions.clear()
        outcome = transaction("take_back")
        assert outcome["result"] is True, outcome["comment"]
        assert main_cf.read_text() == "myhostname = old\n"
        assert stat.S_IMODE(main_cf.stat().st_mode) == 0o640
        assert not new.exists()
        assert old.read_text() == "old\n"
        assert ("restart", "postfix") in server.actions

    def test_in_test_mode_nothing_is(self, transaction, changed):
        outcome = transaction("take_back", test=True)
        assert outcome["result"] is None
        assert set(map(str, changed)) <= set(outcome["changes"])
        assert changed[0].read_text() == "myhostname = new\n"

    def test_taking_back_twice_is_where_it_began(self, transaction, changed):
        assert transaction("take_back")["result"] is True
        assert transaction("take_back")["result"] is True
        assert changed[0].read_text() == "myhostname = new\n"
        assert changed[1].read_text() == "x"
        assert not changed[2].exists()

    def test_what_was_changed_since_is_not_overwritten(self, transaction, changed):
        changed[0].write_text("by hand\n")
        outcome = transaction("take_back")
        assert outcome["result"] is False
        assert str(changed[0]) in outcome["comment"]
        assert changed[0].read_text() == "by hand\n"
        assert changed[1].exists()

    def test_another_commit_than_the_one_that_is_meant_stays(self, transaction, changed):
        outcome = transaction("take_back", commit=transaction("last_commit") - 1)
        assert outcome["result"] is False
        assert "since" in outcome["comment"]
        assert changed[0].read_text() == "myhostname = new\n"
        assert transaction("take_back", commit={"mail.example.com": transaction("last_commit")})["result"] is True

    def test_a_server_that_does_not_answer_afterwards_keeps_what_it_had(self, transaction, server, changed):
        server.broken = True
        assert transaction("take_back")["result"] is False
        assert changed[0].read_text() == "myhostname = new\n"

    def test_an_apply_that_is_undone_leaves_what_can_be_taken_back(self, transaction, server, changed):
        server.broken = True
        transaction("write", str(changed[0]), "broken\n")
        assert transaction("close")["result"] is False
        server.broken = False
        assert transaction("take_back")["result"] is True
        assert changed[0].read_text() == "myhostname = old\n"

    def test_without_an_apply_there_is_nothing(self, transaction):
        assert transaction("last_commit") is None
        assert "nothing" in transaction("take_back")["comment"]
