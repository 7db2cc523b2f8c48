"""A fleet's authority: what is signed for whom, and what a mail minion is told when nothing is."""

import datetime
import logging
import pathlib
import subprocess
import types

import pytest
import salt.config
import salt.loader
import salt.template
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from salt.exceptions import CommandExecutionError

import _mta_ca
import _mta_fleet_ca
import _mta_last_apply

CA, MAIL1, MAIL2 = "ca.example.com", "mail1.example.com", "mail2.example.com"
PASSPHRASE = "geheim-7431"
PILLAR_PATH = {"passphrase_pillar": "postfix_mta:certificate:ca:passphrase"}
STARTED = pathlib.Path(__file__).resolve().parents[2] / "postfix_mta" / "started.sls"


@pytest.fixture
def opts(opts):
    opts["features"] = {"x509_v2": True}  # Salt 3006 needs it
    opts.update(id=MAIL1, master_uri="tcp://127.0.0.1:4506")
    return opts


def pem(thing):
    return thing.public_bytes(serialization.Encoding.PEM).decode()


def private_pem(key):
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, *form).decode()


def request(key=None, extensions=(), name="evil.example.com"):
    """A request, PEM text."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder()
    builder = builder.subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return pem(builder.sign(key, algorithm))


def names(certificate):
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(item.value) for item in found]


@pytest.fixture
def pillar(tmp_path):
    """The CA minion's pillar."""
    return {
        "postfix_mta": {
            "certificate": {
                "key_type": "ec",
                "days": 90,
                "ca": {
                    "certificate": str(tmp_path / "ca.pem"),
                    "key": str(tmp_path / "ca.key"),
                    "passphrase": PASSPHRASE,
                },
                "fleet": {"minions": {MAIL1: [MAIL1, "smtp.example.com", "192.0.2.1"], MAIL2: []}},
            }
        }
    }


@pytest.fixture
def modules(modules, pillar):
    """Execution modules with the CA minion's pillar."""
    for loader in (modules, modules.pack["__salt__"]):
        loader.pack["__pillar__"] = pillar
    return modules


@pytest.fixture(scope="module")
def x509_module(tmp_path_factory):
    """Salt's own module, which signs."""
    opts = salt.config.minion_config(None)
    opts.update(root_dir=str(tmp_path_factory.mktemp("salt")), file_client="local", features={"x509_v2": True})
    opts["grains"] = {"kernel": "Linux", "os": "Debian", "os_family": "Debian"}
    loaded = salt.loader.minion_mods(opts, whitelist=["x509"])
    return {name: loaded[name] for name in ("x509.create_certificate", "x509.encode_certificate")}


@pytest.fixture
def functions(functions, pillar, x509_module):
    """What the CA minion has of Salt's own; its settings are the pillar and what matters of the defaults."""

    def effective(saltenv):
        certificate = pillar.get("postfix_mta", {}).get("certificate", {})
        ca, fleet = certificate.get("ca", {}), certificate.get("fleet", {"minions": {}})
        return {"certificate": {"fleet": fleet, "days": certificate.get("days"), "ca": {**ca, **PILLAR_PATH}}}

    return {**functions, **x509_module, "mta_settings.effective": effective, "event.send": lambda *_: None}


@pytest.fixture
def minion(minion):
    minion = minion._replace(opts={**minion.opts, "id": MAIL1, "master_uri": "tcp://127.0.0.1:4506"})
    return minion


@pytest.fixture
def authority(minion, pillar):
    """The CA minion's authority."""
    files, passphrase = pillar["postfix_mta"]["certificate"]["ca"], PILLAR_PATH["passphrase_pillar"]
    _mta_ca.create(
        minion, files["certificate"], files["key"], key_type="ec", days=3650, passphrase_pillar=passphrase
    )
    return files


@pytest.fixture
def issue(authority, minion):
    def call(text, policy=MAIL1, sender=MAIL1, **kwargs):
        return _mta_fleet_ca.issue(minion, text, policy, __pub_id=sender, __pub_fun="x", **kwargs)

    return call


