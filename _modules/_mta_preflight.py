"""
The preflight: Postfix's own daemons try a staged configuration, beside the running server.

Every daemon reads its parameters, delivery agents start until they ask for a message, and each smtpd(8) holds a
conversation at a socket of its own. What they say is heard at a log socket in the staged directory. Nothing is
delivered, and no daemon is left.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from salt.exceptions import CommandExecutionError

import _mta_delivery
import _mta_judge
import _mta_system
import _mta_verdict
from _mta_minion import Minion
from _mta_pillar_schema import SIGNER_SOCKET
from _mta_postfix_syntax import Entry
from _mta_records import NamedTuple

SECONDS = 8
AGENTS = ("smtp", "lmtp", "local", "virtual", "pipe", "error", "discard")
# It writes the log, knows no -S, and has no parameters worth a trial.
UNHEARD = ("postlogd",)
REFUSED = "bad generation"
LINE = r"(?s)\[(\d+)\]: (.*)"
DEAD = r"(?:\w+: )?(?:fatal|panic): "
LOUD = r"(?:\w+: )?(?:fatal|panic|error|warning): "


class Directories(NamedTuple):
    """Where a staged configuration belongs, and what it says: the paths of these directories."""

    config: str
    daemon: str
    queue: str


class _Stage:
    """The daemons that run from one private copy, and what they say."""

    def __init__(self, directory: str, real: Directories) -> None:
        self.directory = directory
        self.real = real
        self.without_signer = _without_signer(directory, real)
        self.running: dict[int, tuple[subprocess.Popen[bytes], str]] = {}
        self.said: dict[int, list[str]] = {}
        # Recipients whose mail is thrown away where nobody's address sends it.
        self.discarded: set[tuple[str, str]] = set()
        public = os.path.join(directory, "public")
        self.path = os.path.join(public, "log")
        self.log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            os.makedirs(public, mode=0o700, exist_ok=True)
            self.log.bind(self.path)
        except OSError as err:
            self.log.close()
            raise CommandExecutionError(f"Cannot listen at {self.path}: {err.strerror or err}") from err

    def start(
        self,
        service: str,
        entry: Entry,
        stream: int,
        only_parameters: bool = False,
        options: Mapping[str, str] | None = None,
    ) -> int:
        """Start the daemon of a master.cf entry with a descriptor as input and output; return its process id."""
        name, _, kind = service.rpartition("/")
        queue = self.directory if only_parameters else self.real.queue
        # smtpd(8) may be chrooted in the queue directory; it connects to the log before that.
        log = os.path.relpath(self.path, os.path.realpath(os.path.join(queue, "public")))
        settings = {
            **entry["overrides"],
            "config_directory": self.real.config,
            "maillog_file": "/var/log/maillog",
            "postlog_service_name": log,
            **(options or {}),
        }
        if entry["command"] == "smtpd":
            settings.update(self.without_signer)
        argv = [os.path.join(self.real.daemon, entry["command"]), "-S", "-n", name, "-t", kind]
        environment = {"MAIL_CONFIG": self.directory, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        if only_parameters:
            settings["queue_directory"] = self.directory
            environment["GENERATION"] = "x"
        argv += ["-u"] * (entry["unprivileged"] != "n") + ["-c"] * (entry["chroot"] == "y")
        for parameter, value in settings.items():
            argv += ["-o", f"{parameter}={value}"]
        process = subprocess.Popen(
            [word.encode("utf-8", "surrogateescape") for word in argv],
            stdin=stream,
            stdout=stream,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd="/",
            start_new_session=True,
        )
        self.running[process.pid] = (process, service)
        return process.pid

    def hear(self, others: Sequence[socket.socket] = (), timeout: float = 0.05) -> list[socket.socket]:
        """Take in what was said; end who died of it, who would sleep a second. Return which others are ready."""
        ready = select.select([self.log, *others], [], [], timeout)[0]
        if self.log in ready:
            line = re.search(LINE, self.log.recv(8192).decode(errors="replace"))
            if line:
                pid, text = int(line[1]), line[2].replace(self.directory, self.real.config)
                if re.match(LOUD, text) and REFUSED not in text:
                    self.said.setdefault(pid, []).append(text)
                self.discarded.update(_mta_delivery.thrown_away(text))
                if re.match(DEAD, text) and pid in self.running:
                    self.running[pid][0].kill()
        return [one for one in ready if one is not self.log]

    def drain(self) -> None:
        """Take in what has been said by now."""
        while select.select([self.log], [], [], 0)[0]:
            self.hear()

    def ended(self, pid: int) -> bool:
        """Whether a daemon is no longer there."""
        return self.running[pid][0].poll() is not None

    def last_words(self, pid: int) -> str:
        """What a daemon said, if it died of it; else nothing."""
        said = self.said.get(pid, [])
        return "; ".join(said) if any(re.match(DEAD, text) for text in said) else ""

    def close(self) -> None:
        """End every daemon."""
        for process, _ in self.running.values():
            if process.poll() is None:
                process.kill()
            process.wait()
        self.log.close()
        os.unlink(self.path)


def _without_signer(directory: str, real: Directories) -> dict[str, str]:
    """Settings that leave the formula's own signer out, where it is to be started only after the trial."""
    text = _mta_system.read(os.path.join(directory, "main.cf")) or ""
    begins = f"\nsmtpd_milters = unix:{SIGNER_SOCKET}\n" in f"\n{text}\n"
    there = os.path.exists(os.path.join(real.queue, SIGNER_SOCKET))
    return {"smtpd_milters": ""} if begins and not there else {}


