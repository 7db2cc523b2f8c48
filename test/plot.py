#!/usr/bin/env python3
"""
Draw docs/costs.svg from docs/costs.json: what an apply costs by size, by fleet, and beside other tools.

    python3 test/plot.py

``bin/test sizes``, ``scale`` and ``peers`` write their figures there with ``--out docs/costs.json``, and draw.
"""

import datetime
import html
import json
import pathlib

FIGURES = pathlib.Path(__file__).parents[1] / "docs" / "costs.json"
WIDTH, LEFT, RIGHT = 880, 290, 70
BAR, GAP = 14, 5
SERIES = {"Salt itself: one test.nop": "salt", "nothing to change": "ours", "one change": "change"}
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-size: 16px; font-weight: 600 }
.note { fill: #59636e; font-size: 12px }
.axis { stroke: #d1d9e0; fill: none }
.salt { fill: #818b98; stroke: #818b98 }
.ours { fill: #0969da; stroke: #0969da }
.change { fill: #bc4c00; stroke: #bc4c00 }
polyline { fill: none !important; stroke-width: 2 }
@media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc }
    .note { fill: #9198a1 }
    .axis { stroke: #3d444d }
    .salt { fill: #9198a1; stroke: #9198a1 }
    .ours { fill: #4493f8; stroke: #4493f8 }
    .change { fill: #f0883e; stroke: #f0883e }
}
"""


def keep(path, part, figures):
    """Put figures into a file of them (``None``: nowhere), and draw what is beside it."""
    if path is None:
        return
    path = pathlib.Path(path)
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    known[part] = {**known.get(part, {}), **rounded({"on": datetime.date.today().isoformat(), **figures})}
    path.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".svg").write_text(draw(known), encoding="utf-8")


def rounded(value):
    """The same with numbers to three digits after the point."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(one) for one in value]
    return round(value, 3) if isinstance(value, float) else value


def text(x, y, words, name="", anchor="start"):
    """A line of text."""
    return f'<text x="{x:g}" y="{y:g}" class="{name}" text-anchor="{anchor}">{html.escape(words)}</text>'


def bars(top, title, groups):
    """
    Horizontal bars below each other; their elements, and where they end.

    groups: name to {series: CPU seconds}.
    """
    found, y = [text(0, top + 16, title, "title")], top + 34
    most = max(value for row in groups.values() for value in row.values())
    for name, row in groups.items():
        found.append(text(LEFT - 10, y + BAR * len(row) / 2 + 4, name, anchor="end"))
        for series, value in row.items():
            width = max(1, value / most * (WIDTH - LEFT - RIGHT))
            found.append(f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR - 2}" class="{series}"/>')
            found.append(text(LEFT + width + 6, y + BAR - 3, f"{value:.2f} s", "note"))
            y += BAR
        y += GAP
    return found, y + 24


def lines(top, title, numbers, series):
    """Lines over a number of minions; their elements, and where they end. series: class to values."""
    height, base = 180, top + 34 + 180
    most = max(max(values) for values in series.values())

    def place(number, value):
        across = LEFT + number / max(numbers) * (WIDTH - LEFT - RIGHT)
        return f"{across:.1f},{base - value / most * height:.1f}"

    found = [text(0, top + 16, title, "title")]
    found.append(f'<path class="axis" d="M{LEFT} {base - height}V{base}H{WIDTH - RIGHT}"/>')
    for name, values in series.items():
        points = " ".join(place(*point) for point in zip(numbers, values))
        found.append(f'<polyline class="{name}" points="{points}"/>')
        across, down = map(float, place(numbers[-1], values[-1]).split(","))
        # Those of two lines that end beside each other are not one upon the other.
        found.append(text(across + 6, down + (12 if name == "salt" else 0), f"{values[-1]:.2f} s", "note"))
    for number in numbers:
        across = float(place(number, 0).split(",")[0])
        found.append(text(across, base + 16, str(number), "note", "middle"))
    found.append(text(LEFT - 10, base + 16, "minions", "note", "end"))
    return found, base + 44


def legend(top):
    """What the colours mean."""
    found, x = [], LEFT
    for words, name in SERIES.items():
        found.append(f'<rect x="{x}" y="{top + 4}" width="12" height="12" class="{name}"/>')
        found.append(text(x + 18, top + 15, words))
        x += 200
    return found, top + 40


def draw(figures):
    """The picture, as SVG."""
    found, top = legend(0)
    panels = []
    if "sizes" in figures:
        groups = {}
        for one in (one for one in figures["sizes"].values() if isinstance(one, dict)):
            for share, row in zip(("half of ", ""), one["rows"]):
                taken = (row[column][0] for column in ("reference", "nothing", "change"))
                groups[share + one["title"]] = dict(zip(SERIES.values(), taken))
        panels.append((bars, "By size: CPU seconds of an apply, masterless", groups))
    if "fleet" in figures:
        fleet = figures["fleet"]
        series = {"salt": fleet["reference"], "ours": fleet["ours"]}
        panels.append((lines, "By fleet: CPU seconds of the master for an apply of all", fleet["minions"], series))
    if "peers" in figures:
        rows = {name: row for name, row in figures["peers"].items() if isinstance(row, list)}
        groups = {name: {"salt" if name == "one test.nop" else "ours": row[0]} for name, row in rows.items()}
        panels.append((bars, "Beside other tools: CPU seconds with nothing to change, masterless", groups))
    for function, *arguments in panels:
        elements, top = function(top, *arguments)
        found += elements
    body = "\n".join(found)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top:g}" role="img" '
        f'aria-label="What an apply costs">\n<style>{STYLE}</style>\n{body}\n</svg>\n'
    )


if __name__ == "__main__":
    FIGURES.with_suffix(".svg").write_text(draw(json.loads(FIGURES.read_text(encoding="utf-8"))), encoding="utf-8")
