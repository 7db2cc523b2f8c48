"""The picture of docs/costs.md is that of the figures beside it."""

import json
import pathlib
import sys
import xml.etree.ElementTree

import pytest

TEST = pathlib.Path(__file__).parents[1]
DOCS = TEST.parent / "docs"


@pytest.fixture
def plot(monkeypatch):
    monkeypatch.syspath_prepend(str(TEST))
    import plot

    yield plot
    sys.modules.pop("plot")


def test_the_picture_is_that_of_the_figures(plot):
    figures = json.loads((DOCS / "costs.json").read_text(encoding="utf-8"))
    assert (DOCS / "costs.svg").read_text(encoding="utf-8") == plot.draw(figures)


def test_the_picture_has_each_figure_and_colours_for_dark_pages(plot):
    row = {
        column: [seconds, 1, 1] for column, seconds in (("reference", 1.25), ("nothing", 1.5), ("change", 2.75))
    }
    figures = {
        "sizes": {"on": "2026-01-01", "aliases": {"title": "5,000 aliases", "rows": [row, row]}},
        "fleet": {"minions": [5, 10], "reference": [0.5, 1.1], "ours": [0.6, 1.2]},
        "peers": {"on": "2026-01-01", "one test.nop": [0.7, 1, 1], "A & B": [7.77, 1, 1]},
    }
    picture = plot.draw(figures)
    texts = [one.text for one in xml.etree.ElementTree.fromstring(picture).iter() if one.tag.endswith("text")]
    assert {"half of 5,000 aliases", "5,000 aliases", "1.25 s", "1.50 s", "2.75 s", "A & B", "7.77 s"} <= {*texts}
    assert {"5", "10", "1.10 s", "1.20 s"} <= {*texts}
    assert "prefers-color-scheme: dark" in picture


def test_figures_are_kept_beside_those_of_other_scripts(plot, tmp_path):
    path = tmp_path / "costs.json"
    plot.keep(path, "peers", {"one test.nop": [1.23456, 1, 1]})
    plot.keep(path, "fleet", {"minions": [5], "reference": [0.5], "ours": [0.6]})
    known = json.loads(path.read_text(encoding="utf-8"))
    assert known["peers"]["one test.nop"] == [1.235, 1, 1]
    assert known["fleet"]["ours"] == [0.6]
    assert (tmp_path / "costs.svg").read_text(encoding="utf-8") == plot.draw(known)
