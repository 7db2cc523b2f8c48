"""
Switch the files that mail depends on as one transaction, verify it by a live SMTP conversation, and undo it.

Members (``postconf``, ``saslauthd``, ``mta_cert``, ``mta_aliases``, ``mta_map``) change files only through
:func:`write`, :func:`remove` and :func:`directory`, and the databases of other tools through :func:`command`.
Each of these first saves what was there in the journal (:py:mod:`mta_journal`), then replaces the file atomically.
:func:`close` activates the daemons, holds the conversation, and either renames the journal (commit) or puts
every saved file back and stops and starts the daemons (undo). What can fail comes before that rename. An undo
tries every file; what it could not put back, and what somebody else had edited meanwhile, is kept and reported.

A run that is killed leaves its journal, which :func:`recover` resolves at the next apply, if not the next boot has
done so. An exclusive ``flock(2)`` keeps a second run out, and tells a live journal from a left-over one.
"""

import fcntl
import grp
import json
import logging
import os
import pathlib
import pwd
import re
import shlex
import stat
import subprocess
import time

from salt.exceptions import CommandExecutionError, SaltInvocationError

log = logging.getLogger(__name__)

LOCK_TIMEOUT = 120
LOG_LINES = 12
LOG_PATIENCE = 2
SERVICES = ("saslauthd", "postfix")
STRENGTH = {"reload": 1, "restart": 2, "stop": 3}
DONE = {"reload": "reloaded", "restart": "restarted", "stop": "stopped"}
UNIT_DIR = "/etc/systemd/system"
ALONE = (
    "This is for states: by itself it would leave a transaction open, which the next apply or boot undoes. Use"
    " state.apply, or a function that changes and verifies in one, such as postconf.set"
)


def _run():
    """What this run did so far; shared by all states of one run."""
    fresh = {"lock": None, "announced": {}, "changes": {}, "undone": None, "module": None, "notes": []}
    return __context__.setdefault("mta_transaction", fresh)


def _stronger(first, second):
    """Merge two activations; a restart includes a reload, and what is stopped needs neither."""
    merged = dict(first)
    for service, action in second.items():
        if action not in STRENGTH:
            raise SaltInvocationError(f"{service} can be activated by {', '.join(STRENGTH)}, not {action!r}")
        if STRENGTH[action] > STRENGTH.get(merged.get(service), 0):
            merged[service] = action
    return merged


# -- begin, commit, undo -----------------------------------------------------------------------


def _lock(timeout=None):
    """Take the lock, waiting ``timeout`` seconds for another run to end; default ``LOCK_TIMEOUT``."""
    path = pathlib.Path(__salt__["mta_state.path"]("lock"))
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = open(path, "a+")  # noqa: SIM115 - held until the transaction closes
    timeout = LOCK_TIMEOUT if timeout is None else timeout
    deadline = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                handle.close()
                raise CommandExecutionError(
                    f"Nothing was changed: another apply has held {path} for {timeout} s"
                ) from None
            time.sleep(0.2)
    return handle


def _is_open():
    """Whether there is a journal: of a transaction under way, or left by one that was killed."""
    return os.path.exists(__salt__["mta_state.path"]("journal"))


def _begin(closing=False):
    """
    Open the transaction at its first change: lock, look at the server as it is, arm the boot unit.

    Only for a participant, whose state closes it or has another one close it, and for what closes it.
    """
    run = _run()
    if run["lock"]:
        return
    if not (run["module"] or closing):
        raise CommandExecutionError(ALONE)
    lock = run["lock"] = _lock()
    try:
        recovered = _recover()
        if recovered:
            run["notes"] = recovered["notes"]
        try:
            # For a run that was killed right after its commit.
            __salt__["mta_previous.protect"]()
        except CommandExecutionError as err:
            log.error("%s", err)
        looked = _look(timeout=10, patience=1)
        before = {
            "services": __salt__["mta_service.status"](list(SERVICES)),
            "answers": looked["answers"],
            "time": int(time.time()),
        }
        __salt__["mta_journal.begin"](before)
    except OSError as err:
        run["lock"] = None
        lock.close()
        raise CommandExecutionError(f"Nothing was changed: cannot write the journal: {err}") from err
    except BaseException:
        run["lock"] = None
        lock.close()
        raise
    run.update(before=before, activate={}, activated=False, given_back=[], afterwards=[])
    run.update(spoke=looked["speaking"], let_go=set())


