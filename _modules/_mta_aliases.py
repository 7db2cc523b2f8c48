"""
/etc/aliases by the rules of aliases(5) and postalias(1), and its compiled form.

Comments, the order of the file, line ends and entries that nobody asked to change stay byte for byte.

What an entry was before this formula first changed it is kept in ``aliases.json`` of the state directory.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_kept
import _mta_postfix_syntax
import _mta_postfix_view
import _mta_snapshots
import _mta_system
import _mta_tables
import _mta_tables_manage
import _mta_transaction
from _mta_kept import Record
from _mta_minion import Minion
from _mta_plan import Plan
from _mta_records import NamedTuple, dataclass
from _mta_run import Run
from _mta_system import BLANKS
from _mta_table_syntax import SUFFIXES

ALIASES = "/etc/aliases"
RECORD = "aliases.json"
# What Debian's package writes by itself, before it looks at the answers to debconf.
OWN = "postmaster: root\n"
BLANK, COMMA, COLON = re.compile(f"[{BLANKS}]"), re.compile(","), re.compile(":")
# What keeps a separator from being one.
GROUPING = re.compile(r"[\\\"()<>]")
PLAIN_NAME = re.compile(r"[^\s\"#:@()<>\[\],;\\]+")
PLAIN_PATH = r"[A-Za-z0-9_./:+=%@|-]+"

# Names to lists of values; None: the entry goes.
Wanted = Mapping[str, "list[str] | None"]


class Entry(NamedTuple):
    """An entry: its name as Postfix compares it, its values, the numbers of its lines from 0."""

    name: str
    values: list[str]
    lines: list[int]


# -- the file's syntax -------------------------------------------------------------------------


def _split(text: str, separator: re.Pattern[str]) -> list[str]:
    """Split at a character class, but not within quotes, comments in parentheses, or angle brackets."""
    if not GROUPING.search(text):
        return separator.split(text)
    parts, part, depth, quoted, escaped = [], "", 0, False, False
    for char in text:
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = True
        elif char == '"':
            quoted = not quoted
        elif not quoted and char in "(<":
            depth += 1
        elif not quoted and char in ")>":
            depth = max(0, depth - 1)
        elif not quoted and not depth and separator.match(char):
            parts.append(part)
            part = ""
            continue
        part += char
    return [*parts, part]


def _unquoted(text: str) -> str | None:
    """The content of a text that is one quoted string; ``None`` for any other."""
    if not text.startswith('"'):
        return None
    match = re.fullmatch(r'"((?:[^"\\]|\\.)*)"', text, re.DOTALL)
    return re.sub(r"\\(.)", r"\1", match[1], flags=re.DOTALL) if match else None


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _is_special(value: str) -> bool:
    """A command, a file or an :include: list, as opposed to an address."""
    return value.startswith(("|", "/", ":include:"))


def _name(text: str) -> str:
    """The name of an entry as Postfix compares it: without quotes, in lower case."""
    inner = _unquoted(text)
    return (text if inner is None else inner).lower()


def _values(text: str) -> list[str]:
    """The values on the right of an entry, in a form in which equal ones are equal."""
    values = []
    for part in _split(text, COMMA):
        part = part.strip(BLANKS)
        pieces = [part] if "<" in part or "(" in part else _split(part, BLANK)
        for piece in filter(None, pieces):
            inner = _unquoted(piece)
            if inner and (_is_special(inner) or PLAIN_NAME.fullmatch(inner)):
                values.append(inner)
            else:
                values.append(piece)
    return values


def _written(value: str) -> str:
    """A value as aliases(5) needs it: commands and paths with anything unusual in them in quotes."""
    if _is_special(value) and not re.fullmatch(PLAIN_PATH, value):
        return _quoted(value)
    return value


def _line(name: str, values: Sequence[str]) -> str:
    written = name if PLAIN_NAME.fullmatch(name) else _quoted(name)
    return f"{written}: {', '.join(_written(value) for value in values)}"


def entries(text: str) -> tuple[list[Entry], list[str]]:
    """Return the entries in order, and complaints: what postalias(1) skips with a warning is not an entry."""
    found, complaints = [], []
    for line, indexes in _mta_system.logical_lines(text):
        name, colon, value = _cut(line)
        values = _values(value)
        where = f"line {indexes[0] + 1}"
        if line[0] in BLANKS:
            complaints.append(f"{where} begins with whitespace, but continues nothing")
        elif not colon or not name:
            complaints.append(f"{where} is not 'name: value'")
        elif "@" in name and _unquoted(name) is None:
            complaints.append(f"{where}: a name must be local, without a domain")
        else:
            if not values:
                complaints.append(f"{where}: {name} has no value")
            found.append(Entry(_name(name), values, indexes))
    return found, complaints


def _cut(line: str) -> tuple[str, bool, str]:
    """Cut at the first colon outside quotes."""
    name, *others = _split(line, COLON)
    return name.strip(BLANKS), bool(others), line[len(name) + 1 :]


def edited(text: str, wanted: Wanted) -> str:
    """Return the text with the entries of ``wanted`` as wanted, and all others as they are."""
    lines = text.split("\n")
    end = "\r" if lines[0].endswith("\r") else ""
    missing = dict(wanted)
    gone: set[int] = set()
    for name, values, numbers in entries(text)[0]:
        if name not in wanted:
            continue
        new = missing.pop(name, None)
        if new is None:
            gone.update(numbers)
        elif values != new:
            lines[numbers[0]] = _line(name, new) + ("\r" if lines[numbers[0]].endswith("\r") else "")
            gone.update(numbers[1:])
    kept = [line for number, line in enumerate(lines) if number not in gone]
    if len(lines) - 1 in gone:
        kept.append("")
    added = [_line(name, values) + end for name, values in missing.items() if values is not None]
    if added:
        if kept[-1]:
            kept[-1] += end
            kept.append("")
        kept[-1:] = [*added, ""]
    return "\n".join(kept)


# -- what is asked for -------------------------------------------------------------------------


def wanted(aliases: Any) -> dict[str, list[str] | None]:
    """Check and normalise what was asked for. Raises ``SaltInvocationError`` for what the file cannot hold."""
    if not isinstance(aliases, Mapping):
        raise SaltInvocationError(f"aliases must be a dictionary of names and values, not {aliases!r}")
    found: dict[str, list[str] | None] = {}
    for name, value in aliases.items():
        name = str(name)
        key = _name(name.strip())
        if not key or not name.isprintable():
            raise SaltInvocationError(f"aliases: {name!r} is not a name")
        if key in found:
            raise SaltInvocationError(f"aliases: {name!r} is there twice; upper and lower case are the same")
        found[key] = None if value is None else _wanted_values(name, key, value)
    return found


def _wanted_values(name: str, key: str, value: Any) -> list[str]:
    values: list[str] = []
    for item in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(item, bool) or not isinstance(item, (str, int)) or not str(item).isprintable():
            raise SaltInvocationError(f"aliases:{name}: {item!r} is no address, command or path")
        text = str(item).strip()
        found = [text] if _is_special(text) else _values(text)
        # Written before another value, it has to be read as itself: nothing may be left open.
        if entries(_line(key, [*found, "x"]))[0] != [(key, [*found, "x"], [0])]:
            raise SaltInvocationError(f"aliases:{name}: {item!r} cannot be written to an aliases file")
        values += found
    if not values:
        raise SaltInvocationError(f"aliases:{name}: no value; null removes the entry")
    return values


@dataclass(frozen=True)
class _Asked:
    """
    What is wanted of the file.

    wanted
        With the previous values of what is asked for no longer.

    record
        What is to be kept afterwards; ``None``: what has been.

    theirs
        Names that are not restored, as somebody has changed them.
    """

    wanted: dict[str, list[str] | None]
    record: Record | None
    theirs: list[str]


def _asked(minion: Minion, name: str, text: str, aliases: Any, absent_only: Any, revert: bool) -> _Asked:
    """``aliases``, those of ``absent_only`` that neither it nor the file has, and what is to be there again."""
    present = _first_values(text)
    asked, seldom = wanted(aliases or {}), wanted(absent_only or {})
    mine = {**{key: values for key, values in seldom.items() if key not in present}, **asked}
    if not revert:
        return _Asked(mine, None, [])
    names = {*asked, *seldom}
    record = adopted = _mta_kept.read(minion.state, RECORD, name)
    first = None if record.complete else _mta_snapshots.content(minion, name)
    if Run.of(minion).seeds:
        first = OWN.encode()
    if first is not None:
        before = _first_values(first.decode("utf-8", "surrogateescape"))
        adopted = _mta_kept.adopted(record, sorted(names), present.get, before.get, _mta_kept.is_same)
    ended = _mta_kept.ended(adopted, names.__contains__, present.get, _mta_kept.is_same)
    kept = _mta_kept.only(adopted, names.__contains__)
    changed = {key: values for key, values in mine.items() if values != present.get(key)}
    for key, values in changed.items():
        _mta_kept.note(kept, key, present.get(key), values)
    same = kept[:2] == record[:2] and adopted is record
    return _Asked({**ended.back, **mine}, None if same else kept, ended.theirs)


def _first_values(text: str) -> dict[str, list[str]]:
    """The entries by name; of several of one name the first one counts."""
    found: dict[str, list[str]] = {}
    for entry in entries(text)[0]:
        found.setdefault(entry.name, entry.values)
    return found


def _present(name: str, seeded: Any) -> str | None:
    """The file's text; while Postfix is not installed and there is none, what its package will write."""
    text = _mta_system.read(name)
    if text is None and not _mta_tables.installed("postalias"):
        return "".join(f"{_line(key, values)}\n" for key, values in wanted(seeded or {}).items() if values)
    return text


