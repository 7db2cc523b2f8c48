"""TODO subject (mta_beacon)."""

import datetime
import logging
import os
import time

from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_judge
import _mta_last_apply
import _mta_minion_config
import _mta_pem
import _mta_queue
import _mta_revision
import _mta_saslauthd_view
import _mta_transaction
import _mta_x509
from _mta_minion import Minion
from _mta_plan import Plan

log = logging.getLogger(__name__)

BEACON = "postfix_mta"
FILE = "postfix_mta.conf"
MEMORY = "beacon.json"
CONDITIONS = ("certificate_renewal", "certificate_served", "configuration", "saslauthd", "queue")
LOWER = 0.9
# An smtpd(8) with the former certificate lives that long at most when it is idle or busy, but for max_use = 100
# clients and max_idle = 100 s.
SETTLED = 300
CONFIGURATION = ("/etc/postfix/main.cf", "/etc/postfix/master.cf")
SETTINGS = {"interval", "queue_limit", "certificates", "renew_days", "saslauthd", "revision", "enabled"}
ESTABLISHED = "01"  # proc_net_tcp: TCP_ESTABLISHED


def problems(settings):
    """
    Return what is wrong with the beacon's settings, a list of texts.

    settings (dict)
        ``queue_limit`` (number of messages, 1 or more; not given: no condition), ``certificates`` (list of
        absolute paths; none), ``renew_days`` (days; not given: a third of the lifetime, 30 at most),
        ``saslauthd`` (absolute path of its socket; not given: no condition), ``interval`` (seconds) and
        ``revision`` (of the formula whose modules the minion has loaded).
    """
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
    return found


def _absolute(path):
    return isinstance(path, str) and path.startswith("/")


def observe(minion: Minion, settings, now=None):
    """
    Look at all conditions, as the beacon does at every interval; return the events.

    settings (dict)
        As for :func:`problems`.

    now (float, default: the clock)
        Unix time.

    What cannot be looked at is logged, and stays as it was.
    """
    now = time.time() if now is None else now
    if _mta_transaction.under_way(minion):
        return []
    memory = _recall(minion)
    had, seen, events = memory.get("conditions", {}), dict(memory.get("seen", {})), []
    has = {}
    for name in CONDITIONS:
        try:
            details = LOOKS[name](settings, now, seen, had.get(name))
        except (CommandExecutionError, SaltInvocationError, OSError) as err:
            log.warning("Beacon %s: %s: %s", BEACON, name, err)
            details = had.get(name, {}).get("details")
        if details and name in had:
            has[name] = {**had[name], "details": details}
        elif details:
            has[name] = {"since": int(now), "details": details}
            events.append(_event(name, "begin", has[name]))
        elif name in had:
            events.append(_event(name, "end", {**had[name], "since": int(now)}))
    if events and not _connected(minion):
        return []
    if events or seen != memory.get("seen", {}):
        _remember(minion, {"conditions": has, "seen": seen})
    return events


def _event(name, state, condition):
    return {
        "condition": name,
        "state": state,
        "since": _utc(condition["since"]),
        "details": condition["details"],
    }


def _utc(seconds):
    moment = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _recall(minion: Minion):
    """What is known from the last time; from the file only after a start."""
    if "mta_beacon" not in minion.context:
        minion.context["mta_beacon"] = minion.state.read(MEMORY)
    return minion.context["mta_beacon"]


def _remember(minion: Minion, memory):
    minion.context["mta_beacon"] = memory
    try:
        minion.state.write(MEMORY, memory)
    except CommandExecutionError as err:
        log.warning("Beacon %s: %s", BEACON, err)


def close(minion: Minion):
    """
    Forget what is kept in the process's memory; the file has it.
    """
    minion.context.pop("mta_beacon", None)


def _connected(minion: Minion):
    """
    Whether this minion has its connection with the master: an event sent without it would be lost.

    That is one to the port on which the master publishes (proc_net_tcp: remote address and state).
    """
    if minion.opts.get("file_client") == "local" or minion.opts.get("master_type") == "disable":
        return True
    port = f":{int(minion.opts.get('publish_port', 4505)):04X}"
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(path, encoding="ascii") as table:
                lines = [line.split() for line in table]
        except OSError:
            continue
        if any(line[2].endswith(port) and line[3] == ESTABLISHED for line in lines):
            return True
    return False


def _signature(paths):
    """What changes whenever one of the files does: its identity, size and times."""
    found = []
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            found.append([path, None])
        else:
            found.append([path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns])
    return found


def _renewal(settings, now, seen, had):
    """``certificate_renewal``: the files are read when they have changed, the rest is the clock."""
    paths, days = settings.get("certificates") or [], settings.get("renew_days")
    signature = [_signature(paths), days]
    if seen.get("certificate_renewal", {}).get("signature") != signature:
        found = [_certificate(path, days) for path in paths]
        seen["certificate_renewal"] = {"signature": signature, "certificates": found}
    for certificate in seen["certificate_renewal"]["certificates"]:
        if certificate["renewal"] <= now:
            return {name: value for name, value in certificate.items() if name != "renewal"}
    return None


def _certificate(path, days):
    """A certificate and the Unix time at which its renewal begins."""
    try:
        file = _mta_pem.read(path)
        if file is None:
            raise CommandExecutionError("is not there")
        facts = _mta_x509.describe(file.data, days)[0]
    except CommandExecutionError as err:
        return {"certificate": path, "renewal": 0, "problem": str(err)}
    end = _utc(facts["not_after"].timestamp())
    return {"certificate": path, "renewal": facts["renewal"].timestamp(), "not_after": end}


