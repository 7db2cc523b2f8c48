"""
What the files of saslauthd say for the requested settings: text from text, nothing is read or written here.

Debian's packaging is what this knows: ``/etc/default/saslauthd``, the group ``sasl``, the init script up to Debian
12 and the native systemd unit since Debian 13. Up to Debian 13 Postfix's smtpd runs in a chroot, so the socket has
to be below ``/var/spool/postfix``, where

- the init script makes the directory as ``dpkg-statoverride`` says, and looks for the PID file there;
- the native unit does neither: it exits as it cannot make the directory, or hangs for 90 seconds as the PID file
  is elsewhere. A drop-in tells it where the PID file is, and makes the directory before each start.

A line of master.cf decides whether its smtpd is chrooted, and there is one ``smtpd.conf`` for all. It names the
socket as those inside see it, if there are any; where others are outside, a drop-in makes a link for them.

saslauthd answers NO alike for a wrong password and for a server that it cannot reach, so that smtpd says 535 for
both. For the mechanisms that ask a server, a proxy (``postfix_mta/files/saslauthd-proxy.py``) stands between smtpd
and saslauthd, with a socket ``proxy`` of its own beside saslauthd's ``mux``, and makes the latter a temporary
error. Its socket unit starts and stops with saslauthd.

The how-to's ``PWDIR``, ``PARAMS`` and ``PIDFILE`` lines are not written, since nothing reads them: the init script
derives all three from ``OPTIONS``, and the unit does not use them. Where they exist they stay.

Sources: saslauthd(8), ``/usr/share/doc/sasl2-bin/README.Debian``, dpkg-statoverride(1), systemd.service(5),
systemd.socket(5).
"""

from __future__ import annotations

import re

import _mta_libsasl
import _mta_saslauthd_view
from _mta_saslauthd_request import KERBEROS5, LDAP, Request

