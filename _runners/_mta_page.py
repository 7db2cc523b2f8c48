"""
The page of the view: a Jinja template, in which every value is escaped.

It is not a file of its own because ``saltutil.sync_runners`` brings Python files only, and what the file server
has may be that of another environment, or of another revision than the runner until the runners are synced again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Optional

import jinja2

# A text, and how it is meant to be looked at: good, warning, bad.
Cell = tuple[str, Optional[str]]
# How often there is what, and how that is meant to be looked at.
Sum = tuple[int, str, Optional[str]]

TEMPLATE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Mail servers</title>
<style>
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
</style>
</head>
<body>
<h1>Mail servers</h1>
<p class="when">{{ when }}</p>
<ul class="sum">
{%- for number, what, level in sums %}
<li{% if level %} class="{{ level }}"{% endif %}><b>{{ number }}</b>{{ what }}</li>
{%- endfor %}
</ul>
<div class="wide">
<table>
<thead><tr>{% for word in heading %}<th>{{ word }}</th>{% endfor %}</tr></thead>
<tbody>
{%- for row in rows %}
<tr>{% for text, level in row %}<td{% if level %} class="{{ level }}"{% endif %}>{{ text }}</td>{% endfor %}</tr>
{%- endfor %}
</tbody>
</table>
</div>
{%- if notes %}
<h1>What is wrong</h1>
<div class="wide">
<table>
{%- for minion, note in notes %}
<tr><td>{{ minion }}</td><td class="note">{{ note }}</td></tr>
{%- endfor %}
</table>
</div>
{%- endif %}
{%- if without %}
<p>Minions without the formula: {{ without | join(", ") }}</p>
{%- endif %}
</body>
</html>
"""


def render(
    when: str,
    sums: Iterable[Sum],
    heading: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    notes: Sequence[tuple[str, str]],
    without: Sequence[str],
) -> str:
    """Return the page; it loads nothing."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(TEMPLATE).render(
        when=when, sums=sums, heading=heading, rows=rows, notes=notes, without=without
    )
