"""
Settings that break mail, one at a time, on a healthy server: refused or undone, while a client goes on connecting.

Most of them are refused before anything is switched: then not a single connection may fail. The others show only
under the live conversation (``live``); the gap that a client sees until they are undone is measured and printed.

The environment variable POSTFIX_MTA_SETTINGS says how many of them are tried (default 20, drawn by chance), and
POSTFIX_MTA_SEED draws those of an earlier run again.
"""

import dataclasses
import os
import pathlib
import random
import shlex
import time

import pytest

from rig import results

CLIENT = pathlib.Path(__file__).with_name("client.py")
CLIENT_LOG = "/run/mta-client.log"
GUIDE = {"root_recipient": "alice"}
SUBMISSION = {"command": "smtpd", "private": False, "chroot": True}
# What a second listener needs to be worth a test: a port of its own.
OTHER_PORT = "127.0.0.1:2525/inet"
ECHO = "user=nobody argv=/bin/cat"

SNAPSHOT = """
find /etc/postfix -printf '%y %m %u %g %p %l\\n' | sort
find /etc/postfix -type f -exec sha256sum {} + | sort -k 2
sha256sum /etc/default/*saslauthd
ls -A /var/lib/postfix_mta
"""
PREPARATION = """
set -e
cd /srv
cp -a /etc/postfix .
printf 'x y\\n' > table
postmap hash:/srv/table
printf 'x y\\n' > other.cf
touch unreadable && chmod 0 unreadable
printf 'not a certificate\\n' > garbage.pem
openssl req -quiet -x509 -newkey rsa:2048 -nodes -subj /CN=other -keyout other.key -out other.crt 2>/dev/null ||
    openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=other -keyout other.key -out other.crt 2>/dev/null
setsid python3 -c '
import socket, time
sockets = [socket.create_server(("127.0.0.1", 2600)), socket.socket(socket.AF_UNIX)]
sockets[1].bind("/srv/outside")
sockets[1].listen()
time.sleep(100000)
' >/dev/null 2>&1 </dev/null &
"""


@dataclasses.dataclass(frozen=True)
class Bad:
    """
    A bad setting.

    culprit: what a failed state's comment names. pillar: what else is in the pillar. live: whether only the live
    conversation can show it.
    """

    culprit: str
    parameters: dict = dataclasses.field(default_factory=dict)
    services: dict = dataclasses.field(default_factory=dict)
    pillar: dict = dataclasses.field(default_factory=dict)
    live: bool = False


def parameter(name, value, live=False, **others):
    """A parameter that is bad; ``others`` are needed for it to be in force."""
    return Bad(name, {name: value, **others}, live=live)


def service(name, live=False, **fields):
    """A service that is bad."""
    return Bad(name, services={name: fields}, live=live)


def overridden(**overrides):
    """A parameter that is bad in a listener of its own."""
    return Bad(next(iter(overrides)), services={OTHER_PORT: {**SUBMISSION, "overrides": overrides}})


RESTRICTED = "permit_mynetworks, {}, reject_unauth_destination"

# The table of FACTS: `postfix check` and `postfix reload` return 0 for each.
MEASURED = {
    "a certificate file that is missing": parameter("smtpd_tls_cert_file", "/etc/ssl/certs/nope.crt"),
    "a TLS level that does not exist": parameter("smtpd_tls_security_level", "bogus"),
    "a table that is missing": parameter("virtual_alias_maps", "hash:/etc/postfix/nope"),
    "a table that is missing, by a relative path": parameter("virtual_alias_maps", "hash:nope"),
    "a network with host bits": parameter("mynetworks", "10.0.0.1/8"),
    "SASL without a mechanism": parameter("smtpd_sasl_security_options", "noanonymous, noplaintext"),
    "an unknown restriction": parameter(
        "smtpd_recipient_restrictions", "check_policy_server inet:127.0.0.1:10031, reject_unauth_destination"
    ),
    "an unknown restriction behind permit_mynetworks": parameter(
        "smtpd_recipient_restrictions", RESTRICTED.format("check_policy_server inet:127.0.0.1:10031")
    ),
}

