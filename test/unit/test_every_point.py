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
        monkeypatch.setitem(_mta_apply.PARTICIPANTS, "tested", Participant("tested", self.plan, self.apply))
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
        """What the snapshots have, and what the last apply left."""
        minion = self.minion()
        found = {}
        for store in ("originals", "previous"):
            for entry in _mta_journal.entries(minion, store):
                saved = _mta_journal.fingerprint(entry, saved=True)
                found[store, entry["path"]] = entry["kind"], saved, _mta_journal.fact(entry, "left")
        return found


# -- the transactions --------------------------------------------------------------------------


class Transaction:
    """One of those that are tried, over the host that the ones before it have left."""

    def __init__(self, name, before=(), verdict=True, activate=None):
        self.name, self.before, self.verdict = name, before, verdict
        self.activate = activate or {"postfix": "reload"}

    def __call__(self, stage, minion):
        if self.name == "roll back":
            return _mta_apply.roll_back(minion)
        if self.name == "clean":
            return _mta_apply.participate(minion, "mta_transaction.restored", "t", {})
        do = {"first": first, "change": change, "switch": switch, "key": key}[self.name]
        arguments = {"do": lambda minion: do(stage.root, minion), "activate": self.activate}
        return _mta_apply.participate(minion, "tested", "t", arguments)

    def __str__(self):
        return self.name + ("" if self.verdict else ", judged bad")


def first(root, minion):
    """The how-to's: files that are there and that are not, directories, a command, a service to enable."""
    etc = root / "etc"
    write, directory = _mta_transaction.write, _mta_transaction.directory
    write(minion, etc / "postfix/main.cf", "myhostname = new\n")
    write(minion, etc / "postfix/master.cf", "smtp inet smtpd -o new\n")
    write(minion, etc / "aliases", "root: alice\n")
    directory(minion, etc / "postfix/sasl")
    write(minion, etc / "postfix/sasl/smtpd.conf", "pwcheck_method: saslauthd\n")
    directory(minion, etc / "ssl/private", mode="0700")
    write(minion, etc / "ssl/private/smtpd.key", "key 1\n", mode="0600")
    write(minion, etc / "ssl/smtpd.crt", "certificate 1\n")
    directory(minion, root / "run/saslauthd", mode="0710", runtime=["mux"])
    add, delete = (["sed", "-i", f"s/{edit}/", str(etc / "group")] for edit in ("::/:postfix:", ":postfix:/::"))
    _mta_transaction.command(minion, "group", [add], [delete], [str(etc / "group"), "^sasl:postfix:"])


def change(root, minion):
    """Five files, and two services."""
    etc = root / "etc"
    texts = {
        "postfix/main.cf": "myhostname = newer\n",
        "aliases": "root: bob\n",
        "ssl/smtpd.crt": "certificate 2\n",
    }
    for name, text in {
        **texts,
        "default/saslauthd": "THREADS=3\n",
        "postfix/sasl/smtpd.conf": "mech_list: plain\n",
    }.items():
        _mta_transaction.write(minion, etc / name, text)


def switch(root, minion):
    """To a profile without logins."""
    _mta_transaction.write(minion, root / "etc/postfix/main.cf", "myhostname = satellite\n")
    _mta_transaction.remove(minion, root / "etc/postfix/sasl/smtpd.conf")
    _mta_transaction.remove(minion, root / "etc/postfix/link")
    _mta_restore.restore(minion, [str(root / "etc/aliases"), "group"])


def key(root, minion):
    """A key and its certificate, while Postfix stands."""
    ran = _mta_transaction.halt(minion)
    _mta_transaction.write(
        minion, root / "etc/ssl/private/smtpd.key", "key 3\n", mode="0600", protect=["previous"]
    )
    _mta_transaction.write(minion, root / "etc/ssl/smtpd.crt", "certificate 3\n")
    if ran:
        _mta_services.start("postfix")


