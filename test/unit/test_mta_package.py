"""Packages: the dpkg database, removals, debconf answers, and the state over the real loaders."""

import fcntl
import os
import pathlib
import subprocess
import sys

import pytest
import salt.loader
from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_package

STATUS = """\
Package: postfix
Status: install ok installed
Architecture: amd64
Source: postfix (3.7.11-0)
Version: 3.7.11-0+deb12u1
Provides: default-mta, mail-transport-agent
Description: High-performance mail transport agent
 Package: sasl2-bin

Package: sasl2-bin
Status: deinstall ok config-files
Architecture: amd64
Version: 2.1.28+dfsg-10

Package: libsasl2-2
Status: install ok installed
Architecture: amd64
Version: 2.1.28-amd64

Package: libsasl2-2
Status: deinstall ok config-files
Architecture: i386
Version: 2.1.28-i386

Package: libsasl2-modules
Status: install ok unpacked
Architecture: amd64
Version: 2.1.28+dfsg-10

Package: man-db
Status: install ok triggers-pending
Architecture: amd64
Version: 2.11.2-2

Package: exim4-daemon-light
Status: install ok installed
Source: exim4
Version: 4.96-15
Provides: default-mta, exim4-localscanapi-6.0, mail-transport-agent (= 1)

Package: exim4-base
Status: install ok installed
Source: exim4 (4.96-14)
Version: 4.96-15

Package: sa-exim
Status: install ok installed
Version: 4.2.1-20

"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The library with a dpkg database and locks of its own."""
    (tmp_path / "dpkg" / "updates").mkdir(parents=True)
    (tmp_path / "dpkg" / "status").write_text(STATUS)
    (tmp_path / "dpkg" / "lock").touch()
    monkeypatch.setattr(_mta_package, "DPKG", tmp_path / "dpkg")
    monkeypatch.setattr(_mta_package, "LOCKS", [tmp_path / "dpkg" / "lock"])
    return _mta_package


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Give a function that puts a shell script on the PATH, before everything else."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")

    def put(name, script):
        (directory / name).write_text(f"#!/bin/sh\n{script}\n")
        (directory / name).chmod(0o755)

    return put


@pytest.fixture
def converge(minion):
    """``converge(test, packages=…)``: the state's result."""

    def call(test, packages, answers=None, mailname=None, mailname_file=None):
        return _mta_package.converge(minion, packages, answers, mailname, mailname_file, test)

    return call


def test_only_completely_installed_packages_have_a_version(package, minion):
    names = ["postfix", "sasl2-bin", "libsasl2-2", "libsasl2-modules", "man-db", "dovecot-core"]
    assert _mta_package.versions(minion, names) == {
        "postfix": "3.7.11-0+deb12u1",
        "sasl2-bin": None,
        "libsasl2-2": "2.1.28-amd64",
        "libsasl2-modules": None,
        "man-db": "2.11.2-2",
        "dovecot-core": None,
    }


def test_the_journal_of_an_interrupted_dpkg_overrides_its_database(package, minion):
    (package.DPKG / "updates" / "0001").write_text(
        "Package: postfix\nStatus: install reinstreq half-installed\nArchitecture: amd64\nVersion: 3.7.11\n"
    )
    assert _mta_package.versions(minion, ["postfix"]) == {"postfix": None}


def test_an_unreadable_database_is_an_error(package, minion):
    (package.DPKG / "status").unlink()
    with pytest.raises(CommandExecutionError, match="cannot be read"):
        _mta_package.versions(minion, ["postfix"])


def test_this_machine_agrees_with_dpkg_query(minion):
    names = ["dpkg", "libc6", "coreutils", "no-such-package"]
    query = ["dpkg-query", "-W", "-f", "${Package} ${Version}\n", *names]
    shown = subprocess.run(query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False).stdout
    expected = dict(line.split() for line in shown.splitlines())
    assert _mta_package.versions(minion, names) == {name: expected.get(name) for name in names}


