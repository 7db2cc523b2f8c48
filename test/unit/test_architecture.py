"""docs/architecture.md: its table of the library's files, and the layers that it gives them."""

import ast
import pathlib
import re

from library import imports, is_private

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
ROW = re.compile(r"\| (\d+) \| `(_mta_\w+)` \| (.+) \|")
GUARD = "_mta_guard"


def table():
    """The table's rows: file to layer and subject."""
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    return {name: (int(layer), subject) for layer, name, subject in ROW.findall(text)}


def library():
    """The library's files by name."""
    return {path.stem: path for path in (REPOSITORY / "_modules").glob("_*.py")}


def test_every_file_of_the_library_is_in_the_table():
    assert sorted(table()) == sorted(library())


def test_a_file_imports_only_from_layers_below_its_own():
    rows, wrong = table(), []
    for name, path in library().items():
        below = {one.module for one in imports(path) if one.module in rows}
        wrong += [f"{name} imports {other}" for other in sorted(below) if rows[other][0] >= rows[name][0]]
    assert wrong == []


def test_a_subject_is_the_first_line_of_its_file():
    for name, path in library().items():
        documentation = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert documentation.splitlines()[0].rstrip(".:") == table()[name][1].rstrip(".:"), name


def test_the_library_knows_no_loader():
    """What it needs of Salt comes as an argument."""
    for path in library().values():
        names = {one.id for one in ast.walk(ast.parse(path.read_text())) if isinstance(one, ast.Name)}
        assert not {name for name in names if re.fullmatch("__(salt|opts|pillar|grains|context)__", name)}, path


def test_classes_of_named_values_are_those_that_cost_nothing_at_import():
    original = (
        r"(?m)^(?:from (?:typing|dataclasses) import .*\b(?:dataclass|NamedTuple|TypedDict)\b|@dataclasses\.)"
    )
    for name, path in library().items():
        if name != "_mta_records":
            assert not re.search(original, path.read_text(encoding="utf-8")), (
                f"{name}: import it from _mta_records"
            )


def test_doors_import_the_library_and_nothing_imports_doors():
    doors = {path.stem for path in (REPOSITORY / "_modules").glob("*.py") if not is_private(path)}
    for directory in ("_modules", "_states", "_runners", "_beacons"):
        for path in (REPOSITORY / directory).glob("*.py"):
            assert not {one.module for one in imports(path)} & doors, path


def test_every_path_of_the_document_leads_somewhere():
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    for name, function in re.findall(r"`(_mta_\w+)\.(\w+)", text):
        if name == GUARD or function == "py":
            continue
        assert re.search(rf"(?m)^def {function}\(", library()[name].read_text()), f"{name}.{function}"
