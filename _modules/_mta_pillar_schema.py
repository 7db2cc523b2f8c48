"""
The keys that the pillar may have, each with the type of its value. Data only.

A section is a dictionary, a value a :class:`Value`. ``defaults.yaml`` has the same keys, with their defaults and
explanations; ``bin/docs`` makes the reference of the pillar from both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Union

from _mta_records import NamedTuple


class Value(NamedTuple):
    """The type of a value, by its name in ``_mta_pillar_types.CHECKERS``, and what that type has to know."""

    type: str
    options: Mapping[str, Any] = {}


Schema = Mapping[str, Union[Value, Mapping[str, Any]]]

# -- names that others use too -----------------------------------------------------------------

PROFILES = ("guide", "hardened", "satellite", "local_only", "none")
PRESETS = ("submission", "submissions", "postscreen")
KEY_SIZES: dict[str, tuple[Any, ...]] = {
    "rsa": (2048, 3072, 4096, 8192),
    "ec": (256, 384),
    "ed25519": (None,),
}
# RFC 8314, sections 3.3 and 7.3; RFC 6409.
RELAY_PORTS = {"starttls": 587, "implicit": 465, "none": 25}
# The signer's socket, relative to Postfix's queue, which is where its daemons are, in a chroot or not.
SIGNER_SOCKET = "postfix_mta_signer/milter"
# What the name of a selector's Ed25519 key has more.
SECOND_KEY = "-ed25519"
# That of what knows the MTA-STS policies of other domains.
STS_SOCKET = "postfix_mta_sts/socket"
TABLE_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
TABLE_REFERENCE = rf"\{{maps\.({TABLE_NAME})\}}"
# Types of tables that are no file.
FILELESS = ("inline", "socketmap", "tcp", "unix", "static", "nis", "environ", "pipemap", "unionmap", "randmap")
# RFC 2142, sections 3 to 5, and postmaster, which RFC 5321 demands.
MAILBOXES = (
    *("postmaster", "abuse", "noc", "security", "hostmaster", "webmaster", "www", "ftp", "usenet", "news", "uucp"),
    *("info", "marketing", "sales", "support"),
)

# What values of a type may be, in words; for a type that is not here, its options say it.
WORDS = {
    "address": "an IP address, such as 192.0.2.1",
    "alternative_name": "a host name, such as smtp.example.com or *.example.com, or an IP address",
    "arguments": "a text or a list of texts",
    "boolean": "true, false",
    "column": 'true, false, "-" (Postfix\'s default)',
    "destination": "a destination, a list of them, or null",
    "domain": "a domain, such as example.com",
    "firewall_port": "1 to 65535, or the word listeners",
    "hostname": "a full host name, such as mail.example.com",
    "network": "a network, such as 192.0.2.0/24",
    "parameter": "a text, a whole number, true, false, a list of them, or null",
    "path": "an absolute path of letters, digits and . _ + @ = : - without ..",
    "recipient": "a user of this host, such as alice, or an address, such as alice@example.com",
    "smarthost": "a host name, such as smtp.example.net, or an IP address",
    "table_entries": "a mapping of key to value, or a list of lines",
}

# -- values that are in several places ---------------------------------------------------------

_BOOLEAN = Value("boolean")
_PATH = Value("path")
_PORT = Value("integer", {"low": 1, "high": 65535})
_BITS = Value("integer", {"low": 1, "high": 100_000, "unit": " bits"})
_DAYS = Value("integer", {"low": 1, "high": 36500, "unit": " days"})
_MINION = {"what": "a minion's id, such as mail1.example.com", "pattern": r"[A-Za-z0-9_.@-]+"}
_NAMES = Value("list", {"of": Value("alternative_name")})
_LOGIN = Value("text", {"what": "a login name", "pattern": r"[^\s,{}=]+", "longest": 255})
_PARAMETERS = Value(
    "entries",
    {"name": "a main.cf parameter", "pattern": r"[A-Za-z0-9_.:-]+", "of": Value("parameter")},
)
_PEM_FILES = {
    "certificate": Value("pem", {"kind": "certificate"}),
    "key": Value("pem", {"kind": "private key"}),
    "chain": Value("pem", {"kind": "certificate"}),
}

# -- what is below free names ------------------------------------------------------------------

# An entry of master.cf.
SERVICE: Schema = {
    "private": Value("column"),
    "unprivileged": Value("column"),
    "chroot": Value("column"),
    "wakeup": Value("number_column", {"pattern": r"\d+\??|-", "what": 'seconds, 0 or more, "60?" or "-"'}),
    "process_limit": Value("number_column", {"pattern": r"\d+|-", "what": '0 (no limit) or more, or "-"'}),
    "command": Value("text", {"what": "a program of Postfix, such as smtpd", "pattern": r"[\w./-]+"}),
    "overrides": _PARAMETERS,
    "arguments": Value("arguments"),
}

TABLE: Schema = {
    "type": Value(
        "choice",
        {
            "allowed": (
                *("hash", "btree", "lmdb", "cdb", "texthash", "pcre", "regexp", "cidr"),
                *("ldap", "mysql", "pgsql", "sqlite", "memcache", "mongodb"),
                *FILELESS,
            )
        },
    ),
    "path": Value("text", {"what": "an absolute path"}),
    "entries": Value("table_entries"),
    "source": Value(
        "text", {"what": "a file on the file server, such as salt://mail/virtual", "pattern": "salt://.+"}
    ),
    # One level too high, an entry's ``secret: TEXT`` is here.
    "secret": Value("boolean", {"hidden": True}),
    "mode": Value("mode", {"pattern": "0?[0-7][0-7][0-5]", "example": "0640"}),
    "package": Value("text", {"what": "the name of a package", "pattern": "[A-Za-z0-9][A-Za-z0-9.+_-]*"}),
}

# A smarthost.
HOP: Schema = {
    "host": Value("smarthost"),
    "port": _PORT,
    "username": Value(
        "text",
        {
            "what": "a user name without a colon",
            "pattern": r"[^\s:]([^:]*[^\s:])?",
            "longest": 256,
            # What has a colon may be user name and password.
            "hidden": True,
        },
    ),
    "password": Value("secret", {"blanks": False}),
}

# -- the pillar --------------------------------------------------------------------------------

SCHEMA: Schema = {
    "hostname": Value("hostname"),
    "mailname": Value(
        "text",
        {"what": "a domain, such as example.com", "pattern": r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?"},
    ),
    "manage_hosts_file": _BOOLEAN,
    "root_recipient": Value("recipient"),
    "aliases": Value(
        "entries",
        {
            "name": 'an alias (the part before the @), without @ " \\',
            "pattern": r"[^\s@\"\\]([^@\"\\]*[^\s@\"\\])?",
            "of": Value("destination"),
        },
    ),
    "rfc2142_aliases": Value("mailboxes", {"allowed": MAILBOXES}),
    "profile": Value("choice", {"allowed": PROFILES}),
    "parameters": _PARAMETERS,
    "services": Value(
        "services",
        {
            "presets": PRESETS,
            "name": "name/type, such as smtp/inet; types: inet, unix, unix-dgram, fifo, pass",
            "pattern": r"[^\s/#]+/(inet|unix|unix-dgram|fifo|pass)",
            "of": Value("section", {"schema": SERVICE}),
        },
    ),
    "unmanaged": Value("choice", {"allowed": ("keep", "warn", "remove")}),
    "maps": Value(
        "entries",
        {
            "name": "the name of a table, of letters, digits and _ . -",
            "pattern": TABLE_NAME,
            "of": Value("table", {"schema": TABLE}),
        },
    ),
    "relay": {
        **HOP,
        "tls": Value("choice", {"allowed": tuple(RELAY_PORTS)}),
        "ca_file": _PATH,
        "senders": Value(
            "entries",
            {
                "name": 'an address, such as alice@example.com, or "@example.com"',
                "pattern": r"[A-Za-z0-9_.+&'~/-]*@[A-Za-z0-9.-]+",
                "of": Value("section", {"schema": HOP}),
            },
        ),
    },
    "certificate": {
        "source": Value("choice", {"allowed": ("local_ca", "self_signed", "fleet_ca", "files", "none")}),
        "key": _PATH,
        "certificate": _PATH,
        "chain_file": _PATH,
        "files": _PEM_FILES,
        "subject": {
            "country": Value("text", {"what": "two letters, such as DE", "pattern": "[A-Za-z]{2}"}),
            "state": Value("text", {"what": "a text of up to 64 characters", "longest": 64}),
            "locality": Value("text", {"what": "a text of up to 64 characters", "longest": 64}),
            "organization": Value("text", {"what": "a text of up to 64 characters", "longest": 64}),
            "unit": Value("text", {"what": "a text of up to 64 characters", "longest": 64}),
            "email": Value(
                "text",
                {"what": "a mail address", "pattern": r"[!-?A-~]+@[A-Za-z0-9.-]+", "longest": 255},
            ),
        },
        "names": _NAMES,
        "key_type": Value("choice", {"allowed": tuple(KEY_SIZES)}),
        "key_size": _BITS,
        "second": {
            "key_type": Value("choice", {"allowed": (*KEY_SIZES, "none")}),
            "key_size": _BITS,
            "key": _PATH,
            "certificate": _PATH,
            "chain_file": _PATH,
            "files": _PEM_FILES,
        },
        "days": _DAYS,
        "renew_days": _DAYS,
        "rotate_key": _BOOLEAN,
        "ca": {
            "certificate": _PATH,
            "key": _PATH,
            "passphrase": Value("secret", {"shortest": 4}),
            "previous_passphrase": Value("secret"),
            "days": _DAYS,
        },
        "fleet": {
            "ca_minion": Value("text", {**_MINION, "longest": 255}),
            "policy": Value(
                "text", {"what": "the name of a signing policy", "pattern": r"[\w.@-]+", "longest": 255}
            ),
            "trust_store": _BOOLEAN,
            "minions": Value("entries", {"name": _MINION["what"], "pattern": _MINION["pattern"], "of": _NAMES}),
        },
    },
    "sasl": {
        "enabled": _BOOLEAN,
        "type": Value("choice", {"allowed": ("cyrus", "dovecot")}),
        "dovecot_socket": Value(
            "text",
            {
                "what": "a path, absolute or below Postfix's queue directory, or inet:host:port",
                "pattern": r"/?[\w.+@=-]+(/[\w.+@=-]+)*|inet:[A-Za-z0-9.-]+:\d+",
            },
        ),
        "mechanisms": Value(
            "list",
            {
                "of": Value("choice", {"allowed": ("pam", "shadow", "ldap", "rimap", "sasldb", "kerberos5")}),
                "shortest": 1,
                "longest": 1,
            },
        ),
        "options": Value(
            "text",
            {"what": "one word without quotes or shell characters", "pattern": r"[A-Za-z0-9_/.:@=,+%\[\]-]+"},
        ),
        "ldap": {
            "servers": Value(
                "list",
                {
                    "of": Value(
                        "text", {"what": "a URI, such as ldaps://ldap.example.com", "pattern": r"ldap[si]?://\S*"}
                    )
                },
            ),
            "search_base": Value("text", {"what": "a distinguished name, such as dc=example,dc=com"}),
            "scope": Value("choice", {"allowed": ("sub", "one", "base")}),
            "filter": Value("text", {"what": "an LDAP filter, such as (uid=%u)"}),
            "bind_dn": Value("text", {"what": "a distinguished name"}),
            "bind_password": Value("secret"),
            "start_tls": _BOOLEAN,
            "ca_file": _PATH,
            "timeout": Value("integer", {"low": 1, "high": 60, "unit": " seconds"}),
        },
        "rimap": {
            "host": Value(
                "text", {"what": "a host name or an IPv4 address", "pattern": "[A-Za-z0-9][A-Za-z0-9.-]*"}
            ),
            "port": _PORT,
        },
        "kerberos5": {
            "keytab": _PATH,
            "principal": Value("text", {"what": "a service, such as host or smtp", "pattern": "[A-Za-z0-9_-]+"}),
        },
        "proxy": _BOOLEAN,
        "senders": Value("choice", {"allowed": ("own", "any")}),
        "sender_logins": Value(
            "entries",
            {
                "name": "an address, or @ and a domain",
                "pattern": r"[^@\s,{}]*@[A-Za-z0-9.-]+",
                "of": Value("list", {"of": _LOGIN, "shortest": 1}),
            },
        ),
        "sender_domains": Value(
            "list", {"of": Value("text", {"what": "a domain, such as example.com", "pattern": "[A-Za-z0-9.-]+"})}
        ),
        "threads": Value("integer", {"low": 0, "high": 1000}),
        "cache": _BOOLEAN,
        "combine_realm": _BOOLEAN,
        # With /mux it has to fit into a socket address (unix(7): 108 bytes).
        "socket_directory": Value(
            "text",
            {
                "what": "an absolute path of letters, digits and _, with + @ : . - inside of its parts",
                "pattern": r"(/[A-Za-z0-9_+@:.-]*[A-Za-z0-9_])+",
                "longest": 100,
            },
        ),
        "directory_mode": Value("socket_mode", {"pattern": "0?[0-7]{3}", "example": "0710"}),
    },
    "dkim": {
        "domains": Value("list", {"of": Value("domain")}),
        "selector": Value(
            "text",
            {
                "what": "a selector, such as mta1",
                "pattern": "[a-z0-9]([a-z0-9-]*[a-z0-9])?",
                # Of a label's 63 the second key's name takes eight more.
                "longest": 55,
            },
        ),
        "key_type": Value("choice", {"allowed": ("rsa", "rsa+ed25519")}),
        "key_size": Value("integer", {"low": 2048, "high": 4096, "unit": " bits"}),
        "private_key": Value("pem", {"kind": "private key"}),
        "networks": Value("list", {"of": Value("network")}),
        "keep_days": Value("integer", {"low": 0, "high": 365, "unit": " days"}),
        "results": _BOOLEAN,
        "dmarc_reject": _BOOLEAN,
        "milter": Value(
            "text",
            {
                "what": "a socket as Postfix names it, such as inet:127.0.0.1:11332",
                "pattern": r"(inet:[^\s:,]+:\w+|unix:[^\s:,]+)",
            },
        ),
    },
    "dns": {
        "check": Value("choice", {"allowed": ("none", "report", "required")}),
        "resolver": Value("address"),
        "domains": Value("list", {"of": Value("domain")}),
        "mx": Value("list", {"of": Value("domain")}),
        "addresses": Value("list", {"of": Value("address")}),
        "spf": Value("text", {"what": "an SPF record, such as v=spf1 mx -all", "pattern": "v=spf1.*"}),
        "dmarc": Value("text", {"what": "a DMARC record, such as v=DMARC1; p=none", "pattern": "v=DMARC1;.*"}),
        "mta_sts": Value("choice", {"allowed": ("none", "testing", "enforce")}),
        "follow_mta_sts": _BOOLEAN,
        "tls_reports": Value("text", {"what": "a mailto: or https: URI", "pattern": r"(mailto:|https://)\S+"}),
    },
    "firewall": {
        "backend": Value("choice", {"allowed": ("auto", "ufw", "firewalld", "nftables", "iptables", "none")}),
        "ports": Value("list", {"of": Value("firewall_port")}),
        "rules_file": _PATH,
        "rules_file_v6": _PATH,
        "nftables_file": _PATH,
        "zones": Value(
            "list",
            {
                "of": Value(
                    "text",
                    {
                        "what": "a zone of firewalld: up to 17 letters, digits, _ and -",
                        "pattern": "[A-Za-z0-9_-]{1,17}",
                    },
                )
            },
        ),
    },
    "verify": {
        "enabled": _BOOLEAN,
        "capabilities": Value(
            "list",
            {
                "of": Value(
                    "text",
                    {
                        "what": "an EHLO keyword, such as PIPELINING",
                        "pattern": r"[A-Za-z0-9][!-~]*( [!-~]+)*",
                    },
                )
            },
        ),
        "timeout": Value("integer", {"low": 1, "high": 600, "unit": " seconds"}),
        "skip": Value(
            "list",
            {
                "of": Value(
                    "text",
                    {
                        "what": "a service of master.cf, such as 10589/inet",
                        "pattern": r"[A-Za-z0-9_.:\[\]-]+/(inet|pass)",
                    },
                )
            },
        ),
        "relay": _BOOLEAN,
        "intended": Value(
            "list",
            {
                "of": Value(
                    "choice",
                    {
                        "allowed": (
                            "held",
                            "discarded",
                            "refused",
                            "redirected",
                            "filtered",
                            "copied",
                            "limited",
                        )
                    },
                )
            },
        ),
        "login": {
            "username": Value("text", {"what": "a user name", "longest": 256, "hidden": True}),
            "password": Value("secret"),
        },
    },
    "beacon": {
        "enabled": _BOOLEAN,
        "interval": Value("integer", {"low": 1, "high": 86400, "unit": " seconds"}),
        "queue_limit": Value("integer", {"low": 1, "high": 100_000_000, "unit": " messages"}),
    },
    "schedule": {
        "enabled": _BOOLEAN,
        "minutes": Value("integer", {"low": 1, "high": 44_640, "unit": " minutes"}),
        "splay": Value("integer", {"low": 0, "high": 2_678_400, "unit": " seconds"}),
        "return_job": _BOOLEAN,
    },
    "reprovision": {
        "attempts": Value("integer", {"low": 1, "high": 10}),
        "pause": Value("integer", {"low": 1, "high": 3600, "unit": " seconds"}),
        "hold": Value("integer", {"low": 1, "high": 604_800, "unit": " seconds"}),
        "splay": Value("integer", {"low": 0, "high": 86400, "unit": " seconds"}),
    },
}
