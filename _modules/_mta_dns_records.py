"""
What the DNS should say for a server's mail to arrive: the records, as data, as zone file text, as a table.

Text from text, nothing is asked or read here. Sources: RFC 1035 (zone files), 5321 (MX), 7208 (SPF), 6376 (DKIM),
7489 (DMARC), 7672 (DANE), 8461 (MTA-STS), 8460 (TLS reports), 6186 and 8314 (SRV).
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from salt.exceptions import SaltInvocationError

from _mta_records import NamedTuple, dataclass

# Seconds; short enough to mend a mistake within an hour.
TTL = 3600
# The longest string of TXT (RFC 1035, 3.3.14), and a preference for MX and SRV that leaves room on both sides.
STRING, PREFERENCE = 255, 10
# Of ports with logins: the service's name (RFC 6186, RFC 8314).
SUBMISSION = {587: "_submission._tcp", 465: "_submissions._tcp"}
STS_AGE = 604800
FILE = "file"


class Record(NamedTuple):
    """A record: its name, type and data without quotes, and why it is there. ``file``: one of a web server."""

    name: str
    type: str
    data: str
    reason: str


@dataclass(frozen=True)
class Facts:
    """
    What the records follow from.

    hostname, addresses
        The server's name, and the addresses that the world reaches it by.

    domains
        Those whose mail it takes and sends.

    mx
        The names of the servers that take that mail.

    keys
        Selector to the text of its record.

    tlsa
        Data of the TLSA records of its keys.

    ports
        Those with logins, of 587 and 465.

    policies
        ``spf``, ``dmarc``, ``mta_sts`` (mode) and ``tls_reports``, each a text with ``{domain}`` or ``None``.
    """

    hostname: str
    addresses: Sequence[str]
    domains: Sequence[str]
    mx: Sequence[str]
    keys: Mapping[str, str]
    tlsa: Sequence[str]
    ports: Sequence[int]
    policies: Mapping[str, Any]


# -- the records -------------------------------------------------------------------------------


def records(facts: Facts) -> list[Record]:
    """Return all records, those of the server first."""
    found = list(_of_server(facts))
    for domain in facts.domains:
        found += _of_domain(facts, domain)
    return list(dict.fromkeys(found))


def kind_of(address: str) -> str:
    """Return the type of an address' record."""
    return "AAAA" if ":" in address else "A"


def reverse_name(address: str) -> str:
    """Return the name of an address' PTR record."""
    return ipaddress.ip_address(address).reverse_pointer


def _of_server(facts: Facts) -> Iterator[Record]:
    host = facts.hostname
    for address in facts.addresses:
        reason = "the server is found by its name"
        if ipaddress.ip_address(address).is_private:
            reason += "; it is private, which the world does not reach: dns:addresses names the public ones"
        yield Record(host, kind_of(address), address, reason)
    for address in facts.addresses:
        reason = "receivers refuse mail from an address without a name that leads back to it"
        yield Record(reverse_name(address), "PTR", f"{host}.", reason)
    if facts.policies.get("spf") and host not in facts.domains:
        yield Record(host, "TXT", "v=spf1 a -all", "SPF of the server's own name, which bounces are checked by")
    for data in facts.tlsa:
        reason = "DANE: senders that ask for it take no other key; it stays at renewals"
        yield Record(f"_25._tcp.{host}", "TLSA", data, reason)


