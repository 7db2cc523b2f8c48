"""
Whether the formula judges changes rightly: it commits what works, and undoes what breaks mail.

    bin/test judge [N] [SEED]          N changes of working servers by chance (default 60), and the named cases
    bin/test judge --drawn [N] [SEED]  without the named cases
    bin/test judge --case NAME…        single cases, by the seed that the report shows, or by name; or changes
    bin/test judge --named             the named cases only
    bin/test judge --servers           no changes: whether the servers to begin from work, a feature at a time
    bin/test judge --list              every change and every named case

Real mail is the truth, the result of `state.apply` is the verdict. Printed are the cases in which the two do not
agree, those whose label real mail contradicts, and the confusion matrix. Ends with 1 where the formula was wrong.
"""

import argparse
import concurrent.futures
import contextlib
import json
import os
import queue
import random
import signal
import sys
import time

from judge import cases, outcomes, servers
from judge.hosts import Host
from rig import PREFIX, kitchen, venvs
from rig.container import remove_all


def by_name(name):
    """A case: by the seed that drew it, by its name, or one of a change by that one's."""
    if name.isdigit():
        return cases.draw(int(name))
    return cases.named().get(name) or cases.of_change(name.removeprefix("change: "))


def chosen(options):
    """The cases that the command line asks for."""
    if options.case:
        return [by_name(name) for name in options.case]
    if options.servers:
        return [
            cases.of_server(profile, name)
            for profile in ("guide", "hardened")
            for name in servers.fitting(profile)
        ]
    found = [] if options.drawn else list(cases.named().values())
    if not options.named:
        first = options.seed * 100_000
        found += [cases.draw(first + number) for number in range(options.number)]
    return found


def bundles(found):
    """Cases with the same server, together, but not so many that one host has all the work."""
    groups = {}
    for case in found:
        groups.setdefault(json.dumps(case.server.job(), sort_keys=True), []).append(case)
    most = 2 * cases.GROUP
    return [group[first : first + most] for group in groups.values() for first in range(0, len(group), most)]


def try_all(found, instance, number, labels, tell):
    """
    Try cases on a number of hosts at a time.

    labels: of the hosts, who are named after the first. tell: called with each outcome.
    """
    work = queue.SimpleQueue()
    for bundle in bundles(found):
        work.put(bundle)
    hosts = []

    def serve(index):
        host = Host.start(f"{labels[0].replace('=', '-')}-{index}", instance, labels)
        hosts.append(host)
        with contextlib.suppress(queue.Empty):
            while True:
                for case in work.get_nowait():
                    tell(outcomes.assess(case, host.try_case(case.job())))

    with concurrent.futures.ThreadPoolExecutor(number) as pool:
        jobs = [pool.submit(serve, index) for index in range(min(number, work.qsize()))]
        try:
            for job in jobs:
                job.result()
        finally:
            # Also when this ends early: a host that is asked nothing more ends its worker.
            with contextlib.suppress(queue.Empty):
                while True:
                    work.get_nowait()
            for host in hosts:
                host.stop()


def in_order(tried, found):
    """Outcomes in the order of their cases."""
    order = {case.name: place for place, case in enumerate(found)}
    return sorted(tried, key=lambda outcome: order[outcome.case.name])


def show_all():
    """Print every change and every named case."""
    for kind in cases.KINDS:
        for name, change in cases.changes(kind).items():
            print(f"{kind}: {name}: {change.about['why']}")
    for name, case in cases.named().items():
        print(f"named: {name} ({case.expected}): {case.changes[0].about['why']}")


def main():
    """Try and print; the exit code."""
    parser = argparse.ArgumentParser(
        prog="bin/test judge", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("number", metavar="N", type=int, nargs="?", default=60)
    parser.add_argument("seed", metavar="SEED", type=int, nargs="?", default=random.randrange(1000))
    parser.add_argument("--case", metavar="NAME", nargs="+")
    parser.add_argument("--drawn", action="store_true")
    parser.add_argument("--named", action="store_true")
    parser.add_argument("--servers", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--hosts", type=int, default=(os.cpu_count() or 1) + 1, help="how many at a time")
    parser.add_argument("--platform", default="debian-12-salt-3008")
    parser.add_argument("--results", help="a file for everything that was found, one case in a line of JSON")
    options = parser.parse_args()
    if options.list:
        return show_all()
    found = chosen(options)
    instance = kitchen.choose(["default", options.platform])[0]
    label = f"{PREFIX}-judge={os.getpid()}"
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    path = options.results or venvs.cache() / f"judge-{options.seed}.jsonl"
    began, tried = time.monotonic(), []
    with contextlib.ExitStack() as stack:
        stack.callback(remove_all, label)
        file = stack.enter_context(open(path, "w", encoding="utf-8", buffering=1))

        def tell(outcome):
            line = {
                "case": outcome.case.name,
                "wrong": outcome.wrong,
                "row": outcome.row,
                "result": outcome.result,
            }
            file.write(json.dumps(line) + "\n")
            wrong = "; ".join(text.splitlines()[0] for text in outcome.wrong)
            mark = f"WRONG: {wrong}" if wrong else "right"
            names = " + ".join(change.name for change in outcome.case.changes)
            tried.append(outcome)
            number = f"{len(tried)}/{len(found)}"
            print(f"{number} {outcome.case.name} [{outcome.row}, {outcome.column}] {names}: {mark}")
            print(f"    {outcomes.spent(outcome)}; so far: {outcomes.summary(tried)}", flush=True)

        try:
            try_all(found, instance, options.hosts, [label], tell)
        finally:
            # Also of a run that is ended early.
            print(
                f"\n{outcomes.report(in_order(tried, found))}\n\n{len(tried)} of {len(found)} cases, seed "
                f"{options.seed}, {time.monotonic() - began:.0f} s, all of it: {path}",
                flush=True,
            )
    return int(not all(outcome.is_right for outcome in tried))


if __name__ == "__main__":
    sys.exit(main())
