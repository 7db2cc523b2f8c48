"""TODO subject (mta_x509)."""

import datetime
import hashlib
import ipaddress
import re
import types

from salt.exceptions import CommandExecutionError, SaltInvocationError

# Clocks differ: a certificate made now is used at once by clients whose clock is a little behind.
BACKDATED = datetime.timedelta(hours=1)
DAY = datetime.timedelta(days=1)
RENEW_DAYS = 30
# In how much of that time the renewals of a fleet begin.
SPREAD = 0.1
# Sizes to create. Today's clients refuse RSA keys below 2048 bits ("EE certificate key too weak"), and those of Go
# above 8192; an exponent is at least 2^16 + 1 (NIST SP 800-56B, 6.2).
RSA_SIZES = (2048, 3072, 4096, 8192)
EC_SIZES = {256: "SECP256R1", 384: "SECP384R1"}
KEY_TYPES = {"rsa": 3072, "ec": 256, "ecdsa": 256, "ed25519": None}
RSA_EXPONENT = 65537
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
# It has no short name in RFC 4514, section 3.
EMAIL_OID = "1.2.840.113549.1.9.1"
COMMON_NAME_LIMIT = 64
DNS_NAME = r"(\*\.)?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
CERTIFICATE_BLOCK = rb"(?s)-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----"
KEY_BLOCK = rb"(?s)-----BEGIN ([A-Z ]*)PRIVATE KEY-----.+?-----END \1PRIVATE KEY-----"


