#!/usr/bin/env python3
"""
What an apply with nothing to change costs, against a ``state.apply`` of one ``test.nop``.

Runs on a host that the formula has converged (``bin/test integration cost``). CPU seconds are user + system
of the whole process tree: masterless those of ``salt-call`` and its children; on a minion those of the control
group of the systemd unit salt-minion-cost, and beside them what its master, salt-master-cost, has to do. The two
are measured in turn; medians are compared.

    benchmark.py masterless --rounds 7 -- salt-call --local
    benchmark.py minion --rounds 7 -- salt mail.example.com
    benchmark.py growth --rounds 5 --pillar /srv/pillar/postfix_mta.sls -- salt-call --local
    benchmark.py change --rounds 5 --pillar /srv/pillar/postfix_mta.sls -- salt-call --local
    benchmark.py first --rounds 3 -- salt-call --local
    benchmark.py arriving --turns 3 --pillar /srv/pillar/postfix_mta.sls [--on-minion] -- salt-call --local

``growth`` is masterless, too, with a large pillar, half of it and nothing in turn, which are written to a file and
applied: 100 parameters, 10 services, 10 tables of 1,000 entries, 100 aliases.

``change`` and ``first`` tell seconds by the clock beyond those of the reference: of an apply that changes one
parameter, and of the first one on a host without the packages, beyond what apt takes for them. ``first`` removes
the mail server and all that is remembered of it.

``arriving`` compares a server that signs, has records for the DNS and keeps to MTA-STS policies with the same one
that does not: each is made of the other, ``--turns`` times, and measured against the reference.
"""

import argparse
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import time

LIMITS = {"masterless": 1.12, "minion": 1.35, "growth": 1.30, "arriving": 1.05, "change": 1.5, "first": 15.0}
REFERENCE = "postfix_mta_reference"
# How far the costs of the reference may lie apart, and the exit code where they do not tell.
STEADY, UNSTEADY = 0.15, 3
UNITS = ("salt-minion-cost.service", "salt-master-cost.service")


