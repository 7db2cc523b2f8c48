"""TODO subject (saslauthd)."""

import contextlib
import re
import shlex
import socket as sockets
import struct

from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_secrets
from _mta_minion import Minion

DEFAULTS_FILE = "/etc/default/saslauthd"
# What the package brings: the settings of a host on which it is about to be installed.
PACKAGED = """\
MECHANISMS="pam"
MECH_OPTIONS=""
THREADS=5
OPTIONS="-c -m /var/run/saslauthd"
"""
VALUE = r"""((?:"(?:[^"\\]|\\.)*"|'[^']*'|\\.|[^\s"'\\;&|])*)"""
ASSIGNMENT = r"^[ \t]*(?:export[ \t]+)?{variable}=" + VALUE
FRONT_SOCKET = "/etc/systemd/system/postfix-mta-saslauthd.socket"
# Those that ask a server.
FRONTED = ("kerberos5", "ldap", "rimap")
LONGEST_REQUEST = 256


def shell_value(text, variable):
    """The value that a shell file leaves in ``variable``; ``None`` when it does not set it."""
    found = re.findall(ASSIGNMENT.format(variable=variable), text, re.MULTILINE | re.DOTALL)
    if not found:
        return None
    try:
        value = " ".join(shlex.split(found[-1]))
    except ValueError:
        value = found[-1]
    return " ".join(value.split())


def sasl_value(text, key):
    """The value of ``key`` in a file of libsasl, which takes the first of several; ``None`` if absent."""
    found = re.search(rf"^[ \t]*{key}:[ \t]*(.*?)[ \t]*$", text, re.MULTILINE | re.IGNORECASE)
    return found[1] if found else None


def _parse(text):
    """The daemon's settings in ``/etc/default/saslauthd``."""
    words = (shell_value(text, "OPTIONS") or "").split()
    directory = "/var/run/saslauthd"
    for word, following in zip(words, [*words[1:], ""]):
        if word.startswith("-m"):
            directory = word[2:] or following or directory
    threads = shell_value(text, "THREADS") or ""
    start = shell_value(text, "START")
    return {
        "mechanisms": (shell_value(text, "MECHANISMS") or "").split(),
        "mech_options": shell_value(text, "MECH_OPTIONS") or None,
        "threads": int(threads) if threads.isdigit() else None,
        "cache": "-c" in words,
        "socket_directory": directory.rstrip("/"),
        "start": None if start is None else start == "yes",
    }


def read(path):
    """A file's text; ``None`` when there is none."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as handle:
            return handle.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as err:
        raise CommandExecutionError(f"Cannot read {path}: {err.strerror}") from err


def settings():
    """
    Return the daemon's settings as its start reads them; where it is not installed, as the package has them.

    ``mechanisms`` (list), ``mech_options`` (string or ``None``), ``threads`` (number), ``cache`` (boolean),
    ``socket_directory`` (path), ``start`` (boolean; ``None`` where the file does not say), ``front`` (whether a
    front stands before it where the mechanism asks a server; else true).

    Raises ``CommandExecutionError`` when the file cannot be read.
    """
    text = read(DEFAULTS_FILE)
    found = _parse(PACKAGED if text is None else text)
    return {**found, "front": bool(_front_socket()) or not set(found["mechanisms"]) & set(FRONTED)}


def _connect(path, timeout):
    connection = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
    connection.settimeout(timeout)
    try:
        connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection


def _mux(socket):
    """The socket to ask: the front's, where it stands before the daemon."""
    if socket:
        return socket
    directory = settings()["socket_directory"]
    return f"{directory}/{'front' if _front_socket() else 'mux'}"


def _front_socket():
    """The path of the front's socket; ``None`` where there is no front."""
    found = re.search("^ListenStream=(.+)$", read(FRONT_SOCKET) or "", re.MULTILINE)
    return found and found[1]


def answers(socket=None, timeout=5):
    """
    Tell whether the daemon takes connections on its socket, and the front before it on its own. No password.

    socket
        Path of the daemon's socket. Default: ``mux`` in the directory that the daemon's settings name.

    timeout
        Seconds; default 5.
    """
    own = socket or f"{settings()['socket_directory']}/mux"
    try:
        for path in filter(None, (own, _front_socket())):
            _connect(path, timeout).close()
    except OSError:
        return False
    return True


def authenticate(
    minion: Minion,
    username,
    password=None,
    service="smtp",
    realm="",
    socket=None,
    password_pillar=None,
    timeout=30,
):
    """
    Ask the daemon whether a password is right, as smtpd does: over its socket or its front's, in no argument list.

    On a command line the password is in the arguments of ``salt`` itself: name its place in the pillar there.

    username
        The user's name, as a mail client sends it.

    password
        The user's password.

    service
        Service name, the PAM service for the mechanism ``pam``; default ``smtp``, as Postfix's.

    realm
        Realm; default none.

    socket
        Path of the socket. Default: that of the front, if there is one, else ``mux`` in the directory that the
        daemon's settings name.

    password_pillar
        Pillar path of the password, in place of ``password``: ``postfix_mta:verify:login:password``. The value
        may be an ``sdb://`` URI.

    timeout
        Seconds for the connection, and again for the answer; default 30. A refusal takes PAM some seconds.

    Returns ``True`` when the daemon accepts the login, ``False`` when it refuses it.

    Raises ``CommandExecutionError`` when the daemon cannot be reached or does not answer, and
    ``SaltInvocationError`` when there is no password, or something is longer than the 256 bytes the daemon
    takes.
    """
    if password_pillar:
        password = _mta_secrets.get(minion, password_pillar)
    if not isinstance(password, str):
        place = f" at {password_pillar} in the pillar" if password_pillar else ""
        raise SaltInvocationError(f"there is no password for {username}{place}")
    request = b""
    for item, value in (
        ("username", username),
        ("password", password),
        ("service", service),
        ("realm", realm),
    ):
        value = str(value).encode()
        if len(value) > LONGEST_REQUEST:
            raise SaltInvocationError(f"{item} is longer than {LONGEST_REQUEST} bytes")
        request += struct.pack("!H", len(value)) + value
    path = _mux(socket)
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


def _receive(connection, count):
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise OSError("it closed the connection without an answer")
        data += piece
    return data
