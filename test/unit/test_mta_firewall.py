"""Firewalls: which firewall it is, which ports they are, and what the backends share."""

import pytest
import salt.loader
from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_firewall
import _mta_firewall_files
import _mta_postfix_edit
import _mta_system
from _mta_plan import Plan

BACKENDS = ("ufw", "firewalld", "nftables", "iptables")
MASTER_CF = """\
smtp       inet  n  -  y  -  -  smtpd
587        inet  n  -  y  -  -  smtpd
127.0.0.1:10025 inet n - y - -  smtpd
[::1]:10026 inet n  -  y  -  -  smtpd
192.0.2.1:2525 inet n - y - -   smtpd
qmqp       inet  n  -  y  -  -  qmqpd
"""


@pytest.fixture
def backends(pretend, monkeypatch):
    """Stand in for the four backends: which are in force, what they plan, and how they were called."""

    class Backends:
        in_force, changes, calls = (), {"rules": {"old": "", "new": "25"}}, []

    Backends.calls = []
    for name in BACKENDS:

        def in_force(name=name, **_settings):
            return name in Backends.in_force

        def plan(ports, name=name, **settings):
            return Plan(dict(Backends.changes) if name in Backends.in_force else {}, notes=["a note"])

        def apply(ports, name=name, **settings):
            Backends.calls.append((name, ports, settings))

        for function in (in_force, plan, apply):
            pretend(f"_mta_firewall_{name}.{function.__name__}", function)
    monkeypatch.setattr(_mta_firewall.Backend, "may_be_in_force", lambda self, settings: True)
    return Backends


@pytest.fixture
def in_mode(opts, modules, context):
    """Give a function that loads the states for test mode, or for real."""
    return lambda test: salt.loader.states({**opts, "test": test}, modules, {}, None, context=context)


def test_a_backend_that_cannot_be_in_force_is_not_asked(pretend, monkeypatch, tmp_path):
    asked = []
    for name in BACKENDS:
        pretend(f"_mta_firewall_{name}.in_force", lambda name=name, **_settings: asked.append(name))
        path = {"needs": str(tmp_path / f"*{name}")} if name != "iptables" else {}
        monkeypatch.setitem(_mta_firewall.BACKENDS, name, _mta_firewall.BACKENDS[name]._replace(**path))
    rules = tmp_path / "rules"
    assert (_mta_firewall.in_force(rules_file=str(rules)), asked) == ("none", [])
    for name in ("1-ufw", "1-firewalld", "1-nftables", "rules"):
        (tmp_path / name).touch()
    assert (_mta_firewall.in_force(rules_file=str(rules)), asked) == ("none", list(BACKENDS))


@pytest.mark.parametrize(
    ("in_force", "expected"),
    [
        ((), "none"),
        (("iptables",), "iptables"),
        (("nftables", "iptables"), "nftables"),
        (("firewalld", "nftables"), "firewalld"),
        (BACKENDS, "ufw"),
    ],
)
def test_auto_is_the_first_one_that_is_in_force(minion, backends, in_force, expected):
    backends.in_force = in_force
    assert _mta_firewall.in_force() == expected
    notes = [f"Backend: {expected}", "a note"] if in_force else ["No firewall is managed: backend auto"]
    assert _mta_firewall.plan(minion).notes == notes


def test_a_backend_gets_its_own_settings(in_mode, backends):
    backends.in_force = BACKENDS
    for backend in BACKENDS:
        in_mode(False)["mta_firewall.managed"]("x", backend=backend, ports=[25], zones=["home"], rules_file="/r")
    assert backends.calls == [
        ("ufw", [25], {}),
        ("firewalld", [25], {"zones": ["home"]}),
        ("nftables", [25], {"nftables_file": "/etc/nftables.conf"}),
        ("iptables", [25], {"rules_file": "/r", "rules_file_v6": "/etc/ip6tables.firewall.rules"}),
    ]


def test_test_mode_announces_what_the_run_then_reports(in_mode, backends):
    backends.in_force = ("ufw",)
    predicted = in_mode(True)["mta_firewall.managed"]("x")
    assert (predicted["result"], backends.calls) == (None, [])
    assert "The firewall would be changed" in predicted["comment"]
    assert "a note" in predicted["comment"]
    done = in_mode(False)["mta_firewall.managed"]("x")
    assert (done["result"], done["changes"]) == (True, predicted["changes"])
    assert len(backends.calls) == 1


