"""
The host's own certificate authority: made once, renewed with the same key and name, never overwritten.

What it is asked to sign is in :py:mod:`_mta_certificates`. A passphrase is named by its pillar path and looked up
here, where it is used, so that it is in no argument, log, change or comment.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from salt.exceptions import CommandExecutionError, SaltInvocationError
from salt.utils.args import clean_kwargs

import _mta_fleet_ca
import _mta_pem
import _mta_pem_write
import _mta_plan_cache
import _mta_secrets
import _mta_snapshots
import _mta_system
import _mta_transaction
import _mta_x509
import _mta_x509_make
from _mta_minion import Minion
from _mta_plan import Plan
from _mta_records import NamedTuple, dataclass
from _mta_run import Run

DAYS = 3650


class Requested(NamedTuple):
    """What the authority is to be: the arguments of the state ``mta_cert.ca_managed``."""

    name: str
    key: str
    subject: Mapping[str, str | None] | None = None
    common_name: str | None = None
    key_type: str = "rsa"
    key_size: int | None = None
    days: int = DAYS
    renew_days: int | None = None
    passphrase_pillar: str | None = None
    previous_passphrase_pillar: str | None = None

    @classmethod
    def of(cls, name: str, key: str, arguments: Mapping[str, Any]) -> Requested:
        """Raises ``SaltInvocationError`` for an argument that there is not."""
        given = clean_kwargs(**arguments)
        known = list(cls._fields[2:])
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise SaltInvocationError(f"there is no argument {', '.join(unknown)}; known: {', '.join(known)}")
        return cls(name, key, **given)


class Signing(NamedTuple):
    """Where an authority that signs is: its certificate, its key, pillar paths of the key's passphrases."""

    certificate: str
    key: str | None
    passphrase_pillar: str | None = None
    previous_passphrase_pillar: str | None = None


class Signer(NamedTuple):
    """What an authority signs with."""

    certificate: bytes
    key: bytes
    passphrase: bytes | None


@dataclass
class Authority:
    """
    The authority that will be at a path when this run is over.

    subject, name
        RFC 4514 text and DER, of its first certificate. No name where an earlier state of a dry run would make its
        key, too.

    anchors
        By what it is recognised; empty for one that has no key yet.

    planned
        Whether an earlier state of a dry run would make or renew it.
    """

    subject: str
    name: bytes | None
    anchors: list[_mta_x509.Anchor]
    not_after: datetime.datetime
    planned: bool = False


@dataclass
class _Survey:
    """
    What is there, and what has to be done.

    kind
        Of a new key: type and size.

    fields
        The subject of a new authority.

    subject, name, public
        What the authority will be: RFC 4514 text, DER; ``None`` where its key has to be made.

    key, passphrase
        The key that is there, and what decrypts it.

    new_passphrase
        What the key is to be encrypted with.

    encrypt, write_key, issue
        What has to be done.

    renewed
        The certificate that a new one renews.

    holds
        Between which moments nothing has to be done, if nothing has now.
    """

    kind: tuple[str, int | None]
    fields: dict[str, str]
    subject: str
    new_passphrase: bytes | None
    name: bytes | None = None
    public: bytes | None = None
    key: bytes | None = None
    passphrase: bytes | None = None
    encrypt: bool = False
    write_key: bool = False
    issue: bool = False
    renewed: bytes | None = None
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    holds: tuple[datetime.datetime, datetime.datetime] | None = None


def _passphrase(minion: Minion, path: str | None) -> bytes | None:
    """The passphrase at a pillar path; ``None`` when pillar has none."""
    value = _mta_secrets.get(minion, path)
    return None if value is None else value.encode()


def _fields(minion: Minion, subject: Mapping[str, str | None] | None, common_name: str | None) -> dict[str, str]:
    name = common_name or f"CA of {minion.grains.get('fqdn') or minion.opts['id']}"
    return _mta_x509_make.check_subject(subject, name[: _mta_x509_make.COMMON_NAME_LIMIT])


