"""
Applies that events ask for: one at a time, not in a loop, and not more than the server needs.

The decision is made here, by what this host knows itself; what the event said is not handed on. ``asked`` and
``answered`` in the memory are times: a request is answered by an apply that began after it.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import random
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_beacon
import _mta_last_apply
import _mta_queue
import _mta_system
from _mta_minion import CUT_OFF, Minion

log = logging.getLogger(__name__)

MEMORY = "reprovision.json"
LOCK, MEMORY_LOCK = "reprovision.lock", "reprovision.json.lock"
ALERT = "postfix_mta/alert"
# Who asks: the beacon; anybody; a changed pillar, on many minions at once.
REASONS = ("beacon", "reprovision", "pillar")
# Seconds. For so long after an event of a minion, or one for all minions, the reactor drops others.
WINDOW, WINDOW_OF_ALL = 2, 20
SETTLE = 3
LONGEST = 3600
# More state runs than that under way, and Salt refuses another.
QUEUE = 100


def _recall(minion: Minion) -> dict[str, Any]:
    return {"asked": 0, "answered": 0, "failed": 0, "held": 0, **minion.state.read(MEMORY)}


def _note(minion: Minion, **facts: float) -> None:
    """Remember these facts, whatever others another process notes at this moment."""
    with _lock(minion.state.path(MEMORY_LOCK), wait=True):
        minion.state.write(MEMORY, {**_recall(minion), **facts})


def _settings(minion: Minion) -> dict[str, Any]:
    settings: dict[str, Any] = minion.settings()["reprovision"]
    return settings


def _held(minion: Minion, memory: Mapping[str, Any], now: float) -> float:
    """Until when requests are refused (Unix time), or 0. An apply that succeeded since then ends it."""
    last = _mta_last_apply.last(minion)
    if memory["held"] <= now or (last.get("result") and last["time"] > memory["failed"]):
        return 0
    held: float = memory["held"]
    return held


def due(minion: Minion) -> bool:
    """Tell whether a start has to apply, as ``mta_reprovision.due``."""
    memory = _recall(minion)
    if _held(minion, memory, time.time()):
        return False
    cut_off = os.path.exists(minion.state.path(CUT_OFF))
    return cut_off or _asked(minion) or bool(_ours(_mta_beacon.conditions(minion)))


def request(minion: Minion, reason: str = "reprovision") -> dict[str, Any]:
    """Apply the formula soon. Parameters, result and errors as of ``mta_reprovision.request``."""
    if reason not in REASONS:
        raise SaltInvocationError(f"reason must be one of {', '.join(REASONS)}")
    if not _mta_last_apply.last(minion):
        return {"accepted": False, "comment": "No mail server: state.apply postfix_mta has never run here"}
    if minion.opts.get("test"):
        comment = (
            "The minion's configuration has test: True, and every apply that events ask for would be a dry run"
        )
        return {"accepted": False, "comment": comment}
    if reason == "beacon" and not _ours(_mta_beacon.conditions(minion)):
        return {"accepted": False, "comment": "The beacon knows of no condition that an apply ends"}
    if reason == "pillar" and not _pillar_changed(minion):
        return {"accepted": False, "comment": "The pillar is that of the last apply"}
    now = time.time()
    held = _held(minion, _recall(minion), now)
    if held:
        return {"accepted": False, "comment": f"Applies have failed; refused until {_mta_beacon.utc(held)}"}
    splay = _settings(minion)["splay"]
    _note(minion, asked=now + WINDOW_OF_ALL - WINDOW if reason == "pillar" else now)
    applies, result = 0, None
    # A request that comes after the last look and before the lock is given back finds it taken.
    while _asked(minion):
        with _lock(minion.state.path(LOCK)) as ours:
            if not ours:
                return {"accepted": True, "comment": "One more apply follows the one that is under way"}
            if reason == "pillar" and not applies and splay:
                time.sleep(random.uniform(0, splay))
            while _asked(minion):
                done, result = _answer(minion)
                applies += done
    return {"accepted": True, "comment": f"Applied {applies} times", "applies": applies, "result": result}


def _pillar_changed(minion: Minion) -> bool:
    """Whether the pillar, asked for anew, is not the one of the last apply; anybody may claim that it is."""
    pillarenv = _mta_last_apply.last(minion).get("pillarenv")
    arguments = {"pillarenv": pillarenv} if pillarenv else {}
    # Salt 3008 shows no values unless it is told to, and 3006 does not mind.
    pillar = minion.functions["pillar.items"](unmask=True, **arguments)
    return not _mta_last_apply.has_pillar(minion, pillar)


def _asked(minion: Minion) -> bool:
    memory = _recall(minion)
    return bool(memory["asked"] > memory["answered"])


@contextlib.contextmanager
def _lock(path: str, wait: bool = False) -> Iterator[bool]:
    """Whether this is the one process that has the lock; meanwhile it is."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    with open(path, "a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _answer(minion: Minion) -> tuple[int, bool]:
    """Answer what has been asked for by now, with as many applies as it takes; return (number, result)."""
    settings = _settings(minion)
    begin = _recall(minion)["asked"] + SETTLE
    if not _ours(_mta_beacon.found(minion)):
        begin = max(begin, _mta_last_apply.last(minion).get("time", 0) + settings["pause"])
    # Not longer, whatever the clock does.
    time.sleep(max(0, min(begin - time.time(), SETTLE + WINDOW_OF_ALL + settings["pause"])))
    for number in range(1, settings["attempts"] + 1):
        # The master has sent nothing for what came within WINDOW seconds of the last request.
        answered = time.time() - WINDOW
        good, conditions = _apply(minion), _remaining(minion)
        if good and not conditions:
            _note(minion, answered=answered, held=0)
            return number, True
        log.warning("postfix_mta: apply %d ended with %s, conditions: %s", number, good, sorted(conditions))
        if number < settings["attempts"]:
            time.sleep(settings["pause"] * 2 ** (number - 1))
    now = time.time()
    _note(minion, answered=now, failed=now, held=now + settings["hold"])
    last = _mta_last_apply.last(minion)
    alert = {"failed": last.get("failed", []), "conditions": sorted(conditions), "attempts": settings["attempts"]}
    minion.functions["event.send"](ALERT, {**alert, "until": _mta_beacon.utc(now + settings["hold"])})
    return settings["attempts"], False


