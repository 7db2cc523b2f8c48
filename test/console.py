"""The commands in documents: those in blocks, with the output that they have, and those in the text, without."""

import re
from collections import namedtuple

# A command without its prompt, and the lines that it prints: "..." stands for any number of lines. ``None``: the
# document shows no output.
Example = namedtuple("Example", "command output")
PROMPT = "$ "
# What a command in the text begins with; without an argument it is a program's name.
PROGRAMS = "salt salt-(?:call|run|ssh|pip) bin/[a-z-]+ promtool fail2ban-client apt-get systemctl journalctl"
COMMAND = re.compile(rf"(?:sudo )?(?:{PROGRAMS.replace(' ', '|')}|pip|git|bundle) \S")
# Words that stand for something else: the text describes commands, and shows none.
FORM = re.compile(r"…|\[|\b[A-Z]{2,}\b|\bN\b")
ANY = "..."
# What differs from run to run, and from host to host.
VOLATILE = [
    (r"\b\d+\.\d+ s\b", "N s"),
    (r"\b\d+ states in \d+ s", "N states in N s"),
    (r"\b[0-9a-f]{12,}\b", "HEX"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME"),
    (r"\b\d+ (s|min|h) ago", "N ago"),
    (r"\b\d+ d\b", "N d"),
    (r"\b\d+\.\d+\.\d+\S*", "VERSION"),
    (r" {2,}", "  "),
]


def blocks(text, language):
    """The fenced blocks of a language in a Markdown text."""
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", text)


def examples(text):
    """The commands in a document's ``console`` blocks, in order, with their output."""
    return [example for block in blocks(text, "console") for example in _examples(block)]


def _examples(block):
    found = []
    for line in block.splitlines():
        if line.startswith(PROMPT):
            found.append(Example(line[len(PROMPT) :], []))
        else:
            found[-1].output.append(line)
    return found


def steps(text):
    """Every command of a document, in order: its examples, and those that are lines or marked as code."""
    found = []
    for language, block, line in re.findall(r"(?ms)^```(\w*)\n(.*?)^```$|^([^`\n][^\n]*|`[^`\n]+`[^\n]*)$", text):
        if language == "console":
            found += _examples(block)
        elif line:
            found += [Example(command, None) for command in _commands(line)]
    return found


def _commands(line):
    """The commands in a line of text: all of it, where it is indented, else what is marked as code."""
    indented = re.match(r" {4,}(\S.*)", line)
    parts = [re.sub(r" +# .*", "", indented[1])] if indented else []
    parts += re.findall(r"`([^`]+)`", line)
    return [part for part in parts if COMMAND.match(part) and not FORM.search(part)]


class NotRun:
    """What of the commands the suite does not run: test/integration/docs/not-run.yaml says why."""

    def __init__(self, rules):
        self.rules = rules

    def rule(self, command):
        """The rule that a command falls under, ``None`` for one that is run."""
        for rule in self.rules:
            if command == rule["begins"] or (not rule.get("exactly") and command.startswith(rule["begins"])):
                return rule
        return None


def masked(line):
    """A line without what differs from run to run."""
    line = line.rstrip()
    for pattern, word in VOLATILE:
        line = re.sub(pattern, word, line)
    return line


def missing(expected, printed):
    """
    The first expected line that does not come, ``None`` when all of them come.

    Between two ``...`` the lines follow each other directly.
    """
    wanted, got = [masked(line) for line in expected], [masked(line) for line in printed]
    while got and not got[-1]:
        got.pop()
    return _missing(wanted, got, 0, 0)


def _missing(wanted, got, index, at):
    while index < len(wanted):
        if wanted[index] == ANY:
            if index + 1 == len(wanted):
                return None
            results = [_missing(wanted, got, index + 1, place) for place in range(at, len(got))]
            return None if None in results else wanted[index + 1]
        if at >= len(got) or got[at] != wanted[index]:
            return wanted[index]
        index, at = index + 1, at + 1
    return None if at == len(got) else got[at]
