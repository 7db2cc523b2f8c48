"""Keys and certificates: judged by openssl(1) as well, left alone, renewed or refused."""

import datetime
import itertools
import json
import os
import stat

import pytest
from certificate_host import DAY, HOST, RUNNING, Host, chain_of_three, private_pem, refused
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_apply
import _mta_certificates
import _mta_fleet_ca
import _mta_pem
import _mta_system
import _mta_x509_make


@pytest.fixture
def host(tmp_path, minion, pretend):
    return Host(tmp_path / "ssl", minion, pretend)


@pytest.fixture
def by_hand(host):
    """An authority, a key and a certificate made by the execution functions."""
    host.certificate.parent.mkdir(parents=True)
    host.key.parent.mkdir(mode=0o700)
    host.create_ca(host.ca, host.ca_key, common_name="Test CA", key_type="ec")
    host.create_key(host.key, key_type="ec")
    host.create(host.certificate, host.key, HOST, ca_certificate=str(host.ca), ca_key=str(host.ca_key))
    return host


# -- a fresh host ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [{"key_type": "rsa"}, {"key_type": "ecdsa", "key_size": 384}, {"key_type": "ed25519"}]
)
def test_a_fresh_host_gets_an_authority_that_signs_its_certificate(host, kind):
    assert host.authority(**kind)["result"] is True
    assert host.pair(**kind)["result"] is True
    host.accepted_by_openssl()
    verified = host.verify(host.certificate, key=str(host.key), ca_certificate=str(host.ca), hostname=HOST)
    assert verified == []
    assert host.apply(**kind)[1]["changes"] == {}


def test_the_profile_is_that_of_rfc_5280(host):
    host.settle(alternative_names=["MAIL.example.com.", "smtp.example.com", "192.0.2.1", "2001:db8::1"])
    ca, leaf = host.loaded(host.ca), host.loaded()
    values = {extension.oid._name: extension for extension in ca.extensions}
    assert values["basicConstraints"].critical and values["basicConstraints"].value.ca
    assert values["basicConstraints"].value.path_length == 0
    assert values["keyUsage"].critical and values["keyUsage"].value.key_cert_sign
    assert 3649 <= (ca.not_valid_after_utc - host.now).days <= 3650
    values = {extension.oid._name: extension for extension in leaf.extensions}
    assert values["basicConstraints"].critical and not values["basicConstraints"].value.ca
    assert values["keyUsage"].critical and values["keyUsage"].value.digital_signature
    assert not values["keyUsage"].value.key_encipherment, "an ECDSA key enciphers no keys"
    assert not values["subjectAltName"].critical
    assert host.inspect(host.certificate)["names"] == [
        "mail.example.com",
        "smtp.example.com",
        "192.0.2.1",
        "2001:db8::1",
    ]
    assert 0 < leaf.serial_number < 2**159
    assert leaf.serial_number.bit_length() > 64
    assert leaf.not_valid_before_utc < host.now - datetime.timedelta(minutes=59)
    assert isinstance(leaf.signature_hash_algorithm, hashes.SHA256)


def test_a_host_name_too_long_for_a_common_name_is_in_the_names_only(host):
    name = "a" * 60 + ".example.com"
    assert host.authority()["result"] is True
    assert host.pair(hostname=name)["result"] is True
    leaf = host.loaded()
    assert not leaf.subject.rdns
    assert leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical
    host.openssl("verify", "-x509_strict", "-verify_hostname", name, "-CAfile", host.ca, host.certificate)


def test_without_an_authority_the_certificate_signs_itself(host):
    result = host.pair(ca_certificate=None, ca_key=None)
    assert result["result"] is True
    assert host.verify(host.certificate, key=str(host.key), hostname=HOST) == []
    host.openssl("verify", "-purpose", "sslserver", "-x509_strict", "-CAfile", host.certificate, host.certificate)
    assert host.pair(ca_certificate=None, ca_key=None)["changes"] == {}


def test_a_certificate_of_an_authority_does_not_count_as_signing_itself(host):
    host.settle()
    alone = {"ca_certificate": None, "ca_key": None}
    assert host.verify(host.certificate)[0].startswith("it is not signed by itself but by CN=CA of")
    predicted = host.pair(test=True, **alone)
    assert "it is not signed by itself" in predicted["comment"]
    assert host.pair(**alone)["changes"] == predicted["changes"]
    assert host.loaded().issuer == host.loaded().subject
    assert host.pair(**alone)["changes"] == {}


def test_test_mode_predicts_the_changes_of_a_fresh_host_and_writes_nothing(host, context):
    predicted = host.apply(test=True)
    assert [result["result"] for result in predicted] == [None, None]
    assert not host.folder.exists()
    context.clear()
    assert [result["changes"] for result in host.settle()] == [result["changes"] for result in predicted]


def test_a_second_run_changes_nothing_and_test_mode_says_so(host):
    host.settle()
    before = host.contents()
    for test in (True, False):
        results = host.apply(test=test)
        assert [(result["result"], result["changes"]) for result in results] == [(True, {}), (True, {})]
        assert "is in the correct state" in results[1]["comment"]
    assert host.contents() == before