class TestAMinionThatOnlySigns:
    FILES = ("certificate", "key")

    def test_the_pillar_tells_it_before_anything_was_applied(self, minion, pillar):
        files = pillar["postfix_mta"]["certificate"]["ca"]
        assert _mta_fleet_ca.only_signs(minion) == {name: files[name] for name in self.FILES}

    def test_what_fleet_ca_has_left_tells_it_whatever_the_pillar_says(
        self, modules, opts, context, tmp_path, minion, pillar
    ):
        pillar.clear()
        paths = dict.fromkeys(self.FILES, str(tmp_path / "x"))
        assert _mta_fleet_ca.only_signs(minion) is None
        for test in (True, False):
            states = salt.loader.states({**opts, "test": test}, modules, {}, None, context=context)
            ret = states["mta_fleet_ca.signs"](paths["certificate"], paths["key"])
            assert (ret["result"], ret["changes"]) == (True, {})
            assert _mta_fleet_ca.only_signs(minion) == (None if test else paths)

    def test_a_host_that_is_a_mail_server_too_is_treated_as_one(self, minion):
        _mta_fleet_ca.record(minion, "/ca.pem", "/ca.key")
        _mta_last_apply.ended(minion, {})
        assert _mta_fleet_ca.only_signs(minion) is None
        # .clean
        _mta_last_apply.forget(minion)
        assert _mta_fleet_ca.only_signs(minion) == {"certificate": "/ca.pem", "key": "/ca.key"}

    def test_clean_changes_nothing_of_it_and_says_so(self, modules, pillar, server, states):
        files = pillar["postfix_mta"]["certificate"]["ca"]
        made = states["mta_cert.ca_managed"](files["certificate"], files["key"], key_type="ec")
        assert made["result"] is True, made
        states["mta_fleet_ca.signs"](files["certificate"], files["key"])
        before = [pathlib.Path(files[name]).read_bytes() for name in self.FILES]
        cleaned = states["mta_transaction.restored"]("postfix_mta")
        assert (cleaned["result"], cleaned["changes"]) == (True, {})
        for name in self.FILES:
            assert files[name] in cleaned["comment"]
        assert [pathlib.Path(files[name]).read_bytes() for name in self.FILES] == before

    def test_its_own_start_does_not_make_it_a_mail_server(self, modules, minion, opts, pillar):
        assert self.started(modules, opts, pillar) == "nothing"
        _mta_fleet_ca.record(minion, "/ca.pem", "/ca.key")
        assert self.started(modules, opts, {"postfix_mta": {"root_recipient": "alice"}}) == "nothing"

    def test_nor_where_it_has_not_synced_the_modules_yet(self, minion, opts, pillar):
        bare = {**opts, "module_dirs": [], "extension_modules": "/nowhere"}
        unsynced = salt.loader.minion_mods(bare, context={})
        assert "mta_fleet_ca.only_signs" not in unsynced
        assert self.started(unsynced, bare, pillar) == "nothing"
        assert self.started(unsynced, bare, {"postfix_mta": {}}) == "all of it"
        _mta_fleet_ca.record(minion, "/ca.pem", "/ca.key")
        assert self.started(unsynced, bare, {"postfix_mta": {}}) == "nothing"

    def test_the_start_of_others_goes_on_to_do_so(self, modules, minion, opts, pretend):
        assert self.started(modules, opts, {"postfix_mta": {}}) == "all of it"
        assert self.started(modules, opts, {}) == "nothing"
        _mta_last_apply.ended(minion, {})
        assert self.started(modules, opts, {"postfix_mta": {}}) == "nothing"
        pretend("_mta_beacon.conditions", lambda: {"saslauthd": {}})
        assert self.started(modules, opts, {"postfix_mta": {}}) == "all of it"

    @staticmethod
    def started(functions, opts, pillar):
        """What postfix_mta.started comes to."""
        for loader in (functions, functions.pack["__salt__"]):
            loader.pack["__pillar__"] = pillar
        renderers = salt.loader.render({**opts, "pillar": pillar}, functions)
        blocked = opts["renderer_blacklist"], opts["renderer_whitelist"]
        data = salt.template.compile_template(str(STARTED), renderers, "jinja|yaml", *blocked, saltenv="base")
        if data == {"include": ["postfix_mta"]}:
            return "all of it"
        assert data == {"postfix_mta_started": {"test.nop": [{"name": "nothing to do"}]}}
        return "nothing"