OTHERS = {
    # Files.
    "a key file that is missing": parameter("smtpd_tls_key_file", "/etc/ssl/private/nope.key"),
    "a key that belongs to another certificate": parameter("smtpd_tls_key_file", "/srv/other.key"),
    "a certificate that is none": parameter("smtpd_tls_cert_file", "/srv/garbage.pem"),
    "a directory for a certificate": parameter("smtpd_tls_cert_file", "/srv"),
    "a cidr table that is missing": parameter("smtpd_client_restrictions", "check_client_access cidr:/srv/nope"),
    "a text table that is missing": parameter("smtpd_sender_restrictions", "check_sender_access texthash:/srv/no"),
    "a table for outgoing mail that is missing": parameter("smtp_tls_policy_maps", "hash:/srv/nope"),
    "a transport table that is missing": parameter("transport_maps", "hash:/srv/nope"),
    "a table that exists as another type only": parameter("virtual_alias_maps", "btree:/srv/table"),
    # Types of tables.
    "a table type that does not exist": parameter("virtual_alias_maps", "hahs:/srv/table"),
    "a table type whose package is missing": parameter("virtual_alias_maps", "ldap:/srv/other.cf"),
    "a table without a type": parameter(
        "smtpd_recipient_restrictions", "check_recipient_access /srv/table, reject_unauth_destination"
    ),
    "an inline table that is broken": parameter("virtual_alias_maps", "inline:{ a }"),
    "an inline regular expression that is broken": parameter(
        "smtpd_helo_restrictions", "check_helo_access regexp:x"
    ),
    # Ports and addresses.
    "a port that is taken": service("127.0.0.1:2600/inet", **SUBMISSION),
    "an address that the host does not have": parameter("inet_interfaces", "198.51.100.7"),
    "a listener at an address that the host does not have": service("198.51.100.7:2525/inet", **SUBMISSION),
    "a host name that does not resolve": parameter("inet_interfaces", "nosuch.invalid"),
    "a service name without a port": service("nosuchport/inet", **SUBMISSION),
    "a protocol that does not exist": parameter("inet_protocols", "ipv5"),
    # Numbers, times, booleans.
    "a time with an unknown unit": parameter("smtpd_timeout", "5x"),
    "a text for a size": parameter("message_size_limit", "abc"),
    "a boolean that is neither": parameter("biff", "maybe"),
    "a mailbox smaller than a message": parameter("mailbox_size_limit", 1000),
    "a negative limit": parameter("smtpd_hard_error_limit", -5),
    "a time of the queue manager that is none": parameter("minimal_backoff_time", "soon"),
    "a process limit that is none": parameter("default_process_limit", "many"),
    # TLS.
    "a TLS level for outgoing mail that does not exist": parameter("smtp_tls_security_level", "always"),
    "a protocol of TLS that does not exist": parameter("smtpd_tls_protocols", "!SSLv9"),
    "a cipher grade that does not exist": parameter("smtpd_tls_ciphers", "hihg"),
    "a list of ciphers that does not exist": parameter("tls_medium_cipherlist", "NOSUCHCIPHER"),
    "no protocol of TLS left": parameter("smtpd_tls_protocols", "!TLSv1, !TLSv1.1, !TLSv1.2, !TLSv1.3"),
    # SASL.
    "a SASL type that does not exist": parameter("smtpd_sasl_type", "courier"),
    "a SASL server that is not there": parameter("smtpd_sasl_type", "dovecot", smtpd_sasl_path="private/auth"),
    "a socket directory outside the chroot": Bad(
        "saslauthd", pillar={"sasl": {"socket_directory": "/run/saslauthd"}}, live=True
    ),
    # Restrictions.
    "nobody is kept from relaying": parameter(
        "smtpd_recipient_restrictions", "permit_mynetworks, permit", smtpd_relay_restrictions="permit"
    ),
    "no restriction that keeps untrusted clients out": parameter(
        "smtpd_relay_restrictions", "permit_mynetworks", smtpd_recipient_restrictions="permit_mynetworks"
    ),
    "a policy server that is not there": parameter(
        "smtpd_recipient_restrictions", RESTRICTED.format("check_policy_service inet:127.0.0.1:2699")
    ),
    "a restriction with an unknown name": parameter("smtpd_helo_restrictions", "reject_unknown_helo"),
    "a restriction class that is not defined": parameter(
        "smtpd_restriction_classes", "greylist", smtpd_client_restrictions="greylist"
    ),
    # Milters, filters and transports.
    "a milter that is not there, and mail waits": parameter(
        "smtpd_milters", "inet:127.0.0.1:2698", milter_default_action="tempfail"
    ),
    "a milter that is not there, and mail is refused": parameter(
        "smtpd_milters", "unix:/nowhere/milter", milter_default_action="reject"
    ),
    "a milter outside the chroot": parameter(
        "smtpd_milters", "unix:/srv/outside", milter_default_action="tempfail"
    ),
    "a milter with an unknown transport": parameter("smtpd_milters", "inett:127.0.0.1:2698"),
    "a milter action that does not exist": parameter(
        "milter_default_action", "panic", smtpd_milters="inet:127.0.0.1:2698"
    ),
    "a before-queue filter that is not there": parameter("smtpd_proxy_filter", "127.0.0.1:2697"),
    "a content filter that does not exist": parameter("content_filter", "amavis:[127.0.0.1]:10024"),
    "a local transport that does not exist": parameter("local_transport", "dovecot"),
    "a mailbox transport that does not exist": parameter("mailbox_transport", "lmpt:unix:private/dovecot"),
    "header checks that are missing": parameter("header_checks", "regexp:/srv/nope"),
    "header checks of a table type that is missing": parameter("body_checks", "pgsql:/srv/other.cf"),
    # Who and where.
    "an owner of mail that does not exist": parameter("mail_owner", "nobody-at-all"),
    "an owner of mail who owns something else": parameter("mail_owner", "root"),
    "a group that does not exist": parameter("setgid_group", "nogroup-at-all"),
    "a directory of daemons that does not exist": parameter("daemon_directory", "/usr/lib/nope"),
    "a queue that does not exist": parameter("queue_directory", "/srv/nope"),
    "a host name that is none": parameter("myhostname", "mail_example..com"),
    "a banner without the host's name": parameter("smtpd_banner", "ESMTP"),
    # master.cf.
    "a program that is missing": service("smtp/inet", command="smtpdd"),
    "a column that is neither yes nor no": service("smtp/inet", chroot="maybe"),
    "a process limit that is not a number": service("smtp/inet", process_limit="few"),
    "a wakeup time that is not a number": service("pickup/unix", wakeup="often"),
    "a type that does not exist": service("smtp/tcp", command="smtpd"),
    "a program that is another": service("smtp/inet", command="qmgr"),
    "the client for the server, beside another listener": Bad(
        "smtp/inet", services={"smtp/inet": {"command": "smtp"}, OTHER_PORT: SUBMISSION}
    ),
    "a program that does not speak SMTP": service(
        "smtp/inet", chroot=False, unprivileged=False, command="spawn", arguments=ECHO, live=True
    ),
    "no lookups without its service": Bad("rewrite/unix", services={"rewrite/unix": None}, live=True),
    "no queue without its service": Bad("cleanup/unix", services={"cleanup/unix": None}, live=True),
    "no listener left": Bad("smtp/inet", services={"smtp/inet": None}),
    "a listener without its certificate": overridden(smtpd_tls_cert_file="/srv/nope.crt"),
    "a listener with an unknown TLS level": overridden(smtpd_tls_security_level="sometimes"),
    "a listener with a bad time": overridden(smtpd_timeout="5 minutes"),
    "a misspelt override": overridden(smtpd_tls_security_levle="encrypt"),
    "a misspelt parameter": parameter("smtpd_bannr", "x"),
    "a line break": parameter("smtpd_banner", "x\nrelayhost = example.org"),
    "two good parameters and a bad one": Bad(
        "smtpd_timeout", {"smtpd_helo_required": True, "smtpd_timeout": "5x", "message_size_limit": 52428800}
    ),
    "two listeners and one of them bad": Bad(
        OTHER_PORT,
        services={
            "127.0.0.1:2526/inet": SUBMISSION,
            OTHER_PORT: {**SUBMISSION, "overrides": {"smtpd_sasl_type": "courier"}},
        },
    ),
}
SETTINGS = {**MEASURED, **OTHERS}
SEED = int(os.environ.get("POSTFIX_MTA_SEED") or random.randrange(10**6))
TRIED = random.Random(SEED).sample(
    sorted(SETTINGS), min(len(SETTINGS), int(os.environ.get("POSTFIX_MTA_SETTINGS", "20")))
)


