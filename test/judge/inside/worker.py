"""
Tries cases on the host on which it runs: lines of JSON come, and one goes back for each.

    worker.py DIRECTORY

A case is a base server and a change. The base is made once, its real mail is the truth to compare with, and its
files are kept to begin from again. Then the change is applied as anybody would apply it; afterwards real mail
tells what is in force. Where the formula did not leave the change in force, it is put in force by hand to see
what it would have done.
"""

import concurrent.futures
import contextlib
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import time

import client

DIRECTORY = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "/srv/judge")
PILLAR = pathlib.Path("/srv/pillar/postfix_mta.sls")
POSTFIX = pathlib.Path("/etc/postfix")
QUEUE = pathlib.Path("/var/spool/postfix")
AT_WORK = ("incoming", "active", "maildrop")
LYING = (*AT_WORK, "deferred", "hold", "corrupt")
QUEUES = (*LYING, "bounce", "defer", "trace", "flush", "saved")
MAILBOXES = ("/var/mail", "/var/vmail", "/var/tmp/caught", "/home/alice", "/home/bob")
RUNNING = ("mux", "mux.accept", "saslauthd.pid", "cache.mmap", "cache.flock")
# What a server is, beside its queue. Not what the engine has mounted, nor the packages' lists.
SAVED = {
    "/etc": ["resolv.conf", "hosts", "hostname", "mtab", "ld.so.cache", "salt"],
    "/var/lib": ["apt", "dpkg", "systemd", "ucf", "python", "dbus", "pam", "misc", "private", "dovecot"],
    "/var/spool/postfix/var": [f"run/saslauthd/{name}" for name in RUNNING],
}
OVERRIDES = "/var/lib/dpkg/statoverride"
MASTER_FIELDS = ("private", "unprivileged", "chroot", "wakeup", "process_limit")
TELLING = re.compile(r"status=|fatal|panic|warning|reject|NOQUEUE|discard|hold|filter")
# What smtpd tells the postmaster about a client whose session failed.
NOTICE = "Postfix SMTP server: errors from"
PASSWORD = "not-in any#log"
PATIENCE = 14


def run(*argv, check=True, **kwargs):
    """Run a program; its output."""
    done = subprocess.run(argv, capture_output=True, text=True, errors="replace", check=False, **kwargs)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(map(str, argv))}: {done.stdout}{done.stderr}")
    return done.stdout


def shell(script):
    """Run a script that has to succeed."""
    return run("sh", "-ec", script)


# ---------------------------------------------------------------- The host: stopped, saved, put back


def stop():
    """Stop Postfix, whatever it does."""
    run("systemctl", "stop", "postfix", "postfix@-", check=False)
    pid = QUEUE / "pid/master.pid"
    with contextlib.suppress(OSError, ValueError):
        os.kill(int(pid.read_text()), 9)
        time.sleep(0.2)


def start():
    """Start Postfix; so many starts in so little time are more than systemd allows."""
    run("systemctl", "reset-failed", check=False)
    run("systemctl", "start", "postfix", check=False)


def files_in(directory):
    """The files below a directory."""
    return [pathlib.Path(folder, file) for folder, _, files in os.walk(directory) for file in files]


def wipe():
    """No message anywhere."""
    for name in QUEUES:
        for path in files_in(QUEUE / name):
            with contextlib.suppress(OSError):
                path.unlink()
    for mailbox in MAILBOXES:
        for entry in pathlib.Path(mailbox).glob("[!.]*"):
            with contextlib.suppress(OSError):
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    outside({"forget": True})


def synchronise(source, target, excluded, *options):
    """Make a directory like another; what rsync says."""
    argv = ["rsync", "-a", "--delete", "--checksum", "--itemize-changes", *options]
    return run(*argv, *(f"--exclude=/{name}" for name in excluded), f"{source}/", f"{target}/")


def active(unit):
    """Whether a unit is active."""
    return run("systemctl", "is-active", unit, check=False).strip() == "active"


def save(name):
    """Keep what the host is now, under a name."""
    place = DIRECTORY / "saved" / name
    for path, excluded in SAVED.items():
        target = pathlib.Path(f"{place}{path}")
        target.mkdir(parents=True, exist_ok=True)
        pathlib.Path(path).mkdir(exist_ok=True)
        synchronise(path, target, excluded)
    shutil.copy(OVERRIDES, place / "statoverride")
    state = {unit: active(unit) for unit in ("saslauthd",)}
    (place / "units").write_text(json.dumps(state))


