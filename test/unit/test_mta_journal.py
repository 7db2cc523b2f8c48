"""Entries of the journal are put back, by the formula and by the boot; a draft is none."""

import subprocess

import pytest


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


def test_the_formula_puts_everything_back(transaction, changed):
    transaction("undo", "no reason")
    assert changed["database"].read_text() == "sasl:\n"
    assert not changed["folder"].exists()
    assert not changed["option"].exists()


def test_the_boot_puts_everything_back(changed, modules, tmp_path):
    text = modules["mta_journal.entries"].func.__globals__["RECOVER_TEXT"]
    script = tmp_path / "recover.sh"
    script.write_text(text.format(state_dir=tmp_path / "state", unit_dir=tmp_path, unit="u"))
    subprocess.run(["sh", script], check=True)
    assert changed["database"].read_text() == "sasl:\n"
    assert not changed["folder"].exists()
    assert not changed["option"].exists()
    assert modules["mta_journal.entries"]() == []


def test_a_directory_in_which_somebody_else_has_put_something_stays(transaction, changed):
    (changed["folder"] / "of somebody else").touch()
    transaction("undo", "no reason")
    assert changed["folder"].exists()


def test_a_draft_of_an_entry_is_not_mistaken_for_one(changed, modules, tmp_path):
    saved = [entry["path"] for entry in modules["mta_journal.entries"]()]
    draft = tmp_path / "state" / "journal" / ".0009"
    draft.mkdir()
    (draft / "path").write_text(str(tmp_path / "never"))
    assert [entry["path"] for entry in modules["mta_journal.entries"]()] == saved
    assert str(changed["option"]) in saved


def test_only_the_first_change_of_a_path_is_saved(transaction, changed, modules):
    before = modules["mta_journal.entries"]()
    transaction("write", str(changed["option"]), "another")
    assert modules["mta_journal.entries"]() == before


@pytest.mark.parametrize("contents", ["text\n", b"\xff\x00"])
def test_a_file_is_replaced_whole(modules, tmp_path, contents):
    path = tmp_path / "file"
    path.write_text("old")
    modules["mta_journal.replace"](path, contents, path.stat().st_uid, path.stat().st_gid, 0o600)
    assert path.read_bytes() == (contents if isinstance(contents, bytes) else contents.encode())
    assert path.stat().st_mode & 0o777 == 0o600
    assert [item.name for item in tmp_path.iterdir() if item.name.startswith(".file")] == []
