"""What is true about the daemons, whatever systemd believes, and how they are started and stopped."""

import os
import pathlib
import subprocess
import sys
import time

import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_postfix_view
import _mta_saslauthd_view
import _mta_services
import _mta_system


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host below ``tmp_path``; without systemd until a test makes its directory."""
    for name in ("PROC", "INIT_SCRIPTS", "RC_LINKS", "SYSTEMD_RUNS", "LOCAL_UNITS"):
        monkeypatch.setattr(_mta_services, name, f"{tmp_path}{getattr(_mta_services, name)}")
    units = tuple(f"{tmp_path}{path}" for path in _mta_services.UNIT_DIRS)
    monkeypatch.setattr(_mta_services, "UNIT_DIRS", units)
    for name, daemon in _mta_services.DAEMONS.items():
        there = daemon._replace(program=f"{tmp_path}{daemon.program}")
        monkeypatch.setitem(_mta_services.DAEMONS, name, there)
    monkeypatch.setattr(_mta_services, "PATIENCE", 0.3)
    monkeypatch.setattr(_mta_services, "POLL", 0.005)
    monkeypatch.setattr(_mta_saslauthd_view, "settings", lambda: {"socket_directory": f"{tmp_path}/sasl"})
    monkeypatch.setattr(_mta_postfix_view, "CONFIG_DIRECTORY", f"{tmp_path}/etc/postfix")
    write(tmp_path / "etc/postfix/main.cf", f"# comment\nqueue_directory = {tmp_path}/queue\n")
    return tmp_path


def write(path, text="", mode=0o644):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def process(host, pid, name, state="S (sleeping)", namespaces="", unit="x"):
    write(host / f"proc/{pid}/status", f"Name:\t{name}\nState:\t{state}\nNSpid:\t{pid}{namespaces}\n")
    write(host / f"proc/{pid}/cgroup", f"1:name=systemd:/\n0::/system.slice/{unit}.service\n")


def systemd(host):
    (host / "run/systemd/system").mkdir(parents=True)


def status(name, key):
    return _mta_services.status([name])[name][key]


def test_where_the_daemons_write_their_pid_may_be_known_already(host, monkeypatch):
    systemd(host)
    process(host, 4, "master", unit="postfix")
    write(host / "queue/pid/master.pid", "4\n")
    known = _mta_services.pid_files(["postfix", "saslauthd"])
    assert known == {"postfix": f"{host}/queue/pid/master.pid", "saslauthd": f"{host}/sasl/saslauthd.pid"}
    monkeypatch.setattr(_mta_postfix_view, "CONFIG_DIRECTORY", f"{host}/nowhere")
    assert _mta_services.status(["postfix"], known)["postfix"]["active"]
    with pytest.raises(SaltInvocationError, match="ssh"):
        _mta_services.pid_files(["ssh"])


def test_an_empty_host_has_nothing(host):
    nothing = {"active": False, "enabled": False, "installed": False}
    names = ["postfix", "saslauthd"]
    assert _mta_services.status(names) == {name: nothing for name in names}
    assert _mta_services.manager() == "sysv"


def test_status_starts_no_process(host, monkeypatch):
    monkeypatch.setattr(_mta_system, "run", lambda *args, **kwargs: pytest.fail("a process"))
    _mta_services.status(["postfix", "saslauthd"])


def test_other_services_are_refused():
    for function in ("start", "stop", "restart", "reload", "enable", "disable"):
        with pytest.raises(SaltInvocationError, match="'ssh'"):
            getattr(_mta_services, function)("ssh")
    with pytest.raises(SaltInvocationError, match="postfix, postfix-mta-signer, postfix-mta-sts, saslauthd"):
        _mta_services.status(["ssh"])


@pytest.mark.parametrize(
    ("name", "state", "active"),
    [
        ("master", "S (sleeping)", True),
        ("master", "Z (zombie)", False),
        ("bash", "S (sleeping)", False),
        (None, None, False),
    ],
)
def test_postfix_runs_when_its_pid_file_names_a_living_master(host, name, state, active):
    write(host / "queue/pid/master.pid", "             832\n")
    if name:
        process(host, 832, name, state)
    process(host, 900, "master")
    assert status("postfix", "active") is active


def test_a_saslauthd_with_its_pid_file_elsewhere_is_found(host):
    write(host / "sasl/saslauthd.pid", "77\n")
    process(host, 77, "sshd")
    assert status("saslauthd", "active") is False
    process(host, 78, "saslauthd", namespaces="\t5")
    assert status("saslauthd", "active") is False
    process(host, 79, "saslauthd")
    assert status("saslauthd", "active") is True


def test_under_systemd_another_units_saslauthd_is_not_this_one(host):
    systemd(host)
    process(host, 79, "saslauthd", unit="cyrus")
    assert status("saslauthd", "active") is False
    process(host, 80, "saslauthd", unit="saslauthd")
    assert status("saslauthd", "active") is True


def test_links_of_the_runlevels_enable_a_script(host):
    for manager in ("sysv", "systemd"):
        assert status("saslauthd", "enabled") is (manager == "systemd")
        write(host / "etc/rc2.d/K01saslauthd")
        write(host / "etc/rc3.d/S01saslauthd")
        assert status("saslauthd", "enabled") is True
        if manager == "sysv":
            systemd(host)


def test_a_unit_is_enabled_by_its_link_and_not_by_the_scripts(host):
    systemd(host)
    write(host / "usr/lib/systemd/system/saslauthd.service")
    write(host / "etc/rc3.d/S01saslauthd")
    assert status("saslauthd", "enabled") is False
    write(host / "etc/systemd/system/multi-user.target.wants/saslauthd.service")
    assert status("saslauthd", "enabled") is True
    (host / "etc/systemd/system/saslauthd.service").symlink_to("/dev/null")
    assert status("saslauthd", "enabled") is False


def test_installed_is_whether_the_program_is_there(host):
    write(host / "etc/init.d/saslauthd")  # a conffile that outlives the package
    assert status("saslauthd", "installed") is False
    write(host / "usr/sbin/saslauthd")
    assert status("saslauthd", "installed") is True


def script(host, body):
    write(host / "etc/init.d/saslauthd", f"#!/bin/sh\n{body}\n", 0o755)


def test_a_script_that_starts_nothing_is_an_error_with_its_words(host):
    script(host, "echo 'To enable saslauthd, set START=yes'")
    with pytest.raises(CommandExecutionError, match=r"does not run.*set START=yes"):
        _mta_services.start("saslauthd")


def test_a_script_that_fails_is_an_error_with_its_words(host):
    script(host, "echo no such mechanism >&2; exit 3")
    with pytest.raises(CommandExecutionError, match="exit code 3: no such mechanism"):
        _mta_services.start("saslauthd")


def test_a_daemon_that_keeps_the_scripts_output_open_is_not_waited_for(host):
    status_file = host / "proc/79/status"
    write(host / "fake", "Name:\tsaslauthd\nState:\tS (sleeping)\n")
    script(host, f"mkdir -p {status_file.parent}; cp {host}/fake {status_file}; sleep 5 &")
    began = time.monotonic()
    _mta_services.start("saslauthd")
    assert time.monotonic() - began < 4
    script(host, "exit 1")
    _mta_services.start("saslauthd")  # one that runs is left alone


def test_a_script_that_never_ends_is_given_up(host, monkeypatch):
    monkeypatch.setattr(_mta_services, "TIMEOUT", 0.2)
    script(host, "exec sleep 5")
    with pytest.raises(CommandExecutionError, match="did not end within"):
        _mta_services.start("saslauthd")


def test_on_a_full_disk_a_service_is_started_nevertheless(host, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(host / "none"))
    status_file = host / "proc/79/status"
    write(host / "fake", "Name:\tsaslauthd\nState:\tS (sleeping)\n")
    script(host, f"mkdir -p {status_file.parent}; cp {host}/fake {status_file}")
    _mta_services.start("saslauthd")
    assert status("saslauthd", "active")


def test_a_log_that_takes_long_is_not_waited_for(host, monkeypatch):
    systemd(host)
    monkeypatch.setattr(_mta_services, "LOG_PATIENCE", 0.1)
    command = _mta_services._command
    monkeypatch.setattr(_mta_services, "_command", lambda argv, **limits: command(["sleep", "10"], **limits))
    began = time.monotonic()
    assert _mta_services._log("saslauthd") == ""
    assert time.monotonic() - began < 5


def test_a_missing_script_is_an_error(host):
    with pytest.raises(CommandExecutionError, match="Cannot run"):
        _mta_services.stop("saslauthd")


def test_a_daemon_that_the_script_does_not_find_is_stopped_too(host, monkeypatch):
    """The script looks where the settings say now; a daemon from before a change is elsewhere."""
    monkeypatch.setattr(_mta_services, "PROC", "/proc")
    name = f"sasl{os.getpid()}"
    copy = host / name
    os.symlink(os.path.realpath(sys.executable), copy)
    daemon = subprocess.Popen([str(copy), "-c", "import time; time.sleep(60)"])
    monkeypatch.setitem(_mta_services.DAEMONS, "saslauthd", _mta_services.Daemon("/usr/sbin/saslauthd", name))
    script(host, "exit 0")
    try:
        assert _mta_services._wait(lambda: status("saslauthd", "active"), 5)
        _mta_services.stop("saslauthd")
        assert status("saslauthd", "active") is False
        assert daemon.wait(5) == -15
    finally:
        daemon.kill()
        daemon.wait()


def test_the_instance_behind_debian_12s_wrapper_is_stopped_with_it(host):
    assert _mta_services._units("postfix") == ["postfix.service"]
    write(host / "usr/lib/systemd/system/postfix@.service")
    assert _mta_services._units("postfix") == ["postfix.service", "postfix@-.service"]
    assert _mta_services._units("saslauthd") == ["saslauthd.service"]


def test_when_a_process_of_postfix_began(host, monkeypatch):
    monkeypatch.setattr(_mta_services, "PROC", "/proc")
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    monkeypatch.setattr(_mta_services, "_children", lambda name: {"postfix": {str(child.pid), "999999999"}}[name])
    try:
        # The kernel has the name from the program's file.
        name = pathlib.Path(f"/proc/{child.pid}/comm").read_text().strip()
        assert _mta_services.started(name) == [pytest.approx(time.time(), abs=2)]
        assert _mta_services.started("another") == []
    finally:
        child.communicate(b"\n")


def test_where_systemd_does_not_run_there_is_nothing_to_reload(host, monkeypatch):
    monkeypatch.setattr(_mta_services, "_command", lambda argv, **kwargs: pytest.fail("a process"))
    _mta_services.daemon_reload()


@pytest.mark.parametrize("there", [True, False])
def test_the_formula_s_own_daemons_end_with_their_unit_files(host, monkeypatch, there):
    monkeypatch.setattr(_mta_services, "manager", lambda: "systemd")
    called = []
    monkeypatch.setattr(_mta_services, "_command", lambda argv, **_: called.append(argv[1:]))
    if there:
        monkeypatch.setattr(_mta_services, "_unit_file", lambda unit: f"/etc/systemd/system/{unit}")
    _mta_services.daemon_reload()
    proxy = ["postfix-mta-saslauthd.socket", "postfix-mta-saslauthd.service"]
    stop = ["stop", *proxy, "postfix-mta-signer.service", "postfix-mta-sts.service"]
    assert called == [*([] if there else [stop]), ["daemon-reload"]]


def test_a_signer_has_taken_its_settings_when_there_are_new_processes(monkeypatch):
    children, called = [{"7"}, {"7"}, {"7", "8"}], []
    monkeypatch.setattr(_mta_services, "_children", lambda name: children.pop(0) if children[1:] else children[0])
    monkeypatch.setattr(_mta_services, "_command", lambda argv, **_: called.append(argv[1]) or "")
    monkeypatch.setattr(_mta_services, "manager", lambda: "systemd")
    monkeypatch.setattr(_mta_services, "_running", lambda name: [6])
    _mta_services.reload("postfix-mta-signer")
    assert (children, called) == ([{"7", "8"}], ["configtest", "reload"])
    monkeypatch.setattr(_mta_services, "SIGNER_PATIENCE", 0)
    with pytest.raises(CommandExecutionError, match="postfix-mta-signer goes on with its former settings"):
        _mta_services.reload("postfix-mta-signer")


def test_a_signer_that_could_not_read_its_settings_is_let_alone(monkeypatch):
    called = []

    def command(argv, **_):
        called.append(argv[1])
        raise CommandExecutionError("cannot stat path")

    monkeypatch.setattr(_mta_services, "_command", command)
    monkeypatch.setattr(_mta_services, "_running", lambda name: [6])
    for action in (_mta_services.reload, _mta_services.restart):
        with pytest.raises(CommandExecutionError, match="cannot stat path"):
            action("postfix-mta-signer")
    assert called == ["configtest"] * 2


@pytest.mark.parametrize(
    "action, refusal",
    [
        ("reload", ["postconf", "-M"]),
        ("reload", ["postfix", "reload"]),
        ("restart", ["postfix", "check"]),
        ("restart", ["postconf", "-M"]),
    ],
)
def test_a_postfix_that_would_not_come_back_is_let_alone(host, monkeypatch, action, refusal):
    write(host / "queue/pid/master.pid", "832\n")
    process(host, 832, "master")
    called = []

    def command(argv, **_):
        called.append([os.path.basename(argv[0]), *argv[1:]])
        if called[-1] == refusal:
            raise CommandExecutionError("fatal: no such thing")

    monkeypatch.setattr(_mta_services, "_command", command)
    with pytest.raises(CommandExecutionError, match="no such thing"):
        getattr(_mta_services, action)("postfix")
    assert called[-1] == refusal


class TestDeliveries:
    """Postfix is not stopped in the middle of a delivery, which would be made again after its start."""

    @pytest.fixture
    def signals(self, host, monkeypatch):
        """A master with a queue manager and an agent that has a message open; the signals that are sent."""
        process(host, 7, "master")
        write(host / "queue/pid/master.pid", "7\n")
        write(host / "proc/7/task/7/children", "8 9")
        process(host, 8, "qmgr")
        process(host, 9, "local")
        (host / "queue/active").mkdir()
        for pid in (8, 9):
            (host / f"proc/{pid}/fd").mkdir()
            (host / f"proc/{pid}/fd/5").symlink_to(host / "queue/active/ABC")
        sent = []
        monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number.name)))
        monkeypatch.setattr(_mta_services, "DELIVERY_PATIENCE", 0.2)
        return sent

    def test_the_queue_manager_is_held_until_the_agents_have_no_message_open(self, host, signals):
        (host / "proc/9/fd/5").unlink()
        began = time.monotonic()
        with _mta_services._deliveries_ended("postfix"):
            assert signals == [(8, "SIGSTOP")]
        assert time.monotonic() - began < 0.2
        assert signals == [(8, "SIGSTOP"), (8, "SIGCONT")]

    def test_it_waits_for_an_agent_and_not_for_ever(self, signals):
        began = time.monotonic()
        with _mta_services._deliveries_ended("postfix"):
            assert time.monotonic() - began >= 0.2

    def test_the_queue_manager_goes_on_when_the_stop_fails(self, signals):
        with pytest.raises(CommandExecutionError), _mta_services._deliveries_ended("postfix"):
            raise CommandExecutionError("it did not stop")
        assert signals[-1] == (8, "SIGCONT")

    def test_saslauthd_has_no_deliveries(self, signals):
        with _mta_services._deliveries_ended("saslauthd"):
            assert signals == []
