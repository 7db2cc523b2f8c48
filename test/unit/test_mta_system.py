"""Files, programs, the state directory and the lines of Postfix's files: all else of the library uses it."""

import concurrent.futures
import contextlib
import datetime
import os
import socket
import stat
import subprocess
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from salt.exceptions import CommandExecutionError

import _mta_system


class TestReading:
    def test_text_comes_back_byte_by_byte(self, tmp_path):
        path = tmp_path / "x"
        path.write_bytes(b"a\r\nb\xe9\n")
        text = _mta_system.read(path)
        assert text == "a\r\nb\udce9\n"
        _mta_system.replace(path, text)
        assert _mta_system.read_bytes(path) == b"a\r\nb\xe9\n"

    def test_what_is_not_there_is_none(self, tmp_path):
        (tmp_path / "file").touch()
        for path in (tmp_path / "x", tmp_path / "file" / "x"):
            assert _mta_system.read(path) is None
            assert _mta_system.text_of(path) == ""
            assert _mta_system.read_bytes(path) is None

    def test_what_cannot_be_read_is_an_error_with_its_cause(self, tmp_path):
        with pytest.raises(CommandExecutionError, match=f"Cannot read {tmp_path}: Is a directory") as caught:
            _mta_system.read(tmp_path)
        assert _mta_system.text_of(tmp_path) == ""
        assert isinstance(caught.value.__cause__, IsADirectoryError)


class TestReplacing:
    def test_a_new_file_is_0644_or_as_asked(self, tmp_path):
        _mta_system.replace(tmp_path / "a", "x")
        _mta_system.replace(tmp_path / "b", b"x", mode=0o600)
        assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"] == [0o644, 0o600]
        assert sorted(os.listdir(tmp_path)) == ["a", "b"]

    def test_owner_and_mode_stay_where_none_is_asked(self, tmp_path):
        path = tmp_path / "x"
        path.touch()
        path.chmod(0o4640)
        if os.geteuid() == 0:
            os.chown(path, 12, 34)
            path.chmod(0o4640)
        before = path.stat()
        _mta_system.replace(path, "new")
        after = path.stat()
        assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)
        assert after.st_ino != before.st_ino

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
    def test_owner_and_mode_as_asked(self, tmp_path):
        path = tmp_path / "x"
        path.touch()
        _mta_system.replace(path, "new", mode=0o640, uid=12, gid=34)
        after = path.stat()
        assert (after.st_uid, after.st_gid, stat.S_IMODE(after.st_mode)) == (12, 34, 0o640)

    def test_extended_attributes_stay(self, tmp_path):
        path = tmp_path / "x"
        path.touch()
        try:
            os.setxattr(path, "user.note", b"kept")
        except OSError:
            pytest.skip("this file system has no extended attributes")
        _mta_system.replace(path, "new")
        assert os.getxattr(path, "user.note") == b"kept"

    def test_times(self, tmp_path):
        path = tmp_path / "x"
        _mta_system.replace(path, "new", times=(5 * 10**9, 7 * 10**9))
        assert (path.stat().st_atime, path.stat().st_mtime) == (5, 7)

    def test_a_symbolic_link_is_replaced_and_its_target_left_alone(self, tmp_path):
        target = tmp_path / "target"
        target.write_text("old")
        target.chmod(0o600)
        (tmp_path / "link").symlink_to(target)
        _mta_system.replace(tmp_path / "link", "new")
        assert (target.read_text(), (tmp_path / "link").read_text()) == ("old", "new")
        assert not (tmp_path / "link").is_symlink()
        assert stat.S_IMODE((tmp_path / "link").stat().st_mode) == 0o644

    def test_a_failure_leaves_the_old_file_and_no_draft(self, tmp_path, monkeypatch):
        path = tmp_path / "x"
        path.write_text("old")
        monkeypatch.setattr(os, "fsync", lambda _: os.read(-1, 1))
        with pytest.raises(CommandExecutionError, match=f"Cannot write {path}: Bad file descriptor"):
            _mta_system.replace(path, "new")
        assert path.read_text() == "old"
        assert os.listdir(tmp_path) == ["x"]

    def test_a_missing_directory_is_an_error_that_names_the_file(self, tmp_path):
        with pytest.raises(CommandExecutionError, match=f"Cannot write {tmp_path}/a/x: No such file"):
            _mta_system.replace(tmp_path / "a" / "x", "new")

    def test_it_is_on_the_disk_before_and_after_it_gets_its_name(self, tmp_path, monkeypatch):
        order = []
        fsync, rename = os.fsync, os.replace
        monkeypatch.setattr(
            os, "fsync", lambda fd: (order.append(os.path.isdir(f"/proc/self/fd/{fd}")), fsync(fd))
        )
        monkeypatch.setattr(os, "replace", lambda *names: (order.append("renamed"), rename(*names)))
        _mta_system.replace(tmp_path / "x", "new")
        assert order == [False, "renamed", True]

    def test_removing_says_whether_there_was_one(self, tmp_path):
        (tmp_path / "x").touch()
        assert [_mta_system.remove(tmp_path / "x"), _mta_system.remove(tmp_path / "x")] == [True, False]
        with pytest.raises(CommandExecutionError, match=f"Cannot remove {tmp_path}: "):
            _mta_system.remove(tmp_path)

    def test_a_directory_to_sync_has_to_be_one(self, tmp_path):
        _mta_system.host.sync(tmp_path)
        with pytest.raises(FileNotFoundError, match=f"{tmp_path}/x"):
            _mta_system.host.sync(tmp_path / "x")


