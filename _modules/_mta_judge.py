"""
Whether every listener of the server answers as its configuration promises: a verdict over conversations.

Nothing is queued. The sharpest question is a message with one ``Received:`` header more than ``hopcount_limit``
allows: cleanup(8) looks up everything that it looks up for real mail and then refuses the message, so that a fault
shows as 451 where a healthy server says 554 5.4.0.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import email.utils
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Callable, TypeVar

from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_delivery
import _mta_libsasl
import _mta_plan_cache
import _mta_policy
import _mta_postfix_view
import _mta_secrets
import _mta_sender_logins
import _mta_sender_relays
import _mta_smtp
import _mta_system
import _mta_untrusted_client
import _mta_verdict
from _mta_minion import Minion
from _mta_records import NamedTuple, dataclass
from _mta_run import Run
from _mta_smtp import Conversation, Envelope, Login, Request, Target

# One of those that _mta_postfix_view.listeners returns.
Listener = Mapping[str, Any]
_Item = TypeVar("_Item")
_Found = TypeVar("_Found")

TLS_1_2 = ssl.TLSVersion.TLSv1_2
# Short, for a message must not be larger than message_size_limit.
HOP = b"Received: probe\r\n"
# How a server refuses whoever comes, or a recipient that it is there for: no rule that some clients meet.
NOT_RELAYED = "Relay access denied"
BLANKET = r"\b[45]\.1\.1\b|ccess denied"
LISTED = r"blocked using ([\w.-]+\w)"
# Codes 5.1.X are about an address: the domain elsewhere takes no mail, or this host has no mailbox of that name.
# A rule for names in HELO is about this client, which has the server's own, but not `Access denied` for all.
MAY_NOT_SEND = r"5\d\d[ -](?!5\.1\.)(?!.*Helo command rejected: (?!Access))|4\d\d 4\.7\.1 .*Relay access denied"
NO_CAPABILITY = "EHLO: no listener offers"
# In seconds, for a server that did not answer when it was asked just before.
SILENT_TIMEOUT = 5
# Listeners that are asked at the same time: each has to refuse a login, and saslauthd has few threads. Of a
# hundred at once most would wait longer than a conversation may take.
AT_ONCE = 8
# How a conversation must not begin, RFC 8314.
STARTS = {
    25: "TLS begins at once, and no other mail server does that at port 25",
    465: "TLS does not begin at once, as every client does at port 465",
    587: "TLS begins at once, and no client does that at port 587",
}
# How many of them are still sent.
MOST_HOPS = 5000


class _Ask(NamedTuple):
    """
    What a check asks of every listener, beside its greeting.

    hops
        The largest ``hopcount_limit``.

    trial
        The real message is its; ``None``: none is sent.

    user
        The address of a user; ``None``: none is known.
    """

    login: Login | None
    challenge: bool
    envelope: bool
    hops: int
    trial: _mta_delivery.Trial | None = None
    user: str | None = None


@dataclass
class Examination:
    """
    What came of examining one listener.

    label
        Its address, and as whom it was examined.

    talks
        Conversations, each with what was special about it.

    logins
        Those of the problems that only a login which is asked for has.

    doubts
        What is a problem only where it was otherwise before.

    refused
        The reply for the postmaster, where an untrusted client is refused at port 25 in words of the server's own.

    reached
        Recipients beyond this host's users, each with what keeps mail from them; empty: nothing.
    """

    label: str
    talks: list[tuple[str, Conversation]] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)
    logins: list[str] = dataclasses.field(default_factory=list)
    doubts: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    refused: str = ""
    reached: dict[str, str] = dataclasses.field(default_factory=dict)

    def complain(self, texts: Iterable[str]) -> None:
        """Add problems of this listener."""
        self.problems += [f"{self.label} {text}" for text in texts]

    def note(self, text: str) -> None:
        """Add a note about this listener."""
        self.notes.append(f"{self.label}: {text}")

    @property
    def transcript(self) -> list[str]:
        """All conversations, each under a title."""
        lines = []
        for what, found in self.talks:
            lines += [f"-- {self.label}{what and ', '}{what}", *found["transcript"]]
        return lines


def label_of(listener: Listener) -> str:
    """Return the address of a listener, as messages have it."""
    host = f"[{listener['host']}]" if ":" in listener["host"] else listener["host"]
    return f"{host}:{listener['port']}"


def target_of(
    listener: Listener,
    hostname: str | None = None,
    ca_file: str | None = None,
    timeout: float = _mta_smtp.CONVERSATION_TIMEOUT,
    patience: float = 0,
    latest: float | None = None,
) -> Target:
    """
    Return a listener as the target of conversations that begin now.

    hostname, ca_file
        What its certificate has to be for, and to verify against; ``None``: anything.

    timeout
        Seconds for all of them.

    patience
        Seconds, before those, for which a listener that refuses the connection is tried again.

    latest
        When they end at the latest (``time.monotonic()``).
    """
    now = time.monotonic()
    if latest is not None:
        timeout = min(timeout, latest - now)
    return Target(
        listener["host"],
        listener["port"],
        now + patience + timeout,
        now + patience,
        timeout=timeout,
        wrappermode=listener["wrappermode"],
        starttls=listener["starttls"],
        ca_file=ca_file,
        certificates=listener.get("certificates") or (),
        hostname=hostname,
        helo=listener.get("hostname"),
        proxy=listener.get("proxy") == "haproxy",
    )


def _anew(target: Target, **changed: Any) -> Target:
    """The same target for a conversation that begins now, with as much time as the first one had."""
    now = time.monotonic()
    return target._replace(deadline=now + target.timeout, patient_until=now, **changed)


def mechanisms(ehlo: Sequence[str]) -> set[str]:
    """Return what EHLO offers for AUTH, in the standard's spelling or that of ``broken_sasl_auth_clients``."""
    offered: set[str] = set()
    for line in ehlo[1:]:
        words = line.upper().replace("AUTH=", "AUTH ", 1).split()
        if words and words[0] == "AUTH":
            offered.update(words[1:])
    return offered


