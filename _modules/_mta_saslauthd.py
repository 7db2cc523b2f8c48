"""
saslauthd as the formula manages it: for each of its resources what is there, is requested, and mends that.

A resource is planned by a function of its own, which reads the host and returns a :class:`Resource`. The option
file ``/etc/saslauthd.conf`` is written where the settings of the mechanism are given, for root alone. Without
systemd there is no proxy.
"""

from __future__ import annotations

import dataclasses
import os
import re
import socket as sockets
import stat
from collections.abc import Collection, Sequence
from typing import Any

from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_libsasl
import _mta_postfix_view
import _mta_restore
import _mta_saslauthd_files
import _mta_saslauthd_request
import _mta_saslauthd_view
import _mta_secrets
import _mta_services
import _mta_system
import _mta_transaction
from _mta_minion import Minion
from _mta_plan import Plan, stronger
from _mta_records import NamedTuple, dataclass
from _mta_saslauthd_request import Request

PROGRAM = "/usr/sbin/saslauthd"
INIT_SCRIPT = "/etc/init.d/saslauthd"
NATIVE_UNITS = ("/usr/lib/systemd/system/saslauthd.service", "/lib/systemd/system/saslauthd.service")
DROP_IN = "/etc/systemd/system/saslauthd.service.d/postfix_mta.conf"
LINK_DROP_IN = "/etc/systemd/system/saslauthd.service.d/postfix_mta_link.conf"
CONF_FILE = "/etc/saslauthd.conf"
KEYTAB = "/etc/krb5.keytab"
SASLDB = "/etc/sasldb2"
STATOVERRIDE = "/var/lib/dpkg/statoverride"
GROUP_FILE = "/etc/group"
PROXY_PROGRAM = "/usr/local/lib/postfix-mta-saslauthd-proxy.py"
PROXY_SERVICE = "/etc/systemd/system/postfix-mta-saslauthd.service"
PROXY_DROP_IN = "/etc/systemd/system/saslauthd.service.d/postfix_mta_proxy.conf"
PYTHON = "/usr/bin/python3"
# What the daemon and the proxy leave in the socket directory.
RUNTIME = ("proxy", "mux", "mux.accept", "saslauthd.pid", "saslauthd.pid.lock", "cache.flock", "cache.mmap")


class Command(NamedTuple):
    """Arguments of :func:`_mta_transaction.command`, which explains them."""

    item: str
    do: list[list[str]]
    undo: list[list[str]]
    evidence: list[str]


@dataclass
class Resource(Plan):
    """
    How one resource differs from what is requested, as a plan, and what mends that.

    needed
        Paths, and names of what commands change, that the requested settings need, whether they differ or not.

    commands, directories
        What to run; what to create, or give its owner and mode.

    files
        Path to its text; root's alone where that is in ``secret``.

    restored
        What earlier settings had needed, and is put back.
    """

    needed: list[str] = dataclasses.field(default_factory=list)
    commands: list[Command] = dataclasses.field(default_factory=list)
    directories: list[str] = dataclasses.field(default_factory=list)
    files: dict[str, str] = dataclasses.field(default_factory=dict, repr=False)
    secret: list[str] = dataclasses.field(default_factory=list)
    restored: list[str] = dataclasses.field(default_factory=list)

    def differs(self, item: str, old: Any, new: Any, **activate: str) -> None:
        """Note a difference, and which service puts it in force by what."""
        self.changes[item] = {"old": old, "new": new}
        self.activate = stronger(self.activate, activate)


# -- settings ----------------------------------------------------------------------------------


def _settings(requested: Request) -> Resource:
    """
    The settings that saslauthd's start reads: in the formula's own file where the native unit can be told to read
    it, else in the package's. What somebody has written into the package's, and is right, stays there.
    """
    packaged = _mta_saslauthd_view.packaged()
    native = _has_native_unit() and _mta_services.manager() == "systemd"
    own = _mta_system.read(_mta_saslauthd_view.OWN_FILE) if native else None
    text = packaged if own is None else own
    values = {
        "MECHANISMS": requested.mechanism,
        "MECH_OPTIONS": requested.mech_options or "",
        "OPTIONS": _mta_saslauthd_view.options(
            _mta_saslauthd_view.shell_value(packaged, "OPTIONS"),
            requested.cache,
            requested.combine_realm,
            requested.socket_directory,
        ),
        "THREADS": str(requested.threads),
    }
    # Debian 12's file came without START, but its init script still does nothing without it.
    start = _mta_saslauthd_view.shell_value(packaged, "START")
    if not native and (start is not None or re.search(r"\$\{?START\b", _mta_system.read(INIT_SCRIPT) or "")):
        values["START"] = "yes"
    resource = Resource()
    for variable, value in values.items():
        old = _mta_saslauthd_view.shell_value(text, variable)
        if (old or "") != value:
            resource.differs(variable, old, value, saslauthd="restart")
            packaged = _mta_saslauthd_files.shell_set(packaged, variable, value)
    if native and (resource.changes or own is not None):
        path, new = _mta_saslauthd_view.OWN_FILE, _mta_saslauthd_files.settings(values)
    else:
        path, new = _mta_saslauthd_view.DEFAULTS_FILE, packaged
    resource.needed.append(path)
    if resource.changes:
        resource.files[path] = new
    return resource


