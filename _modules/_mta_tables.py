"""
Lookup tables of this host: compiled by Postfix's own programs, compared with their sources, looked up.

Indexed types are compiled in a private directory. Whether a compiled form is what its source gives is known by
digests kept in ``maps.json`` of the state directory. Where they do not match, and only there, the source is
compiled and compared: postmap(1) gives the same bytes for the same source, but for an identifier in the header of
Berkeley DB files and the time that postalias(1) puts in.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_postfix_syntax
import _mta_postfix_view
import _mta_system
import _mta_table_syntax
from _mta_minion import Minion
from _mta_run import Run
from _mta_table_syntax import SETTINGS, SUFFIXES, Kind, Pair

RECORD = "maps.json"
PROGRAMS = {"postmap": "/usr/sbin/postmap", "postalias": "/usr/sbin/postalias", "postconf": "/usr/sbin/postconf"}
# What a new type comes with: the program that knows them, and its plugins.
PLUGINS = ("/etc/postfix/dynamicmaps.cf", "/etc/postfix/dynamicmaps.cf.d")
# The identifier of a Berkeley DB file, in the metadata page at its start (db_page.h).
IDENTIFIER = slice(52, 72)
TIME = rb"(?<![0-9])[0-9]{10}(?![0-9])"


# -- what is known of tables -------------------------------------------------------------------


def recorded(minion: Minion) -> dict[str, Any]:
    """What is known of tables: ``{"tables": {path: {…}}, "made": [paths], "postfix": {…}}``."""
    return {"tables": {}, "made": [], "postfix": {}, **minion.state.read(RECORD)}


def noticed(minion: Minion) -> dict[str, Any]:
    """What this run has found out and the record does not say yet, ``{"tables": …, "postfix": …}``."""
    tables = Run.of(minion).tables
    tables.setdefault("tables", {})
    tables.setdefault("postfix", {})
    return tables


def notice(minion: Minion, path: str, facts: dict[str, Any]) -> None:
    """Take facts of a table down, to be recorded at the end, when the record does not have them."""
    found = {**noticed(minion)["tables"].get(path, {}), **facts}
    if found != recorded(minion)["tables"].get(path):
        noticed(minion)["tables"][path] = found


def updated(minion: Minion, made: Iterable[str] = (), gone: Iterable[str] = ()) -> dict[str, Any]:
    """The record with what this run noticed, and with files that it has made or removed."""
    record, found = recorded(minion), noticed(minion)
    record["tables"].update(found["tables"])
    record["postfix"] = found["postfix"] or record["postfix"]
    record["made"] = sorted({*record["made"], *made} - set(gone))
    for path in gone:
        record["tables"].pop(path, None)
    return record


# -- this Postfix ------------------------------------------------------------------------------


def installed(program: str = "postmap") -> bool:
    """Whether Postfix's programs are there."""
    return os.path.exists(PROGRAMS[program])


def run(program: str, *arguments: str, stdin: str | None = None) -> _mta_system.Finished:
    """Run a program of Postfix, whatever its exit code."""
    return _mta_system.run([PROGRAMS[program], *arguments], stdin=stdin, check=False)


def about_postfix(minion: Minion) -> dict[str, Any]:
    """
    The default database type and the table types of this Postfix, ``{"default": text, "types": [text]}``.

    One process each, and none while the record is about the same program and plugins.
    """
    stamp = []
    for path in (PROGRAMS["postconf"], *PLUGINS):
        with contextlib.suppress(OSError):
            status = os.stat(path)
            stamp.append([path, status.st_size, status.st_mtime_ns, status.st_ino])
    known: dict[str, Any]
    for known in (noticed(minion)["postfix"], recorded(minion)["postfix"]):
        if known.get("stamp") == stamp:
            return known
    default = run("postconf", "-d", "-h", "default_database_type")
    if default.code:
        raise CommandExecutionError(f"postconf cannot tell default_database_type: {default.message}")
    types = run("postconf", "-m").text.split()
    known = {"stamp": stamp, "default": default.text.strip(), "types": types}
    noticed(minion)["postfix"] = known
    return known


def default_type(minion: Minion) -> str | None:
    """
    Return the type of a table that does not say its own: ``default_database_type`` of main.cf, or Postfix's.

    ``None`` while Postfix is not installed. Starts a process only when Postfix has changed since the last time.
    """
    with contextlib.suppress(CommandExecutionError):
        kind: str = _mta_postfix_view.show().get("default_database_type", "$")
        if "$" not in kind:
            return kind
    if not installed():
        return None
    kind = about_postfix(minion)["default"]
    return kind


def missing_types(minion: Minion, types: Iterable[str]) -> list[str]:
    """Return those of some table types that this Postfix does not have; none while it is not installed."""
    types = list(types)
    if not types or not installed():
        return []
    there = about_postfix(minion)["types"]
    return [kind for kind in types if kind not in there]


# -- compiled forms ----------------------------------------------------------------------------


@contextlib.contextmanager
def private(minion: Minion, contents: bytes) -> Iterator[tuple[str, str]]:
    """
    A private directory with a table's source, ``table``, and a main.cf of its own; ``(directory, source)``.

    The host's main.cf is not read: a Postfix program sleeps until that is 2 s old. The name is one that
    :py:mod:`_mta_postfix_stage` clears away when the run was killed.
    """
    parent = minion.state.path()
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


def _said(folder: str, errors: bytes) -> str:
    """What a program of Postfix said about a table in a private directory, without the directory."""
    text = errors.decode(errors="replace").replace(f"{folder}/", "")
    return "; ".join(line.partition(": ")[2] or line for line in text.splitlines())


