"""Private files in a process that goes on: a module gets what is on the disk, all of it of one revision."""

import importlib.util
import marshal
import os
import pathlib
import py_compile
import signal
import sys
import threading
import time

import pytest
import salt.loader

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
GUARD = REPOSITORY / "_modules" / "_mta_guard.py"
MODULE = """
import _mta_guard

with _mta_guard.library(__file__):
    import _mta_below
    import _mta_probation


def said():
    return _mta_probation.said(), _mta_below.NUMBER


def identity():
    return id(_mta_below)
"""
LIBRARY = "import _mta_below\n\nWORD = {!r}\n\n\ndef said():\n    return WORD, _mta_below.NUMBER\n"


@pytest.fixture(autouse=True)
def as_in_a_new_process(monkeypatch):
    """No private file is imported, or within reach of a plain import; what other tests imported comes back."""

    def loaded():
        return {name: module for name, module in sys.modules.items() if name.startswith("_mta_")}

    before = loaded()
    for name in before:
        del sys.modules[name]
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if not pathlib.Path(entry, GUARD.name).exists()])
    yield
    for name in loaded():
        del sys.modules[name]
    sys.modules.update(before)


class Tree:
    """Modules in a directory, loaded by Salt anew for each question, in this process."""

    def __init__(self, directory, opts):
        self.directory, self.opts = directory / "_modules", opts
        self.directory.mkdir(parents=True)
        self.put("_mta_guard", GUARD.read_text())
        self.put("first", MODULE)
        self.put("second", MODULE)
        self.put("_mta_below", "NUMBER = 1\n")
        self.put("_mta_probation", LIBRARY.format("old"))
        self.put("_mta_unused", "")

    def put(self, name, text):
        """As Salt's sync does: in place. Python itself tells bytecode from its source by size and second."""
        path = self.directory / f"{name}.py"
        path.write_text(text)
        os.utime(path, ns=(0, Tree.put.clock * 10**9))
        Tree.put.clock += 1

    put.clock = 1_000_000_000

    def loader(self):
        options = {**self.opts, "module_dirs": [str(self.directory.parent)]}
        return salt.loader.minion_mods(options)

    def said(self, module="first"):
        return self.loader()[f"{module}.said"]()


@pytest.fixture
def tree(tmp_path, opts):
    return Tree(tmp_path / "tree", opts)


def test_private_files_are_no_functions(tree):
    loader = tree.loader()
    assert not [name for name in loader if "_mta_" in name]
    assert {name for name in loader if name.startswith("first.")} == {"first.said", "first.identity"}


def test_all_modules_have_the_same_files(tree):
    loader = tree.loader()
    assert loader["first.identity"]() == loader["second.identity"]()
    assert tree.loader()["first.identity"]() == loader["second.identity"]()


def test_a_changed_file_is_imported_anew_and_back(tree):
    assert tree.said() == (("old", 1), 1)
    tree.put("_mta_probation", LIBRARY.format("new"))
    assert tree.said() == (("new", 1), 1)
    tree.put("_mta_probation", LIBRARY.format("old"))
    assert tree.said() == (("old", 1), 1)


def test_what_imports_a_changed_file_has_the_new_one(tree):
    tree.said()
    tree.put("_mta_below", "NUMBER = 2\n")
    assert tree.said() == (("old", 2), 2)


def test_a_module_in_use_keeps_its_files(tree):
    loader = tree.loader()
    loader["first.said"]()
    tree.put("_mta_below", "NUMBER = 2\n")
    tree.said("second")
    assert loader["first.said"]() == (("old", 1), 1)


def note(path, word):
    """The text of a file that adds a word to another file when it is executed."""
    return f"with open({str(path)!r}, 'a') as file:\n    file.write('{word} ')\n"


