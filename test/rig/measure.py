"""What a program costs inside a host under test: processor time, time and memory."""

import json
import typing

# Its output goes into a file, for what it starts may keep a pipe open.
PROGRAM = """
import json, os, subprocess, sys, tempfile, time
with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
    begun = time.monotonic()
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=output, stderr=errors)
    _, status, usage = os.wait4(process.pid, 0)
    seconds, said = time.monotonic() - begun, []
    for file in (output, errors):
        file.seek(0)
        said.append(file.read().decode(errors="replace"))
code = os.waitstatus_to_exitcode(status)
print(json.dumps([code, usage.ru_utime + usage.ru_stime, seconds, usage.ru_maxrss / 1024, *said]))
"""


class Cost(typing.NamedTuple):
    """
    What a program cost.

    cpu: CPU seconds of it and of its children. seconds: how long it took. megabytes: the most that one of these
    processes had resident.
    """

    cpu: float
    seconds: float
    megabytes: float


def measured(container, argv, timeout=3600):
    """Run a program in a container; what it cost, its output and its errors. AssertionError when it fails."""
    done = container.exec(["python3", "-c", PROGRAM, *argv], timeout=timeout)
    code, *cost, said, errors = json.loads(done.stdout)
    assert code == 0, f"{argv}: {code}\n{said[-4000:]}{errors[-4000:]}"
    return Cost(*cost), said, errors
