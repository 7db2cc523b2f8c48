"""
A client sends mail all the time, through changes that are good and changes that are undone: nothing is lost.

The environment variable POSTFIX_MTA_ROUNDS says how often there is one of each (default 9).
"""

import itertools
import os
import pathlib
import statistics
import time

import pytest

CLIENT = pathlib.Path(__file__).with_name("client.py")
RECORDS = "/var/lib/flow"
SESSIONS = 3
ROUNDS = int(os.environ.get("POSTFIX_MTA_ROUNDS", "9"))
DRAINED = 90

# What a good change has in turn, and how it becomes active.
GOOD = [
    ("reload", lambda number: {"smtpd_banner": f"$myhostname ESMTP {number}"}),
    ("reload", lambda number: {"message_size_limit": 20000000 + number}),
    ("reload", lambda number: {"smtpd_helo_required": number % 2 == 0, "smtpd_timeout": f"{100 + number}s"}),
    ("restart", lambda number: {"inet_protocols": "all" if number % 8 > 3 else "ipv4"}),
]
# Settings that Postfix refuses on a private copy, that fail when its daemons use them, or that only a conversation
# with the running server finds fault with.
BAD = [
    {"parameters": {"virtual_alias_maps": "nosuch:/etc/postfix/virtual"}},
    {"parameters": {"virtual_alias_maps": "$default_database_type:/etc/postfix/nosuch"}},
    {"parameters": {"smtpd_banner": "$myhostname ESMTP bad"}, "verify": {"capabilities": ["XNOSUCH"]}},
    {"parameters": {"inet_interfaces": "192.0.2.77"}},
    {"parameters": {"smtpd_recipient_restrictions": "check_policy_service inet:127.0.0.1:9"}},
    {"parameters": {"smtpd_timeout": "99s"}, "verify": {"login": {"username": "alice", "password": "wrong"}}},
    {"parameters": {"mynetworks": "10.0.0.1/8"}},
    {"parameters": {"inet_interfaces": "loopback-only"}, "verify": {"capabilities": ["XNOSUCH"]}},
]


class Window:
    """An apply: good or bad, how it went, from when to when (Unix time), and what the client saw meanwhile."""

    def __init__(self, kind, began, ended, results):
        self.kind, self.began, self.ended = kind, began, ended
        self.results = list(results.values())
        self.knocks = self.sent = ()

    @property
    def committed(self):
        """The result of the closing state."""
        return next(state for state in self.results if state["__id__"] == "postfix_mta_committed")

    @property
    def way(self):
        """How Postfix took a good change up; which look at a bad one found the fault."""
        if self.kind == "good":
            return self.committed["changes"]["postfix"]["new"]
        config = next(state for state in self.results if state["__id__"] == "postfix_mta_config")
        return "undone" if config["result"] else "refused"

    def look(self, knocks, sent):
        """Take what happened meanwhile out of the client's records."""
        self.knocks, self.sent = ([item for item in items if self.holds(item)] for items in (knocks, sent))

    def holds(self, record):
        """Whether a record of the client overlaps with the apply."""
        return record["began"] + record["took"] >= self.began and record["began"] <= self.ended

    @property
    def troubles(self):
        """What was not ok."""
        return [item["outcome"] for item in (*self.knocks, *self.sent) if item["outcome"] != "ok"]

    def gap(self, records):
        """Seconds from the last success before the first trouble to the first success after the last one."""
        bad = [index for index, item in enumerate(records) if item["outcome"] != "ok"]
        if not bad:
            return 0.0
        after = records[bad[-1] + 1 :]
        before = records[: bad[0]]
        end = after[0]["began"] + after[0]["took"] if after else self.ended
        return end - (before[-1]["began"] + before[-1]["took"] if before else self.began)


def records(container, name):
    """The client's records, by the time at which they began."""
    lines = container.exec(["cat", f"{RECORDS}/{name}"]).stdout.splitlines()
    fields = (line.split("\t", 3) for line in lines)
    found = [
        {"began": float(began), "took": float(took), "number": number, "outcome": outcome}
        for began, took, number, outcome in fields
    ]
    return sorted(found, key=lambda item: item["began"])


