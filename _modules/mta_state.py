"""
Small facts that have to outlive a process, each a JSON file that only root can read.

They are below ``/var/lib/postfix_mta`` (the minion option ``mta_state_dir`` moves it).
"""

from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_guard

with _mta_guard.library(__file__):
    import _mta_system


def _directory():
    return _mta_system.StateDirectory(__opts__.get("mta_state_dir"))


def path(name):
    """
    Return the absolute path of a file for something that has to be remembered.

    name (str)
        What it is called.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_state.path applied.json
    """
    return _directory().path(name)


def read(name):
    """
    Return what was remembered under a name; an empty dictionary when nothing was, or it cannot be read.

    name (str)
        What it is called.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_state.read applied.json
    """
    return _directory().read(name)


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
    _directory().write(name, data)


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
    _directory().forget(name)
