"""TODO subject (postconf)."""

import contextlib
import fcntl
import json
import os
import re
import time

from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_postfix_check
import _mta_postfix_stage
import _mta_postfix_syntax
import _mta_postfix_view
import _mta_tables
import _mta_transaction
from _mta_minion import Minion
from _mta_plan import Plan
from _mta_run import Run

RECORD = "postconf.json"
# In the record beside the configuration directories, which are absolute paths.
MADE = "made"
LOCK_SECONDS = 30
ATTEMPTS = 3
UNMANAGED = ("keep", "warn", "remove")
REFERENCE = re.compile(r"\$(?:\{+([\w.-]+)|\(([\w.-]+)|(\w+))", re.ASCII)


def _record(minion: Minion, config_directory):
    """
    What parameters and services of :func:`plan`'s ``revert`` were before: ``{name: text, entry or None}``.

    The whole record has one such dictionary for each configuration directory. One that is damaged is none.
    """
    whole = minion.state.read(RECORD)
    return whole, whole.get(config_directory, {})


@contextlib.contextmanager
def _edit_locks(config_directory):
    """
    Keep ``postconf -e`` out while files are switched, by its own protocol.

    edit_file(3) takes an exclusive flock(2) on FILE.tmp, and begins again when the file it locked is gone by
    then.
    """
    with contextlib.ExitStack() as held:
        for name in _mta_postfix_view.FILES:
            held.enter_context(_edit_lock(os.path.join(config_directory, f"{name}.tmp")))
        yield


@contextlib.contextmanager
def _edit_lock(path):
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as err:
            raise CommandExecutionError(f"Cannot lock {path}: {err.strerror}") from err
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    break
        except BlockingIOError:
            pass
        os.close(descriptor)
        if time.monotonic() > deadline:
            raise CommandExecutionError(f"Someone is editing: {path} has been locked for {LOCK_SECONDS} s")
        time.sleep(0.05)
    try:
        yield
    finally:
        os.unlink(path)
        os.close(descriptor)


def _unmanaged(main, master, parameters, services):
    """Parameters and services that neither the arguments nor the package know, and nothing refers to."""
    strange = {name for name in main if name not in parameters} - _mta_postfix_view.package_parameters()
    values = {name: value for name, value in main.items() if name not in strange}
    values.update({name: text for name, (text, _) in parameters.items() if text is not None})
    strange_services = [
        name for name in master if name not in services and name not in _mta_postfix_view.package_services()
    ]
    texts = list(values.values())
    texts += [
        _mta_postfix_syntax.entry_text(name, entry)
        for name, entry in master.items()
        if name not in strange_services
    ]
    texts += [_mta_postfix_syntax.entry_text(name, entry) for name, entry in services.items() if entry]
    classes = set(_mta_postfix_syntax.items_of(values.get("smtpd_restriction_classes", "")))
    while texts:
        used = {next(filter(None, match.groups())) for text in texts for match in REFERENCE.finditer(text)}
        needed = strange & (used | classes)
        strange -= needed
        texts = [main[name] for name in needed]
    return sorted(strange), strange_services


