"""
One SMTP conversation, as a client that looks at everything and keeps no secret in its transcript.

It leaves no mail behind, except :func:`deliver`, whose purpose it is. Sources: RFC 5321, RFC 3207, RFC 4954.
"""

from __future__ import annotations

import base64
import contextlib
import email.utils
import errno
import hashlib
import os
import re
import socket
import ssl
import time
import warnings
from collections.abc import Callable, Sequence
from typing import NoReturn

from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_system
import _mta_untrusted_client
from _mta_records import NamedTuple, TypedDict

CONVERSATION_TIMEOUT = 10
# A server that restarts drops a connection once; one that drops them for longer is broken (master(8)
# throttles).
DROP_PATIENCE = 3
# For clients with errors: what a server may let one wait in all.
ERROR_PATIENCE = 60
PAUSE = 0.1
MAX_LINE = 4096
MAX_LINES = 200
MASK = "****"
DROPPED = "connection closed by the server"
LATE = "no answer in time"
IP_FREEBIND, IPV6_FREEBIND = 15, 78

# The lowest and the highest version of TLS that a client takes, and its ciphers in the words of ciphers(1).
Offer = tuple[ssl.TLSVersion, ssl.TLSVersion, str]


# -- what is asked, and what was found ---------------------------------------------------------


class Target(NamedTuple):
    """
    Where a conversation is held, and until when.

    host, port
        Address in digits, number.

    deadline
        When all ends (``time.monotonic()``).

    patient_until
        Until then a server that refuses the connection, or closes it before the banner, is tried again.

    timeout
        Seconds, from the connection that succeeds.

    wrappermode, starttls
        Begin with TLS (RFC 8314); use STARTTLS where it is offered.

    ca_file
        CA certificates against which the chain has to verify; ``None``: it is not verified.

    certificates
        Paths of PEM files: the certificate served has to be in one of them. None: any.

    hostname
        The name that the certificate has to be for; ``None``: any.

    offer
        What the client takes of TLS. Default: what this host's OpenSSL does.

    source
        Local address to speak from. Default: the system's choice.

    helo
        The client's name in EHLO. What is not fully qualified, or ``None``: its address.

    proxy
        Begin with the line of a proxy, which the listener asks for (HAProxy's PROXY protocol, version 1).
    """

    host: str
    port: int
    deadline: float
    patient_until: float
    timeout: float = CONVERSATION_TIMEOUT
    wrappermode: bool = False
    starttls: bool = True
    ca_file: str | None = None
    certificates: Sequence[str] = ()
    hostname: str | None = None
    offer: Offer | None = None
    source: str | None = None
    helo: str | None = None
    proxy: bool = False


class Envelope(NamedTuple):
    """
    A sender and recipients to try; with a message (line ends CRLF, dots doubled) DATA is tried, too.

    silent
        Nobody is to be told what becomes of the message (RFC 3461), where the server knows how.
    """

    sender: str
    recipients: Sequence[str]
    message: bytes | None = None
    silent: bool = False


class Login(NamedTuple):
    """Who logs in."""

    username: str
    password: str


class Request(NamedTuple):
    """
    What is tried after EHLO: a login, the envelopes, a login as nobody (``challenge``), the ``last`` envelope.

    What provokes an error comes late: some servers hang up after the first one.
    """

    envelopes: Sequence[Envelope] = ()
    challenge: bool = False
    login: Login | None = None
    mechanism: str = "PLAIN"
    last: Envelope | None = None


# Nothing but what every conversation has.
GREETING = Request()


class Problem(TypedDict):
    """``policy``: a rule for clients, not a fault."""

    policy: bool
    step: str
    reply: str
    text: str


class Tls(TypedDict):
    version: str | None
    cipher: str
    fingerprint: str
    verified: bool
    error: str | None


class Tried(TypedDict):
    """The replies to an envelope."""

    sender: str
    mail: str | None
    recipients: dict[str, str]
    data: str | None


