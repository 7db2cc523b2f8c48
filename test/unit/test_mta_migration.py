"""Pillar made of a host: complete, without secrets, and applying it changes nothing."""

import pathlib
import time

import pytest
import yaml

import _mta_migration
import _mta_pillar
import _mta_plan
import _mta_postfix_edit
import _mta_postfix_view

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
SECRET = "Geheim-4711"
MAIN = """\
compatibility_level = 3.6
myhostname = mx.example.org
mynetworks = 127.0.0.0/8\r
\t10.0.0.0/8\r
biff = no
message_size_limit = 20480000
mailbox_command = /usr/bin/procmail -a "$EXTENSION"
smtpd_milter_maps = inline:{{ 192.0.2.1 = DISABLE }}
smtpd_banner = $myhostname ESMTP größer
odd = a\u00a0b
$odd = x
ldapusers_bind_pw = Geheim-4711
smtp_sasl_password_maps = static:user:Geheim-4711
my_url = https://user:Geheim-4711@example.com/
"""
MASTER = """\
smtp      inet  n       -       y       -       50      smtpd -o content_filter= -o smtpd_delay_reject=no
# a comment
tickets   unix  -       n       n       -       -       pipe
  flags=R user=nobody argv=/usr/bin/take --password=Geheim-4711 ${recipient}
own       unix  -       -       n       60?     0       smtp
  -o { smtp_helo_name = a b }
"""
PACKAGE_MASTER = """\
smtp      inet  n       -       y       -       -       smtpd -o old=x
gone      unix  -       -       y       -       -       smtp
"""


@pytest.fixture
def directory(tmp_path, functions, monkeypatch, pretend):
    """A configuration directory, the package's files, and an aliases file; the validation is the real one."""
    functions["cp.cache_files"] = lambda urls, _: [str(REPOSITORY / url.replace("salt://", "")) for url in urls]
    folder = tmp_path / "postfix"
    folder.mkdir()
    (folder / "main.cf").write_bytes(MAIN.encode())
    (folder / "master.cf").write_text(MASTER)
    (folder / "clients").write_text("# friends\n192.0.2.0/24 OK\n")
    (folder / "logins").write_text("host user:x\n")
    with (folder / "main.cf").open("a") as file:
        file.write(f"smtpd_client_restrictions = check_client_access cidr:{folder}/clients\n")
        file.write(f"lmtp_sasl_password_maps = texthash:{folder}/logins\n")
    (tmp_path / "main.dist").write_text("biff = no\nreadme_directory = no\n")
    (tmp_path / "master.dist").write_text(PACKAGE_MASTER)
    (tmp_path / "aliases").write_text("root: alice, bob\ntwice: a\ntwice: b\n")
    monkeypatch.setattr(_mta_postfix_view, "PACKAGE_MAIN", (str(tmp_path / "main.dist"),))
    monkeypatch.setattr(_mta_postfix_view, "PACKAGE_MASTER", (str(tmp_path / "master.dist"),))
    monkeypatch.setattr(_mta_migration, "ALIASES", str(tmp_path / "aliases"))
    monkeypatch.setattr(_mta_migration, "MAILNAME", str(tmp_path / "mailname"))
    monkeypatch.setattr(_mta_migration, "SASLAUTHD", str(tmp_path / "no-saslauthd"))
    pretend("_mta_postfix_stage.refused", lambda *_: [])
    return folder


@pytest.fixture
def export(minion, directory):
    """The exported text and the pillar in it."""

    def run(**args):
        text = _mta_migration.export(minion, str(directory), **{"probe": False, **args})
        return text, yaml.safe_load(text)["postfix_mta"]

    return run


def test_only_what_differs_from_the_package_is_exported(export):
    _, pillar = export()
    assert pillar["profile"] == "none"
    assert pillar["hostname"] == "mx.example.org"
    for name in ("smtpd_client_restrictions", "lmtp_sasl_password_maps"):
        del pillar["parameters"][name]
    assert pillar["parameters"] == {
        "compatibility_level": "3.6",
        "myhostname": "mx.example.org",
        "mynetworks": ["127.0.0.0/8", "10.0.0.0/8"],
        "message_size_limit": 20480000,
        "mailbox_command": '/usr/bin/procmail -a "$EXTENSION"',
        "smtpd_milter_maps": "inline:{{ 192.0.2.1 = DISABLE }}",
        "smtpd_banner": "$myhostname ESMTP größer",
        "readme_directory": None,
    }


