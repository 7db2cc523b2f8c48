"""
Private keys, certificates and requests: what they are, and what is wrong with them.

The library cryptography reads them; pyOpenSSL loads a pair as a TLS server does, and verifies a chain as strict
clients do. Both are imported by the functions that use them, never when this file is loaded: most applies judge no
certificate.
"""

from __future__ import annotations

import datetime
import enum
import hashlib
import itertools
import re
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from salt.exceptions import CommandExecutionError

from _mta_records import TypedDict

if TYPE_CHECKING:
    from cryptography.x509 import Certificate, CertificateSigningRequest

DAY = datetime.timedelta(days=1)
RENEW_DAYS = 30
# In how much of that time the renewals of a fleet begin.
SPREAD = 0.1
# Sizes to create. Today's clients refuse RSA keys below 2048 bits ("EE certificate key too weak"), and those of Go
# above 8192; an exponent is at least 2^16 + 1 (NIST SP 800-56B, 6.2).
RSA_SIZES = (2048, 3072, 4096, 8192)
RSA_EXPONENT = 65537
EC_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
CERTIFICATE_BLOCK = rb"(?s)-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----"
KEY_BLOCK = rb"(?s)-----BEGIN ([A-Z ]*)PRIVATE KEY-----.+?-----END \1PRIVATE KEY-----"
# SHA-256 of the keys that this process has proven to be sound, or has made.
_proven: set[bytes] = set()


class Trust(enum.Enum):
    """Whom to trust, where that is no list of authorities."""

    ITSELF = "the certificate signs itself"
    ANY = "any authority will do"


class Anchor(TypedDict):
    """By what an authority is recognised: DER of its name and of its public key."""

    name: bytes
    public: bytes


class CertificateFacts(TypedDict):
    """
    What a certificate is.

    subject, issuer
        RFC 4514 text.

    key, weakness
        Such as ``RSA 3072``; why clients refuse it, or ``None``.

    serial, sha256, sha1
        Hexadecimal; the latter two are fingerprints.

    not_before, renewal, not_after
        UTC.

    signature
        Name of its hash.

    strict_ca
        Whether strict clients take it as an authority.

    tlsa
        Data of the TLSA record 3 1 1.

    name, public
        DER of the subject and of the public key.
    """

    subject: str
    names: list[str]
    issuer: str
    key: str
    serial: str
    not_before: datetime.datetime
    renewal: datetime.datetime
    not_after: datetime.datetime
    signature: str
    self_signed: bool
    ca: bool
    strict_ca: bool
    weakness: str | None
    sha256: str
    sha1: str
    tlsa: str
    name: bytes
    public: bytes
    pem: bytes


class KeyFacts(TypedDict):
    """What a private key is: its kind, why clients refuse it, TLSA 3 1 1 data, DER of its public half."""

    key: str
    weakness: str | None
    tlsa: str
    public: bytes


class RequestFacts(TypedDict):
    """What a request asks for: its public key as DER and PEM, of what kind; the applicant's subject and names."""

    public: bytes
    public_pem: str
    key: str
    subject: str
    names: list[str]


def library() -> Any:
    """Import ``cryptography``; raises ``CommandExecutionError`` where it is missing."""
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


def _openssl() -> tuple[Any, Any]:
    """Import pyOpenSSL; raises ``CommandExecutionError`` where it is missing."""
    try:
        from OpenSSL import SSL, crypto
    except ImportError as err:
        raise CommandExecutionError(
            f"The Python library pyOpenSSL is missing in Salt's environment: {err}. "
            "Install it there: salt-pip install pyOpenSSL, or the package python3-openssl"
        ) from err
    return SSL, crypto


def _bytes(pem: str | bytes) -> bytes:
    return pem.encode("utf-8", "surrogateescape") if isinstance(pem, str) else pem


