"""An apply: participants are planned and applied, daemons activated, the server judged; then commit or undo."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Callable

from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_aliases
import _mta_beacon
import _mta_ca
import _mta_certificates
import _mta_clean
import _mta_firewall
import _mta_fleet_ca
import _mta_journal
import _mta_judge
import _mta_last_apply
import _mta_obstacles
import _mta_plan_cache
import _mta_postfix_edit
import _mta_restore
import _mta_saslauthd
import _mta_schedule
import _mta_services
import _mta_signer
import _mta_smtp
import _mta_snapshots
import _mta_sts
import _mta_system
import _mta_tables_manage
import _mta_transaction
import _mta_verdict
from _mta_minion import Minion
from _mta_plan import STRENGTH, Participant, Plan, stronger
from _mta_run import Run
from _mta_transaction import Transaction

log = logging.getLogger(__name__)

# Named as the states that hand over to them. Made when they are asked for: a run executes the files that it needs.
PARTICIPANTS: dict[str, Callable[[], Participant]] = {
    "mta_aliases.managed": lambda: Participant(
        "mta_aliases", _mta_aliases.plan, _mta_aliases.apply, _mta_aliases.remember, rests_on_files=True
    ),
    "mta_cert.ca_managed": lambda: Participant("mta_ca", _mta_ca.plan, _mta_ca.apply, rests_on_files=True),
    "mta_cert.managed": lambda: Participant(
        "mta_cert", _mta_certificates.plan, _mta_certificates.apply, rests_on_files=True
    ),
    "mta_cert.only": lambda: Participant(
        "mta_cert", _mta_certificates.only_plan, _mta_certificates.only_apply, rests_on_files=True
    ),
    "mta_dkim.absent": lambda: Participant("mta_dkim", _mta_signer.absent_plan, _mta_signer.absent_apply),
    "mta_dkim.managed": lambda: Participant("mta_dkim", _mta_signer.plan, _mta_signer.apply),
    "mta_map.managed": lambda: Participant(
        "mta_map",
        _mta_tables_manage.plan,
        _mta_tables_manage.apply,
        _mta_tables_manage.remember,
        rests_on_files=True,
    ),
    "mta_map.only": lambda: Participant(
        "mta_map", _mta_tables_manage.only_plan, _mta_tables_manage.only_apply, rests_on_files=True
    ),
    "mta_sts.absent": lambda: Participant("mta_sts", _mta_sts.absent_plan, _mta_sts.absent_apply),
    "mta_sts.managed": lambda: Participant("mta_sts", _mta_sts.plan, _mta_sts.apply),
    "mta_transaction.restored": lambda: Participant("mta_originals", _mta_clean.plan, _mta_clean.apply),
    "mta_transaction.rolled_back": lambda: Participant(
        "mta_previous", _mta_restore.roll_back_plan, _mta_restore.roll_back_apply
    ),
    "postconf.managed": lambda: Participant(
        "postconf",
        _mta_postfix_edit.plan,
        _mta_postfix_edit.apply,
        _mta_postfix_edit.remember,
        rests_on_files=True,
    ),
    "saslauthd.absent": lambda: Participant("saslauthd", _mta_saslauthd.absent_plan, _mta_saslauthd.absent_apply),
    "saslauthd.managed": lambda: Participant(
        "saslauthd", _mta_saslauthd.plan, _mta_saslauthd.apply, rests_on_files=True
    ),
}
# What takes no part in the transaction, and keeps or restores its own files.
STANDALONE: dict[str, Callable[[], Participant]] = {
    "mta_beacon.managed": lambda: Participant("mta_beacon", _mta_beacon.plan, _mta_beacon.apply),
    "mta_firewall.absent": lambda: Participant(
        "mta_firewall", _mta_firewall.absent_plan, _mta_firewall.absent_apply
    ),
    "mta_firewall.managed": lambda: Participant("mta_firewall", _mta_firewall.plan, _mta_firewall.apply),
    "mta_fleet_ca.trusted": lambda: Participant(
        "mta_fleet_ca", _mta_fleet_ca.trust_plan, _mta_fleet_ca.trust_apply
    ),
    "mta_schedule.managed": lambda: Participant("mta_schedule", _mta_schedule.plan, _mta_schedule.apply),
}

LOG_LINES = 12
# Why what is wrong is a reason to undo.
WORSE = "Before this apply it was not so, which is why it is undone."
PROMISED = "The pillar's verify asks for that, which is why this apply is undone."
ALL_COUNTS = "The server could not be asked before this apply, so all of that counts, and it is undone."
LOG_PATIENCE = 2
MOST_ALIASES = 10
# Settings and files that are listed where the server's words name none of them.
MOST_NAMED = 5


def roll_back(
    minion: Minion, commit: float | Mapping[str, float] | None = None, test: bool = False
) -> dict[str, Any]:
    """
    Roll back what the last apply changed in the mail server's files, as one transaction that is verified.

    Parameters, result and errors: ``mta_transaction.roll_back``.
    """
    _mta_transaction.pending(minion)
    if isinstance(commit, Mapping):
        commit = commit[minion.opts["id"]]
    # The one that there is now, not what another apply makes of it meanwhile.
    commit = _mta_snapshots.last_commit(minion) if commit is None else commit
    errors = _mta_restore.roll_back_plan(minion, commit).errors
    if errors:
        return {"name": _mta_snapshots.LAST, "result": False, "changes": {}, "comment": "\n".join(errors)}
    subject = "What the last apply changed"
    arguments = {"commit": commit}
    return participate(minion, "mta_transaction.rolled_back", _mta_snapshots.LAST, arguments, None, test, subject)


def converge(
    minion: Minion, participant: str, name: str, arguments: Mapping[str, Any], test: bool, subject: str
) -> dict[str, Any]:
    """
    Plan what takes no part in the transaction, and apply it when there is something to change.

    Parameters as for :func:`participate`; ``participant`` is one of ``STANDALONE``. Returns a state's result.
    """
    part = STANDALONE[participant]()
    ret: dict[str, Any] = {
        "name": name,
        "changes": {},
        "result": True,
        "comment": f"{subject} is in the correct state.",
    }
    try:
        plan = part.plan(minion, **arguments)
        if plan.changes and test:
            ret.update(result=None, changes=plan.changes, comment=f"{subject} would be changed.")
        elif plan.changes:
            part.apply(minion, **arguments)
            ret.update(changes=plan.changes, comment=f"{subject} has been changed.")
        ret["comment"] = "\n".join([str(ret["comment"]), *plan.notes])
    except (CommandExecutionError, SaltInvocationError, OSError) as err:
        ret.update(result=False, changes={}, comment=f"{subject}: {err}")
    return ret


def participate(
    minion: Minion,
    participant: str,
    name: str,
    arguments: Mapping[str, Any],
    transaction: str | None = None,
    test: bool = False,
    subject: str | None = None,
) -> dict[str, Any]:
    """
    Plan one participant's part, and apply it when there is something to change; return a complete state result.

    A plan that changes something is made again when the lock is held, as another apply may have ended meanwhile:
    that one is reported and applied. One that changes nothing needs no lock.

    participant
        One of ``PARTICIPANTS``, which are named as their states.

    name
        The state's name.

    arguments
        Keyword arguments of the participant's plan and apply.

    transaction
        Name of the transaction whose closing state activates and verifies; ``None``: it is closed here.

    test
        Only plan, and announce what would have to be activated.

    subject
        What the comment calls the thing; default: the name.
    """
    rehearsal = Run.of(minion).rehearsal
    if rehearsal is not None:
        minion, test = minion._replace(context=rehearsal), True
    run = Run.of(minion)
    subject = subject or name
    ret: dict[str, Any] = {
        "name": name,
        "changes": {},
        "result": True,
        "comment": f"{subject} is in the correct state.",
    }
    if transaction and run.undone:
        ret.update(result=False, comment=f"{subject} has not been applied. {run.undone}")
        return ret
    # What other states of this run have changed, or would change, may count for this one.
    alone = transaction is not None and rehearsal is None and not run.changes
    label = f"{participant} {name}"
    notes = None
    if alone:
        # What is there is of an earlier run.
        run.configuration, run.authorities = {}, {}
        notes = _mta_plan_cache.unchanged(minion, label, arguments)
    if notes is not None:
        ret["comment"] = "\n".join([ret["comment"], *notes])
        return ret
    part = PARTICIPANTS[participant]()
    run.subject = part.subject
    try:
        plan = _found(minion, part, arguments, label if alone else None, test)
        if plan.errors:
            raise CommandExecutionError("\n".join(plan.errors))
        if plan.changes:
            _carry_out(minion, part, arguments, plan, transaction, test, subject, ret)
        ret["comment"] = "\n".join([ret["comment"], *plan.notes])
    except (CommandExecutionError, SaltInvocationError, OSError) as err:
        ret.update(result=False, changes={}, comment=f"{subject}: {err}")
        if not test:
            undone = _mta_transaction.undo(minion, f"{subject}: {err}")
            ret["comment"] = "\n".join(filter(None, [ret["comment"], undone["comment"]]))
    except BaseException as err:
        if not test:
            _mta_transaction.undo(minion, f"{subject}: {err!r}", cut_off=not isinstance(err, Exception))
        raise
    finally:
        run.subject = None
        if not transaction:
            run.reset()
    return ret


def _found(minion: Minion, part: Participant, arguments: Mapping[str, Any], label: str | None, test: bool) -> Plan:
    """A participant's plan; of one that changes nothing what it found out is kept, and under the label itself."""
    with _mta_system.watched() as looks:
        plan = _planned(_mta_plan_cache.noticed(minion) if label else minion, part, arguments, test)
        settled = not (plan.changes or plan.errors or test)
        if settled and part.remember:
            part.remember(minion)
    if settled and label and part.rests_on_files:
        _mta_plan_cache.note(minion, label, arguments, looks, plan.notes)
    return plan