def test_absent_goes_through_all_of_them_in_force_or_not(in_mode, backends):
    backends.in_force = ("ufw", "iptables")
    predicted = in_mode(True)["mta_firewall.absent"]("x")
    assert (predicted["result"], backends.calls) == (None, [])
    assert in_mode(False)["mta_firewall.absent"]("x")["changes"] == predicted["changes"]
    assert [call[:2] for call in backends.calls] == [("ufw", []), ("iptables", [])]
    backends.in_force = ()
    assert in_mode(False)["mta_firewall.absent"]("x")["changes"] == {}


def test_an_error_leaves_the_changes_empty(in_mode, backends, pretend):
    backends.in_force = ("ufw",)

    def fail(ports):
        raise CommandExecutionError("ufw failed")

    pretend("_mta_firewall_ufw.apply", fail)
    ret = in_mode(False)["mta_firewall.managed"]("x")
    assert (ret["result"], ret["changes"]) == (False, {})
    assert ret["comment"] == "The firewall: ufw failed"


def test_listeners_are_the_ports_that_master_cf_has_for_other_hosts(minion, backends, tmp_path):
    (tmp_path / "main.cf").write_text("myhostname = mail.example.com\n")
    (tmp_path / "master.cf").write_text(MASTER_CF)
    backends.in_force = ("ufw",)
    _mta_firewall.apply(minion, ports=["listeners", 110, 25], config_directory=str(tmp_path))
    assert backends.calls == [("ufw", [25, 587, 2525, 110], {})]


def test_a_server_for_this_host_alone_has_no_port_for_others(minion, tmp_path):
    (tmp_path / "main.cf").write_text("inet_interfaces = $mine\nmine = loopback-only\n")
    (tmp_path / "master.cf").write_text(MASTER_CF)
    assert _mta_postfix_edit.ports(minion, str(tmp_path)) == [2525]
    assert _mta_postfix_edit.ports(minion, str(tmp_path / "none")) == []


def test_in_test_mode_the_listeners_are_what_would_be(minion, pretend, tmp_path):
    services = {"465/inet": {"command": "smtpd", "private": False}, "587/inet": None}
    directory = str(tmp_path)
    (tmp_path / "main.cf").write_text("")
    (tmp_path / "master.cf").write_text(MASTER_CF)
    pretend("_mta_postfix_view.installed", lambda: False)
    _mta_postfix_edit.plan(minion, directory, {}, services)
    assert _mta_postfix_edit.ports(minion, directory) == [25, 465, 2525]
    # Without the package what it brings is assumed, unless the pillar takes it out.
    _mta_postfix_edit.plan(minion, str(tmp_path / "none"), {}, services)
    assert _mta_postfix_edit.ports(minion, str(tmp_path / "none")) == [25, 465]
    # What has been applied is read, and so is what has been undone after that.
    _mta_postfix_edit.plan(minion, directory, {}, services)
    with pytest.raises(CommandExecutionError):
        _mta_postfix_edit.apply(minion, directory, {}, services)
    assert _mta_postfix_edit.ports(minion, directory) == [25, 587, 2525]


def test_a_person_may_ask_which_firewall_is_in_force(modules, backends):
    backends.in_force = ("nftables",)
    assert modules["mta_firewall.in_force"]() == "nftables"


@pytest.mark.parametrize("arguments", [{"backend": "pf"}, {"ports": [0]}, {"ports": ["25"]}, {"ports": [True]}])
def test_bad_arguments_are_refused(minion, arguments):
    with pytest.raises(SaltInvocationError):
        _mta_firewall.plan(minion, **arguments)


def test_a_program_that_fails_is_an_error_with_its_words():
    assert _mta_firewall_files.run(["cat"], "text") == "text"
    with pytest.raises(CommandExecutionError, match="No such file"):
        _mta_firewall_files.run(["cat", "/no such file"])
    with pytest.raises(CommandExecutionError, match="no-such-program is not installed"):
        _mta_firewall_files.run(["no-such-program"])


def test_a_file_is_replaced_with_its_mode_made_and_removed(tmp_path):
    path = tmp_path / "rules"
    _mta_firewall_files.replace(str(path), "one\r\n\udcff")
    assert path.read_bytes() == b"one\r\n\xff"
    assert path.stat().st_mode & 0o777 == 0o644
    assert _mta_system.read(path) == "one\r\n\udcff"
    path.chmod(0o640)
    _mta_firewall_files.replace(str(path), "two")
    assert path.stat().st_mode & 0o777 == 0o640
    _mta_firewall_files.replace(str(path), None)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CommandExecutionError):
        _mta_firewall_files.replace(str(tmp_path / "none/rules"), "text")