def pick(pem: str | bytes, kind: Literal["certificates", "key"]) -> bytes:
    """
    Return what matters of a PEM file: all of its certificates, or its first private key, and nothing else.

    So a file that holds a key too never becomes a certificate file that everybody may read.

    kind
        ``certificates`` or ``key``.

    Returns bytes that end with a line break; empty when there is none.
    """
    pem = _bytes(pem)
    if kind == "key":
        found = re.search(KEY_BLOCK, pem)
        blocks = [found[0]] if found else []
    else:
        blocks = re.findall(CERTIFICATE_BLOCK, pem)
    return b"".join(block.replace(b"\r\n", b"\n") + b"\n" for block in blocks)


def is_encrypted(pem: str | bytes) -> bool:
    """
    Tell whether a passphrase encrypts a PEM private key (PKCS 8, RFC 7468; or OpenSSL's traditional form).
    """
    pem = _bytes(pem)
    return b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in pem or b"Proc-Type: 4,ENCRYPTED" in pem


def load_key(pem: bytes, passphrase: bytes | None = None, thorough: bool = False) -> Any:
    """
    Load a PEM private key; raises ``CommandExecutionError`` in words that follow the name of the file.

    Proving that an RSA key's primes are prime takes 90 ms: only a use of the key needs it (``thorough``), once.
    """
    lib = library()
    encrypted = is_encrypted(pem)
    if encrypted and passphrase is None:
        raise CommandExecutionError("is encrypted, and no passphrase is given")
    try:
        unproven = {} if thorough and _digest(pem) not in _proven else lib.unproven
        private = lib.serialization.load_pem_private_key(pem, passphrase if encrypted else None, **unproven)
    except lib.errors as err:
        if encrypted:
            raise CommandExecutionError("is not decrypted by the passphrase") from err
        raise CommandExecutionError(f"is not a PEM private key: {err}") from err
    if thorough:
        prove(pem)
    return private


def prove(pem: bytes) -> None:
    """Say that a key is sound, as who has just made it knows."""
    _proven.add(_digest(pem))


def _digest(pem: bytes) -> bytes:
    return hashlib.sha256(pem).digest()


def describe_key(pem: bytes, passphrase: bytes | None = None, thorough: bool = False) -> KeyFacts:
    """
    Tell what a private key is.

    passphrase
        Bytes that decrypt it. Default: none.

    thorough
        Also prove that it is sound, which takes 90 ms for RSA. Default ``False``.

    Raises ``CommandExecutionError`` when it cannot be loaded, in words that follow a file's name: ``is not a PEM
    private key``, ``is encrypted, and …``.
    """
    public = load_key(pem, passphrase, thorough).public_key()
    return {
        "key": _key_text(public),
        "weakness": _key_weakness(public),
        "tlsa": _tlsa(public),
        "public": _spki(public),
    }


def _tlsa(public: Any) -> str:
    """TLSA data of usage 3 (DANE-EE), selector 1 (public key), matching 1 (SHA-256): RFC 7671, 5.1."""
    return f"3 1 1 {hashlib.sha256(_spki(public)).hexdigest()}"


def _spki(public: Any) -> bytes:
    serialization = library().serialization
    encoded: bytes = public.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded


def _key_text(public: Any) -> str:
    """What kind of key this is, in words."""
    lib = library()
    if isinstance(public, lib.rsa.RSAPublicKey):
        return f"RSA {public.key_size}"
    if isinstance(public, lib.ec.EllipticCurvePublicKey):
        return f"ECDSA {EC_CURVES.get(public.curve.name, public.curve.name)}"
    if isinstance(public, lib.ed25519.Ed25519PublicKey):
        return "Ed25519"
    return type(public).__name__.strip("_").replace("PublicKey", "")


def _key_weakness(public: Any) -> str | None:
    """Why clients would refuse the key; ``None`` when they take it."""
    lib = library()
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


def describe(pem: str | bytes, renew_days: int | None = None) -> list[CertificateFacts]:
    """
    Tell what the certificates of a PEM file are, in their order.

    renew_days
        How many days before its end a certificate's renewal begins. Default: a third of its lifetime, 30 at most.
        It begins at a moment of the first tenth of these days that depends on nothing but the certificate: those
        that were made together are not renewed together.

    Raises ``CommandExecutionError`` when it is no PEM certificate, in words that follow a file's name.
    """
    lib = library()
    try:
        return [_facts(certificate, renew_days) for certificate in load(pem)]
    except lib.errors as err:
        raise CommandExecutionError(f"is not a PEM certificate: {err}") from err


