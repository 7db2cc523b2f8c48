"""TODO subject (mta_minion)."""

import glob
import os

from salt.exceptions import CommandExecutionError
from salt.utils.yaml import YAMLError, safe_dump, safe_load

import _mta_system
from _mta_minion import Minion


def path(minion: Minion, name):
    """
    Return the absolute path of a file in the minion's ``minion.d``.

    name (str)
        Of the file, such as ``postfix_mta.conf``.
    """
    directory = os.path.dirname(minion.opts.get("default_include") or "minion.d/*.conf")
    return os.path.join(os.path.dirname(minion.opts["conf_file"]), directory, name)


def read(minion: Minion, name, option):
    """
    Return a dictionary that a file gives to an option; an empty one when there is none, or it cannot be read.

    name (str)
        As for :func:`path`.

    option (str)
        Of the minion, such as ``beacons``.
    """
    try:
        value = safe_load(_mta_system.read(path(minion, name)) or "")[option]
    except (CommandExecutionError, KeyError, TypeError, ValueError, YAMLError):
        return {}
    return value if isinstance(value, dict) else {}


def write(minion: Minion, name, option, value, source):
    """
    Make a file that gives one option of the minion, in place of what it had; no file for an empty value.

    name, option
        As for :func:`read`.

    value (dict)
        Of the option.

    source (str)
        The pillar path from which it comes, for the file's first line.

    Raises ``CommandExecutionError`` when it cannot be written.
    """
    file = path(minion, name)
    if not value:
        _mta_system.remove(file)
        return
    try:
        os.makedirs(os.path.dirname(file), exist_ok=True)
    except OSError as err:
        raise CommandExecutionError(f"Cannot write {file}: {err.strerror or err}") from err
    text = safe_dump({option: value}, default_flow_style=False)
    _mta_system.replace(file, f"# From the pillar's {source}.\n{text}")


def is_this(minion: Minion):
    """
    Tell whether this is a process of the minion that runs, so that its options are those of that minion.
    """
    return minion.opts.get("__cli") != "salt-call" and minion.opts.get("file_client") != "local"


def tell(minion: Minion, data, tag):
    """
    Send an event to the minion that runs on this host; return whether there is one.

    data (dict), tag (str)
        Of the event.
    """
    # Without this socket no minion runs.
    if not glob.glob(os.path.join(minion.opts["sock_dir"], "minion_event_*_pull.ipc")):
        return False
    minion.functions["event.fire"](data, tag)
    return True