def test_keys_are_private_from_their_first_moment(host, monkeypatch):
    modes = []
    real = os.replace

    def watch(draft, path):
        modes.append((str(path), stat.S_IMODE(os.stat(draft).st_mode)))
        real(draft, path)

    monkeypatch.setattr(os, "replace", watch)
    os.umask(0o000)
    try:
        host.settle()
        host.create_key(host.folder / "by-hand.key", key_type="ec")
    finally:
        os.umask(0o022)
    assert (str(host.key), 0o600) in modes
    assert (str(host.ca_key), 0o600) in modes
    assert stat.S_IMODE((host.folder / "by-hand.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(host.certificate.stat().st_mode) == 0o644
    assert stat.S_IMODE(host.key.parent.stat().st_mode) == 0o700


# -- renewal of the pair -----------------------------------------------------------------------


def renewed(host, words, new_key=False, **more):
    """One run renews the certificate for this reason, as test mode predicted; the next changes nothing."""
    before, key = host.contents(), host.key.read_bytes() if host.key.exists() else None
    predicted = host.apply(test=True, **more)
    assert host.contents() == before
    results = host.settle(**more)
    assert [result["changes"] for result in results] == [result["changes"] for result in predicted]
    assert results[0]["changes"] == {}
    assert words in results[1]["comment"]
    assert str(host.certificate) in results[1]["changes"]
    assert (host.key.read_bytes() != key) is new_key
    host.accepted_by_openssl()
    assert [result["changes"] for result in host.settle(**more)] == [{}, {}]


def test_nothing_happens_the_day_before_the_window_and_a_renewal_in_it(host):
    host.settle()
    host.now += (825 - 30) * DAY - DAY
    assert [result["changes"] for result in host.settle()] == [{}, {}]
    host.now += 4 * DAY
    renewed(host, "its renewal began at")


def test_an_expired_certificate_is_healed(host):
    host.settle()
    host.now += 826 * DAY
    renewed(host, "it expired at")


def test_without_renew_days_the_window_is_a_third_of_the_lifetime(host):
    host.settle(days=60)
    host.now += 39 * DAY
    assert host.settle(days=60)[1]["changes"] == {}
    host.now += 3 * DAY
    renewed(host, "its renewal began at", days=60)


def test_a_certificate_for_another_name_is_renewed(host):
    host.settle(hostname="old.example.com")
    renewed(host, "it is not for mail.example.com but for old.example.com")


def test_a_name_more_is_a_reason_and_a_name_less_is_not(host):
    host.settle()
    renewed(host, "it is not for smtp.example.com", alternative_names=["smtp.example.com"])
    assert host.settle()[1]["changes"] == {}


def test_a_wildcard_covers_one_label(host):
    host.settle(hostname="example.com", alternative_names=["*.example.com"])
    assert host.settle()[1]["changes"] == {}
    renewed(host, "it is not for a.b.example.com", alternative_names=["a.b.example.com"])


def test_a_new_subject_is_a_reason(host):
    host.settle()
    renewed(host, "organization name Example", subject={"organization": "Example", "C": "ch"})
    assert host.loaded().subject.rfc4514_string() == "CN=mail.example.com,O=Example,C=CH"


def test_a_certificate_of_another_key_is_renewed_and_the_key_kept(host):
    host.settle()
    host.key.write_bytes(private_pem())
    renewed(host, "it does not belong to the key")


def test_a_certificate_of_another_authority_is_renewed(host):
    host.settle()
    host.ca.unlink()
    host.ca_key.unlink()
    predicted = host.apply(test=True)
    results = host.settle()
    assert [result["changes"] for result in results] == [result["changes"] for result in predicted]
    assert "it is not signed by the authority" in results[1]["comment"]
    host.accepted_by_openssl()


def test_a_missing_key_is_made_anew(host):
    host.settle()
    host.key.unlink()
    renewed(host, "the key is missing", new_key=True)


@pytest.mark.parametrize("garbage", [b"", b"\x00\xffnonsense", b"-----BEGIN PRIVATE KEY-----\nAAAA\n"])
def test_a_broken_key_is_replaced(host, garbage):
    host.settle()
    host.key.write_bytes(garbage)
    renewed(host, "the key file is not a PEM private key", new_key=True)


def test_a_key_that_clients_refuse_is_replaced(host):
    host.settle()
    host.key.write_bytes(private_pem(rsa.generate_private_key(65537, 1024)))
    renewed(host, "the key is too weak for clients (RSA 1024", new_key=True)


def test_a_damaged_rsa_key_is_replaced_when_the_certificate_is(host):
    host.settle()
    good = rsa.generate_private_key(65537, 2048).private_numbers()
    parts = (good.d, good.dmp1 + 2, good.dmq1, good.iqmp)
    bad = rsa.RSAPrivateNumbers(good.p, good.q, *parts, good.public_numbers)
    host.key.write_bytes(private_pem(bad.private_key(unsafe_skip_rsa_key_validation=True)))
    renewed(host, "the private key is damaged", new_key=True)


@pytest.mark.parametrize("garbage", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_broken_certificate_is_replaced(host, garbage):
    host.settle()
    host.certificate.write_bytes(garbage)
    renewed(host, "the certificate file is not a PEM certificate")


def test_the_key_is_kept_unless_it_is_to_rotate(host):
    host.settle()
    host.now += 800 * DAY
    renewed(host, "its renewal began at", new_key=True, rotate_key=True)


def test_a_good_key_of_another_type_is_left_alone(host):
    host.settle()
    result = host.settle(key_type="ed25519")[1]
    assert result["changes"] == {}
    assert "The key stays ECDSA P-256" in result["comment"]


def test_a_certificate_ends_with_its_authority_and_is_not_renewed_in_vain(host):
    host.authority(days=40, renew_days=5)
    host.pair()
    assert host.loaded().not_valid_after_utc == host.loaded(host.ca).not_valid_after_utc
    host.now += 20 * DAY
    assert host.authority(days=40, renew_days=5)["changes"] == {}
    assert host.pair()["changes"] == {}
    host.now += 16 * DAY
    predicted = [host.authority(test=True, days=40, renew_days=5), host.pair(test=True)]
    results = [host.authority(days=40, renew_days=5), host.pair()]
    assert [result["changes"] for result in results] == [result["changes"] for result in predicted]
    assert all(result["changes"] for result in results)
    host.accepted_by_openssl()


def test_a_clock_before_the_start_is_an_error_and_not_a_renewal(host):
    host.settle()
    before = host.contents()
    host.now -= 2 * DAY
    refused(host.authority(), "Set the clock")
    refused(host.pair(), "Set the clock")
    assert host.contents() == before


def test_a_locked_server_key_is_an_error(host):
    host.settle()
    host.key.write_bytes(private_pem(passphrase=b"locked"))
    for test in (True, False):
        refused(host.pair(test=test), "Postfix cannot ask for a passphrase")


def test_a_key_that_others_can_read_is_encrypted_up(host):
    host.settle()
    for path, run in ((host.key, host.pair), (host.ca_key, host.authority)):
        path.chmod(0o644)
        before = path.read_bytes()
        predicted = run(test=True)
        result = run()
        assert result["changes"] == predicted["changes"]
        assert result["changes"][str(path)]["old"]["mode"] == "0644"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.read_bytes() == before
        assert run()["changes"] == {}


def test_the_group_ssl_cert_may_read_a_server_key_and_no_other_group(host, monkeypatch):
    host.settle()
    host.key.chmod(0o640)
    assert host.pair(test=True)["changes"]
    monkeypatch.setattr(_mta_system, "group_name", lambda _gid: "ssl-cert")
    assert host.pair(test=True)["changes"] == {}
    host.ca_key.chmod(0o640)
    assert host.authority(test=True)["changes"]


def test_an_authority_that_cannot_be_used_leaves_the_pair_as_it_was(host):
    host.settle()
    before = host.contents()
    host.ca_key.write_bytes(private_pem())
    for test in (True, False):
        refused(host.pair(test=test, hostname="new.example.com"), "does not belong to")
    assert host.contents()["smtpd.crt"] == before["smtpd.crt"]
    assert host.pair()["changes"] == {}, "the authority's key is not needed for a good pair"


def test_without_an_authority_to_come_a_missing_one_is_an_error(host):
    for test in (True, False):
        refused(host.pair(test=test), "mta_cert.ca_managed creates a new one")


def test_a_bad_new_pair_replaces_nothing(host, pretend):
    host.settle()
    before = host.contents()
    pretend("_mta_x509.serve", lambda *_, **__: ["a TLS server cannot load it"])
    refused(host.pair(hostname="new.example.com"), "a TLS server cannot load it")
    assert host.contents() == before


def test_a_failed_write_undoes_the_key_too(host, monkeypatch):
    host.settle()
    before = host.contents()
    real = os.replace

    def full(draft, path):
        if str(path) == str(host.certificate):
            monkeypatch.setattr(os, "replace", real)
            raise OSError(28, "No space left on device")
        real(draft, path)

    monkeypatch.setattr(os, "replace", full)
    host.key.write_bytes(b"broken")
    refused(host.pair(), "No space left on device")
    assert host.contents() == {**before, "smtpd.key": b"broken"}


# -- links and foreign files -------------------------------------------------------------------


def test_a_link_of_roots_is_followed_and_stays(host):
    host.settle()
    elsewhere = host.folder / "elsewhere.crt"
    host.certificate.rename(elsewhere)
    host.certificate.symlink_to(elsewhere)
    assert host.settle()[1]["changes"] == {}
    host.settle(hostname="new.example.com")
    assert host.certificate.is_symlink()
    assert host.inspect(elsewhere)["names"] == ["new.example.com"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a link away")
def test_a_link_of_somebody_else_is_an_error(host):
    host.settle()
    elsewhere = host.folder / "elsewhere.key"
    host.key.rename(elsewhere)
    host.key.symlink_to(elsewhere)
    os.lchown(host.key, 65534, 65534)
    refused(host.pair(), "only root's are followed")


def test_a_dangling_link_and_a_directory_are_errors(host):
    host.settle()
    host.key.unlink()
    host.key.symlink_to("nowhere")
    refused(host.pair(), "which is not there")
    host.certificate.unlink()
    host.certificate.mkdir()
    refused(host.pair(), "is not a regular file")


# -- by hand -----------------------------------------------------------------------------------


def test_what_is_made_by_hand_is_what_the_states_want(by_hand):
    assert [result["changes"] for result in by_hand.settle()] == [{}, {}]
    by_hand.accepted_by_openssl()


def test_functions_that_create_overwrite_nothing(by_hand):
    before = by_hand.contents()
    for create, *arguments in (
        (by_hand.create_key, by_hand.key),
        (by_hand.create_ca, by_hand.ca, by_hand.folder / "other"),
        (by_hand.create_ca, by_hand.folder / "other", by_hand.ca_key),
        (by_hand.create, by_hand.certificate, by_hand.key, HOST),
    ):
        with pytest.raises(CommandExecutionError, match="is there already and is not overwritten"):
            create(*arguments)
    assert by_hand.contents() == before


def test_inspect_tells_what_openssl_tells(by_hand):
    told = by_hand.inspect(by_hand.certificate)
    text = by_hand.openssl(
        *("x509", "-in", by_hand.certificate, "-noout", "-serial", "-fingerprint", "-sha256"),
    )
    assert told["serial"] in text
    assert told["sha256"].replace(":", "") in text.replace(":", "")
    assert told["issuer"] == "CN=Test CA"
    assert (told["key"], told["days_left"], told["ca"], told["self_signed"]) == (
        "ECDSA P-256",
        824,
        False,
        False,
    )
    der = by_hand.openssl("x509", "-in", by_hand.certificate, "-noout", "-pubkey")
    public = serialization.load_pem_public_key(der.encode())
    digest = hashes.Hash(hashes.SHA256())
    digest.update(public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))
    assert told["tlsa"] == f"3 1 1 {digest.finalize().hex()}"
    assert told["next_action"].startswith("renewed at the first apply after")
    by_hand.now += 800 * DAY
    assert "its renewal began" in by_hand.inspect(by_hand.certificate)["next_action"]
    by_hand.now += 800 * DAY
    assert "expired" in by_hand.inspect(by_hand.certificate)["next_action"]
    assert by_hand.inspect(by_hand.folder / "absent") is None
    with pytest.raises(CommandExecutionError, match="is not a PEM certificate"):
        by_hand.inspect(by_hand.key)


def test_verify_lists_every_problem(by_hand):
    other = by_hand.folder / "other"
    by_hand.create_ca(by_hand.folder / "other.pem", other, key_type="ec")
    by_hand.key.chmod(0o644)
    by_hand.now += 826 * DAY
    problems = by_hand.verify(
        by_hand.certificate,
        key=str(other),
        ca_certificate=str(by_hand.folder / "other.pem"),
        hostname=["imap.example.com", HOST],
    )
    text = "\n".join(problems)
    for words in (
        "it does not belong to the key",
        "it expired",
        "it is not for imap.example.com but for",
        "it is not signed by the authority",
        "a TLS server cannot load the key and the certificate",
        "the chain does not verify",
    ):
        assert words in text
    problems = by_hand.verify(by_hand.certificate, key=str(by_hand.key), ca_certificate=str(by_hand.ca))
    assert any("can be read by others (mode 0644)" in problem for problem in problems)
    assert by_hand.verify(by_hand.folder / "absent") == [f"{by_hand.folder}/absent is not there"]


def test_a_chain_is_followed_in_order(by_hand):
    """The server's certificate, then an intermediate authority that the file brings along."""
    key, leaf, middle, root = chain_of_three(by_hand.now)
    by_hand.key.write_bytes(key)
    by_hand.ca.write_bytes(root)
    arguments = {"key": str(by_hand.key), "ca_certificate": str(by_hand.ca), "hostname": HOST}
    by_hand.certificate.write_bytes(leaf + middle)
    assert by_hand.verify(by_hand.certificate, **arguments) == []
    assert by_hand.inspect(by_hand.certificate)["chain"] == ["CN=Middle"]
    by_hand.certificate.write_bytes(leaf + root + middle)
    assert "its chain is broken: CN=Root did not sign" in "\n".join(
        by_hand.verify(by_hand.certificate, **arguments)
    )
    by_hand.certificate.write_bytes(leaf)
    assert by_hand.verify(by_hand.certificate, **arguments)


def test_a_request_is_signed_for_the_names_of_the_call_only(by_hand):
    request = by_hand.folder / "mail.csr"
    by_hand.openssl(
        *("req", "-new", "-key", by_hand.key, "-subj", "/CN=evil.example.com", "-out", request),
        *("-addext", "subjectAltName=DNS:evil.example.com", "-addext", "basicConstraints=CA:TRUE"),
    )
    for given in (str(request), request.read_text()):
        pem = by_hand.sign(given, HOST, by_hand.ca, by_hand.ca_key)
        by_hand.certificate.write_text(pem)
        by_hand.accepted_by_openssl()
        told = by_hand.inspect(by_hand.certificate)
        assert (told["names"], told["subject"], told["ca"]) == ([HOST], f"CN={HOST}", False)
    with pytest.raises(CommandExecutionError, match="not a PEM certificate request"):
        by_hand.sign("-----BEGIN nonsense", HOST, by_hand.ca, by_hand.ca_key)
    weak = rsa.generate_private_key(65537, 1024)
    pem = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(weak, hashes.SHA256())
    with pytest.raises(CommandExecutionError, match="too weak"):
        text = pem.public_bytes(serialization.Encoding.PEM).decode()
        by_hand.sign(text, HOST, by_hand.ca, by_hand.ca_key)


# -- arguments ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"hostname": "bad_name!"}, "is no host name"),
        ({"alternative_names": ["mail.example.com:25"]}, "is no host name"),
        ({"alternative_names": ["müller.example"]}, "is no host name"),
        ({"key_type": "dsa"}, "key_type must be rsa, ec or ed25519"),
        ({"key_type": "rsa", "key_size": 1024}, "key_size for rsa must be"),
        ({"key_type": "ec", "key_size": 3072}, "key_size for ec must be 256 or 384"),
        ({"days": 0}, "days must be a whole number"),
        ({"days": True}, "days must be a whole number"),
        ({"days": 30, "renew_days": 30}, "renew_days (30) must be less than days (30)"),
        ({"subject": {"planet": "Mars"}}, "Unknown subject field 'planet'"),
        ({"subject": {"C": "Switzerland"}}, "two letters"),
        ({"subject": {"O": "x" * 65}}, "64 characters at most"),
        ({"subject": {"O": "two\nlines"}}, "printable text"),
        ({"key": "relative.key"}, "An absolute path is needed"),
        ({"subject": {"CN": "CA of mail.example.com"}}, "must not have the same name"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(host, arguments, words):
    for test in (True, False):
        host.authority(test=True)
        refused(host.pair(test=test, **arguments), words)
    assert not host.folder.exists()


def test_a_bad_argument_by_hand_raises_what_salt_expects(host):
    with pytest.raises(SaltInvocationError, match="key_type must be"):
        host.create_key(host.folder / "x.key", key_type="dsa")


def test_a_missing_library_is_named_with_the_way_to_install_it(host, monkeypatch):
    import builtins

    real = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith(missing):
            raise ImportError(f"No module named {name!r}")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    missing = "cryptography"
    refused(host.authority(), "salt-pip install cryptography")
    missing = "OpenSSL"
    refused(host.authority(), "salt-pip install pyOpenSSL")
    assert host.contents() == {}


# -- files of an administrator or an ACME client -------------------------------------------------


class TestNeedless:
    """A second pair that the settings had for a while."""

    @pytest.fixture
    def second(self, host, pretend):
        """Paths of the second pair's files, made beside those of the first."""
        pretend("_mta_postfix_outlook.naming", lambda paths: {})
        host.settle()
        paths = [host.folder / name for name in ("certs/second.crt", "private/second.key", "private/second.pem")]
        ca = {"ca_certificate": str(host.ca), "ca_key": str(host.ca_key), "key_type": "ec"}
        files = {"key": str(paths[1]), "chain_file": str(paths[2])}
        assert host.state(False, "managed", paths[0], hostname=HOST, **files, **ca)["result"]
        return paths

    def only(self, host, test=False):
        return host.state(test, "only", "certificates", keep=[str(host.certificate), str(host.key)])

    def test_its_files_go_and_nothing_else_does(self, host, second):
        kept = host.contents()
        announced = self.only(host, test=True)
        assert all(path.exists() for path in second)
        done = self.only(host)
        assert (announced["result"], done["result"]) == (None, True), done
        assert announced["changes"] == done["changes"]
        assert {*done["changes"]} == {*map(str, second), "activation"}
        assert not any(path.exists() for path in second)
        assert host.contents() == kept
        assert self.only(host)["changes"] == {}

    def test_what_was_replaced_since_stays(self, host, second):
        second[1].write_text("somebody else's")
        assert {*self.only(host)["changes"]} == {str(second[0]), str(second[2]), "activation"}
        assert second[1].read_text() == "somebody else's"

    def test_what_was_there_before_comes_back(self, host, second, pretend):
        self.only(host)
        second[0].write_text("of an administrator")
        ca = {"ca_certificate": str(host.ca), "ca_key": str(host.ca_key), "key_type": "ec"}
        assert host.state(False, "managed", second[0], hostname=HOST, key=str(second[1]), **ca)["result"]
        assert b"BEGIN CERTIFICATE" in second[0].read_bytes()
        assert {*self.only(host)["changes"]} == {str(second[0]), str(second[1]), "activation"}
        assert second[0].read_text() == "of an administrator"
        assert not second[1].exists()

    def test_what_postfix_still_names_stays(self, host, second, pretend):
        pretend("_mta_postfix_outlook.naming", lambda paths: {str(second[1]): "smtp_tls_key_file"})
        done = self.only(host)
        assert {*done["changes"]} == {str(second[0]), str(second[2]), "activation"}
        assert f"{second[1]} stays, as it is named by smtp_tls_key_file" in done["comment"]
        assert second[1].exists()

    def test_an_undo_brings_it_back(self, host, second, pretend):
        before = [path.read_bytes() for path in second]
        answer = {"answers": False, "speaking": [], "problems": ["no"], "notes": [], "transcript": []}
        pretend("_mta_services.status", lambda names: {name: RUNNING for name in names})
        pretend("_mta_services.restart", lambda name: None)
        answers = iter([{**answer, "problems": []}])
        pretend("_mta_judge.check", lambda **_: next(answers, answer))
        assert self.only(host)["result"] is False
        assert [path.read_bytes() for path in second] == before
        assert stat.S_IMODE(second[1].stat().st_mode) == 0o600


class Acme:
    """What an ACME client leaves, and the state that takes it over."""

    def __init__(self, host):
        self.host, self.folder = host, host.folder / "live"
        self.folder.mkdir(parents=True)
        self.files = {"certificate": self.folder / "fullchain.pem", "key": self.folder / "privkey.pem"}

    def issue(self, names=(HOST,), days=90):
        key, leaf, middle, _ = chain_of_three(self.host.now, names, days)
        self.files["key"].write_bytes(key)
        self.files["key"].chmod(0o600)
        self.files["certificate"].write_bytes(leaf + middle)

    def state(self, test=False, **more):
        sources = {f"{part}_source": str(path) for part, path in self.files.items()}
        arguments = {"key": str(self.host.key), "hostname": HOST, **sources, **more}
        return self.host.state(test, "managed", self.host.certificate, **arguments)

    def taken(self, **more):
        """It is taken over as test mode predicts, and the next run changes nothing."""
        predicted, result = self.state(test=True, **more), self.state(**more)
        assert result["result"] is True, result["comment"]
        assert result["changes"] == predicted["changes"] != {}
        again = self.state(**more)
        assert (again["result"], again["changes"]) == (True, {})
        return result

    def kept(self, words, **more):
        """It is refused, and the server keeps its pair."""
        before = self.host.contents()
        for test in (True, False):
            refused(self.state(test, **more), words)
        assert self.host.contents() == before


@pytest.fixture
def acme(host):
    made = Acme(host)
    made.issue()
    return made


def test_a_pair_of_an_acme_client_and_its_renewal_are_taken_over(acme):
    for _ in range(2):
        acme.issue()
        acme.taken()
        assert acme.host.key.read_bytes() == acme.files["key"].read_bytes()
        assert acme.host.certificate.read_bytes() == acme.files["certificate"].read_bytes()
        assert stat.S_IMODE(acme.host.key.stat().st_mode) == 0o600
        assert stat.S_IMODE(acme.host.certificate.stat().st_mode) == 0o644


def test_a_pair_that_is_not_good_is_refused_and_the_server_keeps_its_own(acme):
    acme.taken()
    good = {path: path.read_bytes() for path in acme.files.values()}
    certificate, key = acme.files["certificate"], acme.files["key"]
    leaf = certificate.read_bytes().partition(b"-----END CERTIFICATE-----\n")
    for path, data, words in (
        (key, private_pem(), "it does not belong to the key"),
        (key, private_pem(passphrase=b"locked"), "is encrypted, and Postfix cannot ask"),
        (key, b"nonsense", "holds no PEM private key"),
        (key, b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "is not a PEM private key"),
        (certificate, b"nonsense", "holds no PEM certificate"),
        (certificate, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "not a PEM certificate"),
        (certificate, leaf[2] + leaf[0] + leaf[1], "it does not belong to the key"),
        (certificate, leaf[0] + leaf[1] + chain_of_three(acme.host.now)[2], "its chain is broken"),
    ):
        path.write_bytes(data)
        acme.kept(words)
        path.write_bytes(good[path])
    acme.issue(names=["other.example.com"])
    acme.kept("it is not for mail.example.com but for other.example.com")
    acme.issue(days=-0.5)
    acme.kept("it expired at")
    key.unlink()
    acme.kept("is not there")
    assert acme.host.contents()["smtpd.key"] == good[key]


def test_a_pair_is_checked_at_every_run_also_when_it_has_been_taken_over(acme):
    acme.taken()
    acme.host.now += 64 * DAY
    assert "check what should renew it" in acme.state()["comment"]
    acme.host.now += 30 * DAY
    acme.kept("it expired at")
    acme.host.now -= 200 * DAY
    acme.kept("and the clock says")


def test_a_chain_of_an_authority_without_key_usage_is_taken_over_with_a_warning(acme):
    """As corporate authorities have it."""
    key, leaf, middle, _ = chain_of_three(acme.host.now, ca_usage=False)
    acme.files["key"].write_bytes(key)
    acme.files["certificate"].write_bytes(leaf + middle)
    words = "clients that check strictly refuse the authority CN=Middle"
    assert words in acme.taken()["comment"]
    assert words in acme.state()["comment"]


def test_a_key_that_a_group_can_read_is_taken_over_with_a_warning(acme, monkeypatch):
    acme.files["key"].chmod(0o640)
    monkeypatch.setattr(_mta_system, "group_name", lambda _gid: "certs")
    monkeypatch.setattr(_mta_pem.File, "gid", 4711, raising=False)
    assert "can be read by the group certs" in acme.taken()["comment"]
    assert stat.S_IMODE(acme.host.key.stat().st_mode) == 0o600
    acme.files["key"].chmod(0o660)
    acme.kept("can be read by others (mode 0660)")


def test_a_key_that_others_can_read_is_not_taken_over(acme):
    acme.files["key"].chmod(0o644)
    acme.kept("can be read by others (mode 0644)")


def test_only_certificates_get_into_the_file_that_all_may_read(acme):
    both = acme.files["key"].read_bytes() + acme.files["certificate"].read_bytes()
    acme.files["certificate"] = acme.files["key"] = acme.folder / "both.pem"
    acme.files["key"].write_bytes(both)
    acme.files["key"].chmod(0o600)
    acme.taken()
    assert b"PRIVATE" not in acme.host.certificate.read_bytes()
    assert b"CERTIFICATE" not in acme.host.key.read_bytes()


def test_a_chain_of_its_own_is_put_behind_the_certificate_and_a_missing_one_is_told(acme):
    leaf, end, middle = acme.files["certificate"].read_bytes().partition(b"-----END CERTIFICATE-----\n")
    acme.files["certificate"].write_bytes(leaf + end)
    assert "holds one certificate only" in acme.taken()["comment"]
    acme.files["chain"] = acme.folder / "chain.pem"
    acme.files["chain"].write_bytes(middle)
    acme.taken()
    assert acme.host.certificate.read_bytes() == leaf + end + middle


def test_pem_text_comes_from_pillar_and_from_sdb_and_appears_nowhere(acme, pillar, pretend):
    text = acme.files["key"].read_text()
    pillar["files"] = {"key": text, "certificate": "sdb://safe/chain"}
    pretend("sdb.get", lambda uri: (acme.folder / "fullchain.pem").read_text())
    acme.files = {"key": "files:key", "certificate": "files:certificate"}
    shown = json.dumps([acme.state(test=True), acme.taken()])
    assert acme.host.key.read_text() == text
    assert text.splitlines()[1] not in shown
    acme.files["key"] = "files:nothing"
    acme.kept("Pillar files:nothing is not there")


# -- one file for both -------------------------------------------------------------------------


def test_a_chain_file_holds_the_key_and_then_the_certificate(host):
    chain = host.folder / "private/smtpd.pem"
    host.settle(chain_file=str(chain))
    for damage in (lambda: None, lambda: chain.write_bytes(b"x"), chain.unlink, lambda: chain.chmod(0o644)):
        damage()
        predicted = host.pair(test=True, chain_file=str(chain))
        assert host.pair(chain_file=str(chain))["changes"] == predicted["changes"]
        assert chain.read_bytes() == host.key.read_bytes() + host.certificate.read_bytes()
        assert stat.S_IMODE(chain.stat().st_mode) == 0o600
        assert host.pair(chain_file=str(chain))["changes"] == {}


def test_a_rotated_key_is_new_at_each_renewal_and_not_between(host):
    rotating = {"rotate_key": True, "chain_file": str(host.folder / "private/smtpd.pem")}
    host.settle(**rotating)
    renewed(host, "it is not for a.example.com", new_key=True, alternative_names=["a.example.com"], **rotating)


@pytest.mark.parametrize(
    ("listener", "stops"),
    [
        ({"keys": ["{key}"]}, True),
        ({"keys": ["/etc/other.key", "{key}"]}, True),
        ({"keys": ["{chain}"]}, False),
        (None, True),
    ],
)
def test_postfix_is_stopped_while_two_files_that_it_reads_are_switched(host, pretend, listener, stops):
    seen, running = [], [True]

    def status(names):
        return {name: {"installed": True, "enabled": True, "active": running[0]} for name in names}

    def note(what, state):
        def act(name, **_):
            seen.append((what, host.key.read_bytes(), host.certificate.read_bytes()))
            running[0] = state

        return act

    def listeners():
        if listener is None:
            raise CommandExecutionError("broken")
        paths = {"key": host.key, "chain": host.folder / "private/smtpd.pem"}
        return [{"keys": [path.format(**paths) for path in listener["keys"]]}]

    host.settle()
    pretend("_mta_postfix_view.listeners", listeners)
    pretend("_mta_services.status", status)
    for action, state in (("stop", False), ("start", True), ("reload", True)):
        pretend(f"_mta_services.{action}", note(action, state))
    old = host.key.read_bytes(), host.certificate.read_bytes()
    host.settle(alternative_names=["kept.example.com"])
    assert [what for what, *_ in seen] == ["reload"], "the key is kept: nothing has to be stopped"
    seen.clear()
    old = host.key.read_bytes(), host.certificate.read_bytes()
    host.settle(alternative_names=["new.example.com"], rotate_key=True)
    new = host.key.read_bytes(), host.certificate.read_bytes()
    assert old[0] != new[0]
    assert seen == [*[("stop", *old), ("start", *new)][: 2 * stops], ("reload", *new)]


# -- a fleet's authority -----------------------------------------------------------------------


@pytest.fixture
def fleet(host, tmp_path, pretend):
    """A function that applies a pair of a fleet's authority; its CA minions are in the same process."""
    asked = []

    def files(ca_minion):
        folder = tmp_path / ca_minion
        if not folder.exists():
            folder.mkdir()
            host.create_ca(folder / "ca.pem", folder / "ca.key", key_type="ec", common_name=f"CA of {ca_minion}")
        return folder / "ca.pem", folder / "ca.key"

    def sign(request, ca_minion, policy, days):
        asked.append((ca_minion, policy, days))
        if policy == "refuses":
            raise CommandExecutionError("not for you")
        name = "other.example.com" if policy == "other" else HOST
        return host.sign(request, name, *files(ca_minion), days=days)

    pretend("_mta_fleet_ca.sign_request", sign)
    pretend("_mta_fleet_ca.authority", lambda ca_minion: files(ca_minion)[0].read_text())

    def pair(test=False, **more):
        arguments = {
            "ca_key": None,
            "ca_minion": "ca1",
            "policy": "mail",
            "days": 90,
            "source": "fleet_ca",
            **more,
        }
        return host.pair(test, **arguments)

    pair.asked = asked
    return pair


def test_a_fleets_authority_signs_and_is_asked_in_a_real_run_only(host, fleet):
    predicted = fleet(test=True)
    assert fleet.asked == []
    assert "The CA minion ca1 signs it" in predicted["comment"]
    result = fleet()
    assert result["result"] is True, result["comment"]
    assert result["changes"] == predicted["changes"]
    assert set(result["changes"]) == {str(host.ca), str(host.key), str(host.certificate), "activation"}
    assert fleet.asked == [("ca1", "mail", 90)]
    host.accepted_by_openssl()
    assert fleet()["changes"] == {}
    key = host.key.read_bytes()
    host.now += 64 * DAY
    assert "its renewal began" in fleet(test=True)["comment"]
    assert list(fleet()["changes"]) == [str(host.certificate), "activation"]
    assert host.key.read_bytes() == key
    assert fleet()["changes"] == {}


def test_what_a_fleets_authority_refuses_or_signs_wrongly_replaces_nothing(host, fleet):
    fleet()
    before = host.contents()
    host.now += 64 * DAY
    refused(fleet(policy="refuses"), "not for you")
    refused(fleet(policy="other"), "it is not for mail.example.com but for other.example.com")
    assert host.contents() == before


# -- another issuer ----------------------------------------------------------------------------


@pytest.fixture
def sources(host, fleet, acme):
    """Each source, as a function that applies it: ``source(test)`` returns the results."""
    alone = {"ca_certificate": None, "ca_key": None}
    return {
        "local_ca": lambda test=False: [host.authority(test), host.pair(test)],
        "self_signed": lambda test=False: [host.pair(test, **alone)],
        "fleet_ca": lambda test=False: [fleet(test)],
        "another CA minion": lambda test=False: [fleet(test, ca_minion="ca2")],
        "files": lambda test=False: [acme.state(test)],
    }


ISSUERS = {
    "local_ca": ("CN=CA of mail.example.com", "the authority CN=CA of mail.example.com ("),
    "self_signed": ("CN=mail.example.com", "the certificate "),
    "fleet_ca": ("CN=CA of ca1", "the authority of the CA minion ca1 ("),
    "another CA minion": ("CN=CA of ca2", "the authority of the CA minion ca2 ("),
    "files": ("CN=Middle", "CN=Root from now on"),
}


@pytest.mark.parametrize(("before", "after"), [*itertools.permutations(ISSUERS, 2)])
def test_another_source_is_another_issuer_at_the_next_apply(host, sources, context, before, after):
    for result in sources[before]():
        assert result["result"] is True, result
    key = host.key.read_bytes()
    predicted = sources[after](test=True)
    context.clear()
    results = sources[after]()
    for result in results:
        assert result["result"] is True, result
    assert [result["changes"] for result in results] == [result["changes"] for result in predicted]
    issuer, trust = ISSUERS[after]
    assert host.loaded().issuer.rfc4514_string() == issuer
    for comment in (predicted[-1]["comment"], results[-1]["comment"]):
        assert f"Clients have to trust {trust}" in comment
        top = "CN=Root" if before == "files" else ISSUERS[before][0]
        assert f"so far is signed by another, {top}" in comment
    if after != "files":
        assert host.key.read_bytes() == key
    if after not in ("files", "self_signed"):
        host.accepted_by_openssl()
    for result in sources[after]():
        assert (result["result"], result["changes"]) == (True, {})
        assert "Clients have to trust" not in result["comment"]


def test_two_pairs_change_their_issuer_as_the_dry_run_says(host, fleet, context):
    second = {"key": str(host.folder / "private/second.key"), "transaction": "one"}

    def both(test, run):
        name = host.folder / "certs/second.crt"
        first = run(test, transaction="one")
        files, host.certificate = host.certificate, name
        results = [first, run(test, **second)]
        host.certificate = files
        if not test:
            assert _mta_apply.commit(host.minion)["result"] is True
        context.clear()
        return results

    both(False, lambda test, **more: (host.authority(test, transaction="one"), host.pair(test, **more))[1])
    predicted, results = both(True, fleet), both(False, fleet)
    assert [result["result"] for result in results] == [True, True], results
    assert [result["changes"] for result in results] == [result["changes"] for result in predicted]
    assert [str(host.ca) in result["changes"] for result in results] == [True, False]
    assert [result["changes"] for result in both(False, fleet)] == [{}, {}]


def test_the_authority_of_this_host_comes_back_after_that_of_a_fleet(host, fleet):
    host.settle()
    own, key = host.loaded(host.ca), host.ca_key.read_bytes()
    fleet()
    assert host.ca_key.read_bytes() == key
    predicted, result = host.authority(test=True), host.authority()
    assert result["result"] is True, result
    assert result["changes"] == predicted["changes"]
    assert list(result["changes"]) == [str(host.ca), "activation"]
    assert "CN=CA of ca1, is replaced by that of an authority of this host's own" in result["comment"]
    new = host.loaded(host.ca)
    assert (new.subject, new.public_key()) == (own.subject, own.public_key())
    assert host.ca_key.read_bytes() == key


def test_an_authority_that_was_not_fetched_does_not_make_way(host, fleet):
    fleet()
    host.create_ca(host.folder / "other.pem", host.folder / "other.key", key_type="ec", common_name="Corporate")
    host.ca.write_bytes((host.folder / "other.pem").read_bytes())
    for test in (True, False):
        refused(host.authority(test=test), "is there without its key")
    assert host.loaded(host.ca).subject.rfc4514_string() == "CN=Corporate"


def test_a_switch_that_the_server_does_not_survive_is_undone_with_what_was_recorded(host, fleet, pretend):
    host.settle()
    before = host.contents()
    answer = {"answers": False, "speaking": [], "problems": ["no"], "notes": [], "transcript": []}
    pretend("_mta_services.status", lambda names: {name: RUNNING for name in names})
    for action in ("restart", "reload", "stop", "start"):
        pretend(f"_mta_services.{action}", lambda *_, **__: None)
    answers = iter([{**answer, "problems": []}])
    pretend("_mta_judge.check", lambda **_: next(answers, answer))
    assert fleet()["result"] is False
    assert host.contents() == before
    assert _mta_fleet_ca.fetched(host.minion, str(host.ca)) is None


def test_a_fleets_authority_that_was_renewed_with_its_key_is_the_same(host, fleet, tmp_path):
    fleet()
    host.now += DAY
    renewed_authority = _mta_x509_make.make_authority(
        (tmp_path / "ca1/ca.key").read_bytes(), host.now, 3650, renewed=host.ca.read_bytes()
    )
    host.ca.write_bytes(renewed_authority)
    assert fleet()["changes"] == {}


def test_what_is_recorded_of_a_fleets_authority_stays_when_other_pairs_go(host, fleet):
    fleet()
    result = host.state(False, "only", "certificates", keep=[str(host.certificate), str(host.key), str(host.ca)])
    assert (result["result"], result["changes"]) == (True, {}), result
    assert _mta_fleet_ca.fetched(host.minion, str(host.ca))["ca_minion"] == "ca1"


# -- access and passphrases --------------------------------------------------------------------


def test_a_certificate_that_others_can_write_becomes_roots(host):
    host.settle()
    host.certificate.chmod(0o666)
    predicted = host.pair(test=True)["changes"]
    assert predicted[str(host.certificate)]["old"]["mode"] == "0666"
    assert host.pair()["changes"] == predicted
    assert stat.S_IMODE(host.certificate.stat().st_mode) == 0o644
    assert host.pair()["changes"] == {}


def test_inspect_shows_whole_tlsa_records(by_hand):
    told = by_hand.inspect(by_hand.certificate)
    assert told["tlsa_records"] == [f"_25._tcp.{HOST}. IN TLSA {told['tlsa']}"]
    by_hand.certificate.write_bytes(by_hand.key.read_bytes() + by_hand.certificate.read_bytes())
    assert by_hand.inspect(by_hand.certificate)["tlsa"] == told["tlsa"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"source": "elsewhere"}, "source must be one of"),
        ({"source": "files"}, "source files needs certificate_source and key_source"),
        ({"source": "fleet_ca"}, "source fleet_ca needs ca_minion"),
        ({"days_valid": 5}, "there is no argument days_valid"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(host, arguments, words):
    refused(host.pair(**arguments), words)


# -- what Salt loads ---------------------------------------------------------------------------


def test_states_and_execution_modules_hand_over(host, states, modules):
    made = states["mta_cert.ca_managed"](str(host.ca), str(host.ca_key), key_type="ec")
    assert (made["result"], set(made["changes"])) == (True, {str(host.ca), str(host.ca_key), "activation"}), made
    pair = {"ca_certificate": str(host.ca), "ca_key": str(host.ca_key), "key_type": "ec"}
    made = states["mta_cert.managed"](str(host.certificate), str(host.key), HOST, **pair)
    assert made["result"] is True, made
    assert modules["mta_cert.inspect"](str(host.certificate))["names"] == [HOST]
    verified = modules["mta_cert.verify"](str(host.certificate), str(host.key), str(host.ca), HOST)
    assert verified == []
    key = host.folder / "by-hand.key"
    told = modules["mta_cert.create_key"](str(key), key_type="ec")
    assert set(told) == {"path", "key", "tlsa"}
    modules["mta_cert.create"](str(host.folder / "by-hand.crt"), str(key), HOST, str(host.ca), str(host.ca_key))
    gone = states["mta_cert.only"]("one pair", keep=[str(host.certificate), str(host.key)])
    assert (gone["result"], gone["changes"]) == (True, {}), gone


# -- what was judged already -------------------------------------------------------------------


def test_a_good_pair_is_not_judged_twice_and_judged_again_when_anything_changed(host, pretend):
    host.settle()
    assert [result["changes"] for result in host.apply()] == [{}, {}]

    def judged(*_args, **_kwargs):
        raise AssertionError("judged again")

    for function in ("describe", "describe_key", "problems"):
        pretend(f"_mta_x509.{function}", judged)
    assert [result["changes"] for result in host.apply()] == [{}, {}]
    for what in (
        lambda: host.pair(alternative_names=["other.example.com"]),
        lambda: host.pair(hostname="other.example.com"),
        lambda: host.key.chmod(0o644) or host.pair(),
        lambda: host.ca_key.chmod(0o640) or host.authority(),
        lambda: (host.certificate.write_bytes(host.certificate.read_bytes() + b"\n"), host.pair()),
    ):
        with pytest.raises(AssertionError, match="judged again"):
            what()


def test_a_good_pair_that_is_not_served_is_put_in_force(host, pretend):
    host.settle()
    # Replaced by another good one, and Postfix was not reloaded.
    host.certificate.write_bytes(host.certificate.read_bytes() + b"\n")
    asked = []
    pretend("_mta_judge.stale", lambda paths: asked.append(paths) or ["127.0.0.1:25"])
    changed = host.pair()
    assert changed["result"] is True
    assert changed["changes"]["activation"] == "reload"
    assert asked
    pretend("_mta_judge.stale", lambda paths: asked.append(paths) or [])
    assert host.pair()["changes"] == {}
    number = len(asked)
    assert host.pair()["changes"] == {}
    assert len(asked) == number


@pytest.fixture
def processes(host, pretend):
    """When Postfix's processes began, in seconds from the last change of the certificate."""
    found = {"smtpd": [-1, 1], "qmgr": [1]}
    host.settle()
    changed = os.stat(host.certificate).st_ctime
    pretend("_mta_services.started", lambda program: [changed + seconds for seconds in found[program]])
    return found


def test_a_pair_is_asked_for_again_while_a_process_lives_that_may_serve_the_one_before(host, pretend, processes):
    pretend("_mta_judge.stale", lambda _paths: [])
    host.certificate.write_bytes(host.certificate.read_bytes() + b"\n")
    assert host.pair()["changes"] == {}
    pretend("_mta_judge.stale", lambda _paths: ["127.0.0.1:25"])
    assert host.pair()["changes"]["activation"] == "reload"


def test_a_pair_is_put_in_force_where_one_process_serves_it_and_another_may_not(host, pretend, processes):
    pretend("_mta_judge.stale", lambda _paths: [])
    host.certificate.write_bytes(host.certificate.read_bytes() + b"\n")
    processes["qmgr"] = [-3600]
    assert host.pair()["changes"]["activation"] == "reload"
    processes["smtpd"] = [1]
    assert host.pair()["changes"] == {}


def test_where_the_clock_was_ahead_the_conversation_decides(host, pretend, processes, monkeypatch):
    pretend("_mta_judge.stale", lambda _paths: [])
    host.certificate.write_bytes(host.certificate.read_bytes() + b"\n")
    processes["qmgr"] = [-3600]
    monkeypatch.setattr(_mta_certificates.time, "time", lambda: os.stat(host.certificate).st_ctime - 7200)
    assert host.pair()["changes"] == {}
