"""The verdict over servers that misbehave in every way that FACTS knows, and some more."""

import base64
import re
import socket
import time
from pathlib import Path

import pytest
from fake_smtp import EHLO, HOST, PASSWORD, Server
from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_delivery
import _mta_judge
import _mta_policy
import _mta_postfix_view
import _mta_smtp
import _mta_untrusted_client
from _mta_run import Run


@pytest.fixture
def server(smtp_server):
    return smtp_server


@pytest.fixture
def port_25(server, listener, monkeypatch):
    """The listener seems to be at port 25."""
    real = _mta_smtp._Line
    monkeypatch.setattr(_mta_smtp, "_Line", lambda target, *more: real(target._replace(port=server.port), *more))
    listener["port"] = 25


@pytest.fixture
def check(minion, listener):
    """Check the fake server."""
    return lambda **kwargs: _mta_judge.check(minion, listeners=[listener], **{"timeout": 5, **kwargs})


def problem(found):
    assert not found["answers"]
    return "\n".join(found["problems"])


def test_a_healthy_server_answers(check, certificates, server, listener):
    found = check(hostname=HOST, ca_file=certificates["good"], capabilities=["SIZE 10240000", "auth login plain"])
    assert (found["answers"], found["listening"], found["problems"], found["notes"]) == (True, True, [], [])
    assert found["speaking"] == [listener]
    tls = found["conversations"][0]["tls"]
    assert tls["verified"] and tls["error"] is None and tls["version"].startswith("TLS")
    assert found["transcript"][1:3] == [f"S: 220 {HOST} ESMTP Postfix", f"C: EHLO {HOST}"]
    assert server.seen == [f"EHLO {HOST}", "STARTTLS", f"EHLO {HOST}", "QUIT"]


def test_the_envelope_goes_as_far_as_the_refused_message(check, server):
    assert check(envelope=True)["problems"] == []
    assert [line.split("-")[0] for line in server.seen[3:]] == [
        "MAIL FROM:<>",
        f"RCPT TO:<postmaster@{HOST}>",
        "RSET",
        f"MAIL FROM:<postmaster@{HOST}>",
        f"RCPT TO:<postmaster@{HOST}>",
        "DATA",
        ".",
        "RSET",
        "MAIL FROM:<>",
        "RCPT TO:<probe",
        "RSET",
        "QUIT",
    ]


@pytest.mark.parametrize(
    ("command", "reply", "words"),
    [
        ("EHLO", b"", "EHLO: connection closed by the server"),
        ("EHLO", b"502 5.5.1 no\r\n", "EHLO: 502 5.5.1 no"),
        ("STARTTLS", b"454 4.7.0 TLS not available\r\n", "STARTTLS: 454 4.7.0 TLS not available"),
        ("MAIL FROM:<>", b"421 4.3.0 bye\r\n", "MAIL FROM:<>: 421"),
        (
            "RCPT TO:<postm",
            b"451 4.3.0 Temporary lookup failure\r\n",
            f"RCPT TO:<postmaster@{HOST}>: 451 4.3.0",
        ),
        ("RCPT TO:<postm", b"451-4.3.5 one\r\n451 4.3.5 two\r\n", ">: 451 4.3.5 one 4.3.5 two"),
        ("RCPT TO:<probe", b"451 4.3.5 Server configuration problem\r\n", "451 4.3.5"),
        ("RCPT TO:<postm", b"451 4.7.1 Service unavailable - try again later\r\n", "Service unavailable"),
        ("RCPT TO:<postm", b"", "connection closed"),
        ("RCPT TO:<postm", b"nonsense\r\n", "garbled: nonsense"),
        ("RCPT TO:<postm", b"\xff\x00\x1b[1m" * 20 + b"\r\n", "garbled: "),
        ("RCPT TO:<postm", b"x" * 9000, "garbled: "),
        ("RCPT TO:<postm", b"250-again\r\n" * 300, "garbled: "),
        (".", b"451 4.3.0 Error: queue file write error\r\n", "DATA: 451 4.3.0 Error: queue file"),
        ("DATA", b"451 4.3.0 no\r\n", "DATA: 451"),
    ],
)
def test_a_broken_server_is_told_by_step_and_reply(check, server, command, reply, words):
    server.replies[command] = reply
    assert words in problem(check(envelope=True))
    assert problem(check(envelope=True)).startswith(f"127.0.0.1:{server.port} ")


@pytest.mark.parametrize(
    "reply",
    ["450 4.7.1 Greylisted", "451 4.7.1 Greylisted", "554 5.7.1 Client host rejected", "550 5.1.1 Unknown"],
)
def test_a_policy_refusal_is_no_fault_where_logins_are_expected(check, server, reply):
    server.replies["RCPT TO"] = reply.encode() + b"\r\n"
    assert check(envelope=True)["answers"]


def test_on_port_25_the_postmaster_has_to_be_accepted(check, server, port_25):
    server.replies["RCPT TO:<postm"] = b"550 5.1.1 Unknown\r\n"
    assert f"127.0.0.1:25 RCPT TO:<postmaster@{HOST}>: 550 5.1.1 Unknown" in problem(check(envelope=True))


def test_nobody_listens(check, server):
    server.stop()
    found = check()
    assert (found["answers"], found["listening"]) == (False, False)
    assert found["problems"] == [f"127.0.0.1:{server.port} connect: connection refused"]
    assert found["speaking"] == []


