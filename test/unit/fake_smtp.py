"""An SMTP server that misbehaves as a test tells it to."""

import base64
import contextlib
import datetime
import socket
import ssl
import threading
import time

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

HOST = "mail.example.com"
PASSWORD = "s3cret-pass"
EHLO = ["PIPELINING", "SIZE 10240000", "STARTTLS", "AUTH PLAIN LOGIN", "AUTH=PLAIN LOGIN", "8BITMIME"]


def make_certificate(folder, name, host=HOST, key=None):
    """A self-signed certificate with its key in one PEM file."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / name
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return str(path)


class Server:
    """
    An SMTP server in a thread. ``replies`` overrides the reply to a command (first words, or the whole line);
    ``b""`` closes the connection, ``None`` says nothing any more.
    """

    def __init__(self, certificate):
        self.certificate = certificate
        self.replies = {}
        self.ehlo = list(EHLO)
        self.banner = f"220 {HOST} ESMTP Postfix".encode() + b"\r\n"
        self.wrappermode = False
        self.drops = 0
        self.slow = 0
        # Seconds before each reply from the first error on, and what waits for them.
        self.slow_after_errors = 0
        self.sleep = time.sleep
        self.seen = []
        self.message = []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def stop(self):
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.socket.accept()
                threading.Thread(target=self._guarded, args=(connection,), daemon=True).start()

    def _guarded(self, connection):
        with contextlib.suppress(OSError, ValueError):
            self._talk(connection)
        connection.close()

    def _secure(self, connection):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        for path in [self.certificate] if isinstance(self.certificate, str) else self.certificate:
            context.load_cert_chain(path)
        return context.wrap_socket(connection, server_side=True)

    def _answer(self, line, secured, message):
        for key, reply in self.replies.items():
            if line.upper().startswith(key.upper()):
                return reply
        verb = line.split(" ")[0].upper()
        if verb == "EHLO":
            lines = [HOST, *[word for word in self.ehlo if not (secured and word == "STARTTLS")]]
            return "".join(
                f"250{' ' if number == len(lines) else '-'}{text}\r\n" for number, text in enumerate(lines, 1)
            ).encode()
        if line.startswith("AUTH PLAIN "):
            good = base64.b64decode(line[11:]) == f"\0alice\0{PASSWORD}".encode()
            return (
                b"235 2.7.0 Authentication successful\r\n"
                if good
                else b"535 5.7.8 Error: authentication failed\r\n"
            )
        if line == "AUTH LOGIN":
            return b"334 VXNlcm5hbWU6\r\n"
        if line == base64.b64encode(b"alice").decode():
            return b"334 UGFzc3dvcmQ6\r\n"
        if line == base64.b64encode(PASSWORD.encode()).decode():
            return b"235 2.7.0 Authentication successful\r\n"
        if "example.net" in line:
            return b"454 4.7.1 Relay access denied\r\n"
        if "<probe-" in line:
            return b"550 5.1.1 User unknown\r\n"
        if message:
            return b"554 5.4.0 Error: too many hops\r\n"
        ready = {"STARTTLS": b"220 2.0.0 Ready\r\n", "DATA": b"354 go on\r\n", "QUIT": b"221 Bye\r\n"}
        return ready.get(verb, b"250 2.0.0 Ok\r\n")

    def _talk(self, connection):
        if self.drops:
            self.drops -= 1
            return
        if self.wrappermode:
            connection = self._secure(connection)
        slow = self.slow
        for number in range(len(self.banner) if slow else 1):
            time.sleep(slow)
            connection.sendall(self.banner[number : number + 1] if slow else self.banner)
        secured, message, erred = self.wrappermode, False, False
        reader = connection.makefile("rb")
        while raw := reader.readline():
            line = raw.decode().rstrip("\r\n")
            if message and line != ".":
                self.message.append(line)
                continue
            self.seen.append(line)
            reply = self._answer(line, secured, message)
            if reply is None:
                time.sleep(5)
            if not reply:
                return
            erred = erred or reply[:1] in b"45"
            self.sleep(self.slow_after_errors if erred else 0)
            connection.sendall(reply)
            message = line == "DATA" and reply.startswith(b"354")
            if message:
                self.message.clear()
            if line == "STARTTLS" and reply.startswith(b"220"):
                connection = self._secure(connection)
                reader, secured = connection.makefile("rb"), True
            if line == "QUIT":
                return
