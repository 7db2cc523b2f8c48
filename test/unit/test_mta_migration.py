"""Pillar made of a host, and of the community formula's pillar: complete, without secrets, and accepted."""

import pathlib

import pytest
import yaml
from salt.exceptions import SaltInvocationError

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
def directory(tmp_path, modules, monkeypatch, pretend):
    """A configuration directory, the package's files, and an aliases file."""
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
    for loader in (modules, modules.pack["__salt__"]):
        postconf = loader["postconf.show"].__globals__
        monkeypatch.setitem(postconf, "PACKAGE_MAIN", (str(tmp_path / "main.dist"),))
        monkeypatch.setitem(postconf, "PACKAGE_MASTER", (str(tmp_path / "master.dist"),))
        migration = loader["mta_migration.host"].__globals__
        monkeypatch.setitem(migration, "ALIASES", str(tmp_path / "aliases"))
        monkeypatch.setitem(migration, "MAILNAME", str(tmp_path / "mailname"))
    pretend("postconf.refused", lambda *_: [])
    return folder


@pytest.fixture
def export(modules, directory):
    """The exported text and the pillar in it."""

    def run(**args):
        text = modules["postconf.export"](str(directory), **{"probe": False, **args})
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


def test_what_is_exported_changes_nothing(export, modules, directory, opts):
    _, pillar = export()
    assert pillar["maps"] == {"clients": {"type": "cidr", **pillar["maps"]["clients"]}}
    assert pillar["maps"]["clients"]["entries"] == ["192.0.2.0/24 OK"]
    assert modules["mta_settings.problems"](pillar=pillar) == []
    plan = modules["postconf.plan"](str(directory), pillar["parameters"], pillar["services"])
    assert plan["changes"] == {}
    assert pillar["aliases"] == {"root": ["alice", "bob"]}
    assert {key: pillar[key] for key in ("certificate", "sasl", "firewall")} == {
        "certificate": {"source": "none"},
        "sasl": {"enabled": False},
        "firewall": {"backend": "none"},
    }


@pytest.mark.parametrize(
    ("mailname", "exported"),
    [("example.org\n", "example.org"), ("not one\n", None), ("a\nb\n", None), ("", None), (None, None)],
)
def test_the_mail_name_is_exported_where_pillar_can_say_it(export, tmp_path, mailname, exported):
    if mailname is not None:
        (tmp_path / "mailname").write_text(mailname)
    assert export()[1].get("mailname") == exported


def test_a_server_that_does_not_pass_the_conversation_is_not_asked_to(export, pretend):
    pretend("mta_service.status", lambda names: {name: {"active": True, "enabled": True} for name in names})
    pretend("mta_probe.check", lambda **_: {"problems": ["banner: 421 busy\nevil: true"]})
    text, pillar = export(probe=True)
    assert pillar["verify"] == {"enabled": False}
    assert "banner: 421 busy evil: true" in text
    pretend("mta_probe.check", lambda **_: {"problems": []})
    assert "verify" not in export(probe=True)[1]


COMMUNITY = {
    "manage_master_config": True,
    "enable_service": True,
    "master_config": {
        "services": {
            "smtp": {"maxproc": 10},
            "submission": {"enable": True, "args": ["-o smtpd_tls_security_level=encrypt", "# -o a=b", "-v"]},
            "tlsproxy": {"enable": True, "chroot": True},
            "uucp": {"enable": False},
            "custom-mda": {
                "argv": "/usr/local/sbin/mail-handler.py",
                "command": "pipe",
                "unpriv": False,
                "extras": "--rcpt ${recipient}",
                "flags": "DRhu",
                "user": "mail",
            },
        },
        "enable_dovecot": True,
    },
    "policyd-spf": {"enabled": True, "time_limit": "7200s"},
    "postgrey": {"enabled": True},
    "config": {
        "myhostname": "mx.example.org",
        "mynetworks": ["127.0.0.0/8"],
        "biff": "no",
        "relayhost": None,
        "virtual_alias_maps": "hash:/etc/postfix/virtual",
        "smtp_sasl_password_maps": "hash:/etc/postfix/sasl_passwd",
        "ldapx_bind_pw": SECRET,
        "bad name": "x",
    },
    "aliases": {"use_file": False, "present": {"root": "info@example.com"}, "absent": ["old"]},
    "certificates": {"mx": {"public_cert": "x", "private_key": SECRET}},
    "mapping": {
        "smtp_sasl_password_maps": [{"smtp.example.com": f"user:{SECRET}"}],
        "virtual_alias_maps": [{"a": ["b", "c"]}, {"d": "e"}],
    },
    "unheard_of": 1,
}


def test_the_pillar_of_the_community_formula_is_converted(modules, pretend):
    pretend("postconf.refused", lambda *_: [])
    text = modules["mta_migration.convert"](COMMUNITY)
    pillar = yaml.safe_load(text)["postfix_mta"]
    assert pillar["parameters"] == {
        "myhostname": "mx.example.org",
        "mynetworks": ["127.0.0.0/8"],
        "biff": "no",
        "policy-spf_time_limit": "7200s",
        "virtual_alias_maps": "hash:/etc/postfix/virtual",
        "smtp_sasl_password_maps": "hash:/etc/postfix/sasl_passwd",
    }
    services = pillar["services"]
    assert services["smtp/inet"] == {"process_limit": 10}
    assert services["submission/inet"] == {
        "command": "smtpd",
        "overrides": {"smtpd_tls_security_level": "encrypt"},
        "arguments": "-v",
    }
    assert services["tlsproxy/unix"] == {"chroot": True, "command": "tlsproxy"}
    assert services["uucp/unix"] is None
    assert services["custom-mda/unix"]["arguments"] == (
        "flags=DRhu user=mail argv=/usr/local/sbin/mail-handler.py --rcpt ${recipient}"
    )
    assert services["dovecot/unix"]["arguments"].startswith("flags=DRhu user=vmail:vmail argv=")
    assert services["policy-spf/unix"]["command"] == "spawn"
    assert pillar["aliases"] == {"old": None, "root": "info@example.com"}
    assert modules["mta_settings.problems"](pillar=pillar) == []
    assert SECRET not in text
    notes = "\n".join(line for line in text.splitlines() if line.startswith("#   "))
    for name in (
        "config:ldapx_bind_pw",
        "parameters:bad name",
        "certificates:mx",
        "mapping:smtp_sasl",
        "postgrey",
    ):
        assert name in notes
    assert "unheard_of: not known" in notes


def test_without_a_pillar_there_is_nothing_to_convert(modules):
    with pytest.raises(SaltInvocationError, match="no pillar key postfix"):
        modules["mta_migration.convert"]()


def test_the_page_about_migration_names_functions_that_there_are(modules):
    page = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "migration.md").read_text()
    assert "postconf.export" in page
    for function in ("postconf.services", "postconf.set", "postconf.show", "mta_migration.convert"):
        assert function in page
        assert function in modules
