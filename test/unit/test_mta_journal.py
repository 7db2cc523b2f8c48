"""Entries of the journal are put back, by the formula and by the boot; a draft is none."""

import contextlib
import errno
import os
import re
import shutil
import struct
import subprocess

import pytest

import _mta_apply
import _mta_journal
import _mta_recovery
import _mta_system
from _mta_run import Run

NOBODY = 0xFFFFFFFF
SHELLS = [["sh"], ["bash", "--posix"], *([["busybox", "sh"]] if shutil.which("busybox") else [])]


@pytest.fixture(params=["undo", "recover", *map(" ".join, SHELLS)])
def roll_back(request, transaction, minion, context, tmp_path):
    """
    A function that undoes the transaction: in its own run, in the next one, or as the boot does. ``env``: of the
    script. Returns what it says.
    """

    def run(**env):
        if request.param == "undo":
            return transaction("undo", "no reason")["comment"]
        Run.of(minion).transaction.close()
        context.clear()
        if request.param == "recover":
            return "\n".join(transaction("recover")["notes"])
        script = tmp_path / "recover.sh"
        script.write_text(_mta_recovery.script(tmp_path / "state", tmp_path, tmp_path / "no-systemd"))
        argv = [*request.param.split(), str(script)]
        done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, **env}, check=False)
        assert done.returncode == len(list((tmp_path / "state").glob("not-restored-*")))
        return done.stdout

    return run


@pytest.fixture
def changed(transaction, tmp_path):
    """What a transaction that is still open has made: a file, a directory that a daemon uses, a command."""
    database = tmp_path / "group"
    database.write_text("sasl:\n")
    folder = tmp_path / "run" / "daemon"
    transaction("write", str(tmp_path / "option"), "secret", mode="0600")
    transaction("directory", str(folder), runtime=["mux"])
    add = ["sed", "-i", "s/$/postfix/", str(database)]
    delete = ["sed", "-i", "s/postfix//", str(database)]
    transaction("command", "group", [add], [delete], [str(database), "^sasl:postfix$"])
    assert database.read_text() == "sasl:postfix\n"
    (folder / "mux").touch()
    return {"option": tmp_path / "option", "folder": folder, "database": database}


def test_everything_is_put_back(changed, minion, roll_back, tmp_path):
    roll_back()
    assert changed["database"].read_text() == "sasl:\n"
    assert not changed["folder"].exists()
    assert not changed["option"].exists()
    assert _mta_journal.entries(minion) == []
    assert list((tmp_path / "state").glob("*journal")) == []
    assert list(tmp_path.glob("*edited*")) == []


def test_one_that_cannot_be_put_back_does_not_keep_the_others(changed, main_cf, transaction, roll_back, tmp_path):
    transaction("write", str(main_cf), "new\n", mode="0644")
    # Neither rename(2) nor mv(1) replaces a directory by a file.
    for path in (main_cf, changed["option"]):
        path.unlink()
        path.mkdir()
    transaction("write", str(tmp_path / "last"), "new\n")
    said = roll_back()
    assert changed["database"].read_text() == "sasl:\n"
    assert not (tmp_path / "last").exists()
    (aside,) = (tmp_path / "state").glob("not-restored-*")
    assert {(entry / "path").read_text() for entry in aside.iterdir()} == {str(main_cf), str(changed["option"])}
    (content,) = aside.glob("*/content")
    assert content.read_text() == "myhostname = old\n"
    for path in (main_cf, changed["option"]):
        assert re.search(f"{path} could not be (restored|put back)", said)
    assert transaction("pending") is None
    assert list(tmp_path.glob("*edited*")) == []


def test_the_next_apply_works_after_one_that_could_not_be_undone(main_cf, transaction, roll_back, tmp_path):
    transaction("write", str(main_cf), "new\n")
    main_cf.unlink()
    main_cf.mkdir()
    roll_back()
    main_cf.rmdir()
    transaction("write", str(main_cf), "newer\n")
    assert transaction("commit")["result"] is True
    assert main_cf.read_text() == "newer\n"


def test_what_is_as_it_was_saved_is_left_alone(main_cf, transaction, roll_back, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o750)
    transaction("write", str(main_cf), main_cf.read_text())
    transaction("directory", str(folder), folder.stat().st_uid, folder.stat().st_gid, "0750")
    before = [(path.stat().st_ino, path.stat().st_ctime_ns) for path in (main_cf, folder)]
    roll_back()
    assert [(path.stat().st_ino, path.stat().st_ctime_ns) for path in (main_cf, folder)] == before


def test_a_mode_that_was_changed_comes_back(main_cf, transaction, roll_back, tmp_path):
    transaction("write", str(main_cf), main_cf.read_text(), mode="0600")
    roll_back()
    assert main_cf.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.glob("*edited*")) == []


def test_what_somebody_else_has_edited_is_kept_beside_it(main_cf, transaction, roll_back, tmp_path):
    option = tmp_path / "option"
    for path in (main_cf, option):
        transaction("write", str(path), "new\n", mode="0600")
        path.write_text("mended by hand\n")
    said = roll_back()
    assert main_cf.read_text() == "myhostname = old\n"
    assert not option.exists()
    for path in (main_cf, option):
        (kept,) = tmp_path.glob(f"{path.name}.edited-meanwhile-*")
        assert kept.read_text() == "mended by hand\n"
        assert kept.stat().st_mode & 0o777 == 0o600
        assert str(kept) in said


