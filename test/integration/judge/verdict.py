"""
Puts changes of this mail server in force by hand, says what the check makes of them, and takes them back.

    verdict.py MODULES        lines of JSON come, and one goes back for each

A line has ``host`` (a script that runs first), ``parameters``, ``services`` (name to its entry of master.cf, or
null) and ``aliases`` that the change is said to have written. Back comes what got worse (``problems``), ``notes``,
and ``left``: paths of messages that are still somewhere.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

sys.path.insert(0, sys.argv[1])

import _mta_judge
import _mta_verdict
from _mta_minion import Minion

HOST = "mail.example.com"
SAVED = pathlib.Path("/srv/verdict")
KEPT = ("/etc/postfix", "/etc/aliases", "/etc/aliases.db")
QUEUE = ("maildrop", "incoming", "active", "deferred", "hold", "corrupt", "bounce", "defer", "trace")
MAILBOXES = ("/var/mail", "/home", "/root/Maildir")


def run(*argv):
    """Run a program that may fail."""
    subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def restart():
    """Have Postfix read everything anew; its programs wait for a main.cf that is younger than two seconds."""
    os.utime("/etc/postfix/main.cf", (1, 1))
    run("systemctl", "reset-failed")
    run("systemctl", "restart", "postfix")


def check(aliases=()):
    """What the formula finds after a change."""
    minion = Minion({"id": HOST}, {}, {}, {}, {})
    return _mta_judge.check(
        minion,
        hostname=HOST,
        auth="challenge",
        envelope=True,
        untrusted_client=True,
        deliver=True,
        patience=5,
        aliases=aliases,
    )


def left():
    """Messages that are somewhere; what a client has broken off, cleanup(8) takes away a moment later."""
    roots = [f"/var/spool/postfix/{name}" for name in QUEUE] + list(MAILBOXES)
    deadline = time.monotonic() + 5
    while True:
        found = [
            os.path.join(folder, name)
            for root in roots
            for folder, _, names in os.walk(root)
            for name in names
            if not name.startswith(".")
        ]
        if time.monotonic() > deadline or not any("/incoming/" in path for path in found):
            return found
        time.sleep(0.1)


def put_in_force(change):
    """Make a change by hand."""
    run("sh", "-ec", change.get("host", ""))
    for name, value in change.get("parameters", {}).items():
        run("postconf", "-e", f"{name} = {value}")
    for name, entry in change.get("services", {}).items():
        run("postconf", *(["-MX", name] if entry is None else ["-M", f"{name}={entry}"]))
    restart()


def put_back():
    """Make the server what it was; what finds the one that runs may be what has changed."""
    run("systemctl", "stop", "postfix")
    for path in KEPT:
        source = f"{SAVED}{path}"
        if os.path.isdir(source):
            shutil.rmtree(path)
            shutil.copytree(source, path, symlinks=True)
        else:
            shutil.copy2(source, path)
    restart()


def main():
    """Answer line by line."""
    shutil.rmtree(SAVED, ignore_errors=True)
    for path in KEPT:
        os.makedirs(os.path.dirname(f"{SAVED}{path}"), exist_ok=True)
        (shutil.copytree if os.path.isdir(path) else shutil.copy2)(path, f"{SAVED}{path}")
    healthy = check()
    known = healthy["problems"] + healthy["doubts"]
    print(json.dumps({"problems": known, "notes": healthy["notes"], "left": left()}), flush=True)
    for line in sys.stdin:
        change = json.loads(line)
        before = set(left())
        put_in_force(change)
        began = time.monotonic()
        found = check(change.get("aliases", ()))
        seconds = time.monotonic() - began
        verdict = _mta_verdict.compared(known, found["problems"] + found["doubts"], lambda _: False)
        answer = {"problems": verdict.problems + verdict.unseen, "notes": found["notes"], "seconds": seconds}
        answer["left"] = sorted({*left()} - before)
        put_back()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
