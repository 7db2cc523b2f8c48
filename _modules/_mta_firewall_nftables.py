"""TODO subject (mta_firewall_nftables)."""

import collections
import glob
import os
import re
import socket

from salt.exceptions import CommandExecutionError

import _mta_firewall_files

COMMENT = "postfix_mta"
OUR_RULE = rf'tcp dport (?:\d+|\{{ [0-9, ]+ \}}) accept comment "{COMMENT}"'
# As a line of its own, and between other statements of one line.
OURS = rf"(?m)^[ \t]*{OUR_RULE}\n|; {OUR_RULE}; "
BOOT_LINKS = "/etc/systemd/system/*.wants/nftables.service"
# Options of log and their arguments, which do not matter here.
LOG_OPTIONS = ("prefix", "level", "group", "snaplen", "queue-threshold", "flags")
# A statement of a file or listing: where it starts and ends, its words without comments, and the kernel's handle.
Statement = collections.namedtuple("Statement", "start end text handle")
# A base chain of an input hook, or any other: its statements, and the offset of its closing brace.
Chain = collections.namedtuple("Chain", "statements end")


def in_force(nftables_file):
    """
    Tell whether nftables.service is enabled, and its file has a chain for incoming packets.

    nftables_file
        As for :py:func:`plan`.
    """
    if not glob.glob(BOOT_LINKS) or not os.path.exists(nftables_file):
        return False
    texts = _texts(nftables_file)
    return any(_hooked(chain) for text in texts.values() for chain in _chains(text).values())


def plan(ports, nftables_file):
    """
    Return what has to change for the ports to be open; nothing is changed.

    ports (list of int)
        TCP ports. With an empty list our rules go.

    nftables_file (str)
        What nftables.service loads. Files that it includes are read, and changed, too.

    Returns ``{"changes": {item: {"old": …, "new": …}}, "notes": [text]}``. Chains that the kernel has not loaded
    are only changed in the file.

    Raises ``CommandExecutionError`` when there is no such file, when it is written in a way that is not
    understood, and when nft(8) refuses the new one.
    """
    planned = _planned(ports, nftables_file)
    return {"changes": planned["changes"], "notes": planned["notes"]}


def apply(ports, nftables_file):
    """
    Write our rules to the file and to the kernel, as far as :py:func:`plan` finds it necessary.

    ports, nftables_file
        As for :py:func:`plan`.

    Raises what :py:func:`plan` raises, with nothing changed; and ``CommandExecutionError``, with the files as they
    were, when the kernel does not take the rules.
    """
    planned = _planned(ports, nftables_file)
    written = []
    try:
        for path, text in planned["new"].items():
            if text != planned["old"][path]:
                written.append(path)
                _mta_firewall_files.replace(path, text)
        if planned["commands"]:
            _nft(["-f", "-"], planned["commands"])
    except CommandExecutionError:
        for path in written:
            _mta_firewall_files.replace(path, planned["old"][path])
        raise


def _planned(ports, nftables_file):
    """Return ``old`` and ``new`` (path to text), ``commands`` for nft(8), ``changes`` and ``notes``."""
    planned = {"old": {}, "new": {}, "commands": "", "changes": {}, "notes": []}
    if not os.path.exists(nftables_file):
        if ports:
            raise CommandExecutionError(
                f"There is no {nftables_file}, and a firewall is not invented here. Write your rules to it"
                " (nft list ruleset shows those that run now), or set the backend to auto or none"
            )
        return planned
    planned["old"] = old = _texts(nftables_file)
    if not ports and not any(re.search(OURS, text) for text in old.values()):
        return planned
    if ports:
        _refuse_commands(old)
    planned["new"] = new = {path: _with_ports(text, ports, planned["notes"]) for path, text in old.items()}
    for path, text in new.items():
        if text != old[path]:
            planned["changes"][path] = {"old": _our_rules(old[path]), "new": _our_rules(text)}
    hooked = [key for text in old.values() for key, chain in _chains(text).items() if _hooked(chain)]
    listing = _nft(["-a", "-t", "list", "ruleset"])
    loaded = _chains(listing)
    if new != old and not any(key in loaded for key in hooked):
        planned["notes"].append(f"None of the chains of {nftables_file} is in force: only the file is changed")
    commands, running = _commands(listing, hooked, ports, planned["notes"])
    planned["commands"] = commands
    planned["changes"].update(running)
    if new != old:
        _nft(["-c", "-f", "-"], _flat(nftables_file, new))
    return planned


