"""mta_probe against servers that misbehave in every way that FACTS knows, and some more."""

import base64
import contextlib
import datetime
import functools
import ipaddress
import pathlib
import socket
import ssl
import threading
import time

import pytest
import salt.loader
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_audit
import _mta_judge
import _mta_smtp
import _mta_untrusted_client

HOST = "mail.example.com"
PASSWORD = "s3cret-pass"
EHLO = ["PIPELINING", "SIZE 10240000", "STARTTLS", "AUTH PLAIN LOGIN", "AUTH=PLAIN LOGIN", "8BITMIME"]


def make_certificate(folder, name, host=HOST, key=None):
    """A self-signed certificate with its key in one PEM file."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / name
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return str(path)


class Server:
    """
    An SMTP server in a thread. ``replies`` overrides the reply to a command (first words, or the whole line);
    ``b""`` closes the connection, ``None`` says nothing any more.
    """

    def __init__(self, certificate):
        self.certificate = certificate
        self.replies = {}
        self.ehlo = list(EHLO)
        self.banner = f"220 {HOST} ESMTP Postfix".encode() + b"\r\n"
        self.wrappermode = False
        self.drops = 0
        self.slow = 0
        self.seen = []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def stop(self):
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.socket.accept()
                threading.Thread(target=self._guarded, args=(connection,), daemon=True).start()

    def _guarded(self, connection):
        with contextlib.suppress(OSError, ValueError):
            self._talk(connection)
        connection.close()

    def _secure(self, connection):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        for path in [self.certificate] if isinstance(self.certificate, str) else self.certificate:
            context.load_cert_chain(path)
        return context.wrap_socket(connection, server_side=True)

    def _answer(self, line, secured, message):
        for key, reply in self.replies.items():
            if line.upper().startswith(key.upper()):
                return reply
        verb = line.split(" ")[0].upper()
        if verb == "EHLO":
            lines = [HOST, *[word for word in self.ehlo if not (secured and word == "STARTTLS")]]
            return "".join(
                f"250{' ' if number == len(lines) else '-'}{text}\r\n" for number, text in enumerate(lines, 1)
            ).encode()
        if line.startswith("AUTH PLAIN "):
            good = base64.b64decode(line[11:]) == f"\0alice\0{PASSWORD}".encode()
            return (
                b"235 2.7.0 Authentication successful\r\n"
                if good
                else b"535 5.7.8 Error: authentication failed\r\n"
            )
        if line == "AUTH LOGIN":
            return b"334 VXNlcm5hbWU6\r\n"
        if line == base64.b64encode(b"alice").decode():
            return b"334 UGFzc3dvcmQ6\r\n"
        if line == base64.b64encode(PASSWORD.encode()).decode():
            return b"235 2.7.0 Authentication successful\r\n"
        if "example.net" in line:
            return b"454 4.7.1 Relay access denied\r\n"
        if "<probe-" in line:
            return b"550 5.1.1 User unknown\r\n"
        if message:
            return b"554 5.4.0 Error: too many hops\r\n"
        ready = {"STARTTLS": b"220 2.0.0 Ready\r\n", "DATA": b"354 go on\r\n", "QUIT": b"221 Bye\r\n"}
        return ready.get(verb, b"250 2.0.0 Ok\r\n")

    def _talk(self, connection):
        if self.drops:
            self.drops -= 1
            return
        if self.wrappermode:
            connection = self._secure(connection)
        slow = self.slow
        for number in range(len(self.banner) if slow else 1):
            time.sleep(slow)
            connection.sendall(self.banner[number : number + 1] if slow else self.banner)
        secured, message = self.wrappermode, False
        reader = connection.makefile("rb")
        while raw := reader.readline():
            line = raw.decode().rstrip("\r\n")
            if message and line != ".":
                continue
            self.seen.append(line)
            reply = self._answer(line, secured, message)
            if reply is None:
                time.sleep(5)
            if not reply:
                return
            connection.sendall(reply)
            message = line == "DATA" and reply.startswith(b"354")
            if line == "STARTTLS" and reply.startswith(b"220"):
                connection = self._secure(connection)
                reader, secured = connection.makefile("rb"), True
            if line == "QUIT":
                return


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Paths of PEM files by what is in them."""
    folder = tmp_path_factory.mktemp("certificates")
    return {
        "good": make_certificate(folder, "good.pem"),
        "other": make_certificate(folder, "other.pem"),
        "elsewhere": make_certificate(folder, "elsewhere.pem", "elsewhere.example.org"),
        "rsa": make_certificate(folder, "rsa.pem", key=rsa.generate_private_key(65537, 2048)),
    }


