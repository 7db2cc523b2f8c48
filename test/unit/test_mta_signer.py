"""The signer: which selector signs, and what its check makes of what a milter answers."""

import base64
import hashlib
import pathlib
import re
import socket
import struct
import threading

import pytest

import _mta_dkim
import _mta_milter
import _mta_postfix_view
import _mta_signer
import _mta_system
import _mta_x509
import _mta_x509_make

DAY = 86400


@pytest.fixture(scope="module")
def pem():
    return _mta_x509_make.make_key("rsa", 2048)


@pytest.fixture
def host(tmp_path, monkeypatch, pem):
    """A signer whose files are in a temporary directory; ``host(text)`` gives it a configuration."""
    monkeypatch.setattr(_mta_signer, "FOLDER", str(tmp_path))
    monkeypatch.setattr(_mta_signer, "CONF", str(tmp_path / "rspamd.conf"))
    for name in ("old", "new"):
        (tmp_path / f"{name}.key").write_bytes(pem)
    return lambda text: (tmp_path / "rspamd.conf").write_text(text)


@pytest.fixture
def choose(minion, pem):
    """The selectors that there are to be, where ``new`` is asked for; the servers say these texts."""

    def selectors(said, now=1000 * DAY):
        def look_up(name, kind, server=None):
            if kind == "NS":
                return ["a.example.", "b.example."] if name == "example.com" else []
            if kind == "A":
                return ["192.0.2.1" if name.startswith("a") else "192.0.2.2"]
            return said.get(server, [])

        return _mta_signer.selectors(minion, ["example.com"], "new", 7, now=now, look_up=look_up)

    return selectors


@pytest.fixture(scope="module")
def record(pem):
    return _mta_dkim.record(_mta_x509.describe_key(pem)["public"])


def test_the_first_selector_signs_at_once(host, choose):
    assert choose({}) == _mta_signer.Selectors("new", {}, None)


def test_another_one_waits_for_all_name_servers(host, choose, record):
    host("# signs: old\n")
    lacks = "new._domainkey.example.com is not at the name server {}.example".format
    for said, servers in (
        ({}, "ab"),
        ({"192.0.2.1": [record]}, "b"),
        ({"192.0.2.1": [record], "192.0.2.2": ["v=DKIM1; p=AAAA"]}, "b"),
    ):
        assert choose(said) == _mta_signer.Selectors("old", {}, "new", lacking=[*map(lacks, servers)])
    switches = _mta_signer.Selectors("new", {"old": 1000 * DAY}, None)
    assert choose({"192.0.2.1": [record], "192.0.2.2": [record]}) == switches


def test_an_old_one_is_kept_until_its_mail_is_through(host, choose):
    host(f"# signs: new\n# kept: old since {1000 * DAY}\n")
    assert choose({}, now=1006 * DAY).kept == {"old": 1000 * DAY}
    assert choose({}, now=1008 * DAY).kept == {}


def test_an_old_one_whose_key_is_gone_is_forgotten(host, choose, tmp_path):
    (tmp_path / "old.key").unlink()
    host(f"# signs: new\n# kept: old since {999 * DAY}\n")
    assert choose({}).kept == {}


def test_the_dns_is_not_asked_where_nothing_waits(host, minion):
    host("# signs: new\n")
    asked = _mta_signer.selectors(minion, ["example.com"], "new", 7, look_up=lambda *_: pytest.fail("a query"))
    assert asked.active == "new"


