"""
The formula's apply in the schedule of the salt-minion: every so many minutes, each minion at moments of its own.

``splay`` is Salt's: to the minutes after each run a random number of seconds is added, up to that. What is in Salt
3008's schedule also runs when the minion starts, without the splay; this does not (``run_on_start``), for minions
are often started all at once. An apply that is due during another run of states waits for it.
"""

from salt.loader.dunder import __opts__  # noqa: F401

import _mta_guard

with _mta_guard.library(__file__):
    import _mta_minion
    import _mta_schedule


def configured():
    """
    Return the job with which the minion starts, as it is in Salt's schedule; empty when there is none.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_schedule.configured
    """
    return _mta_schedule.configured(_mta_minion.Minion.of(globals()))
