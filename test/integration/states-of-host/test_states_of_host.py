"""
Whatever a host is like when the apply begins, a good pillar makes it a running server, and a bad one leaves it
as it was.
"""

import pytest

from rig.results import changed, difference, failures, other_items, state_of

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
    "the queue on another volume": """
        systemctl stop postfix 'postfix@*' saslauthd && cp -a /var/spool/postfix /root/queue
        mount -t tmpfs tmpfs /var/spool/postfix && cp -a /root/queue/. /var/spool/postfix
    """,
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


LOGIN = """
import smtplib
with smtplib.SMTP("127.0.0.1", 25, timeout=20) as client:
    client.starttls()
    try:
        client.login("nobody-of-that-name", "wrong")
    except smtplib.SMTPAuthenticationError as error:
        print(error)
"""
# A later sasl2-bin whose conffile is another one, with Ubuntu 24.04's unit, installed where nobody can be asked.
UPGRADE = """
set -e; cd $(mktemp -d); apt-get update -qq; apt-get download -qq sasl2-bin
dpkg-deb -R sasl2-bin_*.deb package; sed -i 's/^Version: .*/&+later/' package/DEBIAN/control
echo '# a later line' >>package/etc/default/saslauthd
sed -i /^Group=/d package/usr/lib/systemd/system/saslauthd.service; dpkg-deb -b package later.deb
DEBIAN_FRONTEND=noninteractive apt-get install -y -q ./later.deb </dev/null
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


def is_undone(results):
    """Assert that an apply failed in the conversation, and claims no change of the mail server."""
    committed = state_of(results, "postfix_mta_committed")
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


def test_an_upgrade_that_brings_another_conffile_of_saslauthd_asks_nothing(server):
    server.exec(UPGRADE)
    assert "# a later line" in server.exec("cat /etc/default/saslauthd").stdout
    assert not server.exec("systemctl show --property=Group --value saslauthd").stdout.strip()
    is_healthy(server)
    assert "(535," in server.exec(["python3", "-c", LOGIN]).stdout
    again = server.apply(pillar=GOOD)
    assert not failures(again) and not changed(again)


KEY, AUTHORITY = "/etc/ssl/private/smtpd.key", "/etc/ssl/private/cakey.pem"
# Files that the formula has made or changed, and what an administrator does to them later.
EDITS = {
    KEY: "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out {} 2>/dev/null",
    "/etc/aliases": "echo 'theirs: bob' >>{}",
    "/etc/default/postfix-mta-saslauthd": "echo '# theirs' >>{}",
    "/etc/postfix/sasl/smtpd.conf": "echo '# theirs' >>{}",
    "/etc/postfix/main.cf": "postconf -e 'smtpd_error_sleep_time = 3s' && : {}",
    "/etc/postfix/virtual": "echo theirs$(date +%N)@example.com bob >>{}",
}
ORIGINALS = "/var/lib/postfix_mta/originals"


QUEUE = {
    "postfix_mta": {
        "root_recipient": "alice",
        "parameters": {"queue_directory": "/srv/queue"},
        "dkim": {"domains": ["mail.example.com"]},
        "verify": {"login": {"username": "alice", "password": "not-in any#log"}},
    }
}
SOCKETS = "cd {} && ls -d var/run/saslauthd/mux postfix_mta_signer/milter private/smtp 2>/dev/null || true"
BY_LOGIN = """
import pathlib, smtplib, time
with smtplib.SMTP("127.0.0.1", 25, timeout=30) as client:
    client.starttls()
    client.login("alice", "not-in any#log")
    text = "From: alice\\nSubject: moved\\n\\nhello\\n"
    client.sendmail("alice@mail.example.com", ["root@mail.example.com"], text)
for _ in range(100):
    texts = [path.read_text() for path in pathlib.Path("/home/alice/Maildir/new").glob("*")]
    found = [text for text in texts if "Subject: moved" in text]
    if found:
        break
    time.sleep(0.2)
