"""
The journal of a transaction: what was there before each change, in an entry that is whole after a power loss.

A store is a directory of numbered entries below the state directory: ``journal`` that of the transaction under
way, ``originals`` what was there before the first apply, ``previous`` what was there before the last one. An
entry is a directory: complete before it gets its name. The journal is committed, or removed, by one rename. So
whatever dies when, there is either nothing to do or a journal from which everything can be restored: by the
next apply, or at the next boot by a systemd unit that exists only while there is a journal.

Of a file the entry has the file itself, under a second name, and putting it back is a rename, which needs no
room on the disk. Where the state directory is on another file system the entry has a copy, and the second name
is beside the file until the transaction ends.

An entry also has the fingerprints of what the transaction is about to write there. A file that is neither as it
was saved nor as one of these is somebody's edit: it is kept beside the restored file. What is damaged, or of a
kind that this version does not know, is reported, and stands in the way of nothing else.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import json
import logging
import os
import pathlib
import re
import stat
import time
from collections.abc import Collection, Iterable, Mapping
from typing import IO, Any

from salt.exceptions import CommandExecutionError

import _mta_recovery
import _mta_system
from _mta_minion import Minion
from _mta_recovery import EDITED, NEW, NOT_RESTORED, OLD
from _mta_run import Run
from _mta_system import Path

log = logging.getLogger(__name__)

Entry = dict[str, str]  # "folder", "path" and "kind", as of entries()

HALTED = "halted"
COMMITTED = "committed"
KINDS = ("file", "absent", "directory", "no-directory", "command")


def _store(minion: Minion, name: str) -> pathlib.Path:
    return pathlib.Path(minion.state.path(name))


def entries(minion: Minion, store: str = "journal") -> list[Entry]:
    """
    Return the entries of a store, oldest first.

    store
        ``journal``, ``originals`` or ``previous``; default the first.

    Returns a list of dictionaries: ``folder`` (of the entry), ``path`` (of what it saved, or the name of what a
    command changed), ``kind`` (``file``, ``absent``, ``directory``, ``no-directory``, ``command``).
    """
    folder = str(_store(minion, store))
    try:
        # A dotted name is a draft: not complete.
        names = sorted(name for name in _mta_system.names(folder) if name.isdigit())
    except FileNotFoundError:
        return []
    found = []
    for name in names:
        # Whoever only looks holds no lock: an entry may be forgotten meanwhile.
        # One that is damaged is among :func:`damaged`.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, ValueError):
            entry = {"folder": f"{folder}/{name}", "path": _text(folder, name, "path")}
            entry["kind"] = _text(folder, name, "kind")
            if entry["path"] and entry["kind"]:
                found.append(entry)
    return found


def _text(*path: str) -> str:
    file = "/".join(path)
    _mta_system.look(file)
    with open(file) as handle:
        return handle.read()


def damaged(minion: Minion) -> list[Entry]:
    """
    Return what in the journal looks like an entry, and is none that this version can read: after a power loss on a
    disk that lies, say. Otherwise as :func:`entries`; ``path`` says what is known of it.
    """
    whole = {entry["folder"] for entry in entries(minion) if entry["kind"] in KINDS}
    found = []
    for folder in sorted(_store(minion, "journal").glob("[0-9]*")):
        if folder.name.isdigit() and str(folder) not in whole:
            entry = {"folder": str(folder), "path": "", "kind": "damaged"}
            with contextlib.suppress(OSError, ValueError):
                entry["path"] = fact(entry, "path")
            found.append({**entry, "path": entry["path"] or f"what entry {folder.name} of the journal has saved"})
    return found


def version(minion: Minion) -> str:
    """Return the version of the journal that is there; ``1`` where it has none. Raises ``OSError``."""
    try:
        return (_store(minion, "journal") / "version").read_text(errors="replace")
    except FileNotFoundError:
        return "1"


def fact(entry: Entry, name: str) -> str:
    """
    Return a fact of an entry; empty when it has none of that name.

    entry
        One of :func:`entries`.

    name
        ``module``: the participant that made the change. ``left``, of an original: the :func:`fingerprint` of
        what the last apply that changed it left. ``owner`` and ``mode`` of a directory. ``runtime``: names of
        files that a daemon leaves in it, one in a line. ``do``, ``undo`` and ``evidence`` of a command;
        ``removes``: it is in force where there is no evidence.
        ``protect``: names of the stores that forget it at the commit. ``wrote``: the SHA-256 of each content
        that the transaction has written, or was about to write, one in a line. ``saved``: the SHA-256 of the saved
        file, or where the saved symbolic link leads to.
    """
    try:
        return _text(entry["folder"], name)
    except FileNotFoundError:
        return ""


def _of_a_transaction(minion: Minion) -> None:
    """Raise unless this run has a transaction open: a journal that nobody closes is undone at the next boot."""
    if not Run.of(minion).transaction:
        raise CommandExecutionError(
            "This is for states, within a transaction: by itself it would leave a transaction open, which the next"
            " apply or the next boot undoes"
        )


def begin(minion: Minion, before: Mapping[str, Any]) -> IO[bytes]:
    """
    Make the journal of a new transaction, and arm what resolves it when this apply dies, or at the next boot.

    before
        What the server was like, a dictionary for :func:`before`.

    Returns a file that is locked: when it is closed and there is still a journal, the apply has died. Raises
    ``OSError`` when the journal cannot be written.
    """
    _of_a_transaction(minion)
    _mta_recovery.arm(minion)
    host, journal = _mta_system.host, _store(minion, "journal")
    draft = journal.with_name(".journal")
    _mta_system.clear(draft)
    host.mkdir(draft)
    services = [
        " ".join([name, *("yes" if was[what] else "no" for what in ("active", "enabled"))])
        for name, was in before["services"].items()
    ]
    facts = {
        "before": json.dumps(before),
        "version": _mta_recovery.VERSION,
        # For sh(1).
        "services": "".join(f"{line}\n" for line in services),
        "alive": "",
    }
    for name, text in facts.items():
        host.draft(draft / name, text.encode())
    make_safe(draft)
    alive = open(draft / "alive", "rb")  # noqa: SIM115 - held until the transaction ends
    try:
        fcntl.flock(alive, fcntl.LOCK_EX)
        host.rename(draft, journal)
        host.sync(journal.parent)
        # The state directory may be new.
        host.sync(journal.parent.parent)
        _mta_recovery.watch(minion)
    except BaseException:
        alive.close()
        raise
    return alive


def before(minion: Minion) -> dict[str, Any]:
    """
    Return what the server was like before the journal's transaction; an empty dictionary when nobody knows.
    """
    try:
        before: dict[str, Any] = json.loads((_store(minion, "journal") / "before").read_text())
        return before
    except (OSError, ValueError):
        return {}


def halt(minion: Minion) -> None:
    """
    Note in the journal that files are switched which Postfix must not see one without the other.

    Raises ``OSError`` when it cannot be written.
    """
    _of_a_transaction(minion)
    note = _store(minion, "journal") / HALTED
    if not note.exists():
        _mta_system.host.draft(note)
        make_safe(note.parent)


def halted(minion: Minion, store: str = "journal") -> bool:
    """
    Tell whether files were switched that Postfix must not see one without the other.

    store
        As for :func:`entries`.
    """
    return (_store(minion, store) / HALTED).exists()


def drop(minion: Minion) -> None:
    """
    Forget the journal in one step, then clear away what it consisted of.

    Raises ``OSError`` when it cannot be forgotten.
    """
    journal = _store(minion, "journal")
    done = journal.with_name(".journal")
    _mta_system.clear(done)
    _mta_system.host.rename(journal, done)
    _mta_system.host.sync(journal.parent)
    with contextlib.suppress(OSError):
        _mta_system.clear(done)
    _mta_recovery.disarm(minion)


def set_aside(minion: Minion, numbers: Iterable[str]) -> str:
    """
    Forget the journal but for the entries that could not be restored: these are set aside under another name.

    numbers
        List of the names of their folders.

    Returns the directory that has them now. Raises ``OSError`` when the journal cannot be renamed.
    """
    journal = _store(minion, "journal")
    aside = _unused(journal.with_name(NOT_RESTORED))
    _mta_system.host.rename(journal, aside)
    _mta_system.host.sync(journal.parent)
    for name in set(os.listdir(aside)) - set(numbers):
        with contextlib.suppress(OSError):
            _mta_system.clear(aside / name)
    _mta_recovery.disarm(minion)
    return str(aside)


def commit(minion: Minion) -> None:
    """
    Make what the journal's transaction changed final, by one rename: this is the point of no return.

    Raises ``OSError`` when it cannot be renamed; nothing has happened then. What is left to do is :func:`finish`.
    """
    journal = _store(minion, "journal")
    # All that is to be final is safe before it is.
    _mta_system.host.sync(journal.parent)
    _mta_system.host.rename(journal, journal.with_name(COMMITTED))
    with contextlib.suppress(OSError):
        _mta_system.host.sync(journal.parent)


def committed(minion: Minion) -> bool:
    """
    Tell whether there is a committed journal for which :func:`finish` has not been done.
    """
    return _store(minion, COMMITTED).exists()


def finish(minion: Minion) -> None:
    """
    Make a committed journal the store ``previous``, in place of the one before it.

    Raises ``OSError`` when that cannot be done. Doing it again then makes up for it.
    """
    previous = _store(minion, "previous")
    done = previous.with_name(".journal")
    for spare in [_spare(entry) for entry in entries(minion, COMMITTED) if entry["kind"] == "file"]:
        if os.path.lexists(spare):
            _mta_system.clear(spare)
            _mta_system.host.sync(spare.parent)
    _mta_system.clear(done)
    with contextlib.suppress(FileNotFoundError):
        _mta_system.host.rename(previous, done)
    _mta_system.host.rename(_store(minion, COMMITTED), previous)
    _mta_system.host.sync(previous.parent)
    with contextlib.suppress(OSError):
        _mta_system.clear(done)
    _mta_recovery.disarm(minion)


def _unused(path: Path) -> pathlib.Path:
    """``path`` with the time appended, and a number where that is taken."""
    base = f"{path}-{time.strftime('%Y%m%d-%H%M%S')}"
    names = (pathlib.Path(base if number == 1 else f"{base}-{number}") for number in itertools.count(1))
    return next(name for name in names if not os.path.lexists(name))


def record(
    minion: Minion,
    path: Path,
    kind: str,
    facts: Mapping[str, str] | None = None,
    contents: str | bytes | None = None,
) -> None:
    """
    Save what is at a path as the journal's next entry, unless this transaction has saved it already.

    path
        Absolute path, or the name of what a command changes.

    kind
        As in :func:`entries`.

    facts
        Dictionary of further facts, name to text, for :func:`fact`. Default: none.

    contents
        ``bytes`` or ``str`` that are about to be written there. Default: none.

    Raises ``OSError`` when it cannot be written.
    """
    _of_a_transaction(minion)
    host, journal, path = _mta_system.host, _store(minion, "journal"), pathlib.Path(path)
    there = entries(minion)
    wrote = "" if contents is None else f"{_digest(contents)}\n"
    for entry in there:
        if entry["path"] == str(path):
            if wrote not in fact(entry, "wrote"):
                host.append(os.path.join(entry["folder"], "wrote"), wrote.encode())
                make_safe(entry["folder"])
            return
    name = f"{len(there):04d}"
    draft = journal / f".{name}"
    _mta_system.clear(draft)
    host.mkdir(draft)
    known = {"path": str(path), "kind": kind, "wrote": wrote, **(facts or {})}
    if kind == "file":
        known["saved"] = _save(path, draft / "content")
    elif kind == "directory":
        known["owner"], known["mode"] = _rights(path.stat())
    for key, text in known.items():
        if text:
            host.draft(draft / key, text.encode("utf-8", "surrogateescape"))
    make_safe(draft)
    host.rename(draft, journal / name)
    host.sync(journal)
    if kind == "file":
        _spare_kept(path, {"folder": str(journal / name), "path": str(path), "kind": kind})


def _save(path: pathlib.Path, content: pathlib.Path) -> str:
    """Save a file by giving it another name, or else by a copy; return its fact ``saved``."""
    host = _mta_system.host
    try:
        host.link(path, content)
    except OSError:
        _copy(path, content)
    return f"link {os.readlink(content)}" if content.is_symlink() else _digest(content.read_bytes())


def _copy(path: pathlib.Path, to: pathlib.Path) -> None:
    """Copy a file, or a symbolic link itself, with all that belongs to it."""
    if path.is_symlink():
        _mta_system.host.symlink(os.readlink(path), to)
        return
    status = path.stat()
    mode, times = stat.S_IMODE(status.st_mode), (status.st_atime_ns, status.st_mtime_ns)
    attributes = _mta_system.attributes(path)
    _mta_system.host.draft(to, path.read_bytes(), status.st_uid, status.st_gid, mode, attributes, times)


def _draft(path: Path) -> pathlib.Path:
    """The name of what is about to be switched to ``path``."""
    path = pathlib.Path(path)
    return path.with_name(f".{path.name}{NEW}")


def _spare(entry: Entry) -> pathlib.Path:
    """The second name that a file has beside it, where the journal is on another file system."""
    path = pathlib.Path(entry["path"])
    return path.with_name(f".{path.name}{OLD}")


def _spare_kept(path: pathlib.Path, entry: Entry) -> None:
    """Give a file a second name beside it, where the entry has a copy only: to go back it then needs no room."""
    content, spare = pathlib.Path(entry["folder"]) / "content", _spare(entry)
    if content.is_symlink() or os.path.samefile(path, content):
        return
    with contextlib.suppress(OSError):
        _mta_system.clear(spare)
        _mta_system.host.link(path, spare)


def new_draft(path: Path) -> pathlib.Path:
    """
    Return the name, beside a file that :func:`record` has saved, for what is about to be switched to it.

    What a run that died has left there goes; what this one leaves goes with the journal. Raises ``OSError``.
    """
    draft = _draft(path)
    _mta_system.clear(draft)
    return draft


def make_safe(folder: Path) -> None:
    """
    Make a directory and the files in it safe from a power loss.

    folder
        Absolute path (``str`` or ``pathlib.Path``).

    Raises ``OSError`` when they cannot be written.
    """
    for child in sorted(pathlib.Path(folder).iterdir()):
        if child.is_file() and not child.is_symlink():
            _mta_system.host.sync(child)
    _mta_system.host.sync(folder)


def _digest(contents: str | bytes) -> str:
    """SHA-256 of ``bytes``, or of text as UTF-8, as sha256sum(1) shows it."""
    return hashlib.sha256(contents.encode() if isinstance(contents, str) else contents).hexdigest()


def restore(entry: Entry) -> str | None:
    """
    Restore what an entry saved. What is as it was saved is left alone. Doing it twice does no harm.

    entry
        One of :func:`entries`.

    Returns the name under which a file is kept that somebody else has edited meanwhile; ``None``: nobody has.
    Raises ``OSError`` when it cannot be restored; what is there stays then.
    """
    path, kind = pathlib.Path(entry["path"]), entry["kind"]
    if kind in ("file", "absent"):
        kept = None
        if kind == "absent":
            kept = _restore_nothing(entry)
        elif changed(entry) and not _moved(entry):
            kept = _restore_file(entry)
        for name in (_draft(path), _spare(entry)):
            if os.path.lexists(name):
                try:
                    _mta_system.clear(name)
                    _mta_system.host.sync(name.parent)
                except OSError as err:
                    log.warning("Cannot remove %s: %s", name, err)
        return kept
    if kind == "directory":
        _restore_rights(entry)
    elif kind == "no-directory":
        remove_directory(entry)
    elif kind == "command":
        done = _mta_system.host.run(["/bin/sh", os.path.join(entry["folder"], "undo")], check=False)
        if done.code and changed(entry):
            raise CommandExecutionError(done.message)
    else:
        raise CommandExecutionError(f"the journal's entry is {kind}")
    return None


def _restore_rights(entry: Entry) -> None:
    """Restore the owner and mode of a directory. One of /run is gone after a boot, and nobody misses it."""
    path = pathlib.Path(entry["path"])
    owner, mode = fact(entry, "owner"), fact(entry, "mode")
    if not path.is_dir() or (owner, mode) == _rights(path.stat()):
        return
    uid, gid = map(int, owner.split(":"))
    _mta_system.host.chown(path, uid, gid)
    _mta_system.host.chmod(path, int(mode, 8))
    _mta_system.host.sync(path)


def _rights(status: os.stat_result) -> tuple[str, str]:
    """Owner and mode as an entry has them."""
    return f"{status.st_uid}:{status.st_gid}", f"{stat.S_IMODE(status.st_mode):o}"


def _is_somebody_elses(entry: Entry) -> bool:
    """Whether a file is neither as it was saved, nor what the transaction has written."""
    path, content = pathlib.Path(entry["path"]), pathlib.Path(entry["folder"]) / "content"
    if path.is_symlink():
        return _fingerprint(path) != _fingerprint(content)
    try:
        there = path.read_bytes()
    except FileNotFoundError:
        return False
    if content.exists() and there == content.read_bytes():
        return False
    return _digest(there) not in fact(entry, "wrote").split()


def _moved(entry: Entry) -> bool:
    """Whether the file itself has been put back, so that the entry has it no more."""
    content = pathlib.Path(entry["folder"]) / "content"
    saved = fact(entry, "saved")
    return bool(saved) and not os.path.lexists(content) and _fingerprint(entry["path"]).startswith(saved)


def _sound(entry: Entry) -> bool:
    """Whether what was saved is what the entry says that it is; one of an older version does not say."""
    saved = fact(entry, "saved")
    return not saved or fingerprint(entry, saved=True).startswith(saved)


def _restore_file(entry: Entry) -> str | None:
    """Replace a file by what was saved; return the name under which somebody else's is kept, or ``None``."""
    path = pathlib.Path(entry["path"])
    if not _sound(entry):
        raise CommandExecutionError("what was saved is damaged")
    kept = _keep_beside(path) if _is_somebody_elses(entry) else None
    try:
        _put_back(entry)
    except BaseException:
        with contextlib.suppress(OSError):
            _mta_system.clear(_draft(path))
        # What has not been replaced needs no other name.
        if kept and _is_somebody_elses(entry):
            _mta_system.host.unlink(kept)
        raise
    _mta_system.host.sync(path.parent)
    return kept


