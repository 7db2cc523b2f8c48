"""
The formula's settings: defaults and pillar merged, and the whole pillar validated.

:func:`effective` is what SLS files render with; :func:`problems` is what the state
``mta_settings.valid`` reports before anything on the host changes.

On a minion that never synced this formula's modules, or has those of another revision, this very file is
rendered from the file server with Salt's renderer ``py``, which calls :func:`run`. So nothing here depends on
the loader but the dunders that both of them set.
"""

import ipaddress
import json
import os
import re
from collections.abc import Mapping

# Not `import salt.utils…`: the renderer puts the execution modules into the name `salt`.
from salt.exceptions import CommandExecutionError
from salt.utils.dictupdate import merge_recurse as _merge_recurse
from salt.utils.files import fopen as _fopen
from salt.utils.yaml import safe_load as _safe_load

# Of all files that Salt syncs to minions. bin/update-revision writes it.
REVISION = "6012482b1a9b"


def revision():
    """
    Return the revision of the formula whose modules are loaded, 12 hexadecimal digits.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_settings.revision
    """
    return REVISION


_REFERENCE = re.compile(r"\{([a-z_.]+)\}")


# ---------------------------------------------------------------- The settings


def effective(saltenv="base"):
    """
    Return the effective settings: defaults, operating system family and pillar, without secrets.

    saltenv (str, default ``base``)
        The environment that holds the formula.

    Returns the pillar's keys with their effective values (``beacon`` also with what it looks at), ``short`` and
    ``domain`` (the host name's parts), ``pairs`` (of key and certificate, one or two), ``pairs_keep`` (files that
    they need), ``authority``, each pair's ``arguments``, ``conversation`` and ``saslauthd`` (what the states of
    ``mta_cert``, ``mta_probe`` and ``saslauthd`` are called with), ``main_cf`` (all parameters), ``of_profile``
    (names of the parameters and services that the profile has), ``family`` (what ``os_family.yaml`` says),
    ``revision`` (of the formula) and ``synced`` (whether the loaded modules are those of the file server). In
    place of secrets are pillar paths (or ``None``): ``certificate.ca.passphrase_pillar``,
    ``certificate.ca.previous_passphrase_pillar``, ``verify.login_pillar`` and the ``logins`` of a table of
    ``maps``; and in ``certificate.files`` in place of what is no path of a file.

    A pillar that :func:`problems` refuses is merged as far as it has the shape of the defaults, so that SLS
    files render and the refusal can be reported.

    Raises ``CommandExecutionError`` when the formula's files cannot be read.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_settings.effective
    """
    return _cached(saltenv)[0]


def run():
    """
    Return the effective settings, as the entry point of Salt's ``py`` renderer.

    With salt-ssh, which renders on the master and runs on a target with its own Python, ``synced`` is true: it
    brings the modules. The ``packages`` are also those of the libraries that it does not bring, and there is no
    ``beacon``: that is for minions.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_settings.run
    """
    pillar = __pillar__.get("postfix_mta")
    settings = _merge(_reader(globals().get("saltenv", "base"), pillar), pillar)[0]
    if _is_ssh():
        return {
            **settings,
            "packages": [*settings["packages"], *settings["family"]["libraries"]],
            "beacon": None,
            "schedule": None,
            "synced": True,
        }
    return {**settings, "synced": False}


def _is_ssh():
    """Return whether salt-ssh renders this, on the master: only it hands the master's configuration on."""
    return "__master_opts__" in __opts__


def _cached(saltenv):
    """Return what :func:`_merge` does, by the code that the file server has, once for a run of states."""
    key = f"mta_settings.effective:{saltenv}:{REVISION}"
    if key not in __context__:
        read = _reader(saltenv, __pillar__.get("postfix_mta"))
        if read("revision")["revision"] == REVISION:
            settings, families = _merge(read, __pillar__.get("postfix_mta"))
            __context__[key] = {**settings, "synced": _has_states()}, families
        else:
            current = {"default_renderer": "py", "saltenv": saltenv}
            settings = __salt__["slsutil.renderer"]("salt://_modules/mta_settings.py", **current)
            __context__[key] = settings, [__grains__.get("os_family")]
    return __context__[key]


def _has_states():
    """Return whether the states are where this module is: somebody may have synced the execution modules alone."""
    directory, kind = os.path.split(os.path.dirname(__file__))
    return os.path.exists(os.path.join(directory, kind.replace("modules", "states"), "mta_settings.py"))


def _reader(saltenv, pillar):
    """Return a function that gives the data of a YAML file of the formula, by name."""
    names = ["revision", "defaults", "os_family", "profiles"]
    if _mapping(_mapping(pillar).get("services")).keys() & set(_READY):
        names.append("services")
    urls = {name: f"salt://postfix_mta/{name}.yaml" for name in names}
    # All at once: each call makes a file client of its own, which costs more than the files. With salt-ssh the
    # paths would be those of copies on the target.
    paths = {} if _is_ssh() else dict(zip(names, __salt__["cp.cache_files"](list(urls.values()), saltenv)))

    def read(name):
        # Ready-made services that nobody asks for are not fetched.
        if name not in urls:
            return {}
        if _is_ssh():
            return __salt__["slsutil.renderer"](urls[name], default_renderer="yaml", saltenv=saltenv)
        if not paths[name]:
            raise CommandExecutionError(f"{urls[name]} is not in the file roots of {saltenv}")
        with _fopen(paths[name], encoding="utf-8") as file:
            return _safe_load(file)

    return read


def _merge(read, pillar):
    """Return the effective settings from the formula's files, and the known operating system families."""
    defaults = read("defaults")["postfix_mta"]
    families = read("os_family")
    grains = __grains__.get("os_family"), __grains__.get("fqdn")
    settings = _settings(defaults, families, read("profiles"), read("services"), pillar, *grains)
    return settings, list(families)


def _settings(settings, families, profiles, ready, pillar, os_family, fqdn):
    """
    Lay the settings of family and profile and the pillar over ``settings``, the defaults, and add what follows.
    """
    own = families.get(os_family, families["Debian"])
    chosen = _mapping(pillar).get("profile")
    if not isinstance(chosen, str) or chosen not in profiles:
        chosen = settings["profile"]
    profile = profiles[chosen]
    _lay(settings, own["settings"])
    _lay(settings, profile["settings"])
    if isinstance(pillar, Mapping):
        # Tables may have thousands of entries, some of them secret: those stay in pillar.
        _lay(settings, {key: value for key, value in pillar.items() if key != "maps"})
    hostname = settings["hostname"]
    if not isinstance(hostname, str) or not hostname:
        hostname = settings["hostname"] = str(fqdn or "")
    settings["short"], _, settings["domain"] = hostname.partition(".")
    settings["profile"] = chosen
    settings["revision"] = REVISION
    settings["family"] = own["family"]
    if settings["mailname"] is None and settings["profile"] != "none":
        settings["mailname"] = hostname

    certificate = settings["certificate"]
    authority = certificate["ca"]
    for name in ("passphrase", "previous_passphrase"):
        given = authority.pop(name) is not None
        authority[f"{name}_pillar"] = f"postfix_mta:certificate:ca:{name}" if given else None
    _serve(settings, _mapping(_mapping(pillar).get("certificate")))
    given = settings["verify"].pop("login")["username"] is not None
    settings["verify"]["login_pillar"] = "postfix_mta:verify:login" if given else None
    _certify(settings)
    known = certificate["source"] in ("local_ca", "fleet_ca")
    settings["ca_file"] = authority["certificate"] if known else None
    settings["conversation"] = {"ca_file": settings["ca_file"]}
    settings["conversation"].update(
        {name: settings["verify"][name] for name in ("capabilities", "login_pillar", "timeout")}
    )
    _check_passwords_by(settings["sasl"])
    settings["saslauthd"] = _saslauthd(settings["sasl"], settings["family"]["smtpd_conf"])
    settings["beacon"].update(
        certificates=[pair["chain_file"] or pair["certificate"] for pair in settings["pairs"]],
        renew_days=certificate["renew_days"],
        saslauthd=f"{settings['sasl']['socket_directory']}/mux" if settings["sasl"]["saslauthd"] else None,
    )

    recipient = settings["root_recipient"]
    settings["debconf"] = {
        package: {question: answer for question, answer in answers.items() if None not in answer}
        for package, answers in _expand(own["debconf"], settings).items()
    }
    settings["root_aliases"] = {"root": recipient, "postmaster": "root"} if recipient else {}
    relayed, logins = _relay(settings.pop("relay"), f"{own['family']['config_directory']}/{_RELAY_TABLE}")
    if not settings["sasl"]["enabled"] and not logins:
        needless = own["family"]["sasl_packages"]
        settings["family"]["packages"] = [name for name in own["family"]["packages"] if name not in needless]
    tables, references = _tables(_mapping(pillar).get("maps"), settings, logins)
    settings.update(tables)
    for name in ("parameters", "services"):
        settings[name] = _with_tables(settings[name], references)
    settings["rfc2142_aliases"] = _mailboxes_wanted(pillar)
    settings["main_cf"] = _expand(profile["parameters"], settings)
    _get_ready(settings, ready, _mapping(_mapping(pillar).get("firewall")).get("ports") is not None)
    services = {
        **profile["services"],
        **(profile["login_services"] if settings["sasl"]["enabled"] is not False else {}),
    }
    settings["services"] = _merge_recurse(_expand(services, settings), settings["services"])
    settings["main_cf"].update(relayed)
    settings["main_cf"].update(settings["parameters"])
    settings["of_profile"] = [*profile["parameters"], *services]
    return settings


