"""
Applies that events ask for: one at a time, not in a loop, and not more than the server needs.

The master's reactor (``postfix_mta/reactor/react.sls``) calls :func:`request`; what the event said is not handed
on. The decision is made here, by what this host knows itself:

- Where the formula was never applied, no event makes a mail server: not on a host whose pillar has nothing to do
  with mail, nor on a minion that only signs for a fleet (``mta_fleet_ca.only_signs``).
- What the beacon is said to have found leads to an apply only while the beacon's own memory has a condition.
- The first request becomes the run. Requests that come while it is under way are one more apply, whatever their
  number, and not earlier than ``pause`` seconds after the last one unless a condition asks for it.
- An apply begins some seconds after the request (3, or 21 when it is for all minions), so that the master can
  drop the events that follow another one within 2 or 20 seconds.
- When an apply fails, or a condition is still there after it, it is tried again after ``pause`` seconds, then
  after twice that, up to ``attempts`` times. Then the event ``postfix_mta/alert`` says so (``failed``: parts,
  ``conditions``, ``attempts``, ``until``), and for ``hold`` seconds requests are refused. An apply by hand that
  succeeds ends that.
- A full queue is also flushed after the apply, once.

``pause``, ``attempts`` and ``hold`` are the pillar's ``postfix_mta:reprovision``. The apply is a ``salt-call
state.apply``, so that other state runs see it; it waits for those that are under way.
"""

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


def _recall():
    return {"asked": 0, "answered": 0, "failed": 0, "held": 0, **__salt__["mta_state.read"](MEMORY)}


def _note(**facts):
    memory = {**_recall(), **facts}
    __salt__["mta_state.write"](MEMORY, memory)
    return memory


def _settings():
    return __salt__["mta_settings.effective"]()["reprovision"]


def _held(memory, now):
    """Until when requests are refused (Unix time), or 0. An apply that succeeded since then ends it."""
    last = __salt__["mta_apply.last"]()
    if memory["held"] <= now or (last.get("result") and last["time"] > memory["failed"]):
        return 0
    return memory["held"]


def _utc(seconds):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def due():
    """
    Tell whether an apply has been asked for that did not end, or a condition lasts: a start has to look after it.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_reprovision.due
    """
    memory = _recall()
    if _held(memory, time.time()):
        return False
    return memory["asked"] > memory["answered"] or bool(__salt__["mta_beacon.conditions"]())


def request(reason="reprovision"):
    """
    Apply the formula soon, unless an apply that is going to begin does it anyway, there is no need, or this is no
    mail server of the formula's yet.

    reason (str, default ``reprovision``)
        ``beacon``: a condition. ``reprovision``: somebody asks. ``pillar``: the pillar has changed, for many
        minions at once: the apply begins at a random moment within ``splay`` seconds.

    Returns ``{"accepted": bool, "comment": str}`` and, where this call ran the applies, ``applies`` (their number)
    and ``result`` (of the last one). Raises ``SaltInvocationError`` for another reason.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_reprovision.request
    """
    if reason not in REASONS:
        raise SaltInvocationError(f"reason must be one of {', '.join(REASONS)}")
    if not __salt__["mta_apply.last"]():
        return {"accepted": False, "comment": "No mail server: state.apply postfix_mta has never run here"}
    if reason == "beacon" and not __salt__["mta_beacon.conditions"]():
        return {"accepted": False, "comment": "The beacon knows of no condition"}
    now = time.time()
    held = _held(_recall(), now)
    if held:
        return {"accepted": False, "comment": f"Applies have failed; refused until {_utc(held)}"}
    splay = _settings()["splay"]
    _note(asked=now + WINDOW_OF_ALL - WINDOW if reason == "pillar" else now)
    applies, result = 0, None
    # A request that comes after the last look and before the lock is given back finds it taken.
    while _asked():
        with _lock() as ours:
            if not ours:
                return {"accepted": True, "comment": "One more apply follows the one that is under way"}
            if reason == "pillar" and not applies and splay:
                time.sleep(random.uniform(0, splay))
            while _asked():
                done, result = _answer()
                applies += done
    return {"accepted": True, "comment": f"Applied {applies} times", "applies": applies, "result": result}


def _asked():
    memory = _recall()
    return memory["asked"] > memory["answered"]


@contextlib.contextmanager
def _lock():
    """Whether this is the one process that applies; meanwhile it is."""
    with open(__salt__["mta_state.path"](LOCK), "a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _answer():
    """Answer what has been asked for by now, with as many applies as it takes; return (number, result)."""
    settings = _settings()
    begin = _recall()["asked"] + SETTLE
    if not __salt__["mta_beacon.found"]():
        begin = max(begin, __salt__["mta_apply.last"]().get("time", 0) + settings["pause"])
    # Not longer, whatever the clock does.
    time.sleep(max(0, min(begin - time.time(), SETTLE + WINDOW_OF_ALL + settings["pause"])))
    for number in range(1, settings["attempts"] + 1):
        # The master has sent nothing for what came within WINDOW seconds of the last request.
        answered = time.time() - WINDOW
        good, conditions = _apply(), _remaining()
        if good and not conditions:
            _note(answered=answered, held=0)
            return number, True
        log.warning("postfix_mta: apply %d ended with %s, conditions: %s", number, good, sorted(conditions))
        if number < settings["attempts"]:
            time.sleep(settings["pause"] * 2 ** (number - 1))
    now = time.time()
    _note(answered=now, failed=now, held=now + settings["hold"])
    last = __salt__["mta_apply.last"]()
    alert = {"failed": last.get("failed", []), "conditions": sorted(conditions), "attempts": settings["attempts"]}
    __salt__["event.send"](ALERT, {**alert, "until": _utc(now + settings["hold"])})
    return settings["attempts"], False


def _remaining():
    """The conditions that an apply should have ended. A queue takes its time, and is told to begin now."""
    found = __salt__["mta_beacon.found"]()
    if found.pop("queue", None):
        try:
            __salt__["mta_queue.flush"](everything=True)
        except CommandExecutionError as err:
            log.warning("postfix_mta: %s", err)
    return found


def _apply():
    """``state.apply`` in a process of its own, whether it succeeded. No secret is in its arguments."""
    beside = os.path.join(os.path.dirname(sys.executable), "salt-call")
    program = beside if os.access(beside, os.X_OK) else shutil.which("salt-call")
    if not program:
        log.error("postfix_mta: there is no salt-call")
        return False
    config = f"--config-dir={os.path.dirname(__opts__['conf_file'])}"
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
