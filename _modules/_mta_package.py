"""
The mail server's packages, the debconf answers before them, and the system mail name.

On the Debian family the dpkg database is read in process: nothing is started while everything is installed. An
installation is simulated first, and refused when it would remove anything but a competing mail transport agent.
Other families use Salt's ``pkg`` module.
"""

from __future__ import annotations

import os
import pathlib
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional

from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_guard
import _mta_system
from _mta_minion import Minion
from _mta_run import Run

ALIASES = "/etc/aliases"
DPKG = pathlib.Path("/var/lib/dpkg")
APT_LISTS = pathlib.Path("/var/lib/apt/lists")
LOCKS = [DPKG / "lock-frontend", DPKG / "lock", APT_LISTS / "lock"]
# How long to wait for another package manager, in seconds; Salt itself would wait for half an hour.
LOCK_TIMEOUT = 120
# dpkg(1), "PACKAGE STATES": the package is configured; only triggers are to be run for the others.
INSTALLED = ("installed", "triggers-awaited", "triggers-pending")
NONINTERACTIVE = {
    "LC_ALL": "C",
    "DEBIAN_FRONTEND": "noninteractive",
    "APT_LISTCHANGES_FRONTEND": "none",
    "NEEDRESTART_MODE": "l",
}
Versions = dict[str, Optional[str]]
# A package's paragraph in a dpkg status file: field in lower case to its value.
Fields = dict[str, str]


def versions(minion: Minion, names: Sequence[str]) -> Versions:
    """
    Return the installed version of packages, by name.

    It is ``None`` for a package that is not installed completely: absent, removed with its configuration left
    behind, or unpacked but not configured. Raises ``CommandExecutionError`` when the database cannot be read.
    """
    if not names:
        return {}
    if not _is_debian(minion):
        found = minion.functions["pkg.version"](*names)
        found = found if isinstance(found, dict) else {names[0]: found}
        return {name: found.get(name) or None for name in names}
    database = _database(names)
    return {name: _installed_version(database.get(name)) for name in names}


def problems(minion: Minion, names: Sequence[str]) -> list[str]:
    """
    Return why packages cannot be installed; nothing is changed.

    A package that apt does not know yet is no reason: :func:`install` refreshes them first. Only the Debian family
    gets reasons.
    """
    if not _is_debian(minion) or not names:
        return []
    returncode, output = _simulate(names)
    return _refusals(_removals(output)) if returncode == 0 else []


def install(minion: Minion, names: Sequence[str], answers: Mapping[str, Any] | None = None) -> None:
    """
    Install packages without asking anything.

    answers
        debconf answers by package, ``{package: {question: [type, value]}}``. Those of a package in ``names``
        that was never installed are given to debconf before apt runs, the others are left out
        (debconf-set-selections(1)).

    Raises ``SaltInvocationError`` for an answer that debconf's format cannot hold. Raises
    ``CommandExecutionError``, with nothing changed, when apt would remove a package that is not a competing
    mail transport agent, when the packages are not found, or when another package manager keeps the lock; and
    when the installation fails.
    """
    # Python itself may be among what is installed.
    _mta_guard.complete()
    if not _is_debian(minion):
        minion.functions["pkg.install"](pkgs=list(names), refresh=True)
    else:
        known = _database(names)
        selections = _selections(answers or {}, [name for name in names if name not in known])
        _wait_for_locks(LOCK_TIMEOUT)
        _refuse_or_refresh(minion, names)
        _set_selections(selections)
        _wait_for_locks(LOCK_TIMEOUT)
        minion.functions["pkg.install"](pkgs=list(names), refresh=False, env=NONINTERACTIVE)
    missing = [name for name, version in versions(minion, names).items() if version is None]
    if missing:
        raise CommandExecutionError(
            f"Not installed although the package manager reported no error: {', '.join(missing)}"
        )


def mail_name(path: str) -> str | None:
    """Return the system mail name: what a file holds, ``None`` when it is not there (mailname(5))."""
    text = _mta_system.read(path)
    return None if text is None else text.removesuffix("\n")


