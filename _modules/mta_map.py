"""
Keep Postfix's lookup tables: their source files by the rules of postmap(1), and their compiled forms.

- Indexed types are compiled by postmap(1) in a private directory and renamed into place, so that a daemon has the
  old table or the new one, whole. It finds out by itself: the file that it has open has no name any more
  (dict_changed_name(3)).
- Types that are read as text (``texthash``, ``pcre``, ``regexp``, ``cidr``) are tried by postmap(1) before they
  are switched.
- Of ``ldap``, ``mysql``, ``pgsql``, ``sqlite``, ``memcache`` and ``mongodb`` the source is a file of settings,
  ``name = value``.

Comments in a source file, and the order of its entries, stay; entries that nobody asked for go.

Whether a compiled form is what its source gives is known by digests kept in ``/var/lib/postfix_mta/maps.json``.
Where they do not match, and only there, the source is compiled and compared: postmap(1) gives the same bytes for
the same source, but for an identifier in the header of Berkeley DB files and the time that postalias(1) puts in.
"""

import contextlib
import difflib
import grp
import hashlib
import json
import os
import pwd
import re
import shutil
import stat
import subprocess
import tempfile

from salt.exceptions import CommandExecutionError, SaltInvocationError
from salt.utils.data import traverse_dict_and_list

RECORD = "maps.json"
PROGRAMS = {"postmap": "/usr/sbin/postmap", "postalias": "/usr/sbin/postalias", "postconf": "/usr/sbin/postconf"}
SUFFIXES = {"hash": ".db", "btree": ".db", "lmdb": ".lmdb", "cdb": ".cdb"}
RULES = ("pcre", "regexp", "cidr")
SETTINGS = ("ldap", "mysql", "pgsql", "sqlite", "memcache", "mongodb")
TYPES = (*SUFFIXES, "texthash", *RULES, *SETTINGS)
PASSWORDS = ("password", "bind_pw")
SETTING = "[A-Za-z0-9_]+"
LOGIN_IN_URI = r"://[^/@\s]*:[^/@\s]*@"
HEADER = "# Entries come from the Salt pillar; changes of them in this file are undone.\n"
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


# -- the syntax ----------------------------------------------------------------------------------


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


def _parsed(kind, text):
    """Return ``[(key, value, line indexes)]`` of a table."""
    return [(*_pair(kind, line), indexes) for line, indexes in _logical(text)]


def _line(kind, key, value):
    if kind in SETTINGS:
        return f"{key} = {value}"
    return f"{key} {value}" if value else key


def _edited(kind, text, wanted):
    """Return the text of a table with ``wanted``, pairs in order, as its entries, and comments where they were."""
    lines = text.split("\n")
    parsed = _parsed(kind, text)
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


def _wanted(kind, entries, secret=False, resolve=lambda value, key, where: _is_text(value, where)):
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
        if secret or _marked(value) or _is_secret(kind, key, value):
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


def _is_secret(kind, key, value):
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
    if _parsed(kind, f"{_line(kind, key, value)}\n") != [(key, value, [0])]:
        return "such a key or value cannot be written to a table of this type"
    return None


def _difference(kind, old, new, hidden):
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


def _digest(contents, kind=None):
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


# -- files and processes -------------------------------------------------------------------------


def _read(path):
    try:
        with open(path, "rb") as handle:
            return handle.read()
    except FileNotFoundError:
        return None
    except OSError as err:
        raise CommandExecutionError(f"Cannot read {path}: {err.strerror}") from err


def _record():
    """What is known of tables: ``{"tables": {path: {…}}, "made": [paths], "postfix": {…}}``."""
    return {"tables": {}, "made": [], "postfix": {}, **__salt__["mta_state.read"](RECORD)}


def _noticed():
    """What this run has found out and the record does not say yet; kept by :func:`remember`."""
    return __context__.setdefault("mta_map.noticed", {"tables": {}, "postfix": {}})


def _installed():
    return os.path.exists(PROGRAMS["postmap"])


