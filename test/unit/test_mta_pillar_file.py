"""What is secret, or refused, is left out of a pillar file and named in its comments, and all else is in it."""

import yaml

import _mta_pillar_file


def test_of_a_service_only_what_is_secret_is_left_out():
    notes = {}
    services = {
        "a/unix": {"command": "pipe", "arguments": "argv=/x --password=y"},
        "b/unix": {"overrides": {"x_pw": "y", "z": "1"}},
        "c/unix": None,
    }
    kept = _mta_pillar_file.services_without_secrets(services, notes)
    assert kept == {"a/unix": {"command": "pipe"}, "b/unix": {"overrides": {"z": "1"}}, "c/unix": None}
    assert list(notes) == ["services:a/unix:arguments", "services:b/unix:overrides:x_pw"]
    assert "arguments" in services["a/unix"]


def test_what_is_asked_for_comes_in_and_the_comments_say_how():
    notes = {}
    parameters = {"a": "--password=x", "b": "--password=y", "c": "1"}
    assert _mta_pillar_file.without_secrets("parameters", parameters, notes, ["parameters:a"]) == {
        "a": "--password=x",
        "c": "1",
    }
    assert _mta_pillar_file.without_secrets("parameters", parameters, {}, ["a", "b"]) == parameters
    services = {"a/unix": {"arguments": "--password=x", "overrides": {"z_pw": "y"}}}
    for names in (["a/unix", "z_pw"], ["services:a/unix:arguments", "services:a/unix:overrides:z_pw"]):
        assert _mta_pillar_file.services_without_secrets(services, {}, names) == services
    assert "bin/export --include NAME" in _mta_pillar_file.text_of({}, notes)


def test_what_the_validation_refuses_is_left_out_with_its_whole_reason():
    def problems(key, hostname, pillar):
        found = [f"{key}:services:a/unix:arguments: is wrong"] if "a/unix" in pillar["services"] else []
        found += [f"{key}:parameters:b: not known"] if "b" in pillar["parameters"] else []
        return [*found, f"{key}:verify: odd"]

    settings = {
        "parameters": {"b": 1, "c": 2, "d" * 61: 3, "e\x01": 4},
        "services": {"a/unix": {}, "b/unix": {}},
        "aliases": {},
    }
    notes = {}
    _mta_pillar_file.leave_out_refused(settings, notes, problems)
    assert settings == {"parameters": {"c": 2}, "services": {"b/unix": {}}, "aliases": {}}
    text = _mta_pillar_file.text_of(settings, notes)
    assert [line[4:] for line in text.splitlines() if line.startswith("#   ")] == [
        "parameters:b: not known",
        f"parameters:{'d' * 61}: it is no text that pillar can hold",
        "'parameters:e\\x01': it is no text that pillar can hold",
        "services:a/unix: arguments: is wrong",
        "refused: verify: odd: mend this before this pillar is applied",
    ]
    assert yaml.safe_load(text) == {"postfix_mta": {"parameters": {"c": 2}, "services": {"b/unix": {}}}}


def test_no_note_gets_out_of_its_comment():
    text = _mta_pillar_file.text_of({}, {"a\nevil: true": "b\nworse: true"})
    assert yaml.safe_load(text) == {"postfix_mta": {}}
