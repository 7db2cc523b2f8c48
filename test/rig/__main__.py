"""
Run this formula's tests.

    bin/test [all]                           everything
    bin/test lint                            the linters, mypy, test/library.py and bin/docs --check
    bin/test pytest FILE[::TEST] [PYTEST-ARGS]
                                             tests of one file, with the newest Salt line: in seconds
    bin/test unit [PYTEST-ARGS]              unit tests, with each Salt line
    bin/test integration [SUITE] [PLATFORM] [PYTEST-ARGS]
                                             container suites as kitchen.yml defines them; default: all.
                                             A suite and a platform together: also where it leaves them out
    bin/test images                          build the image of every platform that has none
    bin/test image PLATFORM                  build one
    bin/test scale [MINIONS...]              what a fleet costs its master (test/scale.py); not part of everything
    bin/test sizes [SUBJECT...]              what large settings cost (test/sizes.py); not part of it either
    bin/test peers                           what other tools need for the same (test/peers.py); nor that
    bin/test judge [N] [SEED]                whether changes are judged rightly (test/judge); neither is that
    bin/test page                            the status page in a browser (test/page.py); nor that

An option and everything after it goes to pytest, but for two options, which stand anywhere after the command:

    --salt LINE       unit tests with this Salt line only (3008 or 3006)
    --seed N          other random draws than those of every run: N, or "random" for a number that nobody knows yet
"""

import concurrent.futures
import contextlib
import functools
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time

from rig import PREFIX, REPOSITORY, engine, gate, images, kitchen, limits, programs, results, venvs
from rig.container import Container, hosts, remove_all, run_label

STARTED = time.monotonic()
RUN = f"{os.getpid()}-{os.urandom(3).hex()}"
WORKERS = 2
CORES = os.cpu_count() or 1
# Suites that run beside each other: at least, and at most. In between the processors' idle time decides.
FEW, MANY = CORES, 5 * CORES
TOOLS = pathlib.Path(sys.executable).parent
# Of the unit tests in a full run: suites have clients that count seconds, they go first.
NICENESS = 5
# Suites with tests that measure CPU time (the mark ``alone``): nothing else runs beside those.
ALONE = ("cost",)
UNIT_TESTS = "unit tests"
# What takes minutes, the longest first: so each has begun, and none of them runs on alone at the end. The unit
# tests take what the shorter suites leave of the processors.
LONG = (
    "arrives",
    "killed",
    "states-of-host",
    "ways",
    "reactor",
    "fleet-ca",
    "sasl",
    "rollout",
    "options",
    "cost",
    "judge",
    "maps",
    "hardened",
    "bad-settings",
    "firewall",
    "export",
    "docs",
    "library",
    "sysv",
    "default",
    UNIT_TESTS,
    "renewal",
    "queue",
    "mail-flow",
    "table-servers",
)

# Random draws are the same in every run: a failure is due to the change at hand.
SEED = "1"

processes = set()
output_lock = threading.Lock()
# What took how long: (what, where, seconds).
times = []
# What failed, as the end of all output repeats it: a text each.
failures = []


def say(text):
    """A headline of the rig's own."""
    print(f"\n--- {text}", flush=True)


@contextlib.contextmanager
def timed(what, where=""):
    """A context whose duration is in the table at the end."""
    started = time.monotonic()
    try:
        yield
    finally:
        times.append((what, where, time.monotonic() - started))


