"""
What can become wrong with a running mail server, and whether it is: the conditions of the beacon ``postfix_mta``.

``certificate_renewal``
    A certificate is in its renewal window, has expired, or cannot be read. ``certificate``, ``not_after`` or
    ``problem``.

``certificate_served``
    A listener serves another certificate than the one on disk. ``listeners``.

``configuration``
    main.cf or master.cf are not what the last apply left, or are not there. ``files``.

``saslauthd``
    It takes no connection on its socket. ``socket``.

``queue``
    More messages wait than the limit. It ends at nine tenths of that. ``messages``, ``limit``.

Each is an event when it begins and one when it ends: ``condition``, ``state`` (``begin`` or ``end``), ``since``
(UTC) and ``details`` (the names above). What has begun is kept in a file, so a minion that restarts does not say
it again; and it is not said at all before the minion has its connection with the master.

To look is cheap enough for every minute: files are read when their status has changed, the queue is counted by its
directory entries, and a conversation about the certificate is held only for a while after a file that it depends
on has changed. No process is started. While an apply is under way nothing is looked at.
"""

import _mta_guard

with _mta_guard.library(__file__):
    import _mta_beacon
    from _mta_minion import Minion


def problems(settings):
    """
    Return what is wrong with the beacon's settings, a list of texts.

    settings (dict)
        ``queue_limit`` (number of messages, 1 or more; not given: no condition), ``certificates`` (list of
        absolute paths; none), ``renew_days`` (days; not given: a third of the lifetime, 30 at most),
        ``saslauthd`` (absolute path of its socket; not given: no condition), ``interval`` (seconds) and
        ``revision`` (of the formula whose modules the minion has loaded).

    CLI Example:

    .. code-block:: bash

        salt '*' mta_beacon.problems '{"queue_limit": 1000}'
    """
    return _mta_beacon.problems(settings)


def observe(settings, now=None):
    """
    Look at all conditions, as the beacon does at every interval; return the events.

    settings (dict)
        As for :func:`problems`.

    now (float, default: the clock)
        Unix time.

    What cannot be looked at is logged, and stays as it was.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_beacon.observe '{"queue_limit": 1000}'
    """
    return _mta_beacon.observe(Minion.of(globals()), settings, now)


def close():
    """
    Forget what is kept in the process's memory; the file has it.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_beacon.close
    """
    return _mta_beacon.close(Minion.of(globals()))


def conditions():
    """
    Tell which conditions the beacon has found and not seen end, from its memory: nothing is looked at.

    Returns a dictionary of condition to ``since`` (UTC) and ``details``; empty when all is well, or the beacon
    does not run.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_beacon.conditions
    """
    return _mta_beacon.conditions(Minion.of(globals()))


def found(settings=None):
    """
    Look at all conditions now, without an event and without remembering anything.

    settings (dict)
        As for :func:`problems`. Default: those of the beacon.

    Returns a dictionary of condition to its details; empty when all is well.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_beacon.found
    """
    return _mta_beacon.found(Minion.of(globals()), settings)


def configured():
    """
    Return the settings with which the beacon starts; empty when it is off.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_beacon.configured
    """
    return _mta_beacon.configured(Minion.of(globals()))
