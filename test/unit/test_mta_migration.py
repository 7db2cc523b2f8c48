"""Pillar made of a host, and of the community formula's pillar: complete, without secrets, and accepted."""

import pathlib
import re

import pytest
import yaml
from salt.exceptions import SaltInvocationError

import _mta_migration
import _mta_postfix_edit

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
        monkeypatch.setattr(_mta_migration, "ALIASES", str(tmp_path / "aliases"))
        monkeypatch.setattr(_mta_migration, "MAILNAME", str(tmp_path / "mailname"))
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


def test_what_is_exported_changes_nothing(export, modules, minion, directory, opts):
    _, pillar = export()
    assert pillar["maps"] == {"clients": {"type": "cidr", **pillar["maps"]["clients"]}}
    assert pillar["maps"]["clients"]["entries"] == ["192.0.2.0/24 OK"]
    assert modules["mta_settings.problems"](pillar=pillar) == []
    plan = _mta_postfix_edit.plan(minion, str(directory), pillar["parameters"], pillar["services"])
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
    pretend("_mta_services.status", lambda names: {name: {"active": True, "enabled": True} for name in names})
    pretend("_mta_judge.check", lambda **_: {"problems": ["banner: 421 busy\nevil: true"]})
    text, pillar = export(probe=True)
    assert pillar["verify"] == {"enabled": False}
    assert "banner: 421 busy evil: true" in text
    pretend("_mta_judge.check", lambda **_: {"problems": []})
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


def test_the_pillar_of_the_community_formula_is_converted(modules, minion, pretend):
    pretend("_mta_postfix_stage.refused", lambda *_: [])
    text = _mta_migration.convert(minion, COMMUNITY)
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
    assert services["smtp/inet"] == {
        "private": False,
        "chroot": False,
        "process_limit": 10,
        "command": "smtpd",
    }
    assert services["submission/inet"] == {
        "private": False,
        "chroot": False,
        "command": "smtpd",
        "overrides": {"smtpd_tls_security_level": "encrypt"},
        "arguments": "-v",
    }
    assert services["tlsproxy/unix"] == {"chroot": True, "process_limit": 0, "command": "tlsproxy"}
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


# master.cf(5) as that formula writes it: with what is on by itself, and what its pillar can switch on.
ON = """\
smtp inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
local unix - n n - - local
virtual unix - n n - - virtual
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
"""
OFF = """\
smtp inet n - n - 1 postscreen
smtpd pass - - n - - smtpd
dnsblog unix - - n - 0 dnsblog
tlsproxy unix - - n - 0 tlsproxy
submission inet n - n - - smtpd -o syslog_name=postfix/submission -o smtpd_tls_security_level=encrypt
  -o smtpd_sasl_auth_enable=yes -o smtpd_reject_unlisted_recipient=no
  -o smtpd_client_restrictions=$mua_client_restrictions -o smtpd_helo_restrictions=$mua_helo_restrictions
  -o smtpd_sender_restrictions=$mua_sender_restrictions
  -o smtpd_recipient_restrictions=permit_sasl_authenticated,reject -o milter_macro_daemon_name=ORIGINATING
smtps inet n - n - - smtpd -o syslog_name=postfix/smtps -o smtpd_tls_wrappermode=yes
  -o smtpd_sasl_auth_enable=yes -o smtpd_reject_unlisted_recipient=no
  -o smtpd_client_restrictions=$mua_client_restrictions -o smtpd_helo_restrictions=$mua_helo_restrictions
  -o smtpd_sender_restrictions=$mua_sender_restrictions
  -o smtpd_recipient_restrictions=permit_sasl_authenticated,reject -o milter_macro_daemon_name=ORIGINATING
628 inet n - n - - qmqpd
qmgr unix n - n 300 1 oqmgr
maildrop unix - n n - - pipe flags=DRhu user=vmail argv=/usr/local/bin/maildrop -d ${recipient}
cyrus unix - n n - - pipe user=cyrus argv=/cyrus/bin/deliver -e -r ${sender} -m ${extension} ${user}
old-cyrus unix - n n - - pipe flags=R user=cyrus argv=/cyrus/bin/deliver -e -m ${extension} ${user}
uucp unix - n n - - pipe flags=Fqhu user=uucp argv=uux -r -n -z -a$sender - $nexthop!rmail ($recipient)
ifmail unix - n n - - pipe flags=F user=ftn argv=/usr/lib/ifmail/ifmail -r $nexthop ($recipient)
bsmtp unix - n n - - pipe flags=Fq. user=bsmtp argv=/usr/local/sbin/bsmtp -f $sender $nexthop $recipient
scalemail-backend unix - n n - 2 pipe flags=R user=scalemail argv=/usr/lib/scalemail/bin/scalemail-store
  ${nexthop} ${user} ${extension}
mailman unix - n n - - pipe flags=FR user=list argv=/usr/lib/mailman/bin/postfix-to-mailman.py ${nexthop} ${user}
"""
MUA = {f"mua_{what}_restrictions": "permit" for what in ("client", "helo", "sender")}


def names_of(text):
    """That formula's names of the services in a master.cf, with the line of each."""
    entries = re.split(r"^(?=\S)", text, flags=re.MULTILINE)[1:]
    special = {"postscreen": "smtp-postscreen", "oqmgr": "qmgr-oqmgr", "smtp unix": "smtp-unix"}
    found = {}
    for entry in entries:
        words = entry.split()
        name = special.get(words[7]) or special.get(" ".join(words[:2])) or words[0]
        found[name] = entry
    return found


NAMES_ON, NAMES_OFF = names_of(ON), names_of(OFF)


