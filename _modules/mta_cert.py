r"""
The key and the certificate that a mail server shows.

What the how-to does with ``openssl genrsa`` and ``openssl req``, looked after for years: made or taken over,
checked as clients and a TLS server will, switched as one unit, renewed before the end.

By hand:

.. code-block:: bash

    salt-call --local mta_ca.create /etc/ssl/certs/cacert.pem /etc/ssl/private/cakey.pem
    salt-call --local mta_cert.create_key /etc/ssl/private/smtpd.key key_type=ec
    salt-call --local mta_cert.create /etc/ssl/certs/smtpd.crt /etc/ssl/private/smtpd.key mail.example.com \
        ca_certificate=/etc/ssl/certs/cacert.pem ca_key=/etc/ssl/private/cakey.pem
    salt-call --local mta_cert.inspect /etc/ssl/certs/smtpd.crt
    salt-call --local mta_cert.verify /etc/ssl/certs/smtpd.crt key=/etc/ssl/private/smtpd.key \
        ca_certificate=/etc/ssl/certs/cacert.pem hostname=mail.example.com

``inspect`` shows names, fingerprints, TLSA records and what will happen next, and when; ``verify`` lists what is
wrong; ``sign`` signs somebody else's request. Functions that create refuse to overwrite.

The states ``mta_cert.ca_managed`` and ``mta_cert.managed`` keep the files right. With pillar, ``state.apply
postfix_mta`` is all there is to do:

.. code-block:: yaml

    postfix_mta:
      certificate:
        source: local_ca        # self_signed, fleet_ca, files
        names: [smtp.example.com]
        renew_days: 20          # default: a third of the lifetime, 30 at most
        rotate_key: false       # true: a new key at each renewal

    # or what an ACME client leaves; its renewals are taken over at the next apply
    postfix_mta:
      certificate:
        source: files
        files:
          certificate: /etc/letsencrypt/live/mail.example.com/fullchain.pem
          key: /etc/letsencrypt/live/mail.example.com/privkey.pem

What is left alone, renewed or refused is told by ``salt-call sys.state_doc mta_cert``. A passphrase is named by
its pillar path and looked up where it is used, so that it is in no argument, log, change or comment.
"""

from salt.loader.dunder import __opts__  # noqa: F401

import _mta_guard

with _mta_guard.library(__file__):
    import _mta_certificates
    import _mta_minion
    import _mta_pem


def create_key(path, key_type="rsa", key_size=None, passphrase_pillar=None):
    """
    Create a private key: PKCS 8 in PEM, mode 0600 from its first moment.

    path (str)
        Absolute path of a file that does not exist yet.

    key_type (str)
        ``rsa`` (default), ``ec`` (or ``ecdsa``) or ``ed25519``.

    key_size (int)
        Bits. rsa: 2048, 3072, 4096, 8192; ec: 256, 384; default 3072 for rsa, 256 for ec.

    passphrase_pillar (str)
        Pillar path of a passphrase (``a:b:c``; the value may be an ``sdb://`` URI) that encrypts the key.
        Default: not encrypted. Postfix cannot use an encrypted key; this is for a CA.

    Returns ``{"path", "key", "tlsa"}``: the kind of the key, and its TLSA 3 1 1 data.

    Raises ``CommandExecutionError`` when the file exists or cannot be written, ``SaltInvocationError`` for a
    type or size that is not known.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_cert.create_key /etc/ssl/private/smtpd.key key_type=ec key_size=384
    """
    return _mta_certificates.create_key(
        _mta_minion.Minion.of(globals()), path, key_type, key_size, passphrase_pillar
    )


