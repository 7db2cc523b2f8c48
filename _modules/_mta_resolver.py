"""
What the DNS says, asked by ``dig`` through Salt's own helper (``salt.utils.dns``): there is no resolver here.

A server is asked directly where it is named; else the resolver of this host is.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from typing import Any, Optional

from salt.exceptions import CommandExecutionError

import _mta_system

TIMEOUT = 2  # seconds; dig asks three times
# Of a name, a type and a server's address: the data of the records, none; ``None``: no answer.
Lookup = Callable[[str, str, Optional[str]], Optional[list[str]]]


def lookup(name: str, kind: str, server: str | None = None) -> list[str] | None:
    """
    Return the data of a name's records of a type: without quotes, strings of TXT joined, others in lower case.

    server
        IP address of the server to ask. Default: the host's resolver.

    ``[]``: there is none. ``None``: no server answered. Raises ``CommandExecutionError`` where ``dig`` is missing.
    """
    found = _ask(name, kind, server)
    if found is False or found is None:
        return None
    if kind == "TXT":
        return [re.sub(r'"\s+"', "", text).replace("\\;", ";") for text in found]
    return [text.lower() for text in found]


def _ask(name: str, kind: str, server: str | None, **options: Any) -> Any:
    """What Salt's helper returns for a name, a type and a server."""
    need_dig()
    servers = [server] if server else None
    where = {"method": "dig", "servers": servers, "timeout": TIMEOUT}
    return _helper().lookup(f"{name.rstrip('.')}.", kind, **where, **options)


def _helper() -> Any:
    """Salt's module. It looks for ``dig`` when it is imported, which may have been before that was installed."""
    import salt.utils.dns

    return salt.utils.dns if salt.utils.dns.HAS_DIG else importlib.reload(salt.utils.dns)


def need_dig() -> None:
    """Raise ``CommandExecutionError`` where there is no ``dig``."""
    if not _mta_system.find_program("dig"):
        raise CommandExecutionError(
            "The DNS is asked by dig, which is not installed: its package is bind9-dnsutils, bind-utils on RedHat"
        )


def apex(name: str, look_up: Lookup, resolver: str | None = None) -> str:
    """
    Return the name of the zone that a name is in: the nearest name above it, or itself, that has NS records.

    Raises ``CommandExecutionError`` where no server answers.
    """
    labels = name.rstrip(".").split(".")
    for number in range(len(labels) - 1):
        zone = ".".join(labels[number:])
        found = look_up(zone, "NS", resolver)
        if found is None:
            break
        if found:
            return zone
    raise CommandExecutionError(f"No name server of {name} is known to the resolver")


def name_servers(name: str, look_up: Lookup, resolver: str | None = None) -> dict[str, list[str]]:
    """
    Return the name servers of the zone that a name is in, each with its addresses.

    Raises as :func:`apex` does.
    """
    servers = look_up(apex(name, look_up, resolver), "NS", resolver) or []
    return {
        server: [
            address
            for kind in ("A", "AAAA")
            for address in look_up(server, kind, resolver) or []
            if not re.search("[g-z]", address)
        ]
        for server in sorted(one.rstrip(".") for one in servers)
    }


def everywhere(name: str, kind: str, look_up: Lookup, resolver: str | None = None) -> dict[str, list[str] | None]:
    """
    Return what each of a name's own name servers says: ``{server: data}``; ``None``: it does not answer.

    Raises as :func:`name_servers` does.
    """
    said: dict[str, list[str] | None] = {}
    for server, addresses in name_servers(name, look_up, resolver).items():
        said[server] = None
        for address in addresses:
            said[server] = look_up(name, kind, address)
            if said[server] is not None:
                break
    return said


def signed(name: str, kind: str, server: str | None = None) -> bool:
    """Return whether an answer comes with signatures (DNSSEC). Raises as :func:`lookup` does."""
    return bool(_ask(name, kind, server, secure=True))
