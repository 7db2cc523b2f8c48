"""TODO subject (mta_ca)."""

import contextlib
import datetime

from salt.exceptions import CommandExecutionError, SaltInvocationError
from salt.utils.args import clean_kwargs

import _mta_pem
import _mta_pem_write
import _mta_plan_cache
import _mta_restore
import _mta_secrets
import _mta_transaction
import _mta_x509
from _mta_minion import Minion
from _mta_run import Run

DAYS = 3650
COMMON_NAME_LIMIT = 64
# Of plan(), apply() and the state, with their defaults.
ARGUMENTS = {
    "subject": None,
    "common_name": None,
    "key_type": "rsa",
    "key_size": None,
    "days": DAYS,
    "renew_days": None,
    "passphrase_pillar": None,
    "previous_passphrase_pillar": None,
}


def _now():
    return datetime.datetime.now(datetime.timezone.utc)


def _arguments(args):
    args = clean_kwargs(**args)
    unknown = sorted(set(args) - set(ARGUMENTS))
    if unknown:
        raise SaltInvocationError(f"there is no argument {', '.join(unknown)}; known: {', '.join(ARGUMENTS)}")
    return {**ARGUMENTS, **args}


def _date(moment):
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _passphrase(minion: Minion, path):
    """The passphrase at a pillar path as bytes; ``None`` when pillar has none."""
    value = _mta_secrets.get(minion, path)
    return None if value is None else value.encode()


def _fields(minion: Minion, subject, common_name):
    name = common_name or f"CA of {minion.grains.get('fqdn') or minion.opts['id']}"
    return _mta_x509.check_subject(subject, name[:COMMON_NAME_LIMIT])


def _certificates(path, file, renew_days=None):
    try:
        return _mta_x509.describe(file.data, renew_days)
    except CommandExecutionError as err:
        raise CommandExecutionError(f"{path} {err}") from err


def create(
    minion: Minion,
    path,
    key,
    subject=None,
    common_name=None,
    key_type="rsa",
    key_size=None,
    days=DAYS,
    passphrase_pillar=None,
):
    """
    Create a certificate authority: a private key and a certificate that signs itself.

    path
        Absolute path of the certificate (0644); must not exist yet.

    key
        Absolute path of the private key (0600); must not exist yet.

    subject
        Further fields of its name: country (or ``C``), state (``ST``), locality (``L``), organization
        (``O``), unit (``OU``), email. Default: none.

    common_name
        Its name. Default: ``CA of`` and the minion's FQDN.

    key_type
        ``rsa`` (default), ``ec`` (or ``ecdsa``) or ``ed25519``.

    key_size
        Bits. rsa: 2048, 3072, 4096, 8192; ec: 256, 384. Default 3072 for rsa, 256 for ec.

    days
        Validity in days, default 3650.

    passphrase_pillar
        Pillar path of a passphrase (``a:b:c``; the value may be an ``sdb://`` URI) that encrypts the key. Default:
        not encrypted.

    Returns what ``mta_cert.inspect`` returns. Raises ``CommandExecutionError`` when a file exists or cannot be
    written, ``SaltInvocationError`` for a bad argument.
    """
    kind, size, _ = _mta_x509.key_parameters(key_type, key_size)
    _mta_x509.check_days(days)
    fields, passphrase = _fields(minion, subject, common_name), _passphrase(minion, passphrase_pillar)
    _mta_pem.refuse_existing(path, key)
    pem = _mta_x509.make_key(kind, size, passphrase)
    certificate = _mta_x509.make_authority(pem, _now(), days, fields, passphrase)

    def write():
        _mta_pem.refuse_existing(path, key)
        _mta_pem_write.create(key, pem, 0o600)
        _mta_pem_write.create(path, certificate, 0o644)

    _mta_transaction.alone(minion, write)
    return _mta_pem.inspect(path)


def authority(minion: Minion, path):
    """
    Tell which authority will be at a path when this run is over.

    path
        Absolute path of its certificate.

    Returns a dictionary: ``anchors`` (``[{"name", "public"}]``: what it can be recognised by, DER; empty for one
    that has no key yet), ``not_after`` (``datetime``), ``planned`` (whether an earlier state of a dry run would
    make or renew it), ``subject`` and ``name`` (RFC 4514 text and DER, of the first certificate; no name where the
    key is planned, too).

    Raises ``CommandExecutionError`` when there is none, or it cannot be read.
    """
    planned = _planned(minion).get(path)
    if planned:
        return {**planned, "anchors": [planned] if planned["public"] else [], "planned": True}
    file = _mta_pem.read(path)
    if file is None:
        raise CommandExecutionError(f"The authority {path} is not there; mta_cert.ca_managed creates a new one")
    found = _certificates(f"The authority {path}", file)
    return {
        "anchors": [{"name": one["name"], "public": one["public"]} for one in found],
        "not_after": max(one["not_after"] for one in found),
        "planned": False,
        "subject": found[0]["subject"],
        "name": found[0]["name"],
    }


