"""The syntax of aliases(5), byte for byte as it was where nothing is asked for."""

import os
import stat

import pytest
import salt.loader
from hypothesis import given
from hypothesis import strategies as st
from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_aliases
import _mta_snapshots
import _mta_transaction
from _mta_plan import Plan
from _mta_run import Run

STOCK = "# See man 5 aliases for format\npostmaster:    root\n"

FULL = """\
# top

postmaster:    root
root: alice,
  # a comment between
  bob
"quoted:user": "john doe"@example.com, "j d"
List: :include:/etc/list, /var/mail/archive
ticket: "|/usr/bin/ticket --queue a, b"
# end
"""


def edited(text, **aliases):
    return _mta_aliases.edited(text, _mta_aliases.wanted(aliases))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "aliases"


@pytest.fixture
def plan(minion, path):
    return lambda seeded=None, **aliases: _mta_aliases.plan(minion, str(path), aliases, seeded)


@pytest.fixture
def main_cf(installed, pretend, path):
    """What main.cf says about aliases."""
    parameters = {"alias_database": f"hash:{path}"}
    pretend("_mta_postfix_view.show", lambda config_directory=None: parameters)
    return parameters


@pytest.fixture
def apply(minion, path, installed, main_cf, pretend):
    """Apply, with the transaction's files written at once; returns what was asked to be written."""
    written = []

    def write(target, contents, user=None, group=None, mode=None, activate=None):
        written.append((os.path.basename(target), mode, activate))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "wb") as handle:
            handle.write(contents if isinstance(contents, bytes) else contents.encode())

    pretend("_mta_transaction.need", lambda activate: None)
    pretend("_mta_transaction.write", write)

    def run(**aliases):
        _mta_aliases.apply(minion, str(path), aliases)
        return written

    return run


def test_every_entry_of_a_full_file_is_understood(path):
    path.write_text(FULL)
    assert _mta_aliases.show(str(path)) == {
        "postmaster": ["root"],
        "root": ["alice", "bob"],
        "quoted:user": ['"john doe"@example.com', '"j d"'],
        "list": [":include:/etc/list", "/var/mail/archive"],
        "ticket": ["|/usr/bin/ticket --queue a, b"],
    }


def test_an_absent_file_is_none(path):
    assert _mta_aliases.show(str(path)) is None


def test_nothing_to_do_for_entries_that_are_written_differently_only():
    same = {
        "root": ["alice", "bob"],
        "LIST": [":include:/etc/list", "/var/mail/archive"],
        "ticket": "|/usr/bin/ticket --queue a, b",
        "Postmaster": "root",
    }
    assert edited(FULL, **same) == FULL


@pytest.mark.parametrize("value", ["alice, bob", "alice bob", ["alice", "bob"], "alice ,bob", '"alice","bob"'])
def test_lists_compare_equal_however_they_are_spelt(plan, path, value):
    path.write_text(FULL)
    assert plan(root=value).changes == {}


def test_a_changed_entry_takes_its_continuation_lines_with_it_and_leaves_comments():
    assert edited(FULL, root="carol") == FULL.replace("root: alice,\n", "root: carol\n").replace("  bob\n", "")


def test_a_removed_entry_takes_its_continuation_lines_with_it():
    assert edited(FULL, root=None) == FULL.replace("root: alice,\n", "").replace("  bob\n", "")


def test_a_quoted_name_is_found_without_its_quotes():
    assert '"quoted:user": x\n' in edited(FULL, **{"quoted:user": "x"})
    assert "quoted:user" not in edited(FULL, **{"Quoted:User": None})


def test_a_new_entry_goes_to_the_end():
    assert edited(STOCK, root="alice") == STOCK + "root: alice\n"


def test_a_command_with_arguments_is_quoted_as_a_whole():
    assert edited("", t='|/bin/x "a b" \\') == 't: "|/bin/x \\"a b\\" \\\\"\n'
    assert edited("", t="|/bin/x") == "t: |/bin/x\n"
    assert edited("", t=":include:/a b") == 't: ":include:/a b"\n'


