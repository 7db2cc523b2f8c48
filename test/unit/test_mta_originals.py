"""What was there before the first apply: all of it, or what a member has changed once and no longer wants."""

import pathlib
import stat

import pytest

import _mta_apply
import _mta_journal
import _mta_restore
import _mta_transaction
from _mta_run import Run


@pytest.fixture
def restore(participate, server):
    """The functions of ``_mta_restore`` by name, called as a participant's state calls them."""
    return lambda function, *args: participate(getattr(_mta_restore, function), *args)


@pytest.fixture
def obsolete(restore):
    """What a participant restores."""
    return lambda subject, wanted: restore("obsolete", subject, wanted)["changes"]


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "group"
    path.write_text("sasl:\n")
    return path


@pytest.fixture
def changed(transaction, context, main_cf, database, tmp_path, minion):
    """One apply of the member ``thing``: a file, a new file, a directory that its daemon uses, a command."""
    folder = tmp_path / "run" / "daemon"
    transaction("write", str(main_cf), "new\n")
    Run.of(minion).subject = "thing"
    transaction("write", str(tmp_path / "option"), "secret", mode="0600")
    transaction("directory", str(folder), runtime=["mux"])
    add = ["sed", "-i", "s/$/postfix/", str(database)]
    delete = ["sed", "-i", "s/postfix//", str(database)]
    transaction("command", "group", [add], [delete], [str(database), "^sasl:postfix$"])
    Run.of(minion).subject = None
    return {"option": tmp_path / "option", "folder": folder, "database": database}


def test_only_what_is_no_longer_wanted_is_superseded(transaction, obsolete, changed):
    assert transaction("commit")["result"]
    folder = changed["folder"]
    assert obsolete("other", []) == {}
    assert set(obsolete("thing", [str(folder), "group"])) == {str(changed["option"])}
    (folder / "mux").touch()
    everything = {str(changed["option"]), str(folder), str(folder.parent), "group"}
    assert set(obsolete("thing", [])) == everything
    (folder / "of somebody else").touch()
    assert set(obsolete("thing", [])) == {str(changed["option"]), "group"}


def test_what_somebody_has_replaced_since_is_theirs(transaction, restore, obsolete, changed):
    assert transaction("commit")["result"]
    untouched = {str(changed["option"]), str(changed["folder"]), str(changed["folder"].parent), "group"}
    assert set(obsolete("thing", [])) == untouched
    changed["option"].write_text("theirs")
    assert set(obsolete("thing", [])) == untouched - {str(changed["option"])}
    assert str(changed["option"]) in restore("obsolete", "thing", [])["stays"][0]


def test_what_a_later_apply_leaves_is_not_theirs(transaction, obsolete, changed):
    assert transaction("commit")["result"]
    transaction("write", str(changed["option"]), "renewed")
    assert transaction("commit")["result"]
    assert str(changed["option"]) in obsolete("thing", [])


def test_what_is_taken_back_is_its_member_s_again(transaction, restore, obsolete, context, changed, minion):
    assert transaction("commit")["result"]
    option = str(changed["option"])
    Run.of(minion).subject = "thing"
    restore("restore", [option])
    assert transaction("commit")["result"]
    assert not changed["option"].exists()
    assert _mta_apply.roll_back(minion)["result"]
    assert changed["option"].read_text() == "secret"
    assert option in obsolete("thing", [])


def test_a_file_that_a_symbolic_link_leads_to_is_wanted_with_the_link(transaction, obsolete, changed, tmp_path):
    assert transaction("commit")["result"]
    (tmp_path / "link").symlink_to(changed["option"])
    assert str(changed["option"]) not in obsolete("thing", [str(tmp_path / "link")])


def test_it_is_given_back_at_the_commit_and_then_forgotten(transaction, restore, obsolete, changed, main_cf):
    assert transaction("commit")["result"]
    (changed["folder"] / "mux").touch()
    restore("restore", list(obsolete("thing", [])))
    assert changed["folder"].exists()
    assert transaction("commit")["result"]
    assert not changed["option"].exists()
    assert not changed["folder"].parent.exists()
    assert changed["database"].read_text() == "sasl:\n"
    assert set(restore("restore_plan").changes) == {str(main_cf)}


def test_an_undo_brings_it_all_back(transaction, restore, obsolete, server, changed):
    assert transaction("commit")["result"]
    restore("restore", list(obsolete("thing", [])))
    server.broken = True
    assert transaction("commit")["result"] is False
    assert changed["option"].read_text() == "secret"
    assert stat.S_IMODE(changed["option"].stat().st_mode) == 0o600
    assert changed["folder"].exists()
    assert changed["database"].read_text() == "sasl:postfix\n"