def _run(program, *arguments, contents=None):
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
def _private(contents):
    """
    A private directory with a table's source, ``table``, and a main.cf of its own.

    The host's main.cf is not read: a Postfix program sleeps until that is 2 s old. The name is one that
    :py:mod:`postconf` clears away when the run was killed.
    """
    parent = __salt__["mta_state.path"]("")
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


def _said(folder, errors):
    text = errors.decode(errors="replace").replace(f"{folder}/", "")
    return "; ".join(line.partition(": ")[2] or line for line in text.splitlines())


def _about_postfix():
    """
    The default database type and the table types of this Postfix, ``{"default": text, "types": [text]}``.

    One process each, and none while the record is about the same program and plugins.
    """
    stamp = []
    for path in (PROGRAMS["postconf"], "/etc/postfix/dynamicmaps.cf", "/etc/postfix/dynamicmaps.cf.d"):
        with contextlib.suppress(OSError):
            status = os.stat(path)
            stamp.append([path, status.st_size, status.st_mtime_ns, status.st_ino])
    for known in (_noticed()["postfix"], _record()["postfix"]):
        if known.get("stamp") == stamp:
            return known
    code, default, errors = _run("postconf", "-d", "-h", "default_database_type")
    if code:
        raise CommandExecutionError(f"postconf cannot tell default_database_type: {errors.decode().strip()}")
    types = _run("postconf", "-m")[1].decode().split()
    _noticed()["postfix"] = {"stamp": stamp, "default": default.decode().strip(), "types": types}
    return _noticed()["postfix"]


def default_type():
    """
    Return the type of a table that does not say its own: ``default_database_type`` of main.cf, or Postfix's.

    ``None`` while Postfix is not installed. Starts a process only when Postfix has changed since the last time.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_map.default_type
    """
    with contextlib.suppress(CommandExecutionError):
        main = __salt__["postconf.show"]()
        if "$" not in main.get("default_database_type", "$"):
            return main["default_database_type"]
    return _about_postfix()["default"] if _installed() else None


def missing_types(types):
    """
    Return those of some table types that this Postfix does not have; none while it is not installed.

    types
        List of names, as in ``postconf -m``.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_map.missing_types '[hash, lmdb]'
    """
    if not types or not _installed():
        return []
    there = _about_postfix()["types"]
    return [kind for kind in types if kind not in there]


def compiled(contents, kind, program="postmap", **job):
    """
    Return the compiled form of a table's source, as bytes; nothing on the host changes.

    For states and other modules: as a job it is refused.

    contents
        The source, as bytes.

    kind
        An indexed type: ``hash``, ``btree``, ``lmdb``, ``cdb``.

    program
        ``postmap`` (the default) or ``postalias``.

    For other modules. Raises ``CommandExecutionError`` when the program cannot compile it, and when postmap(1)
    would leave out a part of it.
    """
    __salt__["mta_state.refuse_job"]("mta_map.compiled", job)
    if isinstance(contents, str):
        contents = contents.encode("utf-8", "surrogateescape")
    with _private(contents) as (folder, source):
        code, _, errors = _run(program, "-c", folder, f"{kind}:{source}")
        if code or (program == "postmap" and b"warning" in errors):
            raise CommandExecutionError(f"{program} cannot compile this as {kind}: {_said(folder, errors)}")
        return _read(source + SUFFIXES[kind])


def is_current(path, contents, kind, program="postmap", **job):
    """
    Tell what is wrong with the compiled form of a table; ``None`` when nothing is.

    For states and other modules: as a job it is refused.

    path
        Of the source. It need not exist.

    contents
        What the source holds, as bytes.

    kind, program
        As for :func:`compiled`.

    It reads both files, and starts a process only when the compiled form is not the one that it was when this was
    asked, or it was made, the last time.
    """
    __salt__["mta_state.refuse_job"]("mta_map.is_current", job)
    target = path + SUFFIXES[kind]
    found = _read(target)
    if found is None:
        return "missing"
    with contextlib.suppress(FileNotFoundError):
        if os.stat(target).st_mtime_ns < os.stat(path).st_mtime_ns:
            return f"older than {path}"
    digests = {"type": kind, "source": _digest(contents), "compiled": _digest(found, kind)}
    known = _record()["tables"].get(path, {})
    if all(known.get(key) == value for key, value in digests.items()):
        return None
    if _digest(compiled(contents, kind, program), kind) != digests["compiled"]:
        return "damaged, or not made from its source"
    _notice(path, digests)
    return None