def test_a_name_with_special_characters_is_quoted():
    assert edited("", **{"a b": "x", "c#d": "y"}) == '"a b": x\n"c#d": y\n'


def test_an_unquoted_command_with_arguments_in_the_file_is_mended():
    assert edited("t: |/bin/x y\n", t="|/bin/x y") == 't: "|/bin/x y"\n'


def test_duplicates_collapse_into_the_first():
    assert edited("a: x\nb: y\nA: z\n", a="x") == "a: x\nb: y\n"


def test_a_missing_final_newline_is_added_only_where_it_is_needed():
    assert edited("a: x\nb: y", b="y") == "a: x\nb: y"
    assert edited("a: x\nb: y", b="z") == "a: x\nb: z"
    assert edited("a: x\nb: y", c="z") == "a: x\nb: y\nc: z\n"
    assert edited("a: x\nb: y", b=None) == "a: x\n"


def test_crlf_files_stay_crlf():
    text = "a: x,\r\n y\r\nb: z\r\n"
    assert edited(text, a=["x", "y"], b="z") == text
    assert edited(text, a="q", c="new") == "a: q\r\nb: z\r\nc: new\r\n"


def test_bytes_that_are_no_utf8_survive(apply, path):
    path.write_bytes(b"# caf\xe9\na: x\n")
    apply(b="y")
    assert path.read_bytes() == b"# caf\xe9\na: x\nb: y\n"


def test_lines_that_postalias_skips_are_left_and_reported(plan, path):
    text = " lost: x\nno colon\nuser@example.com: x\nempty:\n"
    path.write_text(text)
    comment = "\n".join(plan(a="x").notes)
    for words in (
        "line 1 begins with whitespace",
        "line 2 is not",
        "line 3: a name must",
        "line 4: empty has no",
    ):
        assert words in comment
    assert edited(text, a="x") == text + "a: x\n"


@pytest.mark.parametrize(
    "aliases",
    [
        {"": "x"},
        {"a\nb": "x"},
        {"a": "x\ny: z"},
        {"a": []},
        {"a": ""},
        {"a": True},
        {"a": {"b": "c"}},
        {"a": '"open'},
        {"a": "x", "A": "y"},
        ["a"],
    ],
)
def test_what_an_aliases_file_cannot_hold_is_refused(minion, path, aliases):
    with pytest.raises(SaltInvocationError):
        _mta_aliases.plan(minion, str(path), aliases)


def test_a_file_that_cannot_be_read_is_an_error(plan, path):
    path.mkdir()
    with pytest.raises(CommandExecutionError, match="Cannot read"):
        plan(a="x")


def test_changes_show_old_and_new(plan, path):
    path.write_text(FULL + "root: dave\n")
    assert plan(root="carol", postmaster=None, new=["a", "b"]).changes == {
        "root": {"old": "alice, bob; dave", "new": "carol"},
        "postmaster": {"old": "root", "new": None},
        "new": {"old": None, "new": "a, b"},
    }


def test_before_the_package_is_there_its_own_file_is_assumed(plan):
    seeded = {"postmaster": "root", "root": "alice"}
    assert plan(seeded, root="alice", postmaster="root") == Plan()
    assert plan(seeded, root="bob").changes == {"root": {"old": "alice", "new": "bob"}}
    assert plan(root="bob").changes == {"root": {"old": None, "new": "bob"}}


def test_a_missing_file_is_created_and_compiled(apply, path):
    assert apply(root="alice") == [
        ("aliases", None, {"postfix": "reload"}),
        ("aliases.db", "0644", {"postfix": "reload"}),
    ]
    assert path.read_text() == "root: alice\n"
    assert path.with_name("aliases.db").read_text() == "ROOT: ALICE\n"


