"""Every way to check passwords against its real counterpart, one after another on one host, and back to none."""

import pathlib

import pytest

from rig import results

HERE = pathlib.Path(__file__).parent
PASSWORD = "bind #pass"
LDAP = {
    "servers": ["ldap://mail.example.com"],
    "search_base": "dc=example,dc=com",
    "bind_dn": "cn=admin,dc=example,dc=com",
    "bind_password": PASSWORD,
    "start_tls": True,
    "ca_file": "/etc/ssl/certs/cacert.pem",
    "timeout": 3,
}
# name: (settings, the process of the counterpart, its port)
WAYS = {
    "pam": ({}, None, None),
    "shadow": ({"mechanisms": ["shadow"], "directory_mode": "0710"}, None, None),
    "sasldb": ({"mechanisms": ["sasldb"]}, None, None),
    "rimap": ({"mechanisms": ["rimap"], "rimap": {"host": "localhost"}}, "dovecot", 143),
    "kerberos5": ({"mechanisms": ["kerberos5"], "kerberos5": {"keytab": "/etc/mail.keytab"}}, "krb5kdc", 88),
    "ldap": ({"mechanisms": ["ldap"], "ldap": LDAP, "directory_mode": "0710"}, "slapd", 389),
    "dovecot": ({"type": "dovecot"}, "dovecot", None),
}
DROP = "for p in tcp udp; do iptables -{} INPUT -p $p --dport {} -j DROP; done"
PROXY = "postfix-mta-saslauthd-proxy"
# Each kind of change is in one of them; a dry run costs two seconds.
FORETOLD = ("shadow", "ldap", "dovecot")
# What an apply may leave behind. Which links keep a service from starting is update-rc.d's own matter.
TRACES = r"""
cat /etc/default/*saslauthd /etc/group /var/lib/dpkg/statoverride
find /etc/postfix/sasl /etc/saslauthd.conf /etc/systemd/system /var/spool/postfix/var -printf '%p %M %u %g\n'
ls /etc/rc?.d/S*saslauthd
postconf -n | grep sasl
systemctl is-enabled saslauthd
systemctl list-units --all --plain --no-legend 'postfix-mta-saslauthd.*'
find /usr/local/lib -maxdepth 1 | sort
pgrep -a saslauthd
"""


def pillar(**sasl):
    """The suite's pillar with other SASL settings; good logins are not remembered while servers are stopped."""
    return {"postfix_mta": {"root_recipient": "alice", "sasl": {"cache": False, "threads": 2, **sasl}}}


def login(container, password, user="alice", port=25):
    """The code with which the server answers a login, and how many seconds that took."""
    code, seconds = container.exec(["python3", "/root/client.py", str(port), user, password]).stdout.split()
    return int(code), float(seconds)


def traces(container, but=()):
    """The host's traces of SASL, without lines that begin with one of ``but``."""
    lines = container.exec(TRACES, check=False).stdout.splitlines()
    return [line for line in lines if not line.startswith(tuple(but))]


def apply(container, foretold=True, **sasl):
    """Apply; nothing is left to change. ``foretold``: a dry run has announced exactly what changes."""
    container.set_pillar(pillar(**sasl))
    announced = container.apply(test=True) if foretold else None
    done = container.apply()
    assert results.failures(done) == []
    if foretold:
        assert results.difference(announced, done) == []
    assert results.changed(container.apply()) == set()
    return done


@pytest.fixture(scope="module", autouse=True)
def before(container):
    """The traces of a host on which nobody can log in, with all counterparts running."""
    container.put({"/root/client.py": HERE / "client.py"})
    container.exec(["bash", "-s"], input=(HERE / "counterparts.sh").read_text())
    # The package has just started its saslauthd.
    assert results.failures(container.apply()) == []
    return traces(container)


def test_without_sasl_there_is_no_saslauthd(container, before):
    assert "disabled" in before
    assert not any("/usr/sbin/saslauthd" in line or "_sasl_type" in line for line in before)
    assert login(container, "right pass")[0] == 503


