"""What was found good is believed for as long as it rests on the same, and not longer."""

import dataclasses
import datetime
import json
import os
import stat
import time

import pytest
from salt.exceptions import CommandExecutionError

import _mta_plan_cache
import _mta_system
import _mta_tables
import _mta_transaction

EVIDENCE = ["name", {"days": 90}, [(b"pem", 0o600, 0, 0)]]
SAID = {"comment": "all is well"}


@pytest.fixture
def recall(minion):
    _mta_plan_cache.remember(minion, "pair", EVIDENCE, SAID, 100, 200)
    return lambda evidence=EVIDENCE, now=150, subject="pair": _mta_plan_cache.recall(
        minion, subject, evidence, now
    )


def test_it_is_believed_while_nothing_has_changed(recall):
    assert recall() == SAID


@pytest.mark.parametrize("now", [0, 99, 200, 1000])
def test_it_holds_for_its_time_only(recall, now):
    assert recall(now=now) is None


@pytest.mark.parametrize(
    "evidence",
    [
        [],
        ["name", {"days": 91}, [(b"pem", 0o600, 0, 0)]],
        ["name", {"days": 90}, [(b"per", 0o600, 0, 0)]],
        ["name", {"days": 90}, [(b"pem", 0o644, 0, 0)]],
        ["name", {"days": "90"}, [(b"pem", 0o600, 0, 0)]],
        ["name", {"days": 90}, [None]],
    ],
)
def test_another_evidence_is_judged_again(recall, evidence):
    assert recall(evidence) is None


def test_another_subject_has_no_plan(recall):
    assert recall(subject="other") is None


def test_another_revision_of_the_formula_judges_again(recall, monkeypatch):
    monkeypatch.setattr(_mta_plan_cache, "REVISION", "another")
    assert recall() is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"since": "x", "until": 1, "digest": ""}'])
def test_a_damaged_file_is_no_plan(recall, tmp_path, content):
    (file,) = (tmp_path / "state" / "verdicts").iterdir()
    file.write_bytes(content)
    assert recall() is None


def test_nobody_else_can_read_or_plant_one(recall, tmp_path):
    for directory in (tmp_path / "state", tmp_path / "state" / "verdicts"):
        assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700


def test_what_is_another_by_the_end_of_the_judgement_is_not_believed_later(minion):
    """Another apply writes between the look at the evidence and the judgement, and is undone."""
    seen = [["bad"], ["good"]]
    judged = {"changes": {}, "notes": [], "holds": [datetime.datetime.fromtimestamp(when) for when in (100, 200)]}

    def plan(evidence):
        now = datetime.datetime.fromtimestamp(150)
        return _mta_plan_cache.plan(minion, "pair", evidence, lambda: judged, now)

    assert plan(lambda: seen.pop(0)).changes == {}
    assert _mta_plan_cache.recall(minion, "pair", ["bad"], 150) is None
    assert plan(lambda: ["good"]).changes == {}
    assert _mta_plan_cache.recall(minion, "pair", ["good"], 150)


def test_a_disk_that_cannot_be_written_is_no_error(minion, tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "verdicts").write_text("not a directory")
    _mta_plan_cache.remember(minion, "pair", EVIDENCE, SAID, 100, 200)
    assert _mta_plan_cache.recall(minion, "pair", EVIDENCE, 150) is None


class Masked(dict):
    """As the pillar is on a minion with Salt 3008."""

    def __repr__(self):
        return str({key: "**********" for key in self})


@dataclasses.dataclass
class Asked:
    """What a participant is asked for."""

    pillar: dict


@pytest.mark.parametrize(
    "wrap", [lambda value: value, lambda value: [value], Asked], ids=["", "list", "dataclass"]
)
def test_a_value_that_salt_hides_from_repr_is_a_difference_all_the_same(minion, wrap):
    def evidence(size):
        return [wrap(Masked(parameters=Masked(message_size_limit=size)))]

    _mta_plan_cache.remember(minion, "states", evidence(20000000), {"states": "old"}, 0, 100)
    assert _mta_plan_cache.recall(minion, "states", evidence(20000000), 50) == {"states": "old"}
    assert _mta_plan_cache.recall(minion, "states", evidence(30000000), 50) is None


# -- plans that rest on files alone