def test_the_compiled_form_gets_the_mode_of_its_source(apply, path):
    path.write_text(STOCK)
    path.chmod(0o600)
    assert apply(root="alice")[1][:2] == ("aliases.db", "0600")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_only_a_missing_older_or_damaged_compiled_form_is_a_change(plan, apply, path):
    path.write_text(STOCK)
    compiled = path.with_name("aliases.db")
    item = f"{path} (compiled)"
    assert plan(postmaster="root").changes == {item: {"old": "missing", "new": "up to date"}}
    assert plan(postmaster="root").paths() == [str(compiled)]
    assert plan(postmaster="root", bob="x").paths() == [str(path), str(compiled)]
    assert apply(postmaster="root") == [("aliases.db", "0644", {"postfix": "reload"})]
    assert plan(postmaster="root").changes == {}
    compiled.write_text("POSTMASTER: X\n")
    assert plan(postmaster="root").changes[item]["old"] == "damaged, or not made from its source"
    os.utime(compiled, (1, 1))
    assert plan(postmaster="root").changes[item]["old"] == f"older than {path}"


@pytest.mark.parametrize(
    ("parameters", "suffix"),
    [
        ({"alias_database": "hash:{0}"}, ".db"),
        ({"alias_database": "cdb:/etc/other, lmdb:{0}"}, ".lmdb"),
        ({"alias_maps": "hash:/etc/other proxy:cdb:{0}"}, ".cdb"),
        ({"alias_database": "$default_database_type:{0}", "default_database_type": "lmdb"}, ".lmdb"),
        ({"alias_database": "texthash:{0}"}, None),
        ({"alias_database": "hash:/etc/other"}, None),
        ({"alias_database": ""}, None),
    ],
)
def test_main_cf_says_how_the_file_is_compiled(plan, apply, path, main_cf, parameters, suffix):
    path.write_text(STOCK)
    main_cf.clear()
    main_cf.update({name: value.format(path) for name, value in parameters.items()})
    assert bool(plan().changes) == bool(suffix)
    assert [name for name, *_ in apply()] == ([f"aliases{suffix}"] if suffix else [])
    assert plan().changes == {}


def test_where_main_cf_is_silent_the_compiled_file_that_exists_says_it(plan, apply, path, main_cf):
    path.write_text(STOCK)
    main_cf.clear()
    path.with_name("aliases.lmdb").write_text(STOCK.upper())
    assert plan().changes == {}
    assert [name for name, *_ in apply(root="alice")] == ["aliases", "aliases.lmdb"]


def test_a_failing_postalias_is_an_error(apply, tmp_path):
    (tmp_path / "programs" / "postalias.broken").write_text("")
    with pytest.raises(CommandExecutionError, match="postalias cannot compile"):
        apply(root="alice")


def test_what_is_only_for_absent_names_leaves_names_that_are_there(minion, apply, path):
    path.write_text(FULL + "Abuse: carol\n")
    wanted = {"abuse": "postmaster", "root": "x", "noc": "postmaster", "www": "postmaster", "info": "postmaster"}
    asked = {"www": "alice", "info": None}
    changes = _mta_aliases.plan(minion, str(path), asked, absent_only=wanted).changes
    assert changes == {"noc": {"old": None, "new": "postmaster"}, "www": {"old": None, "new": "alice"}}
    _mta_aliases.apply(minion, str(path), asked, absent_only=wanted)
    assert path.read_text() == FULL + "Abuse: carol\nnoc: postmaster\nwww: alice\n"
    assert _mta_aliases.plan(minion, str(path), asked, absent_only=wanted).changes == {}


