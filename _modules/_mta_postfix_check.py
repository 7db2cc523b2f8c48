"""TODO subject (postconf)."""

import errno
import os
import re
import socket

import _mta_postfix_stage
import _mta_postfix_syntax
import _mta_postfix_view
import _mta_preflight
from _mta_minion import Minion
from _mta_run import Run

# The others it uses once, at its start: directory changes, lock and PID files, identity, environment
# (master.c).
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
# Read by master(8) alone, which dies of a bad one at a reload; no program can be asked (master_vars.c).
MASTERS = {"default_process_limit": r"[0-9]+", "service_throttle_time": r"[0-9]+[smhdw]?"}
SERIOUS = r"unused parameter|undefined parameter|\b(?:bad|unknown|missing|fatal|invalid|malformed)\b"
# Table types by how their names end on disk; a type that is in none of these has no file of its own.
TABLE_FILES = {"hash": ".db", "btree": ".db", "lmdb": ".lmdb", "cdb": ".cdb", "dbm": ".pag", "sdbm": ".pag"}
TABLE_TEXTS = (
    "cidr",
    "pcre",
    "regexp",
    "texthash",
    "ldap",
    "mysql",
    "pgsql",
    "sqlite",
    "memcache",
    "mongodb",
)
TRANSPORTS = r"(?:.*_transport|content_filter)\Z"
PEM_FILES = r"(?:lmtp|smtp|smtpd|tlsproxy|postscreen)_tls_(?:.*_)?(?:cert_file|key_file|CAfile|chain_files)\Z"


def staged(minion: Minion, name, prepared):
    """Build the new files in a private copy and check them: ``{"texts": …, "errors": […], "notes": […]}``."""
    memory = Run.of(minion).preflight
    key = (name, *prepared["texts"].values(), repr(prepared["parameters"]), repr(prepared["services"]))
    if memory.get("key") == key:
        return memory["result"]
    parameters, services, base = prepared["parameters"], prepared["services"], prepared["base"]
    # `postfix check` creates missing directories, and its postlog(1) reads the main.cf that is in force, too.
    thorough = not prepared["broken"] and not {"queue_directory", "data_directory"} & set(parameters)
    with _mta_postfix_stage.private_copy(minion, name, *base.values()) as stage:
        settings = [f"{key}={value}" for key, value in parameters.items() if value is not None]
        gone = [key for key, value in parameters.items() if value is None]
        if settings:
            _mta_postfix_stage.edit(stage, "-e", *settings)
        if gone:
            _mta_postfix_stage.edit(stage, "-X", *gone)
        _mta_postfix_stage.edit_services(stage, services)
        _mta_postfix_stage.age(stage)
        texts = _mta_postfix_view.read_both(stage)
        messages = _mta_postfix_stage.complaints(stage, name, thorough)
    before = []
    if messages:
        with _mta_postfix_stage.private_copy(minion, name, *base.values()) as stage:
            before = _mta_postfix_stage.complaints(stage, name, thorough)
    errors, notes = _introduced(minion, name, prepared, messages, before)
    written = _mta_postfix_syntax.parameters(texts["main.cf"])
    refused, missing = _table_problems(prepared, written)
    refused += _missing_programs(services, written) + _unfit_for_master(parameters)
    refused += _unusable_addresses(name, prepared, texts) + _missing_services(prepared, texts)
    refused += _missing_directories(parameters)
    for parameter, value in parameters.items():
        if not _mta_postfix_syntax.same(parameter, written.get(parameter), value):
            errors.append(f"{parameter}: postconf wrote {written.get(parameter)!r} instead of {value!r}")
    written = _mta_postfix_syntax.services(texts["master.cf"])
    for service, entry in services.items():
        if written.get(service) != entry:
            wrote = _mta_postfix_syntax.difference(entry, written.get(service))
            errors.append(f"{service}: postconf wrote {wrote['new']!r} instead of {wrote['old']!r}")
    errors += refused
    # What is only not there, or does not answer, an earlier state of the same test run may be going to mend.
    if not errors and not missing:
        missing = _rehearsed(minion, name, prepared, texts)
    result = {"texts": texts, "errors": errors, "missing": missing, "notes": notes}
    memory.update(key=key, result=result)
    return result