def _notice(path, facts):
    """Take facts of a table down, for :func:`remember`, when the record does not have them."""
    noticed = {**_noticed()["tables"].get(path, {}), **facts}
    if noticed != _record()["tables"].get(path):
        _noticed()["tables"][path] = noticed


def remember():
    """
    Keep what a run without changes has found out, so that the next one need not start a process for it.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_map.remember
    """
    noticed = _noticed()
    if any(noticed.values()):
        # Another apply that is under way writes the record, too; the next run finds this out again.
        __salt__["mta_transaction.alone"](lambda: __salt__["mta_state.write"](RECORD, _updated()), wait=False)
        __context__.pop("mta_map.noticed")


def _updated(made=(), gone=()):
    """The record with what this run noticed."""
    record, noticed = _record(), _noticed()
    record["tables"].update(noticed["tables"])
    record["postfix"] = noticed["postfix"] or record["postfix"]
    record["made"] = sorted({*record["made"], *made} - set(gone))
    for path in gone:
        record["tables"].pop(path, None)
    return record


def _keep(made=(), gone=()):
    """Write the record as a part of the transaction."""
    text = json.dumps(_updated(made, gone))
    __salt__["mta_transaction.write"](__salt__["mta_state.path"](RECORD), text, mode="0600")
    __context__.pop("mta_map.noticed", None)


# -- one table -----------------------------------------------------------------------------------


def show(path, kind):
    """
    Return the entries of a table's source, a list of ``[key, value]``; ``None`` when there is no such file.

    path
        Of the source.

    kind
        Type, which decides how a line is read. Settings (of ldap and so on) are ``[name, value]``.

    Raises ``CommandExecutionError`` when the file cannot be read, or is no UTF-8 text.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_map.show /etc/postfix/virtual hash
    """
    contents = _read(path)
    if contents is None:
        return None
    try:
        text = contents.decode()
    except ValueError as err:
        raise CommandExecutionError(f"{path} is no UTF-8 text: {err}") from err
    return [[key, value] for key, value, _ in _parsed(kind, text)]


def unfit(path, kind, entries, secret=False, mode=None, source=None, **job):
    """
    Return why a table cannot be as it is asked for; ``None`` when it can.

    For states and other modules: as a job it is refused.

    path
        Of the source: what was found right the last time is not looked at again.

    kind
        Type; ``None``: the default one.

    entries, secret, mode, source
        As for the state ``mta_map.managed``.

    Returns text that begins with the argument at fault: ``entries:key: reason``, ``mode: reason``. A secret is not
    part of it.
    """
    __salt__["mta_state.refuse_job"]("mta_map.unfit", job)
    kind = kind or default_type()
    if mode is not None:
        # The file is fetched only where it matters who may read it.
        fetch = source and kind in SETTINGS and _wrong_mode(mode, True)
        pairs = _of_file_server(kind, source)[0] if fetch else []
        secrets = secret or any(_is_secret(kind, *pair) for pair in pairs) or _has_secrets(kind, entries)
        reason = _wrong_mode(mode, secrets)
        if reason:
            return f"mode: {reason}"
    asked = _asked_digest(kind, entries, secret)
    if source or (asked and _record()["tables"].get(path, {}).get("asked") == asked):
        return None
    try:
        _wanted(kind, entries, secret)
    except SaltInvocationError as err:
        return f"entries:{err}"
    return None


def _asked_digest(kind, entries, secret):
    """Digest of what is asked for; ``None`` when that is not all in pillar, or no table can hold it."""
    try:
        text = json.dumps([kind, entries, secret], default=str)
    except TypeError:
        return None
    return None if "sdb://" in text else hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


