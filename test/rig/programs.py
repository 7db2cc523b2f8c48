"""Programs whose name does not say what they are written in: their first line does."""

import os
import re

from rig import REPOSITORY

# The second line of a program that a shell begins and Python goes on with, as bin/apply. A line of quotes alone
# ends the shell's part.
BOTH = '""":"'
FOLDERS = ("bin", ".ci", "postfix_mta", "test")


def scripts(repository=REPOSITORY):
    """
    The repository's programs in two lists: those in Python without ``.py``, and those for a shell.

    Each is a path, relative to the repository. One that a shell begins and Python goes on with is in both.
    """
    python, shell = [], []
    for folder in FOLDERS:
        for directory, _, names in os.walk(repository / folder):
            for name in sorted(names):
                path = os.path.relpath(os.path.join(directory, name), repository)
                first, second = _first_lines(repository / path)
                if re.match(r"#!.*\bpython3?\b", first) or second == BOTH:
                    python += [path] if not name.endswith(".py") else []
                if re.match(r"#!.*\b(ba|da)?sh\b", first) or name.endswith(".sh"):
                    shell.append(path)
    return sorted(python), sorted(shell)


def shell_part(text):
    """What a shell reads of a program: all of it, or its part of one that Python goes on with."""
    lines = text.splitlines()
    return "\n".join(lines[: lines.index('"""')] if BOTH in lines[:2] else lines) + "\n"


def _first_lines(path):
    """The first two lines of a file, without their ends."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.readline(200).rstrip("\n"), file.readline(200).rstrip("\n")
