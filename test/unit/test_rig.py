"""The rig's own logic: kitchen.yml read as Test Kitchen reads it, images, containers, results."""

import io
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import threading

import pytest
import yaml

from rig import (
    REPOSITORY,
    __main__,
    container,
    engine,
    fleet,
    gate,
    images,
    inside,
    kitchen,
    limits,
    programs,
    results,
    venvs,
)

KITCHEN = """
driver: {name: docker, hostname: mail.example.com, run_command: /sbin/init, run_options: {tmpfs: [/run]}}
provisioner:
  formula: postfix_mta
  state_top: {base: {"*": [postfix_mta]}}
  pillars: {top.sls: {base: {"*": [postfix_mta]}}}
  salt_copy_filter: [__pycache__]
platforms:
  - {name: debian-12-salt-3008, driver: {image: a}}
  - {name: debian-13-salt-3008, driver: {image: b}}
suites:
  - name: default
    provisioner: {pillars: {postfix_mta.sls: {postfix_mta: {root_recipient: alice}}}}
  - name: sysv
    includes: [debian-12-salt-3008]
    driver: {run_command: sleep infinity, run_options: {init: true}}
    provisioner: {run_salt_call: false}
"""


def key(identifier, name=None):
    return f"file_|-{identifier}_|-{name or identifier}_|-managed"


def state(result, changes=None, comment=""):
    return {"result": result, "changes": changes or {}, "comment": comment}


# kitchen.yml


def test_every_suite_meets_every_platform_but_the_excluded_ones():
    names = [instance.name for instance in kitchen.instances(KITCHEN)]
    assert names == ["default-debian-12-salt-3008", "default-debian-13-salt-3008", "sysv-debian-12-salt-3008"]


def test_a_suite_adds_to_the_common_settings():
    default, _, sysv = kitchen.instances(KITCHEN)
    assert set(default.provisioner["pillars"]) == {"top.sls", "postfix_mta.sls"}
    assert sysv.driver["run_options"] == {"tmpfs": ["/run"], "init": True}
    assert sysv.driver["image"] == "a"


def test_kitchen_salts_own_switch_says_whether_a_suite_converges():
    assert [instance.converges for instance in kitchen.instances(KITCHEN)] == [True, True, False]


@pytest.mark.parametrize("words", [["default", "debian-13-salt-3008"], ["debian-13-salt-3008", "default"]])
def test_suite_and_platform_are_chosen_in_any_order(words):
    assert [instance.name for instance in kitchen.choose(words, KITCHEN)] == ["default-debian-13-salt-3008"]


def test_a_suite_and_a_platform_together_are_chosen_even_where_they_are_excluded():
    assert [item.name for item in kitchen.choose(["sysv"], KITCHEN)] == ["sysv-debian-12-salt-3008"]
    chosen = kitchen.choose(["sysv", "debian-13-salt-3008"], KITCHEN)
    assert [item.name for item in chosen] == ["sysv-debian-13-salt-3008"]


def test_no_word_chooses_everything():
    assert kitchen.choose([], KITCHEN) == kitchen.instances(KITCHEN)


def test_an_unknown_word_is_refused_with_what_there_is():
    with pytest.raises(ValueError, match=r"defualt .*default, sysv"):
        kitchen.choose(["defualt"], KITCHEN)


def test_the_repositorys_kitchen_yml_is_plain_yaml_with_platforms_that_can_be_built():
    for instance in kitchen.instances():
        assert images.parse(instance.platform)[1]
        assert instance.driver["image"] == f"postfix-mta-test:{instance.platform}"
        assert (REPOSITORY / "test/integration" / instance.suite).is_dir()


# Images


def test_a_platforms_name_says_its_debian_and_its_salt():
    assert images.parse("debian-13-salt-3008") == ("13", "3008")
    assert images.parse("debian-12") == ("12", None)


@pytest.mark.parametrize("name", ["debian-1-salt-3008", "ubuntu-22", "debian-12-salt-", "debian-12-salt-3008x"])
def test_an_unknown_platform_is_refused(name):
    with pytest.raises(ValueError, match="no such platform"):
        images.parse(name)


