"""
saslauthd, the daemon that checks the passwords of mail clients: its settings, and a login over its own socket.

Sources: saslauthd(8), ``/usr/share/doc/sasl2-bin/README.Debian``, Postfix's SASL_README.
"""

from salt.loader.dunder import __opts__  # noqa: F401

import _mta_guard

with _mta_guard.library(__file__):
    import _mta_minion
    import _mta_saslauthd_view


def settings():
    """
    Return the daemon's settings as its start reads them; where it is not installed, as the package has them.

    ``mechanisms`` (list), ``mech_options`` (string or ``None``), ``threads`` (number), ``cache`` (boolean),
    ``socket_directory`` (path), ``start`` (boolean; ``None`` where the file does not say), ``proxy`` (whether a
    proxy stands before it where the mechanism asks a server; else true).

    Raises ``CommandExecutionError`` when the file cannot be read.

    CLI Example:

    .. code-block:: bash

        salt '*' saslauthd.settings
    """
    return _mta_saslauthd_view.settings()


def answers(socket=None, timeout=5):
    """
    Tell whether the daemon takes connections on its socket, and the proxy before it on its own. No password.

    socket (str)
        Path of the daemon's socket. Default: ``mux`` in the directory that the daemon's settings name.

    timeout (number)
        Seconds; default 5.

    CLI Example:

    .. code-block:: bash

        salt '*' saslauthd.answers
    """
    return _mta_saslauthd_view.answers(socket, timeout)


def authenticate(username, password=None, service="smtp", realm="", socket=None, password_pillar=None, timeout=30):
    """
    Ask the daemon whether a password is right, as smtpd does: over its socket or its proxy's, in no argument list.

    On a command line the password is in the arguments of ``salt`` itself: name its place in the pillar there.

    username (str)
        The user's name, as a mail client sends it.

    password (str)
        The user's password.

    service (str)
        Service name, the PAM service for the mechanism ``pam``; default ``smtp``, as Postfix's.

    realm (str)
        Realm; default none.

    socket (str)
        Path of the socket. Default: that of the proxy, if there is one, else ``mux`` in the directory that the
        daemon's settings name.

    password_pillar (str)
        Pillar path of the password, in place of ``password``: ``postfix_mta:verify:login:password``. The value
        may be an ``sdb://`` URI.

    timeout (number)
        Seconds for the connection, and again for the answer; default 30. A refusal takes PAM some seconds.

    Returns ``True`` when the daemon accepts the login, ``False`` when it refuses it.

    Raises ``CommandExecutionError`` when the daemon cannot be reached or does not answer, and
    ``SaltInvocationError`` when there is no password, or something is longer than the 256 bytes the daemon
    takes.

    CLI Example:

    .. code-block:: bash

        salt '*' saslauthd.authenticate alice password_pillar=postfix_mta:verify:login:password
    """
    return _mta_saslauthd_view.authenticate(
        _mta_minion.Minion.of(globals()), username, password, service, realm, socket, password_pillar, timeout
    )
