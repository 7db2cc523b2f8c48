"""
Keep Postfix's main.cf and master.cf as they are described.

What is named is kept as described; what is not named stays as it is, and so do comments and the order of lines.

.. code-block:: yaml

    postfix_configuration:
      postconf.managed:
        - name: /etc/postfix
        - parameters:
            myhostname: mail.example.com
            smtpd_banner: $myhostname ESMTP $mail_name
            mailbox_size_limit: 0
            biff: false                       # biff = no
            smtpd_recipient_restrictions:     # a list is joined by commas
              - permit_sasl_authenticated
              - permit_mynetworks
              - reject_unauth_destination
            relayhost: null                   # taken out: Postfix's default holds
        - services:
            submission/inet:
              command: smtpd
              chroot: true
              overrides:
                syslog_name: postfix/submission
                smtpd_tls_security_level: encrypt
                smtpd_client_restrictions: [permit_sasl_authenticated, reject]
            smtp/inet:
              process_limit: 50               # one field; the others stay
            vmail/unix:
              command: pipe
              unprivileged: false
              chroot: false
              arguments: flags=DRhu user=vmail argv=/usr/local/bin/deliver ${recipient}
            uucp/unix: null                   # the entry is taken out
        - unmanaged: warn

which gives in main.cf

.. code-block:: text

    myhostname = mail.example.com
    smtpd_banner = $myhostname ESMTP $mail_name
    mailbox_size_limit = 0
    biff = no
    smtpd_recipient_restrictions = permit_sasl_authenticated, permit_mynetworks, reject_unauth_destination

and in master.cf

.. code-block:: text

    submission inet  n       -       y       -       -       smtpd
        -o syslog_name=postfix/submission
        -o smtpd_tls_security_level=encrypt
        -o {smtpd_client_restrictions=permit_sasl_authenticated, reject}

Both files are built and checked in a private copy (preflight), also in test mode; an error that the change would
bring makes the state fail, and nothing is changed. What was wrong before is only reported.
"""

from salt.loader.dunder import __opts__


def managed(
    name="/etc/postfix",
    parameters=None,
    services=None,
    unmanaged="keep",
    revert=None,
    optional=None,
    dane=False,
    transaction=None,
):
    """
    Keep main.cf and master.cf as described, together.

    name
        Path of the configuration directory, or any name that is no absolute path: then it is ``/etc/postfix``.

    parameters
        Dictionary of main.cf parameters: text, number, boolean (``yes``/``no``), list, or ``None`` to take
        the parameter out. Default: none.

    services
        Dictionary of master.cf entries, ``name/type`` to a dictionary of ``private``, ``unprivileged``,
        ``chroot``, ``wakeup``, ``process_limit``, ``command``, ``overrides`` (parameters as above, for
        ``-o``) and ``arguments`` (list or text), or to ``None`` to take the entry out. Fields and overrides
        that are not given stay as they are; in a new entry they are ``-``, and ``private`` of an inet service
        is ``n``. Default: none.

    unmanaged
        What becomes of parameters and services that neither this state nor the package's own configuration
        has, and to which nothing else refers: ``keep`` (default), ``warn`` (the comment lists them) or ``remove``.

    revert
        List of names of parameters, and of services (``name/type``), of which the previous value is kept: what
        each parameter, field and ``-o`` override was when this state first changed it. It is restored when a
        later run does not name it any more; an entry that was not there goes. What somebody else has changed
        since stays, and the comment says so. Default: what has been kept stays as it is.

    optional
        List of names of parameters; one that this version of Postfix does not have is left out, and the comment
        says so. Default: none.

    dane
        Whether mail goes out with DANE (``smtp_tls_security_level = dane``, RFC 7672) where the host's resolver
        validates, over what ``parameters`` says. The resolver is asked when /etc/resolv.conf names another one,
        and after a look at the DNS (``mta_dns.check``). Default: false.

    transaction
        Name of the transaction whose closing state activates and verifies the change. Default: this state
        does both itself, and rolls the change back when the server does not answer as it should.
    """
    name = name if name.startswith("/") else "/etc/postfix"
    args = {
        "name": name,
        "parameters": parameters,
        "services": services,
        "unmanaged": unmanaged,
        "revert": revert,
        "optional": optional,
        "dane": dane,
    }
    return __salt__["mta_apply.participate"](
        "postconf.managed", name, args, transaction, __opts__["test"], f"Postfix's configuration in {name}"
    )
