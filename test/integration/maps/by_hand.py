"""
Compile tables as an administrator does, and ask the formula's states what they would change.

    by_hand.py RESULT

All in one process, as loading Salt takes longer than a case. RESULT gets a JSON object: the name of a case to the
changes that a dry run announces, or to what else was found.
"""

import json
import os
import pathlib
import subprocess
import sys

import salt.client
import salt.config

PLACE = pathlib.Path("/srv/by-hand")
MAIN = pathlib.Path("/etc/postfix/main.cf")
ALIASES = pathlib.Path("/etc/aliases")
SUFFIXES = {"hash": ".db", "btree": ".db", "lmdb": ".lmdb", "cdb": ".cdb"}
# Entries with which Berkeley DB leaves something of its memory in the file, and others.
NUMBERS = {"hash": (1, 16, 40), "btree": (8, 40), "lmdb": (16,), "cdb": (16,)}
LATIN_1 = b"caf\xe9: root\n"


def run(*argv):
    """Run a program that has to succeed; its output."""
    return subprocess.run(argv, check=True, capture_output=True).stdout


def settings(**parameters):
    """Change main.cf; ``None`` takes a parameter out."""
    lines = MAIN.read_text().splitlines()
    kept = [line for line in lines if line.partition("=")[0].strip() not in parameters]
    kept += [f"{name} = {value}" for name, value in parameters.items() if value is not None]
    MAIN.write_text("".join(f"{line}\n" for line in kept))
    # Postfix's programs wait for a main.cf that is younger than a second or two.
    os.utime(MAIN, (1, 1))


class Host:
    """The formula on this host."""

    def __init__(self):
        options = salt.config.minion_config("/etc/salt/minion")
        options.update(file_client="local", log_level="error")
        self.caller = salt.client.Caller(mopts=options)

    def state(self, function, name, test=True, pillar=None, **arguments):
        """The result of one state."""
        module, _, function = function.partition(".")
        given = [{key: value} for key, value in {"name": str(name), **arguments}.items()]
        data = {"by hand": {module: [function, *given]}}
        results = self.caller.cmd("state.high", data, test=test, pillar=pillar)
        assert isinstance(results, dict), results
        return next(iter(results.values()))

    def table(self, kind, path, entries, **arguments):
        """What a dry run would change of a table."""
        found = self.state("mta_map.managed", path, type=kind, entries=entries, **arguments)
        return found["changes"] if found["result"] is not False else found["comment"]

    def aliases(self, **arguments):
        """What a dry run would change of /etc/aliases."""
        found = self.state("mta_aliases.managed", ALIASES, **arguments)
        return found["changes"] if found["result"] is not False else found["comment"]


def source(name, entries):
    """The source of a table, as an administrator writes it."""
    path = PLACE / name
    path.write_text("".join(f"{key}\t{value}\n" for key, value in entries.items()))
    return path


def pairs(number):
    return {f"user{n}@example.com": f"alice+{n}@example.org" for n in range(number)}


def tables(host, found):
    """Compiled once, twice, from another source before, entry by entry."""
    for kind, numbers in NUMBERS.items():
        for number in numbers:
            path = source(f"{kind}-{number}", pairs(number))
            run("postmap", f"{kind}:{path}")
            found[f"{kind}, {number} entries"] = host.table(kind, path, pairs(number))
        path = source(f"{kind}-other-before", {f"x{n}": "y" * 200 for n in range(60)})
        run("postmap", f"{kind}:{path}")
        source(path.name, pairs(16))
        run("postmap", f"{kind}:{path}")
        found[f"{kind}, filled anew"] = host.table(kind, path, pairs(16))
        if kind != "cdb":
            path = source(f"{kind}-in-another-order", pairs(16))
            lines = "".join(f"{key} {value}\n" for key, value in reversed(pairs(16).items()))
            subprocess.run(["postmap", "-i", f"{kind}:{path}"], input=lines, text=True, check=True)
            found[f"{kind}, in another order"] = host.table(kind, path, pairs(16))


def aliases(host, found):
    """Of another name, many, long, Latin-1."""
    original = ALIASES.read_bytes()
    for kind, numbers in NUMBERS.items():
        settings(
            alias_database=f"{kind}:{ALIASES}", alias_maps=f"{kind}:{ALIASES}", myhostname="other.example.net"
        )
        for number in numbers:
            lists = {f"list{n}": ", ".join(pairs(n * 9 + 1)) for n in range(number)}
            ALIASES.write_bytes(original + "".join(f"{k}: {v}\n" for k, v in lists.items()).encode())
            run("newaliases")
            settings(myhostname="mail.example.com")
            found[f"aliases, {kind}, {number} lists"] = host.aliases()
    ALIASES.write_bytes(original)