def test_services_are_exported_field_by_field(export):
    _, pillar = export()
    assert pillar["services"] == {
        "smtp/inet": {
            "process_limit": 50,
            "overrides": {"content_filter": "", "smtpd_delay_reject": False, "old": None},
        },
        "tickets/unix": {"unprivileged": False, "chroot": False, "command": "pipe"},
        "own/unix": {
            "chroot": False,
            "wakeup": "60?",
            "process_limit": 0,
            "command": "smtp",
            "overrides": {"smtp_helo_name": "a b"},
        },
        "gone/unix": None,
    }


def test_secrets_and_what_pillar_cannot_hold_are_named_and_left_out(export):
    text, _ = export()
    assert SECRET not in text
    notes = [line[4:] for line in text.splitlines() if line.startswith("#   ")]
    for start in (
        "parameters:ldapusers_bind_pw: a secret",
        "parameters:smtp_sasl_password_maps: a secret",
        "parameters:my_url: a secret",
        "services:tickets/unix:arguments: a secret",
        "parameters:odd: ",
        "main.cf or master.cf: $odd: ",
        "aliases:twice: ",
    ):
        assert [note for note in notes if note.startswith(start)], (start, notes)
    assert [note for note in notes if note.startswith("maps:") and note.endswith("/logins: a secret")]
    assert len(notes) == 8


def test_what_is_exported_changes_nothing(export, minion, directory):
    _, pillar = export()
    assert pillar["maps"] == {"clients": {"type": "cidr", **pillar["maps"]["clients"]}}
    assert pillar["maps"]["clients"]["entries"] == ["192.0.2.0/24 OK"]
    assert _mta_pillar.problems(minion, pillar=pillar) == []
    plan = _mta_postfix_edit.plan(minion, str(directory), pillar["parameters"], pillar["services"])
    assert plan.changes == {}
    assert pillar["aliases"] == {"root": ["alice", "bob"]}
    assert {key: pillar[key] for key in ("certificate", "sasl", "firewall")} == {
        "certificate": {"source": "none"},
        "sasl": {"enabled": False},
        "firewall": {"backend": "none"},
    }


def test_a_table_that_only_master_cf_names_is_exported(export, minion, directory):
    (directory / "senders").write_text("^x@ DISCARD\n")
    with (directory / "master.cf").open("a") as file:
        file.write(f"  -o smtpd_sender_restrictions=check_sender_access,pcre:{directory}/senders\n")
    assert export()[1]["maps"]["senders"] == {"type": "pcre", "entries": ["^x@ DISCARD"]}


@pytest.mark.parametrize(
    ("changes", "errors", "why"),
    [
        (["compiled"], [], "its compiled form is missing or old"),
        (["compiled", "a"], [], "it is not the same when written and compiled anew: compiled, a"),
        ([], ["This Postfix has no table type lmdb"], "This Postfix has no table type lmdb"),
    ],
)
def test_it_is_told_why_a_table_is_left_out(export, directory, pretend, changes, errors, why):
    planned = _mta_plan.Plan({name: {"old": None, "new": "x"} for name in changes}, errors=errors)
    pretend("_mta_tables_manage.plan", lambda *_, **__: planned)
    assert f"#   maps:{directory}/clients: {why}\n" in export()[0]


def test_files_with_items_of_lists_are_named(export, directory):
    with (directory / "main.cf").open("a") as file:
        file.write("own = /etc/postfix/domains\nmydestination = $own, !/etc/postfix/others\n")
    notes = [line for line in export()[0].splitlines() if line.startswith("#   mydestination: ")]
    why = "its lines stay in that file; another host needs it too"
    assert notes == [
        f"#   mydestination: {path}: {why}" for path in ("/etc/postfix/domains", "!/etc/postfix/others")
    ]


def test_aliases_elsewhere_are_named(export, directory, tmp_path):
    with (directory / "main.cf").open("a") as file:
        file.write(
            f"alias_maps = hash:{tmp_path}/aliases, hash:/var/lib/mailman/data/aliases, ldap:/etc/postfix/l.cf\n"
        )
        file.write(f"alias_database = hash:{tmp_path}/aliases, hash:/var/lib/mailman/data/aliases\n")
    notes = [line[4:] for line in export()[0].splitlines() if line.startswith("#   aliases of ")]
    assert notes == [
        f"aliases of {table}: those of the pillar are in {tmp_path}/aliases"
        for table in ("hash:/var/lib/mailman/data/aliases", "ldap:/etc/postfix/l.cf")
    ]


