"""
Switch the files that mail depends on as one transaction, verify it by a live SMTP conversation, and undo it.

Members (``postconf``, ``saslauthd``, ``mta_cert``, ``mta_aliases``, ``mta_map``) change files only through
:func:`write`, :func:`remove` and :func:`directory`, and the databases of other tools through :func:`command`.
Each of these first saves what was there in a journal below ``/var/lib/postfix_mta`` (the minion option
``mta_state_dir`` moves it), then replaces the file atomically.
:func:`close` activates the daemons, holds the conversation, and either drops the journal (commit) or puts
every saved file back and stops and starts the daemons (undo).

The journal is one directory for each change, complete before it gets its name and removed as a whole, so that
a process killed at any point, or a power loss, leaves either nothing to do or a journal from which
:func:`recover` (at the next apply) or a systemd unit that exists only meanwhile (at the next boot) restores the
old files. An exclusive ``flock(2)`` keeps a second run out, and tells a live journal from a left-over one.
"""

import contextlib
import fcntl
import grp
import hashlib
import json
import logging
import os
import pathlib
import pwd
import re
import shlex
import shutil
import stat
import subprocess
import tempfile
import time

from salt.exceptions import CommandExecutionError, SaltInvocationError

log = logging.getLogger(__name__)

STATE_DIR = "/var/lib/postfix_mta"
LOCK_TIMEOUT = 120
LOG_LINES = 12
SERVICES = ("saslauthd", "postfix")
STRENGTH = {"reload": 1, "restart": 2, "stop": 3}
DONE = {"reload": "reloaded", "restart": "restarted", "stop": "stopped"}
# In a journal: files were switched that Postfix must not see one without the other.
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


def _state_dir():
    return pathlib.Path(__opts__.get("mta_state_dir", STATE_DIR))


def _journal():
    return _state_dir() / "journal"


def _originals():
    return _state_dir() / "originals"


def _previous():
    return _state_dir() / "previous"


def _run():
    """What this run did so far; shared by all states of one run."""
    fresh = {"lock": None, "announced": {}, "changes": {}, "undone": None, "module": None}
    return __context__.setdefault("mta_transaction", fresh)


def _fsync_directory(path):
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _stronger(first, second):
    """Merge two activations; a restart includes a reload, and what is stopped needs neither."""
    merged = dict(first)
    for service, action in second.items():
        if action not in STRENGTH:
            raise SaltInvocationError(f"{service} can be activated by {', '.join(STRENGTH)}, not {action!r}")
        if STRENGTH[action] > STRENGTH.get(merged.get(service), 0):
            merged[service] = action
    return merged


# -- the journal -------------------------------------------------------------------------------


def _entries(folder=None):
    """The journal's entries (or the originals), oldest first. A dotted name is a draft: not complete."""
    folder = folder or _journal()
    try:
        names = sorted(name for name in os.listdir(folder) if name.isdigit())
    except FileNotFoundError:
        return []
    return [folder / name for name in names]


def _record(path, kind, facts=None):
    """
    Save what is at ``path`` as the journal's next entry, unless this transaction has saved it already.

    ``path`` may also be the name of what a command changes. ``facts``: more files of the entry, name to text.
    """
    path = pathlib.Path(path)
    entries = _entries()
    for entry in entries:
        if (entry / "path").read_text() == str(path):
            return
    name = f"{len(entries):04d}"
    draft = _journal() / f".{name}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    (draft / "path").write_text(str(path))
    (draft / "kind").write_text(kind)
    for fact, text in {"module": _run()["module"], **(facts or {})}.items():
        if text:
            (draft / fact).write_text(text)
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
    _fsync_directory(draft)
    os.rename(draft, _journal() / name)
    _fsync_directory(_journal())


def _restore(entry):
    """Put back what ``entry`` saved. Doing it twice does no harm."""
    path = pathlib.Path((entry / "path").read_text())
    kind = (entry / "kind").read_text()
    if kind == "file":
        saved = (entry / "content").stat()
        _replace(
            path,
            (entry / "content").read_bytes(),
            saved.st_uid,
            saved.st_gid,
            stat.S_IMODE(saved.st_mode),
            times=(saved.st_atime_ns, saved.st_mtime_ns),
        )
    elif kind == "absent":
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
    elif kind == "directory":
        owner, group = (entry / "owner").read_text().split(":")
        os.chown(path, int(owner), int(group))
        path.chmod(int((entry / "mode").read_text(), 8))
    elif kind == "no-directory":
        _remove_directory(entry)
    elif kind == "command":
        done = subprocess.run(
            ["/bin/sh", entry / "undo"], stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
        )
        if done.returncode:
            # Done before, by a run that was killed, or by hand.
            log.info("%s: %s", path, done.stderr.decode(errors="replace").strip())
    return str(path)


def _fact(entry, name):
    """A fact of an entry; empty when it has none of that name."""
    try:
        return (entry / name).read_text()
    except FileNotFoundError:
        return ""


