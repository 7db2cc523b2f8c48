"""TODO subject (mta_aliases)."""

import functools
import grp
import os
import pwd
import re

from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_postfix_view
import _mta_tables
import _mta_transaction
from _mta_minion import Minion
from _mta_plan import Plan

POSTALIAS = "/usr/sbin/postalias"
ALIASES = "/etc/aliases"
SUFFIXES = {"hash": ".db", "btree": ".db", "lmdb": ".lmdb", "cdb": ".cdb"}
# isspace(3) in the C locale, as Postfix uses it: less than what Python takes for whitespace.
BLANKS = " \t\n\v\f\r"
BLANK, COMMA, COLON = re.compile(f"[{BLANKS}]"), re.compile(","), re.compile(":")
PLAIN_NAME = re.compile(r"[^\s\"#:@()<>\[\],;\\]+")
PLAIN_PATH = r"[A-Za-z0-9_./:+=%@|-]+"


def _split(text, separator):
    """Split at a character class, but not within quotes, comments in parentheses, or angle brackets."""
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


def _unquoted(text):
    """The content of a text that is one quoted string; ``None`` for any other."""
    match = re.fullmatch(r'"((?:[^"\\]|\\.)*)"', text, re.DOTALL)
    return match and re.sub(r"\\(.)", r"\1", match[1], flags=re.DOTALL)


def _quoted(text):
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _is_special(value):
    """A command, a file or an :include: list, as opposed to an address."""
    return value.startswith(("|", "/", ":include:"))


def _name(text):
    """The name of an entry as Postfix compares it: without quotes, in lower case."""
    inner = _unquoted(text)
    return (text if inner is None else inner).lower()


def _values(text):
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


def _written(value):
    """A value as aliases(5) needs it: commands and paths with anything unusual in them in quotes."""
    if _is_special(value) and not re.fullmatch(PLAIN_PATH, value):
        return _quoted(value)
    return value


def _entry(name, values):
    written = name if PLAIN_NAME.fullmatch(name) else _quoted(name)
    return f"{written}: {', '.join(_written(value) for value in values)}"


def _entries(text):
    """
    Return (entries, complaints): entries as (name, values, numbers of their lines, from 0), in order.

    As in Postfix, a line that begins with whitespace continues the last one, and empty lines and comments
    (whose first character other than whitespace is ``#``) are nothing at all, also between a line and its
    continuation. What postalias(1) skips with a warning is not an entry, but a complaint.
    """
    logical = []
    for number, line in enumerate(text.split("\n")):
        stripped = line.strip(BLANKS)
        if not stripped or stripped.startswith("#"):
            continue
        if line[0] in BLANKS and logical:
            logical[-1].append((number, line))
        else:
            logical.append([(number, line)])
    entries, complaints = [], []
    for lines in logical:
        number, first = lines[0]
        name, colon, value = _cut(" ".join(line.strip(BLANKS) for _, line in lines))
        values = _values(value)
        if first[0] in BLANKS:
            complaints.append(f"line {number + 1} begins with whitespace, but continues nothing")
        elif not colon or not name:
            complaints.append(f"line {number + 1} is not 'name: value'")
        elif "@" in name and _unquoted(name) is None:
            complaints.append(f"line {number + 1}: a name must be local, without a domain")
        else:
            if not values:
                complaints.append(f"line {number + 1}: {name} has no value")
            entries.append((_name(name), values, [index for index, _ in lines]))
    return entries, complaints


def _cut(line):
    """Cut at the first colon outside quotes."""
    name, *others = _split(line, COLON)
    return name.strip(BLANKS), bool(others), line[len(name) + 1 :]


def _edited(text, wanted):
    """Return the text with the entries of ``wanted`` (name to list of values, or ``None``: out) as wanted."""
    lines = text.split("\n")
    missing = dict(wanted)
    gone = set()
    for name, values, numbers in _entries(text)[0]:
        if name not in wanted:
            continue
        new = missing.pop(name, None)
        if new is None:
            gone.update(numbers)
            continue
        if values != new:
            end = "\r" if lines[numbers[0]].endswith("\r") else ""
            lines[numbers[0]] = _entry(name, new) + end
            gone.update(numbers[1:])
    kept = [line for number, line in enumerate(lines) if number not in gone]
    if len(lines) - 1 in gone:
        kept.append("")
    new = [(name, values) for name, values in missing.items() if values is not None]
    if new:
        end = "\r" if lines[0].endswith("\r") else ""
        if kept[-1]:
            kept[-1] += end
            kept.append("")
        kept[-1:] = [*(_entry(name, values) + end for name, values in new), ""]
    return "\n".join(kept)


def _wanted(aliases):
    """Check and normalise what was asked for: names to lists of values, or ``None``."""
    if not isinstance(aliases, dict):
        raise SaltInvocationError(f"aliases must be a dictionary of names and values, not {aliases!r}")
    wanted = {}
    for name, value in aliases.items():
        name = str(name)
        key = _name(name.strip())
        if not key or not name.isprintable():
            raise SaltInvocationError(f"aliases: {name!r} is not a name")
        if key in wanted:
            raise SaltInvocationError(f"aliases: {name!r} is there twice; upper and lower case are the same")
        if value is None:
            wanted[key] = None
            continue
        wanted[key] = []
        for item in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(item, bool) or not isinstance(item, (str, int)) or not str(item).isprintable():
                raise SaltInvocationError(f"aliases:{name}: {item!r} is no address, command or path")
            text = str(item).strip()
            found = [text] if _is_special(text) else _values(text)
            # Written before another value, it has to be read as itself: nothing may be left open.
            if _entries(_entry(key, [*found, "x"]))[0] != [(key, [*found, "x"], [0])]:
                raise SaltInvocationError(f"aliases:{name}: {item!r} cannot be written to an aliases file")
            wanted[key] += found
        if not wanted[key]:
            raise SaltInvocationError(f"aliases:{name}: no value; null removes the entry")
    return wanted


