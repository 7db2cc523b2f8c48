"""
A host below a directory on which every operation of a transaction is counted, may fail, and may be the last.

:class:`Host` takes the place of ``_mta_system.host``. It does everything for real, below its root, and keeps a
log of what each operation did to names and contents. :class:`Disk` makes of such a log what a power loss
leaves: of what was not synced, any part may be missing.
"""

import os
import re
import shlex
import stat

from salt.exceptions import CommandExecutionError

import _mta_system


class Died(BaseException):
    """The process is gone: nothing that would follow happens."""


class Fault:
    """
    What goes wrong, from the operation with a number on. By itself: nothing.

    error
        The number of an error; ``None``: the process dies before the operation.

    scope
        What goes on failing: ``all`` operations, or ``place``: those that have one of the same paths.
    """

    def __init__(self, number=None, error=None, scope="all"):
        self.number, self.error, self.scope = number, error, scope
        self.paths = None

    def __str__(self):
        if self.error is None:
            return "dies"
        again = "all else" if self.scope == "all" else "it again"
        return f"fails with {os.strerror(self.error)}, and so does {again}"

    def strikes(self, number, paths):
        """Whether the operation is hit."""
        if self.number is None or number < self.number:
            return False
        if number == self.number:
            self.paths = set(paths)
        return self.error is None or self.scope == "all" or bool(self.paths & set(paths))


class Host(_mta_system.Host):
    """
    root
        Everything is below it.

    apart
        Whether the state directory is on a file system of its own.

    recorded
        Whether there is a log of what is done, for :class:`Disk`.
    """

    def __init__(self, root, state, apart=False, fault=None, recorded=True):
        self.root, self.state, self.apart = str(root), str(state), apart
        self.fault = fault or Fault()
        self.dead = False
        self.history = []
        self.disk = Disk(self.root) if recorded else Unrecorded()

    def step(self, operation, *paths):
        """Count an operation, which has not been done yet."""
        paths = [os.fspath(path) for path in paths]
        if self.dead:
            raise Died
        self.history.append((operation, paths))
        self.disk.begins()
        if self.fault.strikes(len(self.history), paths):
            if self.fault.error is None:
                self.dead = True
                raise Died
            raise OSError(self.fault.error, os.strerror(self.fault.error))

    def draft(self, path, data=b"", uid=-1, gid=-1, mode=0o600, attributes=None, times=None):
        self.step("create", path)
        if os.path.lexists(path):
            raise FileExistsError(17, "File exists")
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        self.disk.named(path, self.disk.file())
        self.step("fill", path)
        with open(path, "wb") as handle:
            handle.write(data)
        os.chown(path, uid, gid)
        os.chmod(path, mode)
        self.disk.filled(path)

    def append(self, path, data):
        self.step("append", path)
        super().append(path, data)
        self.disk.filled(path)

    def sync(self, path):
        self.step("sync", path)
        os.lstat(path)
        self.disk.synced(path)

    def _same_file_system(self, path, name):
        inside = [os.fspath(one).startswith(f"{self.state}/") for one in (path, name)]
        if self.apart and inside[0] != inside[1]:
            raise OSError(18, "Invalid cross-device link")

    def link(self, path, name):
        self.step("link", path, name)
        self._same_file_system(path, name)
        super().link(path, name)
        self.disk.named(name, self.disk.inode(path))

    def symlink(self, target, path):
        self.step("symlink", path)
        super().symlink(target, path)
        self.disk.named(path, self.disk.new("link", target))

    def rename(self, path, name):
        self.step("rename", path, name)
        self._same_file_system(path, name)
        if os.path.lexists(name) and os.path.samefile(path, name):
            return  # as rename(2) does it
        super().rename(path, name)
        self.disk.renamed(path, name)

    def unlink(self, path):
        self.step("unlink", path)
        super().unlink(path)
        self.disk.named(path, None)

    def mkdir(self, path, mode=0o700):
        self.step("mkdir", path)
        super().mkdir(path, mode)
        self.disk.named(path, self.disk.new("directory", None, mode))

    def rmdir(self, path):
        self.step("rmdir", path)
        super().rmdir(path)
        self.disk.named(path, None)

    def chown(self, path, uid, gid):
        self.step("chown", path)
        super().chown(path, uid, gid)
        self.disk.rights(path)

    def chmod(self, path, mode):
        self.step("chmod", path)
        super().chmod(path, mode)
        self.disk.rights(path)

    def run(self, command, check=True):
        """Only ``sed -i s/OLD/NEW/ FILE``, and scripts of it; what they write is synced."""
        lines = [command]
        if command[0] == "/bin/sh":
            with open(command[1]) as script:
                lines = [shlex.split(line) for line in script]
        try:
            for _, _, edit, path in lines:
                self.step("run", path)
                _, old, new, _ = edit.split("/")
                with open(path) as handle:
                    text = re.sub(old, new, handle.read(), flags=re.MULTILINE)
                with open(path, "w") as handle:
                    handle.write(text)
                self.disk.filled(path)
                self.disk.synced(path)
        except OSError as err:
            if check:
                raise CommandExecutionError(str(err)) from err
            return _mta_system.Finished(1, b"", str(err).encode())
        return _mta_system.Finished(0, b"", b"")