def test_removals_are_read_from_a_simulation(package):
    output = "Reading state...\nRemv exim4 [4.96-15]\nPurg foo:i386 [1]\nInst postfix (3.7 Debian [amd64])\n"
    assert package._removals(output) == ["exim4", "foo"]


def test_a_competing_mail_server_may_go_with_the_other_packages_of_its_source(package):
    assert package._refusals(["exim4-daemon-light", "exim4-base"]) == []


def test_anything_else_may_not_be_removed(package):
    [reason] = package._refusals(["exim4-daemon-light", "exim4-base", "sa-exim", "unknown"])
    assert "sa-exim, unknown" in reason
    assert "exim4" not in reason


def test_answers_become_one_line_each_for_the_packages_asked_for(package):
    answers = {
        "postfix": {
            "postfix/main_mailer_type": ["select", "Internet Site"],
            "postfix/mynetworks": ["string", ""],
        },
        "other": {"other/question": ["boolean", "true"]},
    }
    assert package._selections(answers, ["postfix", "sasl2-bin"]) == (
        "postfix postfix/main_mailer_type select Internet Site\npostfix postfix/mynetworks string \n"
    )


@pytest.mark.parametrize("answer", [["string", "a\nb"], ["string"], "string a", ["string", "a\x7f"]])
def test_an_answer_that_debconf_cannot_hold_is_refused(package, answer):
    with pytest.raises(SaltInvocationError):
        package._selections({"postfix": {"postfix/mailname": answer}}, ["postfix"])


def test_debconf_is_believed_only_without_an_error(package, programs):
    programs("debconf-set-selections", 'echo "error: Cannot parse line 1" >&2')
    with pytest.raises(CommandExecutionError, match="Cannot parse"):
        package._set_selections("nonsense\n")


HOLDER = """
import fcntl, sys
with open(sys.argv[1], "w") as file:
    fcntl.lockf(file, fcntl.LOCK_EX)
    print("held", flush=True)
    input()
"""


def test_a_lock_is_waited_for_only_so_long_and_its_holder_is_named(package):
    argv = [sys.executable, "-c", HOLDER, str(package.LOCKS[0])]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(CommandExecutionError, match=f"process {holder.pid} "):
            package._wait_for_locks(0)
        holder.communicate("\n")
    package._wait_for_locks(0)


def test_looking_for_a_lock_takes_none(package):
    with open(package.LOCKS[0], "w") as file:
        package._wait_for_locks(0)
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_nothing_to_do_starts_no_program(package, converge, programs):
    for name in ("apt-get", "dpkg-query", "debconf-set-selections"):
        programs(name, f"touch {package.DPKG}/started")
    ret = converge(False, packages=["postfix", "libsasl2-2"])
    assert ret["result"] is True
    assert ret["changes"] == {}
    assert not (package.DPKG / "started").exists()


def test_test_mode_names_the_missing_packages_and_changes_nothing(package, converge, programs):
    programs("apt-get", "exit 100")
    ret = converge(True, packages=["postfix", "sasl2-bin"])
    assert ret["result"] is None
    assert ret["changes"] == {"sasl2-bin": {"old": "", "new": "installed"}}


@pytest.mark.parametrize("test", [True, False])
def test_an_installation_that_removes_something_is_refused(package, converge, programs, pretend, test):
    pretend("pkg.refresh_db", lambda **_kwargs: {})
    programs("apt-get", '[ "$1" != update ] || exit 0; echo "Remv sa-exim [4.2.1]"')
    programs("debconf-set-selections", f"touch {package.DPKG}/answered")
    ret = converge(test, packages=["new"], answers={"new": {"a/b": ["string", "c"]}})
    assert ret["result"] is False
    assert ret["changes"] == {}
    assert "sa-exim" in ret["comment"]
    assert not (package.DPKG / "answered").exists()


