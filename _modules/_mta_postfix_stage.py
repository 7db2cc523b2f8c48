"""
Private copies of Postfix's configuration, edited by postconf(1) and judged by Postfix's own programs.

A copy is a directory of its own below the state directory, with main.cf, master.cf and what postconf(1) needs
beside them. Nothing in it is in force.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_postfix_syntax
import _mta_postfix_view
import _mta_system
from _mta_minion import Minion
from _mta_postfix_syntax import Entry
from _mta_postfix_view import Files
from _mta_records import NamedTuple

PREFIX = "stage."
# In seconds: one more than Postfix asks for, whose clock may be a tick behind.
SETTLES = 3
# Bytes of one argument of a program, and of all of them, that any Linux takes.
ARGUMENT, ARGUMENTS = 100_000, 500_000
UNKNOWN = "this Postfix does not know this parameter, and nothing refers to it"


@contextlib.contextmanager
def private_copy(parent: str, config_directory: str, files: Files) -> Iterator[str]:
    """
    A private copy of what postconf(1) needs of a configuration directory, with these two files in it.

    parent
        The directory below which it is; it is made, and removed afterwards when it was not there.

    Raises ``CommandExecutionError``.
    """
    there = os.path.isdir(parent)
    try:
        os.makedirs(parent, mode=0o700, exist_ok=True)
        _sweep(parent)
        stage = tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}.", dir=parent)
    except OSError as err:
        raise _failure(parent, err) from err
    try:
        _fill(stage, config_directory, files)
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        if not there:
            with contextlib.suppress(OSError):
                os.rmdir(parent)


def _failure(path: str, error: OSError) -> CommandExecutionError:
    return CommandExecutionError(f"Cannot make a private copy in {path}: {error.strerror or error}")


def _sweep(parent: str) -> None:
    """Remove the private copies of runs that were killed: the second word of the name is their process."""
    for name in os.listdir(parent):
        if name.startswith(PREFIX) and not os.path.exists(f"/proc/{name.split('.')[1]}"):
            shutil.rmtree(os.path.join(parent, name), ignore_errors=True)


def _fill(stage: str, config_directory: str, files: Files) -> None:
    try:
        with contextlib.suppress(FileNotFoundError):
            shutil.copy(os.path.join(config_directory, "dynamicmaps.cf"), stage)
        with contextlib.suppress(FileNotFoundError):
            source = os.path.join(config_directory, "dynamicmaps.cf.d")
            shutil.copytree(source, os.path.join(stage, "dynamicmaps.cf.d"))
        for name, text in zip(_mta_postfix_view.FILES, files):
            with open(os.path.join(stage, name), "wb") as handle:
                handle.write((text or "").encode("utf-8", "surrogateescape"))
        age(stage)
    except OSError as err:
        raise _failure(stage, err) from err


def settled() -> tuple[int, int]:
    """
    Access and modification time (ns) of a main.cf for which no program of Postfix waits.

    Each of them reads a main.cf that is younger than two seconds again and again until it is older, as somebody
    may be writing it. One that is complete before it gets its name needs no such patience.
    """
    moment = time.time_ns() - SETTLES * 10**9
    return moment, moment


def age(stage: str) -> None:
    """Make staged files look settled."""
    for name in _mta_postfix_view.FILES:
        os.utime(os.path.join(stage, name), ns=settled())


# -- editing -----------------------------------------------------------------------------------


def edit_parameters(stage: str, parameters: Mapping[str, str | None]) -> None:
    """Set parameters in the staged main.cf, or take them out (``None``)."""
    _edit(
        stage,
        "main.cf",
        [],
        [f"{name}={value}" for name, value in parameters.items() if value is not None],
        [name for name, value in parameters.items() if value is None],
    )


def edit_services(stage: str, services: Mapping[str, Entry | None]) -> None:
    """Set entries of the staged master.cf, or take them out (``None``)."""
    _edit(
        stage,
        "master.cf",
        ["-M"],
        [f"{name}={_mta_postfix_syntax.entry_text(name, entry)}" for name, entry in services.items() if entry],
        [name for name, entry in services.items() if not entry],
    )


def _edit(stage: str, name: str, options: list[str], settings: list[str], gone: list[str]) -> None:
    """Let postconf(1) edit a staged file, by one process for what is set and one for what goes."""
    path = os.path.join(stage, name)
    short, long = _shortened(settings) if name == "main.cf" else (settings, {})
    for option, words in (("-e", short), ("-X", gone)):
        if not words:
            continue
        _end_last_line(path)
        done = _mta_postfix_view.run("postconf", "-c", stage, *options, option, *words)
        if done.code:
            raise CommandExecutionError(f"postconf cannot edit {name}: {done.message}")
    if long:
        text = _mta_system.read_bytes(path) or b""
        for word, value in long.items():
            text = text.replace(word.encode(), value.encode("utf-8", "surrogateescape"))
        with open(path, "wb") as handle:
            handle.write(text)


def _shortened(settings: list[str]) -> tuple[list[str], dict[str, str]]:
    """
    Settings that fit into a command line, and by the words that stand for them in it, the values that do not.

    One argument has 128 kB at most, and all of them 2 MB (execve(2)): 12,000 networks are more.
    """
    short, long = [], {}
    room = ARGUMENTS
    for number, setting in enumerate(settings):
        name, _, value = setting.partition("=")
        if len(setting.encode("utf-8", "surrogateescape")) > min(ARGUMENT, room):
            word = f"postfix_mta_value_{number}_"
            long[word], setting = value, f"{name}={word}"
        room -= len(setting)
        short.append(setting)
    return short, long


def _end_last_line(path: str) -> None:
    """End a last line that has no end: postconf(1) of Postfix 3.7 and before writes a new line onto it."""
    text = _mta_system.read_bytes(path)
    if text and not text.endswith(b"\n"):
        with open(path, "ab") as handle:
            handle.write(b"\n")


# -- what Postfix says of it -------------------------------------------------------------------


def complaints(directory: str, config_directory: str, thorough: bool) -> list[str]:
    """
    What Postfix says about the configuration in ``directory``, which stands for ``config_directory``.

    ``postmap`` initialises itself as every daemon does, and says on stderr what ``postfix check`` of Postfix
    3.7 only logs. ``thorough`` adds ``postfix check``, which creates missing directories of the queue. A
    program that dies waits a second first, so the first death ends it.
    """
    commands = [
        ("postconf", "-c", directory, "-n"),
        ("postconf", "-c", directory, "-M"),
        ("postmap", "-c", directory, "-q", "x", "static:y"),
    ]
    if thorough:
        commands.append(("postfix", "-c", directory, "check"))
    outputs = []
    for command in commands:
        done = _mta_postfix_view.run(*command)
        errors = _mta_postfix_view.errors_of(done)
        outputs.append(errors)
        if done.code:
            if "fatal" not in errors:
                outputs.append(f"fatal: {command[0]} ended with exit code {done.code}")
            break
    return _messages(directory, config_directory, outputs)


def _messages(stage: str, config_directory: str, outputs: list[str]) -> list[str]:
    """What Postfix programs said, once each, as if they had spoken of the real directory."""
    found: dict[str, None] = {}
    for line in "\n".join(outputs).splitlines():
        text = re.sub(
            r"^(?:\S*/)?(?:postconf|postmap|postfix|post-install|postfix-script|postlog)(?:\[\d+\])?: ",
            "",
            line,
        )
        text = text.replace(stage, config_directory).replace(f"{config_directory}/", "").strip()
        text = re.sub(r",? line \d+", "", text)
        # The value says nothing more, and differs between the old and the new file.
        text = re.sub(r"((?:unused parameter|overriding earlier entry): [^=]+)=.*", r"\1", text)
        if text:
            found[text] = None
    return list(found)


def check(config_directory: str = _mta_postfix_view.CONFIG_DIRECTORY) -> list[str]:
    """
    Return what Postfix says against its configuration, a list of texts; empty when it says nothing.

    Asks ``postconf -n``, ``postconf -M``, ``postmap`` and ``postfix check``. They do not see everything: a
    bad network in ``mynetworks`` shows only in a conversation (:py:mod:`_mta_judge`).
    """
    return complaints(config_directory, config_directory, thorough=True)


# -- what Postfix does not know ----------------------------------------------------------------


def unknown(config_directory: str, names: Collection[str]) -> list[str]:
    """Those of the names of parameters that this Postfix does not know; none of them where it is not installed."""
    if not names or not _mta_postfix_view.installed():
        return []
    known = _mta_postfix_view.known_parameters(config_directory)
    return [name for name in names if name not in known] if known else []


def refused(
    minion: Minion,
    parameters: Mapping[str, Any] | None = None,
    services: Mapping[str, Any] | None = None,
    config_directory: str = _mta_postfix_view.CONFIG_DIRECTORY,
) -> list[dict[str, Any]]:
    """
    Return what this Postfix would not know of new settings, before anything is changed.

    Parameters, result and errors: ``postconf.refused``.
    """
    files = _mta_postfix_view.read_both(config_directory)
    present, present_services = files.parameters(), files.services()
    problems: list[dict[str, Any]] = []
    wanted: dict[str, str | None] = {}
    wanted_services: dict[str, Entry | None] = {}
    for name, value in (parameters or {}).items():
        try:
            wanted.update({name: _mta_postfix_syntax.wanted_text(name, value)} if value is not None else {})
        except SaltInvocationError as err:
            problems.append({"parameter": name, "reason": str(err), "nearest": None})
    for name, fields in (services or {}).items():
        try:
            wanted_services.update(_mta_postfix_syntax.wanted_services({name: fields}, present_services))
        except SaltInvocationError as err:
            problems.append({"service": name, "reason": str(err), "nearest": None})
    names = {*wanted, *_overridden(wanted_services)}
    if names <= {*present, *_overridden(present_services)} or not _mta_postfix_view.installed():
        return problems
    unused = _newly_unused(minion.state.path(), config_directory, files, wanted, wanted_services)
    return problems + _told(config_directory, [one for one in unused if one.parameter in names], wanted_services)


def _overridden(services: Mapping[str, Entry | None]) -> set[str]:
    """The parameters that services override."""
    return {name for entry in services.values() if entry for name in entry["overrides"]}


class _Unused(NamedTuple):
    """A parameter that postconf(1) calls unused, and the file that has it."""

    file: str
    parameter: str


def _newly_unused(
    parent: str,
    config_directory: str,
    files: Files,
    parameters: Mapping[str, str | None],
    services: Mapping[str, Entry | None],
) -> list[_Unused]:
    """What postconf(1) calls unused with new settings and did not call so before."""
    main, master = files.main or "", files.master or ""
    main = _mta_postfix_syntax.mended(main, _mta_postfix_syntax.parse_main(main)[1])
    master = _mta_postfix_syntax.mended(master, _mta_postfix_syntax.parse_master(master)[1])
    changed = Files(_mta_postfix_syntax.appended(main, parameters), master)
    with private_copy(parent, config_directory, changed) as stage:
        edit_services(stage, services)
        found = _unused(stage)
    if not found:
        return []
    with private_copy(parent, config_directory, Files(main, master)) as stage:
        before = _unused(stage)
    return [one for one in found if one not in before]


def _unused(stage: str) -> list[_Unused]:
    errors = _mta_postfix_view.errors_of(_mta_postfix_view.run("postconf", "-c", stage, "-n"))
    found = re.findall(r"(main\.cf|master\.cf): unused parameter: ([^=\n]+)=", errors)
    return [_Unused(*one) for one in dict.fromkeys(found)]


def _told(
    config_directory: str, unused: list[_Unused], services: Mapping[str, Entry | None]
) -> list[dict[str, Any]]:
    """What :func:`refused` tells of parameters that this Postfix does not know, with the nearest that it knows."""
    known = _mta_postfix_view.known_parameters(config_directory) if unused else set()
    problems = []
    for file_name, name in unused:
        near = _mta_system.nearest(name, known, 0.75)
        if file_name == "main.cf":
            problems.append({"parameter": name, "reason": UNKNOWN, "nearest": near})
            continue
        for service, entry in services.items():
            if entry and name in entry["overrides"]:
                problems.append({"service": service, "reason": f"-o {name}: {UNKNOWN}", "nearest": near})
    return problems