def test_the_aliases_are_those_of_the_file_that_an_apply_would_edit(export, minion, directory, tmp_path):
    (directory / "local").write_text("root: carol\nlists: alice\n")
    with (directory / "main.cf").open("a") as file:
        file.write(f"alias_maps = texthash:{directory}/local\n")
    text, pillar = export()
    assert pillar["aliases"] == {"root": "carol", "lists": "alice"}
    assert "#   aliases of " not in text


def test_as_many_aliases_as_a_mailman_host_has_are_exported_in_two_seconds(minion, directory, tmp_path):
    lines = (f'list{number}: "|/var/lib/mailman/mail/mailman post list{number}"\n' for number in range(658))
    (tmp_path / "aliases").write_text("".join(lines))
    began = time.process_time()
    text = _mta_migration.export(minion, str(directory), probe=False)
    assert time.process_time() - began < 2
    assert len(yaml.safe_load(text)["postfix_mta"]["aliases"]) == 658


def test_an_empty_password_is_no_secret(export, directory):
    (directory / "users.cf").write_text("server_host = ldap.example.org\nbind_pw =\npassword = \n")
    with (directory / "main.cf").open("a") as file:
        file.write(f"virtual_mailbox_maps = ldap:{directory}/users.cf\n")
    text, pillar = export()
    assert pillar["maps"]["users.cf"]["entries"] == {
        "server_host": "ldap.example.org",
        "bind_pw": "",
        "password": "",
    }, text


def test_what_is_asked_for_is_brought_in(export, minion, directory):
    (directory / "logins").chmod(0o600)
    names = ["parameters:my_url", "logins", "services:tickets/unix:arguments"]
    text, pillar = export(include=names)
    assert pillar["parameters"]["my_url"] == "https://user:Geheim-4711@example.com/"
    assert "--password=Geheim-4711" in pillar["services"]["tickets/unix"]["arguments"]
    assert "ldapusers_bind_pw" not in pillar["parameters"]
    assert pillar["maps"]["logins"] == {"type": "texthash", "secret": True, "entries": {"host": "user:x"}}, text


@pytest.mark.parametrize(
    ("mailname", "exported"),
    [("example.org\n", "example.org"), ("not one\n", None), ("a\nb\n", None), ("", None), (None, None)],
)
def test_the_mail_name_is_exported_where_pillar_can_say_it(export, tmp_path, mailname, exported):
    if mailname is not None:
        (tmp_path / "mailname").write_text(mailname)
    assert export()[1].get("mailname") == exported


def test_a_server_that_does_not_pass_the_conversation_is_not_asked_to(export, pretend):
    pretend("_mta_services.status", lambda names: {name: {"active": True, "enabled": True} for name in names})
    problems = ["banner: 421 busy\nevil: true"]
    pretend("_mta_judge.check", lambda **_: {"problems": problems})
    text, pillar = export(probe=True)
    assert pillar["verify"] == {"enabled": False}
    assert "banner: 421 busy evil: true" in text
    problems.clear()
    assert "verify" not in export(probe=True)[1]


class TestAliases:
    """Those that an apply would leave as they are; the others are named."""

    def test_one_that_is_refused_keeps_no_other_out(self, export, tmp_path):
        lines = [f"user{number}: target{number}" for number in range(20)]
        lines[7], lines[13] = "odd: a b\u0001c", '" x": y'
        (tmp_path / "aliases").write_text("\n".join([*lines, "x: z", "twice: a", "twice: b", ""]))
        text, pillar = export()
        expected = {f"user{number}": f"target{number}" for number in range(20) if number not in (7, 13)}
        assert pillar["aliases"] == {**expected, "x": "z"}
        for name, why in (("odd", "is no address"), (" x", "more than once"), ("twice", "more than once")):
            assert any(line.startswith(f"#   aliases:{name}: ") and why in line for line in text.splitlines()), (
                name
            )

    def test_the_time_does_not_grow_with_the_square_of_their_number(
        self, minion, directory, monkeypatch, tmp_path
    ):
        (tmp_path / "aliases").write_text("".join(f"list{number}: user\n" for number in range(500)))
        read = []
        show, plan = _mta_migration._mta_aliases.show, _mta_migration._mta_aliases.plan
        monkeypatch.setattr(_mta_migration._mta_aliases, "show", lambda *a: read.append("show") or show(*a))
        monkeypatch.setattr(_mta_migration._mta_aliases, "plan", lambda *a: read.append("plan") or plan(*a))
        assert len(_mta_migration._aliases(minion, str(tmp_path / "aliases"), {})) == 500
        assert read == ["show", "plan"]