class TestStateDirectory:
    def test_what_is_written_is_read_and_forgotten(self, tmp_path):
        state = _mta_system.StateDirectory(str(tmp_path / "state"))
        assert state.read("below/x.json") == {}
        state.write("below/x.json", {"a": 1})
        assert state.read("below/x.json") == {"a": 1}
        modes = [stat.S_IMODE(os.stat(state.path(name)).st_mode) for name in ("", "below", "below/x.json")]
        assert modes == [0o700, 0o700, 0o600]
        state.forget("below/x.json")
        state.forget("below/x.json")
        assert state.read("below/x.json") == {}

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
    def test_a_damaged_file_is_as_none(self, tmp_path, content):
        (tmp_path / "x").write_bytes(content)
        assert _mta_system.StateDirectory(str(tmp_path)).read("x") == {}

    def test_what_is_written_takes_the_place_of_what_was_there(self, tmp_path):
        state = _mta_system.StateDirectory(str(tmp_path / "state"))
        state.write("x.json", {"a": [1, None]})
        state.write("x.json", {"a": [2, None]})
        assert state.read("x.json") == {"a": [2, None]}
        assert os.listdir(tmp_path / "state") == ["x.json"]

    def test_of_many_that_write_at_once_none_fails_and_nobody_reads_less_than_one_has_written(self, tmp_path):
        state = _mta_system.StateDirectory(str(tmp_path / "state"))

        def write_and_read(number):
            state.write("x.json", {"a": [number] * 50})
            return len(set(state.read("x.json")["a"]))

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            assert set(pool.map(write_and_read, range(200))) == {1}
        assert os.listdir(tmp_path / "state") == ["x.json"]

    def test_a_disk_that_cannot_be_written_is_an_error_that_names_the_file(self, tmp_path):
        (tmp_path / "state").write_text("not a directory")
        with pytest.raises(CommandExecutionError, match=r"x\.json"):
            _mta_system.StateDirectory(str(tmp_path / "state")).write("x.json", {})

    def test_where_it_is(self):
        assert _mta_system.StateDirectory().path() == "/var/lib/postfix_mta"
        assert _mta_system.StateDirectory(None).path("x") == "/var/lib/postfix_mta/x"