def _look(timeout, patience=0):
    """Whether the server answers at this moment, and which listeners do; a server that does not run, does not."""
    try:
        return __salt__["mta_probe.check"](timeout=timeout, patience=patience)
    except CommandExecutionError:
        return {"answers": False, "speaking": []}


def begin():
    """
    Open the transaction, if it is not open: until it is closed, nobody else's apply changes what is read now.

    Who changes something calls this before reading what the change is made from. For other modules: whoever calls
    has to close it, so there is no CLI Example. Raises ``CommandExecutionError`` when another run holds the lock
    for two minutes.
    """
    _begin()


def _withdraw(run):
    """Close a transaction that was opened and has changed nothing."""
    __salt__["mta_journal.drop"]()
    _end(run)


def alone(do, wait=True):
    """
    Call a function while no apply is under way, and keep them waiting meanwhile; what one left behind is undone
    first.

    do (callable)
        Has no arguments.

    wait (bool, default True)
        Whether to wait for an apply that is under way, two minutes at most. Else the function is not called.

    Returns what it returns; ``None`` where it was not called. Raises ``CommandExecutionError`` when the lock
    cannot be had. For other modules; there is no CLI Example for a function that takes functions.
    """
    if _run()["lock"]:
        return do()
    try:
        lock = _lock(LOCK_TIMEOUT if wait else 0)
    except CommandExecutionError:
        if wait:
            raise
        return None
    with lock:
        _recover()
        return do()


def _answers_now(timeout, patience=0):
    return _look(timeout, patience)["answers"]


def _end(run):
    if run["lock"]:
        run["lock"].close()
    run.update(lock=None, announced={}, changes={})


def _roll_back(before, activated):
    """
    Undo what a journal says, whoever began it, bring the daemons to it, and resolve the journal.

    Nothing keeps the rest from being done. Returns ``restored`` (list of the paths that are as they were),
    ``failed`` (list of the paths that are not), ``notes`` (sentences on these, and on what others have edited).
    Raises ``OSError`` when the journal cannot be resolved.
    """
    outcome = {"restored": [], "failed": [], "notes": []}
    entries = __salt__["mta_journal.entries"]()[::-1]
    failed = []
    try:
        if __salt__["mta_journal.halted"]():
            _attempt("Postfix could not be stopped meanwhile", _stop_postfix)
        for entry in entries:
            try:
                kept = __salt__["mta_journal.restore"](entry)
            except Exception as err:
                failed.append((entry, err))
                continue
            outcome["restored"].append(entry["path"])
            if kept:
                outcome["notes"].append(
                    f"{entry['path']} had been edited by somebody else meanwhile: that version is now {kept}."
                )
        if _has_units(entries):
            _attempt("systemd has not read its units anew", __salt__["mta_service.daemon_reload"])
    finally:
        _bring_back(before, activated)
    if failed:
        folders = [os.path.basename(entry["folder"]) for entry, _ in failed]
        aside = __salt__["mta_journal.set_aside"](folders)
        outcome["failed"] = [entry["path"] for entry, _ in failed]
        outcome["notes"] += [
            _not_restored({**entry, "folder": f"{aside}/{folder}"}, err)
            for folder, (entry, err) in zip(folders, failed)
        ]
    else:
        __salt__["mta_journal.drop"]()
    for note in outcome["notes"]:
        log.warning("%s", note)
    return outcome


