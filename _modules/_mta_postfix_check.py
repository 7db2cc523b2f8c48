"""
Whether Postfix will work with new settings: built in a private copy, judged by its programs, tried by its daemons.

What is only there before the change is told, and refuses nothing; an error that the change brings is told with the
changes that it is because of.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping

import _mta_postfix_stage
import _mta_postfix_syntax
import _mta_postfix_view
import _mta_preflight
import _mta_snapshots
import _mta_system
import _mta_table_syntax
from _mta_minion import Minion
from _mta_plan import Change
from _mta_postfix_syntax import Entry
from _mta_postfix_view import Files
from _mta_records import NamedTuple, dataclass
from _mta_run import Run

# What master(8) uses once, at its start: directory changes, lock and PID files, identity, environment (master.c).
AT_START = {
    "command_directory",
    "daemon_directory",
    "data_directory",
    "import_environment",
    "mail_owner",
    "meta_directory",
    "process_id_directory",
    "queue_directory",
    "setgid_group",
    "shlib_directory",
}
# What `postfix check` looks at directories, accounts and the log for; its name, or how it begins.
CHECKED = (*AT_START, "maillog_file", "multi_instance_", "postlog/unix-dgram")
# Read by master(8) alone, which dies of a bad one at a reload; no program can be asked (master_vars.c).
MASTERS = {"default_process_limit": r"[0-9]+", "service_throttle_time": r"[0-9]+[smhdw]?"}
SERIOUS = r"unused parameter|undefined parameter|\b(?:bad|unknown|missing|fatal|invalid|malformed)\b"
# Table types by how their names end on disk; a type that is in none of these has no file of its own.
TABLE_FILES = {"hash": ".db", "btree": ".db", "lmdb": ".lmdb", "cdb": ".cdb", "dbm": ".pag", "sdbm": ".pag"}
TABLE_TEXTS = ("cidr", "pcre", "regexp", "texthash", "ldap", "mysql", "pgsql", "sqlite", "memcache", "mongodb")
DIRECTORIES = ("queue_directory", "daemon_directory", "command_directory")
# What postscreen(8) tests after the greeting: until then it speaks with the client itself, also under TLS.
LATE_TESTS = (
    "postscreen_bare_newline_enable",
    "postscreen_non_smtp_command_enable",
    "postscreen_pipelining_enable",
)
TRANSPORTS = r"(?:.*_transport|content_filter)\Z"
# Tables that Postfix makes itself when it first has something to keep.
CACHES = r"address_verify_map|postscreen_cache_map|\w+_session_cache_database"
PEM_FILES = r"(?:lmtp|smtp|smtpd|tlsproxy|postscreen)_tls_(?:.*_)?(?:cert_file|key_file|CAfile|chain_files)\Z"


@dataclass(frozen=True)
class Proposal:
    """
    New settings for main.cf and master.cf.

    config_directory
        The directory that has the files.

    files
        What is in it now.

    base
        What the new files are made from: without what cannot be parsed, and without settings that a later one of
        the same name makes obsolete.

    broken
        Whether Postfix cannot read its main.cf now.

    parameters, services
        What is to be set; ``None``: what is to go.

    changes
        What a state shows: item to ``{"old": …, "new": …}``.
    """

    config_directory: str
    files: Files
    base: Files
    broken: bool
    parameters: Mapping[str, str | None]
    services: Mapping[str, Entry | None]
    changes: Mapping[str, Change]

    def values(self) -> list[tuple[str, str]]:
        """What is to be set, also for one service alone: ``(parameter or "service parameter", value)``."""
        found = [(name, value) for name, value in self.parameters.items() if value]
        for service, entry in self.services.items():
            found += [(f"{service} {name}", value) for name, value in (entry or {}).get("overrides", {}).items()]
        return found


class Staged(NamedTuple):
    """
    The new files, and what is to be said against them.

    errors
        Why they will not do.

    missing
        What is not there, or does not answer; an earlier state of the same test run may be going to mend it.

    notes
        What refuses nothing.
    """

    files: Files
    errors: list[str]
    missing: list[str]
    notes: list[str]


def staged(minion: Minion, proposal: Proposal) -> Staged:
    """Build the new files in a private copy and check them; once in a run for the same ones."""
    memory = Run.of(minion).preflight
    key = (
        _mta_snapshots.last_commit(minion),
        proposal.config_directory,
        *proposal.files,
        repr(proposal.parameters),
        repr(proposal.services),
    )
    if memory.get("key") != key:
        memory.update(key=key, result=_staged(minion, proposal))
    result: Staged = memory["result"]
    return result


def _staged(minion: Minion, proposal: Proposal) -> Staged:
    parent = minion.state.path()
    files, messages = _built(parent, proposal)
    errors, notes = _introduced(parent, proposal, messages)
    refused, missing = _table_problems(proposal, files)
    errors += _miswritten(proposal, files) + refused
    errors += _missing_programs(proposal, files) + _unfit_for_master(proposal.parameters)
    errors += _unusable_addresses(proposal, files) + _missing_services(proposal, files)
    errors += _missing_directories(proposal.parameters)
    if not errors and not missing:
        missing = _newly_failing(minion, proposal, files)
    return Staged(files, errors, missing, notes)


# -- built, and judged by postconf(1) and postfix(1) -------------------------------------------


def _built(parent: str, proposal: Proposal) -> tuple[Files, list[str]]:
    """The new files, as postconf(1) writes them, and what Postfix's programs say of them."""
    with _mta_postfix_stage.private_copy(parent, proposal.config_directory, proposal.base) as stage:
        _mta_postfix_stage.edit_parameters(stage, proposal.parameters)
        _mta_postfix_stage.edit_services(stage, proposal.services)
        _mta_postfix_stage.age(stage)
        files = _mta_postfix_view.read_both(stage)
        return files, _complaints(stage, proposal)


