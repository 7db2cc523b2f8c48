"""
A server that faces the internet: what an attacker tries is refused, and all real mail comes through.

Clients have addresses of their own on the host, for postscreen and the limits know clients by their address. An
environment variable says how many passwords are guessed: POSTFIX_MTA_TEST_GUESSES.
"""

import base64
import json
import os
import pathlib
import re
import smtplib
import subprocess
import sys
import time

import pytest

from rig import REPOSITORY, results

CLIENT, WATCH = (pathlib.Path(__file__).with_name(name) for name in ("client.py", "watch.py"))
STRANGER, BOT, GUESSER, HURRIED, USER = (f"198.51.100.{number}" for number in (1, 2, 3, 4, 5))
EHLO = "EHLO client.example\r\n"
ALICE = "alice@mail.example.com"
RIGHT, WRONG = "right-password", "wrong-password"
GUESSES = int(os.environ.get("POSTFIX_MTA_TEST_GUESSES", "60"))
PILLAR = {"profile": "hardened", "root_recipient": "alice"}


def plain(password):
    return base64.b64encode(f"\0alice\0{password}".encode()).decode()


@pytest.fixture(scope="module")
def own(container, convergence):
    """The host's own address, clients' addresses, a user, and the programs that send mail."""
    container.exec("useradd --create-home alice")
    container.exec("chpasswd", input=f"alice:{RIGHT}\n")
    for address in (STRANGER, BOT, GUESSER, HURRIED, USER):
        container.exec(["ip", "address", "add", f"{address}/32", "dev", "lo"])
    # No waiting for a DNS that is not there: every client has a name, and so has this server for users' programs.
    gateway = container.exec("ip route | awk '/^default/ {print $3}'").stdout.strip()
    names = "".join(f"{one} client.example\n" for one in (STRANGER, BOT, GUESSER, HURRIED, USER, gateway))
    container.exec(
        "tee -a /etc/hosts > /dev/null && cp /etc/hosts /var/spool/postfix/etc/hosts",
        input=f"{container.ip} mail.example.com\n{names}",
    )
    container.copy(CLIENT, "/root/client.py")
    container.exec(
        "export DEBIAN_FRONTEND=noninteractive; apt-get -qq update &&"
        " apt-get -qq -y install --no-install-recommends swaks curl msmtp libnet-ssleay-perl"
        " fail2ban python3-systemd nftables"
    )
    return container.ip


@pytest.fixture(scope="module")
def talk(container, own):
    """Hold conversations, all at once; the replies of each. One conversation: its replies alone."""

    def hold(*conversations, **one):
        asked = [
            {"source": STRANGER, "host": own, "port": 25, **each}
            for each in (*conversations, *([one] * bool(one)))
        ]
        done = container.exec(["python3", "/root/client.py"], input=json.dumps(asked), timeout=1800)
        heard = json.loads(done.stdout)
        return heard[0] if one else heard

    return hold


@pytest.fixture
def inbox(container, own):
    """Wait for a text in a message of alice's; return that message's path."""

    def wait(text):
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            found = container.exec(["grep", "-rlF", text, "/home/alice/Maildir/new"], check=False).stdout.split()
            if found:
                return found[0]
            time.sleep(0.2)
        raise AssertionError(f"no mail with {text}: {container.exec('mailq').stdout}")

    return wait


def log(container):
    """What the daemons logged, as fail2ban would read it from a file."""
    return container.exec("journalctl --no-pager -o short -t postfix/smtpd -t postfix/postscreen"
                          " -t postfix/submission/smtpd -t postfix/submissions/smtpd").stdout  # fmt: skip


