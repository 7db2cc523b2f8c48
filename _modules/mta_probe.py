"""
Hold SMTP conversations with the live server and tell whether it answers as its configuration promises.

No conversation leaves mail behind, except :func:`deliver`, whose purpose it is. The sharpest question is a
message with more ``Received:`` headers than any ``hopcount_limit``: cleanup(8) looks up everything that it
looks up for real mail and then refuses the message, so that a fault shows as 451 where a healthy server says
554 5.4.0.

Passwords and what AUTH sends are shown as ``****``.
"""

import base64
import concurrent.futures
import contextlib
import datetime
import errno
import grp
import hashlib
import os
import re
import socket
import ssl
import stat
import struct
import time
import warnings

from salt.exceptions import CommandExecutionError, SaltInvocationError

CONVERSATION_TIMEOUT = 10
# A server that restarts drops a connection once; one that drops them for longer is broken (master(8)
# throttles).
DROP_PATIENCE = 3
PAUSE = 0.1

MAX_LINE = 4096
MAX_LINES = 200
MASK = "****"
OPEN_RELAY = "an open relay"
# Of a server's private key; Debian's group ssl-cert may read one.
KEY_BITS = 0o077
PEM_BLOCK = r"(?s)-----BEGIN (CERTIFICATE|[A-Z ]*PRIVATE KEY)-----(.*?)-----END"
DROPPED = "connection closed by the server"

# TEST-NET-1 (RFC 5737) and the documentation prefix (RFC 3849): nobody's addresses, in nobody's mynetworks.
STRANGERS = {socket.AF_INET: "192.0.2.25", socket.AF_INET6: "2001:db8::25"}
RTM_NEWROUTE, RTM_DELROUTE = 24, 25
NLM_F_REQUEST, NLM_F_ACK, NLM_F_CREATE = 0x1, 0x4, 0x400
RT_TABLE_LOCAL, RTPROT_BOOT, RT_SCOPE_HOST, RTN_LOCAL = 255, 3, 254, 2
RTA_DST, RTA_OIF = 1, 4
IP_FREEBIND, IPV6_FREEBIND = 15, 78

TLS_1_2 = ssl.TLSVersion.TLSv1_2
# What no client should be given, by the names that mta_audit has for it: versions, and ciphers of ciphers(1).
WEAK_OFFERS = {
    "TLS 1.0": (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1, "ALL:@SECLEVEL=0"),
    "TLS 1.1": (ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_1, "ALL:@SECLEVEL=0"),
    "anonymous ciphers": (TLS_1_2, TLS_1_2, "aNULL:!eNULL:@SECLEVEL=0"),
    "weak ciphers": (TLS_1_2, TLS_1_2, "eNULL:LOW:EXPORT:3DES:RC4:SEED:IDEA:!aNULL:@SECLEVEL=0"),
    "no forward secrecy": (TLS_1_2, TLS_1_2, "kRSA:!aNULL:!eNULL"),
}

HOPS = b"Received: by a probe that asks to be refused\r\n" * 300 + b"\r\n"


class _BrokenOff(Exception):
    """The conversation cannot go on."""

    def __init__(self, step, reply, timed_out=False):
        super().__init__(reply)
        self.step = step
        self.reply = reply
        self.timed_out = timed_out


class _NotYet(_BrokenOff):
    """Nobody listens, or the connection was closed before the banner: a server that restarts does that."""


