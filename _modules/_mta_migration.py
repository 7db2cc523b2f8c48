"""
This host's mail server as pillar, which changes nothing when it is applied here.

It has what main.cf and master.cf differ in from the package's own, the aliases, the tables, and saslauthd where it
is set up as this formula would. What an apply would change all the same is left out and named in the comments.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Collection, Iterator
from typing import Any

from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_aliases
import _mta_judge
import _mta_package
import _mta_pillar
import _mta_postfix_edit
import _mta_postfix_syntax
import _mta_postfix_view
import _mta_saslauthd
import _mta_saslauthd_files
import _mta_saslauthd_view
import _mta_services
import _mta_tables
import _mta_tables_manage
from _mta_minion import Minion
from _mta_pillar_file import (
    Notes,
    Settings,
    leave_out_refused,
    services_without_secrets,
    shown,
    text_of,
    without_secrets,
)
from _mta_secret_kinds import PASSWORD_TABLE, is_secret
from _mta_table_syntax import RULES, SETTINGS

ALIASES = "/etc/aliases"
MAILNAME = "/etc/mailname"
SASLAUTHD = "/usr/sbin/saslauthd"
# Not tables of postmap(1).
ALIAS_TABLES = ("alias_maps", "alias_database")
LONG_TABLE = 2000
# Lists of names and networks, in which a path stands for the lines of a file.
NAME_LISTS = re.compile(r"(?:mydestination|mynetworks|debug_peer_list|\w+_(?:domains|networks|hosts))\Z")
HEAD = """\
#!yaml
# Postfix on {hostname}, as pillar of the formula postfix_mta. Made by postconf.export.
# Applying it changes nothing on this host. What is not named here stays as it is, too.
"""


def export(
    minion: Minion,
    config_directory: str = _mta_postfix_view.CONFIG_DIRECTORY,
    probe: bool = True,
    include: Collection[str] = (),
) -> str:
    """
    Return the pillar that describes the mail server of this host, as the text of an SLS file.

    Parameters, result and errors: ``postconf.export``.
    """
    differences = _mta_postfix_edit.differences(config_directory)
    notes: Notes = {f"main.cf or master.cf: {name}": why for name, why in differences["left_out"].items()}
    settings: Settings = {"profile": "none"}
    hostname = _hostname(minion, config_directory)
    if hostname:
        settings["hostname"] = hostname
    else:
        notes["hostname"] = "this host has no fully qualified name; give it before this pillar is applied"
    mailname = _mailname()
    if mailname:
        settings["mailname"] = mailname
    settings["parameters"] = without_secrets("parameters", differences["parameters"], notes, include)
    settings["services"] = services_without_secrets(differences["services"], notes, include)
    # The one that an apply would edit.
    file, _ = _mta_aliases.looked_up(minion, ALIASES, config_directory)
    settings["aliases"] = without_secrets("aliases", _aliases(minion, file, notes), notes, include)
    settings["maps"] = _tables(minion, config_directory, file, notes, include)
    _name_files_of_lists(config_directory, notes)
    settings["certificate"] = {"source": "none"}
    settings["sasl"] = _sasl(minion)
    settings["firewall"] = {"backend": "none"}
    # With the conversation in it, as for the real thing; what the validation refuses is left out.
    leave_out_refused(settings, notes, functools.partial(_mta_pillar.problems, minion))
    if probe:
        problems = _conversation(minion, config_directory, hostname)
        if problems:
            settings["verify"] = {"enabled": False}
            notes["verify"] = "the conversation is switched off, as this server does not pass it: " + "; ".join(
                problems
            )
    return HEAD.format(hostname=hostname or "this host") + text_of(settings, notes)


def _hostname(minion: Minion, config_directory: str) -> str | None:
    """The name under which the server speaks, or else the host's, if one of them is fully qualified."""
    names: list[Any] = [_mta_postfix_view.show(config_directory).get("myhostname")]
    names += [listener["hostname"] for listener in _mta_postfix_view.listeners(config_directory)]
    names.append(minion.grains.get("fqdn"))
    for name in filter(None, names):
        pillar = {"profile": "none", "hostname": name}
        if not _mta_pillar.problems(minion, pillar=pillar):
            return str(name)
    return None


def _mailname() -> str | None:
    """What /etc/mailname says, if pillar can say it."""
    name = _mta_package.mail_name(MAILNAME)
    return name if re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", name or "") else None


def _aliases(minion: Minion, file: str, notes: Notes) -> dict[str, Any]:
    """The entries of the file of aliases that an apply would leave as they are."""
    present = _mta_aliases.show(file) or {}
    compiled = f"{file} (compiled)"
    kept = set()
    # To plan reads the whole file, so all are planned at once; halves, quarters, … of it where one is refused. By
    # themselves those whose name is another one in the plan.
    odd = [name for name in present if name != name.strip() or '"' in name]
    waiting = [[name] for name in odd] + [[name for name in present if name not in odd]]
    while waiting:
        names = waiting.pop()
        try:
            changes = _mta_aliases.plan(minion, file, {name: present[name] for name in names}).changes
        except SaltInvocationError as err:
            half = len(names) // 2
            if half:
                waiting += [names[half:], names[:half]]
            else:
                notes[f"aliases:{shown(names[0])}"] = str(err)
            continue
        if changes.pop(compiled, None):
            notes[shown(file)] = (
                "its compiled form is missing or old; the first apply makes it, as newaliases does"
            )
        for name in names:
            if name in changes or (changes and len(names) == 1):
                notes[f"aliases:{shown(name)}"] = "it is there more than once"
            else:
                kept.add(name)
    return {name: values[0] if len(values) == 1 else values for name, values in present.items() if name in kept}