@pytest.fixture
def converted(modules, minion, pretend):
    """The services that come of those of the community formula's pillar."""
    pretend("_mta_postfix_stage.refused", lambda *_: [])

    def convert(services, **config):
        pillar = {"config": config, "master_config": {"services": services}, "manage_master_config": True}
        pillar = yaml.safe_load(_mta_migration.convert(minion, pillar))["postfix_mta"]
        assert modules["mta_settings.problems"](pillar={**pillar, "hostname": "mx.example.org"}) == []
        return pillar.get("services", {})

    return convert


@pytest.fixture
def changed(minion, tmp_path):
    """What services would change in a master.cf."""
    (tmp_path / "main.cf").write_text("myhostname = mx.example.org\n")

    def plan(master, services):
        (tmp_path / "master.cf").write_text(master)
        return _mta_postfix_edit.plan(minion, str(tmp_path), {}, services)["changes"]

    return plan


# Two that are the same service are not converted together.
TWINS = ["smtp-postscreen", "qmgr-oqmgr"]
APART = [[name for name in {**NAMES_ON, **NAMES_OFF} if name not in TWINS], TWINS]


@pytest.mark.parametrize("names", APART, ids=["most", "twins"])
@pytest.mark.parametrize("fields", [{"enable": True}, {"chroot": False}], ids=["enabled", "named"])
def test_what_is_only_named_is_what_the_community_formula_makes_of_it(converted, changed, names, fields):
    services = converted(dict.fromkeys(names, fields), **MUA)
    lines = [{**NAMES_ON, **NAMES_OFF}[name] for name in names]
    assert sorted(services) == sorted("/".join(line.split()[:2]) for line in lines)
    assert changed("".join(lines), services) == {}
    # Also where another program is there.
    others = "".join(f"{' '.join(line.split()[:2])} n n y - - spawn\n" for line in lines)
    changes = changed(others, services)
    for line in lines:
        new = changes[f"master.cf {'/'.join(line.split()[:2])}"]["new"]
        assert (new["command"], new["chroot"]) == (line.split()[7], "n")


def test_the_community_formulas_whole_table_as_pillar_changes_nothing_where_it_is_in_force(converted, changed):
    pillar = {name: {"enable": name in NAMES_ON} for name in [*NAMES_ON, *NAMES_OFF]}
    for name, line in {**NAMES_ON, **NAMES_OFF}.items():
        service, kind, private, unpriv, chroot, wakeup, maxproc, command, *_ = line.split()
        columns = {"private": private, "unpriv": unpriv, "chroot": chroot, "wakeup": wakeup, "maxproc": maxproc}
        as_yaml = {key: text == "y" if text in "yn" else text for key, text in columns.items()}
        pillar[name].update(as_yaml, service=service, type=kind, command=command)
    for order in (pillar, dict(reversed(pillar.items()))):
        services = converted(order, **MUA)
        assert services["smtp/inet"]["command"] == "smtpd"
        assert services["uucp/unix"] is None
        assert changed(ON, services) == {}


@pytest.mark.parametrize(
    ("pillar", "service", "command"),
    [
        ({"smtp-postscreen": {"enable": False}}, "smtp/inet", "as it is"),
        ({"qmgr-oqmgr": {"enable": False}}, "qmgr/unix", "as it is"),
        ({"smtp": {"maxproc": 5}, "smtp-postscreen": {"enable": False}}, "smtp/inet", "smtpd"),
        ({"smtp": {"enable": False}, "smtp-postscreen": {"enable": True}}, "smtp/inet", "postscreen"),
        ({"smtp-postscreen": {"enable": True}, "smtp": {"enable": False}}, "smtp/inet", "postscreen"),
        ({"smtp-postscreen": {}, "smtp": {}}, "smtp/inet", "postscreen"),
        ({"smtp": {"enable": False}, "smtp-postscreen": {"enable": False}}, "smtp/inet", None),
        ({"smtp": {"enable": False}}, "smtp/inet", None),
        ({"smtp": {"enable": None}}, "smtp/inet", None),
        ({628: {"enable": True}}, "628/inet", "qmqpd"),
        ({"smtp": {"service": "2525"}}, "2525/inet", "smtpd"),
        ({"smtp": {"type": "unix", "command": "smtp"}}, "smtp/unix", "smtp"),
        ({"own": {"type": "inet"}}, "own/inet", "own"),
        ({"own": None}, "own/unix", "own"),
    ],
    ids=str,
)
def test_of_two_that_are_one_service_the_one_that_is_on_is_converted(converted, pillar, service, command):
    entry = converted(pillar).get(service, {"command": "as it is"})
    assert (entry and entry["command"]) == command


def test_a_listener_for_users_has_the_community_formulas_overrides_unless_it_has_its_own(converted):
    overrides = converted({"smtps": {"enable": True}}, mua_helo_restrictions="permit")["smtps/inet"]["overrides"]
    assert overrides["smtpd_tls_wrappermode"] == "yes"
    assert overrides["smtpd_helo_restrictions"] == "$mua_helo_restrictions"
    # Without the parameter there is no restriction.
    assert overrides["smtpd_client_restrictions"] == ""
    assert "overrides" not in converted({"smtps": {"args": None}})["smtps/inet"]
    assert converted({"submission": {"args": ["-o a=b"]}})["submission/inet"]["overrides"] == {"a": "b"}


def test_without_a_pillar_there_is_nothing_to_convert(minion):
    with pytest.raises(SaltInvocationError, match="no pillar key postfix"):
        _mta_migration.convert(minion)


def test_the_page_about_migration_names_functions_that_there_are(modules):
    page = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "migration.md").read_text()
    assert "postconf.export" in page
    for function in ("postconf.services", "postconf.set", "postconf.show", "mta_migration.convert"):
        assert function in page
        assert function in modules