class TestDamage:
    """What somebody has done to the signer's files."""

    @pytest.fixture
    def plan(self, host, minion, pretend, monkeypatch, tmp_path):
        pretend("_mta_services.manager", lambda: "systemd")
        pretend("_mta_services.status", lambda names: {name: {"active": True} for name in names})
        monkeypatch.setattr(_mta_signer, "UNIT", str(tmp_path / "unit"))
        monkeypatch.setattr(_mta_signer, "RULE", str(tmp_path / "unsigned.lua"))
        access = _mta_system.owner_and_mode(tmp_path / "new.key")
        monkeypatch.setattr(_mta_signer, "FILE_ACCESS", access)
        monkeypatch.setattr(_mta_signer, "KEY_ACCESS", access)
        socket = tmp_path / _mta_signer.SOCKET
        socket.parent.mkdir()
        socket.touch()

        def plan():
            return _mta_signer.plan(minion, ["example.com"], "new", queue_directory=str(tmp_path))

        (tmp_path / "old.key").unlink()
        monkeypatch.setattr(_mta_signer._mta_restore, "obsolete", lambda *_: {"changes": {}, "stays": []})
        files = _mta_signer._planned(minion, ["example.com"], "new", queue_directory=str(tmp_path))[0].files
        for path, text in files.items():
            pathlib.Path(path).write_text(text)
        assert plan().changes == {}
        return plan

    def test_a_file_that_is_not_its_own_or_that_others_read_is_mended(self, plan, tmp_path):
        for name, action in (("new.key", "reload"), ("rspamd.conf", "reload"), ("unit", "restart")):
            (tmp_path / name).chmod(0o666)
            planned = plan()
            assert list(planned.changes) == [str(tmp_path / name)]
            assert planned.activate == {"postfix-mta-signer": action}
            (tmp_path / name).chmod(0o644)

    def test_a_key_that_is_gone_is_made_anew_and_its_record_is_no_longer_right(self, plan, tmp_path):
        (tmp_path / "new.key").unlink()
        planned = plan()
        assert list(planned.changes) == [str(tmp_path / "new.key")]
        assert planned.activate == {"postfix-mta-signer": "reload"}
        assert "replace its record" in str(planned.notes)

    def test_a_socket_that_is_gone_comes_back(self, plan, tmp_path):
        (tmp_path / _mta_signer.SOCKET).unlink()
        planned = plan()
        assert planned.changes == {"socket": {"old": None, "new": f"{tmp_path}/{_mta_signer.SOCKET}"}}
        assert planned.activate == {"postfix-mta-signer": "restart"}

    def test_one_that_is_masked_is_refused(self, plan, tmp_path):
        (tmp_path / "unit").unlink()
        (tmp_path / "unit").symlink_to("/dev/null")
        assert plan().errors == ["postfix-mta-signer is masked: systemctl unmask postfix-mta-signer"]


def test_a_file_whose_owner_is_mended_is_no_version_to_come_back(minion, monkeypatch, tmp_path):
    written = []
    monkeypatch.setattr(
        _mta_signer._mta_transaction, "write", lambda _, *args, protect: written.append((args[1:], protect))
    )
    (tmp_path / "file").write_bytes(b"x")
    for contents in (b"x", b"y"):
        _mta_signer._write(minion, str(tmp_path / "file"), contents, "one:two 0600")
    assert written == [((b"x", "one", "two", "0600"), ["previous"]), ((b"y", "one", "two", "0600"), [])]


