"""
Programs started inside a container without the engine: ``docker exec`` takes 55 ms of CPU time for each, this 5.

A program gets what ``docker exec`` would give it: the container's namespaces, cgroups, capabilities, environment,
groups and limit of open files, and a session of its own. One ``docker exec`` for each boot of a host says what
they are.
"""

import os
import pathlib
import re
import shutil
import subprocess

from rig.engine import docker

# Moves itself into a cgroup of each hierarchy, and goes on inside. Arguments: the limit of open files, the process
# whose namespaces to enter, nsenter, the number of hierarchies, two cgroups of each, and the command. The second
# cgroup is PID 1's, which the engine takes too where the first may have no process: it has delegated controllers.
ENTER = """
limit=$1 target=$2 nsenter=$3 number=$4
shift 4
while [ "$number" -gt 0 ]; do
    { echo 0 >"$1/cgroup.procs" || echo 0 >"$2/cgroup.procs"; } 2>/dev/null || exit 125
    shift 2
    number=$((number - 1))
done
ulimit -n "$limit" 2>/dev/null
unset PWD OLDPWD
exec "$nsenter" --target="$target" --mount --uts --ipc --net --pid --cgroup -- "$@"
"""
# What a program sees that the engine has started.
LOOK = "ulimit -n; grep ^CapBnd: /proc/self/status; cat /proc/$$/environ"

# Of a mounted hierarchy what is no controller.
OPTIONS = {"rw", "ro", "none", "xattr", "clone_children", "noprefix", "release_agent"}


class NotLocal(Exception):
    """The container's processes are out of reach: another machine has them, or another user."""


def born(pid):
    """When a process was started, in ticks; ``None`` where there is none."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()[19]


def mounts(text):
    """Where a mountinfo has cgroup hierarchies: the controllers of each (none: version 2) to its path."""
    found = {}
    for line in text.splitlines():
        first, _, second = line.partition(" - ")
        (root, path), (kind, _, options) = first.split()[3:5], second.split(" ", 2)
        if root == "/" and kind in ("cgroup", "cgroup2"):
            names = options.split(",") if kind == "cgroup" else []
            controllers = frozenset(name for name in names if name.partition("=")[0] not in OPTIONS)
            found[controllers] = pathlib.Path(path)
    return found


def cgroups(identifier, memberships, hierarchies):
    """
    The container's cgroup and that of its PID 1, which may be below it, in each hierarchy.

    identifier: the container's. memberships: text of /proc/PID/cgroup. hierarchies: see :func:`mounts`.
    NotLocal when the process is in no cgroup of the container.
    """
    pairs = []
    for line in memberships.splitlines():
        _, names, path = line.split(":", 2)
        # As the engine's cgroup driver writes it: ID, or docker-ID.scope. What follows is PID 1's own.
        own = re.match(rf"/(.*?{identifier}[^/]*)", path)
        place = hierarchies.get(frozenset(filter(None, names.split(","))))
        if not (own and place):
            raise NotLocal(f"no cgroup of {identifier}: {line}")
        pairs.append((place / own.group(1), place / path.lstrip("/")))
    return pairs


class Inside:
    """The way into a container that runs, for as long as its PID 1 lives. NotLocal, DockerError: there is none."""

    def __init__(self, name):
        self.identifier, self.pid = docker("inspect", "--format={{.Id}} {{.State.Pid}}", name).split()
        self.process = pathlib.Path("/proc", self.pid)
        self.born = born(self.pid)
        self.nsenter = shutil.which("nsenter")
        # What :mod:`rig.ready` has started, and how many of Salt's programs were asked for.
        self.ready, self.salt_programs = None, 0
        try:
            same_users = os.readlink(self.process / "ns/user") == os.readlink("/proc/self/ns/user")
            self.hierarchies = mounts(pathlib.Path("/proc/self/mountinfo").read_text(encoding="utf-8"))
        except OSError as error:
            raise NotLocal(str(error)) from error
        if not (self.nsenter and same_users):
            raise NotLocal(f"{name}: its namespaces cannot be entered")
        limit, capabilities, environment = docker("exec", name, "sh", "-c", LOOK).split("\n", 2)
        self.limit = limit
        self.environment = dict(re.findall(r"([^=\0]+)=([^\0]*)", environment))
        bounding = int(capabilities.split()[1], 16)
        self.capabilities = ",".join(["-all", *(f"+cap_{bit}" for bit in range(64) if bounding >> bit & 1)])
        trial = subprocess.run(self.command(["true"]), env=self.environment, stdin=subprocess.DEVNULL, check=False)
        if trial.returncode:
            raise NotLocal(f"{name}: nothing can be started inside")

    def valid(self):
        """Whether the container has not been started anew."""
        return born(self.pid) == self.born

    def command(self, argv):
        """The command that runs ``argv`` inside; it has to be started with ``environment`` as its environment."""
        try:
            memberships = (self.process / "cgroup").read_text(encoding="utf-8")
        except OSError as error:
            raise NotLocal(str(error)) from error
        pairs = cgroups(self.identifier, memberships, self.hierarchies)
        enter = ["/bin/sh", "-c", ENTER, "sh", self.limit, self.pid, self.nsenter, str(len(pairs))]
        enter += [str(place) for pair in pairs for place in pair]
        # In a session of its own, and with the groups of root: what an exec'd process of the engine has.
        drop = ["setpriv", "--reuid=0", "--init-groups", f"--bounding-set={self.capabilities}"]
        return [*enter, "setsid", *drop, *argv]
