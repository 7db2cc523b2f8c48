"""The host under test is what its platform's name says."""

import re

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