def _mailboxes_wanted(pillar):
    """Return the aliases for those of RFC 2142's mailboxes that the pillar asks for: all to postmaster."""
    asked = _mapping(pillar).get("rfc2142_aliases")
    names = _MAILBOXES if asked is True else asked if isinstance(asked, (list, tuple)) else ()
    return {name: "root" if name == "postmaster" else "postmaster" for name in names if name in _MAILBOXES}


def _relay(relay, file):
    """
    Return what the settings of smarthosts mean: parameters of main.cf, and the table of logins, if there is one.

    The table, arguments of ``mta_map.managed``, is of the type texthash: read as it is, without a compiled form.
    Its ``logins`` are pillar paths.
    """
    host, tls = _host(relay), relay["tls"]
    logins, levels, senders = {}, {}, {}
    level = "none" if tls == "none" else "secure" if relay["ca_file"] else "encrypt"
    for sender, own in [(None, relay), *relay["senders"].items()]:
        if not isinstance(own, Mapping) or not (_host(own) or host):
            continue
        hop = f"[{_host(own) or host}]:{own.get('port') or relay['port'] or _RELAY_PORTS.get(tls, 25)}"
        levels[hop] = level
        if sender is not None:
            senders[sender] = hop
        if own.get("username") is not None:
            # By the sender's address, or else by the next hop.
            path = "postfix_mta:relay" if sender is None else f"postfix_mta:relay:senders:{sender}"
            logins[sender or hop] = path
    parameters = {}
    if host:
        # Everything goes there, so that this is for every host that smtp(8) talks to.
        parameters["relayhost"] = next(iter(levels))
        parameters.update(smtp_tls_security_level=level, smtp_tls_wrappermode=tls == "implicit")
    elif levels:
        parameters["smtp_tls_policy_maps"] = _inline(levels)
    if levels and relay["ca_file"]:
        # Debian 12's own main.cf trusts whatever is in /etc/ssl/certs as well.
        parameters.update(smtp_tls_CAfile=relay["ca_file"], smtp_tls_CApath=None)
    if senders:
        parameters["sender_dependent_relayhost_maps"] = _inline(senders)
    if logins:
        # Only within TLS is a password sent as it is: smtp_sasl_security_options keeps its default, noplaintext.
        parameters.update(
            smtp_sasl_auth_enable=True,
            smtp_sasl_password_maps=f"texthash:{file}",
            smtp_sasl_tls_security_options="noanonymous",
            smtp_sender_dependent_authentication=any(sender in logins for sender in senders),
        )
    table = {"name": file, "type": "texthash", "logins": logins, "mode": "0600"}
    return parameters, {_RELAY_TABLE: table} if logins else {}


def _host(section):
    """Return a smarthost's name; none where it has a login in it, which :func:`problems` refuses unseen."""
    host = section.get("host")
    return None if "@" in str(host) else host


def _get_ready(settings, ready, own_ports):
    """Put the ready-made services that are switched on or off under ``settings``."""
    services = {}
    for name in [name for name in settings["services"] if name in ready]:
        entry = _expand(ready[name], settings)
        if settings["services"].pop(name) is True:
            services = _merge_recurse(services, entry["services"])
            settings["main_cf"].update(entry["parameters"])
            ports = settings["firewall"]["ports"]
            ports += [port for port in entry["ports"] if port not in ports and not own_ports]
        else:
            services = _merge_recurse(services, entry.get("without", dict.fromkeys(entry["services"])))
    settings["services"] = _merge_recurse(services, settings["services"])


def _saslauthd(sasl, smtpd_conf):
    """Return the arguments of ``saslauthd.managed``, or of ``saslauthd.absent`` where it is not used."""
    if not sasl["saslauthd"]:
        return {"name": "saslauthd"}
    same = ("mechanisms", "ldap", "kerberos5", "front", "threads", "cache", "socket_directory", "directory_mode")
    return {"mech_options": sasl["options"], "smtpd_conf": smtpd_conf, **{name: sasl[name] for name in same}}


def _check_passwords_by(sasl):
    """Add what follows from the SASL settings, and leave out what the mechanism does not read."""
    sasl["saslauthd"] = sasl["enabled"] is not False and sasl["type"] != "dovecot"
    dovecot = sasl["enabled"] is not False and sasl["type"] == "dovecot"
    sasl["smtpd_type"] = "dovecot" if dovecot else None
    sasl["smtpd_path"] = sasl["dovecot_socket"] if dovecot else None
    mechanism = (sasl["mechanisms"] or [None])[0]
    ldap, rimap, kerberos5 = sasl["ldap"], sasl.pop("rimap"), sasl["kerberos5"]
    given = ldap.pop("bind_password") is not None
    ldap["password_pillar"] = "postfix_mta:sasl:ldap:bind_password" if given else None
    if mechanism != "ldap" or not ldap["servers"]:
        sasl["ldap"] = None
    if mechanism == "rimap" and rimap["host"]:
        sasl["options"] = rimap["host"] if rimap["port"] is None else f"{rimap['host']}/{rimap['port']}"
    if mechanism != "kerberos5" or (kerberos5["keytab"], kerberos5["principal"]) == (_KEYTAB, None):
        sasl["kerberos5"] = None


def _serve(settings, given):
    """
    Add what follows from the certificate's settings: ``pairs`` of key and certificate, and the files ``served``.

    ``given`` is the pillar's section as it is: PEM text has line breaks, which :func:`_lay` leaves out.
    """
    certificate = settings["certificate"]
    second = certificate["second"]
    if second["key_type"] == "none":
        second["key_type"] = None
    taken = certificate["source"] == "files"
    for section, raw, path in (
        (certificate, given, "postfix_mta:certificate:files"),
        (second, _mapping(given.get("second")), "postfix_mta:certificate:second:files"),
    ):
        if section["key_size"] is None:
            section["key_size"] = {"rsa": 3072, "ec": 256}.get(section["key_type"])
        for part, value in _mapping(raw.get("files")).items():
            is_path = isinstance(value, str) and value.startswith("/")
            if part in section["files"] and value is not None and not is_path:
                section["files"][part] = f"{path}:{part}"
    both = (second["files"]["certificate"] if taken else second["key_type"]) is not None
    pairs = [{"id": "postfix_mta_certificate", **certificate}]
    pairs += [{"id": "postfix_mta_certificate_second", **second}] if both else []
    in_one = bool(certificate["chain_file"] or certificate["rotate_key"] or both or taken)
    if certificate["source"] == "none":
        pairs, in_one = [], False
    shown = ("id", "certificate", "key", "chain_file", "key_type", "key_size", "files")
    settings["pairs"] = [{name: pair[name] for name in shown} for pair in pairs]
    for pair in settings["pairs"]:
        stem, suffix = os.path.splitext(str(pair["key"]))
        derived = f"{stem}{'-chain' * (suffix == '.pem')}.pem"
        pair["chain_file"] = (pair["chain_file"] or derived) if in_one else None
    keep = [certificate["ca"]["certificate"]]
    for pair in settings["pairs"]:
        # What was made here may have become what is taken over.
        keep += [pair["certificate"], pair["key"], pair["chain_file"], *pair["files"].values()]
    settings["pairs_keep"] = [path for path in keep if isinstance(path, str) and path.startswith("/")]
    files = [pair["chain_file"] for pair in settings["pairs"]]
    settings["served"] = {
        "key": None if in_one else certificate["key"],
        "certificate": None if in_one else certificate["certificate"],
        "chain_files": files if in_one else None,
    }