def _with_ports(text, ports, notes):
    """Return the text of a file with our rules where they belong, and nowhere else. ``notes`` get what is odd."""
    text = re.sub(OURS, "", text)
    if not ports:
        return text
    chains = _chains(text)
    places = {}
    for key, chain in chains.items():
        if _hooked(chain):
            closed, last, refusing = _closed(key, chains, ports)
            notes += [note for note in _notes(key, refusing) if note not in notes]
            if closed:
                places[chain.end if last is None else last.start] = _rule(closed)
    for place in sorted(places, reverse=True):
        text = _inserted(text, place, places[place])
    return text


def _inserted(text, place, rule):
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


def _commands(listing, hooked, ports, notes):
    """
    Return what nft(8) has to do for the rules in force to be as they should, and that as changes.

    ``hooked``: the file's chains; those that are not in the listing are not loaded. Chains that are not in the
    file are not touched; what they drop is said in ``notes``.
    """
    chains = _chains(listing)
    commands, changes = [], {}
    for key, chain in chains.items():
        ours = [statement for statement in chain.statements if re.fullmatch(OUR_RULE, statement.text)]
        if not ours and not (ports and _hooked(chain)):
            continue
        rest = chain._replace(statements=[statement for statement in chain.statements if statement not in ours])
        closed, last, refusing = _closed(key, {**chains, key: rest}, ports) if ports else ([], None, [])
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
        if wanted and last is None:
            commands.append(f"add rule {name} {wanted[0]}")
        elif wanted:
            commands.append(f"insert rule {name} position {last.handle} {wanted[0]}")
        changes[f"running rules of {name}"] = {
            "old": "\n".join(statement.text for statement in ours),
            "new": "\n".join(wanted),
        }
    return "".join(f"{command}\n" for command in commands), changes


def _rule(ports):
    """Return our rule as nft(8) prints it."""
    numbers = ", ".join(map(str, sorted(ports)))
    return f'tcp dport {f"{{ {numbers} }}" if len(ports) > 1 else numbers} accept comment "{COMMENT}"'


def _our_rules(text):
    """Return our rules in a text, one in a line."""
    return "\n".join(match.group().strip("; \t\n") for match in re.finditer(OURS, text))


def _notes(key, refusing):
    return [f"Left as it is in the chain {' '.join(key)}: {statement.text}" for statement in refusing]


def _closed(key, chains, ports):
    """
    Return what a base chain does to the ports.

    These are: the ports that it does not accept from everybody; the statement before which a rule has to stand to
    count (``None``: anywhere); and the rules that refuse some of the ports by number.
    """
    closed, refusing = list(ports), []
    for statement, anchor in _walk(key, chains):
        verdict, opened, everybody = _meaning(statement.text)
        if verdict in ("drop", "reject"):
            if opened is None:
                return closed, anchor, refusing
            refused = [port for port in closed if port in opened]
            if refused and everybody:
                refusing.append(statement)
                closed = [port for port in closed if port not in opened]
        elif verdict == "accept" and everybody:
            closed = [port for port in closed if opened is not None and port not in opened]
        elif verdict in ("return", "end") and everybody and opened is None:
            return _by_policy(key, chains, closed), anchor, refusing
    return _by_policy(key, chains, closed), None, refusing


def _by_policy(key, chains, closed):
    dropped = any(statement.text == "policy drop" for statement in chains[key].statements)
    return closed if dropped else []


def _walk(key, chains, anchor=None, seen=()):
    """
    Yield the statements of a chain in the order in which a packet to any port meets them.

    Chains that it jumps to are walked as well. With each statement comes the one of the base chain that leads
    there.
    """
    for statement in chains[key].statements:
        verdict, opened, everybody = _meaning(statement.text)
        verb, _, target = (verdict or "").partition(" ")
        target = (*key[:2], target)
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