class TestWhatIsOffered:
    def test_port_25_has_no_auth_before_or_under_tls(self, talk):
        clear, secured = talk({"send": [EHLO]}, {"tls": "starttls", "send": [EHLO]})
        assert "STARTTLS" in clear[1]
        assert "AUTH" not in clear[1] + secured[1]
        for wanted in ("PIPELINING", "8BITMIME", "SMTPUTF8", "CHUNKING", "SIZE 52428800"):
            assert wanted in secured[1]
        assert "ETRN" not in clear[1] and "VRFY" not in clear[1]

    def test_reports_of_delivery_are_for_users(self, talk):
        mail = ["MAIL FROM:<forged@example.org>\r\n", f"RCPT TO:<{ALICE}> NOTIFY=SUCCESS\r\n"]
        stranger, user = talk(
            {"tls": "starttls", "send": [EHLO, *mail]}, {"port": 587, "tls": "starttls", "send": [EHLO]}
        )
        assert "DSN" not in stranger[1] and stranger[3].startswith("501"), stranger
        assert "DSN" in user[1]

    def test_port_587_has_auth_only_after_starttls(self, talk):
        clear, secured = talk({"port": 587, "send": [EHLO]}, {"port": 587, "tls": "starttls", "send": [EHLO]})
        assert "AUTH" not in clear[1]
        assert "AUTH PLAIN LOGIN" in secured[1]

    def test_port_465_has_auth(self, talk):
        assert "AUTH PLAIN LOGIN" in talk(port=465, tls="implicit", send=[EHLO])[1]

    def test_a_login_before_tls_is_refused(self, talk):
        for port in (25, 587):
            heard = talk(port=port, send=[EHLO, f"AUTH PLAIN {plain(RIGHT)}\r\n"])
            assert re.match("5(03|30)", heard[2]), heard

    def test_the_greeting_tells_nothing_but_the_name(self, talk):
        heard = talk({"send": []}, {"port": 587, "send": []}, {"port": 465, "tls": "implicit", "send": []})
        assert [one[0] for one in heard] == ["220 mail.example.com ESMTP"] * 3

    def test_vrfy_expn_and_etrn_are_refused(self, talk):
        heard = talk(send=[EHLO, "VRFY alice\r\n", "EXPN root\r\n", "ETRN mail.example.com\r\n"])
        assert all(one.startswith("5") for one in heard[2:5]), heard

    def test_the_socket_directory_is_for_root_and_postfix(self, host):
        directory = host.file("/var/spool/postfix/var/run/saslauthd")
        assert (directory.user, directory.group, directory.mode) == ("root", "sasl", 0o710)
        assert "postfix" in host.group("sasl").members


@pytest.fixture(scope="module")
def sslyze(tmp_path_factory):
    """sslyze in an environment of its own."""
    directory = tmp_path_factory.mktemp("sslyze")
    subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    pip = [directory / "bin/pip", "install", "--disable-pip-version-check", "-qq", "sslyze"]
    subprocess.run(pip, check=True, capture_output=True)
    return [str(directory / "bin/python"), "-m", "sslyze"]


@pytest.fixture
def scannable(container, own):
    """The scan's hundreds of connections are not limited meanwhile."""
    name = "smtpd_client_event_limit_exceptions"
    container.exec(f"postconf -e '{name} = 0.0.0.0/0' && postfix reload")
    # postscreen takes longer over a new client than sslyze waits.
    with smtplib.SMTP(own, 25, timeout=30) as scanner:
        scanner.noop()
    yield own
    container.exec(f"postconf -X {name} && postfix reload")


class TestTls:
    def test_a_scan_meets_mozilla_s_intermediate_profile(self, scannable, sslyze, container, tmp_path):
        (tmp_path / "ca.pem").write_text(container.exec("cat /etc/ssl/certs/cacert.pem").stdout)
        argv = [
            *sslyze,
            "--mozilla_config=intermediate",
            f"--certinfo_ca_file={tmp_path}/ca.pem",
            "--starttls=auto",
        ]
        targets = [f"mail.example.com:{port}{{{scannable}}}" for port in (25, 587, 465)]
        scan = subprocess.run([*argv, *targets], capture_output=True, text=True, timeout=300, check=False)
        assert scan.stdout.count("OK - Compliant") == 3, scan.stdout + scan.stderr
        assert scan.returncode == 0

    def test_both_certificates_are_served(self, container, own):
        for kind, key in (("aRSA", "rsaEncryption"), ("aECDSA", "id-ecPublicKey")):
            shown = container.exec(
                f"openssl s_client -connect {own}:465 -tls1_2 -cipher {kind} </dev/null 2>/dev/null"
                " | openssl x509 -noout -text"
            ).stdout
            assert key in shown

    def test_nobody_renegotiates(self, container, own):
        shown = container.exec(
            f"(sleep 1; echo R; sleep 1) | openssl s_client -connect {own}:465 -tls1_2 2>&1", check=False
        ).stdout
        assert "RENEGOTIATING" in shown
        assert "no renegotiation" in shown