def test_an_images_name_changes_with_what_builds_it(monkeypatch):
    before = images.platform_tag("debian-12-salt-3008")
    assert before != images.platform_tag("debian-12-salt-3006")
    monkeypatch.setattr(images, "BASE_SCRIPT", images.BASE_SCRIPT + "true\n")
    assert before != images.platform_tag("debian-12-salt-3008")


@pytest.mark.parametrize(
    "text",
    [
        "deb [arch=amd64] http://mirror.example.com/debian bookworm main\n"
        "deb http://mirror.example.com/debian-security/ bookworm-security main\n",
        "Types: deb\n# http://old.example.com/debian\nURIs: http://mirror.example.com/debian\n\n"
        "Types: deb\nURIs: http://mirror.example.com/debian-security\nSuites: bookworm-security\n",
    ],
)
def test_images_come_from_the_mirrors_of_this_machine(text):
    expected = ("http://mirror.example.com/debian", "http://mirror.example.com/debian-security")
    assert images.mirrors(["deb https://packages.example.com/tool stable main\n", text]) == expected


def test_images_come_from_debians_mirror_where_the_machine_names_none():
    lines = images.sources("trixie", ["deb http://mirror.example.com/ubuntu jammy main\n"])
    assert [line.split()[2:4] for line in lines] == [
        ["http://deb.debian.org/debian", "trixie"],
        ["http://deb.debian.org/debian", "trixie-updates"],
        ["http://deb.debian.org/debian-security", "trixie-security"],
    ]


def test_the_archive_of_the_images_has_every_package_that_the_formula_may_install():
    text = (REPOSITORY / "postfix_mta" / "os_family.yaml").read_text(encoding="utf-8")
    family = yaml.safe_load(text)["Debian"]["family"]
    lists = [family[key] for key in family if key.endswith("packages") or key == "libraries"]
    named = {name for names in lists for name in (names.values() if isinstance(names, dict) else names)}
    assert "rspamd" in named
    assert named <= set(images.PACKAGES.split())


def test_the_bundle_of_the_environment_goes_before_the_systems(tmp_path):
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(b"CA")
    assert images.ca_bundle({"PIP_CERT": str(tmp_path / "missing"), "SSL_CERT_FILE": str(bundle)}) == b"CA"


# Containers


def test_a_drivers_settings_become_docker_options():
    driver = {
        "hostname": "mail.example.com",
        "env_variables": {"container": "docker"},
        "cap_add": ["SYS_ADMIN"],
        "security_opt": ["seccomp=unconfined"],
        "run_options": {"cgroupns": "private", "tmpfs": ["/run", "/run/lock"], "init": True},
        "run_command": "sh -ec 'mount x; exec /sbin/init'",
    }
    assert container.run_argv(driver, "image", "name", ["a=b"]) == [
        *("run", "--detach", "--label=a=b", "--env=container=docker", "--name=name"),
        *("--hostname=mail.example.com", "--cap-add=SYS_ADMIN", "--security-opt=seccomp=unconfined"),
        *("--cgroupns=private", "--tmpfs=/run", "--tmpfs=/run/lock", "--init=true"),
        *("image", "sh", "-ec", "mount x; exec /sbin/init"),
    ]


def test_a_container_of_a_group_is_one_of_its_run_too():
    """Docker keeps one label of a key: the run's must not get lost, by which the rig cleans up."""
    labels = [container.run_label("r"), container.group_label(), container.group_label()]
    keys = [label.partition("=")[0] for label in labels]
    assert keys[0] != keys[1] == keys[2]
    assert labels[1] != labels[2]


def test_a_host_without_systemd_keeps_the_other_settings():
    driver = kitchen.instances(KITCHEN)[0].driver
    assert container.uses_systemd(driver)
    changed = container.without_systemd(driver)
    assert not container.uses_systemd(changed)
    assert changed["run_options"] == {"tmpfs": ["/run"], "init": True}


MOUNTS = """
23 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:2 - cgroup cgroup rw,cpu,cpuacct
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/lib/agent,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
42 31 0:38 /docker/other /mnt rw,relatime - cgroup2 cgroup2 rw
"""


