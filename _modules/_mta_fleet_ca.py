"""TODO subject (mta_fleet_ca)."""

import datetime
import fnmatch
import glob
import ipaddress
import logging
import os
import re
import time

from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_last_apply
import _mta_secrets
import _mta_x509
from _mta_minion import Minion
from _mta_plan import Plan

log = logging.getLogger(__name__)

DAYS = 825
TIMEOUT = 30  # seconds for the CA minion's answer
RECORD = "fleet_ca.json"
# Clocks differ: a certificate made now is used at once by clients whose clock is a little behind.
BACKDATED = datetime.timedelta(hours=1)
TIME = "%Y-%m-%d %H:%M:%S"  # as Salt's x509 module takes it, in UTC
LONGEST_REQUEST = 16384  # bytes; that of an RSA key of 8192 bits takes 3 KB
COMMON_NAME_LIMIT = 64  # RFC 5280, appendix A.1
MINION_ID = r"(?a)[\w.@-]+"
REQUEST = r"\s*-----BEGIN CERTIFICATE REQUEST-----[\sA-Za-z0-9+/=]+-----END CERTIFICATE REQUEST-----\s*"


def _now():
    return datetime.datetime.now(datetime.timezone.utc)


def sign_request(minion: Minion, request, ca_minion, policy=None, days=DAYS):
    """
    Have the CA minion sign a certificate request.

    request
        A PKCS 10 request, PEM text. Only its public key is used.

    ca_minion
        Id of the CA minion.

    policy
        Name of the signing policy there. Default: this minion's id.

    days
        How many days the certificate should be valid, default 825. The policy and the authority's end limit it.

    Returns the certificate as PEM text.

    Raises ``CommandExecutionError``, whose text tells the administrator whether the master, the CA minion, the
    policy or the request is what has to be mended.
    """
    answer = _ask(minion, ca_minion, "issue", request=request, policy=policy or minion.opts["id"], days=days)
    certificate = answer.get("certificate") or ""
    issued = _described(certificate, f"what the CA minion {ca_minion} sent")
    if issued["public"] == _mta_x509.describe_request(request)["public"]:
        return certificate
    raise CommandExecutionError(f"The CA minion {ca_minion} sent a certificate for another key")


def authority(minion: Minion, ca_minion):
    """
    Fetch the authority's certificate from the CA minion.

    ca_minion
        Id of the CA minion.

    Returns PEM text. Raises as :func:`sign_request` does.
    """
    pem = _ask(minion, ca_minion, "certificate").get("certificate") or ""
    _described(pem, f"what the CA minion {ca_minion} sent")
    return pem


def _ask(minion: Minion, ca_minion, function, **arguments):
    """Call a function of this module on the CA minion; what it answers when that is no refusal."""
    if not isinstance(ca_minion, str) or not re.fullmatch(MINION_ID, ca_minion):
        raise SaltInvocationError(f"ca_minion must be a minion id, not {ca_minion!r}")
    if "master_uri" not in minion.opts:
        raise CommandExecutionError(
            "A fleet's authority is reached through the master, and this minion runs without one. "
            "Use certificate.source local_ca here, or call state.apply through the master"
        )
    call = f"{__name__.rpartition('.')[2]}.{function}"
    arguments = [{"__kwarg__": True, **arguments}] if arguments else []
    began = time.monotonic()
    answer = minion.functions["publish.publish"](ca_minion, call, arg=arguments, tgt_type="list", timeout=TIMEOUT)
    return _understood(answer, time.monotonic() - began, ca_minion, call, minion.opts["id"])


