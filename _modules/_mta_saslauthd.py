"""TODO subject (saslauthd)."""

import contextlib
import grp
import os
import pwd
import re
import socket as sockets
import stat

from salt.exceptions import CommandExecutionError, SaltInvocationError
from salt.utils.args import clean_kwargs

import _mta_restore
import _mta_saslauthd_view
import _mta_secrets
import _mta_services
import _mta_system
import _mta_transaction
from _mta_minion import Minion
from _mta_plan import Plan

PROGRAM = "/usr/sbin/saslauthd"
INIT_SCRIPT = "/etc/init.d/saslauthd"
NATIVE_UNITS = ("/usr/lib/systemd/system/saslauthd.service", "/lib/systemd/system/saslauthd.service")
DROP_IN = "/etc/systemd/system/saslauthd.service.d/postfix_mta.conf"
CONF_FILE = "/etc/saslauthd.conf"
SASLDB = "/etc/sasldb2"
STATOVERRIDE = "/var/lib/dpkg/statoverride"
GROUP_FILE = "/etc/group"
GROUP = "sasl"
# What the daemon leaves in its socket directory.
RUNTIME = ("front", "mux", "mux.accept", "saslauthd.pid", "saslauthd.pid.lock", "cache.flock", "cache.mmap")
ARGUMENTS = {
    "mechanisms": ["pam"],
    "mech_options": None,
    "ldap": None,
    "kerberos5": None,
    "front": True,
    "threads": 5,
    "cache": True,
    "socket_directory": "/var/spool/postfix/var/run/saslauthd",
    "directory_mode": "0710",
    "smtpd_conf": "/etc/postfix/sasl/smtpd.conf",
    "mech_list": ["plain", "login"],
    "member": "postfix",
}
MECHANISMS = ("getpwent", "kerberos5", "ldap", "pam", "rimap", "sasldb", "shadow")
PIDFILE_DROP_IN = """\
# Managed by Salt (postfix_mta): the unit as packaged expects its PID file in /run/saslauthd.
[Unit]
RequiresMountsFor={directory}

[Service]
PIDFile={directory}/saslauthd.pid
RuntimeDirectoryMode={mode}
ExecStartPre=/usr/bin/install -d -o root -g {group} -m {mode} {directory}
"""
# The packaged command line lacks the -O that the init script puts before the options of the mechanism.
MECH_OPTIONS_DROP_IN = """\
ExecStart=
ExecStart=/usr/sbin/saslauthd -a $MECHANISMS -O ${MECH_OPTIONS} $OPTIONS -n $THREADS
"""
FRONT_PROGRAM = "/usr/local/lib/postfix-mta-saslauthd-front.py"
FRONT_SERVICE = "/etc/systemd/system/postfix-mta-saslauthd.service"
FRONT_DROP_IN = "/etc/systemd/system/saslauthd.service.d/postfix_mta_front.conf"
PYTHON = "/usr/bin/python3"
SYSTEMD_RUNS = "/run/systemd/system"
# After saslauthd, which makes the directory at its start; sockets otherwise begin before all services.
FRONT_SOCKET_UNIT = """\
# Managed by Salt (postfix_mta).
[Unit]
Description=Socket of saslauthd's front for Postfix
PartOf=saslauthd.service
After=saslauthd.service
DefaultDependencies=no
Conflicts=shutdown.target
Before=shutdown.target

[Socket]
ListenStream={directory}/front
SocketMode=0666
RemoveOnStop=yes
"""
FRONT_DROP_IN_TEXT = """\
# Managed by Salt (postfix_mta).
[Unit]
Wants=postfix-mta-saslauthd.socket
"""
FRONT_SERVICE_UNIT = """\
# Managed by Salt (postfix_mta): started at a login.
[Unit]
Description=Front of saslauthd: a server behind it that is down is a temporary error
PartOf=saslauthd.service postfix-mta-saslauthd.socket
StartLimitIntervalSec=0

[Service]
ExecStart={python} -I {program} {arguments}
DynamicUser=yes
SupplementaryGroups={group}
CapabilityBoundingSet=
LimitCORE=0
LockPersonality=yes
PrivateDevices=yes
ProtectControlGroups=yes
ProtectHome=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectSystem=strict
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
UMask=0077
"""
CONF_HEADER = "# Managed by Salt (postfix_mta): what saslauthd's mechanism reads.\n"
# Argument to key. The servers' certificates are checked wherever there is TLS, which is not saslauthd's default.
LDAP = {
    "servers": "ldap_servers",
    "search_base": "ldap_search_base",
    "scope": "ldap_scope",
    "filter": "ldap_filter",
    "bind_dn": "ldap_bind_dn",
    "start_tls": "ldap_start_tls",
    "ca_file": "ldap_tls_cacert_file",
    "timeout": "ldap_timeout",
}
KERBEROS5 = {"keytab": "krb5_keytab", "principal": "krb5_verify_principal"}
HIDDEN = "****"
QUEUE = "/var/spool/postfix"
LONGEST_SOCKET_PATH = 107


