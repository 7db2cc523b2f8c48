"""Sources of lookup tables by the rules of postmap(1): parse, edit, normalise what is asked for, compare."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Callable, Optional

from salt.exceptions import SaltInvocationError

import _mta_system
from _mta_system import BLANKS, logical_lines

Pair = tuple[str, str]
# What gives the text of a secret, from its value, its key, and what to call it in a message.
Resolve = Callable[[Any, str, str], str]
Kind = Optional[str]  # a table type; None: a default that is not known yet, read as an indexed one

# What postmap(1) compiles, and the file that it makes of a source.
SUFFIXES = {"hash": ".db", "btree": ".db", "lmdb": ".lmdb", "cdb": ".cdb"}
# Read as they are: their order counts.
RULES = ("pcre", "regexp", "cidr")
# Their entries are in main.cf itself.
IN_PLACE = ("inline", "static")
# The file holds settings of a client, ``name = value``.
SETTINGS = ("ldap", "mysql", "pgsql", "sqlite", "memcache", "mongodb")
TYPES = (*SUFFIXES, "texthash", *RULES, *SETTINGS)

PASSWORDS = ("password", "bind_pw")
SETTING = "[A-Za-z0-9_]+"
LOGIN_IN_URI = r"://[^/@\s]*:[^/@\s]*@"
SHOWN = 50
CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
HALF = re.compile("[\ud800-\udfff]")
KEY = rf'(?s)((?:\\.|"(?:\\.|[^"\\])*"|[^\\"{BLANKS}])+)(?:[{BLANKS}]+(.*))?\Z'
PATTERN = rf"(?s)(!?([^A-Za-z0-9{BLANKS}\\]).*?(?<!\\)(?:\\\\)*\2[A-Za-z]*)(?:[{BLANKS}]+(.*))?\Z"


# -- reading and editing -----------------------------------------------------------------------


def pair(kind: Kind, line: str) -> Pair:
    """Split a logical line into key and value, as the table types do; a rule without a result has the value ""."""
    line = line.strip(BLANKS)
    if kind in SETTINGS:
        name, _, value = line.partition("=")
        return name.strip(BLANKS), value.strip(BLANKS)
    if kind in ("pcre", "regexp"):
        match = re.match(PATTERN, line)
        if match:
            return match[1], (match[3] or "").strip(BLANKS)
    elif kind != "cidr":
        match = re.match(KEY, line)
        if match:
            return match[1], (match[2] or "").strip(BLANKS)
        return line, ""
    if re.match(r"(?:if|endif)\b", line, re.IGNORECASE):
        return line, ""
    key, *rest = line.split(None, 1)
    return key, "".join(rest).strip(BLANKS)


def source(kind: str, path: str) -> str:
    """Return the text that a table's entries are in, as ``TYPE:PATH`` names it; empty where no text has them."""
    if kind in IN_PLACE:
        return path
    return _mta_system.text_of(path) if kind in (*SUFFIXES, "texthash", *RULES) else ""


def looked_up(table: str, keys: Sequence[str], timeout: float) -> tuple[dict[str, str], bool]:
    """
    Return what postmap(1) finds in a table, by key, and whether it complains of something.

    table
        As a parameter names it, ``type:name``.

    timeout
        Seconds that it may take.

    Raises ``CommandExecutionError`` when it cannot be asked.
    """
    argv = ["postmap", "-q", "-", table]
    done = _mta_system.run(argv, stdin="\n".join(keys), timeout=timeout, check=False)
    return dict(line.split("\t", 1) for line in done.text.splitlines() if "\t" in line), bool(done.errors)


def parse(kind: Kind, text: str) -> list[tuple[str, str, list[int]]]:
    """Return ``[(key, value, line indexes)]`` of a table."""
    return [(*pair(kind, line), indexes) for line, indexes in logical_lines(text)]


def _line(kind: Kind, key: str, value: str) -> str:
    if kind in SETTINGS:
        return f"{key} = {value}"
    return f"{key} {value}" if value else key


def edited(kind: Kind, text: str, wanted: Sequence[Pair]) -> str:
    """Return the text of a table with ``wanted``, pairs in order, as its entries, and comments where they were."""
    lines = text.split("\n")
    parsed = parse(kind, text)
    end = "\r" if lines[0].endswith("\r") else ""
    places, added = _places(kind, [(key, value) for key, value, _ in parsed], wanted)
    gone: set[int] = set()
    for (key, value, indexes), new in zip(parsed, places):
        if new != [(key, value)]:
            lines[indexes[0]] = "\n".join(_line(kind, *one) + end for one in new)
            gone.update(indexes[1:] if new else indexes)
    kept = [line for index, line in enumerate(lines) if index not in gone]
    if len(lines) - 1 in gone:
        kept.append("")
    if added:
        if kept[-1]:
            kept.append("")
        kept[-1:] = [*(_line(kind, *one) + end for one in added), ""]
    return "\n".join(kept)


