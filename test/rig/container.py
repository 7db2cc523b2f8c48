"""Hosts under test: containers started as kitchen.yml's driver says, and Salt inside them."""

import contextlib
import io
import json
import os
import pathlib
import shlex
import subprocess
import tarfile
import tempfile
import threading
import time

import yaml

from rig import PREFIX, REPOSITORY
from rig.engine import DockerError, docker
from rig.inside import Inside, NotLocal
from rig.ready import Ready

# What kitchen-salt copies beside the formula by itself.
EXTENSIONS = ("_modules", "_states", "_grains", "_renderers", "_returners", "_runners", "_utils")
STATE_ROOT, PILLAR_ROOT, SPM_ROOT = "srv/salt", "srv/pillar", "srv/spm"


def run_argv(driver, image, name, labels=()):
    """The ``docker run`` that a driver's settings in kitchen.yml mean, as kitchen-docker writes it."""
    argv = ["run", "--detach", *(f"--label={label}" for label in labels)]
    argv += [f"--env={key}={value}" for key, value in driver.get("env_variables", {}).items()]
    argv += [f"--name={name}", f"--hostname={driver['hostname']}"]
    argv += [f"--cap-add={capability}" for capability in driver.get("cap_add", [])]
    argv += [f"--security-opt={option}" for option in driver.get("security_opt", [])]
    for option, values in driver.get("run_options", {}).items():
        values = values if isinstance(values, list) else [values]
        argv += [f"--{option}={str(value).lower() if isinstance(value, bool) else value}" for value in values]
    return [*argv, image, *shlex.split(driver["run_command"])]


def without_systemd(driver):
    """The driver's settings for a host on which systemd is not PID 1."""
    options = {**driver.get("run_options", {}), "init": True}
    return {**driver, "run_options": options, "run_command": "sleep infinity"}


def uses_systemd(driver):
    """Whether systemd becomes PID 1."""
    return "/sbin/init" in driver["run_command"]


def archive(files, left_out=("__pycache__",)):
    """
    A tar archive, as bytes, of ``files``: path to contents or to a local path. Root owns everything.

    left_out: names of files and folders that are not copied, wherever they are.
    """

    def normal(member):
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        return None if pathlib.PurePath(member.name).name in left_out else member

    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for path, contents in files.items():
            if isinstance(contents, pathlib.Path):
                tar.add(contents, arcname=path, filter=normal)
            else:
                data = contents if isinstance(contents, bytes) else contents.encode()
                member = tarfile.TarInfo(path)
                member.size, member.mode, member.mtime = len(data), 0o644, int(time.time())
                tar.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def minion_files(provisioner, repository=REPOSITORY, root=""):
    """The files of a masterless minion with the formula and a suite's pillars, as kitchen-salt makes them."""
    states, pillars, formula = f"{root}{STATE_ROOT}", f"{root}{PILLAR_ROOT}", provisioner["formula"]
    copied = [name for name in (formula, *EXTENSIONS) if (repository / name).is_dir()]
    files = {f"{states}/{name}": repository / name for name in copied}
    for folder in provisioner.get("pillars_from_directories", []):
        files[f"{root}{folder['dest']}"] = repository / folder["source"]
    files[f"{states}/top.sls"] = yaml.safe_dump(provisioner["state_top"])
    for name, pillar in provisioner["pillars"].items():
        files[f"{pillars}/{name}"] = yaml.safe_dump(pillar)
    for name, source in provisioner.get("pillars_from_files", {}).items():
        files[f"{pillars}/{name}"] = repository / source
    minion = {
        "local": True,
        "state_top": "top.sls",
        "root_dir": f"/{root}".rstrip("/") or "/",
        "file_roots": {"base": [f"/{states}", f"/{root}{SPM_ROOT}/salt"]},
        "pillar_roots": {"base": [f"/{pillars}", f"/{root}{SPM_ROOT}/pillar"]},
    }
    files[f"{root}etc/salt/minion"] = yaml.safe_dump(minion)
    return files


def words(args, kwargs):
    """Arguments of a Salt command line; values of keyword arguments as JSON."""
    return [*map(str, args), *(f"{key}={json.dumps(value)}" for key, value in kwargs.items())]


