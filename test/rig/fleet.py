"""A fleet: a salt-master and salt-minions that run as services, each in a container of its own."""

import concurrent.futures
import json
import time

import yaml

from rig import REPOSITORY
from rig.container import words

STATES, PILLARS = "/srv/fleet/salt", "/srv/fleet/pillar"
# Of the repository, what a master serves.
SERVED = ("postfix_mta", "_beacons", "_grains", "_modules", "_runners", "_states")

# What Salt's own packages install, for the Salt that the images have.
UNIT = """
[Unit]
Description=Salt {role}
After=network.target

[Service]
Type=notify
NotifyAccess=all
KillMode={kill}
LimitNOFILE=100000
ExecStart=/usr/local/bin/salt-{role}
Restart=on-failure

[Install]
WantedBy=multi-user.target
"""
KILL = {"master": "mixed", "minion": "process"}

MASTER = {
    "file_roots": {"base": [STATES]},
    "pillar_roots": {"base": [PILLARS]},
    "auto_accept": True,
}
# Soon there, also after the master was away.
MINION = {"acceptance_wait_time": 1, "recon_default": 500, "recon_max": 2000, "random_reauth_delay": 1}


# For an apply that installs everything, several at a time on a busy machine, seconds.
APPLY_TIMEOUT = 600


class Fleet:
    """
    A running master with its minions.

    master: the master's :class:`rig.container.Container`. minions: minion id to container.
    """

    def __init__(self, master, minions):
        self.master = master
        self.minions = minions

    @classmethod
    def start(cls, master, minions, pillars, master_config=None, minion_config=None):
        """
        Make a master and minions of containers that run, and wait until every minion answers.

        minions: minion id to container. pillars: minion id to its pillar. master_config, minion_config: further
        settings for all of them.
        """
        fleet = cls(master, {})
        fleet.serve()
        fleet.configure(master, "master", {**MASTER, **(master_config or {})})
        _enable(master, "master")
        fleet.join(minions, pillars, minion_config)
        return fleet

    def join(self, minions, pillars, minion_config=None):
        """Make minions of further containers, as :meth:`start` does, and wait until they answer."""
        self.minions.update(minions)
        top = {"base": {identifier: [_pillar_name(identifier)] for identifier in self.minions}}
        self.master.put({f"{PILLARS}/top.sls": json.dumps(top)})
        for identifier, container in minions.items():
            self.set_pillar(identifier, pillars.get(identifier))
            own = {"id": identifier, "master": self.master.ip}
            self.configure(container, "minion", {**MINION, **own, **(minion_config or {})})
        _all(lambda container: _enable(container, "minion"), minions.values())
        self.wait(minions)

    @staticmethod
    def configure(container, role, settings):
        """Write the configuration and the unit of the ``master`` or ``minion`` in a container."""
        unit = UNIT.format(role=role, kill=KILL[role])
        container.put(
            {
                f"/etc/salt/{role}": yaml.safe_dump(settings),
                f"/etc/systemd/system/salt-{role}.service": unit,
            }
        )

    def serve(self, repository=REPOSITORY):
        """Put a working tree of the formula into the master's file roots, in place of what was there."""
        self.master.exec(["rm", "-rf", STATES])
        present = [name for name in SERVED if (repository / name).is_dir()]
        self.master.put({f"{STATES}/{name}": repository / name for name in present})

    def set_pillar(self, identifier, pillar):
        """Replace a minion's whole pillar on the master; the minion gets it with its next apply or refresh."""
        self.master.put({f"{PILLARS}/{_pillar_name(identifier)}.sls": json.dumps(pillar or {})})

    def salt(self, target, function, *args, timeout=60, **kwargs):
        """
        What ``salt`` prints: minion id to return; ``False`` for one that did not answer.

        target: a glob, or a list of minion ids. Arguments as for :meth:`rig.container.Container.call`. timeout:
        seconds in which a minion has to answer, also one that is at work.
        """
        listed = not isinstance(target, str)
        options = ["--out=json", "--static", f"--timeout={timeout}", *(["--list"] if listed else [])]
        target = ",".join(target) if listed else target
        done = self.master.salt(["salt", *options, "--", target, function, *words(args, kwargs)])
        try:
            return json.loads(done.stdout)
        except ValueError as error:
            raise AssertionError(f"{function}: {done.returncode}\n{done.stdout}{done.stderr}") from error

    def run(self, function, *args, **kwargs):
        """What a runner returns. Arguments as for :meth:`rig.container.Container.call`."""
        done = self.master.salt(["salt-run", "--out=json", "--", function, *words(args, kwargs)])
        try:
            return json.loads(done.stdout)
        except ValueError as error:
            raise AssertionError(f"{function}: {done.returncode}\n{done.stdout}{done.stderr}") from error

    def apply(self, target="*", sls="postfix_mta", test=False):
        """``state.apply`` on the target; minion id to its state results. AssertionError where none came."""
        returns = self.salt(target, "state.apply", sls, test=test, timeout=APPLY_TIMEOUT)
        for identifier, results in returns.items():
            assert isinstance(results, dict), f"{identifier}: {results}"
        return returns

    def wait(self, identifiers=None, timeout=120):
        """Wait until minions (default: all) answer the master."""
        waiting = set(self.minions if identifiers is None else identifiers)
        deadline = time.monotonic() + timeout
        while waiting:
            # Not `salt`: that waits for silent minions as long as if they were busy.
            known = {"tgt": sorted(waiting), "tgt_type": "list", "timeout": 2, "gather_job_timeout": 2}
            waiting.difference_update(self.run("manage.up", **known))
            assert not waiting or time.monotonic() < deadline, f"no answer from {', '.join(sorted(waiting))}"

    def restart(self, identifier=None):
        """Restart the salt-minion of a minion (default: the salt-master), and wait until it answers."""
        if identifier is None:
            self.master.exec(["systemctl", "restart", "salt-master"])
        else:
            self.minions[identifier].exec(["systemctl", "restart", "salt-minion"])
        self.wait(identifier and [identifier])


def start_containers(start, identifiers):
    """Minion id to the container that ``start(id)`` starts, several at a time."""
    return dict(zip(identifiers, _all(start, identifiers)))


def _all(function, items):
    """The results of a function for each item, four at a time."""
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        return list(pool.map(function, items))


def _enable(container, role):
    """Start a daemon: as a service, or by itself where systemd is not PID 1."""
    service = f"systemctl daemon-reload && systemctl enable --now salt-{role}"
    container.exec(f"if [ -d /run/systemd/system ]; then {service}; else salt-{role} --daemon; fi")


def _pillar_name(identifier):
    """The name of a minion's pillar SLS; a dot would be a directory."""
    return f"minion-{identifier}".replace(".", "-")
