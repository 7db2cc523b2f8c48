"""TODO subject (mta_firewall_ufw)."""

import collections
import os

from salt.exceptions import CommandExecutionError

import _mta_firewall_files

PROGRAM = "/usr/sbin/ufw"
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
# A rule as the file has it. application: what ufw counts as one rule though it may be several lines.
Rule = collections.namedtuple("Rule", "text action ports everybody ours application")


def in_force():
    """
    Tell whether ufw is active.
    """
    return os.path.exists(PROGRAM) and _setting(SETTINGS, "ENABLED") == "yes"


def plan(ports):
    """
    Return what has to change for the ports to be open; nothing is changed.

    ports (list of int)
        TCP ports. With an empty list our rules go.

    Returns ``{"changes": {item: {"old": …, "new": …}}, "notes": [text]}``. Where ufw is not enabled the rules wait
    for it.

    Raises ``CommandExecutionError`` when ufw is not installed, and when something has to change while it is
    enabled but its rules are not in force.
    """
    changes, notes = {}, []
    if not os.path.exists(PROGRAM):
        if ports:
            raise CommandExecutionError("ufw is not installed: install it, or set the backend to auto or none")
        return {"changes": changes, "notes": notes}
    for family in _families():
        rules = _rules(family)
        wanted, last, refusing = _wanted(rules, ports)
        notes += [f"Left as it is in {FAMILIES[family][0]}: {rule.text}" for rule in refusing]
        ours = [rule.ports for rule in rules if rule.ours]
        if ours != wanted or _misplaced(rules, last):
            changes[f"{family} rules of ufw"] = {"old": _shown(ours), "new": _shown(wanted)}
    if changes and not in_force():
        notes.append("ufw is not enabled: only its files are changed")
    elif changes and "Status: active" not in _ufw(["status"]):
        raise CommandExecutionError(
            "ufw is enabled, but its rules are not in force, and a firewall is not switched on here: ufw reload"
            " puts them in force, ufw disable keeps them off after a reboot, too"
        )
    return {"changes": changes, "notes": notes}


def apply(ports):
    """
    Let ufw add our rules, and delete those that are no longer wanted, as far as :py:func:`plan` finds it
    necessary.

    ports
        As for :py:func:`plan`.

    Raises what :py:func:`plan` raises, with nothing changed; and ``CommandExecutionError``, with ufw's files and
    the running rules as they were, when ufw fails.
    """
    if not plan(ports)["changes"]:
        return
    saved = {path: _mta_firewall_files.read(path) for path, _any in FAMILIES.values()}
    try:
        for family in _families():
            _apply_family(family, ports)
    except CommandExecutionError:
        for path, text in saved.items():
            _mta_firewall_files.replace(path, text)
        if in_force():
            _ufw(["reload"])
        raise


def _apply_family(family, ports):
    rules = _rules(family)
    wanted, last, _refusing = _wanted(rules, ports)
    for rule in _misplaced(rules, last):
        _ufw(["delete", *_allow(family, rule.ports)])
    rules = _rules(family)
    present = [rule.ports for rule in rules if rule.ours]
    # The new ones first: no port that stays open is closed meanwhile.
    for numbers in wanted:
        if numbers not in present:
            _wanted_now, last, _refusing = _wanted(_rules(family), ports)
            place = [] if last is None else ["insert", str(_before(family) + last)]
            _ufw([*place, *_allow(family, numbers), "comment", COMMENT])
    for numbers in present:
        if numbers not in wanted:
            _ufw(["delete", *_allow(family, numbers)])


def _allow(family, numbers):
    anywhere = FAMILIES[family][1]
    port = ",".join(map(str, sorted(numbers)))
    return ["allow", "proto", "tcp", "from", anywhere, "to", anywhere, "port", port]


def _before(family):
    """Return how many rules ufw counts before those of a family: it numbers IPv6 rules after all others."""
    if family == "IPv4":
        return 0
    rules = _rules("IPv4")
    applications = [rule.application for rule in rules if rule.application]
    return len(rules) - len(applications) + len(set(applications))


def _families():
    return [family for family in FAMILIES if family == "IPv4" or _setting(DEFAULTS, "IPV6") == "yes"]


def _wanted(rules, ports):
    """
    Return the ports of each of the rules that we need, what the first is that denies everything, and others.

    The second is a position, counted from 1, or ``None``; the third are the rules that refuse ports by number.
    """
    closed, refusing = list(ports), []
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


def _misplaced(rules, last):
    """Return our rules that stand behind one that denies everything."""
    return [] if last is None else [rule for rule in rules[last:] if rule.ours]


def _shown(parts):
    return ", ".join(str(port) for part in parts for port in sorted(part))


def _rules(family):
    path, anywhere = FAMILIES[family]
    return _parsed(_mta_firewall_files.read(path) or "", anywhere)


def _parsed(text, anywhere):
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


def _rule(line, anywhere):
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


def _ports(text):
    """Return the numbers of ``25,110`` or ``6000:6007``."""
    numbers = set()
    for part in text.split(","):
        first, _, last = part.partition(":")
        numbers.update(range(int(first), int(last or first) + 1))
    return numbers


def _setting(path, name):
    """Return a value from a file of ``NAME=value`` lines, in lower case; ``None`` without one."""
    for line in (_mta_firewall_files.read(path) or "").splitlines():
        key, _, value = line.partition("=")
        if key.strip() == name:
            return value.strip().strip("\"'").lower()
    return None


def _ufw(arguments):
    """Run ufw and return what it printed."""
    return _mta_firewall_files.run(["ufw", *arguments])