def _attempt(otherwise, function, *args):
    """Call a function. What it raises is logged, and keeps nothing else from being done."""
    try:
        return function(*args)
    except Exception as err:
        log.error("%s: %s", otherwise, err)
        return None


def _stop_postfix():
    if __salt__["mta_service.status"](["postfix"])["postfix"]["active"]:
        __salt__["mta_service.stop"]("postfix")


def _not_restored(entry, err):
    """Say what could not be undone, and what that means; ``entry`` is the one that was set aside."""
    reason = getattr(err, "strerror", None) or str(err)
    text = f"NOT UNDONE: {entry['path']} could not be restored ({reason}). "
    if entry["kind"] == "file":
        return f"{text}It stays as it is now; what was there before the apply is {entry['folder']}/content."
    if entry["kind"] == "absent":
        return f"{text}It stays as it is now; before the apply there was none."
    if entry["kind"] == "directory":
        owner, mode = (__salt__["mta_journal.fact"](entry, name) for name in ("owner", "mode"))
        return f"{text}Before the apply its owner was {owner} and its mode {mode}."
    return f"{text}What would undo it is in {entry['folder']}."


def _has_units(entries):
    """Whether a unit of systemd is among what was changed."""
    return any(entry["path"].startswith(UNIT_DIR) for entry in entries)


def _recover():
    """
    Resolve what a run that died has left: undo its journal, or finish what it has committed. The lock is ours.

    Returns as :func:`_roll_back` does; ``None`` when there was nothing to undo.
    """
    try:
        if __salt__["mta_journal.committed"]():
            _finish()
        if not _is_open():
            return None
        outcome = _roll_back({"services": {}, **__salt__["mta_journal.before"]()}, activated=True)
    except OSError as err:
        raise CommandExecutionError(f"An interrupted apply cannot be resolved: {err}") from err
    log.warning("undid an interrupted apply: %s", ", ".join(outcome["restored"]) or "nothing")
    return outcome


def _bring_back(before, activated):
    """
    Bring the daemons back to the restored files and to the state they were in before.

    What does not come up with its old files did not before either: that is logged, and does not keep the others
    from coming back.
    """
    for name in SERVICES:
        was = before["services"].get(name, {})
        _attempt(f"After undoing an apply, {name}", _bring_back_service, name, was, activated)


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
    if not _is_open():
        return None
    return [entry["path"] for entry in __salt__["mta_journal.entries"]()]


def under_way():
    """
    Tell whether another apply holds the lock at this moment: a journal is then not a left-over one.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_transaction.under_way
    """
    try:
        with open(__salt__["mta_state.path"]("lock")) as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def recover():
    """
    Undo an interrupted transaction: put the saved files back and bring the daemons to them.

    Every file is tried. What cannot be restored is set aside, and does not stand in a later apply's way.

    Returns a dictionary: ``restored`` (list of paths that are as they were before), ``failed`` (list of those
    that are not), ``notes`` (sentences on these, and on what others had edited meanwhile); ``None`` when there was
    nothing to resolve. Raises ``CommandExecutionError`` when another run holds the lock for two minutes, or the
    journal cannot be removed.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_transaction.recover
    """
    if not _is_open() and not __salt__["mta_journal.committed"]():
        return None
    with _lock():
        return _recover()