class Plans:
    """What a run after the other knows of one plan, which looks at a file and a directory."""

    def __init__(self, minion, tmp_path):
        self.minion = minion
        self.folder = tmp_path / "host"
        self.folder.mkdir()
        self.file = self.folder / "file"
        self.file.write_text("as it was")
        self.age()

    def age(self):
        """Nothing has changed lately."""
        time.sleep(0.03)

    def looks(self, minion):
        _mta_system.read(self.file)
        _mta_system.exists(self.folder / "absent")
        _mta_system.is_directory(self.folder)

    def plan(self, looks=None, arguments=None, whole=True, subject="part one"):
        """Plan in a run of its own: the notes of the plan that is remembered, or None when it was made."""
        minion = self.minion._replace(context={})
        arguments = {"threads": 5} if arguments is None else arguments
        notes = _mta_plan_cache.unchanged(minion, subject, arguments)
        if notes is None:
            with _mta_system.watched() as seen:
                (looks or self.looks)(_mta_plan_cache.noticed(minion))
            _mta_plan_cache.note(minion, subject, arguments, seen, ["a note"])
        _mta_plan_cache.keep(minion, whole)
        return notes


@pytest.fixture
def plans(minion, tmp_path, monkeypatch):
    monkeypatch.setattr(_mta_plan_cache, "SETTLED", 10_000_000)
    return Plans(minion, tmp_path)


def test_a_plan_is_made_once_while_its_files_are_the_same(plans):
    assert plans.plan() is None
    assert plans.plan() == ["a note"]
    assert plans.plan() == ["a note"]
    assert plans.plan(arguments={"threads": 6}) is None


def test_a_fact_is_found_once_while_its_files_are_the_same(plans):
    asked = []

    def find():
        asked.append(_mta_system.read(plans.file))
        return [len(asked)]

    def fact(arguments=None):
        found = _mta_plan_cache.fact(plans.minion, "a fact", arguments, find)
        _mta_plan_cache.keep(plans.minion, True)
        return found

    plans.age()
    assert [fact(), fact(), fact("other")] == [[1], [1], [2]]
    edited_unseen(plans.file)
    assert fact("other") == [3]
    assert asked == ["as it was", "as it was", "as it Was"]


def test_who_rests_on_a_fact_that_is_remembered_looks_at_more_than_its_own_files(plans):
    def looks(_minion):
        _mta_plan_cache.fact(plans.minion, "a fact", None, lambda: _mta_system.read(plans.file))

    plans.age()
    looks(None)
    _mta_plan_cache.keep(plans.minion, False)
    plans.plan(looks)
    assert plans.plan(looks) is None


def edited_unseen(file):
    """Other contents of the same length, with the times of the former ones."""
    before = file.stat()
    file.write_text("as it Was")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        edited_unseen,
        lambda file: file.unlink(),
        lambda file: file.chmod(0o600),
        lambda file: (file.rename(f"{file}.other"), file.write_text("as it was")),
        lambda file: (file.rename(f"{file}.other"), file.symlink_to(f"{file}.other")),
        lambda file: file.with_name("absent").write_text(""),
        lambda file: file.parent.chmod(0o750),
        lambda file: (file.parent.rename(f"{file.parent}.other"), file.parent.symlink_to(f"{file.parent}.other")),
    ],
)
def test_any_change_of_a_file_has_it_planned_again(plans, change):
    plans.plan()
    assert plans.plan() == ["a note"]
    change(plans.file)
    assert plans.plan() is None


def test_the_target_of_a_link_counts(plans):
    link = plans.folder / "link"
    link.symlink_to(plans.file)
    plans.age()
    looks = lambda _minion: _mta_system.read(link)  # noqa: E731
    plans.plan(looks)
    assert plans.plan(looks) == ["a note"]
    edited_unseen(plans.file)
    assert plans.plan(looks) is None


def test_the_names_in_a_directory_count_where_they_were_asked_for(plans):
    looks = lambda _minion: _mta_system.names(plans.folder)  # noqa: E731
    plans.age()
    plans.plan(looks)
    assert plans.plan(looks) == ["a note"]
    (plans.folder / "more").touch()
    assert plans.plan(looks) is None


def test_a_file_that_has_changed_a_moment_ago_is_looked_at_again(plans):
    """Another change within the same tick of the clock would not show."""
    plans.file.write_text("something else")
    plans.plan()
    assert plans.plan() is None
    plans.age()
    plans.plan()
    assert plans.plan() == ["a note"]


def test_what_changes_between_the_look_and_the_end_is_not_believed(plans):
    def looks(_minion):
        plans.looks(None)
        edited_unseen(plans.file)
        plans.age()

    plans.plan(looks)
    assert plans.plan() is None


@pytest.mark.parametrize(
    "look",
    [
        lambda minion: minion.pillar.get("password"),
        lambda minion: "password" in minion.pillar,
        lambda minion: minion.functions["cp.cache_file"],
        lambda minion: minion.grains.get("os"),
        lambda minion: list(minion.grains),
        lambda minion: len(minion.pillar),
        lambda _minion: _mta_system.run(["true"]),
    ],
)
def test_who_looks_at_more_than_files_is_not_remembered(plans, look):
    plans.minion.functions["cp.cache_file"] = None
    plans.plan(look)
    assert plans.plan(look) is None


