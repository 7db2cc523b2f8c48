"""TODO subject (postconf)."""

import contextlib
import os
import re
import shutil
import tempfile
import time

from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_postfix_syntax
import _mta_postfix_view
from _mta_minion import Minion


@contextlib.contextmanager
def private_copy(minion: Minion, config_directory, main, master):
    """A private copy of what postconf(1) needs of the configuration directory, with the given two files."""
    parent = minion.state.path("")
    there = os.path.isdir(parent)
    try:
        os.makedirs(parent, mode=0o700, exist_ok=True)
        _sweep(parent)
        stage = tempfile.mkdtemp(prefix=f"stage.{os.getpid()}.", dir=parent)
    except OSError as err:
        raise CommandExecutionError(f"Cannot make a private copy below {parent}: {err.strerror}") from err
    try:
        with contextlib.suppress(FileNotFoundError):
            shutil.copy(os.path.join(config_directory, "dynamicmaps.cf"), stage)
        with contextlib.suppress(FileNotFoundError):
            source = os.path.join(config_directory, "dynamicmaps.cf.d")
            shutil.copytree(source, os.path.join(stage, "dynamicmaps.cf.d"))
        for name, text in zip(_mta_postfix_view.FILES, (main, master)):
            with open(os.path.join(stage, name), "wb") as handle:
                handle.write((text or "").encode("utf-8", "surrogateescape"))
        age(stage)
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        if not there:
            with contextlib.suppress(OSError):
                os.rmdir(parent)


def _sweep(parent):
    """Remove the private copies of runs that were killed: the second word of the name is their process."""
    for name in os.listdir(parent):
        if name.startswith("stage.") and not os.path.exists(f"/proc/{name.split('.')[1]}"):
            shutil.rmtree(os.path.join(parent, name), ignore_errors=True)


def age(stage):
    """Make staged files look old: a Postfix program waits until main.cf is older than a second or two."""
    old = time.time() - 60
    for name in _mta_postfix_view.FILES:
        os.utime(os.path.join(stage, name), (old, old))


def edit(stage, *arguments):
    """Let postconf(1) edit the staged files."""
    code, _, errors = _mta_postfix_view.run("postconf", "-c", stage, *arguments)
    if code:
        raise CommandExecutionError(f"postconf cannot edit the configuration: {errors.strip()}")


def edit_services(stage, services):
    texts = [f"{name}={_mta_postfix_syntax.entry_text(name, entry)}" for name, entry in services.items() if entry]
    gone = [name for name, entry in services.items() if not entry]
    if texts:
        edit(stage, "-M", "-e", *texts)
    if gone:
        edit(stage, "-M", "-X", *gone)


def _messages(stage, config_directory, *outputs):
    """What Postfix programs said, once each, as if they had spoken of the real directory."""
    found = {}
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


def complaints(directory, config_directory, thorough):
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
        code, _, errors = _mta_postfix_view.run(*command)
        outputs.append(errors)
        if code:
            if "fatal" not in errors:
                outputs.append(f"fatal: {command[0]} ended with exit code {code}")
            break
    return _messages(directory, config_directory, *outputs)


def unknown(config_directory, names):
    """Those of the names of parameters that this Postfix does not know; none of them where it is not installed."""
    if not names or not _mta_postfix_view.installed():
        return []
    output = _mta_postfix_view.run("postconf", "-c", config_directory, "-d")[1]
    known = {line.partition(" ")[0] for line in output.splitlines()}
    return [name for name in names if name not in known] if known else []


def check(config_directory=_mta_postfix_view.CONFIG_DIRECTORY):
    """
    Return what Postfix has to say against its configuration, a list of texts; empty when it is content.

    config_directory
        Path, ``/etc/postfix``.

    Asks ``postconf -n``, ``postconf -M``, ``postmap`` and ``postfix check``. They do not see everything: a
    bad network in ``mynetworks`` shows only in a conversation, see ``mta_probe.check``.
    """
    return complaints(config_directory, config_directory, thorough=True)


def refused(minion: Minion, parameters=None, services=None, config_directory=_mta_postfix_view.CONFIG_DIRECTORY):
    """
    Return what this Postfix would not know of new settings, before anything is changed.

    parameters, services
        Dictionaries as for ``postconf.managed``.

    config_directory
        Path, ``/etc/postfix``.

    Returns a list of ``{"parameter" or "service": name, "reason": text, "nearest": name or None}``.
    postconf(1) judges the merged configuration, so a name counts as known that is referred to as ``$name``,
    is a restriction class, or belongs to a service or a table. Without a process, and empty, when every name
    is in the files already, and when Postfix is not installed.
    """
    texts = _mta_postfix_view.read_both(config_directory)
    present = _mta_postfix_syntax.parameters(texts["main.cf"] or "")
    present_services = _mta_postfix_syntax.services(texts["master.cf"] or "")
    problems, wanted, wanted_services = [], {}, {}
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
    known = {*present, *(name for entry in present_services.values() for name in entry["overrides"])}
    names = {*wanted, *(name for entry in wanted_services.values() if entry for name in entry["overrides"])}
    if names <= known or not _mta_postfix_view.installed():
        return problems
    main = _mta_postfix_syntax.mended(
        texts["main.cf"] or "", _mta_postfix_syntax.parse_main(texts["main.cf"] or "")[1], []
    )
    master = _mta_postfix_syntax.mended(
        texts["master.cf"] or "", _mta_postfix_syntax.parse_master(texts["master.cf"] or "")[1], []
    )
    with private_copy(minion, config_directory, _mta_postfix_syntax.appended(main, wanted), master) as stage:
        edit_services(stage, wanted_services)
        unknown = _unused(stage)
    if unknown:
        with private_copy(minion, config_directory, main, master) as stage:
            before = _unused(stage)
        unknown = [item for item in unknown if item not in before and item[1] in names]
    for file_name, name in unknown:
        near = _mta_postfix_view.nearest(name, config_directory)
        reason = "this Postfix does not know this parameter, and nothing refers to it"
        if file_name == "main.cf":
            problems.append({"parameter": name, "reason": reason, "nearest": near})
            continue
        for service, entry in wanted_services.items():
            if name in (entry or {}).get("overrides", {}):
                problems.append({"service": service, "reason": f"-o {name}: {reason}", "nearest": near})
    return problems


def _unused(stage):
    """``[(file name, parameter)]`` that postconf(1) calls unused."""
    errors = _mta_postfix_view.run("postconf", "-c", stage, "-n")[2]
    return list(dict.fromkeys(re.findall(r"(main\.cf|master\.cf): unused parameter: ([^=\n]+)=", errors)))
