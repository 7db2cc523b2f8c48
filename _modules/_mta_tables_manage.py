"""
Lookup tables as pillar asks for them: what differs, writing and compiling them, removing what nobody asks for.

Indexed types are compiled in a private directory and renamed into place, so that a daemon has the old table or
the new one, whole. It finds out by itself: the file that it has open has no name any more (dict_changed_name(3)).
Types that are read as they are (``texthash``, ``pcre``, ``regexp``, ``cidr``) are tried by postmap(1) before they
are switched.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from salt.exceptions import CommandExecutionError, SaltInvocationError
from salt.utils.data import traverse_dict_and_list

import _mta_package
import _mta_postfix_outlook
import _mta_secrets
import _mta_system
import _mta_table_syntax
import _mta_tables
import _mta_transaction
from _mta_minion import Minion
from _mta_plan import Plan
from _mta_records import NamedTuple, dataclass
from _mta_run import Run
from _mta_table_syntax import SETTINGS, SUFFIXES, TYPES, Kind, Pair

HEADER = "# Entries come from the Salt pillar; changes of them in this file are undone.\n"


class Request(NamedTuple):
    """A table as it is asked for: the arguments of the state ``mta_map.managed``, by their names there."""

    name: str
    type: str | None = None
    entries: Any = None
    entries_pillar: str | None = None
    source: str | None = None
    secret: bool = False
    mode: str | None = None
    package: str | None = None
    logins: Mapping[str, str] | None = None


class _Content(NamedTuple):
    """What a table is to hold; ``hidden``: keys of secrets (``*``: all), ``text``: that of a file to be copied."""

    pairs: list[Pair]
    hidden: set[str]
    text: str | None


class _Rights(NamedTuple):
    """Mode bits and group, as text ``0644 root``."""

    bits: int
    group: str

    def __str__(self) -> str:
        return f"{self.bits:04o} {self.group}"

    @classmethod
    def of(cls, status: os.stat_result) -> _Rights:
        return cls(stat.S_IMODE(status.st_mode), _mta_system.group_name(status.st_gid))


@dataclass
class _Table:
    """
    A table as it is to be, and in what it differs from the one that is there.

    private
        Whether others may not know what is in it.

    facts
        What the record says of it, once it is so.

    files
        Whether its compiled form holds the contents of the files that it names: private keys.

    writes
        Whether the source is written: its text, its mode or its group differs.
    """

    kind: Kind
    contents: bytes
    private: bool
    rights: _Rights
    user: str
    facts: dict[str, Any]
    changes: dict[str, Any]
    files: bool
    writes: bool
    errors: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)


# -- one table ---------------------------------------------------------------------------------


def plan(minion: Minion, name: str, **table: Any) -> Plan:
    """
    Tell what :func:`apply` would change. Without changes it reads files, and starts no process.

    name
        Absolute path of the source.

    table
        Further arguments of the state ``mta_map.managed``, as :class:`Request` has them.

    The plan's errors are what Postfix refuses of it. Raises ``SaltInvocationError`` for what a table cannot hold,
    ``CommandExecutionError`` when a file cannot be read.
    """
    found = _prepare(minion, Request(name, **table))
    if found is None:
        return Plan()
    suffixes = [""] * found.writes + [SUFFIXES.get(found.kind or "", "")]
    replaced = [name + suffix for suffix in suffixes]
    activate = {"postfix": "reload"} if found.changes else {}
    return Plan(found.changes, activate, found.errors, found.notes, replaced)


def apply(minion: Minion, name: str, **table: Any) -> None:
    """
    Write a table and compile it, as a part of the transaction.

    name, table
        As for :func:`plan`.

    Raises as :func:`plan` does, and ``CommandExecutionError`` when Postfix does not have the type, or does not
    take the table.
    """
    _mta_transaction.need(minion, {"postfix": "reload"})
    found = _prepare(minion, Request(name, **table))
    if found is None:
        return
    kind = found.kind
    if kind is None:
        raise CommandExecutionError("Postfix is not installed: there is no postmap")
    if _mta_tables.missing_types(minion, [kind]) or found.errors:
        raise CommandExecutionError("\n".join(found.errors) or _no_such_type(minion, kind))
    made = [path for path in (name, name + SUFFIXES.get(kind, "")) if not _mta_system.exists(path)]
    if not _mta_system.is_directory(os.path.dirname(name)):
        _mta_transaction.directory(minion, os.path.dirname(name))
    if found.writes:
        _write(minion, name, found.contents, found.user, found.rights)
    facts = found.facts
    if kind in SUFFIXES:
        with _words_hidden(kind, found.private):
            new = _mta_tables.compiled(minion, found.contents, kind, files=found.files)
        facts["compiled"] = _mta_tables.digest(new)
        target = name + SUFFIXES[kind]
        _write(minion, target, new, found.user, _compiled_rights(target, found.rights, found.files))
    _mta_tables.notice(minion, name, facts)
    _keep(minion, made=made)


def _write(minion: Minion, path: str, contents: bytes, user: str, rights: _Rights) -> None:
    reload = {"postfix": "reload"}
    mode = f"{rights.bits:04o}"
    _mta_transaction.write(minion, path, contents, user, rights.group, mode, activate=reload)


def _prepare(minion: Minion, asked: Request) -> _Table | None:
    """Read what is there and find what has to change; ``None``: nothing, as far as the record vouches for it."""
    asked = _of_pillar(minion, asked)
    kind = _kind(minion, asked)
    contents = _mta_system.read_bytes(asked.name)
    # Before what is known of the table: it may be from a time at which this was not looked at.
    _refuse_open(asked, asked.secret or (not asked.source and _mta_table_syntax.has_secrets(kind, asked.entries)))
    digest = None if asked.source else _mta_table_syntax.asked_digest(kind, asked.entries, asked.secret)
    files = kind in SUFFIXES and _mta_tables.holds_files(minion, asked.name)
    if contents is not None and _is_as_known(minion, asked, kind, contents, digest, files):
        return None
    content = _content(minion, asked, kind)
    _refuse_open(asked, bool(content.hidden))
    table = _compared(asked, kind, contents, content, digest, files)
    if kind and _mta_tables.installed():
        _judge(minion, asked, kind, table)
    return table


def _of_pillar(minion: Minion, asked: Request) -> Request:
    """The request with the entries that are in pillar, of logins as their sections."""
    # Not pillar.get: on Salt 3008 it gives execution modules '**********' instead of the values.
    if asked.logins:
        entries = {key: _in_pillar(minion, path) for key, path in asked.logins.items()}
        return asked._replace(entries=entries, secret=True)
    if asked.entries_pillar:
        return asked._replace(entries=_in_pillar(minion, asked.entries_pillar))
    return asked


def _in_pillar(minion: Minion, path: str) -> Any:
    """What is at a path of pillar; ``None``: nothing."""
    first, _, rest = path.partition(":")
    # Asked by its index, the pillar of Salt 3008 makes a copy of all that is in it.
    top = minion.pillar.get(first)
    return traverse_dict_and_list(top, rest, None) if rest else top


def _kind(minion: Minion, asked: Request) -> Kind:
    if not os.path.isabs(asked.name):
        raise SaltInvocationError(f"The path of a table is absolute, not {asked.name!r}")
    kind = asked.type or _mta_tables.default_type(minion)
    if kind is not None and kind not in TYPES:
        raise SaltInvocationError(
            f"{asked.name}: no table of type {kind!r} has a file; allowed: {', '.join(TYPES)}"
        )
    return kind


def _refuse_open(asked: Request, secrets: bool) -> None:
    """Raise for a mode that is none, or that lets others read a table with secrets."""
    reason = _mta_table_syntax.wrong_mode(asked.mode, secrets)
    if reason:
        raise SaltInvocationError(f"{asked.name}: the mode {reason}")


def _is_as_known(
    minion: Minion, asked: Request, kind: Kind, contents: bytes, digest: str | None, files: bool
) -> bool:
    """Whether the same was asked for the last time, and nothing has changed since."""
    rights = _Rights.of(_mta_system.status(asked.name))
    known = _mta_tables.recorded(minion)["tables"].get(asked.name, {})
    facts = _facts(asked, kind, contents, digest, rights, files)
    if digest is None or any(known.get(key) != value for key, value in facts.items()):
        return False
    if kind not in SUFFIXES:
        return True
    return kind is not None and _compiled_fault(minion, asked.name, kind, contents, rights, True, files) is None


def _facts(
    asked: Request, kind: Kind, contents: bytes, digest: str | None, rights: _Rights, files: bool
) -> dict[str, Any]:
    """What the record says of a table that is as it was asked for."""
    facts = _mta_tables.facts_of(kind, contents, files)
    return {**facts, "asked": digest, "mode": asked.mode, "rights": str(rights)}


def _content(minion: Minion, asked: Request, kind: Kind) -> _Content:
    """What the table is to hold, secrets resolved."""
    if asked.source:
        pairs, text = _mta_tables.of_file_server(minion, kind, asked.source)
        passwords = {key for key, value in pairs if _mta_table_syntax.is_secret(kind, key, value)}
        return _Content(pairs, {"*"} if asked.secret else passwords, text)
    logins = asked.logins

    def resolve(value: Any, key: str, where: str) -> str:
        if logins:
            return _login(minion, logins[key])
        secret: str = _mta_secrets.resolve(minion, value, f"{asked.entries_pillar or 'entries'}:{where}")
        return secret

    pairs, hidden = _mta_table_syntax.wanted(kind, asked.entries, asked.secret, resolve)
    return _Content(pairs, {"*"} if asked.secret else hidden, None)


def _login(minion: Minion, path: str) -> str:
    """The value of a login in a table, ``user name:password`` (SASL_README); ``path``: its section in pillar."""
    username, password = (_mta_secrets.get(minion, f"{path}:{part}") for part in ("username", "password"))
    if username is None or password is None:
        raise SaltInvocationError(f"Pillar {path} has no username and password")
    if ":" in username:
        raise SaltInvocationError(f"Pillar {path}:username has a colon; in a table that is its end")
    return f"{username}:{password}"


def _compared(
    asked: Request, kind: Kind, contents: bytes | None, content: _Content, digest: str | None, files: bool
) -> _Table:
    """The table as it is to be, and in what its source differs from the one that is there, ``contents``."""
    present = None if contents is None else contents.decode("utf-8", "surrogateescape")
    text = content.text
    if text is None:
        text = _mta_table_syntax.edited(kind, HEADER if present is None else present, content.pairs)
    changes: dict[str, Any] = {}
    if present != text:
        old = [(key, value) for key, value, _ in _mta_table_syntax.parse(kind, present or "")]
        hidden = content.hidden | _once_secret(asked.name, kind, old, content)
        changes = _mta_table_syntax.difference(kind, old, content.pairs, hidden)
        if not changes and present is not None:
            changes["text"] = {"old": "other comments or another order", "new": "as given"}
    status = None if present is None else _mta_system.status(asked.name)
    rights = _permissions(asked, kind, bool(content.hidden), status)
    found = _Rights.of(status) if status else None
    if rights != found:
        changes[f"{asked.name} mode"] = {"old": found and str(found), "new": str(rights)}
    encoded = text.encode("utf-8", "surrogateescape")
    return _Table(
        kind,
        encoded,
        private=bool(content.hidden) or not rights.bits & 0o004,
        rights=rights,
        user=_mta_system.user_name(status.st_uid) if status else "root",
        facts=_facts(asked, kind, encoded, digest, rights, files),
        changes=changes,
        files=files,
        writes=present != text or rights != found,
    )


def _once_secret(name: str, kind: Kind, old: Sequence[Pair], content: _Content) -> set[str]:
    """
    Keys whose values in the file that is there may be secrets, though pillar no longer says so; ``*``: all.

    Where others may not read, or a secret is to come, the old values are not shown; of settings, those that go.
    """
    private = bool(content.hidden) or (_mta_system.exists(name) and not _mta_system.status(name).st_mode & 0o004)
    if kind in SETTINGS:
        stays = {key for key, _ in content.pairs}
        return {
            key
            for key, value in old
            if _mta_table_syntax.is_secret(kind, key, value) or (private and key not in stays)
        }
    return {"*"} if private else set()


def _permissions(asked: Request, kind: Kind, private: bool, status: os.stat_result | None) -> _Rights:
    """
    Mode bits and group. Where only the group may read, it is that of the daemons.

    Daemons open tables as root, before they give up their rights. proxymap(8), which SQL and LDAP tables are
    usually reached through, has given them up: it reads as a member of ``postfix``.
    """
    if asked.mode is not None:
        bits = int(asked.mode, 8)
    elif private:
        bits = 0o640 if kind in SETTINGS else 0o600
    else:
        bits = stat.S_IMODE(status.st_mode) if status else 0o644
    if bits & 0o040 and not bits & 0o004:
        return _Rights(bits, "postfix")
    return _Rights(bits, _mta_system.group_name(status.st_gid) if status else "root")


# -- what Postfix makes of it ------------------------------------------------------------------


def _judge(minion: Minion, asked: Request, kind: str, table: _Table) -> None:
    """Complete a table by what this Postfix has against it, or by what is wrong with its compiled form."""
    if _mta_tables.missing_types(minion, [kind]):
        if asked.package and _mta_package.versions(minion, [asked.package])[asked.package] is None:
            table.notes.append(f"The table type {kind} comes with {asked.package}.")
        else:
            table.errors.append(_no_such_type(minion, kind))
        return
    if kind in SUFFIXES and not table.changes:
        fault = _compiled_fault(minion, asked.name, kind, table.contents, table.rights, table.private, table.files)
        if fault:
            table.changes["compiled"] = {"old": fault, "new": "as its source"}
    if table.changes:
        errors = _tried(minion, kind, table.contents, table.files)
        table.errors += [_unsaid(kind)] if errors and table.private else errors
    else:
        _mta_tables.notice(minion, asked.name, table.facts)


def _compiled_fault(
    minion: Minion, name: str, kind: str, contents: bytes, rights: _Rights, private: bool, files: bool
) -> str | None:
    """What is wrong with the compiled form of a source that is right; ``private``: not in postmap's words."""
    with _words_hidden(kind, private):
        fault = _mta_tables.compiled_fault(minion, name, contents, kind, files=files)
    if fault:
        return fault
    target = name + SUFFIXES[kind]
    found = _Rights.of(_mta_system.status(target))
    return None if found == _compiled_rights(target, rights, files) else str(found)