def create(
    path,
    key,
    hostname,
    ca_certificate=None,
    ca_key=None,
    passphrase_pillar=None,
    subject=None,
    names=None,
    days=_mta_certificates.DAYS,
):
    """
    Create the certificate for a private key that exists, signed by the CA.

    path (str)
        Absolute path of the certificate (0644); must not exist yet.

    key (str)
        Absolute path of the private key.

    hostname (str)
        The server's FQDN: common name and first subject alternative name.

    ca_certificate, ca_key (str)
        Absolute paths of the CA's certificate and key. Default: the certificate signs itself.

    passphrase_pillar (str)
        Pillar path of the CA key's passphrase (the value may be an ``sdb://`` URI). Default: none.

    subject (dict)
        Further subject fields: country (or ``C``), state (``ST``), locality (``L``), organization (``O``), unit
        (``OU``), email. Default: none.

    names (list)
        Further host names or IP addresses, a list.

    days (int)
        Validity in days, default 825. It ends with the CA at the latest.

    Returns what :func:`inspect` returns.

    Raises ``CommandExecutionError`` when the file exists, or a key or the CA cannot be used;
    ``SaltInvocationError`` for a bad argument.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_cert.create /etc/ssl/certs/smtpd.crt /etc/ssl/private/smtpd.key mail.example.com \\
            ca_certificate=/etc/ssl/certs/cacert.pem ca_key=/etc/ssl/private/cakey.pem
    """
    return _mta_certificates.create(
        _mta_minion.Minion.of(globals()),
        path,
        key,
        hostname,
        ca_certificate,
        ca_key,
        passphrase_pillar,
        subject,
        names,
        days,
    )


def sign(
    request,
    hostname,
    ca_certificate,
    ca_key,
    passphrase_pillar=None,
    subject=None,
    names=None,
    days=_mta_certificates.DAYS,
):
    """
    Sign a certificate request by the CA, for the names that *this call* states.

    Of the request only the public key is used: names and subject in it are what the applicant asks for, and
    whoever calls decides.

    request (str)
        A PKCS 10 request: PEM text, or the absolute path of a file with it.

    hostname, names, subject, days, ca_certificate, ca_key, passphrase_pillar
        As for :func:`create`.

    Returns the certificate as PEM text; no file is written.

    Raises ``CommandExecutionError`` when the request is not signed by its key, its key is too weak, or the CA
    cannot be used; ``SaltInvocationError`` for a bad argument.

    CLI Example:

    .. code-block:: bash

        salt ca mta_cert.sign /root/mail.csr mail.example.com \\
            ca_certificate=/etc/ssl/certs/cacert.pem ca_key=/etc/ssl/private/cakey.pem
    """
    return _mta_certificates.sign(
        _mta_minion.Minion.of(globals()),
        request,
        hostname,
        ca_certificate,
        ca_key,
        passphrase_pillar,
        subject,
        names,
        days,
    )


def inspect(path, renew_days=None):
    """
    Tell what a certificate is, and what will happen to it and when.

    path (str)
        Absolute path of a PEM file; its first certificate is described.

    renew_days (int)
        How many days before its end it is renewed. Default: a third of its lifetime, 30 at most.

    Returns ``None`` when nothing is there, else a dictionary:

    - ``subject``, ``issuer`` (RFC 4514 text), ``names`` (list), ``serial`` (hexadecimal), ``ca``,
      ``self_signed``
    - ``key`` (such as ``RSA 3072``), ``signature`` (hash)
    - ``not_before``, ``renewal``, ``not_after`` (UTC), ``days_left`` (whole days, negative when expired)
    - ``sha256``, ``sha1``: fingerprints
    - ``tlsa``: data of the TLSA record for DANE (RFC 7671, 5.1: usage 3, the public key's SHA-256, which a renewal
      keeps); ``tlsa_records``: the whole records for SMTP, one per name
    - ``chain``: subjects of the further certificates in the file
    - ``next_action``: in words, for a certificate that the formula makes itself

    Raises ``CommandExecutionError`` when the file is no PEM certificate.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_cert.inspect /etc/ssl/certs/smtpd.crt
    """
    return _mta_pem.inspect(path, renew_days)


def verify(certificate, key=None, ca_certificate=None, hostname=None):
    """
    Check a certificate as its users will: dates, key, signature, names, chain, loading it as a server does.

    certificate (str)
        Absolute path of the PEM file: the server's certificate, then those that lead to the authority, in
        order.

    key (str)
        Absolute path of the private key that must belong to it. Default: not checked.

    ca_certificate (str)
        Absolute path of the authorities that are trusted; on Debian ``/etc/ssl/certs/ca-certificates.crt`` are the
        public ones. Default: the certificate has to sign itself.

    hostname (str or list)
        Name, or list of names, that it must be for. Default: not checked.

    Returns a list of problems in words; empty when all is well. Raises ``CommandExecutionError`` when a
    Python library is missing or a file cannot be read.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_cert.verify /etc/ssl/certs/smtpd.crt key=/etc/ssl/private/smtpd.key \\
            ca_certificate=/etc/ssl/certs/cacert.pem hostname=mail.example.com
    """
    return _mta_certificates.verify(certificate, key, ca_certificate, hostname)
