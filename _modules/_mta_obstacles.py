"""
Files that can be neither replaced nor removed: found before an apply changes anything, and named.

Such are a mount of its own (a bind mount), a file that chattr(1) has made immutable, one on a read-only file
system. Only files that an apply is about to change are of interest. Which these are each participant knows by
itself, when it is its turn. So the first one that changes something has those after it rehearsed, as a dry run,
where there is any such file among those that they name: on most hosts there is none, and nothing is rehearsed.
"""

from __future__ import annotations

import copy
import fcntl
import logging
import os
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import _mta_system
from _mta_minion import Minion
from _mta_plan import Plan
from _mta_run import KEY, Run
from _mta_system import Path

log = logging.getLogger(__name__)

# Of linux/fs.h.
FS_IOC_GETFLAGS = 0x80086601
APPEND_ONLY, IMMUTABLE = 0x20, 0x10
# What participants change without being told the path.
WELL_KNOWN = (
    "/etc/default/saslauthd",
    "/etc/default/postfix-mta-saslauthd",
    "/etc/group",
    "/etc/saslauthd.conf",
)
COMPILED = (".db", ".lmdb", ".cdb")


def check(minion: Minion, plan: Plan) -> list[str]:
    """
    Say which files cannot be replaced, of those that a plan changes, and that this run will change after it.

    plan
        Of the participant whose turn it is. The others are looked at once in a run.

    Each sentence names the file, the reason and what to do.
    """
    run = Run.of(minion)
    if run.obstacles is None:
        run.obstacles = []
        run.obstacles = _rehearsed(minion)
    run.obstacles = list(dict.fromkeys([*sentences(plan.paths()), *run.obstacles]))
    return run.obstacles


def sentences(paths: Iterable[Path]) -> list[str]:
    """Say which of these files cannot be replaced, why, and what to do about it."""
    return [f"Cannot change {path}: {reason}" for path, reason in irreplaceable(paths).items()]


def _rehearsed(minion: Minion) -> list[str]:
    """What a dry run of the states of this run finds; nothing where no file gives reason to have one."""
    run = Run.of(minion)
    paths = {*WELL_KNOWN, *(path for _, arguments in run.ahead for path in _paths(arguments))}
    if not irreplaceable(os.path.realpath(path) for path in paths):
        return []
    rehearsal = Run(obstacles=[])
    run.rehearsal = {**minion.context, KEY: rehearsal}
    try:
        for function, arguments in run.ahead:
            try:
                # Salt's own are read-only.
                function(**copy.deepcopy(arguments))
            except Exception as err:
                # It fails again when it is its turn.
                log.warning("The rehearsal of a state has failed: %s", err)
    finally:
        run.rehearsal = None
    return rehearsal.obstacles or []


def _paths(argument: Any) -> Iterator[str]:
    """The files that a state's arguments name: absolute paths, compiled forms of these, what is in directories."""
    if isinstance(argument, str):
        if argument.startswith("/") and "\n" not in argument:
            yield from (argument, *(argument + suffix for suffix in COMPILED))
            if os.path.isdir(argument):
                yield from (entry.path for entry in os.scandir(argument))
    elif isinstance(argument, Mapping):
        for value in argument.values():
            yield from _paths(value)
    elif isinstance(argument, Collection):
        for value in argument:
            yield from _paths(value)


def irreplaceable(paths: Iterable[Path]) -> dict[str, str]:
    """
    Tell which files can be neither replaced nor removed, or not be made: path to why, and what to do about it.

    A directory is never among them: it is not replaced.
    """
    # The fifth field; blanks are octal there.
    lines = (_mta_system.read("/proc/self/mountinfo") or "").splitlines()
    mounted = {line.split(" ")[4].replace("\\040", " ") for line in lines}
    found = {}
    for path in dict.fromkeys(os.fspath(path) for path in paths):
        reason = None if os.path.isdir(path) else _irreplaceable(path, mounted)
        if reason:
            found[path] = reason
    return found


def _irreplaceable(path: str, mounted: Collection[str]) -> str | None:
    if path in mounted:
        return "it is a mount of its own (a bind mount, say): unmount it, or mount its directory instead"
    folder = os.path.dirname(path)
    while folder != "/" and not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    for one in (path, folder):
        if _flags(one) & (IMMUTABLE | APPEND_ONLY):
            return f"{one} has been made immutable, or may only be appended to: chattr -i -a {one}"
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        mount = folder
        while not os.path.ismount(mount):
            mount = os.path.dirname(mount)
        return f"it is on a file system that is read-only: mount -o remount,rw {mount}"
    return None


def _flags(path: str) -> int:
    """The flags of a file or directory as chattr(1) sets them; none where there are no such flags."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return 0
    try:
        flags = fcntl.ioctl(descriptor, FS_IOC_GETFLAGS, struct.pack("l", 0))
        return int(struct.unpack("l", flags)[0])
    except OSError:
        return 0
    finally:
        os.close(descriptor)
