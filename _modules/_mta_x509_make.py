"""
Make private keys, certificates and requests, and check what settings ask for.

The profile is that of RFC 5280 as strict clients check it. cryptography's builders are used as they are:
salt.utils.x509, which wraps them, takes its values as OpenSSL's configuration text, and what it accepts differs
between Salt 3006 and 3008.
"""

from __future__ import annotations

import datetime
import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from salt.exceptions import SaltInvocationError

import _mta_x509

if TYPE_CHECKING:
    from cryptography.x509 import Name

# Clocks differ: a certificate made now is used at once by clients whose clock is a little behind.
BACKDATED = datetime.timedelta(hours=1)
EC_SIZES = {256: "SECP256R1", 384: "SECP384R1"}
KEY_TYPES = {"rsa": 3072, "ec": 256, "ecdsa": 256, "ed25519": None}
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


def key_parameters(key_type: str = "rsa", key_size: int | None = None) -> tuple[str, int | None, str]:
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
    sizes = {"rsa": _mta_x509.RSA_SIZES, "ec": tuple(EC_SIZES), "ed25519": (None,)}[kind]
    if size not in sizes:
        allowed = " or ".join("null" if value is None else str(value) for value in sizes)
        raise SaltInvocationError(f"key_size for {kind} must be {allowed}, not {key_size!r}")
    return kind, size, {"rsa": f"RSA {size}", "ec": f"ECDSA P-{size}", "ed25519": "Ed25519"}[kind]


def check_days(days: int, renew_days: int | None = None) -> None:
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


def check_subject(
    fields: Mapping[str, str | None] | None = None, common_name: str | None = None
) -> dict[str, str]:
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
    return {
        name: _bounded(name, limit, aliases[-1], values[name])
        for name, limit, aliases in SUBJECT_FIELDS
        if name in values
    }


def _bounded(name: str, limit: int, field: str, text: str) -> str:
    """A subject field's text as it is written; raises for one that is too long, or not of its alphabet."""
    if name == "COUNTRY_NAME":
        if not re.fullmatch("[A-Za-z]{2}", text):
            raise SaltInvocationError(f"Subject field {field} must have two letters: {text!r}")
        return text.upper()
    if len(text) > limit:
        raise SaltInvocationError(f"Subject field {field} must have {limit} characters at most: {text!r}")
    if name == "EMAIL_ADDRESS" and not text.isascii():
        raise SaltInvocationError(f"Subject field {field} must be ASCII: {text!r}")
    return text


def check_names(names: Iterable[str]) -> list[str]:
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


def subject_text(fields: Mapping[str, str]) -> str:
    """
    Return a subject as text (RFC 4514, 2.1 and 2.4).

    A dry run tells it before ``cryptography`` is installed, so nothing is imported for it.

    fields
        As :func:`check_subject` returns them.
    """
    short = {name: EMAIL_OID if name == "EMAIL_ADDRESS" else aliases[0] for name, _, aliases in SUBJECT_FIELDS}
    parts = [short[name] + "=" + re.sub(r'^#|[\\"+,;<>]', r"\\\g<0>", value) for name, value in fields.items()]
    return ",".join(reversed(parts))


def encode_subject(fields: Mapping[str, str]) -> bytes:
    """
    Return a subject's DER encoding.

    fields
        As :func:`check_subject` returns them.
    """
    return _name(fields).public_bytes()


def _name(fields: Mapping[str, str]) -> Name:
    x509 = _mta_x509.library().x509
    made: Name = x509.Name(
        [x509.NameAttribute(getattr(x509.NameOID, name), text) for name, text in fields.items()]
    )
    return made


def make_key(kind: str, size: int | None, passphrase: bytes | None = None) -> bytes:
    """
    Make a private key: PKCS 8 in PEM, as bytes.

    kind, size
        As :func:`key_parameters` returns them.

    passphrase
        Bytes that encrypt it. Default: not encrypted.
    """
    lib = _mta_x509.library()
    if kind == "rsa":
        private = lib.rsa.generate_private_key(_mta_x509.RSA_EXPONENT, size)
    elif size is not None:
        private = lib.ec.generate_private_key(getattr(lib.ec, EC_SIZES[size])())
    else:
        private = lib.ed25519.Ed25519PrivateKey.generate()
    pem = _key_pem(private, passphrase)
    _mta_x509.prove(pem)
    return pem


def encrypt_key(pem: bytes, passphrase: bytes, previous: bytes | None = None) -> bytes:
    """
    Return a private key encrypted by another passphrase.

    pem
        Bytes of the key, encrypted or not.

    passphrase
        Bytes of the passphrase to come.

    previous
        Bytes of the passphrase that encrypts it now. Default: none does.

    Raises ``CommandExecutionError`` as :func:`describe_key` does.
    """
    return _key_pem(_mta_x509.load_key(pem, previous), passphrase)


def _key_pem(private: Any, passphrase: bytes | None = None) -> bytes:
    serialization = _mta_x509.library().serialization
    encoded: bytes = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption(),
    )
    return encoded


