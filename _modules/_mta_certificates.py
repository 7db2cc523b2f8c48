"""TODO subject (mta_cert)."""

import datetime
import os

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
import _mta_transaction
import _mta_x509
from _mta_minion import Minion
from _mta_plan import Plan

DAYS = 825
DAY = datetime.timedelta(days=1)
SOURCES = ("local_ca", "self_signed", "fleet_ca", "files")
# Of plan(), apply() and the state, with their defaults.
ARGUMENTS = {
    "source": None,
    "ca_certificate": None,
    "ca_key": None,
    "passphrase_pillar": None,
    "previous_passphrase_pillar": None,
    "ca_minion": None,
    "policy": None,
    "certificate_source": None,
    "key_source": None,
    "chain_source": None,
    "chain_file": None,
    "subject": None,
    "alternative_names": None,
    "key_type": "rsa",
    "key_size": None,
    "days": DAYS,
    "renew_days": None,
    "rotate_key": False,
}
# What each source cannot do without.
NEEDED = {
    "local_ca": ("ca_certificate", "ca_key"),
    "self_signed": (),
    "fleet_ca": ("ca_certificate", "ca_minion"),
    "files": ("certificate_source", "key_source"),
}


def _arguments(args):
    """The state's arguments with their defaults; the source is told by the others where it is not given."""
    args = clean_kwargs(**args)
    unknown = sorted(set(args) - set(ARGUMENTS))
    if unknown:
        raise SaltInvocationError(f"there is no argument {', '.join(unknown)}; known: {', '.join(ARGUMENTS)}")
    wanted = {**ARGUMENTS, **args}
    if wanted["source"] is None:
        given = "files" if wanted["certificate_source"] else "fleet_ca" if wanted["ca_minion"] else "local_ca"
        wanted["source"] = given if given != "local_ca" or wanted["ca_certificate"] else "self_signed"
    if wanted["source"] not in SOURCES:
        raise SaltInvocationError(f"source must be one of {', '.join(SOURCES)}, not {wanted['source']!r}")
    missing = [name for name in NEEDED[wanted["source"]] if not wanted[name]]
    if missing:
        raise SaltInvocationError(f"source {wanted['source']} needs {' and '.join(missing)}")
    return wanted


def _names(hostname, names):
    return _mta_x509.check_names([hostname, *([names] if isinstance(names, str) else names or [])])


def create_key(minion: Minion, path, key_type="rsa", key_size=None, passphrase_pillar=None):
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
    """
    kind, size, _ = _mta_x509.key_parameters(key_type, key_size)
    passphrase = _mta_secrets.get(minion, passphrase_pillar)
    passphrase = passphrase and passphrase.encode()
    _mta_pem.refuse_existing(path)
    pem = _mta_x509.make_key(kind, size, passphrase)
    _mta_transaction.alone(minion, lambda: _mta_pem_write.create(path, pem, 0o600))
    facts = _mta_x509.describe_key(pem, passphrase)
    return {"path": path, "key": facts["key"], "tlsa": facts["tlsa"]}


def create(
    minion: Minion,
    path,
    key,
    hostname,
    ca_certificate=None,
    ca_key=None,
    passphrase_pillar=None,
    subject=None,
    names=None,
    days=DAYS,
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
        Further subject fields: country (or ``C``), state (``ST``), locality (``L``), organization (``O``), unit
        (``OU``), email. Default: none.

    names
        Further host names or IP addresses, a list.

    days
        Validity in days, default 825. It ends with the CA at the latest.

    Returns what :func:`inspect` returns.

    Raises ``CommandExecutionError`` when the file exists, or a key or the CA cannot be used;
    ``SaltInvocationError`` for a bad argument.
    """
    wanted = _names(hostname, names)
    fields = _mta_x509.check_subject(subject, wanted[0])
    _mta_x509.check_days(days)
    _mta_pem.refuse_existing(path)
    file = _mta_pem.read(key)
    if file is None:
        raise CommandExecutionError(f"The key {key} is not there: create it first with mta_cert.create_key")
    facts = _use_key(key, file)
    now, issuer = _mta_pem.utc_now(), None
    if ca_certificate:
        signing = (ca_certificate, ca_key, passphrase_pillar)
        issuer = _mta_ca.signer(minion, *signing)
        made = _mta_ca.issue(minion, facts["public"], fields, wanted, days, *signing)
    else:
        made = _mta_x509.make_certificate(facts["public"], now, days, fields, wanted, file.data)
    problems = _mta_x509.serve(made, now, file.data, issuer or made)
    if problems:
        raise CommandExecutionError(f"{path} was not created: {'; '.join(problems)}")
    _mta_transaction.alone(minion, lambda: _mta_pem_write.create(path, made, 0o644))
    return _mta_pem.inspect(path)


