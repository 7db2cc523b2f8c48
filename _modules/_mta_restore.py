"""
What is restored from the snapshots: all of it, what a participant no longer needs, or what the last apply changed.

Only what is as the last apply left it is restored. What somebody has changed since stays, with what belongs to it,
and so does a certificate authority.
"""

from __future__ import annotations

import functools
import json
import pathlib
import shlex
import stat
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Callable

from salt.exceptions import CommandExecutionError

import _mta_journal
import _mta_last_apply
import _mta_pem
import _mta_postfix_outlook
import _mta_postfix_view
import _mta_services
import _mta_snapshots
import _mta_system
import _mta_transaction
from _mta_journal import Entry
from _mta_minion import Minion
from _mta_plan import Plan
from _mta_run import Run

# The parameters of main.cf, and the services of master.cf.
Configuration = tuple[dict[str, str], dict[str, dict[str, Any]]]

CERTIFICATE, KEY = b"-----BEGIN CERTIFICATE-----", b"PRIVATE KEY-----"


def authority_stays(entry: Entry) -> bool:
    """
    Tell whether what a transaction has saved is an authority's that is never taken away: a clean-up, roll back or
    change of settings leaves its private key as it is, and its certificate where there was none before.

    entry
        One of ``mta_journal.entries``.
    """
    if _mta_journal.fact(entry, "module") != "mta_ca" or entry["kind"] not in ("file", "absent"):
        return False
    try:
        file = _mta_pem.read(entry["path"])
    except CommandExecutionError:
        return True  # what somebody has put there instead
    return file is not None and (entry["kind"] == "absent" or KEY in file.data)


def authority_told(paths: Sequence[str]) -> list[str]:
    """
    Say of the files of an authority that they stay, and how to remove them; a list of no or one text.

    paths
        Absolute paths.
    """
    if not paths:
        return []
    return [
        f"The certificate authority stays, as nothing else can renew what it has signed: {', '.join(paths)}. "
        f"To remove it by hand: rm {shlex.join(paths)}"
    ]


def _edited(minion: Minion, entries: Sequence[Entry]) -> dict[str, str]:
    """
    Those of the entries that are not as the last apply that changed them left them, path to what to say.

    What is compiled goes the way of its source.
    """
    found, paths = {}, [entry["path"] for entry in entries]
    for entry in entries:
        path = entry["path"]
        if _mta_journal.is_record(minion, entry) or _mta_snapshots.source(path) in paths:
            continue
        now = _mta_journal.fingerprint(entry)
        if now == _mta_journal.fact(entry, "left") or not _mta_journal.changed(entry):
            continue
        changed = "stays, as somebody has changed it" if now else "stays away, as somebody has removed it"
        found[path] = f"{path} {changed} since the last apply"
    return found


def edited(minion: Minion) -> set[str]:
    """Return the paths of the files that somebody has changed since the last apply that changed them."""
    return {*_edited(minion, _mta_journal.entries(minion, _mta_snapshots.FIRST))}


def _needed(minion: Minion, entries: Sequence[Entry], modules: Mapping[str, str], asked: bool) -> dict[str, str]:
    """
    Of entries that would go, what a main.cf or master.cf that stays does not work without, path to what to say.

    ``asked``: whether that is saslauthd, too.
    """
    made = [
        entry["path"]
        for entry in entries
        # The other half of a pair may be one that goes.
        if not _mta_journal.is_record(minion, entry)
        and (entry["kind"] == "absent" or modules[entry["path"]] == "mta_cert")
    ]
    sources = {path: _mta_snapshots.source(path) or path for path in made}
    named = _mta_postfix_outlook.naming(minion, list(sources.values()))
    found = {path: f"{path} stays, as it is named by {named[it]}" for path, it in sources.items() if it in named}
    if asked:
        own = [path for path, module in modules.items() if module == "saslauthd"]
        found.update({path: f"{path} stays, as Postfix asks saslauthd for passwords" for path in own})
    return found