@pytest.fixture
def server(certificates):
    fake = Server(certificates["good"])
    yield fake
    fake.stop()


@pytest.fixture
def listener(server, certificates):
    return {
        "service": "smtp/inet",
        "host": "127.0.0.1",
        "port": server.port,
        "wrappermode": False,
        "starttls": True,
        "auth": True,
        "auth_before_tls": True,
        "certificates": [certificates["good"]],
        "key": certificates["good"],
        "hostname": HOST,
    }


@pytest.fixture
def inside():
    return vars(_mta_judge)


@pytest.fixture
def check(minion, listener):
    """Check the fake server."""
    return lambda **kwargs: _mta_judge.check(minion, listeners=[listener], **{"timeout": 5, **kwargs})


@pytest.fixture
def converse(server):
    return lambda **kwargs: _mta_smtp.converse(port=server.port, **{"timeout": 5, **kwargs})


def problem(found):
    assert not found["answers"]
    return "\n".join(found["problems"])


def test_a_healthy_server_answers(check, certificates, server, listener):
    found = check(hostname=HOST, ca_file=certificates["good"], capabilities=["SIZE 10240000", "auth login plain"])
    assert (found["answers"], found["listening"], found["problems"], found["notes"]) == (True, True, [], [])
    assert found["speaking"] == [listener]
    tls = found["conversations"][0]["tls"]
    assert tls["verified"] and tls["error"] is None and tls["version"].startswith("TLS")
    assert found["transcript"][1:3] == [f"S: 220 {HOST} ESMTP Postfix", "C: EHLO localhost"]
    assert server.seen == ["EHLO localhost", "STARTTLS", "EHLO localhost", "QUIT"]


def test_the_envelope_goes_as_far_as_the_refused_message(check, server):
    assert check(envelope=True)["problems"] == []
    assert [line.split("-")[0] for line in server.seen[3:]] == [
        "MAIL FROM:<>",
        f"RCPT TO:<postmaster@{HOST}>",
        "RCPT TO:<probe",
        "RSET",
        f"MAIL FROM:<postmaster@{HOST}>",
        f"RCPT TO:<postmaster@{HOST}>",
        "DATA",
        ".",
        "RSET",
        "QUIT",
    ]


@pytest.mark.parametrize(
    ("command", "reply", "words"),
    [
        ("EHLO", b"", "EHLO: connection closed by the server"),
        ("EHLO", b"502 5.5.1 no\r\n", "EHLO: 502 5.5.1 no"),
        ("STARTTLS", b"454 4.7.0 TLS not available\r\n", "STARTTLS: 454 4.7.0 TLS not available"),
        ("MAIL FROM:<>", b"421 4.3.0 bye\r\n", "MAIL FROM:<>: 421"),
        (
            "RCPT TO:<postm",
            b"451 4.3.0 Temporary lookup failure\r\n",
            f"RCPT TO:<postmaster@{HOST}>: 451 4.3.0",
        ),
        ("RCPT TO:<postm", b"451-4.3.5 one\r\n451 4.3.5 two\r\n", ">: 451 4.3.5 one 4.3.5 two"),
        ("RCPT TO:<probe", b"451 4.3.5 Server configuration problem\r\n", "451 4.3.5"),
        ("RCPT TO:<postm", b"451 4.7.1 Service unavailable - try again later\r\n", "Service unavailable"),
        ("RCPT TO:<postm", b"", "connection closed"),
        ("RCPT TO:<postm", b"nonsense\r\n", "garbled: nonsense"),
        ("RCPT TO:<postm", b"\xff\x00\x1b[1m" * 20 + b"\r\n", "garbled: "),
        ("RCPT TO:<postm", b"x" * 9000, "garbled: "),
        ("RCPT TO:<postm", b"250-again\r\n" * 300, "garbled: "),
        (".", b"451 4.3.0 Error: queue file write error\r\n", "DATA: 451 4.3.0 Error: queue file"),
        ("DATA", b"451 4.3.0 no\r\n", "DATA: 451"),
    ],
)
def test_a_broken_server_is_told_by_step_and_reply(check, server, command, reply, words):
    server.replies[command] = reply
    assert words in problem(check(envelope=True))
    assert problem(check(envelope=True)).startswith(f"127.0.0.1:{server.port} ")


