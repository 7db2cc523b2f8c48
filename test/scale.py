#!/usr/bin/env python3
"""
What an apply with nothing to change costs a salt-master, and how that grows with the number of its minions.

    bin/test scale [--platform debian-12-salt-3008] [--rounds 3] [--out FILE] [MINIONS...]

Every minion is a mail server in a container of its own, beside its master on this machine. Their image has the
packages already; all else is each server's first apply: own name, own certificate. The minions have no systemd:
a kernel as it comes has inotify objects for 15 that have (fs.inotify.max_user_instances). Times are CPU seconds,
so that other work on the machine counts little: of the master's unit, of the `salt` command beside it, and of a
minion's whole container. Medians of the rounds; the line through them gives what one more minion costs.

Salt's own share is measured in turn with it, on the same minions: a ``state.apply`` of one ``test.nop``. At the
end the largest fleet is looked at (``postfix_mta.status``), and gets a rollout in which nothing is to change.
``--out`` adds the figures to a file, for test/plot.py.
"""

import argparse
import collections
import json
import signal
import statistics
import sys
import time

import plot

from rig import PREFIX, images, kitchen
from rig.container import Container, remove_all
from rig.engine import docker
from rig.fleet import STATES, Fleet, start_containers

LABEL = f"{PREFIX}.scale"
PACKAGES = "postfix libsasl2-2 sasl2-bin libsasl2-modules"
PILLAR = {"postfix_mta": {"certificate": {"key_type": "ec"}}}
REFERENCE = "postfix_mta_reference"
APPLIES = (REFERENCE, "postfix_mta")
# So many at a time join and become mail servers.
GROUP = 5
# The fleet of which the last lines speak: minions, and seconds from one apply to the next.
FLEET, INTERVAL = 10_000, 1800

# Kilobytes are those that the master sends to a minion, and gets from it.
COLUMNS = ("master CPU s", "salt CPU s", "minion CPU s", "kB sent", "kB received", "master MB", "minion MB")
GROWING = COLUMNS[:2]
# CPU time in microseconds: of the master (on a minion of all), and of the whole container. Bytes sent and
# received. Kilobytes of Salt's daemons; what several processes share is counted once.
COUNTERS = """
all=/sys/fs/cgroup unit=/sys/fs/cgroup/system.slice/salt-master.service
[ -e $unit ] || unit=$all
sed -n 's/^usage_usec //p' $unit/cpu.stat
sed -n 's/^usage_usec //p' $all/cpu.stat
cat /sys/class/net/eth0/statistics/tx_bytes /sys/class/net/eth0/statistics/rx_bytes
for process in $(pgrep -f 'bin/salt-(master|minion)'); do
    sed -n 's/^Pss: *\\([0-9]*\\) kB/\\1/p' "/proc/$process/smaps_rollup"
done | awk '{ sum += $1 } END { print sum + 0 }'
"""
# Each request that the master answers becomes an event (master_stats), one line: tag and data.
REQUESTS = "/root/requests"
LISTEN = f"exec salt-run state.event '*MWorker*' >{REQUESTS} 2>/dev/null"


def counters(container):
    """CPU seconds so far of the master and of all, bytes sent and received so far, megabytes now."""
    unit, whole, sent, received, memory = map(int, container.exec(COUNTERS).stdout.split())
    return unit / 1e6, whole / 1e6, sent, received, memory / 1024


def measure(fleet, sls="postfix_mta"):
    """One apply of all minions with nothing to change; what it cost, by column."""
    names = list(fleet.minions)

    def look():
        time.sleep(2)  # for the processes of the last job to end
        return counters(fleet.master), [counters(fleet.minions[name]) for name in names]

    master, minions = look()
    returns = fleet.apply("*", sls)
    master_after, minions_after = look()
    for name in names:
        wrong = {key: one for key, one in returns[name].items() if one["changes"] or not one["result"]}
        assert not wrong, f"{name}: {wrong}"
    unit, whole, sent, received, _ = (after - before for after, before in zip(master_after, master))
    whole_minions = [after[1] - before[1] for after, before in zip(minions_after, minions)]
    kilobytes = [amount / 1000 / len(names) for amount in (sent, received)]
    minion_memory = statistics.mean(one[4] for one in minions_after)
    cells = [unit, whole - unit, statistics.mean(whole_minions), *kilobytes, master_after[4], minion_memory]
    return dict(zip(COLUMNS, cells))