def _shell_set(text, variable, value):
    """The shell file with the last assignment of ``variable`` changed, or one added at the end."""
    quoted = value if value.isalnum() else f'"{value}"'
    found = list(
        re.finditer(_mta_saslauthd_view.ASSIGNMENT.format(variable=variable), text, re.MULTILINE | re.DOTALL)
    )
    if found:
        start, end = found[-1].span(1)
        return text[:start] + quoted + text[end:]
    newline = "\n" if text and not text.endswith("\n") else ""
    return f"{text}{newline}{variable}={quoted}\n"


def _sasl_set(text, key, value):
    """
    The file of libsasl with the first ``key`` changed and later ones taken out, or one added; ``None``: with none.
    """
    lines, done = [], value is None
    for line in text.splitlines():
        if re.match(rf"[ \t]*{key}:", line, re.IGNORECASE):
            if done:
                continue
            line, done = f"{key}: {value}", True
        lines.append(line)
    if not done:
        lines.append(f"{key}: {value}")
    return "\n".join(lines) + "\n"


def _socket_seen(directory, name="mux"):
    """
    Where smtpd(8), whose root is the queue directory, finds the socket; ``None`` where libsasl looks by itself.
    """
    inside = directory[len(QUEUE) :] if directory.startswith(f"{QUEUE}/") else directory
    return None if (inside, name) == ("/var/run/saslauthd", "mux") else f"{inside}/{name}"


def _front_arguments(wanted, conf):
    """
    The arguments of the front's program, as a systemd unit has them. ``conf``: the text of the file for ``ldap``.
    """
    mechanism = wanted["mechanisms"][0]
    options, servers = [], []
    if mechanism == "rimap":
        servers = [wanted["mech_options"] or ""]
    elif mechanism == "ldap":
        servers = (_mta_saslauthd_view.sasl_value(conf or "", LDAP["servers"]) or "").split()
        if (_mta_saslauthd_view.sasl_value(conf or "", LDAP["start_tls"]) or "").lower() in (
            "yes",
            "on",
            "true",
            "1",
        ):
            options.append("--start-tls")
        ca_file = _mta_saslauthd_view.sasl_value(conf or "", LDAP["ca_file"])
        if ca_file and _mta_saslauthd_view.sasl_value(conf, "ldap_tls_check_peer") == "yes":
            options.append(f"--ca-file={ca_file}")
    words = [*options, f"{wanted['socket_directory']}/mux", mechanism, *filter(None, servers)]
    escaped = [
        word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$") for word in words
    ]
    return " ".join(f'"{word}"' for word in escaped)


def _statoverride(text, path):
    """``user:group mode`` of the override for ``path``; ``None`` when there is none."""
    for line in text.splitlines():
        fields = line.split(None, 3)
        if len(fields) == 4 and fields[3] == path and re.fullmatch("[0-7]+", fields[2]):
            return f"{fields[0]}:{fields[1]} {int(fields[2], 8):04o}"
    return None


