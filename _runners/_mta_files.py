"""Files of the master: replaced atomically."""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile

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