class Auth(TypedDict, total=False):
    """Empty without AUTH."""

    mechanism: str
    reply: str
    tls: bool


class Conversation(TypedDict):
    """What was found; see ``mta_probe.converse``."""

    host: str
    port: int
    connected: bool
    timed_out: str | None
    banner: str | None
    ehlo: list[str]
    ehlo_tls: list[str]
    tls: Tls | None
    auth: Auth
    envelopes: list[Tried]
    problems: list[Problem]
    transcript: list[str]


def _nothing(target: Target) -> Conversation:
    return {
        "host": target.host,
        "port": target.port,
        "connected": False,
        "timed_out": None,
        "banner": None,
        "ehlo": [],
        "ehlo_tls": [],
        "tls": None,
        "auth": {},
        "envelopes": [],
        "problems": [],
        "transcript": [],
    }


def _complain(found: Conversation, step: str, reply: str) -> None:
    policy = turned_away(step, reply)
    found["problems"].append({"policy": policy, "step": step, "reply": reply, "text": f"{step}: {reply}"})


# -- the connection ----------------------------------------------------------------------------


class _BrokenOff(Exception):
    """The conversation cannot go on."""

    def __init__(self, step: str, reply: str, timed_out: bool = False) -> None:
        super().__init__(reply)
        self.step = step
        self.reply = reply
        self.timed_out = timed_out


class _NotYet(_BrokenOff):
    """Nobody listens, or the connection was closed before the banner: a server that restarts does that."""


def _late(step: str) -> NoReturn:
    raise _BrokenOff(step, LATE, timed_out=True) from None


class _Line:
    """One connection: commands and replies, bounded by a deadline; the transcript holds no secrets."""

    def __init__(self, target: Target, deadline: float, transcript: list[str]) -> None:
        self.deadline = deadline
        self.transcript = transcript
        self.buffer = b""
        # Nothing has been heard of the server.
        self.fresh = True
        family = _mta_untrusted_client.address_family(target.host)
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._connect(family, target)
        except BaseException:
            self.close()
            raise

    def _connect(self, family: socket.AddressFamily, target: Target) -> None:
        try:
            self.sock.settimeout(self._left("connect"))
            if target.source:
                if family == socket.AF_INET6:
                    self.sock.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
                else:
                    self.sock.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
                self.sock.bind((target.source, 0))
            self.sock.connect((target.host, target.port))
            if target.proxy:
                self.sock.sendall(self._proxy_line(family))
        except ConnectionRefusedError:
            raise _NotYet("connect", "connection refused") from None
        except socket.timeout:
            _late("connect")
        except OSError as err:
            raise _BrokenOff("connect", err.strerror or str(err)) from None

    def _proxy_line(self, family: socket.AddressFamily) -> bytes:
        """Who speaks to whom, as a proxy says it: this host itself."""
        (source, from_port), (host, to_port) = self.sock.getsockname()[:2], self.sock.getpeername()[:2]
        kind = "TCP6" if family == socket.AF_INET6 else "TCP4"
        return f"PROXY {kind} {source} {host} {from_port} {to_port}\r\n".encode()

    def _left(self, step: str) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            _late(step)
        return left

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.close()

    def own_literal(self) -> str:
        """The client's address as RFC 5321, 4.1.3, has it."""
        address: str = self.sock.getsockname()[0]
        return f"[IPv6:{address}]" if ":" in address else f"[{address}]"

    def _read_line(self, step: str) -> str:
        while b"\n" not in self.buffer:
            if len(self.buffer) > MAX_LINE:
                raise _BrokenOff(step, f"garbled: {_printable(self.buffer[:60])}")
            self.sock.settimeout(self._left(step))
            try:
                data = self.sock.recv(4096)
            except socket.timeout:
                _late(step)
            except OSError as err:
                raise self._dropped(step, err.strerror or str(err)) from None
            if not data:
                raise self._dropped(step, DROPPED)
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return _printable(line.rstrip(b"\r"))

    def _dropped(self, step: str, text: str) -> _BrokenOff:
        early = step == "banner" and not self.buffer and self.fresh
        return (_NotYet if early else _BrokenOff)(step, text)

    def reply(self, step: str) -> list[str]:
        """The lines of the server's next reply (RFC 5321, 4.2.1)."""
        lines: list[str] = []
        while True:
            line = self._read_line(step)
            self.fresh = False
            self.transcript.append(f"S: {line}")
            if not line[:3].isdigit() or line[3:4] not in ("", " ", "-") or len(lines) == MAX_LINES:
                raise _BrokenOff(step, f"garbled: {line[:60]}")
            lines.append(line)
            if line[3:4] != "-":
                return lines

    def command(self, text: str, step: str | None = None, shown: str | None = None) -> list[str]:
        """Send one command; return the lines of the reply. ``shown`` replaces the text in the transcript."""
        step = step or text
        self.transcript.append(f"C: {shown or text}")
        self._send(text.encode() + b"\r\n", step)
        return self.reply(step)

    def _send(self, data: bytes, step: str) -> None:
        self.sock.settimeout(self._left(step))
        try:
            self.sock.sendall(data)
        except socket.timeout:
            _late(step)
        except OSError:
            # The server may have said why before it closed the connection: the reply tells.
            return

    def message(self, data: bytes) -> list[str]:
        """Send the text of a message after 354; return the lines of the reply."""
        self.transcript.append(f"C: (a message of {len(data)} bytes)")
        self._send(data + b".\r\n", "end of DATA")
        return self.reply("end of DATA")

    def secure(self, context: ssl.SSLContext, hostname: str | None, step: str) -> ssl.SSLSocket:
        """Begin TLS on the connection."""
        if self.buffer:
            raise _BrokenOff(step, "the server spoke in clear after STARTTLS")
        self.sock.settimeout(self._left(step))
        try:
            self.sock = secured = context.wrap_socket(self.sock, server_hostname=hostname)
        except ssl.SSLCertVerificationError:
            raise
        except socket.timeout:
            _late(step)
        except (ssl.SSLEOFError, ConnectionResetError):
            raise (_NotYet if step == "TLS" else _BrokenOff)(step, DROPPED) from None
        except OSError as err:
            reason = getattr(err, "reason", None) or err.strerror or err
            raise _BrokenOff(step, f"TLS failed: {reason}") from None
        self.fresh = False
        return secured


