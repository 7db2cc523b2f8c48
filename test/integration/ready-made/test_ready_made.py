"""What is switched on by one line of pillar works, and is gone when it is switched off."""

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


def test_the_helper_prints_what_the_function_returns(server):
    parts = ("bin", "_modules", "_states", "postfix_mta")
    server.put({f"/srv/formula/{name}": REPOSITORY / name for name in parts})
    printed = server.exec(["/srv/formula/bin/export"]).stdout
    assert printed.strip() == server.call("postconf.export").strip()
    assert "  sasl:\n    enabled: true\n" in printed
    server.put({"/root/old.sls": "postfix: {config: {biff: 'no'}}\n"})
    assert "    biff: 'no'\n" in server.exec(["/srv/formula/bin/export", "--convert", "/root/old.sls"]).stdout
