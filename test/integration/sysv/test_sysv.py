"""bin/apply on a host where systemd is not PID 1: the how-to's audience, with sysv scripts."""

import pytest

from rig import REPOSITORY

REMOTE = "/root/a formula"
EXPECTED = ("220 mail.example.com ESMTP", "250-STARTTLS", "250-AUTH PLAIN LOGIN")


@pytest.fixture(scope="module")
def bare(new_container):
    """A host with Salt, without systemd as PID 1, and a clone of the repository in a path with a blank."""
    started = new_container(init="none", provision=False)
    started.put({f"{REMOTE}/{name}": REPOSITORY / name for name in ("_modules", "_states", "postfix_mta", "bin")})
    return started


def apply(host, *args):
    """Run bin/apply inside; its output, which must not be a failure."""
    return host.exec([f"{REMOTE}/bin/apply", *args]).stdout


def test_a_dry_run_changes_nothing(bare):
    apply(bare, "mail.example.com", "--test")
    assert bare.exec(["test", "-e", "/etc/postfix"], check=False).returncode


def test_one_command_makes_the_mail_server(bare):
    shown = apply(bare, "mail.example.com")
    for line in EXPECTED:
        assert line in shown
    assert bare.exec("pgrep -x master && pgrep -x saslauthd").stdout


def test_a_user_logs_in(bare):
    bare.exec("useradd --create-home alice && echo alice:secret | chpasswd")
    login = (
        "import smtplib; c = smtplib.SMTP('127.0.0.1'); c.login('alice', 'secret'); "
        "c.sendmail('x@example.org', ['alice@mail.example.com'], 'Subject: sysv\\n\\nhello')"
    )
    bare.exec(["python3", "-c", login])
    bare.exec(
        "for i in $(seq 60); do grep -rq 'Subject: sysv' /home/alice/Maildir/new && exit 0; sleep 1; done; exit 1"
    )


def test_the_daemons_start_at_boot(bare):
    for name in ("postfix", "saslauthd"):
        assert bare.exec(f"ls /etc/rc2.d/S*{name}").stdout


def test_a_second_run_changes_nothing(bare):
    before = bare.exec("find /etc -type f -exec sha256sum {} + | sort").stdout
    apply(bare, "mail.example.com")
    assert bare.exec("find /etc -type f -exec sha256sum {} + | sort").stdout == before


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ((), "usage"),
        (("mail",), "mail"),
        (("mail.example.com", "--pillar", "/nowhere"), "/nowhere"),
        (("mail.example.com; reboot",), "reboot"),
    ],
)
def test_bad_arguments_are_refused_with_a_reason(bare, args, expected):
    done = bare.exec([f"{REMOTE}/bin/apply", *args], check=False)
    assert done.returncode
    assert expected in (done.stdout + done.stderr).lower()
