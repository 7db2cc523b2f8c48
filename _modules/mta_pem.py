"""
Files with keys and certificates: where they come from, who may read them, and how they are written.

What is decided about a path that is not simply a file of root's:

- A symbolic link is followed when root made it and it leads to a regular file, as certbot's ``live`` directory
  does; the link stays. Anybody else's is an error, and so is one that leads nowhere.
- What is no regular file is an error.
- A private key is to be read by root alone; a server's key by Debian's group ``ssl-cert`` too.
"""

import collections
import grp
import os
import stat
import tempfile

from salt.exceptions import CommandExecutionError, SaltInvocationError

LONGEST = 65535  # bytes of PEM text in pillar: a chain of many RSA 8192 certificates

File = collections.namedtuple("File", "data mode uid gid")


def _trusted(uid):
    return uid in (0, os.geteuid())


def read(path, **job):
    """
    Read the regular file at a path, through a link that root made.

    For states and other modules: as a job it is refused.

    path
        Absolute path.

    Returns ``None`` when nothing is there, else a named tuple: ``data`` (bytes), ``mode``, ``uid``, ``gid``.

    Raises ``SaltInvocationError`` when the path is not absolute, ``CommandExecutionError`` for what is no regular
    file, a link that is not followed, or a file that cannot be read.
    """
    __salt__["mta_state.refuse_job"]("mta_pem.read", job)
    if not isinstance(path, str) or not os.path.isabs(path):
        raise SaltInvocationError(f"An absolute path is needed, not {path!r}")
    try:
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            if not _trusted(status.st_uid):
                raise CommandExecutionError(
                    f"{path} is a symbolic link of user {status.st_uid}, and only root's are followed"
                )
            if not os.path.exists(path):
                raise CommandExecutionError(
                    f"{path} is a symbolic link to {os.readlink(path)}, which is not there"
                )
            status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise CommandExecutionError(f"{path} is not a regular file. Move it away")
        with open(path, "rb") as handle:
            return File(handle.read(), stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
    except FileNotFoundError:
        return None
    except OSError as err:
        raise CommandExecutionError(f"Cannot read {path}: {err.strerror}") from err


def wrong_access(path, file, kind):
    """
    Tell who else can get at a file.

    path, file
        Absolute path, and what :func:`read` returned for it.

    kind
        ``key`` (root alone reads it), ``server key`` (and the group ``ssl-cert``), ``certificate`` (all may read
        it, root alone writes it).

    Returns ``None`` when all is well, else a text such as ``can be read by others (mode 0644)``.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_cert.verify /etc/ssl/certs/smtpd.crt key=/etc/ssl/private/smtpd.key
    """
    if not _trusted(file.uid):
        return f"belongs to user {file.uid}, not to root"
    if kind == "certificate":
        return f"can be written by others (mode {file.mode:04o})" if file.mode & 0o022 else None
    allowed = 0o640 if kind == "server key" and _group(file.gid) == "ssl-cert" else 0o600
    return f"can be read by others (mode {file.mode:04o})" if file.mode & 0o177 & ~allowed else None


def _group(gid):
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return None


def source(where, private=False, **job):
    """
    Return PEM text from where an administrator keeps it.

    For states and other modules: as a job it is refused.

    where
        Absolute path of a file, or the pillar path of the text, or of an ``sdb://`` URI that leads to it.

    private
        It is a private key: a file that others can read is refused.

    Returns bytes. Raises ``CommandExecutionError`` when nothing is there, or others can read a key.
    """
    __salt__["mta_state.refuse_job"]("mta_pem.source", job)
    if not where.startswith("/"):
        text = __salt__["mta_secret.get"](where, longest=LONGEST)
        if text is None:
            raise CommandExecutionError(f"Pillar {where} is not there")
        return text.encode()
    file = read(where)
    if file is None:
        raise CommandExecutionError(f"{where} is not there")
    wrong = private and wrong_access(where, file, "server key")
    if wrong:
        raise CommandExecutionError(f"{where} {wrong}: chown root and chmod 600, and think of a new key")
    return file.data


def refuse_existing(*paths):
    """
    Raise ``CommandExecutionError`` when something is at one of the paths.

    paths
        Absolute paths.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_pem.refuse_existing /etc/ssl/certs/smtpd.crt
    """
    for path in paths:
        if read(path) is not None:
            raise CommandExecutionError(f"{path} is there already and is not overwritten")


def create(path, data, mode, **job):
    """
    Create a file that must not exist, with its mode from the first moment, outside of any transaction.

    For states and other modules: as a job it is refused.

    path
        Absolute path.

    data
        Bytes.

    mode
        A number, such as ``0o600``.

    Raises ``CommandExecutionError`` when something is there, or the file cannot be written.
    """
    __salt__["mta_state.refuse_job"]("mta_pem.create", job)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        try:
            with open(descriptor, "wb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
        except BaseException:
            os.unlink(path)
            raise
    except FileExistsError as err:
        raise CommandExecutionError(f"{path} is there already and is not overwritten") from err
    except OSError as err:
        raise CommandExecutionError(f"Cannot create {path}: {err.strerror}") from err


def write(files, halted=False, protect=None, **job):
    """
    Write files that belong together, as part of the transaction; missing directories are made.

    For states and other modules: as a job it is refused.

    Before the first of them is replaced it is tried whether there is room for all of them, and for the old ones
    should they have to come back: a full disk or a read-only file system changes nothing.

    files
        Absolute path to bytes. What holds a private key becomes root's with mode 0600, all else 0644.

    halted
        Whether Postfix is stopped meanwhile, as it must not see one of them without the others. Default ``False``.

    protect
        Path to the stores that forget its former content, as for ``mta_transaction.write``. Default: none.

    Raises ``CommandExecutionError`` when a file cannot be written.
    """
    __salt__["mta_state.refuse_job"]("mta_pem.write", job)
    needed = {}
    for path, data in files.items():
        directory = os.path.dirname(os.path.realpath(path))
        needed[directory] = needed.get(directory, 0) + 2 * max(len(data), 4096)
    for directory, size in needed.items():
        if os.path.isdir(directory):
            _try_to_write(directory, size)
    ran = halted and __salt__["mta_transaction.halt"]()
    for path, data in files.items():
        private = b"PRIVATE KEY-----" in data
        parent = os.path.dirname(path)
        if not os.path.isdir(parent):
            __salt__["mta_transaction.directory"](parent, mode="0700" if private else "0755")
        __salt__["mta_transaction.write"](
            path,
            data,
            user="root",
            group="root",
            mode="0600" if private else "0644",
            activate={"postfix": "reload"},
            protect=(protect or {}).get(path, ()),
        )
    if ran:
        __salt__["mta_service.start"]("postfix")


def _try_to_write(directory, size):
    """Raise unless ``size`` more bytes fit into the directory."""
    try:
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".postfix_mta.") as handle:
            os.posix_fallocate(handle.fileno(), 0, size)
    except OSError as err:
        raise CommandExecutionError(
            f"Cannot write in {directory}: {err.strerror}. Nothing in it has been replaced"
        ) from err
