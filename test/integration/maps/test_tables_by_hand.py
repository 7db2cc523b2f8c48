"""Tables that somebody compiled by hand: what holds what it should is left alone, what does not is noticed."""

import json
import pathlib

import pytest

from rig import results

SCRIPT = pathlib.Path(__file__).with_name("by_hand.py")
PLACE = "/srv/by-hand"
INDEXED = ("hash", "btree", "lmdb", "cdb")
NUMBERS = {"hash": (1, 16, 40), "btree": (8, 40), "lmdb": (16,), "cdb": (16,)}
RIGHT = [
    *(f"{kind}, {number} entries" for kind, numbers in NUMBERS.items() for number in numbers),
    *(f"{kind}, filled anew" for kind in INDEXED),
    *(f"{kind}, in another order" for kind in INDEXED if kind != "cdb"),
    *(f"aliases, {kind}, {number} lists" for kind, numbers in NUMBERS.items() for number in numbers),
    "Latin-1",
    "SNI",
    "SNI then",
]
HARM = ("cut", "cut at a page", "another value", "another key", "nonsense", "empty", "one more", "one less")
WRONG = [*(f"{kind}, {harm}" for kind in INDEXED for harm in HARM), "SNI, another key", "SNI, only names"]


@pytest.fixture(scope="module")
def found(container):
    """What by_hand.py found, by the name of the case."""
    kinds = {kind: {"type": kind, "entries": {"a": "b"}} for kind in INDEXED}
    applied = container.apply(pillar={"postfix_mta": {"root_recipient": "nobody", "maps": kinds}})
    assert not results.failures(applied)
    container.put({f"{PLACE}/by_hand.py": SCRIPT})
    done = container.exec(["/opt/salt/bin/python", f"{PLACE}/by_hand.py", f"{PLACE}/result"], check=False)
    assert container.exec(["test", "-s", f"{PLACE}/result"], check=False).returncode == 0, done.stderr
    return json.loads(container.exec(["cat", f"{PLACE}/result"]).stdout)


def test_every_case_could_be_tried(found):
    assert found["errors"] == []


@pytest.mark.parametrize("case", RIGHT)
def test_a_table_that_holds_what_it_should_is_left_alone(found, case):
    assert found[case] == {}


@pytest.mark.parametrize("case", WRONG)
def test_a_table_that_does_not_is_noticed(found, case):
    change = {"old": "damaged, or not made from its source", "new": "as its source"}
    assert found[case] == {"compiled": change, "activation": "reload"}


def test_aliases_in_latin_1_are_not_lost_where_postfix_takes_them(found):
    assert found["Latin-1 after an apply"] is True


@pytest.mark.parametrize("case", ["SNI after an apply", "SNI before main.cf names it"])
def test_a_table_of_certificates_holds_them_and_is_for_root_alone(found, case):
    assert found[case] == [True, "0o100600"]


def test_the_types_are_known_whatever_is_wrong_in_main_cf(found):
    new = "user16@example.com"
    assert list(found["fatal main.cf"]) == [new, "activation"]
    assert {"hash", "lmdb", "pcre"} <= set(found["recorded types"])
