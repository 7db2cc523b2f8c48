"""What the how-to promises, on a host that one apply with the suite's pillar has made."""

import pathlib
import shlex

import pytest

GOLDEN = pathlib.Path(__file__).parent
FQDN = "mail.example.com"
PASSWORD = "correct horse; $battery"

LOGIN = """
import base64, smtplib, ssl, sys
user, password, mechanism, tls = sys.argv[1:]
client = smtplib.SMTP("127.0.0.1", 25, timeout=30)
client.ehlo("client.example.com")
if tls == "tls":
    client._host = "mail.example.com"
    client.starttls(context=ssl.create_default_context(cafile="/etc/ssl/certs/cacert.pem"))
    client.ehlo("client.example.com")
encode = lambda text: base64.b64encode(text.encode()).decode()
if mechanism == "PLAIN":
    code, text = client.docmd("AUTH", "PLAIN " + encode(f"\\0{user}\\0{password}"))
else:
    client.docmd("AUTH", "LOGIN")
    client.docmd(encode(user))
    code, text = client.docmd(encode(password))
if code == 235 and tls == "tls":
    client.sendmail("bob@example.org", ["alice@mail.example.com"], "Subject: by " + mechanism + "\\n\\nhello")
print(code, text.decode())
"""

STRANGER = """
import smtplib, sys
client = smtplib.SMTP(sys.argv[1], 25, timeout=30)
client.ehlo("stranger.example.org")
client.mail("someone@example.org")
print(client.rcpt("someone@example.net")[0])
"""

EHLO = """
import socket
connection = socket.create_connection(("127.0.0.1", 25), timeout=30)
stream = connection.makefile("rwb")
def reply():
    while True:
        line = stream.readline().decode()
        print(line.rstrip())
        if line[3:4] != "-":
            return
reply()
for command in ("EHLO localhost", "QUIT"):
    stream.write(command.encode() + b"\\r\\n")
    stream.flush()
    reply()
"""


def python(host, script, *args):
    """What a Python script prints inside the host."""
    return host.check_output(shlex.join(["python3", "-c", script, *args])).strip()


def normalised(value):
    """A list value without the spelling of its separators and without empty items."""
    return [item for item in value.replace(",", " ").split() if item]


def settings(text):
    """``postconf -n`` as a dictionary of normalised values."""
    pairs = (line.partition("=")[::2] for line in text.splitlines())
    return {name.strip(): normalised(value) for name, value in pairs}


@pytest.fixture(scope="module")
def mail_user(host):
    """The PAM user alice, who reads root's mail."""
    host.run("useradd --create-home --shell /bin/sh alice")
    host.check_output("printf %%s %s | chpasswd", f"alice:{PASSWORD}")
    yield "alice"
    host.run("userdel --remove alice")


def wait_for_mail(host, marker):
    """The content of the message in alice's Maildir that has ``marker`` in it."""
    script = (
        f"for i in $(seq 60); do grep -rlF '{marker}' /home/alice/Maildir/new && exit 0; sleep 0.5; done; exit 1"
    )
    found = host.run(script)
    assert found.rc == 0, host.check_output("postqueue -p; journalctl -q -n 30 SYSLOG_FACILITY=2 || true")
    return host.file(found.stdout.split()[0]).content_string


def test_ehlo_shows_what_the_how_to_shows(host):
    shown = python(host, EHLO).splitlines()
    golden = (GOLDEN / "debian-12.ehlo.txt").read_text().splitlines()
    if host.system_info.release == "12":
        assert shown == golden
    else:
        assert set(golden[1:-1]) <= {line.replace("250 ", "250-", 1) for line in shown} | set(shown)


def test_postconf_holds_every_value_of_the_how_to(host):
    shown = settings(host.check_output("postconf -n"))
    golden = settings((GOLDEN / "debian-12.postconf-n.txt").read_text())
    if host.system_info.release == "12":
        assert shown == golden
    else:
        by_package = {
            "compatibility_level",
            "smtp_tls_CApath",
            "smtpd_relay_restrictions",
            "readme_directory",
        }
        by_package |= {"smtp_tls_session_cache_database", "append_dot_mydomain", "biff", "smtpd_banner"}
        if host.system_info.codename == "forky":
            by_package |= {"alias_maps", "alias_database"}
        assert {name: shown.get(name) for name in golden.keys() - by_package} == {
            name: golden[name] for name in golden.keys() - by_package
        }


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize("tls", ["plain", "tls"])
def test_a_pam_user_logs_in(host, mail_user, mechanism, tls):
    assert python(host, LOGIN, mail_user, PASSWORD, mechanism, tls).startswith("235 ")


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_a_wrong_password_is_refused(host, mail_user, mechanism):
    assert python(host, LOGIN, mail_user, "wrong", mechanism, "tls").startswith("535 ")


def test_mail_sent_with_a_login_arrives_in_the_maildir(host, mail_user):
    python(host, LOGIN, mail_user, PASSWORD, "PLAIN", "tls")
    assert "Subject: by PLAIN" in wait_for_mail(host, "Subject: by PLAIN")


@pytest.mark.parametrize("recipient", ["root", "postmaster"])
def test_mail_for_root_and_postmaster_reaches_the_root_recipient(host, mail_user, recipient):
    host.check_output("printf 'Subject: for %s\\n\\nhello\\n' | sendmail %s", recipient, recipient)
    assert f"Subject: for {recipient}" in wait_for_mail(host, f"Subject: for {recipient}")


def test_a_strangers_mail_to_a_foreign_domain_is_refused(host):
    address = host.check_output("hostname -I").split()[0]
    assert python(host, STRANGER, address) in {"454", "550", "554"}


def test_openssl_verifies_the_chain_and_the_host_name(host):
    shown = host.run(
        "echo QUIT | openssl s_client -starttls smtp -connect 127.0.0.1:25 -CAfile /etc/ssl/certs/cacert.pem "
        "-verify_hostname %s -verify_return_error 2>&1",
        FQDN,
    ).stdout
    assert "Verify return code: 0 (ok)" in shown


def test_openssl_accepts_the_certificate_strictly(host):
    host.check_output(
        "openssl verify -purpose sslserver -x509_strict -CAfile /etc/ssl/certs/cacert.pem /etc/ssl/certs/smtpd.crt"
    )


@pytest.mark.parametrize("key", ["/etc/ssl/private/smtpd.key", "/etc/ssl/private/cakey.pem"])
def test_keys_are_readable_by_root_alone(host, key):
    assert host.file(key).user == "root"
    assert host.file(key).mode == 0o600


def test_services_are_enabled_and_running(host):
    for name in ("postfix", "saslauthd"):
        assert host.service(name).is_running
        assert host.service(name).is_enabled


def test_a_login_survives_a_restart_of_saslauthd(host, mail_user):
    host.check_output("systemctl restart saslauthd")
    assert python(host, LOGIN, mail_user, PASSWORD, "PLAIN", "plain").startswith("235 ")


def test_the_mail_name_is_the_host_name(host):
    assert host.file("/etc/mailname").content_string == f"{FQDN}\n"


def test_nothing_of_the_transaction_is_left(host):
    assert not host.file("/var/lib/postfix_mta/journal").exists
    assert not host.file("/etc/systemd/system/postfix-mta-recover.service").exists
