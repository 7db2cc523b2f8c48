"""What Salt and people can call: its number, its documentation, and what it must not do."""

import ast
import inspect
import pathlib
import re
import shlex
import textwrap

import pytest
import salt.loader
import salt.loader.context
import salt.minion
import salt.utils.args
from conftest import minion_options
from library import imports, is_private
from salt.exceptions import CommandExecutionError

MODULES = pathlib.Path(__file__).resolve().parents[2] / "_modules"
MOST = 100
# What opens a transaction and ends it as well; all else that opens one is for states, and refuses to be a job.
WHOLE = {"mta_transaction.roll_back", "postconf.reset", "postconf.set"}
EXAMPLE = re.compile(r"CLI Examples?:\n\n\s*\.\. code-block:: bash\n\n((?:\s{4,}.*\n?|\n)+)")


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    """Execution modules as ``__salt__`` sees them; these tests only look at them, or are refused."""
    return salt.loader.minion_mods(minion_options(tmp_path_factory.mktemp("minion")), context={})


@pytest.fixture(scope="module")
def own(modules):
    """This formula's execution functions, as the loader has them: name to function."""
    found = {}
    for name in sorted(modules):
        function = inspect.unwrap(modules[name].func)
        if pathlib.Path(function.__code__.co_filename).parent == MODULES:
            found[name] = function
    return found


def test_no_door_has_a_copy_of_the_options_made_for_it(modules, own):
    """Salt 3008 takes a third of a millisecond for each module that does not import ``__opts__``."""
    doors = [path for name in ("_modules", "_states") for path in (MODULES.parent / name).glob("*.py")]
    doors = {path: path.read_text(encoding="utf-8") for path in doors if not is_private(path)}
    missing = [path.name for path, text in doors.items() if "import __opts__" not in text]
    assert missing == []
    options = own["mta_apply.last"].__globals__["__opts__"]
    assert isinstance(options, salt.loader.context.NamedLoaderContext)


def commands(function):
    """The command lines of a function's CLI examples, split into words."""
    found = EXAMPLE.search(inspect.getdoc(function) or "")
    text = textwrap.dedent(found[1]) if found else ""
    # A line may be continued: by a backslash, or by what is indented further.
    lines = re.sub(r"\\?\n +", " ", text).splitlines()
    return [shlex.split(line) for line in lines if line.strip()]


def calls():
    """Which function of the formula calls which others: ``file.function`` to a set of the same."""
    found = {}
    for path in MODULES.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        imported = imports(path)
        files = {one.module for one in imported}
        names = {
            alias: f"{one.module}.{alias}" for one in imported for alias in one.names if one.module[:5] == "_mta_"
        }
        for name, node in functions.items():
            below = found.setdefault(f"{path.stem}.{name}", set())
            for one in ast.walk(node):
                if isinstance(one, ast.Name) and one.id in functions:
                    below.add(f"{path.stem}.{one.id}")
                elif isinstance(one, ast.Name) and one.id in names:
                    below.add(names[one.id])
                elif isinstance(one, ast.Attribute) and isinstance(one.value, ast.Name) and one.value.id in files:
                    below.add(f"{one.value.id}.{one.attr}")
    return found


def reaching(target):
    """All functions from which a chain of calls leads to the target."""
    graph, found = calls(), {target}
    while True:
        more = {name for name, below in graph.items() if below & found} - found
        if not more:
            return found
        found |= more


def refuses(modules, name, function):
    """Whether a function refuses to be called as a job."""
    needed = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    data = {"fun": name, "jid": "20300101000000000000", "tgt": "*", "ret": ""}
    args, kwargs = salt.minion.load_args_and_kwargs(modules[name], ["x"] * len(needed), data)
    if "__pub_fun" not in kwargs:
        return False
    with pytest.raises(CommandExecutionError, match="refused as a job"):
        modules[name](*args, **kwargs)
    return True


def test_there_are_few_enough_to_read(own):
    assert len(own) <= MOST


def test_private_files_are_no_functions(modules):
    assert not [name for name in modules if name.startswith("_mta")]
    assert [path for path in MODULES.glob("*.py") if is_private(path)]


def test_each_says_how_to_call_it_or_is_for_states(own):
    wanting = [
        name
        for name, function in own.items()
        if not commands(function)
        and "refused as a job" not in (inspect.getdoc(function) or "").replace("\n", " ").lower()
    ]
    assert wanting == []


def test_what_is_for_states_refuses_to_be_a_job(modules, own):
    for name, function in own.items():
        if not commands(function):
            assert refuses(modules, name, function), name


def test_no_text_sends_anybody_to_what_sys_doc_does_not_print():
    """``sys.doc`` prints functions, not what a module's own docstring says."""
    root = MODULES.parent
    texts = [
        *root.glob("_*/*.py"),
        root / "postfix_mta" / "defaults.yaml",
        *root.glob("docs/*.md"),
        root / "bin" / "apply",
    ]
    for path in texts:
        text = path.read_text(encoding="utf-8")
        assert "top of this module" not in text, path
        assert not re.search(r"sys\.doc \w+(?![\w.])", text), path


def test_every_example_could_be_called(own):
    for name, function in own.items():
        for words in commands(function):
            called = next((word for word in words if word in own), None)
            assert called == name, (name, words)
            position = words.index(called)
            if position > 2:
                continue  # another function calls it
            words = words[position + 1 :]
            args, kwargs = salt.utils.args.parse_input(words, condition=False)
            inspect.signature(function).bind(*args, **kwargs)


def test_no_example_has_a_key_or_a_password_in_it(own):
    for name, function in own.items():
        for words in commands(function):
            assert "PRIVATE KEY" not in " ".join(words), name
            assert not re.search(r"pass(word|phrase)=", " ".join(words)), name


def test_none_leaves_a_transaction_open(modules, own):
    opening = reaching("_mta_transaction.begin")
    for name, function in own.items():
        module, _, _ = name.partition(".")
        if f"{module}.{function.__name__}" in opening and name not in WHOLE:
            assert refuses(modules, name, function), name
