"""SLS files as Salt renders them, on minions with the formula's modules, without them, and with others."""

import pathlib
import re
import runpy
import shutil
import sys
from unittest.mock import Mock

import library
import pytest
import salt.config
import salt.fileclient
import salt.loader
import salt.template
from conftest import minion_options
from hypothesis import HealthCheck, given, settings
from pillars import pillars
from salt.exceptions import CommandExecutionError, SaltRenderError

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
# How every SLS file begins.
PREAMBLE = """\
{%- if "__master_opts__" not in opts and "mta_settings" in salt.file_mapping | default([]) %}
{%-   set mta = salt["mta_settings.effective"](saltenv) %}
{%- else %}{% from "postfix_mta/map.jinja" import mta with context %}{% endif %}
"""
# What a minion without the formula's modules needs of Salt's.
SALTS_OWN = ["cp", "config", "saltutil", "slsutil", "state"]
# Of what Salt syncs to minions the formula has these.
SYNCED = ["modules", "states", "beacons"]


class Renderer:
    """Renders SLS text as a state run does: one file client, one context, the real renderers."""

    def __init__(self, opts, synced=True):
        self.opts = {**opts, "module_dirs": opts["module_dirs"] if synced else []}
        # A look for a function that there is not loads every module there is.
        self.whitelist = None if synced else SALTS_OWN
        self.loaded = None

    def load(self, pillar, grains):
        """Start over, as a run with this pillar on this host would."""
        opts = {**self.opts, "pillar": {"postfix_mta": pillar}, "grains": grains}
        client = salt.fileclient.get_file_client(opts)
        self.context = {}
        self.functions = salt.loader.minion_mods(
            opts,
            utils=salt.loader.utils(opts),
            whitelist=self.whitelist,
            context=self.context,
            file_client=salt.fileclient.ContextlessFileClient(client),
        )
        self.renderers = salt.loader.render(opts, self.functions, file_client=client)
        self.loaded = (pillar, grains)

    def __call__(self, text, pillar=None, os_family="Debian", fqdn="mail.example.com", **where):
        wanted = (pillar, {"os_family": os_family, "fqdn": fqdn})
        if self.loaded is None or self.loaded[0] is not pillar or self.loaded[1] != wanted[1]:
            self.load(*wanted)
        where = {"saltenv": "base", "sls": "postfix_mta.settings", **where}
        return salt.template.compile_template(
            ":string:", self.renderers, "jinja|yaml", [], [], input_data=text, **where
        )

    def mta(self, pillar=None, **host):
        return self(f"{PREAMBLE}{{{{ mta | json }}}}", pillar, **host)

    def parameters(self, pillar=None, **host):
        return self.mta(pillar, **host)["main_cf"]


class OneLoader(Renderer):
    """A renderer whose loaders go on with the next pillar: nothing of the last one is remembered."""

    def load(self, pillar, grains):
        if self.loaded is None:
            super().load(pillar, grains)
        assert self.loaded[1] == grains
        self.loaded = (pillar, grains)
        self.context.clear()
        for loader in (self.functions, self.renderers._dict):
            loader.pack["__pillar__"] = {"postfix_mta": pillar}


@pytest.fixture
def render(opts):
    return Renderer(opts)


