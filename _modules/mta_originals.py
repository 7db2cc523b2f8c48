"""
What was there before this formula's first apply: kept at each commit, given back in part or whole.

The store ``originals`` of :py:mod:`mta_journal` has one entry for each path, of the transaction that changed it
first. Beside the entries, ``services`` says what the daemons were like.
"""

import json
import os
import pathlib
import shutil

from salt.exceptions import CommandExecutionError

STORE = "originals"
# What postmap(1) and postalias(1) make of a file beside it.
COMPILED = (".db", ".lmdb", ".cdb")
CERTIFICATE, KEY = b"-----BEGIN CERTIFICATE-----", b"PRIVATE KEY-----"


def _store():
    return pathlib.Path(__salt__["mta_state.path"](STORE))


def _services():
    """What the daemons were like before the first apply, by name."""
    try:
        return json.loads((_store() / "services").read_text())["services"]
    except (OSError, ValueError):
        return {}


def _drafts():
    """What :func:`keep` has written, in an order in which it may get its names: ``[(draft, name)]``."""
    store = _store()
    drafts = [*store.glob("[0-9]*/.left"), *store.glob(".services"), *sorted(store.glob(".[0-9]*"))]
    return [(draft, draft.with_name(draft.name[1:])) for draft in drafts]


def keep():
    """
    Keep what the journal has of paths that were never changed before, and in a word what the commit leaves.

    All of it is a draft until the commit is done (:func:`settle`): an undo leaves what was kept as it was.
    Where nothing was before and somebody has replaced what an apply made, it is theirs that is kept from now on.

    Raises ``OSError`` when it cannot be written.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_originals.keep
    """
    store = _store()
    store.mkdir(mode=0o700, exist_ok=True)
    discard()
    if not (store / "services").exists():
        shutil.copy2(__salt__["mta_state.path"]("journal/before"), store / ".services")
    there = __salt__["mta_journal.entries"](STORE)
    kept = {entry["path"]: entry for entry in there}
    number = int(os.path.basename(there[-1]["folder"])) + 1 if there else 0
    for entry in __salt__["mta_journal.entries"]():
        left = __salt__["mta_journal.fingerprint"](entry)
        old = kept.get(entry["path"])
        if old and not _is_of_somebody_else(old, entry):
            pathlib.Path(old["folder"], ".left").write_text(left)
            __salt__["mta_journal.make_safe"](old["folder"])
            continue
        if __salt__["mta_journal.fact"](entry, "protect"):
            continue
        draft = store / f".{number:04d}"
        shutil.copytree(entry["folder"], draft)
        content = pathlib.Path(entry["folder"]) / "content"
        if content.exists():
            status = content.stat()
            os.chown(draft / "content", status.st_uid, status.st_gid)
        (draft / "left").write_text(left)
        __salt__["mta_journal.make_safe"](draft)
        if old:
            # Under the name of the one that it replaces.
            draft.rename(store / f".{os.path.basename(old['folder'])}")
            continue
        number += 1
    __salt__["mta_journal.make_safe"](store)


def discard():
    """
    Remove the drafts of :func:`keep`, where the commit is not done.

    Raises ``OSError`` when that cannot be done.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_originals.discard
    """
    for draft, _ in _drafts():
        if draft.is_dir():
            shutil.rmtree(draft)
        else:
            draft.unlink()


def settle():
    """
    Give the drafts of :func:`keep` their names, after the commit. Doing it again makes up for a run that died.

    Raises ``OSError`` when that cannot be done.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_originals.settle
    """
    for draft, name in _drafts():
        if name.is_dir():
            _drop({"folder": name})
        os.rename(draft, name)


def content(path, **job):
    """
    Return what was in a file before the first apply.

    For states and other modules: as a job it is refused.

    path
        Absolute path; a symbolic link is followed.

    Returns bytes; ``None`` when there was no such file, or it was never changed.
    """
    __salt__["mta_state.refuse_job"]("mta_originals.content", job)
    for entry in __salt__["mta_journal.entries"](STORE):
        if entry["path"] == os.path.realpath(path) and entry["kind"] == "file":
            return pathlib.Path(entry["folder"], "content").read_bytes()
    return None


def _is_of_somebody_else(old, entry):
    """Whether what the journal has saved was put there by somebody, where nothing was before the first apply."""
    if (old["kind"], entry["kind"]) != ("absent", "file") or _source(old["path"]) or _is_record(old):
        return False
    return __salt__["mta_journal.fingerprint"](entry, saved=True) != __salt__["mta_journal.fact"](old, "left")


def _drop(entry):
    """Forget an entry in one step: who only looks holds no lock."""
    folder = pathlib.Path(entry["folder"])
    gone = folder.with_name(f"gone-{folder.name}")
    shutil.rmtree(gone, ignore_errors=True)
    os.rename(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)


