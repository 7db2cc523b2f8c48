"""
Postfix and saslauthd as services: whether they run and start at boot, and what starts, stops and enables them.

systemd is not asked what it believes: on Debian 11 and 12 it believes that saslauthd runs when the init script
did nothing (``START=no``), and its ``postfix.service`` there is a wrapper that is always up. :func:`status` reads
PID files, ``/proc`` and the links that start a service at boot, so it costs no process, and is the same with and
without systemd as PID 1.

Sources: systemctl(1), systemd-sysv-generator(8), update-rc.d(8), postfix(1), proc(5).
"""

from __future__ import annotations

import contextlib
import glob
import os
import signal
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_postfix_view
import _mta_saslauthd_view
import _mta_system
from _mta_records import NamedTuple


class Daemon(NamedTuple):
    """The package's program, and what the kernel calls the daemon's process."""

    program: str
    process: str


PROC = "/proc"
INIT_SCRIPTS = "/etc/init.d"
# Those that start it, and those that stop it, which a package has that came `defaults-disabled`.
RC_LINKS = "/etc/rc{level}.d"
SYSTEMD_RUNS = "/run/systemd/system"
LOCAL_UNITS = "/etc/systemd/system"
UNIT_DIRS = (LOCAL_UNITS, "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
# The formula's own DKIM signer (_mta_signer), there only where its unit is.
SIGNER = "postfix-mta-signer"
# And what knows the MTA-STS policies of other domains (_mta_sts), there likewise.
STS = "postfix-mta-sts"
OWN = (SIGNER, STS)
SIGNER_CONF = f"/etc/{SIGNER}/rspamd.conf"
CACHES = "/var/cache"
DAEMONS = {
    "postfix": Daemon("/usr/sbin/postfix", "master"),
    "saslauthd": Daemon("/usr/sbin/saslauthd", "saslauthd"),
    SIGNER: Daemon(f"{LOCAL_UNITS}/{SIGNER}.service", "rspamd"),
    STS: Daemon(f"{LOCAL_UNITS}/{STS}.service", "python3"),
}
PROXY_UNITS = ("postfix-mta-saslauthd.socket", "postfix-mta-saslauthd.service")
# In seconds.
TIMEOUT = 120
# The signer's first start compiles all public suffixes, which takes a busy host minutes.
SIGNER_TIMEOUT = 600
# For a reload, which reads them, too, where the signer judges others' mail.
SIGNER_PATIENCE = 300
PATIENCE = 3
RELOAD_PATIENCE = 1
DELIVERY_PATIENCE = 5
LOG_PATIENCE = 2
POLL = 0.02

LOG_LINES = 10


def _known(name: str) -> str:
    if name not in DAEMONS:
        raise SaltInvocationError(f"service must be one of {', '.join(sorted(DAEMONS))}, not {name!r}")
    return name


def _alive(pid: int, process: str) -> bool:
    """
    Whether ``pid`` is a living process of that name, in this PID namespace and not in a container's below it.

    A process that nobody waits for (PID 1 of a plain container does not) keeps its name, but is dead.
    """
    text = _mta_system.text_of(f"{PROC}/{pid}/status")
    fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    return (
        fields.get("Name") == process
        and fields.get("State", "Z")[0] not in "ZX"
        and len(fields.get("NSpid", "").split()) < 2
    )


def _pid_file(name: str) -> str:
    if name == "postfix":
        return f"{_mta_postfix_view.queue_directory()}/pid/master.pid"
    if name in OWN:
        return f"/run/{name}/pid"
    return f"{_mta_saslauthd_view.settings()['socket_directory']}/saslauthd.pid"


def _search(name: str) -> list[int]:
    """
    The service's processes wherever their PID file is: a daemon keeps to the settings it started with.

    Under systemd those of other units are not this service's.
    """
    try:
        pids = [int(entry) for entry in os.listdir(PROC) if entry.isdigit()]
    except OSError:
        return []
    return [pid for pid in pids if _alive(pid, DAEMONS[name].process) and _belongs(pid, name)]


def _belongs(pid: int, name: str) -> bool:
    if manager() == "sysv":
        return True
    groups = _mta_system.text_of(f"{PROC}/{pid}/cgroup").splitlines()
    return any(group.endswith(f"/{name}.service") for group in groups)


def _running(name: str, pid_file: str | None = None) -> list[int]:
    """PIDs of the daemon; none when it does not run."""
    if name in OWN and not os.path.exists(DAEMONS[name].program):
        return []
    text = _mta_system.text_of(pid_file or _pid_file(name)).strip()
    if text.isdigit() and _alive(int(text), DAEMONS[name].process):
        return [int(text)]
    # Postfix itself goes by its PID file alone; other masters may be other instances.
    return [] if name == "postfix" else _search(name)


def _children(name: str) -> set[str]:
    """PIDs of the processes that the daemon has started itself."""
    tasks = [task for pid in _running(name) for task in glob.glob(f"{PROC}/{pid}/task/*/children")]
    return {pid for task in tasks for pid in _mta_system.text_of(task).split()}


def started(program: str) -> list[float]:
    """Return the Unix times at which Postfix's processes of that name began (proc(5), ``/proc/PID/stat``)."""
    _mta_system.look_elsewhere()
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    times = []
    for pid in _children("postfix"):
        name, _, rest = _mta_system.text_of(f"{PROC}/{pid}/stat").partition(" (")[2].rpartition(") ")
        if name == program:
            times.append(booted + int(rest.split()[19]) / os.sysconf("SC_CLK_TCK"))
    return times


def _unit_file(unit: str) -> str | None:
    """The path of the unit file that systemd would use; ``None`` when there is none."""
    return next((f"{base}/{unit}" for base in UNIT_DIRS if os.path.lexists(f"{base}/{unit}")), None)


def _native_unit(name: str) -> str | None:
    """The path of a service's unit file; ``None`` where its init script starts it, with systemd or without."""
    return _unit_file(f"{name}.service") if manager() == "systemd" else None


def masked(unit: str) -> bool:
    """Return whether a unit file is a link to nothing, by which systemd refuses to start the unit."""
    return os.path.realpath(unit) == os.devnull


def _has_links(name: str, kinds: str) -> bool:
    """Whether some runlevel from 2 to 5 starts (``S``) or stops (``K``) a service by its init script."""
    for level in range(2, 6):
        with contextlib.suppress(OSError):
            links = os.listdir(RC_LINKS.format(level=level))
            if any(link[:1] in kinds and link[1:3].isdigit() and link[3:] == name for link in links):
                return True
    return False


def _enabled(name: str) -> bool:
    unit = _native_unit(name)
    if unit is None:
        return _has_links(name, "S")
    if masked(unit):
        return False
    try:
        folders = [entry for entry in os.listdir(LOCAL_UNITS) if entry.endswith((".wants", ".requires"))]
    except FileNotFoundError:
        return False
    return any(os.path.lexists(f"{LOCAL_UNITS}/{folder}/{name}.service") for folder in folders)


def manager() -> str:
    """
    Return what starts services here: ``systemd`` when it is PID 1, else ``sysv``.

    Source: sd_booted(3).
    """
    return "systemd" if _mta_system.is_directory(SYSTEMD_RUNS) else "sysv"


def pid_files(names: Iterable[str]) -> dict[str, str]:
    """Return where the daemons of services write their PID, as their settings say; these are files alone."""
    return {name: _pid_file(_known(name)) for name in names}


def status(names: Collection[str], files: Mapping[str, str] | None = None) -> dict[str, dict[str, bool]]:
    """
    Tell which services run, start at boot, and are installed, without starting a process.

    Parameters, result and errors: ``mta_service.status``; ``files`` is what :func:`pid_files` returns of them.
    """
    _mta_system.look_elsewhere()
    files = pid_files(names) if files is None else files
    return {
        name: {
            "active": bool(_running(name, files[name])),
            "enabled": _enabled(name),
            "installed": os.path.exists(DAEMONS[name].program),
        }
        for name in names
    }


def _command(argv: Sequence[str], check: bool = True, timeout: float | None = None) -> str:
    """Run a command to its end; return its output, which otherwise is only shown when it fails."""
    done = _mta_system.run(argv, timeout=timeout or TIMEOUT, check=check)
    return (done.output + done.errors).decode(errors="replace").strip()


def _units(name: str) -> list[str]:
    """The units behind a service. Debian 11 and 12 run Postfix in an instance that the wrapper pulls in."""
    instance = name == "postfix" and _unit_file("postfix@.service")
    return [f"{name}.service", *(["postfix@-.service"] if instance else [])]


def _control(action: str, name: str) -> str:
    """Have systemd or the init script do ``action``; an error shows what the service logged."""
    try:
        if manager() == "sysv":
            return _command([f"{INIT_SCRIPTS}/{name}", action])
        units = _units(name) if action == "stop" else [f"{name}.service"]
        return _command(["systemctl", action, *units], timeout=SIGNER_TIMEOUT if name == SIGNER else TIMEOUT)
    except CommandExecutionError as err:
        raise CommandExecutionError(f"{err}{_log(name)}") from None


def _log(name: str) -> str:
    if manager() == "sysv":
        return ""
    argv = ["journalctl", "--quiet", "--no-pager", "--output=cat", f"--lines={LOG_LINES}"]
    argv += [f"--unit={unit}" for unit in _units(name)]
    try:
        # An undo may be waiting for this.
        lines = _command(argv, timeout=LOG_PATIENCE)
    except CommandExecutionError:
        return ""
    return f"\nIts log:\n{lines}" if lines else ""


def _wait(condition: Callable[[], object], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL)
    return True


def _delivers(pid: str, active: str) -> bool:
    """Whether a process has a message of the active queue open."""
    for link in glob.glob(f"{PROC}/{pid}/fd/*"):
        with contextlib.suppress(OSError):
            if os.readlink(link).startswith(active):
                return True
    return False


@contextlib.contextmanager
def _deliveries_ended(name: str) -> Iterator[None]:
    """
    A context in which Postfix ends the deliveries that are under way and begins no others.

    master(8) stops its children with SIGTERM. One that has put a message into a mailbox, and has not noted that in
    the queue file yet, would be delivered again: so qmgr(8), which gives them their work, is held for as long.
    """
    children = _children(name) if name == "postfix" else set()
    managers = [pid for pid in children if "\tqmgr\n" in _mta_system.text_of(f"{PROC}/{pid}/status")]
    agents = [pid for pid in children if pid not in managers]
    active = f"{os.path.realpath(_mta_postfix_view.queue_directory())}/active/"

    def send(number: signal.Signals) -> None:
        for pid in managers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), number)

    send(signal.SIGSTOP)
    try:
        _wait(lambda: not any(_delivers(pid, active) for pid in agents), DELIVERY_PATIENCE)
        yield
    finally:
        send(signal.SIGCONT)


