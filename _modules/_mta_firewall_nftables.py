"""
The backend nftables: one rule in each chain that filters incoming packets, in the file for boot and in the kernel.

The rule stands where it counts, before what drops a packet to the port, so the statements of files and of
``nft -a list ruleset`` are read, and followed into the chains that they jump to. A new file has to pass
``nft -c``.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any

from salt.exceptions import CommandExecutionError

import _mta_firewall_files
import _mta_system
from _mta_plan import Plan
from _mta_records import NamedTuple, dataclass

COMMENT = "postfix_mta"
OUR_RULE = rf'tcp dport (?:\d+|\{{ [0-9, ]+ \}}) accept comment "{COMMENT}"'
# As a line of its own, and between other statements of one line.
OURS = rf"(?m)^[ \t]*{OUR_RULE}\n|; {OUR_RULE}; "
BOOT_LINKS = _mta_firewall_files.NFTABLES_AT_BOOT
# Options of log and their arguments, which do not matter here.
LOG_OPTIONS = ("prefix", "level", "group", "snaplen", "queue-threshold", "flags")
VERDICTS = ("accept", "drop", "reject", "return", "end")


class Statement(NamedTuple):
    """A statement of a file or listing: where it is, its words without comments, and the kernel's handle."""

    start: int
    end: int
    text: str
    handle: str | None


class Chain(NamedTuple):
    """A chain: its statements, and the offset of its closing brace."""

    statements: list[Statement]
    end: int


Key = tuple[str, ...]  # family, table, name
Chains = dict[Key, Chain]


class Meaning(NamedTuple):
    """
    What a rule does.

    verdict
        ``accept``, ``drop``, ``reject``, ``return``, ``end``, ``jump NAME``, ``goto NAME``; ``None`` for
        statements without, and for all that has a condition which picks certain clients.

    ports
        Those that it is for; ``None``: all.

    everybody
        Whether it is for every client. A condition that leaves out a part of them only (one protocol family,
        what is above a rate) counts, but is not for every client.
    """

    verdict: str | None = None
    ports: set[int] | None = None
    everybody: bool = True


class Closed(NamedTuple):
    """
    What a base chain does to ports.

    ports
        Those that it does not accept from everybody.

    before
        The statement before which a rule has to stand to count; ``None``: anywhere.

    refusing
        The rules that refuse some of the ports by number.
    """

    ports: list[int]
    before: Statement | None
    refusing: list[Statement]


@dataclass
class Work:
    """
    What is to be done.

    old, new
        Path to text.

    commands
        What nft(8) has to read for the kernel's rules to be as they should.
    """

    old: dict[str, str] = field(default_factory=dict)
    new: dict[str, str] = field(default_factory=dict)
    commands: str = ""
    changes: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def in_force(nftables_file: str) -> bool:
    """Tell whether nftables.service is enabled, and its file has a chain for incoming packets."""
    if not glob.glob(BOOT_LINKS) or not os.path.exists(nftables_file):
        return False
    texts = _texts(nftables_file)
    return any(_hooked(chain) for text in texts.values() for chain in _chains(text).values())


def plan(ports: Sequence[int], nftables_file: str) -> Plan:
    """
    Return what has to change for the ports to be open.

    ports
        TCP ports. With an empty list our rules go.

    nftables_file
        What nftables.service loads. Files that it includes are read, and changed, too.

    Chains that the kernel has not loaded are only changed in the file. Raises ``CommandExecutionError`` when there
    is no such file, when it is written in a way that is not understood, and when nft(8) refuses the new one.
    """
    work = _planned(ports, nftables_file)
    return Plan(work.changes, notes=work.notes)


def apply(ports: Sequence[int], nftables_file: str) -> None:
    """
    Write our rules to the file and to the kernel, as far as :func:`plan` finds it necessary.

    Raises what :func:`plan` raises, with nothing changed; and ``CommandExecutionError``, with the files as they
    were, when the kernel does not take the rules.
    """
    work = _planned(ports, nftables_file)
    written = []
    try:
        for path, text in work.new.items():
            if text != work.old[path]:
                written.append(path)
                _mta_firewall_files.replace(path, text)
        if work.commands:
            _nft(["-f", "-"], work.commands)
    except CommandExecutionError:
        for path in written:
            _mta_firewall_files.replace(path, work.old[path])
        raise


