"""A clean-up of files in which somebody else has set something, too."""

import pytest
from conftest import MAIN, MASTER

import _mta_aliases
import _mta_clean
import _mta_postfix_edit
import _mta_postfix_view
import _mta_restore
import _mta_snapshots
from _mta_plan import Plan

OURS = {"parameters": {"message_size_limit": 5}, "revert": ["message_size_limit"]}


@pytest.fixture
def host(configuration, minion, written, commands, monkeypatch, tmp_path):
    """A host on which an apply has set a parameter and an alias."""
    aliases = tmp_path / "aliases"
    aliases.write_text("postmaster: root\n")
    first = {configuration.path: MAIN, "main.cf": MAIN, "master.cf": MASTER, "aliases": aliases.read_text()}
    monkeypatch.setattr(_mta_snapshots, "content", lambda minion, path: first[path.rpartition("/")[2]].encode())
    monkeypatch.setattr(_mta_postfix_view, "CONFIG_DIRECTORY", configuration.path)
    monkeypatch.setattr(_mta_aliases, "ALIASES", str(aliases))
    monkeypatch.setattr(_mta_restore, "edited", lambda minion: set())
    asked = []

    def restore_plan(minion, theirs, after):
        assert after is None or "message_size_limit" not in after[0]
        asked.append(sorted(path.rpartition("/")[2] for path in theirs))
        return Plan({"whole": {}})

    monkeypatch.setattr(_mta_restore, "restore_plan", restore_plan)
    configuration.apply(**OURS)
    configuration.asked = asked
    return configuration


def test_files_that_are_ours_alone_are_restored_whole(host, minion):
    assert _mta_clean.plan(minion).changes == {"whole": {}}
    assert host.asked == [[]]


def test_what_somebody_has_set_before_a_later_apply_stays(host, minion):
    host.write(host.main() + "delay_warning_time = 4h\n")
    plan = _mta_clean.plan(minion)
    assert plan.changes == {"message_size_limit": {"old": "5", "new": None}, "whole": {}}
    assert host.asked == [["main.cf", "master.cf"]]
    # What is planned here is announced to nobody else.
    assert "postconf" not in _mta_clean.Run.of(minion).changes


def test_an_edited_file_is_restored_item_by_item_in_the_transaction_of_the_rest(host, minion, monkeypatch):
    done = []
    monkeypatch.setattr(_mta_restore, "edited", lambda minion: {f"{host.path}/master.cf"})
    monkeypatch.setattr(_mta_restore, "restore_apply", lambda minion, theirs: done.append(len(theirs)))
    _mta_clean.apply(minion)
    assert "message_size_limit" not in host.main()
    assert done == [2]


def test_without_a_complete_record_nobody_knows_whose_it_is(host, minion):
    minion.state.write("postconf.json", {host.path: {}})
    host.write(host.main() + "delay_warning_time = 4h\n")
    assert not _mta_postfix_edit.shared(minion, host.path)
