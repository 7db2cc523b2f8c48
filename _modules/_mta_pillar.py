"""
The pillar's validation: its shape, what contradicts itself, and what this host's Postfix does not take.

Each problem is one line that begins with the pillar path; no secret is part of it. The shape is checked by
``_mta_pillar_types`` against ``_mta_pillar_schema``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Callable

import _mta_pillar_types
import _mta_postfix_stage
import _mta_settings
import _mta_system
import _mta_tables
from _mta_minion import Minion
from _mta_pillar_schema import KEY_SIZES, SCHEMA, SECOND_KEY, TABLE_REFERENCE
from _mta_pillar_types import label, listed, mapping, nearest, shown
from _mta_records import NamedTuple

Problems = Iterator[str]

# Backend: the setting, or the program, whose file has to be there.
_FIREWALL_FILES = {
    "ufw": "/usr/sbin/ufw",
    "firewalld": "/usr/sbin/firewalld",
    "nftables": "nftables_file",
    "iptables": "rules_file",
}


class Pillar(NamedTuple):
    """
    A pillar that is looked at.

    key
        The pillar key that holds it; every path begins with it.

    given
        What it holds.

    settings
        The effective settings, which values are compared with across sections.

    hostname
        The host name in force when the pillar has none.
    """

    key: str
    given: Mapping[Any, Any]
    settings: Mapping[str, Any]
    hostname: Any

    def section(self, *names: str) -> Mapping[Any, Any]:
        """Return a section as it is given; an empty one where it is none."""
        found: Any = self.given
        for name in names:
            found = mapping(found).get(name)
        return mapping(found)

    def path(self, *names: str) -> str:
        """Return the pillar path of a key."""
        return ":".join((self.key, *names))


def problems(
    minion: Minion,
    key: str = _mta_settings.KEY,
    hostname: Any = None,
    family: Any = None,
    pillar: Any = None,
    saltenv: str | None = None,
) -> list[str]:
    """
    Return what would be wrong with a pillar, one line for each problem.

    Parameters, result and errors: ``mta_settings.problems``.
    """
    settings = _mta_settings.of_pillar(minion, saltenv or minion.saltenv, pillar)
    return judged(minion, key, pillar, settings, hostname, family)


def judged(
    minion: Minion,
    key: str,
    pillar: Any,
    settings: Mapping[str, Any],
    hostname: Any,
    family: Any,
    renamed: Sequence[str] = (),
) -> list[str]:
    """
    Return what is wrong with a pillar, one line for each problem.

    key
        The pillar key that holds the settings.

    pillar
        What it holds.

    settings
        The effective settings that it gives.

    hostname
        The host name in force when the pillar has none; ``None``: the grain ``fqdn``.

    family
        The operating system family; ``None``: the grain ``os_family``.

    renamed
        Why the host's own name is not the server's any more; the pillar's shape is not looked at then.

    Postfix is asked only about what nothing else is wrong with. Raises ``CommandExecutionError`` when that fails.
    """
    hostname = minion.grains.get("fqdn") if hostname is None else hostname
    family = family or minion.grains.get("os_family")
    found = []
    if family not in settings["families"]:
        known = listed(settings["families"])
        found.append(f"{key}: the operating system family {shown(family)} is not known; known: {known}")
    found += renamed or of_data(pillar, key, hostname, settings)
    if not isinstance(pillar, Mapping):
        return found
    names = tuple(f"{key}:{part}" for part in ("parameters", "services"))
    if not any(line.startswith(names) for line in found):
        found += _refused_by_postfix(minion, key, pillar.get("parameters") or {}, settings["services"])
    if not any(line.startswith(f"{key}:maps") for line in found):
        found += _unfit_tables(minion, key, pillar, settings)
    return found


def of_data(pillar: Any, key: str, hostname: Any, settings: Mapping[str, Any]) -> list[str]:
    """Return the problems of a pillar without asking Postfix: its shape, and then what contradicts itself."""
    found = list(_mta_pillar_types.section(key, pillar, SCHEMA))
    looked_at = Pillar(key, mapping(pillar), settings, hostname)
    if looked_at.given.get("hostname") is None:
        found += _mta_pillar_types.own_name(looked_at.path("hostname"), hostname)
    if looked_at.given:
        found += list(_contradictions(looked_at, found))
    return found


# -- what Postfix does not take ----------------------------------------------------------------


def _refused_by_postfix(
    minion: Minion, key: str, parameters: Mapping[str, Any], services: Mapping[str, Any]
) -> Problems:
    """Yield the main.cf and master.cf names in the pillar that this host's Postfix does not know."""
    if not parameters and not services:
        return
    for refusal in _mta_postfix_stage.refused(minion, parameters, services):
        kind = "parameter" if refusal.get("parameter") else "service"
        hint = f"; did you mean {refusal['nearest']}?" if refusal.get("nearest") else ""
        yield f"{key}:{kind}s:{refusal[kind]}: {refusal['reason']}{hint}"


