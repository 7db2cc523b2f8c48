"""What cannot be replaced is found before an apply changes anything, and named with what to do about it."""

import fcntl
import os
import pathlib
import struct

import pytest

import _mta_apply
import _mta_obstacles
import _mta_system
import _mta_transaction
from _mta_plan import Participant, Plan
from _mta_run import Run

BOUND = "36 35 0:51 /x {} rw - ext4 /dev/x rw"


@pytest.fixture
def host(tmp_path, monkeypatch):
    """Two files, ``first`` and ``second``; ``bound``, ``flags``, ``read_only``: what is wrong with which path."""

    class Host:
        first, second = tmp_path / "etc/first", tmp_path / "etc/ssl/second"
        bound, flags, read_only = [], {}, []

    Host.second.parent.mkdir(parents=True)
    Host.first.write_text("old\n")
    Host.second.write_text("old\n")
    read, statvfs = _mta_system.read, os.statvfs
    mounts = "".join

    def reading(path):
        return mounts(BOUND.format(one) + "\n" for one in Host.bound) if "mountinfo" in str(path) else read(path)

    def volume(path):
        found = statvfs(path)
        if path not in map(str, Host.read_only):
            return found
        return type("volume", (), {"f_flag": found.f_flag | os.ST_RDONLY})

    monkeypatch.setattr(_mta_system, "read", reading)
    monkeypatch.setattr(_mta_obstacles, "_flags", lambda path: Host.flags.get(str(path), 0))
    monkeypatch.setattr(os, "statvfs", volume)
    return Host


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("bound", "it is a mount of its own (a bind mount, say): unmount it, or mount its directory instead"),
        ("immutable", "chattr -i -a {path}"),
        ("append only", "chattr -i -a {path}"),
        ("immutable directory", "{path.parent} has been made immutable"),
        ("read-only", "it is on a file system that is read-only: mount -o remount,rw /"),
    ],
)
@pytest.mark.parametrize("there", [True, False])
def test_each_reason_is_named_with_what_to_do(host, kind, said, there):
    path = host.first
    if not there:
        path.unlink()
    host.bound = [path] * (kind == "bound")
    host.read_only = [path.parent] * (kind == "read-only")
    host.flags = {
        "immutable": {str(path): _mta_obstacles.IMMUTABLE},
        "append only": {str(path): _mta_obstacles.APPEND_ONLY},
        "immutable directory": {str(path.parent): _mta_obstacles.IMMUTABLE},
    }.get(kind, {})
    (text,) = _mta_obstacles.sentences([path, path])
    assert text.startswith(f"Cannot change {path}: ")
    assert said.format(path=path) in text


def test_a_directory_and_what_is_beside_a_mount_can_be_changed(host):
    host.bound = [host.second.parent, host.second]
    assert _mta_obstacles.sentences([host.first, host.second.parent]) == []


def test_the_flags_of_a_file_are_those_of_chattr(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        fcntl, "ioctl", lambda descriptor, request, _: asked.append(request) or struct.pack("l", 16)
    )
    (tmp_path / "file").write_text("")
    assert _mta_obstacles._flags(str(tmp_path / "file")) == _mta_obstacles.IMMUTABLE
    assert asked == [_mta_obstacles.FS_IOC_GETFLAGS]
    assert _mta_obstacles._flags(str(tmp_path / "nothing")) == 0


@pytest.fixture
def part(monkeypatch, minion, server):
    """``part(path, text)``: the state of a participant that gives a file a text; other arguments are recorded."""
    calls = []

    def plan(minion, path, text):
        calls.append((path, Run.of(minion).rehearsal is None))
        changed = pathlib.Path(path).read_text() != text
        return Plan({path: {"old": "old\n", "new": text}} if changed else {})

    def apply(minion, path, text):
        _mta_transaction.write(minion, path, text)

    monkeypatch.setitem(_mta_apply.PARTICIPANTS, "tested", lambda: Participant("tested", plan, apply))

    def state(path, text, test=False):
        arguments = {"path": str(path), "text": text}
        return _mta_apply.participate(minion, "tested", "t", arguments, "postfix_mta", test)

    state.calls = calls
    return state


def run(minion, part, wanted, test=False):
    """The states of one run, in their order; their results."""
    states = [{"path": str(path), "text": text} for path, text in wanted]
    _mta_transaction.pending(minion, [(lambda **given: part(**given, test=test), one) for one in states])
    return [part(**one, test=test) for one in states]


@pytest.mark.parametrize("test", [True, False])
def test_a_file_of_a_later_state_keeps_the_first_one_from_changing_anything(host, minion, part, test, monkeypatch):
    host.bound = [host.second]
    monkeypatch.setattr(_mta_transaction, "write", lambda *_, **__: pytest.fail("something was changed"))
    first, second = run(minion, part, [(host.first, "new\n"), (host.second, "new\n")], test)
    assert (first["result"], first["changes"], second["result"], second["changes"]) == (False, {}, False, {})
    for state in (first, second):
        assert f"Cannot change {host.second}: it is a mount of its own" in state["comment"]
    assert host.first.read_text() == "old\n"
    assert _mta_transaction.pending(minion) is None


@pytest.mark.parametrize("test", [True, False])
def test_one_that_stays_as_it_is_keeps_nothing_from_being_changed(host, minion, part, test):
    host.bound = [host.second]
    first, second = run(minion, part, [(host.first, "new\n"), (host.second, "old\n")], test)
    assert (first["result"], second["result"]) == (None if test else True, True)
    assert list(first["changes"]) == [str(host.first), "activation"]


def test_nothing_is_rehearsed_where_no_file_gives_reason_to(host, minion, part):
    run(minion, part, [(host.first, "new\n"), (host.second, "new\n")])
    assert all(real for _, real in part.calls)
    assert [path for path, _ in part.calls].count(str(host.second)) == 1


def test_a_state_that_fails_in_the_rehearsal_is_left_to_fail_by_itself(host, minion, part):
    host.bound = [host.second]

    def fails(path):
        raise ValueError(path)

    _mta_transaction.pending(minion, [(fails, {"path": str(host.second)})])
    assert part(str(host.first), "new\n")["result"] is True
