"""
Private keys, a local certificate authority, and the certificates that a mail server shows.

What the how-to does with ``openssl genrsa`` and ``openssl req -x509``, with one difference: the authority
really signs the server's certificate. ``cryptography`` creates; pyOpenSSL loads what was created into the TLS
context of a server and verifies the chain, before a file is replaced.

By hand:

.. code-block:: bash

    salt-call --local mta_cert.create_ca /etc/ssl/certs/cacert.pem /etc/ssl/private/cakey.pem
    salt-call --local mta_cert.create_key /etc/ssl/private/smtpd.key key_type=ec
    salt-call --local mta_cert.create /etc/ssl/certs/smtpd.crt /etc/ssl/private/smtpd.key mail.example.com \\
        ca_certificate=/etc/ssl/certs/cacert.pem ca_key=/etc/ssl/private/cakey.pem
    salt-call --local mta_cert.inspect /etc/ssl/certs/smtpd.crt
    salt-call --local mta_cert.verify /etc/ssl/certs/smtpd.crt key=/etc/ssl/private/smtpd.key \\
        ca_certificate=/etc/ssl/certs/cacert.pem hostname=mail.example.com

Functions that create refuse to overwrite. The states ``mta_cert.ca_managed`` and ``mta_cert.managed`` keep
the files right for years; :func:`ca_plan`, :func:`ca_apply`, :func:`plan` and :func:`apply` are their halves.

What they leave alone, renew or refuse is written at :func:`plan`.

A passphrase is named by its pillar path and looked up here, so that it is in no argument, log, change or
comment.
"""

import collections
import datetime
import grp
import hashlib
import ipaddress
import os
import re
import stat
import types

from salt.exceptions import CommandExecutionError, SaltInvocationError

CA_DAYS = 3650
SERVER_DAYS = 825
RENEW_DAYS = 30
RELOAD = {"postfix": "reload"}

# Clocks differ: a certificate made now is used at once by clients whose clock is a little behind.
BACKDATED = datetime.timedelta(hours=1)
DAY = datetime.timedelta(days=1)

# Sizes to create. Today's clients refuse RSA keys below 2048 bits ("EE certificate key too weak").
RSA_SIZES = (2048, 3072, 4096, 8192)
EC_SIZES = {256: "SECP256R1", 384: "SECP384R1"}
KEY_TYPES = {"rsa": 3072, "ec": 256, "ecdsa": 256, "ed25519": None}
RSA_MINIMUM = 2048
EC_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}

# Subject fields in the order of the name: the attribute in cryptography's NameOID, its upper bound (RFC 5280,
# appendix A.1), and what the field is called in settings.
SUBJECT_FIELDS = (
    ("COUNTRY_NAME", 2, ("C", "country", "countryName")),
    ("STATE_OR_PROVINCE_NAME", 128, ("ST", "state", "stateOrProvinceName")),
    ("LOCALITY_NAME", 128, ("L", "locality", "localityName")),
    ("ORGANIZATION_NAME", 64, ("O", "organization", "organizationName")),
    ("ORGANIZATIONAL_UNIT_NAME", 64, ("OU", "unit", "organizational_unit", "organizationalUnitName")),
    ("COMMON_NAME", 64, ("CN", "common_name", "commonName")),
    ("EMAIL_ADDRESS", 255, ("email", "emailAddress")),
)
COMMON_NAME_LIMIT = 64
DNS_NAME = re.compile(r"(\*\.)?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")

File = collections.namedtuple("File", "data mode uid gid")


def _library():
    """Import ``cryptography`` where it is needed: loading this module must cost nothing."""
    try:
        from cryptography import x509
        from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    except ImportError as err:
        raise CommandExecutionError(
            f"The Python library cryptography (41 or later) is missing in Salt's environment: {err}. "
            "Install it there: salt-pip install cryptography, or the package python3-cryptography"
        ) from err
    return types.SimpleNamespace(
        x509=x509,
        hashes=hashes,
        serialization=serialization,
        ec=ec,
        ed25519=ed25519,
        rsa=rsa,
        # What cryptography raises for input that it cannot use.
        errors=(ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature),
    )


def _openssl():
    """Import pyOpenSSL where it is needed."""
    try:
        from OpenSSL import SSL, crypto
    except ImportError as err:
        raise CommandExecutionError(
            f"The Python library pyOpenSSL is missing in Salt's environment: {err}. "
            "Install it there: salt-pip install pyOpenSSL, or the package python3-openssl"
        ) from err
    return SSL, crypto


def _now():
    return datetime.datetime.now(datetime.timezone.utc)


# -- files -------------------------------------------------------------------------------------


def _trusted(uid):
    return uid in (0, os.geteuid())