def restore(name):
    """Make the host what it was when it was kept under a name, and start it."""
    stop()
    place = DIRECTORY / "saved" / name
    changed = "".join(synchronise(f"{place}{path}", path, excluded) for path, excluded in SAVED.items())
    shutil.copy(place / "statoverride", OVERRIDES)
    wipe()
    if "systemd/" in changed:
        run("systemctl", "daemon-reload")
    for unit, was_active in json.loads((place / "units").read_text()).items():
        if was_active and ("saslauthd" in changed or "systemd/" in changed or not active(unit)):
            run("systemctl", "restart", unit, check=False)
        elif not was_active and active(unit):
            run("systemctl", "stop", unit, check=False)
    start()


def differences(name):
    """The files of the mail server that are not as they were kept."""
    found = []
    for path, excluded in SAVED.items():
        if path != "/var/lib":
            lines = synchronise(f"{DIRECTORY}/saved/{name}{path}", path, excluded, "--dry-run").splitlines()
            found += [f"{path}/{line.split(' ', 1)[1]}" for line in lines if not re.match(r"\.[df]\.\.t", line)]
    return found


# ---------------------------------------------------------------- Real mail


def outside(order):
    """Give an order to the world outside; its answer."""
    with socket.socket(socket.AF_UNIX) as door:
        door.connect(str(DIRECTORY / "outside"))
        with door.makefile("rwb") as stream:
            stream.write(json.dumps(order).encode() + b"\n")
            stream.flush()
            return json.loads(stream.readline())


def waiting():
    """How many messages Postfix is at work with."""
    return sum(len(files_in(QUEUE / name)) for name in AT_WORK)


def mailbox_texts(mailboxes=MAILBOXES):
    """``{path: text}`` of everything in mailboxes; dotfiles are no messages."""
    found = {}
    for path in (path for mailbox in mailboxes for path in files_in(mailbox)):
        if not path.name.startswith(("dovecot", "maildirfolder", ".")):
            with contextlib.suppress(OSError):
                found[str(path)] = path.read_text(errors="replace")
    return found


def job_of(check, token):
    """The message that a check sends."""
    job = {"token": token, "host": "10.99.0.1", "port": check.get("port", 25)}
    job.update(sender=check.get("from", "someone@example.net"), recipient=check["to"])
    for key in ("implicit", "proxy", "plain", "helo", "user"):
        if key in check:
            job[key] = check[key]
    if "user" in check:
        job["password"] = check.get("password", PASSWORD)
    if check.get("certificate", True):
        job["certificate"] = str(DIRECTORY / "client.pem")
    if check["arrives"] == "refused":
        job["once"] = True
    return job


def submit(check, token):
    """Send a message from the host itself: by sendmail(1), or by SMTP to the loopback."""
    job = job_of(check, token)
    if check["via"] == "local":
        return client.send({**job, "host": check.get("host", "127.0.0.1")})
    argv = ["/usr/sbin/sendmail", "-i", "-f", job["sender"], job["recipient"]]
    try:
        done = subprocess.run(
            argv,
            input=client.message(job["sender"], job["recipient"], token),
            capture_output=True,
            text=True,
            timeout=20,
        )
    except subprocess.TimeoutExpired:
        return {"ok": False, "reply": "sendmail: no end"}
    return {"ok": done.returncode == 0, "reply": f"sendmail: {done.returncode} {done.stderr}".strip()}


def has_arrived(place, token, texts, abroad):
    """Whether a message is where it belongs: ``sink``, ``smarthost``, or directories of mailboxes."""
    if place in ("sink", "smarthost"):
        return any(
            token in message["text"] and message["sender"] for message in abroad if message["host"] == place
        )
    folders = place.split()
    return any(token in text and path.startswith(tuple(folders)) for path, text in texts.items())


