"""
A message on its way through a milter, as Postfix sends one: what the milter would do with it, and no mail is sent.

The protocol is that of Sendmail 8.14 (version 6), see postfix.org/MILTER_README.html; a packet is a length of four
bytes, a letter, and data. Names in comments are those of mfdef.h.
"""

from __future__ import annotations

import dataclasses
import os
import re
import socket
import struct
from collections.abc import Sequence
from typing import IO

from salt.exceptions import CommandExecutionError

from _mta_records import NamedTuple, dataclass

VERSION = 6
# All that a milter may do (SMFIF_*), and all that it may leave out (SMFIP_*).
ACTIONS, STEPS = 0x1FF, 0x1FFFFF
# What is not sent to it (SMFIP_NO*), and what it does not answer (SMFIP_NR_*).
SKIPPED = {b"C": 0x01, b"H": 0x02, b"M": 0x04, b"R": 0x08, b"B": 0x10, b"L": 0x20, b"N": 0x40}
UNANSWERED = {
    **{b"C": 0x1000, b"H": 0x2000, b"M": 0x4000, b"R": 0x8000},
    **{b"B": 0x80000, b"L": 0x80, b"N": 0x40000},
}
HEADER_WITH_BLANK = 0x100000  # SMFIP_HDR_LEADSPC
# What ends a message: accept, continue, discard, reject, tempfail, a reply of the milter's own.
LAST = {b"a": "accepted", b"c": "accepted", b"d": "discarded", b"r": "rejected", b"t": "put off", b"y": "refused"}
ADD_HEADER, INSERT_HEADER, QUARANTINE = b"h", b"i", b"q"
LONGEST = 1 << 20


@dataclass(frozen=True)
class Message:
    """A message: its envelope, its header fields (name and value) and its body, with lines that end in CRLF."""

    sender: str
    recipient: str
    headers: Sequence[tuple[str, str]]
    body: bytes


@dataclass
class Outcome:
    """What a milter did: in a word (``LAST``, or held), and the header fields that it added."""

    verdict: str
    headers: list[tuple[str, str]] = dataclasses.field(default_factory=list)


def send(
    name: str, message: Message, hostname: str, timeout: float = 10, queue: str = "/var/spool/postfix"
) -> Outcome:
    """
    Send a message of this host's own through a milter.

    name
        As in ``smtpd_milters``: ``inet:host:port``, ``unix:path``, or a socket's path.

    timeout
        Seconds that each answer may take.

    queue
        Path of the queue directory, below which relative paths are, and those that a chroot leads to.

    Raises ``CommandExecutionError`` when the milter cannot be reached, or does not answer as one does.
    """
    try:
        with connected(name, timeout, queue) as connection, connection.makefile("rb") as answers:
            return _converse(_Wire(connection, answers), message, hostname)
    except OSError as err:
        raise CommandExecutionError(f"The milter at {name} does not answer: {err.strerror or err}") from err
    except (struct.error, ValueError) as err:
        raise CommandExecutionError(f"What answers at {name} is no milter: {err}") from err


def connected(name: str, timeout: float, queue: str) -> socket.socket:
    """Return a connection to a milter, or to what else Postfix names in this way."""
    if name.startswith("inet:"):
        host, _, port = name[len("inet:") :].rpartition(":")
        return socket.create_connection((host.strip("[]"), int(port)), timeout)
    path = re.sub(r"^(?:unix|local):", "", name)
    below = os.path.join(queue, path.lstrip("/"))
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout)
    connection.connect(below if os.path.exists(below) else path)
    return connection


class _Wire(NamedTuple):
    """The connection, and what comes over it."""

    connection: socket.socket
    answers: IO[bytes]

    def write(self, letter: bytes, data: bytes = b"") -> None:
        """Send a packet."""
        self.connection.sendall(struct.pack("!I", len(data) + 1) + letter + data)

    def read(self) -> tuple[bytes, bytes]:
        """Return the next packet: its letter and its data."""
        (length,) = struct.unpack("!I", self.answers.read(4))
        if not 1 <= length <= LONGEST:
            raise ValueError(f"a packet of {length} bytes")
        packet = self.answers.read(length)
        if len(packet) < length:
            raise ValueError("a packet that ends too early")
        return packet[:1], packet[1:]


def _texts(*texts: str) -> bytes:
    return b"".join(text.encode() + b"\0" for text in texts)


def _converse(wire: _Wire, message: Message, hostname: str) -> Outcome:
    wire.write(b"O", struct.pack("!III", VERSION, ACTIONS, STEPS))
    letter, data = wire.read()
    if letter != b"O":
        raise ValueError(f"the answer {letter!r} to the greeting")
    _, _, skipped = struct.unpack("!III", data[:12])
    blank = " " if skipped & HEADER_WITH_BLANK else ""
    client = _texts("localhost") + b"4" + struct.pack("!H", 0) + _texts("127.0.0.1")
    macros = {
        b"C": _texts("j", hostname, "{daemon_name}", hostname, "{client_addr}", "127.0.0.1"),
        b"M": _texts("i", "postfix-mta", "{mail_addr}", message.sender),
    }
    steps = [
        (b"C", client),
        (b"H", _texts("localhost")),
        (b"M", _texts(f"<{message.sender}>")),
        (b"R", _texts(f"<{message.recipient}>")),
        *[(b"L", _texts(name, blank + value)) for name, value in message.headers],
        (b"N", b""),
        (b"B", message.body),
    ]
    for step, content in steps:
        if step in macros:
            wire.write(b"D", step + macros[step])
        if skipped & SKIPPED[step]:
            continue
        wire.write(step, content)
        letter = b"c" if skipped & UNANSWERED[step] else wire.read()[0]
        if letter not in b"cs":
            return Outcome(LAST.get(letter, repr(letter)))
    wire.write(b"E")
    return _ending(wire)


def _ending(wire: _Wire) -> Outcome:
    """What the milter does at the end of a message."""
    added: list[tuple[str, str]] = []
    held = False
    while True:
        letter, data = wire.read()
        if letter in LAST:
            wire.write(b"Q")
            verdict = LAST[letter]
            return Outcome("held" if held and verdict == "accepted" else verdict, added)
        held = held or letter == QUARANTINE
        if letter in (ADD_HEADER, INSERT_HEADER):
            name, value = data[4 if letter == INSERT_HEADER else 0 :].split(b"\0")[:2]
            added.append((name.decode(), value.decode(errors="surrogateescape")))