def _facts(certificate: Certificate, renew_days: int | None) -> CertificateFacts:
    lib = library()
    public, algorithm = certificate.public_key(), certificate.signature_hash_algorithm
    begin, end = utc(certificate, "before"), utc(certificate, "after")
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
        "pem": pem_of(certificate),
    }


def load(pem: str | bytes) -> list[Certificate]:
    """Parse all certificates of a PEM file; raises one of ``library().errors``."""
    blocks = [match[0] for match in re.finditer(CERTIFICATE_BLOCK, _bytes(pem))]
    if not blocks:
        raise ValueError("it holds no certificate")
    return [library().x509.load_pem_x509_certificate(block) for block in blocks]


def utc(certificate: Certificate, which: Literal["before", "after"]) -> datetime.datetime:
    """A date of a certificate as an aware datetime; cryptography before 42 has only naive ones."""
    moment: datetime.datetime | None = getattr(certificate, f"not_valid_{which}_utc", None)
    if moment is not None:
        return moment
    naive: datetime.datetime = getattr(certificate, f"not_valid_{which}")
    return naive.replace(tzinfo=datetime.timezone.utc)


def date_of(moment: datetime.datetime) -> str:
    """Return a time as text, for messages and results."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def extension(certificate: Certificate | CertificateSigningRequest, kind: Any) -> Any:
    """The value of an extension of this class, ``None`` without one."""
    x509 = library().x509
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _certificate_names(certificate: Certificate | CertificateSigningRequest) -> list[str]:
    """The names that a certificate is for: subject alternative names only (RFC 6125, 6.4.4; RFC 9525, 2)."""
    x509 = library().x509
    alternative = extension(certificate, x509.SubjectAlternativeName)
    if alternative is None:
        return []
    addresses = alternative.get_values_for_type(x509.IPAddress)
    return [*alternative.get_values_for_type(x509.DNSName), *map(str, addresses)]


def _covers(pattern: str, name: str) -> bool:
    """Whether a certificate's name covers ``name``; ``*`` is one whole first label (RFC 6125, 6.4.3)."""
    pattern = pattern.lower()
    if pattern.startswith("*."):
        return name == pattern or name.partition(".")[2] == pattern[2:]
    return pattern == name


def _is_ca(certificate: Certificate) -> bool:
    x509 = library().x509
    constraints = extension(certificate, x509.BasicConstraints)
    usage = extension(certificate, x509.KeyUsage)
    return bool(constraints and constraints.ca) and (usage is None or usage.key_cert_sign)


def _is_strict_ca(certificate: Certificate) -> bool:
    """
    Whether clients that check strictly (``-x509_strict``; Python 3.13 does so by default) take this CA.

    RFC 5280, 4.2.1.9, 4.2.1.3 and 4.2.1.2: basic constraints are critical, key usage and subject key identifier
    are there. The how-to's ``openssl req -x509 -extensions v3_ca`` leaves the key usage out.
    """
    x509 = library().x509
    critical = {extension.oid: extension.critical for extension in certificate.extensions}
    return (
        critical.get(x509.BasicConstraints.oid, False)
        and x509.KeyUsage.oid in critical
        and x509.SubjectKeyIdentifier.oid in critical
    )


def _issued_by(certificate: Certificate, name: bytes, public: Any) -> bool:
    """Whether this authority signed the certificate: its name is the issuer, its key made the signature."""
    lib = library()
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


