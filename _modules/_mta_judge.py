"""
Whether every listener of the server answers as its configuration promises: a verdict over conversations.

Nothing is queued. The sharpest question is a message with one ``Received:`` header more than ``hopcount_limit``
allows: cleanup(8) looks up everything that it looks up for real mail and then refuses the message, so that a fault
shows as 451 where a healthy server says 554 5.4.0.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import ssl
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Callable, NamedTuple

from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_postfix_view
import _mta_secrets
import _mta_smtp
import _mta_untrusted_client
from _mta_minion import Minion
from _mta_smtp import Conversation, Envelope, Login, Request, Target

# One of those that _mta_postfix_view.listeners returns.
Listener = Mapping[str, Any]

OPEN_RELAY = "an open relay"
TLS_1_2 = ssl.TLSVersion.TLSv1_2
# Short, for a message must not be larger than message_size_limit.
HOP = b"Received: probe\r\n"
# How many of them are still sent.
MOST_HOPS = 5000
UNTRUSTED = " as an untrusted client"


class _Ask(NamedTuple):
    """What a check asks of every listener, beside its greeting; ``hops``: the largest ``hopcount_limit``."""

    login: Login | None
    challenge: bool
    envelope: bool
    hops: int


@dataclasses.dataclass
class Examination:
    """
    What came of examining one listener.

    label
        Its address, and as whom it was examined.

    talks
        Conversations, each with what was special about it.
    """

    label: str
    talks: list[tuple[str, Conversation]] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

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
    )


def _anew(target: Target, **changed: Any) -> Target:
    """The same target for a conversation that begins now, with as much time as the first one had."""
    now = time.monotonic()
    return dataclasses.replace(target, deadline=now + target.timeout, patient_until=now, **changed)


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
    envelopes = []
    if ask.envelope:
        postmaster, unknown, _ = _recipients(hostname)
        envelopes = [
            Envelope("", [postmaster, unknown]),
            Envelope(postmaster, [postmaster], _circling(ask.hops, seen)),
        ]
    challenge = ask.challenge and bool(listener["auth"]) and not ask.login
    found = _mta_smtp.hold(target, Request(envelopes, challenge))
    seen.talks.append(("", found))
    seen.complain(problem["text"] for problem in found["problems"])
    seen.complain(_unlike(listener, found, hostname))
    if found["tls"] and not seen.problems:
        talks, faults = _examine_certificates(target, found["tls"]["fingerprint"])
        seen.talks += talks
        seen.complain(faults)
    if ask.envelope:
        _judge_envelopes(listener, found, seen)
    if ask.login and listener["auth"] and not seen.problems:
        _try_logins(target, ask.login, found, seen)
    return seen


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
    if not listener["wrappermode"]:
        offered = "STARTTLS" in found["ehlo"][1:]
        if offered != listener["starttls"]:
            yield f"EHLO: STARTTLS is {'' if offered else 'not '}offered"
        expected = listener["auth"] and (listener["auth_before_tls"] or not listener["starttls"])
        if bool(mechanisms(found["ehlo"])) != expected:
            yield f"EHLO: AUTH is {'not ' if expected else ''}offered without TLS"
    if found["tls"] and found["ehlo_tls"] and bool(mechanisms(found["ehlo_tls"])) != listener["auth"]:
        yield f"EHLO: AUTH is {'not ' if listener['auth'] else ''}offered under TLS"


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
        talk = _mta_smtp.hold(dataclasses.replace(target, offer=(TLS_1_2, TLS_1_2, authentication)))
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


def _judge_envelopes(listener: Listener, found: Conversation, seen: Examination) -> None:
    """Port 25 takes mail for the postmaster; nobody takes the message that is to be refused."""
    if listener["port"] == 25 and found["envelopes"]:
        tried = found["envelopes"][0]
        replies = {"MAIL FROM:<>": tried["mail"]}
        replies.update(
            (f"RCPT TO:<{name}>", tried["recipients"].get(name)) for name in list(tried["recipients"])[:1]
        )
        for step, reply in replies.items():
            if reply and not reply.startswith("25") and not _mta_smtp.fault_of(reply):
                seen.complain([f"{step}: {reply}"])
    for tried in found["envelopes"]:
        if (tried["data"] or "").startswith("250"):
            seen.note(f"took a message with too many Received headers, which it should refuse: {tried['data']}")


def _try_logins(target: Target, login: Login, found: Conversation, seen: Examination) -> None:
    """Log in by every way that the server offers: with and without TLS, by PLAIN and by LOGIN."""
    ways = []
    for secured, ehlo in ((False, found["ehlo"]), (True, found["ehlo_tls"])):
        offered = mechanisms(ehlo)
        ways += [(secured, mechanism) for mechanism in ("PLAIN", "LOGIN") if mechanism in offered]
    if not ways:
        seen.complain(["AUTH: neither PLAIN nor LOGIN is offered"])
    for secured, mechanism in ways:
        way = dataclasses.replace(target, starttls=secured)
        talk = _mta_smtp.hold(way, Request(login=login, mechanism=mechanism))
        seen.talks.append((f"login by {mechanism}{'' if secured else ' without TLS'}", talk))
        seen.complain(problem["text"] for problem in talk["problems"])


# -- as an untrusted client --------------------------------------------------------------------


class _Spoken(NamedTuple):
    """What an untrusted client was told; ``relays``: the reply, where its mail to others would be taken."""

    found: Conversation
    problems: list[str]
    relays: str | None


def examine_as_untrusted_client(listener: Listener, target: Target, folder: str) -> Examination:
    """
    Talk to one listener as a client outside mynetworks, who must not get mail for others in.

    This host's own address is tried first: where mynetworks is just the loopback it is an untrusted client, with a
    name that is looked up quickly. Where the server relays for it, the answer to somebody else's address decides.

    target
        Its timeout is that of each conversation.

    folder
        Path of the directory for a lock, see :py:func:`_mta_untrusted_client.foreign_address`.
    """
    seen = Examination(label_of(listener) + UNTRUSTED)
    family = _mta_untrusted_client.address_family(target.host)
    own = _mta_untrusted_client.own_address(family)
    spoken = None
    if own:
        spoken = _speak_as(own, target)
        seen.talks.append(("", spoken.found))
    if spoken is None or spoken.relays:
        try:
            with _mta_untrusted_client.foreign_address(family, folder) as source:
                spoken = _speak_as(source, target)
        except CommandExecutionError as err:
            seen.note(f"not tried: {err}")
            return seen
        seen.talks.append(("", spoken.found))
        if spoken.relays:
            spoken.problems.append(f"{spoken.relays} ({OPEN_RELAY})")
    if spoken.found["timed_out"] == "banner":
        # Is it the lookup of the client's name that takes so long, or has the server died meanwhile?
        control = _mta_smtp.hold(_anew(target))
        seen.talks.append(("as a trusted one again", control))
        if not control["problems"]:
            seen.note("no banner in time; a slow reverse lookup can do that")
            return seen
    seen.complain(spoken.problems)
    return seen


def _speak_as(source: str, target: Target) -> _Spoken:
    """Try an envelope from an address."""
    recipients = _recipients(target.hostname)
    talk = _anew(target, source=source, helo=None)
    found = _mta_smtp.hold(talk, Request([Envelope("", recipients)]))
    relays = None
    for tried in found["envelopes"]:
        reply = tried["recipients"].get(recipients[2], "")
        if reply.startswith("25"):
            relays = f"RCPT TO:<{recipients[2]}>: {reply}"
    # RFC 5321, 3.1, and RFC 7504: not even a greeting for this client is a policy too.
    faults = [
        problem["text"]
        for problem in found["problems"]
        if problem["step"] not in ("banner", "EHLO") or problem["reply"][:3] not in ("521", "550", "554")
    ]
    return _Spoken(found, faults, relays)


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
        talk = _mta_smtp.hold(dataclasses.replace(target, certificates=()))
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
            yield f"EHLO: no listener offers {capability}"


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


def _at_once(
    function: Callable[[Listener, Target], Examination], pairs: Sequence[tuple[Listener, Target]]
) -> list[Examination]:
    if len(pairs) < 2:
        return [function(*pair) for pair in pairs]
    with concurrent.futures.ThreadPoolExecutor(len(pairs)) as pool:
        return list(pool.map(lambda pair: function(*pair), pairs))


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
) -> dict[str, Any]:
    """Judge every listener. Parameters, result and errors as of ``mta_probe.check``."""
    if auth not in ("offered", "challenge"):
        raise SaltInvocationError(f"auth must be 'offered' or 'challenge', not {auth!r}")
    if listeners is None:
        listeners = _mta_postfix_view.listeners()
    problems = [] if listeners else ["master.cf has no SMTP listener"]
    # A service with its own `-o myhostname` goes by that name; but somebody has to go by the expected one.
    own = hostname is None or hostname in {listener.get("hostname") for listener in listeners}
    judged, notes = _without(listeners, skip)
    hops = _hops(listeners) if envelope else _mta_postfix_view.HOPCOUNT_LIMIT
    ask = _Ask(login_of(minion, login_pillar), auth == "challenge", envelope, hops)
    pairs = [
        (one, target_of(one, (own and one.get("hostname")) or hostname, ca_file, timeout, patience))
        for one in judged
    ]
    examinations = _at_once(lambda listener, target: _examine(listener, target, ask), pairs)
    greetings = [seen.talks[0][1] for seen in examinations]
    problems += [text for seen in examinations for text in seen.problems]
    if judged:
        problems += _lacking(capabilities, [talk for seen in examinations for _, talk in seen.talks])
    if untrusted_client and not problems:
        # One after the other: limits count a client's connections.
        folder = minion.state.path()
        further = [examine_as_untrusted_client(*pair, folder) for pair in pairs]
        problems += [text for seen in further for text in seen.problems]
        examinations += further
    conversations = [talk for seen in examinations for _, talk in seen.talks]
    return {
        "answers": not problems,
        "listening": any(talk["connected"] for talk in conversations),
        "speaking": [one for one, talk in zip(judged, greetings) if talk["ehlo"] or talk["ehlo_tls"]],
        "problems": problems,
        "notes": notes + [text for seen in examinations for text in seen.notes],
        "transcript": [line for seen in examinations for line in seen.transcript],
        "conversations": conversations,
    }