def undo(reason):
    """
    Undo the transaction that is open in this run.

    reason
        Why, as a sentence; the later members of the run report it.

    Every file is tried, and the daemons are brought back, whatever happens.

    Returns a dictionary: ``restored`` (list of the paths that are as they were before), ``failed`` (list of those
    that are not), ``notes`` (sentences on these, and on what others had edited meanwhile), ``answers`` (whether
    the server answers as it did before; ``None`` when it did not answer before), and ``comment``: all of that for
    people; empty when there was nothing to undo.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_transaction.undo 'no longer wanted'
    """
    run = _run()
    undone = {"restored": [], "failed": [], "notes": [], "answers": None, "comment": ""}
    run["undone"] = run["undone"] or f"This apply was undone: {reason}"
    if not run["lock"]:
        return undone
    if not _is_open():
        run["undone"] = f"This apply was interrupted after its commit: {reason}"
        _end(run)
        return undone
    try:
        undone.update(_roll_back(run["before"], run["activated"]))
        if run["before"]["services"]["postfix"]["active"]:
            # Also when it did not answer before: this returns when it is up again.
            answers = _attempt("The server cannot be asked", _answers_now, 20, 15)
            undone["answers"] = answers or (False if run["before"]["answers"] else None)
    except OSError as err:
        undone["notes"].append(f"The journal cannot be removed, and the next apply undoes it again: {err}")
    finally:
        _end(run)
    if undone["failed"]:
        run["undone"] = f"This apply was undone in part only, without {', '.join(undone['failed'])}: {reason}"
    undone["comment"] = _undone_text(undone)
    return undone


# -- what members call -------------------------------------------------------------------------


def _record(path, kind, facts=None, contents=None):
    """Save what is at ``path`` before the member that runs changes it, and a fingerprint of what it will write."""
    __salt__["mta_journal.record"](path, kind, {"module": _run()["module"], **(facts or {})}, contents)


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


def write(path, contents, user=None, group=None, mode=None, activate=None, protect=()):
    """
    Replace a file as part of the transaction; the old one comes back when the transaction is undone.

    For states: by itself it is refused.

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

    protect
        Stores (``previous``, ``originals``) that forget at the commit what is there now, as the change is to
        protect it: a key that was not encrypted. Until then it comes back as all else does. Default: none.

    Raises ``CommandExecutionError`` when the file cannot be written; ``SaltInvocationError`` for a bad mode.
    """
    path = pathlib.Path(os.path.realpath(path))
    bits = None if mode is None else _mode(mode)
    try:
        _begin()
        exists = path.exists()
        uid, gid = _numeric(user, group, path.stat() if exists else os.stat("/"))
        if bits is None:
            bits = stat.S_IMODE(path.stat().st_mode) if exists else 0o644
        _record(path, "file" if exists else "absent", {"protect": " ".join(protect)}, contents)
        need(activate)
        __salt__["mta_journal.replace"](path, contents, uid, gid, bits)
    except OSError as err:
        raise CommandExecutionError(f"Cannot write {path}: {err.strerror or err}") from err


def remove(path, activate=None):
    """
    Remove a file as part of the transaction. A file that is not there is no error.

    For states: by itself it is refused.

    path
        Absolute path; a symbolic link itself is not followed.

    activate
        As for :func:`write`.
    """
    path = pathlib.Path(path)
    if not path.exists():
        return
    try:
        _begin()
        _record(path, "file")
        need(activate)
        __salt__["mta_journal.remove"](path)
    except OSError as err:
        raise CommandExecutionError(f"Cannot remove {path}: {err.strerror or err}") from err


def directory(path, user="root", group="root", mode="0755", runtime=()):
    """
    Create a directory, or correct its owner and mode, as part of the transaction.

    For states: by itself it is refused.

    path
        Absolute path. Missing parents are created, 0755 and root's.

    user, group, mode
        As for :func:`write`; defaults ``root``, ``root``, ``0755``.

    runtime
        Names of files that a daemon leaves in it; they go with the directory when it is taken away again. Default:
        none; a directory that is not empty then stays.
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

    For states: by itself it is refused.

    item
        A name for what is changed, such as ``group sasl: postfix``; it is shown, and must be unique.

    do
        List of commands, each a list of arguments.

    undo
        The commands that take it back. They are also run where ``do`` was not reached: that must do no harm.

    evidence
        ``[path, regular expression]``: a file in which a match shows that the change is in force.

    Raises ``CommandExecutionError`` when a command of ``do`` fails.
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

    For states: by itself it is refused.

    An undo, of this run or of one that was killed, stops it too before it puts such files back. Whoever calls
    starts it again; what ends the transaction otherwise does.

    Returns whether it ran. Raises ``CommandExecutionError`` when it cannot be stopped.
    """
    _begin()
    if not __salt__["mta_service.status"](["postfix"])["postfix"]["active"]:
        return False
    try:
        __salt__["mta_journal.halt"]()
    except OSError as err:
        raise CommandExecutionError(f"Cannot write the journal: {err.strerror or err}") from err
    __salt__["mta_service.stop"]("postfix", for_good=False)
    return True