RELAYS = [
    ("", "victim@example.net"),
    ("spammer@example.org", "victim@example.net"),
    ("alice@mail.example.com", "victim@example.net"),
    ("postmaster", "victim@example.net"),
    ("spammer@localhost", "victim@example.net"),
    ("spammer@[127.0.0.1]", "victim@example.net"),
    ("spammer@example.org", "victim@[192.0.2.1]"),
    ("spammer@example.org", "victim@[IPv6:2001:db8::1]"),
    ("spammer@example.org", "victim%example.net@mail.example.com"),
    ("spammer@example.org", "victim%example.net"),
    ("spammer@example.org", "victim%example.net@localhost"),
    ("spammer@example.org", "victim%example.net@[127.0.0.1]"),
    ("spammer@example.org", "@mail.example.com:victim@example.net"),
    ("spammer@example.org", "@mail.example.com,@localhost:victim@example.net"),
    ("spammer@example.org", "example.net!victim"),
    ("spammer@example.org", "example.net!victim@mail.example.com"),
    ("spammer@example.org", "mail.example.com!example.net!victim"),
    ("spammer@example.org", '"victim@example.net"'),
    ("spammer@example.org", '"victim@example.net"@mail.example.com'),
    ("spammer@example.org", '"victim%example.net"@mail.example.com'),
    ("spammer@example.org", "victim@example.net@mail.example.com"),
    ("spammer@example.org", "victim@mail.example.com@example.net"),
    ("spammer@example.org", "victim@example.net."),
    ("spammer@example.org", "victim@sub.mail.example.com"),
    ("spammer@example.org", "victim@example.com"),
    ("alice+x@mail.example.com", "victim%example.net%localhost@mail.example.com"),
    ("<spammer@example.org", "victim@example.net,alice@mail.example.com"),
]


class TestAttacks:
    def test_no_kind_of_relaying_is_let_through(self, container, talk):
        assert len(RELAYS) >= 25
        asked = [
            {"port": port, "tls": tls, "send": [EHLO, f"MAIL FROM:<{sender}>\r\n", f"RCPT TO:<{recipient}>\r\n"]}
            for port, tls in ((25, None), (587, "starttls"))
            for sender, recipient in RELAYS[:: 1 if port == 25 else 9]
        ]
        for one, heard in zip(asked, talk(*asked)):
            assert heard[1].startswith("250"), heard
            refused = [text for text in heard[2:4] if text and re.match("[45]", text)]
            assert refused, (one, heard)
        assert "example.net" not in container.exec("mailq").stdout

    ENDS = (
        "\n.\n",
        "\n.\r\n",
        "\r\n.\n",
        "\r.\r",
        "\r.\r\n",
        "\n.\r",
        "\r\n.\r",
        "\r\n\0.\r\n",
        "\n\n.\n",
        "\r\n.\r\r\n",
    )

    def smuggled(self, talk, container, ends=ENDS):
        """Which of the ways to end a message early get a second message in."""
        asked = []
        for number, end in enumerate(ends):
            inner = f"MAIL FROM:<smuggler@example.org>\r\nRCPT TO:<{ALICE}>\r\nDATA\r\n"
            message = f"Subject: outer-{number}\r\n\r\ntext{end}{inner}Subject: inner-{number}\r\n\r\nx\r\n.\r\n"
            asked.append(
                {
                    "send": [
                        EHLO,
                        "MAIL FROM:<sender@example.org>\r\n",
                        f"RCPT TO:<{ALICE}>\r\n",
                        "DATA\r\n",
                        message,
                        "QUIT\r\n",
                    ]
                }
            )
        assert all(heard[4].startswith("354") for heard in talk(*asked))
        container.exec(
            "postqueue -f; for i in $(seq 50); do mailq | grep -q 'queue is empty' && exit; sleep 0.2; done"
        )
        found = container.exec("grep -rl '^Return-Path: <smuggler@' /home/alice/Maildir/new", check=False)
        return found.stdout.split()

    def test_no_message_is_smuggled_in(self, talk, container):
        assert self.smuggled(talk, container) == []

    def test_commands_before_their_time_are_refused(self, talk):
        heard = talk(linger=1, send=[f"{EHLO}MAIL FROM:<a@example.org>\r\nRCPT TO:<{ALICE}>\r\nDATA\r\n"])
        assert not any("354" in text for text in [heard[1] or "", *heard[-1]])
        assert "554 5.5.0" in str(heard) or heard[1] is None

    def test_commands_behind_starttls_are_not_obeyed_under_tls(self, talk):
        heard = talk(linger=1, send=[EHLO, "STARTTLS\r\nMAIL FROM:<a@example.org>\r\n"])
        assert "250 2.1.0" not in str(heard)

    def test_who_talks_before_the_greeting_is_sent_away(self, talk, container):
        heard = talk(source=BOT, early=EHLO, send=["MAIL FROM:<a@example.org>\r\n"])
        assert "250" not in str(heard[1:]), heard
        assert re.search(rf"PREGREET \d+ after .* from \[{BOT}\]", log(container))


