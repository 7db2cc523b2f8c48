"""
Run this formula's tests.

    bin/test                                 everything
    bin/test lint                            ruff, yamllint and salt-lint
    bin/test unit [PYTEST-ARGS]              unit tests, with each Salt line
    bin/test integration [SUITE] [PLATFORM] [PYTEST-ARGS]
                                             container suites as kitchen.yml defines them; default: all.
                                             A suite and a platform together: also where it leaves them out
    bin/test images                          build the image of every platform that has none
    bin/test image PLATFORM                  build one
    bin/test pytest PYTEST-ARGS              pytest in the rig's environment (for Test Kitchen's verifier)
    bin/test scale [MINIONS...]              what a fleet costs its master (test/scale.py); not part of everything
    bin/test judge [N] [SEED]                whether changes are judged rightly (test/judge); neither is that

An option and everything after it goes to pytest.
"""

import concurrent.futures
import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time

from rig import PREFIX, REPOSITORY, engine, images, kitchen, results, venvs
from rig.container import Container, remove_all, run_label

RUN = f"{os.getpid()}-{os.urandom(3).hex()}"
WORKERS = 2
# Suites that run beside each other: a third of their time they wait, for daemons and for clocks.
HOSTS = (os.cpu_count() or 1) + 1
TOOLS = pathlib.Path(sys.executable).parent
# Suites that measure CPU time: nothing else runs beside them.
ALONE = ("cost",)
# Suites that take several minutes: they start first, so that none of them runs on alone at the end.
LONG = (
    "reactor",
    "states-of-host",
    "rollout",
    "killed",
    "sasl",
    "ways",
    "mail-flow",
    "hardened",
    "bad-settings",
    "judge",
    "renewal",
    "fleet-ca",
)

processes = set()
output_lock = threading.Lock()


def say(text):
    """A headline of the rig's own."""
    print(f"\n--- {text}", flush=True)


def run(argv, env=None, live=True):
    """
    Run a program in the repository; its output and exit code.

    live: print every line as it comes, else nothing.
    """
    process = subprocess.Popen(
        [str(arg) for arg in argv],
        cwd=REPOSITORY,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    processes.add(process)
    lines = []
    with process.stdout:
        for line in process.stdout:
            lines.append(line)
            if live:
                print(line, end="", flush=True)
    code = process.wait()
    processes.discard(process)
    return "".join(lines), code


def lint():
    """One count for each linter: passed or failed."""
    states = sorted(path for kind in ("*.sls", "*.jinja") for path in (REPOSITORY / "postfix_mta").rglob(kind))
    linters = [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["yamllint", "--strict", "."],
        ["salt-lint", *states],
    ]
    counts = []
    for program, *args in linters:
        say(" ".join([program, *(arg for arg in args if isinstance(arg, str))]))
        _, code = run([TOOLS / program, *args])
        counts.append({"passed": int(code == 0), "failed": int(code != 0), "skipped": 0})
    return counts


def unit(args):
    """The unit tests' counts, with each Salt line."""

    def tests(line):
        # Each test loads the modules anew: what was compiled once is kept, but not in the repository.
        with tempfile.TemporaryDirectory() as directory:
            env = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": directory}
            output, code = run([venvs.python(line), "-m", "pytest", *(args or ["test/unit"])], env, live=False)
        with output_lock:
            say(f"unit tests with Salt {line}")
            print(output, end="", flush=True)
        return results.count(output, code)

    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(tests, venvs.lines()))


def build(platforms):
    """Build the images of platforms, two at a time."""
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(images.platform_image, dict.fromkeys(platforms)))


