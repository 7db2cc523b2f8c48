"""Lookup tables as pillar asks for them: what changes, what stays secret, when Postfix's programs are started."""

import os
import pathlib
import stat

import pytest
import salt.loader
from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_apply
import _mta_system
import _mta_tables
import _mta_tables_manage
import _mta_transaction
from _mta_run import Run


@pytest.fixture
def path(tmp_path):
    return tmp_path / "virtual"


@pytest.fixture
def apply(minion, installed, pretend, context):
    """Apply, with the transaction's files written at once."""
    pretend("_mta_transaction.begin", lambda: None)
    pretend("_mta_transaction.need", lambda activate: None)

    def write(target, contents, user=None, group=None, mode=None, activate=None):
        contents = contents.encode() if isinstance(contents, str) else contents
        pathlib.Path(target).parent.mkdir(exist_ok=True)
        with open(target, "wb") as handle:
            handle.write(contents)
        os.chmod(target, int(mode, 8))

    pretend("_mta_transaction.write", write)
    pretend("_mta_transaction.remove", lambda target: os.unlink(target))

    def run(target, **table):
        _mta_tables_manage.apply(minion, str(target), **table)
        context.clear()

    return run


def test_a_table_is_made_and_then_looked_at_without_a_process(minion, apply, path, installed, context):
    table = {"type": "hash", "entries": {"a": "b"}}
    assert _mta_tables_manage.plan(minion, str(path), **table).changes == {
        "a": {"old": None, "new": "b"},
        f"{path} mode": {"old": None, "new": "0644 root"},
    }
    apply(path, **table)
    assert path.read_text() == f"{_mta_tables_manage.HEADER}a b\n"
    before = installed()
    assert _mta_tables_manage.plan(minion, str(path), **table).changes == {}
    assert installed() == before


class Copied(dict):
    """A pillar as Salt 3008 hands it out: asked by its index, it would make a copy of all that is in it."""

    def __getitem__(self, key):
        pytest.fail("the whole pillar is copied")


def test_entries_come_from_pillar_without_a_copy_of_it(minion, apply, path):
    minion = minion._replace(pillar=Copied(own={"tables": [{"a": "b"}]}, c={"d": "e"}))
    for place, key in (("own:tables:0", "a"), ("c", "d"), ("own:none:0", None), ("none", None)):
        plan = _mta_tables_manage.plan(minion, str(path), type="hash", entries_pillar=place)
        assert [name for name in plan.changes if name != f"{path} mode"] == ([key] if key else [])


def test_a_compiled_form_that_somebody_else_made_rightly_is_adopted(minion, apply, path, installed, context):
    table = {"type": "hash", "entries": {"a": "b"}}
    path.write_text("# mine\na   b\n")
    path.with_name("virtual.db").write_text("# MINE\nA   B\n")
    assert _mta_tables_manage.plan(minion, str(path), **table).changes == {}
    _mta_tables_manage.remember(minion)
    context.clear()
    before = installed()
    assert _mta_tables_manage.plan(minion, str(path), **table).changes == {}
    assert installed() == before


@pytest.mark.parametrize("damage", ["deleted", "damaged", "older"])
def test_what_happened_to_the_compiled_form_is_noticed(minion, apply, path, damage):
    table = {"type": "btree", "entries": {"a": "b"}}
    apply(path, **table)
    target = path.with_name("virtual.db")
    if damage == "deleted":
        target.unlink()
    elif damage == "older":
        os.utime(target, (1, 1))
    else:
        status = target.stat()
        target.write_text(target.read_text()[:-2] + "X\n")
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert list(_mta_tables_manage.plan(minion, str(path), **table).changes) == ["compiled"]
    apply(path, **table)
    assert _mta_tables_manage.plan(minion, str(path), **table).changes == {}


def test_a_change_within_the_source_is_seen_wherever_it_is(minion, apply, path):
    table = {"type": "texthash", "entries": {f"key{number}": "value" for number in range(9)}}
    apply(path, **table)
    text = path.read_text()
    for number in range(9):
        path.write_text(text.replace(f"key{number} v", f"key{number} w"))
        assert list(_mta_tables_manage.plan(minion, str(path), **table).changes) == [f"key{number}"]


