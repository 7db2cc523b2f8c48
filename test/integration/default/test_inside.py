"""How the rig runs programs on the host: what they find is what the engine would have given them."""

import concurrent.futures
import subprocess
import time

import pytest

from rig.container import Container
from rig.inside import Inside

STATUS = "grep -E '^(Umask|Uid|Gid|Groups|SigBlk|SigIgn|Cap|NoNewPrivs|Seccomp)' /proc/self/status"
LOOKS = {
    "credentials and capabilities": STATUS,
    "namespaces": "for name in mnt uts ipc net pid cgroup user; do readlink /proc/self/ns/$name; done",
    "cgroups": "cat /proc/self/cgroup",
    "environment": "env | sort",
    "directory": "pwd",
    "limits": "cat /proc/self/limits",
    "session": "test $$ = $(ps -o sid= -p $$) && ps -o ppid=,tty= -p $$",
    "stdin": "cat",
    "output": "echo out; echo error >&2; exit 7",
    "signal": "kill -TERM $$",
}


class ByEngine(Container):
    """A container in which the engine runs the programs."""

    def _command(self, argv, interactive):
        return ["docker", "exec", *(["--interactive"] if interactive else []), self.name, *argv], None


@pytest.fixture(scope="module", autouse=True)
def local(container):
    """These tests are about an engine that is on this machine."""
    assert Inside(container.name).valid()


@pytest.mark.parametrize("look", LOOKS)
def test_a_program_finds_what_the_engine_gives(container, look):
    found = []
    for host in (container, ByEngine(container.name)):
        done = host.exec(LOOKS[look], input="ä\n" if look == "stdin" else None, check=False)
        found.append((done.returncode, done.stdout, done.stderr))
    assert found[0] == found[1]
    assert found[0][1] or look == "signal"


def test_testinfra_runs_programs_in_the_same_way(container, host):
    done = host.run("printf %s; exit 7", "ä 'b'")
    assert (done.rc, done.stdout, done.stderr) == (7, "ä 'b'", "")
    assert host.check_output(LOOKS["cgroups"]) == container.exec(LOOKS["cgroups"]).stdout.strip()
    assert host.backend.container is container


@pytest.mark.parametrize("option", ["--version", "--nonsense", "--local"])
def test_a_program_of_salt_finds_the_same_and_tells_the_same_when_salt_is_in_memory_already(container, option):
    looks = "; ".join(LOOKS[name] for name in ("credentials and capabilities", "cgroups", "environment", "limits"))
    called = [f"--config-dir={container.root}etc/salt", "--out=json", "cmd.run", f"{looks}; pwd; exit 7"]
    argv = ["salt-call", option, *(called if option == "--local" else [])]
    container.salt(["salt-call", "--version"])
    found = [container.exec(argv, check=False), container.salt(argv)]
    assert len({(done.returncode, done.stdout, done.stderr) for done in found}) == 1, found
    assert container._inside.ready


def test_a_capability_that_the_host_lacks_is_not_there(container):
    container.exec("touch /root/file")
    assert container.exec(["chattr", "+i", "/root/file"], check=False).returncode
    container.exec(["rm", "/root/file"])


def test_a_daemon_that_keeps_the_output_open_is_not_waited_for(container):
    began = time.monotonic()
    assert container.exec("sleep 20 & echo started").stdout == "started\n"
    assert time.monotonic() - began < 15
    container.exec(["pkill", "-x", "sleep"])


def test_a_program_that_takes_too_long_is_given_up(container):
    with pytest.raises(subprocess.TimeoutExpired):
        container.exec(["sleep", "61"], timeout=0.5)
    container.exec(["pkill", "-f", "^sleep 61$"])


def test_many_programs_run_beside_each_other(container):
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        texts = [str(number) * 50_000 for number in range(48)]
        assert list(pool.map(lambda text: container.exec(["cat"], input=text).stdout, texts)) == texts