def _planned(ports: Sequence[int], nftables_file: str) -> Work:
    """Return what is to be done."""
    work = Work()
    if not os.path.exists(nftables_file):
        if ports:
            raise CommandExecutionError(
                f"There is no {nftables_file}, and a firewall is not invented here. Write your rules to it"
                " (nft list ruleset shows those that run now), or set the backend to auto or none"
            )
        return work
    work.old = _texts(nftables_file)
    if not ports and not any(re.search(OURS, text) for text in work.old.values()):
        return work
    if ports:
        _refuse_commands(work.old)
    work.new = {path: _with_ports(text, ports, work.notes) for path, text in work.old.items()}
    for path, text in work.new.items():
        if text != work.old[path]:
            work.changes[path] = {"old": _our_rules(work.old[path]), "new": _our_rules(text)}
    hooked = [key for text in work.old.values() for key, chain in _chains(text).items() if _hooked(chain)]
    listing = _nft(["-a", "-t", "list", "ruleset"])
    loaded = _chains(listing)
    if work.new != work.old and not any(key in loaded for key in hooked):
        work.notes.append(f"None of the chains of {nftables_file} is in force: only the file is changed")
    work.commands, running = _commands(loaded, hooked, ports, work.notes)
    work.changes.update(running)
    if work.new != work.old:
        _nft(["-c", "-f", "-"], _flat(nftables_file, work.new))
    return work


# -- where a rule belongs ----------------------------------------------------------------------


def _with_ports(text: str, ports: Sequence[int], notes: list[str]) -> str:
    """Return the text of a file with our rules where they belong, and nowhere else. ``notes`` get what is odd."""
    text = re.sub(OURS, "", text)
    if not ports:
        return text
    chains = _chains(text)
    places = {}
    for key, chain in chains.items():
        if _hooked(chain):
            found = _closed(key, chains, ports)
            notes += [note for note in _notes(key, found.refusing) if note not in notes]
            if found.ports:
                places[chain.end if found.before is None else found.before.start] = _rule(found.ports)
    for place in sorted(places, reverse=True):
        text = _inserted(text, place, places[place])
    return text


def _inserted(text: str, place: int, rule: str) -> str:
    """Return the text with a rule before the statement, or the closing brace, that begins at ``place``."""
    start = text.rfind("\n", 0, place) + 1
    indent = text[start:place]
    if indent.strip():
        return f"{text[:place]}; {rule}; {text[place:]}"
    if text[place] == "}":
        indent += "\t"
    # A comment above the rule that drops belongs to it.
    while True:
        before = text.rfind("\n", 0, start - 1) + 1
        if start == 0 or not text[before:start].lstrip().startswith("#"):
            return f"{text[:start]}{indent}{rule}\n{text[start:]}"
        start = before


def _commands(
    chains: Chains, hooked: Sequence[Key], ports: Sequence[int], notes: list[str]
) -> tuple[str, dict[str, Any]]:
    """
    Return what nft(8) has to do for the rules in force to be as they should, and that as changes.

    ``chains`` are those that are loaded, ``hooked`` the file's. Chains that are not in the file are not touched;
    what they drop is said in ``notes``.
    """
    commands: list[str] = []
    changes: dict[str, Any] = {}
    for key, chain in chains.items():
        ours = [statement for statement in chain.statements if re.fullmatch(OUR_RULE, statement.text)]
        if not ours and not (ports and _hooked(chain)):
            continue
        rest = chain._replace(statements=[statement for statement in chain.statements if statement not in ours])
        closed, last, refusing = _closed(key, {**chains, key: rest}, ports) if ports else Closed([], None, [])
        name = " ".join(key)
        if key not in hooked:
            if closed and not ours:
                numbers = ", ".join(map(str, closed))
                notes.append(f"The chain {name}, which is not in the file, drops what comes to port {numbers}")
            continue
        notes += [note for note in _notes(key, refusing) if note not in notes]
        wanted = [_rule(closed)] if closed else []
        reached = all(last is None or statement.start < last.start for statement in ours)
        if [statement.text for statement in ours] == wanted and reached:
            continue
        commands += [f"delete rule {name} handle {statement.handle}" for statement in ours]
        if wanted:
            place = f"insert rule {name} position {last.handle}" if last else f"add rule {name}"
            commands.append(f"{place} {wanted[0]}")
        changes[f"running rules of {name}"] = {
            "old": "\n".join(statement.text for statement in ours),
            "new": "\n".join(wanted),
        }
    return "".join(f"{command}\n" for command in commands), changes


