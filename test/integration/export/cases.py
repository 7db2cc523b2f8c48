"""
Set up one configuration after the other on this host, export it, apply what was exported, change it, send mail.

    cases.py CONFIGURATIONS RESULT NAME…

All in one process, as loading Salt takes longer than a case. CONFIGURATIONS holds a directory for each NAME:
main.cf, entries of master.cf, tables, aliases, and case.yaml:

    recipient, sender   of a message that is sent
    submit              sendmail: by sendmail(1), not by SMTP
    arrives             {sink: port or path of a socket}, {local: directory}, or {caught: word in the arguments}
    tables              files to compile
    address             of the loopback that the host gets
    remove              entries of the package's master.cf that are not there
    package             Debian package to install; database: an SQLite file; certificate: a PEM file to make
    apply_change        also apply a change; else it is only planned

RESULT gets a JSON object: NAME to what was found.
"""

import contextlib
import difflib
import json
import os
import pathlib
import re
import shutil
import smtplib
import socket
import sqlite3
import subprocess
import sys
import threading
import time

import salt.client
import salt.config
import yaml

POSTFIX = pathlib.Path("/etc/postfix")
PACKAGE = pathlib.Path("/root/package")
CAUGHT = pathlib.Path("/var/tmp/caught")
POLICY = '#!/bin/sh\nwhile read -r line; do [ -n "$line" ] || printf "action=DUNNO\\n\\n"; done\n'
CATCH = '#!/bin/sh\n{ echo "$@"; cat; } > /var/tmp/caught/$$\n'
ARRIVES = 20


