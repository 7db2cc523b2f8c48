"""saslauthd as it is on a host: its settings, and its socket."""

import functools
import socket
import struct
import threading

import pytest
import salt.loader
from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_saslauthd_view


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A folder in place of those of this machine: ``saslauthd`` is its settings file."""
    monkeypatch.setattr(_mta_saslauthd_view, "DEFAULTS_FILE", str(tmp_path / "saslauthd"))
    monkeypatch.setattr(_mta_saslauthd_view, "OWN_FILE", str(tmp_path / "own"))
    monkeypatch.setattr(_mta_saslauthd_view, "PROXY_SOCKET", str(tmp_path / "proxy.socket"))
    return tmp_path


# -- settings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('OPTIONS="-c -m /a"', "-c -m /a"),
        ("OPTIONS='-c  -m /a'", "-c -m /a"),
        ("  export OPTIONS=-c\\ -m\\ /a  # why", "-c -m /a"),
        ('OPTIONS="first"\nOPTIONS="last"', "last"),
        ('#OPTIONS="no"\n', None),
        ('MECH_OPTIONS="no"\n', None),
        ("OPTIONS=", ""),
    ],
)
def test_the_shell_file_is_read_as_a_shell_reads_it(text, value):
    assert _mta_saslauthd_view.shell_value(text, "OPTIONS") == value


def test_settings_are_what_the_file_says(host):
    (host / "saslauthd").write_text(
        'START=no\nMECHANISMS="rimap"\nMECH_OPTIONS="imap/143"\nTHREADS=0\nOPTIONS="-m/run/x/"\n'
    )
    assert _mta_saslauthd_view.settings() == {
        "mechanisms": ["rimap"],
        "mech_options": "imap/143",
        "threads": 0,
        "cache": False,
        "combine_realm": False,
        "socket_directory": "/run/x",
        "start": False,
        "proxy": False,
    }


def test_settings_without_the_package_are_the_packages(host):
    assert _mta_saslauthd_view.settings()["socket_directory"] == "/var/run/saslauthd"


@pytest.mark.parametrize(("mechanism", "proxy"), [("pam", True), ("ldap", False)])
def test_a_mechanism_that_asks_a_server_has_a_proxy_where_there_is_its_unit(host, mechanism, proxy):
    (host / "saslauthd").write_text(f"MECHANISMS={mechanism}\n")
    assert _mta_saslauthd_view.settings()["proxy"] is proxy
    (host / "proxy.socket").write_text("[Socket]\nListenStream=/run/x/proxy\n")
    assert _mta_saslauthd_view.settings()["proxy"] is True


# -- the socket ------------------------------------------------------------------------------------------------


@pytest.fixture
def daemon(tmp_path):
    """A saslauthd that knows one password; ``daemon.reply`` overrides its answers."""
    path = str(tmp_path / "mux")
    server = Daemon(path)
    yield server
    server.socket.close()


class Daemon:
    def __init__(self, path):
        self.path, self.reply, self.requests = path, None, []
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(path)
        self.socket.listen(5)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as stream:
                request = []
                for _ in range(4):
                    head = stream.read(2)
                    if len(head) == 2:
                        request.append(stream.read(struct.unpack("!H", head)[0]).decode())
                if len(request) < 4:
                    continue
                self.requests.append(request)
                reply = self.reply
                if reply is None:
                    text = b"OK" if request[1] == "Pä55word" else b"NO authentication failed"
                    reply = struct.pack("!H", len(text)) + text
                connection.sendall(reply)


def test_the_daemon_is_asked_as_smtpd_asks_it(minion, daemon):
    authenticate = functools.partial(_mta_saslauthd_view.authenticate, minion)
    assert authenticate("alice", "Pä55word", socket=daemon.path) is True
    assert authenticate("alice", "wrong", realm="example.com", socket=daemon.path) is False
    assert daemon.requests == [["alice", "Pä55word", "smtp", ""], ["alice", "wrong", "smtp", "example.com"]]


def test_the_password_may_be_named_by_its_pillar_path(minion, pillar, daemon):
    pillar["postfix_mta"] = {"verify": {"login": {"password": "Pä55word"}}}
    authenticate = functools.partial(_mta_saslauthd_view.authenticate, minion)
    assert authenticate("alice", password_pillar="postfix_mta:verify:login:password", socket=daemon.path)
    with pytest.raises(SaltInvocationError, match="no password for alice at postfix_mta:nothing"):
        authenticate("alice", password_pillar="postfix_mta:nothing", socket=daemon.path)


@pytest.mark.parametrize("reply", [b"", b"\x00", b"\x00\x09OK", b"\x00\x02??"])
def test_half_an_answer_is_an_error_without_the_password(minion, daemon, reply):
    daemon.reply = reply
    with pytest.raises(CommandExecutionError) as error:
        _mta_saslauthd_view.authenticate(minion, "alice", "Pä55word", socket=daemon.path)
    assert "saslauthd" in str(error.value)
    assert "55word" not in str(error.value)


def test_a_daemon_that_hangs_is_not_waited_for_forever(minion, tmp_path):
    path = str(tmp_path / "mux")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(1)
        with pytest.raises(CommandExecutionError, match=r"did not answer .* within 0\.2 seconds"):
            _mta_saslauthd_view.authenticate(minion, "alice", "x", socket=path, timeout=0.2)
    with pytest.raises(CommandExecutionError, match="Nobody listens"):
        _mta_saslauthd_view.authenticate(minion, "alice", "x", socket=path)
    with pytest.raises(CommandExecutionError, match="There is no socket"):
        _mta_saslauthd_view.authenticate(minion, "alice", "x", socket=f"{path}2")


def test_more_than_the_daemon_takes_is_refused(minion, daemon):
    with pytest.raises(SaltInvocationError, match="password is longer than 256 bytes"):
        _mta_saslauthd_view.authenticate(minion, "alice", "ä" * 129, socket=daemon.path)


def test_liveness_is_whether_the_socket_takes_connections(daemon, tmp_path):
    assert _mta_saslauthd_view.answers(socket=daemon.path) is True
    assert _mta_saslauthd_view.answers(socket=str(tmp_path / "nothing")) is False


def test_where_a_proxy_stands_before_it_that_one_is_asked_and_has_to_answer(minion, host, daemon):
    (host / "saslauthd").write_text(f"MECHANISMS=ldap\nOPTIONS='-m {host}'\n")
    assert _mta_saslauthd_view.answers() is True
    (host / "proxy.socket").write_text(f"[Socket]\nListenStream={host}/proxy\n")
    assert _mta_saslauthd_view.answers() is False
    with pytest.raises(CommandExecutionError, match=r"There is no socket .*/proxy"):
        _mta_saslauthd_view.authenticate(minion, "alice", "Pä55word")
    proxy = Daemon(str(host / "proxy"))
    assert _mta_saslauthd_view.answers() is True
    assert _mta_saslauthd_view.authenticate(minion, "alice", "Pä55word") is True
    assert (len(proxy.requests), len(daemon.requests)) == (1, 0)
    proxy.socket.close()


# -- the execution module, as Salt loads it ---------------------------------------------------------------------


def test_a_password_in_the_pillar_may_be_in_sdb(opts, daemon, monkeypatch):
    monkeypatch.setenv("MTA_TEST_PASSWORD", "Pä55word")
    opts.update(pillar={"password": "sdb://environment/MTA_TEST_PASSWORD"}, environment={"driver": "env"})
    authenticate = salt.loader.minion_mods(opts)["saslauthd.authenticate"]
    assert authenticate("alice", password_pillar="password", socket=daemon.path)
    opts["pillar"]["password"] = "sdb://no-such-profile/x"
    authenticate = salt.loader.minion_mods(opts)["saslauthd.authenticate"]
    with pytest.raises(CommandExecutionError, match="leads to nothing"):
        authenticate("alice", password_pillar="password", socket=daemon.path)


@pytest.mark.parametrize(
    ("mechanisms", "users", "told"),
    [("sasldb", "", True), ("sasldb", "alice@x: userPassword\n", False), ("pam", "", False)],
)
def test_a_database_without_users_is_told(host, monkeypatch, mechanisms, users, told):
    (host / "saslauthd").write_text(f'MECHANISMS="{mechanisms}"\n')
    monkeypatch.setattr(_mta_saslauthd_view._mta_system, "find_program", lambda name: f"/usr/sbin/{name}")
    done = _mta_saslauthd_view._mta_system.Finished(0, users.encode(), b"")
    monkeypatch.setattr(_mta_saslauthd_view._mta_system, "run", lambda *_, **__: done)
    assert bool(_mta_saslauthd_view.without_users()) is told


@pytest.mark.parametrize(
    ("present", "cache", "combine_realm", "options"),
    [
        (None, True, False, "-c -m /run/x"),
        ("-c -m /var/run/saslauthd", True, True, "-c -r -m /run/x"),
        ("-c -r -m/var/run/saslauthd", False, False, "-m /run/x"),
        ("-c -m /var/run/saslauthd -s 512 -t 3600", True, False, "-c -m /run/x -s 512 -t 3600"),
        ("-V -m", True, False, "-c -m /run/x -V"),
    ],
)
def test_options_that_somebody_has_added_stay(present, cache, combine_realm, options):
    assert _mta_saslauthd_view.options(present, cache, combine_realm, "/run/x") == options
    assert _mta_saslauthd_view.options(options, cache, combine_realm, "/run/x") == options
