"""
An authority for a fleet: a mail minion keeps its key, a CA minion signs, by what its own signing policies say.

Both sides are here: what a mail minion asks for through the master's peer interface, and what the CA minion
answers. Of a request only the public key is used: whoever has root on a mail minion gets certificates for its own
names and no other. docs/fleet.md tells how to set it up.
"""

from __future__ import annotations

import datetime
import fnmatch
import glob
import hashlib
import ipaddress
import json
import logging
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_last_apply
import _mta_pem
import _mta_secrets
import _mta_system
import _mta_transaction
import _mta_x509
import _mta_x509_make
from _mta_minion import FETCHED, Minion
from _mta_plan import Plan
from _mta_records import TypedDict

log = logging.getLogger(__name__)

DAYS = 825
TIMEOUT = 30  # seconds for the CA minion's answer
# On the CA minion: the authority with which it signs.
RECORD = "fleet_ca.json"
TIME = "%Y-%m-%d %H:%M:%S"  # as Salt's x509 module takes it, in UTC
LONGEST_REQUEST = 16384  # bytes; that of an RSA key of 8192 bits takes 3 KB
MINION_ID = r"(?a)[\w.@-]+"
REQUEST = r"\s*-----BEGIN CERTIFICATE REQUEST-----[\sA-Za-z0-9+/=]+-----END CERTIFICATE REQUEST-----\s*"


class Fetched(TypedDict):
    """From where an authority's certificate was fetched, and by what it is recognised: SHA-256 of its keys."""

    ca_minion: str
    keys: list[str]


# -- the mail minion ---------------------------------------------------------------------------


def sign_request(minion: Minion, request: str, ca_minion: str, policy: str | None = None, days: int = DAYS) -> str:
    """Do what ``mta_fleet_ca.sign_request`` says."""
    answer = _ask(minion, ca_minion, "issue", request=request, policy=policy or minion.opts["id"], days=days)
    certificate: str = answer.get("certificate") or ""
    issued = _mta_pem.describe(f"what the CA minion {ca_minion} sent", certificate)[0]
    if issued["public"] == _mta_x509.describe_request(request)["public"]:
        return certificate
    raise CommandExecutionError(f"The CA minion {ca_minion} sent a certificate for another key")


def authority(minion: Minion, ca_minion: str) -> str:
    """Do what ``mta_fleet_ca.authority`` says."""
    pem: str = _ask(minion, ca_minion, "certificate").get("certificate") or ""
    _mta_pem.describe(f"what the CA minion {ca_minion} sent", pem)
    return pem


def _ask(minion: Minion, ca_minion: str, function: str, **arguments: Any) -> dict[str, Any]:
    """Call a function of ``mta_fleet_ca`` on the CA minion; what it answers when that is no refusal."""
    if not isinstance(ca_minion, str) or not re.fullmatch(MINION_ID, ca_minion):
        raise SaltInvocationError(f"ca_minion must be a minion id, not {ca_minion!r}")
    if "master_uri" not in minion.opts:
        raise CommandExecutionError(
            "A fleet's authority is reached through the master, and this minion runs without one. "
            "Use certificate.source local_ca here, or call state.apply through the master"
        )
    call = f"mta_fleet_ca.{function}"
    given = [{"__kwarg__": True, **arguments}] if arguments else []
    began = time.monotonic()
    answer = minion.functions["publish.publish"](ca_minion, call, arg=given, tgt_type="list", timeout=TIMEOUT)
    return _understood(answer, time.monotonic() - began, ca_minion, call, minion.opts["id"])


def _understood(answer: Any, seconds: float, ca_minion: str, call: str, identifier: str) -> dict[str, Any]:
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
            "master's configuration and restart the master (docs/fleet.md shows how)"
        )
    if ca_minion not in answer:
        raise CommandExecutionError(
            f"The CA minion {ca_minion} did not answer within {TIMEOUT} seconds: is its salt-minion running?"
        )
    own = answer[ca_minion]
    if not isinstance(own, dict):
        raise CommandExecutionError(
            f"The CA minion {ca_minion} cannot sign: {str(own).rstrip('.')}. "
            "Has state.apply postfix_mta.fleet_ca run there?"
        )
    if "refused" in own:
        raise CommandExecutionError(f"The CA minion {ca_minion} refused: {own['refused']}")
    return own


