"""The whole formula as one: the same states as Salt makes of its SLS files, rendered where something is new."""

import copy
import datetime
import json
import pathlib
import re
import runpy
import shutil

import pytest
import salt.state
import salt.version

import _mta_settings
import _mta_sls
from _mta_revision import REVISION
from _mta_settings import GRAINS

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PARTS = runpy.run_path(str(REPOSITORY / "postfix_mta/init.sls"))["PARTS"]
NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
PILLARS = {
    "nothing": {},
    "tables": {"maps": {"one": {"entries": {"a": "b"}}, "two": None}, "beacon": {"enabled": True}},
    "two certificates": {"certificate": {"key_type": "ec", "second": {"key_type": "rsa"}}},
    "no SASL": {"sasl": {"enabled": False}, "manage_hosts_file": True, "profile": "satellite"},
    "signed": {"dkim": {"domains": ["example.com"]}},
    "not verified": {"verify": {"enabled": False}},
}


class Highstate:
    """What Salt makes of SLS files, with the formula of the repository or one that Salt renders file by file."""

    def __init__(self, opts, tmp_path):
        self.opts = opts
        self.own = tmp_path / "own"
        self.own.mkdir()
        self.elsewhere = tmp_path / "elsewhere"
        shutil.copytree(REPOSITORY / "postfix_mta", self.elsewhere / "postfix_mta")
        init = self.elsewhere / "postfix_mta/init.sls"
        init.write_text(init.read_text().replace(REVISION, "another"))

    def __call__(self, pillar, *names, together=True):
        roots = [self.own, REPOSITORY if together else self.elsewhere]
        opts = {**self.opts, "file_roots": {"base": [str(root) for root in roots]}}
        # The names of files are remembered there.
        opts["cachedir"] = f"{opts['cachedir']}/{together}"
        opts["state_auto_order"] = True
        with salt.state.HighState(opts, pillar_override={"postfix_mta": pillar}) as highstate:
            highstate.state.opts["pillar"] = highstate.state.opts["pillar"] or {"postfix_mta": pillar}
            highstate.load_dynamic = lambda matches: None
            highstate.push_active()
            high, errors = highstate.render_highstate({"base": list(names)})
            assert not errors
            high, errors = highstate.state.reconcile_extend(high)
            assert not errors
            # Without the order of keys. Salt 3006 does not note what includes what.
            high = json.loads(json.dumps(high))
            if salt.version.__saltstack_version__.major < 3008:
                for body in high.values():
                    body.pop("__sls_included_from__", None)
            return high


@pytest.fixture
def highstate(opts, tmp_path, compiled_once):
    return Highstate(opts, tmp_path)


@pytest.mark.parametrize("pillar", PILLARS.values(), ids=PILLARS)
def test_the_states_are_those_that_salt_makes_of_the_files(highstate, pillar):
    ordinary = highstate(pillar, "postfix_mta", together=False)
    assert len(ordinary) > 8
    for _ in ("rendered", "remembered"):
        assert highstate(pillar, "postfix_mta") == ordinary


@pytest.mark.parametrize("profile", ["guide", "hardened", "satellite", "local_only", "none"])
def test_every_part_has_a_state_so_that_what_was_rendered_is_remembered(highstate, profile):
    high = highstate({"profile": profile}, "postfix_mta", together=False)
    assert {f"postfix_mta.{part}" for part in PARTS} <= {body["__sls__"] for body in high.values()}


@pytest.mark.parametrize("include", [["postfix_mta", "postfix_mta.sasl"], ["postfix_mta.sasl", "postfix_mta"]])
def test_a_file_of_users_may_include_a_part_as_well_and_extend_it(highstate, include):
    (highstate.own / "own.sls").write_text(
        f"include: {include}\n"
        "extend:\n  postfix_mta_sasl:\n    saslauthd:\n      - threads: 7\n"
        "own:\n  test.nop:\n    - require: [{sls: postfix_mta}, {sls: postfix_mta.sasl}]\n"
    )
    for _ in ("rendered", "remembered"):
        high = highstate({}, "own", "postfix_mta.firewall")
        assert high == highstate({}, "own", "postfix_mta.firewall", together=False)
        assert {"threads": 7} in high["postfix_mta_sasl"]["saslauthd"]


@pytest.fixture
def states(minion, functions, pretend):
    """The formula's states; ``states.rendered``: the names of files that were rendered for them."""
    functions["cp.cache_dir"] = lambda *_, **__: [str(REPOSITORY / f"postfix_mta/{part}.sls") for part in PARTS]
    pretend("_mta_settings.current", lambda saltenv: {"synced": True})
    pretend("_mta_sls._rendered", lambda part, path, saltenv: render(path))

    def render(path):
        name = pathlib.Path(path).stem
        states.rendered.append(name)
        return {name: {"test": ["nop"]}} if name not in states.empty else {}

    def states(revision=REVISION, now=NOW):
        states.rendered.clear()
        return _mta_sls.states(minion, PARTS, revision, "base", now)

    states.rendered = []
    states.empty = []
    return states


def test_what_is_remembered_is_not_rendered_again(states):
    first = copy.deepcopy(states())
    assert states.rendered == PARTS
    assert states() == first
    assert states.rendered == []


def test_it_rests_on_the_pillar(states, pillar):
    states()
    pillar["postfix_mta"] = {"root_recipient": "alice"}
    states()
    assert states.rendered == PARTS


@pytest.mark.parametrize("grain", GRAINS)
def test_it_rests_on_the_host(states, minion, grain):
    states()
    minion.grains[grain] = "other"
    states()
    assert states.rendered == PARTS


@pytest.mark.parametrize("name", ["SIGNER_FILES", "STS_FILES"])
def test_it_rests_on_what_a_daemon_of_the_formula_s_own_has_left(states, monkeypatch, tmp_path, name):
    monkeypatch.setattr(_mta_settings, name, str(tmp_path / "left"))
    states()
    (tmp_path / "left").mkdir()
    states()
    assert states.rendered == PARTS


def test_files_use_no_other_grain():
    for part in (*PARTS, "commit", "dkim", "maps", "mta_sts"):
        text = (REPOSITORY / f"postfix_mta/{part}.sls").read_text()
        assert set(re.findall(r"""\bgrains\W+(?:get\W+)?(\w+)""", text)) <= set(GRAINS), part


def test_it_is_remembered_for_six_hours_at_most(states):
    states()
    states(now=NOW + datetime.timedelta(hours=5, minutes=59))
    assert states.rendered == []
    states(now=NOW + datetime.timedelta(hours=6))
    assert states.rendered == PARTS


def test_a_file_server_with_another_revision_has_its_files_rendered_by_salt(states):
    states()
    assert states(revision="another") == {}
    assert states.rendered == []


def test_a_minion_that_has_not_synced_has_them_rendered_by_salt(states, pretend):
    pretend("_mta_settings.current", lambda saltenv: {"synced": False})
    assert states() == {}


def test_a_part_without_states_is_one_for_salt_which_knows_that_it_was_there(states):
    states.empty.append("watch")
    assert states() == {}


def test_a_dry_run_leaves_nothing_behind(states, minion):
    minion.opts["test"] = True
    states()
    states()
    assert states.rendered == PARTS