class _Line:
    """One connection: commands and replies, bounded by a deadline; the transcript holds no secrets."""

    def __init__(self, address, deadline, source=None):
        self.deadline = deadline
        self.transcript = []
        self.buffer = b""
        self.sock = None
        host, port = address
        family = _family(host)
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            self.sock.settimeout(self._left("connect"))
            if source:
                if family == socket.AF_INET6:
                    self.sock.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
                else:
                    self.sock.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
                self.sock.bind((source, 0))
            self.sock.connect((host, port))
        except ConnectionRefusedError:
            self.close()
            raise _NotYet("connect", "connection refused") from None
        except socket.timeout:
            self.close()
            raise _BrokenOff("connect", "no answer in time", timed_out=True) from None
        except OSError as err:
            self.close()
            raise _BrokenOff("connect", err.strerror or str(err)) from None

    def _left(self, step):
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise _BrokenOff(step, "no answer in time", timed_out=True)
        return left

    def close(self):
        with contextlib.suppress(OSError):
            self.sock.close()

    def _read_line(self, step):
        while b"\n" not in self.buffer:
            if len(self.buffer) > MAX_LINE:
                raise _BrokenOff(step, f"garbled: {_printable(self.buffer[:60])}")
            self.sock.settimeout(self._left(step))
            try:
                data = self.sock.recv(4096)
            except socket.timeout:
                raise _BrokenOff(step, "no answer in time", timed_out=True) from None
            except OSError as err:
                raise self._dropped(step, err.strerror or str(err)) from None
            if not data:
                raise self._dropped(step, DROPPED)
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return _printable(line.rstrip(b"\r"))

    def _dropped(self, step, text):
        early = step == "banner" and not self.buffer and not self.transcript
        return (_NotYet if early else _BrokenOff)(step, text)

    def reply(self, step):
        """The lines of the server's next reply (RFC 5321, 4.2.1)."""
        lines = []
        while True:
            line = self._read_line(step)
            self.transcript.append(f"S: {line}")
            if not line[:3].isdigit() or line[3:4] not in ("", " ", "-") or len(lines) == MAX_LINES:
                raise _BrokenOff(step, f"garbled: {line[:60]}")
            lines.append(line)
            if line[3:4] != "-":
                return lines

    def command(self, text, step=None, shown=None):
        """Send one command; return the lines of the reply. ``shown`` replaces the text in the transcript."""
        step = step or text
        self.transcript.append(f"C: {shown or text}")
        self._send(text.encode() + b"\r\n", step)
        return self.reply(step)

    def _send(self, data, step):
        self.sock.settimeout(self._left(step))
        try:
            self.sock.sendall(data)
        except socket.timeout:
            raise _BrokenOff(step, "no answer in time", timed_out=True) from None
        except OSError:
            # The server may have said why before it closed the connection: the reply tells.
            return

    def message(self, data):
        """Send the text of a message after 354; return the lines of the reply."""
        self.transcript.append(f"C: (a message of {len(data)} bytes)")
        self._send(data + b".\r\n", "end of DATA")
        return self.reply("end of DATA")

    def secure(self, context, hostname, step):
        """Begin TLS on the connection."""
        if self.buffer:
            raise _BrokenOff(step, "the server spoke in clear after STARTTLS")
        self.sock.settimeout(self._left(step))
        try:
            self.sock = context.wrap_socket(self.sock, server_hostname=hostname)
        except ssl.SSLCertVerificationError:
            raise
        except socket.timeout:
            raise _BrokenOff(step, "no answer in time", timed_out=True) from None
        except (ssl.SSLEOFError, ConnectionResetError):
            raise (_NotYet if step == "TLS" else _BrokenOff)(step, DROPPED) from None
        except OSError as err:
            reason = getattr(err, "reason", None) or err.strerror or err
            raise _BrokenOff(step, f"TLS failed: {reason}") from None


def _family(host):
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _printable(data):
    return "".join(char if char.isprintable() else "?" for char in data.decode("ascii", "backslashreplace"))


def _text(lines):
    """A reply as one line: the code once, the texts after each other."""
    return " ".join([lines[0][:3], *[line[4:] for line in lines]]).strip()


def _fault(reply):
    """
    Tell whether a reply to MAIL, RCPT or DATA means that the server is broken, not that it refuses by policy.

    421 and 451 are errors of the server, and so are the enhanced codes X.3.X (RFC 3463: mail system status).
    A 451 with 4.7.X is greylisting, except for the text with which Postfix speaks of a milter that does not
    answer.
    """
    code, _, rest = reply.partition(" ")
    enhanced = rest.split(" ", 1)[0].split(".")
    if code == "421" or (len(enhanced) == 3 and enhanced[0] in "45" and enhanced[1] == "3"):
        return True
    return code == "451" and (enhanced[:2] != ["4", "7"] or "Service unavailable" in rest)


def _certificates(path):
    """
    SHA-256 fingerprints of the server's own certificates in a PEM file: the first, and each one after a key.

    The others are those of the chain, which no server shows as its own.
    """
    try:
        with open(path, encoding="ascii", errors="replace") as handle:
            text = handle.read()
    except OSError as err:
        raise CommandExecutionError(f"Cannot read {path}: {err.strerror}") from None
    own, expected = [], True
    for kind, block in re.findall(PEM_BLOCK, text):
        if kind == "CERTIFICATE" and expected:
            own.append(block)
        expected = kind != "CERTIFICATE"
    try:
        return [hashlib.sha256(base64.b64decode(block)).hexdigest() for block in own]
    except ValueError:
        raise CommandExecutionError(f"{path} is not a PEM file") from None