def waited(condition, seconds):
    """Whether a condition comes true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(1)
    return True


def drained(container):
    """Whether the queue is empty; what is deferred is tried again."""
    container.exec(["postqueue", "-f"])
    return "Mail queue is empty" in container.exec(["postqueue", "-p"]).stdout


@pytest.fixture(scope="module")
def windows(container):
    """All applies, one good and one bad in turn, while the client sends."""
    container.exec("useradd --create-home alice")
    container.copy(CLIENT, "/srv/client.py")
    container.exec(["systemd-run", "--unit=flow", "--quiet", "python3", "/srv/client.py",
                    "alice@mail.example.com", str(SESSIONS), RECORDS])  # fmt: skip
    assert waited(lambda: "ok" in container.exec(f"cat {RECORDS}/sent", check=False).stdout, 20)
    made = []

    def run(kind, parameters, **others):
        began = time.time()
        pillar = {"root_recipient": "alice", "parameters": parameters, **others}
        results = container.apply(pillar={"postfix_mta": pillar})
        made.append(Window(kind, began, time.time(), results))

    present = {}
    for number, good, bad in zip(range(ROUNDS), itertools.cycle(GOOD), itertools.cycle(BAD)):
        present.update(good[1](number))
        run("good", present)
        run("bad", **{**bad, "parameters": {**present, **bad.get("parameters", {})}})
    time.sleep(1)
    container.exec(["systemctl", "stop", "flow"])
    knocks, sent = records(container, "knocks"), records(container, "sent")
    for window in made:
        window.look(knocks, sent)
    return made


def test_every_good_change_is_made_in_the_way_that_it_needs(windows):
    good = [window for window in windows if window.kind == "good"]
    for window, (way, _) in zip(good, itertools.cycle(GOOD)):
        assert all(state["result"] for state in window.results), window.results
        assert window.way == f"{way}ed"


def test_every_bad_change_is_undone(windows):
    bad = [window for window in windows if window.kind == "bad"]
    for window in bad:
        assert window.committed["result"] is False, window.results
        assert not window.committed["changes"]
    ways = [window.way for window in bad]
    assert min(ways.count("refused"), ways.count("undone")) >= 3


def test_a_reload_refuses_no_connection(windows):
    reloads = [window for window in windows if (window.kind, window.way) == ("good", "reloaded")]
    assert len(reloads) > ROUNDS / 2
    assert all(len(window.knocks) > 10 for window in reloads)
    assert [window.troubles for window in reloads if window.troubles] == []


def test_a_change_that_is_refused_before_it_is_made_is_not_noticed(windows):
    refused = [window for window in windows if (window.kind, window.way) == ("bad", "refused")]
    assert [window.troubles for window in refused if window.troubles] == []


def test_the_server_answers_after_every_apply(windows):
    for number, window in enumerate(windows):
        # By then the state that verifies the server has ended, and Salt is only printing its results.
        later = [item for item in (*window.knocks, *window.sent) if item["began"] > window.ended - 0.1]
        outcomes = {item["outcome"] for item in later}
        troubles = [f"{outcome} as apply {number} ended, {window.way}" for outcome in outcomes - {"ok"}]
        assert not troubles, f"{troubles}\n{window.committed}"


def test_every_message_that_was_accepted_is_delivered_exactly_once(windows, container):
    assert waited(lambda: drained(container), DRAINED)
    found = container.exec("grep -rh ^X-Number: /home/alice/Maildir/new").stdout.split("X-Number: ")
    delivered = [line.strip() for line in found if line.strip()]
    sent = records(container, "sent")
    accepted = {item["number"] for item in sent if item["outcome"] == "ok"}
    assert len(accepted) > 20 * ROUNDS
    assert sorted(number for number in set(delivered) if delivered.count(number) > 1) == []
    assert sorted(accepted.difference(delivered)) == []


def test_the_gaps_are_measured(windows, container, capsys):
    sent = records(container, "sent")
    accepted = sum(item["outcome"] == "ok" for item in sent)
    lines = [f"{accepted} of {len(sent)} messages accepted, through {len(windows)} applies"]
    for kind, way in sorted({(window.kind, window.way) for window in windows}):
        these = [window for window in windows if (window.kind, window.way) == (kind, way)]
        unserved, unsent = ([window.gap(getattr(window, name)) for window in these] for name in ("knocks", "sent"))
        refused = sum(item["outcome"] in ("refused", "dropped") for window in these for item in window.knocks)
        lines.append(
            f"{kind}, {way}: {len(these)} applies,"
            f" {statistics.median(window.ended - window.began for window in these):.1f} s each;"
            f" {refused} of {sum(len(window.knocks) for window in these)} connections got no banner;"
            f" no banner for {max(unserved):.2f} s at most ({statistics.median(unserved):.2f} s median),"
            f" no mail accepted for {max(unsent):.2f} s at most ({statistics.median(unsent):.2f} s median)"
        )
    with capsys.disabled():
        print("\n" + "\n".join(lines))
    assert max(window.gap(window.knocks) for window in windows if window.kind == "good") < 10
