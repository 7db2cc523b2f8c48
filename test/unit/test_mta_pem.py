"""mta_pem: which files are read and written, and who may have access to them."""

import os
import types

import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError

KEY = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"


@pytest.fixture
def pem(modules):
    """The module's functions by name."""
    return lambda function, *args, **kwargs: modules[f"mta_pem.{function}"](*args, **kwargs)


@pytest.fixture
def written(pretend):
    """What goes through the transaction, in order; every file is written at once."""
    seen = []

    def write(path, data, **kwargs):
        seen.append((os.path.basename(path), kwargs["mode"]))
        with open(path, "wb") as handle:
            handle.write(data)

    pretend("_mta_transaction.write", write)
    pretend("_mta_transaction.directory", lambda path, mode: (seen.append((path, mode)), os.mkdir(path)))
    pretend("_mta_transaction.halt", lambda: seen.append("halt") or True)
    pretend("_mta_services.start", lambda name: seen.append("start"))
    return seen


def test_a_relative_path_is_no_path(pem):
    with pytest.raises(SaltInvocationError, match="An absolute path is needed"):
        pem("read", "smtpd.key")


def test_nothing_there_is_none_and_a_link_of_roots_is_followed(pem, tmp_path):
    assert pem("read", str(tmp_path / "key")) is None
    (tmp_path / "key").write_bytes(KEY)
    (tmp_path / "link").symlink_to(tmp_path / "key")
    assert pem("read", str(tmp_path / "link")).data == KEY


@pytest.mark.parametrize(
    ("mode", "kind", "words"),
    [
        (0o600, "key", None),
        (0o400, "key", None),
        (0o640, "key", "can be read by others (mode 0640)"),
        (0o604, "server key", "can be read by others (mode 0604)"),
        (0o644, "certificate", None),
        (0o664, "certificate", "can be written by others (mode 0664)"),
    ],
)
def test_who_else_can_get_at_a_file_is_told(pem, mode, kind, words):
    file = types.SimpleNamespace(mode=mode, uid=0, gid=4242)
    assert pem("wrong_access", "/x", file, kind) == words


def test_a_file_of_somebody_else_is_told(pem):
    file = types.SimpleNamespace(mode=0o600, uid=65534, gid=0)
    assert pem("wrong_access", "/x", file, "certificate") == "belongs to user 65534, not to root"


def test_a_key_becomes_private_and_a_certificate_does_not(pem, written, tmp_path):
    folder = tmp_path / "new"
    pem(
        "write",
        {str(folder / "key"): KEY, str(tmp_path / "both"): b"certificate\n" + KEY, str(tmp_path / "crt"): b"x"},
    )
    assert written == [(str(folder), "0700"), ("key", "0600"), ("both", "0600"), ("crt", "0644")]


def test_all_is_written_between_a_stop_and_a_start(pem, written, tmp_path):
    pem("write", {str(tmp_path / "a"): KEY, str(tmp_path / "b"): b"x"}, halted=True)
    assert [item if isinstance(item, str) else item[0] for item in written] == ["halt", "a", "b", "start"]


def test_without_room_for_all_of_them_nothing_is_written_and_nothing_stopped(
    pem, written, modules, tmp_path, monkeypatch
):
    real = os.posix_fallocate

    def full(descriptor, offset, size):
        if size > 10000:
            raise OSError(28, "No space left on device")
        real(descriptor, offset, size)

    space = types.SimpleNamespace(**{**vars(os), "posix_fallocate": full})
    for loader in (modules, modules.pack["__salt__"]):
        monkeypatch.setitem(loader["mta_pem.write"].__globals__, "os", space)
    with pytest.raises(CommandExecutionError, match="No space left on device"):
        pem("write", {str(tmp_path / "a"): KEY, str(tmp_path / "b"): b"x"}, halted=True)
    assert written == []
    assert list(tmp_path.glob(".postfix_mta*")) == []