def _understood(answer, seconds, ca_minion, call, identifier):
    """What the CA minion answered; raise, in words for the administrator, when that is nothing or a refusal."""
    if isinstance(answer, str):
        raise CommandExecutionError(f"The master did not answer: {answer}")
    if answer is None:
        raise CommandExecutionError(
            f"The master knows no minion {ca_minion}: look at certificate.fleet.ca_minion, and at salt-key"
        )
    if not answer and seconds < TIMEOUT:
        raise CommandExecutionError(
            f"The master does not let {identifier} call {call} on {ca_minion}: add that to 'peer' in the "
            "master's configuration and restart the master (salt-call sys.doc mta_fleet_ca shows how)"
        )
    if ca_minion not in answer:
        raise CommandExecutionError(
            f"The CA minion {ca_minion} did not answer within {TIMEOUT} seconds: is its salt-minion running?"
        )
    answer = answer[ca_minion]
    if not isinstance(answer, dict):
        raise CommandExecutionError(
            f"The CA minion {ca_minion} cannot sign: {str(answer).rstrip('.')}. "
            "Has state.apply postfix_mta.fleet_ca run there?"
        )
    if "refused" in answer:
        raise CommandExecutionError(f"The CA minion {ca_minion} refused: {answer['refused']}")
    return answer


def only_signs(minion: Minion):
    """
    Tell whether this minion signs for a fleet and is no mail server.

    Then nothing but ``state.apply postfix_mta`` makes it one, and ``postfix_mta.clean`` keeps its authority. It
    signs when ``state.apply postfix_mta.fleet_ca`` has run here, or its pillar says for whom. It is a mail server
    from the first ``state.apply postfix_mta`` on, until ``postfix_mta.clean``.

    Returns the paths of the authority's certificate and key (``certificate``, ``key``), or ``None``.
    """
    if _mta_last_apply.last(minion):
        return None
    authority = minion.state.read(RECORD)
    if authority:
        return authority
    certificate = minion.settings()["certificate"]
    if not certificate["fleet"]["minions"]:
        return None
    return {name: certificate["ca"][name] for name in ("certificate", "key")}


def record(minion: Minion, certificate, key):
    """
    Record that ``postfix_mta.fleet_ca`` has made, or found, an authority here.

    certificate, key
        Absolute paths of its certificate and its key.

    Raises ``CommandExecutionError`` when it cannot be written.
    """
    authority = {"certificate": certificate, "key": key}
    if minion.state.read(RECORD) != authority:
        minion.state.write(RECORD, authority)


def certificate(minion: Minion):
    """
    Return the authority's certificate, as ``{"certificate": PEM}`` or ``{"refused": reason}``.

    For mail minions, through the peer interface. It is the file that the CA minion's pillar has at
    ``postfix_mta:certificate:ca:certificate``, or the default there.
    """
    path = minion.settings()["certificate"]["ca"]["certificate"]
    try:
        pem = _read(path)
        if pem is None:
            return {"refused": f"{path} is not there; state.apply postfix_mta.fleet_ca makes the authority"}
        _described(pem, path)
    except CommandExecutionError as err:
        return {"refused": str(err)}
    return {"certificate": pem}


def issue(minion: Minion, request, policy, days=DAYS, **kwargs):
    """
    Sign the public key of a request, as a signing policy says; for mail minions, through the peer interface.

    request
        A PKCS 10 request, PEM text. Its names and extensions are not used.

    policy
        Name of a signing policy: the id of a minion in ``certificate.fleet.minions``, or an entry of
        ``x509_signing_policies`` that has ``minions``.

    days
        Wish for the validity in days, default 825. The policy and the authority's end limit it.

    kwargs
        What Salt says about the sender. Everything else is refused.

    Returns ``{"certificate": PEM}``, or ``{"refused": reason}``. Called from the command line it refuses:
    only the peer interface says who asks.
    """
    applicant = kwargs.get("__pub_id")
    try:
        unknown = sorted(str(key) for key in kwargs if not str(key).startswith("__pub_"))
        if unknown:
            raise SaltInvocationError(f"not known: {', '.join(unknown)[:200]}")
        pem = _issue(minion, request, policy, days, applicant)
    except (CommandExecutionError, SaltInvocationError) as err:
        log.warning("Refused to sign for %s by the policy %r: %s", applicant, policy, err)
        return {"refused": str(err)}
    log.info("Signed for %s by the policy %s", applicant, policy)
    return {"certificate": pem}


