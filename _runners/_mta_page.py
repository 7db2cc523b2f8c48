"""
The page of the view: a Jinja template, in which every value is escaped.

It is not a file of its own because ``saltutil.sync_runners`` brings Python files only, and what the file server
has may be that of another environment, or of another revision than the runner until the runners are synced again.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Optional

import jinja2
import markupsafe

# A text, and how it is meant to be looked at: good, warning, bad.
Cell = tuple[str, Optional[str]]
# How often there is what, and how that is meant to be looked at.
Sum = tuple[int, str, Optional[str]]
# The small line: how wide a mark is, how high the ticks below it are, and where the queue's line has room.
WIDTH = 2
TICKS = {"good": 2, "warning": 4, "bad": 7}
TOP, BOTTOM, HEIGHT = 1, 13, 22
# A queue of so many messages is at least needed to fill the height; the scale is logarithmic.
HIGH = 100


class Line(NamedTuple):
    """
    What was seen of a server in the last days.

    words
        The same for those who do not see it.

    length
        How many marks there may be.

    ticks, queue
        Place of a mark, and how it is meant to be looked at; and the number of messages. In order.
    """

    words: str
    length: int
    ticks: Sequence[tuple[int, str]]
    queue: Sequence[tuple[int, int]]


class Row(NamedTuple):
    """A server: the first cell is its FQDN, or says why nothing else is known of it."""

    minion: str
    first: Cell
    cells: Sequence[Cell]
    line: Line | None

    @property
    def bad(self) -> bool:
        """Whether something is wrong with it."""
        return any(level == "bad" for _, level in (self.first, *self.cells))


class Tick(NamedTuple):
    """A rectangle below the line, for marks beside each other that are alike."""

    x: int
    y: int
    width: int
    height: int
    level: str


# Makes the columns sort. The page is complete without it; the policy lets no other script run.
SCRIPT = """
"use strict";
const units = {s: 1, min: 60, h: 3600, d: 86400};
function value(row, column) {
  const text = row.cells[column] ? row.cells[column].textContent.trim() : "";
  const number = text.replace(/^FAILED /, "").match(/^(-?[0-9.]+) ?(s|min|h|d)?( ago)?$/);
  return number ? Number(number[1]) * (units[number[2]] || 1) : text;
}
function compare(one, other) {
  const numbers = typeof one === "number" && typeof other === "number";
  return numbers ? one - other : String(one).localeCompare(String(other));
}
for (const head of document.querySelectorAll("thead th:not(.line)")) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = head.textContent;
  head.replaceChildren(button);
  button.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    const body = head.closest("table").tBodies[0];
    const rows = [...body.rows].sort((a, b) => compare(value(a, head.cellIndex), value(b, head.cellIndex)));
    body.append(...(up ? rows : rows.reverse()));
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
  });
}
"""
HASH = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{HASH}'"

TEMPLATE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Mail servers</title>
<style>
:root { color-scheme: light dark; font: 14px/1.45 system-ui, sans-serif;
  --text: #1b1f24; --back: #fff; --soft: #59626d; --line: #d4d9df;
  --good: #18713a; --warning: #8a5a00; --bad: #b3261e; --bad-back: #fdecea; }
@media (prefers-color-scheme: dark) { :root {
  --text: #e6e9ed; --back: #15181c; --soft: #a3adb8; --line: #363c44;
  --good: #5fd08a; --warning: #f0b84a; --bad: #ff8a80; --bad-back: #3a1f1d; } }
body { margin: 1.5rem; color: var(--text); background: var(--back); }
h1 { font-size: 1.4rem; margin: 0 0 .2rem; }
h2 { font-size: 1.1rem; margin: 1.8rem 0 .4rem; }
p.when, p.without { margin: 0 0 1rem; color: var(--soft); }
ul.sum { list-style: none; display: flex; flex-wrap: wrap; gap: .6rem; margin: 0 0 1.2rem; padding: 0; }
ul.sum li { border: 1px solid var(--line); border-radius: .5rem; padding: .4rem .8rem; }
ul.sum b { font-size: 1.25rem; margin-right: .35rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .35rem .5rem; border-bottom: 1px solid var(--line); vertical-align: top; }
td { overflow-wrap: break-word; min-width: 3.2em; }
table.notes td, p.without, tbody th { overflow-wrap: anywhere; }
tbody th { min-width: 11em; }
tbody th small { display: block; font-weight: 400; color: var(--soft); }
thead th { font-size: .78rem; color: var(--soft); white-space: nowrap; }
thead button { all: unset; cursor: pointer; }
thead button:focus-visible { outline: 2px solid currentColor; }
th[aria-sort=ascending]::after { content: " \\2191"; }
th[aria-sort=descending]::after { content: " \\2193"; }
tr.bad { background: var(--bad-back); }
tbody th { font-weight: 600; }
.good::before { content: "\\25cf  "; color: var(--good); }
.warning::before { content: "\\25b2  "; color: var(--warning); }
td.bad::before, li.bad::before { content: "\\25a0  "; color: var(--bad); }
td.bad, li.bad { font-weight: 600; }
svg { display: block; }
svg path { fill: none; stroke: var(--soft); }
svg .good { fill: var(--good); }
svg .warning { fill: var(--warning); }
svg .bad { fill: var(--bad); }
@media (max-width: 60rem) {
  table.servers thead { position: absolute; clip-path: inset(50%); }
  table.servers tr { display: block; border: 1px solid var(--line); border-radius: .5rem; margin: 0 0 .8rem; }
  table.servers th, table.servers td { display: flex; gap: .4rem; border: 0; padding: .2rem .7rem; }
  table.servers td[data-label]::after { content: attr(data-label); order: -1; flex: 0 0 7em; color: var(--soft);
    font-weight: 400; }
  table.servers td:empty { display: none; }
}
</style>
</head>
<body>
<main>
<h1>Mail servers</h1>
<p class="when">{{ when }}</p>
<ul class="sum">
{%- for number, what, level in sums %}
<li{% if level %} class="{{ level }}"{% endif %}><b>{{ number }}</b>{{ what }}</li>
{%- endfor %}
</ul>
<table class="servers">
<thead><tr>
{%- for word in heading %}<th scope="col">{{ word }}</th>{% endfor %}<th scope="col" class="line">last 7 days</th>
</tr></thead>
<tbody>
{%- for row in rows %}
<tr{% if row.bad %} class="bad"{% endif %}><th scope="row">{{ row.minion }}
{%- if not row.first[1] and row.first[0] not in (row.minion, "-") %}<small>{{ row.first[0] }}</small>
{%- endif %}</th>
{%- if row.first[1] %}<td class="{{ row.first[1] }}" colspan="{{ heading | length - 1 }}">{{ row.first[0] }}</td>
{%- else %}
{%- for text, level in row.cells %}<td data-label="{{ heading[loop.index] }}"
{%- if level %} class="{{ level }}"{% endif %}>{{ text }}</td>
{%- endfor %}
{%- endif %}<td data-label="last 7 days">
{%- if row.line %}<svg role="img" width="{{ row.line.length * width }}" height="{{ height }}">
{#- #}<title>{{ row.line.words }}</title>
{%- for tick in ticks(row.line) %}<rect class="{{ tick.level }}" x="{{ tick.x }}" y="{{ tick.y }}"
{#- #} width="{{ tick.width }}" height="{{ tick.height }}"/>{% endfor %}
{%- if row.line.queue %}<path d="{{ path(row.line) }}"/>{% endif %}</svg>
{%- endif %}</td></tr>
{%- endfor %}
</tbody>
</table>
{%- if notes %}
<h2>What is wrong</h2>
<table class="notes">
<tbody>
{%- for minion, note in notes %}
<tr><th scope="row">{{ minion }}</th><td>{{ note }}</td></tr>
{%- endfor %}
</tbody>
</table>
{%- endif %}
{%- if without %}
<p class="without">Minions without the formula: {{ without | join(", ") }}</p>
{%- endif %}
</main>
<script>{{ script }}</script>
</body>
</html>
"""


