"""TODO subject (mta_rehearsal)."""

import contextlib
import os
import re
import select
import socket
import subprocess
import threading
import time

from salt.exceptions import CommandExecutionError

import _mta_judge
from _mta_minion import Minion

SECONDS = 8
AGENTS = ("smtp", "lmtp", "local", "virtual", "pipe", "error", "discard")
# It writes the log, knows no -S, and has no parameters worth a trial.
UNHEARD = ("postlogd",)
REFUSED = "bad generation"
LINE = r"(?s)\[(\d+)\]: (.*)"
DEAD = r"(?:\w+: )?(?:fatal|panic): "
LOUD = r"(?:\w+: )?(?:fatal|panic|error|warning): "


class _Stage:
    """The daemons that run from one private copy, and what they say."""

    def __init__(self, directory, facts):
        self.directory = directory
        self.facts = facts
        self.running = {}
        self.said = {}
        public = os.path.join(directory, "public")
        self.path = os.path.join(public, "log")
        self.log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            os.makedirs(public, mode=0o700, exist_ok=True)
            self.log.bind(self.path)
        except OSError as err:
            self.log.close()
            raise CommandExecutionError(f"Cannot listen at {self.path}: {err.strerror or err}") from err

    def start(self, service, entry, stdin, stdout, only_parameters=False, options=()):
        """Start the daemon of a master.cf entry; return its process id."""
        name, _, kind = service.rpartition("/")
        queue = self.directory if only_parameters else self.facts["queue_directory"]
        # smtpd(8) may be chrooted in the queue directory; it connects to the log before that.
        log = os.path.relpath(self.path, os.path.realpath(os.path.join(queue, "public")))
        settings = {
            **entry["overrides"],
            "config_directory": self.facts["config_directory"],
            "maillog_file": "/var/log/maillog",
            "postlog_service_name": log,
            **dict(options),
        }
        argv = [os.path.join(self.facts["daemon_directory"], entry["command"]), "-S", "-n", name, "-t", kind]
        environment = {"MAIL_CONFIG": self.directory, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        if only_parameters:
            settings["queue_directory"] = self.directory
            environment["GENERATION"] = "x"
        argv += ["-u"] * (entry["unprivileged"] != "n") + ["-c"] * (entry["chroot"] == "y")
        for parameter, value in settings.items():
            argv += ["-o", f"{parameter}={value}"]
        process = subprocess.Popen(
            [word.encode("utf-8", "surrogateescape") for word in argv],
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd="/",
            start_new_session=True,
        )
        self.running[process.pid] = (process, service)
        return process.pid

    def hear(self, others=(), timeout=0.05):
        """Take in what was said; end who died of it, who would sleep a second. Return which others are ready."""
        ready = select.select([self.log, *others], [], [], timeout)[0]
        if self.log in ready:
            line = re.search(LINE, self.log.recv(8192).decode(errors="replace"))
            if line:
                pid, text = int(line[1]), line[2].replace(self.directory, self.facts["config_directory"])
                if re.match(LOUD, text) and REFUSED not in text:
                    self.said.setdefault(pid, []).append(text)
                if re.match(DEAD, text) and pid in self.running:
                    self.running[pid][0].kill()
        return [one for one in ready if one is not self.log]

    def drain(self):
        """Take in what has been said by now."""
        while select.select([self.log], [], [], 0)[0]:
            self.hear()

    def ended(self, pid):
        """Whether a daemon is no longer there."""
        return self.running[pid][0].poll() is not None

    def close(self):
        """End every daemon."""
        for process, _ in self.running.values():
            if process.poll() is None:
                process.kill()
            process.wait()
        self.log.close()
        os.unlink(self.path)


def _distinct(services):
    """One of all services that run the same program with the same overrides."""
    seen = {}
    for service, entry in services.items():
        key = (entry["command"], entry["unprivileged"], entry["chroot"], repr(sorted(entry["overrides"].items())))
        seen.setdefault(key, service)
    return {service: services[service] for service in seen.values()}


def _parameters_read(stage, services):
    """Let every daemon read its parameters; yield (service, text) of those that die of them."""
    started = {}
    for service, entry in services.items():
        pid = stage.start(service, entry, subprocess.DEVNULL, subprocess.DEVNULL, only_parameters=True)
        started[pid] = service
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and not all(stage.ended(pid) for pid in started):
        stage.hear()
    stage.drain()
    for pid, service in started.items():
        said = stage.said.get(pid, [])
        dead = [text for text in said if re.match(DEAD, text)]
        if dead:
            yield service, "; ".join(said)


def _agents_ready(stage, services):
    """Start delivery agents until they ask for a message; yield (service, text) of those that never do."""
    for service, entry in services.items():
        ours, theirs = socket.socketpair()
        with ours, theirs:
            pid = stage.start(service, entry, theirs, theirs)
            theirs.close()
            deadline = time.monotonic() + SECONDS
            while time.monotonic() < deadline and not stage.hear([ours]):
                pass
            stage.running[pid][0].kill()
            dead = [text for text in stage.said.get(pid, []) if re.match(DEAD, text)]
            if dead:
                yield service, "; ".join(stage.said[pid])


def _serve(stage, doors, finished):
    """Give every connection at ``doors`` (socket to (service, entry)) an smtpd(8) of its own, as inetd(8) does."""
    # An untrusted client's name is not worth the wait for the DNS; the live conversation looks it up.
    options = {"smtpd_peername_lookup": "no"}
    while not finished.is_set():
        for door in stage.hear(doors):
            connection, _ = door.accept()
            with connection:
                stage.start(*doors[door], connection, connection, options=options)


def _conversations(minion: Minion, stage, services, listeners, envelope):
    """Talk to the smtpd(8) of every listener; yield (service, text) of what is not as it should be."""
    with contextlib.ExitStack() as held:
        doors, targets, names = {}, [], {}
        for listener in listeners:
            service = listener["service"]
            family = socket.AF_INET6 if listener["host"] == "::1" else socket.AF_INET
            door = held.enter_context(socket.socket(family, socket.SOCK_STREAM))
            door.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
            door.listen()
            host, port = door.getsockname()[:2]
            doors[door] = (service, services[service])
            targets.append({**listener, "host": host, "port": port})
            names[f"[{host}]:{port}" if ":" in host else f"{host}:{port}"] = service
        finished = threading.Event()
        server = threading.Thread(target=_serve, args=(stage, doors, finished))
        server.start()
        try:
            found = _mta_judge.check(
                minion, listeners=targets, envelope=envelope, untrusted_client=envelope, timeout=SECONDS
            )
        finally:
            finished.set()
            server.join()
    stage.drain()
    said = {}
    for pid, (_, service) in stage.running.items():
        said.setdefault(service, {}).update(dict.fromkeys(stage.said.get(pid, [])))
    for problem in found["problems"]:
        # Slowness is for the live conversation to judge, which has more time.
        if "no answer in time" not in problem:
            where, _, text = problem.partition(" ")
            service = names[where]
            yield service, "; ".join([text, *said.get(service, {})])


def problems(minion: Minion, directory, facts, services, listeners, converse=True, envelope=True):
    """
    Tell what would not work if a staged configuration were in force.

    directory
        Path of the private copy of the configuration directory; a socket is made in it.

    facts
        Dictionary of ``config_directory`` (the real one), ``daemon_directory`` and ``queue_directory``.

    services
        Entries of the staged master.cf to try, as :func:`postconf.services` returns them.

    listeners
        List as :func:`postconf.listeners` returns it, of the staged configuration.

    converse
        Also start the daemons that need the running server beside them. Default ``True``.

    envelope
        Also the envelope and the untrusted client of :func:`mta_probe.check`. Default ``True``.

    Returns a list of ``[service, text]``. Raises ``CommandExecutionError`` when a daemon cannot be started.
    """
    there = {
        service: entry
        for service, entry in services.items()
        if entry["command"] not in UNHEARD
        and os.access(os.path.join(facts["daemon_directory"], entry["command"]), os.X_OK)
    }
    stage = _Stage(directory, facts)
    try:
        found = list(_parameters_read(stage, _distinct(there)))
        dead = {service for service, _ in found}
        if converse:
            agents = {key: entry for key, entry in _distinct(there).items() if entry["command"] in AGENTS}
            found += _agents_ready(stage, {key: entry for key, entry in agents.items() if key not in dead})
            awake = [
                one
                for one in listeners
                if one["service"] in there
                and one["service"] not in dead
                and there[one["service"]]["command"] == "smtpd"
            ]
            if awake:
                found += _conversations(minion, stage, there, awake, envelope)
    except OSError as err:
        raise CommandExecutionError(f"Cannot try the new configuration: {err.strerror or err}") from err
    finally:
        stage.close()
    return [list(one) for one in found]