# -- the compiled form -------------------------------------------------------------------------


def _database_type(path: str) -> str | None:
    """
    The type in which main.cf has this file compiled; ``None`` when it does not use it, or does not compile it.

    Where main.cf does not say, it is that of the compiled file that exists, else ``default``.
    """
    main: dict[str, str]
    try:
        main = _mta_postfix_view.show()
    except CommandExecutionError:
        main = {}
    for parameter in ("alias_database", "alias_maps"):
        for table in re.split(r"[,\s]+", main.get(parameter, "")):
            kind, _, file = table.rpartition(":")
            kind = kind.rpartition(":")[2]
            if file == path and "$" not in kind:
                return kind if kind in SUFFIXES else None
    if path not in main.get("alias_database", path):
        return None
    kind = main.get("default_database_type", "")
    if kind in SUFFIXES:
        return kind
    return next((kind for kind, suffix in SUFFIXES.items() if _mta_system.exists(path + suffix)), "default")


def looked_up(
    minion: Minion, name: str = ALIASES, config_directory: str = _mta_postfix_view.CONFIG_DIRECTORY
) -> tuple[str, list[str]]:
    """
    Return the file of aliases that main.cf will name, and what is to be said of it.

    name
        Path of the file that it is if main.cf names that one; else it is the first local one.

    config_directory
        Path of the directory with main.cf. Where that cannot be read, ``name`` is the file.
    """
    main: dict[str, str] = {}
    with contextlib.suppress(CommandExecutionError):
        main.update(_mta_postfix_view.show(config_directory))
    announced = Run.of(minion).changes.get("postconf", {}).get("alias_maps")
    maps = announced["new"] if announced else main.get("alias_maps")
    tables = _mta_postfix_syntax.tables("alias_maps", _mta_postfix_syntax.expand(maps or "", main))
    files = [path for kind, path in tables if kind in (*SUFFIXES, "texthash") and path.startswith("/")]
    if not files:
        return name, []
    path = name if name in files else files[0]
    notes = [] if path == name else [f"main.cf looks aliases up in {path}, not in {name}"]
    before = [f"{kind}:{file}" for kind, file in tables[: [file for _, file in tables].index(path)]]
    if before:
        notes.append(f"Asked before {path}, and what they have counts: {', '.join(before)}")
    return path, notes


