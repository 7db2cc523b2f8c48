"""
The types of the pillar's values: a checker for each name that ``_mta_pillar_schema`` uses.

A checker takes the path of a value, the value, and what the schema says more; it yields problems, each one line
that begins with the path. No secret is part of one. What a section holds is never shown either: it may have a
secret that is one level too high.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Callable

import _mta_pillar_schema
import _mta_system
from _mta_pillar_schema import WORDS, Schema, Value

Problems = Iterator[str]

_YAML_BOOLEANS = "YAML reads yes, no, on and off as booleans"
_SET_NAME = (
    "set the pillar key postfix_mta:hostname to the full name, such as mail.example.com, or name it so: the"
    ' line "127.0.1.1 mail.example.com mail" in /etc/hosts and the command "hostnamectl set-hostname mail"'
)


def problems(path: str, value: Any, rule: Value) -> Problems:
    """Yield what is wrong with a value that is there."""
    yield from CHECKERS[rule.type](path, value, **rule.options)


# -- plain values ------------------------------------------------------------------------------


def _boolean(path: str, value: Any, hidden: bool = False) -> Problems:
    if not isinstance(value, bool):
        hint = ""
        if isinstance(value, str) and value.lower() in ("yes", "no", "true", "false", "on", "off"):
            hint = " without quotes"
        what = "the value (hidden)" if hidden else shown(value)
        yield f"{path}: {what} is not a boolean; allowed: {WORDS['boolean']}{hint}"


def _integer(path: str, value: Any, low: int, high: int, unit: str = "") -> Problems:
    if isinstance(value, bool) or not isinstance(value, int):
        hint = " without quotes" if isinstance(value, str) and value.isdigit() else ""
        yield f"{path}: {shown(value)} is not a whole number; allowed: {low} to {high}{unit}{hint}"
    elif not low <= value <= high:
        yield f"{path}: {shown(value)} is out of range; allowed: {low} to {high}{unit}"


def _choice(path: str, value: Any, allowed: tuple[str, ...]) -> Problems:
    if isinstance(value, str) and value in allowed:
        return
    if isinstance(value, bool):
        yield f"{path}: {shown(value)} is not allowed ({_YAML_BOOLEANS}); allowed: {listed(allowed)}"
    else:
        close = nearest(value, allowed)
        hint = f"; did you mean {close}?" if close else ""
        yield f"{path}: {shown(value)} is not known; allowed: {listed(allowed)}{hint}"


def _text(
    path: str,
    value: Any,
    what: str = "a text",
    empty: bool = False,
    pattern: str | None = None,
    longest: int = 1024,
    hidden: bool = False,
) -> Problems:
    """A text in one line, with nothing in it that cannot be seen; ``hidden``: it is not shown."""
    seen = "the value (hidden)" if hidden else shown(value)
    if not isinstance(value, str):
        misread = _misread(value)
        hint = f", in quotes ({misread})" if misread else ", in quotes" if isinstance(value, (int, float)) else ""
        yield f"{path}: {seen} is not a text; allowed: {what}{hint}"
        return
    wrong = _invisible(value)
    if wrong:
        yield f"{path}: {seen} contains {wrong}; allowed: {what} in one line"
    elif not value.strip() and not empty:
        yield f"{path}: it is empty; allowed: {what}"
    elif len(value) > longest:
        yield f"{path}: {seen} is longer than {longest} characters"
    elif pattern and not re.fullmatch(pattern, value):
        yield f"{path}: {seen} is not valid; allowed: {what}"


def _secret(path: str, value: Any, shortest: int = 1, blanks: bool = True) -> Problems:
    """A text whose value is never shown; ``blanks``: whether it may begin or end with a blank."""
    if not isinstance(value, str):
        yield f"{path}: the value (hidden) is {kind_of(value)}; allowed: a text, in quotes"
    elif value.startswith("-----BEGIN PGP MESSAGE-----"):
        hint = "its pillar file begins with #!yaml|gpg, and who renders that has the key"
        yield f"{path}: the value (hidden) is still encrypted; allowed: what the gpg renderer decrypts ({hint})"
    elif value.endswith(("\n", "\r")) and not _has_controls(value.rstrip("\r\n")):
        hint = "YAML keeps it after |, and not after |-"
        yield f"{path}: the value (hidden) ends with a line break; allowed: one line ({hint})"
    elif _has_controls(value):
        yield f"{path}: the value (hidden) contains a line break or a control character; allowed: one line"
    elif any(0xD800 <= ord(character) <= 0xDFFF for character in value):
        yield f"{path}: the value (hidden) contains half of a character, which UTF-8 does not have"
    elif not shortest <= len(value.encode(errors="replace")) <= 1023:
        yield f"{path}: the value (hidden) is too short or too long; allowed: {shortest} to 1023 bytes"
    elif not blanks and value != value.strip():
        yield f"{path}: the value (hidden) begins or ends with a blank, which its table cannot hold"


def _has_controls(text: str) -> bool:
    return any(ord(character) < 32 or ord(character) == 127 for character in text)


def _path(path: str, value: Any) -> Problems:
    what = WORDS["path"]
    wrong = list(_text(path, value, what=what, pattern=r"(/[\w.+@=:-]+)+"))
    yield from wrong
    if not wrong and (not value.isascii() or {".", ".."} & set(value.split("/"))):
        yield f"{path}: {shown(value)} is not valid; allowed: {what}"


def _pem(path: str, value: Any, kind: str) -> Problems:
    """PEM text, or where it is. The text is never shown."""
    what = f"an absolute path, an sdb:// URI, or the text of a PEM {kind}"
    if not isinstance(value, str):
        yield f"{path}: the value (hidden) is {kind_of(value)}; allowed: {what}"
    elif value.startswith("/") and value.isprintable():
        yield from _path(path, value)
    elif not value.startswith("sdb://") and not re.search(rf"-----BEGIN [A-Z ]*{kind.upper()}-----", value):
        yield f"{path}: the value (hidden) is neither; allowed: {what}"


def _mode(path: str, value: Any, pattern: str, example: str) -> Problems:
    """The mode of a file or directory, as text: what numbers YAML makes of 0640 depends on who reads it."""
    if isinstance(value, int) and not isinstance(value, bool):
        # Salt's YAML reads 0750 as 750, others as octal.
        octal = str(value) if re.fullmatch("[0-7]{3}", str(value)) else f"{value:o}"
        meant = octal.zfill(4) if re.fullmatch("[0-7]{3}", octal) else example
        yield f'{path}: {shown(value)} is not a text; allowed: a mode in quotes, such as "{meant}"'
    else:
        yield from _text(path, value, what=f'a mode such as "{example}", in quotes', pattern=pattern)


def _socket_mode(path: str, value: Any, **options: Any) -> Problems:
    """The mode of the socket directory."""
    wrong = list(_mode(path, value, **options))
    yield from wrong
    if wrong:
        return
    for broken, why in (
        (value[-3] != "7", "keeps saslauthd out of its own directory; allowed: 7 for the owner"),
        (
            int(value[-2]) & 2 or int(value[-1]) & 2,
            "lets others put a socket of their own there; allowed: no write bit but the owner's",
        ),
        (not int(value[-2]) & 1, "keeps Postfix, a member of the group, out; allowed: 1 or 5 for the group"),
    ):
        if broken:
            yield f'{path}: {shown(value)} {why}, as in "0710"'


# -- sections, mappings and lists --------------------------------------------------------------


def section(path: str, value: Any, schema: Schema) -> Problems:
    """A mapping with known keys."""
    if value is None:
        return
    if not isinstance(value, Mapping):
        yield f"{path}: {kind_of(value)} is not a section; allowed: a mapping with {listed(schema)}"
        return
    for key, item in value.items():
        rule = schema.get(key) if isinstance(key, str) else None
        if rule is None:
            yield f"{path}:{_unknown(key)}: unknown key; {_meant(path, key, schema)}"
        elif not isinstance(rule, Value):
            yield from section(f"{path}:{key}", item, rule)
        elif item is not None:
            yield from problems(f"{path}:{key}", item, rule)


def _entries(path: str, value: Any, name: str, pattern: str, of: Value) -> Problems:
    """A mapping with free names, each entry of one type; null takes an entry out."""
    if not isinstance(value, Mapping):
        # A list or a text in place of tables may have their secrets.
        yield f"{path}: {kind_of(value)} is not a mapping; allowed: a mapping of {name} to value"
        return
    for key, item in value.items():
        where = f"{path}:{label(key)}"
        if not isinstance(key, str):
            misread = _misread(key)
            yield f"{where}: {kind_of(key)} is not a name; allowed: {name}, in quotes{misread and f' ({misread})'}"
        elif not re.fullmatch(pattern, key) or not key.isprintable():
            yield f"{where}: not a valid name; allowed: {name}"
        elif item is not None:
            yield from problems(where, item, of)


def _list(path: str, value: Any, of: Value, longest: int | None = None, shortest: int = 0) -> Problems:
    """A list without duplicates, each item of one type."""
    if not isinstance(value, (list, tuple)):
        yield f"{path}: {shown(value)} is not a list; allowed: a list, such as [a, b]"
        return
    if longest is not None and len(value) > longest:
        yield f"{path}: {len(value)} items; allowed: {longest}"
    if len(value) < shortest:
        yield f"{path}: the list is empty; allowed: {shortest} or more items"
    seen: list[Any] = []
    for number, item in enumerate(value):
        yield from problems(f"{path}:{number}", item, of)
        if item in seen:
            hint = "pillar_merge_lists joins the lists of several pillar files"
            yield f"{path}:{number}: {shown(item)} is there twice ({hint})"
        seen.append(item)


# -- names and addresses -----------------------------------------------------------------------


def _hostname(path: str, value: Any) -> Problems:
    if not isinstance(value, str):
        yield from _text(path, value, what=WORDS["hostname"])
        return
    wrong = wrong_hostname(value)
    if wrong:
        yield f"{path}: {shown(value)} {wrong}; {_SET_NAME}"


def own_name(path: str, name: Any) -> Problems:
    """Yield what is wrong with the name that the host itself has."""
    wrong = wrong_hostname(name)
    if wrong:
        yield f"{path}: not given, and the host's own name {shown(name)} {wrong}; {_SET_NAME}"


def _recipient(path: str, value: Any) -> Problems:
    what = WORDS["recipient"]
    wrong = list(_text(path, value, what=what, pattern=r"[A-Za-z0-9_][\w.+=&'~-]*(@[^@\s]+)?"))
    yield from wrong
    if wrong:
        return
    user, _, domain = value.partition("@")
    if user.lower() in ("root", "postmaster") and not domain:
        yield f"{path}: mail for {shown(value)} would be forwarded to itself, a loop; allowed: {what}"
    elif domain and _wrong_label(domain):
        yield f"{path}: {shown(value)} {_wrong_label(domain)}; allowed: {what}"


def _smarthost(path: str, value: Any) -> Problems:
    """A host that takes mail: a name, or an IP address."""
    what = WORDS["smarthost"]
    wrong = list(_text(path, value, what=what))
    yield from wrong
    if not wrong and not _is_address(value) and _wrong_label(value):
        yield f"{path}: {shown(value)} {_wrong_label(value)}; allowed: {what}"


def _domain(path: str, value: Any) -> Problems:
    """A domain that mail is of, as headers have it: in lower case, without a dot at its end."""
    what = WORDS["domain"]
    wrong = list(_text(path, value, what=what))
    yield from wrong
    if wrong:
        return
    reason = (
        f"ends with a dot; without it: {value[:-1]}"
        if value.endswith(".") and value != "."
        else _wrong_label(value)
        or ("has no dot" if "." not in value else None)
        or (f"has capitals; in lower case: {value.lower()}" if value != value.lower() else None)
    )
    if reason:
        yield f"{path}: {shown(value)} {reason}; allowed: {what}"


def _address(path: str, value: Any) -> Problems:
    """An IP address, of either version."""
    wrong = list(_text(path, value, what=WORDS["address"]))
    yield from wrong
    if not wrong and not _is_address(value):
        yield f"{path}: {shown(value)} is not valid; allowed: {WORDS['address']}"


def _network(path: str, value: Any) -> Problems:
    """A network: an IP address, and how many of its bits count."""
    wrong = list(_text(path, value, what=WORDS["network"]))
    yield from wrong
    if wrong:
        return
    try:
        ipaddress.ip_network(value)
    except ValueError:
        try:
            meant = f"; without the bits of a host: {ipaddress.ip_network(value, strict=False)}"
        except ValueError:
            meant = f"; allowed: {WORDS['network']}"
        yield f"{path}: {shown(value)} is not valid{meant}"


def _alternative_name(path: str, value: Any) -> Problems:
    """A further name of the certificate: a host name, with or without a wildcard, or an IP address."""
    what = WORDS["alternative_name"]
    wrong = list(_text(path, value, what=what))
    yield from wrong
    if wrong or _is_address(value):
        return
    reason = _wrong_label(value[2:] if value.startswith("*.") else value)
    if reason:
        yield f"{path}: {shown(value)} {reason}; allowed: {what}"


def wrong_hostname(name: Any) -> str | None:
    """Return why ``name`` is not a fully qualified host name (RFC 1123, section 2.1), or ``None``."""
    if not isinstance(name, str) or not name:
        return "is empty"
    wrong = _invisible(name)
    if wrong:
        return f"contains {wrong}"
    if _is_address(name.strip("[]")):
        return "is an IP address, not a name"
    if name.endswith(".") and name != ".":
        return "ends with a dot"
    if "." not in name:
        return "is not fully qualified: it has no domain"
    wrong = _wrong_label(name)
    if wrong:
        return wrong
    if name.lower().rpartition(".")[2] in ("localhost", "localdomain") or name.lower().startswith("localhost."):
        return "is only a placeholder, not this host's name"
    return None


def _wrong_label(name: str) -> str | None:
    """Return why ``name`` is not a host name, of one label or more, or ``None``."""
    if len(name) > 253:
        return "is longer than 253 characters"
    labels = name.split(".")
    for part in labels:
        if not part:
            return "has two dots in a row, or one at its start or end"
        if len(part) > 63:
            return f"has a part of more than 63 characters, {part[:20]}…"
        if "_" in part:
            return "contains an underscore, which host names must not have"
        if not re.fullmatch("[A-Za-z0-9-]+", part):
            hint = " (write international names in their xn-- form)" if not part.isascii() else ""
            return f"contains a character other than letters, digits, hyphens and dots{hint}"
        if part.startswith("-") or part.endswith("-"):
            return f"has a part that begins or ends with a hyphen, {part}"
    return "ends with a number, which is no top-level domain" if labels[-1].isdigit() else None


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


# -- main.cf and master.cf ---------------------------------------------------------------------


def _parameter(path: str, value: Any) -> Problems:
    """The value of a main.cf parameter."""
    what = WORDS["parameter"]
    if isinstance(value, float):
        yield f"{path}: {shown(value)} is not a whole number; allowed: {what} (a text is in quotes)"
    elif isinstance(value, (Mapping, bytes, set)):
        yield f"{path}: {kind_of(value)} is not a value of main.cf; allowed: {what}"
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            if isinstance(item, (list, tuple, Mapping)) or item is None:
                yield f"{path}:{number}: {kind_of(item)} is not allowed; allowed: a text or a whole number"
            elif isinstance(item, str) and not item.strip():
                yield f"{path}:{number}: it is empty; allowed: a text or a whole number"
            else:
                yield from _parameter(f"{path}:{number}", item)
    elif not isinstance(value, int):
        yield from _text(path, value, what=what, empty=True, longest=100_000)


def _services(path: str, value: Any, presets: tuple[str, ...], name: str, pattern: str, of: Value) -> Problems:
    """Services: presets by their names, others as entries of master.cf."""
    chosen = {key: item for key, item in mapping(value).items() if key in presets}
    for key, item in chosen.items():
        if item is not None:
            yield from _boolean(f"{path}:{key}", item)
    others = {key: item for key, item in value.items() if key not in chosen} if chosen else value
    yield from _entries(path, others, f"{name}; presets: {listed(presets)}", pattern, of)


def _column(path: str, value: Any) -> Problems:
    """One of master.cf's columns private, unprivileged and chroot."""
    if not isinstance(value, bool) and value not in ("-", "y", "n"):
        yield f"{path}: {shown(value)} is not a boolean; allowed: {WORDS['column']}"


