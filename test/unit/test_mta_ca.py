"""The host's own authority: renewed with its key and name, never overwritten, its passphrase seen nowhere."""

import datetime
import json
import logging
import pathlib

import pytest
from certificate_host import DAY, HOST, PASSPHRASE, PREVIOUS, RUNNING, SECRET, Host, private_pem, refused
from cryptography.hazmat.primitives import serialization

import _mta_apply
import _mta_snapshots


@pytest.fixture
def host(tmp_path, minion, pretend):
    return Host(tmp_path / "ssl", minion, pretend)


@pytest.fixture
def secret(host):
    """A pillar with a passphrase for the authority's key."""
    host.passphrase(SECRET)


# -- the authority -----------------------------------------------------------------------------


def test_the_authority_is_renewed_with_its_key_and_name_and_old_certificates_stay_valid(host):
    host.settle(days=3650 + 30, renew_days=10)
    old, key = host.loaded(host.ca), host.ca_key.read_bytes()
    host.now += (3650 - 30) * DAY - DAY
    assert host.authority()["changes"] == {}
    host.now += 4 * DAY
    predicted = host.authority(test=True)["changes"]
    assert list(predicted) == [str(host.ca), "activation"]
    assert host.authority()["changes"] == predicted
    new = host.loaded(host.ca)
    assert (new.subject, new.public_key()) == (old.subject, old.public_key())
    assert new.serial_number != old.serial_number
    assert host.ca_key.read_bytes() == key
    host.accepted_by_openssl()
    assert host.authority()["changes"] == {}


def test_an_authority_with_another_name_than_asked_for_keeps_it(host):
    host.authority(common_name="First")
    result = host.authority(common_name="Second")
    assert result["changes"] == {}
    assert "keeps its name CN=First" in result["comment"]


def test_an_authority_without_its_key_is_an_error(host):
    host.authority()
    before = host.ca.read_bytes()
    host.ca_key.unlink()
    for test in (True, False):
        refused(host.authority(test=test), "is there without its key")
    assert host.ca.read_bytes() == before
    assert not host.ca_key.exists()


def test_a_lost_authority_certificate_comes_back_from_its_key_and_old_certificates_stay_valid(host):
    host.settle()
    host.ca.unlink()
    predicted = host.apply(test=True)
    assert predicted[1]["changes"] == {}
    results = host.settle()
    assert [result["changes"] for result in results] == [result["changes"] for result in predicted]
    host.accepted_by_openssl()


def test_files_that_are_no_authority_are_errors_and_stay(host):
    host.settle()
    for contents, words in (
        (b"nonsense", "is not a PEM certificate"),
        (host.certificate.read_bytes(), "does not belong to the authority"),
    ):
        host.ca.write_bytes(contents)
        refused(host.authority(), words)
        assert host.ca.read_bytes() == contents
    host.ca_key.write_bytes(host.key.read_bytes())
    refused(host.authority(), "is no authority's certificate")
    host.ca_key.write_bytes(b"nonsense")
    refused(host.authority(), "is not a PEM private key")


def test_the_how_tos_own_authority_is_taken_over(host, secret):
    """``openssl req -new -x509 -extensions v3_ca`` makes a certificate without key usage."""
    host.ca.parent.mkdir(parents=True)
    host.ca_key.parent.mkdir(mode=0o700)
    host.openssl(
        *("req", "-new", "-x509", "-extensions", "v3_ca", "-keyout", host.ca_key, "-out", host.ca),
        *("-days", "3650", "-subj", "/C=CH/O=Example/CN=Old CA", "-passout", f"pass:{SECRET}"),
    )
    host.now += datetime.timedelta(minutes=1)  # its validity began after the test did
    old, key = host.loaded(host.ca), host.ca_key.read_bytes()
    predicted = host.apply(test=True)
    results = host.settle()
    assert [result["changes"] for result in results] == [result["changes"] for result in predicted]
    assert "strict clients refuse it" in results[0]["comment"]
    new = host.loaded(host.ca)
    assert (new.subject, new.public_key()) == (old.subject, old.public_key())
    assert host.ca_key.read_bytes() == key
    assert host.loaded().issuer.rfc4514_string() == "CN=Old CA,O=Example,C=CH"
    host.accepted_by_openssl()
    host.ca.write_bytes(old.public_bytes(serialization.Encoding.PEM))
    host.openssl("verify", "-verify_hostname", HOST, "-CAfile", host.ca, host.certificate)


# -- the passphrase ----------------------------------------------------------------------------


