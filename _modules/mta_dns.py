"""
What the DNS should say for this server's mail to arrive, and what it says.

The zones stay the administrator's: nothing here changes them.
"""

from salt.loader.dunder import __opts__  # noqa: F401

import _mta_guard

with _mta_guard.library(__file__):
    import _mta_dane
    import _mta_dns
    import _mta_dns_records
    import _mta_minion


def records(format="zone", zone=None):
    """
    Return the records that this server's mail needs, each with the reason.

    format (str, default ``zone``)
        ``zone``: text for zone files. ``data``: a list of dictionaries with ``name``, ``type``, ``data`` and
        ``reason``. ``table``: text for people.

    zone (str, default None)
        With the format ``zone``: the zone's name; records of others are comments then. Default: those of the
        reverse zones are comments.

    A web server's file has type ``file``. Nothing is asked. Raises ``CommandExecutionError`` without Postfix,
    ``SaltInvocationError`` for another format.

    CLI Example:

    .. code-block:: bash

        salt mail.example.com mta_dns.records
        salt mail.example.com mta_dns.records format=table
    """
    found = _mta_dns.records(_mta_minion.Minion.of(globals()))
    return _mta_dns_records.formatted(found, format, zone)


def check(remember=True):
    """
    Ask the domains' own name servers and the resolver, and return what is not as it should be.

    remember (bool, default True)
        Keep it for the beacon's condition ``dns`` and for ``mta_status.report``, until the next look.

    Returns a list of dictionaries: ``name`` and ``type`` of the record, ``kind`` (``missing``, ``wrong``, or
    ``risk``: it is about to break something), and ``reason``. Empty: all is well. Raises ``CommandExecutionError``
    where the DNS cannot be asked.

    CLI Example:

    .. code-block:: bash

        salt mail.example.com mta_dns.check
    """
    minion = _mta_minion.Minion.of(globals())
    found = _mta_dns.check(minion)
    if remember:
        _mta_dns.remember(minion, found)
        _mta_dane.forget(minion)
    return [one._asdict() for one in found]
