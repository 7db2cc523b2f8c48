"""
Lookup tables of every type that Debian packages: created, changed, emptied, removed, damaged and healed, while a
client looks them up all the time and never gets a wrong answer or a temporary error.
"""

import contextlib
import json
import pathlib
import re
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from salt.exceptions import SaltInvocationError

import _mta_table_syntax
import _mta_tables_manage
from rig import results

CLIENT = pathlib.Path(__file__).with_name("client.py")
EXPECTED, OUTPUT = "/srv/expected.json", "/srv/lookups"
SECRET = "geheim-7431"
INDEXED = {"hash": ".db", "btree": ".db", "lmdb": ".lmdb", "cdb": ".cdb"}
RULES = ("pcre", "regexp", "cidr")
SCHEMA = "CREATE TABLE users (mail TEXT, box TEXT); INSERT INTO users VALUES ('info@example.com', 'alice');"
QUERY = "SELECT box FROM users WHERE mail = '%s'"


def entries(kind, value, more=False):
    """Two entries of a table of a type; the second is there ``more`` often than not."""
    if kind == "cidr":
        return ["192.0.2.1 first", f"192.0.2.0/24 {value}", *([f"198.51.100.0/24 {value}"] if more else [])]
    if kind in RULES:
        return ["/^first@/ first", f"/@example.com$/ {value}", *([f"/^more/ {value}"] if more else [])]
    return {"info@example.com": value, **({"more": value} if more else {})}


def questions(kind, *values):
    """What the client asks a table of a type, and the answers that are right at some time."""
    first = ["first", None] if None in values else ["first"]
    if kind == "cidr":
        return [["192.0.2.1", first], ["192.0.2.9", list(values)], ["203.0.113.1", [None]]]
    if kind in RULES:
        return [["first@example.com", first], ["info@example.com", list(values)], ["none", [None]]]
    return [["info@example.com", list(values)], ["none", [None]]]


COPIED = "# by hand\n\ninfo@example.com   bob,\n  alice\n"
KINDS = (*INDEXED, "texthash", *RULES)


def maps(value, more=False, **others):
    """The pillar's tables, all with a value."""
    tables = {f"t_{kind}": {"type": kind, "entries": entries(kind, value, more)} for kind in KINDS}
    tables["users"] = {
        "type": "sqlite",
        "entries": {"dbpath": "/srv/users.db", "query": QUERY},
    }
    tables["copied"] = {"type": "hash", "source": "salt://tables/copied"}
    tables["virtual"] = {"entries": {"info@example.org": value if "@" in value else f"{value}@example.com"}}
    tables["logins"] = {"entries": {"[smtp.example.net]:587": {"secret": f"alice:{SECRET}"}}}
    tables["words"] = {"type": "inline", "entries": {"a": "b c"}}
    return {**tables, **others}


def pillar(tables, **parameters):
    """The whole pillar, with the tables named in main.cf."""
    named = {"virtual_alias_maps": "{maps.virtual}, {maps.words}", "virtual_alias_domains": "example.org"}
    return {
        "postfix_mta": {"root_recipient": "alice", "maps": tables, "parameters": {**named, **parameters}},
    }


def applied(container, data, ok=True):
    """The results of an apply that succeeds, or is one that fails."""
    found = container.apply(pillar=data)
    assert bool(results.failures(found)) != ok, results.failures(found)
    return found


def path(kind):
    return f"/etc/postfix/t_{kind}"


def ask(container, kind, *values):
    """From now on the client expects one of these values in the table of a type; without any it does not ask."""
    container.exec(
        ["python3", "-c", "import json,sys;p=sys.argv[1];d=json.load(open(p));d.update(json.loads(sys.argv[2]));"
         "import os;json.dump(d,open(p+'~','w'));os.rename(p+'~',p)",
         EXPECTED, json.dumps({f"{kind}:{path(kind)}": questions(kind, *values) if values else []})]
    )  # fmt: skip


def put_source(container, text):
    """Put the source of the table ``copied`` on the file server."""
    container.put({f"{container.root}srv/salt/tables/copied": text})


@pytest.fixture(scope="module")
def client(container):
    """The client at work; called, it ends and returns the lines that it wrote."""
    container.exec("useradd --create-home alice; useradd --create-home bob", check=False)
    container.copy(CLIENT, "/srv/client.py")
    container.exec(
        ["python3", "-c", f"import sqlite3; sqlite3.connect('/srv/users.db').executescript({SCHEMA!r})"]
    )
    put_source(container, COPIED)
    applied(container, pillar(maps("one")))
    tables = {f"{kind}:{path(kind)}": questions(kind, "one") for kind in KINDS}
    tables["sqlite:/etc/postfix/users"] = [["info@example.com", ["alice"]], ["none", [None]]]
    tables["smtpd"] = [["info@example.org", ["250"]], ["none@example.org", ["550"]]]
    container.put({EXPECTED: json.dumps(tables)})
    # Stopped by itself: a postmap that is stopped with it has no answer.
    unit = ["systemd-run", "--unit=lookups", "--property=KillMode=mixed", "--quiet"]
    container.exec([*unit, "python3", "/srv/client.py", EXPECTED, OUTPUT])

    def ended():
        container.exec(["systemctl", "stop", "lookups"])
        return container.exec(["cat", OUTPUT]).stdout.splitlines()

    return ended