def _uses_saslauthd(after: Configuration | None) -> bool:
    """Whether an smtpd(8) of the main.cf and master.cf that stay lets clients log in by saslauthd."""
    try:
        if after:
            listeners = _mta_postfix_view.listeners_in(_mta_postfix_view.CONFIG_DIRECTORY, *after)
        else:
            listeners = _mta_postfix_view.listeners()
    except CommandExecutionError:
        return True
    return _mta_postfix_view.ask_saslauthd(listeners)


def _contents(path: str) -> bytes:
    try:
        return pathlib.Path(path).read_bytes()
    except OSError:
        return b""


def _is_certificate(path: str) -> bool:
    contents = _contents(path)
    return CERTIFICATE in contents and KEY not in contents


def _with_mates(
    minion: Minion, entries: Sequence[Entry], modules: Mapping[str, str], stays: Mapping[str, str | None]
) -> dict[str, str | None]:
    """What stays, with what belongs to it: main.cf or master.cf, the key of a certificate, what is compiled."""
    found: dict[str, str | None] = dict(stays)

    def keep(
        module: str,
        of: Callable[[str], bool] = lambda path: True,
        mates: Callable[[str], bool] = lambda path: True,
    ) -> None:
        paths = [
            entry["path"]
            for entry in entries
            if modules[entry["path"]] == module
            and entry["kind"] in ("file", "absent")
            and not _mta_journal.is_record(minion, entry)
        ]
        first = next((path for path in paths if path in stays and of(path)), None)
        for path in filter(mates, paths) if first else []:
            found.setdefault(path, f"{path} stays, as it belongs to {first}")

    keep("postconf")
    # A certificate without its key would be of no use.
    keep("mta_cert", of=_is_certificate, mates=lambda path: KEY in _contents(path))
    for path in modules:
        if _mta_snapshots.source(path) in found:
            found.setdefault(path, f"{path} stays, as it is compiled from {_mta_snapshots.source(path)}")
    # A record is of use as long as what it tells of.
    records = [entry["path"] for entry in entries if _mta_journal.is_record(minion, entry)]
    left = {modules[path] for path in found}
    found.update(dict.fromkeys([path for path in records if modules[path] in left]))
    return found


def _survey(
    minion: Minion,
    entries: Sequence[Entry],
    everything: bool = False,
    theirs: Collection[str] = (),
    after: Configuration | None = None,
) -> dict[str, Any]:
    """
    What putting entries back would change, as ``{path: {"old": …, "new": …}}``; what stays, path to what to say or
    ``None``; the files of an authority; whether saslauthd stays.

    everything
        They are all that there is. What main.cf and master.cf need stays with them then.

    theirs
        Paths of files that stay as well, as somebody else has set something in them.

    after
        What main.cf and master.cf will be, where they stay. Default: what they are.
    """
    if entries:
        _mta_system.look_elsewhere()
    modules = {entry["path"]: _mta_journal.fact(entry, "module") for entry in entries}
    own = "stays but for what this formula has set, as somebody else has set something there, too"
    others = {path: f"{path} {own}" for path in theirs if path in modules}
    stays = _with_mates(minion, entries, modules, {**others, **_edited(minion, entries)})
    asked = False
    if everything and any(modules[path] == "postconf" for path in stays):
        asked = _uses_saslauthd(after)
        stays = _with_mates(minion, entries, modules, {**_needed(minion, entries, modules, asked), **stays})
    changes: dict[str, Any] = {}
    authority: list[str] = []
    left: dict[str, str | None] = {}
    # A directory was made before what is in it.
    for entry in reversed(entries):
        path = entry["path"]
        if not _mta_journal.changed(entry, list(changes)):
            continue
        if authority_stays(entry):
            authority.append(path)
        elif path in stays:
            left[path] = stays[path]
        else:
            nothing = entry["kind"] in ("absent", "no-directory", "command")
            new = None if nothing else "as before the first apply"
            changes[path] = {"old": "as this formula made it", "new": new}
    return {"changes": changes, "stays": left, "authority": authority, "saslauthd": asked}


