"""
Whether mail is delivered: messages that nobody gets, and what Postfix says of them in its log.

The first asks all delivery agents how far they would come with some recipients (``sendmail -bv``): they start,
look everything up, and stop at the last step before a mailbox; a smarthost is asked as for real mail, with TLS and
login, as far as RCPT. There is one for each recipient: of agents that report on the same message at the same time
bounce(8) lets one wait for a second. The second is a real message, for a recipient whose domain cannot exist
(RFC 2606): it passes restrictions, milters, rules for headers and bodies and filters, and ends when its domain is
not found. All have the null sender, so that nothing comes back. What does not end by itself is taken out of the
queue.
"""

from __future__ import annotations

import contextlib
import dataclasses
import email.utils
import glob
import os
import pwd
import re
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from salt.exceptions import CommandExecutionError

import _mta_mail_log
import _mta_mailbox
import _mta_milter
import _mta_postfix_syntax
import _mta_system
import _mta_table_syntax
import _mta_untrusted_client
from _mta_records import NamedTuple, dataclass

NOWHERE = "probe.invalid"
SECONDS = 8
PAUSE = 0.05
# In seconds: for how long the queue's pauses between messages are waited for, and what makes most mail late.
LONGEST_WAIT = 60
LONG_DELAY = 600
RATE_DELAY = re.compile(r"[\w-]+_(?:destination|transport)_rate_delay")
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
# Transports that most mail goes by, and the default of all.
AGENTS = ("default", "local", "virtual", "smtp", "relay", "lmtp")
RESULT = (
    r"(?P<id>\w+): to=<(?P<to>[^>]*)>,(?: orig_to=<(?P<asked>[^>]*)>,)? relay=(?P<relay>.*?), .*?"
    r"dsn=(?P<code>[\d.]+), status=(?P<status>\w+) \((?P<reason>.*)\)$"
)
ACTION = r"(?:milter-)?(?P<action>hold|discard|reject|redirect|filter|bcc): (?P<what>.*)"
SMTPD = r"(?:CONNECT|HELO|EHLO|MAIL|RCPT|DATA|END-OF-MESSAGE)\b"
NO_ID = "NOQUEUE"
NOT_FOUND = r"(?:Host or domain name not found.*name=|unable to look up host )" + re.escape(NOWHERE)
# Nobody on this host answers: no other host's matter.
OWN_SOCKET = r"connect to [^ ]*\[(?:private/|/|127\.|::1)"
# Nobody answers for a domain.
UNREACHED = r"connect to |not found|Name service error|unable to look up|loops back|mail transport unavailable"
LOGIN_OR_TLS = r"(?i)SASL|authentication|Must issue a STARTTLS|TLS is required|certificate|cannot start TLS"
STUCK = r"(?:fatal|panic): |connect #\d+ to subsystem (?P<service>\S+)|do not list domain .* in BOTH|throttling"
INTENDED = "if that is intended, say so in pillar: verify: {{intended: [{word}]}}"
WORDS = {
    "hold": "held",
    "discard": "discarded",
    "reject": "refused",
    "redirect": "redirected",
    "filter": "filtered",
}
# What keeps a message that was taken from its recipients.
ASIDE = ("hold", "discard", "redirect")
# A client of whom the log speaks, whose address is nobody's.
NOBODY = re.compile("|".join(re.escape(f"[{one}]:") for one in _mta_untrusted_client.ADDRESSES.values()))
# Tables of addresses, each with the list of their domains.
VIRTUAL = {
    "virtual_alias_maps": "virtual_alias_domains",
    "virtual_mailbox_maps": "virtual_mailbox_domains",
}
# Of relayed domains some are asked.
MOST_RELAYED = 3
DOMAIN = r"[a-z0-9][a-z0-9-]*(?:\.[a-z0-9-]+)+"
ADDRESS = r"(?:^|\{)\s*([a-z0-9][\w.+-]*@[\w-]+\.[\w.-]+)\s*(?:=|\s)"
# What an agent says of the last step that it has not done.
MAILBOX = r"delivers to (?:mailbox|maildir)\Z"
# A command for every user's mail that keeps nothing, and cannot.
SWALLOWS = r"delivers to command: (?:exec )?(?:/usr)?(?:/bin/)?(?:cat *>+ */dev/null|true|:|exit 0)\Z"
# One that can only fail.
FAILS = r"delivers to command: (?:exec )?(?:/usr)?(?:/bin/)?(?:false|exit +[1-9]\d*)\Z"
# Levels of TLS that few hosts of the world are up to, and the protocols that the others speak.
TRUSTING = ("dane-only", "fingerprint", "verify", "secure")
SPOKEN = ("tlsv1.2", "tlsv1.3")
COPIES = ("always_bcc", "sender_bcc_maps", "recipient_bcc_maps")
RULES = {"header_checks": "-hmq", "mime_header_checks": "-hmq", "body_checks": "-bmq"}
MESSAGE = """\
Received: from {host} ([127.0.0.1]) by {host} with SMTP
From: <postmaster@{host}>
To: <{to}>
Subject: The mail server is tested
Date: {date}
Message-ID: <{to}>
MIME-Version: 1.0
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: 7bit

Good morning,

this message tests whether mail goes its way. It is for nobody, and ends here.
"""


