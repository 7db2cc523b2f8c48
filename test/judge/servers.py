"""
Working servers to begin from: a profile and some features, drawn by chance, each with what it promises.

A feature is pillar to lay over the profile's, and checks: messages that have to arrive, or must not. ``arrives``
says where: a mailbox of PLACES, ``sink`` (another host), ``smarthost``, or ``refused``.
"""

import dataclasses
import random

from rig.kitchen import merge

PLACES = {
    "alice": "/home/alice /var/mail/alice",
    "bob": "/home/bob /var/mail/bob",
    "info": "/var/vmail/example.info/info",
    "caught": "/var/tmp/caught",
}
ALICE = "alice@mail.example.com"
PERMITS = "permit_sasl_authenticated, permit_mynetworks"


def placed(given):
    """A check with the place where its message arrives."""
    return {**given, "arrives": PLACES.get(given.get("arrives"), given.get("arrives"))}


def check(name, via, to, arrives, **others):
    """A message: ``via`` stranger, login, local (SMTP from the host itself) or sendmail."""
    return placed({"name": name, "via": via, "to": to, "arrives": arrives, **others})


def login(port, **others):
    """What a user can do at a port: write to others, here and elsewhere."""
    user = {"user": "alice", "from": ALICE, "port": port, **others}
    return [
        check(f"login {port} to elsewhere", "login", "x@example.net", "sink", **user),
        check(f"login {port} to alice", "login", ALICE, "alice", **user),
    ]


# What every server promises that is not behind a firewall.
COMMON = [
    check("stranger to alice", "stranger", ALICE, "alice"),
    check("stranger to elsewhere", "stranger", "x@example.net", "refused"),
    check("stranger in alice's name to elsewhere", "stranger", "x@example.net", "refused", **{"from": ALICE}),
    check("local to alice", "local", ALICE, "alice", **{"from": "bob@mail.example.com"}),
    check("sendmail to root", "sendmail", "root", "alice", **{"from": "bob@mail.example.com"}),
    check("out by sendmail", "sendmail", "y@example.net", "sink", **{"from": "bob@mail.example.com"}),
]


@dataclasses.dataclass(frozen=True)
class Feature:
    """
    Something that a server may have.

    pillar: laid over what is there. checks: further promises. without: names of other features, and of profiles,
    that do not go with it. Wherever a base has the feature, ``tags`` are what changes may need.
    """

    pillar: dict
    checks: tuple = ()
    without: tuple = ()
    tags: tuple = ()


def recipients(*further):
    """smtpd_recipient_restrictions that end in further ones."""
    return {"smtpd_recipient_restrictions": ", ".join([PERMITS, "reject_unauth_destination", *further])}