@pytest.mark.parametrize(
    "reply",
    ["450 4.7.1 Greylisted", "451 4.7.1 Greylisted", "554 5.7.1 Client host rejected", "550 5.1.1 Unknown"],
)
def test_a_policy_refusal_is_no_fault_where_logins_are_expected(check, server, reply):
    server.replies["RCPT TO"] = reply.encode() + b"\r\n"
    assert check(envelope=True)["answers"]


def test_on_port_25_the_postmaster_has_to_be_accepted(check, server, listener, inside, monkeypatch):
    server.replies["RCPT TO:<postm"] = b"550 5.1.1 Unknown\r\n"
    real = _mta_smtp._Line
    monkeypatch.setattr(_mta_smtp, "_Line", lambda address, *more: real(("127.0.0.1", server.port), *more))
    listener["port"] = 25
    assert f"127.0.0.1:25 RCPT TO:<postmaster@{HOST}>: 550 5.1.1 Unknown" in problem(check(envelope=True))


def test_nobody_listens(check, server):
    server.stop()
    found = check()
    assert (found["answers"], found["listening"]) == (False, False)
    assert found["problems"] == [f"127.0.0.1:{server.port} connect: connection refused"]
    assert found["speaking"] == []


def test_no_listener_is_a_problem(minion):
    found = _mta_judge.check(minion, listeners=[])
    assert found["problems"] == ["master.cf has no SMTP listener"]


def test_a_server_that_comes_back_in_time_answers(check, server):
    server.drops = 2
    assert "banner: connection closed" in problem(check())
    server.drops = 2
    assert check(patience=3)["answers"]


def test_patience_ends(check, server):
    server.drops = 1000
    started = time.monotonic()
    assert "banner: connection closed" in problem(check(patience=1))
    assert 0.5 < time.monotonic() - started < 2


@pytest.mark.parametrize("slow", [0.3, 60])
def test_a_slow_server_does_not_outlast_the_deadline(check, server, slow):
    server.slow = slow
    started = time.monotonic()
    assert "banner: no answer in time" in problem(check(timeout=1))
    assert time.monotonic() - started < 2


def test_a_server_that_falls_silent_does_not_outlast_the_deadline(check, server):
    server.replies["STARTTLS"] = None
    started = time.monotonic()
    assert "STARTTLS: no answer in time" in problem(check(timeout=1))
    assert time.monotonic() - started < 2


def test_another_certificate_than_the_one_on_disk_is_a_problem(check, server, certificates):
    server.certificate = certificates["other"]
    assert f"STARTTLS: the certificate served is not the one in {certificates['good']}" in problem(check())


def test_each_of_two_certificates_has_to_be_served(check, server, listener, certificates):
    listener["certificates"] = [certificates["good"], certificates["rsa"]]
    assert problem(check()).endswith(f"TLS: the certificate in {certificates['rsa']} is served to nobody")
    server.certificate = [certificates["good"], certificates["rsa"]]
    found = check()
    assert found["answers"], found["problems"]
    served = {talk["tls"]["fingerprint"] for talk in found["conversations"]}
    assert len(served) == 2
    server.certificate = [certificates["other"], certificates["rsa"]]
    assert "the certificate served is not the one in" in problem(check())


