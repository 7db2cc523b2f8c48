"""
The rig reads kitchen.yml as Test Kitchen does.

``kitchen/recorded.json`` is what Test Kitchen 3.9.1 with kitchen-docker 3.2.0 and kitchen-salt 0.7.2 made of the
small repository ``kitchen/``: ``kitchen/record.rb`` wrote it, and has to write it anew after a change there.
"""

import io
import json
import pathlib
import shlex
import tarfile

import pytest
import yaml

from rig import REPOSITORY, container, images, kitchen

FOLDER = pathlib.Path(__file__).parent / "kitchen"
SAMPLE = (FOLDER / "kitchen.yml").read_text()
RECORDED = json.loads((FOLDER / "recorded.json").read_text())
# Options of `docker run` with a value in the next word.
WITH_VALUE = {"-e": "--env=", "-h": "--hostname=", "--name": "--name="}


@pytest.fixture(params=RECORDED)
def name(request):
    return request.param


@pytest.fixture
def recorded(name):
    return RECORDED[name]


@pytest.fixture
def instance(name):
    """The instance of the same name as the rig reads it."""
    return next(item for item in kitchen.instances(SAMPLE) if item.name == name)


def long_options(command):
    """The words of kitchen-docker's ``docker run``, with long options and without the port of its SSH server."""
    words = iter(shlex.split(command))
    found = [next(words)]
    for word in words:
        if word == "IMAGE":
            return [*found, word, *words]
        if word == "-d":
            found.append("--detach")
        elif word == "-p":
            assert next(words) == "22"
        else:
            found.append(WITH_VALUE[word] + next(words) if word in WITH_VALUE else word)
    return found


def test_there_are_the_same_instances():
    found = [(item.name, item.suite, item.platform) for item in kitchen.instances(SAMPLE)]
    assert found == [(name, item["suite"], item["platform"]) for name, item in RECORDED.items()]


def test_a_host_is_started_by_the_same_command(instance, recorded):
    assert instance.driver["image"] == recorded["image"]
    assert container.run_argv(instance.driver, "IMAGE", "NAME") == long_options(recorded["docker"])


def test_a_host_gets_the_same_files(instance, recorded):
    files = container.minion_files(instance.provisioner, FOLDER, recorded["root"].lstrip("/") + "/")
    data = container.archive(files, instance.provisioner["salt_copy_filter"])
    found = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            if member.isfile():
                path = member.name[len(recorded["root"]) :]
                text = tar.extractfile(member).read().decode()
                found[path] = text if isinstance(recorded["files"].get(path), str) else yaml.safe_load(text)
    assert found == recorded["files"]


def test_a_host_of_the_rig_has_the_same_files_below_its_root(instance):
    below = container.minion_files(instance.provisioner, FOLDER, "tmp/kitchen/")
    files = container.minion_files(instance.provisioner, FOLDER)
    assert [f"tmp/kitchen/{path}" for path in files] == list(below)
    minion = yaml.safe_load(files["etc/salt/minion"])
    assert minion["root_dir"] == "/"
    assert minion["file_roots"] == {"base": ["/srv/salt", "/srv/spm/salt"]}


def test_the_same_hosts_are_converged_before_their_tests(instance, recorded):
    assert instance.converges == recorded["converges"]


def test_the_same_tests_run_with_the_same_variables(instance, recorded):
    environment = instance.environment("NAME")
    assert environment.items() <= recorded["environment"].items()
    assert instance.verifier["command"] == recorded["verify"]
    tests = ["test/integration/test_converge.py", f"test/integration/{instance.suite}"]
    assert instance.pytest_args("NAME") == ["--hosts=docker://NAME", *tests]


def test_the_image_is_built_before_a_host_is_created(recorded):
    assert recorded["hooks"] == ['bin/test image "$KITCHEN_PLATFORM_NAME"']
    assert recorded["image"].startswith(images.PREFIX)


def test_what_the_driver_installs_is_in_the_archive_of_the_image(recorded):
    assert recorded["packages"] == ["sudo", "openssh-server", "curl", "lsb-release"]
    assert set(recorded["packages"]) <= set(images.PACKAGES.split())


def test_the_repository_uses_no_setting_that_is_not_compared_here():
    used = yaml.safe_load((REPOSITORY / "kitchen.yml").read_text())
    compared = yaml.safe_load(SAMPLE)
    for kind in kitchen.KNOWN:
        keys = {key for layer in layers(used) for key in layer.get(kind, {})}
        assert keys <= {key for layer in layers(compared) for key in layer.get(kind, {})}


def test_the_repository_has_the_samples_hook_and_verifier():
    used, compared = yaml.safe_load((REPOSITORY / "kitchen.yml").read_text()), yaml.safe_load(SAMPLE)
    assert (used["lifecycle"], used["verifier"]) == (compared["lifecycle"], compared["verifier"])


def layers(data):
    """Every part of a kitchen.yml that has settings."""
    return [data, *data["platforms"], *data["suites"]]


@pytest.mark.parametrize(
    ("before", "after", "unknown"),
    [
        ("driver:\n", "driver:\n  privileged: true\n", "driver.privileged"),
        ("provisioner:\n", "provisioner:\n  salt_version: 3008.0\n", "provisioner.salt_version"),
        ("platforms:\n", "transport: {name: docker}\nplatforms:\n", "transport"),
        ("  - name: left_out\n", "  - name: left_out\n    driver_config: {}\n", "driver_config"),
    ],
)
def test_a_setting_that_only_test_kitchen_would_follow_is_refused(before, after, unknown):
    assert SAMPLE.count(before) >= 1
    with pytest.raises(ValueError, match=f"does not know {unknown}$"):
        kitchen.instances(SAMPLE.replace(before, after, 1))


def test_a_verifier_that_does_not_run_pytest_is_refused():
    instance = kitchen.instances(SAMPLE.replace("bin/test pytest", "make test"))[0]
    with pytest.raises(ValueError, match="does not begin with bin/test pytest"):
        instance.pytest_args("NAME")
