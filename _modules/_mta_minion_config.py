"""Files of the formula in the minion's ``minion.d``, and the salt-minion that runs on this host."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from salt.exceptions import CommandExecutionError
from salt.utils.yaml import YAMLError, safe_dump, safe_load

import _mta_system
from _mta_minion import Minion
from _mta_plan import Plan

Opts = Mapping[str, Any]


def path(opts: Opts, name: str) -> str:
    """
    Return the absolute path of a file in the minion's ``minion.d``.

    opts
        The minion's options.

    name
        Of the file, such as ``postfix_mta.conf``.
    """
    directory = os.path.dirname(opts.get("default_include") or "minion.d/*.conf")
    return os.path.join(os.path.dirname(opts["conf_file"]), directory, name)


def read(opts: Opts, name: str, option: str) -> dict[str, Any]:
    """
    Return a dictionary that a file gives to an option; an empty one when there is none, or it cannot be read.

    option
        Of the minion, such as ``beacons``.
    """
    try:
        value = safe_load(_mta_system.read(path(opts, name)) or "")[option]
    except (CommandExecutionError, KeyError, TypeError, ValueError, YAMLError):
        return {}
    return value if isinstance(value, dict) else {}


def write(opts: Opts, name: str, option: str, value: Mapping[str, Any], source: str) -> None:
    """
    Make a file that gives one option of the minion, in place of what it had; no file for an empty value.

    source
        The pillar path from which it comes, for the file's first line.

    Raises ``CommandExecutionError`` when it cannot be written.
    """
    file = path(opts, name)
    if not value:
        _mta_system.remove(file)
        return
    try:
        os.makedirs(os.path.dirname(file), exist_ok=True)
    except OSError as err:
        raise CommandExecutionError(f"Cannot write {file}: {err.strerror or err}") from err
    text = safe_dump({option: value}, default_flow_style=False)
    _mta_system.replace(file, f"# From the pillar's {source}.\n{text}")


def planned(item: str, wanted: Opts, present: Opts, running: Opts | None) -> Plan:
    """
    Return the plan that makes one item of the configuration true.

    wanted, present
        As it is to be, and as it is in the file; empty for none.

    running
        As the running minion has it; ``None``: that is not known.
    """
    now = present if present != wanted or running is None else running
    return Plan({item: {"old": now or None, "new": wanted or None}} if now != wanted else {})


def is_this(opts: Opts) -> bool:
    """Tell whether this is a process of the minion that runs, so that these are the options of that minion."""
    return opts.get("__cli") != "salt-call" and opts.get("file_client") != "local"


def tell(minion: Minion, data: Mapping[str, Any], tag: str) -> bool:
    """Send an event to the minion that runs on this host; return whether there is one."""
    if not minion.runs:
        return False
    minion.functions["event.fire"](data, tag)
    return True