def test_what_was_there_before_the_first_apply_can_be_had_again(transaction, restore, main_cf, tmp_path):
    new = tmp_path / "smtpd.conf"
    for text in ("first apply\n", "second apply\n"):
        transaction("write", str(main_cf), text)
        transaction("write", str(new), text)
        assert transaction("commit")["result"]
    assert set(restore("restore_plan").changes) == {str(main_cf), str(new)}
    restore("restore_apply")
    assert transaction("commit")["result"]
    assert main_cf.read_text() == "myhostname = old\n"
    assert not new.exists()
    assert restore("restore_plan").changes == {}


class TestWhatIsNotAsItWasLeft:
    """What somebody has changed since the last apply stays, and so does what was kept of it."""

    @pytest.fixture
    def apply(self, transaction, context, tmp_path, minion):
        """Write files as a member, name to text, and commit."""

        def run(module, mode=None, **files):
            for name, text in files.items():
                transaction("begin")
                Run.of(minion).subject = module
                transaction("write", str(tmp_path / name), text, mode=mode)
            assert transaction("commit")["result"]

        return run

    @pytest.fixture
    def clean(self, minion, server):
        """What the state of ``.clean`` does; its result."""

        def run():
            Run.of(minion).reset()
            outcome = _mta_apply.participate(minion, "mta_transaction.restored", "postfix_mta", {})
            assert outcome["result"], outcome
            return outcome

        return run

    @pytest.fixture
    def kept(self, minion):
        """Paths of which there are copies, and the copies."""

        def found():
            entries = _mta_journal.entries(minion, "originals")
            return {entry["path"]: pathlib.Path(entry["folder"]) / "content" for entry in entries}

        return found

    def test_it_is_not_put_back_and_its_copy_stays(self, apply, clean, kept, tmp_path, main_cf):
        for name in ("aliases", "other"):
            (tmp_path / name).write_text("before\n")
        apply("thing", aliases="made\n", conf="made\n", other="made\n")
        (tmp_path / "aliases").write_text("made\ntheirs\n")
        (tmp_path / "conf").write_text("theirs\n")
        done = clean()
        assert {*done["changes"]} == {str(tmp_path / "other"), "activation"}
        assert (tmp_path / "aliases").read_text() == "made\ntheirs\n"
        assert (tmp_path / "conf").read_text() == "theirs\n"
        assert (tmp_path / "other").read_text() == "before\n"
        assert {*kept()} == {str(tmp_path / "aliases"), str(tmp_path / "conf")}
        assert kept()[str(tmp_path / "aliases")].read_text() == "before\n"
        assert f"{tmp_path / 'conf'} stays" in done["comment"]
        assert str(kept()[str(tmp_path / "aliases")]) in done["comment"]
        again = clean()
        assert again["changes"] == {}
        assert {line for line in done["comment"].splitlines() if "stays" in line} < {
            *again["comment"].splitlines()
        }

    def test_what_it_replaces_is_kept_until_the_next_apply(self, apply, clean, tmp_path, minion):
        apply("thing", conf="made\n")
        clean()
        (entry,) = _mta_journal.entries(minion, "previous")
        assert (pathlib.Path(entry["folder"]) / "content").read_text() == "made\n"
        assert "nothing to roll back" in _mta_apply.roll_back(minion)["comment"]

    def test_owner_and_mode_count(self, apply, clean, tmp_path):
        apply("thing", conf="made\n", other="made\n")
        (tmp_path / "conf").chmod(0o640)
        clean()
        assert stat.S_IMODE((tmp_path / "conf").stat().st_mode) == 0o640
        assert not (tmp_path / "other").exists()

    def test_only_the_mode_that_was_changed_is_put_back(self, apply, clean, tmp_path):
        (tmp_path / "key").write_text("same\n")
        apply("thing", mode="0600", key="same\n")
        assert {*clean()["changes"]} == {str(tmp_path / "key"), "activation"}
        assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o644

    def test_what_is_removed_stays_away(self, apply, clean, kept, tmp_path):
        (tmp_path / "conf").write_text("before\n")
        apply("thing", conf="made\n")
        (tmp_path / "conf").unlink()
        assert "stays away" in clean()["comment"]
        assert not (tmp_path / "conf").exists()
        assert kept()[str(tmp_path / "conf")].read_text() == "before\n"

    def test_a_directory_and_a_command_count(self, transaction, context, clean, changed):
        assert transaction("commit")["result"]
        changed["folder"].chmod(0o700)
        changed["database"].write_text("sasl:postfix\nothers\n")
        done = clean()
        assert str(changed["folder"]) not in done["changes"]
        assert f"{changed['folder']} stays" in done["comment"]
        assert changed["database"].read_text() == "sasl:\nothers\n"

    def test_a_link_that_somebody_has_put_there_is_theirs(self, apply, clean, tmp_path):
        apply("thing", conf="made\n")
        (tmp_path / "elsewhere").write_text("made\n")
        (tmp_path / "conf").unlink()
        (tmp_path / "conf").symlink_to(tmp_path / "elsewhere")
        assert str(tmp_path / "conf") in clean()["comment"]
        assert (tmp_path / "conf").is_symlink()

    def test_what_is_compiled_goes_the_way_of_its_source(self, apply, clean, tmp_path):
        for name in ("aliases", "virtual"):
            (tmp_path / name).write_text("before\n")
        apply("thing", **{"aliases": "made", "aliases.db": "made", "virtual": "made", "virtual.db": "made"})
        (tmp_path / "aliases").write_text("theirs")
        (tmp_path / "virtual.db").write_text("compiled again")
        clean()
        assert (tmp_path / "aliases.db").read_text() == "made"
        assert (tmp_path / "virtual").read_text() == "before\n"
        assert not (tmp_path / "virtual.db").exists()

    @pytest.mark.parametrize("edited", ["crt", "key"])
    def test_the_certificate_of_somebody_keeps_its_key(self, apply, clean, tmp_path, edited):
        files = {
            "crt": "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
            "key": "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        }
        apply("mta_cert", **{name: text.format("made") for name, text in files.items()})
        (tmp_path / edited).write_text(files[edited].format("theirs"))
        clean()
        assert {name for name in files if (tmp_path / name).exists()} == {edited, "key"}

    def test_a_main_cf_that_stays_keeps_what_it_names(self, apply, clean, tmp_path, main_cf, pretend, minion):
        (tmp_path / "master.cf").write_text("before\n")
        record = minion.state.path("postconf.json")
        apply("postconf", **{"main.cf": "made\n", "master.cf": "made\n", record: "{}"})
        apply("mta_cert", named="made\n", needless="made\n")
        apply("saslauthd", option="made\n")
        listener = {"service": "smtp/inet", "auth": True, "sasl_type": "cyrus"}
        pretend("_mta_postfix_view.listeners", lambda: [listener])
        pretend(
            "_mta_postfix_outlook.naming",
            lambda paths: {p: "smtpd_tls_key_file" for p in paths if p.endswith("named")},
        )
        main_cf.write_text("theirs\n")
        done = clean()
        assert {*done["changes"]} == {str(tmp_path / "needless"), "activation"}
        for name in ("master.cf", "named", "option", record):
            assert (tmp_path / name).read_text() in ("made\n", "{}")
        assert record not in done["comment"]
        assert f"{tmp_path / 'option'} stays, as Postfix asks saslauthd" in done["comment"]
        assert f"{tmp_path / 'named'} stays, as it is named by smtpd_tls_key_file" in done["comment"]

    def test_what_somebody_put_where_nothing_was_comes_back(self, apply, clean, tmp_path):
        apply("thing", conf="made\n", other="made\n")
        (tmp_path / "conf").write_text("theirs\n")
        apply("thing", conf="made again\n")
        assert {*clean()["changes"]} == {str(tmp_path / "conf"), str(tmp_path / "other"), "activation"}
        assert (tmp_path / "conf").read_text() == "theirs\n"
        assert not (tmp_path / "other").exists()

    @pytest.mark.parametrize("existed", [True, False])
    def test_an_authority_is_never_taken_away(
        self, apply, clean, obsolete, restore, transaction, tmp_path, existed, minion
    ):
        key = "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n"
        if existed:
            (tmp_path / "cakey").write_text(key.format("as it was"))
        apply("mta_ca", cakey=key.format("locked"), cacert="certificate\n")
        assert obsolete("mta_ca", []) == ({})
        outcome = _mta_apply.roll_back(minion)
        assert "there is nothing" in outcome["comment"]
        apply("thing", other="made\n")
        done = clean()
        assert {*done["changes"]} == {str(tmp_path / "other"), "activation"}
        assert f"rm {tmp_path / 'cakey'} {tmp_path / 'cacert'}"[:20] in done["comment"]
        for entry in _mta_journal.entries(minion, "originals"):
            restore("put_back", entry)
        assert transaction("commit")["result"]
        assert (tmp_path / "cakey").read_text() == key.format("locked")
        assert (tmp_path / "cacert").read_text() == "certificate\n"

    def test_what_was_kept_is_forgotten_before_another_apply_may_begin(self, apply, clean, pretend, minion):
        apply("thing", other="made\n")
        held = []
        pretend("_mta_restore.forget_first", lambda: held.append(_mta_transaction.under_way(minion)))
        clean()
        assert held == [True]