# Programs that people send with. {name} is in the subject.
SENDERS = {
    "swaks 587": "swaks --server mail.example.com:587 --tls-verify --tls-ca-path {ca} --tls --auth PLAIN"
    " --auth-user alice --auth-password {password} --from {alice} --to {alice} --header 'Subject: by-{name}'",
    "swaks 465": "swaks --server mail.example.com:465 --tlsc --auth LOGIN --auth-user alice"
    " --auth-password {password} --from {alice} --to {alice} --header 'Subject: by-{name}'",
    "curl 587": "printf 'Subject: by-{name}\\r\\n\\r\\nx\\r\\n' | curl -sS --ssl-reqd --cacert {ca}"
    " --resolve mail.example.com:587:{ip} smtp://mail.example.com:587 --user alice:{password}"
    " --mail-from {alice} --mail-rcpt {alice} --upload-file -",
    "curl 465": "printf 'Subject: by-{name}\\r\\n\\r\\nx\\r\\n' | curl -sS --cacert {ca}"
    " --resolve mail.example.com:465:{ip} smtps://mail.example.com:465 --user alice:{password}"
    " --mail-from {alice} --mail-rcpt {alice} --upload-file -",
    "msmtp 587": "printf 'Subject: by-{name}\\n\\nx\\n' | msmtp --host=mail.example.com --port=587 --tls=on"
    " --tls-trust-file={ca} --auth=plain --user=alice --passwordeval='echo {password}' --from={alice} {alice}",
    "msmtp 465": "printf 'Subject: by-{name}\\n\\nx\\n' | msmtp --host=mail.example.com --port=465 --tls=on"
    " --tls-starttls=off --tls-trust-file={ca} --auth=login --user=alice --passwordeval='echo {password}'"
    " --from={alice} {alice}",
    "smtplib 587": "python3 -c \"import smtplib, ssl; c = smtplib.SMTP('mail.example.com', 587);"
    " c.starttls(context=ssl.create_default_context(cafile='{ca}')); c.login('alice', '{password}');"
    " c.sendmail('{alice}', ['{alice}'], 'Subject: by-{name}\\n\\nx')\"",
    "smtplib 465": "python3 -c \"import smtplib, ssl; c = smtplib.SMTP_SSL('mail.example.com', 465,"
    " context=ssl.create_default_context(cafile='{ca}')); c.login('alice', '{password}');"
    " c.sendmail('{alice}', ['{alice}'], 'Subject: by-{name}\\n\\nx')\"",
}


