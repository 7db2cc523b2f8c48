"""
Every point at which an apply, its undo, its commit or its recovery can be interrupted, or fail, is tried.

Real transactions run over the host of ``fault_host``. For each of their operations the process dies before and
after it; the power goes, and with it any part of what was not synced; or the operation fails, and goes on failing.
After the recovery, by the formula or by the script, the host is wholly old or wholly new, nothing of anybody else
is lost, and what was reported is true. docs/guarantees.md explains the counts that this prints.

POSTFIX_MTA_POINTS: how many times more draws than in every run (default 1), or ``all``: every operation fails with
every error, every part of what was not synced is lost, and every recovery dies at each of its operations.
POSTFIX_MTA_SEED: which draws.
"""

import contextlib
import copy
import errno
import functools
import hashlib
import itertools
import logging
import os
import pathlib
import random
import re
import shutil
import subprocess
import tempfile

import pytest
from fault_host import Died, Fault, Host, look, put
from salt.exceptions import CommandExecutionError

import _mta_apply
import _mta_journal
import _mta_judge
import _mta_postfix_outlook
import _mta_postfix_view
import _mta_recovery
import _mta_restore
import _mta_services
import _mta_system
import _mta_transaction
from _mta_minion import Minion
from _mta_plan import Participant, Plan
from _mta_run import Run

ALL = os.environ.get("POSTFIX_MTA_POINTS") == "all"
MORE = 1 if ALL else int(os.environ.get("POSTFIX_MTA_POINTS", "1"))
SEED = int(os.environ.get("POSTFIX_MTA_SEED", "1"))
ERRORS = (errno.ENOSPC, errno.EIO, errno.EPERM, errno.EBUSY, errno.EROFS)
SHELLS = [["dash"], *([["busybox", "sh"]] if shutil.which("busybox") else [])]
EDIT = b"# by hand\n"

# Of each transaction, in every run.
POWER_LOSSES, FAILURES, RECOVERIES, SCRIPTS = 40, 30, 20, len(SHELLS)
# With ``all``: of how many recoveries of a transaction one meets every error and loses its power at every point.
PART = 25

pytestmark = pytest.mark.once


class World:
    """The daemons: whether they run and start at boot, and the files with which they run."""

    def __init__(self):
        self.services = {
            "postfix": {"installed": True, "active": True, "enabled": True},
            "saslauthd": {"installed": True, "active": False, "enabled": False},
        }
        for name in set(_mta_transaction.SERVICES) - set(self.services):
            self.services[name] = {"installed": False, "active": False, "enabled": False}
        self.loaded = {"postfix": None}

    def facts(self):
        return repr((self.services, self.loaded))