def _put_back(entry: Entry) -> None:
    """
    Put a saved file in its place: by a rename of its second name, or of a copy where there is none.

    Where there is room for nothing, the one that the entry has is renamed.
    """
    path, content = pathlib.Path(entry["path"]), pathlib.Path(entry["folder"]) / "content"
    host, draft, spare = _mta_system.host, _draft(path), _spare(entry)
    _mta_system.clear(draft)
    try:
        host.link(content, draft)
    except OSError:
        if os.path.lexists(spare) and _fingerprint(spare) == fingerprint(entry, saved=True):
            host.rename(spare, path)
            return
        try:
            _copy(content, draft)
            if not draft.is_symlink():
                host.sync(draft)
        except OSError:
            with contextlib.suppress(OSError):
                _mta_system.clear(draft)
            host.rename(content, path)
            return
    host.rename(draft, path)


def _restore_nothing(entry: Entry) -> str | None:
    """Remove a file that was not there; return the name under which somebody else's is kept, or ``None``."""
    path = pathlib.Path(entry["path"])
    if not os.path.lexists(path):
        return None
    kept = None
    if _is_somebody_elses(entry):
        kept = str(_unused(f"{path}.{EDITED}"))
        _mta_system.host.rename(path, kept)
    else:
        _mta_system.host.unlink(path)
    _mta_system.host.sync(path.parent)
    return kept