def truth(checks, excuses=()):
    """
    Send real mail, and see where it ends: ``{check: {"ok", "what"}}``; under ``notes`` what the log said.

    excuses: first words of the checks that may fail.

    Beside the checks: ``bounces``, that nobody is told of a message that could not be delivered; and ``strays``,
    where messages are that no check has sent.
    """
    stamp = f"{time.time_ns():x}"
    began = time.time()
    tokens = {check["name"]: f"token-{stamp}-{number}" for number, check in enumerate(checks)}
    from_afar = [check for check in checks if check["via"] in ("stranger", "login")]
    others = [check for check in checks if check["via"] in ("local", "sendmail")]
    sent = {}

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        submitted = {check["name"]: pool.submit(submit, check, tokens[check["name"]]) for check in others}
        jobs = [job_of(check, tokens[check["name"]]) for check in from_afar]
        sent.update(zip((check["name"] for check in from_afar), outside({"send": jobs})))
        sent.update((name, reply.result()) for name, reply in submitted.items())
    taken = [check for check in checks if check["name"] in sent and check["arrives"] != "refused"]
    expected = [check for check in taken if sent[check["name"]]["ok"]]
    # Where one is refused already, it is known that mail is broken.
    refused = any(check not in expected and check["name"].split()[0] not in excuses for check in taken)
    texts, abroad = arrivals(expected, tokens, 2 if refused else PATIENCE)
    results = {}
    for check in checks:
        name, token = check["name"], tokens[check["name"]]
        if check["via"] == "shell":
            code = subprocess.run(["sh", "-c", check["run"]], check=False).returncode
            results[name] = {"ok": code == 0, "what": f"exit code {code}"}
            continue
        reply = sent[name]["reply"]
        if check["arrives"] == "refused":
            results[name] = {"ok": not sent[name]["ok"], "what": reply}
        elif not sent[name]["ok"]:
            results[name] = {"ok": False, "what": f"not taken: {reply}"}
        elif has_arrived(check["arrives"], token, texts, abroad):
            results[name] = {"ok": True, "what": "arrived"}
        else:
            elsewhere = [path for path, text in texts.items() if token in text]
            elsewhere += [message["host"] for message in abroad if token in message["text"]]
            results[name] = {"ok": False, "what": f"taken, but not there; found in {elsewhere or 'no mailbox'}"}
    bounces = [m["recipients"] for m in abroad if not m["sender"]]
    bounces += [path for path, text in texts.items() if "Return-Path: <>" in text or "From MAILER-DAEMON" in text]
    results["bounces"] = {"ok": not bounces, "what": f"to {bounces}" if bounces else "none"}
    if not all(result["ok"] for result in results.values()):
        results["notes"] = log_since(began)
    strays = [path for path, text in texts.items() if stamp not in text and NOTICE not in text]
    strays += [f"outside: {m['recipients']}" for m in abroad if stamp not in m["text"]]
    if strays:
        results["strays"] = strays
    return results


def arrivals(expected, tokens, patience):
    """
    Wait until messages are where they belong, or move no more. What is in mailboxes, and what went out.

    patience: in seconds, for what is still missing.
    """
    began = time.monotonic()
    idle_since = None
    while True:
        texts, abroad = mailbox_texts(), outside({"messages": True})
        missing = [c for c in expected if not has_arrived(c["arrives"], tokens[c["name"]], texts, abroad)]
        now = time.monotonic()
        idle_since = (idle_since or now) if not waiting() else None
        quiet = idle_since and now - idle_since > (1.2 if missing else 0.3)
        if quiet or now - began > (patience if missing else 2):
            return texts, abroad
        time.sleep(0.15)


def log_since(began):
    """The lines of the log that tell something, without doubles."""
    lines = run(
        "journalctl", "-o", "cat", "--since", f"@{began - 1:.0f}", "-t", "postfix", check=False
    ).splitlines()
    fields = run("journalctl", "-o", "short", "--since", f"@{began - 1:.0f}", check=False).splitlines()
    lines += [line.partition("postfix/")[2] for line in fields if "postfix/" in line and TELLING.search(line)]
    short = [re.sub(r"\[\d+\]|\b[0-9A-F]{8,12}\b|token-[-0-9a-f]+", "", line)[:300] for line in lines]
    return list(dict.fromkeys(short))[-25:]


# ---------------------------------------------------------------- The formula


