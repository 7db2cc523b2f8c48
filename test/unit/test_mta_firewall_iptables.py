"""The backend iptables: the rules file's text, and the states with stand-ins for the programs of iptables."""

import os
import sys

import pytest
from salt.exceptions import CommandExecutionError

import _mta_apply
import _mta_firewall
import _mta_firewall_iptables

PORTS = [25, 110, 995, 143, 993]

# The rules file that the how-to's readers have.
RULES = """\
*filter

#  Allow all loopback (lo0) traffic
-A INPUT -i lo -j ACCEPT
-A INPUT -d 127.0.0.0/8 -j REJECT

#  Allow SSH connections
-A INPUT -p tcp -m state --state NEW --dport 22 -j ACCEPT

#  Log iptables denied calls
-A INPUT -m limit --limit 5/min -j LOG --log-prefix "iptables denied: " --log-level 7

#  Drop all inbound
-A INPUT -j DROP
-A FORWARD -j DROP

COMMIT
"""

BLOCK = """\
# postfix_mta: begin
# Allows SMTP access
-A INPUT -p tcp --dport 25 -j ACCEPT

# Allows pop and pops connections
-A INPUT -p tcp --dport 110 -j ACCEPT
-A INPUT -p tcp --dport 995 -j ACCEPT

# Allows imap and imaps connections
-A INPUT -p tcp --dport 143 -j ACCEPT
-A INPUT -p tcp --dport 993 -j ACCEPT
# postfix_mta: end

"""
LOG = "#  Log iptables denied calls\n"


# iptables-restore: with --noflush rules are inserted and deleted, else a file takes the place of all of them.
RESTORE = """
import pathlib, sys
here = pathlib.Path({here!r})
text = sys.stdin.read()
if "bad" in text:
    sys.exit("line 7 failed")
if "--test" in sys.argv:
    sys.exit()
with open(here / "loads", "a") as file:
    file.write("add" if "--noflush" in sys.argv else "load")
    file.write("\\n")
if "--dport 666" in text:
    sys.exit("no such chain")
rules = (here / "running").read_text().splitlines()
if "--noflush" not in sys.argv:
    rules = ["-P INPUT ACCEPT"] + [line for line in text.splitlines() if line.startswith("-A INPUT")]
else:
    for words in map(str.split, text.splitlines()):
        if words[0] == "-I":
            place = [number for number, rule in enumerate(rules) if rule.startswith("-A")]
            place = (place + [len(rules)])[int(words[2]) - 1]
            rules.insert(place, " ".join(["-A INPUT", *words[3:]]))
        elif words[0] == "-D":
            rules.remove(" ".join(["-A INPUT", *words[2:]]))
(here / "running").write_text("\\n".join(rules) + "\\n")
"""

# Rules that run, and have little to do with those of the file.
RUNNING = """\
-P INPUT ACCEPT
-A INPUT -p tcp -m multiport --dports 22 -j f2b-sshd
-A INPUT -i lo -j ACCEPT
-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
-A INPUT -m limit --limit 5/min -j LOG --log-prefix "iptables denied: " --log-level 7
-A INPUT -j DROP
"""


