"""TODO subject (mta_probe)."""

import base64
import contextlib
import hashlib
import os
import re
import socket
import ssl
import time
import warnings

from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_untrusted_client

CONVERSATION_TIMEOUT = 10
# A server that restarts drops a connection once; one that drops them for longer is broken (master(8)
# throttles).
DROP_PATIENCE = 3
PAUSE = 0.1
MAX_LINE = 4096
MAX_LINES = 200
MASK = "****"
PEM_BLOCK = r"(?s)-----BEGIN (CERTIFICATE|[A-Z ]*PRIVATE KEY)-----(.*?)-----END"
DROPPED = "connection closed by the server"
IP_FREEBIND, IPV6_FREEBIND = 15, 78


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
        family = _mta_untrusted_client.address_family(host)
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


def _printable(data):
    return "".join(char if char.isprintable() else "?" for char in data.decode("ascii", "backslashreplace"))


def reply_text(lines):
    """A reply as one line: the code once, the texts after each other."""
    return " ".join([lines[0][:3], *[line[4:] for line in lines]]).strip()


def fault_of(reply):
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


def certificates(path):
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


def tls_context(ca_file, hostname, offer=None):
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


def hold(target, envelopes=(), auth=None, login=None, mechanism="PLAIN", source=None, helo="localhost"):
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
            found = hold({**target, "ca_file": None}, envelopes, auth, login, mechanism, source=source, helo=helo)
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
    _complain(found, step, reply_text(lines))
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
    context = tls_context(target["ca_file"], target["hostname"], target.get("offer"))
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
            on_disk = [own for path in target["certificates"] for own in certificates(path)]
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
    found["auth"] = {"mechanism": mechanism, "reply": reply_text(lines), "tls": bool(found["tls"])}
    _expect(found, step if found["tls"] else f"{step} without TLS", lines, ("235",))


def _plain(username, password):
    return base64.b64encode(f"\0{username}\0{password}".encode()).decode()


def _challenge(line, found):
    """
    Try to log in as nobody. 535 comes from the end of the chain (saslauthd, PAM); 454 says that it is broken.
    """
    nobody = _plain(f"probe-{os.urandom(8).hex()}", os.urandom(16).hex())
    lines = line.command(f"AUTH PLAIN {nobody}", "AUTH PLAIN", f"AUTH PLAIN {MASK}")
    found["auth"] = {"mechanism": "PLAIN", "reply": reply_text(lines), "tls": bool(found["tls"])}
    _expect(found, "AUTH PLAIN of an unknown user", lines, ("535",))


def _try_envelope(line, found, envelope):
    """MAIL and RCPT, DATA where asked for, RSET. Policy refusals are recorded; faults are problems."""
    tried = {"sender": envelope["sender"], "mail": None, "recipients": {}, "data": None}
    found["envelopes"].append(tried)
    step = f"MAIL FROM:<{envelope['sender']}>"
    tried["mail"] = reply_text(line.command(step))
    if fault_of(tried["mail"]):
        _complain(found, step, tried["mail"])
    if tried["mail"].startswith("250"):
        for recipient in envelope["recipients"]:
            step = f"RCPT TO:<{recipient}>"
            tried["recipients"][recipient] = reply = reply_text(line.command(step))
            if fault_of(reply):
                _complain(found, step, reply)
        message = envelope.get("message")
        if message and any(reply.startswith("25") for reply in tried["recipients"].values()):
            lines = line.command("DATA")
            if lines[0].startswith("354"):
                lines = line.message(message)
            tried["data"] = reply_text(lines)
            if fault_of(tried["data"]):
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
    return hold(target, envelopes, auth, login and tuple(login), mechanism, source)


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
    found = hold(target, [envelope])
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