def start(name: str) -> None:
    """
    Start a service, and see that its daemon runs. One that runs is left alone.

    Parameters, result and errors: ``mta_service.start``.
    """
    if _running(_known(name)):
        return
    if manager() == "systemd":
        # Several applies in a row are no crash loop: do not run into StartLimitBurst=.
        _command(["systemctl", "reset-failed", *_units(name)], check=False)
        # Where systemd believes that the service is up, its start would do nothing.
        output = _control("restart", name)
    else:
        output = _control("start", name)
    if not _wait(lambda: _running(name), PATIENCE):
        said = f"{name} was started, but does not run. {output}".rstrip()
        raise CommandExecutionError(f"{said}{_log(name)}")


def stop(name: str, for_good: bool = True) -> None:
    """
    Stop a service, and see that its daemon is gone, also one that runs with settings from before a change.

    name
        ``postfix`` or ``saslauthd``.

    for_good
        ``False``: it is to be started again, so a Postfix that would not start goes on running.

    Raises ``CommandExecutionError`` with the output, and under systemd the service's last log lines; and for a
    Postfix that goes on running.
    """
    if not for_good:
        _refuse_unstartable(_known(name))
    with _deliveries_ended(_known(name)):
        _control("stop", name)
    # The script looks for the PID file where the settings say now, not where they said at the start.
    for sent in (signal.SIGTERM, signal.SIGKILL):
        if not _wait(lambda: not _running(name), 0 if sent == signal.SIGTERM else PATIENCE):
            for pid in _running(name):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, sent)
    if not _wait(lambda: not _running(name), PATIENCE):
        raise CommandExecutionError(f"{name} was stopped, but still runs{_log(name)}")


