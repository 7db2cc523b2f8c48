"""
Postfix's main.cf and master.cf as text: parsed by Postfix's rules, compared, and described.

How values are compared (a false difference costs one rewrite, a false match hides a change, so only what Postfix
itself takes for the same is the same):

- text that is identical, with the blanks around it ignored, is the same, and so is a tab or a line end (in what
  was continued on a further line) with the blanks beside it, and one space;
- a parameter that holds a list by its name (``mynetworks``, ``…_restrictions``, ``…_maps`` and so on), or one
  that was asked for as a list, is compared item by item. Commas and blanks both separate items, an empty item
  is none, the order counts, and what stands in braces is one item;
- everything else, such as the text of a banner or a command, has to be identical.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from salt.exceptions import SaltInvocationError

from _mta_records import NamedTuple
from _mta_system import BLANKS, logical_lines

# An entry of master.cf: FIELDS to text, "overrides" to {parameter: value}, "arguments" to a list of words.
Entry = dict[str, Any]

BLANK_RUN = re.compile(f"[{BLANKS}]+")
UNSEEN = re.compile(r" *[\t\r\v\f\n][ \t\r\v\f\n]*")
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
PARAMETER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\Z")
ASSIGNMENT = re.compile(rf"([^={BLANKS}]*)[{BLANKS}]*=(.*)\Z", re.DOTALL)
LISTS = (
    r"(?:.*_)?(?:access_list|actions|addresses|chain_files|checks|ciphers|classes|clients|codes|database|domains|"
    r"environment|events|exceptions|extensions|features|files|hosts|interfaces|keywords|limits|macros|maps|milters|"
    r"mydestination|mynetworks|networks|options|peer_list|protocols|ranges|recipients|restrictions|servers|sites|"
    r"types|users)\Z"
)
# Fields of a master.cf entry in the file's order, master(5).
FLAGS = ("private", "unprivileged", "chroot")
FIELDS = (*FLAGS, "wakeup", "process_limit", "command")
TYPES = ("inet", "unix", "unix-dgram", "fifo", "pass")
# The programs that speak SMTP with a client; and those that only the queue manager, or master(8), talks to.
SERVERS = ("smtpd", "postscreen")
NO_SERVERS = ("smtp", "lmtp", "local", "virtual", "pipe", "error", "discard", "qmgr", "oqmgr", "pickup")
TABLES = r"(?:.*_)?(?:maps|checks|map|database|databases)\Z"


class Setting(NamedTuple):
    """A setting of main.cf; ``lines``: the indexes of its physical lines."""

    name: str
    value: str
    lines: list[int]


class Service(NamedTuple):
    """A service of master.cf, by ``name/type``; ``lines``: the indexes of its physical lines."""

    name: str
    entry: Entry
    lines: list[int]


class Broken(NamedTuple):
    """A logical line that Postfix cannot parse, and why."""

    reason: str
    text: str
    lines: list[int]


# -- reading -----------------------------------------------------------------------------------


def parse_main(text: str) -> tuple[list[Setting], list[Broken]]:
    """Split main.cf into its settings and what cannot be parsed."""
    settings, broken = [], []
    for line, indexes in logical_lines(text):
        if line[0] in BLANKS:
            continue  # nothing before it to continue: Postfix warns and ignores it
        match = ASSIGNMENT.match(line)
        if not match:
            broken.append(Broken("missing '=' after attribute name", line, indexes))
        elif not match[1]:
            broken.append(Broken("missing attribute name", line, indexes))
        else:
            settings.append(Setting(match[1], match[2].strip(BLANKS), indexes))
    return settings, broken


def _tokens(text: str, separators: str = BLANKS) -> list[str]:
    """Split ``text`` as mystrtokq() does: ``{…}`` holds together what stands in it."""
    found: list[str] = []
    token, depth = "", 0
    for character in text:
        if not depth and character in separators:
            if token:
                found.append(token)
            token = ""
            continue
        depth += (character == "{") - (character == "}" and depth > 0)
        token += character
    return [*found, token] if token else found


def parse_master(text: str) -> tuple[list[Service], list[Broken]]:
    """Split master.cf into its services and what master(8) would die of."""
    found, broken = [], []
    for line, indexes in logical_lines(text):
        if line[0] in BLANKS:
            continue
        fields = _tokens(UNSEEN.sub(" ", line))
        if len(fields) < 8:
            broken.append(Broken("bad field count", line, indexes))
            continue
        entry: Entry = dict(zip(FIELDS, fields[2:8]))
        reason = _bad_field(fields[1], entry)
        if reason:
            broken.append(Broken(reason, line, indexes))
            continue
        entry["overrides"], entry["arguments"] = _options(fields[8:])
        found.append(Service(f"{fields[0]}/{fields[1]}", entry, indexes))
    return found, broken


def _bad_field(kind: str, entry: Entry) -> str | None:
    """Why master(8) would refuse the type or a column of an entry, or ``None``."""
    if kind not in TYPES:
        return f"invalid type field {kind!r}, expected one of {', '.join(TYPES)}"
    for field in FLAGS:
        if entry[field] not in ("y", "n", "-"):
            return f"invalid {field} field {entry[field]!r}, expected y, n or -"
    if not re.fullmatch(r"-|[0-9]+\??", entry["wakeup"]):
        return f"invalid wakeup field {entry['wakeup']!r}, expected seconds, optionally followed by '?', or -"
    if not re.fullmatch(r"-|[0-9]+", entry["process_limit"]):
        return f"invalid process_limit field {entry['process_limit']!r}, expected a number or -"
    return None


def _options(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Split a daemon's arguments into its ``-o`` overrides and all others, as postconf(1) does."""
    overrides: dict[str, str] = {}
    arguments: list[str] = []
    rest = list(words)
    while rest and rest[0].startswith("-") and rest[0] != "--":
        # Letters without a value may stand before the "o" in one word.
        letters, override, setting = rest.pop(0)[1:].partition("o")
        if letters:
            arguments.append(f"-{letters}")
        if not override:
            continue
        setting = setting or (rest.pop(0) if rest else "")
        if setting.startswith("{"):
            setting = setting[1:].rpartition("}")[0]
        name, _, value = setting.partition("=")
        overrides[name.strip(BLANKS)] = value.strip(BLANKS)
    return overrides, arguments + [_braced(word) for word in rest]


