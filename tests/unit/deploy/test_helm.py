"""The Helm chart: linted and rendered by Helm's code, judged by Kubernetes' schemas, compared with what was before."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from config import Settings
from docs.generate import settings as all_settings
from tests.kits import chart
from tests.kits.deploy_tools import ROOT
from utils.secret_box import new_key

SECRET = {
    "DB__PASSWORD": "a" * 24, "STORAGE__ACCESS_KEY": "b" * 24, "STORAGE__SECRET_KEY": "c" * 24, "REDIS__PASSWORD": "d" * 24,
}  # fmt: skip


# What is refused: where in the values, what stands there, what the refusal names.
WRONG: list[tuple[str, Any, str]] = [
    ("existingSecret", "", "existingSecret"),
    ("database.host", "", "database/host"),
    ("store.endpoint", "s3.internal:9000", "store/endpoint"),
    ("ingress.host", "", "ingress/host"),
    ("sites", [], "sites"),
    ("sites", [{"name": "Monza!", "cameraNetworks": ["10.0.0.0/8"]}], "sites/0/name"),
    ("sites", [{"name": "monza"}], "cameraNetworks"),
    ("settings", {"DB__PASSWORD": "x"}, "DB__PASSWORD"),
    ("settings", {"RTSP__LINGER": 3}, "settings/RTSP__LINGER"),
    ("api.autoscale", {}, "autoscale"),
    ("auth.mode", "off", "auth/mode"),
]


def changed(path: str, value: Any) -> dict[str, Any]:
    values = chart.values("small")
    *above, last = path.split(".")
    place = values
    for key in above:
        place = place.setdefault(key, {})
    place[last] = value
    return values


MISTAKE: tuple[str, Any] = ("api.resources", {"requests": {"cpu": ["2"]}})  # which the chart's schema leaves to Kubernetes


@cache
def answers() -> list[dict[str, Any]]:
    """Of all sets of values, by one process: Helm's code takes seconds to load on a busy machine."""
    sets = [chart.values(name) for name in chart.SETS]
    wrong = [changed(path, value) for path, value, _ in WRONG]
    return chart.asked(*sets, changed(*MISTAKE), *wrong, kubernetes=chart.KUBERNETES)


def rendered(name: str) -> dict[str, Any]:
    return answers()[chart.SETS.index(name)]


@cache
def parsed(name: str) -> list[dict[str, Any]]:
    texts = rendered(name)["files"].values()
    return [thing for text in texts for thing in yaml.load_all(text, yaml.CSafeLoader) if thing]


def things(name: str, kind: str) -> dict[str, dict[str, Any]]:
    """Those of a kind, by name without the release's."""
    return {
        thing["metadata"]["name"].removeprefix("trackshift-ingestion").removeprefix("-"): thing
        for thing in parsed(name) if thing["kind"] == kind
    }  # fmt: skip


def pods(name: str) -> dict[str, dict[str, Any]]:
    owners = things(name, "Deployment") | things(name, "StatefulSet")
    return {owner: thing["spec"]["template"]["spec"] for owner, thing in owners.items()}


@pytest.mark.parametrize("name", chart.SETS)
def test_helm_has_nothing_to_say(name: str) -> None:
    assert rendered(name)["lint"] == []
    assert "error" not in rendered(name)


def test_kubernetes_takes_it_and_a_mistake_is_seen() -> None:
    """By the schemas of two versions, which allow no field that they do not know."""
    assert [rendered(name)["wrong"] for name in chart.SETS] == [[], []]
    assert [said.split(":")[0] for said in answers()[len(chart.SETS)]["wrong"]] == [
        f"{version} Deployment trackshift-ingestion-api" for version in chart.KUBERNETES
    ]


@pytest.mark.parametrize("name", chart.SETS)
def test_what_is_rendered_is_what_was(name: str) -> None:
    """What a change of a template changes is seen in the diff: python -m tests.kits.chart writes it anew."""
    assert chart.as_text(rendered(name)["files"]) == chart.kept(name).read_text("utf-8")


@pytest.mark.parametrize("index", range(len(WRONG)), ids=lambda index: WRONG[index][0])
def test_wrong_values_are_refused_by_name(index: int) -> None:
    assert WRONG[index][2] in answers()[len(chart.SETS) + 1 + index]["error"]


def environment(name: str, pod: dict[str, Any]) -> dict[str, str]:
    (container,) = pod["containers"]
    (settings,) = things(name, "ConfigMap").values()
    assert [source["configMapRef"]["name"] for source in container["envFrom"] if "configMapRef" in source] == [
        settings["metadata"]["name"]
    ]
    assert {"secretRef": {"name": "trackshift"}} in container["envFrom"]
    own = {item["name"]: item["value"] for item in container["env"]}
    data: dict[str, str] = settings["data"]
    return data | SECRET | {"SECRETS__KEYS": f'["{new_key()}"]'} | own