def test_what_somebody_else_has_put_in_the_place_of_a_removed_file_is_kept(
    main_cf, transaction, roll_back, tmp_path
):
    transaction("remove", str(main_cf))
    main_cf.write_text("mended by hand\n")
    roll_back()
    assert main_cf.read_text() == "myhostname = old\n"
    (kept,) = tmp_path.glob("main.cf.edited-meanwhile-*")
    assert kept.read_text() == "mended by hand\n"


def test_a_version_that_cannot_be_replaced_is_not_kept_twice(
    main_cf, transaction, roll_back, tmp_path, monkeypatch
):
    transaction("write", str(main_cf), "new\n")
    main_cf.write_text("mended by hand\n")

    rename = os.replace

    def refuse(old, new):
        if str(new) == str(main_cf):
            raise OSError(16, "Device or resource busy")
        rename(old, new)

    monkeypatch.setattr(os, "replace", refuse)
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "mv").write_text('#!/bin/sh\n[ "$1" = -f ] || exec /bin/mv "$@"\nexit 1\n')
    (programs / "mv").chmod(0o755)
    roll_back(PATH=f"{programs}:{os.environ['PATH']}")
    assert main_cf.read_text() == "mended by hand\n"
    assert list(tmp_path.glob("*edited*")) == []
    assert list(tmp_path.glob("*main.cf*")) == [main_cf]


@pytest.mark.parametrize("last", ["first", "second"])
def test_nothing_that_the_transaction_wrote_is_kept(main_cf, transaction, roll_back, tmp_path, monkeypatch, last):
    transaction("write", str(main_cf), "first\n")
    replace = os.replace

    def die(*args):
        if last == "second":
            replace(*args)
        raise SystemExit

    # It dies immediately before, or after, it switches the second version.
    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(SystemExit):
        transaction("write", str(main_cf), "second\n")
    monkeypatch.setattr(os, "replace", replace)
    assert main_cf.read_text() == f"{last}\n"
    roll_back()
    assert main_cf.read_text() == "myhostname = old\n"
    assert list(tmp_path.glob("*edited*")) == []


def test_on_a_full_disk_what_was_saved_gets_its_name_back(main_cf, transaction, roll_back, tmp_path, monkeypatch):
    transaction("write", str(main_cf), "new\n", mode="0644")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_mta_system.host, "draft", full)
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "cp").write_text('#!/bin/sh\n: >"$3"\nexit 1\n')
    (programs / "cp").chmod(0o755)
    roll_back(PATH=f"{programs}:{os.environ['PATH']}")
    assert main_cf.read_text() == "myhostname = old\n"
    assert main_cf.stat().st_mode & 0o777 == 0o640
    assert list((tmp_path / "state").glob("not-restored-*")) == []


def test_a_boot_script_that_dies_can_be_repeated(main_cf, transaction, roll_back, tmp_path):
    transaction("write", str(main_cf), "new\n")
    draft = tmp_path / "main.cf.postfix_mta"
    os.link(tmp_path / "state" / "journal" / "0000" / "content", draft)
    roll_back()
    assert main_cf.read_text() == "myhostname = old\n"


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: (entry / "path").write_bytes(b""),
        lambda entry: (entry / "kind").unlink(),
        lambda entry: (entry / "kind").write_text("of tomorrow"),
        lambda entry: ((entry / "content").unlink(), (entry / "content").write_text("half")),
        lambda entry: [file.unlink() for file in entry.iterdir()],
    ],
    ids=["no path", "no kind", "unknown kind", "half of the content", "nothing"],
)
def test_a_damaged_entry_is_reported_and_stops_nothing_else(main_cf, transaction, roll_back, tmp_path, damage):
    other = tmp_path / "other"
    other.write_text("old\n")
    transaction("write", str(main_cf), "new\n")
    transaction("write", str(other), "new\n")
    (tmp_path / "state/journal/0000/content").chmod(0o640)
    damage(tmp_path / "state/journal/0000")
    said = roll_back()
    assert "could not be restored" in said
    assert (main_cf.read_text(), other.read_text()) == ("new\n", "old\n")
    assert len(list((tmp_path / "state").glob("not-restored-*"))) == 1
    assert transaction("pending") is None


def test_the_old_file_itself_comes_back(main_cf, transaction, roll_back):
    """With whatever belongs to it: attributes, access control lists, labels, other names."""
    other_name = main_cf.with_name("other-name")
    os.link(main_cf, other_name)
    with contextlib.suppress(OSError):
        os.setxattr(main_cf, "user.note", b"kept")
    transaction("write", str(main_cf), "new\n")
    roll_back()
    assert main_cf.samefile(other_name)