# -- one listener ------------------------------------------------------------------------------


def _examine(listener: Listener, target: Target, ask: _Ask) -> Examination:
    """Talk to one listener as a client of this host."""
    seen = Examination(label_of(listener))
    hostname = target.hostname
    envelopes, last = [], None
    if ask.envelope:
        postmaster, unknown, _ = _recipients(hostname)
        last = Envelope("", [unknown])
        envelopes = [
            Envelope("", [postmaster, *filter(None, [ask.user])]),
            _real(ask.trial) if ask.trial else Envelope(postmaster, [postmaster], _circling(ask.hops, seen)),
        ]
    challenge = ask.challenge and (listener["auth"] or "AUTH" in listener.get("may_hide", ())) and not ask.login
    found = _mta_smtp.hold(target, Request(envelopes, challenge, last=last))
    seen.talks.append(("", found))
    _tell(found, seen)
    seen.complain(_unlike(listener, found, hostname))
    if found["tls"] and not seen.problems:
        talks, faults = _examine_certificates(target, found["tls"]["fingerprint"])
        seen.talks += talks
        seen.complain(faults)
    if ask.envelope:
        _judge_envelopes(listener, found, seen, ask)
    greeted = found["ehlo"] or found["ehlo_tls"]
    if ask.login and listener["auth"] and greeted and not seen.problems:
        _try_logins(target, ask.login, found, seen, hidden="AUTH" in listener.get("may_hide", ()))
        # Nothing else was wrong.
        seen.logins = list(seen.problems)
    return seen


def _tell(found: Conversation, seen: Examination) -> None:
    """Faults are problems, and a rule that turns this client away is a note; but not from where it is trusted."""
    for problem in found["problems"]:
        blanket = "Access denied" in problem["reply"]
        if problem["policy"] and not blanket:
            seen.note(f"{problem['text']}: a rule for clients, and no fault; nothing after it could be tried")
        else:
            seen.complain([problem["text"]])