def _complaints(stage: str, proposal: Proposal) -> list[str]:
    # `postfix check` creates missing directories, and its postlog(1) reads the main.cf that is in force, too.
    told = not proposal.broken and not {"queue_directory", "data_directory"} & set(proposal.parameters)
    thorough = told and any(name.startswith(CHECKED) for name in (*proposal.parameters, *proposal.services))
    return _mta_postfix_stage.complaints(stage, proposal.config_directory, thorough=thorough)


def _introduced(parent: str, proposal: Proposal, messages: list[str]) -> tuple[list[str], list[str]]:
    """Tell the errors that a change brings from what was there before it."""
    before: list[str] = []
    if messages:
        with _mta_postfix_stage.private_copy(parent, proposal.config_directory, proposal.base) as stage:
            before = _complaints(stage, proposal)
    hidden = any("fatal" in text for text in before)  # a fatal error hides what else was wrong
    named = {*proposal.parameters, *(key.split()[-1] for key in proposal.changes)}
    for entry in filter(None, proposal.services.values()):
        named.update(entry["overrides"])
    named.update(value for value in proposal.parameters.values() if value)
    errors, notes = [], []
    for text in messages:
        if text in before or (hidden and "fatal" not in text and not _mentions(text, named)):
            notes.append(f"Not because of this change: {text}")
        elif re.search(SERIOUS, text):
            errors.append(text + _blamed(parent, proposal, text))
        else:
            notes.append(text)
    return errors, notes


def _mentions(text: str, words: Iterable[str]) -> bool:
    return any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) for word in words)


def _blamed(parent: str, proposal: Proposal, message: str) -> str:
    """`` (because of name = value)`` for the changed parameters that give the message each by itself."""
    settings = {name: value for name, value in proposal.parameters.items() if value is not None}
    if _mentions(message, settings):
        return ""
    directory, (main, master) = proposal.config_directory, proposal.base
    guilty = []
    for name, value in settings.items():
        alone = Files(_mta_postfix_syntax.appended(main or "", {name: value}), master)
        with _mta_postfix_stage.private_copy(parent, directory, alone) as stage:
            if message in _mta_postfix_stage.complaints(stage, directory, thorough=False):
                guilty.append(f"{name} = {value}")
    return f" (because of {', '.join(guilty or proposal.changes)})"


def _miswritten(proposal: Proposal, files: Files) -> list[str]:
    """What postconf(1) wrote otherwise than it is to be."""
    parameters, services = files.parameters(), files.services()
    errors = [
        f"{name}: postconf wrote {parameters.get(name)!r} instead of {value!r}"
        for name, value in proposal.parameters.items()
        if not _mta_postfix_syntax.same(name, parameters.get(name), value)
    ]
    for service, entry in proposal.services.items():
        if services.get(service) != entry:
            wrote = _mta_postfix_syntax.difference(entry, services.get(service))
            errors.append(f"{service}: postconf wrote {wrote['new']!r} instead of {wrote['old']!r}")
    return errors


# -- what no program of Postfix complains of ---------------------------------------------------


