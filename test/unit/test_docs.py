"""The documents: links lead somewhere, and what their commands name exists. Suite docs runs their examples."""

import ast
import re
import subprocess

import console
import pytest
import yaml

from rig import REPOSITORY, kitchen

TOP = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
PAGES = [*TOP, *sorted(str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "docs").rglob("*.md"))]
FOLDERS = {"salt": "_modules", "salt-call": "_modules", "call": "_modules", "salt-run": "_runners"}
# Salt's own functions that documents name.
SALTS = {"test.ping", "event.send", "saltutil.refresh_pillar", "saltutil.sync_runners", "sys.doc", "sys.state_doc"}
SALTS |= {
    "state.apply",
    "state.event",
    "state.orchestrate",
    "pillar.clear_pillar_cache",
    "state.sls_id",
    "publish.publish",
}
COMMAND = re.compile(
    r"(?:(salt|salt-run|salt-call|salt-ssh)(?: -{1,2}[a-z-]+(?: \d\S*|=\S+)?)*(?: '[^']*'| mail\S*| ca\.\S*| \*)?"
    r"|bin/apply (call)(?: --pillar \S+)?) ([a-z_0-9]+\.[a-z_0-9]+)(?: (postfix_mta[a-z_.]*))?"
)


def text_of(page):
    return (REPOSITORY / page).read_text(encoding="utf-8")


def anchors(page):
    """The names by which a page's headings can be linked, as GitHub makes them."""
    titles = re.findall(r"(?m)^#+ (.*)$", re.sub(r"(?ms)^```.*?^```$", "", text_of(page)))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"(?ms)^```.*?^```$", "", text_of(page))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = ((REPOSITORY / page).parent / name).resolve() if name else REPOSITORY / page
        assert path.exists(), f"{page}: {target}"
        assert not anchor or anchor in anchors(path.relative_to(REPOSITORY)), f"{page}: {target}"


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/")])
def test_a_page_begins_with_whom_it_is_for(page):
    title, blank, first = text_of(page).split("\n")[:3]
    assert title.startswith("# ") and not blank
    assert first.startswith("For "), f"{page} begins with {first!r}"


@pytest.mark.parametrize("page", [page for page in PAGES if not page.startswith("docs/reference/")])
def test_the_how_to_is_linked_where_it_is_first_named(page):
    # The table of the library's files has their docstrings, which link nothing.
    text = re.sub(r"(?m)^\| \d \|.*$", "", text_of(page))
    mention = re.search(r"\bhow-to\b(?!\.md)", text)
    if mention and page != "docs/how-to.md":
        link = re.search(r"\[how-to\]\((?:docs/)?how-to\.md\)", text)
        assert link and link.start() <= mention.start(), page


def test_every_page_is_in_the_index():
    linked = {f"docs/{target}" for target in re.findall(r"\]\(([^)#]+\.md)\)", text_of("docs/index.md"))}
    in_reference = re.findall(r"\]\(([^)#]+\.md)\)", text_of("docs/reference/index.md"))
    linked |= {f"docs/reference/{target}" for target in in_reference}
    assert [page for page in PAGES if page.startswith("docs/") and page not in linked] == ["docs/index.md"]


def test_the_readme_is_short_and_begins_with_the_commands():
    text = text_of("README.md")
    assert len(text.split()) <= 1200
    title, _first, commands = text.split("\n\n")[:3]
    assert title.startswith("# ")
    assert commands.startswith("    sudo bin/apply mail.example.com")
    assert len(commands.splitlines()) == 2


def functions(folder, module):
    """The names of a module's functions as Salt has them."""
    path = REPOSITORY / folder / f"{module}.py"
    if not path.exists():
        return set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name.rstrip("_") for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("page", PAGES)
def test_every_function_and_sls_file_that_a_command_names_exists(page):
    for program, call, function, sls in COMMAND.findall(text_of(page)):
        folder = FOLDERS.get(program or call, "_modules")
        module, _, name = function.partition(".")
        assert function in SALTS or name in functions(folder, module), f"{page}: {function}"
        path = REPOSITORY / sls.replace(".", "/")
        if sls and function in ("state.apply", "state.orchestrate"):
            assert path.with_suffix(".sls").exists() or (path / "init.sls").exists(), f"{page}: {sls}"


def test_commands_are_found():
    found = COMMAND.findall("salt --batch-size 10 'mail*' state.apply postfix_mta.aliases\nbin/apply call a.b\n")
    assert found == [("salt", "", "state.apply", "postfix_mta.aliases"), ("", "call", "a.b", "")]
    assert sum(len(COMMAND.findall(text_of(page))) for page in PAGES) > 40


@pytest.mark.parametrize("page", PAGES)
def test_every_program_that_a_page_names_exists(page):
    for name in re.findall(r"(?<![\w/])bin/([a-z][a-z-]*)", text_of(page)):
        assert (REPOSITORY / "bin" / name).exists(), f"{page}: bin/{name}"


def test_every_option_of_bin_apply_exists():
    described = ""
    for arguments in (["-h"], ["call", "-h"]):
        described += subprocess.run(
            [REPOSITORY / "bin" / "apply", *arguments], capture_output=True, text=True, check=True
        ).stdout
    for page in PAGES:
        for command in re.findall(r"bin/apply ([^\n`|]*)", text_of(page)):
            for option in re.findall(r"(?<=\s)--[a-z-]+", command.partition("state.apply")[0]):
                assert option in described, f"{page}: bin/apply {command}"


