"""A secret in pillar is shown nowhere, whatever the mistake: in no problem, change, comment, log or SLS file."""

import copy
import json
import logging
import pathlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from salt.exceptions import SaltException

import _mta_settings
import _mta_tables_manage
import _mta_valid

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
MARK = "Gehe1m"
NUMBER = 7311373
TABLES = ("hash", "texthash", "pcre", "cidr", "ldap", "mysql", "pgsql", "mongodb", "inline", None)

# What somebody may have put where a secret belongs.
TEXTS = st.sampled_from(
    [
        *(MARK, f"{MARK}\n", f" {MARK}", f"{MARK} ", f"{MARK}\0", f"\ud800{MARK}", MARK * 200, f"x {MARK}"),
        *(f"user:{MARK}", f"user = {MARK}", f"{MARK}=", f"{MARK}:", f"/{MARK}\n", f"sdb://{MARK}", f"#{MARK}"),
        *(f"[smtp.example.net]:587 user:{MARK}", f"[smtp.example.net]:587=user:{MARK}", f"bind_pw {MARK}"),
        *(
            f"https://user:{MARK}@example.net/",
            f"-----BEGIN PRIVATE KEY-----\n{MARK}",
            MARK.encode(),
            NUMBER,
            -NUMBER,
        ),
    ]
)
SHAPES = st.recursive(
    TEXTS,
    lambda below: (
        st.lists(below, min_size=1, max_size=2)
        | st.lists(below, min_size=1, max_size=2).map(tuple)
        | st.dictionaries(st.sampled_from(["secret", "password", "a"]), below, min_size=1, max_size=2)
    ),
    max_leaves=3,
)


def at(path, value, beside=None):
    """A pillar with one value at a path, and ``beside`` it what belongs there."""
    *above, last = path.split(":")
    pillar = below = copy.deepcopy(beside or {})
    for name in above:
        below = below.setdefault(name, {})
    below[last] = value
    return pillar


RELAY = {"relay": {"host": "smtp.example.net", "username": "alice"}}
SENDER = {"relay": {"host": "smtp.example.net", "senders": {"a@example.com": {"username": "alice"}}}}
LDAP = {
    "sasl": {"mechanisms": ["ldap"], "ldap": {"servers": ["ldap://x"], "search_base": "dc=x", "bind_dn": "cn=a"}}
}
FILES = {"certificate": {"source": "files", "files": {"certificate": "/c"}}}
# Places of secrets, and the sections that they are in: a mistake may be one level above.
PLACES = [
    ("relay:password", RELAY),
    ("relay", {}),
    ("relay:senders:a@example.com:password", SENDER),
    ("relay:senders:a@example.com", RELAY),
    ("relay:senders", RELAY),
    ("certificate:ca:passphrase", {}),
    ("certificate:ca:previous_passphrase", {"certificate": {"ca": {"passphrase": "long enough"}}}),
    ("certificate:ca", {}),
    ("verify:login:password", {"verify": {"login": {"username": "alice"}}}),
    ("verify:login", {}),
    ("verify", {}),
    ("sasl:ldap:bind_password", LDAP),
    ("sasl:ldap", {}),
    ("certificate:files:key", FILES),
    ("certificate:second:files:key", {}),
    ("maps", {}),
    ("maps:logins", {}),
]
# What is next to a secret may have got it as well.
GLUED = [
    ("relay", ["password:{0}", "password {0}", "password={0}", "pasword: {0}"]),
    ("relay:senders:a@example.com", ["password:{0}", "password {0}"]),
    ("certificate:ca", ["passphrase:{0}", "passphrase {0}"]),
    ("verify:login", ["password:{0}", "password {0}"]),
    ("sasl:ldap", ["bind_password:{0}"]),
]
BESIDE = [
    ("relay:username", "alice:{0}", {"relay": {"host": "smtp.example.net", "password": "x"}}),
    ("relay:host", "alice:{0}@smtp.example.net", {}),
    ("relay:host", "smtp://alice:{0}@smtp.example.net:587", {}),
    ("verify:login:username", "alice:{0}\n", {"verify": {"login": {"password": "x"}}}),
]


def tables(shape):
    """Lookup tables with a secret somewhere."""
    entries = st.one_of(
        shape,
        shape.map(lambda value: {"a": {"secret": value}}),
        shape.map(lambda value: {"a": {"secret": value}, "b": "\ud800"}),
        shape.map(lambda value: {"a": {"secret": value, "more": value}}),
        shape.map(lambda value: {"password": value, "bind_pw": value}),
        shape.map(lambda value: {"user": "x", "bind_pw": value}),
        shape.map(lambda value: [{"a": {"secret": value}}, value]),
        shape.map(lambda value: ["a b", value]),
        shape.map(lambda value: {"a": value}),
        TEXTS.map(lambda value: {value: None}),
        TEXTS.map(lambda value: {f"[smtp.example.net]:587 {value}": None}),
        TEXTS.map(lambda value: {f"bind_pw = {value}": ""}),
    )
    mode = st.sampled_from([None, "0644", "0600", "0640", "0604", 0o600])
    return st.builds(
        lambda kind, entries, mode, secret: {"type": kind, "entries": entries, "mode": mode, "secret": secret},
        st.sampled_from(TABLES),
        entries,
        mode,
        st.sampled_from([True, True, True, "yes", [True]]),
    )


PILLARS = st.one_of(
    st.sampled_from(PLACES).flatmap(lambda place: SHAPES.map(lambda value: at(place[0], value, place[1]))),
    st.sampled_from([(path, name) for path, names in GLUED for name in names]).map(
        lambda glued: at(glued[0], {glued[1].format(MARK): None})
    ),
    st.sampled_from(BESIDE).map(lambda one: at(one[0], one[1].format(MARK), one[2])),
    tables(SHAPES).map(lambda table: {"maps": {"logins": table}}),
)


@pytest.fixture
def logged(monkeypatch):
    """What the formula's own files log at any level."""
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: "/_modules/" in record.pathname and records.append(record.getMessage())
    monkeypatch.setattr(logging.root, "level", 1)
    logging.root.addHandler(handler)
    yield records
    logging.root.removeHandler(handler)


@pytest.fixture
def shown(minion, logged, pretend, functions):
    """Everything that a pillar makes the formula say: text."""
    pretend("_mta_postfix_stage.refused", lambda *_: [])
    pretend("_mta_postfix_view.show", dict)
    pretend("_mta_postfix_outlook.naming", lambda *_: {})
    pretend("_mta_tables.missing_types", lambda types: [])
    pretend("_mta_tables.default_type", lambda: "hash")

    functions["sdb.get"] = lambda _uri: None
    functions["cp.cache_files"] = lambda urls, _: [str(REPOSITORY / url.replace("salt://", "")) for url in urls]

    def say(pillar):
        logged.clear()
        host = minion._replace(pillar={"postfix_mta": pillar}, context={})
        effective = _mta_settings.current(host, "base")
        said = [json.dumps(effective), *_mta_valid.problems(host, "postfix_mta", None, None, None)]
        for table in effective["maps"].values():
            arguments = {key: value for key, value in table.items() if value is not None}
            try:
                said.append(_mta_tables_manage.plan(host, **arguments))
            except (SaltException, ValueError) as err:
                # What a state says of an error that nobody foresaw.
                said += [str(err), repr(err)]
        return "\n".join(map(str, said + logged))

    return say


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pillar=PILLARS)
def test_no_mistake_shows_a_secret(shown, pillar):
    text = shown(pillar)
    assert MARK not in text
    assert str(NUMBER) not in text
