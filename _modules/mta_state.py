"""
Small facts that have to outlive a process, each a JSON file that only root can read.

They are below ``/var/lib/postfix_mta`` (the minion option ``mta_state_dir`` moves it).
"""

import contextlib
import json
import pathlib

from salt.exceptions import CommandExecutionError, SaltInvocationError

STATE_DIR = "/var/lib/postfix_mta"


def path(name):
    """
    Return the absolute path of a file for something that has to be remembered.

    name (str)
        What it is called.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_state.path applied.json
    """
    return str(pathlib.Path(__opts__.get("mta_state_dir", STATE_DIR)) / name)


def read(name):
    """
    Return what was remembered under a name; an empty dictionary when nothing was, or it cannot be read.

    name (str)
        What it is called.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_state.read applied.json
    """
    try:
        data = json.loads(pathlib.Path(path(name)).read_bytes())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def write(name, data):
    """
    Remember something under a name, in place of what was there: a reader sees the old or the new, whole.

    name (str)
        What it is called.

    data (dict)
        What JSON can hold.

    Raises ``CommandExecutionError`` when it cannot be written.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_state.write note.json '{"by": "hand"}'
    """
    file = pathlib.Path(path(name))
    draft = file.with_name(f".{file.name}.new")
    try:
        file.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.parent.mkdir(mode=0o700, exist_ok=True)
        draft.touch(mode=0o600)
        draft.write_text(json.dumps(data))
        draft.replace(file)
    except OSError as err:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise CommandExecutionError(f"Cannot write {file}: {err.strerror or err}") from err


def refuse_job(function, job):
    """
    Refuse to be called as a job, or from a command line: for functions that states and other modules call.

    What such a function is handed or returns, a private key say, would be in the arguments of a process, in an
    event and in the job cache.

    function (str)
        Its name.

    job (dict)
        Its further keyword arguments. Salt adds some to those of a job, for a function that takes any.

    Raises ``CommandExecutionError`` for a job, ``SaltInvocationError`` for an argument that there is not.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_state.refuse_job mta_x509.make_key '{}'
    """
    if any(name.startswith("__pub_") for name in job):
        raise CommandExecutionError(f"{function} is for states and other modules, and is refused as a job")
    if job:
        raise SaltInvocationError(f"{function} has no argument {', '.join(job)}")


def forget(name):
    """
    Forget what was remembered under a name.

    name (str)
        What it is called.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_state.forget note.json
    """
    with contextlib.suppress(OSError):
        pathlib.Path(path(name)).unlink()