# -- what goes back, and what stays --------------------------------------------------------------


def _is_record(entry):
    return __salt__["mta_journal.is_record"](entry)


def _source(path):
    """The file from which a lookup table is compiled; empty for any other path."""
    source, suffix = os.path.splitext(path)
    return source if suffix in COMPILED else ""


def _edited(entries):
    """
    Those of the entries that are not as the last apply that changed them left them, path to what to say.

    What is compiled goes the way of its source.
    """
    found, paths = {}, [entry["path"] for entry in entries]
    for entry in entries:
        path = entry["path"]
        if _is_record(entry) or _source(path) in paths:
            continue
        now = __salt__["mta_journal.fingerprint"](entry)
        if now == __salt__["mta_journal.fact"](entry, "left") or not __salt__["mta_journal.changed"](entry):
            continue
        changed = "stays, as somebody has changed it" if now else "stays away, as somebody has removed it"
        found[path] = f"{path} {changed} since the last apply"
    return found


def _needed(entries, modules, asked):
    """
    Of entries that would go, what a main.cf or master.cf that stays does not work without, path to what to say.

    ``asked``: whether that is saslauthd, too.
    """
    made = [entry["path"] for entry in entries if entry["kind"] == "absent" and not _is_record(entry)]
    sources = {path: _source(path) or path for path in made}
    named = __salt__["postconf.naming"](list(sources.values()))
    found = {path: f"{path} stays, as it is named by {named[it]}" for path, it in sources.items() if it in named}
    if asked:
        own = [path for path, module in modules.items() if module == "saslauthd"]
        found.update({path: f"{path} stays, as Postfix asks saslauthd for passwords" for path in own})
    return found


def _uses_saslauthd():
    """Whether an smtpd(8) of the main.cf and master.cf that are there lets clients log in by saslauthd."""
    try:
        listeners = __salt__["postconf.listeners"]()
    except CommandExecutionError:
        return True
    return any(one["auth"] and one["sasl_type"] == "cyrus" for one in listeners)


def _contents(path):
    try:
        return pathlib.Path(path).read_bytes()
    except OSError:
        return b""


def _is_certificate(path):
    contents = _contents(path)
    return CERTIFICATE in contents and KEY not in contents


def _with_mates(entries, modules, stays):
    """What stays, with what belongs to it: main.cf or master.cf, the key of a certificate, what is compiled."""
    found = dict(stays)

    def keep(module, of=lambda path: True, mates=lambda path: True):
        paths = [
            entry["path"]
            for entry in entries
            if modules[entry["path"]] == module and entry["kind"] in ("file", "absent") and not _is_record(entry)
        ]
        first = next((path for path in paths if path in stays and of(path)), None)
        for path in filter(mates, paths) if first else []:
            found.setdefault(path, f"{path} stays, as it belongs to {first}")

    keep("postconf")
    # A certificate without its key would be of no use.
    keep("mta_cert", of=_is_certificate, mates=lambda path: KEY in _contents(path))
    for path in modules:
        if _source(path) in found:
            found.setdefault(path, f"{path} stays, as it is compiled from {_source(path)}")
    # A record is of use as long as what it tells of.
    records = [entry["path"] for entry in entries if _is_record(entry)]
    left = {modules[path] for path in found}
    found.update({path: None for path in records if modules[path] in left})
    return found


def _survey(entries, everything=False):
    """
    What putting entries back would change, as ``{path: {"old": …, "new": …}}``; what stays, path to what to say or
    ``None``; the files of an authority; whether saslauthd stays.

    everything
        They are all that there is. What main.cf and master.cf need stays with them then.
    """
    modules = {entry["path"]: __salt__["mta_journal.fact"](entry, "module") for entry in entries}
    stays = _with_mates(entries, modules, _edited(entries))
    asked = False
    if everything and any(modules[path] == "postconf" for path in stays):
        asked = _uses_saslauthd()
        stays = _with_mates(entries, modules, {**_needed(entries, modules, asked), **stays})
    changes, authority, left = {}, [], {}
    # A directory was made before what is in it.
    for entry in reversed(entries):
        path = entry["path"]
        if not __salt__["mta_journal.changed"](entry, list(changes)):
            continue
        if __salt__["mta_ca.stays"](entry):
            authority.append(path)
        elif path in stays:
            left[path] = stays[path]
        else:
            nothing = entry["kind"] in ("absent", "no-directory", "command")
            new = None if nothing else "as before the first apply"
            changes[path] = {"old": "as this formula made it", "new": new}
    return {"changes": changes, "stays": left, "authority": authority, "saslauthd": asked}


