"""What checks deploy/: the programs of build/deploy (`make deploy-tools`); compose files as Docker Compose reads them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "deploy" / "bin"
ALONE = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}  # nothing of who runs the tests


def program(name: str) -> Path:
    """A program of build/deploy. Where it cannot be had, the test is skipped; in CI that is a failure."""
    path = FOLDER / name
    if not path.exists():
        said = f"{name} is missing: `make deploy-tools` (Linux on x86_64)"
        if os.environ.get("CI"):
            pytest.fail(said)
        pytest.skip(said)
    return path


def new_env(*names: str) -> dict[str, str]:
    """What deploy/new-env.sh prints."""
    done = subprocess.run(["sh", ROOT / "deploy" / "new-env.sh", *names], capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def compose(
    folder: Path, dotenv: Mapping[str, str], *profiles: str, files: Sequence[str] = ("docker-compose.yml",)
) -> subprocess.CompletedProcess[str]:
    """`docker compose config` in a folder that has the repository's files and this `.env`; it asks no daemon."""
    for name in ("docker-compose.yml", "Dockerfile", "deploy"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in dotenv.items()))
    said = [*(f"--file={name}" for name in files), *(f"--profile={name}" for name in profiles)]
    return subprocess.run(
        [program("docker-compose"), *said, "config", "--format", "json"],
        cwd=folder, env=ALONE, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


def composed(folder: Path, dotenv: Mapping[str, str], *profiles: str, files: Sequence[str] = ("docker-compose.yml",)) -> Any:
    """The whole of what Docker Compose would start."""
    done = compose(folder, dotenv, *profiles, files=files)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