def _unlike(listener: Listener, found: Conversation, hostname: str | None) -> Iterator[str]:
    """Compare what the server offers with what its configuration promises; yield problems."""
    if not (found["ehlo"] or found["ehlo_tls"]):
        return
    greeting = (found["ehlo"] or found["ehlo_tls"])[0].split(" ")[0]
    banner = found["banner"] or ""
    if hostname:
        if hostname.lower() not in banner.lower().split():
            yield f"banner: {banner} (expected the host name {hostname})"
        if greeting.lower() != hostname.lower():
            yield f"EHLO: the server calls itself {greeting} (expected {hostname})"
    if listener["port"] in STARTS and listener["wrappermode"] != (listener["port"] == 465):
        yield f"banner: {STARTS[listener['port']]}"
    hides = listener.get("may_hide", ())
    if not listener["wrappermode"]:
        offered = "STARTTLS" in found["ehlo"][1:]
        if offered != listener["starttls"] and "STARTTLS" not in hides:
            yield f"EHLO: STARTTLS is {'' if offered else 'not '}offered"
        expected = listener["auth"] and (listener["auth_before_tls"] or not listener["starttls"])
        if bool(mechanisms(found["ehlo"])) != expected and not {"AUTH", "AUTH in clear"} & {*hides}:
            yield f"EHLO: AUTH is {'not ' if expected else ''}offered without TLS"
    if "AUTH" in hides:
        return
    if found["tls"] and found["ehlo_tls"] and bool(mechanisms(found["ehlo_tls"])) != listener["auth"]:
        yield f"EHLO: AUTH is {'not ' if listener['auth'] else ''}offered under TLS"
    yield from _unread(listener, mechanisms(found["ehlo"]) | mechanisms(found["ehlo_tls"]))


def _unread(listener: Listener, offered: set[str]) -> Iterator[str]:
    """What gives away that smtpd(8) does not read libsasl's settings: it offers what they do not have."""
    listed = {}
    for path in listener.get("sasl_files", ()):
        text = _mta_system.text_of(path)
        words = _mta_libsasl.value(text, "mech_list")
        if text and not words:
            # It may be the one that is read, and all mechanisms are offered.
            return
        if words:
            listed[path] = set(words.upper().replace(",", " ").split())
    if listed and not any(offered <= names for names in listed.values()):
        path, names = next(iter(listed.items()))
        yield (
            f"EHLO: AUTH offers {', '.join(sorted(offered - names))}, which mech_list in {path} does not have:"
            " smtpd(8) does not read that file, or not as it is now, and users may not be able to log in"
            " (cyrus_sasl_config_path and smtpd_sasl_path in main.cf say where it looks)"
        )


def _examine_certificates(target: Target, served: str) -> tuple[list[tuple[str, Conversation]], list[str]]:
    """
    See that each of several certificates is served; return (conversations, problems).

    Which one a client gets depends on the signatures that it takes: one that takes only RSA is a conversation of
    its own, and one that takes only ECDSA (or Ed25519, RFC 8422) is another. A server that insists on TLS 1.3
    cannot be asked like that.

    served
        The fingerprint that is known to be served.
    """
    on_disk = {own: path for path in target.certificates for own in _mta_smtp.certificates(path)}
    talks, seen = [], {served}
    for authentication in ("aRSA", "aECDSA") if len(on_disk) > 1 else ():
        talk = _mta_smtp.hold(_anew(target, offer=(TLS_1_2, TLS_1_2, authentication)))
        talks.append((f"with {authentication[1:]} only", talk))
        reasons = " ".join(problem["reply"] for problem in talk["problems"]).upper()
        if "PROTOCOL" in reasons and not talk["tls"]:
            return talks, []
        seen |= {talk["tls"]["fingerprint"]} if talk["tls"] else set()
    missing = [path for own, path in on_disk.items() if own not in seen]
    return talks, [f"TLS: the certificate in {path} is served to nobody" for path in missing]


def _recipients(hostname: str | None) -> tuple[str, str, str]:
    """A recipient that every server has, one that none has, and one that is elsewhere."""
    domain = f"@{hostname}" if hostname else ""
    elsewhere = "example.org" if (hostname or "").endswith("example.net") else "example.net"
    return f"postmaster{domain}", f"probe-{os.urandom(6).hex()}{domain}", f"postmaster@{elsewhere}"


def _circling(hops: int, seen: Examination) -> bytes | None:
    """A message that goes around in circles, as it seems; ``None`` where it would have to be too large."""
    if hops >= MOST_HOPS:
        seen.note(f"no message is tried, as with hopcount_limit = {hops} it would be delivered")
        return None
    return HOP * (hops + 1) + b"\r\n"


def _if_meant() -> str:
    """How what is told of a refusal ends that may be meant."""
    return f"({_mta_delivery.INTENDED.format(word='refused')})"


