#!/usr/bin/python3
"""
A proxy before saslauthd that tells a wrong password from a server that is down, and lets nobody wait for that.

saslauthd asks an LDAP, IMAP or Kerberos server, and says NO alike when the password is wrong and when that server
cannot be reached. libsasl makes ``SASL_BADAUTH`` of every NO, smtpd(8) makes 535 of that, and mail programs then
ask for another password. Of an answer that is none libsasl makes ``SASL_FAIL``, and smtpd 454, a temporary error.

So this proxy, which the state ``saslauthd.managed`` installs, stands between the two. It hands on each request
and each OK. When saslauthd says NO, or nothing for some seconds, it asks the server itself, without any password;
when that does not answer, or saslauthd does not at all, it answers with nothing. While saslauthd waits for a
server that is down, it gets no more requests, for each would keep one of its few processes for minutes.

systemd holds the socket, and starts this program at the first login with the system's Python, as a user without
rights in the group ``sasl``. Nothing of a request is ever logged or written.

Sources: cyrus-sasl 2.1.28, ``lib/checkpw.c`` (it closes its end after an answer of length 0, and forgets to after
none) and ``saslauthd/auth_rimap.c`` (``[ALERT]`` marks what is not about the password); RFC 4511;
sd_listen_fds(3).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import ssl
import struct
import sys
import threading
import time
import urllib.parse
from typing import Callable

REQUEST = 2  # seconds for a whole request to arrive; smtpd sends it at once
PATIENCE = 5  # seconds for saslauthd, before the server behind it is asked
PROBE = 3  # seconds for each such server
LIMIT = 30  # seconds for saslauthd, where the server answers: one that delays wrong passwords, say
LONGEST = 1024  # bytes of one of a request's four fields; saslauthd takes 256
SLOTS = 200  # requests at the same time; more wait in the socket's queue

TEMPORARY = struct.pack("!H", 0)
# An anonymous bind; the extended operation StartTLS; the result code "success".
LDAP_BIND = bytes.fromhex("300c020101600702010304008000")
LDAP_STARTTLS = bytes.fromhex("301d02010177188016") + b"1.3.6.1.4.1.1466.20037"
LDAP_SUCCESS = bytes.fromhex("0a0100")
# Codes from there on are the KDC's own answers, the library's begin 128 later; the second: "unavailable".
KRB5_ANSWERS, KRB5_UNAVAILABLE = -1765328384, 29


# -- whether the server answers ----------------------------------------------------------------


def _imap(address: str) -> bool:
    """Whether an IMAP server (``host`` or ``host/port``, as for ``saslauthd -O``) greets."""
    host, _, port = address.partition("/")
    with socket.create_connection((host, port or "imap"), PROBE) as connection:
        return connection.recv(1024).startswith(b"* OK")


def _ldap(uri: str, start_tls: bool, ca_file: str | None) -> bool:
    """
    Whether an LDAP server answers; with ``ca_file``, also whether its certificate is good and of that authority.

    No secret goes there, so that TLS may be as old as saslauthd's library would take it.
    """
    parts = urllib.parse.urlsplit(uri)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if ca_file and os.access(ca_file, os.R_OK):
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(ca_file)
    with contextlib.ExitStack() as stack:
        if parts.scheme == "ldapi":
            connection = stack.enter_context(socket.socket(socket.AF_UNIX))
            connection.settimeout(PROBE)
            connection.connect(urllib.parse.unquote(parts.netloc) or "/var/run/slapd/ldapi")
        else:
            port = parts.port or (636 if parts.scheme == "ldaps" else 389)
            connection = stack.enter_context(socket.create_connection((parts.hostname, port), PROBE))
        if start_tls:
            connection.sendall(LDAP_STARTTLS)
            if LDAP_SUCCESS not in connection.recv(1024):
                return False
        if start_tls or parts.scheme == "ldaps":
            connection = stack.enter_context(context.wrap_socket(connection))
        connection.sendall(LDAP_BIND)
        return connection.recv(1024).startswith(b"\x30")


def _kerberos() -> bool:
    """Whether a KDC of the default realm answers to a user that does not exist; found as saslauthd finds it."""
    import ctypes

    library = ctypes.CDLL("libkrb5.so.3")
    context, user, credentials = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.create_string_buffer(1024)
    if library.krb5_init_context(ctypes.byref(context)):
        return False
    code = library.krb5_parse_name(context, b"postfix-mta-nobody", ctypes.byref(user))
    if not code:
        code = library.krb5_get_init_creds_password(context, credentials, user, b"", None, None, 0, None, None)
        library.krb5_free_principal(context, user)
    library.krb5_free_context(context)
    return bool(0 <= code - KRB5_ANSWERS < 128 and code - KRB5_ANSWERS != KRB5_UNAVAILABLE)


def _in_time(probe: Callable[[], bool]) -> bool:
    """The result of a function that cannot be given a time limit; ``False`` when it takes too long."""
    said: list[bool] = []
    thread = threading.Thread(target=lambda: said.append(probe()), daemon=True)
    thread.start()
    thread.join(PROBE)
    return bool(said and said[0])


def _answers(given: argparse.Namespace) -> bool:
    """Whether the server that the mechanism asks answers; several: one of them. Unknown ones are taken to."""
    if given.mechanism == "kerberos5":
        return _in_time(_kerberos)
    for server in given.servers:
        with contextlib.suppress(OSError):
            if _imap(server) if given.mechanism == "rimap" else _ldap(server, given.start_tls, given.ca_file):
                return True
    return not given.servers


# -- between smtpd and saslauthd ---------------------------------------------------------------


def _receive(connection: socket.socket, count: int, deadline: float) -> bytes:
    """The next ``count`` bytes; all of them before a moment of time.monotonic()."""
    data = b""
    while len(data) < count:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("too slow")
        connection.settimeout(left)
        piece = connection.recv(count - len(data))
        if not piece:
            raise ConnectionError("closed before its end")
        data += piece
    return data


def _counted(connection: socket.socket, deadline: float) -> bytes:
    """A field with its length before it, in two bytes; as bytes, length and all."""
    head = _receive(connection, 2, deadline)
    (length,) = struct.unpack("!H", head)
    if length > LONGEST:
        raise ConnectionError("too long")
    return head + _receive(connection, length, deadline)


class Proxy:
    """Passes requests on to saslauthd. ``answers``: a function that tells whether the server behind it answers."""

    def __init__(self, mux: str, answers: Callable[[], bool]) -> None:
        self.mux, self.answers = mux, answers
        self.up = True
        self.stuck = False  # whether saslauthd was last found to wait for a server that does not answer

    def _reachable(self) -> bool:
        up = self.answers()
        if self.up is not up:
            said = "answers again" if up else "does not answer: logins get a temporary error"
            print(f"The server that saslauthd asks {said}", file=sys.stderr, flush=True)
        self.up = up
        return up

    def reply(self, request: bytes) -> bytes:
        """Return the answer to a request, with its length before it. Raises ``OSError`` when there is none."""
        if self.stuck and not self._reachable():
            return TEMPORARY
        self.stuck = False
        deadline = time.monotonic() + LIMIT
        with socket.socket(socket.AF_UNIX) as daemon:
            # connect(2) waits as long when saslauthd's queue is full.
            limit = struct.pack("@ll", int(PATIENCE), int(PATIENCE % 1 * 1e6))
            daemon.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            daemon.connect(self.mux)
            daemon.settimeout(PATIENCE)
            daemon.sendall(request)
            try:
                daemon.recv(1, socket.MSG_PEEK)
            except socket.timeout:
                if not self._reachable():
                    self.stuck = True
                    return TEMPORARY
            answer = _counted(daemon, deadline)
        if answer[2:4] != b"OK" and (answer[2:12] == b"NO [ALERT]" or not self._reachable()):
            return TEMPORARY
        return answer

    def serve(self, connection: socket.socket) -> None:
        """Answer the one request of a connection; who breaks the protocol, or is slow at it, is hung up on."""
        with connection, contextlib.suppress(OSError):
            deadline = time.monotonic() + REQUEST
            fields = ("user", "password", "service", "realm")
            request = b"".join(_counted(connection, deadline) for _ in fields)
            try:
                answer = self.reply(request)
            except OSError:
                answer = TEMPORARY
            connection.settimeout(PATIENCE)
            connection.sendall(answer)

    def run(self, listener: socket.socket) -> None:
        """Serve for ever."""
        slots = threading.BoundedSemaphore(SLOTS)

        def work(connection: socket.socket) -> None:
            try:
                self.serve(connection)
            finally:
                slots.release()

        while True:
            slots.acquire()
            try:
                connection = listener.accept()[0]
            except OSError:
                slots.release()
                time.sleep(0.1)
                continue
            threading.Thread(target=work, args=(connection,), daemon=True).start()


def _main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().partition("\n")[0])
    parser.add_argument("--start-tls", action="store_true", help="for ldap: TLS on an ldap: connection")
    parser.add_argument("--ca-file", help="for ldap: the authority of the servers' certificates")
    parser.add_argument("mux", help="saslauthd's own socket")
    parser.add_argument("mechanism", choices=("kerberos5", "ldap", "rimap"))
    parser.add_argument("servers", nargs="*", help="for ldap: URIs; for rimap: host or host/port")
    given = parser.parse_args()
    Proxy(given.mux, lambda: _answers(given)).run(socket.socket(fileno=3))


if __name__ == "__main__":
    _main()
