"""
A master with its reactor (the host under test) and two mail minions whose beacon looks every two seconds.

Each fault is made by hand; nobody does anything about it. The attacks are those of somebody who has root on the
first minion.
"""

import concurrent.futures
import json
import os
import pathlib
import statistics
import time

import pytest

from rig.fleet import STATES

HERE = pathlib.Path(__file__).parent
FIRST, SECOND = MAIL = ["mail1.example.com", "mail2.example.com"]
LIMIT = 20
PAUSE = 3
# How many events the storm has; the rate is that of 10,000 in a minute.
STORM = int(os.environ.get("POSTFIX_MTA_STORM", "2500"))
RATE = 10_000 / 60

SLS = [f"{STATES}/postfix_mta/reactor/react.sls"]
# As docs/self-mending.md has it.
REACTOR = [
    {"salt/beacon/*/postfix_mta/": SLS},
    {"postfix_mta/reprovision": SLS},
    {"postfix_mta/pillar_changed": ["salt://postfix_mta/reactor/react.sls"]},
    {"salt/minion/*/start": SLS},
]
PILLAR = {
    "root_recipient": "alice",
    "certificate": {"key_type": "ec"},
    "parameters": {"defer_transports": "", "message_size_limit": 20000000},
    "beacon": {"enabled": True, "interval": 2, "queue_limit": LIMIT},
    "reprovision": {"pause": PAUSE, "attempts": 2, "hold": 15, "splay": 1},
    "schedule": {"enabled": True},
}

# Sends what standard input has, a list of [tag, data], to the master as a beacon's events are sent: their tags and
# data are what the minion says, and the master hands them on as they are. The argument is how many in a second.
ATTACKER = """
import json, sys, time, salt.channel.client, salt.config
opts = salt.config.minion_config("/etc/salt/minion")
opts["master_uri"] = f"tcp://{opts['master']}:4506"
events = [{"tag": tag, "data": data} for tag, data in json.load(sys.stdin)]
began = time.monotonic()
with salt.channel.client.ReqChannel.factory(opts) as channel:
    for start in range(0, len(events), 100):
        time.sleep(max(0, began + start / float(sys.argv[1]) - time.monotonic()))
        channel.send({"id": opts["id"], "cmd": "_minion_event", "events": events[start:start + 100]}, timeout=30)
"""
# 20 looks with the beacon's settings, long after the last change: the processes started and the CPU time of one.
LOOKS = """
import json, os, sys, time, salt.config, salt.loader
opts = salt.config.minion_config("/etc/salt/minion")
opts["grains"] = salt.loader.grains(opts)
opts["file_client"] = "local"
modules = salt.loader.minion_mods(opts)
settings = modules["mta_beacon.configured"]()
later = time.time() + 1000
modules["mta_beacon.observe"](settings, later)
started = []
watched = ("subprocess.Popen", "os.fork", "os.posix_spawn", "os.system", "os.exec")
sys.addaudithook(lambda event, _: started.append(event) if event in watched else None)
begin = time.process_time()
for number in range(20):
    modules["mta_beacon.observe"](settings, later + number)
print(json.dumps({"started": started, "seconds": (time.process_time() - begin) / 20}))
"""


class Events:
    """What the master's event bus has of this formula, from when this object was made."""

    def __init__(self, master):
        self.master, self.file = master, f"/root/events-{time.monotonic_ns()}"
        listen = f"exec salt-run state.event '*postfix_mta*' >{self.file} 2>/dev/null"
        # One listener at a time: each gets every event of a storm.
        master.exec(["systemctl", "stop", "events"], check=False)
        master.exec(["systemd-run", "--quiet", "--collect", "--unit=events", "sh", "-c", listen])
        self.wait_until_heard()

    def wait_until_heard(self):
        """Return when an event of our own has come through."""
        for _ in range(60):
            self.master.exec(["salt-run", "event.send", "test/postfix_mta/heard"])
            if self.all("test/"):
                return
        raise AssertionError("the master's events cannot be heard")

    def all(self, tag):
        """The data of those whose tag begins with ``tag``, oldest first."""
        found = []
        for line in self.master.exec(["cat", self.file], check=False).stdout.splitlines():
            name, _, data = line.partition("\t")
            if name.startswith(tag) and data.endswith("}"):
                found.append(json.loads(data))
        return found

    def of_beacon(self, minion):
        """Condition and state of the beacon's events, in order."""
        return [(data["condition"], data["state"]) for data in self.all(f"salt/beacon/{minion}/")]