def _asked(kind, entries, entries_pillar, source, secret, logins):
    """What the table is to be: ``(pairs, secret keys, text or None)``; the text is that of a file to be copied."""
    if source:
        pairs, text = _of_file_server(kind, source)
        passwords = {key for key, value in pairs if _is_secret(kind, key, value)}
        return pairs, {"*"} if secret else passwords, text

    def resolve(value, key, where):
        if logins:
            return _login(logins[key])
        return __salt__["mta_secret.resolve"](value, f"{entries_pillar or 'entries'}:{where}")

    pairs, hidden = _wanted(kind, entries, secret, resolve)
    return pairs, {"*"} if secret else hidden, None


def _of_file_server(kind, source):
    """The pairs and the text of a table that is on the file server."""
    path = __salt__["cp.cache_file"](source, __opts__.get("saltenv") or "base")
    if not path:
        raise CommandExecutionError(f"{source} is not on the file server")
    text = _read(path).decode("utf-8", "surrogateescape")
    return [(key, value) for key, value, _ in _parsed(kind, text)], text


def _login(path):
    """The value of a login in a table, ``user name:password`` (SASL_README); ``path``: its section in pillar."""
    username, password = (__salt__["mta_secret.get"](f"{path}:{part}") for part in ("username", "password"))
    if username is None or password is None:
        raise SaltInvocationError(f"Pillar {path} has no username and password")
    if ":" in username:
        raise SaltInvocationError(f"Pillar {path}:username has a colon; in a table that is its end")
    return f"{username}:{password}"


def _prepare(
    name,
    type=None,
    entries=None,
    entries_pillar=None,
    source=None,
    secret=False,
    mode=None,
    package=None,
    logins=None,
):
    """Read what is there and find what has to change."""
    if not os.path.isabs(name):
        raise SaltInvocationError(f"The path of a table is absolute, not {name!r}")
    kind = type or default_type()
    if entries_pillar:
        # Not pillar.get: on Salt 3008 it gives execution modules '**********' instead of the values.
        entries = traverse_dict_and_list(__pillar__, entries_pillar, None)
    if logins:
        entries = {key: traverse_dict_and_list(__pillar__, path, None) for key, path in logins.items()}
        secret = True
    if kind is not None and kind not in TYPES:
        raise SaltInvocationError(f"{name}: no table of type {kind!r} has a file; allowed: {', '.join(TYPES)}")
    contents = _read(name)
    # Before what is known of the table: it may be from a time at which this was not looked at.
    _refuse_open(name, mode, secret or (not source and _has_secrets(kind, entries)))
    asked = None if source else _asked_digest(kind, entries, secret)
    if contents is not None and _is_as_known(name, kind, contents, asked, mode):
        return {"changes": {}, "errors": [], "notes": None}
    pairs, hidden, text = _asked(kind, entries, entries_pillar, source, secret, logins)
    _refuse_open(name, mode, hidden)
    present = None if contents is None else contents.decode("utf-8", "surrogateescape")
    old = [(key, value) for key, value, _ in _parsed(kind, present or "")]
    if text is None:
        text = _edited(kind, HEADER if present is None else present, pairs)
    changes = {}
    if present != text:
        changes = _difference(kind, old, pairs, hidden | _once_secret(kind, old, pairs, hidden, name))
        if not changes and present is not None:
            changes["text"] = {"old": "other comments or another order", "new": "as given"}
    status = None if present is None else os.stat(name)
    bits, group = _permissions(kind, bool(hidden), mode, status)
    rights = f"{bits:04o} {group}"
    if status is None or rights != _rights(status):
        changes["mode"] = {"old": status and _rights(status), "new": rights}
    encoded = text.encode("utf-8", "surrogateescape")
    errors, notes = [], None
    if kind and _installed() and missing_types([kind]):
        if package and __salt__["mta_package.versions"]([package])[package] is None:
            notes = f"The table type {kind} comes with {package}."
        else:
            errors = [_no_such_type(kind)]
    elif kind and _installed():
        if kind in SUFFIXES and not changes:
            with _words_hidden(kind, bool(hidden) or not bits & 0o004):
                wrong = is_current(name, encoded, kind)
            target = os.stat(name + SUFFIXES[kind]) if wrong != "missing" else status
            if not wrong and _rights(target) != _rights(status):
                wrong = f"{_rights(target)}"
            if wrong:
                changes["compiled"] = {"old": wrong, "new": "as its source"}
        if changes:
            errors = _tried(kind, encoded)
            if errors and (hidden or not bits & 0o004):
                errors = [_unsaid(kind)]
        else:
            _notice(name, _facts(kind, encoded, asked, mode, rights))
    return {
        "facts": _facts(kind, encoded, asked, mode, rights),
        "kind": kind,
        "contents": encoded,
        "private": bool(hidden) or not bits & 0o004,
        "changes": changes,
        "errors": errors,
        "notes": notes,
        "mode": f"{bits:04o}",
        "group": group,
        "user": _name_of(pwd.getpwuid, status.st_uid) if status else "root",
        "text_differs": present != text,
        "bits_differ": "mode" in changes,
    }