def _members(text):
    """Members of the group ``sasl``; ``None`` when there is no such group."""
    for line in text.splitlines():
        fields = line.split(":")
        if fields[0] == GROUP and len(fields) == 4:
            return [member for member in fields[3].split(",") if member]
    return None


def _problems(wanted):
    """What is wrong with the arguments: their values go into a shell file, a unit and a file of libsasl."""
    found = []

    def demand(good, argument, allowed):
        if not good:
            found.append(f"{argument} must be {allowed}, not {wanted[argument]!r}")

    def path(value):
        return isinstance(value, str) and re.fullmatch(r"(?:/[A-Za-z0-9_+@:.-]*[A-Za-z0-9_])+", value)

    def names(value):
        return (
            isinstance(value, list) and value and all(re.fullmatch("[A-Za-z0-9_-]+", str(name)) for name in value)
        )

    mechanisms = wanted["mechanisms"]
    demand(
        isinstance(mechanisms, list) and len(mechanisms) == 1 and mechanisms[0] in MECHANISMS,
        "mechanisms",
        f"a list of one of {', '.join(MECHANISMS)} (saslauthd uses one)",
    )
    options = wanted["mech_options"]
    demand(
        not options or (isinstance(options, str) and re.fullmatch(r"[A-Za-z0-9_/.:@=,+%\[\]-]+", options)),
        "mech_options",
        "one word without blanks, quotes or shell characters",
    )
    for argument, keys in (("ldap", {**LDAP, "password_pillar": None}), ("kerberos5", KERBEROS5)):
        given = wanted[argument]
        demand(
            given is None or (isinstance(given, dict) and set(given) <= set(keys) and _one_line(given)),
            argument,
            f"a mapping with {', '.join(keys)}, each in one line",
        )
    if isinstance(wanted["ldap"], dict):
        demand(
            wanted["ldap"].get("servers") and wanted["ldap"].get("search_base"),
            "ldap",
            "with servers and search_base",
        )
    threads = wanted["threads"]
    demand(
        isinstance(threads, int) and not isinstance(threads, bool) and 0 <= threads <= 1000,
        "threads",
        "a number from 0 to 1000",
    )
    for argument in ("front", "cache"):
        demand(isinstance(wanted[argument], bool), argument, "true or false")
    directory = wanted["socket_directory"]
    demand(path(directory), "socket_directory", "an absolute path without blanks or shell characters")
    if path(directory) and len(directory) + len("/mux") > LONGEST_SOCKET_PATH:
        demand(False, "socket_directory", f"at most {LONGEST_SOCKET_PATH - 4} characters long (unix(7))")
    mode = wanted["directory_mode"]
    demand(
        isinstance(mode, str) and re.fullmatch("0?[0-7]{3}", mode),
        "directory_mode",
        "an octal string like '0710'",
    )
    demand(path(wanted["smtpd_conf"]), "smtpd_conf", "an absolute path without blanks or shell characters")
    demand(names(wanted["mech_list"]), "mech_list", "a list of names of SASL mechanisms")
    member = wanted["member"]
    demand(
        member is None or (isinstance(member, str) and re.fullmatch("[A-Za-z_][A-Za-z0-9_.-]*", member)),
        "member",
        "a user name or null",
    )
    return found


def _one_line(given):
    """Whether no value of a mapping would begin a second line in a file of saslauthd."""
    values = [item for value in given.values() for item in (value if isinstance(value, list) else [value])]
    return all(not isinstance(value, str) or (value.isprintable() and value == value.strip()) for value in values)