def _tls_context(ca_file, hostname, offer=None):
    """
    A client's context. It verifies only against ``ca_file``: loading the system's store costs 20 ms.

    ``offer``: the lowest and the highest version of TLS that the client takes, and its ciphers in the words of
    ciphers(1): ``aRSA`` or ``aECDSA`` for one kind of certificate. Ciphers are a matter of versions up to TLS 1.2.
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


def _converse(target, envelopes=(), auth=None, login=None, mechanism="PLAIN", source=None, helo="localhost"):
    """
    Hold one conversation; see :func:`converse`. ``target`` says where and when:

    ``address``, ``wrappermode``, ``starttls``, ``ca_file``, ``certificates`` (paths), ``hostname``, ``timeout``
    (seconds, from the connection that succeeds), ``deadline`` and ``patient_until`` (both
    ``time.monotonic()``), ``offer`` (see :func:`_tls_context`).
    """
    found = {
        "host": target["address"][0],
        "port": target["address"][1],
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
    first_drop = None
    while True:
        line = None
        try:
            deadline = min(target["deadline"], time.monotonic() + target["timeout"])
            until = first_drop + DROP_PATIENCE if first_drop else deadline
            line = _Line(target["address"], min(until, deadline), source)
            found["connected"] = True
            line.transcript = found["transcript"]
            _talk(line, deadline, found, target, envelopes, auth, login, mechanism, helo)
        except _NotYet as broken:
            now = time.monotonic()
            until = target["patient_until"]
            if broken.step != "connect":
                first_drop = first_drop or now
                until = min(until, first_drop + DROP_PATIENCE)
            if now + PAUSE < min(until, target["deadline"]):
                time.sleep(PAUSE)
                continue
            _complain(found, broken.step, broken.reply)
        except _BrokenOff as broken:
            found["timed_out"] = broken.step if broken.timed_out else None
            _complain(found, broken.step, broken.reply)
        except CommandExecutionError as err:
            _complain(found, "TLS", str(err))
        except ssl.SSLCertVerificationError as err:
            # Who is served is still worth knowing: talk again, without verifying.
            seen = found["transcript"]
            found = _converse(
                {**target, "ca_file": None}, envelopes, auth, login, mechanism, source=source, helo=helo
            )
            found["transcript"] = [
                *seen,
                "-- TLS refused by this client; again, without verification",
                *found["transcript"],
            ]
            if found["tls"]:
                found["tls"]["error"] = err.verify_message
            _complain(found, "TLS", f"certificate not verified by {target['ca_file']}: {err.verify_message}")
        finally:
            if line:
                line.close()
        return found


def _complain(found, step, reply):
    found["problems"].append({"step": step, "reply": reply, "text": f"{step}: {reply}"})


def _expect(found, step, lines, codes):
    if lines[0][:3] in codes:
        return True
    _complain(found, step, _text(lines))
    return False


def _talk(line, deadline, found, target, envelopes, auth, login, mechanism, helo):
    """The conversation itself, from banner to QUIT."""
    if target["wrappermode"]:
        _begin_tls(line, found, target, "TLS")
    banner = line.reply("banner")
    found["banner"] = banner[0]
    line.deadline = deadline
    if not _expect(found, "banner", banner, ("220",)):
        return
    ehlo = line.command(f"EHLO {helo}", "EHLO")
    if not _expect(found, "EHLO", ehlo, ("250",)):
        return
    found["ehlo_tls" if target["wrappermode"] else "ehlo"] = [text[4:] for text in ehlo]
    if target["starttls"] and "STARTTLS" in found["ehlo"][1:]:
        if not _expect(found, "STARTTLS", line.command("STARTTLS"), ("220",)):
            return
        _begin_tls(line, found, target, "STARTTLS")
        ehlo = line.command(f"EHLO {helo}", "EHLO after STARTTLS")
        if not _expect(found, "EHLO after STARTTLS", ehlo, ("250",)):
            return
        found["ehlo_tls"] = [text[4:] for text in ehlo]
    if login:
        _log_in(line, found, login, mechanism)
    elif auth == "challenge":
        _challenge(line, found)
    for envelope in envelopes:
        _try_envelope(line, found, envelope)
    with contextlib.suppress(_BrokenOff):
        line.command("QUIT")


def _begin_tls(line, found, target, step):
    context = _tls_context(target["ca_file"], target["hostname"], target.get("offer"))
    line.secure(context, target["hostname"], step)
    # An anonymous cipher comes without a certificate.
    fingerprint = hashlib.sha256(line.sock.getpeercert(binary_form=True) or b"").hexdigest()
    found["tls"] = {
        "version": line.sock.version(),
        "cipher": line.sock.cipher()[0],
        "fingerprint": fingerprint,
        "verified": bool(target["ca_file"]),
        "error": None,
    }
    verified = f"verified by {target['ca_file']}" if target["ca_file"] else "not verified"
    found["transcript"].append(
        f"-- {found['tls']['version']}, {found['tls']['cipher']}, certificate {fingerprint[:16]}…, {verified}"
    )
    if target["certificates"]:
        try:
            on_disk = [own for path in target["certificates"] for own in _certificates(path)]
        except CommandExecutionError as err:
            _complain(found, step, str(err))
            return
        if fingerprint not in on_disk:
            where = ", ".join(target["certificates"])
            _complain(found, step, f"the certificate served is not the one in {where}")


def _log_in(line, found, login, mechanism):
    """Authenticate; 235 is the only good answer (RFC 4954)."""
    step = f"AUTH {mechanism}"
    if mechanism == "PLAIN":
        lines = line.command(f"AUTH PLAIN {_plain(*login)}", step, f"AUTH PLAIN {MASK}")
    else:
        lines = line.command("AUTH LOGIN", step)
        for secret in login:
            if lines[0][:3] == "334":
                lines = line.command(base64.b64encode(secret.encode()).decode(), step, MASK)
    found["auth"] = {"mechanism": mechanism, "reply": _text(lines), "tls": bool(found["tls"])}
    _expect(found, step if found["tls"] else f"{step} without TLS", lines, ("235",))


def _plain(username, password):
    return base64.b64encode(f"\0{username}\0{password}".encode()).decode()


def _challenge(line, found):
    """
    Try to log in as nobody. 535 comes from the end of the chain (saslauthd, PAM); 454 says that it is broken.
    """
    nobody = _plain(f"probe-{os.urandom(8).hex()}", os.urandom(16).hex())
    lines = line.command(f"AUTH PLAIN {nobody}", "AUTH PLAIN", f"AUTH PLAIN {MASK}")
    found["auth"] = {"mechanism": "PLAIN", "reply": _text(lines), "tls": bool(found["tls"])}
    _expect(found, "AUTH PLAIN of an unknown user", lines, ("535",))


def _try_envelope(line, found, envelope):
    """MAIL and RCPT, DATA where asked for, RSET. Policy refusals are recorded; faults are problems."""
    tried = {"sender": envelope["sender"], "mail": None, "recipients": {}, "data": None}
    found["envelopes"].append(tried)
    step = f"MAIL FROM:<{envelope['sender']}>"
    tried["mail"] = _text(line.command(step))
    if _fault(tried["mail"]):
        _complain(found, step, tried["mail"])
    if tried["mail"].startswith("250"):
        for recipient in envelope["recipients"]:
            step = f"RCPT TO:<{recipient}>"
            tried["recipients"][recipient] = reply = _text(line.command(step))
            if _fault(reply):
                _complain(found, step, reply)
        message = envelope.get("message")
        if message and any(reply.startswith("25") for reply in tried["recipients"].values()):
            lines = line.command("DATA")
            if lines[0].startswith("354"):
                lines = line.message(message)
            tried["data"] = _text(lines)
            if _fault(tried["data"]):
                _complain(found, "DATA", tried["data"])
    line.command("RSET")


def _address(value, what):
    """An address that can go into a command: no line break, no angle brackets."""
    if not isinstance(value, str) or not value.isprintable() or "<" in value or ">" in value:
        raise SaltInvocationError(f"{what} must be a mail address, not {value!r}")
    return value


def converse(
    host="127.0.0.1",
    port=25,
    wrappermode=False,
    starttls=True,
    auth=None,
    login=None,
    mechanism="PLAIN",
    ca_file=None,
    certificate=None,
    hostname=None,
    sender="",
    recipient=None,
    source=None,
    timeout=CONVERSATION_TIMEOUT,
    patience=0,
):
    """
    Hold one SMTP conversation: banner, EHLO, STARTTLS when offered, EHLO again, what is asked for, QUIT.

    host, port
        Where the server listens. Default ``127.0.0.1``, 25.

    wrappermode
        The server begins with TLS (RFC 8314), as on port 465. Default ``False``.

    starttls
        Use STARTTLS when it is offered. Default ``True``.

    auth
        ``challenge``: AUTH PLAIN as a user that does not exist, which has to give 535. It costs the delay
        that PAM adds to a failure, 2 to 3 s. Default ``None``: no AUTH.

    login
        ``(username, password)`` to log in with; :func:`check` takes a pillar path instead. Default ``None``.

    mechanism
        ``PLAIN`` or ``LOGIN``, for ``login``. Default ``PLAIN``.

    ca_file
        CA certificates (PEM) that the chain has to verify against. Default ``None``: not verified.

    certificate
        PEM file in which the certificate served has to be. Default ``None``.

    hostname
        The name that the certificate has to be for. Default ``None``: any.

    sender, recipient
        With a recipient (address, or list of them), MAIL, RCPT and RSET are tried too. Default: the null
        sender, no recipient.

    source
        Local address to speak from. Default: the system's choice.

    timeout
        Seconds after which the conversation is broken off. Default 10.

    patience
        Seconds for which a server that refuses the connection, or closes it before the banner, is tried
        again. Default 0.

    Returns a dictionary: ``host``, ``port``, ``connected``, ``timed_out`` (step), ``banner``, ``ehlo``,
    ``ehlo_tls`` (lists of lines), ``tls`` (``version``, ``cipher``, ``fingerprint``: SHA-256 in hex,
    ``verified``, ``error``; ``None`` without TLS), ``auth``, ``envelopes``, ``problems`` (list of ``step``,
    ``reply``, ``text``) and ``transcript`` (list of lines, without secrets).

    Raises ``SaltInvocationError`` for a bad argument. Sources: RFC 5321, RFC 3207, RFC 4954.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_probe.converse 127.0.0.1 587 recipient=postmaster@mail.example.com
    """
    if auth not in (None, "challenge"):
        raise SaltInvocationError(f"auth must be 'challenge' or None, not {auth!r}")
    if mechanism not in ("PLAIN", "LOGIN"):
        raise SaltInvocationError(f"mechanism must be 'PLAIN' or 'LOGIN', not {mechanism!r}")
    envelopes = []
    if recipient:
        recipients = [recipient] if isinstance(recipient, str) else recipient
        recipients = [_address(value, "recipient") for value in recipients]
        envelopes = [{"sender": _address(sender, "sender"), "recipients": recipients}]
    now = time.monotonic()
    target = {
        "address": (host, int(port)),
        "wrappermode": wrappermode,
        "starttls": starttls,
        "ca_file": ca_file,
        "certificates": [certificate] if certificate else [],
        "hostname": hostname,
        "timeout": timeout,
        "deadline": now + timeout + patience,
        "patient_until": now + patience,
    }
    return _converse(target, envelopes, auth, login and tuple(login), mechanism, source)


def deliver(recipient, sender="", host="127.0.0.1", port=25, subject="Probe", timeout=CONVERSATION_TIMEOUT):
    """
    Hand a short message to the server, for a real delivery.

    recipient
        Mail address.

    sender
        Mail address. Default: the null sender, so that nothing bounces.

    host, port
        Where the server listens. Default ``127.0.0.1``, 25.

    subject
        Subject of the message. Default ``Probe``.

    timeout
        Seconds. Default 10.

    Returns a dictionary: ``accepted``, ``message_id``, ``reply`` (the last one), ``problems``,
    ``transcript``. Raises ``SaltInvocationError`` for a bad address or subject.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_probe.deliver postmaster@mail.example.com
    """
    if not isinstance(subject, str) or not subject.isprintable():
        raise SaltInvocationError(f"subject must be one line, not {subject!r}")
    message_id = f"<{os.urandom(12).hex()}@{socket.gethostname()}>"
    date = time.strftime("%a, %d %b %Y %H:%M:%S +0000", time.gmtime())
    message = (
        f"From: <postmaster>\r\nTo: <{_address(recipient, 'recipient')}>\r\nSubject: {subject}\r\n"
        f"Date: {date}\r\nMessage-ID: {message_id}\r\n\r\nSent by mta_probe.deliver.\r\n"
    )
    now = time.monotonic()
    target = {
        "address": (host, int(port)),
        "wrappermode": False,
        "starttls": True,
        "ca_file": None,
        "certificates": [],
        "hostname": None,
        "timeout": timeout,
        "deadline": now + timeout,
        "patient_until": now,
    }
    envelope = {
        "sender": _address(sender, "sender"),
        "recipients": [recipient],
        "message": message.encode(),
    }
    found = _converse(target, [envelope])
    reply = None
    for tried in found["envelopes"]:
        reply = tried["data"] or tried["recipients"].get(recipient) or tried["mail"]
    accepted = bool(found["envelopes"] and str(found["envelopes"][0]["data"]).startswith("250"))
    if reply is None and found["problems"]:
        reply = found["problems"][0]["reply"]
    return {
        "accepted": accepted,
        "message_id": message_id,
        "reply": reply,
        "problems": [problem["text"] for problem in found["problems"]],
        "transcript": found["transcript"],
    }


# -- a stranger: a client that is in nobody's mynetworks -----------------------------------------


def _local_route(add, address):
    """
    Add or delete ``ip route … local ADDRESS dev lo``; return the errno (rtnetlink(7)).

    It makes the address usable on this host without giving it to an interface, so that
    ``mynetworks_style = host`` does not trust it.
    """
    family = _family(address)
    packed = socket.inet_pton(family, address)
    route = struct.pack(
        "=BBBBBBBBI", family, len(packed) * 8, 0, 0, RT_TABLE_LOCAL, RTPROT_BOOT, RT_SCOPE_HOST, RTN_LOCAL, 0
    )
    route += struct.pack("=HH", 4 + len(packed), RTA_DST) + packed
    route += struct.pack("=HHi", 8, RTA_OIF, socket.if_nametoindex("lo"))
    kind = RTM_NEWROUTE if add else RTM_DELROUTE
    flags = NLM_F_REQUEST | NLM_F_ACK | (NLM_F_CREATE if add else 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.settimeout(2)
        netlink.send(struct.pack("=IHHII", 16 + len(route), kind, flags, 1, 0) + route)
        return -struct.unpack_from("=i", netlink.recv(4096), 16)[0]


def _own_address(family):
    """The address from which this host speaks to others; ``None`` without one. Nothing is sent."""
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((STRANGERS[family], 25))
        except OSError:
            return None
        address = sock.getsockname()[0]
    return None if address == "::1" or address.startswith("127.") else address


@contextlib.contextmanager
def _stranger(family):
    """The address of a stranger, usable meanwhile. Raises ``OSError`` where it cannot be had."""
    address = STRANGERS[family]
    code = _local_route(True, address)
    if code not in (0, errno.EEXIST):
        raise OSError(code, os.strerror(code))
    try:
        yield address
    finally:
        _local_route(False, address)


# -- the whole check -----------------------------------------------------------------------------


def _label(listener, role=""):
    host = f"[{listener['host']}]" if ":" in listener["host"] else listener["host"]
    return f"{host}:{listener['port']}{role}"


def _target(listener, want):
    return {
        "address": (listener["host"], listener["port"]),
        "wrappermode": listener["wrappermode"],
        "starttls": listener["starttls"],
        "ca_file": want["ca_file"],
        "certificates": listener.get("certificates") or [],
        "hostname": want["hostnames"][listener["host"], listener["port"]],
        "timeout": CONVERSATION_TIMEOUT,
        "deadline": want["deadline"],
        "patient_until": want["patient_until"],
    }


def _mechanisms(ehlo):
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
        if bool(_mechanisms(found["ehlo"])) != expected:
            yield f"EHLO: AUTH is {'not ' if expected else ''}offered without TLS"
    if secured and found["ehlo_tls"] and bool(_mechanisms(found["ehlo_tls"])) != listener["auth"]:
        yield f"EHLO: AUTH is {'not ' if listener['auth'] else ''}offered under TLS"


def _logins(listener, found):
    """The ways to log in that the server offers: (STARTTLS or not, mechanism)."""
    ways = []
    for secured, ehlo in ((False, found["ehlo"]), (True, found["ehlo_tls"])):
        offered = _mechanisms(ehlo)
        ways += [(secured, mechanism) for mechanism in ("PLAIN", "LOGIN") if mechanism in offered]
    return ways


def _recipients(hostname):
    """A recipient that every server has, one that none has, and one that is elsewhere."""
    domain = f"@{hostname}" if hostname else ""
    elsewhere = "example.org" if (hostname or "").endswith("example.net") else "example.net"
    return f"postmaster{domain}", f"probe-{os.urandom(6).hex()}{domain}", f"postmaster@{elsewhere}"


def _examine(listener, want):
    """Talk to one listener; return (conversations, problems)."""
    target = _target(listener, want)
    hostname = target["hostname"]
    envelopes = []
    if want["envelope"]:
        postmaster, unknown, _ = _recipients(hostname)
        envelopes = [
            {"sender": "", "recipients": [postmaster, unknown]},
            {"sender": postmaster, "recipients": [postmaster], "message": HOPS},
        ]
    challenge = "challenge" if want["auth"] == "challenge" and listener["auth"] and not want["login"] else None
    found = _converse(target, envelopes, challenge)
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
            if reply and not reply.startswith("25") and not _fault(reply):
                problems.append(f"{step}: {reply}")
    if want["login"] and listener["auth"] and not problems:
        ways = _logins(listener, found)
        if not ways:
            problems.append("AUTH: neither PLAIN nor LOGIN is offered")
        for secured, mechanism in ways:
            way = {**_target(listener, want), "starttls": secured}
            talk = _converse(way, login=want["login"], mechanism=mechanism)
            conversations.append(talk)
            problems += [problem["text"] for problem in talk["problems"]]
    label = _label(listener)
    return conversations, [f"{label} {problem}" for problem in problems]


def _examine_certificates(target, found):
    """
    See that each of several certificates is served; return (conversations, problems).

    Which one a client gets depends on the signatures that it takes: one that takes only RSA is a conversation of
    its own, and one that takes only ECDSA (or Ed25519, RFC 8422) is another. A server that insists on TLS 1.3
    cannot be asked like that.
    """
    on_disk = {own: path for path in target["certificates"] for own in _certificates(path)}
    conversations, served = [], {found["tls"]["fingerprint"]}
    for authentication in ("aRSA", "aECDSA") if len(on_disk) > 1 else ():
        talk = _converse({**target, "offer": (TLS_1_2, TLS_1_2, authentication)})
        reasons = " ".join(problem["reply"] for problem in talk["problems"]).upper()
        if "PROTOCOL" in reasons and not talk["tls"]:
            return [*conversations, talk], []
        conversations.append(talk)
        served |= {talk["tls"]["fingerprint"]} if talk["tls"] else set()
    missing = [path for own, path in on_disk.items() if own not in served]
    return conversations, [f"TLS: the certificate in {path} is served to nobody" for path in missing]


def _examine_as_stranger(listener, want):
    """
    Talk to one listener as a client outside mynetworks; return (conversations, problems, notes).

    This host's own address is tried first: where mynetworks is just the loopback it is a stranger, with a
    name that is looked up quickly. Where the server relays for it, the answer to somebody else's address
    decides.
    """
    label = _label(listener, " as a stranger")
    conversations, family = [], _family(listener["host"])
    own = _own_address(family)
    relays = None
    if own:
        found, problems, relays = _speak_as(own, listener, want)
        conversations.append(found)
    if not own or relays:
        try:
            with _stranger(family) as source:
                found, problems, relays = _speak_as(source, listener, want)
        except OSError as err:
            return conversations, [], [f"{label}: not tried, {err.strerror or err}"]
        conversations.append(found)
        if relays:
            problems.append(f"{relays} ({OPEN_RELAY})")
    if found["timed_out"] == "banner":
        # Is it the lookup of the stranger's name that takes so long, or has the server died meanwhile?
        control = _converse(_target(listener, want))
        conversations.append(control)
        if not control["problems"]:
            return conversations, [], [f"{label}: no banner in time; a slow reverse lookup can do that"]
    return conversations, [f"{label} {problem}" for problem in problems], []


def _speak_as(source, listener, want):
    """Try an envelope from an address; return (conversation, problems, what it said when it would relay)."""
    target = _target(listener, want)
    # smtpd(8) looks up the name of a stranger before it says a word: as long as there is time left.
    left = want["deadline"] - time.monotonic() - CONVERSATION_TIMEOUT
    target["timeout"] = max(CONVERSATION_TIMEOUT, left)
    recipients = _recipients(target["hostname"])
    helo = f"[IPv6:{source}]" if ":" in source else f"[{source}]"
    found = _converse(target, [{"sender": "", "recipients": recipients}], source=source, helo=helo)
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


def stale(certificates=None, timeout=CONVERSATION_TIMEOUT):
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

    CLI Example:

    .. code-block:: bash

        salt '*' mta_probe.stale
    """
    now = time.monotonic()
    want = {"ca_file": None, "deadline": now + timeout, "patient_until": now}
    asked, found, silent = False, [], True
    for listener in __salt__["postconf.listeners"]():
        paths = listener["certificates"]
        if not paths or not (listener["starttls"] or listener["wrappermode"]):
            continue
        if certificates is not None and not set(paths) & set(certificates):
            continue
        asked = True
        hostnames = {(listener["host"], listener["port"]): listener["hostname"]}
        target = {**_target(listener, {**want, "hostnames": hostnames}), "certificates": []}
        talk = _converse(target)
        if not talk["tls"]:
            continue
        silent = False
        try:
            on_disk = [own for path in paths for own in _certificates(path)]
            wrong = talk["tls"]["fingerprint"] not in on_disk
            wrong = wrong or bool(_examine_certificates({**target, "certificates": paths}, talk)[1])
        except CommandExecutionError:
            wrong = True
        if wrong:
            found.append(_label(listener))
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