def _smtpd_conf(requested: Request, chroots: Collection[bool]) -> Resource:
    """libsasl's settings for smtpd. ``chroots``: what :func:`_chroots` returns."""
    path = requested.smtpd_conf
    resource = Resource(needed=[path])
    text = _mta_system.read(path) or ""
    seen = _socket_seen(requested, True in chroots)
    values = {
        "pwcheck_method": "saslauthd",
        "mech_list": " ".join(requested.mech_list),
        "saslauthd_path": _mta_saslauthd_files.socket_told(seen),
    }
    for key, value in values.items():
        old = _mta_libsasl.value(text, key)
        if _words(old) != _words(value):
            resource.differs(key, old, value, postfix="reload")
            text = resource.files[path] = _mta_libsasl.changed(text, key, value)
    return resource


def _asked(requested: Request) -> str:
    """The name of the socket that smtpd asks."""
    return "proxy" if _is_proxied(requested) else "mux"


def _socket_seen(requested: Request, chrooted: bool) -> str:
    """Where a smtpd(8) finds the socket, inside of the chroot or outside."""
    directory, queue = requested.socket_directory, requested.queue_directory
    return _mta_saslauthd_files.socket_seen(directory, queue, _asked(requested), chrooted)


def _chroots(requested: Request) -> set[bool]:
    """Whether the smtpd(8) of master.cf, as it will be, are chrooted: all, none, or some."""
    found = {**(_mta_postfix_view.chroots() or {"smtp/inet": requested.chroot}), **requested.chroots}
    return {chrooted for chrooted in found.values() if chrooted is not None} or {True}


def _words(value: str | None) -> list[str] | None:
    """A value of libsasl, for comparison."""
    return None if value is None else value.lower().split()


def _has_native_unit() -> bool:
    return any(_mta_system.exists(unit) for unit in NATIVE_UNITS)


def _drop_in(requested: Request, own: bool) -> Resource:
    """What the native unit lacks, where there is one. ``own``: as for :func:`_mta_saslauthd_files.drop_in`."""
    resource = Resource()
    if _has_native_unit():
        resource.needed.append(DROP_IN)
        old, new = _mta_system.read(DROP_IN), _mta_saslauthd_files.drop_in(requested, own)
        if old != new:
            resource.differs(DROP_IN, old, new, saslauthd="restart")
            resource.files[DROP_IN] = new
    return resource


def _link(requested: Request, chroots: Collection[bool]) -> Resource:
    """
    The socket at the path where a smtpd(8) outside of the chroot looks for it, if others are inside.

    ``chroots``: as for :func:`_smtpd_conf`.
    """
    resource = Resource()
    name = _asked(requested)
    real, seen = (_socket_seen(requested, chrooted) for chrooted in (False, True))
    if real == seen or len(chroots) == 1:
        return resource
    if _mta_services.manager() != "systemd":
        resource.notes.append(
            "Some services of master.cf are chrooted and some are not. Without systemd only the chrooted ones find"
            f" saslauthd, unless {seen} leads to {real}."
        )
        return resource
    resource.needed.append(LINK_DROP_IN)
    old, new = _mta_system.read(LINK_DROP_IN), _mta_saslauthd_files.link_drop_in(requested, name, seen)
    if old != new:
        resource.differs(LINK_DROP_IN, old, new, saslauthd="restart")
        resource.files[LINK_DROP_IN] = new
    return resource


# -- what the mechanism reads ------------------------------------------------------------------


