"""Whether users may send as themselves, as tables answer."""

import pwd

import pytest

import _mta_sender_logins
from _mta_system import Finished

DOMAINS = ["mail.example.com", "example.com"]


@pytest.fixture
def disowned(monkeypatch):
    """``disowned(value, answers)``: with what postmap(1) answers, by table: ``{key: logins}``, or an error."""

    def look(value, answers, users=("alice", "bob")):
        def run(command, stdin, timeout, check):
            answer = answers.get(command[-1], {})
            if isinstance(answer, str):
                return Finished(1, b"", answer.encode())
            lines = [f"{key}\t{answer[key]}\n" for key in stdin.splitlines() if key in answer]
            return Finished(int(not lines), "".join(lines).encode(), b"")

        monkeypatch.setattr("_mta_system.run", run)
        entries = [pwd.struct_passwd((name, "x", 4000, 4000, "", "/", "/bin/sh")) for name in (*users, "nobody")]
        monkeypatch.setattr(pwd, "getpwall", lambda: entries)
        return _mta_sender_logins.disowned(value, users, DOMAINS)

    return look


NOBODYS = "inline:{ {nobody@mail.example.com = nobody} }"


@pytest.mark.parametrize(
    ("value", "answers", "expected"),
    [
        (NOBODYS, {}, True),
        (
            "inline:{ {alice@example.com = bob} }",
            {"inline:{ {alice@example.com = bob} }": {"alice@example.com": "bob"}},
            True,
        ),
        ("hash:/nowhere/logins", {}, True),
        ("hash:/a", {"hash:/a": {"bob@example.com": "alice, bob"}}, False),
        ("hash:/a", {"hash:/a": {"bob": "Bob@example.com"}}, False),
        ("hash:/a", {"hash:/a": {"@example.com": "alice"}}, False),
        (f"{NOBODYS}, mysql:/b", {"mysql:/b": {"alice@mail.example.com": "alice"}}, False),
        (f"{NOBODYS}, mysql:/b", {}, False),
        ("hash:/a", {"hash:/a": "postmap: fatal: open database /a.db: No such file or directory"}, False),
        ("inline:{ {info@example.com = someone-in-a-directory} }", {}, False),
    ],
)
def test_nobody_owns_an_address_of_his_own(disowned, value, answers, expected):
    assert disowned(value, answers) is expected


def test_without_users_there_is_nobody_to_ask_for(disowned):
    assert disowned(NOBODYS, {}, users=()) is False


def test_the_first_table_that_has_an_address_counts(disowned):
    first, second = "inline:{ {alice@mail.example.com = nobody} }", "hash:/a"
    answers = {first: {"alice@mail.example.com": "nobody"}, second: {"alice@mail.example.com": "alice"}}
    assert disowned(f"{first} {second}", answers, users=("alice",)) is True
    assert disowned(f"{second} {first}", answers, users=("alice",)) is False