def apply(pillar):
    """
    Apply a pillar as anybody would: ``{"result", "comments", "changes", "seconds"}``.

    comments: of the states that failed by themselves. said: of all others that have to do with the outcome.
    """
    PILLAR.write_text(json.dumps({"postfix_mta": pillar}))
    began = time.monotonic()
    argv = ["salt-call", "--local", "--log-level=quiet", "--out=json", "state.apply", "postfix_mta"]
    done = subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=400, check=False)
    seconds = round(time.monotonic() - began, 1)
    try:
        states = json.loads(done.stdout)["local"]
    except (ValueError, KeyError):
        return {
            "result": False,
            "comments": [done.stdout + done.stderr],
            "said": [],
            "changes": [],
            "seconds": seconds,
        }
    if not isinstance(states, dict):
        return {"result": False, "comments": [str(states)], "said": [], "changes": [], "seconds": seconds}
    failed = [state for state in states.values() if state["result"] is False]
    own = [state for state in failed if not state["comment"].startswith("One or more requisite failed")]
    return {
        "result": not failed,
        "comments": [f"{state['__id__']}: {state['comment']}" for state in own],
        "said": [f"{state['__id__']}: {state['comment']}" for state in states.values() if state["result"]],
        "changes": [state["__id__"] for state in states.values() if state["changes"]],
        "seconds": seconds,
    }


def without_verdict(pillar):
    """The pillar with the formula's own conversation switched off."""
    return {**pillar, "verify": {**pillar.get("verify", {}), "enabled": False}}


def value_of(value):
    """A parameter's value as it is in main.cf."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def master_line(name, wanted):
    """The whole entry that comes of a pillar's entry laid over the one that is there."""
    there = run("postconf", "-M", name, check=False).split()
    fields = dict(zip(MASTER_FIELDS, there[2:7]))
    fields.update((key, "-") for key in MASTER_FIELDS if key not in fields)
    rest = there[7:]
    command, overrides, arguments = (rest or [None])[0], {}, []
    rest = rest[1:]
    while rest:
        if rest[0] == "-o" and "=" in rest[1]:
            key, _, setting = rest[1].partition("=")
            overrides[key] = setting
            rest = rest[2:]
        else:
            arguments.append(rest[0])
            rest = rest[1:]
    for key in MASTER_FIELDS:
        if wanted.get(key) is not None:
            given = wanted[key]
            fields[key] = {True: "y", False: "n"}[given] if isinstance(given, bool) else str(given)
    command = wanted.get("command", command)
    arguments = wanted.get("arguments", arguments)
    for key, setting in wanted.get("overrides", {}).items():
        overrides[key] = setting
    words = [*name.rsplit("/", 1), *(fields[key] for key in MASTER_FIELDS), command]
    for key, setting in overrides.items():
        if setting is not None:
            setting = value_of(setting)
            words += ["-o", f"{{ {key} = {setting} }}" if re.search(r"\s|^$", setting) else f"{key}={setting}"]
    return " ".join([*words, *map(str, arguments)])


def by_hand(change):
    """Put a change in force without the formula."""
    for name, table in change.get("maps", {}).items():
        path = table.get("path", f"/etc/postfix/{name}")
        entries = table["entries"]
        lines = (
            entries
            if isinstance(entries, list)
            else [f"{key} {value_of(value)}" for key, value in entries.items()]
        )
        pathlib.Path(path).write_text("".join(f"{line}\n" for line in lines))
        if table["type"] in ("hash", "btree", "lmdb"):
            run("postmap", f"{table['type']}:{path}")
    for name, value in change.get("parameters", {}).items():
        if value is None:
            run("postconf", "-X", name)
        else:
            run("postconf", "-e", f"{name}={value_of(value)}")
    for name, wanted in change.get("services", {}).items():
        if wanted is None:
            run("postconf", "-MX", name)
        else:
            run("postconf", "-M", f"{name}={master_line(name, wanted)}")
    if change.get("aliases"):
        path = pathlib.Path("/etc/aliases")
        kept = [line for line in path.read_text().splitlines() if line.partition(":")[0] not in change["aliases"]]
        added = [f"{key}: {value_of(value)}" for key, value in change["aliases"].items() if value is not None]
        path.write_text("\n".join([*kept, *added]) + "\n")
        run("newaliases", check=False)
    # Postfix's programs wait for a main.cf that is younger than a second or two.
    os.utime(POSTFIX / "main.cf", (1, 1))
    stop()
    start()


# ---------------------------------------------------------------- Bases and cases


