"""
Private files beside the modules, in processes that go on: after a sync all that they load is of one revision, be
it a newer or an older one. And on all ways on which Salt brings modules to where they run.
"""

import json
import shutil
import subprocess
import sys
import time

import pytest
import yaml

from rig import REPOSITORY

FORKS, THREADS = "forks.example.com", "threads.example.com"
PARTS = ("_beacons", "_modules", "_runners", "_states", "bin", "postfix_mta")
SEEN = "/root/seen"
KEY = "/root/.ssh/id_ed25519"
# So that the reactor makes new runners of what was synced.
MASTER = {"reactor": [{"generation": ["/srv/react.sls"]}], "reactor_refresh_interval": 1}
REACT = "shown:\n  runner.generation.shown: []\n"
BEACON = {"beacons": {"postfix_mta": [{"interval": 1}, {"queue_limit": 1000}]}}

# What the beacon runs, with a private file that exists, says which generation it is of.
OF_BEACON = """

import os as _os

import _mta_guard

with _mta_guard.library(__file__):
    import _mta_system as _system

_observe = observe


def generation():
    return [_os.getpid(), {0}, _system.GENERATION]


def observe(settings, now=None):
    with open("{1}", "a") as handle:
        print(generation(), file=handle)
    return _observe(settings, now)
"""
STATE = """
import _mta_guard

with _mta_guard.library(__file__):
    import _mta_of_states


def shown(name):
    said = [{0}, _mta_of_states.GENERATION, *__salt__["mta_beacon.generation"]()[1:]]
    return {{"name": name, "result": True, "changes": {{}}, "comment": str(said)}}
"""
RUNNER = """
import os

import _mta_guard

with _mta_guard.library(__file__):
    import _mta_of_runners


def shown():
    said = [os.getpid(), {0}, _mta_of_runners.GENERATION]
    with open("{1}", "a") as handle:
        print(said, file=handle)
    return said
"""


