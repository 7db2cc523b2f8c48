"""
What the last apply was: its result, the parts that it changed, and the main.cf and master.cf that it left.

Its end is an event for the master when it changed something or failed: ``postfix_mta/applied`` with ``result``
(whether every state of the formula succeeded), ``changed`` and ``failed`` (lists of parts, such as ``config``) and
``duration`` (seconds).
"""

import _mta_guard

with _mta_guard.library(__file__):
    import _mta_last_apply
    from _mta_minion import Minion


def ended(results, config_directory="/etc/postfix", revision=None):
    """
    Record how an apply ended; send the event when it changed something or failed.

    results (dict)
        Results of the run's states so far, by key. Of those that other SLS files have nothing is told.

    config_directory (str, default ``/etc/postfix``)
        Where main.cf and master.cf are. They are recorded as those of this apply when ``postconf.managed`` was
        part of it and succeeded.

    revision (str, default None)
        Of the formula.

    Returns the record, as :func:`last` does. Where it cannot be written, the next apply writes it.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_apply.ended '{}'
    """
    return _mta_last_apply.ended(Minion.of(globals()), results, config_directory, revision)


def last():
    """
    Tell what is known of the last apply; empty where there was none.

    Returns ``result`` (boolean), ``changed``, ``failed`` (lists of parts), ``duration`` (seconds), ``time`` (Unix
    time of its end), ``revision`` (of the formula), and ``files``: path of main.cf and master.cf to their SHA-256
    after the last apply that looked after them.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_apply.last
    """
    return _mta_last_apply.last(Minion.of(globals()))


def differing():
    """
    Return which of main.cf and master.cf are not what the last apply left, as a list of paths.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_apply.differing
    """
    return _mta_last_apply.differing(Minion.of(globals()))
