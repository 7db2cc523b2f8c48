"""
The lock that postconf(1) takes before it edits main.cf or master.cf

While it is held no ``postconf -e`` reads or writes them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator

from salt.exceptions import CommandExecutionError

import _mta_postfix_view

SECONDS = 30.0


@contextlib.contextmanager
def held(config_directory: str, seconds: float | None = None) -> Iterator[None]:
    """
    Keep ``postconf -e`` out while files are switched, by its own protocol.

    edit_file(3) takes an exclusive flock(2) on FILE.tmp, and begins again when the file it locked is gone by
    then.

    seconds
        How long to wait for another program that has it. Default: 30.

    Raises ``CommandExecutionError`` when another program keeps it locked.
    """
    patience = SECONDS if seconds is None else seconds
    with contextlib.ExitStack() as locks:
        for name in _mta_postfix_view.FILES:
            locks.enter_context(_lock(os.path.join(config_directory, f"{name}.tmp"), patience))
        yield


@contextlib.contextmanager
def _lock(path: str, seconds: float) -> Iterator[None]:
    deadline = time.monotonic() + seconds
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as err:
            raise CommandExecutionError(f"Cannot lock {path}: {err.strerror}") from err
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    break
        except BlockingIOError:
            pass
        os.close(descriptor)
        if time.monotonic() > deadline:
            raise CommandExecutionError(f"Another program is editing: {path} has been locked for {seconds:g} s")
        time.sleep(0.05)
    try:
        yield
    finally:
        # A file that is not locked keeps nobody out, and where it cannot be removed there is worse to tell.
        with contextlib.suppress(OSError):
            os.unlink(path)
        os.close(descriptor)
