"""
Previous values: what each item was before this formula first set it, restored when nothing asks for it any more.

An item has a name and a value: a parameter of main.cf, a field of master.cf, an alias; ``None``: it is not there.
What somebody has changed since this formula set it stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Callable

from _mta_records import NamedTuple
from _mta_system import StateDirectory

# In a file of records beside the files that they are about, which are absolute paths.
MADE, COMPLETE = "made", "complete"


class Record(NamedTuple):
    """
    What is kept of the items of a file.

    before
        Item to the previous value.

    made
        Item to what the last apply that changed it made of it.

    complete
        Whether everything that this formula has set is in here; older versions kept less.
    """

    before: dict[str, Any]
    made: dict[str, Any]
    complete: bool = True


class Ended(NamedTuple):
    """Items that nothing asks for any more: their previous values, and those that somebody has changed since."""

    back: dict[str, Any]
    theirs: list[str]


# Of an item: whether two values are the same.
Same = Callable[[str, Any, Any], bool]
# Of an item: its value.
Value = Callable[[str], Any]


def read(state: StateDirectory, records: str, path: str) -> Record:
    """
    Return the record of a file; a damaged one is empty.

    records
        Name of a file of the state directory.

    path
        Absolute path of what the record is about.
    """
    whole = state.read(records)
    return Record(whole.get(path, {}), whole.get(MADE, {}).get(path, {}), path in whole.get(COMPLETE, []))


def whole(state: StateDirectory, records: str, path: str, record: Record) -> dict[str, Any]:
    """Return what the file of records is to hold for ``record`` to be in it. Parameters as for :func:`read`."""
    there = state.read(records)
    made = {**there.get(MADE, {}), path: record.made}
    return {**there, path: record.before, MADE: made, COMPLETE: sorted({*there.get(COMPLETE, []), path})}


def ended(record: Record, is_asked: Callable[[str], bool], present: Value, same: Same) -> Ended:
    """
    Find what is to be restored.

    is_asked
        Whether something asks for an item.

    present, same
        The values as they are, and how they are compared.
    """
    back, theirs = {}, []
    for item, before in record.before.items():
        now = present(item)
        if is_asked(item):
            continue
        if item not in record.made or same(item, now, record.made[item]):
            back[item] = before
        elif not same(item, now, before):
            theirs.append(item)
    return Ended(back, theirs)


def only(record: Record, is_asked: Callable[[str], bool]) -> Record:
    """Return a copy of the record with only what is asked for."""
    before = {item: value for item, value in record.before.items() if is_asked(item)}
    return Record(before, {item: value for item, value in record.made.items() if item in before})


def note(record: Record, item: str, before: Any, made: Any) -> None:
    """Note in the record that an item is changed; its previous value is what it was before the first change."""
    record.before.setdefault(item, before)
    record.made[item] = made


def adopted(record: Record, items: Iterable[str], present: Value, first: Value, same: Same) -> Record:
    """
    Return the record with what an older version, which kept no record of it, has changed of ``items``.

    present, first
        The values as they are, and as they were before the first apply.
    """
    found = Record(dict(record.before), dict(record.made))
    for item in items:
        if item not in found.before and not same(item, present(item), first(item)):
            note(found, item, first(item), present(item))
    return found


def is_same(item: str, one: Any, other: Any) -> bool:
    """Compare by equality; a :data:`Same`."""
    return bool(one == other)
