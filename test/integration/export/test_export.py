"""Hosts that somebody configured by hand: what is exported reproduces them, and one change in it is one change."""

import json
import os
import pathlib

import pytest
import yaml

from rig import REPOSITORY, results

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


# The services of the community formula, as its pillar: those that it has switched on, and those that it has not.
COMMUNITY_ON = (
    "smtp pickup cleanup qmgr tlsmgr rewrite bounce defer trace verify flush proxymap proxywrite smtp-unix relay"
    " showq error retry discard local virtual lmtp anvil scache"
)
COMMUNITY_OFF = (
    "smtp-postscreen smtpd dnsblog tlsproxy submission smtps 628 qmgr-oqmgr maildrop cyrus old-cyrus uucp ifmail"
    " bsmtp scalemail-backend mailman"
)
ASK = """
import smtplib
client = smtplib.SMTP("127.0.0.1", 25, timeout=10)
client.ehlo()
print(client.docmd("MAIL FROM:<>")[0], client.docmd("RCPT TO:<postmaster@mail.example.com>")[0])
"""


def test_the_community_formulas_services_are_converted_to_a_server_that_answers(container, found):
    container.exec("cp /root/package/main.cf /root/package/master.cf /etc/postfix/")
    container.exec("systemctl reset-failed postfix; systemctl restart postfix")
    services = {name: {"enable": True} for name in COMMUNITY_ON.split()}
    services.update({name: {"enable": False} for name in COMMUNITY_OFF.split()})
    services["smtp"]["maxproc"] = 10
    community = {"config": {"myhostname": "mail.example.com"}, "master_config": {"services": services}}
    container.put({f"/srv/formula/{name}": REPOSITORY / name for name in ("bin", "_modules", "postfix_mta")})
    container.put({"/root/community.sls": yaml.safe_dump({"postfix": community})})
    converted = container.exec(["/srv/formula/bin/export", "--convert", "/root/community.sls"])
    pillar = yaml.safe_load(converted.stdout)
    states = container.apply(pillar=pillar)
    assert not results.failures(states)
    assert container.exec(["python3", "-c", ASK]).stdout == "250 250\n"
    master = container.exec("postconf -M").stdout.splitlines()
    smtp = [line.split() for line in master if line.startswith("smtp ")]
    assert sorted(line[1:] for line in smtp) == [
        ["inet", "n", "-", "n", "-", "10", "smtpd"],
        ["unix", "-", "-", "n", "-", "-", "smtp"],
    ]
    programs = {line.split()[0]: line.split()[7] for line in master}
    renamed = {"rewrite": "trivial-rewrite", "trace": "bounce", "proxywrite": "proxymap", "retry": "error"}
    assert {**programs, **renamed} == programs
    assert not {*COMMUNITY_OFF.split()} & {*programs}
    assert not results.changed(container.apply(pillar=pillar))


def test_the_export_proves_that_its_apply_changes_nothing(container, found):
    parts = ("bin", "_beacons", "_modules", "_states", "postfix_mta")
    container.put({f"/srv/formula/{name}": REPOSITORY / name for name in parts})
    container.exec(
        "postconf -e 'smtpd_client_restrictions = reject_rbl_client 3x4mpl3k3yabcdefghijk2.zen.example.net'"
    )
    exported = container.exec(["/srv/formula/bin/export", "--check", "--no-probe"])
    assert "Proof: none of the " in exported.stderr
    assert "3x4mpl3k3y" not in exported.stdout
    included = ["--include", "parameters:smtpd_client_restrictions"]
    exported = container.exec(["/srv/formula/bin/export", "--no-probe", *included])
    assert "3x4mpl3k3y" in exported.stdout


def test_it_is_quick_enough(found, capsys):
    seconds = sum(one["seconds"] for one in found.values())
    with capsys.disabled():
        print(f"\n{len(found)} configurations in {seconds:.0f} s")
    assert seconds < 900  # a busy machine takes several times as long