def _remove_directory(entry):
    """Remove a directory that was not there, with what its daemon leaves in it, unless there is more in it."""
    path = pathlib.Path((entry / "path").read_text())
    names = _fact(entry, "runtime").split()
    try:
        if set(os.listdir(path)) <= set(names):
            for name in os.listdir(path):
                (path / name).unlink()
            path.rmdir()
    except OSError as err:
        log.info("%s stays: %s", path, err)


def _replace(path, contents, uid, gid, mode, times=None):
    """Replace ``path`` atomically: a reader sees the old or the new file whole, also after a power loss."""
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "wb") as handle:
            os.fchown(descriptor, uid, gid)
            with contextlib.suppress(OSError):
                for attribute in os.listxattr(path):
                    os.setxattr(descriptor, attribute, os.getxattr(path, attribute))
            # After an access control list, whose mask it sets: 0600 stays 0600.
            os.fchmod(descriptor, mode)
            handle.write(contents)
            handle.flush()
            os.fsync(descriptor)
        if times:
            os.utime(draft, ns=times)
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
        raise
    _fsync_directory(path.parent)


# -- begin, commit, undo -----------------------------------------------------------------------


def _lock():
    """Take the lock, waiting for another run to end."""
    _state_dir().mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = open(_state_dir() / "lock", "a+")  # noqa: SIM115 - held until the transaction closes
    deadline = time.monotonic() + LOCK_TIMEOUT
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                handle.close()
                raise CommandExecutionError(
                    f"Nothing was changed: another apply has held {_state_dir() / 'lock'} for {LOCK_TIMEOUT} s"
                ) from None
            time.sleep(0.2)
    return handle


def _begin():
    """Open the transaction at its first change: lock, look at the server as it is, arm the boot unit."""
    run = _run()
    if run["lock"]:
        return
    lock = _lock()
    try:
        if _journal().exists():
            log.warning("undid an interrupted apply: %s", ", ".join(_recover()))
        before = {
            "services": __salt__["mta_service.status"](list(SERVICES)),
            "answers": _answers_now(timeout=10, patience=1),
            "time": int(time.time()),
        }
        _arm()
        draft = _state_dir() / ".journal"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        (draft / "before").write_text(json.dumps(before))
        _fsync_directory(draft)
        os.rename(draft, _journal())
        _fsync_directory(_state_dir())
    except BaseException:
        lock.close()
        raise
    run.update(lock=lock, before=before, activate={}, activated=False, given_back=[])


def _answers_now(timeout, patience=0):
    """Whether the server answers at this moment; a server that does not run, does not."""
    try:
        return __salt__["mta_probe.check"](timeout=timeout, patience=patience)["answers"]
    except CommandExecutionError:
        return False


def _arm():
    """Install the unit that resolves the journal at the next boot."""
    if not os.path.isdir("/run/systemd/system"):
        return
    facts = {"state_dir": _state_dir(), "unit_dir": UNIT_DIR, "unit": BOOT_UNIT}
    _replace(_state_dir() / "recover.sh", RECOVER_TEXT.format(**facts).encode(), 0, 0, 0o700)
    unit = pathlib.Path(UNIT_DIR) / BOOT_UNIT
    _replace(unit, UNIT_TEXT.format(**facts).encode(), 0, 0, 0o644)
    wants = pathlib.Path(UNIT_DIR) / "multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (wants / BOOT_UNIT).symlink_to(unit)


def _disarm():
    for path in (
        pathlib.Path(UNIT_DIR) / "multi-user.target.wants" / BOOT_UNIT,
        pathlib.Path(UNIT_DIR) / BOOT_UNIT,
        _state_dir() / "recover.sh",
    ):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def _keep_originals():
    """
    Keep, of each path, what was there before the first apply ever changed it: ``.clean`` puts that back; and in a
    word what this one leaves there.
    """
    _originals().mkdir(mode=0o700, exist_ok=True)
    services = _originals() / "services"
    if not services.exists():
        shutil.copy2(_journal() / "before", services)
    there = _entries(_originals())
    kept = {(entry / "path").read_text(): entry for entry in there}
    number = int(there[-1].name) + 1 if there else 0
    for entry in _entries():
        path = (entry / "path").read_text()
        if path in kept:
            (kept[path] / "left").write_text(_left(path) or "")
            continue
        draft = _originals() / f".{number:04d}"
        shutil.rmtree(draft, ignore_errors=True)
        shutil.copytree(entry, draft)
        if (entry / "content").exists():
            status = (entry / "content").stat()
            os.chown(draft / "content", status.st_uid, status.st_gid)
        (draft / "left").write_text(_left(path) or "")
        os.rename(draft, _originals() / f"{number:04d}")
        number += 1


def _drop_journal(keep=False):
    """Forget the journal in one step, then clear away what it consisted of, or keep it for :func:`take_back`."""
    done = _state_dir() / ".journal"
    shutil.rmtree(done, ignore_errors=True)
    os.rename(_journal(), done)
    _fsync_directory(_state_dir())
    if keep:
        shutil.rmtree(_previous(), ignore_errors=True)
        with contextlib.suppress(OSError):
            os.rename(done, _previous())
    shutil.rmtree(done, ignore_errors=True)
    _disarm()


