"""
Tell the master when something about the mail server begins to be wrong, and when it ends.

.. code-block:: yaml

    beacons:
      postfix_mta:
        - interval: 60
        - queue_limit: 1000
        - certificates: [/etc/ssl/certs/smtpd.crt]
        - renew_days: 30
        - saslauthd: /var/spool/postfix/var/run/saslauthd/mux

The formula writes this from pillar (``postfix_mta:beacon``). All but ``interval`` is the execution module
``mta_beacon``, which says what the conditions are and how each is looked at.
"""


def _settings(config):
    settings = {}
    for item in config if isinstance(config, list) else [config]:
        settings.update(item)
    return settings


def validate(config):
    """
    Check the beacon's configuration: ``(True, comment)``, or ``(False, what is wrong)``.

    config
        List of dictionaries, as Salt has it.
    """
    try:
        problems = __salt__["mta_beacon.problems"](_settings(config))
    except (TypeError, ValueError):
        problems = ["a list of settings is needed"]
    return not problems, "; ".join(problems) or "Valid beacon configuration"


def beacon(config):
    """
    Return one event for each condition that has begun or ended since the last time.

    config
        As for :func:`validate`.
    """
    return __salt__["mta_beacon.observe"](_settings(config))


def close(config):
    """
    Forget what is kept in the minion's memory, when Salt reloads its beacons; the file has it.

    config
        As for :func:`validate`.

    Without this function Salt looks for it in every beacon that it has, and loads them all.
    """
    __salt__["mta_beacon.close"]()
