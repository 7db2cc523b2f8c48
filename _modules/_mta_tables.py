"""TODO subject (mta_map postconf)."""

import contextlib
import difflib
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile

from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_postfix_syntax
import _mta_postfix_view
from _mta_minion import Minion
from _mta_run import Run

RECORD = "maps.json"
PROGRAMS = {"postmap": "/usr/sbin/postmap", "postalias": "/usr/sbin/postalias", "postconf": "/usr/sbin/postconf"}
SUFFIXES = {"hash": ".db", "btree": ".db", "lmdb": ".lmdb", "cdb": ".cdb"}
RULES = ("pcre", "regexp", "cidr")
SETTINGS = ("ldap", "mysql", "pgsql", "sqlite", "memcache", "mongodb")
PASSWORDS = ("password", "bind_pw")
SETTING = "[A-Za-z0-9_]+"
LOGIN_IN_URI = r"://[^/@\s]*:[^/@\s]*@"
SHOWN = 50
SECONDS = 60
# isspace(3) in the C locale, as Postfix uses it: less than what Python takes for whitespace.
BLANKS = " \t\n\v\f\r"
CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
HALF = re.compile("[\ud800-\udfff]")
KEY = rf'(?s)((?:\\.|"(?:\\.|[^"\\])*"|[^\\"{BLANKS}])+)(?:[{BLANKS}]+(.*))?\Z'
PATTERN = rf"(?s)(!?([^A-Za-z0-9{BLANKS}\\]).*?(?<!\\)(?:\\\\)*\2[A-Za-z]*)(?:[{BLANKS}]+(.*))?\Z"
# The identifier of a Berkeley DB file, in the metadata page at its start (db_page.h).
IDENTIFIER = slice(52, 72)
TIME = rb"(?<![0-9])[0-9]{10}(?![0-9])"


def _logical(text):
    """
    Join the lines of a table as readlline(3) does: ``[(text, [line indexes])]``.

    A line that begins with a blank continues the one before it, also across comments and empty lines.
    """
    found = []
    for index, line in enumerate(text.split("\n")):
        content = line.strip(BLANKS)
        if not content or content.startswith("#"):
            continue
        if line[0] in BLANKS and found:
            found[-1] = (found[-1][0] + line, [*found[-1][1], index])
        else:
            found.append((line, [index]))
    return found


def _pair(kind, line):
    """
    Split a logical line into key and value, as the table types do; a rule without a result has the value "".

    ``kind``: of the type; ``None`` (a default that is not known yet) is read as an indexed one.
    """
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
    key, *value = line.split(None, 1)
    return key, "".join(value).strip(BLANKS)


def parse(kind, text):
    """Return ``[(key, value, line indexes)]`` of a table."""
    return [(*_pair(kind, line), indexes) for line, indexes in _logical(text)]


def _line(kind, key, value):
    if kind in SETTINGS:
        return f"{key} = {value}"
    return f"{key} {value}" if value else key


def edited(kind, text, wanted):
    """Return the text of a table with ``wanted``, pairs in order, as its entries, and comments where they were."""
    lines = text.split("\n")
    parsed = parse(kind, text)
    present = [(key, value) for key, value, _ in parsed]
    end = "\r" if lines[0].endswith("\r") else ""
    # What becomes of each present entry: a list of those that stand in its place.
    places, added = _places(kind, present, wanted)
    gone = set()
    for (key, value, indexes), new in zip(parsed, places):
        if new != [(key, value)]:
            lines[indexes[0]] = "\n".join(_line(kind, *pair) + end for pair in new)
            gone.update(indexes[1:] if new else indexes)
    kept = [line for index, line in enumerate(lines) if index not in gone]
    if len(lines) - 1 in gone:
        kept.append("")
    if added:
        if kept[-1]:
            kept.append("")
        kept[-1:] = [*(_line(kind, *pair) + end for pair in added), ""]
    return "\n".join(kept)


