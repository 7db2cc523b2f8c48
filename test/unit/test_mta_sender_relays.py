"""Whether the relays of this host's users can be reached, as tables name them."""

import contextlib
import errno
import socket

import pytest

import _mta_sender_relays
from _mta_system import Finished

ALICE, BOB = "alice@mail.example.com", "bob@mail.example.com"


@pytest.fixture
def unreached(monkeypatch):
    """``unreached(answers, parameter)``: where only 192.0.2.1 answers, at port 25; with whom it spoke."""

    def look(answers, parameter="sender_dependent_relayhost_maps"):
        spoken = []

        def connect(address, timeout):
            spoken.append(address)
            if address != ("192.0.2.1", 25):
                raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
            return contextlib.closing(socket.socket())

        def run(command, stdin, timeout, check):
            lines = [f"{key}\t{answers[key]}\n" for key in stdin.splitlines() if key in answers]
            return Finished(int(not lines), "".join(lines).encode(), b"")

        monkeypatch.setattr("_mta_system.run", run)
        monkeypatch.setattr(socket, "create_connection", connect)
        return _mta_sender_relays.unreached({parameter: "hash:/relays"}, [ALICE, BOB]), spoken

    return look


@pytest.mark.parametrize(
    ("relay", "reached"),
    [("[192.0.2.1]\n", True), ("[192.0.2.1]:25", True), ("[192.0.2.1]:26", False), ("[192.0.2.2]", False)],
)
@pytest.mark.parametrize("key", [ALICE, "@mail.example.com"])
def test_a_relay_by_sender_is_reached_or_not(unreached, relay, reached, key):
    found, spoken = unreached({key: relay})
    assert len(spoken) == 1
    assert len(found) == int(not reached)
    assert all(text.startswith(f"from {ALICE}: connect to 192.0.2.") for text in found)


def test_a_relay_by_transport_is_asked_where_it_speaks_smtp(unreached):
    name = "sender_dependent_default_transport_maps"
    assert unreached({BOB: "smtp:[192.0.2.2]:587"}, name)[0] == [
        f"from {BOB}: connect to 192.0.2.2:587: Connection refused ({name})"
    ]
    for other in ("smtp:example.net", "uucp:[192.0.2.2]", "smtp:", "example.net:25"):
        assert unreached({BOB: other}, name) == ([], [])


def test_nothing_is_asked_where_nobody_has_a_relay(unreached):
    assert unreached({}) == ([], [])
    assert _mta_sender_relays.unreached({}, [ALICE]) == []
