"""bin/apply: arguments, the choice of Salt, the configuration, and what it makes of Salt's output."""

import io
import json
import os
import pathlib
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from conftest import load_program

pytestmark = pytest.mark.once

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "bin" / "apply"


@pytest.fixture
def apply(tmp_path, monkeypatch):
    """The script as a module, with its directories below a temporary one."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    module = load_program("apply")
    monkeypatch.setattr(module, "PRIVATE", tmp_path / "opt")
    monkeypatch.setattr(module, "CACHE", tmp_path / "cache")
    return module


def program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("name", ["mail.example.com", "a.b", "MX-1.example.co.uk", "1.example.com"])
def test_fully_qualified_names_are_taken(apply, name):
    assert apply.is_fqdn(name)


@pytest.mark.parametrize(
    "name",
    ["mail", "", "-a.b", "a-.b", "a..b", "a.b.", "a_b.c", "192.0.2.1", "a.b\n", "x" * 64 + ".com", "a b.c"],
)
def test_other_names_are_refused(apply, name):
    assert not apply.is_fqdn(name)


@pytest.mark.parametrize(
    "arguments", [[], ["mail"], ["a.b", "c.d"], ["a.b", "--pillar", "/no/such"], ["a.b", "--x"]]
)
def test_wrong_arguments_end_with_2_and_the_usage(arguments):
    done = subprocess.run([str(SCRIPT), *arguments], stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: bin/apply")


def test_help_works_for_everybody():
    done = subprocess.run([str(SCRIPT), "-h"], stdout=subprocess.PIPE, text=True, check=True)
    assert "--pillar FILE" in done.stdout


def test_only_root_may_run_it(apply, monkeypatch, capsys):
    monkeypatch.setattr(apply.os, "geteuid", lambda: 1000)
    assert apply.main(["mail.example.com"]) == 1
    assert "sudo" in capsys.readouterr().err


def test_a_recent_salt_call_is_usable_and_an_old_one_is_not(apply, tmp_path):
    script = f"#!{sys.executable}\nprint('salt-call %s (Name)')\n"
    assert apply.usable(program(tmp_path / "a", script % "3006.28"))
    assert apply.usable(program(tmp_path / "b", script % "3008.3"))
    assert not apply.usable(program(tmp_path / "c", script % "3005.1"))
    assert not apply.usable(program(tmp_path / "d", "#!/bin/sh\nexit 1\n"))
    assert not apply.usable(tmp_path / "absent")


def test_a_salt_call_whose_python_lacks_pyopenssl_is_not_usable(apply, tmp_path):
    python = program(tmp_path / "python3", '#!/bin/sh\n[ "$2" = -c ] && exit 1\necho salt-call 3008.3\n')
    assert not apply.usable(program(tmp_path / "salt-call", f"#!{python}\n"))


def test_the_python_of_salts_own_packages_is_isolated_too(apply, tmp_path):
    said = f'echo "$@" >> {tmp_path}/said; echo salt-call 3008.3'
    program(tmp_path / "opt" / "bin" / "python3.14", f"#!/bin/sh\n{said}\n")
    text = """#!/bin/sh\n"true" ''''\n"exec" "$(dirname "$(readlink -f "$0")")/bin/python3.14" "$0" "$@"\n'''\n"""
    program(tmp_path / "opt" / "salt-call", text)
    (tmp_path / "salt-call").symlink_to(tmp_path / "opt" / "salt-call")
    assert apply.usable(str(tmp_path / "salt-call"))
    said = (tmp_path / "said").read_text().splitlines()
    assert said == [f"-I {tmp_path}/salt-call --version", "-I -c import OpenSSL"]
    # As the script itself would.
    subprocess.run([tmp_path / "salt-call", "--version"], check=True, stdout=subprocess.DEVNULL)
    assert (tmp_path / "said").read_text().splitlines()[2:] == [f"{tmp_path}/salt-call --version"]


def installed(apply, name, complete=True):
    """A private salt-call that seems to have been installed."""
    salt_call = program(apply.PRIVATE / name / "bin" / "salt-call", "#!/bin/sh\necho salt-call 3008.3\n")
    if complete:
        (apply.PRIVATE / name / "complete").touch()
    return salt_call


def test_the_salt_on_the_path_comes_before_the_private_one(apply, tmp_path, monkeypatch):
    script = "#!/bin/sh\necho salt-call 3008.3\n"
    private = installed(apply, apply.environment().name)
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}:/bin:/usr/bin")
    assert apply.find_salt(test=False) == str(private)
    on_path = program(tmp_path / "path" / "salt-call", "#!/bin/sh\nexit 1\n")
    assert apply.find_salt(test=False) == str(private)
    on_path.write_text(script)
    assert apply.find_salt(test=False) == str(on_path)
    private.unlink()
    on_path.unlink()
    assert apply.find_salt(test=False) is None


@pytest.mark.parametrize(("version", "line"), [((3, 9), 3006), ((3, 10), 3008), ((3, 13), 3008)])
def test_the_release_of_salt_follows_python(apply, version, line):
    assert apply.salt_line(version) == line


def test_test_mode_installs_no_packages(apply, tmp_path, monkeypatch):
    monkeypatch.setattr(apply, "missing_packages", lambda: ["gcc", "python3-dev"])
    monkeypatch.setattr(apply, "checked", lambda *_args, **_kwargs: pytest.fail("ran a command"))
    with pytest.raises(apply.Stop, match="apt-get install gcc python3-dev"):
        apply.install_salt(tmp_path, test=True)


