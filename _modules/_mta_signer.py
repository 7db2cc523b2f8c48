"""
The signer: an rspamd of the formula's own, which does nothing but sign, as a participant and as it is verified.

It has its own configuration, unit and key, beside an rspamd that the administrator may run. Its socket is in a
directory of Postfix's queue that only root, its own user and the group ``postfix`` can enter. Which selector signs
and which are kept until their mail is through stands in its configuration, so an undo takes a rotation back.

docs/arriving.md says why it is rspamd, and what it costs.
"""

from __future__ import annotations

import base64
import os
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

from salt.exceptions import CommandExecutionError

import _mta_dkim
import _mta_milter
import _mta_pem
import _mta_postfix_view
import _mta_resolver
import _mta_restore
import _mta_services
import _mta_snapshots
import _mta_system
import _mta_transaction
import _mta_x509
import _mta_x509_make
from _mta_minion import Minion
from _mta_pillar_schema import SECOND_KEY as SECOND
from _mta_pillar_schema import SIGNER_SOCKET as SOCKET
from _mta_plan import Change, Plan
from _mta_records import NamedTuple
from _mta_settings import SIGNER_FILES as FOLDER

PROGRAM = "/usr/bin/rspamd"
USER = "_rspamd"
CONF = _mta_services.SIGNER_CONF
RULE = f"{FOLDER}/unsigned.lua"
UNIT = f"/etc/systemd/system/{_mta_services.SIGNER}.service"
# Relative to Postfix's queue, which is where its daemons are, in a chroot or not.
MILTER = f"unix:{SOCKET}"
FILE_ACCESS, KEY_ACCESS = "root:root 0644", f"{USER}:{USER} 0600"
SUBJECT = "mta_dkim"
DAY = 86400
KEY_SIZE = 2048
# Of RSA, in bits; what receivers have to verify (RFC 8301, 3.2).
LEAST_SIZE = 1024
# After a reload the former worker signs until the new one is there.
PATIENCE = 30
# With all public suffixes to compile the first start takes 10 s of a processor.
LONG_PATIENCE = 300
_SECOND = re.compile(r"(?m)^# also signs: (\S+)$")
_ACTIVE = re.compile(r"(?m)^# signs: (\S+)$")
_KEPT = re.compile(r"(?m)^# kept: (\S+) since (\d+)$")

