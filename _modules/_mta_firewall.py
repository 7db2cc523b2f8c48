"""
The mail server's ports in the firewall that is in force on this host.

Which firewall that is, and which ports they are. Each backend is a file of its own, with ``in_force``, ``plan``
and ``apply``: it keeps the rules of others as they are, writes to the place from which the firewall starts at
boot, and leaves files and running rules as they were when the new ones do not load.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from salt.exceptions import SaltInvocationError

import _mta_firewall_files
import _mta_firewall_firewalld
import _mta_firewall_iptables
import _mta_firewall_nftables
import _mta_firewall_ufw
import _mta_postfix_edit
from _mta_minion import Minion
from _mta_plan import Plan
from _mta_records import NamedTuple

# The how-to's: SMTP, POP3 and POP3S, IMAP and IMAPS.
PORTS = (25, 110, 995, 143, 993)
LISTENERS = "listeners"
# What the settings of the backends are where they are not given.
DEFAULTS = {
    "rules_file": "/etc/iptables.firewall.rules",
    "rules_file_v6": "/etc/ip6tables.firewall.rules",
    "nftables_file": "/etc/nftables.conf",
    "zones": [],
}


class Backend(NamedTuple):
    """A backend: its functions, the settings that they take, and the file without which it is not in force."""

    functions: ModuleType
    settings: tuple[str, ...]
    # A pattern of glob(7), or the setting that has the path.
    needs: str

    def own(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of the settings that this backend takes."""
        return {name: settings.get(name, DEFAULTS[name]) for name in self.settings}

    def may_be_in_force(self, settings: Mapping[str, Any]) -> bool:
        """Tell whether it is worth while to ask the backend itself, whose file is then executed."""
        if self.needs in self.settings:
            return os.path.exists(self.own(settings)[self.needs])
        return bool(glob.glob(self.needs))


# In the order in which ``auto`` looks for one: ufw and firewalld make their rules with iptables or nftables, so
# those come last.
BACKENDS = {
    "ufw": Backend(_mta_firewall_ufw, (), _mta_firewall_files.UFW),
    "firewalld": Backend(_mta_firewall_firewalld, ("zones",), _mta_firewall_files.FIREWALLD),
    "nftables": Backend(_mta_firewall_nftables, ("nftables_file",), _mta_firewall_files.NFTABLES_AT_BOOT),
    "iptables": Backend(_mta_firewall_iptables, ("rules_file", "rules_file_v6"), "rules_file"),
}


def in_force(**settings: Any) -> str:
    """Return the name of the backend that is in force, or ``none``; settings as for :func:`plan`. No process."""
    for name, backend in BACKENDS.items():
        if backend.may_be_in_force(settings) and backend.functions.in_force(**backend.own(settings)):
            return name
    return "none"


def plan(
    minion: Minion,
    backend: str = "auto",
    ports: Sequence[int | str] = PORTS,
    config_directory: str = "/etc/postfix",
    **settings: Any,
) -> Plan:
    """
    Return what has to change for the ports to be open; parameters as for the state ``mta_firewall.managed``.

    With an empty list of ports what an earlier apply opened is closed again. Raises ``SaltInvocationError`` for an
    unknown backend and for what is not a port, ``CommandExecutionError`` when the rules cannot be read, or the
    firewall refuses the new ones.
    """
    name, numbers = _requested(minion, backend, ports, config_directory, settings)
    if name == "none":
        return Plan(notes=[f"No firewall is managed: backend {backend}"])
    planned: Plan = BACKENDS[name].functions.plan(numbers, **BACKENDS[name].own(settings))
    planned.notes.insert(0, f"Backend: {name}")
    return planned


def apply(
    minion: Minion,
    backend: str = "auto",
    ports: Sequence[int | str] = PORTS,
    config_directory: str = "/etc/postfix",
    **settings: Any,
) -> None:
    """
    Open the ports, as far as :func:`plan` finds it necessary.

    Raises what :func:`plan` raises, with nothing changed; and ``CommandExecutionError``, with the files and the
    running rules as they were, when the rules cannot be loaded.
    """
    name, numbers = _requested(minion, backend, ports, config_directory, settings)
    if name != "none":
        BACKENDS[name].functions.apply(numbers, **BACKENDS[name].own(settings))


def absent_plan(_minion: Minion, **settings: Any) -> Plan:
    """Return what has to change for no rule of this formula to be left in any firewall, in force or not."""
    planned = {name: backend.functions.plan([], **backend.own(settings)) for name, backend in BACKENDS.items()}
    changed = [name for name in planned if planned[name].changes]
    changes = {item: change for name in changed for item, change in planned[name].changes.items()}
    return Plan(changes, notes=[f"Backend: {name}" for name in changed])


def absent_apply(_minion: Minion, **settings: Any) -> None:
    """Take out of every firewall what this formula has put there, and nothing else."""
    for backend in BACKENDS.values():
        own = backend.own(settings)
        if backend.functions.plan([], **own).changes:
            backend.functions.apply([], **own)


def _requested(
    minion: Minion,
    backend: str,
    ports: Sequence[int | str],
    config_directory: str,
    settings: Mapping[str, Any],
) -> tuple[str, list[int]]:
    """Return the name of the backend that is meant, and the ports as numbers, each once, in the order given."""
    if backend not in ("auto", "none", *BACKENDS):
        raise SaltInvocationError(f"Firewall backend {backend!r}: there are auto, none, {', '.join(BACKENDS)}")
    numbers: list[int] = []
    wrong: list[Any] = []
    for port in ports:
        if port == LISTENERS:
            numbers += _mta_postfix_edit.ports(minion, config_directory)
        elif type(port) is int and 0 < port < 65536:
            numbers.append(port)
        else:
            wrong.append(port)
    if wrong:
        raise SaltInvocationError(f"Neither a port number nor {LISTENERS}: {', '.join(map(repr, wrong))}")
    name = in_force(**settings) if backend == "auto" else backend
    return name, list(dict.fromkeys(numbers))