class Worker:
    """Tries cases; remembers the base. spent: seconds of the case at hand, by what took them."""

    def __init__(self):
        self.base, self.about, self.spent = None, None, {}

    @contextlib.contextmanager
    def clocked(self, what):
        """Add the time that the block takes to what such blocks have taken."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.spent[what] = round(self.spent.get(what, 0) + time.monotonic() - began, 1)

    def make(self, base):
        """Make the base server; what is known about it."""
        about = {"name": base["name"]}
        restore("fresh")
        run("systemctl", "start", "dovecot")
        shell(base.get("host", ""))
        applied = apply(base["pillar"])
        if not applied["result"]:
            about["undone"] = applied["comments"]
            restore("fresh")
            shell(base.get("host", ""))
            applied = apply(without_verdict(base["pillar"]))
            if not applied["result"]:
                restore("fresh")
                shell(base.get("host", ""))
                applied = self.make_by_hand(base["pillar"])
        if base.get("drift"):
            shell(base["drift"])
            os.utime(POSTFIX / "main.cf", (1, 1))
            stop()
            start()
        about["truth"] = truth(base["checks"])
        about["seconds"] = applied["seconds"]
        stop()
        save("base")
        self.base, self.about = base, about

    @staticmethod
    def make_by_hand(pillar):
        """Make a server that is refused: by the formula what has no other way, and the rest by hand."""
        ready_made = {name: one for name, one in pillar.get("services", {}).items() if isinstance(one, bool)}
        rest = {part: pillar[part] for part in ("parameters", "maps", "aliases") if part in pillar}
        rest["services"] = {k: one for k, one in pillar.get("services", {}).items() if k not in ready_made}
        others = {part: one for part, one in pillar.items() if part not in rest}
        applied = apply(without_verdict({**others, "services": ready_made}))
        if not applied["result"]:
            raise RuntimeError(f"the base is refused: {applied['comments']}")
        by_hand(rest)
        return applied

    def try_case(self, case):
        """One case."""
        base, change = case["base"], case.get("change")
        self.spent = {}
        if self.base != base:
            self.base = None
            with self.clocked("server"):
                self.make(base)
        if not change:
            return {"base": self.about, "spent": self.spent}
        with self.clocked("reset"):
            restore("base")
            run("systemctl", "start", "dovecot")
            put(change.get("files", {}))
            shell(change.get("host", ""))
        with self.clocked("apply"):
            applied = apply(case["pillar"])
        result = {"base": self.about, "applied": applied, "spent": self.spent}
        checks = [*base["checks"], *change.get("checks", [])]
        time.sleep(0.2)
        result["left"] = left_over()
        if applied["result"]:
            result["verdict"], result["how"] = "committed", "as the formula left it"
            with self.clocked("real mail"):
                result["truth"] = truth(checks, change["excuses"])
            result["left"] += result["truth"].pop("strays", [])
        else:
            result["verdict"] = "undone"
            with self.clocked("reset"):
                result["differences"] = differences("base")
                restore("base")
            result.update(self.without_formula(case, checks))
        return result

    def without_formula(self, case, checks):
        """What real mail does when the change is in force although the formula did not leave it so."""
        change = case["change"]
        put(change.get("files", {}))
        shell(change.get("host", ""))
        if change.get("pillar"):
            with self.clocked("apply"):
                applied = apply(without_verdict(case["pillar"]))
            if not applied["result"]:
                return {"how": "not in force: refused also without verify", "truth": {}}
            how = "applied with verify.enabled: false"
        else:
            try:
                with self.clocked("by hand"):
                    by_hand(change)
            except RuntimeError as err:
                return {"how": f"not in force: {err}", "truth": {}}
            how = "put in force by hand"
        with self.clocked("real mail"):
            return {"how": how, "truth": truth(checks, change["excuses"])}


def left_over():
    """Messages that are somewhere although nobody has sent one; not what Postfix tells its postmaster."""
    found = mailbox_texts([QUEUE / name for name in LYING])
    found.update(mailbox_texts())
    found.update((f"outside: {one['recipients']}", one["text"]) for one in outside({"messages": True}))
    return [place for place, text in found.items() if NOTICE not in text]


def put(files):
    """Write files: path to text, or to ``{"text", "mode"}``."""
    for path, contents in files.items():
        if isinstance(contents, str):
            contents = {"text": contents}
        pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(path).write_text(contents["text"])
        os.chmod(path, int(contents.get("mode", "0644"), 8))


def main():
    """Try what comes."""
    if not (DIRECTORY / "saved/fresh").exists():
        stop()
        save("fresh")
    worker = Worker()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        try:
            result = worker.try_case(json.loads(line))
        except Exception as err:  # told to whoever gave the case
            result = {"error": f"{type(err).__name__}: {err}"}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