# See docs.rspamd.com, modules/dkim_signing and workers/rspamd_proxy. Its own list of top level domains would cost
# 200 MB: it is for URLs in mail.
CONF_TEXT = """\
# Made by the Salt formula postfix_mta; changes of this file are undone.
# signs: {selector}
{second}{kept}options {{
  pidfile = "/run/{service}/pid";
  tempdir = "/run/{service}";
  hs_cache_dir = "/var/cache/{service}/";
  control_socket = "/run/{service}/control mode=0600";
  url_tld = "{tld}";
  filters = "dkim";
  disable_hyperscan = {plain};
  local_addrs = [{networks}];
  dns {{ timeout = 1s; retransmits = 2; }}
}}
logging {{ type = "console"; systemd = true; level = "warning"; }}
worker "rspamd_proxy" {{
  bind_socket = "{queue}/{socket} mode=0666";
  milter = true;
  count = 1;
  timeout = 60s;
  reject_message = "fails DMARC, and the domain of its From has the policy p=reject";
  upstream "local" {{ default = true; self_scan = true; }}
}}
worker "hs_helper" {{ count = -1; }}
modules {{ path = "/usr/share/rspamd/plugins/dkim_signing.lua"; }}
lua = "{folder}/unsigned.lua";
dkim {{ }}
{results}actions {{ }}
dkim_signing {{
  sign_authenticated = true;
  sign_local = true;
  sign_inbound = false;
  use_domain = "header";
  use_esld = false;
  allow_hdrfrom_mismatch = true;
  allow_username_mismatch = true;
  try_fallback = false;
  domain {{
{domains}  }}
}}
"""
# A key that is gone or cannot be read is no error to rspamd: it would let the mail go as it is.
RULE_TEXT = """\
-- Made by the Salt formula postfix_mta; changes of this file are undone.
-- Mail that is to be signed and is not, by each of the keys, waits.
local signing = rspamd_config:get_all_opt('dkim_signing').domain

rspamd_config:register_symbol{
  name = 'UNSIGNED',
  type = 'postfilter',
  callback = function(task)
    local ip, from = task:get_from_ip(), task:get_from('mime')
    local ours = from and #from == 1 and signing[(from[1].domain or ''):lower()]
    if not ours or not (task:get_user() or (ip and ip:is_local())) then
      return
    end
    local signed = {}
    for _, one in ipairs((task:get_symbol('DKIM_SIGNED') or {{}})[1].options or {}) do
      signed[one:match('s=(.*)$') or ''] = true
    end
    for _, key in ipairs(ours.selectors) do
      if not signed[key.selector] then
        task:set_pre_result('soft reject', 'the key ' .. key.selector .. ' cannot be used', 'postfix_mta')
        return
      end
    end
  end,
}
"""
# What others' mail is worth, in its header. DMARC has to know all public suffixes. Hyperscan compiles them once,
# in 10 s of a processor; a start from its cache takes half a second, without Hyperscan half a minute.
RESULTS_TEXT = """\
modules {
  path = "/usr/share/rspamd/plugins/spf.lua";
  path = "/usr/share/rspamd/plugins/dmarc.lua";
  path = "/usr/share/rspamd/plugins/milter_headers.lua";
}
spf { }
milter_headers {
  use = ["authentication-results"];
  skip_local = true;
  skip_authenticated = true;
  authenticated_headers = [];
  routines { "authentication-results" { remove = 0; } }
}
"""
# Mail that fails DMARC is refused where its domain says p=reject (RFC 7489, 6.3), or it is not.
DMARC_TEXT = {True: 'dmarc { actions { reject = "reject"; } }\n', False: "dmarc { }\n"}
# All public suffixes: rspamd's own list, or the one of Debian 13's package publicsuffix, which rspamd depends on.
PUBLIC_NAMES = ("/usr/share/rspamd/effective_tld_names.dat", "/usr/share/publicsuffix/effective_tld_names.dat")
DOMAIN_TEXT = '    "{domain}" {{ selectors [{keys}] }}\n'
KEY_TEXT = '{{ selector = "{selector}"; path = "{path}"; }}'
UNIT_TEXT = """\
# Made by the Salt formula postfix_mta; changes of this file are undone.
[Unit]
Description=DKIM signer of Postfix
RequiresMountsFor={queue}
Before=postfix.service postfix@-.service

[Service]
User={user}
RuntimeDirectory={service}
CacheDirectory={service}
TimeoutStartSec={timeout}
UMask=0007
NoNewPrivileges=true
ExecStartPre=+/usr/bin/install -d -o {user} -g postfix -m 0750 {directory}
ExecStart={program} -c {conf} -f
ExecStartPost=+/bin/sh -c 'until test -S {socket}; do kill -0 $MAINPID || exit 1; sleep 0.1; done'
ExecReload=/bin/kill -HUP $MAINPID
ExecStopPost=+/bin/rm -rf {directory}
Restart=always

[Install]
WantedBy=multi-user.target
"""
PROBE_BODY = b"This message went through the signer, and nowhere else.\r\n"


class Selectors(NamedTuple):
    """
    The selector that signs, those that are kept and since when (Unix time), and one that waits for the DNS.

    second
        The name of the Ed25519 key that signs beside it; ``None``: none, or it waits for the DNS.

    lacking
        Why one waits: for which domains a name server does not have its record, and which.
    """

    active: str
    kept: dict[str, int]
    waiting: str | None = None
    second: str | None = None
    lacking: Sequence[str] = ()


# -- what there is -----------------------------------------------------------------------------


def state() -> Selectors | None:
    """Return which selectors the signer has; ``None`` where there is no signer."""
    text = _mta_system.read(CONF) or ""
    active = _ACTIVE.search(text)
    if not active:
        return None
    second = _SECOND.search(text)
    kept = {name: int(since) for name, since in _KEPT.findall(text)}
    return Selectors(active[1], kept, second=second and second[1])


def judges() -> bool | None:
    """Return whether the signer writes into others' mail what it is worth; ``None`` where there is no signer."""
    text = _mta_system.read(CONF)
    return None if text is None else RESULTS_TEXT in text


def known() -> list[str]:
    """Return the selectors that have a key: the one that signs, those that are kept, and one that waits."""
    try:
        return sorted(name[: -len(".key")] for name in os.listdir(FOLDER) if name.endswith(".key"))
    except FileNotFoundError:
        return []


def key_file(selector: str) -> str:
    """Return the path of a selector's private key."""
    return f"{FOLDER}/{selector}.key"