def _of_domain(facts: Facts, domain: str) -> Iterator[Record]:
    host, policies = facts.hostname, facts.policies
    for server in facts.mx:
        reason = "mail for the domain comes to this server" + " as well" * (server != host)
        yield Record(domain, "MX", f"{PREFERENCE} {server}.", reason)
    if policies.get("spf"):
        yield Record(domain, "TXT", _filled(policies["spf"], domain), "SPF: which servers send the domain's mail")
    for selector, text in facts.keys.items():
        yield Record(f"{selector}._domainkey.{domain}", "TXT", text, "DKIM: the key that signatures are made with")
    if policies.get("dmarc"):
        reason = "DMARC: what receivers do with mail that neither SPF nor DKIM vouches for"
        yield Record(f"_dmarc.{domain}", "TXT", _filled(policies["dmarc"], domain), reason)
    mode = policies.get("mta_sts")
    if mode and mode != "none":
        policy = sts_policy(mode, facts.mx)
        name = hashlib.sha256(policy.encode()).hexdigest()[:20]
        yield Record(f"_mta-sts.{domain}", "TXT", f"v=STSv1; id={name}", "MTA-STS: there is a policy, and which")
        reason = "MTA-STS: the policy, from a web server with a certificate of a public authority"
        yield Record(f"https://mta-sts.{domain}/.well-known/mta-sts.txt", FILE, policy, reason)
    if policies.get("tls_reports"):
        reason = "others report when TLS fails"
        text = f"v=TLSRPTv1; rua={_filled(policies['tls_reports'], domain)}"
        yield Record(f"_smtp._tls.{domain}", "TXT", text, reason)
    for port in facts.ports:
        reason = "mail programs find the port for users"
        yield Record(f"{SUBMISSION[port]}.{domain}", "SRV", f"0 {PREFERENCE} {port} {host}.", reason)


def _filled(text: str, domain: str) -> str:
    return text.replace("{domain}", domain)


def sts_policy(mode: str, hosts: Iterable[str]) -> str:
    """Return the text of an MTA-STS policy (RFC 8461, 3.2), the same on each host; its lines end in CRLF."""
    lines = ("version: STSv1", f"mode: {mode}", *(f"mx: {host}" for host in sorted(hosts)), f"max_age: {STS_AGE}")
    return "".join(f"{line}\r\n" for line in lines)


# -- as text -----------------------------------------------------------------------------------


def within(name: str, zone: str) -> bool:
    """Return whether a name is in a zone, or is its name."""
    return name == zone or name.endswith(f".{zone}")


def zone_text(found: Iterable[Record], zone: str | None = None) -> str:
    """
    Return records as lines of a zone file; files, and records of other zones, as comments below.

    zone
        Its name. Default: all but the reverse zones'.
    """
    lines: list[Record] = []
    others: list[Record] = []
    for record in found:
        here = within(record.name, zone) if zone else record.type != "PTR"
        (lines if here and record.type != FILE else others).append(record)
    text = [f"; {one.reason}\n{_line(one)}" for one in lines]
    text += [f"; elsewhere: {one.reason}\n" + _commented(one) for one in others]
    return "\n".join(text) + "\n"


def _line(record: Record) -> str:
    data = _strings(record.data) if record.type == "TXT" else record.data
    return f"{record.name}.\t{TTL}\tIN\t{record.type}\t{data}"


def _strings(text: str) -> str:
    """A text as quoted strings of 255 bytes at most, which a reader joins."""
    parts = [text[begin : begin + STRING] for begin in range(0, len(text), STRING)]
    return " ".join('"' + part.replace("\\", "\\\\").replace('"', '\\"') + '"' for part in parts)


def _commented(record: Record) -> str:
    text = f"{record.name}\n{record.data}" if record.type == FILE else _line(record)
    return "\n".join(f"; {line}" for line in text.splitlines())


def table(found: Iterable[Record]) -> str:
    """Return records as a table for people: name, type, data, reason."""
    rows = [(one.name, one.type, one.data.strip().replace("\r\n", " "), one.reason) for one in found]
    widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
    return "".join(
        f"{name:{widths[0]}}  {kind:{widths[1]}}  {data}\n    {why}\n" for name, kind, data, why in rows
    )


def formatted(found: Sequence[Record], form: str, zone: str | None = None) -> Any:
    """Return records as ``mta_dns.records`` does. Raises ``SaltInvocationError`` for a form that there is not."""
    if form == "zone":
        return zone_text(found, zone)
    if form == "data":
        return [record._asdict() for record in found]
    if form == "table":
        return table(found)
    raise SaltInvocationError(f"format must be zone, data or table, not {form!r}")