FILTERED = {
    "127.0.0.1:10025/inet": {
        "private": False,
        "chroot": True,
        "command": "smtpd",
        "overrides": {
            "content_filter": "",
            "smtpd_proxy_filter": "",
            "receive_override_options": "no_unknown_recipient_checks,no_header_body_checks,no_milters",
            "smtpd_client_restrictions": "permit_mynetworks,reject",
            "smtpd_helo_restrictions": "",
            "smtpd_sender_restrictions": "",
            "smtpd_relay_restrictions": "permit_mynetworks,reject",
            "smtpd_recipient_restrictions": "permit_mynetworks,reject",
            "smtpd_authorized_xforward_hosts": "127.0.0.0/8",
        },
    }
}
FEATURES = {
    "submission": Feature({"services": {"submission": True}}, tuple(login(587)), ("hardened", "local only")),
    "submissions": Feature(
        {"services": {"submissions": True}}, tuple(login(465, implicit=True)), ("hardened", "local only")
    ),
    "postscreen": Feature({"services": {"postscreen": True}}, (), ("hardened", "before-queue filter")),
    "smarthost": Feature(
        {
            "relay": {
                "host": "smarthost.example.net",
                "username": "relayuser",
                "password": "not-in any#log",
                "port": 587,
            }
        },
        (),
        ("plain smarthost",),
        ("relay",),
    ),
    "plain smarthost": Feature(
        {"relay": {"host": "smarthost.example.net", "port": 2525, "tls": "none"}}, (), ("smarthost",), ("relay",)
    ),
    "virtual aliases": Feature(
        {
            "parameters": {
                "virtual_alias_domains": "example.org",
                "virtual_alias_maps": "hash:/etc/postfix/virtual",
            },
            "maps": {
                "virtual": {"type": "hash", "entries": {"info@example.org": "alice", "team@example.org": "bob"}}
            },
        },
        (check("stranger to a virtual alias", "stranger", "info@example.org", "alice"),),
    ),
    "virtual mailboxes": Feature(
        {
            "parameters": {
                "virtual_mailbox_domains": "example.info",
                "virtual_mailbox_base": "/var/vmail",
                # The hardened profile takes larger messages than virtual(8) by its default.
                "virtual_mailbox_limit": 0,
                "virtual_mailbox_maps": "hash:/etc/postfix/vmailbox",
                "virtual_uid_maps": "static:5000",
                "virtual_gid_maps": "static:5000",
            },
            "maps": {"vmailbox": {"type": "hash", "entries": {"info@example.info": "example.info/info/"}}},
        },
        (check("stranger to a virtual mailbox", "stranger", "info@example.info", "info"),),
    ),
    "virtual users in Dovecot": Feature(
        {
            "parameters": {
                "virtual_mailbox_domains": "example.info",
                "virtual_mailbox_maps": "inline:{ bob@example.info=x }",
                "virtual_transport": "lmtp:unix:private/dovecot-lmtp",
            }
        },
        (check("stranger to a virtual user in Dovecot", "stranger", "bob@example.info", "bob"),),
        ("virtual mailboxes",),
    ),
    "Dovecot's LMTP": Feature(
        {"parameters": {"mailbox_transport": "lmtp:unix:private/dovecot-lmtp"}}, (), ("mailbox_command", "mbox")
    ),
    "a login that is tried": Feature(
        {"verify": {"login": {"username": "alice", "password": "not-in any#log"}}}, (), ("local only",)
    ),
    "Dovecot's logins": Feature({"sasl": {"type": "dovecot"}}),
    "milter": Feature(
        {
            "parameters": {
                "smtpd_milters": "inet:127.0.0.1:8891",
                "non_smtpd_milters": "$smtpd_milters",
                "milter_default_action": "accept",
            }
        }
    ),
    "strict milter": Feature(
        {"parameters": {"smtpd_milters": "inet:127.0.0.1:8898", "milter_default_action": "tempfail"}},
        (),
        ("milter",),
    ),
    "policy service": Feature(
        {"parameters": recipients("check_policy_service inet:127.0.0.1:10040")},
        (),
        ("greylisting", "access tables"),
    ),
    "greylisting": Feature(
        {"parameters": recipients("check_policy_service inet:127.0.0.1:10041")},
        (),
        ("policy service", "access tables"),
    ),
    "access tables": Feature(
        {
            "parameters": recipients("check_sender_access hash:/etc/postfix/senders"),
            "maps": {"senders": {"type": "hash", "entries": {"spam@example.net": "REJECT no"}}},
        },
        (),
        ("policy service", "greylisting"),
    ),
    "content filter": Feature(
        {"parameters": {"content_filter": "smtp:[127.0.0.1]:10024"}, "services": FILTERED},
        (),
        ("before-queue filter", "smarthost"),
    ),
    "before-queue filter": Feature(
        {
            "services": {
                **FILTERED,
                "smtp/inet": {"overrides": {"smtpd_proxy_filter": "127.0.0.1:10024"}},
            }
        },
        (),
        ("content filter", "postscreen", "hardened"),
    ),
    "backup MX": Feature(
        {
            "parameters": {
                "relay_domains": "example.biz",
                "relay_recipient_maps": "inline:{ someone@example.biz=x }",
                "transport_maps": "hash:/etc/postfix/transport",
            },
            "maps": {"transport": {"type": "hash", "entries": {"example.biz": "relay:[mx.example.net]"}}},
        },
        (check("stranger to a relayed domain", "stranger", "someone@example.biz", "sink"),),
    ),
    "pipe": Feature(
        {
            "parameters": {
                "virtual_mailbox_domains": "lists.example.org",
                "virtual_mailbox_maps": "inline:{ talk@lists.example.org=x }",
                "virtual_transport": "catch:",
            },
            "services": {
                "catch/unix": {
                    "unprivileged": False,
                    "chroot": False,
                    "command": "pipe",
                    "arguments": ["flags=Rq", "user=nobody", "argv=/usr/local/bin/catch", "${recipient}"],
                }
            },
        },
        (check("stranger to a program", "stranger", "talk@lists.example.org", "caught"),),
        ("virtual mailboxes", "virtual users in Dovecot"),
    ),
    "mailbox_command": Feature(
        {"parameters": {"mailbox_command": "/usr/local/bin/deliver"}}, (), ("Dovecot's LMTP", "mbox", "procmail")
    ),
    "procmail": Feature(
        {"parameters": {"mailbox_command": 'procmail -a "$EXTENSION"'}},
        (),
        ("Dovecot's LMTP", "mbox", "mailbox_command"),
    ),
    "mbox": Feature(
        {"parameters": {"home_mailbox": ""}}, (), ("Dovecot's LMTP", "mailbox_command", "procmail"), ("mbox",)
    ),
    "header checks": Feature(
        {
            "parameters": {"header_checks": "pcre:/etc/postfix/header_checks"},
            "maps": {"header_checks": {"type": "pcre", "entries": ["/^Subject:.*lottery/ REJECT no"]}},
        }
    ),
    "aliases": Feature(
        {"aliases": {"sales": ["alice", "bob"], "office": "sales"}, "rfc2142_aliases": True},
        (check("sendmail to an alias", "sendmail", "office", "bob", **{"from": "bob@mail.example.com"}),),
    ),
    "rewriting": Feature(
        {
            "parameters": {
                "sender_canonical_maps": "hash:/etc/postfix/canonical",
                "masquerade_domains": "example.com",
                "masquerade_exceptions": "root",
                "mydestination": "$myhostname, example.com, localhost",
            },
            "maps": {"canonical": {"type": "hash", "entries": {"bob": "bob.builder@example.com"}}},
        }
    ),
    "IPv4 only": Feature({"parameters": {"inet_protocols": "ipv4"}}),
    "no chroot": Feature(
        {
            "services": {
                name: {"chroot": False} for name in ("cleanup/unix", "rewrite/unix", "smtp/unix", "bounce/unix")
            }
        }
    ),
    "local only": Feature({"parameters": {"inet_interfaces": "loopback-only"}}, (), ("submission", "submissions")),
}
# By how many features a server may have.
NUMBERS = (0, 1, 1, 2, 2, 2, 3, 3, 4)