def _issue(minion: Minion, request, policy, days, applicant):
    """Check all of the request, and sign; raises where it is refused."""
    if not isinstance(policy, str) or not policy.isprintable() or len(policy) > 255:
        raise SaltInvocationError("the policy's name is no text")
    if isinstance(days, bool) or not isinstance(days, int) or days < 1:
        raise SaltInvocationError("days must be a whole number, 1 or more")
    if not isinstance(applicant, str) or not applicant:
        raise CommandExecutionError("Salt does not say which minion asks; only the peer interface does")
    settings = minion.settings()["certificate"]
    found = _policy(minion, policy, settings)
    if not fnmatch.fnmatchcase(applicant, found.pop("minions")):
        raise CommandExecutionError(f"the policy {policy} is not for {applicant}")
    wanted = _requested(request)
    if "x509.encode_certificate" not in __salt__:  # what only the newer of Salt's two x509 modules has
        raise CommandExecutionError(
            "Salt's x509 module is not loaded there. On Salt 3006 it needs 'features: {x509_v2: true}' in the "
            "CA minion's configuration, and a restart of the salt-minion"
        )
    now = _now()
    signer = _signing_certificate(found["signing_cert"])
    end = now + datetime.timedelta(days=min(days, found.pop("days_valid", DAYS)))
    wishes = {
        "keyUsage": _usage(wanted["key"]),
        "not_before": (now - BACKDATED).strftime(TIME),
        "not_after": min(end, signer["not_after"]).strftime(TIME),
        "public_key": wanted["public_pem"],
    }
    try:
        return minion.functions["x509.create_certificate"](**{**wishes, **found})
    except Exception as err:
        # Whatever Salt's module raises, and that is much, must not reach the sender as a traceback.
        log.error("Signing by the policy %s failed", policy, exc_info=True)
        raise CommandExecutionError(f"the policy {policy} cannot be used: {err}") from err


def _policy(minion: Minion, name, settings):
    """The signing policy of that name, with ``minions``, as keyword arguments of ``x509.create_certificate``."""
    minions = settings["fleet"]["minions"]
    if name in minions:
        names = minions[name] or [name]
        return {
            **_generated(names),
            "minions": glob.escape(name),
            "days_valid": settings["days"],
            "signing_cert": settings["ca"]["certificate"],
            "signing_private_key": settings["ca"]["key"],
            "signing_private_key_passphrase": _mta_secrets.get(minion, settings["ca"]["passphrase_pillar"]),
        }
    # As Salt looks it up; pillar.get of 3008 would give stars instead of a passphrase.
    own = (minion.pillar.get("x509_signing_policies") or {}).get(name)
    own = own or (minion.opts.get("x509_signing_policies") or {}).get(name)
    if isinstance(own, list):
        own = {key: value for item in own for key, value in item.items()}
    if not own:
        raise CommandExecutionError(
            f"there is no policy {name}. Add it to postfix_mta:certificate:fleet:minions in the CA minion's "
            "pillar, and run saltutil.refresh_pillar there"
        )
    for key in ("minions", "signing_cert", "signing_private_key"):
        if not isinstance(own.get(key), str):
            raise CommandExecutionError(f"the policy {name} has no {key}")
    if "@" in own["minions"]:
        raise CommandExecutionError(f"the policy {name} has a compound target as minions; only globs are taken")
    return dict(own)


def _signing_certificate(given):
    """The authority's certificate, which a policy gives as a path or as PEM text."""
    if "-----BEGIN" in given:
        return _described(given, "the policy's signing_cert")
    pem = _read(given)
    if pem is None:
        raise CommandExecutionError(f"{given} is not there; state.apply postfix_mta.fleet_ca makes the authority")
    return _described(pem, given)