def _table_problems(proposal: Proposal, files: Files) -> tuple[list[str], list[str]]:
    """
    Look at the tables and PEM files that new values name.

    Returns what Postfix cannot use at all, and what is only not there.
    """
    parameters = _mta_postfix_view.with_places(files.parameters(), proposal.config_directory)
    queue = parameters["queue_directory"]
    types: list[str] = []
    refused: list[str] = []
    missing: list[str] = []
    for label, value in proposal.values():
        name, value = label.split()[-1], _mta_postfix_syntax.expand(value, parameters)
        paths = _mta_postfix_syntax.items_of(value) if re.match(PEM_FILES, name) else []
        for kind, path in _mta_postfix_syntax.tables(name, value):
            types = types or _mta_postfix_view.run("postconf", "-m").text.split()
            if kind in types:
                paths += [] if re.fullmatch(CACHES, name) else _files_of_table(kind, path, queue)
                continue
            # A plugin's package may be one that an earlier state brings.
            known = kind in TABLE_FILES or kind in TABLE_TEXTS
            text = f"{label}: this Postfix has no table type {kind!r}; it has {', '.join(types)}"
            (missing if known else refused).append(text)
        missing += [f"{label}: {path} is not there" for path in paths if not _is_there(path)]
    return refused, missing


def _files_of_table(kind: str, path: str, queue: str) -> list[str]:
    """The file that Postfix opens for a table; none for a type that has no file of its own."""
    if kind in TABLE_FILES:
        # Daemons run in the queue directory, and that is where they look for a relative path.
        return [os.path.join(queue, path) + TABLE_FILES[kind]]
    return [path] if kind in TABLE_TEXTS else []


def _is_there(path: str) -> bool:
    # A table or PEM file may be named by something else than a path, or refer to what is not known here.
    return not path.startswith("/") or "$" in path or os.path.exists(path)


def _missing_programs(proposal: Proposal, files: Files) -> list[str]:
    """What new master.cf entries would run and cannot."""
    commands = {service: entry["command"] for service, entry in proposal.services.items() if entry}
    if not commands:
        return []
    directory = files.parameters().get("daemon_directory")
    if not directory:
        directory = _mta_postfix_view.run("postconf", "-d", "-h", "daemon_directory").text.strip()
    paths = {service: os.path.join(directory, command) for service, command in commands.items()}
    return [f"{service}: there is no program {path}" for service, path in paths.items() if not _is_there(path)]


def _unfit_for_master(parameters: Mapping[str, str | None]) -> list[str]:
    """Numbers that master(8) would not read."""
    return [
        f"{name}: {value!r} is not what master(8) can read"
        for name, value in parameters.items()
        if value and name in MASTERS and not re.fullmatch(MASTERS[name], value)
    ]


def _missing_directories(parameters: Mapping[str, str | None]) -> list[str]:
    """Directories that Postfix does not make itself."""
    return [
        f"{name}: there is no directory {value}"
        for name, value in parameters.items()
        if value and name in DIRECTORIES and not os.path.isdir(value)
    ]


def _missing_services(proposal: Proposal, files: Files) -> list[str]:
    """Transports without a service, with which mail would wait for ever; and a server without a listener."""
    main, services = files.parameters(), files.services()
    found = []
    for name, value in proposal.parameters.items():
        transport = _mta_postfix_syntax.expand(value or "", main).partition(":")[0]
        named = re.match(TRANSPORTS, name) and transport and "$" not in transport
        if named and f"{transport}/unix" not in services:
            found.append(f"{name}: master.cf has no service {transport}/unix")
    known = {text for _, text in _missing_for_postscreen(proposal.files)}
    found += [f"{name}: {text}" for name, text in _missing_for_postscreen(files) if text not in known]
    listeners = _mta_postfix_syntax.SERVERS
    before = proposal.files.services()
    gone = [name for name, entry in before.items() if name not in services and entry["command"] in listeners]
    if gone and not any(entry["command"] in listeners for entry in services.values()):
        found.append(f"{', '.join(gone)}: no SMTP listener would be left")
    return found