class Stage:
    """One host, again and again: put up as it was at some point, and changed by real transactions."""

    def __init__(self, root, monkeypatch):
        self.root = pathlib.Path(root)
        self.state = self.root / "var/lib/postfix_mta"
        self.monkeypatch = monkeypatch
        self.world = World()
        self.worlds = []
        self.verdict = True
        self.host = None
        replaced = {
            _mta_judge: {"check": self.check},
            _mta_postfix_view: {"listeners": lambda *_: []},
            _mta_postfix_outlook: {"naming": lambda *_: {}},
            _mta_services: {"status": self.status, "daemon_reload": lambda: self.act("daemon-reload", "systemd")},
        }
        for action in ("start", "stop", "restart", "reload", "enable", "disable"):
            replaced[_mta_services][action] = self.action(action)
        for module, functions in replaced.items():
            for name, function in functions.items():
                monkeypatch.setattr(module, name, function)
        monkeypatch.setitem(
            _mta_apply.PARTICIPANTS, "tested", lambda: Participant("tested", self.plan, self.apply)
        )
        monkeypatch.setattr(_mta_transaction, "LOCK_TIMEOUT", 1)

    # -- what the engine finds instead of daemons

    def check(self, *_, **__):
        """What is judged bad was good before, and is good once it is undone."""
        changed = (self.state / "journal").exists()
        good = (self.verdict or not changed) and self.world.services["postfix"]["active"]
        problems = [] if good else ["451 4.3.0 broken"]
        return {"answers": good, "problems": problems, "notes": [], "transcript": [], "speaking": []}

    def status(self, names):
        return {name: dict(self.world.services[name]) for name in names}

    def act(self, action, name):
        try:
            self.host.step(f"{action} {name}")
        except OSError as err:
            raise CommandExecutionError(f"{action} {name}: {err.strerror}") from err

    def action(self, action):
        def run(name, **_):
            self.act(action, name)
            service = self.world.services[name]
            if action in ("enable", "disable"):
                service["enabled"] = action == "enable"
            else:
                service["active"] = action != "stop"
                self.world.loaded[name] = self.configuration() if service["active"] else None
            self.snapshot = copy.deepcopy(self.world)

        return run

    def configuration(self):
        """All that a daemon reads, in a word."""
        read = {name: facts for name, facts in look(self.root / "etc").items() if ".postfix_mta-" not in name}
        return hashlib.sha256(repr(sorted(read.items())).encode()).hexdigest()

    # -- what is changed

    def plan(self, minion, do, activate):
        return Plan({"it": {"old": 1, "new": 2}}, activate)

    def apply(self, minion, do, activate):
        do(minion)
        _mta_transaction.need(minion, activate)

    def minion(self):
        opts = {"id": "mail.example.com", "mta_state_dir": str(self.state), "test": False}
        return Minion(opts, {}, {}, {}, {})

    def set_up(self, tree, world, apart=False, fault=None, recorded=False):
        """Have a host as it was at some point."""
        put(tree, str(self.root))
        self.world = copy.deepcopy(world)
        self.host = Host(self.root, self.state, apart, fault, recorded)
        self.worlds = []
        step, self.snapshot = self.host.step, copy.deepcopy(self.world)

        def counted(*args):
            self.worlds.append(self.snapshot)
            step(*args)

        self.host.step = counted
        self.monkeypatch.setattr(_mta_system, "host", self.host)

    def run(self, do):
        """Do something with a minion of its own; return its result, or ``None`` when it died."""
        minion = self.minion()
        try:
            return do(minion)
        except Died:
            return None
        finally:
            if Run.of(minion).transaction:
                Run.of(minion).transaction.close()

    def recover(self):
        return self.run(_mta_transaction.recover)

    def files(self):
        """What is there, without what is the formula's own."""
        own = str(self.state.relative_to(self.root))
        found = look(self.root, own)
        found.pop(own, None)
        return found

    def stores(self):
        """The entries of the snapshots, those that have a name. When they were taken is another matter."""
        found = {}
        for store in ("originals", "previous"):
            for folder in sorted((self.state / store).glob("[0-9]*")):
                facts = look(folder)
                found.update({f"{store}/{folder.name}/{name}": facts[name] for name in facts if name[0] != "."})
        return found


# -- the transactions --------------------------------------------------------------------------


class Transaction:
    """
    One of those that are tried, over the host that the ones before it have left.

    before
        Transactions.

    steps
        Names of those of :data:`STEPS` that it takes. Default: all.
    """

    def __init__(self, name, before=(), verdict=True, activate=None, steps=None):
        self.name, self.before, self.verdict = name, list(before), verdict
        self.activate = activate or {"postfix": "reload"}
        self.steps = list(STEPS.get(name, ())) if steps is None else steps

    def __call__(self, stage, minion):
        if self.name == "roll back":
            return _mta_apply.roll_back(minion)
        if self.name == "clean":
            return _mta_apply.participate(minion, "mta_transaction.restored", "t", {})

        def do(minion):
            for step in self.steps:
                STEPS[self.name][step](stage.root, minion)

        return _mta_apply.participate(minion, "tested", "t", {"do": do, "activate": self.activate})

    def __str__(self):
        return self.name + ("" if self.verdict else ", judged bad")

    def told(self):
        """What it does, for people."""
        all_of_it = [*self.before, self]
        return ", then ".join(f"{one} ({', '.join(one.steps)})" if one.steps else f"{one}" for one in all_of_it)

    def simpler(self):
        """The same with less to do: with one step only, or without one; the same of what is before it."""
        fewer = [[step] for step in self.steps] + [[*filter(step.__ne__, self.steps)] for step in self.steps]
        for steps in fewer if len(self.steps) > 1 else ():
            yield self._like(self.before, steps)
        for number, one in enumerate(self.before):
            rest = [self.before[:number], self.before[number + 1 :]]
            yield self._like([*rest[0], *rest[1]], self.steps)
            for less in one.simpler():
                yield self._like([*rest[0], less, *rest[1]], self.steps)

    def _like(self, before, steps):
        return Transaction(self.name, before, self.verdict, self.activate, steps)


def write(name, text, **more):
    return lambda root, minion: _mta_transaction.write(minion, root / name, text, **more)


def directory(name, **more):
    return lambda root, minion: _mta_transaction.directory(minion, root / name, **more)


def remove(name):
    return lambda root, minion: _mta_transaction.remove(minion, root / name)


def join_group(root, minion):
    group = str(root / "etc/group")
    add, delete = (["sed", "-i", f"s/{edit}/", group] for edit in ("::/:postfix:", ":postfix:/::"))
    _mta_transaction.command(minion, "group", [add], [delete], [group, "^sasl:postfix:"])