def _conf(wanted, password=None):
    """The text of ``saslauthd.conf`` for the mechanism; ``None`` where it needs none."""
    mechanism = wanted["mechanisms"][0]
    if mechanism == "ldap" and wanted["ldap"]:
        given, keys = {**wanted["ldap"]}, LDAP
    elif mechanism == "kerberos5" and wanted["kerberos5"]:
        given, keys = wanted["kerberos5"], KERBEROS5
    else:
        return None
    values = {}
    for argument, key in keys.items():
        value = given.get(argument)
        if isinstance(value, bool):
            value = "yes" if value else "no"
        if value not in (None, "", []):
            values[key] = " ".join(value) if isinstance(value, (list, tuple)) else str(value)
    if keys is LDAP:
        if password:
            values["ldap_bind_pw"] = password
        if given.get("start_tls") or "ldaps:" in values["ldap_servers"]:
            values["ldap_tls_check_peer"] = "yes"
        if "timeout" in given:
            values["ldap_time_limit"] = values["ldap_timeout"]
    return CONF_HEADER + "".join(f"{key}: {value}\n" for key, value in values.items())


def _conf_shown(text):
    """The keys of ``saslauthd.conf`` with their values, without passwords; ``None`` where there is no file."""
    if text is None:
        return None
    found = re.findall(r"^[ \t]*([A-Za-z0-9_]+)[ \t]*:[ \t]*(.*?)[ \t]*$", text, re.MULTILINE)
    return {key: value if key in {*LDAP.values(), *KERBEROS5.values()} else HIDDEN for key, value in found}


def _drop_in(wanted):
    text = PIDFILE_DROP_IN.format(directory=wanted["socket_directory"], mode=wanted["directory_mode"], group=GROUP)
    return text + (MECH_OPTIONS_DROP_IN if wanted["mech_options"] else "")


def _directory(path):
    """``user:group mode`` of a directory; ``None`` when there is none."""
    if not os.path.exists(path):
        return None
    if not os.path.isdir(path):
        raise CommandExecutionError(f"{path} is in the way: it is not a directory")
    return _owner_and_mode(path)


def _owner_and_mode(path):
    status = os.stat(path)
    user, group = str(status.st_uid), str(status.st_gid)
    with contextlib.suppress(KeyError):
        user = pwd.getpwuid(status.st_uid).pw_name
    with contextlib.suppress(KeyError):
        group = grp.getgrgid(status.st_gid).gr_name
    return f"{user}:{group} {stat.S_IMODE(status.st_mode):04o}"


def _unreadable(wanted):
    """What is wrong with the files that the administrator has to bring for the mechanism, one text for each."""
    mechanism = wanted["mechanisms"][0]
    path = None
    if mechanism == "sasldb" and os.path.exists(PROGRAM):  # whose package brings an empty one
        path, how = SASLDB, f"make it with saslpasswd2 -c -u {sockets.gethostname()} USER"
    elif mechanism == "kerberos5":
        path = (wanted["kerberos5"] or {}).get("keytab") or "/etc/krb5.keytab"
        how = "make it with ktadd of kadmin, for the principal host/ of this host"
    elif mechanism == "ldap" and not wanted["ldap"]:
        path, how = wanted["mech_options"] or CONF_FILE, "it tells saslauthd where the LDAP server is"
    if path is None:
        return []
    try:
        with open(path, "rb"):
            mode = stat.S_IMODE(os.stat(path).st_mode)
    except OSError as err:
        return [f"{mechanism}: cannot read {path}: {err.strerror}; {how}"]
    if mode & stat.S_IRWXO:
        return [f"{mechanism}: {path} has mode {mode:04o}, and holds secrets: chmod o= {path}"]
    return []


