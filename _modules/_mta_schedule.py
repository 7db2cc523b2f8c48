"""The formula's apply in the schedule of the salt-minion, each minion at moments of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from salt.exceptions import SaltInvocationError

import _mta_last_apply
import _mta_minion_config
from _mta_minion import Minion
from _mta_plan import Plan

JOB = "postfix_mta"
FILE = "postfix_mta_schedule.conf"
PERSISTENT = "_schedule.conf"
# Not True: Salt would keep the job in a directory, and run it as a new one. A number waits, unless as many wait.
FIXED: dict[str, Any] = {
    "function": "state.apply",
    "args": ["postfix_mta"],
    "kwargs": {"queue": 2},
    "maxrunning": 1,
    "run_on_start": False,
}
LARGEST = 366 * 24 * 3600


def _wanted(
    enabled: bool, minutes: int, splay: int | None, return_job: bool, environment: Mapping[str, str]
) -> dict[str, Any]:
    """The job as Salt has it, with the arguments of ``state.apply`` that name an environment; empty when off."""
    if not enabled:
        return {}
    splay = 60 * minutes if splay is None else splay
    for name, value, low in (("minutes", minutes, 1), ("splay", splay, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= LARGEST:
            raise SaltInvocationError(f"{name} must be a whole number, {low} or more, not {value!r}")
    # For a splay of 0 Salt would take that of all jobs; one second is none.
    job: dict[str, Any] = {**FIXED, "minutes": minutes, "splay": max(1, splay), "return_job": bool(return_job)}
    return {**job, "kwargs": {**FIXED["kwargs"], **environment}}


def configured(minion: Minion) -> dict[str, Any]:
    """Return the job with which the minion starts, as it is in Salt's schedule; empty when there is none."""
    return _mta_minion_config.read(minion.opts, FILE, "schedule").get(JOB) or {}


def _running(opts: _mta_minion_config.Opts) -> dict[str, Any] | None:
    """The job that the running minion has; ``None`` where this is not the minion's own process."""
    if not _mta_minion_config.is_this(opts):
        return None
    job = (opts.get("schedule") or {}).get(JOB) or {}
    # The scheduler notes in it when the job runs next, and the like.
    return {name: job[name] for name in _wanted(True, 1, 0, True, {}) if name in job}


def plan(
    minion: Minion, enabled: bool = False, minutes: int = 30, splay: int | None = None, return_job: bool = True
) -> Plan:
    """
    Tell what :func:`apply` would change. One small file is read.

    Parameters as of the state ``mta_schedule.managed``. Raises ``SaltInvocationError`` for another value.
    """
    wanted, present, running = (
        _wanted(enabled, minutes, splay, return_job, _mta_last_apply.environment(minion)),
        configured(minion),
        _running(minion.opts),
    )
    return _mta_minion_config.planned(JOB, wanted, present, running)


def apply(
    minion: Minion, enabled: bool = False, minutes: int = 30, splay: int | None = None, return_job: bool = True
) -> None:
    """
    Schedule the apply, or take it out of the schedule: in the minion's configuration, and in a minion that runs.

    Parameters as for :func:`plan`. Raises ``CommandExecutionError`` when the file cannot be written.
    """
    wanted = _wanted(enabled, minutes, splay, return_job, _mta_last_apply.environment(minion))
    _mta_minion_config.write(
        minion.opts, FILE, "schedule", {JOB: wanted} if wanted else {}, "postfix_mta:schedule"
    )
    if wanted:
        change = {"func": "add", "schedule": {JOB: wanted}, "persist": False}
    else:
        # Whoever changes another job with schedule.modify makes Salt write all of them into that file.
        persist = os.path.exists(_mta_minion_config.path(minion.opts, PERSISTENT))
        change = {"func": "delete", "name": JOB, "persist": persist}
    _mta_minion_config.tell(minion, change, "manage_schedule")
