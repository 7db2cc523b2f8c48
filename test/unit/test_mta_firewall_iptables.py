"""mta_firewall_iptables: the rules file's text, and the states with stand-ins for the programs of iptables."""

import os
import sys

import pytest
import salt.loader
from salt.exceptions import CommandExecutionError, SaltInvocationError

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


@pytest.fixture
def firewall(modules):
    """The module as the loader made it."""
    return sys.modules[modules["mta_firewall_iptables.plan"].__module__]


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A rules file, and programs of iptables that keep the running rules in a file beside it."""
    for name, script in {
        "iptables": f"cat {tmp_path}/running",
        "iptables-save": f"echo '*filter'; grep -v -e -P {tmp_path}/running; echo COMMIT",
        "iptables-restore": f"""
            rules=$(cat)
            case $rules in *bad*) echo 'line 7 failed' >&2; exit 2 ;; esac
            case $* in *--test*) exit 0 ;; esac
            echo load >> {tmp_path}/loads
            case $rules in *late*) echo 'no such chain' >&2; exit 1 ;; esac
            {{ echo '-P INPUT ACCEPT'; echo "$rules" | grep -e '-A INPUT'; }} > {tmp_path}/running""",
    }.items():
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    (tmp_path / "rules").write_text(RULES)
    (tmp_path / "running").write_text("-P INPUT ACCEPT\n-A INPUT -j DROP\n")
    return tmp_path


@pytest.fixture
def in_mode(opts, modules, context):
    """Give a function that loads the states for test mode, or for real."""
    return lambda test: salt.loader.states({**opts, "test": test}, modules, {}, None, context=context)


def test_the_lines_of_the_how_to_go_before_the_log_line(firewall):
    assert firewall._with_ports(RULES, PORTS) == RULES.replace(LOG, BLOCK + LOG)


def test_a_second_time_changes_nothing(firewall):
    once = firewall._with_ports(RULES, PORTS)
    assert firewall._with_ports(once, PORTS) == once


def test_no_ports_give_the_original_back(firewall):
    assert firewall._with_ports(firewall._with_ports(RULES, PORTS), []) == RULES


def test_other_ports_replace_the_block_where_it_is(firewall):
    text = firewall._with_ports(RULES, [25])
    moved = "#  Allow SSH connections\n"
    text = RULES.replace(moved, text[text.index("# postfix_mta: begin") : text.index(LOG)] + moved)
    changed = firewall._with_ports(text, [25, 465, 4190])
    assert "# Allows mail submission\n-A INPUT -p tcp --dport 465 -j ACCEPT\n" in changed
    assert "# Allows other connections\n-A INPUT -p tcp --dport 4190 -j ACCEPT\n# postfix_mta: end\n" in changed
    assert changed.index("postfix_mta: begin") < changed.index(moved)


def test_a_block_that_is_not_reached_moves(firewall):
    text = RULES.replace("COMMIT", BLOCK + "COMMIT")
    assert firewall._with_ports(text, PORTS) == RULES.replace(LOG, BLOCK + LOG)


def test_without_the_log_line_the_block_goes_before_the_rule_that_drops_everything(firewall):
    text = RULES.replace(LOG, "")
    assert firewall._with_ports(text, PORTS) == text.replace("#  Drop all", BLOCK + "#  Drop all")


def test_without_either_it_goes_before_the_commit_of_the_filter_table(firewall):
    text = "*nat\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n*filter\n:INPUT DROP [0:0]\nCOMMIT\n*mangle\nCOMMIT\n"
    assert firewall._with_ports(text, PORTS) == text.replace("COMMIT\n*mangle", BLOCK + "COMMIT\n*mangle")


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
def test_a_port_that_is_open_already_is_recognised(firewall, rule):
    text = RULES.replace(LOG, rule + "\n" + LOG)
    assert firewall._with_ports(text, [25]) == text
    added = firewall._with_ports(text, PORTS).replace(rule, "")
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
def test_a_rule_that_does_not_open_the_port_to_everybody_does_not_count(firewall, rule):
    text = RULES.replace(LOG, rule + "\n" + LOG)
    assert "\n# Allows SMTP access\n" in firewall._with_ports(text, [25])


@pytest.mark.parametrize(
    "text",
    [
        "-A INPUT -j DROP\n",
        "*filter\n-A INPUT -j DROP\n",
        "# postfix_mta: begin\n" + RULES,
        RULES + "# postfix_mta: end\n# postfix_mta: begin\n",
    ],
)
def test_a_file_that_is_not_whole_is_an_error(firewall, text):
    with pytest.raises(CommandExecutionError):
        firewall._with_ports(text, PORTS)


def test_closed_ports_count_only_while_a_firewall_is_running(firewall):
    assert firewall._closed_when_running(["-P INPUT ACCEPT"], PORTS) == []
    assert firewall._closed_when_running(["-P INPUT DROP"], PORTS) == PORTS
    assert firewall._closed_when_running(["-P INPUT ACCEPT", "-A INPUT -j REJECT"], [25]) == [25]
    assert (
        firewall._closed_when_running(["-P INPUT DROP", "-A INPUT -p tcp -m tcp --dport 25 -j ACCEPT"], [25]) == []
    )


def test_what_is_saved_empties_a_table_that_was_not_in_use(firewall, monkeypatch):
    monkeypatch.setattr(firewall, "_run", lambda argv: "*nat\nCOMMIT\n" if argv[-1] == "nat" else "")
    saved = firewall._saved(
        "iptables", "*nat\nCOMMIT\n*filter\n:INPUT DROP [0:0]\n:mine - [0:0]\n-A INPUT -j DROP\nCOMMIT\n"
    )
    assert saved.split() == ["*nat", "COMMIT", "*filter", ":INPUT", "ACCEPT", "[0:0]", "COMMIT"]


def test_auto_without_a_rules_file_manages_no_firewall(states, tmp_path):
    ret = states["mta_firewall.managed"]("mail", rules_file=str(tmp_path / "none"))
    assert (ret["result"], ret["changes"]) == (True, {})
    assert "No firewall is managed" in ret["comment"]


def test_the_backend_none_leaves_a_rules_file_alone(states, host):
    ret = states["mta_firewall.managed"]("mail", backend="none", rules_file=str(host / "rules"))
    assert (ret["result"], ret["changes"]) == (True, {})


def test_iptables_without_a_rules_file_is_an_error_with_a_way_out(states, tmp_path):
    ret = states["mta_firewall.managed"]("mail", backend="iptables", rules_file=str(tmp_path / "none"))
    assert ret["result"] is False
    assert "iptables-save" in ret["comment"]


@pytest.mark.parametrize("arguments", [{"backend": "pf"}, {"ports": [0]}, {"ports": ["25"]}, {"ports": [True]}])
def test_bad_arguments_are_refused(modules, arguments):
    with pytest.raises(SaltInvocationError):
        modules["mta_firewall.plan"](**arguments)


def test_by_hand_the_how_to_s_ports_are_the_default(modules, host):
    changes = modules["mta_firewall.plan"](rules_file=str(host / "rules"))["changes"]
    assert changes[str(host / "rules")]["new"] == BLOCK.strip()


def test_test_mode_tells_exactly_what_the_run_then_does(in_mode, host):
    rules = host / "rules"
    states = in_mode(True)
    predicted = states["mta_firewall.managed"]("mail", rules_file=str(rules))
    assert predicted["result"] is None
    assert rules.read_text() == RULES
    states = in_mode(False)
    done = states["mta_firewall.managed"]("mail", rules_file=str(rules))
    assert done["result"] is True
    assert done["changes"] == predicted["changes"]
    assert done["changes"][str(rules)] == {"old": "", "new": BLOCK.strip()}
    assert states["mta_firewall.managed"]("mail", rules_file=str(rules))["changes"] == {}
    assert (host / "loads").read_text() == "load\n"


def test_the_file_keeps_its_mode_and_a_symbolic_link_stays_one(states, host):
    (host / "rules").chmod(0o640)
    (host / "link").symlink_to(host / "rules")
    states["mta_firewall.managed"]("mail", rules_file=str(host / "link"))
    assert (host / "link").is_symlink()
    assert (host / "rules").stat().st_mode & 0o777 == 0o640
    assert [path for path in host.iterdir() if path.name.startswith(".")] == []


def test_running_rules_that_lost_a_port_are_loaded_again(states, host):
    states["mta_firewall.managed"]("mail", rules_file=str(host / "rules"))
    (host / "running").write_text("-P INPUT DROP\n")
    ret = states["mta_firewall.managed"]("mail", rules_file=str(host / "rules"))
    assert list(ret["changes"]) == ["running rules"]
    assert "--dport 25" in (host / "running").read_text()


def test_a_firewall_that_is_off_stays_off(states, host):
    states["mta_firewall.managed"]("mail", rules_file=str(host / "rules"))
    (host / "running").write_text("-P INPUT ACCEPT\n")
    assert states["mta_firewall.managed"]("mail", rules_file=str(host / "rules"))["changes"] == {}


@pytest.mark.parametrize("test", [True, False])
def test_a_file_that_does_not_pass_the_test_is_left(in_mode, host, test):
    states = in_mode(test)
    bad = RULES + "# bad\n"
    (host / "rules").write_text(bad)
    ret = states["mta_firewall.managed"]("mail", rules_file=str(host / "rules"))
    assert (ret["result"], ret["changes"]) == (False, {})
    assert "line 7 failed" in ret["comment"]
    assert (host / "rules").read_text() == bad
    assert not (host / "loads").exists()


def test_a_file_that_does_not_load_is_taken_back_with_the_running_rules(states, host):
    late = RULES + "# late\n"
    (host / "rules").write_text(late)
    running = (host / "running").read_text()
    ret = states["mta_firewall.managed"]("mail", rules_file=str(host / "rules"))
    assert (ret["result"], ret["changes"]) == (False, {})
    assert "no such chain" in ret["comment"]
    assert (host / "rules").read_text() == late
    assert (host / "running").read_text() == running
    assert (host / "loads").read_text() == "load\nload\n"


def test_absent_gives_the_file_back_as_it_was(states, host):
    states["mta_firewall.managed"]("mail", rules_file=str(host / "rules"))
    ret = states["mta_firewall.absent"]("mail", rules_file=str(host / "rules"))
    assert ret["changes"][str(host / "rules")] == {"old": BLOCK.strip(), "new": ""}
    assert (host / "rules").read_text() == RULES
    assert "--dport 25" not in (host / "running").read_text()
    assert states["mta_firewall.absent"]("mail", rules_file=str(host / "rules"))["changes"] == {}


def test_absent_does_not_start_a_firewall(states, host):
    states["mta_firewall.managed"]("mail", rules_file=str(host / "rules"))
    (host / "running").write_text("-P INPUT ACCEPT\n")
    ret = states["mta_firewall.absent"]("mail", rules_file=str(host / "rules"))
    assert list(ret["changes"]) == [str(host / "rules")]
    assert (host / "running").read_text() == "-P INPUT ACCEPT\n"


def test_a_missing_iptables_is_named(modules, monkeypatch, tmp_path):
    shared = sys.modules[modules["mta_firewall.run"].__module__]
    monkeypatch.setattr(shared.shutil, "which", lambda *_args, **_kwargs: None)
    (tmp_path / "rules").write_text(RULES)
    with pytest.raises(CommandExecutionError, match="iptables is not installed"):
        modules["mta_firewall.plan"]("iptables", PORTS, rules_file=str(tmp_path / "rules"))
