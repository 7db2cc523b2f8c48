"""TODO subject (mta_migration postconf)."""

import os
import re

import salt.utils.yaml
from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_aliases
import _mta_judge
import _mta_package
import _mta_pillar
import _mta_postfix_edit
import _mta_postfix_view
import _mta_saslauthd
import _mta_saslauthd_files
import _mta_saslauthd_view
import _mta_services
import _mta_tables
import _mta_tables_manage
from _mta_minion import Minion

ALIASES = "/etc/aliases"
MAILNAME = "/etc/mailname"
# Names of parameters that hold a secret; values that hold one whatever the name; tables that are in the value.
SECRET_NAME = re.compile(r"(?:.*_)?(?:pw|pass|passwd|password|secret|token)\Z", re.IGNORECASE)
SECRET_VALUE = re.compile(
    r"(?:pass(?:wd|word|phrase)?|secret|token|api[_-]?key)\s*[=:]\s*[^\s:$]|://[^/\s:@]+:[^/\s@]+@", re.IGNORECASE
)
PASSWORD_TABLE = re.compile(r"(?:.*_)?password_maps\Z")
# Not tables of postmap(1).
ALIAS_TABLES = ("alias_maps", "alias_database")
LONG_TABLE = 2000
# Their order counts; their file holds settings, name = value.
RULES = ("pcre", "regexp", "cidr")
SETTINGS = ("ldap", "mysql", "pgsql", "sqlite", "memcache", "mongodb")
TEXT_IN_VALUE = re.compile(r"(?:^|[\s,:])(?:static|inline):")
HEAD = """\
#!yaml
# Postfix on {hostname}, as pillar of the formula postfix_mta. Made by postconf.export.
# Applying it changes nothing on this host. What is not named here stays as it is, too.
"""
CONVERTED = """\
#!yaml
# The pillar key postfix of the community formula, as pillar of the formula postfix_mta.
# Apply it with test=True first: it shows what would change. What is not named here stays as it is.
"""
# Its names of master.cf's columns.
COLUMNS = {
    "private": "private",
    "unpriv": "unprivileged",
    "chroot": "chroot",
    "wakeup": "wakeup",
    "maxproc": "process_limit",
}
# What its services are where its pillar does not say it: name/type, the columns private, unprivileged, wakeup and
# maxproc, and the program. None of them is chrooted. They are in the order of its master.cf: of two that are the
# same service, Postfix takes the second.
SERVICES = {
    "smtp": "smtp/inet n - - - smtpd",
    "smtp-postscreen": "smtp/inet n - - 1 postscreen",
    "smtpd": "smtpd/pass - - - - smtpd",
    "dnsblog": "dnsblog/unix - - - 0 dnsblog",
    "tlsproxy": "tlsproxy/unix - - - 0 tlsproxy",
    "submission": "submission/inet n - - - smtpd",
    "smtps": "smtps/inet n - - - smtpd",
    "628": "628/inet n - - - qmqpd",
    "pickup": "pickup/unix n - 60 1 pickup",
    "cleanup": "cleanup/unix n - - 0 cleanup",
    "qmgr": "qmgr/unix n - 300 1 qmgr",
    "qmgr-oqmgr": "qmgr/unix n - 300 1 oqmgr",
    "tlsmgr": "tlsmgr/unix - - 1000? 1 tlsmgr",
    "rewrite": "rewrite/unix - - - - trivial-rewrite",
    "bounce": "bounce/unix - - - 0 bounce",
    "defer": "defer/unix - - - 0 bounce",
    "trace": "trace/unix - - - 0 bounce",
    "verify": "verify/unix - - - 1 verify",
    "flush": "flush/unix n - 1000? 0 flush",
    "proxymap": "proxymap/unix - - - - proxymap",
    "proxywrite": "proxywrite/unix - - - 1 proxymap",
    "smtp-unix": "smtp/unix - - - - smtp",
    "relay": "relay/unix - - - - smtp",
    "showq": "showq/unix n - - - showq",
    "error": "error/unix - - - - error",
    "retry": "retry/unix - - - - error",
    "discard": "discard/unix - - - - discard",
    "local": "local/unix - n - - local",
    "virtual": "virtual/unix - n - - virtual",
    "lmtp": "lmtp/unix - - - - lmtp",
    "anvil": "anvil/unix - - - 1 anvil",
    "scache": "scache/unix - - - 1 scache",
    "maildrop": "maildrop/unix - n - - pipe",
    "cyrus": "cyrus/unix - n - - pipe",
    "old-cyrus": "old-cyrus/unix - n - - pipe",
    "uucp": "uucp/unix - n - - pipe",
    "ifmail": "ifmail/unix - n - - pipe",
    "bsmtp": "bsmtp/unix - n - - pipe",
    "scalemail-backend": "scalemail-backend/unix - n - 2 pipe",
    "mailman": "mailman/unix - n - - pipe",
}
# Those that are a comment in its master.cf as long as its pillar does not name them.
ON_REQUEST = {"smtp-postscreen", "smtpd", "dnsblog", "tlsproxy", "submission", "smtps", "628", "qmgr-oqmgr"}
# What its pipe(8) services run: flags, user, the program, and what follows it.
PIPES = {
    "maildrop": ("DRhu", "vmail", "/usr/local/bin/maildrop", "-d ${recipient}"),
    "cyrus": (None, "cyrus", "/cyrus/bin/deliver", "-e -r ${sender} -m ${extension} ${user}"),
    "old-cyrus": ("R", "cyrus", "/cyrus/bin/deliver", "-e -m ${extension} ${user}"),
    "uucp": ("Fqhu", "uucp", "uux", "-r -n -z -a$sender - $nexthop!rmail ($recipient)"),
    "ifmail": ("F", "ftn", "/usr/lib/ifmail/ifmail", "-r $nexthop ($recipient)"),
    "bsmtp": ("Fq.", "bsmtp", "/usr/local/sbin/bsmtp", "-f $sender $nexthop $recipient"),
    "scalemail-backend": (
        "R",
        "scalemail",
        "/usr/lib/scalemail/bin/scalemail-store",
        "${nexthop} ${user} ${extension}",
    ),
    "mailman": ("FR", "list", "/usr/lib/mailman/bin/postfix-to-mailman.py", "${nexthop} ${user}"),
}
# The overrides of its listeners for users.
FOR_USERS = {
    "smtpd_sasl_auth_enable": "yes",
    "smtpd_reject_unlisted_recipient": "no",
    "smtpd_client_restrictions": "$mua_client_restrictions",
    "smtpd_helo_restrictions": "$mua_helo_restrictions",
    "smtpd_sender_restrictions": "$mua_sender_restrictions",
    "smtpd_recipient_restrictions": "permit_sasl_authenticated,reject",
    "milter_macro_daemon_name": "ORIGINATING",
}
OVERRIDES = {
    "submission": {"syslog_name": "postfix/submission", "smtpd_tls_security_level": "encrypt", **FOR_USERS},
    "smtps": {"syslog_name": "postfix/smtps", "smtpd_tls_wrappermode": "yes", **FOR_USERS},
}
LATER = {
    "transport": "a table: put it into maps, and name it in parameters:transport_maps",
    "vmail": "the access to a database, with its password: it stays in /etc/postfix/*.cf",
    "mysql": "the queries of a database: they stay in /etc/postfix/*.cf",
    "virtual": "a table from a file of yours: put it into maps",
    "sasl_passwd": "a table of passwords from a file of yours: put it into maps, or use relay",
    "sender_canonical": "a table from a file of yours: put it into maps",
    "postgrey": "name the policy service in parameters:smtpd_recipient_restrictions; install it yourself",
}
SILENT = ("enable_service", "reload_service", "manage_master_config")


