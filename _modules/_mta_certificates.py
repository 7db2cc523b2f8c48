"""
A mail server's key and certificate as one unit: made here, signed by an authority, or taken over from files.

What is left alone, renewed or refused is written at the state ``mta_cert.managed``. There are three steps:
:func:`_survey` looks at what is there and says what has to be done; :func:`apply` makes it and judges the new pair
before it replaces anything; ``_mta_pem_write`` switches the files. Where Postfix reads key and certificate from
two files and the key changes, Postfix is stopped for the moment in which they are switched: between the two no new
smtpd(8) can exist, so none can read halves of two pairs.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from salt.exceptions import CommandExecutionError, SaltInvocationError
from salt.utils.args import clean_kwargs

import _mta_ca
import _mta_fleet_ca
import _mta_judge
import _mta_pem
import _mta_pem_write
import _mta_plan_cache
import _mta_postfix_outlook
import _mta_postfix_view
import _mta_restore
import _mta_secrets
import _mta_services
import _mta_system
import _mta_transaction
import _mta_x509
import _mta_x509_make
from _mta_minion import FETCHED, Minion
from _mta_plan import Plan
from _mta_records import NamedTuple, dataclass
from _mta_run import Run

DAYS = 825
# Each source, and what it cannot do without.
NEEDED = {
    "local_ca": ("ca_certificate", "ca_key"),
    "self_signed": (),
    "fleet_ca": ("ca_certificate", "ca_minion"),
    "files": ("certificate_source", "key_source"),
}


class Requested(NamedTuple):
    """What the pair is to be: the arguments of the state ``mta_cert.managed``."""

    name: str
    key: str
    hostname: str
    source: str
    ca_certificate: str | None = None
    ca_key: str | None = None
    passphrase_pillar: str | None = None
    previous_passphrase_pillar: str | None = None
    ca_minion: str | None = None
    policy: str | None = None
    certificate_source: str | None = None
    key_source: str | None = None
    chain_source: str | None = None
    chain_file: str | None = None
    subject: Mapping[str, str | None] | None = None
    alternative_names: str | Sequence[str] | None = None
    key_type: str = "rsa"
    key_size: int | None = None
    days: int = DAYS
    renew_days: int | None = None
    rotate_key: bool = False

    @classmethod
    def of(cls, name: str, key: str, hostname: str, arguments: Mapping[str, Any]) -> Requested:
        """
        The source is told by the other arguments where it is not given.

        Raises ``SaltInvocationError`` for an argument that there is not, and for those that do not go together.
        """
        given = clean_kwargs(**arguments)
        known = list(cls._fields[3:])
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise SaltInvocationError(f"there is no argument {', '.join(unknown)}; known: {', '.join(known)}")
        source = given.pop("source", None)
        if source is None:
            told = (("certificate_source", "files"), ("ca_minion", "fleet_ca"), ("ca_certificate", "local_ca"))
            source = next((source for argument, source in told if given.get(argument)), "self_signed")
        if source not in NEEDED:
            raise SaltInvocationError(f"source must be one of {', '.join(NEEDED)}, not {source!r}")
        missing = [name for name in NEEDED[source] if not given.get(name)]
        if missing:
            raise SaltInvocationError(f"source {source} needs {' and '.join(missing)}")
        return cls(name, key, hostname, source, **given)

    @property
    def signing(self) -> _mta_ca.Signing:
        """Where the authority of ``local_ca`` is."""
        return _mta_ca.Signing(
            str(self.ca_certificate), self.ca_key, self.passphrase_pillar, self.previous_passphrase_pillar
        )


@dataclass
class _Survey:
    """
    What is there, and what has to be done.

    kind, kind_text
        Of a new key: type and size, and that in words.

    names, fields, own_fields
        The names that the certificate is for; its subject, and that without what the formula puts in.

    files
        What is at the paths of the pair and its authority.

    key, certificate
        What the pair will be, PEM; ``None`` for what has to be made.

    holds
        Between which moments nothing has to be done, if nothing has now.
    """

    kind: tuple[str, int | None]
    kind_text: str
    names: list[str]
    fields: dict[str, str]
    own_fields: dict[str, str]
    files: dict[str, _mta_pem.File | None]
    key: bytes | None = None
    certificate: bytes | None = None
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    holds: tuple[datetime.datetime, datetime.datetime] | None = None

    def data(self, path: str) -> bytes | None:
        """What is in the file at one of the paths; ``None`` when there is none."""
        file = self.files[path]
        return None if file is None else file.data


@dataclass
class _Issuer:
    """
    Who is to have signed the certificate.

    anchors
        By what that is recognised in the certificate that is there.

    text
        For messages: whom clients have to trust.

    authority
        The authority whose certificate is, or will be, on this host.

    reason
        Why whatever certificate there is has to be replaced.

    other
        Whether the one that is there was signed by another one, as far as the reason tells.
    """

    anchors: Sequence[_mta_x509.Anchor] | _mta_x509.Trust
    text: str
    authority: _mta_ca.Authority | None = None
    reason: str | None = None
    other: bool = False


def _names(hostname: str, names: str | Iterable[str] | None) -> list[str]:
    return _mta_x509_make.check_names([hostname, *([names] if isinstance(names, str) else names or [])])


# -- by hand -----------------------------------------------------------------------------------


def create_key(
    minion: Minion,
    path: str,
    key_type: str = "rsa",
    key_size: int | None = None,
    passphrase_pillar: str | None = None,
) -> dict[str, Any]:
    """Do what ``mta_cert.create_key`` says."""
    kind, size, _ = _mta_x509_make.key_parameters(key_type, key_size)
    secret: str | None = _mta_secrets.get(minion, passphrase_pillar)
    passphrase = None if secret is None else secret.encode()
    _mta_pem.refuse_existing(path)
    pem = _mta_x509_make.make_key(kind, size, passphrase)
    _mta_transaction.alone(minion, lambda: _mta_pem_write.create(path, pem, 0o600))
    facts = _mta_x509.describe_key(pem, passphrase)
    return {"path": path, "key": facts["key"], "tlsa": facts["tlsa"]}


def create(
    minion: Minion,
    path: str,
    key: str,
    hostname: str,
    ca_certificate: str | None = None,
    ca_key: str | None = None,
    passphrase_pillar: str | None = None,
    subject: Mapping[str, str | None] | None = None,
    names: str | Sequence[str] | None = None,
    days: int = DAYS,
) -> dict[str, Any] | None:
    """Do what ``mta_cert.create`` says."""
    covered = _names(hostname, names)
    fields = _mta_x509_make.check_subject(subject, covered[0])
    _mta_x509_make.check_days(days)
    _mta_pem.refuse_existing(path)
    file = _mta_pem.read(key)
    if file is None:
        raise CommandExecutionError(f"The key {key} is not there: create it first with mta_cert.create_key")
    public = _mta_pem.usable_key(key, file.data)["public"]
    now = _mta_system.now()
    issuer: bytes | None = None
    if ca_certificate:
        signing = _mta_ca.Signing(ca_certificate, ca_key, passphrase_pillar)
        made, issuer = _mta_ca.issue(minion, public, fields, covered, days, signing)
    else:
        made = _mta_x509_make.make_certificate(public, now, days, fields, covered, file.data)
    problems = _mta_x509.serve(made, now, file.data, issuer or made)
    if problems:
        raise CommandExecutionError(f"{path} was not created: {'; '.join(problems)}")
    _mta_transaction.alone(minion, lambda: _mta_pem_write.create(path, made, 0o644))
    return _mta_pem.inspect(path)


def sign(
    minion: Minion,
    request: str,
    hostname: str,
    ca_certificate: str,
    ca_key: str,
    passphrase_pillar: str | None = None,
    subject: Mapping[str, str | None] | None = None,
    names: str | Sequence[str] | None = None,
    days: int = DAYS,
) -> str:
    """Do what ``mta_cert.sign`` says."""
    covered = _names(hostname, names)
    fields = _mta_x509_make.check_subject(subject, covered[0])
    _mta_x509_make.check_days(days)
    pem: str | bytes = request
    if "-----BEGIN" not in request:
        file = _mta_pem.read(request)
        if file is None:
            raise CommandExecutionError(f"The request {request} is not there")
        pem = file.data
    public = _mta_x509.describe_request(pem)["public"]
    signing = _mta_ca.Signing(ca_certificate, ca_key, passphrase_pillar)
    return _mta_ca.issue(minion, public, fields, covered, days, signing)[0].decode()


def verify(
    certificate: str,
    key: str | None = None,
    ca_certificate: str | None = None,
    hostname: str | Sequence[str] | None = None,
) -> list[str]:
    """Do what ``mta_cert.verify`` says."""
    now, problems, data = _mta_system.now(), [], {}
    names = _mta_x509_make.check_names([hostname] if isinstance(hostname, str) else hostname or [])
    for path in filter(None, (certificate, ca_certificate, key)):
        file = _mta_pem.read(path)
        if file is None:
            return [f"{path} is not there"]
        data[path] = file.data
        wrong = _mta_pem.wrong_access(file, "server key") if path == key else None
        problems += [f"{key} {wrong}"] if wrong else []
    private = public = None
    anchors: Sequence[_mta_x509.Anchor] | _mta_x509.Trust = _mta_x509.Trust.ITSELF
    chain = data[certificate]
    try:
        _mta_pem.describe(certificate, chain)
        if ca_certificate:
            anchors = _mta_pem.describe(ca_certificate, data[ca_certificate])
        if key:
            private, public = data[key], _mta_pem.usable_key(key, data[key])["public"]
    except CommandExecutionError as err:
        return [str(err)]
    problems += _mta_x509.problems(chain, now, anchors, names, public=public)
    return problems + _mta_x509.serve(chain, now, private, data[ca_certificate] if ca_certificate else chain)


# -- the participant ---------------------------------------------------------------------------


def plan(minion: Minion, name: str, key: str, hostname: str, **arguments: Any) -> Plan:
    """
    Tell what :func:`apply` would change; reads only, and asks no other host.

    A good pair that the server does not show, because somebody replaced the files and did not reload Postfix, is
    put in force. That is asked in a conversation, once for each content of the files, and again while an smtpd(8)
    lives that began before they were there: the next client may be its, unless Postfix was reloaded since.

    name, key
        Absolute paths of the certificate and the private key.

    hostname
        The server's FQDN.

    arguments
        Those of the state ``mta_cert.managed``.

    Raises ``SaltInvocationError`` for a bad argument.
    """
    requested, now = Requested.of(name, key, hostname, arguments), _mta_system.now()

    def judge() -> dict[str, Any]:
        found = _survey(minion, now, requested)
        served = [name, *filter(None, [requested.chain_file])]
        before, reloaded = _processes_before([*served, key])
        # Of several processes the conversation meets one, and the next client another.
        if not found.changes and (_mta_judge.stale(served) or (before and not reloaded)):
            found.changes[name] = {"old": "another certificate is served", "new": "served"}
        holds = (now, now) if before else found.holds
        return {"changes": found.changes, "notes": found.notes, "holds": holds}

    found: Plan = _mta_plan_cache.plan(minion, name, lambda: _evidence(minion, requested), judge, now)
    return found


def _processes_before(paths: Iterable[str]) -> tuple[bool, bool]:
    """
    Whether an smtpd(8) lives that may have read these files before their last change; whether Postfix was reloaded
    since, after which such a process ends with its client.

    A reload begins a new qmgr(8).
    """
    changed = max((os.stat(path).st_ctime for path in paths if os.path.exists(path)), default=0.0)
    before = any(start < changed for start in _mta_services.started("smtpd"))
    # Where the clock was ahead then, nobody can say.
    return before, before and (
        changed > time.time() or all(start > changed for start in _mta_services.started("qmgr"))
    )


def _evidence(minion: Minion, requested: Requested) -> list[Any] | None:
    """What the plan rests on; ``None`` where it is not kept."""
    sources = [requested.certificate_source, requested.key_source, requested.chain_source]
    if any(source and not source.startswith("/") for source in sources):
        return None  # pillar has the key
    authority = requested.ca_certificate
    if authority and _mta_ca.is_planned(minion, authority):
        return None  # what the authority will be counts, not what it is
    paths = [requested.name, requested.key, requested.chain_file, authority, *sources]
    fetched = _mta_fleet_ca.fetched(minion, authority) if requested.source == "fleet_ca" and authority else None
    return [requested, [path and tuple(_mta_pem.read(path) or ()) for path in paths], fetched]


def apply(minion: Minion, name: str, key: str, hostname: str, **arguments: Any) -> None:
    """
    Make the key and the certificate what :func:`plan` says, as part of the transaction.

    Parameters as for :func:`plan`. Raises ``CommandExecutionError`` when the pair cannot be made or is not good,
    or a file cannot be written.
    """
    _mta_transaction.begin(minion)
    requested, now = Requested.of(name, key, hostname, arguments), _mta_system.now()
    found = _survey(minion, now, requested)
    files: dict[str, bytes] = {}
    private = found.key or _mta_x509_make.make_key(*found.kind)
    certificate = found.certificate
    if certificate is None:
        certificate, anchors = _issue(minion, now, private, found, requested)
        problems = _judge(now, certificate, private, found, requested, anchors)
        if problems:
            raise CommandExecutionError(f"The new {name} is not good: {'; '.join(problems)}")
        if requested.source == "fleet_ca" and requested.ca_certificate and anchors:
            files.update(_fetched(minion, anchors, found, requested.ca_certificate, str(requested.ca_minion)))
    contents = {key: private, name: certificate}
    if requested.chain_file:
        contents[requested.chain_file] = private + certificate
    files.update({path: data for path, data in contents.items() if path in found.changes})
    apart = private != found.data(key) and _is_read_apart(key)
    _mta_pem_write.write(minion, files, halted=apart)
    if not files:
        _mta_transaction.need(minion, {"postfix": "reload"})


def _fetched(minion: Minion, authority: bytes, found: _Survey, path: str, ca_minion: str) -> dict[str, bytes]:
    """The fleet's authority as a file to write, where it is new; record whose it is."""
    _mta_fleet_ca.record_fetched(minion, path, ca_minion, authority)
    return {} if found.data(path) == authority else {path: authority}