def test_so_many_listeners_are_asked_at_the_same_time_that_logins_are_answered_in_time():
    asked, most = [], []

    def ask(listener):
        asked.append(listener)
        most.append(len(asked))
        time.sleep(0.02)
        asked.remove(listener)
        return -listener

    assert _mta_judge._at_once(ask, range(60)) == [-number for number in range(60)]
    assert 1 < max(most) <= _mta_judge.AT_ONCE


def test_an_untrusted_client_asks_services_at_the_same_time_and_each_of_them_in_one_connection_at_a_time(
    minion, server, listener, monkeypatch
):
    busy, most = [], []

    def examine(one, target, folder, known):
        busy.append(one["service"])
        assert busy.count(one["service"]) == 1
        most.append(len(busy))
        time.sleep(0.05)
        busy.remove(one["service"])
        return _mta_judge.Examination(one["label"])

    monkeypatch.setattr(_mta_judge, "examine_as_untrusted_client", examine)
    services = [f"{name}/inet" for name in "abcdef" for _ in range(2)]
    listeners = [{**listener, "service": name, "label": f"{n}"} for n, name in enumerate(services)]
    found = _mta_judge.check(minion, listeners, timeout=20, untrusted_client=True)
    assert found["problems"] == []
    assert len(most) == len(listeners) and max(most) > 1


@pytest.mark.parametrize(("envelope", "looks"), [(True, 2), (False, 0)])
def test_cleanup_is_let_take_the_messages_of_many_listeners(minion, listener, monkeypatch, envelope, looks):
    ran = []
    monkeypatch.setattr(_mta_judge._mta_system, "run", lambda argv, **_: ran.append(argv))
    listeners = [{**listener, "service": f"{number}/inet"} for number in range(2 * _mta_judge.AT_ONCE + 1)]
    _mta_judge.check(minion, listeners, timeout=20, envelope=envelope)
    assert ran == [["postkick", "public", "qmgr", "I"]] * looks


def test_a_listener_has_its_own_time_however_many_come_before_it(minion, server, listener, monkeypatch):
    monkeypatch.setattr(_mta_judge, "AT_ONCE", 1)
    server.slow = 0.02
    listeners = [{**listener, "service": f"{number}/inet"} for number in range(5)]
    began = time.monotonic()
    found = _mta_judge.check(minion, listeners, timeout=2)
    assert found["problems"] == []
    assert time.monotonic() - began > 2


def test_no_listener_is_a_problem(minion):
    found = _mta_judge.check(minion, listeners=[])
    assert found["problems"] == ["master.cf has no SMTP listener"]


def test_a_server_that_comes_back_in_time_answers(check, server):
    server.drops = 2
    assert "banner: connection closed" in problem(check())
    server.drops = 2
    assert check(patience=3)["answers"]


def test_patience_ends(check, server):
    server.drops = 1000
    started = time.monotonic()
    assert "banner: connection closed" in problem(check(patience=1))
    assert 0.5 < time.monotonic() - started < 2


@pytest.mark.parametrize("slow", [0.1, 60])
def test_a_slow_server_does_not_outlast_the_deadline(check, server, slow):
    server.slow = slow
    started = time.monotonic()
    assert "banner: no answer in time" in problem(check(timeout=0.5))
    assert time.monotonic() - started < 1.5


def test_a_server_that_did_not_answer_after_the_undo_is_asked_once_more_and_not_for_long(
    check, server, minion, monkeypatch
):
    monkeypatch.setattr(_mta_judge, "SILENT_TIMEOUT", 0.3)
    Run.of(minion).silent = True
    server.slow = 60
    began = time.monotonic()
    assert "no answer in time" in problem(check(timeout=30))
    assert time.monotonic() - began < 3


def test_a_server_that_falls_silent_does_not_outlast_the_deadline(check, server):
    server.replies["STARTTLS"] = None
    started = time.monotonic()
    assert "STARTTLS: no answer in time" in problem(check(timeout=0.5))
    assert time.monotonic() - started < 1.5


class Clock:
    """The client's time: it goes on as it does, and further where the server says that it waits."""

    def __init__(self):
        self.ahead = 0

    def monotonic(self):
        return time.monotonic() + self.ahead

    def sleep(self, seconds):
        self.ahead += seconds


@pytest.fixture
def clock(server, monkeypatch):
    """Seconds that the server lets a client with errors wait, without the wait."""
    clock = Clock()
    server.sleep = clock.sleep
    for module in (_mta_smtp, _mta_judge):
        monkeypatch.setattr(module, "time", clock)
    return clock


def test_a_server_that_lets_clients_with_errors_wait_is_waited_for(check, server, clock, monkeypatch):
    server.slow_after_errors = 12
    assert check(timeout=40, envelope=True)["problems"] == []
    monkeypatch.setattr(_mta_smtp, "ERROR_PATIENCE", 0)
    assert "no answer in time" in problem(check(timeout=40, envelope=True))


def test_a_listener_that_was_silent_is_asked_briefly_by_an_untrusted_client(check, server, monkeypatch, minion):
    monkeypatch.setattr(_mta_judge, "SILENT_TIMEOUT", 0.2)
    server.replies["MAIL"] = None
    began = time.monotonic()
    check(timeout=2, envelope=True, untrusted_client=True)
    assert 2 < time.monotonic() - began < 3