@pytest.fixture
def installs(apply, monkeypatch, tmp_path):
    """The commands that would install Salt; no Salt is on the PATH."""
    commands = []

    def checked(command, **_options):
        commands.append(list(map(str, command)))
        if "venv" in command:
            command[-1].mkdir(parents=True)

    monkeypatch.setattr(apply, "checked", checked)
    monkeypatch.setattr(apply, "missing_packages", list)
    monkeypatch.setenv("PATH", "/bin:/usr/bin")
    return commands


def test_another_list_of_versions_is_installed_by_the_next_run_and_the_former_salt_removed(
    apply, installs, monkeypatch, tmp_path
):
    installed(apply, apply.environment().name)
    assert apply.find_salt(test=False)
    newer = tmp_path / "requirements"
    shutil.copytree(apply.REQUIREMENTS, newer)
    monkeypatch.setattr(apply, "REQUIREMENTS", newer)
    with (newer / f"salt-{apply.salt_line(sys.version_info)}.txt").open("a") as file:
        file.write("other==1.0 --hash=sha256:00\n")
    assert apply.find_salt(test=True), "a dry run installs nothing where there is a Salt"
    assert apply.find_salt(test=False) is None
    apply.install_salt(tmp_path, test=False)
    assert list(apply.PRIVATE.glob("salt*")) == [apply.environment()]
    assert str(apply.environment() / "bin" / "python3") in installs[-1]


def test_an_installation_that_was_cut_short_is_not_used(apply, installs):
    installed(apply, apply.environment().name, complete=False)
    assert apply.find_salt(test=False) is None
    assert apply.find_salt(test=True) is None


def test_of_two_first_runs_one_installs_and_the_other_waits(apply, installs, monkeypatch, capsys, tmp_path):
    def make(directory):
        installs.append(directory)
        directory.mkdir()
        time.sleep(0.5)

    monkeypatch.setattr(apply, "make_environment", make)
    runs = [threading.Thread(target=apply.install_salt, args=(tmp_path, False)) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert installs == [apply.environment()]
    assert "Waiting for another bin/apply" in capsys.readouterr().out


def test_a_signal_ends_the_waiting(apply, installs, tmp_path):
    with apply.installing():
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
        with pytest.raises(apply.Interrupted), apply.GUARD:
            apply.install_salt(tmp_path, False)


def test_whether_a_virtual_environment_can_be_made_is_asked_of_an_isolated_python(apply, monkeypatch):
    commands = []
    monkeypatch.setattr(apply, "output", commands.append)
    apply.missing_packages()
    assert [command[1:3] for command in commands] == [["-I", "-c"]]


@pytest.mark.parametrize("minor", range(9, 15))
def test_every_package_has_one_version_and_hashes(apply, monkeypatch, minor):
    monkeypatch.setattr(apply.sys, "version_info", (3, minor, 0))
    names = set()
    for path in apply.requirements():
        lines = path.read_text().replace("\\\n", "").splitlines()
        for line in lines[1:]:
            assert re.fullmatch(r"[a-z0-9-]+==\S+( ; [^#]*?)?( +--hash=sha256:[0-9a-f]{64})+", line), line
            names.add(line.partition("==")[0])
    assert {"salt", "pyopenssl", "setuptools", "wheel", "cryptography"} <= names


def test_the_configuration_is_private_and_the_argument_overrides_the_pillar_file(apply, tmp_path, capsys):
    pillar = tmp_path / "my pillar"
    pillar.write_text("postfix_mta:\n  # ours\n  hostname: other.example.com\n  profile: guide\n")
    private = tmp_path / "private"
    private.mkdir()
    arguments = apply.parse(["mail.example.com", "--pillar", str(pillar), "--test"])
    apply.write_configuration(private, arguments)
    minion = json.loads((private / "minion").read_text())
    assert minion["file_roots"] == {"base": [str(SCRIPT.parents[1])]}
    assert minion["cachedir"] == str(private / "cache")
    assert not apply.CACHE.exists()
    assert json.loads((private / "pillar" / "top.sls").read_text()) == {"base": {"*": ["given", "hostname"]}}
    assert (private / "pillar" / "given.sls").read_text() == pillar.read_text()
    assert "other.example.com; mail.example.com is used" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("postfix_mta:\n  hostname: a.b\n", "a.b"),
        (
            "other:\n  hostname: x.y\npostfix_mta:\n\n    # x\n    profile: guide\n    hostname: 'a.b' # x",
            "a.b",
        ),
        ("postfix_mta:\n  relay:\n    hostname: x.y\n", None),
        ("postfix_mta:\n  hostname: null\n", None),
        ("postfix_mta: {}\n", None),
        ("other:\n  hostname: x.y\n", None),
        ("", None),
    ],
)
def test_the_host_name_of_a_pillar_file_is_found(apply, text, name):
    assert apply.hostname_in(text) == name