def host(minion: Minion, config_directory="/etc/postfix", probe=True):
    """
    Return the pillar that describes the mail server of this host, as text; see ``postconf.export``.

    config_directory
        Path, ``/etc/postfix``.

    probe
        Whether to hold the conversation of an apply with the running server, and to leave it out of the pillar
        when this server does not pass it. It leaves no mail behind. Default ``True``.

    Raises ``CommandExecutionError`` when main.cf or master.cf cannot be read, by the line.
    """
    differences = _mta_postfix_edit.differences(config_directory)
    notes = {f"main.cf or master.cf: {name}": why for name, why in differences["left_out"].items()}
    settings = {"profile": "none"}
    hostname = _hostname(minion, config_directory)
    if hostname:
        settings["hostname"] = hostname
    else:
        notes["hostname"] = "this host has no fully qualified name; give it before this pillar is applied"
    mailname = _mailname()
    if mailname:
        settings["mailname"] = mailname
    settings["parameters"] = _without_secrets("parameters", differences["parameters"], notes)
    settings["services"] = _services_without_secrets(differences["services"], notes)
    settings["aliases"] = _without_secrets("aliases", _aliases(minion, notes), notes)
    settings["maps"] = _tables(minion, config_directory, notes)
    settings["certificate"] = {"source": "none"}
    settings["sasl"] = _sasl(minion)
    settings["firewall"] = {"backend": "none"}
    # With the conversation in it, as for the real thing; what the validation refuses is left out.
    _leave_out_refused(minion, settings, notes)
    if probe:
        problems = _conversation(minion, config_directory, hostname)
        if problems:
            settings["verify"] = {"enabled": False}
            notes["verify"] = "the conversation is switched off, as this server does not pass it: " + "; ".join(
                problems
            )
    return HEAD.format(hostname=hostname or "this host") + _text(settings, notes)


