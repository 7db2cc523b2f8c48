"""
Keep ports open in rules files for iptables-restore(8) and ip6tables-restore(8), as the how-to does by hand.

A block of rules stands between two marker comments. Rules that open a port already, in whatever spelling, are left
to do so. A file is tested before it replaces the old one, and a file that does not load is taken back, with the
running rules. Loading a file replaces the whole tables that are in it, as the how-to's command does.

What the kernel has is asked at every run, by one ``iptables -S INPUT`` for each family that has a file: the file
does not tell whether it has been loaded.
"""

import os
import re
import shlex
import socket

from salt.exceptions import CommandExecutionError

BEGIN = "# postfix_mta: begin"
END = "# postfix_mta: end"

# The how-to's lines.
GROUPS = (
    ("# Allows SMTP access", (25,)),
    ("# Allows mail submission", (465, 587)),
    ("# Allows pop and pops connections", (110, 995)),
    ("# Allows imap and imaps connections", (143, 993)),
)
LOG_LINE = r"(?i)\s*#.*log iptables denied calls"


# Options of a rule that do not limit whom it lets in, with the values for which that is so (None: any value).
UNLIMITED = {
    "--protocol": {"tcp", "6", "all", "0"},
    "--match": {"tcp", "multiport", "comment", "state", "conntrack"},
    "--source": {"0.0.0.0/0", "0/0", "::/0"},
    "--destination": {"0.0.0.0/0", "0/0", "::/0"},
    "--in-interface": {"+"},
    "--comment": None,
    "--reject-with": None,
}
SHORT = {
    "-p": "--protocol",
    "-m": "--match",
    "-s": "--source",
    "--src": "--source",
    "-d": "--destination",
    "--dst": "--destination",
    "-i": "--in-interface",
    "-j": "--jump",
    "--destination-port": "--dport",
    "--destination-ports": "--dports",
    "--state": "--ctstate",
}


def in_force(rules_file, rules_file_v6):
    """
    Tell whether the how-to's rules file is there.

    rules_file, rules_file_v6
        As for :py:func:`plan`.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_firewall_iptables.in_force /etc/iptables.firewall.rules /etc/ip6tables.firewall.rules
    """
    return os.path.exists(rules_file)


def plan(ports, rules_file, rules_file_v6):
    """
    Return what has to change for the ports to be open; nothing is changed.

    ports (list of int)
        TCP ports. With an empty list the blocks of rules go.

    rules_file (str)
        A file for iptables-restore(8). It has to exist when there are ports.

    rules_file_v6 (str)
        A file for ip6tables-restore(8). Where it does not exist IPv6 is left alone.

    Returns ``{"changes": {item: {"old": …, "new": …}}, "notes": []}``. The running rules are to be loaded when the
    file changes, and when they drop what the file accepts. A host whose firewall is off keeps it off, unless the
    file gets a port.

    Raises ``CommandExecutionError`` when the rules cannot be read, and when a new file does not pass
    ``iptables-restore --test``.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_firewall_iptables.plan '[25, 993]' /etc/iptables.firewall.rules /etc/ip6tables.firewall.rules
    """
    if ports and not os.path.exists(rules_file):
        raise CommandExecutionError(
            f"There is no {rules_file}, and a firewall is not invented here. Write your rules to it "
            "(iptables-save shows those that run now), or set the backend to auto or none"
        )
    changes = {}
    for program, path, running in _families(rules_file, rules_file_v6):
        changes.update(_plan_family(program, path, running, ports))
    return {"changes": changes, "notes": []}


def _families(rules_file, rules_file_v6):
    """Return the program, the file and the name of the running rules of each family that has a file."""
    families = [("iptables", rules_file, "running rules"), ("ip6tables", rules_file_v6, "running IPv6 rules")]
    return [family for family in families if os.path.exists(family[1])]


def _plan_family(program, path, running, ports):
    old = __salt__["mta_firewall.read"](path)
    new = _with_ports(old, ports)
    changes = {}
    if ports or new != old:
        rules = _run([program, "-w", "5", "-S", "INPUT"]).splitlines()
        closed = _closed_when_running(rules, ports)
        if new != old:
            changes[path] = {"old": _block(old), "new": _block(new)}
        # More than the line with the policy: a firewall is on.
        if closed or (new != old and (ports or len(rules) > 1)):
            before = f"without port {', '.join(map(str, closed))}" if closed else "before the change"
            changes[running] = {"old": before, "new": f"loaded from {path}"}
    if changes:
        _run([f"{program}-restore", "-w", "5", "--test"], stdin=new)
    return changes


def apply(ports, rules_file, rules_file_v6):
    """
    Write the rules files and load them, as far as :py:func:`plan` finds it necessary.

    ports, rules_file, rules_file_v6
        As for :py:func:`plan`.

    Raises what :py:func:`plan` raises, with nothing changed; and ``CommandExecutionError``, with the files and
    the running rules as they were, when the rules cannot be loaded.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_firewall_iptables.apply '[25, 993]' /etc/iptables.firewall.rules /etc/ip6tables.firewall.rules
    """
    changes = plan(ports, rules_file, rules_file_v6)["changes"]
    undo = []
    try:
        for program, path, running in _families(rules_file, rules_file_v6):
            old = __salt__["mta_firewall.read"](path)
            new = _with_ports(old, ports)
            saved = _saved(program, new) if running in changes else None
            undo.append((program, path, old if path in changes else None, saved))
            if path in changes:
                __salt__["mta_firewall.replace"](path, new)
            if saved is not None:
                _run([f"{program}-restore", "-w", "5"], stdin=new)
    except CommandExecutionError:
        for program, path, old, saved in reversed(undo):
            if old is not None:
                __salt__["mta_firewall.replace"](path, old)
            if saved is not None:
                _run([f"{program}-restore", "-w", "5"], stdin=saved)
        raise