def _library():
    """Import ``cryptography`` where it is needed: loading this module must cost nothing."""
    try:
        from cryptography import __version__, x509
        from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
    except ImportError as err:
        raise CommandExecutionError(
            f"The Python library cryptography (38 or later) is missing in Salt's environment: {err}. "
            "Install it there: salt-pip install cryptography, or the package python3-cryptography"
        ) from err
    return types.SimpleNamespace(
        x509=x509,
        hashes=hashes,
        serialization=serialization,
        ec=ec,
        ed25519=ed25519,
        rsa=rsa,
        padding=padding,
        # Version 38, which Debian 12 has for its own Python, proves every key.
        unproven={"unsafe_skip_rsa_key_validation": True} if int(__version__.split(".")[0]) >= 39 else {},
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


def key_parameters(key_type="rsa", key_size=None):
    """
    Check the kind of a key to make.

    key_type
        ``rsa`` (default), ``ec`` (or ``ecdsa``) or ``ed25519``.

    key_size
        Bits. rsa: 2048, 3072, 4096, 8192; ec: 256, 384; ed25519: ``None``. Default 3072 for rsa, 256 for ec.

    Returns a tuple: ``rsa``, ``ec`` or ``ed25519``; the size; what that is called, such as ``ECDSA P-256``.

    Raises ``SaltInvocationError`` for a type or size that is not known.
    """
    kind = str(key_type).lower()
    if kind not in KEY_TYPES:
        raise SaltInvocationError(f"key_type must be rsa, ec or ed25519, not {key_type!r}")
    size = KEY_TYPES[kind] if key_size is None else key_size
    kind = "ec" if kind == "ecdsa" else kind
    sizes = {"rsa": RSA_SIZES, "ec": tuple(EC_SIZES), "ed25519": (None,)}[kind]
    if size not in sizes:
        allowed = " or ".join("null" if value is None else str(value) for value in sizes)
        raise SaltInvocationError(f"key_size for {kind} must be {allowed}, not {key_size!r}")
    return kind, size, {"rsa": f"RSA {size}", "ec": f"ECDSA P-{size}", "ed25519": "Ed25519"}[kind]


def check_days(days, renew_days=None):
    """
    Check how long a certificate is to be valid, and when it is to be renewed.

    days
        Validity in days.

    renew_days
        Days before its end at which it is renewed. Default ``None``: see :func:`describe`.

    Raises ``SaltInvocationError`` for what is no number of days, or would be renewed at every run.
    """
    for name, value in (("days", days), ("renew_days", renew_days)):
        optional = name == "renew_days" and value is None
        if not optional and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise SaltInvocationError(f"{name} must be a whole number of days, 1 or more, not {value!r}")
    if renew_days is not None and renew_days >= days:
        raise SaltInvocationError(
            f"renew_days ({renew_days}) must be less than days ({days}): else every apply would renew"
        )


def check_subject(fields=None, common_name=None):
    """
    Check and normalise a subject.

    fields
        Mapping of country (or ``C``), state (``ST``), locality (``L``), organization (``O``), unit (``OU``),
        common_name (``CN``), email to text; ``None`` leaves a field out. Default: none.

    common_name
        The common name when ``fields`` has none. Left out when it is longer than the 64 characters of RFC 5280,
        appendix A.1: a host name is then in the alternative names only.

    Returns ``{attribute of cryptography's NameOID: text}`` in the order of the name.

    Raises ``SaltInvocationError`` for an unknown field, or a text that cannot be in it.
    """
    known = {alias.lower(): name for name, _, aliases in SUBJECT_FIELDS for alias in aliases}
    values = {}
    if common_name is not None and len(common_name) <= COMMON_NAME_LIMIT:
        values["COMMON_NAME"] = common_name
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


def check_names(names):
    """
    Check and normalise the names that a certificate is for: lower case, each once.

    names
        List of host names, ``*.`` in front allowed, and IP addresses.

    Returns a list. Raises ``SaltInvocationError`` for what is neither.
    """
    normal = []
    for name in names:
        text = str(name).rstrip(".").lower()
        try:
            text = str(ipaddress.ip_address(text))
        except ValueError:
            if len(text) > 253 or not re.fullmatch(DNS_NAME, text):
                raise SaltInvocationError(
                    f"{name!r} is no host name or IP address (international names in their xn-- form)"
                ) from None
        if text not in normal:
            normal.append(text)
    return normal


def subject_text(fields):
    """
    Return a subject as text (RFC 4514, 2.1 and 2.4).

    A dry run tells it before ``cryptography`` is installed, so nothing is imported for it.

    fields
        As :func:`check_subject` returns them.
    """
    short = {name: EMAIL_OID if name == "EMAIL_ADDRESS" else aliases[0] for name, _, aliases in SUBJECT_FIELDS}
    parts = [short[name] + "=" + re.sub(r'^#|[\\"+,;<>]', r"\\\g<0>", value) for name, value in fields.items()]
    return ",".join(reversed(parts))


def encode_subject(fields):
    """
    Return a subject's DER encoding.

    fields
        As :func:`check_subject` returns them.
    """
    return _name(fields).public_bytes()


def _name(fields):
    x509 = _library().x509
    return x509.Name([x509.NameAttribute(getattr(x509.NameOID, name), text) for name, text in fields.items()])


def pick(pem, kind):
    """
    Return what matters of a PEM file: all of its certificates, or its first private key, and nothing else.

    So a file that holds a key too never becomes a certificate file that everybody may read.

    pem
        Bytes.

    kind
        ``certificates`` or ``key``.

    Returns bytes that end with a line break; empty when there is none.
    """
    pem = pem.encode() if isinstance(pem, str) else pem
    if kind == "key":
        found = re.search(KEY_BLOCK, pem)
        blocks = [found[0]] if found else []
    else:
        blocks = re.findall(CERTIFICATE_BLOCK, pem)
    return b"".join(block.replace(b"\r\n", b"\n") + b"\n" for block in blocks)


def is_locked(pem):
    """
    Tell whether a passphrase locks a PEM private key (PKCS 8, RFC 7468; or OpenSSL's traditional form).

    pem
        Bytes.
    """
    pem = pem.encode() if isinstance(pem, str) else pem
    return b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in pem or b"Proc-Type: 4,ENCRYPTED" in pem


def make_key(kind, size, passphrase=None):
    """
    Make a private key: PKCS 8 in PEM, as bytes.

    kind, size
        As :func:`key_parameters` returns them.

    passphrase
        Bytes that lock it. Default: not locked.
    """
    lib = _library()
    if kind == "rsa":
        private = lib.rsa.generate_private_key(65537, size)
    elif kind == "ec":
        private = lib.ec.generate_private_key(getattr(lib.ec, EC_SIZES[size])())
    else:
        private = lib.ed25519.Ed25519PrivateKey.generate()
    return _key_pem(private, passphrase)


def lock_key(pem, passphrase, previous=None):
    """
    Return a private key locked by another passphrase.

    pem
        Bytes of the key, locked or not.

    passphrase
        Bytes of the passphrase to come.

    previous
        Bytes of the passphrase that locks it now. Default: none does.

    Raises ``CommandExecutionError`` as :func:`describe_key` does.
    """
    return _key_pem(_load_key(pem, previous), passphrase)


def _key_pem(private, passphrase=None):
    serialization = _library().serialization
    return private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption(),
    )


