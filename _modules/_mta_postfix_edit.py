"""
main.cf and master.cf as a participant: what they are to be is compared with what they are, checked and switched.

Without a change two files are read and no program is started. The new files are made in a private copy
(:py:mod:`_mta_postfix_check`) and switched by the transaction, under the lock that ``postconf -e`` itself takes,
if the old ones are still those that the new ones were made from.

What a name in ``revert`` was before this formula first changed it (its previous value), and what it was made, are
kept in ``postconf.json`` of the state directory (:py:mod:`_mta_postfix_kept`).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Callable

from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_dane
import _mta_kept
import _mta_postfix_check
import _mta_postfix_kept
import _mta_postfix_lock
import _mta_postfix_stage
import _mta_postfix_syntax
import _mta_postfix_view
import _mta_snapshots
import _mta_transaction
from _mta_kept import Record
from _mta_minion import Minion
from _mta_plan import Change, Plan
from _mta_postfix_check import Proposal
from _mta_postfix_syntax import Broken, Entry, Service, Setting, Wanted
from _mta_postfix_view import Files
from _mta_records import NamedTuple, dataclass
from _mta_run import Run
from _mta_system import BLANKS

RECORD = "postconf.json"
ATTEMPTS = 3
UNMANAGED = ("keep", "warn", "remove")
REFERENCE = re.compile(r"\$(?:\{+([\w.-]+)|\(([\w.-]+)|(\w+))", re.ASCII)
# Names of one port: an entry that is asked for takes the place of another one, as master(8) cannot bind both.
# Older versions of Postfix, and many a page, call submissions smtps.
PORTS = (
    ("smtp/inet", "25/inet"),
    ("submission/inet", "587/inet"),
    ("submissions/inet", "smtps/inet", "465/inet"),
)
# Every package's master.cf has this listener.
STOCK: dict[str, Entry] = {"smtp/inet": {"command": "smtpd", "overrides": {}}}
PACKAGE_FIRST = (
    "Postfix is not installed: its package makes main.cf and master.cf, and what of this it sets by itself is not"
    " known before it is there"
)


# -- what there is -----------------------------------------------------------------------------


class _Present(NamedTuple):
    """main.cf and master.cf as they are; where there is no master.cf, ``master_text`` is the package's."""

    files: Files
    master_text: str
    settings: list[Setting]
    broken_main: list[Broken]
    services: list[Service]
    broken_master: list[Broken]

    @classmethod
    def of(cls, config_directory: str) -> _Present:
        files = _mta_postfix_view.read_both(config_directory)
        master_text = files.master or ""
        if files.master is None and _mta_postfix_view.installed():
            # Without it there is no Postfix; the package's own is what it begins with.
            master_text = _mta_postfix_view.package_master()
        main, master = (
            _mta_postfix_syntax.parse_main(files.main or ""),
            _mta_postfix_syntax.parse_master(master_text),
        )
        return cls(files, master_text, *main, *master)

    @property
    def main(self) -> dict[str, str]:
        """The parameters that main.cf sets."""
        return {setting.name: setting.value for setting in self.settings}

    @property
    def master(self) -> dict[str, Entry]:
        """The entries of master.cf."""
        return {service.name: service.entry for service in self.services}

    def base(self, parameters: Collection[str], services: Collection[str]) -> Files:
        """What new files with these names set anew are made from."""
        obsolete = _mta_postfix_syntax.obsolete
        main, master = self.files.main or "", self.master_text
        return Files(
            _mta_postfix_syntax.mended(main, self.broken_main, obsolete(self.settings, parameters)),
            _mta_postfix_syntax.mended(master, self.broken_master, obsolete(self.services, services)),
        )


# -- what is to change -------------------------------------------------------------------------


@dataclass(frozen=True)
class Prepared(Proposal):
    """
    A proposal, and what comes with it.

    activate, notes
        As in a :class:`_mta_plan.Plan`.

    record
        What is to be kept afterwards; ``None``: what has been.
    """

    activate: dict[str, str]
    notes: list[str]
    record: Record | None