PLAIN = {
    "postfix:\n  parameters:\n    x: y\n": "formula's settings are; it has: postfix",
    "root_recipient: alice\nrelay:\n  host: x\n": "below postfix_mta:, indented, belong: root_recipient, relay",
    "": "is empty; settings are under postfix_mta:",
    "# postfix: x\n\n": "is empty",
    "'other': 1\n": "it has: other",
}
# What only rendering tells.
RENDERED = {
    "{postfix: {profile: guide}}": (
        {"postfix": {}},
        "formula's settings are; it has: postfix",
    ),
    "postfix_mta:\nrelay:\n  host: x\n": ({"postfix_mta": None, "relay": {}}, "indented, belong: relay"),
    "postfix_mta:\n": (
        {"postfix_mta": None},
        "nothing below postfix_mta:; for the defaults write postfix_mta: {}",
    ),
    "postfix_mta: [a]\n": ({"postfix_mta": ["a"]}, "no mapping of settings below postfix_mta:"),
    "{% if false %}\npostfix_mta: {}\n{% endif %}\n": ({}, "is empty"),
}
LEGAL = [
    "postfix_mta: {}\n",
    '"postfix_mta":\n  profile: guide\n',
    "{% set x = 'postfix' %}\n{{ x }}_mta: {}\n",
    "#!py\ndef run():\n    return dict([('postfix_' 'mta', dict())])\n",
    "include:\n  - other\n",
    "[unclosed",
]


def given(tmp_path, text):
    pillar = tmp_path / "mail.sls"
    pillar.write_text(text)
    return pillar


@pytest.mark.parametrize("text", PLAIN)
def test_a_pillar_file_that_is_plainly_none_of_this_formula_is_refused_before_salt_is_installed(
    apply, tmp_path, monkeypatch, capsys, text
):
    monkeypatch.setattr(apply, "check_host", lambda: None)
    monkeypatch.setattr(apply, "TEMPORARY", tmp_path)
    for name in ("find_salt", "install_salt"):
        monkeypatch.setattr(apply, name, lambda *_: pytest.fail("is refused too late"))
    for arguments in (["mail.example.com"], ["call", "--hostname", "mail.example.com"]):
        rest = ["test.ping"] if arguments[0] == "call" else []
        assert apply.main([*arguments, "--pillar", str(given(tmp_path, text)), *rest]) == 1
        said = capsys.readouterr().err
        assert said.startswith(f"bin/apply: nothing has been changed: {tmp_path}/mail.sls ")
        assert PLAIN[text] in said


@pytest.mark.parametrize("text", [*LEGAL, *RENDERED])
def test_what_only_rendering_tells_is_not_refused_at_sight(apply, tmp_path, text):
    apply.refuse_at_sight(given(tmp_path, text))


def rendering(found):
    """A salt-call whose pillar is given, and which applies nothing but where it may."""
    applied = json.dumps({"local": {}})
    pillar = json.dumps({"local": found})
    return f"case \"$*\" in *pillar.items*) echo '{pillar}' ;; *) touch applied; echo '{applied}' ;; esac"


@pytest.mark.parametrize("text", RENDERED)
def test_a_pillar_file_that_renders_to_no_settings_is_refused_before_anything_is_applied(
    apply, with_salt, tmp_path, monkeypatch, capsys, text
):
    monkeypatch.chdir(tmp_path)
    found, said = RENDERED[text]
    with_salt(rendering(found))
    assert apply.main(["mail.example.com", "--pillar", str(given(tmp_path, text))]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "applied").exists()


def test_settings_beside_the_key_are_noted_and_other_keys_are_legal(
    apply, with_salt, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(apply, "print_conversation", lambda _: None)
    for found, noted in (({"relay": {}}, True), ({"nginx": {}}, False)):
        with_salt(rendering({"postfix_mta": {}, **found}))
        assert apply.main(["mail.example.com", "--pillar", str(given(tmp_path, "postfix_mta: {}\n"))]) == 0
        assert ("may belong below it: relay" in capsys.readouterr().out) is noted
        assert (tmp_path / "applied").exists()


def test_a_pillar_that_is_forgotten_is_told_before_the_apply_until_one_without_it_succeeds(
    apply, with_salt, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(apply, "print_conversation", lambda _: None)
    pillar = given(tmp_path, "postfix_mta: {}\n")
    with_salt(rendering({"postfix_mta": {}}))

    def said(*arguments):
        assert apply.main(["mail.example.com", *arguments]) == 0
        return capsys.readouterr().out

    assert "Note" not in said()
    assert "Note" not in said("--pillar", "mail.sls", "--test")
    assert "Note" not in said()
    assert "Note" not in said("--pillar", "mail.sls")
    note = f"Note: no --pillar is given, and the last apply had --pillar {pillar}:"
    assert said("--test").startswith(note)
    assert apply.main(["call", "--hostname", "a.b", "state.apply", "postfix_mta.aliases"]) == 0
    assert capsys.readouterr().err.startswith(note)
    assert apply.main(["call", "--hostname", "a.b", "mta_queue.summary"]) == 0
    assert apply.main(["call", "--hostname", "a.b", "state.apply", "postfix_mta.clean"]) == 0
    assert "Note" not in capsys.readouterr().err
    assert said().startswith(note)
    assert "Note" not in said()


def test_what_yaml_says_of_a_tab_names_its_line(apply, tmp_path):
    pillar = given(tmp_path, "postfix_mta:\n  parameters:\n\tx: y\n")
    log = "CRITICAL:z:Rendering SLS 'given' failed, render error:\nfound character\nTraceback (most\n"
    assert apply.unrendered([], log, pillar).splitlines()[-1].startswith("Line 3 of it is indented by a tab")
    pillar.write_text("include:\n  - other\n")
    assert "takes one file" in apply.unrendered(["not available"], "", pillar)
    assert str(pillar) in apply.unrendered(
        ["Pillar render error: SLS 'given' does not render to a dictionary"], "", pillar
    )


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["clean"], "state.apply postfix_mta.clean"),
        (["postfix_mta.clean", "test=True"], "state.apply postfix_mta.clean test=True"),
        (["status"], "mta_status.report"),
        (["mta_queue.list", "limit=10"], "mta_queue.list limit=10"),
        (["postconf.show"], "postconf.show"),
        (["state.apply", "postfix_mta"], "state.apply postfix_mta"),
        (["call", "clean"], "state.apply postfix_mta.clean"),
        (["call", "postfix_mta.aliases"], "state.apply postfix_mta.aliases"),
        (["call", "audit"], "mta_probe.audit"),
    ],
)
def test_words_that_are_no_host_name_are_answered_with_the_right_call(apply, capsys, arguments, meant):
    with pytest.raises(SystemExit) as ended:
        apply.main(arguments)
    assert ended.value.code == 2
    assert f"did you mean: bin/apply call {meant}\n" in capsys.readouterr().err
    assert apply.meant_call([]) is None
    assert apply.meant_call(["mail.example.com"]) is None


