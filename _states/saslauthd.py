"""
Manage saslauthd, through which Postfix checks the passwords of mail clients.

With its defaults this is the how-to's "Authentication" section: PAM users log in, through a socket that is
inside Postfix's chroot.

.. code-block:: yaml

    sasl:
      saslauthd.managed:
        - name: saslauthd
        - mechanisms: [pam]
        - threads: 5
        - directory_mode: "0710"
        - transaction: postfix_mta
        - require:
          - mta_package: packages
        - require_in:
          - mta_transaction: verified

A mail server whose users are on an IMAP server:

.. code-block:: yaml

    sasl:
      saslauthd.managed:
        - name: saslauthd
        - mechanisms: [rimap]
        - mech_options: imap.example.com/143
        - proxy: salt://postfix_mta/files/saslauthd-proxy.py

The first gives these lines, and leaves every other line of the two files as it is:

.. code-block:: text

    /etc/default/saslauthd         MECHANISMS="pam"
                                   MECH_OPTIONS=""
                                   THREADS=5
                                   OPTIONS="-c -m /var/spool/postfix/var/run/saslauthd"
                                   START=yes  (where the file or the init script knows START)
    /etc/postfix/sasl/smtpd.conf   pwcheck_method: saslauthd
                                   mech_list: plain login

Where saslauthd has a systemd unit of its own (since Debian 13), the first file stays as the package has it, unless
it has these values already: ``/etc/default/postfix-mta-saslauthd`` has them, and a drop-in makes the unit read it.

The packages ``sasl2-bin`` and ``libsasl2-modules`` have to be installed; in test mode they may be missing.
"""

from salt.loader.dunder import __opts__


def managed(
    name="saslauthd",
    mechanisms=("pam",),
    mech_options=None,
    ldap=None,
    kerberos5=None,
    proxy=None,
    threads=5,
    cache=True,
    combine_realm=False,
    socket_directory="/var/spool/postfix/var/run/saslauthd",
    queue_directory="/var/spool/postfix",
    directory_mode="0710",
    smtpd_conf="/etc/postfix/sasl/smtpd.conf",
    mech_list=("plain", "login"),
    member="postfix",
    chroot=True,
    chroots=None,
    transaction=None,
):
    """
    Keep the daemon's settings, its socket directory (with the override of dpkg-statoverride(1), and the
    drop-in for the native unit), the proxy before it, libsasl's ``smtpd.conf`` and the group membership of Postfix
    as one unit.

    name
        A name for the state; default ``saslauthd``.

    mechanisms
        List of the one mechanism that checks passwords: ``pam``, ``shadow``, ``ldap``, ``rimap``, ``sasldb``,
        ``getpwent``, ``kerberos5``. Default ``[pam]``.

    mech_options
        Option of the mechanism: the host for ``rimap``, the file for ``ldap``. One word; default none.

    ldap
        For ``ldap``: a mapping with ``servers`` (list of URIs), ``search_base``, ``scope``, ``filter``,
        ``bind_dn``, ``password_pillar`` (pillar path of its password), ``start_tls``, ``ca_file``, ``timeout``
        (seconds), which go into ``/etc/saslauthd.conf``, for root alone. Default: the file in ``mech_options`` is
        somebody else's.

    kerberos5
        For ``kerberos5``: a mapping with ``keytab`` and ``principal``. Default: ``/etc/krb5.keytab``, ``host``.

    proxy
        URL of the formula's proxy on the file server, ``salt://postfix_mta/files/saslauthd-proxy.py``. With
        ``ldap``, ``rimap`` and ``kerberos5``, and where systemd runs, it stands before saslauthd: with it a server
        that is down is a temporary error, without it a wrong password. Default ``null``: none.

    threads
        Number of processes; 0 makes one for each connection. Default 5.

    cache
        Whether the daemon remembers good logins for eight hours (``-c``). Default true.

    combine_realm
        Whether the mechanism is asked for the whole address with which a user logs in, ``alice@example.com``
        (``-r``), not for ``alice`` alone. Options that somebody has added by hand stay. Default false.

    socket_directory
        Directory of the socket ``mux``; inside Postfix's chroot where smtpd runs in it, as on Debian.

    queue_directory
        Postfix's, which is the root directory of an smtpd(8) in the chroot.

    directory_mode
        Octal string; default ``"0710"``, Debian's advice. Everybody can write to the socket, so the directory
        is the only lock: with the how-to's ``"0755"`` every local user can test passwords.

    smtpd_conf
        libsasl's settings for smtpd. Default ``/etc/postfix/sasl/smtpd.conf``.

    mech_list
        SASL mechanisms offered to clients; saslauthd can only check ``plain`` and ``login``. Default both.

    member
        User to add to the group ``sasl``, so that it reaches the socket in a directory that is closed to others;
        ``null`` for none. Default ``postfix``.

    chroot
        Whether the master.cf that Postfix's package brings has smtpd in the chroot. Default true.

    chroots
        Mapping of services of master.cf (``smtp/inet``) to whether their smtpd(8) will be chrooted; ``null``: they
        will be gone. Default: as master.cf has them now. Those inside and those outside of the chroot both
        find the socket.

    transaction
        Name of the transaction that activates and verifies it. Default: this state does so itself.
    """
    args = {
        "mechanisms": mechanisms,
        "mech_options": mech_options,
        "ldap": ldap,
        "kerberos5": kerberos5,
        "proxy": proxy,
        "threads": threads,
        "cache": cache,
        "combine_realm": combine_realm,
        "socket_directory": socket_directory,
        "queue_directory": queue_directory,
        "directory_mode": directory_mode,
        "smtpd_conf": smtpd_conf,
        "mech_list": mech_list,
        "member": member,
        "chroot": chroot,
        "chroots": chroots or {},
    }
    return __salt__["mta_apply.participate"](
        "saslauthd.managed", name, args, transaction, __opts__["test"], "saslauthd"
    )


def absent(name="saslauthd", transaction=None):
    """
    Stop and disable the daemon, whoever started it, and restore what was there before it was managed: settings,
    socket directory with its override, drop-in, ``smtpd.conf``, option file, group membership. What somebody has
    changed since stays, and the comment names it.

    name
        A name for the state; default ``saslauthd``.

    transaction
        Name of the transaction that activates and verifies it. Default: this state does so itself.
    """
    return __salt__["mta_apply.participate"](
        "saslauthd.absent", name, {}, transaction, __opts__["test"], "saslauthd"
    )