def test_a_program_enters_the_containers_cgroup_of_each_hierarchy():
    hierarchies = inside.mounts(MOUNTS.strip())
    text = "3:cpu,cpuacct:/docker/c0ffee\n2:name=systemd:/docker/c0ffee/x\n0::/a/docker-c0ffee.scope/init.scope\n"
    root = pathlib.Path("/sys/fs/cgroup")
    assert inside.cgroups("c0ffee", text, hierarchies) == [
        (root / "cpu,cpuacct/docker/c0ffee", root / "cpu,cpuacct/docker/c0ffee"),
        (root / "systemd/docker/c0ffee", root / "systemd/docker/c0ffee/x"),
        (root / "unified/a/docker-c0ffee.scope", root / "unified/a/docker-c0ffee.scope/init.scope"),
    ]
    for other in ("0::/\n", "0::/user.slice\n", "1:freezer:/docker/c0ffee\n"):
        with pytest.raises(inside.NotLocal):
            inside.cgroups("c0ffee", other, hierarchies)


def fake_docker(monkeypatch, pid):
    """An engine whose containers have the process ``pid``; the list of what it was asked."""
    asked = []

    def docker(*argv, **_):
        asked.append(argv)
        return f"c0ffee {pid}" if argv[0] == "inspect" else "1024\nCapBnd:\t00000000000000e1\nPATH=/bin\0A=b=c\0"

    monkeypatch.setattr(inside, "docker", docker)
    return asked


def test_the_engine_runs_programs_in_containers_of_another_machine(monkeypatch):
    """There the process id is another process, or none."""
    for pid in (os.getpid(), 0):
        fake_docker(monkeypatch, pid)
        command, env = container.Container("far")._command(["id"], interactive=False)
        assert (command, env) == (["docker", "exec", "far", "id"], None)
    command, _ = container.Container("far")._command(["cat"], interactive=True)
    assert command == ["docker", "exec", "--interactive", "far", "cat"]


def test_the_engine_is_asked_once_for_each_boot(monkeypatch):
    monkeypatch.setattr(inside, "cgroups", lambda *_: [(pathlib.Path("/own"), pathlib.Path("/init"))])
    monkeypatch.setattr(inside.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0))
    monkeypatch.setattr(inside.shutil, "which", lambda _: "/usr/bin/nsenter")
    boots = ["first"]
    monkeypatch.setattr(inside, "born", lambda _: boots[-1])
    asked = fake_docker(monkeypatch, os.getpid())
    host = container.Container("near")
    for _ in range(3):
        command, env = host._command(["id", "-u"], interactive=False)
    assert len(asked) == 2
    assert env == {"PATH": "/bin", "A": "b=c"}
    assert command[4:10] == ["1024", str(os.getpid()), "/usr/bin/nsenter", "1", "/own", "/init"]
    assert command[-3:] == ["--bounding-set=-all,+cap_0,+cap_5,+cap_6,+cap_7", "id", "-u"]
    boots.append("second")
    host._command(["id"], interactive=False)
    assert len(asked) == 4


def test_a_minion_gets_what_kitchen_salt_copies(tmp_path):
    for name in ("postfix_mta", "_states", "_modules/__pycache__", "docs"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "postfix_mta/init.sls").write_text("")
    (tmp_path / "_modules/postconf.py").write_text("")
    (tmp_path / "_modules/__pycache__/postconf.pyc").write_text("")
    (tmp_path / "pillar.example").write_text("postfix_mta: {}\n")
    provisioner = {
        **kitchen.instances(KITCHEN)[0].provisioner,
        "pillars_from_files": {"x.sls": "pillar.example"},
    }
    data = container.archive(container.minion_files(provisioner, tmp_path))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        files = {member.name for member in tar if member.isfile()}
        assert all((member.uid, member.gid) == (0, 0) for member in tar)
        assert (
            yaml.safe_load(tar.extractfile("srv/pillar/postfix_mta.sls"))["postfix_mta"]["root_recipient"]
            == "alice"
        )
    assert files == {
        "etc/salt/minion",
        "srv/pillar/postfix_mta.sls",
        "srv/pillar/top.sls",
        "srv/pillar/x.sls",
        "srv/salt/_modules/postconf.py",
        "srv/salt/postfix_mta/init.sls",
        "srv/salt/top.sls",
    }