def _carry_out(
    minion: Minion,
    part: Participant,
    arguments: Mapping[str, Any],
    plan: Plan,
    transaction: str | None,
    test: bool,
    subject: str,
    ret: dict[str, Any],
) -> None:
    """Announce a plan's changes, or make them; the state's result so far, ``ret``, is completed."""
    run = Run.of(minion)
    run.changes[part.subject] = {**run.changes.get(part.subject, {}), **plan.changes}
    activation = max(plan.activate.values(), key=lambda action: STRENGTH[action], default="none")
    ret["changes"] = {**plan.changes, "activation": activation}
    if test:
        run.activate = stronger(run.activate, plan.activate)
        ret.update(result=None, comment=f"{subject} would be changed.")
        return
    part.apply(minion, **arguments)
    ret["comment"] = f"{subject} has been changed."
    if transaction:
        ret["comment"] += f" The transaction {transaction} puts that in force, or undoes it."
        return
    outcome = commit(minion)
    ret["comment"] += f" {outcome['comment']}"
    if not outcome["result"]:
        ret.update(result=False, changes={}, comment=outcome["comment"])


def _planned(minion: Minion, part: Participant, arguments: Mapping[str, Any], test: bool) -> Plan:
    """
    A participant's plan: the one that is made under the lock, where it is to be applied.

    Its errors include the files that cannot be replaced: of its own, and of those that come after it.
    """
    plan = part.plan(minion, **arguments)
    if plan.errors or not plan.changes:
        return plan
    if test or Run.of(minion).transaction:
        plan.errors += _mta_obstacles.check(minion, plan)
        return plan
    _mta_transaction.begin(minion)
    try:
        plan = part.plan(minion, **arguments)
        if plan.changes and not plan.errors:
            plan.errors += _mta_obstacles.check(minion, plan)
    except BaseException:
        _mta_transaction.withdraw(minion)
        raise
    if plan.errors or not plan.changes:
        _mta_transaction.withdraw(minion)
    return plan


