"""Whether somebody may write where a mailbox is to be."""

import os
import pwd

import pytest

import _mta_mailbox


@pytest.fixture
def carol(monkeypatch, tmp_path):
    """A user of this host who is not root, with a home of her own; its path."""
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 4000, 4000)
    entry = pwd.struct_passwd(("carol", "x", 4000, 4000, "", str(home), "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwnam", lambda name: {"carol": entry}[name])
    monkeypatch.setattr(os, "getgrouplist", lambda name, group: [group, 8])
    return home


def value(**parameters):
    return lambda name: parameters.get(name, "")


def test_a_directory_in_a_home_is_its_owners_to_make(carol):
    assert _mta_mailbox.obstacle(value(home_mailbox="Maildir/"), "carol") is None
    (carol / "Maildir").mkdir()
    told = _mta_mailbox.obstacle(value(home_mailbox="Maildir/"), "carol")
    assert told == f"carol may not write {carol}/Maildir (home_mailbox)"


def test_a_file_in_a_home_needs_a_directory_that_is_there(carol):
    assert _mta_mailbox.obstacle(value(home_mailbox="Mailbox"), "carol") is None
    assert "may not write" in _mta_mailbox.obstacle(value(home_mailbox="mail/box"), "carol")
    (carol / "Mailbox").touch()
    assert "may not write" in _mta_mailbox.obstacle(value(home_mailbox="Mailbox"), "carol")


@pytest.mark.parametrize("mailbox", [".profile/Maildir/", ".profile/box", "Maildir/"])
def test_nothing_can_be_made_below_a_file(carol, mailbox):
    for name in (".profile", "Maildir"):
        (carol / name).touch()
        os.chown(carol / name, 4000, 4000)
    found = _mta_mailbox.obstacle(value(home_mailbox=mailbox), "carol")
    assert found == f"{carol / mailbox.split('/')[0]} is no directory (home_mailbox)"


def test_a_base_below_a_file_is_none(tmp_path):
    (tmp_path / "file").touch()
    ids = {"virtual_uid_maps": "static:0", "virtual_gid_maps": "static:0"}
    found = _mta_mailbox.obstacle_of_all(value(virtual_mailbox_base=f"{tmp_path}/file/vmail", **ids), "virtual")
    assert found == f"{tmp_path}/file is no directory (virtual_mailbox_base)"


def test_who_is_no_user_has_no_mailbox_to_look_at(carol):
    assert _mta_mailbox.obstacle(value(home_mailbox="Maildir/"), "dave") is None


@pytest.mark.parametrize(("mode", "told"), [(0o755, True), (0o775, False), (0o1777, False)])
def test_directories_in_the_spool_are_made_by_their_owners(carol, tmp_path, mode, told):
    spool = tmp_path / "spool"
    spool.mkdir()
    spool.chmod(mode)
    os.chown(spool, 0, 8)
    found = _mta_mailbox.obstacle(value(mail_spool_directory=f"{spool}/"), "carol")
    assert bool(found) is told
    # Files are made by root.
    assert _mta_mailbox.obstacle(value(mail_spool_directory=str(spool)), "carol") is None


@pytest.mark.parametrize(
    ("there", "owner", "inside", "told"),
    [
        (False, 0, False, True),
        (True, 0, False, True),
        (True, 5000, False, False),
        (True, 0, True, False),
    ],
)
def test_virtual_mailboxes_need_a_base_that_their_owner_may_write(tmp_path, there, owner, inside, told):
    base = tmp_path / "vmail"
    if there:
        base.mkdir()
        os.chown(base, owner, owner)
    if inside:
        (base / "example.com").mkdir()
    ids = {"virtual_uid_maps": "static:5000", "virtual_gid_maps": "static:5000"}
    found = _mta_mailbox.obstacle_of_all(value(virtual_mailbox_base=str(base), **ids), "virtual")
    assert bool(found) is told
    assert _mta_mailbox.obstacle_of_all(value(virtual_mailbox_base=str(base)), "virtual") is None