def _login(path):
    """The (username, password) at a pillar path; ``None`` when there is nothing."""
    username, password = (
        __salt__["mta_secret.get"](f"{path}:{name}" if path else None) for name in ("username", "password")
    )
    if username is None and password is None:
        return None
    if username is None or password is None:
        raise SaltInvocationError(f"The pillar {path} must have a username and a password")
    return username, password


def audit(timeout=120):
    """
    Tell what is weak about the server: its configuration, its files, and what it says to a client.

    timeout
        Seconds for all conversations. Default 120.

    Returns a dictionary: ``findings``, a list as :py:func:`mta_audit.findings` returns it, the worst first; and
    ``notes``, what could not be looked at. Nothing is changed; it takes some seconds, and some processes.

    Raises ``CommandExecutionError`` when Postfix is not installed, or its configuration cannot be read.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_probe.audit
    """
    listeners = __salt__["postconf.listeners"]()
    now = time.monotonic()
    want = {
        "hostnames": {(one["host"], one["port"]): None for one in listeners},
        "ca_file": None,
        "deadline": now + timeout,
        "patient_until": now,
    }
    notes, seen = [], []
    for listener in listeners:
        one, remarks = _look_at(listener, want)
        seen.append(one)
        notes += remarks
    parameters = __salt__["postconf.in_force"]()
    certificates, authorities = _certificate_files(listeners, parameters)
    facts = {
        "parameters": parameters,
        "services": __salt__["postconf.services"](),
        "listeners": seen,
        "files": _guarded_files(listeners, parameters),
        "certificates": certificates,
        "authorities": authorities,
    }
    return {"findings": __salt__["mta_audit.findings"](facts), "notes": notes}