def _end(run):
    if run["lock"]:
        run["lock"].close()
    run.update(lock=None, announced={}, changes={})


def _resolve():
    """Undo what a journal says, whoever began it. Returns the paths restored."""
    restored = []
    units = False
    if (_journal() / HALTED).exists() and __salt__["mta_service.status"](["postfix"])["postfix"]["active"]:
        __salt__["mta_service.stop"]("postfix")
    for entry in reversed(_entries()):
        try:
            restored.append(_restore(entry))
        except OSError as err:
            raise CommandExecutionError(f"Cannot put back what {entry} saved: {err}") from err
        units = units or restored[-1].startswith(UNIT_DIR)
    if units:
        __salt__["mta_service.daemon_reload"]()
    return restored


def _recover():
    """Undo the left-over journal; the lock is ours. Returns the paths restored."""
    before = {"services": {}}
    with contextlib.suppress(OSError, ValueError):
        before = json.loads((_journal() / "before").read_text())
    restored = _resolve()
    _bring_back(before, activated=True)
    _drop_journal()
    return restored


def _bring_back(before, activated):
    """
    Bring the daemons back to the restored files and to the state they were in before.

    What does not come up with its old files did not before either: that is logged, and does not keep the others
    from coming back.
    """
    for name in SERVICES:
        try:
            _bring_back_service(name, before["services"].get(name, {}), activated)
        except CommandExecutionError as err:
            log.error("After undoing an apply: %s", err)


def _bring_back_service(name, was, activated):
    """One service of :func:`_bring_back`; ``was``: its status before, empty when unknown."""
    now = __salt__["mta_service.status"]([name])[name]
    if not now["installed"]:
        return
    if was.get("active", now["active"]):
        if activated or not now["active"]:
            # master(8) throttles a service after a fatal error; a reload would leave it dead.
            # One that would not come up with its old files goes on running, as before the apply.
            __salt__["mta_service.restart" if now["active"] else "mta_service.start"](name)
        elif name == "postfix":
            __salt__["mta_service.reload"](name)
    elif now["active"]:
        __salt__["mta_service.stop"](name)
    if now["enabled"] and was.get("enabled") is False:
        __salt__["mta_service.disable"](name)


def pending():
    """
    Begin a new run: forget what an earlier one in this process did, and tell whether one left a journal.

    Returns the list of the paths in the journal, or ``None`` when there is nothing to resolve.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_transaction.pending
    """
    __context__.pop("mta_transaction", None)
    if not _journal().exists():
        return None
    return [(entry / "path").read_text() for entry in _entries()]


def under_way():
    """
    Tell whether another apply holds the lock at this moment: a journal is then not a left-over one.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_transaction.under_way
    """
    try:
        with open(_state_dir() / "lock") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def recover():
    """
    Undo an interrupted transaction: put the saved files back and bring the daemons to them.

    Returns the list of the paths that were restored; ``None`` when there was nothing to resolve.
    Raises ``CommandExecutionError`` when another run holds the lock for two minutes, or a file cannot be
    restored.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_transaction.recover
    """
    if not _journal().exists():
        return None
    with _lock():
        return _recover() if _journal().exists() else None


def undo(reason):
    """
    Undo the transaction that is open in this run.

    reason
        Why, as a sentence; the later members of the run report it.

    Returns a dictionary: ``restored`` (list of paths) and ``answers`` (whether the server answers as it did
    before; ``None`` when it did not answer before).

    CLI Example:

    .. code-block:: bash

        salt '*' mta_transaction.undo 'no longer wanted'
    """
    run = _run()
    run["undone"] = reason
    if not run["lock"]:
        return {"restored": [], "answers": None}
    try:
        restored = _resolve()
        _bring_back(run["before"], run["activated"])
        answers = None
        if run["before"]["services"]["postfix"]["active"]:
            # Also when it did not answer before: this returns when it is up again.
            answers = _answers_now(timeout=20, patience=15) or (False if run["before"]["answers"] else None)
        _drop_journal()
    finally:
        _end(run)
    return {"restored": restored, "answers": answers}


# -- what members call -------------------------------------------------------------------------


def _numeric(user, group, status):
    """Numbers of a user and a group that are names or numbers; of ``status`` where they are ``None``."""
    try:
        if not isinstance(user, int):
            user = status.st_uid if user is None else pwd.getpwnam(user).pw_uid
        if not isinstance(group, int):
            group = status.st_gid if group is None else grp.getgrnam(group).gr_gid
    except KeyError as err:
        raise CommandExecutionError(f"There is no such user or group: {err.args[0]}") from err
    return user, group


def _mode(mode):
    try:
        return int(mode, 8)
    except (TypeError, ValueError):
        raise SaltInvocationError(f"mode must be an octal string such as '0644', not {mode!r}") from None


