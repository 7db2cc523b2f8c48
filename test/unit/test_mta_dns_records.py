"""What the DNS should say: the records that follow from a server, and their forms."""

import dataclasses

import pytest
from salt.exceptions import SaltInvocationError

import _mta_dns_records
from _mta_dns_records import Facts

FACTS = Facts(
    hostname="mail.example.com",
    addresses=["192.0.2.1", "2001:db8::1"],
    domains=["example.com"],
    mx=["mail.example.com"],
    keys={"key1": "v=DKIM1; k=rsa; p=" + "A" * 392},
    tlsa=["3 1 1 00ff"],
    ports=[587, 465],
    policies={"spf": "v=spf1 mx -all", "dmarc": "v=DMARC1; p=none; rua=mailto:a@{domain}", "mta_sts": "testing"},
)


def test_all_that_mail_needs_is_there():
    found = {(one.name, one.type): one.data for one in _mta_dns_records.records(FACTS)}
    assert found["example.com", "MX"] == "10 mail.example.com."
    assert found["mail.example.com", "AAAA"] == "2001:db8::1"
    assert found["1.2.0.192.in-addr.arpa", "PTR"] == "mail.example.com."
    assert found["mail.example.com", "TXT"] == "v=spf1 a -all"
    assert found["_25._tcp.mail.example.com", "TLSA"] == "3 1 1 00ff"
    assert found["_dmarc.example.com", "TXT"].endswith("rua=mailto:a@example.com")
    assert found["_submissions._tcp.example.com", "SRV"] == "0 10 465 mail.example.com."
    assert found["https://mta-sts.example.com/.well-known/mta-sts.txt", "file"].startswith("version: STSv1\r\n")
    assert all(one.reason for one in _mta_dns_records.records(FACTS))


def test_servers_of_one_domain_ask_for_the_same():
    texts = []
    for host in ("b.example.com", "a.example.com"):
        facts = dataclasses.replace(FACTS, hostname=host, mx=["b.example.com", "a.example.com"])
        found = _mta_dns_records.records(facts)
        assert {one.data for one in found if one.type == "MX"} == {"10 a.example.com.", "10 b.example.com."}
        texts.append([one.data for one in found if "STSv1" in one.data])
    assert texts[0] == texts[1] and "mx: a.example.com\r\nmx: b.example.com\r\n" in texts[0][1]


def test_a_private_address_is_told():
    found = _mta_dns_records.records(dataclasses.replace(FACTS, addresses=["10.0.0.1", "192.0.9.1"]))
    reasons = {one.data: one.reason for one in found if one.type == "A"}
    assert "dns:addresses names the public ones" in reasons["10.0.0.1"] and "private" not in reasons["192.0.9.1"]


def test_long_texts_are_split():
    text = _mta_dns_records.zone_text(_mta_dns_records.records(FACTS))
    (line,) = [line for line in text.splitlines() if line.startswith("key1._domainkey")]
    strings = line.split('"')[1::2]
    assert max(map(len, strings)) <= 255 and "".join(strings) == FACTS.keys["key1"]


def test_what_is_of_another_zone_is_a_comment():
    lines = _mta_dns_records.zone_text(_mta_dns_records.records(FACTS), "example.com").splitlines()
    assert [line for line in lines if "PTR" in line and not line.startswith(";")] == []
    assert any(line.startswith("; 1.2.0.192.in-addr.arpa.") for line in lines)


def test_other_forms():
    found = _mta_dns_records.records(FACTS)
    assert {*_mta_dns_records.formatted(found, "data")[0]} == {"name", "type", "data", "reason"}
    assert "example.com" in _mta_dns_records.formatted(found, "table")
    with pytest.raises(SaltInvocationError, match="zone, data or table"):
        _mta_dns_records.formatted(found, "json")
