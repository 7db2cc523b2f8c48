"""Plans without changes, kept while what they rest on is the same, so that the next run need not judge anew."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Callable

from salt.exceptions import CommandExecutionError

from _mta_minion import Minion
from _mta_plan import Plan
from _mta_revision import REVISION

# Everything that a plan rests on: arguments, and files with their modes and owners.
Evidence = Sequence[Any]


def _name(subject: str) -> str:
    return f"verdicts/{hashlib.sha256(subject.encode()).hexdigest()[:32]}"


def _digest(evidence: Evidence) -> str:
    # Other code may judge otherwise.
    # repr() of text, numbers, bytes, lists and tuples of them tells all differences; a dictionary's order counts.
    return hashlib.sha256(repr((REVISION, _plain(evidence))).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """The same in Python's own dictionaries and lists: repr() of those of Salt 3008 hides what is in them."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, _plain(getattr(value, field.name))) for field in dataclasses.fields(value)]
    # Pillar may have a million texts: a call for each would cost more than all else.
    if isinstance(value, Mapping):
        return {key: one if type(one) is str else _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [one if type(one) is str else _plain(one) for one in value]
    return value


def _same(evidence: Callable[[], Evidence | None], basis: Evidence) -> bool:
    try:
        return evidence() == basis
    except CommandExecutionError:
        return False


def plan(
    minion: Minion,
    subject: str,
    evidence: Callable[[], Evidence | None],
    judge: Callable[[], Mapping[str, Any]],
    now: datetime.datetime,
) -> Plan:
    """
    Return a participant's plan: the one that is remembered while it holds, else what the judgement leads to.

    subject
        What is judged, such as a path.

    evidence
        Returns everything that the judgement rests on; ``None``: never remembered.

    judge
        Returns ``changes``, ``notes`` (list of text) and ``holds`` (datetimes between which it holds good).

    now
        The clock.

    A ``CommandExecutionError`` of the two callables is the plan's error. Only a plan that changes nothing is
    remembered.
    """
    try:
        basis = evidence()
        said = recall(minion, subject, basis, now.timestamp()) if basis else None
        if said:
            return Plan(**said)
        found = judge()
    except CommandExecutionError as err:
        return Plan(errors=[str(err)])
    changes = found["changes"]
    plan = Plan(changes, {"postfix": "reload"} if changes else {}, notes=found["notes"])
    # What was looked at for the judgement may have been another by then.
    if basis and not changes and _same(evidence, basis):
        since, until = (moment.timestamp() for moment in found["holds"])
        remember(minion, subject, basis, dataclasses.asdict(plan), since, until)
    return plan


def recall(minion: Minion, subject: str, evidence: Evidence, now: float) -> dict[str, Any] | None:
    """
    Return what was said of a subject when the same evidence was last judged.

    subject
        What was judged, such as a path.

    evidence
        Everything that the judgement rests on.

    now
        Unix time.

    Returns the dictionary that :func:`remember` was given; ``None`` when there is none, the evidence is another,
    or the time for which it holds is over or has not begun.
    """
    try:
        kept = minion.state.read(_name(subject))
        if not kept["since"] <= now < kept["until"] or kept["digest"] != _digest(evidence):
            return None
        said: dict[str, Any] = kept["said"]
    except (KeyError, TypeError):
        return None
    return said


def remember(
    minion: Minion, subject: str, evidence: Evidence, said: Mapping[str, Any], since: float, until: float
) -> None:
    """
    Remember what was said of a subject.

    subject, evidence
        As for :func:`recall`.

    said
        What JSON can hold.

    since, until
        Unix times between which it holds.

    Where it cannot be written (a full disk, a read-only file system), the next run judges again.
    """
    kept = {"digest": _digest(evidence), "said": said, "since": since, "until": until}
    with contextlib.suppress(CommandExecutionError):
        minion.state.write(_name(subject), kept)


def forget(minion: Minion, subject: str) -> None:
    """Forget what was said of a subject."""
    minion.state.forget(_name(subject))
