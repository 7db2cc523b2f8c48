"""The backend ufw: what ufw's files say, and what ufw is told to do about it."""

import re

import pytest
from salt.exceptions import CommandExecutionError

import _mta_firewall_ufw
from _mta_plan import Plan

# As ufw 0.36.2 writes it; the rules between the comments are left out.
RULES = """\
*filter
:ufw-user-input - [0:0]
### RULES ###

### tuple ### allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 in
-A ufw-user-input -p tcp --dport 22 -j ACCEPT

### tuple ### deny any any 0.0.0.0/0 any 203.0.113.0/24 in
-A ufw-user-input -s 203.0.113.0/24 -j DROP

### tuple ### allow tcp 80 0.0.0.0/0 any 0.0.0.0/0 in_eth0
-A ufw-user-input -i eth0 -p tcp --dport 80 -j ACCEPT

### tuple ### limit tcp 2222 0.0.0.0/0 any 0.0.0.0/0 in

### tuple ### allow tcp 6000:6007 0.0.0.0/0 any 0.0.0.0/0 in
-A ufw-user-input -p tcp -m multiport --dports 6000:6007 -j ACCEPT

### tuple ### allow tcp 143 0.0.0.0/0 any 0.0.0.0/0 IMAP - in
-A ufw-user-input -p tcp --dport 143 -j ACCEPT -m comment --comment 'dapp_IMAP'

### tuple ### route:allow any any 0.0.0.0/0 any 0.0.0.0/0 in_eth0!out_eth1
-A ufw-user-forward -i eth0 -o eth1 -j ACCEPT

### tuple ### allow any 53 0.0.0.0/0 any 0.0.0.0/0 out
-A ufw-user-output -p tcp --dport 53 -j ACCEPT

### END RULES ###
COMMIT
"""
END = "### END RULES ###\n"
DENY = "### tuple ### deny any any 0.0.0.0/0 any 0.0.0.0/0 in\n\n"
OURS = "### tuple ### allow tcp 25,587 0.0.0.0/0 any 0.0.0.0/0 in comment=706f73746669785f6d7461\n\n"


def v6(text):
    """The same for IPv6."""
    return text.replace("0.0.0.0/0", "::/0").replace("ufw-", "ufw6-")


@pytest.fixture
def host(monkeypatch, pretend, tmp_path):
    """ufw's files, and a stand-in for ufw that adds and deletes rules there."""
    for name, text in {
        "ufw": "",
        "ufw.conf": "ENABLED=yes\n",
        "default": 'IPV6=yes\nDEFAULT_INPUT_POLICY="DROP"\n',
        "user.rules": RULES,
        "user6.rules": v6(RULES),
    }.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(_mta_firewall_ufw, "PROGRAM", str(tmp_path / "ufw"))
    monkeypatch.setattr(_mta_firewall_ufw, "SETTINGS", str(tmp_path / "ufw.conf"))
    monkeypatch.setattr(_mta_firewall_ufw, "DEFAULTS", str(tmp_path / "default"))
    families = {
        "IPv4": (str(tmp_path / "user.rules"), "0.0.0.0/0"),
        "IPv6": (str(tmp_path / "user6.rules"), "::/0"),
    }
    monkeypatch.setattr(_mta_firewall_ufw, "FAMILIES", families)

    def run(argv, stdin=""):
        words = argv[1:]
        if words == ["status"]:
            return f"Status: {host.status}\n"
        host.told.append(" ".join(words))
        if host.refuses and host.refuses in host.told[-1]:
            raise CommandExecutionError("ufw failed: no")
        if words == ["reload"]:
            return ""
        path = tmp_path / ("user6.rules" if "::/0" in words else "user.rules")
        text = path.read_text()
        numbers = words[words.index("port") + 1]
        rule = OURS.replace("25,587", numbers)
        rule = v6(rule) if "::/0" in words else rule
        if words[0] == "delete":
            assert rule in text
            path.write_text(text.replace(rule, ""))
        elif words[0] == "insert":
            place = int(words[1]) - (8 if "::/0" in words else 0)
            start = [match.start() for match in re.finditer("### tuple", text)][place - 1]
            path.write_text(text[:start] + rule + text[start:])
        else:
            path.write_text(text.replace(END, rule + END))
        return ""

    class Host:
        path, refuses, status = tmp_path, None, "active"

    host = Host()
    host.told = []
    pretend("_mta_firewall_files.run", run)
    return host