def latin_1(host, found):
    """Without compatibility_level Postfix takes what is not UTF-8; with it, it leaves such a line out."""
    original = ALIASES.read_bytes()
    settings(alias_database=f"hash:{ALIASES}", alias_maps=f"hash:{ALIASES}", compatibility_level=None)
    ALIASES.write_bytes(original + LATIN_1)
    run("newaliases")
    found["Latin-1"] = host.aliases()
    host.state("mta_aliases.managed", ALIASES, test=False, aliases={"new": "root"})
    there = [line.partition(b":")[0] for line in run("postalias", "-s", f"hash:{ALIASES}").splitlines()]
    found["Latin-1 after an apply"] = b"new" in there and b"caf\xe9" in there
    settings(compatibility_level="3.6")
    ALIASES.write_bytes(original)
    run("newaliases")


def names_of_servers(host, found):
    """A table of certificates by server name."""
    pem = PLACE / "pem"
    pem.write_text("-----BEGIN PRIVATE KEY-----\n")
    entries = {f"mail{n}.example.com": str(pem) for n in range(16)}
    path = source("sni", entries)
    settings(tls_server_sni_maps=f"hash:{path}")
    run("postmap", "-F", f"hash:{path}")
    path.with_name("sni.db").chmod(0o600)
    found["SNI"] = host.table("hash", path, entries)
    host.state("mta_map.managed", path, test=False, type="hash", entries=entries)
    pem.write_text("-----BEGIN PRIVATE KEY-----\nrenewed\n")
    found["SNI, another key"] = host.table("hash", path, entries)
    path.with_name("sni.db").chmod(0o644)
    host.state("mta_map.managed", path, test=False, type="hash", entries=entries)
    stored = run("postmap", "-F", "-q", "mail3.example.com", f"hash:{path}").decode()
    found["SNI after an apply"] = ["renewed" in stored, oct(path.with_name("sni.db").stat().st_mode)]
    found["SNI then"] = host.table("hash", path, entries)
    run("postmap", f"hash:{path}")
    found["SNI, only names"] = host.table("hash", path, entries)
    settings(tls_server_sni_maps=None)
    early = {"postfix_mta": {"parameters": {"tls_server_sni_maps": f"hash:{PLACE}/early"}}}
    more = {"test": False, "type": "hash", "entries": entries, "pillar": early}
    host.state("mta_map.managed", PLACE / "early", **more)
    stored = run("postmap", "-F", "-q", "mail3.example.com", f"hash:{PLACE}/early").decode()
    found["SNI before main.cf names it"] = ["renewed" in stored, oct((PLACE / "early.db").stat().st_mode)]


def damage(host, found):
    """What is really wrong."""
    for kind, suffix in SUFFIXES.items():
        path = source(f"{kind}-damaged", pairs(40))
        run("postmap", f"{kind}:{path}")
        compiled = path.with_name(path.name + suffix)
        contents = compiled.read_bytes()
        harm = {
            "cut": contents[: len(contents) // 2],
            "cut at a page": contents[:4096],
            "another value": contents.replace(b"alice+7@", b"alice+8@"),
            "another key": contents.replace(b"user7@", b"user_@"),
            "nonsense": b"nonsense\n",
            "empty": b"",
        }
        for name, text in harm.items():
            compiled.write_bytes(text)
            found[f"{kind}, {name}"] = host.table(kind, path, pairs(40))
        for name, others in {"one more": pairs(41), "one less": pairs(39)}.items():
            run("postmap", f"{kind}:{source('others', others)}")
            compiled.write_bytes((PLACE / f"others{suffix}").read_bytes())
            found[f"{kind}, {name}"] = host.table(kind, path, pairs(40))


def fatal(host, found):
    """Types are known, and remembered, whatever main.cf says; nothing is compiled by its mistakes."""
    record = pathlib.Path("/var/lib/postfix_mta/maps.json")
    path = source("fatal", pairs(16))
    run("postmap", f"hash:{path}")
    record.unlink(missing_ok=True)
    settings(message_size_limit="abc")
    found["fatal main.cf"] = host.table("hash", path, pairs(17))
    host.state("mta_map.managed", path, test=False, type="hash", entries=pairs(16))
    found["recorded types"] = json.loads(record.read_text())["postfix"]["types"]
    settings(message_size_limit=None)


def main(target):
    """Try every case; write what was found."""
    PLACE.mkdir(exist_ok=True)
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    host, found = Host(), {"errors": []}
    original = MAIN.read_bytes(), ALIASES.read_bytes()
    try:
        for case in (tables, aliases, latin_1, names_of_servers, damage, fatal):
            try:
                case(host, found)
            except Exception as err:  # a test reports it
                found["errors"].append(f"{case.__name__}: {err!r}")
    finally:
        MAIN.write_bytes(original[0])
        ALIASES.write_bytes(original[1])
    pathlib.Path(target).write_text(json.dumps(found))


main(*sys.argv[1:])
