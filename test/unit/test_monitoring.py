"""What docs/monitoring has for Prometheus and Grafana fits the metrics that the status view writes."""

import json
import re
import shutil
import subprocess

import pytest
import yaml
from test_mta_view import ROW, show

from rig import REPOSITORY

pytestmark = pytest.mark.once

RULES = REPOSITORY / "docs" / "monitoring" / "prometheus-rules.yml"
DASHBOARD = REPOSITORY / "docs" / "monitoring" / "grafana.json"
METRICS = set(re.findall(r"(?m)^# TYPE (\w+)", show("prometheus", {"mail1": {**ROW, "conditions": ["queue"]}})))


def expressions():
    """Every expression of the rules and of the dashboard."""
    for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]:
        yield from (rule["expr"] for rule in group["rules"])
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        yield from (target["expr"] for target in panel["targets"])


@pytest.mark.parametrize("expression", list(expressions()))
def test_an_expression_asks_for_metrics_that_there_are(expression):
    named = set(re.findall(r"postfix_mta_\w+", expression))
    assert named and named <= METRICS


def test_every_panel_has_a_place_of_its_own():
    places = [panel["gridPos"] for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]]
    covered = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(covered) == len(set(covered))
    assert max(x for x, _ in covered) < 24


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool (Debian's package prometheus) is not installed")
def test_promtool_accepts_the_rules_and_the_metrics():
    subprocess.run(["promtool", "check", "rules", RULES], check=True)
    metrics = show("prometheus", {"mail1": {**ROW, "conditions": ["queue"]}})
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=metrics, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
