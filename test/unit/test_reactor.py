"""The reactor: an event is a hint for the minion under whose id it came, and nothing else of it is used."""

import os
import pathlib
import time

import pytest
import salt.loader
import salt.template

import _mta_reprovision

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
SLS = REPOSITORY / "postfix_mta" / "reactor" / "react.sls"
MINION = "mail1.example.com"
BEACON = f"salt/beacon/{MINION}/postfix_mta/"


@pytest.fixture
def react(opts, modules, tmp_path):
    """``react(tag, data)``: the reaction as Salt's reactor renders it, on a master that accepted two minions."""
    opts["pki_dir"] = str(tmp_path / "pki")
    (tmp_path / "pki" / "minions").mkdir(parents=True)
    for name in (MINION, "mail2.example.com"):
        (tmp_path / "pki" / "minions" / name).write_text("a key")
    renderers = salt.loader.render(opts, modules)

    def render(tag, data):
        blocked = opts["renderer_blacklist"], opts["renderer_whitelist"]
        return salt.template.compile_template(str(SLS), renderers, "jinja|yaml", *blocked, tag=tag, data=data)

    return render


def job(reaction):
    """``(function, target, arguments)`` of the one job of a reaction."""
    ((body),) = reaction.values()
    ((function, how),) = body.items()
    merged = {key: value for item in how for key, value in item.items()}
    return function, merged["tgt"], merged["tgt_type"], merged["args"]


@pytest.mark.parametrize(
    ("tag", "function", "arguments"),
    [
        (BEACON, "mta_reprovision.request", {"reason": "beacon"}),
        ("postfix_mta/reprovision", "mta_reprovision.request", {"reason": "reprovision"}),
        (f"salt/minion/{MINION}/start", "state.apply", {"mods": "postfix_mta.started", "queue": 2}),
    ],
)
def test_an_event_of_a_minion_is_a_job_for_it_alone(react, tag, function, arguments):
    assert job(react(tag, {"id": MINION})) == (f"local.{function}", [MINION], "list", arguments)


def test_a_start_is_looked_after_in_the_environment_that_the_master_names(opts, request):
    opts["postfix_mta"] = {"saltenv": "prod", "tgt": "*"}
    react = request.getfixturevalue("react")
    arguments = {"mods": "postfix_mta.started", "queue": 2, "saltenv": "prod"}
    tag = f"salt/minion/{MINION}/start"
    assert job(react(tag, {"id": MINION})) == ("local.state.apply", [MINION], "list", arguments)


@pytest.mark.parametrize("tag", ["postfix_mta/pillar_changed", "salt/netapi/hook/postfix_mta/pillar_changed"])
def test_a_changed_pillar_is_for_all_and_names_no_target(react, tag):
    forged = {"id": "x", "tgt": "db*", "body": "{{ 7 * 7 }}", "post": {"tgt": "db*"}}
    assert job(react(tag, forged)) == ("local.mta_reprovision.request", "*", "glob", {"reason": "pillar"})


FORGED = [
    "*",
    "mail*",
    "mail1.example.com,mail2.example.com",
    "mail9.example.com",
    "",
    "..",
    "../minions/mail1.example.com",
    "mail1.example.com\n",
    "{{ salt['cmd.run']('touch /tmp/owned') }}",
    "$(touch /tmp/owned)",
    None,
    7,
    [MINION],
    {"a": "b"},
]


@pytest.mark.parametrize("name", FORGED)
@pytest.mark.parametrize("tag", ["postfix_mta/reprovision", BEACON, "salt/minion/{}/start"])
def test_an_id_that_is_no_accepted_minion_is_nobody(react, tag, name):
    assert react(tag.format(name), {"id": name}) == {}


@pytest.mark.parametrize("tag", [BEACON, f"salt/minion/{MINION}/start"])
def test_a_tag_that_names_another_minion_is_nothing(react, tag):
    assert react(tag, {"id": "mail2.example.com"}) == {}


def test_nothing_else_of_an_event_comes_through(react):
    jinja = "{{ salt['cmd.run']('id') }}"
    data = {name: jinja for name in ("condition", "state", "reason", "tgt", "fun", "details", jinja)}
    assert jinja not in repr(react(BEACON, {"id": MINION, **data}))


@pytest.mark.parametrize("data", [{}, {"id": MINION, "state": "end"}])
def test_an_end_and_an_event_of_nobody_lead_to_nothing(react, data):
    assert react(BEACON, data) == {}


def test_of_a_storm_the_first_is_handed_on(react, tmp_path):
    storm = [react("postfix_mta/reprovision", {"id": MINION}) for _ in range(100)]
    assert [bool(reaction) for reaction in storm].count(True) == 1
    assert react("postfix_mta/reprovision", {"id": "mail2.example.com"})
    (seen,) = pathlib.Path(tmp_path).glob(f"cache/postfix_mta/request/{MINION}")
    os.utime(seen, (time.time() - 3, time.time() - 3))
    assert react(BEACON, {"id": MINION})


def test_a_clock_that_was_set_back_does_not_silence_a_minion(react, tmp_path):
    assert react("postfix_mta/reprovision", {"id": MINION})
    (seen,) = pathlib.Path(tmp_path).glob(f"cache/postfix_mta/request/{MINION}")
    os.utime(seen, (time.time() + 9999, time.time() + 9999))
    assert react("postfix_mta/reprovision", {"id": MINION})


def test_the_windows_are_those_that_the_minion_waits_for(react):
    inside = vars(_mta_reprovision)
    text = SLS.read_text()
    assert f'"request": {inside["WINDOW"]}, "all": {inside["WINDOW_OF_ALL"]}' in text
    assert inside["SETTLE"] > inside["WINDOW"]