def _load_key(pem, passphrase=None, thorough=False):
    """
    Load a PEM private key; raises ``CommandExecutionError`` in words that follow the name of the file.

    Proving that an RSA key's primes are prime takes 90 ms, and only a use of the key needs it (``thorough``).
    """
    lib = _library()
    locked = is_locked(pem)
    if locked and passphrase is None:
        raise CommandExecutionError("is encrypted, and no passphrase is given")
    try:
        unproven = {} if thorough else lib.unproven
        return lib.serialization.load_pem_private_key(pem, passphrase if locked else None, **unproven)
    except lib.errors as err:
        if locked:
            raise CommandExecutionError("is not unlocked by the passphrase") from err
        raise CommandExecutionError(f"is not a PEM private key: {err}") from err


def describe_key(pem, passphrase=None, thorough=False):
    """
    Tell what a private key is.

    pem
        Bytes.

    passphrase
        Bytes that unlock it. Default: none.

    thorough
        Also prove that it is sound, which takes 90 ms for RSA. Default ``False``.

    Returns ``{"key": "RSA 3072", "weakness": why clients refuse it or None, "tlsa": data of the TLSA record 3 1 1,
    "public": DER of its public half}``.

    Raises ``CommandExecutionError`` when it cannot be loaded, in words that follow a file's name: ``is not a PEM
    private key``, ``is encrypted, and …``.
    """
    public = _load_key(pem, passphrase, thorough).public_key()
    return {
        "key": _key_text(public),
        "weakness": _key_weakness(public),
        "tlsa": _tlsa(public),
        "public": _spki(public),
    }


def _tlsa(public):
    """TLSA data of usage 3 (DANE-EE), selector 1 (public key), matching 1 (SHA-256): RFC 7671, 5.1."""
    return f"3 1 1 {hashlib.sha256(_spki(public)).hexdigest()}"


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


def _key_weakness(public):
    """Why clients would refuse the key; ``None`` when they take it."""
    lib = _library()
    if isinstance(public, lib.rsa.RSAPublicKey):
        least, most = RSA_SIZES[0], RSA_SIZES[-1]
        if public.key_size < least:
            return f"the key is too weak for clients ({_key_text(public)}; {least} is the least)"
        if public.key_size > most:
            return f"the key is too long for clients ({_key_text(public)}; {most} is the most)"
        if public.public_numbers().e < RSA_EXPONENT:
            return f"the RSA key's exponent {public.public_numbers().e} is too small"
    elif isinstance(public, lib.ec.EllipticCurvePublicKey):
        if public.curve.name not in EC_CURVES:
            return f"clients do not take the key's curve ({public.curve.name})"
    elif not isinstance(public, lib.ed25519.Ed25519PublicKey):
        return f"clients do not take the key's type ({_key_text(public)})"
    return None


