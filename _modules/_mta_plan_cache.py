"""TODO subject (mta_verdict)."""

import contextlib
import dataclasses
import hashlib
import time

from salt.exceptions import CommandExecutionError

from _mta_minion import Minion
from _mta_plan import Plan

# Of all files that Salt syncs to minions: other code may judge otherwise. bin/update-revision writes it.
REVISION = "6012482b1a9b"


def _name(subject):
    return f"verdicts/{hashlib.sha256(subject.encode()).hexdigest()[:32]}"


def _digest(evidence):
    # repr() of text, numbers, bytes, lists and tuples of them tells all differences; a dictionary's order counts.
    return hashlib.sha256(repr((REVISION, evidence)).encode()).hexdigest()


def _same(evidence, basis):
    try:
        return evidence() == basis
    except CommandExecutionError:
        return False


def plan(minion: Minion, subject, evidence, judge, now):
    """
    Return a member's plan: the one that is remembered while it holds, else what the judgement leads to.

    subject (str)
        What is judged, such as a path.

    evidence (callable)
        Returns everything that the judgement rests on, as for :func:`recall`; ``None``: never remembered.

    judge (callable)
        Returns ``changes``, ``notes`` (list of str) and ``holds`` (datetimes between which it holds good).

    now (datetime)
        The clock.

    Returns ``{"changes", "activate", "comment", "errors"}``; a ``CommandExecutionError`` of the two callables is
    its error. Only a plan that changes nothing is remembered. For other modules; there is no CLI Example for a
    function that takes functions.
    """
    try:
        basis = evidence()
        said = basis and recall(minion, subject, basis, now.timestamp())
        if said:
            return Plan(**said)
        found = judge()
    except CommandExecutionError as err:
        return Plan(errors=[str(err)])
    activate = {"postfix": "reload"} if found["changes"] else {}
    said = Plan(found["changes"], activate, notes=found["notes"])
    # What was looked at for the judgement may have been another by then.
    if basis and not said.changes and _same(evidence, basis):
        remember(
            minion, subject, basis, dataclasses.asdict(said), *(moment.timestamp() for moment in found["holds"])
        )
    return said


def recall(minion: Minion, subject, evidence, now=None):
    """
    Return what was said of a subject when the same evidence was last judged.

    subject (str)
        What was judged, such as a path.

    evidence (list)
        Everything that the judgement rests on: arguments, and files with their modes and owners.

    now (float, default: the clock)
        Unix time.

    Returns the dictionary that :func:`remember` was given; ``None`` when there is none, the evidence is another,
    or the time for which it holds is over or has not begun.
    """
    now = time.time() if now is None else now
    try:
        verdict = minion.state.read(_name(subject))
        holds = verdict["since"] <= now < verdict["until"] and verdict["digest"] == _digest(evidence)
    except (KeyError, TypeError):
        return None
    return verdict["said"] if holds else None


def remember(minion: Minion, subject, evidence, said, since, until):
    """
    Remember what was said of a subject.

    subject, evidence
        As for :func:`recall`.

    said (dict)
        What JSON can hold.

    since, until (float)
        Unix times between which it holds.

    Where it cannot be written (a full disk, a read-only file system), the next run judges again.
    """
    verdict = {"digest": _digest(evidence), "said": said, "since": since, "until": until}
    with contextlib.suppress(CommandExecutionError):
        minion.state.write(_name(subject), verdict)
