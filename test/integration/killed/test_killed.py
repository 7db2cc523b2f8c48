"""
An apply is killed, or the host loses its power, in the middle: what is on disk is whole, and the next apply, or
the next boot, finds its way from there.

The environment variable POSTFIX_MTA_KILLS says how often an apply is killed (default 4; 2 of one that is watched);
with it a disk fills after each of the files, not one. POSTFIX_MTA_CUTS says how often the power is cut (1),
POSTFIX_MTA_RACES how often something is started together with an apply (2), and POSTFIX_MTA_SEED makes the moments
of an earlier run come again.
"""

import concurrent.futures
import json
import os
import pathlib
import random
import shlex
import time

import pytest

from rig.results import state_of

KILLS = int(os.environ.get("POSTFIX_MTA_KILLS", "4"))
WATCHED_KILLS = int(os.environ.get("POSTFIX_MTA_KILLS", "2"))
CUTS = int(os.environ.get("POSTFIX_MTA_CUTS", "1"))
RACES = int(os.environ.get("POSTFIX_MTA_RACES", "2"))
SEED = int(os.environ.get("POSTFIX_MTA_SEED") or random.randrange(10**6))

# Seconds: longer than salt-call takes to come to the lock.
WAITING = 8
OUTPUT = "/root/interrupted.json"
JOURNAL = "/var/lib/postfix_mta/journal"
BOOT_UNIT = "/etc/systemd/system/postfix-mta-recover.service"
FILES = [
    "/etc/postfix/main.cf",
    "/etc/postfix/master.cf",
    "/etc/postfix/sasl/smtpd.conf",
    "/etc/default/saslauthd",
    "/etc/aliases",
    "/etc/aliases.db",
    "/etc/ssl/certs/smtpd.crt",
    "/etc/ssl/private/smtpd.key",
]

# What an apply with the next pillar changes of them.
CHANGING = [path for path in FILES if path != "/etc/ssl/private/smtpd.key"]

# What is there: each file's hash, owner and mode, what the journal would put back, and what programs say of it.
INSPECT = """
import hashlib, json, os, pathlib, subprocess, sys
journal = pathlib.Path(sys.argv[1])

def facts(path):
    if not path.exists():
        return None
    status = path.stat()
    return [hashlib.sha256(path.read_bytes()).hexdigest(), status.st_uid, status.st_gid, oct(status.st_mode)]

def said(*argv):
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 and not done.stderr else f"{argv}: {done.stdout}{done.stderr}"

saved = None
if journal.exists():
    entries = [entry for entry in journal.iterdir() if entry.name.isdigit()]
    saved = {(entry / "path").read_text(): facts(entry / "content") for entry in entries}
print(json.dumps({
    "files": {path: facts(pathlib.Path(path)) for path in sys.argv[2:]},
    "journal": saved,
    "main.cf": said("postconf", "-n"),
    "master.cf": said("postconf", "-M"),
    "aliases": said("postalias", "-q", "root", "/etc/aliases").strip(),
    "certificate": said("openssl", "x509", "-noout", "-pubkey", "-in", "/etc/ssl/certs/smtpd.crt"),
    "key": said("openssl", "pkey", "-pubout", "-in", "/etc/ssl/private/smtpd.key"),
}))
"""

# Run a command; tell when a path was there (seconds from the start), and how long all of it took.
TIME = """
import json, os, subprocess, sys, time
began = time.monotonic()
job = subprocess.Popen(sys.argv[2:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
seen = []
while job.poll() is None:
    if os.path.exists(sys.argv[1]):
        seen.append(time.monotonic() - began)
    time.sleep(0.01)
print(json.dumps([seen[0], seen[-1], time.monotonic() - began]))
"""

# Run a command with its output in a file, and send a signal to it and all of its children as soon as a file is not
# what it was. Prints the command's process id.
INTERRUPT = """
import os, pathlib, signal, subprocess, sys, time
watched, output, name = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
before = watched.read_bytes()
with open(output, "w") as stdout:
    job = subprocess.Popen(sys.argv[4:], stdout=stdout, stderr=subprocess.DEVNULL, start_new_session=True)
while watched.read_bytes() == before:
    assert job.poll() is None, "it ended"
    time.sleep(0.005)
os.killpg(job.pid, signal.Signals[name])
print(job.pid)
"""

# Run two commands. The first is stopped when it waits for the lock, which is held until then; it goes on when the
# second has ended. Prints what each has printed.
ONE_AFTER_THE_OTHER = """
import fcntl, json, os, pathlib, signal, subprocess, sys, time
lock, first, second = pathlib.Path(sys.argv[1]), *map(json.loads, sys.argv[2:])

def waits():
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            held = {os.readlink(descriptor) for descriptor in (process / "fd").iterdir()}
            if int(process.name) != os.getpid() and str(lock) in held:
                return True
        except OSError:
            # The process ended meanwhile, or closed a file.
            pass

lock.parent.mkdir(mode=0o700, exist_ok=True)
with open("/root/first", "w+") as output, open(lock, "a") as held:
    fcntl.flock(held, fcntl.LOCK_EX)
    job = subprocess.Popen(first, stdout=output, stderr=subprocess.DEVNULL, start_new_session=True)
    while not waits() and job.poll() is None:
        time.sleep(0.02)
    stopped = job.poll() is None
    if stopped:
        os.killpg(job.pid, signal.SIGSTOP)
    held.close()
    done = subprocess.run(second, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    if stopped:
        os.killpg(job.pid, signal.SIGCONT)
    job.wait()
    output.seek(0)
    print(json.dumps([stopped, output.read(), done.stdout.decode()]))
"""

# Run commands at once; print what each has printed.
AT_ONCE = """
import json, subprocess, sys
jobs = [
    subprocess.Popen(json.loads(command), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    for command in sys.argv[1:]
]
print(json.dumps([job.communicate()[0].decode() for job in jobs]))
"""

