"""TODO subject (mta_probe)."""

import concurrent.futures
import contextlib
import os
import ssl
import time

from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_postfix_view
import _mta_secrets
import _mta_smtp
import _mta_untrusted_client
from _mta_minion import Minion

OPEN_RELAY = "an open relay"
TLS_1_2 = ssl.TLSVersion.TLSv1_2
HOPS = b"Received: by a probe that asks to be refused\r\n" * 300 + b"\r\n"


def label_of(listener, role=""):
    host = f"[{listener['host']}]" if ":" in listener["host"] else listener["host"]
    return f"{host}:{listener['port']}{role}"


def conversation_with(listener, want):
    return {
        "address": (listener["host"], listener["port"]),
        "wrappermode": listener["wrappermode"],
        "starttls": listener["starttls"],
        "ca_file": want["ca_file"],
        "certificates": listener.get("certificates") or [],
        "hostname": want["hostnames"][listener["host"], listener["port"]],
        "timeout": _mta_smtp.CONVERSATION_TIMEOUT,
        "deadline": want["deadline"],
        "patient_until": want["patient_until"],
    }


def mechanisms(ehlo):
    """What EHLO offers for AUTH, in the standard's spelling or that of ``broken_sasl_auth_clients``."""
    offered = set()
    for line in ehlo[1:]:
        words = line.upper().replace("AUTH=", "AUTH ", 1).split()
        if words and words[0] == "AUTH":
            offered.update(words[1:])
    return offered


def _unlike(listener, found, hostname):
    """Compare what the server offers with what its configuration promises; yield problems."""
    if not (found["ehlo"] or found["ehlo_tls"]):
        return
    greeting = (found["ehlo"] or found["ehlo_tls"])[0].split(" ")[0]
    if hostname:
        if hostname.lower() not in found["banner"].lower().split():
            yield f"banner: {found['banner']} (expected the host name {hostname})"
        if greeting.lower() != hostname.lower():
            yield f"EHLO: the server calls itself {greeting} (expected {hostname})"
    secured = bool(found["tls"])
    if not listener["wrappermode"]:
        offered = "STARTTLS" in found["ehlo"][1:]
        if offered != listener["starttls"]:
            yield f"EHLO: STARTTLS is {'' if offered else 'not '}offered"
        expected = listener["auth"] and (listener["auth_before_tls"] or not listener["starttls"])
        if bool(mechanisms(found["ehlo"])) != expected:
            yield f"EHLO: AUTH is {'not ' if expected else ''}offered without TLS"
    if secured and found["ehlo_tls"] and bool(mechanisms(found["ehlo_tls"])) != listener["auth"]:
        yield f"EHLO: AUTH is {'not ' if listener['auth'] else ''}offered under TLS"


def _logins(listener, found):
    """The ways to log in that the server offers: (STARTTLS or not, mechanism)."""
    ways = []
    for secured, ehlo in ((False, found["ehlo"]), (True, found["ehlo_tls"])):
        offered = mechanisms(ehlo)
        ways += [(secured, mechanism) for mechanism in ("PLAIN", "LOGIN") if mechanism in offered]
    return ways


def _recipients(hostname):
    """A recipient that every server has, one that none has, and one that is elsewhere."""
    domain = f"@{hostname}" if hostname else ""
    elsewhere = "example.org" if (hostname or "").endswith("example.net") else "example.net"
    return f"postmaster{domain}", f"probe-{os.urandom(6).hex()}{domain}", f"postmaster@{elsewhere}"


def _examine(listener, want):
    """Talk to one listener; return (conversations, problems)."""
    target = conversation_with(listener, want)
    hostname = target["hostname"]
    envelopes = []
    if want["envelope"]:
        postmaster, unknown, _ = _recipients(hostname)
        envelopes = [
            {"sender": "", "recipients": [postmaster, unknown]},
            {"sender": postmaster, "recipients": [postmaster], "message": HOPS},
        ]
    challenge = "challenge" if want["auth"] == "challenge" and listener["auth"] and not want["login"] else None
    found = _mta_smtp.hold(target, envelopes, challenge)
    conversations = [found]
    problems = [problem["text"] for problem in found["problems"]]
    problems += _unlike(listener, found, hostname)
    if found["tls"] and not problems:
        talks, faults = _examine_certificates(target, found)
        conversations += talks
        problems += faults
    if want["envelope"] and listener["port"] == 25 and found["envelopes"]:
        tried = found["envelopes"][0]
        for step, reply in (
            ("MAIL FROM:<>", tried["mail"]),
            (f"RCPT TO:<{postmaster}>", tried["recipients"].get(postmaster)),
        ):
            if reply and not reply.startswith("25") and not _mta_smtp.fault_of(reply):
                problems.append(f"{step}: {reply}")
    if want["login"] and listener["auth"] and not problems:
        ways = _logins(listener, found)
        if not ways:
            problems.append("AUTH: neither PLAIN nor LOGIN is offered")
        for secured, mechanism in ways:
            way = {**conversation_with(listener, want), "starttls": secured}
            talk = _mta_smtp.hold(way, login=want["login"], mechanism=mechanism)
            conversations.append(talk)
            problems += [problem["text"] for problem in talk["problems"]]
    label = label_of(listener)
    return conversations, [f"{label} {problem}" for problem in problems]


