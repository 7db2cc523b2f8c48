"""
Rules on what is weak about a mail server, over what `_mta_audit` has seen of it.

Nothing here reads a file or talks to anybody. Sources: postconf(5), RFC 8314, RFC 8996, RFC 9325, Mozilla's Server
Side TLS, and postfix.org/smtp-smuggling.html.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any

from _mta_records import NamedTuple

SEVERITIES = ("high", "medium", "low")
NO_SETTING = "no setting: "
ON = "yes"
ANY_NUMBER = "[1-9][0-9]*"
# Parameters: name, good values (a regular expression), severity, why others are not, and a good one for pillar.
# Those of AUTH count only where there is AUTH.
SMUGGLING = (
    "a line that ends in a bare <LF> can end a message here, and what follows be sent in this server's name"
)
PARAMETERS = (
    ("smtpd_forbid_bare_newline", "yes|normalize|reject", "high", SMUGGLING, "true"),
    (
        "smtpd_forbid_unauth_pipelining",
        ON,
        "medium",
        "commands that came before the answer to STARTTLS or DATA are obeyed: bots and injections do that",
        "true",
    ),
    ("smtpd_client_connection_count_limit", ANY_NUMBER, "medium", "one client can take every smtpd process", "20"),
    ("smtpd_client_connection_rate_limit", ANY_NUMBER, "medium", "one client may connect without a limit", "60"),
    ("message_size_limit", ANY_NUMBER, "medium", "one message can fill the disk", "52428800"),
    ("smtpd_client_message_rate_limit", ANY_NUMBER, "low", "one client may send without a limit", "100"),
    ("disable_vrfy_command", ON, "low", "VRFY tells everybody which accounts there are", "true"),
    ("smtpd_helo_required", ON, "low", "mail is taken from clients that do not even say who they are", "true"),
    ("smtpd_etrn_restrictions", ".+", "low", "everybody may have the queue flushed (ETRN)", "reject"),
    (
        "tls_ssl_options",
        ".*NO_RENEGOTIATION.*",
        "low",
        "clients may renegotiate, which costs the server more than them",
        "[NO_COMPRESSION, NO_RENEGOTIATION]",
    ),
)
AUTH_PARAMETERS = (
    (
        "smtpd_sasl_security_options",
        ".*noanonymous.*",
        "high",
        "a mechanism may let somebody in without a name",
        "noanonymous",
    ),
    ("smtpd_client_auth_rate_limit", ANY_NUMBER, "medium", "passwords can be guessed without a limit", "20"),
)
# In words that Postfix before 3.6 knows too.
OLD_TLS = "'!SSLv2, !SSLv3, !TLSv1, !TLSv1.1'"
NEW_TLS = f"parameters: {{smtpd_tls_protocols: {OLD_TLS}, smtpd_tls_mandatory_protocols: {OLD_TLS}}}"
# TLS that a listener took when nothing better was offered: severity, reason, pillar.
OFFERS = {
    "TLS 1.0": ("medium", "TLS 1.0 is deprecated", NEW_TLS),
    "TLS 1.1": ("medium", "TLS 1.1 is deprecated", NEW_TLS),
    "anonymous ciphers": (
        "low",
        "a client that wants none is shown no certificate, and may talk to somebody in between",
        "parameters: {smtpd_tls_exclude_ciphers: aNULL}",
    ),
    "weak ciphers": (
        "high",
        "a cipher without encryption, or one that can be broken, is taken",
        "parameters: {smtpd_tls_exclude_ciphers: [eNULL, LOW, EXPORT, 3DES, RC4, SEED, IDEA]}",
    ),
    "no forward secrecy": (
        "low",
        "who gets the key one day can read what was recorded before",
        "parameters: {smtpd_tls_exclude_ciphers: [aNULL, kRSA]}",
    ),
}
# Any of these lists may ask whose a sender's address is (SASL_README, "Envelope sender address authorization").
RESTRICTION_LISTS = "smtpd_(client|helo|sender|relay|recipient|data|end_of_data)_restrictions"
SENDER_CHECKS = r"\breject_(authenticated_|known_)?sender_login_mismatch\b"
# Severity, name, reason, pillar.
Weakness = tuple[str, str, str, str]
Facts = Mapping[str, Any]
SMALLEST_KEYS = {"RSA": 2048, "EC": 256, "DSA": 1 << 30}
BROKEN_HASHES = ("md5", "sha1")
WIDEST = {4: 8, 6: 16}


class GuardedFile(NamedTuple):
    """A file or directory: its mode, what it is, the bits that others must not have, and what takes them away."""

    path: str
    mode: int
    what: str
    bits: int
    pillar: str


def findings(facts: Facts) -> list[dict[str, str]]:
    """
    Return what is weak, the worst first.

    facts
        Dictionary of what was seen:

        - ``parameters``: all parameters in force, name to text (postconf -x)
        - ``services``: entries of master.cf, as :py:func:`postconf.services` returns them
        - ``listeners``: list of dictionaries as of :py:func:`postconf.listeners`, each with ``label``,
          ``reached`` (boolean), ``banner``, ``auth`` (mechanisms offered in clear, and under TLS: two lists),
          ``starttls`` and ``reports`` (booleans; the latter: of delivery, DSN), ``relays`` (text or ``None``) and
          ``taken`` (names of ``OFFERS``)
        - ``files``: list of :class:`GuardedFile`
        - ``certificates``: path to a list of what ``mta_x509.describe`` returns, with ``days_left``
        - ``authorities``: list of those paths that hold authorities
        - ``validates``: whether the resolver does (DNSSEC)
        - ``judges``: whether the formula's signer judges others' mail; ``None``: there is no such signer

    Returns a list of dictionaries as of ``mta_probe.audit``.
    """
    found = []
    for rule in (
        _of_listeners,
        _of_parameters,
        _of_senders,
        _of_sending,
        _of_networks,
        _of_files,
        _of_certificates,
    ):
        for severity, name, reason, pillar in rule(facts):
            found.append({"name": name, "severity": severity, "reason": reason, "pillar": pillar})
    return sorted(found, key=lambda one: (SEVERITIES.index(one["severity"]), one["name"]))


def _of_listeners(facts: Facts) -> Iterator[Weakness]:
    for one in facts["listeners"]:
        label, (clear, secured) = one["label"], one["auth"]
        if clear:
            yield (
                "high",
                f"auth-in-clear {label}",
                f"AUTH {' '.join(clear)} is offered without TLS: passwords cross the network for all to read",
                "parameters: {smtpd_tls_auth_only: true}",
            )
        if (clear or secured) and one["port"] == 25:
            yield (
                "low",
                f"auth-at-port-25 {label}",
                "logins belong to ports 587 and 465: port 25 cannot demand TLS, and every bot tries it",
                "profile: hardened",
            )
        if one["relays"]:
            yield (
                "high",
                f"open-relay {label}",
                f"an untrusted client may send to others: {one['relays']}",
                "parameters: {smtpd_relay_restrictions: [permit_mynetworks, permit_sasl_authenticated,"
                " reject_unauth_destination]}",
            )
        if one["reached"] and not one["starttls"] and not one["wrappermode"]:
            yield (
                "medium",
                f"no-tls {label}",
                "mail and passwords come in clear",
                "parameters: {smtpd_tls_security_level: may}",
            )
        if one["reports"] and one["port"] == 25:
            yield (
                "low",
                f"reports-for-strangers {label}",
                "who forges a sender has reports of delivery sent to him (NOTIFY=SUCCESS): they are for users",
                "parameters: {smtpd_discard_ehlo_keywords: [silent-discard, dsn]}",
            )
        for name in one["taken"]:
            severity, reason, pillar = OFFERS[name]
            yield severity, f"{name.lower().replace(' ', '-')} {label}", reason, pillar
        if re.search(r"\d+\.\d+|Debian|Ubuntu|Exim|Sendmail", _without_name(one["banner"] or "")):
            yield (
                "low",
                f"banner {label}",
                "the greeting tells which software, and which faults, it has",
                "parameters: {smtpd_banner: $myhostname ESMTP}",
            )


def _without_name(banner: str) -> str:
    """A greeting without the server's name, which may be in each of its lines and look like a version."""
    name = banner.split(" ")[1:2]
    return banner.replace(name[0], "") if name and name[0] else banner