class Unrecorded:
    """Takes no note of anything."""

    def __getattr__(self, name):
        return lambda *_: None


class Disk:
    """
    The files below a directory as they were, and what has been done to them since.

    log
        ``("name", [(directory, name, inode or None)])``, ``("data", inode, facts)``, ``("sync", inode)``.

    operations
        How long the log was when each operation began.
    """

    def __init__(self, root):
        self.root = root
        self.inodes = {}  # number to [kind, data or target, mode, uid, gid]; as it was first
        self.names = {}  # (directory, name) to inode, at this moment
        self.log = []
        self.operations = []
        self.base = 0
        if os.path.isdir(root):
            self.base = self._scan(root, {})
        self.first = dict(self.names)

    def _scan(self, path, seen):
        status = os.lstat(path)
        if status.st_ino in seen:
            return seen[status.st_ino]
        if stat.S_ISLNK(status.st_mode):
            number = self.new("link", os.readlink(path))
        elif stat.S_ISDIR(status.st_mode):
            number = self.new("directory", None)
            for name in os.listdir(path):
                self.names[number, name] = self._scan(os.path.join(path, name), seen)
        else:
            number = self.new("file", b"")
            self.inodes[number][1] = _read(path)
        self.inodes[number][2:] = [stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid]
        seen[status.st_ino] = number
        return number

    def begins(self):
        """Note that an operation begins."""
        self.operations.append(len(self.log))

    def new(self, kind, data, mode=0o600):
        number = len(self.inodes)
        self.inodes[number] = [kind, data, mode, os.geteuid(), os.getegid()]
        return number

    def file(self):
        return self.new("file", b"")

    def _place(self, path):
        """The directory and name of a path."""
        *parents, name = os.path.relpath(path, self.root).split(os.sep)
        directory = self.base
        for parent in parents:
            directory = self.names[directory, parent]
        return directory, name

    def inode(self, path):
        path = os.fspath(path)
        return self.base if path == self.root else self.names[self._place(path)]

    def named(self, path, number):
        self._log_names((*self._place(path), number))

    def renamed(self, path, name):
        self._log_names((*self._place(name), self.inode(path)), (*self._place(path), None))

    def _log_names(self, *changes):
        self.log.append(("name", changes))
        for directory, name, number in changes:
            self.names[directory, name] = number

    def filled(self, path):
        status = os.lstat(path)
        facts = {1: _read(path), 2: stat.S_IMODE(status.st_mode), 3: status.st_uid, 4: status.st_gid}
        self.log.append(("data", self.inode(path), facts))

    def rights(self, path):
        status = os.lstat(path)
        facts = {2: stat.S_IMODE(status.st_mode), 3: status.st_uid, 4: status.st_gid}
        self.log.append(("data", self.inode(path), facts))

    def synced(self, path):
        self.log.append(("sync", self.inode(path)))

    def pending(self, length):
        """Indexes of what the first ``length`` entries of the log have done, and nobody has synced."""
        found = []
        for index, (kind, what, *_) in enumerate(self.log[:length]):
            if kind == "sync":
                found = [one for one in found if not self._is_of(one, what)]
            else:
                found.append(index)
        return found

    def _is_of(self, index, number):
        """Whether an entry of the log is safe once an inode is synced."""
        kind, what, *_ = self.log[index]
        return what[0][0] == number if kind == "name" else what == number

    def told(self, index):
        """What an entry of the log has done, for people."""
        paths, left = {self.base: ""}, [*self.first.items(), *self._named_in_log()]
        while len(left) != len(left := [one for one in left if one[1] is not None and one[1] not in paths]):
            for (directory, name), number in left:
                if directory in paths:
                    paths.setdefault(number, f"{paths[directory]}/{name}")
        kind, what, *_ = self.log[index]
        if kind == "data":
            return f"what is in {paths[what][1:]}, its owner and mode"
        changes = [
            f"{paths[directory][1:]}/{name}".lstrip("/") + (" is gone" if number is None else " is there")
            for directory, name, number in what
        ]
        return "that " + ", and that ".join(changes)

    def _named_in_log(self):
        for kind, what, *_ in self.log:
            for directory, name, number in what if kind == "name" else ():
                yield (directory, name), number

    def after(self, length, lost=()):
        """What is there after the first ``length`` entries of the log, without those that are lost: a tree."""
        names, facts = dict(self.first), {}
        for index, (kind, what, *rest) in enumerate(self.log[:length]):
            if kind == "sync" or index in lost:
                continue
            if kind == "name":
                for directory, name, number in what:
                    names[directory, name] = number
            else:
                facts.setdefault(what, {}).update(rest[0])
        children = {}
        for (directory, name), number in names.items():
            if number is not None:
                children.setdefault(directory, []).append((name, number))
        tree = {}

        def walk(directory, prefix):
            for name, number in sorted(children.get(directory, ())):
                first = self.inodes[number]
                now = facts.get(number, {})
                kind, *rest = (now.get(index, first[index]) for index in range(5))
                tree[prefix + name] = (kind, *rest, number)
                if kind == "directory":
                    walk(number, f"{prefix}{name}/")

        walk(self.base, "")
        return tree