def _places(kind, present, wanted):
    """Tell what stands in the place of each present entry, and what comes at the end."""
    if kind in RULES:
        places, added = [[pair] for pair in present], []
        matcher = difflib.SequenceMatcher(None, present, wanted, autojunk=False)
        for tag, i1, i2, j1, j2 in matcher.get_opcodes():
            if tag == "equal":
                continue
            places[i1:i2] = [[] for _ in range(i1, i2)]
            if i1 < len(places):
                # Before an entry that stays, or in place of the first that goes.
                places[i1] = [*wanted[j1:j2], *places[i1]]
            else:
                added = wanted[j1:j2]
        return places, added
    missing = dict(wanted)
    places = [[(key, missing.pop(key))] if key in missing else [] for key, _ in present]
    return places, list(missing.items())


def _is_text(value, where):
    """A secret as it is, for who only asks whether a table can hold it; raises for what is no text."""
    if not isinstance(value, str):
        raise SaltInvocationError(f"{where}: the value is not a text; put it in quotes")
    return value


def wanted(kind, entries, secret=False, resolve=lambda value, key, where: _is_text(value, where)):
    """
    Normalise entries: ``[(key, value)]``, and the set of the keys whose values are secret.

    ``resolve``: what gives the text of a secret (an sdb URI, say), from its value, its key, and what to call it in
    a message. Raises ``SaltInvocationError`` for what a table of this type cannot hold; a secret is never part of
    the message, and in a table with secrets neither is a line that is no key and value: it may be one.
    """
    items = _items(kind, entries)
    private = secret or kind in SETTINGS or any(_marked(value) for _, value in items)
    pairs, hidden, seen = [], set(), set()
    for number, (key, value) in enumerate(items):
        named = not private or (value not in (None, "") and not re.search(rf"[{BLANKS}=]", str(key)))
        where = str(key) if named else f"entry {number + 1} (not shown, as it may hold a secret)"
        if isinstance(key, bool) or not isinstance(key, (str, int)):
            raise SaltInvocationError(f"{where}: not a key; put it in quotes")
        key = str(key)
        if secret or _marked(value) or is_secret(kind, key, value):
            hidden.add(key)
            marked = _marked(value)
            value = resolve(value["secret"] if marked else value, key, f"{where}:secret" if marked else where)
        text, reason = _text(kind, value)
        reason = reason or _unfit(kind, key, text)
        folded = key if kind in SETTINGS else key.casefold()
        if not reason and kind not in RULES and folded in seen:
            reason = "it is there twice; upper and lower case are the same"
        if reason:
            raise SaltInvocationError(f"{where}: {reason}")
        seen.add(folded)
        pairs.append((key, text))
    return pairs, hidden


def _items(kind, entries):
    """The pairs of key and value of entries as pillar has them."""
    if entries is None:
        return []
    if isinstance(entries, dict):
        return list(entries.items())
    if not isinstance(entries, (list, tuple)):
        raise SaltInvocationError("entries are a mapping or a list")
    items = []
    for number, item in enumerate(entries):
        if isinstance(item, dict) and len(item) == 1:
            items += item.items()
        elif isinstance(item, str):
            items.append(_pair(kind, item))
        else:
            raise SaltInvocationError(f"{number}: one line of the table, or a mapping of one key to its value")
    return items


def _marked(value):
    """Whether an entry's value is marked as a secret: ``{secret: TEXT}``."""
    return isinstance(value, dict) and set(value) == {"secret"}


def is_secret(kind, key, value):
    """Whether a setting is a password by its nature, or a URI with one in it."""
    return kind in SETTINGS and (
        key in PASSWORDS or (isinstance(value, str) and bool(re.search(LOGIN_IN_URI, value)))
    )