def put_back(entry, forget=False):
    """
    Put back what an earlier transaction saved, as part of this one. A directory that was made stays, and so does
    an authority.

    For states: by itself it is refused.

    entry
        One of ``mta_journal.entries`` of the store ``originals`` or ``previous``.

    forget
        At the commit, forget the entry of ``originals``. Default: no.
    """
    _begin()
    if __salt__["mta_ca.stays"](entry):
        return
    path, kind = entry["path"], entry["kind"]
    run = _run()
    caller = run["module"]
    # It stays what the member that changed it gives back when it needs it no more.
    run["module"] = __salt__["mta_journal.fact"](entry, "module") or caller
    if kind == "file":
        content = pathlib.Path(entry["folder"]) / "content"
        status = content.stat()
        mode = f"{stat.S_IMODE(status.st_mode):o}"
        write(path, content.read_bytes(), status.st_uid, status.st_gid, mode)
    elif kind == "absent":
        remove(path)
    elif kind == "directory":
        owner = map(int, __salt__["mta_journal.fact"](entry, "owner").split(":"))
        directory(path, *owner, mode=__salt__["mta_journal.fact"](entry, "mode"))
    elif kind == "command" and __salt__["mta_journal.changed"](entry):
        scripts = (__salt__["mta_journal.fact"](entry, name).splitlines() for name in ("undo", "do"))
        undo_, do = ([shlex.split(line) for line in lines] for lines in scripts)
        command(path, undo_, do, json.loads(__salt__["mta_journal.fact"](entry, "evidence")))
    run["module"] = caller
    if forget:
        run["given_back"].append(path)


def afterwards(function):
    """
    Have a function called when the transaction has been committed, before anybody else can begin one.

    function
        Its name, such as ``mta_originals.forget``. It has no arguments.

    For other modules; there is no CLI Example for a function that leaves a transaction open.
    """
    _begin()
    _run()["afterwards"].append(function)


def need(activate, let_go=()):
    """
    Say what has to happen at the end for the changes to be in force, and which listeners they take out.

    For states: by itself it is refused.

    activate
        ``{"postfix": "reload"}``; a restart is stronger than a reload. ``stop``: the service is stopped after all
        others are activated, and disabled once the transaction has been committed. ``None``: nothing.

    let_go
        Services of master.cf, such as ``submission/inet``, that are asked to be SMTP listeners no longer. Any
        other that spoke SMTP when the transaction began has to speak it when it is closed. Default: none.
    """
    if activate:
        _begin()
        run = _run()
        run["activate"] = _stronger(run["activate"], activate)
        run["let_go"].update(let_go)