def write(path, contents, user=None, group=None, mode=None, activate=None):
    """
    Replace a file as part of the transaction; the old one comes back when the transaction is undone.

    path
        Absolute path. A symbolic link is followed: the file that it leads to is replaced.

    contents
        ``str`` (written as UTF-8) or ``bytes``.

    user, group
        Names or numbers. Default: those of the file that is there, root for a new one.

    mode
        Octal string. Default: that of the file that is there, ``0644`` for a new one.

    activate
        What has to happen before the change is in force: ``{"postfix": "reload"}``, or ``restart``.

    Raises ``CommandExecutionError`` when the file cannot be written; ``SaltInvocationError`` for a bad mode.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_transaction.write /etc/postfix/sasl/smtpd.conf 'mech_list: plain login'
    """
    if isinstance(contents, str):
        contents = contents.encode()
    path = pathlib.Path(os.path.realpath(path))
    bits = None if mode is None else _mode(mode)
    try:
        _begin()
        exists = path.exists()
        uid, gid = _numeric(user, group, path.stat() if exists else os.stat("/"))
        if bits is None:
            bits = stat.S_IMODE(path.stat().st_mode) if exists else 0o644
        _record(path, "file" if exists else "absent")
        need(activate)
        _replace(path, contents, uid, gid, bits)
    except OSError as err:
        raise CommandExecutionError(f"Cannot write {path}: {err.strerror or err}") from err


def remove(path, activate=None):
    """
    Remove a file as part of the transaction. A file that is not there is no error.

    path
        Absolute path; a symbolic link itself is not followed.

    activate
        As for :func:`write`.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_transaction.remove /etc/postfix/old.cf
    """
    path = pathlib.Path(path)
    if not path.exists():
        return
    try:
        _begin()
        _record(path, "file")
        need(activate)
        path.unlink()
        _fsync_directory(path.parent)
    except OSError as err:
        raise CommandExecutionError(f"Cannot remove {path}: {err.strerror or err}") from err


def directory(path, user="root", group="root", mode="0755", runtime=()):
    """
    Create a directory, or correct its owner and mode, as part of the transaction.

    path
        Absolute path. Missing parents are created, 0755 and root's.

    user, group, mode
        As for :func:`write`; defaults ``root``, ``root``, ``0755``.

    runtime
        Names of files that a daemon leaves in it; they go with the directory when it is taken away again. Default:
        none; a directory that is not empty then stays.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_transaction.directory /var/spool/postfix/var/run/saslauthd root sasl 0710
    """
    path = pathlib.Path(path)
    bits = _mode(mode)
    try:
        _begin()
        if not path.parent.is_dir():
            directory(str(path.parent))
        exists = path.is_dir()
        uid, gid = _numeric(user, group, os.stat("/"))
        _record(path, "directory" if exists else "no-directory", {"runtime": "\n".join(runtime)})
        if not exists:
            path.mkdir(mode=0o700)
        os.chown(path, uid, gid)
        path.chmod(bits)
    except OSError as err:
        raise CommandExecutionError(f"Cannot create {path}: {err.strerror or err}") from err


def command(item, do, undo, evidence):
    """
    Change what only a command of the system may change, as part of the transaction: an entry in its database.

    item
        A name for what is changed, such as ``group sasl: postfix``; it is shown, and must be unique.

    do
        List of commands, each a list of arguments.

    undo
        The commands that take it back. They are also run where ``do`` was not reached: that must do no harm.

    evidence
        ``[path, regular expression]``: a file in which a match shows that the change is in force.

    Raises ``CommandExecutionError`` when a command of ``do`` fails.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_transaction.command 'group sasl: postfix' '[[gpasswd, --add, postfix, sasl]]'
            '[[gpasswd, --delete, postfix, sasl]]' '[/etc/group, "^sasl:.*postfix"]'
    """
    _begin()
    facts = {"do": _script(do), "undo": _script(undo), "evidence": json.dumps(evidence)}
    _record(item, "command", facts)
    for argv in do:
        _command(argv)


def _script(commands):
    return "".join(f"{shlex.join(argv)}\n" for argv in commands)


def _command(argv):
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            timeout=60,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CommandExecutionError(f"'{shlex.join(argv)}' did not end within 60 seconds") from None
    except OSError as err:
        raise CommandExecutionError(f"Cannot run '{argv[0]}': {err.strerror}") from err
    if done.returncode:
        text = done.stdout.decode(errors="replace").strip()
        raise CommandExecutionError(f"'{shlex.join(argv)}' failed with exit code {done.returncode}: {text}")


def halt():
    """
    Stop Postfix, for the moment in which files are switched that it must not see one without the other.

    An undo, of this run or of one that was killed, stops it too before it puts such files back. Whoever calls
    starts it again; what ends the transaction otherwise does.

    Returns whether it ran. Raises ``CommandExecutionError`` when it cannot be stopped.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_transaction.halt
    """
    _begin()
    if not __salt__["mta_service.status"](["postfix"])["postfix"]["active"]:
        return False
    try:
        (_journal() / HALTED).touch()
        _fsync_directory(_journal())
    except OSError as err:
        raise CommandExecutionError(f"Cannot write {_journal()}: {err.strerror or err}") from err
    __salt__["mta_service.stop"]("postfix", for_good=False)
    return True