def _hostname(minion: Minion, config_directory):
    """The name under which the server speaks, or else the host's, if one of them is fully qualified."""
    names = [_mta_postfix_view.show(config_directory).get("myhostname")]
    names += [listener["hostname"] for listener in _mta_postfix_view.listeners(config_directory)]
    names.append(minion.grains.get("fqdn"))
    for name in filter(None, names):
        pillar = {"profile": "none", "hostname": name}
        if not _mta_pillar.problems(minion, pillar=pillar):
            return name
    return None


def _mailname():
    """What /etc/mailname says, if pillar can say it."""
    name = _mta_package.mail_name(MAILNAME)
    return name if re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", name or "") else None


def _aliases(minion: Minion, notes):
    """The entries of /etc/aliases that an apply would leave as they are."""
    shown = _mta_aliases.show(ALIASES) or {}
    aliases = {}
    for name, values in shown.items():
        try:
            changes = _mta_aliases.plan(minion, ALIASES, {name: values})["changes"]
            if any(key != f"{ALIASES} (compiled)" for key in changes):
                notes[f"aliases:{_shown(name)}"] = "it is there more than once"
                continue
            if changes:
                notes[ALIASES] = (
                    "its compiled form is missing or old; the first apply makes it, as newaliases does"
                )
            aliases[name] = values[0] if len(values) == 1 else values
        except SaltInvocationError as err:
            notes[f"aliases:{_shown(name)}"] = str(err)
    return aliases


def _tables(minion: Minion, config_directory, notes):
    """The lookup tables that main.cf names, as far as an apply would leave them as they are."""
    tables, asked, aliases = {}, {}, {ALIASES}
    for parameter in _mta_postfix_view.show(config_directory):
        for table in _mta_tables.of_parameter(minion, parameter, config_directory):
            kind, _, path = table.rpartition(":")
            if parameter in ALIAS_TABLES:
                aliases.add(path)
            else:
                asked.setdefault(path, (kind.rpartition(":")[2], parameter))
    for path, (kind, parameter) in asked.items():
        if path in aliases or not os.path.isabs(path) or not os.path.isfile(path):
            continue
        name = os.path.basename(path)
        where = f"maps:{_shown(path)}"
        table, why = _table(minion, path, kind, parameter)
        if why:
            notes[where] = why
        elif name in tables or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
            notes[where] = "its file's name cannot be the name of a table"
        else:
            own = {} if os.path.dirname(path) == config_directory else {"path": path}
            tables[name] = {"type": kind, **own, **table}
    return tables


def _table(minion: Minion, path, kind, parameter):
    """The entries of a table, or why there are none: ``({"entries": …}, None)`` or ``(None, text)``."""
    try:
        pairs = _mta_tables.show(path, kind)
        if len(pairs) > LONG_TABLE:
            return None, f"it has {len(pairs)} entries; give it as source from the file server"
        between = " = " if kind in SETTINGS else " "
        secret = any(_is_secret("", f"{key}{between}{value}") for key, value in pairs)
        if secret or PASSWORD_TABLE.match(parameter) or not os.stat(path).st_mode & 0o004:
            return None, "a secret"
        entries = [f"{key} {value}".rstrip() for key, value in pairs] if kind in RULES else dict(pairs)
        plan = _mta_tables_manage.plan(minion, path, type=kind, entries=entries)
    except (CommandExecutionError, SaltInvocationError) as err:
        return None, str(err)
    differs = [*plan["changes"], *plan["errors"]]
    if differs:
        return None, f"it is not the same when written and compiled anew: {', '.join(differs)}"
    return {"entries": entries}, None