def test_modes_hold_for_both_forms(minion, apply, path):
    apply(path, type="hash", entries={"a": {"secret": "b"}})
    for name in ("virtual", "virtual.db"):
        assert stat.S_IMODE(path.with_name(name).stat().st_mode) == 0o600
    path.with_name("virtual.db").chmod(0o644)
    plan = _mta_tables_manage.plan(minion, str(path), type="hash", entries={"a": {"secret": "b"}})
    assert plan.changes == {"compiled": {"old": "0644 root", "new": "as its source"}}


SECRET_TABLES = [
    {"type": "hash", "entries": {"a": {"secret": "b"}}},
    {"type": "hash", "entries": [{"a": {"secret": "b"}}, "c d"]},
    {"type": "hash", "entries": {"a": "b"}, "secret": True},
    {"type": "texthash", "logins": {"[smtp.example.net]:587": "mail:relay"}},
    {"type": "mysql", "entries": {"user": "x", "password": "b"}},
    {"type": "ldap", "entries": ["bind_pw = b"]},
    {"type": "pgsql", "entries": {"hosts": "postgresql://x:b@db.example.com/mail"}},
    {"type": "mysql", "source": "salt://users"},
]


@pytest.fixture
def served(pillar, functions, tmp_path, pretend):
    """A file server with a table of settings, and pillar with a login."""
    (tmp_path / "users").write_text("user = x\npassword = geheim\n")
    functions["cp.cache_file"] = lambda url, saltenv: str(tmp_path / url.replace("salt://", ""))
    pretend("_mta_tables.missing_types", lambda types: [])
    pillar["mail"] = {"relay": {"username": "x", "password": "geheim"}}


@pytest.mark.parametrize("mode", ["0644", "644", "0604", "0641", "0666"])
@pytest.mark.parametrize("table", SECRET_TABLES, ids=str)
def test_no_mode_lets_others_read_a_secret(minion, apply, served, path, table, mode):
    for function in (_mta_tables_manage.plan, _mta_tables_manage.apply):
        with pytest.raises(SaltInvocationError, match=f'"{mode}" lets others at what is secret in it'):
            function(minion, str(path), **table, mode=mode)
    assert not list(path.parent.glob("virtual*"))


@pytest.mark.parametrize("table", SECRET_TABLES, ids=str)
def test_the_group_of_the_daemons_may_read_a_secret(apply, served, path, table):
    path.write_text("a b\n")
    path.chmod(0o644)
    for mode, allowed in ((None, (0o600, 0o640)), ("0640", (0o640,)), ("0600", (0o600,))):
        apply(path, **table, mode=mode)
        for file in path.parent.glob("virtual*"):
            assert stat.S_IMODE(file.stat().st_mode) in allowed, file


def test_a_table_that_others_could_read_before_this_was_refused_does_not_stay(minion, apply, path, context):
    table = {"type": "hash", "entries": {"a": {"secret": "b"}}}
    apply(path, **table)
    record = minion.state.read("maps.json")
    for file in path.parent.glob("virtual*"):
        file.chmod(0o644)
    rights = str(_mta_tables_manage._Rights.of(path.stat()))
    record["tables"][str(path)].update(mode="0644", rights=rights)
    minion.state.write("maps.json", record)
    with pytest.raises(SaltInvocationError, match="lets others"):
        _mta_tables_manage.plan(minion, str(path), **table, mode="0644")
    assert _mta_tables_manage.plan(minion, str(path), **table).changes[f"{path} mode"]["new"].startswith("0600")


def test_a_table_of_certificates_by_server_name_holds_private_keys(minion, apply, path, pretend):
    """Its source only names them."""
    pretend("_mta_tables.holds_files", lambda path: True)
    key, compiled = path.with_name("key"), path.with_name("virtual.db")
    key.write_text("one")
    table = {"type": "hash", "entries": {"mail.example.com": str(key)}}
    apply(path, **table)
    modes = [stat.S_IMODE(file.stat().st_mode) for file in (path, compiled)]
    assert modes == [0o644, 0o600]
    assert _mta_tables_manage.plan(minion, str(path), **table).changes == {}
    compiled.chmod(0o640)
    assert _mta_tables_manage.plan(minion, str(path), **table).changes == {}
    compiled.chmod(0o644)
    changes = _mta_tables_manage.plan(minion, str(path), **table).changes
    assert changes == {"compiled": {"old": "0644 root", "new": "as its source"}}
    apply(path, **table)
    assert stat.S_IMODE(compiled.stat().st_mode) == 0o600