class TestRunning:
    @pytest.mark.parametrize("missing", ["memfd_create", "pidfd_open"])
    def test_the_python_of_salts_packages_may_lack_what_others_have(self, monkeypatch, missing):
        monkeypatch.delattr(os, missing)
        done = _mta_system.run(["sh", "-c", "cat; echo e >&2; exit 3"], stdin="x", check=False)
        assert done == (3, b"x", b"e\n")
        with pytest.raises(CommandExecutionError, match="did not end within"):
            _mta_system.run(["sleep", "30"], timeout=0.1)

    def test_what_a_program_did(self):
        done = _mta_system.run(["sh", "-c", "cat; echo e >&2; exit 3"], stdin="\udce9x", check=False)
        assert done == (3, b"\xe9x", b"e\n")
        assert (done.text, done.message) == ("\udce9x", "e")

    def test_a_failure_is_an_error_with_what_it_said(self):
        with pytest.raises(
            CommandExecutionError, match=r"^'sh -c 'echo no >&2; exit 3'' failed with exit code 3: no"
        ):
            _mta_system.run(["sh", "-c", "echo no >&2; exit 3"])
        with pytest.raises(CommandExecutionError, match="failed with exit code 1: on stdout"):
            _mta_system.run(["sh", "-c", "echo on stdout; false"])

    def test_a_program_that_is_not_there(self):
        with pytest.raises(CommandExecutionError, match="Cannot run 'no-such-program': No such file"):
            _mta_system.run(["no-such-program", "x"])

    def test_it_gets_nothing_that_it_was_not_given(self, monkeypatch):
        monkeypatch.setenv("MAIL_CONFIG", "/tmp")
        monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
        monkeypatch.setenv("PATH", "/opt/x")
        done = _mta_system.run(["env"], environment={"A": "1", "PATH": "no"})
        wanted = {"A=1", "LC_ALL=C", "PATH=/opt/x:/usr/sbin:/usr/bin:/sbin:/bin"}
        assert set(done.text.split()) == wanted
        assert _mta_system.run(["pwd"]).text == "/\n"
        assert _mta_system.run(["cat"]).output == b""

    def test_no_path_at_all(self, monkeypatch):
        monkeypatch.delenv("PATH")
        assert _mta_system.find_program("env") in ("/usr/bin/env", "/bin/env")
        assert _mta_system.find_program("no-such-program") is None

    def test_a_daemon_that_keeps_the_output_open_is_not_waited_for(self):
        started = time.monotonic()
        done = _mta_system.run(["sh", "-c", "sleep 30 & echo $!"])
        assert time.monotonic() - started < 10
        subprocess.run(["kill", done.text.strip()], check=True)

    def test_after_its_time_it_is_killed_with_all_that_it_started(self, tmp_path):
        script = f"sleep 300 & echo $! >{tmp_path}/pid; wait"
        with pytest.raises(CommandExecutionError, match=r"did not end within 0\.5 seconds"):
            _mta_system.run(["sh", "-c", script], timeout=0.5)
        child = (tmp_path / "pid").read_text().strip()
        deadline = time.monotonic() + 5
        while os.path.exists(f"/proc/{child}"):
            if "State:\tZ" in (_mta_system.read(f"/proc/{child}/status") or "State:\tZ"):
                break
            assert time.monotonic() < deadline

    def test_its_end_is_noticed_at_once(self, monkeypatch):
        monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("time goes by"))
        assert _mta_system.run(["sh", "-c", "sleep 0.1"], timeout=5).code == 0

    def test_much_to_say_and_nobody_who_listens(self):
        data = os.urandom(1 << 20)
        assert _mta_system.run(["cat"], stdin=data).output == data
        assert _mta_system.run(["true"], stdin=data).code == 0


def read_line(text):
    """Logical lines as readlline(3) reads them, said as plainly as possible: the text of each, blanks and all."""
    lines, current = [], None
    for line in text.split("\n"):
        if not line.strip(_mta_system.BLANKS) or line.lstrip(_mta_system.BLANKS).startswith("#"):
            continue
        if line[0] in _mta_system.BLANKS and current is not None:
            current.append(line)
        else:
            current = [line]
            lines.append(current)
    return ["".join(parts) for parts in lines]


class TestLogicalLines:
    def test_comments_and_empty_lines_do_not_end_one(self):
        text = "# c\na = b,\n\n # c\n#c\n  d\n\t\ne\n"
        assert _mta_system.logical_lines(text) == [("a = b,  d", [1, 5]), ("e", [7])]

    def test_a_continuation_of_nothing(self):
        assert _mta_system.logical_lines("\n  a\n b\nc") == [("  a b", [1, 2]), ("c", [3])]

    @given(st.text(alphabet="a#= \t\r\v\n\u00a0\udce9", max_size=60))
    def test_they_are_those_of_postfix_and_lose_nothing(self, text):
        found = _mta_system.logical_lines(text)
        assert [line for line, _ in found] == read_line(text)
        lines = text.split("\n")
        assert ["".join(lines[index] for index in indexes) for _, indexes in found] == read_line(text)


def test_nearest():
    assert _mta_system.nearest("mydestnation", ["mydestination", "mynetworks"]) == "mydestination"
    assert _mta_system.nearest("x", iter(["mydestination"])) is None
    assert _mta_system.nearest("mydestnation", ["mydestination"], 0.99) is None


def test_the_clock_is_in_utc():
    assert abs(_mta_system.now() - datetime.datetime.now().astimezone()) < datetime.timedelta(seconds=60)
    assert _mta_system.now().utcoffset() == datetime.timedelta(0)


def test_a_socket_is_listened_at_or_only_left(tmp_path, listening):
    path = tmp_path / "bus"
    assert not _mta_system.listens(path)
    listening(path)
    assert _mta_system.listens(path)
    (tmp_path / "left").touch()
    assert not _mta_system.listens(tmp_path / "left")


def test_who_has_as_many_clients_waiting_as_it_takes_listens(tmp_path):
    path = str(tmp_path / "bus")
    with socket.socket(socket.AF_UNIX) as server, contextlib.ExitStack() as clients:
        server.bind(path)
        server.listen(0)
        for _ in range(3):
            client = clients.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(path)
        assert _mta_system.listens(path)


def test_who_asks_for_a_port_by_its_name_looks_at_the_file_that_has_it():
    with _mta_system.watched() as looks:
        assert _mta_system.port("25") == 25
        assert looks.files == {}
        assert _mta_system.port("no-such-service") is None
    assert list(looks.files) == [_mta_system.SERVICES]
    assert not looks.more