def _with_ports(text, ports):
    """
    Return the text of a rules file with its block of rules as it should be.

    Ports that other rules open to everybody are left out of the block. It stays where it is while it is
    reached there. A new one goes before the comment "Log iptables denied calls", or before a rule that drops
    everything, or before the COMMIT of the filter table, whichever comes first.
    """
    lines = text.splitlines(keepends=True)
    begin, end = _block_range(lines)
    rest = lines[:begin] + lines[end:]
    if not ports:
        return "".join(rest)
    first, commit = _filter_table(rest)
    closed, drop = _closed(rest[first:commit], ports)
    if not closed:
        return "".join(rest)
    last = first + drop
    if begin < end and first <= begin <= last:
        place = begin
    else:
        log = next((index for index in range(first, last) if re.match(LOG_LINE, rest[index])), None)
        place = last if log is None else log
        while log is None and rest[place - 1].startswith("#"):
            place -= 1
    return "".join(rest[:place] + _rules(closed) + rest[place:])


def _rules(ports):
    """Return the lines of a block."""
    known = [port for _comment, members in GROUPS for port in members]
    others = ("# Allows other connections", [port for port in ports if port not in known])
    paragraphs = []
    for comment, members in (*GROUPS, others):
        rules = [f"-A INPUT -p tcp --dport {port} -j ACCEPT" for port in members if port in ports]
        if rules:
            paragraphs.append("\n".join([comment, *rules]))
    return f"{BEGIN}\n{{}}\n{END}\n\n".format("\n\n".join(paragraphs)).splitlines(keepends=True)


def _block_range(lines):
    """Return the slice of the lines that is our block and the empty line after it; empty without a block."""
    marks = [index for index, line in enumerate(lines) if line.strip() in (BEGIN, END)]
    if not marks:
        return 0, 0
    if [lines[index].strip() for index in marks] != [BEGIN, END]:
        raise CommandExecutionError(f'The rules file needs one "{BEGIN}" and after it one "{END}", or neither')
    begin, end = marks[0], marks[1] + 1
    return begin, end + (end < len(lines) and not lines[end].strip())


def _block(text):
    lines = text.splitlines(keepends=True)
    return "".join(lines[slice(*_block_range(lines))]).strip()


def _filter_table(lines):
    """Return the index of the first line in the filter table, and that of its COMMIT."""
    words = [line.strip() for line in lines]
    if "*filter" not in words or "COMMIT" not in words[words.index("*filter") :]:
        raise CommandExecutionError("The rules file has no table *filter that ends with COMMIT")
    first = words.index("*filter") + 1
    return first, words.index("COMMIT", first)


def _closed(lines, ports):
    """Return the ports that no line opens to everybody, and how many lines precede dropping everything."""
    closed = list(dict.fromkeys(ports))
    for number, line in enumerate(lines):
        target, opened = _rule(line)
        if target in ("DROP", "REJECT") and opened is None:
            return closed, number
        if target == "ACCEPT":
            closed = [port for port in closed if opened is not None and port not in opened]
    return closed, len(lines)


def _closed_when_running(lines, ports):
    """Return the ports that the output of ``iptables -S INPUT`` closes: none where the firewall is off."""
    closed, drop = _closed(lines, ports)
    return [] if drop == len(lines) and "-P INPUT ACCEPT" in lines else closed


def _rule(line):
    """
    Return the target of a rule that applies to every TCP client, and the ports it is for (None: all).

    ``(None, None)`` for any other line: rules with a further condition, for another protocol or chain,
    comments.
    """
    other = (None, None)
    line = re.sub(r"^\s*\[\d+:\d+\]", "", line)
    try:
        words = shlex.split(re.sub(r"(\s--[a-z-]+)=", r"\1 ", line))
    except ValueError:
        return other
    if words[:2] not in (["-A", "INPUT"], ["--append", "INPUT"]) or len(words) % 2:
        return other
    target, ports = None, None
    for option, value in zip(words[2::2], words[3::2]):
        option = SHORT.get(option, option)
        if option == "--jump":
            target = value
        elif option in ("--dport", "--dports"):
            ports = {number for part in value.split(",") for number in _port_range(part)}
        elif option == "--ctstate":
            if "NEW" not in value.upper().split(","):
                return other
        elif option not in UNLIMITED or (UNLIMITED[option] and value not in UNLIMITED[option]):
            return other
    return target, ports


def _port_range(text):
    """Return the numbers of ``25``, ``smtp`` or ``110:143``; none for a service unknown to this host."""
    ends = []
    for end in text.split(":") if ":" in text else [text, text]:
        try:
            ends.append(int(end) if end.isdigit() else socket.getservbyname(end, "tcp"))
        except OSError:
            return range(0)
    return range(ends[0], ends[-1] + 1)


def _saved(program, text):
    """
    Return rules that bring the tables of a rules file back to how they are now.

    A table that is not in use is missing in iptables-save's output: it is emptied, and its chains accept.
    """
    saved = []
    unused = False
    for line in map(str.strip, text.splitlines()):
        if line.startswith("*"):
            now = _run([f"{program}-save", "-t", line[1:]])
            unused = line not in now.splitlines()
            saved.append(line if unused else now)
        elif unused and re.match(r":\S+ (ACCEPT|DROP)\b", line):
            saved.append(f"{line.split()[0]} ACCEPT [0:0]")
        elif unused and line == "COMMIT":
            saved.append(line)
    return "\n".join(saved) + "\n"


def _run(argv, stdin=""):
    return __salt__["mta_firewall.run"](argv, stdin)