def _algorithm(private: Any) -> Any:
    """The hash to sign with, as strong as the key (RFC 5480, 4); Ed25519 brings its own (RFC 8410)."""
    lib = _mta_x509.library()
    if isinstance(private, lib.ed25519.Ed25519PrivateKey):
        return None
    if isinstance(private, lib.ec.EllipticCurvePrivateKey) and private.curve.key_size > 256:
        return lib.hashes.SHA384()
    return lib.hashes.SHA256()


def _alternative(names: Iterable[str]) -> Any:
    x509 = _mta_x509.library().x509
    alternative = []
    for name in names:
        try:
            alternative.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            alternative.append(x509.DNSName(name))
    return x509.SubjectAlternativeName(alternative)


def _builder(subject: Name, public: Any, now: datetime.datetime, not_after: datetime.datetime) -> Any:
    """
    Start a certificate: serial number of 159 random bits, positive and within 20 octets (RFC 5280, 4.1.2.2),
    validity (4.1.2.5: whole seconds, GeneralizedTime from 2050 on), subject key identifier (4.2.1.2).
    """
    x509 = _mta_x509.library().x509
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before((now - BACKDATED).replace(microsecond=0))
        .not_valid_after(not_after.replace(microsecond=0))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _usage(*usages: str) -> Any:
    x509 = _mta_x509.library().x509
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


def make_authority(
    key: bytes,
    now: datetime.datetime,
    days: int,
    fields: Mapping[str, str] | None = None,
    passphrase: bytes | None = None,
    renewed: bytes | None = None,
) -> bytes:
    """
    Make the certificate of an authority, which signs itself: basic constraints and key usage are critical (RFC
    5280, 4.2.1.9 and 4.2.1.3).

    key
        Bytes of its private key.

    now
        UTC.

    days
        Validity in days.

    fields
        Its name, as :func:`check_subject` returns it.

    passphrase
        Bytes that decrypt the key. Default: none.

    renewed
        Bytes of the certificate that this one renews: its name and its path length stay. Default: a new authority,
        which signs no other authorities (path length 0).

    Returns PEM bytes. Raises ``CommandExecutionError`` when the key cannot be loaded.
    """
    x509 = _mta_x509.library().x509
    private, subject, path_length = _mta_x509.load_key(key, passphrase, thorough=True), None, 0
    if renewed is None:
        subject = _name(fields or {})
    else:
        old = _mta_x509.load(renewed)[0]
        subject, path_length = old.subject, _mta_x509.extension(old, x509.BasicConstraints).path_length
    return _mta_x509.pem_of(
        _builder(subject, private.public_key(), now, now + days * _mta_x509.DAY)
        .issuer_name(subject)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_usage("key_cert_sign", "crl_sign"), critical=True)
        .sign(private, _algorithm(private))
    )


def make_certificate(
    public: bytes,
    now: datetime.datetime,
    days: int,
    fields: Mapping[str, str],
    names: Iterable[str],
    key: bytes,
    passphrase: bytes | None = None,
    issuer: bytes | None = None,
) -> bytes:
    """
    Make a server's certificate.

    It ends with its issuer at the latest. Only an RSA key enciphers keys (RFC 3279, 2.3.1; RFC 5480, 3). The names
    are critical when there is no subject (RFC 5280, 4.2.1.6). The authority key identifier is the issuer's subject
    key identifier (4.2.1.1). No ``clientAuth``: the how-to's Postfix shows no certificate as a client, and public
    authorities gave it up.

    public
        DER of the server's public key.

    now
        UTC.

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
    lib = _mta_x509.library()
    x509 = lib.x509
    own = lib.serialization.load_der_public_key(public)
    private = _mta_x509.load_key(key, passphrase, thorough=True)
    not_after, subject = now + days * _mta_x509.DAY, _name(fields)
    if issuer is None:
        issuer_name = subject
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(own)
    else:
        upper = _mta_x509.load(issuer)[0]
        not_after = min(not_after, _mta_x509.utc(upper, "after"))
        issuer_name = upper.subject
        identifier = _mta_x509.extension(upper, x509.SubjectKeyIdentifier)
        if identifier is None:
            authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(upper.public_key())
        else:
            authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
    usages = ["digital_signature"]
    if isinstance(own, lib.rsa.RSAPublicKey):
        usages.append("key_encipherment")
    return _mta_x509.pem_of(
        _builder(subject, own, now, not_after)
        .issuer_name(issuer_name)
        .add_extension(authority, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(*usages), critical=True)
        .add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(_alternative(names), critical=not fields)
        .sign(private, _algorithm(private))
    )


def make_request(key: bytes, fields: Mapping[str, str], names: Iterable[str]) -> str:
    """
    Make a certificate request (PKCS 10) for a key.

    key
        Bytes of the private key.

    fields, names
        As :func:`check_subject` and :func:`check_names` return them.

    Returns PEM text. Raises ``CommandExecutionError`` when the key cannot be loaded.
    """
    private = _mta_x509.load_key(key, thorough=True)
    request = (
        _mta_x509.library()
        .x509.CertificateSigningRequestBuilder()
        .subject_name(_name(fields))
        .add_extension(_alternative(names), critical=not fields)
        .sign(private, _algorithm(private))
    )
    return _mta_x509.pem_of(request).decode()