def _meaning(text):
    """
    Return a rule's verdict, the ports that it is for (``None``: all), and whether it is for every client.

    Verdicts are ``accept``, ``drop``, ``reject``, ``return``, ``end``, ``jump NAME``, ``goto NAME``, and ``None``
    for statements without, and for all that has a condition which picks certain clients. A condition that leaves
    out a part of them only (one protocol family, what is above a rate) counts: it is not for every client.
    """
    nothing = (None, None, True)
    words = re.findall(r'"[^"]*"|\{[^}]*\}|[^\s{}"]+', text)
    ports, everybody = None, True
    while words:
        word = words.pop(0)
        following = words[0] if words else ""
        if word in ("accept", "drop", "reject", "return", "end"):
            return word, ports, everybody
        if word in ("jump", "goto"):
            return f"{word} {following}", ports, everybody
        if word == "counter":
            words = words[4:] if following == "packets" else words
        elif word == "comment":
            words = words[1:]
        elif word == "log":
            while words and words[0] in LOG_OPTIONS:
                words = words[2:]
        elif word == "meta" and following in ("l4proto", "nfproto", "pkttype", "iif", "iifname"):
            continue
        elif word in ("tcp", "th") and following == "dport":
            if words[1:2] == ["vmap"]:
                return "accept", _accepted(" ".join(words[2:])), True
            ports, words = _ports(" ".join(words[1:2])), words[2:]
        elif word == "l4proto" and "tcp" in _items(following):
            words = words[1:]
        elif word == "ct" and following == "state" and "new" in _items(" ".join(words[1:2])):
            words = words[2:]
        elif (word, following) in (("nfproto", "ipv4"), ("nfproto", "ipv6"), ("pkttype", "host")):
            everybody, words = False, words[1:]
        elif (word, following) in (("ip", "protocol"), ("ip6", "nexthdr")) and "tcp" in _items(
            " ".join(words[1:2])
        ):
            everybody, words = False, words[2:]
        elif (
            word in ("iif", "iifname") and following == "!=" and [item.strip('"') for item in words[1:2]] == ["lo"]
        ):
            words = words[2:]
        elif (word, following) == ("limit", "rate") and words[1:2] != ["over"]:
            everybody, words = False, words[2:]
            words = words[3:] if words[:1] == ["burst"] else words
        else:
            return nothing
    return nothing


def _items(text):
    """Return the members of ``{ a, b }``, of ``a,b``, or the one of ``a``."""
    return [item.strip() for item in text.strip("{} ").split(",")]


def _ports(text):
    """Return the numbers of ``25``, ``smtp``, ``110-143`` or a set of such; none for what is not known here."""
    numbers = set()
    for item in _items(text):
        first, _, last = item.partition("-")
        ends = [_port(first), _port(last or first)]
        # A service's own name may have a hyphen.
        ends = [_port(item)] * 2 if None in ends else ends
        if None not in ends:
            numbers.update(range(ends[0], ends[1] + 1))
    return numbers


def _port(name):
    if name.isdigit():
        return int(name)
    try:
        return socket.getservbyname(name, "tcp")
    except OSError:
        return None


def _accepted(text):
    """Return the ports that a verdict map, ``{ 25 : accept, 22 : jump ssh }``, accepts."""
    pairs = [item.rpartition(":") for item in _items(text)]
    return {number for port, _, verdict in pairs if verdict.strip() == "accept" for number in _ports(port.strip())}


def _hooked(chain):
    return any(re.match(r"type filter hook input\b", statement.text) for statement in chain.statements)


def _texts(nftables_file):
    """Return the file and those that it includes, path to text, as nft(8) reads them."""
    texts = {}
    waiting = [nftables_file]
    while waiting:
        path = waiting.pop(0)
        if path not in texts:
            texts[path] = _mta_firewall_files.read(path) or ""
            waiting += [name for _start, _end, names in _includes(texts[path]) for name in names]
    return texts


def _includes(text):
    """Yield the start and end of each include statement outside of tables, and the paths that it stands for."""
    for statement in _top_level(text):
        match = re.fullmatch(r'include "([^"]+)"', statement.text)
        if match:
            # nft(8): without a slash in front, below its own directory; wildcards as in glob(3), sorted.
            yield statement.start, statement.end, sorted(glob.glob(os.path.join("/etc", match[1])))


