"""Whether a mailbox can be written, as the file system shows: Postfix's agents stop one step before they try."""

from __future__ import annotations

import os
import pwd
import re
import stat
from collections.abc import Callable, Collection

# local(8), postconf(5).
SPOOL = "/var/mail"


def obstacle_of_all(value: Callable[[str], str], agent: str) -> str | None:
    """
    Tell what keeps local(8) or virtual(8) from writing any mailbox; ``None``: nothing that is known.

    value
        What a parameter is, expanded; empty: it is not set.

    agent
        ``local``, for users with a mailbox in the spool directory, or ``virtual``.
    """
    if agent == "local":
        spool = value("mail_spool_directory") or SPOOL
        missing = not value("home_mailbox") and not os.path.isdir(spool)
        return f"there is no directory {spool} (mail_spool_directory)" if missing else None
    base = value("virtual_mailbox_base")
    owner = re.fullmatch(r"static:(\d+)", value("virtual_uid_maps"))
    group = re.fullmatch(r"static:(\d+)", value("virtual_gid_maps"))
    if not (base and owner and group):
        return None
    folder = _nearest(base)
    if not os.path.isdir(folder):
        return f"{folder} is no directory (virtual_mailbox_base)"
    empty = not os.path.isdir(base) or not os.listdir(base)
    if empty and not may_write(folder, int(owner[1]), [int(group[1])]):
        return f"the user {owner[1]} can make no mailbox in {base} (virtual_mailbox_base, virtual_uid_maps)"
    return None


def obstacle(value: Callable[[str], str], user: str) -> str | None:
    """Tell what keeps local(8) from writing a user's mailbox, as :func:`obstacle_of_all` does for all of them."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        return None
    home, spool = value("home_mailbox"), value("mail_spool_directory") or SPOOL
    path = f"{entry.pw_dir}/{home}" if home else f"{spool}/{user}" + "/" * spool.endswith("/")
    maildir = path.endswith("/")
    if not home and not maildir:
        # Made by root, postconf(5).
        return None
    parameter = "home_mailbox" if home else "mail_spool_directory"
    folder = _nearest(path if maildir else os.path.dirname(path))
    if not os.path.isdir(folder):
        return f"{folder} is no directory ({parameter})"
    # A file that is there needs no other; a directory may be made with those above it.
    file = path if os.path.lexists(path) else os.path.dirname(path)
    place = folder if maildir else file
    groups = os.getgrouplist(user, entry.pw_gid)
    return None if may_write(place, entry.pw_uid, groups) else f"{user} may not write {place} ({parameter})"


def is_homeless(user: str) -> bool:
    """Whether a user of this host has no home: one of a daemon, or one who is still to come."""
    return not os.path.isdir(pwd.getpwnam(user).pw_dir)


def may_write(path: str, uid: int, groups: Collection[int]) -> bool:
    """Whether mode and owner let a user write; an access control list is not read, and may let everybody."""
    try:
        facts, lists = os.stat(path), os.listxattr(path)
    except OSError:
        return False
    if uid == 0 or "system.posix_acl_access" in lists:
        return True
    if facts.st_uid == uid:
        return bool(facts.st_mode & stat.S_IWUSR)
    if facts.st_gid in groups:
        return bool(facts.st_mode & stat.S_IWGRP)
    return bool(facts.st_mode & stat.S_IWOTH)


def _nearest(path: str) -> str:
    """The path, or the first above it that is there."""
    path = os.path.normpath(path)
    while not os.path.exists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path
