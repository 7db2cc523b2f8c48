"""
What was there before it was changed: files, directories and the databases of other tools, each as one entry.

A store is a directory of numbered entries below ``/var/lib/postfix_mta`` (the minion option ``mta_state_dir``
moves it). ``journal`` is that of the transaction under way (:py:mod:`mta_transaction`), ``originals`` has what was
there before the first apply (:py:mod:`mta_originals`), ``previous`` what was there before the last one
(:py:mod:`mta_previous`).

An entry is a directory: complete before it gets its name, and whole after a power loss. The journal is removed as
a whole. So whatever dies when, there is either nothing to do or a journal from which everything can be put back:
by the next apply, or at the next boot by a systemd unit that exists only while there is a journal.
"""

import contextlib
import hashlib
import json
import logging
import os
import pathlib
import re
import shutil
import stat
import subprocess
import tempfile

log = logging.getLogger(__name__)

HALTED = "halted"
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
# The journal in the words of sh(1), for a boot at which no Salt may run before Postfix does.
RECOVER_TEXT = """\
#!/bin/sh
# Restores what an interrupted postfix_mta apply had changed; installed only while one is under way.
journal={state_dir}/journal
for entry in $(ls -r "$journal"); do
    entry=$journal/$entry
    [ -e "$entry/path" ] || continue
    path=$(cat "$entry/path")
    case $(cat "$entry/kind") in
        file)
            cp -p "$entry/content" "$path.postfix_mta" && mv -f "$path.postfix_mta" "$path" || exit 1 ;;
        absent)
            rm -f "$path" || exit 1 ;;
        directory)
            chown "$(cat "$entry/owner")" "$path" && chmod "$(cat "$entry/mode")" "$path" || exit 1 ;;
        no-directory)
            for name in $(cat "$entry/runtime" 2>/dev/null); do rm -f "$path/$name"; done
            rmdir "$path" 2>/dev/null ;;
        command)
            sh "$entry/undo" >/dev/null 2>&1 ;;
    esac
done
sync
rm -rf "$journal" {unit_dir}/{unit} {unit_dir}/multi-user.target.wants/{unit} {state_dir}/recover.sh
"""


def _store(name):
    return pathlib.Path(__salt__["mta_state.path"](name))