def signer(minion: Minion, certificate, key, passphrase_pillar=None, previous_passphrase_pillar=None):
    """
    Tell whether an authority can sign at this moment.

    certificate, key
        Absolute paths of its certificate and its private key.

    passphrase_pillar, previous_passphrase_pillar
        Pillar paths of the passphrase of the key, and of the one before it. Default: none.

    Returns its certificate as PEM bytes. Raises ``CommandExecutionError`` when it cannot sign, with the reason.
    """
    return _signer(minion, certificate, key, passphrase_pillar, previous_passphrase_pillar, _now())[0]


def _signer(minion: Minion, certificate, key, passphrase_pillar, previous_passphrase_pillar, now):
    """The certificate, the key and the passphrase to sign with, all as bytes."""
    if not key:
        raise SaltInvocationError(f"ca_key is needed to sign by {certificate}")
    files = {path: _mta_pem.read(path) for path in (certificate, key)}
    for path, file in files.items():
        if file is None:
            raise CommandExecutionError(
                f"The authority's {path} is not there; mta_cert.ca_managed creates a new one"
            )
    candidates = _certificates(certificate, files[certificate])
    passphrases = [_passphrase(minion, passphrase_pillar), _passphrase(minion, previous_passphrase_pillar)]
    facts, passphrase = _unlock(key, files[key], passphrases)
    for candidate in candidates:
        if candidate["public"] == facts["public"]:
            break
    else:
        raise CommandExecutionError(f"The key {key} does not belong to {certificate}")
    if not candidate["ca"]:
        raise CommandExecutionError(f"{certificate} is not an authority's certificate")
    if now > candidate["not_after"]:
        raise CommandExecutionError(f"{certificate} expired at {_date(candidate['not_after'])}")
    return candidate["pem"], files[key].data, passphrase


def _unlock(path, file, passphrases):
    """
    Load a private key with the first passphrase, else with the one before it.

    Return what ``mta_x509.describe_key`` says, and the passphrase that unlocks it. Raise for a weak key.
    """
    first, *others = passphrases
    try:
        facts, passphrase = _mta_x509.describe_key(file.data, first), first
    except CommandExecutionError as err:
        # Without a passphrase for the time after it, an old one is of no use.
        for passphrase in filter(None, others if first else ()):
            try:
                facts = _mta_x509.describe_key(file.data, passphrase)
                break
            except CommandExecutionError:
                continue
        else:
            raise CommandExecutionError(f"The key {path} {err}") from err
    if facts["weakness"]:
        raise CommandExecutionError(f"{path}: {facts['weakness']}. Move it away to get a new one")
    return facts, passphrase


def issue(
    minion: Minion,
    public,
    fields,
    names,
    days,
    certificate,
    key,
    passphrase_pillar=None,
    previous_passphrase_pillar=None,
):
    """
    Sign a server's certificate, and check the result as strict clients would.

    public
        DER of the server's public key.

    fields, names
        Subject and names, as ``mta_x509.check_subject`` and ``mta_x509.check_names`` return them.

    days
        Validity in days; it ends with the authority at the latest.

    certificate, key, passphrase_pillar, previous_passphrase_pillar
        As for :func:`signer`.

    Returns the certificate as PEM bytes. Raises as :func:`signer` does.
    """
    now = _now()
    issuer, pem, passphrase = _signer(minion, certificate, key, passphrase_pillar, previous_passphrase_pillar, now)
    made = _mta_x509.make_certificate(public, now, days, fields, names, pem, passphrase, issuer)
    problems = _mta_x509.serve(made, now, anchors=issuer)
    if problems:
        raise CommandExecutionError(f"{certificate} did not sign: {'; '.join(problems)}")
    return made


def _planned(minion: Minion):
    """Authorities that this run would create or renew; a certificate is checked against them in test mode."""
    return Run.of(minion).authorities


def is_planned(minion: Minion, path):
    """
    Tell whether this run would create or renew the authority at a path.

    path
        Absolute path of its certificate.
    """
    return path in _planned(minion)