def ended(
    minion: Minion,
    results: Mapping[str, Mapping[str, Any]],
    config_directory: str,
    revision: str | None,
    saltenv: str | None,
) -> dict[str, Any]:
    """
    Record how an apply ended, and keep the plans of which it has found that they change nothing.

    Parameters, result and errors: ``mta_apply.ended``.
    """
    record = _mta_last_apply.ended(minion, results, config_directory, revision, saltenv)
    _mta_plan_cache.keep(minion, _mta_last_apply.is_whole(results))
    return record


def _server_log(since: int, until: int) -> list[str]:
    """The server's own warnings and errors between two moments (Unix time), newest last: what can be had soon."""
    lines = []
    try:
        if os.path.isdir("/run/systemd/system"):
            argv = ["journalctl", "--quiet", "--no-pager", "--output=cat", "SYSLOG_FACILITY=2"]
            lines = _mta_transaction.output([*argv, f"--since=@{since}", f"--until=@{until}"], LOG_PATIENCE)
        elif os.path.exists("/var/log/mail.log"):
            with open("/var/log/mail.log", "rb") as handle:
                handle.seek(max(0, os.fstat(handle.fileno()).st_size - 32768))
                lines = handle.read().decode(errors="replace").splitlines()
    except OSError as err:
        log.warning("Cannot read the server's log: %s", err)
    wanted = [line for line in lines if any(word in line for word in ("fatal:", "error:", "panic:", "warning:"))]
    # What the conversation itself provokes: a login with a random name, a message with too many hops.
    wanted = [line for line in wanted if "hopcount exceeded" not in line and "authentication fail" not in line]
    # One that waits says the same again and again.
    return list({re.sub(r"#\d+", "", line): line for line in wanted}.values())[-LOG_LINES:]


