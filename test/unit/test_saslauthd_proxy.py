"""The proxy before saslauthd: what it hands on, what it makes a temporary error, and who cannot stop it."""

import contextlib
import importlib.util
import os
import pathlib
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time

import pytest

PROGRAM = pathlib.Path(__file__).resolve().parents[2] / "postfix_mta" / "files" / "saslauthd-proxy.py"
NONE = struct.pack("!H", 0)
SECRET = "geheim-4711"


def counted(*texts):
    return b"".join(struct.pack("!H", len(text)) + text.encode() for text in texts)


REQUEST = counted("alice", SECRET, "smtp", "")


class Listener:
    """A server whose ``act`` is called with each connection, in a thread of its own."""

    def __init__(self, act, path=None):
        self.act, self.seen = act, 0
        self.socket = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        self.socket.bind(str(path) if path else ("127.0.0.1", 0))
        self.socket.listen(128)
        self.port = None if path else self.socket.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while True:
            try:
                connection = self.socket.accept()[0]
            except OSError:
                return
            self.seen += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with connection:
            self.act(connection)


@pytest.fixture
def listen():
    made = []

    def start(act, path=None):
        made.append(Listener(act, path))
        return made[-1]

    yield start
    for one in made:
        one.socket.close()


def saying(reply, pause=0.0):
    def act(connection):
        data = connection.recv(4096)
        while len(data) < len(REQUEST):
            data += connection.recv(4096)
        assert data == REQUEST
        time.sleep(pause)
        with contextlib.suppress(OSError):
            connection.sendall(counted(reply))

    return act


@pytest.fixture
def program(monkeypatch):
    spec = importlib.util.spec_from_file_location("saslauthd_proxy", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "REQUEST", 0.5)
    monkeypatch.setattr(module, "PATIENCE", 0.4)
    monkeypatch.setattr(module, "PROBE", 0.2)
    monkeypatch.setattr(module, "LIMIT", 1.5)
    monkeypatch.setattr(module, "SLOTS", 20)
    return module


@pytest.fixture
def proxy(program, tmp_path):
    """A proxy; ``reachable``: whether the server behind saslauthd answers; ``asked``: how often it was asked."""
    made = program.Proxy(str(tmp_path / "mux"), None)
    made.reachable, made.asked = True, 0

    def answers():
        made.asked += 1
        return made.reachable

    made.answers = answers
    return made


@pytest.fixture
def ask(proxy, tmp_path):
    """Send something to a running proxy; what comes back until it closes."""
    path = tmp_path / "proxy"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(128)
    threading.Thread(target=proxy.run, args=(listener,), daemon=True).start()

    def talk(*pieces, pause=0.0):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(path))
            for piece in pieces:
                client.sendall(piece)
                time.sleep(pause)
            client.shutdown(socket.SHUT_WR)
            heard = b""
            while piece := client.recv(4096):
                heard += piece
            return heard

    return talk


def test_ok_is_handed_on_without_asking_the_server(proxy, ask, listen, tmp_path):
    listen(saying("OK"), tmp_path / "mux")
    assert ask(REQUEST) == counted("OK")
    assert proxy.asked == 0


def test_no_is_handed_on_while_the_server_answers(proxy, ask, listen, tmp_path):
    listen(saying("NO authentication failed"), tmp_path / "mux")
    assert ask(REQUEST) == counted("NO authentication failed")
    assert proxy.asked == 1


def test_no_without_the_server_is_no_answer_and_the_log_tells_once(proxy, ask, listen, tmp_path, capfd):
    listen(saying("NO"), tmp_path / "mux")
    proxy.reachable = False
    assert [ask(REQUEST), ask(REQUEST)] == [NONE, NONE]
    proxy.reachable = True
    assert ask(REQUEST) == counted("NO")
    said = capfd.readouterr()
    assert said.err.splitlines() == [
        "The server that saslauthd asks does not answer: logins get a temporary error",
        "The server that saslauthd asks answers again",
    ]
    assert SECRET not in said.out + said.err


def test_while_saslauthd_waits_for_a_server_that_is_down_it_gets_no_requests(proxy, ask, listen, tmp_path):
    daemon = listen(saying("OK", pause=0.6), tmp_path / "mux")
    proxy.reachable = False
    for _ in range(5):
        assert ask(REQUEST) == NONE
    assert daemon.seen == 1
    proxy.reachable = True
    assert ask(REQUEST) == counted("OK")


def test_who_has_the_right_password_gets_in_whatever_is_thought_of_the_server(proxy, ask, listen, tmp_path):
    replies = iter(["NO", "OK"])
    listen(lambda connection: saying(next(replies))(connection), tmp_path / "mux")
    proxy.reachable = False
    assert [ask(REQUEST), ask(REQUEST)] == [NONE, counted("OK")]