def _unfit_tables(minion: Minion, key: str, pillar: Mapping[str, Any], settings: Mapping[str, Any]) -> Problems:
    """Yield what the tables in the pillar cannot hold, and the types that this host's Postfix does not have."""
    kinds: dict[str, str] = {}
    for name, table in settings["maps"].items():
        kinds.setdefault(table["type"], name)
        # The formula's own tables come with what they hold.
        if not table.get("logins") and "entries" not in table:
            given = {argument: table[argument] for argument in ("secret", "mode", "source")}
            entries = pillar["maps"][name].get("entries")
            reason = _mta_tables.unfit(minion, table["name"], table["type"], entries, **given)
            if reason:
                yield f"{key}:maps:{name}:{reason}"
    # A type that a package of the formula's brings may come with it.
    asked = [kind for kind, name in kinds.items() if kind and not settings["maps"][name].get("package")]
    for kind in _mta_tables.missing_types(minion, asked):
        yield (
            f"{key}:maps:{kinds[kind]}:type: this Postfix has no table type {kind}; leave the type out for its"
            f" default_database_type, {_mta_tables.default_type(minion)}, or name another one"
        )


# -- what contradicts itself -------------------------------------------------------------------
# Each check yields what is legal by itself and wrong beside something else.


def _contradictions(pillar: Pillar, found: list[str]) -> Problems:
    """Yield the problems of each check whose values are right by themselves; ``found``: problems of values."""
    for needed, check in _CHECKS:
        paths = tuple(f"{pillar.path(path)}:" for path in needed)
        if not paths or not any(line.startswith(paths) for line in found):
            yield from check(pillar)


def _keys(pillar: Pillar) -> Problems:
    """Keys that clients, Postfix or this formula would not take."""
    path, certificate = pillar.path("certificate"), pillar.settings["certificate"]
    second, known = certificate["second"], pillar.settings["family"]["key_types"]
    yield from _key(path, certificate, known)
    if second["key_type"] is not None:
        yield from _key(f"{path}:second", second, known)
        if second["key_type"] == certificate["key_type"]:
            yield f"{path}:second:key_type: {second['key_type']} is that of the first; allowed: another, or none"
    elif second["key_size"] is not None:
        yield f"{path}:second:key_size: given without {path}:second:key_type"


def _key(path: str, section: Mapping[str, Any], known: list[str]) -> Problems:
    kind, size = section["key_type"], section["key_size"]
    if kind not in known:
        yield f"{path}:key_type: {kind} has not been tried with this system's Postfix; allowed: {listed(known)}"
    elif size in KEY_SIZES[kind]:
        return
    elif kind == "ed25519":
        yield f"{path}:key_size: keys of type ed25519 have no sizes; leave it out"
    else:
        weak = kind == "rsa" and size < min(KEY_SIZES[kind])
        why = "is too weak: clients refuse it" if weak else f"is no size of a key of type {kind}"
        yield f"{path}:key_size: {size} {why}; allowed: {listed(KEY_SIZES[kind])}"