def _compiled_rights(target: str, rights: _Rights, files: bool) -> _Rights:
    """Those of the source, ``rights``; but others read no private keys, and what keeps them out stays."""
    if not files:
        return rights
    with contextlib.suppress(FileNotFoundError):
        found = _Rights.of(_mta_system.status(target))
        if not found.bits & 0o007:
            return found
    return _Rights(0o600, "root")


def _tried(minion: Minion, kind: str, contents: bytes, files: bool) -> list[str]:
    """What postmap(1) says against a table. What a server has to be asked for is left to the live one."""
    try:
        if kind in SUFFIXES:
            _mta_tables.compiled(minion, contents, kind, files=files)
        elif kind not in SETTINGS:
            said = _mta_tables.complaints(minion, contents, kind)
            if said:
                return [f"postmap refuses this as {kind}: {said}"]
    except CommandExecutionError as err:
        return [str(err)]
    return []


def _unsaid(kind: str) -> str:
    return f"postmap refuses this as {kind}; its words are not shown, as they may hold a secret"


@contextlib.contextmanager
def _words_hidden(kind: str, private: bool) -> Iterator[None]:
    """Keep the words of postmap(1) about a ``private`` table out of the error: they may quote it."""
    try:
        yield
    except CommandExecutionError as err:
        if private:
            raise CommandExecutionError(_unsaid(kind)) from None
        raise err


