"""What a person may call: nothing leaves a transaction open, and no private key is printed or in an argument."""

import ast
import inspect
import json
import pathlib
import re

import pytest
import salt.minion
from salt.exceptions import SaltException

import _mta_certificates

MODULES = pathlib.Path(__file__).resolve().parents[2] / "_modules"
# What begins a transaction and ends it as well.
WHOLE = {
    "mta_previous.take_back",
    "mta_transaction.close",
    "mta_transaction.member",
    "postconf.reset",
    "postconf.set",
}


def beginnings(folder):
    """Arguments with which each of these functions would begin a transaction, by name."""
    main_cf, new = f"{folder}/main.cf", f"{folder}/new"
    table = {"__kwarg__": True, "type": "texthash", "entries": {"a": "b"}}
    return {
        "mta_aliases.apply": [f"{folder}/aliases", {"root": "alice"}],
        "mta_ca.apply": [new, f"{new}.key"],
        "mta_cert.apply": [new, f"{new}.key", "mail.example.com"],
        "mta_cert.only_apply": [[]],
        "mta_journal.begin": [{}],
        "mta_map.apply": [new, table],
        "mta_map.only_apply": [{}, [f"{folder}/aliases"]],
        "mta_originals.apply": [],
        "mta_originals.give_back": [[main_cf]],
        "mta_pem.write": [{new: b"x"}],
        "mta_previous.apply": [],
        "mta_transaction.command": ["x", [["true"]], [["true"]], ["/etc/group", "x"]],
        "mta_transaction.directory": [new],
        "mta_transaction.halt": [],
        "mta_transaction.need": [{"postfix": "reload"}],
        "mta_transaction.put_back": [
            {"folder": f"{folder}/state/originals/0000", "path": main_cf, "kind": "file"},
        ],
        "mta_transaction.remove": [main_cf],
        "mta_transaction.write": [new, "x"],
        "postconf.apply": [str(folder), {"biff": True}],
        "saslauthd.absent_apply": [],
        "saslauthd.apply": [],
    }


def own_functions(modules):
    """This formula's execution functions, as the loader has them: name to function."""
    own = {}
    for name in sorted(modules):
        function = inspect.unwrap(modules[name].func)
        if pathlib.Path(inspect.getsourcefile(function)).parent == MODULES:
            own[name] = function
    return own


def calls(modules):
    """Which function of the formula calls which others, by ``module.function``, private ones too."""
    found = {}
    for path in MODULES.glob("*.py"):
        tree = ast.parse(path.read_text())
        functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        for name, node in functions.items():
            below = found.setdefault(f"{path.stem}.{name}", set())
            for one in ast.walk(node):
                if isinstance(one, ast.Name) and one.id in functions:
                    below.add(f"{path.stem}.{one.id}")
                elif isinstance(one, ast.Constant) and one.value in modules:
                    below.add(one.value)
    return found


def job(modules, minion, name, arguments):
    """Call a function as a minion does for a job, and salt-call for a command line."""
    data = {"fun": name, "jid": "20300101000000000000", "tgt": "*", "ret": ""}
    args, kwargs = salt.minion.load_args_and_kwargs(modules[name], arguments, data)
    return modules[name](*args, **kwargs)


def by_code(modules, name, arguments):
    """Call a function as a template or Salt's Python interface does."""
    named = [argument for argument in arguments if isinstance(argument, dict) and "__kwarg__" in argument]
    kwargs = {key: value for one in named for key, value in one.items() if key != "__kwarg__"}
    return modules[name](*[one for one in arguments if one not in named], **kwargs)


@pytest.fixture
def host(tmp_path, server, pretend, modules, monkeypatch):
    """Files, a store of originals and one of the last apply; a Postfix that takes all."""
    for name in ("main.cf", "aliases"):
        (tmp_path / name).write_text("old = 1\n")
    for store in ("originals", "previous"):
        entry = tmp_path / "state" / store / "0000"
        entry.mkdir(parents=True, mode=0o700)
        facts = {"path": tmp_path / "main.cf", "kind": "file", "module": "mta_cert", "content": "older = 1\n"}
        facts["left"] = modules["mta_journal.word"](str(facts["path"]))
        for name, text in facts.items():
            (entry / name).write_text(str(text))
    left = {"commit": 1, "paths": {str(tmp_path / "main.cf"): None}, "activate": {"postfix": "reload"}}
    (tmp_path / "state" / "previous" / "left").write_text(json.dumps(left))
    program = tmp_path / "state" / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    prepared = {"changes": {"biff": {"old": None, "new": "yes"}}, "activate": {"postfix": "reload"}}
    for loader in (modules, modules.pack["__salt__"]):
        monkeypatch.setitem(loader["saslauthd.apply"].func.__globals__, "PROGRAM", str(program))
        # There is no Postfix here to try main.cf with.
        postconf = loader["postconf.apply"].func.__globals__
        monkeypatch.setitem(postconf, "_installed", lambda: True)
        monkeypatch.setitem(postconf, "_prepare", lambda *_: prepared)
        monkeypatch.setitem(postconf, "_staged", lambda *_: {"errors": [], "missing": [], "texts": {}})
    pretend("_mta_postfix_outlook.naming", lambda *_: {})
    pretend("_mta_tables.missing_types", lambda types: [])
    pretend("_mta_tables.default_type", lambda: "texthash")
    return tmp_path


