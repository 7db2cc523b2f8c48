"""What the firewalls' backends share: their files are replaced, their programs are run."""

from __future__ import annotations

import os
from collections.abc import Sequence

from salt.exceptions import CommandExecutionError

import _mta_system

# Without these, which may be patterns of glob(7), the backends are not in force.
UFW = "/usr/sbin/ufw"
FIREWALLD = "/usr/sbin/firewalld"
NFTABLES_AT_BOOT = "/etc/systemd/system/*.wants/nftables.service"


def replace(path: str, text: str | None) -> None:
    """
    Replace the contents of a firewall's file at once, keeping its owner and mode; ``None`` removes it.

    A symbolic link stays one. A new file is root's, 0644. Raises ``CommandExecutionError`` when it cannot be
    written; the old file is then still there.
    """
    path = os.path.realpath(path)
    if text is None:
        _mta_system.remove(path)
    else:
        _mta_system.replace(path, text)


def run(command: Sequence[str], stdin: str | None = None) -> str:
    """
    Run a firewall's program and return what it printed.

    Raises ``CommandExecutionError`` when there is no such program, and with its own words when it fails.
    """
    if not _mta_system.find_program(command[0]):
        raise CommandExecutionError(
            f"{command[0]} is not installed: install the firewall that it belongs to, or set the backend to none"
        )
    return _mta_system.run(command, stdin=stdin).text
