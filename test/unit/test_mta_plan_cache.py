"""What was found good is believed for as long as it rests on the same, and not longer."""

import dataclasses
import datetime
import os
import stat

import pytest

import _mta_plan_cache

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