def _read(path):
    """Read the regular file at ``path``, through a link that root made; ``None`` when nothing is there."""
    if not isinstance(path, str) or not os.path.isabs(path):
        raise SaltInvocationError(f"An absolute path is needed, not {path!r}")
    try:
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            if not _trusted(status.st_uid):
                raise CommandExecutionError(
                    f"{path} is a symbolic link of user {status.st_uid}, and only root's are followed"
                )
            if not os.path.exists(path):
                raise CommandExecutionError(
                    f"{path} is a symbolic link to {os.readlink(path)}, which is not there"
                )
            status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise CommandExecutionError(f"{path} is not a regular file. Move it away")
        with open(path, "rb") as handle:
            return File(handle.read(), stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
    except FileNotFoundError:
        return None
    except OSError as err:
        raise CommandExecutionError(f"Cannot read {path}: {err.strerror}") from err


def _shared_with_ssl_cert(gid):
    try:
        return grp.getgrgid(gid).gr_name == "ssl-cert"
    except KeyError:
        return False


def _key_is_protected(file, shareable):
    """Whether nobody but root (and Debian's ssl-cert, for a server key) can read the key file."""
    allowed = 0o640 if shareable and _shared_with_ssl_cert(file.gid) else 0o600
    return _trusted(file.uid) and not file.mode & 0o177 & ~allowed


def _create_file(path, data, mode):
    """Create ``path``, which must not exist, with ``mode`` from its first moment."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        try:
            with open(descriptor, "wb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
        except BaseException:
            os.unlink(path)
            raise
    except FileExistsError as err:
        raise CommandExecutionError(f"{path} is there already and is not overwritten") from err
    except OSError as err:
        raise CommandExecutionError(f"Cannot create {path}: {err.strerror}") from err


def _refuse_existing(*paths):
    for path in paths:
        if _read(path) is not None:
            raise CommandExecutionError(f"{path} is there already and is not overwritten")


def _write(path, data, private=False):
    """Write one file as part of the transaction; a missing directory is made."""
    parent = os.path.dirname(path)
    if not os.path.isdir(parent):
        __salt__["mta_transaction.directory"](parent, mode="0700" if private else "0755")
    __salt__["mta_transaction.write"](
        path, data, user="root", group="root", mode="0600" if private else "0644", activate=RELOAD
    )


# -- arguments ---------------------------------------------------------------------------------


def _passphrase(path):
    """The passphrase at a pillar path as bytes; ``None`` when pillar has none."""
    value = __salt__["mta_secret.get"](path)
    return None if value is None else value.encode()


def _key_parameters(key_type, key_size):
    """Validate the kind of a key to create; returns type and size."""
    kind = str(key_type).lower()
    if kind not in KEY_TYPES:
        raise SaltInvocationError(f"key_type must be rsa, ec or ed25519, not {key_type!r}")
    size = KEY_TYPES[kind] if key_size is None else key_size
    kind = "ec" if kind == "ecdsa" else kind
    sizes = {"rsa": RSA_SIZES, "ec": tuple(EC_SIZES), "ed25519": (None,)}[kind]
    if size not in sizes:
        allowed = " or ".join("null" if value is None else str(value) for value in sizes)
        raise SaltInvocationError(f"key_size for {kind} must be {allowed}, not {key_size!r}")
    return kind, size


def _days(days, renew_days):
    for name, value in (("days", days), ("renew_days", renew_days)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise SaltInvocationError(f"{name} must be a whole number of days, 1 or more, not {value!r}")
    if renew_days is not None and renew_days >= days:
        raise SaltInvocationError(
            f"renew_days ({renew_days}) must be less than days ({days}): else every apply would renew"
        )


def _subject_fields(fields):
    """Normalise a subject to ``{NameOID attribute: text}`` in the order of the name."""
    known = {alias.lower(): name for name, _, aliases in SUBJECT_FIELDS for alias in aliases}
    values = {}
    for field, value in (fields or {}).items():
        name = known.get(str(field).lower())
        if name is None:
            raise SaltInvocationError(f"Unknown subject field {field!r}; known are: {', '.join(known)}")
        if value is None:
            continue
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            raise SaltInvocationError(f"Subject field {field} must be printable text, not {value!r}")
        values[name] = value.strip()
    ordered = {}
    for name, limit, aliases in SUBJECT_FIELDS:
        if name in values:
            if len(values[name]) > limit or (
                name == "COUNTRY_NAME" and not re.fullmatch("[A-Za-z]{2}", values[name])
            ):
                bound = "two letters" if name == "COUNTRY_NAME" else f"{limit} characters at most"
                raise SaltInvocationError(f"Subject field {aliases[-1]} must have {bound}: {values[name]!r}")
            if name == "EMAIL_ADDRESS" and not values[name].isascii():
                raise SaltInvocationError(f"Subject field {aliases[-1]} must be ASCII: {values[name]!r}")
            ordered[name] = values[name].upper() if name == "COUNTRY_NAME" else values[name]
    return ordered


def _names(hostname, names):
    """Validate and normalise host names and IP addresses: lower case, each once, ``hostname`` first."""
    if isinstance(names, str):
        names = [names]
    normal = []
    for name in [hostname, *(names or [])]:
        text = str(name).rstrip(".").lower()
        try:
            text = str(ipaddress.ip_address(text))
        except ValueError:
            if len(text) > 253 or not DNS_NAME.fullmatch(text):
                raise SaltInvocationError(
                    f"{name!r} is no host name or IP address (international names in their xn-- form)"
                ) from None
        if text not in normal:
            normal.append(text)
    return normal


# -- keys --------------------------------------------------------------------------------------


def _generate(kind, size):
    lib = _library()
    if kind == "rsa":
        return lib.rsa.generate_private_key(65537, size)
    if kind == "ec":
        return lib.ec.generate_private_key(getattr(lib.ec, EC_SIZES[size])())
    return lib.ed25519.Ed25519PrivateKey.generate()


def _key_pem(private, passphrase=None):
    serialization = _library().serialization
    return private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption(),
    )


def _encrypted(data):
    """Whether a PEM private key is locked (PKCS 8, RFC 7468; or OpenSSL's traditional form)."""
    return b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in data or b"Proc-Type: 4,ENCRYPTED" in data


def _load_key(data, passphrase=None, thorough=False):
    """
    Load a PEM private key; raises one of ``_library().errors``.

    Proving that an RSA key's primes are prime takes 90 ms, and only a use of the key needs it (``thorough``).
    """
    serialization = _library().serialization
    return serialization.load_pem_private_key(
        data, passphrase if _encrypted(data) else None, unsafe_skip_rsa_key_validation=not thorough
    )


def _spki(public):
    serialization = _library().serialization
    return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _key_text(public):
    """What kind of key this is, in words."""
    lib = _library()
    if isinstance(public, lib.rsa.RSAPublicKey):
        return f"RSA {public.key_size}"
    if isinstance(public, lib.ec.EllipticCurvePublicKey):
        return f"ECDSA {EC_CURVES.get(public.curve.name, public.curve.name)}"
    if isinstance(public, lib.ed25519.Ed25519PublicKey):
        return "Ed25519"
    return type(public).__name__.strip("_").replace("PublicKey", "")


def _parameters_text(kind, size):
    return {"rsa": f"RSA {size}", "ec": f"ECDSA P-{size}", "ed25519": "Ed25519"}[kind]


def _key_weakness(public):
    """Why clients would refuse the key; ``None`` when they take it."""
    lib = _library()
    if isinstance(public, lib.rsa.RSAPublicKey):
        if public.key_size < RSA_MINIMUM:
            return f"the key is too weak for clients ({_key_text(public)}; {RSA_MINIMUM} is the least)"
    elif isinstance(public, lib.ec.EllipticCurvePublicKey):
        if public.curve.name not in EC_CURVES:
            return f"clients do not take the key's curve ({public.curve.name})"
    elif not isinstance(public, lib.ed25519.Ed25519PublicKey):
        return f"clients do not take the key's type ({_key_text(public)})"
    return None


# -- certificates ------------------------------------------------------------------------------


def _load_certificates(data):
    """Parse all certificates of a PEM file; raises one of ``_library().errors``."""
    return _library().x509.load_pem_x509_certificates(data)


def _utc(certificate, which):
    """A date of a certificate as an aware datetime; cryptography before 42 has only naive ones."""
    moment = getattr(certificate, f"not_valid_{which}_utc", None)
    if moment is None:
        moment = getattr(certificate, f"not_valid_{which}").replace(tzinfo=datetime.timezone.utc)
    return moment


def _date(moment):
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _window(certificate, renew_days):
    """When the renewal window begins. Default: a third of the lifetime before the end, 30 days at most."""
    end = _utc(certificate, "after")
    if renew_days is None:
        return end - min((end - _utc(certificate, "before")) / 3, RENEW_DAYS * DAY)
    return end - renew_days * DAY


def _extension(certificate, kind):
    """The value of an extension of this class, ``None`` without one."""
    x509 = _library().x509
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _certificate_names(certificate):
    """The names that a certificate is for: subject alternative names only (RFC 6125, 6.4.4; RFC 9525, 2)."""
    x509 = _library().x509
    alternative = _extension(certificate, x509.SubjectAlternativeName)
    if alternative is None:
        return []
    addresses = alternative.get_values_for_type(x509.IPAddress)
    return [*alternative.get_values_for_type(x509.DNSName), *map(str, addresses)]


def _covers(pattern, name):
    """Whether a certificate's name covers ``name``; ``*`` is one whole first label (RFC 6125, 6.4.3)."""
    pattern = pattern.lower()
    if pattern.startswith("*."):
        return name == pattern or name.partition(".")[2] == pattern[2:]
    return pattern == name


def _is_ca(certificate):
    x509 = _library().x509
    constraints = _extension(certificate, x509.BasicConstraints)
    usage = _extension(certificate, x509.KeyUsage)
    return bool(constraints and constraints.ca) and (usage is None or usage.key_cert_sign)


def _is_strict_ca(certificate):
    """
    Whether clients that check strictly (``-x509_strict``; Python 3.13 does so by default) take this CA.

    The how-to's ``openssl req -x509 -extensions v3_ca`` leaves the key usage out.
    """
    x509 = _library().x509
    critical = {extension.oid: extension.critical for extension in certificate.extensions}
    return (
        critical.get(x509.BasicConstraints.oid, False)
        and x509.KeyUsage.oid in critical
        and x509.SubjectKeyIdentifier.oid in critical
    )


def _issued_by(certificate, name, public):
    """Whether this authority signed the certificate: its name is the issuer, its key made the signature."""
    lib = _library()
    if certificate.issuer != name:
        return False
    signed, data = certificate.signature, certificate.tbs_certificate_bytes
    try:
        if isinstance(public, lib.rsa.RSAPublicKey):
            # This may be RSASSA-PSS, so the padding comes from the certificate (cryptography 41 and later).
            padding = certificate.signature_algorithm_parameters
            public.verify(signed, data, padding, certificate.signature_hash_algorithm)
        elif isinstance(public, lib.ec.EllipticCurvePublicKey):
            public.verify(signed, data, lib.ec.ECDSA(certificate.signature_hash_algorithm))
        elif isinstance(public, lib.ed25519.Ed25519PublicKey):
            public.verify(signed, data)
        else:
            return False
    except lib.errors:
        return False
    return True


def _summary(certificate):
    """What :func:`inspect` and a change show of a certificate."""
    return {
        "subject": certificate.subject.rfc4514_string(),
        "names": _certificate_names(certificate),
        "issuer": certificate.issuer.rfc4514_string(),
        "key": _key_text(certificate.public_key()),
        "serial": f"{certificate.serial_number:X}",
        "not_after": _date(_utc(certificate, "after")),
    }


def _old(file, certificate):
    """What a change shows of the file that it replaces."""
    if file is None:
        return None
    try:
        return _summary(certificate)
    except (AttributeError, *_library().errors):
        return "not a certificate that can be understood"


def _name(fields):
    x509 = _library().x509
    return x509.Name([x509.NameAttribute(getattr(x509.NameOID, name), text) for name, text in fields.items()])


def _server_subject(subject, hostname):
    """The subject of a server's certificate. A host name too long for a common name is in the names only."""
    fields = _subject_fields(subject)
    if "COMMON_NAME" not in fields and len(hostname) <= COMMON_NAME_LIMIT:
        fields = _subject_fields({**(subject or {}), "CN": hostname})
    return fields


def _algorithm(private):
    """The hash to sign with, as strong as the key (RFC 5480, 4); Ed25519 brings its own (RFC 8410)."""
    lib = _library()
    if isinstance(private, lib.ed25519.Ed25519PrivateKey):
        return None
    if isinstance(private, lib.ec.EllipticCurvePrivateKey) and private.curve.key_size > 256:
        return lib.hashes.SHA384()
    return lib.hashes.SHA256()


def _builder(subject, public, now, not_after):
    """
    Start a certificate: serial number of 159 random bits, positive and within 20 octets (RFC 5280, 4.1.2.2),
    validity (4.1.2.5), subject key identifier (4.2.1.2).
    """
    x509 = _library().x509
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before((now - BACKDATED).replace(microsecond=0))
        .not_valid_after(not_after.replace(microsecond=0))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _usage(*usages):
    x509 = _library().x509
    known = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: name in usages for name in known})