def _read(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, 1 << 20)
    finally:
        os.close(descriptor)


def put(tree, root):
    """Have nothing but a tree below a directory. What is so already is left alone."""
    os.makedirs(root, exist_ok=True)
    places = {}
    kept = _kept(tree, str(root), "", places, {})
    directories = []
    own = os.geteuid(), os.getegid()
    for name, (kind, data, mode, uid, gid, number) in tree.items():
        if name in kept:
            continue
        path = f"{root}/{name}"
        if number in places:
            os.link(places[number][0], path, follow_symlinks=False)
            continue
        if kind == "link":
            os.symlink(data, path)
        elif kind == "directory":
            os.mkdir(path, 0o700)
            directories.append((path, mode, uid, gid))
            continue
        else:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            os.write(descriptor, data)
            if (uid, gid) != own:
                os.fchown(descriptor, uid, gid)
            if mode != 0o600:
                os.fchmod(descriptor, mode)
            os.close(descriptor)
        places[number] = (path, None)
    for path, mode, uid, gid in reversed(directories):
        if (uid, gid) != own:
            os.chown(path, uid, gid)
        if mode != 0o700:
            os.chmod(path, mode)


def _kept(tree, folder, prefix, places, numbers):
    """
    Remove what is below a directory and not as in a tree; the names of what stays.

    places: where each file of the tree is, number to path and inode; numbers: inode to number.
    """
    kept = set()
    for entry in list(os.scandir(folder)):
        name = prefix + entry.name
        wanted = tree.get(name)
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            if wanted and wanted[0] == "directory" and wanted[2:5] == _rights(status):
                kept.add(name)
                kept |= _kept(tree, entry.path, f"{name}/", places, numbers)
            else:
                clear(entry.path)
                os.rmdir(entry.path)
            continue
        if wanted and _is(entry.path, status, wanted):
            number, inode = wanted[5], status.st_ino
            if numbers.get(inode, number) == number and places.get(number, (None, inode))[1] == inode:
                numbers[inode] = number
                places.setdefault(number, (entry.path, inode))
                kept.add(name)
                continue
        os.unlink(entry.path)
    return kept


def _rights(status):
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid


def _is(path, status, wanted):
    """Whether a file or symbolic link is like one of a tree."""
    if stat.S_ISLNK(status.st_mode):
        return wanted[0] == "link" and os.readlink(path) == wanted[1]
    if wanted[0] != "file" or wanted[2:5] != _rights(status) or status.st_size != len(wanted[1]):
        return False
    return _read(path) == wanted[1]


def clear(root):
    """Have nothing at all below a directory, which is made where there is none."""
    os.makedirs(root, exist_ok=True)
    for entry in os.scandir(root):
        if entry.is_dir(follow_symlinks=False):
            clear(entry.path)
            os.rmdir(entry.path)
        else:
            os.unlink(entry.path)


def look(root, without=""):
    """What is below a directory, but for one in it: name to contents, mode and owner."""
    found = {}

    def walk(folder, prefix):
        for name in os.listdir(folder):
            path = f"{folder}/{name}"
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                found[prefix + name] = ("link", os.readlink(path))
                continue
            data = None if stat.S_ISDIR(status.st_mode) else _read(path)
            found[prefix + name] = (data, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
            if data is None and prefix + name != without:
                walk(path, f"{prefix}{name}/")

    walk(str(root), "")
    return found
