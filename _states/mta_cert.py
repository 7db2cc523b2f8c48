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

What is left alone, renewed or refused: ``salt-call sys.doc mta_cert.plan``.
"""


def ca_managed(
    name,
    key,
    subject=None,
    common_name=None,
    key_type="rsa",
    key_size=None,
    days=3650,
    renew_days=30,
    passphrase_pillar=None,
    transaction=None,
):
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
        How many days before its end it is renewed, default 30; ``null``: a third of its lifetime, 30 at most.

    passphrase_pillar
        Pillar path of the passphrase that encrypts the key. Default, and when pillar has none: not encrypted.

    transaction
        Name of the transaction whose closing state activates and verifies. Default: activate here.

    .. code-block:: yaml

        /etc/ssl/certs/cacert.pem:
          mta_cert.ca_managed:
            - key: /etc/ssl/private/cakey.pem
    """
    args = {
        "name": name,
        "key": key,
        "subject": subject,
        "common_name": common_name,
        "key_type": key_type,
        "key_size": key_size,
        "days": days,
        "renew_days": renew_days,
        "passphrase_pillar": passphrase_pillar,
    }
    return __salt__["mta_transaction.member"](
        name,
        "mta_cert",
        args,
        transaction=transaction,
        test=__opts__["test"],
        subject=f"The certificate authority {name}",
        functions=("ca_plan", "ca_apply"),
    )


def managed(
    name,
    key,
    hostname,
    ca_certificate=None,
    ca_key=None,
    passphrase_pillar=None,
    subject=None,
    alternative_names=None,
    key_type="rsa",
    key_size=None,
    days=825,
    renew_days=30,
    rotate_key=False,
    transaction=None,
):
    """
    Keep the server's private key and certificate, as one unit.

    name
        Absolute path of the certificate (0644).

    key
        Absolute path of the private key (0600, not encrypted: Postfix cannot ask for a passphrase).

    hostname
        The server's FQDN.

    ca_certificate, ca_key
        Absolute paths of the authority that signs. Default: the certificate signs itself.

    passphrase_pillar
        Pillar path of the passphrase of the authority's key. Default, and when pillar has none: not
        encrypted.

    subject
        Further subject fields: country, state, locality, organization, unit, email. Default: none.

    alternative_names
        Further host names or IP addresses that it is for. Default: none.

    key_type, key_size
        Of a new key, as for :func:`ca_managed`. A good key is kept, whatever its type.

    days
        Validity of a new certificate in days, default 825; it ends with the authority at the latest.

    renew_days
        How many days before its end it is renewed, default 30; ``null``: a third of its lifetime, 30 at most.

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
    args = {
        "name": name,
        "key": key,
        "hostname": hostname,
        "ca_certificate": ca_certificate,
        "ca_key": ca_key,
        "passphrase_pillar": passphrase_pillar,
        "subject": subject,
        "names": alternative_names,
        "key_type": key_type,
        "key_size": key_size,
        "days": days,
        "renew_days": renew_days,
        "rotate_key": rotate_key,
    }
    return __salt__["mta_transaction.member"](
        name,
        "mta_cert",
        args,
        transaction=transaction,
        test=__opts__["test"],
        subject=f"The certificate {name} with its key",
    )