def _build_ca(private, subject, days, now, path_length=0):
    """Make a CA certificate: basic constraints and key usage are critical (RFC 5280, 4.2.1.9, 4.2.1.3)."""
    return (
        _builder(subject, private.public_key(), now, now + days * DAY)
        .issuer_name(subject)
        .add_extension(_library().x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_usage("key_cert_sign", "crl_sign"), critical=True)
        .sign(private, _algorithm(private))
    )


def _build_server(public, fields, names, days, now, signer=None, issuer=None):
    """
    Make a server's certificate, signed by ``signer`` whose certificate is ``issuer``; self-signed without
    one.

    It ends with its issuer at the latest. Only an RSA key enciphers keys (RFC 3279, 2.3.1; RFC 5480, 3). The
    names are critical when there is no subject (RFC 5280, 4.2.1.6). The authority key identifier is the
    issuer's subject key identifier (4.2.1.1). No ``clientAuth``: the how-to's Postfix shows no certificate as
    a client, and public authorities gave it up.
    """
    lib = _library()
    x509 = lib.x509
    not_after = now + days * DAY
    subject = _name(fields)
    alternative = []
    for name in names:
        try:
            alternative.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            alternative.append(x509.DNSName(name))
    if issuer is None:
        issuer_name = subject
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(public)
    else:
        not_after = min(not_after, _utc(issuer, "after"))
        issuer_name = issuer.subject
        identifier = _extension(issuer, x509.SubjectKeyIdentifier)
        if identifier is None:
            authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())
        else:
            authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
    usages = ["digital_signature"]
    if isinstance(public, lib.rsa.RSAPublicKey):
        usages.append("key_encipherment")
    return (
        _builder(subject, public, now, not_after)
        .issuer_name(issuer_name)
        .add_extension(authority, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(*usages), critical=True)
        .add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternative), critical=not fields)
        .sign(signer, _algorithm(signer))
    )


def _pem(certificate):
    return certificate.public_bytes(_library().serialization.Encoding.PEM)