def idle(fleet, seconds=30):
    """CPU seconds per minute of the master, and of a minion, while nothing is asked of them."""
    first, *_ = fleet.minions.values()
    before = counters(fleet.master)[0], counters(first)[0]
    time.sleep(seconds)
    after = counters(fleet.master)[0], counters(first)[0]
    return [(late - early) * 60 / seconds for late, early in zip(after, before)]


def grow(fleet, start, number):
    """Add minions until there are so many, and let the new ones become mail servers."""
    new = [f"mail{count}.example.com" for count in range(len(fleet.minions) + 1, number + 1)]
    for first in range(0, len(new), GROUP):
        group = new[first : first + GROUP]
        fleet.join(start_containers(start, group), dict.fromkeys(group, PILLAR))
        for name, states in fleet.apply(group).items():
            failed = {key: one for key, one in states.items() if not one["result"]}
            assert not failed, f"{name}: {failed}"


def reconfigure(fleet, **settings):
    """Give the master further settings, and restart it."""
    fleet.master.put({"/etc/salt/master.d/scale.conf": json.dumps(settings)})
    fleet.restart()


def requests(fleet, name, act):
    """
    What one minion asks of the master during ``act()``: request to number and milliseconds of the master's time;
    and how many kilobytes it gets.
    """
    fleet.master.exec(f"sleep 2; : >{REQUESTS}")
    received = counters(fleet.minions[name])[3]
    act()
    time.sleep(3)
    kilobytes = (counters(fleet.minions[name])[3] - received) / 1000
    found = collections.defaultdict(lambda: [0, 0.0])
    for line in fleet.master.exec(["cat", REQUESTS]).stdout.splitlines():
        for request, one in json.loads(line.partition("\t")[2])["stats"].items():
            found[request][0] += one["runs"]
            found[request][1] += one["runs"] * one["mean"] * 1000
    return dict(found), kilobytes


def show_requests(fleet):
    """Print what one minion asks of the master: when its cache of files is empty, and when nothing has changed."""
    name = next(iter(fleet.minions))
    reconfigure(fleet, master_stats=True, master_stats_event_iter=0)
    fleet.master.exec(["systemd-run", "--quiet", "--collect", "--unit=requests", "sh", "-c", LISTEN])
    for _ in range(3):
        # Each of the master's workers loads its modules with its first pillar.
        fleet.salt(list(fleet.minions), "pillar.items")
    # The salt command's own requests are not the minion's: salt-call asks.
    call = ["salt-call", "state.apply", "postfix_mta", "--out=quiet"]
    minion = fleet.minions[name]
    minion.exec(["rm", "-rf", "/var/cache/salt/minion/files", "/var/cache/salt/minion/extmods"])
    for what in ("its cache is empty", "nothing has changed"):
        asked, kilobytes = requests(fleet, name, lambda: minion.exec(call))
        number, busy = (sum(one[index] for one in asked.values()) for index in (0, 1))
        print(f"\na salt-call of one minion, {what}: {number} requests, {busy:.0f} ms, {kilobytes:.0f} kB to it")
        for request, (count, milliseconds) in sorted(asked.items(), key=lambda one: -one[1][1]):
            print(f"    {request:<24}{count:>5}{milliseconds:>9.1f} ms")
    fleet.master.exec(["systemctl", "stop", "requests"])


def slope(points):
    """What one more costs, and what there is without any: the line nearest to the points (number, value)."""
    x, y = (statistics.mean(column) for column in zip(*points))
    spread = sum((number - x) ** 2 for number, _ in points)
    grade = sum((number - x) * (value - y) for number, value in points) / spread if spread else y / x
    return grade, y - grade * x


def line(head, cells):
    """A line of the table."""
    return f"{head:>8}" + "".join(f"{cell:>16}" for cell in cells)


def show(fleet, head, rounds):
    """Measure both in turn and print a line of the table for each; the medians by column, of both."""
    found = {sls: [] for sls in APPLIES}
    for _ in range(rounds + 1):
        for sls, costs in found.items():
            costs.append(measure(fleet, sls))
    rows = []
    for sls, costs in found.items():
        row = {column: statistics.median(one[column] for one in costs[1:]) for column in COLUMNS}
        name = f"{head} nop" if sls == REFERENCE else head
        print(line(name, [f"{value:.2f}" for value in row.values()]), flush=True)
        rows.append(row)
    return rows


