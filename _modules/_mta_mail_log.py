"""The mail server's log on this host: the lines of a short while, wherever they are kept."""

from __future__ import annotations

import os
import re

from salt.exceptions import CommandExecutionError

import _mta_system

JOURNAL = "/run/systemd/system"
FILES = ("/var/log/mail.log", "/var/log/maillog")
SECONDS = 2
# So much of a file's end is looked at, in bytes.
TAIL = 262_144
PREFIX = r"^.*? postfix[^ ]*\[\d+\]: "


def lines(since: float, file: str = "") -> list[str]:
    """
    Return what Postfix's programs have logged, oldest first, without time, host and program.

    since
        Unix time of the first line. A file's lines are not told by it: they are its last ones.

    file
        Path of ``maillog_file``, where Postfix writes it itself. Empty: it does not.

    Empty, where there is no log that can be read within two seconds.
    """
    if not file and os.path.isdir(JOURNAL):
        argv = [
            "journalctl",
            "--quiet",
            "--no-pager",
            "--output=cat",
            "SYSLOG_FACILITY=2",
            f"--since=@{int(since)}",
        ]
        try:
            found = _mta_system.run(argv, check=False, timeout=SECONDS).text.splitlines()
        except CommandExecutionError:
            found = []
        if found:
            return found
    for path in filter(None, (file, *FILES)):
        try:
            with open(path, "rb") as handle:
                handle.seek(max(0, os.fstat(handle.fileno()).st_size - TAIL))
                text = handle.read().decode(errors="replace")
        except OSError:
            continue
        return [re.sub(PREFIX, "", line) for line in text.splitlines()]
    return []
