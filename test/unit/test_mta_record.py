"""The record of the last apply: when it is written, when it is only touched, and what counts as drift."""

import json
import os
import stat

import pytest


@pytest.fixture
def config(tmp_path, modules, monkeypatch):
    """Postfix's configuration directory, with both files."""
    directory = tmp_path / "postfix"
    directory.mkdir()
    for name in ("main.cf", "master.cf"):
        (directory / name).write_text(f"# {name}\n")
    monkeypatch.setitem(modules["mta_record.last"].func.__globals__, "CONFIG_DIRECTORY", str(directory))
    return directory


@pytest.fixture
def record(modules, config):
    """The module's functions by name."""
    return lambda function, *args, **kwargs: modules[f"mta_record.{function}"](*args, **kwargs)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "state" / "last_apply"


def test_without_an_apply_nothing_is_known(record):
    assert record("last") is None
    assert record("drift") is None


def test_a_change_is_written_down_for_root_alone(record, file):
    record("note", "changed", changed=["postconf", "mta_map"], now=1000)
    last = record("last")
    assert (last["result"], last["time"], last["commit"], last["confirmed"]) == ("changed", 1000, 1000, 1000)
    assert last["changed"] == ["mta_map", "postconf"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert record("drift") == []


def test_an_apply_that_found_nothing_to_do_only_touches_the_record(record, file):
    record("note", "changed", now=1000)
    before = file.stat().st_ino, file.read_bytes()
    record("note", "unchanged", now=2000)
    assert (file.stat().st_ino, file.read_bytes()) == before
    assert (record("last")["time"], record("last")["confirmed"]) == (1000, 2000)


def test_the_first_apply_leaves_a_record_even_if_it_changed_nothing(record):
    record("note", "unchanged", now=1000)
    assert (record("last")["result"], record("last")["commit"]) == ("unchanged", None)
    assert record("drift") == []


def test_a_failure_is_told_with_its_reason_and_keeps_what_was_right(record, config):
    record("note", "changed", now=1000)
    record("note", "failed", reason="451 4.3.0", config=False, now=2000)
    last = record("last")
    assert (last["result"], last["reason"], last["commit"]) == ("failed", "451 4.3.0", 1000)
    assert record("drift") == []
    (config / "main.cf").write_text("by hand\n")
    assert record("drift") == [str(config / "main.cf")]


def test_a_failure_is_over_with_the_next_good_apply(record):
    record("note", "changed", now=1000)
    record("note", "failed", reason="no", config=False, now=2000)
    record("note", "unchanged", now=3000)
    assert (record("last")["result"], record("last")["reason"]) == ("unchanged", None)
    assert (record("last")["time"], record("last")["commit"]) == (3000, 1000)


def test_another_revision_is_written_down(record, file, pretend):
    record("note", "changed", now=1000)
    pretend("mta_settings.revision", lambda: "another")
    record("note", "unchanged", now=2000)
    assert (record("last")["revision"], record("last")["commit"]) == ("another", 1000)


@pytest.mark.parametrize("name", ["main.cf", "master.cf"])
def test_an_edit_and_a_loss_are_drift(record, config, name):
    record("note", "changed")
    (config / name).write_text("another\n")
    assert record("drift") == [str(config / name)]
    (config / name).unlink()
    assert record("drift") == [str(config / name)]


def test_the_same_text_in_a_new_file_is_no_drift(record, config):
    record("note", "changed")
    (config / "new").write_text("# main.cf\n")
    os.replace(config / "new", config / "main.cf")
    assert record("drift") == []


def test_while_nothing_was_touched_no_file_is_read(record, config, modules, monkeypatch):
    record("note", "changed")
    monkeypatch.setitem(modules["mta_record.last"].func.__globals__, "_digest", None)
    assert record("drift") == []


def test_what_an_apply_of_all_found_good_is_no_drift_any_more(record, config):
    record("note", "changed", now=1000)
    (config / "main.cf").write_text("one more parameter\n")
    record("note", "unchanged", config=False, now=2000)
    assert record("drift") == [str(config / "main.cf")]
    record("note", "unchanged", now=3000)
    assert record("drift") == []


def test_a_part_alone_does_not_say_that_main_cf_is_good(record, config):
    record("note", "changed", now=1000)
    (config / "main.cf").write_text("by hand\n")
    record("note", "changed", changed=["mta_aliases"], config=False, now=2000)
    assert record("drift") == [str(config / "main.cf")]


@pytest.mark.parametrize("contents", ["", "{", "[]", '{"time": "x"}', json.dumps({"result": "changed"})])
def test_a_record_that_cannot_be_read_is_none(record, file, contents):
    file.parent.mkdir()
    file.write_text(contents)
    assert record("last") is None
    record("note", "unchanged", now=1000)
    assert record("last")["result"] == "unchanged"


def test_where_it_cannot_be_written_the_apply_goes_on(record, tmp_path):
    (tmp_path / "state").write_text("in the way")
    record("note", "changed")
    assert record("last") is None


def test_it_can_be_forgotten(record):
    record("note", "changed")
    record("forget")
    record("forget")
    assert record("last") is None