def test_what_is_meant_exists(apply):
    for meant in apply.MEANT.values():
        function, _, sls = meant.partition(" ")
        module, _, name = function.partition(".")
        assert name in apply.functions_of(module) or apply.sls_call([sls]) == meant


def test_call_is_in_the_usage_and_needs_a_function_only(apply, capsys):
    for arguments in ([], ["call"]):
        with pytest.raises(SystemExit):
            apply.main(arguments)
    said = capsys.readouterr().err
    assert "bin/apply call FUNCTION [ARGUMENT ...]" in said
    assert said.endswith("the following arguments are required: FUNCTION\n")
    with pytest.raises(SystemExit):
        apply.main(["-h"])
    assert "postfix_mta.clean" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["mail.example.com"], ["call", "--hostname", "a.b", "state.apply"]])
def test_while_another_apply_runs_one_is_refused_with_what_to_do(apply, with_salt, capsys, arguments):
    with_salt("exit 9")
    with apply.alone():
        assert apply.main(arguments) == 1
    assert "another apply runs on this host. It ends by itself; try again then" in capsys.readouterr().err


def test_an_environment_that_cannot_be_filled_is_removed_and_it_is_said_what_to_look_at(
    apply, tmp_path, monkeypatch
):
    def checked(command, **_options):
        if "pip" in command:
            raise apply.Stop("failed: pip")
        command[-1].mkdir(parents=True)

    monkeypatch.setattr(apply, "checked", checked)
    with pytest.raises(apply.Stop, match=r"(?s)failed: pip\n.* proxy\n.* certificates .*install Salt 3006"):
        apply.make_environment(tmp_path / "salt")
    assert not (tmp_path / "salt").exists()


def salt_call(tmp_path, log, result, code=0):
    (tmp_path / "result.json").write_text(result)
    (tmp_path / "log").write_text(log)
    private = tmp_path / "private"
    private.mkdir()
    script = f'cd {tmp_path}; echo "$@" > arguments; cat log >&2; cat result.json; exit {code}'
    return str(program(tmp_path / "salt-call", f"#!/bin/sh\n{script}\n")), private


LOG = """\
INFO:call:Running state [/etc/mailname] at time 10:00:00.000000
INFO:call:Executing state file.managed for [/etc/mailname]
INFO:format_log:Made the following changes:
'x' changed from 'a' to 'b'
INFO:call:Completed state [/etc/mailname] at time 10:00:00.100000 (duration_in_ms=1234.5)
INFO:call:Executing state a.b for [two]
INFO:format_log:All is well
INFO:call:Completed state [two] at time 10:00:00.100000 (duration_in_ms=1)
INFO:call:Executing state c.d for [three]
ERROR:format_log:It broke
INFO:call:Completed state [three] at time 10:00:00.100000 (duration_in_ms=1)
"""


@pytest.mark.parametrize(("test", "word"), [(True, "would change"), (False, "changed")])
def test_each_state_is_printed_as_it_ends(apply, tmp_path, capsys, test, word):
    command, private = salt_call(tmp_path, LOG, '{"local": {"a_|-b": {}}}')
    assert apply.run(command, private, test, apply.Screen(sys.stdout)) == {"a_|-b": {}}
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"  {word:12} file.managed /etc/mailname (1.2 s)",
        "  ok           a.b two (0.0 s)",
        "  FAILED       c.d three (0.0 s)",
    ]
    assert (tmp_path / "arguments").read_text().split()[-3:] == ["state.apply", "postfix_mta", f"test={test}"]


@pytest.mark.parametrize("result", ["", "Traceback", "[]", '{"remote": {}}'])
def test_a_salt_that_breaks_down_is_shown(apply, tmp_path, result):
    command, private = salt_call(tmp_path, "the reason\n", result, code=1)
    with pytest.raises(apply.Stop, match="the reason"):
        apply.run(command, private, False, apply.Screen(sys.stdout))