def _responsible(changes: Mapping[str, Mapping[str, Any]], text: str) -> list[str]:
    """
    Say what may be responsible: changed parameters and services that the server's words name, else what changed.

    changes
        Those of this apply, by participant.
    """
    found = _named_by(changes.get("postconf", {}), text)
    if found:
        return ["Changed parameters that may be responsible: " + ", ".join(found)]
    names = [name for changed in changes.values() for name in changed]
    return ["Changed by this apply: " + ", ".join(names)] if 0 < len(names) <= MOST_NAMED else []


def _named_by(changes: Mapping[str, Any], text: str) -> list[str]:
    """The changed parameters and services that the server's words name, by name, else by value."""

    def said(word: str) -> bool:
        before = r"(?<![\w.])" if word[:1].isalnum() else ""
        return bool(re.search(rf"{before}{re.escape(word)}(?![\w])", text))

    def says(value: str) -> bool:
        """Whether the value is there, or a path or address in it; one such as "no" or "1" is in any text."""
        words = [word for word in re.split(r"[\s,{}=]+|(?<=[a-z]):", value) if re.search(r"[/\[]", word)]
        return any(len(word) > 3 and said(word) for word in (value, *words))

    def parts(name: str, change: Mapping[str, Any]) -> list[tuple[str, str]]:
        new = change.get("new")
        fields = new.items() if isinstance(new, dict) else [(name, new)]
        return [(field.replace("-o ", ""), "" if value is None else str(value)) for field, value in fields]

    by_name, by_value = [], []
    for name, change in changes.items():
        found = parts(name, change)
        if said(name.split()[-1]) or any(said(field) for field, _ in found):
            by_name.append(name)
        elif any(says(value) for _, value in found):
            by_value.append(name)
    return by_name or by_value


def commit(
    minion: Minion,
    services: Sequence[str] | None = None,
    verify: Mapping[str, Any] | None = None,
    signed: Sequence[str] | None = None,
) -> dict[str, Any]:
    """
    Close the transaction: activate, hold the live conversation, then commit, or undo everything.

    services
        Names of services that must be enabled and running afterwards. Default: none is enabled; those that
        a participant named are activated, or started when they are enabled and do not run.

    verify
        Arguments of ``mta_probe.check``; ``{"enabled": False}`` leaves the conversation out.

    signed
        Domains whose mail the signer has to sign. Default: none.

    Returns ``{"result": bool, "comment": str, "transcript": [str]}``.
    """
    run, transaction = Run.of(minion), _mta_transaction.begin(minion, closing=True)
    verify = dict(verify or {})
    enabled = verify.pop("enabled", True)
    problems: list[str] = []
    notes: list[str] = []
    transcript: list[str] = []
    why: list[str] = []
    headline = "The server did not answer as it should:"
    try:
        done = _activate(minion, transaction, services or [])
        if not enabled:
            notes = ["Not verified, as verify.enabled is false."]
        elif not _mta_services.status(["postfix"])["postfix"]["active"]:
            notes = ["Not verified, as Postfix does not run and is not enabled."]
        else:
            asked = {**_mta_transaction.THOROUGH, **verify}
            checked = _mta_judge.check(minion, patience=15, **asked, aliases=_new_aliases(run))
            problems, notes = _judged(run, transaction, checked)
            transcript = checked["transcript"]
            problems += _fallen_silent(transaction, checked["speaking"], verify.get("skip", ()))
            why = [_why(transaction, checked, problems)] * bool(problems)
            notes = notes + checked["notes"]
            problems += _mta_signer.problems(signed) if signed and not problems else []
        if not problems:
            headline = "What this apply changed could not be recorded, so it must not stay:"
            _commit(minion, transaction)
    except (CommandExecutionError, OSError) as err:
        problems = [str(err)]
    except BaseException as err:
        _mta_transaction.undo(minion, f"it was interrupted: {err!r}", cut_off=not isinstance(err, Exception))
        raise
    if not problems:
        left = []
        try:
            done += _put_away(minion, transaction)
        except (CommandExecutionError, OSError) as err:
            left = [f"All is in force, but: {err}"]
        notes += left + run.notes
        _mta_transaction.end(minion)
        comment = "\n".join([f"Done: {', '.join(done)}."] * bool(done) + notes)
        return {"result": not left, "comment": comment, "transcript": transcript}
    # First of all; what might explain it is for afterwards.
    changes, since, until = dict(run.changes), transaction.before["time"], int(time.time()) + 1
    undone = _mta_transaction.undo(minion, f"{headline[:-1].lower()}: {problems[0]}")
    told = "\n".join(problems)
    # Why a daemon did not start may be there already.
    server_log = [line for line in _server_log(since, until) if line not in told]
    parts = [headline, *[f"  {line}" for line in problems], *why]
    if server_log:
        parts += ["Its log says:", *[f"  {line}" for line in server_log]]
    parts += _responsible(changes, "\n".join([told, *server_log]))
    parts += [undone["comment"]] * bool(undone["comment"]) + run.notes
    return {"result": False, "comment": "\n".join(parts), "transcript": transcript}