def until(condition, seconds, what):
    """Wait until a function returns something true; return that and how many seconds it took."""
    began = time.monotonic()
    while True:
        value = condition()
        if value:
            return value, time.monotonic() - began
        assert time.monotonic() - began < seconds, what() if callable(what) else what
        time.sleep(0.5)


def faults(host):
    """What is wrong with a server, in words."""
    return host.exec(["/opt/salt/bin/python", "/root/healthy.py", str(LIMIT)]).stdout


def record(host):
    """What is recorded of the last apply."""
    return json.loads(host.exec("cat /var/lib/postfix_mta/applied.json || echo {}").stdout)


def conditions(host):
    """The conditions that the beacon knows."""
    text = host.exec("cat /var/lib/postfix_mta/beacon.json || echo {}").stdout
    return json.loads(text).get("conditions", {})


def quiet(host):
    """Whether nothing is wrong, and nothing that was asked for is under way or waits."""
    memory = json.loads(host.exec("cat /var/lib/postfix_mta/reprovision.json || echo {}").stdout)
    return not conditions(host) and memory.get("asked", 0) <= memory.get("answered", 0)


@pytest.fixture(scope="module")
def fleet(new_fleet):
    """The fleet; its minions become mail servers because they start, while nobody waits for that here."""
    started = new_fleet({name: {"postfix_mta": PILLAR} for name in MAIL}, master={"reactor": REACTOR})
    for host in started.minions.values():
        for name in ("healthy.py", "faults.py"):
            host.copy(HERE / name, f"/root/{name}")
        host.put({"/root/attacker.py": ATTACKER, "/root/looks.py": LOOKS})
    return started


@pytest.fixture(scope="module")
def first(fleet):
    """The first minion, healthy when it is first asked for."""
    return fleet.minions[FIRST]


@pytest.mark.parametrize("name", MAIL)
def test_a_new_minions_start_makes_it_a_mail_server(fleet, name):
    host = fleet.minions[name]
    until(lambda: record(host).get("result"), 240, lambda: str(record(host)))
    until(lambda: not faults(host), 20, lambda: faults(host))
    until(lambda: host.exec("ls /var/lib/postfix_mta/beacon.json", check=False).stdout, 20, "no beacon")
    (beacons,) = fleet.salt(name, "beacons.list", return_yaml=False).values()
    assert {"interval": 2} in beacons["postfix_mta"]
    (jobs,) = fleet.salt(name, "schedule.list", return_yaml=False).values()
    job = jobs["postfix_mta"]
    assert (job["minutes"], job["splay"], job["run_on_start"]) == (30, 1800, False)


def test_looking_starts_no_process_and_is_cheap(first, capsys):
    seen = json.loads(first.exec(["/opt/salt/bin/python", "/root/looks.py"]).stdout)
    with capsys.disabled():
        print(f"\none look: {seen['seconds'] * 1000:.2f} ms of CPU, no process")
    assert seen["started"] == []
    assert seen["seconds"] < 0.02