def problems(
    pem: bytes,
    now: datetime.datetime,
    anchors: Sequence[Anchor] | Trust = Trust.ITSELF,
    names: Iterable[str] = (),
    renewal: datetime.datetime | None = None,
    public: bytes | None = None,
    fields: Mapping[str, str] | None = None,
) -> list[str]:
    """
    Tell what is wrong with a server's certificate and its chain.

    pem
        The server's own certificate, then those that lead to the authority, in order.

    now
        UTC.

    anchors
        The authorities that are trusted. Default: the certificate signs itself. Where any authority will do, each
        certificate in the file still has to sign the one before it.

    names
        Names that must be covered. Default: none.

    renewal
        When its renewal begins. Default ``None``: at its end.

    public
        DER of the public half of the private key. Default: not compared.

    fields
        Subject fields that must be in it: the attribute in cryptography's NameOID to text. Default: none.

    Returns a list of texts; empty when nothing is wrong. Raises as :func:`describe` does.
    """
    errors = library().errors
    try:
        chain = load(pem)
    except errors as err:
        raise CommandExecutionError(f"is not a PEM certificate: {err}") from err
    found = []
    try:
        for problem in itertools.chain(
            _key_problems(chain[0], public),
            _signature_problems(chain),
            _date_problems(chain, now, renewal),
            _name_problems(chain[0], names, fields or {}),
            _purpose_problems(chain[0]),
            _chain_problems(chain, anchors),
        ):
            found.append(problem)
    except errors as err:
        found.append(f"it cannot be understood: {err}")
    return found


def _key_problems(leaf: Certificate, public: bytes | None) -> Iterator[str]:
    """What is wrong with its key: another one than ``public``, or one that clients refuse."""
    own = leaf.public_key()
    if public is not None and _spki(own) != public:
        yield "it does not belong to the key"
    weakness = _key_weakness(own)
    if weakness:
        yield weakness


def _signature_problems(chain: Sequence[Certificate]) -> Iterator[str]:
    """Signatures by hashes that clients do not take."""
    hashes = library().hashes
    for certificate in chain:
        is_leaf = certificate is chain[0]
        if not is_leaf and certificate.issuer == certificate.subject:
            continue  # nobody looks at the signature with which a root signs itself
        algorithm = certificate.signature_hash_algorithm
        if isinstance(algorithm, (hashes.MD5, hashes.SHA1)):
            whose = "its signature" if is_leaf else f"the signature of {_subject_text(certificate)}"
            yield f"clients do not take {whose} ({algorithm.name})"


def _date_problems(
    chain: Sequence[Certificate], now: datetime.datetime, renewal: datetime.datetime | None
) -> Iterator[str]:
    """Certificates that are not valid now, and a renewal that is due."""
    begin, end = utc(chain[0], "before"), utc(chain[0], "after")
    if now < begin:
        yield f"it is not valid before {date_of(begin)}, and the clock says {date_of(now)}"
    if now > end:
        yield f"it expired at {date_of(end)}"
    elif renewal is not None and now >= renewal:
        yield f"it ends at {date_of(end)}, and its renewal began at {date_of(renewal)}"
    for certificate in chain[1:]:
        begin, end = utc(certificate, "before"), utc(certificate, "after")
        if not begin <= now <= end:
            dates = f"{date_of(begin)} to {date_of(end)}"
            yield f"its chain is not valid now: {_subject_text(certificate)} is from {dates}"


def _name_problems(leaf: Certificate, names: Iterable[str], fields: Mapping[str, str]) -> Iterator[str]:
    """Names that it does not cover, and subject fields that it does not have."""
    covered = _certificate_names(leaf)
    missing = [name for name in names if not any(_covers(pattern, name) for pattern in covered)]
    if missing:
        yield f"it is not for {', '.join(missing)} but for {', '.join(covered) or 'no name'}"
    oids = library().x509.NameOID
    for name, text in fields.items():
        attributes = leaf.subject.get_attributes_for_oid(getattr(oids, name))
        if text not in [attribute.value for attribute in attributes]:
            yield f"its subject does not say {name.lower().replace('_', ' ')} {text}"


def _purpose_problems(leaf: Certificate) -> Iterator[str]:
    """A purpose that is not that of a server."""
    x509 = library().x509
    usage = extension(leaf, x509.ExtendedKeyUsage)
    if usage is not None and x509.ExtendedKeyUsageOID.SERVER_AUTH not in usage:
        yield "it is not for servers (extended key usage)"