def public_key(selector: str) -> bytes | None:
    """Return a selector's public key as DER; ``None`` where there is none. Raises ``CommandExecutionError``."""
    pem = _mta_system.read_bytes(key_file(selector))
    if pem is None:
        return None
    if not pem.startswith(b"-"):
        return _mta_dkim.ED25519 + base64.b64decode(pem)[_mta_dkim.ED25519_SIZE :]
    public: bytes = _mta_x509.describe_key(pem)["public"]
    return public


# -- which selector signs ----------------------------------------------------------------------


def selectors(
    minion: Minion,
    domains: Sequence[str],
    selector: str,
    keep_days: int,
    resolver: str | None = None,
    now: float | None = None,
    look_up: Callable[..., Any] = _mta_resolver.lookup,
) -> Selectors:
    """
    Return which selectors there are to be: another one signs once all name servers of all domains have its record.

    domains, selector, keep_days, resolver
        As of the state ``mta_dkim.managed``.

    The DNS is asked only while a selector waits.
    """
    now = time.time() if now is None else now
    there = state()
    if there is None:
        return Selectors(selector, {})
    kept = {
        name: since
        for name, since in there.kept.items()
        # Another key in the place of one that is gone would ask for another record.
        if now - since < keep_days * DAY and name != selector and os.path.exists(key_file(name))
    }
    if there.active == selector:
        return Selectors(selector, kept)
    public = public_key(selector)
    lacking = [] if public is None else unpublished(domains, selector, public, resolver, look_up)
    if public is None or lacking:
        return Selectors(there.active, kept, waiting=selector, lacking=lacking)
    return Selectors(selector, {**kept, there.active: int(now)})


def _with_second(
    chosen: Selectors,
    wanted: bool,
    domains: Sequence[str],
    resolver: str | None,
    look_up: Callable[..., Any] = _mta_resolver.lookup,
) -> Selectors:
    """
    The selectors, with the Ed25519 key beside the one that signs once all name servers have its record, too.

    One that has signed, and does no longer, is kept like others.
    """
    name, there = chosen.active + SECOND, state()
    former = there.second if there else None
    second = name if wanted and former == name else None
    if wanted and not second:
        public = public_key(name)
        if public is not None and not unpublished(domains, name, public, resolver, look_up):
            second = name
    kept = dict(chosen.kept)
    if former and former != second and os.path.exists(key_file(former)):
        kept[former] = int(time.time())
    return chosen._replace(second=second, kept={one: since for one, since in kept.items() if one != second})


def unpublished(
    domains: Sequence[str],
    selector: str,
    public: bytes,
    resolver: str | None = None,
    look_up: Callable[..., Any] = _mta_resolver.lookup,
) -> list[str]:
    """Return for which domains a name server does not have a selector's record, and which."""
    wanted, found = _mta_dkim.record(public), []
    for domain in domains:
        name = f"{selector}._domainkey.{domain}"
        try:
            said = _mta_resolver.everywhere(name, "TXT", look_up, resolver)
        except CommandExecutionError as err:
            found.append(str(err))
            continue
        found += [
            f"{name} is not at the name server {server}"
            for server, texts in said.items()
            if not any(_mta_dkim.same_key(text, wanted) for text in texts or [])
        ]
    return found


# -- the participant ---------------------------------------------------------------------------


class _Wanted(NamedTuple):
    """The signer as it is to be: files and their texts, its keys' selectors, and what is said about it."""

    files: dict[str, str]
    selectors: Selectors
    keys: list[str]
    notes: list[str]


