"""
The effective settings: defaults, operating system family, profile and pillar merged, and what follows from them.

:func:`merge` works on data alone. A pillar that ``_mta_pillar`` refuses is merged as far as it has the shape of
the defaults, so that SLS files render and the refusal can be reported.

On a minion that never synced this formula's modules, or has those of another revision, and with salt-ssh, which
renders on the master, ``postfix_mta/settings.py`` fetches this file from the file server, with those that it
imports, and calls :func:`fetched`.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Mapping
from typing import Any, Callable

from salt.exceptions import CommandExecutionError
from salt.utils.dictupdate import merge_recurse
from salt.utils.yaml import safe_load

# As modules: an apply with nothing new executes neither of the pillar's two.
import _mta_pillar_schema
import _mta_pillar_types
import _mta_system
from _mta_minion import SALTENV, Minion
from _mta_revision import REVISION

KEY = "postfix_mta"
QUEUE = "/var/spool/postfix"
# Where the files of the signer are, and of what knows MTA-STS policies; who is not needed any more has none.
SIGNER_FILES = "/etc/postfix-mta-signer"
STS_FILES = "/etc/postfix-mta-sts"
FETCH = "salt://postfix_mta/settings.py"
# All grains that settings and SLS files depend on; beside these, whether there is LOOPBACK6 in "ipv6".
GRAINS = ("fqdn", "os_family", "oscodename", "cpuarch")
LOOPBACK6 = "::1"
# Processors for which Debian's rspamd has Hyperscan: without it all public suffixes take half a minute to read.
HYPERSCAN = ("x86_64", "amd64")
# The table of the logins at smarthosts, and that of the logins to which senders' addresses belong.
RELAY_TABLE = "relay_passwords"
SENDERS_TABLE = "sender_logins"
_REFERENCE = r"\{([a-z_.]+)\}"
_DEFAULT_KEYTAB = "/etc/krb5.keytab"
_DEFAULT_SIZES = {"rsa": 3072, "ec": 256}

Settings = dict[str, Any]
# Of URLs and an environment: the paths of copies, empty where there is no such file. As cp.cache_files.
CacheFiles = Callable[[list[str], str], list[str]]


# -- where they come from ----------------------------------------------------------------------


def current(minion: Minion, saltenv: str) -> Settings:
    """
    Return the effective settings of a minion, by the code that the file server has, once for a run of states.

    saltenv
        The environment that holds the formula.

    ``synced`` in them: whether the loaded modules are those of the file server. Raises ``CommandExecutionError``
    when the formula's files cannot be read.
    """
    minion.context[SALTENV] = saltenv
    key = _context_key(saltenv)
    if key not in minion.context:
        pillar = minion.pillar.get(KEY)
        files = read(minion.functions["cp.cache_files"], saltenv, pillar)
        if files["revision"]["revision"] == REVISION:
            settings = {**merge(files, pillar, minion.grains), "synced": _has_states()}
            settings.update(_left())
        else:
            settings = minion.functions["slsutil.renderer"](FETCH, default_renderer="py", saltenv=saltenv)
        minion.context[key] = settings
    found: Settings = minion.context[key]
    return found


def rest_on(minion: Minion) -> list[Any]:
    """Return all that settings and SLS files depend on beside the formula's own files."""
    return [
        minion.pillar.get(KEY),
        [minion.grains.get(name) for name in GRAINS],
        _has_ipv6(minion.grains),
        _left(),
    ]


def _has_ipv6(grains: Mapping[str, Any]) -> bool:
    """Whether programs of the host may come to its mail server over IPv6."""
    return LOOPBACK6 in (grains.get("ipv6") or ())


def _left() -> dict[str, bool]:
    """Which of the formula's own daemons this host has, which are to go when nobody asks for them."""
    return {"signer_left": os.path.exists(SIGNER_FILES), "sts_left": os.path.exists(STS_FILES)}


def recall(minion: Minion, saltenv: str, settings: Settings) -> None:
    """Let :func:`current` return these settings for the rest of this run of states."""
    minion.context[SALTENV] = saltenv
    minion.context[_context_key(saltenv)] = settings


def _context_key(saltenv: str) -> str:
    return f"mta_settings.effective:{saltenv}:{REVISION}"


def of_pillar(minion: Minion, saltenv: str, pillar: Any) -> Settings:
    """Return what the effective settings would be with another pillar."""
    return merge(read(minion.functions["cp.cache_files"], saltenv, pillar), pillar, minion.grains)