def _printable(data: bytes) -> str:
    return "".join(char if char.isprintable() else "?" for char in data.decode("ascii", "backslashreplace"))


def reply_text(lines: Sequence[str]) -> str:
    """A reply as one line: the code once, the texts after each other."""
    return " ".join([lines[0][:3], *[line[4:] for line in lines]]).strip()


def fault_of(reply: str) -> bool:
    """
    Tell whether a reply to MAIL, RCPT or DATA means that the server is broken, not that it refuses by policy.

    421 and 451 are errors of the server, and so are the enhanced codes X.3.X (RFC 3463: mail system status).
    With 4.7.X they are policy: greylisting, limits. Postfix says that also of a milter that does not answer, but
    with a text of its own. A message that is too large has X.3.4, and is refused by policy; postscreen(8) says
    450 4.3.2 to a client whom it has not seen before.
    """
    code, _, rest = reply.partition(" ")
    enhanced = rest.split(" ", 1)[0].split(".")
    if len(enhanced) == 3 and enhanced[0] in "45" and enhanced[1] == "3":
        return enhanced[2] != "4" and (code, enhanced[2]) != ("450", "2")
    return code in ("421", "451") and (enhanced[:2] != ["4", "7"] or "Service unavailable" in rest)


# What a server says that turns a client away by a rule, wherever it is in the conversation.
REFUSALS = ("client certificate", "Must issue a STARTTLS", "too many", "too much", "Access denied")