def test_a_login_has_its_own_time_where_errors_let_the_first_conversation_wait(login, server, clock):
    server.slow_after_errors = 12
    found = login(hostname=HOST, ask={"timeout": 40, "envelope": True})
    assert clock.ahead > 40
    assert found["problems"] == []
    assert any("AUTH" in line for line in server.seen)


def test_a_login_is_not_tried_where_auth_is_hidden_from_this_host(login, server, listener):
    listener["may_hide"] = ["AUTH"]
    server.ehlo = [line for line in server.ehlo if not line.startswith("AUTH")]
    found = login(hostname=HOST)
    assert found["problems"] == []
    assert "no login was tried" in found["notes"][0]


def test_a_login_is_not_tried_where_a_limit_turns_the_check_away(login, server):
    server.banner = b"421 4.7.0 Error: too many connections from 127.0.0.1\r\n"
    found = login(hostname=HOST)
    assert (found["problems"], found["doubts"], len(found["notes"])) == ([], [], 1)


@pytest.mark.parametrize(
    ("command", "reply", "doubts"),
    [
        ("MAIL FROM:<alice@", b"553 5.7.1 Sender address rejected: not owned by user alice\r\n", 1),
        ("RCPT TO:<postmaster@example.net>", b"554 5.7.1 Relay access denied\r\n", 1),
        ("RCPT TO:<postmaster@example.net>", b"450 4.7.1 Error: too much mail\r\n", 0),
        ("RCPT TO:<postmaster@example.net>", b"454 4.7.1 <x@y>: Relay access denied\r\n", 1),
        ("RCPT TO:<postmaster@example.net>", b"250 2.1.5 Ok\r\n", 0),
        ("RCPT TO:<postmaster@example.net>", b"556 5.1.10 Domain example.net does not accept mail\r\n", 0),
        ("MAIL FROM:<alice@", b"550 5.1.8 Sender address rejected: Domain not found\r\n", 0),
        ("RCPT TO:<postmaster@example.net>", b"554 5.7.1 <x>: Helo command rejected: that is my name\r\n", 0),
        ("RCPT TO:<postmaster@example.net>", b"554 5.7.1 <x>: Helo command rejected: Access denied\r\n", 1),
    ],
)
def test_who_logs_in_has_to_be_able_to_send_as_himself(login, server, command, reply, doubts):
    server.replies[command] = reply
    found = login(hostname=HOST)
    assert (found["problems"], len(found["doubts"])) == ([], doubts)


@pytest.mark.parametrize(
    ("reply", "problems"),
    [
        (b"450 4.7.1 Error: too many AUTH commands from 127.0.0.1\r\n", False),
        (b"535 5.7.8 Error: authentication failed\r\n", True),
        (b"454 4.7.0 Temporary authentication failure\r\n", True),
    ],
)
def test_a_limit_for_logins_is_no_fault(login, server, reply, problems):
    server.replies["AUTH PLAIN"] = reply
    found = login()
    assert bool(found["problems"]) is problems
    assert any("too many AUTH" in text for text in found["notes"]) is not problems


def test_another_certificate_than_the_one_on_disk_is_a_problem(check, server, certificates):
    server.certificate = certificates["other"]
    assert f"STARTTLS: the certificate served is not the one in {certificates['good']}" in problem(check())


def test_each_of_two_certificates_has_to_be_served(check, server, listener, certificates):
    listener["certificates"] = [certificates["good"], certificates["rsa"]]
    assert problem(check()).endswith(f"TLS: the certificate in {certificates['rsa']} is served to nobody")
    server.certificate = [certificates["good"], certificates["rsa"]]
    found = check()
    assert found["answers"], found["problems"]
    served = {talk["tls"]["fingerprint"] for talk in found["conversations"]}
    assert len(served) == 2
    server.certificate = [certificates["other"], certificates["rsa"]]
    assert "the certificate served is not the one in" in problem(check())


def test_the_certificates_behind_the_servers_own_are_not_the_servers(
    check, server, listener, certificates, tmp_path
):
    chain = tmp_path / "chain.pem"
    with open(certificates["good"]) as good, open(certificates["other"]) as other:
        chain.write_text(good.read() + other.read().partition("-----END PRIVATE KEY-----\n")[2])
    listener["certificates"] = [str(chain)]
    assert check()["answers"]
    server.certificate = certificates["other"]
    assert "is not the one in" in problem(check())


def test_a_chain_that_does_not_verify_is_a_problem_and_the_rest_is_still_told(check, server, certificates):
    server.certificate = certificates["other"]
    found = check(ca_file=certificates["good"], hostname=HOST)
    text = problem(found)
    assert "TLS: certificate not verified by" in text and "is not the one in" in text
    talk = found["conversations"][0]
    assert talk["tls"]["error"] and not talk["tls"]["verified"]
    assert talk["ehlo_tls"]


def test_a_certificate_for_another_host_is_a_problem(check, server, listener, certificates):
    server.certificate = certificates["elsewhere"]
    listener["certificates"] = [certificates["elsewhere"]]
    assert "Hostname mismatch" in problem(check(ca_file=certificates["elsewhere"], hostname=HOST))