def _refuse_unstartable(name: str) -> None:
    """Raise when Postfix, or the signer, would not come back with the files on disk."""
    if name == "postfix" and _running(name):
        _command([DAEMONS[name].program, "check"])
        _refuse_bad_entries()
    elif name == SIGNER and _running(name):
        _command(["rspamadm", "configtest", "--quiet", "--config", SIGNER_CONF])


def _refuse_bad_entries() -> None:
    """Raise for an entry of master.cf over which master(8) dies: ``postfix check`` does not see it."""
    _command(["postconf", "-M"])


def restart(name: str) -> None:
    """
    Stop a service and start it. A Postfix that would not start again goes on running.

    Parameters, result and errors: ``mta_service.restart``.
    """
    stop(name, for_good=False)
    start(name)


def reload(name: str) -> None:
    """
    Have a running daemon take its settings anew; no connection is refused or dropped.

    Parameters, result and errors: ``mta_service.reload``.
    """
    if _known(name) in ("saslauthd", STS):
        restart(name)
        return
    if name == SIGNER:
        _reload_signer()
        return
    _refuse_bad_entries()
    before = _children(name)
    # What the units do too. Through Debian 12's wrapper systemctl returns before the reload is done. What is wrong
    # with main.cf ends postfix(1) itself, before it signals master(8).
    try:
        _command([DAEMONS[name].program, "reload"])
    except CommandExecutionError as err:
        raise CommandExecutionError(f"{err}{_log(name)}") from None
    # postfix reload returns before it is in force: processes with the former settings still answer for some
    # milliseconds. One that is busy with a client may stay longer; it is not the one that new clients get.
    _wait(lambda: not before & _children(name), RELOAD_PATIENCE)


