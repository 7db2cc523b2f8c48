"""_mta_pem_write: keys are private, and what belongs together is switched together."""

import os
import types

import pytest
from salt.exceptions import CommandExecutionError

import _mta_pem_write

KEY = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"


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


def test_a_key_becomes_private_and_a_certificate_does_not(minion, written, tmp_path):
    folder = tmp_path / "new"
    files = {folder / "key": KEY, tmp_path / "both": b"certificate\n" + KEY, tmp_path / "crt": b"x"}
    _mta_pem_write.write(minion, {str(path): data for path, data in files.items()})
    assert written == [(str(folder), "0700"), ("key", "0600"), ("both", "0600"), ("crt", "0644")]


def test_all_is_written_between_a_stop_and_a_start(minion, written, tmp_path):
    _mta_pem_write.write(minion, {str(tmp_path / "a"): KEY, str(tmp_path / "b"): b"x"}, halted=True)
    assert [item if isinstance(item, str) else item[0] for item in written] == ["halt", "a", "b", "start"]


def test_without_room_for_all_of_them_nothing_is_written_and_nothing_stopped(
    minion, written, tmp_path, monkeypatch
):
    real = os.posix_fallocate

    def full(descriptor, offset, size):
        if size > 10000:
            raise OSError(28, "No space left on device")
        real(descriptor, offset, size)

    space = types.SimpleNamespace(**{**vars(os), "posix_fallocate": full})
    monkeypatch.setattr(_mta_pem_write, "os", space)
    with pytest.raises(CommandExecutionError, match="No space left on device"):
        _mta_pem_write.write(minion, {str(tmp_path / "a"): KEY, str(tmp_path / "b"): b"x"}, halted=True)
    assert written == []
    assert list(tmp_path.glob(".postfix_mta*")) == []
