"""
The engine: files are switched as one transaction, which is committed as a whole, or undone.

Participants change files only through :func:`write`, :func:`remove` and :func:`directory`, and the databases of
other tools through :func:`command`. Each of these first saves what was there in the journal, then replaces the
file atomically. :py:mod:`_mta_apply` activates the daemons, judges the server, and commits or undoes.

A run that is killed leaves its journal, which :func:`recover` resolves at the next apply, if not the next boot
has done so. An exclusive ``flock(2)`` keeps a second run out, and tells a live journal from a left-over one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import grp
import json
import logging
import multiprocessing.util
import os
import pathlib
import pwd
import re
import shlex
import stat
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Any, Callable

from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_guard
import _mta_journal
import _mta_judge
import _mta_last_apply
import _mta_obstacles
import _mta_plan_cache
import _mta_postfix_lock
import _mta_postfix_view
import _mta_recovery
import _mta_saslauthd_view
import _mta_services
import _mta_snapshots
import _mta_system
import _mta_verdict
from _mta_journal import Entry
from _mta_minion import CUT_OFF, Minion
from _mta_plan import stronger
from _mta_records import dataclass
from _mta_run import Run
from _mta_system import Path

log = logging.getLogger(__name__)

LOCK_TIMEOUT = 120
# After an undo, in seconds: a conversation, and before it how long a listener may refuse the connection; by
# whether the server answered before.
PATIENCE = {True: (20, 15), False: (5, 5)}
# What a check of a whole server asks beyond a greeting, before a change as after it.
THOROUGH: dict[str, Any] = {"auth": "challenge", "envelope": True, "untrusted_client": True, "deliver": True}
SERVICES = (*_mta_services.OWN, "saslauthd", "postfix")
DONE = {"reload": "reloaded", "restart": "restarted", "stop": "stopped"}
NO_JOURNAL = (
    "NOT UNDONE: {path} is gone, somebody has removed it during this apply. What was changed is in force or not,"
    " nobody can tell, and will not come back by itself ({members}): look at the files, and apply again."
)
ALONE = (
    "This is for states: by itself it would leave a transaction open, which the next apply or boot undoes. Use"
    " state.apply, or a function that changes and verifies in one, such as postconf.set"
)


@dataclass
class Transaction:
    """
    The open transaction of a run.

    lock
        The lock file, held until the end.

    alive
        A file of the journal: while it is locked the apply that made it is alive.

    at_exit
        What undoes it when its process ends before it does.

    before
        What the server was like: ``services`` (name to status), ``answers``, ``time`` (Unix).

    spoke
        The listeners that spoke SMTP when it began.

    problems
        What was wrong with the server when it began; ``None``: it did not run.

    reached
        Steps by which mail for virtual and relayed domains went its way when it began.

    drifted
        The parameters of main.cf that somebody else had changed since it was last written.

    activate
        Service to what has to happen for the changes to be in force.

    activated
        Whether that has begun.

    let_go
        Services of master.cf that are asked to be SMTP listeners no longer.

    restored
        Paths of the first snapshot that have been restored, to be forgotten at the commit.

    afterwards
        What is called after the commit, with the minion.

    committed
        Whether the changes are final.
    """

    lock: IO[str]
    alive: IO[bytes] | None = None
    at_exit: multiprocessing.util.Finalize[None] | None = None
    before: dict[str, Any] = dataclasses.field(default_factory=dict)
    spoke: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    problems: list[str] | None = None
    reached: list[str] = dataclasses.field(default_factory=list)
    drifted: list[str] = dataclasses.field(default_factory=list)
    activate: dict[str, str] = dataclasses.field(default_factory=dict)
    activated: bool = False
    committed: bool = False
    let_go: set[str] = dataclasses.field(default_factory=set)
    restored: list[str] = dataclasses.field(default_factory=list)
    afterwards: list[Callable[[Minion], None]] = dataclasses.field(default_factory=list)

    def close(self) -> None:
        """Let others begin theirs."""
        if self.at_exit:
            self.at_exit.cancel()
        if self.alive:
            self.alive.close()
        self.lock.close()


def _lock(minion: Minion, timeout: float | None = None) -> IO[str]:
    """Take the lock, waiting ``timeout`` seconds for another run to end; default ``LOCK_TIMEOUT``."""
    path = pathlib.Path(minion.state.path("lock"))
    try:
        if not path.parent.is_dir():
            # Each by itself: the mode is that of the last directory.
            path.parent.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                _mta_system.host.mkdir(path.parent)
        handle = open(path, "a+")  # noqa: SIM115 - held until the transaction ends
    except OSError as err:
        raise CommandExecutionError(f"Nothing was changed: cannot lock {path}: {err.strerror or err}") from err
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


def _is_open(minion: Minion) -> bool:
    """Whether there is a journal: of a transaction under way, or left by one that was killed."""
    return os.path.exists(minion.state.path("journal"))


def begin(minion: Minion, closing: bool = False) -> Transaction:
    """
    Open the transaction at its first change: lock, look at the server as it is, arm the boot unit.

    Only for a participant, whose state closes it or has another one close it, and for what closes it.
    """
    run = Run.of(minion)
    if run.transaction:
        opened: Transaction = run.transaction
        return opened
    if not (run.subject or closing):
        raise CommandExecutionError(ALONE)
    _mta_guard.complete()
    transaction = run.transaction = Transaction(_lock(minion))
    try:
        recovered = _recover(minion)
        if recovered:
            run.notes = recovered["notes"]
        try:
            # For a run that was killed right after its commit.
            _mta_snapshots.protect(minion)
        except CommandExecutionError as err:
            log.error("%s", err)
        services = _mta_services.status(list(SERVICES))
        # The same conversation as at the end: what is wrong already is no reason to undo anything.
        looked = _look(minion, patience=1, **_asked(minion, services))
        transaction.spoke = looked["speaking"]
        if services["postfix"]["active"]:
            # A login that verify names is promised, whatever became of it before.
            faults = [text for text in looked["problems"] if text not in looked.get("logins", [])]
            transaction.problems = faults + looked["doubts"]
            transaction.reached = [one for one, why in looked.get("reached", {}).items() if not why]
        transaction.drifted = _mta_last_apply.drifted(minion)
        transaction.before = {
            "services": services,
            "answers": looked["answers"],
            "time": int(time.time()),
        }
        transaction.alive = _mta_journal.begin(minion, transaction.before)
        transaction.at_exit = multiprocessing.util.Finalize(None, _never_closed, (minion,), exitpriority=100)
    except OSError as err:
        end(minion)
        raise CommandExecutionError(f"Nothing was changed: cannot write the journal: {err}") from err
    except BaseException:
        end(minion)
        raise
    return transaction


def _never_closed(minion: Minion) -> None:
    """Undo what is open as the process ends: ``failhard`` ends a run before the state that closes it."""
    if Run.of(minion).transaction:
        undone = undo(minion, "the run of states ended before the state that closes it", cut_off=True)
        log.error("%s\n%s", Run.of(minion).undone, undone["comment"])


def _look(minion: Minion, timeout: float, patience: float = 0, **ask: Any) -> dict[str, Any]:
    """
    What the server is like at this moment: which listeners speak, what is wrong, whether it ``answers`` at all.

    A server that does not run, does not.
    """
    try:
        seen: dict[str, Any] = _mta_judge.check(minion, timeout=timeout, patience=patience, **ask)
        doubts = seen.get("doubts", []) + (doubts_about_logins() if ask.get("auth") else [])
        return {**seen, "doubts": doubts, "answers": _mta_verdict.greets(seen["problems"])}
    except CommandExecutionError as err:
        return {"answers": False, "speaking": [], "problems": [str(err)], "doubts": []}


def doubts_about_logins() -> list[str]:
    """What keeps every user from logging in, although an unknown one is turned away as he should be."""
    try:
        reason = _mta_saslauthd_view.without_users()
        listeners = _mta_postfix_view.listeners() if reason else []
    except CommandExecutionError:
        return []
    return [f"AUTH: {reason}"] if _mta_postfix_view.ask_saslauthd(listeners) else []


def _asked(minion: Minion, services: Mapping[str, Mapping[str, bool]]) -> dict[str, Any]:
    """What is asked of the server before a change: what will be asked afterwards, as far as it is known."""
    verify = (minion.pillar.get("postfix_mta") or {}).get("verify") or {}
    # Who gives the server more time than usual knows that it is slow.
    given = verify.get("timeout")
    asked: dict[str, Any] = {"timeout": max(10, given) if isinstance(given, int) else 10}
    if services["postfix"]["active"] and verify.get("enabled") is not False:
        asked.update(THOROUGH, relay=verify.get("relay") is not False)
        login = verify.get("login")
        if isinstance(login, dict) and None not in (login.get("username"), login.get("password")):
            asked["login_pillar"] = "postfix_mta:verify:login"
    return asked


def withdraw(minion: Minion) -> None:
    """Close a transaction that was opened and has changed nothing."""
    try:
        _mta_journal.drop(minion)
    except OSError as err:
        raise CommandExecutionError(f"Nothing was changed, but the journal cannot be removed: {err}") from err
    finally:
        end(minion)


def alone(minion: Minion, do: Callable[[], Any], wait: bool = True) -> Any:
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
    if Run.of(minion).transaction:
        return do()
    try:
        lock = _lock(minion, LOCK_TIMEOUT if wait else 0)
    except CommandExecutionError:
        if wait:
            raise
        # The next run has to try again.
        _mta_system.look_elsewhere()
        return None
    with lock:
        _recover(minion)
        return do()


def _answers_now(minion: Minion, timeout: float, patience: float = 0) -> bool:
    return bool(_look(minion, timeout, patience)["answers"])


def end(minion: Minion) -> None:
    """Forget the transaction, which is committed or undone, and let others begin theirs."""
    run = Run.of(minion)
    if run.transaction:
        run.transaction.close()
    run.transaction, run.activate, run.changes = None, {}, {}


def _roll_back(minion: Minion, before: Mapping[str, Any], activated: bool) -> dict[str, list[str]]:
    """
    Undo what a journal says, whoever began it, bring the daemons to it, and resolve the journal.

    Nothing keeps the rest from being done. Returns ``restored`` (list of the paths that are as they were),
    ``failed`` (list of the paths that are not), ``notes`` (sentences on these, and on what others have edited).
    Raises ``OSError`` when the journal cannot be resolved.
    """
    outcome: dict[str, list[str]] = {"restored": [], "failed": [], "notes": []}
    failed = []
    try:
        entries = [*_mta_journal.damaged(minion), *_mta_journal.entries(minion)[::-1]]
        if _mta_journal.halted(minion):
            attempt("Postfix could not be stopped meanwhile", _stop_postfix)
        for entry in entries:
            try:
                with _edits_kept_out(entry):
                    kept = _mta_journal.restore(entry)
            except Exception as err:
                failed.append((entry, err))
                continue
            if entry["kind"] == "no-directory" and os.path.isdir(entry["path"]):
                outcome["notes"].append(f"{entry['path']} stays, as there is something in it.")
                continue
            outcome["restored"].append(entry["path"])
            if kept:
                outcome["notes"].append(
                    f"{entry['path']} had been edited by somebody else meanwhile: that version is now {kept}."
                )
        if has_units(entries):
            attempt("systemd has not read its units anew", _mta_services.daemon_reload)
    finally:
        _bring_back(minion, before, activated)
    if failed:
        folders = [os.path.basename(entry["folder"]) for entry, _ in failed]
        aside = _mta_journal.set_aside(minion, folders)
        outcome["failed"] = [entry["path"] for entry, _ in failed]
        outcome["notes"] += [
            _not_restored({**entry, "folder": f"{aside}/{folder}"}, err)
            for folder, (entry, err) in zip(folders, failed)
        ]
    else:
        _mta_journal.drop(minion)
    for note in outcome["notes"]:
        log.warning("%s", note)
    return outcome


@contextlib.contextmanager
def _edits_kept_out(entry: Entry) -> Iterator[None]:
    """Keep ``postconf -e`` from main.cf and master.cf while they are restored; not for ever, when it hangs."""
    folder, name = os.path.split(entry["path"])
    with contextlib.ExitStack() as locks:
        if name in _mta_postfix_view.FILES:
            lock = _mta_postfix_lock.held(folder, _mta_recovery.EDIT_PATIENCE)
            attempt("main.cf and master.cf are restored without a lock", locks.enter_context, lock)
        yield


def attempt(otherwise: str, function: Callable[..., Any], *args: Any) -> Any:
    """Call a function. What it raises is logged, and keeps nothing else from being done."""
    try:
        return function(*args)
    except Exception as err:
        log.error("%s: %s", otherwise, err)
        return None


def _stop_postfix() -> None:
    if _mta_services.status(["postfix"])["postfix"]["active"]:
        _mta_services.stop("postfix")


def _not_restored(entry: Entry, err: BaseException) -> str:
    """Say what could not be undone, and what that means; ``entry`` is the one that was set aside."""
    reason = getattr(err, "strerror", None) or str(err)
    text = f"NOT UNDONE: {entry['path']} could not be restored ({reason}). "
    if entry["kind"] == "file":
        return f"{text}It stays as it is now; what was there before the apply is {entry['folder']}/content."
    if entry["kind"] == "absent":
        return f"{text}It stays as it is now; before the apply there was none."
    if entry["kind"] == "directory":
        owner, mode = (_mta_journal.fact(entry, name) for name in ("owner", "mode"))
        return f"{text}Before the apply its owner was {owner} and its mode {mode}."
    return f"{text}What would undo it is in {entry['folder']}."


def has_units(entries: Iterable[Entry]) -> bool:
    """Whether a unit of systemd is among what was changed."""
    return any(entry["path"].startswith(_mta_recovery.UNIT_DIR) for entry in entries)


def _recover(minion: Minion) -> dict[str, list[str]] | None:
    """
    Resolve what a run that died has left: undo its journal, or finish what it has committed. The lock is ours.

    Returns as :func:`_roll_back` does; ``None`` when there was nothing to undo.
    """
    try:
        if _mta_journal.committed(minion):
            finish(minion)
        if not _is_open(minion):
            return None
        if _mta_journal.version(minion) not in ("1", _mta_recovery.VERSION):
            raise CommandExecutionError(
                "Another version of this formula has left an interrupted apply: undo it with the script of that"
                f" version, sh {minion.state.path(_mta_recovery.SCRIPT)}"
            )
        outcome = _roll_back(minion, {"services": {}, **_mta_journal.before(minion)}, activated=True)
    except OSError as err:
        raise CommandExecutionError(f"An interrupted apply cannot be resolved: {err}") from err
    log.warning("undid an interrupted apply: %s", ", ".join(outcome["restored"]) or "nothing")
    return outcome


def _bring_back(minion: Minion, before: Mapping[str, Any], activated: bool) -> None:
    """
    Bring the daemons back to the restored files and to the state they were in before.

    What does not come up with its old files did not before either: that is logged, and does not keep the others
    from coming back.
    """
    for name in SERVICES:
        was = before["services"].get(name, {})
        attempt(f"After undoing an apply, {name}", _bring_back_service, minion, name, was, activated)


def _bring_back_service(minion: Minion, name: str, was: Mapping[str, bool], activated: bool) -> None:
    """One service of :func:`_bring_back`; ``was``: its status before, empty when unknown."""
    now = _mta_services.status([name])[name]
    if not now["installed"]:
        return
    if was.get("active", now["active"]):
        if activated or not now["active"]:
            # master(8) throttles a service after a fatal error; a reload would leave it dead.
            # One that would not come up with its old files goes on running, as before the apply.
            (_mta_services.restart if now["active"] else _mta_services.start)(name)
        elif name == "postfix":
            _mta_services.reload(name)
    elif now["active"]:
        _mta_services.stop(name)
    if now["enabled"] and was.get("enabled") is False:
        _mta_services.disable(name)
    elif name in _mta_services.OWN and was.get("enabled") and not now["enabled"]:
        # Its link went with its unit, which is here again.
        _mta_services.enable(name)


def pending(minion: Minion, ahead: Sequence[tuple[Callable[..., Any], dict[str, Any]]] = ()) -> list[str] | None:
    """
    Begin a new run: forget what an earlier one in this process did, and tell whether one left a journal.

    ahead
        The states that take part in its transaction, each as its function and its arguments. Default: none.

    Returns the list of the paths in the journal, or ``None`` when there is nothing to resolve.
    """
    run = Run.of(minion)
    run.reset()
    run.ahead = list(ahead)
    if not _is_open(minion):
        return None
    return [entry["path"] for entry in _mta_journal.entries(minion)]


def under_way(minion: Minion) -> bool:
    """
    Tell whether another apply holds the lock at this moment: a journal is then not a left-over one.
    """
    try:
        with open(minion.state.path("lock")) as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def recover(minion: Minion) -> dict[str, list[str]] | None:
    """
    Undo an interrupted transaction: put the saved files back and bring the daemons to them.

    Parameters, result and errors: ``mta_transaction.recover``.
    """
    if not _is_open(minion) and not _mta_journal.committed(minion):
        return None
    with _lock(minion):
        return _recover(minion)


def undo(minion: Minion, reason: str, cut_off: bool = False) -> dict[str, Any]:
    """
    Undo the transaction that is open in this run.

    reason
        Why, as a sentence; the later participants of the run report it.

    cut_off
        Whether the run ends with it, though nothing was wrong: the next start of the minion makes up for it.

    Every file is tried, and the daemons are brought back, whatever happens.

    Returns a dictionary: ``restored`` (list of the paths that are as they were before), ``failed`` (list of those
    that are not), ``notes`` (sentences on these, and on what others had edited meanwhile), ``answers`` (whether
    the server answers as it did before; ``None`` when it did not answer before), and ``comment``: all of that for
    people; empty when there was nothing to undo.
    """
    run = Run.of(minion)
    transaction = run.transaction
    undone: dict[str, Any] = {"restored": [], "failed": [], "notes": [], "answers": None, "comment": ""}
    run.undone = run.undone or f"This apply was undone: {reason}"
    if not transaction:
        return undone
    if cut_off:
        attempt("No start will make up for that", minion.state.write, CUT_OFF, {})
    if not _is_open(minion):
        if transaction.committed or _mta_journal.committed(minion):
            run.undone = f"This apply was interrupted after its commit: {reason}"
        else:
            run.undone = f"This apply was not undone, as its journal is gone: {reason}"
            path, members = minion.state.path("journal"), ", ".join(run.changes)
            undone["comment"] = NO_JOURNAL.format(path=path, members=members)
            undone["notes"] = [undone["comment"]]
        end(minion)
        return undone
    try:
        undone.update(_roll_back(minion, transaction.before, transaction.activated))
        if transaction.before["services"]["postfix"]["active"]:
            # Also when it did not answer before: this returns when it is up again.
            answered = transaction.before["answers"]
            answers = attempt("The server cannot be asked", _answers_now, minion, *PATIENCE[answered])
            undone["answers"] = answers or (False if answered else None)
            run.silent = not answers
    except OSError as err:
        undone["notes"].append(f"The journal cannot be removed, and the next apply undoes it again: {err}")
    finally:
        end(minion)
    if undone["failed"]:
        run.undone = f"This apply was undone in part only, without {', '.join(undone['failed'])}: {reason}"
    undone["comment"] = _undone_text(undone, minion.state.path())
    return undone


def _record(
    minion: Minion,
    path: Path,
    kind: str,
    facts: Mapping[str, str] | None = None,
    contents: str | bytes | None = None,
) -> None:
    """Save what is at ``path`` before the participant changes it, and a fingerprint of what it will write."""
    _mta_journal.record(minion, path, kind, {"module": Run.of(minion).subject or "", **(facts or {})}, contents)


def _numeric(user: str | int | None, group: str | int | None, status: os.stat_result) -> tuple[int, int]:
    """
    Numbers of a user and a group that are names or numbers; of ``status`` where they are ``None``.

    A file may belong to a number without a name: an account that is gone, a file server's.
    """
    try:
        if not isinstance(user, int):
            user = status.st_uid if user is None else _number(lambda name: pwd.getpwnam(name).pw_uid, user)
        if not isinstance(group, int):
            group = status.st_gid if group is None else _number(lambda name: grp.getgrnam(name).gr_gid, group)
    except KeyError as err:
        raise CommandExecutionError(f"There is no such user or group: {err.args[0]}") from err
    return user, group


def _number(look_up: Callable[[str], int], name: str) -> int:
    """The number of a user or group; a text of digits that is no name is one."""
    try:
        return look_up(name)
    except KeyError:
        if re.fullmatch(r"[0-9]{1,10}", name):
            return int(name)
        raise


def _mode(mode: str) -> int:
    try:
        return int(mode, 8)
    except (TypeError, ValueError):
        raise SaltInvocationError(f"mode must be an octal string such as '0644', not {mode!r}") from None


def _refuse_irreplaceable(path: Path) -> None:
    """Raise for a file that no rename replaces, before anything is done with it."""
    for text in _mta_obstacles.sentences([path]):
        raise CommandExecutionError(text)


def write(
    minion: Minion,
    path: Path,
    contents: str | bytes,
    user: str | int | None = None,
    group: str | int | None = None,
    mode: str | None = None,
    activate: Mapping[str, str] | None = None,
    protect: Iterable[str] = (),
    times: tuple[int, int] | None = None,
    like: Path | None = None,
) -> None:
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

    protect
        Stores (``previous``, ``originals``) that forget at the commit what is there now, as the change is to
        protect it: a key that was not encrypted. Until then it comes back as all else does. Default: none.

    times
        Access and modification time in nanoseconds. Default: now.

    like
        The file whose extended attributes and access control lists it gets. Default: the one that is there.

    Raises ``CommandExecutionError`` when the file cannot be written; ``SaltInvocationError`` for a bad mode.
    """
    path = pathlib.Path(os.path.realpath(path))
    bits = None if mode is None else _mode(mode)
    _refuse_irreplaceable(path)
    try:
        begin(minion)
        exists = path.exists()
        uid, gid = _numeric(user, group, path.stat() if exists else os.stat("/"))
        if bits is None:
            bits = stat.S_IMODE(path.stat().st_mode) if exists else 0o644
        _record(minion, path, "file" if exists else "absent", {"protect": " ".join(protect)}, contents)
        need(minion, activate)
        draft = _mta_journal.new_draft(path)
        _mta_system.switch(path, contents, uid, gid, bits, times, draft, like)
    except OSError as err:
        raise CommandExecutionError(f"Cannot write {path}: {err.strerror or err}") from err