def test_every_function_that_begins_a_transaction_is_tried(modules):
    graph = calls(modules)
    begins = {"mta_transaction._begin", "mta_journal.begin"}
    before = set()
    while begins != before:
        before = set(begins)
        begins |= {name for name, below in graph.items() if below & begins}
    public = {name.replace("postconf.set_", "postconf.set") for name in begins if "._" not in name}
    assert public & set(own_functions(modules)) == WHOLE | set(beginnings(""))


@pytest.mark.parametrize("call", [job, by_code])
@pytest.mark.parametrize("name", beginnings(""))
def test_a_part_of_a_transaction_refuses_to_be_called_by_itself(modules, host, name, call):
    before = {path: path.read_bytes() for path in host.iterdir() if path.is_file()}
    said = ""
    try:
        call(modules, name, beginnings(host)[name])
    except SaltException as err:
        said = str(err)
    assert not (host / "state" / "journal").exists()
    assert {path: path.read_bytes() for path in host.iterdir() if path.is_file()} == before
    assert re.search("is for states.*by itself it would leave a transaction open|and is refused as a job", said)


@pytest.mark.parametrize("arguments", [{"transaction": "postfix_mta"}, {}])
def test_a_participant_s_state_is_no_job(modules, host, arguments):
    table = {"name": str(host / "new"), "type": "texthash", "entries": {"a": "b"}}
    with pytest.raises(SaltException, match="is for states"):
        job(modules, "mta_transaction.member", [table["name"], "mta_map", table, {"__kwarg__": True, **arguments}])
    assert not (host / "state" / "journal").exists()


def test_what_ends_a_transaction_is_no_job_as_it_would_forget_what_can_be_taken_back(modules, host):
    with pytest.raises(SaltException, match="is for states"):
        job(modules, "mta_transaction.close", [])
    assert (host / "state" / "previous" / "left").exists()


def test_what_an_interrupted_apply_left_gets_nothing_added(modules, host, context, transaction):
    transaction("write", str(host / "new"), "half\n")
    context.pop("mta_transaction")["lock"].close()
    for name, arguments in (("record", [str(host / "main.cf"), "file"]), ("halt", [])):
        with pytest.raises(SaltException, match="is for states"):
            job(modules, f"mta_journal.{name}", arguments)
    assert transaction("recover") == [str(host / "new")]


class TestKeys:
    """Private keys, passphrases and passwords: in no answer to a job, and in no argument of one."""

    @pytest.fixture
    def secrets(self, modules, tmp_path, minion):
        """A private key's file, and pillar with a password."""
        modules.pack["__pillar__"] = {"relay": {"password": "geheim"}}
        _mta_certificates.create_key(minion, str(tmp_path / "key.pem"), key_type="ec")
        return tmp_path / "key.pem"

    @pytest.mark.parametrize(
        ("name", "arguments"),
        [
            ("mta_x509.make_key", ["ec", 256]),
            ("mta_x509.lock_key", ["KEY", "secret"]),
            ("mta_x509.describe_key", ["KEY"]),
            ("mta_x509.pick", ["KEY", "key"]),
            ("mta_x509.is_locked", ["KEY"]),
            ("mta_x509.make_authority", ["KEY", "2030-01-01", 1]),
            ("mta_x509.make_certificate", ["x", "2030-01-01", 1, {}, ["mail.example.com"], "KEY"]),
            ("mta_x509.make_request", ["KEY", {}, ["mail.example.com"]]),
            ("mta_x509.serve", ["x", "2030-01-01", "KEY"]),
            ("mta_originals.content", ["{0}"]),
            ("mta_pem.read", ["{0}"]),
            ("mta_pem.source", ["{0}", True]),
            ("mta_pem.create", ["{0}.new", "KEY", 384]),
            ("mta_pem.write", [{"{0}.new": "KEY"}]),
            ("mta_secret.get", ["relay:password"]),
            ("mta_secret.resolve", ["geheim", "relay:password"]),
            ("mta_map.compiled", ["a geheim", "hash"]),
            ("mta_map.is_current", ["{0}.new", "a geheim", "hash"]),
            ("mta_map.unfit", ["{0}.new", "hash", {"a": {"secret": "geheim"}}]),
        ],
    )
    def test_what_is_handed_a_key_or_a_secret_or_answers_with_one_is_no_job(
        self, modules, secrets, name, arguments
    ):
        key = secrets.read_text()
        filled = json.loads(
            json.dumps(arguments).replace("{0}", str(secrets)).replace("KEY", key.replace("\n", "\\n"))
        )
        with pytest.raises(SaltException, match="is for states and other modules") as refused:
            job(modules, name, filled)
        assert key not in str(refused.value)
        assert "geheim" not in str(refused.value)
        assert not secrets.with_name("key.pem.new").exists()

    def test_those_that_refuse_have_no_example_for_the_command_line(self, modules):
        refusing = set(beginnings("")) | {"mta_transaction.member", "mta_transaction.close"}
        for name, function in own_functions(modules).items():
            source = inspect.getsource(function)
            if name in refusing or 'mta_state.refuse_job"]' in source:
                refusing.discard(name)
                assert "CLI Example" not in function.__doc__, name
                assert re.search("for states|for other modules", function.__doc__, re.IGNORECASE), name
        assert not refusing

    def test_no_example_has_a_key_or_a_password_in_its_arguments(self, modules):
        for name, function in own_functions(modules).items():
            for example in re.findall(r"(?m)^ +salt.*(?:\\\n.*)*", function.__doc__ or ""):
                assert not re.search(r"cat [^)]*key|PRIVATE KEY|passphrase[= ]|password=|secret\b", example), name