def test_an_entry_may_have_the_name_of_what_else_changes(minion, apply, path):
    entries = {"mode": "a", "text": "b", "compiled": "c"}
    apply(path, type="hash", entries=entries)
    changes = _mta_tables_manage.plan(minion, str(path), type="hash", entries={"mode": "b"}).changes
    assert changes["mode"] == {"old": "a", "new": "b"}
    apply(path, type="hash", entries={"mode": "b"})
    assert _mta_tables_manage.plan(minion, str(path), type="hash", entries={"mode": "b"}).changes == {}


@pytest.mark.parametrize("mode", [644, 420, "rw", "08", True])
def test_a_mode_that_is_none_is_refused_in_words(minion, path, mode):
    with pytest.raises(SaltInvocationError, match="is not an octal text"):
        _mta_tables_manage.plan(minion, str(path), type="hash", entries={"a": "b"}, mode=mode)


def test_a_table_with_secrets_is_not_readable_for_a_moment(
    minion, participate, installed, server, path, monkeypatch
):
    """Nor are drafts, the compiled form, and what is kept of the table before."""
    seen = {}
    fsync, run = os.fsync, _mta_system.run

    def look():
        for file in path.parent.rglob("*"):
            if file.is_file() and b"geheim" in file.read_bytes().lower():
                barriers = [file, *(folder for folder in file.parents if path.parent in folder.parents)]
                seen.setdefault(str(file), []).append(all(one.stat().st_mode & 0o007 for one in barriers))

    monkeypatch.setattr(os, "fsync", lambda descriptor: (fsync(descriptor), look()))
    monkeypatch.setattr(_mta_system, "run", lambda *args, **kwargs: (run(*args, **kwargs), look())[0])
    umask = os.umask(0)
    try:
        for text in ("geheim-1", "geheim-2"):
            participate(_mta_tables_manage.apply, str(path), type="hash", entries={"a": {"secret": text}})
            _mta_apply.commit(minion, verify={"enabled": False})
            look()
    finally:
        os.umask(umask)
    # The source and its compiled form: staged, drafted, switched, kept.
    assert len(seen) >= 8
    assert [file for file, readable in seen.items() if any(readable)] == []


@pytest.mark.parametrize("kind", ["hash", "texthash", "pcre", "mysql", "ldap"])
@pytest.mark.parametrize("mistake", ["geheim", "[smtp.example.net]:587=geheim", "bind_pw geheim", "#geheim"])
def test_a_line_without_a_separator_is_not_shown(minion, installed, path, kind, mistake):
    for entries in ([mistake], {mistake: None}, ["a = b", mistake], {"a": "b", mistake: ""}):
        assert "geheim" not in str(_mta_tables.unfit(minion, str(path), kind, entries, secret=True))
        try:
            said = _mta_tables_manage.plan(minion, str(path), type=kind, entries=entries, secret=True)
        except SaltInvocationError as err:
            said = err
        assert "geheim" not in str(said)
    path.write_text(f"a b\n{mistake}\n")
    path.chmod(0o600)
    assert "geheim" not in str(_mta_tables_manage.plan(minion, str(path), type=kind, entries={"a": "c"}))


def test_a_table_that_cannot_be_encoded_is_refused_without_being_shown(minion, installed, path):
    entries = {"a": {"secret": "geheim"}, "b": "\ud800"}
    with pytest.raises(SaltInvocationError, match="b: half of a character") as refused:
        _mta_tables_manage.plan(minion, str(path), type="hash", entries=entries)
    assert "geheim" not in repr(refused.value)


def test_an_entry_that_is_not_shown_is_told_by_its_number(minion, installed, path):
    said = _mta_tables.unfit(minion, str(path), "hash", ["[smtp.example.net]:587 alice:x", "geheim"], secret=True)
    assert said == "entries:entry 2 (not shown, as it may hold a secret): no value"
    assert _mta_tables.unfit(minion, str(path), "hash", ["a"]) == "entries:a: no value"