PROXY_SOURCE = "salt://postfix_mta/files/saslauthd-proxy.py"
GROUP = "sasl"
LIBSASL_SOCKET = "/var/run/saslauthd/mux"
HIDDEN = "****"
CONF_HEADER = "# Managed by Salt (postfix_mta): what saslauthd's mechanism reads.\n"
PIDFILE_DROP_IN = """\
# Managed by Salt (postfix_mta): the unit as packaged expects its PID file in /run/saslauthd.
[Unit]
RequiresMountsFor={directory}

[Service]
PIDFile={directory}/saslauthd.pid
RuntimeDirectoryMode={mode}
ExecStartPre=/usr/bin/install -d -o root -g {group} -m {mode} {directory}
"""
# A smtpd outside of the chroot looks for the socket at the same path as one inside.
LINK_DROP_IN = """\
# Managed by Salt (postfix_mta): some services of master.cf are chrooted, and some are not.
[Service]
ExecStartPre=/usr/bin/install -d -o root -g {group} -m {mode} {seen_in}
ExecStartPre=/bin/ln -sfn {socket} {seen}
"""
# The packaged command line lacks the -O that the init script puts before the options of the mechanism. That of
# Debian 14 is a shell's, which reads the package's settings file itself.
START_DROP_IN = """\
EnvironmentFile={settings}
ExecStart=
ExecStart=/usr/sbin/saslauthd -a $MECHANISMS{mech_options} $OPTIONS -n $THREADS
"""
SETTINGS_HEADER = f"""\
# Managed by Salt (postfix_mta): read instead of {_mta_saslauthd_view.DEFAULTS_FILE}, which stays as the package
# has it. Further OPTIONS for saslauthd(8) are taken over from there by the next apply.
"""
# After saslauthd, which makes the directory at its start; sockets otherwise begin before all services.
PROXY_SOCKET_UNIT = """\
# Managed by Salt (postfix_mta).
[Unit]
Description=Socket of saslauthd's proxy for Postfix
PartOf=saslauthd.service
After=saslauthd.service
DefaultDependencies=no
Conflicts=shutdown.target
Before=shutdown.target

[Socket]
ListenStream={directory}/proxy
SocketMode=0666
RemoveOnStop=yes
"""
PROXY_DROP_IN = """\
# Managed by Salt (postfix_mta).
[Unit]
Wants=postfix-mta-saslauthd.socket
"""
PROXY_SERVICE_UNIT = """\
# Managed by Salt (postfix_mta): started at a login.
[Unit]
Description=Proxy before saslauthd: a server behind it that is down is a temporary error
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


# -- files that are edited ---------------------------------------------------------------------


def shell_set(text: str, variable: str, value: str) -> str:
    """The shell file with the last assignment of ``variable`` changed, or one added at the end."""
    quoted = value if value.isalnum() else f'"{value}"'
    assignment = _mta_saslauthd_view.ASSIGNMENT.format(variable=variable)
    found = list(re.finditer(assignment, text, re.MULTILINE | re.DOTALL))
    if found:
        start, end = found[-1].span(1)
        return text[:start] + quoted + text[end:]
    newline = "\n" if text and not text.endswith("\n") else ""
    return f"{text}{newline}{variable}={quoted}\n"


def socket_seen(directory: str, queue: str, name: str = "mux", chrooted: bool = True) -> str:
    """Where smtpd(8) finds the socket; its root is the queue directory where it is ``chrooted``."""
    inside = directory[len(queue) :] if chrooted and directory.startswith(f"{queue}/") else directory
    return f"{inside}/{name}"


def socket_told(path: str) -> str | None:
    """The same path; ``None`` where libsasl looks by itself."""
    return None if path == LIBSASL_SOCKET else path


# -- databases of the system -------------------------------------------------------------------


def statoverride(text: str, path: str) -> str | None:
    """``user:group mode`` of the override for ``path``; ``None`` when there is none."""
    for line in text.splitlines():
        fields = line.split(None, 3)
        if len(fields) == 4 and fields[3] == path and re.fullmatch("[0-7]+", fields[2]):
            return f"{fields[0]}:{fields[1]} {int(fields[2], 8):04o}"
    return None


def members(text: str) -> list[str]:
    """Members of the group ``sasl``; none when there is no such group."""
    for line in text.splitlines():
        fields = line.split(":")
        if fields[0] == GROUP and len(fields) == 4:
            return [member for member in fields[3].split(",") if member]
    return []


# -- files of the formula's own ----------------------------------------------------------------


def settings(values: dict[str, str]) -> str:
    """The formula's own settings file, which the native unit's start reads."""
    return SETTINGS_HEADER + "".join(f'{variable}="{value}"\n' for variable, value in values.items())


def drop_in(requested: Request, own: bool) -> str:
    """What the native unit lacks. ``own``: the settings are in the formula's own file, not in the package's."""
    mode = requested.directory_mode
    text = PIDFILE_DROP_IN.format(directory=requested.socket_directory, mode=mode, group=GROUP)
    if own or requested.mech_options:
        text += START_DROP_IN.format(
            settings=_mta_saslauthd_view.OWN_FILE if own else _mta_saslauthd_view.DEFAULTS_FILE,
            mech_options=" -O ${MECH_OPTIONS}" if requested.mech_options else "",
        )
    return text


def link_drop_in(requested: Request, name: str, seen: str) -> str:
    """What makes the socket ``name`` show up at ``seen``, where it is not."""
    return LINK_DROP_IN.format(
        group=GROUP,
        mode=requested.directory_mode,
        seen_in=seen.rpartition("/")[0],
        socket=f"{requested.socket_directory}/{name}",
        seen=seen,
    )


def option_file(requested: Request, password: str | None = None) -> str | None:
    """
    The text of ``saslauthd.conf`` for the mechanism; ``None`` where it needs none, or it is somebody else's.

    The servers' certificates are checked wherever there is TLS, which is not saslauthd's default.
    """
    if requested.mechanism == "ldap" and requested.ldap:
        given, keys = requested.ldap, LDAP
    elif requested.mechanism == "kerberos5" and requested.kerberos5:
        given, keys = requested.kerberos5, KERBEROS5
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


def option_file_shown(text: str | None) -> dict[str, str] | None:
    """The keys of ``saslauthd.conf`` with their values, without passwords; ``None`` where there is no file."""
    if text is None:
        return None
    found = re.findall(r"^[ \t]*([A-Za-z0-9_]+)[ \t]*:[ \t]*(.*?)[ \t]*$", text, re.MULTILINE)
    return {key: value if key in {*LDAP.values(), *KERBEROS5.values()} else HIDDEN for key, value in found}


# -- the proxy ---------------------------------------------------------------------------------


def proxy_arguments(requested: Request, conf: str | None) -> str:
    """
    The arguments of the proxy's program, as a systemd unit has them. ``conf``: the text of the file for ``ldap``.
    """
    options, servers = [], []
    if requested.mechanism == "rimap":
        servers = [requested.mech_options or ""]
    elif requested.mechanism == "ldap":
        value = {name: _mta_libsasl.value(conf or "", key) or "" for name, key in LDAP.items()}
        servers = value["servers"].split()
        if value["start_tls"].lower() in ("yes", "on", "true", "1"):
            options.append("--start-tls")
        checked = _mta_libsasl.value(conf or "", "ldap_tls_check_peer") == "yes"
        if value["ca_file"] and checked:
            options.append(f"--ca-file={value['ca_file']}")
    words = [*options, f"{requested.socket_directory}/mux", requested.mechanism, *filter(None, servers)]
    escapes = str.maketrans({"\\": "\\\\", '"': '\\"', "%": "%%", "$": "$$"})
    return " ".join(f'"{word.translate(escapes)}"' for word in words)


def proxy_service(requested: Request, conf: str | None, python: str, program: str) -> str:
    """The unit of the proxy. ``conf``: as for :func:`proxy_arguments`."""
    arguments = proxy_arguments(requested, conf)
    return PROXY_SERVICE_UNIT.format(python=python, program=program, arguments=arguments, group=GROUP)


def proxy_socket(requested: Request) -> str:
    """The unit of the proxy's socket."""
    return PROXY_SOCKET_UNIT.format(directory=requested.socket_directory)
