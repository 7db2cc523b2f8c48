"""_mta_x509: over text and data alone."""

import datetime
import types

import pytest

import _mta_x509
import _mta_x509_make

NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.timezone.utc)
DAY = datetime.timedelta(days=1)
HOST = "mail.example.com"


@pytest.fixture
def made():
    """A key, and a function that makes a certificate which signs itself."""
    key = _mta_x509_make.make_key("ec", 256)
    public = _mta_x509.describe_key(key)["public"]

    def certificate(days=90, fields=None, names=(HOST,)):
        fields = {"COMMON_NAME": HOST} if fields is None else fields
        return _mta_x509_make.make_certificate(public, NOW, days, fields, list(names), key)

    return key, certificate


def test_only_certificates_or_only_the_first_key_is_picked(made):
    key, certificate = made
    text = (
        b"Bag Attributes\r\n" + key.replace(b"\n", b"\r\n") + b"subject=x\n" + certificate() + key + certificate()
    )
    assert _mta_x509.pick(text, "key") == key
    assert _mta_x509.pick(text, "certificates").count(b"BEGIN CERTIFICATE") == 2
    assert b"PRIVATE" not in _mta_x509.pick(text, "certificates")
    assert _mta_x509.pick(b"nothing", "key") == _mta_x509.pick(b"nothing", "certificates") == b""


@pytest.mark.parametrize(("days", "renew_days", "before"), [(825, None, 30), (60, None, 20), (825, 100, 100)])
def test_renewal_begins_at_a_third_of_the_lifetime_or_30_days_before_the_end(made, days, renew_days, before):
    pem = made[1](days)
    (facts,) = _mta_x509.describe(pem, renew_days)
    assert 0.9 * before * DAY <= facts["not_after"] - facts["renewal"] <= before * DAY
    assert _mta_x509.describe(pem, renew_days) == [facts]


def test_certificates_made_together_are_renewed_at_different_moments(made):
    moments = [_mta_x509.describe(made[1]())[0]["renewal"] for _ in range(40)]
    assert len(set(moments)) == 40
    assert 2 * DAY < max(moments) - min(moments) < 3 * DAY


def test_times_after_2049_are_written_and_read(made):
    (facts,) = _mta_x509.describe(made[1](36500))
    assert facts["not_after"] == NOW + 36500 * DAY


def test_a_certificate_that_is_not_valid_yet_is_told(made):
    assert _mta_x509.problems(made[1](), NOW) == []
    (problem,) = _mta_x509.problems(made[1](), NOW - DAY)
    assert "it is not valid before" in problem and "the clock says" in problem


def test_a_chain_with_an_expired_authority_is_told(made):
    key, certificate = made
    leaf, authority = certificate(), _mta_x509_make.make_authority(key, NOW - 100 * DAY, 50, {"COMMON_NAME": HOST})
    problems = _mta_x509.problems(leaf + authority, NOW, _mta_x509.Trust.ANY)
    assert any("its chain is not valid now" in problem for problem in problems)


def test_a_pair_loads_as_a_server_loads_it_or_not(made):
    key, certificate = made
    assert _mta_x509.serve(certificate(), NOW, key) == []
    (problem,) = _mta_x509.serve(certificate(), NOW, _mta_x509_make.make_key("ec", 384))
    assert "a TLS server cannot load the key and the certificate" in problem


def test_dates_of_a_cryptography_before_42_are_read():
    old = types.SimpleNamespace(not_valid_after=datetime.datetime(2026, 1, 1))
    assert _mta_x509.utc(old, "after") == datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
