"""
What a check of the server has found, against what was so before: text from text, nothing is asked here.

A problem is a line such as ``127.0.0.1:25 RCPT TO:<postmaster@…>: 451 4.3.0 …``: where, the step of the
conversation, and what was said.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence

from _mta_records import NamedTuple

UNTRUSTED = " as an untrusted client"
# In the order of a conversation. Who does not get beyond one of the first five sees nothing of what follows.
STEPS = ("connect", "banner", "EHLO", "STARTTLS", "TLS", "AUTH", "MAIL FROM", "RCPT TO", "DATA", "end of DATA")
GREETING = STEPS[:5]
LINE = rf"(?:(?P<where>\S.*?) )?(?P<step>{'|'.join(STEPS)}|delivery to [^:]+)\b(?P<rest>.*)"
# How a line says that the server offers or calls itself something else than expected, and goes on.
ODD = r"\(expected |: (?:STARTTLS|AUTH) is (?:not )?offered|: AUTH offers "
BROKEN_OFF = r": (?:421 |connection closed|no answer in time|garbled)"
OPEN_RELAY = "an open relay"
# An outage of a smarthost is not a wrong password.
LOGIN_OR_TLS = r"(?i)SASL|authentication|STARTTLS|certificate"


class Verdict(NamedTuple):
    """
    What there is to say of the server after a change.

    problems
        Reasons to undo it.

    earlier
        What is wrong, and was so before.

    unseen
        What is wrong, where nobody could see before whether it was so: another fault came first.
    """

    problems: list[str]
    earlier: list[str]
    unseen: list[str]


class _Line(NamedTuple):
    where: str
    step: str
    rest: str


def _parsed(problem: str) -> _Line:
    found = re.match(LINE, problem, re.DOTALL)
    return _Line(found["where"] or "", found["step"], found["rest"]) if found else _Line("", "", problem)


def _recipient(line: _Line) -> str:
    """Whom a step was about, without what is random in it."""
    found = re.match(r":<(probe-)?[^@>]*", line.rest)
    return "" if not found else found[1] or found[0]


def _same(one: _Line, other: _Line) -> bool:
    """Whether two problems are one: at the same step of the same conversation, and of the same kind."""
    return one[:2] == other[:2] and _kind(one) == _kind(other)


def _kind(line: _Line) -> tuple[object, ...]:
    """What makes two problems of one step two: the recipient, and what sort of fault it is."""
    return (
        OPEN_RELAY in line.rest,
        bool(re.search(ODD, line.rest)),
        bool(re.search(LOGIN_OR_TLS, line.rest)),
        _recipient(line),
    )


def without_relays(problems: Sequence[str], discarded: Collection[tuple[str, str]]) -> list[str]:
    """The problems without open relays by senders to recipients whose mail is thrown away."""
    lost = [
        f"{UNTRUSTED} {f'MAIL FROM:<{sender}> ' if sender else ''}RCPT TO:<{recipient}>:"
        for sender, recipient in discarded
    ]
    return [text for text in problems if OPEN_RELAY not in text or not any(step in text for step in lost)]


def _words(line: _Line) -> str:
    """What was said, without what is another each time: queue ids, made-up names, addresses, seconds."""
    if OPEN_RELAY in line.rest:
        return OPEN_RELAY
    return re.sub(r"<[^>]*>|\bprobe-\w+(?:-m)?\b|\b[0-9A-F]{8,}\b|\b[\d.]+ ?s\b", "", line.rest)


def _severity(line: _Line) -> int:
    """2: mail is lost; 1: the other side tries again, so that a fault that is mended loses none; 0: not told."""
    code = re.search(r": ([45])(?:\d\d |\.\d+\.\d+ )", line.rest)
    return 0 if not code else 1 if code[1] == "4" else 2


def _hides(before: _Line, now: _Line) -> bool:
    """Whether a conversation ended with ``before``, so that nobody got as far as ``now``."""
    if before.where.replace(UNTRUSTED, "") != now.where.replace(UNTRUSTED, "") or now.step not in STEPS:
        return False
    ended = before.step in GREETING and not re.search(ODD, before.rest)
    ended = ended or bool(re.search(BROKEN_OFF, before.rest))
    return ended and before.step in STEPS and STEPS.index(before.step) < STEPS.index(now.step)


def compared(before: Sequence[str] | None, now: Sequence[str], said: Callable[[str], bool]) -> Verdict:
    """
    Tell what got worse from what was so before.

    A step that failed before, and now fails for another reason, is a problem when mail fares worse (it is refused
    for good, and not for now), or when the new reason names something that this apply has changed.

    before
        The problems of the same check before the change; ``None``: it could not be held, as of a server that did
        not run. Then all that is wrong counts.

    now
        The problems after the change.

    said
        Whether a problem's words name something that this apply has changed.
    """
    earlier, unseen, problems = [], [], []
    known = [_parsed(text) for text in before or ()]
    for text in now:
        line = _parsed(text)
        alike = [one for one in known if _same(one, line)]
        hidden = alike or (any(_hides(one, line) for one in known) and OPEN_RELAY not in text)
        worse = alike and 0 < max(map(_severity, alike)) < _severity(line)
        if any(_words(one) == _words(line) for one in alike):
            earlier.append(text)
        elif hidden and not worse and not said(text):
            unseen.append(text)
        else:
            problems.append(text)
    return Verdict(problems, earlier, unseen)


def greets(problems: Sequence[str]) -> bool:
    """Whether every listener gets as far as its answer to EHLO, whatever it says there."""
    lines = [_parsed(text) for text in problems]
    return not any(line.step in (*GREETING, "") and not re.search(ODD, line.rest) for line in lines)