def prepare(
    minion: Minion,
    name: str,
    parameters: Any = None,
    services: Any = None,
    unmanaged: str = "keep",
    revert: Sequence[str] | None = None,
    optional: Sequence[str] | None = None,
    dane: bool = False,
) -> Prepared:
    """
    Read what is there and find what has to change; without a process, unless a name in ``optional`` is new.

    Arguments as for :func:`plan`. Raises ``SaltInvocationError`` for one that cannot be.
    """
    if unmanaged not in UNMANAGED:
        raise SaltInvocationError(f"unmanaged is one of {', '.join(UNMANAGED)}, not {unmanaged!r}")
    for label, names in (("revert", revert), ("optional", optional)):
        if not isinstance(names or [], (list, tuple)):
            raise SaltInvocationError(f"{label} is a list of names, not {names!r}")
    present = _Present.of(name)
    main, master = present.main, present.master
    wanted = _mta_postfix_syntax.wanted_parameters(parameters)
    if dane and _mta_dane.possible(minion, {**main, **_texts(wanted)}):
        wanted.update({key: Wanted(text) for key, text in _mta_dane.PARAMETERS.items()})
        revert = None if revert is None else [*revert, *_mta_dane.PARAMETERS]
    unknown = _unknown(name, wanted, main, optional or [])
    wanted = {key: value for key, value in wanted.items() if key not in unknown}
    if isinstance(services, dict):
        displaced = _displaced(services)
        services = {**services, **displaced}
        revert = None if revert is None else [*revert, *displaced]
    kept = _Kept.of(minion, name, revert, services, _mta_postfix_kept.Files(main, master))
    restored = kept.restored
    new_services = changed_services(master, restored.services, services)
    strange = gone = _Unmanaged([], [])
    if unmanaged != "keep":
        named = {service: new_services.get(service, master.get(service)) for service in services or {}}
        strange = _unmanaged({**main, **restored.parameters}, {**master, **restored.services}, wanted, named)
    if unmanaged == "remove":
        strange, gone = gone, strange
        new_services = _differing({**new_services, **dict.fromkeys(gone.services)}, master)
    new_parameters = changed_parameters(
        main,
        {
            **{key: Wanted(text) for key, text in restored.parameters.items()},
            **wanted,
            **dict.fromkeys(gone.parameters, Wanted(None)),
        },
    )
    changes, notes = _shown(present, new_parameters, new_services)
    theirs = [key for key in restored.theirs if key not in wanted and key not in (services or {})]
    return Prepared(
        config_directory=name,
        files=present.files,
        base=present.base(new_parameters, new_services),
        broken=bool(present.broken_main or present.files.main is None),
        parameters=new_parameters,
        services=new_services,
        changes=changes,
        activate={"postfix": _activation(main, new_parameters)} if changes else {},
        notes=_notes(unknown, theirs, kept.strange, strange) + notes + _of_instances(main),
        record=kept.after(new_parameters, new_services),
    )


def _texts(wanted: Mapping[str, Wanted]) -> dict[str, str]:
    """The parameters that are to be in main.cf, without DANE's."""
    return {key: text for key, (text, _) in wanted.items() if text is not None and key not in _mta_dane.PARAMETERS}


def changed_parameters(main: Mapping[str, str], wanted: Mapping[str, Wanted]) -> dict[str, str | None]:
    """Those of the parameters that are not what they are to be."""
    return {
        name: text
        for name, (text, as_list) in wanted.items()
        if not _mta_postfix_syntax.same(name, main.get(name), text, as_list)
    }


def changed_services(
    master: Mapping[str, Entry], restored: Mapping[str, Entry | None], services: Any
) -> dict[str, Entry | None]:
    """Those of the services that are not what they are to be; what is asked for is laid over what is restored."""
    bare = {service: entry for service, entry in {**master, **restored}.items() if entry}
    results = {
        **{service: bare.get(service) for service in restored},
        **_mta_postfix_syntax.wanted_services(services, bare),
    }
    return _differing(results, master)


def _differing(services: Mapping[str, Entry | None], master: Mapping[str, Entry]) -> dict[str, Entry | None]:
    return {service: entry for service, entry in services.items() if entry != master.get(service)}


def _displaced(services: Mapping[str, Any]) -> dict[str, None]:
    """The other names of the ports of services that are asked for."""
    asked = {service for service, fields in services.items() if fields is not None}
    others = [name for names in PORTS if asked & {*names} for name in names]
    return dict.fromkeys(name for name in others if name not in services)