def _certify(settings):
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


def _tables(maps, settings, logins):
    """
    Return what SLS files need of the pillar's ``maps``, and what ``{maps.NAME}`` stands for, by name.

    ``logins``: the relay's table, by name, which is one of them.

    The first is ``maps`` (arguments of ``mta_map.managed`` by name), ``maps_keep`` (type by path), ``maps_absent``
    (paths) and ``packages``. What :func:`problems` refuses is left out.
    """
    family = settings["family"]
    managed, absent, references, plugins = dict(logins), [], {}, []
    keep = {table["name"]: table["type"] for table in logins.values()}
    default = _mapping(settings["parameters"]).get("default_database_type")
    for name, table in _mapping(maps).items():
        if not isinstance(name, str) or not re.fullmatch(_TABLE_NAME, name) or name in logins:
            continue
        if table is None:
            absent.append(f"{family['config_directory']}/{name}")
        if not isinstance(table, Mapping) or list(_table("", table)):
            continue
        kind = table.get("type") or default
        path = table.get("path") or f"{family['config_directory']}/{name}"
        entries = table.get("entries") or {}
        if kind == "inline":
            references[name] = _inline(entries)
        else:
            references[name] = f"{kind or '$default_database_type'}:{path}"
        if kind in _NO_FILE:
            continue
        package = table.get("package") or family["map_packages"].get(kind)
        plugins += [package] if package else []
        keep[path] = kind
        managed[name] = {
            "name": path,
            "type": kind,
            "entries_pillar": None if table.get("source") else f"postfix_mta:maps:{name}:entries",
            "source": table.get("source"),
            "secret": bool(table.get("secret")),
            "mode": table.get("mode"),
            "package": package,
        }
    return {
        "maps": managed,
        "maps_keep": keep,
        "maps_absent": [path for path in absent if path not in keep],
        "packages": list(dict.fromkeys([*family["packages"], *plugins])),
    }, references


def _inline(entries):
    """Return the table of type inline that main.cf holds: ``inline:{ {key = value}, … }``, DATABASE_README."""
    pairs = [f"{{{key} = {value}}}" for key, value in _mapping(entries).items()]
    return f"inline:{{ {', '.join(pairs)} }}".replace("$", "$$")


def _with_tables(value, references):
    """Return ``value`` with each ``{maps.NAME}`` in its texts replaced by the table's type and path."""
    if isinstance(value, Mapping):
        return {key: _with_tables(item, references) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_tables(item, references) for item in value]
    if isinstance(value, str):
        return _TABLE_REFERENCE.sub(lambda match: references.get(match[1], match[0]), value)
    return value


def _expand(value, settings):
    """
    Return ``value`` with each ``{path.to.setting}`` in its texts replaced by that setting.

    A text that is nothing but one such reference becomes the setting itself, of whatever type.
    """
    if isinstance(value, Mapping):
        return {key: _expand(item, settings) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, settings) for item in value]
    if not isinstance(value, str):
        return value
    whole = _REFERENCE.fullmatch(value)
    if whole:
        return _setting(whole, settings)
    return _REFERENCE.sub(lambda reference: str(_setting(reference, settings)), value)


def _setting(reference, settings):
    """Return the setting that a match of ``_REFERENCE`` names."""
    for part in reference[1].split("."):
        settings = settings[part]
    return settings


def _lay(base, given, free=False, depth=9):
    """
    Lay ``given`` over ``base`` in place, as far as it has the shape of ``base``.

    ``free``: any key, as in parameters, services and aliases, whose default is an empty mapping. What JSON in
    an SLS file cannot hold is left out; :func:`problems` reports it.
    """
    for key, value in given.items():
        if not isinstance(key, str) or not _plain(key) or not (free or key in base) or not depth:
            continue
        old = base.get(key)
        if isinstance(value, Mapping):
            if free or isinstance(old, Mapping):
                section = {} if free else old
                _lay(section, value, free=not section, depth=depth - 1)
                base[key] = section
        elif isinstance(value, (list, tuple)):
            if free or isinstance(old, list):
                base[key] = [item for item in value if _plain(item)]
        elif _plain(value) and (free or (value is not None and not isinstance(old, (Mapping, list)))):
            base[key] = value


def _plain(value):
    """Return whether ``value`` can be written to an SLS file as it is."""
    return value.isprintable() if isinstance(value, str) else value is None or isinstance(value, (int, float))


# -------------------------------------------------------------- The validation


def problems(key="postfix_mta", hostname=None, family=None, pillar=None):
    """
    Return what is wrong with the pillar, one line for each problem, each beginning with the pillar path.

    key (str, default ``postfix_mta``)
        The pillar key that holds the settings.

    hostname (str, default: the grain ``fqdn``)
        The host name in force when the pillar has none.

    family (str, default: the grain ``os_family``)
        The operating system family.

    pillar (dict, default: the minion's)
        What the key holds, to be tried before it is put into pillar.

    A secret's value is never part of a line. Names of main.cf and master.cf are compared with this host's
    Postfix by ``postconf.refused`` when nothing else is wrong with them.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_settings.problems
    """
    saltenv = __opts__.get("saltenv") or "base"
    if pillar is None:
        pillar = __pillar__.get(key)
        settings, families = _cached(saltenv)
    else:
        settings, families = _merge(_reader(saltenv, pillar), pillar)
    family = family or __grains__.get("os_family")
    if hostname is None:
        hostname = __grains__.get("fqdn")
    found = []
    if family not in families:
        found.append(
            f"{key}: the operating system family {_shown(family)} is not known; known: {', '.join(families)}"
        )
    found += _problems(pillar, key, hostname, settings)
    names = tuple(f"{key}:{part}" for part in ("parameters", "services"))
    if isinstance(pillar, Mapping) and not any(line.startswith(names) for line in found):
        found += _refused_by_postfix(pillar.get("parameters") or {}, settings["services"], key)
    if isinstance(pillar, Mapping) and not any(line.startswith(f"{key}:maps") for line in found):
        found += _unfit_tables(pillar, key, settings)
    return found


def _problems(pillar, key, hostname, settings):
    """
    Return the problems of a pillar, without asking Postfix.

    ``settings`` are the effective settings, which values are compared with across sections.
    """
    found = list(_section(key, pillar, _SCHEMA))
    given = pillar if isinstance(pillar, Mapping) else {}
    if given.get("hostname") is None:
        wrong = _wrong_hostname(hostname)
        if wrong:
            found.append(f"{key}:hostname: not given, and its own name {_shown(hostname)} {wrong}; {_SET_NAME}")
    if given:
        found += list(_contradictions(key, given, settings, hostname, found))
    return found


def _refused_by_postfix(parameters, services, key):
    """Return the main.cf and master.cf names in the pillar that this host's Postfix does not know."""
    if not parameters and not services:
        return []
    found = []
    for refusal in __salt__["postconf.refused"](parameters, services):
        kind = "parameter" if refusal.get("parameter") else "service"
        hint = f"; did you mean {refusal['nearest']}?" if refusal.get("nearest") else ""
        found.append(f"{key}:{kind}s:{refusal[kind]}: {refusal['reason']}{hint}")
    return found


def _unfit_tables(pillar, key, settings):
    """Return what the tables in the pillar cannot hold, and the types that this host's Postfix does not have."""
    found, kinds = [], {}
    for name, table in settings["maps"].items():
        kinds.setdefault(table["type"], name)
        if not table.get("logins"):
            given = {argument: table[argument] for argument in ("secret", "mode", "source")}
            entries = pillar["maps"][name].get("entries")
            reason = __salt__["mta_map.unfit"](table["name"], table["type"], entries, **given)
            found += [f"{key}:maps:{name}:{reason}"] if reason else []
    # A type that a package of the formula's brings may come with it.
    asked = [kind for kind, name in kinds.items() if kind and not settings["maps"][name].get("package")]
    for kind in __salt__["mta_map.missing_types"](asked):
        found.append(
            f"{key}:maps:{kinds[kind]}:type: this Postfix has no table type {kind}; leave the type out for its"
            f" default_database_type, {__salt__['mta_map.default_type']()}, or name another one"
        )
    return found