def _reload_signer() -> None:
    """Have the signer take its settings, and wait for the processes that have read them."""
    _refuse_unstartable(SIGNER)
    before = _children(SIGNER)
    _control("reload", SIGNER)
    if before and not _wait(lambda: _children(SIGNER) - before, SIGNER_PATIENCE):
        raise CommandExecutionError(f"{SIGNER} goes on with its former settings{_log(SIGNER)}")


def enable(name: str) -> None:
    """
    Have a service start at boot.

    Parameters, result and errors: ``mta_service.enable``.
    """
    if _native_unit(_known(name)):
        _control("enable", name)
    else:
        # Only `enable` turns the links of a package that came `defaults-disabled`; it needs links to turn. Each of
        # both has systemd read all units anew, and `systemctl enable` does both.
        if not _has_links(name, "SK"):
            _command(["update-rc.d", name, "defaults"])
        _command(["update-rc.d", name, "enable"])
    if not _enabled(name):
        raise CommandExecutionError(f"{name} was enabled, but would not start at boot")


def disable(name: str) -> None:
    """
    Keep a service from starting at boot.

    Parameters, result and errors: ``mta_service.disable``.
    """
    _known(name)
    if manager() == "systemd":
        _control("disable", name)
    else:
        _command(["update-rc.d", name, "disable"])


def daemon_reload() -> None:
    """
    Have systemd read its unit files anew; nothing where it does not run. The units of saslauthd's proxy and the
    formula's own daemons end with their files: systemd would keep them, and forget what belongs to them.

    Raises ``CommandExecutionError`` with the output.
    """
    if manager() == "systemd":
        gone = [unit for unit in (*PROXY_UNITS, *(f"{name}.service" for name in OWN)) if not _unit_file(unit)]
        if gone:
            _command(["systemctl", "stop", *gone], check=False)
            kept = [name for name in OWN if f"{name}.service" in gone and os.path.isdir(f"{CACHES}/{name}")]
            if kept:
                _command(["systemctl", "clean", "--what=cache", *kept], check=False)
        for name in OWN:
            if f"{name}.service" in gone:
                # What would start it at boot: `disable` refuses a unit that is not there.
                _mta_system.remove(f"{LOCAL_UNITS}/multi-user.target.wants/{name}.service")
        _command(["systemctl", "daemon-reload"])