class TestTheCAMinion:
    def test_a_minion_gets_the_names_of_its_policy_whatever_it_asks_for(self, issue):
        key = rsa.generate_private_key(65537, 2048)
        wishes = [
            x509.SubjectAlternativeName([x509.DNSName(MAIL2)]),
            x509.BasicConstraints(ca=True, path_length=None),
            x509.NameConstraints([x509.DNSName("example.com")], None),
        ]
        found = x509.load_pem_x509_certificate(issue(request(key, wishes))["certificate"].encode())
        assert found.public_key() == key.public_key()
        assert names(found) == [MAIL1, "smtp.example.com", "192.0.2.1"]
        assert found.subject.rfc4514_string() == f"CN={MAIL1}"
        assert {extension.oid._name for extension in found.extensions} == {
            "subjectAltName",
            "basicConstraints",
            "keyUsage",
            "extendedKeyUsage",
            "subjectKeyIdentifier",
            "authorityKeyIdentifier",
        }
        assert not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca

    def test_openssl_takes_the_chain_in_its_strictest_mode(self, issue, tmp_path):
        (tmp_path / "leaf.pem").write_text(issue(request())["certificate"])
        argv = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", MAIL1]
        argv += ["-CAfile", tmp_path / "ca.pem", tmp_path / "leaf.pem"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def test_a_policy_without_names_is_for_the_id(self, issue):
        answer = issue(request(), policy=MAIL2, sender=MAIL2)
        assert names(x509.load_pem_x509_certificate(answer["certificate"].encode())) == [MAIL2]

    @pytest.mark.parametrize(("wish", "days"), [(30, 30), (9999, 90)])
    def test_the_policy_limits_the_days(self, issue, wish, days):
        answer = issue(request(), days=wish)
        found = x509.load_pem_x509_certificate(answer["certificate"].encode())
        assert found.not_valid_after - found.not_valid_before == datetime.timedelta(days=days, hours=1)

    def test_a_certificate_ends_with_its_authority_at_the_latest(self, issue, pillar, minion):
        pillar["postfix_mta"]["certificate"]["days"] = 36500
        found = x509.load_pem_x509_certificate(issue(request(), days=36500)["certificate"].encode())
        ca = x509.load_pem_x509_certificate(_mta_fleet_ca.certificate(minion)["certificate"].encode())
        assert found.not_valid_after == ca.not_valid_after

    @pytest.mark.parametrize(
        ("call", "reason"),
        [
            ({"policy": MAIL2}, "not for mail1"),
            ({"sender": "mail1.example.com.evil.org"}, "not for"),
            ({"sender": None}, "does not say which minion"),
            ({"policy": "mail*"}, "there is no policy mail*"),
            ({"policy": None}, "no text"),
            ({"policy": ["a"]}, "no text"),
            ({"days": "9"}, "whole number"),
            ({"days": True}, "whole number"),
            ({"copypath": "/root"}, "not known: copypath"),
            ({"CN": MAIL2, "signing_private_key": "/x"}, "not known: CN, signing_private_key"),
        ],
    )
    def test_what_is_not_its_own_is_refused(self, issue, call, reason):
        assert reason in issue(request(), **call)["refused"]

    @pytest.mark.parametrize(
        ("key", "reason"),
        [
            (lambda: rsa.generate_private_key(65537, 1024), "too weak for clients (RSA 1024"),
            (lambda: rsa.generate_private_key(3, 2048), "exponent 3"),
            (lambda: ec.generate_private_key(ec.SECP192R1()), "secp192r1"),
            (lambda: dsa.generate_private_key(2048), "clients do not take the key's type (DSA)"),
        ],
    )
    def test_a_weak_key_is_refused(self, issue, key, reason):
        assert reason in issue(request(key()))["refused"]

    @pytest.mark.parametrize(
        "key", [ed25519.Ed25519PrivateKey.generate, lambda: ec.generate_private_key(ec.SECP384R1())]
    )
    def test_a_good_key_of_another_kind_is_taken(self, issue, key):
        assert "certificate" in issue(request(key()))

    @pytest.mark.parametrize(
        "text",
        ["", "/etc/ssl/private/cakey.pem", None, {"a": 1}, "-----BEGIN PUBLIC KEY-----\nx\n-----END", "x" * 20000],
    )
    def test_what_is_no_request_is_refused(self, issue, text):
        assert "not the text of one PEM" in issue(text)["refused"]

    def test_a_request_that_its_key_did_not_sign_is_refused(self, issue):
        # The last character that carries data: a few bits of the signature.
        lines = request(rsa.generate_private_key(65537, 2048)).strip().split("\n")
        lines[-3] = lines[-3][::-1]
        assert issue("\n".join(lines))["refused"] in (
            "The request is not signed by its own key",
            "The request is not a PEM certificate request: Invalid signature",
        )

    def test_policies_of_the_administrators_own_are_used_for_their_minions(self, issue, pillar):
        files = pillar["postfix_mta"]["certificate"]["ca"]
        own = {
            "minions": "mail3*",
            "signing_cert": files["certificate"],
            "signing_private_key": files["key"],
            "signing_private_key_passphrase": PASSPHRASE,
            "CN": "three.example.com",
            "subjectAltName": "DNS:three.example.com",
            "days_valid": 5,
        }
        pillar["x509_signing_policies"] = {"three": own, "open": {**own, "minions": None}, "list": [own]}
        answer = issue(request(), policy="three", sender="mail3.example.com")
        assert names(x509.load_pem_x509_certificate(answer["certificate"].encode())) == ["three.example.com"]
        assert "certificate" in issue(request(), policy="list", sender="mail3.example.com")
        assert "not for mail1" in issue(request(), policy="three")["refused"]
        assert "has no minions" in issue(request(), policy="open")["refused"]

    def test_a_key_in_the_authoritys_file_is_not_handed_out(self, authority, minion):
        path, key = (pathlib.Path(authority[name]) for name in ("certificate", "key"))
        certificate = path.read_bytes()
        path.write_bytes("Müller\n".encode("latin-1") + key.read_bytes() + certificate)
        assert _mta_fleet_ca.certificate(minion) == {"certificate": certificate.decode()}

    def test_without_an_authority_it_says_what_makes_one(self, minion):
        assert "postfix_mta.fleet_ca makes" in _mta_fleet_ca.certificate(minion)["refused"]
        answer = _mta_fleet_ca.issue(minion, request(), MAIL1, __pub_id=MAIL1)
        assert "postfix_mta.fleet_ca makes" in answer["refused"]

    @pytest.fixture
    def log(self):
        """Everything that is logged meanwhile, at any level."""
        lines = []
        handler = logging.Handler()
        handler.emit = lambda record: lines.append(logging.Formatter().format(record))
        root = logging.getLogger()
        level = root.level
        root.addHandler(handler)
        root.setLevel(1)
        yield lines
        root.setLevel(level)
        root.removeHandler(handler)

    def test_a_wrong_passphrase_is_no_traceback_and_shows_nothing(self, issue, pillar, log):
        pillar["postfix_mta"]["certificate"]["ca"]["passphrase"] = "wrong-8888"
        assert "cannot be used" in issue(request())["refused"]
        assert any("failed" in line for line in log)
        assert not any("wrong-8888" in line for line in log)

    def test_the_passphrase_is_in_no_log_line(self, issue, log):
        assert "certificate" in issue(request())
        assert any("Signed for" in line for line in log)
        assert not any(PASSPHRASE in line for line in log)


def test_without_salts_x509_module_it_names_the_feature_flag(issue, functions):
    del functions["x509.encode_certificate"]
    functions["x509.create_certificate"] = lambda **_: pytest.fail("not to be called")
    assert "features: {x509_v2: true}" in issue(request())["refused"]


class TestTheMailMinion:
    @pytest.fixture
    def answered(self, pretend, monkeypatch):
        """Let the master answer with a value after some seconds; the calls that it gets."""

        def answer(value, seconds=0.1):
            clock = iter([100.0, 100.0 + seconds])
            calls = []

            def publish(*args, **kwargs):
                calls.append((args, kwargs))
                return value(*args, **kwargs) if callable(value) else value

            pretend("publish.publish", publish)
            monkeypatch.setattr(_mta_fleet_ca, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
            return calls

        return answer

    @pytest.mark.parametrize(
        ("value", "seconds", "text"),
        [
            ({}, 0.2, "add that to 'peer' in the master's configuration"),
            ({}, 30.4, "did not answer within 30 seconds"),
            ({"other": {"certificate": "x"}}, 1, "did not answer"),
            (None, 0.2, "knows no minion ca.example.com"),
            ("'x' publish timed out", 60, "The master did not answer"),
            (
                {CA: "'mta_fleet_ca.issue' is not available."},
                1,
                "is not available. Has state.apply postfix_mta.fleet_ca",
            ),
            ({CA: {"refused": "the policy p is not for q"}}, 1, "refused: the policy p is not for q"),
            ({CA: {}}, 1, "is not a PEM certificate"),
            ({CA: {"certificate": "/etc/passwd"}}, 1, "is not a PEM certificate"),
        ],
    )
    def test_it_is_told_what_to_mend(self, minion, answered, value, seconds, text):
        answered(value, seconds)
        with pytest.raises(CommandExecutionError, match=text):
            _mta_fleet_ca.sign_request(minion, request(), CA)

    def test_without_a_master_it_says_so(self, minion):
        del minion.opts["master_uri"]
        with pytest.raises(CommandExecutionError, match="runs without one"):
            _mta_fleet_ca.authority(minion, CA)

    def test_a_certificate_for_another_key_is_not_taken(self, minion, answered, issue):
        other = issue(request())
        answered({CA: other})
        with pytest.raises(CommandExecutionError, match="for another key"):
            _mta_fleet_ca.sign_request(minion, request(), CA)

    def test_it_asks_only_the_ca_minion_by_its_own_id_as_policy(self, minion, answered, issue):
        calls = answered(lambda tgt, fun, arg, **_: {CA: issue(arg[0]["request"], arg[0]["policy"])})
        assert _mta_fleet_ca.sign_request(minion, request(), CA).startswith("-----BEGIN CERTIFICATE")
        ((target, function), options) = calls[0]
        assert (target, function, options["tgt_type"]) == (CA, "mta_fleet_ca.issue", "list")
        assert options["arg"][0]["policy"] == MAIL1

    @pytest.mark.parametrize("ca_minion", ["*", "a,b", "", None, "E@x or *"])
    def test_only_one_minion_can_be_the_ca_minion(self, minion, ca_minion):
        with pytest.raises(Exception, match="must be a minion id"):
            _mta_fleet_ca.authority(minion, ca_minion)


class TestTheTrustStore:
    @pytest.fixture
    def store(self, states, tmp_path):
        (tmp_path / "ca.pem").write_text("one\n")

        def run(source="ca.pem", command=("true",), test=False):
            states.opts["test"] = test
            name = str(tmp_path / "store/postfix_mta.crt")
            if source is None:
                return states["mta_fleet_ca.untrusted"](name, list(command))
            return states["mta_fleet_ca.trusted"](name, str(tmp_path / source), list(command))

        run.file = tmp_path / "store/postfix_mta.crt"
        return run

    def test_a_certificate_is_added_once_and_taken_out_again(self, store):
        announced = store(test=True)
        assert announced["result"] is None
        assert not store.file.exists()
        assert store()["changes"] == announced["changes"]
        assert store.file.read_text() == "one\n"
        assert store()["changes"] == {}
        assert store(source=None)["changes"]
        assert not store.file.exists()
        assert store(source=None)["changes"] == {}

    def test_a_failed_rebuild_is_tried_again(self, store):
        failed = store(command=("false",))
        assert failed["result"] is False
        assert failed["changes"] == {}
        assert not store.file.exists()
        assert store()["result"] is True

    def test_what_is_not_there_yet_is_expected_in_test_mode_only(self, store):
        assert store(source="none.pem", test=True)["result"] is None
        assert "is not there" in store(source="none.pem")["comment"]

    def test_a_renewed_authority_replaces_the_old_one(self, store):
        store()
        store.file.with_name("postfix_mta.crt").write_text("older\n")
        assert store()["changes"][str(store.file)]["old"] == "another certificate"
        assert store.file.read_text() == "one\n"
