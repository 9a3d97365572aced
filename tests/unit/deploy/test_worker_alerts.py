"""The alerts of sites without a worker, on scrapes of two processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.promql import Recording, firing

RULES: dict[str, Any] = yaml.safe_load((Path(__file__).resolve().parents[3] / "deploy" / "alerts.yml").read_text("utf-8"))
EVERY = 15.0


def fired(alert: str, *scrapes: str) -> list[str]:
    """The sites that the alert names at the end of these scrapes, each 15 s long for a minute and a half."""
    recording = Recording({"job": "trackshift-ingestion", "instance": "a:8000"})
    at = 0.0
    for text in scrapes:
        for _ in range(6):
            recording.add(at, text)
            at += EVERY
    groups = [{"rules": [rule for group in RULES["groups"] for rule in group["rules"] if rule["alert"] == alert]}]
    return sorted(dict(labels)["site"] for labels in firing({"groups": groups}, recording, 0, at - EVERY, EVERY)[alert])


def workers(**sites: int) -> str:
    lines = [f'ingestion_workers{{role="worker",site="{site}"}} {count}\n' for site, count in sites.items()]
    return "# TYPE ingestion_workers gauge\n" + "".join(lines)


def test_a_site_without_a_worker() -> None:
    assert fired("IngestionSiteWithoutWorker", workers(default=1, north=0)) == ["north"]
    assert fired("IngestionSiteWithoutWorker", workers(default=1, north=2)) == []
    alone = '# TYPE ingestion_workers gauge\ningestion_workers{role="all",site="default"} 1\n'
    assert fired("IngestionSiteWithoutWorker", alone + 'ingestion_workers{role="worker",site="default"} 0\n') == []
    only_api = alone.replace('"all"', '"api"') + 'ingestion_workers{role="worker",site="default"} 0\n'
    assert fired("IngestionSiteWithoutWorker", only_api) == ["default"]


def test_captures_that_nobody_can_claim() -> None:
    text = '# TYPE ingestion_captures_unclaimable gauge\ningestion_captures_unclaimable{site="north"} {}\n'
    assert fired("IngestionCapturesUnclaimable", text.replace("{}", "3")) == ["north"]
    assert fired("IngestionCapturesUnclaimable", text.replace("{}", "0")) == []