def need(activate):
    """
    Say what has to happen at the end for the changes to be in force.

    activate
        ``{"postfix": "reload"}``; a restart is stronger than a reload. ``stop``: the service is stopped after all
        others are activated, and disabled once the transaction has been committed. ``None``: nothing.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_transaction.need '{"postfix": "restart"}'
    """
    if activate:
        _begin()
        run = _run()
        run["activate"] = _stronger(run["activate"], activate)


def outlook():
    """
    Tell what the closing state will have to do.

    Returns ``{"changes": bool, "activate": {service: action}, "done": {service: the action as a participle},
    "undone": reason or None, "members": {module: changes}}``: in a real run what the members did, in test mode
    what they announced.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_transaction.outlook
    """
    run = _run()
    activate = run.get("activate", {}) if run["lock"] else run["announced"]
    return {
        "changes": bool(run["changes"]),
        "activate": dict(activate),
        "done": {service: DONE[action] for service, action in activate.items()},
        "undone": run["undone"],
        "members": dict(run["changes"]),
    }


def member(name, module, args, transaction=None, test=False, subject=None, functions=("plan", "apply")):
    """
    Run one member's plan, and its apply when there is something to change; return a complete state result.

    name
        The state's name.

    module
        The execution module that plans and applies.

    args
        Keyword arguments of both of its functions.

    transaction
        Name of the transaction whose closing state activates and verifies; ``None``: close it here.

    test
        Only plan, and tell the closing state what would have to be activated.

    subject
        What the comment calls the thing; default: the name.

    functions
        Names of the two functions; default ``("plan", "apply")``.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_transaction.member /etc/aliases mta_aliases '{"name": "/etc/aliases"}' test=True
    """
    run = _run()
    run["module"] = module
    subject = subject or name
    ret = {"name": name, "changes": {}, "result": True, "comment": f"{subject} is in the correct state."}
    if transaction and run["undone"]:
        ret.update(result=False, comment=f"{subject}: not applied; this apply was undone: {run['undone']}")
        return ret
    try:
        plan = __salt__[f"{module}.{functions[0]}"](**args)
        note = plan.get("comment")
        if plan.get("errors"):
            raise CommandExecutionError("\n".join(plan["errors"]))
        changes = plan["changes"]
        activate = plan.get("activate", {})
        if changes:
            run["changes"][module] = {**run["changes"].get(module, {}), **changes}
            changes = {**changes, "activation": max(activate.values(), key=STRENGTH.get, default="none")}
        if changes and test:
            run["announced"] = _stronger(run["announced"], activate)
            ret.update(result=None, changes=changes, comment=f"{subject} would have been changed.")
        elif changes:
            __salt__[f"{module}.{functions[1]}"](**args)
            ret.update(changes=changes, comment=f"{subject} has been changed.")
            if transaction:
                ret["comment"] += f" The transaction {transaction} puts that in force, or undoes it."
            else:
                outcome = close()
                ret["comment"] += f" {outcome['comment']}"
                if not outcome["result"]:
                    ret.update(result=False, changes={}, comment=outcome["comment"])
        if note:
            ret["comment"] += f"\n{note}"
    except (CommandExecutionError, SaltInvocationError) as err:
        ret.update(result=False, changes={}, comment=f"{subject}: {err}")
        if not test:
            undone = undo(f"{subject}: {err}")
            if undone["restored"]:
                ret["comment"] += "\n" + _undone_text(undone)
    except BaseException as err:
        if not test:
            undo(f"{subject}: {err!r}")
        raise
    finally:
        run["module"] = None
        if not transaction:
            __context__.pop("mta_transaction", None)
    return ret


def _undone_text(undone):
    text = "Undone: " + ", ".join(undone["restored"]) + "."
    if undone["answers"]:
        text += " The server answers as it did before."
    elif undone["answers"] is False:
        text += " THE SERVER DOES NOT ANSWER as it did before this apply: look at its log."
    return text


# -- closing -----------------------------------------------------------------------------------


