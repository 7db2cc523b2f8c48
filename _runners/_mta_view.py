"""
What ``mta_status.report`` says of all mail servers, as a table, a page and metrics: functions over data.

A minion is not trusted with what it says: every value is brought to its type and to printable text before it is
shown anywhere.
"""

from __future__ import annotations

import collections
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypedDict

import _mta_history
import _mta_page
from _mta_page import Cell, Line, Sum

# How a cell is meant to be looked at.
GOOD, WARNING, BAD = "good", "warning", "bad"
# The worst first; a cell may be none of it.
URGENCY: list[str | None] = [BAD, WARNING, GOOD, None]
LEVELS = {_mta_history.GOOD: GOOD, _mta_history.WARNING: WARNING, _mta_history.BAD: BAD}
FEW_DAYS = 14
LONGEST = 300
LARGEST = 2**53
MOST = 50
# A line of a zone file, as minions write it; nothing else of theirs gets into one.
RECORD = r"\S+\.\t\d+\tIN\t[A-Z]+\t.+"
# What to do where servers contradict each other.
ALONE = {
    "v=DKIM1": "name another dkim:selector on each server, or give all of them one dkim:private_key",
    "v=STSv1": "name all servers in dns:mx, on each of them",
}
Row = dict[str, Any]


class View(TypedDict):
    """
    What minions said, in one shape.

    time
        Unix time.

    minions
        Id to its row.

    unreachable
        Ids of minions that did not answer.

    failed
        Id to what went wrong.

    without
        Ids of minions that do not have the formula.
    """

    time: int
    minions: dict[str, Row]
    unreachable: list[str]
    failed: dict[str, str]
    without: list[str]


def collect(answers: Mapping[str, Any], unreachable: Iterable[str], now: float) -> View:
    """
    Bring what minions said to one shape.

    answers
        Minion id to what ``mta_status.report`` returned.

    unreachable
        Ids of minions that did not answer.

    now
        Unix time.
    """
    view: View = {
        "time": int(now),
        "minions": {},
        "unreachable": sorted(map(_line, unreachable)),
        "failed": {},
        "without": [],
    }
    for minion in sorted(answers):
        answer, name = answers[minion], _line(minion)
        if isinstance(answer, dict):
            view["minions"][name] = row(answer)
        elif isinstance(answer, str) and "is not available" in answer:
            view["without"].append(name)
        elif answer is not None:
            view["failed"][name] = _line(answer)
    return view


def _line(value: object) -> str:
    """One line of printable text."""
    text = " ".join(str(value).split())
    return "".join(char if char.isprintable() else "?" for char in text)[:LONGEST]


def _text(value: object) -> str | None:
    return None if value is None else _line(value)


def _number(value: object) -> float | None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    # Neither infinities nor what is beyond all time.
    return value if abs(value) < LARGEST else None


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _texts(value: object) -> list[str] | None:
    return [_line(item) for item in value[:MOST]] if isinstance(value, list) else None


def _named(value: object) -> list[tuple[str, Any]]:
    """What a dictionary holds, whatever its keys are, in their order as text."""
    items = value.items() if isinstance(value, dict) else ()
    return sorted(((_line(name), item) for name, item in items), key=lambda item: item[0])[:MOST]


def row(answer: object) -> Row:
    """
    Return what a minion said of its server, each value of its type and not too long; ``None`` for what it is not.

    answer
        What ``mta_status.report`` returned, or what a minion says it did.
    """
    said = answer if isinstance(answer, dict) else {}
    applied = said.get("last_apply")
    applied = applied if isinstance(applied, dict) else {}
    return {
        **{name: _text(said.get(name)) for name in ("fqdn", "postfix", "revision", "profile")},
        **{name: _flag(said.get(name)) for name in ("running", "answers", "auth")},
        **{name: _number(said.get(name)) for name in ("certificate_expires", "certificate_days", "commit")},
        "queue": {name: _number(size) for name, size in _named(said.get("queue"))},
        **{name: _texts(said.get(name)) for name in ("drift", "conditions")},
        "last_apply": {
            "result": _flag(applied.get("result")),
            "time": _number(applied.get("time")),
            "failed": _texts(applied.get("failed")) or [],
            "reasons": {part: _line(why) for part, why in _named(applied.get("reasons"))},
        },
        "problems": _texts(said.get("problems")) or [],
        "dns": _texts(said.get("dns")) or [],
        "errors": {part: _line(why) for part, why in _named(said.get("errors"))},
    }


