"""
Switch the files that mail depends on as one transaction, verify it by a live SMTP conversation, and undo it.

Members (``postconf``, ``saslauthd``, ``mta_cert``, ``mta_aliases``, ``mta_map``) change files only through
:func:`write`, :func:`remove` and :func:`directory`, and the databases of other tools through :func:`command`.
Each of these first saves what was there in the journal (:py:mod:`mta_journal`), then replaces the file atomically.
:func:`close` activates the daemons, holds the conversation, and either drops the journal (commit) or puts
every saved file back and stops and starts the daemons (undo).

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
SERVICES = ("saslauthd", "postfix")
STRENGTH = {"reload": 1, "restart": 2, "stop": 3}
DONE = {"reload": "reloaded", "restart": "restarted", "stop": "stopped"}
UNIT_DIR = "/etc/systemd/system"


def _run():
    """What this run did so far; shared by all states of one run."""
    fresh = {"lock": None, "announced": {}, "changes": {}, "undone": None, "module": None}
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


def _begin():
    """Open the transaction at its first change: lock, look at the server as it is, arm the boot unit."""
    run = _run()
    if run["lock"]:
        return
    lock = _lock()
    try:
        if _is_open():
            log.warning("undid an interrupted apply: %s", ", ".join(_recover()))
        before = {
            "services": __salt__["mta_service.status"](list(SERVICES)),
            "answers": _answers_now(timeout=10, patience=1),
            "time": int(time.time()),
        }
        __salt__["mta_journal.begin"](before)
    except BaseException:
        lock.close()
        raise
    run.update(lock=lock, before=before, activate={}, activated=False, given_back=[], afterwards=[])


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
        if _is_open():
            log.warning("undid an interrupted apply: %s", ", ".join(_recover()))
        return do()


def _answers_now(timeout, patience=0):
    """Whether the server answers at this moment; a server that does not run, does not."""
    try:
        return __salt__["mta_probe.check"](timeout=timeout, patience=patience)["answers"]
    except CommandExecutionError:
        return False


def _end(run):
    if run["lock"]:
        run["lock"].close()
    run.update(lock=None, announced={}, changes={})


def _resolve():
    """Undo what a journal says, whoever began it. Returns the paths restored."""
    if __salt__["mta_journal.halted"]() and __salt__["mta_service.status"](["postfix"])["postfix"]["active"]:
        __salt__["mta_service.stop"]("postfix")
    entries = __salt__["mta_journal.entries"]()[::-1]
    for entry in entries:
        try:
            __salt__["mta_journal.restore"](entry)
        except OSError as err:
            raise CommandExecutionError(f"Cannot put back what {entry['folder']} saved: {err}") from err
    if _has_units(entries):
        __salt__["mta_service.daemon_reload"]()
    return [entry["path"] for entry in entries]


def _has_units(entries):
    """Whether a unit of systemd is among what was changed."""
    return any(entry["path"].startswith(UNIT_DIR) for entry in entries)


def _recover():
    """Undo the left-over journal; the lock is ours. Returns the paths restored."""
    before = {"services": {}, **__salt__["mta_journal.before"]()}
    restored = _resolve()
    _bring_back(before, activated=True)
    __salt__["mta_journal.drop"]()
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

    Returns the list of the paths that were restored; ``None`` when there was nothing to resolve.
    Raises ``CommandExecutionError`` when another run holds the lock for two minutes, or a file cannot be
    restored.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_transaction.recover
    """
    if not _is_open():
        return None
    with _lock():
        return _recover() if _is_open() else None


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
        __salt__["mta_journal.drop"]()
    finally:
        _end(run)
    return {"restored": restored, "answers": answers}


# -- what members call -------------------------------------------------------------------------


def _record(path, kind, facts=None):
    """Save what is at ``path`` before the member that runs changes it."""
    __salt__["mta_journal.record"](path, kind, {"module": _run()["module"], **(facts or {})})


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
        __salt__["mta_journal.replace"](path, contents, uid, gid, bits)
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
        __salt__["mta_journal.remove"](path)
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
        __salt__["mta_journal.halt"]()
    except OSError as err:
        raise CommandExecutionError(f"Cannot write the journal: {err.strerror or err}") from err
    __salt__["mta_service.stop"]("postfix", for_good=False)
    return True


def put_back(entry, forget=False):
    """
    Put back what an earlier transaction saved, as part of this one. A directory that was made stays, and so does
    an authority.

    entry
        One of ``mta_journal.entries`` of the store ``originals`` or ``previous``.

    forget
        At the commit, forget the entry of ``originals``. Default: no.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_transaction.put_back '{"folder": "/var/lib/postfix_mta/originals/0000", "kind": "absent",
            "path": "/etc/saslauthd.conf"}'
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

    A plan that changes something is made again when the lock is held, as another apply may have ended meanwhile:
    that one is reported and applied. One that changes nothing needs no lock.

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
        __salt__["mta_originals.keep"]()
        __salt__["mta_apply.wrote"]([entry["path"] for entry in __salt__["mta_journal.entries"]()])
        __salt__["mta_previous.describe"](run["activate"])
        __salt__["mta_journal.drop"](keep=True)
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
