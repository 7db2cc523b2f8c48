"""
The operating system, as the formula uses it: files, programs, the state directory, lines of Postfix's files.

Nothing here knows Salt but for its exceptions: what cannot be done raises ``CommandExecutionError`` with a message
for users (and the ``OSError`` as its cause); what is not there is ``None``.
"""

from __future__ import annotations

import contextlib
import datetime
import grp
import json
import math
import os
import pwd
import secrets
import select
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Any, Callable, Union

from salt.exceptions import CommandExecutionError

from _mta_records import NamedTuple

Path = Union[str, "os.PathLike[str]"]

STATE_DIRECTORY = "/var/lib/postfix_mta"
# services(5).
SERVICES = "/etc/services"
# As in the C locale's isspace(3), which Postfix uses.
BLANKS = " \t\n\v\f\r"
# Those of /proc/PID/ go while they are read.
ABSENT = (FileNotFoundError, NotADirectoryError, ProcessLookupError)


def _failure(what: str, path: Path, error: OSError) -> CommandExecutionError:
    return CommandExecutionError(f"Cannot {what} {os.fspath(path)}: {error.strerror or error}")


# -- what changes the host ---------------------------------------------------------------------


class Host:
    """
    The operations by which a transaction, its undo, its commit and its recovery change the host: no others do.

    Each is done or not done when it returns, but safe from a power loss only after :meth:`sync`. Each raises
    ``OSError``. Services are acted on by :py:mod:`_mta_services`. A test puts another one in the place of
    :data:`host`, which counts operations, and has them fail or be the last.
    """

    def draft(
        self,
        path: Path,
        data: bytes = b"",
        uid: int = -1,
        gid: int = -1,
        mode: int = 0o600,
        attributes: Mapping[str, bytes] | None = None,
        times: tuple[int, int] | None = None,
    ) -> None:
        """
        Make a file that is not there yet; it is private until all of it is as asked.

        uid, gid
            -1: that of this process.

        attributes
            Extended attributes: access control lists, labels. One that the file system refuses is left out.

        times
            Access and modification time in nanoseconds. Default: now.
        """
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "wb") as handle:
            os.fchown(descriptor, uid, gid)
            for name, value in (attributes or {}).items():
                with contextlib.suppress(OSError):
                    os.setxattr(descriptor, name, value)
            # After an access control list, whose mask it sets: 0600 stays 0600.
            os.fchmod(descriptor, mode)
            handle.write(data)
            handle.flush()
            if times is not None:
                os.utime(descriptor, ns=times)

    def append(self, path: Path, data: bytes) -> None:
        """Write at the end of a file that is there."""
        with open(path, "ab") as handle:
            handle.write(data)

    def sync(self, path: Path) -> None:
        """Make a file, or the names in a directory, safe from a power loss."""
        descriptor = os.open(path or ".", os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def link(self, path: Path, name: Path) -> None:
        """Give a file a second name; a symbolic link is not followed."""
        os.link(path, name, follow_symlinks=False)

    def symlink(self, target: str, path: Path) -> None:
        """Make a symbolic link."""
        os.symlink(target, path)

    def rename(self, path: Path, name: Path) -> None:
        """Give a file or directory another name, in place of a file that has it."""
        os.replace(path, name)

    def unlink(self, path: Path) -> None:
        """Remove a file."""
        os.unlink(path)

    def mkdir(self, path: Path, mode: int = 0o700) -> None:
        """Make a directory."""
        os.mkdir(path, mode)

    def rmdir(self, path: Path) -> None:
        """Remove an empty directory."""
        os.rmdir(path)

    def chown(self, path: Path, uid: int, gid: int) -> None:
        """Give a directory another owner and group."""
        os.chown(path, uid, gid)

    def chmod(self, path: Path, mode: int) -> None:
        """Give a directory another mode."""
        os.chmod(path, mode)

    def run(self, command: Sequence[str], check: bool = True) -> Finished:
        """Run a command, as :func:`run` does."""
        return run(command, check=check)


host = Host()


# -- what was looked at ------------------------------------------------------------------------


class Looks:
    """
    What of the host has been looked at.

    files
        Path to its :func:`version` at the first look.

    more
        Whether something else was looked at, too: a program's output, the network, what Salt knows.

    since, until
        Unix times between which what was found out holds.

    began
        When the first look was taken, in nanoseconds of Unix time.
    """

    def __init__(self) -> None:
        self.began = time.time_ns()
        self.files: dict[str, Any] = {}
        self.more = False
        self.since, self.until = 0.0, math.inf

    def last_change(self) -> int:
        """Return when a file last changed, in nanoseconds of Unix time; 0 where none was looked at."""
        versions = [facts for version in self.files.values() for facts in version or []]
        return max((facts[-1] for facts in versions if len(facts) > OF_DIRECTORY), default=0)


# Those that are noted now: one context may be in another, or in another thread.
_watches: list[Looks] = []
# How many facts a :func:`version` has of a directory, which are all of it; those of a file say how old it is, too.
OF_DIRECTORY = 5


@contextlib.contextmanager
def watched() -> Iterator[Looks]:
    """
    A context that notes what is looked at by functions of this file, in whatever thread.

    Where there are several at a time, each notes what is looked at for another, too: that is more, not less.
    """
    looks = Looks()
    _watches.append(looks)
    try:
        yield looks
    finally:
        _watches[:] = [other for other in _watches if other is not looks]


def look_elsewhere() -> None:
    """Note that something is looked at that is no file."""
    for looks in tuple(_watches):
        looks.more = True


def found_for(since: float, until: float) -> None:
    """Note that what is found out holds between two Unix times only."""
    for looks in tuple(_watches):
        looks.since, looks.until = max(since, looks.since), min(until, looks.until)


def look(path: Path) -> None:
    """Note that a file is looked at, before it is."""
    for looks in tuple(_watches):
        name = os.fspath(path)
        if name not in looks.files:
            looks.files[name] = version(name)


def version(path: str) -> list[list[int]] | None:
    """
    Tell a file from its next version, and from every other one: what JSON can hold; ``None`` when there is none.

    path
        With a slash at its end it means the names in a directory; without one, a directory's own owner and mode.

    Of a symbolic link the target counts, too. Each list of numbers of a file ends with the time of its last change
    in nanoseconds, which nobody can set.
    """
    found = []
    # A name that no file can have has none.
    with contextlib.suppress(OSError, ValueError):
        status = os.lstat(path)
        found.append(_facts(path, status))
        if stat.S_ISLNK(status.st_mode):
            found.append(_facts(path, os.stat(path)))
    return found or None


def _facts(path: str, status: os.stat_result) -> list[int]:
    facts = [status.st_dev, status.st_ino, status.st_mode, status.st_uid, status.st_gid]
    if stat.S_ISDIR(status.st_mode) and path[-1] != "/":
        return facts
    return [*facts, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def exists(path: Path) -> bool:
    """Tell whether there is something at a path; a symbolic link counts as what it leads to."""
    look(path)
    return os.path.exists(path)


def is_directory(path: Path) -> bool:
    """Tell whether there is a directory at a path, or a symbolic link to one."""
    look(path)
    return os.path.isdir(path)


def status(path: Path) -> os.stat_result:
    """Return the status of what is at a path; a symbolic link is followed. Raises ``OSError``."""
    look(path)
    return os.stat(path)


def real_path(path: Path) -> str:
    """Return the path to which symbolic links lead."""
    look(path)
    return os.path.realpath(path)


def names(directory: Path) -> list[str]:
    """Return the names in a directory, in any order. Raises ``OSError``."""
    look(f"{os.fspath(directory)}/")
    return os.listdir(directory)


def user_name(uid: int) -> str:
    """Return a user's name; the number where it has none."""
    look("/etc/passwd")
    return _name(pwd.getpwuid, uid)


def group_name(gid: int) -> str:
    """Return a group's name; the number where it has none."""
    look("/etc/group")
    return _name(grp.getgrgid, gid)


def _name(look_up: Callable[[int], Sequence[Any]], number: int) -> str:
    try:
        return str(look_up(number)[0])
    except KeyError:
        return str(number)


# -- files -------------------------------------------------------------------------------------


def read_bytes(path: Path) -> bytes | None:
    """Return what is in a file; ``None`` when there is none. Raises ``CommandExecutionError``."""
    look(path)
    try:
        with open(path, "rb") as handle:
            return handle.read()
    except ABSENT:
        return None
    except OSError as error:
        raise _failure("read", path, error) from error


def read(path: Path) -> str | None:
    """
    Return the text of a file, line ends as they are; ``None`` when there is none.

    Bytes that are not UTF-8 become surrogates (``surrogateescape``), and bytes again where text is written here.
    Raises ``CommandExecutionError``.
    """
    contents = read_bytes(path)
    return None if contents is None else contents.decode("utf-8", "surrogateescape")


def text_of(path: Path) -> str:
    """Return the text of a file as :func:`read` does; empty where there is none, and where it cannot be read."""
    try:
        return read(path) or ""
    except CommandExecutionError:
        return ""


def replace(
    path: Path,
    contents: str | bytes,
    *,
    mode: int | None = None,
    uid: int | None = None,
    gid: int | None = None,
    times: tuple[int, int] | None = None,
) -> None:
    """
    Replace a file atomically, or create it: a reader sees the old or the new one whole, also after a power loss.

    contents
        Text is written as UTF-8, with the bytes that :func:`read` could not decode.

    mode, uid, gid
        Default: those of the file that is there; else 0644, and those of this process. Extended attributes and
        access control lists of the file that is there are kept.

    times
        Access and modification time in nanoseconds. Default: now.

    A symbolic link is replaced, not what it points to. Raises ``CommandExecutionError``.
    """
    path = os.fspath(path)
    try:
        with contextlib.suppress(*ABSENT):
            old = os.lstat(path)
            if stat.S_ISREG(old.st_mode):
                mode = stat.S_IMODE(old.st_mode) if mode is None else mode
                uid = old.st_uid if uid is None else uid
                gid = old.st_gid if gid is None else gid
        uid, gid = (-1 if number is None else number for number in (uid, gid))
        switch(path, contents, uid, gid, 0o644 if mode is None else mode, times)
    except OSError as error:
        raise _failure("write", path, error) from error


def switch(
    path: Path,
    contents: str | bytes,
    uid: int,
    gid: int,
    mode: int,
    times: tuple[int, int] | None = None,
    draft: Path | None = None,
    like: Path | None = None,
) -> None:
    """
    Replace a file as :func:`replace` does, for a caller that has something to do when it fails.

    uid, gid
        -1: that of this process.

    draft
        A name beside it for the new one until it is complete. Default: one that nobody has.

    like
        The file whose extended attributes and access control lists it gets. Default: the one that is replaced.

    Raises ``OSError``.
    """
    data = contents.encode("utf-8", "surrogateescape") if isinstance(contents, str) else contents
    directory, name = os.path.split(path)
    draft = draft or os.path.join(directory, f".{name}.{secrets.token_hex(4)}")
    try:
        host.draft(draft, data, uid, gid, mode, attributes(path if like is None else like), times)
        host.sync(draft)
        host.rename(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            host.unlink(draft)
        raise
    host.sync(directory)


def attributes(path: Path) -> dict[str, bytes]:
    """Return the extended attributes of a file, as far as they can be read; none where there is none."""
    found = {}
    with contextlib.suppress(OSError):
        for name in os.listxattr(path, follow_symlinks=False):
            with contextlib.suppress(OSError):
                found[name] = os.getxattr(path, name, follow_symlinks=False)
    return found


def clear(path: Path) -> None:
    """Remove a file, or a directory with all that is in it; what is not there is no error. Raises ``OSError``."""
    if os.path.isdir(path) and not os.path.islink(path):
        for name in os.listdir(path):
            clear(os.path.join(path, name))
        host.rmdir(path)
    elif os.path.lexists(path):
        host.unlink(path)


def remove(path: Path) -> bool:
    """
    Remove a file; a power loss does not bring it back. Return whether there was one.

    Raises ``CommandExecutionError``.
    """
    path = os.fspath(path)
    try:
        try:
            host.unlink(path)
        except ABSENT:
            return False
        host.sync(os.path.dirname(path))
    except OSError as error:
        raise _failure("remove", path, error) from error
    return True


def owner_and_mode(path: Path) -> str:
    """Return ``user:group mode`` of what is at a path, with names where there are any. Raises ``OSError``."""
    found = status(path)
    return f"{user_name(found.st_uid)}:{group_name(found.st_gid)} {stat.S_IMODE(found.st_mode):04o}"


# -- what has to outlive a process -------------------------------------------------------------


class StateDirectory:
    """
    Small facts that have to outlive a process, each a JSON file that only root can read.

    path
        The minion option ``mta_state_dir``. ``None``: ``/var/lib/postfix_mta``.
    """

    def __init__(self, path: str | None = None) -> None:
        self._path = path or STATE_DIRECTORY

    def path(self, name: str = "") -> str:
        """Return the absolute path of a file in the directory; default: that of the directory."""
        return os.path.join(self._path, name) if name else self._path

    def read(self, name: str) -> dict[str, Any]:
        """Return what was written under a name; an empty dictionary when nothing was, or it cannot be read."""
        try:
            data = json.loads(read_bytes(self.path(name)) or b"")
        except (CommandExecutionError, ValueError):
            return {}
        return data if isinstance(data, dict) else {}

    def write(self, name: str, data: Mapping[str, Any]) -> None:
        """Write what JSON can hold under a name, in place of what was there. Raises ``CommandExecutionError``."""
        path = self.path(name)
        try:
            # Each by itself: the mode is that of the last directory.
            os.makedirs(self._path, mode=0o700, exist_ok=True)
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        except OSError as error:
            raise _failure("write", path, error) from error
        replace(path, json.dumps(data), mode=0o600)

    def forget(self, name: str) -> None:
        """Remove what was written under a name, if that can be done."""
        with contextlib.suppress(CommandExecutionError):
            remove(self.path(name))


# -- programs ----------------------------------------------------------------------------------


class Finished(NamedTuple):
    """What became of a program: its exit code, and what it wrote to standard output and standard error."""

    code: int
    output: bytes
    errors: bytes

    @property
    def text(self) -> str:
        """The output as text; bytes that are not UTF-8 are surrogates."""
        return self.output.decode("utf-8", "surrogateescape")

    @property
    def message(self) -> str:
        """What it said, for a message to users: standard error, or else the output."""
        return (self.errors.strip() or self.output.strip()).decode("utf-8", "replace")


def search_path() -> str:
    """Return the PATH of programs; that of a daemon may lack sbin."""
    return os.pathsep.join(filter(None, [os.environ.get("PATH"), "/usr/sbin:/usr/bin:/sbin:/bin"]))


def find_program(name: str) -> str | None:
    """Return the path of a program; ``None`` when it is not installed."""
    path = search_path()
    found = shutil.which(name, path=path)
    for directory in path.split(os.pathsep) if _watches else []:
        candidate = os.path.join(directory, name)
        look(candidate)
        if candidate == found:
            break
    return found


def run(
    command: Sequence[str],
    *,
    stdin: str | bytes | None = None,
    environment: Mapping[str, str] | None = None,
    timeout: float | None = 60,
    check: bool = True,
) -> Finished:
    """
    Run a program without a shell, in the C locale and the root directory, to its end.

    Daemons that it starts may keep its output open: it goes to memory, not to pipes, which would not end before
    they do.

    command
        The program and its arguments, none of them secret.

    stdin
        Its standard input, text as UTF-8. Default: nothing.

    environment
        Further variables; without them it gets PATH and LC_ALL only.

    timeout
        Seconds, after which it is killed with all that it started. ``None``: it may take as long as it likes.

    check
        Whether an exit code other than 0 is an error. Default: yes.

    Raises ``CommandExecutionError``, with what the program said.
    """
    look_elsewhere()
    data = stdin.encode("utf-8", "surrogateescape") if isinstance(stdin, str) else stdin or b""
    name = shlex.join(command)
    with contextlib.ExitStack() as held:
        given, output, errors = (held.enter_context(_in_memory(what)) for what in ("input", "output", "errors"))
        given.write(data)
        given.seek(0)
        try:
            process = subprocess.Popen(
                [word.encode("utf-8", "surrogateescape") for word in command],
                stdin=given,
                stdout=output,
                stderr=errors,
                env={**(environment or {}), "LC_ALL": "C", "PATH": search_path()},
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise CommandExecutionError(f"Cannot run '{command[0]}': {error.strerror}") from error
        try:
            _until_it_ends(process, timeout)
        except BaseException as error:
            # `postfix check` is a tree of shell scripts.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise CommandExecutionError(f"'{name}' did not end within {timeout} seconds") from None
            raise
        output.seek(0)
        errors.seek(0)
        done = Finished(process.returncode, output.read(), errors.read())
    if check and done.code:
        raise CommandExecutionError(f"'{name}' failed with exit code {done.code}: {done.message}")
    return done


def _in_memory(what: str) -> IO[bytes]:
    """A file without a name, in memory."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create(what), "w+b")
    # The Python of Salt's own packages is built for a C library without it.
    return tempfile.TemporaryFile(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)


def _until_it_ends(process: subprocess.Popen[bytes], timeout: float | None) -> None:
    """
    Wait for a program; ``subprocess.TimeoutExpired`` is raised after some seconds.

    With a timeout Python would look again and again, every 50 milliseconds in the end.
    """
    with contextlib.suppress(OSError, AttributeError):  # before Linux 5.3, and where Python was built for that
        descriptor = os.pidfd_open(process.pid)
        try:
            ended = select.poll()
            ended.register(descriptor, select.POLLIN)
            timeout = None if ended.poll(None if timeout is None else timeout * 1000) else 0
        finally:
            os.close(descriptor)
    process.wait(timeout)


# -- Postfix's files ---------------------------------------------------------------------------


def logical_lines(text: str, blanks: str = BLANKS) -> list[tuple[str, list[int]]]:
    """
    Join the physical lines of a Postfix file (main.cf, master.cf, a table, aliases) as readlline(3) does.

    A line that begins with a blank continues the one before it, also across comments and empty lines; where there
    is none it is a logical line of its own, which begins with a blank. Return each with the indexes of its lines.
    """
    found: list[tuple[str, list[int]]] = []
    for index, line in enumerate(text.split("\n")):
        first = line[:1]
        if first == "#" or not first:
            continue
        if first not in blanks:
            found.append((line, [index]))
            continue
        content = line.strip(blanks)
        if not content or content[0] == "#":
            continue
        if found:
            joined, indexes = found[-1]
            indexes.append(index)
            found[-1] = (joined + line, indexes)
        else:
            found.append((line, [index]))
    return found


# -- other -------------------------------------------------------------------------------------


def nearest(name: str, names: Iterable[str], similarity: float = 0.6) -> str | None:
    """Return the one of ``names`` of which ``name`` is probably a misspelling; ``None`` when none is similar."""
    import difflib  # only mistakes need it

    return next(iter(difflib.get_close_matches(name, list(names), 1, similarity)), None)


def now() -> datetime.datetime:
    """Return the time, in UTC."""
    return datetime.datetime.now(datetime.timezone.utc)


def listens(path: Path) -> bool:
    """Tell whether somebody listens at a socket in the file system."""
    with socket.socket(socket.AF_UNIX) as sock:
        # It may have more clients waiting than it takes.
        sock.settimeout(1)
        try:
            sock.connect(os.fspath(path))
        except (BlockingIOError, socket.timeout):
            return True
        except OSError:
            return False
    return True


def port(name: str) -> int | None:
    """Return the number of a TCP port, given in digits or by its name in services(5); ``None``: no such name."""
    if name.isdigit():
        return int(name)
    look(SERVICES)
    try:
        return socket.getservbyname(name, "tcp")
    except OSError:
        return None