def plan(minion: Minion, name, key, **arguments):
    """
    Tell what :func:`apply` would change; reads only.

    - An existing authority is never overwritten. Without its key, with a key of another, with the wrong
      passphrase: an error.
    - Near its end, or when strict clients refuse it (the how-to's own lacks the key usage), its certificate is
      renewed with the same key and name: what it signed before stays valid.
    - A passphrase in pillar encrypts a key that is not encrypted yet, or that the previous passphrase encrypts. No
      copy of it as it was is kept when that is committed: a roll back leaves it encrypted.
    - One that is not valid *yet* is an error: the clock is wrong.

    name, key
        Absolute paths of its certificate and its private key.

    subject, common_name, key_type, key_size, days, passphrase_pillar
        As for :func:`create`. Type and size are for a new key.

    renew_days
        How many days before its end the certificate is renewed. Default: a third of its lifetime, 30 at most.

    previous_passphrase_pillar
        Pillar path of the passphrase before ``passphrase_pillar``'s, which opens the key when that does not. The
        key is then encrypted with the new one. Default: none.

    Returns ``{"changes", "activate", "comment", "errors"}``. ``errors`` tells why an existing authority cannot be
    used. Raises ``SaltInvocationError`` for a bad argument.
    """
    wanted, now = _arguments(arguments), _now()
    _planned(minion).pop(name, None)

    def judge():
        found = _survey(minion, now, name, key, wanted)
        if found["issue"]:
            end = now + datetime.timedelta(days=wanted["days"])
            _planned(minion)[name] = {key: found[key] for key in ("subject", "name", "public")}
            _planned(minion)[name]["not_after"] = end
        return found

    return _mta_plan_cache.plan(minion, name, lambda: _evidence(minion, name, key, wanted), judge, now)


def _evidence(minion: Minion, name, key, wanted):
    """What a verdict about the authority rests on; ``None`` where none is remembered: a passphrase must not be."""
    if any(_passphrase(minion, wanted[path]) for path in ("passphrase_pillar", "previous_passphrase_pillar")):
        return None
    files = [tuple(_mta_pem.read(path) or ()) for path in (name, key)]
    return [key, wanted, minion.grains.get("fqdn"), files]


def apply(minion: Minion, name, key, **arguments):
    """
    Create or renew the authority, and correct what others could read, as part of the transaction.

    Parameters as for :func:`plan`. Raises ``CommandExecutionError`` for an existing authority that cannot be
    used, or a file that cannot be written.
    """
    _mta_transaction.begin(minion)
    wanted, now, files, protect = _arguments(arguments), _now(), {}, {}
    found = _survey(minion, now, name, key, wanted)
    pem, passphrase = found["key"], found["passphrase"]
    if pem is None:
        pem = _mta_x509.make_key(*found["parameters"], found["new_passphrase"])
        passphrase = found["new_passphrase"]
    elif found["lock"]:
        pem = _mta_x509.lock_key(pem, found["new_passphrase"], passphrase)
        protect[key] = _to_forget(minion, key, found["public"], [found["new_passphrase"], passphrase])
        passphrase = found["new_passphrase"]
    if found["write_key"]:
        files[key] = pem
    if found["issue"]:
        certificate = _mta_x509.make_authority(
            pem, now, wanted["days"], found["fields"], passphrase, found["renewed"]
        )
        problems = _mta_x509.serve(certificate, now, anchors=certificate)
        if problems:
            raise CommandExecutionError(f"The new {name} is not good: {'; '.join(problems)}")
        files[name] = certificate
    _mta_pem_write.write(minion, files, protect=protect)
    _planned(minion).pop(name, None)


def _to_forget(minion: Minion, path, public, passphrases):
    """The stores that must not keep a key that gets a new passphrase: of the originals, the same key only."""
    original = _mta_restore.content(minion, path)
    for passphrase in passphrases if original else ():
        with contextlib.suppress(CommandExecutionError):
            if _mta_x509.describe_key(original, passphrase)["public"] == public:
                return ("previous", "originals")
    return ("previous",)