def _work(minion: Minion, wanted):
    """All that differs: what to report, what to write, what to run, and what to activate."""
    problems = _problems(wanted)
    if problems:
        raise SaltInvocationError("\n".join(problems))
    wanted = {**wanted, "directory_mode": f"{int(wanted['directory_mode'], 8):04o}"}
    directory = wanted["socket_directory"]
    owned = f"root:{GROUP} {wanted['directory_mode']}"
    work = {
        "changes": {},
        "activate": {},
        "errors": [],
        "files": {},
        "modes": {},
        "commands": [],
        "directory": False,
        "notes": [],
    }
    changes, files = work["changes"], work["files"]
    override_item, group_item = f"dpkg-statoverride {directory}", f"group {GROUP}: {wanted['member']}"
    # Of what was changed by earlier applies.
    needed = [_mta_saslauthd_view.DEFAULTS_FILE, wanted["smtpd_conf"], directory]

    def differs(item, old, new, activate=None):
        changes[item] = {"old": old, "new": new}
        for service, action in (activate or {}).items():
            if work["activate"].get(service) != "restart":
                work["activate"][service] = action

    text = _mta_system.read(_mta_saslauthd_view.DEFAULTS_FILE)
    text = _mta_saslauthd_view.PACKAGED if text is None else text
    values = {
        "MECHANISMS": wanted["mechanisms"][0],
        "MECH_OPTIONS": wanted["mech_options"] or "",
        "OPTIONS": f"{'-c ' if wanted['cache'] else ''}-m {directory}",
        "THREADS": str(wanted["threads"]),
    }
    # Debian 12's file came without START, but its init script still does nothing without it.
    if _mta_saslauthd_view.shell_value(text, "START") is not None or re.search(
        r"\$\{?START\b", _mta_system.read(INIT_SCRIPT) or ""
    ):
        values["START"] = "yes"
    for variable, value in values.items():
        old = _mta_saslauthd_view.shell_value(text, variable)
        if (old or "") != value:
            differs(variable, old, value, {"saslauthd": "restart"})
            text = files[_mta_saslauthd_view.DEFAULTS_FILE] = _shell_set(text, variable, value)

    fronted = wanted["front"] and wanted["mechanisms"][0] in _mta_saslauthd_view.REMOTE
    missing = [path for path in (SYSTEMD_RUNS, PYTHON) if fronted and not os.path.exists(path)]
    if missing:
        work["notes"].append(
            f"There is no {missing[0]}, and so no front of saslauthd: when the server that it asks is down,"
            " clients are told that their password is wrong."
        )
        fronted = False

    text = _mta_system.read(wanted["smtpd_conf"]) or ""
    values = {
        "pwcheck_method": "saslauthd",
        "mech_list": " ".join(wanted["mech_list"]),
        "saslauthd_path": _socket_seen(directory, "front" if fronted else "mux"),
    }
    for key, value in values.items():
        old = _mta_saslauthd_view.sasl_value(text, key)
        same = old == value if None in (old, value) else old.lower().split() == value.lower().split()
        if not same:
            differs(key, old, value, {"postfix": "reload"})
            text = files[wanted["smtpd_conf"]] = _sasl_set(text, key, value)

    if any(os.path.exists(unit) for unit in NATIVE_UNITS):
        needed.append(DROP_IN)
        text = _mta_system.read(DROP_IN)
        if text != _drop_in(wanted):
            differs(DROP_IN, text, _drop_in(wanted), {"saslauthd": "restart"})
            files[DROP_IN] = _drop_in(wanted)

    secret = (wanted["ldap"] or {}).get("password_pillar") if wanted["mechanisms"][0] == "ldap" else None
    password = _mta_secrets.get(minion, secret) if secret else None
    if secret and not _one_line({"password": password or " "}):
        raise SaltInvocationError(
            f"pillar {secret} must be a text in one line that neither begins nor ends with a blank"
        )
    conf = _conf(wanted, password)
    if conf is not None:
        needed.append(CONF_FILE)
        old = _mta_system.read(CONF_FILE)
        if old != conf:
            shown, new = _conf_shown(old), _conf_shown(conf)
            if shown == new:
                new = {**new, **{key: f"{HIDDEN} (changed)" for key, value in new.items() if value == HIDDEN}}
            differs(CONF_FILE, shown, new, {"saslauthd": "restart"})
        elif _owner_and_mode(CONF_FILE) != "root:root 0600":
            differs(CONF_FILE, _owner_and_mode(CONF_FILE), "root:root 0600")
        if CONF_FILE in changes:
            files[CONF_FILE], work["modes"][CONF_FILE] = conf, "0600"
    work["errors"] += _unreadable(wanted)

    if fronted:
        if wanted["mechanisms"][0] == "ldap" and conf is None:
            conf = _mta_system.read(wanted["mech_options"] or CONF_FILE)
        front = {
            FRONT_PROGRAM: minion.functions["mta_saslauthd_front.text"](),
            FRONT_SERVICE: FRONT_SERVICE_UNIT.format(
                python=PYTHON, program=FRONT_PROGRAM, arguments=_front_arguments(wanted, conf), group=GROUP
            ),
            _mta_saslauthd_view.PROXY_SOCKET: FRONT_SOCKET_UNIT.format(directory=directory),
            FRONT_DROP_IN: FRONT_DROP_IN_TEXT,
        }
        needed += front
        for path, new in front.items():
            old = _mta_system.read(path)
            if old != new:
                shown = (old, new) if path != FRONT_PROGRAM else (old and "another version", "this formula's")
                differs(path, *shown, {"saslauthd": "restart"})
                files[path] = new
        if _mta_saslauthd_view.PROXY_SOCKET not in files and os.path.exists(f"{directory}/mux") > os.path.exists(
            f"{directory}/front"
        ):
            # Written again, so that systemd reads it again.
            differs(_mta_saslauthd_view.PROXY_SOCKET, "not there", f"{directory}/front", {"saslauthd": "restart"})
            files[_mta_saslauthd_view.PROXY_SOCKET] = front[_mta_saslauthd_view.PROXY_SOCKET]

    if os.path.isdir(os.path.dirname(STATOVERRIDE)):
        needed.append(override_item)
        old = _statoverride(_mta_system.read(STATOVERRIDE) or "", directory)
        if old != owned:
            differs("dpkg-statoverride", old, owned)
            tool = ["dpkg-statoverride", "--admindir", os.path.dirname(STATOVERRIDE)]
            remove, add = (
                [*tool, "--remove", directory],
                [*tool, "--add", "root", GROUP, wanted["directory_mode"], directory],
            )
            before = [[*tool, "--add", *re.split("[: ]", old), directory]] if old else []
            work["commands"].append(
                {
                    "item": override_item,
                    "do": [*([remove] if old else []), add],
                    "undo": [remove, *before],
                    "evidence": [STATOVERRIDE, f"^root {GROUP} [0-7]+ {re.escape(directory)}$"],
                }
            )

    old = _directory(directory)
    if old != owned:
        differs(directory, old, owned, None if old else {"saslauthd": "restart"})
        work["directory"] = True

    # In an open directory everybody reaches the socket, and so does Postfix.
    is_open = int(wanted["directory_mode"], 8) & stat.S_IXOTH
    if wanted["member"] and not is_open:
        needed.append(group_item)
        members = _members(_mta_system.read(GROUP_FILE) or "") or []
        if wanted["member"] not in members:
            differs(f"group {GROUP}", members, [*members, wanted["member"]], {"postfix": "restart"})
            work["commands"].append(
                {
                    "item": group_item,
                    "do": [["gpasswd", "--add", wanted["member"], GROUP]],
                    "undo": [["gpasswd", "--delete", wanted["member"], GROUP]],
                    "evidence": [
                        GROUP_FILE,
                        rf"^{GROUP}:[^:]*:[^:]*:(?:.*,)?({re.escape(wanted['member'])})(?:,|$)",
                    ],
                }
            )

    found = _mta_restore.obsolete(minion, "saslauthd", needed)
    work["give_back"], work["notes"] = found["changes"], work["notes"] + found["stays"]
    for item, change in work["give_back"].items():
        left = {"postfix": "restart"} if item.startswith("group ") else {"saslauthd": "restart"}
        differs(item, change["old"], change["new"], left)

    if is_open:
        work["notes"].append(
            f"{directory} is mode {wanted['directory_mode']}: every local user can test passwords through the"
            f" socket in it. Mode 0710 leaves that to root and the group {GROUP}."
        )
    return work


