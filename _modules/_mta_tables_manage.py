"""TODO subject (mta_map)."""

import contextlib
import functools
import grp
import json
import os
import pwd
import stat

from salt.exceptions import CommandExecutionError, SaltInvocationError
from salt.utils.data import traverse_dict_and_list

import _mta_package
import _mta_postfix_outlook
import _mta_secrets
import _mta_tables
import _mta_transaction
from _mta_minion import Minion
from _mta_plan import Plan
from _mta_run import Run

TYPES = (*_mta_tables.SUFFIXES, "texthash", *_mta_tables.RULES, *_mta_tables.SETTINGS)
HEADER = "# Entries come from the Salt pillar; changes of them in this file are undone.\n"


def remember(minion: Minion):
    """
    Keep what a run without changes has found out, so that the next one need not start a process for it.
    """
    noticed = _mta_tables.noticed(minion)
    if any(noticed.values()):
        # Another apply that is under way writes the record, too; the next run finds this out again.
        _mta_transaction.alone(
            minion, lambda: minion.state.write(_mta_tables.RECORD, _mta_tables.updated(minion)), wait=False
        )
        Run.of(minion).tables.clear()


def _keep(minion: Minion, made=(), gone=()):
    """Write the record as a part of the transaction."""
    text = json.dumps(_mta_tables.updated(minion, made, gone))
    _mta_transaction.write(minion, minion.state.path(_mta_tables.RECORD), text, mode="0600")
    Run.of(minion).tables.clear()


def _asked(minion: Minion, kind, entries, entries_pillar, source, secret, logins):
    """What the table is to be: ``(pairs, secret keys, text or None)``; the text is that of a file to be copied."""
    if source:
        pairs, text = _mta_tables.of_file_server(minion, kind, source)
        passwords = {key for key, value in pairs if _mta_tables.is_secret(kind, key, value)}
        return pairs, {"*"} if secret else passwords, text

    def resolve(value, key, where):
        if logins:
            return _login(minion, logins[key])
        return _mta_secrets.resolve(minion, value, f"{entries_pillar or 'entries'}:{where}")

    pairs, hidden = _mta_tables.wanted(kind, entries, secret, resolve)
    return pairs, {"*"} if secret else hidden, None


def _login(minion: Minion, path):
    """The value of a login in a table, ``user name:password`` (SASL_README); ``path``: its section in pillar."""
    username, password = (_mta_secrets.get(minion, f"{path}:{part}") for part in ("username", "password"))
    if username is None or password is None:
        raise SaltInvocationError(f"Pillar {path} has no username and password")
    if ":" in username:
        raise SaltInvocationError(f"Pillar {path}:username has a colon; in a table that is its end")
    return f"{username}:{password}"