def _contradictions(key, given, settings, hostname, found):
    """Yield what is legal by itself and wrong beside another; ``found``: problems of values."""

    def sound(*paths):
        return not any(line.startswith(tuple(f"{key}:{path}:" for path in paths)) for line in found)

    if sound("certificate:key_type", "certificate:key_size", "certificate:second"):
        yield from _wrong_keys(f"{key}:certificate", settings["certificate"], settings["family"]["key_types"])
    if sound("certificate:source", "certificate:days", "certificate:renew_days", "certificate:ca:days"):
        yield from _wrong_days(f"{key}:certificate", **settings["certificate"])
    if settings["certificate"]["source"] == "fleet_ca" and not settings["certificate"]["fleet"]["ca_minion"]:
        yield f"{key}:certificate:fleet:ca_minion: not given; the source fleet_ca needs the signing minion's id"
    if sound("certificate"):
        yield from _shared_files(f"{key}:certificate", settings["certificate"], settings["pairs"])
        yield from _wrong_files(f"{key}:certificate", **settings["certificate"])
    secrets = _mapping(_mapping(given.get("certificate")).get("ca"))
    if secrets.get("previous_passphrase") is not None and secrets.get("passphrase") is None:
        yield f"{key}:certificate:ca:previous_passphrase: given without passphrase, which is the new one"
    if sound("firewall:backend", "firewall:rules_file", "firewall:rules_file_v6", "firewall:nftables_file"):
        yield from _wrong_firewall(f"{key}:firewall", **settings["firewall"])
    if sound("verify:login"):
        login = _mapping(_mapping(given.get("verify")).get("login"))
        lacking = [name for name in ("username", "password") if login.get(name) is None]
        if len(lacking) == 1:
            yield f"{key}:verify:login:{lacking[0]}: not given; a login needs both"
        elif not lacking and settings["sasl"]["enabled"] is False:
            yield f"{key}:verify:login: given, but nobody can log in while {key}:sasl:enabled is false"
    if sound("relay"):
        yield from _wrong_relay(f"{key}:relay", _mapping(given.get("relay")), _mapping(given.get("parameters")))
    if sound("maps"):
        yield from _table_contradictions(key, given, settings)
    if sound("sasl"):
        yield from _wrong_mechanism(f"{key}:sasl", _mapping(given.get("sasl")))
    recipient = given.get("root_recipient")
    if recipient is not None and _mapping(given.get("aliases")).get("root", recipient) != recipient:
        yield f"{key}:aliases:root: not what {key}:root_recipient says; give one of them"
    name = given.get("hostname") or hostname
    own = _mapping(given.get("parameters")).get("myhostname", name)
    if sound("hostname") and own != name and settings["profile"] != "none":
        yield (
            f"{key}:parameters:myhostname: not the name that the certificate and mydestination have, {name};"
            f" set {key}:hostname instead"
        )


def _wrong_keys(path, certificate, known):
    """Yield why clients, Postfix or this formula would not take keys of that kind."""
    second = certificate["second"]
    yield from _wrong_key(path, certificate, known)
    if second["key_type"] is not None:
        yield from _wrong_key(f"{path}:second", second, known)
        if second["key_type"] == certificate["key_type"]:
            yield f"{path}:second:key_type: {second['key_type']} is that of the first; allowed: another, or none"
    elif second["key_size"] is not None:
        yield f"{path}:second:key_size: given without {path}:second:key_type"


def _wrong_key(path, section, known):
    kind, size = section["key_type"], section["key_size"]
    if kind not in known:
        yield f"{path}:key_type: {kind} has not been tried with this system's Postfix; allowed: {_listed(known)}"
    elif size not in _KEY_SIZES[kind]:
        if kind == "ed25519":
            yield f"{path}:key_size: keys of type ed25519 have no sizes; leave it out"
            return
        weak = kind == "rsa" and size < min(_KEY_SIZES[kind])
        why = "is too weak: clients refuse it" if weak else f"is no size of a key of type {kind}"
        yield f"{path}:key_size: {size} {why}; allowed: {_listed(_KEY_SIZES[kind])}"


def _wrong_files(path, source, files, second, **_):
    """Yield what source files lacks, and what is given without it."""
    for where, section in ((f"{path}:files", files), (f"{path}:second:files", second["files"])):
        given = [part for part, value in section.items() if value is not None]
        if source != "files":
            yield from (f"{where}:{part}: given, but {path}:source is {source}" for part in given)
        elif given or section is files:
            needed = [part for part in ("certificate", "key") if part not in given]
            yield from (f"{where}:{part}: not given; source files needs both" for part in needed)


def _table_contradictions(key, given, settings):
    """Yield tables that are the same file, and references to tables that are none."""
    if "logins" in settings["maps"].get(_RELAY_TABLE, {}) and _RELAY_TABLE in _mapping(given.get("maps")):
        yield f"{key}:maps:{_RELAY_TABLE}: that is the table of {key}:relay's logins; choose another name"
    used = {}
    for name, table in settings["maps"].items():
        if table["name"] in used:
            yield f"{key}:maps:{name}:path: {table['name']} is {key}:maps:{used[table['name']]} too"
        used.setdefault(table["name"], name)
    known = [name for name, table in _mapping(given.get("maps")).items() if table is not None]
    texts = {f"parameters:{name}": value for name, value in _mapping(given.get("parameters")).items()}
    for service, fields in _mapping(given.get("services")).items():
        overrides = _mapping(_mapping(fields).get("overrides"))
        texts.update({f"services:{service}:overrides:{name}": value for name, value in overrides.items()})
    for label, value in texts.items():
        for item in value if isinstance(value, (list, tuple)) else [value]:
            for name in _TABLE_REFERENCE.findall(item) if isinstance(item, str) else []:
                if name not in known:
                    close = _nearest(name, known)
                    hint = f"; did you mean {close}?" if close else ""
                    yield f"{key}:{label}: {{maps.{name}}} is no table of {key}:maps{hint}"


def _wrong_mechanism(path, given):
    """Yield what the mechanism lacks, and what is said twice."""
    mechanism = (given.get("mechanisms") or ["pam"])[0]
    ldap, host = _mapping(given.get("ldap")), _mapping(given.get("rimap")).get("host")
    options = given.get("options")
    needs = {"ldap": ("ldap:servers", ldap.get("servers")), "rimap": ("rimap:host", host)}
    name, value = needs.get(mechanism, (None, None))
    if name and not value and not options:
        yield f"{path}:{name}: not given; the mechanism {mechanism} needs it"
    elif name and value and options:
        yield f"{path}:options: given beside {path}:{name}; give one of them"
    if ldap.get("servers") and not ldap.get("search_base"):
        yield f"{path}:ldap:search_base: not given; ldap:servers needs it"
    lacking = [name for name in ("bind_dn", "bind_password") if ldap.get(name) is None]
    if len(lacking) == 1:
        yield f"{path}:ldap:{lacking[0]}: not given; a bind needs both"
    for name, value in ldap.items():
        if isinstance(value, str) and (value != value.strip() or not value.isprintable()):
            yield f"{path}:ldap:{name}: begins or ends with a blank, or has a character that cannot be seen"


def _wrong_days(path, source, days, renew_days, ca, **_):
    """Yield what would be renewed at every run, or outlive its authority."""
    every_run = "would be renewed at every run"
    renew_days = renew_days or 0
    if renew_days >= days:
        yield f"{path}:renew_days: {renew_days} is not less than days, {days}: the certificate {every_run}"
    if source != "local_ca":
        return
    if renew_days >= ca["days"]:
        yield f"{path}:ca:days: {ca['days']} is not more than renew_days, {renew_days}: it {every_run}"
    elif days > ca["days"]:
        yield f"{path}:days: {days} is longer than its authority is valid; allowed: up to {ca['days']}"


def _wrong_relay(path, relay, parameters):
    """Yield which settings of a smarthost are of no use without another one, or contradict one."""
    senders = _mapping(relay.get("senders"))
    host, tls = relay.get("host"), relay.get("tls")
    for place, section in [(path, relay), *((f"{path}:senders:{key}", senders[key]) for key in senders)]:
        section = _mapping(section)
        lacking = [name for name in ("username", "password") if section.get(name) is None]
        if len(lacking) == 1:
            yield f"{place}:{lacking[0]}: not given; a login needs both"
        elif section is not relay and host is None and section.get("host") is None:
            yield f"{place}:host: not given, and there is no {path}:host"
    useless = [name for name in ("port", "username", "ca_file") if relay.get(name) is not None]
    if host is None and useless and not (senders and useless == ["ca_file"]):
        yield f"{path}:host: not given; {path}:{useless[0]} is of no use without it"
    if host is None and senders and tls == "implicit":
        yield f"{path}:tls: implicit is for every host that Postfix sends to; it needs {path}:host"
    if tls == "none" and relay.get("ca_file") is not None:
        yield f"{path}:ca_file: of no use while {path}:tls is none"
    for name, given in (("relayhost", host), ("sender_dependent_relayhost_maps", senders)):
        if given and parameters.get(name) is not None:
            section = path.rpartition(":")[0]
            yield f"{section}:parameters:{name}: {path} says it too; give one of them"