def _server_log(since):
    """The server's own warnings and errors since ``since`` (Unix time), newest last."""
    lines = []
    if os.path.isdir("/run/systemd/system"):
        done = subprocess.run(
            ["journalctl", "--quiet", "--no-pager", "--output=cat", f"--since=@{since}", "SYSLOG_FACILITY=2"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=20,
            check=False,
        )
        lines = done.stdout.decode(errors="replace").splitlines()
    elif os.path.exists("/var/log/mail.log"):
        with open("/var/log/mail.log", "rb") as handle:
            handle.seek(max(0, os.fstat(handle.fileno()).st_size - 32768))
            lines = handle.read().decode(errors="replace").splitlines()
    wanted = [line for line in lines if any(word in line for word in ("fatal:", "error:", "panic:", "warning:"))]
    # What the conversation itself provokes: a login with a random name, a message with too many hops.
    wanted = [line for line in wanted if "hopcount exceeded" not in line and "authentication fail" not in line]
    return list(dict.fromkeys(wanted))[-LOG_LINES:]


def _responsible(changes, text):
    """The changed parameters and services that the server's words name, by name, else by value; else all."""

    def said(word):
        return re.search(rf"(?<![\w.]){re.escape(word)}(?![\w])", text)

    def parts(name, change):
        new = change.get("new")
        fields = new.items() if isinstance(new, dict) else [(name, new)]
        return [(field.replace("-o ", ""), "" if value is None else str(value)) for field, value in fields]

    # A value such as "no" or "1" is in any text.
    by_name, by_value = [], []
    for name, change in changes.items():
        found = parts(name, change)
        if said(name.split()[-1]) or any(said(field) for field, _ in found):
            by_name.append(name)
        elif any(len(value) > 3 and said(value) for _, value in found):
            by_value.append(name)
    return by_name or by_value or list(changes)


def close(services=None, verify=None):
    """
    Close the transaction: activate, hold the live conversation, then commit, or undo everything.

    services
        Names of services that must be enabled and running afterwards. Default: none is enabled; those that
        a member named are activated, or started when they are enabled and do not run.

    verify
        Arguments of ``mta_probe.check``; ``{"enabled": False}`` leaves the conversation out.

    Returns ``{"result": bool, "comment": str, "transcript": [str]}``.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_transaction.close
    """
    run = _run()
    _begin()
    verify = dict(verify or {})
    enabled = verify.pop("enabled", True)
    problems, notes, transcript = [], [], []
    try:
        done = _activate(run, services or [])
        if not enabled:
            notes = ["Not verified, as verify.enabled is false."]
        elif not __salt__["mta_service.status"](["postfix"])["postfix"]["active"]:
            notes = ["Not verified, as Postfix does not run and is not enabled."]
        else:
            thorough = {"auth": "challenge", "envelope": True, "stranger": True, "patience": 15}
            checked = __salt__["mta_probe.check"](**thorough, **verify)
            problems, transcript = checked["problems"], checked["transcript"]
            notes = ["The server answers.", *checked["notes"]]
    except CommandExecutionError as err:
        problems = [str(err)]
    except BaseException as err:
        undo(f"the conversation was interrupted: {err!r}")
        raise
    if not problems:
        _keep_originals()
        __salt__["mta_apply.wrote"]([(entry / "path").read_text() for entry in _entries()])
        _describe_left(run)
        _drop_journal(keep=True)
        left = []
        try:
            done += _put_away(run)
        except CommandExecutionError as err:
            left = [f"All is in force, but: {err}"]
        _end(run)
        comment = "\n".join([f"Done: {', '.join(done)}."] * bool(done) + notes + left)
        return {"result": not left, "comment": comment, "transcript": transcript}
    server_log = _server_log(run["before"]["time"])
    text = "\n".join(problems + server_log)
    changed = run["changes"].get("postconf", {})
    parts = ["The server did not answer as it should:", *[f"  {line}" for line in problems]]
    if server_log:
        parts += ["Its log says:", *[f"  {line}" for line in server_log]]
    if changed:
        parts.append("Changed parameters that may be responsible: " + ", ".join(_responsible(changed, text)))
    undone = undo("the live conversation failed: " + problems[0])
    if undone["restored"]:
        parts.append(_undone_text(undone))
    return {"result": False, "comment": "\n".join(parts), "transcript": transcript}


def _activate(run, services):
    """Enable, start, restart or reload what is needed; say what was done."""
    activate = run["activate"]
    names = [name for name in SERVICES if name in services or name in activate]
    status = __salt__["mta_service.status"](names)
    if any((entry / "path").read_text().startswith(UNIT_DIR) for entry in _entries()):
        __salt__["mta_service.daemon_reload"]()
    run["activated"] = True
    done = []
    # A daemon that is to stop goes last: until then the others may still ask it.
    for name in sorted(names, key=lambda name: activate.get(name) == "stop"):
        now = status[name]
        if not now["installed"]:
            if name in services:
                raise CommandExecutionError(f"{name} is not installed")
            continue
        if activate.get(name) == "stop":
            if now["active"]:
                __salt__["mta_service.stop"](name)
                done.append(f"{name} stopped")
            continue
        if name in services and not now["enabled"]:
            __salt__["mta_service.enable"](name)
            done.append(f"{name} enabled")
        if not now["active"]:
            # A daemon that is enabled should run: what keeps it from that may be what has just been mended.
            if name in services or now["enabled"]:
                __salt__["mta_service.start"](name)
                done.append(f"{name} started")
        elif name in activate:
            # A server that does not answer may be throttled by master(8): a reload would leave it dead.
            answers = name != "postfix" or run["before"]["answers"]
            action = activate[name] if answers else "restart"
            __salt__[f"mta_service.{action}"](name)
            done.append(f"{name} {DONE[action]}")
    return done


def _put_away(run):
    """
    Do what has to wait for the commit: what is stopped no longer starts at boot, what was given back is forgotten.

    Until the commit a power loss has to bring the old state up again. One in here does no harm: the next plan
    finds what is left.
    """
    done = []
    for name, action in run["activate"].items():
        if action == "stop" and __salt__["mta_service.status"]([name])[name]["enabled"]:
            __salt__["mta_service.disable"](name)
            done.append(f"{name} disabled")
    for entry in reversed(_entries(_originals())):
        if (entry / "path").read_text() in run["given_back"]:
            if (entry / "kind").read_text() == "no-directory":
                _remove_directory(entry)
            shutil.rmtree(entry)
    return done


# -- back to before the last apply ------------------------------------------------------------------------------


def _left(path):
    """What is at a path, in a word that differs when it does; ``None``: nothing."""
    path = pathlib.Path(path)
    if path.is_dir():
        return "directory"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


def _describe_left(run):
    """Write down, in the journal, what this transaction leaves, so that it can be taken back."""
    entries = [(entry / "path").read_text() for entry in _entries()]
    # Where there is no room for it, the commit still counts; it cannot be taken back.
    with contextlib.suppress(OSError):
        left = {
            "commit": time.time(),
            "paths": {path: _left(path) for path in entries},
            "activate": run["activate"],
        }
        (_journal() / "left").write_text(json.dumps(left))


def _what_was_left():
    try:
        return json.loads((_previous() / "left").read_text())
    except (OSError, ValueError):
        return None


def last_commit():
    """
    Return when a transaction last changed something for good, Unix time; ``None``: never, or nobody knows.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_transaction.last_commit
    """
    return (_what_was_left() or {}).get("commit")


def previous_plan(commit=None):
    """
    Tell what :func:`take_back` would put back, as ``{path: {"old": …, "new": …}}``.

    commit
        As for :func:`take_back`.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_transaction.previous_plan
    """
    left = _what_was_left()
    if left is None:
        return {"changes": {}, "errors": ["there is nothing that could be taken back"]}
    if commit is not None and left["commit"] != commit:
        return {"changes": {}, "errors": ["not taken back: another apply has changed something since"]}
    since = [path for path, word in left["paths"].items() if _left(path) != word]
    if since:
        return {"changes": {}, "errors": [f"not taken back: changed since the apply: {', '.join(since)}"]}
    change = {"old": "as the last apply made it", "new": "as before it"}
    return {"changes": dict.fromkeys(left["paths"], change), "activate": left["activate"]}


def previous_apply(commit=None):
    """
    Put every file back to how it was before the last apply that changed something, as one transaction.

    commit
        As for :func:`take_back`.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_transaction.previous_apply
    """
    left = _what_was_left()
    if (_previous() / HALTED).exists():
        halt()
    for entry in reversed(_entries(_previous())):
        if (entry / "kind").read_text() != "command":
            # It stays what that member gives back when it needs it no more.
            _run()["module"] = _fact(entry, "module")
            _give_back(entry, (entry / "path").read_text())
    need(left["activate"])
    if (_previous() / HALTED).exists():
        __salt__["mta_service.start"]("postfix")


def take_back(commit=None, test=False):
    """
    Take back what the last apply changed in the mail server's files, as one transaction that is verified.

    commit
        Unix time: the :func:`last_commit` that is meant, or a dictionary of minion id to it. Another one is an
        error. Default: the last.

    test
        Only tell.

    Packages, firewall, ``/etc/mailname`` and the trust store stay; so do directories that were made. As long as
    pillar has what was taken back, the next apply makes it again. A file that has been changed since is not
    overwritten: nothing is taken back then.

    Returns a state's result: ``result``, ``changes``, ``comment``.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_transaction.take_back test=True
    """
    pending()
    if isinstance(commit, dict):
        commit = commit[__opts__["id"]]
    errors = previous_plan(commit).get("errors")
    if errors:
        return {"name": "previous", "result": False, "changes": {}, "comment": "\n".join(errors)}
    functions = ("previous_plan", "previous_apply")
    subject = "What the last apply changed"
    options = {"test": test, "subject": subject, "functions": functions}
    return member("previous", "mta_transaction", {"commit": commit}, **options)


# -- back to before the first apply -----------------------------------------------------------------------------


def _changed(entry, gone=()):
    """
    Whether what an entry saved is no longer so. ``gone``: paths that are about to be removed.

    A directory in which others have put something counts as theirs.
    """
    path = pathlib.Path((entry / "path").read_text())
    kind = (entry / "kind").read_text()
    if kind == "file":
        return not path.exists() or path.read_bytes() != (entry / "content").read_bytes()
    if kind == "absent":
        return path.exists()
    if kind == "no-directory":
        names = _fact(entry, "runtime").split()
        return path.is_dir() and all(name in names or str(path / name) in gone for name in os.listdir(path))
    if kind == "command":
        file, pattern = json.loads((entry / "evidence").read_text())
        try:
            return bool(re.search(pattern, pathlib.Path(file).read_text(errors="replace"), re.MULTILINE))
        except FileNotFoundError:
            return False
    if not path.is_dir():
        return False
    status = path.stat()
    now = f"{status.st_uid}:{status.st_gid}", f"{stat.S_IMODE(status.st_mode):o}"
    return now != ((entry / "owner").read_text(), (entry / "mode").read_text())


def _changes(entries):
    """What putting entries back would change, as ``{path: {"old": …, "new": …}}``."""
    changes, gone = {}, set()
    # A directory was made before what is in it.
    for entry in reversed(entries):
        path, kind = (entry / "path").read_text(), (entry / "kind").read_text()
        if _changed(entry, gone):
            nothing = kind in ("absent", "no-directory", "command")
            changes[path] = {
                "old": "as this formula made it",
                "new": None if nothing else "as before the first apply",
            }
            gone.add(path)
    return changes


def superseded(module, wanted, untouched=False):
    """
    Tell what a member has once changed that is no longer wanted, and not as it was before its first change.

    module
        The member.

    wanted
        List of the paths, and names of what commands change, that it still wants, with all above them.

    untouched
        Only tell what is as the last apply that changed it left it: what somebody has replaced since is theirs.
        Default ``False``.

    Returns ``{path: {"old": …, "new": …}}``, for :func:`give_back`.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_transaction.superseded saslauthd '[/etc/default/saslauthd]'
    """
    # Files are kept by the paths that symbolic links lead to.
    wanted = [*wanted, *(os.path.realpath(item) for item in wanted if item.startswith("/"))]
    entries = []
    for entry in _entries(_originals()):
        path = (entry / "path").read_text()
        needed = any(item == path or item.startswith(f"{path}/") for item in wanted)
        if needed or _fact(entry, "module") != module:
            continue
        if not untouched or _fact(entry, "left") == (_left(path) or ""):
            entries.append(entry)
    return _changes(entries)


def give_back(paths):
    """
    Put back what was there before the first apply, as part of the transaction.

    A directory that was not there is removed when the transaction is committed, as a daemon may still use it.

    paths
        List of paths, as :func:`superseded` returns them.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_transaction.give_back '[/etc/saslauthd.conf]'
    """
    _begin()
    for entry in reversed(_entries(_originals())):
        path = (entry / "path").read_text()
        if path in paths:
            _give_back(entry, path)
            _run()["given_back"].append(path)


def _give_back(entry, path):
    kind = (entry / "kind").read_text()
    if kind == "file":
        status = (entry / "content").stat()
        owner = status.st_uid, status.st_gid
        write(path, (entry / "content").read_bytes(), *owner, mode=f"{stat.S_IMODE(status.st_mode):o}")
    elif kind == "absent":
        remove(path)
    elif kind == "directory":
        owner = map(int, (entry / "owner").read_text().split(":"))
        directory(path, *owner, mode=(entry / "mode").read_text())
    elif kind == "command" and _changed(entry):
        undo_, do = ([shlex.split(line) for line in _fact(entry, name).splitlines()] for name in ("undo", "do"))
        command(path, undo_, do, json.loads((entry / "evidence").read_text()))


def originals_plan():
    """
    Tell what differs from how it was before the first apply that committed, as ``{path: {"old": …, "new": …}}``.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_transaction.originals_plan
    """
    changes = _changes(_entries(_originals()))
    activate = {"postfix": "restart"} if changes else {}
    return {"changes": changes, "activate": {**activate, **_services_of_old(changes)}}


def _services_of_old(changes):
    """What has to happen to services other than Postfix when the originals come back."""
    if not changes:
        return {}
    try:
        before = json.loads((_originals() / "services").read_text())["services"]
    except (OSError, ValueError):
        return {}
    return {
        name: "restart" if was["active"] else "stop"
        for name, was in before.items()
        if was["installed"] and (name != "postfix" or not was["active"])
    }


def originals_apply():
    """
    Put every file back to how it was before the first apply that committed, as one transaction.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_transaction.originals_apply
    """
    plan = originals_plan()
    give_back(list(plan["changes"]))
    need(plan["activate"])


def originals_forget():
    """
    Bring the services to how they were before the first apply, and forget the originals.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_transaction.originals_forget
    """
    with contextlib.suppress(OSError, ValueError):
        before = json.loads((_originals() / "services").read_text())
        for name, was in before["services"].items():
            now = __salt__["mta_service.status"]([name])[name]
            if was["enabled"] and now["installed"] and not now["enabled"]:
                __salt__["mta_service.enable"](name)
            if was["active"] and now["installed"] and not now["active"]:
                __salt__["mta_service.start"](name)
    for kept in (_originals(), _previous()):
        shutil.rmtree(kept, ignore_errors=True)
    __salt__["mta_apply.forget"]()