def test_a_failed_state_fails_the_run_and_its_comment_is_printed(apply, capsys):
    state = {
        "name": "n",
        "changes": {},
        "comment": "one\ntwo",
        "result": False,
        "__id__": "the id",
        "__run_num__": 1,
    }
    good = {
        "name": "m",
        "changes": {"x": {}},
        "comment": "has been changed",
        "result": True,
        "__run_num__": 0,
    }
    outcome = apply.sorted_out({"b_|-i_|-n_|-c": state, "a_|-i_|-m_|-c": good}, test=False)
    assert outcome["result"] is False
    apply.report(outcome, apply.Screen(sys.stdout))
    out = capsys.readouterr().out
    assert "FAILED:\n  b.c n\n    one\n    two\n" in out
    assert "2 states: 1 changed, 1 failed, 0 not run" in out


def test_predicted_changes_are_no_failure(apply):
    state = {"name": "n", "changes": {"x": {}}, "comment": "would", "result": None}
    assert apply.sorted_out({"a": state}, test=True)["result"] is True


def test_states_that_another_failure_kept_from_running_are_only_counted(apply, capsys):
    comment = "One or more requisite failed: a.b"
    state = {"name": "n", "changes": {}, "comment": comment, "result": False, "__id__": "the id"}
    outcome = apply.sorted_out({"a_|-the id_|-n_|-b": state}, test=False)
    assert outcome["result"] is False
    apply.report(outcome, apply.Screen(sys.stdout))
    assert capsys.readouterr().out == "\n1 states: 0 changed, 0 failed, 1 not run because another failed\n"


def test_what_salt_could_not_render_is_a_failure_with_the_place_in_the_file(apply):
    log = "INFO:x:y\nCRITICAL:z:Rendering SLS 'given' failed:\n  line 2, column 13\nTraceback (most\n  File\n"
    log += "CRITICAL:z:Pillar render error: Rendering SLS 'given' failed. Please see master log for details.\n"
    with pytest.raises(apply.Stop) as stopped:
        apply.returned('{"local": ["Pillar failed to render, see the master log"]}', log, "/root/mail.sls")
    assert str(stopped.value).splitlines() == [
        "nothing has been changed:",
        "The pillar file /root/mail.sls failed:",
        "  line 2, column 13",
    ]


CHANGED = {
    "message_size_limit": {"old": None, "new": "52428800"},
    "master.cf smtp/inet": {
        "old": {"chroot": "y", "command": "smtpd"},
        "new": {"chroot": "n", "command": "smtpd"},
    },
    "activation": "reload",
}


def state_of(number, result=True, changes=None, comment="has been changed", name="n"):
    return {"name": name, "changes": changes or {}, "comment": comment, "result": result, "__run_num__": number}


def test_every_parameter_that_changes_is_shown_with_both_values(apply, capsys):
    outcome = apply.sorted_out({"postconf_|-i_|-/etc/postfix_|-managed": state_of(1, None, CHANGED)}, test=True)
    apply.report(outcome, apply.Screen(sys.stdout))
    assert capsys.readouterr().out.splitlines()[1:6] == [
        "Would change:",
        "  postconf.managed n",
        "    message_size_limit: (none) -> 52428800",
        "    master.cf smtp/inet chroot: y -> n",
        "    activation: reload",
    ]


def test_a_long_change_fits_on_a_screen_and_a_long_value_in_a_line(apply, capsys):
    changes = {f"alias{number}": {"old": "x" * 500, "new": "a\nb"} for number in range(300)}
    outcome = apply.sorted_out({"a_|-i_|-n_|-b": state_of(1, True, changes)}, test=False)
    apply.report(outcome, apply.Screen(sys.stdout))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 30 and max(map(len, lines)) < 120
    assert "    and 280 more: --json shows all" in lines


def test_what_there_is_to_say_where_nothing_changes_is_shown(apply, capsys):
    lacks = "The DNS is not as this server's mail needs it:\nexample.com MX, missing: it should be 10 n."
    states = {
        "mta_dns_|-d_|-d_|-published": state_of(1, True, comment=lacks, name="d"),
        "mta_map_|-m_|-m_|-managed": state_of(2, True, comment="m is in the correct state."),
        "mta_probe_|-p_|-p_|-answers": state_of(3, True, comment="The server answers:\nS: 220"),
    }
    apply.report(apply.sorted_out(states, test=False), apply.Screen(sys.stdout))
    out = capsys.readouterr().out
    assert "\nNotes:\n  mta_dns.published d\n    example.com MX, missing: it should be 10 n.\n\n3 states" in out


def test_what_a_failed_transaction_restored_is_not_called_changed(apply):
    change = {"x": {"old": "a", "new": "b"}}
    states = {
        "mta_package_|-p_|-p_|-installed": state_of(1, True, change),
        "postconf_|-c_|-c_|-managed": state_of(2, True, change),
        "mta_transaction_|-t_|-t_|-committed": state_of(3, False, None, "Undone: main.cf"),
        "mta_firewall_|-f_|-f_|-managed": state_of(4, True, change),
    }
    outcome = apply.sorted_out(states, test=False)
    assert [state["state"] for state in outcome["changed"]] == ["mta_package.installed", "mta_firewall.managed"]
    assert [state["state"] for state in outcome["undone"]] == ["postconf.managed"]


def ended(comment, test=False, end="One or more requisite failed: x"):
    """What is made of a run in which postconf.managed failed, or else the end of the transaction."""
    change = {"x": {"old": "a", "new": "b"}}
    states = {
        "mta_transaction_|-r_|-r_|-recovered": state_of(0, True, change),
        "mta_package_|-p_|-p_|-installed": state_of(1, True, change),
        "saslauthd_|-s_|-s_|-managed": state_of(2, None if test else True, change),
        "postconf_|-c_|-c_|-managed": state_of(3, comment is None, None, comment or ""),
        "mta_transaction_|-t_|-t_|-committed": state_of(4, False, None, end),
    }
    return apply_outcome(states, test)


