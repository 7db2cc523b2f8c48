"""
Sum up how this mail server is, as a row of a table of all of them (the runner ``postfix_mta.status``).

Each part of the row is gathered by itself: what cannot be told is ``None``, and ``errors`` says why. Nothing in it
is secret.
"""

from salt.loader.dunder import __opts__  # noqa: F401

import _mta_guard

with _mta_guard.library(__file__):
    import _mta_minion
    import _mta_status


def report(thorough=False, login=True, look=False):
    """
    Return what there is to know about this mail server at a glance.

    thorough (bool, default False)
        Hold the conversation as after a change: with envelopes, as an untrusted client too, and with what the
        pillar expects of it, the login of ``verify.login`` included. Where ``verify.enabled`` is false, it is not.

    login (bool, default True)
        Whether to try a login as a user that does not exist, which tells whether AUTH works; PAM takes 2 to 3 s
        for it, and logs a failed login.

    look (bool, default False)
        Look at the beacon's conditions now. Default: what it has seen at its last interval.

    Returns ``None`` on a host that is no mail server: no Postfix, no apply, and no pillar ``postfix_mta`` or only
    that of a minion that signs for a fleet. Else a dictionary:

    - ``fqdn``, ``postfix`` (version), ``revision`` (of the formula), ``profile``
    - ``running`` (whether Postfix does), ``answers`` (whether the server answers as its configuration promises),
      ``problems`` (where it does not, as text), ``auth`` (whether AUTH works; ``None`` where none is offered, or
      that was not tried)
    - ``certificate_expires`` (Unix time, of the certificate that ends first), ``certificate_days`` (whole days)
    - ``queue`` (number of files by queue, and ``total``)
    - ``drift`` (which of main.cf and master.cf differ from what the last apply left)
    - ``last_apply`` (see :func:`mta_apply.last`, without ``files``), ``commit`` (when one last changed a file of
      the mail server for good, Unix time)
    - ``conditions`` (names of those that the beacon has seen begin and not end, or that there are now)
    - ``dns`` (what the last look at the DNS found, as text; ``None`` without ``dns.check``)
    - ``time`` (Unix time), ``errors`` (part to text)

    CLI Example:

    .. code-block:: bash

        salt '*' mta_status.report
    """
    return _mta_status.report(_mta_minion.Minion.of(globals()), thorough, login, look)
