"""Real Salt loaders over the working tree, with every path of Salt's below a temporary directory."""

import pathlib

import pytest
import salt._logging
import salt.config
import salt.loader

# Without this Salt keeps every log record, to print them into a stream that pytest has closed by then.
salt._logging.shutdown_temp_handler()

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


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
            "grains": {"kernel": "Linux", "os": "Debian", "os_family": "Debian", "fqdn": "mail.example.com"},
            "pillar": {},
            "test": False,
        }
    )
    return options


@pytest.fixture
def context():
    """The ``__context__`` that modules and states share, as in one state run."""
    return {}


@pytest.fixture
def modules(opts, context):
    """Execution modules as ``__salt__`` sees them."""
    return salt.loader.minion_mods(opts, context=context)


@pytest.fixture
def states(opts, modules, context):
    """State modules over the same execution modules."""
    return salt.loader.states(opts, modules, {}, None, context=context)


@pytest.fixture
def pretend(modules):
    """``pretend("module.function", callable)``: what ``__salt__`` gives instead of the real function."""

    def replace(name, function):
        for loader in (modules, modules.pack["__salt__"]):
            loader._dict[name] = function

    return replace


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
    pretend("mta_service.status", fake.status)
    pretend("mta_probe.check", fake.check)
    pretend("mta_probe.converse", fake.converse)
    for action in ("start", "stop", "restart", "reload", "enable", "disable", "daemon_reload"):
        pretend(f"mta_service.{action}", fake.act(action))
    return fake


@pytest.fixture
def main_cf(tmp_path):
    path = tmp_path / "main.cf"
    path.write_text("myhostname = old\n")
    path.chmod(0o640)
    return path


@pytest.fixture
def participate(modules, context):
    """Call a function by name as a participant's state does: it may begin a transaction, and leave it open."""

    def call(function, *args, **kwargs):
        modules["mta_transaction.outlook"]()
        run = context["mta_transaction"]
        participant, run["module"] = run["module"], run["module"] or "tested"
        try:
            return modules[function](*args, **kwargs)
        finally:
            run["module"] = participant

    return call


@pytest.fixture
def transaction(participate, server):
    """The functions of ``mta_transaction`` by name, called as a participant's state calls them."""
    return lambda function, *args, **kwargs: participate(f"mta_transaction.{function}", *args, **kwargs)