def _keep_beside(path: pathlib.Path) -> str:
    """Give a file a second name beside it, or, where that cannot be, make a copy of it; return the name."""
    kept = _unused(f"{path}.{EDITED}")
    try:
        _mta_system.host.link(path, kept)
    except OSError:
        _copy(path, kept)
    return str(kept)


def remove_directory(entry: Entry) -> None:
    """
    Remove a directory that was not there, with what its daemon leaves in it, unless there is more in it.

    entry
        One of :func:`entries`, of the kind ``no-directory``.

    Raises ``OSError`` when it cannot be removed.
    """
    path = pathlib.Path(entry["path"])
    names = fact(entry, "runtime").split()
    there = os.listdir(path) if path.is_dir() else ["nothing"]
    if not all(name in names or name.endswith(NEW) for name in there):
        return
    for name in there:
        _mta_system.host.unlink(path / name)
    _mta_system.host.rmdir(path)
    _mta_system.host.sync(path.parent)


def remove(path: Path) -> None:
    """
    Remove a file; a power loss does not bring it back.

    path
        Absolute path (``str`` or ``pathlib.Path``).

    Raises ``OSError`` when it cannot be removed.
    """
    _mta_system.host.unlink(path)
    _mta_system.host.sync(os.path.dirname(path))


def _access(status: os.stat_result) -> str:
    return f"{status.st_uid}:{status.st_gid} {stat.S_IMODE(status.st_mode):04o}"