@pytest.mark.parametrize("which", ["certificate", "ca_file"])
def test_a_file_that_is_not_there_is_a_problem(check, listener, tmp_path, which):
    missing = str(tmp_path / "nope.pem")
    if which == "certificate":
        listener["certificates"] = [missing]
        assert f"Cannot read {missing}" in problem(check())
    else:
        assert f"Cannot read {missing}" in problem(check(ca_file=missing))


def test_text_injected_before_tls_is_refused(check, server):
    server.replies["STARTTLS"] = b"220 2.0.0 Ready\r\n250 injected\r\n"
    assert "spoke in clear after STARTTLS" in problem(check())


def test_implicit_tls(check, server, listener):
    server.wrappermode = listener["wrappermode"] = True
    server.ehlo.remove("STARTTLS")
    listener["starttls"] = False
    found = check()
    assert found["answers"], found["problems"]
    assert found["conversations"][0]["ehlo"] == []


def test_implicit_tls_with_a_server_that_speaks_in_clear(check, listener):
    listener["wrappermode"] = True
    assert " TLS: " in problem(check())


@pytest.mark.parametrize(
    ("promise", "offered", "words"),
    [
        ({"starttls": False}, EHLO, "STARTTLS is offered"),
        ({}, ["AUTH PLAIN LOGIN"], "STARTTLS is not offered"),
        ({}, ["STARTTLS"], "AUTH is not offered without TLS"),
        ({"auth_before_tls": False}, EHLO, "AUTH is offered without TLS"),
        ({"auth": False}, EHLO, "AUTH is offered under TLS"),
    ],
)
def test_offers_are_what_the_configuration_promises(check, server, listener, promise, offered, words):
    listener.update(promise)
    server.ehlo = offered
    assert words in problem(check())


@pytest.mark.parametrize(
    ("listed", "problems"),
    [
        (["plain login"], 0),
        (["Plain, login,CRAM-MD5"], 0),
        (["plain"], 1),
        (["plain", "plain login"], 0),
        (["pwcheck"], 1),
        (["", "plain"], 0),
        ([], 0),
    ],
)
def test_who_offers_what_smtpd_conf_does_not_have_does_not_read_it(check, listener, tmp_path, listed, problems):
    listener["sasl_files"] = [str(tmp_path / f"{number}.conf") for number in range(3)]
    for path, words in zip(listener["sasl_files"], listed):
        Path(path).write_text("pwcheck_method: saslauthd\n" + f"mech_list: {words}\n" * bool(words))
    found = check()["problems"]
    assert len(found) == problems
    assert not found or ("LOGIN" in found[0] and listener["sasl_files"][0] in found[0])


@pytest.mark.parametrize(
    ("hidden", "offered", "problems"),
    [
        (["AUTH"], ["STARTTLS"], 0),
        (["AUTH", "STARTTLS"], ["PIPELINING"], 0),
        (["AUTH in clear"], ["STARTTLS"], 1),
    ],
)
def test_what_some_clients_are_not_shown_need_not_be_shown(check, server, listener, hidden, offered, problems):
    listener["may_hide"] = hidden
    server.ehlo = offered
    assert len(check()["problems"]) == problems


def test_a_rule_that_turns_this_client_away_is_a_note(check, server):
    server.banner = b"421 4.7.0 Error: too many connections from 127.0.0.1\r\n"
    found = check(envelope=True)
    assert found["problems"] == []
    assert "too many connections" in found["notes"][0]


@pytest.mark.parametrize("goodbye", [b"", b"421 4.7.0 Error: too many errors\r\n"])
def test_a_server_that_hangs_up_after_an_error_is_strict_and_not_broken(check, server, goodbye):
    server.replies["RCPT TO:<probe"] = b"550 5.1.1 unknown\r\n"
    server.replies["RSET"] = goodbye
    server.replies["RCPT TO:<postm"] = b"450 4.7.1 greylisted\r\n"
    assert check(envelope=True, auth="challenge", untrusted_client=True)["problems"] == []


def test_a_server_that_hangs_up_without_an_error_is_broken(check, server):
    server.replies["RSET"] = b""
    assert "RSET: connection closed" in problem(check(envelope=True))


def test_a_required_capability_that_nobody_offers_is_a_problem(check):
    text = problem(check(capabilities=["PIPELINING", "DSN", "SIZE 5"]))
    assert text.splitlines() == ["EHLO: no listener offers DSN", "EHLO: no listener offers SIZE 5"]


def test_the_banner_and_ehlo_have_to_name_the_host(check):
    text = problem(check(hostname="other.example.com"))
    assert "(expected the host name other.example.com)" in text
    assert "EHLO: the server calls itself mail.example.com (expected other.example.com)" in text


def test_a_service_with_its_own_name_goes_by_it(minion, server, listener):
    own = {**listener, "service": "submission/inet", "hostname": "submit.example.com"}
    second = Server(server.certificate)
    own["port"] = second.port
    second.banner = b"220 submit.example.com ESMTP\r\n"
    second.replies["EHLO"] = b"250-submit.example.com\r\n250-AUTH PLAIN\r\n250 STARTTLS\r\n"
    second.replies["STARTTLS"] = b"220 ok\r\n"
    own["starttls"], second.replies["EHLO"] = False, b"250-submit.example.com\r\n250 AUTH PLAIN\r\n"
    found = _mta_judge.check(minion, listeners=[listener, own], hostname=HOST, timeout=5)
    assert found["problems"] == []