def _unknown(
    config_directory: str, wanted: Mapping[str, Wanted], main: Mapping[str, str], optional: Collection[str]
) -> list[str]:
    """Names in ``optional``, a profile's, that this Postfix does not know."""
    new = [name for name, (text, _) in wanted.items() if text is not None and name not in main]
    new = [name for name in new if name in optional]
    return _mta_postfix_stage.unknown(config_directory, new) if new else []


@dataclass(frozen=True)
class _Kept:
    """
    The previous values, and what of them is to be there again.

    record
        As it is read; ``None``: it is neither used nor changed.

    adopted
        It, with what an older version has changed and not recorded.

    strange
        Parameters that only such a version, or somebody else, can have set.
    """

    record: Record | None
    adopted: Record
    asked: _mta_postfix_kept.Asked
    present: _mta_postfix_kept.Files
    restored: _mta_postfix_kept.Restored
    strange: list[str]

    @classmethod
    def of(
        cls,
        minion: Minion,
        config_directory: str,
        revert: Sequence[str] | None,
        services: Any,
        present: _mta_postfix_kept.Files,
    ) -> _Kept:
        """Read the record; without ``revert`` nothing is kept or restored."""
        asked = _mta_postfix_kept.Asked(revert or [], services or {})
        if revert is None:
            nothing = _mta_postfix_kept.Restored({}, {}, [])
            return cls(None, Record({}, {}), asked, present, nothing, [])
        record = adopted = _mta_kept.read(minion.state, RECORD, config_directory)
        strange: list[str] = []
        first = None if record.complete else _before_the_first_apply(minion, config_directory, present)
        if first:
            same = _mta_postfix_kept.same
            items = asked.items(first.master)
            adopted = _mta_kept.adopted(record, items, present.value, first.value, same)
            unasked = [name for name in present.main if name not in asked.names and name not in adopted.before]
            strange = [name for name in unasked if not same(name, present.main[name], first.main.get(name))]
        restored = _mta_postfix_kept.restored(adopted, asked, present)
        return cls(record, adopted, asked, present, restored, strange)

    def after(self, parameters: Mapping[str, str | None], services: Mapping[str, Entry | None]) -> Record | None:
        """What is to be kept after these changes; ``None``: what has been."""
        if self.record is None:
            return None
        record = _mta_postfix_kept.kept(
            self.adopted, self.asked, self.present, self.restored, parameters, services
        )
        if not (parameters or services) and record[:2] == self.record[:2] and self.adopted is self.record:
            return None
        return record


def _before_the_first_apply(
    minion: Minion, config_directory: str, present: _mta_postfix_kept.Files
) -> _mta_postfix_kept.Files | None:
    """What main.cf and master.cf were before the first apply; ``None`` where none has changed them."""
    main, master = (
        _mta_snapshots.content(minion, os.path.join(config_directory, file)) for file in _mta_postfix_view.FILES
    )
    if main is None and master is None:
        return None

    def text(contents: bytes) -> str:
        return contents.decode("utf-8", "surrogateescape")

    return _mta_postfix_kept.Files(
        present.main if main is None else _mta_postfix_syntax.parameters(text(main)),
        present.master if master is None else _mta_postfix_syntax.services(text(master)),
    )


def shared(minion: Minion, config_directory: str) -> bool:
    """
    Tell whether main.cf or master.cf would differ from before the first apply if nothing were asked for any more.

    So it is where somebody else has set something. Without a complete record nobody knows.
    """
    files = _mta_postfix_view.read_both(config_directory)
    present = _mta_postfix_kept.Files(files.parameters(), files.services())
    first = _before_the_first_apply(minion, config_directory, present)
    if first is None or not _mta_kept.read(minion.state, RECORD, config_directory).complete:
        return False
    return _after(prepare(minion, config_directory, revert=[])) != (first.main, first.master)


class _Unmanaged(NamedTuple):
    """Parameters and services that neither the arguments nor the package know, and nothing refers to."""

    parameters: list[str]
    services: list[str]