def _sync(directory):
    """Make the names in a directory safe from a power loss."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def entries(store="journal"):
    """
    Return the entries of a store, oldest first.

    store
        ``journal``, ``originals`` or ``previous``; default the first.

    Returns a list of dictionaries: ``folder`` (of the entry), ``path`` (of what it saved, or the name of what a
    command changed), ``kind`` (``file``, ``absent``, ``directory``, ``no-directory``, ``command``).

    CLI Example:

    .. code-block:: bash

        salt '*' mta_journal.entries originals
    """
    folder = _store(store)
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


def fact(entry, name):
    """
    Return a fact of an entry; empty when it has none of that name.

    entry
        One of :func:`entries`.

    name
        ``module``: the member that made the change. ``left``, of an original: the :func:`fingerprint` of what the
        last apply that changed it left. ``owner`` and ``mode`` of a directory. ``runtime``: names of
        files that a daemon leaves in it, one in a line. ``do``, ``undo`` and ``evidence`` of a command.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_journal.fact '{"folder": "/var/lib/postfix_mta/originals/0000"}' module
    """
    try:
        return (pathlib.Path(entry["folder"]) / name).read_text()
    except FileNotFoundError:
        return ""


def begin(before):
    """
    Make the journal of a new transaction, and arm the unit that resolves it at the next boot.

    before
        What the server was like, a dictionary for :func:`before`.

    Raises ``OSError`` when it cannot be written.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_journal.begin '{"services": {}}'
    """
    _arm()
    journal = _store("journal")
    draft = journal.with_name(".journal")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    (draft / "before").write_text(json.dumps(before))
    _sync(draft)
    os.rename(draft, journal)
    _sync(journal.parent)


def before():
    """
    Return what the server was like before the journal's transaction; an empty dictionary when nobody knows.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_journal.before
    """
    try:
        return json.loads((_store("journal") / "before").read_text())
    except (OSError, ValueError):
        return {}


def halt():
    """
    Note in the journal that files are switched which Postfix must not see one without the other.

    Raises ``OSError`` when it cannot be written.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_journal.halt
    """
    (_store("journal") / HALTED).touch()
    _sync(_store("journal"))


def halted(store="journal"):
    """
    Tell whether files were switched that Postfix must not see one without the other.

    store
        As for :func:`entries`.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_journal.halted
    """
    return (_store(store) / HALTED).exists()


def _arm():
    """Install the unit that resolves the journal at the next boot."""
    if not os.path.isdir("/run/systemd/system"):
        return
    state_dir = _store("")
    facts = {"state_dir": state_dir, "unit_dir": UNIT_DIR, "unit": BOOT_UNIT}
    replace(state_dir / "recover.sh", RECOVER_TEXT.format(**facts).encode(), 0, 0, 0o700)
    unit = pathlib.Path(UNIT_DIR) / BOOT_UNIT
    replace(unit, UNIT_TEXT.format(**facts).encode(), 0, 0, 0o644)
    wants = pathlib.Path(UNIT_DIR) / "multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (wants / BOOT_UNIT).symlink_to(unit)


def _disarm():
    for path in (
        pathlib.Path(UNIT_DIR) / "multi-user.target.wants" / BOOT_UNIT,
        pathlib.Path(UNIT_DIR) / BOOT_UNIT,
        _store("recover.sh"),
    ):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def drop(keep=False):
    """
    Forget the journal in one step, then clear away what it consisted of.

    keep
        Make it the store ``previous`` instead. Default: no.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_journal.drop
    """
    journal, previous = _store("journal"), _store("previous")
    done = journal.with_name(".journal")
    shutil.rmtree(done, ignore_errors=True)
    os.rename(journal, done)
    _sync(journal.parent)
    if keep:
        shutil.rmtree(previous, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.rename(done, previous)
    shutil.rmtree(done, ignore_errors=True)
    _disarm()


def record(path, kind, facts=None):
    """
    Save what is at a path as the journal's next entry, unless this transaction has saved it already.

    path
        Absolute path, or the name of what a command changes.

    kind
        As in :func:`entries`.

    facts
        Dictionary of further facts, name to text, for :func:`fact`. Default: none.

    Raises ``OSError`` when it cannot be written.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_journal.record /etc/aliases file
    """
    journal, path = _store("journal"), pathlib.Path(path)
    there = entries()
    if any(entry["path"] == str(path) for entry in there):
        return
    name = f"{len(there):04d}"
    draft = journal / f".{name}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    (draft / "path").write_text(str(path))
    (draft / "kind").write_text(kind)
    for key, text in (facts or {}).items():
        if text:
            (draft / key).write_text(text)
    if kind == "file":
        shutil.copy2(path, draft / "content")
        status = path.stat()
        os.chown(draft / "content", status.st_uid, status.st_gid)
    elif kind == "directory":
        status = path.stat()
        (draft / "owner").write_text(f"{status.st_uid}:{status.st_gid}")
        (draft / "mode").write_text(f"{stat.S_IMODE(status.st_mode):o}")
    for child in draft.iterdir():
        with open(child, "rb") as handle:
            os.fsync(handle.fileno())
    _sync(draft)
    os.rename(draft, journal / name)
    _sync(journal)


def restore(entry):
    """
    Put back what an entry saved. Doing it twice does no harm.

    entry
        One of :func:`entries`.

    Raises ``OSError`` when that cannot be done.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_journal.restore '{"folder": "/var/lib/postfix_mta/journal/0000", "kind": "file",
            "path": "/etc/aliases"}'
    """
    path, kind = pathlib.Path(entry["path"]), entry["kind"]
    if kind == "file":
        content = pathlib.Path(entry["folder"]) / "content"
        saved = content.stat()
        times = saved.st_atime_ns, saved.st_mtime_ns
        replace(path, content.read_bytes(), saved.st_uid, saved.st_gid, stat.S_IMODE(saved.st_mode), times)
    elif kind == "absent":
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
    elif kind == "directory":
        owner, group = fact(entry, "owner").split(":")
        os.chown(path, int(owner), int(group))
        path.chmod(int(fact(entry, "mode"), 8))
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


def remove_directory(entry):
    """
    Remove a directory that was not there, with what its daemon leaves in it, unless there is more in it.

    entry
        One of :func:`entries`, of the kind ``no-directory``.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_journal.remove_directory '{"folder": "/var/lib/postfix_mta/journal/0000",
            "path": "/srv/made"}'
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