def _prepare(minion: Minion, name, parameters, services, unmanaged, revert):
    """Read what is there and find what has to change; without a process, unless a name in ``revert`` is new."""
    if unmanaged not in UNMANAGED:
        raise SaltInvocationError(f"unmanaged is one of {', '.join(UNMANAGED)}, not {unmanaged!r}")
    if not isinstance(revert or [], (list, tuple)):
        raise SaltInvocationError(f"revert is a list of names, not {revert!r}")
    wanted = _mta_postfix_syntax.wanted_parameters(parameters)
    texts = _mta_postfix_view.read_both(name)
    master_text = texts["master.cf"] or ""
    changes = {}
    if texts["master.cf"] is None and _mta_postfix_view.installed():
        # Without it there is no Postfix; the package's own is what it begins with.
        master_text = next(filter(None, map(_mta_postfix_view.read, _mta_postfix_view.PACKAGE_MASTER)), "")
        changes["master.cf"] = {"old": None, "new": "as in the package"}
    settings, broken_main = _mta_postfix_syntax.parse_main(texts["main.cf"] or "")
    entries, broken_master = _mta_postfix_syntax.parse_master(master_text)
    main = {parameter: value for parameter, value, _ in settings}
    master = {service: entry for service, entry, _ in entries}
    news = [key for key, (text, _) in wanted.items() if text is not None and key not in main]
    unknown = _mta_postfix_stage.unknown(name, [key for key in news if key in (revert or [])])
    wanted = {key: value for key, value in wanted.items() if key not in unknown}
    notes = [f"This Postfix does not know, and goes without: {', '.join(unknown)}"] if unknown else []
    left, left_services, lent, theirs = _lent(minion, name, revert, {**main, **master})
    theirs = [key for key in theirs if key not in wanted and key not in (services or {})]
    notes += [f"Not put back, as somebody has changed it since: {', '.join(theirs)}"] if theirs else []
    new_parameters = {
        parameter: text
        for parameter, (text, as_list) in {**{key: (text, False) for key, text in left.items()}, **wanted}.items()
        if not _mta_postfix_syntax.same(parameter, main.get(parameter), text, as_list)
    }
    bare = {service: entry for service, entry in {**master, **left_services}.items() if entry}
    results = {
        **{key: bare.get(key) for key in left_services},
        **_mta_postfix_syntax.wanted_services(services, bare),
    }
    new_services = {key: entry for key, entry in results.items() if entry != master.get(key)}
    if unmanaged != "keep":
        known = {service: master.get(service) for service in services or {}}
        there = {key: value for key, value in {**main, **left}.items() if value is not None}
        strange, strange_services = _unmanaged(there, bare, wanted, {**known, **new_services})
        if unmanaged == "remove":
            new_parameters.update(dict.fromkeys(strange))
            new_services.update(dict.fromkeys(strange_services))
        elif strange or strange_services:
            found = strange + [f"{service} in master.cf" for service in strange_services]
            notes.append("Not managed: " + ", ".join(found))
    for file_name, broken in zip(_mta_postfix_view.FILES, (broken_main, broken_master)):
        for reason, text, indexes in broken:
            label = f"{file_name} line {indexes[0] + 1}"
            changes[label] = {"old": text.strip(_mta_postfix_syntax.BLANKS), "new": None}
            notes.append(f"{label} stops Postfix and becomes a comment: {reason}")
    changes.update({key: {"old": main.get(key), "new": text} for key, text in new_parameters.items()})
    for service, entry in new_services.items():
        changes[f"master.cf {service}"] = _mta_postfix_syntax.difference(master.get(service), entry)
    made = {key: value for key, value in _made(minion, name).items() if key in lent}
    for key in revert or []:
        if key in {**new_parameters, **new_services}:
            lent.setdefault(key, master.get(key) if "/" in key else main.get(key))
            made[key] = new_services[key] if "/" in key else new_parameters[key]
    return {
        "texts": texts,
        "base": {
            "main.cf": _mta_postfix_syntax.mended(
                texts["main.cf"] or "", broken_main, _mta_postfix_syntax.superseded(settings, new_parameters)
            ),
            "master.cf": _mta_postfix_syntax.mended(
                master_text, broken_master, _mta_postfix_syntax.superseded(entries, new_services)
            ),
        },
        "broken": bool(broken_main or texts["main.cf"] is None),
        "parameters": new_parameters,
        "services": new_services,
        "changes": changes,
        "activate": {"postfix": _activation(main, new_parameters)} if changes else {},
        "notes": notes,
        "record": None if revert is None else lent,
        "made": made,
    }


def _lent(minion: Minion, name, revert, present):
    """
    What was before of the parameters, and of the services, that are lent no longer; and of what still is.

    Last, the names of those that are not as they were made: they are somebody else's now.
    """
    record, made = _record(minion, name)[1] if revert is not None else {}, _made(minion, name)
    no_longer = [key for key in record if key not in revert]
    theirs = [
        key
        for key in no_longer
        if key in made
        and present.get(key) != made[key]
        and ("/" in key or not _mta_postfix_syntax.same(key, present.get(key), made[key]))
    ]
    back = {key: record[key] for key in no_longer if key not in theirs}
    parameters = {key: before for key, before in back.items() if "/" not in key}
    services = {key: before for key, before in back.items() if "/" in key}
    return parameters, services, {key: before for key, before in record.items() if key in revert}, theirs


def _made(minion: Minion, name):
    """What the last apply that changed them made of the parameters and services that are lent."""
    return _record(minion, name)[0].get(MADE, {}).get(name, {})


def _activation(main, changed):
    """``restart`` when master(8) would not take a change up by a reload."""
    if _mta_postfix_check.AT_START & set(changed):
        return "restart"
    new = {name: value for name, value in {**main, **changed}.items() if value is not None}
    for name, default in _mta_postfix_view.LISTENING.items():
        before, after = (_mta_postfix_syntax.expand(values.get(name, default), values) for values in (main, new))
        if _mta_postfix_syntax.items_of(before) != _mta_postfix_syntax.items_of(after):
            return "restart"
    return "reload"


