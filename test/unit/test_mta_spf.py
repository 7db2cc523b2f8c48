"""SPF records: whom they let send, and how often receivers look up."""

import pytest

import _mta_spf

ZONE = {
    ("x.example", "MX"): ["10 m.x.example."],
    ("m.x.example", "A"): ["192.0.2.1"],
    ("m.x.example", "AAAA"): ["2001:db8::1"],
    ("i.example", "TXT"): ["v=spf1 ip4:198.51.100.0/24 -all", "other"],
}
OWN = ["192.0.2.1", "2001:db8::1"]


def passed(text, addresses):
    zone = {**ZONE, ("x.example", "TXT"): [text]}
    policy = _mta_spf.Policy(lambda name, kind, server=None: zone.get((name, kind), []))
    return policy.lets("x.example", addresses), policy.lookups


@pytest.mark.parametrize(
    ("text", "addresses", "lets"),
    [
        ("v=spf1 mx -all", OWN, OWN),
        ("v=spf1 mx/24//64 -all", ["192.0.2.9", "2001:db8::9"], ["192.0.2.9", "2001:db8::9"]),
        ("v=spf1 a:m.x.example ~all", OWN, OWN),
        ("v=spf1 -mx +all", ["192.0.2.9"], ["192.0.2.9"]),
        ("v=spf1 include:i.example -all", ["198.51.100.7", "192.0.2.1"], ["198.51.100.7"]),
        ("v=spf1 redirect=i.example", ["198.51.100.7"], ["198.51.100.7"]),
        ("v=spf1 ip6:2001:db8::/32 ip4:192.0.2.0/25 -all", OWN, OWN),
        ("v=spf1 ip4:nonsense -all", OWN, []),
        ("v=spf1 -all", OWN, []),
    ],
)
def test_whom_a_record_lets_send(text, addresses, lets):
    assert passed(text, addresses)[0] == {*lets}


def test_look_ups_are_counted_with_those_of_what_is_included():
    assert passed("v=spf1 include:i.example a mx ip4:192.0.2.1 -all", OWN)[1] == 3
    assert passed("v=spf1 " + "a:y.example " * 12 + "-all", OWN)[1] == 12


def test_other_texts_are_no_records():
    policy = _mta_spf.Policy(lambda name, kind, server=None: ["v=spf10", "V=SPF1 -all", "x v=spf1"])
    assert policy.texts("x.example") == ["V=SPF1 -all"]
