"""Records of keys, and signatures: against one that OpenSSL makes over the canonical form of RFC 6376, 3.4.5."""

import base64
import hashlib

import pytest

import _mta_dkim
import _mta_x509
import _mta_x509_make

HEADERS = [("A", "X"), ("B ", "Y\t\r\n\tZ  ")]
BODY = b" C \r\nD \t E\r\n\r\n\r\n"


@pytest.fixture(scope="module")
def key():
    return _mta_x509_make.make_key("rsa", 2048)


@pytest.fixture(scope="module")
def public(key):
    return _mta_x509.describe_key(key)["public"]


@pytest.fixture
def signature(key):
    """A signature over HEADERS and BODY, whose canonical forms the RFC spells out."""
    library = _mta_x509.library()
    digest = base64.b64encode(hashlib.sha256(b" C\r\nD E\r\n").digest()).decode()
    text = f"v=1; a=rsa-sha256; c=relaxed/relaxed; d=x.example; s=k; h=a:b; bh={digest}; b="
    signed = f"a:X\r\nb:Y Z\r\ndkim-signature:{text}".encode()
    made = _mta_x509.load_key(key).sign(signed, library.padding.PKCS1v15(), library.hashes.SHA256())
    encoded = base64.b64encode(made).decode()
    return f"{text}{encoded[:60]}\r\n\t{encoded[60:]}"


def test_a_good_signature_is_good(signature, public):
    headers = [(name.strip(), value) for name, value in HEADERS]
    assert _mta_dkim.problem(signature, headers, BODY, public) is None


@pytest.mark.parametrize(
    ("headers", "body", "reason"),
    [
        ([("A", "Z"), HEADERS[1]], BODY, "not by the key"),
        (HEADERS, BODY + b"more", "the message's body"),
    ],
)
def test_what_was_changed_is_told(signature, public, headers, body, reason):
    headers = [(name.strip(), value) for name, value in headers]
    assert reason in _mta_dkim.problem(signature, headers, body, public)


def test_a_signature_by_another_key_is_none(signature):
    other = _mta_x509.describe_key(_mta_x509_make.make_key("rsa", 2048))["public"]
    headers = [(name.strip(), value) for name, value in HEADERS]
    assert "not by the key" in _mta_dkim.problem(signature, headers, BODY, other)


def test_a_record_is_the_same_key_however_it_is_written(public):
    record = _mta_dkim.record(public)
    assert _mta_dkim.same_key(record.replace("; ", ";").replace("p=", "t=s; p= "), record)
    assert not _mta_dkim.same_key("v=DKIM1; k=rsa; p=", record)