def outlook():
    """
    Tell what the closing state will have to do.

    Returns ``{"changes": bool, "activate": {service: action}, "done": {service: the action as a participle},
    "undone": a sentence or None, "members": {module: changes}}``: in a real run what the members did, in test mode
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


def member(name, module, args, transaction=None, test=False, subject=None, functions=("plan", "apply"), **job):
    """
    Run one member's plan, and its apply when there is something to change; return a complete state result.

    A plan that changes something is made again when the lock is held, as another apply may have ended meanwhile:
    that one is reported and applied. One that changes nothing needs no lock.

    For states: as a job of its own it is refused.

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
    """
    __salt__["mta_state.refuse_job"]("mta_transaction.member", job)
    run = _run()
    run["module"] = module
    subject = subject or name
    ret = {"name": name, "changes": {}, "result": True, "comment": f"{subject} is in the correct state."}
    if transaction and run["undone"]:
        ret.update(result=False, comment=f"{subject} has not been applied. {run['undone']}")
        return ret
    try:
        plan = _planned(run, lambda: __salt__[f"{module}.{functions[0]}"](**args), test)
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
            ret["comment"] = "\n".join(filter(None, [ret["comment"], undone["comment"]]))
    except BaseException as err:
        if not test:
            undo(f"{subject}: {err!r}")
        raise
    finally:
        run["module"] = None
        if not transaction:
            __context__.pop("mta_transaction", None)
    return ret


def _planned(run, make, test):
    """A member's plan: the one that is made under the lock, where it is to be applied."""
    plan = make()
    if test or run["lock"] or plan.get("errors") or not plan["changes"]:
        return plan
    _begin()
    try:
        plan = make()
    except BaseException:
        _withdraw(run)
        raise
    if plan.get("errors") or not plan["changes"]:
        _withdraw(run)
    return plan


def _undone_text(undone):
    lines = list(undone["notes"])
    if undone["restored"]:
        lines.insert(0, "Undone: " + ", ".join(undone["restored"]) + ".")
    if lines and undone["answers"]:
        lines.append("The server answers as it did before.")
    elif lines and undone["answers"] is False:
        lines.append("THE SERVER DOES NOT ANSWER as it did before this apply: look at its log.")
    return "\n".join(lines)


# -- closing -----------------------------------------------------------------------------------


def _server_log(since, until):
    """The server's own warnings and errors between two moments (Unix time), newest last: what can be had soon."""
    lines = []
    try:
        if os.path.isdir("/run/systemd/system"):
            argv = ["journalctl", "--quiet", "--no-pager", "--output=cat", "SYSLOG_FACILITY=2"]
            lines = _output([*argv, f"--since=@{since}", f"--until=@{until}"], LOG_PATIENCE)
        elif os.path.exists("/var/log/mail.log"):
            with open("/var/log/mail.log", "rb") as handle:
                handle.seek(max(0, os.fstat(handle.fileno()).st_size - 32768))
                lines = handle.read().decode(errors="replace").splitlines()
    except OSError as err:
        log.warning("Cannot read the server's log: %s", err)
    wanted = [line for line in lines if any(word in line for word in ("fatal:", "error:", "panic:", "warning:"))]
    # What the conversation itself provokes: a login with a random name, a message with too many hops.
    wanted = [line for line in wanted if "hopcount exceeded" not in line and "authentication fail" not in line]
    return list(dict.fromkeys(wanted))[-LOG_LINES:]


def _output(argv, seconds):
    """The lines that a command writes within some seconds; it is not waited for any longer."""
    job = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        output = job.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired as err:
        job.kill()
        output = err.output or b""
        log.warning("'%s' did not end within %s seconds", shlex.join(argv), seconds)
    return output.decode(errors="replace").splitlines()


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