def _braced(word: str) -> str:
    """A word as postconf(1) writes it: in braces, without blanks beside them, where it has blanks in it."""
    if word.startswith("{") and word.endswith("}"):
        word = word[1:-1].strip(BLANKS)
    return f"{{{word}}}" if BLANK_RUN.search(word) else word


def entry_text(service: str, entry: Entry) -> str:
    """The master.cf line of an entry, for ``postconf -M``."""
    name, _, kind = service.rpartition("/")
    words = [name, kind, *(entry[field] for field in FIELDS)]
    for parameter, value in entry["overrides"].items():
        long = BLANK_RUN.search(value) or "{" in value
        words += ["-o", f"{{ {parameter} = {value} }}" if long else f"{parameter}={value}"]
    return " ".join([*words, *entry["arguments"]])


def parts(entry: Entry) -> dict[str, Any]:
    """The fields and overrides of an entry, by their names: ``process_limit``, ``-o parameter``."""
    fields = {field: entry[field] for field in (*FIELDS, "arguments")}
    return {**fields, **{f"-o {name}": value for name, value in entry["overrides"].items()}}


def parameters(text: str) -> dict[str, str]:
    """The parameters that main.cf sets; of several settings of one name the last one counts."""
    return {name: value for name, value, _ in parse_main(text)[0]}


def services(text: str) -> dict[str, Entry]:
    """The entries of master.cf, by ``name/type``."""
    return {service: entry for service, entry, _ in parse_master(text)[0]}


