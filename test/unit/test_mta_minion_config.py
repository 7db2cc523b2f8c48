"""Files in the minion's ``minion.d``, and the minion that runs."""

import pytest
from salt.exceptions import CommandExecutionError

import _mta_minion_config


@pytest.fixture
def options(tmp_path):
    """Options of a minion whose configuration is below ``tmp_path``."""
    return {
        "default_include": "minion.d/*.conf",
        "conf_file": str(tmp_path / "etc" / "minion"),
        "sock_dir": str(tmp_path),
    }


@pytest.fixture
def file(tmp_path):
    """Where a file of the formula is."""
    return tmp_path / "etc" / "minion.d" / "postfix_mta.conf"


def test_what_is_written_is_read_and_an_empty_value_leaves_no_file(file, options):
    assert _mta_minion_config.path(options, "postfix_mta.conf") == str(file)
    _mta_minion_config.write(options, "postfix_mta.conf", "beacons", {"a": [{"b": 1}]}, "postfix_mta:beacon")
    assert _mta_minion_config.read(options, "postfix_mta.conf", "beacons") == {"a": [{"b": 1}]}
    assert _mta_minion_config.read(options, "postfix_mta.conf", "schedule") == {}
    assert file.read_text().startswith("# From the pillar's postfix_mta:beacon.\n")
    for _ in range(2):
        _mta_minion_config.write(options, "postfix_mta.conf", "beacons", {}, "postfix_mta:beacon")
        assert not file.exists()


@pytest.mark.parametrize("text", ["", "beacons: [", "- beacons", "beacons: 7", "beacons:"])
def test_a_damaged_file_gives_nothing(file, options, text):
    file.parent.mkdir(parents=True)
    file.write_text(text)
    assert _mta_minion_config.read(options, "postfix_mta.conf", "beacons") == {}


def test_a_file_that_cannot_be_written_is_an_error(file, options):
    file.parent.parent.write_text("no directory")
    with pytest.raises(CommandExecutionError, match="Cannot write"):
        _mta_minion_config.write(options, "postfix_mta.conf", "beacons", {"a": []}, "postfix_mta:beacon")


def test_only_a_minion_that_runs_is_told(options, minion, pretend, tmp_path, listening):
    minion.opts.update(options)
    told = []
    pretend("event.fire", lambda *event: told.append(event))
    assert _mta_minion_config.tell(minion, {"a": 1}, "tag") is False
    listening(tmp_path / "minion_event_0123_pull.ipc")
    assert _mta_minion_config.tell(minion, {"a": 1}, "tag") is True
    assert told == [({"a": 1}, "tag")]


@pytest.mark.parametrize(
    ("cli", "client", "own"),
    [("salt-minion", "remote", True), ("salt-call", "remote", False), ("salt-minion", "local", False)],
)
def test_a_process_of_the_minion_is_known(cli, client, own):
    assert _mta_minion_config.is_this({"__cli": cli, "file_client": client}) is own


A, B = {"a": 1}, {"b": 2}


@pytest.mark.parametrize(
    ("wanted", "present", "running", "old"),
    [
        (A, A, A, "no change"),
        (A, A, None, "no change"),
        ({}, {}, {}, "no change"),
        (A, {}, {}, None),
        (A, B, A, B),
        (A, A, {}, None),
        (A, A, B, B),
        ({}, {}, B, B),
        ({}, B, None, B),
    ],
)
def test_an_item_is_right_in_the_file_and_in_the_minion_that_runs(wanted, present, running, old):
    plan = _mta_minion_config.planned("item", wanted, present, running)
    assert plan.changes == ({} if old == "no change" else {"item": {"old": old, "new": wanted or None}})