def _examine_certificates(target, found):
    """
    See that each of several certificates is served; return (conversations, problems).

    Which one a client gets depends on the signatures that it takes: one that takes only RSA is a conversation of
    its own, and one that takes only ECDSA (or Ed25519, RFC 8422) is another. A server that insists on TLS 1.3
    cannot be asked like that.
    """
    on_disk = {own: path for path in target["certificates"] for own in _mta_smtp.certificates(path)}
    conversations, served = [], {found["tls"]["fingerprint"]}
    for authentication in ("aRSA", "aECDSA") if len(on_disk) > 1 else ():
        talk = _mta_smtp.hold({**target, "offer": (TLS_1_2, TLS_1_2, authentication)})
        reasons = " ".join(problem["reply"] for problem in talk["problems"]).upper()
        if "PROTOCOL" in reasons and not talk["tls"]:
            return [*conversations, talk], []
        conversations.append(talk)
        served |= {talk["tls"]["fingerprint"]} if talk["tls"] else set()
    missing = [path for own, path in on_disk.items() if own not in served]
    return conversations, [f"TLS: the certificate in {path} is served to nobody" for path in missing]


def examine_as_stranger(listener, want):
    """
    Talk to one listener as a client outside mynetworks; return (conversations, problems, notes).

    This host's own address is tried first: where mynetworks is just the loopback it is a stranger, with a
    name that is looked up quickly. Where the server relays for it, the answer to somebody else's address
    decides.
    """
    label = label_of(listener, " as a stranger")
    conversations, family = [], _mta_untrusted_client.address_family(listener["host"])
    own = _mta_untrusted_client.own_address(family)
    relays = None
    if own:
        found, problems, relays = _speak_as(own, listener, want)
        conversations.append(found)
    if not own or relays:
        try:
            with _mta_untrusted_client.stranger(family) as source:
                found, problems, relays = _speak_as(source, listener, want)
        except OSError as err:
            return conversations, [], [f"{label}: not tried, {err.strerror or err}"]
        conversations.append(found)
        if relays:
            problems.append(f"{relays} ({OPEN_RELAY})")
    if found["timed_out"] == "banner":
        # Is it the lookup of the stranger's name that takes so long, or has the server died meanwhile?
        control = _mta_smtp.hold(conversation_with(listener, want))
        conversations.append(control)
        if not control["problems"]:
            return conversations, [], [f"{label}: no banner in time; a slow reverse lookup can do that"]
    return conversations, [f"{label} {problem}" for problem in problems], []


def _speak_as(source, listener, want):
    """Try an envelope from an address; return (conversation, problems, what it said when it would relay)."""
    target = conversation_with(listener, want)
    # smtpd(8) looks up the name of a stranger before it says a word: as long as there is time left.
    left = want["deadline"] - time.monotonic() - _mta_smtp.CONVERSATION_TIMEOUT
    target["timeout"] = max(_mta_smtp.CONVERSATION_TIMEOUT, left)
    recipients = _recipients(target["hostname"])
    helo = f"[IPv6:{source}]" if ":" in source else f"[{source}]"
    found = _mta_smtp.hold(target, [{"sender": "", "recipients": recipients}], source=source, helo=helo)
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
    return found, faults, relays


def stale(certificates=None, timeout=_mta_smtp.CONVERSATION_TIMEOUT):
    """
    Return the listeners that show a client another certificate than the one on disk.

    That is so when the file was replaced and Postfix was not reloaded: an smtpd(8) reads it when it starts.

    certificates
        List of paths: only listeners that have one of these files. Default: all listeners with TLS.

    timeout
        Seconds for a conversation, default 10.

    Returns a list such as ``["127.0.0.1:25"]``; ``None`` when no such listener began TLS, so that nothing is
    known. A file that cannot be read is none that is served. Raises ``CommandExecutionError`` when the
    configuration cannot be read.
    """
    now = time.monotonic()
    want = {"ca_file": None, "deadline": now + timeout, "patient_until": now}
    asked, found, silent = False, [], True
    for listener in _mta_postfix_view.listeners():
        paths = listener["certificates"]
        if not paths or not (listener["starttls"] or listener["wrappermode"]):
            continue
        if certificates is not None and not set(paths) & set(certificates):
            continue
        asked = True
        hostnames = {(listener["host"], listener["port"]): listener["hostname"]}
        target = {**conversation_with(listener, {**want, "hostnames": hostnames}), "certificates": []}
        talk = _mta_smtp.hold(target)
        if not talk["tls"]:
            continue
        silent = False
        try:
            on_disk = [own for path in paths for own in _mta_smtp.certificates(path)]
            wrong = talk["tls"]["fingerprint"] not in on_disk
            wrong = wrong or bool(_examine_certificates({**target, "certificates": paths}, talk)[1])
        except CommandExecutionError:
            wrong = True
        if wrong:
            found.append(label_of(listener))
    return None if asked and silent else found