# -- what people see ---------------------------------------------------------------------------


def _ago(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit} ago"
    return f"{int(seconds)} s ago"


def _yes(value: bool | None) -> Cell:
    if value is None:
        return "-", None
    return ("yes", GOOD) if value else ("NO", BAD)


def _days(row: Row) -> Cell:
    days = row["certificate_days"]
    if days is None:
        return "?" if "certificate_expires" in row["errors"] else "-", None
    return f"{days} d", BAD if days < 0 else WARNING if days < FEW_DAYS else GOOD


def _answers(row: Row) -> Cell:
    if row["running"] is False:
        return "down", BAD
    return _yes(row["answers"])


def _auth(row: Row) -> Cell:
    return _yes(row["auth"])


def _queue(row: Row) -> Cell:
    total = row["queue"].get("total")
    return "-" if total is None else str(total), None


def _drift(row: Row) -> Cell:
    if row["drift"] is None:
        return "-", None
    names = ", ".join(path.rpartition("/")[2] for path in row["drift"])
    return (names, WARNING) if names else ("none", GOOD)


def _last_apply(row: Row, now: float) -> Cell:
    applied = row["last_apply"]
    if applied["time"] is None:
        return "-", None
    ago = _ago(max(0, now - applied["time"]))
    return (f"FAILED {ago}", BAD) if applied["result"] is False else (ago, GOOD)


def _conditions(row: Row) -> Cell:
    if row["conditions"] is None:
        return "-", None
    return (", ".join(row["conditions"]), WARNING) if row["conditions"] else ("none", GOOD)


def _table(view: View) -> tuple[list[str], list[list[Cell]]]:
    """The heading, and the rows of ``(text, level or None)``; those that do not answer are rows, too."""
    heading = ["minion", "FQDN", "Postfix", "formula", "profile", "certificate", "answers", "AUTH", "queue"]
    heading += ["drift", "last apply", "conditions"]
    rows: dict[str, list[Cell]] = {}
    for minion, row in view["minions"].items():
        plain: list[Cell] = [(row[name] or "-", None) for name in ("fqdn", "postfix", "revision", "profile")]
        cells = [_days(row), _answers(row), _auth(row), _queue(row), _drift(row)]
        rows[minion] = [(minion, None), *plain, *cells, _last_apply(row, view["time"]), _conditions(row)]
    blank: list[Cell] = [("", None)] * (len(heading) - 2)
    rows.update({minion: [(minion, None), ("UNREACHABLE", BAD), *blank] for minion in view["unreachable"]})
    rows.update({minion: [(minion, None), ("FAILED", BAD), *blank] for minion in view["failed"]})
    return heading, [rows[minion] for minion in sorted(rows)]


def _reasons(row: Row) -> str:
    """The parts that failed, each with why where the minion says that."""
    applied = row["last_apply"]
    reasons = ((part, applied["reasons"].get(part)) for part in applied["failed"])
    return ", ".join(f"{part} ({why})" if why else part for part, why in reasons)


def _notes(view: View) -> Iterator[tuple[str, str]]:
    """What does not fit into a cell: ``(minion, text)``."""
    for minion, row in view["minions"].items():
        if row["last_apply"]["result"] is False:
            yield minion, f"the last apply failed: {_reasons(row)}"
        for problem in row["problems"]:
            yield minion, problem
        for finding in row["dns"]:
            yield minion, f"the DNS: {finding}"
        for part, why in row["errors"].items():
            yield minion, f"{part}: {why}"
    yield from view["failed"].items()


