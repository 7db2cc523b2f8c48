"""SPF: whether a domain's record lets a server send, and how often receivers look up."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence

from _mta_records import NamedTuple
from _mta_resolver import Lookup

# RFC 7208, 4.6.4: terms that ask the DNS, answers without a record, and names of one MX or PTR.
MOST_LOOKUPS, MOST_VOID, MOST_NAMES = 10, 2, 10
COUNTED = ("include", "a", "mx", "ptr", "exists", "redirect")
RESULTS = {"": "pass", "+": "pass", "-": "fail", "~": "softfail", "?": "neutral"}
_MECHANISM = re.compile(
    r"(?i)([+?~-]?)(all|include|a|mx|ptr|ip4|ip6|exists)(?::((?:%\{[^}]*\}|[^/])+))?((?:/\d+)?(?://\d+)?)"
)
_MODIFIER = re.compile(r"(?i)([a-z][\w.-]*)=(\S*)")
_MACRO = re.compile(r"(?i)%(?:([%_-])|\{([slodiphcrtv])(\d*)(r?)([.+,/_=-]*)\})")


class _Term(NamedTuple):
    """A mechanism, or ``redirect``: its qualifier, kind, value and prefix as in the record."""

    qualifier: str
    kind: str
    value: str
    prefix: str


class _Broken(Exception):
    """What makes the whole policy void: ``permerror``, or ``temperror`` (RFC 7208, 2.6)."""


def _terms(text: str) -> list[_Term]:
    """The terms of a record that count: none after ``all``, and ``redirect`` last (RFC 7208, 5.1, 6.1)."""
    found: list[_Term] = []
    redirects: list[_Term] = []
    for word in text.split()[1:]:
        mechanism, modifier = _MECHANISM.fullmatch(word), _MODIFIER.fullmatch(word)
        if mechanism:
            term = _Term(mechanism[1], mechanism[2].lower(), mechanism[3] or "", mechanism[4])
            if not _well_formed(term):
                raise _Broken("permerror")
            found.append(term)
        elif modifier and modifier[1].lower() == "redirect":
            redirects.append(_Term("", "redirect", modifier[2], ""))
        elif not modifier:
            raise _Broken("permerror")
    if len(redirects) > 1:
        raise _Broken("permerror")
    for number, term in enumerate(found):
        if term.kind == "all":
            return found[: number + 1]
    return found + redirects


def _well_formed(term: _Term) -> bool:
    if term.kind in ("ip4", "ip6"):
        try:
            return _network(term).version == int(term.kind[-1])
        except ValueError:
            return False
    if term.prefix and term.kind not in ("a", "mx"):
        return False
    return bool(term.value) != (term.kind == "all") or term.kind in ("a", "mx", "ptr")


def _network(term: _Term) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network(f"{term.value}{term.prefix}", strict=False)


class Policy:
    """A domain's SPF record with all that it includes: which addresses pass, and how many look-ups that takes."""

    def __init__(self, look_up: Lookup, resolver: str | None = None) -> None:
        self.look_up = look_up
        self.resolver = resolver

    def texts(self, domain: str) -> list[str]:
        """Return the records of a domain; there should be one."""
        found = self.look_up(domain, "TXT", self.resolver)
        return _records(found or [])

    def lookups(self, domain: str) -> int:
        """Return how many terms ask the DNS where none matches; of more than receivers allow not all are found."""
        count, waiting = 0, [domain]
        while waiting and count <= MOST_LOOKUPS:
            texts = self.texts(waiting.pop())
            try:
                terms = _terms(texts[0]) if texts else []
            except _Broken:
                continue
            count += sum(term.kind in COUNTED for term in terms)
            waiting += [one.value for one in terms if one.kind in ("include", "redirect") and "%" not in one.value]
        return count

    def verdict(self, domain: str, address: str) -> str:
        """Return what a receiver makes of mail from the domain that an address sends (RFC 7208, 2.6)."""
        try:
            return _Evaluation(self.look_up, self.resolver, domain, address).result(domain)
        except _Broken as err:
            return str(err)

    def lets(self, domain: str, addresses: Iterable[str]) -> set[str]:
        """Return those of the addresses that may send for a domain."""
        return {address for address in addresses if self.verdict(domain, address) == "pass"}


