#!/usr/bin/env python3
"""
Measure what an apply with nothing to change costs a master and its minions, and how that grows with their number.

    scale.py [--platform debian-12-salt-3008] [--rounds 3] 5 10 20 30

All minions are mail servers in containers of their own, on this machine, together with the master. For each number
of minions: seconds from the command to the last answer, CPU seconds of the master and of a minion, bytes that the
master sent to a minion, memory of both. Medians. It needs the rig's images (``bin/test image PLATFORM``).
"""

import argparse
import json
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from rig import PREFIX, images, kitchen
from rig.container import Container, remove_all
from rig.fleet import Fleet, start_containers

LABEL = f"{PREFIX}.scale"
COLUMNS = ("seconds", "master CPU s", "minion CPU s", "kB to a minion", "master MB", "minion MB")
PILLAR = {"postfix_mta": {"certificate": {"key_type": "ec"}}}
# Of a container: CPU time in microseconds, bytes sent, and kilobytes of Salt's processes.
COUNTERS = """
sed -n 's/^usage_usec //p' /sys/fs/cgroup/cpu.stat
cat /sys/class/net/eth0/statistics/tx_bytes
for process in /proc/[0-9]*; do
    grep -qs salt "$process/cmdline" && sed -n 's/^Pss: *\\([0-9]*\\) kB/\\1/p' "$process/smaps_rollup"
done | awk '{ sum += $1 } END { print sum + 0 }'
"""


def line(number, cells):
    """A line of the table."""
    return f"{number:>7}" + "".join(f"{cell:>16}" for cell in cells)


def counters(container):
    """CPU seconds so far, bytes sent so far, megabytes of Salt's processes now."""
    cpu, sent, memory = container.exec(COUNTERS).stdout.split()
    return int(cpu) / 1e6, int(sent), int(memory) / 1024


def apply(fleet, names):
    """One apply on some minions, whatever time it takes a busy machine; the results of each."""
    how = {"kwargs": {"mods": "postfix_mta"}, "timeout": 60, "patience": 60, "late": 300}
    returns, silent = fleet.run("postfix_mta.ask", json.dumps(names), "list", "state.apply", **how)
    assert not silent, f"no answer from {', '.join(silent)}"
    for states in returns.values():
        assert isinstance(states, dict) and all(state["result"] for state in states.values()), states
    return returns


def measure(fleet, names):
    """One apply on some minions; what it cost."""
    before = {name: counters(fleet.minions[name]) for name in names}
    master = counters(fleet.master)
    began = time.monotonic()
    returns = apply(fleet, names)
    took = time.monotonic() - began
    master_after = counters(fleet.master)
    after = {name: counters(fleet.minions[name]) for name in names}
    assert not any(state["changes"] for states in returns.values() for state in states.values())
    figures = (
        took,
        master_after[0] - master[0],
        statistics.mean(after[name][0] - before[name][0] for name in names),
        (master_after[1] - master[1]) / 1000 / len(names),
        master_after[2],
        statistics.mean(after[name][2] for name in names),
    )
    return dict(zip(COLUMNS, figures))


def grow(fleet, start, number):
    """Add minions until there are so many, and let all of them become mail servers."""
    new = [f"mail{count}.example.com" for count in range(len(fleet.minions) + 1, number + 1)]
    containers = start_containers(start, new)
    fleet.join(containers, dict.fromkeys(new, PILLAR))
    for first in range(0, len(new), 5):
        apply(fleet, new[first : first + 5])


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("numbers", type=int, nargs="+", help="how many minions, ascending")
    parser.add_argument("--platform", default="debian-12-salt-3008")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    instance = kitchen.choose(["rollout", options.platform])[0]
    image = images.platform_image(options.platform)

    def start(name):
        driver = {**instance.driver, "hostname": name}
        return Container.start(f"{PREFIX}-scale-{name.partition('.')[0]}", driver, image, [LABEL])

    try:
        fleet = Fleet.start(start("salt.example.com"), {}, {})
        fleet.run("saltutil.sync_runners")
        print(line("minions", COLUMNS), flush=True)
        for number in sorted(options.numbers):
            grow(fleet, start, number)
            names = list(fleet.minions)
            measure(fleet, names)
            found = [measure(fleet, names) for _ in range(options.rounds)]
            medians = [statistics.median(one[what] for one in found) for what in COLUMNS]
            print(line(number, [f"{value:.2f}" for value in medians]), flush=True)
    finally:
        remove_all(LABEL)


if __name__ == "__main__":
    main()