def test_a_file_is_executed_when_something_of_it_is_used(tree, tmp_path):
    log = tmp_path / "log"
    log.touch()
    tree.put("_mta_probation", note(log, "probation") + LIBRARY.format("old"))
    tree.put("_mta_below", note(log, "below") + "NUMBER = 1\n")
    loader = tree.loader()
    assert loader["first.identity"]()
    assert log.read_text() == ""
    assert loader["first.said"]() == (("old", 1), 1)
    assert loader["second.said"]() == (("old", 1), 1)
    assert log.read_text() == "probation below "


@pytest.mark.parametrize("compiled", [True, False])
def test_what_is_executed_late_is_what_was_there_in_the_beginning(tree, compiled):
    """A sync comes while an apply goes on; with bytecode of an earlier process, and without."""
    if compiled:
        for path in tree.directory.glob("_mta_*.py"):
            py_compile.compile(str(path))
    loader = tree.loader()
    loader["first.identity"]()
    tree.put("_mta_probation", LIBRARY.format("new"))
    (tree.directory / "_mta_below.py").unlink()
    assert loader["first.said"]() == (("old", 1), 1)


def test_what_was_not_executed_yet_does_not_join_with_the_files_that_come(tree):
    loader = tree.loader()
    loader["first.identity"]()
    tree.put("_mta_below", "NUMBER = 2\n")
    assert tree.said("second") == (("old", 2), 2)
    assert loader["first.said"]() == (("old", 1), 1)


def test_all_files_are_executed_on_request(tree, tmp_path):
    log = tmp_path / "log"
    for name in ("_mta_deep", "_mta_unused", "_mta_probation", "_mta_below"):
        tree.put(name, note(log, name[5:]))
    tree.put("_mta_below", "import _mta_deep\n" + note(log, "below"))
    tree.loader()["first.identity"]()
    guard = sys.modules["_mta_guard"]
    guard.complete()
    guard.complete()
    assert sorted(log.read_text().split()) == ["below", "deep", "probation"]


def test_a_file_that_cannot_be_executed_on_request(tree):
    tree.put("_mta_unused", "import _mta_nowhere\n")
    tree.said()
    sys.modules["_mta_guard"].complete()
    tree.put("_mta_probation", "import _mta_nowhere\n")
    tree.loader()["first.identity"]()
    with pytest.raises(ModuleNotFoundError, match="_mta_nowhere"):
        sys.modules["_mta_guard"].complete()


@pytest.mark.parametrize("prefix", [None, "elsewhere/_mta_guard"])
def test_bytecode_is_that_of_python_itself(tree, monkeypatch, tmp_path, prefix):
    """One that fits is used, one of another source is not, and where there is none it is written."""
    monkeypatch.setattr(sys, "pycache_prefix", prefix and str(tmp_path / prefix))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = tree.directory / "_mta_below.py"
    bytecode = pathlib.Path(importlib.util.cache_from_source(str(path)))
    assert tree.said() == (("old", 1), 1)
    tree.put("_mta_probation", LIBRARY.format("other"))
    written = bytecode.read_bytes()
    py_compile.compile(str(path))
    assert bytecode.read_bytes() == written
    code = compile("NUMBER = 3\n", str(path), "exec")
    bytecode.write_bytes(written[:16] + marshal.dumps(code))
    assert tree.said() == (("other", 3), 3)
    tree.put("_mta_below", "NUMBER = 1\n")
    assert tree.said() == (("other", 1), 1)


def test_a_thread_waits_for_another_one_that_executes_a_file(tree, tmp_path):
    slow = "import pathlib\nimport time\n\npathlib.Path({!r}).touch()\ntime.sleep(0.5)\n"
    begun = tmp_path / "begun"
    tree.put("_mta_probation", "def said():\n    return WORD\n\n\n" + slow.format(str(begun)) + "WORD = 'whole'\n")
    loader, said = tree.loader(), []
    loader["first.identity"]()
    thread = threading.Thread(target=lambda: said.append(loader["first.said"]()))
    thread.start()
    while not begun.exists():
        time.sleep(0.01)
    assert sys.modules["_mta_probation"].said() == "whole"
    thread.join()
    assert said == [("whole", 1)]


