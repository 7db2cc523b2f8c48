"""TODO subject (mta_reprovision)."""

import contextlib
import fcntl
import logging
import os
import random
import shutil
import subprocess
import sys
import time

from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_beacon
import _mta_last_apply
import _mta_queue
from _mta_minion import Minion

log = logging.getLogger(__name__)

MEMORY = "reprovision.json"
LOCK = "reprovision.lock"
ALERT = "postfix_mta/alert"
# Who asks: the beacon; anybody; a changed pillar, on many minions at once.
REASONS = ("beacon", "reprovision", "pillar")
# Seconds. For so long after an event of a minion, or one for all minions, the reactor drops others.
WINDOW, WINDOW_OF_ALL = 2, 20
SETTLE = 3
LONGEST = 3600
# More state runs than that under way, and Salt refuses another.
QUEUE = 100


def _recall(minion: Minion):
    return {"asked": 0, "answered": 0, "failed": 0, "held": 0, **minion.state.read(MEMORY)}


def _note(minion: Minion, **facts):
    memory = {**_recall(minion), **facts}
    minion.state.write(MEMORY, memory)
    return memory


def _settings(minion: Minion):
    return minion.settings()["reprovision"]


def _held(minion: Minion, memory, now):
    """Until when requests are refused (Unix time), or 0. An apply that succeeded since then ends it."""
    last = _mta_last_apply.last(minion)
    if memory["held"] <= now or (last.get("result") and last["time"] > memory["failed"]):
        return 0
    return memory["held"]


def _utc(seconds):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def due(minion: Minion):
    """
    Tell whether an apply has been asked for that did not end, or a condition lasts: a start has to look after it.
    """
    memory = _recall(minion)
    if _held(minion, memory, time.time()):
        return False
    return memory["asked"] > memory["answered"] or bool(_mta_beacon.conditions(minion))


def request(minion: Minion, reason="reprovision"):
    """
    Apply the formula soon, unless an apply that is going to begin does it anyway, there is no need, or this is no
    mail server of the formula's yet.

    reason (str, default ``reprovision``)
        ``beacon``: a condition. ``reprovision``: somebody asks. ``pillar``: the pillar has changed, for many
        minions at once: the apply begins at a random moment within ``splay`` seconds.

    Returns ``{"accepted": bool, "comment": str}`` and, where this call ran the applies, ``applies`` (their number)
    and ``result`` (of the last one). Raises ``SaltInvocationError`` for another reason.
    """
    if reason not in REASONS:
        raise SaltInvocationError(f"reason must be one of {', '.join(REASONS)}")
    if not _mta_last_apply.last(minion):
        return {"accepted": False, "comment": "No mail server: state.apply postfix_mta has never run here"}
    if reason == "beacon" and not _mta_beacon.conditions(minion):
        return {"accepted": False, "comment": "The beacon knows of no condition"}
    now = time.time()
    held = _held(minion, _recall(minion), now)
    if held:
        return {"accepted": False, "comment": f"Applies have failed; refused until {_utc(held)}"}
    splay = _settings(minion)["splay"]
    _note(minion, asked=now + WINDOW_OF_ALL - WINDOW if reason == "pillar" else now)
    applies, result = 0, None
    # A request that comes after the last look and before the lock is given back finds it taken.
    while _asked(minion):
        with _lock(minion) as ours:
            if not ours:
                return {"accepted": True, "comment": "One more apply follows the one that is under way"}
            if reason == "pillar" and not applies and splay:
                time.sleep(random.uniform(0, splay))
            while _asked(minion):
                done, result = _answer(minion)
                applies += done
    return {"accepted": True, "comment": f"Applied {applies} times", "applies": applies, "result": result}


def _asked(minion: Minion):
    memory = _recall(minion)
    return memory["asked"] > memory["answered"]


@contextlib.contextmanager
def _lock(minion: Minion):
    """Whether this is the one process that applies; meanwhile it is."""
    with open(minion.state.path(LOCK), "a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _answer(minion: Minion):
    """Answer what has been asked for by now, with as many applies as it takes; return (number, result)."""
    settings = _settings(minion)
    begin = _recall(minion)["asked"] + SETTLE
    if not _mta_beacon.found(minion):
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
    minion.functions["event.send"](ALERT, {**alert, "until": _utc(now + settings["hold"])})
    return settings["attempts"], False


def _remaining(minion: Minion):
    """The conditions that an apply should have ended. A queue takes its time, and is told to begin now."""
    found = _mta_beacon.found(minion)
    if found.pop("queue", None):
        try:
            _mta_queue.flush(everything=True)
        except CommandExecutionError as err:
            log.warning("postfix_mta: %s", err)
    return found


def _apply(minion: Minion):
    """``state.apply`` in a process of its own, whether it succeeded. No secret is in its arguments."""
    beside = os.path.join(os.path.dirname(sys.executable), "salt-call")
    program = beside if os.access(beside, os.X_OK) else shutil.which("salt-call")
    if not program:
        log.error("postfix_mta: there is no salt-call")
        return False
    config = f"--config-dir={os.path.dirname(minion.opts['conf_file'])}"
    command = [program, config, "--retcode-passthrough", "state.apply", "postfix_mta", f"queue={QUEUE}"]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=LONGEST,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as err:
        log.error("postfix_mta: %s", err)
        return False
    return done.returncode == 0