def mended(text: str, broken: Iterable[Broken], obsolete: Iterable[Sequence[int]] = ()) -> str:
    """Comment out what is ``broken``; leave out the lines whose indexes are in ``obsolete``."""
    lines = text.split("\n")
    for one in broken:
        for index in one.lines:
            lines[index] = f"# {lines[index]}"
    gone = {index for indexes in obsolete for index in indexes}
    return "\n".join(line for index, line in enumerate(lines) if index not in gone)


def obsolete(entries: Sequence[Setting] | Sequence[Service], names: Collection[str]) -> list[list[int]]:
    """The lines of all but the last setting of each of ``names``, which alone counts."""
    last = {entry.name: entry.lines for entry in entries}
    return [entry.lines for entry in entries if entry.name in names and entry.lines is not last[entry.name]]


def appended(text: str, parameters: Mapping[str, str | None]) -> str:
    """main.cf with further settings at its end, which is where they count."""
    lines = [f"{name} = {value}" for name, value in parameters.items() if value is not None]
    return "\n".join([text.rstrip("\n"), *lines, ""])


def expand(value: str, parameters: Mapping[str, str], seen: tuple[str, ...] = ()) -> str:
    """
    Expand ``$name``, ``${name}``, ``$(name)``, ``${name?text}``, ``${name:text}`` and ``${name?{a}:{b}}``.

    What is not known, and a comparison, stays as it is written.
    """

    def replacement(match: re.Match[str]) -> str:
        name, operator, text = match[1] or match[4] or match[5], match[2], match[3]
        found = None if name in seen else parameters.get(name)
        if operator:
            chosen, _, other = text.partition("}:{") if text.startswith("{") else (text, "", "")
            chosen, other = chosen.lstrip("{").rstrip("}"), other.rstrip("}")
            if operator == ":":
                chosen, other = "", chosen
            return expand(chosen if found else other, parameters, seen)
        return match[0] if found is None else expand(found, parameters, (*seen, name))

    pattern = r"\$(?:\{([\w.-]+)(?:([?:])((?:[^{}]|\{[^{}]*\})*))?\}|\(([\w.-]+)\)|(\w+))"
    return re.sub(pattern, replacement, value, flags=re.ASCII)


def items_of(value: str) -> list[str]:
    """The items of a list, which commas and blanks separate; what stands in braces is one."""
    return _tokens(value, f"{BLANKS},")


def same(name: str, present: str | None, wanted: str | None, as_list: bool = False) -> bool:
    """Whether Postfix takes the two texts of a parameter for the same; how, is told at the top of this file."""
    if present is None or wanted is None:
        return present is wanted
    if wanted in (present, UNSEEN.sub(" ", present)):
        return True
    return bool(as_list or re.match(LISTS, name)) and items_of(present) == items_of(wanted)


# -- what is asked for -------------------------------------------------------------------------


def wanted_text(name: Any, value: Any) -> str | None:
    """
    The text of a parameter's value as main.cf holds it; ``None`` takes the parameter out.

    Raises ``SaltInvocationError`` for a name, or a value, that cannot be.
    """
    if not isinstance(name, str) or not PARAMETER.match(name):
        raise SaltInvocationError(
            f"{name!r} is not the name of a parameter: letters, digits, '_', '-' and '.' only"
        )
    if value is None:
        return None
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name == "compatibility_level" and isinstance(value, float):
        raise SaltInvocationError(f"{name}: put it in quotes; YAML reads the number 3.10 as 3.1")
    if isinstance(value, (list, tuple)):
        value = _joined(name, value)
    elif not isinstance(value, (str, int, float)):
        raise SaltInvocationError(f"{name}: a text, a number, true, false, a list or null, not {value!r}")
    text = str(value).strip(BLANKS)
    if CONTROL.search(text):
        raise SaltInvocationError(f"{name}: a value has no line breaks and no control characters: {text!r}")
    return text


def _joined(name: str, items: Sequence[Any]) -> str:
    if not all(isinstance(item, (str, int, float)) and not isinstance(item, bool) for item in items):
        raise SaltInvocationError(f"{name}: a list of texts is expected, not {items!r}")
    return ", ".join(str(item).strip() for item in items)