def test_tables_of_every_type_are_created_and_answer(container, client):
    for kind in KINDS:
        key = questions(kind, "one")[-2][0]
        assert container.call("postconf.lookup", f"{kind}:{path(kind)}", key) == "one", kind
    assert container.call("postconf.lookup", "virtual_alias_maps", "a") == "b c"
    assert container.call("postconf.lookup", "virtual_alias_maps", "nobody") is None
    assert container.call("postconf.lookup", "sqlite:/etc/postfix/users", "info@example.com") == "alice"


def test_a_second_apply_changes_nothing_and_starts_no_program_of_postfix(container, client):
    found = container.exec(
        "apt-get -qq install strace >/dev/null 2>&1; strace -f -qq -e trace=execve -o /tmp/trace"
        " salt-call --local --out=json state.apply postfix_mta >/tmp/second 2>&1; cat /tmp/second"
    ).stdout
    states = json.loads(found[found.index("{") :])["local"]
    assert results.failures(states) == [] and results.changed(states) == set()
    programs = container.exec("cat /tmp/trace").stdout
    assert "execve(" in programs
    assert not re.search(r'execve\("[^"]*/(postmap|postconf|postalias|postfix)"', programs)


def test_secrets_are_readable_by_root_alone_in_both_forms_and_shown_nowhere(container, client):
    listing = container.exec("stat -c '%a %U %G' /etc/postfix/logins /etc/postfix/logins.db").stdout
    assert listing.split("\n")[:2] == ["600 root root"] * 2
    assert container.exec(f"grep -rl {SECRET} /var/log /etc /tmp", check=False).stdout.split() == [
        "/etc/postfix/logins",
        "/etc/postfix/logins.db",
    ]


def test_no_mode_lets_others_read_a_secret(container, client):
    listing = "stat -c '%a %U %G' /etc/postfix/logins /etc/postfix/logins.db"
    secret = maps("one")["logins"]
    for mode, ok, expected in (("0644", False, "600 root root"), ("0640", True, "640 root postfix")):
        found = applied(container, pillar(maps("one", logins={**secret, "mode": mode})), ok=ok)
        assert SECRET not in str(found)
        assert container.exec(listing).stdout.split("\n")[:2] == [expected] * 2
    container.put({f"{container.root}srv/salt/tables/users": f"hosts = localhost\npassword = {SECRET}\n"})
    served = {"type": "texthash", "source": "salt://tables/users", "secret": True, "mode": "0644"}
    found = applied(container, pillar(maps("one", served=served)), ok=False)
    assert "postfix_mta:maps:served:mode" in str(found) and SECRET not in str(found)
    applied(container, pillar(maps("one")))


def test_all_tables_change_while_they_are_looked_up(container, client):
    for kind in KINDS:
        ask(container, kind, "one", "two")
    tables = maps("two", more=True)
    dry = container.apply(test=True, pillar=pillar(tables))
    found = applied(container, pillar(tables))
    assert results.difference(dry, found) == []
    for kind in KINDS:
        ask(container, kind, "two")
    time.sleep(1)


def test_a_table_from_the_file_server_is_that_file_and_follows_it(container, client):
    assert container.exec("cat /etc/postfix/copied").stdout == COPIED
    assert container.call("postconf.lookup", "hash:/etc/postfix/copied", "info@example.com") == "bob,  alice"
    text = COPIED.replace("bob", "carol") + "# end"
    put_source(container, text)
    found = applied(container, pillar(maps("two", more=True)))
    changed = {key.split("_|-")[1]: found[key]["changes"] for key in results.changed(found)}
    assert set(changed) == {"postfix_mta_map_copied", "postfix_mta_committed"}
    assert changed["postfix_mta_map_copied"]["info@example.com"] == {"old": "bob,  alice", "new": "carol,  alice"}
    assert container.exec("cat /etc/postfix/copied").stdout == text
    assert container.call("postconf.lookup", "hash:/etc/postfix/copied", "info@example.com") == "carol,  alice"


DAMAGED = (
    "touch -r {0} /tmp/old; printf XXXX | dd of={0} bs=1 seek=$(($(stat -c %s {0}) / 2)) conv=notrunc status=none"
)


# Each in another way, so that one apply heals them all.
DAMAGE = {
    "hash": "rm {0}",
    "btree": "touch -r {0} /tmp/old; truncate -s 4096 {0}; touch -r /tmp/old {0}",
    "lmdb": ": > {0}",
    "cdb": f"{DAMAGED}; touch -r /tmp/old {{0}}",
}


