"""One conversation, and the pieces that it is made of."""

import base64
import time

import pytest
from fake_smtp import HOST
from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_smtp


@pytest.fixture
def server(smtp_server):
    return smtp_server


@pytest.fixture
def converse(server):
    return lambda **kwargs: _mta_smtp.converse(port=server.port, **{"timeout": 5, **kwargs})


def test_a_conversation_with_recipients(converse, server):
    found = converse(recipient=[f"postmaster@{HOST}", "a@example.net"], sender="me@example.com", starttls=False)
    assert found["envelopes"] == [
        {
            "sender": "me@example.com",
            "mail": "250 2.0.0 Ok",
            "recipients": {
                f"postmaster@{HOST}": "250 2.0.0 Ok",
                "a@example.net": "454 4.7.1 Relay access denied",
            },
            "data": None,
        }
    ]
    assert "STARTTLS" not in server.seen


@pytest.mark.parametrize(
    "arguments",
    [
        {"recipient": "a>\r\nDATA"},
        {"recipient": "a", "sender": "<>"},
        {"auth": "x"},
        {"mechanism": "CRAM-MD5"},
    ],
)
def test_bad_arguments_are_refused(converse, arguments):
    with pytest.raises(SaltInvocationError):
        converse(**arguments)


def test_a_message_is_delivered(server):
    server.replies["."] = b"250 2.0.0 Ok: queued as 4F1\r\n"
    found = _mta_smtp.deliver("alice@example.com", port=server.port, timeout=5)
    assert (found["accepted"], found["reply"]) == (True, "250 2.0.0 Ok: queued as 4F1")
    server.replies["."] = b"451 4.3.0 no\r\n"
    assert not _mta_smtp.deliver("alice@example.com", port=server.port, timeout=5)["accepted"]
    with pytest.raises(SaltInvocationError):
        _mta_smtp.deliver("alice@example.com", subject="a\nb", port=server.port)


def test_a_message_is_whole(server):
    server.replies["."] = b"250 2.0.0 Ok\r\n"
    found = _mta_smtp.deliver("alice@example.com", port=server.port, subject="Grüße", timeout=5)
    assert {"From: <postmaster>", "To: <alice@example.com>", "Subject: Grüße"} <= {*server.message}
    assert f"Message-ID: {found['message_id']}" in server.message
    assert server.message[-2:] == ["", "Sent by mta_probe.deliver."]


@pytest.mark.parametrize(
    ("name", "said"),
    [("client.example.com", "client.example.com"), ("client", "[127.0.0.1]"), ("", "[127.0.0.1]")],
)
def test_the_client_gives_its_own_name_or_else_its_address(converse, server, monkeypatch, name, said):
    monkeypatch.setattr("socket.gethostname", lambda: name)
    converse()
    assert [line for line in server.seen if line.startswith("EHLO")] == [f"EHLO {said}"] * 2


def test_a_banner_of_many_lines_is_one_reply(converse, server):
    server.banner = f"220-{HOST} ESMTP\r\n220 go on\r\n".encode()
    found = converse()
    assert (found["banner"], found["problems"]) == (f"220 {HOST} ESMTP go on", [])


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        ("250 2.1.0 Ok", False),
        ("421 4.3.2 bye", True),
        ("450 4.7.1 greylisted", False),
        ("451 4.7.1 greylisted", False),
        ("421 4.7.0 too many errors", False),
        ("450 4.3.2 Service currently unavailable", False),
        ("552 5.3.4 Message size exceeds fixed limit", False),
        ("451 4.7.1 Service unavailable - try again later", True),
        ("451 4.3.5 Server configuration error", True),
        ("451 no", True),
        ("452 4.3.1 Insufficient system storage", True),
        ("550 5.1.1 unknown", False),
        ("554 5.3.0 broken", True),
    ],
)
def test_a_fault_is_told_from_policy(reply, fault):
    assert _mta_smtp.fault_of(reply) is fault


@pytest.mark.parametrize(
    ("content", "words"), [(None, "Cannot read"), ("-----BEGIN CERTIFICATE-----\na\n-----END", "not")]
)
def test_a_file_without_a_certificate_is_an_error(tmp_path, content, words):
    path = tmp_path / "x.pem"
    if content:
        path.write_text(content)
    with pytest.raises(CommandExecutionError, match=words):
        _mta_smtp.certificates(str(path))


@pytest.mark.parametrize(
    ("step", "reply", "policy"),
    [
        ("banner", "421 4.7.0 mail.example.com Error: too many connections from 127.0.0.1", True),
        ("banner", "421 4.3.2 No system resources", False),
        ("banner", "554 5.7.1 Client host rejected: Access denied", True),
        ("EHLO", "504 5.5.2 <x>: Helo command rejected: need fully-qualified hostname", True),
        ("EHLO", "502 5.5.1 no", False),
        ("EHLO", "550 5.5.0 Service unavailable", False),
        ("banner", "554 mail.example.com ESMTP not accepting connections", False),
        ("STARTTLS", "454 4.7.0 TLS not available due to local problem", False),
        ("EHLO after STARTTLS", "421 4.7.1 mail.example.com Error: No client certificate presented", True),
        ("AUTH PLAIN of an unknown user", "450 4.7.1 Error: too many AUTH commands from 127.0.0.1", True),
        ("AUTH PLAIN of an unknown user", "454 4.7.0 Temporary authentication failure", False),
        ("banner", "no answer in time", False),
    ],
)
def test_a_rule_for_clients_is_no_fault(step, reply, policy):
    assert _mta_smtp.turned_away(step, reply) is policy


def test_a_listener_behind_a_proxy_is_told_for_whom(server):
    target = _mta_smtp.Target("127.0.0.1", server.port, time.monotonic() + 5, 0, starttls=False, proxy=True)
    _mta_smtp.hold(target)
    assert server.seen[0].startswith("PROXY TCP4 127.0.0.1 127.0.0.1 ")


def test_the_name_of_an_unknown_user_is_one_that_pam_refuses_at_once(server):
    target = _mta_smtp.Target("127.0.0.1", server.port, time.monotonic() + 5, 0, starttls=False)
    _mta_smtp.hold(target, _mta_smtp.Request([], challenge=True))
    (asked,) = (line for line in server.seen if line.startswith("AUTH PLAIN "))
    assert base64.b64decode(asked.split()[-1]).startswith(b"\0-probe-")