def _real(trial: _mta_delivery.Trial) -> Envelope:
    """A message that goes the whole way, to nobody."""
    text = _mta_delivery.message(trial.hostname, trial.real, email.utils.format_datetime(_mta_system.now()))
    return Envelope("", [trial.real], text.replace("\n", "\r\n").encode(), silent=True)


def _judge_envelopes(listener: Listener, found: Conversation, seen: Examination, ask: _Ask) -> None:
    """Port 25 takes mail for the postmaster; nobody takes the message that is to be refused."""
    if listener["port"] == 25 and found["envelopes"]:
        tried = found["envelopes"][0]
        replies = {"MAIL FROM:<>": tried["mail"]}
        replies.update(
            (f"RCPT TO:<{name}>", tried["recipients"].get(name)) for name in list(tried["recipients"])[:1]
        )
        for step, reply in replies.items():
            if not reply or reply.startswith("25") or _mta_smtp.fault_of(reply):
                continue
            if re.search(BLANKET, reply):
                seen.complain([f"{step}: {reply}"])
            else:
                seen.note(f"{step}: {reply}: a rule of this server, and no fault")
        known = tried["recipients"].get(ask.user or "", "")
        if re.search(BLANKET, known):
            seen.doubts.append(f"{seen.label} RCPT TO:<{ask.user}>: {known}")
    trial = ask.trial
    for tried in found["envelopes"]:
        if trial and trial.real in tried["recipients"]:
            trial.reply = tried["data"] or trial.reply
        elif re.search(BLANKET, tried["data"] or ""):
            seen.doubts.append(f"{seen.label} delivery to any recipient: {tried['data']}")
        elif (tried["data"] or "").startswith("250"):
            seen.note(f"took a message with too many Received headers, which it should refuse: {tried['data']}")


def _try_logins(target: Target, login: Login, found: Conversation, seen: Examination, hidden: bool) -> None:
    """Log in by every way that the server offers: with and without TLS, by PLAIN and by LOGIN."""
    elsewhere = _recipients(target.hostname)[2]
    domain = f"@{target.hostname}" if target.hostname and "@" not in login.username else ""
    own = Envelope(login.username + domain, [elsewhere])
    ways = []
    for secured, ehlo in ((False, found["ehlo"]), (True, found["ehlo_tls"])):
        offered = mechanisms(ehlo)
        ways += [(secured, mechanism) for mechanism in ("PLAIN", "LOGIN") if mechanism in offered]
    if not ways and hidden:
        seen.note("AUTH is hidden from this host, as its settings say, so no login was tried")
    elif not ways:
        seen.complain(["AUTH: neither PLAIN nor LOGIN is offered"])
    for secured, mechanism in ways:
        way = _anew(target, starttls=secured)
        talk = _mta_smtp.hold(way, Request([own], login=login, mechanism=mechanism))
        seen.talks.append((f"login by {mechanism}{'' if secured else ' without TLS'}", talk))
        for problem in talk["problems"]:
            if problem["policy"] and "too many" in problem["reply"]:
                seen.note(f"{problem['text']}: a limit of this server, and no fault; this login was not tried")
            else:
                seen.complain([problem["text"]])
        for tried in talk["envelopes"]:
            reply = tried["recipients"].get(elsewhere) or tried["mail"] or ""
            text = f"{seen.label} AUTH: {login.username} may not send as <{own.sender}>: {reply}"
            text += f" {_if_meant()}"
            if re.match(MAY_NOT_SEND, reply) and text not in seen.doubts:
                seen.doubts.append(text)


# -- as an untrusted client --------------------------------------------------------------------


class _Spoken(NamedTuple):
    """
    What an untrusted client was told.

    relays
        Steps with their replies, where its mail to others would be taken.

    refused
        The step and the reply for the postmaster, where he gets no mail from this client for good.
    """

    found: Conversation
    problems: list[str]
    relays: list[str]
    refused: str