def running_with(*ports):
    """The running rules with some ports open."""
    logs = RUNNING.splitlines(keepends=True)[4]
    rules = "".join(f"-A INPUT -p tcp -m tcp --dport {port} -j ACCEPT\n" for port in ports)
    return RUNNING.replace(logs, rules + logs)


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A rules file, and programs of iptables that keep the running rules in a file beside it."""
    for name, script in {
        "iptables": f"#!/bin/sh\ncat {tmp_path}/running\n",
        "iptables-restore": f"#!{sys.executable}\n{RESTORE.format(here=str(tmp_path))}",
    }.items():
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(script)
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    (tmp_path / "rules").write_text(RULES)
    (tmp_path / "running").write_text(RUNNING)
    return tmp_path


@pytest.fixture
def managed(minion):
    """``managed(ports=…)``: the result of the state."""

    def call(test=False, **arguments):
        return _mta_apply.converge(minion, "mta_firewall.managed", "mail", arguments, test, "The firewall")

    return call


@pytest.fixture
def absent(minion):
    """The result of the state that takes our rules out."""

    def call(**arguments):
        return _mta_apply.converge(minion, "mta_firewall.absent", "mail", arguments, False, "The firewall")

    return call


def test_the_lines_of_the_how_to_go_before_the_log_line():
    assert _mta_firewall_iptables._with_ports(RULES, PORTS) == RULES.replace(LOG, BLOCK + LOG)


def test_a_second_time_changes_nothing():
    once = _mta_firewall_iptables._with_ports(RULES, PORTS)
    assert _mta_firewall_iptables._with_ports(once, PORTS) == once


def test_no_ports_give_the_original_back():
    assert _mta_firewall_iptables._with_ports(_mta_firewall_iptables._with_ports(RULES, PORTS), []) == RULES


def test_other_ports_replace_the_block_where_it_is():
    text = _mta_firewall_iptables._with_ports(RULES, [25])
    moved = "#  Allow SSH connections\n"
    text = RULES.replace(moved, text[text.index("# postfix_mta: begin") : text.index(LOG)] + moved)
    changed = _mta_firewall_iptables._with_ports(text, [25, 465, 4190])
    assert "# Allows mail submission\n-A INPUT -p tcp --dport 465 -j ACCEPT\n" in changed
    assert "# Allows other connections\n-A INPUT -p tcp --dport 4190 -j ACCEPT\n# postfix_mta: end\n" in changed
    assert changed.index("postfix_mta: begin") < changed.index(moved)


def test_a_block_that_is_not_reached_moves():
    text = RULES.replace("COMMIT", BLOCK + "COMMIT")
    assert _mta_firewall_iptables._with_ports(text, PORTS) == RULES.replace(LOG, BLOCK + LOG)


def test_without_the_log_line_the_block_goes_before_the_rule_that_drops_everything():
    text = RULES.replace(LOG, "")
    assert _mta_firewall_iptables._with_ports(text, PORTS) == text.replace("#  Drop all", BLOCK + "#  Drop all")


def test_without_either_it_goes_before_the_commit_of_the_filter_table():
    text = "*nat\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n*filter\n:INPUT DROP [0:0]\nCOMMIT\n*mangle\nCOMMIT\n"
    assert _mta_firewall_iptables._with_ports(text, PORTS) == text.replace(
        "COMMIT\n*mangle", BLOCK + "COMMIT\n*mangle"
    )


@pytest.mark.parametrize(
    "rule",
    [
        "-A INPUT -p tcp --dport 25 -j ACCEPT",
        "-A  INPUT   -p tcp  -m tcp   --dport 25   -j ACCEPT",
        "[12:345] -A INPUT -p 6 --dport=25 --jump ACCEPT",
        "--append INPUT --protocol tcp --match multiport --destination-ports 80,25,443 --jump ACCEPT",
        "-A INPUT -p tcp --dport smtp -j ACCEPT",
        "-A INPUT -p tcp --dport 20:30 -j ACCEPT",
        '-A INPUT -p tcp -m state --state NEW,RELATED --dport 25 -m comment --comment "our mail" -j ACCEPT',
        "-A INPUT -s 0.0.0.0/0 -p tcp --dport 25 -j ACCEPT",
    ],
)
def test_a_port_that_is_open_already_is_recognised(rule):
    text = RULES.replace(LOG, rule + "\n" + LOG)
    assert _mta_firewall_iptables._with_ports(text, [25]) == text
    added = _mta_firewall_iptables._with_ports(text, PORTS).replace(rule, "")
    assert "--dport 110 -j ACCEPT" in added
    assert "# Allows SMTP access" not in added


@pytest.mark.parametrize(
    "rule",
    [
        "-A INPUT -s 10.0.0.0/8 -p tcp --dport 25 -j ACCEPT",
        "-A INPUT -i eth1 -p tcp --dport 25 -j ACCEPT",
        "-A INPUT -p udp --dport 25 -j ACCEPT",
        "-A INPUT -p tcp --sport 25 -j ACCEPT",
        "-A INPUT -p tcp --dport 2525 -j ACCEPT",
        "-A INPUT -p tcp ! --dport 25 -j ACCEPT",
        "-A INPUT -p tcp --dport 25 -j LOG",
        "-A INPUT -p tcp --dport 25 -m state --state ESTABLISHED -j ACCEPT",
        "-A OUTPUT -p tcp --dport 25 -j ACCEPT",
        "# -A INPUT -p tcp --dport 25 -j ACCEPT",
        "-A INPUT -p tcp --dport no-such-service -j ACCEPT",
        "-A INPUT -p tcp --dport 25 -m limit --limit 1/min -j ACCEPT",
    ],
)
def test_a_rule_that_does_not_open_the_port_to_everybody_does_not_count(rule):
    text = RULES.replace(LOG, rule + "\n" + LOG)
    assert "\n# Allows SMTP access\n" in _mta_firewall_iptables._with_ports(text, [25])


@pytest.mark.parametrize(
    "text",
    [
        "-A INPUT -j DROP\n",
        "*filter\n-A INPUT -j DROP\n",
        "# postfix_mta: begin\n" + RULES,
        RULES + "# postfix_mta: end\n# postfix_mta: begin\n",
    ],
)
def test_a_file_that_is_not_whole_is_an_error(text):
    with pytest.raises(CommandExecutionError):
        _mta_firewall_iptables._with_ports(text, PORTS)


@pytest.mark.parametrize(
    ("lines", "added"),
    [
        (["-P INPUT DROP"], ["-I INPUT 1 -p tcp -m tcp --dport 25 -j ACCEPT"]),
        (
            ["-P INPUT ACCEPT", "-A INPUT -i lo -j ACCEPT", "-A INPUT -j REJECT"],
            ["-I INPUT 2 -p tcp -m tcp --dport 25 -j ACCEPT"],
        ),
        (["-P INPUT DROP", "-A INPUT -p tcp -m multiport --dports 25,80 -j ACCEPT"], []),
        (["-P INPUT ACCEPT", "-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT"], []),
    ],
)
def test_a_running_rule_is_added_where_it_counts_and_only_if_the_port_is_closed(lines, added):
    wanted, unwanted, add, back = _mta_firewall_iptables._running_changes(lines, [25], [])
    assert (len(wanted), unwanted) == (len(added), [])
    assert add.splitlines() == (["*filter", *added, "COMMIT"] if added else [])
    deleted = ["-D INPUT -p tcp -m tcp --dport 25 -j ACCEPT"] * len(added)
    assert back.splitlines() == (["*filter", *deleted, "COMMIT"] if added else [])


def test_auto_without_a_rules_file_manages_no_firewall(managed, tmp_path):
    ret = managed(rules_file=str(tmp_path / "none"))
    assert (ret["result"], ret["changes"]) == (True, {})
    assert "No firewall is managed" in ret["comment"]


def test_the_backend_none_leaves_a_rules_file_alone(managed, host):
    ret = managed(backend="none", rules_file=str(host / "rules"))
    assert (ret["result"], ret["changes"]) == (True, {})


def test_iptables_without_a_rules_file_is_an_error_with_a_way_out(managed, tmp_path):
    ret = managed(backend="iptables", rules_file=str(tmp_path / "none"))
    assert ret["result"] is False
    assert "iptables-save" in ret["comment"]


def test_by_hand_the_how_to_s_ports_are_the_default(minion, host):
    changes = _mta_firewall.plan(minion, rules_file=str(host / "rules")).changes
    assert changes[str(host / "rules")]["new"] == BLOCK.strip()


def test_test_mode_tells_exactly_what_the_run_then_does(managed, host):
    rules = host / "rules"
    predicted = managed(True, rules_file=str(rules))
    assert predicted["result"] is None
    assert rules.read_text() == RULES
    done = managed(rules_file=str(rules))
    assert done["result"] is True
    assert done["changes"] == predicted["changes"]
    assert done["changes"][str(rules)] == {"old": "", "new": BLOCK.strip()}
    assert managed(rules_file=str(rules))["changes"] == {}
    assert (host / "loads").read_text() == "add\n"


def test_the_file_keeps_its_mode_and_a_symbolic_link_stays_one(managed, host):
    (host / "rules").chmod(0o640)
    (host / "link").symlink_to(host / "rules")
    managed(rules_file=str(host / "link"))
    assert (host / "link").is_symlink()
    assert (host / "rules").stat().st_mode & 0o777 == 0o640
    assert [path for path in host.iterdir() if path.name.startswith(".")] == []


def test_a_file_that_was_not_in_force_is_not_loaded_where_no_rules_run(managed, host):
    (host / "running").write_text("-P INPUT ACCEPT\n")
    for test in (True, False):
        ret = managed(test, rules_file=str(host / "rules"))
        assert list(ret["changes"]) == [str(host / "rules")]
        assert f"No rules of iptables are in force: only the file {host / 'rules'} is changed" in ret["comment"]
    assert (host / "running").read_text() == "-P INPUT ACCEPT\n"
    assert "--dport 25 -j ACCEPT" in (host / "rules").read_text()
    assert not (host / "loads").exists()


def test_of_rules_that_run_none_is_lost(managed, absent, host):
    done = managed(ports=[25, 587], rules_file=str(host / "rules"))
    assert done["result"] is True, done
    assert (host / "running").read_text() == running_with(25, 587)
    new = "\n".join(f"-A INPUT -p tcp -m tcp --dport {port} -j ACCEPT" for port in (25, 587))
    assert done["changes"]["running rules"] == {"old": "", "new": new}
    managed(ports=[587, 110], rules_file=str(host / "rules"))
    assert (host / "running").read_text() == running_with(587, 110)
    absent(rules_file=str(host / "rules"))
    assert (host / "running").read_text() == RUNNING
    assert (host / "rules").read_text() == RULES


def test_a_file_that_would_shut_out_sshd_is_never_in_force_by_an_apply(managed, host):
    """The file, which a boot would load, knows nothing of the port at which sshd listens."""
    running = RUNNING.replace("22", "2222")
    (host / "running").write_text(running)
    assert "2222" not in RULES
    done = managed(ports=[25], rules_file=str(host / "rules"))
    assert done["result"] is True, done
    there = (host / "running").read_text().splitlines()
    assert [rule for rule in there if rule not in running.splitlines()] == [
        "-A INPUT -p tcp -m tcp --dport 25 -j ACCEPT"
    ]
    assert [rule for rule in running.splitlines() if rule not in there] == []


def test_where_nothing_is_dropped_the_file_is_not_loaded_either(managed, host):
    """Rules run, fail2ban's say, and yet the firewall of the file is off."""
    running = "-P INPUT ACCEPT\n-A INPUT -p tcp -m multiport --dports 22 -j f2b-sshd\n"
    (host / "running").write_text(running)
    ret = managed(rules_file=str(host / "rules"))
    assert list(ret["changes"]) == [str(host / "rules")]
    assert (host / "running").read_text() == running


