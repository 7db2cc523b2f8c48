"""The examples in documents: blocks of commands with the output that they have."""

import re
from collections import namedtuple

# A command without its prompt, and the lines that it prints: "..." stands for any number of lines.
Example = namedtuple("Example", "command output")
PROMPT = "$ "
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
    found = []
    for block in blocks(text, "console"):
        for line in block.splitlines():
            if line.startswith(PROMPT):
                found.append(Example(line[len(PROMPT) :], []))
            else:
                found[-1].output.append(line)
    return found


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