def test_a_membership_that_cannot_be_given_back_is_reported(changed, transaction, roll_back, tmp_path):
    database = changed["database"]
    assert transaction("commit")["result"] is True
    take = ["sed", "-i", "s/postfix//", str(database)]
    transaction("command", "group", [take], [["false"]], [str(database), "^sasl:postfix$"], removes=True)
    assert "group could not be restored" in roll_back()
    assert database.read_text() == "sasl:\n"


def test_a_membership_that_was_not_taken_yet_needs_not_be_given_back(changed, transaction, roll_back, tmp_path):
    database = changed["database"]
    assert transaction("commit")["result"] is True
    transaction("command", "group", [["true"]], [["false"]], [str(database), "^sasl:postfix$"], removes=True)
    assert "could not be restored" not in roll_back()
    assert database.read_text() == "sasl:postfix\n"


# As setfacl -m u:12345:r makes it: version 2, then tag, permissions and who of each entry.
ACCESS_LIST = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, permissions, who)
    for tag, permissions, who in [(1, 6, NOBODY), (2, 4, 12345), (4, 4, NOBODY), (16, 4, NOBODY), (32, 0, NOBODY)]
)
BELONGS = {"user.note": b"kept", "system.posix_acl_access": ACCESS_LIST}


@pytest.fixture
def marked(main_cf):
    """main.cf with an attribute and an access control list; what of these a file has."""
    try:
        for name, value in BELONGS.items():
            os.setxattr(main_cf, name, value)
    except OSError as err:
        pytest.skip(f"the file system of {main_cf} takes no attributes: {err}")
    return lambda path: {name: value for name, value in _mta_system.attributes(path).items() if name in BELONGS}


@pytest.mark.parametrize("copied", [False, True], ids=["linked", "copied"])
def test_attributes_and_access_control_lists_go_over_to_the_new_file_and_come_back(
    main_cf, marked, transaction, roll_back, monkeypatch, request, tmp_path, copied
):
    def refuse(path, name):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    if copied:
        if "busybox" in request.node.name:
            pytest.skip("its cp does not know of them: this is on another file system only")
        monkeypatch.setattr(_mta_system.host, "link", refuse)
    transaction("write", str(main_cf), "new\n")
    assert marked(main_cf) == BELONGS
    for name in BELONGS:
        os.removexattr(main_cf, name)
    if copied:
        # For the script, to which nobody refuses anything.
        programs = tmp_path / "programs"
        programs.mkdir()
        (programs / "ln").write_text("#!/bin/sh\nexit 1\n")
        (programs / "ln").chmod(0o755)
    roll_back(**({"PATH": f"{tmp_path}/programs:{os.environ['PATH']}"} if copied else {}))
    assert main_cf.read_text() == "myhostname = old\n"
    assert marked(main_cf) == BELONGS


def test_a_removed_file_has_them_again_when_it_is_restored_from_a_snapshot(
    main_cf, marked, transaction, minion, context
):
    transaction("remove", str(main_cf))
    assert transaction("commit")["result"] is True
    _mta_apply.roll_back(minion)
    assert main_cf.read_text() == "myhostname = old\n"
    assert marked(main_cf) == BELONGS


def test_a_symbolic_link_that_was_removed_comes_back_as_one(main_cf, transaction, roll_back, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(main_cf)
    transaction("remove", str(link))
    roll_back()
    assert os.readlink(link) == str(main_cf)
    assert list(tmp_path.glob("*edited*")) == []


def test_a_directory_that_is_gone_after_a_boot_stands_in_nobodys_way(main_cf, transaction, roll_back, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    transaction("write", str(main_cf), "new\n")
    transaction("directory", str(folder), 1, 1, "0710")
    folder.rmdir()
    roll_back()
    assert main_cf.read_text() == "myhostname = old\n"
    assert list((tmp_path / "state").glob("not-restored-*")) == []


def test_a_directory_in_which_somebody_else_has_put_something_stays(transaction, changed):
    (changed["folder"] / "of somebody else").touch()
    transaction("undo", "no reason")
    assert changed["folder"].exists()


def test_a_draft_of_an_entry_is_not_mistaken_for_one(changed, minion, tmp_path):
    saved = [entry["path"] for entry in _mta_journal.entries(minion)]
    draft = tmp_path / "state" / "journal" / ".0009"
    draft.mkdir()
    (draft / "path").write_text(str(tmp_path / "never"))
    assert [entry["path"] for entry in _mta_journal.entries(minion)] == saved
    assert str(changed["option"]) in saved


def test_only_the_first_change_of_a_path_is_saved(transaction, changed, minion):
    before = _mta_journal.entries(minion)
    transaction("write", str(changed["option"]), "another")
    assert _mta_journal.entries(minion) == before


@pytest.mark.parametrize("contents", ["text\n", b"\xff\x00"])
def test_a_file_is_replaced_whole(tmp_path, contents):
    path = tmp_path / "file"
    path.write_text("old")
    _mta_system.switch(path, contents, path.stat().st_uid, path.stat().st_gid, 0o600)
    assert path.read_bytes() == (contents if isinstance(contents, bytes) else contents.encode())
    assert path.stat().st_mode & 0o777 == 0o600
    assert [item.name for item in tmp_path.iterdir() if item.name.startswith(".file")] == []