def _days(pillar: Pillar) -> Problems:
    """Certificates that would be renewed at every run, or outlive their authority."""
    path, certificate = pillar.path("certificate"), pillar.settings["certificate"]
    days, renew_days, lifetime = certificate["days"], certificate["renew_days"] or 0, certificate["ca"]["days"]
    every_run = "would be renewed at every run"
    if renew_days >= days:
        yield f"{path}:renew_days: {renew_days} is not less than days, {days}: the certificate {every_run}"
    if certificate["source"] != "local_ca":
        return
    if renew_days >= lifetime:
        yield f"{path}:ca:days: {lifetime} is not more than renew_days, {renew_days}: it {every_run}"
    elif days > lifetime:
        yield f"{path}:days: {days} is longer than its authority is valid; allowed: up to {lifetime}"


def _fleet(pillar: Pillar) -> Problems:
    """The fleet's authority without the minion that has it."""
    certificate = pillar.settings["certificate"]
    if certificate["source"] == "fleet_ca" and not certificate["fleet"]["ca_minion"]:
        path = pillar.path("certificate", "fleet", "ca_minion")
        yield f"{path}: not given; the source fleet_ca needs the signing minion's id"


def _shared_files(pillar: Pillar) -> Problems:
    """Keys and certificates that would overwrite another one."""
    path, certificate = pillar.path("certificate"), pillar.settings["certificate"]
    pairs = list(zip(("", "second:"), pillar.settings["pairs"]))
    files = {
        f"{prefix}{name}": pair[name] for prefix, pair in pairs for name in ("key", "certificate", "chain_file")
    }
    if certificate["source"] in ("local_ca", "fleet_ca"):
        files["ca:certificate"] = certificate["ca"]["certificate"]
    if certificate["source"] == "local_ca":
        files["ca:key"] = certificate["ca"]["key"]
    if certificate["source"] == "files":
        sources = {f"{prefix}files:{part}": file for prefix, pair in pairs for part, file in pair["files"].items()}
        files.update({name: file for name, file in sources.items() if str(file).startswith("/")})
    used: dict[Any, str] = {}
    for name, file in files.items():
        # The administrator's files may be one: key, certificate and chain in a file.
        if file in used and not ("files:" in name and "files:" in used[file]):
            yield f"{path}:{name}: {shown(file)} is {path}:{used[file]} too; each needs its own file"
        if file is not None:
            used.setdefault(file, name)


def _source_files(pillar: Pillar) -> Problems:
    """What source files lacks, and what is given without it."""
    path, certificate = pillar.path("certificate"), pillar.settings["certificate"]
    source, files = certificate["source"], certificate["files"]
    for where, section in ((f"{path}:files", files), (f"{path}:second:files", certificate["second"]["files"])):
        given = [part for part, value in section.items() if value is not None]
        if source != "files":
            yield from (f"{where}:{part}: given, but {path}:source is {source}" for part in given)
        elif given or section is files:
            needed = [part for part in ("certificate", "key") if part not in given]
            yield from (f"{where}:{part}: not given; source files needs both" for part in needed)


def _passphrases(pillar: Pillar) -> Problems:
    """The passphrase before the one that there is not."""
    given = pillar.section("certificate", "ca")
    if given.get("previous_passphrase") is not None and given.get("passphrase") is None:
        path = pillar.path("certificate", "ca", "previous_passphrase")
        yield f"{path}: given without passphrase, which is the new one"


def _firewall(pillar: Pillar) -> Problems:
    """What a backend needs and this host does not have."""
    path, settings = pillar.path("firewall"), pillar.settings["firewall"]
    backend = settings["backend"]
    needed = _FIREWALL_FILES.get(backend, "")
    file = settings.get(needed, needed)
    if file and not _mta_system.exists(file):
        if file == needed:
            yield (
                f"{path}:backend: {backend} is not installed here, there is no {file}; install it, or leave"
                f" {path}:backend at auto"
            )
        else:
            yield (
                f"{path}:{needed}: {file} is not there; make it with the firewall's other rules, or leave"
                f" {path}:backend at auto"
            )
    if settings["rules_file"] == settings["rules_file_v6"]:
        yield f"{path}:rules_file_v6: it is {path}:rules_file too; each needs its own file"


