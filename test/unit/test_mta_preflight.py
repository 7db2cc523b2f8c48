"""Daemons that try a staged configuration: who dies is heard, who lives is ended, nothing is left."""

import socket
import stat
import sys
import time

import pytest
from salt.exceptions import CommandExecutionError

import _mta_judge
import _mta_preflight

# Stands in for a daemon of Postfix: what it does is written in main.cf, as "program: word".
DAEMON = f"""\
#!{sys.executable}
import os, pathlib, socket, sys, time
settings = dict(word.split("=", 1) for word in sys.argv if "=" in word)
stage = pathlib.Path(os.environ["MAIL_CONFIG"])
name = os.path.basename(sys.argv[0])
wanted = dict(line.split(": ") for line in (stage / "main.cf").read_text().splitlines())
log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
log.connect(os.path.join(settings["queue_directory"] if "GENERATION" in os.environ else stage.parent / "queue",
                         "public", settings["postlog_service_name"]))

def die(text):
    log.send(f"Nov 23 01:46:52 mail postfix/{{name}}[{{os.getpid()}}]: fatal: {{text}}".encode())
    time.sleep(30)

does = wanted.get(name)
if "GENERATION" in os.environ:
    die("bad time value" if does == "parameter" else "bad generation: x")
if does == "start":
    die("no mechanisms")
if name != "smtpd":
    os.write(1, b"request")
    time.sleep(30)
if does == "discards":
    said = "NOQUEUE: discard: RCPT from x[192.0.2.25]: <x[192.0.2.25]>: Client host triggers DISCARD action"
    said += "; from=<> to=<postmaster@example.net> proto=ESMTP helo=<x>"
    log.send(f"Nov 23 01:46:52 mail postfix/smtpd[{{os.getpid()}}]: {{said}}".encode())
os.write(1, b"220 mail.example.com ESMTP\\r\\n")
while True:
    line = os.read(0, 999)
    if not line or line.startswith(b"QUIT"):
        break
    host = b"250 mail.example.com" if line.startswith(b"EHLO") else b"250 2.1.0 Ok"
    os.write(1, (b"451 4.3.0 broken" if does == line[:4].decode() else host) + b"\\r\\n")
"""
LISTENER = {
    "service": "smtp/inet",
    "host": "127.0.0.1",
    "port": 25,
    "wrappermode": False,
    "starttls": False,
    "auth": False,
    "auth_before_tls": False,
    "certificate": None,
    "hostname": "mail.example.com",
}


@pytest.fixture
def problems(minion, tmp_path):
    """``problems(main_cf, **arguments)``: what the daemons of a small master.cf say."""
    programs, stage = tmp_path / "sbin", tmp_path / "stage"
    for directory in (programs, stage, tmp_path / "queue" / "public"):
        directory.mkdir(parents=True)
    services = {}
    for name, command in (("smtp/inet", "smtpd"), ("smtp/unix", "smtp"), ("qmgr/unix", "qmgr")):
        (programs / command).write_text(DAEMON)
        (programs / command).chmod(stat.S_IRWXU)
        services[name] = {"command": command, "unprivileged": "-", "chroot": "n", "overrides": {}}
    real = _mta_preflight.Directories("/etc/postfix", str(programs), str(tmp_path / "queue"))

    def run(main="", **arguments):
        (stage / "main.cf").write_text(main)
        arguments = {"envelope": False, **arguments}
        return _mta_preflight.problems(minion, str(stage), real, services, [LISTENER], **arguments)

    run.stage = stage
    return run


def test_healthy_daemons_have_no_problems_and_leave_nothing(problems):
    assert problems() == []
    assert sorted(path.name for path in problems.stage.rglob("*")) == ["main.cf", "public"]


@pytest.mark.parametrize(
    ("program", "does", "service", "word"),
    [
        ("qmgr", "parameter", "qmgr/unix", "bad time value"),
        ("smtpd", "parameter", "smtp/inet", "bad time value"),
        ("smtp", "start", "smtp/unix", "no mechanisms"),
        ("smtpd", "start", "smtp/inet", "no mechanisms"),
        ("smtpd", "EHLO", "smtp/inet", "EHLO: 451"),
    ],
)
def test_a_daemon_that_fails_is_told_with_its_last_words_and_not_waited_for(
    problems, program, does, service, word
):
    began = time.monotonic()
    ((found, text),) = problems(f"{program}: {does}\n")
    assert time.monotonic() - began < 5
    assert found == service
    assert word in text
    assert "bad generation" not in text


def test_an_envelope_is_tried_where_that_is_wanted(problems):
    assert problems("smtpd: MAIL\n") == []
    assert any("MAIL FROM" in text for _, text in problems("smtpd: MAIL\n", envelope=True))


def test_without_a_running_server_only_parameters_are_read(problems):
    assert problems("smtpd: start\n", converse=False) == []
    assert problems("smtpd: parameter\n", converse=False) != []


def test_a_private_copy_that_cannot_hold_the_socket_is_an_error(minion):
    real = _mta_preflight.Directories("/etc/postfix", "/usr/lib/postfix/sbin", "/var/spool/postfix")
    with pytest.raises(CommandExecutionError, match="Cannot listen"):
        _mta_preflight.problems(minion, "/proc/nowhere", real, {}, [])


@pytest.mark.parametrize(("does", "told"), [("discards", 0), ("nothing", 1)])
def test_mail_for_others_that_is_thrown_away_is_no_open_relay(problems, monkeypatch, does, told):
    def check(minion, listeners, **_):
        with socket.create_connection(("127.0.0.1", listeners[0]["port"])) as talk:
            assert talk.recv(999).startswith(b"220 ")
            talk.sendall(b"QUIT\r\n")
        where = f"127.0.0.1:{listeners[0]['port']}"
        return {
            "problems": [f"{where} as an untrusted client RCPT TO:<postmaster@example.net>: 250 (an open relay)"]
        }

    monkeypatch.setattr(_mta_judge, "check", check)
    assert len(problems(f"smtpd: {does}\n", envelope=True)) == told
