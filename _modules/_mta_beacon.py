"""
The conditions of the beacon ``postfix_mta``: how each is looked at, and what is remembered between the looks.

A look is cheap enough for every minute: files are read when their status has changed, the queue is counted by its
directory entries, and a conversation about the certificate is held only for a while after a file that it depends
on has changed. No process is started. What has begun is kept in a file, so a minion that restarts does not say it
again; and it is not said at all before the minion has its connection with the master. While an apply is under way
nothing is looked at.
"""

from __future__ import annotations

import datetime
import logging
import os
import time
from collections.abc import Iterable, Mapping
from typing import Any, Callable

from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_judge
import _mta_last_apply
import _mta_minion_config
import _mta_pem
import _mta_queue
import _mta_revision
import _mta_saslauthd_view
import _mta_system
import _mta_transaction
import _mta_x509
from _mta_minion import APPLIED, CUT_OFF, DNS, Minion
from _mta_plan import Plan
from _mta_records import NamedTuple

log = logging.getLogger(__name__)

BEACON = "postfix_mta"
FILE = "postfix_mta.conf"
MEMORY = "beacon.json"
# The key of __context__ under which the memory is.
KEPT = "mta_beacon"
# A queue's condition ends at that part of its limit.
LOWER = 0.9
# Seconds. An smtpd(8) with the former certificate lives that long at most when it is idle or busy, but for max_use
# = 100 clients and max_idle = 100 s.
SETTLED = 300
CONFIGURATION = ("/etc/postfix/main.cf", "/etc/postfix/master.cf")
SETTINGS = {"interval", "queue_limit", "certificates", "renew_days", "saslauthd", "dns", "revision", "enabled"}
# What no apply can end: a zone is changed by its administrator.
NOT_OURS = ("dns",)
ESTABLISHED = "01"  # proc_net_tcp: TCP_ESTABLISHED

Details = dict[str, Any]
Settings = Mapping[str, Any]


def problems(settings: Settings) -> list[str]:
    """Return what is wrong with the beacon's settings. They are those of ``mta_beacon.problems``."""
    found = [f"{name} is not known" for name in sorted(settings) if name not in SETTINGS and name[:1] != "_"]
    for name in ("interval", "queue_limit", "renew_days"):
        value = settings.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            found.append(f"{name} is not a whole number, 1 or more")
    certificates = settings.get("certificates") or []
    if not isinstance(certificates, list) or not all(_absolute(path) for path in certificates):
        found.append("certificates is not a list of absolute paths")
    if settings.get("saslauthd") is not None and not _absolute(settings["saslauthd"]):
        found.append("saslauthd is not an absolute path")
    if not isinstance(settings.get("dns") or False, bool):
        found.append("dns is neither true nor false")
    return found


def _absolute(path: object) -> bool:
    return isinstance(path, str) and path.startswith("/")


# -- the conditions ----------------------------------------------------------------------------


class _Look(NamedTuple):
    """
    What a look at a condition goes by.

    now
        Unix time.

    seen
        What the looks remember, by condition: they change it.

    had
        The condition's details, where it was there at the last look.
    """

    minion: Minion
    settings: Settings
    now: float
    seen: dict[str, Any]
    had: Details | None


def _signature(paths: Iterable[str]) -> list[list[Any]]:
    """What changes whenever one of the files does: its identity, size and times."""
    found: list[list[Any]] = []
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            found.append([path, None])
        else:
            found.append([path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns])
    return found


def _renewal(look: _Look) -> Details | None:
    """The certificate files are read when they have changed, the rest is the clock."""
    paths, days = look.settings.get("certificates") or [], look.settings.get("renew_days")
    signature = [_signature(paths), days]
    if look.seen.get("certificate_renewal", {}).get("signature") != signature:
        found = [_certificate(path, days) for path in paths]
        look.seen["certificate_renewal"] = {"signature": signature, "certificates": found}
    for certificate in look.seen["certificate_renewal"]["certificates"]:
        if certificate["renewal"] <= look.now:
            return {name: value for name, value in certificate.items() if name != "renewal"}
    return None


def _certificate(path: str, days: int | None) -> Details:
    """A certificate and the Unix time at which its renewal begins."""
    try:
        file = _mta_pem.read(path)
        if file is None:
            raise CommandExecutionError("is not there")
        facts = _mta_x509.describe(file.data, days)[0]
    except CommandExecutionError as err:
        return {"certificate": path, "renewal": 0, "problem": str(err)}
    end = _mta_x509.date_of(facts["not_after"])
    return {"certificate": path, "renewal": facts["renewal"].timestamp(), "not_after": end}


