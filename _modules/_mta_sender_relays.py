"""Whether the relays of this host's users can be reached: ``sender_dependent_relayhost_maps``, postconf(5)."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Mapping, Sequence

from salt.exceptions import CommandExecutionError

import _mta_postfix_syntax
import _mta_table_syntax

MAPS = ("sender_dependent_default_transport_maps", "sender_dependent_relayhost_maps")
# So many senders are looked up; and how long a relay is waited for, in seconds.
MOST = 4
SECONDS = 4
# ``[host]:port``, of which the brackets say that no MX is looked up, after a transport that speaks SMTP.
RELAY = r"(?:(?:smtp|relay):)?\[(?P<host>[^\]]+)\](?::(?P<port>\d+))?\Z"


def unreached(main: Mapping[str, str], senders: Sequence[str]) -> list[str]:
    """
    Return relays by sender to which this host cannot connect, each as ``from SENDER: reason (parameter)``.

    main
        The parameters that main.cf sets.

    senders
        Addresses of users, of which some are looked up.

    A relay whose name stands for a domain (without brackets), or by another transport than SMTP, is not asked.
    """
    found = {}
    for parameter in MAPS:
        value = _mta_postfix_syntax.expand(main.get(parameter, ""), main)
        for sender, relay in _looked_up(value, senders[:MOST]).items():
            if relay not in found:
                why = _refusal(relay)
                found[relay] = f"from {sender}: {why} ({parameter})" if why else ""
    return [text for text in found.values() if text]


def _looked_up(value: str, senders: Sequence[str]) -> dict[str, str]:
    """What the first table says of each sender, or of his domain; who is in none is left out."""
    domains = {sender: f"@{sender.partition('@')[2]}" for sender in senders}
    found: dict[str, str] = {}
    for table in _mta_postfix_syntax.items_of(value) if senders else ():
        with contextlib.suppress(CommandExecutionError):
            answers, _ = _mta_table_syntax.looked_up(table, [*domains, *dict.fromkeys(domains.values())], SECONDS)
            relays = {sender: answers.get(sender) or answers.get(domain) for sender, domain in domains.items()}
            found = {**{sender: relay for sender, relay in relays.items() if relay}, **found}
    return {sender: found[sender] for sender in senders if sender in found}


def _refusal(relay: str) -> str:
    """Why there is no connection to a relay; empty: there is one, or it is not asked."""
    named = re.match(RELAY, relay)
    if not named:
        return ""
    port = int(named["port"] or 25)
    try:
        with socket.create_connection((named["host"], port), timeout=SECONDS):
            return ""
    except OSError as err:
        return f"connect to {named['host']}:{port}: {err.strerror or err}"
