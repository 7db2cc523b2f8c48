"""The backend nftables: where a rule belongs, in files and in what nft lists, and what the kernel is told."""

import pytest
from salt.exceptions import CommandExecutionError

import _mta_firewall_nftables
from _mta_plan import Plan

INPUT = ("inet", "filter", "input")
OURS = 'tcp dport { 25, 587 } accept comment "postfix_mta"'

# Debian's own file, with what administrators add.
FILE = """\
#!/usr/sbin/nft -f

flush ruleset

define WEB = { 80, 443 }

table inet filter {
	set banned {
		type ipv4_addr; flags interval
		elements = { 203.0.113.0/24, 198.51.100.1 }
	}
	chain services {
		tcp dport $WEB accept
	}
	chain input {
		type filter hook input priority filter; policy drop;
		ct state vmap { established : accept, related : accept, invalid : drop }
		iif lo accept
		ip saddr @banned drop comment "accept nothing"
		meta l4proto tcp jump services
		tcp dport 22 accept # secure shell
		# What is left
		counter reject
	}
	chain forward {
		type filter hook forward priority filter; policy drop;
	}
}
"""
LAST = "\t\t# What is left\n\t\tcounter reject\n"

# What `nft -a -t list ruleset` of nftables 1.0.6 prints.
LISTING = """\
table inet filter { # handle 7
	set banned { # handle 3
		type ipv4_addr
		flags interval
	}

	chain services { # handle 1
		tcp dport { 80, 443 } accept # handle 4
	}

	chain input { # handle 2
		type filter hook input priority filter; policy drop;
		ct state vmap { invalid : drop, established : accept, related : accept } # handle 6
		iif "lo" accept # handle 7
		ip saddr @banned counter packets 0 bytes 0 drop comment "bans" # handle 8
		meta l4proto tcp jump services # handle 9
		limit rate 5/minute log prefix "nft: denied " level info # handle 17
		meta pkttype host limit rate 5/second counter packets 0 bytes 0 reject # handle 18
		counter packets 0 bytes 0 # handle 19
	}
}
"""


@pytest.fixture
def nft(pretend):
    """Stand in for nft(8): what it lists, what it was told, and whether it refuses that."""

    class Nft:
        listing, refuses = LISTING, False

        def __call__(self, argv, stdin=""):
            if "list" in argv:
                return self.listing
            if "-c" in argv:
                self.checked.append(stdin)
                return ""
            if self.refuses:
                raise CommandExecutionError("nft failed: no such chain")
            self.told.append(stdin)
            return ""

    stand_in = Nft()
    stand_in.told, stand_in.checked = [], []
    pretend("_mta_firewall_files.run", stand_in)
    return stand_in


def commands_for(listing, hooked, ports, notes):
    """What the kernel is told where that is loaded."""
    return _mta_firewall_nftables._commands(_mta_firewall_nftables._chains(listing), hooked, ports, notes)


def placed(text, ports=(25, 587)):
    """The text with our rules, and without them again: that has to be what it was."""
    new = _mta_firewall_nftables._with_ports(text, list(ports), [])
    assert _mta_firewall_nftables._with_ports(new, list(ports), []) == new
    assert _mta_firewall_nftables._with_ports(new, [], []) == text
    return new


def chain(*rules, policy="accept"):
    """A file with one input chain."""
    lines = "".join(f"\t\t{rule}\n" for rule in rules)
    head = f"table inet filter {{\n\tchain input {{\n\t\ttype filter hook input priority 0; policy {policy};\n"
    return f"{head}{lines}\t}}\n}}\n"


def test_the_rule_goes_before_the_one_that_refuses_everything_and_its_comment():
    assert placed(FILE) == FILE.replace(LAST, f"\t\t{OURS}\n{LAST}")


def test_with_a_policy_that_drops_the_rule_goes_to_the_end_of_the_chain():
    text = chain("tcp dport 22 accept", policy="drop")
    assert placed(text) == text.replace("22 accept\n", f"22 accept\n\t\t{OURS}\n")


def test_a_chain_that_lets_everything_in_gets_no_rule():
    for text in (chain("tcp dport 22 accept"), FILE.replace("counter reject", "accept")):
        assert placed(text) == text


