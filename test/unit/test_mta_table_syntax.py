"""The syntax of lookup tables: what is read is what was written, and what is not asked for stays."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from salt.exceptions import SaltInvocationError

import _mta_table_syntax

TABLE = """\
# top
info@example.com   alice,
  # between
  bob
"john doe"@x\tcarol
# end
"""


def edited(kind, text, entries):
    return _mta_table_syntax.edited(kind, text, _mta_table_syntax.wanted(kind, entries)[0])


def test_entries_that_are_written_otherwise_only_are_left():
    assert edited("hash", TABLE, {'"john doe"@x': "carol", "info@example.com": "alice,  bob"}) == TABLE
    assert edited("mysql", "# c\nhosts=a\n  b\n", {"hosts": "a  b"}) == "# c\nhosts=a\n  b\n"


def test_one_entry_changes_and_comments_and_order_stay():
    assert edited("hash", TABLE, {"new": "x", "info@example.com": "dave", '"john doe"@x': "carol"}) == (
        '# top\ninfo@example.com dave\n  # between\n"john doe"@x\tcarol\n# end\nnew x\n'
    )
    assert edited("hash", TABLE, {}) == "# top\n  # between\n# end\n"


def test_rules_stay_in_the_order_of_the_pillar():
    text = "# a\n/a/ 1\n# b\n/b/ 2\n/c/ 3\n"
    assert edited("pcre", text, ["/a/ 1", "/x/ 9", "/b/ 2", "/c/ 3"]) == "# a\n/a/ 1\n# b\n/x/ 9\n/b/ 2\n/c/ 3\n"
    assert edited("pcre", text, ["/c/ 3", "/a/ 1"]).replace("# a\n", "").replace("# b\n", "") == "/c/ 3\n/a/ 1\n"
    assert edited("cidr", "", ["10.0.0.0/8 OK", {"::/0": "REJECT x"}]) == "10.0.0.0/8 OK\n::/0 REJECT x\n"


def test_a_pattern_with_blanks_is_one_key():
    assert _mta_table_syntax.pair("pcre", "!/^Subject: a \\/ b/i   REJECT no / way") == (
        "!/^Subject: a \\/ b/i",
        "REJECT no / way",
    )
    assert _mta_table_syntax.pair("regexp", "if /^X/") == ("if /^X/", "")


@pytest.mark.parametrize(
    ("kind", "entries", "words"),
    [
        ("hash", {"#a": "b"}, "cannot be written"),
        ("hash", {"a b": "c"}, "cannot be written"),
        ("hash", {" a": "c"}, "cannot be written"),
        ("hash", {'a"': "c"}, "cannot be written"),
        ("hash", {"a": "b\nc d"}, "line break"),
        ("hash", {"a:": "b"}, "ends with a colon"),
        ("hash", {"a": ""}, "no value"),
        ("hash", {"a": "b", "A": "c"}, "there twice"),
        ("hash", {"a": {"b": "c"}}, "not a text"),
        ("hash", {"a": None}, "not a text"),
        ("hash", {True: "b"}, "not a key"),
        ("hash", "a b", "a mapping or a list"),
        ("pcre", ["# comment"], "cannot be written"),
        ("pcre", [{"/a/": "b", "/c/": "d"}], "a mapping of one key"),
        ("mysql", {"a=b": "c"}, "not a setting"),
    ],
)
def test_what_a_table_cannot_hold_is_refused(kind, entries, words):
    with pytest.raises(SaltInvocationError, match=words):
        _mta_table_syntax.wanted(kind, entries)


def test_the_value_of_a_secret_is_in_no_message_and_no_change():
    with pytest.raises(SaltInvocationError) as error:
        _mta_table_syntax.wanted("hash", {"a": {"secret": "geheim\n"}})
    assert "geheim" not in str(error.value)
    pairs, hidden = _mta_table_syntax.wanted("mysql", {"password": "geheim", "user": "x"})
    assert pairs == [("password", "geheim"), ("user", "x")]
    changes = _mta_table_syntax.difference("mysql", [("password", "alt")], pairs, hidden)
    assert changes["password"] == {"old": "(hidden)", "new": "(hidden, changed)"}
    assert changes["user"] == {"old": None, "new": "x"}


def test_a_thousand_changes_are_not_all_shown():
    changes = _mta_table_syntax.difference("hash", [], [(f"k{number}", "v") for number in range(1000)], set())
    assert len(changes) == _mta_table_syntax.SHOWN + 1
    assert "950 more entries" in changes


TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)


@given(
    st.sampled_from(_mta_table_syntax.TYPES),
    st.lists(st.tuples(TEXTS, TEXTS)),
    st.lists(st.sampled_from(["# c", "", " x", "k v"])),
)
def test_what_is_written_is_what_is_read_and_a_second_edit_changes_nothing(kind, entries, noise):
    pairs = []
    for key, value in entries:
        try:
            pairs = _mta_table_syntax.wanted(kind, [*({known: text} for known, text in pairs), {key: value}])[0]
        except SaltInvocationError:
            continue
    text = _mta_table_syntax.edited(kind, "\n".join([*noise, ""]), pairs)
    read = [(key, value) for key, value, _ in _mta_table_syntax.parse(kind, text)]
    assert read == pairs if kind in _mta_table_syntax.RULES else sorted(read) == sorted(pairs)
    assert _mta_table_syntax.edited(kind, text, pairs) == text