def test_the_value_of_a_former_secret_is_not_shown_when_it_goes(minion, apply, path):
    apply(path, type="hash", entries={"a": {"secret": "geheim-1"}, "b": "c"})
    assert "geheim-1" not in str(_mta_tables_manage.plan(minion, str(path), type="hash", entries={"b": "c"}))
    settings = {"user": "x", "uri": {"secret": "geheim-2"}, "password": "geheim-3"}
    other = path.with_name("users")
    apply(other, type="mysql", entries=settings)
    plan = _mta_tables_manage.plan(minion, str(other), type="mysql", entries={"user": "y"})
    assert "geheim" not in str(plan)
    assert plan.changes["user"] == {"old": "x", "new": "y"}


def test_the_words_of_postmap_about_a_secret_table_are_not_shown(minion, installed, path):
    plan = _mta_tables_manage.plan(minion, str(path), type="pcre", entries=["/[geheim/ x"], secret=True)
    assert "not shown" in plan.errors[0]
    assert "geheim" not in str(plan.errors)


def test_a_type_that_this_postfix_lacks_is_an_error_with_the_way_out(minion, installed, path, apply):
    plan = _mta_tables_manage.plan(minion, str(path), type="lmdb", entries={"a": "b"})
    assert "has no table type lmdb" in plan.errors[0]
    assert "default_database_type (hash)" in plan.errors[0]
    with pytest.raises(CommandExecutionError, match="no table type lmdb"):
        apply(path, type="lmdb", entries={"a": "b"})
    assert not path.exists()


def test_a_rule_that_postmap_warns_of_is_an_error(minion, installed, path):
    assert "bad pattern" in _mta_tables_manage.plan(minion, str(path), type="pcre", entries=["/[/ x"]).errors[0]
    assert _mta_tables_manage.plan(minion, str(path), type="pcre", entries=["/a/ x"]).errors == []


def test_without_a_type_it_is_the_default_one(minion, apply, path, pretend):
    apply(path, entries={"a": "b"})
    assert path.with_name("virtual.db").exists()
    pretend("_mta_postfix_view.show", lambda: {"default_database_type": "cidr"})
    assert _mta_tables.default_type(minion) == "cidr"


def test_only_what_was_made_here_is_removed_and_not_while_it_is_named(minion, apply, path, pretend, context):
    apply(path, type="hash", entries={"a": "b"})
    other = path.with_name("other")
    other.write_text("x y\n")
    pretend("_mta_postfix_outlook.naming", lambda paths: {})
    plan = _mta_tables_manage.only_plan(minion, keep={str(path): "hash"})
    assert plan.changes == {}
    pretend("_mta_postfix_outlook.naming", lambda paths: {str(path): "virtual_alias_maps"})
    plan = _mta_tables_manage.only_plan(minion)
    assert (plan.changes, plan.notes) == ({}, [f"{path} stays, as it is named by virtual_alias_maps"])
    assert "still named by" in _mta_tables_manage.only_plan(minion, absent=[str(path)]).errors[0]
    pretend("_mta_postfix_outlook.naming", lambda paths: {})
    assert set(_mta_tables_manage.only_plan(minion).changes) == {str(path), f"{path}.db"}
    _mta_tables_manage.only_apply(minion)
    assert not path.exists()
    assert other.exists()
    assert _mta_tables_manage.only_plan(minion).changes == {}


def test_a_table_that_somebody_has_edited_since_stays(minion, apply, path, pretend):
    apply(path, type="hash", entries={"a": "b"})
    pretend("_mta_postfix_outlook.naming", lambda paths: {})
    path.write_text(f"{path.read_text()}c d\n")
    plan = _mta_tables_manage.only_plan(minion)
    assert plan.changes == {}
    assert plan.notes == [f"{path} stays, as somebody has changed it since the last apply"]
    _mta_tables_manage.only_apply(minion)
    assert path.exists()
    assert path.with_name("virtual.db").exists()
    assert set(_mta_tables_manage.only_plan(minion, absent=[str(path)]).changes) == {str(path), f"{path}.db"}


def test_a_record_that_another_apply_may_write_is_left_to_it(minion, participate, server):
    others = participate(_mta_transaction.begin)
    run = Run.of(minion)
    run.transaction = None
    _mta_tables.notice(minion, "/etc/postfix/x", {"type": "hash"})
    _mta_tables_manage.remember(minion)
    assert not os.path.exists(minion.state.path("maps.json"))
    others.lock.close()