def _rule(ports: Sequence[int]) -> str:
    """Return our rule as nft(8) prints it."""
    numbers = ", ".join(map(str, sorted(ports)))
    return f'tcp dport {f"{{ {numbers} }}" if len(ports) > 1 else numbers} accept comment "{COMMENT}"'


def _our_rules(text: str) -> str:
    """Return our rules in a text, one in a line."""
    return "\n".join(match.group().strip("; \t\n") for match in re.finditer(OURS, text))


def _notes(key: Key, refusing: Sequence[Statement]) -> list[str]:
    return [f"Left as it is in the chain {' '.join(key)}: {statement.text}" for statement in refusing]


def _closed(key: Key, chains: Chains, ports: Sequence[int]) -> Closed:
    """Return what a base chain does to the ports."""
    closed = list(ports)
    refusing: list[Statement] = []
    for statement, anchor in _walk(key, chains):
        verdict, opened, everybody = _meaning(statement.text)
        if verdict in ("drop", "reject"):
            if opened is None:
                return Closed(closed, anchor, refusing)
            refused = [port for port in closed if port in opened]
            if refused and everybody:
                refusing.append(statement)
                closed = [port for port in closed if port not in opened]
        elif verdict == "accept" and everybody:
            closed = [port for port in closed if opened is not None and port not in opened]
        elif verdict in ("return", "end") and everybody and opened is None:
            return Closed(_by_policy(key, chains, closed), anchor, refusing)
    return Closed(_by_policy(key, chains, closed), None, refusing)


def _by_policy(key: Key, chains: Chains, closed: list[int]) -> list[int]:
    dropped = any(statement.text == "policy drop" for statement in chains[key].statements)
    return closed if dropped else []


def _walk(
    key: Key, chains: Chains, anchor: Statement | None = None, seen: tuple[Key, ...] = ()
) -> Iterator[tuple[Statement, Statement]]:
    """
    Yield the statements of a chain in the order in which a packet to any port meets them.

    Chains that it jumps to are walked as well. With each statement comes the one of the base chain that leads
    there.
    """
    for statement in chains[key].statements:
        verdict, opened, everybody = _meaning(statement.text)
        verb, _, name = (verdict or "").partition(" ")
        target = (*key[:2], name)
        top = anchor or statement
        if verb not in ("jump", "goto"):
            yield statement, top
        elif opened is None and everybody and target in chains and target not in seen:
            for inner, _top in _walk(target, chains, top, (*seen, key)):
                if _meaning(inner.text) == ("return", None, True):
                    break
                yield inner, top
            if verb == "goto":
                # What comes back from there goes on where the base chain's policy decides.
                yield statement._replace(text="end"), top


# -- what a statement means --------------------------------------------------------------------


def _meaning(text: str) -> Meaning:
    """Return what a rule does."""
    words = re.findall(r'"[^"]*"|\{[^}]*\}|[^\s{}"]+', text)
    ports: set[int] | None = None
    everybody = True
    while words:
        if words[0] in VERDICTS:
            return Meaning(words[0], ports, everybody)
        if words[0] in ("jump", "goto"):
            return Meaning(" ".join(words[:2]), ports, everybody)
        length = _without_effect(words) or _met_by_all(words)
        if not length and _is_port(words):
            if words[2:3] == ["vmap"]:
                return Meaning("accept", _accepted(" ".join(words[3:])))
            ports, length = _ports(_at(words, 2)), 3
        if not length:
            length, everybody = _met_by_a_part(words), False
        if not length:
            break
        words = words[length:]
    return Meaning()


def _at(words: Sequence[str], place: int) -> str:
    return words[place] if place < len(words) else ""


def _is_port(words: Sequence[str]) -> bool:
    return words[0] in ("tcp", "th") and _at(words, 1) == "dport"


