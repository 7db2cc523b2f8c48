"""What is switched on by one line of pillar works, and is gone when it is switched off."""

import time

import pytest

from rig import REPOSITORY, results

TALK = """
import smtplib, ssl, sys
port = int(sys.argv[1])
context = ssl._create_unverified_context()
client = smtplib.SMTP_SSL("localhost", port, context=context) if port == 465 else smtplib.SMTP("localhost", port)
client.ehlo()
print("before", client.has_extn("auth"))
if port != 465:
    client.starttls(context=context)
    client.ehlo()
print("after", client.has_extn("auth"))
print("nobody", client.docmd("MAIL FROM:<>")[0], client.docmd("RCPT TO:<alice@mail.example.com>")[0])
client.rset()
if port != 25:
    client.login("alice", "secret")
    client.sendmail("alice@mail.example.com", ["alice@mail.example.com"], f"Subject: by {port}\\r\\n\\r\\nx\\r\\n")
    print("sent")
"""


@pytest.fixture(scope="module")
def server(container, convergence):
    """The host, and a user on it."""
    container.exec("useradd --create-home alice && echo alice:secret | chpasswd")
    return container


def test_the_conversation_covers_every_port(server):
    shown = next(state["comment"] for key, state in server.apply().items() if key.startswith("mta_probe_|"))
    for port in (25, 587, 465):
        assert f"127.0.0.1:{port}" in shown


@pytest.mark.parametrize("port", [587, 465])
def test_users_send_after_a_login_and_nobody_else_does(server, port):
    said = server.exec(["python3", "-c", TALK, str(port)]).stdout
    assert f"before {port == 465}\nafter True\n" in said
    assert "nobody 250 554" in said
    server.exec(
        f"for i in $(seq 50); do grep -qr 'Subject: by {port}' /home/alice/Maildir/new && break; sleep 0.1; done"
    )
    assert server.exec(f"grep -r 'Subject: by {port}' /home/alice/Maildir/new").stdout
    assert f"postfix/{'submissions' if port == 465 else 'submission'}/smtpd" in server.exec("journalctl -b").stdout


def test_port_25_takes_mail_and_no_logins(server):
    assert server.exec(["python3", "-c", TALK, "25"]).stdout == "before False\nafter False\nnobody 250 250\n"
    assert "postfix/postscreen" in server.exec("journalctl -b").stdout


def test_what_is_switched_off_is_gone(server, instance):
    settings = instance.provisioner["pillars"]["postfix_mta.sls"]["postfix_mta"]
    services = dict.fromkeys(settings["services"], False)
    off = server.apply(pillar={"postfix_mta": {**settings, "services": services}})
    assert not results.failures(off)
    shown = server.exec("postconf -M").stdout
    server.exec("mkdir /root/dist; cp /usr/share/postfix/master.cf.dist /root/dist/master.cf")
    server.exec("cp /etc/postfix/main.cf /root/dist")
    assert shown == server.exec("postconf -c /root/dist -M").stdout
    assert not results.changed(server.apply())


SENT = "/root/sent"


@pytest.fixture(scope="module")
def smarthost(server):
    """A smarthost that keeps what it gets: all of it, as text."""
    server.exec(f"mkdir -p {SENT}; systemd-run --unit=sink smtp-sink -u root -d {SENT}/m. 127.0.0.1:2600 10")
    yield lambda: server.exec(f"cat {SENT}/* 2>/dev/null", check=False).stdout
    server.exec("systemctl stop sink")


class TestHostsThatReceiveNothing:
    """Another profile in one line, and back again."""

    def configure(self, server, pillar):
        """A dry run and the apply, which does what it said, and then nothing."""
        told = server.apply(test=True, pillar={"postfix_mta": pillar})
        done = server.apply()
        assert not results.failures(done)
        assert results.changed(done) == results.changed(told)
        assert not results.changed(server.apply())

    def send(self, server, recipient, seen):
        """Send a message from this host; wait until it is where it should be."""
        server.exec(["sendmail", recipient], input=f"Subject: for {recipient}\n\nx\n")
        deadline = time.monotonic() + 20
        while f"Subject: for {recipient}" not in seen():
            assert time.monotonic() < deadline, server.exec("mailq; journalctl -b -n 20 -t postfix/smtp").stdout
            time.sleep(0.3)

    def listening(self, server):
        return {*server.exec("ss -Hltn sport = :25 | awk '{print $4}'").stdout.split()}

    def listens_to_itself_alone(self, server):
        return {"127.0.0.1:25"} <= self.listening(server) <= {"127.0.0.1:25", "[::1]:25"}

    def test_a_satellite_sends_everything_to_its_smarthost(self, server, smarthost):
        relay = {"host": "127.0.0.1", "port": 2600, "tls": "none"}
        self.configure(server, {"profile": "satellite", "root_recipient": "admin@example.org", "relay": relay})
        assert self.listens_to_itself_alone(server)
        assert not server.exec("pgrep -x saslauthd", check=False).stdout
        for recipient in ("root", "alice", "bob@example.net"):
            self.send(server, recipient, smarthost)
        text = smarthost()
        for recipient in ("admin@example.org", "alice@mail.example.com", "bob@example.net"):
            assert f"X-Rcpt-Args: <{recipient}>" in text
        assert "X-Rcpt-Args: <root" not in text

    def test_mail_of_a_local_host_stays_there(self, server, smarthost):
        self.configure(server, {"profile": "local_only", "root_recipient": "alice"})
        assert self.listens_to_itself_alone(server)
        self.send(server, "root", lambda: server.exec("cat /var/mail/alice", check=False).stdout)
        server.exec(["sendmail", "-f", "alice", "carol@example.net"], input="Subject: out\n\nx\n")
        log = lambda: server.exec("journalctl -b -t postfix/error").stdout  # noqa: E731
        deadline = time.monotonic() + 20
        while "this host sends no mail to others" not in log():
            assert time.monotonic() < deadline, log()
            time.sleep(0.3)
        assert "carol" not in smarthost()

    def test_the_former_profile_is_as_it_was(self, server, instance):
        self.configure(server, instance.provisioner["pillars"]["postfix_mta.sls"]["postfix_mta"])
        shown = server.exec("postconf -n").stdout
        assert "relayhost = \n" in shown.replace("relayhost =\n", "relayhost = \n")
        assert "mydestination = $myhostname, mail.example.com, localhost.example.com, localhost\n" in shown
        for name in ("local_transport", "virtual_alias_maps", "default_transport", "relay_transport"):
            assert f"\n{name} =" not in shown
        assert "0.0.0.0:25" in self.listening(server)


def test_the_helper_prints_what_the_function_returns(server):
    parts = ("bin", "_modules", "_states", "postfix_mta")
    server.put({f"/srv/formula/{name}": REPOSITORY / name for name in parts})
    printed = server.exec(["/srv/formula/bin/export"]).stdout
    assert printed.strip() == server.call("postconf.export").strip()
    assert "  sasl:\n    enabled: true\n" in printed
    server.put({"/root/old.sls": "postfix: {config: {biff: 'no'}}\n"})
    assert "    biff: 'no'\n" in server.exec(["/srv/formula/bin/export", "--convert", "/root/old.sls"]).stdout
