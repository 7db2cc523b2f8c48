"""
What was there before this formula's first apply: kept at each commit, given back in part or whole.

The store ``originals`` of :py:mod:`mta_journal` has one entry for each path, of the transaction that changed it
first. Beside the entries, ``services`` says what the daemons were like.
"""

import json
import os
import pathlib
import shutil

STORE = "originals"


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
    kept = {entry["path"]: entry["folder"] for entry in there}
    number = int(os.path.basename(there[-1]["folder"])) + 1 if there else 0
    for entry in __salt__["mta_journal.entries"]():
        word = __salt__["mta_journal.word"](entry["path"]) or ""
        if entry["path"] in kept:
            pathlib.Path(kept[entry["path"]], ".left").write_text(word)
            __salt__["mta_journal.make_safe"](kept[entry["path"]])
            continue
        if __salt__["mta_journal.fact"](entry, "protect"):
            continue
        draft = store / f".{number:04d}"
        shutil.copytree(entry["folder"], draft)
        content = pathlib.Path(entry["folder"]) / "content"
        if content.exists():
            status = content.stat()
            os.chown(draft / "content", status.st_uid, status.st_gid)
        (draft / "left").write_text(word)
        __salt__["mta_journal.make_safe"](draft)
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


def _changes(entries):
    """What putting entries back would change, as ``{path: {"old": …, "new": …}}``."""
    changes = {}
    # A directory was made before what is in it.
    for entry in reversed(entries):
        if __salt__["mta_journal.changed"](entry, list(changes)):
            nothing = entry["kind"] in ("absent", "no-directory", "command")
            new = None if nothing else "as before the first apply"
            changes[entry["path"]] = {"old": "as this formula made it", "new": new}
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

        salt '*' mta_originals.superseded saslauthd '[/etc/default/saslauthd]'
    """
    # Files are kept by the paths that symbolic links lead to.
    wanted = [*wanted, *(os.path.realpath(item) for item in wanted if item.startswith("/"))]
    entries = []
    for entry in __salt__["mta_journal.entries"](STORE):
        path = entry["path"]
        needed = any(item == path or item.startswith(f"{path}/") for item in wanted)
        if needed or __salt__["mta_journal.fact"](entry, "module") != module:
            continue
        left = __salt__["mta_journal.fact"](entry, "left") if untouched else None
        if not untouched or left == (__salt__["mta_journal.word"](path) or ""):
            entries.append(entry)
    return _changes(entries)


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
            shutil.rmtree(entry["folder"])


def plan():
    """
    Tell what differs from how it was before the first apply that committed, as ``{path: {"old": …, "new": …}}``.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_originals.plan
    """
    changes = _changes(__salt__["mta_journal.entries"](STORE))
    if not changes:
        return {"changes": {}, "activate": {}}
    services = {
        name: "restart" if was["active"] else "stop"
        for name, was in _services().items()
        if was["installed"] and (name != "postfix" or not was["active"])
    }
    return {"changes": changes, "activate": {"postfix": "restart", **services}}


def apply():
    """
    Put every file back to how it was before the first apply that committed, as one transaction.

    For states: by itself it is refused.
    """
    planned = plan()
    listeners = [listener["service"] for listener in __salt__["postconf.listeners"]()]
    give_back(list(planned["changes"]))
    __salt__["mta_transaction.need"](planned["activate"], let_go=listeners)


def forget():
    """
    Bring the services to how they were before the first apply, and forget all that was kept.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_originals.forget
    """
    for name, was in _services().items():
        now = __salt__["mta_service.status"]([name])[name]
        if was["enabled"] and now["installed"] and not now["enabled"]:
            __salt__["mta_service.enable"](name)
        if was["active"] and now["installed"] and not now["active"]:
            __salt__["mta_service.start"](name)
    shutil.rmtree(_store(), ignore_errors=True)
    __salt__["mta_previous.forget"]()
    __salt__["mta_apply.forget"]()