def test_the_certificates_behind_the_servers_own_are_not_the_servers(
    check, server, listener, certificates, tmp_path
):
    chain = tmp_path / "chain.pem"
    with open(certificates["good"]) as good, open(certificates["other"]) as other:
        chain.write_text(good.read() + other.read().partition("-----END PRIVATE KEY-----\n")[2])
    listener["certificates"] = [str(chain)]
    assert check()["answers"]
    server.certificate = certificates["other"]
    assert "is not the one in" in problem(check())


def test_a_chain_that_does_not_verify_is_a_problem_and_the_rest_is_still_told(check, server, certificates):
    server.certificate = certificates["other"]
    found = check(ca_file=certificates["good"], hostname=HOST)
    text = problem(found)
    assert "TLS: certificate not verified by" in text and "is not the one in" in text
    talk = found["conversations"][0]
    assert talk["tls"]["error"] and not talk["tls"]["verified"]
    assert talk["ehlo_tls"]


def test_a_certificate_for_another_host_is_a_problem(check, server, listener, certificates):
    server.certificate = certificates["elsewhere"]
    listener["certificates"] = [certificates["elsewhere"]]
    assert "Hostname mismatch" in problem(check(ca_file=certificates["elsewhere"], hostname=HOST))


@pytest.mark.parametrize("which", ["certificate", "ca_file"])
def test_a_file_that_is_not_there_is_a_problem(check, listener, tmp_path, which):
    missing = str(tmp_path / "nope.pem")
    if which == "certificate":
        listener["certificates"] = [missing]
        assert f"Cannot read {missing}" in problem(check())
    else:
        assert f"Cannot read {missing}" in problem(check(ca_file=missing))


def test_text_injected_before_tls_is_refused(check, server):
    server.replies["STARTTLS"] = b"220 2.0.0 Ready\r\n250 injected\r\n"
    assert "spoke in clear after STARTTLS" in problem(check())


def test_implicit_tls(check, server, listener):
    server.wrappermode = listener["wrappermode"] = True
    server.ehlo.remove("STARTTLS")
    listener["starttls"] = False
    found = check()
    assert found["answers"], found["problems"]
    assert found["conversations"][0]["ehlo"] == []


def test_implicit_tls_with_a_server_that_speaks_in_clear(check, listener):
    listener["wrappermode"] = True
    assert " TLS: " in problem(check())


@pytest.mark.parametrize(
    ("promise", "offered", "words"),
    [
        ({"starttls": False}, EHLO, "STARTTLS is offered"),
        ({}, ["AUTH PLAIN LOGIN"], "STARTTLS is not offered"),
        ({}, ["STARTTLS"], "AUTH is not offered without TLS"),
        ({"auth_before_tls": False}, EHLO, "AUTH is offered without TLS"),
        ({"auth": False}, EHLO, "AUTH is offered under TLS"),
    ],
)
def test_offers_are_what_the_configuration_promises(check, server, listener, promise, offered, words):
    listener.update(promise)
    server.ehlo = offered
    assert words in problem(check())


def test_a_required_capability_that_nobody_offers_is_a_problem(check):
    text = problem(check(capabilities=["PIPELINING", "DSN", "SIZE 5"]))
    assert text.splitlines() == ["EHLO: no listener offers DSN", "EHLO: no listener offers SIZE 5"]


def test_the_banner_and_ehlo_have_to_name_the_host(check):
    text = problem(check(hostname="other.example.com"))
    assert "(expected the host name other.example.com)" in text
    assert "EHLO: the server calls itself mail.example.com (expected other.example.com)" in text


def test_a_service_with_its_own_name_goes_by_it(minion, server, listener):
    own = {**listener, "service": "submission/inet", "hostname": "submit.example.com"}
    second = Server(server.certificate)
    own["port"] = second.port
    second.banner = b"220 submit.example.com ESMTP\r\n"
    second.replies["EHLO"] = b"250-submit.example.com\r\n250-AUTH PLAIN\r\n250 STARTTLS\r\n"
    second.replies["STARTTLS"] = b"220 ok\r\n"
    own["starttls"], second.replies["EHLO"] = False, b"250-submit.example.com\r\n250 AUTH PLAIN\r\n"
    found = _mta_judge.check(minion, listeners=[listener, own], hostname=HOST, timeout=5)
    assert found["problems"] == []