def test_running_rules_that_lost_a_port_get_it_back(managed, host):
    managed(rules_file=str(host / "rules"))
    (host / "running").write_text("-P INPUT DROP\n")
    ret = managed(rules_file=str(host / "rules"))
    assert list(ret["changes"]) == ["running rules"]
    assert "--dport 25" in (host / "running").read_text()


def test_a_firewall_that_is_off_stays_off(managed, host):
    managed(rules_file=str(host / "rules"))
    (host / "running").write_text("-P INPUT ACCEPT\n")
    assert managed(rules_file=str(host / "rules"))["changes"] == {}


@pytest.mark.parametrize("test", [True, False])
def test_a_file_that_does_not_pass_the_test_is_left(managed, host, test):
    bad = RULES + "# bad\n"
    (host / "rules").write_text(bad)
    ret = managed(test, rules_file=str(host / "rules"))
    assert (ret["result"], ret["changes"]) == (False, {})
    assert "line 7 failed" in ret["comment"]
    assert (host / "rules").read_text() == bad
    assert not (host / "loads").exists()


def test_rules_that_the_kernel_does_not_take_leave_the_file_as_it_was(managed, host):
    ret = managed(ports=[25, 666], rules_file=str(host / "rules"))
    assert (ret["result"], ret["changes"]) == (False, {})
    assert "no such chain" in ret["comment"]
    assert (host / "rules").read_text() == RULES
    assert (host / "running").read_text() == RUNNING
    assert (host / "loads").read_text() == "add\n"


