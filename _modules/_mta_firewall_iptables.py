"""TODO subject (mta_firewall_iptables)."""

import os
import re
import shlex
import socket

from salt.exceptions import CommandExecutionError

import _mta_firewall_files

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
# As ``iptables -S`` shows a rule of ours, and what logs before everything is dropped.
RUNNING_RULE = "-A INPUT -p tcp -m tcp --dport {} -j ACCEPT"
RUNNING_LOG = r"-A INPUT (.* )?-j (LOG|NFLOG|ULOG)\b"
OFF = ["-P INPUT ACCEPT"]
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

    Returns ``{"changes": {item: {"old": …, "new": …}}, "notes": [text]}``. A firewall that is off stays off.

    Raises ``CommandExecutionError`` when the rules cannot be read, and when a new file does not pass
    ``iptables-restore --test``.
    """
    if ports and not os.path.exists(rules_file):
        raise CommandExecutionError(
            f"There is no {rules_file}, and a firewall is not invented here. Write your rules to it "
            "(iptables-save shows those that run now), or set the backend to auto or none"
        )
    changes, notes = {}, []
    for family in _families(rules_file, rules_file_v6):
        planned = _planned(family, ports)
        changes.update(planned["changes"])
        notes += planned["notes"]
    return {"changes": changes, "notes": notes}


def _families(rules_file, rules_file_v6):
    """Return the program, the file and the name of the running rules of each family that has a file."""
    families = [("iptables", rules_file, "running rules"), ("ip6tables", rules_file_v6, "running IPv6 rules")]
    return [family for family in families if os.path.exists(family[1])]


def _planned(family, ports):
    """
    Return what is to be done for a family: ``changes`` and ``notes``, the file's ``old`` and ``new`` text, and for
    iptables-restore what brings the kernel's rules up to date (``add``), and ``back`` again.
    """
    program, path, running = family
    old = _mta_firewall_files.read(path)
    planned = {"old": old, "new": _with_ports(old, ports), "add": "", "back": "", "changes": {}, "notes": []}
    if not ports and planned["new"] == old:
        return planned
    lines = _run([program, "-w", "5", "-S", "INPUT"]).splitlines()
    if planned["new"] != old:
        planned["changes"][path] = {"old": _block(old), "new": _block(planned["new"])}
        _run([f"{program}-restore", "-w", "5", "--test"], stdin=planned["new"])
        if lines == OFF:
            planned["notes"].append(f"No rules of {program} are in force: only the file {path} is changed")
    if lines == OFF:
        return planned
    obsolete = [port for port in _ports_of_block(old) if port not in ports]
    wanted, unwanted, planned["add"], planned["back"] = _running_changes(lines, ports, obsolete)
    if wanted or unwanted:
        planned["changes"][running] = {"old": "\n".join(unwanted), "new": "\n".join(wanted)}
    return planned


def _running_changes(lines, ports, obsolete):
    """
    Return what has to change in the kernel's rules, as ``iptables -S INPUT`` prints them.

    These are: the rules that are added, those that are taken away, and what ``iptables-restore --noflush`` has to
    read for that and for its contrary.
    """
    rules = [line for line in lines if line.startswith("-A INPUT ")]
    closed, drop = _closed(rules, ports)
    if drop == len(rules) and OFF[0] in lines:
        closed = []
    while drop and re.match(RUNNING_LOG, rules[drop - 1]):
        drop -= 1
    wanted = [RUNNING_RULE.format(port) for port in closed]
    unwanted = [rule for rule in map(RUNNING_RULE.format, obsolete) if rule in rules]
    # Their numbers count from 1, before the change.
    places = sorted((rules.index(rule) + 1, rule) for rule in unwanted)
    add = [_inserted(rule, number) for number, rule in enumerate(wanted, drop + 1)]
    add += [_deleted(rule) for rule in unwanted]
    back = [_deleted(rule) for rule in wanted] + [_inserted(rule, number) for number, rule in places]
    return wanted, unwanted, _batch(add), _batch(back)


def _inserted(rule, number):
    return rule.replace("-A INPUT", f"-I INPUT {number}", 1)


def _deleted(rule):
    return rule.replace("-A INPUT", "-D INPUT", 1)


def _batch(commands):
    return "\n".join(["*filter", *commands, "COMMIT", ""]) if commands else ""


def apply(ports, rules_file, rules_file_v6):
    """
    Write the rules files and change the running rules, as far as :py:func:`plan` finds it necessary.

    ports, rules_file, rules_file_v6
        As for :py:func:`plan`.

    Raises what :py:func:`plan` raises, with nothing changed; and ``CommandExecutionError``, with the files and
    the running rules as they were, when the kernel does not take the rules.
    """
    plan(ports, rules_file, rules_file_v6)
    undo = []
    try:
        for program, path, running in _families(rules_file, rules_file_v6):
            planned = _planned((program, path, running), ports)
            if planned["new"] != planned["old"]:
                undo.append((_mta_firewall_files.replace, (path, planned["old"])))
                _mta_firewall_files.replace(path, planned["new"])
            if planned["add"]:
                # All of it or, when it fails, nothing.
                _load(program, planned["add"])
                undo.append((_load, (program, planned["back"])))
    except CommandExecutionError:
        for function, arguments in reversed(undo):
            function(*arguments)
        raise


def _load(program, batch):
    """Change the kernel's rules; what the batch does not name stays."""
    _run([f"{program}-restore", "-w", "5", "--noflush"], stdin=batch)


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


def _ports_of_block(text):
    """Return the ports that our block in a rules file opens."""
    found = [_rule(line)[1] or () for line in _block(text).splitlines()]
    return [port for ports in found for port in ports]


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


def _run(argv, stdin=""):
    return _mta_firewall_files.run(argv, stdin)