def _introduced(minion: Minion, name, prepared, messages, before):
    """Tell the errors that a change brings from what was there before it."""
    hidden = any("fatal" in text for text in before)  # a fatal error hides what else was wrong
    named = {*prepared["parameters"], *(key.split()[-1] for key in prepared["changes"])}
    for entry in filter(None, prepared["services"].values()):
        named.update(entry["overrides"])
    named.update(value for value in prepared["parameters"].values() if value)
    errors, notes = [], []
    for text in messages:
        if text in before or (hidden and "fatal" not in text and not _mentions(text, named)):
            notes.append(f"It was so before: {text}")
        elif re.search(SERIOUS, text):
            errors.append(text + _blamed(minion, name, prepared, text))
        else:
            notes.append(text)
    return errors, notes


def _mentions(text, words):
    return any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) for word in words)


def _blamed(minion: Minion, name, prepared, message):
    """`` (by name = value)`` for the changed parameters that give the message each by itself."""
    settings = {key: value for key, value in prepared["parameters"].items() if value is not None}
    if _mentions(message, settings):
        return ""
    guilty = []
    for parameter, value in settings.items():
        main = _mta_postfix_syntax.appended(prepared["base"]["main.cf"], {parameter: value})
        with _mta_postfix_stage.private_copy(minion, name, main, prepared["base"]["master.cf"]) as stage:
            if message in _mta_postfix_stage.complaints(stage, name, thorough=False):
                guilty.append(f"{parameter} = {value}")
    if not guilty:
        guilty = list(prepared["changes"])
    return f" (by {', '.join(guilty)})"


def _table_problems(prepared, parameters):
    """
    Look at the tables and PEM files that changed values name.

    Returns what Postfix cannot use at all, and what is only not there.
    """
    values = [(key, value) for key, value in prepared["parameters"].items() if value]
    for service, entry in prepared["services"].items():
        values += [(f"{service} {key}", value) for key, value in (entry or {}).get("overrides", {}).items()]
    types, refused, missing = None, [], []
    for label, value in values:
        key = label.split()[-1]
        value = _mta_postfix_syntax.expand(value, parameters)
        for kind, path in _mta_postfix_syntax.tables(key, value):
            if types is None:
                types = _mta_postfix_view.run("postconf", "-m")[1].split()
            if kind not in types:
                # A plugin's package may be one that an earlier state brings.
                known = kind in TABLE_FILES or kind in TABLE_TEXTS
                (missing if known else refused).append(
                    f"{label}: this Postfix has no table type {kind!r}; it has {', '.join(types)}"
                )
                continue
            if kind in TABLE_FILES:
                # Daemons run in the queue directory, and that is where they look for a relative path.
                path = (
                    os.path.join(parameters.get("queue_directory", _mta_postfix_view.QUEUE), path)
                    + TABLE_FILES[kind]
                )
            if (kind in TABLE_FILES or kind in TABLE_TEXTS) and not _is_there(path):
                missing.append(f"{label}: {path} is not there")
        if re.match(PEM_FILES, key):
            missing += [
                f"{label}: {path} is not there"
                for path in _mta_postfix_syntax.items_of(value)
                if not _is_there(path)
            ]
    return refused, missing


def _unfit_for_master(parameters):
    """Numbers that master(8) would not read."""
    return [
        f"{name}: {parameters[name]!r} is not what master(8) can read"
        for name, pattern in MASTERS.items()
        if parameters.get(name) and not re.fullmatch(pattern, parameters[name])
    ]


