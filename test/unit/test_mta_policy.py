"""What a policy service is asked, and what is made of its answer."""

import contextlib
import socket
import threading

import pytest
from salt.exceptions import CommandExecutionError

import _mta_policy

HOST = "mail.example.com"


@pytest.fixture
def service():
    """``service(answer)``: the name of a policy service, and the attributes that it was asked with."""
    with contextlib.ExitStack() as stack:

        def start(answer):
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            asked = {}

            def serve():
                connection, _ = listener.accept()
                with connection, connection.makefile("rb") as lines:
                    for line in iter(lines.readline, b"\n"):
                        key, _, value = line.decode().rstrip("\n").partition("=")
                        asked[key] = value
                    connection.sendall(answer)

            thread = threading.Thread(target=serve)
            thread.start()
            stack.callback(thread.join)
            return f"inet:127.0.0.1:{listener.getsockname()[1]}", asked

        yield start


@pytest.mark.parametrize(
    ("answer", "action", "refuses"),
    [
        (b"action=DUNNO\n\n", "DUNNO", False),
        (b"action=REJECT not here\n\n", "REJECT not here", True),
        (b"action=554 5.7.1 no\n\n", "554 5.7.1 no", True),
        (b"action=defer_if_permit later\n\n", "defer_if_permit later", False),
    ],
)
def test_a_service_is_asked_for_mail_of_this_host(service, answer, action, refuses):
    name, asked = service(answer)
    assert _mta_policy.ask(name, f"postmaster@{HOST}", HOST, 5, "/nowhere") == action
    assert _mta_policy.refuses(action) is refuses
    assert (asked["request"], asked["client_address"]) == ("smtpd_access_policy", "127.0.0.1")
    assert (asked["helo_name"], asked["recipient"]) == (HOST, f"postmaster@{HOST}")


@pytest.mark.parametrize("answer", [b"\n\nHTTP/1.0 400 what?", b""])
def test_what_does_not_answer_as_a_service_is_none(service, answer):
    with pytest.raises(CommandExecutionError, match="is no policy service"):
        _mta_policy.ask(service(answer)[0], "", HOST, 5, "/nowhere")


def test_who_does_not_listen_does_not_answer():
    for name in ("inet:127.0.0.1:1", "inet:127.0.0.1:port", "unix:private/policy"):
        with pytest.raises(CommandExecutionError, match=f"The policy service {name} does not answer"):
            _mta_policy.ask(name, "", HOST, 5, "/nowhere")


def test_services_that_parameters_name():
    main = {
        "smtpd_recipient_restrictions": "permit_mynetworks, check_policy_service inet:127.0.0.1:10023, reject",
        "smtpd_sender_restrictions": "check_policy_service { unix:private/policy, timeout=5 }",
        "greylisting": "check_policy_service inet:127.0.0.1:10023",
        "smtpd_milters": "inet:127.0.0.1:11332",
    }
    assert _mta_policy.services(main) == ["inet:127.0.0.1:10023", "unix:private/policy"]
