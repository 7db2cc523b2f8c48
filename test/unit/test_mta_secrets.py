"""Secrets come from pillar or sdb, and no error shows them."""

import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_secrets


@pytest.fixture
def get(minion, pillar):
    """Look a secret up in a pillar."""

    def look_up(value, path="mail:secret"):
        pillar["mail"] = {"secret": value}
        return _mta_secrets.get(minion, path)

    return look_up


def test_a_secret_comes_from_its_pillar_path(get):
    assert get("hush") == "hush"


@pytest.mark.parametrize("path", [None, "", "mail:other", "nothing:here"])
def test_no_secret_is_none(get, path):
    assert get("hush", path) is None


def test_an_sdb_uri_is_followed(get, functions):
    functions["sdb.get"] = {"sdb://vault/secret": "hush"}.get
    assert get("sdb://vault/secret") == "hush"


@pytest.mark.parametrize("answer", [None, "", "sdb://vault/secret"])
def test_an_sdb_uri_that_leads_to_nothing_is_an_error(get, functions, answer):
    functions["sdb.get"] = lambda uri: answer
    with pytest.raises(CommandExecutionError, match="leads to nothing"):
        get("sdb://vault/secret")


@pytest.mark.parametrize("value", [12345678, True, ["hush-hush"], {"hush-hush": 1}, "", "hush" * 256])
def test_what_is_no_text_of_a_sensible_length_is_refused_without_showing_it(get, value):
    with pytest.raises(SaltInvocationError, match="mail:secret") as caught:
        get(value)
    assert "hush" not in str(caught.value) and "12345678" not in str(caught.value)


@pytest.mark.parametrize("secret", ["hush\n", "hush\r\n", "hush\r", "hu\nsh"])
def test_a_secret_of_more_than_one_line_is_refused_without_showing_it(get, functions, secret):
    functions["sdb.get"] = {"sdb://vault/secret": secret}.get
    for value in (secret, "sdb://vault/secret"):
        with pytest.raises(SaltInvocationError, match="mail:secret has a line break") as caught:
            get(value)
        assert "hu" not in str(caught.value)


def test_pem_text_has_lines(minion, pillar):
    pillar["key"] = "-----BEGIN PRIVATE KEY-----\nx\n"
    assert _mta_secrets.get(minion, "key", one_line=False) == pillar["key"]