def turned_away(step: str, reply: str) -> bool:
    """
    Tell whether a reply before MAIL ends the conversation by a rule for clients: limits, lists, certificates.

    RFC 5321, 3.1, and RFC 7504: not even a greeting for some clients is a policy too.
    """
    code, _, rest = reply.partition(" ")
    if "Service unavailable" in rest or "not accepting connections" in rest:
        # Postfix says that where a milter does not answer; the other one before EHLO.
        return False
    if not code.isdigit() or code[0] not in "45" or step.startswith("AUTH PLAIN of"):
        return code in ("421", "450", "454") and "too many" in rest
    if any(words in rest for words in REFUSALS):
        return True
    return step in ("banner", "EHLO", "EHLO after STARTTLS") and (
        code in ("521", "550", "554") or (code in ("421", "450", "504") and not fault_of(reply))
    )


# -- TLS ---------------------------------------------------------------------------------------


def certificates(path: str) -> list[str]:
    """
    Return the fingerprints (SHA-256) of the server's own certificates in a PEM file.

    They are the first, and each one after a key; the others are the chain. Raises ``CommandExecutionError``.
    """
    data = _mta_system.read_bytes(path)
    if data is None:
        raise CommandExecutionError(f"Cannot read {path}: {os.strerror(errno.ENOENT)}")
    own, expected = [], True
    for part in data.decode("ascii", "replace").split("-----BEGIN ")[1:]:
        kind, _, rest = part.partition("-----")
        block, end, _ = rest.partition("-----END")
        if end and kind == "CERTIFICATE":
            own += [block] * expected
            expected = False
        elif end and kind.endswith("PRIVATE KEY"):
            expected = True
    try:
        return [hashlib.sha256(base64.b64decode(block)).hexdigest() for block in own]
    except ValueError:
        raise CommandExecutionError(f"{path} is not a PEM file") from None