def _password(minion: Minion, requested: Request) -> str | None:
    """The password with which saslauthd binds to an LDAP server; ``None``: with none."""
    path = requested.ldap.get("password_pillar") if requested.mechanism == "ldap" and requested.ldap else None
    if not path:
        return None
    password: str | None = _mta_secrets.get(minion, path)
    if not password or not _mta_saslauthd_request.is_one_line(password):
        raise SaltInvocationError(
            f"pillar {path} must be a text in one line that neither begins nor ends with a blank"
        )
    return password


def _option_file(requested: Request, conf: str | None) -> Resource:
    """The file of the mechanism's options. ``conf``: its text; ``None``: it is not the formula's."""
    resource = Resource(errors=_unusable(requested))
    if conf is None:
        return resource
    resource.needed.append(CONF_FILE)
    old = _mta_system.read(CONF_FILE)
    if old != conf:
        shown = _mta_saslauthd_files.option_file_shown(old)
        new = _mta_saslauthd_files.option_file_shown(conf) or {}
        if shown == new:
            hidden = _mta_saslauthd_files.HIDDEN
            new = {key: f"{value} (changed)" if value == hidden else value for key, value in new.items()}
        resource.differs(CONF_FILE, shown, new, saslauthd="restart")
    elif _mta_system.owner_and_mode(CONF_FILE) != "root:root 0600":
        resource.differs(CONF_FILE, _mta_system.owner_and_mode(CONF_FILE), "root:root 0600")
    if resource.changes:
        resource.files[CONF_FILE] = conf
        resource.secret.append(CONF_FILE)
    return resource


def _unusable(requested: Request) -> list[str]:
    """What is wrong with the file that the administrator has to bring for the mechanism."""
    mechanism = requested.mechanism
    if mechanism == "sasldb" and _mta_system.exists(PROGRAM):  # whose package brings an empty one
        path, how = SASLDB, f"make it with saslpasswd2 -c -u {sockets.gethostname()} USER"
    elif mechanism == "kerberos5":
        path = (requested.kerberos5 or {}).get("keytab") or KEYTAB
        how = "make it with ktadd of kadmin, for the principal host/ of this host"
    elif mechanism == "ldap" and not requested.ldap:
        path, how = requested.mech_options or CONF_FILE, "it tells saslauthd where the LDAP server is"
    else:
        return []
    try:
        with open(path, "rb"):
            mode = stat.S_IMODE(_mta_system.status(path).st_mode)
    except OSError as err:
        return [f"{mechanism}: cannot read {path}: {err.strerror}; {how}"]
    if mode & stat.S_IRWXO:
        return [f"{mechanism}: {path} has mode {mode:04o}, and holds secrets: chmod o= {path}"]
    return []


# -- the proxy ---------------------------------------------------------------------------------


def _is_proxied(requested: Request) -> bool:
    return _wants_proxy(requested) and _proxy_obstacle() is None


def _wants_proxy(requested: Request) -> bool:
    return requested.proxy is not None and requested.mechanism in _mta_saslauthd_view.REMOTE


def _proxy_obstacle() -> str | None:
    """Why there can be no proxy on this host."""
    if _mta_services.manager() != "systemd":
        return "systemd does not run"
    return None if _mta_system.exists(PYTHON) else f"there is no {PYTHON}"


def _proxy(minion: Minion, requested: Request, conf: str | None) -> Resource:
    """The program before saslauthd, and its units. ``conf``: as for :func:`_option_file`."""
    resource = Resource()
    if not _wants_proxy(requested):
        return resource
    obstacle = _proxy_obstacle()
    if obstacle:
        resource.notes.append(
            f"There is no proxy before saslauthd, as {obstacle}: when the server that it asks is down, clients are"
            " told that their password is wrong."
        )
        return resource
    if requested.mechanism == "ldap" and conf is None:
        conf = _mta_system.read(requested.mech_options or CONF_FILE)
    socket_unit = _mta_saslauthd_view.PROXY_SOCKET
    files = {
        PROXY_PROGRAM: _program(minion, requested.proxy or ""),
        PROXY_SERVICE: _mta_saslauthd_files.proxy_service(requested, conf, PYTHON, PROXY_PROGRAM),
        socket_unit: _mta_saslauthd_files.proxy_socket(requested),
        PROXY_DROP_IN: _mta_saslauthd_files.PROXY_DROP_IN,
    }
    resource.needed += files
    for path, new in files.items():
        old = _mta_system.read(path)
        if old != new:
            shown = (old, new) if path != PROXY_PROGRAM else (old and "another version", "this formula's")
            resource.differs(path, *shown, saslauthd="restart")
            resource.files[path] = new
    own, behind = (f"{requested.socket_directory}/{name}" for name in ("proxy", "mux"))
    if socket_unit not in resource.files and _mta_system.exists(behind) and not _mta_system.exists(own):
        # Written again, so that systemd reads it again.
        resource.differs(socket_unit, "not there", own, saslauthd="restart")
        resource.files[socket_unit] = files[socket_unit]
    return resource