@pytest.mark.parametrize(
    ("maps", "where", "words"),
    [
        (None, "aliases", None),
        ("hash:{0}/aliases", "aliases", None),
        ("$alias_database", "aliases", None),
        ("nis:mail.aliases", "aliases", None),
        (
            "hash:{0}/elsewhere, hash:{0}/lists",
            "elsewhere",
            "looks aliases up in {0}/elsewhere, not in {0}/aliases",
        ),
        ("hash:{0}/lists, hash:{0}/aliases", "aliases", "and what they have counts: hash:{0}/lists"),
        ("ldap:/etc/postfix/ldap.cf, hash:{0}/aliases", "aliases", "counts: ldap:/etc/postfix/ldap.cf"),
    ],
)
def test_aliases_are_set_where_main_cf_looks_them_up(minion, apply, path, main_cf, maps, where, words):
    folder = path.parent
    if maps:
        main_cf["alias_maps"] = maps.format(folder)
    arguments = {"aliases": {"root": "alice"}, "revert": True, "follow": True}
    plan = _mta_aliases.plan(minion, str(path), **arguments)
    assert any(words.format(folder) in note for note in plan.notes) if words else plan.notes == []
    _mta_aliases.apply(minion, str(path), **arguments)
    assert (folder / where).read_text() == "root: alice\n"
    assert _mta_aliases.plan(minion, str(path), **arguments).changes == {}
    assert _mta_aliases.recorded(minion) == [str(folder / where)]


def test_aliases_follow_a_main_cf_that_is_announced(minion, path, main_cf):
    main_cf["alias_maps"] = f"hash:{path}"
    Run.of(minion).changes["postconf"] = {"alias_maps": {"old": "x", "new": f"hash:{path}2"}}
    assert "not in" in _mta_aliases.plan(minion, str(path), {"root": "alice"}, follow=True).notes[0]


class TestRevert:
    """What left the pillar is as it was before, unless somebody has changed it since."""

    @pytest.fixture
    def keep(self, minion, apply, path, monkeypatch):
        """``keep(alias=value)``: an apply; returns the state of the file."""
        path.write_text(FULL)
        monkeypatch.setattr(_mta_transaction, "alone", lambda minion, do, wait: do())

        def run(absent_only=None, **aliases):
            arguments = {"aliases": aliases, "absent_only": absent_only, "revert": True}
            plan = _mta_aliases.plan(minion, str(path), **arguments)
            if plan.changes:
                _mta_aliases.apply(minion, str(path), **arguments)
            else:
                _mta_aliases.remember(minion)
            assert _mta_aliases.plan(minion, str(path), **arguments).changes == {}
            return plan

        return run

    def values(self, path):
        return _mta_aliases.show(str(path))

    def test_a_changed_a_new_and_a_removed_entry_are_as_before(self, keep, path):
        before = self.values(path)
        keep(root="carol", new="x", postmaster=None)
        keep(root="dave", new="x", postmaster=None)
        plan = keep()
        assert plan.changes["root"] == {"old": "dave", "new": "alice, bob"}
        assert plan.changes["new"] == {"old": "x", "new": None}
        assert plan.changes["postmaster"] == {"old": None, "new": "root"}
        assert self.values(path) == before

    def test_what_was_made_for_absent_names_goes_when_it_is_not_asked_for(self, keep, path):
        keep(absent_only={"noc": "postmaster"})
        assert keep().changes["noc"] == {"old": "postmaster", "new": None}

    def test_what_somebody_has_changed_stays_and_is_named_once(self, keep, path):
        keep(root="carol")
        path.write_text(path.read_text().replace("carol", "erin"))
        plan = keep()
        assert "root" not in plan.changes
        assert "Not restored, as somebody has changed it since: root" in plan.notes
        assert not any("Not restored" in note for note in keep().notes)

    def test_what_the_answers_to_debconf_have_set_is_this_formula_s(self, keep, path, minion):
        path.write_text("postmaster: root\nroot: carol\n")
        Run.of(minion).seeds = True
        keep(root="carol", postmaster="root")
        Run.of(minion).seeds = False
        assert keep().changes == {"root": {"old": "carol", "new": None}}

    def test_what_an_older_version_has_set_is_adopted(self, keep, path, minion, monkeypatch):
        monkeypatch.setattr(_mta_snapshots, "content", lambda minion, name: FULL.encode())
        path.write_text(FULL.replace("alice,", "carol,"))
        keep(root=_mta_aliases.show(str(path))["root"])
        assert "alice" in keep().changes["root"]["new"]