class Outcome(NamedTuple):
    """What became of a recipient; ``asked``: as it was asked for."""

    asked: str
    to: str
    relay: str
    code: str
    status: str
    reason: str


@dataclass
class Found:
    """
    What there is to say of delivery.

    problems
        Faults. doubts: what is one only where it was otherwise before. notes: what could not be tried.

    discarded
        Senders and recipients whose mail is thrown away when nobody's address sends it: it is not relayed.

    relayed
        Postmasters of relayed domains, each with what keeps mail from their host; empty: the host was reached.
    """

    problems: list[str] = dataclasses.field(default_factory=list)
    doubts: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    discarded: set[tuple[str, str]] = dataclasses.field(default_factory=set)
    relayed: dict[str, str] = dataclasses.field(default_factory=dict)


def thrown_away(line: str) -> list[tuple[str, str]]:
    """Senders and recipients whose mail smtpd(8) throws away, as a line says, where nobody's address sends it."""
    action = re.match(rf"{NO_ID}: {ACTION}", line)
    discards = action and action["action"] == "discard" and NOBODY.search(line)
    return re.findall(r" from=<([^>]*)> to=<([^>]+)>", line) if discards else []


def outcome_of(line: str) -> Outcome | None:
    """Return what a line of the log says about a recipient; ``None``: nothing."""
    found = re.match(RESULT, line)
    if not found:
        return None
    parts = found.groupdict()
    return Outcome(parts["asked"] or parts["to"], *(parts[key] for key in Outcome._fields[1:]))


def _said(action: re.Match[str]) -> str:
    """What a line of the log says of an action, without what is another for each client."""
    text = re.sub(r" from=<.*", "", action["what"]).rstrip("; ")
    return f"{action['action']}: {text}"


def _removed(log: Iterable[str]) -> set[str]:
    """The queue ids that are in the queue no more."""
    return {line.partition(":")[0] for line in log if re.match(r"\w+: removed", line)}


def users() -> list[str]:
    """Return the names of this host's people."""
    return [one.pw_name for one in pwd.getpwall() if 1000 <= one.pw_uid < 60000 and os.path.isdir(one.pw_dir)]


def user(hostname: str) -> str | None:
    """Return the address of a user of this host; ``None``: there is none."""
    names = users()
    return f"{names[0]}@{hostname}" if names else None


def samples(main: Mapping[str, str]) -> list[str]:
    """Return an address of each kind of table that has some in a text to be read."""
    found = []
    for parameter in VIRTUAL:
        value = _mta_postfix_syntax.expand(main.get(parameter, ""), main)
        for kind, path in _mta_postfix_syntax.tables(parameter, value):
            address = re.search(ADDRESS, _mta_table_syntax.source(kind, path), re.MULTILINE)
            found += [address[1]] if address else []
    return found


def _known(hostname: str, main: Mapping[str, str]) -> dict[str, str]:
    """The parameters that main.cf sets, and some of Postfix's defaults."""
    return {
        "myhostname": hostname,
        "mydomain": hostname.partition(".")[2],
        "mydestination": "$myhostname, localhost.$mydomain, localhost",
        **{domains: f"${tables}" for tables, domains in VIRTUAL.items()},
        **main,
    }


def local_domains(hostname: str, main: Mapping[str, str]) -> list[str]:
    """Return the domains that ``mydestination`` names; what is in its tables is not known."""
    known = _known(hostname, main)
    value = _mta_postfix_syntax.expand(known["mydestination"], known)
    return [one for one in _mta_postfix_syntax.items_of(value.lower()) if ":" not in one]


def senders(hostname: str, main: Mapping[str, str]) -> list[str]:
    """Return addresses of two of this host's people, in its own name and in another local domain."""
    domains = list(dict.fromkeys([hostname, *local_domains(hostname, main)]))
    named = [one for one in domains if not one.startswith("localhost")][:2]
    return [f"{name}@{domain}" for name in users()[:2] for domain in named]