# Programs


def test_programs_are_linted_by_what_their_first_line_says(tmp_path):
    for path, text in {
        "bin/shell": "#!/bin/sh\n",
        "bin/both": f'#!/bin/sh\n{programs.BOTH}\nexec python3 "$0"\n"""\nimport os\n',
        "bin/python": "#!/usr/bin/env python3\n",
        "bin/notes": "a shell reads this: sh\n",
        "test/module.py": "#!/usr/bin/env python3\n",
        "test/deep/setup.sh": "set -e\n",
        ".ci/run": "#!/usr/bin/env bash\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    python, shell = programs.scripts(tmp_path)
    assert python == ["bin/both", "bin/python"]
    assert shell == [".ci/run", "bin/both", "bin/shell", "test/deep/setup.sh"]
    part = programs.shell_part((tmp_path / "bin/both").read_text())
    assert part == f'#!/bin/sh\n{programs.BOTH}\nexec python3 "$0"\n'
    assert programs.shell_part("#!/bin/sh\ntrue\n") == "#!/bin/sh\ntrue\n"


def test_all_programs_of_the_repository_are_linted():
    python, shell = programs.scripts()
    files = (path for path in (REPOSITORY / "bin").iterdir() if path.is_file())
    assert {path.relative_to(REPOSITORY).as_posix() for path in files} <= {
        *python,
        *shell,
    }


def test_no_test_reads_what_lies_beside_the_repository():
    found = []
    for path in (REPOSITORY / "test").rglob("*.py"):
        text, depth = path.read_text(), len(path.relative_to(REPOSITORY).parts)
        above = [match for match in re.finditer(r"parents\[(\d+)\]", text) if int(match[1]) >= depth]
        found += [f"{path}: {match[0]}" for match in [*above, *re.finditer(r"REPOSITORY\s*\.\s*parent", text)]]
    assert not found


# Results


def test_a_dry_run_that_told_the_truth_leaves_no_difference():
    prediction = {key("a"): state(None), key("b"): state(True), key("c"): state(None, {"c": "new"})}
    reality = {
        key("a"): state(True, {"a": "new"}),
        key("b"): state(True),
        key("c"): state(True, {"c": "new"}),
    }
    assert results.difference(prediction, reality) == []


def test_a_state_may_wait_for_what_an_earlier_one_makes_possible():
    prediction = {key("a"): state(None), key("b"): state(None)}
    assert results.difference(prediction, {key("a"): state(True), key("b"): state(True, {"b": "new"})}) == []


def test_a_difference_names_the_state_and_shows_both_runs():
    prediction = {key("a"): state(None, {"a": "new"}, "would"), key("b"): state(True, comment="fine")}
    reality = {key("a"): state(True), key("b", "/etc/b"): state(True, {"b": "new"})}
    first, second = results.difference(prediction, reality)
    assert first.startswith("file.managed: a announced, but did not change\n  dry run: None would")
    assert second.startswith("file.managed: b (/etc/b) changed, but was not announced")


def test_the_items_that_a_dry_run_names_are_those_that_change_or_it_says_that_it_cannot_know():
    reality = {key("a"): state(True, {"x": "new", "y": "new"})}
    prediction = {key("a"): state(None, {"x": "new", "z": "new"}, "would")}
    assert results.other_items(prediction, reality) == [
        "file.managed: a announced other items than it changed: y, z"
    ]
    prediction = {key("a"): state(None, {"x": "new"}, "The package's own is not known before it is there")}
    assert results.other_items(prediction, reality) == []


def test_failures_are_shown_with_their_comments():
    assert results.failures({key("a"): state(False, comment="no such user"), key("b"): state(None)}) == [
        "file.managed: a: no such user"
    ]


@pytest.mark.parametrize(
    ("last", "code", "expected"),
    [
        ("===== 3 passed in 0.10s =====", 0, (3, 0, 0)),
        ("1 failed, 2 passed, 4 skipped, 1 warning, 2 errors in 1.20s", 1, (2, 3, 4)),
        ("1 passed, 1 xfailed, 2 xpassed in 1.20s", 0, (3, 0, 1)),
        ("no tests ran in 0.01s", 5, (0, 1, 0)),
        ("ERROR: usage: pytest [options]", 4, (0, 1, 0)),
    ],
)
def test_pytests_last_line_is_counted(last, code, expected):
    assert tuple(results.count(f"test_x.py ...\n{last}\n", code).values()) == expected


@pytest.mark.parametrize(
    ("before", "needed", "within", "after"),
    [("128\n", False, "1024", "128\n"), ("128\n", True, "1024", "1024"), ("8192\n", False, "8192\n", "8192\n")],
)
def test_a_limit_is_raised_for_as_long_as_somebody_needs_it(tmp_path, before, needed, within, after):
    path = tmp_path / "limit"
    path.write_text(before)
    with limits.raised(path, 1024, still_needed=lambda: needed):
        assert path.read_text() == within
    assert path.read_text() == after


def test_a_limit_that_is_not_there_stays_as_it_is(tmp_path):
    with limits.raised(tmp_path / "none", 1024):
        assert not (tmp_path / "none").exists()


def test_a_choice_of_tests_of_which_a_run_has_none_is_no_failure():
    nothing = "no tests ran in 0.01s\n"
    assert results.count(nothing, 5, chosen=True) == {"passed": 0, "failed": 0, "skipped": 0}
    assert results.count("ERROR: file or directory not found: x\n", 4, chosen=True)["failed"] == 1


@pytest.mark.parametrize("style", ["long", "short"])
def test_what_failed_is_said_in_short(tmp_path, style):
    # Longer than a line of pytest's has room for.
    long = "test_bad" + "_and_so_on" * 9
    (tmp_path / "test_some.py").write_text(
        "import pytest\n"
        "@pytest.fixture\n"
        "def host():\n    raise OSError('no host')\n"
        "def test_good():\n    print('E   not an error')\n"
        f"def {long}():\n    assert 'a reply' == 'another'\n"
        "def test_at_host(host):\n    pass\n",
        encoding="utf-8",
    )
    pytest_of_it = [sys.executable, "-m", "pytest", f"--tb={style}", "-p", "no:cacheprovider", "test_some.py"]
    ran = subprocess.run(pytest_of_it, cwd=tmp_path, capture_output=True, text=True)
    at_host, bad = sorted(results.in_short(ran.stdout, "suite"), key=lambda text: "test_bad" in text)
    assert bad.startswith(f"suite: {long}\n")
    assert "test_some.py:8: " in bad
    assert "assert 'a reply' == 'another'" in bad
    assert at_host.startswith("suite: ERROR at setup of test_at_host\n")
    assert "no host" in at_host


def test_a_long_failure_is_shortened():
    text = results.shortened("\n".join(f"{number}" * 1000 for number in range(100)))
    assert [line[0] for line in text.splitlines()][::24] == ["0", "9"]
    assert max(map(len, text.splitlines())) == results.WIDTH


def test_the_closing_line_adds_everything_up():
    assert results.closing_line([{"passed": 2, "failed": 0, "skipped": 0}] * 2) == "4 passed, 0 failed"
    assert results.closing_line([{"passed": 2, "failed": 1, "skipped": 3}]) == "2 passed, 1 failed, 3 skipped"


@pytest.mark.parametrize(
    ("counts", "code"), [([(1, 0, 0)], 0), ([(1, 0, 0), (1, 1, 0)], 1), ([], 1), ([(0, 0, 2)], 1)]
)
def test_the_exit_code_is_0_only_when_something_ran_and_nothing_failed(counts, code):
    assert __main__.finish([dict(zip(("passed", "failed", "skipped"), item)) for item in counts]) == code


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ([{"passed": 0, "failed": 0, "skipped": 0}] * 2, "bin/test: no test was selected"),
        ([{"passed": 0, "failed": 0, "skipped": 2}], "bin/test: no test ran"),
    ],
)
def test_a_run_without_a_test_says_so(counts, said, capsys):
    assert __main__.finish(counts) == 1
    assert capsys.readouterr().out.splitlines()[1] == said


