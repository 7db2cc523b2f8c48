"""
A rollout over many mail servers: planned, gone through with, and remembered.

What a rollout knows is one JSON file below the master's cache directory, replaced after every step: a master that
is stopped in the middle loses nothing but the step, which ``resume`` does again.
"""

from __future__ import annotations

import collections
import contextlib
import json
import pathlib
import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Callable, Protocol, Union

from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_files
import _mta_view

ACTIONS = ("start", "resume", "roll_back", "show", "forget")
# Between two looks at servers that are not healthy yet, seconds.
PAUSE = 5
REPORT_TIMEOUT = 15
# For a minion that is busy with an apply to say so, and for a busy master to take its answer, seconds.
BUSY_PATIENCE = 60
LONGEST_REASON = 2000
# A condition that no apply begins or ends.
ZONE = "dns"
ORDER_ONLY = "The plan is the order; what an apply changes on a minion says state.apply {} test=True."
# What a minion is to the rollout; those in OPEN are still to be changed.
OPEN = ("pending", "applying", "failed")
# A number of servers, or a part of them, such as "25%".
Share = Union[int, str]
# What a rollout knows, as its file has it.
State = dict[str, Any]


class Ask(Protocol):
    """Lets minions run a function: what each returned, and the ids of those that did not answer."""

    def __call__(
        self,
        tgt: str | Sequence[str],
        tgt_type: str,
        function: str,
        kwargs: Mapping[str, Any],
        timeout: int = REPORT_TIMEOUT,
        patience: int = 10,
        late: int = 0,
    ) -> tuple[dict[str, Any], list[str]]:
        """Ask; seconds are those of ``postfix_mta`` (the runner)."""


# -- planning ----------------------------------------------------------------------------------


