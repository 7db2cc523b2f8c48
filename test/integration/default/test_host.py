"""The host under test is what its platform's name says, and what a dry run said of it came true item by item."""

import re

import pytest

from rig import results
from rig.images import RELEASES


def test_the_host_runs_the_debian_of_its_platform(host, instance):
    assert host.system_info.distribution == "debian"
    assert host.system_info.codename == RELEASES[instance.platform.split("-")[1]]


def test_the_host_runs_the_salt_of_its_platform(container, instance):
    shown = container.exec(["salt-call", "--version"]).stdout
    assert re.search(r"\d+", shown).group() == instance.platform.rpartition("-")[2]


def test_the_host_has_a_fully_qualified_name(host, instance):
    assert host.check_output("hostname --fqdn") == instance.driver["hostname"]


def test_systemd_is_pid_1(host):
    assert host.file("/proc/1/comm").content_string.strip() == "systemd"


def test_the_dry_run_named_the_parameters_and_files_that_then_changed(prediction, convergence):
    if prediction is None:
        pytest.skip("Test Kitchen has converged the host already")
    assert results.other_items(prediction, convergence) == []
