"""The alert rules and the dashboard ask for metrics that there are, and a page explains each alert."""

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from tests.pages import anchors, read, rows
from worker.metrics import REGISTRY

SERIES_OF_A_TYPE = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
PROMETHEUS_OWN = {"up"}


def rules() -> dict[str, dict[str, Any]]:
    [group] = yaml.safe_load(read("deploy/prometheus/alerts.yml"))["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in rules().values())
    for panel in json.loads(read("deploy/grafana/export-runs.json"))["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))


def test_every_expression_asks_for_metrics_that_there_are() -> None:
    there = {f"{each.name}{suffix}" for each in REGISTRY.collect() for suffix in SERIES_OF_A_TYPE[each.type]}
    asked = {name for each in expressions() for name in re.findall(r"\b(?:export_runs_|process_)\w+|\bup\b", each)}
    assert len(asked) > 20
    assert asked <= there | PROMETHEUS_OWN


def test_every_alert_has_its_paragraph_and_a_place_that_says_what_to_do() -> None:
    page = read("docs/OPERATIONS.md")
    explained = {row[0].strip("`"): row[1] for row in rows(page, "Alerts")}
    assert explained == {name: rule["labels"]["severity"] for name, rule in rules().items()}
    assert set(explained.values()) == {"page", "ticket"}
    for rule in rules().values():
        file, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert (file, anchor in anchors(page)) == ("docs/OPERATIONS.md", True), rule["alert"]


def test_every_alert_has_an_example_in_which_it_is_raised() -> None:
    tests = yaml.safe_load(read("deploy/prometheus/alerts_test.yml"))["tests"]
    cases = [case for test in tests for case in test.get("alert_rule_test", ())]
    raised = {case["alertname"] for case in cases if case["exp_alerts"]}
    raised |= set(re.findall(r'alertname="(\w+)"', read("deploy/prometheus/alerts_test.yml")))
    assert raised == set(rules())