def _places(kind: Kind, present: Sequence[Pair], wanted: Sequence[Pair]) -> tuple[list[list[Pair]], list[Pair]]:
    """Tell what stands in the place of each present entry, a list for each, and what comes at the end."""
    if kind in RULES:
        return _places_in_order(present, wanted)
    missing = dict(wanted)
    places = [[(key, missing.pop(key))] if key in missing else [] for key, _ in present]
    return places, list(missing.items())


def _places_in_order(present: Sequence[Pair], wanted: Sequence[Pair]) -> tuple[list[list[Pair]], list[Pair]]:
    places, added = [[one] for one in present], []
    matcher = difflib.SequenceMatcher(None, present, wanted, autojunk=False)
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if tag == "equal":
            continue
        places[i1:i2] = [[] for _ in range(i1, i2)]
        if i1 < len(places):
            # Before an entry that stays, or in place of the first that goes.
            places[i1] = [*wanted[j1:j2], *places[i1]]
        else:
            added = list(wanted[j1:j2])
    return places, added


# -- what is asked for -------------------------------------------------------------------------


def _only_text(value: Any, key: str, where: str) -> str:
    """A secret as it is, for who only asks whether a table can hold it; raises for what is no text."""
    if not isinstance(value, str):
        raise SaltInvocationError(f"{where}: the value is not a text; put it in quotes")
    return value


def wanted(
    kind: Kind, entries: Any, secret: bool = False, resolve: Resolve = _only_text
) -> tuple[list[Pair], set[str]]:
    """
    Normalise entries: ``[(key, value)]``, and the set of the keys whose values are secret.

    entries
        As for the state ``mta_map.managed``.

    resolve
        What gives the text of a secret, of an sdb URI say. Default: the secret is a text.

    Raises ``SaltInvocationError`` for what a table of this type cannot hold; a secret is never part of the
    message, and in a table with secrets neither is a line that is no key and value: it may be one.
    """
    items = _items(kind, entries)
    private = secret or kind in SETTINGS or any(_is_marked(value) for _, value in items)
    pairs: list[Pair] = []
    hidden: set[str] = set()
    seen: set[str] = set()
    for number, (given, value) in enumerate(items):
        where = _label(private, number, given, value)
        if isinstance(given, bool) or not isinstance(given, (str, int)):
            raise SaltInvocationError(f"{where}: not a key; put it in quotes")
        key = str(given)
        if _is_marked(value):
            hidden.add(key)
            value = resolve(value["secret"], key, f"{where}:secret")
        elif secret or is_secret(kind, key, value):
            hidden.add(key)
            value = resolve(value, key, where)
        text = _text(kind, value, where)
        reason = _unfit(kind, key, text) or _repeated(kind, key, seen)
        if reason:
            raise SaltInvocationError(f"{where}: {reason}")
        pairs.append((key, text))
    return pairs, hidden


def _label(private: bool, number: int, key: Any, value: Any) -> str:
    """What a message calls an entry."""
    if private and (value in (None, "") or re.search(rf"[{BLANKS}=]", str(key))):
        return f"entry {number + 1} (not shown, as it may hold a secret)"
    return str(key)


def _items(kind: Kind, entries: Any) -> list[tuple[Any, Any]]:
    """The pairs of key and value of entries as pillar has them."""
    if entries is None:
        return []
    if isinstance(entries, Mapping):
        return list(entries.items())
    if not isinstance(entries, (list, tuple)):
        raise SaltInvocationError("entries are a mapping or a list")
    items: list[tuple[Any, Any]] = []
    for number, item in enumerate(entries):
        if isinstance(item, Mapping) and len(item) == 1:
            items += item.items()
        elif isinstance(item, str):
            items.append(pair(kind, item))
        else:
            raise SaltInvocationError(f"{number}: one line of the table, or a mapping of one key to its value")
    return items


def _is_marked(value: Any) -> bool:
    """Whether an entry's value is marked as a secret: ``{secret: TEXT}``."""
    return isinstance(value, Mapping) and set(value) == {"secret"}


def is_secret(kind: Kind, key: str, value: Any) -> bool:
    """Whether a setting is a password by its nature, or a URI with one in it."""
    return (
        kind in SETTINGS
        and value != ""
        and (key in PASSWORDS or (isinstance(value, str) and bool(re.search(LOGIN_IN_URI, value))))
    )