def test_rules_are_added_for_both_families_once_and_go_again(host):
    plan, apply = _mta_firewall_ufw.plan, _mta_firewall_ufw.apply
    change = {"old": "", "new": "25, 587"}
    assert plan([587, 25]).changes == {"IPv4 rules of ufw": change, "IPv6 rules of ufw": change}
    assert host.told == []
    apply([587, 25])
    assert host.told == [
        f"allow proto tcp from {address} to {address} port 25,587 comment postfix_mta"
        for address in ("0.0.0.0/0", "::/0")
    ]
    assert plan([25, 587]) == Plan()
    apply([])
    assert (host.path / "user.rules").read_text() == RULES
    assert (host.path / "user6.rules").read_text() == v6(RULES)


def test_what_other_rules_open_is_left_to_them(host):
    changes = _mta_firewall_ufw.plan([22, 80, 143, 2222, 6003, 53]).changes
    assert changes["IPv4 rules of ufw"]["new"] == "53, 80, 2222"


def test_new_rules_come_before_old_ones_go(host):
    _mta_firewall_ufw.apply([25])
    host.told.clear()
    _mta_firewall_ufw.apply([25, 587])
    assert [told.split()[0] for told in host.told] == ["allow", "delete", "allow", "delete"]


def test_rules_stand_before_the_one_that_denies_everything(host):
    (host.path / "user.rules").write_text(RULES.replace(END, DENY + END))
    _mta_firewall_ufw.apply([25, 587])
    assert host.told[0].startswith("insert 9 allow proto tcp from 0.0.0.0/0")
    assert (host.path / "user.rules").read_text() == RULES.replace(END, OURS + DENY + END)
    (host.path / "user.rules").write_text(RULES.replace(END, DENY + OURS + END))
    _mta_firewall_ufw.apply([25, 587])
    assert (host.path / "user.rules").read_text() == RULES.replace(END, OURS + DENY + END)
    assert _mta_firewall_ufw.plan([25, 587]).changes == {}


def test_a_rule_that_denies_a_port_by_number_is_left_and_reported(host):
    deny = "### tuple ### deny tcp 25 0.0.0.0/0 any 0.0.0.0/0 in\n\n"
    (host.path / "user.rules").write_text(RULES.replace(END, deny + END))
    plan = _mta_firewall_ufw.plan([25, 587])
    assert plan.changes["IPv4 rules of ufw"]["new"] == "587"
    assert "deny tcp 25" in plan.notes[0]


def test_more_ports_than_one_rule_takes_become_several(host):
    _mta_firewall_ufw.apply(list(range(1000, 1017)))
    assert [told.split(" port ")[1].count(",") for told in host.told] == [14, 1, 14, 1]
    assert _mta_firewall_ufw.plan(list(range(1000, 1017))).changes == {}


def test_without_ipv6_there_is_one_family(host):
    (host.path / "default").write_text("IPV6=no\n")
    assert list(_mta_firewall_ufw.plan([25]).changes) == ["IPv4 rules of ufw"]


def test_when_ufw_fails_its_files_come_back_and_are_loaded(host):
    host.refuses = "::/0"
    with pytest.raises(CommandExecutionError):
        _mta_firewall_ufw.apply([25])
    assert (host.path / "user.rules").read_text() == RULES
    assert host.told[-1] == "reload"


def test_a_rule_that_is_not_understood_is_an_error_and_nothing_is_told(host):
    (host.path / "user.rules").write_text(RULES.replace("6000:6007 0", "6000x 0"))
    with pytest.raises(CommandExecutionError, match="6000x"):
        _mta_firewall_ufw.apply([25])
    assert host.told == []


def test_it_is_in_force_when_it_is_active_and_installed(host):
    in_force, plan = _mta_firewall_ufw.in_force, _mta_firewall_ufw.plan
    assert in_force()
    (host.path / "ufw.conf").write_text("ENABLED=no\n")
    assert not in_force()
    (host.path / "ufw.conf").write_text("ENABLED=yes\n")
    (host.path / "ufw").unlink()
    assert not in_force()
    assert plan([]) == Plan()
    with pytest.raises(CommandExecutionError, match="not installed"):
        plan([25])


def test_an_enabled_ufw_that_has_been_stopped_is_not_started(host):
    host.status = "inactive"
    for function in (_mta_firewall_ufw.plan, _mta_firewall_ufw.apply):
        with pytest.raises(CommandExecutionError, match="not switched on here"):
            function([25])
    assert host.told == []
    assert _mta_firewall_ufw.plan([]) == Plan()


def test_where_ufw_is_not_enabled_only_its_files_are_changed(host):
    (host.path / "ufw.conf").write_text("ENABLED=no\n")
    host.status = "inactive"
    assert _mta_firewall_ufw.plan([25]).notes == ["ufw is not enabled: only its files are changed"]
    _mta_firewall_ufw.apply([25])
    assert _mta_firewall_ufw.plan([25]) == Plan()
    assert "reload" not in host.told
