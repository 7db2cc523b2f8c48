"""
What the last apply was: its result, the parts that it changed, and the main.cf and master.cf that it left.

Its end is an event for the master when it changed something or failed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import operator
import os
import time
from collections.abc import Iterable, Mapping
from typing import Any

from salt.exceptions import CommandExecutionError

import _mta_postfix_syntax
from _mta_minion import APPLIED, CUT_OFF, Minion

TAG = "postfix_mta/applied"
FORMULA = "postfix_mta"
FILES = ("main.cf", "master.cf")
# Parts that together only an apply of the whole formula has.
WHOLE = {"aliases", "config", "firewall"}
# What Salt says of a state that it did not run because another one failed; in Salt 3006 nothing else tells.
NOT_RUN = "One or more requisite failed"
LONGEST_REASON = 300
# Told nobody: who knows the rest of a pillar could try passwords on its digest.
UNTOLD = ("pillar", "parameters")


def _digest(path: str) -> str | None:
    """SHA-256 of a file; ``None`` when it cannot be read."""
    try:
        with open(path, "rb") as handle:
            return hashlib.sha256(handle.read()).hexdigest()
    except OSError:
        return None


def _in_order(value: Any) -> Any:
    """The same data for the same pillar, whatever the order and the types of its keys."""
    if isinstance(value, Mapping):
        # Tables may have a million texts: a call for each would cost more than all else.
        pairs = [[repr(key), item if type(item) is str else _in_order(item)] for key, item in value.items()]
        return sorted(pairs, key=operator.itemgetter(0))
    return list(map(_in_order, value)) if isinstance(value, (list, tuple)) else value


def pillar_digest(pillar: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what a pillar has for the formula."""
    text = json.dumps(_in_order(pillar.get(FORMULA)), default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _own(results: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The formula's part in the results of a run of states, which may hold others' too."""
    own = {}
    for key, result in results.items():
        sls = str(result.get("__sls__"))
        if sls.split(".")[0] == FORMULA:
            own[key] = {**result, "part": sls.partition(".")[2] or "init"}
    return own


def _summary(own: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the formula's states came to."""
    failed = [one for one in own.values() if one.get("result") is False]
    causes = [one for one in failed if not str(one.get("comment", "")).startswith(NOT_RUN)] or failed
    changed = [one for one in own.values() if one.get("changes")]
    return {
        "result": not failed,
        "changed": sorted({one["part"] for one in changed}),
        "failed": sorted({one["part"] for one in causes}),
        "reasons": {one["part"]: _first_line(one.get("comment")) for one in reversed(causes)},
        "duration": round(sum(float(one.get("duration") or 0) for one in own.values()) / 1000, 3),
    }


def _first_line(comment: Any) -> str:
    """The first line of a state's comment; with the next one where it only announces that."""
    lines = [line.strip() for line in str(comment or "").splitlines() if line.strip()]
    return " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])[:LONGEST_REASON]


def ended(
    minion: Minion,
    results: Mapping[str, Mapping[str, Any]],
    config_directory: str = "/etc/postfix",
    revision: str | None = None,
    saltenv: str | None = None,
) -> dict[str, Any]:
    """
    Record how an apply ended; send the event when it changed something or failed.

    Parameters, result and errors: ``mta_apply.ended``.
    """
    if any(key.startswith("postconf_|-") and one.get("result") for key, one in results.items()):
        paths = [os.path.join(config_directory, name) for name in FILES]
        files = {path: _digest(path) for path in paths}
    else:
        files = last(minion).get("files", {})
    own = _own(results)
    record = {**_summary(own), "time": int(time.time()), "revision": revision, "files": files}
    record.update(saltenv=saltenv, pillarenv=minion.opts.get("pillarenv"))
    kept = {"parameters": _record(minion).get("parameters", {})}
    complete = is_whole(results)
    _remember(minion, {**record, **kept, **_whole(minion, complete, record["result"])})
    if complete:
        minion.state.forget(CUT_OFF)
    if (record["changed"] or not record["result"]) and minion.heard:
        told = ("result", "changed", "failed", "duration")
        minion.functions["event.send"](TAG, {name: record[name] for name in told})
    return record


def is_whole(results: Mapping[str, Mapping[str, Any]]) -> bool:
    """Tell whether all of the formula has been applied; ``results`` as for :func:`ended`."""
    return {one["part"] for one in _own(results).values()} >= WHOLE


def _whole(minion: Minion, complete: bool, good: bool) -> dict[str, Any]:
    """What an apply of the whole formula is remembered by: the digest of its pillar, and the host's own name."""
    known = _record(minion)
    if not complete:
        return {name: known.get(name) for name in ("pillar", "fqdn")}
    given = minion.pillar.get(FORMULA)
    named = isinstance(given, Mapping) and given.get("hostname") is not None
    if not good:
        return {"pillar": None, "fqdn": known.get("fqdn")}
    return {"pillar": pillar_digest(minion.pillar), "fqdn": None if named else minion.grains.get("fqdn")}


def has_pillar(minion: Minion, pillar: Mapping[str, Any]) -> bool:
    """Tell whether the whole formula has been applied with this pillar, and nothing of it with another since."""
    return bool(_record(minion).get("pillar") == pillar_digest(pillar))


def environment(minion: Minion) -> dict[str, str]:
    """Return the arguments that a further ``state.apply`` needs to be in the environments of this run."""
    wanted = {"saltenv": minion.saltenv, "pillarenv": minion.opts.get("pillarenv")}
    return {name: str(value) for name, value in wanted.items() if value and (name, value) != ("saltenv", "base")}


def wrote(minion: Minion, paths: Iterable[str]) -> None:
    """
    Record main.cf and master.cf, when they are among the files that a transaction has just changed for good.

    paths (list)
        Absolute paths.
    """
    digests = {path: _digest(path) for path in paths if os.path.basename(path) in FILES}
    if digests:
        record = _record(minion)
        parameters = {path: _parameters(path) for path in digests if os.path.basename(path) == "main.cf"}
        record["parameters"] = {**record.get("parameters", {}), **parameters}
        _remember(minion, {**record, "files": {**record.get("files", {}), **digests}})


def _parameters(path: str) -> dict[str, str]:
    """A digest of the value of each parameter in a main.cf; none where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as handle:
            parameters = _mta_postfix_syntax.parameters(handle.read())
    except OSError:
        return {}
    texts = {name: value.encode("utf-8", "surrogateescape") for name, value in parameters.items()}
    return {name: hashlib.sha256(text).hexdigest()[:16] for name, text in texts.items()}


def drifted(minion: Minion) -> list[str]:
    """Return the parameters of main.cf that are not as the last transaction that wrote it has left them."""
    found: set[str] = set()
    for path, known in _record(minion).get("parameters", {}).items():
        now = _parameters(path)
        found.update(name for name in {*known, *now} if known.get(name) != now.get(name))
    return sorted(found)


def _remember(minion: Minion, record: Mapping[str, Any]) -> None:
    # On a full disk the configuration seems to differ until an apply can say that it does not.
    with contextlib.suppress(CommandExecutionError):
        minion.state.write(APPLIED, record)


def last(minion: Minion) -> dict[str, Any]:
    """
    Tell what is known of the last apply; empty where there was none.

    Parameters, result and errors: ``mta_apply.last``.
    """
    return {name: value for name, value in _record(minion).items() if name not in UNTOLD}


def _record(minion: Minion) -> dict[str, Any]:
    return minion.state.read(APPLIED)


def differing(minion: Minion) -> list[str]:
    """
    Return which of main.cf and master.cf are not what the last apply left, as a list of paths.
    """
    return [path for path, digest in last(minion).get("files", {}).items() if _digest(path) != digest]


def forget(minion: Minion) -> None:
    """
    Forget the last apply: what it made has been removed again.
    """
    minion.state.forget(APPLIED)