def captured(argv, run):
    """A ``subprocess.CompletedProcess`` with what ``run(stdout, stderr)`` has written, and its exit code."""
    # Files, not pipes: a daemon that it starts may keep them open.
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        code = run(stdout, stderr)
        texts = []
        for file in (stdout, stderr):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    # By a signal: in a shell's words.
    return subprocess.CompletedProcess(argv, 128 - code if code < 0 else code, *texts)


class Container:
    """
    A running container by name or id.

    ``root`` is the directory that holds Salt's configuration, states and pillars inside: ``/`` where the rig
    has put them, ``/tmp/kitchen/`` where kitchen-salt has.
    """

    def __init__(self, name, root="/"):
        self.name = name
        self.root = root
        self._inside = None
        self._starting = threading.Lock()

    @classmethod
    def start(cls, name, driver, image, labels=()):
        """Start a container as a driver's settings say, and wait until its services are up."""
        docker(*run_argv(driver, image, name, labels))
        container = cls(name)
        if uses_systemd(driver):
            container.wait_for_systemd()
        return container

    def wait_for_systemd(self, timeout=180):
        """Wait until systemd has started everything; a failed unit that nobody needs is not an error."""
        deadline = time.monotonic() + timeout
        while True:
            # It may wait for ever, for a signal of a bus that was not there yet.
            state = self.exec(
                "timeout 10 systemctl is-system-running --wait || systemctl is-system-running", check=False
            )
            if {*state.stdout.split()} & {"running", "degraded"}:
                return
            if time.monotonic() > deadline:
                jobs = self.exec(["timeout", "10", "systemctl", "list-jobs"], check=False).stdout
                raise DockerError(f"systemd in {self.name} is not up: {state.stdout}{state.stderr}{jobs}")
            time.sleep(0.3)

    def exec(self, argv, input=None, check=True, timeout=900):
        """
        Run a command inside, as root.

        argv: list of arguments, or a string for the shell. input: str or bytes for its standard input. check:
        raise AssertionError, with the output, when it fails. timeout: seconds. Returns a
        ``subprocess.CompletedProcess`` with text.
        """
        argv = ["sh", "-c", argv] if isinstance(argv, str) else [str(arg) for arg in argv]
        data = input.encode() if isinstance(input, str) else input
        stdin = {"stdin": subprocess.DEVNULL} if data is None else {"input": data}
        command, env = self._command(argv, interactive=data is not None)

        def run(stdout, stderr):
            output = {"stdout": stdout, "stderr": stderr}
            return subprocess.run(command, **stdin, **output, env=env, timeout=timeout, check=False).returncode

        done = captured(argv, run)
        if check:
            assert done.returncode == 0, f"{shlex.join(argv)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def _command(self, argv, interactive):
        """What runs a command inside, and its environment: by itself, or by the engine where that is not here."""
        try:
            inside = self._way_inside()
            return inside.command(argv), inside.environment
        except (NotLocal, DockerError):
            return ["docker", "exec", *(["--interactive"] if interactive else []), self.name, *argv], None

    def _way_inside(self):
        """The way into the container as it runs now. NotLocal, DockerError: there is none but the engine's."""
        if not (self._inside and self._inside.valid()):
            self._inside = Inside(self.name)
        return self._inside

    def salt(self, argv, timeout=900):
        """
        Run a program of Salt's inside, the first one by itself; a ``subprocess.CompletedProcess`` with text.

        argv: list of arguments, of which the first is ``salt-call``, ``salt`` or ``salt-run``. timeout: seconds.
        """
        with self._starting:
            ready = self._salt_in_memory()
        if ready:
            with contextlib.suppress(OSError):
                return captured(argv, lambda *files: ready.run(argv, *files, timeout))
        return self.exec(argv, check=False, timeout=timeout)

    def _salt_in_memory(self):
        """What starts Salt's programs; ``None`` before the second one of a boot, and where the engine has to."""
        try:
            inside = self._way_inside()
        except (NotLocal, DockerError):
            return None
        if inside.salt_programs == 1:
            inside.ready = Ready(inside)
        inside.salt_programs += 1
        return inside.ready

    def put(self, files, **kwargs):
        """
        Put files inside: path to contents (str, bytes) or to a local file or directory (``Path``).

        Keyword arguments as for :func:`archive`.
        """
        relative = {path.lstrip("/"): contents for path, contents in files.items()}
        self.exec(["tar", "-C", "/", "--no-overwrite-dir", "-xf", "-"], input=archive(relative, **kwargs))

    def copy(self, source, target):
        """Copy a local file or directory to a path inside."""
        self.put({target: pathlib.Path(source)})

    def provision(self, provisioner):
        """Put the formula, a suite's pillars and the configuration of a masterless minion inside."""
        self.put(minion_files(provisioner), left_out=provisioner["salt_copy_filter"])

    def set_pillar(self, pillar):
        """Replace the minion's whole pillar, for this and all later runs."""
        top = {"base": {"*": ["postfix_mta"]}}
        pillar_root = f"{self.root}{PILLAR_ROOT}"
        self.put({f"{pillar_root}/top.sls": json.dumps(top), f"{pillar_root}/postfix_mta.sls": json.dumps(pillar)})

    def call(self, function, *args, **kwargs):
        """
        What a masterless ``salt-call`` of a function returns, also when it failed.

        Values of keyword arguments are written as JSON. AssertionError when Salt printed no JSON.
        """
        config = f"--config-dir={self.root}etc/salt"
        command = ["salt-call", "--local", config, "--out=json", function, *words(args, kwargs)]
        done = self.salt(command)
        try:
            return json.loads(done.stdout)["local"]
        except (ValueError, KeyError) as error:
            raise AssertionError(f"{function}: {done.returncode}\n{done.stdout}{done.stderr}") from error

    def apply(self, test=False, pillar=None, sls="postfix_mta"):
        """
        ``state.apply`` of an SLS, masterless. ``pillar``: see :meth:`set_pillar`.

        Returns the state results by their keys (``module_|-id_|-name_|-function``). AssertionError when the
        SLS did not compile.
        """
        if pillar is not None:
            self.set_pillar(pillar)
        results = self.call("state.apply", sls, test=test)
        assert isinstance(results, dict), "\n".join(results) if isinstance(results, list) else results
        return results

    @property
    def ip(self):
        """The address on the engine's default network."""
        return docker("inspect", "--format={{.NetworkSettings.IPAddress}}", self.name)

    def restart(self):
        """Restart the container, as a reboot of the host."""
        self._leave()
        docker("restart", "--time=30", self.name)
        self._booted()

    def cut_power(self):
        """Start the container anew, after no process of it had a chance to end."""
        self._leave()
        docker("kill", "--signal=KILL", self.name)
        docker("start", self.name)
        self._booted()

    def _leave(self):
        """
        End what the rig has inside.

        A host that shuts down stops all processes for a moment; nsenter(1) then stops, too, never to be continued,
        and a process that nobody waits for keeps the container from ending.
        """
        if self._inside and self._inside.ready:
            self._inside.ready.close()
        self._inside = None

    def _booted(self):
        if uses_systemd({"run_command": docker("inspect", "--format={{.Config.Cmd}}", self.name)}):
            self.wait_for_systemd()

    def remove(self):
        """Remove the container with its volumes."""
        self._leave()
        docker("rm", "--force", "--volumes", self.name)


def run_label(run=None):
    """The label of all containers of one run of the rig."""
    return f"{PREFIX}.run={run or os.environ.get('POSTFIX_MTA_TEST_RUN', os.getpid())}"


def group_label():
    """A label for some of a run's containers, to remove them before its end. They have the run's label as well."""
    return f"{PREFIX}.group={os.urandom(4).hex()}"


def hosts():
    """The ids of all hosts under test, of any run."""
    return docker("ps", "--all", "--quiet", "--filter", f"name=^/?{PREFIX}-").split()


def remove_all(label):
    """Remove every container that has a label."""
    names = docker("ps", "--all", "--quiet", "--filter", f"label={label}").split()
    if names:
        docker("rm", "--force", "--volumes", *names)