def _served(look: _Look) -> Details | None:
    """A conversation, until the certificate has been the right one since long enough after the last change."""
    depends = [*CONFIGURATION, *(look.settings.get("certificates") or [])]
    signature = _signature(depends)
    if look.seen.get("certificate_served") == signature:
        return None
    stale = _mta_judge.stale()
    if stale is None:
        return look.had
    newest = max((entry[4] for entry in signature if entry[1] is not None), default=0) / 1e9
    if not stale and look.now - newest > SETTLED:
        look.seen["certificate_served"] = signature
    return {"listeners": stale} if stale else None


def _configuration(look: _Look) -> Details | None:
    """The files are read when they have changed, or what is known of the last apply has."""
    signature = _signature([*CONFIGURATION, look.minion.state.path(APPLIED)])
    if look.seen.get("configuration", {}).get("signature") != signature:
        look.seen["configuration"] = {"signature": signature, "files": _mta_last_apply.differing(look.minion)}
    files = look.seen["configuration"]["files"]
    return {"files": files} if files else None


def _saslauthd(look: _Look) -> Details | None:
    """A connection to saslauthd's socket."""
    path = look.settings.get("saslauthd")
    if not path or _mta_saslauthd_view.answers(path, timeout=1):
        return None
    return {"socket": path}


def _queue(look: _Look) -> Details | None:
    """The number of files in the queue's directories."""
    limit = look.settings.get("queue_limit")
    if not limit:
        return None
    messages = (_mta_queue.size() or {"total": 0})["total"]
    if messages <= (limit * LOWER if look.had else limit):
        return None
    return {"messages": messages, "limit": limit}


def _dns(look: _Look) -> Details | None:
    """What the last look at the DNS has found, which an apply or ``mta_dns.check`` has kept: nobody is asked."""
    if not look.settings.get("dns"):
        return None
    signature = _signature([look.minion.state.path(DNS)])
    if look.seen.get("dns", {}).get("signature") != signature:
        look.seen["dns"] = {"signature": signature, **look.minion.state.read(DNS)}
    seen = look.seen["dns"]
    return {"findings": seen["findings"], "looked": utc(seen["time"])} if seen.get("findings") else None


def _apply(look: _Look) -> Details | None:
    """The mark that an apply leaves which was cut off and undone; one that is complete takes it away."""
    return {"cut_off": True} if os.path.exists(look.minion.state.path(CUT_OFF)) else None


LOOKS: dict[str, Callable[[_Look], Details | None]] = {
    "apply": _apply,
    "certificate_renewal": _renewal,
    "certificate_served": _served,
    "configuration": _configuration,
    "saslauthd": _saslauthd,
    "queue": _queue,
    "dns": _dns,
}


# -- looking -----------------------------------------------------------------------------------


def observe(minion: Minion, settings: Settings, now: float | None = None) -> list[dict[str, Any]]:
    """Look at all conditions and return the events, as ``mta_beacon.observe`` does."""
    now = time.time() if now is None else now
    if _mta_transaction.under_way(minion):
        return []
    memory = _recall(minion)
    had, seen, events = memory.get("conditions", {}), dict(memory.get("seen", {})), []
    has = {}
    for name, look in LOOKS.items():
        details = had.get(name, {}).get("details")
        try:
            details = look(_Look(minion, settings, now, seen, details))
        except (CommandExecutionError, SaltInvocationError, OSError) as err:
            log.warning("Beacon %s: %s: %s", BEACON, name, err)
        if details and name in had:
            has[name] = {**had[name], "details": details}
        elif details:
            has[name] = {"since": int(now), "details": details}
            events.append(_event(name, "begin", has[name]))
        elif name in had:
            events.append(_event(name, "end", {**had[name], "since": int(now)}))
    if events and not _connected(minion.opts):
        return []
    if events or seen != memory.get("seen", {}):
        _remember(minion, {"conditions": has, "seen": seen})
    return events


def found(minion: Minion, settings: Settings | None = None) -> dict[str, Details]:
    """Look at all conditions now, without an event and without remembering anything, as ``mta_beacon.found``."""
    settings = configured(minion) if settings is None else settings
    now, had = time.time(), _recorded(minion)
    seen: dict[str, Any] = {}
    there: dict[str, Details] = {}
    for name, look in LOOKS.items():
        try:
            details = look(_Look(minion, settings, now, seen, had.get(name, {}).get("details")))
        except (CommandExecutionError, SaltInvocationError, OSError) as err:
            log.warning("%s: %s", name, err)
        else:
            if details:
                there[name] = details
    return there


