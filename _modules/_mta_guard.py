"""
The private files beside Salt's modules: how a module that Salt loads imports them.

.. code-block:: python

    import _mta_guard

    with _mta_guard.library(__file__):
        import _mta_system

Salt's loader reads a module anew after a sync. What that module imports stays in ``sys.modules``: a process that
goes on (a minion without ``multiprocessing``, the parent in which beacons run, a reactor) would join new modules
to the library of the revision before. So :func:`library` first drops the files of that directory if one of them
has changed on disk since it was imported, this one included. Modules that are still in use keep their old files.

All private files of a directory are read at once, and each is executed when something of it is used for the first
time: most runs need only some. What a process has is always of one revision, whatever a sync does meanwhile.
Before files are dropped those that were not executed yet are, and so they are before an apply changes anything
(:func:`complete`).

Private files import each other by name, at their top, without this. ``_states`` and ``_runners`` have copies of
this file, for Salt's loader of states does not reach ``_modules``; ``bin/update-revision`` makes them.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.util
import os
import struct
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType

PREFIX = "_mta_"

# Path, inode and time of the last change: those of a file that is written in place, replaced or linked differ.
_Identity = tuple[str, int, int]


def _identity(path: str) -> _Identity | None:
    """What tells a file from its next version; ``None``: there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return path, status.st_ino, status.st_ctime_ns


def _content(bytecode: str) -> bytes:
    """Return what a file of bytecode holds; nothing: there is none, or it could not be read to its end."""
    try:
        file = os.open(bytecode, os.O_RDONLY)
        try:
            size = os.fstat(file).st_size
            content = os.read(file, size)
        finally:
            os.close(file)
    except OSError:
        return b""
    return content if len(content) == size else b""


class _File(importlib.machinery.SourceFileLoader):
    """Loads a private file as it was when this was made."""

    def __init__(self, name: str, path: str, bytecode: str) -> None:
        super().__init__(name, path)
        # Before it is read: a change from here on is noticed.
        status = os.stat(path)
        self.identity = path, status.st_ino, status.st_ctime_ns
        # The thread that executes it, which uses it already.
        self.thread: int | None = None
        self._stats = {"mtime": status.st_mtime, "size": status.st_size}
        self._path, self._data = bytecode, _content(bytecode)
        # PEP 552: its version, no flags, and the source's time and size.
        header = struct.pack("<4sIII", importlib.util.MAGIC_NUMBER, 0, int(status.st_mtime), status.st_size)
        if not self._data.startswith(header):
            self._path, self._data = path, super().get_data(path)

    def path_stats(self, path: str) -> dict[str, float]:
        """Part of Python's import; see importlib.abc.SourceLoader."""
        return self._stats

    def get_data(self, path: str) -> bytes:
        """Part of Python's import; see importlib.abc.SourceLoader."""
        if path != self._path:
            raise OSError(f"{path} was not kept")
        return self._data

    def exec_module(self, module: ModuleType) -> None:
        """Part of Python's import: leave it for later."""
        module.__class__ = _Deferred

    def execute(self, module: ModuleType) -> None:
        """Do what import has left for later, if nobody has done it yet."""
        with _lock:
            if type(module) is ModuleType or self.thread == threading.get_ident():
                return
            self.thread = threading.get_ident()
            try:
                with _found_in(os.path.dirname(self.path)):
                    super().exec_module(module)
                module.__class__ = ModuleType
            finally:
                self.thread = None


class _Deferred(ModuleType):
    """A private file that has been imported and not been executed yet."""

    def __getattribute__(self, name: str) -> object:
        # What import itself asks of a module that it has.
        if name not in ("__class__", "__spec__"):
            ModuleType.__getattribute__(self, "__spec__").loader.execute(self)
        # Not super(): it is an ordinary module now.
        return ModuleType.__getattribute__(self, name)


_own = _identity(os.path.abspath(__file__))
# Directory to its private files by name.
_files: dict[str, dict[str, _File]] = {}
_lock = threading.RLock()


