"""The DNS against what a server needs: a zone that is right, with one thing changed."""

import pytest
from salt.exceptions import CommandExecutionError

import _mta_dns
import _mta_dns_records
import _mta_resolver
from _mta_dns_records import Facts

KEY = "v=DKIM1; k=rsa; p=AAAA"
FACTS = Facts(
    "mail.example.com",
    ["192.0.2.1"],
    ["example.com"],
    ["mail.example.com"],
    {"key1": KEY},
    ["3 1 1 00ff"],
    [587],
    {"spf": "v=spf1 mx -all", "dmarc": "v=DMARC1; p=none", "tls_reports": "mailto:a@b.example"},
)
NAME_SERVERS = {
    ("example.com", "NS"): ["ns.example.com."],
    ("2.0.192.in-addr.arpa", "NS"): ["ns.example.com."],
    ("ns.example.com", "A"): ["192.0.2.53"],
}


@pytest.fixture
def findings(minion, monkeypatch):
    """What is found, ``(name, type, kind)``, where some names have other data."""

    def check(changed=(), rotates=False, taken=("example.com",), signed=True, silent=()):
        zone = dict(NAME_SERVERS)
        for record in _mta_dns_records.records(FACTS):
            zone.setdefault((record.name, record.type), []).append(record.data)
        zone.update(changed)
        settings = {"dns": {"resolver": None}, "certificate": {"rotate_key": rotates}}
        monkeypatch.setattr(type(minion), "settings", lambda self: settings)
        monkeypatch.setattr(_mta_dns, "facts", lambda minion: FACTS)
        monkeypatch.setattr(_mta_dns, "_taken", lambda: lambda domain: domain in taken)
        monkeypatch.setattr(_mta_resolver, "signed", lambda *_: signed)

        def look_up(name, kind, server=None):
            check.asked += 1
            return None if server in silent else zone.get((name, kind), [])

        check.asked = 0
        return {(one.name, one.type, one.kind) for one in _mta_dns.check(minion, look_up)}

    return check


def test_there_is_nothing_to_say_about_what_is_right(findings):
    assert findings() == set()


@pytest.mark.parametrize(
    ("name", "kind", "data", "found"),
    [
        ("mail.example.com", "A", ["192.0.2.7"], "wrong"),
        ("example.com", "MX", ["10 other.example.com."], "wrong"),
        ("1.2.0.192.in-addr.arpa", "PTR", ["host-1.example.net."], "wrong"),
        ("example.com", "TXT", ["v=spf1 ip4:192.0.2.7 -all"], "wrong"),
        ("example.com", "TXT", ["v=spf1 mx -all", "v=spf1 mx ~all"], "wrong"),
        ("example.com", "TXT", ["v=spf1 " + "a:x.example " * 11 + "mx -all"], "wrong"),
        ("key1._domainkey.example.com", "TXT", ["v=DKIM1; p=BBBB"], "wrong"),
        ("key1._domainkey.example.com", "TXT", [KEY, "v=DKIM1; p=BBBB"], "wrong"),
        ("_dmarc.example.com", "TXT", ["v=DMARC1; p=no"], "wrong"),
        ("_dmarc.example.com", "TXT", ["v=DMARC1; p=none", "v=DMARC1; p=reject"], "wrong"),
        ("_25._tcp.mail.example.com", "TLSA", ["3 1 1 0000"], "wrong"),
        ("_submission._tcp.example.com", "SRV", ["0 1 25 x.example.com."], "wrong"),
        ("_smtp._tls.example.com", "TXT", [], "missing"),
    ],
)
def test_what_is_not_right_is_named(findings, name, kind, data, found):
    assert (name, kind, found) in findings({(name, kind): data})


def test_what_a_look_found_is_kept(minion):
    _mta_dns.remember(minion, [_mta_dns.Finding("x.example", "MX", "missing", "it should be m")])
    kept = minion.state.read("dns.json")
    assert [one["name"] for one in kept["findings"]] == ["x.example"]
    assert kept["time"] > 0


def test_a_name_server_that_does_not_answer_is_named(findings):
    assert ("example.com", "MX", "missing") in findings(silent=["192.0.2.53"])


def test_where_the_resolver_is_silent_not_every_record_waits_for_it(findings):
    with pytest.raises(CommandExecutionError, match="The resolver of this host does not answer"):
        findings(silent=[None])
    assert findings.asked == 2


def test_what_is_wrong_is_named_once_and_not_what_follows_from_it(findings):
    assert findings({("mail.example.com", "A"): ["192.0.2.7"]}) == {("mail.example.com", "A", "wrong")}
    assert findings({("example.com", "MX"): []}) == {("example.com", "MX", "missing")}


def test_what_is_about_to_break_is_told(findings):
    assert findings(rotates=True) == {("_25._tcp.mail.example.com", "TLSA", "risk")}
    assert findings(signed=False) == {("_25._tcp.mail.example.com", "TLSA", "risk")}
    assert findings(taken=()) == {("example.com", "MX", "risk")}


def test_dane_is_asked_for_where_the_zone_is_signed(findings):
    without = {("_25._tcp.mail.example.com", "TLSA"): []}
    assert findings(without) == {("_25._tcp.mail.example.com", "TLSA", "missing")}
    assert findings(without, signed=False) == set()


def test_policies_of_the_administrator_s_own_are_as_good(findings):
    changed = {
        ("example.com", "TXT"): ["v=spf1 ip4:192.0.2.0/24 ~all", "verification=1"],
        ("_dmarc.example.com", "TXT"): ["v=DMARC1; p=reject; adkim=s"],
        ("example.com", "MX"): ["5 other.example.com.", "20 mail.example.com."],
    }
    assert findings(changed) == set()