@dataclasses.dataclass(frozen=True)
class Server:
    """A base: a name that says everything, pillar, promises, and the tags that changes ask for."""

    name: str
    pillar: dict
    checks: tuple
    tags: frozenset
    host: str = ""
    drift: str = ""

    def job(self):
        """What a worker needs to make it."""
        return {
            "name": self.name,
            "pillar": self.pillar,
            "checks": list(self.checks),
            "host": self.host,
            "drift": self.drift,
        }


def make(profile, names):
    """A server with a profile and features."""
    pillar = {"profile": profile, "root_recipient": "alice", "certificate": {"key_type": "ec"}}
    if profile == "hardened":
        # Who makes errors, as the check does, need not wait.
        pillar["parameters"] = {"smtpd_error_sleep_time": 0}
        pillar["certificate"]["second"] = {"key_type": "none"}
    chosen = [FEATURES[name] for name in names]
    pillar = merge(pillar, *(feature.pillar for feature in chosen))
    tags = {profile, *names, *(tag for feature in chosen for tag in feature.tags)}
    if profile == "hardened":
        tags.update(("postscreen", "submission", "submissions"))
    checks = [*COMMON, *(one for feature in chosen for one in feature.checks)]
    if profile == "hardened":
        checks += [*login(587), *login(465, implicit=True)]
    elif not tags & {"submission", "submissions", "local only", "postscreen"}:
        tags.add("login at 25")
        checks += login(25)
    if "postscreen" not in tags:
        tags.add("smtpd at 25")
    if "local only" in tags:
        checks = [one for one in checks if one["via"] not in ("stranger", "login")]
        checks.append(check("user at 25", "local", "x@example.net", "sink", user="alice", **{"from": ALICE}))
        if profile == "hardened":
            checks.pop()
    else:
        tags.add("strangers")
    if "relay" in tags:
        checks = [{**one, "arrives": "smarthost"} if one["arrives"] == "sink" else one for one in checks]
        checks = [
            {**one, "arrives": "sink"} if one["name"] == "stranger to a relayed domain" else one for one in checks
        ]
    if "rewriting" in tags:
        tags.add("own domain")
    name = ", ".join([profile, *names])
    return Server(name, pillar, tuple(checks), frozenset(tags))


def draw(seed):
    """A server by chance, always the same for a seed."""
    chance = random.Random(f"server {seed}")
    profile = chance.choice(("guide", "guide", "hardened"))
    names = []
    for name in chance.sample(sorted(FEATURES), len(FEATURES)):
        if len(names) == NUMBERS[seed % len(NUMBERS)]:
            break
        unfit = {profile, *names} & set(FEATURES[name].without)
        if not unfit and not any(name in FEATURES[other].without for other in names):
            names.append(name)
    return make(profile, names)


def fitting(profile):
    """No feature, and each that goes with a profile."""
    return [None, *(name for name, feature in FEATURES.items() if profile not in feature.without)]
