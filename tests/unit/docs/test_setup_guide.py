"""The environment file of docs/deploy.md means what it says, read as systemd reads it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from config import Settings
from docs.generate import settings
from utils.secret_box import new_key

GUIDE = (Path(__file__).resolve().parents[3] / "docs" / "deploy.md").read_text("utf-8")


def environment() -> dict[str, str]:
    """systemd's EnvironmentFile: a line that begins with # is a comment; what follows = is the value, to the line's end."""
    (block,) = re.findall(r"```sh\n(ENVIRONMENT=production\n.*?)```", GUIDE, re.DOTALL)
    lines = [line for line in block.splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def test_the_production_settings_start(monkeypatch: pytest.MonkeyPatch) -> None:
    found = environment()
    assert found.keys() <= {item.name for item in settings()}
    assert not [name for name, value in found.items() if "#" in value or value != value.strip()]
    for name, value in (found | {"SECRETS__KEYS": f'["{new_key()}"]'}).items():
        monkeypatch.setenv(name, value)
    assert Settings(_env_file=None).start_refusals() == []
