"""Write PEM files: keys are private from their first moment, and what belongs together is switched together."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping

from salt.exceptions import CommandExecutionError

import _mta_services
import _mta_transaction
from _mta_minion import Minion


def create(path: str, data: bytes, mode: int) -> None:
    """
    Create a file that must not exist, with its mode from the first moment, outside of any transaction.

    Raises ``CommandExecutionError`` when something is there, or the file cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        try:
            with open(descriptor, "wb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
        except BaseException:
            os.unlink(path)
            raise
    except FileExistsError as err:
        raise CommandExecutionError(f"{path} is there already and is not overwritten") from err
    except OSError as err:
        raise CommandExecutionError(f"Cannot create {path}: {err.strerror}") from err


def write(
    minion: Minion,
    files: Mapping[str, bytes],
    halted: bool = False,
    protect: Mapping[str, Iterable[str]] | None = None,
) -> None:
    """
    Write files that belong together, as part of the transaction; missing directories are made.

    Before the first of them is replaced it is tried whether there is room for all of them, and for the old ones
    should they have to come back: a full disk or a read-only file system changes nothing.

    files
        Absolute path to bytes. What holds a private key becomes root's with mode 0600, all else 0644.

    halted
        Whether Postfix is stopped meanwhile, as it must not see one of them without the others. Default ``False``.

    protect
        Path to the snapshots that forget its former content, as for :py:func:`_mta_transaction.write`. Default:
        none.

    Raises ``CommandExecutionError`` when a file cannot be written.
    """
    needed: dict[str, int] = {}
    for path, data in files.items():
        directory = os.path.dirname(os.path.realpath(path))
        needed[directory] = needed.get(directory, 0) + 2 * max(len(data), 4096)
    for directory, size in needed.items():
        if os.path.isdir(directory):
            _try_to_write(directory, size)
    ran = halted and _mta_transaction.halt(minion)
    for path, data in files.items():
        private = b"PRIVATE KEY-----" in data
        parent = os.path.dirname(path)
        if not os.path.isdir(parent):
            _mta_transaction.directory(minion, parent, mode="0700" if private else "0755")
        _mta_transaction.write(
            minion,
            path,
            data,
            user="root",
            group="root",
            mode="0600" if private else "0644",
            activate={"postfix": "reload"},
            protect=tuple((protect or {}).get(path, ())),
        )
    if ran:
        _mta_services.start("postfix")


def _try_to_write(directory: str, size: int) -> None:
    """Raise unless ``size`` more bytes fit into the directory."""
    try:
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".postfix_mta.") as handle:
            os.posix_fallocate(handle.fileno(), 0, size)
    except OSError as err:
        raise CommandExecutionError(
            f"Cannot write in {directory}: {err.strerror}. Nothing in it has been replaced"
        ) from err