def only_plan(minion: Minion, keep: Sequence[str]) -> Plan:
    """
    Tell what :func:`only_apply` would remove: files of pairs that were made here and that nobody wants any more.

    keep
        Paths of all files that the pairs need which stay.

    A file that somebody has changed since stays, with the others, and so does one that main.cf or master.cf still
    name. Where something else was before the first apply, that comes back. An authority of this host's always
    stays.
    """
    found, named = _obsolete(minion, keep)
    left = [f"{path} stays, as it is named by {where}" for path, where in named.items()] + found["stays"]
    return Plan(found["changes"], notes=left)


def _obsolete(minion: Minion, keep: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """What ``_mta_restore.obsolete`` says of them; path to where it is still named."""
    keep = [*keep, minion.state.path(FETCHED)]
    found: dict[str, Any] = _mta_restore.obsolete(minion, "mta_cert", keep)
    named: dict[str, str] = {}
    if found["changes"]:
        named = _mta_postfix_outlook.naming(minion, list(found["changes"]))
    if named:
        found = _mta_restore.obsolete(minion, "mta_cert", [*keep, *named])
    return found, named


def only_apply(minion: Minion, keep: Sequence[str]) -> None:
    """Remove what :func:`only_plan` tells, as part of the transaction."""
    _mta_transaction.begin(minion)
    _mta_restore.restore(minion, list(_obsolete(minion, keep)[0]["changes"]))


def _is_read_apart(key: str) -> bool:
    """Whether an smtpd(8) that is started at this moment reads this key file, and the certificate from another."""
    try:
        listeners = _mta_postfix_view.listeners()
    except CommandExecutionError:
        return True  # main.cf or master.cf is broken: an smtpd may still start
    read = {os.path.realpath(path) for listener in listeners for path in listener["keys"]}
    return os.path.realpath(key) in read


# -- what is there, and what has to be done ----------------------------------------------------


def _survey(minion: Minion, now: datetime.datetime, requested: Requested) -> _Survey:
    """Look at the pair. Raises where a person has to decide."""
    kind, size, text = _mta_x509_make.key_parameters(requested.key_type, requested.key_size)
    _mta_x509_make.check_days(requested.days, requested.renew_days)
    names = _names(requested.hostname, requested.alternative_names)
    optional = requested.chain_file, requested.ca_certificate
    paths = [requested.name, requested.key, *(path for path in optional if path)]
    if len(set(paths)) < len(paths):
        raise SaltInvocationError(f"The certificate, the key and the others need a file each: {', '.join(paths)}")
    found = _Survey(
        kind=(kind, size),
        kind_text=text,
        names=names,
        fields=_mta_x509_make.check_subject(requested.subject, names[0]),
        own_fields=_mta_x509_make.check_subject(requested.subject),
        files={path: _mta_pem.read(path) for path in paths},
    )
    if requested.source == "files":
        _survey_files(minion, now, requested, found)
    else:
        _survey_made(minion, now, requested, found)
    if requested.chain_file:
        _survey_chain_file(requested.chain_file, found)
    _survey_access(requested, found)
    return found


def _survey_chain_file(path: str, found: _Survey) -> None:
    """Find a chain file that is not what the pair is."""
    there = found.data(path)
    pair = found.key + found.certificate if found.key and found.certificate else None
    if there is None or there != pair:
        old = None if there is None else "another content"
        found.changes[path] = {"old": old, "new": "the key and the certificate in one file"}


def _survey_access(requested: Requested, found: _Survey) -> None:
    """Find what others have access to."""
    kinds: list[tuple[str | None, _mta_pem.Kind]] = [
        (requested.key, "server key"),
        (requested.name, "certificate"),
        (requested.chain_file, "server key"),
    ]
    for path, kind in kinds:
        file = found.files[path] if path else None
        wrong = _mta_pem.wrong_access(file, kind) if file else None
        if not (path and file and wrong):
            continue
        if kind == "server key" and requested.key not in found.changes:
            found.notes.append(f"{path} {wrong}. Who has read the key can be the server: consider a new one")
        if path not in found.changes:
            mode = "0644" if kind == "certificate" else "0600"
            found.changes[path] = {"old": _access(file), "new": {"mode": mode, "uid": 0}}


def _access(file: _mta_pem.File | None) -> dict[str, Any] | None:
    """What a change shows of a key that it replaces."""
    return None if file is None else {"mode": f"{file.mode:04o}", "uid": file.uid}


def _old(file: _mta_pem.File | None) -> Any:
    """What a change shows of the certificate that it replaces."""
    if file is None:
        return None
    try:
        return _summary(_mta_x509.describe(file.data)[0])
    except CommandExecutionError:
        return "not a certificate that can be understood"


def _summary(facts: _mta_x509.CertificateFacts) -> dict[str, Any]:
    return {
        "subject": facts["subject"],
        "names": facts["names"],
        "issuer": facts["issuer"],
        "key": facts["key"],
        "serial": facts["serial"],
        "not_after": _mta_x509.date_of(facts["not_after"]),
    }


# -- a pair that is made -----------------------------------------------------------------------


def _survey_made(minion: Minion, now: datetime.datetime, requested: Requested, found: _Survey) -> None:
    """Judge the pair that is there, and find what has to be made."""
    certificate_file, key_file = found.files[requested.name], found.files[requested.key]
    issuer = _issuer(minion, requested, found)
    facts, reasons = _survey_key(requested.key, key_file)
    if certificate_file is not None:
        reasons += _survey_certificate(now, certificate_file, facts, issuer, requested, found)
    if issuer.reason:
        reasons.append(issuer.reason)
    if facts and key_file and certificate_file and not reasons:
        found.key, found.certificate = key_file.data, certificate_file.data
        if facts["key"] != found.kind_text:
            found.notes.append(
                f"The key stays {facts['key']}, which is good: another ({found.kind_text}) would break "
                f"records that pin it. Remove {requested.key} to get one"
            )
        return
    facts = _kept(requested, facts, key_file, certificate_file, reasons)
    if facts and key_file:
        found.key = key_file.data
    else:
        new = {"key": found.kind_text, "mode": "0600", "uid": 0}
        found.changes[requested.key] = {"old": _access(key_file), "new": new}
    _plan_certificate(minion, requested, found, issuer, facts["key"] if facts else found.kind_text)
    if reasons:
        found.notes.append("Reason: " + "; ".join(reasons))


def _survey_key(path: str, file: _mta_pem.File | None) -> tuple[_mta_x509.KeyFacts | None, list[str]]:
    """What the key is that is there, ``None`` when it is of no use; and the reasons why."""
    if file is None:
        return None, []
    if _mta_x509.is_encrypted(file.data):
        raise CommandExecutionError(
            f"The key {path} is encrypted, and Postfix cannot ask for a passphrase. "
            "Decrypt it (openssl pkey), or remove it to get a new key and certificate"
        )
    try:
        facts = _mta_x509.describe_key(file.data)
    except CommandExecutionError:
        return None, ["the key file is not a PEM private key"]
    return (None, [facts["weakness"]]) if facts["weakness"] else (facts, [])


def _survey_certificate(
    now: datetime.datetime,
    file: _mta_pem.File,
    key: _mta_x509.KeyFacts | None,
    issuer: _Issuer,
    requested: Requested,
    found: _Survey,
) -> list[str]:
    """Why the certificate that is there has to be replaced."""
    try:
        leaf = _mta_pem.describe(requested.name, file.data, requested.renew_days)[0]
    except CommandExecutionError:
        return ["the certificate file is not a PEM certificate"]
    if now < leaf["not_before"]:
        raise CommandExecutionError(
            f"{requested.name} is valid from {_mta_x509.date_of(leaf['not_before'])} on, but the clock says"
            f" {_mta_x509.date_of(now)}. Set the clock, or remove the file"
        )
    renewal: datetime.datetime | None = leaf["renewal"]
    if issuer.authority and requested.source == "local_ca":
        # One that lasts as long as its authority does: renewing it would gain nothing until that is renewed. The
        # authority of a fleet is renewed elsewhere, and asked again.
        renewal = None if issuer.authority.not_after - leaf["not_after"] < _mta_x509.DAY else renewal
    found.holds = leaf["not_before"], renewal or leaf["not_after"]
    return _mta_x509.problems(
        file.data,
        now,
        issuer.anchors,
        found.names,
        renewal,
        key["public"] if key else None,
        # What a fleet's certificates say beside the names is for its signing policy to decide.
        None if requested.source == "fleet_ca" else found.own_fields,
    )


def _kept(
    requested: Requested,
    facts: _mta_x509.KeyFacts | None,
    key: _mta_pem.File | None,
    certificate: _mta_pem.File | None,
    reasons: list[str],
) -> _mta_x509.KeyFacts | None:
    """The key that the new certificate is for; ``None`` for a new one. Adds to the reasons."""
    if key is None:
        reasons += ["the key is missing"] if certificate else []
    if not (facts and key) or (requested.rotate_key and certificate):
        return None
    try:
        _mta_x509.describe_key(key.data, thorough=True)
    except CommandExecutionError:
        reasons.append("the private key is damaged")
        return None
    return facts


def _plan_certificate(
    minion: Minion, requested: Requested, found: _Survey, issuer: _Issuer, key_text: str
) -> None:
    """Say which certificate has to be made; raises when the one who is to sign it cannot."""
    subject = _mta_x509_make.subject_text(found.fields)
    signer = _signer_text(minion, requested, issuer, subject)
    file = found.files[requested.name]
    new = {
        "subject": subject,
        "names": found.names,
        "issuer": signer,
        "key": key_text,
        "days": requested.days,
    }
    found.changes[requested.name] = {"old": _old(file), "new": new}
    # Of two pairs of one authority the first one fetches it.
    announced = Run.of(minion).changes.get("mta_cert", {})
    if issuer.reason and requested.ca_certificate and requested.ca_certificate not in announced:
        old = issuer.authority and issuer.authority.subject
        found.changes[requested.ca_certificate] = {"old": old, "new": signer}
    if requested.source == "fleet_ca":
        found.notes.append(f"The CA minion {requested.ca_minion} signs it, and is asked in a real run only")
    before = _signed_before(file, issuer)
    if before:
        found.notes.append(_trust_note(issuer.text, before))


def _trust_note(now: str, before: str) -> str:
    return f"Clients have to trust {now} from now on; the certificate so far is signed by another, {before}"


def _signed_before(file: _mta_pem.File | None, issuer: _Issuer) -> str | None:
    """Who signed the certificate that is there, where that was another one; ``None`` when nobody can tell."""
    if file is None:
        return None
    try:
        last = _mta_x509.describe(file.data)[-1]
    except CommandExecutionError:
        return None
    if not issuer.other and _mta_x509.is_signed_by(file.data, issuer.anchors):
        return None
    return last["issuer"] or "an authority without a name"


def _issuer(minion: Minion, requested: Requested, found: _Survey) -> _Issuer:
    """Who is to have signed the certificate."""
    path = requested.ca_certificate
    if requested.source == "self_signed" or not path:
        return _Issuer(_mta_x509.Trust.ITSELF, f"the certificate {requested.name} itself")
    if requested.source == "local_ca":
        authority = _mta_ca.authority(minion, path)
        return _Issuer(authority.anchors, f"the authority {authority.subject} ({path})", authority)
    text = f"the authority of the CA minion {requested.ca_minion} ({path})"
    fetched = _mta_fleet_ca.fetched(minion, path)
    other = not fetched or fetched["ca_minion"] != requested.ca_minion
    if found.files[path] is None:
        reason = f"the authority's certificate {path} is not there"
        return _Issuer(_mta_x509.Trust.ANY, text, None, reason, other)
    authority = _mta_ca.authority(minion, path)
    if other or not _mta_fleet_ca.is_fetched(minion, path, authority.anchors):
        reason = f"the authority {path} ({authority.subject}) is not from the CA minion {requested.ca_minion}"
        return _Issuer(_mta_x509.Trust.ANY, text, authority, reason, True)
    return _Issuer(authority.anchors, text, authority)


def _signer_text(minion: Minion, requested: Requested, issuer: _Issuer, own: str) -> str:
    """The name that will sign; raises when it cannot."""
    if requested.source == "self_signed":
        return own
    if requested.source == "fleet_ca":
        return f"the CA minion {requested.ca_minion}"
    if issuer.authority and issuer.authority.planned:
        subject = issuer.authority.subject
    else:
        subject = _mta_x509.describe(_mta_ca.signer(minion, requested.signing).certificate)[0]["subject"]
    if subject == own:
        raise SaltInvocationError(f"The server and its authority must not have the same name: {own}")
    return subject


def _issue(
    minion: Minion, now: datetime.datetime, private: bytes, found: _Survey, requested: Requested
) -> tuple[bytes, bytes | None]:
    """Have a certificate made for the key; return it and the authorities that it leads to, ``None`` for itself."""
    public = _mta_x509.describe_key(private)["public"]
    fields, names, days = found.fields, found.names, requested.days
    if requested.source == "self_signed":
        return _mta_x509_make.make_certificate(public, now, days, fields, names, private), None
    if requested.source == "local_ca":
        return _mta_ca.issue(minion, public, fields, names, days, requested.signing)
    request, ca_minion = _mta_x509_make.make_request(private, fields, names), requested.ca_minion
    chain = _mta_fleet_ca.sign_request(minion, request, str(ca_minion), requested.policy, days)
    authority = _mta_fleet_ca.authority(minion, str(ca_minion))
    made, anchors = (_mta_x509.pick(pem, "certificates") for pem in (chain, authority))
    if not made or not anchors:
        raise CommandExecutionError(f"The CA minion {ca_minion} answered without a certificate")
    return made, anchors


def _judge(
    now: datetime.datetime,
    certificate: bytes,
    private: bytes,
    found: _Survey,
    requested: Requested,
    anchors: bytes | None,
) -> list[str]:
    """What is wrong with a pair that has just been made, before it replaces anything."""
    public = _mta_x509.describe_key(private)["public"]
    trusted = _mta_x509.describe(anchors) if anchors else _mta_x509.Trust.ITSELF
    leaf = _mta_x509.describe(certificate, requested.renew_days)[0]
    renewal = None if requested.source == "local_ca" else leaf["renewal"]
    problems = _mta_x509.problems(certificate, now, trusted, found.names, renewal, public)
    return problems or _mta_x509.serve(certificate, now, private, anchors or certificate)


# -- a pair that is taken over -----------------------------------------------------------------


class _Left(NamedTuple):
    """What an administrator or an ACME client has left: PEM, and where."""

    certificate: bytes
    key: bytes
    certificate_source: str
    key_source: str


def _survey_files(minion: Minion, now: datetime.datetime, requested: Requested, found: _Survey) -> None:
    """Check the pair that an administrator or an ACME client has left; raise unless it is good."""
    try:
        left = _left(minion, requested)
        pair = {requested.key: left.key, requested.name: left.certificate}
        fresh = [path for path, data in pair.items() if found.data(path) != data]
        chain = _checked(now, left, requested.renew_days, found.names, serve=bool(fresh))
    except CommandExecutionError as err:
        raise CommandExecutionError(
            f"The new pair is not used, and the server keeps the one that it has: {err}"
        ) from err
    found.key, found.certificate = left.key, left.certificate
    leaf = chain[0]
    found.holds = leaf["not_before"], leaf["renewal"] if now < leaf["renewal"] else leaf["not_after"]
    if requested.key in fresh:
        new = {"key": leaf["key"], "from": left.key_source, "mode": "0600", "uid": 0}
        found.changes[requested.key] = {"old": _access(found.files[requested.key]), "new": new}
    if requested.name in fresh:
        file = found.files[requested.name]
        new = {**_summary(leaf), "from": left.certificate_source}
        found.changes[requested.name] = {"old": _old(file), "new": new}
        found.notes += _notes_on_issuer(chain, file)
    found.notes += _notes_on_left(now, left, chain)


def _left(minion: Minion, requested: Requested) -> _Left:
    """Read the pair where it was left; raises when something is missing."""
    where, key_where = str(requested.certificate_source), str(requested.key_source)
    certificate = _mta_pem.source(minion, where)
    if requested.chain_source:
        certificate += b"\n" + _mta_pem.source(minion, requested.chain_source)
    private = _mta_pem.source(minion, key_where, private=True)
    left = _Left(_mta_x509.pick(certificate, "certificates"), _mta_x509.pick(private, "key"), where, key_where)
    for path, data, kind in ((where, left.certificate, "certificate"), (key_where, left.key, "private key")):
        if not data:
            raise CommandExecutionError(f"{path} holds no PEM {kind}")
    return left


def _checked(
    now: datetime.datetime, left: _Left, renew_days: int | None, names: Collection[str], serve: bool
) -> list[_mta_x509.CertificateFacts]:
    """
    What the certificates are of a pair that is to be taken over; raises when it is not good.

    ``serve``: load it as a server would, which takes pyOpenSSL; not for one that has been taken over.
    """
    if _mta_x509.is_encrypted(left.key):
        raise CommandExecutionError(f"{left.key_source} is encrypted, and Postfix cannot ask for a passphrase")
    public = _mta_pem.describe_key(left.key_source, left.key)["public"]
    chain = _mta_pem.describe(left.certificate_source, left.certificate, renew_days)
    problems = _mta_x509.problems(left.certificate, now, _mta_x509.Trust.ANY, names, public=public)
    if not problems and serve:
        # An authority's own faults are nothing that this server's administrator can mend.
        strict = all(upper["strict_ca"] for upper in chain[1:])
        problems = _mta_x509.serve(left.certificate, now, left.key, strict=strict)
    if problems:
        raise CommandExecutionError(f"{left.certificate_source}: {'; '.join(problems)}")
    return chain


def _notes_on_issuer(chain: Sequence[_mta_x509.CertificateFacts], file: _mta_pem.File | None) -> list[str]:
    """
    Say whom clients have to trust, where that changes.

    An authority's intermediate ones may be others at each renewal: the last issuer counts.
    """
    try:
        before = _mta_x509.describe(file.data)[-1]["issuer"] if file else None
    except CommandExecutionError:
        return []
    now = chain[-1]["issuer"]
    return [_trust_note(now, before)] if before and before != now else []


def _notes_on_left(now: datetime.datetime, left: _Left, chain: Sequence[_mta_x509.CertificateFacts]) -> list[str]:
    """What an administrator should know of a pair that is taken over."""
    notes, leaf = [], chain[0]
    if now >= leaf["renewal"]:
        notes.append(
            f"{left.certificate_source} ends at {_mta_x509.date_of(leaf['not_after'])}, and nobody has renewed it"
            f" since {_mta_x509.date_of(leaf['renewal'])}: check what should renew it"
        )
    if len(chain) == 1 and not leaf["self_signed"]:
        notes.append(
            f"{left.certificate_source} holds one certificate only: clients that do not have its issuer,"
            f" {leaf['issuer']}, cannot verify it. ACME clients have a file with the whole chain"
        )
    notes += [
        f"{left.certificate_source}: clients that check strictly refuse the authority {upper['subject']}, whose"
        " extensions (basic constraints, key usage, key identifier) are not those that RFC 5280, 4.2.1, asks for"
        for upper in chain[1:]
        if not upper["strict_ca"]
    ]
    group = _mta_pem.reading_group(left.key_source)
    if group:
        notes.append(f"{left.key_source} can be read by the group {group}: whoever is in it can be the server")
    return notes