# Give files an access control list (a reader 12345), an attribute, a label of SELinux, and one of root's own.
MARK = """
import os, struct, sys
nobody = 0xFFFFFFFF
entries = [(1, 6, nobody), (2, 4, 12345), (4, 4, nobody), (16, 4, nobody), (32, 4, nobody)]
access = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
for path in sys.argv[1:]:
    os.setxattr(path, "user.note", path.encode())
    os.setxattr(path, "trusted.note", path.encode())
    os.setxattr(path, "security.selinux", b"system_u:object_r:postfix_etc_t:s0\\0")
    mode = os.stat(path).st_mode
    os.setxattr(path, "system.posix_acl_access", access)
    os.chmod(path, mode)
"""
MARKS = """
import os, sys
for path in sys.argv[1:]:
    names = sorted(os.listxattr(path))
    print(path, oct(os.stat(path).st_mode), *((name, os.getxattr(path, name)) for name in names))
"""

# Sends mail all the time, from each boot on.
CLIENT = pathlib.Path(__file__).parents[1] / "mail-flow" / "client.py"
FLOW = "/var/lib/flow"
FLOW_UNIT = f"""\
[Service]
ExecStart=/usr/bin/python3 /srv/client.py alice@mail.example.com 1 {FLOW} 0.5

[Install]
WantedBy=multi-user.target
"""

GREETING = """
import smtplib
with smtplib.SMTP("127.0.0.1", 25, timeout=20) as client:
    client.starttls()
    client.sendmail("sender@example.org", ["alice@mail.example.com"], "Subject: {subject}\\n\\nhello\\n")
"""


def pillar(number):
    """The pillar of the apply with a number: every one changes what the one before it made."""
    return {
        "postfix_mta": {
            "root_recipient": "alice",
            "parameters": {
                "smtpd_banner": f"$myhostname ESMTP {number}",
                "message_size_limit": 20000000 + number,
                "inet_interfaces": ["all", "loopback-only"][number % 4 == 3],
            },
            "services": {"smtp/inet": {"overrides": {"smtpd_timeout": f"{200 + number}s"}}},
            "aliases": {"changing": f"alice+{number}"},
            "sasl": {"threads": 2 + number % 3},
            "certificate": {"key_type": "ec", "names": [f"smtp{number}.example.com"]},
        }
    }


@pytest.fixture(scope="module")
def server(container):
    """The host, and what these tests do to it. Nothing watches its applies: what is left can be looked at."""
    container.exec("useradd --create-home alice")
    container.exec("mv /usr/bin/systemd-run /srv/systemd-run")
    return Server(container)


class Server:
    """The host under test. ``number`` is that of the pillar which it has, or is about to get."""

    def __init__(self, container):
        self.container = container
        self.number = 0
        self.process = None
        self.command = [
            "salt-call",
            "--local",
            "--out=json",
            f"--config-dir={container.root}etc/salt",
            "state.apply",
            "postfix_mta",
        ]

    def inspect(self):
        """What is on disk."""
        return json.loads(self.container.exec(["python3", "-c", INSPECT, JOURNAL, *FILES]).stdout)

    def prepare(self):
        """Have the next pillar ready, and a smtpd.conf that is not the formula's; return what is on disk."""
        self.number += 1
        self.container.set_pillar(pillar(self.number))
        self.container.put({"/etc/postfix/sasl/smtpd.conf": "pwcheck_method: saslauthd\nmech_list: plain\n"})
        return self.inspect()

    def interrupt(self, name="SIGKILL", switched="/etc/postfix/main.cf", **keys):
        """
        Send a signal to an apply that has just switched a file; return what was on disk before it.

        keys: what else its pillar has.
        """
        before = self.prepare()
        if keys:
            self.container.set_pillar({"postfix_mta": {**pillar(self.number)["postfix_mta"], **keys}})
        argv = ["python3", "-c", INTERRUPT, switched, OUTPUT, name, *self.command]
        self.process = self.container.exec(argv).stdout.strip()
        assert self.inspect()["journal"]
        return before

    def resume(self):
        """Let an apply go on that was stopped; its results."""
        self.container.exec(["kill", "-CONT", "--", f"-{self.process}"])
        self.container.exec(["timeout", "60", "tail", f"--pid={self.process}", "-f", "/dev/null"])
        return json.loads(self.container.exec(["cat", OUTPUT]).stdout)["local"]

    def converges(self):
        """Apply once more, which must succeed; its results."""
        results = self.container.apply()
        wrong = {key: state["comment"] for key, state in results.items() if state["result"] is not True}
        assert not wrong
        return results

    def delivers(self, subject):
        """Send a message, and see it arrive."""
        self.container.exec(["python3", "-c", GREETING.format(subject=subject)])
        look = f"grep -rq 'Subject: {subject}$' /home/alice/Maildir/new"
        self.container.exec(["timeout", "30", "sh", "-c", f"until {look}; do sleep 0.2; done"])


def tell_what_is_not_whole(before, now):
    """One text per file that is neither the old one, nor a complete new one that is committed or can go back."""
    for name in ("main.cf", "master.cf", "aliases"):
        if now[name].startswith("("):
            yield f"{name} does not parse: {now[name]}"
    different = [path for path in FILES if now["files"][path] != before["files"][path]]
    if now["journal"] is None:
        if now["certificate"] != now["key"]:
            yield f"key and certificate are no pair: {now['certificate']} {now['key']}"
        if different and different != CHANGING:
            yield f"there is no journal, and only some files are new: {different}"
        return
    for path in different:
        if now["journal"].get(path, "nothing") != before["files"][path]:
            yield f"{path} is not the old one, and the journal has {now['journal'].get(path, 'nothing')}"
    for path in FILES:
        if now["files"][path] is None or now["files"][path][1:] != before["files"][path][1:]:
            yield f"{path} is {now['files'][path]}, it was {before['files'][path]}"