def describe(pem, renew_days=None):
    """
    Tell what the certificates of a PEM file are, in their order.

    pem
        Bytes.

    renew_days
        How many days before its end a certificate's renewal begins. Default: a third of its lifetime, 30 at most.
        It begins at a moment of the first tenth of these days that depends on nothing but the certificate: those
        that were made together are not renewed together.

    Returns a list of dictionaries: ``subject``, ``issuer`` (RFC 4514 text), ``names``, ``key`` (such as ``RSA
    3072``), ``serial`` (hexadecimal), ``not_before``, ``renewal``, ``not_after`` (``datetime``, UTC),
    ``signature`` (hash), ``self_signed``, ``ca``, ``strict_ca`` (whether strict clients take it as an
    authority), ``weakness`` (why clients refuse its key, or ``None``), ``sha256``, ``sha1`` (fingerprints),
    ``tlsa`` (data of the TLSA record 3 1 1), ``name``, ``public`` (DER of subject and public key), ``pem``.

    Raises ``CommandExecutionError`` when it is no PEM certificate, in words that follow a file's name.
    """
    lib = _library()
    try:
        return [_facts(certificate, renew_days) for certificate in _load(pem)]
    except lib.errors as err:
        raise CommandExecutionError(f"is not a PEM certificate: {err}") from err


def _facts(certificate, renew_days):
    lib = _library()
    public, algorithm = certificate.public_key(), certificate.signature_hash_algorithm
    begin, end = _utc(certificate, "before"), _utc(certificate, "after")
    early = min((end - begin) / 3, RENEW_DAYS * DAY) if renew_days is None else renew_days * DAY
    sha256 = certificate.fingerprint(lib.hashes.SHA256())
    late = early * SPREAD * (int.from_bytes(sha256[:4], "big") / 2**32)
    return {
        "subject": certificate.subject.rfc4514_string(),
        "names": _certificate_names(certificate),
        "issuer": certificate.issuer.rfc4514_string(),
        "key": _key_text(public),
        "serial": f"{certificate.serial_number:X}",
        "not_before": begin,
        "renewal": end - early + late,
        "not_after": end,
        "signature": algorithm.name if algorithm else "Ed25519",
        "self_signed": _issued_by(certificate, certificate.subject.public_bytes(), public),
        "ca": _is_ca(certificate),
        "strict_ca": _is_strict_ca(certificate),
        "weakness": _key_weakness(public),
        "sha256": sha256.hex(":").upper(),
        "sha1": certificate.fingerprint(lib.hashes.SHA1()).hex(":").upper(),
        "tlsa": _tlsa(public),
        "name": certificate.subject.public_bytes(),
        "public": _spki(public),
        "pem": _pem(certificate),
    }


def _load(pem):
    """Parse all certificates of a PEM file; raises one of ``_library().errors``."""
    blocks = [match[0] for match in re.finditer(CERTIFICATE_BLOCK, pem.encode() if isinstance(pem, str) else pem)]
    if not blocks:
        raise ValueError("it holds no certificate")
    return [_library().x509.load_pem_x509_certificate(block) for block in blocks]


def _utc(certificate, which):
    """A date of a certificate as an aware datetime; cryptography before 42 has only naive ones."""
    moment = getattr(certificate, f"not_valid_{which}_utc", None)
    if moment is None:
        moment = getattr(certificate, f"not_valid_{which}").replace(tzinfo=datetime.timezone.utc)
    return moment


def _date(moment):
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


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

    RFC 5280, 4.2.1.9, 4.2.1.3 and 4.2.1.2: basic constraints are critical, key usage and subject key identifier
    are there. The how-to's ``openssl req -x509 -extensions v3_ca`` leaves the key usage out.
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
    if certificate.issuer.public_bytes() != name:
        return False
    signed, data = certificate.signature, certificate.tbs_certificate_bytes
    try:
        if isinstance(public, lib.rsa.RSAPublicKey):
            # This may be RSASSA-PSS, so the padding comes from the certificate; cryptography before 41 knows only
            # the other one.
            padding = getattr(certificate, "signature_algorithm_parameters", None) or lib.padding.PKCS1v15()
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