def _of_parameters(facts: Facts) -> Iterator[Weakness]:
    main, servers = facts["parameters"], _servers(facts)
    for names, rules in ((list(servers), PARAMETERS), (_with_auth(servers), AUTH_PARAMETERS)):
        for parameter, good, severity, reason, value in rules:
            bad = [name for name in names if not re.fullmatch(good, servers[name].get(parameter, ""), re.DOTALL)]
            if not bad:
                continue
            pillar = f"parameters: {{{parameter}: {value}}}"
            if parameter not in main:
                pillar = f"{NO_SETTING}this Postfix has no {parameter}; a newer package has"
            elif re.fullmatch(good, main[parameter], re.DOTALL):
                pillar = f"services: {{{bad[0]}: {{overrides: {{{parameter}: null}}}}}}"
            where = "" if len(bad) == len(names) else f" {', '.join(bad)}"
            yield severity, f"{parameter}{where}", reason, pillar


def _of_senders(facts: Facts) -> Iterator[Weakness]:
    """Who has logged in should not send in the name of others."""
    servers = _servers(facts)
    for name in _with_auth(servers):
        lists = " ".join(
            text for parameter, text in servers[name].items() if re.fullmatch(RESTRICTION_LISTS, parameter)
        )
        if not servers[name].get("smtpd_sender_login_maps") or not re.search(SENDER_CHECKS, lists):
            yield (
                "medium",
                f"any-sender {name}",
                "who has logged in may send in anybody's name: with one stolen password, in that of all",
                "sasl: {senders: own}, with profile: hardened or services: {submission: true, submissions: true}",
            )


