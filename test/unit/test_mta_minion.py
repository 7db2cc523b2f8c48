"""Files in the minion's ``minion.d``, and the minion that runs."""

import pytest
from salt.exceptions import CommandExecutionError

import _mta_minion_config


@pytest.fixture
def file(opts, tmp_path):
    """Where a file of the formula is; the minion's configuration is below ``tmp_path``."""
    opts["default_include"] = "minion.d/*.conf"
    opts["conf_file"] = str(tmp_path / "etc" / "minion")
    opts["sock_dir"] = str(tmp_path)
    return tmp_path / "etc" / "minion.d" / "postfix_mta.conf"


def test_what_is_written_is_read_and_an_empty_value_leaves_no_file(file, minion):
    assert _mta_minion_config.path(minion, "postfix_mta.conf") == str(file)
    _mta_minion_config.write(minion, "postfix_mta.conf", "beacons", {"a": [{"b": 1}]}, "postfix_mta:beacon")
    assert _mta_minion_config.read(minion, "postfix_mta.conf", "beacons") == {"a": [{"b": 1}]}
    assert _mta_minion_config.read(minion, "postfix_mta.conf", "schedule") == {}
    assert file.read_text().startswith("# From the pillar's postfix_mta:beacon.\n")
    for _ in range(2):
        _mta_minion_config.write(minion, "postfix_mta.conf", "beacons", {}, "postfix_mta:beacon")
        assert not file.exists()


@pytest.mark.parametrize("text", ["", "beacons: [", "- beacons", "beacons: 7", "beacons:"])
def test_a_damaged_file_gives_nothing(file, minion, text):
    file.parent.mkdir(parents=True)
    file.write_text(text)
    assert _mta_minion_config.read(minion, "postfix_mta.conf", "beacons") == {}


def test_a_file_that_cannot_be_written_is_an_error(file, minion):
    file.parent.parent.write_text("no directory")
    with pytest.raises(CommandExecutionError, match="Cannot write"):
        _mta_minion_config.write(minion, "postfix_mta.conf", "beacons", {"a": []}, "postfix_mta:beacon")


def test_only_a_minion_that_runs_is_told(file, minion, pretend, tmp_path):
    told = []
    pretend("event.fire", lambda *event: told.append(event))
    assert _mta_minion_config.tell(minion, {"a": 1}, "tag") is False
    (tmp_path / "minion_event_0123_pull.ipc").touch()
    assert _mta_minion_config.tell(minion, {"a": 1}, "tag") is True
    assert told == [({"a": 1}, "tag")]


@pytest.mark.parametrize(
    ("cli", "client", "own"),
    [("salt-minion", "remote", True), ("salt-call", "remote", False), ("salt-minion", "local", False)],
)
def test_a_process_of_the_minion_is_known(opts, request, cli, client, own):
    opts.update(__cli=cli, file_client=client)
    assert request.getfixturevalue("modules")["mta_minion.is_this"]() is own