def test_the_passphrase_locks_the_authoritys_key_and_appears_nowhere(host, secret, monkeypatch):
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    monkeypatch.setattr(logging.root, "handlers", [handler])
    monkeypatch.setattr(logging.root, "level", 1)
    shown = json.dumps([*host.apply(test=True), *host.settle()])
    assert b"ENCRYPTED" in host.ca_key.read_bytes()
    assert b"ENCRYPTED" not in host.key.read_bytes()
    for text in (shown, "".join(records)):
        assert SECRET not in text
        assert "PRIVATE KEY" not in text
    host.openssl("pkey", "-in", host.ca_key, "-noout", "-passin", "stdin", input=SECRET + "\n")


def test_a_wrong_passphrase_is_an_error_even_when_nothing_has_to_be_signed(host, secret):
    host.settle()
    before = host.contents()
    host.passphrase("wrong one")
    for test in (True, False):
        result = host.authority(test=test)
        refused(result, "is not decrypted by the passphrase")
        assert "wrong one" not in result["comment"]
    host.passphrase(None)
    refused(host.authority(), "no passphrase is given")
    assert host.contents() == before


def test_a_passphrase_that_comes_later_locks_the_key(host):
    host.settle()
    public = host.loaded(host.ca).public_key()
    host.passphrase(SECRET)
    predicted = host.authority(test=True)["changes"]
    assert host.authority()["changes"] == predicted
    assert predicted[str(host.ca_key)]["new"]["encrypted"] is True
    key = serialization.load_pem_private_key(host.ca_key.read_bytes(), SECRET.encode())
    assert key.public_key() == public
    assert host.settle()[0]["changes"] == {}


def unlocked_keys(folder, *allowed):
    """Files with the authority's key in a form that a passphrase change was to protect."""
    texts = [path.read_bytes() for path in allowed]
    return [
        str(path)
        for path in folder.rglob("*")
        if path.is_file() and b"PRIVATE KEY" in path.read_bytes() and path.read_bytes() not in texts
    ]


@pytest.fixture
def locked_later(host, tmp_path, request):
    """An authority whose key was not encrypted, in ``originals`` too where it was there first; then it is."""
    if request.param == "own":
        host.ca_key.parent.mkdir(parents=True, mode=0o700)
        host.ca_key.write_bytes(private_pem())
        host.ca_key.chmod(0o644)
    result = host.authority()
    assert result["result"] is True, result
    host.before = host.ca_key.read_bytes()
    assert (request.param == "own") == bool(unlocked_keys(tmp_path / "state" / "originals"))
    host.passphrase(SECRET)
    return host


@pytest.mark.parametrize("locked_later", ["made", "own"], indirect=True)
def test_no_store_keeps_a_key_that_was_encrypted(locked_later, tmp_path, minion):
    host = locked_later
    assert host.authority()["result"] is True
    assert b"ENCRYPTED" in host.ca_key.read_bytes()
    assert unlocked_keys(tmp_path / "state") == []
    # A roll back does not bring it back either, and says so.
    locked = host.ca_key.read_bytes()
    taken_back = _mta_apply.roll_back(minion)
    assert taken_back["result"] is False
    assert f"{host.ca_key} stays as it is: it was encrypted" in taken_back["comment"]
    restored = _mta_apply.participate(minion, "mta_transaction.restored", "postfix_mta", {})
    assert restored["result"] is True, restored["comment"]
    if host.ca_key.exists():
        assert host.ca_key.read_bytes() == locked


@pytest.mark.parametrize("locked_later", ["made", "own"], indirect=True)
def test_a_roll_back_takes_the_rest_back_and_leaves_the_key_encrypted(locked_later, tmp_path, minion):
    host = locked_later
    host.now += 3630 * DAY
    before = host.ca.read_bytes()
    assert set(host.authority()["changes"]) == {str(host.ca), str(host.ca_key), "activation"}
    locked = host.ca_key.read_bytes()
    predicted = _mta_apply.roll_back(minion, test=True)
    taken_back = _mta_apply.roll_back(minion)
    assert taken_back["result"] is True, taken_back["comment"]
    assert taken_back["changes"] == predicted["changes"]
    assert str(host.ca_key) not in taken_back["changes"]
    assert "stays as it is: it was encrypted" in taken_back["comment"]
    assert (host.ca.read_bytes(), host.ca_key.read_bytes()) == (before, locked)
    assert unlocked_keys(tmp_path / "state") == []


