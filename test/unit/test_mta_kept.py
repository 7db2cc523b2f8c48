"""Previous values: kept at the first change, restored when nothing asks, adopted where no record was kept."""

import _mta_kept
from _mta_kept import Record


def same(item, one, other):
    return one == other


def test_the_previous_value_is_that_before_the_first_change():
    record = Record({}, {})
    _mta_kept.note(record, "a", None, 1)
    _mta_kept.note(record, "a", 1, 2)
    assert record == Record({"a": None}, {"a": 2})


def test_what_nothing_asks_for_goes_back_unless_somebody_has_changed_it():
    record = Record(
        {"asked": 1, "back": 1, "theirs": 1, "there again": 1, "old": 1},
        dict.fromkeys(["asked", "back", "theirs", "there again"], 2),
    )
    present = {"asked": 2, "back": 2, "theirs": 3, "there again": 1, "old": 5}
    ended = _mta_kept.ended(record, lambda item: item == "asked", present.get, same)
    assert ended.back == {"back": 1, "old": 1}
    assert ended.theirs == ["theirs"]
    assert _mta_kept.only(record, lambda item: item == "asked") == Record({"asked": 1}, {"asked": 2})


def test_what_has_no_record_is_adopted_where_it_differs_from_what_was_first():
    record = Record({"a": 1}, {"a": 2}, False)
    adopted = _mta_kept.adopted(
        record, ["a", "b", "c"], {"a": 2, "b": 3, "c": 4}.get, {"a": 9, "b": None, "c": 4}.get, same
    )
    assert adopted == Record({"a": 1, "b": None}, {"a": 2, "b": 3})


def test_a_record_is_read_as_it_was_written_and_others_stay(minion):
    minion.state.write("k.json", {"/other": {"x": 1}, "made": {"/other": {"x": 2}}})
    minion.state.write("k.json", _mta_kept.whole(minion.state, "k.json", "/mine", Record({"a": 1}, {"a": 2})))
    assert _mta_kept.read(minion.state, "k.json", "/mine") == Record({"a": 1}, {"a": 2}, True)
    assert _mta_kept.read(minion.state, "k.json", "/other") == Record({"x": 1}, {"x": 2}, False)
    assert _mta_kept.read(minion.state, "none.json", "/mine") == Record({}, {}, False)