def _number_column(path: str, value: Any, pattern: str, what: str) -> Problems:
    """One of master.cf's columns wakeup and maxproc."""
    text = str(value) if isinstance(value, int) else value if isinstance(value, str) else ""
    if isinstance(value, bool) or not re.fullmatch(pattern, text):
        yield f"{path}: {shown(value)} is not valid; allowed: {what}"


def _arguments(path: str, value: Any) -> Problems:
    """The arguments of a master.cf service: a text, or a list of them."""
    what = WORDS["arguments"]
    if isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _text(f"{path}:{number}", item, what=what)
    else:
        yield from _text(path, value, what=what)


# -- aliases, tables, firewall -----------------------------------------------------------------


def _destination(path: str, value: Any) -> Problems:
    """What an alias leads to: a text, or a list of them."""
    what = WORDS["destination"]
    if isinstance(value, (list, tuple)):
        yield from _list(path, value, Value("text", {"what": what}), shortest=1)
    else:
        yield from _text(path, value, what=what)


def _mailboxes(path: str, value: Any, allowed: tuple[str, ...]) -> Problems:
    """Whether to have RFC 2142's mailboxes, or which of them."""
    if isinstance(value, (list, tuple)):
        yield from _list(path, value, Value("choice", {"allowed": allowed}))
    elif not isinstance(value, bool):
        yield f"{path}: {shown(value)} is not valid; allowed: true, false, or a list of {listed(allowed)}"


