"""The pages of metrics, the runbook, the alert rules and the dashboard name the metrics that exist, and all of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.metrics import MetricWrapperBase

from utils import metrics

ROOT = Path(__file__).resolve().parents[3]
ROW = re.compile(r"^\| `(ingestion_\w+)` \| (\w+) \|([^|]*)\|", re.MULTILINE)
DOCS = "".join(page.read_text("utf-8") for page in sorted((ROOT / "docs").glob("metrics*.md")))
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text("utf-8")
RULES: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "alerts.yml").read_text("utf-8"))
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy" / "grafana-dashboard.json").read_text("utf-8"))


def ours() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Each metric's exposed name, with its type and labels."""
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for item in vars(metrics).values():
        if isinstance(item, MetricWrapperBase):
            suffix = "_total" if item._type == "counter" else ""
            found[item._name + suffix] = (str(item._type), tuple(item._labelnames))
    return found


def exposed() -> set[str]:
    """Every sample name that can be asked for."""
    names = set()
    for name, (kind, _) in ours().items():
        names |= {f"{name}{end}" for end in ("_bucket", "_sum", "_count")} if kind == "histogram" else {name}
    return names | {sample.name for family in metrics.REGISTRY.collect() for sample in family.samples}


def expressions() -> list[str]:
    rules = [rule["expr"] for group in RULES["groups"] for rule in group["rules"]]
    return rules + [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]


def test_each_metric_has_a_row_with_its_type_and_labels() -> None:
    rows = {name: (kind, tuple(filter(None, labels.strip().split(", ")))) for name, kind, labels in ROW.findall(DOCS)}
    assert rows == ours()


def test_the_registry_holds_nothing_that_the_page_does_not_name() -> None:
    families = {family.name + ("_total" if family.type == "counter" else "") for family in metrics.REGISTRY.collect()}
    assert {name for name in families if f"`{name}`" not in DOCS} == set()


def test_a_page_names_each_metric_once() -> None:
    names = [name for name, _, _ in ROW.findall(DOCS)]
    assert sorted(names) == sorted(set(names))


def test_rules_and_dashboard_ask_for_metrics_that_exist() -> None:
    asked = {name for text in expressions() for name in re.findall(r"\b(?:ingestion|process|python)_\w+", text)}
    assert asked
    assert asked - exposed() == set()


def test_rules_and_dashboard_use_labels_that_exist() -> None:
    labels = {label for _, names in ours().values() for label in names} | {"instance", "job", "le"}
    for text in expressions():
        for group in re.findall(r"\bby \(([^)]*)\)", text):
            assert {name.strip() for name in group.split(",")} <= labels, text
        for selector in re.findall(r"\{([^}]*)\}", text):
            assert set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", selector)) <= labels, text


def test_every_alert_has_its_section_in_the_runbook() -> None:
    alerts = {rule["alert"] for group in RULES["groups"] for rule in group["rules"]}
    sections = dict(re.findall(r"^## (Ingestion\w+)\n(.*?)(?=^## )", RUNBOOK, re.MULTILINE | re.DOTALL))
    assert alerts == sections.keys()
    severities = {rule["alert"]: rule["labels"]["severity"] for group in RULES["groups"] for rule in group["rules"]}
    assert severities == dict(re.findall(r"^\| \[`(Ingestion\w+)`\]\([^)]*\) \| (\w+) \|", RUNBOOK, re.MULTILINE))
    for alert, text in sections.items():
        for part in ("**Means:**", "**Look", "do:**"):
            assert part.lower() in text.lower(), f"{alert}: {part}"


def test_every_metric_of_ours_is_on_the_dashboard() -> None:
    text = "\n".join(target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", []))
    assert {name for name in ours() if name not in text} == set()
