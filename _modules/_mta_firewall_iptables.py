"""
The backend iptables: a block of rules in the how-to's rules files, and the same rules in the kernel.

The block stands where it counts: before what logs or drops everything. A new file has to pass
``iptables-restore --test``; in the kernel rules are added and deleted by one ``iptables-restore --noflush``, all
or none of them.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import field
from typing import Any, Optional

from salt.exceptions import CommandExecutionError

import _mta_firewall_files
import _mta_system
from _mta_plan import Plan
from _mta_records import NamedTuple, dataclass

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
UNLIMITED: dict[str, set[str] | None] = {
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


# The target of a rule, and the ports that it is for (None: all).
Meaning = tuple[Optional[str], Optional[set[int]]]


class Family(NamedTuple):
    """The program of a family, its rules file, and the name of its running rules in the changes."""

    program: str
    path: str
    running: str


@dataclass
class Work:
    """
    What is to be done for a family.

    old, new
        The text of the file.

    add, back
        What iptables-restore has to read to bring the kernel's rules up to date, and back again.
    """

    old: str
    new: str
    add: str = ""
    back: str = ""
    changes: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def in_force(rules_file: str, rules_file_v6: str) -> bool:
    """Tell whether the how-to's rules file is there."""
    return os.path.exists(rules_file)


def plan(ports: Sequence[int], rules_file: str, rules_file_v6: str) -> Plan:
    """
    Return what has to change for the ports to be open.

    ports
        TCP ports. With an empty list the blocks of rules go.

    rules_file
        A file for iptables-restore(8). It has to exist when there are ports.

    rules_file_v6
        A file for ip6tables-restore(8). Where it does not exist IPv6 is left alone.

    A firewall that is off stays off. Raises ``CommandExecutionError`` when the rules cannot be read, and when a
    new file does not pass ``iptables-restore --test``.
    """
    if ports and not os.path.exists(rules_file):
        raise CommandExecutionError(
            f"There is no {rules_file}, and a firewall is not invented here. Write your rules to it "
            "(iptables-save shows those that run now), or set the backend to auto or none"
        )
    planned = Plan()
    for family in _families(rules_file, rules_file_v6):
        work = _planned(family, ports)
        planned.changes.update(work.changes)
        planned.notes += work.notes
    return planned


def apply(ports: Sequence[int], rules_file: str, rules_file_v6: str) -> None:
    """
    Write the rules files and change the running rules, as far as :func:`plan` finds it necessary.

    Raises what :func:`plan` raises, with nothing changed; and ``CommandExecutionError``, with the files and
    the running rules as they were, when the kernel does not take the rules.
    """
    plan(ports, rules_file, rules_file_v6)
    done: list[tuple[Family, Work, bool]] = []
    try:
        for family in _families(rules_file, rules_file_v6):
            work = _planned(family, ports)
            if work.new != work.old:
                done.append((family, work, False))
                _mta_firewall_files.replace(family.path, work.new)
            if work.add:
                # All of it or, when it fails, nothing.
                _load(family, work.add)
                done.append((family, work, True))
    except CommandExecutionError:
        for family, work, loaded in reversed(done):
            if loaded:
                _load(family, work.back)
            else:
                _mta_firewall_files.replace(family.path, work.old)
        raise


def _load(family: Family, batch: str) -> None:
    """Change the kernel's rules; what the batch does not name stays."""
    _mta_firewall_files.run([f"{family.program}-restore", "-w", "5", "--noflush"], batch)


def _families(rules_file: str, rules_file_v6: str) -> list[Family]:
    """Return the families that have a file."""
    families = [
        Family("iptables", rules_file, "running rules"),
        Family("ip6tables", rules_file_v6, "running IPv6 rules"),
    ]
    return [family for family in families if os.path.exists(family.path)]


def _planned(family: Family, ports: Sequence[int]) -> Work:
    """Return what is to be done for a family."""
    old = _mta_system.read(family.path) or ""
    work = Work(old, _with_ports(old, ports))
    if not ports and work.new == old:
        return work
    lines = _mta_firewall_files.run([family.program, "-w", "5", "-S", "INPUT"]).splitlines()
    if work.new != old:
        work.changes[family.path] = {"old": _block(old), "new": _block(work.new)}
        _mta_firewall_files.run([f"{family.program}-restore", "-w", "5", "--test"], work.new)
        if lines == OFF:
            work.notes.append(f"No rules of {family.program} are in force: only the file {family.path} is changed")
    if lines == OFF:
        return work
    obsolete = [port for port in _ports_of_block(old) if port not in ports]
    wanted, unwanted, work.add, work.back = _running_changes(lines, ports, obsolete)
    if wanted or unwanted:
        work.changes[family.running] = {"old": "\n".join(unwanted), "new": "\n".join(wanted)}
    return work