def _records(texts: Iterable[str]) -> list[str]:
    return [text for text in texts if text.lower() == "v=spf1" or text.lower().startswith("v=spf1 ")]


class _Evaluation:
    """A receiver's evaluation of one address (``check_host``; RFC 7208, 4), with what it has looked up so far."""

    def __init__(self, look_up: Lookup, resolver: str | None, sender: str, address: str) -> None:
        self.look_up = look_up
        self.resolver = resolver
        self.sender = sender
        self.address = ipaddress.ip_address(address)
        self.lookups = self.void = 0

    def result(self, domain: str) -> str:
        """Return the result for a domain: the first mechanism that matches decides. Raises :class:`_Broken`."""
        records = _records(self._ask(domain, "TXT"))
        if not records:
            return "none"
        if len(records) > 1:
            raise _Broken("permerror")
        for term in _terms(records[0]):
            self.lookups += term.kind in COUNTED
            if self.lookups > MOST_LOOKUPS:
                raise _Broken("permerror")
            target = self._expanded(term.value, domain) if term.value else domain
            if term.kind == "redirect":
                return self._of_other(target)
            if self._matches(term, target):
                return RESULTS[term.qualifier]
        return "neutral"

    def _of_other(self, domain: str) -> str:
        """The result for a domain that has to have a record."""
        found = self.result(domain)
        if found == "none":
            raise _Broken("permerror")
        return found

    def _matches(self, term: _Term, target: str) -> bool:
        if term.kind == "all":
            return True
        if term.kind == "include":
            return self._of_other(target) == "pass"
        if term.kind in ("ip4", "ip6"):
            return self.address in _network(term)
        if term.kind == "a":
            return self._within(target, term.prefix)
        if term.kind == "mx":
            hosts = [data.split()[-1].rstrip(".") for data in self._counted(target, "MX")]
            if len(hosts) > MOST_NAMES:
                raise _Broken("permerror")
            return any(self._within(host, term.prefix) for host in hosts if host)
        if term.kind == "exists":
            return bool(self._counted(target, "A"))
        names = [name.rstrip(".") for name in self._counted(self.address.reverse_pointer, "PTR")]
        inside = [name for name in names[:MOST_NAMES] if f".{name}".endswith(f".{target}")]
        return any(self._within(name, "") for name in inside)

    def _within(self, name: str, prefix: str) -> bool:
        """Whether the address is one of a name, or in the network of that size around one."""
        four, _, six = prefix.partition("//")
        bits = (f"/{six}" if six else "") if self.address.version == 6 else four
        kind = "AAAA" if self.address.version == 6 else "A"
        try:
            return any(
                self.address in ipaddress.ip_network(f"{one}{bits}", strict=False)
                for one in self._counted(name, kind)
                if not re.search("[g-z]", one)
            )
        except ValueError as err:
            raise _Broken("permerror") from err

    def _ask(self, name: str, kind: str) -> list[str]:
        found = self.look_up(name, kind, self.resolver)
        if found is None:
            raise _Broken("temperror")
        return found

    def _counted(self, name: str, kind: str) -> list[str]:
        """What a mechanism asks for: too many of these without an answer void the policy."""
        found = self._ask(name, kind)
        self.void += not found
        if self.void > MOST_VOID:
            raise _Broken("permerror")
        return found

    def _expanded(self, text: str, domain: str) -> str:
        """A name with its macros filled in (RFC 7208, 7); the sender is the domain's postmaster."""
        six = self.address.version == 6
        dotted = ".".join(self.address.exploded.replace(":", "")) if six else str(self.address)
        values = {"s": f"postmaster@{self.sender}", "l": "postmaster", "o": self.sender, "d": domain, "i": dotted}
        values.update(h=self.sender, v="ip6" if six else "in-addr", p="unknown")

        def filled(macro: re.Match[str]) -> str:
            if macro[1]:
                return {"%": "%", "_": " ", "-": "%20"}[macro[1]]
            parts: Sequence[str] = re.split(f"[{re.escape(macro[5] or '.')}]", values.get(macro[2].lower(), ""))
            parts = parts[::-1] if macro[4] else parts
            return ".".join(parts[-int(macro[3] or 0) :])

        return _MACRO.sub(filled, text)