def test_a_run_ends_with_where_the_time_went(capsys, monkeypatch):
    times = [("lint", "", 4.0), ("unit tests", "Salt 3008", 80.4), ("default", "debian-12-salt-3008", 100.0)]
    monkeypatch.setattr(__main__, "times", times)
    __main__.finish([{"passed": 1, "failed": 0, "skipped": 0}])
    assert capsys.readouterr().out.splitlines()[2:] == [
        "   100  default     debian-12-salt-3008",
        "    80  unit tests  Salt 3008",
        "     4  lint",
        "",
        "1 passed, 0 failed",
    ]


@pytest.mark.parametrize("words", [["a", "--seed", "7", "-x"], ["a", "--seed=7", "-x"]])
def test_an_option_of_the_rig_stands_anywhere(words):
    assert __main__.take(words, "--seed") == ("7", ["a", "-x"])
    assert __main__.take(["a"], "--seed") == (None, ["a"])
    with pytest.raises(ValueError, match="--seed needs a value"):
        __main__.take(["a", "--seed"], "--seed")


@pytest.fixture
def environment(monkeypatch):
    """The rig's environment, without a seed and put back afterwards."""
    for name in ("POSTFIX_MTA_SEED", "PYTEST_ADDOPTS"):
        monkeypatch.setenv(name, "")
    return os.environ