def _running_changes(
    lines: list[str], ports: Sequence[int], obsolete: Sequence[int]
) -> tuple[list[str], list[str], str, str]:
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


def _inserted(rule: str, number: int) -> str:
    return rule.replace("-A INPUT", f"-I INPUT {number}", 1)


def _deleted(rule: str) -> str:
    return rule.replace("-A INPUT", "-D INPUT", 1)


def _batch(commands: Sequence[str]) -> str:
    return "\n".join(["*filter", *commands, "COMMIT", ""]) if commands else ""


def _with_ports(text: str, ports: Sequence[int]) -> str:
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


def _rules(ports: Sequence[int]) -> list[str]:
    """Return the lines of a block."""
    known = [port for _comment, members in GROUPS for port in members]
    others = ("# Allows other connections", tuple(port for port in ports if port not in known))
    paragraphs = []
    for comment, members in (*GROUPS, others):
        rules = [f"-A INPUT -p tcp --dport {port} -j ACCEPT" for port in members if port in ports]
        if rules:
            paragraphs.append("\n".join([comment, *rules]))
    return f"{BEGIN}\n{{}}\n{END}\n\n".format("\n\n".join(paragraphs)).splitlines(keepends=True)


def _block_range(lines: list[str]) -> tuple[int, int]:
    """Return the slice of the lines that is our block and the empty line after it; empty without a block."""
    marks = [index for index, line in enumerate(lines) if line.strip() in (BEGIN, END)]
    if not marks:
        return 0, 0
    if [lines[index].strip() for index in marks] != [BEGIN, END]:
        raise CommandExecutionError(f'The rules file needs one "{BEGIN}" and after it one "{END}", or neither')
    begin, end = marks[0], marks[1] + 1
    return begin, end + (end < len(lines) and not lines[end].strip())


def _block(text: str) -> str:
    lines = text.splitlines(keepends=True)
    return "".join(lines[slice(*_block_range(lines))]).strip()


def _ports_of_block(text: str) -> list[int]:
    """Return the ports that our block in a rules file opens."""
    found: list[Iterable[int]] = [_rule(line)[1] or () for line in _block(text).splitlines()]
    return [port for ports in found for port in ports]


def _filter_table(lines: list[str]) -> tuple[int, int]:
    """Return the index of the first line in the filter table, and that of its COMMIT."""
    words = [line.strip() for line in lines]
    if "*filter" not in words or "COMMIT" not in words[words.index("*filter") :]:
        raise CommandExecutionError("The rules file has no table *filter that ends with COMMIT")
    first = words.index("*filter") + 1
    return first, words.index("COMMIT", first)


def _closed(lines: Sequence[str], ports: Iterable[int]) -> tuple[list[int], int]:
    """Return the ports that no line opens to everybody, and how many lines precede dropping everything."""
    closed = list(dict.fromkeys(ports))
    for number, line in enumerate(lines):
        target, opened = _rule(line)
        if target in ("DROP", "REJECT") and opened is None:
            return closed, number
        if target == "ACCEPT":
            closed = [port for port in closed if opened is not None and port not in opened]
    return closed, len(lines)


def _rule(line: str) -> Meaning:
    """
    Return the target of a rule that applies to every TCP client, and the ports it is for (None: all).

    ``(None, None)`` for any other line: rules with a further condition, for another protocol or chain,
    comments.
    """
    other: Meaning = (None, None)
    line = re.sub(r"^\s*\[\d+:\d+\]", "", line)
    try:
        words = shlex.split(re.sub(r"(\s--[a-z-]+)=", r"\1 ", line))
    except ValueError:
        return other
    if words[:2] not in (["-A", "INPUT"], ["--append", "INPUT"]) or len(words) % 2:
        return other
    target: str | None = None
    ports: set[int] | None = None
    for option, value in zip(words[2::2], words[3::2]):
        option = SHORT.get(option, option)
        if option == "--jump":
            target = value
        elif option in ("--dport", "--dports"):
            ports = {number for part in value.split(",") for number in _port_range(part)}
        elif option == "--ctstate":
            if "NEW" not in value.upper().split(","):
                return other
        else:
            allowed = UNLIMITED.get(option, set())
            if allowed is not None and value not in allowed:
                return other
    return target, ports


def _port_range(text: str) -> range:
    """Return the numbers of ``25``, ``smtp`` or ``110:143``; none for a service unknown to this host."""
    ends = [_mta_system.port(end) for end in text.split(":")]
    first, last = ends[0], ends[-1]
    return range(0) if first is None or last is None else range(first, last + 1)