@pytest.mark.parametrize("name", chart.SETS)
def test_the_processes_start_with_their_settings(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    groups = {group.lower() for group in Settings.model_fields}
    for key in list(os.environ):
        if key.lower().split("__")[0] in groups:
            monkeypatch.delenv(key)
    monkeypatch.chdir(tmp_path)
    known = {item.name for item in all_settings()}
    for owner, pod in pods(name).items():
        with monkeypatch.context() as patched:
            values = environment(name, pod)
            assert values.keys() <= known
            for key, value in values.items():
                patched.setenv(key, value)
            settings = Settings(_env_file=None)
        assert settings.start_refusals() == [], owner
        assert settings.ROLE.value == ("api" if owner == "api" else "worker")
        assert owner == "api" or owner == settings.WORKERS.SITE
        stop = settings.API.SHUTDOWN_TIMEOUT + 5 + (5 if owner == "api" else 0)
        assert pod["terminationGracePeriodSeconds"] > stop, owner
        spool = settings.SPOOL.MAX_BYTES + settings.SPOOL.DISK_RESERVE
        for thing in things(name, "StatefulSet").values():
            (claim,) = thing["spec"]["volumeClaimTemplates"]
            size = claim["spec"]["resources"]["requests"]["storage"]
            assert int(size.removesuffix("Gi")) * 1024**3 > spool + settings.UPLOAD.DISK_RESERVE


def test_a_site_has_its_workers_networks_and_spools() -> None:
    sites = {site["name"]: site for site in chart.values("three-sites")["sites"]}
    sets, policies = things("three-sites", "StatefulSet"), things("three-sites", "NetworkPolicy")
    assert sets.keys() == sites.keys()
    for site, thing in sets.items():
        (claim,) = thing["spec"]["volumeClaimTemplates"]
        mounts = {
            mount["name"]: mount["mountPath"] for mount in thing["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
        }
        assert mounts[claim["metadata"]["name"]] == "/data"
        assert thing["spec"]["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
        (egress,) = policies[site]["spec"]["egress"]
        assert [block["ipBlock"]["cidr"] for block in egress["to"]] == sites[site]["cameraNetworks"]
        assert policies[site]["spec"]["podSelector"]["matchLabels"]["trackshift/site"] == site
    assert sets["imola"]["spec"]["replicas"] == 3
    assert sets["imola"]["spec"]["volumeClaimTemplates"][0]["spec"]["storageClassName"] == "local-ssd"
    assert things("three-sites", "PodDisruptionBudget").keys() == {"api", *sites}
    assert things("three-sites", "HorizontalPodAutoscaler").keys() == {"api"}
    assert things("small", "HorizontalPodAutoscaler") == {}


def selected(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


@pytest.mark.parametrize("name", chart.SETS)
def test_selectors_select(name: str) -> None:
    """Services, budgets and policies: each the pods that it is for, and no others."""
    owners = things(name, "Deployment") | things(name, "StatefulSet")
    labels = {owner: thing["spec"]["template"]["metadata"]["labels"] for owner, thing in owners.items()}
    workers = set(labels) - {"api"}
    wanted = {"api": {"api"}, "workers": workers, "": set(labels)} | {site: {site} for site in workers}
    for owner, thing in owners.items():
        assert selected(thing["spec"]["selector"]["matchLabels"], labels[owner])
    for kind in ("Service", "PodDisruptionBudget", "NetworkPolicy"):
        for target, thing in things(name, kind).items():
            selector = thing["spec"]["podSelector" if kind == "NetworkPolicy" else "selector"]
            selector = selector.get("matchLabels", selector)
            assert {owner for owner in labels if selected(selector, labels[owner])} == wanted[target], (kind, target)


@pytest.mark.parametrize("name", chart.SETS)
def test_pods_are_restricted(name: str) -> None:
    """What Kubernetes' Pod Security Standard `restricted` asks for, and a file system that is not written."""
    for owner, pod in pods(name).items():
        assert pod["securityContext"]["runAsNonRoot"] is True, owner
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        assert container["resources"]["limits"]["memory"]
        assert {probe for probe in container if probe.endswith("Probe")} == {
            "startupProbe",
            "livenessProbe",
            "readinessProbe",
        }
        assert container["livenessProbe"]["httpGet"]["path"] == "/health/live"
        assert container["readinessProbe"]["httpGet"]["path"] == "/health/ready"
        user = re.search(r"^USER (\d+):", (ROOT / "Dockerfile").read_text("utf-8"), re.MULTILINE)
        assert user is not None
        assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == int(user[1])


def test_the_alerts_are_those_of_the_repository_for_the_job_that_is_scraped() -> None:
    (rule,) = things("three-sites", "PrometheusRule").values()
    assert rule["spec"] == yaml.safe_load((ROOT / "deploy" / "alerts.yml").read_text("utf-8"))
    (monitor,) = things("three-sites", "ServiceMonitor").values()
    for service in things("three-sites", "Service").values():
        assert selected(monitor["spec"]["selector"]["matchLabels"], service["metadata"]["labels"])
        assert service["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "trackshift-ingestion"
        assert [port["name"] for port in service["spec"]["ports"]] == [monitor["spec"]["endpoints"][0]["port"]]
