"""
A clean-up: with nothing asked for any more, files are again what they were before the first apply.

Of one in which somebody else has set something, what this formula has set is as before, and the rest stays.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any, Callable

import _mta_aliases
import _mta_postfix_edit
import _mta_postfix_view
import _mta_restore
from _mta_minion import Minion
from _mta_plan import Plan, stronger
from _mta_records import NamedTuple
from _mta_run import Run


class _Edited(NamedTuple):
    """Files in which somebody else has set something: what brings them back item by item."""

    subject: str
    plan: Callable[..., Plan]
    apply: Callable[..., None]
    arguments: dict[str, Any]
    paths: list[str]


def _edited(minion: Minion) -> list[_Edited]:
    """main.cf and master.cf, and the aliases, where not all that differs from before the first apply is ours."""
    edited = _mta_restore.edited(minion)
    found = []
    directory = _mta_postfix_view.CONFIG_DIRECTORY
    paths = [os.path.realpath(os.path.join(directory, file)) for file in _mta_postfix_view.FILES]
    if edited & {*paths} or _mta_postfix_edit.shared(minion, directory):
        arguments: dict[str, Any] = {"name": directory, "revert": []}
        found.append(_Edited("postconf", _mta_postfix_edit.plan, _mta_postfix_edit.apply, arguments, paths))
    for aliases in dict.fromkeys([_mta_aliases.ALIASES, *_mta_aliases.recorded(minion)]):
        paths = [os.path.realpath(aliases)]
        if edited & {*paths} or _mta_aliases.shared(minion, aliases):
            arguments = {"name": aliases, "revert": True}
            found.append(_Edited("mta_aliases", _mta_aliases.plan, _mta_aliases.apply, arguments, paths))
    return found


def _paths(edited: list[_Edited]) -> list[str]:
    return [path for one in edited for path in one.paths]


def plan(minion: Minion) -> Plan:
    """Tell what :func:`apply` would change: items of files that somebody has edited, and whole files by path."""
    changes: dict[str, Any] = {}
    activate: dict[str, str] = {}
    notes: list[str] = []
    edited = _edited(minion)
    with _announced(minion) as announced:
        for one in edited:
            planned = one.plan(minion, **one.arguments)
            if planned.errors:
                return Plan(errors=planned.errors)
            announced[one.subject] = planned.changes
            changes.update(planned.changes)
            activate = stronger(activate, planned.activate)
            notes += planned.notes
        after = _mta_postfix_edit.after_this_run(minion) if "postconf" in announced else None
        whole = _mta_restore.restore_plan(minion, _paths(edited), after)
    return Plan({**changes, **whole.changes}, stronger(activate, whole.activate), notes=notes + whole.notes)


@contextlib.contextmanager
def _announced(minion: Minion) -> Iterator[dict[str, Any]]:
    """What changes in items, for those who ask which files main.cf and master.cf will name."""
    run = Run.of(minion)
    before = dict(run.changes)
    try:
        yield run.changes
    finally:
        run.changes = before


def apply(minion: Minion) -> None:
    """
    Make the changes that :func:`plan` tells, in one transaction; at its commit what was kept is forgotten.

    For states: by itself it is refused. Raises as the participants do.
    """
    run = Run.of(minion)
    caller = run.subject
    edited = _edited(minion)
    for one in edited:
        if one.plan(minion, **one.arguments).changes:
            run.subject = one.subject
            one.apply(minion, **one.arguments)
            run.subject = caller
    _mta_restore.restore_apply(minion, _paths(edited))