def _compiled_fault(minion: Minion, path: str, text: str) -> str | None:
    """What is wrong with the compiled form; ``None`` when nothing is, or none is needed."""
    kind = _database_type(path)
    if kind is None:
        return None
    if kind == "default":
        return "missing"
    return _mta_tables.compiled_fault(minion, path, _bytes(text), kind, "postalias")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


# -- for users, and as a participant -----------------------------------------------------------


def show(name: str = ALIASES) -> dict[str, list[str]] | None:
    """
    Return the entries of an aliases file, ``{name: [value, …]}``; ``None`` when there is no such file.

    Parameters, result and errors: ``mta_aliases.show``.
    """
    text = _mta_system.read(name)
    return None if text is None else _first_values(text)


def plan(
    minion: Minion,
    name: str = ALIASES,
    aliases: Any = None,
    seeded: Any = None,
    absent_only: Any = None,
    revert: bool = False,
    follow: bool = False,
) -> Plan:
    """
    Tell what :func:`apply` would change. Without changes it reads files, and starts no process.

    name
        Path. Default ``/etc/aliases``.

    aliases
        Names to a value, a list of values, or ``None`` (remove). Values as in aliases(5): addresses,
        ``|command arguments``, ``/file``, ``:include:/list``; quotes are added where the file needs them.
        Names are compared without regard to case. Default: none.

    seeded
        What the package writes at its first installation: assumed while neither the file nor Postfix is
        there. Default: nothing.

    absent_only
        Entries for names that neither the file nor ``aliases`` has, as ``aliases``. Default: none.

    revert
        Whether the previous value of each name is kept, and restored when nothing asks for it any more; what
        somebody has changed since stays. Default: no.

    follow
        Whether it is the file in which main.cf looks aliases up, where that is another one. Default: no.

    The plan's notes have the lines that postalias skips. Raises ``SaltInvocationError`` for a bad name or value,
    ``CommandExecutionError`` when the file cannot be read.
    """
    name, notes = looked_up(minion, name) if follow else (name, [])
    text = _present(name, seeded) or ""
    found, complaints = entries(text)
    present: dict[str, list[list[str]]] = {}
    for entry in found:
        present.setdefault(entry.name, []).append(entry.values)
    changes: dict[str, Any] = {}
    asked = _asked(minion, name, text, aliases, absent_only, revert)
    Run.of(minion).aliases = {"name": name, "record": asked.record}
    for key, values in asked.wanted.items():
        old = present.get(key, [])
        if old != ([] if values is None else [values]):
            changes[key] = {
                "old": "; ".join(", ".join(found) for found in old) if old else None,
                "new": values and ", ".join(values),
            }
    if not changes and _mta_system.exists(name) and _mta_tables.installed("postalias"):
        fault = _compiled_fault(minion, name, text)
        if fault:
            changes[f"{name} (compiled)"] = {"old": fault, "new": "up to date"}
    notes += [f"Left as it is in {name}: " + "; ".join(complaints)] if complaints else []
    if asked.theirs:
        notes.append(f"Not restored, as somebody has changed it since: {', '.join(asked.theirs)}")
    compiled = SUFFIXES.get(_database_type(name) or "") if changes else None
    # What is compiled anew only stays as it is.
    replaced = [name] * (edited(text, asked.wanted) != text) + [f"{name}{compiled}"] * bool(compiled)
    return Plan(changes, {"postfix": "reload"} if changes else {}, notes=notes, replaced=replaced)