def _told(entries, found):
    """What stays, a list of texts."""
    folders = {entry["path"]: entry["folder"] for entry in entries if entry["kind"] == "file"}
    told = []
    for path, text in found["stays"].items():
        kept = f". What was there before the first apply is in {folders[path]}/content" if path in folders else ""
        if text:
            told.append(text + kept)
    return told + __salt__["mta_ca.told"](found["authority"])


def superseded(module, wanted):
    """
    Tell what a member has once changed that is no longer wanted, and not as it was before its first change.

    What is not as the last apply that changed it left it stays: what somebody has replaced since is theirs.

    module
        The member.

    wanted
        List of the paths, and names of what commands change, that it still wants, with all above them.

    Returns ``changes`` (``{path: {"old": …, "new": …}}``, for :func:`give_back`) and ``stays`` (a text for each
    that stays).

    CLI Example:

    .. code-block:: bash

        salt '*' mta_originals.superseded saslauthd '[/etc/default/saslauthd]'
    """
    # Files are kept by the paths that symbolic links lead to.
    wanted = [*wanted, *(os.path.realpath(item) for item in wanted if item.startswith("/"))]
    entries = []
    for entry in __salt__["mta_journal.entries"](STORE):
        path = entry["path"]
        needed = any(item == path or item.startswith(f"{path}/") for item in wanted)
        if not needed and __salt__["mta_journal.fact"](entry, "module") == module:
            entries.append(entry)
    found = _survey(entries)
    return {"changes": found["changes"], "stays": _told(entries, found)}


def give_back(paths):
    """
    Put back what was there before the first apply, as part of the transaction; at its commit it is forgotten.

    For states: by itself it is refused.

    A directory that was not there is removed when the transaction is committed, as a daemon may still use it.

    paths
        List of paths, as :func:`superseded` returns them.
    """
    for entry in reversed(__salt__["mta_journal.entries"](STORE)):
        if entry["path"] in paths:
            __salt__["mta_transaction.put_back"](entry, forget=True)


def forget_entries(paths):
    """
    Forget what was given back, and remove the directories that were not there.

    paths
        List of paths.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_originals.forget_entries '[/etc/saslauthd.conf]'
    """
    for entry in reversed(__salt__["mta_journal.entries"](STORE)):
        if entry["path"] in paths:
            if entry["kind"] == "no-directory":
                __salt__["mta_journal.remove_directory"](entry)
            _drop(entry)


def plan():
    """
    Tell what differs from how it was before the first apply that committed, as ``{path: {"old": …, "new": …}}``.

    What is not as the last apply that changed it left it stays: what somebody has changed since is theirs, and
    with it what cannot do without it. So does an authority. The comment names them.

    Returns ``{"changes", "activate", "comment"}``.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_originals.plan
    """
    entries = __salt__["mta_journal.entries"](STORE)
    found = _survey(entries, everything=True)
    told = "\n".join(_told(entries, found)) or None
    if not found["changes"]:
        return {"changes": {}, "activate": {}, "comment": told}
    services = {
        name: "restart" if was["active"] else "stop"
        for name, was in _services().items()
        if was["installed"] and (name != "postfix" or not was["active"])
    }
    if found["saslauthd"]:
        services.pop("saslauthd", None)
    return {"changes": found["changes"], "activate": {"postfix": "restart", **services}, "comment": told}


def apply():
    """
    Put what :func:`plan` tells back to how it was before the first apply that committed, as one transaction.

    When that is committed, the services are as before the first apply, and what was kept is forgotten, except for
    what stays.

    For states: by itself it is refused.
    """
    __salt__["mta_transaction.begin"]()
    planned = plan()
    listeners = [listener["service"] for listener in __salt__["postconf.listeners"]()]
    give_back(list(planned["changes"]))
    __salt__["mta_transaction.need"](planned["activate"], let_go=listeners)
    __salt__["mta_transaction.afterwards"]("mta_originals.forget")


def forget():
    """
    Bring the services to how they were before the first apply, and forget what was kept, except for what stays.

    Called at the commit of what :func:`apply` puts back. Copies of what that replaced stay in the store
    ``previous`` until the next apply.

    CLI Example:

    .. code-block:: bash

        salt '*' state.apply postfix_mta.clean
    """
    for name, was in _services().items():
        now = __salt__["mta_service.status"]([name])[name]
        if was["enabled"] and now["installed"] and not now["enabled"]:
            __salt__["mta_service.enable"](name)
        if was["active"] and now["installed"] and not now["active"]:
            __salt__["mta_service.start"](name)
    entries = __salt__["mta_journal.entries"](STORE)
    found = _survey(entries, everything=True)
    for entry in entries:
        if entry["path"] not in found["stays"] and entry["path"] not in found["authority"]:
            _drop(entry)
    if not __salt__["mta_journal.entries"](STORE):
        shutil.rmtree(_store(), ignore_errors=True)
    __salt__["mta_previous.forget"]()
    __salt__["mta_apply.forget"]()