def _generated(names):
    """What a server's certificate for these names holds (RFC 5280, 4.2.1)."""
    hosts, alternative = [], []
    for name in names:
        try:
            alternative.append(f"IP:{ipaddress.ip_address(name)}")
        except ValueError:
            hosts.append(name.lower())
            alternative.append(f"DNS:{name.lower()}")
    common = next((name for name in hosts if len(name) <= COMMON_NAME_LIMIT), None)
    return {
        **({"CN": common} if common else {}),
        # Critical where there is no subject (4.2.1.6).
        "subjectAltName": [*([] if common else ["critical"]), *alternative],
        "basicConstraints": "critical, CA:FALSE",
        "extendedKeyUsage": "serverAuth",
        "subjectKeyIdentifier": "hash",
        "authorityKeyIdentifier": "keyid:always",
        "digest": "sha256",
    }


def _usage(key):
    """The key usage: only an RSA key enciphers keys (RFC 3279, 2.3.1; RFC 5480, 3)."""
    return ", ".join(["critical", "digitalSignature", *(["keyEncipherment"] if key.startswith("RSA") else [])])


def _requested(request):
    """What a request is for, when it is one, its private key has signed it, and clients accept the key."""
    if not isinstance(request, str) or len(request) > LONGEST_REQUEST or not re.fullmatch(REQUEST, request):
        raise SaltInvocationError("the request is not the text of one PEM certificate request")
    return _mta_x509.describe_request(request)


def trust_plan(minion: Minion, name, source, command):
    """
    Tell whether the system's trust store has the authority's certificate as it is now.

    name
        Absolute path in the directory from which the system makes its trust store.

    source
        Absolute path of the authority's certificate; ``None``: it should not be in the trust store.

    Returns changes, ``{name: {"old": …, "new": …}}``; empty when all is well. Raises ``CommandExecutionError``
    when a file cannot be read.
    """
    present = _read(name)
    # In test mode the source may be what an earlier state of the run would fetch.
    wanted = None if source is None else _read(source) or ""
    if present == wanted:
        return Plan()
    old = None if present is None else "another certificate" if source else "trusted"
    return Plan({name: {"old": old, "new": source}})


def trust_apply(minion: Minion, name, source, command):
    """
    Put the authority's certificate into the system's trust store, or take it out.

    name, source
        As for :func:`trust_plan`.

    command
        The system's program that rebuilds the trust store, a list.

    Raises ``CommandExecutionError`` when a file cannot be written or the program fails; then the next run tries
    again.
    """
    old, new = _read(name), None if source is None else _read(source)
    if source is not None and new is None:
        raise CommandExecutionError(f"{source} is not there")
    _replace(name, new)
    result = minion.functions["cmd.run_all"](command, python_shell=False, ignore_retcode=True)
    if result["retcode"]:
        _replace(name, old)
        raise CommandExecutionError(f"{' '.join(command)} failed: {result['stderr'] or result['stdout']}")


def _replace(path, text):
    """Replace a file atomically, or remove it (``None``)."""
    draft = f"{path}.postfix_mta"
    try:
        if text is None:
            if os.path.lexists(path):
                os.unlink(path)
            return
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        with open(draft, "w", encoding="ascii") as handle:
            os.fchmod(handle.fileno(), 0o644)
            handle.write(text)
        os.replace(draft, path)
    except OSError as err:
        raise CommandExecutionError(f"Cannot write {path}: {err.strerror}") from err


def _read(path):
    """The text of a file; ``None`` when it is not there."""
    try:
        with open(path, encoding="ascii", errors="replace") as handle:
            return handle.read()
    except FileNotFoundError:
        return None
    except OSError as err:
        raise CommandExecutionError(f"Cannot read {path}: {err.strerror}") from err


def _described(pem, what):
    """The first certificate of a PEM text."""
    try:
        return _mta_x509.describe(pem)[0]
    except CommandExecutionError as err:
        raise CommandExecutionError(f"{what} {err}") from err