def remove(minion: Minion, path: Path, activate: Mapping[str, str] | None = None) -> None:
    """
    Remove a file as part of the transaction. A file that is not there is no error.

    path
        Absolute path; a symbolic link itself is not followed.

    activate
        As for :func:`write`.
    """
    path = pathlib.Path(path)
    if not os.path.lexists(path):
        return
    _refuse_irreplaceable(path)
    try:
        begin(minion)
        _record(minion, path, "file")
        need(minion, activate)
        _mta_journal.remove(path)
    except OSError as err:
        raise CommandExecutionError(f"Cannot remove {path}: {err.strerror or err}") from err


def directory(
    minion: Minion,
    path: Path,
    user: str | int = "root",
    group: str | int = "root",
    mode: str = "0755",
    runtime: Iterable[str] = (),
) -> None:
    """
    Create a directory, or correct its owner and mode, as part of the transaction.

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
        begin(minion)
        if not path.parent.is_dir():
            directory(minion, str(path.parent))
        exists = path.is_dir()
        uid, gid = _numeric(user, group, os.stat("/"))
        _record(minion, path, "directory" if exists else "no-directory", {"runtime": "\n".join(runtime)})
        if not exists:
            _mta_system.host.mkdir(path)
        _mta_system.host.chown(path, uid, gid)
        _mta_system.host.chmod(path, bits)
        _mta_system.host.sync(path)
        _mta_system.host.sync(path.parent)
    except OSError as err:
        raise CommandExecutionError(f"Cannot create {path}: {err.strerror or err}") from err


def command(
    minion: Minion,
    item: str,
    do: Sequence[Sequence[str]],
    undo: Sequence[Sequence[str]],
    evidence: Sequence[str],
    removes: bool = False,
) -> None:
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

    removes
        Whether it is one that takes the evidence away. Default: no.

    Raises ``CommandExecutionError`` when a command of ``do`` fails.
    """
    begin(minion)
    # The latter two for sh(1).
    facts = {"evidence": json.dumps(evidence), "in": evidence[0], "pattern": evidence[1]}
    if removes:
        facts["removes"] = "yes"
    try:
        _record(minion, item, "command", {"do": _script(do), "undo": _script(undo), **facts})
    except OSError as err:
        raise CommandExecutionError(f"Cannot change {item}: {err.strerror or err}") from err
    for argv in do:
        _mta_system.host.run(argv)