def complaints(minion: Minion, contents: bytes, kind: str) -> str:
    """What postmap(1) says at a look-up in a table that is read as it is, ``pcre`` say; "": nothing."""
    with private(minion, contents) as (folder, source):
        return _said(folder, run("postmap", "-c", folder, "-q", "x", f"{kind}:{source}").errors)


def compiled(minion: Minion, contents: bytes, kind: str, program: str = "postmap") -> bytes:
    """
    Return the compiled form of a table's source, as bytes; nothing on the host changes.

    contents
        The source.

    kind
        An indexed type: ``hash``, ``btree``, ``lmdb``, ``cdb``.

    program
        ``postmap`` (the default) or ``postalias``.

    Raises ``CommandExecutionError`` when the program cannot compile it, and when postmap(1) would leave out a part
    of it.
    """
    with private(minion, contents) as (folder, source):
        done = run(program, "-c", folder, f"{kind}:{source}")
        made = _mta_system.read_bytes(source + SUFFIXES[kind])
        if done.code or made is None or (program == "postmap" and b"warning" in done.errors):
            said = _said(folder, done.errors)
            raise CommandExecutionError(f"{program} cannot compile this as {kind}: {said}")
        return made


def digest(contents: bytes, kind: Kind = None) -> str:
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


def compiled_fault(minion: Minion, path: str, contents: bytes, kind: str, program: str = "postmap") -> str | None:
    """
    Tell what is wrong with the compiled form of a table; ``None`` when nothing is.

    path
        Of the source. It need not exist.

    contents
        What the source holds.

    kind, program
        As for :func:`compiled`.

    It reads both files, and starts a process only when the compiled form is not the one that it was when this was
    asked, or it was made, the last time.
    """
    target = path + SUFFIXES[kind]
    found = _mta_system.read_bytes(target)
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


# -- for users, and for the settings -----------------------------------------------------------


def show(path: str, kind: Kind) -> list[list[str]] | None:
    """
    Return the entries of a table's source, a list of ``[key, value]``; ``None`` when there is no such file.

    path
        Of the source.

    kind
        Type, which decides how a line is read. Settings (of ldap and so on) are ``[name, value]``.

    Raises ``CommandExecutionError`` when the file cannot be read, or is no UTF-8 text.
    """
    contents = _mta_system.read_bytes(path)
    if contents is None:
        return None
    try:
        text = contents.decode()
    except ValueError as err:
        raise CommandExecutionError(f"{path} is no UTF-8 text: {err}") from err
    return [[key, value] for key, value, _ in _mta_table_syntax.parse(kind, text)]


def unfit(
    minion: Minion,
    path: str,
    kind: Kind,
    entries: Any,
    secret: bool = False,
    mode: Any = None,
    source: str | None = None,
) -> str | None:
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
        fetch = source and kind in SETTINGS and _mta_table_syntax.wrong_mode(mode, True)
        pairs = of_file_server(minion, kind, source)[0] if source and fetch else []
        secrets = (
            secret
            or any(_mta_table_syntax.is_secret(kind, *one) for one in pairs)
            or _mta_table_syntax.has_secrets(kind, entries)
        )
        reason = _mta_table_syntax.wrong_mode(mode, secrets)
        if reason:
            return f"mode: {reason}"
    asked = _mta_table_syntax.asked_digest(kind, entries, secret)
    if source or (asked and recorded(minion)["tables"].get(path, {}).get("asked") == asked):
        return None
    try:
        _mta_table_syntax.wanted(kind, entries, secret)
    except SaltInvocationError as err:
        return f"entries:{err}"
    return None


def of_file_server(minion: Minion, kind: Kind, source: str) -> tuple[list[Pair], str]:
    """The pairs and the text of a table that is on the file server. Raises ``CommandExecutionError``."""
    path = minion.functions["cp.cache_file"](source, minion.opts.get("saltenv") or "base")
    text = _mta_system.read(path) if path else None
    if text is None:
        raise CommandExecutionError(f"{source} is not on the file server")
    return [(key, value) for key, value, _ in _mta_table_syntax.parse(kind, text)], text


def lookup(minion: Minion, table: str, key: str, config_directory: str = "/etc/postfix") -> str | None:
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
        done = run("postmap", "-c", config_directory, "-q", "-", one, stdin=f"{key}\n")
        said = done.errors.decode(errors="replace").strip()
        if "fatal:" in said or "error:" in said or (done.code and said):
            raise CommandExecutionError(f"postmap cannot look this up in {one}: {said}")
        if done.output:
            return done.output.decode(errors="replace").partition("\t")[2].rstrip("\n")
    return None


def of_parameter(
    minion: Minion, parameter: str, config_directory: str = _mta_postfix_view.CONFIG_DIRECTORY
) -> list[str]:
    """
    Return the lookup tables that a parameter names, in order, as a list of ``type:path``.

    parameter
        Name of a parameter that holds tables, such as ``virtual_alias_maps``.

    config_directory
        Path, ``/etc/postfix``.

    References to other parameters are expanded. Raises ``CommandExecutionError`` as ``postconf.get`` does.
    """
    main = {**_mta_postfix_view.defaults(config_directory), **_mta_postfix_view.show(config_directory)}
    main.setdefault("default_database_type", default_type(minion) or "")
    value = _mta_postfix_syntax.expand(_mta_postfix_view.get(parameter, config_directory) or "", main)
    return [item for item in _mta_postfix_syntax.items_of(value) if re.match(r"[a-z][a-z0-9]*:", item)]
