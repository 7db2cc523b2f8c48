"""
Lookup tables of this host: compiled by Postfix's own programs, compared with their sources, looked up.

Indexed types are compiled in a private directory, under those of the host's settings that decide what becomes of
a line. Whether a compiled form holds what its source gives is known by digests kept in ``maps.json`` of the state
directory. Where they do not match, and only there, the source is compiled, and the entries of both forms are
compared (``postmap -s``), not their bytes: those differ between two compilations of one source. postalias(1) puts
in a time and the host's name, Berkeley DB an identifier and what was in the memory of a page, lmdb is filled in
place.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import struct
import tempfile
from collections.abc import Iterable, Iterator, Mapping
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
CONFIGURATION = ("/etc/postfix/main.cf", "/etc/postfix/master.cf")
# What of main.cf decides what becomes of a source, and what it may be. All else is left out, for a mistake in
# main.cf is fatal to Postfix's programs, and this apply may be the one that mends it.
COMPILING = {
    "berkeley_db_create_buffer_size": r"\d+",
    "compatibility_level": r"\d+(?:\.\d+){0,2}",
    "lmdb_map_size": r"\d+",
    "myhostname": r"[\w-]{1,63}(?:\.[\w-]{1,63})*",
    "smtputf8_enable": "yes|no",
}
# Its tables hold the contents of the files that their sources name.
SNI = "tls_server_sni_maps"
# What postalias(1) puts into a table besides the entries: for NIS, and a mark for Sendmail.
NO_ENTRIES = (b"YP_LAST_MODIFIED", b"YP_MASTER_NAME", b"@")
# Debian 14 says this at each use of a Berkeley DB type.
DEPRECATED = re.compile(rb"(?m)^.*(?:support is deprecated|NON_BERKELEYDB_README).*\n?")


# -- what is known of tables -------------------------------------------------------------------


def recorded(minion: Minion) -> Mapping[str, Any]:
    """What is known of tables: ``{"tables": {path: {…}}, "made": [paths], "postfix": {…}}``."""
    run = Run.of(minion)
    # For each table it is asked again, and it is as long as there are tables.
    stamp = _stamp(minion.state.path(RECORD))
    if run.record is None or run.record[0] != stamp:
        run.record = stamp, {"tables": {}, "made": [], "postfix": {}, **minion.state.read(RECORD)}
    return run.record[1]


def _stamp(path: str) -> list[Any] | None:
    """What tells a file from its next version; ``None``: there is none."""
    # Of a directory the names in it count.
    _mta_system.look(f"{path}/")
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [path, status.st_size, status.st_mtime_ns, status.st_ino]


def noticed(minion: Minion) -> dict[str, Any]:
    """What this run has found out and the record does not say yet, ``{"tables": …, "postfix": …}``."""
    tables = Run.of(minion).tables
    tables.setdefault("tables", {})
    tables.setdefault("postfix", {})
    return tables


def notice(minion: Minion, path: str, facts: dict[str, Any]) -> None:
    """Take facts of a table down, to be recorded at the end, when they are not known."""
    known = _known(minion, path)
    if known != {**known, **facts}:
        noticed(minion)["tables"][path] = {**known, **facts}


def _known(minion: Minion, path: str) -> dict[str, Any]:
    """What this run has found out of a table, or else the record has."""
    known: dict[str, Any] = noticed(minion)["tables"].get(path) or recorded(minion)["tables"].get(path, {})
    return known


def updated(minion: Minion, made: Iterable[str] = (), gone: Iterable[str] = ()) -> dict[str, Any]:
    """The record with what this run noticed, and with files that it has made or removed."""
    record, found, gone = recorded(minion), noticed(minion), set(gone)
    tables = {**record["tables"], **found["tables"]}
    return {
        **record,
        "tables": {path: facts for path, facts in tables.items() if path not in gone},
        "made": sorted({*record["made"], *made} - gone),
        "postfix": found["postfix"] or record["postfix"],
    }


# -- this Postfix ------------------------------------------------------------------------------


def installed(program: str = "postmap") -> bool:
    """Whether Postfix's programs are there."""
    return _mta_system.exists(PROGRAMS[program])


