"""SPF records: whom they let send, and how often receivers look up."""

import pytest

import _mta_spf

ZONE = {
    ("x.example", "MX"): ["10 m.x.example."],
    ("m.x.example", "A"): ["192.0.2.1"],
    ("m.x.example", "AAAA"): ["2001:db8::1"],
    ("i.example", "TXT"): ["v=spf1 ip4:198.51.100.0/24 -all", "other"],
    ("neutral.example", "TXT"): ["v=spf1 ?all"],
    ("loop.example", "TXT"): ["v=spf1 include:loop.example -all"],
    ("1.2.0.192.in-addr.arpa", "PTR"): ["m.x.example.", "m.other.example."],
    ("1.2.0.192.in-addr._spf.x.example", "A"): ["127.0.0.2"],
    ("silent.example", "A"): None,
    ("many.example", "MX"): [f"10 m{number}.example." for number in range(11)],
}
OWN = ["192.0.2.1", "2001:db8::1"]


def policy(text):
    zone = {**ZONE, ("x.example", "TXT"): [text]}
    return _mta_spf.Policy(lambda name, kind, server=None: zone.get((name, kind), []))


@pytest.mark.parametrize(
    ("text", "addresses", "lets"),
    [
        ("v=spf1 mx -all", OWN, OWN),
        ("v=spf1 mx/24//64 -all", ["192.0.2.9", "2001:db8::9"], ["192.0.2.9", "2001:db8::9"]),
        ("v=spf1 mx/24 -all", ["192.0.2.9", "2001:db8::9"], ["192.0.2.9"]),
        ("v=spf1 a:m.x.example ~all", OWN, OWN),
        ("v=spf1 -mx +all", ["192.0.2.9"], ["192.0.2.9"]),
        ("v=spf1 include:i.example -all", ["198.51.100.7", "192.0.2.1"], ["198.51.100.7"]),
        ("v=spf1 redirect=i.example", ["198.51.100.7"], ["198.51.100.7"]),
        ("v=spf1 ip6:2001:db8::/32 ip4:192.0.2.0/25 -all", OWN, OWN),
        ("v=spf1 ip4:nonsense -all", OWN, []),
        ("v=spf1 -all", OWN, []),
        ("v=spf1 ptr -all", OWN, ["192.0.2.1"]),
        ("v=spf1 exists:%{ir}.%{v}._spf.%{d2} -all", OWN, ["192.0.2.1"]),
    ],
)
def test_whom_a_record_lets_send(text, addresses, lets):
    assert policy(text).lets("x.example", addresses) == {*lets}


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        # RFC 7208, 4.6.2: the first that matches decides.
        ("v=spf1 -mx +all", "fail"),
        ("v=spf1 ~ip4:192.0.2.0/24 mx", "softfail"),
        ("v=spf1 ?a:m.x.example mx -all", "neutral"),
        ("v=spf1 mx -ip4:192.0.2.1 -all", "pass"),
        # 5.1: what comes after all is nothing.
        ("v=spf1 -all mx", "fail"),
        # 5.2: of what is included only a pass matches.
        ("v=spf1 include:neutral.example -all", "fail"),
        ("v=spf1 -include:i.example mx -all", "pass"),
        ("v=spf1 include:none.example mx -all", "permerror"),
        # 6.1: redirect counts after all mechanisms, and nowhere beside all.
        ("v=spf1 redirect=neutral.example mx", "pass"),
        ("v=spf1 redirect=neutral.example -all", "fail"),
        ("v=spf1 redirect=none.example", "permerror"),
        ("v=spf1 ip4:198.51.100.1", "neutral"),
        # 4.6: what is no term makes the record void, wherever it is; modifiers of others do not.
        ("v=spf1 mx -all nonsense", "permerror"),
        ("v=spf1 mx ip4:192.0.2.300 -all", "permerror"),
        ("v=spf1 mx/33 -all", "permerror"),
        ("v=spf1 mx include -all", "permerror"),
        ("v=spf1 exp=why.example x-new=1 mx -all", "pass"),
        # 4.6.4: limits.
        ("v=spf1 include:loop.example mx -all", "permerror"),
        ("v=spf1 a:1.example a:2.example mx -all", "pass"),
        ("v=spf1 a:1.example a:2.example a:3.example mx -all", "permerror"),
        ("v=spf1 mx:many.example mx -all", "permerror"),
        ("v=spf1 a:silent.example mx -all", "temperror"),
        ("no record", "none"),
    ],
)
def test_what_a_receiver_makes_of_the_server(text, verdict):
    assert policy(text).verdict("x.example", "192.0.2.1") == verdict


def test_two_records_are_none():
    zone = {("x.example", "TXT"): ["v=spf1 +all", "v=spf1 mx"]}
    found = _mta_spf.Policy(lambda name, kind, server=None: zone.get((name, kind), []))
    assert found.verdict("x.example", "192.0.2.1") == "permerror"


def test_look_ups_are_counted_with_those_of_what_is_included():
    assert policy("v=spf1 include:i.example a mx ip4:192.0.2.1 -all").lookups("x.example") == 3
    assert policy("v=spf1 " + "a:y.example " * 12 + "-all").lookups("x.example") == 12
    assert policy("v=spf1 mx -all a redirect=i.example").lookups("x.example") == 1
    assert policy("v=spf1 include:loop.example -all").lookups("x.example") == _mta_spf.MOST_LOOKUPS + 1


def test_other_texts_are_no_records():
    found = _mta_spf.Policy(lambda name, kind, server=None: ["v=spf10", "V=SPF1 -all", "x v=spf1"])
    assert found.texts("x.example") == ["V=SPF1 -all"]