class Wanted(NamedTuple):
    """What a parameter is to be: its text, ``None`` to take it out, and whether it was asked for as a list."""

    text: str | None
    as_list: bool = False


def wanted_parameters(parameters: Any) -> dict[str, Wanted]:
    """Return what each parameter is to be. Raises ``SaltInvocationError``."""
    if not isinstance(parameters or {}, dict):
        raise SaltInvocationError(f"parameters is a dictionary, not {parameters!r}")
    return {
        name: Wanted(wanted_text(name, value), isinstance(value, (list, tuple)))
        for name, value in (parameters or {}).items()
    }


def _wanted_service(service: Any, fields: Any, present: Entry | None) -> Entry | None:
    """The whole entry that results when ``fields`` change ``present`` (``None``: it is not there)."""
    _refuse_service(service)
    if fields is None:
        return None
    _refuse_fields(service, fields)
    entry = {**new_entry(service), **(present or {})}
    for field in FIELDS:
        if fields.get(field) is not None:
            entry[field] = _column(service, field, fields[field])
    if not entry["command"]:
        raise SaltInvocationError(f"{service}: a new entry needs its command")
    kind = service.rpartition("/")[2]
    reason = _bad_field(kind, entry)
    if kind == "inet" and fields.get("command") in NO_SERVERS:
        reason = f"command: {entry['command']} takes no mail from the network; what does is {' or '.join(SERVERS)}"
    if reason:
        raise SaltInvocationError(f"{service}: {reason}")
    if fields.get("arguments") is not None:
        entry["arguments"] = _words(service, fields["arguments"])
    entry["overrides"] = _overridden(service, fields.get("overrides") or {}, entry["overrides"])
    return entry


def _refuse_service(service: Any) -> None:
    """Raise ``SaltInvocationError`` when a text is not the name/type of a service."""
    name, _, kind = str(service).rpartition("/")
    if not name or kind not in TYPES or re.search(r"[\s={}#]", name) or CONTROL.search(service):
        raise SaltInvocationError(f"{service!r} is not name/type of a service, with a type of {', '.join(TYPES)}")


def _refuse_fields(service: str, fields: Any) -> None:
    """Raise ``SaltInvocationError`` when what a service is to be does not have the shape of it."""
    if not isinstance(fields, dict):
        raise SaltInvocationError(f"{service}: a dictionary of fields, or null, not {fields!r}")
    known = (*FIELDS, "overrides", "arguments")
    unknown = sorted(str(field) for field in fields if field not in known)
    if unknown:
        raise SaltInvocationError(f"{service}: {', '.join(unknown)}: not a field; there are {', '.join(known)}")


def new_entry(service: str) -> Entry:
    """What a new entry has in fields that are not given."""
    private = "n" if service.endswith("/inet") else "-"
    return {**dict.fromkeys(FIELDS, "-"), "private": private, "command": "", "overrides": {}, "arguments": []}


def _column(service: str, field: str, value: Any) -> str:
    """A field of an entry, as master.cf holds it."""
    if isinstance(value, bool):
        value = "y" if value else "n"
    text = str(value)
    if not text or CONTROL.search(text) or BLANK_RUN.search(text):
        raise SaltInvocationError(f"{service}: {field}: one word, not {value!r}")
    return text


def _words(service: str, arguments: Any) -> list[str]:
    """The arguments of an entry, as postconf(1) writes them."""
    if isinstance(arguments, str):
        arguments = _tokens(arguments)
    if not isinstance(arguments, (list, tuple)):
        raise SaltInvocationError(f"{service}: arguments: a list or a text, not {arguments!r}")
    words = [str(word) for word in arguments]
    for word in words:
        if CONTROL.search(word) or _tokens(word) != [word]:
            raise SaltInvocationError(f"{service}: arguments: {word!r} is not one word; put it in braces")
    return [_braced(word) for word in words]