# -- AUTH --------------------------------------------------------------------------------------


@pytest.fixture
def login(opts, context, listener):
    """Check with a login in the pillar."""

    def run(password=PASSWORD, **login):
        login = login or {"username": "alice", "password": password}
        pillar = {"postfix_mta": {"verify": {"login": login}}}
        modules = salt.loader.minion_mods({**opts, "pillar": pillar}, context=context)
        modules.pack["__salt__"]._dict["sdb.get"] = lambda uri: PASSWORD if uri == "sdb://store/probe" else None
        path = "postfix_mta:verify:login"
        return _mta_judge.check(minion, listeners=[listener], login_pillar=path, timeout=5)

    return run


def test_a_login_is_tried_both_ways_with_and_without_tls(login):
    found = login()
    assert found["problems"] == []
    ways = [(talk["auth"]["tls"], talk["auth"]["mechanism"]) for talk in found["conversations"][1:]]
    assert ways == [(False, "PLAIN"), (False, "LOGIN"), (True, "PLAIN"), (True, "LOGIN")]


def test_no_secret_is_shown(login):
    text = str(login())
    plain = base64.b64encode(f"\0alice\0{PASSWORD}".encode()).decode()
    for secret in (PASSWORD, plain, base64.b64encode(PASSWORD.encode()).decode()):
        assert secret not in text
    assert "C: AUTH PLAIN ****" in text and "'C: ****'" in text


def test_a_login_that_fails_is_a_problem(login):
    text = problem(login("wrong"))
    assert "AUTH PLAIN without TLS: 535" in text and "AUTH PLAIN: 535" in text
    assert "wrong" not in text


def test_a_password_may_be_in_a_store(login):
    assert login("sdb://store/probe")["answers"]


@pytest.mark.parametrize("found", [{"username": "alice"}, {"username": "alice", "password": 5}])
def test_a_login_without_name_and_password_is_refused(login, found):
    with pytest.raises(SaltInvocationError, match=r"username and a password|must be strings"):
        login(**found)


def test_no_login_in_the_pillar_is_none(check):
    assert check(login_pillar="postfix_mta:verify:login")["answers"]


def test_an_unknown_user_has_to_be_turned_away(check, server):
    assert check(auth="challenge")["answers"]
    server.replies["AUTH PLAIN"] = b"454 4.7.0 Temporary authentication failure: generic failure\r\n"
    assert "AUTH PLAIN of an unknown user: 454 4.7.0 Temporary" in problem(check(auth="challenge"))
    server.replies["AUTH PLAIN"] = b"235 2.7.0 come in\r\n"
    assert "AUTH PLAIN of an unknown user: 235" in problem(check(auth="challenge"))


def test_listeners_are_examined_at_the_same_time(minion, server, listener):
    server.slow = 0.02
    second = Server(server.certificate)
    second.slow = 0.02
    started = time.monotonic()
    _mta_judge.check(minion, listeners=[listener, {**listener, "port": second.port}], timeout=10)
    both = time.monotonic() - started
    started = time.monotonic()
    _mta_judge.check(minion, listeners=[listener], timeout=10)
    assert both < 1.6 * (time.monotonic() - started)


# -- a stranger --------------------------------------------------------------------------------


@pytest.fixture
def stranger(inside, monkeypatch):
    """A stranger's address without changed routes: 127.0.0.2; this host itself has none."""
    monkeypatch.setattr(_mta_untrusted_client, "own_address", lambda family: None)
    monkeypatch.setattr(_mta_untrusted_client, "stranger", lambda family: contextlib.nullcontext("127.0.0.2"))


@pytest.mark.usefixtures("stranger")
def test_a_stranger_is_served_but_gets_no_mail_for_others_in(check, server):
    found = check(stranger=True)
    assert found["answers"] and found["notes"] == []
    assert "EHLO [127.0.0.2]" in server.seen and "RCPT TO:<postmaster@example.net>" in server.seen


