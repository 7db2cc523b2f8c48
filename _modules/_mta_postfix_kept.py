"""
Previous values of main.cf and master.cf: parameters, entries, and the fields and overrides that are asked of one.

Items (:py:mod:`_mta_kept`) are ``parameter``; ``name/type process_limit`` and ``name/type -o parameter`` for what
is asked of an entry of master.cf; and ``name/type`` for an entry that was not there, or is asked to be not there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import _mta_kept
import _mta_postfix_syntax
from _mta_kept import Record
from _mta_postfix_syntax import Entry, parts
from _mta_records import NamedTuple

OVERRIDE = "-o "


class Files(NamedTuple):
    """The parameters of main.cf and the entries of master.cf."""

    main: Mapping[str, str]
    master: Mapping[str, Entry]

    def value(self, item: str) -> Any:
        """The value of an item; a field of an entry that is not there is as in a new one."""
        service, _, part = item.partition(" ")
        if "/" not in service:
            return self.main.get(service)
        if not part:
            return self.master.get(service)
        return parts(self.master.get(service) or _mta_postfix_syntax.new_entry(service)).get(part)


class Asked(NamedTuple):
    """
    What is asked for.

    names
        Parameters, and services (``name/type``).

    services
        As ``postconf.managed`` takes them.
    """

    names: Collection[str]
    services: Mapping[str, Any]

    def has(self, item: str, record: Record) -> bool:
        """Whether an item is asked for; an entry that was not there is asked for with any of its fields."""
        service, _, part = item.partition(" ")
        if service not in self.names or "/" not in service:
            return service in self.names
        fields = self.services.get(service)
        if not part:
            return fields is None or record.before.get(service) is None
        return fields is None or part in _named(fields)

    def items(self, master: Mapping[str, Entry]) -> Iterator[str]:
        """All items; ``master`` has the entries that were there before."""
        for name in self.names:
            fields = self.services.get(name)
            if "/" not in name:
                yield name
                continue
            if fields is None or name not in master:
                yield name
            for part in _named(fields or {}):
                yield f"{name} {part}"


def _named(fields: Mapping[str, Any]) -> list[str]:
    """The parts of an entry that are asked for."""
    own = [field for field, value in fields.items() if field != "overrides" and value is not None]
    return [*own, *(f"{OVERRIDE}{name}" for name in fields.get("overrides") or {})]


def same(item: str, one: Any, other: Any) -> bool:
    """Whether Postfix takes two values of an item for the same."""
    service, _, part = item.partition(" ")
    name = part[len(OVERRIDE) :] if part.startswith(OVERRIDE) else "" if "/" in service else service
    return bool(one == other) or (bool(name) and _mta_postfix_syntax.same(name, one, other))


class Restored(NamedTuple):
    """
    What gets its previous values again, and the items that somebody has changed, which do not.

    parameters, services
        Name to the text, or to the whole entry; ``None``: it goes.
    """

    parameters: dict[str, str | None]
    services: dict[str, Entry | None]
    theirs: list[str]


def restored(record: Record, asked: Asked, present: Files) -> Restored:
    """Find what of the record nothing asks for any more."""
    found = _mta_kept.ended(record, lambda item: asked.has(item, record), present.value, same)
    # With a whole entry goes all of it.
    whole = {item for item in record.before if "/" in item and " " not in item and not asked.has(item, record)}
    theirs = [item for item in found.theirs if item in whole or item.partition(" ")[0] not in whole]
    result = Restored({}, {}, theirs)
    for item, before in found.back.items():
        service, _, part = item.partition(" ")
        if "/" not in service:
            result.parameters[item] = before
        elif not part:
            result.services[service] = before
        elif service not in whole:
            entry = result.services.get(service, present.master.get(service))
            if entry:
                result.services[service] = with_part(entry, part, before)
    return result


def with_part(entry: Entry, part: str, value: Any) -> Entry:
    """Return the entry with one field or override as given."""
    if not part.startswith(OVERRIDE):
        return {**entry, part: value}
    overrides = {**entry["overrides"], part[len(OVERRIDE) :]: value}
    return {**entry, "overrides": {name: text for name, text in overrides.items() if text is not None}}


def kept(
    record: Record,
    asked: Asked,
    present: Files,
    back: Restored,
    parameters: Mapping[str, str | None],
    services: Mapping[str, Entry | None],
) -> Record:
    """
    Return the record after changes.

    present, back
        What there is, and what of it is restored.

    parameters, services
        What changes, with what is restored.
    """
    found = _mta_kept.only(record, lambda item: asked.has(item, record))
    for name, text in parameters.items():
        if name in asked.names:
            _mta_kept.note(found, name, present.main.get(name), text)
    for service, entry in services.items():
        if service not in asked.names:
            continue
        before = back.services.get(service, present.master.get(service))
        if entry is None:
            _note_gone(found, service, before)
        else:
            _note_entry(found, asked, service, before, entry)
            _note_made(found, service, present.master.get(service), before, entry)
    return found


def _note_gone(record: Record, service: str, present: Entry | None) -> None:
    """Note that an entry goes; its previous value is what it was before its fields were set."""
    original = present
    for item in [item for item in record.before if item.startswith(f"{service} ")]:
        before, made = record.before.pop(item), record.made.pop(item, None)
        part = item.partition(" ")[2]
        if original and same(item, parts(original).get(part), made):
            original = with_part(original, part, before)
    _mta_kept.note(record, service, original, None)


def _note_entry(record: Record, asked: Asked, service: str, present: Entry | None, entry: Entry) -> None:
    """Note what changes of the fields and overrides that are asked for."""
    before, after = parts(present or _mta_postfix_syntax.new_entry(service)), parts(entry)
    for part in {**before, **after}:
        item = f"{service} {part}"
        if before.get(part) != after.get(part) and asked.has(item, record):
            _mta_kept.note(record, item, before.get(part), after.get(part))


def _note_made(record: Record, service: str, there: Entry | None, present: Entry | None, entry: Entry) -> None:
    """Note an entry that was not there before; what somebody else has changed of it is no work of ours."""
    made = record.made.get(service)
    if present is None:
        _mta_kept.note(record, service, None, entry)
    elif there and made:
        before, after = parts(there), parts(entry)
        for part in [part for part in {**before, **after} if before.get(part) != after.get(part)]:
            made = with_part(made, part, after.get(part))
        record.made[service] = made