def fetched(
    cache_files: CacheFiles, saltenv: str, pillar: Any, grains: Mapping[str, Any], over_ssh: bool
) -> Settings:
    """
    Return the effective settings where the modules that are loaded, if any, are not those of the file server.

    over_ssh
        Whether salt-ssh renders this, on the master. It brings the modules, so ``synced`` is true then. The
        ``packages`` are also those of the libraries that it does not bring, and there is neither ``beacon`` nor
        ``schedule``: those are for minions.
    """
    settings = merge(read(cache_files, saltenv, pillar), pillar, grains)
    if not over_ssh:
        return {**settings, "synced": False, **_left()}
    packages = [*settings["packages"], *settings["family"]["libraries"]]
    return {**settings, "packages": packages, "beacon": None, "schedule": None, "synced": True}


def read(cache_files: CacheFiles, saltenv: str, pillar: Any) -> dict[str, Any]:
    """Return the data of the formula's YAML files, by name; presets of services only where one is asked for."""
    names = ["revision", "defaults", "os_family", "profiles"]
    if _mta_pillar_types.mapping(_mta_pillar_types.mapping(pillar).get("services")).keys() & set(
        _mta_pillar_schema.PRESETS
    ):
        names.append("services")
    urls = [f"salt://postfix_mta/{name}.yaml" for name in names]
    data = {}
    # All at once: each call makes a file client of its own, which costs more than the files.
    for name, url, path in zip(names, urls, cache_files(urls, saltenv)):
        text = _mta_system.read(path) if path else None
        if text is None:
            raise CommandExecutionError(f"{url} is not in the file roots of {saltenv}")
        data[name] = safe_load(text)
    return data


def _has_states() -> bool:
    """Return whether the states are where this file is: somebody may have synced the execution modules alone."""
    directory, kind = os.path.split(os.path.dirname(os.path.abspath(__file__)))
    return os.path.exists(os.path.join(directory, kind.replace("modules", "states"), "mta_settings.py"))


# -- the merge ---------------------------------------------------------------------------------


def merge(files: Mapping[str, Any], pillar: Any, grains: Mapping[str, Any]) -> Settings:
    """
    Return the effective settings, as ``mta_settings.effective`` documents them.

    files
        The data of ``defaults.yaml``, ``os_family.yaml``, ``profiles.yaml`` and, where the pillar asks for a
        preset of services, ``services.yaml``, by name. It stays as it is.

    pillar
        What the pillar's key ``postfix_mta`` holds, whatever that is.

    grains
        ``os_family``, ``oscodename``, ``fqdn``, ``cpuarch`` and ``ipv6`` of the host.
    """
    networks = "127.0.0.0/8" + f" [{LOOPBACK6}]/128" * _has_ipv6(grains)
    grains = {name: grains.get(name) for name in GRAINS}
    given = _mta_pillar_types.mapping(pillar)
    family = files["os_family"].get(grains.get("os_family"), files["os_family"]["Debian"])
    settings: Settings = copy.deepcopy(files["defaults"][KEY])
    name = given.get("profile")
    if not isinstance(name, str) or name not in files["profiles"]:
        name = settings["profile"]
    profile = files["profiles"][name]
    _lay(settings, family["settings"])
    _lay(settings, profile["settings"])
    # Tables may have thousands of entries, some of them secret: those stay in pillar.
    _lay(settings, {key: value for key, value in given.items() if key != "maps"})
    settings.update(
        profile=name,
        revision=REVISION,
        family={**family["family"], **family.get("releases", {}).get(grains.get("oscodename"), {})},
        families=list(files["os_family"]),
        own_networks=networks,
    )
    _name_host(settings, grains)
    _replace_secrets(settings)
    _add_pairs(settings, _mta_pillar_types.mapping(given.get("certificate")))
    _add_served_files(settings)
    _add_certificate_arguments(settings)
    _add_conversation(settings)
    _add_saslauthd(settings)
    _add_beacon(settings)
    _add_aliases(settings, given)
    smarthost = profile["mailer_type"] == "Internet Site" and bool(_host(settings["relay"]))
    settings["mailer_type"] = "Internet with smarthost" if smarthost else profile["mailer_type"]
    settings["debconf"] = _answers(_expand(family["debconf"], settings))
    relayed = _add_relay(settings)
    _add_senders(settings, profile)
    _add_tables(settings, given)
    _add_main_cf(settings, profile)
    _add_presets(
        settings,
        files.get("services", {}),
        _mta_pillar_types.mapping(given.get("firewall")).get("ports") is not None,
    )
    _add_services(settings, profile)
    _add_chroots(settings)
    settings["main_cf"].update(relayed)
    _add_signer(settings, _mta_pillar_types.mapping(given.get("dkim")), grains.get("cpuarch") in HYPERSCAN)
    _add_sts(settings, bool(relayed))
    settings["main_cf"].update(settings["parameters"])
    chosen = {"smtp_tls_security_level", "smtp_dns_support_level"} & {*settings["parameters"], *relayed}
    settings["dane"] = profile.get("dane", False) and not chosen
    settings["revert"] = [*settings["main_cf"], *settings["services"]]
    return settings


