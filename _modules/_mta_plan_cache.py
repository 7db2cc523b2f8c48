"""
Plans without changes, kept while what they rest on is the same, so that the next run need not judge anew.

There are two kinds. :func:`plan` is for one that says what it rests on: that is read in each run, and compared.
Whoever rests on files alone is watched while it looks at them; the next run looks whether one of them has changed
(:func:`unchanged`), and needs neither their contents nor the code that understands them. So are facts that files
tell kept (:func:`fact`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Callable

from salt.exceptions import CommandExecutionError

import _mta_system
from _mta_minion import Minion
from _mta_plan import Plan
from _mta_records import dataclass
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
        # The next run recalls what is found out now; it needs no more than that.
        _mta_system.look_elsewhere()
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
    _mta_system.found_for(kept["since"], kept["until"])
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
    # The next run says the same without that.
    _mta_system.look_elsewhere()
    kept = {"digest": _digest(evidence), "said": said, "since": since, "until": until}
    with contextlib.suppress(CommandExecutionError):
        minion.state.write(_name(subject), kept)


def forget(minion: Minion, subject: str) -> None:
    """Forget what was said of a subject."""
    minion.state.forget(_name(subject))


# -- plans that rest on files alone --------------------------------------------------------------

PLANS, KEY = "plans", "postfix_mta.plans"
# A file that is changed twice within a clock's tick looks like one that is changed once: nanoseconds until that
# can no longer be so.
SETTLED = 2_000_000_000
GRAINS = ("fqdn", "os_family")


@dataclass
class _Known:
    """
    Plans that change nothing, and facts, by what they are of.

    kept
        Those that earlier runs have kept: ``arguments`` (digest), ``files`` (path to its version), ``since`` and
        ``until`` (Unix times between which it holds), ``said`` (of a plan its notes, of a fact what was found).

    used
        What this run has met; ``fresh``: what it has added.
    """

    kept: dict[str, dict[str, Any]]
    used: set[str] = dataclasses.field(default_factory=set)
    fresh: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, minion: Minion) -> _Known:
        """Return what this run knows, which is read once."""
        known: _Known | None = minion.context.get(KEY)
        if known is None:
            read = minion.state.read(_name(PLANS))
            plans = read.get("plans")
            known = cls(plans if read.get("revision") == REVISION and isinstance(plans, dict) else {})
            minion.context[KEY] = known
        return known


class _Elsewhere(Mapping[str, Any]):
    """What Salt knows: who looks at it does not rest on files alone."""

    def __init__(self, values: Mapping[str, Any], known: Sequence[str] = ()) -> None:
        self.values_of, self.known = values, known

    def __getitem__(self, name: str) -> Any:
        if name not in self.known:
            _mta_system.look_elsewhere()
        return self.values_of[name]

    def __contains__(self, name: object) -> bool:
        _mta_system.look_elsewhere()
        return name in self.values_of

    def __iter__(self) -> Iterator[str]:
        _mta_system.look_elsewhere()
        return iter(self.values_of)

    def __len__(self) -> int:
        _mta_system.look_elsewhere()
        return len(self.values_of)


def noticed(minion: Minion) -> Minion:
    """Return the minion for a plan of which :func:`note` is to learn whether it rests on files alone."""
    functions, pillar, grains = _Elsewhere(minion.functions), _Elsewhere(minion.pillar), minion.grains
    return minion._replace(functions=functions, pillar=pillar, grains=_Elsewhere(grains, GRAINS))


def _given(minion: Minion, arguments: Any) -> str:
    """A digest of what is asked for, and of what Salt knows and most plans ask."""
    return _digest([arguments, [minion.grains.get(name) for name in GRAINS]])


def _are_as_seen(files: Mapping[str, Any]) -> bool:
    """Whether each of the files is still what it was when it was looked at."""
    return all(_mta_system.version(path) == version for path, version in files.items())


def _recalled(minion: Minion, subject: str, arguments: Any) -> Any:
    """What was taken down of a subject, while all files that it rests on are what they were; else ``None``."""
    known = _Known.of(minion)
    known.used.add(subject)
    try:
        one = known.kept[subject]
        if not one["since"] <= time.time() < one["until"] or one["arguments"] != _given(minion, arguments):
            return None
        return one["said"] if _are_as_seen(one["files"]) else None
    except (KeyError, TypeError, ValueError, AttributeError):
        # It is not there, or not as it was written.
        return None


def unchanged(minion: Minion, subject: str, arguments: Mapping[str, Any]) -> list[str] | None:
    """
    Return the notes of a plan that changes nothing, where all files that it rests on are what they were.

    subject
        Whose plan it is.

    arguments
        With which it is planned.

    Returns ``None`` where it has to be planned. Each file is looked at, and not read.
    """
    said = _recalled(minion, subject, arguments)
    return [str(line) for line in said] if isinstance(said, list) else None


def fact(minion: Minion, subject: str, arguments: Any, find: Callable[[], Any]) -> Any:
    """
    Return what a function finds out by looking at files alone, which is remembered while they are what they were.

    subject, arguments
        What it is of, and what else it depends on.

    find
        Returns what JSON can hold, and not ``None``. What it raises is raised.
    """
    said = _recalled(minion, subject, arguments)
    if said is not None:
        # Its files are not those that another one has looked at.
        _mta_system.look_elsewhere()
        return said
    with _mta_system.watched() as looks:
        said = find()
    note(minion, subject, arguments, looks, said)
    return said


def note(minion: Minion, subject: str, arguments: Any, looks: _mta_system.Looks, said: Any) -> None:
    """
    Take down a plan that changes nothing, or a fact, for :func:`keep`; nothing where it rests on more than files.

    Nor is one taken down of which a file has changed so lately that its next change might not show.

    subject, arguments
        As for :func:`unchanged`.

    looks
        What was looked at for it.

    said
        A plan's notes, or a fact.
    """
    if looks.more or looks.last_change() >= looks.began - SETTLED:
        return
    _Known.of(minion).fresh[subject] = {
        "arguments": _given(minion, arguments),
        "files": looks.files,
        "since": looks.since,
        "until": looks.until,
        "said": said,
    }


def keep(minion: Minion, whole: bool) -> None:
    """
    Keep the plans and facts that this run has added, for the next one.

    whole
        Whether all of the formula was applied: what it has not met is no longer there then.

    One of which a file has changed since it was looked at is planned again by the next run. Where nothing can be
    written, all are.
    """
    known = _Known.of(minion)
    fresh = {subject: one for subject, one in known.fresh.items() if _are_as_seen(one["files"])}
    left = {subject: one for subject, one in known.kept.items() if subject in known.used or not whole}
    if fresh or len(left) < len(known.kept):
        with contextlib.suppress(CommandExecutionError):
            minion.state.write(_name(PLANS), {"revision": REVISION, "plans": {**left, **fresh}})
    # The next run may have the same context.
    minion.context.pop(KEY, None)