def test_a_banner_of_many_lines_names_the_host_too(check, server):
    server.banner = f"220-{HOST} wait\r\n220-please\r\n220 {HOST} ESMTP\r\n".encode()
    assert check(hostname=HOST)["problems"] == []
    server.banner = b"220-other.example.com\r\n220 please\r\n"
    assert "(expected the host name mail.example.com)" in problem(check(hostname=HOST))


def test_a_server_has_as_long_as_the_timeout_says_and_not_ten_seconds(check, server, monkeypatch):
    monkeypatch.setattr(_mta_smtp, "CONVERSATION_TIMEOUT", 0.1)
    server.slow = 0.01
    assert check(timeout=3)["answers"]


def test_patience_comes_before_the_time_for_the_conversation(minion, server, listener):
    now = time.monotonic()
    target = _mta_judge.target_of(listener, timeout=30, patience=15)
    assert target.timeout == 30
    assert target.patient_until - now == pytest.approx(15, abs=1)
    assert target.deadline - now == pytest.approx(45, abs=1)


def test_a_listener_that_is_skipped_is_not_asked(minion, server, listener):
    other = Server(server.certificate)
    other.banner = b"421 4.3.0 no\r\n"
    second = {**listener, "service": "smtps/inet", "port": other.port}
    found = _mta_judge.check(minion, [listener, second], timeout=5, skip=["smtps/inet", "smtp2/inet"])
    assert found["problems"] == []
    assert found["speaking"] == [listener]
    assert found["notes"] == [
        "smtps/inet is not verified, as verify.skip says.",
        "verify.skip names smtp2/inet, which is no SMTP listener of master.cf.",
    ]
    assert other.seen == []
    assert "421" in problem(_mta_judge.check(minion, [listener, second], timeout=5))


def test_where_all_listeners_are_skipped_no_capability_is_missing(check):
    assert check(skip=["smtp/inet"], capabilities=["DSN"])["answers"]


# -- the message that is refused ---------------------------------------------------------------


def received(server):
    return sum(line.startswith("Received:") for line in server.message)


@pytest.mark.parametrize(
    ("limits", "sent"), [((None, None), 51), ((10, 50), 51), ((400, 50), 401), ((50, 400), 401)]
)
def test_the_message_has_more_hops_than_the_listener_and_the_running_server_take(
    check, server, listener, pretend, limits, sent
):
    of_listener, of_running = ({} if limit is None else {"hopcount_limit": limit} for limit in limits)
    listener.update(of_listener)
    pretend("_mta_postfix_view.listeners", lambda: [{**listener, "hopcount_limit": 50, **of_running}])
    assert check(envelope=True)["answers"]
    assert received(server) == sent


@pytest.mark.parametrize(
    ("reply", "doubts"),
    [
        (b"450 4.7.1 <localhost[127.0.0.1]>: Client host rejected: Access denied", 1),
        (b"450 4.2.0 <postmaster>: Recipient address rejected: Greylisted", 0),
        (b"554 5.7.1 Spam message rejected", 0),
        (b"554 5.4.0 Error: too many hops", 0),
    ],
)
def test_who_refuses_every_message_at_its_end_is_doubted(check, server, reply, doubts):
    server.replies["."] = reply + b"\r\n"
    found = check(envelope=True)
    assert (found["problems"], len(found["doubts"])) == ([], doubts)


def test_no_message_is_tried_where_it_would_be_delivered(check, server, listener):
    listener["hopcount_limit"] = 1_000_000
    found = check(envelope=True)
    assert found["answers"]
    assert "no message is tried, as with hopcount_limit = 1000000 it would be delivered" in found["notes"][0]
    assert "DATA" not in server.seen


def test_a_message_that_was_taken_all_the_same_is_told(check, server):
    server.replies["."] = b"250 2.0.0 Ok: queued as 4F1\r\n"
    found = check(envelope=True)
    assert found["answers"]
    assert "which it should refuse: 250 2.0.0 Ok: queued as 4F1" in found["notes"][0]


# -- AUTH --------------------------------------------------------------------------------------


@pytest.fixture
def login(minion, pillar, functions, listener):
    """Check with a login in the pillar."""

    def run(password=PASSWORD, hostname=None, ask=(), **login):
        login = login or {"username": "alice", "password": password}
        pillar["postfix_mta"] = {"verify": {"login": login}}
        functions["sdb.get"] = lambda uri: PASSWORD if uri == "sdb://store/probe" else None
        path = "postfix_mta:verify:login"
        ask = {"timeout": 5, **dict(ask)}
        return _mta_judge.check(minion, listeners=[listener], hostname=hostname, login_pillar=path, **ask)

    return run


def test_a_login_is_tried_both_ways_with_and_without_tls(login):
    found = login()
    assert found["problems"] == []
    ways = [(talk["auth"]["tls"], talk["auth"]["mechanism"]) for talk in found["conversations"][1:]]
    assert ways == [(False, "PLAIN"), (False, "LOGIN"), (True, "PLAIN"), (True, "LOGIN")]


def test_no_secret_is_shown(login):
    text = str(login())
    plain = base64.b64encode(f"\0alice\0{PASSWORD}".encode()).decode()
    for secret in (PASSWORD, plain, base64.b64encode(PASSWORD.encode()).decode()):
        assert secret not in text
    assert "C: AUTH PLAIN ****" in text and "'C: ****'" in text