def postmasters(hostname: str, main: Mapping[str, str]) -> list[str]:
    """Return the postmasters of some domains that ``relay_domains`` names and that are not this host's own."""
    known = _known(hostname, main)
    own = {*local_domains(hostname, main)}
    for domains in VIRTUAL.values():
        own.update(_mta_postfix_syntax.items_of(_mta_postfix_syntax.expand(known[domains], known).lower()))
    value = _mta_postfix_syntax.expand(main.get("relay_domains", ""), known).lower()
    named = [one for one in _mta_postfix_syntax.items_of(value) if re.fullmatch(DOMAIN, one) and one not in own]
    return [f"postmaster@{domain}" for domain in named[:MOST_RELAYED]]


def twice(hostname: str, main: Mapping[str, str]) -> list[tuple[str, str]]:
    """
    Return the domains that are local and virtual at once, each with the name of the other list that has it.

    Postfix takes such a domain for a local one, and says in its log at every message not to list it twice.
    """
    known = _known(hostname, main)
    local = local_domains(hostname, main)
    listed = {domains: _mta_postfix_syntax.expand(known[domains], known) for domains in VIRTUAL.values()}
    return [
        (one, domains)
        for tables, domains in VIRTUAL.items()
        for one in sorted({*local} & _domains_of(tables, listed[domains], local))
    ]


def _domains_of(key: str, value: str, asked: Sequence[str]) -> set[str]:
    """The domains that a list names, and those of ``asked`` that its tables have."""
    found = {one.lower() for one in _mta_postfix_syntax.items_of(value)}
    for kind, path in _mta_postfix_syntax.tables(key, value):
        with contextlib.suppress(CommandExecutionError):
            found |= _mta_table_syntax.looked_up(f"{kind}:{path}", asked, SECONDS)[0].keys()
    return found


def out_of_reach(main: Mapping[str, str]) -> list[str]:
    """
    Return settings with which most other hosts get no mail, each with what it does.

    Where mail goes to a smarthost, or to another transport than smtp(8), nothing is said: that one is asked.
    """
    transport = main.get("default_transport", "smtp")
    agent = transport.partition(":")[0]
    if agent == "error":
        return [f"default_transport = {transport} refuses all mail for others"]
    if main.get("relayhost") or agent != "smtp":
        return []
    found = []
    if main.get("smtp_dns_support_level") == "disabled" or main.get("disable_dns_lookups", "no") == "yes":
        found.append("without the DNS no host of a domain is known (smtp_dns_support_level, disable_dns_lookups)")
    source = main.get("smtp_bind_address", "")
    if source.startswith("127."):
        found.append(f"smtp_bind_address = {source} reaches no other host")
    elif source and main.get("smtp_bind_address_enforce") == "yes" and not _is_own(source):
        found.append(f"smtp_bind_address = {source} is no address of this host (smtp_bind_address_enforce)")
    level = main.get("smtp_tls_security_level", "")
    if level in TRUSTING:
        found.append(f"smtp_tls_security_level = {level} asks for what few hosts have")
    protocols = _mta_postfix_syntax.expand(main.get("smtp_tls_mandatory_protocols", ""), main)
    if level in ("encrypt", *TRUSTING) and not _speaks(protocols.lower()):
        found.append("smtp_tls_mandatory_protocols leaves neither TLSv1.2 nor TLSv1.3")
    return found


def _rate_delays(main: Mapping[str, str]) -> dict[str, int]:
    """For how many seconds qmgr(8) lets a second message wait, by parameter (postconf(5)); none that is 0."""
    delays = {}
    for name in filter(RATE_DELAY.fullmatch, main):
        found = re.fullmatch(r"(\d+)([smhdw]?)", main[name].strip())
        if found and int(found[1]):
            delays[name] = int(found[1]) * UNITS[found[2]]
    return delays


def rate_delay(main: Mapping[str, str], messages: int = 1) -> float:
    """
    Return for how many seconds messages may have to wait in the queue, by those pauses that are waited for.

    ``default_destination_rate_delay`` lets the second message to a destination wait, and
    ``default_transport_rate_delay`` all but the first of its transport; so do those of single transports.
    """
    delays = [0.0]
    for name, seconds in _rate_delays(main).items():
        delays.append(seconds * (messages if name.endswith("_transport_rate_delay") else 1))
    return max(delay for delay in delays if delay <= LONGEST_WAIT)


def waiting(main: Mapping[str, str]) -> list[str]:
    """Return settings that let most mail wait for long, each with what it does; not those of other transports."""
    return [
        f"a second message waits for {main[name].strip()} ({name})"
        for name, seconds in _rate_delays(main).items()
        if seconds > LONG_DELAY and name.partition("_")[0] in AGENTS
    ]