def problems(pem, now, anchors=None, names=(), renewal=None, public=None, fields=None):
    """
    Tell what is wrong with a server's certificate and its chain.

    pem
        Bytes: the server's own certificate, then those that lead to the authority, in order.

    now
        ``datetime``, UTC.

    anchors
        The authorities that are trusted: dictionaries with ``name`` and ``public``, as :func:`describe` returns
        them. Default ``None``: the certificate signs itself. ``any``: any authority will do, as long as each
        certificate in the file signed the one before it.

    names
        Names that must be covered. Default: none.

    renewal
        ``datetime`` at which its renewal begins. Default ``None``: at its end.

    public
        DER of the public half of the private key. Default: not compared.

    fields
        Subject fields that must be in it, as :func:`check_subject` returns them. Default: none.

    Returns a list of texts; empty when nothing is wrong. Raises as :func:`describe` does.
    """
    lib = _library()
    found = []
    try:
        chain = _load(pem)
        leaf = chain[0]
        own, begin, end = leaf.public_key(), _utc(leaf, "before"), _utc(leaf, "after")
    except lib.errors as err:
        raise CommandExecutionError(f"is not a PEM certificate: {err}") from err
    try:
        if public is not None and _spki(own) != public:
            found.append("it does not belong to the key")
        weakness = _key_weakness(own)
        if weakness:
            found.append(weakness)
        for certificate in chain:
            # Nobody looks at the signature with which a root signs itself.
            weak = isinstance(certificate.signature_hash_algorithm, (lib.hashes.MD5, lib.hashes.SHA1))
            if weak and (certificate is leaf or certificate.issuer != certificate.subject):
                algorithm = certificate.signature_hash_algorithm.name
                whose = (
                    "its signature" if certificate is leaf else f"the signature of {_subject_text(certificate)}"
                )
                found.append(f"clients do not take {whose} ({algorithm})")
        if now < begin:
            found.append(f"it is not valid before {_date(begin)}, and the clock says {_date(now)}")
        if now > end:
            found.append(f"it expired at {_date(end)}")
        elif renewal is not None and now >= renewal:
            found.append(f"it ends at {_date(end)}, and its renewal began at {_date(renewal)}")
        for certificate in chain[1:]:
            if not _utc(certificate, "before") <= now <= _utc(certificate, "after"):
                dates = f"{_date(_utc(certificate, 'before'))} to {_date(_utc(certificate, 'after'))}"
                found.append(f"its chain is not valid now: {_subject_text(certificate)} is from {dates}")
        covered = _certificate_names(leaf)
        missing = [name for name in names if not any(_covers(pattern, name) for pattern in covered)]
        if missing:
            found.append(f"it is not for {', '.join(missing)} but for {', '.join(covered) or 'no name'}")
        for name, text in (fields or {}).items():
            attributes = leaf.subject.get_attributes_for_oid(getattr(lib.x509.NameOID, name))
            if text not in [attribute.value for attribute in attributes]:
                found.append(f"its subject does not say {name.lower().replace('_', ' ')} {text}")
        usage = _extension(leaf, lib.x509.ExtendedKeyUsage)
        if usage is not None and lib.x509.ExtendedKeyUsageOID.SERVER_AUTH not in usage:
            found.append("it is not for servers (extended key usage)")
        for lower, upper in zip(chain, chain[1:]):
            if not _issued_by(lower, upper.subject.public_bytes(), upper.public_key()):
                found.append(f"its chain is broken: {_subject_text(upper)} did not sign {_subject_text(lower)}")
        if anchors is None:
            signer, signed = "itself", _issued_by(leaf, leaf.subject.public_bytes(), own)
        else:
            signer = "the authority"
            signed = anchors == "any" or any(_leads_to(chain[-1], anchor) for anchor in anchors)
        if not signed:
            found.append(f"it is not signed by {signer} but by {leaf.issuer.rfc4514_string() or 'nobody'}")
    except lib.errors as err:
        found.append(f"it cannot be understood: {err}")
    return found


def _leads_to(last, anchor):
    """Whether a chain's last certificate is this authority's own, which may be left out, or signed by it."""
    if last.subject.public_bytes() == anchor["name"] and _spki(last.public_key()) == anchor["public"]:
        return True
    return _issued_by(last, anchor["name"], _library().serialization.load_der_public_key(anchor["public"]))


def _subject_text(certificate):
    return certificate.subject.rfc4514_string() or "(no subject)"