SEND = f"for n in $(seq {LIMIT + 10}); do printf 'Subject: x\\n\\nx\\n' | sendmail alice; done"
CERTIFY = "/opt/salt/bin/python /root/faults.py"
FAULTS = {
    "main.cf deleted": ("rm /etc/postfix/main.cf", "configuration"),
    "a parameter broken by hand": (
        "postconf -e smtpd_tls_cert_file=/nonexistent && postfix reload",
        "configuration",
    ),
    "saslauthd killed": ("kill -9 $(pidof saslauthd)", "saslauthd"),
    "the certificate expired": (f"{CERTIFY} 90 -1 && postfix reload", "certificate_renewal"),
    "the certificate replaced without a reload": (f"{CERTIFY} 1 90", "certificate_served"),
    "the queue full": (f"postconf -e defer_transports=local && postfix reload && {SEND}", "queue"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_mends_itself(fleet, first, capsys, name):
    fault, condition = FAULTS[name]
    events = Events(fleet.master)
    until(lambda: not conditions(first), 30, lambda: f"still there: {conditions(first)}")
    assert faults(first) == ""
    first.exec(fault)
    assert faults(first)
    _, seconds = until(lambda: not faults(first), 120, lambda: f"{faults(first)}\n{record(first)}")
    with capsys.disabled():
        print(f"\n{name}: healthy again after {seconds:.1f} s")
    until(lambda: (condition, "end") in events.of_beacon(FIRST), 30, lambda: events.of_beacon(FIRST))
    assert events.of_beacon(FIRST).count((condition, "begin")) == 1
    assert events.of_beacon(FIRST).count((condition, "end")) == 1
    assert SECOND not in json.dumps(events.all("salt/beacon/"))
    applied = [data["data"] for data in events.all("postfix_mta/applied") if data["id"] == FIRST]
    assert all(data["result"] for data in applied), applied


JINJA = "{{ salt['cmd.run']('touch /tmp/owned') }}"
SHELL = "$(touch /tmp/owned)`touch /tmp/owned`; touch /tmp/owned"


def forged(identifier, tag=None):
    """An event of which every field is somebody else's, Jinja or shell."""
    words = dict.fromkeys(
        ("condition", "state", "reason", "details", "tgt", "fun", "arg", "_stamp"), JINJA + SHELL
    )
    return [tag or f"salt/beacon/{SECOND}/postfix_mta/", {**words, "id": identifier, JINJA: SHELL}]


def test_forged_events_change_nothing(fleet, first, capsys):
    second = fleet.minions[SECOND]
    until(lambda: all(quiet(host) for host in fleet.minions.values()), 120, "applies are still under way")
    before = {name: record(host) for name, host in fleet.minions.items()}
    names = [SECOND, "*", f"{FIRST},{SECOND}", JINJA, SHELL, "../../x", None, [SECOND], "nobody.example.com"]
    tags = [
        None,
        f"salt/beacon/{JINJA}/postfix_mta/",
        f"salt/beacon/{SECOND}/postfix_mta/{JINJA}",
        "salt/minion/*/start",
    ]
    attack = [forged(name, tag) for name in names for tag in tags]
    first.exec(["/opt/salt/bin/python", "/root/attacker.py", "1000"], input=json.dumps(attack))
    # What the beacon did not find leads to nothing, and what the master does not know to nobody.
    time.sleep(8)
    assert {name: record(host) for name, host in fleet.minions.items()} == before
    for host in (fleet.master, first, second):
        assert not host.exec("ls /tmp/owned", check=False).stdout


# Counts the applies that end.
WATCH = """
import os, time
seen, number = None, 0
while True:
    try:
        now = os.stat("/var/lib/postfix_mta/applied.json").st_mtime_ns
    except OSError:
        now = seen
    if now != seen:
        number, seen = number + (seen is not None), now
        with open("/root/applies", "w") as file:
            file.write(str(number))
    time.sleep(0.02)
"""


def ping(fleet):
    """How long the second minion takes to answer."""
    asked = time.monotonic()
    assert fleet.salt(SECOND, "test.ping", timeout=120) == {SECOND: True}
    return time.monotonic() - asked


def test_a_storm_leads_to_few_applies_and_the_master_stays_responsive(fleet, capsys):
    second = fleet.minions[SECOND]
    second.put({"/root/watch.py": WATCH})
    second.exec(["systemd-run", "--quiet", "--unit=watch", "/opt/salt/bin/python", "/root/watch.py"])
    before = [ping(fleet) for _ in range(3)]
    events = json.dumps([forged(SECOND, "postfix_mta/reprovision") for _ in range(STORM)])
    began, during = time.monotonic(), []
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        attacker = ["/opt/salt/bin/python", "/root/attacker.py", RATE]
        attack = pool.submit(fleet.minions[FIRST].exec, attacker, input=events)
        while not attack.done():
            during.append(ping(fleet))
        attack.result()
    sent = time.monotonic() - began
    until(lambda: quiet(second), 120, "the last request is not answered")
    took = time.monotonic() - began
    number = int(second.exec("cat /root/applies").stdout)
    with capsys.disabled():
        print(
            f"\n{STORM} events in {sent:.1f} s: test.ping {statistics.median(before):.1f} s before,"
            f" {statistics.median(during):.1f} s meanwhile ({max(during):.1f} s at most);"
            f" {number} applies in {took:.0f} s"
        )
    # One follows another after the pause, as long as events come; the last one after they have ended.
    assert 1 <= number <= 1 + took / PAUSE
    assert statistics.median(during) < 15 + 5 * max(before)
    assert faults(second) == ""


SIZE = "postconf -h message_size_limit"
JOURNAL = "/var/lib/postfix_mta/journal"


def when_switched(host, command):
    """Let a host run a command by itself as soon as an apply has begun to switch files."""
    wait = f"timeout 120 sh -c 'until [ -e {JOURNAL} ]; do sleep 0.02; done' && {{ {command}; }}"
    argv = ["systemd-run", "--quiet", "--collect", "--unit=interrupt", "sh", "-c"]
    host.exec([*argv, f"{wait} && touch /root/interrupted"])


def test_an_apply_that_a_cut_network_or_a_restart_interrupts_is_made_up_for(fleet, first, capsys):
    second = fleet.minions[SECOND]
    until(lambda: all(quiet(host) for host in fleet.minions.values()), 120, "applies are still under way")
    new = {**PILLAR, "parameters": {**PILLAR["parameters"], "message_size_limit": 30000000}}
    for name in MAIL:
        fleet.set_pillar(name, {"postfix_mta": new})
    rules = "; ".join(f"iptables -{{0}} {way} {fleet.master.ip} -j DROP" for way in ("INPUT -s", "OUTPUT -d"))
    when_switched(first, f"{rules.format('I')}; sleep 8; {rules.format('D')}")
    when_switched(second, "systemctl restart salt-minion")
    fleet.master.exec(["salt", "--async", "--list", ",".join(MAIL), "state.apply", "postfix_mta"])
    until(lambda: second.exec(f"ls {JOURNAL} /root/interrupted", check=False).stdout, 60, "no apply has begun")
    fleet.master.exec(["systemctl", "restart", "salt-master"])

    def converged():
        return all(
            host.exec(SIZE).stdout.strip() == "30000000"
            and host.exec(["ls", "/root/interrupted"], check=False).returncode == 0
            and host.exec(["ls", JOURNAL], check=False).returncode
            and record(host).get("result")
            and quiet(host)
            for host in (first, second)
        )

    _, seconds = until(converged, 240, lambda: [record(host) for host in (first, second)])
    with capsys.disabled():
        print(f"\napplies interrupted by a network cut, a minion's and the master's restart: {seconds:.1f} s")
    until(lambda: not any(fleet.salt(MAIL, "saltutil.is_running", "state.*").values()), 60, "states still run")


def test_a_minion_that_cannot_be_mended_is_given_up_with_an_alert_and_a_restart_repeats_nothing(fleet, capsys):
    host, events = fleet.minions[SECOND], Events(fleet.master)
    bad = {**PILLAR, "parameters": {**PILLAR["parameters"], "smtpd_no_such": "x"}}
    fleet.set_pillar(SECOND, {"postfix_mta": bad})
    host.exec("kill -9 $(pidof saslauthd)")
    until(lambda: events.all("postfix_mta/alert"), 180, lambda: events.all("postfix_mta/"))
    alert = events.all("postfix_mta/alert")[0]
    assert alert["id"] == SECOND
    assert (alert["data"]["conditions"], alert["data"]["attempts"]) == (["saslauthd"], 2)
    fleet.restart(SECOND)
    time.sleep(6)
    assert events.of_beacon(SECOND).count(("saslauthd", "begin")) == 1
    assert not [data for data in events.all("postfix_mta/applied") if data["data"]["result"]]
    assert len(events.all("postfix_mta/alert")) == 1

    # The administrator corrects the pillar, and says so when the refusal is over.
    fleet.set_pillar(SECOND, {"postfix_mta": PILLAR})
    time.sleep(15)
    fleet.run("event.send", "postfix_mta/pillar_changed")
    until(lambda: not faults(host), 120, lambda: faults(host))
    until(lambda: ("saslauthd", "end") in events.of_beacon(SECOND), 30, lambda: events.of_beacon(SECOND))


def test_what_happens_while_the_master_is_away_is_mended_when_it_is_back(fleet, first, capsys):
    fleet.master.exec(["systemctl", "stop", "salt-master"])
    first.exec("kill -9 $(pidof saslauthd)")
    time.sleep(6)
    assert faults(first)
    fleet.master.exec(["systemctl", "start", "salt-master"])
    _, seconds = until(lambda: not faults(first), 180, lambda: f"{faults(first)}\n{conditions(first)}")
    with capsys.disabled():
        print(f"\nsaslauthd killed while the master was away: healthy {seconds:.1f} s after its start")


def test_a_second_apply_changes_nothing_and_a_dry_run_says_so(fleet):
    until(lambda: all(quiet(host) for host in fleet.minions.values()), 120, "applies are still under way")
    for test in (True, False):
        for name, states in fleet.apply(MAIL, test=test).items():
            assert not {key for key, state in states.items() if state["changes"] or not state["result"]}, name