def _overridden(service: str, wanted: Any, present: Mapping[str, str]) -> dict[str, str]:
    """The ``-o`` overrides after ``wanted`` was merged into them; one that is the same keeps its text."""
    if not isinstance(wanted, dict):
        raise SaltInvocationError(f"{service}: overrides is a dictionary, not {wanted!r}")
    result = dict(present)
    for name, value in wanted.items():
        try:
            text = wanted_text(name, value)
        except SaltInvocationError as err:
            raise SaltInvocationError(f"{service}: overrides: {err}") from None
        if text is None:
            result.pop(name, None)
        elif not same(name, present.get(name), text, isinstance(value, (list, tuple))):
            result[name] = text
    return result


def wanted_services(services: Any, present: Mapping[str, Entry]) -> dict[str, Entry | None]:
    """
    Return ``{name/type: entry or None}`` of those services that differ from ``present``.

    Raises ``SaltInvocationError``.
    """
    if not isinstance(services or {}, dict):
        raise SaltInvocationError(f"services is a dictionary, not {services!r}")
    result: dict[str, Entry | None] = {}
    for service, fields in (services or {}).items():
        entry = _wanted_service(service, fields, present.get(service))
        if entry != present.get(service):
            result[service] = entry
    return result


# -- describing --------------------------------------------------------------------------------


def difference(present: Entry | None, wanted: Entry | None) -> dict[str, Any]:
    """``{"old": …, "new": …}`` of two entries, down to the fields that differ."""
    if present is None or wanted is None:
        return {"old": present, "new": wanted}
    old: dict[str, Any] = {}
    new: dict[str, Any] = {}
    for field in (*FIELDS, "arguments"):
        if present[field] != wanted[field]:
            old[field], new[field] = present[field], wanted[field]
    for name in sorted({*present["overrides"], *wanted["overrides"]}):
        before, after = present["overrides"].get(name), wanted["overrides"].get(name)
        if before != after:
            old[f"-o {name}"], new[f"-o {name}"] = before, after
    return {"old": old, "new": new}


def described(name: str, text: str) -> bool | int | str | list[str]:
    """A value of main.cf as one writes it in pillar."""
    text = UNSEEN.sub(" ", text)
    if text in ("yes", "no"):
        return text == "yes"
    if re.fullmatch(r"0|[1-9][0-9]{0,15}", text):
        return int(text)
    items = items_of(text)
    return items if re.match(LISTS, name) and len(items) > 1 else text


def described_service(service: str, entry: Entry, known: Entry | None) -> dict[str, Any]:
    """The fields in which a master.cf entry differs from ``known``, or from a new one where that is ``None``."""
    base = known or {**new_entry(service), "command": None}
    fields: dict[str, Any] = {}
    for field in FIELDS:
        if entry[field] != base[field]:
            number = int(entry[field]) if entry[field].isdigit() else entry[field]
            fields[field] = {"y": True, "n": False}.get(entry[field], number) if field != "command" else number
    overrides: dict[str, Any] = {
        name: described(name, value)
        for name, value in entry["overrides"].items()
        if base["overrides"].get(name) != value
    }
    overrides.update({name: None for name in base["overrides"] if name not in entry["overrides"]})
    if overrides:
        fields["overrides"] = overrides
    if entry["arguments"] != base["arguments"]:
        fields["arguments"] = " ".join(entry["arguments"]) or []
    return fields


def assigned(main: str, names: Collection[str]) -> list[list[int]]:
    """The lines of main.cf that set one of ``names``."""
    return [setting.lines for setting in parse_main(main)[0] if setting.name in names]


def tables(key: str, value: str) -> list[tuple[str, str]]:
    """``[(type, path)]`` of the lookup tables that a value names."""
    found = []
    previous = ""
    for item in items_of(value):
        table = re.match(TABLES, key) or re.match(r"check_\w+_access\Z", previous)
        previous = item
        match = re.match(r"(?:proxy:)?([a-z][a-z0-9]*):(?=[^:\s])(.*)", item)
        if table and match and not item.startswith("${"):
            found.append((match[1], match[2]))
    return found