def serve(pem, now, key=None, anchors=None):
    """
    Load a key and certificates into the TLS context of a server, and verify the chain as strict clients do.

    OpenSSL's security level applies: a weak key does not load.

    pem
        Bytes: the server's certificate, then those that lead to the authority.

    now
        ``datetime``, UTC.

    key
        Bytes of the private key. Default: only the chain is verified.

    anchors
        Bytes of the authorities' certificates. Default: the last certificate in ``pem`` is trusted, whoever
        signed it.

    Returns a list of texts; empty when nothing is wrong. Raises as :func:`describe` and :func:`describe_key` do.
    """
    SSL, crypto = _openssl()
    lib = _library()
    try:
        chain = _load(pem)
        trusted = _load(anchors) if anchors else chain[-1:]
    except lib.errors as err:
        raise CommandExecutionError(f"is not a PEM certificate: {err}") from err
    found = []
    converted = [crypto.X509.from_cryptography(certificate) for certificate in chain]
    if key is not None:
        private = _load_key(key, thorough=True)
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        try:
            try:
                context.use_certificate(chain[0])
                context.use_privatekey(private)
            except TypeError:  # pyOpenSSL before 24.3 takes only its own types
                context.use_certificate(converted[0])
                context.use_privatekey(crypto.PKey.from_cryptography_key(private))
            context.check_privatekey()
        except SSL.Error as err:
            reasons = "; ".join(str(entry[-1]) for entry in err.args[0]) if err.args else ""
            found.append(f"a TLS server cannot load the key and the certificate: {reasons or 'they do not match'}")
    store = crypto.X509Store()
    for anchor in trusted:
        store.add_cert(crypto.X509.from_cryptography(anchor))
    flags = crypto.X509StoreFlags.X509_STRICT
    # Without given authorities the last certificate is trusted, though it need not be a root.
    store.set_flags(flags if anchors else flags | crypto.X509StoreFlags.PARTIAL_CHAIN)
    store.set_time(now)
    try:
        crypto.X509StoreContext(store, converted[0], converted[1:]).verify_certificate()
    except crypto.X509StoreContextError as err:
        found.append(f"the chain does not verify: {err}")
    return found


def _algorithm(private):
    """The hash to sign with, as strong as the key (RFC 5480, 4); Ed25519 brings its own (RFC 8410)."""
    lib = _library()
    if isinstance(private, lib.ed25519.Ed25519PrivateKey):
        return None
    if isinstance(private, lib.ec.EllipticCurvePrivateKey) and private.curve.key_size > 256:
        return lib.hashes.SHA384()
    return lib.hashes.SHA256()


def _alternative(names):
    x509 = _library().x509
    alternative = []
    for name in names:
        try:
            alternative.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            alternative.append(x509.DNSName(name))
    return x509.SubjectAlternativeName(alternative)


