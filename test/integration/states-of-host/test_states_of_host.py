"""
Whatever a host is like when the apply begins, a good pillar makes it a running server, and a bad one leaves it
as it was.
"""

import pytest

from rig.results import failures

GOOD = {"postfix_mta": {"root_recipient": "alice", "parameters": {"message_size_limit": 20000000}}}
# Only the running server shows that it does not offer this.
BAD = {
    "postfix_mta": {
        "root_recipient": "bob",
        "parameters": {"message_size_limit": 30000000, "smtpd_helo_required": True},
        "aliases": {"new": "bob"},
        "sasl": {"threads": 3},
        "verify": {"capabilities": ["XNOSUCH"]},
    }
}

# What each of these does to a server that was in order.
STATES = {
    "stopped": "systemctl stop postfix 'postfix@*' saslauthd",
    "disabled, with saslauthd stopped": "systemctl disable --quiet postfix saslauthd && systemctl stop saslauthd",
    "a line in main.cf that is none": "sed -i '3i this is no setting' /etc/postfix/main.cf",
    "a bad value, and smtpd throttled": """
        postconf -e smtpd_tls_security_level=bogus && postfix reload
        python3 -c 'import socket; socket.create_connection(("127.0.0.1", 25), 5).recv(1)' 2>/dev/null || true
    """,
    "a bad value, and stopped": "systemctl stop postfix 'postfix@*' && postconf -e inet_interfaces=192.0.2.77",
    "no master.cf": "rm /etc/postfix/master.cf",
    "no main.cf": "rm /etc/postfix/main.cf",
    "a line in master.cf that is none": "echo 'this is no service' >> /etc/postfix/master.cf",
    "no certificate": "rm /etc/ssl/certs/smtpd.crt /etc/ssl/private/smtpd.key",
    "no aliases": "rm /etc/aliases*",
}

FILES = """
{ find /etc/postfix /etc/default /etc/aliases* /etc/ssl/certs /etc/ssl/private /etc/systemd/system /etc/rc?.d \
       /var/spool/postfix/var -type f -exec sha256sum {} +
  find /etc/postfix /etc/default /etc/aliases* /etc/ssl/certs /etc/ssl/private /etc/systemd/system /etc/rc?.d \
       /var/spool/postfix/var ! -type s -printf '%p %M %u %g %l\\n'
} 2>/dev/null | grep -v /saslauthd/ | sort -u
"""
GREETING = """
import smtplib
with smtplib.SMTP("127.0.0.1", 25, timeout=20) as client:
    client.starttls()
    client.sendmail("sender@example.org", ["postmaster@mail.example.com"], "Subject: hello\\n\\nhello\\n")
"""


def as_it_is(container):
    """The files that an apply may change, and whether the services run and start at boot."""
    return container.exec(FILES, check=False).stdout.splitlines(), services(container)


def services(container):
    """Whether Postfix and saslauthd are enabled, and how many of them there are."""
    program = (
        "for name in postfix saslauthd; do systemctl is-enabled $name 2>/dev/null; done;"
        " pgrep -x master >/dev/null && echo Postfix runs; pgrep -x saslauthd >/dev/null && echo saslauthd runs"
    )
    return container.exec(program, check=False).stdout.splitlines()


def state(results, name):
    """The result of the state with an id."""
    return next(result for result in results.values() if result["__id__"] == name)


def is_undone(results):
    """Assert that an apply failed in the conversation, and claims no change of the mail server."""
    committed = state(results, "postfix_mta_committed")
    assert committed["result"] is False
    assert "XNOSUCH" in committed["comment"]
    assert not committed["changes"]


def is_healthy(container):
    """Assert that the server runs, starts at boot and takes mail."""
    assert services(container) == ["enabled", "enabled", "Postfix runs", "saslauthd runs"]
    container.exec(["python3", "-c", GREETING])


@pytest.fixture(scope="module")
def server(container):
    """The host, with the server on it in order."""
    assert all(result["result"] for result in container.apply(pillar=GOOD).values())
    return container


def test_a_bad_apply_where_postfix_was_not_installed_leaves_the_package_as_it_came(container):
    assert container.exec(["test", "-e", "/etc/postfix"], check=False).returncode
    is_undone(container.apply(pillar=BAD))
    assert container.exec("postconf -n | grep helo_required", check=False).stdout == ""
    assert "new:" not in container.exec("cat /etc/aliases").stdout
    assert not container.exec("ls /etc/postfix/sasl").stdout
    assert container.exec("ls /etc/ssl/certs/smtpd.crt", check=False).returncode
    container.exec(["python3", "-c", GREETING.replace("client.starttls()", "pass")])


def test_a_good_apply_after_that_makes_the_server(container):
    results = container.apply(pillar=GOOD)
    assert failures(results) == []
    is_healthy(container)
    assert not any(result["changes"] for result in container.apply().values())


@pytest.mark.parametrize("name", STATES)
def test_a_bad_apply_changes_nothing_and_a_good_one_makes_the_server(server, name):
    server.exec(STATES[name])
    before = as_it_is(server)
    is_undone(server.apply(pillar=BAD))
    assert as_it_is(server) == before
    results = server.apply(pillar=GOOD)
    assert failures(results) == []
    is_healthy(server)
