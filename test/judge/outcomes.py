"""What came of cases: whether real mail still works, whether the formula was right, and all of it on paper."""

import dataclasses
import textwrap

WORKS, BROKEN, DIFFERS = "mail works", "mail is broken", "mail and label differ"
ROWS = (WORKS, BROKEN, DIFFERS)
COMMITTED, UNDONE = "committed", "undone"
BESIDE = ("notes", "strays")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """
    A case and what came of it.

    broken: ``{check: what}`` of what worked on the base and does not with the change in force. excused: those that
    a policy breaks on purpose. wrong: why the formula was wrong; empty when it was right.
    """

    case: object
    result: dict
    broken: dict
    excused: dict
    row: str
    column: str
    wrong: tuple

    @property
    def is_right(self):
        """Whether the formula did what it should."""
        return not self.wrong


def compare(before, after):
    """``{check: what}`` of the checks that were good and are not."""
    return {name: what for name, what in failing(after).items() if before.get(name, {"ok": True})["ok"]}


def row_of(case, broken, known):
    """The row of the matrix: what real mail says where it was tried, else what the case's label says."""
    if case.expected in ("undo", "commit", "unchanged"):
        return BROKEN if case.expected == "undo" else WORKS
    if case.expected == "any" or (not case.named and known and broken != case.harmful):
        return DIFFERS
    if case.named or known:
        return BROKEN if broken else WORKS
    return BROKEN if case.harmful else WORKS


def assess(case, result):
    """The outcome of a case. ``result`` is the worker's."""
    if "error" in result:
        return Outcome(case, result, {}, {}, "no result", "no result", (f"not tried: {result['error']}",))
    if not case.changes:
        return of_server(case, result)
    found = compare(result["base"]["truth"], result["truth"])
    excused = {name: what for name, what in found.items() if name.split()[0] in case.excuses}
    broken = {name: what for name, what in found.items() if name not in excused}
    column = result["verdict"]
    row = row_of(case, bool(broken), known=bool(result["truth"]))
    wrong = []
    if row == WORKS and column == UNDONE:
        wrong.append("undone for nothing")
    if row == BROKEN and column == COMMITTED:
        wrong.append("a fault was let through")
    said = "\n".join([*result["applied"]["comments"], *result["applied"]["said"]])
    wrong += [f"the comment does not say {word!r}" for word in case.says if word.lower() not in said.lower()]
    if case.expected == "unchanged" and result["applied"]["changes"]:
        wrong.append(f"changes where there are none: {', '.join(result['applied']['changes'])}")
    if result["left"]:
        wrong.append(f"left behind: {', '.join(result['left'][:3])}")
    if "had been edited by somebody else" in said:
        wrong.append("the formula takes its own work for somebody else's")
    if result.get("differences"):
        wrong.append(f"not undone completely: {', '.join(result['differences'][:4])}")
    return Outcome(case, result, broken, excused, row, column, tuple(wrong))


def of_server(case, result):
    """The outcome of a server that was only made."""
    broken = failing(result["base"]["truth"])
    undone = result["base"].get("undone", [])
    wrong = [f"undone for nothing: {shortened(' '.join(undone))}"] if undone else []
    wrong += [f"{name}: {what}" for name, what in broken.items()]
    column = UNDONE if undone else COMMITTED
    return Outcome(case, result, broken, {}, BROKEN if broken else WORKS, column, tuple(wrong))


def failing(truth):
    """``{check: what}`` of the checks that are not good."""
    return {name: one["what"] for name, one in truth.items() if name not in BESIDE and not one["ok"]}


def counted(outcomes):
    """How many cases are in each field of the matrix."""
    counts = {(row, column): 0 for row in ROWS for column in (COMMITTED, UNDONE)}
    for outcome in outcomes:
        if (outcome.row, outcome.column) in counts:
            counts[outcome.row, outcome.column] += 1
    return counts