@pytest.fixture(scope="module")
def generations(tmp_path_factory):
    """Number to a tree of the formula: files that say it, states and runners with private files of their own."""

    def make(number):
        tree = tmp_path_factory.mktemp(f"generation{number}")
        for name in PARTS:
            shutil.copytree(REPOSITORY / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        # Python knows a file that it has compiled by its size and the second of its change.
        constant = f"\nGENERATION = {number}\n" + "#" * number
        (tree / "_states/_mta_of_states.py").write_text(constant)
        (tree / "_states/generation.py").write_text(STATE.format(number))
        (tree / "_runners/_mta_of_runners.py").write_text(constant)
        (tree / "_runners/generation.py").write_text(RUNNER.format(number, SEEN))
        with (
            open(tree / "_modules/_mta_system.py", "a") as private,
            open(tree / "_modules/mta_beacon.py", "a") as door,
        ):
            private.write(constant)
            door.write(OF_BEACON.format(number, SEEN) + "#" * number)
        subprocess.run([sys.executable, tree / "bin/update-revision"], check=True, capture_output=True)
        return tree

    return {number: make(number) for number in (1, 2)}


@pytest.fixture(scope="module")
def fleet(new_fleet, generations, container):
    """A minion that forks for each job and one that does not; both run the beacon."""
    container.put({"/srv/react.sls": REACT})
    fleet = new_fleet({FORKS: {}, THREADS: {}}, MASTER, BEACON)
    fleet.configure(
        fleet.minions[THREADS],
        "minion",
        {"id": THREADS, "master": fleet.master.ip, "multiprocessing": False, **BEACON},
    )
    fleet.restart(THREADS)
    return fleet


@pytest.fixture(scope="module")
def served(fleet, generations):
    """Put a generation into the master's file roots: ``served(number)``."""

    def serve(number):
        fleet.serve(generations[number])
        # As it would be with the next request that is not from its cache.
        fleet.run("fileserver.clear_file_list_cache")

    return serve


def seen(host):
    """What was noted on a host, in order: process, generations of a module and of its private file."""
    noted = host.exec(["cat", SEEN], check=False).stdout
    return [json.loads(line) for line in noted.splitlines()]


def wait_for(host, number, ask=lambda: None, timeout=60):
    """Wait until a process of a host notes a generation; that process."""
    deadline = time.monotonic() + timeout
    while True:
        ask()
        noted = seen(host)
        if noted and noted[-1][1:] == [number, number]:
            return noted[-1][0]
        assert time.monotonic() < deadline, noted[-5:]
        time.sleep(0.5)


@pytest.fixture(scope="module")
def one_after_the_other(fleet, served):
    """What minions say after each sync of generations 1, 2, 1: one dictionary for each, by minion."""
    said = []
    for number in (1, 2, 1):
        served(number)
        fleet.salt("*", "saltutil.sync_all", timeout=120)
        beacons = {name: wait_for(host, number) for name, host in fleet.minions.items()}
        said.append(
            {
                "beacon": beacons,
                "module": fleet.salt("*", "mta_beacon.generation"),
                "state": fleet.salt("*", "state.single", "generation.shown", "x"),
                "pid": {
                    name: host.exec("systemctl show --property=MainPID --value salt-minion").stdout
                    for name, host in fleet.minions.items()
                },
            }
        )
    return said


@pytest.mark.parametrize("minion", [FORKS, THREADS])
def test_a_minion_that_goes_on_has_the_files_of_each_sync(one_after_the_other, minion):
    for number, said in zip((1, 2, 1), one_after_the_other):
        assert said["module"][minion][1:] == [number, number]
        (state,) = said["state"][minion].values()
        assert json.loads(state["comment"]) == [number] * 4
    assert len({said["pid"][minion] for said in one_after_the_other}) == 1


@pytest.mark.parametrize("minion", [FORKS, THREADS])
def test_a_beacon_that_goes_on_has_the_files_of_each_sync(fleet, one_after_the_other, minion):
    (process,) = {said["beacon"][minion] for said in one_after_the_other}
    noted = seen(fleet.minions[minion])
    assert [entry for entry in noted if entry[1] != entry[2]] == []
    own = [entry[1] for entry in noted if entry[0] == process]
    assert [number for number, before in zip(own, [0, *own]) if number != before] == [1, 2, 1]


def test_one_minion_forks_and_the_other_does_not(one_after_the_other):
    for said in one_after_the_other:
        assert said["module"][THREADS][0] == said["beacon"][THREADS]
        assert said["module"][FORKS][0] != said["beacon"][FORKS]


def test_private_files_are_no_functions(fleet, one_after_the_other):
    for minion, functions in fleet.salt("*", "sys.list_functions").items():
        assert "mta_apply.last" in functions
        assert [name for name in functions if name.startswith("_") or name.endswith(".library")] == [], minion
    for minion, states in fleet.salt("*", "sys.list_state_functions").items():
        assert "generation.shown" in states
        assert [name for name in states if name.startswith("_") or name.endswith(".library")] == [], minion


def test_runners_and_the_reactor_have_the_files_of_each_sync(fleet, served, one_after_the_other):
    processes = []
    fleet.master.exec(["rm", "-f", SEEN])
    for number in (1, 2, 1):
        served(number)
        fleet.run("saltutil.sync_runners")
        assert fleet.run("generation.shown")[1:] == [number, number]
        fleet.master.exec(["rm", "-f", SEEN])
        processes.append(wait_for(fleet.master, number, lambda: fleet.salt(FORKS, "event.send", "generation")))
    assert len(set(processes)) == 1
    documented = fleet.run("doc.runner")
    assert "postfix_mta.status" in documented
    assert [name for name in documented if name.startswith("_") or name.endswith(".library")] == []


def test_a_checkout_without_a_sync(fleet, generations):
    fleet.master.put({"/srv/checkout/_modules": generations[2] / "_modules"})
    call = ["salt-call", "--local", "-m", "/srv/checkout", "--out=json"]
    assert json.loads(fleet.master.exec([*call, "mta_beacon.generation"]).stdout)["local"][1:] == [2, 2]
    functions = json.loads(fleet.master.exec([*call, "sys.list_functions"]).stdout)["local"]
    assert "mta_apply.last" in functions
    assert [name for name in functions if name.startswith("_")] == []


def test_salt_ssh_brings_the_files_of_the_master(fleet, served):
    host = fleet.minions[FORKS]
    fleet.master.exec("apt-get update -qq && apt-get install -y -qq openssh-client")
    fleet.master.exec(f"mkdir -p -m 700 /root/.ssh && ssh-keygen -q -t ed25519 -N '' -f {KEY}")
    host.exec("apt-get update -qq && apt-get install -y -qq openssh-server && mkdir -p -m 700 /root/.ssh")
    host.exec("umask 077 && cat >/root/.ssh/authorized_keys", input=fleet.master.exec(f"cat {KEY}.pub").stdout)
    roster = {"target": {"host": host.ip, "user": "root", "priv": KEY}}
    fleet.master.put({"/etc/salt/roster": yaml.safe_dump(roster)})
    ssh = ["salt-ssh", "--ignore-host-keys", "--out=json", "--static", "target"]
    for number in (1, 2, 1):
        served(number)
        said = json.loads(fleet.master.exec([*ssh, "mta_beacon.generation"]).stdout)["target"]
        assert said[1:] == [number, number]