def _wrong_firewall(path, backend, **files):
    """Yield what a backend needs and this host does not have."""
    needed = _FIREWALL_FILES.get(backend)
    file = files.get(needed, needed)
    if file and not os.path.exists(file):
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
    if files["rules_file"] == files["rules_file_v6"]:
        yield f"{path}:rules_file_v6: it is {path}:rules_file too; each needs its own file"


def _shared_files(path, certificate, pairs):
    """Yield which of the keys and certificates would overwrite another one."""
    files = {}
    for prefix, pair in zip(("", "second:"), pairs):
        files.update({f"{prefix}{name}": pair[name] for name in ("key", "certificate", "chain_file")})
    if certificate["source"] in ("local_ca", "fleet_ca"):
        files["ca:certificate"] = certificate["ca"]["certificate"]
    if certificate["source"] == "local_ca":
        files["ca:key"] = certificate["ca"]["key"]
    if certificate["source"] == "files":
        for prefix, pair in zip(("", "second:"), pairs):
            sources = {f"{prefix}files:{part}": value for part, value in pair["files"].items()}
            files.update({name: value for name, value in sources.items() if str(value).startswith("/")})
    used = {}
    for name, file in files.items():
        # The administrator's files may be one: key, certificate and chain in a file.
        if file in used and not ("files:" in name and "files:" in used[file]):
            yield f"{path}:{name}: {_shown(file)} is {path}:{used[file]} too; each needs its own file"
        if file is not None:
            used.setdefault(file, name)


# ------------------------------------------------------------------- Checkers
# Each takes the path of a value and the value, and yields problems; what is allowed comes as keywords.


def _section(path, value, schema):
    """A mapping with known keys. Its value is never shown: it may hold secrets."""
    if value is None:
        return
    if not isinstance(value, Mapping):
        yield f"{path}: {_kind(value)} is not a section; allowed: a mapping with {_listed(schema)}"
        return
    for key, item in value.items():
        where = f"{path}:{_name(key)}"
        if key not in schema:
            yield f"{path}:{_unknown(key)}: unknown key; {_meant(path, key, schema)}"
        elif isinstance(schema[key], dict):
            yield from _section(where, item, schema[key])
        elif item is not None:
            check, options = schema[key]
            yield from check(where, item, **options)


def _boolean(path, value, hidden=False):
    if not isinstance(value, bool):
        hint = ""
        if isinstance(value, str) and value.lower() in ("yes", "no", "true", "false", "on", "off"):
            hint = " without quotes"
        shown = "the value (hidden)" if hidden else _shown(value)
        yield f"{path}: {shown} is not a boolean; allowed: true, false{hint}"


def _integer(path, value, low, high, unit=""):
    if isinstance(value, bool) or not isinstance(value, int):
        hint = " without quotes" if isinstance(value, str) and value.isdigit() else ""
        yield f"{path}: {_shown(value)} is not a whole number; allowed: {low} to {high}{unit}{hint}"
    elif not low <= value <= high:
        yield f"{path}: {_shown(value)} is out of range; allowed: {low} to {high}{unit}"


def _choice(path, value, allowed, later=()):
    if isinstance(value, str) and value in allowed:
        return
    if isinstance(value, str) and value in later:
        yield f"{path}: this version of the formula does not have {value} yet; allowed: {_listed(allowed)}"
    elif isinstance(value, bool):
        yield f"{path}: {_shown(value)} is not allowed ({_YAML_BOOLEANS}); allowed: {_listed(allowed)}"
    else:
        close = _nearest(value, allowed)
        hint = f"; did you mean {close}?" if close else ""
        yield f"{path}: {_shown(value)} is not known; allowed: {_listed(allowed)}{hint}"


def _text(path, value, what="a text", empty=False, pattern=None, longest=1024, hidden=False):
    """A text in one line, with nothing in it that cannot be seen; ``hidden``: it is not shown."""
    shown = "the value (hidden)" if hidden else _shown(value)
    if not isinstance(value, str):
        hint = ""
        if isinstance(value, bool):
            hint = f", in quotes ({_YAML_BOOLEANS})"
        elif isinstance(value, (int, float)):
            hint = ", in quotes"
        yield f"{path}: {shown} is not a text; allowed: {what}{hint}"
        return
    wrong = _invisible(value)
    if wrong:
        yield f"{path}: {shown} contains {wrong}; allowed: {what} in one line"
    elif not value.strip() and not empty:
        yield f"{path}: it is empty; allowed: {what}"
    elif len(value) > longest:
        yield f"{path}: {shown} is longer than {longest} characters"
    elif pattern and not re.fullmatch(pattern, value):
        yield f"{path}: {shown} is not valid; allowed: {what}"


def _secret(path, value, shortest=1, blanks=True):
    """A text whose value is never shown; ``blanks``: whether it may begin or end with a blank."""
    if not isinstance(value, str):
        yield f"{path}: the value (hidden) is {_kind(value)}; allowed: a text, in quotes"
    elif any(ord(character) < 32 or ord(character) == 127 for character in value):
        yield f"{path}: the value (hidden) contains a line break or a control character; allowed: one line"
    elif any(0xD800 <= ord(character) <= 0xDFFF for character in value):
        yield f"{path}: the value (hidden) contains half of a character, which UTF-8 does not have"
    elif not shortest <= len(value.encode(errors="replace")) <= 1023:
        yield f"{path}: the value (hidden) is too short or too long; allowed: {shortest} to 1023 bytes"
    elif not blanks and value != value.strip():
        yield f"{path}: the value (hidden) begins or ends with a blank, which its table cannot hold"


def _path(path, value, longest=1024):
    what = "an absolute path of letters, digits and . _ + @ = : - without .."
    wrong = list(_text(path, value, what=what, pattern=r"(/[\w.+@=:-]+)+", longest=longest))
    yield from wrong
    if not wrong and (not value.isascii() or {".", ".."} & set(value.split("/"))):
        yield f"{path}: {_shown(value)} is not valid; allowed: {what}"


def _pem(path, value, kind):
    """PEM text, or where it is. The text is never shown."""
    what = f"an absolute path, an sdb:// URI, or the text of a PEM {kind}"
    if not isinstance(value, str):
        yield f"{path}: the value (hidden) is {_kind(value)}; allowed: {what}"
    elif value.startswith("/") and value.isprintable():
        yield from _path(path, value)
    elif not value.startswith("sdb://") and not re.search(rf"-----BEGIN [A-Z ]*{kind.upper()}-----", value):
        yield f"{path}: the value (hidden) is neither; allowed: {what}"


def _mode(path, value):
    """The mode of the socket directory."""
    if isinstance(value, int) and not isinstance(value, bool):
        # Salt's YAML reads 0750 as 750, others as octal.
        octal = str(value) if re.fullmatch("[0-7]{3}", str(value)) else f"{value:o}"
        example = octal.zfill(4) if re.fullmatch("[0-7]{3}", octal) else "0710"
        yield f'{path}: {_shown(value)} is not a text; allowed: a mode in quotes, such as "{example}"'
        return
    wrong = list(_text(path, value, what='a mode such as "0710", in quotes', pattern="0?[0-7]{3}"))
    yield from wrong
    if wrong:
        return
    for broken, why in (
        (value[-3] != "7", "keeps saslauthd out of its own directory; allowed: 7 for the owner"),
        (
            int(value[-2]) & 2 or int(value[-1]) & 2,
            "lets others put a socket of their own there; allowed: no write bit but the owner's",
        ),
        (not int(value[-2]) & 1, "keeps Postfix, a member of the group, out; allowed: 1 or 5 for the group"),
    ):
        if broken:
            yield f'{path}: {_shown(value)} {why}, as in "0710"'


def _firewall_port(path, value):
    """A TCP port, or the word for those that master.cf has."""
    if value == "listeners":
        return
    if isinstance(value, str) and not value.isdigit():
        yield f"{path}: {_shown(value)} is not a whole number; allowed: 1 to 65535, or the word listeners"
    else:
        yield from _integer(path, value, low=1, high=65535)


def _hostname(path, value):
    if not isinstance(value, str):
        yield from _text(path, value, what="a host name such as mail.example.com")
        return
    wrong = _wrong_hostname(value)
    if wrong:
        yield f"{path}: {_shown(value)} {wrong}; {_SET_NAME}"