def _fingerprint(path: Path) -> str:
    """Contents, owner and mode of a file or directory in a word; empty where there is none."""
    path = pathlib.Path(path)
    if path.is_symlink():
        return f"link {os.readlink(path)}"
    try:
        status = path.stat()
        contents = "directory" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    return f"{contents} {_access(status)}"


def _in_force(entry: Entry) -> str:
    """What shows that a command's change is in force; empty when it is not."""
    file, pattern = json.loads(fact(entry, "evidence"))
    try:
        found = re.search(pattern, pathlib.Path(file).read_text(errors="replace"), re.MULTILINE)
    except FileNotFoundError:
        return ""
    # A group in the pattern tells what of the match is the change's own.
    return found[found.re.groups] if found else ""


def fingerprint(entry: Entry, saved: bool = False) -> str:
    """
    Return what is now at an entry's place in a word, which differs when contents, owner or mode do.

    entry
        One of :func:`entries`.

    saved
        Of what the entry saved instead. Default: no.

    Returns text, empty where nothing is. Of what a command changed it is what the command's evidence finds.
    """
    if saved:
        return _fingerprint(pathlib.Path(entry["folder"]) / "content")
    if entry["kind"] == "command":
        return _in_force(entry)
    return _fingerprint(pathlib.Path(entry["path"]))


def is_record(minion: Minion, entry: Entry) -> bool:
    """
    Tell whether an entry is a record of this formula's own, which is no work of anybody else.

    entry
        One of :func:`entries`.
    """
    return entry["path"].startswith(f"{_store(minion, '')}/")


def changed(entry: Entry, gone: Collection[str] = ()) -> bool:
    """
    Tell whether what an entry saved is no longer so. A directory in which others have put something is theirs.

    entry
        One of :func:`entries`.

    gone
        Paths that are about to be removed. Default: none.
    """
    path, kind = pathlib.Path(entry["path"]), entry["kind"]
    if kind == "file":
        return _fingerprint(path) != fingerprint(entry, saved=True)
    if kind == "absent":
        return os.path.lexists(path)
    if kind == "no-directory":
        names = fact(entry, "runtime").split()
        return path.is_dir() and all(name in names or str(path / name) in gone for name in os.listdir(path))
    if kind == "command":
        return bool(_in_force(entry)) is not bool(fact(entry, "removes"))
    if not path.is_dir():
        return False
    return _rights(path.stat()) != (fact(entry, "owner"), fact(entry, "mode"))