def apply_outcome(states, test):
    outcome = load_program("apply").sorted_out(states, test)
    return [[state["state"] for state in outcome[title]] for title in ("changed", "undone")]


def test_what_a_failure_before_the_end_undid_is_not_called_changed():
    kept = ["mta_transaction.recovered", "mta_package.installed"]
    assert ended("refused\nUndone: /a.") == [kept, ["saslauthd.managed"]]
    assert ended(None, end="refused\nUndone: /a.") == [kept, ["saslauthd.managed"]]


def test_what_stays_though_a_state_failed_is_not_called_undone(apply):
    everything = ["mta_transaction.recovered", "mta_package.installed", "saslauthd.managed"]
    assert ended(None, end="Done: x.\nAll is in force, but: y") == [everything, []]
    assert ended("refused\nNOT UNDONE: /a is gone") == [everything, []]
    assert ended("refused", test=True) == [everything, []], "nothing is undone where nothing was changed"
    library = [SCRIPT.parents[1] / "_modules" / name for name in ("_mta_apply.py", "_mta_transaction.py")]
    for words, path in zip(apply.STAYS, library):
        assert f'"{words}' in path.read_text()


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_colour_and_the_line_of_what_is_being_done_are_for_terminals_only(apply, tmp_path, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    command, private = salt_call(tmp_path, LOG, '{"local": {"a_|-b": {}}}')
    plain, terminal = io.StringIO(), Terminal()
    for stream in (plain, terminal):
        apply.run(command, private, False, apply.Screen(stream))
    assert "\033" not in plain.getvalue() and "..." not in plain.getvalue()
    assert "...          file.managed /etc/mailname" in terminal.getvalue()
    assert "\033[33mchanged     \033[0m file.managed" in terminal.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    assert apply.Screen(terminal).paint("FAILED") == "FAILED"


@pytest.fixture
def with_salt(apply, tmp_path, monkeypatch):
    """A function that makes a shell script the salt-call that is found."""
    monkeypatch.setattr(apply, "check_host", lambda: None)
    monkeypatch.setattr(apply, "TEMPORARY", tmp_path)
    monkeypatch.setattr(apply.os, "umask", lambda _mask: 0o022)
    found = lambda text: program(tmp_path / "salt-call", f"#!/bin/sh\n{text}\n")  # noqa: E731
    monkeypatch.setattr(apply, "find_salt", lambda test: str(tmp_path / "salt-call"))
    return found


def test_json_is_all_that_is_printed_to_stdout(apply, with_salt, capfd):
    result = '{"local": {"a_|-i_|-n_|-b": {"name": "n", "changes": {}, "comment": "", "result": true}}}'
    with_salt(f"echo 'INFO:call:Executing state a.b for [n]' >&2; echo '{result}'")
    assert apply.main(["mail.example.com", "--json"]) == 0
    printed = capfd.readouterr()
    assert json.loads(printed.out)["result"] is True
    assert printed.err.startswith("Applying")


@pytest.mark.parametrize(("function", "modules"), [("mta_queue.list", True), ("state.apply", False)])
def test_call_calls_a_function_with_the_formulas_modules(apply, with_salt, tmp_path, function, modules):
    with_salt(f'echo "$@" > {tmp_path}/arguments; exit 7')
    assert apply.main(["call", "--hostname", "mail.example.com", function, "limit=10", "--x"]) == 7
    words = (tmp_path / "arguments").read_text().split()
    assert words[-3:] == [function, "limit=10", "--x"]
    assert "--retcode-passthrough" in words
    # SLS files bring them by themselves.
    assert (f"--module-dirs={SCRIPT.parents[1]}" in words) is modules


def test_a_call_has_the_name_that_postfix_has(apply, tmp_path, monkeypatch):
    monkeypatch.setattr(apply, "MAIN_CF", tmp_path / "main.cf")
    (tmp_path / "main.cf").write_text("myhostname = mail.example.org\n")
    assert apply.parse_call(["test.ping"]).hostname == "mail.example.org"


def test_the_conversation_is_the_comment_of_the_probe(apply, capsys):
    apply.print_conversation({"mta_probe_|-id_|-name_|-answers": {"comment": "220 mail.example.com ESMTP"}})
    assert "220 mail.example.com ESMTP" in capsys.readouterr().out


def test_without_a_probe_the_server_is_asked(apply):
    def serve():
        connection, _ = listener.accept()
        with connection, connection.makefile("rw", newline="\r\n") as stream:
            for answer in ("220 mail.example.com ESMTP", "250-mail.example.com\r\n250 DSN", "221 Bye"):
                stream.write(answer + "\r\n")
                stream.flush()
                stream.readline()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        text = apply.conversation("127.0.0.1", listener.getsockname()[1])
        thread.join()
    assert text.splitlines()[1:] == [
        "220 mail.example.com ESMTP",
        "ehlo localhost",
        "250-mail.example.com",
        "250 DSN",
        "quit",
        "221 Bye",
    ]


def test_a_server_that_is_down_is_an_error(apply):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(apply.Stop, match="does not answer"):
        apply.conversation("127.0.0.1", port)


# What the script is called with in these tests: root's rights and Debian are taken for granted, and all its
# directories are below the first argument.
AS_ROOT = """
import importlib.machinery, importlib.util, pathlib, sys
sys.dont_write_bytecode = True
here = pathlib.Path(sys.argv[1])
loader = importlib.machinery.SourceFileLoader("bin_apply", {script!r})
apply = importlib.util.module_from_spec(importlib.util.spec_from_loader("bin_apply", loader))
loader.exec_module(apply)
apply.check_host = lambda: None
apply.PRIVATE, apply.CACHE = here / "opt", here / "cache"
apply.TEMPORARY, apply.JOURNAL = here / "tmp", here / "journal"
apply.print_conversation = lambda result: None
sys.exit(apply.main(sys.argv[2:]))
"""
# A salt-call that takes its time, and notes how it is started. It ends like Salt by Ctrl-C: after what it is at.
SALT_CALL = """\
#!{python}
import json, os, pathlib, sys, time
here = pathlib.Path({here!r})
if "--version" in sys.argv:
    print("salt-call 3008.3")
    sys.exit()
if "pillar.items" in sys.argv:
    print(json.dumps(dict(local=dict(postfix_mta=dict()))))
    sys.exit()
umask = os.umask(0o022)
facts = dict(isolated=sys.flags.isolated, umask=umask, argv=sys.argv, pid=os.getpid())
facts["environment"] = [name for name in os.environ if name.startswith("PYTHON")]
facts["pillar"] = sorted(path.name for path in here.glob("tmp/*/pillar/*"))
(here / "new").write_text(json.dumps(facts))
os.rename(here / "new", here / "started")
try:
    time.sleep(SECONDS)
except KeyboardInterrupt:
    time.sleep(0.3)
    (here / "undone").touch()
    raise
print(json.dumps(dict(local=dict())))
"""


@pytest.fixture
def as_root(tmp_path):
    """Start the script with a salt-call that runs for some seconds; the process."""
    (tmp_path / "tmp").mkdir()
    driver = tmp_path / "driver.py"
    driver.write_text(AS_ROOT.format(script=str(SCRIPT)))
    pillar = tmp_path / "mail.sls"
    pillar.write_text("postfix_mta: {relay: {password: geheim}}\n")
    started = []

    def start(seconds=60, leader=(), **options):
        text = SALT_CALL.replace("SECONDS", str(seconds)).format(python=sys.executable, here=str(tmp_path))
        program(tmp_path / "path" / "salt-call", text)
        environment = {**os.environ, "PATH": f"{tmp_path / 'path'}:{os.environ['PATH']}", **options.pop("env", {})}
        argv = [*leader, sys.executable, driver, tmp_path, "mail.example.com", "--pillar", pillar]
        streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        # In the background of a shell this process ignores SIGINT, and what it starts would, too.
        options = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **streams, **options}
        process = subprocess.Popen(argv, env=environment, text=True, **options)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def until(path):
    """Wait for a file, and return what it says."""
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.01)
    return path.read_text()


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


