"""
What the last apply left behind: when it was, how it ended, and what main.cf and master.cf were then.

The record is ``last_apply`` in the formula's state directory, readable by root alone. An apply that changed
something or failed writes it. One that found everything as it should be only touches it, so that the record tells
the time of the last apply at the price of one system call; it is written anew where it says something that is no
longer so: a failure, another revision, or another main.cf that this apply found good.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import time

STATE_DIR = "/var/lib/postfix_mta"
CONFIG_DIRECTORY = "/etc/postfix"
LONGEST_REASON = 2000


def _path():
    return pathlib.Path(__opts__.get("mta_state_dir", STATE_DIR)) / "last_apply"


def _mark(path):
    """What differs when a file has been replaced or written to; ``None`` where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_ino, status.st_size, status.st_mtime_ns]


def _digest(path):
    try:
        return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
    except OSError:
        return None


def _files():
    paths = [os.path.join(CONFIG_DIRECTORY, name) for name in ("main.cf", "master.cf")]
    return {path: {"mark": _mark(path), "sha256": _digest(path)} for path in paths}


def last():
    """
    Return the record of the last apply; ``None`` where there is none, or it cannot be read.

    - ``result``: ``changed``, ``unchanged`` or ``failed``; ``reason``: why it failed
    - ``time`` (Unix time): when it ended; ``confirmed``: when an apply last found nothing to change after it;
      ``commit``: when one last changed something (``None``: never)
    - ``changed``: the modules that changed something; ``revision``: the formula's
    - ``files``: main.cf and master.cf as they were left

    CLI Example:

    .. code-block:: bash

        salt '*' mta_record.last
    """
    path = _path()
    try:
        record = json.loads(path.read_bytes())
        # A file that was cut off by a full disk is none.
        return {**record, "confirmed": max(record["time"], path.stat().st_mtime)}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def drift():
    """
    Return which of main.cf and master.cf differ from what the last apply left; no process.

    A file is read only where its size, inode or time is another. ``None`` where no apply has left a record.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_record.drift
    """
    record = last()
    if not record or not record["files"]:
        return None
    return [path for path, file in record["files"].items() if not _same(path, file)]


def _same(path, file):
    mark = _mark(path)
    return mark == file["mark"] or (mark is not None and _digest(path) == file["sha256"])


def note(result, reason=None, changed=(), config=True, now=None):
    """
    Write down how an apply ended.

    result (str)
        ``changed``, ``unchanged`` or ``failed``.

    reason (str)
        Why it failed; no secrets.

    changed (list of str)
        The execution modules that changed something.

    config (bool, default True)
        Whether main.cf and master.cf were part of it: as they are is then how they should be.

    now (float, default: the clock)
        Unix time.

    Where it cannot be written (a full disk, a read-only file system), the apply goes on.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_record.note unchanged
    """
    now = time.time() if now is None else now
    record = last()
    files = (record or {}).get("files") or {}
    revision = __salt__["mta_settings.revision"]()
    if result == "unchanged" and record and record["result"] != "failed" and record["revision"] == revision:
        marks_kept = all(_mark(path) == file["mark"] for path, file in files.items())
        if not config or (files and marks_kept):
            with contextlib.suppress(OSError):
                os.utime(_path(), (now, now))
            return
    if config and result != "failed":
        files = _files()
    _write(
        {
            "time": now,
            "result": result,
            "reason": str(reason)[:LONGEST_REASON] if reason else None,
            "commit": now if result == "changed" else (record or {}).get("commit"),
            "changed": sorted(changed),
            "revision": revision,
            "files": files,
        },
        now,
    )


def forget():
    """
    Remove the record: this formula looks after the host no more.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_record.forget
    """
    with contextlib.suppress(OSError):
        _path().unlink()


def _write(record, now):
    path = _path()
    draft = path.with_name(f".{path.name}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as handle:
            json.dump(record, handle)
        os.utime(draft, (now, now))
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