def _unmanaged(
    main: Mapping[str, str | None],
    master: Mapping[str, Entry | None],
    wanted: Mapping[str, Wanted],
    named: Mapping[str, Entry | None],
) -> _Unmanaged:
    """Find them; ``named``: services that are asked for, as they will be."""
    there = {name: value for name, value in main.items() if value is not None}
    strange = {name for name in there if name not in wanted} - _mta_postfix_view.package_parameters()
    known_services = {*named, *_mta_postfix_view.package_services()}
    strange_services = [name for name, entry in master.items() if entry and name not in known_services]
    values = {name: value for name, value in there.items() if name not in strange}
    values.update({name: text for name, (text, _) in wanted.items() if text is not None})
    kept = {name: entry for name, entry in {**master, **named}.items() if name not in strange_services}
    texts = [
        *values.values(),
        *(_mta_postfix_syntax.entry_text(name, entry) for name, entry in kept.items() if entry),
    ]
    classes = set(_mta_postfix_syntax.items_of(values.get("smtpd_restriction_classes", "")))
    while texts:
        used = {next(filter(None, match.groups())) for text in texts for match in REFERENCE.finditer(text)}
        needed = strange & (used | classes)
        strange -= needed
        texts = [there[name] for name in needed]
    return _Unmanaged(sorted(strange), strange_services)


def _shown(
    present: _Present, parameters: Mapping[str, str | None], services: Mapping[str, Entry | None]
) -> tuple[dict[str, Change], list[str]]:
    """The changes as a state shows them, and what is to be said of lines that Postfix cannot parse."""
    changes: dict[str, Change] = {}
    notes = []
    if present.files.master is None and _mta_postfix_view.installed():
        changes["master.cf"] = {"old": None, "new": "as in the package"}
    for name, broken in zip(_mta_postfix_view.FILES, (present.broken_main, present.broken_master)):
        for reason, text, lines in broken:
            label = f"{name} line {lines[0] + 1}"
            changes[label] = {"old": text.strip(BLANKS), "new": None}
            notes.append(f"{label} stops Postfix, and is commented out: {reason}")
    main, master = present.main, present.master
    changes.update({key: {"old": main.get(key), "new": text} for key, text in parameters.items()})
    for service, entry in services.items():
        changes[f"master.cf {service}"] = _mta_postfix_syntax.difference(master.get(service), entry)
    return changes, notes


def _notes(
    unknown: Sequence[str], theirs: Sequence[str], unrecorded: Sequence[str], strange: _Unmanaged
) -> list[str]:
    """What is to be said of names that are left as they are."""
    said = {
        "Left out, as this version of Postfix does not have it": unknown,
        "Not restored, as somebody has changed it since": theirs,
        "Left as it is (null takes it out), as an older version may have set it and kept no record": unrecorded,
        "Unmanaged": [*strange.parameters, *(f"{service} in master.cf" for service in strange.services)],
    }
    return [f"{what}: {', '.join(names)}" for what, names in said.items() if names]


def _of_instances(main: Mapping[str, str]) -> list[str]:
    """What is to be said where this is one of several Postfix instances (postmulti(1))."""
    others = ", ".join(_mta_postfix_syntax.items_of(main.get("multi_instance_directories", "")))
    what = "is read, changed, reloaded and verified: not the instances in"
    return [f"Only the default instance of Postfix {what} {others}"] if others else []


def _activation(main: Mapping[str, str], changed: Mapping[str, str | None]) -> str:
    """``restart`` when master(8) would not take a change up by a reload."""
    if _mta_postfix_check.AT_START & set(changed):
        return "restart"
    new = {name: value for name, value in {**main, **changed}.items() if value is not None}
    for name, default in _mta_postfix_view.LISTENING.items():
        before, after = (_mta_postfix_syntax.expand(values.get(name, default), values) for values in (main, new))
        if _mta_postfix_syntax.items_of(before) != _mta_postfix_syntax.items_of(after):
            return "restart"
    return "reload"


# -- what differs from the package -------------------------------------------------------------