def _sums(view: View) -> list[Sum]:
    """What there is how often: ``(number, text, level)``."""
    rows = view["minions"].values()
    failing = [row for row in rows if _answers(row)[1] == BAD or row["auth"] is False]
    return [
        (len(view["minions"]), "mail servers", None),
        (len(failing), "not answering as they should", BAD if failing else GOOD),
        (len(view["unreachable"]), "unreachable minions", BAD if view["unreachable"] else GOOD),
        (sum(row["queue"].get("total") or 0 for row in rows), "messages in queues", None),
    ]


def _when(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(moment))


def text(view: View) -> str:
    """Return a view as a table for a terminal."""
    heading, rows = _table(view)
    lines = [[word.upper() for word in heading], *[[text for text, _ in row] for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heading))]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
    notes = [f"{minion}: {note}" for minion, note in _notes(view)]
    sums = ", ".join(f"{what}: {number}" for number, what, _ in _sums(view))
    if view["without"]:
        sums += f", minions without the formula: {len(view['without'])}"
    return "\n".join([*shown, *([""] if notes else []), *notes, "", f"{_when(view['time'])}: {sums}"]) + "\n"


def _worst(cells: Iterable[Cell]) -> str | None:
    """How a row is meant to be looked at: as its worst cell."""
    return min((level for _, level in cells), key=URGENCY.index)


def _trouble(level: str | None) -> int:
    return {WARNING: _mta_history.WARNING, BAD: _mta_history.BAD}.get(level or GOOD, _mta_history.GOOD)


def seen(view: View) -> dict[str, tuple[int, int | None]]:
    """Return what ``_mta_history`` keeps of a view: minion id to its trouble and its queue."""
    found: dict[str, tuple[int, int | None]] = {}
    for cells in _table(view)[1]:
        minion = cells[0][0]
        total = view["minions"].get(minion, {"queue": {}})["queue"].get("total")
        found[minion] = _trouble(_worst(cells)), None if total is None else int(total)
    return found


def html(view: View, marks: _mta_history.Marks | None = None) -> str:
    """
    Return a view as an HTML page that loads nothing; the servers with the worst problems come first.

    marks
        What has been seen in the last days; ``None``: nothing is known.
    """
    heading, table = _table(view)
    # The FQDN has no column of its own: it is below the minion's id, where it is another.
    del heading[1]
    table.sort(key=lambda cells: URGENCY.index(_worst(cells)))
    rows = [
        _mta_page.Row(cells[0][0], cells[1], cells[2:], _line_of((marks or {}).get(cells[0][0], []), view["time"]))
        for cells in table
    ]
    return _mta_page.render(_when(view["time"]), _sums(view), heading, rows, list(_notes(view)), view["without"])