def fetched(minion: Minion, path: str) -> Fetched | None:
    """Tell from where the authority's certificate at a path was fetched at last; ``None``: it was not."""
    found = minion.state.read(FETCHED).get(path)
    if isinstance(found, dict) and isinstance(found.get("keys"), list) and "ca_minion" in found:
        return cast(Fetched, found)
    return None


def is_fetched(minion: Minion, path: str, anchors: Sequence[_mta_x509.Anchor]) -> bool:
    """Tell whether an authority that is at a path is the one that was fetched; renewed it is the same."""
    known = fetched(minion, path)
    return known is not None and known["keys"] == _keys(anchors)


def record_fetched(minion: Minion, path: str, ca_minion: str, pem: bytes) -> None:
    """Record, as part of the transaction, from where the authority's certificate at a path is."""
    known = minion.state.read(FETCHED)
    whole = {**known, path: {"ca_minion": ca_minion, "keys": _keys(_mta_x509.describe(pem))}}
    if whole != known:
        _mta_transaction.write(minion, minion.state.path(FETCHED), json.dumps(whole), mode="0600")


def _keys(anchors: Iterable[_mta_x509.Anchor]) -> list[str]:
    return [hashlib.sha256(anchor["public"]).hexdigest() for anchor in anchors]


# -- the CA minion -----------------------------------------------------------------------------


def only_signs(minion: Minion) -> dict[str, Any] | None:
    """Do what ``mta_fleet_ca.only_signs`` says."""
    if _mta_last_apply.last(minion):
        return None
    authority = minion.state.read(RECORD)
    if authority:
        return authority
    certificate = minion.settings()["certificate"]
    if not certificate["fleet"]["minions"]:
        return None
    return {name: certificate["ca"][name] for name in ("certificate", "key")}


def record(minion: Minion, certificate: str, key: str) -> None:
    """Do what ``mta_fleet_ca.record`` says."""
    authority = {"certificate": certificate, "key": key}
    if minion.state.read(RECORD) != authority:
        minion.state.write(RECORD, authority)


def certificate(minion: Minion) -> dict[str, str]:
    """Do what ``mta_fleet_ca.certificate`` says."""
    path = minion.settings()["certificate"]["ca"]["certificate"]
    try:
        return {"certificate": _authority(path).decode()}
    except CommandExecutionError as err:
        return {"refused": str(err)}


def _authority(path: str) -> bytes:
    """The authority's certificates in a file, and nothing else that is there: it may hold the key, too."""
    data = _mta_system.read_bytes(path)
    if data is None:
        raise CommandExecutionError(f"{path} is not there; state.apply postfix_mta.fleet_ca makes the authority")
    pem = _mta_x509.pick(data, "certificates")
    _mta_pem.describe(path, pem)
    return pem


def issue(minion: Minion, request: str, policy: str, days: int = DAYS, **kwargs: Any) -> dict[str, str]:
    """Do what ``mta_fleet_ca.issue`` says."""
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


def _issue(minion: Minion, request: Any, policy: Any, days: Any, applicant: Any) -> str:
    """Check all of the request, and sign; raises where it is refused."""
    if not isinstance(policy, str) or not policy.isprintable() or len(policy) > 255:
        raise SaltInvocationError("the policy's name is no text")
    if isinstance(days, bool) or not isinstance(days, int) or days < 1:
        raise SaltInvocationError("days must be a whole number, 1 or more")
    if not isinstance(applicant, str) or not applicant:
        raise CommandExecutionError("Salt does not say which minion asks; only the peer interface does")
    found = _policy(minion, policy, minion.settings()["certificate"])
    if not fnmatch.fnmatchcase(applicant, found.pop("minions")):
        raise CommandExecutionError(f"the policy {policy} is not for {applicant}")
    requested = _requested(request)
    if "x509.encode_certificate" not in minion.functions:  # what only the newer of Salt's two x509 modules has
        raise CommandExecutionError(
            "Salt's x509 module is not loaded there. On Salt 3006 it needs 'features: {x509_v2: true}' in the "
            "CA minion's configuration, and a restart of the salt-minion"
        )
    now = _mta_system.now()
    signer = _signing_certificate(found["signing_cert"])
    end = now + datetime.timedelta(days=min(days, found.pop("days_valid", DAYS)))
    defaults = {
        "keyUsage": _usage(requested["key"]),
        "not_before": (now - _mta_x509_make.BACKDATED).strftime(TIME),
        "not_after": min(end, signer["not_after"]).strftime(TIME),
        "public_key": requested["public_pem"],
    }
    try:
        made: str = minion.functions["x509.create_certificate"](**{**defaults, **found})
    except Exception as err:
        # Whatever Salt's module raises, and that is much, must not reach the sender as a traceback.
        log.error("Signing by the policy %s failed", policy, exc_info=True)
        raise CommandExecutionError(f"the policy {policy} cannot be used: {err}") from err
    return made