def _wanted(
    minion: Minion,
    domains: Sequence[str],
    selector: str,
    networks: Sequence[str],
    keep_days: int,
    resolver: str | None,
    results: bool,
    ed25519: bool,
    queue: str,
    dmarc_reject: bool,
) -> _Wanted:
    chosen = selectors(minion, domains, selector, keep_days, resolver)
    chosen = _with_second(chosen, ed25519, domains, resolver)
    signing = [name for name in (chosen.active, chosen.second) if name]
    keys = ", ".join(KEY_TEXT.format(selector=name, path=key_file(name)) for name in signing)
    quoted = ", ".join(f'"{network}"' for network in ("127.0.0.0/8", "::1", *networks))
    text = CONF_TEXT.format(
        selector=chosen.active,
        second=f"# also signs: {chosen.second}\n" if chosen.second else "",
        kept="".join(f"# kept: {name} since {since}\n" for name, since in chosen.kept.items()),
        service=_mta_services.SIGNER,
        folder=FOLDER,
        networks=quoted,
        queue=queue,
        socket=SOCKET,
        tld=next(filter(os.path.exists, PUBLIC_NAMES), PUBLIC_NAMES[0]) if results else f"{FOLDER}/tld",
        plain="false" if results else "true",
        results=RESULTS_TEXT + DMARC_TEXT[dmarc_reject] if results else "",
        domains="".join(DOMAIN_TEXT.format(domain=domain, keys=keys) for domain in domains),
    )
    unit = UNIT_TEXT.format(
        user=USER,
        service=_mta_services.SIGNER,
        timeout=_mta_services.SIGNER_TIMEOUT,
        queue=queue,
        directory=os.path.dirname(f"{queue}/{SOCKET}"),
        program=PROGRAM,
        conf=CONF,
        socket=f"{queue}/{SOCKET}",
    )
    notes = []
    if chosen.waiting:
        notes.append(
            f"{chosen.active} signs until all name servers have the record of {chosen.waiting}: mta_dns.records"
            " shows it, and the first apply after that switches."
        )
        notes += [f"  {text}" for text in chosen.lacking]
    names = [name for name in (chosen.active, chosen.waiting, *chosen.kept) if name]
    if ed25519:
        names += [name + SECOND for name in (chosen.active, chosen.waiting) if name]
    if ed25519 and not chosen.second:
        notes.append(f"{chosen.active}{SECOND} signs, too, after all name servers have its record.")
    files = {CONF: text, RULE: RULE_TEXT, f"{FOLDER}/tld": "com\n", UNIT: unit}
    return _Wanted(files, chosen, list(dict.fromkeys(names)), notes)


def _obstacles(milters: str) -> list[str]:
    """Why there can be no signer on this host."""
    if _mta_services.manager() != "systemd":
        return ["the signer needs systemd, which does not run here"]
    if _mta_services.masked(UNIT):
        return [f"{_mta_services.SIGNER} is masked: systemctl unmask {_mta_services.SIGNER}"]
    if not os.path.exists(_mta_postfix_view.CONFIG_DIRECTORY + "/main.cf"):
        return []
    theirs = _mta_postfix_view.show().get("smtpd_milters", "")
    if theirs and MILTER not in theirs and milters == MILTER:
        return [
            f"main.cf has a milter already, smtpd_milters = {theirs}: if it signs, name it in dkim:milter; if mail"
            f" is to go through both, in parameters: {{smtpd_milters: [{theirs}, '{MILTER}'],"
            f" non_smtpd_milters: '{MILTER}'}}"
        ]
    return []


def plan(minion: Minion, domains: Sequence[str], selector: str, **arguments: Any) -> Plan:
    """
    Tell what :func:`apply` would change. Reads files; asks the DNS while a selector waits for it.

    Parameters: of the state ``mta_dkim.managed``. Raises ``CommandExecutionError`` when a file cannot be read.
    """
    return _planned(minion, domains, selector, **arguments)[1]


def _planned(
    minion: Minion,
    domains: Sequence[str],
    selector: str,
    key_size: int = KEY_SIZE,
    key_pillar: str | None = None,
    networks: Sequence[str] = (),
    keep_days: int = 7,
    resolver: str | None = None,
    milters: str = MILTER,
    results: bool = False,
    ed25519: bool = False,
    queue_directory: str = _mta_postfix_view.QUEUE,
    dmarc_reject: bool = False,
) -> tuple[_Wanted, Plan]:
    """What there is to be, and the plan that leads there; parameters as for :func:`plan`."""
    extras = (results, ed25519, queue_directory, dmarc_reject)
    wanted = _wanted(minion, domains, selector, networks, keep_days, resolver, *extras)
    planned = Plan(notes=list(wanted.notes), errors=_obstacles(milters))
    runs = _mta_services.status([_mta_services.SIGNER])[_mta_services.SIGNER]["active"]
    action = "reload" if runs else "restart"
    for path, text in wanted.files.items():
        old = _mta_system.read(path)
        if old != text:
            shown = (old and "another version", "this formula's") if path != CONF else (_signs(old), _signs(text))
            planned.changes[path] = {"old": shown[0], "new": shown[1]}
        else:
            planned.changes.update(_other_access(path, FILE_ACCESS))
        if path in planned.changes:
            planned.activate[_mta_services.SIGNER] = "restart" if path == UNIT else action
    for name in wanted.keys:
        path = key_file(name)
        given = _given_key(minion, key_pillar) if name == selector else None
        there = _mta_system.read_bytes(path)
        if there is None or (given is not None and there != given):
            planned.errors += _wrong_key(given, there, selector)
            kind = "Ed25519" if name.endswith(SECOND) else f"RSA {key_size}" if given is None else "from pillar"
            planned.changes[path] = {"old": there and "another key", "new": kind}
            planned.notes += _lost(name, given)
        else:
            planned.changes.update(_other_access(path, KEY_ACCESS))
        if path in planned.changes and name in (wanted.selectors.active, wanted.selectors.second):
            planned.activate.setdefault(_mta_services.SIGNER, action)
    socket = f"{queue_directory}/{SOCKET}"
    if not os.path.exists(socket):
        planned.changes["socket"] = {"old": None, "new": socket}
        planned.activate[_mta_services.SIGNER] = "restart"
    found = _mta_restore.obsolete(minion, SUBJECT, [*wanted.files, *map(key_file, wanted.keys)])
    planned.changes.update(found["changes"])
    planned.notes += found["stays"]
    return wanted, planned