class TestRealMail:
    @pytest.mark.parametrize(
        "name", ["client.example", "[198.51.100.1]", "[IPv6:2001:db8::1]", "mailhost", "my_pc.lan"]
    )
    def test_a_helo_that_cannot_be_verified_is_taken(self, talk, name):
        heard = talk(send=[f"EHLO {name}\r\n", "MAIL FROM:<a@example.org>\r\n", f"RCPT TO:<{ALICE}>\r\n"])
        assert heard[3].startswith("250"), heard

    @pytest.mark.parametrize("name", ["", "-", "!!", "[300.1.1.1]"])
    def test_a_helo_that_is_none_is_not(self, talk, name):
        heard = talk(send=[f"HELO {name}\r\n", "MAIL FROM:<a@example.org>\r\n", f"RCPT TO:<{ALICE}>\r\n"])
        assert not heard[3].startswith("250"), heard

    def test_the_postmaster_is_reached_without_a_domain(self, talk):
        heard = talk(send=[EHLO, "MAIL FROM:<>\r\n", "RCPT TO:<postmaster>\r\n"])
        assert heard[3].startswith("250"), heard

    def test_pipelining(self, talk, inbox):
        group = f"MAIL FROM:<a@example.org>\r\nRCPT TO:<{ALICE}>\r\nDATA\r\n"
        heard = talk(send=[EHLO, group, "", "", "Subject: piped-mail\r\n\r\nhello\r\n.\r\n", "QUIT\r\n"])
        assert [one[:3] for one in heard[2:6]] == ["250", "250", "354", "250"], heard
        inbox("piped-mail")

    def test_chunking_8bitmime_and_smtputf8(self, talk, inbox):
        message = "Subject: chunked-mail grüße\r\n\r\nübrigens\r\n".encode().decode("latin-1")
        sender = "jörg@exämple.org".encode().decode("latin-1")
        halves = message[:9], message[9:]
        chunks = [f"BDAT {len(half)}{last}\r\n{half}" for half, last in zip(halves, ("", " LAST"))]
        mail = f"MAIL FROM:<{sender}> BODY=8BITMIME SMTPUTF8\r\n"
        heard = talk(send=[EHLO, mail, f"RCPT TO:<{ALICE}>\r\n", *chunks, "QUIT\r\n"])
        assert [one[:3] for one in heard[2:6]] == ["250"] * 4, heard
        inbox("chunked-mail")

    def test_a_large_message_passes_and_one_that_is_too_large_is_told_so_at_once(self, talk, inbox, container):
        container.exec(
            "(printf 'Subject: large-mail\\r\\n\\r\\n'; yes \"$(printf '%076d\\r')\" | head -c 47000000;"
            " printf '\\r\\n.\\r\\n') > /root/large"
        )
        envelope = ["MAIL FROM:<a@example.org> SIZE=47000100\r\n", f"RCPT TO:<{ALICE}>\r\n", "DATA\r\n"]
        heard = talk(send=[EHLO, *envelope, "@/root/large", "QUIT\r\n"])
        assert heard[5].startswith("250"), heard
        inbox("large-mail")
        refused = talk(send=[EHLO, "MAIL FROM:<a@example.org> SIZE=60000000\r\n"])
        assert refused[2].startswith("552"), refused

    @pytest.mark.parametrize("sender", SENDERS)
    def test_a_user_s_program_sends(self, container, own, inbox, sender):
        name = sender.replace(" ", "-")
        facts = {"ip": own, "ca": "/etc/ssl/certs/cacert.pem", "alice": ALICE, "name": name}
        container.exec(SENDERS[sender].format(password=RIGHT, **facts))
        inbox(f"by-{name}")
        assert container.exec(SENDERS[sender].format(password=WRONG, **facts), check=False).returncode


class TestSenders:
    def test_a_user_sends_in_his_own_name(self, container, talk):
        login = f"AUTH PLAIN {plain(RIGHT)}\r\n"
        senders = {
            **{ALICE: "250", "alice+list@localhost": "250", "": "250"},
            # /etc/aliases has postmaster to root; root's is alice's by the pillar.
            **{"postmaster@mail.example.com": "250", "root@mail.example.com": "250", "Sales@localhost": "250"},
            **{"bob@mail.example.com": "553", "alice@example.org": "553", "bob": "553"},
        }
        container.exec("printf 'sales: alice, bob\n' >> /etc/aliases && newaliases")
        asked = [[f"MAIL FROM:<{sender}>\r\n", f"RCPT TO:<{ALICE}>\r\n", "RSET\r\n"] for sender in senders]
        heard = talk(port=587, tls="starttls", send=[EHLO, login, *[line for one in asked for line in one]])
        assert heard[2].startswith("235"), heard
        assert dict(zip(senders, [reply[:3] for reply in heard[4::3]])) == senders, heard
        assert "Sender address rejected: not owned by user alice" in log(container)

    def test_the_log_says_how_mail_went_out(self, container):
        assert container.exec("postconf -h smtp_tls_loglevel").stdout == "1\n"