def _problems(chain, anchors, names, now, window=None, public=None, fields=None):
    """
    Tell what is wrong with a server's certificate.

    chain
        The certificates of the file: the server's own, then those that lead to the authority.
    anchors
        ``(name, public key)`` of the authorities that are trusted; ``None``: the certificate signs itself.
    names
        Names that must be covered.
    window
        When renewal begins; ``None``: at the end.
    public
        The public half of the private key, when it is to be compared.
    fields
        Subject fields that must be in it, as :func:`_subject_fields` returns them.
    """
    lib = _library()
    leaf, problems = chain[0], []
    try:
        own, end = leaf.public_key(), _utc(leaf, "after")
        if public is not None and _spki(own) != _spki(public):
            problems.append("it does not belong to the key")
        weakness = _key_weakness(own)
        if weakness:
            problems.append(weakness)
        if isinstance(leaf.signature_hash_algorithm, (lib.hashes.MD5, lib.hashes.SHA1)):
            problems.append(f"clients do not take its signature ({leaf.signature_hash_algorithm.name})")
        if now > end:
            problems.append(f"it expired at {_date(end)}")
        elif window is not None and now >= window:
            problems.append(f"it ends at {_date(end)}, and its renewal began at {_date(window)}")
        covered = _certificate_names(leaf)
        missing = [name for name in names if not any(_covers(pattern, name) for pattern in covered)]
        if missing:
            problems.append(f"it is not for {', '.join(missing)} but for {', '.join(covered) or 'no name'}")
        for name, text in (fields or {}).items():
            attributes = leaf.subject.get_attributes_for_oid(getattr(lib.x509.NameOID, name))
            if text not in [attribute.value for attribute in attributes]:
                problems.append(f"its subject does not say {name.lower().replace('_', ' ')} {text}")
        usage = _extension(leaf, lib.x509.ExtendedKeyUsage)
        if usage is not None and lib.x509.ExtendedKeyUsageOID.SERVER_AUTH not in usage:
            problems.append("it is not for servers (extended key usage)")
        for lower, upper in zip(chain, chain[1:]):
            if not _issued_by(lower, upper.subject, upper.public_key()):
                problems.append(f"its chain is broken: {_subject_text(upper)} did not sign {_subject_text(lower)}")
        if anchors is None:
            signer, signed = "itself", _issued_by(leaf, leaf.subject, own)
        else:
            signer, signed = "the authority", any(_leads_to(chain[-1], *anchor) for anchor in anchors)
        if not signed:
            problems.append(f"it is not signed by {signer} but by {leaf.issuer.rfc4514_string() or 'nobody'}")
    except lib.errors as err:
        problems.append(f"it cannot be understood: {err}")
    return problems


def _leads_to(last, name, public):
    """Whether a chain's last certificate is this authority's own, which may be left out, or signed by it."""
    own = last.subject == name and _spki(last.public_key()) == _spki(public)
    return own or _issued_by(last, name, public)


def _subject_text(certificate):
    return certificate.subject.rfc4514_string() or "(no subject)"


def _serve(chain, private, anchors, now):
    """
    Load a pair into the TLS context of a server and verify its chain, strictly, against ``anchors``.

    Returns the problems as a list. OpenSSL's security level applies: a weak key does not load.
    """
    SSL, crypto = _openssl()
    problems = []
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    converted = [crypto.X509.from_cryptography(certificate) for certificate in chain]
    try:
        if private is not None:
            try:
                context.use_certificate(chain[0])
                context.use_privatekey(private)
            except TypeError:  # pyOpenSSL before 24.3 takes only its own types
                context.use_certificate(converted[0])
                context.use_privatekey(crypto.PKey.from_cryptography_key(private))
            context.check_privatekey()
    except SSL.Error as err:
        reasons = "; ".join(str(entry[-1]) for entry in err.args[0]) if err.args else ""
        problems.append(f"a TLS server cannot load the key and the certificate: {reasons or 'they do not match'}")
    store = crypto.X509Store()
    for anchor in anchors:
        store.add_cert(crypto.X509.from_cryptography(anchor))
    store.set_flags(crypto.X509StoreFlags.X509_STRICT)
    store.set_time(now)
    try:
        crypto.X509StoreContext(store, converted[0], converted[1:]).verify_certificate()
    except crypto.X509StoreContextError as err:
        problems.append(f"the chain does not verify: {err}")
    return problems


# -- by hand -----------------------------------------------------------------------------------


def create_key(path, key_type="rsa", key_size=None, passphrase_pillar=None):
    """
    Create a private key: PKCS 8 in PEM, mode 0600 from its first moment.

    path
        Absolute path of a file that does not exist yet.

    key_type
        ``rsa`` (default), ``ec`` (or ``ecdsa``) or ``ed25519``.

    key_size
        Bits. rsa: 2048, 3072, 4096, 8192; ec: 256, 384; default 3072 for rsa, 256 for ec.

    passphrase_pillar
        Pillar path of a passphrase (``a:b:c``; the value may be an ``sdb://`` URI) that encrypts the key.
        Default: not encrypted. Postfix cannot use an encrypted key; this is for a CA.

    Returns ``{"path", "key", "tlsa"}``: the kind of the key, and its TLSA 3 1 1 data.

    Raises ``CommandExecutionError`` when the file exists or cannot be written, ``SaltInvocationError`` for a
    type or size that is not known.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_cert.create_key /etc/ssl/private/smtpd.key key_type=ec key_size=384
    """
    kind, size = _key_parameters(key_type, key_size)
    passphrase = _passphrase(passphrase_pillar)
    _refuse_existing(path)
    private = _generate(kind, size)
    _create_file(path, _key_pem(private, passphrase), 0o600)
    public = private.public_key()
    return {"path": path, "key": _key_text(public), "tlsa": _tlsa(public)}


def create_ca(
    path,
    key,
    subject=None,
    common_name=None,
    key_type="rsa",
    key_size=None,
    days=CA_DAYS,
    passphrase_pillar=None,
):
    """
    Create a certificate authority: a private key and a self-signed certificate.

    path
        Absolute path of the certificate (0644); must not exist yet.

    key
        Absolute path of the private key (0600); must not exist yet.

    subject
        Further fields of its name: country (or ``C``), state (``ST``), locality (``L``), organization
        (``O``), unit (``OU``), email. Default: none.

    common_name
        Its name. Default: ``CA of`` and the minion's FQDN.

    key_type, key_size, passphrase_pillar
        As for :func:`create_key`.

    days
        Validity in days, default 3650.

    Returns what :func:`inspect` returns. Raises as :func:`create_key` does.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_cert.create_ca /etc/ssl/certs/cacert.pem /etc/ssl/private/cakey.pem days=3650
    """
    parameters = _key_parameters(key_type, key_size)
    _days(days, None)
    passphrase = _passphrase(passphrase_pillar)
    name = _name(_ca_subject(subject, common_name))
    _refuse_existing(path, key)
    private = _generate(*parameters)
    certificate = _build_ca(private, name, days, _now())
    _create_file(key, _key_pem(private, passphrase), 0o600)
    _create_file(path, _pem(certificate), 0o644)
    return inspect(path)