@pytest.mark.usefixtures("stranger")
def test_an_open_relay_is_a_problem(check, server):
    server.replies["RCPT TO"] = b"250 2.1.5 Ok\r\n"
    text = problem(check(stranger=True))
    assert "as a stranger RCPT TO:<postmaster@example.net>: 250 2.1.5 Ok (an open relay)" in text


@pytest.mark.usefixtures("stranger")
def test_a_policy_refusal_of_a_stranger_is_normal_a_fault_is_not(check, server):
    server.replies["RCPT TO:<postm"] = b"450 4.7.1 cannot find your hostname\r\n"
    assert check(stranger=True)["answers"]
    server.replies["RCPT TO:<postm"] = b"451 4.3.5 Server configuration error\r\n"
    assert "as a stranger RCPT TO:<postmaster@mail" in problem(check(stranger=True))


@pytest.mark.usefixtures("stranger")
def test_a_stranger_who_is_not_even_greeted_is_no_fault_and_everybody_else_is(check, server):
    server.replies["EHLO [127.0.0.2]"] = b"554 5.7.1 Client host rejected: Access denied\r\n"
    assert check(stranger=True)["answers"]
    server.replies["EHLO [127.0.0.2]"] = b"421 4.3.2 Service not available\r\n"
    assert "421" in problem(check(stranger=True))
    server.banner = b"554 5.7.1 Client host rejected: Access denied\r\n"
    assert "554" in problem(check(stranger=True))


@pytest.mark.usefixtures("stranger")
def test_this_host_s_own_address_is_stranger_enough_where_it_is_not_trusted(check, inside, monkeypatch, server):
    monkeypatch.setattr(_mta_untrusted_client, "own_address", lambda family: "127.0.0.3")
    assert check(stranger=True)["answers"]
    assert "EHLO [127.0.0.3]" in server.seen and "EHLO [127.0.0.2]" not in server.seen


@pytest.mark.usefixtures("stranger")
def test_where_this_host_s_own_address_is_trusted_another_one_decides(check, inside, monkeypatch, server):
    monkeypatch.setattr(_mta_untrusted_client, "own_address", lambda family: "127.0.0.3")
    real = _mta_judge._speak_as

    def speak_as(source, *more):
        server.replies = {"RCPT TO": b"250 2.1.5 Ok\r\n"} if source == "127.0.0.3" else {}
        return real(source, *more)

    monkeypatch.setattr(_mta_judge, "_speak_as", speak_as)
    assert check(stranger=True)["answers"]
    assert "EHLO [127.0.0.3]" in server.seen and "EHLO [127.0.0.2]" in server.seen


@pytest.mark.usefixtures("stranger")
@pytest.mark.parametrize("dead", [False, True])
def test_a_stranger_may_wait_for_a_banner_but_a_dead_server_is_a_problem(check, inside, monkeypatch, server, dead):
    monkeypatch.setattr(_mta_smtp, "CONVERSATION_TIMEOUT", 0.5)
    real = _mta_judge._speak_as

    def speak_as(*arguments):
        server.slow = 1
        try:
            return real(*arguments)
        finally:
            server.slow = 1 if dead else 0

    monkeypatch.setattr(_mta_judge, "_speak_as", speak_as)
    found = check(stranger=True, timeout=1.5)
    assert found["answers"] is not dead
    assert ("a slow reverse lookup can do that" in str(found["notes"])) is not dead


def test_where_no_stranger_can_be_had_a_note_says_so(check, inside, monkeypatch):
    monkeypatch.setattr(_mta_untrusted_client, "own_address", lambda family: None)
    monkeypatch.setattr(_mta_untrusted_client, "_local_route", lambda add, address: 1)
    found = check(stranger=True)
    assert found["answers"]
    assert found["notes"][0].endswith("as a stranger: not tried, Operation not permitted")


def test_the_stranger_s_addresses_are_nobody_s(inside):
    for address in _mta_untrusted_client.STRANGERS.values():
        assert not ipaddress.ip_address(address).is_global