def _look_at(listener, want):
    """Talk to a listener as its worst clients do; return what ``mta_audit`` has to know of it, and notes."""
    target, label = _target(listener, want), _label(listener)
    found = _converse(target)
    notes = [f"{label}: {problem['text']}" for problem in found["problems"]]
    taken = []
    if found["tls"]:
        for name, offer in WEAK_OFFERS.items():
            with contextlib.suppress(ssl.SSLError):  # this host's OpenSSL cannot even offer it
                _tls_context(None, None, offer)
                taken += [name] if _converse({**target, "offer": offer})["tls"] else []
    relays = None
    if found["connected"]:
        _, faults, remarks = _examine_as_stranger(listener, want)
        notes += remarks
        relays = next((fault for fault in faults if OPEN_RELAY in fault), None)
    return {
        **listener,
        "label": label,
        "reached": bool(found["ehlo"] or found["ehlo_tls"]),
        "banner": found["banner"],
        "auth": [sorted(_mechanisms(found["ehlo"])), sorted(_mechanisms(found["ehlo_tls"]))],
        "relays": relays,
        "taken": taken,
    }, notes


def _certificate_files(listeners, parameters):
    """What the certificates of the listeners and their authorities are, by path; and the paths of authorities."""
    paths = [path for listener in listeners for path in listener["certificates"]]
    authorities = [parameters[name] for name in ("smtpd_tls_CAfile",) if parameters.get(name)]
    now = datetime.datetime.now(datetime.timezone.utc)
    found = {}
    for path in dict.fromkeys([*paths, *authorities]):
        file = __salt__["mta_pem.read"](path)
        if file is not None:
            with contextlib.suppress(CommandExecutionError):  # the server does not answer then
                chain = __salt__["mta_x509.describe"](file.data)
                found[path] = [{**one, "days_left": (one["not_after"] - now).days} for one in chain]
    return found, authorities


