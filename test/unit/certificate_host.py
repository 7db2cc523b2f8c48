"""One mail server's certificate files, for the tests of what looks after them."""

import datetime
import subprocess

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import _mta_apply
import _mta_ca
import _mta_certificates
import _mta_pem

HOST = "mail.example.com"
SECRET = "correct horse battery staple"
PASSPHRASE = "postfix_mta:certificate:ca:passphrase"
PREVIOUS = "postfix_mta:certificate:ca:previous_passphrase"
DAY = datetime.timedelta(days=1)
RUNNING = dict.fromkeys(("installed", "enabled", "active"), True)


class Host:
    """The files, the participants that look after them, and the clock. Its daemons are not installed."""

    def __init__(self, folder, minion, pretend):
        self.folder, self.minion = folder, minion
        self.now = datetime.datetime.now(datetime.timezone.utc)
        self.ca, self.ca_key = folder / "certs/cacert.pem", folder / "private/cakey.pem"
        self.certificate, self.key = folder / "certs/smtpd.crt", folder / "private/smtpd.key"
        pretend("_mta_system.now", lambda: self.now)
        pretend("_mta_services.status", lambda names: {name: dict.fromkeys(RUNNING, False) for name in names})
        pretend("_mta_services.daemon_reload", lambda: None)
        answer = {"answers": True, "speaking": [], "problems": [], "notes": [], "transcript": []}
        pretend("_mta_judge.check", lambda **_: answer)

    def passphrase(self, value, previous=None):
        """Put it into the pillar; ``None`` empties the pillar."""
        self.minion.pillar.clear()
        if value is not None:
            passphrases = {"passphrase": value, "previous_passphrase": previous}
            self.minion.pillar["postfix_mta"] = {"certificate": {"ca": passphrases}}

    def create(self, *args, **kwargs):
        return _mta_certificates.create(self.minion, *map(str, args), **kwargs)

    def create_ca(self, *args, **kwargs):
        return _mta_ca.create(self.minion, *map(str, args), **kwargs)

    def create_key(self, path, **kwargs):
        return _mta_certificates.create_key(self.minion, str(path), **kwargs)

    def sign(self, *args, **kwargs):
        return _mta_certificates.sign(self.minion, *map(str, args), **kwargs)

    def verify(self, path, **kwargs):
        return _mta_certificates.verify(str(path), **kwargs)

    def inspect(self, path):
        return _mta_pem.inspect(str(path))

    def state(self, test, name, path, transaction=None, **arguments):
        """The result of one of the states."""
        if name != "only":
            arguments["name"] = str(path)
        return _mta_apply.participate(self.minion, f"mta_cert.{name}", str(path), arguments, transaction, test)

    def authority(self, test=False, **more):
        arguments = {"key": str(self.ca_key), "key_type": "ec", "passphrase_pillar": PASSPHRASE, **more}
        return self.state(test, "ca_managed", self.ca, **arguments)

    def pair(self, test=False, **more):
        arguments = {
            "key": str(self.key),
            "hostname": HOST,
            "ca_certificate": str(self.ca),
            "ca_key": str(self.ca_key),
            "passphrase_pillar": PASSPHRASE,
            "key_type": "ec",
            **more,
        }
        return self.state(test, "managed", self.certificate, **arguments)

    def apply(self, test=False, **more):
        return [self.authority(test), self.pair(test, **more)]

    def settle(self, **more):
        """Both for real; both must succeed."""
        results = self.apply(**more)
        assert [result["result"] for result in results] == [True, True], results
        return results

    def loaded(self, path=None):
        return x509.load_pem_x509_certificate((path or self.certificate).read_bytes())

    def contents(self):
        files = (self.ca, self.ca_key, self.certificate, self.key)
        return {path.name: path.read_bytes() for path in files if path.exists()}

    def openssl(self, *arguments, **options):
        done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, **options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def accepted_by_openssl(self):
        self.openssl(
            *("verify", "-purpose", "sslserver", "-x509_strict", "-verify_hostname", HOST),
            *("-attime", int(self.now.timestamp()), "-CAfile", self.ca, self.certificate),
        )


def private_pem(key=None, passphrase=None):
    lock = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    key = key or ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)


def refused(result, words):
    assert result["result"] is False
    assert result["changes"] == {}
    assert words in result["comment"]


def chain_of_three(now, names=(HOST,), days=90, ca_usage=True):
    """
    PEM of a server's key, its certificate, the intermediate authority that signed it, and the root.

    ``ca_usage``: whether the authorities have the extension keyUsage.
    """
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(3)]
    subjects = [x509.Name.from_rfc4514_string(f"CN={name}") for name in ("Root", "Middle", "Leaf")]
    pems = [private_pem(keys[2])]
    for number, (key, subject) in enumerate(zip(keys, subjects)):
        above = max(number - 1, 0)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subjects[above])
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 2 * DAY)
            .not_valid_after(now + days * DAY)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[above].public_key()), False)
            .add_extension(x509.BasicConstraints(number < 2, None), True)
        )
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign"), False
        )
        usage.update(
            key_cert_sign=number < 2, digital_signature=number == 2, encipher_only=False, decipher_only=False
        )
        if ca_usage or number == 2:
            builder = builder.add_extension(x509.KeyUsage(**usage), True)
        if number == 2:
            builder = builder.add_extension(x509.SubjectAlternativeName(map(x509.DNSName, names)), False)
        pems.insert(1, builder.sign(keys[above], hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return pems