def create(
    path,
    key,
    hostname,
    ca_certificate=None,
    ca_key=None,
    passphrase_pillar=None,
    subject=None,
    names=None,
    days=SERVER_DAYS,
):
    """
    Create the certificate for a private key that exists, signed by the CA.

    path
        Absolute path of the certificate (0644); must not exist yet.

    key
        Absolute path of the private key.

    hostname
        The server's FQDN: common name and first subject alternative name.

    ca_certificate, ca_key
        Absolute paths of the CA's certificate and key. Default: the certificate signs itself.

    passphrase_pillar
        Pillar path of the CA key's passphrase (the value may be an ``sdb://`` URI). Default: none.

    subject
        Further subject fields, as for :func:`create_ca`.

    names
        Further host names or IP addresses, a list.

    days
        Validity in days, default 825. It ends with the CA at the latest.

    Returns what :func:`inspect` returns.

    Raises ``CommandExecutionError`` when the file exists, or a key or the CA cannot be used;
    ``SaltInvocationError`` for a bad argument.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_cert.create /etc/ssl/certs/smtpd.crt /etc/ssl/private/smtpd.key mail.example.com \\
            ca_certificate=/etc/ssl/certs/cacert.pem ca_key=/etc/ssl/private/cakey.pem
    """
    wanted = _names(hostname, names)
    fields = _server_subject(subject, wanted[0])
    _days(days, None)
    _refuse_existing(path)
    file = _read(key)
    if file is None:
        raise CommandExecutionError(f"The key {key} is not there: create it first with mta_cert.create_key")
    private = _use_key(key, file, thorough=True)
    now = _now()
    signer, issuer = private, None
    if ca_certificate:
        signer, issuer = _signer(ca_certificate, ca_key, _passphrase(passphrase_pillar), now)
    certificate = _build_server(private.public_key(), fields, wanted, days, now, signer, issuer)
    problems = _serve([certificate], private, [issuer or certificate], now)
    if problems:
        raise CommandExecutionError(f"{path} was not created: {'; '.join(problems)}")
    _create_file(path, _pem(certificate), 0o644)
    return inspect(path)