def _missing_directories(parameters):
    """Directories that Postfix does not make itself."""
    return [
        f"{name}: there is no directory {parameters[name]}"
        for name in ("queue_directory", "daemon_directory", "command_directory")
        if parameters.get(name) and not os.path.isdir(parameters[name])
    ]


def _missing_services(prepared, texts):
    """Transports without a service, with which mail would wait for ever; and a server without a listener."""
    main, services = (
        _mta_postfix_syntax.parameters(texts["main.cf"]),
        _mta_postfix_syntax.services(texts["master.cf"]),
    )
    found = []
    for name, value in prepared["parameters"].items():
        transport = _mta_postfix_syntax.expand(value or "", main).partition(":")[0]
        if (
            re.match(TRANSPORTS, name)
            and transport
            and "$" not in transport
            and f"{transport}/unix" not in services
        ):
            found.append(f"{name}: master.cf has no service {transport}/unix")
    listeners = {"smtpd", "postscreen"}
    before = _mta_postfix_syntax.services(prepared["texts"]["master.cf"] or "")
    gone = [name for name, entry in before.items() if name not in services and entry["command"] in listeners]
    if gone and not any(entry["command"] in listeners for entry in services.values()):
        found.append(f"{', '.join(gone)}: no SMTP listener would be left")
    return found


def _unusable_addresses(name, prepared, texts):
    """Addresses and ports that master(8) could not bind, and would die of."""
    before = _mta_postfix_view.doors(name, prepared["texts"])
    # A port that Postfix has now is free for it, whatever the address.
    services = _mta_postfix_syntax.services(prepared["base"]["master.cf"])
    ours = {service.rpartition("/")[0].rpartition(":")[2] for service in services if service.endswith("/inet")}
    found = []
    for (host, port), label in _mta_postfix_view.doors(name, texts).items():
        if (host, port) not in before:
            reason = _why_not_bound(host, port, port in ours)
            if reason:
                found.append(f"{label}: cannot listen at {host} port {port}: {reason}")
    return found


def _why_not_bound(host, port, may_be_in_use):
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


def _rehearsed(minion: Minion, name, prepared, texts):
    """What Postfix's daemons cannot do with the new files and could do with the old ones, and by whose fault."""
    found = _rehearsal(minion, name, prepared, texts)
    if not found:
        return []
    with _mta_postfix_stage.private_copy(minion, name, *prepared["base"].values()) as stage:
        fatal = any("fatal" in text for text in _mta_postfix_stage.complaints(stage, name, thorough=False))
    # A daemon may die of such an old file without a word.
    before = None if fatal else _rehearsal(minion, name, prepared, prepared["base"], {key for key, _ in found})
    if before is None:
        # Nobody can tell what is new. The running server will, and what mends the old files is not refused.
        return []
    known = {service for service, _ in before}
    result = []
    for service, text in found:
        if service not in known:
            culprits = _culprits(minion, name, prepared, service, text)
            result.append(f"{service} would not work: {text} (by {', '.join(culprits)})")
    return list(dict.fromkeys(result))


def _rehearsal(minion: Minion, name, prepared, texts, only=None):
    """:func:`mta_rehearsal.problems` of two files, of all their services or of some; ``None``: not to be tried."""
    services = _mta_postfix_syntax.services(texts["master.cf"])
    with _mta_postfix_stage.private_copy(minion, name, texts["main.cf"], texts["master.cf"]) as stage:
        # Where cyrus_sasl_config_path is empty, Debian's smtpd(8) looks for smtpd.conf beside its main.cf.
        for entry in set(os.listdir(name)) - set(os.listdir(stage)):
            os.symlink(os.path.join(name, entry), os.path.join(stage, entry))
        asked = ("daemon_directory", "queue_directory")
        values = _mta_postfix_view.run("postconf", "-c", stage, "-x", "-h", *asked)[1].splitlines()
        if len(values) != len(asked) or not os.path.isdir(values[0]):
            return None
        return _mta_preflight.problems(
            minion,
            stage,
            {"config_directory": name, **dict(zip(asked, values))},
            {key: entry for key, entry in services.items() if only is None or key in only},
            _mta_postfix_view.listeners_of(name, texts),
            converse=not AT_START & set(prepared["parameters"])
            and not _needs_proxymap(prepared)
            and _runs(values[1]),
            envelope=_understood_by_others(prepared),
        )