def test_a_login_that_fails_is_a_problem(login):
    found = login("wrong")
    text = problem(found)
    assert found["logins"] == found["problems"]
    assert "AUTH PLAIN without TLS: 535" in text and "AUTH PLAIN: 535" in text
    assert "wrong" not in text


def test_a_password_may_be_in_a_store(login):
    assert login("sdb://store/probe")["answers"]


@pytest.mark.parametrize("found", [{"username": "alice"}, {"username": "alice", "password": 5}])
def test_a_login_without_name_and_password_is_refused(login, found):
    with pytest.raises(SaltInvocationError, match=r"username and a password|must be strings"):
        login(**found)


def test_no_login_in_the_pillar_is_none(check):
    assert check(login_pillar="postfix_mta:verify:login")["answers"]


def test_an_unknown_user_has_to_be_turned_away(check, server):
    assert check(auth="challenge")["answers"]
    server.replies["AUTH PLAIN"] = b"454 4.7.0 Temporary authentication failure: generic failure\r\n"
    assert "AUTH PLAIN of an unknown user: 454 4.7.0 Temporary" in problem(check(auth="challenge"))
    server.replies["AUTH PLAIN"] = b"435 4.7.8 Error: authentication failed\r\n"
    assert check(auth="challenge")["answers"]
    server.replies["AUTH PLAIN"] = b"235 2.7.0 come in\r\n"
    assert "AUTH PLAIN of an unknown user: 235" in problem(check(auth="challenge"))


# -- delivery ----------------------------------------------------------------------------------


@pytest.fixture
def trial(monkeypatch):
    """What the look at delivery is made to find."""
    found = _mta_delivery.Found()
    monkeypatch.setattr(_mta_postfix_view, "show", dict)
    monkeypatch.setattr(_mta_delivery, "samples", lambda *_: [])
    monkeypatch.setattr(_mta_delivery, "user", lambda name: f"alice@{name}")
    monkeypatch.setattr(_mta_delivery.Trial, "begin", lambda self: True)
    monkeypatch.setattr(_mta_delivery.Trial, "finish", lambda self, aliases: found)
    return found


def test_a_real_message_for_nobody_goes_in_at_port_25(check, server, port_25, trial):
    server.ehlo.append("DSN")
    server.replies["RCPT TO:<probe"] = b"250 2.1.5 Ok\r\n"
    check(envelope=True, deliver=True)
    assert any(re.match(r"RCPT TO:<probe-\w+-m@probe.invalid> NOTIFY=NEVER", line) for line in server.seen)
    assert "Subject: The mail server is tested" in server.message


def test_a_user_of_the_host_who_is_not_taken_at_port_25_is_a_doubt(check, server, port_25, trial):
    server.replies["RCPT TO:<alice"] = b"550 5.1.1 User unknown in local recipient table\r\n"
    found = check(envelope=True, deliver=True)
    assert found["doubts"] == [
        f"127.0.0.1:25 RCPT TO:<alice@{HOST}>: 550 5.1.1 User unknown in local recipient table"
    ]


def test_what_is_meant_so_is_a_note(check, server, trial):
    text = "delivery to any message: hold: header (…: verify: {intended: [held]})"
    trial.problems.append(text)
    assert problem(check(deliver=True)) == text
    found = check(deliver=True, intended=["held"])
    assert (found["problems"], found["notes"]) == ([], [text])


def test_strangers_of_whom_none_is_taken_at_port_25_are_a_doubt(check, server, port_25):
    server.replies["RCPT TO:<postm"] = b"554 5.7.1 <x>: Client host rejected: Access denied\r\n"
    found = check(untrusted_client=True)
    assert found["problems"] == []
    assert "intended: [refused]" in found["doubts"][0]


def test_what_this_run_has_found_before_fails_no_state_of_it(check, server, minion):
    server.banner = b"220 ESMTP\r\n"
    assert problem(check(hostname=HOST))
    Run.of(minion).known = check(hostname=HOST)["problems"]
    found = check(hostname=HOST)
    assert found["answers"]
    assert found["older"] == Run.of(minion).known
    assert "so it was before this run" in found["notes"][0]


def test_listeners_are_examined_at_the_same_time(minion, server, listener):
    server.slow = 0.01
    second = Server(server.certificate)
    second.slow = 0.01
    started = time.monotonic()
    _mta_judge.check(minion, listeners=[listener, {**listener, "port": second.port}], timeout=10)
    both = time.monotonic() - started
    started = time.monotonic()
    _mta_judge.check(minion, listeners=[listener], timeout=10)
    assert both < 1.6 * (time.monotonic() - started)


# -- as an untrusted client --------------------------------------------------------------------


@pytest.mark.usefixtures("no_route")
def test_an_untrusted_client_is_served_but_gets_no_mail_for_others_in(check, server):
    found = check(untrusted_client=True)
    assert found["answers"] and found["notes"] == []
    assert "EHLO [127.0.0.2]" in server.seen and "RCPT TO:<postmaster@example.net>" in server.seen


@pytest.mark.usefixtures("no_route")
def test_an_open_relay_is_a_problem(check, server):
    server.replies["RCPT TO"] = b"250 2.1.5 Ok\r\n"
    text = problem(check(untrusted_client=True))
    assert "as an untrusted client RCPT TO:<postmaster@example.net>: 250 2.1.5 Ok (an open relay)" in text