class TestGivenKey:
    """A key from pillar, for servers that share one."""

    @pytest.fixture
    def errors(self, host, minion, pretend, tmp_path):
        pretend("_mta_services.manager", lambda: "systemd")
        pretend("_mta_services.status", lambda names: {name: {"active": True} for name in names})
        given = tmp_path / "given.pem"

        def plan(pem):
            given.write_bytes(pem)
            given.chmod(0o600)
            return _mta_signer.plan(minion, ["example.com"], "new", key_pillar=str(given)).errors

        return plan

    def test_one_that_receivers_do_not_verify_is_refused(self, errors):
        for kind, size in (("ec", 256), ("ed25519", None)):
            (found,) = errors(_mta_x509_make.make_key(kind, size))
            assert "all receivers verify RSA of 1024 bits or more" in found
        (found,) = errors(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
        assert "not a PEM private key" in found

    def test_another_one_needs_another_selector_once_it_has_signed(self, errors, host, pem):
        assert errors(_mta_x509_make.make_key("rsa", 2048)) == []
        for text in ("# signs: new\n", f"# signs: old\n# kept: new since {2000000000}\n"):
            host(text)
            assert errors(pem) == []
            (found,) = errors(_mta_x509_make.make_key("rsa", 2048))
            assert "name another selector" in found
        # One that waits has signed nothing.
        host("# signs: old\n")
        assert errors(pem) == []


class FakeMilter(threading.Thread):
    """A milter that answers each step, and at the end with these packets."""

    def __init__(self, path, ending, skipped=0):
        super().__init__(daemon=True)
        self.ending, self.skipped = ending, skipped
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(path)
        self.server.listen()
        self.start()

    def run(self):
        connection, _ = self.server.accept()
        with connection, connection.makefile("rb") as stream:

            def say(letter, data=b""):
                connection.sendall(struct.pack("!I", len(data) + 1) + letter + data)

            while header := stream.read(4):
                packet = stream.read(struct.unpack("!I", header)[0])
                if packet[:1] == b"O":
                    say(b"O", struct.pack("!III", 6, 0x1FF, self.skipped))
                elif packet[:1] == b"E":
                    for letter, data in self.ending:
                        say(letter, data)
                elif packet[:1] not in b"DQ":
                    say(b"c")


MESSAGE = _mta_milter.Message("a@b.example", "c@d.example", [("From", "a@b.example")], b"x\r\n")


@pytest.mark.parametrize(
    ("ending", "verdict", "headers"),
    [
        (
            [(b"h", b"X-A\0b\0"), (b"i", b"\0\0\0\1X-C\0d\0"), (b"a", b"")],
            "accepted",
            [("X-A", "b"), ("X-C", "d")],
        ),
        ([(b"t", b"")], "put off", []),
        ([(b"y", b"550 no\0")], "refused", []),
    ],
)
def test_what_a_milter_does_is_told(tmp_path, ending, verdict, headers):
    FakeMilter(str(tmp_path / "m"), ending)
    outcome = _mta_milter.send(str(tmp_path / "m"), MESSAGE, "mail.b.example")
    assert (outcome.verdict, outcome.headers) == (verdict, headers)


def test_a_message_that_is_not_signed_is_a_problem(host, tmp_path, monkeypatch):
    host("# signs: new\n")
    monkeypatch.setattr(_mta_postfix_view, "queue_directory", lambda: str(tmp_path))
    (tmp_path / "postfix_mta_signer").mkdir()
    path = str(tmp_path / "postfix_mta_signer" / "milter")
    FakeMilter(path, [(b"a", b"")])
    assert "does not sign it" in _mta_signer.problems(["example.com"], patience=0)[0]
    (tmp_path / "postfix_mta_signer" / "milter").unlink()
    FakeMilter(path, [(b"i", b"\0\0\0\0DKIM-Signature\0v=1; d=example.com; s=old\0"), (b"a", b"")])
    assert "signed by old" in _mta_signer.problems(["example.com"], patience=0)[0]


def test_a_signer_that_is_not_there_is_a_problem(host, tmp_path, monkeypatch):
    host("# signs: new\n")
    monkeypatch.setattr(_mta_postfix_view, "queue_directory", lambda: str(tmp_path))
    assert "does not answer" in _mta_signer.problems(["example.com"], patience=0)[0]


def test_others_mail_is_judged_only_where_that_is_asked_for(host, minion, pretend, tmp_path, monkeypatch):
    names = [str(tmp_path / name) for name in ("rspamd.dat", "publicsuffix.dat")]
    monkeypatch.setattr(_mta_signer, "PUBLIC_NAMES", names)
    (tmp_path / "publicsuffix.dat").touch()
    for asked, refuses in ((False, False), (True, False), (True, True)):
        extras = (asked, False, "/var/spool/postfix", refuses)
        wanted = _mta_signer._wanted(minion, ["example.com"], "new", [], 7, None, *extras)
        text = wanted.files[_mta_signer.CONF]
        assert (_mta_signer.RESULTS_TEXT in text, f'"{names[1]}"' in text) == (asked, asked)
        # Without a list that is worth it Hyperscan would only cost.
        assert ("disable_hyperscan = false" in text, 'reject = "reject"' in text) == (asked, refuses)
        told = "; Authentication-Results" * asked + "; refuses by DMARC" * refuses
        host(text)
        assert _mta_signer.judges() is asked
        assert _mta_signer._signs(text) == "new signs for example.com" + told


class TestSecond:
    """An Ed25519 key beside the one that signs."""

    @pytest.fixture
    def wanted(self, host, minion, pretend, monkeypatch, tmp_path):
        (tmp_path / "new-ed25519.key").write_bytes(_mta_signer._ed25519_key())
        lacking = []
        monkeypatch.setattr(_mta_signer, "unpublished", lambda *_: lacking)

        def wanted(*names, ed25519=True):
            lacking[:] = names
            extras = (False, ed25519, "/var/spool/postfix", False)
            return _mta_signer._wanted(minion, ["example.com"], "new", [], 7, None, *extras)

        return wanted

    def test_its_record_and_its_signatures_are_those_of_rfc_8463(self, wanted):
        public = _mta_signer.public_key("new-ed25519")
        assert re.fullmatch(r"v=DKIM1; k=ed25519; p=[A-Za-z0-9+/]{43}=", _mta_dkim.record(public))
        seed = base64.b64decode(pathlib.Path(_mta_signer.key_file("new-ed25519")).read_bytes())[:32]
        key = _mta_x509.library().ed25519.Ed25519PrivateKey.from_private_bytes(seed)
        digest = base64.b64encode(hashlib.sha256(b"x\r\n").digest()).decode()
        text = f"v=1; a=ed25519-sha256; c=relaxed/relaxed; d=x.example; s=k; h=a; bh={digest}; b="
        made = key.sign(hashlib.sha256(f"a:X\r\ndkim-signature:{text}".encode()).digest())
        signature = text + base64.b64encode(made).decode()
        assert _mta_dkim.problem(signature, [("A", "X")], b"x\r\n", public) is None
        assert "not by the key" in _mta_dkim.problem(signature, [("A", "Y")], b"x\r\n", public)

    def test_it_signs_once_its_record_is_there_and_goes_on(self, host, wanted):
        host("# signs: new\n")
        waits = wanted("a name server")
        assert (waits.selectors.second, waits.keys) == (None, ["new", "new-ed25519"])
        assert "new-ed25519 signs, too, after" in str(waits.notes)
        there = wanted()
        assert (there.selectors.second, there.notes) == ("new-ed25519", [])
        text = there.files[_mta_signer.CONF]
        assert _mta_signer._signs(text) == "new signs for example.com; also new-ed25519"
        host(text)
        assert _mta_signer.state().second == "new-ed25519"
        assert wanted("a name server").selectors.second == "new-ed25519"

    def test_it_is_kept_and_goes_when_nobody_asks_for_it(self, host, wanted):
        host(wanted().files[_mta_signer.CONF])
        gone = wanted(ed25519=False)
        # Mail that it has signed is on its way.
        assert (gone.keys, gone.selectors.second) == (["new", "new-ed25519"], None)
        assert _mta_signer._signs(gone.files[_mta_signer.CONF]) == "new signs for example.com; kept: new-ed25519"
        host("# signs: new\n# kept: new-ed25519 since 1000\n")
        assert wanted(ed25519=False).keys == ["new"]
        # Asked for again meanwhile, it signs again.
        host(gone.files[_mta_signer.CONF])
        again = wanted()
        assert (again.keys, again.selectors.second, again.selectors.kept) == (
            ["new", "new-ed25519"],
            "new-ed25519",
            {},
        )

    def test_after_a_rotation_the_old_one_is_kept_as_well(self, host, wanted, tmp_path):
        (tmp_path / "old-ed25519.key").write_bytes(_mta_signer._ed25519_key())
        host("# signs: old\n# also signs: old-ed25519\n")
        assert wanted().keys == ["new", "old", "old-ed25519", "new-ed25519"]
        assert wanted(ed25519=False).keys == ["new", "old", "old-ed25519"]