def replace(path, contents, uid, gid, mode, times=None):
    """
    Replace a file atomically: a reader sees the old or the new one whole, also after a power loss.

    path
        Absolute path (``str`` or ``pathlib.Path``).

    contents
        ``bytes``, or ``str`` (written as UTF-8).

    uid, gid, mode
        Numbers.

    times
        Access and modification time in nanoseconds. Default: now.

    Raises ``OSError`` when it cannot be written.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_journal.replace /srv/note hello 0 0 420
    """
    path = pathlib.Path(path)
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "wb") as handle:
            os.fchown(descriptor, uid, gid)
            with contextlib.suppress(OSError):
                for attribute in os.listxattr(path):
                    os.setxattr(descriptor, attribute, os.getxattr(path, attribute))
            # After an access control list, whose mask it sets: 0600 stays 0600.
            os.fchmod(descriptor, mode)
            handle.write(contents.encode() if isinstance(contents, str) else contents)
            handle.flush()
            os.fsync(descriptor)
        if times:
            os.utime(draft, ns=times)
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
        raise
    _sync(path.parent)


def remove(path):
    """
    Remove a file; a power loss does not bring it back.

    path
        Absolute path (``str`` or ``pathlib.Path``).

    Raises ``OSError`` when it cannot be removed.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_journal.remove /srv/note
    """
    os.unlink(path)
    _sync(os.path.dirname(path))


def _access(status):
    return f"{status.st_uid}:{status.st_gid} {stat.S_IMODE(status.st_mode):04o}"


def _fingerprint(path):
    """Contents, owner and mode of a file or directory in a word; empty where there is none."""
    if path.is_symlink():
        return f"link {os.readlink(path)}"
    try:
        status = path.stat()
        contents = "directory" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    return f"{contents} {_access(status)}"


def _in_force(entry):
    """What shows that a command's change is in force; empty when it is not."""
    file, pattern = json.loads(fact(entry, "evidence"))
    try:
        found = re.search(pattern, pathlib.Path(file).read_text(errors="replace"), re.MULTILINE)
    except FileNotFoundError:
        return ""
    # A group in the pattern tells what of the match is the change's own.
    return found[found.re.groups] if found else ""


def fingerprint(entry, saved=False):
    """
    Return what is now at an entry's place in a word, which differs when contents, owner or mode do.

    entry
        One of :func:`entries`.

    saved
        Of what the entry saved instead. Default: no.

    Returns text, empty where nothing is. Of what a command changed it is what the command's evidence finds.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_journal.fingerprint '{"folder": "/var/lib/postfix_mta/originals/0000", "kind": "file",
            "path": "/etc/aliases"}'
    """
    if saved:
        return _fingerprint(pathlib.Path(entry["folder"]) / "content")
    if entry["kind"] == "command":
        return _in_force(entry)
    return _fingerprint(pathlib.Path(entry["path"]))


def is_record(entry):
    """
    Tell whether an entry is a record of this formula's own, which is no work of anybody else.

    entry
        One of :func:`entries`.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_journal.is_record '{"path": "/var/lib/postfix_mta/maps.json"}'
    """
    return entry["path"].startswith(f"{_store('')}/")


def changed(entry, gone=()):
    """
    Tell whether what an entry saved is no longer so. A directory in which others have put something is theirs.

    entry
        One of :func:`entries`.

    gone
        Paths that are about to be removed. Default: none.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_journal.changed '{"folder": "/var/lib/postfix_mta/originals/0000", "kind": "absent",
            "path": "/etc/saslauthd.conf"}'
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
    status = path.stat()
    now = f"{status.st_uid}:{status.st_gid}", f"{stat.S_IMODE(status.st_mode):o}"
    return now != (fact(entry, "owner"), fact(entry, "mode"))