def differences(minion: Minion, config_directory=_mta_postfix_view.CONFIG_DIRECTORY):
    """
    Return in what main.cf and master.cf differ from the package's own, as pillar and ``postconf.managed`` take it.

    config_directory
        Path, ``/etc/postfix``.

    Returns ``{"parameters": …, "services": …, "left_out": {name: why}}``. What stands in the package's files with
    another value or not at all is there with this host's value; what only they have is ``None``. Left out is
    what ``postconf.managed`` could not be told. Reads files; starts no process. Raises
    ``CommandExecutionError`` as :func:`show` and :func:`services` do.
    """
    main, master = _mta_postfix_view.show(config_directory), _mta_postfix_view.services(config_directory)
    package_main, package_master = _mta_postfix_view.package_settings()
    parameters = {
        name: _mta_postfix_syntax.described(name, value)
        for name, value in main.items()
        if value != package_main.get(name)
    }
    parameters.update({name: None for name in package_main if name not in main})
    entries = {
        service: _mta_postfix_syntax.described_service(service, entry, package_master.get(service))
        for service, entry in master.items()
        if entry != package_master.get(service)
    }
    entries.update({service: None for service in package_master if service not in master})
    left_out = {}
    for found, one in (
        (parameters, lambda key, value: ({key: value}, None)),
        (entries, lambda key, value: (None, {key: value})),
    ):
        for key, value in list(found.items()):
            try:
                differs = _prepare(minion, config_directory, *one(key, value), "keep", None)["changes"]
                why = "it is not the same when written anew" if differs else None
            except SaltInvocationError as err:
                why = str(err)
            if why:
                left_out[key] = why
                del found[key]
    return {"parameters": parameters, "services": entries, "left_out": left_out}


def ports(minion: Minion, config_directory=_mta_postfix_view.CONFIG_DIRECTORY):
    """
    Return the TCP ports on which smtpd(8) and postscreen(8) serve other hosts; read in process.

    config_directory
        Path, ``/etc/postfix``.

    Ports that are bound to the loopback interface only are left out. Where :func:`plan` has announced, in the same
    run, changes that have not been made, it is what there will be after them. Empty without configuration.
    """
    texts = _mta_postfix_view.read_both(config_directory)
    announced = Run.of(minion).configuration
    if announced.get("key") == (config_directory, texts):
        return _announced_ports(config_directory, announced["prepared"])
    return _mta_postfix_view.ports_of(
        config_directory,
        _mta_postfix_syntax.parameters(texts["main.cf"] or ""),
        _mta_postfix_syntax.services(texts["master.cf"] or ""),
    )


def _announced_ports(config_directory, prepared):
    """What :func:`ports` will return after the changes."""
    # Every package's master.cf has this one.
    return _mta_postfix_view.ports_of(
        config_directory, *_after(prepared, {"smtp/inet": {"command": "smtpd", "overrides": {}}})
    )


def _after(prepared, otherwise=None):
    """Parameters and services as they are after the changes; ``otherwise``: services where there were none."""
    main = {**_mta_postfix_syntax.parameters(prepared["base"]["main.cf"]), **prepared["parameters"]}
    master = {
        **(_mta_postfix_syntax.services(prepared["base"]["master.cf"]) or otherwise or {}),
        **prepared["services"],
    }
    return [{name: value for name, value in items.items() if value is not None} for items in (main, master)]


def _let_go(config_directory, prepared, services):
    """
    The listeners that the changes take out on request: by ``null``, by what is asked for no longer, by
    ``unmanaged: remove`` or ``master_service_disable``.

    One to which ``services`` gives another program is not meant to go.
    """
    texts = prepared["texts"]
    before = (
        _mta_postfix_syntax.parameters(texts["main.cf"] or ""),
        _mta_postfix_syntax.services(texts["master.cf"] or ""),
    )
    there, left = (
        {service for _, service, _ in _mta_postfix_view.inet(config_directory, *given)[1]}
        for given in (before, _after(prepared))
    )
    asked = {service: (fields or {}).get("command", "smtpd") for service, fields in (services or {}).items()}
    return sorted(
        service for service in there - left if asked.get(service, "smtpd") in _mta_postfix_syntax.SERVERS
    )


