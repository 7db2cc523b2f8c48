"""The Docker engine: its command line, and an engine of our own for as long as none is running."""

import contextlib
import os
import signal
import subprocess
import time

from rig import venvs


class DockerError(Exception):
    """A docker command failed; the text has its error output."""


def docker(*argv, stdin=subprocess.DEVNULL, timeout=None):
    """The standard output of a docker command. ``stdin``: an open file for its standard input."""
    argv = ["docker", *map(str, argv)]
    try:
        done = subprocess.run(argv, stdin=stdin, capture_output=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        raise DockerError(f"{argv[1]}: no answer after {timeout} s") from error
    except OSError as error:
        raise DockerError(str(error)) from error
    if done.returncode:
        output = (done.stdout[-4000:] + done.stderr[-4000:]).decode(errors="replace")
        raise DockerError(f"{' '.join(argv)[:300]} failed with {done.returncode}:\n{output}")
    return done.stdout.decode(errors="replace").strip()


def answers():
    """Whether an engine answers."""
    try:
        docker("info", timeout=20)
    except DockerError:
        return False
    return True


@contextlib.contextmanager
def running(command=("dockerd",), wait=60):
    """A context in which an engine answers: the one that runs, or our own, which is stopped at the end."""
    if answers():
        yield
        return
    log = venvs.cache() / "dockerd.log"
    print(f"No Docker engine answers: starting {command[0]} (log: {log})", flush=True)
    with open(log, "wb") as output:
        engine = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C must not reach it: the rig still needs it to clean up
        )
    try:
        deadline = time.monotonic() + wait
        while not answers():
            if engine.poll() is not None or time.monotonic() > deadline:
                raise DockerError(f"{command[0]} does not answer:\n{log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.5)
        yield
    finally:
        stop(engine)


def stop(engine):
    """End the engine that we started, with the containerd in its process group."""
    engine.terminate()
    try:
        engine.wait(30)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(engine.pid, signal.SIGKILL)
        engine.wait()
