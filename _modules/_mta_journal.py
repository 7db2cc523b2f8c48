"""
The journal of a transaction: what was there before each change, in an entry that is whole after a power loss.

A store is a directory of numbered entries below the state directory: ``journal`` that of the transaction under
way, ``originals`` what was there before the first apply, ``previous`` what was there before the last one. An
entry is a directory: complete before it gets its name. The journal is committed, or removed, by one rename. So
whatever dies when, there is either nothing to do or a journal from which everything can be restored: by the
next apply, or at the next boot by a systemd unit that exists only while there is a journal.

An entry also has the fingerprints of what the transaction is about to write there. A file that is neither as it
was saved nor as one of these is somebody's edit: it is kept beside the restored file.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import logging
import os
import pathlib
import re
import shutil
import stat
import subprocess
import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from salt.exceptions import CommandExecutionError

import _mta_system
from _mta_minion import Minion
from _mta_run import Run
from _mta_system import Path

log = logging.getLogger(__name__)

Entry = dict[str, str]  # "folder", "path" and "kind", as of entries()

HALTED = "halted"
COMMITTED = "committed"
EDITED = "edited-meanwhile"
NOT_RESTORED = "not-restored"
BOOT_UNIT = "postfix-mta-recover.service"
UNIT_DIR = "/etc/systemd/system"
UNIT_TEXT = """\
[Unit]
Description=Undo an interrupted postfix_mta apply before Postfix starts
ConditionPathExists={state_dir}/journal
RequiresMountsFor={state_dir} /etc /var/spool/postfix
Before=postfix.service postfix@-.service saslauthd.service

[Service]
Type=oneshot
ExecStart=/bin/sh {state_dir}/recover.sh

[Install]
WantedBy=multi-user.target
"""
# The journal in the words of sh(1), for a boot at which no Salt may run before Postfix does: as restore() does it.
RECOVER_TEXT = """\
#!/bin/sh
# Restores what an interrupted postfix_mta apply had changed; installed only while one is under way.
# It tries every entry. A file that somebody else has edited meanwhile is kept beside the restored one.
state="{state_dir}"
journal=$state/journal
now=$(date +%Y%m%d-%H%M%S)
failed=
umask 077

# Owner and mode of a file or directory.
rights() {{ stat -L -c '%u:%g %a' "$1" 2>/dev/null; }}

# Whether what is at $path has been written by the apply, or is what the apply found.
known() {{
    sum=$(sha256sum < "$path") && grep -qxF "${{sum%% *}}" "$entry/wrote" || cmp -s "$entry/content" "$path"
}} 2>/dev/null

# Keep what is at $path beside it, as $kept, when somebody else has put it there.
keep() {{
    kept=
    [ -e "$path" ] || [ -L "$path" ] || return 0
    known && return 0
    [ -d "$path" ] && return 1
    kept=$path.{edited}-$now
    ln "$path" "$kept" 2>/dev/null || cp -p "$path" "$kept" || {{ rm -f "$kept"; return 1; }}
}}

# Restore one entry.
restore() {{
    kept=
    case $(cat "$entry/kind") in
        file)
            cmp -s "$entry/content" "$path" 2>/dev/null &&
                [ "$(rights "$entry/content")" = "$(rights "$path")" ] && return 0
            keep || return 1
            draft=$path.postfix_mta
            rm -f "$draft"
            # Where the disk is full there may be room for another name of what was saved.
            cp -p "$entry/content" "$draft" || {{ rm -f "$draft"; ln "$entry/content" "$draft"; }} || return 1
            mv -f "$draft" "$path" || {{ rm -f "$draft"; return 1; }} ;;
        absent)
            keep && rm -f "$path" ;;
        directory)
            [ "$(rights "$path")" = "$(cat "$entry/owner") $(cat "$entry/mode")" ] ||
                {{ chown "$(cat "$entry/owner")" "$path" && chmod "$(cat "$entry/mode")" "$path"; }} ;;
        no-directory)
            for name in $(cat "$entry/runtime" 2>/dev/null); do rm -f "$path/$name"; done
            rmdir "$path" 2>/dev/null
            return 0 ;;
        command)
            sh "$entry/undo" >/dev/null 2>&1
            return 0 ;;
    esac
}}