def test_the_state_announces_and_then_is_satisfied(opts, modules, context, path):
    path.write_text(STOCK)
    states = salt.loader.states({**opts, "test": True}, modules, {}, None, context=context)
    managed = states["mta_aliases.managed"]
    would = managed(str(path), aliases={"root": "alice"}, transaction="postfix_mta")
    assert (would["result"], would["changes"]) == (
        None,
        {"root": {"old": None, "new": "alice"}, "activation": "reload"},
    )
    assert path.read_text() == STOCK
    assert managed(str(path), aliases={"postmaster": "root"}, transaction="postfix_mta")["result"] is True


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]) | st.just(" "), min_size=1).filter(
    lambda name: name.strip() == name and name.isprintable()
)
ADDRESSES = st.from_regex(r"\A[a-z0-9.+_-]{1,12}(@[a-z0-9.-]{1,12})?\Z")
COMMANDS = st.text(st.characters(min_codepoint=32, max_codepoint=126)).map(lambda text: "|" + text.strip())
NOISE = st.sampled_from(
    ["", "# comment", "   ", " # indented", "no colon here", "other: x,\n  # c\n  y", '"o:p": q']
)


@given(st.dictionaries(NAMES, st.lists(ADDRESSES | COMMANDS, min_size=1), max_size=4), st.lists(NOISE))
def test_what_is_written_is_what_is_read_and_a_second_edit_changes_nothing(aliases, noise):
    try:
        wanted = _mta_aliases.wanted(aliases)
    except SaltInvocationError:
        return
    noise = [line for line in noise if _mta_aliases._name(line.partition(":")[0]) not in wanted]
    text = "\n".join(["first: x", *noise])
    if {"first", "other", "o:p"} & set(wanted):
        return
    result = _mta_aliases.edited(text, wanted)
    assert result.startswith(text)
    read = {name: values for name, values, _ in _mta_aliases.entries(result)[0]}
    assert {name: read[name] for name in wanted} == wanted
    assert _mta_aliases.edited(result, wanted) == result
    gone = _mta_aliases.edited(result, dict.fromkeys(wanted))
    assert gone.rstrip("\n") == text.rstrip("\n")


FREE = st.sampled_from(
    ["", '# comment: with, a "quote', " \t ", "  # indented", "\t# tab\r", "caf\udce9 no colon", "a@b.example: x"]
)
NAMED = st.sampled_from(["alpha", "Beta", '"gamma delta"', '"e:f"', "ALPHA", "zeta"])
REST = st.sampled_from(["x", " x, y", ' "|/bin/c a, b" ', " :include:/l", "\tx\r", ' "j d"@e.example', ""])
MORE = st.lists(
    st.sampled_from(["  z", "\t, q@r.example\r", " (a comment)"]) | FREE.filter(lambda line: "#" in line),
    max_size=3,
)
EDITS = st.dictionaries(
    st.sampled_from(["alpha", "beta", "gamma delta", "e:f", "new"]),
    st.none() | st.just(["w"]) | st.just(["|/bin/d e", "v"]),
)


@given(st.lists(st.tuples(NAMED, REST, MORE, st.lists(FREE, max_size=2)), max_size=6), EDITS)
def test_lines_that_belong_to_no_entry_that_is_asked_for_stay_byte_for_byte_and_in_order(blocks, edits):
    kept, lines = [], []
    for name, rest, more, free in blocks:
        entry = [f"{name}:{rest}", *more]
        lines += [*entry, "# end", *free]
        own = name.strip('"').lower() in edits
        kept += [line for line in entry if not own or line.strip().startswith("#")] + ["# end", *free]
    # An unchanged entry keeps its lines; a changed one becomes a line that was not there.
    text = "".join(f"{line}\n" for line in lines)
    result = _mta_aliases.edited(text, edits)
    found = iter(result.split("\n"))
    assert all(line in found for line in kept)
    if not edits:
        assert result == text
    others = [
        [(name, values) for name, values, _ in _mta_aliases.entries(content)[0] if name not in edits]
        for content in (text, result)
    ]
    assert others[0] == others[1]
    assert _mta_aliases.edited(result, edits) == result