# -- by hand -----------------------------------------------------------------------------------


def create(
    minion: Minion,
    path: str,
    key: str,
    subject: Mapping[str, str | None] | None = None,
    common_name: str | None = None,
    key_type: str = "rsa",
    key_size: int | None = None,
    days: int = DAYS,
    passphrase_pillar: str | None = None,
) -> dict[str, Any] | None:
    """Do what ``mta_ca.create`` says."""
    kind, size, _ = _mta_x509_make.key_parameters(key_type, key_size)
    _mta_x509_make.check_days(days)
    fields, passphrase = _fields(minion, subject, common_name), _passphrase(minion, passphrase_pillar)
    _mta_pem.refuse_existing(path, key)
    pem = _mta_x509_make.make_key(kind, size, passphrase)
    certificate = _mta_x509_make.make_authority(pem, _mta_system.now(), days, fields, passphrase)

    def write() -> None:
        _mta_pem.refuse_existing(path, key)
        _mta_pem_write.create(key, pem, 0o600)
        _mta_pem_write.create(path, certificate, 0o644)

    _mta_transaction.alone(minion, write)
    return _mta_pem.inspect(path)


# -- for certificates --------------------------------------------------------------------------


def authority(minion: Minion, path: str) -> Authority:
    """
    Tell which authority will be at a path when this run is over.

    path
        Absolute path of its certificate.

    Raises ``CommandExecutionError`` when there is none, or it cannot be read.
    """
    planned: Authority | None = Run.of(minion).authorities.get(path)
    if planned:
        return planned
    file = _mta_pem.read(path)
    if file is None:
        raise CommandExecutionError(f"The authority {path} is not there; mta_cert.ca_managed creates a new one")
    found = _mta_pem.describe(f"The authority {path}", file.data)
    return Authority(
        subject=found[0]["subject"],
        name=found[0]["name"],
        anchors=[{"name": one["name"], "public": one["public"]} for one in found],
        not_after=max(one["not_after"] for one in found),
    )


def is_planned(minion: Minion, path: str) -> bool:
    """Tell whether this dry run would create or renew the authority whose certificate is at a path."""
    return path in Run.of(minion).authorities


def signer(minion: Minion, signing: Signing) -> Signer:
    """
    Return what an authority signs with at this moment.

    Raises ``CommandExecutionError`` when it cannot sign, with the reason.
    """
    certificate, key = signing.certificate, signing.key
    if not key:
        raise SaltInvocationError(f"ca_key is needed to sign by {certificate}")
    certificate_pem, key_pem = _needed(certificate), _needed(key)
    candidates = _mta_pem.describe(certificate, certificate_pem)
    passphrase = _passphrase(minion, signing.passphrase_pillar)
    previous = _passphrase(minion, signing.previous_passphrase_pillar)
    facts, passphrase = _decrypt(key, key_pem, passphrase, previous)
    own = next((one for one in candidates if one["public"] == facts["public"]), None)
    if own is None:
        raise CommandExecutionError(f"The key {key} does not belong to {certificate}")
    if not own["ca"]:
        raise CommandExecutionError(f"{certificate} is not an authority's certificate")
    if _mta_system.now() > own["not_after"]:
        raise CommandExecutionError(f"{certificate} expired at {_mta_x509.date_of(own['not_after'])}")
    return Signer(own["pem"], key_pem, passphrase)


def _needed(path: str) -> bytes:
    file = _mta_pem.read(path)
    if file is None:
        raise CommandExecutionError(f"The authority's {path} is not there; mta_cert.ca_managed creates a new one")
    return file.data