def run(argv, env=None, live=True, stdin=None):
    """
    Run a program in the repository; its output and exit code.

    live: print every line as it comes, else nothing. stdin: text for its standard input.
    """
    process = subprocess.Popen(
        [str(arg) for arg in argv],
        cwd=REPOSITORY,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    processes.add(process)
    if stdin is not None:
        with process.stdin:
            process.stdin.write(stdin)
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
    # Copies of the guard are not other files.
    private = {path.name: path for path in sorted(REPOSITORY.glob("_*/_mta_*.py"), reverse=True)}
    python, shell = programs.scripts()
    linters = [
        ["ruff", "check", ".", *python],
        ["ruff", "format", "--check", ".", *python],
        ["python", "test/library.py"],
        ["python", "-I", "bin/docs", "--check"],
        ["mypy", *private.values()],
        ["yamllint", "--strict", "."],
        ["salt-lint", *states],
    ]
    counts = []
    for program, *args in linters:
        shown = " ".join([program, *(arg for arg in args if isinstance(arg, str))])
        counts.append(linted(shown, *run([TOOLS / program, *args], live=False)))
    for path in shell:
        text = programs.shell_part((REPOSITORY / path).read_text(encoding="utf-8"))
        argv = ["shellcheck", *([] if text.startswith("#!") else ["--shell=sh"]), "-"]
        counts.append(linted(f"shellcheck {path}", *run(argv, live=False, stdin=text)))
    return counts


def linted(what, output, code):
    """The count of one linter, whose output is printed."""
    with output_lock:
        say(what)
        print(output, end="", flush=True)
    if code:
        failures.append(f"{what}\n{results.shortened(output)}")
    return {"passed": int(code == 0), "failed": int(code != 0), "skipped": 0}


def bytecode():
    """The environment of a pytest run that keeps what it has compiled, but not in the repository."""
    return {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(venvs.cache() / "bytecode")}


def unit(args, lines=None):
    """The unit tests' counts, with each Salt line, or with some."""
    runs = unit_runs(args, lines)
    with concurrent.futures.ThreadPoolExecutor(len(runs)) as pool:
        return [count for done in pool.map(lambda one: one(), runs) for count in done]


def unit_runs(args=(), lines=None, niceness=0):
    """
    The unit tests as functions that return counts: of one Salt line each. niceness: see nice(1).

    Of all tests those of which nothing depends on Salt (the mark ``once``) run with one line, by themselves.
    """

    def tests(what, line, chosen):
        with timed(UNIT_TESTS, what):
            pytest = ["nice", f"-n{niceness}", venvs.python(line), "-m", "pytest"]
            output, code = run([*pytest, *chosen], bytecode(), live=False)
        with output_lock:
            say(f"{UNIT_TESTS}, {what}")
            print(output, end="", flush=True)
            failures.extend(results.in_short(output, f"{UNIT_TESTS}, {what}"))
        return [results.count(output, code, chosen=bool(args))]

    lines = lines or venvs.lines()
    runs = [] if args else [("any Salt", lines[0], ["test/unit", "-m", "once"])]
    runs += [(f"Salt {line}", line, args or ["test/unit", "-m", "not once"]) for line in lines]
    return [functools.partial(tests, *one) for one in runs]


def build(platforms):
    """Build the images of platforms, two at a time."""
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(images.platform_image, dict.fromkeys(platforms)))


def verify(instance, args, part=None):
    """
    Start an instance's host and run its suite there. Its counts; its output is printed in one piece.

    part: ``not alone`` leaves out the tests that measure, and leaves the host; ``alone`` runs them there.
    """
    name = f"{PREFIX}-{RUN}-{instance.name}"
    if part == "alone":
        container = Container(name)
    else:
        image = images.platform_image(instance.platform)
        container = Container.start(name, instance.driver, image, [run_label(RUN)])
    try:
        if part != "alone":
            container.provision(instance.provisioner)
        # Those of Test Kitchen's verifier, and one that says who has started the host.
        env = {**instance.environment(name), "POSTFIX_MTA_TEST_RUN": RUN}
        pytest = [sys.executable, "-m", "pytest", "-v", "--tb=short", "-p", "no:cacheprovider"]
        marked = ["-m", part] if part else []
        output, code = run([*pytest, *marked, *instance.pytest_args(name), *args], env, live=False)
    finally:
        if part != "not alone":
            container.remove()
    with output_lock:
        where = f"{instance.name}, {part}" if part else instance.name
        say(where)
        print(output, end="", flush=True)
        failures.extend(results.in_short(output, where))
    return results.count(output, code, chosen=bool(args))


def integration(chosen, args):
    """The counts of instances: several at a time, and then one after the other the tests that measure."""
    build(instance.platform for instance in chosen)
    return together(chosen, args) + alone(chosen, args)


def together(chosen, args, further=()):
    """
    The counts of what runs beside others: as many instances as the processors have time for.

    further: other functions that return counts, each with its name in ``LONG``.
    """
    say(f"container suites: {', '.join(instance.name for instance in chosen)}")
    parts = {suite: "not alone" for suite in ALONE}
    suites = [(one.suite, functools.partial(guarded, one, args, parts.get(one.suite))) for one in chosen]
    jobs = sorted([*suites, *further], key=lambda job: LONG.index(job[0]) if job[0] in LONG else len(LONG))
    door = gate.Gate(FEW)

    def one(function):
        with door.entered():
            return function()

    with concurrent.futures.ThreadPoolExecutor(MANY) as pool:
        running = [pool.submit(one, function) for _name, function in jobs]
        try:
            return [count for job in running for count in job.result()]
        except BaseException:
            for job in running:
                job.cancel()
            stop_processes()
            raise


def alone(chosen, args):
    """The counts of the tests that measure."""
    measuring = [instance for instance in chosen if instance.suite in ALONE]
    return [count for instance in measuring for count in guarded(instance, args, "alone")]


