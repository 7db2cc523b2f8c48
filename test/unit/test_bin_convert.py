"""bin/convert: the community formula's pillar, as that formula's master.cf has it."""

import os
import pathlib
import re
import subprocess
import sys

import pytest
import yaml
from conftest import load_program

import _mta_postfix_edit

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "bin" / "convert"
SECRET = "Geheim-4711"


@pytest.fixture
def convert(monkeypatch):
    """The script as a module."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return load_program("convert")


@pytest.fixture
def problems(modules, pretend):
    """The validation of the pillar, without a Postfix to ask."""
    pretend("_mta_postfix_stage.refused", lambda *_: [])
    return modules["mta_settings.problems"]


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


def test_the_pillar_of_the_community_formula_is_converted(convert, problems):
    text = convert.convert(COMMUNITY, problems)
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
    assert problems(pillar=pillar) == []
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
def converted(convert, problems):
    """The services that come of those of the community formula's pillar."""

    def services_of(services, **config):
        pillar = {"config": config, "master_config": {"services": services}, "manage_master_config": True}
        pillar = yaml.safe_load(convert.convert(pillar, problems))["postfix_mta"]
        assert problems(pillar={**pillar, "hostname": "mx.example.org"}) == []
        return pillar.get("services", {})

    return services_of


@pytest.fixture
def changed(minion, tmp_path):
    """What services would change in a master.cf."""
    (tmp_path / "main.cf").write_text("myhostname = mx.example.org\n")

    def plan(master, services):
        (tmp_path / "master.cf").write_text(master)
        return _mta_postfix_edit.plan(minion, str(tmp_path), {}, services).changes

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


class TestProgram:
    """Run by Salt's Python, with a minion's configuration."""

    @pytest.fixture
    def configuration(self, tmp_path):
        """A function that makes a minion's configuration with a pillar file; its directory."""

        def write(text):
            for name, content in {
                "pillar/given.sls": text,
                "pillar/top.sls": "base: {'*': [given]}\n",
                "minion": f"""{{"file_client": "local", "root_dir": "{tmp_path}", "id": "mail.example.com",
                    "file_roots": {{"base": ["{SCRIPT.parents[1]}"]}}, "log_level_logfile": "quiet",
                    "pillar_roots": {{"base": ["{tmp_path}/pillar"]}}}}""",
            }.items():
                (tmp_path / name).parent.mkdir(exist_ok=True)
                (tmp_path / name).write_text(content)
            return str(tmp_path)

        return write

    def test_the_file_is_rendered_and_its_values_are_as_they_are(self, configuration):
        folder = configuration("postfix:\n  config: {myhostname: mx.example.org, biff: '{{ 1 + 1 }}'}\n")
        argv = [sys.executable, "-I", str(SCRIPT), folder]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        parameters = yaml.safe_load(done.stdout)["postfix_mta"]["parameters"]
        assert parameters == {"myhostname": "mx.example.org", "biff": "2"}

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("other: 1\n", "there is no pillar key postfix"),
            ("postfix: []\n", "there is no pillar key postfix"),
            ("postfix: {\n", "Rendering SLS 'given' failed"),
        ],
    )
    def test_without_a_pillar_there_is_nothing_to_convert(self, configuration, convert, capsys, text, said):
        assert convert.main([configuration(text)]) == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        assert said in printed.err


def test_the_page_about_migration_names_functions_and_programs_that_there_are(modules):
    page = (SCRIPT.parents[1] / "docs" / "migration.md").read_text()
    for function in ("postconf.export", "postconf.services", "postconf.set", "postconf.show"):
        assert function in page
        assert function in modules
    for program in set(re.findall(r"bin/\w+", page)):
        assert os.access(SCRIPT.parents[1] / program, os.X_OK)