def _decrypt(
    path: str, pem: bytes, passphrase: bytes | None, previous: bytes | None
) -> tuple[_mta_x509.KeyFacts, bytes | None]:
    """
    Load a private key by its passphrase, else by the one before it; raise for a weak key.

    Return what it is, and the passphrase that decrypts it.
    """
    errors = []
    # Without a passphrase for the time after it, an old one is of no use.
    for candidate in (passphrase, previous) if passphrase and previous else (passphrase,):
        try:
            facts = _mta_pem.describe_key(f"The key {path}", pem, candidate)
        except CommandExecutionError as err:
            errors.append(err)
            continue
        if facts["weakness"]:
            raise CommandExecutionError(f"{path}: {facts['weakness']}. Move it away to get a new one")
        return facts, candidate
    raise errors[0]


def issue(
    minion: Minion, public: bytes, fields: Mapping[str, str], names: Sequence[str], days: int, signing: Signing
) -> tuple[bytes, bytes]:
    """
    Sign a server's certificate, and check the result as strict clients would.

    public
        DER of the server's public key.

    fields, names
        Subject and names, as :py:mod:`_mta_x509_make` checks them.

    days
        Validity in days; it ends with the authority at the latest.

    Returns the certificate and the authority's own, PEM. Raises as :func:`signer` does.
    """
    now, by = _mta_system.now(), signer(minion, signing)
    made = _mta_x509_make.make_certificate(public, now, days, fields, names, by.key, by.passphrase, by.certificate)
    problems = _mta_x509.serve(made, now, anchors=by.certificate)
    if problems:
        raise CommandExecutionError(f"{signing.certificate} did not sign: {'; '.join(problems)}")
    return made, by.certificate


# -- the participant ---------------------------------------------------------------------------


def plan(minion: Minion, name: str, key: str, **arguments: Any) -> Plan:
    """
    Tell what :func:`apply` would change; reads only.

    name, key
        Absolute paths of its certificate and its private key.

    arguments
        Those of the state ``mta_cert.ca_managed``, which says what is renewed, left alone or an error.

    Raises ``SaltInvocationError`` for a bad argument.
    """
    requested, now = Requested.of(name, key, arguments), _mta_system.now()
    planned = Run.of(minion).authorities
    planned.pop(name, None)

    def judge() -> dict[str, Any]:
        found = _survey(minion, now, requested)
        if found.issue:
            end = now + datetime.timedelta(days=requested.days)
            anchors: list[_mta_x509.Anchor] = []
            if found.name and found.public:
                anchors = [{"name": found.name, "public": found.public}]
            planned[name] = Authority(found.subject, found.name, anchors, end, planned=True)
        return {"changes": found.changes, "notes": found.notes, "holds": found.holds}

    found: Plan = _mta_plan_cache.plan(minion, name, lambda: _evidence(minion, requested), judge, now)
    return found


def _evidence(minion: Minion, requested: Requested) -> list[Any] | None:
    """What the plan rests on; ``None`` where it is not kept: a passphrase must not be."""
    pillars = requested.passphrase_pillar, requested.previous_passphrase_pillar
    if any(_passphrase(minion, path) for path in pillars):
        return None
    files = [tuple(_mta_pem.read(path) or ()) for path in (requested.name, requested.key)]
    return [requested, minion.grains.get("fqdn"), files]


def apply(minion: Minion, name: str, key: str, **arguments: Any) -> None:
    """
    Create or renew the authority, and correct what others could read, as part of the transaction.

    Parameters as for :func:`plan`. Raises ``CommandExecutionError`` for an existing authority that cannot be
    used, or a file that cannot be written.
    """
    _mta_transaction.begin(minion)
    requested, now = Requested.of(name, key, arguments), _mta_system.now()
    found = _survey(minion, now, requested)
    pem, passphrase = found.key, found.passphrase
    files, protect = {}, {}
    if pem is None:
        pem, passphrase = _mta_x509_make.make_key(*found.kind, found.new_passphrase), found.new_passphrase
    elif found.encrypt and found.new_passphrase:
        protect[key] = _to_forget(minion, key, found.public, [found.new_passphrase, passphrase])
        pem = _mta_x509_make.encrypt_key(pem, found.new_passphrase, passphrase)
        passphrase = found.new_passphrase
    if found.write_key:
        files[key] = pem
    if found.issue:
        certificate = _mta_x509_make.make_authority(
            pem, now, requested.days, found.fields, passphrase, found.renewed
        )
        problems = _mta_x509.serve(certificate, now, anchors=certificate)
        if problems:
            raise CommandExecutionError(f"The new {name} is not good: {'; '.join(problems)}")
        files[name] = certificate
    _mta_pem_write.write(minion, files, protect=protect)
    Run.of(minion).authorities.pop(name, None)