def guarded(instance, args, part=None):
    """The counts of an instance, or of a part of it; one failure when its host could not even be started."""
    try:
        with timed(instance.suite, " ".join(filter(None, [instance.platform, part]))):
            return [verify(instance, args, part)]
    except (engine.DockerError, AssertionError, subprocess.TimeoutExpired) as error:
        with output_lock:
            say(f"{instance.name}: no tests ran\n{error}")
            failures.append(f"{instance.name}: no tests ran\n{error}")
        return [{"passed": 0, "failed": 1, "skipped": 0}]


def everything():
    """The counts of all: the unit tests run while images are built, or else beside the shorter suites."""
    chosen = kitchen.instances()
    units = unit_runs(niceness=NICENESS)
    with concurrent.futures.ThreadPoolExecutor(1 + len(units)) as beside:
        try:
            early = [beside.submit(lint)]
            late = []
            if all(map(images.is_built, kitchen.platforms())):
                late = [(UNIT_TESTS, run) for run in units]
            else:
                early += map(beside.submit, units)
            with timed("images"):
                build(kitchen.platforms())
            counts = together(chosen, [], late)
            return counts + [count for job in early for count in job.result()] + alone(chosen, [])
        except BaseException:
            stop_processes()
            raise


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
    with engine.running(), limits.raised(still_needed=hosts):
        try:
            yield
        finally:
            remove_all(run_label(RUN))


def finish(counts):
    """Print where the time went, what failed, and the closing line; the exit code."""
    if len(times) > 1:
        say(f"where the time went, in seconds, of {time.monotonic() - STARTED:.0f} in all")
        print(results.table(times))
    if failures and len(times) > 1:
        say("what failed")
        print("\n\n".join(failures))
    ran = sum(item["passed"] + item["failed"] for item in counts)
    if not ran:
        print(f"\nbin/test: no test {'ran' if any(item['skipped'] for item in counts) else 'was selected'}")
    print("\n" + results.closing_line(counts), flush=True)
    return int(not ran or any(item["failed"] for item in counts))


def take(words, option):
    """The value of ``--option VALUE`` or ``--option=VALUE`` (``None``: not there), and the words without it."""
    words = list(words)
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == option:
            if not equals and index + 1 == len(words):
                raise ValueError(f"{option} needs a value")
            end = index + (1 if equals else 2)
            return (value if equals else words[index + 1]), words[:index] + words[end:]
    return None, words


def seed_draws(seed):
    """Hand the seed of all random draws to the pytest runs: hypothesis has an option, suites read a variable."""
    if seed == "random":
        seed = str(random.randrange(10**6))
    if not seed.isdigit():
        raise ValueError(f"--seed: not a number: {seed}")
    if seed != SEED:
        print(f"Random draws with --seed {seed}", flush=True)
    os.environ["POSTFIX_MTA_SEED"] = seed
    os.environ["PYTEST_ADDOPTS"] = f"{os.environ.get('PYTEST_ADDOPTS', '')} --hypothesis-seed={seed}".strip()


def main(command="all", *words):
    """Run a command of ``bin/test``; the exit code."""
    # In the background of a shell these are ignored, and would be by all that starts here, hosts' programs too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    seed, words = take(words, "--seed")
    line, words = take(words, "--salt")
    seed_draws(SEED if seed is None else seed)
    if line is not None and (command != "unit" or line not in venvs.lines()):
        raise ValueError(f"--salt is for bin/test unit, and one of {', '.join(venvs.lines())}")
    if command == "all" and not words:
        with clean_engine():
            return finish(everything())
    if command == "lint":
        return finish(lint())
    if command == "unit":
        return finish(unit(words, line and [line]))
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
    if command in ("scale", "sizes", "peers"):
        with clean_engine():
            return run([sys.executable, f"test/{command}.py", *words], {"PYTHONPATH": REPOSITORY / "test"})[1]
    if command == "judge":
        with clean_engine():
            return run([sys.executable, "-m", "judge", *words], {"PYTHONPATH": REPOSITORY / "test"})[1]
    if command == "page" and not words:
        path = os.pathsep.join(str(REPOSITORY / name) for name in ("test", "_runners"))
        return run([sys.executable, "test/page.py"], {"PYTHONPATH": path})[1]
    if command == "pytest":
        if all(word.startswith("-") for word in words):
            raise ValueError("pytest needs a FILE or FILE::TEST; all unit tests: bin/test unit")
        os.chdir(REPOSITORY)
        os.environ.update(bytecode())
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