def _renew_lock() -> None:
    """A thread that held the lock does not exist in a process forked meanwhile."""
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)


def _read(directory: str) -> dict[str, _File]:
    """Read all private files of a directory; this one is in use already."""
    names = sorted(name[:-3] for name in os.listdir(directory) if name.startswith(PREFIX) and name.endswith(".py"))
    # The paths of all bytecode differ in the name only.
    cache, own = os.path.split(importlib.util.cache_from_source(f"{directory}/{__name__}.py"))
    return {
        name: _File(name, f"{directory}/{name}.py", f"{cache}/{own.replace(__name__, name)}")
        for name in names
        if name != __name__
    }


class _Finder:
    """Finds private files in one directory, which therefore need no place on ``sys.path``."""

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Part of Python's import; see importlib.abc.MetaPathFinder."""
        if not name.startswith(PREFIX):
            return None
        if self.directory not in _files:
            _files[self.directory] = _read(self.directory)
        file = _files[self.directory].get(name)
        if file is None:
            return None
        # As importlib.util.spec_from_file_location does, which makes sure of what is known here.
        spec = importlib.machinery.ModuleSpec(name, file, origin=file.path)
        spec.has_location = True
        return spec


@contextlib.contextmanager
def _found_in(directory: str) -> Iterator[None]:
    """Have imports find the private files of a directory in this context."""
    finder = _Finder(directory)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def complete() -> None:
    """
    Execute what has been imported: nothing of what this process goes on with depends on a file that is read late.

    What a file raises when it is executed is raised.
    """
    with _lock:
        for directory in list(_files):
            for error in _complete(directory):
                raise error


def _complete(directory: str) -> list[Exception]:
    """Execute what has been imported of a directory, and what that imports; return what files raise."""
    errors: list[Exception] = []
    tried: set[str] = set()
    while waiting := [name for name in _files[directory].keys() - tried if name in sys.modules]:
        for name in sorted(waiting):
            try:
                _files[directory][name].execute(sys.modules[name])
            except Exception as err:
                errors.append(err)
        tried.update(waiting)
    return errors


def _drop(directory: str) -> None:
    # Modules that are still in use would join with the files that come.
    _complete(directory)
    for name in _files.pop(directory):
        sys.modules.pop(name, None)


def _drop_others(directory: str) -> None:
    """Drop what was imported from elsewhere, if this directory has files of the same names: two trees are used."""
    for other in list(_files):
        if any(os.path.exists(os.path.join(directory, f"{name}.py")) for name in _files[other]):
            _drop(other)


def _have_changed(identities: Iterable[_Identity]) -> bool:
    """Whether one of some files is not what it was; this is asked for each module that Salt loads."""
    stat = os.stat
    try:
        for path, inode, changed in identities:
            status = stat(path)
            if status.st_ino != inode or status.st_ctime_ns != changed:
                return True
    except OSError:
        return True
    return False


def _is_this(module: ModuleType | None) -> bool:
    return module is not None and module.__dict__ is globals()


def _current(directory: str) -> ModuleType:
    """Drop what has changed; return this module, or the one that has taken its place."""
    if not _is_this(sys.modules.get(__name__)):
        return importlib.import_module(__name__)
    if _own is None or _have_changed([_own]):
        for other in list(_files):
            _drop(other)
        del sys.modules[__name__]
    elif directory not in _files:
        _drop_others(directory)
    elif _have_changed(file.identity for file in _files[directory].values()):
        _drop(directory)
    return importlib.import_module(__name__)


@contextlib.contextmanager
def library(module: str) -> Iterator[None]:
    """
    Import private files in this context: each is that on the disk, and the same one for all modules.

    module
        The ``__file__`` of the module that imports them. They are those beside it.
    """
    directory = os.path.dirname(os.path.abspath(module))
    with _lock:
        current = _current(directory)
        if not _is_this(current):
            with current.library(module):
                yield
            return
        with _found_in(directory):
            yield
