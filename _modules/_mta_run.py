"""What the states of one run share: what each has done, or what a dry run has announced."""

from __future__ import annotations

import dataclasses
from typing import Any, Callable

from _mta_minion import Minion
from _mta_records import dataclass

KEY = "postfix_mta.run"


@dataclass
class Run:
    """
    One run of states, kept in Salt's ``__context__``.

    undone
        Why this run's transaction was undone, as a sentence; ``None``: it was not.

    silent
        Whether the server did not answer even after that.

    changes
        Subject (such as ``postconf``) to what it has changed; in a dry run, to what it would change.

    activate
        Service to what has to happen for the changes to be in force, ``reload``, ``restart`` or ``stop``.

    subject
        The subject that is being planned or applied at this moment.

    transaction
        The open transaction (:py:mod:`_mta_transaction`); ``None``: none is open.

    configuration
        What :py:mod:`_mta_postfix_edit` has prepared, for the states after it and for its own apply.

    aliases
        What :py:mod:`_mta_aliases` has found out of previous values and not yet recorded.

    seeds
        Whether this run has installed Postfix where there was no /etc/aliases: what is in it comes from the
        answers to debconf, and so from this formula.

    preflight
        What :py:mod:`_mta_postfix_check` has found out about files that it has tried already.

    authorities
        Path to the certificate authority that this run would create or renew (:py:mod:`_mta_ca`).

    tables
        What :py:mod:`_mta_tables` has found out and not yet recorded.

    record
        What :py:mod:`_mta_tables` has read of its record, and of which file that was.

    ahead
        The states that take part in the transaction of this run, each as its function and its arguments.

    obstacles
        Why files that this run would change cannot be replaced; ``None``: nobody has looked.

    rehearsal
        The context of a dry run within this run, as long as it lasts.

    known
        What was wrong with the server before this run, and still is.

    notes
        What the resolution of an interrupted apply has to say, for the state that ends this one.
    """

    undone: str | None = None
    silent: bool = False
    changes: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    activate: dict[str, str] = dataclasses.field(default_factory=dict)
    subject: str | None = None
    transaction: Any = None
    configuration: dict[str, Any] = dataclasses.field(default_factory=dict)
    aliases: dict[str, Any] = dataclasses.field(default_factory=dict)
    seeds: bool = False
    preflight: dict[Any, Any] = dataclasses.field(default_factory=dict)
    authorities: dict[str, Any] = dataclasses.field(default_factory=dict)
    tables: dict[str, Any] = dataclasses.field(default_factory=dict)
    record: tuple[Any, dict[str, Any]] | None = None
    ahead: list[tuple[Callable[..., Any], dict[str, Any]]] = dataclasses.field(default_factory=list)
    obstacles: list[str] | None = None
    rehearsal: dict[str, Any] | None = None
    known: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    @classmethod
    def of(cls, minion: Minion) -> Run:
        """Return the run that is going on; it begins with its first state."""
        run: Run = minion.context.setdefault(KEY, cls())
        return run

    def reset(self) -> None:
        """Begin anew, but for what has been found out of the host."""
        self.undone, self.silent, self.subject, self.transaction = None, False, None, None
        self.changes, self.activate, self.notes, self.known = {}, {}, [], []
        self.ahead, self.obstacles = [], None