def examine_as_untrusted_client(
    listener: Listener, target: Target, folder: str, known: Sequence[str] = ()
) -> Examination:
    """
    Talk to one listener as a client outside mynetworks, who must not get mail for others in.

    This host's own address is tried first: where mynetworks is just the loopback it is an untrusted client, with a
    name that is looked up quickly. Where the server relays for it, the answer to somebody else's address decides.

    target
        Its timeout is that of each conversation.

    folder
        Path of the directory for a lock, see :py:func:`_mta_untrusted_client.foreign_address`.

    known
        Addresses in virtual and relayed domains, which are tried, too.
    """
    seen = Examination(label_of(listener) + _mta_verdict.UNTRUSTED)
    family = _mta_untrusted_client.address_family(target.host)
    own = _mta_untrusted_client.own_address(family)
    spoken = None
    if own:
        spoken = _speak_as(own, target, known)
        seen.talks.append(("", spoken.found))
    if spoken is None or spoken.relays:
        try:
            with _mta_untrusted_client.foreign_address(family, folder) as source:
                spoken = _speak_as(source, target, known)
                if spoken.relays:
                    # access(5): what is decided at the first recipient may hold for the message, as DISCARD does.
                    alone = _speak_as(source, target, alone=True)
                    seen.talks.append(("with no other recipient", alone.found))
                    spoken = spoken._replace(relays=alone.relays)
        except CommandExecutionError as err:
            seen.note(f"not tried: {err}")
            return seen
        seen.talks.append(("", spoken.found))
        spoken.problems.extend(f"{text} ({_mta_verdict.OPEN_RELAY})" for text in spoken.relays)
    if spoken.found["timed_out"] == "banner":
        # Is it the lookup of the client's name that takes so long, or has the server died meanwhile?
        control = _mta_smtp.hold(_anew(target))
        seen.talks.append(("as a trusted one again", control))
        if not control["problems"]:
            seen.note("no banner in time; a slow reverse lookup can do that")
            return seen
    replies = {name: reply for tried in spoken.found["envelopes"] for name, reply in tried["recipients"].items()}
    for name in known:
        reply = replies.get(name, "")
        is_refused = NOT_RELAYED in reply
        # Another refusal may be this client's own.
        if is_refused or reply.startswith("25"):
            seen.reached[f"{seen.label} RCPT TO:<{name}>"] = f"{reply} {_if_meant()}" if is_refused else ""
    if spoken.refused and listener["port"] == 25:
        if re.search(BLANKET, spoken.refused):
            seen.doubts.append(f"{seen.label} {spoken.refused} {_if_meant()}")
        else:
            seen.refused = f"{seen.label} {spoken.refused}"
    seen.complain(spoken.problems)
    return seen


def _speak_as(source: str, target: Target, known: Sequence[str] = (), alone: bool = False) -> _Spoken:
    """
    Try envelopes from an address: without a sender, and in the name of this host's postmaster.

    alone
        With nobody in them but the recipient elsewhere.
    """
    postmaster, nobody, elsewhere = _recipients(target.hostname)
    talk = _anew(target, source=source, helo=None)
    asked = [elsewhere] if alone else [postmaster, elsewhere, nobody, *known]
    # Whoever gives a sender of the own domain may get what its users get.
    forged = [Envelope(postmaster, [elsewhere])] if "@" in postmaster else []
    found = _mta_smtp.hold(talk, Request([Envelope("", asked), *forged]))
    relays, refused = [], ""
    for sender, tried in zip(("", f"MAIL FROM:<{postmaster}> "), found["envelopes"]):
        reply = tried["recipients"].get(elsewhere, "")
        if reply.startswith("25"):
            relays.append(f"{sender}RCPT TO:<{elsewhere}>: {reply}")
        reply = tried["recipients"].get(postmaster) or tried["mail"] or ""
        if not sender and (reply.startswith("5") or re.search(BLANKET, reply)):
            refused = f"RCPT TO:<{postmaster}>: {reply}"
    listed = [problem["text"] for problem in found["problems"] if re.search(LISTED, problem["reply"])]
    faults = [problem["text"] for problem in found["problems"] if not problem["policy"]]
    return _Spoken(found, faults, relays, refused or "".join(listed[:1]))


# -- all listeners -----------------------------------------------------------------------------


