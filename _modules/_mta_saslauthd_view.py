"""
saslauthd as it is on this host: the settings that its start reads, whether it answers, a login over its socket.

Nothing is changed here, and no process is started. The socket takes four fields, each with its length before it,
and answers OK or NO; the protocol is that of cyrus-sasl's ``lib/checkpw.c``. Where a proxy stands before saslauthd
(:py:mod:`_mta_saslauthd_files`), it has a socket of its own, and speaks the same protocol.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import socket as sockets
import struct

from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_secrets
import _mta_system
from _mta_minion import Minion
from _mta_records import TypedDict

DEFAULTS_FILE = "/etc/default/saslauthd"
# The formula's own, which a drop-in of the native unit has read after the package's: that one is a conffile, and
# an upgrade that brings another version asks about each that was edited.
OWN_FILE = "/etc/default/postfix-mta-saslauthd"
# What the package brings: the settings of a host on which it is about to be installed.
PACKAGED = """\
MECHANISMS="pam"
MECH_OPTIONS=""
THREADS=5
OPTIONS="-c -m /var/run/saslauthd"
"""
VALUE = r"""((?:"(?:[^"\\]|\\.)*"|'[^']*'|\\.|[^\s"'\\;&|])*)"""
ASSIGNMENT = r"^[ \t]*(?:export[ \t]+)?{variable}=" + VALUE
# Of any variable: one expression, as it takes a tenth of a millisecond to compile each.
ASSIGNMENTS = ASSIGNMENT.format(variable=r"(\w+)")
PROXY_SOCKET = "/etc/systemd/system/postfix-mta-saslauthd.socket"
# Mechanisms that ask a server.
REMOTE = ("kerberos5", "ldap", "rimap")
LONGEST_FIELD = 256  # bytes


class Settings(TypedDict):
    """The daemon's settings, as :func:`settings` returns them."""

    mechanisms: list[str]
    mech_options: str | None
    threads: int | None
    cache: bool
    combine_realm: bool
    socket_directory: str
    start: bool | None
    proxy: bool


def shell_value(text: str, variable: str) -> str | None:
    """The value that a shell file leaves in ``variable``; ``None`` when it does not set it."""
    assigned = re.findall(ASSIGNMENTS, text, re.MULTILINE | re.DOTALL)
    found = [value for name, value in assigned if name == variable]
    if not found:
        return None
    try:
        value = " ".join(shlex.split(found[-1]))
    except ValueError:
        value = str(found[-1])
    return " ".join(value.split())


def options(present: str | None, cache: bool, combine_realm: bool, directory: str) -> str:
    """
    Return the options with which saslauthd starts: those of the settings, then what else is there (``present``),
    which somebody has added by hand.
    """
    others = []
    words = iter((present or "").split())
    for word in words:
        if word == "-m":
            next(words, None)
        elif word not in ("-c", "-r") and not word.startswith("-m"):
            others.append(word)
    return " ".join([*["-c"] * cache, *["-r"] * combine_realm, "-m", directory, *others])


def packaged() -> str:
    """The package's settings file; where it is not installed, as it will come."""
    text = _mta_system.read(DEFAULTS_FILE)
    return PACKAGED if text is None else text


def settings() -> Settings:
    """
    Return the daemon's settings as its start reads them; where it is not installed, as the package has them.

    ``start`` is ``None`` where the file does not say; ``proxy``: whether a proxy stands before the daemon where
    the mechanism asks a server, else true. Raises ``CommandExecutionError`` when the file cannot be read.
    """
    text = f"{packaged()}\n{_mta_system.read(OWN_FILE) or ''}"
    words = (shell_value(text, "OPTIONS") or "").split()
    directory = "/var/run/saslauthd"
    for word, following in zip(words, [*words[1:], ""]):
        if word.startswith("-m"):
            directory = word[2:] or following or directory
    mechanisms = (shell_value(text, "MECHANISMS") or "").split()
    threads = shell_value(text, "THREADS") or ""
    start = shell_value(text, "START")
    return {
        "mechanisms": mechanisms,
        "mech_options": shell_value(text, "MECH_OPTIONS") or None,
        "threads": int(threads) if threads.isdigit() else None,
        "cache": "-c" in words,
        "combine_realm": "-r" in words,
        "socket_directory": directory.rstrip("/"),
        "start": None if start is None else start == "yes",
        "proxy": _proxy_socket() is not None or not set(mechanisms) & set(REMOTE),
    }