def _chain_problems(chain: Sequence[Certificate], anchors: Sequence[Anchor] | Trust) -> Iterator[str]:
    """Certificates that did not sign the one before them, and a chain that does not lead to an authority."""
    leaf = chain[0]
    for lower, upper in zip(chain, chain[1:]):
        if not _issued_by(lower, upper.subject.public_bytes(), upper.public_key()):
            yield f"its chain is broken: {_subject_text(upper)} did not sign {_subject_text(lower)}"
    if not _is_signed_by(chain, anchors):
        signer = "itself" if anchors is Trust.ITSELF else "the authority"
        yield f"it is not signed by {signer} but by {leaf.issuer.rfc4514_string() or 'nobody'}"


def is_signed_by(pem: bytes, anchors: Sequence[Anchor] | Trust) -> bool:
    """
    Tell whether a server's certificate leads to one of these authorities.

    pem, anchors
        As for :func:`problems`.

    Raises ``CommandExecutionError`` when it is no PEM certificate.
    """
    try:
        return _is_signed_by(load(pem), anchors)
    except library().errors as err:
        raise CommandExecutionError(f"is not a PEM certificate: {err}") from err


def _is_signed_by(chain: Sequence[Certificate], anchors: Sequence[Anchor] | Trust) -> bool:
    if anchors is Trust.ANY:
        return True
    if anchors is Trust.ITSELF:
        leaf = chain[0]
        return _issued_by(leaf, leaf.subject.public_bytes(), leaf.public_key())
    return any(_leads_to(chain[-1], anchor) for anchor in anchors)


def _leads_to(last: Certificate, anchor: Anchor) -> bool:
    """Whether a chain's last certificate is this authority's own, which may be left out, or signed by it."""
    if last.subject.public_bytes() == anchor["name"] and _spki(last.public_key()) == anchor["public"]:
        return True
    return _issued_by(last, anchor["name"], library().serialization.load_der_public_key(anchor["public"]))


def _subject_text(certificate: Certificate) -> str:
    return certificate.subject.rfc4514_string() or "(no subject)"


def serve(
    pem: bytes,
    now: datetime.datetime,
    key: bytes | None = None,
    anchors: bytes | None = None,
    strict: bool = True,
) -> list[str]:
    """
    Load a key and certificates into the TLS context of a server, and verify the chain as strict clients do.

    OpenSSL's security level applies: a weak key does not load.

    pem
        The server's certificate, then those that lead to the authority.

    now
        UTC.

    key
        The private key. Default: only the chain is verified.

    anchors
        The authorities' certificates. Default: the last certificate in ``pem`` is trusted, whoever signed it.

    strict
        Whether the extensions have to be as RFC 5280 asks for (``-x509_strict``). Default: yes.

    Returns a list of texts; empty when nothing is wrong. Raises as :func:`describe` and :func:`describe_key` do.
    """
    SSL, crypto = _openssl()
    try:
        chain = load(pem)
        trusted = load(anchors) if anchors else chain[-1:]
    except library().errors as err:
        raise CommandExecutionError(f"is not a PEM certificate: {err}") from err
    found = []
    converted = [crypto.X509.from_cryptography(certificate) for certificate in chain]
    if key is not None:
        private = load_key(key, thorough=True)
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
    flags = crypto.X509StoreFlags.X509_STRICT if strict else 0
    # Without given authorities the last certificate is trusted, though it need not be a root.
    store.set_flags(flags if anchors else flags | crypto.X509StoreFlags.PARTIAL_CHAIN)
    store.set_time(now)
    try:
        crypto.X509StoreContext(store, converted[0], converted[1:]).verify_certificate()
    except crypto.X509StoreContextError as err:
        found.append(f"the chain does not verify: {err}")
    return found


def describe_request(pem: str | bytes) -> RequestFacts:
    """
    Tell what a certificate request asks for.

    Raises ``CommandExecutionError`` when it is no request, is not signed by its own key, or its key is too weak.
    """
    lib = library()
    try:
        request = lib.x509.load_pem_x509_csr(_bytes(pem))
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
    text = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return {
        "public": _spki(public),
        "public_pem": text.decode(),
        "key": _key_text(public),
        "subject": request.subject.rfc4514_string(),
        "names": names,
    }


def pem_of(made: Any) -> bytes:
    """Return a certificate or a request as PEM."""
    encoded: bytes = made.public_bytes(library().serialization.Encoding.PEM)
    return encoded
