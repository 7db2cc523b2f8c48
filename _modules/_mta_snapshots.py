"""
The snapshots that commits keep: what was there before the first apply, and before the last one.

Beside the entries (:py:mod:`_mta_journal`), ``left`` says what an apply left, so that nobody's later change is
overwritten when it is restored.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import time
from collections.abc import Collection, Mapping
from typing import Any

from salt.exceptions import CommandExecutionError

import _mta_journal
import _mta_system
from _mta_journal import Entry
from _mta_minion import Minion

FIRST = "originals"
# What postmap(1) and postalias(1) make of a file beside it.
COMPILED = (".db", ".lmdb", ".cdb")
LAST = "previous"


def first_folder(minion: Minion) -> pathlib.Path:
    return pathlib.Path(minion.state.path(FIRST))


def services(minion: Minion, store: str = FIRST) -> dict[str, dict[str, bool]]:
    """What the daemons were like before the first apply, or with ``LAST`` before the last one, by name."""
    file = {FIRST: "services", LAST: "before"}[store]
    try:
        before: dict[str, Any] = json.loads(pathlib.Path(minion.state.path(store), file).read_text())
        services: dict[str, dict[str, bool]] = before["services"]
        return services
    except (OSError, ValueError):
        return {}


def content(minion: Minion, path: str) -> bytes | None:
    """
    Return what was in a file before the first apply.

    path
        Absolute path; a symbolic link is followed.

    Returns bytes; ``None`` when there was no such file, or it was never changed.
    """
    for entry in _mta_journal.entries(minion, FIRST):
        if entry["path"] == _mta_system.real_path(path) and entry["kind"] == "file":
            content = pathlib.Path(entry["folder"], "content")
            _mta_system.look(content)
            return content.read_bytes()
    return None


def _drafts(minion: Minion) -> list[tuple[pathlib.Path, pathlib.Path]]:
    """What :func:`keep` has written, in an order in which it may get its names: ``[(draft, name)]``."""
    store = first_folder(minion)
    drafts = [*store.glob("[0-9]*/.left"), *store.glob(".services"), *sorted(store.glob(".[0-9]*"))]
    return [(draft, draft.with_name(draft.name[1:])) for draft in drafts]


def keep(minion: Minion) -> None:
    """
    Keep what the journal has of paths that were never changed before, and in a word what the commit leaves.

    All of it is a draft until the commit is done (:func:`settle`): an undo leaves what was kept as it was.
    Where nothing was before and somebody has replaced what an apply made, it is theirs that is kept from now on.

    Raises ``OSError`` when it cannot be written.
    """
    host, store = _mta_system.host, first_folder(minion)
    if not store.is_dir():
        host.mkdir(store)
    discard(minion)
    if not (store / "services").exists():
        host.link(minion.state.path("journal/before"), store / ".services")
    there = _mta_journal.entries(minion, FIRST)
    kept = {entry["path"]: entry for entry in there}
    number = int(os.path.basename(there[-1]["folder"])) + 1 if there else 0
    for entry in _mta_journal.entries(minion):
        left = _mta_journal.fingerprint(entry)
        old = kept.get(entry["path"])
        if old and not _is_of_somebody_else(minion, old, entry):
            host.draft(pathlib.Path(old["folder"], ".left"), left.encode())
            _mta_journal.make_safe(old["folder"])
            continue
        if _mta_journal.fact(entry, "protect"):
            continue
        draft = store / f".{number:04d}"
        host.mkdir(draft)
        for name in sorted(os.listdir(entry["folder"])):
            # Both stores only ever replace, or forget, what they have.
            host.link(os.path.join(entry["folder"], name), draft / name)
        host.draft(draft / "left", left.encode())
        _mta_journal.make_safe(draft)
        if old:
            # Under the name of the one that it replaces.
            host.rename(draft, store / f".{os.path.basename(old['folder'])}")
            continue
        number += 1
    _mta_journal.make_safe(store)


def discard(minion: Minion) -> None:
    """
    Remove the drafts of :func:`keep`, where the commit is not done.

    Raises ``OSError`` when that cannot be done.
    """
    for draft, _ in _drafts(minion):
        _mta_system.clear(draft)


def settle(minion: Minion) -> None:
    """
    Give the drafts of :func:`keep` their names, after the commit. Doing it again makes up for a run that died.

    Raises ``OSError`` when that cannot be done.
    """
    drafts = _drafts(minion)
    for draft, name in drafts:
        if name.is_dir():
            drop(name)
        _mta_system.host.rename(draft, name)
    for folder in sorted({name.parent for _, name in drafts}):
        _mta_system.host.sync(folder)


def _is_of_somebody_else(minion: Minion, old: Entry, entry: Entry) -> bool:
    """Whether what the journal has saved was put there by somebody, where nothing was before the first apply."""
    if (
        (old["kind"], entry["kind"]) != ("absent", "file")
        or source(old["path"])
        or _mta_journal.is_record(minion, old)
    ):
        return False
    return _mta_journal.fingerprint(entry, saved=True) != _mta_journal.fact(old, "left")


def drop(folder: pathlib.Path) -> None:
    """Forget an entry in one step: who only looks holds no lock."""
    gone = folder.with_name(f"gone-{folder.name}")
    _mta_system.clear(gone)
    _mta_system.host.rename(folder, gone)
    _mta_system.host.sync(folder.parent)
    with contextlib.suppress(OSError):
        _mta_system.clear(gone)


def source(path: str) -> str:
    """The file from which a lookup table is compiled; empty for any other path."""
    source, suffix = os.path.splitext(path)
    return source if suffix in COMPILED else ""


def forget_entries(minion: Minion, paths: Collection[str]) -> None:
    """
    Forget what was restored, and remove the directories that were not there.

    paths
        List of paths.
    """
    for entry in reversed(_mta_journal.entries(minion, FIRST)):
        if entry["path"] in paths:
            if entry["kind"] == "no-directory":
                _mta_journal.remove_directory(entry)
            drop(pathlib.Path(entry["folder"]))


def describe(minion: Minion, activate: Mapping[str, str]) -> None:
    """
    Write down, in the journal, what the transaction leaves; called before the commit.

    activate
        What has to happen to put the files in force, service to action.

    Raises ``OSError`` when it cannot be written.
    """
    entries = _mta_journal.entries(minion)
    words = {entry["path"]: _mta_journal.fingerprint(entry) for entry in entries}
    text = json.dumps({"commit": time.time(), "paths": words, "activate": activate})
    _mta_system.host.draft(minion.state.path("journal/left"), text.encode())
    _mta_journal.make_safe(minion.state.path("journal"))


def protect(minion: Minion, store: str = LAST) -> None:
    """
    Forget what the last apply was to protect: a private key as it was before it was encrypted.

    store
        Where that is: ``previous``, or ``committed`` while the commit is being finished.

    Part of each commit, and of the next change where it could not be done then. Raises
    ``CommandExecutionError`` when it cannot be removed.
    """
    for entry in _mta_journal.entries(minion, store):
        stores = _mta_journal.fact(entry, "protect").split()
        try:
            if "originals" in stores:
                forget_entries(minion, [entry["path"]])
            if LAST in stores:
                drop(pathlib.Path(entry["folder"]))
        except OSError as err:
            raise CommandExecutionError(
                f"{entry['path']} is protected now, but its former content cannot be removed: {err}"
            ) from err


def described(minion: Minion) -> dict[str, Any]:
    """What :func:`describe` wrote at the last commit; empty when there is none."""
    return minion.state.read(f"{LAST}/left")


def last_commit(minion: Minion) -> float | None:
    """
    Return when a transaction last changed something for good, Unix time; ``None``: never, or nobody knows.
    """
    return described(minion).get("commit")


def forget_last(minion: Minion) -> None:
    """
    Forget what the last apply was: it can no longer be rolled back. The copies stay until the next one.
    """
    minion.state.forget(f"{LAST}/left")