def test_what_an_installation_brings_and_nobody_had_is_idle(minion, pretend):
    there = {"postfix": "3.7", "mine-server": "1"}
    pretend("_mta_package.versions", lambda names: {name: there.get(name) for name in names})
    brought = {"signer": "3.4", "recommended-server": "7"}
    pretend("_mta_package.install", lambda *_: there.update(brought))
    stopped = []
    pretend("_mta_package._leave_idle", stopped.extend)
    idle = {"signer": ["a"], "recommended-server": ["b"], "mine-server": ["c"], "elsewhere": ["d"]}
    _mta_package.converge(minion, ["postfix", "signer"], None, None, None, False, idle)
    assert stopped == ["a", "b"]


def test_the_mail_name_is_kept_with_the_mode_that_its_file_has(package, converge, programs, tmp_path):
    programs("apt-get", "exit 1")
    file = tmp_path / "mailname"
    args = {"packages": ["postfix"], "mailname": "mail.example.com", "mailname_file": str(file)}

    predicted = converge(True, **args)
    assert predicted["result"] is None and not file.exists()
    made = converge(False, **args)
    assert made["result"] is True
    assert made["changes"] == predicted["changes"] == {str(file): {"old": "", "new": "mail.example.com"}}
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("mail.example.com\n", 0o644)
    again = converge(False, **args)
    assert again["result"] is True and not again["changes"]

    file.write_text("old.example.com\n")
    file.chmod(0o640)
    changed = converge(False, **args)
    assert changed["changes"] == {str(file): {"old": "old.example.com", "new": "mail.example.com"}}
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("mail.example.com\n", 0o640)

    left = converge(False, **{**args, "mailname": None})
    assert left["result"] is True and not left["changes"]


def test_a_mail_name_that_cannot_be_written_is_one_clear_error(package, converge, tmp_path):
    file = tmp_path / "nowhere" / "mailname"
    ret = converge(False, packages=["postfix"], mailname="mail.example.com", mailname_file=str(file))
    assert ret["result"] is False and not ret["changes"]
    assert f"Cannot write {file}: No such file" in ret["comment"]


def test_answers_go_to_packages_that_were_never_installed_only(package, minion, programs, pretend):
    given = pathlib.Path(package.DPKG / "given")
    programs("apt-get", "exit 0")
    programs("debconf-set-selections", f"cat > {given}")
    installed = []
    pretend("pkg.refresh_db", lambda **_kwargs: {})
    pretend("pkg.install", lambda **kwargs: installed.append(kwargs["pkgs"]))
    answers = {"sasl2-bin": {"sasl2-bin/a": ["string", "no"]}, "new": {"new/a": ["string", "yes"]}}
    with pytest.raises(CommandExecutionError, match="reported no error: sasl2-bin, new"):
        _mta_package.install(minion, ["sasl2-bin", "new"], answers)
    assert given.read_text() == "new new/a string yes\n"
    assert installed == [["sasl2-bin", "new"]]


@pytest.mark.parametrize("answer", ["3.5", {"postfix": "3.5", "cyrus-sasl": ""}])
def test_other_families_ask_their_package_manager(minion, pretend, answer):
    names = ["postfix", "cyrus-sasl"] if isinstance(answer, dict) else ["postfix"]
    minion.grains["os_family"] = "RedHat"
    pretend("pkg.version", lambda *_names: answer)
    expected = {"postfix": "3.5", "cyrus-sasl": None}
    assert _mta_package.versions(minion, names) == {name: expected[name] for name in names}
    assert _mta_package.problems(minion, names) == []


@pytest.mark.parametrize("test", [True, False])
def test_the_state_hands_over_all_that_it_is_given(opts, modules, context, package, tmp_path, test):
    states = salt.loader.states({**opts, "test": test}, modules, {}, None, context=context)
    file = tmp_path / "mailname"
    ret = states["mta_package.installed"](
        "x", packages=["postfix"], mailname="mail.example.com", mailname_file=str(file)
    )
    assert ret["result"] is (None if test else True)
    assert ret["changes"] == {str(file): {"old": "", "new": "mail.example.com"}}
    assert file.exists() is not test


def test_to_install_is_no_job(minion, modules):
    with pytest.raises(CommandExecutionError, match="is for states"):
        modules["mta_package.converge"](["postfix"], None, None, None, False, __pub_fun="mta_package.converge")
