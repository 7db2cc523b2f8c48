"""
What was there before the last apply that changed something: the journal of its transaction, kept at the commit.

Beside the entries of the store ``previous`` (:py:mod:`mta_journal`), ``left`` says what the transaction left, so
that nobody's later change is overwritten when it is taken back.
"""

import json
import pathlib
import shutil
import time

from salt.exceptions import CommandExecutionError

STORE = "previous"


def describe(activate):
    """
    Write down, in the journal, what the transaction leaves; called before the commit.

    activate
        What has to happen to put the files in force, service to action.

    Raises ``OSError`` when it cannot be written.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_previous.describe '{"postfix": "reload"}'
    """
    entries = __salt__["mta_journal.entries"]()
    words = {entry["path"]: __salt__["mta_journal.fingerprint"](entry) for entry in entries}
    text = json.dumps({"commit": time.time(), "paths": words, "activate": activate})
    pathlib.Path(__salt__["mta_state.path"]("journal/left")).write_text(text)
    __salt__["mta_journal.make_safe"](__salt__["mta_state.path"]("journal"))


def protect():
    """
    Forget what the last apply was to protect: a private key as it was before it was encrypted.

    Part of each commit, and of the next change for a run that was killed right after its commit. Raises
    ``CommandExecutionError`` when it cannot be removed.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_previous.protect
    """
    for entry in __salt__["mta_journal.entries"](STORE):
        stores = __salt__["mta_journal.fact"](entry, "protect").split()
        try:
            if "originals" in stores:
                __salt__["mta_originals.forget_entries"]([entry["path"]])
            if STORE in stores:
                shutil.rmtree(entry["folder"])
        except OSError as err:
            raise CommandExecutionError(
                f"{entry['path']} is protected now, but its former content cannot be removed: {err}"
            ) from err


def _described():
    """What :func:`describe` wrote at the last commit; empty when there is none."""
    return __salt__["mta_state.read"](f"{STORE}/left")


def last_commit():
    """
    Return when a transaction last changed something for good, Unix time; ``None``: never, or nobody knows.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_previous.last_commit
    """
    return _described().get("commit")


def plan(commit=None):
    """
    Tell what :func:`take_back` would put back, as ``{path: {"old": …, "new": …}}``.

    commit
        As for :func:`take_back`.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_previous.plan
    """
    left = _described()
    if not left:
        return {"changes": {}, "errors": ["there is nothing that could be taken back"]}
    if commit is not None and left["commit"] != commit:
        return {"changes": {}, "errors": ["not taken back: another apply has changed something since"]}
    entries = [entry for entry in __salt__["mta_journal.entries"](STORE) if entry["path"] in left["paths"]]
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
        if not __salt__["mta_journal.is_record"](entry)
        and __salt__["mta_journal.fingerprint"](entry) != left["paths"][entry["path"]]
    ]
    if since:
        return {"changes": {}, "errors": [f"not taken back: changed since the apply: {', '.join(since)}"]}
    authority = [entry["path"] for entry in entries if __salt__["mta_ca.stays"](entry)]
    told = "\n".join(notes + __salt__["mta_ca.told"](authority)) or None
    paths = [path for path in kept if path not in authority]
    if not paths:
        return {"changes": {}, "errors": [f"there is nothing that could be taken back. {told}"]}
    change = {"old": "as the last apply made it", "new": "as before it"}
    return {"changes": dict.fromkeys(paths, change), "activate": left["activate"], "comment": told}


def apply(commit=None):
    """
    Put every file back to how it was before the last apply that changed something, as one transaction.

    For states: by itself it is refused.

    commit
        As for :func:`take_back`.
    """
    __salt__["mta_transaction.begin"]()
    planned = plan(commit)
    if planned.get("errors"):
        raise CommandExecutionError("\n".join(planned["errors"]))
    activate = planned["activate"]
    listeners = [listener["service"] for listener in __salt__["postconf.listeners"]()]
    halted = __salt__["mta_journal.halted"](STORE)
    if halted:
        __salt__["mta_transaction.halt"]()
    for entry in reversed(__salt__["mta_journal.entries"](STORE)):
        if entry["kind"] != "command":
            __salt__["mta_transaction.put_back"](entry)
    __salt__["mta_transaction.need"](activate, let_go=listeners)
    if halted:
        __salt__["mta_service.start"]("postfix")


def take_back(commit=None, test=False):
    """
    Take back what the last apply changed in the mail server's files, as one transaction that is verified.

    commit
        Unix time: the :func:`last_commit` that is meant, or a dictionary of minion id to it. Another one is an
        error. Default: the last.

    test
        Only tell.

    Packages, firewall, ``/etc/mailname`` and the trust store stay; so do directories that were made, and a
    certificate authority with its private key, which the comment names. As long as pillar has what was taken back,
    the next apply makes it again. A file that has been changed since is not overwritten: nothing is taken back
    then, nor when another apply changes something while this one waits for it to end. A private key that the apply
    has encrypted stays encrypted.

    Returns a state's result: ``result``, ``changes``, ``comment``.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_previous.take_back test=True
    """
    __salt__["mta_transaction.pending"]()
    if isinstance(commit, dict):
        commit = commit[__opts__["id"]]
    # The one that there is now, not what another apply makes of it meanwhile.
    commit = last_commit() if commit is None else commit
    errors = plan(commit).get("errors")
    if errors:
        return {"name": STORE, "result": False, "changes": {}, "comment": "\n".join(errors)}
    return __salt__["mta_transaction.member"](
        STORE, "mta_previous", {"commit": commit}, test=test, subject="What the last apply changed"
    )


def forget():
    """
    Forget what the last apply was: it can no longer be taken back. The copies stay until the next one.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_previous.forget
    """
    __salt__["mta_state.forget"](f"{STORE}/left")