for entry in $(ls -r "$journal"); do
    number=$entry
    entry=$journal/$number
    [ -e "$entry/path" ] || continue
    path=$(cat "$entry/path")
    if restore; then
        [ -z "$kept" ] || echo "postfix_mta: $path has been edited meanwhile; that version is now $kept"
    else
        [ -z "$kept" ] || rm -f "$kept"
        failed="$failed $number"
        echo "postfix_mta: $path could not be restored; see $state/{not_restored}-$now/$number"
    fi
done
sync
if [ -n "$failed" ]; then
    aside=$state/{not_restored}-$now
    mv "$journal" "$aside" || exit 1
    for number in $(ls -A "$aside"); do
        case "$failed " in *" $number "*) ;; *) rm -rf "${{aside:?}}/$number" ;; esac
    done
else
    rm -rf "$state/.journal"
    mv "$journal" "$state/.journal" || exit 1
    rm -rf "$state/.journal"
fi
rm -f "{unit_dir}/{unit}" "{unit_dir}/multi-user.target.wants/{unit}" "$state/recover.sh"
[ -z "$failed" ]
"""


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
    folder = _store(minion, store)
    try:
        # A dotted name is a draft: not complete.
        names = sorted(name for name in os.listdir(folder) if name.isdigit())
    except FileNotFoundError:
        return []
    found = []
    for name in names:
        # Whoever only looks holds no lock: an entry may be forgotten meanwhile.
        with contextlib.suppress(FileNotFoundError):
            path, kind = ((folder / name / fact_).read_text() for fact_ in ("path", "kind"))
            found.append({"folder": str(folder / name), "path": path, "kind": kind})
    return found


def fact(entry: Entry, name: str) -> str:
    """
    Return a fact of an entry; empty when it has none of that name.

    entry
        One of :func:`entries`.

    name
        ``module``: the participant that made the change. ``left``, of an original: the :func:`fingerprint` of
        what the last apply that changed it left. ``owner`` and ``mode`` of a directory. ``runtime``: names of
        files that a daemon leaves in it, one in a line. ``do``, ``undo`` and ``evidence`` of a command.
        ``protect``: names of the stores that forget it at the commit. ``wrote``: the SHA-256 of each content
        that the transaction has written, or was about to write, one in a line.
    """
    try:
        return (pathlib.Path(entry["folder"]) / name).read_text()
    except FileNotFoundError:
        return ""


def _of_a_transaction(minion: Minion) -> None:
    """Raise unless this run has a transaction open: a journal that nobody closes is undone at the next boot."""
    if not Run.of(minion).transaction:
        raise CommandExecutionError(
            "This is for states, within a transaction: by itself it would leave a transaction open, which the next"
            " apply or the next boot undoes"
        )


def begin(minion: Minion, before: Mapping[str, Any]) -> None:
    """
    Make the journal of a new transaction, and arm the unit that resolves it at the next boot.

    before
        What the server was like, a dictionary for :func:`before`.

    Raises ``OSError`` when it cannot be written.
    """
    _of_a_transaction(minion)
    _arm(minion)
    journal = _store(minion, "journal")
    draft = journal.with_name(".journal")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    (draft / "before").write_text(json.dumps(before))
    _mta_system.sync_directory(draft)
    os.rename(draft, journal)
    _mta_system.sync_directory(journal.parent)


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
    (_store(minion, "journal") / HALTED).touch()
    _mta_system.sync_directory(_store(minion, "journal"))


def halted(minion: Minion, store: str = "journal") -> bool:
    """
    Tell whether files were switched that Postfix must not see one without the other.

    store
        As for :func:`entries`.
    """
    return (_store(minion, store) / HALTED).exists()


def _arm(minion: Minion) -> None:
    """Install the unit that resolves the journal at the next boot."""
    if not os.path.isdir("/run/systemd/system"):
        return
    state_dir = _store(minion, "")
    _mta_system.switch(state_dir / "recover.sh", _recover_script(state_dir, UNIT_DIR), 0, 0, 0o700)
    unit = pathlib.Path(UNIT_DIR) / BOOT_UNIT
    _mta_system.switch(unit, UNIT_TEXT.format(state_dir=state_dir), 0, 0, 0o644)
    wants = pathlib.Path(UNIT_DIR) / "multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (wants / BOOT_UNIT).symlink_to(unit)


def _recover_script(state_dir: Path, unit_dir: Path) -> str:
    """The text of recover.sh."""
    names = {"edited": EDITED, "not_restored": NOT_RESTORED, "unit": BOOT_UNIT}
    return RECOVER_TEXT.format(state_dir=state_dir, unit_dir=unit_dir, **names)


def _disarm(minion: Minion) -> None:
    """Take the unit away. One that stays does nothing without a journal."""
    for path in (
        pathlib.Path(UNIT_DIR) / "multi-user.target.wants" / BOOT_UNIT,
        pathlib.Path(UNIT_DIR) / BOOT_UNIT,
        _store(minion, "recover.sh"),
    ):
        try:
            path.unlink()
        except FileNotFoundError:
            pass
        except OSError as err:
            log.warning("Cannot remove %s: %s", path, err)


def drop(minion: Minion) -> None:
    """
    Forget the journal in one step, then clear away what it consisted of.

    Raises ``OSError`` when it cannot be forgotten.
    """
    journal = _store(minion, "journal")
    done = journal.with_name(".journal")
    shutil.rmtree(done, ignore_errors=True)
    os.rename(journal, done)
    _mta_system.sync_directory(journal.parent)
    shutil.rmtree(done, ignore_errors=True)
    _disarm(minion)


def set_aside(minion: Minion, numbers: Iterable[str]) -> str:
    """
    Forget the journal but for the entries that could not be restored: these are set aside under another name.

    numbers
        List of the names of their folders.

    Returns the directory that has them now. Raises ``OSError`` when the journal cannot be renamed.
    """
    journal = _store(minion, "journal")
    aside = _unused(journal.with_name(NOT_RESTORED))
    os.rename(journal, aside)
    _mta_system.sync_directory(journal.parent)
    for name in set(os.listdir(aside)) - set(numbers):
        if (aside / name).is_dir():
            shutil.rmtree(aside / name, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                (aside / name).unlink()
    _disarm(minion)
    return str(aside)


def commit(minion: Minion) -> None:
    """
    Make what the journal's transaction changed final, by one rename: this is the point of no return.

    Raises ``OSError`` when it cannot be renamed; nothing has happened then. What is left to do is :func:`finish`.
    """
    journal = _store(minion, "journal")
    os.rename(journal, journal.with_name(COMMITTED))
    with contextlib.suppress(OSError):
        _mta_system.sync_directory(journal.parent)


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
    shutil.rmtree(done, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        os.rename(previous, done)
    os.rename(_store(minion, COMMITTED), previous)
    shutil.rmtree(done, ignore_errors=True)
    _disarm(minion)


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
    journal, path = _store(minion, "journal"), pathlib.Path(path)
    there = entries(minion)
    wrote = "" if contents is None else f"{_digest(contents)}\n"
    for entry in there:
        if entry["path"] == str(path):
            if wrote not in fact(entry, "wrote"):
                _append(os.path.join(entry["folder"], "wrote"), wrote)
            return
    name = f"{len(there):04d}"
    draft = journal / f".{name}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    (draft / "path").write_text(str(path))
    (draft / "kind").write_text(kind)
    for key, text in {"wrote": wrote, **(facts or {})}.items():
        if text:
            (draft / key).write_text(text)
    if kind == "file":
        shutil.copy2(path, draft / "content")
        status = path.stat()
        os.chown(draft / "content", status.st_uid, status.st_gid)
    elif kind == "directory":
        owner, mode = _rights(path.stat())
        (draft / "owner").write_text(owner)
        (draft / "mode").write_text(mode)
    make_safe(draft)
    os.rename(draft, journal / name)
    _mta_system.sync_directory(journal)


def make_safe(folder: Path) -> None:
    """
    Make a directory and the files in it safe from a power loss.

    folder
        Absolute path (``str`` or ``pathlib.Path``).

    Raises ``OSError`` when they cannot be written.
    """
    for child in pathlib.Path(folder).iterdir():
        if child.is_file():
            with open(child, "rb") as handle:
                os.fsync(handle.fileno())
    _mta_system.sync_directory(folder)


def _append(path: Path, text: str) -> None:
    """Append to a file, safe from a power loss."""
    with open(path, "a") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    _mta_system.sync_directory(os.path.dirname(path))


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
    if kind == "file":
        return _restore_file(entry) if changed(entry) else None
    if kind == "absent":
        return _restore_nothing(entry)
    if kind == "directory":
        rights = fact(entry, "owner"), fact(entry, "mode")
        if rights != _rights(path.stat()):
            os.chown(path, *map(int, rights[0].split(":")))
            path.chmod(int(rights[1], 8))
    elif kind == "no-directory":
        remove_directory(entry)
    elif kind == "command":
        script = os.path.join(entry["folder"], "undo")
        done = subprocess.run(
            ["/bin/sh", script], stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
        )
        if done.returncode:
            # Done before, by a run that was killed, or by hand.
            log.info("%s: %s", path, done.stderr.decode(errors="replace").strip())
    return None


def _rights(status: os.stat_result) -> tuple[str, str]:
    """Owner and mode as an entry has them."""
    return f"{status.st_uid}:{status.st_gid}", f"{stat.S_IMODE(status.st_mode):o}"


def _is_somebody_elses(entry: Entry) -> bool:
    """Whether a file is neither as it was saved, nor what the transaction has written."""
    path, content = pathlib.Path(entry["path"]), pathlib.Path(entry["folder"]) / "content"
    try:
        there = path.read_bytes()
    except FileNotFoundError:
        return path.is_symlink()
    if content.exists() and there == content.read_bytes():
        return False
    return _digest(there) not in fact(entry, "wrote").split()


def _restore_file(entry: Entry) -> str | None:
    """Replace a file by what was saved; return the name under which somebody else's is kept, or ``None``."""
    path, content = pathlib.Path(entry["path"]), pathlib.Path(entry["folder"]) / "content"
    kept = _keep_beside(path) if _is_somebody_elses(entry) else None
    try:
        saved = content.stat()
        times = saved.st_atime_ns, saved.st_mtime_ns
        try:
            mode = stat.S_IMODE(saved.st_mode)
            _mta_system.switch(path, content.read_bytes(), saved.st_uid, saved.st_gid, mode, times)
        except OSError as err:
            if err.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            if not _replace_by_link(path, content):
                raise
    except BaseException:
        # What has not been replaced needs no other name.
        if kept and _is_somebody_elses(entry):
            os.unlink(kept)
        raise
    return kept