def _told(entries: Sequence[Entry], found: Mapping[str, Any], theirs: Collection[str] = ()) -> list[str]:
    """What stays, a list of texts; of ``theirs`` nothing is kept."""
    folders = {
        one["path"]: one["folder"] for one in entries if one["kind"] == "file" and one["path"] not in theirs
    }
    told = []
    for path, text in found["stays"].items():
        kept = f". What was there before the first apply is in {folders[path]}/content" if path in folders else ""
        if text:
            told.append(text + kept)
    return told + authority_told(found["authority"])


def obsolete(minion: Minion, module: str, wanted: Iterable[str]) -> dict[str, Any]:
    """
    Tell what a participant has once changed that is no longer wanted, and not as it was before its first change.

    What is not as the last apply that changed it left it stays: what somebody has replaced since is theirs.

    module
        The participant's subject.

    wanted
        List of the paths, and names of what commands change, that it still wants, with all above them.

    Returns ``changes`` (``{path: {"old": …, "new": …}}``, for :func:`restore`) and ``stays`` (a text for each
    that stays).
    """
    # Files are kept by the paths that symbolic links lead to.
    wanted = [*wanted, *(_mta_system.real_path(item) for item in wanted if item.startswith("/"))]
    entries = []
    for entry in _mta_journal.entries(minion, _mta_snapshots.FIRST):
        path = entry["path"]
        needed = any(item == path or item.startswith(f"{path}/") for item in wanted)
        if not needed and _mta_journal.fact(entry, "module") == module:
            entries.append(entry)
    found = _survey(minion, entries)
    return {"changes": found["changes"], "stays": _told(entries, found)}


def absent_service(minion: Minion, module: str, service: str) -> Plan:
    """
    Tell what becomes of a daemon of the formula's own that is no longer wanted: it stops, and its files go.

    module
        The participant's subject.
    """
    found = obsolete(minion, module, [])
    changes = dict(found["changes"])
    activate: dict[str, str] = {}
    status = _mta_services.status([service])[service]
    if changes and (status["active"] or status["enabled"]):
        now = {key: status[key] for key in ("enabled", "active")}
        changes[service] = {"old": now, "new": {"enabled": False, "active": False}}
        activate = {service: "stop"}
    return Plan(changes, activate, notes=found["stays"])


def remove_service(minion: Minion, module: str, service: str) -> None:
    """Make true what :func:`absent_service` tells, through the transaction that is open. Parameters as there."""
    planned = absent_service(minion, module, service)
    _mta_transaction.begin(minion)
    _mta_transaction.need(minion, planned.activate)
    restore(minion, [path for path in planned.changes if path.startswith("/")])


def restore(minion: Minion, paths: Collection[str]) -> None:
    """
    Restore what was there before the first apply, as part of the transaction; at its commit it is forgotten.

    A directory that was not there is removed when the transaction is committed, as a daemon may still use it.

    paths
        List of paths, as :func:`obsolete` returns them.
    """
    for entry in reversed(_mta_journal.entries(minion, _mta_snapshots.FIRST)):
        if entry["path"] in paths:
            put_back(minion, entry, forget=True)


def restore_plan(minion: Minion, theirs: Collection[str] = (), after: Configuration | None = None) -> Plan:
    """
    Tell what differs from how it was before the first apply that committed; changes by path.

    theirs
        Paths of files that stay, as somebody else has set something in them.

    after
        What main.cf and master.cf will be, where they stay. Default: what they are.

    What is not as the last apply that changed it left it stays: what somebody has changed since is theirs, and
    with it what cannot do without it. So does an authority. The notes name them.
    """
    entries = _mta_journal.entries(minion, _mta_snapshots.FIRST)
    found = _survey(minion, entries, True, theirs, after)
    told = _told(entries, found, theirs)
    if not found["changes"]:
        return Plan(notes=told)
    # What came with a later apply than the first, as logins do where a satellite becomes a server.
    came = {"saslauthd"} if any("saslauthd" in path for path in found["changes"]) else set()
    services = {
        name: "restart" if was["active"] else "stop"
        for name, was in _mta_snapshots.services(minion).items()
        if (was["installed"] or name in came) and (name != "postfix" or not was["active"])
    }
    if found["saslauthd"]:
        services.pop("saslauthd", None)
    return Plan(found["changes"], {"postfix": "restart", **services}, notes=told)


