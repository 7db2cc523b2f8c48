"""bin/export: its arguments, and what it makes of Salt's output."""

import argparse
import pathlib
import shutil
import subprocess
import sys

import pytest
from conftest import load_program

pytestmark = pytest.mark.once

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "bin" / "export"


@pytest.fixture
def export(monkeypatch):
    """The script as a module."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return load_program("export")


@pytest.fixture
def run(export, tmp_path, monkeypatch):
    """Run it with a salt-call that writes its arguments to a file and prints a text; text and arguments."""

    def with_salt(script, convert=None, python=None, include=()):
        salt_call = tmp_path / "salt-call"
        salt_call.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\n{script}\n')
        salt_call.chmod(0o755)
        apply = export.bin_apply()
        monkeypatch.setattr(apply, "interpreter", lambda _: python)
        monkeypatch.setattr(apply, "CACHE", tmp_path / "cache")
        private = tmp_path / "private"
        shutil.rmtree(private, ignore_errors=True)
        private.mkdir()
        arguments = argparse.Namespace(convert=convert, no_probe=False, include=list(include))
        try:
            return export.export(apply, str(salt_call), private, arguments)
        except apply.Stop as reason:
            return f"stopped: {reason}"

    return with_salt


@pytest.mark.parametrize(
    "arguments", [["x"], ["--convert", "/no/such"], ["--x"], ["--convert", "/etc/hosts", "--check"]]
)
def test_wrong_arguments_end_with_2_and_the_usage(arguments):
    done = subprocess.run([str(SCRIPT), *arguments], stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: bin/export")


def test_it_prints_what_the_function_returns(run, tmp_path):
    assert run("""echo '{"local": "#!yaml\\\\na: b"}'""") == "#!yaml\na: b"
    words = (tmp_path / "arguments").read_text().split()
    assert words[-2:] == ["postconf.export", "probe=True"]
    assert f"--config-dir={tmp_path}/private" in words


def test_what_is_to_be_included_is_handed_on(run, tmp_path):
    run("""echo '{"local": "#!yaml"}'""", include=["parameters:a", "b c"])
    assert 'include=["parameters:a", "b c"]' in (tmp_path / "arguments").read_text()


@pytest.mark.parametrize(
    ("states", "proof"),
    [
        ([{"result": True, "changes": {}}], True),
        ([{"result": True, "changes": {}}, {"result": None, "changes": {"a": 1}}], False),
        ([{"result": False, "changes": {}}], False),
    ],
)
def test_the_proof_is_a_dry_run_of_what_was_exported(export, tmp_path, monkeypatch, capsys, states, proof):
    apply = export.bin_apply()
    monkeypatch.setattr(apply, "CACHE", tmp_path / "cache")
    seen = []

    def run(salt_call, directory, test, _screen, _pillar):
        seen.append((salt_call, (directory / "pillar" / "given.sls").read_text(), test))
        return {
            f"a_|-{number}_|-x_|-b": {"comment": "said", "name": "x", **one} for number, one in enumerate(states)
        }

    monkeypatch.setattr(apply, "run", run)
    text = "#!yaml\npostfix_mta:\n  hostname: mx.example.org\n"
    assert export.changes_nothing(apply, "salt-call", tmp_path / "check", text) is proof
    assert seen == [("salt-call", text, True)]
    said = capsys.readouterr()
    assert ("Proof: none of the 1 states" in said.err) is proof
    assert said.out == ""


def test_a_file_to_convert_is_the_pillar_of_that_run(run, tmp_path):
    old = tmp_path / "old.sls"
    old.write_text("postfix: {}\n")
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho \"$@\" > {tmp_path}/arguments\nprintf '#!yaml\\na: b'\n")
    python.chmod(0o755)
    assert run("exit 1", convert=old, python=str(python)) == "#!yaml\na: b"
    assert (tmp_path / "arguments").read_text().split() == [
        "-I",
        str(SCRIPT.with_name("convert")),
        f"{tmp_path}/private",
    ]
    assert (tmp_path / "private" / "pillar" / "given.sls").read_text() == "postfix: {}\n"


def test_a_file_that_cannot_be_converted_is_told_without_a_traceback(run, tmp_path):
    old, python = tmp_path / "old.sls", tmp_path / "python"
    old.write_text("postfix: {\n")
    python.write_text("#!/bin/sh\nprintf 'failed\\nTraceback x\\n' >&2; exit 1\n")
    python.chmod(0o755)
    assert run("exit 1", convert=old, python=str(python)) == "stopped: failed"
    assert "does not say which Python" in run("exit 1", convert=old)


@pytest.mark.parametrize(
    "script", ["echo no json; exit 1", """echo '{"local": "ERROR: main.cf, line 3"}'; exit 1"""]
)
def test_an_error_is_told_and_not_printed_as_pillar(run, script):
    said = run(script)
    assert said.startswith("stopped: ")
    assert "no json" in said or "main.cf, line 3" in said