def _distinct(services: Mapping[str, Entry]) -> dict[str, Entry]:
    """One of all services that run the same program with the same overrides."""
    seen: dict[tuple[str, ...], str] = {}
    for service, entry in services.items():
        key = (entry["command"], entry["unprivileged"], entry["chroot"], repr(sorted(entry["overrides"].items())))
        seen.setdefault(key, service)
    return {service: services[service] for service in seen.values()}


def _parameters_read(stage: _Stage, services: Mapping[str, Entry]) -> Iterator[tuple[str, str]]:
    """Let every daemon read its parameters; yield (service, text) of those that die of them."""
    started = {
        stage.start(service, entry, subprocess.DEVNULL, only_parameters=True): service
        for service, entry in services.items()
    }
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and not all(stage.ended(pid) for pid in started):
        stage.hear()
    stage.drain()
    for pid, service in started.items():
        text = stage.last_words(pid)
        if text:
            yield service, text


def _agents_ready(stage: _Stage, services: Mapping[str, Entry]) -> Iterator[tuple[str, str]]:
    """Start delivery agents until they ask for a message; yield (service, text) of those that never do."""
    for service, entry in services.items():
        ours, theirs = socket.socketpair()
        with ours, theirs:
            pid = stage.start(service, entry, theirs.fileno())
            theirs.close()
            deadline = time.monotonic() + SECONDS
            while time.monotonic() < deadline and not stage.hear([ours]):
                pass
            stage.running[pid][0].kill()
            text = stage.last_words(pid)
            if text:
                yield service, text


class _Listening(NamedTuple):
    """A listening socket of the preflight: whom it stands for."""

    service: str
    entry: Entry


def _serve(stage: _Stage, sockets: Mapping[socket.socket, _Listening], finished: threading.Event) -> None:
    """Give every connection at the listening sockets an smtpd(8) of its own, as inetd(8) does."""
    # An untrusted client's name is not worth the wait for the DNS; the live conversation looks it up.
    options = {"smtpd_peername_lookup": "no"}
    while not finished.is_set():
        for one in stage.hear(list(sockets)):
            connection, _ = one.accept()
            with connection:
                stage.start(*sockets[one], connection.fileno(), options=options)


def _conversations(
    minion: Minion,
    stage: _Stage,
    services: Mapping[str, Entry],
    listeners: Sequence[Mapping[str, Any]],
    envelope: bool,
) -> Iterator[tuple[str, str]]:
    """Talk to the smtpd(8) of every listener; yield (service, text) of what is not as it should be."""
    with contextlib.ExitStack() as held:
        sockets: dict[socket.socket, _Listening] = {}
        targets, names = [], {}
        for listener in listeners:
            service, address = listener["service"], "::1" if listener["host"] == "::1" else "127.0.0.1"
            family = socket.AF_INET6 if address == "::1" else socket.AF_INET
            one = held.enter_context(socket.socket(family, socket.SOCK_STREAM))
            one.bind((address, 0))
            one.listen()
            port = one.getsockname()[1]
            sockets[one] = _Listening(service, services[service])
            targets.append({**listener, "host": address, "port": port})
            names[_mta_judge.label_of(targets[-1])] = service
        finished = threading.Event()
        server = threading.Thread(target=_serve, args=(stage, sockets, finished))
        server.start()
        try:
            found = _mta_judge.check(
                minion, listeners=targets, envelope=envelope, untrusted_client=envelope, timeout=SECONDS
            )
        finally:
            finished.set()
            server.join()
    stage.drain()
    said: dict[str, dict[str, None]] = {}
    for pid, (_, service) in stage.running.items():
        said.setdefault(service, {}).update(dict.fromkeys(stage.said.get(pid, [])))
    for problem in _mta_verdict.without_relays(found["problems"], stage.discarded):
        # Slowness is for the live conversation to judge, which has more time.
        if "no answer in time" not in problem:
            where, _, text = problem.partition(" ")
            service = names[where]
            yield service, "; ".join([text, *said.get(service, {})])


def problems(
    minion: Minion,
    directory: str,
    real: Directories,
    services: Mapping[str, Entry],
    listeners: Sequence[Mapping[str, Any]],
    converse: bool = True,
    envelope: bool = True,
) -> list[tuple[str, str]]:
    """
    Tell what would not work if a staged configuration were in force.

    directory
        Path of the private copy of the configuration directory; a socket is made in it.

    real
        The directories that it is for.

    services
        Entries of the staged master.cf to try.

    listeners
        Those of the staged configuration, as :func:`_mta_postfix_view.listeners_of` returns them.

    converse
        Also start the daemons that need the running server beside them. Default ``True``.

    envelope
        Also try an envelope, and the server's answers to an untrusted client. Default ``True``.

    Returns a list of ``(service, text)``. Raises ``CommandExecutionError`` when a daemon cannot be started.
    """
    there = {
        service: entry
        for service, entry in services.items()
        if entry["command"] not in UNHEARD and os.access(os.path.join(real.daemon, entry["command"]), os.X_OK)
    }
    stage = _Stage(directory, real)
    try:
        distinct = _distinct(there)
        found = list(_parameters_read(stage, distinct))
        dead = {service for service, _ in found}
        alive = {service: entry for service, entry in there.items() if service not in dead}
        if converse:
            agents = {key: entry for key, entry in distinct.items() if key in alive and entry["command"] in AGENTS}
            found += _agents_ready(stage, agents)
            smtpd = {service for service, entry in alive.items() if entry["command"] == "smtpd"}
            targets = [listener for listener in listeners if listener["service"] in smtpd]
            found += _conversations(minion, stage, there, targets, envelope) if targets else []
    except OSError as err:
        raise CommandExecutionError(f"Cannot try the new configuration: {err.strerror or err}") from err
    finally:
        stage.close()
    return found