def ticks(line: Line) -> Iterator[Tick]:
    """Yield the ticks below a line."""
    for level, alike in itertools.groupby(line.ticks, key=lambda tick: tick[1]):
        start = end = -1
        for place, _ in alike:
            if place != end:
                if start >= 0:
                    yield _tick(start, end, level)
                start = place
            end = place + 1
        yield _tick(start, end, level)


def _tick(start: int, end: int, level: str) -> Tick:
    height = TICKS[level]
    return Tick(start * WIDTH, HEIGHT - height, (end - start) * WIDTH, height, level)


def path(line: Line) -> str:
    """Return the queue's line, as the ``d`` of an SVG path; it has gaps where nothing was seen."""
    scale = math.log1p(max(HIGH, *(queue for _, queue in line.queue)))
    drawn, end = [], -1
    for place, queue in line.queue:
        y = round(BOTTOM - (BOTTOM - TOP) * math.log1p(max(0, queue)) / scale, 1)
        drawn.append(f"V{y}" if place == end else f"M{place * WIDTH} {y}")
        drawn.append(f"H{(place + 1) * WIDTH}")
        end = place + 1
    return "".join(drawn)


def render(
    when: str,
    sums: Iterable[Sum],
    heading: Sequence[str],
    rows: Iterable[Row],
    notes: Sequence[tuple[str, str]],
    without: Sequence[str],
) -> str:
    """
    Return the page; it loads nothing.

    heading
        Of the columns: the minion, those of ``Row.cells``.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    said = {"when": when, "sums": sums, "heading": heading, "rows": rows, "notes": notes, "without": without}
    drawing = {"ticks": ticks, "path": path, "width": WIDTH, "height": HEIGHT}
    script = markupsafe.Markup(SCRIPT)
    return environment.from_string(TEMPLATE).render(said, **drawing, policy=POLICY, script=script)
