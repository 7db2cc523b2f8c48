"""
Fixtures of the container suites. The rig and Test Kitchen both start a host and hand it over with
``--hosts``; what differs is who converges it: kitchen-salt before the tests start, or ``test_converge.py``.
"""

import itertools
import os

import pytest
import testinfra.backend.docker
import testinfra.host

from rig import PREFIX, images, kitchen, results
from rig.container import Container, group_label, run_label, without_systemd
from rig.container import remove_all as remove_containers
from rig.fleet import Fleet, start_containers

CONVERGE = "test_converge.py"
UNDER_KITCHEN = "POSTFIX_MTA_TEST_RUN" not in os.environ


def this_instance():
    """What kitchen.yml says about this suite on this platform."""
    suite, platform = os.environ["KITCHEN_SUITE"], os.environ["KITCHEN_PLATFORM"]
    return next(
        item for item in kitchen.instances(excluded=True) if (item.suite, item.platform) == (suite, platform)
    )


def pytest_configure(config):
    """The rig runs what measures when nothing else runs."""
    config.addinivalue_line("markers", "alone: measures CPU time")


def pytest_collection_modifyitems(config, items):
    """Leave ``test_converge.py`` out for a suite that applies the formula itself (``run_salt_call: false``)."""
    if not this_instance().converges:
        left_out = [item for item in items if item.path.name == CONVERGE]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture(scope="session")
def instance():
    """See :func:`this_instance`."""
    return this_instance()


@pytest.fixture(scope="session")
def container(request):
    """The host under test, with Salt in it."""
    (address,) = request.config.getoption("--hosts").split(",")
    return Container(address.rpartition("/")[2], root="/tmp/kitchen/" if UNDER_KITCHEN else "/")


class Backend(testinfra.backend.docker.DockerBackend):
    """How testinfra runs programs in a container: as other tests do, without the engine where that is possible."""

    def __init__(self, container):
        super().__init__(container.name)
        self.container = container

    def run(self, command, *args, **_):
        command = self.get_command(command, *args)
        done = self.container.exec(command, check=False)
        return self.result(done.returncode, command.encode(), done.stdout, done.stderr)


@pytest.fixture(scope="module")
def host(container):
    """testinfra's view of the host under test."""
    backend = Backend(container)
    found = testinfra.host.Host(backend)
    backend.set_host(found)
    return found


@pytest.fixture(scope="session")
def prediction(container, instance):
    """What a dry run on the bare host announces; ``None`` where Test Kitchen has converged it already."""
    return None if UNDER_KITCHEN else container.apply(test=True, sls=instance.sls)


@pytest.fixture(scope="session")
def convergence(prediction, container, instance):
    """The results of the first apply; ``None`` under Test Kitchen."""
    return None if UNDER_KITCHEN else container.apply(sls=instance.sls)


@pytest.fixture(autouse=True)
def converged(request, instance):
    """Spare a suite's assertions on a host whose first apply failed: test_converge.py says why it did."""
    if instance.converges and request.path.name != CONVERGE:
        first_apply = request.getfixturevalue("convergence") or {}
        if results.failures(first_apply):
            pytest.fail("the first apply failed", pytrace=False)


@pytest.fixture(scope="module")
def new_container(instance):
    """
    A function that starts another host:
    ``new_container(platform=…, init="systemd", provision=True, hostname=…)``.

    platform: a platform of kitchen.yml (default: this suite's), or its name without ``-salt-LINE``: a Debian
    without Salt. init: ``systemd`` or ``none``. provision: put the formula and the suite's pillar inside.
    hostname: default the suite's. All of them are removed after the module.
    """
    label = group_label()
    numbers = itertools.count(1)

    def start(platform=None, init="systemd", provision=True, hostname=None):
        platform = platform or instance.platform
        driver = instance.driver if init == "systemd" else without_systemd(instance.driver)
        driver = {**driver, "hostname": hostname or driver["hostname"]}
        name = f"{PREFIX}-{label.rpartition('=')[2]}-{next(numbers)}"
        started = Container.start(name, driver, images.platform_image(platform), [run_label(), label])
        if provision:
            started.provision(instance.provisioner)
        return started

    yield start
    remove_containers(label)


@pytest.fixture(scope="module")
def new_fleet(container, new_container):
    """
    A function that makes the host under test a master and starts minions:
    ``new_fleet({"mail1.example.com": {"postfix_mta": {}}}, master={}, minion={})``.

    pillars: minion id, which is its host name too, to its pillar. master, minion: further settings for the
    daemons. Returns a :class:`rig.fleet.Fleet` whose minions all answer.
    """

    def start(pillars, master=None, minion=None):
        minions = start_containers(lambda name: new_container(provision=False, hostname=name), pillars)
        return Fleet.start(container, minions, pillars, master, minion)

    return start