def _sasl(minion: Minion):
    """The settings of saslauthd where it is set up exactly as this formula would, else: leave it alone."""
    try:
        if not os.path.exists("/usr/sbin/saslauthd"):
            return {"enabled": False}
        found = _mta_saslauthd_view.settings()
        directory = found["socket_directory"]
        mode = f"{os.stat(directory).st_mode & 0o7777:04o}"
        pillar = {
            "enabled": True,
            "mechanisms": found["mechanisms"],
            "threads": found["threads"],
            "cache": found["cache"],
            "socket_directory": directory,
            "directory_mode": mode,
        }
        if found["mech_options"]:
            pillar["options"] = found["mech_options"]
        if not found["proxy"]:
            pillar["proxy"] = False
        arguments = {**pillar, "mech_options": found["mech_options"], "proxy": None}
        if found["proxy"]:
            arguments["proxy"] = _mta_saslauthd_files.PROXY_SOURCE
        for name in ("enabled", "options"):
            arguments.pop(name, None)
        running = _mta_services.status(["saslauthd"])["saslauthd"]
        if _mta_saslauthd.plan(minion, **arguments)["changes"] or not (running["active"] and running["enabled"]):
            return {"enabled": False}
    except (CommandExecutionError, SaltInvocationError, OSError):
        return {"enabled": False}
    return pillar


def _conversation(minion: Minion, config_directory, hostname):
    """Why the conversation of an apply cannot be held with this host as it is; empty when it can."""
    if not _mta_services.status(["postfix"])["postfix"]["active"]:
        return []
    listeners = _mta_postfix_view.listeners(config_directory)
    if not listeners:
        return ["nothing listens for SMTP"]
    thorough = {"auth": "challenge", "envelope": True, "untrusted_client": True}
    return _mta_judge.check(minion, listeners=listeners, hostname=hostname, **thorough)["problems"]


def _shown(name):
    """A name for a comment: in one line."""
    return name if isinstance(name, str) and name.isprintable() else ascii(name)


def _is_secret(name, value):
    """Whether a value is, or holds, a secret."""
    texts = [str(item) for item in (value if isinstance(value, (list, tuple)) else [value]) if item is not None]
    if SECRET_NAME.match(name) and any(texts):
        return True
    if PASSWORD_TABLE.match(name) and any(TEXT_IN_VALUE.search(text) for text in texts):
        return True
    return any(SECRET_VALUE.search(text) for text in texts)


def _without_secrets(section, values, notes):
    kept = {}
    for name, value in values.items():
        if _is_secret(name, value):
            notes[f"{section}:{_shown(name)}"] = "a secret"
        else:
            kept[name] = value
    return kept


def _services_without_secrets(services, notes):
    kept = {}
    for service, fields in services.items():
        kept[service] = fields = dict(fields) if fields else fields
        if not fields:
            continue
        if _is_secret("", fields.get("arguments")):
            notes[f"services:{_shown(service)}:arguments"] = "a secret"
            del fields["arguments"]
        if "overrides" in fields:
            where = f"services:{_shown(service)}:overrides"
            fields["overrides"] = _without_secrets(where, fields["overrides"], notes)
    return kept


def _leave_out_refused(minion: Minion, settings, notes):
    """Take out of ``settings`` what the validation of the pillar refuses, with its reason."""
    for section in ("parameters", "services", "aliases", "maps"):
        refused = _refused(minion, settings)
        for name in list(settings[section]):
            where = f"{section}:{name}"
            why = [line for line in refused if line.startswith(f"{where}:")]
            odd = not name.isprintable() or len(name) > 60
            if odd or why:
                del settings[section][name]
                notes[_shown(where)] = "it is no text that pillar can hold" if odd else why[0][len(where) + 2 :]
    for line in _refused(minion, settings):
        notes[f"refused: {_shown(line)}"] = "mend this before this pillar is applied"


def _refused(minion: Minion, settings):
    key = "postfix_mta"
    found = _mta_pillar.problems(minion, key, settings.get("hostname"), pillar=settings)
    return [line[len(key) + 1 :] for line in found]


def _text(settings, notes):
    """Settings and notes as YAML."""
    lines = []
    if notes:
        lines += ["#", "# Not in here, and left on the host as it is:"]
        lines += [f"#   {_shown(name)}: {_shown(' '.join(str(why).split()))}" for name, why in notes.items()]
    body = salt.utils.yaml.safe_dump(
        {"postfix_mta": {key: value for key, value in settings.items() if value not in ({}, None)}},
        default_flow_style=False,
        sort_keys=False,
        allow_unicode=True,
        width=1000,
    )
    return "\n".join([*lines, "", body]) if lines else f"\n{body}"