def test_what_ip6tables_does_not_take_is_undone_in_iptables(managed, host):
    managed(ports=[110], rules_file=str(host / "rules"))
    before = (host / "rules").read_text(), (host / "running").read_text()
    (host / "rules6").write_text(RULES)
    (host / "bin" / "ip6tables").write_text(f"#!/bin/sh\ncat {host}/running6\n")
    (host / "running6").write_text(RUNNING)
    (host / "bin" / "ip6tables-restore").write_text(
        '#!/bin/sh\ncase $* in *--test*) ;; *) echo "not today" >&2; exit 1 ;; esac\n'
    )
    for name in ("ip6tables", "ip6tables-restore"):
        (host / "bin" / name).chmod(0o755)
    files = {"rules_file": str(host / "rules"), "rules_file_v6": str(host / "rules6")}
    ret = managed(ports=[25, 587], **files)
    assert (ret["result"], ret["changes"]) == (False, {})
    assert "not today" in ret["comment"]
    assert ((host / "rules").read_text(), (host / "running").read_text()) == before
    assert (host / "rules6").read_text() == RULES


def test_absent_gives_the_file_back_as_it_was(managed, absent, host):
    managed(rules_file=str(host / "rules"))
    ret = absent(rules_file=str(host / "rules"))
    assert ret["changes"][str(host / "rules")] == {"old": BLOCK.strip(), "new": ""}
    assert (host / "rules").read_text() == RULES
    assert "--dport 25" not in (host / "running").read_text()
    assert absent(rules_file=str(host / "rules"))["changes"] == {}


def test_absent_does_not_start_a_firewall(managed, absent, host):
    managed(rules_file=str(host / "rules"))
    (host / "running").write_text("-P INPUT ACCEPT\n")
    ret = absent(rules_file=str(host / "rules"))
    assert list(ret["changes"]) == [str(host / "rules")]
    assert (host / "running").read_text() == "-P INPUT ACCEPT\n"


def test_a_missing_iptables_is_named(minion, pretend, tmp_path):
    pretend("_mta_system.find_program", lambda name: None)
    (tmp_path / "rules").write_text(RULES)
    with pytest.raises(CommandExecutionError, match="iptables is not installed"):
        _mta_firewall.plan(minion, "iptables", PORTS, rules_file=str(tmp_path / "rules"))
