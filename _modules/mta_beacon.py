"""
What can become wrong with a running mail server, and whether it is: the conditions of the beacon ``postfix_mta``.

``certificate_renewal``
    A certificate is in its renewal window, has expired, or cannot be read. ``certificate``, ``not_after`` or
    ``problem``.

``certificate_served``
    A listener serves another certificate than the one on disk. ``listeners``.

``apply``
    An apply ended before its time and was undone, and none has been complete since. ``cut_off``.

``configuration``
    main.cf or master.cf are not what the last apply left, or are not there. ``files``.

``saslauthd``
    It takes no connection on its socket. ``socket``.

``queue``
    More messages wait than the limit. It ends at nine tenths of that. ``messages``, ``limit``.

``dns``
    The last look at the DNS, by an apply with ``dns.check`` or by ``mta_dns.check``, found that it is not as this
    server's mail needs it. ``findings`` (as ``mta_dns.check`` returns them), ``looked`` (UTC). The beacon asks no
    name server, and no apply is asked for by this condition.

Each is an event when it begins and one when it ends: ``condition``, ``state`` (``begin`` or ``end``), ``since``
(UTC) and ``details`` (the names above).
"""

from salt.loader.dunder import __opts__  # noqa: F401

import _mta_guard

with _mta_guard.library(__file__):
    import _mta_beacon
    import _mta_minion


def problems(settings, **job):
    """
    Return what is wrong with the beacon's settings, a list of texts. For the beacon.

    settings (dict)
        ``queue_limit`` (number of messages, 1 or more; not given: no condition), ``certificates`` (list of
        absolute paths; none), ``renew_days`` (days; not given: a third of the lifetime, 30 at most),
        ``saslauthd`` (absolute path of its socket; not given: no condition), ``dns`` (bool; not given: no
        condition), ``interval`` (seconds) and ``revision`` (of the formula whose modules the minion has loaded).

    Refused as a job.
    """
    _mta_minion.refuse_job("mta_beacon.problems", job)
    return _mta_beacon.problems(settings)


def observe(settings, now=None, **job):
    """
    Look at all conditions, and return the events. For the beacon, which does it at every interval.

    settings (dict)
        As for :func:`problems`.

    now (float, default: the clock)
        Unix time.

    What cannot be looked at is logged, and stays as it was. Refused as a job: its events would be lost.
    """
    _mta_minion.refuse_job("mta_beacon.observe", job)
    return _mta_beacon.observe(_mta_minion.Minion.of(globals()), settings, now)


def close(**job):
    """
    Forget what is kept in the process's memory; the file has it. For the beacon. Refused as a job.
    """
    _mta_minion.refuse_job("mta_beacon.close", job)
    return _mta_beacon.close(_mta_minion.Minion.of(globals()))


def conditions():
    """
    Tell which conditions the beacon has found and not seen end, from its memory: nothing is looked at.

    Returns a dictionary of condition to ``since`` (UTC) and ``details``; empty when all is well, or the beacon
    does not run.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_beacon.conditions
    """
    return _mta_beacon.conditions(_mta_minion.Minion.of(globals()))


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
    return _mta_beacon.found(_mta_minion.Minion.of(globals()), settings)


def configured():
    """
    Return the settings with which the beacon starts; empty when it is off.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_beacon.configured
    """
    return _mta_beacon.configured(_mta_minion.Minion.of(globals()))