class Client:
    """The client on the host, and what it has seen."""

    def __init__(self, container):
        self.container = container
        container.copy(CLIENT, "/srv/client.py")
        container.exec(f"setsid python3 /srv/client.py {CLIENT_LOG} >/dev/null 2>&1 </dev/null &")

    def seen(self, since):
        """``[(began, ended, outcome)]`` of the connections that ended after ``since``, Unix time."""
        # Until the client has begun there is no file.
        lines = self.container.exec(["tail", "-n", "600", CLIENT_LOG], check=False).stdout.splitlines()
        found = []
        for line in lines:
            began, ended, outcome = line.split(" ", 2)
            if float(ended) >= since:
                found.append((float(began), float(ended), outcome))
        return found

    def is_served(self, since, timeout=5):
        """Whether a connection that began after ``since`` has been served, within ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if any(began > since and outcome == "served" for began, _, outcome in self.seen(since)):
                return True
            time.sleep(0.1)
        return False


@pytest.fixture(scope="module")
def client(container):
    """A client that has begun to connect."""
    container.exec(PREPARATION)
    return Client(container)


@pytest.fixture
def healthy(container, client):
    """A healthy server before, and after a test that has left another one."""
    before = container.exec(SNAPSHOT).stdout
    yield before
    if container.exec(SNAPSHOT).stdout != before:
        container.exec("rm -r /etc/postfix && cp -a /srv/postfix /etc/ && systemctl restart postfix")
        container.apply(pillar={"postfix_mta": GUIDE})


@pytest.mark.parametrize("name", TRIED)
def test_a_bad_setting_changes_nothing(container, client, healthy, capsys, name):
    bad = SETTINGS[name]
    assert client.is_served(time.time())
    began = time.time()
    pillar = {**GUIDE, **bad.pillar, "parameters": bad.parameters, "services": bad.services}
    states = container.apply(pillar={"postfix_mta": pillar})
    ended = time.time()
    assert client.is_served(ended), "the server does not answer after the run"
    seen = client.seen(began)
    served = [one for one in seen if one[2] == "served"]
    gap = max(after[1] - before[1] for before, after in zip(served, served[1:]))
    lost = [one for one in seen if one[2] != "served"]
    comments = "\n".join(state["comment"] for state in results.failed(states).values())
    with capsys.disabled():
        taken = f"{ended - began:.1f} s, gap {gap:.2f} s, {len(lost)} of {len(seen)} connections lost"
        print(f"\nseed {SEED}, {name}: {taken}")
    assert comments, "no state failed"
    assert bad.culprit in comments
    assert not any(state["changes"] for state in results.failed(states).values())
    assert container.exec(SNAPSHOT).stdout == healthy
    if not bad.live:
        assert lost == [], f"not refused before the switch: {shlex.quote(comments)}"


def test_a_listener_that_becomes_another_program_undoes_the_apply(container, client, healthy):
    # The other listener answers: who asks only those that master.cf still has sees nothing.
    echo = {"chroot": False, "unprivileged": False, "command": "spawn", "arguments": ECHO}
    services = {"smtp/inet": echo, OTHER_PORT: SUBMISSION}
    states = container.apply(pillar={"postfix_mta": {**GUIDE, "services": services}})
    ended = time.time()
    comments = "\n".join(state["comment"] for state in results.failed(states).values())
    assert "127.0.0.1:25 (smtp/inet in master.cf) spoke SMTP before this apply and does not now" in comments
    assert "The server answers as it did before." in comments
    assert not any(state["changes"] for state in results.failed(states).values())
    assert client.is_served(ended)
    assert container.exec(SNAPSHOT).stdout == healthy


@pytest.mark.parametrize(
    "pillar",
    [
        {"services": {OTHER_PORT: None}},
        {"services": {OTHER_PORT: None, "127.0.0.1:2526/inet": SUBMISSION}},
        {"parameters": {"master_service_disable": "127.0.0.1:2525.inet"}},
        {"parameters": {"inet_interfaces": "loopback-only"}, "services": {OTHER_PORT: None}},
    ],
    ids=["null", "another port", "disabled", "null and loopback only"],
)
def test_a_listener_that_the_pillar_takes_out_goes(container, client, healthy, pillar):
    listens = "ss -Hltn 'sport = :2525'"
    states = container.apply(pillar={"postfix_mta": {**GUIDE, "services": {OTHER_PORT: SUBMISSION}}})
    assert results.failures(states) == []
    assert container.exec(listens).stdout
    states = container.apply(pillar={"postfix_mta": {**GUIDE, **pillar}})
    assert results.failures(states) == []
    assert not container.exec(listens).stdout
    assert client.is_served(time.time())


def test_a_listener_that_the_last_apply_brought_is_taken_back_with_it(container, client, healthy):
    states = container.apply(pillar={"postfix_mta": {**GUIDE, "services": {OTHER_PORT: SUBMISSION}}})
    assert results.failures(states) == []
    taken_back = container.call("mta_transaction.roll_back")
    assert taken_back["result"] is True, taken_back["comment"]
    assert "2525" not in container.exec("postconf -M").stdout
    assert client.is_served(time.time())


@pytest.mark.parametrize("end", ["", "\n# the last words"], ids=["a setting", "a comment"])
def test_files_whose_last_lines_have_no_end_get_new_lines(container, client, healthy, end):
    for name in ("main.cf", "master.cf"):
        file = f"/etc/postfix/{name}"
        container.exec(f"text=$(cat {file}) && printf '%s' \"$text{end}\" >{file}")
    pillar = {**GUIDE, "parameters": {"smtpd_helo_required": True}, "services": {OTHER_PORT: SUBMISSION}}
    predicted, done = (container.apply(test=test, pillar={"postfix_mta": pillar}) for test in (True, False))
    assert results.failures(predicted) == results.failures(done) == []
    changes = [
        next(state["changes"] for key, state in states.items() if key.startswith("postconf_|"))
        for states in (predicted, done)
    ]
    assert changes[0] == changes[1]
    assert set(changes[0]) == {"smtpd_helo_required", f"master.cf {OTHER_PORT}", "activation"}
    assert container.exec("postconf -h smtpd_helo_required").stdout == "yes\n"
    assert container.exec("ss -Hltn 'sport = :2525'").stdout
    comments = container.exec("cat /etc/postfix/main.cf /etc/postfix/master.cf").stdout.splitlines()
    assert comments.count("# the last words") == 2 * bool(end)
    assert not results.changed(container.apply(pillar={"postfix_mta": pillar}))


def test_a_good_setting_is_still_taken(container, client):
    for parameters in ({"smtpd_helo_required": True}, {}):
        states = container.apply(pillar={"postfix_mta": {**GUIDE, "parameters": parameters}})
        assert results.failures(states) == []