def _of_sending(facts: Facts) -> Iterator[Weakness]:
    if facts["parameters"].get("smtp_tls_loglevel") == "0":
        yield (
            "low",
            "smtp_tls_loglevel",
            "the log does not say which mail was sent in clear, and which under TLS",
            "parameters: {smtp_tls_loglevel: 1}",
        )
    level = facts["parameters"].get("smtp_tls_security_level", "")
    if level in ("", "none") and facts["parameters"].get("smtp_use_tls") != ON:
        yield (
            "medium",
            "smtp_tls_security_level",
            "mail goes out in clear, also to servers that have TLS",
            "parameters: {smtp_tls_security_level: may}",
        )
    elif level == "may" and facts["validates"]:
        yield (
            "low",
            "smtp_tls_security_level",
            "the resolver validates, but the keys that other servers publish in the DNS are ignored (DANE)",
            "parameters: {smtp_tls_security_level: dane, smtp_dns_support_level: dnssec}",
        )
    elif level in ("dane", "dane-only") and not facts["validates"]:
        yield (
            "low",
            "smtp_tls_security_level",
            "the resolver does not validate (DNSSEC): DANE has no effect, or no mail goes out",
            f"{NO_SETTING}name a validating resolver in /etc/resolv.conf, best one on this host",
        )
    hops = [facts["parameters"].get(name) for name in ("smtp_tls_policy_maps", "relayhost")]
    if facts["parameters"].get("smtpd_milters") and not any(hops):
        yield (
            "low",
            "smtp_tls_policy_maps",
            "the policies by which other domains demand a right certificate are ignored (MTA-STS)",
            "dns: {follow_mta_sts: true}",
        )
    if facts["judges"] is False:
        yield (
            "low",
            "others-unjudged",
            "what SPF, DKIM and DMARC say of mail from others is not looked at: no filter can tell a forged one",
            "dkim: {results: true}",
        )


def _servers(facts: Facts) -> dict[str, dict[str, str]]:
    """The parameters of each smtpd of master.cf."""
    return {
        name: {**facts["parameters"], **entry["overrides"]}
        for name, entry in facts["services"].items()
        if entry["command"] == "smtpd"
    }


def _with_auth(servers: Mapping[str, Mapping[str, str]]) -> list[str]:
    return [name for name, own in servers.items() if own.get("smtpd_sasl_auth_enable") == ON]


def _of_networks(facts: Facts) -> Iterator[Weakness]:
    for item in re.split(r"[\s,]+", facts["parameters"].get("mynetworks", "")):
        try:
            network = ipaddress.ip_network(item.replace("[", "").replace("]", ""), strict=False)
        except ValueError:
            continue
        if not network.is_loopback and network.prefixlen < WIDEST[network.version]:
            yield (
                "high",
                f"mynetworks {item}",
                f"{network.num_addresses} addresses may send through this server without a login",
                "parameters: {mynetworks: [127.0.0.0/8, '[::1]/128']}",
            )


def _of_files(facts: Facts) -> Iterator[Weakness]:
    for path, mode, what, bits, pillar in facts["files"]:
        if mode & bits:
            who = "every local user" if mode & bits & 0o007 else "everybody in its group"
            yield "high", f"open-to-all {path}", f"{what} has mode {mode:04o}: {who} gets at it", pillar


def _of_certificates(facts: Facts) -> Iterator[Weakness]:
    for path, chain in facts["certificates"].items():
        for number, one in enumerate(chain):
            who = one["subject"] or path
            if one["days_left"] < 0:
                yield (
                    "high",
                    f"expired {path}",
                    f"the certificate of {who} is no longer valid: clients refuse it",
                    f"{NO_SETTING}the next apply renews what this formula makes; other files have to be replaced",
                )
            kind, _, size = one["key"].partition(" ")
            if size.isdigit() and int(size) < SMALLEST_KEYS.get(kind, 0):
                yield (
                    "high",
                    f"weak-key {path}",
                    f"the key of {who} is {one['key']}: it can be broken, and clients refuse it",
                    "certificate: {key_size: 3072}",
                )
            if not one["self_signed"] and one["signature"] in BROKEN_HASHES:
                yield (
                    "high",
                    f"weak-signature {path}",
                    f"the certificate of {who} is signed with {one['signature']}: it can be forged",
                    f"{NO_SETTING}remove {path}: the next apply makes it anew",
                )
            if one["self_signed"] and number == 0 and path not in facts["authorities"]:
                yield (
                    "low",
                    f"self-signed {path}",
                    "clients cannot tell this server from somebody else's",
                    "certificate: {source: local_ca}",
                )