def without_users() -> str | None:
    """Tell why nobody at all can log in, where saslauthd has just its own database; ``None``: nothing says so."""
    program = _mta_system.find_program("sasldblistusers2")
    if settings()["mechanisms"] != ["sasldb"] or not program:
        return None
    if _mta_system.run([program], check=False, timeout=5).text.strip():
        return None
    return "sasldb has no user, so nobody can log in (saslpasswd2 makes users)"


def _connect(path: str, timeout: float) -> sockets.socket:
    connection = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
    connection.settimeout(timeout)
    try:
        connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection


def _asked_socket() -> str:
    """The socket that smtpd asks: the proxy's, where one stands before the daemon."""
    return _proxy_socket() or _own_socket()


def _own_socket() -> str:
    return f"{settings()['socket_directory']}/mux"


def _proxy_socket() -> str | None:
    """The path of the proxy's socket; ``None`` where there is no proxy."""
    found = re.search("^ListenStream=(.+)$", _mta_system.read(PROXY_SOCKET) or "", re.MULTILINE)
    return found[1] if found else None


def answers(socket: str | None = None, timeout: float = 5) -> bool:
    """
    Tell whether the daemon takes connections on its socket, and the proxy before it on its own. No password.

    Parameters, result and errors: ``saslauthd.answers``.
    """
    try:
        for path in filter(None, (socket or _own_socket(), _proxy_socket())):
            _connect(path, timeout).close()
    except OSError:
        return False
    return True


def authenticate(
    minion: Minion,
    username: str,
    password: str | None = None,
    service: str = "smtp",
    realm: str = "",
    socket: str | None = None,
    password_pillar: str | None = None,
    timeout: float = 30,
) -> bool:
    """
    Ask the daemon whether a password is right, as smtpd does: over its socket or its proxy's.

    Parameters and errors: see the execution function ``saslauthd.authenticate``.
    """
    if password_pillar:
        password = _mta_secrets.get(minion, password_pillar)
    if not isinstance(password, str):
        place = f" at {password_pillar} in the pillar" if password_pillar else ""
        raise SaltInvocationError(f"there is no password for {username}{place}")
    request = b""
    for item, value in (("username", username), ("password", password), ("service", service), ("realm", realm)):
        field = str(value).encode("utf-8", "surrogateescape")
        if len(field) > LONGEST_FIELD:
            raise SaltInvocationError(f"{item} is longer than {LONGEST_FIELD} bytes")
        request += struct.pack("!H", len(field)) + field
    path = socket or _asked_socket()
    try:
        with contextlib.closing(_connect(path, timeout)) as connection:
            connection.sendall(request)
            reply = _receive(connection, struct.unpack("!H", _receive(connection, 2))[0])
    except FileNotFoundError:
        raise CommandExecutionError(
            f"There is no socket {path}: saslauthd does not run, or with another -m"
        ) from None
    except ConnectionRefusedError:
        raise CommandExecutionError(f"Nobody listens on {path}: saslauthd does not run") from None
    except sockets.timeout:
        raise CommandExecutionError(f"saslauthd did not answer on {path} within {timeout} seconds") from None
    except OSError as err:
        raise CommandExecutionError(f"Cannot talk to saslauthd on {path}: {err.strerror or err}") from None
    if reply[:2] not in (b"OK", b"NO"):
        raise CommandExecutionError(
            f"saslauthd on {path} answered neither OK nor NO: it or the server that it asks is down"
        )
    return reply[:2] == b"OK"


def _receive(connection: sockets.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise OSError("it closed the connection without an answer")
        data += piece
    return data