def _refuse_open(name, mode, secrets):
    """Raise for a mode that is none, or that lets others read a table with secrets."""
    reason = _wrong_mode(mode, secrets)
    if reason:
        raise SaltInvocationError(f"{name}: the mode {reason}")


def _wrong_mode(mode, secrets):
    """Why a table cannot have the mode, in words that follow ``mode``; ``None`` when it can."""
    if mode is None:
        return None
    if not isinstance(mode, str) or not re.fullmatch("[0-7]{3,4}", mode):
        return f'{mode!r} is not an octal text, such as "0640"'
    if secrets and int(mode, 8) & 0o007:
        return f'"{mode}" lets others at what is secret in it; allowed: "0600", or "0640" for the daemons\' group'
    return None


def _has_secrets(kind, entries):
    """Whether one of the entries is a secret, as far as they have the shape of entries."""
    with contextlib.suppress(SaltInvocationError):
        return any(_marked(value) or _is_secret(kind, key, value) for key, value in _items(kind, entries))
    return False


def _once_secret(kind, old, pairs, hidden, name):
    """
    Keys whose values in the file that is there may be secrets, though pillar no longer says so; ``*``: all.

    Where others may not read, or a secret is to come, the old values are not shown; of settings, those that go.
    """
    private = bool(hidden) or (os.path.exists(name) and not os.stat(name).st_mode & 0o004)
    if kind in SETTINGS:
        wanted = {key for key, _ in pairs}
        return {key for key, value in old if _is_secret(kind, key, value) or (private and key not in wanted)}
    return {"*"} if private else set()


def _facts(kind, contents, asked, mode, rights):
    """What the record says of a table that is as it was asked for."""
    return {"type": kind, "source": _digest(contents), "asked": asked, "mode": mode, "rights": rights}


def _is_as_known(name, kind, contents, asked, mode):
    """Whether the same was asked for the last time, and nothing has changed since."""
    rights = _rights(os.stat(name))
    known = _record()["tables"].get(name, {})
    facts = _facts(kind, contents, asked, mode, rights)
    if asked is None or any(known.get(key) != value for key, value in facts.items()):
        return False
    if kind not in SUFFIXES:
        return True
    if is_current(name, contents, kind) is not None:
        return False
    return _rights(os.stat(name + SUFFIXES[kind])) == rights


def _unsaid(kind):
    return f"postmap refuses this as {kind}; its words are not shown, as they may hold a secret"


@contextlib.contextmanager
def _words_hidden(kind, private):
    """Keep the words of postmap(1) about a ``private`` table out of the error: they may quote it."""
    try:
        yield
    except CommandExecutionError as err:
        if private:
            raise CommandExecutionError(_unsaid(kind)) from None
        raise err


def _no_such_type(kind):
    known = _about_postfix()
    return (
        f"This Postfix has no table type {kind}; it has {', '.join(known['types'])}. Leave the type out for"
        f" default_database_type ({known['default']}), or name another one"
    )


