"""What a policy service says of a client that asks for a recipient (postfix.org/SMTPD_POLICY_README.html)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from salt.exceptions import CommandExecutionError

import _mta_milter

SERVICE = r"check_policy_service[\s{]+((?:inet|unix):[^\s,{}]+)"
REFUSES = r"(?i)(?:REJECT\b|5\d\d )"


def services(main: Mapping[str, str]) -> list[str]:
    """Return the policy services that parameters of main.cf name, as ``inet:host:port`` or ``unix:path``."""
    found = [name for value in main.values() for name in re.findall(SERVICE, value)]
    return list(dict.fromkeys(found))


def ask(name: str, recipient: str, hostname: str, timeout: float, queue: str) -> str:
    """
    Return the action for mail of this host itself without a sender, from 127.0.0.1, that comes by SMTP.

    name
        As :func:`services` returns it.

    timeout
        Seconds that the answer may take.

    queue
        Path of the queue directory, below which relative paths are.

    Raises ``CommandExecutionError`` when the service cannot be reached, or does not answer as one does.
    """
    request = {
        "request": "smtpd_access_policy",
        "protocol_state": "RCPT",
        "protocol_name": "ESMTP",
        "client_address": "127.0.0.1",
        "client_name": "localhost",
        "reverse_client_name": "localhost",
        "helo_name": hostname,
        "sender": "",
        "recipient": recipient,
        "recipient_count": "0",
        "queue_id": "",
        "size": "0",
        "sasl_method": "",
        "sasl_username": "",
        "sasl_sender": "",
    }
    text = "".join(f"{key}={value}\n" for key, value in request.items())
    try:
        with _mta_milter.connected(name, timeout, queue) as connection, connection.makefile("rb") as answers:
            connection.sendall(f"{text}\n".encode())
            answer = answers.readline(4096).decode(errors="replace")
    except (OSError, ValueError) as err:
        raise CommandExecutionError(f"The policy service {name} does not answer: {err}") from err
    word, _, action = answer.strip().partition("=")
    if word != "action":
        raise CommandExecutionError(f"What answers at {name} is no policy service")
    return action


def refuses(action: str) -> bool:
    """Whether an action refuses a recipient for good."""
    return bool(re.match(REFUSES, action))
