"""
What the status view has seen of each mail server in the last days: a mark for some hours, in one file.

A mark says how it was at worst. Where nobody looked there is none.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from salt.exceptions import CommandExecutionError

import _mta_files

# Seconds that a mark stands for, and how many marks are kept: seven days.
SPAN = 3 * 3600
KEPT = 56
GOOD, WARNING, BAD = 0, 1, 2


class Mark(NamedTuple):
    """
    How a server was at worst in one span of time.

    span
        Which one: Unix time divided by ``SPAN``.

    trouble
        ``GOOD``, ``WARNING`` or ``BAD``.

    queue
        The most messages in its queue, ``None`` where it did not tell.
    """

    span: int
    trouble: int
    queue: int | None

    def sound(self) -> bool:
        """Whether it holds what a mark may hold; it comes from a file."""
        whole = isinstance(self.span, int) and isinstance(self.queue, (int, type(None)))
        return whole and self.trouble in (GOOD, WARNING, BAD)


Marks = dict[str, list[Mark]]


def noted(marks: Mapping[str, list[Mark]], seen: Mapping[str, tuple[int, int | None]], now: float) -> Marks:
    """
    Return the marks with what has been seen now, and without those that are too old.

    marks
        Minion id to its marks, the oldest first.

    seen
        Minion id to its trouble and its queue.

    now
        Unix time.
    """
    span = int(now // SPAN)
    found: Marks = {}
    for minion in {**marks, **seen}:
        kept = [mark for mark in marks.get(minion, []) if span - KEPT < mark.span <= span]
        if minion in seen:
            mark = Mark(span, *seen[minion])
            if kept and kept[-1].span == span:
                mark = _worst(kept.pop(), mark)
            kept.append(mark)
        if kept:
            found[minion] = kept
    return found


def _worst(one: Mark, other: Mark) -> Mark:
    queues = [queue for queue in (one.queue, other.queue) if queue is not None]
    return Mark(one.span, max(one.trouble, other.trouble), max(queues, default=None))


class History:
    """The file of the marks, below the master's cache directory."""

    def __init__(self, cache_directory: str) -> None:
        self.path = pathlib.Path(cache_directory) / "postfix_mta" / "status.json"

    def add(self, seen: Mapping[str, tuple[int, int | None]], now: float) -> Marks:
        """
        Keep what has been seen now; return all that is kept. See ``noted``.

        Raises ``CommandExecutionError`` when the file cannot be written.
        """
        with self._held():
            marks = noted(self._read(), seen, now)
            _mta_files.replace(self.path, json.dumps(marks), 0o600)
        return marks

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """Wait for others who add something."""
        try:
            with _mta_files.held(self.path, wait=True):
                yield
        except OSError as err:
            raise CommandExecutionError(f"Cannot write {self.path}: {err.strerror}") from err

    def _read(self) -> Marks:
        """What is kept; nothing, where the file is damaged: it is only a memory."""
        try:
            kept = json.loads(self.path.read_bytes())
            return {
                minion: [mark for mark in itertools.starmap(Mark, marks) if mark.sound()]
                for minion, marks in kept.items()
            }
        except (FileNotFoundError, ValueError, TypeError, AttributeError):
            return {}