class TestLimits:
    def test_connections_of_one_client_are_limited(self, talk):
        heard = talk({"source": HURRIED, "port": 587, "send": ["NOOP\r\n"], "repeat": 80})
        greetings = [one[0][:3] for one in heard]
        assert greetings.count("220") <= 60
        assert greetings.count("421") >= 20

    def test_guesses_are_slowed_and_fail2ban_s_stock_filter_reads_them(self, talk, container):
        begin = time.monotonic()
        guess = f"AUTH PLAIN {plain(WRONG)}\r\n"
        heard = talk(
            {
                "source": GUESSER,
                "port": 465,
                "tls": "implicit",
                "send": [EHLO, *[guess] * 5],
                "repeat": GUESSES // 5,
            }
        )
        seconds = time.monotonic() - begin
        said = [str(text)[:3] for one in heard for text in one[2:-1]]
        tested = said.count("535")
        print(f"{GUESSES} guesses in {seconds:.0f} s: {tested} were tested, {said.count('450')} put off")
        assert "235" not in said
        assert 0 < tested <= 20 * (seconds // 60 + 2)
        # Somebody else is not locked out.
        user = talk(source=USER, port=587, tls="starttls", send=[EHLO, f"AUTH PLAIN {plain(RIGHT)}\r\n"])
        assert user[2].startswith("235"), user
        container.put({"/root/mail.log": log(container)})
        shown = container.exec(
            "fail2ban-regex --print-all-matched /root/mail.log 'postfix[mode=auth]'", check=False
        ).stdout
        matched = [line for line in shown.splitlines() if "authentication failed" in line and GUESSER in line]
        assert len(matched) == tested, shown

    def test_fail2ban_locks_a_guesser_out_by_the_jail_of_the_page(self, talk, container):
        page = (REPOSITORY / "docs" / "fail2ban.md").read_text()
        (jail,) = re.findall("```ini\n(.*?)```", page, re.DOTALL)
        container.put({"/etc/fail2ban/jail.d/postfix.local": jail})
        # The package enables a jail for an sshd that is not here.
        container.exec("rm -f /etc/fail2ban/jail.d/defaults-debian.conf; systemctl restart fail2ban")
        deadline, shown = time.monotonic() + 30, ""
        while GUESSER not in shown and time.monotonic() < deadline:
            time.sleep(0.5)
            shown = container.exec("fail2ban-client get postfix-sasl banip", check=False).stdout
        assert shown.split() == [GUESSER], container.exec("fail2ban-client status postfix-sasl").stdout
        assert GUESSER in container.exec("nft list ruleset").stdout
        container.exec("systemctl stop fail2ban")


class TestAudit:
    def test_there_is_nothing_that_matters_about_a_hardened_server(self, container, own):
        (told,) = container.call("state.single", "mta_probe.audited", "audit", severity="low").values()
        assert (told["result"], told["comment"]) == (True, "No weakness of severity low or worse.")


class TestProfiles:
    """To the how-to's profile and back: each apply converges, and nothing is left of the other one."""

    HOWTO = (
        "auth-in-clear",
        "auth-at-port-25",
        "smtpd_client_auth_rate_limit",
        "smtpd_client_connection_rate_limit",
        "open-to-all /var/spool/postfix/var/run/saslauthd",
        "disable_vrfy_command",
        "any-sender smtp/inet",
        "reports-for-strangers",
        "smtp_tls_loglevel",
    )

    def everything(self, container):
        """What the two profiles differ in, on disk."""
        shown = container.exec(
            "postconf -n | sort; postconf -M; stat -c '%n %U:%G %a' /var/spool/postfix/var/run/saslauthd;"
            " find /etc/postfix /etc/ssl/private /etc/ssl/certs -type f | sort; getent group sasl"
        )
        return shown.stdout.splitlines()

    def apply(self, container, profile):
        """Apply a profile twice, as a dry run has foretold; the second time changes nothing."""
        container.set_pillar({"postfix_mta": {**PILLAR, "profile": profile}})
        announced = container.apply(test=True)
        done = container.apply()
        assert results.failures(done) == []
        assert results.difference(announced, done) == []
        second = container.apply()
        assert results.failures(second) == []
        assert {key: second[key]["changes"] for key in results.announced(second)} == {}

    def test_guide_and_back_leaves_nothing_over(self, container, own, talk, platform_name):
        hardened = self.everything(container)
        self.apply(container, "guide")
        guide = self.everything(container)
        names = {line.split(" ")[0] for line in guide}
        assert "smtpd_banner" in names and "postscreen_greet_action" not in names
        assert not any("submission" in line for line in guide)
        # Nor the second pair, the files that hold key and certificate in one, and a membership that nobody needs.
        files = [line for line in guide if line.startswith("/etc/ssl/") and "snakeoil" not in line]
        assert {pathlib.Path(file).name for file in files} == {
            *("ca-certificates.crt", "cacert.pem", "cakey.pem", "smtpd.crt", "smtpd.key"),
        }
        assert guide[-1].startswith("sasl:") and guide[-1].endswith(":")
        audit = container.call("mta_probe.audit")["findings"]
        for name in self.HOWTO:
            assert any(one["name"].startswith(name) for one in audit), (name, audit)
        if platform_name.startswith("debian-12"):
            # What the hardened server refuses works here: Postfix 3.7 takes <LF>.<LF> for an end.
            assert TestAttacks().smuggled(talk, container)
        self.apply(container, "hardened")
        assert self.everything(container) == hardened
        self.apply(container, "guide")
        assert self.everything(container) == guide

    @pytest.fixture
    def platform_name(self, instance):
        return instance.platform


class TestSecrets:
    """An apply on a minion of a master, with every secret set, at the log level that says most."""

    SECRETS = ("geheim-passphrase", "geheim-former", "geheim-entry", "geheim-all", RIGHT)

    @pytest.fixture
    def minion(self, container, own):
        """A running master for ``salt-call``; every secret is in its pillar."""
        root = f"/{container.root}srv".replace("//", "/")
        roots = f"file_roots: {{base: [{root}/salt]}}\npillar_roots: {{base: [{root}/pillar]}}\n"
        container.put(
            {
                "/etc/salt-pair/master": f"{roots}auto_accept: true\n",
                "/etc/salt-pair/minion": "master: 127.0.0.1\nid: mail.example.com\n",
                "/srv/words": "\n".join(self.SECRETS),
                "/srv/watch.py": WATCH,
            }
        )
        passphrase, former, entry, whole, password = self.SECRETS
        pillar = {
            **PILLAR,
            "certificate": {"ca": {"passphrase": passphrase, "previous_passphrase": former}},
            "verify": {"login": {"username": "alice", "password": password}},
            "maps": {
                "logins": {"entries": {"[smtp.example.net]:587": {"secret": f"alice:{entry}"}}},
                "others": {"secret": True, "entries": {"x@example.com": whole}},
            },
        }
        container.set_pillar({"postfix_mta": pillar})
        for unit, argv in (
            ("salt-master-secrets", ["/usr/local/bin/salt-master", "--config-dir=/etc/salt-pair"]),
            ("watch-secrets", ["python3", "/srv/watch.py", "/srv/words", "/srv/watched"]),
        ):
            container.exec(["systemd-run", f"--unit={unit}", "--service-type=exec", *argv])
        yield ["salt-call", "--config-dir=/etc/salt-pair"]
        container.exec("systemctl stop salt-master-secrets")

    def test_no_secret_is_shown(self, container, minion):
        log_all = ["--log-level=trace", "--log-file=/var/log/salt-secrets", "--log-file-level=all"]
        shown = container.exec([*minion, *log_all, "state.apply", "postfix_mta"])
        assert re.search(r"Succeeded: \d+ \(changed=\d+\)\nFailed: +0", shown.stdout), shown.stdout[-3000:]
        container.exec("systemctl stop watch-secrets; journalctl > /var/log/journal-secrets")
        said = shown.stdout + shown.stderr
        assert "[TRACE" in said
        assert [secret for secret in self.SECRETS if secret in said] == []
        # The master keeps pillars; the tables are what the secrets are for.
        found = container.exec(
            "grep -rlFf /srv/words /var/log /var/cache/salt/minion /var/cache/salt/master/jobs /etc /run /tmp"
            " /var/lib /var/spool/postfix 2>/dev/null",
            check=False,
        )
        tables = {
            path for path in found.stdout.split() if re.fullmatch(r"/etc/postfix/(logins|others)(\.\w+)?", path)
        }
        assert {*found.stdout.split()} == tables
        assert container.exec(["stat", "-c", "%a", *tables]).stdout.split() == ["600"] * len(tables)
        watched = container.exec("cat /srv/watched").stdout.split("\n")
        assert len(watched) == 1 and int(watched[0].split()[0]) > 20, watched