def _is_own(address: str) -> bool:
    """Whether this host can speak from an IPv4 address."""
    with contextlib.suppress(OSError), socket.socket() as asked:
        asked.bind((address, 0))
        return True
    return False


def _speaks(protocols: str) -> bool:
    """Whether a list of protocols leaves one that other hosts speak: ``!TLSv1``, ``>=TLSv1.2``, ``TLSv1.3``."""
    items = [item for item in _mta_postfix_syntax.items_of(protocols.replace(":", " "))]
    named = {item for item in items if item[:1] not in "!<>"}
    left = {item for item in SPOKEN if f"!{item}" not in items and (not named or item in named)}
    return any(not any(_beyond(item, limit) for limit in items) for item in left)


def _beyond(protocol: str, limit: str) -> bool:
    """Whether a protocol is not within ``>=…`` or ``<=…``."""
    bound = limit[2:].replace("tlsv1", "tlsv1.0") if limit.endswith("tlsv1") else limit[2:]
    return (limit[:2] == ">=" and protocol < bound) or (limit[:2] == "<=" and protocol > bound)


def message(hostname: str, recipient: str, date: str) -> str:
    """Return the text of the real message."""
    return MESSAGE.format(host=hostname, to=recipient, date=date)


class Trial:
    """
    One look at delivery, from :func:`begin` to :func:`finish`.

    hostname
        Of the server.

    main
        The parameters that main.cf sets.

    recipients
        Addresses to which mail has to get.

    relay
        Whether other hosts are asked: the smarthost, where mail goes to one, and those of relayed domains.
    """

    def __init__(
        self, hostname: str, main: Mapping[str, str], recipients: Sequence[str], relay: bool = True
    ) -> None:
        self.hostname = hostname
        self.main = main
        self.recipients = list(dict.fromkeys(recipients))
        self.relay = relay
        self.relayed = postmasters(hostname, main) if relay else []
        self.token = token = f"probe-{os.urandom(6).hex()}"
        relayed = bool(main.get("relayhost")) and not relay
        self.elsewhere = f"{token}@{hostname if relayed else NOWHERE}"
        self.real = f"{token}-m@{NOWHERE}"
        # Where mail for others goes to a smarthost, a filter is tried with a message to a user like this one.
        self.nobody = f"{token}-n@{hostname}"
        filtered = bool(main.get("relayhost") and main.get("content_filter"))
        self.asking = [*self.recipients, *self.relayed, *[self.nobody] * filtered, self.elsewhere]
        self.queue = main.get("queue_directory", "/var/spool/postfix")
        self.began = time.time()
        # The log may reach further back: what an earlier look was told is no answer to this one.
        self.former: set[str] = set()
        self.asked = False
        self.stuck = 0.0
        # None: it was not sent.
        self.reply: str | None = None
        self.found = Found()

    def _value(self, name: str) -> str:
        """What a parameter is, expanded; empty: main.cf does not set it."""
        return _mta_postfix_syntax.expand(self.main.get(name, ""), self.main).strip()

    # -- what happens, in this order -----------------------------------------------------------

    def begin(self) -> bool:
        """Ask the delivery agents; tell whether the real message would end as it should."""
        program = _mta_system.find_program("sendmail") or "/usr/sbin/sendmail"
        if "2bounce" in _mta_postfix_syntax.items_of(self.main.get("notify_classes", "")):
            # The report would go to the postmaster.
            self.found.notes.append("Delivery was not tried, as notify_classes has 2bounce.")
            return False
        self.former = self._brought(self._lines())
        for recipient in self.asking:
            argv = [program, "-bv", "-F", self.token, "-f", "<>", recipient]
            try:
                done = _mta_system.run(argv, timeout=SECONDS, check=False)
            except CommandExecutionError as err:
                self.found.notes.append(f"Delivery was not tried: {err}")
                return False
            if done.code:
                self.found.doubts.append(f"delivery to anybody by sendmail(1): {done.message}")
                return False
            self.asked = True
        self._wait(lambda log: any(self.elsewhere in line for line in self._results(log)), SECONDS / 2)
        direct = [one for one in self._outcomes(self._lines()) if one.to == one.asked]
        if self._copied():
            return False
        if any(self._ends_here(one) for one in direct if one.asked == self.nobody in self.asking):
            self._submit()
        return any(self._ends_here(one) for one in direct if one.asked == self.elsewhere)

    def _submit(self) -> None:
        """Send the real message without a conversation, to a user who does not exist; a filter gets it first."""
        self.real = self.nobody.replace("-n@", "-m@")
        argv = [_mta_system.find_program("sendmail") or "/usr/sbin/sendmail", "-i", "-f", "<>", self.real]
        text = message(self.hostname, self.real, email.utils.format_datetime(_mta_system.now()))
        with contextlib.suppress(CommandExecutionError):
            _mta_system.run(argv, stdin=text, timeout=SECONDS)
            self.reply = "250 taken by sendmail(1)"

    def finish(self, aliases: Sequence[str] = ()) -> Found:
        """
        Wait for what is to come, tell what became of it, and leave nothing behind.

        aliases
            Recipients that this apply has made: who does not know them reads another table.
        """
        for domain, other in twice(self.hostname, self.main):
            text = f"delivery to {domain}: it is in mydestination and in {other}, and taken for a local domain"
            # Aliases are looked up for local domains, too.
            (self.found.notes if "alias" in other else self.found.doubts).append(text)
        self.found.doubts += [
            f"delivery to elsewhere: {text} ({INTENDED.format(word='limited')})"
            for text in out_of_reach(self.main)
        ]
        self.found.doubts += [
            f"delivery to anybody: {text} ({INTENDED.format(word='limited')})" for text in waiting(self.main)
        ]
        if self.asked:
            log = self._wait(self._complete, SECONDS + rate_delay(self.main, len(self.asking)))
            try:
                self._judge(log, {*aliases})
                if self.reply is None or not self.real.endswith(NOWHERE):
                    self._ask_milters()
            finally:
                self._clean_up(log)
        return self.found

    # -- the log --------------------------------------------------------------------------------

    def _lines(self) -> list[str]:
        main = self.main
        return _mta_mail_log.lines(self.began, main.get("maillog_file", ""), main.get("syslog_facility", "mail"))

    def _wait(self, enough: Callable[[Sequence[str]], bool], seconds: float) -> list[str]:
        """Read the log until it is enough, or time is up."""
        deadline = time.monotonic() + seconds
        while True:
            log = self._lines()
            if enough(log) or time.monotonic() > deadline:
                return log
            time.sleep(PAUSE)

    def _ids(self, log: Iterable[str]) -> set[str]:
        """The queue ids under which the messages have been."""
        found = self._brought(log) - self.former
        for line in log:
            id_, _, rest = line.partition(": ")
            named = any(f"<{one}>" in rest for one in (self.elsewhere, self.real))
            if named and id_.isalnum() and id_ != NO_ID:
                found.add(id_)
        if self.reply:
            match = re.search(r"queued as (\w+)", self.reply)
            found |= {match[1]} if match else set()
        return found

    @staticmethod
    def _brought(log: Iterable[str]) -> set[str]:
        """The queue ids of what pickup(8) got from this user, without a sender."""
        brought = rf"(\w+): uid={os.getuid()} from=<>$"
        return {found[1] for found in (re.match(brought, line) for line in log) if found}

    def _results(self, log: Sequence[str]) -> list[str]:
        ids = self._ids(log)
        return [line for line in log if line.partition(":")[0] in ids or self._is_about_ours(line)]

    def _is_about_ours(self, line: str) -> bool:
        """Whether smtpd(8) says something about the real message before that has an id."""
        return line.startswith(f"{NO_ID}: ") and f"<{self.real}>" in line

    def _outcomes(self, log: Sequence[str]) -> list[Outcome]:
        return [one for one in map(outcome_of, self._results(log)) if one]

    def _complete(self, log: Sequence[str]) -> bool:
        """Whether there is nothing to wait for: all is told, or somebody has said why it will not be."""
        ids = self._ids(log)
        # What is filtered comes back.
        stopped = {
            line.partition(":")[0]
            for line in self._results(log)
            if (action := re.search(ACTION, line)) and action["action"] != "filter"
        } - {NO_ID}
        untold = {*self.asking} - {one.asked for one in self._outcomes(log)}
        told = len(untold) <= len(stopped)
        if (self.reply or "").startswith("250") and not stopped:
            told = told and self._has_come_back(log)
        stuck = any(re.search(STUCK, line) for line in log)
        if stuck and not told:
            # Others may still come.
            self.stuck = self.stuck or time.monotonic()
            stuck = time.monotonic() - self.stuck > min(2, SECONDS / 4)
        # With soft_bounce it waits where it should end.
        soft = {
            line.partition(":")[0] for line in log if f"to=<{self.real}>" in line and re.search(NOT_FOUND, line)
        }
        return bool(ids) and ((told and ids <= _removed(log) | soft | stopped) or stuck)

    # -- what it means --------------------------------------------------------------------------

    def _ends_here(self, one: Outcome) -> bool:
        if one.to in (self.nobody, self.real) and one.relay != "none":
            return one.reason.startswith("unknown user")
        return one.relay == "none" and bool(re.search(NOT_FOUND, one.reason))

    def _has_come_back(self, log: Sequence[str]) -> bool:
        """Whether the real message has got to where it ends, or a filter wanted to bring it back to nobody."""
        if any(self._ends_here(one) for one in self._outcomes(log) if self.real in (one.asked, one.to)):
            return True
        return any(self._is_about_ours(line) and "User unknown" in line for line in log)

    def _sends_nothing(self) -> bool:
        """Whether ``default_transport = error:…`` refuses mail for others, of which :func:`out_of_reach` tells."""
        return self.main.get("default_transport", "").partition(":")[0] == "error"

    def _judge(self, log: Sequence[str], aliases: set[str]) -> None:
        if not log:
            self.found.notes.append(
                "Delivery was not proven: the mail server's log cannot be read, or is elsewhere."
            )
            return
        for line in self._results(log):
            action = re.search(ACTION, line)
            # What smtpd(8) refuses shows in its reply.
            refused = action and action["action"] == "reject" and re.match(SMTPD, action["what"])
            passed = action and action["action"] == "filter" and self._has_come_back(log)
            if action and action["action"] in WORDS and not refused and not passed:
                self._problem("any message", _said(action), WORDS[action["action"]])
        self._judge_others(log)
        outcomes = self._outcomes(log)
        for recipient in [self.elsewhere, *self.recipients]:
            for one in outcomes:
                if one.asked == recipient:
                    self._judge_recipient(one, aliases)
        for one in outcomes:
            if one.asked in self.relayed:
                # Whatever the other host or a table says, somebody answers.
                lost = one.relay == "none" and re.search(UNREACHED, one.reason)
                self.found.relayed[one.asked] = f"{one.code} {one.reason}" if lost else ""
        told = {one.asked for one in outcomes}
        missing = [recipient for recipient in (self.elsewhere, *self.recipients) if recipient not in told]
        if missing and not self.found.problems:
            self._missing(missing, log)
        if self.reply is not None:
            self._judge_real([one for one in outcomes if self.real in (one.asked, one.to)], log)

    def _judge_others(self, log: Sequence[str]) -> None:
        """What smtpd(8) does with mail of an untrusted client, who has only asked and sent nothing."""
        for line in log:
            action = re.match(rf"{NO_ID}: {ACTION}", line)
            self.found.discarded.update(thrown_away(line))
            if action and action["action"] in ASIDE and f" from=<> to=<postmaster@{self.hostname}>" in line:
                text = (
                    f"delivery to any message: {_said(action)} ({INTENDED.format(word=WORDS[action['action']])})"
                )
                if text not in self.found.problems + self.found.doubts:
                    self.found.doubts.append(text)

    def _problem(self, what: str, text: str, word: str) -> None:
        text = f"delivery to {what}: {text} ({INTENDED.format(word=word)})"
        if text not in self.found.problems:
            self.found.problems.append(text)

    def _judge_recipient(self, one: Outcome, aliases: set[str]) -> None:
        name = "elsewhere" if one.asked == self.elsewhere else one.asked
        text = f"delivery to {name}: {one.code} {one.reason}" + (f" (as {one.to})" if one.to != one.asked else "")
        if one.status == "deliverable":
            self._judge_deliverable(name, one)
        elif one.asked == self.elsewhere and (
            self._sends_nothing()
            or self._ends_here(one)
            or NOWHERE not in one.asked
            or "reply to RCPT" in one.reason
        ):
            return
        elif one.asked in aliases and f'unknown user: "{one.asked}"' in one.reason:
            self.found.problems.append(f"{text}: Postfix reads other aliases, see alias_maps")
        elif one.asked == self.elsewhere and re.search(LOGIN_OR_TLS, one.reason):
            self.found.problems.append(text)
        elif self._goes_to_others(one):
            self.found.notes.append(f"{text}: another host's matter")
        elif one.reason.startswith("unknown user") and one.asked == user(self.hostname):
            self.found.doubts.append(f"{text}: a user of this host, whose mail bounces")
        elif one.reason.startswith("unknown user"):
            # Users may come later; until then their mail bounces.
            self.found.notes.append(f"{text}: nobody receives that, and it bounces until there is such a user")
        elif one.code.endswith(".1.1") or " said: " in one.reason or one.asked == self.elsewhere:
            self.found.doubts.append(text)
        elif one.relay == "local" or re.search(OWN_SOCKET, one.reason) or one.code == "4.3.2":
            self.found.problems.append(text)
        else:
            self.found.doubts.append(text)

    def _judge_deliverable(self, name: str, one: Outcome) -> None:
        """What is delivered may still be kept from its recipient."""
        if one.asked == self.elsewhere and one.to != one.asked:
            self._redirected(name, one.to)
        if one.relay == "none":
            self._problem(name, f"discarded: {one.reason}", "discarded")
        if self._is_masqueraded(one):
            self._redirected(name, f"{one.to}, by masquerade_classes")
        if self._goes_astray(one):
            self._redirected(name, f"{one.relay}, by transport_maps")
        if one.reason.endswith(f": {self.main.get('mailbox_command')}"):
            if re.match(SWALLOWS, one.reason):
                self._problem(name, f"discarded, it {one.reason} (mailbox_command)", "discarded")
            if re.match(FAILS, one.reason):
                self.found.problems.append(f"delivery to {name}: {one.reason}, which fails (mailbox_command)")
        if re.match(MAILBOX, one.reason):
            self._judge_mailbox(name, one)
        program = _missing_program(one.reason)
        if program:
            self.found.problems.append(f"delivery to {name}: there is no program {program} (mailbox_command)")

    def _redirected(self, name: str, where: str) -> None:
        """Mail goes where it may be meant to go."""
        self.found.doubts.append(f"delivery to {name}: goes to {where} ({INTENDED.format(word='redirected')})")

    def _judge_mailbox(self, name: str, one: Outcome) -> None:
        """Whether the mailbox could be written, which is what local(8) and virtual(8) have not tried."""
        nobodys = _mta_mailbox.obstacle_of_all(self._value, one.relay)
        if nobodys:
            self.found.problems.append(f"delivery to {name}: {nobodys}")
            return
        user_ = one.to.partition("@")[0].partition(self.main.get("recipient_delimiter") or "@")[0]
        own = _mta_mailbox.obstacle(self._value, user_) if one.relay == "local" else None
        if own:
            # Who has no home may get one, as who is no user yet.
            kind = self.found.notes if _mta_mailbox.is_homeless(user_) else self.found.doubts
            kind.append(f"delivery to {name}: {own}")

    def _is_masqueraded(self, one: Outcome) -> bool:
        """Whether mail for a local domain is for another one, as the host is cut off from recipients."""
        classes = _mta_postfix_syntax.items_of(self._value("masquerade_classes"))
        local = local_domains(self.hostname, self.main)
        user_, _, domain = one.to.partition("@")
        was, _, former = one.asked.partition("@")
        is_cut = former.endswith(f".{domain}") and user_ == was and former in local and domain not in local
        return "envelope_recipient" in classes and bool(self.main.get("masquerade_domains")) and is_cut

    def _goes_astray(self, one: Outcome) -> bool:
        """Whether mail for a user of this host leaves it although the domain is local, and nobody says by what."""
        main = self.main
        if not main.get("transport_maps") or main.get("local_transport") or main.get("mailbox_transport"):
            return False
        local = local_domains(self.hostname, main)
        return one.to.rpartition("@")[2].lower() in local and bool(re.search(r"\[[\d.:a-f]+\]:\d+$", one.relay))

    def _goes_to_others(self, one: Outcome) -> bool:
        """Whether a table or alias names an address elsewhere, whose domain is not in the DNS."""
        found = re.search(r"Name service error for name=(\S+) ", one.reason)
        origin = _mta_postfix_syntax.expand(self.main.get("myorigin", "$myhostname"), self.main)
        origin = _mta_system.text_of(origin).strip() if origin.startswith("/") else origin
        domain = one.to.rpartition("@")[2]
        return one.to != one.asked and domain != origin and found is not None and found[1] == domain

    def _missing(self, recipients: Sequence[str], log: Sequence[str]) -> None:
        """Nothing was said about recipients in time."""
        names = ["elsewhere" if one == self.elsewhere else one for one in recipients]
        said = list(dict.fromkeys(line for line in log if re.search(STUCK, line)))
        if said:
            # Which of them had to wait for what does not answer is a matter of chance.
            self.found.problems.append(f"delivery to somebody: {'; '.join(said[:3])} <{', '.join(names)}>")
            return
        self._unseen([f"delivery to {name}: the queue has not done anything within {SECONDS} s" for name in names])

    def _unseen(self, texts: Sequence[str]) -> None:
        """What has not happened in time is no fault where the queue is told to wait."""
        pauses = ", ".join(_rate_delays(self.main))
        if pauses:
            self.found.notes += [f"{text} ({pauses} lets mail wait)" for text in texts]
        else:
            self.found.doubts += texts

    def _judge_real(self, outcomes: Sequence[Outcome], log: Sequence[str]) -> None:
        """What became of the real message, which was taken or refused with ``self.reply``."""
        reply = self.reply or ""
        if not reply.startswith("250"):
            self.found.doubts.append(f"delivery to any recipient: {reply}")
        elif self._has_come_back(log) or self.found.problems:
            return
        elif outcomes:
            last = outcomes[-1]
            what = "taken by" if last.status == "sent" else f"{last.status} at"
            self.found.doubts.append(
                f"delivery to any recipient: {what} {last.relay}, not seen again: {last.reason}"
            )
        else:
            self._unseen([f"delivery to any recipient: after {reply!r} the message was not seen again"])

    def _ask_milters(self) -> None:
        """Ask milters what they would do with the message that is not sent to this server by SMTP."""
        text = message(self.hostname, self.real, email.utils.format_datetime(_mta_system.now()))
        head, _, body = text.partition("\n\n")
        headers = [(name, value) for name, _, value in (line.partition(": ") for line in head.splitlines())]
        asked = _mta_milter.Message("", self.real, headers, body.replace("\n", "\r\n").encode())
        for item in _mta_postfix_syntax.items_of(self._value("smtpd_milters")):
            name = re.split(r"[\s,]+", item.strip("{ "))[0]
            # Whether one that does not answer is a fault depends on milter_default_action, and shows in SMTP.
            with contextlib.suppress(CommandExecutionError):
                verdict = _mta_milter.send(name, asked, self.hostname, SECONDS / 2, self.queue).verdict
                if verdict in ("discarded", "held"):
                    self._problem("any message", f"{verdict} by the milter {name}", verdict)
                elif verdict != "accepted":
                    self.found.doubts.append(f"delivery to any message: {verdict} by the milter {name}")

    # -- what would leave something behind ------------------------------------------------------

    def _copied(self) -> bool:
        """Whether a real message would go to somebody, by a copy or by a rule for headers and bodies."""
        if any(self.main.get(name) for name in COPIES):
            self.found.notes.append(
                f"No real message was sent: there would be copies of it ({', '.join(COPIES)})."
            )
            return True
        text = message(self.hostname, self.real, "Thu, 1 Jan 1970 00:00:00 +0000")
        for name, options in RULES.items():
            for table in _mta_postfix_syntax.items_of(self._value(name)):
                with contextlib.suppress(CommandExecutionError):
                    done = _mta_system.run(["postmap", options, "-", table], stdin=text, check=False)
                    for line in done.text.splitlines():
                        match = re.search(r"\t(REJECT|DISCARD|HOLD|REDIRECT|FILTER|BCC)\b.*", line)
                        if match:
                            word = {**WORDS, "bcc": "copied"}[match[1].lower()]
                            self._problem("any message", f"{name}: {line.replace(chr(9), ': ')}", word)
        return bool(self.found.problems)

    def _clean_up(self, log: Sequence[str]) -> None:
        """Take out of the queue what is still in it of the messages."""
        ids = self._ids(log)
        for id_ in sorted(ids - _removed(log)):
            # Another message that root has sent to nobody may have come at the same time.
            if any(map(self._is_ours, self._files(id_))):
                with contextlib.suppress(CommandExecutionError):
                    _mta_system.run(["postsuper", "-d", id_], timeout=SECONDS, check=False)
        # pickup(8) comes back to what cleanup(8) has not taken.
        for path in filter(self._is_ours, self._files("*", "maildrop")):
            with contextlib.suppress(OSError):
                os.unlink(path)

    def _files(self, name: str, queue: str = "*") -> list[str]:
        """Files of the queue, or of one of its directories: pickup(8) has not taken yet what is in maildrop."""
        return [
            path
            for hashed in ("", "?", "?/?")
            for path in glob.glob(os.path.join(self.queue, queue, hashed, name))
        ]

    def _is_ours(self, path: str) -> bool:
        with contextlib.suppress(OSError), open(path, "rb") as handle:
            # Whole seconds: not every file system knows more.
            is_new = os.fstat(handle.fileno()).st_mtime >= int(self.began)
            return is_new and self.token.encode() in handle.read(65536)
        return False


def _missing_program(reason: str) -> str | None:
    """The program of ``delivers to command: …`` that is not there; the shell's own words are."""
    found = re.match(r"delivers to command: (\S+)", reason)
    if not found or re.search(r"[$;&|<>`(]", found[1]):
        return None
    name = found[1].strip("\"'")
    if name.startswith("/"):
        return None if os.access(name, os.X_OK) else name
    builtins = ("exit", "cat", "test", "exec", "if", "export", "umask", "set", ".", ":")
    return None if name in builtins or _mta_system.find_program(name) or "=" in name else name