def children_seconds():
    """CPU seconds of all children that have ended, alone in a tuple."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (usage.ru_utime + usage.ru_stime,)


def daemons_clock():
    """A function: CPU seconds of the control groups of minion and master, with all that they have started."""
    minion, master = (control_group(unit) for unit in UNITS)
    time.sleep(1)
    at_rest = len(processes(minion))

    def clock():
        until = time.monotonic() + 5
        while len(processes(minion)) > at_rest and time.monotonic() < until:
            time.sleep(0.02)  # for the process of the last job to end
        return group_seconds(minion), group_seconds(master)

    return clock


def control_group(unit):
    """The folder of the control group of a unit."""
    pid = subprocess.run(
        ["systemctl", "show", "--value", "--property=MainPID", unit], stdout=subprocess.PIPE, check=True
    )
    groups = pathlib.Path(f"/proc/{int(pid.stdout)}/cgroup").read_text().splitlines()
    return pathlib.Path(f"/sys/fs/cgroup{next(line[3:] for line in groups if line.startswith('0::'))}")


def processes(group):
    """The processes of a control group."""
    return (group / "cgroup.procs").read_text().split()


def group_seconds(group):
    """CPU seconds of a control group."""
    statistic = (group / "cpu.stat").read_text().split()
    return int(statistic[statistic.index("usage_usec") + 1]) / 1e6


def last_task():
    """The newest process or thread of this host; the difference of two tells how many came in between."""
    return int(pathlib.Path("/proc/sys/kernel/ns_last_pid").read_text())


def measure(command, sls, clock):
    """CPU seconds that one apply of ``sls`` takes, one figure for each of ``clock``."""
    before = clock()
    command = [*command, "state.apply", sls, "--out=json"]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        sys.exit(f"state.apply {sls} failed with {done.returncode}")
    return tuple(now - then for now, then in zip(clock(), before))


def measure_in_turn(command, clock, rounds):
    """
    CPU seconds of the reference and of the formula: medians of some rounds, and the costs of the reference.

    The first figure of ``clock`` counts. Returns also the medians of the last one, of both.
    """
    seconds = {REFERENCE: [], "postfix_mta": []}
    for sls in seconds:
        measure(command, sls, clock)
    for _ in range(rounds):
        for sls, taken in seconds.items():
            taken.append(measure(command, sls, clock))
    first = {sls: [figures[0] for figures in taken] for sls, taken in seconds.items()}
    last = [statistics.median(figures[-1] for figures in taken) for taken in seconds.values()]
    return *(statistics.median(taken) for taken in first.values()), first[REFERENCE], last


def verdict(good, references):
    """The exit code. Where the same work has very different costs, others use the processor: 3, not 1."""
    spread = max((max(taken) - min(taken)) / statistics.median(taken) for taken in references)
    return 0 if good else UNSTEADY if spread > STEADY else 1


def large_pillar(size):
    """So much (0 to 1) of 100 parameters, 10 services, 10 tables of 1,000 entries and 100 aliases."""
    numbers = range(int(10 * size))
    classes = {f"smtpd_{number}_class": "permit_mynetworks, reject" for number in range(98 * len(numbers) // 10)}
    tables = {
        f"table{number}": {"entries": {f"user{user}@{number}.example": f"user{user}" for user in range(1000)}}
        for number in numbers
    }
    named = {
        "smtpd_restriction_classes": list(classes),
        "virtual_alias_maps": [f"{{maps.{name}}}" for name in tables],
    }
    override = {"smtp_helo_timeout": "30s"}
    slow = {"private": True, "chroot": True, "process_limit": 1, "command": "smtp", "overrides": override}
    settings = {
        "root_recipient": "alice",
        "parameters": {**classes, **named} if tables else {},
        "services": {f"slow{number}/unix": slow for number in numbers},
        "maps": tables,
        "aliases": {f"alias{number}": ["alice", "root"] for number in range(10 * len(numbers))},
    }
    return {"postfix_mta": settings}


def growth(args):
    """Measure nothing, half and all of the large pillar; print ratio and slope; return as :func:`verdict` does."""
    found, references = [], []
    for size in (0, 0.5, 1):
        pathlib.Path(args.pillar).write_text(json.dumps(large_pillar(size)))
        measure(args.command, "postfix_mta", children_seconds)
        reference, formula, taken, _ = measure_in_turn(args.command, children_seconds, args.rounds)
        found.append((reference, formula))
        references.append(taken)
        print(f"growth to {size:.0%}: reference {reference:.3f} s, no-change apply {formula:.3f} s")
    own = [formula - reference for reference, formula in found]
    halves = [own[1] - own[0], own[2] - own[1]]
    ratio = found[-1][1] / found[-1][0]
    print(
        f"growth: ratio {ratio:.2f} (limit {LIMITS['growth']:.2f}, medians of {args.rounds}); beside the reference"
        f" {own[0]:.3f} s, and for the halves {halves[0]:.3f} and {halves[1]:.3f} s: a slope of"
        f" {100 * (own[2] - own[0]):.1f} ms for 10 parameters, 1 service, 1 table of 1,000 entries and 10 aliases"
    )
    linear = halves[1] <= 2 * max(halves[0], 0.05)
    return verdict(ratio <= LIMITS["growth"] and linear, references)


ARRIVING = {
    "dkim": {"domains": ["example.com"]},
    "dns": {"follow_mta_sts": True, "mta_sts": "enforce", "tls_reports": "mailto:tls@{domain}"},
}


def arriving(args, clock):
    """Measure with and without what makes mail arrive; print the ratio; return as :func:`verdict` does."""
    plain = {"root_recipient": "alice"}
    pillars = {"without": plain, "with": {**plain, **ARRIVING}}
    ratios, references = {name: [] for name in pillars}, []
    for _ in range(args.turns):
        for name, settings in pillars.items():
            pathlib.Path(args.pillar).write_text(json.dumps({"postfix_mta": settings}))
            measure(args.command, "postfix_mta", clock)
            reference, formula, taken, _ = measure_in_turn(args.command, clock, args.rounds)
            ratios[name].append(formula / reference)
            references.append(taken)
            print(f"arriving, {name}: reference {reference:.3f} s, no-change apply {formula:.3f} s", flush=True)
    without, with_it = (statistics.median(found) for found in ratios.values())
    ratio = with_it / without
    print(
        f"arriving{' on a minion' * args.on_minion}: {without:.2f} and {with_it:.2f} of the reference, ratio"
        f" {ratio:.3f} (limit {LIMITS['arriving']:.2f}, medians of {args.rounds} in {args.turns} turns)"
    )
    return verdict(ratio <= LIMITS["arriving"], references)


def seconds(command):
    """Seconds by the clock that a command takes."""
    began = time.monotonic()
    subprocess.run(command, shell=isinstance(command, str), stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - began


def told(kind, own, reference, others=0.0):
    """
    Print what an apply takes beyond the reference and what others take; return as :func:`verdict` does.

    The fastest of some rounds: others use the processor, and where two of Postfix's agents tell bounce(8) of one
    message at the same moment, one of them waits a second (``deliver_lock_delay``).
    """
    beyond = min(own) - min(reference) - others
    besides = f"reference {min(reference):.2f} s" + (f", apt {others:.2f} s" if others else "")
    print(
        f"{kind}: {min(own):.2f} s by the clock, {besides}: {beyond:.2f} s beyond that"
        f" (limit {LIMITS[kind]:.2f}, the fastest of {len(own)} each)"
    )
    return verdict(beyond <= LIMITS[kind], [reference])


def change(args):
    """Measure an apply that changes one parameter; return as :func:`verdict` does."""
    state = [*args.command, "state.apply"]
    own, reference = [], []
    for number in range(args.rounds + 1):
        settings = {"root_recipient": "alice", "parameters": {"message_size_limit": 20_000_000 + number}}
        pathlib.Path(args.pillar).write_text(json.dumps({"postfix_mta": settings}))
        own.append(seconds([*state, "postfix_mta"]))
        reference.append(seconds([*state, REFERENCE]))
    return told("change", own[1:], reference[1:])


PACKAGES = "postfix libsasl2-2 sasl2-bin libsasl2-modules"
BARE = f"""
apt-get -q -y purge {PACKAGES}
rm -rf /etc/postfix /var/lib/postfix /var/spool/postfix /var/lib/postfix_mta /var/cache/salt/minion
rm -rf /etc/aliases* /etc/ssl/certs/cacert.pem /etc/ssl/private/cakey.pem /etc/ssl/*/smtpd.*
"""
INSTALL = f"apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q -y install {PACKAGES}"


def first(args):
    """Measure the first apply of a host; return as :func:`verdict` does."""
    own, apt, reference = [], [], []
    for _ in range(args.rounds):
        for taken, command in (
            (apt, INSTALL),
            (own, [*args.command, "state.apply", "postfix_mta"]),
            (reference, [*args.command, "state.apply", REFERENCE]),
        ):
            seconds(BARE)
            taken.append(seconds(command))
    seconds([*args.command, "state.apply", "postfix_mta"])
    return told("first", own, reference, min(apt))


def main():
    """Measure both in turn, print the medians and the ratio; exit with 1 above the limit, 3 on a busy machine."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("kind", choices=LIMITS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--pillar", help="for growth, change, arriving: the file with the formula's pillar")
    parser.add_argument("--turns", type=int, default=1, help="for arriving: how often each is made of the other")
    parser.add_argument("--on-minion", action="store_true", help="for arriving: measured as minion is")
    parser.add_argument("command", nargs="+")
    args = parser.parse_args()
    by_itself = {"growth": growth, "change": change, "first": first}.get(args.kind)
    if by_itself:
        return by_itself(args)
    clock = daemons_clock() if args.kind == "minion" or args.on_minion else children_seconds
    if args.kind == "arriving":
        return arriving(args, clock)
    reference, formula, taken, masters = measure_in_turn(args.command, clock, args.rounds)
    ratio = formula / reference
    tasks = {}
    for sls in (REFERENCE, "postfix_mta"):
        before = last_task()
        measure(args.command, sls, clock)
        tasks[sls] = last_task() - before
    print(
        f"{args.kind}: reference {reference:.3f} s, no-change apply {formula:.3f} s, "
        f"ratio {ratio:.2f} (limit {LIMITS[args.kind]:.2f}, medians of {args.rounds}); "
        f"processes and threads {tasks[REFERENCE]} and {tasks['postfix_mta']}"
    )
    if args.kind == "minion":
        before, now = masters
        print(f"master: reference {before:.3f} s, ours {now:.3f} s, {1000 * (now - before):.0f} ms more")
    return verdict(ratio <= LIMITS[args.kind], [taken])


if __name__ == "__main__":
    sys.exit(main())
