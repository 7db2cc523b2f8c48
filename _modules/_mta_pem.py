"""
PEM files: which are read, who may have access to them, and what the certificates in them are.

Symbolic links are followed when root made them and they lead to a regular file.
"""

from __future__ import annotations

import datetime
import os
import stat
from typing import Any, Literal

from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_secrets
import _mta_system
import _mta_x509
from _mta_minion import Minion
from _mta_records import NamedTuple

LONGEST = 65535  # bytes of PEM text in pillar: a chain of many RSA 8192 certificates
# Who may have access: root alone reads it; the group ssl-cert too; all read it, root alone writes it.
# "left key": where an administrator or a program leaves it; which group may read it is theirs to say.
Kind = Literal["key", "server key", "left key", "certificate"]


class File(NamedTuple):
    """A file that has been read."""

    data: bytes
    mode: int
    uid: int
    gid: int


def inspect(path: str, renew_days: int | None = None) -> dict[str, Any] | None:
    """Return what ``mta_cert.inspect`` does."""
    file = read(path)
    if file is None:
        return None
    leaf, *others = describe(path, file.data, renew_days)
    now = _mta_system.now()
    hosts = [name for name in leaf["names"] if name[:2] != "*." and not _is_address(name)]
    return {
        "subject": leaf["subject"],
        "names": leaf["names"],
        "issuer": leaf["issuer"],
        "key": leaf["key"],
        "serial": leaf["serial"],
        "ca": leaf["ca"],
        "self_signed": leaf["self_signed"],
        "signature": leaf["signature"],
        "sha256": leaf["sha256"],
        "sha1": leaf["sha1"],
        "tlsa": leaf["tlsa"],
        "not_before": _mta_x509.date_of(leaf["not_before"]),
        "renewal": _mta_x509.date_of(leaf["renewal"]),
        "not_after": _mta_x509.date_of(leaf["not_after"]),
        "days_left": (leaf["not_after"] - now).days,
        "tlsa_records": [f"_25._tcp.{host}. IN TLSA {leaf['tlsa']}" for host in hosts],
        "chain": [other["subject"] or "(no subject)" for other in others],
        "next_action": _next_action(leaf, now),
    }


def _is_address(name: str) -> bool:
    return ":" in name or name.replace(".", "").isdigit()


def describe(path: str, data: str | bytes, renew_days: int | None = None) -> list[_mta_x509.CertificateFacts]:
    """
    Tell what the certificates are that were read at a path, as :py:func:`_mta_x509.describe` does.

    Raises ``CommandExecutionError``, which names the path.
    """
    try:
        return _mta_x509.describe(data, renew_days)
    except CommandExecutionError as err:
        raise CommandExecutionError(f"{path} {err}") from err


def describe_key(
    path: str, data: bytes, passphrase: bytes | None = None, thorough: bool = False
) -> _mta_x509.KeyFacts:
    """
    Tell what the private key is that was read at a path, as :py:func:`_mta_x509.describe_key` does.

    Raises ``CommandExecutionError``, which names the path.
    """
    try:
        return _mta_x509.describe_key(data, passphrase, thorough)
    except CommandExecutionError as err:
        raise CommandExecutionError(f"{path} {err}") from err


def usable_key(path: str, data: bytes) -> _mta_x509.KeyFacts:
    """As :func:`describe_key`, thoroughly; also raises for a key that clients refuse."""
    facts = describe_key(f"The key {path}", data, thorough=True)
    if facts["weakness"]:
        raise CommandExecutionError(f"{path}: {facts['weakness']}. Move it away to get a new one")
    return facts


def _next_action(facts: _mta_x509.CertificateFacts, now: datetime.datetime) -> str:
    if now < facts["not_before"]:
        return "none: it is not valid yet; look at the clock"
    if now > facts["not_after"]:
        return "renewed at the next apply: it has expired"
    if now >= facts["renewal"]:
        return f"renewed at the next apply: its renewal began at {_mta_x509.date_of(facts['renewal'])}"
    return f"renewed at the first apply after {_mta_x509.date_of(facts['renewal'])}"


def _trusted(uid: int) -> bool:
    return uid in (0, os.geteuid())


def read(path: str) -> File | None:
    """
    Read the regular file at a path, through a link that root made.

    path
        Absolute path.

    Returns ``None`` when nothing is there. Raises ``SaltInvocationError`` when the path is not absolute,
    ``CommandExecutionError`` for what is no regular file, a link that is not followed, or what cannot be read.
    """
    if not isinstance(path, str) or not os.path.isabs(path):
        raise SaltInvocationError(f"An absolute path is needed, not {path!r}")
    _mta_system.look(path)
    try:
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            if not _trusted(status.st_uid):
                raise CommandExecutionError(
                    f"{path} is a symbolic link of user {status.st_uid}, and only root's are followed"
                )
            if not os.path.exists(path):
                raise CommandExecutionError(
                    f"{path} is a symbolic link to {os.readlink(path)}, which is not there"
                )
            status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise CommandExecutionError(f"{path} is not a regular file. Move it away")
    except FileNotFoundError:
        return None
    except OSError as err:
        raise CommandExecutionError(f"Cannot read {path}: {err.strerror}") from err
    data = _mta_system.read_bytes(path)
    return None if data is None else File(data, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)


def wrong_access(file: File, kind: Kind) -> str | None:
    """
    Tell who else has access to a file.

    Returns ``None`` when nobody has who should not, else a text such as ``can be read by others (mode 0644)``.
    """
    if not _trusted(file.uid):
        return f"belongs to user {file.uid}, not to root"
    if kind == "certificate":
        return f"can be written by others (mode {file.mode:04o})" if file.mode & 0o022 else None
    shared = kind == "left key" or (kind == "server key" and _mta_system.group_name(file.gid) == "ssl-cert")
    allowed = 0o640 if shared else 0o600
    return f"can be read by others (mode {file.mode:04o})" if file.mode & 0o177 & ~allowed else None


def reading_group(where: str) -> str | None:
    """
    Return the name, or else the number, of the group that may read a key where it was left.

    where
        Absolute path, or a pillar path, which no group reads.

    Returns ``None`` where none but root's does, or ``ssl-cert``, which is there for that.
    """
    file = read(where) if where.startswith("/") else None
    if file is None or not file.mode & 0o040 or file.gid == 0:
        return None
    group = _mta_system.group_name(file.gid)
    return None if group == "ssl-cert" else group


def source(minion: Minion, where: str, private: bool = False) -> bytes:
    """
    Return PEM text from where an administrator keeps it.

    where
        Absolute path of a file, or the pillar path of the text, or of an ``sdb://`` URI that leads to it.

    private
        It is a private key: a file that others can read is refused.

    Raises ``CommandExecutionError`` when nothing is there, or others can read a key.
    """
    if not where.startswith("/"):
        text: str | None = _mta_secrets.get(minion, where, longest=LONGEST, one_line=False)
        if text is None:
            raise CommandExecutionError(f"Pillar {where} is not there")
        return text.encode()
    file = read(where)
    if file is None:
        raise CommandExecutionError(f"{where} is not there")
    wrong = wrong_access(file, "left key") if private else None
    if wrong:
        raise CommandExecutionError(f"{where} {wrong}: chown root and chmod 600, and consider a new key")
    return file.data


def refuse_existing(*paths: str) -> None:
    """Raise ``CommandExecutionError`` when something is at one of these absolute paths."""
    for path in paths:
        if read(path) is not None:
            raise CommandExecutionError(f"{path} is there already and is not overwritten")
