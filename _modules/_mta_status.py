"""TODO subject (mta_status)."""

import time

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
from _mta_minion import Minion

PROBE_TIMEOUT = 20


def report(minion: Minion, thorough=False, login=True, look=False):
    """
    Return what there is to know about this mail server at a glance.

    thorough (bool, default False)
        Hold the conversation as after a change: with envelopes, as a stranger too, and with what the pillar
        expects of it, the login of ``verify.login`` included. Where ``verify.enabled`` is false, it is not.

    login (bool, default True)
        Whether to try a login as a user that does not exist, which tells whether AUTH works; PAM takes 2 to 3 s
        for it, and logs a failed login.

    look (bool, default False)
        Look at the beacon's conditions now, in place of what it has seen at its last interval.

    Returns ``None`` on a host that is no mail server: no Postfix, no apply, and no pillar ``postfix_mta`` or only
    that of a minion that signs for a fleet. Else a dictionary:

    - ``fqdn``, ``postfix`` (version), ``revision`` (of the formula), ``profile``
    - ``running`` (whether Postfix does), ``answers`` (whether the server answers as its configuration promises),
      ``problems`` (where it does not, as text), ``auth`` (whether AUTH works; ``None`` where none is offered, or
      that was not tried)
    - ``certificate_expires`` (Unix time, of the certificate that ends first), ``certificate_days`` (whole days)
    - ``queue`` (number of files by queue, and ``total``)
    - ``drift`` (which of main.cf and master.cf differ from what the last apply left)
    - ``last_apply`` (see :func:`mta_apply.last`, without ``files``), ``commit`` (when one last changed a file of
      the mail server for good, Unix time)
    - ``conditions`` (names of those that the beacon has seen begin and not end, or that there are now)
    - ``time`` (Unix time), ``errors`` (part to text)
    """
    row = {"time": int(time.time()), "errors": {}}

    def gather(part, function, *args):
        try:
            row[part] = function(*args)
        except (CommandExecutionError, SaltInvocationError, OSError, ValueError, KeyError, TypeError) as err:
            row[part] = None
            row["errors"][part] = str(err) or type(err).__name__

    gather("postfix", _version, minion)
    gather("last_apply", _last_apply, minion)
    if row["postfix"] is None and not row["last_apply"]:
        gather("signs", _mta_fleet_ca.only_signs, minion)
        if row.pop("signs") or not minion.functions["pillar.get"]("postfix_mta"):
            return None
    settings = {}
    gather("settings", minion.settings)
    settings = row.pop("settings") or {}
    row["revision"] = _mta_revision.REVISION
    row["profile"] = settings.get("profile")
    gather("listeners", _mta_postfix_view.listeners)
    listeners = row.pop("listeners") or []
    row["fqdn"] = next((one["hostname"] for one in listeners), None) or settings.get("hostname")
    row["fqdn"] = row["fqdn"] or minion.grains.get("fqdn")
    gather("running", lambda: _mta_services.status(["postfix"])["postfix"]["active"])
    gather("conversation", _conversation, minion, listeners, settings, thorough, login)
    conversation = row.pop("conversation") or {"answers": None, "auth": None, "problems": []}
    row.update(conversation)
    gather("certificate_expires", _expiry, listeners)
    expires = row["certificate_expires"]
    row["certificate_days"] = None if expires is None else int((expires - row["time"]) // 86400)
    gather("queue", _mta_queue.size)
    gather("drift", lambda: _mta_last_apply.differing(minion))
    gather("commit", _mta_snapshots.last_commit, minion)
    gather("conditions", lambda: sorted((_mta_beacon.found if look else _mta_beacon.conditions)(minion)))
    return row


def _version(minion: Minion):
    """Postfix's version without the distribution's part of it; ``None`` where it is not installed."""
    text = _mta_package.versions(minion, ["postfix"])["postfix"]
    return text and text.rpartition(":")[2].partition("-")[0]


def _last_apply(minion: Minion):
    return {key: value for key, value in _mta_last_apply.last(minion).items() if key != "files"}


def _conversation(minion: Minion, listeners, settings, thorough, login):
    """Whether the server answers, whether AUTH works, and what is wrong."""
    expected = {"auth": "challenge" if login else "offered", "timeout": PROBE_TIMEOUT}
    if thorough and settings.get("verify", {}).get("enabled", True):
        expected.update(
            auth="challenge",
            envelope=True,
            stranger=True,
            hostname=settings.get("hostname"),
            **settings.get("conversation", {}),
        )
    found = _mta_judge.check(minion, listeners=listeners, **expected)
    return {
        "answers": found["answers"],
        "auth": _auth_works(listeners, found["conversations"]),
        "problems": found["problems"],
    }


def _auth_works(listeners, conversations):
    """Whether each listener that has AUTH said 535 to nobody, or 235 to who may log in; ``None``: not tried."""
    if not any(one["auth"] for one in listeners):
        return None
    replies = [talk["auth"]["reply"] for talk in conversations if talk["auth"]]
    if replies:
        return all(reply[:3] in ("235", "535") for reply in replies)
    return None if all(talk["connected"] for talk in conversations) else False


def _expiry(listeners):
    """When the first of the certificates that the listeners show ends, Unix time."""
    paths = {path for one in listeners for path in one["certificates"]}
    ends = []
    for path in sorted(paths):
        file = _mta_pem.read(path)
        if file is None:
            raise CommandExecutionError(f"{path} does not exist")
        ends.append(_mta_x509.describe(file.data)[0]["not_after"].timestamp())
    return int(min(ends)) if ends else None