def _prepare(
    minion: Minion,
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
    kind = type or _mta_tables.default_type(minion)
    if entries_pillar:
        # Not pillar.get: on Salt 3008 it gives execution modules '**********' instead of the values.
        entries = traverse_dict_and_list(minion.pillar, entries_pillar, None)
    if logins:
        entries = {key: traverse_dict_and_list(minion.pillar, path, None) for key, path in logins.items()}
        secret = True
    if kind is not None and kind not in TYPES:
        raise SaltInvocationError(f"{name}: no table of type {kind!r} has a file; allowed: {', '.join(TYPES)}")
    contents = _mta_tables.read(name)
    # Before what is known of the table: it may be from a time at which this was not looked at.
    _refuse_open(name, mode, secret or (not source and _mta_tables.has_secrets(kind, entries)))
    asked = None if source else _mta_tables.asked_digest(kind, entries, secret)
    if contents is not None and _is_as_known(minion, name, kind, contents, asked, mode):
        return {"changes": {}, "errors": [], "notes": None}
    pairs, hidden, text = _asked(minion, kind, entries, entries_pillar, source, secret, logins)
    _refuse_open(name, mode, hidden)
    present = None if contents is None else contents.decode("utf-8", "surrogateescape")
    old = [(key, value) for key, value, _ in _mta_tables.parse(kind, present or "")]
    if text is None:
        text = _mta_tables.edited(kind, HEADER if present is None else present, pairs)
    changes = {}
    if present != text:
        changes = _mta_tables.difference(kind, old, pairs, hidden | _once_secret(kind, old, pairs, hidden, name))
        if not changes and present is not None:
            changes["text"] = {"old": "other comments or another order", "new": "as given"}
    status = None if present is None else os.stat(name)
    bits, group = _permissions(kind, bool(hidden), mode, status)
    rights = f"{bits:04o} {group}"
    if status is None or rights != _rights(status):
        changes["mode"] = {"old": status and _rights(status), "new": rights}
    encoded = text.encode("utf-8", "surrogateescape")
    errors, notes = [], None
    if kind and _mta_tables.installed() and _mta_tables.missing_types(minion, [kind]):
        if package and _mta_package.versions(minion, [package])[package] is None:
            notes = f"The table type {kind} comes with {package}."
        else:
            errors = [_no_such_type(minion, kind)]
    elif kind and _mta_tables.installed():
        if kind in _mta_tables.SUFFIXES and not changes:
            with _words_hidden(kind, bool(hidden) or not bits & 0o004):
                wrong = _mta_tables.is_current(minion, name, encoded, kind)
            target = os.stat(name + _mta_tables.SUFFIXES[kind]) if wrong != "missing" else status
            if not wrong and _rights(target) != _rights(status):
                wrong = f"{_rights(target)}"
            if wrong:
                changes["compiled"] = {"old": wrong, "new": "as its source"}
        if changes:
            errors = _tried(minion, kind, encoded)
            if errors and (hidden or not bits & 0o004):
                errors = [_unsaid(kind)]
        else:
            _mta_tables.notice(minion, name, _facts(kind, encoded, asked, mode, rights))
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
    reason = _mta_tables.wrong_mode(mode, secrets)
    if reason:
        raise SaltInvocationError(f"{name}: the mode {reason}")


def _once_secret(kind, old, pairs, hidden, name):
    """
    Keys whose values in the file that is there may be secrets, though pillar no longer says so; ``*``: all.

    Where others may not read, or a secret is to come, the old values are not shown; of settings, those that go.
    """
    private = bool(hidden) or (os.path.exists(name) and not os.stat(name).st_mode & 0o004)
    if kind in _mta_tables.SETTINGS:
        wanted = {key for key, _ in pairs}
        return {
            key for key, value in old if _mta_tables.is_secret(kind, key, value) or (private and key not in wanted)
        }
    return {"*"} if private else set()


def _facts(kind, contents, asked, mode, rights):
    """What the record says of a table that is as it was asked for."""
    return {"type": kind, "source": _mta_tables.digest(contents), "asked": asked, "mode": mode, "rights": rights}


def _is_as_known(minion: Minion, name, kind, contents, asked, mode):
    """Whether the same was asked for the last time, and nothing has changed since."""
    rights = _rights(os.stat(name))
    known = _mta_tables.recorded(minion)["tables"].get(name, {})
    facts = _facts(kind, contents, asked, mode, rights)
    if asked is None or any(known.get(key) != value for key, value in facts.items()):
        return False
    if kind not in _mta_tables.SUFFIXES:
        return True
    if _mta_tables.is_current(minion, name, contents, kind) is not None:
        return False
    return _rights(os.stat(name + _mta_tables.SUFFIXES[kind])) == rights


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


def _no_such_type(minion: Minion, kind):
    known = _mta_tables.about_postfix(minion)
    return (
        f"This Postfix has no table type {kind}; it has {', '.join(known['types'])}. Leave the type out for"
        f" default_database_type ({known['default']}), or name another one"
    )


def _tried(minion: Minion, kind, contents):
    """What postmap(1) says against a table, a list. What a server has to be asked for is left to the live one."""
    try:
        if kind in _mta_tables.SUFFIXES:
            _mta_tables.compiled(minion, contents, kind)
        elif kind not in _mta_tables.SETTINGS:
            with _mta_tables.private(minion, contents) as (folder, source):
                _, _, errors = _mta_tables.run("postmap", "-c", folder, "-q", "x", f"{kind}:{source}")
                if errors.strip():
                    return [f"postmap refuses this as {kind}: {_mta_tables.said(folder, errors)}"]
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
        bits = 0o640 if kind in _mta_tables.SETTINGS else 0o600
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


def plan(minion: Minion, name, **table):
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
    """
    table = _prepare(minion, name, **_mta_tables.public(table))
    changes = table["changes"]
    shown = {f"{name} {key}" if key == "mode" else key: change for key, change in changes.items()}
    notes = [table["notes"]] if table["notes"] else []
    return Plan(shown, {"postfix": "reload"} if changes else {}, table["errors"], notes)


def apply(minion: Minion, name, **table):
    """
    Write a table and compile it, as a part of the transaction.

    name, table
        As for :func:`plan`.

    Raises as :func:`plan` does, and ``CommandExecutionError`` when Postfix does not have the type, or does not
    take the table.
    """
    _mta_transaction.need(minion, {"postfix": "reload"})
    table = _prepare(minion, name, **_mta_tables.public(table))
    kind = table["kind"]
    if kind is None:
        raise CommandExecutionError("Postfix is not installed: there is no postmap")
    if _mta_tables.missing_types(minion, [kind]) or table["errors"]:
        raise CommandExecutionError("\n".join(table["errors"]) or _no_such_type(minion, kind))
    made = [path for path in (name, name + _mta_tables.SUFFIXES.get(kind, "")) if not os.path.exists(path)]
    rights = {key: table[key] for key in ("user", "group", "mode")}
    write = functools.partial(_mta_transaction.write, minion)
    if not os.path.isdir(os.path.dirname(name)):
        _mta_transaction.directory(minion, os.path.dirname(name))
    if table["text_differs"] or table["bits_differ"]:
        write(name, table["contents"], activate={"postfix": "reload"}, **rights)
    facts = table["facts"]
    if kind in _mta_tables.SUFFIXES:
        with _words_hidden(kind, table["private"]):
            new = _mta_tables.compiled(minion, table["contents"], kind)
        facts["compiled"] = _mta_tables.digest(new, kind)
        write(name + _mta_tables.SUFFIXES[kind], new, activate={"postfix": "reload"}, **rights)
    _mta_tables.notice(minion, name, facts)
    _keep(minion, made=made)


def _stale(minion: Minion, keep, absent):
    """Files to be removed: of tables that are to be absent, and what was made for tables that are not kept."""
    wanted = set()
    for path, kind in keep.items():
        suffix = _mta_tables.SUFFIXES.get(kind or _mta_tables.default_type(minion), "")
        wanted.update({path, path + suffix})
    files = [path + suffix for path in absent for suffix in dict.fromkeys(["", *_mta_tables.SUFFIXES.values()])]
    files += [path for path in _mta_tables.recorded(minion)["made"] if path not in wanted]
    return [path for path in dict.fromkeys(files) if path not in wanted and os.path.exists(path)]


def only_plan(minion: Minion, keep=None, absent=None):
    """
    Tell what :func:`only_apply` would remove.

    keep
        Dictionary of path to type (``None``: the default) of the tables that stay. Default: none.

    absent
        List of paths of tables that are not to be there, whoever made them. Default: none.

    Returns what :func:`plan` does; a table that main.cf or master.cf still names is an error when it is in
    ``absent``, and stays when it is not.
    """
    stale, named, edited = _removable(minion, keep or {}, absent or [])
    changes = {path: {"old": "there", "new": None} for path in stale}
    left = [
        f"{path} stays, as it is named by {where}" for path, where in named.items() if path not in (absent or [])
    ]
    left += [f"{path} stays, as somebody has changed it since the last apply" for path in edited]
    errors = [f"{path}: still named by {where}" for path, where in named.items() if path in (absent or [])]
    return Plan(changes, errors=errors, notes=left)


def _removable(minion: Minion, keep, absent):
    stale = _stale(minion, keep, absent)
    sources = [path for path in stale if os.path.splitext(path)[1] not in _mta_tables.SUFFIXES.values()]
    sources += [os.path.splitext(path)[0] for path in stale if path not in sources]
    named = _mta_postfix_outlook.naming(minion, sources) if stale else {}
    named = {path: where for path, where in named.items() if path not in keep}
    asked = {*named, *absent, *keep}
    edited = [path for path in dict.fromkeys(sources) if path not in asked and _is_edited(minion, path)]
    kept = {path + suffix for path in (*named, *edited) for suffix in ("", *_mta_tables.SUFFIXES.values())}
    return [path for path in stale if path not in kept], named, edited


def _is_edited(minion: Minion, path):
    """Whether the source of a table that was made here is no longer what the last apply knew."""
    known, contents = _mta_tables.recorded(minion)["tables"].get(path), _mta_tables.read(path)
    return bool(known) and contents is not None and _mta_tables.digest(contents) != known.get("source")


def only_apply(minion: Minion, keep=None, absent=None):
    """
    Remove the tables that nobody asks for any more, with their compiled forms, as a part of the transaction.

    keep, absent
        As for :func:`only_plan`.
    """
    _mta_transaction.begin(minion)
    stale = _removable(minion, keep or {}, absent or [])[0]
    for path in stale:
        _mta_transaction.remove(minion, path)
    _keep(minion, gone=stale)
