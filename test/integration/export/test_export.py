"""Hosts that somebody configured by hand: what is exported reproduces them, and one change in it is one change."""

import json
import os
import pathlib

import pytest
import yaml

HERE = pathlib.Path(__file__).parent
CONFIGURATIONS = {
    folder.name: yaml.safe_load((folder / "case.yaml").read_text())
    for folder in sorted((HERE / "configurations").iterdir())
}
if not os.environ["KITCHEN_PLATFORM"].startswith("debian-13"):
    # What depends on the platform: the package's own files, and how its Postfix reads what is written oddly.
    CONFIGURATIONS = {
        name: about for name, about in CONFIGURATIONS.items() if about.get("apply_change") or name == "secrets"
    }
EVERY = ["package", *CONFIGURATIONS]
PLACE = "/srv/export"
BARE_INSTALL = "DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install postfix"


@pytest.fixture(scope="module")
def found(container):
    """What cases.py found, by the name of the configuration; ``package`` is the package's own."""
    container.put({f"{PLACE}/cases.py": HERE / "cases.py", f"{PLACE}/configurations": HERE / "configurations"})
    container.exec(BARE_INSTALL)
    container.call("saltutil.sync_all")
    python = ["/opt/salt/bin/python", f"{PLACE}/cases.py", f"{PLACE}/configurations", f"{PLACE}/result"]
    done = container.exec([*python, *EVERY], check=False)
    assert container.exec(["test", "-s", f"{PLACE}/result"], check=False).returncode == 0, done.stderr
    return json.loads(container.exec(["cat", f"{PLACE}/result"]).stdout)


@pytest.fixture
def case(found, name):
    """What was found for one configuration."""
    assert "error" not in found[name], found[name]["error"]
    return found[name]


@pytest.mark.parametrize("name", EVERY)
def test_applying_what_was_exported_changes_nothing(case):
    assert case["applied"] == {"changes": {}, "failures": []}
    assert case["same"]


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_configuration_works(case):
    assert case["arrived"], case.get("log")


@pytest.mark.parametrize("name", EVERY)
def test_one_parameter_one_field_and_one_entry_changed_are_what_changes(case):
    assert not case["changed"]["failures"]
    changed = {name: {**changes} for name, changes in case["changed"]["changes"].items()}
    changed.pop("postfix_mta_committed", None)
    for changes in changed.values():
        changes.pop("activation", None)
    changes = changed.pop("postfix_mta_config")
    expected = {"new@example.org": {"old": None, "new": "root"}}
    assert changed == ({f"postfix_mta_map_{case['table']}": expected} if case["table"] else {})
    assert list(changes) == ["append_dot_mydomain", f"master.cf {case['service']}"]
    assert set(changes[f"master.cf {case['service']}"]["new"]) == {"wakeup"}


@pytest.mark.parametrize("name", [name for name, about in CONFIGURATIONS.items() if about.get("apply_change")])
def test_a_change_leaves_comments_and_order_alone(case):
    main, master, aliases = case["lines"]
    assert [len(lines) for lines in main] == [1, 1]
    assert aliases == [[], []]
    gone, come = master
    assert not [line for line in gone if line.lstrip().startswith("#")]
    words = [" ".join(line.split()) for line in come]
    assert sum("3600" in line for line in words) == 1
    name = case["service"].partition("/")[0]
    assert {line.split()[0] for line in come} <= {name, "-o"}


@pytest.mark.parametrize("name", [name for name, about in CONFIGURATIONS.items() if about.get("secrets")])
def test_secrets_are_left_out_and_named(case, name):
    assert not [secret for secret in CONFIGURATIONS[name]["secrets"] if secret in case["text"]]
    tables = CONFIGURATIONS[name].get("tables", [])
    assert ": a secret" in case["text"] or tables == ["sasl_passwd"]


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_tables_are_exported_with_their_entries(case, name):
    tables = set(CONFIGURATIONS[name].get("tables", [])) - {"sasl_passwd"}
    assert tables <= set(case["pillar"]["postfix_mta"].get("maps", {}))


@pytest.mark.parametrize("name", EVERY)
def test_what_is_left_out_is_named(case, name):
    notes = [line[4:] for line in case["text"].splitlines() if line.startswith("#   ")]
    about = CONFIGURATIONS.get(name, {})
    expected = about.get("left_out", [])
    others = [note for note in notes if not note.endswith(": a secret") and not note.startswith("verify:")]
    assert len(others) == len(expected)
    assert all(other.startswith(f"{text}: ") for other, text in zip(sorted(others), sorted(expected)))


@pytest.mark.parametrize("name", EVERY)
def test_the_conversation_is_switched_off_only_where_the_server_does_not_pass_it(case, name):
    switched_off = "verify" in case["pillar"]["postfix_mta"]
    assert switched_off == (CONFIGURATIONS.get(name, {}).get("verified") is False), case["text"]


def test_it_is_quick_enough(found, capsys):
    seconds = sum(one["seconds"] for one in found.values())
    with capsys.disabled():
        print(f"\n{len(found)} configurations in {seconds:.0f} s")
    assert seconds < 900  # a busy machine takes several times as long
