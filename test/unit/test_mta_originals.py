"""What was there before the first apply: all of it, or what a member has changed once and no longer wants."""

import stat

import pytest


@pytest.fixture
def originals(participate, server):
    """The functions of ``mta_originals`` by name, called as a participant's state calls them."""
    return lambda function, *args, **kwargs: participate(f"mta_originals.{function}", *args, **kwargs)


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "group"
    path.write_text("sasl:\n")
    return path


@pytest.fixture
def changed(transaction, context, main_cf, database, tmp_path):
    """One apply of the member ``thing``: a file, a new file, a directory that its daemon uses, a command."""
    folder = tmp_path / "run" / "daemon"
    transaction("write", str(main_cf), "new\n")
    context["mta_transaction"]["module"] = "thing"
    transaction("write", str(tmp_path / "option"), "secret", mode="0600")
    transaction("directory", str(folder), runtime=["mux"])
    add = ["sed", "-i", "s/$/postfix/", str(database)]
    delete = ["sed", "-i", "s/postfix//", str(database)]
    transaction("command", "group", [add], [delete], [str(database), "^sasl:postfix$"])
    context["mta_transaction"]["module"] = None
    return {"option": tmp_path / "option", "folder": folder, "database": database}


def test_only_what_is_no_longer_wanted_is_superseded(transaction, originals, changed):
    assert transaction("close")["result"]
    folder = changed["folder"]
    assert originals("superseded", "other", []) == {}
    assert set(originals("superseded", "thing", [str(folder), "group"])) == {str(changed["option"])}
    (folder / "mux").touch()
    everything = {str(changed["option"]), str(folder), str(folder.parent), "group"}
    assert set(originals("superseded", "thing", [])) == everything
    (folder / "of somebody else").touch()
    assert set(originals("superseded", "thing", [])) == {str(changed["option"]), "group"}


def test_what_somebody_has_replaced_since_is_theirs(transaction, originals, changed):
    assert transaction("close")["result"]
    untouched = {str(changed["option"]), str(changed["folder"]), str(changed["folder"].parent), "group"}
    assert set(originals("superseded", "thing", [], untouched=True)) == untouched
    changed["option"].write_text("theirs")
    assert set(originals("superseded", "thing", [], untouched=True)) == untouched - {str(changed["option"])}
    assert set(originals("superseded", "thing", [])) == untouched


def test_what_a_later_apply_leaves_is_not_theirs(transaction, originals, changed):
    assert transaction("close")["result"]
    transaction("write", str(changed["option"]), "renewed")
    assert transaction("close")["result"]
    assert str(changed["option"]) in originals("superseded", "thing", [], untouched=True)


def test_what_is_taken_back_is_its_member_s_again(transaction, originals, context, changed, modules):
    assert transaction("close")["result"]
    option = str(changed["option"])
    context["mta_transaction"]["module"] = "thing"
    originals("give_back", [option])
    assert transaction("close")["result"]
    assert not changed["option"].exists()
    assert modules["mta_previous.take_back"]()["result"]
    assert changed["option"].read_text() == "secret"
    assert option in originals("superseded", "thing", [], untouched=True)


def test_a_file_that_a_symbolic_link_leads_to_is_wanted_with_the_link(transaction, originals, changed, tmp_path):
    assert transaction("close")["result"]
    (tmp_path / "link").symlink_to(changed["option"])
    assert str(changed["option"]) not in originals("superseded", "thing", [str(tmp_path / "link")])


def test_it_is_given_back_at_the_commit_and_then_forgotten(transaction, originals, changed, main_cf):
    assert transaction("close")["result"]
    (changed["folder"] / "mux").touch()
    originals("give_back", list(originals("superseded", "thing", [])))
    assert changed["folder"].exists()
    assert transaction("close")["result"]
    assert not changed["option"].exists()
    assert not changed["folder"].parent.exists()
    assert changed["database"].read_text() == "sasl:\n"
    assert set(originals("plan")["changes"]) == {str(main_cf)}


def test_an_undo_brings_it_all_back(transaction, originals, server, changed):
    assert transaction("close")["result"]
    originals("give_back", list(originals("superseded", "thing", [])))
    server.broken = True
    assert transaction("close")["result"] is False
    assert changed["option"].read_text() == "secret"
    assert stat.S_IMODE(changed["option"].stat().st_mode) == 0o600
    assert changed["folder"].exists()
    assert changed["database"].read_text() == "sasl:postfix\n"


def test_what_was_there_before_the_first_apply_can_be_had_again(transaction, originals, main_cf, tmp_path):
    new = tmp_path / "smtpd.conf"
    for text in ("first apply\n", "second apply\n"):
        transaction("write", str(main_cf), text)
        transaction("write", str(new), text)
        assert transaction("close")["result"]
    assert set(originals("plan")["changes"]) == {str(main_cf), str(new)}
    originals("apply")
    assert transaction("close")["result"]
    originals("forget")
    assert main_cf.read_text() == "myhostname = old\n"
    assert not new.exists()
    assert originals("plan")["changes"] == {}
