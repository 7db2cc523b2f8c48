"""mta_relay: the table of logins, and that no login is seen anywhere but in it."""

import os
import stat

import pytest
import salt.loader
from salt.exceptions import CommandExecutionError, SaltInvocationError

PASSWORD = "pass #word: 7431"
BAD = [
    {"username": "a:b", "password": "geheim"},
    {"username": "a", "password": "geheim "},
    {"username": "a", "password": "geheim\nb c:d"},
    {"username": "a", "password": "geheim\x7f"},
    {"username": "a"},
    {"password": "geheim"},
    {},
]
PILLAR = {
    "mail": {"relay": {"username": "user", "password": PASSWORD}, "alice": {"username": "alice", "password": "x"}},
    "bad": {str(number): login for number, login in enumerate(BAD)},
}
HOP = "[smtp.example.net]:587"
ACTIVATE = {"postfix": "reload"}


@pytest.fixture
def opts(opts):
    return {**opts, "pillar": PILLAR}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "relay_passwords"


@pytest.fixture
def relay(modules, states, path, pretend, monkeypatch):
    """``relay(logins)``: the state, with files written at once and the user of the tests for root."""
    inside = modules["mta_relay.plan"].func.__globals__
    access = inside["_access"]
    monkeypatch.setitem(inside, "_access", lambda name: {**access(name), "owner": "root"})

    def write(target, contents, user=None, group=None, mode=None, activate=None):
        assert (user, group, activate) == ("root", "root", ACTIVATE)
        with open(target, "w", opener=lambda name, flags: os.open(name, flags, int(mode, 8))) as handle:
            handle.write(contents)
        os.chmod(target, int(mode, 8))

    pretend("mta_transaction.write", write)
    pretend("mta_transaction.remove", lambda target, activate=None: os.unlink(target))
    return lambda logins=None: states["mta_relay.managed"](str(path), logins=logins, transaction="postfix_mta")


def test_the_table_has_a_line_for_each_login_and_is_for_root_alone(relay, path):
    done = relay({HOP: "mail:relay", "alice@example.com": "mail:alice"})
    assert done["result"] is True
    assert path.read_text().splitlines()[1:] == [f"{HOP} user:{PASSWORD}", "alice@example.com alice:x"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert relay({HOP: "mail:relay", "alice@example.com": "mail:alice"})["changes"] == {}


def test_no_state_result_shows_a_login(relay, path):
    shown = [relay({HOP: "mail:relay"})]
    path.write_text(path.read_text().replace("7431", "7432"))
    shown.append(relay({HOP: "mail:relay"}))
    shown.append(relay())
    assert [state["changes"][HOP] for state in shown] == [
        {"old": None, "new": "(hidden, changed)"},
        {"old": "(hidden)", "new": "(hidden, changed)"},
        {"old": "(hidden)", "new": None},
    ]
    assert "pass" not in str(shown).replace("relay_passwords", "")
    assert not path.exists()


def test_test_mode_announces_and_writes_nothing(opts, modules, context, path):
    states = salt.loader.states({**opts, "test": True}, modules, {}, None, context=context)
    would = states["mta_relay.managed"](str(path), logins={HOP: "mail:relay"}, transaction="postfix_mta")
    assert (would["result"], would["changes"]["activation"]) == (None, "reload")
    assert not path.exists()


def test_a_mode_that_lets_others_read_is_a_change(relay, path):
    relay({HOP: "mail:relay"})
    path.chmod(0o644)
    assert relay({HOP: "mail:relay"})["changes"] == {
        "mode": {"old": "0644", "new": "0600"},
        "activation": "reload",
    }
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_changed_comment_or_order_is_put_right(relay, path):
    relay({HOP: "mail:relay"})
    path.write_text("# by hand\n" + path.read_text())
    assert set(relay({HOP: "mail:relay"})["changes"]) == {"contents", "activation"}
    assert relay({HOP: "mail:relay"})["changes"] == {}


def test_without_logins_and_without_a_table_there_is_nothing_to_do(relay):
    assert (relay()["result"], relay()["changes"]) == (True, {})


@pytest.mark.parametrize("number", range(len(BAD)))
def test_a_login_that_the_table_cannot_hold_is_refused_without_showing_it(relay, modules, path, number):
    with pytest.raises((SaltInvocationError, CommandExecutionError)) as raised:
        modules["mta_relay.plan"](str(path), {HOP: f"bad:{number}"})
    assert "geheim" not in str(raised.value)


@pytest.mark.parametrize("key", ["", "a b", "#x", "a\nb"])
def test_a_key_that_would_be_another_entry_is_refused(relay, modules, path, key):
    with pytest.raises(SaltInvocationError):
        modules["mta_relay.plan"](str(path), {key: "mail:relay"})