def _text(kind, value):
    """The text of a value (several destinations are a list), or why it has none: one of them is ``None``."""
    if kind in SETTINGS and isinstance(value, bool):
        return "yes" if value else "no", None
    parts = value if isinstance(value, (list, tuple)) and kind not in RULES else [value]
    if any(isinstance(part, bool) or not isinstance(part, (str, int)) for part in parts):
        return None, "the value is not a text; put it in quotes"
    return ", ".join(str(part) for part in parts), None


def _unfit(kind, key, value):
    """Why a table of the type cannot hold an entry, or ``None``."""
    if CONTROL.search(key + value):
        return "a line break or a control character"
    if HALF.search(key + value):
        # The error of encoding one would have the whole table in its arguments.
        return "half of a character, which UTF-8 does not have"
    if kind in SETTINGS and not re.fullmatch(SETTING, key):
        return "not a setting, which is a name, = and a value"
    if not value and kind not in RULES and kind not in SETTINGS:
        return "no value"
    if key.endswith(":") and kind not in RULES and kind not in SETTINGS:
        return "a key that ends with a colon; postmap takes that for a file of aliases"
    if parse(kind, f"{_line(kind, key, value)}\n") != [(key, value, [0])]:
        return "such a key or value cannot be written to a table of this type"
    return None


def difference(kind, old, new, hidden):
    """The changes between two lists of pairs, ``{key: {"old": …, "new": …}}``; secrets are not shown."""

    def grouped(pairs):
        found = {}
        for key, value in pairs:
            found.setdefault(key, []).append(value)
        return found

    before, after = grouped(old), grouped(new)
    changes = {}
    for key in {**before, **after}:
        if before.get(key) != after.get(key):
            texts = ["; ".join(pairs[key]) if key in pairs else None for pairs in (before, after)]
            bare = not any(texts) or (kind in SETTINGS and not re.fullmatch(SETTING, key))
            if bare and (hidden or kind in SETTINGS):
                # It is no key and value: what it is instead may be the secret.
                key = "a line without a value"
                seen = changes.get(key, {"old": None, "new": None})
                texts = [there if text is None else "(hidden)" for text, there in zip(texts, seen.values())]
            elif key in hidden or "*" in hidden:
                texts = [text and word for text, word in zip(texts, ("(hidden)", "(hidden, changed)"))]
            changes[key] = dict(zip(("old", "new"), texts))
    if not changes and old != new and kind in RULES:
        changes["order"] = {"old": "as it was", "new": "as given"}
    if len(changes) > SHOWN:
        more = len(changes) - SHOWN
        changes = dict(list(changes.items())[:SHOWN])
        changes[f"{more} more entries"] = {"old": "as they were", "new": "as given"}
    return changes


def digest(contents, kind=None):
    """
    Digest of a file; in a compiled one (of a ``kind``) what differs each time does not count.

    That is a Berkeley DB file's identifier, and the time that postalias(1) puts in for NIS.
    """
    if kind in ("hash", "btree"):
        # Not only there: a page that was the first one of a smaller file keeps it.
        contents = contents.replace(contents[IDENTIFIER], b"")
    if kind and b"YP_LAST_MODIFIED" in contents:
        contents = re.sub(TIME, b"", contents)
    return hashlib.blake2b(contents, digest_size=20).hexdigest()


def read(path):
    try:
        with open(path, "rb") as handle:
            return handle.read()
    except FileNotFoundError:
        return None
    except OSError as err:
        raise CommandExecutionError(f"Cannot read {path}: {err.strerror}") from err


def recorded(minion: Minion):
    """What is known of tables: ``{"tables": {path: {…}}, "made": [paths], "postfix": {…}}``."""
    return {"tables": {}, "made": [], "postfix": {}, **minion.state.read(RECORD)}


def noticed(minion: Minion):
    """What this run has found out and the record does not say yet; kept by :func:`remember`."""
    tables = Run.of(minion).tables
    tables.setdefault("tables", {})
    tables.setdefault("postfix", {})
    return tables