def _other_access(path: str, wanted: str) -> dict[str, Change]:
    """The change of a file that has another owner or mode: rspamd cannot read it, or others can."""
    there = _mta_system.owner_and_mode(path)
    return {} if there == wanted else {path: {"old": there, "new": wanted}}


def _lost(name: str, given: bytes | None) -> list[str]:
    """What is said of a key that has signed and is gone."""
    there = state()
    if given is not None or there is None or name not in (there.active, there.second):
        return []
    return [
        f"The key with which {name} has signed was gone, so there is another one: replace its record by what"
        " mta_dns.records has now."
    ]


def _signs(text: str | None) -> str | None:
    """What a configuration signs with, and for whom, as changes show it."""
    found = _ACTIVE.search(text or "")
    if not found:
        return text and "another version"
    domains = re.findall(r'(?m)^    "([^"]+)" {', text or "")
    kept = [name for name, _ in _KEPT.findall(text or "")]
    also = _SECOND.search(text or "")
    told = f"; also {also[1]}" if also else ""
    told += "; Authentication-Results" * (RESULTS_TEXT in (text or ""))
    told += "; refuses by DMARC" * (DMARC_TEXT[True] in (text or ""))
    return f"{found[1]} signs for {', '.join(domains)}" + f"; kept: {', '.join(kept)}" * bool(kept) + told


def _given_key(minion: Minion, key_pillar: str | None) -> bytes | None:
    return _mta_pem.source(minion, key_pillar, private=True) if key_pillar else None


def _wrong_key(given: bytes | None, there: bytes | None, selector: str) -> list[str]:
    """Why a key from pillar is none to sign with, or not under its selector."""
    if given is None:
        return []
    try:
        key = _mta_x509.describe_key(given)["key"]
    except CommandExecutionError as err:
        return [f"dkim:private_key {err}"]
    kind, _, size = key.partition(" ")
    if kind != "RSA" or int(size) < LEAST_SIZE:
        return [f"dkim:private_key is {key}: all receivers verify RSA of {LEAST_SIZE} bits or more only"]
    former = state()
    if there is not None and former and selector in (former.active, *former.kept):
        # Its record in the DNS, and mail on its way, are of the key that is there.
        return [f"dkim:private_key is another key than the one that {selector} signs with: name another selector"]
    return []


def _ed25519_key() -> bytes:
    """A new private key as rspamd reads it: seed and public key in Base64."""
    pem = _mta_x509_make.make_key("ed25519", None)
    formats = _mta_x509.library().serialization
    how = (formats.Encoding.Raw, formats.PrivateFormat.Raw, formats.NoEncryption())
    seed: bytes = _mta_x509.load_key(pem).private_bytes(*how)
    public: bytes = _mta_x509.describe_key(pem)["public"]
    return base64.b64encode(seed + public[len(_mta_dkim.ED25519) :])