def test_what_saslauthd_itself_says_of_an_imap_server_counts(proxy, ask, listen, tmp_path):
    listen(saying("NO [ALERT] Couldn't contact remote authentication server"), tmp_path / "mux")
    assert ask(REQUEST) == NONE
    assert proxy.asked == 0


def test_a_saslauthd_that_is_silent_over_a_server_that_is_down_is_left_soon(proxy, ask, listen, tmp_path):
    listen(saying("OK", pause=5), tmp_path / "mux")
    proxy.reachable = False
    begun = time.monotonic()
    assert ask(REQUEST) == NONE
    assert 0.3 < time.monotonic() - begun < 1.3


def test_a_server_that_only_takes_its_time_is_waited_for(ask, listen, tmp_path):
    listen(saying("OK", pause=0.8), tmp_path / "mux")
    assert ask(REQUEST) == counted("OK")


def test_nobody_is_waited_for_for_ever(ask, listen, tmp_path):
    listen(saying("OK", pause=20), tmp_path / "mux")
    begun = time.monotonic()
    assert ask(REQUEST) == NONE
    assert time.monotonic() - begun < 3.5


def test_a_saslauthd_that_does_not_run_is_no_answer(ask):
    assert ask(REQUEST) == NONE


def test_a_saslauthd_whose_queue_is_full_is_waited_for_only_so_long(ask, tmp_path):
    busy = socket.socket(socket.AF_UNIX)
    busy.bind(str(tmp_path / "mux"))
    busy.listen(0)
    waiting = socket.socket(socket.AF_UNIX)
    waiting.connect(str(tmp_path / "mux"))
    begun = time.monotonic()
    assert ask(REQUEST) == NONE
    assert time.monotonic() - begun < 3
    waiting.close()
    busy.close()


def test_a_daemon_that_dies_over_a_request_is_no_answer(ask, listen, tmp_path):
    listen(lambda connection: connection.recv(4096), tmp_path / "mux")
    assert ask(REQUEST) == NONE


def test_a_request_may_come_in_pieces(ask, listen, tmp_path):
    listen(saying("OK"), tmp_path / "mux")
    assert ask(*(REQUEST[place : place + 1] for place in range(len(REQUEST))), pause=0.001) == counted("OK")


@pytest.mark.parametrize("junk", [b"", b"\0", REQUEST[:-1], b"\xff\xff" + b"x" * 70000, counted("a", "b", "c")])
def test_what_is_no_request_is_hung_up_on_and_others_are_served(ask, listen, tmp_path, junk):
    daemon = listen(saying("OK"), tmp_path / "mux")
    try:
        assert ask(junk) == b""
    except (ConnectionResetError, BrokenPipeError):
        assert len(junk) > 1000
    assert ask(REQUEST) == counted("OK")
    assert daemon.seen == 1


def test_who_says_nothing_does_not_keep_others_from_it(program, ask, listen, tmp_path):
    listen(saying("OK"), tmp_path / "mux")
    silent = [socket.socket(socket.AF_UNIX) for _ in range(program.SLOTS + 5)]
    for one in silent:
        one.connect(str(tmp_path / "proxy"))
    begun = time.monotonic()
    assert ask(REQUEST) == counted("OK")
    assert time.monotonic() - begun < 6
    for one in silent:
        one.close()


def test_clients_that_send_byte_by_byte_do_not_keep_others_from_it(program, ask, listen, tmp_path):
    """A deadline for each byte would let them: a byte of the longest password every second lasts for long."""
    listen(saying("OK"), tmp_path / "mux")
    ended = threading.Event()

    def dribble():
        with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
            client.connect(str(tmp_path / "proxy"))
            client.sendall(b"\0\xff")
            while not ended.wait(0.1):
                client.sendall(b"x")

    slow = [threading.Thread(target=dribble, daemon=True) for _ in range(program.SLOTS + 6)]
    for one in slow:
        one.start()
    time.sleep(0.1)
    begun = time.monotonic()
    assert ask(REQUEST) == counted("OK")
    assert time.monotonic() - begun < 4
    for one in slow:  # they are hung up on, and see it when they go on
        one.join(5)
        assert not one.is_alive()
    ended.set()


