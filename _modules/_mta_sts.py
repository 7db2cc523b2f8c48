"""
MTA-STS of other domains (RFC 8461): Debian's resolver of policies as a daemon of the formula's own.

It has its own configuration and unit, beside a ``postfix-mta-sts-resolver`` that the administrator may run. Its
socket is in a directory of Postfix's queue that only root, its own user and the group ``postfix`` can enter. What
it runs is ``postfix_mta/files/mta-sts.py``, by which DANE goes first.
"""

from __future__ import annotations

import os

from salt.exceptions import CommandExecutionError

import _mta_postfix_view
import _mta_restore
import _mta_services
import _mta_system
import _mta_transaction
from _mta_minion import Minion
from _mta_pillar_schema import STS_SOCKET as SOCKET
from _mta_plan import Plan
from _mta_settings import STS_FILES as FOLDER

DAEMON = "/usr/bin/mta-sts-daemon"
USER = "_mta-sts"
SOURCE = "salt://postfix_mta/files/mta-sts.py"
PROGRAM = f"{FOLDER}/daemon.py"
CONF = f"{FOLDER}/daemon.yml"
UNIT = f"{_mta_services.LOCAL_UNITS}/{_mta_services.STS}.service"
SUBJECT = "mta_sts"

# As mta-sts-daemon.yml(5) has it, but for the socket, a cache that a restart does not empty, and a short wait for
# clients that keep their connection, as Postfix does.
CONF_TEXT = """\
# Made by the Salt formula postfix_mta; changes of this file are undone.
path: {socket}
mode: 0666
shutdown_timeout: 1
cache:
  type: sqlite
  options:
    filename: /var/cache/{service}/cache.db
"""
UNIT_TEXT = """\
# Made by the Salt formula postfix_mta; changes of this file are undone.
[Unit]
Description=MTA-STS policies for Postfix
RequiresMountsFor={queue}
Before=postfix.service postfix@-.service

[Service]
Type=notify
User={user}
RuntimeDirectory={service}
CacheDirectory={service}
CacheDirectoryMode=0700
NoNewPrivileges=true
PrivateTmp=true
ProtectHome=true
ExecStartPre=+/usr/bin/install -d -o {user} -g postfix -m 0750 {directory}
ExecStart=/usr/bin/python3 {program} --config {conf} --verbosity warn
ExecStopPost=+/bin/rm -rf {directory}
Restart=always

[Install]
WantedBy=multi-user.target
"""


def _wanted(minion: Minion) -> dict[str, str]:
    """The files that there are to be, and their texts. Raises ``CommandExecutionError``."""
    path = minion.functions["cp.cache_file"](SOURCE, minion.saltenv)
    program = _mta_system.read(path) if path else None
    if program is None:
        raise CommandExecutionError(f"The file server has no {SOURCE}")
    queue, service = _mta_postfix_view.queue_directory(), _mta_services.STS
    socket = f"{queue}/{SOCKET}"
    unit = UNIT_TEXT.format(
        user=USER,
        service=service,
        queue=queue,
        directory=os.path.dirname(socket),
        program=PROGRAM,
        conf=CONF,
    )
    return {PROGRAM: program, CONF: CONF_TEXT.format(socket=socket, service=service), UNIT: unit}


def plan(minion: Minion) -> Plan:
    """
    Tell what :func:`apply` would change. Reads files only.

    Raises ``CommandExecutionError`` when a file cannot be read.
    """
    planned = Plan()
    if _mta_services.manager() != "systemd":
        planned.errors.append("dns:follow_mta_sts needs systemd, which does not run here")
    if _mta_services.masked(UNIT):
        planned.errors.append(f"{_mta_services.STS} is masked: systemctl unmask {_mta_services.STS}")
    for path, text in _wanted(minion).items():
        old = _mta_system.read(path)
        if old != text:
            planned.changes[path] = {"old": old and "another version", "new": "this formula's"}
            planned.activate[_mta_services.STS] = "restart"
    socket = f"{_mta_postfix_view.queue_directory()}/{SOCKET}"
    if not os.path.exists(socket):
        planned.changes["socket"] = {"old": None, "new": socket}
        planned.activate[_mta_services.STS] = "restart"
    return planned


def apply(minion: Minion) -> None:
    """
    Make what :func:`plan` tells true, through the transaction that is open.

    Raises as :func:`plan` does, and ``CommandExecutionError`` when the package is not installed.
    """
    if not os.path.exists(DAEMON):
        raise CommandExecutionError(f"{DAEMON} is missing: install the package postfix-mta-sts-resolver first")
    planned = plan(minion)
    # First, so that a run that is killed in between is made up for.
    _mta_transaction.need(minion, planned.activate)
    if not os.path.isdir(FOLDER):
        _mta_transaction.directory(minion, FOLDER)
    for path, text in _wanted(minion).items():
        if path in planned.changes:
            _mta_transaction.write(minion, path, text, "root", "root", "0644")


def absent_plan(minion: Minion) -> Plan:
    """Tell what :func:`absent_apply` would change. Reads files only."""
    return _mta_restore.absent_service(minion, SUBJECT, _mta_services.STS)


def absent_apply(minion: Minion) -> None:
    """Stop the daemon, and restore what was there before it, through the transaction that is open."""
    _mta_restore.remove_service(minion, SUBJECT, _mta_services.STS)