def test_random_draws_have_one_seed_and_another_on_request(environment, capsys):
    __main__.seed_draws(__main__.SEED)
    assert environment["POSTFIX_MTA_SEED"] == "1"
    assert environment["PYTEST_ADDOPTS"] == "--hypothesis-seed=1"
    assert capsys.readouterr().out == ""
    environment["PYTEST_ADDOPTS"] = "-x"
    __main__.seed_draws("77")
    assert environment["PYTEST_ADDOPTS"] == "-x --hypothesis-seed=77"
    assert capsys.readouterr().out == "Random draws with --seed 77\n"


def test_a_seed_that_nobody_knows_is_said(environment, capsys):
    __main__.seed_draws("random")
    assert capsys.readouterr().out == f"Random draws with --seed {environment['POSTFIX_MTA_SEED']}\n"
    with pytest.raises(ValueError, match="--seed: not a number: x"):
        __main__.seed_draws("x")


def test_the_same_seed_draws_the_same(tmp_path):
    """A property that fails for some values: which ones, two runs agree about, where ``CI`` is set as well."""
    shutil.copy(REPOSITORY / "test" / "conftest.py", tmp_path)
    (tmp_path / "test_draw.py").write_text(
        "from hypothesis import given, strategies as st\n"
        "drawn = []\n"
        "@given(st.integers())\n"
        "def test_draw(number):\n"
        "    drawn.append(number)\n"
        "def test_show():\n"
        "    print('DRAWN', drawn)\n"
    )

    def draws(*seed):
        argv = [sys.executable, "-m", "rig", "pytest", *seed, "-q", "-s", "-p", "no:cacheprovider", str(tmp_path)]
        env = {**os.environ, "PYTHONPATH": str(REPOSITORY / "test"), "PYTEST_ADDOPTS": "", "CI": "true"}
        done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
        return re.search("DRAWN .*", done.stdout)[0]

    assert draws() == draws("--seed", "1")
    assert draws("--seed", "2") != draws()


def test_options_go_to_pytest():
    assert __main__.split(["default", "-k", "ehlo"]) == (["default"], ["-k", "ehlo"])


# How many suites run beside each other


class Machine:
    """A machine whose processors are busy to the share that a test says; its clock is what somebody slept."""

    def __init__(self, busy):
        self.busy, self.seconds, self.idle = busy, 0, 0

    def sleep(self, seconds):
        self.seconds += seconds
        self.idle += seconds * 100 * (1 - self.busy)
        if self.seconds > 100:
            raise TimeoutError

    def gate(self):
        return gate.Gate(2, lambda: (self.idle, self.seconds * 100), lambda: self.seconds, self.sleep)


def test_a_few_suites_start_on_a_busy_machine_and_no_further_one():
    machine = Machine(busy=0.9)
    door = machine.gate()
    with door.entered(), door.entered():
        assert machine.seconds == 0
        with pytest.raises(TimeoutError), door.entered():
            pass