def stale(
    certificates: Collection[str] | None = None, timeout: float = _mta_smtp.CONVERSATION_TIMEOUT
) -> list[str] | None:
    """
    Return the listeners that serve another certificate than the one on disk.

    That is so when the file was replaced and Postfix was not reloaded: an smtpd(8) reads it when it starts.
    Parameters, result and errors as of ``mta_probe.stale``.
    """
    asked, found, unreachable = False, [], True
    for listener in _mta_postfix_view.listeners():
        paths = listener["certificates"]
        if not paths or not (listener["starttls"] or listener["wrappermode"]):
            continue
        if certificates is not None and not set(paths) & set(certificates):
            continue
        asked = True
        target = target_of(listener, listener["hostname"], timeout=timeout)
        talk = _mta_smtp.hold(target._replace(certificates=()))
        if not talk["tls"]:
            continue
        unreachable = False
        served = talk["tls"]["fingerprint"]
        try:
            wrong = all(served not in _mta_smtp.certificates(path) for path in paths)
            wrong = wrong or bool(_examine_certificates(target, served)[1])
        except CommandExecutionError:
            wrong = True
        if wrong:
            found.append(label_of(listener))
    return None if asked and unreachable else found


def _lacking(capabilities: Iterable[str], conversations: Iterable[Conversation]) -> Iterator[str]:
    """The required capabilities that no listener offers; the parameters may come in any order."""
    offered = [
        line.upper().split() for found in conversations for line in [*found["ehlo"][1:], *found["ehlo_tls"][1:]]
    ]
    for capability in capabilities:
        keyword, *parameters = capability.upper().split()
        if not any(words[:1] == [keyword] and set(parameters) <= set(words[1:]) for words in offered):
            yield f"{NO_CAPABILITY} {capability}"


def login_of(minion: Minion, path: str | None) -> Login | None:
    """
    Return who logs in, by a pillar path of a ``username`` and a ``password``; ``None`` when there is nothing.

    Raises as :py:func:`_mta_secrets.get` does, and ``SaltInvocationError`` when there is just one of them.
    """
    username, password = (
        _mta_secrets.get(minion, f"{path}:{name}" if path else None) for name in ("username", "password")
    )
    if username is None and password is None:
        return None
    if username is None or password is None:
        raise SaltInvocationError(f"The pillar {path} must have a username and a password")
    return Login(username, password)


def _at_once(function: Callable[[_Item], _Found], items: Sequence[_Item]) -> list[_Found]:
    if len(items) < 2:
        return [function(item) for item in items]
    with concurrent.futures.ThreadPoolExecutor(min(len(items), AT_ONCE)) as pool:
        return list(pool.map(function, items))


def _let_in() -> None:
    """
    Have qmgr(8) look for new mail, and so let cleanup(8) take further messages at once.

    It counts those that have begun, and lets each wait for ``in_flow_delay`` when there are more of them than
    ``default_process_limit``. Those of the check never come to qmgr(8), which would count them down.
    """
    with contextlib.suppress(CommandExecutionError):
        _mta_system.run(["postkick", "public", "qmgr", "I"], timeout=SILENT_TIMEOUT)


def _without(listeners: Sequence[Listener], skip: Collection[str]) -> tuple[list[Listener], list[str]]:
    """The listeners that are judged, and notes on what is not."""
    services = {listener["service"] for listener in listeners}
    notes = [
        f"{service} is not verified, as verify.skip says."
        if service in services
        else f"verify.skip names {service}, which is no SMTP listener of master.cf."
        for service in skip
    ]
    return [listener for listener in listeners if listener["service"] not in skip], notes


def _barred(listeners: Sequence[Listener]) -> list[str]:
    """Where users are to send, and may not, as the configuration says: a login of one is not at hand."""
    ports = {587, 465} & {listener["port"] for listener in listeners if listener["auth"]} or {25}
    return [
        f"{label_of(listener)} AUTH: who logs in may not send, by {listener['bars_users']}"
        for listener in listeners
        if listener["port"] in ports and listener.get("bars_users")
    ]


def _disowned(listeners: Sequence[Listener], trial: _mta_delivery.Trial) -> list[str]:
    """Where who has logged in may send from an address of his own only, and nobody has one."""
    domains = _mta_delivery.local_domains(trial.hostname, trial.main)
    places: dict[str, list[str]] = {}
    for listener in listeners:
        if listener.get("login_maps"):
            places.setdefault(listener["login_maps"], []).append(label_of(listener))
    return [
        f"{', '.join(labels)} AUTH: no user of this host may send as himself, as smtpd_sender_login_maps does not"
        f" give him his address {_if_meant()}"
        for maps, labels in places.items()
        if _mta_sender_logins.disowned(maps, _mta_delivery.users(), domains)
    ]