def sign(
    request,
    hostname,
    ca_certificate,
    ca_key,
    passphrase_pillar=None,
    subject=None,
    names=None,
    days=SERVER_DAYS,
):
    """
    Sign a certificate request by the CA, for the names that *this call* states.

    Of the request only the public key is used: names and subject in it are the applicant's wishes, and
    whoever calls decides.

    request
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
    lib = _library()
    wanted = _names(hostname, names)
    fields = _server_subject(subject, wanted[0])
    _days(days, None)
    if "-----BEGIN" in request:
        data = request.encode()
    else:
        file = _read(request)
        if file is None:
            raise CommandExecutionError(f"The request {request} is not there")
        data = file.data
    try:
        parsed = lib.x509.load_pem_x509_csr(data)
        public, genuine = parsed.public_key(), parsed.is_signature_valid
    except lib.errors as err:
        raise CommandExecutionError(f"The request is not a PEM certificate request: {err}") from err
    if not genuine:
        raise CommandExecutionError("The request is not signed by its own key")
    weakness = _key_weakness(public)
    if weakness:
        raise CommandExecutionError(f"The request is refused: {weakness}")
    now = _now()
    signer, issuer = _signer(ca_certificate, ca_key, _passphrase(passphrase_pillar), now)
    certificate = _build_server(public, fields, wanted, days, now, signer, issuer)
    problems = _serve([certificate], None, [issuer], now)
    if problems:
        raise CommandExecutionError(f"The request was not signed: {'; '.join(problems)}")
    return _pem(certificate).decode()


def _tlsa(public):
    """TLSA data of usage 3 (DANE-EE), selector 1 (public key), matching 1 (SHA-256): RFC 7671, 5.1."""
    return f"3 1 1 {hashlib.sha256(_spki(public)).hexdigest()}"


def inspect(path, renew_days=None):
    """
    Tell what a certificate is, and what will happen to it and when.

    path
        Absolute path of a PEM file; its first certificate is described.

    renew_days
        How many days before its end it is renewed. Default: a third of its lifetime, 30 at most.

    Returns ``None`` when nothing is there, else a dictionary:

    - ``subject``, ``issuer`` (RFC 4514 text), ``names`` (list), ``serial`` (hexadecimal), ``ca``,
      ``self_signed``
    - ``key`` (such as ``RSA 3072``), ``signature`` (hash)
    - ``not_before``, ``not_after`` (UTC), ``days_left`` (whole days, negative when expired)
    - ``sha256``, ``sha1``: fingerprints; ``tlsa``: data of the TLSA record for DANE, ``_25._tcp.HOST. IN TLSA
      …``
    - ``chain``: subjects of the further certificates in the file
    - ``next_action``: in words

    Raises ``CommandExecutionError`` when the file is no PEM certificate.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_cert.inspect /etc/ssl/certs/smtpd.crt
    """
    lib = _library()
    file = _read(path)
    if file is None:
        return None
    now = _now()
    try:
        chain = _load_certificates(file.data)
        leaf = chain[0]
        algorithm = leaf.signature_hash_algorithm
        return {
            **_summary(leaf),
            "ca": _is_ca(leaf),
            "self_signed": _issued_by(leaf, leaf.subject, leaf.public_key()),
            "signature": algorithm.name if algorithm else "Ed25519",
            "not_before": _date(_utc(leaf, "before")),
            "days_left": (_utc(leaf, "after") - now).days,
            "sha256": leaf.fingerprint(lib.hashes.SHA256()).hex(":").upper(),
            "sha1": leaf.fingerprint(lib.hashes.SHA1()).hex(":").upper(),
            "tlsa": _tlsa(leaf.public_key()),
            "chain": [_subject_text(certificate) for certificate in chain[1:]],
            "next_action": _next_action(leaf, renew_days, now),
        }
    except lib.errors as err:
        raise CommandExecutionError(f"{path} is not a PEM certificate: {err}") from err


def _next_action(certificate, renew_days, now):
    window = _window(certificate, renew_days)
    if now < _utc(certificate, "before"):
        return "none: it is not valid yet; look at the clock"
    if now > _utc(certificate, "after"):
        return "renewed at the next apply: it has expired"
    if now >= window:
        return f"renewed at the next apply: its renewal began at {_date(window)}"
    return f"renewed at the first apply after {_date(window)}"


def verify(certificate, key=None, ca_certificate=None, hostname=None):
    """
    Check a certificate as its users will: dates, key, signature, names, chain, loading it as a server does.

    certificate
        Absolute path of the PEM file: the server's certificate, then those that lead to the authority, in
        order.

    key
        Absolute path of the private key that must belong to it. Default: not checked.

    ca_certificate
        Absolute path of the authorities that are trusted. Default: the certificate has to sign itself.

    hostname
        Name, or list of names, that it must be for. Default: not checked.

    Returns a list of problems in words; empty when all is well. Raises ``CommandExecutionError`` when a
    Python library is missing or a file cannot be read.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_cert.verify /etc/ssl/certs/smtpd.crt key=/etc/ssl/private/smtpd.key \\
            ca_certificate=/etc/ssl/certs/cacert.pem hostname=mail.example.com
    """
    lib = _library()
    now = _now()
    hosts = [hostname] if isinstance(hostname, str) else list(hostname or [])
    names = _names(hosts[0], hosts[1:]) if hosts else []
    loaded = {}
    for path in filter(None, (certificate, ca_certificate)):
        file = _read(path)
        if file is None:
            return [f"{path} is not there"]
        try:
            loaded[path] = _load_certificates(file.data)
        except lib.errors as err:
            return [f"{path} is not a PEM certificate: {err}"]
    private = None
    problems = []
    if key:
        file = _read(key)
        if file is None:
            return [f"{key} is not there"]
        try:
            private = _use_key(key, file, thorough=True)
        except CommandExecutionError as err:
            return [str(err)]
        if not _key_is_protected(file, shareable=True):
            problems.append(f"{key} can be read by others (mode {file.mode:04o})")
    chain = loaded[certificate]
    anchors = loaded[ca_certificate] if ca_certificate else None
    pairs = [(anchor.subject, anchor.public_key()) for anchor in anchors] if anchors else None
    problems += _problems(chain, pairs, names, now, public=private.public_key() if private else None)
    if now < _utc(chain[0], "before"):
        problems.append(f"it is not valid before {_date(_utc(chain[0], 'before'))}: look at the clock")
    return problems + _serve(chain, private, anchors or [chain[0]], now)


# -- the authority, planned and applied --------------------------------------------------------


def _use_key(path, file, passphrase=None, thorough=False):
    """Load a private key that has to be usable; raises ``CommandExecutionError`` in words."""
    lib = _library()
    if _encrypted(file.data) and passphrase is None:
        raise CommandExecutionError(f"The key {path} is encrypted, and no passphrase is given")
    try:
        private = _load_key(file.data, passphrase, thorough)
    except lib.errors as err:
        if _encrypted(file.data):
            raise CommandExecutionError(f"The passphrase does not unlock the key {path}") from err
        raise CommandExecutionError(f"{path} is not a PEM private key: {err}") from err
    weakness = _key_weakness(private.public_key())
    if weakness:
        raise CommandExecutionError(f"{path}: {weakness}. Move it away to get a new one")
    return private


def _ca_subject(subject, common_name):
    name = common_name or f"CA of {__grains__.get('fqdn') or __opts__['id']}"
    return _subject_fields({"CN": name[:COMMON_NAME_LIMIT], **(subject or {})})


def _signer(certificate_path, key_path, passphrase, now):
    """Load the authority to sign with; returns its private key and its certificate."""
    lib = _library()
    if not key_path:
        raise SaltInvocationError(f"ca_key is needed to sign by {certificate_path}")
    certificate_file, key_file = _read(certificate_path), _read(key_path)
    for path, file in ((certificate_path, certificate_file), (key_path, key_file)):
        if file is None:
            raise CommandExecutionError(
                f"The authority's {path} is not there; mta_cert.ca_managed creates a new one"
            )
    try:
        candidates = _load_certificates(certificate_file.data)
    except lib.errors as err:
        raise CommandExecutionError(f"{certificate_path} is not a PEM certificate: {err}") from err
    private = _use_key(key_path, key_file, passphrase)
    for candidate in candidates:
        if _spki(candidate.public_key()) == _spki(private.public_key()):
            break
    else:
        raise CommandExecutionError(f"The key {key_path} does not belong to {certificate_path}")
    if not _is_ca(candidate):
        raise CommandExecutionError(f"{certificate_path} is not an authority's certificate")
    if now > _utc(candidate, "after"):
        raise CommandExecutionError(f"{certificate_path} expired at {_date(_utc(candidate, 'after'))}")
    return private, candidate


def _planned_authorities():
    """CAs that this run would create or renew; a certificate is checked against them in test mode."""
    return __context__.setdefault("mta_cert.planned", {})


def _survey_ca(now, *, name, key, subject, common_name, key_type, key_size, days, renew_days, passphrase_pillar):
    """Look at the CA; return what is there and what has to be done. Raise for a CA that cannot be used."""
    lib = _library()
    parameters = _key_parameters(key_type, key_size)
    _days(days, renew_days)
    fields = _ca_subject(subject, common_name)
    if name == key:
        raise SaltInvocationError(f"The certificate and the key need a file each: {name}")
    passphrase = _passphrase(passphrase_pillar)
    found = types.SimpleNamespace(
        parameters=parameters,
        passphrase=passphrase,
        certificate=None,
        private=None,
        key_data=None,
        path_length=0,
    )
    found.name = _name(fields)
    found.changes, found.notes = {}, []
    found.write_key = found.issue = False
    certificate_file, key_file = _read(name), _read(key)
    if certificate_file is not None:
        try:
            certificates = _load_certificates(certificate_file.data)
        except lib.errors as err:
            raise CommandExecutionError(f"{name} is not a PEM certificate, and is not overwritten: {err}") from err
        found.certificate = certificates[0]
        if key_file is None:
            raise CommandExecutionError(
                f"The authority {name} ({_subject_text(found.certificate)}) is there without its key {key}. "
                "Put the key back, or remove the certificate to get a new authority"
            )
    if key_file is None:
        found.write_key = True
        found.changes[key] = {"old": None, "new": _key_change(_parameters_text(*parameters), passphrase)}
    else:
        found.private = _use_key(key, key_file, passphrase)
        encrypted = _encrypted(key_file.data)
        lock = bool(passphrase) and not encrypted
        if lock or not _key_is_protected(key_file, shareable=False):
            found.write_key = True
            found.key_data = None if lock else key_file.data
            text = _key_text(found.private.public_key())
            old = {**_key_change(text, encrypted), "mode": f"{key_file.mode:04o}", "uid": key_file.uid}
            found.changes[key] = {"old": old, "new": {**_key_change(text, encrypted or lock), "uid": 0}}
    reason = None
    if found.certificate is None:
        found.issue = True
    else:
        reason = _ca_renewal(name, key, certificates, found, renew_days, now)
        if found.certificate.subject != found.name:
            found.notes.append(
                f"The authority keeps its name {_subject_text(found.certificate)}: with another name, "
                "the certificates that it has signed would not verify"
            )
            found.name = found.certificate.subject
    if reason:
        found.issue = True
        found.notes.append(f"Renewed with the same key: {reason}")
    if found.issue:
        text = _key_text(found.private.public_key()) if found.private else _parameters_text(*parameters)
        new = {"subject": found.name.rfc4514_string(), "issuer": found.name.rfc4514_string(), "key": text}
        old = _old(certificate_file, found.certificate)
        found.changes[name] = {"old": old, "new": {**new, "days": days}}
    return found


def _key_change(text, encrypted):
    return {"key": text, "encrypted": bool(encrypted), "mode": "0600"}


def _ca_renewal(name, key, certificates, found, renew_days, now):
    """Why the CA's certificate has to be renewed, ``None`` when not; raises when it cannot be used at all."""
    lib = _library()
    certificate = found.certificate
    try:
        public = certificate.public_key()
        if _spki(public) != _spki(found.private.public_key()):
            raise CommandExecutionError(f"The key {key} does not belong to the authority {name}")
        if not _is_ca(certificate):
            raise CommandExecutionError(
                f"{name} ({_subject_text(certificate)}) is no authority's certificate, and is not overwritten"
            )
        if now < _utc(certificate, "before"):
            raise CommandExecutionError(_too_early(name, certificate, now))
        window = _window(certificate, renew_days)
        if now >= window:
            reason = f"it ends at {_date(_utc(certificate, 'after'))}, and its renewal began at {_date(window)}"
        elif not _is_strict_ca(certificate):
            reason = "strict clients refuse it: its extensions are not those that RFC 5280, 4.2.1, asks for"
        else:
            return None
        if len(certificates) > 1 or not _issued_by(certificate, certificate.subject, public):
            raise CommandExecutionError(
                f"{name} cannot be renewed here, as it has more than one certificate, or another authority "
                f"signed it. It should be: {reason}"
            )
        found.path_length = _extension(certificate, lib.x509.BasicConstraints).path_length
    except lib.errors as err:
        raise CommandExecutionError(f"{name} cannot be understood, and is not overwritten: {err}") from err
    return reason