class TestSettings:
    """Where SLS files get the settings."""

    @pytest.fixture(autouse=True)
    def library_of_each(self):
        """Nothing of the library that other tests have imported: what is loaded finds its own."""
        others = {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith("_mta_")}
        yield
        for name in [name for name in sys.modules if name.startswith("_mta_")]:
            del sys.modules[name]
        sys.modules.update(others)

    @pytest.fixture
    def older(self, tmp_path):
        """A tree of the formula's modules of another revision, which makes other settings."""
        shutil.copytree(
            REPOSITORY / "_modules", tmp_path / "older/_modules", ignore=shutil.ignore_patterns("__pycache__")
        )
        revision = tmp_path / "older/_modules/_mta_revision.py"
        revision.write_text(re.sub("(?m)^REVISION = .*", 'REVISION = "0"', revision.read_text()))
        merge = tmp_path / "older/_modules/_mta_settings.py"
        text = merge.read_text()
        merge.write_text(text.replace('families=list(files["os_family"])', 'families=["older"]'))
        assert merge.read_text() != text
        return tmp_path / "older"

    def test_a_minion_that_never_synced_gets_the_same(self, opts, render):
        fresh = Renderer(opts, synced=False)
        pillar = {"hostname": "mx.example.org", "verify": {"login": {"username": "a", "password": "b"}}}
        assert fresh.mta(pillar) == {**render.mta(pillar), "synced": False}
        assert "mta_settings.effective" not in fresh.functions

    def test_a_minion_that_never_synced_loads_few_modules_for_that(self, opts):
        fresh = Renderer(opts, synced=False)
        fresh.whitelist = None
        fresh.mta()
        assert len(fresh.functions.loaded_files) < 20

    def test_with_salt_ssh_the_settings_are_made_where_it_renders(self, opts, render, tmp_path):
        pillar = {"services": {"submission": True}, "verify": {"login": {"username": "a", "password": "geheim"}}}
        master = salt.config.master_config(None)
        master.update(cachedir=str(tmp_path / "master"), file_roots=opts["file_roots"])
        ordinary = render.mta(pillar)
        over_ssh = Renderer({**opts, "__master_opts__": master}).mta(pillar)
        assert over_ssh.pop("packages") == [*ordinary.pop("packages"), "python3-cryptography", "python3-openssl"]
        assert over_ssh == {**ordinary, "beacon": None, "schedule": None}
        assert "geheim" not in str(over_ssh)

    def test_a_minion_with_older_modules_gets_the_settings_of_the_file_server(self, opts, older):
        current = Renderer(opts).mta()
        stale = Renderer({**opts, "module_dirs": [str(older)]})
        assert stale.mta() == {**current, "synced": False}
        assert stale.functions["mta_settings.revision"]() == "0"

    def test_so_does_one_with_newer_modules(self, opts, older):
        """The file server has the older ones."""
        shutil.copytree(REPOSITORY / "postfix_mta", older / "postfix_mta")
        (older / "postfix_mta/revision.yaml").write_text('revision: "0"\n')
        minion = Renderer({**opts, "file_roots": {"base": [str(older)]}})
        mta = minion.mta()
        assert (mta["revision"], mta["families"], mta["synced"]) == ("0", ["older"], False)
        assert minion.functions["mta_settings.revision"]() != "0"

    def test_a_minion_that_has_synced_the_execution_modules_alone_is_not_synced(self, opts, tmp_path):
        shutil.copytree(
            REPOSITORY / "_modules", tmp_path / "_modules", ignore=shutil.ignore_patterns("__pycache__")
        )
        half = Renderer({**opts, "module_dirs": [str(tmp_path)]})
        assert half.mta()["synced"] is False
        (tmp_path / "_states").mkdir()
        shutil.copy(REPOSITORY / "_states/mta_settings.py", tmp_path / "_states")
        assert Renderer({**opts, "module_dirs": [str(tmp_path)]}).mta()["synced"] is True

    def test_what_is_fetched_is_what_the_settings_import(self):
        pattern = runpy.run_path(str(REPOSITORY / "postfix_mta/settings.py"))["LIBRARY"]
        fetched = {
            path.stem
            for path in (REPOSITORY / "_modules").glob("*.py")
            if re.search(pattern.partition("@")[2], f"_modules/{path.name}")
        }
        needed, new = {"_mta_guard"}, {"_mta_settings"}
        while new:
            needed |= new
            files = [REPOSITORY / f"_modules/{name}.py" for name in new]
            imported = {item.module for path in files for item in library.imports(path)}
            new = {name for name in imported if name.startswith("_mta_")} - needed
        assert fetched == needed

    def test_a_file_server_without_the_library_is_an_error_that_says_so(self, opts, tmp_path):
        shutil.copytree(REPOSITORY / "postfix_mta", tmp_path / "roots/postfix_mta")
        fresh = Renderer({**opts, "file_roots": {"base": [str(tmp_path / "roots")]}}, synced=False)
        with pytest.raises(
            SaltRenderError, match=r"salt://_modules has no _mta_settings\.py in the file roots of base"
        ):
            fresh.mta()

    def test_every_sls_file_asks_in_the_same_words(self):
        for path in (REPOSITORY / "postfix_mta").rglob("*.sls"):
            text = path.read_text()
            assert PREAMBLE in text or not re.search(r"\bmta\.", text), path.name

    def test_only_a_minion_with_other_modules_syncs(self, opts, render, monkeypatch):
        text = (REPOSITORY / "postfix_mta" / "settings.sls").read_text()
        assert "postfix_mta_modules" not in render(text)
        fresh = Renderer(opts, synced=False)
        fresh.load(None, {"os_family": "Debian", "fqdn": "mail.example.com"})
        calls = {}
        for kind in SYNCED:
            fresh.functions[f"saltutil.sync_{kind}"] = lambda kind=kind, **given: calls.update({kind: given})
        for top, synced in (
            ({}, ["base"]),
            ({"base": ["a"]}, ["base"]),
            ({"dev": ["a"], "prod": ["b"]}, ["dev", "prod", "base"]),
            (["Pillar failed to render"], ["base"]),
        ):
            fresh.functions["state.show_top"] = lambda top=top, **_: top
            assert fresh(text)["postfix_mta_modules"]["test.nop"][0] == {"force_reload_modules": True}
            assert calls == {kind: {"refresh": False, "saltenv": synced} for kind in SYNCED}

    def test_a_run_with_an_environment_of_its_own_leaves_the_modules_of_others(self, opts):
        text = (REPOSITORY / "postfix_mta" / "settings.sls").read_text()
        roots = {"next": opts["file_roots"]["base"]}
        fresh = Renderer({**opts, "saltenv": "next", "file_roots": roots}, synced=False)
        fresh.load(None, {"os_family": "Debian", "fqdn": "mail.example.com"})
        calls = []
        for kind in SYNCED:
            fresh.functions[f"saltutil.sync_{kind}"] = lambda **given: calls.append(given["saltenv"])
        fresh.functions["state.show_top"] = lambda **_: {"next": ["a"]}
        fresh(text, saltenv="next")
        assert calls == [["base", "next"]] * len(SYNCED)

    def test_below_a_mountpoint_it_says_what_to_do(self, render):
        text = (REPOSITORY / "postfix_mta" / "settings.sls").read_text()
        for sls in ("formulas.postfix_mta.settings", "settings"):
            with pytest.raises(SaltRenderError, match="give the gitfs remote no mountpoint"):
                render(text, sls=sls)


