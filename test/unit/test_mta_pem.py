"""_mta_pem: which files are read, and who may have access to them."""

import pytest
from salt.exceptions import SaltInvocationError

import _mta_pem

KEY = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"


def test_a_relative_path_is_no_path():
    with pytest.raises(SaltInvocationError, match="An absolute path is needed"):
        _mta_pem.read("smtpd.key")


def test_nothing_there_is_none_and_a_link_of_roots_is_followed(tmp_path):
    assert _mta_pem.read(str(tmp_path / "key")) is None
    (tmp_path / "key").write_bytes(KEY)
    (tmp_path / "link").symlink_to(tmp_path / "key")
    assert _mta_pem.read(str(tmp_path / "link")).data == KEY


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
def test_who_else_can_get_at_a_file_is_told(mode, kind, words):
    file = _mta_pem.File(b"", mode, 0, 4242)
    assert _mta_pem.wrong_access(file, kind) == words


def test_a_file_of_somebody_else_is_told():
    file = _mta_pem.File(b"", 0o600, 65534, 0)
    assert _mta_pem.wrong_access(file, "certificate") == "belongs to user 65534, not to root"