def conditions(minion: Minion) -> dict[str, dict[str, Any]]:
    """Return what the beacon has found and not seen end, as ``mta_beacon.conditions``: nothing is looked at."""
    return {
        name: {"since": utc(one["since"]), "details": one["details"]} for name, one in _recorded(minion).items()
    }


def _event(name: str, state: str, condition: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "condition": name,
        "state": state,
        "since": utc(condition["since"]),
        "details": condition["details"],
    }


def utc(seconds: float) -> str:
    """Return a Unix time as ``2026-01-31T12:00:00Z``."""
    return _mta_x509.date_of(datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc))


def _recorded(minion: Minion) -> dict[str, dict[str, Any]]:
    """The conditions in the file, by name."""
    known: dict[str, dict[str, Any]] = minion.state.read(MEMORY).get("conditions", {})
    return known


def _recall(minion: Minion) -> dict[str, Any]:
    """What is known from the last time; from the file only after a start."""
    if KEPT not in minion.context:
        minion.context[KEPT] = minion.state.read(MEMORY)
    memory: dict[str, Any] = minion.context[KEPT]
    return memory


def _remember(minion: Minion, memory: dict[str, Any]) -> None:
    minion.context[KEPT] = memory
    try:
        minion.state.write(MEMORY, memory)
    except CommandExecutionError as err:
        log.warning("Beacon %s: %s", BEACON, err)


def close(minion: Minion) -> None:
    """Forget what is kept in the process's memory; the file has it."""
    minion.context.pop(KEPT, None)


def _connected(opts: Mapping[str, Any]) -> bool:
    """
    Whether this minion has its connection with the master: an event sent without it would be lost.

    That is one to the port on which the master publishes (proc_net_tcp: remote address and state).
    """
    if opts.get("file_client") == "local" or opts.get("master_type") == "disable":
        return True
    port = f":{int(opts.get('publish_port', 4505)):04X}"
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        table = _mta_system.text_of(path)
        if any(line[2].endswith(port) and line[3] == ESTABLISHED for line in map(str.split, table.splitlines())):
            return True
    return False


# -- on or off ---------------------------------------------------------------------------------


def _merged(items: Iterable[Any]) -> dict[str, Any]:
    """A beacon's settings, which Salt has as a list of dictionaries."""
    return {key: value for item in items if isinstance(item, dict) for key, value in item.items()}


def configured(minion: Minion) -> dict[str, Any]:
    """Return the settings with which the beacon starts; empty when it is off."""
    return _merged(_mta_minion_config.read(minion.opts, FILE, "beacons").get(BEACON) or [])


def _running(opts: Mapping[str, Any]) -> dict[str, Any] | None:
    """The settings that the running minion has; ``None`` where this is not the minion's own process."""
    if not _mta_minion_config.is_this(opts):
        return None
    return _merged((opts.get("beacons") or {}).get(BEACON) or [])


def _wanted(enabled: bool, settings: Settings) -> dict[str, Any]:
    """The settings as they are to be, with the revision of the code that looks; empty for none."""
    given = {name: value for name, value in settings.items() if value not in (None, [])}
    return {**given, "revision": _mta_revision.REVISION} if enabled else {}


def plan(minion: Minion, enabled: bool = False, **settings: Any) -> Plan:
    """
    Tell what :func:`apply` would change. One small file is read.

    Parameters as of the state ``mta_beacon.managed``. Raises ``SaltInvocationError`` for another one.
    """
    wrong = problems(settings)
    if wrong:
        raise SaltInvocationError("; ".join(wrong))
    wanted, present, running = _wanted(enabled, settings), configured(minion), _running(minion.opts)
    return _mta_minion_config.planned(BEACON, wanted, present, running)


def apply(minion: Minion, enabled: bool = False, **settings: Any) -> None:
    """
    Switch the beacon on with these settings, or off: in the minion's configuration, and in a minion that runs.

    Parameters as for :func:`plan`. Raises ``CommandExecutionError`` when the file cannot be written.
    """
    wanted = _wanted(enabled, settings)
    items = [{key: value} for key, value in wanted.items()]
    beacons = {BEACON: items} if wanted else {}
    _mta_minion_config.write(minion.opts, FILE, "beacons", beacons, "postfix_mta:beacon")
    if not wanted:
        minion.state.forget(MEMORY)
    how = {"func": "add", "beacon_data": items} if wanted else {"func": "delete"}
    if _mta_minion_config.tell(minion, {"name": BEACON, **how}, "manage_beacons"):
        # It gets the modules of this revision, too.
        _mta_minion_config.tell(minion, {}, "module_refresh")
