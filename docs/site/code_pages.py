"""The pages of docs/reference that are made from code: docstrings, and comments at the top of SLS files."""

import ast
import inspect
import pathlib
import re

MADE = (
    "This page is made by `bin/docs` from {source}. What does not say since when it is there is there since 0.1.0."
)
# How a docstring of Salt says what an example is written in.
LANGUAGE = re.compile(r"\.\. code-block:: (\w+)")


class Function:
    """A public function of a module: its name as Salt has it, its arguments, and its docstring."""

    def __init__(self, node, aliases):
        self.name = aliases.get(node.name, node.name)
        self.arguments = _arguments(node.args)
        self.text = inspect.cleandoc(ast.get_docstring(node) or "")

    @property
    def first(self):
        """The first sentence."""
        return " ".join(self.text.partition("\n\n")[0].split())


def _arguments(args):
    """The arguments with their defaults, without their types."""
    names = [one.arg for one in (*args.posonlyargs, *args.args)]
    defaults = [None] * (len(names) - len(args.defaults)) + [ast.unparse(one) for one in args.defaults]
    words = [name if default is None else f"{name}={default}" for name, default in zip(names, defaults)]
    if args.vararg:
        words.append(f"*{args.vararg.arg}")
    words += [
        one.arg if default is None else f"{one.arg}={ast.unparse(default)}"
        for one, default in zip(args.kwonlyargs, args.kw_defaults)
    ]
    return [*words, f"**{args.kwarg.arg}"] if args.kwarg else words


def functions(path):
    """A module's docstring and its public functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    aliases = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__func_alias__":
            aliases = ast.literal_eval(node.value)
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    return inspect.cleandoc(ast.get_docstring(tree) or ""), [Function(node, aliases) for node in found]


def prose(text):
    """A text of Markdown from a docstring: examples are fenced, literals have one backtick."""
    found, lines = [], text.splitlines()
    while lines:
        line = lines.pop(0)
        example = LANGUAGE.match(line.strip())
        if not example:
            found.append(_words(line))
            continue
        block = []
        while lines and (not lines[0].strip() or lines[0].startswith(" ")):
            block.append(lines.pop(0))
        code = inspect.cleandoc("\n".join(["", *block])).strip("\n")
        found += [f"```{example[1]}", code, "```", ""]
    return "\n".join(_listed(found)).strip()


def _words(line):
    line = re.sub(r"(?::\w+)+:`([^`]*)`", r"``\1``", line)
    parts = re.split(r"(``.*?``)", line)
    for index, part in enumerate(parts):
        code = part.startswith("``") and part.endswith("``") and len(part) > 4
        parts[index] = part[1:-1] if code else re.sub(r"([<>\[\]*\\])", r"\\\1", part)
    return "".join(parts)


def _listed(lines):
    """Parameters, which are followed by indented lines, as items of a list."""
    found, inside = [], False
    fenced = False
    for index, line in enumerate(lines):
        if line.startswith("```"):
            fenced = not fenced
        following = lines[index + 1] if index + 1 < len(lines) else ""
        if fenced or line.startswith("```"):
            found.append(line)
        elif line and not line.startswith(" ") and following.startswith("    "):
            found.append(f"- **{line.rstrip()}**" + "  ")
            inside = True
        elif inside and line.startswith("    "):
            found.append(f"  {line.strip()}")
        else:
            inside = inside and not line.strip()
            found.append(line)
    return [line.rstrip() if not line.endswith("**  ") else line[:-2] + ":" for line in found]


def page(title, about, source, paths):
    """A page about modules: a table of all functions, then each with its docstring."""
    lines = [f"# {title}", "", about, "", MADE.format(source=source), ""]
    modules = [(path.stem, *functions(path)) for path in sorted(paths)]
    lines += ["| function | what it does |", "| --- | --- |"]
    for name, _, own in modules:
        for one in own:
            anchor = f"{name}{one.name}".lower().replace(".", "")
            lines.append(f"| [`{name}.{one.name}`](#{anchor}) | {_words(one.first).replace('|', chr(92) + '|')} |")
    for name, text, own in modules:
        lines += ["", f"## {name}", "", prose(text), ""]
        for one in own:
            lines += [f"### {name}.{one.name}", "", "```text"]
            lines += [f"{name}.{one.name}({', '.join(one.arguments)})", "```", "", prose(one.text), ""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def sls_comment(path):
    """What an SLS file says about itself, at its top."""
    text = path.read_text(encoding="utf-8")
    block = re.match(r"(?:#!.*\n)?\{#-?(.*?)-?#\}", text, re.DOTALL)
    if block:
        comment = block[1]
    else:
        lines = re.match(r"(?:#!.*\n)?((?:#.*\n)+)", text)
        comment = re.sub(r"(?m)^# ?", "", lines[1]) if lines else ""
    return " ".join(inspect.cleandoc(comment).strip().partition("\n\n")[0].split())


def sls(root):
    """The page about the SLS files."""
    lines = ["# SLS files", "", "For looking up what `state.apply` takes, and what each part does.", ""]
    lines += [MADE.format(source="the comments at the top of the files in `postfix_mta/`"), ""]
    lines += ["| SLS | what it does |", "| --- | --- |"]
    paths = sorted((root / "postfix_mta").rglob("*.sls"), key=lambda path: (path.stem != "init", path))
    for path in paths:
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "init" else parts)
        if "reactor" not in parts:
            lines.append(f"| `{name}` | {sls_comment(path).replace('|', chr(92) + '|')} |")
    lines += [
        "",
        "Run a part with `state.apply postfix_mta.aliases`, not a single state of it with `state.sls_id`:",
    ]
    lines += ["without the state that closes the transaction the change is not put in force, and the next apply"]
    lines += ["takes it back."]
    return "\n".join(lines) + "\n"


def pages(root):
    """Path below docs/reference to its contents, for every page that is made from code."""

    def public(folder):
        return [path for path in (root / folder).glob("*.py") if not path.name.startswith("_")]

    return {
        pathlib.PurePath("functions.md"): page(
            "Execution functions",
            "For people who call functions: `salt 'mail*' FUNCTION` on a fleet, on one server"
            " `sudo bin/apply call FUNCTION`.",
            "`_modules/`",
            public("_modules"),
        ),
        pathlib.PurePath("states.md"): page(
            "States",
            "For SLS files of your own. Without `transaction` a state is a transaction of its own.",
            "`_states/`",
            public("_states"),
        ),
        pathlib.PurePath("runners.md"): page(
            "Runners", "For people who look after a fleet on its master.", "`_runners/`", public("_runners")
        ),
        pathlib.PurePath("sls.md"): sls(root),
    }