def _login(pillar: Pillar) -> Problems:
    """Half a login, and one where nobody can log in."""
    path, login = pillar.path("verify", "login"), pillar.section("verify", "login")
    lacking = _lacking(login, "username", "password")
    if len(lacking) == 1:
        yield f"{path}:{lacking[0]}: not given; a login needs both"
    elif not lacking and pillar.settings["sasl"]["enabled"] is False:
        yield f"{path}: given, but nobody can log in while {pillar.path('sasl')}:enabled is false"


def _lacking(section: Mapping[Any, Any], *names: str) -> list[str]:
    return [name for name in names if section.get(name) is None]


def _relay(pillar: Pillar) -> Problems:
    """Settings of a smarthost that are of no use without another one, or contradict one."""
    path, relay, senders = pillar.path("relay"), pillar.section("relay"), pillar.section("relay", "senders")
    host, tls = relay.get("host"), relay.get("tls")
    yield from _hop(path, relay)
    for sender in senders:
        section = mapping(senders[sender])
        half = list(_hop(f"{path}:senders:{sender}", section))
        yield from half
        if not half and host is None and section.get("host") is None:
            yield f"{path}:senders:{sender}:host: not given, and there is no {path}:host"
    useless = [name for name in ("port", "username", "ca_file") if relay.get(name) is not None]
    if host is None and useless and not (senders and useless == ["ca_file"]):
        yield f"{path}:host: not given; {path}:{useless[0]} is of no use without it"
    if host is None and senders and tls == "implicit":
        yield f"{path}:tls: implicit is for every host that Postfix sends to; it needs {path}:host"
    if tls == "none" and relay.get("ca_file") is not None:
        yield f"{path}:ca_file: of no use while {path}:tls is none"
    for name, given in (("relayhost", host), ("sender_dependent_relayhost_maps", senders)):
        if given and pillar.section("parameters").get(name) is not None:
            yield f"{pillar.path('parameters', name)}: {path} says it too; give one of them"


def _hop(path: str, section: Mapping[Any, Any]) -> Problems:
    lacking = _lacking(section, "username", "password")
    if len(lacking) == 1:
        yield f"{path}:{lacking[0]}: not given; a login needs both"


def _tables(pillar: Pillar) -> Problems:
    """Tables that are the same file."""
    maps = pillar.settings["maps"]
    for own, key, whose in (
        (_mta_settings.RELAY_TABLE, "logins", f"{pillar.path('relay')}'s logins"),
        (_mta_settings.SENDERS_TABLE, "entries", f"{pillar.path('sasl', 'senders')}"),
    ):
        if key in maps.get(own, {}) and own in pillar.section("maps"):
            yield f"{pillar.path('maps', own)}: that is the table of {whose}; choose another name"
    used: dict[str, str] = {}
    for name, table in maps.items():
        if table["name"] in used:
            other = pillar.path("maps", used[table["name"]])
            yield f"{pillar.path('maps', name)}:path: {table['name']} is {other} too"
        used.setdefault(table["name"], name)


def _references(pillar: Pillar) -> Problems:
    """References to tables that there are not."""
    known = [name for name, table in pillar.section("maps").items() if table is not None]
    values: list[tuple[tuple[Any, ...], Any]] = [
        (("parameters", name), value) for name, value in pillar.section("parameters").items()
    ]
    for service, fields in pillar.section("services").items():
        overrides = mapping(mapping(fields).get("overrides"))
        values += [(("services", service, "overrides", name), value) for name, value in overrides.items()]
    for place, value in values:
        for item in value if isinstance(value, (list, tuple)) else [value]:
            for name in re.findall(TABLE_REFERENCE, item) if isinstance(item, str) else []:
                if name not in known:
                    close = nearest(name, known)
                    hint = f"; did you mean {close}?" if close else ""
                    path = pillar.path(*map(label, place))
                    yield f"{path}: {{maps.{name}}} is no table of {pillar.path('maps')}{hint}"