def test_the_hosts_name_is_known(plans):
    looks = lambda minion: minion.grains.get("fqdn")  # noqa: E731
    plans.plan(looks)
    assert plans.plan(looks) == ["a note"]
    plans.minion = plans.minion._replace(grains={**plans.minion.grains, "fqdn": "other.example.com"})
    assert plans.plan(looks) is None


def test_it_holds_no_longer_than_what_it_rests_on(plans, monkeypatch):
    def looks(_minion):
        _mta_system.found_for(1000, 3000)
        _mta_system.found_for(500, 2000)

    clock = [1500]
    monkeypatch.setattr(_mta_plan_cache.time, "time", lambda: clock[0])
    plans.plan(looks)
    assert plans.plan(looks) == ["a note"]
    for clock[0] in (999, 2000):
        assert plans.plan(looks) is None


def test_another_revision_of_the_formula_plans_again(plans, monkeypatch):
    plans.plan()
    monkeypatch.setattr(_mta_plan_cache, "REVISION", "another")
    assert plans.plan() is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda kept: [],
        lambda kept: {**kept, "plans": []},
        lambda kept: {**kept, "plans": {"part one": None}},
        lambda kept: {**kept, "plans": {"part one": {**kept["plans"]["part one"], "since": "x"}}},
        lambda kept: {**kept, "plans": {"part one": {**kept["plans"]["part one"], "files": None}}},
        lambda kept: {**kept, "plans": {"part one": {"files": {}}}},
        lambda kept: {**kept, "plans": {"part one": {**kept["plans"]["part one"], "files": {"a\0b": [1]}}}},
    ],
)
def test_what_is_not_as_it_was_written_is_no_plan(plans, damage):
    plans.plan()
    assert plans.plan() == ["a note"]
    file = plans.minion.state.path(_mta_plan_cache._name(_mta_plan_cache.PLANS))
    with open(file, encoding="utf-8") as handle:
        kept = json.load(handle)
    with open(file, "w", encoding="utf-8") as handle:
        json.dump(damage(kept), handle)
    assert plans.plan() is None
    assert plans.plan() == ["a note"]


def test_what_a_whole_apply_has_not_met_is_forgotten(plans):
    plans.plan(subject="part two")
    plans.plan(whole=False)
    assert plans.plan(subject="part two", whole=False) == ["a note"]
    plans.plan()
    assert plans.plan(subject="part two") is None


def test_a_state_directory_that_cannot_be_written_is_no_error(plans, monkeypatch):
    def full(*_args):
        raise CommandExecutionError("No space left on device")

    monkeypatch.setattr(_mta_system.StateDirectory, "write", full)
    assert plans.plan() is None
    assert plans.plan() is None


def test_of_several_watches_none_misses_a_look(plans):
    """A job of another thread begins before, and ends meanwhile."""
    first, second = _mta_system.watched(), _mta_system.watched()
    job = first.__enter__()
    part = second.__enter__()
    _mta_system.exists("/both")
    first.__exit__(None, None, None)
    _mta_system.exists("/one")
    _mta_system.look_elsewhere()
    second.__exit__(None, None, None)
    _mta_system.exists("/none")
    assert (list(job.files), job.more) == (["/both"], False)
    assert (list(part.files), part.more) == (["/both", "/one"], True)


def test_a_judgement_that_is_made_now_is_recalled_by_the_next_run_and_not_noted_by_this_one(minion):
    now = datetime.datetime.fromtimestamp(150)
    judged = {"changes": {}, "notes": [], "holds": [datetime.datetime.fromtimestamp(when) for when in (100, 200)]}
    for more, basis in ((True, ["a"]), (False, ["a"]), (True, None)):
        with _mta_system.watched() as looks:
            _mta_plan_cache.plan(minion, "pair", lambda: basis, lambda: judged, now)  # noqa: B023
        assert looks.more is more
    with _mta_system.watched() as looks:
        _mta_plan_cache.plan(minion, "pair", lambda: ["a"], lambda: judged, now)
    assert (looks.since, looks.until) == (100, 200)


def test_the_names_in_a_directory_that_is_told_by_its_stamp_count(plans):
    looks = lambda _minion: _mta_tables._stamp(str(plans.folder))  # noqa: E731
    plans.age()
    plans.plan(looks)
    assert plans.plan(looks) == ["a note"]
    (plans.folder / "more").touch()
    assert plans.plan(looks) is None


def test_what_could_not_be_recorded_is_planned_again(plans, pretend):
    """Another apply holds the lock."""

    def busy(*_args):
        raise CommandExecutionError("busy")

    looks = lambda minion: _mta_transaction.alone(minion, lambda: None, wait=False)  # noqa: E731
    pretend("_mta_transaction._lock", busy)
    plans.plan(looks)
    assert plans.plan(looks) is None
