"""
Look after a fleet of mail servers from the master: show them all, and change them a few at a time.

``salt-run saltutil.sync_runners`` brings these functions to a master that has the formula in its file roots.
"""

import contextlib
import json
import logging
import pathlib
import time

import salt.client
import salt.exceptions
from salt.exceptions import CommandExecutionError, SaltException, SaltInvocationError

import _mta_guard

with _mta_guard.library(__file__):
    import _mta_files
    import _mta_history
    import _mta_rollout
    import _mta_view

log = logging.getLogger(__name__)

# From what has been asked now, and what was seen before.
FORMATS = {
    "text": lambda view, marks: _mta_view.text(view),
    "json": lambda view, marks: json.dumps(view, indent=2) + "\n",
    "html": _mta_view.html,
    "prometheus": lambda view, marks: _mta_view.prometheus(view),
}
TIMEOUT = 15


def status(tgt="*", tgt_type="glob", format="text", path=None, login=True, timeout=TIMEOUT):
    """
    Show all mail servers in one table.

    tgt, tgt_type (str, default: all minions)
        Which minions, as ``salt`` takes it. Those that are no mail servers are left out.

    format (str, default ``text``)
        ``text``; ``json``: the rows as data; ``html``: a page that needs nothing else, for people who would rather
        look than read, with a small line for the last days of each server; ``prometheus``: the exposition format,
        for a node exporter's textfile directory.

    path (str)
        Write it to this file of the master, which is replaced atomically and readable by all. A node exporter's
        textfile directory needs a name that ends with ``.prom``.

    login (bool, default True)
        Whether each server is asked to refuse a login, which tells whether AUTH works and takes 2 to 3 s.

    timeout (int, default 15)
        Seconds for a minion to answer; those that do not are listed.

    What is seen is kept for seven days in the master's cache directory, for that line: how each server was at
    worst in three hours, and its longest queue.

    For a bad argument, or when no minion matches or the file cannot be written, ``salt-run`` says why in a line
    and exits with 1. Raises ``salt.exceptions.NotImplemented`` then: the one of which Salt shows no traceback.

    CLI Example:

    .. code-block:: bash

        salt-run postfix_mta.status
        salt-run postfix_mta.status 'mail*' format=html path=/srv/www/mail.html
        salt-run postfix_mta.status format=prometheus path=/var/lib/prometheus/node-exporter/postfix_mta.prom
    """
    with _refusals():
        _check(format, path)
        answers, unreachable = _ask(tgt, tgt_type, "mta_status.report", {"login": login}, timeout)
        now = time.time()
        view = _mta_view.collect(answers, unreachable, now)
        marks = _kept(view, now)
        if format == "json" and not path:
            return {"outputter": "json", "data": view}
        text = FORMATS[format](view, marks)
        if not path:
            return {"outputter": "txt", "data": text.rstrip("\n")}
        _mta_files.replace(pathlib.Path(path), text, 0o644)
        return f"The view of {len(view['minions'])} mail servers has been written to {path}"


def _check(format, path):
    """Refuse arguments of ``status`` before any minion is asked."""
    if format not in FORMATS:
        raise SaltInvocationError(f"format must be one of {', '.join(FORMATS)}, not {format!r}")
    if not path:
        return
    if not pathlib.Path(path).is_absolute():
        raise SaltInvocationError(f"path must be absolute, not {path!r}")
    folder = pathlib.Path(path).parent
    if not folder.is_dir():
        raise SaltInvocationError(f"Cannot write {path}: the folder {folder} does not exist")


def _kept(view, now):
    """What has been seen in the last days, and is seen now; nothing, where that cannot be written."""
    try:
        return _mta_history.History(__opts__["cachedir"]).add(_mta_view.seen(view), now)
    except CommandExecutionError as err:
        log.warning("%s; the status page shows no last days", err)
        return {}


def zone(tgt="*", tgt_type="glob", zone=None, timeout=TIMEOUT):
    """
    Return what the zones need for the mail of all servers, as lines of a zone file, each once.

    tgt, tgt_type (str)
        Which minions, as ``salt`` takes it.

    zone (str, default None)
        The zone's name; records of others are comments then. Default: those of the reverse zones are comments.

    timeout (int, default 15)
        Seconds after which a minion that has not answered is asked whether it is still at it.

    A minion that did not answer, or has no records, is named in a comment. Each minion's own: ``mta_dns.records``.
    When no minion matches, ``salt-run`` says so in a line and exits with 1; see ``status``.

    CLI Example:

    .. code-block:: bash

        salt-run postfix_mta.zone 'mail*' zone=example.com
    """
    with _refusals():
        answers, unreachable = _ask(tgt, tgt_type, "mta_dns.records", {"zone": zone}, timeout)
    return {"outputter": "txt", "data": _mta_view.zone(answers, unreachable)}