def test_a_hundred_logins_at_a_time_are_answered(ask, listen, tmp_path):
    listen(saying("OK", pause=0.05), tmp_path / "mux")
    heard = []
    threads = [threading.Thread(target=lambda: heard.append(ask(REQUEST))) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert heard == [counted("OK")] * 100


# -- whether a server answers ------------------------------------------------------------------


def silence(connection):
    time.sleep(5)


@pytest.mark.parametrize(
    ("greeting", "answers"), [(b"* OK ready\r\n", True), (b"* BYE full\r\n", False), (b"220 x\r\n", False)]
)
def test_an_imap_server_is_one_that_greets(program, listen, greeting, answers):
    server = listen(lambda connection: connection.sendall(greeting))
    assert program._imap(f"127.0.0.1/{server.port}") is answers


def test_an_ldap_server_is_one_that_answers_a_bind(program, listen):
    def bind(connection):
        assert connection.recv(100) == program.LDAP_BIND
        connection.sendall(bytes.fromhex("300c02010161070a013004000400"))

    assert program._ldap(f"ldap://127.0.0.1:{listen(bind).port}", False, None) is True


def authority(folder, name):
    """A self-signed certificate and its key in one file."""
    path = folder / f"{name}.pem"
    argv = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
        "-subj",
        f"/CN={name}",
    ]
    subprocess.run([*argv, "-keyout", path, "-out", folder / name], check=True, capture_output=True)
    path.write_text(path.read_text() + (folder / name).read_text())
    return path


@pytest.mark.parametrize("start_tls", [True, False])
def test_the_certificate_of_an_ldap_server_counts_where_its_authority_is_known(
    program, listen, tmp_path, start_tls
):
    own, other = authority(tmp_path, "own"), authority(tmp_path, "other")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own)

    def bind(connection):
        if start_tls:
            connection.recv(100)
            connection.sendall(bytes.fromhex("300c02010178070a010004000400"))
        with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as secured:
            secured.recv(100)
            secured.sendall(b"\x30")

    uri = f"ldap{'' if start_tls else 's'}://127.0.0.1:{listen(bind).port}"
    assert program._ldap(uri, start_tls, str(own)) is True
    assert program._ldap(uri, start_tls, None) is True
    # One that it must not read is not held against the server.
    assert program._ldap(uri, start_tls, str(tmp_path / "none")) is True
    with pytest.raises(ssl.SSLError):
        program._ldap(uri, start_tls, str(other))


def test_an_ldap_server_whose_tls_is_off_is_none(program, listen):
    def refuse(connection):
        assert connection.recv(100) == program.LDAP_STARTTLS
        connection.sendall(bytes.fromhex("300c02010178070a010204000400"))

    assert program._ldap(f"ldap://127.0.0.1:{listen(refuse).port}", True, None) is False


def test_an_ldap_server_may_be_a_socket(program, listen, tmp_path):
    listen(lambda connection: connection.recv(100) and connection.sendall(b"\x30"), tmp_path / "ldapi")
    assert program._ldap("ldapi://" + str(tmp_path / "ldapi").replace("/", "%2f"), False, None) is True


@pytest.mark.parametrize("mechanism", ["rimap", "ldap"])
def test_one_server_of_several_is_enough_and_silence_is_none(program, listen, mechanism):
    def answer(connection):
        # An IMAP server speaks first, an LDAP server second.
        connection.sendall(b"* OK" if mechanism == "rimap" or not connection.recv(100) else b"\x30")

    good = listen(answer)
    silent = listen(silence)
    closed = listen(silence)
    closed.socket.close()
    form = "127.0.0.1/{}" if mechanism == "rimap" else "ldap://127.0.0.1:{}"

    class Given:
        start_tls, ca_file = False, None

    Given.mechanism = mechanism
    for ports, answers in (
        ((silent.port, closed.port, good.port), True),
        ((silent.port, closed.port), False),
        ((), True),  # nothing is known about them
    ):
        Given.servers = [form.format(port) for port in ports]
        assert program._answers(Given) is answers


def test_what_has_no_time_limit_gets_one(program):
    begun = time.monotonic()
    assert program._in_time(lambda: time.sleep(3) or True) is False
    assert time.monotonic() - begun < 1
    assert program._in_time(lambda: True) is True
    assert program._in_time(lambda: False) is False


def test_it_runs_as_systemd_starts_it(listen, tmp_path):
    listen(saying("NO"), tmp_path / "mux")
    imap = listen(lambda connection: connection.sendall(b"* OK ready\r\n"))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "proxy"))
    listener.listen()
    argv = [sys.executable, "-I", str(PROGRAM), str(tmp_path / "mux"), "rimap", f"127.0.0.1/{imap.port}"]
    started = subprocess.Popen(argv, close_fds=False, preexec_fn=lambda: os.dup2(listener.fileno(), 3))
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(tmp_path / "proxy"))
            client.sendall(REQUEST)
            assert client.recv(100) == counted("NO")
        assert imap.seen == 1
    finally:
        started.kill()
        started.wait()