def _lacking(capabilities, conversations):
    """The required capabilities that no listener offers; the parameters may come in any order."""
    offered = [
        line.upper().split() for found in conversations for line in [*found["ehlo"][1:], *found["ehlo_tls"][1:]]
    ]
    for capability in capabilities:
        keyword, *parameters = capability.upper().split()
        if not any(words[:1] == [keyword] and set(parameters) <= set(words[1:]) for words in offered):
            yield f"EHLO: no listener offers {capability}"


def _login(minion: Minion, path):
    """The (username, password) at a pillar path; ``None`` when there is nothing."""
    username, password = (
        _mta_secrets.get(minion, f"{path}:{name}" if path else None) for name in ("username", "password")
    )
    if username is None and password is None:
        return None
    if username is None or password is None:
        raise SaltInvocationError(f"The pillar {path} must have a username and a password")
    return username, password


def check(
    minion: Minion,
    listeners=None,
    hostname=None,
    ca_file=None,
    capabilities=(),
    login_pillar=None,
    auth="offered",
    envelope=False,
    stranger=False,
    timeout=30,
    patience=0,
):
    """
    Tell whether every listener of the server answers as its configuration promises.

    listeners
        List as :func:`postconf.listeners` returns it, which is the default.

    hostname
        FQDN in the banner, in the answer to EHLO and in the certificate. Default: each listener's
        ``myhostname``.

    ca_file
        CA certificates (PEM) that the chain served has to verify against. Default ``None``: not verified.

    capabilities
        What EHLO has to show on some listener, before or under TLS, e.g.
        ``["PIPELINING", "AUTH PLAIN LOGIN"]``. Default: nothing more than what the configuration promises.

    login_pillar
        Pillar path of a ``username`` and a ``password`` (may be an ``sdb://`` address) that have to get in by
        PLAIN and by LOGIN, in clear where that is offered and under TLS. Default ``None``; nothing there: no
        login.

    auth
        ``offered``: EHLO is enough. ``challenge``: a login as a user that does not exist has to give 535,
        which costs 2 to 3 s. Default ``offered``.

    envelope
        Also MAIL, RCPT to the postmaster and to a user that does not exist, and a message that cleanup(8) has
        to refuse after having looked up everything. Nothing is queued. Default ``False``.

    stranger
        Also MAIL and RCPT as a client outside mynetworks, who must not get mail for others in. It needs the
        right to change routes; without it a note says so. Default ``False``.

    timeout
        Seconds for everything. Default 30.

    patience
        Seconds for which a listener that refuses the connection is tried again. Default 0.

    Returns a dictionary: ``answers``, ``listening`` (whether any listener accepted a connection), ``speaking``
    (those of ``listeners`` that answered EHLO), ``problems``, ``notes``, ``transcript`` (lists of lines) and
    ``conversations`` (see :func:`converse`).

    Raises ``SaltInvocationError`` for a bad argument, ``CommandExecutionError`` when the configuration cannot
    be read.
    """
    if auth not in ("offered", "challenge"):
        raise SaltInvocationError(f"auth must be 'offered' or 'challenge', not {auth!r}")
    if listeners is None:
        listeners = _mta_postfix_view.listeners()
    started = time.monotonic()
    # A service with its own `-o myhostname` goes by that name; but somebody has to go by the expected one.
    names = {listener.get("hostname") for listener in listeners}
    own = hostname is None or hostname in names
    want = {
        "hostnames": {(one["host"], one["port"]): (own and one.get("hostname")) or hostname for one in listeners},
        "ca_file": ca_file,
        "login": _login(minion, login_pillar),
        "auth": auth,
        "envelope": envelope,
        "deadline": started + timeout,
        "patient_until": started + patience,
    }
    conversations, speaking, problems, notes, transcript = [], [], [], [], []
    if not listeners:
        problems.append("master.cf has no SMTP listener")
    with contextlib.ExitStack() as stack:
        run = map
        if len(listeners) > 1:
            run = stack.enter_context(concurrent.futures.ThreadPoolExecutor(len(listeners))).map
        for listener, (talks, faults) in zip(listeners, run(lambda one: _examine(one, want), listeners)):
            conversations += talks
            problems += faults
            speaking += [listener] if talks[0]["ehlo"] or talks[0]["ehlo_tls"] else []
            for number, talk in enumerate(talks):
                title = f"{label_of(listener)}, login {number}" if number else label_of(listener)
                transcript += [f"-- {title}", *talk["transcript"]]
    problems += _lacking(capabilities, conversations)
    if stranger and not problems:
        for listener in listeners:
            talks, faults, remarks = examine_as_stranger(listener, want)
            conversations += talks
            problems += faults
            notes += remarks
            for talk in talks:
                transcript += [f"-- {label_of(listener, ' as a stranger')}", *talk["transcript"]]
    return {
        "answers": not problems,
        "listening": any(talk["connected"] for talk in conversations),
        "speaking": speaking,
        "problems": problems,
        "notes": notes,
        "transcript": transcript,
        "conversations": conversations,
    }