def _cut_off(trial: _mta_delivery.Trial) -> list[str]:
    """Relays of this host's users that take no connection."""
    senders = _mta_delivery.senders(trial.hostname, trial.main) if trial.relay else []
    return [f"delivery to elsewhere {text}" for text in _mta_sender_relays.unreached(trial.main, senders)]


def _refusing(trial: _mta_delivery.Trial, refusals: Sequence[str]) -> list[str]:
    """Refusals of an untrusted client that are not for it alone, each with who refuses this host, too."""
    who = []
    for service in _mta_policy.services(trial.main) if refusals else ():
        with contextlib.suppress(CommandExecutionError):
            postmaster = f"postmaster@{trial.hostname}"
            action = _mta_policy.ask(service, postmaster, trial.hostname, SILENT_TIMEOUT, trial.queue)
            who += [f"{service} says {action} to this host, too"] * _mta_policy.refuses(action)
    for name in sorted({found[1] for found in (re.search(LISTED, text) for text in refusals) if found}):
        with contextlib.suppress(OSError):
            socket.getaddrinfo(f"1.0.0.127.{name}", None)
            who.append(f"{name} lists 127.0.0.1, too, as no block list may that works (RFC 5782)")
    return [f"{text}: {who[0]} {_if_meant()}" for text in refusals if who]


def _where(minion: Minion) -> list[Listener]:
    """Where the server listens: main.cf and master.cf are read when they have changed."""
    # What Postfix calls this host where main.cf does not say.
    name = [socket.gethostname()]
    found: list[Listener] = _mta_plan_cache.fact(minion, "listeners", name, lambda: _mta_postfix_view.listeners())
    return found


def _hops(listeners: Iterable[Listener]) -> int:
    """The largest hopcount_limit: a server that is tried before it is switched hands mail to the running one."""
    everywhere = [*listeners, *_mta_postfix_view.listeners()]
    return max(
        (int(one.get("hopcount_limit", _mta_postfix_view.HOPCOUNT_LIMIT)) for one in everywhere),
        default=_mta_postfix_view.HOPCOUNT_LIMIT,
    )


def check(
    minion: Minion,
    listeners: Sequence[Listener] | None = None,
    hostname: str | None = None,
    ca_file: str | None = None,
    capabilities: Iterable[str] = (),
    login_pillar: str | None = None,
    auth: str = "offered",
    envelope: bool = False,
    untrusted_client: bool = False,
    timeout: float = 30,
    patience: float = 0,
    skip: Collection[str] = (),
    deliver: bool = False,
    aliases: Sequence[str] = (),
    relay: bool = True,
    intended: Collection[str] = (),
) -> dict[str, Any]:
    """Judge every listener. Parameters, result and errors as of ``mta_probe.check``."""
    if auth not in ("offered", "challenge"):
        raise SaltInvocationError(f"auth must be 'offered' or 'challenge', not {auth!r}")
    if listeners is None:
        listeners = _where(minion)
    if Run.of(minion).silent:
        timeout = min(timeout, SILENT_TIMEOUT)
    problems = [] if listeners else ["master.cf has no SMTP listener"]
    # A service with its own `-o myhostname` goes by that name; but somebody has to go by the expected one.
    own = hostname is None or hostname in {listener.get("hostname") for listener in listeners}
    judged, notes = _without(listeners, skip)
    hops = _hops(listeners) if envelope else 0
    trial, user, known = _trial(judged, hostname, aliases, relay) if deliver and judged else (None, None, [])
    real = trial if trial and trial.begin() else None
    ask = _Ask(login_of(minion, login_pillar), auth == "challenge", envelope, hops, real, user)
    pairs = [
        (one, target_of(one, (own and one.get("hostname")) or hostname, ca_file, timeout, patience))
        for one in judged
    ]
    examinations, speaking = _examine_all(pairs, ask, minion.state.path() if untrusted_client else None, known)
    problems += [text for seen in examinations for text in seen.problems]
    if judged:
        problems += _lacking(capabilities, [talk for seen in examinations for _, talk in seen.talks])
    doubts = [text for seen in examinations for text in seen.doubts] + _barred(judged) * envelope
    notes += [text for seen in examinations for text in seen.notes]
    reached = {step: why for seen in examinations for step, why in seen.reached.items()}
    if trial:
        delivery = trial.finish(aliases)
        problems = _mta_verdict.without_relays(problems, delivery.discarded) + delivery.problems
        doubts += delivery.doubts + _disowned(judged, trial) + _cut_off(trial)
        doubts += _refusing(trial, [seen.refused for seen in examinations if seen.refused])
        notes += delivery.notes
        reached.update((f"delivery to {one}", why) for one, why in delivery.relayed.items())

    def wanted(text: str) -> bool:
        return any(f"intended: [{word}]" in text for word in intended)

    # What this run has found to be older than itself fails no state of it.
    faults, older = [text for text in problems if not wanted(text)], []
    if faults:
        verdict = _mta_verdict.compared(Run.of(minion).known, faults, lambda _: False)
        faults, older = verdict.problems, verdict.earlier + verdict.unseen
    conversations = [talk for seen in examinations for _, talk in seen.talks]
    return {
        "answers": not faults,
        "listening": any(talk["connected"] for talk in conversations),
        "speaking": speaking,
        "problems": faults,
        "logins": [text for seen in examinations for text in seen.logins],
        "doubts": [text for text in doubts if not wanted(text)],
        "reached": {step: why for step, why in reached.items() if not wanted(why)},
        "notes": [
            *notes,
            *filter(wanted, problems),
            *(f"{text} (so it was before this run)" for text in older),
        ],
        "older": older,
        "transcript": [line for seen in examinations for line in seen.transcript],
        "conversations": conversations,
    }