def moments(span, journal, count):
    """``count`` moments, half of them anywhere, half while there is a journal; and whether children die, too."""
    draw = random.Random(SEED)
    spans = [journal, (0, span)]
    for number in range(count):
        begin, end = spans[number % 2]
        share = (number // 2 + draw.random()) / ((count + 1) // 2)
        yield begin + share * (end - begin), draw.random() < 0.5


def test_an_apply_that_is_killed_at_any_moment_is_made_up_for(server, capsys):
    server.container.set_pillar(pillar(0))
    server.converges()
    server.prepare()
    timing = server.container.exec(["python3", "-c", TIME, JOURNAL, *server.command])
    begin, end, span = json.loads(timing.stdout)
    server.converges()
    problems, left, unchanged, complete, torn = [], 0, 0, 0, 0
    for moment, alone in moments(span, (begin, end), KILLS):
        before = server.prepare()
        # With --foreground only Salt is killed, and what it has started goes on.
        group = ["--foreground"] if alone else []
        argv = ["timeout", "--signal=KILL", *group, f"{moment:.3f}", *server.command]
        server.container.exec(argv, check=False)
        now = server.inspect()
        found = list(tell_what_is_not_whole(before, now))
        results = server.container.apply()
        found += [state["comment"] for state in results.values() if state["result"] is not True]
        recovered = bool(state_of(results, "postfix_mta_recovered")["changes"])
        if recovered != (now["journal"] is not None):
            found.append(f"there was {'a' if now['journal'] else 'no'} journal, and recovered is {recovered}")
        changed = now["files"] != before["files"]
        if now["journal"] is None and changed and any(state["changes"] for state in results.values()):
            found.append("there was no journal, the files were new, and the next apply changed something")
        after = server.inspect()
        if after["journal"] is not None or after["certificate"] != after["key"]:
            found.append(f"after the next apply: {after}")
        if f"ESMTP {server.number}\n" not in after["main.cf"]:
            found.append("the next apply did not change main.cf")
        problems += [f"killed after {moment:.3f} s{', alone' if alone else ''}: {text}" for text in found]
        left += now["journal"] is not None
        torn += now["journal"] is not None and changed
        complete += now["journal"] is None and changed
        unchanged += now["journal"] is None and not changed
    with capsys.disabled():
        print(
            f"\nseed {SEED}: {KILLS} kills within {span:.1f} s (journal from {begin:.1f} to {end:.1f} s):"
            f" {unchanged} before anything changed, {left} with a journal ({torn} with changed files),"
            f" {complete} after the commit"
        )
    assert not problems, "\n".join(problems)
    # Where there are few, none of them may have come while there was one.
    assert left or KILLS < 4
    server.delivers("after-kills")


def test_nothing_is_left_behind_by_killed_applies(server):
    drafts = "find /etc /var/spool/postfix/var -newer /etc/hostname -name '.*.*' ! -name .pwd.lock"
    units = "find /etc/systemd/system -name 'postfix-mta-*'"
    assert server.container.exec(f"{drafts}; {units}").stdout.split() == []
    # A check that needed a stranger's address keeps the file that it has locked, as the transaction keeps its own.
    kept = server.container.exec("ls -A --ignore='untrusted_client.*.lock' /var/lib/postfix_mta").stdout.split()
    assert kept == [
        "aliases.json",
        "applied.json",
        "lock",
        "maps.json",
        "originals",
        "postconf.json",
        "previous",
        "verdicts",
    ]


def test_a_journal_that_was_left_behind_is_announced_by_a_dry_run(server):
    before = server.interrupt()
    there = server.inspect()
    predicted = state_of(server.container.apply(test=True), "postfix_mta_recovered")
    assert predicted["result"] is None
    assert "interrupted apply" in predicted["comment"]
    assert "/etc/postfix/main.cf" in predicted["changes"]
    assert server.inspect() == there
    recovered = state_of(server.converges(), "postfix_mta_recovered")
    assert recovered["changes"] == predicted["changes"]
    assert server.inspect()["files"] != before["files"]


def test_a_bad_apply_after_a_killed_one_leaves_the_files_from_before_both(server):
    before = server.interrupt()
    bad = pillar(server.number)
    bad["postfix_mta"]["parameters"]["virtual_alias_maps"] = "$default_database_type:/etc/postfix/nosuch"
    results = server.container.apply(pillar=bad)
    assert state_of(results, "postfix_mta_recovered")["changes"]
    assert state_of(results, "postfix_mta_committed")["result"] is False
    assert server.inspect() == before
    server.delivers("after-both")


def test_after_a_power_loss_the_boot_restores_the_old_files_before_postfix_starts(server):
    while pillar(server.number + 1)["postfix_mta"]["parameters"]["inet_interfaces"] == "all":
        server.number += 1
    before = server.interrupt()
    assert "loopback-only" in server.container.exec("postconf -h inet_interfaces").stdout
    server.container.restart()
    assert server.inspect() == before
    # master(8) looks at inet_interfaces at its start only.
    assert "0.0.0.0:25" in server.container.exec("ss -Hltn").stdout
    assert server.container.exec(f"ls {BOOT_UNIT} {JOURNAL}", check=False).stdout == ""
    assert "postfix-mta" not in server.container.exec("ls /etc/systemd/system/multi-user.target.wants").stdout
    assert server.container.exec("systemctl is-active postfix saslauthd").stdout.split() == ["active", "active"]
    server.delivers("after-boot")
    assert not state_of(server.converges(), "postfix_mta_recovered")["changes"]


class TestASecondApply:
    """What comes while an apply is under way waits for it."""

    @pytest.fixture
    def later(self, server):
        """A function that calls Salt while an apply is under way: whether that ended at once, and its result."""

        def run(*args, **kwargs):
            server.interrupt("SIGSTOP")
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                second = pool.submit(server.container.call, *args, **kwargs)
                done, _ = concurrent.futures.wait([second], timeout=WAITING)
                first = server.resume()
                assert all(state["result"] for state in first.values()), first
                assert state_of(first, "postfix_mta_committed")["changes"]
                return bool(done), second.result()

        return run

    def test_an_apply_waits_and_both_succeed(self, server, later):
        at_once, second = later("state.apply", "postfix_mta", concurrent=True)
        assert not at_once
        assert all(state["result"] for state in second.values()), second
        assert not state_of(second, "postfix_mta_recovered")["changes"]
        assert not any(state["changes"] for state in server.converges().values())

    def test_a_dry_run_does_not_take_the_live_journal_for_a_left_one(self, later):
        _, dry = later("state.apply", "postfix_mta", concurrent=True, test=True)
        assert not state_of(dry, "postfix_mta_recovered")["changes"]

    def test_a_single_parameter_waits_and_both_changes_are_made(self, server, later):
        at_once, changes = later("postconf.set", parameters={"smtpd_error_sleep_time": "3s"})
        assert not at_once
        assert changes["smtpd_error_sleep_time"] == {"old": None, "new": "3s"}
        shown = server.inspect()["main.cf"]
        assert "smtpd_error_sleep_time = 3s\n" in shown
        assert f"ESMTP {server.number}\n" in shown


# What a live conversation does not find, however good the settings are.
UNANSWERABLE = {"verify": {"capabilities": ["NOSUCH"]}}
STATE = "/var/lib/postfix_mta"


def aside(server):
    """What could not be restored: path to the SHA-256 of what has been set aside of it."""
    command = f"cd {STATE} && for e in not-restored-*/*; do cat $e/path; echo; sha256sum < $e/content; done"
    lines = server.container.exec(command).stdout.splitlines()
    return {path: total.split()[0] for path, total in zip(lines[::2], lines[1::2])}


def edited(server):
    """The files that have been kept beside restored ones."""
    return server.container.exec("find /etc -name '*.edited-meanwhile-*'").stdout.split()


class TestAnUndo:
    """An apply that is undone while something stands in its way, or somebody else changes the same files."""

    @pytest.fixture(autouse=True)
    def cleaned(self, server):
        """Afterwards nothing is mounted or set aside."""
        yield
        # A path may have several mounts, one over the other.
        unmount = "chattr -i $path; while umount -l $path 2>/dev/null; do :; done"
        server.container.exec(f"for path in {' '.join(FILES)} /etc/postfix {STATE}; do {unmount}; done")
        server.container.exec(f"rm -rf {STATE}/not-restored-*; find /etc -name '*.edited-meanwhile-*' -delete")
        server.container.exec("if [ -e /srv/journalctl ]; then mv /srv/journalctl /usr/bin/journalctl; fi")
        server.container.exec("systemctl restart postfix")

    @pytest.fixture
    def small_disk(self, server):
        """A function that puts a directory on a small file system of its own; :func:`fill` fills it."""

        def mount(path, kind="tmpfs -o size=8m,"):
            server.container.exec(
                f"cp -a {path} /srv/small && mount -t {kind}mode=$(stat -c %a {path}) none {path}"
                f" && cp -a /srv/small/. {path} && rm -r /srv/small"
            )

        return mount

    def is_whole_but_for(self, server, before, paths):
        """Whether every file but these is as it was, no journal is left, and mail is delivered."""
        now = server.inspect()
        assert now["journal"] is None
        different = [path for path in FILES if now["files"][path] != before["files"][path]]
        assert different == sorted(paths, key=FILES.index)
        assert server.container.exec(f"ls {BOOT_UNIT}", check=False).stdout == ""
        assert server.container.exec("systemctl is-active postfix saslauthd").stdout.split() == ["active"] * 2
        server.delivers(f"after-undo-{server.number}-{len(paths)}")

    def test_files_that_cannot_be_replaced_are_named_before_anything_is_changed(self, server):
        before = server.prepare()
        bound, immutable = CHANGING[::2], CHANGING[1::2]
        server.container.exec(f"for path in {' '.join(bound)}; do mount --bind $path $path; done")
        server.container.exec(["chattr", "+i", *immutable])
        for test in (True, False):
            results = server.container.apply(test=test)
            comments = "\n".join(state["comment"] for state in results.values() if state["result"] is False)
            for path in bound:
                assert f"Cannot change {path}: it is a mount of its own" in comments
            for path in immutable:
                assert f"Cannot change {path}: {path} has been made immutable" in comments
            assert "Undone: " not in comments
            assert server.inspect() == before
        server.container.exec(["chattr", "-i", *immutable])
        server.container.exec(f"for path in {' '.join(bound)}; do umount $path; done")
        # What the apply does not change is not in its way.
        server.container.exec("chattr +i /etc/ssl/private/smtpd.key")
        server.converges()
        server.container.exec("chattr -i /etc/ssl/private/smtpd.key")
        assert f"ESMTP {server.number}\n" in server.inspect()["main.cf"]

    def test_a_file_that_cannot_be_restored_keeps_nothing_else_from_being(self, server):
        before = server.interrupt("SIGSTOP", "/etc/aliases", **UNANSWERABLE)
        server.container.exec("mount --bind /etc/aliases /etc/aliases")
        closed = state_of(server.resume(), "postfix_mta_committed")
        assert closed["result"] is False
        assert "NOSUCH" in closed["comment"]
        assert "NOT UNDONE: /etc/aliases could not be restored (Device or resource busy)" in closed["comment"]
        assert "The server answers as it did before." in closed["comment"]
        self.is_whole_but_for(server, before, ["/etc/aliases"])
        assert aside(server) == {"/etc/aliases": before["files"]["/etc/aliases"][0]}
        # The next apply works, even while the file is still as it is.
        server.container.call("postconf.set", parameters={"smtpd_error_sleep_time": "4s"})
        assert "smtpd_error_sleep_time = 4s\n" in server.inspect()["main.cf"]
        server.container.call("postconf.reset", ["smtpd_error_sleep_time"])

    def test_on_a_full_disk_everything_is_restored(self, server, small_disk):
        small_disk("/etc/postfix")
        # Long before main.cf and master.cf, which are switched one right after the other.
        before = server.interrupt("SIGSTOP", "/etc/postfix/sasl/smtpd.conf", **UNANSWERABLE)
        server.container.exec("cat /dev/zero >/etc/postfix/fill", check=False)
        results = server.resume()
        comments = "\n".join(state["comment"] for state in results.values() if state["result"] is False)
        assert "No space left on device" in comments
        assert "NOT UNDONE" not in comments
        self.is_whole_but_for(server, before, [])

    @pytest.mark.parametrize("switched", CHANGING if "POSTFIX_MTA_KILLS" in os.environ else CHANGING[1:2])
    def test_a_disk_that_fills_between_two_files_undoes_the_apply(self, server, small_disk, switched):
        small_disk(STATE)
        before = server.interrupt("SIGSTOP", switched, **UNANSWERABLE)
        server.container.exec(f"cat /dev/zero >{STATE}/fill", check=False)
        results = server.resume()
        comments = "\n".join(state["comment"] for state in results.values() if state["result"] is False)
        # After the last file there is nothing to write but what a commit has.
        assert "No space left on device" in comments or "NOSUCH" in comments
        assert "NOT UNDONE" not in comments
        self.is_whole_but_for(server, before, [])

    def test_the_next_apply_undoes_a_killed_one_but_for_what_it_cannot(self, server):
        server.interrupt("SIGKILL", "/etc/aliases")
        server.container.exec("mount --bind /etc/aliases /etc/aliases")
        results = server.container.apply()
        recovered = state_of(results, "postfix_mta_recovered")
        assert recovered["result"] is True
        assert recovered["comment"].startswith("An interrupted apply has been undone in part only.\n")
        assert "NOT UNDONE: /etc/aliases" in recovered["comment"]
        assert f"ESMTP {server.number}\n" in server.inspect()["main.cf"]

    def test_the_boot_script_undoes_a_killed_one_but_for_what_it_cannot(self, server):
        before = server.interrupt("SIGKILL")
        server.container.exec("mount --bind /etc/aliases /etc/aliases")
        done = server.container.exec(f"sh {STATE}/recover.sh", check=False)
        assert done.returncode == 1
        assert "/etc/aliases could not be restored" in done.stdout
        server.container.exec("systemctl daemon-reload; systemctl restart saslauthd postfix")
        self.is_whole_but_for(server, before, ["/etc/aliases"])
        assert aside(server) == {"/etc/aliases": before["files"]["/etc/aliases"][0]}

    def test_what_postconf_has_set_meanwhile_is_kept(self, server):
        before = server.interrupt("SIGSTOP", **UNANSWERABLE)
        # It waits for the lock that the apply has on main.cf.
        server.container.exec("setsid postconf -e smtpd_error_sleep_time=7s >/dev/null 2>&1 </dev/null &")
        closed = state_of(server.resume(), "postfix_mta_committed")
        assert closed["result"] is False
        (kept,) = edited(server)
        assert kept.startswith("/etc/postfix/main.cf.edited-meanwhile-")
        assert kept in closed["comment"]
        text = server.container.exec(["cat", kept]).stdout
        assert "\nsmtpd_error_sleep_time = 7s\n" in text
        self.is_whole_but_for(server, before, [])

    @pytest.mark.parametrize("way", ["the next apply", "the boot"])
    def test_what_has_been_mended_by_hand_after_a_kill_is_kept(self, server, way):
        before = server.interrupt("SIGKILL")
        server.container.exec(
            "sed -i 's/^smtpd_banner.*/smtpd_banner = $myhostname ESMTP by hand/' /etc/postfix/main.cf"
            " && chmod 0640 /etc/postfix/main.cf"
        )
        if way == "the boot":
            server.container.restart()
            said = server.container.exec("journalctl -b --output=cat -u postfix-mta-recover.service").stdout
            assert server.inspect() == before
        else:
            said = state_of(server.container.apply(), "postfix_mta_recovered")["comment"]
        (kept,) = edited(server)
        assert kept.startswith("/etc/postfix/main.cf.edited-meanwhile-")
        assert kept in said
        assert "ESMTP by hand" in server.container.exec(["cat", kept]).stdout
        assert server.container.exec(["stat", "-c", "%a", kept]).stdout == "640\n"

    def test_a_log_that_hangs_does_not_keep_a_bad_change_in_force(self, server):
        before = server.prepare()
        server.container.exec("cp /usr/bin/journalctl /srv")
        server.container.exec(
            "printf '#!/bin/sh\\nsleep 600\\n' >/srv/hangs && install /srv/hangs /usr/bin/journalctl"
        )
        bad = {**pillar(server.number)["postfix_mta"], **UNANSWERABLE}
        closed = state_of(server.container.apply(pillar={"postfix_mta": bad}), "postfix_mta_committed")
        assert closed["result"] is False
        assert "NOSUCH" in closed["comment"]
        assert "Undone: " in closed["comment"]
        self.is_whole_but_for(server, before, [])

    def test_a_disk_that_is_full_at_the_commit_undoes_the_apply(self, server, small_disk):
        small_disk(STATE)
        before = server.prepare()
        # The reload comes when all is switched and nothing committed. The script is there until then.
        server.container.exec(["mv", "/usr/sbin/postfix", "/srv/postfix"])
        check = '[ "$1" != -c ] || exec /srv/postfix "$@"'
        fill = f'mv /srv/postfix /usr/sbin && postfix "$@" && ! cat /dev/zero >{STATE}/fill'
        server.container.put({"/usr/sbin/postfix": f"#!/bin/sh\n{check}\n{fill}\n"})
        server.container.exec(["chmod", "0755", "/usr/sbin/postfix"])
        closed = state_of(server.container.apply(), "postfix_mta_committed")
        assert closed["result"] is False
        assert "could not be recorded, so it must not stay:\n" in closed["comment"]
        assert "No space left on device" in closed["comment"]
        self.is_whole_but_for(server, before, [])

    @pytest.mark.parametrize("way", ["the apply", "the script"])
    def test_access_lists_attributes_and_labels_come_back(self, server, small_disk, way):
        """The apply has a state directory that takes none, and so a copy; the script has the file itself."""
        server.prepare()
        # What is compiled, or put there by the test itself, is new each time.
        marked = [path for path in CHANGING if not path.endswith((".db", "smtpd.conf"))]
        server.container.exec(["python3", "-c", MARK, *marked])
        there = server.container.exec(["python3", "-c", MARKS, *marked]).stdout
        assert there.count("posix_acl_access") == there.count("security.selinux") == len(marked)
        if way == "the apply":
            small_disk(STATE, "ramfs -o ")
            refused = server.container.exec(["python3", "-c", MARK, f"{STATE}/lock"], check=False)
            assert "Operation not supported" in refused.stderr
        before = server.interrupt("SIGSTOP" if way == "the apply" else "SIGKILL", **UNANSWERABLE)
        assert server.container.exec(["python3", "-c", MARKS, marked[0]]).stdout in there
        if way == "the apply":
            assert state_of(server.resume(), "postfix_mta_committed")["result"] is False
        else:
            server.container.exec(f"sh {STATE}/recover.sh && systemctl restart saslauthd postfix")
        self.is_whole_but_for(server, before, [])
        assert server.container.exec(["python3", "-c", MARKS, *marked]).stdout == there
        if way == "the script":
            server.prepare()
            server.container.exec(["python3", "-c", MARK, *marked])
            server.converges()
            assert server.inspect()["files"] != before["files"]
            assert server.container.exec(["python3", "-c", MARKS, *marked]).stdout == there

    def test_after_all_of_that_an_apply_succeeds(self, server):
        server.prepare()
        server.converges()
        server.delivers("after-undos")


@pytest.fixture(scope="class")
def watched(server):
    """Applies are watched, as on any host."""
    server.container.exec("mv /srv/systemd-run /usr/bin/systemd-run")
    server.prepare()
    server.converges()
    yield
    server.container.exec("mv /usr/bin/systemd-run /srv/systemd-run")


@pytest.fixture(scope="class")
def mail(server, watched):
    """A client sends mail all the time, one message after another; a function that lists those that are lost."""
    server.container.copy(CLIENT, "/srv/client.py")
    server.container.put({"/etc/systemd/system/flow.service": FLOW_UNIT})
    server.container.exec("systemctl daemon-reload && systemctl enable --now flow")

    def sent():
        lines = server.container.exec(f"cat {FLOW}/sent", check=False).stdout.splitlines()
        return [line.split("\t")[2] for line in lines if line.endswith("\tok")]

    def lost():
        accepted, deadline = set(sent()), time.monotonic() + 60
        while True:
            server.container.exec("postqueue -f")
            found = server.container.exec("grep -rh ^X-Number: /home/alice/Maildir/new", check=False).stdout
            missing = accepted.difference(found.split())
            if not missing or time.monotonic() > deadline:
                return len(accepted), sorted(missing)
            time.sleep(1)

    yield lost
    server.container.exec("systemctl disable --now flow; rm /etc/systemd/system/flow.service")


def healed(server):
    """Wait until nothing of an apply is left, a minute at most; return how many seconds that took."""
    watched = "systemctl list-units --plain --no-legend 'postfix-mta-watch-*'"
    wait = f'while [ -e {JOURNAL} ] || [ -n "$({watched})" ]; do sleep 0.2; done'
    began = time.monotonic()
    server.container.exec(["timeout", "60", "sh", "-c", wait])
    return time.monotonic() - began


@pytest.mark.usefixtures("watched", "mail")
class TestAnApplyThatIsWatched:
    """It dies, and nobody does anything about it: what watches it undoes it, while mail comes all the time."""

    def is_as_before(self, server, before):
        assert server.inspect() == before
        assert server.container.exec("systemctl is-active postfix saslauthd").stdout.split() == ["active"] * 2
        assert "postfix-mta-recover" not in server.container.exec("ls /etc/systemd/system").stdout

    def test_one_that_is_killed_at_any_moment_is_undone(self, server, capsys):
        server.prepare()
        timing = server.container.exec(["python3", "-c", TIME, JOURNAL, *server.command])
        begin, end, span = json.loads(timing.stdout)
        problems, took = [], []
        for moment, alone in moments(span, (begin, end), WATCHED_KILLS):
            before = server.prepare()
            group = ["--foreground"] if alone else []
            argv = ["timeout", "--signal=KILL", *group, f"{moment:.3f}", *server.command]
            server.container.exec(argv, check=False)
            took.append(healed(server))
            now = server.inspect()
            new = f"ESMTP {server.number}\n" in now["main.cf"] and now["certificate"] == now["key"]
            if now["files"] != before["files"] and not new:
                problems.append(f"killed after {moment:.3f} s: there was {before}, there is {now}")
        with capsys.disabled():
            print(f"\nseed {SEED}: healed within {max(took):.1f} s after each of {len(took)} kills")
        assert not problems, "\n".join(problems)
        server.delivers("after-watched-kills")

    def test_one_whose_host_loses_its_power_is_undone_by_the_boot(self, server, capsys):
        server.prepare()
        timing = server.container.exec(["python3", "-c", TIME, JOURNAL, *server.command])
        begin, end, _ = json.loads(timing.stdout)
        draw, problems, undone, took = random.Random(SEED), [], 0, []
        for _ in range(CUTS):
            before = server.prepare()
            server.container.exec(f"setsid --fork {shlex.join(server.command)} >/dev/null 2>&1")
            moment = draw.uniform(begin, end)
            time.sleep(moment)
            server.container.cut_power()
            took.append(healed(server))
            now = server.inspect()
            new = f"ESMTP {server.number}\n" in now["main.cf"] and now["certificate"] == now["key"]
            undone += now["files"] == before["files"]
            if now["files"] != before["files"] and not new:
                problems.append(f"after {moment:.3f} s: there was {before}, there is {now}")
            if server.container.exec("systemctl is-active postfix saslauthd").stdout.split() != ["active"] * 2:
                problems.append(f"after {moment:.3f} s: a daemon does not run")
        with capsys.disabled():
            print(f"\nseed {SEED}: of {CUTS} applies that lost their power {undone} were undone,", end=" ")
            print(f"within {max(took):.1f} s after the boot")
        assert not problems, "\n".join(problems)
        server.delivers("after-power-cuts")

    def test_no_message_that_was_accepted_meanwhile_is_lost(self, mail, capsys):
        accepted, lost = mail()
        with capsys.disabled():
            print(f"\nof {accepted} messages that were accepted {len(lost)} are lost")
        assert accepted
        assert lost == []

    def test_daemons_that_it_holds_come_back(self, server):
        before = server.interrupt("SIGSTOP")
        server.container.exec("pkill -STOP -x qmgr")
        server.container.exec(["kill", "-KILL", "--", f"-{server.process}"])
        healed(server)
        self.is_as_before(server, before)
        server.delivers("after-a-held-queue-manager")

    def test_a_postfix_that_it_has_stopped_is_started(self, server):
        before = server.interrupt("SIGSTOP")
        server.container.exec(f"touch {JOURNAL}/halted && systemctl stop postfix")
        server.container.exec(["kill", "-KILL", "--", f"-{server.process}"])
        healed(server)
        self.is_as_before(server, before)
        server.delivers("after-a-halt")

    def test_one_that_gets_no_more_memory_leaves_a_whole_host(self, server):
        before = server.interrupt("SIGSTOP")
        server.container.exec(["prlimit", f"--pid={server.process}", "--as=1"])
        server.container.exec(["kill", "-CONT", "--", f"-{server.process}"])
        server.container.exec(["timeout", "60", "tail", f"--pid={server.process}", "-f", "/dev/null"])
        healed(server)
        self.is_as_before(server, before)
        server.delivers("after-no-memory")

    def test_one_that_lives_is_left_alone_however_long_it_takes(self, server):
        server.interrupt("SIGSTOP")
        there = server.inspect()
        time.sleep(WAITING)
        assert server.inspect() == there
        results = server.resume()
        assert all(state["result"] for state in results.values()), results
        healed(server)
        assert f"ESMTP {server.number}\n" in server.inspect()["main.cf"]

    def test_an_apply_that_follows_at_once_finds_its_way(self, server):
        server.interrupt("SIGKILL")
        server.converges()
        healed(server)
        assert f"ESMTP {server.number}\n" in server.inspect()["main.cf"]


LOCK = "/var/lib/postfix_mta/lock"
AUTHORITY = ["/etc/ssl/certs/cacert.pem", "/etc/ssl/private/cakey.pem"]
TABLE = "/etc/postfix/virtual-at-once"


@pytest.fixture
def following(server):
    """Have the next pillar ready, and nothing that somebody else has changed."""

    def run(**more):
        server.number += 1
        wanted = pillar(server.number)
        wanted["postfix_mta"].update(more)
        server.container.set_pillar(wanted)

    return run


@pytest.fixture
def command(server):
    """The command line of a function of Salt's."""

    def argv(function, *words):
        config = f"--config-dir={server.container.root}etc/salt"
        return ["salt-call", "--local", "--out=json", config, function, *words]

    return argv


@pytest.fixture
def apply(command):
    return command("state.apply", "postfix_mta", "concurrent=True")


def at_once(server, *commands):
    """Run commands at once; what each has printed."""
    return json.loads(server.container.exec(["python3", "-c", AT_ONCE, *map(json.dumps, commands)]).stdout)


class TestTwoAtOnce:
    """Two that change something: the later one looks at what the first has left, not at what was there before."""

    @pytest.fixture
    def overtaken(self, server):
        """Let the first command wait for the lock while the second one runs; both results, None for an error."""

        def run(first, second):
            argv = ["python3", "-c", ONE_AFTER_THE_OTHER, LOCK, json.dumps(first), json.dumps(second)]
            stopped, *outputs = json.loads(server.container.exec(argv).stdout)
            assert stopped, outputs
            return [json.loads(output)["local"] if output else None for output in outputs]

        return run

    def authority(self, server):
        return server.container.exec(["sha256sum", *AUTHORITY]).stdout

    def good(self, results):
        assert not {key: state["comment"] for key, state in results.items() if state["result"] is not True}

    def test_what_is_taken_back_is_not_what_another_apply_has_saved_meanwhile(
        self, server, following, overtaken, command, apply
    ):
        following()
        server.converges()
        following()
        first, second = overtaken(command("mta_transaction.roll_back"), apply)
        self.good(second)
        now = server.inspect()
        assert (first["result"], first["changes"]) == (False, {})
        assert "another apply has changed something since" in first["comment"]
        assert now["journal"] is None
        assert f"ESMTP {server.number}\n" in now["main.cf"]
        assert now["certificate"] == now["key"]
        assert "PRIVATE" not in server.container.exec("cat /etc/aliases /etc/postfix/*.cf").stdout
        assert server.container.exec("postalias -q changing /etc/aliases").stdout == f"alice+{server.number}\n"
        assert not any(state["changes"] for state in server.converges().values())

    def test_an_apply_makes_again_what_was_taken_back_meanwhile(
        self, server, following, overtaken, command, apply
    ):
        following()
        first, second = overtaken(apply, command("mta_transaction.roll_back"))
        assert second["result"], second
        self.good(first)
        assert f"ESMTP {server.number}\n" in server.inspect()["main.cf"]
        assert not any(state["changes"] for state in server.converges().values())

    def test_a_clean_up_takes_away_what_an_apply_has_made_meanwhile(
        self, server, following, overtaken, command, apply
    ):
        following(maps={"at_once": {"path": TABLE, "entries": {"a@example.com": "alice"}}})
        first, second = overtaken(command("state.apply", "postfix_mta.clean", "concurrent=True"), apply)
        self.good(second)
        self.good(first)
        assert TABLE in state_of(first, "postfix_mta_clean")["changes"]
        assert server.container.exec(f"ls {TABLE}* /etc/ssl/certs/smtpd.crt", check=False).stdout == ""
        assert "smtpd_sasl_auth_enable" not in server.inspect()["main.cf"]
        again = server.container.apply(sls="postfix_mta.clean")
        assert not any(state["changes"] for state in again.values())

    def test_an_apply_makes_again_what_was_cleaned_up_meanwhile(
        self, server, following, overtaken, command, apply
    ):
        following()
        server.converges()
        following()
        first, second = overtaken(apply, command("state.apply", "postfix_mta.clean", "concurrent=True"))
        self.good(second)
        wrong = [state["comment"] for state in first.values() if state["result"] is not True]
        assert server.inspect()["journal"] is None
        server.converges()
        assert not any(state["changes"] for state in server.converges().values()), wrong
        server.delivers("after-clean")

    def test_the_second_of_two_first_applies_leaves_the_authority(
        self, server, following, overtaken, command, apply
    ):
        self.good(server.container.apply(sls="postfix_mta.clean"))
        server.container.exec(["rm", "-f", *AUTHORITY])
        following()
        seen = "sh", "-c", f"{' '.join(apply)} && sha256sum {' '.join(AUTHORITY)} >/root/authority"
        first, second = overtaken(apply, seen)
        self.good(second)
        self.good(first)
        assert self.authority(server) == server.container.exec("cat /root/authority").stdout
        assert not state_of(first, "postfix_mta_ca")["changes"]
        assert not any(state["changes"] for state in server.converges().values())

    def test_two_that_are_started_together_end_as_one(self, server, command):
        part = command("state.apply", "postfix_mta.certificate", "concurrent=True")
        for _ in range(RACES):
            server.container.exec(["rm", "-f", *AUTHORITY])
            results = [json.loads(output)["local"] for output in at_once(server, part, part)]
            for result in results:
                self.good(result)
            made = [result for result in results if AUTHORITY[1] in state_of(result, "postfix_mta_ca")["changes"]]
            assert len(made) == 1
            now = server.inspect()
            assert (now["journal"], now["certificate"]) == (None, now["key"])
            server.container.exec(["openssl", "verify", "-CAfile", AUTHORITY[0], "/etc/ssl/certs/smtpd.crt"])
        assert not any(state["changes"] for state in server.converges().values())

    def test_a_key_that_is_made_by_hand_meanwhile_is_not_overwritten(self, server, overtaken, command):
        """By hand, too, one waits for an apply."""
        files = ["/root/by-hand.pem", "/root/by-hand.key"]
        by_hand = command("mta_ca.create", *files)
        managed = command("state.single", "mta_cert.ca_managed", files[0], f"key={files[1]}")
        seen = "sh", "-c", f"{' '.join(managed)} && sha256sum {' '.join(files)} >/root/by-hand"
        first, second = overtaken(by_hand, seen)
        self.good(second)
        assert first is None
        server.container.exec("sha256sum --check /root/by-hand && rm /root/by-hand*")
        first, second = overtaken(managed, by_hand)
        assert second["ca"], second
        self.good(first)
        assert not any(state["changes"] for state in first.values())


# What a roll back says when there is nothing that it may roll back.
REFUSED = ("another apply has changed something since", "there is nothing to roll back", "changed since the apply")


@pytest.mark.usefixtures("watched")
class TestStartedTogether:
    """An apply, and something else a moment before or after it."""

    @pytest.fixture
    def partners(self, command, apply):
        return {
            "apply": apply,
            "roll back": command("mta_transaction.roll_back"),
            "clean": command("state.apply", "postfix_mta.clean", "concurrent=True"),
            "postconf -e": ["postconf", "-e", "smtpd_error_sleep_time = 9s"],
        }

    def wrong_results(self, partner, outputs):
        """What is not as it should be in the results of an apply and its partner."""
        results = [json.loads(output)["local"] if output.startswith("{") else output for output in outputs]
        if partner == "roll back":
            rolled = results.pop()
            if not rolled["result"] and not any(text in rolled["comment"] for text in REFUSED):
                yield f"the roll back: {rolled}"
        for result in results if partner != "postconf -e" else results[:1]:
            for name, state in result.items():
                if state["result"] is not True:
                    yield f"{name}: {state['comment']}"

    def test_whatever_is_started_together_with_an_apply_leaves_a_whole_host(
        self, server, following, partners, apply, capsys
    ):
        server.converges()
        draw, problems, tried = random.Random(SEED), [], dict.fromkeys(partners, 0)
        for number in range(1, RACES + 1):
            partner = draw.choice([name for name in partners if tried[name] == min(tried.values())])
            tried[partner] += 1
            following()
            both = [apply, partners[partner]]
            later = draw.randrange(2)
            both[later] = ["sh", "-c", f"sleep {draw.uniform(0, 3):.2f}; exec {shlex.join(both[later])}"]
            outputs = at_once(server, *both)
            healed(server)
            found = list(self.wrong_results(partner, outputs))
            now = server.inspect()
            if now["journal"] or (partner != "clean" and now["certificate"] != now["key"]):
                found.append(f"it is left like this: {now}")
            if partner == "postconf -e" and "smtpd_error_sleep_time = 9s\n" not in now["main.cf"]:
                found.append(f"what postconf -e has set is lost: {now['main.cf']}")
            if number % 4 == 0 or number == RACES:
                results = server.container.apply()
                found += [state["comment"] for state in results.values() if state["result"] is not True]
                now = server.inspect()
                if f"ESMTP {server.number}\n" not in now["main.cf"] or now["certificate"] != now["key"]:
                    found.append(f"after another apply: {now}")
                if state_of(results, "postfix_mta_recovered")["changes"]:
                    found.append("there was something to recover")
            server.container.exec("postconf -X smtpd_error_sleep_time")
            problems += [f"an apply and {partner}, {both}: {text}" for text in found]
        with capsys.disabled():
            print(f"\nseed {SEED}: started together with an apply: {tried}; wrong: {len(problems)}")
        assert not problems, "\n".join(problems)
        assert not any(state["changes"] for state in server.converges().values())
        server.delivers("after-races")