def plan(minion: Minion, **args):
    """
    Tell what :func:`apply` would change. Reads files only.

    args
        Arguments of the state ``saslauthd.managed`` without ``name`` and ``transaction``.

    Returns ``changes`` (``{item: {"old", "new"}}``), ``activate`` (``{service: "reload" | "restart"}``),
    ``errors`` (list: files of the administrator that the mechanism needs), and a ``comment`` when the socket is
    open to every local user. What earlier settings had changed and these do not need is put back; what somebody
    has changed since stays, and the comment names it.

    Raises ``SaltInvocationError`` for bad arguments, ``CommandExecutionError`` when a file cannot be read.
    """
    work = _work(minion, _arguments(args))
    return Plan(work["changes"], work["activate"], work["errors"], work["notes"])


def apply(minion: Minion, **args):
    """
    Make what :func:`plan` tells true, through the transaction that is open.

    args
        As for :func:`plan`.

    Raises ``SaltInvocationError`` for bad arguments, ``CommandExecutionError`` when something cannot be
    changed.
    """
    wanted = _arguments(args)
    _mta_transaction.begin(minion)
    work = _work(minion, wanted)
    directory, mode = wanted["socket_directory"], wanted["directory_mode"]
    if not os.path.exists(PROGRAM):
        raise CommandExecutionError(f"{PROGRAM} is missing: install the package sasl2-bin first")
    # First, so that a run that is killed in between is made up for.
    _mta_transaction.need(minion, work["activate"])
    for command in work["commands"]:
        _mta_transaction.command(minion, **command)
    if work["directory"]:
        _mta_transaction.directory(minion, directory, "root", GROUP, mode, RUNTIME)
    for path, contents in work["files"].items():
        if not os.path.isdir(os.path.dirname(path)):
            _mta_transaction.directory(minion, os.path.dirname(path))
        kept = {"user": "root", "group": "root", "mode": work["modes"][path]} if path in work["modes"] else {}
        _mta_transaction.write(minion, path, contents.encode(errors="surrogateescape"), **kept)
    if work["give_back"]:
        _mta_restore.restore(minion, list(work["give_back"]))