def close(services=None, verify=None, **job):
    """
    Close the transaction: activate, hold the live conversation, then commit, or undo everything.

    For states: as a job of its own it is refused.

    services
        Names of services that must be enabled and running afterwards. Default: none is enabled; those that
        a member named are activated, or started when they are enabled and do not run.

    verify
        Arguments of ``mta_probe.check``; ``{"enabled": False}`` leaves the conversation out.

    Returns ``{"result": bool, "comment": str, "transcript": [str]}``.
    """
    __salt__["mta_state.refuse_job"]("mta_transaction.close", job)
    run = _run()
    _begin(closing=True)
    verify = dict(verify or {})
    enabled = verify.pop("enabled", True)
    problems, notes, transcript = [], [], []
    headline = "The server did not answer as it should:"
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
            problems = problems + _fallen_silent(run, checked["speaking"])
            notes = ["The server answers.", *checked["notes"]]
        if not problems:
            headline = "What this apply changed could not be recorded, so it has not been kept:"
            _commit(run)
    except (CommandExecutionError, OSError) as err:
        problems = [str(err)]
    except BaseException as err:
        undo(f"it was interrupted: {err!r}")
        raise
    if not problems:
        left = []
        try:
            done += _put_away(run)
        except (CommandExecutionError, OSError) as err:
            left = [f"All is in force, but: {err}"]
        _end(run)
        comment = "\n".join([f"Done: {', '.join(done)}."] * bool(done) + notes + left + run["notes"])
        return {"result": not left, "comment": comment, "transcript": transcript}
    # First of all; what might explain it is for afterwards.
    changed, since, until = run["changes"].get("postconf", {}), run["before"]["time"], int(time.time()) + 1
    undone = undo(f"{headline[:-1].lower()}: {problems[0]}")
    server_log = _server_log(since, until)
    parts = [headline, *[f"  {line}" for line in problems]]
    if server_log:
        parts += ["Its log says:", *[f"  {line}" for line in server_log]]
    if changed:
        text = "\n".join(problems + server_log)
        parts.append("Changed parameters that may be responsible: " + ", ".join(_responsible(changed, text)))
    parts += [undone["comment"]] * bool(undone["comment"]) + run["notes"]
    return {"result": False, "comment": "\n".join(parts), "transcript": transcript}


def _commit(run):
    """
    Commit: write down all that has to be known of it, then rename the journal, then do what may fail.

    Raises ``OSError`` when it is not committed.
    """
    paths = [entry["path"] for entry in __salt__["mta_journal.entries"]()]
    try:
        __salt__["mta_originals.keep"]()
        __salt__["mta_previous.describe"](run["activate"])
        __salt__["mta_journal.commit"]()
    except OSError:
        # An undo may need the room.
        _attempt("Drafts stay", __salt__["mta_originals.discard"])
        raise
    _attempt("What the next apply makes up for", _finish)
    _attempt("main.cf and master.cf are not recorded", __salt__["mta_apply.wrote"], paths)


def _finish():
    """Do what a commit leaves to be done; where a run dies over it, the next one does it."""
    __salt__["mta_originals.settle"]()
    __salt__["mta_journal.finish"]()


def _fallen_silent(run, speaking):
    """
    Tell which listeners spoke SMTP when the transaction began and do not now, though nobody asked for that.

    A service of which a listener is among those that are ``speaking`` now is there, at whatever address the
    parameters give it. Another one has to speak where it did.
    """
    there = {listener["service"] for listener in speaking} | run["let_go"]
    found = []
    for listener in run["spoke"]:
        service, host, port = (listener[key] for key in ("service", "host", "port"))
        if service in there:
            continue
        wrapped = listener["wrappermode"]
        talk = __salt__["mta_probe.converse"](host, port, wrappermode=wrapped, starttls=False)
        if not (talk["ehlo"] or talk["ehlo_tls"]):
            place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            found.append(
                f"{place} ({service} in master.cf) spoke SMTP before this apply and does not now;"
                f" what takes it out on purpose is services: {{{service}: null}}"
            )
    return found


def _activate(run, services):
    """Enable, start, restart or reload what is needed; say what was done."""
    activate = run["activate"]
    names = [name for name in SERVICES if name in services or name in activate]
    status = __salt__["mta_service.status"](names)
    if _has_units(__salt__["mta_journal.entries"]()):
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
    __salt__["mta_previous.protect"]()
    for name, action in run["activate"].items():
        if action == "stop" and __salt__["mta_service.status"]([name])[name]["enabled"]:
            __salt__["mta_service.disable"](name)
            done.append(f"{name} disabled")
    try:
        if run["given_back"]:
            __salt__["mta_originals.forget_entries"](run["given_back"])
        for function in run["afterwards"]:
            __salt__[function]()
    except OSError as err:
        raise CommandExecutionError(f"Cannot forget what was given back: {err}") from err
    return done