def _without_effect(words: Sequence[str]) -> int:
    """How many words there are at the beginning that neither decide nor choose."""
    if words[0] == "counter":
        return 5 if _at(words, 1) == "packets" else 1
    if words[0] == "comment":
        return 2
    if words[0] == "log":
        length = 1
        while _at(words, length) in LOG_OPTIONS:
            length += 2
        return length
    return int(words[0] == "meta" and _at(words, 1) in ("l4proto", "nfproto", "pkttype", "iif", "iifname"))


def _met_by_all(words: Sequence[str]) -> int:
    """How many words a condition has that every new connection over TCP from elsewhere meets; 0: it is not one."""
    if words[0] == "l4proto" and "tcp" in _items(_at(words, 1)):
        return 2
    if tuple(words[:2]) == ("ct", "state") and "new" in _items(_at(words, 2)):
        return 3
    from_elsewhere = words[0] in ("iif", "iifname") and _at(words, 1) == "!=" and _at(words, 2).strip('"') == "lo"
    return 3 if from_elsewhere else 0


def _met_by_a_part(words: Sequence[str]) -> int:
    """How many words a condition has that leaves out a part of all clients; 0: it picks certain ones."""
    pair = (words[0], _at(words, 1))
    if pair in (("nfproto", "ipv4"), ("nfproto", "ipv6"), ("pkttype", "host")):
        return 2
    if pair in (("ip", "protocol"), ("ip6", "nexthdr")) and "tcp" in _items(_at(words, 2)):
        return 3
    if pair == ("limit", "rate") and _at(words, 2) != "over":
        return 6 if _at(words, 3) == "burst" else 3
    return 0


def _items(text: str) -> list[str]:
    """Return the members of ``{ a, b }``, of ``a,b``, or the one of ``a``."""
    return [item.strip() for item in text.strip("{} ").split(",")]


def _ports(text: str) -> set[int]:
    """Return the numbers of ``25``, ``smtp``, ``110-143`` or a set of such; none for what is not known here."""
    numbers: set[int] = set()
    for item in _items(text):
        name, _, end = item.partition("-")
        first, last = _mta_system.port(name), _mta_system.port(end or name)
        if first is None or last is None:
            # A service's own name may have a hyphen.
            first = last = _mta_system.port(item)
        if first is not None and last is not None:
            numbers.update(range(first, last + 1))
    return numbers


def _accepted(text: str) -> set[int]:
    """Return the ports that a verdict map, ``{ 25 : accept, 22 : jump ssh }``, accepts."""
    pairs = [item.rpartition(":") for item in _items(text)]
    return {number for port, _, verdict in pairs if verdict.strip() == "accept" for number in _ports(port.strip())}


def _hooked(chain: Chain) -> bool:
    return any(re.match(r"type filter hook input\b", statement.text) for statement in chain.statements)


def _texts(nftables_file: str) -> dict[str, str]:
    """Return the file and those that it includes, path to text, as nft(8) reads them."""
    texts: dict[str, str] = {}
    waiting = [nftables_file]
    while waiting:
        path = waiting.pop(0)
        if path not in texts:
            texts[path] = _mta_system.read(path) or ""
            waiting += [name for _start, _end, names in _includes(texts[path]) for name in names]
    return texts


def _includes(text: str) -> Iterator[tuple[int, int, list[str]]]:
    """Yield the start and end of each include statement outside of tables, and the paths that it stands for."""
    for statement in _top_level(text):
        match = re.fullmatch(r'include "([^"]+)"', statement.text)
        if match:
            # nft(8): without a slash in front, below its own directory; wildcards as in glob(3), sorted.
            yield statement.start, statement.end, sorted(glob.glob(os.path.join("/etc", match[1])))


def _flat(path: str, texts: Mapping[str, str]) -> str:
    """Return the text of a file with the files that it includes in place, as one for ``nft -c``."""
    text = texts[path]
    for start, end, names in reversed(list(_includes(text))):
        inside = "\n".join(_flat(name, texts) for name in names)
        text = f"{text[:start]}{inside}\n{text[end:]}"
    return text


def _refuse_commands(texts: Mapping[str, str]) -> None:
    """Refuse files whose chains are not written as blocks: no place in them could be told."""
    for path, text in texts.items():
        for statement in _top_level(text):
            if re.match(r"(add|create|insert|replace) (rule|chain) ", statement.text):
                raise CommandExecutionError(
                    f"{path} makes its rules with commands ({statement.text.split(' {')[0]!r}), not as table and"
                    " chain blocks, which this formula can add to. Write it as blocks (nft list ruleset prints"
                    " them), or set the backend to none"
                )