def test_further_suites_start_one_by_one_while_the_processors_have_time():
    machine = Machine(busy=0.5)
    door = machine.gate()
    with door.entered(), door.entered(), door.entered():
        assert machine.seconds == door.SETTLE
        with door.entered():
            assert machine.seconds == 2 * door.SETTLE


def test_a_suite_starts_when_another_one_has_ended():
    machine = Machine(busy=0.9)
    door = machine.gate()
    with door.entered():
        with door.entered():
            pass
        with door.entered():
            assert machine.seconds == 0


def test_what_runs_with_a_low_priority_leaves_time(tmp_path):
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 20 30 400 5 1 2 3 9 9\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
    assert gate.cpu_times(stat) == (425, 561)
    idle, total = gate.cpu_times()
    assert 0 < idle <= total


@pytest.fixture
def run_of_everything(monkeypatch):
    """A full run whose parts only say that they begin and end. Returns the list of what was said."""
    said = []

    def part(name):
        said.append(f"{name} begins")
        said.append(f"{name} ends")
        return [{"passed": 1, "failed": 0, "skipped": 0}]

    def guarded(instance, _args, tests=None):
        return part(" ".join(filter(None, [instance.suite, tests])))

    class Open(gate.Gate):
        def _wait(self):
            pass

    found = kitchen.instances(KITCHEN)
    monkeypatch.setattr(kitchen, "instances", lambda *_: found)
    monkeypatch.setattr(gate, "Gate", Open)
    monkeypatch.setattr(images, "is_built", lambda _platform: True)
    monkeypatch.setattr(__main__, "ALONE", ("default",))
    monkeypatch.setattr(__main__, "MANY", 1)
    monkeypatch.setattr(__main__, "build", lambda _platforms: part("build"))
    monkeypatch.setattr(__main__, "lint", lambda: part("lint"))
    monkeypatch.setattr(__main__, "LONG", (__main__.UNIT_TESTS, "default"))
    monkeypatch.setattr(__main__, "unit_runs", lambda niceness: [lambda: part(f"unit {niceness}")])
    monkeypatch.setattr(__main__, "guarded", guarded)
    return said


def test_unit_tests_begin_in_their_turn_and_nothing_runs_beside_what_measures(run_of_everything):
    assert len(__main__.everything()) == 7
    assert run_of_everything[-4:] == ["default alone begins", "default alone ends"] * 2
    begun = [said.removesuffix(" begins") for said in run_of_everything[:-4] if said.endswith(" begins")]
    suites = [name for name in begun if name not in ("lint", "build")]
    assert suites == [f"unit {__main__.NICENESS}", "default not alone", "default not alone", "sysv"]


def test_unit_tests_run_while_images_are_built(run_of_everything, monkeypatch):
    unit_begins = threading.Event()

    def unit():
        unit_begins.set()
        return [{"passed": 9, "failed": 0, "skipped": 0}]

    monkeypatch.setattr(images, "is_built", lambda platform: platform != "debian-13-salt-3008")
    monkeypatch.setattr(__main__, "unit_runs", lambda niceness: [unit] if niceness == __main__.NICENESS else [])
    monkeypatch.setattr(__main__, "build", lambda _platforms: unit_begins.wait(20))
    counts = __main__.everything()
    assert len(counts) == 7
    assert [item["passed"] for item in counts].count(9) == 1


def test_what_does_not_depend_on_salt_runs_with_one_line_unless_it_is_chosen(monkeypatch):
    ran = []

    def run(argv, _env, live):
        ran.append((argv[2], argv[5:]))
        return "== 1 passed in 1s ==", 0

    monkeypatch.setattr(__main__, "run", run)
    monkeypatch.setattr(venvs, "lines", lambda: ["3008", "3006"])
    monkeypatch.setattr(venvs, "python", lambda line: line)
    __main__.unit([])
    most, one = ["test/unit", "-m", "not once"], ["test/unit", "-m", "once"]
    assert sorted(ran) == [("3006", most), ("3008", most), ("3008", one)]
    ran.clear()
    __main__.unit(["test/unit/test_rig.py"], ["3006"])
    assert ran == [("3006", ["test/unit/test_rig.py"])]