def apply(
    minion: Minion,
    domains: Sequence[str],
    selector: str,
    key_size: int = KEY_SIZE,
    key_pillar: str | None = None,
    **others: Any,
) -> None:
    """
    Make what :func:`plan` tells true, through the transaction that is open.

    Raises as :func:`plan` does, and ``CommandExecutionError`` when rspamd is not installed.
    """
    if not os.path.exists(PROGRAM):
        raise CommandExecutionError(f"{PROGRAM} is missing: install the package rspamd first")
    wanted, planned = _planned(minion, domains, selector, key_size, key_pillar, **others)
    # First, so that a run that is killed in between is made up for.
    _mta_transaction.need(minion, planned.activate)
    if not os.path.isdir(FOLDER):
        _mta_transaction.directory(minion, FOLDER)
    for name in wanted.keys:
        if key_file(name) in planned.changes:
            pem = _given_key(minion, key_pillar) if name == selector else None
            pem = pem or _mta_system.read_bytes(key_file(name))
            pem = pem or (_ed25519_key() if name.endswith(SECOND) else _mta_x509_make.make_key("rsa", key_size))
            _write(minion, key_file(name), pem, KEY_ACCESS)
    for path, text in wanted.files.items():
        if path in planned.changes:
            _write(minion, path, text.encode(), FILE_ACCESS)
    obsolete = [
        path for path in planned.changes if path not in wanted.files and path not in map(key_file, wanted.keys)
    ]
    if obsolete:
        _mta_restore.restore(minion, obsolete)


def _write(minion: Minion, path: str, contents: bytes, access: str) -> None:
    """Write a file. Where only its owner or mode is another one, that is no version of somebody's to come back."""
    owner, mode = access.split()
    user, group = owner.split(":")
    protect = [_mta_snapshots.LAST] if _mta_system.read_bytes(path) == contents else []
    _mta_transaction.write(minion, path, contents, user, group, mode, protect=protect)


def absent_plan(minion: Minion) -> Plan:
    """Tell what :func:`absent_apply` would change. Reads files only."""
    return _mta_restore.absent_service(minion, SUBJECT, _mta_services.SIGNER)


def absent_apply(minion: Minion) -> None:
    """Stop the signer, and restore what was there before it, through the transaction that is open."""
    _mta_restore.remove_service(minion, SUBJECT, _mta_services.SIGNER)


# -- as it is verified -------------------------------------------------------------------------


def problems(domains: Sequence[str], patience: float | None = None) -> list[str]:
    """
    Send a message of each domain through the signer, and verify the signature by the key that the DNS should have.

    patience
        Seconds within which the right signature has to come: a signer that has been reloaded takes some. Default:
        by what it has to read.
    """
    there = state()
    public = public_key(there.active) if there else None
    if there is None or public is None:
        return [f"There is no signer: {CONF} or its key is missing"]
    if patience is None:
        patience = LONG_PATIENCE if judges() else PATIENCE
    deadline = time.monotonic() + patience
    found: list[str] = []
    keys = {there.active: public}
    if there.second:
        keys[there.second] = public_key(there.second) or b""
    for domain, selector in ((domain, selector) for domain in domains for selector in keys):
        while True:
            wrong = _wrong(domain, selector, keys[selector])
            if wrong is None or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        found += [f"DKIM: mail from {domain}: {wrong}"] * bool(wrong)
    return found


def _wrong(domain: str, selector: str, public: bytes) -> str | None:
    sender = f"postmaster@{domain}"
    headers = [
        ("From", sender),
        ("To", "postmaster@example.org"),
        ("Subject", "Is this signed?"),
        ("Date", time.strftime("%a, %d %b %Y %H:%M:%S +0000", time.gmtime())),
        ("Message-ID", f"<{os.urandom(8).hex()}@{domain}>"),
    ]
    message = _mta_milter.Message(sender, "postmaster@example.org", headers, PROBE_BODY)
    try:
        outcome = _mta_milter.send(f"{_mta_postfix_view.queue_directory()}/{SOCKET}", message, domain)
    except CommandExecutionError as err:
        return str(err)
    if outcome.verdict != "accepted":
        return f"the signer has {outcome.verdict} it"
    signatures = [value for name, value in outcome.headers if name.lower() == _mta_dkim.SIGNATURE]
    reasons = []
    for signature in signatures:
        tags = _mta_dkim.tags(signature)
        if (tags.get("d"), tags.get("s")) != (domain, selector):
            reasons.append(
                f"it is signed by {tags.get('s')} of {tags.get('d')}, and not by {selector} of {domain}"
            )
            continue
        wrong = _mta_dkim.problem(signature, headers, PROBE_BODY, public)
        if wrong is None:
            return None
        reasons.append(f"the signature is not good: {wrong}")
    return "; ".join(reasons) or "the signer does not sign it"