def has_secrets(kind: Kind, entries: Any) -> bool:
    """Whether one of the entries is a secret, as far as they have the shape of entries."""
    with contextlib.suppress(SaltInvocationError):
        items = _items(kind, entries)
        if kind in SETTINGS and any(is_secret(kind, key, value) for key, value in items):
            return True
        # A table may have very many texts.
        return any(not isinstance(value, str) and _is_marked(value) for _, value in items)
    return False


def _text(kind: Kind, value: Any, where: str) -> str:
    """The text of a value; several destinations are a list. Raises ``SaltInvocationError`` when it has none."""
    if kind in SETTINGS and isinstance(value, bool):
        return "yes" if value else "no"
    parts = value if isinstance(value, (list, tuple)) and kind not in RULES else [value]
    if any(isinstance(part, bool) or not isinstance(part, (str, int)) for part in parts):
        raise SaltInvocationError(f"{where}: the value is not a text; put it in quotes")
    return ", ".join(str(part) for part in parts)


def _unfit(kind: Kind, key: str, value: str) -> str | None:
    """Why a table of the type cannot hold an entry; ``None`` when it can."""
    if CONTROL.search(key + value):
        return "a line break or a control character"
    if HALF.search(key + value):
        # The error of encoding one would have the whole table in its arguments.
        return "half of a character, which UTF-8 does not have"
    if kind in SETTINGS and not re.fullmatch(SETTING, key):
        return "not a setting, which is a name, = and a value"
    if kind not in RULES and kind not in SETTINGS:
        if not value:
            return "no value"
        if key.endswith(":"):
            return "a key that ends with a colon; postmap takes that for a file of aliases"
    if parse(kind, f"{_line(kind, key, value)}\n") != [(key, value, [0])]:
        return "such a key or value cannot be written to a table of this type"
    return None


def _repeated(kind: Kind, key: str, seen: set[str]) -> str | None:
    """Why a key that has been ``seen`` cannot be there once more; it has been seen from here on."""
    folded = key if kind in SETTINGS else key.casefold()
    if folded in seen and kind not in RULES:
        return "it is there twice; upper and lower case are the same"
    seen.add(folded)
    return None


def asked_digest(kind: Kind, entries: Any, secret: bool) -> str | None:
    """Digest of what is asked for; ``None`` when that is not all in pillar, or no table can hold it."""
    try:
        text = json.dumps([kind, entries, secret], default=str)
    except TypeError:
        return None
    return None if "sdb://" in text else hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


def wrong_mode(mode: Any, secrets: bool) -> str | None:
    """Why a table cannot have the mode, in words that follow ``mode``; ``None`` when it can."""
    if mode is None:
        return None
    if not isinstance(mode, str) or not re.fullmatch("[0-7]{3,4}", mode):
        return f'{mode!r} is not an octal text, such as "0640"'
    if secrets and int(mode, 8) & 0o007:
        return f'"{mode}" lets others at what is secret in it; allowed: "0600", or "0640" for the daemons\' group'
    return None


# -- comparing ---------------------------------------------------------------------------------


def difference(kind: Kind, old: Sequence[Pair], new: Sequence[Pair], hidden: set[str]) -> dict[str, Any]:
    """
    Return the changes between two lists of pairs, ``{key: {"old": …, "new": …}}``.

    hidden
        Keys whose values are not shown; ``*``: all.
    """
    before, after = _grouped(old), _grouped(new)
    changes: dict[str, Any] = {}
    for key in {**before, **after}:
        if before.get(key) != after.get(key):
            _add_change(changes, kind, key, (before.get(key), after.get(key)), hidden)
    if not changes and old != new and kind in RULES:
        changes["order"] = {"old": "as it was", "new": "as given"}
    if len(changes) > SHOWN:
        more = len(changes) - SHOWN
        changes = dict(list(changes.items())[:SHOWN])
        changes[f"{more} more entries"] = {"old": "as they were", "new": "as given"}
    return changes


def _grouped(pairs: Sequence[Pair]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return found


def _add_change(
    changes: dict[str, Any],
    kind: Kind,
    key: str,
    values: tuple[list[str] | None, list[str] | None],
    hidden: set[str],
) -> None:
    texts = [None if there is None else "; ".join(there) for there in values]
    bare = not any(texts) or (kind in SETTINGS and not re.fullmatch(SETTING, key))
    if bare and (hidden or kind in SETTINGS):
        # It is no key and value: what it is instead may be the secret.
        key = "a line without a value"
        seen = changes.get(key, {"old": None, "new": None})
        texts = [there if text is None else "(hidden)" for text, there in zip(texts, seen.values())]
    elif key in hidden or "*" in hidden:
        texts = [text and word for text, word in zip(texts, ("(hidden)", "(hidden, changed)"))]
    changes[key] = dict(zip(("old", "new"), texts))
