"""
A certificate authority of the host's own, and the key and certificate that the mail server shows.

.. code-block:: yaml

    the authority:
      mta_cert.ca_managed:
        - name: /etc/ssl/certs/cacert.pem
        - key: /etc/ssl/private/cakey.pem
        - common_name: CA of mail.example.com
        - passphrase_pillar: postfix_mta:certificate:ca:passphrase

    the server's pair:
      mta_cert.managed:
        - name: /etc/ssl/certs/smtpd.crt
        - key: /etc/ssl/private/smtpd.key
        - hostname: mail.example.com
        - ca_certificate: /etc/ssl/certs/cacert.pem
        - ca_key: /etc/ssl/private/cakey.pem
        - passphrase_pillar: postfix_mta:certificate:ca:passphrase
        - require:
          - mta_cert: the authority

    what certbot leaves, taken over:
      mta_cert.managed:
        - name: /etc/ssl/certs/smtpd.crt
        - key: /etc/ssl/private/smtpd.key
        - hostname: mail.example.com
        - certificate_source: /etc/letsencrypt/live/mail.example.com/fullchain.pem
        - key_source: /etc/letsencrypt/live/mail.example.com/privkey.pem
        - chain_file: /etc/ssl/private/smtpd.pem
"""

from salt.loader.dunder import __opts__


def ca_managed(name, key, transaction=None, **arguments):
    """
    Keep a certificate authority: create it once, renew it with the same key and name, never overwrite it.

    - Without its key, with the key of another one, with the wrong passphrase, or not valid *yet* (the clock is
      wrong), an existing authority is an error.
    - Near its end, or when strict clients refuse it (the how-to's own lacks the key usage), its certificate is
      renewed with the same key and name: what it signed before stays valid.
    - The certificate of a fleet's authority that ``mta_cert.managed`` has fetched to this path is replaced.
    - A passphrase in pillar encrypts a key that is not encrypted yet, or that the previous passphrase encrypts. No
      copy of it as it was is kept when that is committed: a roll back leaves it encrypted.

    name
        Absolute path of its certificate (0644).

    key
        Absolute path of its private key (0600).

    subject
        Further fields of its name: country, state, locality, organization, unit, email. Default: none.

    common_name
        Its name. Default: ``CA of`` and the minion's FQDN.

    key_type, key_size
        Of a new key: ``rsa`` (default) with 2048, 3072 (default), 4096 or 8192 bits, ``ec`` with 256
        (default) or 384 bits, ``ed25519``.

    days
        Validity of a new certificate in days, default 3650.

    renew_days
        How many days before its end it is renewed. Default: a third of its lifetime, 30 at most.

    passphrase_pillar
        Pillar path of the passphrase that encrypts the key. Default, and when pillar has none: not encrypted.

    previous_passphrase_pillar
        Pillar path of the passphrase before that: a key that it opens is encrypted with the new one. Default:
        none.

    transaction
        Name of the transaction whose closing state activates and verifies. Default: activate here.

    .. code-block:: yaml

        /etc/ssl/certs/cacert.pem:
          mta_cert.ca_managed:
            - key: /etc/ssl/private/cakey.pem
    """
    return __salt__["mta_apply.participate"](
        "mta_cert.ca_managed",
        name,
        {"name": name, "key": key, **arguments},
        transaction,
        __opts__["test"],
        f"The certificate authority {name}",
    )


