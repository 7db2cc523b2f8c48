"""
What the last apply was: its result, the parts that it changed, and the main.cf and master.cf that it left.

Its end is an event for the master when it changed something or failed: ``postfix_mta/applied`` with ``result``
(whether every state of the formula succeeded), ``changed`` and ``failed`` (lists of parts, such as ``config``) and
``duration`` (seconds).
"""

import contextlib
import hashlib
import os
import time

from salt.exceptions import CommandExecutionError

RECORD = "applied.json"
TAG = "postfix_mta/applied"
FORMULA = "postfix_mta"
FILES = ("main.cf", "master.cf")


def _digest(path):
    """SHA-256 of a file; ``None`` when it cannot be read."""
    try:
        with open(path, "rb") as handle:
            return hashlib.sha256(handle.read()).hexdigest()
    except OSError:
        return None


def _summary(results):
    """The formula's part in the results of a run of states, which may hold others' too."""
    own = {}
    for key, result in results.items():
        sls = str(result.get("__sls__"))
        if sls.split(".")[0] == FORMULA:
            own[key] = {**result, "part": sls.partition(".")[2] or "init"}
    failed = [one for one in own.values() if one.get("result") is False]
    changed = [one for one in own.values() if one.get("changes")]
    return {
        "result": not failed,
        "changed": sorted({one["part"] for one in changed}),
        "failed": sorted({one["part"] for one in failed}),
        "duration": round(sum(float(one.get("duration") or 0) for one in own.values()) / 1000, 3),
    }


def ended(results, config_directory="/etc/postfix", revision=None):
    """
    Record how an apply ended; send the event when it changed something or failed.

    results (dict)
        Results of the run's states so far, by key. Of those that other SLS files have nothing is told.

    config_directory (str, default ``/etc/postfix``)
        Where main.cf and master.cf are. They are recorded as those of this apply when ``postconf.managed`` was
        part of it and succeeded.

    revision (str, default None)
        Of the formula.

    Returns the record, as :func:`last` does. Where it cannot be written, the next apply writes it.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_apply.ended '{}'
    """
    if any(key.startswith("postconf_|-") and one.get("result") for key, one in results.items()):
        paths = [os.path.join(config_directory, name) for name in FILES]
        files = {path: _digest(path) for path in paths}
    else:
        files = last().get("files", {})
    record = {**_summary(results), "time": int(time.time()), "revision": revision, "files": files}
    _remember(record)
    if record["changed"] or not record["result"]:
        told = ("result", "changed", "failed", "duration")
        __salt__["event.send"](TAG, {name: record[name] for name in told})
    return record


def wrote(paths):
    """
    Record main.cf and master.cf, when they are among the files that a transaction has just changed for good.

    paths (list)
        Absolute paths.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_apply.wrote '[/etc/postfix/main.cf]'
    """
    digests = {path: _digest(path) for path in paths if os.path.basename(path) in FILES}
    if digests:
        record = last()
        _remember({**record, "files": {**record.get("files", {}), **digests}})


def _remember(record):
    # On a full disk the configuration seems to differ until an apply can say that it does not.
    with contextlib.suppress(CommandExecutionError):
        __salt__["mta_state.write"](RECORD, record)


def last():
    """
    Tell what is known of the last apply; empty where there was none.

    Returns ``result`` (boolean), ``changed``, ``failed`` (lists of parts), ``duration`` (seconds), ``time`` (Unix
    time of its end), ``revision`` (of the formula), and ``files``: path of main.cf and master.cf to their SHA-256
    after the last apply that looked after them.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_apply.last
    """
    return __salt__["mta_state.read"](RECORD)


def differing():
    """
    Return which of main.cf and master.cf are not what the last apply left, as a list of paths.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_apply.differing
    """
    return [path for path, digest in last().get("files", {}).items() if _digest(path) != digest]


def forget():
    """
    Forget the last apply: what it made has been taken back.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_apply.forget
    """
    __salt__["mta_state.forget"](RECORD)
