"""The linter of imports finds what cannot work with private files, and nothing in the formula itself."""

import sys

import library
import pytest

GUARDED = "import _mta_guard\n\nwith _mta_guard.library(__file__):\n    import _mta_system\n"


@pytest.fixture
def problems(tmp_path):
    """``problems({path: text})``: in a repository of these files, a guard and a library."""

    def look(files):
        common = {"_modules/_mta_guard.py": "", "_modules/_mta_system.py": "", "_modules/postconf.py": GUARDED}
        for name, text in {**common, **files}.items():
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return library.problems(tmp_path)

    return look


def test_the_formula_has_none():
    assert library.problems() == []


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"_modules/x.py": "import _mta_system\n"}, "_modules/x.py:1: _mta_system stays as it was after a sync"),
        ({"_modules/x.py": "if True:\n    import _mta_system\n"}, "_modules/x.py:2: _mta_system stays as it was"),
        (
            {"_modules/x.py": GUARDED + "\n\ndef f():\n    import _mta_system\n"},
            "x.py:8: _mta_system can be imported",
        ),
        ({"_modules/x.py": "def f():\n    import _mta_guard\n"}, "x.py:2: _mta_guard can be imported only while"),
        (
            {"_modules/x.py": "def f():\n    with _mta_guard.library(__file__):\n        import _mta_system\n"},
            "x.py:3: _mta_system can be imported only while",
        ),
        (
            {"_modules/x.py": GUARDED.replace("__file__", "'x'")},
            "x.py:4: _mta_system stays as it was after a sync",
        ),
        (
            {"_modules/x.py": GUARDED.replace("import _mta_system", "from _mta_system import read")},
            "x.py:4: functions from _mta_system would be functions of this module",
        ),
        (
            {"_modules/x.py": "from _mta_guard import library\n"},
            "x.py:1: it has to be a plain 'import _mta_guard'",
        ),
        ({"_modules/x.py": GUARDED.replace("_system", "_sytem")}, "x.py:4: there is no _mta_sytem.py beside it"),
        ({"_states/x.py": GUARDED}, "_states/x.py:1: there is no _mta_guard.py beside it"),
        ({"_modules/x.py": "import postconf\n"}, "x.py:1: postconf works only where Salt has loaded it"),
        ({"_modules/_mta_x.py": "import postconf\n"}, "_mta_x.py:1: postconf works only where Salt has loaded it"),
        ({"_modules/_mta_x.py": "from postconf import show\n"}, "_mta_x.py:1: postconf works only where"),
        (
            {"_modules/_mta_x.py": GUARDED},
            "_mta_x.py:4: only modules that Salt loads need the guard",
        ),
        (
            {"_modules/_mta_x.py": "from _mta_guard import complete\n"},
            "_mta_x.py:1: it has to be a plain 'import _mta_guard'",
        ),
        (
            {"_modules/_mta_x.py": "def f():\n    import _mta_system\n"},
            "_mta_x.py:2: _mta_system can be imported only while",
        ),
        ({"_modules/_mta_x.py": "import _mta_y\n"}, "_mta_x.py:1: there is no _mta_y.py beside it"),
        ({"_modules/_mta_x.py": "\n\nX = __opts__\n"}, "_mta_x.py:3: __opts__ is what only Salt's loader sets"),
        ({"_modules/_x.py": ""}, "_modules/_x.py:1: _mta_guard looks after _mta_* only"),
        ({"_modules/_json.py": ""}, "_modules/_json.py:1: the standard library has a module of this name"),
        ({"_runners/_mta_system.py": ""}, "_runners/_mta_system.py:1: one process may import only one file"),
    ],
)
def test_what_cannot_work_is_found(problems, files, problem):
    assert any(problem in found for found in problems(files))


def test_a_name_that_an_installed_package_has(problems, tmp_path, monkeypatch):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "_mta_taken.py").touch()
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "site")])
    assert problems({"_modules/_mta_taken.py": ""}) == [
        "_modules/_mta_taken.py:1: an installed package has this name"
    ]


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"_modules/_mta_x.py": "import _mta_guard\n\n\ndef f():\n    _mta_guard.complete()\n"},
        {"_modules/_mta_x.py": "import os\n\nimport _mta_system\n\n\ndef f():\n    import difflib\n"},
        {"_states/_mta_guard.py": "", "_states/_mta_x.py": "", "_states/x.py": GUARDED.replace("_system", "_x")},
    ],
)
def test_what_works_is_not_found(problems, files):
    assert problems(files) == []


def test_imports_are_read_with_their_place(tmp_path):
    path = tmp_path / "x.py"
    path.write_text(GUARDED + "\n\nclass A:\n    def f(self):\n        from os import path, sep\n")
    assert library.imports(path) == [
        ("_mta_guard", (), 1, "top"),
        ("_mta_system", (), 4, "guarded"),
        ("os", ("path", "sep"), 9, "function"),
    ]