# What the transactions do. The how-to's has files that are there and that are not, directories, a command, a
# service to enable; a change has five files and two services; a switch is to a profile without logins; a key and
# its certificate are switched while Postfix stands.
STEPS = {
    "first": {
        "main.cf": write("etc/postfix/main.cf", "myhostname = new\n"),
        "master.cf": write("etc/postfix/master.cf", "smtp inet smtpd -o new\n"),
        "aliases": write("etc/aliases", "root: alice\n"),
        "sasl": directory("etc/postfix/sasl"),
        "smtpd.conf": write("etc/postfix/sasl/smtpd.conf", "pwcheck_method: saslauthd\n"),
        "private": directory("etc/ssl/private", mode="0700"),
        "smtpd.key": write("etc/ssl/private/smtpd.key", "key 1\n", mode="0600"),
        "smtpd.crt": write("etc/ssl/smtpd.crt", "certificate 1\n"),
        "run": directory("run/saslauthd", mode="0710", runtime=["mux"]),
        "group": join_group,
    },
    "change": {
        "main.cf": write("etc/postfix/main.cf", "myhostname = newer\n"),
        "aliases": write("etc/aliases", "root: bob\n"),
        "smtpd.crt": write("etc/ssl/smtpd.crt", "certificate 2\n"),
        "saslauthd": write("etc/default/saslauthd", "THREADS=3\n"),
        "smtpd.conf": write("etc/postfix/sasl/smtpd.conf", "mech_list: plain\n"),
    },
    "switch": {
        "main.cf": write("etc/postfix/main.cf", "myhostname = satellite\n"),
        "no smtpd.conf": remove("etc/postfix/sasl/smtpd.conf"),
        "no link": remove("etc/postfix/link"),
        "restore": lambda root, minion: _mta_restore.restore(minion, [str(root / "etc/aliases"), "group"]),
    },
    "key": {
        "halt": lambda root, minion: _mta_transaction.halt(minion),
        "smtpd.key": write("etc/ssl/private/smtpd.key", "key 3\n", mode="0600", protect=["previous"]),
        "smtpd.crt": write("etc/ssl/smtpd.crt", "certificate 3\n"),
        "start": lambda root, minion: _mta_services.start("postfix"),
    },
}

RESTARTS = {"postfix": "reload", "saslauthd": "restart"}
FIRST, CHANGE = (Transaction(name, activate=RESTARTS) for name in ("first", "change"))
TRANSACTIONS = [
    FIRST,
    Transaction("first", activate=RESTARTS, verdict=False),
    Transaction("change", [FIRST], activate=RESTARTS),
    Transaction("change", [FIRST], activate=RESTARTS, verdict=False),
    Transaction("switch", [FIRST, CHANGE], activate={"postfix": "restart", "saslauthd": "stop"}),
    Transaction("key", [FIRST]),
    Transaction("key", [FIRST], verdict=False),
    Transaction("roll back", [FIRST]),
    Transaction("clean", [FIRST, CHANGE]),
]


def stock(root):
    """The files of a host before the first apply."""
    root.mkdir()
    files = {
        "etc/postfix/main.cf": ("myhostname = old\n", 0o644),
        "etc/postfix/master.cf": ("smtp inet smtpd\n", 0o644),
        "etc/aliases": ("postmaster: root\n", 0o640),
        "etc/default/saslauthd": ("THREADS=5\n", 0o644),
        "etc/group": ("sasl::\n", 0o644),
        "etc/ssl/theirs.pem": ("theirs\n", 0o600),
        "var/lib/other": ("theirs\n", 0o600),
        "run/saslauthd/theirs": ("theirs\n", 0o600),
    }
    for name, (text, mode) in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
    (root / "etc/postfix/link").symlink_to("main.cf")


def not_restored(text):
    """The paths that a report, or the script, names as not as they were."""
    return set(re.findall(r"(\S+) (?:could not be restored|stays, as)", text))


def without_drafts(problems):
    """Without what was neither in force nor could be removed: it waits for the next apply, or for postconf(1)."""
    return [one for one in problems if ".postfix_mta-" not in one and ".cf.tmp is" not in one]


# -- what is tried -----------------------------------------------------------------------------