def differences(config_directory: str = _mta_postfix_view.CONFIG_DIRECTORY) -> dict[str, dict[str, Any]]:
    """
    Return in what main.cf and master.cf differ from the package's own, as pillar and ``postconf.managed`` take it.

    Parameters, result and errors: ``postconf.differences``.
    """
    main, master = _mta_postfix_view.show(config_directory), _mta_postfix_view.services(config_directory)
    package_main, package_master = _mta_postfix_view.package_settings()
    parameters: dict[str, Any] = {
        name: _mta_postfix_syntax.described(name, value)
        for name, value in main.items()
        if value != package_main.get(name)
    }
    parameters.update({name: None for name in package_main if name not in main})
    services: dict[str, Any] = {
        service: _mta_postfix_syntax.described_service(service, entry, package_master.get(service))
        for service, entry in master.items()
        if entry != package_master.get(service)
    }
    services.update({service: None for service in package_master if service not in master})
    left_out = {
        **_take_out(parameters, lambda one: changed_parameters(main, _mta_postfix_syntax.wanted_parameters(one))),
        **_take_out(services, lambda one: _mta_postfix_syntax.wanted_services(one, master)),
    }
    return {"parameters": parameters, "services": services, "left_out": left_out}


def _take_out(described: dict[str, Any], changed: Callable[[dict[str, Any]], Mapping[str, Any]]) -> dict[str, str]:
    """Take out what would not become the same again when it is asked for, ``changed``; return why."""
    left_out = {}
    for name, value in described.items():
        try:
            if changed({name: value}):
                left_out[name] = "it is not the same when written anew"
        except SaltInvocationError as err:
            left_out[name] = str(err)
    for name in left_out:
        del described[name]
    return left_out


# -- where Postfix will listen -----------------------------------------------------------------


def after_this_run(minion: Minion) -> tuple[dict[str, str], dict[str, Entry]]:
    """Return the parameters and services that there will be after what this run has planned last."""
    return _after(Run.of(minion).configuration["prepared"])


def ports(minion: Minion, config_directory: str = _mta_postfix_view.CONFIG_DIRECTORY) -> list[int]:
    """
    Return the TCP ports on which smtpd(8) and postscreen(8) serve other hosts; read in process.

    Parameters, result and errors: ``postconf.ports``.
    """
    files = _mta_postfix_view.read_both(config_directory)
    announced = Run.of(minion).configuration
    if announced.get("key") == (config_directory, files):
        return _mta_postfix_view.ports_of(config_directory, *_after(announced["prepared"], STOCK))
    return _mta_postfix_view.ports_of(config_directory, files.parameters(), files.services())


def _after(
    proposal: Proposal, otherwise: Mapping[str, Entry] | None = None
) -> tuple[dict[str, str], dict[str, Entry]]:
    """Parameters and services as they are after the changes; ``otherwise``: services where there were none."""
    main = {**proposal.base.parameters(), **proposal.parameters}
    master = {**(proposal.base.services() or otherwise or {}), **proposal.services}
    return (
        {name: value for name, value in main.items() if value is not None},
        {service: entry for service, entry in master.items() if entry is not None},
    )


def let_go(proposal: Proposal, services: Mapping[str, Any] | None) -> list[str]:
    """
    The listeners that the changes take out on request: by ``null``, by what is asked for no longer, by
    ``unmanaged: remove`` or ``master_service_disable``.

    One to which ``services`` gives another program is not meant to go.
    """
    before = (proposal.files.parameters(), proposal.files.services())
    there, left = (
        {service for _, service, _ in _mta_postfix_view.inet(proposal.config_directory, *given)[1]}
        for given in (before, _after(proposal))
    )
    asked = {service: (fields or {}).get("command", "smtpd") for service, fields in (services or {}).items()}
    return sorted(
        service for service in there - left if asked.get(service, "smtpd") in _mta_postfix_syntax.SERVERS
    )


# -- the participant ---------------------------------------------------------------------------


