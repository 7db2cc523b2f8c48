"""Outgoing DANE: whether a resolver validates is what it says itself, and is asked once."""

import socket
import struct
import threading

import pytest

import _mta_dane

ANSWERED, VALIDATED, FAILED = 0x8180, 0x81A0, 0x8182


@pytest.fixture
def resolver():
    """``resolver(flags)``: the port of one that answers each question with these, and what it was asked."""
    links = []

    def start(flags, count=1, forged=0):
        link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        link.bind(("127.0.0.1", 0))
        asked = []

        def serve():
            while True:
                try:
                    packet, client = link.recvfrom(4096)
                except OSError:
                    return
                asked.append(packet)
                (identity,) = struct.unpack_from(">H", packet)
                head = struct.pack(">6H", identity ^ forged, flags, 1, count, 0, 0)
                link.sendto(head + packet[12:], client)

        threading.Thread(target=serve, daemon=True).start()
        links.append(link)
        return link.getsockname()[1], asked

    yield start
    for link in links:
        link.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(_mta_dane, "TIMEOUT", 0.2)


@pytest.mark.parametrize(
    ("flags", "count", "forged", "validates"),
    [
        (VALIDATED, 1, 0, True),
        (ANSWERED, 1, 0, False),
        (FAILED, 1, 0, None),
        (VALIDATED, 0, 0, None),
        (VALIDATED, 1, 1, None),
    ],
)
def test_a_resolver_validates_if_it_says_so(resolver, flags, count, forged, validates):
    port, asked = resolver(flags, count, forged)
    assert _mta_dane.validated("127.0.0.1", "example.com", 2, port) is validates
    # Of the question: recursion and AD desired, the name, type NS, class IN.
    assert asked[0][2:4] == b"\x01\x20"
    assert asked[0][12:] == b"\x07example\x03com\x00\x00\x02\x00\x01"


def test_one_that_is_not_there_says_nothing(resolver):
    assert _mta_dane.validated("127.0.0.1", ".", 2, 1) is None


def test_resolvers_are_those_of_resolv_conf(tmp_path):
    path = tmp_path / "resolv.conf"
    path.write_text(
        "search example.com\nnameserver 192.0.2.1\n#nameserver 192.0.2.2\nnameserver  2001:db8::1 # x\n"
    )
    assert _mta_dane.servers(str(path)) == ["192.0.2.1", "2001:db8::1"]
    assert _mta_dane.servers(str(tmp_path / "none")) == ["127.0.0.1"]


class TestPossible:
    @pytest.fixture
    def possible(self, minion, monkeypatch):
        self.asked, self.says, self.servers = [], True, ["192.0.2.1"]
        monkeypatch.setattr(_mta_dane, "servers", lambda: self.servers)

        def validated(server, name, kind):
            self.asked.append((server, name, kind))
            return self.says

        monkeypatch.setattr(_mta_dane, "validated", validated)
        return lambda main=None, now=1000: _mta_dane.possible(minion, main or {}, now)

    def test_the_resolver_is_asked_once_until_it_is_another_one(self, minion, possible):
        assert [possible(), possible(now=1e9)] == [True, True]
        assert self.asked == [("192.0.2.1", ".", 2)]
        self.says, self.servers = False, ["192.0.2.2"]
        assert [possible(), possible()] == [False, False]
        assert len(self.asked) == 2
        _mta_dane.forget(minion)
        self.says = True
        assert possible() is True

    def test_what_is_asked_for_is_postfix_s_own_question(self, possible):
        assert possible({"dnssec_probe": "a:example.com"}) is True
        assert self.asked == [("192.0.2.1", "example.com", 1)]

    def test_where_no_resolver_answers_it_stays_as_it_is(self, possible):
        self.says = None
        assert possible({"smtp_tls_security_level": "may"}) is False
        self.servers = ["192.0.2.3"]
        assert possible({"smtp_tls_security_level": "dane"}) is True
        assert len(self.asked) == 2
        # Not at each apply, but again.
        assert possible({"smtp_tls_security_level": "dane"}, now=1000 + 1800) is True
        assert len(self.asked) == 2
        self.says = False
        assert possible({"smtp_tls_security_level": "dane"}, now=1000 + 3601) is False