class Trial:
    """
    One transaction, and all that can go wrong with it.

    counts
        What was tried how often.

    thorough
        Whether nothing is a sample.

    hasty
        Whether the first that goes wrong, at the earliest point, is enough.

    problems
        ``(length of the history, text)`` of what was wrong.
    """

    def __init__(self, stage, transaction, apart, counts, thorough=False, hasty=False):
        self.stage, self.transaction, self.apart = stage, transaction, apart
        self.counts, self.problems = counts, []
        self.thorough, self.hasty = thorough, hasty
        self.draw = random.Random(f"{SEED} {transaction} {apart}")
        self.seen = {}
        # Hosts on which an apply, or its recovery, has died; how many were an apply's; how much that one had done.
        self.journals, self.died, self.at = [], 0, 0

    def count(self, what, number=1):
        self.counts[what] = self.counts.get(what, 0) + number

    def prepare(self):
        """Go to the beginning: keep what is there as the old host; then what all of it leaves as the new one."""
        stage = self.stage
        shutil.rmtree(stage.root, ignore_errors=True)
        stock(stage.root)
        world = World()
        tree = Host(stage.root, stage.state).disk.after(0)
        stage.set_up(tree, world, self.apart)
        stage.verdict = True
        world.loaded["postfix"] = stage.configuration()
        for earlier in self.transaction.before:
            stage.set_up(tree, world, self.apart, recorded=True)
            done = stage.run(lambda minion, earlier=earlier: earlier(stage, minion))
            assert done["result"], done
            # Not what is not synced: a transaction ends with all of it safe.
            length = len(stage.host.disk.log)
            tree, world = stage.host.disk.after(length), stage.world
        self.tree, self.before = tree, world
        stage.set_up(tree, world, self.apart, recorded=True)
        self.old, self.old_stores = stage.files(), stage.stores()
        stage.verdict = self.transaction.verdict
        done = self.run()
        assert done["result"] is self.transaction.verdict, done
        self.new, self.new_stores, self.after = stage.files(), stage.stores(), stage.world
        self.host, self.worlds = stage.host, stage.worlds
        assert (self.new == self.old) is not self.transaction.verdict
        assert not list(stage.state.glob("*journal")), done

    def run(self):
        return self.stage.run(lambda minion: self.transaction(self.stage, minion))

    def history(self, number, host=None, recovery=False):
        done = (host or self.host).history[:number]
        if recovery:
            done = [*self.host.history[: self.at], ("it dies, and is recovered", []), *done]
        lines = [f"{operation} {' '.join(paths)}" for operation, paths in done]
        lines = [line.replace(f"{self.stage.root}/", "") for line in lines]
        if not self.thorough:
            del lines[:-12]
        return "\n".join(f"    {line}" for line in lines)

    def wrong(self, number, what, problem, host=None, recovery=False):
        self.problems.append(
            (
                number,
                f"{self.transaction}{', state directory apart' if self.apart else ''}, operation {number}, {what}:"
                f" {problem}\n{self.history(number, host, recovery)}",
            )
        )

    # -- judging

    def differs(self, files, wanted, edited=None, but=()):
        """How the host differs from what it should be."""
        found = []
        for name in sorted(files.keys() | wanted.keys()):
            if files.get(name) == wanted.get(name) or {str(self.stage.root / name), os.path.basename(name)} & {
                *but
            }:
                continue
            if edited and (name == edited or name.startswith(f"{edited}.{_mta_journal.EDITED}-")):
                continue
            found.append(f"{name} is {files.get(name)}, not {wanted.get(name)}")
        return found

    def verdict(self, edited=None, stores=True, boot=False):
        """What is wrong with the host after a recovery; nothing: it is wholly old or wholly new."""
        files = self.stage.files()
        as_old = self.differs(files, self.old, edited)
        as_new = self.differs(files, self.new, edited)
        problems = []
        if as_old and as_new:
            problems += ["neither old: " + "; ".join(as_old), "nor new: " + "; ".join(as_new)]
        if edited:
            texts = [facts[0] for name, facts in files.items() if name.startswith(edited)]
            if not any(EDIT in (text or b"") for text in texts):
                problems.append(f"what somebody has written into {edited} is lost")
        if problems or not stores:
            return problems
        there = self.stage.stores()
        wanted, world = (self.old_stores, self.before) if not as_old else (self.new_stores, self.after)
        if as_old == as_new == []:  # an undo, which changes no store
            wanted = self.old_stores
        if there != wanted and not edited:
            keys = [one for one in {**there, **wanted} if there.get(one) != wanted.get(one)]
            problems += [f"of {one} the snapshots have {there.get(one)}, not {wanted.get(one)}" for one in keys]
        now = self.stage.world.services
        for name, was in world.services.items():
            if not boot and now[name] != was:
                problems.append(f"{name} is {now[name]}, not {was}")
            if (
                not edited
                and now[name]["active"]
                and self.stage.world.loaded.get(name) != self.stage.configuration()
            ):
                problems.append(f"{name} runs with other files than there are")
        if (self.stage.state / "journal").exists() or (self.stage.state / "committed").exists():
            problems.append("a journal is left")
        return problems

    def settle(self, edited=None):
        """Recover by the formula; for what waits for the commit, the same apply once more. What is wrong then."""
        try:
            recovered = self.stage.recover()
        except Exception as err:
            return [f"the recovery fails: {err!r}"]
        problems = [f"{path} is reported as not restored" for path in (recovered or {}).get("failed", ())]
        files = self.stage.files()
        left = self.transaction.name in ("clean", "switch") and files != self.old
        if left and not edited:
            # Its end is not part of the commit: directories that are empty now, services that are not to start.
            again = self.run()
            if again is None or (not again["result"] and "nothing" not in again["comment"]):
                return [*problems, f"the same apply once more: {again}"]
            return problems + self.verdict(edited, stores=False)
        return problems + self.verdict(edited)

    def key_of(self, tree, world, edited):
        """The same host at another point needs no second recovery."""
        facts = repr([(name, facts) for name, facts in sorted(tree.items())]) + world.facts() + str(edited)
        return hashlib.sha256(facts.encode()).digest()

    def outcome(self, tree, world, edited=None):
        """What is wrong after a recovery from a host; remembered."""
        key_ = self.key_of(tree, world, edited)
        if key_ not in self.seen:
            self.count("different hosts")
            self.stage.set_up(tree, world, self.apart)
            if edited:
                with open(self.stage.root / edited, "ab") as handle:
                    handle.write(EDIT)
            if not edited and (self.stage.state / "journal").exists():
                self.journals.append((tree, world, self.at))
            self.seen[key_] = self.settle(edited)
        return self.seen[key_]

    @property
    def enough(self):
        """Whether nothing more has to be tried."""
        return self.hasty and self.problems

    # -- the ways to fail

    def lost(self, pending):
        """Subsets of what was not synced: all of them, or a sample where there are many."""
        if len(pending) <= 4:
            for size in range(1, len(pending) + 1):
                yield from itertools.combinations(pending, size)
            return
        yield from ((one,) for one in pending)
        yield tuple(pending)
        for one in pending:
            yield tuple(index for index in pending if index != one)
        for _ in range(6 * MORE):
            yield tuple(index for index in pending if self.draw.random() < 0.5)

    def die(self):
        """Before and after each operation the process dies; and somebody edits main.cf then."""
        host = self.host
        ends = [*host.disk.operations, len(host.disk.log)]
        worlds = [*self.worlds, self.after]
        edited = "etc/postfix/main.cf"
        for number, (length, world) in enumerate(zip(ends, worlds)):
            tree = host.disk.after(length)
            self.at = number
            self.count("deaths before or after an operation")
            for problem in self.outcome(tree, world):
                self.wrong(number, "then it dies", problem)
            if number % 9 == 0 and edited in tree and self.transaction.name not in ("clean", "switch"):
                self.count("edits by somebody else after a death")
                for problem in self.outcome(tree, world, edited):
                    self.wrong(number, "then it dies, and main.cf is edited", problem)
            self.died = len(self.journals)
            if self.enough:
                return

    def lose_power(self):
        """After each operation the power goes, and with it a part of what was not synced."""
        host = self.host
        points = [*enumerate([*host.disk.operations, len(host.disk.log)])]
        chances = [(*point, lost) for point in points for lost in self.lost(host.disk.pending(point[1]))]
        for number, length, lost in self.sample(chances, POWER_LOSSES):
            world = copy.deepcopy([*self.worlds, self.after][number])
            for name, service in world.services.items():
                # What starts at boot starts after the recovery, if that does not start it.
                service["active"] = False
                world.loaded[name] = None
            self.count("power losses")
            lost, problems = self.needed(lost, functools.partial(self.powered, host.disk, length, world))
            for problem in problems:
                what = "; ".join(host.disk.told(one) for one in lost) or "nothing"
                self.wrong(number, f"then the power goes, and with it {what}", problem)
            if self.enough:
                return

    def needed(self, lost, judge):
        """What of lost writes is enough for something to be wrong, and what is wrong then."""
        problems = judge(set(lost))
        for one in lost if problems else ():
            rest = tuple(index for index in lost if index != one)
            without = judge(set(rest))
            lost, problems = (rest, without) if without else (lost, problems)
        return lost, problems

    def sample(self, chances, number):
        """Some of what could be tried, or all of it."""
        everything = ALL or self.thorough
        return chances if everything else self.draw.sample(chances, min(len(chances), number * MORE))

    def powered(self, disk, length, world, lost):
        """What is wrong after a boot."""
        tree = disk.after(length, lost)
        key_ = self.key_of(tree, world, "boot")
        if key_ not in self.seen:
            self.count("different hosts")
            self.stage.set_up(tree, world, self.apart)
            try:
                recovered = self.stage.recover()
                problems = [f"{path} is reported as not restored" for path in (recovered or {}).get("failed", ())]
            except Exception as err:
                problems = [f"the recovery fails: {err!r}"]
            for name, service in self.stage.world.services.items():
                if service["enabled"] and not service["active"]:
                    service["active"] = True
                    self.stage.world.loaded[name] = self.stage.configuration()
            files = self.stage.files()
            if self.transaction.name in ("clean", "switch") and files != self.old:
                again = self.run()
                if again is None or (not again["result"] and "nothing" not in again["comment"]):
                    problems.append(f"the same apply once more: {again}")
                problems += self.verdict(stores=False)
            else:
                problems += self.verdict(boot=True)
            self.seen[key_] = problems
        return self.seen[key_]

    def fail(self):
        """Each operation fails, and goes on failing; then what made it fail is mended."""
        numbers = range(1, len(self.host.history) + 1)
        for number, error, scope in self.sample([*itertools.product(numbers, ERRORS, ("all", "place"))], FAILURES):
            self.fail_at(number, Fault(number, error, scope))
            if self.enough:
                return

    def fail_at(self, number, fault):
        self.count("operations that fail")
        stage = self.stage
        stage.set_up(self.tree, self.before, self.apart, fault)
        try:
            done = self.run()
        except Exception as err:
            self.wrong(number, fault, f"it ends with {err!r}", stage.host)
            return
        host = stage.host
        files, comment = stage.files(), done["comment"]
        failed = not_restored(comment)
        in_force = done["result"] or "All is in force" in comment
        if in_force:
            problems = self.differs(files, self.new)
            if self.transaction.name in ("clean", "switch"):
                problems = []  # what waits for the commit may have failed, and says so
        else:
            problems = [] if "journal" in comment else self.differs(files, self.old, but=failed)
        for problem in without_drafts(problems):
            self.wrong(number, fault, f"it reports {done}, and {problem}", host)
        host.fault = Fault()
        try:
            recovered = stage.recover() or {"failed": ()}
        except Exception as err:
            self.wrong(number, f"{fault}; that is mended", f"the recovery fails: {err!r}", host)
            return
        failed |= set(recovered["failed"]) | not_restored("\n".join(recovered.get("notes", ())))
        files = stage.files()
        wanted = self.new if in_force else self.old
        if in_force and self.transaction.name in ("clean", "switch"):
            self.run()
            files = stage.files()
        for problem in without_drafts(self.differs(files, wanted, but=failed)):
            self.wrong(number, f"{fault}; that is mended", f"{done}; {problem}", host)

    def recoveries(self, part=1):
        """
        Recoveries that go well: what is there before each, its host, and the points at which it may end.

        That of the apply that had done most. With ``all`` those of all applies, or of one in ``part``.
        """
        everything = ALL or self.thorough
        journals = self.journals[: self.died]
        chosen = journals[:: 1 if self.thorough else part] if everything else journals[-1:]
        for tree, world, at in chosen:
            self.at = at
            self.stage.set_up(tree, world, self.apart, recorded=True)
            self.stage.recover()
            host = self.stage.host
            lengths = [*host.disk.operations, len(host.disk.log)]
            points = [*zip(itertools.count(), lengths, [*self.stage.worlds, self.stage.world])]
            yield tree, world, host, points

    def die_again(self):
        """The recovery itself dies at each of its operations."""
        for _, _, host, points in self.recoveries():
            for number, length, world in points:
                self.count("deaths of a recovery")
                for problem in self.outcome(host.disk.after(length), world):
                    self.wrong(number, "then the recovery dies", problem, host, recovery=True)
                if self.enough:
                    return

    def lose_power_again(self):
        """The power goes in a recovery."""
        for _, _, host, points in self.recoveries(PART):
            chances = [(*point, lost) for point in points for lost in self.lost(host.disk.pending(point[1]))]
            for number, length, world, lost in self.sample(chances, RECOVERIES):
                self.count("power losses in a recovery")
                after = functools.partial(self.outcome_of, host.disk, length, world)
                lost, problems = self.needed(lost, after)
                what = "; ".join(host.disk.told(one) for one in lost)
                for problem in problems:
                    self.wrong(number, f"then the recovery loses {what}", problem, host, recovery=True)
                if self.enough:
                    return

    def outcome_of(self, disk, length, world, lost):
        return self.outcome(disk.after(length, lost), world)

    def fail_again(self):
        """
        An operation of a recovery fails: its report is true, and without the error the rest is done.

        Where it ends with an error it says so, and the next one tries again.
        """
        for tree, world, host, _ in self.recoveries(PART):
            numbers = range(1, len(host.history) + 1)
            for number, error, scope in self.sample(
                [*itertools.product(numbers, ERRORS, ("all", "place"))], RECOVERIES
            ):
                fault = Fault(number, error, scope)
                self.count("operations of a recovery that fail")
                self.stage.set_up(tree, world, self.apart, fault)
                failed = set()
                with contextlib.suppress(CommandExecutionError):
                    failed |= not_restored("\n".join((self.stage.recover() or {"notes": ()})["notes"]))
                host = self.stage.host
                host.fault = Fault()
                recovered = self.stage.recover() or {"notes": ()}
                failed |= not_restored("\n".join(recovered["notes"]))
                for problem in without_drafts(self.differs(self.stage.files(), self.old, but=failed)):
                    self.wrong(number, f"the recovery {fault}; that is mended", problem, host, recovery=True)
                if self.enough:
                    return

    def recover_by_script(self, directory):
        """The script restores what the formula does, and may die, too."""
        script = Script(self.stage, directory)
        journals = self.draw.sample(self.journals, min(len(self.journals), SCRIPTS * (10 if ALL else MORE)))
        for number, (tree, world, _) in enumerate(journals):
            shell = SHELLS[number % len(SHELLS)]
            for edited in (None, "etc/postfix/main.cf"):
                self.stage.set_up(tree, world, self.apart)
                if edited and edited not in tree:
                    continue
                if edited:
                    with open(self.stage.root / edited, "ab") as handle:
                        handle.write(EDIT)
                done, steps = script.run(shell, self.apart)
                self.count(f"recoveries by {' '.join(shell)}")
                self.told(done, edited, f"recovery by {' '.join(shell)}")
            for step in range(1, steps + 1) if ALL else self.draw.sample(range(1, steps + 1), min(steps, MORE)):
                for dies in (True, False) if ALL else [self.draw.random() < 0.5]:
                    self.stage.set_up(tree, world, self.apart)
                    done, _ = script.run(shell, self.apart, step, dies)
                    failed = not_restored(done.stdout)
                    if (self.stage.state / "journal").exists():
                        done, _ = script.run(shell, self.apart)
                    failed |= not_restored(done.stdout)
                    self.count(f"operations of the script that fail or are the last, {' '.join(shell)}")
                    what = f"{' '.join(shell)} {'dies' if dies else 'fails'} at step {step}"
                    problems = self.differs(self.stage.files(), self.old, but=failed)
                    for problem in without_drafts(problems):
                        self.wrong(step, what, f"{problem}\n{done}")

    def told(self, done, edited, what):
        problems = [] if done.returncode == 0 else [f"it ends with {done.returncode}: {done.stdout} {done.stderr}"]
        problems += self.verdict(edited, stores=False)
        if edited and EDIT in b"".join(self.old.get(edited, (b"",))[:1]):
            problems.append("the old host is an edited one")
        for problem in problems:
            self.wrong(0, what, problem)