assert "DKIM-Signature" in found[0]
pathlib.Path("/home/alice/Maildir").rename(f"/home/alice/{time.time()}")
"""


def test_a_queue_elsewhere_has_all_sockets_in_it(new_container):
    server = new_container()
    assert failures(server.apply(pillar=GOOD)) == []
    server.exec("useradd --create-home alice; echo 'alice:not-in any#log' | chpasswd; install -d /srv/queue")
    all_of_them = "postfix_mta_signer/milter\nprivate/smtp\nvar/run/saslauthd/mux\n"
    assert failures(server.apply(pillar=QUEUE)) == []
    assert server.exec(SOCKETS.format("/srv/queue")).stdout == all_of_them
    server.exec(["python3", "-c", BY_LOGIN])
    assert not any(result["changes"] for result in server.apply().values())

    del QUEUE["postfix_mta"]["parameters"]
    announced = server.apply(pillar=QUEUE, test=True)
    results = server.apply()
    assert failures(results) == []
    assert {name for name, one in announced.items() if one["changes"]} == {
        name for name, one in results.items() if one["changes"]
    }
    assert server.exec(SOCKETS.format("/var/spool/postfix")).stdout == all_of_them
    assert "saslauthd" not in server.exec(SOCKETS.format("/srv/queue")).stdout
    server.exec(["python3", "-c", BY_LOGIN])


def edit(container, *paths):
    """Edit files as an administrator; their contents, owners and modes."""
    for path in paths:
        container.exec(EDITS[path].format(path))
    return as_they_are(container, paths)


def as_they_are(container, paths):
    return container.exec(["sh", "-c", 'sha256sum "$@"; stat -c "%n %U %G %a" "$@"', "sh", *paths]).stdout


def clean(container):
    """Clean up, which must succeed; what the state that puts files back did."""
    results = container.apply(sls="postfix_mta.clean")
    assert failures(results) == []
    return state_of(results, "postfix_mta_clean")


@pytest.fixture(scope="module")
def fresh(new_container):
    """Another host, with a file of somebody's: what was there before the one above's server would not work."""
    bare = new_container()
    bare.exec("mkdir -p /etc/postfix/sasl && echo '# before' >/etc/postfix/sasl/smtpd.conf")
    return bare


SMARTHOST = """
import socketserver
class Smarthost(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"220 sink\\r\\n")
        for line in self.rfile:
            self.wfile.write(b"250 ok\\r\\n")