def lookup(minion: Minion, table, key, config_directory=_mta_postfix_view.CONFIG_DIRECTORY):
    """
    Look a key up in a table, or in the tables of a parameter; see :py:func:`mta_map.lookup`.

    table
        ``type:path``, or a parameter such as ``virtual_alias_maps``.

    key
        Text, one line.

    config_directory
        Path, ``/etc/postfix``.

    Returns the value, or ``None``.
    """
    return _mta_tables.lookup(minion, table, key, config_directory)


def plan(
    minion: Minion,
    name=_mta_postfix_view.CONFIG_DIRECTORY,
    parameters=None,
    services=None,
    unmanaged="keep",
    revert=None,
):
    """
    Tell what :func:`apply` would change. Only when there is something, Postfix checks it on a private copy.

    name, parameters, services, unmanaged, revert
        As for the state ``postconf.managed``.

    Returns a dictionary: ``changes`` (``{name: {"old": …, "new": …}}``, services as ``master.cf smtp/inet``),
    ``activate`` (``{"postfix": "reload" or "restart"}``), ``comment`` (text or ``None``), ``errors`` (list of
    texts: what Postfix refuses of it). Raises ``SaltInvocationError`` for an argument that cannot be.
    """
    prepared = _prepare(minion, name, parameters, services, unmanaged, revert)
    result = Plan(prepared["changes"], prepared["activate"], notes=list(prepared["notes"]))
    run = Run.of(minion)
    run.configuration = {"key": (name, prepared["texts"]), "prepared": prepared}
    if prepared["changes"] and _mta_postfix_view.installed():
        # Only apply(), in the same run, may rely on what is found now.
        run.preflight.clear()
        staged = _mta_postfix_check.staged(minion, name, prepared)
        result.errors = list(staged["errors"])
        result.notes += staged["notes"]
        # What earlier states have announced in test mode may be what is missing; apply() looks again.
        (result.notes if run.changes else result.errors).extend(staged["missing"])
    return result


def apply(
    minion: Minion,
    name=_mta_postfix_view.CONFIG_DIRECTORY,
    parameters=None,
    services=None,
    unmanaged="keep",
    revert=None,
):
    """
    Make the changes that :func:`plan` tells, as a part of the transaction.

    name, parameters, services, unmanaged, revert
        As for the state ``postconf.managed``.

    main.cf and master.cf are switched only if they are still what the new ones were made from; a file that
    was edited meanwhile is planned again. Raises ``CommandExecutionError`` when Postfix refuses the result,
    is not installed, or the files cannot be locked or written.
    """
    # What is made, or undone later, is announced no longer.
    Run.of(minion).configuration = {}
    if not _mta_postfix_view.installed():
        raise CommandExecutionError("Postfix is not installed: there is no postconf")
    if not _prepare(minion, name, parameters, services, unmanaged, revert)["changes"]:
        return
    _mta_transaction.begin(minion)
    for _ in range(ATTEMPTS):
        prepared = _prepare(minion, name, parameters, services, unmanaged, revert)
        if not prepared["changes"]:
            return
        staged = _mta_postfix_check.staged(minion, name, prepared)
        if staged["errors"] or staged["missing"]:
            raise CommandExecutionError("\n".join(staged["errors"] + staged["missing"]))
        # This takes the transaction's lock and looks at the server, before postconf(1) is kept waiting.
        _mta_transaction.need(minion, prepared["activate"], _let_go(name, prepared, services))
        with _edit_locks(name):
            if _mta_postfix_view.read_both(name) == prepared["texts"]:
                _switch(minion, name, prepared, staged["texts"])
                return
    raise CommandExecutionError(
        f"Someone keeps editing main.cf or master.cf in {name}; gave up after {ATTEMPTS} attempts"
    )


def _switch(minion: Minion, name, prepared, texts):
    for file_name in _mta_postfix_view.FILES:
        if texts[file_name] != (prepared["texts"][file_name] or ""):
            contents = texts[file_name].encode("utf-8", "surrogateescape")
            _mta_transaction.write(minion, os.path.join(name, file_name), contents, activate=prepared["activate"])
    whole, record = _record(minion, name)
    if prepared["record"] is not None and (prepared["record"], prepared["made"]) != (record, _made(minion, name)):
        made = {**whole.get(MADE, {}), name: prepared["made"]}
        text = json.dumps({**whole, name: prepared["record"], MADE: made}, indent=1)
        _mta_transaction.write(minion, minion.state.path(RECORD), text, mode="0600")
