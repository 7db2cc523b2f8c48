"""
bin/apply on a host where systemd is not PID 1: the how-to's audience, with sysv scripts.

Each run is started where it should not be: in a directory with modules that somebody else has put there, with a
variable that points to them, and with a umask that would let everybody write.
"""

import json

import pytest

from rig import REPOSITORY

REMOTE = "/root/a formula"
EXPECTED = ("220 mail.example.com ESMTP", "250-STARTTLS", "250-AUTH PLAIN LOGIN")
HOSTILE = "/root/hostile"
MODULES = ("salt", "json", "site", "sitecustomize", "usercustomize", "argparse", "OpenSSL", "venv", "pip", "yaml")
VARIABLES = {"PYTHONPATH": HOSTILE, "PYTHONSTARTUP": f"{HOSTILE}/salt.py", "PYTHONHASHSEED": "7"}
START = f"cd {HOSTILE}; umask 000; " + "".join(f"export {name}={value}; " for name, value in VARIABLES.items())

# Starts a program and sends it a signal when a line of its output begins with some words; prints the exit code and
# what is left of the program.
INTERRUPT = """
import glob, json, os, signal, subprocess, sys, time
number, words, *argv = sys.argv[1:]
process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
private, output = [], []
for line in process.stdout:
    output.append(line)
    if words and " ".join(line.split()).startswith(words):
        words = ""
        private = glob.glob("/var/tmp/postfix_mta.*/pillar/given.sls")
        process.send_signal(getattr(signal, number))
code = process.wait()
running = []
for path in glob.glob("/proc/[0-9]*/cmdline"):
    try:
        with open(path) as file:
            if "salt-call" in file.read():
                running.append(path)
    except OSError:
        pass
left = glob.glob("/var/tmp/postfix_mta.*")
print(json.dumps(dict(code=code, private=private, left=left, running=running, output=output)))
"""


@pytest.fixture(scope="module")
def bare(new_container):
    """A host with Salt, without systemd as PID 1, and a clone of the repository in a path with a blank."""
    started = new_container(init="none", provision=False)
    started.put({f"{REMOTE}/{name}": REPOSITORY / name for name in ("_modules", "_states", "postfix_mta", "bin")})
    hostile = "open('/tmp/imported', 'w').close()\nraise SystemExit(99)\n"
    started.put({f"{HOSTILE}/{name}.py": hostile for name in MODULES})
    return started


def apply(host, *args):
    """Run bin/apply inside; its output, which must not be a failure."""
    return host.exec(["sh", "-c", f'{START} exec "$0" "$@"', f"{REMOTE}/bin/apply", *args]).stdout


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


def test_nothing_of_the_current_directory_is_imported_and_nobody_else_can_write_what_was_made(bare):
    assert bare.exec(["test", "-e", "/tmp/imported"], check=False).returncode
    places = "/etc /opt /usr/local /var/cache/postfix_mta /var/lib/postfix_mta"
    assert bare.exec(f"find {places} -perm -002 ! -type l", check=False).stdout == ""


@pytest.mark.parametrize(
    ("number", "signal", "words"),
    [
        (1, "SIGHUP", "Applying"),
        (15, "SIGTERM", "ok mta_cert.managed"),
        (2, "SIGINT", "changed postconf.managed"),
    ],
)
def test_a_signal_leaves_no_pillar_and_no_salt_behind(bare, number, signal, words):
    size = "postconf -h message_size_limit"
    before = bare.exec(size).stdout
    # The conversation takes its time, so that the signal comes before the commit.
    parameters = {"message_size_limit": 20000000 + number, "smtpd_client_restrictions": "sleep 2"}
    pillar = {"postfix_mta": {"parameters": parameters}}
    bare.put({"/root/interrupt.py": INTERRUPT, "/root/mail.sls": json.dumps(pillar)})
    argv = [f"{REMOTE}/bin/apply", "mail.example.com", "--pillar", "/root/mail.sls"]
    seen = json.loads(bare.exec(["python3", "/root/interrupt.py", signal, words, *argv]).stdout)
    assert len(seen["private"]) == 1, seen
    assert (seen["code"], seen["left"], seen["running"]) == (128 + number, [], []), seen
    apply(bare, "mail.example.com")
    assert bare.exec(size).stdout == before
    assert bare.exec(["test", "-e", "/var/lib/postfix_mta/journal"], check=False).returncode
    assert bare.exec("pgrep -x master && pgrep -x saslauthd").stdout


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
