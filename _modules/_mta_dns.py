"""The live DNS against what this server's mail needs: what is missing, wrong, or about to break."""

from __future__ import annotations

import functools
import ipaddress
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from salt.exceptions import CommandExecutionError

import _mta_dkim
import _mta_dns_records
import _mta_pem
import _mta_postfix_syntax
import _mta_postfix_view
import _mta_resolver
import _mta_signer
import _mta_spf
import _mta_x509
from _mta_dns_records import Facts, Record
from _mta_minion import DNS, Minion
from _mta_records import NamedTuple
from _mta_resolver import Lookup


class Finding(NamedTuple):
    """What is not as it should be: the record's name and type, ``missing``, ``wrong`` or ``risk``, and why."""

    name: str
    type: str
    kind: str
    reason: str


# Of these TXT records a name has one (RFC 6376, 3.6.2.2; RFC 8461, 3.1; RFC 8460, 3); so it has of SPF and DMARC.
ALONE = ("v=dkim1", "v=stsv1", "v=tlsrptv1")

# -- what there should be ----------------------------------------------------------------------


def facts(minion: Minion) -> Facts:
    """Return what the records follow from, as it is on this host. Raises ``CommandExecutionError``."""
    settings = minion.settings()
    dns = settings["dns"]
    listeners = _mta_postfix_view.listeners()
    return Facts(
        hostname=settings["hostname"],
        addresses=dns["addresses"] or _own_addresses(minion),
        domains=dns["domains"] or settings["dkim"]["domains"] or [settings["domain"]],
        mx=dns["mx"] or [settings["hostname"]],
        keys=_keys(),
        tlsa=_tlsa(listeners),
        ports=sorted(
            {one["port"] for one in listeners if one["auth"]} & {*_mta_dns_records.SUBMISSION}, reverse=True
        ),
        policies={name: dns[name] for name in ("spf", "dmarc", "mta_sts", "tls_reports")},
    )


def _own_addresses(minion: Minion) -> list[str]:
    """This host's addresses, those that others reach; private ones only where there is no other."""
    found = [*minion.grains.get("ipv4", []), *minion.grains.get("ipv6", [])]
    usable = [
        text
        for text in found
        if not (ipaddress.ip_address(text).is_loopback or ipaddress.ip_address(text).is_link_local)
    ]
    return [text for text in usable if not ipaddress.ip_address(text).is_private] or usable


def _keys() -> dict[str, str]:
    """The record of each selector that signs, waits or is kept."""
    found = {}
    for selector in _mta_signer.known():
        public = _mta_signer.public_key(selector)
        if public is not None:
            found[selector] = _mta_dkim.record(public)
    return found


def _tlsa(listeners: Sequence[Mapping[str, Any]]) -> list[str]:
    """TLSA data of the certificates that port 25 serves."""
    found = []
    for path in dict.fromkeys(path for one in listeners if one["port"] == 25 for path in one["certificates"]):
        file = _mta_pem.read(path)
        if file is not None:
            found.append(_mta_x509.describe(file.data)[0]["tlsa"])
    return list(dict.fromkeys(found))


def records(minion: Minion) -> list[Record]:
    """Return the records that this server's mail needs. Raises ``CommandExecutionError``."""
    return _mta_dns_records.records(facts(minion))


# -- what there is -----------------------------------------------------------------------------


def check(minion: Minion, look_up: Lookup = _mta_resolver.lookup) -> list[Finding]:
    """
    Ask each domain's own name servers and the resolver, and return what is not as it should be.

    Raises ``CommandExecutionError`` where the DNS cannot be asked at all.
    """
    settings = minion.settings()
    resolver = settings["dns"]["resolver"]
    # Many records are in one zone, with the same name servers.
    look_up = functools.lru_cache(maxsize=None)(look_up)
    wanted = facts(minion)
    # Each look-up takes seconds where nobody answers, and there are many; these are wanted anyway.
    if all(look_up(name, "NS", resolver) is None for name in (wanted.hostname, *wanted.domains)):
        raise CommandExecutionError(f"{resolver or 'The resolver of this host'} does not answer")
    found: list[Finding] = []
    for record in _mta_dns_records.records(wanted):
        if record.type != _mta_dns_records.FILE:
            found += _compared(record, look_up, resolver)
    if any((one.type, one.kind) == ("TLSA", "missing") for one in found):
        found = _heeded(found, wanted, look_up, resolver)
    found += _of_senders(wanted, look_up, resolver)
    found += _of_receivers(wanted, _taken(), look_up, resolver)
    found += _of_dane(wanted, settings["certificate"]["rotate_key"], look_up, resolver)
    return list(dict.fromkeys(found))