def _to_forget(
    minion: Minion, path: str, public: bytes | None, passphrases: Sequence[bytes | None]
) -> tuple[str, ...]:
    """The snapshots that must not keep a key that gets a new passphrase: of the first one, the same key only."""
    original = _mta_snapshots.content(minion, path)
    if original is not None:
        for passphrase in passphrases:
            with contextlib.suppress(CommandExecutionError):
                if _mta_x509.describe_key(original, passphrase)["public"] == public:
                    return ("previous", "originals")
    return ("previous",)


# -- what is there, and what has to be done ----------------------------------------------------


def _survey(minion: Minion, now: datetime.datetime, requested: Requested) -> _Survey:
    """Look at the authority. Raises for one that cannot be used."""
    kind, size, text = _mta_x509_make.key_parameters(requested.key_type, requested.key_size)
    _mta_x509_make.check_days(requested.days, requested.renew_days)
    if requested.name == requested.key:
        raise SaltInvocationError(f"The certificate and the key need a file each: {requested.name}")
    fields = _fields(minion, requested.subject, requested.common_name)
    subject = _mta_x509_make.subject_text(fields)
    passphrase = _passphrase(minion, requested.passphrase_pillar)
    found = _Survey((kind, size), fields, subject, passphrase)
    certificate_file, key_file = _mta_pem.read(requested.name), _mta_pem.read(requested.key)
    certificates = _certificates(requested, certificate_file)
    if key_file is not None:
        text = _survey_key(minion, requested, key_file, found)
    foreign = _is_fleets(minion, requested.name, certificates, found)
    if key_file is None and certificates and not foreign:
        raise CommandExecutionError(
            f"The authority {requested.name} ({certificates[0]['subject']}) is there without its key"
            f" {requested.key}. Put the key back, or remove the certificate to get a new authority"
        )
    if key_file is None:
        found.write_key = True
        found.changes[requested.key] = {"old": None, "new": _key_change(text, bool(passphrase))}
    if certificate_file is None or foreign:
        found.issue = True
    else:
        found.renewed = certificate_file.data
        _survey_certificate(requested, certificates, now, found)
    if found.issue:
        new = {"subject": found.subject, "issuer": found.subject, "key": text, "days": requested.days}
        found.changes[requested.name] = {"old": _old(certificates), "new": new}
    return found


def _is_fleets(
    minion: Minion, path: str, certificates: Sequence[_mta_x509.CertificateFacts], found: _Survey
) -> bool:
    """Whether the certificate that is there is a fleet's authority's: its key is not here, and it is replaced."""
    if not certificates or certificates[0]["public"] == found.public:
        return False
    if not _mta_fleet_ca.is_fetched(minion, path, certificates):
        return False
    found.notes.append(
        f"The certificate of the fleet's authority, {certificates[0]['subject']}, is replaced by that of an"
        " authority of this host's own"
    )
    return True


def _certificates(requested: Requested, file: _mta_pem.File | None) -> list[_mta_x509.CertificateFacts]:
    """The certificates that are there; raises for a file that holds none."""
    if file is None:
        return []
    try:
        return _mta_pem.describe(requested.name, file.data, requested.renew_days)
    except CommandExecutionError as err:
        raise CommandExecutionError(f"{err}. It is not overwritten") from err


