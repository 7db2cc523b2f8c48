"""TODO subject (mta_cert mta_pem)."""

import collections
import datetime
import grp
import os
import stat

from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_secrets
import _mta_x509
from _mta_minion import Minion

LONGEST = 65535  # bytes of PEM text in pillar: a chain of many RSA 8192 certificates
File = collections.namedtuple("File", "data mode uid gid")


def utc_now():
    return datetime.datetime.now(datetime.timezone.utc)


def date_of(moment):
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def inspect(path, renew_days=None):
    """
    Tell what a certificate is, and what will happen to it and when.

    path
        Absolute path of a PEM file; its first certificate is described.

    renew_days
        How many days before its end it is renewed. Default: a third of its lifetime, 30 at most.

    Returns ``None`` when nothing is there, else a dictionary:

    - ``subject``, ``issuer`` (RFC 4514 text), ``names`` (list), ``serial`` (hexadecimal), ``ca``,
      ``self_signed``
    - ``key`` (such as ``RSA 3072``), ``signature`` (hash)
    - ``not_before``, ``renewal``, ``not_after`` (UTC), ``days_left`` (whole days, negative when expired)
    - ``sha256``, ``sha1``: fingerprints
    - ``tlsa``: data of the TLSA record for DANE (RFC 7671, 5.1: usage 3, the public key's SHA-256, which a renewal
      keeps); ``tlsa_records``: the whole records for SMTP, one per name
    - ``chain``: subjects of the further certificates in the file
    - ``next_action``: in words, for a certificate that the formula makes itself

    Raises ``CommandExecutionError`` when the file is no PEM certificate.
    """
    file = read(path)
    if file is None:
        return None
    leaf, *others = describe(path, file, renew_days)
    now = utc_now()
    shown = (
        "subject",
        "names",
        "issuer",
        "key",
        "serial",
        "ca",
        "self_signed",
        "signature",
        "sha256",
        "sha1",
        "tlsa",
    )
    hosts = [name for name in leaf["names"] if name[:2] != "*." and not _is_address(name)]
    return {
        **{item: leaf[item] for item in shown},
        **{item: date_of(leaf[item]) for item in ("not_before", "renewal", "not_after")},
        "days_left": (leaf["not_after"] - now).days,
        "tlsa_records": [f"_25._tcp.{host}. IN TLSA {leaf['tlsa']}" for host in hosts],
        "chain": [other["subject"] or "(no subject)" for other in others],
        "next_action": _next_action(leaf, now),
    }


def _is_address(name):
    return ":" in name or name.replace(".", "").isdigit()


def describe(path, file, renew_days=None):
    try:
        return _mta_x509.describe(file.data, renew_days)
    except CommandExecutionError as err:
        raise CommandExecutionError(f"{path} {err}") from err


def _next_action(facts, now):
    if now < facts["not_before"]:
        return "none: it is not valid yet; look at the clock"
    if now > facts["not_after"]:
        return "renewed at the next apply: it has expired"
    if now >= facts["renewal"]:
        return f"renewed at the next apply: its renewal began at {date_of(facts['renewal'])}"
    return f"renewed at the first apply after {date_of(facts['renewal'])}"


def _trusted(uid):
    return uid in (0, os.geteuid())


def read(path):
    """
    Read the regular file at a path, through a link that root made.

    path
        Absolute path.

    Returns ``None`` when nothing is there, else a named tuple: ``data`` (bytes), ``mode``, ``uid``, ``gid``.

    Raises ``SaltInvocationError`` when the path is not absolute, ``CommandExecutionError`` for what is no regular
    file, a link that is not followed, or a file that cannot be read.
    """
    if not isinstance(path, str) or not os.path.isabs(path):
        raise SaltInvocationError(f"An absolute path is needed, not {path!r}")
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
        with open(path, "rb") as handle:
            return File(handle.read(), stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
    except FileNotFoundError:
        return None
    except OSError as err:
        raise CommandExecutionError(f"Cannot read {path}: {err.strerror}") from err


def wrong_access(path, file, kind):
    """
    Tell who else can get at a file.

    path, file
        Absolute path, and what :func:`read` returned for it.

    kind
        ``key`` (root alone reads it), ``server key`` (and the group ``ssl-cert``), ``certificate`` (all may read
        it, root alone writes it).

    Returns ``None`` when all is well, else a text such as ``can be read by others (mode 0644)``.
    """
    if not _trusted(file.uid):
        return f"belongs to user {file.uid}, not to root"
    if kind == "certificate":
        return f"can be written by others (mode {file.mode:04o})" if file.mode & 0o022 else None
    allowed = 0o640 if kind == "server key" and _group(file.gid) == "ssl-cert" else 0o600
    return f"can be read by others (mode {file.mode:04o})" if file.mode & 0o177 & ~allowed else None


def _group(gid):
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return None


def source(minion: Minion, where, private=False):
    """
    Return PEM text from where an administrator keeps it.

    where
        Absolute path of a file, or the pillar path of the text, or of an ``sdb://`` URI that leads to it.

    private
        It is a private key: a file that others can read is refused.

    Returns bytes. Raises ``CommandExecutionError`` when nothing is there, or others can read a key.
    """
    if not where.startswith("/"):
        text = _mta_secrets.get(minion, where, longest=LONGEST)
        if text is None:
            raise CommandExecutionError(f"Pillar {where} is not there")
        return text.encode()
    file = read(where)
    if file is None:
        raise CommandExecutionError(f"{where} is not there")
    wrong = private and wrong_access(where, file, "server key")
    if wrong:
        raise CommandExecutionError(f"{where} {wrong}: chown root and chmod 600, and think of a new key")
    return file.data


def refuse_existing(*paths):
    """
    Raise ``CommandExecutionError`` when something is at one of the paths.

    paths
        Absolute paths.
    """
    for path in paths:
        if read(path) is not None:
            raise CommandExecutionError(f"{path} is there already and is not overwritten")