@pytest.mark.parametrize("way", WAYS)
def test_a_right_password_gets_in_and_nothing_else(container, way):
    settings, counterpart, port = WAYS[way]
    done = apply(container, way in FORETOLD, **settings)
    assert login(container, "right pass")[0] == 235
    assert login(container, "wrong")[0] == 535
    assert login(container, "right pass", "nobody-here")[0] == 535
    assert PASSWORD not in str(done)
    if port:
        # Packets are lost; then the connection is taken, and nobody answers.
        container.exec(DROP.format("I", port))
        told_of_an_outage(container)
        container.exec(["pkill", "-STOP", "-x", counterpart])
        container.exec(DROP.format("D", port))
        told_of_an_outage(container)
        container.exec(["pkill", "-CONT", "-x", counterpart])
        assert login(container, "right pass")[0] == 235
        assert login(container, "wrong")[0] == 535
    if counterpart:
        unit = {"krb5kdc": "krb5-kdc"}.get(counterpart, counterpart)
        container.exec(["systemctl", "stop", unit])
        # An smtpd that does not find Dovecot's socket at its start hangs up.
        told_of_an_outage(container, ("right pass", "wrong")[: 2 if port else 1])
        container.exec(["systemctl", "start", unit])
        assert login(container, "right pass")[0] == 235


def told_of_an_outage(container, passwords=("right pass", "wrong")):
    """A right and a wrong password alike are a temporary error, soon."""
    for password in passwords:
        code, seconds = login(container, password)
        assert (code, seconds < 15) == (454, True), (password, code, seconds)


def test_where_saslauthd_is_not_used_it_leaves_nothing(container, before):
    """The way before was Dovecot's, and the one before that LDAP's in a closed directory."""
    ours = ("smtpd_sasl_type", "smtpd_sasl_path", "smtpd_sasl_auth_enable")
    assert traces(container, but=ours) == [line for line in before if not line.startswith(ours)]
    apply(container, enabled=False)
    assert traces(container) == before


def test_a_saslauthd_that_does_not_run_is_a_temporary_error(container):
    assert results.failures(container.apply(pillar=pillar())) == []
    container.exec(["systemctl", "stop", "saslauthd"])
    code, seconds = login(container, "right pass")
    assert code == 454
    assert seconds < 5


def test_an_undone_switch_brings_saslauthd_back(container):
    assert results.failures(container.apply(pillar=pillar(**WAYS["rimap"][0]))) == []
    # The proxy is started by a login.
    assert login(container, "right pass")[0] == 235
    before = traces(container)
    failing = pillar(enabled=False)
    failing["postfix_mta"]["verify"] = {"capabilities": ["XNOSUCH"]}
    assert results.failures(container.apply(pillar=failing))
    assert login(container, "right pass")[0] == 235
    # Each line of a process begins with its number.
    processes = tuple("123456789")
    assert traces(container, but=processes) == [line for line in before if not line.startswith(processes)]


def test_the_proxy_before_saslauthd_comes_back_when_it_is_killed_and_ends_with_it(container):
    container.exec(["pkill", "-KILL", "-f", PROXY])
    assert login(container, "right pass")[0] == 235
    assert container.call("saslauthd.authenticate", "alice", "right pass") is True
    assert container.call("saslauthd.authenticate", "alice", "wrong") is False
    container.exec(["systemctl", "stop", "saslauthd"])
    assert container.exec(["pgrep", "-f", PROXY], check=False).stdout == ""
    code, seconds = login(container, "right pass")
    assert (code, seconds < 5) == (454, True)
    assert container.call("saslauthd.answers") is False


def test_the_socket_may_be_in_another_directory_of_the_chroot(container):
    for settings in ({"socket_directory": "/var/spool/postfix/run/sasl"}, {}):
        apply(container, foretold=False, **settings)
        assert login(container, "right pass")[0] == 235