def _read(path):
    """The text of a file, every byte of it recoverable; ``None`` when it is absent."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as handle:
            return handle.read()
    except FileNotFoundError:
        return None
    except OSError as err:
        raise CommandExecutionError(f"Cannot read {path}: {err.strerror}") from err


def _database_type(path):
    """
    The type in which main.cf has this file compiled; ``None`` when it does not use it, or does not compile
    it.

    Where main.cf does not say, it is that of the compiled file that exists, else ``default``.
    """
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
    kind = main.get("default_database_type")
    if kind in SUFFIXES:
        return kind
    existing = (kind for kind, suffix in SUFFIXES.items() if os.path.exists(path + suffix))
    return next(existing, "default")


def _compiled_state(minion: Minion, path, text):
    """What is wrong with the compiled form; ``None`` when nothing is, or none is needed."""
    kind = _database_type(path)
    if kind is None:
        return None
    if kind == "default":
        return "missing"
    return _mta_tables.is_current(minion, path, _bytes(text), kind, "postalias")


def _bytes(text):
    return text.encode("utf-8", "surrogateescape")


def _or_none(look_up, number):
    """The name of a user or group; ``None`` when the number has none."""
    try:
        return look_up(number)[0]
    except KeyError:
        return None


def _present(name, seeded):
    """The file's text; while Postfix is not installed and there is none, what its package will write."""
    text = _read(name)
    if text is None and not os.path.exists(POSTALIAS):
        entries = [_entry(key, values) for key, values in _wanted(seeded or {}).items() if values]
        return "".join(f"{entry}\n" for entry in entries)
    return text


def show(name=ALIASES):
    """
    Return the entries of an aliases file, ``{name: [value, …]}``; ``None`` when there is no such file.

    name
        Path. Default ``/etc/aliases``.

    Of an entry that is there more than once the first counts, as for postalias(1). Raises
    ``CommandExecutionError`` when the file cannot be read.
    """
    text = _read(name)
    if text is None:
        return None
    found = {}
    for key, values, _ in _entries(text)[0]:
        found.setdefault(key, values)
    return found


def _asked(text, aliases, absent_only):
    """What is wanted of the file: ``aliases``, and those of ``absent_only`` that neither it nor they have."""
    wanted, present = _wanted(aliases or {}), {name for name, *_ in _entries(text)[0]}
    lacking = {name: values for name, values in _wanted(absent_only or {}).items() if name not in present}
    return {**{name: values for name, values in lacking.items() if name not in wanted}, **wanted}


def plan(minion: Minion, name=ALIASES, aliases=None, seeded=None, absent_only=None):
    """
    Tell what :func:`apply` would change. It reads files and starts no process.

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

    Returns ``{"changes": …, "activate": …, "comment": lines that postalias skips, or None}``. Raises
    ``SaltInvocationError`` for a bad name or value, ``CommandExecutionError`` when the file cannot be read.
    """
    text = _present(name, seeded) or ""
    wanted = _asked(text, aliases, absent_only)
    entries, complaints = _entries(text)
    present = {}
    for key, values, _ in entries:
        present.setdefault(key, []).append(values)
    changes = {}
    for key, values in wanted.items():
        old = present.get(key, [])
        if old != ([] if values is None else [values]):
            changes[key] = {
                "old": "; ".join(", ".join(found) for found in old) if old else None,
                "new": values and ", ".join(values),
            }
    if not changes and os.path.exists(name) and os.path.exists(POSTALIAS):
        state = _compiled_state(minion, name, text)
        if state:
            changes[f"{name} (compiled)"] = {"old": state, "new": "up to date"}
    notes = [f"Left as it is in {name}: " + "; ".join(complaints)] if complaints else []
    return Plan(changes, {"postfix": "reload"} if changes else {}, notes=notes)


def apply(minion: Minion, name=ALIASES, aliases=None, seeded=None, absent_only=None):
    """
    Write what is wanted into the file and compile it, as part of the transaction.

    name, aliases, seeded, absent_only
        As for :func:`plan`.

    Raises as :func:`plan` does, and ``CommandExecutionError`` when postalias(1) fails.
    """
    # First, so that nobody else changes the file between here and the end.
    _mta_transaction.need(minion, {"postfix": "reload"})
    present = _present(name, seeded)
    text = _edited(present or "", _asked(present or "", aliases, absent_only))
    write = functools.partial(_mta_transaction.write, minion)
    reload = {"postfix": "reload"}
    if text != present or not os.path.exists(name):
        write(name, _bytes(text), activate=reload)
    kind = _database_type(name)
    if kind is None:
        return
    if kind == "default":
        kind = _mta_tables.default_type(minion)
        if kind not in SUFFIXES:
            raise CommandExecutionError(f"Cannot compile aliases for default_database_type {kind!r}")
    source = os.stat(name)
    write(
        name + SUFFIXES[kind],
        _mta_tables.compiled(minion, _bytes(text), kind, "postalias"),
        user=_or_none(pwd.getpwuid, source.st_uid),
        group=_or_none(grp.getgrgid, source.st_gid),
        mode=f"{source.st_mode & 0o7777:04o}",
        activate=reload,
    )