AGAIN = (Trial.die_again, Trial.lose_power_again, Trial.fail_again)
WAYS = (Trial.die, Trial.lose_power, Trial.fail, *AGAIN)


def shortest(trial, way):
    """
    The shortest history that goes wrong in the way in which a trial has: as few transactions and steps as can be,
    the earliest point, and of what is lost only what has to be.
    """

    def tried(transaction, thorough):
        again = Trial(trial.stage, transaction, trial.apart, {}, thorough, hasty=True)
        # What cannot be done by itself is no history.
        with contextlib.suppress(AssertionError, CommandExecutionError):
            again.prepare()
            for one in (Trial.die, way) if way in AGAIN else (way,):
                one(again)
            return again.problems
        return []

    best, found = trial.transaction, True
    while found:
        found = next((less for less in best.simpler() if tried(less, thorough=False)), None)
        best = found or best
    problems = sorted(tried(best, thorough=True)) or sorted(trial.problems)
    return f"the shortest: {best.told()}\n{problems[0][1]}"


class Script:
    """recover.sh over a stage: its programs are counted, one of them may fail, or be the last."""

    PRELUDE = """\
steps=0
step() {
    steps=$((steps + 1))
    echo "$steps" >"$STEPS"
    [ "$steps" != "$AT" ] || { [ -z "$DIES" ] || kill -9 $$; return 1; }
}
ln() {
    case "$APART $1" in 1*/var/lib/postfix_mta/*) return 1 ;; esac
    step && command ln "$@"
}
for program in mv rm cp chown chmod rmdir; do
    eval "$program() { step && command $program \\"\\$@\\"; }"
done
flock() { :; }
systemctl() { :; }
sync() { step; }
"""

    def __init__(self, stage, directory):
        self.stage, self.directory = stage, pathlib.Path(directory)
        text = _mta_recovery.script(stage.state, self.directory / "units", self.directory / "no-systemd")
        (self.directory / "recover.sh").write_text(self.PRELUDE + text)

    def run(self, shell, apart, at=0, dies=False):
        """Run it; return what it said, and how many steps it took."""
        steps = self.directory / "steps"
        steps.write_text("0")
        env = {
            "PATH": os.environ["PATH"],
            "AT": str(at),
            "DIES": "1" * dies,
            "APART": "1" * apart,
            "STEPS": str(steps),
        }
        argv = [*shell, str(self.directory / "recover.sh"), "boot"]
        done = subprocess.run(argv, capture_output=True, text=True, env=env, check=False)
        return done, int(steps.read_text() or 0)