def run(*argv, **kwargs):
    """Run a program that has to succeed."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, **kwargs)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stdout}{done.stderr}")
    return done.stdout


class Sink:
    """Takes mail by SMTP or LMTP, and keeps it."""

    def __init__(self, place):
        self.messages = []
        if isinstance(place, int):
            self.door = socket.create_server(("127.0.0.1", place))
        else:
            pathlib.Path(place).unlink(missing_ok=True)
            self.door = socket.socket(socket.AF_UNIX)
            self.door.bind(place)
            os.chmod(place, 0o666)
            self.door.listen()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self.talk, args=self.door.accept()[:1], daemon=True).start()

    def talk(self, connection):
        with contextlib.suppress(OSError), connection, connection.makefile("rwb") as stream:

            def say(text):
                stream.write(text.encode() + b"\r\n")
                stream.flush()

            say("220 sink")
            recipients, lmtp = 0, False
            for line in stream:
                verb = line[:4].upper()
                if verb == b"DATA":
                    say("354 go on")
                    text = b"".join(iter(stream.readline, b".\r\n"))
                    self.messages.append(text.decode(errors="replace"))
                    for _ in range(recipients if lmtp else 1):
                        say("250 taken")
                    recipients = 0
                elif verb == b"QUIT":
                    say("221 bye")
                    return
                else:
                    lmtp = lmtp or verb == b"LHLO"
                    recipients += verb == b"RCPT"
                    say("250 ok")


def services_of_package(own, removed):
    """The package's master.cf without services that are removed, or that a host's own lines have."""
    named = removed | set(re.findall(r"^([^\s#]+)\s+(\w\S*)", own, re.MULTILINE))
    kept, dropping = [], False
    for line in (PACKAGE / "master.cf").read_text().splitlines(keepends=True):
        if not line.startswith(("#", " ", "\t")):
            dropping = tuple(line.split()[:2]) in named
        if not dropping or line.startswith("#"):
            kept.append(line)
    return "".join(kept)


def make_certificate(pem):
    """Make a key and a certificate in one file."""
    pem.parent.mkdir(exist_ok=True)
    subject = ["-subj", "/CN=mail.example.com", "-keyout", "/root/key", "-out", "/root/crt"]
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject)
    pem.write_text(pathlib.Path("/root/key").read_text() + pathlib.Path("/root/crt").read_text())


def make_database(path, statements):
    """Make a database of SQLite that everybody can read."""
    pathlib.Path(path).unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()
    os.chmod(path, 0o644)


def set_up(folder, case):
    """Make the host what the configuration describes."""
    if "package" in case and not pathlib.Path(f"/var/lib/dpkg/info/{case['package']}.list").exists():
        apt = ["apt-get", "-qq", "-y", "--no-install-recommends", "install", case["package"]]
        run(*apt, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
    for name in ("main.cf", "master.cf"):
        shutil.copy(PACKAGE / name, POSTFIX)
    shutil.copy("/root/aliases", "/etc/aliases")
    for file in folder.iterdir() if folder else ():
        if file.name == "aliases":
            shutil.copy(file, "/etc/aliases")
        elif file.name == "list":
            shutil.copy(file, POSTFIX / "list")
        elif file.name not in ("case.yaml", "master.cf"):
            shutil.copyfile(file, POSTFIX / file.name)
    own = (folder / "master.cf").read_bytes().decode() if folder and (folder / "master.cf").exists() else ""
    removed = {tuple(service.rsplit("/", 1)) for service in case.get("remove", ())}
    (POSTFIX / "master.cf").write_bytes(services_of_package(own, removed).encode() + own.encode())
    if "certificate" in case:
        make_certificate(pathlib.Path(case["certificate"]))
    if "database" in case:
        make_database(**case["database"])
    if "address" in case:
        run("ip", "address", "add", f"{case['address']}/8", "dev", "lo")
    # Postfix's programs wait for a main.cf that is younger than a second or two.
    os.utime(POSTFIX / "main.cf", (1, 1))
    for table in case.get("tables", ()):
        run("postmap", f"hash:{POSTFIX / table}")
    run("newaliases")
    # So many configurations in so little time are more starts than systemd allows.
    run("systemctl", "reset-failed", "postfix")
    run("systemctl", "restart", "postfix")


def outcome(states):
    """What a run of states changed, and what failed."""
    if not isinstance(states, dict):
        return {"changes": {}, "failures": [str(states)]}
    return {
        "changes": {state["__id__"]: state["changes"] for state in states.values() if state["changes"]},
        "failures": [f"{state['__id__']}: {state['comment']}" for state in states.values() if not state["result"]],
    }


def changed(pillar):
    """The pillar with one parameter, and one field of a service changed; what has to come of it."""
    services = {**pillar.get("services", {})}
    service = next((name for name, entry in services.items() if entry and entry.get("command")), "cleanup/unix")
    services[service] = {**services.get(service, {}), "wakeup": 3600}
    parameters = {**pillar["parameters"], "append_dot_mydomain": True}
    maps = {**pillar.get("maps", {})}
    table = next((name for name, about in maps.items() if about["type"] == "hash"), None)
    if table:
        maps[table] = {**maps[table], "entries": {**maps[table]["entries"], "new@example.org": "root"}}
    return {**pillar, "parameters": parameters, "services": services, "maps": maps}, service, table


def lines_changed(before, after):
    """The lines that a change took out of a text, and those that it brought."""
    found = list(difflib.ndiff(before.split("\n"), after.split("\n")))
    return [[line[2:] for line in found if line.startswith(sign)] for sign in ("- ", "+ ")]


def send(case, number):
    """Send a message; its mark."""
    mark = f"mark-{number}-{time.time_ns()}"
    text = f"From: <root@mail.example.com>\r\nSubject: {mark}\r\n\r\nhello\r\n"
    sender, recipient = case.get("sender", "root@mail.example.com"), case.get("recipient", "root")
    if case.get("submit") == "sendmail":
        run("/usr/sbin/sendmail", "-f", sender, recipient, input=text)
    else:
        with smtplib.SMTP("127.0.0.1", timeout=30) as client:
            client.sendmail(sender, [recipient], text)
    return mark


def arrived(case, mark, sinks):
    """Whether the message is where it belongs."""
    where, place = next(iter(case["arrives"].items()))
    if where == "sink":
        return any(mark in message for message in sinks[place].messages)
    folder = CAUGHT if where == "caught" else pathlib.Path(place)
    texts = [file.read_text(errors="replace") for file in folder.glob("*") if file.is_file()]
    return any(mark in text and (where == "local" or place in text.splitlines()[0]) for text in texts)


def try_case(name, number, configurations, caller, sinks):
    """Everything about one configuration."""
    folder = configurations / name if name != "package" else None
    case = yaml.safe_load((folder / "case.yaml").read_text()) if folder else {}
    set_up(folder, case)
    place = case.get("arrives", {}).get("sink")
    if place and place not in sinks:
        sinks[place] = Sink(place)
    files = [POSTFIX / "main.cf", POSTFIX / "master.cf", pathlib.Path("/etc/aliases")]
    before = [file.read_bytes().decode() for file in files]
    text = caller.cmd("postconf.export")
    result = {"text": text, "pillar": yaml.safe_load(text)}
    pillar = result["pillar"]["postfix_mta"]
    result["applied"] = outcome(caller.cmd("state.apply", "postfix_mta", pillar={"postfix_mta": pillar}))
    result["same"] = [file.read_bytes().decode() for file in files] == before
    if "arrives" in case:
        mark = send(case, number)
        deadline = time.monotonic() + ARRIVES
        while not arrived(case, mark, sinks) and time.monotonic() < deadline:
            time.sleep(0.1)
        result["arrived"] = arrived(case, mark, sinks)
        if not result["arrived"]:
            result["log"] = run("journalctl", "-n", "15", "-o", "cat", "-u", "postfix*")
    other, result["service"], result["table"] = changed(pillar)
    if case.get("apply_change"):
        result["changed"] = outcome(caller.cmd("state.apply", "postfix_mta", pillar={"postfix_mta": other}))
        after = [file.read_bytes().decode() for file in files]
        result["lines"] = [lines_changed(*pair) for pair in zip(before, after)]
    else:
        arguments = {"parameters": other["parameters"], "services": other["services"]}
        # The library as Salt's modules have imported it: this finds the changes, and lets no daemon try each.
        edit, minion = sys.modules["_mta_postfix_edit"], sys.modules["_mta_minion"].Minion({}, {}, {}, {}, {})
        changes = {"postfix_mta_config": edit.prepare(minion, str(POSTFIX), **arguments).changes}
        if result["table"]:
            about = {"name": str(POSTFIX / result["table"]), **other["maps"][result["table"]]}
            states = caller.cmd("state.single", "mta_map.managed", test=True, **about)
            changes[f"postfix_mta_map_{result['table']}"] = next(iter(states.values()))["changes"]
        result["changed"] = {"changes": changes, "failures": []}
    return result


def main(configurations, target, *names):
    """Try every configuration; write what was found."""
    run("useradd", "--create-home", "alice")
    run("useradd", "--create-home", "bob")
    for name, text in (("catch", CATCH), ("policy", POLICY)):
        program = pathlib.Path("/usr/local/bin", name)
        program.write_text(text)
        program.chmod(0o755)
    CAUGHT.mkdir()
    CAUGHT.chmod(0o1777)
    pathlib.Path("/var/vmail").mkdir()
    os.chown("/var/vmail", 5000, 5000)
    shutil.copytree(POSTFIX, PACKAGE, symlinks=True)
    shutil.copy("/etc/aliases", "/root/aliases")
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    options = salt.config.minion_config("/etc/salt/minion")
    options.update(file_client="local", log_level="error")
    caller = salt.client.Caller(mopts=options)
    sinks, results = {}, {}
    for number, name in enumerate(names):
        began = time.monotonic()
        try:
            results[name] = try_case(name, number, pathlib.Path(configurations), caller, sinks)
        except Exception as err:  # the test of that name reports it
            results[name] = {"error": repr(err)}
        results[name]["seconds"] = round(time.monotonic() - began, 1)
    pathlib.Path(target).write_text(json.dumps(results))


main(*sys.argv[1:])