def _firewall_port(path: str, value: Any) -> Problems:
    """A TCP port, or the word for those that master.cf has."""
    if value == "listeners":
        return
    if isinstance(value, str) and not value.isdigit():
        yield f"{path}: {shown(value)} is not a whole number; allowed: {WORDS['firewall_port']}"
    else:
        yield from _integer(path, value, low=1, high=65535)


def table(path: str, value: Any, schema: Schema) -> Problems:
    """A lookup table. The values of its entries are never shown."""
    wrong = list(section(path, value, schema))
    yield from wrong
    if wrong or not value:
        return
    kind = value.get("type")
    if value.get("entries") is not None and value.get("source") is not None:
        yield f"{path}:source: given beside entries; allowed: one of them"
    if kind == "inline":
        yield from _inline_table(path, value)
    elif kind in _mta_pillar_schema.FILELESS:
        for name in _given(value, "entries", "source", "secret", "mode"):
            yield f"{path}:{name}: a table of type {kind} has no file; allowed: path (what follows {kind}:)"
        if not value.get("path"):
            yield f"{path}:path: not given; what follows after {kind}: in main.cf"
        return
    elif value.get("path") is not None:
        yield from _path(f"{path}:path", value["path"])
    if value.get("secret") and int(value.get("mode") or "0600", 8) & 0o007:
        yield f'{path}:mode: {shown(value["mode"])} lets everybody read what is secret; allowed: "0600" or "0640"'


