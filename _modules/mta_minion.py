"""
What the formula adds to the salt-minion itself: files in its ``minion.d``, and messages to the minion that runs.

A minion reads the files when it starts. As with Salt's own ``beacons.conf`` and ``_schedule.conf``, an option in
one of them takes the place of the same option in the minion's main file, and is merged with that of other files in
``minion.d``.
"""

import glob
import os

from salt.exceptions import CommandExecutionError
from salt.utils.yaml import YAMLError, safe_dump, safe_load

import _mta_guard

with _mta_guard.library(__file__):
    import _mta_system


def path(name):
    """
    Return the absolute path of a file in the minion's ``minion.d``.

    name (str)
        Of the file, such as ``postfix_mta.conf``.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_minion.path postfix_mta.conf
    """
    directory = os.path.dirname(__opts__.get("default_include") or "minion.d/*.conf")
    return os.path.join(os.path.dirname(__opts__["conf_file"]), directory, name)


def read(name, option):
    """
    Return a dictionary that a file gives to an option; an empty one when there is none, or it cannot be read.

    name (str)
        As for :func:`path`.

    option (str)
        Of the minion, such as ``beacons``.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_minion.read postfix_mta.conf beacons
    """
    try:
        value = safe_load(_mta_system.read(path(name)) or "")[option]
    except (CommandExecutionError, KeyError, TypeError, ValueError, YAMLError):
        return {}
    return value if isinstance(value, dict) else {}


def write(name, option, value, source):
    """
    Make a file that gives one option of the minion, in place of what it had; no file for an empty value.

    name, option
        As for :func:`read`.

    value (dict)
        Of the option.

    source (str)
        The pillar path from which it comes, for the file's first line.

    Raises ``CommandExecutionError`` when it cannot be written.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_minion.write postfix_mta.conf beacons '{}' postfix_mta:beacon
    """
    file = path(name)
    if not value:
        _mta_system.remove(file)
        return
    try:
        os.makedirs(os.path.dirname(file), exist_ok=True)
    except OSError as err:
        raise CommandExecutionError(f"Cannot write {file}: {err.strerror or err}") from err
    text = safe_dump({option: value}, default_flow_style=False)
    _mta_system.replace(file, f"# From the pillar's {source}.\n{text}")


def is_this():
    """
    Tell whether this is a process of the minion that runs, so that its options are those of that minion.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_minion.is_this
    """
    return __opts__.get("__cli") != "salt-call" and __opts__.get("file_client") != "local"


def tell(data, tag):
    """
    Send an event to the minion that runs on this host; return whether there is one.

    data (dict), tag (str)
        Of the event.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_minion.tell '{}' module_refresh
    """
    # Without this socket no minion runs.
    if not glob.glob(os.path.join(__opts__["sock_dir"], "minion_event_*_pull.ipc")):
        return False
    __salt__["event.fire"](data, tag)
    return True
