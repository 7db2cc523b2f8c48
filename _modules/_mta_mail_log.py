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


FACILITIES = {"auth": 4, "authpriv": 10, "cron": 9, "daemon": 3, "ftp": 11, "lpr": 6, "mail": 2, "news": 7}
FACILITIES.update({"syslog": 5, "user": 1, "uucp": 8}, **{f"local{number}": 16 + number for number in range(8)})


def lines(since: float, file: str = "", facility: str = "mail") -> list[str]:
    """
    Return what Postfix's programs have logged, oldest first, without time, host and program.

    since
        Unix time of the first line. A file's lines are not told by it: they are its last ones, unless nobody has
        written to it since then, as where Postfix's lines go elsewhere.

    file
        Path of ``maillog_file``, where Postfix writes it itself. Empty: it does not.

    facility
        As ``syslog_facility`` says.

    Empty, where there is no log that can be read within two seconds.
    """
    if not file and os.path.isdir(JOURNAL):
        argv = [
            "journalctl",
            "--quiet",
            "--no-pager",
            "--output=cat",
            f"SYSLOG_FACILITY={FACILITIES.get(facility, 2)}",
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
                status = os.fstat(handle.fileno())
                if status.st_mtime < since - 1:
                    continue
                handle.seek(max(0, status.st_size - TAIL))
                text = handle.read().decode(errors="replace")
        except OSError:
            continue
        return [re.sub(PREFIX, "", line) for line in text.splitlines()]
    return []