def _ours(conditions: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the beacon's conditions that an apply may end."""
    return {name: details for name, details in conditions.items() if name not in _mta_beacon.NOT_OURS}


def _remaining(minion: Minion) -> dict[str, Any]:
    """The conditions that an apply should have ended. A queue takes its time, and is told to begin now."""
    found = _ours(_mta_beacon.found(minion))
    if found.pop("queue", None):
        try:
            _mta_queue.flush(everything=True)
        except CommandExecutionError as err:
            log.warning("postfix_mta: %s", err)
    return found


def _apply(minion: Minion) -> bool:
    """
    ``state.apply`` in a process of its own, in the environments of the last apply, and whether it succeeded.

    No secret is in its arguments.
    """
    last = _mta_last_apply.last(minion)
    environment = [f"{name}={last[name]}" for name in ("saltenv", "pillarenv") if last.get(name)]
    if last.get("saltenv") == (minion.opts.get("saltenv") or "base"):
        environment.pop(0)
    beside = os.path.join(os.path.dirname(sys.executable), "salt-call")
    program = beside if os.access(beside, os.X_OK) else _mta_system.find_program("salt-call")
    if not program:
        log.error("postfix_mta: there is no salt-call")
        return False
    command = [program, f"--config-dir={os.path.dirname(minion.opts['conf_file'])}", "--retcode-passthrough"]
    command += ["state.apply", "postfix_mta", f"queue={QUEUE}", *environment]
    try:
        done = _mta_system.run(command, environment=os.environ, timeout=LONGEST, check=False)
    except CommandExecutionError as err:
        log.error("postfix_mta: %s", err)
        return False
    return done.code == 0
