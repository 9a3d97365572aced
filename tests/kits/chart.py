"""The Helm chart as Helm's own code renders it. `python -m tests.kits.chart` writes anew what the tests compare it with."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.kits.deploy_tools import ROOT, program

CHART = ROOT / "deploy" / "helm"
KEPT = ROOT / "tests" / "unit" / "deploy" / "rendered"
SETS = ("small", "three-sites")
KUBERNETES = ("1.29", "1.37")  # the oldest that Chart.yaml allows, and the newest that the schemas know

# Runs in build/deploy. Reads [{"values", "kubernetes"}]; writes of each "lint", "files", "wrong" by Kubernetes, and "error".
_CODE = """
import json, sys, yaml, helm_python, kubernetes_validate
chart, answers = sys.argv[1], []
for asked in json.load(sys.stdin):
    found = {"lint": [], "files": {}, "wrong": []}
    answers.append(found)
    try:
        with helm_python.Chart.load(chart) as loaded:
            files = loaded.render(asked["values"], name="trackshift-ingestion", namespace="tracks")
        linted = helm_python.lint(chart, asked["values"], strict=True)
    except helm_python.HelmError as error:
        found["error"] = str(error)
        continue
    found["lint"] = [f"{item['path']}: {item['error']}" for item in linted["messages"] if item["severity"] > 1]
    found["files"] = {name.partition("/")[2]: text for name, text in sorted(files.items()) if name.endswith(".yaml")}
    things = [thing for text in found["files"].values() for thing in yaml.load_all(text, yaml.CSafeLoader) if thing]
    for version in asked["kubernetes"]:
        for thing in things:
            if thing["apiVersion"].startswith("monitoring.coreos.com/"):
                continue
            try:
                kubernetes_validate.validate(thing, version, strict=True)
            except Exception as error:
                found["wrong"].append(f"{version} {thing['kind']} {thing['metadata']['name']}: {error}"[:500])
json.dump(answers, sys.stdout)
"""


def asked(*values: Mapping[str, Any], kubernetes: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Of each set of values `lint`, `files`, `wrong` by Kubernetes' schemas; `error` where the chart refuses it."""
    done = subprocess.run(
        [program("python"), "-c", _CODE, CHART],
        input=json.dumps([{"values": each, "kubernetes": kubernetes} for each in values]),
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def values(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CHART / "ci" / f"{name}.yaml").read_text("utf-8"))
    return found


def as_text(files: Mapping[str, str]) -> str:
    """All files, with their names; without PrometheusRule's rules, which are deploy/alerts.yml."""
    parts = []
    for name, text in files.items():
        shown = text.partition("\n  groups:\n")[0]
        if shown.strip():
            parts.append(f"---\n# ==== {name}\n{shown.strip()}\n")
    return "".join(parts)


def kept(name: str) -> Path:
    return KEPT / f"{name}.yaml"


if __name__ == "__main__":
    for each in SETS:
        kept(each).write_text(as_text(asked(values(each))[0]["files"]), "utf-8")
        print(kept(each))