def test_an_interrupted_run_ends_what_it_has_started(run_of_everything, monkeypatch):
    begun, stopped = threading.Event(), threading.Event()

    def lint():
        begun.set()
        assert stopped.wait(20)

    def interrupted(_platforms):
        assert begun.wait(20)
        raise KeyboardInterrupt

    monkeypatch.setattr(__main__, "lint", lint)
    monkeypatch.setattr(__main__, "build", interrupted)
    monkeypatch.setattr(__main__, "stop_processes", stopped.set)
    with pytest.raises(KeyboardInterrupt):
        __main__.everything()


# The engine, and environments


def test_an_engine_of_our_own_ends_with_the_context(monkeypatch, tmp_path):
    (tmp_path / "cache").mkdir()
    monkeypatch.setattr(venvs, "cache", lambda: tmp_path / "cache")
    monkeypatch.setattr(engine, "answers", lambda: (tmp_path / "up").exists())
    started = tmp_path / "up"
    with engine.running(("sh", "-c", f"echo $$ >{started}; exec sleep 60")):
        pid = int(started.read_text())
        assert subprocess.run(["kill", "-0", str(pid)], check=False).returncode == 0
    assert subprocess.run(["kill", "-0", str(pid)], check=False, capture_output=True).returncode == 1


def test_an_engine_that_does_not_start_is_reported_with_its_log(monkeypatch, tmp_path):
    monkeypatch.setattr(venvs, "cache", lambda: tmp_path)
    monkeypatch.setattr(engine, "answers", lambda: False)
    with (
        pytest.raises(engine.DockerError, match="no permission"),
        engine.running(("sh", "-c", "echo no permission")),
    ):
        pass


def test_a_running_engine_is_left_alone(monkeypatch):
    monkeypatch.setattr(engine, "answers", lambda: True)
    with engine.running(("false",)):
        pass


def test_the_requirements_of_an_environment_are_those_of_pyproject():
    shown = subprocess.run(
        [sys.executable, "-c", venvs.REQUIREMENTS, venvs.PYPROJECT],
        check=True,
        capture_output=True,
        text=True,
    )
    names = {line.partition(">")[0] for line in shown.stdout.splitlines()}
    assert {
        "salt",
        "pyopenssl",
        "pytest",
        "pytest-testinfra",
        "pyyaml",
        "ruff",
        "yamllint",
        "salt-lint",
    } <= names


# Fleets


def test_a_master_serves_everything_that_minions_sync():
    synced = {path.name for path in REPOSITORY.glob("_*") if path.is_dir()}
    assert synced <= set(fleet.SERVED)


def test_a_minions_pillar_has_a_name_without_directories():
    assert fleet._pillar_name("mail1.example.com") == "minion-mail1-example-com"


# Documents for developers


DOCUMENTS = ("CONTRIBUTING.md", "docs/testing.md")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_document_names_files_and_commands_that_there_are(document):
    text = (REPOSITORY / document).read_text()
    paths = set(re.findall(r"\b(?:test|docs|bin|postfix_mta)/[\w./-]+[\w/](?=[`\s:)\]])", text))
    assert paths
    assert not [path for path in paths if not (REPOSITORY / path).exists() and "X" not in path]
    commands = set(re.findall(r"bin/test ([a-z]+)", text))
    assert commands <= set(re.findall(r"bin/test \[?([a-z]+)", __main__.__doc__))
    named = set(re.findall(r"::(test_\w+)", text))
    tests = "\n".join(path.read_text() for path in (REPOSITORY / "test/unit").glob("test_*.py"))
    assert not [name for name in named if f"def {name}(" not in tests]


def test_the_document_has_every_suite_in_order():
    text = (REPOSITORY / "docs/testing.md").read_text()
    suites = list(dict.fromkeys(instance.suite for instance in kitchen.instances(excluded=True)))
    assert re.findall(r"(?m)^\| `([\w-]+)` \|", text) == suites


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_links_of_a_document_lead_somewhere(document):
    path = REPOSITORY / document
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
        assert (path.parent / target).exists(), target