def restore_apply(minion: Minion, theirs: Collection[str] = ()) -> None:
    """
    Put back what :func:`restore_plan` tells, to how it was before the first apply, in one transaction.

    theirs
        As for :func:`restore_plan`.

    When that is committed, the services are as before the first apply, and what was kept is forgotten, except for
    what stays.

    For states: by itself it is refused.
    """
    _mta_transaction.begin(minion)
    planned = restore_plan(minion, theirs)
    listeners = [listener["service"] for listener in _mta_postfix_view.listeners()]
    restore(minion, list(planned.changes))
    _mta_transaction.need(minion, planned.activate, let_go=listeners)
    _mta_transaction.afterwards(minion, forget_first)


def forget_first(minion: Minion) -> None:
    """
    Bring the services to how they were before the first apply, and forget what was kept, except for what stays.

    Called at the commit of what :func:`restore_apply` restores. Copies of what that replaced stay in the store
    ``previous`` until the next apply.
    """
    for name, was in _mta_snapshots.services(minion).items():
        now = _mta_services.status([name])[name]
        if was["enabled"] and now["installed"] and not now["enabled"]:
            _mta_services.enable(name)
        if was["active"] and now["installed"] and not now["active"]:
            _mta_services.start(name)
    entries = _mta_journal.entries(minion, _mta_snapshots.FIRST)
    found = _survey(minion, entries, everything=True)
    for entry in entries:
        if entry["path"] not in found["stays"] and entry["path"] not in found["authority"]:
            _mta_snapshots.drop(pathlib.Path(entry["folder"]))
    if not _mta_journal.entries(minion, _mta_snapshots.FIRST):
        _mta_system.clear(_mta_snapshots.first_folder(minion))
    _mta_snapshots.forget_last(minion)
    _mta_last_apply.forget(minion)


def roll_back_plan(minion: Minion, commit: float | None = None) -> Plan:
    """
    Tell what a roll back would restore; changes by path.

    commit
        As for ``mta_transaction.roll_back``.
    """
    left = _mta_snapshots.described(minion)
    if not left:
        return Plan(errors=["there is nothing to roll back"])
    if commit is not None and left["commit"] != commit:
        return Plan(errors=["not rolled back: another apply has changed something since"])
    entries = [
        entry for entry in _mta_journal.entries(minion, _mta_snapshots.LAST) if entry["path"] in left["paths"]
    ]
    kept = [entry["path"] for entry in entries]
    notes = []
    encrypted = [path for path in left["paths"] if path not in kept]
    if encrypted:
        notes.append(
            f"{', '.join(encrypted)} stays as it is: it was encrypted, and its former content was not kept"
        )
    since = [
        entry["path"]
        for entry in entries
        if not _mta_journal.is_record(minion, entry)
        and _mta_journal.fingerprint(entry) != left["paths"][entry["path"]]
    ]
    if since:
        return Plan(errors=[f"not rolled back: changed since the apply: {', '.join(since)}"])
    authority = [entry["path"] for entry in entries if authority_stays(entry)]
    notes += authority_told(authority)
    # Directories that were made stay.
    made = [entry["path"] for entry in entries if entry["kind"] == "no-directory"]
    paths = [path for path in kept if path not in [*authority, *made]]
    if not paths:
        return Plan(errors=["\n".join(["there is nothing to roll back", *notes])])
    change = {"old": "as the last apply made it", "new": "as before it"}
    return Plan(dict.fromkeys(paths, change), _activate_as_before(minion, left["activate"]), notes=notes)