# -- converse, deliver and the state -----------------------------------------------------------


def test_a_conversation_with_recipients(converse, server):
    found = converse(recipient=[f"postmaster@{HOST}", "a@example.net"], sender="me@example.com", starttls=False)
    assert found["envelopes"] == [
        {
            "sender": "me@example.com",
            "mail": "250 2.0.0 Ok",
            "recipients": {
                f"postmaster@{HOST}": "250 2.0.0 Ok",
                "a@example.net": "454 4.7.1 Relay access denied",
            },
            "data": None,
        }
    ]
    assert "STARTTLS" not in server.seen


@pytest.mark.parametrize(
    "arguments",
    [
        {"recipient": "a>\r\nDATA"},
        {"recipient": "a", "sender": "<>"},
        {"auth": "x"},
        {"mechanism": "CRAM-MD5"},
    ],
)
def test_bad_arguments_are_refused(converse, arguments):
    with pytest.raises(SaltInvocationError):
        converse(**arguments)


def test_a_message_is_delivered(server):
    server.replies["."] = b"250 2.0.0 Ok: queued as 4F1\r\n"
    found = _mta_smtp.deliver("alice@example.com", port=server.port, timeout=5)
    assert (found["accepted"], found["reply"]) == (True, "250 2.0.0 Ok: queued as 4F1")
    server.replies["."] = b"451 4.3.0 no\r\n"
    assert not _mta_smtp.deliver("alice@example.com", port=server.port, timeout=5)["accepted"]
    with pytest.raises(SaltInvocationError):
        _mta_smtp.deliver("alice@example.com", subject="a\nb", port=server.port)


@pytest.fixture
def answers(opts, modules, context, pretend, listener):
    """Run the state; ``announced`` says whether earlier states would change something."""
    pretend("_mta_postfix_view.listeners", lambda: [listener])

    def run(test=False, announced=False, **arguments):
        pretend("_mta_transaction.outlook", lambda: {"changes": announced, "activate": {}, "undone": None})
        states = salt.loader.states({**opts, "test": test}, modules, {}, None, context=context)
        return states["mta_probe.answers"](HOST, timeout=5, **arguments)

    return run


def test_the_state_shows_the_conversation_and_changes_nothing(answers, certificates):
    for test in (False, True):
        ret = answers(test=test, ca_file=certificates["good"], capabilities=["PIPELINING"])
        assert (ret["result"], ret["changes"]) == (True, {})
        assert f"S: 220 {HOST} ESMTP Postfix" in ret["comment"]


def test_the_state_fails_when_the_server_is_broken(answers, server):
    server.replies["STARTTLS"] = b"454 4.7.0 TLS not available\r\n"
    assert answers()["result"] is False
    assert "STARTTLS: 454 4.7.0" in answers()["comment"]
    assert answers(test=True)["result"] is False
    assert answers(test=True, announced=True)["result"] is None


def test_in_test_mode_a_server_that_is_not_there_yet_is_no_failure(answers, server):
    server.stop()
    assert answers(test=True)["result"] is None
    assert answers()["result"] is False


def test_a_configuration_that_cannot_be_read_is_reported(answers, pretend):
    def unreadable():
        raise CommandExecutionError("There is no main.cf")

    pretend("_mta_postfix_view.listeners", unreadable)
    ret = answers()
    assert (ret["result"], "There is no main.cf" in ret["comment"]) == (False, True)
    assert answers(test=True)["result"] is None


# -- the audit -------------------------------------------------------------------------------------


@pytest.fixture
def audit(opts, minion, context, pretend, listener, certificates, tmp_path):
    """mta_probe.audit over the server of this file, with a configuration that has nothing but it."""
    pretend("_mta_postfix_view.listeners", lambda: [{**listener, "keys": [certificates["good"]]}])
    pretend("_mta_postfix_view.in_force", lambda: {"queue_directory": str(tmp_path)})
    pretend("_mta_postfix_view.services", dict)
    pretend("_mta_tables.of_parameter", lambda parameter: [])
    pretend("_mta_saslauthd_view.settings", lambda: {"socket_directory": str(tmp_path / "sasl")})
    return functools.partial(_mta_audit.audit, minion)