def _policy(minion: Minion, name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
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


def _signing_certificate(given: str) -> _mta_x509.CertificateFacts:
    """The authority's certificate, which a policy gives as a path or as PEM text."""
    if "-----BEGIN" in given:
        return _mta_pem.describe("the policy's signing_cert", given)[0]
    return _mta_pem.describe(given, _authority(given))[0]


def _generated(names: Iterable[str]) -> dict[str, Any]:
    """What a server's certificate for these names holds (RFC 5280, 4.2.1)."""
    hosts, alternative = [], []
    for name in names:
        try:
            alternative.append(f"IP:{ipaddress.ip_address(name)}")
        except ValueError:
            hosts.append(name.lower())
            alternative.append(f"DNS:{name.lower()}")
    common = next((name for name in hosts if len(name) <= _mta_x509_make.COMMON_NAME_LIMIT), None)
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


def _usage(key: str) -> str:
    """The key usage: only an RSA key enciphers keys (RFC 3279, 2.3.1; RFC 5480, 3)."""
    return ", ".join(["critical", "digitalSignature", *(["keyEncipherment"] if key.startswith("RSA") else [])])


def _requested(request: Any) -> _mta_x509.RequestFacts:
    """What a request is for, when it is one, its private key has signed it, and clients accept the key."""
    if not isinstance(request, str) or len(request) > LONGEST_REQUEST or not re.fullmatch(REQUEST, request):
        raise SaltInvocationError("the request is not the text of one PEM certificate request")
    return _mta_x509.describe_request(request)


# -- the system's trust store ------------------------------------------------------------------


def trust_plan(minion: Minion, name: str, source: str | None, command: Sequence[str]) -> Plan:
    """
    Tell whether the system's trust store has the authority's certificate as it is now.

    name
        Absolute path in the directory from which the system makes its trust store.

    source
        Absolute path of the authority's certificate; ``None``: it should not be in the trust store.

    Raises ``CommandExecutionError`` when a file cannot be read.
    """
    present = _mta_system.read_bytes(name)
    # In test mode the source may be what an earlier state of the run would fetch.
    wanted = None if source is None else _mta_system.read_bytes(source) or b""
    if present == wanted:
        return Plan()
    old = None if present is None else "another certificate" if source else "trusted"
    return Plan({name: {"old": old, "new": source}})


def trust_apply(minion: Minion, name: str, source: str | None, command: Sequence[str]) -> None:
    """
    Put the authority's certificate into the system's trust store, or take it out.

    name, source
        As for :func:`trust_plan`.

    command
        The system's program that rebuilds the trust store.

    Raises ``CommandExecutionError`` when a file cannot be written or the program fails; then the next run tries
    again.
    """
    old, new = _mta_system.read_bytes(name), None if source is None else _mta_system.read_bytes(source)
    if source is not None and new is None:
        raise CommandExecutionError(f"{source} is not there")
    _put(name, new)
    try:
        _mta_system.run(command, timeout=None)
    except CommandExecutionError:
        _put(name, old)
        raise


def _put(path: str, data: bytes | None) -> None:
    """Replace a file that everybody may read, or remove it (``None``)."""
    if data is None:
        _mta_system.remove(path)
        return
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    except OSError as err:
        raise CommandExecutionError(f"Cannot write {path}: {err.strerror}") from err
    _mta_system.replace(path, data, mode=0o644)