def _tried(kind, contents):
    """What postmap(1) says against a table, a list. What a server has to be asked for is left to the live one."""
    try:
        if kind in SUFFIXES:
            compiled(contents, kind)
        elif kind not in SETTINGS:
            with _private(contents) as (folder, source):
                _, _, errors = _run("postmap", "-c", folder, "-q", "x", f"{kind}:{source}")
                if errors.strip():
                    return [f"postmap refuses this as {kind}: {_said(folder, errors)}"]
    except CommandExecutionError as err:
        return [str(err)]
    return []


def _permissions(kind, private, mode, status):
    """
    Mode bits and group. Where only the group may read, it is that of the daemons.

    Daemons open tables as root, before they give up their rights. proxymap(8), which SQL and LDAP tables are
    usually reached through, has given them up: it reads as a member of ``postfix``.
    """
    if mode is not None:
        bits = int(mode, 8)
    elif private:
        bits = 0o640 if kind in SETTINGS else 0o600
    else:
        bits = stat.S_IMODE(status.st_mode) if status else 0o644
    if bits & 0o040 and not bits & 0o004:
        return bits, "postfix"
    return bits, _name_of(grp.getgrgid, status.st_gid) if status else "root"


def _rights(status):
    return f"{stat.S_IMODE(status.st_mode):04o} {_name_of(grp.getgrgid, status.st_gid)}"


def _name_of(look_up, number):
    try:
        return look_up(number)[0]
    except KeyError:
        return str(number)


def plan(name, **table):
    """
    Tell what :func:`apply` would change. Without changes it reads files, and starts no process.

    name
        Absolute path of the source.

    table
        ``type``, ``entries``, ``entries_pillar``, ``source``, ``secret``, ``mode``, ``package``, ``logins``: as
        for the state ``mta_map.managed``.

    Returns ``{"changes": …, "activate": …, "errors": what Postfix refuses of it, "comment": text or None}``.
    Raises ``SaltInvocationError`` for what a table cannot hold, ``CommandExecutionError`` when a file cannot be
    read.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_map.plan /etc/postfix/virtual entries='{"info@example.com": "alice"}'
    """
    table = _prepare(name, **_public(table))
    changes = table["changes"]
    return {
        "changes": {f"{name} {key}" if key == "mode" else key: change for key, change in changes.items()},
        "activate": {"postfix": "reload"} if changes else {},
        "errors": table["errors"],
        "comment": table["notes"],
    }


def apply(name, **table):
    """
    Write a table and compile it, as a part of the transaction.

    For states: by itself it is refused.

    name, table
        As for :func:`plan`.

    Raises as :func:`plan` does, and ``CommandExecutionError`` when Postfix does not have the type, or does not
    take the table.
    """
    __salt__["mta_transaction.need"]({"postfix": "reload"})
    table = _prepare(name, **_public(table))
    kind = table["kind"]
    if kind is None:
        raise CommandExecutionError("Postfix is not installed: there is no postmap")
    if missing_types([kind]) or table["errors"]:
        raise CommandExecutionError("\n".join(table["errors"]) or _no_such_type(kind))
    made = [path for path in (name, name + SUFFIXES.get(kind, "")) if not os.path.exists(path)]
    rights = {key: table[key] for key in ("user", "group", "mode")}
    write = __salt__["mta_transaction.write"]
    if not os.path.isdir(os.path.dirname(name)):
        __salt__["mta_transaction.directory"](os.path.dirname(name))
    if table["text_differs"] or table["bits_differ"]:
        write(name, table["contents"], activate={"postfix": "reload"}, **rights)
    facts = table["facts"]
    if kind in SUFFIXES:
        with _words_hidden(kind, table["private"]):
            new = compiled(table["contents"], kind)
        facts["compiled"] = _digest(new, kind)
        write(name + SUFFIXES[kind], new, activate={"postfix": "reload"}, **rights)
    _notice(name, facts)
    _keep(made=made)