def convert(minion: Minion, pillar=None):
    """
    Return the pillar ``postfix`` of the community formula as pillar of this one, as text.

    pillar
        Dictionary: what the key ``postfix`` holds. Default: the minion's.

    A service that this pillar names comes out as that formula writes it, with that formula's defaults for what the
    pillar does not say. A service, or parameter, that the pillar does not name is not in the result:
    ``postconf.export`` on a host that it has set up tells more. Raises ``SaltInvocationError`` without a pillar to
    convert.
    """
    pillar = minion.pillar.get("postfix") if pillar is None else pillar
    if not isinstance(pillar, dict) or not pillar:
        raise SaltInvocationError("there is no pillar key postfix")
    notes = {}
    config = pillar.get("config") or {}
    parameters = {
        name: list(value) if isinstance(value, (list, tuple)) else value
        for name, value in config.items()
        if value is not None
    }
    settings = {"profile": "none"}
    if "." in str(config.get("myhostname", "")):
        settings["hostname"] = config["myhostname"]
    settings["parameters"] = _without_secrets("config", parameters, notes)
    settings["services"] = {}
    if pillar.get("manage_master_config", True):
        settings["services"] = _converted_services(pillar.get("master_config") or {}, config, notes)
    spf = pillar.get("policyd-spf") or {}
    if spf.get("enabled"):
        settings["services"]["policy-spf/unix"] = {
            "unprivileged": False,
            "chroot": False,
            "command": "spawn",
            "arguments": "user=nobody argv=/usr/bin/policyd-spf",
        }
        settings["parameters"]["policy-spf_time_limit"] = spf.get("time_limit", "3600s")
    settings["aliases"] = _converted_aliases(pillar.get("aliases") or {}, notes)
    settings["certificate"] = {"source": "none"}
    for name in pillar.get("certificates") or {}:
        notes[f"certificates:{name}"] = f"the files stay: /etc/postfix/ssl/{name}.crt and .key"
    settings["maps"] = _converted_tables(pillar.get("mapping") or {}, config, notes)
    for name, value in pillar.items():
        if name in LATER and value:
            notes[name] = LATER[name]
        elif name not in {*LATER, *SILENT} and name not in (
            "config",
            "master_config",
            "policyd-spf",
            "aliases",
            "certificates",
            "mapping",
        ):
            notes[_shown(name)] = "not known"
    settings["sasl"] = {"enabled": False}
    settings["firewall"] = {"backend": "none"}
    _leave_out_refused(minion, settings, notes)
    return CONVERTED + _text(settings, notes)


def _converted_services(master, config, notes):
    """``postfix:master_config`` as services; ``config``: its ``postfix:config``."""
    services = {}
    given = {str(name): fields for name, fields in (master.get("services") or {}).items()}
    if master.get("enable_dovecot") and "dovecot" not in given:
        own = master.get("dovecot") or {}
        user = f"{own.get('user', 'vmail')}:{own.get('group', 'vmail')}"
        given["dovecot"] = {
            "chroot": False,
            "unpriv": False,
            "command": "pipe",
            "flags": own.get("flags", "DRhu"),
            "user": user,
            "argv": own.get("argv", "/usr/lib/dovecot/deliver"),
            "extras": "-d ${recipient}",
        }
    if master.get("enable_submission") and "submission" not in given:
        overrides = {
            name: ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value
            for name, value in (master.get("submission") or {}).items()
        }
        default = {"smtpd_tls_security_level": "encrypt", "smtpd_sasl_auth_enable": True}
        services["submission/inet"] = {
            "private": False,
            "chroot": False,
            "command": "smtpd",
            "overrides": overrides or default,
        }
    ranks = {name: rank for rank, name in enumerate(SERVICES)}
    for name in sorted(given, key=lambda name: ranks.get(name, len(ranks))):
        fields = given[name] or {}
        own, kind = SERVICES.get(name, f"{name}/unix").split()[0].rsplit("/", 1)
        target = f"{fields.get('service', own)}/{fields.get('type', kind)}"
        if not fields.get("enable", True):
            # The other one that is this service may be on.
            if not any(_is_on_unasked(other, target, given) for other in SERVICES):
                services.setdefault(target, None)
            continue
        if services.get(target):
            notes[f"master_config:services:{name}"] = f"another one is {target}, too; Postfix takes this one"
        services[target] = _converted_fields(name, fields, config, notes)
    return services


