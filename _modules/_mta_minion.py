"""What the library needs of Salt: handed in by an execution module, so that nothing here depends on a loader."""

from __future__ import annotations

import glob
from collections.abc import Mapping, MutableMapping
from typing import Any, Callable

from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_system
from _mta_records import NamedTuple
from _mta_system import StateDirectory

# What is remembered of the last apply; the name under which a run of states shares its environment.
APPLIED = "applied.json"
SALTENV = "postfix_mta.saltenv"
# A file that the script leaves which undoes an apply that has died; a whole apply makes up for it, and removes it.
CUT_OFF = "cut_off"
# What the last look at the DNS has found: ``time`` (Unix time), ``findings`` as of ``mta_dns.check``.
DNS = "dns.json"
# On a mail minion: path of an authority's certificate to what it was fetched from.
FETCHED = "fetched_authorities.json"


class Minion(NamedTuple):
    """
    Salt's side of a call.

    opts, grains, pillar
        As Salt gives them to an execution module.

    context
        What one run of states shares (``__context__``).

    functions
        Salt's own execution functions by name, such as ``pkg.install``, and ``mta_settings.effective``.
    """

    opts: Mapping[str, Any]
    grains: Mapping[str, Any]
    pillar: Mapping[str, Any]
    context: MutableMapping[str, Any]
    functions: Mapping[str, Callable[..., Any]]

    @classmethod
    def of(cls, door: Mapping[str, Any]) -> Minion:
        """Return the minion of an execution module; ``door``: its ``globals()``."""
        names = ("grains", "pillar", "context", "salt")
        # Threads have no loader to look it up with.
        return cls(door["__opts__"].value(), *(door[f"__{name}__"] for name in names))

    @property
    def state(self) -> StateDirectory:
        """The directory of all that the formula remembers; the minion option ``mta_state_dir`` moves it."""
        return StateDirectory(self.opts.get("mta_state_dir"))

    @property
    def saltenv(self) -> str:
        """The environment that holds the formula: that of this run of states, or else of the last apply."""
        known = self.context.get(SALTENV) or self.opts.get("saltenv") or self.state.read(APPLIED).get("saltenv")
        return str(known or "base")

    @property
    def heard(self) -> bool:
        """
        Whether an event would reach anybody: a masterless call has no bus but that of a minion beside it.

        Salt waits a second for a bus that is not there.
        """
        masterless = self.opts.get("file_client") == "local" and not self.opts.get("use_master_when_local")
        if not masterless or self.opts.get("ipc_mode") != "ipc":
            return True
        return self.runs

    @property
    def runs(self) -> bool:
        """Whether a minion runs on this host and listens at its bus: one that was killed leaves the socket."""
        sockets = f"{glob.escape(str(self.opts['sock_dir']))}/minion_event_*_pull.ipc"
        return any(map(_mta_system.listens, glob.glob(sockets)))

    def settings(self) -> dict[str, Any]:
        """Return the effective settings: of the environment of this run of states, or else of the last apply."""
        saltenv = self.context.get(SALTENV) or self.state.read(APPLIED).get("saltenv") or self.saltenv
        settings: dict[str, Any] = self.functions["mta_settings.effective"](str(saltenv))
        return settings


def refuse_job(function: str, job: Mapping[str, Any]) -> None:
    """
    Refuse to be called as a job, or from a command line: for functions that only states call.

    function
        Its name, for the message.

    job
        Its further keyword arguments. Salt adds some to those of a job, for a function that takes any.

    Raises ``CommandExecutionError`` for a job, ``SaltInvocationError`` for an argument that there is not.
    """
    if any(name.startswith("__pub_") for name in job):
        raise CommandExecutionError(f"{function} is for states, and is refused as a job")
    if job:
        raise SaltInvocationError(f"{function} has no argument {', '.join(job)}")
