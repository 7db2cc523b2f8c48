"""
Find imports of private files (``_mta_*.py`` beside Salt's modules) that cannot work: ``bin/test lint`` runs this.

It prints each with its line, and exits with 1 if there are any. :func:`imports` reads those of one file.
"""

import ast
import importlib.machinery
import pathlib
import sys
from typing import NamedTuple

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
PREFIX, GUARD = "_mta_", "_mta_guard"
# What Salt's loader puts into the modules that it loads.
DUNDERS = {
    f"__{name}__"
    for name in ("context", "events", "grains", "low", "opts", "pillar", "proxy", "running", "salt", "utils")
}


class Import(NamedTuple):
    """
    One module that a file imports.

    module: its full name. names: what is taken from it, where it is ``from module import names``. place: ``top``
    of the file, inside of a ``function``, or ``guarded`` by ``with _mta_guard.library(__file__):``.
    """

    module: str
    names: tuple
    line: int
    place: str


def imports(path):
    """Every :class:`Import` of a Python file, in the order of its lines."""
    return list(_imports(ast.parse(path.read_text(encoding="utf-8")), "top"))


def _imports(node, place):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            continue  # has no statement in it
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, (), child.lineno, place)
        elif isinstance(child, ast.ImportFrom):
            yield Import(child.module or "", tuple(alias.name for alias in child.names), child.lineno, place)
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _imports(child, "function")
        elif place == "top" and isinstance(child, ast.With) and _is_guard(child):
            yield from _imports(child, "guarded")
        else:
            yield from _imports(child, place)


def _is_guard(node):
    return [ast.unparse(item.context_expr) for item in node.items] == [f"{GUARD}.library(__file__)"]


def loaded(repository=REPOSITORY):
    """The Python files of the directories that Salt's loader reads."""
    return sorted(repository.glob("_*/*.py"))


def is_private(path):
    """Whether the loader leaves a file to be imported by others."""
    return path.stem.startswith("_")


def problems(repository=REPOSITORY):
    """What cannot work: ``path:line: why``, one string each."""
    files = loaded(repository)
    modules = {path.stem for path in files if not is_private(path)}
    found = []
    for path in files:
        relative = path.relative_to(repository).as_posix()
        if is_private(path):
            found += [f"{relative}:1: {why}" for why in _name_problems(path, files)]
        check = _private_problems if is_private(path) else _module_problems
        if path.stem == GUARD:
            continue
        for item in imports(path):
            found += [f"{relative}:{item.line}: {why}" for why in check(path, item, modules)]
        if is_private(path):
            found += [
                f"{relative}:{line}: {name} is what only Salt's loader sets" for name, line in _dunders(path)
            ]
    return found


def _name_problems(path, files):
    """What is wrong with the name of a private file."""
    if not path.stem.startswith(PREFIX):
        yield f"{GUARD} looks after {PREFIX}* only"
    if path.stem in getattr(sys, "stdlib_module_names", sys.builtin_module_names):
        yield "the standard library has a module of this name"
    # Not what pytest imports from here.
    elsewhere = [entry for entry in sys.path if pathlib.Path(entry).resolve().parent != REPOSITORY]
    if importlib.machinery.PathFinder.find_spec(path.stem, elsewhere):
        yield "an installed package has this name"
    if path.stem != GUARD and any(other.stem == path.stem and other != path for other in files):
        yield "one process may import only one file of this name, and another directory has one too"


def _module_problems(path, item, modules):
    """What is wrong with an import in a module that the loader loads."""
    if item.module in modules:
        yield f"{item.module} works only where Salt has loaded it"
    if not item.module.startswith("_"):
        return
    if item.module.startswith(PREFIX) and not path.with_name(f"{item.module}.py").exists():
        yield f"there is no {item.module}.py beside it"
    if item.place == "function":
        yield f"{item.module} can be imported only while the file is loaded, not in a function"
    elif item.module == GUARD:
        if item.place != "top" or item.names:
            yield f"it has to be a plain 'import {GUARD}' at the top"
    elif item.module.startswith(PREFIX):
        if item.place != "guarded":
            yield f"{item.module} stays as it was after a sync: import it in 'with {GUARD}.library(__file__):'"
        if item.names:
            yield f"functions from {item.module} would be functions of this module: import the module itself"


def _private_problems(path, item, modules):
    """What is wrong with an import in a private file."""
    if item.module in modules:
        yield f"{item.module} works only where Salt has loaded it, and is above its library"
    if item.place == "guarded":
        yield "only modules that Salt loads need the guard"
    elif item.module == GUARD and (item.names or item.place == "function"):
        yield f"it has to be a plain 'import {GUARD}' at the top"
    elif item.module != GUARD and item.module.startswith(PREFIX):
        if not path.with_name(f"{item.module}.py").exists():
            yield f"there is no {item.module}.py beside it"
        if item.place == "function":
            yield f"{item.module} can be imported only while the file is loaded, not in a function"


def _dunders(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name) and node.id in DUNDERS:
            yield node.id, node.lineno


if __name__ == "__main__":
    text = problems()
    print("\n".join(text) or "All imports of private files can work")
    sys.exit(1 if text else 0)