def test_in_a_run_that_has_a_transaction_the_record_is_a_part_of_it(minion, apply, path, pretend):
    """Else an undo would take it for what somebody else has edited meanwhile."""
    path.write_text("a   b\n")
    path.with_name("virtual.db").write_text("A   B\n")
    assert _mta_tables_manage.plan(minion, str(path), type="hash", entries={"a": "b"}).changes == {}
    written = []
    pretend("_mta_transaction.write", lambda target, contents, **_: written.append(target))
    Run.of(minion).transaction = object()
    _mta_tables_manage.remember(minion)
    assert written == [minion.state.path(_mta_tables.RECORD)]
    assert not os.path.exists(written[0])
    Run.of(minion).transaction = None


def test_a_compiled_form_of_another_type_goes(minion, apply, path):
    apply(path, type="hash", entries={"a": "b"})
    apply(path, type="texthash", entries={"a": "b"})
    assert list(_mta_tables_manage.only_plan(minion, keep={str(path): "texthash"}).changes) == [f"{path}.db"]


def test_the_state_reads_entries_from_pillar_and_announces(opts, context, path):
    opts.update(test=True, pillar={"mail": {"logins": {"[a]:587": {"secret": "geheim"}}}})
    modules = salt.loader.minion_mods(opts, context=context)
    states = salt.loader.states(opts, modules, {}, None, context=context)
    would = states["mta_map.managed"](
        str(path), type="hash", entries_pillar="mail:logins", transaction="postfix_mta"
    )
    assert would["result"] is None
    assert would["changes"]["[a]:587"] == {"old": None, "new": "(hidden, changed)"}
    assert not path.exists()


PASSWORD = "pass #word: 7431"
HOP = "[smtp.example.net]:587"
BAD_LOGINS = [
    {"username": "a:b", "password": "geheim"},
    {"username": "a", "password": "geheim "},
    {"username": "a", "password": "geheim\nb c:d"},
    {"username": "a", "password": "geheim\x7f"},
    {"username": "a"},
    {"password": "geheim"},
    "geheim",
]


class TestLogins:
    """The table of logins at smarthosts: pillar paths come in, and a login is seen in the table only."""

    @pytest.fixture
    def pillar(self):
        mail = {"relay": {"username": "user", "password": PASSWORD}, "alice": {"username": "al", "password": "x"}}
        return {"mail": mail, "bad": {str(number): login for number, login in enumerate(BAD_LOGINS)}}

    def test_the_table_has_a_line_for_each_and_is_for_root_alone(self, minion, apply, path, installed):
        logins = {HOP: "mail:relay", "alice@example.com": "mail:alice"}
        apply(path, type="texthash", logins=logins)
        assert path.read_text().splitlines()[1:] == [f"{HOP} user:{PASSWORD}", "alice@example.com al:x"]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        calls = installed()
        assert _mta_tables_manage.plan(minion, str(path), type="texthash", logins=logins).changes == {}
        assert installed() == calls

    def test_a_changed_password_is_a_change_that_does_not_show_it(self, minion, apply, path):
        apply(path, type="texthash", logins={HOP: "mail:relay"})
        path.write_text(path.read_text().replace("7431", "7432"))
        plan = _mta_tables_manage.plan(minion, str(path), type="texthash", logins={HOP: "mail:relay"})
        assert plan.changes == {HOP: {"old": "(hidden)", "new": "(hidden, changed)"}}
        plan = _mta_tables_manage.plan(minion, str(path), type="texthash", logins={"b": "mail:alice"})
        assert plan.changes[HOP] == {"old": "(hidden)", "new": None}
        apply(path, type="texthash", logins={HOP: "mail:alice"})
        assert path.read_text().splitlines()[1:] == [f"{HOP} al:x"]

    @pytest.mark.parametrize("number", range(len(BAD_LOGINS)))
    def test_what_a_table_cannot_hold_is_refused_without_showing_it(self, minion, installed, path, number):
        with pytest.raises(SaltInvocationError) as raised:
            _mta_tables_manage.plan(minion, str(path), type="texthash", logins={HOP: f"bad:{number}"})
        assert "geheim" not in str(raised.value)