def summary(outcomes):
    """The matrix's wrong fields in a line, and how many were wrong in other ways."""
    counts = counted(outcomes)
    nothing, through = counts[WORKS, UNDONE], counts[BROKEN, COMMITTED]
    others = sum(not one.is_right for one in outcomes) - nothing - through
    return f"{nothing} undone for nothing, {through} faults let through, {others} wrong otherwise"


def spent(outcome):
    """What has taken how many seconds, in a line."""
    parts = outcome.result.get("spent", {})
    return ", ".join([f"{sum(parts.values()):.1f} s", *(f"{name} {seconds}" for name, seconds in parts.items())])


def matrix(outcomes):
    """The confusion matrix as text."""
    counts = counted(outcomes)
    marks = {(WORKS, UNDONE): "  <- undone for nothing", (BROKEN, COMMITTED): "  <- faults let through"}
    lines = [f"{'':<24}{COMMITTED:>10}{UNDONE:>10}"]
    for row in ROWS:
        numbers = "".join(f"{counts[row, column]:>10}" for column in (COMMITTED, UNDONE))
        lines.append(
            f"{row:<24}{numbers}" + "".join(marks.get((row, c), "") for c in (COMMITTED, UNDONE) if counts[row, c])
        )
    lacking = sum(outcome.row not in ROWS for outcome in outcomes)
    if lacking:
        lines.append(f"no result: {lacking}")
    return "\n".join(lines)


def settings(case):
    """What the changes set, one in a line."""
    lines = []
    for change in case.changes:
        lines.append(f"{change.kind}: {change.name} ({change.about['why']})")
        for part in ("parameters", "services", "maps", "aliases", "pillar"):
            lines += [f"  {part}: {name}: {value}" for name, value in change.about.get(part, {}).items()]
    return lines


def shortened(text, length=600):
    """A comment, without the middle of a long one."""
    return text if len(text) <= length else f"{text[: length // 2]} […] {text[-length // 2 :]}"


def describe(outcome):
    """A case and what came of it, as text."""
    case, result = outcome.case, outcome.result
    lines = [f"case {case.name}: {'; '.join(outcome.wrong) or 'right'} [{outcome.row}, {outcome.column}]"]
    lines.append(f"  server: {case.server.name}")
    lines += [f"  {line}" for line in settings(case)]
    if case.changes and "error" not in result:
        lines.append(f"  real mail ({result['how']}):")
        for name, what in {**outcome.broken, **outcome.excused}.items():
            lines.append(f"    {name}: {what}" + (" (excused)" if name in outcome.excused else ""))
        if not outcome.broken and not outcome.excused:
            lines.append("    as before" if result["truth"] else "    not known")
        for note in result["truth"].get("notes", [])[:6] if outcome.broken else ():
            lines.append(f"      log: {note[:220]}")
        applied = result["applied"]
        comments = applied["comments"] or [text for text in applied["said"] if "committed" in text]
        lines.append(f"  the formula ({applied['seconds']} s):")
        for comment in comments:
            lines.append(textwrap.indent(shortened(comment), "    "))
    return "\n".join(lines)


def bases(outcomes):
    """What is odd about the servers to begin from, as text; empty when nothing is."""
    lines = {}
    for outcome in outcomes:
        base = outcome.result.get("base")
        if base is None:
            continue
        bad = failing(base["truth"])
        if bad:
            lines[f"{base['name']}: does not work: {bad} {base['truth'].get('notes', [])[-4:]}"] = None
        if base.get("undone"):
            lines[f"{base['name']}: undone for nothing: {shortened(' '.join(base['undone']))}"] = None
    return "\n".join(lines)


def report(outcomes):
    """Everything about all cases, as text."""
    parts = []
    odd = bases(outcomes)
    if odd:
        parts.append(f"Servers to begin from:\n{odd}")
    parts += [describe(outcome) for outcome in outcomes if not outcome.is_right]
    parts += [describe(outcome) for outcome in outcomes if outcome.is_right and outcome.row == DIFFERS]
    parts.append(matrix(outcomes))
    return "\n\n".join(parts)
