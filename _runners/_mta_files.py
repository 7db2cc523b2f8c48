"""Files of the master: replaced atomically, and kept from other processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import tempfile
from collections.abc import Iterator

from salt.exceptions import CommandExecutionError


def replace(path: pathlib.Path, text: str, mode: int) -> None:
    """
    Replace a file, or create it: a reader sees the old or the new one whole, also after a power loss.

    Raises ``CommandExecutionError``.
    """
    try:
        descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with open(descriptor, "w", encoding="utf-8") as handle:
                os.fchmod(descriptor, mode)
                handle.write(text)
                handle.flush()
                os.fsync(descriptor)
            os.replace(draft, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(draft)
            raise
    except OSError as err:
        raise CommandExecutionError(f"Cannot write {path}: {err.strerror}") from err


@contextlib.contextmanager
def held(path: pathlib.Path, wait: bool) -> Iterator[None]:
    """
    Keep other processes that call this from a file, by one beside it; make the directory where there is none.

    wait
        Whether to wait for another process; else ``BlockingIOError`` says that there is one.

    Raises ``OSError``.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(path.with_suffix(".lock"), "a", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