def managed(name, key, hostname, transaction=None, **arguments):
    """
    Keep the server's private key and certificate, as one unit.

    - A good pair is left alone, also where its key is of another type or size than asked for, or the certificate
      has more names: type and size are for new keys. A comment says so.
    - A pair that is bad (it does not match, has expired or will soon, is for other names, is not signed by the
      authority, cannot be parsed) gets a new certificate. A good key is kept, so that pinned keys (TLSA 3 1 1)
      stay valid; a missing, unreadable or too weak one is replaced. A key that a passphrase encrypts is an
      error: Postfix cannot use it, and only its owner can say what it is for.
    - Another ``source``, or another ``ca_minion``, gets a new certificate for the same key at once; the comment
      says whom clients have to trust from now on.
    - A certificate that is not valid *yet* is an error: the clock is wrong, and a new certificate would be wrong
      too.
    - Nothing is replaced before the new pair has been checked: the key matches, the chain verifies in order,
      names, dates, signature and key are what clients accept, and it loads in a TLS server's context. With
      ``files`` a bad new pair is an error, and the server keeps the one that it has.
    - Symbolic links at these paths are followed when root made them and they lead to a regular file. A file that
      belongs to somebody else, or that others can write, becomes root's. Debian's group ``ssl-cert`` may read a
      key (0640), nobody else.
    - A good pair that the server does not show, because somebody replaced the files and did not reload Postfix, is
      put in force.
    - Where Postfix reads key and certificate from two files and the key changes, Postfix is stopped for the
      moment in which they are switched. Where the key stays, and with ``chain_file``, which is one file, it goes
      on running.

    name
        Absolute path of the certificate (0644).

    key
        Absolute path of the private key (0600, not encrypted: Postfix cannot ask for a passphrase).

    hostname
        The server's FQDN.

    source
        ``local_ca``: signed by the authority of ``ca_certificate`` and ``ca_key``. ``self_signed``. ``fleet_ca``:
        the key is made here, and the minion ``ca_minion`` signs. ``files``: taken over from ``certificate_source``
        and ``key_source``. Default: told by which of these are given.

    ca_certificate, ca_key
        ``local_ca``: absolute paths of the authority that signs.

    passphrase_pillar, previous_passphrase_pillar
        ``local_ca``: pillar paths of the passphrase of the authority's key, and of the one before it. Default, and
        when pillar has none: not encrypted.

    ca_minion, policy
        ``fleet_ca``: id of the minion that signs, and the name of its signing policy; the authority's certificate
        goes to ``ca_certificate``.

    certificate_source, key_source, chain_source
        ``files``: absolute paths, or pillar paths of PEM text. The certificate's may hold the whole chain;
        ``chain_source`` is for further certificates elsewhere.

    chain_file
        Absolute path of one more file, 0600, with the key and then the certificates, for
        ``smtpd_tls_chain_files``. Default: none.

    subject
        Further subject fields: country, state, locality, organization, unit, email. Default: none.

    alternative_names
        Further host names or IP addresses that it is for. Default: none.

    key_type, key_size
        Of a new key, as for :func:`ca_managed`. A good key is kept, whatever its type.

    days
        Validity of a new certificate in days, default 825; it ends with the authority at the latest.

    renew_days
        How many days before its end it is renewed. Default: a third of its lifetime, 30 at most.

    rotate_key
        Make a new key at each renewal, default false.

    transaction
        Name of the transaction whose closing state activates and verifies. Default: activate here.

    .. code-block:: yaml

        /etc/ssl/certs/smtpd.crt:
          mta_cert.managed:
            - key: /etc/ssl/private/smtpd.key
            - hostname: mail.example.com
    """
    return __salt__["mta_apply.participate"](
        "mta_cert.managed",
        name,
        {"name": name, "key": key, "hostname": hostname, **arguments},
        transaction,
        __opts__["test"],
        f"The certificate {name} with its key",
    )


def only(name, keep, transaction=None):
    """
    Remove the files of pairs that :func:`managed` made and that are no longer wanted: what was there before it
    made them comes back.

    name
        Any name; it is not used.

    keep
        List of the paths of all files that the pairs need which stay: certificate, key, chain file, what they are
        taken over from, the authority's certificate. What main.cf or master.cf name stays too, and what somebody
        else has replaced. An authority of this host's always stays.

    transaction
        Name of the transaction whose closing state verifies. Default: this state does it.

    .. code-block:: yaml

        one pair:
          mta_cert.only:
            - keep: [/etc/ssl/certs/smtpd.crt, /etc/ssl/private/smtpd.key]
    """
    return __salt__["mta_apply.participate"](
        "mta_cert.only", name, {"keep": keep}, transaction, __opts__["test"], "The set of certificates"
    )