def _too_early(path, certificate, now):
    return (
        f"{path} is valid from {_date(_utc(certificate, 'before'))} on, but the clock says {_date(now)}. "
        "Set the clock, or remove the file"
    )


def ca_plan(
    name,
    key,
    subject=None,
    common_name=None,
    key_type="rsa",
    key_size=None,
    days=CA_DAYS,
    renew_days=RENEW_DAYS,
    passphrase_pillar=None,
):
    """
    Tell what :func:`ca_apply` would change; reads only.

    name
        Absolute path of the CA's certificate.

    renew_days
        How many days before its end the certificate is renewed, with the same key and name. Default 30;
        ``None``: a third of its lifetime, 30 at most.

    key, subject, common_name, key_type, key_size, days, passphrase_pillar
        As for :func:`create_ca`. A passphrase in pillar encrypts a key that is not encrypted yet.

    Returns ``{"changes", "activate", "comment", "errors"}``. ``errors`` tells why an existing CA cannot be
    used. Raises ``SaltInvocationError`` for a bad argument.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_cert.ca_plan /etc/ssl/certs/cacert.pem /etc/ssl/private/cakey.pem
    """
    args = dict(locals())
    planned = _planned_authorities()
    planned.pop(name, None)
    now = _now()
    try:
        found = _survey_ca(now, **args)
    except CommandExecutionError as err:
        return _failed(err)
    if found.issue:
        public = found.private.public_key() if found.private else None
        planned[name] = {"name": found.name, "public": public, "not_after": now + days * DAY}
    return _plan(found)


def _failed(err):
    return {"changes": {}, "activate": {}, "comment": "", "errors": [str(err)]}


def _plan(found):
    return {
        "changes": found.changes,
        "activate": RELOAD if found.changes else {},
        "comment": "\n".join(found.notes),
        "errors": [],
    }


def ca_apply(
    name,
    key,
    subject=None,
    common_name=None,
    key_type="rsa",
    key_size=None,
    days=CA_DAYS,
    renew_days=RENEW_DAYS,
    passphrase_pillar=None,
):
    """
    Create or renew the CA, and correct what others could read, as part of the transaction.

    Parameters as for :func:`ca_plan`. Raises ``CommandExecutionError`` for an existing CA that cannot be
    used, or a file that cannot be written.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_cert.ca_apply /etc/ssl/certs/cacert.pem /etc/ssl/private/cakey.pem
    """
    args = dict(locals())
    now = _now()
    found = _survey_ca(now, **args)
    private = found.private or _generate(*found.parameters)
    if found.write_key:
        _write(key, found.key_data or _key_pem(private, found.passphrase), private=True)
    if found.issue:
        certificate = _build_ca(private, found.name, days, now, found.path_length)
        problems = _serve([certificate], None, [certificate], now)
        if problems:
            raise CommandExecutionError(f"The new {name} is not good: {'; '.join(problems)}")
        _write(name, _pem(certificate))
    _planned_authorities().pop(name, None)


# -- the server's pair, planned and applied ----------------------------------------------------


def _survey_key(key, file, found):
    """Judge the key that is there: set ``found.private``, or say in ``found.reasons`` why it is not good."""
    lib = _library()
    if file is None:
        return
    found.key_data = file.data
    if _encrypted(file.data):
        raise CommandExecutionError(
            f"The key {key} is encrypted, and Postfix cannot ask for a passphrase. "
            "Decrypt it (openssl pkey), or remove it to get a new key and certificate"
        )
    try:
        private = _load_key(file.data)
        weakness = _key_weakness(private.public_key())
    except lib.errors:
        found.reasons.append("the key file is not a PEM private key")
        return
    if weakness:
        found.reasons.append(weakness)
    else:
        found.private = private


def _survey_certificate(name, file, found, anchors, names, fields, renew_days, ca_end, now):
    """Judge the certificate that is there: say in ``found.reasons`` why a new one is needed."""
    lib = _library()
    if file is None:
        return
    try:
        chain = _load_certificates(file.data)
        found.certificate = chain[0]
        early = now < _utc(chain[0], "before")
        window = _window(chain[0], renew_days)
    except lib.errors:
        found.certificate = None
        found.reasons.append("the certificate file is not a PEM certificate")
        return
    if early:
        raise CommandExecutionError(_too_early(name, chain[0], now))
    if ca_end is not None and ca_end - _utc(chain[0], "after") < DAY:
        # It lasts as long as its authority does: renewing it would gain nothing until that is renewed.
        window = None
    public = found.private.public_key() if found.private else None
    found.reasons += _problems(chain, anchors, names, now, window, public, fields)


def _authority(path):
    """
    Tell what this run leaves at ``path``: ``([(name, public key)], end, name if only planned)``.

    One that will be created has no key yet: nothing can be signed by it so far.
    """
    lib = _library()
    planned = _planned_authorities().get(path)
    if planned:
        anchors = [(planned["name"], planned["public"])] if planned["public"] else []
        return anchors, planned["not_after"], planned["name"]
    file = _read(path)
    if file is None:
        raise CommandExecutionError(f"The authority {path} is not there; mta_cert.ca_managed creates a new one")
    try:
        certificates = _load_certificates(file.data)
        anchors = [(certificate.subject, certificate.public_key()) for certificate in certificates]
    except lib.errors as err:
        raise CommandExecutionError(f"The authority {path} is not a PEM certificate: {err}") from err
    return anchors, max(_utc(certificate, "after") for certificate in certificates), None