@pytest.fixture
def stage(monkeypatch):
    """A host in memory, where there is such a file system."""
    logging.disable(logging.CRITICAL)
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=where, prefix="postfix-mta-test.") as directory:
        yield Stage(pathlib.Path(directory).resolve() / "host", monkeypatch)
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def counts(request):
    """What was tried how often, printed at the end."""
    found = {}
    yield found
    known = ("operations of the transactions", "different hosts")
    tried = sum(number for what, number in found.items() if what not in known)
    lines = [f"seed {SEED}: {tried} points tried", *(f"  {number:6} {what}" for what, number in found.items())]
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("", *lines, sep="\n")


TRIALS = [*((transaction, False) for transaction in TRANSACTIONS), *((one, True) for one in TRANSACTIONS[2:4])]


@pytest.mark.parametrize(("transaction", "apart"), TRIALS, ids=str)
def test_whatever_happens_at_whatever_point_the_host_is_wholly_old_or_wholly_new(
    stage, tmp_path, counts, transaction, apart
):
    trial = Trial(stage, transaction, apart, counts)
    trial.prepare()
    trial.count("operations of the transactions", len(trial.host.history))
    for way in WAYS:
        way(trial)
        assert not trial.problems, f"{len(trial.problems)} problems; {shortest(trial, way)}"
    trial.recover_by_script(tmp_path)
    assert not trial.problems, f"{len(trial.problems)} problems; " + "\n".join(
        text for _, text in sorted(trial.problems)[:3]
    )


