"""
saslauthd, the daemon that checks the passwords of mail clients: its settings, and a login over its own
socket.

Debian's packaging is what this module knows: ``/etc/default/saslauthd``, the group ``sasl``, the init script
up to Debian 12 and the native systemd unit since Debian 13. Postfix's smtpd runs in a chroot on Debian, so
the socket has to be below ``/var/spool/postfix``, where

- the init script makes the directory as ``dpkg-statoverride`` says, and looks for the PID file there;
- the native unit does neither: it exits as it cannot make the directory, or hangs for 90 seconds as the PID
  file is elsewhere. A drop-in tells it where the PID file is, and makes the directory before each start.

The mechanisms ``ldap`` and ``kerberos5`` read ``/etc/saslauthd.conf``, which is written here where their settings
are given, for root alone. saslauthd answers NO alike for a wrong password and for a server that it cannot reach,
so that smtpd says 535 for both. For the mechanisms that ask a server, the program of ``mta_saslauthd_front``
stands between smtpd and saslauthd, with a socket ``front`` of its own beside saslauthd's ``mux``, and makes the
latter a temporary error. Its socket unit starts and stops with saslauthd. Without systemd there is none.

The how-to's ``PWDIR``, ``PARAMS`` and ``PIDFILE`` lines are not written, since nothing reads them: the init
script derives all three from ``OPTIONS``, and the unit does not use them. Where they exist they stay.

Sources: saslauthd(8), ``/usr/share/doc/sasl2-bin/README.Debian``, dpkg-statoverride(1), systemd.service(5),
Postfix's SASL_README, and cyrus-sasl's ``lib/checkpw.c`` for the protocol of the socket.
"""

import _mta_guard

with _mta_guard.library(__file__):
    import _mta_saslauthd_view
    from _mta_minion import Minion


def settings():
    """
    Return the daemon's settings as its start reads them; where it is not installed, as the package has them.

    ``mechanisms`` (list), ``mech_options`` (string or ``None``), ``threads`` (number), ``cache`` (boolean),
    ``socket_directory`` (path), ``start`` (boolean; ``None`` where the file does not say), ``front`` (whether a
    front stands before it where the mechanism asks a server; else true).

    Raises ``CommandExecutionError`` when the file cannot be read.

    CLI Example:

    .. code-block:: bash

        salt '*' saslauthd.settings
    """
    return _mta_saslauthd_view.settings()


def answers(socket=None, timeout=5):
    """
    Tell whether the daemon takes connections on its socket, and the front before it on its own. No password.

    socket
        Path of the daemon's socket. Default: ``mux`` in the directory that the daemon's settings name.

    timeout
        Seconds; default 5.

    CLI Example:

    .. code-block:: bash

        salt '*' saslauthd.answers
    """
    return _mta_saslauthd_view.answers(socket, timeout)


def authenticate(username, password=None, service="smtp", realm="", socket=None, password_pillar=None, timeout=30):
    """
    Ask the daemon whether a password is right, as smtpd does: over its socket or its front's, in no argument list.

    On a command line the password is in the arguments of ``salt`` itself: name its place in the pillar there.

    username
        The user's name, as a mail client sends it.

    password
        The user's password.

    service
        Service name, the PAM service for the mechanism ``pam``; default ``smtp``, as Postfix's.

    realm
        Realm; default none.

    socket
        Path of the socket. Default: that of the front, if there is one, else ``mux`` in the directory that the
        daemon's settings name.

    password_pillar
        Pillar path of the password, in place of ``password``: ``postfix_mta:verify:login:password``. The value
        may be an ``sdb://`` URI.

    timeout
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
        Minion.of(globals()), username, password, service, realm, socket, password_pillar, timeout
    )
