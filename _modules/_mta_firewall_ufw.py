"""
The backend ufw: rules are told to ufw, which keeps them in its files and in the kernel.

ufw writes each rule to its files with a comment that holds it, and reads only that comment; so it is read here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from salt.exceptions import CommandExecutionError

import _mta_firewall_files
import _mta_system
from _mta_plan import Plan
from _mta_records import NamedTuple

PROGRAM = _mta_firewall_files.UFW
SETTINGS = "/etc/ufw/ufw.conf"
DEFAULTS = "/etc/default/ufw"
COMMENT = "postfix_mta"
# Family: the file with its rules, and what stands for any address there.
FAMILIES = {
    "IPv4": ("/etc/ufw/user.rules", "0.0.0.0/0"),
    "IPv6": ("/etc/ufw/user6.rules", "::/0"),
}
# iptables' multiport takes no more in one rule.
LONGEST = 15


class Rule(NamedTuple):
    """
    A rule as the file has it.

    ports
        Those that it is for; ``None``: all.

    everybody
        Whether it is for every client.

    application
        What ufw counts as one rule though it may be several lines.
    """

    text: str
    action: str
    ports: set[int] | None
    everybody: bool
    ours: bool
    application: tuple[str, ...] | None


def in_force() -> bool:
    """Tell whether ufw is enabled."""
    return os.path.exists(PROGRAM) and _setting(SETTINGS, "ENABLED") == "yes"


def plan(ports: Sequence[int]) -> Plan:
    """
    Return what has to change for the TCP ports to be open; with an empty list our rules go.

    Where ufw is not enabled the rules wait for it. Raises ``CommandExecutionError`` when ufw is not installed, and
    when something has to change while it is enabled but its rules are not in force.
    """
    planned = Plan()
    if not os.path.exists(PROGRAM):
        if ports:
            raise CommandExecutionError("ufw is not installed: install it, or set the backend to auto or none")
        return planned
    for family in _families():
        rules = _rules(family)
        wanted, last, refusing = _wanted(rules, ports)
        planned.notes += [f"Left as it is in {FAMILIES[family][0]}: {rule.text}" for rule in refusing]
        ours = [rule.ports for rule in rules if rule.ours]
        if ours != wanted or _misplaced(rules, last):
            planned.changes[f"{family} rules of ufw"] = {"old": _shown(ours), "new": _shown(wanted)}
    if planned.changes and not in_force():
        planned.notes.append("ufw is not enabled: only its files are changed")
    elif planned.changes and "Status: active" not in _ufw(["status"]):
        raise CommandExecutionError(
            "ufw is enabled, but its rules are not in force, and a firewall is not switched on here: ufw reload"
            " puts them in force, ufw disable keeps them off after a reboot, too"
        )
    return planned


def apply(ports: Sequence[int]) -> None:
    """
    Let ufw add our rules, and delete those that are no longer wanted, as far as :func:`plan` finds it necessary.

    Raises what :func:`plan` raises, with nothing changed; and ``CommandExecutionError``, with ufw's files and
    the running rules as they were, when ufw fails.
    """
    if not plan(ports).changes:
        return
    saved = {path: _mta_system.read(path) for path, _any in FAMILIES.values()}
    try:
        for family in _families():
            _apply_family(family, ports)
    except CommandExecutionError:
        for path, text in saved.items():
            _mta_firewall_files.replace(path, text)
        if in_force():
            _ufw(["reload"])
        raise


def _apply_family(family: str, ports: Sequence[int]) -> None:
    rules = _rules(family)
    wanted, last, _refusing = _wanted(rules, ports)
    for rule in _misplaced(rules, last):
        _ufw(["delete", *_allow(family, rule.ports or ())])
    rules = _rules(family)
    present = [rule.ports for rule in rules if rule.ours]
    # The new ones first: no port that stays open is closed meanwhile.
    for numbers in wanted:
        if numbers not in present:
            _wanted_now, last, _refusing = _wanted(_rules(family), ports)
            place = [] if last is None else ["insert", str(_before(family) + last)]
            _ufw([*place, *_allow(family, numbers), "comment", COMMENT])
    for old in present:
        if old not in wanted:
            _ufw(["delete", *_allow(family, old or ())])


def _allow(family: str, numbers: Iterable[int]) -> list[str]:
    anywhere = FAMILIES[family][1]
    port = ",".join(map(str, sorted(numbers)))
    return ["allow", "proto", "tcp", "from", anywhere, "to", anywhere, "port", port]


def _before(family: str) -> int:
    """Return how many rules ufw counts before those of a family: it numbers IPv6 rules after all others."""
    if family == "IPv4":
        return 0
    rules = _rules("IPv4")
    applications = [rule.application for rule in rules if rule.application]
    return len(rules) - len(applications) + len(set(applications))


def _families() -> list[str]:
    return [family for family in FAMILIES if family == "IPv4" or _setting(DEFAULTS, "IPV6") == "yes"]


def _wanted(rules: list[Rule], ports: Sequence[int]) -> tuple[list[set[int]], int | None, list[Rule]]:
    """
    Return the ports of each of the rules that we need, what the first is that denies everything, and others.

    The second is a position, counted from 1, or ``None``; the third are the rules that refuse ports by number.
    """
    closed = list(ports)
    refusing: list[Rule] = []
    last = None
    for number, rule in enumerate(rules, 1):
        if rule.ours or not rule.everybody:
            continue
        if rule.action.startswith("allow"):
            closed = [port for port in closed if rule.ports is not None and port not in rule.ports]
        elif rule.ports is None:
            last = number
            break
        elif set(closed) & rule.ports:
            refusing.append(rule)
            closed = [port for port in closed if port not in rule.ports]
    closed = sorted(closed)
    parts = [set(closed[first : first + LONGEST]) for first in range(0, len(closed), LONGEST)]
    return parts, last, refusing


def _misplaced(rules: list[Rule], last: int | None) -> list[Rule]:
    """Return our rules that stand behind one that denies everything."""
    return [] if last is None else [rule for rule in rules[last:] if rule.ours]


def _shown(parts: Iterable[set[int] | None]) -> str:
    return ", ".join(str(port) for part in parts for port in sorted(part or ()))


def _rules(family: str) -> list[Rule]:
    path, anywhere = FAMILIES[family]
    return _parsed(_mta_system.read(path) or "", anywhere)


def _parsed(text: str, anywhere: str) -> list[Rule]:
    """
    Return the rules of a file of ufw's, by the comments in which it keeps them.

    ``### tuple ### ACTION PROTOCOL PORT TO PORT FROM [PROFILE PROFILE] DIRECTION [comment=HEX]``

    Raises ``CommandExecutionError`` for a line that is not like that.
    """
    head = "### tuple ### "
    lines = [line[len(head) :] for line in text.splitlines() if line.startswith(head)]
    try:
        return [_rule(line, anywhere) for line in lines]
    except ValueError as error:
        # ufw itself would leave such a rule out when it writes the file.
        raise CommandExecutionError(f"A rule in ufw's files is not understood: {error}") from error


def _rule(line: str, anywhere: str) -> Rule:
    words = line.split()
    comment = ""
    if words[-1].startswith("comment="):
        comment = bytes.fromhex(words.pop().partition("=")[2]).decode(errors="replace")
    action, protocol, port, target, source_port, source, *profiles, direction = words
    everybody = (target, source_port, source, direction) == (anywhere, "any", anywhere, "in")
    everybody = (
        everybody and protocol in ("tcp", "any") and action.partition("_")[0] in ("allow", "deny", "reject")
    )
    return Rule(
        text=line,
        action=action,
        ports=None if port == "any" else _ports(port),
        everybody=everybody,
        ours=comment == COMMENT and action == "allow" and everybody and port != "any",
        application=(target, source, *profiles) if profiles else None,
    )


def _ports(text: str) -> set[int]:
    """Return the numbers of ``25,110`` or ``6000:6007``."""
    numbers: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition(":")
        numbers.update(range(int(first), int(last or first) + 1))
    return numbers


def _setting(path: str, name: str) -> str | None:
    """Return a value from a file of ``NAME=value`` lines, in lower case; ``None`` without one."""
    for line in (_mta_system.read(path) or "").splitlines():
        key, _, value = line.partition("=")
        if key.strip() == name:
            return value.strip().strip("\"'").lower()
    return None


def _ufw(arguments: Sequence[str]) -> str:
    """Run ufw and return what it printed."""
    return _mta_firewall_files.run(["ufw", *arguments])