def _recipient(path, value):
    what = "a user of this host, such as alice, or an address, such as alice@example.com"
    wrong = list(_text(path, value, what=what, pattern=r"[A-Za-z0-9_][\w.+=&'~-]*(@[^@\s]+)?"))
    yield from wrong
    if wrong:
        return
    user, _, domain = value.partition("@")
    if user.lower() in ("root", "postmaster") and not domain:
        yield f"{path}: {_shown(value)} would get its own mail in circles; allowed: {what}"
    elif domain and _wrong_label(domain):
        yield f"{path}: {_shown(value)} {_wrong_label(domain)}; allowed: {what}"


def _items(path, value, check, options, longest=None, shortest=0):
    """A list without duplicates, each item with a check of its own."""
    if not isinstance(value, (list, tuple)):
        yield f"{path}: {_shown(value)} is not a list; allowed: a list, such as [a, b]"
        return
    if longest is not None and len(value) > longest:
        yield f"{path}: {len(value)} items; allowed: {longest}"
    if len(value) < shortest:
        yield f"{path}: the list is empty; allowed: {shortest} or more items"
    seen = []
    for number, item in enumerate(value):
        yield from check(f"{path}:{number}", item, **options)
        if item in seen:
            yield f"{path}:{number}: {_shown(item)} is there twice"
        seen.append(item)


def _entries(path, value, name, pattern, check, options):
    """A mapping with free names, each entry with a check of its own; null takes an entry out."""
    if not isinstance(value, Mapping):
        # A list or a text in place of tables may have their secrets.
        yield f"{path}: {_kind(value)} is not a mapping; allowed: a mapping of {name} to value"
        return
    for key, item in value.items():
        where = f"{path}:{_name(key)}"
        if not isinstance(key, str):
            yield f"{where}: {_shown(key)} is not a name; allowed: {name}, in quotes"
        elif not re.fullmatch(pattern, key) or not key.isprintable():
            yield f"{where}: not a valid name; allowed: {name}"
        elif item is not None:
            yield from check(where, item, **options)


def _parameter(path, value):
    """The value of a main.cf parameter."""
    what = "a text, a whole number, true, false, a list of them, or null"
    if isinstance(value, float):
        yield f"{path}: {_shown(value)} is not a whole number; allowed: {what} (a text is in quotes)"
    elif isinstance(value, (Mapping, bytes, set)):
        yield f"{path}: {_kind(value)} is not a value of main.cf; allowed: {what}"
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            if isinstance(item, (list, tuple, Mapping)) or item is None:
                yield f"{path}:{number}: {_kind(item)} is not allowed; allowed: a text or a whole number"
            elif isinstance(item, str) and not item.strip():
                yield f"{path}:{number}: it is empty; allowed: a text or a whole number"
            else:
                yield from _parameter(f"{path}:{number}", item)
    elif not isinstance(value, int):
        yield from _text(path, value, what=what, empty=True, longest=100_000)


def _flag(path, value):
    """One of master.cf's columns private, unprivileged and chroot."""
    if not isinstance(value, bool) and value not in ("-", "y", "n"):
        yield f'{path}: {_shown(value)} is not a boolean; allowed: true, false, "-" (Postfix\'s default)'


def _number_column(path, value, pattern, what):
    """One of master.cf's columns wakeup and maxproc."""
    if isinstance(value, bool) or not re.fullmatch(
        pattern, str(value) if isinstance(value, int) else _as_text(value)
    ):
        yield f"{path}: {_shown(value)} is not valid; allowed: {what}"


def _arguments(path, value):
    """The arguments of a master.cf service: a text, or a list of them."""
    for number, item in enumerate(value) if isinstance(value, (list, tuple)) else [(None, value)]:
        yield from _text(path if number is None else f"{path}:{number}", item, what="a text or a list of texts")


def _services(path, value):
    """The services: ready-made ones by their names, others as entries of master.cf."""
    ready = {name: item for name, item in _mapping(value).items() if name in _READY}
    for name, item in ready.items():
        if item is not None:
            yield from _boolean(f"{path}:{name}", item)
    others = {name: item for name, item in value.items() if name not in ready} if ready else value
    what = "name/type, such as smtp/inet; types: inet, unix, unix-dgram, fifo, pass"
    pattern = r"[^\s/#]+/(inet|unix|unix-dgram|fifo|pass)"
    options = {"name": f"{what}; ready-made: {_listed(_READY)}", "pattern": pattern}
    yield from _entries(path, others, **options, check=_section, options={"schema": _SERVICE})


def _destination(path, value):
    """What an alias leads to: a text, or a list of them."""
    what = "a destination, a list of them, or null"
    if isinstance(value, (list, tuple)):
        yield from _items(path, value, _text, {"what": what}, shortest=1)
    else:
        yield from _text(path, value, what=what)


def _mailboxes(path, value):
    """Whether to have RFC 2142's mailboxes, or which of them."""
    if isinstance(value, (list, tuple)):
        yield from _items(path, value, _choice, {"allowed": _MAILBOXES})
    elif not isinstance(value, bool):
        yield f"{path}: {_shown(value)} is not valid; allowed: true, false, or a list of {_listed(_MAILBOXES)}"


def _smarthost(path, value):
    """A host that takes mail: a name, or an IP address."""
    what = "a host name, such as smtp.example.net, or an IP address"
    wrong = list(_text(path, value, what=what))
    yield from wrong
    if not wrong and not _is_address(value) and _wrong_label(value):
        yield f"{path}: {_shown(value)} {_wrong_label(value)}; allowed: {what}"


def _sender(path, value):
    yield from _section(path, value, _RELAY)


def _senders(path, value):
    """Smarthosts by sender. Like a section's, the value is never shown: it may hold secrets."""
    if isinstance(value, Mapping):
        name = 'an address, such as alice@example.com, or "@example.com"'
        yield from _entries(path, value, name, r"[A-Za-z0-9_.+&'~/-]*@[A-Za-z0-9.-]+", _sender, {})
    else:
        yield f"{path}: {_kind(value)} is not a mapping; allowed: a mapping of sender to host and login"


def _table(path, value):
    """A lookup table. The values of its entries are never shown."""
    wrong = list(_section(path, value, _TABLE))
    yield from wrong
    if wrong or not value:
        return
    kind, entries = value.get("type"), value.get("entries")
    if entries is not None and value.get("source") is not None:
        yield f"{path}:source: given beside entries; allowed: one of them"
    if kind in _NO_FILE and kind != "inline":
        for name in ("entries", "source", "secret", "mode"):
            if value.get(name):
                yield f"{path}:{name}: a table of type {kind} has no file; allowed: path (what follows {kind}:)"
        if not value.get("path"):
            yield f"{path}:path: not given; what follows after {kind}: in main.cf"
        return
    if kind == "inline":
        for name in ("path", "source", "secret", "mode"):
            if value.get(name):
                yield f"{path}:{name}: a table of type inline is in main.cf, for all to read; allowed: entries"
        for number, (name, item) in enumerate(_mapping(entries).items()):
            # Where it was taken for a table with secrets, what looks like a key may be one.
            label = f"entry {number + 1}" if value.get("secret") or isinstance(item, Mapping) else _name(name)
            if (
                not isinstance(item, (str, int))
                or re.search(r"[{}\x00-\x1f]", f"{name}{item}")
                or "=" in str(name)
            ):
                yield f"{path}:entries:{label}: not one line of text without braces, and no = in the key"
        if entries is not None and not isinstance(entries, Mapping):
            yield f"{path}:entries: {_kind(entries)} is not a mapping; allowed: a mapping of key to value"
    elif value.get("path") is not None:
        yield from _path(f"{path}:path", value["path"])
    if value.get("secret") and int(value.get("mode") or "0600", 8) & 0o007:
        yield f'{path}:mode: {_shown(value["mode"])} lets everybody read what is secret; allowed: "0600" or "0640"'


def _table_entries(path, value):
    """The entries of a table: only their shape. Whether a table can hold them is known to ``mta_map``."""
    if not isinstance(value, (Mapping, list, tuple)):
        yield f"{path}: {_kind(value)} is not allowed; allowed: a mapping of key to value, or a list of lines"


def _alternative_name(path, value):
    """A further name of the certificate: a host name, with or without a wildcard, or an IP address."""
    what = "a host name, such as smtp.example.com or *.example.com, or an IP address"
    wrong = list(_text(path, value, what=what))
    yield from wrong
    if wrong:
        return
    if not _is_address(value):
        name = value[2:] if value.startswith("*.") else value
        reason = _wrong_label(name)
        if reason:
            yield f"{path}: {_shown(value)} {reason}; allowed: {what}"