def _guarded_files(listeners, parameters):
    """Files and directories that others must not get at: (path, mode, what it is, forbidden bits, pillar)."""
    remove = "no setting: chmod o= {}"
    close = "no setting: chmod 600 {}"
    wanted = [(path, "the private key", KEY_BITS, close) for one in listeners for path in one["keys"]]
    with contextlib.suppress(CommandExecutionError):
        certificate = __salt__["mta_settings.effective"]()["certificate"]
        wanted.append((certificate["ca"]["key"], "the authority's private key", 0o077, close))
    socket_directory = __salt__["saslauthd.settings"]()["socket_directory"]
    if os.path.exists(f"{socket_directory}/mux"):
        pillar = 'sasl: {{directory_mode: "0710"}}'
        wanted.append((socket_directory, "the directory of the socket that tells right passwords", 0o007, pillar))
    for name, bits in (("private", 0o077), ("public", 0o007)):
        wanted.append(
            (f"{parameters.get('queue_directory')}/{name}", "a directory of Postfix's sockets", bits, remove)
        )
    wanted += [(path, "a file with passwords", 0o007, remove) for path in ("/etc/sasldb2", "/etc/saslauthd.conf")]
    for table in __salt__["postconf.tables"]("smtp_sasl_password_maps"):
        path = table.rpartition(":")[2]
        wanted += [(path + end, "a table of passwords", 0o007, remove) for end in ("", ".db", ".lmdb", ".cdb")]
    found = []
    for path, what, bits, pillar in dict.fromkeys(wanted):
        with contextlib.suppress(OSError):
            status = os.stat(path)
            if bits == KEY_BITS and _group(status.st_gid) == "ssl-cert":
                bits = KEY_BITS & ~stat.S_IRGRP
            found.append((path, stat.S_IMODE(status.st_mode), what, bits, pillar.format(path)))
    return found