def _program(minion: Minion, source: str) -> str:
    """The text of the proxy's program, from the file server."""
    path = minion.functions["cp.cache_file"](source, minion.saltenv)
    text = _mta_system.read(path) if path else None
    if text is None:
        raise CommandExecutionError(f"The file server has no {source}")
    return text


# -- the socket directory, and who reaches it --------------------------------------------------


def _owner(requested: Request) -> str:
    return f"root:{_mta_saslauthd_files.GROUP} {requested.directory_mode}"


def _is_open(requested: Request) -> bool:
    """Whether everybody reaches the socket, and so does Postfix."""
    return bool(int(requested.directory_mode, 8) & stat.S_IXOTH)


def _statoverride(requested: Request) -> Resource:
    """What dpkg, and by that the init script, gives the socket directory as owner and mode."""
    resource = Resource()
    if not _mta_system.is_directory(os.path.dirname(STATOVERRIDE)):
        return resource
    directory, group = requested.socket_directory, _mta_saslauthd_files.GROUP
    item = f"dpkg-statoverride {directory}"
    resource.needed.append(item)
    old = _mta_saslauthd_files.statoverride(_mta_system.read(STATOVERRIDE) or "", directory)
    new = _owner(requested)
    if old != new:
        resource.differs("dpkg-statoverride", old, new)
        tool = ["dpkg-statoverride", "--admindir", os.path.dirname(STATOVERRIDE)]
        remove = [*tool, "--remove", directory]
        add = [*tool, "--add", "root", group, requested.directory_mode, directory]
        before = [[*tool, "--add", *re.split("[: ]", old), directory]] if old else []
        evidence = [STATOVERRIDE, f"^root {group} [0-7]+ {re.escape(directory)}$"]
        resource.commands.append(Command(item, [*([remove] if old else []), add], [remove, *before], evidence))
    return resource


def _socket_directory(requested: Request) -> Resource:
    """The directory of saslauthd's socket, which everybody may write to: the directory is its only lock."""
    directory = requested.socket_directory
    resource = Resource(needed=[directory])
    old, new = _directory(directory), _owner(requested)
    if old != new:
        resource.differs(directory, old, new, **({} if old else {"saslauthd": "restart"}))
        resource.directories.append(directory)
    if _is_open(requested):
        resource.notes.append(
            f"{directory} is mode {requested.directory_mode}: every local user can test passwords through the"
            f" socket in it. Mode 0710 leaves that to root and the group {_mta_saslauthd_files.GROUP}."
        )
    return resource


def _directory(path: str) -> str | None:
    """``user:group mode`` of a directory; ``None`` when there is none."""
    if not _mta_system.exists(path):
        return None
    if not _mta_system.is_directory(path):
        raise CommandExecutionError(f"{path} is in the way: it is not a directory")
    return _mta_system.owner_and_mode(path)


def _membership(requested: Request) -> Resource:
    """Postfix in the group that reaches the socket in a directory that is closed to others."""
    resource = Resource()
    member, group = requested.member, _mta_saslauthd_files.GROUP
    if member is None or _is_open(requested):
        return resource
    item = f"group {group}: {member}"
    resource.needed.append(item)
    members = _mta_saslauthd_files.members(_mta_system.read(GROUP_FILE) or "")
    if member not in members:
        resource.differs(f"group {group}", members, [*members, member], postfix="restart")
        evidence = [GROUP_FILE, rf"^{group}:[^:]*:[^:]*:(?:.*,)?({re.escape(member)})(?:,|$)"]
        add, delete = (["gpasswd", option, member, group] for option in ("--add", "--delete"))
        resource.commands.append(Command(item, [add], [delete], evidence))
    return resource


# -- all of them -------------------------------------------------------------------------------


def _resources(minion: Minion, requested: Request) -> list[Resource]:
    conf = _mta_saslauthd_files.option_file(requested, _password(minion, requested))
    chroots = _chroots(requested)
    settings = _settings(requested)
    resources = [
        settings,
        _smtpd_conf(requested, chroots),
        _drop_in(requested, _mta_saslauthd_view.OWN_FILE in settings.needed),
        _link(requested, chroots),
        _option_file(requested, conf),
        _proxy(minion, requested, conf),
        _statoverride(requested),
        _socket_directory(requested),
        _membership(requested),
    ]
    return [*resources, _obsolete(minion, resources)]