def _commit(minion: Minion, transaction: Transaction) -> None:
    """
    Commit: write down all that has to be known of it, then rename the journal, then do what may fail.

    Raises ``OSError`` when it is not committed.
    """
    paths = [entry["path"] for entry in _mta_journal.entries(minion)]
    try:
        _mta_snapshots.keep(minion)
        _mta_snapshots.describe(minion, transaction.activate)
        _mta_journal.commit(minion)
        transaction.committed = True
    except OSError:
        # An undo may need the room.
        _mta_transaction.attempt("Drafts stay", _mta_snapshots.discard, minion)
        raise
    _mta_transaction.attempt("What the next apply makes up for", _mta_transaction.finish, minion)
    _mta_transaction.attempt("main.cf and master.cf are not recorded", _mta_last_apply.wrote, minion, paths)


def _fallen_silent(transaction: Transaction, speaking: list[dict[str, Any]], skip: Collection[str]) -> list[str]:
    """
    Tell which listeners spoke SMTP when the transaction began and do not now, though nobody asked for that.

    A service of which a listener is among those that are ``speaking`` now is there, at whatever address the
    parameters give it. Another one has to speak where it did, unless it is one of those to ``skip``.
    """
    there = {listener["service"] for listener in speaking} | transaction.let_go | {*skip}
    found = []
    for listener in transaction.spoke:
        service, host, port = (listener[key] for key in ("service", "host", "port"))
        if service in there:
            continue
        wrapped = listener["wrappermode"]
        talk = _mta_smtp.converse(host, port, wrappermode=wrapped, starttls=False)
        if not (talk["ehlo"] or talk["ehlo_tls"]):
            found.append(
                f"{_mta_judge.label_of(listener)} ({service} in master.cf) spoke SMTP before this apply and does"
                f" not now; what takes it out on purpose is services: {{{service}: null}}"
            )
    return found


def _new_aliases(run: Run) -> list[str]:
    """The aliases that this apply has written, some of them."""
    changed = [name for name, change in run.changes.get("mta_aliases", {}).items() if change.get("new")]
    return [name for name in changed if re.fullmatch(r"[a-z0-9][a-z0-9._+-]*", name)][:MOST_ALIASES]