def test_services_inside_and_outside_of_the_chroot_find_the_socket(container):
    """One of the pillar's, and one that somebody has added by hand."""
    by_hand = 'postconf -M 2526/inet="2526 inet n - n - - smtpd"; postfix reload'
    outside = {"private": False, "chroot": False, "command": "smtpd"}
    container.exec(by_hand)
    with_another = pillar()
    with_another["postfix_mta"]["services"] = {"2525/inet": outside}
    assert results.failures(container.apply(pillar=with_another)) == []
    assert results.changed(container.apply()) == set()
    assert [login(container, "right pass", port=port)[0] for port in (25, 2525, 2526)] == [235] * 3
    container.exec("postconf -MX 2526/inet; postfix reload")
    with_another["postfix_mta"]["services"]["2525/inet"] = None
    assert results.failures(container.apply(pillar=with_another)) == []
    assert "postfix_mta_link" not in container.exec("systemctl cat saslauthd").stdout
    assert login(container, "right pass")[0] == 235


def test_what_an_administrator_has_written_since_outlives_another_mechanism(container):
    """The files of the mechanism before go, but not where somebody has changed them."""
    assert results.failures(container.apply(pillar=pillar(**WAYS["ldap"][0]))) == []
    container.exec("echo '# theirs' >>/etc/saslauthd.conf")
    before = container.exec("cat /etc/saslauthd.conf && stat -c '%a %U %G' /etc/saslauthd.conf").stdout
    for settings in ({}, {"enabled": False}):
        done = container.apply(pillar=pillar(**settings))
        assert results.failures(done) == []
        comment = results.state_of(done, "postfix_mta_sasl")["comment"]
        assert "/etc/saslauthd.conf stays, as somebody has changed it since the last apply" in comment
        assert PASSWORD not in comment
        after = container.exec("cat /etc/saslauthd.conf && stat -c '%a %U %G' /etc/saslauthd.conf").stdout
        assert after == before
    # It is the administrator's also when the formula writes it anew, and goes with what is written then.
    apply(container, foretold=False, **WAYS["ldap"][0])
    apply(container, foretold=False)
    assert container.exec("cat /etc/saslauthd.conf && stat -c '%a %U %G' /etc/saslauthd.conf").stdout == before
    container.exec("rm /etc/saslauthd.conf")
    assert login(container, "right pass")[0] == 235


def test_a_missing_keytab_is_told_before_anything_changes(container):
    before = traces(container)
    settings = {"mechanisms": ["kerberos5"], "kerberos5": {"keytab": "/etc/no.keytab"}}
    for test in (True, False):
        failed = results.failures(container.apply(test=test, pillar=pillar(**settings)))
        assert any("cannot read /etc/no.keytab" in text for text in failed)
    assert traces(container) == before


def test_the_bind_password_is_in_no_argument_no_log_and_no_open_file(container):
    container.set_pillar(pillar(**WAYS["ldap"][0]))
    container.exec(f"""
        while sleep 0.05; do cat /proc/[0-9]*/cmdline; done >/root/arguments 2>/dev/null &
        watcher=$!
        salt-call --local --config-dir={container.root}etc/salt --log-file=/root/trace --log-file-level=all \
            -l quiet state.apply postfix_mta
        kill $watcher
    """)
    assert container.exec("stat -c '%a %U' /etc/saslauthd.conf").stdout == "600 root\n"
    assert container.exec(["grep", "-cF", "ldap_bind_pw: bind #pass", "/etc/saslauthd.conf"]).stdout == "1\n"
    assert PASSWORD not in container.exec(["cat", "/root/arguments"]).stdout
    # Salt itself logs the pillar file that it reads.
    lines = container.exec(["grep", "-F", PASSWORD, "/root/trace"], check=False).stdout.splitlines()
    assert [line for line in lines if "mta_" in line or "postfix_mta/" in line] == []
    logs = ["/var/log", "/var/cache/salt", "/etc/salt"]
    assert container.exec(["grep", "-rlF", PASSWORD, *logs], check=False).stdout == ""
    found = container.exec(
        "find /etc /var/lib/postfix_mta -type f -perm /o=r -exec grep -lF 'bind #pass' {} +", check=False
    )
    assert found.stdout == ""
    journal = container.exec("journalctl --no-pager | grep -F 'bind #pass'", check=False)
    assert journal.stdout == ""