def _no_such_type(minion: Minion, kind: str) -> str:
    known = _mta_tables.about_postfix(minion)
    return (
        f"This Postfix has no table type {kind}; it has {', '.join(known['types'])}. Leave the type out for"
        f" default_database_type ({known['default']}), or name another one"
    )


# -- the record --------------------------------------------------------------------------------


def remember(minion: Minion) -> None:
    """Keep what a run without changes has found out, so that the next one need not start a process for it."""
    if Run.of(minion).transaction and any(_mta_tables.noticed(minion).values()):
        # An undo puts back the record that another table's change has written.
        _keep(minion)
    elif any(_mta_tables.noticed(minion).values()):
        # Another apply that is under way writes the record, too; the next run finds this out again.
        _mta_transaction.alone(
            minion, lambda: minion.state.write(_mta_tables.RECORD, _mta_tables.updated(minion)), wait=False
        )
        Run.of(minion).tables.clear()


def _keep(minion: Minion, made: Iterable[str] = (), gone: Iterable[str] = ()) -> None:
    """Write the record as a part of the transaction."""
    text = json.dumps(_mta_tables.updated(minion, made, gone))
    _mta_transaction.write(minion, minion.state.path(_mta_tables.RECORD), text, mode="0600")
    Run.of(minion).tables.clear()