def _lay(base: dict[str, Any], given: Mapping[Any, Any], free: bool = False, depth: int = 9) -> None:
    """
    Lay ``given`` over ``base`` in place, as far as it has the shape of ``base``.

    ``free``: any key, as in parameters, services and aliases, whose default is an empty mapping. What JSON in
    an SLS file cannot hold is left out; the validation reports it.
    """
    for key, value in given.items():
        if not isinstance(key, str) or not _is_plain(key) or not (free or key in base) or not depth:
            continue
        old = base.get(key)
        if isinstance(value, Mapping):
            if free or isinstance(old, dict):
                below: dict[str, Any] = old if isinstance(old, dict) and not free else {}
                _lay(below, value, free=not below, depth=depth - 1)
                base[key] = below
        elif isinstance(value, (list, tuple)):
            if free or isinstance(old, list):
                base[key] = [item for item in value if _is_plain(item)]
        elif _is_plain(value) and (free or (value is not None and not isinstance(old, (dict, list)))):
            base[key] = value


def _is_plain(value: Any) -> bool:
    """Return whether ``value`` can be written to an SLS file as it is."""
    return value.isprintable() if isinstance(value, str) else value is None or isinstance(value, (int, float))


def _expand(value: Any, settings: Settings) -> Any:
    """
    Return ``value`` with each ``{path.to.setting}`` in its texts replaced by that setting.

    A text that is nothing but one such reference becomes the setting itself, of whatever type.
    """

    def replaced(text: str) -> Any:
        whole = re.fullmatch(_REFERENCE, text)
        if whole:
            return _setting(whole[1], settings)
        return re.sub(_REFERENCE, lambda reference: str(_setting(reference[1], settings)), text)

    return _in_texts(value, replaced)


def _in_texts(value: Any, replaced: Callable[[str], Any]) -> Any:
    """Return ``value`` with what ``replaced`` makes of each of its texts."""
    if isinstance(value, Mapping):
        return {key: _in_texts(item, replaced) for key, item in value.items()}
    if isinstance(value, list):
        return [_in_texts(item, replaced) for item in value]
    return replaced(value) if isinstance(value, str) else value


def _setting(path: str, settings: Settings) -> Any:
    """Return the setting at a path such as ``sasl.enabled``."""
    found: Any = settings
    for part in path.split("."):
        found = found[part]
    return found


# -- host, secrets, aliases --------------------------------------------------------------------


def _name_host(settings: Settings, grains: Mapping[str, Any]) -> None:
    """Add the host name's parts, and names that are it where nothing else is said."""
    hostname = settings["hostname"]
    if not isinstance(hostname, str) or not hostname:
        hostname = settings["hostname"] = str(grains.get("fqdn") or "")
    settings["short"], _, settings["domain"] = hostname.partition(".")
    if settings["mailname"] is None and settings["profile"] != "none":
        settings["mailname"] = hostname


def _replace_secrets(settings: Settings) -> None:
    """Put pillar paths in place of the secrets that states look up; that of the relay goes with its section."""
    authority, verify, ldap = settings["certificate"]["ca"], settings["verify"], settings["sasl"]["ldap"]
    for name in ("passphrase", "previous_passphrase"):
        given = authority.pop(name) is not None
        authority[f"{name}_pillar"] = f"{KEY}:certificate:ca:{name}" if given else None
    given = verify.pop("login")["username"] is not None
    verify["login_pillar"] = f"{KEY}:verify:login" if given else None
    given = ldap.pop("bind_password") is not None
    ldap["password_pillar"] = f"{KEY}:sasl:ldap:bind_password" if given else None


def _add_aliases(settings: Settings, given: Mapping[str, Any]) -> None:
    """Add the aliases of root, and those for the mailboxes of RFC 2142 that are asked for: all to postmaster."""
    recipient, asked = settings["root_recipient"], given.get("rfc2142_aliases")
    settings["root_aliases"] = {"root": recipient, "postmaster": "root"} if recipient else {}
    names = _mta_pillar_schema.MAILBOXES if asked is True else asked if isinstance(asked, (list, tuple)) else ()
    settings["rfc2142_aliases"] = {
        name: "root" if name == "postmaster" else "postmaster"
        for name in names
        if name in _mta_pillar_schema.MAILBOXES
    }
    mailboxes = ["root", "postmaster", *settings["rfc2142_aliases"]]
    settings["root_maps"] = _inline(dict.fromkeys(mailboxes, recipient)) if recipient else None