def _survey(
    now,
    *,
    name,
    key,
    hostname,
    ca_certificate,
    ca_key,
    passphrase_pillar,
    subject,
    names,
    key_type,
    key_size,
    days,
    renew_days,
    rotate_key,
):
    """Look at the pair; return what is there and what has to be done. Raise where a person has to decide."""
    lib = _library()
    parameters = _key_parameters(key_type, key_size)
    _days(days, renew_days)
    wanted = _names(hostname, names)
    if name == key:
        raise SaltInvocationError(f"The certificate and the key need a file each: {name}")
    found = types.SimpleNamespace(
        parameters=parameters,
        names=wanted,
        private=None,
        key_data=None,
        certificate=None,
        signer=None,
        issuer=None,
    )
    found.fields = _server_subject(subject, wanted[0])
    found.changes, found.notes, found.reasons = {}, [], []
    certificate_file, key_file = _read(name), _read(key)
    anchors = ca_end = planned = None
    if ca_certificate:
        anchors, ca_end, planned = _authority(ca_certificate)
    _survey_key(key, key_file, found)
    _survey_certificate(
        name, certificate_file, found, anchors, wanted, _subject_fields(subject), renew_days, ca_end, now
    )
    found.issue = bool(found.reasons) or found.private is None or certificate_file is None
    if found.issue and found.private:
        if rotate_key and certificate_file is not None:
            found.private = None
        else:
            try:
                _load_key(key_file.data, thorough=True)
            except lib.errors:
                found.reasons.append("the private key is damaged")
                found.private = None
    found.new_key = found.private is None
    if key_file is None and certificate_file is not None:
        found.reasons.append("the key is missing")
    unprotected = key_file is not None and not _key_is_protected(key_file, shareable=True)
    found.protect = unprotected and not found.new_key
    kind = _parameters_text(*parameters) if found.new_key else _key_text(found.private.public_key())
    if found.new_key or found.protect:
        old = None if key_file is None else {"mode": f"{key_file.mode:04o}", "uid": key_file.uid}
        found.changes[key] = {"old": old, "new": {"key": kind, "mode": "0600", "uid": 0}}
    if not found.issue:
        if kind != _parameters_text(*parameters):
            found.notes.append(
                f"The key stays {kind}, which is good: another ({_parameters_text(*parameters)}) would break "
                f"records that pin it. Remove {key} to get one"
            )
        return found
    issuer = _name(found.fields)
    if planned:
        issuer = planned
    elif ca_certificate:
        found.signer, found.issuer = _signer(ca_certificate, ca_key, _passphrase(passphrase_pillar), now)
        issuer = found.issuer.subject
    if ca_certificate and issuer == _name(found.fields):
        raise SaltInvocationError(
            f"The server and its authority must not have the same name: {issuer.rfc4514_string()}"
        )
    found.changes[name] = {
        "old": _old(certificate_file, found.certificate),
        "new": {
            "subject": _name(found.fields).rfc4514_string(),
            "names": wanted,
            "issuer": issuer.rfc4514_string(),
            "key": kind,
            "days": days,
        },
    }
    if found.reasons:
        found.notes.append("Reason: " + "; ".join(found.reasons))
    return found


def plan(
    name,
    key,
    hostname,
    ca_certificate=None,
    ca_key=None,
    passphrase_pillar=None,
    subject=None,
    names=None,
    key_type="rsa",
    key_size=None,
    days=SERVER_DAYS,
    renew_days=RENEW_DAYS,
    rotate_key=False,
):
    """
    Tell what :func:`apply` would change; reads only.

    What is decided where nothing prescribes it:

    - A good pair is left alone, also where its key is of another type or size than asked for, or the
      certificate has more names: type and size are for new keys. A comment says so.
    - A pair that is bad (it does not match, has expired or will soon, is for other names, is not signed by
      the authority, cannot be parsed) gets a new certificate. A good key is kept, so that pinned keys (TLSA 3
      1 1) stay valid; a missing, unreadable or too weak one is replaced. A key that a passphrase locks is an
      error: Postfix cannot use it, and only its owner can say what it is for.
    - An existing authority is never overwritten. Without its key, with a key of another, with the wrong
      passphrase: an error. Near its end, or when strict clients refuse it (the how-to's own lacks the key
      usage), its certificate is renewed with the same key and name: what it signed before stays valid.
    - A certificate that is not valid *yet* is an error: the clock is wrong, and a new certificate would be
      wrong too.
    - Symbolic links at the target paths are followed when root made them and they lead to a regular file.
    - Keys are 0600 and root's. Debian's group ``ssl-cert`` may read a server key (0640), nobody else.

    name
        Absolute path of the certificate.

    key
        Absolute path of the private key.

    key_type, key_size
        For a key that has to be made; as for :func:`create_key`.

    renew_days
        How many days before its end the certificate is renewed. Default 30; ``None``: a third of its
        lifetime, 30 at most.

    rotate_key
        Make a new key at each renewal. Default ``False``: the key is kept, and records that pin it stay
        valid.

    hostname, ca_certificate, ca_key, passphrase_pillar, subject, names, days
        As for :func:`create`.

    Returns ``{"changes", "activate", "comment", "errors"}``. Raises ``SaltInvocationError`` for a bad
    argument.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_cert.plan /etc/ssl/certs/smtpd.crt /etc/ssl/private/smtpd.key mail.example.com
    """
    args = dict(locals())
    try:
        found = _survey(_now(), **args)
    except CommandExecutionError as err:
        return _failed(err)
    return _plan(found)


def apply(
    name,
    key,
    hostname,
    ca_certificate=None,
    ca_key=None,
    passphrase_pillar=None,
    subject=None,
    names=None,
    key_type="rsa",
    key_size=None,
    days=SERVER_DAYS,
    renew_days=RENEW_DAYS,
    rotate_key=False,
):
    """
    Make the key and the certificate what :func:`plan` says, as part of the transaction.

    The new pair is loaded as a server would load it and its chain is verified before a file is replaced.
    Parameters as for :func:`plan`. Raises ``CommandExecutionError`` when the CA cannot be used, or a file
    cannot be written.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_cert.apply /etc/ssl/certs/smtpd.crt /etc/ssl/private/smtpd.key mail.example.com
    """
    args = dict(locals())
    now = _now()
    found = _survey(now, **args)
    private = found.private or _generate(*found.parameters)
    if found.issue:
        signer = found.signer or private
        certificate = _build_server(
            private.public_key(), found.fields, found.names, days, now, signer, found.issuer
        )
        problems = _serve([certificate], private, [found.issuer or certificate], now)
        if problems:
            raise CommandExecutionError(f"The new {name} is not good: {'; '.join(problems)}")
    if found.new_key or found.protect:
        _write(key, _key_pem(private) if found.new_key else found.key_data, private=True)
    if found.issue:
        _write(name, _pem(certificate))
