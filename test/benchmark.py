#!/usr/bin/env python3
"""
What an apply with nothing to change costs, against a ``state.apply`` of one ``test.nop``.

Runs on a host that the formula has converged (``bin/test integration cost``). CPU seconds are user + system
of the whole process tree: masterless those of ``salt-call`` and its children; on a minion those of the control
group of the systemd unit salt-minion-cost. The two are measured in turn; medians are compared.

    benchmark.py masterless --rounds 7 -- salt-call --local
    benchmark.py minion --rounds 7 -- salt mail.example.com
"""

import argparse
import pathlib
import resource
import statistics
import subprocess
import sys
import time

LIMITS = {"masterless": 1.20, "minion": 1.60}
REFERENCE = "postfix_mta_reference"
# How far the costs of the reference may lie apart, and the exit code where they do not tell.
STEADY, UNSTEADY = 0.15, 3
UNIT = "salt-minion-cost.service"


def children_seconds():
    """CPU seconds of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def minion_seconds():
    """CPU seconds of the control group in which salt-minion runs, with everything that it has started."""
    time.sleep(1)  # for the process of the last job to end
    pid = subprocess.run(
        ["systemctl", "show", "--value", "--property=MainPID", UNIT], stdout=subprocess.PIPE, check=True
    )
    groups = pathlib.Path(f"/proc/{int(pid.stdout)}/cgroup").read_text().splitlines()
    group = next(line[3:] for line in groups if line.startswith("0::"))
    statistic = pathlib.Path(f"/sys/fs/cgroup{group}/cpu.stat").read_text().split()
    return int(statistic[statistic.index("usage_usec") + 1]) / 1e6


def last_task():
    """The newest process or thread of this host; the difference of two tells how many came in between."""
    return int(pathlib.Path("/proc/sys/kernel/ns_last_pid").read_text())


def measure(command, sls, clock):
    """CPU seconds that one apply of ``sls`` takes by ``clock``."""
    before = clock()
    command = [*command, "state.apply", sls, "--out=json"]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        sys.exit(f"state.apply {sls} failed with {done.returncode}")
    return clock() - before


def main():
    """Measure both in turn, print the medians and the ratio; exit with 1 above the limit, 3 on a busy machine."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("kind", choices=LIMITS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("command", nargs="+")
    args = parser.parse_args()
    clock = children_seconds if args.kind == "masterless" else minion_seconds
    seconds = {REFERENCE: [], "postfix_mta": []}
    for sls in seconds:
        measure(args.command, sls, clock)
    for _ in range(args.rounds):
        for sls, taken in seconds.items():
            taken.append(measure(args.command, sls, clock))
    reference, formula = (statistics.median(taken) for taken in seconds.values())
    ratio = formula / reference
    tasks = {}
    for sls in seconds:
        before = last_task()
        measure(args.command, sls, clock)
        tasks[sls] = last_task() - before
    print(
        f"{args.kind}: reference {reference:.3f} s, no-change apply {formula:.3f} s, "
        f"ratio {ratio:.2f} (limit {LIMITS[args.kind]:.2f}, medians of {args.rounds}); "
        f"processes and threads {tasks[REFERENCE]} and {tasks['postfix_mta']}"
    )
    if ratio <= LIMITS[args.kind]:
        return 0
    # The same work at very different costs: others are using the processor, and the ratio tells of them.
    reference_spread = (max(seconds[REFERENCE]) - min(seconds[REFERENCE])) / reference
    return UNSTEADY if reference_spread > STEADY else 1


if __name__ == "__main__":
    sys.exit(main())