def _line_of(marks: Sequence[_mta_history.Mark], now: float) -> Line | None:
    """The last days of a server as a small line."""
    if not marks:
        return None
    first = int(now // _mta_history.SPAN) - _mta_history.KEPT + 1
    hours = _mta_history.SPAN // 3600 * sum(mark.trouble == _mta_history.BAD for mark in marks)
    longest = max((mark.queue for mark in marks if mark.queue is not None), default=None)
    words = [f"problems in {hours} h" if hours else "no problems"]
    words += [] if longest is None else [f"at most {longest} messages in the queue"]
    ticks = [(mark.span - first, LEVELS[mark.trouble]) for mark in marks]
    queue = [(mark.span - first, mark.queue) for mark in marks if mark.queue is not None]
    return Line(", ".join(words), _mta_history.KEPT, ticks, queue)


# -- what a monitoring system sees -------------------------------------------------------------


def _label(value: object) -> str:
    """A label's value in the exposition format of Prometheus, version 0.0.4."""
    return str(value).replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


class _Metrics:
    """Samples of metrics, by name and description, in order."""

    def __init__(self) -> None:
        self._samples: dict[tuple[str, str], list[str]] = {}

    def add(self, name: str, about: str, value: float | bool | None, **labels: object) -> None:
        """Add a sample; what is not known has none."""
        if value is None:
            return
        words = ",".join(f'{key}="{_label(text)}"' for key, text in labels.items())
        shown = int(value) if isinstance(value, bool) else value
        sample = f"{name}{{{words}}} {shown}" if words else f"{name} {shown}"
        self._samples.setdefault((name, about), []).append(sample)

    def text(self) -> str:
        """Return them all, each described once."""
        lines = []
        for (name, about), samples in self._samples.items():
            lines += [f"# HELP {name} {about}.", f"# TYPE {name} gauge", *samples]
        return "\n".join(lines) + "\n"


def prometheus(view: View) -> str:
    """Return a view as metrics, in Prometheus' text exposition format 0.0.4."""
    metrics = _Metrics()
    for minion in [*view["minions"], *view["failed"], *view["unreachable"]]:
        about = "Whether the minion told about its mail server"
        metrics.add("postfix_mta_up", about, minion in view["minions"], minion=minion)
    for minion, row in view["minions"].items():
        _add_server(metrics, minion, row)
    metrics.add("postfix_mta_status_timestamp_seconds", "When all of this was gathered", view["time"])
    return metrics.text()


def _add_server(metrics: _Metrics, minion: str, row: Row) -> None:
    """Add what is known of one server."""
    applied = row["last_apply"]
    facts = {name: row[name] or "" for name in ("fqdn", "postfix", "revision", "profile")}
    drift = None if row["drift"] is None else len(row["drift"])
    metrics.add("postfix_mta_info", "What the server is", 1, minion=minion, **facts)
    for name, about, value in (
        ("running", "Whether Postfix runs", row["running"]),
        ("answers", "Whether the server answers as its configuration promises", row["answers"]),
        ("auth_works", "Whether AUTH works", row["auth"]),
        (
            "certificate_expiry_timestamp_seconds",
            "When the certificate ends that ends first",
            row["certificate_expires"],
        ),
        ("drift_files", "How many of main.cf and master.cf differ from what the last apply left", drift),
        ("last_apply_timestamp_seconds", "When the last apply ended", applied["time"]),
        ("last_apply_success", "Whether the last apply succeeded", applied["result"]),
    ):
        metrics.add(f"postfix_mta_{name}", about, value, minion=minion)
    for queue, size in row["queue"].items():
        if queue != "total":
            metrics.add("postfix_mta_queue_files", "Files in a queue", size, minion=minion, queue=queue)
    for condition in row["conditions"] or []:
        about = "A condition that has not ended"
        metrics.add("postfix_mta_condition", about, 1, minion=minion, condition=condition)


def zone(answers: Mapping[str, Any], unreachable: Iterable[str]) -> str:
    """
    One text of the zone files' lines of many servers: each record once, under the reason beside it.

    answers
        Minion id to the text of ``mta_dns.records``.

    unreachable
        Ids of minions that did not answer.
    """
    reasons: dict[str, str | None] = {}
    comments: list[str] = []
    for minion, text in sorted(answers.items()):
        if not isinstance(text, str) or not text.startswith(";"):
            comments.append(f"; {minion} has no records: {_line(text)}")
            continue
        reason: str | None = None
        elsewhere: list[str] = []
        for line in text.splitlines():
            # Whole: a key's record is longer than what is shown elsewhere.
            shown = "".join(char if char.isprintable() or char == "\t" else "?" for char in line)
            if line.startswith("; elsewhere"):
                elsewhere.append(shown)
            elif line.startswith(";") and elsewhere:
                elsewhere[-1] += f"\n{shown}"
            elif line.startswith(";"):
                reason = shown
            elif re.fullmatch(RECORD, line):
                reasons.setdefault(shown, reason)
        comments += elsewhere
    comments += [f"; {minion} did not answer" for minion in unreachable]
    body = [text for line, reason in reasons.items() for text in (reason, line) if text]
    return "\n".join([*body, *dict.fromkeys(comments), *_contradictions(reasons)])


def _contradictions(lines: Iterable[str]) -> Iterator[str]:
    """Comments on records of which a name may have one only, and has several by what the servers say."""
    texts = re.findall(r'(?m)^(\S+)\.\t.*\tTXT\t"(v=\w+)', "\n".join(lines))
    found = collections.Counter(texts)
    for (name, version), count in found.items():
        if count > 1:
            hint = ALONE.get(version, "have all servers say the same")
            yield f"; {name} has {count} records {version}, and receivers take none then: {hint}"
