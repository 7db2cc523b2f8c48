"""main.cf and master.cf as a participant: compared, checked, switched if nobody edits, and restored."""

import fcntl
import os
import pathlib
import subprocess
import time

import pytest
from conftest import MAIN, MASTER
from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_dane
import _mta_postfix_edit
import _mta_postfix_lock
import _mta_postfix_view
import _mta_snapshots
import _mta_transaction
from _mta_plan import Plan

# -- activation --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "action"),
    [
        ({"biff": True}, "reload"),
        ({"inet_interfaces": "loopback-only"}, "restart"),
        ({"inet_protocols": "ipv4"}, "restart"),
        ({"inet_interfaces": None}, "reload"),
        ({"queue_directory": "/srv/queue"}, "restart"),
        ({"myhostname": "mx.example.com"}, "reload"),
        ({"default_process_limit": 200}, "reload"),
    ],
)
def test_postfix_is_restarted_only_where_a_reload_would_not_do(configuration, parameters, action):
    assert configuration.plan(parameters=parameters).activate == {"postfix": action}


def test_a_host_name_that_the_interfaces_refer_to_needs_a_restart(configuration):
    configuration.write(MAIN.replace("inet_interfaces = all", "inet_interfaces = $myhostname, localhost"))
    assert configuration.plan(parameters={"myhostname": "mx.example.com"}).activate == {"postfix": "restart"}


def test_master_cf_needs_no_restart(configuration):
    services = {"submission/inet": {"command": "smtpd"}, "smtp/inet": None}
    assert configuration.plan(services=services).activate == {"postfix": "reload"}


# -- unmanaged ---------------------------------------------------------------------------------


STRANGE = "mail_spool_directory = /srv/mail\nadmin_nets = 10.0.0.0/8\nold_nets = 10.9.0.0/16\n"


def test_unmanaged_settings_are_kept_or_listed_or_removed(configuration):
    configuration.write(MAIN + STRANGE, f"{MASTER}extra unix - - y - - smtp\n")
    package = {"unmanaged": "keep", "parameters": {"smtpd_banner": "x", **dict.fromkeys(["biff"], False)}}
    assert list(configuration.changes(**package)) == ["smtpd_banner"]
    package["unmanaged"] = "warn"
    plan = configuration.plan(**package)
    assert list(plan.changes) == ["smtpd_banner"]
    (note,) = plan.notes
    assert note.startswith("Unmanaged: ")
    assert "mail_spool_directory" in note and "extra/unix in master.cf" in note
    package["unmanaged"] = "remove"
    changes = configuration.changes(**package)
    assert changes["mail_spool_directory"] == {"old": "/srv/mail", "new": None}
    assert changes["master.cf extra/unix"]["new"] is None
    assert "myhostname" not in changes and "biff" not in changes


def test_what_a_kept_setting_refers_to_is_not_removed(configuration):
    configuration.write(f"{MAIN}{STRANGE}relay_domains = ${{a_list}}\na_list = $(old_nets)\n")
    parameters = {"mynetworks": "127.0.0.0/8 $admin_nets", "relay_domains": "${a_list}"}
    changes = configuration.changes(parameters, unmanaged="remove")
    assert "mail_spool_directory" in changes
    assert not {"admin_nets", "a_list", "old_nets"} & set(changes)


def test_restriction_classes_in_use_are_not_removed(configuration):
    configuration.write(f"{MAIN}smtpd_restriction_classes = strict\nstrict = reject\n")
    changes = configuration.changes({"smtpd_restriction_classes": "strict"}, unmanaged="remove")
    assert "strict" not in changes


def test_an_unknown_way_with_unmanaged_settings_is_refused(configuration):
    with pytest.raises(SaltInvocationError, match="keep, warn, remove"):
        configuration.plan(unmanaged="drop")


# -- staging and switching ---------------------------------------------------------------------


def test_a_run_without_changes_starts_no_process_and_writes_nothing(configuration, commands, written, tmp_path):
    began = time.perf_counter()
    plan = configuration.plan(parameters={"biff": False}, services={"smtp/inet": {"chroot": "y"}})
    assert time.perf_counter() - began < 0.1
    assert plan == Plan()
    configuration.apply(parameters={"biff": False})
    assert commands() == [] and written == [] and not (tmp_path / "state").exists()


