r"""
A certificate authority of the host's own: made once, renewed with the same key and name, never overwritten.

What the how-to does with ``openssl req -new -x509 -extensions v3_ca``, with one difference: this one really
signs the server's certificate.

By hand:

.. code-block:: bash

    salt-call --local mta_ca.create /etc/ssl/certs/cacert.pem /etc/ssl/private/cakey.pem
    salt-call --local mta_cert.sign /root/mail.csr mail.example.com \
        ca_certificate=/etc/ssl/certs/cacert.pem ca_key=/etc/ssl/private/cakey.pem

The state ``mta_cert.ca_managed`` keeps it right for years. A passphrase is named by its pillar path and looked up
where it is used, so that it is in no argument, log, change or comment.
"""

from salt.loader.dunder import __opts__  # noqa: F401

import _mta_guard

with _mta_guard.library(__file__):
    import _mta_ca
    import _mta_minion


def create(
    path,
    key,
    subject=None,
    common_name=None,
    key_type="rsa",
    key_size=None,
    days=_mta_ca.DAYS,
    passphrase_pillar=None,
):
    """
    Create a certificate authority: a private key and a certificate that signs itself.

    path (str)
        Absolute path of the certificate (0644); must not exist yet.

    key (str)
        Absolute path of the private key (0600); must not exist yet.

    subject (dict)
        Further fields of its name: country (or ``C``), state (``ST``), locality (``L``), organization
        (``O``), unit (``OU``), email. Default: none.

    common_name (str)
        Its name. Default: ``CA of`` and the minion's FQDN.

    key_type (str)
        ``rsa`` (default), ``ec`` (or ``ecdsa``) or ``ed25519``.

    key_size (int)
        Bits. rsa: 2048, 3072, 4096, 8192; ec: 256, 384. Default 3072 for rsa, 256 for ec.

    days (int)
        Validity in days, default 3650.

    passphrase_pillar (str)
        Pillar path of a passphrase (``a:b:c``; the value may be an ``sdb://`` URI) that encrypts the key. Default:
        not encrypted.

    Returns what ``mta_cert.inspect`` returns. Raises ``CommandExecutionError`` when a file exists or cannot be
    written, ``SaltInvocationError`` for a bad argument.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_ca.create /etc/ssl/certs/cacert.pem /etc/ssl/private/cakey.pem days=3650
    """
    return _mta_ca.create(
        _mta_minion.Minion.of(globals()),
        path,
        key,
        subject,
        common_name,
        key_type,
        key_size,
        days,
        passphrase_pillar,
    )