# -------------------------------------------------------------------- Helpers


def _wrong_hostname(name):
    """Return why ``name`` is not a fully qualified host name (RFC 1123, section 2.1), or None."""
    if not isinstance(name, str) or not name:
        return "is empty"
    wrong = _invisible(name)
    if wrong:
        return f"contains {wrong}"
    if _is_address(name.strip("[]")):
        return "is an IP address, not a name"
    if name.endswith(".") and name != ".":
        return "ends with a dot"
    if "." not in name:
        return "is not fully qualified: it has no domain"
    wrong = _wrong_label(name)
    if wrong:
        return wrong
    if name.lower().rpartition(".")[2] in ("localhost", "localdomain") or name.lower().startswith("localhost."):
        return "is only a placeholder, not this host's name"
    return None


def _wrong_label(name):
    """Return why ``name`` is not a host name, of one label or more, or None."""
    if len(name) > 253:
        return "is longer than 253 characters"
    for label in name.split("."):
        if not label:
            return "has two dots in a row, or one at its start or end"
        if len(label) > 63:
            return f"has a part of more than 63 characters, {label[:20]}…"
        if "_" in label:
            return "contains an underscore, which host names must not have"
        if not re.fullmatch("[A-Za-z0-9-]+", label):
            hint = " (write international names in their xn-- form)" if not label.isascii() else ""
            return f"contains a character other than letters, digits, hyphens and dots{hint}"
        if label.startswith("-") or label.endswith("-"):
            return f"has a part that begins or ends with a hyphen, {label}"
    if label.isdigit():
        return "ends with a number, which is no top-level domain"
    return None


def _is_address(text):
    """Return whether ``text`` is an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _invisible(text):
    """Return what the first character is that cannot be seen in ``text``, or None."""
    for character in text:
        if not character.isprintable():
            if character in "\r\n":
                return "a line break"
            return f"the invisible or control character U+{ord(character):04X}"
    return None


def _mapping(value):
    return value if isinstance(value, Mapping) else {}


def _as_text(value):
    return value if isinstance(value, str) else ""


def _shown(value):
    """Return a value, no secret, in one short line."""
    if isinstance(value, str):
        # A password may stand in the address of a host.
        value = re.sub(r"[^\s/@:]*:[^\s/@]*@", "(hidden)@", value)
        short = value if len(value) <= 60 else value[:60] + "…"
        return json.dumps(short, ensure_ascii=not value.isprintable())
    if isinstance(value, (bool, type(None))):
        return json.dumps(value)
    if isinstance(value, int) and abs(value) >= 10**18:
        return "a very large number"
    if isinstance(value, (int, float)):
        return str(value)
    return _kind(value)


def _kind(value):
    """Return what kind of value it is, without the value."""
    if isinstance(value, bool):
        return "a boolean"
    if value is None:
        return "null"
    for types, kind in (
        (str, "a text"),
        ((int, float), "a number"),
        (Mapping, "a mapping"),
        ((list, tuple), "a list"),
        (bytes, "binary data"),
    ):
        if isinstance(value, types):
            return kind
    return f"an object of type {type(value).__name__}"


def _name(key):
    """Return a mapping's key for a pillar path: as it is, or quoted where that is not one short line."""
    if isinstance(key, str) and key and len(key) <= 60 and key.isprintable():
        return key
    return _shown(key)


def _unknown(key):
    """Return what a key that there is not is called: of ``password:hush``, all that may be shown is the name."""
    name = re.match(r"[\w.-]*", key)[0] if isinstance(key, str) else ""
    return _name(key) if name == key or not isinstance(key, str) else f"{name}… (not shown in full)"


def _listed(allowed):
    return ", ".join(str(item) for item in allowed)


def _nearest(value, allowed):
    """Return the allowed name that ``value`` is probably a typo of, or None."""
    import difflib  # only a broken pillar needs it

    close = difflib.get_close_matches(value.lower(), list(allowed), n=1) if isinstance(value, str) else []
    return close[0] if close else None


def _meant(path, key, schema):
    """Return which key was meant, or where it belongs, or else which keys there are."""
    close = _nearest(key, schema)
    elsewhere = None if close else _find(_SCHEMA, key)
    if elsewhere:
        close = f"{path.partition(':')[0]}:{elsewhere}"
    return f"did you mean {close}?" if close else f"allowed: {_listed(schema)}"


def _find(schema, name):
    """Return the path of the key ``name`` in the schema, or None."""
    for key, rule in schema.items():
        if key == name:
            return key
        below = _find(rule, name) if isinstance(rule, dict) else None
        if below:
            return f"{key}:{below}"
    return None


# --------------------------------------------------------------------- Schema
# A section is a dict, a value is (checker, what is allowed).

_SET_NAME = (
    "set the pillar key postfix_mta:hostname to the full name, such as mail.example.com, or name it so: the"
    ' line "127.0.1.1 mail.example.com mail" in /etc/hosts and the command "hostnamectl set-hostname mail"'
)
_YAML_BOOLEANS = "YAML reads yes, no, on and off as booleans"
_PROFILES = ("guide", "hardened", "none")
_READY = ("submission", "submissions", "postscreen")
_KEY_SIZES = {"rsa": (2048, 3072, 4096, 8192), "ec": (256, 384), "ed25519": (None,)}
_TABLE_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_TABLE_REFERENCE = re.compile(rf"\{{maps\.({_TABLE_NAME})\}}")
_NO_FILE = ("inline", "socketmap", "tcp", "unix", "static", "nis", "environ", "pipemap", "unionmap", "randmap")
_TABLE_TYPES = (
    *("hash", "btree", "lmdb", "cdb", "texthash", "pcre", "regexp", "cidr"),
    *("ldap", "mysql", "pgsql", "sqlite", "memcache", "mongodb"),
    *_NO_FILE,
)
_CENTURY = 36500
# RFC 2142, sections 3 to 5, and postmaster, which RFC 5321 demands.
_MAILBOXES = (
    *("postmaster", "abuse", "noc", "security", "hostmaster", "webmaster", "www", "ftp", "usenet", "news", "uucp"),
    *("info", "marketing", "sales", "support"),
)
_KEYTAB = "/etc/krb5.keytab"
_MINION = {"what": "a minion's id, such as mail1.example.com", "pattern": r"[A-Za-z0-9_.@-]+", "longest": 255}
# Backend: the setting, or the program, whose file has to be there.
_FIREWALL_FILES = {
    "ufw": "/usr/sbin/ufw",
    "firewalld": "/usr/sbin/firewalld",
    "nftables": "nftables_file",
    "iptables": "rules_file",
}

_SERVICE = {
    "private": (_flag, {}),
    "unprivileged": (_flag, {}),
    "chroot": (_flag, {}),
    "wakeup": (_number_column, {"pattern": r"\d+\??|-", "what": 'seconds, 0 or more, "60?" or "-"'}),
    "process_limit": (_number_column, {"pattern": r"\d+|-", "what": '0 (no limit) or more, or "-"'}),
    "command": (_text, {"what": "a program of Postfix, such as smtpd", "pattern": r"[\w./-]+"}),
    "overrides": (
        _entries,
        {"name": "a main.cf parameter", "pattern": r"[A-Za-z0-9_.:-]+", "check": _parameter, "options": {}},
    ),
    "arguments": (_arguments, {}),
}

_RELAY_TABLE = "relay_passwords"
# RFC 8314, sections 3.3 and 7.3; RFC 6409.
_RELAY_PORTS = {"starttls": 587, "implicit": 465, "none": 25}
_RELAY = {
    "host": (_smarthost, {}),
    "port": (_integer, {"low": 1, "high": 65535}),
    "username": (
        _text,
        {
            "what": "a user name without a colon",
            "pattern": r"[^\s:]([^:]*[^\s:])?",
            "longest": 256,
            # What has a colon may be user name and password.
            "hidden": True,
        },
    ),
    "password": (_secret, {"blanks": False}),
}

_FILES = {
    "certificate": (_pem, {"kind": "certificate"}),
    "key": (_pem, {"kind": "private key"}),
    "chain": (_pem, {"kind": "certificate"}),
}