def test_compiled_forms_that_were_deleted_or_damaged_are_healed(container, client):
    for kind in INDEXED:
        ask(container, kind)
    time.sleep(0.5)
    container.exec("; ".join(DAMAGE[kind].format(path(kind) + suffix) for kind, suffix in INDEXED.items()))
    found = applied(container, pillar(maps("two", more=True)))
    healed = {key.split("_|-")[1] for key in results.changed(found)}
    assert healed == {"postfix_mta_committed", *(f"postfix_mta_map_t_{kind}" for kind in INDEXED)}
    for kind in INDEXED:
        ask(container, kind, "two")
        assert container.call("postconf.lookup", f"{kind}:{path(kind)}", "more") == "two"


def test_tables_are_emptied(container, client):
    for kind in KINDS:
        ask(container, kind, "two", None)
    empty = {f"t_{kind}": {"type": kind, "entries": {}} for kind in KINDS}
    applied(container, pillar(maps("two", **empty)))
    for kind in KINDS:
        assert container.call("postconf.lookup", f"{kind}:{path(kind)}", "info@example.com") is None
    applied(container, pillar(maps("two")))
    for kind in KINDS:
        ask(container, kind, "two")


def test_a_bad_table_is_undone_with_the_rest(container, client):
    before = container.exec("cd /etc/postfix; sha256sum main.cf t_* virtual* users").stdout
    bad = {"t_pcre": {"type": "pcre", "entries": ["/[/ broken"]}}
    for kind in KINDS:
        ask(container, kind, "two", "three")
    found = applied(container, pillar(maps("three", **bad)), ok=False)
    assert "missing terminating ]" in " ".join(results.failures(found))
    assert container.exec("cd /etc/postfix; sha256sum main.cf t_* virtual* users").stdout == before
    for kind in KINDS:
        ask(container, kind, "two")
    # Only a lookup by the running server shows that: it is in the transaction, too.
    bad = {"broken": {"type": "sqlite", "entries": {"dbpath": "/srv/nosuch.db", "query": QUERY}}}
    found = applied(
        container, pillar(maps("two", **bad), virtual_alias_maps="{maps.virtual}, {maps.broken}"), ok=False
    )
    assert container.exec("cd /etc/postfix; sha256sum main.cf t_* virtual* users").stdout == before


KEYS = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=12)
TRICKY = st.sampled_from(
    ["#x", '"a b"@c', 'a"b', "a\\ b", "\\", '"', "a:", "@x", "ÄÖ@x", "a b", "'", "$x", "{x}", "x="]
)


@pytest.mark.parametrize("kind", ["hash", "lmdb", "texthash"])
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(KEYS | TRICKY, KEYS | TRICKY, min_size=1, max_size=40))
def test_what_is_written_is_what_postfix_reads(container, kind, table):
    pairs = {}
    for key, value in table.items():
        with contextlib.suppress(SaltInvocationError):
            pairs.update(_mta_table_syntax.wanted(kind, {key: value})[0])
    pairs = list({key.casefold(): (key, value) for key, value in pairs.items()}.values())
    container.put({"/srv/fuzz/table": _mta_table_syntax.edited(kind, _mta_tables_manage.HEADER, pairs)})
    compile_it = f"postmap {kind}:/srv/fuzz/table 2>&1; " if kind in INDEXED else ""
    lines = "".join(f"{key}\n" for key, _ in pairs)
    said = container.exec(
        f"{compile_it} postmap -q - {kind}:/srv/fuzz/table 2>&1", input=lines, check=False
    ).stdout
    expected = [f"{key}\t{value}" for key, value in pairs]
    assert [line for line in said.split("\n") if line] == expected


def test_a_table_is_removed_after_main_cf_stopped_naming_it(container, client):
    for kind in KINDS:
        ask(container, kind)
    left = {name: table for name, table in maps("two").items() if not name.startswith("t_")}
    left["virtual"] = None
    found = applied(container, pillar(left, virtual_alias_maps="hash:/etc/postfix/virtual"), ok=False)
    assert "still named by virtual_alias_maps" in " ".join(results.failures(found))
    data = pillar(left, virtual_alias_maps="hash:/etc/postfix/other, {maps.words}")
    left["other"] = {"type": "hash", "entries": {"info@example.org": "bob@example.com"}}
    dry = container.apply(test=True, pillar=data)
    found = applied(container, data)
    assert results.difference(dry, found) == []
    assert container.exec("ls /etc/postfix | grep -E '^(t_|virtual)'", check=False).stdout == ""
    again = applied(container, data)
    assert results.changed(again) == set()


def test_no_lookup_had_a_wrong_answer_or_an_error(client, capsys):
    *wrong, count = client()
    with capsys.disabled():
        print(f"\n{count}")
    assert wrong == []
    assert int(count.split()[1]) > 200