def _script(commands: Iterable[Sequence[str]]) -> str:
    return "".join(f"{shlex.join(argv)}\n" for argv in commands)


def halt(minion: Minion) -> bool:
    """
    Stop Postfix, for the moment in which files are switched that it must not see one without the other.

    An undo, of this run or of one that was killed, stops it too before it puts such files back. Whoever calls
    starts it again; what ends the transaction otherwise does.

    Returns whether it ran. Raises ``CommandExecutionError`` when it cannot be stopped.
    """
    begin(minion)
    if not _mta_services.status(["postfix"])["postfix"]["active"]:
        return False
    try:
        _mta_journal.halt(minion)
    except OSError as err:
        raise CommandExecutionError(f"Cannot write the journal: {err.strerror or err}") from err
    _mta_services.stop("postfix", for_good=False)
    return True


def afterwards(minion: Minion, function: Callable[[Minion], None]) -> None:
    """
    Have a function called when the transaction has been committed, before anybody else can begin one.

    function
        Called with the minion.
    """
    begin(minion).afterwards.append(function)


def need(minion: Minion, activate: Mapping[str, str] | None, let_go: Iterable[str] = ()) -> None:
    """
    Say what has to happen at the end for the changes to be in force, and which listeners they take out.

    activate
        ``{"postfix": "reload"}``; a restart is stronger than a reload. ``stop``: the service is stopped after all
        others are activated, and disabled once the transaction has been committed. ``None``: nothing.

    let_go
        Services of master.cf, such as ``submission/inet``, that are asked to be SMTP listeners no longer. Any
        other that spoke SMTP when the transaction began has to speak it when it is closed. Default: none.
    """
    if activate:
        transaction = begin(minion)
        transaction.activate = stronger(transaction.activate, activate)
        transaction.let_go.update(let_go)