def _heeded(found: list[Finding], wanted: Facts, look_up: Lookup, resolver: str | None) -> list[Finding]:
    """The findings without TLSA records that nobody would heed, as the zone is not signed (DNSSEC)."""
    try:
        zone = _mta_resolver.apex(wanted.hostname, look_up, resolver)
    except CommandExecutionError:
        return found
    if _mta_resolver.signed(zone, "NS", resolver):
        return found
    return [one for one in found if (one.type, one.kind) != ("TLSA", "missing")]


def remember(minion: Minion, found: Sequence[Finding]) -> None:
    """Keep what a look has found: the beacon and the status tell it, and ask nobody."""
    minion.state.write(DNS, {"time": int(time.time()), "findings": [one._asdict() for one in found]})


def _compared(record: Record, look_up: Lookup, resolver: str | None) -> Iterator[Finding]:
    """Look for a record at all of its name servers, and at the resolver."""
    try:
        said: dict[str, list[str] | None] = _mta_resolver.everywhere(record.name, record.type, look_up, resolver)
    except CommandExecutionError as err:
        yield Finding(record.name, record.type, "missing", str(err))
        return
    said["the resolver"] = look_up(record.name, record.type, resolver)
    wrong: dict[tuple[str, str], list[str]] = {}
    for server, data in said.items():
        verdict = ("missing", "it does not answer") if data is None else _difference(record, data)
        if verdict:
            wrong.setdefault(verdict, []).append(server)
    for (kind, reason), servers in wrong.items():
        yield Finding(record.name, record.type, kind, f"{reason} ({', '.join(servers)})")


def _difference(record: Record, data: Sequence[str]) -> tuple[str, str] | None:
    """What is wrong with the data of a name: the kind of the finding, and the reason."""
    alike = [text for text in data if _same(record, text)]
    same_purpose = (
        data if record.type != "TXT" else [one for one in data if _purpose(one) == _purpose(record.data)]
    )
    if record.type == "TXT" and _purpose(record.data) in ALONE and len(same_purpose) > 1:
        return ("wrong", f"there is more than one, {', '.join(same_purpose)}: receivers take none")
    if record.type in ("A", "AAAA", "PTR"):
        same_purpose = [text for text in data if text not in alike]
        if alike and same_purpose and record.type == "PTR":
            return ("wrong", f"{', '.join(data)}: more than one name")
    if alike:
        return None
    if same_purpose:
        return ("wrong", f"it is {', '.join(same_purpose)}, and should be {record.data}")
    return ("missing", f"it should be {record.data}")


def _purpose(text: str) -> str:
    """What a TXT record is for: its version; a key may have none (RFC 6376, 3.6.1)."""
    begin = re.split(r"[;\s]", text.strip(), maxsplit=1)[0].lower()
    return begin if begin.startswith("v=") else "v=dkim1" if re.search(r"(^|;)\s*p=", text) else begin


def _same(record: Record, text: str) -> bool:
    """Whether data of the live DNS serves as what is wanted; an administrator may have a policy of his own."""
    wanted = record.data
    if record.type in ("A", "AAAA"):
        return ipaddress.ip_address(text) == ipaddress.ip_address(wanted)
    if record.type == "MX":
        return text.split()[-1].rstrip(".") == wanted.split()[-1].rstrip(".").lower()
    if record.type == "TLSA":
        return re.sub(r"\s+", "", text) == re.sub(r"\s+", "", wanted.lower())
    if record.type in ("PTR", "SRV"):
        return text.rstrip(".") == wanted.rstrip(".").lower()
    purpose = _purpose(wanted)
    if purpose == "v=dkim1":
        return _purpose(text) == purpose and _mta_dkim.same_key(text, wanted)
    if purpose in ("v=spf1", "v=dmarc1"):
        # What they say is judged by its effect.
        return _purpose(text) == purpose
    return _mta_dkim.tags(text) == _mta_dkim.tags(wanted)


