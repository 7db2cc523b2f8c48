"""What is weak about the server: what its configuration, its files and its listeners show, for the rules."""

from __future__ import annotations

import contextlib
import os
import ssl
import stat
import time
from collections.abc import Mapping, Sequence
from typing import Any

from salt.exceptions import CommandExecutionError

import _mta_dane
import _mta_findings
import _mta_judge
import _mta_pem
import _mta_postfix_view
import _mta_saslauthd_view
import _mta_signer
import _mta_smtp
import _mta_system
import _mta_tables
import _mta_verdict
import _mta_x509
from _mta_findings import GuardedFile
from _mta_judge import Listener
from _mta_minion import Minion

# Of a server's private key; Debian's group ssl-cert may read one.
KEY_BITS = 0o077
# What no client should be given, by the names that _mta_findings has for it.
WEAK_OFFERS = {
    "TLS 1.0": (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1, "ALL:@SECLEVEL=0"),
    "TLS 1.1": (ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_1, "ALL:@SECLEVEL=0"),
    "anonymous ciphers": (_mta_judge.TLS_1_2, _mta_judge.TLS_1_2, "aNULL:!eNULL:@SECLEVEL=0"),
    "weak ciphers": (
        _mta_judge.TLS_1_2,
        _mta_judge.TLS_1_2,
        "eNULL:LOW:EXPORT:3DES:RC4:SEED:IDEA:!aNULL:@SECLEVEL=0",
    ),
    "no forward secrecy": (_mta_judge.TLS_1_2, _mta_judge.TLS_1_2, "kRSA:!aNULL:!eNULL"),
}


def audit(minion: Minion, timeout: float = 120) -> dict[str, Any]:
    """Look at the server and tell what is weak. Parameters, result and errors as of ``mta_probe.audit``."""
    listeners = _mta_postfix_view.listeners()
    latest = time.monotonic() + timeout
    notes: list[str] = []
    seen = []
    for listener in listeners:
        one, remarks = _look_at(listener, latest, minion.state.path())
        seen.append(one)
        notes += remarks
    parameters = _mta_postfix_view.in_force()
    certificates, authorities = _certificate_files(listeners, parameters)
    facts = {
        "parameters": parameters,
        "services": _mta_postfix_view.services(),
        "listeners": seen,
        "files": _guarded_files(minion, listeners, parameters),
        "certificates": certificates,
        "authorities": authorities,
        "validates": bool(_mta_dane.look(parameters)),
        "judges": _mta_signer.judges(),
    }
    return {"findings": _mta_findings.findings(facts), "notes": notes}


def _look_at(listener: Listener, latest: float, folder: str) -> tuple[dict[str, Any], list[str]]:
    """Talk to a listener as its worst clients do; return what the rules have to know of it, and notes."""
    label = _mta_judge.label_of(listener)
    found = _mta_smtp.hold(_mta_judge.target_of(listener, latest=latest))
    notes = [f"{label}: {problem['text']}" for problem in found["problems"]]
    taken: list[str] = []
    if found["tls"]:
        for name, offer in WEAK_OFFERS.items():
            with contextlib.suppress(ssl.SSLError):  # this host's OpenSSL cannot even offer it
                _mta_smtp.tls_context(None, None, offer)
                talk = _mta_smtp.hold(_mta_judge.target_of(listener, latest=latest)._replace(offer=offer))
                taken += [name] if talk["tls"] else []
    relays = None
    if found["connected"]:
        target = _mta_judge.target_of(listener, latest=latest)
        untrusted = _mta_judge.examine_as_untrusted_client(listener, target, folder)
        notes += untrusted.notes
        relays = next((text for text in untrusted.problems if _mta_verdict.OPEN_RELAY in text), None)
    return {
        **listener,
        "label": label,
        "reached": bool(found["ehlo"] or found["ehlo_tls"]),
        "banner": found["banner"],
        "auth": [sorted(_mta_judge.mechanisms(found["ehlo"])), sorted(_mta_judge.mechanisms(found["ehlo_tls"]))],
        "reports": "DSN" in [*found["ehlo"], *found["ehlo_tls"]],
        "relays": relays,
        "taken": taken,
    }, notes


def _certificate_files(
    listeners: Sequence[Listener], parameters: Mapping[str, str]
) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """What the certificates of the listeners and their authorities are, by path; and the paths of authorities."""
    paths = [path for listener in listeners for path in listener["certificates"]]
    authorities = [parameters[name] for name in ("smtpd_tls_CAfile",) if parameters.get(name)]
    now = _mta_system.now()
    found = {}
    for path in dict.fromkeys([*paths, *authorities]):
        file = _mta_pem.read(path)
        if file is not None:
            with contextlib.suppress(CommandExecutionError):  # the server does not answer then
                chain = _mta_x509.describe(file.data)
                found[path] = [{**one, "days_left": (one["not_after"] - now).days} for one in chain]
    return found, authorities


def _guarded_files(
    minion: Minion, listeners: Sequence[Listener], parameters: Mapping[str, str]
) -> list[GuardedFile]:
    """Files and directories that others must not get at, those that there are."""
    remove = "no setting: chmod o= {}"
    close = "no setting: chmod 600 {}"
    wanted = [(path, "the private key", KEY_BITS, close) for one in listeners for path in one["keys"]]
    with contextlib.suppress(CommandExecutionError):
        certificate = minion.settings()["certificate"]
        wanted.append((certificate["ca"]["key"], "the authority's private key", 0o077, close))
    socket_directory = _mta_saslauthd_view.settings()["socket_directory"]
    if os.path.exists(f"{socket_directory}/mux"):
        pillar = 'sasl: {{directory_mode: "0710"}}'
        wanted.append((socket_directory, "the directory of the socket that tells right passwords", 0o007, pillar))
    queue = parameters.get("queue_directory")
    for name, bits in (("private", 0o077), ("public", 0o007)):
        wanted.append((f"{queue}/{name}", "a directory of Postfix's sockets", bits, remove))
    wanted += [(path, "a file with passwords", 0o007, remove) for path in ("/etc/sasldb2", "/etc/saslauthd.conf")]
    for table in _mta_tables.of_parameter(minion, "smtp_sasl_password_maps"):
        path = table.rpartition(":")[2]
        wanted += [(path + end, "a table of passwords", 0o007, remove) for end in ("", ".db", ".lmdb", ".cdb")]
    found = []
    for path, what, bits, pillar in dict.fromkeys(wanted):
        with contextlib.suppress(OSError):
            status = os.stat(path)
            if bits == KEY_BITS and _mta_system.group_name(status.st_gid) == "ssl-cert":
                bits = KEY_BITS & ~stat.S_IRGRP
            found.append(GuardedFile(path, stat.S_IMODE(status.st_mode), what, bits, pillar.format(path)))
    return found
