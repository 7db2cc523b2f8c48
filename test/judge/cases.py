"""
What is tried: changes of working servers, by name or by chance.

Changes are data (``changes/*.yaml``): name to

    why         what a reader should know
    parameters, services, maps, aliases
                as the pillar says it; in parameters PERMITS stands for users and own networks
    pillar      what else is in the pillar: it cannot be put in force by hand
    files, host files to write, and a script to run, before the apply
    needs, lacks
                tags that the server must have, or must not
    excuses     first words of the checks that a policy may fail on purpose
    checks      further messages that have to arrive with the change in force
"""

import dataclasses
import functools
import pathlib
import random

import yaml

from judge import servers
from rig.kitchen import merge

CHANGES = pathlib.Path(__file__).with_name("changes")
KINDS = ("policy", "harmless", "harmful")
OWN = ("parameters", "services", "maps", "aliases")
# So many cases in a row have the same server.
GROUP = 8
# Of a hundred cases.
SHARES = {"harmful": 45, "policy": 33, "harmless": 22}


@dataclasses.dataclass(frozen=True)
class Change:
    """One change: its name, its kind, and what changes/*.yaml says about it."""

    name: str
    kind: str
    about: dict

    @property
    def keys(self):
        """What it sets; no two changes of a case set the same."""
        found = {(part, name) for part in OWN for name in self.about.get(part, {})}
        return found | {("pillar", name) for name in self.about.get("pillar", {})}

    def fits(self, server):
        """Whether the server is one on which it means something."""
        return (
            set(self.about.get("needs", ())) <= server.tags and not set(self.about.get("lacks", ())) & server.tags
        )


def filled_in(value):
    """A value of changes/*.yaml with what stands in it for others."""
    if isinstance(value, dict):
        return {key: filled_in(one) for key, one in value.items()}
    if isinstance(value, list):
        return [filled_in(one) for one in value]
    return value.replace("PERMITS", servers.PERMITS) if isinstance(value, str) else value


@functools.lru_cache
def changes(kind):
    """All changes of a kind, by name."""
    found = yaml.safe_load((CHANGES / f"{kind}.yaml").read_text())
    return {name: Change(name, kind, filled_in(about)) for name, about in found.items()}


@dataclasses.dataclass(frozen=True)
class Case:
    """
    A server and changes.

    name: what repeats it. expected: ``commit``, ``undo``, ``unchanged`` or ``any`` where somebody has decided it,
    ``truth``: real mail decides. says: words that a comment has to have.
    """

    name: str
    server: servers.Server
    changes: tuple
    expected: str = "truth"
    says: tuple = ()

    @property
    def named(self):
        """Whether somebody has decided what is right for it, or that real mail decides."""
        return not self.name.isdigit() and not self.name.startswith("change: ")

    @property
    def harmful(self):
        """Whether one of the changes is."""
        return any(change.kind == "harmful" for change in self.changes)

    @property
    def excuses(self):
        """The first words of checks that may fail."""
        return {word for change in self.changes for word in change.about.get("excuses", ())}

    def all_of(self, part):
        """What the changes say about a part, together."""
        return merge(*(change.about.get(part, {}) for change in self.changes))

    def job(self):
        """What a worker needs to try it."""
        if not self.changes:
            return {"base": self.server.job()}
        change = {part: self.all_of(part) for part in (*OWN, "pillar", "files")}
        change["checks"] = [servers.placed(check) for one in self.changes for check in one.about.get("checks", ())]
        change["excuses"] = sorted(self.excuses)
        change["host"] = "\n".join(one.about.get("host", "") for one in self.changes).strip()
        pillar = merge(self.server.pillar, {part: change[part] for part in OWN if change[part]}, change["pillar"])
        return {"base": self.server.job(), "change": change, "pillar": pillar}


def draw(seed):
    """The case of a seed: always the same one as long as the changes are the same."""
    server = servers.draw(seed // GROUP)
    chance = random.Random(f"case {seed}")
    kind = chance.choices(list(SHARES), list(SHARES.values()))[0]
    fitting = {one: [change for _, change in sorted(changes(one).items()) if change.fits(server)] for one in KINDS}
    # What few servers can have is drawn more often where it can be.
    weights = [1 if set(change.about.get("needs", ())) <= {"strangers"} else 4 for change in fitting[kind]]
    chosen = chance.choices(fitting[kind], weights)
    others = {"harmful": ("policy", "harmless"), "policy": ("policy", "harmless"), "harmless": ("harmless",)}[kind]
    for _ in range(chance.choice((0, 0, 1, 2))):
        further = chance.choice(fitting[chance.choice(others)])
        taken = {key for change in chosen for key in change.keys}
        if not taken & further.keys and not (kind == "harmful" and further.about.get("excuses")):
            chosen.append(further)
    return Case(str(seed), server, tuple(chosen))


def of_server(profile, feature):
    """A case without a change: a server with one feature, or ``None``."""
    server = servers.make(profile, [feature] if feature else [])
    return Case(f"server: {server.name}", server, ())


def of_change(name):
    """A case with one change, by its name: on a plain server, or else the first one that it fits."""
    change = next((changes(kind)[name] for kind in KINDS if name in changes(kind)), None)
    if not change:
        raise SystemExit(f"bin/test judge: there is no case and no change {name!r}; --list shows all")
    plain = (servers.make(profile, []) for profile in ("guide", "hardened"))
    server = next(one for one in (*plain, *map(servers.draw, range(400))) if change.fits(one))
    return Case(f"change: {name}", server, (change,))


@functools.lru_cache
def named():
    """The cases that have a name (changes/named.yaml), by it."""
    path = CHANGES / "named.yaml"
    found = {}
    for name, about in (yaml.safe_load(path.read_text()) if path.exists() else {}).items():
        about = filled_in(about)
        for used in about.get("uses", ()):
            other = next(changes(kind)[used] for kind in KINDS if used in changes(kind))
            about = merge(
                {key: other.about[key] for key in other.about if key not in ("why", "needs", "lacks")}, about
            )
        base = about.get("server", {})
        server = servers.make(base.get("profile", "guide"), base.get("features", []))
        checks = [servers.placed(check) for check in base.get("checks", ())]
        own = any(key in base for key in ("pillar", "host", "drift", "checks"))
        server = dataclasses.replace(
            server,
            name=f"{server.name} ({name})" if own else server.name,
            pillar=merge(server.pillar, base.get("pillar", {})),
            checks=(*server.checks, *checks),
            host=base.get("host", ""),
            drift=base.get("drift", ""),
        )
        kind = {"undo": "harmful", "unchanged": "harmless"}.get(about["expected"], "policy")
        found[name] = Case(
            name,
            server,
            (Change(name, kind, about),),
            about["expected"],
            tuple(about.get("says", ())),
        )
    return found
