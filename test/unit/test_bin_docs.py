"""What bin/docs writes: pillar.example and the reference of the pillar's keys, from defaults and schema."""

import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from conftest import load_program

import _mta_pillar_schema
import _mta_pillar_types

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
DEFAULTS = (REPOSITORY / "postfix_mta" / "defaults.yaml").read_text()
Value = _mta_pillar_schema.Value


@pytest.fixture(scope="module")
def docs():
    """The module that bin/docs is."""
    writes = sys.dont_write_bytecode
    module = load_program("docs")
    sys.dont_write_bytecode = writes
    return module


@pytest.fixture
def tree(tmp_path):
    """A copy of what it reads and writes."""
    library = ("_modules/_mta_pillar_schema.py", "_modules/_mta_records.py")
    for name in ("bin/docs", "postfix_mta/defaults.yaml", "pillar.example", *library):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / name, tmp_path / name)
    shutil.copytree(REPOSITORY / "docs", tmp_path / "docs")
    return tmp_path


def run(tree, *options):
    command = [sys.executable, "-I", tree / "bin/docs", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_what_is_committed_is_what_it_writes():
    done = run(REPOSITORY, "--check")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("postfix_mta/defaults.yaml", "threads: 5", "threads: 6"),
        ("postfix_mta/defaults.yaml", "# Its port.", "# The port."),
        ("docs/reference/pillar.md", "whole number", "number"),
    ],
)
def test_a_check_finds_what_is_not_written_yet(tree, file, old, new):
    path = tree / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    done = run(tree, "--check")
    assert done.returncode == 1
    assert "docs/reference/pillar.md: not what bin/docs writes" in done.stderr
    assert run(tree).returncode == run(tree, "--check").returncode == 0
    if file.startswith("postfix_mta"):
        assert new in (tree / "pillar.example").read_text()
        page = (tree / "docs/reference/pillar.md").read_text()
        assert new.removeprefix("threads: ").removeprefix("# ") in page


def test_the_keys_of_the_schema_are_those_of_the_defaults_in_the_same_order(docs):
    def keys(tree, schema, prefix=""):
        for key, below in tree.items():
            # A subject is empty by default; each of its keys may be given.
            if isinstance(below, dict) and below:
                yield from keys(below, schema[key], f"{prefix}{key}:")
            elif isinstance(schema[key], Value):
                yield prefix + key
            else:
                yield from (f"{prefix}{key}:{name}" for name in schema[key])

    defaults = yaml.safe_load(DEFAULTS)["postfix_mta"]
    known = list(keys(defaults, _mta_pillar_schema.SCHEMA))
    assert sorted(known) == sorted(path for path, _ in docs.leaves(_mta_pillar_schema.SCHEMA))
    assert list(defaults) == list(_mta_pillar_schema.SCHEMA)


def test_every_default_has_its_explanation_directly_above():
    lines = DEFAULTS.splitlines()
    for number, line in enumerate(lines):
        if re.match(r" +[a-z_]+: .", line) and not re.match(r" +#", line):
            above = number
            while re.match(r" +[a-z_]+:", lines[above]):
                above -= 1
            assert lines[above].lstrip().startswith("#"), line


def test_the_example_has_the_defaults():
    example = (REPOSITORY / "pillar.example").read_text()
    assert yaml.safe_load(example) == yaml.safe_load(DEFAULTS)
    for line in DEFAULTS[DEFAULTS.index("postfix_mta:") :].splitlines():
        assert line in example


class TestReference:
    @pytest.fixture(scope="class")
    def page(self):
        return (REPOSITORY / "docs/reference/pillar.md").read_text()

    def test_every_key_has_a_row_with_its_type_and_default(self, docs, page):
        rows = {row[0]: row[1:] for row in re.findall(r"(?m)^\| `(\S+)` \| (.+) \| (\S.*) \|$", page)}
        for path, value in docs.leaves(_mta_pillar_schema.SCHEMA):
            assert rows[path][0], path
            below = value.options.get("of")
            for key in below.options.get("schema", ()) if below else ():
                assert f"{path}:NAME:{key}" in rows
        assert rows["sasl:threads"] == ("whole number: 0 to 1,000", "`5`")
        assert rows["sasl:directory_mode"][1] == '`"0755"`'
        assert rows["relay:tls"] == ("text: `starttls`, `implicit`, `none`", "`starttls`")
        assert rows["certificate:subject:country"] == ("text: two letters, such as DE", "none")

    def test_no_word_of_an_explanation_is_lost(self, page):
        text = re.sub(r"[`\\]|^- |^ +", "", page, flags=re.MULTILINE)
        for line in DEFAULTS[DEFAULTS.index("postfix_mta:") :].splitlines():
            words = re.sub(r"^ *# *(-{3,} )?|`", "", line).strip()
            if line.lstrip().startswith("#") and words:
                assert words in text, line

    def test_code_is_apart_from_sentences(self, page):
        parts = page.split("```")
        assert len(parts) % 2 == 1
        for part in parts[1::2]:
            assert part.startswith("text\n") and part.endswith("\n")
            assert "\n| " not in part and "\n#" not in part


def test_every_type_of_the_schema_has_a_checker_and_words(docs):
    def values(schema):
        for rule in schema.values():
            if not isinstance(rule, Value):
                yield from values(rule)
                continue
            yield rule
            below = rule.options.get("of")
            yield from [below] if below and "schema" not in below.options else []
            yield from values(below.options["schema"]) if below and "schema" in below.options else []

    found = list(values(_mta_pillar_schema.SCHEMA))
    assert {value.type for value in found} <= {*_mta_pillar_types.CHECKERS}
    assert all(docs.described(value) for value in found)
    used = {value.type for value in found} | {"section", "table"}
    assert {*_mta_pillar_types.CHECKERS} == used
    assert {*_mta_pillar_schema.WORDS} <= used