def test_thirty_parameters_take_one_write_process(configuration, commands, written):
    parameters = {f"my_parameter_{number}": number for number in range(30)}
    plan = configuration.plan(parameters=parameters)
    configuration.apply(parameters=parameters)
    assert plan.errors == [] and len(plan.changes) == 30
    assert len([line for line in commands() if " -e " in line]) == 1
    assert written == [("need", {"postfix": "reload"}), ("main.cf", {"postfix": "reload"})]
    assert configuration.changes(parameters) == {}


def test_no_program_of_postfix_waits_for_a_new_main_cf_to_grow_older(configuration, commands, written):
    """They read it again as long as its modification time, in whole seconds, is not two seconds past."""
    configuration.apply(parameters={"biff": True})
    assert int(os.stat(configuration.directory / "main.cf").st_mtime) < int(time.time()) - 1


def test_bytes_that_are_not_utf_8_survive_a_change(configuration, commands, written):
    configuration.write(b"# gr\xfc\xdfe\na = \xff\xfe\n")
    configuration.apply(parameters={"b": "1"})
    assert (configuration.directory / "main.cf").read_bytes() == b"# gr\xfc\xdfe\na = \xff\xfe\nb = 1\n"


@pytest.mark.parametrize("end", ["admin_nets = 10.0.0.0/8", "# the last words"])
def test_a_main_cf_whose_last_line_has_no_end_gets_a_new_line(configuration, commands, written, end):
    configuration.write(f"biff = no\n{end}")
    wanted = {"relayhost": "[smtp.example.net]"}
    plan = configuration.plan(parameters=wanted)
    assert (plan.errors, plan.changes) == ([], {"relayhost": {"old": None, "new": "[smtp.example.net]"}})
    configuration.apply(parameters=wanted)
    assert configuration.main() == f"biff = no\n{end}\nrelayhost = [smtp.example.net]\n"
    assert configuration.changes(wanted) == {}


def test_a_master_cf_whose_last_line_has_no_end_gets_a_new_entry(configuration, commands, written):
    configuration.write(MAIN.rstrip(), MASTER.rstrip())
    wanted = {"587/inet": {"command": "smtpd"}}
    assert configuration.plan(services=wanted).errors == []
    configuration.apply(services=wanted)
    assert configuration.master() == f"{MASTER}587 inet n - - - - smtpd\n"
    # Nothing of it has changed.
    assert configuration.main() == MAIN.rstrip()


def test_a_broken_main_cf_is_mended(configuration, commands, written):
    configuration.write("biff = no\nbad line\n  goes on\n= foo\nbiff = maybe\n")
    plan = configuration.plan(parameters={"biff": "yes"})
    assert plan.changes == {
        "main.cf line 2": {"old": "bad line  goes on", "new": None},
        "main.cf line 4": {"old": "= foo", "new": None},
        "biff": {"old": "maybe", "new": "yes"},
    }
    assert plan.notes[0].startswith("main.cf line 2 stops Postfix, and is commented out: ")
    assert plan.errors == []
    configuration.apply(parameters={"biff": "yes"})
    assert configuration.main() == "# bad line\n#   goes on\n# = foo\nbiff = yes\n"
    assert configuration.changes({"biff": True}) == {}


def test_a_broken_master_cf_is_mended(configuration, commands, written):
    configuration.write(master=f"{MASTER}foo inet n - y - smtpd\n  -o a=b\n")
    assert list(configuration.changes()) == ["master.cf line 14"]
    configuration.apply()
    assert (configuration.directory / "master.cf").read_text() == f"{MASTER}# foo inet n - y - smtpd\n#   -o a=b\n"


def test_an_edit_between_plan_and_switch_is_not_overwritten(configuration, commands, written, pretend):
    edits = iter(["admin_one = 1\n", "admin_two = 2\n"])

    def administrator(*_):
        configuration.write(configuration.main() + next(edits, ""))

    pretend("_mta_transaction.need", administrator)
    configuration.apply(parameters={"biff": True})
    found = configuration.show()
    assert (found["biff"], found["admin_one"], found["admin_two"]) == ("yes", "1", "2")
    assert [name for name, _ in written] == ["main.cf"]