class TestValid:
    """The first state of every apply."""

    def test_a_valid_pillar_succeeds_without_changes(self, states):
        assert states["mta_settings.valid"]("postfix_mta", "mail.example.com") == {
            "name": "postfix_mta",
            "result": True,
            "changes": {},
            "comment": "The settings in the pillar postfix_mta are valid",
        }

    @pytest.mark.parametrize("test", [True, False])
    def test_an_invalid_pillar_fails_with_all_problems_in_test_mode_too(self, opts, modules, states, test):
        opts["test"] = test
        modules.pack["__pillar__"] = {"postfix_mta": {"hostname": "mail", "unmanaged": "x"}}
        ret = states["mta_settings.valid"]("postfix_mta", "mail.example.com")
        assert ret["result"] is False
        assert ret["changes"] == {}
        assert "(2 problems); nothing has been changed" in ret["comment"]
        assert "postfix_mta:hostname: " in ret["comment"]
        assert "postfix_mta:unmanaged: " in ret["comment"]

    def test_a_host_that_cannot_be_asked_is_a_failure_without_a_traceback(self, modules, states):
        modules["mta_settings.problems"] = Mock(side_effect=CommandExecutionError("postconf: no"))
        ret = states["mta_settings.valid"]("postfix_mta")
        assert ret["result"] is False
        assert ret["comment"].endswith("could not be validated: postconf: no")


BROKEN = ["text", ["list"], 5, {"sasl": "x"}, {"certificate": {"ca": [1]}}, {"parameters": ["a"]}]
BROKEN += [
    {1: 2, "a": 3},
    {"parameters": {1: 2, "a": "\x00\x7f\ud800"}},
    {"firewall": {"ports": {"append": 1}}},
]
BROKEN += [
    {"hostname": 5},
    {"hostname": "a\nb: c"},
    {"certificate": {"key": "a\nb"}},
    {"sasl": {"mechanisms": None}},
]
BROKEN += [{"relay": "x"}, {"relay": {"senders": {"a": 1, "b": {"host": [1], "port": {}}}, "port": "a", "tls": 7}}]
BROKEN += [{"aliases": {"a": {"b": {"c": object()}}}}, {"root_recipient": ["a"]}, {"verify": {"login": "x"}}]


def files():
    """Every SLS file of the formula but the one that puts the others together (test_mta_sls.py)."""
    paths = sorted((REPOSITORY / "postfix_mta").glob("*.sls"))
    return [path.read_text() for path in paths if path.name != "init.sls"]


@pytest.fixture(scope="module")
def render_any(tmp_path_factory, compiled_once):
    """A renderer whose loaders serve many pillars: what they remember of one is forgotten with the next."""
    return OneLoader(minion_options(tmp_path_factory.mktemp("minion")))


def test_it_serves_one_pillar_after_the_other(render_any):
    for name in ("a.example.org", "b.example.org"):
        pillar = {"hostname": name}
        assert render_any.parameters(pillar)["myhostname"] == name
        assert render_any("{{ pillar['postfix_mta'] | json }}", pillar) == pillar


@pytest.mark.parametrize("pillar", BROKEN, ids=str)
def test_a_broken_pillar_does_not_break_the_rendering(render_any, pillar):
    for text in files():
        assert isinstance(render_any(text, pillar), dict)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pillar=pillars())
def test_no_pillar_breaks_the_rendering(render_any, pillar):
    for text in files():
        assert isinstance(render_any(text, pillar), dict)
    assert isinstance(render_any.parameters(pillar), dict)
