"""Private copies of the configuration: made, edited, asked about, and gone afterwards."""

import os
import pathlib

import pytest
from conftest import MAIN, MASTER
from salt.exceptions import CommandExecutionError

import _mta_postfix_stage
import _mta_postfix_syntax
import _mta_postfix_view
from _mta_postfix_view import Files
from _mta_system import Finished


def test_the_private_copy_is_gone_afterwards_and_nobody_else_could_read_it(configuration, tmp_path):
    parent = str(tmp_path / "state")
    with _mta_postfix_stage.private_copy(parent, configuration.path, Files(MAIN, MASTER)) as stage:
        assert os.stat(stage).st_mode & 0o777 == 0o700
        assert sorted(os.listdir(stage)) == ["main.cf", "master.cf"]
    assert not (tmp_path / "state").exists()


def test_a_private_copy_of_a_run_that_was_killed_is_removed(configuration, tmp_path):
    left = tmp_path / "state" / "stage.999999999.x"
    left.mkdir(parents=True)
    with _mta_postfix_stage.private_copy(str(tmp_path / "state"), configuration.path, Files("", "")):
        assert not left.exists()


def test_a_private_copy_that_cannot_be_made_is_an_error(configuration):
    with (
        pytest.raises(CommandExecutionError, match="Cannot make a private copy in /proc/none"),
        _mta_postfix_stage.private_copy("/proc/none", configuration.path, Files("", "")),
    ):
        pass


@pytest.mark.parametrize("end", ["biff = no", "biff = no\n  # a comment", "biff = no\n\n   ", "biff = no,\n  yes"])
def test_a_last_line_without_an_end_of_main_cf_gets_one_before_postconf_writes(
    configuration, commands, tmp_path, end
):
    with _mta_postfix_stage.private_copy(str(tmp_path), configuration.path, Files(end, MASTER)) as stage:
        _mta_postfix_stage.edit_parameters(stage, {"relayhost": "[a.example]"})
        assert _mta_postfix_view.read_both(stage) == (f"{end}\nrelayhost = [a.example]\n", MASTER)


@pytest.mark.parametrize("end", ["", "\n  -o syslog_name=x", "\n# a comment"])
def test_a_last_line_without_an_end_of_master_cf_gets_one_before_postconf_writes(
    configuration, commands, tmp_path, end
):
    text = f"smtp inet n - y - - smtpd{end}"
    added = _mta_postfix_syntax.wanted_services({"587/inet": {"command": "smtpd"}}, {})
    with _mta_postfix_stage.private_copy(str(tmp_path), configuration.path, Files(MAIN, text)) as stage:
        _mta_postfix_stage.edit_services(stage, added)
        main, master = _mta_postfix_view.read_both(stage)
    assert main == MAIN
    assert master == f"{text}\n587 inet n - - - - smtpd\n"


def test_a_value_that_is_longer_than_an_argument_may_be_is_written_all_the_same(configuration, commands, tmp_path):
    networks = ", ".join(f"10.{number // 250}.{number % 250}.0/24" for number in range(12_000))
    many = {f"list_{number}": "x" * 90_000 for number in range(30)}
    with _mta_postfix_stage.private_copy(str(tmp_path), configuration.path, Files(MAIN, MASTER)) as stage:
        _mta_postfix_stage.edit_parameters(stage, {"mynetworks": networks, "biff": "yes", **many})
        shown = _mta_postfix_view.show(stage)
    assert (shown["mynetworks"], shown["biff"]) == (networks, "yes")
    assert {name: shown[name] for name in many} == many
    assert len(commands()) == 1


@pytest.mark.parametrize("ends", [True, False])
def test_a_file_in_which_nothing_is_set_stays_as_it_is(configuration, commands, tmp_path, ends):
    files = Files(MAIN if ends else MAIN.rstrip(), MASTER if ends else MASTER.rstrip())
    with _mta_postfix_stage.private_copy(str(tmp_path), configuration.path, files) as stage:
        _mta_postfix_stage.edit_parameters(stage, {})
        _mta_postfix_stage.edit_services(stage, {})
        assert _mta_postfix_view.read_both(stage) == files
    assert commands() == []


# -- what Postfix does not know ----------------------------------------------------------------


def test_names_that_are_in_the_files_already_need_no_process(configuration, commands):
    services = {"relay/unix": {"overrides": {"syslog_name": "x"}}, "smtp/inet": {"chroot": "n"}}
    assert configuration.refused({"biff": "x", "never": None}, services) == []
    assert commands() == []


def test_shapes_that_cannot_be_are_refused_by_name(configuration):
    problems = configuration.refused({"a b": "x"}, {"smtp/tcp": {}})
    assert [(item.get("parameter"), item.get("service")) for item in problems] == [
        ("a b", None),
        (None, "smtp/tcp"),
    ]


def test_a_name_that_postconf_calls_unused_is_refused_with_the_nearest(configuration, commands, monkeypatch):
    def run(*command):
        if command[3] == "-d":
            return Finished(0, b"smtpd_banner = x\nsmtpd_helo_required = no\n", b"")
        main = pathlib.Path(command[2], "main.cf").read_text()
        names = [name for name in ("smtpd_bannr", "old_one") if name in main]
        said = "".join(f"postconf: warning: {command[2]}/main.cf: unused parameter: {n}=x\n" for n in names)
        return Finished(0, b"", said.encode())

    configuration.write(f"{MAIN}old_one = 1\n")
    monkeypatch.setattr(_mta_postfix_view, "run", run)
    assert configuration.refused({"smtpd_bannr": "x", "old_one": "2"}) == [
        {
            "parameter": "smtpd_bannr",
            "reason": "this Postfix does not know this parameter, and nothing refers to it",
            "nearest": "smtpd_banner",
        }
    ]


def test_a_service_that_cannot_be_is_refused_by_name(configuration):
    words = "smtp/inet: command: qmgr takes no mail from the network; what does is smtpd or postscreen"
    wanted = {"smtp/inet": {"command": "qmgr"}}
    assert configuration.refused({}, wanted) == [{"service": "smtp/inet", "reason": words, "nearest": None}]
