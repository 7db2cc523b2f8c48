"""Private files in a process that goes on: a module gets what is on the disk, all of it of one revision."""

import os
import pathlib
import sys
import threading

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
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(GUARD.parent)])
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
    with pytest.raises(KeyError):
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


def test_threads_that_load_at_the_same_time(tree):
    """As a minion without processes of its own for jobs does, while files change."""
    wrong = []

    def load():
        for _ in range(20):
            (word, below), own = tree.said()
            if below != own or word != "old":
                wrong.append((word, below, own))

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(100, 150):
        path = tree.directory / "_mta_below.py"
        draft = path.with_suffix(".draft")
        draft.write_text(f"NUMBER = {number}\n")
        os.utime(draft, ns=(0, Tree.put.clock * 10**9))
        Tree.put.clock += 1
        os.replace(draft, path)
    for thread in threads:
        thread.join()
    assert not wrong