SIGNALS = [signal.SIGHUP, signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_salt_and_leaves_no_pillar(as_root, tmp_path, number):
    process = as_root()
    facts = json.loads(until(tmp_path / "started"))
    assert facts["pillar"] == ["given.sls", "hostname.sls", "top.sls"]
    process.send_signal(number)
    assert process.wait(30) == 128 + number
    assert (tmp_path / "undone").exists()
    assert not alive(facts["pid"])
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_second_signal_does_not_cut_short_what_salt_undoes(as_root, tmp_path):
    process = as_root()
    until(tmp_path / "started")
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
        process.send_signal(number)
        time.sleep(0.05)
    assert process.wait(30) == 128 + signal.SIGINT
    assert (tmp_path / "undone").exists()
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("number", SIGNALS)
def test_at_whatever_moment_it_comes(as_root, tmp_path, number):
    """Runs of half a second; the signal comes ever later, from the start of Python on."""
    codes = set()
    for step in range(12):
        (tmp_path / "started").unlink(missing_ok=True)
        process = as_root(seconds=0.1)
        time.sleep(0.05 * step)
        process.send_signal(number)
        codes.add(process.wait(30))
        assert list((tmp_path / "tmp").iterdir()) == [], step
        if (tmp_path / "started").exists():
            assert not alive(json.loads((tmp_path / "started").read_text())["pid"]), step
    # 1: Python had hardly begun, and its own way to end is a traceback.
    assert 128 + number in codes
    assert codes <= {0, 1, 128 + number, -number}


def test_what_is_left_of_a_transaction_is_said(as_root, tmp_path):
    process = as_root()
    until(tmp_path / "started")
    (tmp_path / "journal").mkdir()
    process.terminate()
    assert "undone by the next one" in process.communicate(timeout=30)[1]
    assert process.returncode == 128 + signal.SIGTERM


PACKAGE, SASL = ("mta_package.installed", "changed"), ("saslauthd.managed", "changed")
END = "mta_transaction.committed"
UNDONE = "what it had changed is undone"


@pytest.mark.parametrize(
    ("done", "executing", "left", "said"),
    [
        ([], "", [], "nothing has been changed"),
        ([("mta_package.installed", "ok")], "saslauthd.managed", [], "nothing has been changed"),
        (
            [],
            "mta_package.installed",
            [],
            "mta_package.installed was cut short, and the next apply goes on with it",
        ),
        ([PACKAGE], "saslauthd.managed", [], "what these changed stays: mta_package.installed"),
        (
            [PACKAGE],
            "saslauthd.managed",
            ["cut_off"],
            f"{UNDONE}; what these changed stays: mta_package.installed",
        ),
        ([SASL], "postconf.managed", ["cut_off"], UNDONE),
        ([SASL], END, ["cut_off"], UNDONE),
        ([SASL], END, ["cut_off", "committed"], "what these changed stays: saslauthd.managed"),
        ([SASL], END, [], "what these changed stays: saslauthd.managed"),
        ([SASL, (END, "FAILED")], "mta_firewall.managed", [], f"{UNDONE}; mta_firewall.managed was cut short"),
        ([SASL, (END, "changed")], "", [], f"what these changed stays: saslauthd.managed, {END}"),
        ([SASL], "postconf.managed", ["journal"], "undone by the next one"),
    ],
)
def test_how_an_interrupted_run_ended_is_told_from_what_it_did(
    apply, monkeypatch, tmp_path, done, executing, left, said
):
    monkeypatch.setattr(apply, "JOURNAL", tmp_path / "journal")
    progress = apply.Progress(test=False)
    progress.done, progress.executing = done, executing
    for name in left:
        (tmp_path / name).mkdir()
    assert said in progress.ending()
    progress.test = True
    assert progress.ending() == "nothing has been changed"


def test_an_older_mark_of_an_undo_is_not_taken_for_this_runs(apply, monkeypatch, tmp_path):
    monkeypatch.setattr(apply, "JOURNAL", tmp_path / "journal")
    (tmp_path / "cut_off").touch()
    os.utime(tmp_path / "cut_off", (1, 1))
    assert apply.Progress(test=False).ending() == "nothing has been changed"


@pytest.mark.parametrize("number", SIGNALS)
def test_how_it_ended_is_the_last_line_after_a_signal(as_root, tmp_path, number):
    process = as_root()
    until(tmp_path / "started")
    process.send_signal(number)
    assert process.communicate(timeout=30)[1].endswith("\nbin/apply: nothing has been changed\n")


# The leader of a terminal's session: as shells do it hands on that the terminal has gone. Notes the exit code.
LEADER = """
import fcntl, os, signal, subprocess, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
process = subprocess.Popen(sys.argv[2:])
signal.signal(signal.SIGHUP, lambda number, _: process.send_signal(number))
code = process.wait()
with open(sys.argv[1] + ".new", "w") as file:
    file.write(str(code))
os.rename(sys.argv[1] + ".new", sys.argv[1])
"""


def test_a_terminal_that_goes_away_is_a_signal_like_others(as_root, tmp_path):
    controller, terminal = pty.openpty()
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), terminal)
    leader = [sys.executable, "-c", LEADER, tmp_path / "code"]
    as_root(leader=leader, start_new_session=True, **streams)
    os.close(terminal)
    facts = json.loads(until(tmp_path / "started"))
    os.close(controller)
    assert until(tmp_path / "code") == str(128 + signal.SIGHUP)
    assert not alive(facts["pid"])
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_salt_runs_isolated_and_what_it_makes_is_as_roots_files_are(as_root, tmp_path, umask):
    variables = {"PYTHONPATH": str(tmp_path), "PYTHONSTARTUP": "/nowhere", "PYTHONDONTWRITEBYTECODE": "1"}
    process = as_root(seconds=0, env=variables, preexec_fn=lambda: os.umask(umask))
    assert process.wait(30) == 0
    facts = json.loads((tmp_path / "started").read_text())
    assert (facts["isolated"], facts["umask"], facts["environment"]) == (1, 0o022, [])
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700