def _replace_by_link(path: pathlib.Path, content: pathlib.Path) -> bool:
    """Where the disk is full there may be room for another name of what was saved; return whether there was."""
    draft = _unused(path.with_name(f".{path.name}"))
    try:
        os.link(content, draft)
        os.replace(draft, path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
        return False
    return True


def _restore_nothing(entry: Entry) -> str | None:
    """Remove a file that was not there; return the name under which somebody else's is kept, or ``None``."""
    path = pathlib.Path(entry["path"])
    if _is_somebody_elses(entry):
        kept = str(_unused(f"{path}.{EDITED}"))
        os.rename(path, kept)
        return kept
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    return None


def _keep_beside(path: pathlib.Path) -> str:
    """Give a file a second name beside it, or, where that cannot be, make a copy of it; return the name."""
    kept = str(_unused(f"{path}.{EDITED}"))
    try:
        os.link(path, kept, follow_symlinks=False)
    except OSError:
        status = path.stat()
        _mta_system.switch(kept, path.read_bytes(), status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))
    return kept


def remove_directory(entry: Entry) -> None:
    """
    Remove a directory that was not there, with what its daemon leaves in it, unless there is more in it.

    entry
        One of :func:`entries`, of the kind ``no-directory``.
    """
    path = pathlib.Path(entry["path"])
    names = fact(entry, "runtime").split()
    try:
        if set(os.listdir(path)) <= set(names):
            for name in os.listdir(path):
                (path / name).unlink()
            path.rmdir()
    except OSError as err:
        log.info("%s stays: %s", path, err)


def remove(path: Path) -> None:
    """
    Remove a file; a power loss does not bring it back.

    path
        Absolute path (``str`` or ``pathlib.Path``).

    Raises ``OSError`` when it cannot be removed.
    """
    os.unlink(path)
    _mta_system.sync_directory(os.path.dirname(path))


def _access(status: os.stat_result) -> str:
    return f"{status.st_uid}:{status.st_gid} {stat.S_IMODE(status.st_mode):04o}"


def _fingerprint(path: pathlib.Path) -> str:
    """Contents, owner and mode of a file or directory in a word; empty where there is none."""
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
        return path.exists()
    if kind == "no-directory":
        names = fact(entry, "runtime").split()
        return path.is_dir() and all(name in names or str(path / name) in gone for name in os.listdir(path))
    if kind == "command":
        return bool(_in_force(entry))
    if not path.is_dir():
        return False
    return _rights(path.stat()) != (fact(entry, "owner"), fact(entry, "mode"))
