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

Private files import each other by name, at their top, without this. ``_states`` and ``_runners`` have copies of
this file, for Salt's loader of states does not reach ``_modules``; ``bin/update-revision`` makes them.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator, Sequence
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


_own = _identity(os.path.abspath(__file__))
# Directory to the names imported from it, and what their files were then.
_imported: dict[str, dict[str, _Identity]] = {}
_lock = threading.RLock()


def _renew_lock() -> None:
    """A thread that held the lock does not exist in a process forked meanwhile."""
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)


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
        # Before it is read: a change from here on is noticed.
        identity = _identity(os.path.join(self.directory, f"{name}.py"))
        if identity is None:
            return None
        _imported.setdefault(self.directory, {})[name] = identity
        return importlib.util.spec_from_file_location(name, identity[0])


def _drop(directory: str) -> None:
    for name in _imported.pop(directory, {}):
        sys.modules.pop(name, None)


def _drop_others(directory: str) -> None:
    """Drop what was imported from elsewhere, if this directory has files of the same names: two trees are used."""
    for other in list(_imported):
        if any(os.path.exists(os.path.join(directory, f"{name}.py")) for name in _imported[other]):
            _drop(other)


def _has_changed(identity: _Identity | None) -> bool:
    return identity is None or _identity(identity[0]) != identity


def _is_this(module: ModuleType | None) -> bool:
    return module is not None and module.__dict__ is globals()


def _current(directory: str) -> ModuleType:
    """Drop what has changed; return this module, or the one that has taken its place."""
    if not _is_this(sys.modules.get(__name__)):
        return importlib.import_module(__name__)
    if _has_changed(_own):
        for other in list(_imported):
            _drop(other)
        del sys.modules[__name__]
    elif directory not in _imported:
        _drop_others(directory)
    elif any(_has_changed(identity) for identity in _imported[directory].values()):
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
        finder = _Finder(directory)
        sys.meta_path.insert(0, finder)
        try:
            yield
        finally:
            sys.meta_path.remove(finder)
