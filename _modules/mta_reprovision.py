"""
Applies that events ask for: one at a time, not in a loop, and not more than the server needs.

The master's reactor (``postfix_mta/reactor/react.sls``) calls :func:`request`; what the event said is not handed
on. The decision is made here, by what this host knows itself:

- Where the formula was never applied, no event makes a mail server: not on a host whose pillar has nothing to do
  with mail, nor on a minion that only signs for a fleet (``mta_fleet_ca.only_signs``).
- What the beacon is said to have found leads to an apply only while the beacon's own memory has a condition.
- A pillar that is said to have changed leads to an apply only when it is not the one of the last apply.
- The first request becomes the run. Requests that come while it is under way are one more apply, whatever their
  number, and not earlier than ``pause`` seconds after the last one unless a condition asks for it.
- An apply begins some seconds after the request (3, or 21 when it is for all minions), so that the master can
  drop the events that follow another one within 2 or 20 seconds.
- When an apply fails, or a condition is still there after it, it is tried again after ``pause`` seconds, then
  after twice that, up to ``attempts`` times. Then the event ``postfix_mta/alert`` says so (``failed``: parts,
  ``conditions``, ``attempts``, ``until``), and for ``hold`` seconds requests are refused. An apply by hand that
  succeeds ends that.
- A full queue is also flushed after the apply, once.

``pause``, ``attempts`` and ``hold`` are the pillar's ``postfix_mta:reprovision``. The apply is a ``salt-call
state.apply``, so that other state runs see it; it waits for those that are under way.
"""

from salt.loader.dunder import __opts__  # noqa: F401

import _mta_guard

with _mta_guard.library(__file__):
    import _mta_minion
    import _mta_reprovision


def due():
    """
    Tell whether an apply was asked for, or cut off, and did not end, or a condition lasts: a start looks after it.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_reprovision.due
    """
    return _mta_reprovision.due(_mta_minion.Minion.of(globals()))


def request(reason="reprovision"):
    """
    Apply the formula soon, unless an apply that is going to begin does it anyway, there is no need, or this is no
    mail server of the formula's yet.

    reason (str, default ``reprovision``)
        ``beacon``: a condition. ``reprovision``: somebody asks. ``pillar``: the pillar has changed, for many
        minions at once: the apply begins at a random moment within ``splay`` seconds.

    Returns ``{"accepted": bool, "comment": str}`` and, where this call ran the applies, ``applies`` (their number)
    and ``result`` (of the last one). Raises ``SaltInvocationError`` for another reason.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_reprovision.request
    """
    return _mta_reprovision.request(_mta_minion.Minion.of(globals()), reason)