def test_an_administrator_who_never_stops_editing_wins(configuration, commands, written, pretend):
    pretend("_mta_transaction.need", lambda *_: configuration.write(configuration.main() + "# again\n"))
    with pytest.raises(CommandExecutionError, match="edited by somebody else during each of 3 attempts"):
        configuration.apply(parameters={"biff": True})
    assert "biff = no" in configuration.main() and written == []


def test_the_switch_waits_for_postconf_and_leaves_no_lock(configuration, commands, written, monkeypatch):
    held = os.open(configuration.directory / "main.cf.tmp", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(held, fcntl.LOCK_EX)
    monkeypatch.setattr(_mta_postfix_lock, "SECONDS", 0.2)
    with pytest.raises(
        CommandExecutionError, match=r"Another program is editing: .*main\.cf\.tmp has been locked for 0\.2 s"
    ):
        configuration.apply(parameters={"biff": True})
    os.close(held)
    configuration.apply(parameters={"biff": True})
    assert sorted(os.listdir(configuration.directory)) == ["main.cf", "master.cf"]


def test_a_lock_file_that_was_replaced_is_locked_anew(configuration):
    path = configuration.directory / "main.cf.tmp"
    path.touch()
    with _mta_postfix_lock.held(configuration.path):
        locked = subprocess.run(["flock", "-n", path, "true"], check=False).returncode
    assert locked == 1 and not path.exists()


def test_without_postfix_the_plan_shows_everything_and_apply_fails(configuration, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    (configuration.directory / "main.cf").unlink()
    assert len(configuration.changes({"a": "1", "b": None, "c": [1, 2]})) == 2
    with pytest.raises(CommandExecutionError, match="not installed"):
        configuration.apply(parameters={"a": "1"})


@pytest.mark.parametrize(
    ("arguments", "let_go"),
    [
        ({"services": {"smtps/inet": None}}, ["smtps/inet"]),
        ({"services": {"smtps/inet": {"command": "spawn"}}}, []),
        ({"services": {"smtps/inet": {"command": "postscreen"}}}, []),
        ({"services": {"smtps/inet": {"process_limit": 3}, "smtp/inet": None}}, ["smtp/inet"]),
        ({"services": {"smtps/inet": None, "587/inet": {"command": "smtpd"}}}, ["smtps/inet"]),
        ({"parameters": {"master_service_disable": "smtps.inet"}}, ["smtps/inet"]),
        ({"parameters": {"inet_interfaces": "loopback-only"}}, []),
        ({"unmanaged": "remove"}, ["2525/inet"]),
        ({"unmanaged": "remove", "services": {"2525/inet": {"process_limit": 3}}}, []),
    ],
    ids=str,
)
def test_a_listener_that_is_taken_out_is_let_go_and_one_with_another_program_is_not(
    configuration, minion, tmp_path, monkeypatch, arguments, let_go
):
    (tmp_path / "master.dist").write_text(f"{MASTER}smtps inet n - y - - smtpd\n")
    monkeypatch.setattr(_mta_postfix_view, "PACKAGE_MASTER", (str(tmp_path / "master.dist"),))
    configuration.write(master=f"{MASTER}smtps inet n - y - - smtpd\n2525 inet n - y - - smtpd\n")
    prepared = _mta_postfix_edit.prepare(minion, configuration.path, **arguments)
    assert _mta_postfix_edit.let_go(prepared, arguments.get("services")) == let_go


def test_a_service_takes_the_place_of_one_at_the_same_port_which_comes_back(configuration, minion):
    old = "smtps inet n - y - - smtpd -o smtpd_tls_wrappermode=yes\n"
    configuration.write(master=MASTER + old)
    services = {"submissions/inet": {"command": "smtpd", "overrides": {"smtpd_tls_wrappermode": True}}}
    prepared = _mta_postfix_edit.prepare(minion, configuration.path, {}, services, "keep", [*services])
    assert prepared.changes["master.cf smtps/inet"]["new"] is None
    assert _mta_postfix_edit.let_go(prepared, services) == ["smtps/inet"]
    record = {configuration.path: prepared.record.before, "made": {configuration.path: prepared.record.made}}
    minion.state.write("postconf.json", record)
    configuration.write(master=MASTER + old.replace("smtps inet n - y", "submissions inet n - -"))
    assert configuration.changes(services=services, revert=[*services]) == {}
    back = configuration.changes(revert=[])
    assert back["master.cf submissions/inet"]["new"] is None
    assert back["master.cf smtps/inet"]["new"]["command"] == "smtpd"


def test_a_host_with_several_instances_is_told_which_one_is_managed(configuration):
    assert configuration.plan(parameters={"biff": True}).notes == []
    configuration.write(MAIN + "multi_instance_directories = /etc/postfix-in /etc/postfix-out\n")
    (note,) = configuration.plan(parameters={"biff": True}).notes
    assert note.startswith("Only the default instance of Postfix is read, changed")
    assert note.endswith("/etc/postfix-in, /etc/postfix-out")


# -- restored when nothing asks for it any more ------------------------------------------------


HARDENED = {"parameters": {"biff": True, "smtpd_helo_required": True}, "revert": ["biff", "smtpd_helo_required"]}


GUIDE = {"parameters": {"smtpd_helo_required": None}, "revert": ["smtpd_helo_required"]}


class TestRevert:
    """A profile's names: what they were before is kept, and comes back when another profile lacks them."""

    @pytest.fixture
    def apply(self, configuration, commands, written, monkeypatch):
        """Apply without a transaction; ``postconf -d`` knows what is in here."""
        known = {"biff", "smtpd_helo_required", "smtpd_banner", *_mta_dane.PARAMETERS}
        monkeypatch.setattr(_mta_postfix_view, "known_parameters", lambda config_directory: known)
        return configuration.apply

    @pytest.fixture
    def kept(self, configuration, minion):
        """``kept(services)``: keep what a first apply of services keeps, without Postfix."""

        def keep(services, made=True):
            first = _mta_postfix_edit.prepare(minion, configuration.path, {}, services, "keep", [*services])
            record = {configuration.path: first.record.before}
            if made:
                record["made"] = {configuration.path: first.record.made}
            minion.state.write("postconf.json", record)
            return first.record

        return keep

    def test_what_was_there_comes_back_and_what_was_not_goes(self, configuration, apply):
        apply(**HARDENED)
        assert configuration.show()["biff"] == configuration.show()["smtpd_helo_required"] == "yes"
        assert configuration.changes(**GUIDE) == {
            "biff": {"old": "yes", "new": "no"},
            "smtpd_helo_required": {"old": "yes", "new": None},
        }

    def test_a_second_run_changes_nothing(self, configuration, apply):
        apply(**HARDENED)
        assert configuration.changes(**HARDENED) == {}

    def test_mail_goes_out_with_dane_while_the_resolver_validates(self, configuration, apply, pretend):
        says = [True]
        pretend("_mta_dane.possible", lambda main: says[0])
        level = {"smtp_tls_security_level": "may"}
        arguments = {"parameters": level, "revert": [*level], "dane": True}
        apply(**arguments)
        there = configuration.show()
        assert (there["smtp_tls_security_level"], there["smtp_dns_support_level"]) == ("dane", "dnssec")
        assert configuration.changes(**arguments) == {}
        says[0] = False
        apply(**arguments)
        there = configuration.show()
        assert (there["smtp_tls_security_level"], there.get("smtp_dns_support_level")) == ("may", None)

    def test_what_others_set_since_is_theirs(self, configuration, apply):
        apply(**HARDENED)
        apply(parameters={"smtpd_helo_required": True}, revert=["smtpd_helo_required"])
        assert configuration.show()["biff"] == "no"
        configuration.write(configuration.main().replace("biff = no", "biff = yes"))
        assert configuration.changes(revert=["smtpd_helo_required"]) == {}

    def test_what_others_set_since_is_theirs_also_when_it_would_go_now(self, configuration, apply):
        apply(**HARDENED)
        configuration.write(configuration.main().replace("smtpd_helo_required = yes", "smtpd_helo_required = no"))
        plan = configuration.plan(revert=[])
        assert plan.changes == {"biff": {"old": "yes", "new": "no"}}
        assert "Not restored, as somebody has changed it since: smtpd_helo_required" in plan.notes
        apply(revert=[])
        assert configuration.plan(revert=[]).notes == []
        assert configuration.show()["smtpd_helo_required"] == "no"

    def test_a_field_that_others_set_since_is_theirs(self, configuration, kept):
        kept({"smtp/inet": {"command": "postscreen", "process_limit": 1}})
        configuration.write(master=MASTER.replace("-       -       smtpd", "-       2       postscreen", 1))
        plan = configuration.plan(revert=[])
        assert plan.changes["master.cf smtp/inet"]["new"] == {"command": "smtpd"}
        assert "Not restored, as somebody has changed it since: smtp/inet process_limit" in plan.notes

    def test_what_is_asked_for_otherwise_stays(self, configuration, apply):
        apply(**HARDENED)
        assert configuration.changes(parameters={"biff": True}, revert=["smtpd_helo_required"]) == {}

    def test_a_state_that_says_nothing_of_it_leaves_it(self, configuration, apply):
        apply(**HARDENED)
        assert configuration.changes() == {}
        assert "biff" in configuration.changes(revert=[])

    def test_what_is_not_managed_may_go_in_the_same_run(self, configuration, apply):
        configuration.write(configuration.main() + "strange = 1\n")
        apply(parameters={"strange": 2}, revert=["strange"])
        changes = configuration.changes(unmanaged="remove", revert=[])
        assert changes["strange"] == {"old": "2", "new": None}

    def test_a_service_that_is_not_managed_may_go_in_the_same_run(self, configuration, kept):
        configuration.write(master=f"{MASTER}own unix - n n - - pipe\n")
        kept({"own/unix": {"process_limit": 1}})
        configuration.write(master=f"{MASTER}own unix - n n - 1 pipe\n")
        assert configuration.changes(revert=[])["master.cf own/unix"]["new"] == {"process_limit": "-"}
        changes = configuration.changes(unmanaged="remove", revert=[])
        assert changes["master.cf own/unix"]["new"] is None

    def test_a_service_comes_back_as_it_was_and_the_pillar_s_fields_stay(self, configuration, kept):
        service = {"smtp/inet": {"command": "postscreen", "process_limit": 1}}
        before = {"smtp/inet command": "smtpd", "smtp/inet process_limit": "-"}
        assert kept(service, made=False).before == before
        configuration.write(master=MASTER.replace("-       -       smtpd", "-       1       postscreen", 1))
        assert configuration.changes(revert=[])["master.cf smtp/inet"]["new"] == {
            "process_limit": "-",
            "command": "smtpd",
        }
        asked = configuration.changes(services={"smtp/inet": {"process_limit": 9}}, revert=[])
        assert asked["master.cf smtp/inet"]["new"] == {"process_limit": "9", "command": "smtpd"}

    def test_a_name_that_this_postfix_does_not_know_is_left_out_and_the_comment_says_so(
        self, configuration, apply
    ):
        wanted = {"biff": True, "smtpd_forbid_novelty": True}
        plan = configuration.plan(parameters=wanted, revert=[*wanted], optional=[*wanted])
        assert plan.changes == {"biff": {"old": "no", "new": "yes"}}
        assert "Left out, as this version of Postfix does not have it: smtpd_forbid_novelty" in plan.notes

    def test_an_entry_that_was_recorded_as_a_whole_comes_back_as_a_whole(self, configuration, minion):
        before = configuration.services()["smtp/inet"]
        made = {**before, "process_limit": "1"}
        minion.state.write("postconf.json", {configuration.path: {"smtp/inet": before},
                                             "made": {configuration.path: {"smtp/inet": made}}})  # fmt: skip
        configuration.write(master=MASTER.replace("-       -       smtpd", "-       1       smtpd", 1))
        changes = configuration.changes(revert=[])
        assert changes["master.cf smtp/inet"]["new"] == {"process_limit": "-"}

    def test_a_previous_value_that_is_there_again_is_no_news(self, configuration, apply):
        apply(**HARDENED)
        configuration.write(configuration.main().replace("biff = yes", "biff = no"))
        plan = configuration.plan(revert=["smtpd_helo_required"])
        assert plan.changes == {} and not any("biff" in note for note in plan.notes)

    def test_what_is_theirs_is_said_once_also_when_nothing_changes(
        self, configuration, apply, minion, monkeypatch
    ):
        monkeypatch.setattr(_mta_transaction, "alone", lambda minion, do, wait: do())
        apply(parameters={"biff": True}, revert=["biff"])
        configuration.write(configuration.main().replace("biff = yes", "biff = maybe"))
        plan = configuration.plan(revert=[])
        assert plan.changes == {} and plan.notes == ["Not restored, as somebody has changed it since: biff"]
        _mta_postfix_edit.remember(minion)
        assert configuration.plan(revert=[]).notes == []

    def test_a_record_that_is_damaged_is_none(self, configuration, apply, minion):
        apply(**HARDENED)
        pathlib.Path(minion.state.path("postconf.json")).write_text("{")
        assert configuration.changes(revert=[]) == {}

    def test_only_a_list_of_names_is_taken(self, configuration):
        with pytest.raises(SaltInvocationError, match="revert is a list"):
            configuration.plan(revert="biff")


ASKED = {
    "parameters": {"message_size_limit": 2},
    "services": {"smtp/inet": {"overrides": {"x_nets": 1}}},
    "revert": ["message_size_limit", "smtp/inet"],
}


class TestWithoutARecord:
    """A host on which an older version set things, and kept no record of most of them."""

    @pytest.fixture
    def managed(self, configuration, minion, written, commands, monkeypatch):
        """The older version has set a size, and an override; before its first apply there were others."""
        first = {"main.cf": MAIN + "message_size_limit = 1\n", "master.cf": MASTER}
        monkeypatch.setattr(_mta_snapshots, "content", lambda minion, path: first[os.path.basename(path)].encode())
        monkeypatch.setattr(_mta_transaction, "alone", lambda minion, do, wait: do())
        master = MASTER.replace("-       -       smtpd", "-       -       smtpd -o x_nets=1", 1)
        configuration.write(MAIN + "message_size_limit = 2\nhand_made = 3\n", master)
        return configuration

    def test_what_is_asked_for_is_adopted_by_an_apply_that_changes_nothing(self, managed, minion):
        assert managed.changes(**ASKED) == {}
        _mta_postfix_edit.remember(minion)
        changes = managed.changes(revert=[])
        assert changes.pop("message_size_limit") == {"old": "2", "new": "1"}
        assert changes.pop("master.cf smtp/inet")["new"] == {"-o x_nets": None}
        assert not changes

    def test_what_is_changed_at_the_same_time_goes_back_to_what_was_first(self, managed):
        managed.apply(parameters={"message_size_limit": 9}, revert=["message_size_limit"])
        assert managed.changes(revert=[])["message_size_limit"] == {"old": "9", "new": "1"}

    def test_what_nothing_asks_for_is_left_and_named_once(self, managed, minion):
        plan = managed.plan(revert=["biff"])
        assert plan.changes == {}
        (note,) = plan.notes
        assert note.startswith("Left as it is (null takes it out)") and note.endswith(
            ": message_size_limit, hand_made"
        )
        _mta_postfix_edit.remember(minion)
        assert managed.plan(revert=["biff"]).notes == []


def test_without_the_package_a_dry_run_says_what_it_cannot_know(configuration, pretend):
    pretend("_mta_postfix_view.installed", lambda: False)
    configuration.write(MAIN, MASTER)
    assert configuration.plan(parameters={"smtpd_banner": "x"}).notes == []
    (configuration.directory / "main.cf").unlink()
    (note,) = configuration.plan(parameters={"smtpd_banner": "x"}).notes
    assert "not known before it is there" in note
