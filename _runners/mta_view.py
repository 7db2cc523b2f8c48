"""
What ``mta_status.report`` says of all mail servers, as a table, a page and metrics: functions over data.

A minion is not trusted with what it says: every value is brought to its type and to printable text before it is
shown anywhere.
"""

import html as markup
import time

# How a cell is meant to be looked at.
GOOD, WARNING, BAD = "good", "warning", "bad"
FEW_DAYS = 14
LONGEST = 300

STYLE = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { margin: 2rem; }
h1 { font-size: 1.3rem; margin: 0 0 .2rem; }
p.when { margin: 0 0 1rem; opacity: .7; }
ul.sum { list-style: none; display: flex; flex-wrap: wrap; gap: .6rem; margin: 0 0 1.2rem; padding: 0; }
ul.sum li { border: 1px solid #8884; border-radius: .5rem; padding: .4rem .8rem; }
ul.sum b { font-size: 1.25rem; margin-right: .35rem; }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { text-align: left; padding: .35rem .7rem; border-bottom: 1px solid #8884; vertical-align: top; }
th { font-size: .8rem; text-transform: uppercase; letter-spacing: .04em; opacity: .75; }
td { white-space: nowrap; }
td.note { white-space: normal; font-size: .9rem; }
.good::before { content: "●  "; color: #2a9d4a; }
.warning::before { content: "▲  "; color: #c98a00; }
.bad::before { content: "■  "; color: #d33; }
.bad { font-weight: 600; }
"""


def collect(answers, silent, now):
    """
    Bring what minions said to one shape.

    answers (dict)
        Minion id to what ``mta_status.report`` returned.

    silent (list of str)
        Ids of minions that did not answer.

    now (float)
        Unix time.

    Returns ``time``, ``minions`` (id to its row), ``silent``, ``failed`` (id to what went wrong) and ``without``
    (ids of minions that do not have the formula).

    CLI Example:

    .. code-block:: bash

        salt-run mta_view.collect '{}' '[]' 1800000000
    """
    view = {"time": int(now), "minions": {}, "silent": sorted(map(_text, silent)), "failed": {}, "without": []}
    for minion in sorted(answers):
        answer, name = answers[minion], _text(minion)
        if isinstance(answer, dict):
            view["minions"][name] = _row(answer)
        elif isinstance(answer, str) and "is not available" in answer:
            view["without"].append(name)
        elif answer is not None:
            view["failed"][name] = _text(answer)
    return view


def _text(value, longest=LONGEST):
    """One line of printable text, or ``None``."""
    if value is None:
        return None
    value = " ".join(str(value).split())
    return "".join(char if char.isprintable() else "?" for char in value)[:longest]


def _number(value):
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _flag(value):
    return value if isinstance(value, bool) else None


def _texts(value):
    return [_text(item) for item in value[:50]] if isinstance(value, list) else None


def _row(said):
    queue = said.get("queue") if isinstance(said.get("queue"), dict) else {}
    applied = said.get("last_apply") if isinstance(said.get("last_apply"), dict) else {}
    errors = said.get("errors") if isinstance(said.get("errors"), dict) else {}
    return {
        **{name: _text(said.get(name)) for name in ("fqdn", "postfix", "revision", "profile")},
        **{name: _flag(said.get(name)) for name in ("running", "answers", "auth")},
        **{name: _number(said.get(name)) for name in ("certificate_expires", "certificate_days")},
        "queue": {_text(name): _number(size) for name, size in sorted(queue.items())},
        **{name: _texts(said.get(name)) for name in ("drift", "conditions")},
        "last_apply": {
            "result": _flag(applied.get("result")),
            "time": _number(applied.get("time")),
            "failed": _texts(applied.get("failed")) or [],
        },
        "problems": _texts(said.get("problems")) or [],
        "errors": {_text(part): _text(why) for part, why in sorted(errors.items())},
    }


# -- what people see ---------------------------------------------------------------------------


def _ago(seconds):
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit} ago"
    return f"{int(seconds)} s ago"


def _yes(value, otherwise=BAD):
    if value is None:
        return "-", None
    return ("yes", GOOD) if value else ("NO", otherwise)


def _days(row):
    days = row["certificate_days"]
    if days is None:
        return "?" if "certificate_expires" in row["errors"] else "-", None
    return f"{days} d", BAD if days < 0 else WARNING if days < FEW_DAYS else GOOD


def _answers(row):
    if row["running"] is False:
        return "down", BAD
    return _yes(row["answers"])


def _auth(row):
    return _yes(row["auth"])


def _queue(row):
    total = row["queue"].get("total")
    return "-" if total is None else str(total), None


def _drift(row):
    if row["drift"] is None:
        return "-", None
    names = ", ".join(path.rpartition("/")[2] for path in row["drift"])
    return (names, WARNING) if names else ("none", GOOD)


def _last_apply(row, now):
    applied = row["last_apply"]
    if applied["time"] is None:
        return "-", None
    ago = _ago(max(0, now - applied["time"]))
    return (f"FAILED {ago}", BAD) if applied["result"] is False else (ago, GOOD)


def _conditions(row):
    if row["conditions"] is None:
        return "-", None
    return (", ".join(row["conditions"]), WARNING) if row["conditions"] else ("none", GOOD)


def _table(view):
    """The heading, and the rows of ``(text, level or None)``; those that do not answer are rows, too."""
    heading = ["minion", "FQDN", "Postfix", "formula", "profile", "certificate", "answers", "AUTH", "queue"]
    heading += ["drift", "last apply", "conditions"]
    rows = {}
    for minion, row in view["minions"].items():
        plain = [(row[name] or "-", None) for name in ("fqdn", "postfix", "revision", "profile")]
        cells = [_days(row), _answers(row), _auth(row), _queue(row), _drift(row)]
        rows[minion] = [(minion, None), *plain, *cells, _last_apply(row, view["time"]), _conditions(row)]
    blank = [("", None)] * (len(heading) - 2)
    rows.update({minion: [(minion, None), ("DOES NOT ANSWER", BAD), *blank] for minion in view["silent"]})
    rows.update({minion: [(minion, None), ("FAILED", BAD), *blank] for minion in view["failed"]})
    return heading, [rows[minion] for minion in sorted(rows)]


def _notes(view):
    """What does not fit into a cell: ``(minion, text)``."""
    for minion, row in view["minions"].items():
        if row["last_apply"]["result"] is False:
            yield minion, f"the last apply failed: {', '.join(row['last_apply']['failed'])}"
        for problem in row["problems"]:
            yield minion, problem
        for part, why in row["errors"].items():
            yield minion, f"{part}: {why}"
    yield from view["failed"].items()


def _sums(view):
    """What there is how often: ``(number, text, level)``."""
    rows = view["minions"].values()
    failing = [row for row in rows if _answers(row)[1] == BAD or row["auth"] is False]
    return [
        (len(view["minions"]), "mail servers", None),
        (len(failing), "not answering as they should", BAD if failing else GOOD),
        (len(view["silent"]), "silent minions", BAD if view["silent"] else GOOD),
        (sum(row["queue"].get("total") or 0 for row in rows), "messages in queues", None),
    ]


def _when(moment):
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(moment))


def text(view):
    """
    Return a view as a table for a terminal.

    view (dict)
        As :func:`collect` returns it.

    CLI Example:

    .. code-block:: bash

        salt-run postfix_mta.status
    """
    heading, rows = _table(view)
    lines = [[word.upper() for word in heading], *[[text for text, _ in row] for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heading))]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
    notes = [f"{minion}: {note}" for minion, note in _notes(view)]
    sums = ", ".join(f"{what}: {number}" for number, what, _ in _sums(view))
    if view["without"]:
        sums += f", minions without the formula: {len(view['without'])}"
    return "\n".join([*shown, *([""] if notes else []), *notes, "", f"{_when(view['time'])}: {sums}"]) + "\n"


def html(view):
    """
    Return a view as an HTML page that loads nothing.

    view (dict)
        As :func:`collect` returns it.

    CLI Example:

    .. code-block:: bash

        salt-run postfix_mta.status format=html path=/srv/www/mail.html
    """

    def element(tag, content, kind=None):
        return f"<{tag}{f' class={kind}' if kind else ''}>{markup.escape(str(content))}</{tag}>"

    heading, rows = _table(view)
    body = [f"<tr>{''.join(element('td', cell, level) for cell, level in row)}</tr>" for row in rows]
    sums = [
        f"<li{f' class={level}' if level else ''}><b>{number}</b>{markup.escape(what)}</li>"
        for number, what, level in _sums(view)
    ]
    notes = [f"<tr>{element('td', minion)}{element('td', note, 'note')}</tr>" for minion, note in _notes(view)]
    parts = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Mail servers</title><style>{STYLE}</style></head><body>",
        f"<h1>Mail servers</h1><p class=when>{_when(view['time'])}</p>",
        f"<ul class=sum>{''.join(sums)}</ul>",
        f"<div class=wide><table><thead><tr>{''.join(element('th', word) for word in heading)}</tr></thead>",
        f"<tbody>{''.join(body)}</tbody></table></div>",
    ]
    if notes:
        parts += ["<h1>What is wrong</h1><div class=wide><table>", *notes, "</table></div>"]
    if view["without"]:
        parts.append(element("p", f"Minions without the formula: {', '.join(view['without'])}"))
    return "\n".join([*parts, "</body></html>"]) + "\n"


# -- what a monitoring system sees -------------------------------------------------------------


def _label(value):
    """A label's value in the exposition format of Prometheus, version 0.0.4."""
    return str(value).replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def prometheus(view):
    """
    Return a view as metrics, in Prometheus' text exposition format 0.0.4.

    view (dict)
        As :func:`collect` returns it.

    What is not known of a server has no sample.

    CLI Example:

    .. code-block:: bash

        salt-run postfix_mta.status format=prometheus
    """
    metrics = {}

    def sample(name, about, value, **labels):
        if value is not None:
            words = ",".join(f'{key}="{_label(text)}"' for key, text in labels.items())
            shown = int(value) if isinstance(value, bool) else value
            metrics.setdefault((name, about), []).append(
                f"{name}{{{words}}} {shown}" if words else f"{name} {shown}"
            )

    for minion in [*view["minions"], *view["failed"], *view["silent"]]:
        about = "Whether the minion told about its mail server"
        sample("postfix_mta_up", about, minion in view["minions"], minion=minion)
    for minion, row in view["minions"].items():
        own, applied = {"minion": minion}, row["last_apply"]
        facts = {name: row[name] or "" for name in ("fqdn", "postfix", "revision", "profile")}
        sample("postfix_mta_info", "What the server is", 1, **own, **facts)
        sample("postfix_mta_running", "Whether Postfix runs", row["running"], **own)
        about = "Whether the server answers as its configuration promises"
        sample("postfix_mta_answers", about, row["answers"], **own)
        sample("postfix_mta_auth_works", "Whether AUTH works", row["auth"], **own)
        about = "When the certificate ends that ends first"
        sample("postfix_mta_certificate_expiry_timestamp_seconds", about, row["certificate_expires"], **own)
        for queue, size in row["queue"].items():
            if queue != "total":
                sample("postfix_mta_queue_files", "Files in a queue", size, **own, queue=queue)
        drift = None if row["drift"] is None else len(row["drift"])
        about = "How many of main.cf and master.cf differ from what the last apply left"
        sample("postfix_mta_drift_files", about, drift, **own)
        about = "When the last apply ended"
        sample("postfix_mta_last_apply_timestamp_seconds", about, applied["time"], **own)
        about = "Whether the last apply succeeded"
        sample("postfix_mta_last_apply_success", about, applied["result"], **own)
        for condition in row["conditions"] or []:
            sample("postfix_mta_condition", "A condition that has not ended", 1, **own, condition=condition)
    sample("postfix_mta_status_timestamp_seconds", "When all of this was gathered", view["time"])
    lines = []
    for (name, about), samples in metrics.items():
        lines += [f"# HELP {name} {about}.", f"# TYPE {name} gauge", *samples]
    return "\n".join(lines) + "\n"