# -- whether it would be found -----------------------------------------------------------------


def forget_syncs(monkeypatch):
    """An engine whose entries are not safe before they get their names."""
    monkeypatch.setattr(_mta_journal, "make_safe", lambda folder: None)


def save_nothing(monkeypatch):
    """An engine that forgets to save one of the files."""
    record = _mta_transaction._record

    def forgetful(minion, path, *args):
        if os.path.basename(path) != "smtpd.crt":
            record(minion, path, *args)

    monkeypatch.setattr(_mta_transaction, "_record", forgetful)


def restore_once(monkeypatch):
    """A recovery that has an entry no more before what it saved is in its place."""
    restore = _mta_journal.restore

    def eager(entry):
        if entry["kind"] != "file" or _mta_journal._is_somebody_elses(entry):
            return restore(entry)
        content = pathlib.Path(entry["folder"]) / "content"
        data, mode = content.read_bytes(), content.stat().st_mode & 0o7777
        for there in (entry["folder"], _mta_journal._draft(entry["path"])):
            _mta_system.clear(there)
        _mta_system.switch(entry["path"], data, -1, -1, mode)
        return None

    monkeypatch.setattr(_mta_journal, "restore", eager)


@pytest.mark.parametrize(
    ("broken", "way", "says"),
    [
        (forget_syncs, Trial.lose_power, r"then the power goes, and with it what is in \S*/version, its"),
        (save_nothing, Trial.die, r"then it dies: neither old: etc/ssl/\S*smtpd.crt\S* is"),
        (restore_once, Trial.die_again, r"then the recovery dies: what entry 0000 of the journal has saved"),
    ],
    ids=["forgets a sync", "does not save a file", "cannot recover twice"],
)
def test_an_engine_that_is_broken_is_found_and_the_shortest_history_is_told(stage, monkeypatch, broken, way, says):
    broken(monkeypatch)
    before = Transaction("first", steps=["aliases", "smtpd.crt"])
    transaction = Transaction("change", [before], steps=["main.cf", "smtpd.crt"])
    trial = Trial(stage, transaction, False, {}, hasty=True)
    trial.prepare()
    for one in (Trial.die, way) if way in AGAIN else (way,):
        one(trial)
    assert trial.problems
    told = shortest(trial, way)
    assert re.search(says, told), told
    (steps,) = re.findall(r"the shortest: (?:first \(\w+\), then )?change \((\S*)\)\n", told)
    assert steps in transaction.steps
    # Nothing of it could be left out: what is lost is one thing, and the history is all of it.
    assert "; " not in told.split("\n")[1].split(": ")[0]
    assert "    mkdir var/lib/postfix_mta" in told