def _served(settings, now, seen, had):
    """``certificate_served``: a conversation, until it has been well since long enough after the last change."""
    depends = [*CONFIGURATION, *(settings.get("certificates") or [])]
    signature = _signature(depends)
    if seen.get("certificate_served") == signature:
        return None
    stale = _mta_judge.stale()
    if stale is None:
        return had and had["details"]
    newest = max((entry[4] for entry in signature if entry[1] is not None), default=0) / 1e9
    if not stale and now - newest > SETTLED:
        seen["certificate_served"] = signature
    return {"listeners": stale} if stale else None


def _configuration(minion: Minion, settings, now, seen, had):
    """``configuration``: the files are read when they have changed, or what is known of the last apply has."""
    signature = _signature([*CONFIGURATION, minion.state.path("applied.json")])
    if seen.get("configuration", {}).get("signature") != signature:
        seen["configuration"] = {"signature": signature, "files": _mta_last_apply.differing(minion)}
    files = seen["configuration"]["files"]
    return {"files": files} if files else None


def _saslauthd(settings, now, seen, had):
    """``saslauthd``: a connection to its socket."""
    path = settings.get("saslauthd")
    if not path or _mta_saslauthd_view.answers(path, timeout=1):
        return None
    return {"socket": path}


def _queue(settings, now, seen, had):
    """``queue``: the number of files in the queue's directories."""
    limit = settings.get("queue_limit")
    size = _mta_queue.size() if limit else None
    if not size or size["total"] <= (limit * LOWER if had else limit):
        return None
    return {"messages": size["total"], "limit": limit}


def conditions(minion: Minion):
    """
    Tell which conditions the beacon has found and not seen end, from its memory: nothing is looked at.

    Returns a dictionary of condition to ``since`` (UTC) and ``details``; empty when all is well, or the beacon
    does not run.
    """
    known = minion.state.read(MEMORY).get("conditions", {})
    return {name: {"since": _utc(one["since"]), "details": one["details"]} for name, one in known.items()}


def found(minion: Minion, settings=None):
    """
    Look at all conditions now, without an event and without remembering anything.

    settings (dict)
        As for :func:`problems`. Default: those of the beacon.

    Returns a dictionary of condition to its details; empty when all is well.
    """
    settings = configured(minion) if settings is None else settings
    now, seen, details = time.time(), {}, {}
    had = minion.state.read(MEMORY).get("conditions", {})
    for name in CONDITIONS:
        try:
            details[name] = LOOKS[name](settings, now, seen, had.get(name))
        except (CommandExecutionError, SaltInvocationError, OSError) as err:
            log.warning("%s: %s", name, err)
    return {name: value for name, value in details.items() if value}


def configured(minion: Minion):
    """
    Return the settings with which the beacon starts; empty when it is off.
    """
    items = _mta_minion_config.read(minion, FILE, "beacons").get(BEACON) or []
    return {key: value for item in items if isinstance(item, dict) for key, value in item.items()}


def _wanted(minion: Minion, enabled, settings):
    """The settings as they are to be, with the revision of the code that looks; empty for none."""
    given = {name: value for name, value in settings.items() if value not in (None, [])}
    return {**given, "revision": _mta_revision.REVISION} if enabled else {}


def _running(minion: Minion):
    """The settings that the running minion has; ``None`` where this is not the minion's own process."""
    if not _mta_minion_config.is_this(minion):
        return None
    items = (minion.opts.get("beacons") or {}).get(BEACON) or []
    return {key: value for item in items for key, value in item.items()}


def plan(minion: Minion, enabled=False, **settings):
    """
    Tell what :func:`apply` would change: ``{"changes": {...}}``. One small file is read.

    enabled (bool, default false)
        Whether the beacon is to run.

    settings
        As for :func:`problems`, but ``revision``, which is this formula's.
    """
    settings = {name: value for name, value in settings.items() if name[:2] != "__"}
    wrong = problems(settings)
    if wrong:
        raise SaltInvocationError("; ".join(wrong))
    wanted, present, running = _wanted(minion, enabled, settings), configured(minion), _running(minion)
    if present == wanted and running in (None, wanted):
        return Plan()
    if present == wanted:
        present = running
    return Plan({BEACON: {"old": present or None, "new": wanted or None}})


def apply(minion: Minion, enabled=False, **settings):
    """
    Switch the beacon on with these settings, or off: in the minion's configuration, and in a minion that runs.

    Parameters as for :func:`plan`. Raises ``CommandExecutionError`` when the file cannot be written.
    """
    settings = {name: value for name, value in settings.items() if name[:2] != "__"}
    wanted = _wanted(minion, enabled, settings)
    items = [{key: value} for key, value in wanted.items()]
    _mta_minion_config.write(minion, FILE, "beacons", {BEACON: items} if wanted else {}, "postfix_mta:beacon")
    if not wanted:
        minion.state.forget(MEMORY)
    how = {"func": "add", "beacon_data": items} if wanted else {"func": "delete"}
    if _mta_minion_config.tell(minion, {"name": BEACON, **how}, "manage_beacons"):
        # It gets the modules of this revision, too.
        _mta_minion_config.tell(minion, {}, "module_refresh")


LOOKS = {
    "certificate_renewal": _renewal,
    "certificate_served": _served,
    "configuration": _configuration,
    "saslauthd": _saslauthd,
    "queue": _queue,
}
