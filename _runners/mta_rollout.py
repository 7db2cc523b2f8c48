"""
Plan a rollout over many mail servers, go through with it, and remember where it stands.

The planning is functions over data. What a rollout knows is one JSON file below the master's cache directory,
replaced after every step: a master that is stopped in the middle loses nothing but the step, which ``resume`` does
again.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import re
import time

from salt.exceptions import CommandExecutionError, SaltInvocationError

ACTIONS = ("start", "resume", "take_back", "show", "forget")
# Between two looks at servers that are not well yet, seconds.
PAUSE = 5
REPORT_TIMEOUT = 15
# For a minion that is busy with an apply to say so, and for a busy master to take its answer, seconds.
BUSY_PATIENCE = 60
LONGEST_REASON = 2000
# What a minion is to the rollout; those in OPEN are still to be changed.
OPEN = ("pending", "applying", "failed")


# -- planning ----------------------------------------------------------------------------------


def allowance(share, size):
    """
    Return how many of ``size`` servers may be changed or down at once: at least one.

    share (int or str)
        A number of servers, or a part of them, such as ``25%``.

    Raises ``SaltInvocationError`` for anything else.

    CLI Example:

    .. code-block:: bash

        salt-run mta_rollout.allowance 25% 6
    """
    if isinstance(share, int) and not isinstance(share, bool) and share >= 1:
        return min(share, max(size, 1))
    if isinstance(share, str) and re.fullmatch(r"(100|[1-9][0-9]?)%", share):
        return max(1, size * int(share[:-1]) // 100)
    raise SaltInvocationError(
        f"share must be a number of servers, 1 or more, or a part such as '25%', not {share!r}"
    )


def order(minions, roles, canaries):
    """
    Return all minions in the order in which they are changed, and how many of them are canaries.

    minions (list of str), roles (dict: minion id to role)
        The servers.

    canaries (int or list of str)
        How many of each role come first, or which.

    Raises ``SaltInvocationError`` for canaries that are not among the minions.

    CLI Example:

    .. code-block:: bash

        salt-run mta_rollout.order '[a, b]' '{a: mx, b: mx}' 1
    """
    minions = sorted(minions)
    if isinstance(canaries, (list, tuple)):
        unknown = sorted(set(canaries).difference(minions))
        if unknown:
            raise SaltInvocationError(f"canaries: not among the minions: {', '.join(unknown)}")
        first = list(dict.fromkeys(canaries))
    elif isinstance(canaries, int) and not isinstance(canaries, bool) and canaries >= 0:
        by_role = {}
        for minion in minions:
            by_role.setdefault(roles[minion], []).append(minion)
        first = sorted(minion for members in by_role.values() for minion in members[:canaries])
    else:
        raise SaltInvocationError(f"canaries must be a number, 0 or more, or a list of ids, not {canaries!r}")
    return [*first, *(minion for minion in minions if minion not in first)], len(first)


def next_batch(waiting, canaries, roles, share, down=()):
    """
    Return the minions that are changed next: as many as the share allows beside those that are down.

    waiting (list of str)
        Those that are still to be changed, in order.

    canaries (list of str)
        Those that come first; no other is in a batch with them.

    roles (dict), share (int or str)
        All servers' roles; see :func:`allowance`.

    down (list of str)
        Servers that are down or do not answer. One of them that is in the batch is not one more that is down.

    Returns an empty list when nothing is waiting, or the share is used up.

    CLI Example:

    .. code-block:: bash

        salt-run mta_rollout.next_batch '[a, b]' '[]' '{a: mx, b: mx}' 1
    """
    first = [minion for minion in waiting if minion in canaries]
    batch = []
    for minion in first or waiting:
        role = roles[minion]
        members = [one for one in roles if roles[one] == role]
        busy = {one for one in members if one in down or one in batch} | {minion}
        if len(busy) <= allowance(share, len(members)):
            batch.append(minion)
    return batch


def plan(minions, canaries, roles, share, down=()):
    """
    Return all batches, if everything goes well and what is down stays down.

    minions, canaries, roles, share, down
        As for :func:`next_batch`.

    CLI Example:

    .. code-block:: bash

        salt-run mta_rollout.plan '[a, b]' '[a]' '{a: mx, b: mx}' 1
    """
    waiting, batches = list(minions), []
    while waiting:
        batch = next_batch(waiting, canaries, roles, share, down)
        if not batch:
            break
        batches.append(batch)
        waiting = [minion for minion in waiting if minion not in batch]
    return batches


# -- judging -----------------------------------------------------------------------------------


def failures(results):
    """
    Return why an apply failed, as text; ``None`` when it did not.

    results
        What ``state.apply`` returned: a dictionary of states, or text or a list where it did not get that far.

    CLI Example:

    .. code-block:: bash

        salt-run mta_rollout.failures '["no such SLS"]'
    """
    if not isinstance(results, dict):
        text = "\n".join(map(str, results)) if isinstance(results, list) else str(results)
        return text[:LONGEST_REASON] or "the apply returned nothing"
    states = [state for state in results.values() if isinstance(state, dict) and state.get("result") is False]
    causes = [state for state in states if not str(state.get("comment", "")).startswith("One or more requisite")]
    said = list(dict.fromkeys(str(state.get("comment", "")) for state in causes or states))
    return "\n".join(said)[:LONGEST_REASON] or "a state failed" if states else None


def ailments(row, normal, known=()):
    """
    Return what is wrong with a server, as a list of texts.

    row (dict)
        What ``mta_status.report`` returned; ``None``: no answer.

    normal (int)
        How many messages its queue may have.

    known (list of str)
        Conditions of the beacon that were there before.

    CLI Example:

    .. code-block:: bash

        salt-run mta_rollout.ailments null 10
    """
    if not isinstance(row, dict):
        return ["no answer" if row is None else str(row)[:LONGEST_REASON]]
    found = []
    if not row.get("answers"):
        said = row.get("problems") or [row.get("errors", {}).get("conversation") or "it does not answer"]
        found.append(f"the live conversation failed: {'; '.join(map(str, said))}")
    elif row.get("auth") is False:
        found.append("AUTH does not work")
    total = (row.get("queue") or {}).get("total")
    if isinstance(total, int) and total > normal:
        found.append(f"{total} messages are in the queue, and {normal} are normal")
    if row.get("drift"):
        found.append(f"changed since the apply: {', '.join(map(str, row['drift']))}")
    new = [str(one) for one in row.get("conditions") or [] if one not in known]
    return found + ([f"the beacon reports {', '.join(new)}"] if new else [])


# -- what is remembered ------------------------------------------------------------------------


class _Book:
    """A rollout's file; held by one process at a time."""

    def __init__(self, name):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", str(name)):
            raise SaltInvocationError(f"name must be letters, digits, '.', '-' and '_', not {name!r}")
        self.path = pathlib.Path(__opts__["cachedir"]) / "postfix_mta" / "rollout" / f"{name}.json"

    @contextlib.contextmanager
    def held(self):
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(self.path.with_suffix(".lock"), "a", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise CommandExecutionError(f"The rollout {self.path.stem} is under way") from None
            yield

    def read(self):
        try:
            return json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as err:
            raise CommandExecutionError(f"Cannot read {self.path}: {err}") from err

    def write(self, state):
        draft = self.path.with_suffix(".new")
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as handle:
            json.dump(state, handle)
            handle.flush()
            os.fsync(handle.fileno())
        draft.replace(self.path)

    def forget(self):
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()


# -- going through with it ---------------------------------------------------------------------


def run(action, name, wanted, test=False):
    """
    Do what ``postfix_mta.rollout`` is asked for; see there.

    action, name (str), test (bool)
        As there.

    wanted (dict)
        Its other arguments, by name.

    CLI Example:

    .. code-block:: bash

        salt-run mta_rollout.run show default '{}'
    """
    if action not in ACTIONS:
        raise SaltInvocationError(f"action must be one of {', '.join(ACTIONS)}, not {action!r}")
    book = _Book(name)
    if action == "show":
        state = book.read()
        if not state:
            raise SaltInvocationError(f"There is no rollout {name}")
        return _outcome(state)
    with book.held():
        state = book.read()
        if action == "start":
            return _start(book, state, wanted, test)
        if not state:
            raise SaltInvocationError(f"There is no rollout {name}")
        if action == "forget":
            if not test:
                book.forget()
            return {**_outcome(state), "result": True}
        if test:
            return _planned(state, action)
        state.update(status="under way", action=action, why=None)
        return (_forward if action == "resume" else _back)(book, state)


def _start(book, state, wanted, test):
    if not wanted.get("tgt"):
        raise SaltInvocationError("tgt: say which minions")
    if state and state["status"] in ("stopped", "under way") and not test:
        raise SaltInvocationError(
            f"The rollout {book.path.stem} {_where(state)}: resume it, take it back, or forget it (action=…)"
        )
    for key in ("settle", "patience", "queue_slack"):
        if isinstance(wanted[key], bool) or not isinstance(wanted[key], int) or wanted[key] < 0:
            raise SaltInvocationError(f"{key} must be a whole number, 0 or more, not {wanted[key]!r}")
    # A minion that does not have the formula yet answers too, if only that.
    answers, silent = __salt__["postfix_mta.ask"](
        wanted["tgt"], wanted["tgt_type"], "mta_status.report", {"login": False}, REPORT_TIMEOUT
    )
    minions = sorted([*answers, *silent])
    roles = dict.fromkeys(minions, "")
    if wanted["role"]:
        told, _ = __salt__["postfix_mta.ask"](minions, "list", "grains.get", {"key": wanted["role"]})
        roles = {minion: json.dumps(told.get(minion)) for minion in minions}
    sequence, count = order(minions, roles, wanted["canaries"])
    allowance(wanted["share"], len(minions))
    state = {
        "began": int(time.time()),
        "status": "under way",
        "action": "start",
        "why": None,
        "wanted": wanted,
        "order": sequence,
        "canaries": sequence[:count],
        "roles": roles,
        "down": sorted([*silent, *(minion for minion, row in answers.items() if _is_down(row))]),
        "minions": {minion: {"state": "pending", "why": None} for minion in minions},
    }
    return _planned(state, "start") if test else _forward(book, state)


def _is_down(row):
    """Whether a mail server does not answer; one that is none yet is not down."""
    return isinstance(row, dict) and bool(row.get("last_apply")) and not row.get("answers")


def _commit(row):
    return row.get("commit") if isinstance(row, dict) else None


def _forward(book, state):
    """Change what is still to be changed, batch by batch."""
    for one in state["minions"].values():
        if one["state"] in ("applying", "failed"):
            one["state"] = "pending"
    return _batches(book, state, state["order"], "pending", _change)


def _back(book, state):
    """Take back what was changed, the last batch first."""
    for one in state["minions"].values():
        one["back"] = one.get("commit") is not None and one["state"] != "taken back"
        if one["state"] == "applying":
            one["back"] = True
    state["status"] = "under way"
    return _batches(book, state, state["order"][::-1], "back", _restore)


def _batches(book, state, sequence, which, step):
    """Take step after step, until nothing waits or something failed."""
    wanted, minions = state["wanted"], state["minions"]
    forward = which == "pending"

    def waits(minion):
        return minions[minion]["state"] == "pending" if forward else minions[minion]["back"]

    while any(waits(minion) for minion in sequence):
        rows, silent = _reports(state["order"])
        state["down"] = sorted([*silent, *(minion for minion, row in rows.items() if _is_down(row))])
        # Those that do not answer come at the end, or not at all: they keep nobody from being changed.
        waiting = [minion for minion in sequence if waits(minion) and minion not in silent]
        if not waiting:
            return _stop(book, state, f"no answer from {', '.join(filter(waits, sequence))}")
        canaries = state["canaries"] if forward else []
        batch = next_batch(waiting, canaries, state["roles"], wanted["share"], state["down"])
        if not batch:
            return _stop(book, state, f"too many servers are down already: {', '.join(state['down'])}")
        failed = step(book, state, batch, rows)
        if failed:
            return _stop(book, state, f"failed: {', '.join(sorted(failed))}")
    state["status"] = "finished" if forward else "taken back"
    book.write(state)
    return _outcome(state)


def _stop(book, state, why):
    state.update(status="stopped", why=why)
    book.write(state)
    return _outcome(state)


def _reports(minions, **options):
    return __salt__["postfix_mta.ask"](
        list(minions), "list", "mta_status.report", {"login": False, "look": True, **options}, REPORT_TIMEOUT
    )


def _let(minions, function, arguments):
    """Let minions that have just answered change something; return what each returned."""
    busy = {"patience": BUSY_PATIENCE, "late": BUSY_PATIENCE}
    return __salt__["postfix_mta.ask"](minions, "list", function, arguments, **busy)[0]


def _change(book, state, batch, rows):
    """Apply on a batch and wait until all of it is well; return who failed."""
    wanted, minions = state["wanted"], state["minions"]
    for minion in batch:
        row = rows[minion] if isinstance(rows[minion], dict) else {}
        before = {
            "queue": (row.get("queue") or {}).get("total") or 0,
            "commit": _commit(row),
            "conditions": row.get("conditions") or [],
        }
        # After an interruption the first look still counts: since then the server may have been changed.
        minions[minion].setdefault("before", before)
        minions[minion].update(state="applying", why=None)
    book.write(state)
    results = _let(batch, "state.apply", {"mods": wanted["mods"], "queue": True})
    wrong = {}
    for minion in batch:
        if minion not in results:
            wrong[minion] = "no answer to the apply, which may still be under way"
        elif failures(results[minion]):
            wrong[minion] = failures(results[minion])
    well = [minion for minion in batch if minion not in wrong]
    wrong.update(_wait(state, well))
    if not wrong and set(batch) & set(state["canaries"]) and wanted["settle"]:
        time.sleep(wanted["settle"])
        wrong.update(_wait(state, well, patience=0))
    _note_commits(state, batch)
    for minion in batch:
        ended = "failed" if minion in wrong else "done"
        # Of an apply that did not answer nobody knows what it did: taking back looks again.
        minions[minion].update(state=ended if minion in results else "applying", why=wrong.get(minion))
    book.write(state)
    return wrong


def _note_commits(state, batch):
    """Write down what there is to take back: the commit that was not there before."""
    for minion, row in _reports(batch)[0].items():
        one = state["minions"][minion]
        if _commit(row) != one["before"]["commit"]:
            one["commit"] = _commit(row)


def _wait(state, waiting, patience=None):
    """Wait until servers are well; return what is wrong with those that do not become it."""
    patience = state["wanted"]["patience"] if patience is None else patience
    deadline = time.monotonic() + patience
    while waiting:
        rows, _ = _reports(waiting, thorough=True)
        wrong = {}
        for minion in waiting:
            before = state["minions"][minion]["before"]
            normal = before["queue"] + state["wanted"]["queue_slack"]
            found = ailments(rows.get(minion), normal, before["conditions"])
            if found:
                wrong[minion] = "; ".join(found)
        if not wrong or time.monotonic() + PAUSE > deadline:
            after = f"after {patience} s" if patience else "after it had been well"
            return {minion: f"not well {after}: {why}" for minion, why in wrong.items()}
        waiting = list(wrong)
        time.sleep(PAUSE)
    return {}


def _restore(book, state, batch, rows):
    """Take back what the rollout changed on a batch, and wait until all of it is well; return who failed."""
    minions, commits = state["minions"], {}
    for minion in batch:
        one = minions[minion]
        if one["state"] == "applying":
            # Nobody saw the end of its apply: what is new is what that did.
            commit = _commit(rows.get(minion))
            one["commit"] = commit if commit != one["before"]["commit"] else None
        if one.get("commit") is None:
            one["back"] = False
        else:
            commits[minion] = one["commit"]
    results, wrong = {}, {}
    if commits:
        options = {"commit": commits}
        results = _let(list(commits), "mta_transaction.roll_back", options)
    for minion in commits:
        result = results.get(minion, "no answer")
        if not isinstance(result, dict) or result.get("result") is not True:
            wrong[minion] = str(result.get("comment") if isinstance(result, dict) else result)[:LONGEST_REASON]
    restored = [minion for minion in commits if minion not in wrong]
    wrong.update(_wait(state, restored))
    for minion in batch:
        one = minions[minion]
        if minion in wrong:
            one.update(why=wrong[minion])
        elif minion in restored:
            one.update(state="taken back", why=None, commit=None, back=False)
    book.write(state)
    return wrong


# -- telling -----------------------------------------------------------------------------------


def _where(state):
    counts = {}
    for one in state["minions"].values():
        counts[one["state"]] = counts.get(one["state"], 0) + 1
    numbers = ", ".join(f"{number} {what}" for what, number in sorted(counts.items()))
    return f"{'is ' if state['status'] != 'stopped' else ''}{state['status']} ({numbers})"


def _outcome(state):
    """What a person is told."""
    lines = [f"The rollout of {state['wanted']['mods']} to {len(state['order'])} minions {_where(state)}."]
    if state["why"]:
        lines.append(f"Why: {state['why']}")
    for minion in state["order"]:
        one = state["minions"][minion]
        canary = " (canary)" if minion in state["canaries"] else ""
        lines.append(f"  {minion}{canary}: {one['state']}")
        lines += [f"      {line}" for line in (one["why"] or "").splitlines()]
    if state["status"] == "stopped":
        lines.append("Go on with action=resume; take back what was changed with action=take_back.")
    if state["status"] == "taken back":
        lines.append("Take the change out of pillar too: the next apply would make it again.")
    return {
        "result": state["status"] in ("finished", "taken back"),
        "status": state["status"],
        "minions": {
            minion: {key: one[key] for key in ("state", "why")} for minion, one in state["minions"].items()
        },
        "report": "\n".join(lines),
    }


def _planned(state, action):
    """What would be done."""
    minions, share = state["minions"], state["wanted"]["share"]
    if action == "take_back":
        waiting = [one for one in state["order"][::-1] if minions[one].get("commit") is not None]
        batches = plan(waiting, [], state["roles"], share, state["down"])
    else:
        waiting = [one for one in state["order"] if minions[one]["state"] in OPEN]
        batches = plan(waiting, state["canaries"], state["roles"], share, state["down"])
    what = "would be taken back" if action == "take_back" else "would be changed"
    lines = [f"{len(waiting)} of {len(state['order'])} minions {what}, in {len(batches)} batches:"]
    for number, batch in enumerate(batches, 1):
        canary = " (canaries)" if action != "take_back" and set(batch) <= set(state["canaries"]) else ""
        lines.append(f"  {number}{canary}: {', '.join(batch)}")
    left = [minion for minion in waiting if not any(minion in batch for batch in batches)]
    if left:
        lines.append(f"  not as long as so many are down: {', '.join(left)}")
    if state["down"]:
        lines.append(f"Down or silent at the moment: {', '.join(state['down'])}")
    return {
        "result": True,
        "status": "planned",
        "minions": {minion: {key: one[key] for key in ("state", "why")} for minion, one in minions.items()},
        "batches": batches,
        "report": "\n".join(lines),
    }
