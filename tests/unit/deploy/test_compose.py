"""The compose files, as Docker Compose itself reads them: what a profile starts, as whom, with which rights and settings."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from config import Settings
from docs.generate import settings as all_settings
from tests.kits.deploy_tools import ALONE, ROOT, compose, composed, new_env, program

ALWAYS = {"service", "postgres", "s3", "s3-user", "s3-owner"}
SCALE = {"api", "worker-1", "worker-2", "worker-3", "redis"}
TLS = {"proxy", "proxy-owner"}
MONITORING = {"prometheus", "grafana"}
PROCESSES = ("service", "api", "worker-1", "worker-2", "worker-3")  # of the image of this repository
OWNERS = {"s3-owner", "proxy-owner"}
ONCE = {"s3-user", *OWNERS}  # run at the start and end
SEAWEEDFS = ("docker-compose.yml", "deploy/compose.seaweedfs.yml")
# What compose sets whatever `.env` says: where the containers are, and what a container itself decides.
PINNED = {
    "ENVIRONMENT", "DATA_DIR", "API__HOST", "API__PORT", "API__PROCESSES", "API__SHUTDOWN_TIMEOUT", "API__TRUSTED_PROXIES",
    "WORKERS__PROCESSES", "DB__HOST", "DB__PORT", "DB__SSL", "STORAGE__ENDPOINT", "STORAGE__ALLOW_HTTP", "REDIS__PORT",
    "REDIS__ALLOW_PLAIN",
}  # fmt: skip


@pytest.fixture(scope="module")
def dotenv() -> dict[str, str]:
    return new_env("ingest.example.com", "frames.example.com")


@pytest.fixture(scope="module", params=[("docker-compose.yml",), SEAWEEDFS], ids=["minio", "seaweedfs"])
def everything(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, dotenv: dict[str, str]
) -> dict[str, Any]:
    found = composed(tmp_path_factory.mktemp("all"), dotenv, "*", files=request.param)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    ("profiles", "more"),
    [((), set()), (("tls",), TLS), (("scale",), SCALE), (("monitoring",), MONITORING),
     (("tls", "scale", "monitoring"), TLS | SCALE | MONITORING)],
)  # fmt: skip
def test_what_a_profile_starts(tmp_path: Path, profiles: tuple[str, ...], more: set[str]) -> None:
    assert composed(tmp_path, new_env(), *profiles)["services"].keys() == ALWAYS | more


def test_names_ask_for_the_proxy(tmp_path: Path, dotenv: dict[str, str]) -> None:
    assert composed(tmp_path, dotenv)["services"].keys() == ALWAYS | TLS


def test_every_container_is_held(everything: dict[str, Any]) -> None:
    """Bounded, without rights, not root, on a file system that it cannot write; healthy or not, and its log ends."""
    for name, part in everything["services"].items():
        assert int(part["mem_limit"]) > 0, name
        assert part["pids_limit"], name
        assert part["read_only"] is True, name
        assert part["cap_drop"] == ["ALL"], name
        assert part["security_opt"] == ["no-new-privileges:true"], name
        assert part["logging"]["options"]["max-size"], name
        assert "privileged" not in part, name
        assert part["restart"] == ("no" if name in ONCE else "unless-stopped"), name
        if name in PROCESSES:  # user and health check are the image's: test_docker.py
            assert part["build"], name
            assert "user" not in part, name
            assert "healthcheck" not in part, name
            continue
        assert re.fullmatch(r"0:0" if name in OWNERS else r"[1-9]\d*:\d+", part["user"]), name
        assert name in ONCE or part["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL"), name


def test_rights_that_are_given_back(everything: dict[str, Any]) -> None:
    """Those who change an owner see no network; the proxy's is the one its program's file asks for."""
    given = {name: set(part["cap_add"]) for name, part in everything["services"].items() if "cap_add" in part}
    assert given == {"proxy": {"NET_BIND_SERVICE"}} | {name: {"CHOWN", "DAC_READ_SEARCH"} for name in OWNERS}
    assert all(everything["services"][name]["network_mode"] == "none" for name in OWNERS)


def test_only_the_proxy_is_reached_from_other_machines(everything: dict[str, Any]) -> None:
    for name, part in everything["services"].items():
        for port in part.get("ports", []):
            assert port["host_ip"] == ("0.0.0.0" if name == "proxy" else "127.0.0.1"), name
    published = {port["published"]: port["target"] for port in everything["services"]["proxy"]["ports"]}
    assert published == {"80": 8080, "443": 8443}
    for name in ("redis", *PROCESSES[1:]):
        assert "ports" not in everything["services"][name], name


def test_frames_that_are_nowhere_else_have_a_volume_each(everything: dict[str, Any]) -> None:
    spools = []
    for name in PROCESSES:
        (volume,) = everything["services"][name]["volumes"]
        assert (volume["type"], volume["target"]) == ("volume", "/data"), name
        spools.append(volume["source"])
    assert len(set(spools)) == len(PROCESSES)
    for name in ("postgres", "s3", "proxy", "prometheus", "grafana"):
        assert everything["services"][name]["volumes"], name


def test_the_start_waits_for_healthy_parts(everything: dict[str, Any]) -> None:
    services = everything["services"]
    for name in PROCESSES:
        waits = {other: how["condition"] for other, how in services[name]["depends_on"].items()}
        assert waits == {"postgres": "service_healthy", "s3-user": "service_completed_successfully"}, name
    assert services["s3-user"]["depends_on"]["s3"]["condition"] == "service_healthy"


def test_a_stop_ends_before_docker_kills(everything: dict[str, Any]) -> None:
    """API__SHUTDOWN_TIMEOUT + 5 s (api/server.py), of several processes + 10 (services/many)."""
    for name in PROCESSES:
        part = everything["services"][name]
        grace = int(part["stop_grace_period"].removesuffix("s"))
        assert grace >= float(part["environment"]["API__SHUTDOWN_TIMEOUT"]) + 15, name


def test_there_is_no_default_for_a_secret(tmp_path: Path) -> None:
    """Each is asked for by name, and where to get one is said."""
    whole = new_env()
    for name in set(whole) - {"GRAFANA_PASSWORD"}:
        done = compose(tmp_path, whole | {name: ""})
        assert done.returncode != 0
        assert f"set {name} in .env" in done.stderr


@pytest.mark.parametrize(
    ("service", "named"),
    [("grafana", "GF_SECURITY_ADMIN_PASSWORD"), ("proxy", "PUBLIC_URL"), ("proxy", "STORAGE__PUBLIC_ENDPOINT")],
)
def test_what_a_profile_needs_is_asked_for_by_its_container(everything: dict[str, Any], service: str, named: str) -> None:
    """Compose would ask for it whether or not the profile is used."""
    shell = everything["services"][service]["entrypoint"]
    (script,) = everything["services"][service]["command"]
    environment = dict.fromkeys(everything["services"][service]["environment"], "x") | {named: ""}
    done = subprocess.run(
        [*shell, script.replace("$$", "$")], env=ALONE | environment, capture_output=True, text=True, timeout=10, check=False
    )
    assert done.returncode != 0
    assert f"{named}: set " in done.stderr


def test_every_setting_in_dotenv_reaches_the_service(tmp_path: Path) -> None:
    dotenv = new_env() | {item.name: f"own-{item.name.lower()}" for item in all_settings()} | {"API__PORT": "18000"}
    reached = composed(tmp_path, dotenv)["services"]["service"]["environment"]
    assert {item.name for item in all_settings() if reached.get(item.name) != dotenv[item.name]} == PINNED


def test_the_processes_start_with_their_settings(
    everything: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    groups = {name.lower() for name in Settings.model_fields}
    for name in list(os.environ):
        if name.lower().split("__")[0] in groups:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    roles = {}
    for name in PROCESSES:
        with monkeypatch.context() as patched:
            for key, value in everything["services"][name]["environment"].items():
                patched.setenv(key, value)
            settings = Settings(_env_file=None)
            assert settings.start_refusals() == [], name
            assert settings.AUTH.MODE == "keys"
            assert settings.DB.HOST in everything["services"]
            assert settings.STORAGE.PUBLIC_ENDPOINT == "https://frames.example.com"
            roles[name] = (settings.ROLE.value, settings.API.PROCESSES, settings.REDIS.HOST)
    workers = dict.fromkeys(PROCESSES[2:], ("worker", 1, "redis"))
    assert roles == {"service": ("all", 1, ""), "api": ("api", 2, "redis"), **workers}


def test_the_service_is_not_the_stores_root(everything: dict[str, Any], dotenv: dict[str, str]) -> None:
    """`.env` reaches the service whole; these two secrets do not."""
    for name in PROCESSES:
        given = set(everything["services"][name]["environment"].values())
        assert not given & {dotenv["S3_ROOT_PASSWORD"], dotenv["GRAFANA_PASSWORD"]}, name
        assert dotenv["STORAGE__SECRET_KEY"] in given, name


def test_the_stores_user_is_made_by_a_file_that_is_there(everything: dict[str, Any]) -> None:
    part, configs = everything["services"]["s3-user"], everything["configs"]
    assert part["entrypoint"] == ["/bin/sh", "/s3-user.sh"]
    assert (part["network_mode"], part["image"]) == ("service:s3", everything["services"]["s3"]["image"])
    script = Path(configs["s3-user.sh"]["file"]).read_text("utf-8")
    used = set(re.findall(r"\$\{?([A-Z][A-Z0-9_]+)", script))
    assert used - {"MC_CONFIG_DIR", "TMPDIR"} <= part["environment"].keys()


def test_what_is_mounted_is_there_and_scripts_are_scripts(everything: dict[str, Any]) -> None:
    for name, item in everything["configs"].items():
        assert Path(item["file"]).is_file(), name
    for file in (ROOT / "deploy").glob("*.sh"):
        assert subprocess.run(["sh", "-n", file], check=False).returncode == 0, file
    for name, part in everything["services"].items():
        for word in [*(part.get("command") or []), *(part.get("entrypoint") or [])]:
            if "\n" in word or "chown" in word:
                done = subprocess.run(["sh", "-n"], input=word.replace("$$", "$"), text=True, check=False)
                assert done.returncode == 0, name


def test_redis_has_its_password_from_its_input(everything: dict[str, Any]) -> None:
    shell, flag, script = everything["services"]["redis"]["command"]
    assert (shell, flag) == ("sh", "-c")
    first, *settings = script.splitlines()
    assert first == "exec valkey-server - <<END"
    assert 'requirepass "$$REDIS__PASSWORD"' in settings


# ---- the proxy


def adapted(everything: dict[str, Any], **changed: str) -> subprocess.CompletedProcess[str]:
    environment = ALONE | everything["services"]["proxy"]["environment"] | changed
    file = everything["configs"]["Caddyfile"]["file"]
    return subprocess.run(
        [program("caddy"), "adapt", "--config", file, "--adapter", "caddyfile", "--validate"],
        env=environment | {"XDG_DATA_HOME": "/tmp/caddy-of-tests"}, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


def test_the_proxy_serves_both_names_and_hides_the_metrics(everything: dict[str, Any]) -> None:
    done = adapted(everything)
    assert done.returncode == 0, done.stderr
    (server,) = [item for item in json.loads(done.stdout)["apps"]["http"]["servers"].values() if item["listen"] == [":8443"]]
    hosts = [host for route in server["routes"] for match in route["match"] for host in match["host"]]
    assert sorted(hosts) == ["frames.example.com", "ingest.example.com"]
    assert server["protocols"] == ["h1", "h2"]
    assert '"/metrics"' in done.stdout
    assert "Formatted" not in done.stderr
    assert "not formatted" not in done.stderr


@pytest.mark.parametrize("said", ["ops@example.com", "/certs/chain.pem /certs/key.pem"])
def test_certificates_are_chosen_by_one_name(everything: dict[str, Any], said: str) -> None:
    done = adapted(everything, PROXY_TLS=said)
    if said.startswith("/"):
        assert "/certs/chain.pem: no such file" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert said in done.stdout


def test_the_service_believes_the_proxys_address_alone(everything: dict[str, Any]) -> None:
    address = everything["services"]["proxy"]["networks"]["edge"]["ipv4_address"]
    for name in PROCESSES:
        assert json.loads(everything["services"][name]["environment"]["API__TRUSTED_PROXIES"]) == [f"{address}/32"]


def test_the_proxy_asks_for_what_answers_and_for_the_store(everything: dict[str, Any]) -> None:
    """Workers serve only their health: they are not among the addresses of that name."""
    services, proxy = everything["services"], everything["services"]["proxy"]["environment"]
    answering = {
        name for name, part in services.items()
        if proxy["SERVICE_NAME"] in (part.get("networks", {}).get("edge") or {}).get("aliases", [])
    }  # fmt: skip
    assert answering == {"service", "api"}
    host, _, port = proxy["STORE_ADDRESS"].partition(":")
    assert "edge" in services[host]["networks"]
    assert port == services["service"]["environment"]["STORAGE__ENDPOINT"].rpartition(":")[2]


# ---- monitoring


def test_prometheus_finds_every_process_and_has_the_key(everything: dict[str, Any]) -> None:
    (job,) = yaml.safe_load(Path(everything["configs"]["prometheus.yml"]["file"]).read_text("utf-8"))["scrape_configs"]
    (lookup,) = job["dns_sd_configs"]
    metered = {
        name for name, part in everything["services"].items()
        if lookup["names"][0] in ((part.get("networks") or {}).get("trackshift") or {}).get("aliases", [])
    }  # fmt: skip
    assert metered == set(PROCESSES)
    part = everything["services"]["prometheus"]
    assert job["authorization"]["credentials_file"] == f"/run/secrets/{part['secrets'][0]['target']}"
    targets = {item["source"]: item["target"] for item in part["configs"]}
    assert targets["alerts.yml"] == "/etc/prometheus/alerts.yml"
    own = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text("utf-8"))["scrape_configs"][0]["job_name"]
    assert job["job_name"] == own, "alerts and dashboard name the job"


def test_grafana_finds_its_source_and_its_dashboard(everything: dict[str, Any]) -> None:
    targets = {item["source"]: item["target"] for item in everything["services"]["grafana"]["configs"]}
    read = {name: Path(item["file"]).read_text("utf-8") for name, item in everything["configs"].items()}
    (source,) = yaml.safe_load(read["grafana-datasource.yml"])["datasources"]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    assert source["url"].split("//")[1].split(":")[0] in everything["services"]
    (provider,) = yaml.safe_load(read["grafana-dashboards.yml"])["providers"]
    assert targets["grafana-dashboard.json"].rpartition("/")[0] == provider["options"]["path"]
    for name, kind in (("grafana-datasource.yml", "datasources"), ("grafana-dashboards.yml", "dashboards")):
        assert targets[name].startswith(f"/etc/grafana/provisioning/{kind}/")
    home = everything["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == targets["grafana-dashboard.json"]