@pytest.mark.usefixtures("no_route")
def test_a_server_that_relays_for_whoever_takes_its_name_is_an_open_relay(check, server, monkeypatch):
    class Replies(dict):
        """Of a server that takes mail for others from senders of its own domain."""

        def items(self):
            named = any(command.startswith(f"MAIL FROM:<postmaster@{HOST}>") for command in server.seen)
            return {"RCPT TO:<postmaster@example.net>": b"250 2.1.5 Ok\r\n"}.items() if named else super().items()

    server.replies = Replies(server.replies)
    text = problem(check(untrusted_client=True))
    step = f"MAIL FROM:<postmaster@{HOST}> RCPT TO:<postmaster@example.net>: 250 2.1.5 Ok (an open relay)"
    assert f"as an untrusted client {step}" in text


@pytest.mark.usefixtures("no_route")
@pytest.mark.parametrize(
    ("action", "doubts"),
    [("REJECT not here", 1), ("DUNNO", 0), ("DEFER later", 0), (CommandExecutionError("x"), 0)],
)
def test_a_policy_service_that_refuses_this_host_too_refuses_everybody(
    check, server, port_25, trial, monkeypatch, action, doubts
):
    def ask(*_):
        if isinstance(action, Exception):
            raise action
        return action

    monkeypatch.setattr(_mta_policy, "ask", ask)
    monkeypatch.setattr(_mta_policy, "services", lambda main: ["inet:127.0.0.1:10023"])
    server.replies["RCPT TO:<postmaster@mail"] = b"554 5.7.1 Recipient address rejected: not here\r\n"
    found = check(untrusted_client=True, deliver=True)["doubts"]
    found = [text for text in found if "inet:127.0.0.1:10023 says" in text]
    assert len(found) == doubts
    assert all("as an untrusted client RCPT TO" in text and "intended: [refused]" in text for text in found)


@pytest.mark.usefixtures("no_route")
@pytest.mark.parametrize("lists_all", [True, False])
@pytest.mark.parametrize("command", ["RCPT TO:<postmaster@mail", "MAIL FROM"])
def test_a_block_list_that_lists_127_0_0_1_lists_everybody(
    check, server, port_25, trial, monkeypatch, command, lists_all
):
    def look_up(name, port, *more, **_):
        if name == "1.0.0.127.list.example" and not lists_all:
            raise socket.gaierror(socket.EAI_NONAME, "not known")
        return real(name if name == "127.0.0.1" else "127.0.0.2", port, *more)

    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    blocked = b"554 5.7.1 Service unavailable; client [192.0.2.1] blocked using list.example; go away\r\n"
    server.replies[command] = blocked
    found = check(untrusted_client=True, deliver=True)["doubts"]
    assert any("list.example lists 127.0.0.1, too" in text for text in found) is lists_all


@pytest.mark.usefixtures("no_route")
@pytest.mark.parametrize(
    ("sender", "recipient", "relays"),
    [
        ("", "postmaster@example.net", f"MAIL FROM:<postmaster@{HOST}>"),
        (f"postmaster@{HOST}", "postmaster@example.net", "RCPT TO:<postmaster@example.net>"),
        ("", f"postmaster@{HOST}", None),
    ],
)
def test_mail_for_others_that_is_thrown_away_is_not_relayed(check, server, trial, sender, recipient, relays):
    server.replies["RCPT TO"] = b"250 2.1.5 Ok\r\n"
    trial.discarded.add((sender, recipient))
    trial.problems.append("delivery to any message: discarded (verify: {intended: [discarded]})")
    found = check(untrusted_client=True, deliver=True, intended=["discarded"])
    open_ = [text.partition("client ")[2] for text in found["problems"] if "(an open relay)" in text]
    assert len(open_) == (1 if relays else 2)
    assert not relays or open_[0].startswith(relays)


@pytest.mark.usefixtures("no_route")
def test_a_policy_refusal_of_an_untrusted_client_is_normal_a_fault_is_not(check, server):
    server.replies["RCPT TO:<postm"] = b"450 4.7.1 cannot find your hostname\r\n"
    assert check(untrusted_client=True)["answers"]
    server.replies["RCPT TO:<postm"] = b"451 4.3.5 Server configuration error\r\n"
    assert "as an untrusted client RCPT TO:<postmaster@mail" in problem(check(untrusted_client=True))


@pytest.mark.usefixtures("no_route")
def test_an_untrusted_client_may_not_even_be_greeted_everybody_else_has_to_be(check, server):
    server.replies["EHLO [127.0.0.2]"] = b"554 5.7.1 Client host rejected: Access denied\r\n"
    assert check(untrusted_client=True)["answers"]
    server.replies["EHLO [127.0.0.2]"] = b"421 4.3.2 Service not available\r\n"
    assert "421" in problem(check(untrusted_client=True))
    server.banner = b"554 5.7.1 Client host rejected: Access denied\r\n"
    assert "554" in problem(check(untrusted_client=True))


@pytest.mark.usefixtures("no_route")
def test_this_host_s_own_address_will_do_where_it_is_not_trusted(check, monkeypatch, server):
    monkeypatch.setattr(_mta_untrusted_client, "own_address", lambda family: "127.0.0.3")
    assert check(untrusted_client=True)["answers"]
    assert "EHLO [127.0.0.3]" in server.seen and "EHLO [127.0.0.2]" not in server.seen