def installed():
    return os.path.exists(PROGRAMS["postmap"])


def run(program, *arguments, contents=None):
    """Run a program of Postfix without a shell: ``(exit code, stdout, stderr)`` as bytes."""
    try:
        done = subprocess.run(
            [PROGRAMS[program], *arguments],
            input=contents,
            stdin=subprocess.DEVNULL if contents is None else None,
            capture_output=True,
            check=False,
            timeout=SECONDS,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as err:
        raise CommandExecutionError(f"Cannot run {program}: {err}") from err
    return done.returncode, done.stdout, done.stderr


@contextlib.contextmanager
def private(minion: Minion, contents):
    """
    A private directory with a table's source, ``table``, and a main.cf of its own.

    The host's main.cf is not read: a Postfix program sleeps until that is 2 s old. The name is one that
    :py:mod:`postconf` clears away when the run was killed.
    """
    parent = minion.state.path("")
    os.makedirs(parent, mode=0o700, exist_ok=True)
    folder = tempfile.mkdtemp(prefix=f"stage.{os.getpid()}.", dir=parent)
    try:
        main, source = os.path.join(folder, "main.cf"), os.path.join(folder, "table")
        with open(main, "w", encoding="ascii") as handle:
            handle.write("compatibility_level = 3.6\n")
        os.utime(main, (0, 0))
        with open(source, "wb") as handle:
            handle.write(contents)
        yield folder, source
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def said(folder, errors):
    text = errors.decode(errors="replace").replace(f"{folder}/", "")
    return "; ".join(line.partition(": ")[2] or line for line in text.splitlines())


def about_postfix(minion: Minion):
    """
    The default database type and the table types of this Postfix, ``{"default": text, "types": [text]}``.

    One process each, and none while the record is about the same program and plugins.
    """
    stamp = []
    for path in (PROGRAMS["postconf"], "/etc/postfix/dynamicmaps.cf", "/etc/postfix/dynamicmaps.cf.d"):
        with contextlib.suppress(OSError):
            status = os.stat(path)
            stamp.append([path, status.st_size, status.st_mtime_ns, status.st_ino])
    for known in (noticed(minion)["postfix"], recorded(minion)["postfix"]):
        if known.get("stamp") == stamp:
            return known
    code, default, errors = run("postconf", "-d", "-h", "default_database_type")
    if code:
        raise CommandExecutionError(f"postconf cannot tell default_database_type: {errors.decode().strip()}")
    types = run("postconf", "-m")[1].decode().split()
    noticed(minion)["postfix"] = {"stamp": stamp, "default": default.decode().strip(), "types": types}
    return noticed(minion)["postfix"]


def default_type(minion: Minion):
    """
    Return the type of a table that does not say its own: ``default_database_type`` of main.cf, or Postfix's.

    ``None`` while Postfix is not installed. Starts a process only when Postfix has changed since the last time.
    """
    with contextlib.suppress(CommandExecutionError):
        main = _mta_postfix_view.show()
        if "$" not in main.get("default_database_type", "$"):
            return main["default_database_type"]
    return about_postfix(minion)["default"] if installed() else None


def missing_types(minion: Minion, types):
    """
    Return those of some table types that this Postfix does not have; none while it is not installed.

    types
        List of names, as in ``postconf -m``.
    """
    if not types or not installed():
        return []
    there = about_postfix(minion)["types"]
    return [kind for kind in types if kind not in there]


def compiled(minion: Minion, contents, kind, program="postmap"):
    """
    Return the compiled form of a table's source, as bytes; nothing on the host changes.

    contents
        The source, as bytes.

    kind
        An indexed type: ``hash``, ``btree``, ``lmdb``, ``cdb``.

    program
        ``postmap`` (the default) or ``postalias``.

    For other modules. Raises ``CommandExecutionError`` when the program cannot compile it, and when postmap(1)
    would leave out a part of it.
    """
    if isinstance(contents, str):
        contents = contents.encode("utf-8", "surrogateescape")
    with private(minion, contents) as (folder, source):
        code, _, errors = run(program, "-c", folder, f"{kind}:{source}")
        if code or (program == "postmap" and b"warning" in errors):
            raise CommandExecutionError(f"{program} cannot compile this as {kind}: {said(folder, errors)}")
        return read(source + SUFFIXES[kind])


def is_current(minion: Minion, path, contents, kind, program="postmap"):
    """
    Tell what is wrong with the compiled form of a table; ``None`` when nothing is.

    path
        Of the source. It need not exist.

    contents
        What the source holds, as bytes.

    kind, program
        As for :func:`compiled`.

    It reads both files, and starts a process only when the compiled form is not the one that it was when this was
    asked, or it was made, the last time.
    """
    target = path + SUFFIXES[kind]
    found = read(target)
    if found is None:
        return "missing"
    with contextlib.suppress(FileNotFoundError):
        if os.stat(target).st_mtime_ns < os.stat(path).st_mtime_ns:
            return f"older than {path}"
    digests = {"type": kind, "source": digest(contents), "compiled": digest(found, kind)}
    known = recorded(minion)["tables"].get(path, {})
    if all(known.get(key) == value for key, value in digests.items()):
        return None
    if digest(compiled(minion, contents, kind, program), kind) != digests["compiled"]:
        return "damaged, or not made from its source"
    notice(minion, path, digests)
    return None


def notice(minion: Minion, path, facts):
    """Take facts of a table down, for :func:`remember`, when the record does not have them."""
    found = {**noticed(minion)["tables"].get(path, {}), **facts}
    if found != recorded(minion)["tables"].get(path):
        noticed(minion)["tables"][path] = found


def updated(minion: Minion, made=(), gone=()):
    """The record with what this run noticed."""
    record, found = recorded(minion), noticed(minion)
    record["tables"].update(found["tables"])
    record["postfix"] = found["postfix"] or record["postfix"]
    record["made"] = sorted({*record["made"], *made} - set(gone))
    for path in gone:
        record["tables"].pop(path, None)
    return record


def show(path, kind):
    """
    Return the entries of a table's source, a list of ``[key, value]``; ``None`` when there is no such file.

    path
        Of the source.

    kind
        Type, which decides how a line is read. Settings (of ldap and so on) are ``[name, value]``.

    Raises ``CommandExecutionError`` when the file cannot be read, or is no UTF-8 text.
    """
    contents = read(path)
    if contents is None:
        return None
    try:
        text = contents.decode()
    except ValueError as err:
        raise CommandExecutionError(f"{path} is no UTF-8 text: {err}") from err
    return [[key, value] for key, value, _ in parse(kind, text)]


def unfit(minion: Minion, path, kind, entries, secret=False, mode=None, source=None):
    """
    Return why a table cannot be as it is asked for; ``None`` when it can.

    path
        Of the source: what was found right the last time is not looked at again.

    kind
        Type; ``None``: the default one.

    entries, secret, mode, source
        As for the state ``mta_map.managed``.

    Returns text that begins with the argument at fault: ``entries:key: reason``, ``mode: reason``. A secret is not
    part of it.
    """
    kind = kind or default_type(minion)
    if mode is not None:
        # The file is fetched only where it matters who may read it.
        fetch = source and kind in SETTINGS and wrong_mode(mode, True)
        pairs = of_file_server(minion, kind, source)[0] if fetch else []
        secrets = secret or any(is_secret(kind, *pair) for pair in pairs) or has_secrets(kind, entries)
        reason = wrong_mode(mode, secrets)
        if reason:
            return f"mode: {reason}"
    asked = asked_digest(kind, entries, secret)
    if source or (asked and recorded(minion)["tables"].get(path, {}).get("asked") == asked):
        return None
    try:
        wanted(kind, entries, secret)
    except SaltInvocationError as err:
        return f"entries:{err}"
    return None


def asked_digest(kind, entries, secret):
    """Digest of what is asked for; ``None`` when that is not all in pillar, or no table can hold it."""
    try:
        text = json.dumps([kind, entries, secret], default=str)
    except TypeError:
        return None
    return None if "sdb://" in text else hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


def of_file_server(minion: Minion, kind, source):
    """The pairs and the text of a table that is on the file server."""
    path = minion.functions["cp.cache_file"](source, minion.opts.get("saltenv") or "base")
    if not path:
        raise CommandExecutionError(f"{source} is not on the file server")
    text = read(path).decode("utf-8", "surrogateescape")
    return [(key, value) for key, value, _ in parse(kind, text)], text


def wrong_mode(mode, secrets):
    """Why a table cannot have the mode, in words that follow ``mode``; ``None`` when it can."""
    if mode is None:
        return None
    if not isinstance(mode, str) or not re.fullmatch("[0-7]{3,4}", mode):
        return f'{mode!r} is not an octal text, such as "0640"'
    if secrets and int(mode, 8) & 0o007:
        return f'"{mode}" lets others at what is secret in it; allowed: "0600", or "0640" for the daemons\' group'
    return None


def has_secrets(kind, entries):
    """Whether one of the entries is a secret, as far as they have the shape of entries."""
    with contextlib.suppress(SaltInvocationError):
        return any(_marked(value) or is_secret(kind, key, value) for key, value in _items(kind, entries))
    return False


def public(arguments):
    """Arguments without what Salt adds to those of a command line."""
    return {key: value for key, value in arguments.items() if not key.startswith("__")}


def lookup(minion: Minion, table, key, config_directory="/etc/postfix"):
    """
    Look a key up in a table, as Postfix's daemons do.

    table
        ``type:path`` (any type of ``postconf -m``), or a parameter of main.cf that names tables, such as
        ``virtual_alias_maps``: they are asked in turn.

    key
        Text, one line.

    config_directory
        Path, ``/etc/postfix``.

    Returns the value, or ``None`` when there is no such key. Raises ``CommandExecutionError`` when a table cannot
    be read, or its server does not answer; ``SaltInvocationError`` for a key of more than one line.
    """
    key = str(key)
    if "\n" in key or not key:
        raise SaltInvocationError("A key is a text in one line")
    tables = [table] if ":" in table else of_parameter(minion, table, config_directory)
    for one in tables:
        # Not as an argument: a key may begin with a hyphen.
        code, output, errors = run("postmap", "-c", config_directory, "-q", "-", one, contents=f"{key}\n".encode())
        said = errors.decode(errors="replace")
        if "fatal:" in said or "error:" in said or (code and said.strip()):
            raise CommandExecutionError(f"postmap cannot look this up in {one}: {said.strip()}")
        if output:
            return output.decode(errors="replace").partition("\t")[2].rstrip("\n")
    return None


def of_parameter(minion: Minion, parameter, config_directory=_mta_postfix_view.CONFIG_DIRECTORY):
    """
    Return the lookup tables that a parameter names, in order, as a list of ``type:path``.

    parameter
        Name of a parameter that holds tables, such as ``virtual_alias_maps``.

    config_directory
        Path, ``/etc/postfix``.

    References to other parameters are expanded. Raises ``CommandExecutionError`` as :func:`get` does.
    """
    main = {**_mta_postfix_view.defaults(config_directory), **_mta_postfix_view.show(config_directory)}
    main.setdefault("default_database_type", default_type(minion) or "")
    value = _mta_postfix_syntax.expand(_mta_postfix_view.get(parameter, config_directory) or "", main)
    return [item for item in _mta_postfix_syntax.items_of(value) if re.match(r"[a-z][a-z0-9]*:", item)]
