"""
Keep the apply in the minion's schedule, each minion at moments of its own.

.. code-block:: yaml

    postfix_mta_schedule:
      mta_schedule.managed:
        - enabled: true
        - minutes: 30
"""

from salt.loader.dunder import __opts__


def managed(name, enabled=False, minutes=30, splay=None, return_job=True):
    """
    Keep ``state.apply postfix_mta`` in the schedule or out of it, in the minion's configuration and in a minion
    that runs.

    name
        Any.

    enabled
        Whether the minion applies the formula by itself. Default false.

    minutes
        From one apply to the next; the splay comes on top. Default 30.

    splay
        Up to how many random seconds are added each time. Default: as many as the minutes have.

    return_job
        Whether the master gets the results, and keeps them in its job cache. Default true.
    """
    arguments = {"enabled": enabled, "minutes": minutes, "splay": splay, "return_job": return_job}
    return __salt__["mta_apply.converge"](
        "mta_schedule.managed", name, arguments, __opts__["test"], "The schedule"
    )