# -- tables that nobody asks for any more ------------------------------------------------------


class _Removable(NamedTuple):
    """
    ``files`` to be removed; ``named``, sources that main.cf or master.cf still name, with where; ``edited``,
    sources that somebody has changed since the last apply.
    """

    files: list[str]
    named: dict[str, str]
    edited: list[str]


def only_plan(minion: Minion, keep: Mapping[str, Kind] | None = None, absent: Sequence[str] | None = None) -> Plan:
    """
    Tell what :func:`only_apply` would remove.

    keep
        Path to type (``None``: the default) of the tables that stay. Default: none.

    absent
        Paths of tables that are not to be there, whoever made them. Default: none.

    A table that main.cf or master.cf still names is an error when it is in ``absent``, and stays when it is not.
    """
    absent = absent or []
    files, named, edited = _removable(minion, keep or {}, absent)
    changes = {path: {"old": "there", "new": None} for path in files}
    notes = [f"{path} stays, as it is named by {where}" for path, where in named.items() if path not in absent]
    notes += [f"{path} stays, as somebody has changed it since the last apply" for path in edited]
    errors = [f"{path}: still named by {where}" for path, where in named.items() if path in absent]
    return Plan(changes, errors=errors, notes=notes)


def only_apply(
    minion: Minion, keep: Mapping[str, Kind] | None = None, absent: Sequence[str] | None = None
) -> None:
    """
    Remove the tables that nobody asks for any more, with their compiled forms, as a part of the transaction.

    keep, absent
        As for :func:`only_plan`.
    """
    _mta_transaction.begin(minion)
    files = _removable(minion, keep or {}, absent or []).files
    for path in files:
        _mta_transaction.remove(minion, path)
    _keep(minion, gone=files)