def _missing_for_postscreen(files: Files) -> list[tuple[str, str]]:
    """The services of master.cf that postscreen(8) asks and that are not there: ``(who needs it, text)``."""
    main, services = files.parameters(), files.services()
    found = []
    for name, entry in services.items():
        if entry["command"] != "postscreen":
            continue
        own = {**main, **entry["overrides"]}
        level = own.get("postscreen_tls_security_level", own.get("smtpd_tls_security_level", ""))
        needed = {
            "dnsblog/unix": ["postscreen_dnsbl_sites"] if own.get("postscreen_dnsbl_sites") else [],
            "tlsproxy/unix": [test for test in LATE_TESTS if level not in ("", "none") and own.get(test) == "yes"],
        }
        found += [
            (because[0], f"master.cf has no service {service}, which {name} asks")
            for service, because in needed.items()
            if because and service not in services
        ]
    return found


def _unusable_addresses(proposal: Proposal, files: Files) -> list[str]:
    """Addresses and ports that master(8) could not bind, and would die of."""
    before = _mta_postfix_view.sockets(proposal.config_directory, proposal.files)
    # A port that Postfix has now is free for it, whatever the address, and by whatever name (smtps, submissions).
    listening = [service.rpartition("/")[0] for service in proposal.base.services() if service.endswith("/inet")]
    ours = {_mta_system.port(name.rpartition(":")[2]) for name in listening} - {None}
    found = []
    for (host, port), label in _mta_postfix_view.sockets(proposal.config_directory, files).items():
        reason = None if (host, port) in before else why_not_bound(host, port, _mta_system.port(port) in ours)
        if reason:
            found.append(f"{label}: cannot listen at {host} port {port}: {reason}")
    return found


def why_not_bound(host: str, port: str, may_be_in_use: bool) -> str | None:
    """Why nobody can listen at an address and port, by trying it; ``None``: it can be done."""
    try:
        number = int(port) if port.isdigit() else socket.getservbyname(port, "tcp")
        resolved = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, OverflowError) as err:
        return str(err.args[-1])
    for family, kind, protocol, _, address in resolved:
        try:
            with socket.socket(family, kind, protocol) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind(address)
                sock.listen()
        except OSError as err:
            no_such_family = err.errno == errno.EAFNOSUPPORT
            if not no_such_family and not (may_be_in_use and err.errno == errno.EADDRINUSE):
                return err.strerror
    return None


# -- tried by Postfix's daemons ----------------------------------------------------------------


def _newly_failing(minion: Minion, proposal: Proposal, files: Files) -> list[str]:
    """What Postfix's daemons cannot do with the new files and could do with the old ones, and because of what."""
    found = [
        one
        for one in _preflight(minion, proposal, files) or []
        if not _is_idle(one[0], files, proposal.config_directory)
    ]
    if not found:
        return []
    parent, directory = minion.state.path(), proposal.config_directory
    with _mta_postfix_stage.private_copy(parent, directory, proposal.base) as stage:
        complaints = _mta_postfix_stage.complaints(stage, directory, thorough=False)
    # A daemon may die of such an old file without a word.
    fatal = any("fatal" in text for text in complaints)
    before = None if fatal else _preflight(minion, proposal, proposal.base, {key for key, _ in found})
    if before is None:
        # Nobody can tell what is new. The running server will, and what mends the old files is not refused.
        return []
    known = {service for service, _ in before}
    result = []
    for service, text in found:
        if service not in known:
            culprits = [name for name in _culprits(minion, proposal, service, text) if name != service]
            because = f" (because of {', '.join(culprits)})" if culprits else ""
            result.append(f"{service} would not work: {text}{because}")
    return list(dict.fromkeys(result))


def _is_idle(service: str, files: Files, config_directory: str) -> bool:
    """
    Whether an entry of master.cf is a virtual(8) to which no mail goes.

    As the package has it that one cannot start: it demands ``virtual_mailbox_base``, which has no default.
    """
    services, main = files.services(), files.parameters()
    entry = services.get(service)
    if not entry or entry["command"] != "virtual":
        return False
    name = service.rpartition("/")[0]
    values = [value for key, value in main.items() if key != "virtual_transport"]
    values += [value for one in services.values() for value in one["overrides"].values()]
    known = _mta_postfix_view.with_places(main, config_directory)
    transports = _mta_postfix_syntax.expand(main.get("transport_maps", ""), known)
    for kind, path in _mta_postfix_syntax.tables("transport_maps", transports):
        values.append(_mta_table_syntax.source(kind, path))
    named = any(re.search(rf"(?<![\w/-]){re.escape(name)}(?=:|\s*\Z)", value) for value in values)
    return not named and not any(main.get(key) for key in ("virtual_mailbox_domains", "virtual_mailbox_maps"))