def _survey_key(minion: Minion, requested: Requested, file: _mta_pem.File, found: _Survey) -> str:
    """Judge the key that is there; return what kind it is."""
    path, passphrase = requested.key, found.new_passphrase
    previous = _passphrase(minion, requested.previous_passphrase_pillar)
    facts, used = _decrypt(path, file.data, passphrase, previous)
    encrypted = _mta_x509.is_encrypted(file.data)
    found.encrypt = bool(passphrase) and not (encrypted and used == passphrase)
    found.public, found.key, found.passphrase = facts["public"], file.data, used
    found.name = _mta_x509_make.encode_subject(found.fields)
    wrong = _mta_pem.wrong_access(file, "key")
    if found.encrypt or wrong:
        found.write_key = True
        old = {**_key_change(facts["key"], encrypted), "mode": f"{file.mode:04o}", "uid": file.uid}
        new = {**_key_change(facts["key"], encrypted or found.encrypt), "uid": 0}
        if found.encrypt and encrypted:
            old["passphrase"], new["passphrase"] = "the previous one", "the one in pillar"
        found.changes[path] = {"old": old, "new": new}
    if wrong:
        found.notes.append(f"{path} {wrong}: consider a new authority")
    return facts["key"]


def _key_change(text: str, encrypted: bool) -> dict[str, Any]:
    return {"key": text, "encrypted": encrypted, "mode": "0600"}


def _old(certificates: Sequence[_mta_x509.CertificateFacts]) -> dict[str, Any] | None:
    """What a change shows of the certificate that it replaces."""
    if not certificates:
        return None
    own = certificates[0]
    return {
        "subject": own["subject"],
        "issuer": own["issuer"],
        "key": own["key"],
        "serial": own["serial"],
        "not_after": _mta_x509.date_of(own["not_after"]),
    }


def _survey_certificate(
    requested: Requested,
    certificates: Sequence[_mta_x509.CertificateFacts],
    now: datetime.datetime,
    found: _Survey,
) -> None:
    """Judge the certificate that is there: it keeps its name, and may have to be renewed."""
    own = certificates[0]
    reason = _renewal(requested, certificates, found.public, now)
    if own["name"] != found.name:
        found.notes.append(
            f"The authority keeps its name {own['subject']}: with another name, "
            "the certificates that it has signed would not verify"
        )
        found.subject, found.name = own["subject"], own["name"]
    found.holds = own["not_before"], own["renewal"]
    if reason:
        found.issue = True
        found.notes.append(f"Renewed with the same key: {reason}")


def _renewal(
    requested: Requested,
    certificates: Sequence[_mta_x509.CertificateFacts],
    public: bytes | None,
    now: datetime.datetime,
) -> str | None:
    """Why the certificate has to be renewed, ``None`` when not; raises when it cannot be used at all."""
    own, path, date_of = certificates[0], requested.name, _mta_x509.date_of
    if own["public"] != public:
        raise CommandExecutionError(f"The key {requested.key} does not belong to the authority {path}")
    if not own["ca"]:
        raise CommandExecutionError(
            f"{path} ({own['subject']}) is no authority's certificate, and is not overwritten"
        )
    if now < own["not_before"]:
        raise CommandExecutionError(
            f"{path} is valid from {date_of(own['not_before'])} on, but the clock says {date_of(now)}. "
            "Set the clock, or remove the file"
        )
    if now >= own["renewal"]:
        reason = f"it ends at {date_of(own['not_after'])}, and its renewal began at {date_of(own['renewal'])}"
    elif not own["strict_ca"]:
        reason = "strict clients refuse it: its extensions are not those that RFC 5280, 4.2.1, asks for"
    else:
        return None
    if len(certificates) > 1 or not own["self_signed"]:
        raise CommandExecutionError(
            f"{path} cannot be renewed here, as it has more than one certificate, or another authority "
            f"signed it. It should be: {reason}"
        )
    return reason