def test_in_a_line_with_other_statements_the_rule_goes_between_them():
    text = (
        "table ip t { chain c { type filter hook input priority 0; policy drop; tcp dport 22 accept; drop; }; }\n"
    )
    assert f"22 accept; ; {OURS}; drop; }}; }}" in placed(text)
    text = text.replace("drop; };", "};")
    assert f"; ; {OURS}; }}; }}" in placed(text)


def test_every_base_chain_that_drops_gets_the_rule():
    text = chain("drop") + chain("drop").replace("inet filter", "ip6 more")
    assert placed(text).count(OURS) == 2


@pytest.mark.parametrize(
    "rule",
    [
        "tcp dport { 25, 587 } accept",
        "tcp dport {smtp,submission} counter accept",
        "tcp dport 20-600 ct state new accept",
        'tcp dport 25-587 log prefix "mail: " level info accept comment "ours, not theirs; really"',
        "meta l4proto tcp th dport { 25, 587 } ct state { new, untracked } accept",
        "tcp dport vmap { 22 : drop, 25 : accept, 587 : accept }",
        "accept",
    ],
)
def test_a_port_that_is_open_already_is_recognised(rule):
    text = chain(rule, "drop")
    assert placed(text) == text


@pytest.mark.parametrize(
    "rule",
    [
        "ip saddr 10.0.0.0/8 tcp dport { 25, 587 } accept",
        'iifname "eth1" tcp dport { 25, 587 } accept',
        "tcp dport { 25, 587 } limit rate 5/minute accept",
        "meta nfproto ipv4 tcp dport { 25, 587 } accept",
        "udp dport { 25, 587 } accept",
        "tcp sport { 25, 587 } accept",
        "tcp dport != 22 accept",
        "tcp dport { 25, 587 } ct state established accept",
        "tcp dport @mail accept",
        "tcp dport { 25, 587 } counter",
        "# tcp dport { 25, 587 } accept",
    ],
)
def test_a_rule_that_does_not_open_the_ports_to_everybody_does_not_count(rule):
    text = chain(rule, "drop")
    assert placed(text) == text.replace("\t\tdrop", f"\t\t{OURS}\n\t\tdrop").replace(
        f"\t\t# tcp dport {{ 25, 587 }} accept\n\t\t{OURS}\n",
        f"\t\t{OURS}\n\t\t# tcp dport {{ 25, 587 }} accept\n",
    )


@pytest.mark.parametrize(
    "rule",
    [
        "drop",
        "reject with tcp reset",
        "counter packets 1 bytes 2 drop",
        'log prefix "x" flags all counter reject with icmpx type admin-prohibited',
        "pkttype host limit rate 5/second counter reject",
        "meta l4proto tcp reject with tcp reset",
        'iifname != "lo" drop',
        "ct state new drop",
        "goto refuse",
        "jump refuse",
    ],
)
def test_the_rule_stands_before_what_refuses_whatever_comes(rule):
    text = chain(rule, "accept").replace("\tchain input", "\tchain refuse {\n\t\tdrop\n\t}\n\tchain input")
    assert placed(text) == text.replace(f"\t\t{rule}\n\t\tacc", f"\t\t{OURS}\n\t\t{rule}\n\t\tacc")


@pytest.mark.parametrize(
    "rule",
    [
        "ip saddr @banned drop",
        "tcp dport 22 limit rate over 5/minute drop",
        "ct state invalid drop",
        'iif "eth1" drop',
    ],
)
def test_what_refuses_certain_clients_keeps_the_first_word(rule):
    text = chain(rule, "drop")
    assert placed(text) == text.replace("\t\tdrop\n", f"\t\t{OURS}\n\t\tdrop\n")


def test_a_rule_that_refuses_a_port_by_number_is_left_and_reported():
    text, notes = chain("tcp dport 25 drop", "drop"), []
    assert 'tcp dport 587 accept comment "postfix_mta"' in _mta_firewall_nftables._with_ports(
        text, [25, 587], notes
    )
    assert notes == ["Left as it is in the chain inet filter input: tcp dport 25 drop"]