def _inline_table(path: str, value: Mapping[str, Any]) -> Problems:
    """A table that is in main.cf itself."""
    for name in _given(value, "path", "source", "secret", "mode"):
        yield f"{path}:{name}: a table of type inline is in main.cf, for all to read; allowed: entries"
    entries = value.get("entries")
    for number, (name, item) in enumerate(mapping(entries).items()):
        # Where it was taken for a table with secrets, what looks like a key may be one.
        hidden = value.get("secret") or isinstance(item, Mapping)
        where = f"entry {number + 1}" if hidden else label(name)
        if not isinstance(item, (str, int)) or re.search(r"[{}\x00-\x1f]", f"{name}{item}") or "=" in str(name):
            yield f"{path}:entries:{where}: not one line of text without braces, and no = in the key"
    if entries is not None and not isinstance(entries, Mapping):
        yield f"{path}:entries: {kind_of(entries)} is not a mapping; allowed: a mapping of key to value"


def _given(value: Mapping[str, Any], *names: str) -> list[str]:
    return [name for name in names if value.get(name)]


def _table_entries(path: str, value: Any) -> Problems:
    """The entries of a table: only their shape. Whether a table can hold them is known to ``_mta_tables``."""
    if not isinstance(value, (Mapping, list, tuple)):
        yield f"{path}: {kind_of(value)} is not allowed; allowed: {WORDS['table_entries']}"