def _mechanism(pillar: Pillar) -> Problems:
    """What the mechanism lacks, and what is said twice."""
    path, given, ldap = pillar.path("sasl"), pillar.section("sasl"), pillar.section("sasl", "ldap")
    mechanism = (given.get("mechanisms") or ["pam"])[0]
    options = given.get("options")
    needs = {
        "ldap": ("ldap:servers", ldap.get("servers")),
        "rimap": ("rimap:host", pillar.section("sasl", "rimap").get("host")),
    }
    name, value = needs.get(mechanism, (None, None))
    if name and not value and not options:
        yield f"{path}:{name}: not given; the mechanism {mechanism} needs it"
    elif name and value and options:
        yield f"{path}:options: given beside {path}:{name}; give one of them"
    if ldap.get("servers") and not ldap.get("search_base"):
        yield f"{path}:ldap:search_base: not given; ldap:servers needs it"
    lacking = _lacking(ldap, "bind_dn", "bind_password")
    if len(lacking) == 1:
        yield f"{path}:ldap:{lacking[0]}: not given; a bind needs both"
    for name, value in ldap.items():
        if isinstance(value, str) and (value != value.strip() or not value.isprintable()):
            yield f"{path}:ldap:{name}: begins or ends with a blank, or has a character that cannot be seen"


def _root(pillar: Pillar) -> Problems:
    """Two recipients of root's mail."""
    recipient = pillar.given.get("root_recipient")
    if recipient is not None and pillar.section("aliases").get("root", recipient) != recipient:
        path = pillar.path("aliases", "root")
        yield f"{path}: not what {pillar.path('root_recipient')} says; give one of them"


def _dkim(pillar: Pillar) -> Problems:
    """A second key that servers with a common one would not have in common; a selector that has its name."""
    given = pillar.section("dkim")
    if str(given.get("selector")).endswith(SECOND_KEY):
        yield f"{pillar.path('dkim', 'selector')}: ends with {SECOND_KEY}, as the names of Ed25519 keys do here"
    if given.get("private_key") is not None and given.get("key_type") == "rsa+ed25519":
        path = pillar.path("dkim")
        yield f"{path}:key_type: rsa+ed25519 makes a key on each server, but {path}:private_key is one for several"


def _profile(pillar: Pillar) -> Problems:
    """What a profile needs, or contradicts."""
    profile, relay = pillar.settings["profile"], pillar.section("relay")
    recipient, path = pillar.given.get("root_recipient"), pillar.path("relay")
    if profile == "satellite":
        if relay.get("host") is None and not pillar.section("parameters").get("relayhost"):
            yield f"{path}:host: not given; with profile satellite all mail goes there"
        if recipient is not None and "@" not in str(recipient):
            yield (
                f"{pillar.path('root_recipient')}: {shown(recipient)} is a user of this host, and with profile"
                " satellite no mail is delivered here; an address elsewhere, such as alice@example.com"
            )
    if profile == "local_only":
        given = [name for name in ("host", "senders") if relay.get(name)]
        yield from (
            f"{path}:{name}: given, but with profile local_only no mail leaves this host" for name in given
        )


def _myhostname(pillar: Pillar) -> Problems:
    """A name of the server that is not that of its certificate."""
    name = pillar.given.get("hostname") or pillar.hostname
    own = pillar.section("parameters").get("myhostname", name)
    if own != name and pillar.settings["profile"] != "none":
        yield (
            f"{pillar.path('parameters', 'myhostname')}: not the name that the certificate and mydestination have,"
            f" {name}; set {pillar.path('hostname')} instead"
        )


# Which values have to be right by themselves before a check makes sense.
_CHECKS: tuple[tuple[tuple[str, ...], Callable[[Pillar], Problems]], ...] = (
    (("certificate:key_type", "certificate:key_size", "certificate:second"), _keys),
    (("certificate:source", "certificate:days", "certificate:renew_days", "certificate:ca:days"), _days),
    ((), _fleet),
    (("certificate",), _shared_files),
    (("certificate",), _source_files),
    ((), _passphrases),
    (("firewall:backend", "firewall:rules_file", "firewall:rules_file_v6", "firewall:nftables_file"), _firewall),
    (("verify:login",), _login),
    (("relay",), _relay),
    (("maps",), _tables),
    (("maps",), _references),
    (("sasl",), _mechanism),
    ((), _root),
    (("profile", "relay", "root_recipient"), _profile),
    (("hostname",), _myhostname),
    (("dkim",), _dkim),
)