def _judged(run: Run, transaction: Transaction, checked: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Of what is wrong now: what is a reason to undo this apply; and notes on what is none, and why."""
    changed = run.changes.get("postconf", {})

    def said(text: str) -> bool:
        return bool(_named_by(changed, text))

    doubts = checked.get("doubts", []) + _mta_transaction.doubts_about_logins()
    lost, notes = _lost(transaction.reached, checked.get("reached", {}))
    doubts += lost
    checked["notes"].extend(notes)
    if transaction.problems is None:
        checked["notes"].extend(doubts)
        doubts = []
    verdict = _mta_verdict.compared(transaction.problems, checked["problems"] + doubts, said)
    run.known = verdict.earlier + verdict.unseen
    if not run.known:
        return verdict.problems, ["The server answers."]
    notes = ["The server does not answer as it should, and did not before this apply, which is kept:"]
    notes += [f"  {text} (so it was before)" for text in verdict.earlier]
    notes += [f"  {text} (before, another fault came first)" for text in verdict.unseen]
    if transaction.drifted:
        names = ", ".join(transaction.drifted)
        notes.append(f"Since this formula has last written main.cf, somebody else has changed there: {names}")
    return verdict.problems, notes


def _lost(before: Collection[str], reached: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Which steps mail for virtual and relayed domains goes no more; and notes on hosts that may be down."""
    lost, notes = [], []
    for step, why in reached.items():
        if why and step in before:
            lost.append(f"{step}: {why} (it went that way before)")
        elif why and step.startswith("delivery"):
            notes.append(f"{step}: {why} (another host's matter, as it was not reached before this apply)")
    return lost, notes


def _why(transaction: Transaction, checked: Mapping[str, Any], problems: Iterable[str]) -> str:
    """Why that is a reason to undo this apply."""
    promised = checked.get("logins", ())
    if all(text in promised or text.startswith(_mta_judge.NO_CAPABILITY) for text in problems):
        return PROMISED
    return ALL_COUNTS if transaction.problems is None else WORSE


def _activate(minion: Minion, transaction: Transaction, services: Sequence[str]) -> list[str]:
    """Enable, start, restart or reload what is needed; say what was done."""
    activate = transaction.activate
    names = [name for name in _mta_transaction.SERVICES if name in services or name in activate]
    status = _mta_services.status(names)
    if _mta_transaction.has_units(_mta_journal.entries(minion)):
        _mta_services.daemon_reload()
    transaction.activated = True
    done = []
    # A daemon that is to stop goes last: until then the others may still ask it.
    for name in sorted(names, key=lambda name: activate.get(name) == "stop"):
        now = status[name]
        if not now["installed"]:
            if name in services:
                raise CommandExecutionError(f"{name} is not installed")
            continue
        if activate.get(name) == "stop":
            if now["active"]:
                _mta_services.stop(name)
                done.append(f"{name} stopped")
            continue
        if name in services and not now["enabled"]:
            _mta_services.enable(name)
            done.append(f"{name} enabled")
        if not now["active"]:
            # A daemon that is enabled should run: what keeps it from that may be what has just been mended.
            if name in services or now["enabled"]:
                _mta_services.start(name)
                done.append(f"{name} started")
        elif name in activate:
            # A server that does not answer may be throttled by master(8): a reload would leave it dead.
            healthy = name != "postfix" or transaction.problems == []
            action = activate[name] if healthy else "restart"
            {"reload": _mta_services.reload, "restart": _mta_services.restart}[action](name)
            done.append(f"{name} {_mta_transaction.DONE[action]}")
    return done


def _put_away(minion: Minion, transaction: Transaction) -> list[str]:
    """
    Do what has to wait for the commit: what is stopped no longer starts at boot, what was restored is forgotten.

    Until the commit a power loss has to bring the old state up again. One in here does no harm: the next plan
    finds what is left.
    """
    done = []
    _mta_snapshots.protect(minion)
    for name, action in transaction.activate.items():
        if action == "stop" and _mta_services.status([name])[name]["enabled"]:
            _mta_services.disable(name)
            done.append(f"{name} disabled")
    try:
        if transaction.restored:
            _mta_snapshots.forget_entries(minion, transaction.restored)
        for function in transaction.afterwards:
            function(minion)
    except OSError as err:
        raise CommandExecutionError(f"Cannot forget what was restored: {err}") from err
    return done


def set_(
    minion: Minion,
    parameters: Mapping[str, Any],
    services: Mapping[str, Any] | None,
    config_directory: str,
) -> dict[str, Any]:
    """
    Set parameters, all by one process, and have a live SMTP conversation verify it; undone when that fails.

    Parameters, result and errors: ``postconf.set``.
    """
    arguments = {"name": config_directory, "parameters": parameters, "services": services}
    subject = "Postfix's configuration"
    outcome = participate(minion, "postconf.managed", config_directory, arguments, subject=subject)
    if not outcome["result"]:
        raise CommandExecutionError(outcome["comment"])
    changes: dict[str, Any] = outcome["changes"]
    return changes


def reset(minion: Minion, parameters: str | Sequence[str], config_directory: str) -> dict[str, Any]:
    """
    Take parameters out of main.cf, so that their defaults hold; otherwise as :func:`set_`.

    Parameters, result and errors: ``postconf.reset``.
    """
    names = [parameters] if isinstance(parameters, str) else parameters
    return set_(minion, dict.fromkeys(names), None, config_directory)