def verify(instance, args):
    """Start an instance's host and run its suite there. Its counts; its output is printed in one piece."""
    started = time.monotonic()
    name = f"{PREFIX}-{RUN}-{instance.name}"
    image = images.platform_image(instance.platform)
    container = Container.start(name, instance.driver, image, [run_label(RUN)])
    try:
        container.provision(instance.provisioner)
        tests = [f"test/integration/{instance.suite}"]
        if instance.converges:
            tests.insert(0, "test/integration/test_converge.py")
        # The names of Test Kitchen's verifier, and one that says who has started the host.
        env = {
            "KITCHEN_SUITE": instance.suite,
            "KITCHEN_PLATFORM": instance.platform,
            "KITCHEN_CONTAINER_ID": name,
            "POSTFIX_MTA_TEST_RUN": RUN,
        }
        pytest = [sys.executable, "-m", "pytest", "-v", "--tb=short", "-p", "no:cacheprovider"]
        output, code = run([*pytest, f"--hosts=docker://{name}", *tests, *args], env, live=False)
    finally:
        container.remove()
    with output_lock:
        say(f"{instance.name} ({time.monotonic() - started:.0f} s)")
        print(output, end="", flush=True)
    return results.count(output, code)


def integration(chosen, args):
    """The counts of instances: several at a time, and then one after the other those that measure."""
    build(instance.platform for instance in chosen)
    say(f"container suites: {', '.join(instance.name for instance in chosen)}")
    beside = [instance for instance in chosen if instance.suite not in ALONE]
    beside.sort(key=lambda instance: LONG.index(instance.suite) if instance.suite in LONG else len(LONG))
    with concurrent.futures.ThreadPoolExecutor(HOSTS) as pool:
        jobs = [pool.submit(guarded, instance, args) for instance in beside]
        try:
            counts = [job.result() for job in jobs]
        except BaseException:
            for job in jobs:
                job.cancel()
            stop_processes()
            raise
    return counts + [guarded(instance, args) for instance in chosen if instance.suite in ALONE]


def guarded(instance, args):
    """The counts of an instance; one failure when its host could not even be started."""
    try:
        return verify(instance, args)
    except (engine.DockerError, AssertionError, subprocess.TimeoutExpired) as error:
        with output_lock:
            say(f"{instance.name}: no tests ran\n{error}")
        return {"passed": 0, "failed": 1, "skipped": 0}


def stop_processes():
    """End the pytest runs that are still going."""
    for process in list(processes):
        process.terminate()
    for process in list(processes):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)


def split(words):
    """Words up to the first option, and the rest for pytest."""
    first = next((index for index, word in enumerate(words) if word.startswith("-")), len(words))
    return words[:first], words[first:]


@contextlib.contextmanager
def clean_engine():
    """A context with a Docker engine; what this run has started is gone after it."""
    with engine.running():
        try:
            yield
        finally:
            remove_all(run_label(RUN))


def finish(counts):
    """Print the closing line; the exit code."""
    print("\n" + results.closing_line(counts), flush=True)
    ran = sum(item["passed"] + item["failed"] for item in counts)
    return int(not ran or any(item["failed"] for item in counts))


def main(command="all", *words):
    """Run a command of ``bin/test``; the exit code."""
    if command == "all":
        with clean_engine(), concurrent.futures.ThreadPoolExecutor(1) as beside:
            images_built = beside.submit(build, kitchen.platforms())
            counts = lint() + unit([])
            images_built.result()
            counts += integration(kitchen.instances(), [])
        return finish(counts)
    if command == "lint":
        return finish(lint())
    if command == "unit":
        return finish(unit(words))
    if command == "integration":
        chosen, args = split(words)
        chosen = kitchen.choose(chosen)
        with clean_engine():
            return finish(integration(chosen, args))
    if command == "images" and not words:
        with clean_engine():
            build(kitchen.platforms())
        return 0
    if command == "image" and len(words) == 1:
        with clean_engine():
            build(words)
        return 0
    if command == "scale":
        with clean_engine():
            return run([sys.executable, "test/scale.py", *words], {"PYTHONPATH": REPOSITORY / "test"})[1]
    if command == "judge":
        with clean_engine():
            return run([sys.executable, "-m", "judge", *words], {"PYTHONPATH": REPOSITORY / "test"})[1]
    if command == "pytest":
        os.chdir(REPOSITORY)
        os.execv(sys.executable, [sys.executable, "-m", "pytest", *words])
    print(__doc__.strip())
    return int(command not in ("-h", "--help", "help"))


def terminated(number, _frame):
    """End as for Ctrl-C, so that every context closes."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, terminated)
    try:
        sys.exit(main(*sys.argv[1:]))
    except (engine.DockerError, ValueError) as error:
        sys.exit(f"bin/test: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
