"""
What unit tests share.

A test of the library imports it (``_modules`` is on the path) and hands it a ``minion`` whose paths are all below
a temporary directory. Real Salt loaders over the working tree (``modules``, ``states``, ``runners``) are for the
tests of what Salt loads.
"""

import importlib
import inspect
import os
import pathlib

import _mta_apply
import _mta_transaction
import pytest
import salt._logging
import salt.config
import salt.loader

from _mta_minion import Minion
from _mta_run import Run

# Without this Salt keeps every log record, to print them into a stream that pytest has closed by then.
salt._logging.shutdown_temp_handler()

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
GRAINS = {"kernel": "Linux", "os": "Debian", "os_family": "Debian", "fqdn": "mail.example.com"}


@pytest.fixture(autouse=True)
def unsynced(monkeypatch):
    """No test survives a power loss: on a busy machine waiting for the disk takes most of their time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def context():
    """The ``__context__`` that modules and states share, as in one state run."""
    return {}


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
        stand_in = (lambda minion, *args, **kwargs: function(*args, **kwargs)) if takes else function
        monkeypatch.setattr(module, attribute, stand_in)

    return replace


@pytest.fixture
def opts(tmp_path):
    """Minion options: masterless, the working tree's modules, nothing outside ``tmp_path``."""
    options = salt.config.minion_config(None)
    options.update(
        {
            "id": "mail.example.com",
            "root_dir": str(tmp_path),
            "cachedir": str(tmp_path / "cache"),
            "extension_modules": str(tmp_path / "extmods"),
            "file_client": "local",
            "file_roots": {"base": [str(REPOSITORY)]},
            "module_dirs": [str(REPOSITORY)],
            "mta_state_dir": str(tmp_path / "state"),
            "grains": dict(GRAINS),
            "pillar": {},
            "test": False,
        }
    )
    return options


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
    Stands in for the daemons and the conversation: ``broken`` makes every conversation fail.

    ``listeners``: those of master.cf; ``silent``: ports at which nobody speaks SMTP.
    """

    def __init__(self):
        self.broken = False
        self.listeners = []
        self.silent = set()
        self.actions = []
        self.active = True

    def status(self, names):
        return {name: {"installed": True, "enabled": True, "active": self.active} for name in names}

    def check(self, **_):
        problems = ["127.0.0.1:25 RCPT TO: 451 4.3.0 broken"] if self.broken else []
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
