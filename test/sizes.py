#!/usr/bin/env python3
"""
What a mail server with large settings costs: an apply with nothing to change, and one change of them.

    bin/test sizes [--platform debian-12-salt-3008] [--rounds 3] [--share 1] [--out FILE] [SUBJECT...]

Each subject is applied to a server of its own, in half and in whole, masterless. Measured in turn: an apply with
nothing to change, a ``state.apply`` of one ``test.nop`` with the same pillar (what Salt takes for reading it), and
an apply after one change. CPU seconds are those of ``salt-call`` and its children, memory is the most that one of
them had resident; medians of the rounds. What takes twice as long for twice as much is at a ratio of 2.

``--share 0.1`` takes a tenth of everything. ``--out`` adds the figures to a file, for test/plot.py.
"""

import argparse
import json
import signal
import statistics
import sys

import plot

from rig import PREFIX, images, kitchen
from rig.container import Container, remove_all
from rig.measure import measured

LABEL = f"{PREFIX}.sizes"
REFERENCE = "postfix_mta_reference"
SHARES = (0.5, 1)


def parameters(share, word):
    """1,000 parameters and 200 services; the word is in one of the parameters."""
    classes = {f"smtpd_{number}_class": "permit_mynetworks, reject" for number in range(int(1000 * share) - 1)}
    slow = {"private": True, "chroot": True, "command": "smtp", "overrides": {"smtp_helo_timeout": "30s"}}
    return {
        "parameters": {"smtpd_restriction_classes": list(classes), **classes, "smtpd_0_class": f"permit, {word}"},
        "services": {f"slow{number}/unix": slow for number in range(int(200 * share))},
    }


def tables(share, word):
    """100 tables of 10,000 entries; the word is in one of the entries."""
    made = {
        f"table{number}": {"entries": {f"user{user}@{number}.example": f"user{user}" for user in range(10000)}}
        for number in range(int(100 * share))
    }
    made["table0"]["entries"]["user7@0.example"] = word
    return {"maps": made, "parameters": {"virtual_alias_maps": [f"{{maps.{name}}}" for name in made]}}


def aliases(share, word):
    """5,000 aliases; the word is in one of them."""
    return {
        "aliases": {
            **{f"alias{number}": ["root", "nobody"] for number in range(int(5000 * share))},
            "alias7": word,
        }
    }


def listeners(share, word):
    """200 listeners; the word is in what one of them greets with."""
    entry = {"private": False, "chroot": True, "command": "smtpd"}
    greets = {**entry, "overrides": {"smtpd_banner": f"$myhostname ESMTP {word}"}}
    made = {f"127.0.0.1:{20000 + number}/inet": entry for number in range(int(200 * share))}
    return {"services": {**made, "127.0.0.1:20007/inet": greets}}


SUBJECTS = {function.__name__: function for function in (parameters, tables, aliases, listeners)}
# What a subject's server has in whole, as the tables and the plot call it.
TITLES = {name: function.__doc__.partition(";")[0] for name, function in SUBJECTS.items()}
WORDS = ("reject", "defer")
COLUMNS = ("reference", "nothing", "change")


class Server:
    """A server under test."""

    def __init__(self, container):
        self.container = container
        container.put({f"/srv/salt/{REFERENCE}.sls": f"{REFERENCE}:\n  test.nop: []\n"})

    def ask(self, settings):
        """Make these settings the pillar: rendered as JSON, for YAML takes a minute for a million entries."""
        text = json.dumps({"postfix_mta": {"certificate": {"key_type": "ec"}, **settings}})
        self.container.put({"/srv/pillar/postfix_mta.sls": f"#!json\n{text}"})

    def apply(self, sls="postfix_mta", changes=None):
        """What an apply costs. changes: whether it has to change something."""
        command = ["salt-call", "--local", "--out=json", "--log-level=quiet", "state.apply", sls]
        cost, said, _ = measured(self.container, command)
        states = json.loads(said)["local"]
        changed = [key for key, one in states.items() if one["changes"]]
        assert changes in (None, bool(changed)), f"{sls}: {changed}"
        return cost

    def measure(self, subject, share, rounds):
        """What a share of a subject costs, by column: medians of CPU seconds, seconds, megabytes."""
        found = {column: [] for column in COLUMNS}
        variants = [SUBJECTS[subject](share, word) for word in WORDS]
        self.ask(variants[0])
        first = self.apply()
        self.apply()
        for number in range(rounds):
            found["nothing"].append(self.apply(changes=False))
            found["reference"].append(self.apply(REFERENCE))
            self.ask(variants[(number + 1) % len(variants)])
            found["change"].append(self.apply(changes=True))
            # What a change leaves to be found out once: tables' digests, plans.
            self.apply()
        medians = {column: list(map(statistics.median, zip(*figures))) for column, figures in found.items()}
        return {"first": first, **medians}


def line(head, cells):
    """A line of the table."""
    return f"{head:<34}" + "".join(f"{cell:>13}" for cell in cells)


def show(subject, share, row):
    """Print what a share of a subject costs."""
    cells = [f"{value:.{digits}f}" for column in COLUMNS for value, digits in zip(row[column], (2, 2, 0))]
    cells += [f"{value:.1f}" for value in row["first"][:2]]
    print(line(f"{share:g} of {TITLES[subject]}", cells), flush=True)


def ratios(rows):
    """Print how the larger size compares with the smaller one, beside what Salt takes for itself."""
    small, large = rows
    own = [[row[column][0] - row["reference"][0] for column in COLUMNS[1:]] for row in (small, large)]
    texts = [f"{column} {after / before:.2f}" for column, before, after in zip(COLUMNS[1:], *own)]
    print(f"    twice as much, beside the reference: {', '.join(texts)} times the CPU time", flush=True)


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bin/test sizes", description=__doc__.strip().partition("\n")[0])
    parser.add_argument("subjects", metavar="SUBJECT", nargs="*", help=", ".join(SUBJECTS))
    parser.add_argument("--platform", default="debian-12-salt-3008")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=float, default=1)
    parser.add_argument("--out")
    options = parser.parse_args()
    instance = kitchen.choose(["default", options.platform])[0]
    image = images.platform_image(options.platform)
    # So that what was started goes, too.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    heads = [f"{column} {unit}" for column in COLUMNS for unit in ("CPU s", "s", "MB")]
    print(line("", [*heads, "first CPU s", "first s"]), flush=True)
    found = {}
    try:
        for subject in options.subjects or SUBJECTS:
            container = Container.start(f"{PREFIX}-sizes-{subject}", instance.driver, image, [LABEL])
            container.provision(instance.provisioner)
            server, rows = Server(container), []
            for share in SHARES:
                rows.append(server.measure(subject, share * options.share, options.rounds))
                show(subject, share * options.share, rows[-1])
            ratios(rows)
            found[subject] = {"title": TITLES[subject], "shares": SHARES, "rows": rows}
            container.remove()
    finally:
        remove_all(LABEL)
    plot.keep(options.out, "sizes", found)


if __name__ == "__main__":
    sys.exit(main())
