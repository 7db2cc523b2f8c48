"""What is remembered outlives a process, is whole, and is root's."""

import os
import stat

import pytest
from salt.exceptions import CommandExecutionError


def test_what_was_written_is_read_and_forgotten(minion, tmp_path):
    minion.state.write("x.json", {"a": [1, None]})
    minion.state.write("x.json", {"a": [2, None]})
    assert minion.state.read("x.json") == {"a": [2, None]}
    assert os.listdir(tmp_path / "state") == ["x.json"]
    minion.state.forget("x.json")
    minion.state.forget("x.json")
    assert minion.state.read("x.json") == {}


def test_nobody_else_can_read_it(minion, tmp_path):
    minion.state.write("x.json", {})
    assert stat.S_IMODE(os.stat(tmp_path / "state").st_mode) == 0o700
    assert stat.S_IMODE(os.stat(tmp_path / "state" / "x.json").st_mode) == 0o600


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_a_damaged_file_is_as_none(minion, tmp_path, content):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "x.json").write_bytes(content)
    assert minion.state.read("x.json") == {}


def test_a_disk_that_cannot_be_written_is_an_error_that_names_the_file(minion, tmp_path):
    (tmp_path / "state").write_text("not a directory")
    with pytest.raises(CommandExecutionError, match=r"x\.json"):
        minion.state.write("x.json", {})