def tls_context(ca_file: str | None, hostname: str | None, offer: Offer | None = None) -> ssl.SSLContext:
    """
    Return a client's context. It verifies only against ``ca_file``: loading the system's store costs 20 ms.

    offer
        ``aRSA`` or ``aECDSA`` among its ciphers is for one kind of certificate. Ciphers are a matter of versions
        up to TLS 1.2.

    Raises ``CommandExecutionError``, and ``ssl.SSLError`` for an offer that this host's OpenSSL does not have.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if offer:
        lowest, highest, ciphers = offer
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version, context.maximum_version = lowest, highest
        context.set_ciphers(ciphers)
    context.check_hostname = bool(ca_file and hostname)
    if ca_file:
        try:
            context.load_verify_locations(ca_file)
        except (OSError, ssl.SSLError) as err:
            raise CommandExecutionError(f"Cannot read {ca_file}: {err.strerror or err}") from None
    else:
        context.verify_mode = ssl.CERT_NONE
    return context


# -- the conversation --------------------------------------------------------------------------


def hold(target: Target, request: Request = GREETING) -> Conversation:
    """Hold one conversation, patiently; return what was found. See ``mta_probe.converse``."""
    found = _nothing(target)
    try:
        _try_until_it_answers(found, target, request)
    except _BrokenOff as broken:
        found["timed_out"] = broken.step if broken.timed_out else None
        _complain(found, broken.step, broken.reply)
    except CommandExecutionError as err:
        _complain(found, "TLS", str(err))
    except ssl.SSLCertVerificationError as err:
        # Who is served is still worth knowing: talk again, without verifying.
        again = hold(target._replace(ca_file=None), request)
        again["transcript"][:0] = [
            *found["transcript"],
            "-- TLS refused by this client; again, without verification",
        ]
        if again["tls"]:
            again["tls"]["error"] = err.verify_message
        _complain(again, "TLS", f"certificate not verified by {target.ca_file}: {err.verify_message}")
        return again
    return found


def _try_until_it_answers(found: Conversation, target: Target, request: Request) -> None:
    first_drop = None
    while True:
        now = time.monotonic()
        deadline = min(target.deadline, now + target.timeout)
        until = min(deadline, first_drop + DROP_PATIENCE) if first_drop else deadline
        try:
            with contextlib.closing(_Line(target, until, found["transcript"])) as line:
                found["connected"] = True
                _Talk(line, found, target).hold(request, deadline)
                return
        except _NotYet as broken:
            now, until = time.monotonic(), target.patient_until
            if broken.step != "connect":
                first_drop = first_drop or now
                until = min(until, first_drop + DROP_PATIENCE)
            if now + PAUSE >= min(until, target.deadline):
                raise
        time.sleep(PAUSE)


class _Talk:
    """The conversation itself, from banner to QUIT; what is found goes into ``found``."""

    def __init__(self, line: _Line, found: Conversation, target: Target) -> None:
        self.line = line
        self.found = found
        self.target = target
        # Whether the last command got an error that is no fault, as a user whom nobody knows does.
        self.erred = False
        # Seconds for which the server may let this client wait beyond the deadline, from its first error on.
        self.grace: float | None = None
        self.helo = target.helo if target.helo and "." in target.helo else line.own_literal()

    def hold(self, request: Request, deadline: float) -> None:
        target, found = self.target, self.found
        if target.wrappermode:
            self._begin_tls("TLS")
        banner = self.line.reply("banner")
        found["banner"] = reply_text(banner)
        self.line.deadline = deadline
        if not self._expect("banner", banner, "220"):
            return
        if not self._greet("EHLO", found["ehlo_tls" if target.wrappermode else "ehlo"]):
            return
        if target.starttls and "STARTTLS" in found["ehlo"][1:]:
            if not self._expect("STARTTLS", self.line.command("STARTTLS"), "220"):
                return
            self._begin_tls("STARTTLS")
            if not self._greet("EHLO after STARTTLS", found["ehlo_tls"]):
                return
        if request.login:
            self._log_in(request.login, request.mechanism)
        try:
            for envelope in request.envelopes:
                self._try_envelope(envelope)
            if request.challenge and not request.login and self._offers(r"(?i)AUTH[ =].*\bPLAIN\b"):
                self._log_in_as_nobody()
            if request.last:
                self._try_envelope(request.last)
        except _BrokenOff as broken:
            # smtpd_hard_error_limit: it was told what it was asked for.
            if broken.timed_out or not self.erred:
                raise
            return
        with contextlib.suppress(_BrokenOff):
            self.line.command("QUIT")

    def _command(self, text: str, step: str | None = None, shown: str | None = None) -> list[str]:
        return self._patiently(lambda: self.line.command(text, step, shown))

    def _patiently(self, ask: Callable[[], list[str]]) -> list[str]:
        """Ask; for how long a server lets clients with errors wait (smtpd_error_sleep_time) is no time lost."""
        began = time.monotonic()
        lines = ask()
        if self.grace is not None:
            waited = min(self.grace, time.monotonic() - began)
            self.grace -= waited
            self.line.deadline += waited
        elif lines[0][:1] in ("4", "5"):
            self.grace = ERROR_PATIENCE
        return lines

    def _expect(self, step: str, lines: Sequence[str], code: str) -> bool:
        if lines[0][:3] == code:
            return True
        _complain(self.found, step, reply_text(lines))
        return False

    def _greet(self, step: str, offers: list[str]) -> bool:
        lines = self.line.command(f"EHLO {self.helo}", step)
        if not self._expect(step, lines, "250"):
            return False
        offers[:] = [line[4:] for line in lines]
        return True

    def _begin_tls(self, step: str) -> None:
        target = self.target
        context = tls_context(target.ca_file, target.hostname, target.offer)
        secured = self.line.secure(context, target.hostname, step)
        # An anonymous cipher comes without a certificate.
        fingerprint = hashlib.sha256(secured.getpeercert(binary_form=True) or b"").hexdigest()
        version, cipher = secured.version(), (secured.cipher() or ("none",))[0]
        self.found["tls"] = {
            "version": version,
            "cipher": cipher,
            "fingerprint": fingerprint,
            "verified": bool(target.ca_file),
            "error": None,
        }
        verified = f"verified by {target.ca_file}" if target.ca_file else "not verified"
        self.found["transcript"].append(f"-- {version}, {cipher}, certificate {fingerprint[:16]}…, {verified}")
        if not target.certificates:
            return
        try:
            on_disk = [own for path in target.certificates for own in certificates(path)]
        except CommandExecutionError as err:
            _complain(self.found, step, str(err))
            return
        if fingerprint not in on_disk:
            where = ", ".join(target.certificates)
            _complain(self.found, step, f"the certificate served is not the one in {where}")

    def _log_in(self, login: Login, mechanism: str) -> None:
        """Authenticate; 235 is the only good answer (RFC 4954)."""
        step = f"AUTH {mechanism}"
        if mechanism == "PLAIN":
            lines = self.line.command(f"AUTH PLAIN {_plain(login)}", step, f"AUTH PLAIN {MASK}")
        else:
            lines = self.line.command("AUTH LOGIN", step)
            for secret in login:
                if lines[0][:3] == "334":
                    lines = self.line.command(base64.b64encode(secret.encode()).decode(), step, MASK)
        self._note_auth(mechanism, lines)
        self._expect(step if self.found["tls"] else f"{step} without TLS", lines, "235")

    def _log_in_as_nobody(self) -> None:
        """
        535 comes from the end of the chain (saslauthd, PAM); 454 says that it is broken.

        A name that begins with a hyphen is refused there as any unknown one, but at once: pam_unix(8) takes none
        for a user's, and has other unknown users wait for two seconds or so.
        """
        nobody = _plain(Login(f"-probe-{os.urandom(8).hex()}", os.urandom(16).hex()))
        lines = self._command(f"AUTH PLAIN {nobody}", "AUTH PLAIN", f"AUTH PLAIN {MASK}")
        self._note_auth("PLAIN", lines)
        # With soft_bounce it is 435.
        code = "435" if lines[0].startswith("435 4.7.8") else "535"
        self.erred = self._expect("AUTH PLAIN of an unknown user", lines, code) or self.erred

    def _offers(self, pattern: str) -> bool:
        """Whether a line of what is offered where the conversation is now, is like that."""
        lines = self.found["ehlo_tls"] if self.found["tls"] else self.found["ehlo"]
        return any(re.match(pattern, line) for line in lines[1:])

    def _note_auth(self, mechanism: str, lines: Sequence[str]) -> None:
        self.found["auth"] = {
            "mechanism": mechanism,
            "reply": reply_text(lines),
            "tls": bool(self.found["tls"]),
        }

    def _try_envelope(self, envelope: Envelope) -> None:
        """MAIL and RCPT, DATA where asked for, RSET. Policy refusals are recorded; faults are problems."""
        tried: Tried = {"sender": envelope.sender, "mail": None, "recipients": {}, "data": None}
        self.found["envelopes"].append(tried)
        step = f"MAIL FROM:<{envelope.sender}>"
        tried["mail"] = reply = self._unless_fault(step, self._command(step))
        if reply.startswith("250"):
            for recipient in envelope.recipients:
                step = f"RCPT TO:<{recipient}>"
                command = f"{step} NOTIFY=NEVER" if envelope.silent and self._offers(r"DSN\Z") else step
                tried["recipients"][recipient] = self._unless_fault(step, self._command(command, step))
            if envelope.message and any(reply.startswith("25") for reply in tried["recipients"].values()):
                lines = self._command("DATA")
                if lines[0].startswith("354"):
                    text = envelope.message
                    lines = self._patiently(lambda: self.line.message(text))
                tried["data"] = self._unless_fault("DATA", lines)
        if self._command("RSET")[0].startswith("25"):
            self.erred = False

    def _unless_fault(self, step: str, lines: Sequence[str]) -> str:
        reply = reply_text(lines)
        if fault_of(reply):
            _complain(self.found, step, reply)
        elif reply[:1] in ("4", "5"):
            self.erred = True
        return reply


def _plain(login: Login) -> str:
    return base64.b64encode(f"\0{login.username}\0{login.password}".encode()).decode()


# -- for doors ---------------------------------------------------------------------------------


def _address(value: object, what: str) -> str:
    """An address that can go into a command: no line break, no angle brackets."""
    if not isinstance(value, str) or not value.isprintable() or "<" in value or ">" in value:
        raise SaltInvocationError(f"{what} must be a mail address, not {value!r}")
    return value


def _target(host: str, port: int, timeout: float, patience: float = 0) -> Target:
    now = time.monotonic()
    return Target(
        host, int(port), now + timeout + patience, now + patience, timeout=timeout, helo=socket.gethostname()
    )


def converse(
    host: str = "127.0.0.1",
    port: int = 25,
    wrappermode: bool = False,
    starttls: bool = True,
    auth: str | None = None,
    login: Login | None = None,
    mechanism: str = "PLAIN",
    ca_file: str | None = None,
    certificate: str | None = None,
    hostname: str | None = None,
    sender: str = "",
    recipient: str | Sequence[str] | None = None,
    source: str | None = None,
    timeout: float = CONVERSATION_TIMEOUT,
    patience: float = 0,
) -> Conversation:
    """Hold one conversation. Parameters, result and errors as of ``mta_probe.converse``, but the login itself."""
    if auth not in (None, "challenge"):
        raise SaltInvocationError(f"auth must be 'challenge' or None, not {auth!r}")
    if mechanism not in ("PLAIN", "LOGIN"):
        raise SaltInvocationError(f"mechanism must be 'PLAIN' or 'LOGIN', not {mechanism!r}")
    envelopes = []
    if recipient:
        recipients = [recipient] if isinstance(recipient, str) else recipient
        recipients = [_address(value, "recipient") for value in recipients]
        envelopes = [Envelope(_address(sender, "sender"), recipients)]
    target = _target(host, port, timeout, patience)._replace(
        wrappermode=wrappermode,
        starttls=starttls,
        ca_file=ca_file,
        certificates=[certificate] if certificate else [],
        hostname=hostname,
        source=source,
    )
    return hold(target, Request(envelopes, auth == "challenge", login, mechanism))


class Delivery(TypedDict):
    """What became of a message; see ``mta_probe.deliver``."""

    accepted: bool
    message_id: str
    reply: str | None
    problems: list[str]
    transcript: list[str]


def deliver(
    recipient: str,
    sender: str = "",
    host: str = "127.0.0.1",
    port: int = 25,
    subject: str = "Probe",
    timeout: float = CONVERSATION_TIMEOUT,
) -> Delivery:
    """Hand a short message to the server. Parameters, result and errors as of ``mta_probe.deliver``."""
    if not isinstance(subject, str) or not subject.isprintable():
        raise SaltInvocationError(f"subject must be one line, not {subject!r}")
    # Not at the top: it takes longer to import than all else that an apply without changes does with SMTP.
    from email import message as mail
    from email import policy

    message = mail.EmailMessage(policy.SMTPUTF8)
    message["From"] = "<postmaster>"
    message["To"] = f"<{_address(recipient, 'recipient')}>"
    message["Subject"] = subject
    message["Date"] = email.utils.format_datetime(_mta_system.now())
    message["Message-ID"] = message_id = email.utils.make_msgid(domain=socket.gethostname())
    message.set_content("Sent by mta_probe.deliver.\n")
    envelope = Envelope(_address(sender, "sender"), [recipient], message.as_bytes())
    found = hold(_target(host, port, timeout), Request([envelope]))
    reply = found["problems"][0]["reply"] if found["problems"] else None
    accepted = False
    for tried in found["envelopes"]:
        reply = tried["data"] or tried["recipients"].get(recipient) or tried["mail"]
        accepted = (tried["data"] or "").startswith("250")
    return {
        "accepted": accepted,
        "message_id": message_id,
        "reply": reply,
        "problems": [problem["text"] for problem in found["problems"]],
        "transcript": found["transcript"],
    }
