"""TODO subject (mta_firewall)."""

import contextlib
import os
import shutil
import subprocess
import tempfile

from salt.exceptions import CommandExecutionError


def read(path):
    """
    Return the contents of a firewall's file, ``None`` when there is none.

    path (str)
        Absolute path. Bytes that are not UTF-8 become surrogates (``surrogateescape``).

    Raises ``CommandExecutionError`` when it is there and cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return file.read().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CommandExecutionError(f"{path} cannot be read: {error.strerror or error}") from error


def replace(path, text):
    """
    Replace the contents of a firewall's file at once, keeping its owner and mode; ``None`` removes it.

    path (str)
        Absolute path. A symbolic link stays one. A new file is root's, 0644.

    text (str)
        The contents; bytes that are not UTF-8 are surrogates (``surrogateescape``).

    Raises ``CommandExecutionError`` when it cannot be written; the old file is then still there.
    """
    path = os.path.realpath(path)
    temporary = None
    try:
        if text is None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return
        descriptor, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", dir=os.path.dirname(path))
        with open(descriptor, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            os.fchmod(file.fileno(), 0o644)
            with contextlib.suppress(FileNotFoundError):
                old = os.stat(path)
                os.fchown(file.fileno(), old.st_uid, old.st_gid)
                os.fchmod(file.fileno(), old.st_mode & 0o7777)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise CommandExecutionError(f"{path} cannot be written: {error.strerror or error}") from error


def run(argv, stdin=""):
    """
    Run a firewall's program and return what it printed. The search path of a daemon may lack sbin.

    argv (list of str)
        The program and its arguments.

    stdin (str, default empty)
        Its standard input.

    Raises ``CommandExecutionError`` when there is no such program, and with its own words when it fails.
    """
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    program = shutil.which(argv[0], path=path)
    if not program:
        raise CommandExecutionError(
            f"{argv[0]} is not installed: install the firewall that it belongs to, or set the backend to none"
        )
    done = subprocess.run(
        [program, *argv[1:]],
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        env={**os.environ, "LC_ALL": "C", "PATH": path},
        check=False,
    )
    if done.returncode != 0:
        words = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise CommandExecutionError(f"{' '.join(argv)} failed: " + "\n".join(words))
    return done.stdout
