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

What is left alone, renewed or refused: ``salt-call sys.doc mta_cert.plan`` and ``mta_ca.plan``.
"""


def ca_managed(name, key, transaction=None, **arguments):
    """
    Keep a certificate authority: create it once, renew it with the same key and name, never overwrite it.

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

    name
        Absolute path of the certificate (0644).

    key
        Absolute path of the private key (0600, not encrypted: Postfix cannot ask for a passphrase).

    hostname
        The server's FQDN.

    source
        ``local_ca``, ``self_signed``, ``fleet_ca`` or ``files``. Default: told by which of the following are
        given.

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
