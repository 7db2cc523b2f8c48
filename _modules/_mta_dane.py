"""
Outgoing DANE: whether this host's resolver validates (DNSSEC), without which Postfix can believe no TLSA record.

A resolver says that it has validated an answer by the bit AD, if it is asked to (RFC 6840, 5.7 and 5.8). Salt's
helpers do not show it, so one packet is sent and the head of the answer is read: names and records are not. What
it said is remembered until the resolver is another one, or the DNS is looked at anyway.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import time
from collections.abc import Mapping

import _mta_plan_cache
import _mta_system
from _mta_minion import Minion

PARAMETERS = {"smtp_tls_security_level": "dane", "smtp_dns_support_level": "dnssec"}
RESOLV_CONF = "/etc/resolv.conf"
PORT = 53
# What Postfix itself asks for, to see whether its resolver validates (postconf(5)).
PROBE, PROBE_DEFAULT = "dnssec_probe", "ns:."
TYPES = {"a": 1, "ns": 2, "soa": 6, "mx": 15, "aaaa": 28}
# Seconds for a server to answer, twice; and after which one that did not answer is asked again.
TIMEOUT, SILENT = 1, 3600
FOREVER = float(1 << 40)
SUBJECT = "resolver"
_HEAD = struct.Struct(">6H")
RECURSION_DESIRED, AUTHENTIC, CODE = 0x0100, 0x0020, 0x000F


def possible(minion: Minion, main: Mapping[str, str], now: float | None = None) -> bool:
    """
    Return whether outgoing DANE works here: whether the resolver validates, as far as is known.

    main
        Parameters of main.cf: what ``dnssec_probe`` asks for has to be in a signed zone.

    Where no server answers it is as it has been: whether main.cf has DANE. The DNS is asked where another resolver
    is configured than at the last time.
    """
    now = time.time() if now is None else now
    basis = (servers(), main.get(PROBE) or PROBE_DEFAULT)
    known = _mta_plan_cache.recall(minion, SUBJECT, basis, now)
    if known is None:
        validates = look(main)
        has = main.get("smtp_tls_security_level") == PARAMETERS["smtp_tls_security_level"]
        known = {"possible": has if validates is None else validates}
        until = now + SILENT if validates is None else FOREVER
        _mta_plan_cache.remember(minion, SUBJECT, basis, known, 0, until)
    return bool(known["possible"])


def forget(minion: Minion) -> None:
    """Have the next one ask again."""
    _mta_plan_cache.forget(minion, SUBJECT)


def servers(path: str = RESOLV_CONF) -> list[str]:
    """Return the addresses of the resolvers that this host asks, by resolv.conf(5)."""
    return re.findall(r"(?m)^\s*nameserver\s+([0-9A-Fa-f.:]+)", _mta_system.text_of(path)) or ["127.0.0.1"]


def look(main: Mapping[str, str]) -> bool | None:
    """Ask: whether the first resolver that answers has validated the answer; ``None``: none answers."""
    kind, _, name = (main.get(PROBE) or PROBE_DEFAULT).partition(":")
    for server in servers():
        found = validated(server, name, TYPES.get(kind.lower(), TYPES["ns"]))
        if found is not None:
            return found
    return None


def validated(server: str, name: str, kind: int, port: int = PORT) -> bool | None:
    """
    Ask a server for a name, and return whether it says that it has validated the answer.

    kind
        The type's number.

    ``None``: it does not answer, or has no answer.
    """
    identity = int.from_bytes(os.urandom(2), "big")
    labels = [label.encode("ascii", "replace")[:63] for label in name.split(".") if label]
    question = b"".join(bytes([len(label)]) + label for label in labels) + struct.pack(">BHH", 0, kind, 1)
    packet = _HEAD.pack(identity, RECURSION_DESIRED | AUTHENTIC, 1, 0, 0, 0) + question
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as link:
        link.settimeout(TIMEOUT)
        for _ in range(2):
            try:
                link.connect((server, port))
                link.send(packet)
                answer = link.recv(4096)
            except OSError:
                continue
            if len(answer) < _HEAD.size:
                continue
            who, flags, _, count, *_ = _HEAD.unpack_from(answer)
            if who == identity and not flags & CODE and count:
                return bool(flags & AUTHENTIC)
    return None