def _removable(minion: Minion, keep: Mapping[str, Kind], absent: Sequence[str]) -> _Removable:
    obsolete = _obsolete(minion, keep, absent)
    suffixes = tuple(SUFFIXES.values())
    sources = [path for path in obsolete if os.path.splitext(path)[1] not in suffixes]
    sources += [os.path.splitext(path)[0] for path in obsolete if path not in sources]
    named = _mta_postfix_outlook.naming(minion, sources) if obsolete else {}
    named = {path: where for path, where in named.items() if path not in keep}
    asked = {*named, *absent, *keep}
    edited = [path for path in dict.fromkeys(sources) if path not in asked and _is_edited(minion, path)]
    kept = {path + suffix for path in (*named, *edited) for suffix in ("", *suffixes)}
    return _Removable([path for path in obsolete if path not in kept], named, edited)


def _obsolete(minion: Minion, keep: Mapping[str, Kind], absent: Sequence[str]) -> list[str]:
    """Files of tables that are to be absent, and what was made for tables that are not kept."""
    wanted = set()
    for path, kind in keep.items():
        suffix = SUFFIXES.get(kind or _mta_tables.default_type(minion) or "", "")
        wanted.update({path, path + suffix})
    files = [path + suffix for path in absent for suffix in dict.fromkeys(["", *SUFFIXES.values()])]
    files += _mta_tables.recorded(minion)["made"]
    return [path for path in dict.fromkeys(files) if path not in wanted and _mta_system.exists(path)]


def _is_edited(minion: Minion, path: str) -> bool:
    """Whether the source of a table that was made here is no longer what the last apply knew."""
    known, contents = _mta_tables.recorded(minion)["tables"].get(path), _mta_system.read_bytes(path)
    return bool(known) and contents is not None and _mta_tables.digest(contents) != known.get("source")
