"""_mta_x509_make: what is made is what was asked for, and what settings may ask for."""

import datetime
import types

import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_x509
import _mta_x509_make

NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.timezone.utc)
HOST = "mail.example.com"


@pytest.mark.parametrize(
    "wanted",
    [
        {"country": "de", "organization": 'Müller, "A+B" <x>; Söhne', "unit": "#1 \\ #2", "email": "a@b.example"},
        {"state": "Bern", "locality": "x=y"},
    ],
)
def test_a_planned_subject_is_shown_as_that_of_the_certificate_is(wanted):
    fields = _mta_x509_make.check_subject(wanted, HOST)
    key = _mta_x509_make.make_key("ec", 256)
    public = _mta_x509.describe_key(key)["public"]
    (facts,) = _mta_x509.describe(_mta_x509_make.make_certificate(public, NOW, 90, fields, [HOST], key))
    assert _mta_x509_make.subject_text(fields) == facts["subject"]
    assert _mta_x509_make.encode_subject(fields) == facts["name"]


@pytest.mark.parametrize(("kind", "size"), [("rsa", 2048), ("ec", 256), ("ec", 384), ("ed25519", None)])
def test_a_request_says_what_was_asked_for(kind, size):
    key = _mta_x509_make.make_key(kind, size)
    told = _mta_x509.describe_request(_mta_x509_make.make_request(key, {"COMMON_NAME": HOST}, [HOST, "192.0.2.1"]))
    facts = _mta_x509.describe_key(key)
    assert told.pop("public_pem").startswith("-----BEGIN PUBLIC KEY-----")
    assert told == {
        "public": facts["public"],
        "key": facts["key"],
        "subject": f"CN={HOST}",
        "names": [HOST, "192.0.2.1"],
    }


def test_a_key_is_encrypted_anew():
    key = _mta_x509_make.make_key("ec", 256, b"old")
    locked = _mta_x509_make.encrypt_key(key, b"new", b"old")
    assert _mta_x509.is_encrypted(locked)
    assert _mta_x509.describe_key(locked, b"new") == _mta_x509.describe_key(key, b"old")
    for passphrase, words in ((None, "no passphrase is given"), (b"old", "is not decrypted by the passphrase")):
        with pytest.raises(CommandExecutionError, match=words):
            _mta_x509.describe_key(locked, passphrase)


def test_an_rsa_key_is_proven_once_and_not_where_it_was_made(monkeypatch):
    lib, proven = _mta_x509.library(), []

    def load(pem, passphrase, unsafe_skip_rsa_key_validation=False):
        proven.append(not unsafe_skip_rsa_key_validation)

    lib.serialization = types.SimpleNamespace(load_pem_private_key=load)
    lib.unproven = {"unsafe_skip_rsa_key_validation": True}
    own = _mta_x509_make.make_key("ec", 256)
    monkeypatch.setattr(_mta_x509, "library", lambda: lib)
    for pem in (own, b"theirs", b"theirs"):
        _mta_x509.load_key(pem, thorough=True)
    assert proven == [False, True, False]


def test_names_and_subjects_are_normalised():
    names = ["MAIL.example.com.", "mail.example.com", "2001:DB8:0::1"]
    assert _mta_x509_make.check_names(names) == [HOST, "2001:db8::1"]
    assert _mta_x509_make.check_subject({"O": " Example ", "c": "ch"}, HOST) == {
        "COUNTRY_NAME": "CH",
        "ORGANIZATION_NAME": "Example",
        "COMMON_NAME": HOST,
    }
    assert _mta_x509_make.check_subject(None, "a" * 65) == {}
    with pytest.raises(SaltInvocationError, match="Unknown subject field"):
        _mta_x509_make.check_subject({"planet": "Mars"})