def indented_files(text):
    """The contents of the files that a page shows: indented blocks that begin with a comment with the path."""
    for block in re.findall(r"(?m)((?:^ {4,}.*\n|^\n)+)", text):
        for part in re.split(r"(?m)^ +# (?=(?:/\S+|pillar)\b)", block)[1:]:
            first, _, rest = part.partition("\n")
            yield first, "\n".join(line[4:] for line in rest.splitlines())


def test_a_file_of_the_masters_configuration_is_shown_once():
    named = [name for page in PAGES for name, _ in indented_files(text_of(page)) if "master.d" in name]
    assert len(named) > 2 and len(named) == len(set(named))
    # One that a docstring names, too, is for the same.
    assert "`/etc/salt/master.d/postfix_mta_peer.conf`" in text_of("docs/reference/functions.md")
    assert "/etc/salt/master.d/postfix_mta_peer.conf" in named


@pytest.mark.parametrize("page", PAGES)
def test_every_yaml_file_that_a_page_shows_can_be_read(page):
    for name, contents in indented_files(text_of(page)):
        assert isinstance(yaml.safe_load(contents), dict), f"{page}: {name}"
    for example in console.examples(text_of(page)):
        if example.command.startswith("cat "):
            assert isinstance(yaml.safe_load("\n".join(example.output)), dict)


def test_every_page_with_examples_is_run():
    suite = text_of("test/integration/docs/test_docs.py")
    for page in PAGES:
        assert not console.examples(text_of(page)) or f'"{page}"' in suite, page


NOT_RUN = console.NotRun(yaml.safe_load(text_of("test/integration/docs/not-run.yaml")))
# The pages whose commands suite docs asks for; those of docs/reference are examples of single functions.
READ = [page for page in PAGES if not page.startswith(("docs/reference/", "CHANGELOG", "SECURITY"))]


def test_a_command_that_is_not_run_has_a_reason_or_another_test():
    for rule in NOT_RUN.rules:
        assert ("why" in rule) != ("test" in rule), rule
        assert "test" not in rule or rule["words"] in text_of(rule["test"]), rule


def test_nothing_is_left_out_that_no_document_has():
    commands = [step.command for page in READ for step in console.steps(text_of(page))]
    used = [id(NOT_RUN.rule(command)) for command in commands]
    assert [rule["begins"] for rule in NOT_RUN.rules if id(rule) not in used] == []


def test_a_documents_commands_are_found():
    text = (
        "# A page\n\nWrite `salt 'mail*' test.ping`, not `salt`, and\n\n    sudo bin/apply x  # y\n    k: {}\n\n"
        "```console\n$ bin/export\nall of it\n```\n\n`bin/test [SUITE]` is a form.\n\n```bash\nsalt no\n```\n"
        "| one | `bin/apply call x` |\n"
    )
    assert console.steps(text) == [
        ("salt 'mail*' test.ping", None),
        ("sudo bin/apply x", None),
        ("bin/export", ["all of it"]),
        ("bin/apply call x", None),
    ]


@pytest.mark.parametrize("page", READ)
def test_what_a_command_of_bin_test_names_exists(page):
    for step in console.steps(text_of(page)):
        program, _, words = step.command.partition(" ")
        command, *rest = words.split()
        if program != "bin/test" or not rest or rest[0].startswith("-"):
            continue
        if command in ("pytest", "unit"):
            path, _, name = rest[0].partition("::")
            assert f"def {name}" in text_of(path), step.command
            assert "-k" not in rest or rest[rest.index("-k") + 1] in text_of(path), step.command
        elif command == "integration":
            assert kitchen.choose([word for word in rest if not word.startswith("-")]), step.command


@pytest.mark.parametrize(
    ("expected", "printed", "first"),
    [
        (["a", "b"], ["a", "b", ""], None),
        (["a", "b"], ["a", "c"], "b"),
        (["a"], ["a", "b"], "b"),
        (["a", "...", "d"], ["a", "b", "c", "d"], None),
        (["...", "b", "d"], ["a", "b", "c", "b", "d"], None),
        (["...", "x", "..."], ["a"], "x"),
        (["took 1.5 s"], ["took 22.0 s"], None),
        (["size 1"], ["size 2"], "size 1"),
    ],
)
def test_shown_output_is_compared(expected, printed, first):
    assert console.missing(expected, printed) == first


def test_every_event_is_described():
    described = text_of("docs/events.md")
    for path in [*(REPOSITORY / "_modules").glob("*.py"), REPOSITORY / "postfix_mta" / "reactor" / "react.sls"]:
        for tag in re.findall(r"['\"](postfix_mta/[a-z_]+)['\"]", path.read_text(encoding="utf-8")):
            assert f"`{tag}`" in described, f"{path.name}: {tag}"


def test_every_path_of_the_formula_is_on_the_page_about_the_host():
    described = text_of("docs/reference/host.md")
    for path in [*(REPOSITORY / "_modules").glob("*.py"), REPOSITORY / "bin" / "apply"]:
        for name in re.findall(r"[\"'](/[\w./-]*postfix[-_]mta[\w./-]*)[\"']", path.read_text(encoding="utf-8")):
            known = name in described or any(part in name for part in ("/var/lib/postfix_mta/", "/usr/share/"))
            assert known, f"{path.name}: {name}"


def test_every_public_function_is_in_the_reference():
    for folder, page in (("_modules", "functions"), ("_states", "states"), ("_runners", "runners")):
        described = text_of(f"docs/reference/{page}.md")
        for path in (REPOSITORY / folder).glob("[!_]*.py"):
            for name in functions(folder, path.stem):
                assert name.startswith("_") or f"### {path.stem}.{name}\n" in described
