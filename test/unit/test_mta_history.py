"""What the status view remembers: a mark for some hours, the worst of them, for some days."""

import concurrent.futures
import json

import pytest
from salt.exceptions import CommandExecutionError

import _mta_history
from _mta_history import BAD, GOOD, KEPT, SPAN, WARNING, History, Mark, noted

NOW = 1_800_000_000
THIS = NOW // SPAN


def test_a_mark_is_the_worst_of_its_hours():
    marks = {}
    for moment, seen in ((0, (WARNING, 3)), (1, (BAD, None)), (2, (GOOD, 7))):
        marks = noted(marks, {"mail1": seen}, THIS * SPAN + moment)
    assert marks == {"mail1": [Mark(THIS, BAD, 7)]}


def test_the_next_hours_have_a_mark_of_their_own():
    marks = noted(noted({}, {"mail1": (BAD, 1)}, NOW), {"mail1": (GOOD, None)}, NOW + SPAN)
    assert marks == {"mail1": [Mark(THIS, BAD, 1), Mark(THIS + 1, GOOD, None)]}


def test_what_is_not_seen_now_stays_until_it_is_too_old():
    marks = {"gone": [Mark(THIS - KEPT + 1, GOOD, 0)]}
    assert noted(marks, {}, NOW) == marks
    assert noted(marks, {}, NOW + SPAN) == {}


def test_marks_of_a_clock_that_was_ahead_are_dropped():
    assert noted({"mail1": [Mark(THIS + 9, BAD, 0)]}, {"mail1": (GOOD, 1)}, NOW) == {
        "mail1": [Mark(THIS, GOOD, 1)]
    }


@pytest.fixture
def history(tmp_path):
    return History(str(tmp_path / "cache"))


def test_what_was_added_is_there_the_next_time(history):
    history.add({"mail1": (BAD, 4)}, NOW)
    assert history.add({"mail2": (GOOD, None)}, NOW + SPAN) == {
        "mail1": [Mark(THIS, BAD, 4)],
        "mail2": [Mark(THIS + 1, GOOD, None)],
    }
    assert history.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", '{"mail1": 7}', '{"mail1": [7]}', '{"mail1": [[1, 2, 3, 4]]}']
)
def test_a_damaged_file_is_begun_anew(history, text):
    history.add({}, NOW)
    history.path.write_text(text)
    assert history.add({"mail1": (GOOD, 1)}, NOW) == {"mail1": [Mark(THIS, GOOD, 1)]}


@pytest.mark.parametrize("mark", [["x", 0, 0], [THIS, "x", 0], [THIS, 9, 0], [THIS, 0, "x"], [THIS, 0, [1]]])
def test_a_mark_that_is_none_is_dropped(history, mark):
    history.add({}, NOW)
    history.path.write_text(json.dumps({"mail1": [mark]}))
    assert history.add({}, NOW) == {}


def test_those_who_add_at_one_time_lose_nothing(history):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: history.add({f"mail{number}": (GOOD, number)}, NOW), range(16)))
    assert len(history.add({}, NOW)) == 16


def test_what_cannot_be_written_is_told(tmp_path):
    (tmp_path / "postfix_mta").write_text("no directory")
    with pytest.raises(CommandExecutionError, match="Cannot write"):
        History(str(tmp_path)).add({}, NOW)


def test_a_week_is_kept():
    assert _mta_history.SPAN * _mta_history.KEPT == 7 * 86400