def _survey(minion: Minion, now, name, key, wanted):
    """Look at the authority; return what is there and what has to be done. Raise for one that cannot be used."""
    kind, size, text = _mta_x509.key_parameters(wanted["key_type"], wanted["key_size"])
    _mta_x509.check_days(wanted["days"], wanted["renew_days"])
    fields = _fields(minion, wanted["subject"], wanted["common_name"])
    if name == key:
        raise SaltInvocationError(f"The certificate and the key need a file each: {name}")
    passphrase = _passphrase(minion, wanted["passphrase_pillar"])
    found = {
        "parameters": (kind, size),
        "fields": fields,
        "subject": _mta_x509.subject_text(fields),
        "name": None,
        "public": None,
        "key": None,
        "passphrase": None,
        "new_passphrase": passphrase,
        "lock": False,
        "write_key": False,
        "issue": False,
        "renewed": None,
        "changes": {},
        "notes": [],
    }
    certificate_file, key_file = _mta_pem.read(name), _mta_pem.read(key)
    certificates = []
    if certificate_file is not None:
        try:
            certificates = _certificates(name, certificate_file, wanted["renew_days"])
        except CommandExecutionError as err:
            raise CommandExecutionError(f"{err}. It is not overwritten") from err
        if key_file is None:
            raise CommandExecutionError(
                f"The authority {name} ({certificates[0]['subject']}) is there without its key {key}. "
                "Put the key back, or remove the certificate to get a new authority"
            )
    if key_file is None:
        found["write_key"] = True
        found["changes"][key] = {"old": None, "new": _key_change(text, bool(passphrase))}
    else:
        previous = _passphrase(minion, wanted["previous_passphrase_pillar"])
        text = _survey_key(key, key_file, passphrase, previous, found)
        found["name"] = _mta_x509.encode_subject(fields)
    reason = None
    if not certificates:
        found["issue"] = True
    else:
        reason = _renewal(name, key, certificates, found["public"], now)
        if certificates[0]["name"] != found["name"]:
            found["notes"].append(
                f"The authority keeps its name {certificates[0]['subject']}: with another name, "
                "the certificates that it has signed would not verify"
            )
            found.update(subject=certificates[0]["subject"], name=certificates[0]["name"])
        found["renewed"] = certificate_file.data
        found["holds"] = certificates[0]["not_before"], certificates[0]["renewal"]
    if reason:
        found["issue"] = True
        found["notes"].append(f"Renewed with the same key: {reason}")
    if found["issue"]:
        old = None
        if certificates:
            old = {item: certificates[0][item] for item in ("subject", "issuer", "key", "serial")}
            old["not_after"] = _date(certificates[0]["not_after"])
        new = {"subject": found["subject"], "issuer": found["subject"], "key": text, "days": wanted["days"]}
        found["changes"][name] = {"old": old, "new": new}
    return found


def _survey_key(path, file, passphrase, previous, found):
    """Judge the key that is there; returns what kind it is."""
    facts, opens = _unlock(path, file, [passphrase, previous])
    locked = _mta_x509.is_locked(file.data)
    lock = bool(passphrase) and not (locked and opens == passphrase)
    found.update(public=facts["public"], key=file.data, passphrase=opens, lock=lock)
    wrong = _mta_pem.wrong_access(path, file, "key")
    if lock or wrong:
        found["write_key"] = True
        old = {**_key_change(facts["key"], locked), "mode": f"{file.mode:04o}", "uid": file.uid}
        new = {**_key_change(facts["key"], locked or lock), "uid": 0}
        if lock and locked:
            old["passphrase"], new["passphrase"] = "the previous one", "the one in pillar"
        found["changes"][path] = {"old": old, "new": new}
    if wrong:
        found["notes"].append(f"{path} {wrong}: consider a new authority")
    return facts["key"]


def _key_change(text, encrypted):
    return {"key": text, "encrypted": encrypted, "mode": "0600"}


def _renewal(name, key, certificates, public, now):
    """Why the certificate has to be renewed, ``None`` when not; raises when it cannot be used at all."""
    own = certificates[0]
    if own["public"] != public:
        raise CommandExecutionError(f"The key {key} does not belong to the authority {name}")
    if not own["ca"]:
        raise CommandExecutionError(
            f"{name} ({own['subject']}) is no authority's certificate, and is not overwritten"
        )
    if now < own["not_before"]:
        raise CommandExecutionError(
            f"{name} is valid from {_date(own['not_before'])} on, but the clock says {_date(now)}. "
            "Set the clock, or remove the file"
        )
    if now >= own["renewal"]:
        reason = f"it ends at {_date(own['not_after'])}, and its renewal began at {_date(own['renewal'])}"
    elif not own["strict_ca"]:
        reason = "strict clients refuse it: its extensions are not those that RFC 5280, 4.2.1, asks for"
    else:
        return None
    if len(certificates) > 1 or not own["self_signed"]:
        raise CommandExecutionError(
            f"{name} cannot be renewed here, as it has more than one certificate, or another authority "
            f"signed it. It should be: {reason}"
        )
    return reason
