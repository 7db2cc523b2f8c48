"""
Keep the beacon that tells the master what is wrong with a mail server on or off.

.. code-block:: yaml

    postfix_mta_beacon:
      mta_beacon.managed:
        - enabled: true
        - interval: 60
        - queue_limit: 1000
        - certificates: [/etc/ssl/certs/smtpd.crt]
        - saslauthd: /var/spool/postfix/var/run/saslauthd/mux
"""

from salt.loader.dunder import __opts__
from salt.utils.args import clean_kwargs


def managed(name, enabled=False, **settings):
    """
    Keep the beacon on with these settings, or off, in the minion's configuration and in a minion that runs.

    name
        Any.

    enabled
        Whether it runs. Default false.

    interval
        Seconds from one look to the next.

    queue_limit
        How many messages may wait before that is a condition. Default: any number.

    certificates, renew_days
        Absolute paths of the server's certificates, and how many days before its end one is renewed. Default: a
        third of its lifetime, 30 at most.

    saslauthd
        Absolute path of its socket. Default: it is not looked at.
    """
    arguments = {"enabled": enabled, **clean_kwargs(**settings)}
    return __salt__["mta_apply.converge"]("mta_beacon.managed", name, arguments, __opts__["test"], "The beacon")