def plan(
    minion: Minion,
    name: str = _mta_postfix_view.CONFIG_DIRECTORY,
    parameters: Any = None,
    services: Any = None,
    unmanaged: str = "keep",
    revert: Sequence[str] | None = None,
    optional: Sequence[str] | None = None,
    dane: bool = False,
) -> Plan:
    """
    Tell what :func:`apply` would change. Only when there is something, Postfix checks it on a private copy.

    name, parameters, services, unmanaged, revert, optional, dane
        As for the state ``postconf.managed``.

    In the changes services are ``master.cf smtp/inet``. Raises ``SaltInvocationError`` for an argument that
    cannot be.
    """
    prepared = prepare(minion, name, parameters, services, unmanaged, revert, optional, dane)
    result = Plan(dict(prepared.changes), prepared.activate, notes=list(prepared.notes))
    run = Run.of(minion)
    run.configuration = {"key": (name, prepared.files), "prepared": prepared}
    if prepared.changes and not _mta_postfix_view.installed():
        if not prepared.files.main:
            result.notes.append(PACKAGE_FIRST)
    elif prepared.changes:
        # Only what follows under the transaction's lock may rely on what is found now.
        if not run.transaction:
            run.preflight.clear()
        staged = _mta_postfix_check.staged(minion, prepared)
        there = zip(_mta_postfix_view.FILES, prepared.files, staged.files)
        result.replaced = [os.path.join(name, file) for file, old, new in there if new != (old or "")]
        result.errors = list(staged.errors)
        result.notes += staged.notes
        # What earlier states have announced in test mode may be what is missing; apply() looks again.
        (result.notes if run.changes else result.errors).extend(staged.missing)
    return result


def apply(
    minion: Minion,
    name: str = _mta_postfix_view.CONFIG_DIRECTORY,
    parameters: Any = None,
    services: Any = None,
    unmanaged: str = "keep",
    revert: Sequence[str] | None = None,
    optional: Sequence[str] | None = None,
    dane: bool = False,
) -> None:
    """
    Make the changes that :func:`plan` tells, as a part of the transaction.

    name, parameters, services, unmanaged, revert, optional, dane
        As for the state ``postconf.managed``.

    main.cf and master.cf are switched only if they are still what the new ones were made from; a file that
    was edited meanwhile is planned again. Raises ``CommandExecutionError`` when Postfix refuses the result,
    is not installed, or the files cannot be locked or written.
    """
    # What is made, or undone later, is announced no longer.
    Run.of(minion).configuration = {}
    if not _mta_postfix_view.installed():
        raise CommandExecutionError("Postfix is not installed: there is no postconf")
    if not prepare(minion, name, parameters, services, unmanaged, revert, optional, dane).changes:
        return
    _mta_transaction.begin(minion)
    for _ in range(ATTEMPTS):
        prepared = prepare(minion, name, parameters, services, unmanaged, revert, optional, dane)
        if not prepared.changes:
            return
        staged = _mta_postfix_check.staged(minion, prepared)
        if staged.errors or staged.missing:
            raise CommandExecutionError("\n".join(staged.errors + staged.missing))
        # This takes the transaction's lock and looks at the server, before postconf(1) is kept waiting.
        _mta_transaction.need(minion, prepared.activate, let_go(prepared, services))
        with _mta_postfix_lock.held(name):
            if _mta_postfix_view.read_both(name) == prepared.files:
                _switch(minion, prepared, staged.files)
                return
    raise CommandExecutionError(
        f"main.cf or master.cf in {name} has been edited by somebody else during each of {ATTEMPTS} attempts"
    )


def _switch(minion: Minion, prepared: Prepared, files: Files) -> None:
    """Replace what has changed, as a part of the transaction."""
    name = prepared.config_directory
    for file_name, old, new in zip(_mta_postfix_view.FILES, prepared.files, files):
        if new != (old or ""):
            contents = (new or "").encode("utf-8", "surrogateescape")
            path, times = os.path.join(name, file_name), _mta_postfix_stage.settled()
            _mta_transaction.write(minion, path, contents, activate=prepared.activate, times=times)
    if prepared.record is not None and prepared.record != _mta_kept.read(minion.state, RECORD, name):
        text = json.dumps(_mta_kept.whole(minion.state, RECORD, name, prepared.record), indent=1)
        _mta_transaction.write(minion, minion.state.path(RECORD), text, mode="0600")


def remember(minion: Minion) -> None:
    """Keep what a run without changes has found out of previous values."""
    prepared = Run.of(minion).configuration.get("prepared")
    if prepared and prepared.record is not None:
        state, name, record = minion.state, prepared.config_directory, prepared.record
        # Another apply that is under way writes the record, too; the next run finds this out again.
        _mta_transaction.alone(
            minion, lambda: state.write(RECORD, _mta_kept.whole(state, RECORD, name, record)), wait=False
        )