def _tables(
    minion: Minion, config_directory: str, file: str, notes: Notes, include: Collection[str]
) -> dict[str, Any]:
    """The lookup tables that main.cf and master.cf name, as far as an apply would leave them as they are."""
    tables: dict[str, Any] = {}
    asked: dict[str, tuple[str, str]] = {}
    aliases = {file}
    for parameter, table in _named_tables(minion, config_directory):
        kind, _, path = table.rpartition(":")
        if parameter not in ALIAS_TABLES:
            asked.setdefault(path, (kind.rpartition(":")[2], parameter))
            continue
        aliases.add(path)
        if path != file:
            notes[f"aliases of {shown(table)}"] = f"those of the pillar are in {shown(file)}"
    for path, (kind, parameter) in asked.items():
        if path in aliases or not os.path.isabs(path) or not os.path.isfile(path):
            continue
        name = os.path.basename(path)
        where = f"maps:{shown(path)}"
        included = bool({where, shown(path), name} & {*include})
        entries, why = _entries(minion, path, kind, parameter, included)
        if why:
            notes[where] = why
        elif name in tables or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
            notes[where] = "its file's name cannot be the name of a table"
        else:
            own = {} if os.path.dirname(path) == config_directory else {"path": path}
            hidden = {"secret": True} if included else {}
            tables[name] = {"type": kind, **own, **hidden, "entries": entries}
    return tables


def _name_files_of_lists(config_directory: str, notes: Notes) -> None:
    """Note each file whose lines are items of a list: they are not in main.cf, and pillar has no place for it."""
    main = _mta_postfix_view.show(config_directory)
    for name in filter(NAME_LISTS.match, main):
        for item in _mta_postfix_syntax.items_of(_mta_postfix_syntax.expand(main[name], main)):
            if item.lstrip("!").startswith("/"):
                notes[f"{name}: {shown(item)}"] = "its lines stay in that file; another host needs it too"


def _named_tables(minion: Minion, config_directory: str) -> Iterator[tuple[str, str]]:
    """The name of each parameter that names a table, in main.cf or as an override in master.cf, and the table."""
    for parameter in _mta_postfix_view.show(config_directory):
        for table in _mta_tables.of_parameter(minion, parameter, config_directory):
            yield parameter, table
    for fields in _mta_postfix_view.services(config_directory).values():
        for parameter, value in (fields.get("overrides") or {}).items():
            # What it refers to in main.cf was looked at there.
            if ":" not in str(value):
                continue
            for table in _mta_tables.of_value(minion, str(value), config_directory):
                yield parameter, table


def _entries(
    minion: Minion, path: str, kind: str, parameter: str, included: bool = False
) -> tuple[Any, str | None]:
    """The entries of a table, or why there are none: ``(entries, None)`` or ``(None, text)``."""
    try:
        pairs = _mta_tables.show(path, kind) or []
        if len(pairs) > LONG_TABLE:
            return None, f"it has {len(pairs)} entries; give it as source from the file server"
        between = " = " if kind in SETTINGS else " "
        secret = any(is_secret("", f"{key}{between}{value}") for key, value in pairs)
        private = PASSWORD_TABLE.match(parameter) or not os.stat(path).st_mode & 0o004
        if (secret or private) and not included:
            return None, "a secret"
        entries = [f"{key} {value}".rstrip() for key, value in pairs] if kind in RULES else dict(pairs)
        planned = _mta_tables_manage.plan(minion, path, type=kind, entries=entries, secret=included)
    except (CommandExecutionError, SaltInvocationError) as err:
        return None, str(err)
    if planned.errors:
        return None, ", ".join(planned.errors)
    if set(planned.changes) == {"compiled"}:
        return None, "its compiled form is missing or old"
    if planned.changes:
        return None, f"it is not the same when written and compiled anew: {', '.join(planned.changes)}"
    return entries, None


def _sasl(minion: Minion) -> dict[str, Any]:
    """The settings of saslauthd where it is set up exactly as this formula would, else: leave it alone."""
    try:
        if not os.path.exists(SASLAUTHD):
            return {"enabled": False}
        found = _mta_saslauthd_view.settings()
        directory = found["socket_directory"]
        mode = f"{os.stat(directory).st_mode & 0o7777:04o}"
        pillar: dict[str, Any] = {
            "enabled": True,
            "mechanisms": found["mechanisms"],
            "threads": found["threads"],
            "cache": found["cache"],
            "combine_realm": found["combine_realm"],
            "socket_directory": directory,
            "directory_mode": mode,
        }
        if found["mech_options"]:
            pillar["options"] = found["mech_options"]
        if not found["proxy"]:
            pillar["proxy"] = False
        proxy = _mta_saslauthd_files.PROXY_SOURCE if found["proxy"] else None
        arguments = {**pillar, "mech_options": found["mech_options"], "proxy": proxy}
        for name in ("enabled", "options"):
            arguments.pop(name, None)
        running = _mta_services.status(["saslauthd"])["saslauthd"]
        if _mta_saslauthd.plan(minion, **arguments).changes or not (running["active"] and running["enabled"]):
            return {"enabled": False}
    except (CommandExecutionError, SaltInvocationError, OSError):
        return {"enabled": False}
    return pillar


def _conversation(minion: Minion, config_directory: str, hostname: str | None) -> list[str]:
    """Why the conversation of an apply cannot be held with this host as it is; empty when it can."""
    if not _mta_services.status(["postfix"])["postfix"]["active"]:
        return []
    listeners = _mta_postfix_view.listeners(config_directory)
    if not listeners:
        return ["nothing listens for SMTP"]
    found = _mta_judge.check(
        minion, listeners=listeners, hostname=hostname, auth="challenge", envelope=True, untrusted_client=True
    )
    problems: list[str] = found["problems"]
    return problems