RESTARTS = {"postfix": "reload", "saslauthd": "restart"}
TRANSACTIONS = [
    Transaction("first", activate=RESTARTS),
    Transaction("first", activate=RESTARTS, verdict=False),
    Transaction("change", ["first"], activate=RESTARTS),
    Transaction("change", ["first"], activate=RESTARTS, verdict=False),
    Transaction("switch", ["first", "change"], activate={"postfix": "restart", "saslauthd": "stop"}),
    Transaction("key", ["first"]),
    Transaction("key", ["first"], verdict=False),
    Transaction("roll back", ["first", "change"]),
    Transaction("clean", ["first", "change"]),
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

    problems
        ``(length of the history, text)`` of what was wrong.
    """

    def __init__(self, stage, transaction, apart, counts):
        self.stage, self.transaction, self.apart = stage, transaction, apart
        self.counts, self.problems = counts, []
        self.draw = random.Random(f"{SEED} {transaction} {apart}")
        self.seen = {}
        self.journals = []

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
        for name in self.transaction.before:
            stage.set_up(tree, world, self.apart, recorded=True)
            done = stage.run(lambda minion, name=name: Transaction(name, activate=RESTARTS)(stage, minion))
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

    def history(self, number, host=None):
        lines = [f"{operation} {' '.join(paths)}" for operation, paths in (host or self.host).history[:number]]
        lines = [line.replace(f"{self.stage.root}/", "") for line in lines]
        return "\n".join(f"    {line}" for line in lines[-12:])

    def wrong(self, number, what, problem, host=None):
        self.problems.append(
            (
                number,
                f"{self.transaction}{', state directory apart' if self.apart else ''}, operation {number}, {what}:"
                f" {problem}\n{self.history(number, host)}",
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
                self.journals.append((tree, world))
            self.seen[key_] = self.settle(edited)
        return self.seen[key_]

    # -- the ways to fail

    def lost(self, pending):
        """Subsets of what was not synced: all of them, or a sample where there are many."""
        if len(pending) <= 4:
            for size in range(1, len(pending) + 1):
                yield from itertools.combinations(pending, size)
            return
        yield tuple(pending)
        for one in pending:
            yield (one,)
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
            self.count("deaths before or after an operation")
            for problem in self.outcome(tree, world):
                self.wrong(number, "then it dies", problem)
            if number % 9 == 0 and edited in tree and self.transaction.name not in ("clean", "switch"):
                self.count("edits by somebody else after a death")
                for problem in self.outcome(tree, world, edited):
                    self.wrong(number, "then it dies, and main.cf is edited", problem)

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
            problems = self.powered(host.disk.after(length, set(lost)), world)
            # What of it is enough to be wrong.
            for one in lost if problems else ():
                rest = tuple(index for index in lost if index != one)
                without = self.powered(host.disk.after(length, set(rest)), world)
                lost, problems = (rest, without) if without else (lost, problems)
            for problem in problems:
                what = [host.disk.log[one][:2] for one in lost]
                self.wrong(number, f"then the power goes, and with it {what}", problem)

    def sample(self, chances, number):
        """Some of what could be tried, or all of it."""
        return chances if ALL else self.draw.sample(chances, min(len(chances), number * MORE))

    def powered(self, tree, world):
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

    def interrupt_recovery(self):
        """
        The recovery itself dies at each of its operations, loses its power, or fails.

        That of the apply that had done most; with ``all`` that of each.
        """
        for tree, world in self.journals[:] if ALL else self.journals[-1:]:
            self.stage.set_up(tree, world, self.apart, recorded=True)
            self.stage.recover()
            host, worlds = self.stage.host, [*self.stage.worlds, self.stage.world]
            points = [*enumerate([*host.disk.operations, len(host.disk.log)])]
            chances = [(*point, lost) for point in points for lost in self.lost(host.disk.pending(point[1]))]
            numbers = range(1, len(host.history) + 1)
            draws = 1 if ALL else RECOVERIES * MORE
            losses, failures = (self.draw.sample(one, min(len(one), draws)) for one in (chances, numbers))
            for number, length, lost in [*((*point, ()) for point in points), *losses]:
                self.count("power losses in a recovery" if lost else "deaths of a recovery")
                for problem in self.outcome(host.disk.after(length, set(lost)), worlds[number]):
                    what = [host.disk.log[one][:2] for one in lost]
                    self.wrong(number, f"then the recovery dies, and with it goes {what}", problem, host)
            for number in failures:
                self.fail_recovery(tree, world, number)

    def fail_recovery(self, tree, world, number):
        """The report of a recovery that meets an error is true; without the error the rest is done."""
        fault = Fault(number, self.draw.choice(ERRORS), self.draw.choice(("all", "place")))
        self.count("operations of a recovery that fail")
        self.stage.set_up(tree, world, self.apart, fault)
        failed = set()
        # Where it ends with an error it says so, and the next one tries again.
        with contextlib.suppress(CommandExecutionError):
            failed |= not_restored("\n".join((self.stage.recover() or {"notes": ()})["notes"]))
        self.stage.host.fault = Fault()
        host = self.stage.host
        recovered = self.stage.recover() or {"notes": ()}
        failed |= not_restored("\n".join(recovered["notes"]))
        for problem in without_drafts(self.differs(self.stage.files(), self.old, but=failed)):
            self.wrong(number, f"the recovery {fault}; then it is mended", problem, host)

    def recover_by_script(self, directory):
        """The script restores what the formula does, and may die, too."""
        script = Script(self.stage, directory)
        journals = self.draw.sample(self.journals, min(len(self.journals), SCRIPTS * (10 if ALL else MORE)))
        for number, (tree, world) in enumerate(journals):
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
    for way in (trial.die, trial.lose_power, trial.fail, trial.interrupt_recovery):
        way()
    trial.recover_by_script(tmp_path)
    shortest = sorted(trial.problems)[:3]
    assert not shortest, f"{len(trial.problems)} problems; the shortest:\n" + "\n".join(
        text for _, text in shortest
    )