def _trial(
    listeners: Sequence[Listener], hostname: str | None, aliases: Sequence[str], relay: bool
) -> tuple[_mta_delivery.Trial, str | None, list[str]]:
    """
    A look at delivery, to those whom every server has, and to aliases of this apply.

    With it a user's address, and addresses in virtual and relayed domains.
    """
    name = hostname or next((one["hostname"] for one in listeners if one.get("hostname")), "localhost")
    main = _mta_postfix_view.with_places(_mta_postfix_view.show())
    user, virtual = _mta_delivery.user(name), _mta_delivery.samples(main)
    recipients = [f"postmaster@{name}", *filter(None, [user]), *virtual, *aliases]
    trial = _mta_delivery.Trial(name, main, recipients, relay)
    return trial, user, [*virtual, *trial.relayed]


def _examine_all(
    pairs: Sequence[tuple[Listener, Target]], ask: _Ask, folder: str | None, known: Sequence[str]
) -> tuple[list[Examination], list[Listener]]:
    """
    Examine all listeners, and again as an untrusted client; return that, and those that spoke.

    folder
        Of the untrusted client's lock; ``None``: there is no such client.

    known
        Addresses that the untrusted client tries at port 25.
    """
    first = next((listener for listener, _ in pairs if listener["port"] == 25), None)
    # Limits count a client's connections to a service, anvil(8).
    turns = {listener["service"]: threading.Lock() for listener, _ in pairs}

    def ask_one(numbered: tuple[int, tuple[Listener, Target]]) -> tuple[Examination, bool, Examination | None]:
        """Examine a listener; whether it spoke; and what the untrusted client has seen."""
        number, (listener, target) = numbered
        if ask.envelope and number and number % AT_ONCE == 0:
            _let_in()
        # The time that it has waited for others is not its own.
        target = target._replace(deadline=max(target.deadline, time.monotonic() + target.timeout))
        seen = _examine(listener, target, ask if listener is first else ask._replace(trial=None))
        talk = seen.talks[0][1]
        spoke = bool(talk["ehlo"] or talk["ehlo_tls"])
        if not folder or not spoke:
            return seen, spoke, None
        if talk["timed_out"]:
            target = target._replace(timeout=min(target.timeout, SILENT_TIMEOUT))
        asked = known if listener["port"] == 25 else ()
        # At once: when smtpd(8) has waited for more than ipc_idle, its first question to trivial-rewrite(8) fails,
        # and it sleeps for a second.
        with turns[listener["service"]]:
            return seen, spoke, examine_as_untrusted_client(listener, target, folder, asked)

    found = _at_once(ask_one, list(enumerate(pairs)))
    examinations = [seen for seen, _, _ in found] + [seen for _, _, seen in found if seen]
    return examinations, [listener for (listener, _), (_, spoke, _) in zip(pairs, found) if spoke]