@pytest.mark.parametrize("locked_later", ["made", "own"], indirect=True)
def test_an_undone_passphrase_leaves_key_and_stores_as_they_were(locked_later, tmp_path, pretend):
    host, stores = locked_later, (tmp_path / "state" / "originals", tmp_path / "state" / "previous")
    before = [{path: path.read_bytes() for path in store.rglob("*") if path.is_file()} for store in stores]
    problems = {"answers": False, "speaking": [], "problems": ["no answer"], "notes": [], "transcript": []}
    answers = iter([{**problems, "problems": []}])
    pretend("_mta_judge.check", lambda **_: next(answers, problems))
    pretend("_mta_services.status", lambda names: {name: RUNNING for name in names})
    for action in ("restart", "reload", "stop", "start"):
        pretend(f"_mta_services.{action}", lambda *_, **__: None)
    assert host.authority()["result"] is False
    assert host.ca_key.read_bytes() == host.before
    assert [{path: path.read_bytes() for path in store.rglob("*") if path.is_file()} for store in stores] == before


@pytest.mark.parametrize("locked_later", ["own"], indirect=True)
def test_a_run_that_is_killed_after_its_commit_is_made_up_for_by_the_next_change(
    locked_later, tmp_path, context, monkeypatch
):
    host = locked_later
    with monkeypatch.context() as killed:
        killed.setattr(_mta_snapshots, "protect", lambda minion: None)
        assert host.authority()["result"] is True
    assert len(unlocked_keys(tmp_path / "state", host.ca_key)) == 2
    context.clear()
    assert host.pair()["result"] is True
    assert unlocked_keys(tmp_path / "state", host.ca_key, host.key) == []


@pytest.mark.parametrize("locked_later", ["own"], indirect=True)
def test_the_key_of_another_authority_stays_in_the_store(locked_later, tmp_path):
    host, other = locked_later, private_pem()
    (entry,) = [path.parent for path in (tmp_path / "state" / "originals").glob("*/content")]
    (entry / "content").write_bytes(other)
    assert host.authority()["result"] is True
    assert [pathlib.Path(path).read_bytes() for path in unlocked_keys(tmp_path / "state", host.ca_key)] == [other]


def test_a_change_of_the_passphrase_forgets_what_the_former_one_opens(host, secret, tmp_path):
    host.settle()
    former = host.ca_key.read_bytes()
    host.passphrase("a new one", SECRET)
    assert host.authority(previous_passphrase_pillar=PREVIOUS)["result"] is True
    assert [path for path in (tmp_path / "state").rglob("content") if path.read_bytes() == former] == []


@pytest.mark.parametrize("value", [1234, "", ["a"], "x" * 1024])
def test_a_passphrase_that_is_no_usable_text_is_refused_without_showing_it(host, value):
    host.passphrase(value)
    refused(host.authority(), f"Pillar {PASSPHRASE} must be a text of 1 to 1023 bytes")
    assert "1234" not in host.authority()["comment"]


def test_a_passphrase_can_come_from_sdb(host, pretend):
    host.passphrase("sdb://safe/ca")
    pretend("sdb.get", lambda uri: {"sdb://safe/ca": SECRET}[uri])
    assert host.authority()["result"] is True
    host.openssl("pkey", "-in", host.ca_key, "-noout", "-passin", "stdin", input=SECRET + "\n")
    pretend("sdb.get", lambda uri: uri)
    refused(host.authority(), "leads to nothing")


# -- access and passphrases --------------------------------------------------------------------


def test_the_passphrase_is_changed_by_the_pillar_that_has_both(host, secret):
    both = {"previous_passphrase_pillar": PREVIOUS}
    host.settle()
    host.passphrase("a new one", SECRET)
    refused(host.authority(), "is not decrypted by the passphrase")
    predicted = host.authority(test=True, **both)
    assert host.pair(test=True, hostname="new.example.com", **both)["result"] is None
    result = host.authority(**both)
    assert result["changes"] == predicted["changes"]
    assert list(result["changes"]) == [str(host.ca_key), "activation"]
    assert not {SECRET, "a new one"} & set(json.dumps(result).split('"'))
    host.openssl("pkey", "-in", host.ca_key, "-noout", "-passin", "stdin", input="a new one\n")
    assert host.authority(**both)["changes"] == {}
    assert host.pair(hostname="new.example.com", **both)["result"] is True


# -- what was judged already -------------------------------------------------------------------


def test_no_verdict_about_an_authority_with_a_passphrase_is_kept(host, secret, tmp_path):
    host.settle()
    host.settle()
    assert len(list((tmp_path / "state" / "verdicts").iterdir())) == 1