def run(program: str, *arguments: str, stdin: str | None = None) -> _mta_system.Finished:
    """Run a program of Postfix, whatever its exit code; that it is not fond of a type is left out of its words."""
    done = _mta_system.run([PROGRAMS[program], *arguments], stdin=stdin, check=False)
    return done._replace(errors=DEPRECATED.sub(b"", done.errors))


def about_postfix(minion: Minion) -> dict[str, Any]:
    """
    The default database type and the table types of this Postfix, ``{"default": text, "types": [text]}``.

    One process each, and none while the record is about the same program and plugins.
    """
    stamp = list(filter(None, map(_stamp, (PROGRAMS["postconf"], *PLUGINS))))
    known: dict[str, Any]
    for known in (noticed(minion)["postfix"], recorded(minion)["postfix"]):
        if known.get("stamp") == stamp and known["types"]:
            return known
    default = run("postconf", "-d", "-h", "default_database_type")
    if default.code:
        raise CommandExecutionError(f"postconf cannot tell default_database_type: {default.message}")
    # Not by the host's main.cf, in which a mistake is fatal here, too.
    with private(minion, b"") as (folder, _):
        listed = run("postconf", "-c", folder, "-m")
    types = listed.text.split()
    if listed.code or not types:
        raise CommandExecutionError(f"postconf cannot tell the table types: {listed.message or 'it has none'}")
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

    That has what :data:`COMPILING` names. The host's own is not read by Postfix's programs: they sleep until it is
    2 s old. The directory's name is one that :py:mod:`_mta_postfix_stage` clears away when the run was killed.
    """
    parent = minion.state.path()
    os.makedirs(parent, mode=0o700, exist_ok=True)
    folder = tempfile.mkdtemp(prefix=f"stage.{os.getpid()}.", dir=parent)
    try:
        main, source = os.path.join(folder, "main.cf"), os.path.join(folder, "table")
        settings = "".join(f"{name} = {value}\n" for name, value in _compiling_settings(minion).items())
        _write(main, settings.encode("utf-8", "surrogateescape"))
        os.utime(main, (0, 0))
        _write(source, contents)
        yield folder, source
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(path: str, contents: bytes) -> None:
    with open(path, "wb") as handle:
        handle.write(contents)


def _compiling_settings(minion: Minion) -> dict[str, str]:
    """What :data:`COMPILING` names, and what that refers to, as main.cf has it after what this run announced."""
    main = _main_cf(minion)
    found: dict[str, str] = {}
    names = [name for name, value in COMPILING.items() if re.fullmatch(rf"{value}|.*\$.*", main.get(name, ""))]
    while names:
        name = names.pop()
        value = main.get(name)
        if value is not None and name not in found:
            found[name] = value
            names += re.findall(r"\$[({]?(\w+)", value)
    return found


def _main_cf(minion: Minion) -> dict[str, str]:
    """The parameters of main.cf as they are after what this run of states has announced."""
    main: dict[str, Any] = {}
    with contextlib.suppress(CommandExecutionError):
        main.update(_mta_postfix_view.show())
    for name, change in Run.of(minion).changes.get("postconf", {}).items():
        if isinstance(change, Mapping):
            main[name] = change.get("new")
    return {name: value for name, value in main.items() if isinstance(value, str)}


def _said(folder: str, errors: bytes) -> str:
    """What a program of Postfix said about a table in a private directory, without the directory."""
    text = errors.decode(errors="replace").replace(f"{folder}/", "")
    return "; ".join(line.partition(": ")[2] or line for line in text.splitlines())


def complaints(minion: Minion, contents: bytes, kind: str) -> str:
    """What postmap(1) says at a look-up in a table that is read as it is, ``pcre`` say; "": nothing."""
    with private(minion, contents) as (folder, source):
        return _said(folder, run("postmap", "-c", folder, "-q", "x", f"{kind}:{source}").errors)


def compiled(minion: Minion, contents: bytes, kind: str, program: str = "postmap", files: bool = False) -> bytes:
    """
    Return the compiled form of a table's source, as bytes; nothing on the host changes.

    contents
        The source.

    kind
        An indexed type: ``hash``, ``btree``, ``lmdb``, ``cdb``.

    program
        ``postmap`` (the default) or ``postalias``.

    files
        Whether it holds the contents of the files that the source names (:func:`holds_files`). Default: no.

    Raises ``CommandExecutionError`` when the program cannot compile it, and when postmap(1) would leave out a part
    of it.
    """
    with private(minion, contents) as (folder, source):
        return _compile(folder, source, kind, program, files)


def _compile(folder: str, source: str, kind: str, program: str, files: bool) -> bytes:
    done = run(program, "-c", folder, *["-F"] * files, f"{kind}:{source}")
    made = _mta_system.read_bytes(source + SUFFIXES[kind])
    if done.code or made is None or (program == "postmap" and b"warning" in done.errors):
        said = _said(folder, done.errors)
        raise CommandExecutionError(f"{program} cannot compile this as {kind}: {said}")
    return made


def digest(contents: bytes) -> str:
    """Digest of a file."""
    return hashlib.blake2b(contents, digest_size=20).hexdigest()


def facts_of(kind: Kind, contents: bytes, files: bool = False) -> dict[str, str | None]:
    """What the record says of a source; ``files``: and of the files that it names."""
    return {
        "type": kind,
        "source": digest(contents),
        "files": _files_digest(contents) if files else None,
    }


def _files_digest(contents: bytes) -> str:
    text = contents.decode("utf-8", "surrogateescape")
    pairs = _mta_table_syntax.parse("hash", text)
    named = [path for _, value, _ in pairs for path in re.split(r"[,\s]+", value) if path]
    return digest(b"".join(digest(_mta_system.read_bytes(path) or b"").encode() for path in named))


def compiled_fault(
    minion: Minion, path: str, contents: bytes, kind: str, program: str = "postmap", files: bool = False
) -> str | None:
    """
    Tell what is wrong with the compiled form of a table; ``None`` when nothing is.

    path
        Of the source. It need not exist.

    contents
        What the source holds.

    kind, program, files
        As for :func:`compiled`.

    It reads both files, and starts processes only when one of them is not what it was when this was asked, or it
    was made, the last time.
    """
    target = path + SUFFIXES[kind]
    found = _mta_system.read_bytes(target)
    if found is None:
        return "missing"
    with contextlib.suppress(FileNotFoundError):
        if _mta_system.status(target).st_mtime_ns < _mta_system.status(path).st_mtime_ns:
            return f"older than {path}"
    facts = {**facts_of(kind, contents, files), "compiled": digest(found)}
    known = _known(minion, path)
    if all(known.get(key) == value for key, value in facts.items()):
        return None
    if not _holds_the_same(minion, found, contents, kind, program, files):
        return "damaged, or not made from its source"
    notice(minion, path, facts)
    return None


def _holds_the_same(minion: Minion, found: bytes, contents: bytes, kind: str, program: str, files: bool) -> bool:
    """Whether a compiled form holds what its source gives, as Postfix reads it."""
    with private(minion, contents) as (folder, source):
        made = _compile(folder, source, kind, program, files)
        if made == found:
            return True
        other = os.path.join(folder, "found")
        _write(other + SUFFIXES[kind], found)
        # Their keys and values as they are stored, of files too.
        entries = _entries(folder, source, made, kind, program)
        return entries is not None and entries == _entries(folder, other, found, kind, program)


def _entries(folder: str, path: str, contents: bytes, kind: str, program: str) -> list[bytes] | None:
    """The entries of a compiled form as sorted lines, ``key TAB value``; ``None``: it cannot be read."""
    if kind == "cdb":
        # The programs of Debian 12 do not list these.
        lines = _cdb_entries(contents)
    else:
        done = run(program, "-c", folder, "-s", f"{kind}:{path}")
        lines = None if done.code else done.output.splitlines()
    if lines is not None and program == "postalias":
        lines = [line for line in lines if line.partition(b"\t")[0].rstrip(b":") not in NO_ENTRIES]
    return None if lines is None else sorted(lines)


def _cdb_entries(contents: bytes) -> list[bytes] | None:
    """The entries of a cdb(5) file that its hash tables lead to; ``None``: it is damaged."""
    lines = []
    try:
        for number in range(256):
            start, slots = struct.unpack_from("<LL", contents, 8 * number)
            for slot in range(slots):
                hashed, position = struct.unpack_from("<LL", contents, start + 8 * slot)
                if not position:
                    continue
                lengths = struct.unpack_from("<LL", contents, position)
                texts = struct.unpack_from(f"{lengths[0]}s{lengths[1]}s", contents, position + 8)
                if hashed % 256 != number:
                    return None
                lines.append(b"\t".join(text.rstrip(b"\0") for text in texts))
    except struct.error:
        return None
    return lines


def holds_files(minion: Minion, path: str) -> bool:
    """
    Whether a table holds the contents of the files that its source names (``postmap -F``): keys and certificates
    by server name.

    So it does when ``tls_server_sni_maps`` names it: in main.cf or master.cf, after what this run has announced,
    or in pillar, for a table is made before main.cf names it.
    """
    real = _mta_system.real_path(path)
    items = [item for value in _sni_values(minion) for item in _mta_postfix_syntax.items_of(value)]
    return any(_mta_system.real_path(item.rpartition(":")[2]) == real for item in items)


def _sni_values(minion: Minion) -> list[str]:
    announced = Run.of(minion).changes.get("postconf", {})
    values = list(_named(SNI, announced))
    main, master = (_mta_system.read(file) or "" for file in CONFIGURATION)
    if SNI in main + master:
        known = _mta_postfix_view.with_places(_mta_postfix_syntax.parameters(main))
        found = [entry["overrides"].get(SNI) for entry in _mta_postfix_syntax.services(master).values()]
        found += [known.get(SNI)] if SNI not in announced else []
        values += [_mta_postfix_syntax.expand(value, known) for value in found if value]
    given = minion.pillar.get("postfix_mta")
    if isinstance(given, Mapping) and SNI in repr([given.get("parameters"), given.get("services")]):
        settings = minion.settings()
        values += _named(SNI, [settings["parameters"], settings["services"]])
    return values


def _named(name: str, data: Any) -> Iterator[str]:
    """The texts below a name, or below it as an override, in nested data."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            if key in (name, f"-o {name}"):
                yield from _texts(value)
            else:
                yield from _named(name, value)
    elif isinstance(data, (list, tuple)):
        for value in data:
            yield from _named(name, value)