def _answers(debconf: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answers for debconf that are known."""
    return {
        package: {question: answer for question, answer in answers.items() if None not in answer}
        for package, answers in debconf.items()
    }


# -- certificates ------------------------------------------------------------------------------


def _add_pairs(settings: Settings, given: Mapping[str, Any]) -> None:
    """
    Add ``pairs`` of key and certificate, one or two, and ``pairs_keep``, the files that they need.

    given
        The pillar's section as it is: PEM text has line breaks, which :func:`_lay` leaves out.
    """
    certificate = settings["certificate"]
    second = certificate["second"]
    if second["key_type"] == "none":
        second["key_type"] = None
    for section, raw, path in (
        (certificate, given, f"{KEY}:certificate:files"),
        (second, _mta_pillar_types.mapping(given.get("second")), f"{KEY}:certificate:second:files"),
    ):
        if section["key_size"] is None:
            section["key_size"] = _DEFAULT_SIZES.get(section["key_type"])
        for part, value in _mta_pillar_types.mapping(raw.get("files")).items():
            is_path = isinstance(value, str) and value.startswith("/")
            if part in section["files"] and value is not None and not is_path:
                section["files"][part] = f"{path}:{part}"
    pairs = [] if certificate["source"] == "none" else [_pair("postfix_mta_certificate", certificate)]
    if pairs and _has_second(certificate):
        pairs.append(_pair("postfix_mta_certificate_second", second))
    keep = [certificate["ca"]["certificate"]]
    for pair in pairs:
        stem, suffix = os.path.splitext(str(pair["key"]))
        derived = f"{stem}{'-chain' * (suffix == '.pem')}.pem"
        pair["chain_file"] = (pair["chain_file"] or derived) if _in_one_file(certificate) else None
        # What was made here may have become what is taken over.
        keep += [pair["certificate"], pair["key"], pair["chain_file"], *pair["files"].values()]
    settings["pairs"] = pairs
    settings["pairs_keep"] = [path for path in keep if isinstance(path, str) and path.startswith("/")]


def _pair(identifier: str, section: Mapping[str, Any]) -> dict[str, Any]:
    shown = ("certificate", "key", "chain_file", "key_type", "key_size", "files")
    return {"id": identifier, **{name: section[name] for name in shown}}


def _has_second(certificate: Mapping[str, Any]) -> bool:
    second = certificate["second"]
    given = second["files"]["certificate"] if certificate["source"] == "files" else second["key_type"]
    return given is not None


def _in_one_file(certificate: Mapping[str, Any]) -> bool:
    """Return whether Postfix reads key and certificate from one file, so that one rename switches both."""
    taken = certificate["source"] == "files"
    return bool(certificate["chain_file"] or certificate["rotate_key"] or taken or _has_second(certificate))


def _add_served_files(settings: Settings) -> None:
    """
    Add ``served``, the files that main.cf names, ``made``, the same where this formula makes them, with the TLS
    level, and ``ca_file``, that of an authority that clients know.
    """
    certificate, pairs = settings["certificate"], settings["pairs"]
    in_one = bool(pairs) and _in_one_file(certificate)
    settings["served"] = {
        "key": None if in_one else certificate["key"],
        "certificate": None if in_one else certificate["certificate"],
        "chain_files": [pair["chain_file"] for pair in pairs] if in_one else None,
    }
    made = settings["served"] if pairs else dict.fromkeys(settings["served"])
    settings["made"] = {**made, "level": "may" if pairs else "none"}
    known = certificate["source"] in ("local_ca", "fleet_ca")
    settings["ca_file"] = certificate["ca"]["certificate"] if known else None


def _add_certificate_arguments(settings: Settings) -> None:
    """
    Add what the certificate's states are called with.

    ``authority`` has the arguments of ``mta_cert.ca_managed``, and ``arguments`` of each pair those of
    ``mta_cert.managed``.
    """
    certificate, authority = settings["certificate"], settings["certificate"]["ca"]
    source, common = certificate["source"], ("subject", "renew_days")
    passphrases = {name: authority[name] for name in ("passphrase_pillar", "previous_passphrase_pillar")}
    settings["authority"] = {
        "name": authority["certificate"],
        "key": authority["key"],
        "common_name": f"CA of {settings['hostname']}",
        "days": authority["days"],
        **{name: certificate[name] for name in (*common, "key_type", "key_size")},
        **passphrases,
    }
    fleet = certificate["fleet"]
    signing = {
        "local_ca": {"ca_certificate": authority["certificate"], "ca_key": authority["key"], **passphrases},
        "fleet_ca": {
            "ca_certificate": authority["certificate"],
            "ca_minion": fleet["ca_minion"],
            "policy": fleet["policy"],
        },
    }.get(source, {})
    for pair in settings["pairs"]:
        taken = {f"{part}_source": path for part, path in pair["files"].items()} if source == "files" else {}
        pair["arguments"] = {
            "name": pair["certificate"],
            "hostname": settings["hostname"],
            "source": source,
            "alternative_names": certificate["names"],
            **{name: pair[name] for name in ("key", "chain_file", "key_type", "key_size")},
            **{name: certificate[name] for name in (*common, "days", "rotate_key")},
            **signing,
            **taken,
        }


# -- the conversation, saslauthd, the beacon ---------------------------------------------------


def _add_conversation(settings: Settings) -> None:
    """Add ``conversation``, what the states of ``mta_probe`` are called with."""
    names = ("capabilities", "login_pillar", "timeout")
    settings["conversation"] = {
        "ca_file": settings["ca_file"],
        **{name: settings["verify"][name] for name in names},
    }
    if settings["verify"]["skip"]:
        settings["conversation"]["skip"] = settings["verify"]["skip"]


def _add_saslauthd(settings: Settings) -> None:
    """
    Add what follows from the SASL settings, and leave out what the mechanism does not read.

    ``saslauthd`` has the arguments of ``saslauthd.managed``, or of ``saslauthd.absent`` where it is not used.
    """
    sasl = settings["sasl"]
    queue = _queue(settings)
    if str(sasl["socket_directory"]).startswith(f"{QUEUE}/"):
        sasl["socket_directory"] = queue + sasl["socket_directory"][len(QUEUE) :]
    on, dovecot = sasl["enabled"] is not False, sasl["type"] == "dovecot"
    sasl["saslauthd"] = on and not dovecot
    sasl["smtpd_type"] = "dovecot" if on and dovecot else None
    sasl["smtpd_path"] = sasl["dovecot_socket"] if on and dovecot else None
    mechanism = (sasl["mechanisms"] or [None])[0]
    rimap, kerberos5 = sasl.pop("rimap"), sasl["kerberos5"]
    if mechanism != "ldap" or not sasl["ldap"]["servers"]:
        sasl["ldap"] = None
    if mechanism == "rimap" and rimap["host"]:
        sasl["options"] = rimap["host"] if rimap["port"] is None else f"{rimap['host']}/{rimap['port']}"
    if mechanism != "kerberos5" or (kerberos5["keytab"], kerberos5["principal"]) == (_DEFAULT_KEYTAB, None):
        sasl["kerberos5"] = None
    settings["saslauthd"] = {"name": "saslauthd"}
    if sasl["saslauthd"]:
        same = ("mechanisms", "ldap", "kerberos5", "threads", "cache", "combine_realm", "socket_directory")
        settings["saslauthd"] = {
            "mech_options": sasl["options"],
            "smtpd_conf": settings["family"]["smtpd_conf"],
            **{name: sasl[name] for name in (*same, "directory_mode")},
            "queue_directory": queue,
        }


def _queue(settings: Settings) -> str:
    """Postfix's queue directory, as far as the pillar says it."""
    given = settings["parameters"].get("queue_directory")
    return given.rstrip("/") if isinstance(given, str) and given.startswith("/") else QUEUE


def _add_beacon(settings: Settings) -> None:
    """Add to ``beacon`` what it looks at."""
    sasl = settings["sasl"]
    settings["beacon"].update(
        certificates=[pair["chain_file"] or pair["certificate"] for pair in settings["pairs"]],
        renew_days=settings["certificate"]["renew_days"],
        saslauthd=f"{sasl['socket_directory']}/mux" if sasl["saslauthd"] else None,
        dns=settings["dns"]["check"] != "none" or None,
    )


# -- smarthosts and lookup tables --------------------------------------------------------------


def _add_relay(settings: Settings) -> dict[str, Any]:
    """
    Return the parameters of main.cf that the settings of smarthosts mean, and take that section out.

    Add to ``maps`` the table of logins, if there is one: arguments of ``mta_map.managed``, of the type texthash,
    which is read as it is, without a compiled form. Its ``logins`` are pillar paths.
    """
    relay = settings.pop("relay")
    levels, senders, logins = _hops(relay)
    parameters: dict[str, Any] = {}
    if _host(relay):
        # Everything goes there, so that this is for every host that smtp(8) talks to.
        hop, level = next(iter(levels.items()))
        parameters["relayhost"] = hop
        parameters.update(smtp_tls_security_level=level, smtp_tls_wrappermode=relay["tls"] == "implicit")
    elif levels:
        parameters["smtp_tls_policy_maps"] = _inline(levels)
    if levels and relay["ca_file"]:
        # Debian 12's own main.cf trusts whatever is in /etc/ssl/certs as well.
        parameters.update(smtp_tls_CAfile=relay["ca_file"], smtp_tls_CApath=None)
    if senders:
        parameters["sender_dependent_relayhost_maps"] = _inline(senders)
    settings["maps"] = {}
    if logins:
        file = f"{settings['family']['config_directory']}/{RELAY_TABLE}"
        settings["maps"][RELAY_TABLE] = {"name": file, "type": "texthash", "logins": logins, "mode": "0600"}
        # Only within TLS is a password sent as it is: smtp_sasl_security_options keeps its default, noplaintext.
        parameters.update(
            smtp_sasl_auth_enable=True,
            smtp_sasl_password_maps=f"texthash:{file}",
            smtp_sasl_tls_security_options="noanonymous",
            smtp_sender_dependent_authentication=any(sender in logins for sender in senders),
        )
    return parameters


def _hops(relay: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """
    Return the TLS level of each next hop, the next hop of each sender, and the pillar path of each login.

    That of all mail is the first one, where there is one.
    """
    levels: dict[str, str] = {}
    senders: dict[str, str] = {}
    logins: dict[str, str] = {}
    host, tls = _host(relay), relay["tls"]
    level = "none" if tls == "none" else "secure" if relay["ca_file"] else "encrypt"
    sections: list[tuple[Any, Any]] = [(None, relay), *relay["senders"].items()]
    for sender, own in sections:
        if not isinstance(own, Mapping) or not (_host(own) or host):
            continue
        port = own.get("port") or relay["port"] or _mta_pillar_schema.RELAY_PORTS.get(tls, 25)
        hop = f"[{_host(own) or host}]:{port}"
        levels[hop] = level
        if sender is not None:
            senders[sender] = hop
        if own.get("username") is not None:
            # By the sender's address, or else by the next hop.
            logins[sender or hop] = f"{KEY}:relay" if sender is None else f"{KEY}:relay:senders:{sender}"
    return levels, senders, logins


def _host(section: Mapping[str, Any]) -> Any:
    """Return a smarthost's name; none where it has a login in it, which the validation refuses unseen."""
    host = section.get("host")
    return None if "@" in str(host) else host


def _add_tables(settings: Settings, given: Mapping[str, Any]) -> None:
    """
    Add what SLS files need of the pillar's tables, and put type and path in place of each ``{maps.NAME}``.

    That is ``maps`` (arguments of ``mta_map.managed`` by name), ``maps_keep`` (type by path), ``maps_absent``
    (paths) and ``packages``. Tables that the validation refuses are left out.
    """
    managed, folder = settings["maps"], settings["family"]["config_directory"]
    logins = [*managed]
    family = settings["family"]
    if settings["sasl"]["enabled"] or RELAY_TABLE in logins:
        family["packages"] = [*family["packages"], *family["sasl_packages"]]
    default = settings["parameters"].get("default_database_type")
    absent, references = [], {}
    for name, asked in _mta_pillar_types.mapping(given.get("maps")).items():
        if not isinstance(name, str) or not re.fullmatch(_mta_pillar_schema.TABLE_NAME, name) or name in logins:
            continue
        if asked is None:
            absent.append(f"{folder}/{name}")
        if not isinstance(asked, Mapping) or any(_mta_pillar_types.table("", asked, _mta_pillar_schema.TABLE)):
            continue
        kind, path = asked.get("type") or default, asked.get("path") or f"{folder}/{name}"
        references[name] = f"{kind or '$default_database_type'}:{path}"
        if kind == "inline":
            references[name] = _inline(asked.get("entries") or {})
        if kind not in _mta_pillar_schema.FILELESS:
            managed[name] = _managed(name, asked, kind, path, settings["family"]["map_packages"])
    keep = {one["name"]: one["type"] for one in managed.values()}
    plugins = [one["package"] for one in managed.values() if one.get("package")]
    settings["maps_keep"] = keep
    settings["maps_absent"] = [path for path in absent if path not in keep]
    settings["packages"] = list(dict.fromkeys([*settings["family"]["packages"], *plugins]))
    for section in ("parameters", "services"):
        settings[section] = _in_texts(
            settings[section],
            lambda text: re.sub(
                _mta_pillar_schema.TABLE_REFERENCE, lambda match: references.get(match[1], match[0]), text
            ),
        )


def _managed(name: str, asked: Mapping[str, Any], kind: Any, path: str, plugins: Mapping[str, str]) -> Settings:
    """Return the arguments of ``mta_map.managed`` for a table of the pillar."""
    return {
        "name": path,
        "type": kind,
        "entries_pillar": None if asked.get("source") else f"{KEY}:maps:{name}:entries",
        "source": asked.get("source"),
        "secret": bool(asked.get("secret")),
        "mode": asked.get("mode"),
        "package": asked.get("package") or plugins.get(kind),
    }


def _inline(entries: Any) -> str:
    """Return the table of type inline that main.cf holds: ``inline:{ {key = value}, … }``, DATABASE_README."""
    pairs = [f"{{{key} = {value}}}" for key, value in _mta_pillar_types.mapping(entries).items()]
    return f"inline:{{ {', '.join(pairs)} }}".replace("$", "$$")


# -- the signer --------------------------------------------------------------------------------


def _add_signer(settings: Settings, given: Mapping[str, Any], quick: bool) -> None:
    """
    Add ``signer``, the arguments of ``mta_dkim.managed``, or ``None``, and what main.cf says of milters.

    given
        The pillar's section as it is: PEM text has line breaks, which :func:`_lay` leaves out.

    quick
        Whether rspamd knows all public suffixes soon after its start.
    """
    dkim = settings["dkim"]
    if dkim["results"] is None:
        dkim["results"] = dkim["dmarc_reject"] or (quick and settings["profile"] == "hardened")
    key = given.get("private_key")
    is_path = isinstance(key, str) and key.startswith("/")
    dkim["private_key"] = None if key is None else key if is_path else f"{KEY}:dkim:private_key"
    settings["signer"], settings["signer_left"] = None, False
    if settings["dns"]["check"] != "none":
        settings["packages"] = [*settings["packages"], *settings["family"]["dns_packages"]]
    if not dkim["domains"]:
        return
    milters = {
        "smtpd_milters": dkim["milter"] or f"unix:{_mta_pillar_schema.SIGNER_SOCKET}",
        "non_smtpd_milters": dkim["milter"] or f"unix:{_mta_pillar_schema.SIGNER_SOCKET}",
        # While it is down mail waits: it is never sent without a signature.
        "milter_default_action": "tempfail",
    }
    settings["main_cf"].update(milters)
    if dkim["milter"] is None:
        settings["packages"] = [*settings["packages"], *settings["family"]["signer_packages"]]
        settings["signer"] = {
            "name": dkim["selector"],
            "key_pillar": dkim["private_key"],
            **{name: dkim[name] for name in ("domains", "key_size", "networks", "keep_days")},
            **{name: dkim[name] for name in ("results", "dmarc_reject")},
            "ed25519": dkim["key_type"] == "rsa+ed25519",
            "queue_directory": _queue(settings),
            "resolver": settings["dns"]["resolver"],
            "milters": settings["parameters"].get("smtpd_milters", milters["smtpd_milters"]),
        }


def _add_sts(settings: Settings, relayed: bool) -> None:
    """
    Add ``sts``, whether mail that goes out keeps to the MTA-STS policies of others, and what main.cf says of it.

    relayed
        Whether a smarthost has a say in how mail goes out.
    """
    asked, packages = settings["dns"]["follow_mta_sts"], settings["family"]["sts_packages"]
    taken = relayed or "smtp_tls_policy_maps" in settings["parameters"]
    by_itself = settings["profile"] == "hardened" and bool(settings["dkim"]["domains"])
    settings["sts"] = bool(packages) and not taken and (by_itself if asked is None else bool(asked))
    settings["sts_left"] = False
    if settings["sts"]:
        settings["packages"] = [*settings["packages"], *packages]
        settings["main_cf"]["smtp_tls_policy_maps"] = f"socketmap:unix:{_mta_pillar_schema.STS_SOCKET}:postfix"


# -- whose a sender's address is ---------------------------------------------------------------


def _add_senders(settings: Settings, profile: Mapping[str, Any]) -> None:
    """
    Add to ``sasl`` what the ports for users demand of senders: ``sender_restrictions`` and ``sender_login_maps``.

    Each is empty, or ``None``, where everybody who has logged in may use any address. Add to ``maps`` the table
    :data:`SENDERS_TABLE`, which is asked twice: for an address it has the name before the @, by which aliases are
    looked up, and for that name the logins to which it belongs.
    """
    sasl = settings["sasl"]
    asked, names = sasl["sender_logins"], sasl["sender_domains"]
    sasl["sender_restrictions"], sasl["sender_login_maps"] = "", None
    if sasl["senders"] != "own" or sasl["enabled"] is False:
        return
    destinations = settings["parameters"].get("mydestination")
    if destinations is None:
        destinations = _expand(profile["parameters"].get("mydestination", "$myhostname"), settings)
    domains = [*_domains(destinations, settings), *names]
    file = f"{settings['family']['config_directory']}/{SENDERS_TABLE}"
    entries = _sender_entries(list(dict.fromkeys(map(str, domains))), settings)
    settings["maps"][SENDERS_TABLE] = {"name": file, "type": "regexp", "entries": entries, "mode": "0644"}
    own = f"regexp:{file}"
    explicit = {
        sender: ", ".join(map(str, logins)) if isinstance(logins, list) else logins
        for sender, logins in asked.items()
    }
    sasl["sender_restrictions"] = "reject_sender_login_mismatch"
    sasl["sender_login_maps"] = ", ".join(
        [
            *([_inline(explicit)] if explicit else []),
            "$virtual_alias_maps",
            f"pipemap:{{{own}, unionmap:{{$alias_maps, {own}}}}}",
        ]
    )


def _domains(destinations: Any, settings: Settings) -> list[str]:
    """Return the domains that a value of mydestination names; of its tables nothing is known."""
    text = ",".join(map(str, destinations)) if isinstance(destinations, list) else str(destinations)
    for name, value in (("myhostname", settings["hostname"]), ("mydomain", settings["domain"])):
        text = re.sub(rf"\$({name}\b|\{{{name}\}}|\({name}\))", str(value), text)
    return [word for word in re.split(r"[\s,]+", text) if re.fullmatch(r"[A-Za-z0-9.-]+", word)]


def _sender_entries(domains: list[str], settings: Settings) -> list[str]:
    """Return the lines of :data:`SENDERS_TABLE`."""
    host = settings["hostname"]
    delimiter = str(settings["parameters"].get("recipient_delimiter", "+") or "")
    delimiter = "".join(sorted(delimiter, key=lambda one: one == "-"))  # last in brackets it means itself
    plain = f"([^@{delimiter}]+)([^@]*)"
    alternatives = "|".join(domain.replace(".", "[.]") for domain in domains)
    lines = [f"/^{plain}@({alternatives})$/ $1"] if domains else []
    if settings["sasl"]["type"] == "dovecot":
        # Its users may be whole addresses, of any domain.
        lines += [f"/^{plain}@([^@]+)$/ $1@$3", "/^([^@]+@[^@]+)$/ $1"]
    for name, logins in _reached(settings).items():
        whole = [name, f"{name}@{host}", *[one for login in logins for one in (login, f"{login}@{host}")]]
        lines.append(f"/^{name.replace('.', '[.]')}$/ {', '.join(whole)}")
    return [*lines, f"/^([^@]+)$/ $1, $1@{host}"]


def _reached(settings: Settings) -> dict[str, list[str]]:
    """Return the users to whom the pillar's aliases lead in the end, by alias."""
    aliases = {**settings["rfc2142_aliases"], **settings["root_aliases"], **settings["aliases"]}
    found = {}
    for name in aliases:
        reached, waiting = [], [name]
        while waiting:
            told = aliases.get(waiting.pop(0))
            for one in told if isinstance(told, list) else [told]:
                if isinstance(one, str) and re.fullmatch(r"[\w.-]+", one) and one not in reached:
                    reached.append(one)
                    waiting.append(one)
        if reached and re.fullmatch(r"[\w.-]+", str(name)):
            found[name] = reached
    return found


# -- main.cf and master.cf ---------------------------------------------------------------------


def _add_main_cf(settings: Settings, profile: Mapping[str, Any]) -> None:
    """Add ``main_cf``, the profile's parameters, and ``of_profile``, their names."""
    settings["main_cf"] = _expand(profile["parameters"], settings)
    settings["of_profile"] = [*profile["parameters"]]
    path = settings["family"]["sasl_config_path"]
    if path and settings["sasl"]["saslauthd"]:
        # The package's main.cf says so, one that somebody else made may not: then smtpd(8) lets nobody log in.
        settings["main_cf"]["cyrus_sasl_config_path"] = path


def _services_of(profile: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """Return the profile's services; those for logins only where somebody can log in."""
    for_logins = profile["login_services"] if settings["sasl"]["enabled"] is not False else {}
    return {**profile["services"], **for_logins}


def _add_presets(settings: Settings, presets: Mapping[str, Any], own_ports: bool) -> None:
    """
    Put the presets of services that are switched on or off under ``services`` and over the profile's parameters.

    own_ports
        Whether the pillar says which ports are open. Else those of the presets are, too.
    """
    services: dict[str, Any] = {}
    for name in [name for name in settings["services"] if name in presets]:
        entry = _expand(presets[name], settings)
        if settings["services"].pop(name) is True:
            services = merge_recurse(services, entry["services"])
            settings["main_cf"].update(entry["parameters"])
            ports = settings["firewall"]["ports"]
            ports += [port for port in entry["ports"] if port not in ports and not own_ports]
        else:
            services = merge_recurse(services, entry.get("without", dict.fromkeys(entry["services"])))
    settings["services"] = merge_recurse(services, settings["services"])


def _add_services(settings: Settings, profile: Mapping[str, Any]) -> None:
    """Put the profile's services under ``services``."""
    services = _expand(_services_of(profile, settings), settings)
    settings["services"] = merge_recurse(services, settings["services"])


def _add_chroots(settings: Settings) -> None:
    """Add to the arguments of ``saslauthd.managed`` which smtpd(8) will be chrooted, if the settings say it."""
    if not settings["sasl"]["saslauthd"]:
        return
    chroots: dict[str, bool | None] = {}
    for service, entry in settings["services"].items():
        fields = _mta_pillar_types.mapping(entry)
        logins = _mta_pillar_types.mapping(fields.get("overrides")).get("smtpd_sasl_auth_enable") not in (
            False,
            "no",
        )
        if fields.get("command", "smtpd") != "smtpd" or entry is None or not logins:
            if service.endswith(("/inet", "/pass")):
                chroots[service] = None
        elif "chroot" in fields:
            chroots[service] = fields["chroot"]
    settings["saslauthd"].update(chroot=settings["family"]["chroot"], chroots=chroots)
