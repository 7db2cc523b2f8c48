"""
What unit tests share.

A test of the library imports it (``_modules`` is on the path) and hands it a ``minion`` whose paths are all below
a temporary directory. Real Salt loaders over the working tree (``modules``, ``states``, ``runners``) are for the
tests of what Salt loads.
"""

import contextlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import os
import pathlib
import re
import socket

import fake_smtp
import jinja2
import pytest
import salt._logging
import salt.config
import salt.loader
from cryptography.hazmat.primitives.asymmetric import rsa

import _mta_apply
import _mta_postfix_edit
import _mta_postfix_stage
import _mta_postfix_view
import _mta_recovery
import _mta_tables
import _mta_transaction
from _mta_minion import Minion
from _mta_run import KEY, Run

# Without this Salt keeps every log record, to print them into a stream that pytest has closed by then.
salt._logging.shutdown_temp_handler()

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
GRAINS = {"kernel": "Linux", "os": "Debian", "os_family": "Debian", "fqdn": "mail.example.com"}


# Fixtures that are of Salt's loaders, and what of Salt a file imports that its line may decide.
LOADERS = {"opts", "modules", "states", "runners"}
OF_SALT = re.compile(r"^\s*(?:import|from) salt\b(?!\.exceptions)", re.MULTILINE)
OF_LIBRARY = re.compile(r"^import (_mta_\w+)|^from (_mta_\w+) import", re.MULTILINE)


def uses_salt(path):
    """Whether a file of tests, or of the library's files that it tests, imports more of Salt than exceptions."""
    text = path.read_text(encoding="utf-8")
    names = {f"{one or other}.py" for one, other in OF_LIBRARY.findall(text)}
    tested = [file for file in REPOSITORY.glob("_*/_mta_*.py") if file.name in names]
    return any(OF_SALT.search(found) for found in [text, *(file.read_text(encoding="utf-8") for file in tested)])


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """A full run tries with one Salt line only what none of them decides (the mark ``once``)."""
    deciding = {path: uses_salt(path) for path in {item.path for item in items}}
    for item in items:
        if not deciding[item.path] and not LOADERS & {*item.fixturenames}:
            item.add_marker(pytest.mark.once)