def _texts(data: Any) -> Iterator[str]:
    if isinstance(data, str):
        yield data
    elif isinstance(data, Mapping):
        yield from _texts(data.get("new"))
    elif isinstance(data, (list, tuple)):
        for value in data:
            yield from _texts(value)


# -- for users, and for the settings -----------------------------------------------------------


def show(path: str, kind: Kind) -> list[list[str]] | None:
    """
    Return the entries of a table's source, a list of ``[key, value]``; ``None`` when there is no such file.

    Parameters, result and errors: ``mta_map.show``.
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
    path = minion.functions["cp.cache_file"](source, minion.saltenv)
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
    return of_value(minion, _mta_postfix_view.get(parameter, config_directory) or "", config_directory)


def of_value(minion: Minion, value: str, config_directory: str = _mta_postfix_view.CONFIG_DIRECTORY) -> list[str]:
    """Return the lookup tables that a parameter's value names, as :func:`of_parameter` does."""
    main = {**_mta_postfix_view.defaults(config_directory), **_mta_postfix_view.show(config_directory)}
    main.setdefault("default_database_type", default_type(minion) or "")
    value = _mta_postfix_syntax.expand(value, main)
    return [item for item in _mta_postfix_syntax.items_of(value) if re.match(r"[a-z][a-z0-9]*:", item)]