# -- how values and keys are shown -------------------------------------------------------------


def shown(value: Any) -> str:
    """Return a value, no secret, in one short line."""
    if isinstance(value, str):
        # A password may stand in the address of a host.
        value = re.sub(r"[^\s/@:]*:[^\s/@]*@", "(hidden)@", value)
        short = value if len(value) <= 60 else value[:60] + "…"
        return json.dumps(short, ensure_ascii=not value.isprintable())
    if isinstance(value, (bool, type(None))):
        return json.dumps(value)
    if isinstance(value, int) and abs(value) >= 10**18:
        return "a very large number"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, datetime.date):
        return value.isoformat()
    return kind_of(value)


def kind_of(value: Any) -> str:
    """Return what kind of value it is, without the value."""
    if isinstance(value, bool):
        return "a boolean"
    if value is None:
        return "null"
    kinds: tuple[tuple[Any, str], ...] = (
        (str, "a text"),
        ((int, float), "a number"),
        (Mapping, "a mapping"),
        ((list, tuple), "a list"),
        (bytes, "binary data"),
        (datetime.date, "a date"),
    )
    for types, kind in kinds:
        if isinstance(value, types):
            return kind
    return f"an object of type {type(value).__name__}"


def _misread(value: Any) -> str:
    """Return what a value without quotes may have become that was meant as text; nothing for others."""
    if isinstance(value, bool):
        return _YAML_BOOLEANS
    if isinstance(value, datetime.date):
        return "it was read as a date"
    return ""