def _of_senders(wanted: Facts, look_up: Lookup, resolver: str | None) -> Iterator[Finding]:
    """What receivers make of SPF and DMARC."""
    if wanted.policies.get("spf"):
        policy = _mta_spf.Policy(_mended(wanted, look_up), resolver)
        for domain in dict.fromkeys([wanted.hostname, *wanted.domains]):
            yield from _of_spf(domain, wanted.addresses, policy)
    for domain in wanted.domains if wanted.policies.get("dmarc") else ():
        found = [
            text for text in look_up(f"_dmarc.{domain}", "TXT", resolver) or [] if _purpose(text) == "v=dmarc1"
        ]
        if len(found) > 1:
            yield Finding(f"_dmarc.{domain}", "TXT", "wrong", "there is more than one: receivers take none")
        elif found and _mta_dkim.tags(found[0]).get("p") not in ("none", "quarantine", "reject"):
            yield Finding(f"_dmarc.{domain}", "TXT", "wrong", f"{found[0]}: its p= is none, quarantine or reject")


def _mended(wanted: Facts, look_up: Lookup) -> Lookup:
    """The DNS with the addresses and MX that there should be: where they are wrong, it is not SPF that is."""
    ours: dict[tuple[str, str], list[str]] = {}
    for record in _mta_dns_records.records(wanted):
        if record.type in ("A", "AAAA", "MX"):
            ours.setdefault((record.name, record.type), []).append(record.data)

    def mended(name: str, kind: str, server: str | None = None) -> list[str] | None:
        found, more = look_up(name, kind, server), ours.get((name.rstrip("."), kind), [])
        return found if not more else list(dict.fromkeys([*(found or []), *more]))

    return mended


def _of_spf(domain: str, addresses: Sequence[str], policy: _mta_spf.Policy) -> Iterator[Finding]:
    texts = policy.texts(domain)
    if len(texts) > 1:
        yield Finding(domain, "TXT", "wrong", "there is more than one SPF record: receivers take none")
    if len(texts) != 1:
        return
    lookups = policy.lookups(domain)
    if lookups > _mta_spf.MOST_LOOKUPS:
        reason = f"SPF needs {lookups} look-ups or more: receivers stop after {_mta_spf.MOST_LOOKUPS}"
        yield Finding(domain, "TXT", "wrong", reason)
    passed = policy.lets(domain, addresses)
    lacking = [address for address in addresses if address not in passed]
    if lacking:
        yield Finding(domain, "TXT", "wrong", f"SPF does not let {', '.join(lacking)} send: {texts[0]}")


def _taken() -> Callable[[str], bool | None]:
    """A function that tells whether Postfix takes a domain's mail; ``None``: a table decides that."""
    main = _mta_postfix_view.in_force()
    names = ("mydestination", "virtual_alias_domains", "virtual_mailbox_domains", "relay_domains")
    words = {
        _mta_postfix_syntax.expand(word, main).lower()
        for name in names
        for word in re.split(r"[\s,]+", main.get(name, ""))
        if word
    }

    def taken(domain: str) -> bool | None:
        if domain in words:
            return True
        return None if any(":" in word or "/" in word for word in words) else False

    return taken


def _of_receivers(
    wanted: Facts, taken: Callable[[str], bool | None], look_up: Lookup, resolver: str | None
) -> Iterator[Finding]:
    """Mail that comes here, and is not taken."""
    for domain in wanted.domains:
        here = [
            data
            for data in look_up(domain, "MX", resolver) or []
            if data.split()[-1].rstrip(".") == wanted.hostname.lower()
        ]
        if here and taken(domain) is False:
            reason = "it leads here, and this server takes no mail for the domain: mydestination does not name it"
            yield Finding(domain, "MX", "risk", reason)


def _of_dane(wanted: Facts, rotates: bool, look_up: Lookup, resolver: str | None) -> Iterator[Finding]:
    """TLSA records that do harm, or nothing."""
    name = f"_25._tcp.{wanted.hostname}"
    there = look_up(name, "TLSA", resolver) or []
    if there and not any(_same(Record(name, "TLSA", data, ""), text) for data in wanted.tlsa for text in there):
        yield Finding(name, "TLSA", "wrong", "none is of a key of this server: senders with DANE do not deliver")
    if there and rotates:
        reason = "certificate:rotate_key makes another key at the next renewal, which these records do not know"
        yield Finding(name, "TLSA", "risk", reason)
    if there and not _mta_resolver.signed(name, "TLSA", resolver):
        yield Finding(name, "TLSA", "risk", "the zone is not signed (DNSSEC): senders do not heed the record")
