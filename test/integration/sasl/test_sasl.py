"""Every way to check passwords against its real counterpart, one after another on one host, and back to none."""

import pathlib

import pytest

from rig import results

HERE = pathlib.Path(__file__).parent
PASSWORD = "bind #pass"
LDAP = {
    "servers": ["ldap://127.0.0.1"],
    "search_base": "dc=example,dc=com",
    "bind_dn": "cn=admin,dc=example,dc=com",
    "bind_password": PASSWORD,
    "timeout": 3,
}
# name: (settings, the process of the counterpart)
WAYS = {
    "pam": ({}, None),
    "shadow": ({"mechanisms": ["shadow"], "directory_mode": "0710"}, None),
    "ldap": ({"mechanisms": ["ldap"], "ldap": LDAP}, "slapd"),
    "rimap": ({"mechanisms": ["rimap"], "rimap": {"host": "localhost"}}, "dovecot"),
    "sasldb": ({"mechanisms": ["sasldb"]}, None),
    "kerberos5": ({"mechanisms": ["kerberos5"], "kerberos5": {"keytab": "/etc/mail.keytab"}}, "krb5kdc"),
    "dovecot": ({"type": "dovecot"}, "dovecot"),
}
# What an apply may leave behind. Which links keep a service from starting is update-rc.d's own matter.
TRACES = r"""
cat /etc/default/saslauthd /etc/group /var/lib/dpkg/statoverride
find /etc/postfix/sasl /etc/saslauthd.conf /etc/systemd/system /var/spool/postfix/var -printf '%p %M %u %g\n'
ls /etc/rc?.d/S*saslauthd
postconf -n | grep sasl
pgrep -a saslauthd
"""


def pillar(**sasl):
    """The suite's pillar with other SASL settings; good logins are not remembered while servers are stopped."""
    return {"postfix_mta": {"root_recipient": "alice", "sasl": {"cache": False, "threads": 2, **sasl}}}


def login(container, password, user="alice"):
    """The code with which the server answers a login, and how many seconds that took."""
    code, seconds = container.exec(["python3", "/root/client.py", user, password]).stdout.split()
    return int(code), float(seconds)


def traces(container):
    return container.exec(TRACES, check=False).stdout.splitlines()


def apply(container, **sasl):
    """Apply, and see that a dry run has nothing to announce after that."""
    done = container.apply(pillar=pillar(**sasl))
    assert results.failures(done) == []
    assert results.announced(container.apply(test=True)) == set()
    return done


@pytest.fixture(scope="module", autouse=True)
def before(container):
    """The traces of a host on which nobody can log in, with all counterparts running."""
    container.put({"/root/client.py": HERE / "client.py"})
    container.exec(["bash", "-s"], input=(HERE / "counterparts.sh").read_text())
    return traces(container)


@pytest.mark.parametrize("way", WAYS)
def test_a_right_password_gets_in_and_nothing_else(container, way):
    settings, counterpart = WAYS[way]
    done = apply(container, **settings)
    assert login(container, "right pass")[0] == 235
    assert login(container, "wrong")[0] == 535
    assert login(container, "right pass", "nobody-here")[0] == 535
    if counterpart:
        # Stopped: one that takes the connection and does not answer. IMAP and Kerberos cost 27 to 30 s then.
        for signal, limit in [("STOP", 15)] * (counterpart == "slapd") + [("KILL", 10)]:
            container.exec(["pkill", f"-{signal}", "-x", counterpart])
            code, seconds = login(container, "right pass")
            assert code != 235
            assert seconds < limit
            container.exec(["pkill", "-CONT", "-x", counterpart], check=False)
        container.exec(["systemctl", "restart", {"krb5kdc": "krb5-kdc"}.get(counterpart, counterpart)])
        assert login(container, "right pass")[0] == 235
    assert PASSWORD not in str(done)


def test_where_saslauthd_is_not_used_it_leaves_nothing(container, before):
    apply(container, **WAYS["ldap"][0], directory_mode="0710")
    status = container.exec("stat -c '%a %U' /etc/saslauthd.conf; id -nG postfix").stdout
    assert status.splitlines()[0] == "600 root"
    assert "sasl" in status
    apply(container, type="dovecot")
    dovecot = [line for line in traces(container) if not line.startswith("smtpd_sasl_")]
    assert dovecot == [line for line in before if not line.startswith("smtpd_sasl_")]
    apply(container, enabled=False)
    assert traces(container) == before


def test_a_saslauthd_that_does_not_run_is_a_temporary_error(container):
    apply(container)
    container.exec(["systemctl", "stop", "saslauthd"])
    code, seconds = login(container, "right pass")
    assert code == 454
    assert seconds < 5


def test_an_undone_switch_brings_saslauthd_back(container):
    apply(container)
    before = traces(container)
    failing = pillar(enabled=False)
    failing["postfix_mta"]["verify"] = {"capabilities": ["XNOSUCH"]}
    assert results.failures(container.apply(pillar=failing))
    assert [line for line in traces(container) if "saslauthd -a" not in line] == [
        line for line in before if "saslauthd -a" not in line
    ]
    assert login(container, "right pass")[0] == 235


def test_a_missing_keytab_is_told_before_anything_changes(container):
    before = traces(container)
    settings = {"mechanisms": ["kerberos5"], "kerberos5": {"keytab": "/etc/no.keytab"}}
    for test in (True, False):
        failed = results.failures(container.apply(test=test, pillar=pillar(**settings)))
        assert any("cannot read /etc/no.keytab" in text for text in failed)
    assert traces(container) == before


def test_the_bind_password_is_in_no_log(container):
    apply(container, **WAYS["ldap"][0])
    found = container.exec(["grep", "-rlF", PASSWORD, "/var/log", "/var/cache/salt", "/etc/salt"], check=False)
    assert found.stdout == ""
    mode = container.exec(
        "find /etc /var/lib/postfix_mta -type f -perm /o=r -exec grep -lF 'bind #pass' {} +", check=False
    )
    assert mode.stdout == ""