def show_runners(fleet, rounds):
    """What looking at all servers costs, and a rollout to them; CPU seconds of the master and of ``salt-run``."""
    everything = {"tgt": "mail*", "share": "50%", "settle": 0}

    def status():
        fleet.run("postfix_mta.status", "mail*", format="json", login=False, timeout=120)

    def rollout():
        outcome = fleet.run("postfix_mta.rollout", **everything)
        assert outcome["status"] == "finished", outcome["report"]

    fleet.run("saltutil.sync_runners")
    rows = {}
    for name, act in (("status", status), ("rollout", rollout)):
        taken = []
        for _ in range(rounds + 1):
            time.sleep(2)
            before, begun = counters(fleet.master), time.monotonic()
            act()
            seconds = time.monotonic() - begun
            time.sleep(2)
            after = counters(fleet.master)
            unit, whole = (late - early for late, early in zip(after[:2], before[:2]))
            taken.append((unit, whole - unit, seconds))
        rows[name] = list(map(statistics.median, zip(*taken[1:])))
        master, runner, seconds = rows[name]
        print(
            f"{name}: {master:.2f} CPU s of the master, {runner:.2f} of salt-run, in {seconds:.1f} s", flush=True
        )
    return rows


def estimate(table):
    """Print what one more minion costs, and what that is for a large fleet."""
    print()
    grades = {}
    for index, sls in enumerate(APPLIES):
        for column in GROWING:
            grades[sls, column], base = slope([(number, rows[index][column]) for number, rows in table.items()])
            print(f"{sls}, {column}: {grades[sls, column]:.4f} for each minion, and {base:.2f}")
    nop, grade = (grades[sls, GROWING[0]] for sls in APPLIES)
    largest = table[max(table)][-1]
    seconds, megabytes = FLEET * grade, FLEET * (largest["kB sent"] + largest["kB received"]) / 1000
    print(
        f"one apply of {FLEET} minions: {seconds:.0f} CPU seconds of the master, of which {FLEET * nop:.0f} are "
        f"Salt's own, {megabytes:.0f} MB; every {INTERVAL // 60} minutes that is {seconds / INTERVAL:.2f} cores "
        f"and {megabytes / INTERVAL:.2f} MB/s"
    )


def prepared(instance, name):
    """Make the image of the minions: the platform's with the packages that the formula would install."""
    platform = images.platform_image(instance.platform)
    host = Container.start(f"{PREFIX}-scale-image", instance.driver, platform, [LABEL])
    host.exec(f"DEBIAN_FRONTEND=noninteractive apt-get install -qq -y {PACKAGES}")
    images.commit(host.name, name)
    host.remove()


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bin/test scale", description=__doc__.strip().partition("\n")[0])
    parser.add_argument("numbers", metavar="MINIONS", type=int, nargs="*", default=[5, 10, 20, 30])
    parser.add_argument("--platform", default="debian-12-salt-3008")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out")
    options = parser.parse_args()
    instance = kitchen.choose(["rollout", options.platform])[0]
    image = f"{PREFIX}:scale"

    def start(name, **changed):
        driver = {**instance.driver, "hostname": name, **changed}
        return Container.start(f"{PREFIX}-scale-{name.partition('.')[0]}", driver, image, [LABEL])

    def start_minion(name):
        options = {**instance.driver["run_options"], "init": True}
        command = instance.driver["run_command"].replace("/sbin/init", "sleep infinity")
        return start(name, run_options=options, run_command=command)

    # So that what was started goes, too.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        prepared(instance, image)
        fleet = Fleet.start(start("salt.example.com"), {}, {})
        fleet.master.put({f"{STATES}/{REFERENCE}.sls": f"{REFERENCE}:\n  test.nop: []\n"})
        print(line("minions", COLUMNS), flush=True)
        table = {}
        for number in sorted(set(options.numbers)):
            grow(fleet, start_minion, number)
            table[number] = show(fleet, number, options.rounds)
        runners = show_runners(fleet, options.rounds)
        quiet = idle(fleet)
        reconfigure(fleet, pillar_cache=True)
        show(fleet, f"{number} *", options.rounds)
        print("* with pillar_cache: true")
        print(f"\nidle, CPU seconds per minute: master {quiet[0]:.2f}, a minion {quiet[1]:.2f}")
        estimate(table)
        masters = {"minions": list(table), "runners": runners}
        for index, name in enumerate(("reference", "ours")):
            masters[name] = [rows[index][GROWING[0]] for rows in table.values()]
        plot.keep(options.out, "fleet", masters)
        show_requests(fleet)
    finally:
        remove_all(LABEL)
        if images.exists(image):
            docker("rmi", "--force", image)


if __name__ == "__main__":
    sys.exit(main())