def apply(
    minion: Minion,
    name: str = ALIASES,
    aliases: Any = None,
    seeded: Any = None,
    absent_only: Any = None,
    revert: bool = False,
    follow: bool = False,
) -> None:
    """
    Write what is wanted into the file and compile it, as part of the transaction.

    name, aliases, seeded, absent_only, revert, follow
        As for :func:`plan`.

    Raises as :func:`plan` does, and ``CommandExecutionError`` when postalias(1) fails.
    """
    reload = {"postfix": "reload"}
    name = looked_up(minion, name)[0] if follow else name
    # First, so that nobody else changes the file between here and the end.
    _mta_transaction.need(minion, reload)
    present = _present(name, seeded)
    asked = _asked(minion, name, present or "", aliases, absent_only, revert)
    text = edited(present or "", asked.wanted)
    if asked.record is not None:
        contents = json.dumps(_mta_kept.whole(minion.state, RECORD, name, asked.record), indent=1)
        _mta_transaction.write(minion, minion.state.path(RECORD), contents, mode="0600")
    if text != present or not _mta_system.exists(name):
        _mta_transaction.write(minion, name, _bytes(text), activate=reload)
    kind = _database_type(name)
    if kind is None:
        return
    if kind == "default":
        kind = _mta_tables.default_type(minion)
        if kind not in SUFFIXES:
            raise CommandExecutionError(f"Cannot compile aliases for default_database_type {kind!r}")
    source = _mta_system.status(name)
    _mta_transaction.write(
        minion,
        name + SUFFIXES[kind],
        _mta_tables.compiled(minion, _bytes(text), kind, "postalias"),
        user=source.st_uid,
        group=source.st_gid,
        mode=f"{source.st_mode & 0o7777:04o}",
        activate=reload,
    )


def remember(minion: Minion) -> None:
    """Keep what a run without changes has found out of the compiled form and of previous values."""
    _mta_tables_manage.remember(minion)
    state, found = minion.state, Run.of(minion).aliases
    name, record = found["name"], found["record"]
    if record is not None:
        # Another apply that is under way writes the record, too; the next run finds this out again.
        _mta_transaction.alone(
            minion, lambda: state.write(RECORD, _mta_kept.whole(state, RECORD, name, record)), wait=False
        )


def recorded(minion: Minion) -> list[str]:
    """Return the files of which previous values are kept."""
    return [path for path in minion.state.read(RECORD) if path.startswith("/")]


def shared(minion: Minion, name: str) -> bool:
    """
    Tell whether the entries would differ from before the first apply if nothing were asked for any more.

    So it is where somebody else has set something. Without a complete record nobody knows.
    """
    first = _mta_snapshots.content(minion, name)
    if first is None or not _mta_kept.read(minion.state, RECORD, name).complete:
        return False
    text = _mta_system.read(name) or ""
    after = edited(text, _asked(minion, name, text, {}, {}, True).wanted)
    return _first_values(after) != _first_values(first.decode("utf-8", "surrogateescape"))