def test_every_python_that_sets_salt_up_is_isolated(apply, installs, tmp_path):
    apply.install_salt(tmp_path, test=False)
    assert [command[2] for command in installs] == ["-m", "-m", "-m"]
    assert {command[1] for command in installs} == {"-I"}
    assert ["--require-hashes" in command for command in installs] == [False, True, True]


HOSTILE = "import pathlib; pathlib.Path({!r}).touch()\nraise SystemExit(99)\n"


@pytest.mark.parametrize("script", ["apply", "export", "update-revision", "test"])
def test_nothing_is_imported_from_the_current_directory_or_where_variables_point(tmp_path, script):
    hostile = tmp_path / "hostile"
    hostile.mkdir()
    for name in ("salt", "json", "site", "sitecustomize", "usercustomize", "argparse", "venv", "rig", "hashlib"):
        (hostile / f"{name}.py").write_text(HOSTILE.format(str(tmp_path / "imported")))
    variables = {"PYTHONPATH": str(hostile), "PYTHONSTARTUP": str(hostile / "site.py"), "PYTHONHOME": ""}
    done = subprocess.run(
        [SCRIPT.with_name(script), "--help"],
        cwd=hostile,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not (tmp_path / "imported").exists()
    assert script in done.stdout, done


def test_a_salt_call_of_the_current_directory_is_not_run(apply, tmp_path, monkeypatch):
    program(tmp_path / "salt-call", f"#!/bin/sh\ntouch {tmp_path}/run\necho salt-call 3008.3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", ".:/bin:/usr/bin")
    assert shutil.which("salt-call") == "./salt-call"
    assert apply.find_salt(test=False) is None
    assert not (tmp_path / "run").exists()