def _builder(subject, public, now, not_after):
    """
    Start a certificate: serial number of 159 random bits, positive and within 20 octets (RFC 5280, 4.1.2.2),
    validity (4.1.2.5: whole seconds, GeneralizedTime from 2050 on), subject key identifier (4.2.1.2).
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


def make_authority(key, now, days, fields=None, passphrase=None, renewed=None):
    """
    Make the certificate of an authority, which signs itself: basic constraints and key usage are critical (RFC
    5280, 4.2.1.9 and 4.2.1.3).

    key
        Bytes of its private key.

    now
        ``datetime``, UTC.

    days
        Validity in days.

    fields
        Its name, as :func:`check_subject` returns it.

    passphrase
        Bytes that unlock the key. Default: none.

    renewed
        Bytes of the certificate that this one renews: its name and its path length stay. Default: a new authority,
        which signs no other authorities (path length 0).

    Returns PEM bytes. Raises ``CommandExecutionError`` when the key cannot be loaded.
    """
    x509 = _library().x509
    private, subject, path_length = _load_key(key, passphrase, thorough=True), None, 0
    if renewed is None:
        subject = _name(fields)
    else:
        old = _load(renewed)[0]
        subject, path_length = old.subject, _extension(old, x509.BasicConstraints).path_length
    return _pem(
        _builder(subject, private.public_key(), now, now + days * DAY)
        .issuer_name(subject)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_usage("key_cert_sign", "crl_sign"), critical=True)
        .sign(private, _algorithm(private))
    )


def make_certificate(public, now, days, fields, names, key, passphrase=None, issuer=None):
    """
    Make a server's certificate.

    It ends with its issuer at the latest. Only an RSA key enciphers keys (RFC 3279, 2.3.1; RFC 5480, 3). The names
    are critical when there is no subject (RFC 5280, 4.2.1.6). The authority key identifier is the issuer's subject
    key identifier (4.2.1.1). No ``clientAuth``: the how-to's Postfix shows no certificate as a client, and public
    authorities gave it up.

    public
        DER of the server's public key.

    now
        ``datetime``, UTC.

    days
        Validity in days.

    fields, names
        As :func:`check_subject` and :func:`check_names` return them.

    key, passphrase
        Bytes of the private key that signs, and of its passphrase.

    issuer
        Bytes of the certificate of that key. Default: the certificate signs itself.

    Returns PEM bytes. Raises ``CommandExecutionError`` when the key cannot be loaded.
    """
    lib = _library()
    x509 = lib.x509
    own = lib.serialization.load_der_public_key(public)
    private = _load_key(key, passphrase, thorough=True)
    not_after, subject = now + days * DAY, _name(fields)
    if issuer is None:
        issuer_name = subject
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(own)
    else:
        upper = _load(issuer)[0]
        not_after = min(not_after, _utc(upper, "after"))
        issuer_name = upper.subject
        identifier = _extension(upper, x509.SubjectKeyIdentifier)
        if identifier is None:
            authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(upper.public_key())
        else:
            authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
    usages = ["digital_signature"]
    if isinstance(own, lib.rsa.RSAPublicKey):
        usages.append("key_encipherment")
    return _pem(
        _builder(subject, own, now, not_after)
        .issuer_name(issuer_name)
        .add_extension(authority, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(*usages), critical=True)
        .add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(_alternative(names), critical=not fields)
        .sign(private, _algorithm(private))
    )


def make_request(key, fields, names):
    """
    Make a certificate request (PKCS 10) for a key.

    key
        Bytes of the private key.

    fields, names
        As :func:`check_subject` and :func:`check_names` return them.

    Returns PEM text. Raises ``CommandExecutionError`` when the key cannot be loaded.
    """
    private = _load_key(key, thorough=True)
    request = (
        _library()
        .x509.CertificateSigningRequestBuilder()
        .subject_name(_name(fields))
        .add_extension(_alternative(names), critical=not fields)
        .sign(private, _algorithm(private))
    )
    return _pem(request).decode()


def describe_request(pem):
    """
    Tell what a certificate request asks for.

    pem
        Bytes or text.

    Returns ``{"public": DER of its public key, "public_pem": PEM of it, "key": such as "RSA 3072", "subject": RFC
    4514 text, "names": [name]}``; names and subject are the applicant's wishes.

    Raises ``CommandExecutionError`` when it is no request, is not signed by its own key, or its key is too weak.
    """
    lib = _library()
    try:
        request = lib.x509.load_pem_x509_csr(pem.encode() if isinstance(pem, str) else pem)
        public = request.public_key()
        weakness = _key_weakness(public)
        genuine = weakness or request.is_signature_valid
        names = _certificate_names(request)
    except lib.errors as err:
        raise CommandExecutionError(f"The request is not a PEM certificate request: {err}") from err
    if weakness:
        raise CommandExecutionError(f"The request is refused: {weakness}")
    if not genuine:
        raise CommandExecutionError("The request is not signed by its own key")
    serialization = lib.serialization
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return {
        "public": _spki(public),
        "public_pem": pem.decode(),
        "key": _key_text(public),
        "subject": request.subject.rfc4514_string(),
        "names": names,
    }


def _pem(made):
    return made.public_bytes(_library().serialization.Encoding.PEM)
