"""mta_x509: over text and data alone."""

import datetime

import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError

NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.timezone.utc)
DAY = datetime.timedelta(days=1)
HOST = "mail.example.com"


@pytest.fixture
def x509(modules):
    """The module's functions by name."""
    return lambda function, *args, **kwargs: modules[f"mta_x509.{function}"](*args, **kwargs)


@pytest.fixture
def made(x509):
    """A key, and a function that makes a certificate which signs itself."""
    key = x509("make_key", "ec", 256)
    public = x509("describe_key", key)["public"]

    def certificate(days=90, fields=None, names=(HOST,)):
        fields = {"COMMON_NAME": HOST} if fields is None else fields
        return x509("make_certificate", public, NOW, days, fields, list(names), key)

    return key, certificate


def test_only_certificates_or_only_the_first_key_is_picked(x509, made):
    key, certificate = made
    text = (
        b"Bag Attributes\r\n" + key.replace(b"\n", b"\r\n") + b"subject=x\n" + certificate() + key + certificate()
    )
    assert x509("pick", text, "key") == key
    assert x509("pick", text, "certificates").count(b"BEGIN CERTIFICATE") == 2
    assert b"PRIVATE" not in x509("pick", text, "certificates")
    assert x509("pick", b"nothing", "key") == x509("pick", b"nothing", "certificates") == b""


@pytest.mark.parametrize(
    "wanted",
    [
        {"country": "de", "organization": 'Müller, "A+B" <x>; Söhne', "unit": "#1 \\ #2", "email": "a@b.example"},
        {"state": "Bern", "locality": "x=y"},
    ],
)
def test_a_planned_subject_is_shown_as_that_of_the_certificate_is(x509, made, wanted):
    fields = x509("check_subject", wanted, HOST)
    (facts,) = x509("describe", made[1](fields=fields))
    assert x509("subject_text", fields) == facts["subject"]
    assert x509("encode_subject", fields) == facts["name"]


@pytest.mark.parametrize(("days", "renew_days", "before"), [(825, None, 30), (60, None, 20), (825, 100, 100)])
def test_renewal_begins_at_a_third_of_the_lifetime_or_30_days_before_the_end(x509, made, days, renew_days, before):
    pem = made[1](days)
    (facts,) = x509("describe", pem, renew_days)
    assert 0.9 * before * DAY <= facts["not_after"] - facts["renewal"] <= before * DAY
    assert x509("describe", pem, renew_days) == [facts]


def test_certificates_made_together_are_renewed_at_different_moments(x509, made):
    moments = [x509("describe", made[1]())[0]["renewal"] for _ in range(40)]
    assert len(set(moments)) == 40
    assert 2 * DAY < max(moments) - min(moments) < 3 * DAY


def test_times_after_2049_are_written_and_read(x509, made):
    (facts,) = x509("describe", made[1](36500))
    assert facts["not_after"] == NOW + 36500 * DAY


def test_a_certificate_that_is_not_valid_yet_is_told(x509, made):
    assert x509("problems", made[1](), NOW) == []
    (problem,) = x509("problems", made[1](), NOW - DAY)
    assert "it is not valid before" in problem and "the clock says" in problem


def test_a_chain_with_an_expired_authority_is_told(x509, made):
    key, certificate = made
    leaf, authority = certificate(), x509("make_authority", key, NOW - 100 * DAY, 50, {"COMMON_NAME": HOST})
    problems = x509("problems", leaf + authority, NOW, "any")
    assert any("its chain is not valid now" in problem for problem in problems)


def test_a_pair_loads_as_a_server_loads_it_or_not(x509, made):
    key, certificate = made
    assert x509("serve", certificate(), NOW, key) == []
    (problem,) = x509("serve", certificate(), NOW, x509("make_key", "ec", 384))
    assert "a TLS server cannot load the key and the certificate" in problem


@pytest.mark.parametrize(("kind", "size"), [("rsa", 2048), ("ec", 256), ("ec", 384), ("ed25519", None)])
def test_a_request_says_what_was_asked_for(x509, kind, size):
    key = x509("make_key", kind, size)
    told = x509("describe_request", x509("make_request", key, {"COMMON_NAME": HOST}, [HOST, "192.0.2.1"]))
    facts = x509("describe_key", key)
    assert told.pop("public_pem").startswith("-----BEGIN PUBLIC KEY-----")
    assert told == {
        "public": facts["public"],
        "key": facts["key"],
        "subject": f"CN={HOST}",
        "names": [HOST, "192.0.2.1"],
    }


def test_a_key_is_locked_anew(x509):
    key = x509("make_key", "ec", 256, b"old")
    locked = x509("lock_key", key, b"new", b"old")
    assert x509("is_locked", locked)
    assert x509("describe_key", locked, b"new") == x509("describe_key", key, b"old")
    for passphrase, words in ((None, "no passphrase is given"), (b"old", "is not unlocked by the passphrase")):
        with pytest.raises(CommandExecutionError, match=words):
            x509("describe_key", locked, passphrase)


def test_names_and_subjects_are_normalised(x509):
    names = ["MAIL.example.com.", "mail.example.com", "2001:DB8:0::1"]
    assert x509("check_names", names) == [HOST, "2001:db8::1"]
    assert x509("check_subject", {"O": " Example ", "c": "ch"}, HOST) == {
        "COUNTRY_NAME": "CH",
        "ORGANIZATION_NAME": "Example",
        "COMMON_NAME": HOST,
    }
    assert x509("check_subject", None, "a" * 65) == {}
    with pytest.raises(SaltInvocationError, match="Unknown subject field"):
        x509("check_subject", {"planet": "Mars"})