def _is_on_unasked(name, target, given):
    """Whether that formula has the service ``target`` by ``name``, which its pillar does not name."""
    return name not in {*given, *ON_REQUEST, *PIPES} and SERVICES[name].startswith(f"{target} ")


def _converted_fields(name, given, config, notes):
    """One service, with that formula's defaults for what its pillar does not say."""
    fields = {**_community(name), **{key: value for key, value in given.items() if value is not None}}
    entry = {ours: fields[theirs] for theirs, ours in COLUMNS.items() if fields.get(theirs) is not None}
    entry["command"] = fields.get("command", name)
    overrides = {} if "args" in given else dict(OVERRIDES.get(name, {}))
    for parameter, value in overrides.items():
        # To Postfix a parameter that is not set is an empty text, and a warning.
        if value.startswith("$mua_") and value[1:] not in config:
            overrides[parameter] = ""
    words = []
    for word in fields.get("args") or []:
        text = str(word).strip()
        override = re.match(r"-o\s*(\w+)\s*[=:]\s*(.*)\Z", text)
        if override:
            overrides[override[1]] = override[2]
        elif not text.startswith("#"):
            words.append(text)
    if overrides:
        entry["overrides"] = overrides
    if fields.get("argv") and not fields.get("no_args"):
        words += [f"{key}={fields[key]}" for key in ("flags", "user", "argv") if fields.get(key)]
    if fields.get("extras"):
        words.append(str(fields["extras"]))
    if words:
        entry["arguments"] = " ".join(words)
    return _services_without_secrets({name: entry}, notes)[name]


def _community(name):
    """What that formula has of a service by itself, in its own names; empty for one of the pillar's own."""
    if name not in SERVICES:
        return {}
    _, private, unprivileged, wakeup, limit, command = SERVICES[name].split()
    pipe = dict(zip(("flags", "user", "argv", "extras"), PIPES.get(name, ())))
    fields = {"chroot": False, "command": command, **pipe}
    columns = {"private": private, "unpriv": unprivileged, "wakeup": wakeup, "maxproc": limit}
    for column, text in columns.items():
        if text != "-":
            fields[column] = False if text == "n" else int(text) if text.isdigit() else text
    return fields


def _converted_aliases(aliases, notes):
    """``postfix:aliases``."""
    if isinstance(aliases.get("content"), str) and aliases.get("use_file", True):
        notes["aliases:content"] = "a whole file: it stays /etc/aliases"
        return {}
    found = {name: None for name in aliases.get("absent") or []}
    found.update(aliases.get("present") or {})
    return _without_secrets("aliases", found, notes)


def _converted_tables(mapping, config, notes):
    """``postfix:mapping``: tables by the parameter whose value says where they are."""
    tables = {}
    for parameter, data in mapping.items():
        where = re.fullmatch(r"(?:proxy:)?([a-z]+):(/\S*/(\w[\w.-]*))", str(config.get(parameter, "")))
        items = data if isinstance(data, list) else [data]
        pairs = [pair for item in items if isinstance(item, dict) for pair in item.items()]
        if not where:
            notes[f"mapping:{_shown(parameter)}"] = f"config:{parameter} does not say type:/path of one table"
        elif PASSWORD_TABLE.match(parameter) or any(_is_secret(str(key), value) for key, value in pairs):
            notes[f"mapping:{_shown(parameter)}"] = "a secret"
        else:
            own = {} if where[2] == f"/etc/postfix/{where[3]}" else {"path": where[2]}
            entries = [f"{key} {value}" for key, value in pairs] if where[1] in RULES else dict(pairs)
            tables[where[3]] = {"type": where[1], **own, "entries": entries}
    return tables


def export(minion: Minion, config_directory=_mta_postfix_view.CONFIG_DIRECTORY, probe=True):
    """
    Return the pillar that describes the mail server of this host, as the text of an SLS file.

    config_directory
        Path, ``/etc/postfix``.

    probe
        Whether to hold the conversation of an apply with the running server. It leaves no mail behind. Where this
        server does not pass it, it is switched off in the pillar. Default ``True``.

    Applying that pillar changes nothing: it has ``profile: none``, in what main.cf and master.cf differ from the
    package's own, the aliases, and saslauthd where it is set up as this formula does it. Certificates and the
    firewall are left alone. Secrets, and what pillar cannot hold, are left out and named in its comments. Raises
    ``CommandExecutionError`` when main.cf or master.cf cannot be read, by the line.
    """
    return host(minion, config_directory, probe)