def _group(number):
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return None


def check(
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

    CLI Example:

    .. code-block:: bash

        salt '*' mta_probe.check hostname=mail.example.com ca_file=/etc/ssl/certs/cacert.pem
    """
    if auth not in ("offered", "challenge"):
        raise SaltInvocationError(f"auth must be 'offered' or 'challenge', not {auth!r}")
    if listeners is None:
        listeners = __salt__["postconf.listeners"]()
    started = time.monotonic()
    # A service with its own `-o myhostname` goes by that name; but somebody has to go by the expected one.
    names = {listener.get("hostname") for listener in listeners}
    own = hostname is None or hostname in names
    want = {
        "hostnames": {(one["host"], one["port"]): (own and one.get("hostname")) or hostname for one in listeners},
        "ca_file": ca_file,
        "login": _login(login_pillar),
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
                title = f"{_label(listener)}, login {number}" if number else _label(listener)
                transcript += [f"-- {title}", *talk["transcript"]]
    problems += _lacking(capabilities, conversations)
    if stranger and not problems:
        for listener in listeners:
            talks, faults, remarks = _examine_as_stranger(listener, want)
            conversations += talks
            problems += faults
            notes += remarks
            for talk in talks:
                transcript += [f"-- {_label(listener, ' as a stranger')}", *talk["transcript"]]
    return {
        "answers": not problems,
        "listening": any(talk["connected"] for talk in conversations),
        "speaking": speaking,
        "problems": problems,
        "notes": notes,
        "transcript": transcript,
        "conversations": conversations,
    }