@pytest.mark.usefixtures("no_route")
def test_where_this_host_s_own_address_is_trusted_another_one_decides(check, monkeypatch, server):
    monkeypatch.setattr(_mta_untrusted_client, "own_address", lambda family: "127.0.0.3")
    real = _mta_judge._speak_as

    def speak_as(source, *more):
        server.replies = {"RCPT TO": b"250 2.1.5 Ok\r\n"} if source == "127.0.0.3" else {}
        return real(source, *more)

    monkeypatch.setattr(_mta_judge, "_speak_as", speak_as)
    assert check(untrusted_client=True)["answers"]
    assert "EHLO [127.0.0.3]" in server.seen and "EHLO [127.0.0.2]" in server.seen


@pytest.mark.usefixtures("no_route")
@pytest.mark.parametrize("dead", [False, True])
def test_an_untrusted_client_may_wait_for_a_banner_but_a_dead_server_is_a_problem(
    check, monkeypatch, server, dead
):
    real = _mta_judge._speak_as

    def speak_as(*arguments):
        server.slow = 1
        try:
            return real(*arguments)
        finally:
            server.slow = 1 if dead else 0

    monkeypatch.setattr(_mta_judge, "_speak_as", speak_as)
    found = check(untrusted_client=True, timeout=0.5)
    assert found["answers"] is not dead
    assert ("a slow reverse lookup can do that" in str(found["notes"])) is not dead


@pytest.mark.usefixtures("no_route")
@pytest.mark.parametrize(
    ("reply", "reached"),
    [
        (b"250 2.1.5 Ok\r\n", ""),
        (
            b"554 5.7.1 <info@b.example>: Relay access denied\r\n",
            "554 5.7.1 <info@b.example>: Relay access denied",
        ),
        (b"450 4.7.1 <info@b.example>: Recipient address rejected: greylisted\r\n", None),
    ],
)
def test_an_untrusted_client_tries_recipients_in_virtual_and_relayed_domains(
    server, listener, tmp_path, reply, reached
):
    server.replies["RCPT TO:<info@"] = reply
    target = _mta_judge.target_of(listener, "mail.example.com", timeout=5)
    seen = _mta_judge.examine_as_untrusted_client(listener, target, str(tmp_path), ["info@b.example"])
    assert seen.problems == []
    assert [why.partition(" (")[0] for why in seen.reached.values()] == ([] if reached is None else [reached])


def test_where_no_address_can_be_had_a_note_says_so(check, listener, monkeypatch):
    def refuse(family, folder):
        raise CommandExecutionError("there is no program ip (package iproute2)")

    monkeypatch.setattr(_mta_untrusted_client, "own_address", lambda family: None)
    monkeypatch.setattr(_mta_untrusted_client, "foreign_address", refuse)
    found = check(untrusted_client=True)
    assert found["answers"]
    assert found["notes"][0].endswith(
        "as an untrusted client: not tried: there is no program ip (package iproute2)"
    )


# -- a certificate that is not the one on disk -------------------------------------------------


@pytest.fixture
def stale(listener, pretend):
    pretend("_mta_postfix_view.listeners", lambda: [listener])
    return lambda *paths: _mta_judge.stale(list(paths) or None, timeout=5)


def test_a_listener_that_serves_what_is_on_disk_is_not_stale(stale):
    assert stale() == []


def test_a_listener_that_serves_another_certificate_is_stale(stale, server, certificates):
    server.certificate = certificates["other"]
    assert stale() == [f"127.0.0.1:{server.port}"]
    assert stale(certificates["good"]) == [f"127.0.0.1:{server.port}"]
    assert stale(certificates["rsa"]) == []


def test_a_certificate_that_cannot_be_read_is_not_the_one_served(stale, listener):
    listener["certificates"] = ["/nonexistent"]
    assert len(stale()) == 1


def test_of_two_certificates_both_have_to_be_served(stale, server, listener, certificates):
    listener["certificates"] = [certificates["good"], certificates["rsa"]]
    assert len(stale()) == 1
    server.certificate = listener["certificates"]
    assert stale() == []


def test_nothing_is_known_of_a_server_that_does_not_talk_and_there_is_nothing_to_know_without_tls(
    stale, server, listener
):
    server.replies["STARTTLS"] = b"454 4.7.0 TLS not available\r\n"
    assert stale() is None
    listener["starttls"] = False
    assert stale() == []
    server.stop()
    listener["starttls"] = True
    assert stale() is None


@pytest.mark.parametrize(
    ("port", "wrapped", "words"),
    [
        (587, True, "no client does that"),
        (465, False, "as every client does"),
        (465, True, None),
        (587, False, None),
    ],
)
def test_how_a_conversation_begins_at_a_port_for_users(listener, port, wrapped, words):
    listener.update(port=port, wrappermode=wrapped)
    found = {"banner": "220 x", "ehlo": ["x", "STARTTLS"], "ehlo_tls": ["x"], "tls": None}
    texts = " ".join(_mta_judge._unlike(listener, found, None))
    assert (words in texts) if words else "at port" not in texts


def test_users_who_may_not_send_where_they_should_is_a_doubt(check, listener):
    listener.update(bars_users="smtpd_client_restrictions")
    assert check(envelope=True)["doubts"] == []
    listener["port"] = 587
    found = _mta_judge._barred([listener])
    assert "who logs in may not send, by smtpd_client_restrictions" in found[0]
