"""SPF: whether a domain's record lets a server send, and how often receivers look up."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from _mta_resolver import Lookup

# RFC 7208, 4.6.4.
MOST_LOOKUPS = 10
COUNTED = ("include", "a", "mx", "ptr", "exists", "redirect")
_TERM = re.compile(
    r"(?i)[+?~-]?(all|include|a|mx|ptr|ip4|ip6|exists|redirect)(?:[:=]([^/]*))?((?:/\d+)?(?://\d+)?)$"
)


class Policy:
    """A domain's SPF record with all that it includes: which addresses pass, and how many look-ups that takes."""

    def __init__(self, look_up: Lookup, resolver: str | None = None) -> None:
        self.look_up = look_up
        self.resolver = resolver
        self.lookups = 0

    def texts(self, domain: str) -> list[str]:
        """Return the records of a domain; there should be one."""
        found = self.look_up(domain, "TXT", self.resolver) or []
        return [text for text in found if text.lower() == "v=spf1" or text.lower().startswith("v=spf1 ")]

    def lets(self, domain: str, addresses: Sequence[str]) -> set[str]:
        """Return those of the addresses that may send for a domain (RFC 7208, 5). All terms are looked at."""
        passed: set[str] = set()
        records = self.texts(domain)
        if len(records) != 1:
            return passed
        for word in records[0].split()[1:]:
            term = _TERM.fullmatch(word)
            if term is None:
                continue
            kind = term[1].lower()
            self.lookups += kind in COUNTED
            if self.lookups <= MOST_LOOKUPS and word[0] not in "-~?":
                passed |= self._matching(kind, term[2] or domain, term[3], addresses)
        return passed

    def _matching(self, kind: str, value: str, prefix: str, addresses: Sequence[str]) -> set[str]:
        """The addresses that a mechanism matches."""
        if kind == "all":
            return {*addresses}
        if kind in ("include", "redirect"):
            return self.lets(value, addresses)
        if kind in ("ip4", "ip6"):
            return _in_networks([value], prefix, addresses)
        if kind == "a":
            return _in_networks(self._addresses(value), prefix, addresses)
        if kind == "mx":
            hosts = [data.split()[-1].rstrip(".") for data in self.look_up(value, "MX", self.resolver) or []]
            found = [address for host in hosts[:MOST_LOOKUPS] for address in self._addresses(host)]
            return _in_networks(found, prefix, addresses)
        return set()

    def _addresses(self, name: str) -> list[str]:
        return [one for kind in ("A", "AAAA") for one in self.look_up(name, kind, self.resolver) or []]


def _in_networks(networks: Sequence[str], prefix: str, addresses: Sequence[str]) -> set[str]:
    """The addresses that are in one of the networks. ``prefix``: ``/24``, ``/24//64`` or ``//64``, or nothing."""
    four, _, six = prefix.partition("//")
    found = set()
    for network in networks:
        bits = (six and f"/{six}") or (four if "/" not in network and not six else "") if ":" in network else four
        try:
            wide = ipaddress.ip_network(f"{network}{bits}", strict=False)
        except ValueError:
            continue
        found |= {address for address in addresses if ipaddress.ip_address(address) in wide}
    return found