def absent_plan(minion: Minion):
    """
    Tell what :func:`absent_apply` would change. Reads files only.

    Returns ``changes``, ``activate`` and ``comment``, as :func:`plan` does.
    """
    found = _mta_restore.obsolete(minion, "saslauthd", [])
    changes = found["changes"]
    activate = {}
    if any(item.startswith("group ") for item in changes):
        activate["postfix"] = "restart"
    elif changes:
        activate["postfix"] = "reload"
    status = _mta_services.status(["saslauthd"])["saslauthd"]
    now = {key: status[key] for key in ("enabled", "active")}
    if any(now.values()):
        changes = {**changes, "saslauthd": {"old": now, "new": {"enabled": False, "active": False}}}
        activate["saslauthd"] = "stop"
    return Plan(changes, activate, notes=found["stays"])


def absent_apply(minion: Minion):
    """
    Stop the daemon and keep it from starting at boot, and put back what was there before it was managed, through
    the transaction that is open.

    Raises ``CommandExecutionError`` when something cannot be changed.
    """
    _mta_transaction.begin(minion)
    planned = absent_plan(minion)
    _mta_transaction.need(minion, planned.activate)
    _mta_restore.restore(minion, list(planned.changes))


def _arguments(args):
    """The state's arguments with their defaults, as a dictionary."""
    args = clean_kwargs(**args)
    unknown = sorted(set(args) - set(ARGUMENTS))
    if unknown:
        raise SaltInvocationError(f"there is no argument {', '.join(unknown)}")
    wanted = {**ARGUMENTS, **args}
    for key in ("mechanisms", "mech_list"):
        if isinstance(wanted[key], tuple):
            wanted[key] = list(wanted[key])
    return wanted