def test_a_file_that_is_replaced_or_gone(tree):
    tree.said()
    draft = tree.directory / "draft"
    draft.write_text(LIBRARY.format("moved"))
    os.replace(draft, tree.directory / "_mta_probation.py")
    assert tree.said() == (("moved", 1), 1)
    (tree.directory / "_mta_probation.py").unlink()
    with pytest.raises(KeyError):
        tree.said()
    tree.put("_mta_probation", LIBRARY.format("back"))
    assert tree.said() == (("back", 1), 1)


def test_a_file_that_cannot_be_imported_is_tried_again(tree):
    tree.put("_mta_probation", "import _mta_nowhere\n")
    with pytest.raises(ModuleNotFoundError, match="_mta_nowhere"):
        tree.said()
    tree.put("_mta_probation", LIBRARY.format("mended"))
    assert tree.said() == (("mended", 1), 1)


def test_a_changed_guard_takes_the_place_of_the_old_one(tree):
    tree.said()
    old = sys.modules["_mta_guard"]
    tree.put("_mta_guard", GUARD.read_text() + "\nVERSION = 2\n")
    tree.put("_mta_below", "NUMBER = 2\n")
    assert tree.said() == (("old", 2), 2)
    assert sys.modules["_mta_guard"] is not old
    assert sys.modules["_mta_guard"].VERSION == 2
    # A thread that has got hold of the old one.
    before = sys.modules["_mta_below"]
    with old.library(str(tree.directory / "first.py")):
        import _mta_below
    assert _mta_below is before


def test_two_trees_each_have_their_own(tree, tmp_path, opts):
    other = Tree(tmp_path / "other", opts)
    other.put("_mta_below", "NUMBER = 7\n")
    for _ in range(2):
        assert tree.said() == (("old", 1), 1)
        assert other.said() == (("old", 7), 7)


def test_installed_packages_and_custom_modules_hide_nothing(tree, monkeypatch, tmp_path):
    """Neither does the directory hide the standard library: it may have custom modules of anybody."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "_mta_below.py").write_text("NUMBER = 'installed'\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    tree.put("colorsys", "NUMBER = 'custom'\n")
    tree.put("_mta_probation", "import colorsys\n\n\ndef said():\n    return hasattr(colorsys, 'NUMBER')\n")
    assert tree.said() == (False, 1)


def test_nothing_stays_behind_in_the_import_machinery(tree):
    finders, path = list(sys.meta_path), list(sys.path)
    tree.said()
    assert (sys.meta_path, sys.path) == (finders, path)


def test_a_thread_waits_for_another_one_that_is_importing(tree, tmp_path):
    """As in a minion without processes of its own for jobs, or a reactor; files change meanwhile."""
    slow = "import pathlib\nimport time\n\npathlib.Path({!r}).touch()\ntime.sleep(0.5)\n"
    tree.put("_mta_probation", slow.format(str(tmp_path / "begun")) + LIBRARY.format("old"))
    said = []
    thread = threading.Thread(target=lambda: said.append(tree.said()))
    thread.start()
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    tree.put("_mta_below", "NUMBER = 2\n")
    assert tree.said("second") == (("old", 2), 2)
    thread.join()
    assert said == [(("old", 1), 1)]


def test_a_process_forked_while_a_thread_was_importing_imports_too(tree, tmp_path):
    tree.said()
    forked = []
    with sys.modules["_mta_guard"].library(str(tree.directory / "first.py")):
        thread = threading.Thread(target=lambda: forked.append(os.fork() or os._exit(exit_code(tree))))
        thread.start()
        thread.join()
    (pid,) = forked
    deadline = time.monotonic() + 20
    while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            pytest.fail("it waits for a thread that it does not have")
        time.sleep(0.05)
    assert os.WEXITSTATUS(ended[1]) == 0


def exit_code(tree):
    """In the forked process: what import leads to, as an exit code."""
    try:
        return 0 if tree.said() == (("old", 1), 1) else 1
    except BaseException:
        return 2
