"""TODO subject (mta_schedule)."""

import os

from salt.exceptions import SaltInvocationError

import _mta_minion_config
from _mta_minion import Minion
from _mta_plan import Plan

JOB = "postfix_mta"
FILE = "postfix_mta_schedule.conf"
PERSISTENT = "_schedule.conf"
# Not True: Salt would keep the job in a directory, and run it as a new one. A number waits, unless as many wait.
FIXED = {
    "function": "state.apply",
    "args": ["postfix_mta"],
    "kwargs": {"queue": 2},
    "maxrunning": 1,
    "run_on_start": False,
}
LARGEST = 366 * 24 * 3600


def _wanted(enabled, minutes, splay, return_job):
    """The job as Salt has it; empty when it is off."""
    if not enabled:
        return {}
    splay = 60 * minutes if splay is None else splay
    for name, value, low in (("minutes", minutes, 1), ("splay", splay, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= LARGEST:
            raise SaltInvocationError(f"{name} must be a whole number, {low} or more, not {value!r}")
    # For a splay of 0 Salt would take that of all jobs; one second is none.
    return {**FIXED, "minutes": minutes, "splay": max(1, splay), "return_job": bool(return_job)}


def configured(minion: Minion):
    """
    Return the job with which the minion starts, as it is in Salt's schedule; empty when there is none.
    """
    return _mta_minion_config.read(minion, FILE, "schedule").get(JOB) or {}


def _running(minion: Minion):
    """The job that the running minion has; ``None`` where this is not the minion's own process."""
    if not _mta_minion_config.is_this(minion):
        return None
    job = (minion.opts.get("schedule") or {}).get(JOB) or {}
    # The scheduler notes in it when the job runs next, and the like.
    return {name: job[name] for name in _wanted(True, 1, 0, True) if name in job}


def plan(minion: Minion, enabled=False, minutes=30, splay=None, return_job=True):
    """
    Tell what :func:`apply` would change: ``{"changes": {...}}``. One small file is read.

    enabled (bool, default false)
        Whether the minion applies the formula by itself.

    minutes (int, default 30)
        From one apply to the next; the splay comes on top.

    splay (int, default None)
        Up to how many random seconds are added each time. ``None``: as many as the minutes have.

    return_job (bool, default true)
        Whether the master gets the results, and keeps them in its job cache.

    Raises ``SaltInvocationError`` for another value.
    """
    wanted, present, running = _wanted(enabled, minutes, splay, return_job), configured(minion), _running(minion)
    if present == wanted and running in (None, wanted):
        return Plan()
    if present == wanted:
        present = running
    return Plan({JOB: {"old": present or None, "new": wanted or None}})


def apply(minion: Minion, enabled=False, minutes=30, splay=None, return_job=True):
    """
    Schedule the apply, or take it out of the schedule: in the minion's configuration, and in a minion that runs.

    Parameters as for :func:`plan`. Raises ``CommandExecutionError`` when the file cannot be written.
    """
    wanted = _wanted(enabled, minutes, splay, return_job)
    _mta_minion_config.write(minion, FILE, "schedule", {JOB: wanted} if wanted else {}, "postfix_mta:schedule")
    if wanted:
        change = {"func": "add", "schedule": {JOB: wanted}, "persist": False}
    else:
        # Whoever changes another job with schedule.modify makes Salt write all of them into that file.
        persist = os.path.exists(_mta_minion_config.path(minion, PERSISTENT))
        change = {"func": "delete", "name": JOB, "persist": persist}
    _mta_minion_config.tell(minion, change, "manage_schedule")