_TABLE = {
    "type": (_choice, {"allowed": _TABLE_TYPES}),
    "path": (_text, {"what": "an absolute path"}),
    "entries": (_table_entries, {}),
    "source": (_text, {"what": "a file on the file server, such as salt://mail/virtual", "pattern": "salt://.+"}),
    # One level too high, an entry's ``secret: TEXT`` is here.
    "secret": (_boolean, {"hidden": True}),
    "mode": (_text, {"what": 'a mode such as "0640", in quotes', "pattern": "0?[0-7][0-7][0-5]"}),
    "package": (_text, {"what": "the name of a package", "pattern": "[A-Za-z0-9][A-Za-z0-9.+_-]*"}),
}

_SCHEMA = {
    "hostname": (_hostname, {}),
    "mailname": (
        _text,
        {"what": "a domain, such as example.com", "pattern": r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?"},
    ),
    "manage_hosts_file": (_boolean, {}),
    "root_recipient": (_recipient, {}),
    "aliases": (
        _entries,
        {
            "name": 'an alias (the part before the @), without @ " \\',
            "pattern": r"[^\s@\"\\]([^@\"\\]*[^\s@\"\\])?",
            "check": _destination,
            "options": {},
        },
    ),
    "rfc2142_aliases": (_mailboxes, {}),
    "profile": (_choice, {"allowed": _PROFILES}),
    "parameters": (
        _entries,
        {"name": "a main.cf parameter", "pattern": r"[A-Za-z0-9_.:-]+", "check": _parameter, "options": {}},
    ),
    "services": (_services, {}),
    "unmanaged": (_choice, {"allowed": ("keep", "warn", "remove")}),
    "certificate": {
        "source": (_choice, {"allowed": ("local_ca", "self_signed", "fleet_ca", "files", "none")}),
        "key": (_path, {}),
        "certificate": (_path, {}),
        "chain_file": (_path, {}),
        "files": _FILES,
        "subject": {
            "country": (_text, {"what": "two letters, such as DE", "pattern": "[A-Za-z]{2}"}),
            "email": (
                _text,
                {"what": "a mail address", "pattern": r"[!-?A-~]+@[A-Za-z0-9.-]+", "longest": 255},
            ),
            **{
                field: (_text, {"what": "a text of up to 64 characters", "longest": 64})
                for field in ("state", "locality", "organization", "unit")
            },
        },
        "names": (_items, {"check": _alternative_name, "options": {}}),
        "key_type": (_choice, {"allowed": tuple(_KEY_SIZES)}),
        "key_size": (_integer, {"low": 1, "high": 100_000, "unit": " bits"}),
        "days": (_integer, {"low": 1, "high": _CENTURY, "unit": " days"}),
        "renew_days": (_integer, {"low": 1, "high": _CENTURY, "unit": " days"}),
        "rotate_key": (_boolean, {}),
        "second": {
            "key_type": (_choice, {"allowed": (*_KEY_SIZES, "none")}),
            "key_size": (_integer, {"low": 1, "high": 100_000, "unit": " bits"}),
            "key": (_path, {}),
            "certificate": (_path, {}),
            "chain_file": (_path, {}),
            "files": _FILES,
        },
        "ca": {
            "certificate": (_path, {}),
            "key": (_path, {}),
            "passphrase": (_secret, {"shortest": 4}),
            "previous_passphrase": (_secret, {}),
            "days": (_integer, {"low": 1, "high": _CENTURY, "unit": " days"}),
        },
        "fleet": {
            "ca_minion": (_text, _MINION),
            "policy": (_text, {"what": "the name of a signing policy", "pattern": r"[\w.@-]+", "longest": 255}),
            "trust_store": (_boolean, {}),
            "minions": (
                _entries,
                {
                    "name": _MINION["what"],
                    "pattern": _MINION["pattern"],
                    "check": _items,
                    "options": {"check": _alternative_name, "options": {}},
                },
            ),
        },
    },
    "sasl": {
        "enabled": (_boolean, {}),
        "mechanisms": (
            _items,
            {
                "check": _choice,
                "options": {"allowed": ("pam", "shadow", "ldap", "rimap", "sasldb", "kerberos5")},
                "shortest": 1,
                "longest": 1,
            },
        ),
        "options": (
            _text,
            {"what": "one word without quotes or shell characters", "pattern": r"[A-Za-z0-9_/.:@=,+%\[\]-]+"},
        ),
        "type": (_choice, {"allowed": ("cyrus", "dovecot")}),
        "dovecot_socket": (
            _text,
            {
                "what": "a path, absolute or below Postfix's queue directory, or inet:host:port",
                "pattern": r"/?[\w.+@=-]+(/[\w.+@=-]+)*|inet:[A-Za-z0-9.-]+:\d+",
            },
        ),
        "ldap": {
            "servers": (
                _items,
                {
                    "check": _text,
                    "options": {"what": "a URI, such as ldaps://ldap.example.com", "pattern": r"ldap[si]?://\S*"},
                },
            ),
            "search_base": (_text, {"what": "a distinguished name, such as dc=example,dc=com"}),
            "scope": (_choice, {"allowed": ("sub", "one", "base")}),
            "filter": (_text, {"what": "an LDAP filter, such as (uid=%u)"}),
            "bind_dn": (_text, {"what": "a distinguished name"}),
            "bind_password": (_secret, {}),
            "start_tls": (_boolean, {}),
            "ca_file": (_path, {}),
            "timeout": (_integer, {"low": 1, "high": 60, "unit": " seconds"}),
        },
        "rimap": {
            "host": (_text, {"what": "a host name or an IPv4 address", "pattern": "[A-Za-z0-9][A-Za-z0-9.-]*"}),
            "port": (_integer, {"low": 1, "high": 65535}),
        },
        "kerberos5": {
            "keytab": (_path, {}),
            "principal": (_text, {"what": "a service, such as host or smtp", "pattern": "[A-Za-z0-9_-]+"}),
        },
        "front": (_boolean, {}),
        "threads": (_integer, {"low": 0, "high": 1000}),
        "cache": (_boolean, {}),
        # With /mux it has to fit into a socket address (unix(7): 108 bytes).
        "socket_directory": (
            _text,
            {
                "what": "an absolute path of letters, digits and _, with + @ : . - inside of its parts",
                "pattern": r"(/[A-Za-z0-9_+@:.-]*[A-Za-z0-9_])+",
                "longest": 100,
            },
        ),
        "directory_mode": (_mode, {}),
    },
    "firewall": {
        "backend": (_choice, {"allowed": ("auto", *_FIREWALL_FILES, "none")}),
        "ports": (_items, {"check": _firewall_port, "options": {}}),
        "rules_file": (_path, {}),
        "rules_file_v6": (_path, {}),
        "nftables_file": (_path, {}),
        "zones": (
            _items,
            {
                "check": _text,
                "options": {
                    "what": "a zone of firewalld: up to 17 letters, digits, _ and -",
                    "pattern": "[A-Za-z0-9_-]{1,17}",
                },
            },
        ),
    },
    "verify": {
        "enabled": (_boolean, {}),
        "capabilities": (
            _items,
            {
                "check": _text,
                "options": {
                    "what": "an EHLO keyword, such as PIPELINING",
                    "pattern": r"[A-Za-z0-9][!-~]*( [!-~]+)*",
                },
            },
        ),
        "timeout": (_integer, {"low": 1, "high": 600, "unit": " seconds"}),
        "login": {
            "username": (_text, {"what": "a user name", "longest": 256, "hidden": True}),
            "password": (_secret, {}),
        },
    },
    "beacon": {
        "enabled": (_boolean, {}),
        "interval": (_integer, {"low": 1, "high": 86400, "unit": " seconds"}),
        "queue_limit": (_integer, {"low": 1, "high": 100_000_000, "unit": " messages"}),
    },
    "schedule": {
        "enabled": (_boolean, {}),
        "minutes": (_integer, {"low": 1, "high": 44_640, "unit": " minutes"}),
        "splay": (_integer, {"low": 0, "high": 2_678_400, "unit": " seconds"}),
        "return_job": (_boolean, {}),
    },
    "reprovision": {
        "attempts": (_integer, {"low": 1, "high": 10}),
        "pause": (_integer, {"low": 1, "high": 3600, "unit": " seconds"}),
        "hold": (_integer, {"low": 1, "high": 604_800, "unit": " seconds"}),
        "splay": (_integer, {"low": 0, "high": 86400, "unit": " seconds"}),
    },
    "maps": (
        _entries,
        {
            "name": "the name of a table, of letters, digits and _ . -",
            "pattern": _TABLE_NAME,
            "check": _table,
            "options": {},
        },
    ),
    "relay": {
        **_RELAY,
        "tls": (_choice, {"allowed": tuple(_RELAY_PORTS)}),
        "ca_file": (_path, {}),
        "senders": (_senders, {}),
    },
}
