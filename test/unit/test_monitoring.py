"""What docs/monitoring has for Prometheus and Grafana fits the metrics that the status view writes."""

import json
import re
import shutil
import subprocess

import pytest
import yaml
from test_mta_view import ROW, show

from rig import REPOSITORY

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


def dashboard():
    return json.loads(DASHBOARD.read_text(encoding="utf-8"))


def test_an_expressions_labels_are_those_of_its_metric():
    text = show("prometheus", {"mail1": {**ROW, "conditions": ["queue"]}})
    labels = {name: set() for name in METRICS}
    for name, pairs in re.findall(r"(?m)^(postfix_mta_\w+)\{(.*)\} ", text):
        labels[name] |= set(re.findall(r"(\w+)=\"", pairs))
    for expression in expressions():
        (metric, *_) = re.findall(r"postfix_mta_\w+", expression)
        named = {
            *re.findall(r"(\w+)=~?\"", expression),
            *re.findall(r"\w+", " ".join(re.findall(r"by \((.*?)\)", expression))),
        }
        assert named <= labels[metric], expression
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            (metric, *_) = re.findall(r"postfix_mta_\w+", target["expr"])
            assert set(re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", ""))) <= labels[metric]


def test_the_dashboard_is_one_that_grafana_imports():
    found = dashboard()
    assert found["title"] and found["schemaVersion"] >= 36
    assert len(found["uid"]) <= 40 and "id" not in found
    (variable,) = found["templating"]["list"]
    assert (variable["type"], variable["query"]) == ("datasource", "prometheus")
    source = {"type": "prometheus", "uid": f"${{{variable['name']}}}"}
    identifiers = [panel["id"] for panel in found["panels"]]
    assert len(set(identifiers)) == len(identifiers)
    for panel in found["panels"]:
        assert panel["type"] in ("stat", "timeseries") and panel["title"] and panel["datasource"] == source
        references = [target["refId"] for target in panel["targets"]]
        assert references and len(set(references)) == len(references)
        assert all(target["datasource"] == source for target in panel["targets"])
        steps = panel["fieldConfig"]["defaults"].get("thresholds", {"steps": [{"value": None}]})["steps"]
        # Grafana takes the first step for everything below the second.
        assert [step["value"] is None for step in steps] == [number == 0 for number in range(len(steps))]


def test_every_panel_has_a_place_of_its_own():
    places = [panel["gridPos"] for panel in dashboard()["panels"]]
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
