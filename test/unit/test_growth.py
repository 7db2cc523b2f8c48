"""
What is twice as large takes about twice the time, not four times: main.cf, master.cf, listeners, tables, aliases.

CPU time of this thread, the least of several runs each; a square would be at 4.
"""

import gc
import time

import pytest

import _mta_aliases
import _mta_table_syntax
import _mta_tables
import _mta_tables_manage
from _mta_plan import Plan

LIMIT, RUNS, ATTEMPTS = 3.0, 3, 4
MASTER = "smtp inet n - y - - smtpd\n"


def seconds(function):
    """The least CPU time that a call takes."""
    taken = []
    for _ in range(RUNS):
        gc.collect()
        begun = time.thread_time()
        function()
        taken.append(time.thread_time() - begun)
    return min(taken)


def assert_linear(make, size):
    """``make(size)`` returns what is measured, ready to be called."""
    ratios = []
    for _ in range(ATTEMPTS):
        ratios.append(seconds(make(2 * size)) / seconds(make(size)))
        if ratios[-1] <= LIMIT:
            return
    pytest.fail(f"twice as many take {min(ratios):.1f} times as long")


@pytest.mark.parametrize("changed", [False, True])
def test_parameters(configuration, changed):
    def make(size):
        parameters = {f"class{number}": "permit_mynetworks, reject" for number in range(size)}
        configuration.write("".join(f"{name} = {value}\n" for name, value in parameters.items()), MASTER)
        asked = {**parameters, "class7": "reject"} if changed else parameters

        def plan():
            assert list(configuration.changes(asked)) == (["class7"] if changed else [])

        return plan

    assert_linear(make, 1000)


@pytest.mark.parametrize("changed", [False, True])
def test_services(configuration, changed):
    def make(size):
        lines = [f"slow{number} unix - - y - - smtp\n  -o smtp_helo_timeout=30s\n" for number in range(size)]
        configuration.write("myhostname = mail.example.com\n", "".join(lines))
        entry = {"chroot": True, "command": "smtp", "overrides": {"smtp_helo_timeout": "30s"}}
        asked = {f"slow{number}/unix": entry for number in range(size)}
        if changed:
            asked["slow7/unix"] = {**entry, "overrides": {"smtp_helo_timeout": "40s"}}

        def plan():
            assert bool(configuration.changes({}, asked)) == changed

        return plan

    assert_linear(make, 200)


def test_listeners(configuration):
    def make(size):
        configuration.write(
            "myhostname = mail.example.com\n",
            "".join(f"127.0.0.1:{10000 + number} inet n - y - - smtpd\n" for number in range(size)),
        )

        def look():
            assert len(configuration.listeners()) == size

        return look

    assert_linear(make, 200)


@pytest.mark.parametrize("kind", ["hash", "regexp"])
@pytest.mark.parametrize("changed", [False, True])
def test_entries_of_a_table(kind, changed):
    def make(size):
        keys = [f"user{number}@example.com" if kind == "hash" else f"/^user{number}@/" for number in range(size)]
        text = "".join(f"{key} alice\n" for key in keys)
        asked = [{key: "alice"} for key in keys]
        asked[7] = {keys[7]: "bob"} if changed else asked[7]

        def plan():
            wanted, _ = _mta_table_syntax.wanted(kind, asked)
            assert (_mta_table_syntax.edited(kind, text, wanted) != text) == changed
            present = [_mta_table_syntax.pair(kind, line) for line in text.splitlines()]
            assert bool(_mta_table_syntax.difference(kind, present, wanted, set())) == changed

        return plan

    assert_linear(make, 2000)


@pytest.mark.usefixtures("installed")
def test_number_of_tables(minion, tmp_path):
    def make(size):
        minion.context.clear()
        minion.state.forget(_mta_tables.RECORD)
        paths = [tmp_path / f"{size}-{number}" for number in range(size)]
        for path in paths:
            path.write_text("a b\n")
            path.chmod(0o644)

        def plan():
            asked = {"type": "texthash", "entries": {"a": "b"}}
            return [_mta_tables_manage.plan(minion, str(path), **asked) for path in paths]

        assert not any(one.changes for one in plan())
        _mta_tables_manage.remember(minion)
        return plan

    assert_linear(make, 400)


@pytest.mark.parametrize("changed", [False, True])
def test_aliases(minion, installed, monkeypatch, tmp_path, changed):
    monkeypatch.setattr(_mta_aliases, "_compiled_fault", lambda *_: None)
    path = tmp_path / "aliases"

    def make(size):
        aliases = {f"alias{number}": ["alice", "root"] for number in range(size)}
        path.write_text("".join(f"{name}: alice, root\n" for name in aliases))
        asked = {**aliases, "alias7": ["bob"]} if changed else aliases

        def plan():
            minion.context.clear()
            found = _mta_aliases.plan(minion, str(path), asked)
            assert isinstance(found, Plan)
            assert list(found.changes) == (["alias7"] if changed else [])

        return plan

    assert_linear(make, 1000)


def test_a_square_is_found(monkeypatch):
    monkeypatch.setitem(globals(), "seconds", lambda function: function())
    assert_linear(lambda size: lambda: 1 + 2 * size, 800)
    with pytest.raises(pytest.fail.Exception, match="twice as many"):
        assert_linear(lambda size: lambda: size**2, 800)