def _runs(queue):
    """Whether master(8) runs: someone answers at a socket of its own."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(1)
        try:
            sock.connect(os.path.join(queue, "private", "rewrite"))
        except OSError:
            return False
    return True


def _understood_by_others(prepared):
    """
    Whether smtpd(8) alone can know what to answer, with all other daemons still under the old configuration.

    It cannot when the change brings a service that it may have to ask.
    """
    return all(entry and entry["command"] in ("smtpd", "postscreen") for entry in prepared["services"].values())


def _needs_proxymap(prepared):
    """
    Whether a change brings a table that proxymap(8) has to allow.

    The one that runs knows only the old configuration, and who asks it for such a table dies of the answer.
    """
    values = [value for value in prepared["parameters"].values() if value]
    for entry in filter(None, prepared["services"].values()):
        values += entry["overrides"].values()
    return any("proxy:" in value for value in values)


def _culprits(minion: Minion, name, prepared, service, text):
    """The changes of which each by itself keeps a service from working; all of them when none does."""
    changes = [{"parameters": {key: value}, "services": {}} for key, value in prepared["parameters"].items()]
    changes += [{"parameters": {}, "services": {key: entry}} for key, entry in prepared["services"].items()]
    labels = [_label(change, text) for change in changes]
    named = [label for change, label in zip(changes, labels) if _mentions(text, change["parameters"])]
    if len(changes) > 1 and not named:
        named = [
            label
            for change, label in zip(changes, labels)
            if _mentions(text, _telling(change["parameters"])) or _breaks(minion, name, prepared, change, service)
        ]
    return named or labels


def _telling(parameters):
    """The values that are not in any text, as "no" or "1" is."""
    return [value for value in parameters.values() if value and len(value) > 3]


def _label(change, text):
    """What to call a change: a service with those of its overrides that ``text`` mentions."""
    label = " ".join([*change["parameters"], *change["services"]])
    for entry in filter(None, change["services"].values()):
        for key, value in entry["overrides"].items():
            if _mentions(text, [key, *_telling({key: value})]):
                label += f" -o {key}={value}"
    return label


def _breaks(minion: Minion, name, prepared, change, service):
    base = prepared["base"]
    with _mta_postfix_stage.private_copy(minion, name, *base.values()) as stage:
        main = _mta_postfix_syntax.mended(
            base["main.cf"], [], _mta_postfix_syntax.assigned(base["main.cf"], change["parameters"])
        )
        main = _mta_postfix_syntax.appended(main, change["parameters"])
        with open(os.path.join(stage, "main.cf"), "wb") as handle:
            handle.write(main.encode("utf-8", "surrogateescape"))
        _mta_postfix_stage.edit_services(stage, change["services"])
        texts = _mta_postfix_view.read_both(stage)
    return bool(_rehearsal(minion, name, {**prepared, **change}, texts, {service}))


def _missing_programs(services, parameters):
    """What changed master.cf entries would run and cannot."""
    commands = {service: entry["command"] for service, entry in services.items() if entry}
    if not commands:
        return []
    directory = (
        parameters.get("daemon_directory")
        or _mta_postfix_view.run("postconf", "-d", "-h", "daemon_directory")[1].strip()
    )
    paths = {service: os.path.join(directory, command) for service, command in commands.items()}
    return [f"{service}: there is no program {path}" for service, path in paths.items() if not _is_there(path)]


def _is_there(path):
    # A table or PEM file may be named by something else than a path, or refer to what is not known here.
    return not path.startswith("/") or "$" in path or os.path.exists(path)