def outlook(minion: Minion, services: Sequence[str] = ()) -> dict[str, Any]:
    """
    Tell what the closing state will have to do.

    Parameters, result and errors: ``mta_apply.outlook``.
    """
    run = Run.of(minion)
    activate = run.transaction.activate if run.transaction else run.activate
    status = {}
    if services and not run.undone:
        found = _mta_plan_cache.fact(minion, "PID files", services, lambda: _mta_services.pid_files(services))
        status = _mta_services.status(services, found)
    return {
        "services": status,
        "changes": bool(run.changes),
        "activate": dict(activate),
        "done": {service: DONE[action] for service, action in activate.items()},
        "undone": run.undone,
        "members": dict(run.changes),
    }


def _undone_text(undone: Mapping[str, Any], records: str) -> str:
    """For people, to whom the formula's own ``records`` say nothing."""
    lines = list(undone["notes"])
    restored = [path for path in undone["restored"] if not path.startswith(f"{records}/")]
    if restored:
        lines.insert(0, "Undone: " + ", ".join(restored) + ".")
    if lines and undone["answers"]:
        lines.append("The server answers as it did before.")
    elif lines and undone["answers"] is False:
        lines.append("THE SERVER DOES NOT ANSWER as it did before this apply: look at its log.")
    return "\n".join(lines)


def output(argv: Sequence[str], seconds: float) -> list[str]:
    """The lines that a command writes within some seconds; it is not waited for any longer."""
    job = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        output = job.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired as err:
        job.kill()
        output = err.output or b""
        log.warning("'%s' did not end within %s seconds", shlex.join(argv), seconds)
    return output.decode(errors="replace").splitlines()


def finish(minion: Minion) -> None:
    """Do what a commit leaves to be done; where a run dies over it, the next one does it."""
    _mta_snapshots.settle(minion)
    attempt("The next apply tries again", _mta_snapshots.protect, minion, _mta_journal.COMMITTED)
    _mta_journal.finish(minion)
