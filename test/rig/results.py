"""State results compared (what a dry run announced, what a run changed), and pytest's results added up."""

import re

NOTHING_COLLECTED = 5
# What a state says whose items depend on a package that is not there yet.
NOT_KNOWN = "not known before it is there"
# Headlines of pytest's: a part of its output, and a test that failed with what it printed.
PART = re.compile(r"={3,} (.+?) ={3,}")
TEST = re.compile(r"_+ (?!_)(.+?) _+")
# The lines that in_short() takes of each failure, and the characters of each line.
LINES, WIDTH = 12, 400
COUNT = re.compile(r"(\d+) (passed|failed|skipped|errors?|xfailed|xpassed)\b")


def label(key):
    """A state's key, ``module_|-id_|-name_|-function``, in readable form."""
    module, identifier, name, function = key.split("_|-")
    return f"{module}.{function}: {identifier}" + (f" ({name})" if name != identifier else "")


def state_of(results, name):
    """The result of the state with an id."""
    return next(state for state in results.values() if state["__id__"] == name)


def failed(results):
    """The results of the states that failed by themselves, not for another's failure."""
    return {
        key: state
        for key, state in results.items()
        if state["result"] is False and not state["comment"].startswith("One or more requisite failed")
    }


def failures(results):
    """One text per state that failed by itself."""
    return [f"{label(key)}: {state['comment']}" for key, state in failed(results).items()]


def changed(results):
    """The states that changed something."""
    return {key for key, state in results.items() if state["changes"]}


def announced(results):
    """The states of a dry run that would change something, or may."""
    return {key for key, state in results.items() if state["changes"] or state["result"] is None}


def difference(prediction, reality):
    """
    One text per state that announced changes and made none, or made changes and had not announced it.

    A state without changes in the dry run may say "would be" about what an earlier state makes possible; then
    both outcomes are right.
    """
    before, after = changed(prediction), changed(reality)
    lines = []
    for key in sorted((before - after) | (after - announced(prediction))):
        dry, real = prediction.get(key, {}), reality.get(key, {})
        verb = "announced, but did not change" if key in before else "changed, but was not announced"
        lines.append(
            f"{label(key)} {verb}\n"
            f"  dry run: {dry.get('result')} {dry.get('comment')} {dry.get('changes')}\n"
            f"  real run: {real.get('result')} {real.get('comment')} {real.get('changes')}"
        )
    return lines


def other_items(prediction, reality):
    """
    One text per state that changed other items than it had announced: another parameter, another file.

    A state that says that it cannot know them may.
    """
    lines = []
    for key in sorted(changed(prediction) & changed(reality)):
        items = sorted(prediction[key]["changes"].keys() ^ reality[key]["changes"].keys())
        if items and NOT_KNOWN not in prediction[key]["comment"]:
            lines.append(f"{label(key)} announced other items than it changed: {', '.join(items)}")
    return lines


def count(output, code, chosen=False):
    """
    Passed, failed and skipped tests of a pytest run, by the last line of its output and its exit code.

    A run that failed without a failed test (a broken configuration, nothing collected) counts as one failure.
    chosen: somebody chose some of the tests by arguments; that this run has none of them is no failure.
    """
    last = next((line for line in reversed(output.splitlines()) if COUNT.search(line)), "")
    found = {"passed": 0, "failed": 0, "skipped": 0}
    for number, kind in COUNT.findall(last):
        kind = {"error": "failed", "errors": "failed", "xfailed": "skipped", "xpassed": "passed"}.get(kind, kind)
        found[kind] += int(number)
    if code and not found["failed"] and not (chosen and code == NOTHING_COLLECTED):
        found["failed"] = 1
    return found


def in_short(output, where):
    """
    One text per failed test of a pytest run: where it ran, its name, and what pytest says of the failure.

    What is said at the very end of a long output is what somebody sees who is shown only that end.
    """
    texts, part, lines = [], "", []
    for line in output.splitlines():
        headline = PART.fullmatch(line)
        if headline:
            part = headline[1]
        elif part not in ("FAILURES", "ERRORS"):
            continue
        elif test := TEST.fullmatch(line):
            lines = [f"{where}: {test[1]}"]
            texts.append(lines)
        elif lines and (line.startswith("E  ") or re.match(r"[^ ]+\.py:\d+: ", line)):
            lines.append(line)
    return [shortened("\n".join(lines)) for lines in texts]


def shortened(text):
    """The first and last lines of a text, none of them long."""
    lines = [line[:WIDTH] for line in text.splitlines()]
    if len(lines) > 2 * LINES:
        lines[LINES:-LINES] = ["[...]"]
    return "\n".join(lines)


def closing_line(counts):
    """The one line that sums up all counts."""
    total = {kind: sum(item[kind] for item in counts) for kind in ("passed", "failed", "skipped")}
    skipped = f", {total['skipped']} skipped" if total["skipped"] else ""
    return f"{total['passed']} passed, {total['failed']} failed{skipped}"


def table(times):
    """The text of a table of (what, where, seconds), the longest first."""
    rows = sorted(times, key=lambda row: -row[2])
    width = max(len(what) for what, _, _ in rows)
    return "\n".join(f"{seconds:6.0f}  {what:{width}}  {where}".rstrip() for what, where, seconds in rows)