def _obsolete(minion: Minion, resources: Sequence[Resource]) -> Resource:
    """What earlier settings had changed and these do not need."""
    needed = [item for resource in resources for item in resource.needed]
    found = _mta_restore.obsolete(minion, "saslauthd", needed)
    obsolete = Resource(notes=found["stays"], restored=list(found["changes"]))
    for item, change in found["changes"].items():
        service = "postfix" if item.startswith("group ") else "saslauthd"
        obsolete.differs(item, change["old"], change["new"], **{service: "restart"})
    return obsolete


def _joined(resources: Sequence[Resource]) -> Plan:
    replaced: list[str] = []
    plan = Plan(replaced=replaced)
    for resource in resources:
        replaced += [*resource.files, *(item for item in resource.restored if item.startswith("/"))]
        plan.changes.update(resource.changes)
        plan.activate = stronger(plan.activate, resource.activate)
        plan.errors += resource.errors
        plan.notes += resource.notes
    return plan


def plan(minion: Minion, **arguments: Any) -> Plan:
    """
    Tell what :func:`apply` would change. Reads files only.

    arguments
        Arguments of the state ``saslauthd.managed`` without ``name`` and ``transaction``.

    Errors of the plan are about files of the administrator that are needed. What earlier settings had
    changed and these do not need is put back; what somebody has changed since stays, and a note names it.

    Raises ``SaltInvocationError`` for bad arguments, ``CommandExecutionError`` when a file cannot be read.
    """
    requested = _mta_saslauthd_request.request(arguments)
    planned = _joined(_resources(minion, requested))
    queue = requested.queue_directory
    if queue != _mta_postfix_view.QUEUE and not _mta_system.is_directory(queue):
        # The socket's directory in it would make it, and what waits in the present queue would stay there.
        planned.errors.append(
            f"queue_directory = {queue}: make that directory, and move what is in the present queue"
        )
    if planned.changes and not _mta_system.exists(PROGRAM):
        planned.notes.append("sasl2-bin is not installed: what it sets by itself is not known before it is there")
    return planned


def apply(minion: Minion, **arguments: Any) -> None:
    """
    Make what :func:`plan` tells true, through the transaction that is open.

    Raises as :func:`plan` does, and ``CommandExecutionError`` when something cannot be changed.
    """
    requested = _mta_saslauthd_request.request(arguments)
    _mta_transaction.begin(minion)
    resources = _resources(minion, requested)
    if not _mta_system.exists(PROGRAM):
        raise CommandExecutionError(f"{PROGRAM} is missing: install the package sasl2-bin first")
    # First, so that a run that is killed in between is made up for.
    _mta_transaction.need(minion, _joined(resources).activate)
    for command in [command for resource in resources for command in resource.commands]:
        _mta_transaction.command(minion, *command)
    for directory in [directory for resource in resources for directory in resource.directories]:
        group, mode = _mta_saslauthd_files.GROUP, requested.directory_mode
        _mta_transaction.directory(minion, directory, "root", group, mode, RUNTIME)
    for resource in resources:
        for path, text in resource.files.items():
            _write(minion, path, text, path in resource.secret)
    restored = [item for resource in resources for item in resource.restored]
    if restored:
        _mta_restore.restore(minion, restored)


def _write(minion: Minion, path: str, text: str, secret: bool) -> None:
    if not _mta_system.is_directory(os.path.dirname(path)):
        _mta_transaction.directory(minion, os.path.dirname(path))
    owner = ("root", "root", "0600") if secret else ()
    _mta_transaction.write(minion, path, text.encode(errors="surrogateescape"), *owner)


# -- without saslauthd -------------------------------------------------------------------------


def absent_plan(minion: Minion) -> Plan:
    """Tell what :func:`absent_apply` would change. Reads files only."""
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


def absent_apply(minion: Minion) -> None:
    """
    Stop the daemon and keep it from starting at boot, and put back what was there before it was managed, through
    the transaction that is open.

    Raises ``CommandExecutionError`` when something cannot be changed.
    """
    _mta_transaction.begin(minion)
    planned = absent_plan(minion)
    _mta_transaction.need(minion, planned.activate)
    _mta_restore.restore(minion, list(planned.changes))