def _flat(path, texts):
    """Return the text of a file with the files that it includes in place, as one for ``nft -c``."""
    text = texts[path]
    for start, end, names in reversed(list(_includes(text))):
        inside = "\n".join(_flat(name, texts) for name in names)
        text = f"{text[:start]}{inside}\n{text[end:]}"
    return text


def _refuse_commands(texts):
    """Refuse files whose chains are not written as blocks: no place in them could be told."""
    for path, text in texts.items():
        for statement in _top_level(text):
            if re.match(r"(add|create|insert|replace) (rule|chain) ", statement.text):
                raise CommandExecutionError(
                    f"{path} makes its rules with commands ({statement.text.split(' {')[0]!r}), not as table and"
                    " chain blocks, which this formula can add to. Write it as blocks (nft list ruleset prints"
                    " them), or set the backend to none"
                )


def _top_level(text):
    return _scan(text, {})


def _chains(text):
    """Return the chains of a text: ``(family, table, name)`` to :py:class:`Chain`."""
    chains = {}
    _scan(text, chains)
    return chains


def _scan(text, chains):
    """
    Read a file or listing: fill ``chains``, and return the statements that are in no block.

    Names that the file defines (``define NAME = VALUE``) are replaced by their values.
    """
    top_level, defined = [], {}
    # What is open: (kind, key, statements) from the outermost block in.
    blocks = [("file", (), top_level)]
    position, start, words, handle = 0, None, "", None

    def complete(end):
        nonlocal start, words, handle
        plain = " ".join(words.split())
        if plain:
            definition = re.fullmatch(r"(?:re)?define (\S+) ?= ?(.*)", plain)
            if definition:
                defined[definition[1]] = definition[2]
            plain = re.sub(r"\$(\w+)", lambda match: defined.get(match[1], match[0]), plain)
            blocks[-1][2].append(Statement(start, end, plain, handle))
        start, words, handle = None, "", None

    for token in re.finditer(r'"[^"]*"|#[^\n]*|\\\n|[{};\n]|[^"#\\{};\n]+|\\', text):
        position, piece = token.start(), token.group()
        if piece.startswith("#"):
            number = re.fullmatch(r"# handle (\d+)", piece)
            handle = number[1] if number and words.strip() else handle
        elif piece == "\\\n":
            words += " "
        elif piece in ("\n", ";") and blocks[-1][0] != "braces":
            complete(position)
        elif piece == "{":
            kind, key = _opened(" ".join(words.split()), blocks[-1])
            if kind == "braces":
                words += piece
                blocks.append((kind, key, []))
            else:
                chain = chains.get(key) if kind == "chain" else None
                blocks.append((kind, key, list(chain.statements) if chain else []))
                start, words = None, ""
        elif piece == "}":
            kind, key, statements = blocks[-1]
            if kind == "braces":
                words += piece
                blocks.pop()
            elif kind != "file":
                complete(position)
                if kind == "chain":
                    chains[key] = Chain(statements, position)
                blocks.pop()
        else:
            if start is None and piece.strip():
                start = position + len(piece) - len(piece.lstrip())
            words += " " if piece == "\n" else piece
    complete(len(text))
    return top_level


def _opened(words, outer):
    """Return the kind and key of a block by the words before its brace, and the block that it is in."""
    found = re.fullmatch(r"(?:(?:add|create) )?(table|chain) (.+)", words)
    if outer[0] == "braces":
        return "braces", ()
    if found and found[1] == "table" and outer[0] == "file":
        names = found[2].split()
        return "table", tuple(names if len(names) > 1 else ["ip", *names])
    if found and found[1] == "chain" and outer[0] == "table":
        return "chain", (*outer[1], found[2])
    # Sets, maps and objects of a table are blocks of their own; anything else in braces is part of a statement.
    if outer[0] == "table":
        return "other", ()
    return "braces", ()


def _nft(arguments, stdin=""):
    return _mta_firewall_files.run(["nft", *arguments], stdin)