def allowance(share: Share, size: int) -> int:
    """
    Return how many of ``size`` servers may be changed or down at once: at least one.

    Raises ``SaltInvocationError`` for what is not a share.
    """
    if isinstance(share, int) and not isinstance(share, bool) and share >= 1:
        return min(share, max(size, 1))
    if isinstance(share, str) and re.fullmatch(r"(100|[1-9][0-9]?)%", share):
        return max(1, size * int(share[:-1]) // 100)
    raise SaltInvocationError(
        f"share must be a number of servers, 1 or more, or a part such as '25%', not {share!r}"
    )


def order(
    minions: Iterable[str], roles: Mapping[str, str], canaries: int | Sequence[str]
) -> tuple[list[str], int]:
    """
    Return all minions in the order in which they are changed, and how many of them are canaries.

    canaries
        How many of each role come first, or which.

    Raises ``SaltInvocationError`` for canaries that are not among the minions.
    """
    minions = sorted(minions)
    if isinstance(canaries, (list, tuple)):
        unknown = sorted(set(canaries).difference(minions))
        if unknown:
            raise SaltInvocationError(f"canaries: not among the minions: {', '.join(unknown)}")
        first = list(dict.fromkeys(canaries))
    elif isinstance(canaries, int) and not isinstance(canaries, bool) and canaries >= 0:
        by_role: dict[str, list[str]] = {}
        for minion in minions:
            by_role.setdefault(roles[minion], []).append(minion)
        first = sorted(minion for members in by_role.values() for minion in members[:canaries])
    else:
        raise SaltInvocationError(f"canaries must be a number, 0 or more, or a list of ids, not {canaries!r}")
    return [*first, *(minion for minion in minions if minion not in first)], len(first)


def next_batch(
    waiting: Sequence[str],
    canaries: Collection[str],
    roles: Mapping[str, str],
    share: Share,
    down: Collection[str] = (),
) -> list[str]:
    """
    Return the minions that are changed next: as many as the share allows beside those that are down.

    waiting
        Those that are still to be changed, in order.

    canaries
        Those that come first; no other is in a batch with them.

    roles
        All servers' roles.

    down
        Servers that are down or unreachable. One of them that is in the batch is not one more that is down.

    Returns an empty list when nothing is waiting, or the share is used up.
    """
    sizes = collections.Counter(roles.values())
    busy: dict[str, set[str]] = {role: set() for role in sizes}
    for minion in roles.keys() & set(down):
        busy[roles[minion]].add(minion)
    first = [minion for minion in waiting if minion in canaries]
    batch: list[str] = []
    for minion in first or waiting:
        role = roles[minion]
        if len(busy[role] - {minion}) < allowance(share, sizes[role]):
            busy[role].add(minion)
            batch.append(minion)
    return batch


def plan(
    minions: Iterable[str],
    canaries: Collection[str],
    roles: Mapping[str, str],
    share: Share,
    down: Collection[str] = (),
) -> list[list[str]]:
    """Return all batches, if everything goes well and what is down stays down; see :func:`next_batch`."""
    waiting, batches = list(minions), []
    while waiting:
        batch = next_batch(waiting, canaries, roles, share, down)
        if not batch:
            break
        batches.append(batch)
        waiting = [minion for minion in waiting if minion not in batch]
    return batches


# -- judging -----------------------------------------------------------------------------------


def failures(results: object) -> str | None:
    """
    Return why an apply failed, as text; ``None`` when it did not.

    results
        What ``state.apply`` returned: a dictionary of states, or text or a list where it did not get that far.
    """
    if not isinstance(results, dict):
        text = "\n".join(map(str, results)) if isinstance(results, list) else str(results)
        return text[:LONGEST_REASON] or "the apply returned nothing"
    states = [state for state in results.values() if isinstance(state, dict) and state.get("result") is False]
    causes = [state for state in states if not str(state.get("comment", "")).startswith("One or more requisite")]
    said = list(dict.fromkeys(str(state.get("comment", "")) for state in causes or states))
    return "\n".join(said)[:LONGEST_REASON] or "a state failed" if states else None


def faults(row: object, normal: int, known: Collection[str] = ()) -> list[str]:
    """
    Return why a server is not healthy, as a list of texts.

    row
        What ``mta_status.report`` returned; ``None``: no answer.

    normal
        How many messages its queue may have.

    known
        Conditions of the beacon that were there before.
    """
    if not isinstance(row, dict):
        return ["no answer" if row is None else str(row)[:LONGEST_REASON]]
    said, found = _mta_view.row(row), []
    if not said["answers"]:
        problems = said["problems"] or [said["errors"].get("conversation") or "it does not answer"]
        found.append(f"the live conversation failed: {'; '.join(problems)}")
    elif said["auth"] is False:
        found.append("AUTH does not work")
    total = said["queue"].get("total")
    if total is not None and total > normal:
        found.append(f"{total} messages are in the queue, and {normal} are normal")
    if said["drift"]:
        found.append(f"changed since the apply: {', '.join(said['drift'])}")
    new = [one for one in said["conditions"] or [] if one not in (*known, ZONE)]
    return found + ([f"the beacon reports {', '.join(new)}"] if new else [])


def _is_down(row: object) -> bool:
    """Whether a mail server does not answer; one that is none yet is not down."""
    said = _mta_view.row(row)
    return said["last_apply"]["result"] is not None and not said["answers"]


def _down(rows: Mapping[str, Any], unreachable: Iterable[str]) -> list[str]:
    return sorted([*unreachable, *(minion for minion, row in rows.items() if _is_down(row))])


def _commit(row: object) -> Any:
    return _mta_view.row(row)["commit"]


# -- what is to be done ------------------------------------------------------------------------


def _is_open(one: Mapping[str, Any]) -> bool:
    """Whether a minion is still to be changed, going by what the rollout knows of it."""
    return one["state"] in OPEN


def _is_to_be_rolled_back(one: Mapping[str, Any]) -> bool:
    """Whether the rollout changed a minion, or may have: of an apply under way nobody saw the end."""
    return one["state"] == "applying" or (one["state"] != "rolled back" and one.get("commit") is not None)


# -- what is remembered ------------------------------------------------------------------------


class Book:
    """A rollout's file; held by one process at a time."""

    def __init__(self, cache_directory: str, name: object) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", str(name)):
            raise SaltInvocationError(f"name must be letters, digits, '.', '-' and '_', not {name!r}")
        self.path = pathlib.Path(cache_directory) / "postfix_mta" / "rollout" / f"{name}.json"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from changing it. Raises ``CommandExecutionError`` when one does."""
        with contextlib.ExitStack() as lock:
            try:
                lock.enter_context(_mta_files.held(self.path, wait=False))
            except BlockingIOError:
                raise CommandExecutionError(f'The rollout "{self.path.stem}" is under way') from None
            yield

    def read(self) -> State | None:
        """Return what is known; ``None`` when there is no such rollout. Raises ``CommandExecutionError``."""
        try:
            state: State = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as err:
            raise CommandExecutionError(f"Cannot read {self.path}: {err}") from err
        return state

    def write(self, state: State) -> None:
        """Replace what is known."""
        _mta_files.replace(self.path, json.dumps(state), 0o600)

    def forget(self) -> None:
        """Remove it."""
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()


# -- going through with it ---------------------------------------------------------------------


def run(book: Book, ask: Ask, action: str, wanted: State, test: bool = False) -> dict[str, Any]:
    """
    Do what the runner ``postfix_mta.rollout`` is asked for; see there.

    wanted
        Its arguments by name, but for the name and the action.
    """
    if action not in ACTIONS:
        raise SaltInvocationError(f"action must be one of {', '.join(ACTIONS)}, not {action!r}")
    if action == "show":
        return _outcome(_there(book))
    with book.held():
        state = _begun(book, ask, wanted, test) if action == "start" else _there(book)
        if action == "forget":
            if not test:
                book.forget()
            return _forgotten(state, book.path.stem, test)
        if test:
            return _planned(state if action == "start" else _looked_at(state, ask), action)
        state.update(status="under way", action=action, why=None)
        rollout = _Rollout(book, ask, state)
        return rollout.backward() if action == "roll_back" else rollout.forward()


def _looked_at(state: State, ask: Ask) -> State:
    """The same, with those that are down now."""
    rows, unreachable = ask(state["order"], "list", "mta_status.report", {"login": False})
    return {**state, "down": _down(rows, unreachable), "unreachable": list(unreachable)}


def _forgotten(state: State, name: str, test: bool) -> dict[str, Any]:
    """What is said of a rollout that another one may replace."""
    forgotten = "would be forgotten" if test else "has been forgotten"
    report = f'The rollout "{name}" {forgotten}; the servers stay as they are.'
    return {"result": True, "status": "forgotten", "minions": _told_minions(state), "report": report}


def _there(book: Book) -> State:
    state = book.read()
    if not state:
        raise CommandExecutionError(f'There is no rollout "{book.path.stem}"')
    return state


def _begun(book: Book, ask: Ask, wanted: State, test: bool) -> State:
    """Return what a rollout knows that begins."""
    if not wanted.get("tgt"):
        raise SaltInvocationError("tgt: say which minions")
    state = book.read()
    if state and state["status"] in ("stopped", "under way") and not test:
        raise SaltInvocationError(
            f'The rollout "{book.path.stem}" {_where(state)}: resume it, roll it back, or forget it'
            " (action=resume, roll_back or forget; action=show says why)"
        )
    for key in ("settle", "patience", "queue_slack"):
        if isinstance(wanted[key], bool) or not isinstance(wanted[key], int) or wanted[key] < 0:
            raise SaltInvocationError(f"{key} must be a whole number, 0 or more, not {wanted[key]!r}")
    # A minion that does not have the formula yet answers too, if only that.
    answers, unreachable = ask(wanted["tgt"], wanted["tgt_type"], "mta_status.report", {"login": False})
    minions = sorted([*answers, *unreachable])
    roles = dict.fromkeys(minions, "")
    if wanted["role"]:
        told, _ = ask(minions, "list", "grains.get", {"key": wanted["role"]})
        roles = {minion: json.dumps(told.get(minion), default=str, skipkeys=True) for minion in minions}
    sequence, count = order(minions, roles, wanted["canaries"])
    allowance(wanted["share"], len(minions))
    return {
        "began": int(time.time()),
        "status": "under way",
        "action": "start",
        "why": None,
        "wanted": wanted,
        "order": sequence,
        "canaries": sequence[:count],
        "roles": roles,
        "down": _down(answers, unreachable),
        "unreachable": list(unreachable),
        "minions": {minion: {"state": "pending", "why": None} for minion in minions},
    }


class _Rollout:
    """A rollout that is gone through with; every step is written down."""

    def __init__(self, book: Book, ask: Ask, state: State) -> None:
        self._book, self._ask, self._state = book, ask, state
        self._minions: dict[str, dict[str, Any]] = state["minions"]
        self._wanted: dict[str, Any] = state["wanted"]

    def forward(self) -> dict[str, Any]:
        """Change what is still to be changed, batch by batch."""
        return self._batches(
            self._state["order"],
            lambda minion: _is_open(self._minions[minion]),
            self._state["canaries"],
            self._change,
            "finished",
        )

    def backward(self) -> dict[str, Any]:
        """Roll back what was changed, the last batch first."""
        for one in self._minions.values():
            one["back"] = _is_to_be_rolled_back(one)
        return self._batches(
            self._state["order"][::-1],
            lambda minion: bool(self._minions[minion]["back"]),
            [],
            self._roll_back,
            "rolled back",
        )

    def _batches(
        self,
        sequence: Sequence[str],
        waits: Callable[[str], bool],
        canaries: Collection[str],
        step: Callable[[list[str], Mapping[str, Any]], dict[str, str]],
        ended: str,
    ) -> dict[str, Any]:
        """Take step after step, until nothing waits or something failed."""
        state = self._state
        while any(waits(minion) for minion in sequence):
            rows, unreachable = self._reports(state["order"])
            state["down"] = _down(rows, unreachable)
            # Those that do not answer come at the end, or not at all: they keep nobody from being changed.
            waiting = [minion for minion in sequence if waits(minion) and minion not in unreachable]
            if not waiting:
                return self._stop(f"no answer from {', '.join(filter(waits, sequence))}")
            batch = next_batch(waiting, canaries, state["roles"], self._wanted["share"], state["down"])
            if not batch:
                return self._stop(f"no server can be {_verb(state['action'])} now: {_used_up(state, waiting)}")
            failed = step(batch, rows)
            if failed:
                return self._stop(f"failed: {', '.join(sorted(failed))}")
        state["status"] = ended
        self._book.write(state)
        return _outcome(state)

    def _stop(self, why: str) -> dict[str, Any]:
        self._state.update(status="stopped", why=why)
        self._book.write(self._state)
        return _outcome(self._state)

    def _reports(self, minions: Sequence[str], **options: Any) -> tuple[dict[str, Any], list[str]]:
        return self._ask(
            list(minions), "list", "mta_status.report", {"login": False, "look": True, **options}, REPORT_TIMEOUT
        )

    def _let(self, minions: Sequence[str], function: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Let minions that have just answered change something; return what each returned."""
        return self._ask(minions, "list", function, arguments, patience=BUSY_PATIENCE, late=BUSY_PATIENCE)[0]

    def _change(self, batch: list[str], rows: Mapping[str, Any]) -> dict[str, str]:
        """Apply on a batch and wait until all of it is healthy; return who failed, and why."""
        for minion in batch:
            row = _mta_view.row(rows[minion])
            before = {
                "queue": row["queue"].get("total") or 0,
                "commit": row["commit"],
                "conditions": row["conditions"] or [],
            }
            # After an interruption the first look still counts: since then the server may have been changed.
            self._minions[minion].setdefault("before", before)
            self._minions[minion].update(state="applying", why=None)
        self._book.write(self._state)
        results = self._let(batch, "state.apply", {"mods": self._wanted["mods"], "queue": True})
        wrong = {}
        for minion in batch:
            unknown = "no answer to the apply, which may still be under way"
            failed = failures(results[minion]) if minion in results else unknown
            if failed:
                wrong[minion] = failed
        healthy = [minion for minion in batch if minion not in wrong]
        wrong.update(self._wait(healthy, self._wanted["patience"]))
        if not wrong and set(batch) & set(self._state["canaries"]) and self._wanted["settle"]:
            time.sleep(self._wanted["settle"])
            wrong.update(self._wait(healthy, 0))
        looked = self._note_commits(batch)
        for minion in batch:
            ended = "failed" if minion in wrong else "done"
            # Of an apply that did not answer nobody knows what it did: rolling back looks again.
            seen = minion in results and minion in looked
            self._minions[minion].update(state=ended if seen else "applying", why=wrong.get(minion))
        self._book.write(self._state)
        return wrong

    def _note_commits(self, batch: Sequence[str]) -> Collection[str]:
        """Write down what there is to roll back: the commit that was not there before; return who told."""
        rows = self._reports(batch)[0]
        for minion, row in rows.items():
            one = self._minions[minion]
            if _commit(row) != one["before"]["commit"]:
                one["commit"] = _commit(row)
        return rows

    def _wait(self, waiting: list[str], patience: int) -> dict[str, str]:
        """Wait until servers are healthy; return what is wrong with those that are not in time."""
        deadline = time.monotonic() + patience
        while waiting:
            rows, _ = self._reports(waiting, thorough=True)
            wrong = {}
            for minion in waiting:
                before = self._minions[minion]["before"]
                normal = before["queue"] + self._wanted["queue_slack"]
                found = faults(rows.get(minion), normal, before["conditions"])
                if found:
                    wrong[minion] = "; ".join(found)
            if not wrong or time.monotonic() + PAUSE > deadline:
                after = f"after {patience} s" if patience else "after it had been healthy"
                return {minion: f"not healthy {after}: {why}" for minion, why in wrong.items()}
            waiting = list(wrong)
            time.sleep(PAUSE)
        return {}

    def _roll_back(self, batch: list[str], rows: Mapping[str, Any]) -> dict[str, str]:
        """Roll back what the rollout changed on a batch, wait until all of it is healthy; return who failed."""
        commits = {}
        for minion in batch:
            one = self._minions[minion]
            if one["state"] == "applying":
                # Nobody saw the end of its apply: what is new is what that did.
                commit = _commit(rows.get(minion))
                one["commit"] = commit if commit != one["before"]["commit"] else None
            if one.get("commit") is None:
                one["back"] = False
            else:
                commits[minion] = one["commit"]
        results = self._let(list(commits), "mta_transaction.roll_back", {"commit": commits}) if commits else {}
        wrong = {}
        for minion in commits:
            result = results.get(minion, "no answer")
            if not isinstance(result, dict) or result.get("result") is not True:
                wrong[minion] = str(result.get("comment") if isinstance(result, dict) else result)[:LONGEST_REASON]
        restored = [minion for minion in commits if minion not in wrong]
        wrong.update(self._wait(restored, self._wanted["patience"]))
        for minion in batch:
            if minion in wrong:
                self._minions[minion].update(why=wrong[minion])
            elif minion in restored:
                self._minions[minion].update(state="rolled back", why=None, commit=None, back=False)
        self._book.write(self._state)
        return wrong


# -- telling -----------------------------------------------------------------------------------


def _where(state: State) -> str:
    counts: dict[str, int] = {}
    for one in state["minions"].values():
        counts[one["state"]] = counts.get(one["state"], 0) + 1
    numbers = ", ".join(f"{number} {what}" for what, number in sorted(counts.items()))
    return f"{'is ' if state['status'] != 'stopped' else ''}{state['status']} ({numbers})"


def _told_minions(state: State) -> dict[str, Any]:
    return {minion: {key: one[key] for key in ("state", "why")} for minion, one in state["minions"].items()}


def _minions(state: State) -> str:
    number = len(state["order"])
    return "1 minion" if number == 1 else f"{number} minions"


def _outcome(state: State) -> dict[str, Any]:
    """What a person is told."""
    lines = [f"The rollout of {state['wanted']['mods']} to {_minions(state)} {_where(state)}."]
    if state["why"]:
        lines.append(f"Why: {state['why']}")
    for minion in state["order"]:
        one = state["minions"][minion]
        canary = " (canary)" if minion in state["canaries"] else ""
        lines.append(f"  {minion}{canary}: {one['state']}")
        lines += [f"      {line}" for line in (one["why"] or "").splitlines()]
    if state["status"] == "stopped":
        lines.append(_ways_on(state))
    if state["status"] == "rolled back":
        if not any(one["state"] == "rolled back" for one in state["minions"].values()):
            lines.append("It had changed nothing, so there was nothing to roll back.")
        lines.append("Take the change out of pillar too: the next apply would make it again.")
    return {
        "result": state["status"] in ("finished", "rolled back"),
        "status": state["status"],
        "minions": _told_minions(state),
        "report": "\n".join(lines),
    }


def _ways_on(state: State) -> str:
    """What can be done with a rollout that stopped."""
    if state["action"] == "roll_back":
        ways = ["Mend the cause, then action=roll_back again"]
    else:
        ways = ["Mend the cause (in pillar, where a setting is wrong), then action=resume"]
        if any(map(_is_to_be_rolled_back, state["minions"].values())):
            ways.append("action=roll_back restores what was changed")
    ways.append(
        "action=forget drops this rollout and leaves the servers as they are, so that another one can start"
    )
    return f"{'; '.join(ways)}."


def _verb(action: str) -> str:
    return "rolled back" if action == "roll_back" else "changed"


def _used_up(state: State, waiting: Iterable[str]) -> str:
    """Why none of those that wait may be changed beside those that are down, and what helps."""
    roles, share = state["roles"], state["wanted"]["share"]
    sizes = collections.Counter(roles.values())
    blocked = {roles[minion] for minion in waiting}
    down = [minion for minion in state["down"] if roles[minion] in blocked]
    allowed = sorted({allowance(share, sizes[role]) for role in blocked})
    needed = 1 + max(sum(roles[minion] == role for minion in down) for role in blocked)
    are, them = ("is", "it") if len(down) == 1 else ("are", "them")
    return (
        f"{', '.join(down)} {are} down, and the share ({share}) allows {' or '.join(map(str, allowed))} at once"
        f"{' of a role' if len(sizes) > 1 else ''}; bring {them} back, or give a larger share (share={needed})"
    )


def _planned(state: State, action: str) -> dict[str, Any]:
    """What would be done."""
    minions, share, verb = state["minions"], state["wanted"]["share"], _verb(action)
    if action == "roll_back":
        wanted = [one for one in state["order"][::-1] if _is_to_be_rolled_back(minions[one])]
        canaries = []
    else:
        wanted = [one for one in state["order"] if _is_open(minions[one])]
        canaries = state["canaries"]
    # Nothing can be changed on those that do not answer now.
    waiting = [minion for minion in wanted if minion not in state["unreachable"]]
    batches = plan(waiting, canaries, state["roles"], share, state["down"])
    planned = [minion for batch in batches for minion in batch]
    left = [minion for minion in waiting if minion not in planned]
    why = _used_up(state, left) if left else f"no answer from {', '.join(wanted)}"
    if not wanted:
        lines = [f"Nothing is left to be {verb}."]
    elif not batches:
        lines = [f"None of {_minions(state)} can be {verb} now: {why}"]
    else:
        done = "rolled back" if action == "roll_back" else "applied to"
        lines = [f"{len(planned)} of {_minions(state)} would be {done}, batch by batch:"]
        for number, batch in enumerate(batches, 1):
            canary = " (canaries)" if set(batch) <= set(canaries) else ""
            lines.append(f"  {number}{canary}: {', '.join(batch)}")
        if left:
            lines.append(f"{', '.join(left)} cannot be {verb} now: {why}")
        if action != "roll_back":
            lines.append(ORDER_ONLY.format(state["wanted"]["mods"]))
        if state["down"]:
            lines.append(f"Down or unreachable at the moment: {', '.join(state['down'])}")
    return {
        "result": bool(batches) or not wanted,
        "status": "planned",
        "minions": _told_minions(state),
        "batches": batches,
        "report": "\n".join(lines),
    }