def label(key: Any) -> str:
    """Return a mapping's key for a pillar path: as it is, or quoted where that is not one short line."""
    if isinstance(key, str) and key and len(key) <= 60 and key.isprintable():
        return key
    return shown(key)


def _unknown(key: Any) -> str:
    """Return what a key that there is not is called: of ``password:hush``, all that may be shown is the name."""
    match = re.match(r"[\w.-]*", key) if isinstance(key, str) else None
    name = match[0] if match else ""
    return label(key) if name == key or not isinstance(key, str) else f"{name}… (not shown in full)"


def _meant(path: str, key: Any, schema: Schema) -> str:
    """Return which key was meant, or where it belongs, or else which keys there are."""
    if not isinstance(key, str):
        misread = _misread(key)
        return f"{misread and f'{misread}; '}allowed: {listed(schema)}"
    close = nearest(key, schema)
    elsewhere = None if close else _find(_mta_pillar_schema.SCHEMA, key)
    if elsewhere:
        close = f"{path.partition(':')[0]}:{elsewhere}"
    return f"did you mean {close}?" if close else f"allowed: {listed(schema)}"


def _find(schema: Schema, name: str) -> str | None:
    """Return the path of the key ``name`` in the schema, or ``None``."""
    for key, rule in schema.items():
        if key == name:
            return key
        below = None if isinstance(rule, Value) else _find(rule, name)
        if below:
            return f"{key}:{below}"
    return None


def _invisible(text: str) -> str | None:
    """Return what the first character is that cannot be seen in ``text``, or ``None``."""
    for character in text:
        if not character.isprintable():
            if character in "\r\n":
                return "a line break"
            return f"the invisible or control character U+{ord(character):04X}"
    return None


def listed(allowed: Iterable[Any]) -> str:
    """Return names in one line."""
    return ", ".join(str(item) for item in allowed)


def nearest(value: Any, allowed: Iterable[str]) -> str | None:
    """Return the allowed name that ``value`` is probably a typo of, or ``None``."""
    return _mta_system.nearest(value.lower(), allowed) if isinstance(value, str) else None


def mapping(value: Any) -> Mapping[Any, Any]:
    """Return a mapping as it is, and an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


CHECKERS: dict[str, Callable[..., Problems]] = {
    "address": _address,
    "alternative_name": _alternative_name,
    "arguments": _arguments,
    "boolean": _boolean,
    "choice": _choice,
    "column": _column,
    "destination": _destination,
    "domain": _domain,
    "entries": _entries,
    "firewall_port": _firewall_port,
    "hostname": _hostname,
    "integer": _integer,
    "list": _list,
    "mailboxes": _mailboxes,
    "mode": _mode,
    "network": _network,
    "number_column": _number_column,
    "parameter": _parameter,
    "path": _path,
    "pem": _pem,
    "recipient": _recipient,
    "secret": _secret,
    "section": section,
    "services": _services,
    "smarthost": _smarthost,
    "socket_mode": _socket_mode,
    "table": table,
    "table_entries": _table_entries,
    "text": _text,
}
