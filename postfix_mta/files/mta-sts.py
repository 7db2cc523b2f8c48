#!/usr/bin/python3
"""
Debian's mta-sts-daemon, with DANE first: a domain that has both is judged by its TLSA records.

The daemon answers Postfix's smtp_tls_policy_maps with ``secure`` for a domain whose MTA-STS policy is
``enforce``, and that overrides DANE, which RFC 8461, section 2, forbids; its documentation asks for something that
says ``dane-only`` before it. So this program, which the state ``mta_sts.managed`` installs, says that instead,
where Postfix does DANE and an MX host of the domain has TLSA records in a signed zone. Where the DNS does not say
whether it has, mail waits. Domains without a policy cost no query more.

Sources: mta-sts-daemon.yml(5), socketmap_table(5), RFC 7672, section 2.2.
"""

from __future__ import annotations

import asyncio
import os
import sys

import dns.asyncresolver
import dns.exception
import dns.flags
import dns.resolver
from postfix_mta_sts_resolver import daemon, netstring, responder

NOTHING = (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer)


async def has_dane(domain: str) -> bool:
    """
    Return whether an MX host of a domain has TLSA records, in a zone that the resolver has validated.

    Raises ``dns.exception.DNSException`` where that cannot be told.
    """
    asked = dns.asyncresolver.Resolver()
    asked.lifetime = 4
    # The bit AD of the answer is wanted (RFC 6840, 5.7).
    asked.flags = dns.flags.RD | dns.flags.AD

    async def secure(name: str, kind: str) -> list:
        try:
            answer = await asked.resolve(name, kind)
        except NOTHING:
            return []
        return list(answer.rrset) if answer.response.flags & dns.flags.AD else []

    for host in await secure(domain, "MX"):
        if await secure(f"_25._tcp.{host.exchange.to_text()}", "TLSA"):
            return True
    return False


async def does_dane() -> bool:
    """Return whether Postfix does DANE, as main.cf says now."""
    names = ("smtp_tls_security_level", "smtp_dns_support_level")
    asked = await asyncio.create_subprocess_exec("postconf", "-xh", *names, stdout=asyncio.subprocess.PIPE)
    level, support = (await asked.communicate())[0].decode().split("\n")[:2]
    return level in ("dane", "dane-only") and support == "dnssec"


class Responder(responder.STSSocketmapResponder):
    """The daemon's own, whose answer counts where no DANE goes first."""

    async def process_request(self, raw_req: bytes) -> bytes:
        """Return the answer to a request: a table's name and a domain."""
        answer = await super().process_request(raw_req)
        if b"OK secure" not in answer:
            return answer
        domain = raw_req.decode().partition(" ")[2]
        try:
            if await does_dane() and await has_dane(domain):
                return netstring.encode(b"OK dane-only")
        except (dns.exception.DNSException, OSError, ValueError) as err:
            print(f"{domain}: whether it has DANE is not known: {err}", file=sys.stderr, flush=True)
            return netstring.encode(b"TEMP whether the domain has DANE is not known")
        return answer


def _main() -> None:
    with open(os.path.join(os.environ["RUNTIME_DIRECTORY"], "pid"), "w") as handle:
        handle.write(f"{os.getpid()}\n")
    daemon.STSSocketmapResponder = Responder
    daemon.main()


if __name__ == "__main__":
    _main()