def _activate_as_before(minion: Minion, activate: Mapping[str, str]) -> dict[str, str]:
    """What brings the daemons to the files from before the last apply: one that did not run then is stopped."""
    found = {}
    before = _mta_snapshots.services(minion, _mta_snapshots.LAST)
    for name, action in activate.items():
        ran = name not in before or before[name]["active"]
        found[name] = ("restart" if action == "stop" else action) if ran else "stop"
    return found


def _enable_as(before: Mapping[str, Mapping[str, bool]], minion: Minion) -> None:
    """Have the daemons start at boot, or not, as they did."""
    for name, was in before.items():
        now = _mta_services.status([name])[name]
        if now["installed"] and now["enabled"] is not was["enabled"]:
            (_mta_services.enable if was["enabled"] else _mta_services.disable)(name)


def roll_back_apply(minion: Minion, commit: float | None = None) -> None:
    """
    Put every file back to how it was before the last apply that changed something, as one transaction, and so what
    commands have changed.

    commit
        As for ``mta_transaction.roll_back``.
    """
    _mta_transaction.begin(minion)
    planned = roll_back_plan(minion, commit)
    if planned.errors:
        raise CommandExecutionError("\n".join(planned.errors))
    listeners = [listener["service"] for listener in _mta_postfix_view.listeners()]
    halted = _mta_journal.halted(minion, _mta_snapshots.LAST)
    if halted:
        _mta_transaction.halt(minion)
    for entry in reversed(_mta_journal.entries(minion, _mta_snapshots.LAST)):
        put_back(minion, entry)
    _mta_transaction.need(minion, planned.activate, let_go=listeners)
    before = _mta_snapshots.services(minion, _mta_snapshots.LAST)
    before = {name: before[name] for name in planned.activate if name in before}
    _mta_transaction.afterwards(minion, functools.partial(_enable_as, before))
    if halted:
        _mta_services.start("postfix")


def put_back(minion: Minion, entry: Entry, forget: bool = False) -> None:
    """
    Restore what an earlier transaction saved, as part of this one. A directory that was made stays, and so does
    an authority.

    entry
        One of ``mta_journal.entries`` of the store ``originals`` or ``previous``.

    forget
        At the commit, forget the entry of ``originals``. Default: no.
    """
    transaction = _mta_transaction.begin(minion)
    if authority_stays(entry):
        return
    path, kind = entry["path"], entry["kind"]
    run = Run.of(minion)
    caller = run.subject
    # It stays what the participant that changed it restores when it needs it no more.
    run.subject = _mta_journal.fact(entry, "module") or caller
    if kind == "file":
        content = pathlib.Path(entry["folder"]) / "content"
        status = content.stat()
        mode = f"{stat.S_IMODE(status.st_mode):o}"
        owner, times = (status.st_uid, status.st_gid), (status.st_atime_ns, status.st_mtime_ns)
        _mta_transaction.write(minion, path, content.read_bytes(), *owner, mode, times=times, like=content)
    elif kind == "absent":
        _mta_transaction.remove(minion, path)
    elif kind == "directory":
        user, group = map(int, _mta_journal.fact(entry, "owner").split(":"))
        _mta_transaction.directory(minion, path, user, group, _mta_journal.fact(entry, "mode"))
    elif kind == "command" and _mta_journal.changed(entry):
        scripts = (_mta_journal.fact(entry, name).splitlines() for name in ("undo", "do"))
        undo_, do = ([shlex.split(line) for line in lines] for lines in scripts)
        evidence = json.loads(_mta_journal.fact(entry, "evidence"))
        removes = not _mta_journal.fact(entry, "removes")
        _mta_transaction.command(minion, path, undo_, do, evidence, removes=removes)
    run.subject = caller
    if forget:
        transaction.restored.append(path)