def _public(arguments):
    """Arguments without what Salt adds to those of a command line."""
    return {key: value for key, value in arguments.items() if not key.startswith("__")}


def lookup(table, key, config_directory="/etc/postfix"):
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

    CLI Example:

    .. code-block:: bash

        salt '*' mta_map.lookup hash:/etc/postfix/virtual info@example.com
        salt '*' mta_map.lookup virtual_alias_maps info@example.com
    """
    key = str(key)
    if "\n" in key or not key:
        raise SaltInvocationError("A key is a text in one line")
    tables = [table] if ":" in table else __salt__["postconf.tables"](table, config_directory)
    for one in tables:
        # Not as an argument: a key may begin with a hyphen.
        code, output, errors = _run(
            "postmap", "-c", config_directory, "-q", "-", one, contents=f"{key}\n".encode()
        )
        said = errors.decode(errors="replace")
        if "fatal:" in said or "error:" in said or (code and said.strip()):
            raise CommandExecutionError(f"postmap cannot look this up in {one}: {said.strip()}")
        if output:
            return output.decode(errors="replace").partition("\t")[2].rstrip("\n")
    return None


# -- tables that nobody asks for any more ----------------------------------------------------------


def _stale(keep, absent):
    """Files to be removed: of tables that are to be absent, and what was made for tables that are not kept."""
    wanted = set()
    for path, kind in keep.items():
        suffix = SUFFIXES.get(kind or default_type(), "")
        wanted.update({path, path + suffix})
    files = [path + suffix for path in absent for suffix in dict.fromkeys(["", *SUFFIXES.values()])]
    files += [path for path in _record()["made"] if path not in wanted]
    return [path for path in dict.fromkeys(files) if path not in wanted and os.path.exists(path)]


def only_plan(keep=None, absent=None):
    """
    Tell what :func:`only_apply` would remove.

    keep
        Dictionary of path to type (``None``: the default) of the tables that stay. Default: none.

    absent
        List of paths of tables that are not to be there, whoever made them. Default: none.

    Returns what :func:`plan` does; a table that main.cf or master.cf still names is an error when it is in
    ``absent``, and stays when it is not.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_map.only_plan absent='[/etc/postfix/virtual]'
    """
    stale, named, edited = _removable(keep or {}, absent or [])
    changes = {path: {"old": "there", "new": None} for path in stale}
    left = [
        f"{path} stays, as it is named by {where}" for path, where in named.items() if path not in (absent or [])
    ]
    left += [f"{path} stays, as somebody has changed it since the last apply" for path in edited]
    return {
        "changes": changes,
        "activate": {},
        "errors": [f"{path}: still named by {where}" for path, where in named.items() if path in (absent or [])],
        "comment": "; ".join(left) or None,
    }


def _removable(keep, absent):
    stale = _stale(keep, absent)
    sources = [path for path in stale if os.path.splitext(path)[1] not in SUFFIXES.values()]
    sources += [os.path.splitext(path)[0] for path in stale if path not in sources]
    named = __salt__["postconf.naming"](sources) if stale else {}
    named = {path: where for path, where in named.items() if path not in keep}
    asked = {*named, *absent, *keep}
    edited = [path for path in dict.fromkeys(sources) if path not in asked and _is_edited(path)]
    kept = {path + suffix for path in (*named, *edited) for suffix in ("", *SUFFIXES.values())}
    return [path for path in stale if path not in kept], named, edited


def _is_edited(path):
    """Whether the source of a table that was made here is no longer what the last apply knew."""
    known, contents = _record()["tables"].get(path), _read(path)
    return bool(known) and contents is not None and _digest(contents) != known.get("source")


def only_apply(keep=None, absent=None):
    """
    Remove the tables that nobody asks for any more, with their compiled forms, as a part of the transaction.

    For states: by itself it is refused.

    keep, absent
        As for :func:`only_plan`.
    """
    __salt__["mta_transaction.begin"]()
    stale = _removable(keep or {}, absent or [])[0]
    for path in stale:
        __salt__["mta_transaction.remove"](path)
    _keep(gone=stale)