def _use_key(path, file):
    """What a server's key is that has to be usable; raises ``CommandExecutionError`` in words."""
    try:
        facts = _mta_x509.describe_key(file.data, thorough=True)
    except CommandExecutionError as err:
        raise CommandExecutionError(f"The key {path} {err}") from err
    if facts["weakness"]:
        raise CommandExecutionError(f"{path}: {facts['weakness']}. Move it away to get a new one")
    return facts


def sign(
    minion: Minion,
    request,
    hostname,
    ca_certificate,
    ca_key,
    passphrase_pillar=None,
    subject=None,
    names=None,
    days=DAYS,
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
    """
    wanted = _names(hostname, names)
    fields = _mta_x509.check_subject(subject, wanted[0])
    _mta_x509.check_days(days)
    if "-----BEGIN" not in request:
        file = _mta_pem.read(request)
        if file is None:
            raise CommandExecutionError(f"The request {request} is not there")
        request = file.data
    public = _mta_x509.describe_request(request)["public"]
    made = _mta_ca.issue(minion, public, fields, wanted, days, ca_certificate, ca_key, passphrase_pillar)
    return made.decode()


def verify(certificate, key=None, ca_certificate=None, hostname=None):
    """
    Check a certificate as its users will: dates, key, signature, names, chain, loading it as a server does.

    certificate
        Absolute path of the PEM file: the server's certificate, then those that lead to the authority, in
        order.

    key
        Absolute path of the private key that must belong to it. Default: not checked.

    ca_certificate
        Absolute path of the authorities that are trusted; on Debian ``/etc/ssl/certs/ca-certificates.crt`` are the
        public ones. Default: the certificate has to sign itself.

    hostname
        Name, or list of names, that it must be for. Default: not checked.

    Returns a list of problems in words; empty when all is well. Raises ``CommandExecutionError`` when a
    Python library is missing or a file cannot be read.
    """
    now, problems, files = _mta_pem.utc_now(), [], {}
    names = _mta_x509.check_names([hostname] if isinstance(hostname, str) else hostname or [])
    for path in filter(None, (certificate, ca_certificate, key)):
        files[path] = _mta_pem.read(path)
        if files[path] is None:
            return [f"{path} is not there"]
    private = public = anchors = None
    try:
        chain = files[certificate].data
        _mta_pem.describe(certificate, files[certificate])
        if ca_certificate:
            anchors = _mta_pem.describe(ca_certificate, files[ca_certificate])
        if key:
            private, public = files[key].data, _use_key(key, files[key])["public"]
    except CommandExecutionError as err:
        return [str(err)]
    if key:
        wrong = _mta_pem.wrong_access(key, files[key], "server key")
        problems += [f"{key} {wrong}"] if wrong else []
    problems += _mta_x509.problems(chain, now, anchors, names, public=public)
    trusted = files[ca_certificate].data if ca_certificate else chain
    return problems + _mta_x509.serve(chain, now, private, trusted)


def plan(minion: Minion, name, key, hostname, **arguments):
    """
    Tell what :func:`apply` would change; reads only, and asks no other host.

    What is decided where nothing prescribes it:

    - A good pair is left alone, also where its key is of another type or size than asked for, or the
      certificate has more names: type and size are for new keys. A comment says so.
    - A pair that is bad (it does not match, has expired or will soon, is for other names, is not signed by
      the authority, cannot be parsed) gets a new certificate. A good key is kept, so that pinned keys (TLSA 3
      1 1) stay valid; a missing, unreadable or too weak one is replaced. A key that a passphrase locks is an
      error: Postfix cannot use it, and only its owner can say what it is for.
    - A certificate that is not valid *yet* is an error: the clock is wrong, and a new certificate would be
      wrong too.
    - Nothing is replaced before the new pair has been checked: the key matches, the chain verifies in order,
      names, dates, signature and key are what clients accept, and it loads in a TLS server's context. With
      source ``files`` a bad new pair is an error, and the server keeps the one that it has.
    - Symbolic links at the target paths are followed when root made them and they lead to a regular file. A file
      that belongs to somebody else, or that others can write, becomes root's.
    - A good pair that the server does not show, because somebody replaced the files and did not reload Postfix, is
      put in force. That is asked in a conversation, once for each content of the files.
    - Keys are 0600 and root's. Debian's group ``ssl-cert`` may read a server key (0640), nobody else.
    - Where Postfix reads key and certificate from two files and the key changes, Postfix is stopped for the
      moment in which they are switched: between the two no new smtpd(8) can exist, so none can read halves of
      different pairs. (Where the key stays, and with ``chain_file``, which is one file, it goes on running.)

    name
        Absolute path of the certificate.

    key
        Absolute path of the private key.

    hostname
        The server's FQDN: common name and first subject alternative name.

    source
        ``local_ca``: signed by the CA of ``ca_certificate`` and ``ca_key``. ``self_signed``. ``fleet_ca``: the
        key is made here, and the minion ``ca_minion`` signs; its certificate comes to ``ca_certificate``.
        ``files``: taken over from ``certificate_source`` and ``key_source``. Default: told by which of these are
        given.

    ca_certificate, ca_key, passphrase_pillar
        Absolute paths of the CA's certificate and key, pillar path of the key's passphrase. Default: none.

    previous_passphrase_pillar
        Pillar path of the passphrase before that, used while the key still has it. Default: none.

    ca_minion, policy
        Id of the minion that signs, and the name of its signing policy. Default: none.

    certificate_source, key_source, chain_source
        Where an administrator or an ACME client leaves the certificate, its key, and further certificates of the
        chain if the first has them not: absolute path, or pillar path of PEM text (or of an ``sdb://`` URI).
        Default: none.

    chain_file
        Absolute path of one more file with the key and then the certificates, for ``smtpd_tls_chain_files``
        (postconf(5)): one rename switches both. Default: none.

    subject
        Further subject fields, as for :func:`create`. Default: none.

    alternative_names
        Further host names or IP addresses, a list. Default: none.

    key_type, key_size
        For a key that has to be made; as for :func:`create_key`.

    days
        Validity of a new certificate in days, default 825.

    renew_days
        How many days before its end the certificate is renewed. Default: a third of its lifetime, 30 at most.

    rotate_key
        Make a new key at each renewal. Default ``False``: the key is kept, and records that pin it stay
        valid.

    Returns ``{"changes", "activate", "comment", "errors"}``. Raises ``SaltInvocationError`` for a bad
    argument.
    """
    wanted, now = _arguments(arguments), _mta_pem.utc_now()

    def judge():
        found = _survey(minion, now, name, key, hostname, wanted)
        if not found["changes"] and _mta_judge.stale([name, wanted["chain_file"]]):
            found["changes"][name] = {"old": "another certificate is served", "new": "served"}
        return found

    return _mta_plan_cache.plan(minion, name, lambda: _evidence(minion, name, key, hostname, wanted), judge, now)


def _evidence(minion: Minion, name, key, hostname, wanted):
    """What a verdict about the pair rests on; ``None`` where none is remembered."""
    sources = [wanted[f"{part}_source"] for part in ("certificate", "key", "chain")]
    if any(source and not source.startswith("/") for source in sources):
        return None  # pillar has the key
    if wanted["ca_certificate"] and _mta_ca.is_planned(minion, wanted["ca_certificate"]):
        return None  # what the authority will be counts, not what it is
    paths = [name, key, wanted["chain_file"], wanted["ca_certificate"], *sources]
    return [hostname, wanted, [path and tuple(_mta_pem.read(path) or ()) for path in paths]]


def apply(minion: Minion, name, key, hostname, **arguments):
    """
    Make the key and the certificate what :func:`plan` says, as part of the transaction.

    Parameters as for :func:`plan`. Raises ``CommandExecutionError`` when the pair cannot be made or is not good,
    or a file cannot be written.
    """
    _mta_transaction.begin(minion)
    wanted, now = _arguments(arguments), _mta_pem.utc_now()
    found = _survey(minion, now, name, key, hostname, wanted)
    files = {}
    private = found["key"] or _mta_x509.make_key(*found["parameters"])
    certificate = found["certificate"]
    if certificate is None:
        certificate, authority = _issue(minion, now, private, found, wanted)
        files.update(authority)
        problems = _judge(minion, now, certificate, private, found, wanted, authority)
        if problems:
            raise CommandExecutionError(f"The new {name} is not good: {'; '.join(problems)}")
    contents = {key: private, name: certificate, wanted["chain_file"]: private + certificate}
    files.update({path: data for path, data in contents.items() if path in found["changes"]})
    apart = private != found["old_key"] and _is_read_apart(key)
    _mta_pem_write.write(minion, files, halted=apart)
    if not files:
        _mta_transaction.need(minion, {"postfix": "reload"})


def only_plan(minion: Minion, keep):
    """
    Tell what :func:`only_apply` would remove: files of pairs that were made here and that nobody wants any more.

    keep
        List of the paths of all files that the pairs need which stay.

    A file that somebody has changed since stays, with the others, and so does one that main.cf or master.cf still
    name. Where something else was before the first apply, that comes back. An authority of this host's always
    stays.

    Returns ``{"changes", "activate", "comment"}``.
    """
    found, named = _needless(minion, keep)
    left = [f"{path} stays, as it is named by {where}" for path, where in named.items()] + found["stays"]
    return Plan(found["changes"], notes=left)


def _needless(minion: Minion, keep):
    """What ``mta_originals.superseded`` says of them; ``{path: where}`` of what is still named."""
    found = _mta_restore.obsolete(minion, "mta_cert", keep)
    named = _mta_postfix_outlook.naming(minion, list(found["changes"])) if found["changes"] else {}
    if named:
        found = _mta_restore.obsolete(minion, "mta_cert", [*keep, *named])
    return found, named


def only_apply(minion: Minion, keep):
    """
    Remove the files of pairs that the settings no longer have, as part of the transaction.

    keep
        As for :func:`only_plan`.
    """
    _mta_transaction.begin(minion)
    _mta_restore.restore(minion, list(_needless(minion, keep)[0]["changes"]))


def _is_read_apart(key):
    """Whether an smtpd(8) that is started at this moment reads this key file, and the certificate from another."""
    try:
        listeners = _mta_postfix_view.listeners()
    except CommandExecutionError:
        return True  # main.cf or master.cf is broken: an smtpd may still start
    read = {os.path.realpath(path) for listener in listeners for path in listener["keys"]}
    return os.path.realpath(key) in read


def _survey(minion: Minion, now, name, key, hostname, wanted):
    """Look at the pair; return what is there and what has to be done. Raise where a person has to decide."""
    kind, size, text = _mta_x509.key_parameters(wanted["key_type"], wanted["key_size"])
    _mta_x509.check_days(wanted["days"], wanted["renew_days"])
    names = _names(hostname, wanted["alternative_names"])
    paths = [path for path in (name, key, wanted["chain_file"], wanted["ca_certificate"]) if path]
    if len(set(paths)) < len(paths):
        raise SaltInvocationError(f"The certificate, the key and the others need a file each: {', '.join(paths)}")
    found = {
        "parameters": (kind, size),
        "parameters_text": text,
        "names": names,
        "fields": _mta_x509.check_subject(wanted["subject"], names[0]),
        "own_fields": _mta_x509.check_subject(wanted["subject"]),
        "files": {path: _mta_pem.read(path) for path in paths},
        "key": None,
        "certificate": None,
        "changes": {},
        "notes": [],
        "holds": None,
    }
    file = found["files"][key]
    found["old_key"] = file and file.data
    if wanted["source"] == "files":
        _survey_files(minion, now, name, key, wanted, found)
    else:
        _survey_made(minion, now, name, key, wanted, found)
    _survey_access(name, key, wanted["chain_file"], found)
    return found


def _survey_access(name, key, chain_file, found):
    """Find what others can get at, and a chain file that is not what the pair is."""
    changes, new = found["changes"], "the key and the certificate in one file"
    if chain_file:
        file = found["files"][chain_file]
        pair = found["key"] and found["certificate"] and found["key"] + found["certificate"]
        if file is None or file.data != pair:
            changes[chain_file] = {"old": None if file is None else "another content", "new": new}
    for path, kind in ((key, "server key"), (name, "certificate"), (chain_file, "server key")):
        file = path and found["files"][path]
        wrong = file and _mta_pem.wrong_access(path, file, kind)
        if not wrong:
            continue
        if kind == "server key" and key not in changes:
            found["notes"].append(f"{path} {wrong}. Who has read the key can be the server: consider a new one")
        if path not in changes:
            mode = "0644" if kind == "certificate" else "0600"
            old = {"mode": f"{file.mode:04o}", "uid": file.uid}
            changes[path] = {"old": old, "new": {"mode": mode, "uid": 0}}


def _survey_made(minion: Minion, now, name, key, wanted, found):
    """Judge the pair that is there, and find what has to be made."""
    certificate_file, key_file = found["files"][name], found["files"][key]
    authority = _trusted(minion, wanted, found)
    facts, reasons = _survey_key(key, key_file)
    if certificate_file is not None:
        reasons += _survey_certificate(now, name, certificate_file, facts, authority, wanted, found)
    if authority["missing"]:
        reasons.append(f"the authority's certificate {wanted['ca_certificate']} is not there")
    issue = bool(reasons) or facts is None or certificate_file is None
    if issue and facts:
        if wanted["rotate_key"] and certificate_file is not None:
            facts = None
        else:
            try:
                _mta_x509.describe_key(key_file.data, thorough=True)
            except CommandExecutionError:
                reasons.append("the private key is damaged")
                facts = None
    text = found["parameters_text"] if facts is None else facts["key"]
    if facts is None:
        old = None if key_file is None else {"mode": f"{key_file.mode:04o}", "uid": key_file.uid}
        found["changes"][key] = {"old": old, "new": {"key": text, "mode": "0600", "uid": 0}}
        if key_file is None and certificate_file is not None:
            reasons.append("the key is missing")
    else:
        found["key"] = key_file.data
    if not issue:
        found["certificate"] = certificate_file.data
        if text != found["parameters_text"]:
            found["notes"].append(
                f"The key stays {text}, which is good: another ({found['parameters_text']}) would break "
                f"records that pin it. Remove {key} to get one"
            )
        return
    issuer = _issuer(minion, authority, wanted, found)
    found["changes"][name] = {
        "old": _old(certificate_file),
        "new": {
            "subject": _mta_x509.subject_text(found["fields"]),
            "names": found["names"],
            "issuer": issuer,
            "key": text,
            "days": wanted["days"],
        },
    }
    if authority["missing"]:
        found["changes"][wanted["ca_certificate"]] = {"old": None, "new": issuer}
    if wanted["source"] == "fleet_ca":
        found["notes"].append(f"The CA minion {wanted['ca_minion']} signs it, and is asked in a real run only")
    if reasons:
        found["notes"].append("Reason: " + "; ".join(reasons))


def _trusted(minion: Minion, wanted, found):
    """The authority that the pair is checked against: ``anchors`` as of ``mta_x509.problems``."""
    none = {"anchors": None, "not_after": None, "planned": False, "missing": False}
    if wanted["source"] == "self_signed":
        return none
    if wanted["source"] == "fleet_ca" and found["files"][wanted["ca_certificate"]] is None:
        return {**none, "anchors": "any", "missing": True}
    return {**none, **_mta_ca.authority(minion, wanted["ca_certificate"])}


def _issuer(minion: Minion, authority, wanted, found):
    """The name that will sign, as text; raises when it cannot."""
    own = _mta_x509.subject_text(found["fields"])
    if wanted["source"] == "self_signed":
        return own
    if wanted["source"] == "fleet_ca":
        return f"the CA minion {wanted['ca_minion']}"
    issuer = authority
    if not authority["planned"]:
        pem = _mta_ca.signer(minion, *_signing(wanted))
        (issuer,) = _mta_x509.describe(pem)
    if issuer["subject"] == own:
        raise SaltInvocationError(f"The server and its authority must not have the same name: {own}")
    return issuer["subject"]


def _signing(wanted):
    names = ("ca_certificate", "ca_key", "passphrase_pillar", "previous_passphrase_pillar")
    return [wanted[name] for name in names]


def _survey_key(path, file):
    """What the key is that is there, ``None`` when it is of no use; and the reasons why."""
    if file is None:
        return None, []
    if _mta_x509.is_locked(file.data):
        raise CommandExecutionError(
            f"The key {path} is encrypted, and Postfix cannot ask for a passphrase. "
            "Decrypt it (openssl pkey), or remove it to get a new key and certificate"
        )
    try:
        facts = _mta_x509.describe_key(file.data)
    except CommandExecutionError:
        return None, ["the key file is not a PEM private key"]
    return (None, [facts["weakness"]]) if facts["weakness"] else (facts, [])


def _survey_certificate(now, name, file, facts, authority, wanted, found):
    """Why the certificate that is there has to be replaced."""
    try:
        leaf = _mta_pem.describe(name, file, wanted["renew_days"])[0]
    except CommandExecutionError:
        return ["the certificate file is not a PEM certificate"]
    if now < leaf["not_before"]:
        raise CommandExecutionError(
            f"{name} is valid from {_mta_pem.date_of(leaf['not_before'])} on, but the clock says"
            f" {_mta_pem.date_of(now)}. Set the clock, or remove the file"
        )
    renewal = leaf["renewal"]
    if authority["not_after"] is not None and authority["not_after"] - leaf["not_after"] < DAY:
        # It lasts as long as its authority does: renewing it would gain nothing until that is renewed. The
        # authority of a fleet is renewed elsewhere, and asked again.
        renewal = None if wanted["source"] == "local_ca" else renewal
    found["holds"] = leaf["not_before"], renewal or leaf["not_after"]
    return _mta_x509.problems(
        file.data,
        now,
        authority["anchors"],
        found["names"],
        renewal,
        facts and facts["public"],
        # What a fleet's certificates say beside the names is for its signing policy to decide.
        None if wanted["source"] == "fleet_ca" else found["own_fields"],
    )


def _old(file):
    """What a change shows of the certificate that it replaces."""
    if file is None:
        return None
    try:
        return _summary(_mta_x509.describe(file.data)[0])
    except CommandExecutionError:
        return "not a certificate that can be understood"


def _summary(facts):
    shown = {item: facts[item] for item in ("subject", "names", "issuer", "key", "serial")}
    return {**shown, "not_after": _mta_pem.date_of(facts["not_after"])}


def _issue(minion: Minion, now, private, found, wanted):
    """Have a certificate made for the key. Returns it as PEM bytes, and the authority's file if that is new."""
    public = _mta_x509.describe_key(private)["public"]
    making = (found["fields"], found["names"])
    if wanted["source"] == "self_signed":
        made = _mta_x509.make_certificate(public, now, wanted["days"], *making, private)
        return made, {}
    if wanted["source"] == "local_ca":
        return _mta_ca.issue(minion, public, *making, wanted["days"], *_signing(wanted)), {}
    request = _mta_x509.make_request(private, *making)
    chain = _mta_fleet_ca.sign_request(minion, request, wanted["ca_minion"], wanted["policy"], wanted["days"])
    authority = _mta_fleet_ca.authority(minion, wanted["ca_minion"])
    made, authority = (_mta_x509.pick(pem, "certificates") for pem in (chain, authority))
    if not made or not authority:
        raise CommandExecutionError(f"The CA minion {wanted['ca_minion']} answered without a certificate")
    file = found["files"][wanted["ca_certificate"]]
    return made, {} if file is not None and file.data == authority else {wanted["ca_certificate"]: authority}


def _judge(minion: Minion, now, certificate, private, found, wanted, authority):
    """What is wrong with a pair that has just been made, before it replaces anything."""
    public = _mta_x509.describe_key(private)["public"]
    anchors = None
    if wanted["source"] == "local_ca":
        anchors = _mta_ca.signer(minion, *_signing(wanted))
    elif wanted["source"] == "fleet_ca":
        file = found["files"][wanted["ca_certificate"]]
        anchors = authority.get(wanted["ca_certificate"]) or file.data
    trusted = anchors and _mta_x509.describe(anchors)
    leaf = _mta_x509.describe(certificate, wanted["renew_days"])[0]
    renewal = None if wanted["source"] == "local_ca" else leaf["renewal"]
    problems = _mta_x509.problems(certificate, now, trusted, found["names"], renewal, public)
    return problems or _mta_x509.serve(certificate, now, private, anchors or certificate)


def _survey_files(minion: Minion, now, name, key, wanted, found):
    """Check the pair that an administrator or an ACME client has left; raise unless it is good."""
    where = wanted["certificate_source"]
    try:
        certificate = _mta_pem.source(minion, where)
        if wanted["chain_source"]:
            certificate += b"\n" + _mta_pem.source(minion, wanted["chain_source"])
        private = _mta_pem.source(minion, wanted["key_source"], private=True)
        certificate = _mta_x509.pick(certificate, "certificates")
        private = _mta_x509.pick(private, "key")
        files = (name, certificate), (key, private)
        fresh = [path for path, data in files if getattr(found["files"][path], "data", None) != data]
        chain = _taken(now, certificate, private, fresh, found, wanted)
    except CommandExecutionError as err:
        raise CommandExecutionError(
            f"The new pair is not used, and the server keeps the one that it has: {err}"
        ) from err
    found["key"], found["certificate"] = private, certificate
    renewal = chain[0]["renewal"]
    found["holds"] = chain[0]["not_before"], renewal if now < renewal else chain[0]["not_after"]
    for path, new in (
        (key, {"key": chain[0]["key"], "from": wanted["key_source"], "mode": "0600", "uid": 0}),
        (name, {**_summary(chain[0]), "from": where}),
    ):
        if path in fresh:
            file = found["files"][path]
            old = file and ({"mode": f"{file.mode:04o}", "uid": file.uid} if path == key else _old(file))
            found["changes"][path] = {"old": old, "new": new}
    if now >= chain[0]["renewal"]:
        found["notes"].append(
            f"{where} ends at {_mta_pem.date_of(chain[0]['not_after'])}, and nobody has renewed it since "
            f"{_mta_pem.date_of(chain[0]['renewal'])}: look at what should"
        )
    if len(chain) == 1 and not chain[0]["self_signed"]:
        found["notes"].append(
            f"{where} holds one certificate only: clients that do not have its issuer, {chain[0]['issuer']}, "
            "cannot verify it. ACME clients have a file with the whole chain"
        )


def _taken(now, certificate, private, fresh, found, wanted):
    """
    What the certificates of a pair are that is to be taken over; raises when it is not good.

    Only a ``fresh`` one is loaded as a server would load it, which takes pyOpenSSL: the others have been.
    """
    where, key_where = wanted["certificate_source"], wanted["key_source"]
    for path, data, kind in ((where, certificate, "certificate"), (key_where, private, "private key")):
        if not data:
            raise CommandExecutionError(f"{path} holds no PEM {kind}")
    if _mta_x509.is_locked(private):
        raise CommandExecutionError(f"{key_where} is encrypted, and Postfix cannot ask for a passphrase")
    try:
        facts = _mta_x509.describe_key(private)
    except CommandExecutionError as err:
        raise CommandExecutionError(f"{key_where} {err}") from err
    try:
        chain = _mta_x509.describe(certificate, wanted["renew_days"])
    except CommandExecutionError as err:
        raise CommandExecutionError(f"{where} {err}") from err
    problems = _mta_x509.problems(certificate, now, "any", found["names"], public=facts["public"])
    if not problems and fresh:
        problems = _mta_x509.serve(certificate, now, private)
    if problems:
        raise CommandExecutionError(f"{where}: {'; '.join(problems)}")
    return chain