def _preflight(
    minion: Minion, proposal: Proposal, files: Files, only: Collection[str] | None = None
) -> list[tuple[str, str]] | None:
    """
    Let Postfix's daemons try two files, with all their services or some: ``[(service, problem)]``.

    ``None``: they cannot be tried.
    """
    directory = proposal.config_directory
    with _mta_postfix_stage.private_copy(minion.state.path(), directory, files) as stage:
        # Where cyrus_sasl_config_path is empty, Debian's smtpd(8) looks for smtpd.conf beside its main.cf.
        for entry in set(os.listdir(directory)) - set(os.listdir(stage)):
            os.symlink(os.path.join(directory, entry), os.path.join(stage, entry))
        asked = ("daemon_directory", "queue_directory")
        values = _mta_postfix_view.run("postconf", "-c", stage, "-x", "-h", *asked).text.splitlines()
        if len(values) != len(asked) or not os.path.isdir(values[0]):
            return None
        at_start = AT_START & set(proposal.parameters)
        return _mta_preflight.problems(
            minion,
            stage,
            _mta_preflight.Directories(directory, *values),
            {key: entry for key, entry in files.services().items() if only is None or key in only},
            _mta_postfix_view.listeners_of(directory, files),
            converse=not at_start and not _needs_proxymap(proposal) and _runs(values[1]),
            envelope=_understood_by_others(proposal),
        )


def _runs(queue: str) -> bool:
    """Whether master(8) runs: someone answers at a socket of its own."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(1)
        try:
            sock.connect(os.path.join(queue, "private", "rewrite"))
        except OSError:
            return False
    return True


def _understood_by_others(proposal: Proposal) -> bool:
    """
    Whether smtpd(8) alone can know what to answer, with all other daemons still under the old configuration.

    It cannot when the change brings a service that it may have to ask, or a filter before the queue together with
    the listener to which that hands mail back.
    """
    set_ = {key.rpartition(" ")[2] for key, value in proposal.values() if value}
    new = proposal.services.keys() - proposal.base.services().keys()
    known = all(entry and entry["command"] in _mta_postfix_syntax.SERVERS for entry in proposal.services.values())
    return known and not (new and "smtpd_proxy_filter" in set_)


def _needs_proxymap(proposal: Proposal) -> bool:
    """
    Whether a change brings a table that proxymap(8) has to allow.

    The one that runs knows only the old configuration, and who asks it for such a table dies of the answer.
    """
    return any("proxy:" in value for _, value in proposal.values())


def _culprits(minion: Minion, proposal: Proposal, service: str, text: str) -> list[str]:
    """The changes of which each by itself keeps a service from working; all of them when none does."""
    changes = list(_each_alone(proposal))
    labels = [_label(change, text) for change in changes]
    named = [label for change, label in zip(changes, labels) if _mentions(text, change.parameters)]
    if len(changes) > 1 and not named:
        named = [
            label
            for change, label in zip(changes, labels)
            if _mentions(text, _telling(change.parameters)) or _breaks(minion, change, service)
        ]
    return named or labels


def _each_alone(proposal: Proposal) -> Iterator[Proposal]:
    """Proposals of one change each."""
    for name, value in proposal.parameters.items():
        yield dataclasses.replace(proposal, parameters={name: value}, services={})
    for service, entry in proposal.services.items():
        yield dataclasses.replace(proposal, parameters={}, services={service: entry})


def _telling(parameters: Mapping[str, str | None]) -> list[str]:
    """The values that are not in any text, as "no" or "1" is."""
    return [value for value in parameters.values() if value and len(value) > 3]


def _label(change: Proposal, text: str) -> str:
    """What to call a change: a service with those of its overrides that ``text`` mentions."""
    label = " ".join([*change.parameters, *change.services])
    for entry in filter(None, change.services.values()):
        for key, value in entry["overrides"].items():
            if _mentions(text, [key, *_telling({key: value})]):
                label += f" -o {key}={value}"
    return label


def _breaks(minion: Minion, change: Proposal, service: str) -> bool:
    """Whether a change by itself keeps a service from working."""
    main, master = change.base.main or "", change.base.master
    main = _mta_postfix_syntax.mended(main, [], _mta_postfix_syntax.assigned(main, change.parameters))
    base = Files(_mta_postfix_syntax.appended(main, change.parameters), master)
    with _mta_postfix_stage.private_copy(minion.state.path(), change.config_directory, base) as stage:
        _mta_postfix_stage.edit_services(stage, change.services)
        files = _mta_postfix_view.read_both(stage)
    return bool(_preflight(minion, change, files, {service}))
