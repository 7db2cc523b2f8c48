"""Lookup tables and Postfix's programs: what is compiled, what is remembered of it, what is shown."""

import pathlib
import struct

import pytest
from salt.exceptions import CommandExecutionError

import _mta_table_syntax
import _mta_tables
from _mta_run import Run

TABLE = """\
# top
info@example.com   alice,
  # between
  bob
"john doe"@x\tcarol
# end
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "virtual"


def test_the_entries_of_a_table_are_shown_as_postfix_reads_them(path):
    assert _mta_tables.show(str(path), "hash") is None
    path.write_text(TABLE)
    assert _mta_tables.show(str(path), "hash") == [
        ["info@example.com", "alice,  bob"],
        ['"john doe"@x', "carol"],
    ]
    path.write_bytes(b"a \xff\n")
    with pytest.raises(CommandExecutionError, match="no UTF-8 text"):
        _mta_tables.show(str(path), "hash")


@pytest.fixture
def current(minion, path, installed):
    """What is wrong with a compiled form: ``current(compiled bytes, kind="hash", program="postmap")``."""
    path.write_bytes(b"# mine\na   b\nc d\n")

    def look(contents, kind="hash", program="postmap", **arguments):
        path.with_name(f"virtual{_mta_table_syntax.SUFFIXES[kind]}").write_bytes(contents)
        return _mta_tables.compiled_fault(minion, str(path), path.read_bytes(), kind, program, **arguments)

    return look


WRONG = "damaged, or not made from its source"


@pytest.mark.parametrize("program", ["postmap", "postalias"])
@pytest.mark.parametrize("kind", ["hash", "btree", "lmdb"])
def test_what_holds_the_same_in_other_bytes_is_right_and_is_looked_into_once(current, installed, kind, program):
    other = b"# another identifier\nC D\nA B\n"
    assert current(other, kind, program) is None
    before = installed()
    assert current(other, kind, program) is None
    assert installed() == before


def test_the_time_and_the_host_in_a_table_of_aliases_are_no_entries(current):
    others = b"YP_LAST_MODIFIED: 1795734679\nYP_MASTER_NAME: other\n@: @\n"
    assert current(b"A B\nC D\n" + others) == WRONG
    assert current(b"A B\nC D\n" + others, program="postalias") is None


@pytest.mark.parametrize("contents", [b"", b"A B\n", b"A B\nC E\n", b"A B\nC D\nE F\n", b"A B\nA B\nC D\n"])
def test_what_holds_something_else_is_not(current, contents):
    assert current(contents) == WRONG


def test_what_cannot_be_listed_is_damaged(current, installed, tmp_path):
    program = tmp_path / "programs" / "postmap"
    program.write_text(program.read_text().replace("exit;;", "exit 1;;"))
    assert current(b"C D\nA B\n") == WRONG


def cdb(pairs):
    """A cdb file of one bucket for each key, as cdb(5) has it."""
    records, slots = b"", {}
    for number, (key, value) in enumerate(pairs):
        slots.setdefault(number % 256, []).append((number, 2048 + len(records)))
        records += struct.pack("<LL", len(key), len(value)) + key + value
    header, tables = b"", b""
    for number in range(256):
        header += struct.pack("<LL", 2048 + len(records) + len(tables), len(slots.get(number, [])))
        tables += b"".join(struct.pack("<LL", *slot) for slot in slots.get(number, []))
    return header + records + tables


def test_a_cdb_file_is_read_without_a_program():
    pairs = [(b"a", b"b"), (b"c\0", b"d\0"), (b"e", b"f g")]
    assert _mta_tables._cdb_entries(cdb(pairs)) == [b"a\tb", b"c\td", b"e\tf g"]
    assert _mta_tables._cdb_entries(cdb([])) == []
    whole = cdb(pairs)
    for length in (0, 1, 2047, 2050, len(whole) - 1):
        assert _mta_tables._cdb_entries(whole[:length]) is None
    assert (
        _mta_tables._cdb_entries(whole.replace(struct.pack("<LL", 1, 1), struct.pack("<LL", 1, 0xFFFFFFFF)))
        is None
    )


def settings_of(minion):
    with _mta_tables.private(minion, b"") as (folder, _):
        return pathlib.Path(folder, "main.cf").read_text().splitlines()


def test_a_table_is_compiled_under_the_settings_of_the_host(minion, pretend):
    parameters = {
        "compatibility_level": "$level",
        "level": "3.6",
        "myhostname": "mail.$mydomain",
        "mydomain": "example.com",
        "message_size_limit": "abc",
        "lmdb_map_size": "much",
        "smtputf8_enable": "no",
    }
    pretend("_mta_postfix_view.show", lambda: parameters)
    assert sorted(settings_of(minion)) == [
        "compatibility_level = $level",
        "level = 3.6",
        "mydomain = example.com",
        "myhostname = mail.$mydomain",
        "smtputf8_enable = no",
    ]
    Run.of(minion).changes["postconf"] = {
        "smtputf8_enable": {"old": "no", "new": None},
        "compatibility_level": {"old": "$level", "new": "2"},
    }
    assert {"compatibility_level = 2"} < set(settings_of(minion))
    assert not any("smtputf8" in line for line in settings_of(minion))


def test_without_a_main_cf_there_are_none(minion, pretend):
    def absent():
        raise CommandExecutionError("There is no /etc/postfix/main.cf")

    pretend("_mta_postfix_view.show", absent)
    assert settings_of(minion) == []


class TestTypes:
    """Which types this Postfix has: asked once, and never remembered when it did not say."""

    @pytest.fixture
    def postconf(self, installed, tmp_path):
        program = tmp_path / "programs" / "postconf"
        good = program.read_text()
        # By its time and size a program is known for another one.
        return lambda text=good: program.write_text(text)

    def test_they_are_asked_once(self, minion, installed):
        assert _mta_tables.missing_types(minion, ["hash", "nosuch"]) == ["nosuch"]
        before = installed()
        assert _mta_tables.missing_types(minion, ["pcre"]) == []
        assert installed() == before

    @pytest.mark.parametrize("body", ["echo fatal >&2; exit 1", "exit 0", "echo; exit 0"])
    def test_no_answer_is_an_error_and_not_remembered(self, minion, postconf, body):
        postconf(f'#!/bin/sh\ncase "$*" in *-m) {body};; *) echo hash;; esac\n')
        with pytest.raises(CommandExecutionError, match="cannot tell the table types"):
            _mta_tables.missing_types(minion, ["hash"])
        assert _mta_tables.noticed(minion)["postfix"] == {}

    def test_none_that_were_remembered_are_asked_again(self, minion, installed):
        _mta_tables.missing_types(minion, ["hash"])
        known = _mta_tables.noticed(minion)["postfix"]
        minion.state.write("maps.json", {"postfix": {**known, "types": []}})
        Run.of(minion).tables.clear()
        assert _mta_tables.missing_types(minion, ["hash"]) == []

    def test_main_cf_has_no_say_in_it(self, minion, installed, tmp_path):
        _mta_tables.missing_types(minion, ["hash"])
        calls = (tmp_path / "programs" / "postconf.calls").read_text()
        assert f"-c {minion.state.path()}/stage." in calls


def test_that_a_type_is_deprecated_is_no_fault_of_a_table(minion, path, installed, tmp_path):
    program = tmp_path / "programs" / "postmap"
    warning = "postmap: warning: /x: hash/btree support is deprecated.  Please switch to cdb or lmdb.\n"
    warning += "postmap: warning: See /usr/share/doc/postfix/NON_BERKELEYDB_README.gz for more info.\n"
    words = program.with_name("words")
    words.write_text(warning)
    program.write_text(program.read_text().replace("for table", f"cat {words} >&2\nfor table"))
    assert _mta_tables.compiled(minion, b"a b\n", "hash") == b"A B\n"
    path.touch()
    assert _mta_tables.lookup(minion, f"hash:{path}", "a") is None
    words.write_text(f"{warning}postmap: warning: table, line 1: expected format: key whitespace value\n")
    with pytest.raises(CommandExecutionError, match="as hash: warning: table, line 1: expected format"):
        _mta_tables.compiled(minion, b"a\n", "hash")


class TestFiles:
    """Tables of certificates by server name hold what is in the files that their sources name."""

    @pytest.fixture(autouse=True)
    def configuration(self, installed, tmp_path, monkeypatch):
        """``configuration(main.cf, master.cf)``."""
        paths = [tmp_path / "main.cf", tmp_path / "master.cf"]
        monkeypatch.setattr(_mta_tables, "CONFIGURATION", tuple(map(str, paths)))

        def write(main="", master=""):
            paths[0].write_text(main)
            paths[1].write_text(master)

        return write

    MASTER = "smtps inet n - y - - smtpd\n  -o tls_server_sni_maps=hash:{0}\n"

    @pytest.mark.parametrize(
        ("main", "master", "named"),
        [
            ("", "", False),
            ("tls_server_sni_maps = hash:{0}\n", "", True),
            ("tls_server_sni_maps = btree:/other, hash:{0}\n", "", True),
            ("folder = {1}\ntls_server_sni_maps = hash:$folder/virtual\n", "", True),
            ("tls_server_sni_maps = hash:{0}.other\n", "", False),
            ("virtual_alias_maps = hash:{0}\n", "", False),
            ("", MASTER, True),
        ],
    )
    def test_tls_server_sni_maps_says_which(self, minion, path, configuration, main, master, named):
        configuration(main.format(path, path.parent), master.format(path))
        assert _mta_tables.holds_files(minion, str(path)) is named

    def test_so_does_what_has_been_announced(self, minion, path, configuration):
        configuration(f"tls_server_sni_maps = hash:{path}\n")
        changes = Run.of(minion).changes["postconf"] = {
            "tls_server_sni_maps": {"old": f"hash:{path}", "new": None}
        }
        assert not _mta_tables.holds_files(minion, str(path))
        changes["tls_server_sni_maps"]["new"] = f"hash:{path}"
        assert _mta_tables.holds_files(minion, str(path))
        del changes["tls_server_sni_maps"]
        configuration()
        overrides = {"overrides": {"tls_server_sni_maps": f"hash:{path}"}}
        changes["master.cf smtps/inet"] = {"old": None, "new": overrides}
        assert _mta_tables.holds_files(minion, str(path))

    @pytest.mark.parametrize("section", ["parameters", "services"])
    def test_so_does_pillar(self, minion, path, pillar, functions, section):
        value = {"tls_server_sni_maps": f"hash:{path}"}
        effective = {"parameters": {}, "services": {}}
        effective[section] = value if section == "parameters" else {"smtps/inet": {"overrides": value}}
        functions["mta_settings.effective"] = lambda saltenv: effective
        assert not _mta_tables.holds_files(minion, str(path))
        pillar["postfix_mta"] = {section: {"tls_server_sni_maps": "hash:{maps.virtual}"}}
        assert _mta_tables.holds_files(minion, str(path))

    def test_they_are_compiled_so(self, minion, installed, tmp_path):
        _mta_tables.compiled(minion, b"a /b\n", "hash", files=True)
        assert " -F hash:" in (tmp_path / "programs" / "postmap.calls").read_text()

    def test_another_key_is_another_table(self, current, installed, tmp_path):
        (tmp_path / "virtual").write_text(f"a {tmp_path}/key, {tmp_path}/absent\n")
        (tmp_path / "key").write_text("one")
        compiled = (tmp_path / "virtual").read_text().upper().encode()
        assert current(compiled, files=True) is None
        before = installed()
        assert current(compiled, files=True) is None
        assert installed() == before
        (tmp_path / "key").write_text("two")
        assert current(compiled, files=True) is None
        assert installed() > before
        before = installed()
        assert current(compiled) is None
        assert installed() > before