def load_program(name):
    """The module that a program of bin is."""
    loader = importlib.machinery.SourceFileLoader(f"bin_{name}", str(REPOSITORY / "bin" / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def unsynced(monkeypatch):
    """No test survives a power loss: on a busy machine waiting for the disk takes most of their time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(autouse=True)
def unwatched(monkeypatch):
    """No test installs units on the machine where it runs, nor has it watch anything."""
    monkeypatch.setattr(_mta_recovery, "SYSTEMD_RUNS", "/nonexistent")


@pytest.fixture
def context():
    """The ``__context__`` that modules and states share, as in one state run; what it leaves open is forgotten."""
    shared = {}
    yield shared
    run = shared.get(KEY)
    if run and run.transaction:
        run.transaction.close()


@pytest.fixture
def pillar():
    """The minion's pillar; a test may fill it."""
    return {}


@pytest.fixture
def functions():
    """Salt's own execution functions, by name; a test puts in what its subject calls."""
    return {}


@pytest.fixture
def minion(tmp_path, context, pillar, functions):
    """What the library needs of Salt; its state directory is ``tmp_path/state``."""
    opts = {"id": "mail.example.com", "mta_state_dir": str(tmp_path / "state"), "test": False}
    return Minion(opts, dict(GRAINS), pillar, context, functions)


@pytest.fixture
def listening():
    """Listen at a path, as a minion does at its bus."""
    with contextlib.ExitStack() as sockets:

        def listen(path):
            sock = sockets.enter_context(socket.socket(socket.AF_UNIX))
            sock.bind(str(path))
            sock.listen()

        yield listen


@pytest.fixture
def pretend(monkeypatch, functions):
    """
    ``pretend("_mta_services.status", callable)``: what the library calls instead, without its minion.

    ``pretend("event.send", callable)``: what it finds as a function of Salt's own.
    """

    def replace(name, function):
        module, _, attribute = name.partition(".")
        if not module.startswith("_mta_"):
            functions[name] = function
            return
        module = importlib.import_module(module)
        takes = list(inspect.signature(getattr(module, attribute)).parameters)[:1] == ["minion"]
        # It is replaced once more as if it were the function itself.
        stand_in = (lambda minion, *args, **kwargs: function(*args, **kwargs)) if takes else function
        monkeypatch.setattr(module, attribute, stand_in)

    return replace


MAIN = """\
# See /usr/share/postfix/main.cf.dist for a commented, more complete version

smtpd_banner = $myhostname ESMTP $mail_name (Debian/GNU)
biff = no
myhostname = mail.example.com
mydestination = $myhostname, mail.example.com, localhost.example.com, , localhost
mynetworks = 127.0.0.0/8 [::ffff:127.0.0.0]/104 [::1]/128
inet_interfaces = all
inet_protocols = all
smtpd_tls_cert_file=/etc/ssl/certs/ssl-cert-snakeoil.pem
smtpd_tls_key_file=/etc/ssl/private/ssl-cert-snakeoil.key
smtpd_tls_security_level=may
"""
MASTER = """\
# ==========================================================================
# service type  private unpriv  chroot  wakeup  maxproc command + args
smtp      inet  n       -       y       -       -       smtpd
#submission inet n       -       y       -       -       smtpd
#  -o syslog_name=postfix/submission
pickup    unix  n       -       y       60      1       pickup
tlsmgr    unix  -       -       y       1000?   1       tlsmgr
relay     unix  -       -       y       -       -       smtp
        -o syslog_name=postfix/$service_name
#       -o smtp_helo_timeout=5 -o smtp_connect_timeout=5
postlog   unix-dgram n  -       n       -       1       postlogd
uucp      unix  -       n       n       -       -       pipe
  flags=Fqhu user=uucp argv=uux -r -n -z -a$sender - $nexthop!rmail ($recipient)
"""
# Stands in for postconf(1), postmap(1) and postfix(1), which the development machine does not have. As those of
# Postfix 3.7 do, it writes a new line onto a last line that has no end.
PROGRAM = """\
#!/bin/sh
echo "${0##*/} $*" >> "$0.log"
edit() { # file, pattern of what goes, line
    { sed "/^$2/d" "$1"; [ -z "$3" ] || echo "$3"; } > "$1.new"
    mv "$1.new" "$1"
}
main=$2/main.cf master=$2/master.cf
case "${0##*/} $3 $4" in
"postconf -e "*) shift 3; for line; do edit "$main" "${line%%=*} *=" "${line%%=*} = ${line#*=}"; done ;;
"postconf -X "*) shift 3; for name; do edit "$main" "$name *=" ""; done ;;
"postconf -M -e") shift 4; for entry; do edit "$master" "${entry%%/*} " "${entry#*=}"; done ;;
"postconf -M -X") shift 4; for entry; do edit "$master" "${entry%%/*} " ""; done ;;
*) grep -h COMPLAIN "$main" "$master" >&2 ;;
esac
"""


class Configuration:
    """A configuration directory, and the functions over it."""

    def __init__(self, directory, minion):
        self.directory = directory
        self.path = str(directory)
        self.minion = minion
        self.write(MAIN, MASTER)

    def write(self, main=None, master=None):
        for name, text in (("main.cf", main), ("master.cf", master)):
            if text is not None:
                (self.directory / name).write_bytes(text if isinstance(text, bytes) else text.encode())

    def main(self):
        return (self.directory / "main.cf").read_text()

    def master(self):
        return (self.directory / "master.cf").read_text()

    def show(self):
        return _mta_postfix_view.show(self.path)

    def services(self):
        return _mta_postfix_view.services(self.path)

    def listeners(self):
        return _mta_postfix_view.listeners(self.path)

    def refused(self, parameters=None, services=None):
        return _mta_postfix_stage.refused(self.minion, parameters, services, self.path)

    def plan(self, **arguments):
        return _mta_postfix_edit.plan(self.minion, self.path, **arguments)

    def apply(self, **arguments):
        _mta_postfix_edit.apply(self.minion, self.path, **arguments)

    def changes(self, parameters=None, services=None, **arguments):
        return self.plan(parameters=parameters, services=services, **arguments).changes


@pytest.fixture
def configuration(tmp_path, minion):
    """A host's main.cf and master.cf, as Debian's package gives them."""
    directory = tmp_path / "postfix"
    directory.mkdir()
    return Configuration(directory, minion)


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Programs that stand in for Postfix's; gives a function for the commands run since its last call."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("postconf", "postmap", "postfix"):
        (programs / name).write_text(PROGRAM)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")

    def run():
        lines = []
        for path in sorted(programs.glob("*.log")):
            lines += path.read_text().splitlines()
            path.unlink()
        return lines

    return run


@pytest.fixture
def written(pretend):
    """The transaction's part: files are written at once; a list of what was needed and written."""
    calls = []

    def write(path, contents, activate=None, mode=None, times=None):
        calls.append((os.path.basename(path), activate))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        pathlib.Path(path).write_bytes(contents if isinstance(contents, bytes) else contents.encode())
        if times:
            os.utime(path, ns=times)

    pretend("_mta_transaction.begin", lambda: None)
    pretend("_mta_transaction.write", write)
    pretend("_mta_transaction.need", lambda activate, let_go: calls.append(("need", activate)))
    return calls


@pytest.fixture(scope="module")
def compiled_once():
    """Jinja compiles each text once, whatever pillar it is rendered with: that takes most of the time."""
    compiled, compile_ = {}, jinja2.Environment.compile

    def remembered(self, source, name=None, filename=None, *args, **kwargs):
        key = (type(self), frozenset(self.extensions), source, name, filename, args, tuple(kwargs.items()))
        if key not in compiled:
            compiled[key] = compile_(self, source, name, filename, *args, **kwargs)
        return compiled[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jinja2.Environment, "compile", remembered)
        yield


def minion_options(directory):
    """Minion options: masterless, the working tree's modules, nothing outside ``directory``."""
    options = salt.config.minion_config(None)
    options.update(
        {
            "id": "mail.example.com",
            "root_dir": str(directory),
            "cachedir": str(directory / "cache"),
            "extension_modules": str(directory / "extmods"),
            "file_client": "local",
            "file_roots": {"base": [str(REPOSITORY)]},
            "module_dirs": [str(REPOSITORY)],
            "mta_state_dir": str(directory / "state"),
            "grains": dict(GRAINS),
            "pillar": {},
            "test": False,
        }
    )
    return options


@pytest.fixture
def opts(tmp_path):
    """See :func:`minion_options`."""
    return minion_options(tmp_path)


@pytest.fixture
def modules(opts, context):
    """Execution modules as ``__salt__`` sees them."""
    return salt.loader.minion_mods(opts, context=context)


@pytest.fixture
def states(opts, modules, context):
    """State modules over the same execution modules."""
    return salt.loader.states(opts, modules, {}, None, context=context)


@pytest.fixture
def runners(opts, context):
    """Runners as ``__salt__`` of a runner sees them, on a master with the same options."""
    return salt.loader.runner(opts, context=context)


class Server:
    """
    Stands in for the daemons and the conversation: ``broken`` makes every conversation fail, ``breaks`` those
    after the next one.

    ``listeners``: those of master.cf; ``silent``: ports at which nobody speaks SMTP.
    """

    def __init__(self):
        self.broken = self.breaks = False
        self.listeners = []
        self.silent = set()
        self.actions = []
        self.active = True

    def status(self, names):
        return {name: {"installed": True, "enabled": True, "active": self.active} for name in names}

    def check(self, **_):
        problems = ["127.0.0.1:25 RCPT TO: 451 4.3.0 broken"] if self.broken else []
        self.broken = self.broken or self.breaks
        speaking = [listener for listener in self.listeners if listener["port"] not in self.silent]
        result = {"answers": not problems, "problems": problems, "notes": [], "transcript": []}
        return {**result, "speaking": speaking}

    def converse(self, host, port, **_):
        return {"ehlo": [] if port in self.silent else [host], "ehlo_tls": []}

    def act(self, action):
        def note(name=None, **_):
            self.actions.append((action, name))
            if name == "postfix" and action in ("start", "stop"):
                self.active = action == "start"

        return note


@pytest.fixture
def server(pretend):
    """A server whose daemons and answers the test decides."""
    fake = Server()
    pretend("_mta_services.status", fake.status)
    pretend("_mta_judge.check", fake.check)
    pretend("_mta_smtp.converse", fake.converse)
    for action in ("start", "stop", "restart", "reload", "enable", "disable", "daemon_reload"):
        pretend(f"_mta_services.{action}", fake.act(action))
    return fake


# Each notes how it was called. What is compiled is the source in capitals; -s lists it without comments.
COMPILER = """\
#!/bin/sh
echo "$@" >>"$0.calls"
for table; do :; done
file=${table#*:}
case "$*" in *" -q "*) grep -q '^/\\[' "$file" && echo "postmap: warning: bad pattern" >&2; exit 1;; esac
case ${table%%:*} in hash|btree) suffix=.db;; *) suffix=.${table%%:*};; esac
case "$*" in *" -s "*) grep -v '^#' "$file$suffix" | sed 's/  */\t/'; exit;; esac
tr a-z A-Z <"$file" >"$file$suffix"
[ ! -e "$0.broken" ]
"""
POSTCONF = """\
#!/bin/sh
echo "$@" >>"$0.calls"
case "$*" in *-m) echo hash btree pcre texthash cidr mysql ldap pgsql;; *) echo hash;; esac
"""


@pytest.fixture
def installed(tmp_path, monkeypatch, pretend):
    """A host with an empty configuration and Postfix's programs; called, it tells how often they have been run."""
    programs = {}
    for name, text in (("postmap", COMPILER), ("postalias", COMPILER), ("postconf", POSTCONF)):
        program = tmp_path / "programs" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(text)
        program.chmod(0o755)
        programs[name] = str(program)
    monkeypatch.setattr(_mta_tables, "PROGRAMS", programs)
    pretend("_mta_postfix_view.show", lambda config_directory=None: {})
    pretend("_mta_postfix_view.services", lambda config_directory=None: {})
    return lambda: sum(len(file.read_text().splitlines()) for file in (tmp_path / "programs").glob("*.calls"))


@pytest.fixture
def main_cf(tmp_path):
    path = tmp_path / "main.cf"
    path.write_text("myhostname = old\n")
    path.chmod(0o640)
    return path


@pytest.fixture
def participate(minion):
    """Call a function as a participant's state does: it may begin a transaction, and leave it open."""

    def call(function, *args, **kwargs):
        run = Run.of(minion)
        subject, run.subject = run.subject, run.subject or "tested"
        try:
            return function(minion, *args, **kwargs)
        finally:
            run.subject = subject

    return call


@pytest.fixture
def transaction(participate, server):
    """The functions of the engine by name, called as a participant's state calls them."""

    def call(function, *args, **kwargs):
        engine = _mta_transaction if hasattr(_mta_transaction, function) else _mta_apply
        return participate(getattr(engine, function), *args, **kwargs)

    return call


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """Paths of PEM files by what is in them."""
    folder = tmp_path_factory.mktemp("certificates")
    return {
        "good": fake_smtp.make_certificate(folder, "good.pem"),
        "other": fake_smtp.make_certificate(folder, "other.pem"),
        "elsewhere": fake_smtp.make_certificate(folder, "elsewhere.pem", "elsewhere.example.org"),
        "rsa": fake_smtp.make_certificate(folder, "rsa.pem", key=rsa.generate_private_key(65537, 2048)),
    }


@pytest.fixture
def smtp_server(certificates):
    """An SMTP server that misbehaves as the test tells it to."""
    fake = fake_smtp.Server(certificates["good"])
    yield fake
    fake.stop()


@pytest.fixture
def listener(smtp_server, certificates):
    """The server as a listener of master.cf."""
    return {
        "service": "smtp/inet",
        "host": "127.0.0.1",
        "port": smtp_server.port,
        "wrappermode": False,
        "starttls": True,
        "auth": True,
        "auth_before_tls": True,
        "certificates": [certificates["good"]],
        "keys": [certificates["good"]],
        "hostname": fake_smtp.HOST,
    }


@pytest.fixture
def no_route(monkeypatch):
    """An untrusted client's address without changed routes: 127.0.0.2; this host itself has none."""
    module = importlib.import_module("_mta_untrusted_client")
    monkeypatch.setattr(module, "own_address", lambda family: None)
    monkeypatch.setattr(module, "foreign_address", lambda family, folder: contextlib.nullcontext("127.0.0.2"))