def test_a_file_made_of_commands_is_refused_with_a_way_out(nft, tmp_path):
    (tmp_path / "conf").write_text("add table ip t\nadd chain ip t c { type filter hook input priority 0; }\n")
    with pytest.raises(CommandExecutionError, match="not as table and chain blocks"):
        _mta_firewall_nftables.plan([25], str(tmp_path / "conf"))


def test_the_kernel_gets_one_rule_at_the_same_place():
    commands, changes = commands_for(LISTING, [INPUT], [25, 587], [])
    assert commands == f"insert rule inet filter input position 18 {OURS}\n"
    assert changes == {"running rules of inet filter input": {"old": "", "new": OURS}}


def test_a_rule_that_is_in_the_kernel_stays_while_it_is_right_and_reached():
    right = LISTING.replace("\t\tlimit", f"\t\t{OURS} # handle 20\n\t\tlimit")
    assert commands_for(right, [INPUT], [25, 587], []) == (
        "",
        {},
    )
    behind = LISTING.replace("# handle 19\n", f"# handle 19\n\t\t{OURS} # handle 20\n")
    commands = commands_for(behind, [INPUT], [25, 587], [])[0]
    assert commands.splitlines()[0] == "delete rule inet filter input handle 20"
    assert "position 18" in commands
    assert commands_for(right, [INPUT], [], [])[0] == "delete rule inet filter input handle 20\n"


def test_chains_that_are_not_in_the_file_are_not_touched_but_said():
    notes = []
    assert commands_for(LISTING, [], [25], notes) == ("", {})
    assert notes == ["The chain inet filter input, which is not in the file, drops what comes to port 25"]


def test_it_applies_once_and_takes_back_what_the_kernel_refuses(nft, tmp_path):
    path = tmp_path / "conf"
    path.write_text(FILE)
    arguments = [25, 587], str(path)
    changes = _mta_firewall_nftables.plan(*arguments).changes
    assert list(changes) == [str(path), "running rules of inet filter input"]
    assert path.read_text() == FILE
    nft.refuses = True
    with pytest.raises(CommandExecutionError):
        _mta_firewall_nftables.apply(*arguments)
    assert path.read_text() == FILE
    nft.refuses = False
    _mta_firewall_nftables.apply(*arguments)
    assert OURS in path.read_text()
    assert all("flush" not in told for told in nft.told)
    assert OURS in nft.checked[-1]
    nft.listing = LISTING.replace("\t\tlimit", f"\t\t{OURS} # handle 20\n\t\tlimit")
    assert _mta_firewall_nftables.plan(*arguments).changes == {}
    _mta_firewall_nftables.apply([], str(path))
    assert path.read_text() == FILE


def test_included_files_are_read_changed_and_checked_as_one(nft, tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/a.nft").write_text(chain("drop"))
    main = tmp_path / "conf"
    main.write_text(f'flush ruleset\ninclude "{tmp_path}/parts/*.nft"\n')
    _mta_firewall_nftables.apply([25, 587], str(main))
    assert OURS in (tmp_path / "parts/a.nft").read_text()
    assert OURS in nft.checked[-1]
    assert "include" not in nft.checked[-1]


def test_a_firewall_that_is_off_stays_off(nft, tmp_path):
    nft.listing = ""
    (tmp_path / "conf").write_text(FILE)
    notes = _mta_firewall_nftables.plan([25], str(tmp_path / "conf")).notes
    assert notes == [f"None of the chains of {tmp_path}/conf is in force: only the file is changed"]
    _mta_firewall_nftables.apply([25], str(tmp_path / "conf"))
    assert nft.told == []
    assert _mta_firewall_nftables.plan([25], str(tmp_path / "conf")) == Plan()


def test_it_is_in_force_when_the_service_is_enabled_and_filters_what_comes_in(monkeypatch, tmp_path):
    in_force = _mta_firewall_nftables.in_force
    (tmp_path / "conf").write_text(FILE)
    monkeypatch.setattr(_mta_firewall_nftables, "BOOT_LINKS", str(tmp_path / "*.link"))
    assert not in_force(str(tmp_path / "conf"))
    (tmp_path / "nftables.link").write_text("")
    assert in_force(str(tmp_path / "conf"))
    (tmp_path / "conf").write_text("flush ruleset\n")
    assert not in_force(str(tmp_path / "conf"))
    assert not in_force(str(tmp_path / "none"))