def rollout(
    tgt=None,
    tgt_type="glob",
    action="start",
    name="default",
    mods="postfix_mta",
    canaries=1,
    share="25%",
    role=None,
    settle=30,
    patience=600,
    queue_slack=10,
    test=False,
):
    """
    Apply the formula to many mail servers, a few at a time, and stop where one of them is not healthy afterwards.

    First the canaries, then the others in batches. After each apply the server has to hold the live conversation
    (as after every change, the login of ``verify.login`` included), its queue has to be as small as before, and
    nothing else may be wrong (``mta_status.report``). Before each batch all servers are asked: those that are down
    count as part of the share. The rollout ends with the first batch that fails.

    tgt, tgt_type (str)
        Which minions, as ``salt`` takes it; needed to start.

    action (str, default ``start``)
        ``resume``: go on with a rollout that stopped. ``roll_back``: on each server that it changed and nobody
        else has since, restore what it changed (``mta_transaction.roll_back``), in the same way and the opposite
        order; then take the change out of pillar, too. ``show``: where it stands. ``forget``: leave things as they
        are, so that another one can start.

    name (str, default ``default``)
        Of the rollout; several can be under way beside each other.

    mods (str, default ``postfix_mta``)
        What ``state.apply`` applies.

    canaries (int or list of str, default 1)
        How many servers (of each role) come first, or which.

    share (int or str, default ``25%``)
        How many servers of a role, or which part of them, may be changed or down at once: at least one, and never
        more.

    role (str, default: all have the same)
        The grain that tells a server's role.

    settle (int, default 30)
        Seconds after which the canaries still have to be healthy.

    patience (int, default 600)
        Seconds in which a server has to be healthy after its apply.

    queue_slack (int, default 10)
        How many more messages than before the queue may have.

    test (bool, default False)
        Only show the plan: the order in which the minions would be applied to, as they answer now. What an apply
        changes on a minion says ``state.apply`` with ``test=True``.

    Returns ``result`` (bool), ``status``, ``report`` (text), ``minions`` (id to ``state`` and ``why``), and
    ``retcode``, with which ``salt-run`` exits: 1 when the rollout stopped, or could not begin. What a rollout has
    done is kept in the master's cache directory. ``status`` is ``refused``, and ``report`` says why, for a bad
    argument or an action that does not fit, or when no minion matches, there is no such rollout, or it is under
    way.

    CLI Example:

    .. code-block:: bash

        salt-run postfix_mta.rollout 'mail*' test=True
        salt-run postfix_mta.rollout 'mail*' canaries=2 share=10%
        salt-run postfix_mta.rollout action=roll_back
    """
    wanted = {
        "tgt": tgt,
        "tgt_type": tgt_type,
        "mods": mods,
        "canaries": canaries,
        "share": share,
        "role": role,
        "settle": settle,
        "patience": patience,
        "queue_slack": queue_slack,
    }
    try:
        book = _mta_rollout.Book(__opts__["cachedir"], name)
        outcome = _mta_rollout.run(book, _ask, action, wanted, test)
    except SaltException as err:
        outcome = {"result": False, "status": "refused", "minions": {}, "report": f"{err}"}
    failed = not outcome["result"] and (action != "show" or outcome["status"] == "refused")
    if failed:
        # For the event at the end of the job, and for an orchestration.
        __context__["retcode"] = 1
    return {**outcome, "retcode": int(failed)}


@contextlib.contextmanager
def _refusals():
    """
    Say what is wrong in a line, and have ``salt-run`` exit with 1.

    Of a ``TypeError``, as ``SaltInvocationError`` is one, Salt shows the usage and exits with 0; of others the
    traceback; of this one the text. A text that is returned never makes ``salt-run`` exit with 1.
    """
    try:
        yield
    except SaltException as err:
        raise salt.exceptions.NotImplemented(f"{err}") from None


def _ask(tgt, tgt_type, function, kwargs=None, timeout=TIMEOUT, patience=10, late=0):
    """
    Let minions run a function, and tell who did not answer.

    tgt, tgt_type (str or list of str, str)
        Which minions, as ``salt`` takes it.

    function (str), kwargs (dict)
        What they run.

    timeout (int, default 15)
        Seconds after which a minion that has not answered is asked whether it is still at it, again and again.

    patience (int, default 10)
        Seconds for that answer.

    late (int, default 0)
        Seconds in which to look for answers that came too late for that: a master that is busy takes them then.

    Returns two things: minion id to what it returned, and the ids of those that did not answer. Raises
    ``CommandExecutionError`` when no minion matches.
    """
    answers = {}
    with salt.client.get_local_client(mopts=__opts__) as client:
        job = client.run_job(
            tgt, function, [], tgt_type=tgt_type, timeout=timeout, kwarg=kwargs or {}, listen=True
        )
        if not job or not job.get("minions"):
            raise CommandExecutionError(f"No minion matches {tgt} ({tgt_type})")
        expected = set(job["minions"])
        watch = {"timeout": timeout, "tgt": tgt, "tgt_type": tgt_type, "gather_job_timeout": patience}
        for answer in client.get_iter_returns(job["jid"], expected, **watch):
            answers.update({minion: said["ret"] for minion, said in (answer or {}).items() if "ret" in said})
        deadline = time.monotonic() + late
        while expected.difference(answers) and time.monotonic() < deadline:
            time.sleep(1)
            cached = client.get_cache_returns(job["jid"])
            answers.update({minion: said["ret"] for minion, said in cached.items() if "ret" in said})
    return answers, sorted(expected.difference(answers))