def converge(
    minion: Minion,
    packages: Sequence[str],
    answers: Mapping[str, Any] | None,
    mailname: str | None,
    mailname_file: str | None,
    test: bool,
    idle: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """
    Install the packages that are missing, and keep the system mail name; parameters as for the state.

    Returns ``result``, ``changes`` and ``comment`` of a state. When an installation fails, ``changes`` has what
    has been installed all the same.
    """
    subject = f"The packages {', '.join(packages)}"
    changes: dict[str, Any] = {}
    try:
        before = versions(minion, packages)
        missing = [package for package in packages if before[package] is None]
        # Packages read it when they are installed.
        renamed = _renamed(mailname, mailname_file)
        if not missing and not renamed:
            return {"result": True, "changes": {}, "comment": f"{subject} are in the correct state"}
        planned = {**renamed, **{package: {"old": "", "new": "installed"} for package in missing}}
        if test:
            refused = problems(minion, missing)
            if refused:
                return {"result": False, "changes": {}, "comment": "\n".join(refused)}
            return {"result": None, "changes": planned, "comment": f"Would be changed: {', '.join(planned)}"}
        for path, change in renamed.items():
            # Of a symbolic link, the file that it leads to.
            _mta_system.replace(os.path.realpath(path), f"{change['new']}\n")
        changes = renamed
        if missing:
            Run.of(minion).seeds = "postfix" in missing and not os.path.exists(ALIASES)
            quiet = idle or {}
            absent = {name for name, version in versions(minion, [*quiet]).items() if version is None}
            try:
                install(minion, missing, answers)
                for package, version in versions(minion, [*quiet]).items():
                    # One that was there may be somebody's; one that the others recommend is new, too.
                    _leave_idle(quiet[package] if version and package in absent else [])
            finally:
                after = versions(minion, missing)
                now = {package: {"old": "", "new": after[package]} for package in missing if after[package]}
                changes = {**renamed, **now}
    except (CommandExecutionError, SaltInvocationError) as error:
        return {"result": False, "changes": changes, "comment": f"{subject} have not all been installed: {error}"}
    return {"result": True, "changes": changes, "comment": f"Changed: {', '.join(planned)}"}


def _leave_idle(units: Sequence[str]) -> None:
    """Stop and disable what a package has started that is there for its programs only."""
    if units and os.path.isdir("/run/systemd/system"):
        _mta_system.run(["systemctl", "disable", "--now", *units])


def _renamed(name: str | None, path: str | None) -> dict[str, Any]:
    """How the system mail name has to change, by the file that holds it."""
    if not name or not path:
        return {}
    old = mail_name(path)
    return {} if old == name else {path: {"old": old or "", "new": name}}


def _is_debian(minion: Minion) -> bool:
    return minion.grains.get("os_family") == "Debian"


# -- the dpkg database -------------------------------------------------------------------------


def _database(names: Iterable[str]) -> dict[str, Fields]:
    """
    Return the paragraphs of the packages that dpkg knows: installed, in part installed, or not yet purged.

    Includes the journal that a dpkg at work, or an interrupted one, keeps beside its database.
    """
    try:
        journal = sorted(path for path in (DPKG / "updates").iterdir() if path.name.isdigit())
        texts = [path.read_bytes() for path in [DPKG / "status", *journal]]
    except OSError as error:
        raise CommandExecutionError(f"The database of installed packages cannot be read: {error}") from error
    found = _paragraphs(b"\n\n".join(texts), names)
    return {name: fields for name, fields in found.items() if _state(fields) != "not-installed"}


def _paragraphs(database: bytes, names: Iterable[str]) -> dict[str, Fields]:
    """
    Return the paragraphs of packages from the bytes of a dpkg status file (deb-control(5)).

    A later paragraph of a package wins, except over one for another architecture that is installed.
    """
    wanted = {name.encode(): name for name in names}
    found: dict[str, Fields] = {}
    for paragraph in database.split(b"\n\n"):
        paragraph = paragraph.lstrip(b"\n")
        # dpkg writes "Package:" first; slicing it out is what keeps a database of several MB within 3 ms.
        name = wanted.get(paragraph[9 : paragraph.find(b"\n")])
        if name is None:
            continue
        fields = _fields(paragraph.decode(errors="replace"))
        earlier = found.get(name, {})
        if not _installed_version(earlier) or fields.get("architecture") == earlier.get("architecture"):
            found[name] = fields
    return found


def _fields(paragraph: str) -> Fields:
    fields = {}
    for line in paragraph.splitlines():
        name, colon, value = line.partition(":")
        if colon and not line[0].isspace():
            fields[name.lower()] = value.strip()
    return fields


def _state(fields: Fields) -> str:
    """Return the last word of ``Status: want flag state``."""
    return (fields.get("status", "").split() or [""])[-1]


def _installed_version(fields: Fields | None) -> str | None:
    return fields.get("version") if fields and _state(fields) in INSTALLED else None


# -- what an installation would remove ---------------------------------------------------------


def _simulate(names: Sequence[str]) -> tuple[int, str]:
    """Return the exit code and the output of apt-get --simulate, which needs no lock and changes nothing."""
    return _run(["apt-get", "--simulate", "-q", "-y", "install", *names])


def _removals(output: str) -> list[str]:
    """Return what ``apt-get --simulate`` would remove: it prints an operation of dpkg a line (apt-get(8))."""
    return re.findall(r"^(?:Remv|Purg) ([^\s:]+)", output, re.MULTILINE)


def _refusals(removed: Sequence[str]) -> list[str]:
    """
    Return why removals are refused: all but those of a mail transport agent.

    Its other packages, made from the same source, count as part of it: Exim's configuration conflicts with
    Postfix.
    """
    fields = _database(removed)
    agents = [
        _source(name, fields[name])
        for name in fields
        if "mail-transport-agent" in _names_in(fields[name].get("provides", ""))
    ]
    kept = [name for name in removed if name not in fields or _source(name, fields[name]) not in agents]
    if not kept:
        return []
    return [
        f"apt would remove packages that are not part of a competing mail server: {', '.join(kept)}. "
        "Nothing has been changed; remove them yourself if they may go"
    ]


def _names_in(relation: str) -> set[str]:
    """Return the package names in a field like Provides (deb-control(5)), without versions."""
    return {part.split("(")[0].split(":")[0].strip() for part in re.split("[,|]", relation)}


def _source(name: str, fields: Fields) -> str:
    return fields.get("source", name).split(" ")[0]


def _refuse_or_refresh(minion: Minion, names: Sequence[str]) -> None:
    """
    Refresh the package lists, and simulate the installation.

    A host without a way to the archive may still have what it needs: a failed refresh counts only if apt
    cannot find the packages.
    """
    refresh_error = ""
    try:
        minion.functions["pkg.refresh_db"](failhard=False)
    except CommandExecutionError as error:
        refresh_error = f"\nThe package lists could not be refreshed either: {error}"
    returncode, output = _simulate(names)
    if returncode != 0:
        raise CommandExecutionError(f"apt cannot install {', '.join(names)}:\n{output.strip()}{refresh_error}")
    refusals = _refusals(_removals(output))
    if refusals:
        raise CommandExecutionError("\n".join(refusals))


# -- debconf and locks -------------------------------------------------------------------------


def _selections(answers: Mapping[str, Any], packages: Iterable[str]) -> str:
    """
    Return the input of debconf-set-selections(1) for some packages, one line for each answer.

    Raises ``SaltInvocationError`` for an answer that its format cannot hold.
    """
    lines = []
    for package in packages:
        for question, answer in answers.get(package, {}).items():
            if not isinstance(answer, (list, tuple)) or len(answer) != 2:
                raise SaltInvocationError(f"The debconf answer to {question} is not a list of type and value")
            line = f"{package} {question} {answer[0]} {answer[1]}"
            if re.search(r"[\x00-\x1f\x7f]", line):
                raise SaltInvocationError(f"The debconf answer to {question} has a control character in it")
            lines.append(line + "\n")
    return "".join(lines)


def _set_selections(selections: str) -> None:
    if not selections:
        return
    returncode, output = _run(["debconf-set-selections"], stdin=selections)
    # A line that it cannot use is only a message to some versions.
    if returncode != 0 or "error:" in output:
        raise CommandExecutionError(f"debconf-set-selections refused the answers: {output.strip()}")


def _run(command: Sequence[str], stdin: str = "") -> tuple[int, str]:
    """Run a command and return its exit code and what it printed, errors first."""
    done = _mta_system.run(command, stdin=stdin, environment=NONINTERACTIVE, timeout=None, check=False)
    return done.code, (done.errors + done.output).decode(errors="replace")


def _wait_for_locks(seconds: float) -> None:
    """Wait until no other process holds a lock of dpkg or apt."""
    deadline = time.monotonic() + seconds
    while True:
        holder = next(filter(None, map(_lock_holder, LOCKS)), None)
        if holder is None:
            return
        if time.monotonic() >= deadline:
            raise CommandExecutionError(f"Another package manager is at work, for {seconds} seconds now: {holder}")
        time.sleep(1)


def _lock_holder(path: pathlib.Path) -> str | None:
    """Describe the process that holds a lock on a file, ``None`` if nobody does."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        os.lockf(descriptor, os.F_TEST, 0)
        return None
    except OSError:
        return f"{path} is locked by {_locking_process(os.fstat(descriptor).st_ino)}"
    finally:
        os.close(descriptor)


def _locking_process(inode: int) -> str:
    """Name the process that proc(5) /proc/locks shows for an inode."""
    for line in pathlib.Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if len(fields) >= 6 and fields[5].endswith(f":{inode}"):
            try:
                return f"process {fields[4]} ({pathlib.Path('/proc', fields[4], 'comm').read_text().strip()})"
            except OSError:
                return f"process {fields[4]}"
    return "another process"