def names(found):
    return [one["name"].rpartition(" ")[0] or one["name"] for one in found["findings"]]


def test_the_audit_sees_what_a_client_and_the_disk_show(audit, server, stranger, certificates, tmp_path, listener):
    server.replies["RCPT TO:<postmaster@example.net>"] = b"250 2.1.5 Ok\r\n"
    (tmp_path / "sasl").mkdir(mode=0o755)
    (tmp_path / "sasl" / "mux").touch()
    found = audit()
    assert {"auth-in-clear", "open-relay", "self-signed", "open-to-all"} <= {*names(found)}
    assert f"open-to-all {tmp_path}/sasl" in [one["name"] for one in found["findings"]]
    assert PASSWORD not in str(found)


@pytest.mark.parametrize(
    ("mode", "group", "found"),
    [(0o640, "ssl-cert", False), (0o640, "users", True), (0o660, "ssl-cert", True), (0o644, "ssl-cert", True)],
)
def test_debian_s_group_for_keys_may_read_one(audit, certificates, monkeypatch, mode, group, found):
    monkeypatch.setattr(_mta_audit, "_group", lambda number: group)
    key = pathlib.Path(certificates["good"])
    before = key.stat().st_mode
    key.chmod(mode)
    reasons = [one["reason"] for one in audit()["findings"] if one["name"] == f"open-to-all {key}"]
    key.chmod(before)
    assert bool(reasons) is found
    assert all(("every local user" in reason) is (mode == 0o644) for reason in reasons)


def test_the_state_fails_with_every_finding_and_accepts_what_it_is_told_to(opts, modules, context, pretend):
    finding = {
        "name": "disable_vrfy_command",
        "severity": "low",
        "reason": "VRFY tells",
        "pillar": "parameters: {}",
    }
    pretend("_mta_audit.audit", lambda timeout: {"findings": [finding], "notes": ["a note"]})
    state = salt.loader.states(opts, modules, {}, None, context=context)["mta_probe.audited"]
    passed = state("audit")
    assert passed["result"] is True
    assert "disable_vrfy_command: VRFY tells. parameters: {}" in passed["comment"]
    failed = state("audit", severity="low")
    assert (failed["result"], failed["changes"]) == (False, {})
    assert "a note" in failed["comment"]
    assert state("audit", severity="low", accepted=["disable_vrfy_command"])["result"] is True
    assert "severity is one of" in state("audit", severity="worst")["comment"]


# A certificate that is not the one on disk


@pytest.fixture
def stale(listener, pretend):
    pretend("_mta_postfix_view.listeners", lambda: [listener])
    return lambda *paths: _mta_judge.stale(list(paths) or None, timeout=5)


def test_a_listener_that_serves_what_is_on_disk_is_not_stale(stale):
    assert stale() == []


def test_a_listener_that_serves_another_certificate_is_stale(stale, server, certificates):
    server.certificate = certificates["other"]
    assert stale() == [f"127.0.0.1:{server.port}"]
    assert stale(certificates["good"]) == [f"127.0.0.1:{server.port}"]
    assert stale(certificates["rsa"]) == []


def test_a_certificate_that_cannot_be_read_is_not_the_one_served(stale, listener):
    listener["certificates"] = ["/nonexistent"]
    assert len(stale()) == 1


def test_of_two_certificates_both_have_to_be_served(stale, server, listener, certificates):
    listener["certificates"] = [certificates["good"], certificates["rsa"]]
    assert len(stale()) == 1
    server.certificate = listener["certificates"]
    assert stale() == []


def test_nothing_is_known_of_a_server_that_does_not_talk_and_there_is_nothing_to_know_without_tls(
    stale, server, listener
):
    server.replies["STARTTLS"] = b"454 4.7.0 TLS not available\r\n"
    assert stale() is None
    listener["starttls"] = False
    assert stale() == []
    server.stop()
    listener["starttls"] = True
    assert stale() is None
