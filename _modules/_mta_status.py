"""A mail server's row in the table of all of them: each part is gathered by itself, and none of them is secret."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Callable

from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_beacon
import _mta_fleet_ca
import _mta_judge
import _mta_last_apply
import _mta_package
import _mta_pem
import _mta_postfix_view
import _mta_queue
import _mta_revision
import _mta_services
import _mta_snapshots
import _mta_x509
from _mta_judge import Listener
from _mta_minion import DNS, Minion

PROBE_TIMEOUT = 20
# Of the record of the last apply.
TOLD = ("result", "changed", "failed", "reasons", "duration", "time", "revision")
UNKNOWN = (CommandExecutionError, SaltInvocationError, OSError, ValueError, KeyError, TypeError)


def report(
    minion: Minion, thorough: bool = False, login: bool = True, look: bool = False
) -> dict[str, Any] | None:
    """Gather the row. Parameters and result as of ``mta_status.report``."""
    row: dict[str, Any] = {"time": int(time.time()), "errors": {}}

    def gather(part: str, function: Callable[..., Any], *args: Any) -> Any:
        """A part; ``None``, and why in ``errors``, where it cannot be told."""
        try:
            return function(*args)
        except UNKNOWN as err:
            row["errors"][part] = str(err) or type(err).__name__
            return None

    row["postfix"] = gather("postfix", _version, minion)
    row["last_apply"] = gather("last_apply", _last_apply, minion)
    if row["postfix"] is None and not row["last_apply"]:
        signs = gather("signs", _mta_fleet_ca.only_signs, minion)
        if signs or not minion.functions["pillar.get"]("postfix_mta"):
            return None
    settings = gather("settings", minion.settings) or {}
    row["revision"] = _mta_revision.REVISION
    row["profile"] = settings.get("profile")
    listeners = gather("listeners", _mta_postfix_view.listeners) or []
    own_name = next((one["hostname"] for one in listeners), None)
    row["fqdn"] = own_name or settings.get("hostname") or minion.grains.get("fqdn")
    row["running"] = gather("running", _runs)
    conversation = gather("conversation", _conversation, minion, listeners, settings, thorough, login)
    row.update(conversation or {"answers": None, "auth": None, "problems": []})
    row["certificate_expires"] = expires = gather("certificate_expires", _expiry, listeners)
    row["certificate_days"] = None if expires is None else int((expires - row["time"]) // 86400)
    row["queue"] = gather("queue", _mta_queue.size)
    row["drift"] = gather("drift", _mta_last_apply.differing, minion)
    row["commit"] = gather("commit", _mta_snapshots.last_commit, minion)
    row["conditions"] = gather("conditions", _conditions, minion, look)
    row["dns"] = gather("dns", _dns, minion, settings)
    return row


def _version(minion: Minion) -> str | None:
    """Postfix's version without the distribution's part of it; ``None`` where it is not installed."""
    text: str | None = _mta_package.versions(minion, ["postfix"])["postfix"]
    return text and text.rpartition(":")[2].partition("-")[0]


def _last_apply(minion: Minion) -> dict[str, Any]:
    return {key: value for key, value in _mta_last_apply.last(minion).items() if key in TOLD}


def _runs() -> bool:
    active: bool = _mta_services.status(["postfix"])["postfix"]["active"]
    return active


def _conditions(minion: Minion, look: bool) -> list[str]:
    return sorted(_mta_beacon.found(minion) if look else _mta_beacon.conditions(minion))


def _dns(minion: Minion, settings: Mapping[str, Any]) -> list[str] | None:
    """What the last look at the DNS has found; ``None`` where applies do not look."""
    if settings.get("dns", {}).get("check", "none") == "none":
        return None
    findings = minion.state.read(DNS).get("findings", [])
    return [f"{one['name']} {one['type']}, {one['kind']}: {one['reason']}" for one in findings]


def _conversation(
    minion: Minion, listeners: Sequence[Listener], settings: Mapping[str, Any], thorough: bool, login: bool
) -> dict[str, Any]:
    """Whether the server answers, whether AUTH works, and what is wrong."""
    expected: dict[str, Any] = {"auth": "challenge" if login else "offered", "timeout": PROBE_TIMEOUT}
    if thorough and settings.get("verify", {}).get("enabled", True):
        expected.update(
            auth="challenge",
            envelope=True,
            untrusted_client=True,
            hostname=settings.get("hostname"),
            **settings.get("conversation", {}),
        )
    found = _mta_judge.check(minion, listeners=listeners, **expected)
    return {
        "answers": found["answers"],
        "auth": _auth_works(listeners, found["conversations"]),
        "problems": found["problems"],
    }


def _auth_works(listeners: Sequence[Listener], conversations: Sequence[Mapping[str, Any]]) -> bool | None:
    """Whether each listener that has AUTH said 535 to nobody, or 235 to who may log in; ``None``: not tried."""
    if not any(one["auth"] for one in listeners):
        return None
    replies = [talk["auth"]["reply"] for talk in conversations if talk["auth"]]
    if replies:
        return all(reply[:3] in ("235", "535") for reply in replies)
    return None if all(talk["connected"] for talk in conversations) else False


def _expiry(listeners: Sequence[Listener]) -> int | None:
    """When the first of the certificates that the listeners show ends, Unix time."""
    paths = {path for one in listeners for path in one["certificates"]}
    ends = []
    for path in sorted(paths):
        file = _mta_pem.read(path)
        if file is None:
            raise CommandExecutionError(f"{path} does not exist")
        ends.append(_mta_x509.describe(file.data)[0]["not_after"].timestamp())
    return int(min(ends)) if ends else None