socketserver.ThreadingTCPServer(("127.0.0.1", 2600), Smarthost).serve_forever()
"""


def test_on_a_bare_host_a_satellite_is_predicted_item_by_item(fresh):
    fresh.exec(["systemd-run", "--quiet", "--unit=smarthost", "python3", "-c", SMARTHOST])
    relay = {"host": "127.0.0.1", "port": 2600, "tls": "none"}
    satellite = {"profile": "satellite", "root_recipient": "admin@example.org", "relay": relay}
    prediction = fresh.apply(pillar={"postfix_mta": satellite}, test=True)
    reality = fresh.apply()
    assert not failures(prediction) + failures(reality)
    assert not difference(prediction, reality) + other_items(prediction, reality)
    assert not changed(fresh.apply())


@pytest.fixture
def managed(fresh):
    """A server in order, with a table; everything that was kept of the host before the first apply is there."""
    pillar = {"postfix_mta": {**GOOD["postfix_mta"], "aliases": {"made": "alice"}, "maps": {}}}
    pillar["postfix_mta"]["maps"] = {"virtual": {"entries": {"made@example.com": "alice"}}}
    assert failures(fresh.apply(pillar=pillar)) == []
    return fresh


def test_another_profile_leaves_what_an_administrator_has_set_since(managed):
    hardened = {"postfix_mta": {**GOOD["postfix_mta"], "profile": "hardened"}}
    assert failures(managed.apply(pillar=hardened)) == []
    assert managed.exec("postconf -h disable_vrfy_command smtpd_helo_required").stdout == "yes\nyes\n"
    managed.exec("postconf -e smtpd_helo_required=no")
    results = managed.apply(pillar=GOOD)
    assert failures(results) == []
    assert "smtpd_helo_required = no" in managed.exec("postconf -n").stdout
    assert (
        "somebody has changed it since: smtpd_helo_required" in state_of(results, "postfix_mta_config")["comment"]
    )
    assert "disable_vrfy_command" not in managed.exec("postconf -n").stdout


def test_a_table_that_is_asked_for_no_longer_stays_where_somebody_has_edited_it(managed):
    table = "/etc/postfix/virtual"
    before = edit(managed, table)
    results = managed.apply(pillar=GOOD)
    assert failures(results) == []
    assert f"{table} stays" in state_of(results, "postfix_mta_maps")["comment"]
    assert as_they_are(managed, [table]) == before


def test_a_clean_up_of_a_main_cf_that_was_edited_restores_what_the_formula_has_set(managed):
    edit(managed, "/etc/postfix/main.cf")
    predicted = state_of(managed.apply(sls="postfix_mta.clean", test=True), "postfix_mta_clean")
    done = clean(managed)
    assert done["changes"] == predicted["changes"]
    assert "/etc/postfix/main.cf stays, as somebody has changed it since the last apply" in done["comment"]
    assert "postconf.json" not in done["comment"]
    shown = managed.exec("postconf -n").stdout
    assert "smtpd_error_sleep_time = 3s" in shown
    assert not any(name in shown for name in ("smtpd_sasl_auth_enable", "message_size_limit", KEY))
    assert "made:" not in managed.exec("cat /etc/aliases").stdout
    assert managed.exec(f"ls {KEY}", check=False).stdout == ""
    assert services(managed) == ["enabled", "disabled", "Postfix runs"]
    assert not clean(managed)["changes"]
    managed.exec("postconf -X smtpd_error_sleep_time")


def test_a_clean_up_leaves_what_an_administrator_has_changed_since(managed):
    edit(managed, "/etc/aliases")
    paths = [path for path in EDITS if path not in ("/etc/postfix/main.cf", "/etc/aliases")]
    before = edit(managed, *paths)
    copies = managed.exec(f"cd {ORIGINALS} && grep -rlx '/etc/postfix/sasl/smtpd.conf' */path").stdout.split()
    contents = managed.exec(["cat", *(f"{ORIGINALS}/{copy[:4]}/content" for copy in copies)]).stdout
    done = clean(managed)
    assert as_they_are(managed, paths) == before
    for path in paths:
        assert f"{path} stays" in done["comment"]
        assert path not in done["changes"]
    aliases = managed.exec("cat /etc/aliases").stdout
    assert "/etc/aliases stays" in done["comment"] and "theirs: bob" in aliases and "made:" not in aliases
    # What nobody has changed is put back, and what was kept of the others stays.
    assert "smtpd_sasl_auth_enable" not in managed.exec("postconf -n").stdout
    assert managed.exec("ls /etc/ssl/certs/smtpd.crt", check=False).stdout == ""
    assert managed.exec("cat " + " ".join(f"{ORIGINALS}/{copy[:4]}/content" for copy in copies)).stdout == contents
    assert services(managed) == ["enabled", "disabled", "Postfix runs"]
    again = clean(managed)
    assert not again["changes"]
    assert f"{KEY} stays" in again["comment"]
    assert as_they_are(managed, paths) == before


def test_after_that_an_apply_makes_the_server_again(managed):
    """What the administrator had put where nothing was before comes back then."""
    is_healthy(managed)
    managed.exec(["openssl", "pkey", "-in", KEY, "-noout"])


def test_an_authority_s_private_key_outlives_everything(managed):
    key = managed.exec(["sha256sum", AUTHORITY]).stdout
    managed.call("mta_transaction.roll_back")
    done = clean(managed)
    assert "To remove it by hand: rm " in done["comment"]
    assert AUTHORITY in done["comment"].splitlines()[-1]
    assert managed.exec(["sha256sum", AUTHORITY]).stdout == key