# -- files and listings ------------------------------------------------------------------------


class Block(NamedTuple):
    """What is open: ``file``, ``table``, ``chain``, ``other`` or ``braces`` (part of a statement)."""

    kind: str
    key: Key
    statements: list[Statement]


class _Reader:
    """
    Reads a file or listing: its chains, and the statements that are in no block.

    Names that the file defines (``define NAME = VALUE``) are replaced by their values.
    """

    def __init__(self, text: str) -> None:
        self.chains: Chains = {}
        self.top_level: list[Statement] = []
        self._defined: dict[str, str] = {}
        # From the outermost block in.
        self._blocks = [Block("file", (), self.top_level)]
        # The statement that is being read.
        self._start: int | None = None
        self._words = ""
        self._handle: str | None = None
        for token in re.finditer(r'"[^"]*"|#[^\n]*|\\\n|[{};\n]|[^"#\\{};\n]+|\\', text):
            self._take(token.start(), token.group())
        self._complete(len(text))

    def _take(self, position: int, piece: str) -> None:
        if piece.startswith("#"):
            number = re.fullmatch(r"# handle (\d+)", piece)
            if number and self._words.strip():
                self._handle = number[1]
        elif piece == "\\\n":
            self._words += " "
        elif piece in ("\n", ";") and self._blocks[-1].kind != "braces":
            self._complete(position)
        elif piece == "{":
            self._open(position)
        elif piece == "}":
            self._close(position)
        else:
            if self._start is None and piece.strip():
                self._start = position + len(piece) - len(piece.lstrip())
            self._words += " " if piece == "\n" else piece

    def _complete(self, end: int) -> None:
        """A statement ends here."""
        plain = " ".join(self._words.split())
        if plain:
            definition = re.fullmatch(r"(?:re)?define (\S+) ?= ?(.*)", plain)
            if definition:
                self._defined[definition[1]] = definition[2]
            plain = re.sub(r"\$(\w+)", lambda match: self._defined.get(match[1], match[0]), plain)
            self._blocks[-1].statements.append(Statement(self._start or 0, end, plain, self._handle))
        self._start, self._words, self._handle = None, "", None

    def _open(self, position: int) -> None:
        kind, key = _opened(" ".join(self._words.split()), self._blocks[-1])
        if kind == "braces":
            self._start = position if self._start is None else self._start
            self._words += "{"
            self._blocks.append(Block(kind, key, []))
            return
        # A chain may come in several blocks.
        chain = self.chains.get(key) if kind == "chain" else None
        self._blocks.append(Block(kind, key, list(chain.statements) if chain else []))
        self._start, self._words = None, ""

    def _close(self, position: int) -> None:
        block = self._blocks[-1]
        if block.kind == "file":
            return
        if block.kind == "braces":
            self._words += "}"
        else:
            self._complete(position)
        if block.kind == "chain":
            self.chains[block.key] = Chain(block.statements, position)
        self._blocks.pop()


def _top_level(text: str) -> list[Statement]:
    """Return the statements of a text that are in no block."""
    return _Reader(text).top_level


def _chains(text: str) -> Chains:
    """Return the chains of a text."""
    return _Reader(text).chains


def _opened(words: str, outer: Block) -> tuple[str, Key]:
    """Return the kind and key of a block by the words before its brace, and the block that it is in."""
    found = re.fullmatch(r"(?:(?:add|create) )?(table|chain) (.+)", words)
    if outer.kind == "braces":
        return "braces", ()
    if found and found[1] == "table" and outer.kind == "file":
        names = found[2].split()
        return "table", tuple(names if len(names) > 1 else ["ip", *names])
    if found and found[1] == "chain" and outer.kind == "table":
        return "chain", (*outer.key, found[2])
    # Sets, maps and objects of a table are blocks of their own; anything else in braces is part of a statement.
    if outer.kind == "table":
        return "other", ()
    return "braces", ()


def _nft(arguments: Sequence[str], stdin: str | None = None) -> str:
    return _mta_firewall_files.run(["nft", *arguments], stdin)
