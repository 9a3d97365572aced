"""The generated files are those of config.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from dotenv import dotenv_values

from config import Settings
from docs import generate


def test_generated_files_agree_with_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(["--check"]) == 0, capsys.readouterr().err


def test_check_sees_a_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    monkeypatch.setattr(generate, "ENV_EXAMPLE", tmp_path / ".env.example")
    monkeypatch.setattr(generate, "CONFIGURATION", tmp_path / "configuration.md")
    assert generate.main(["--check"]) == 1
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
    (tmp_path / ".env.example").write_text("API__PORT=1\n")
    assert generate.main(["--check"]) == 1


def test_every_setting_says_what_it_is_for() -> None:
    assert [item.name for item in generate.settings() if len(item.description) < 10] == []


def test_secrets_are_marked() -> None:
    secret = {item.name for item in generate.settings() if item.secret}
    access = {"AUTH__BOOTSTRAP_KEY", "AUTH__JWT_SECRET"}
    parts = {"DB__PASSWORD", "STORAGE__ACCESS_KEY", "STORAGE__SECRET_KEY", "REDIS__PASSWORD", "SECRETS__KEYS"}
    assert secret == parts | access


def test_env_example_uncommented_means_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        line[1:] if line.startswith("#") and not line.startswith("# ") else line
        for line in generate.env_example().splitlines()
    ]
    # Those that have no default to write stay commented out.
    unset = {item.name for item in generate.settings() if item.default is None}
    path = tmp_path / "all.env"
    path.write_text("\n".join(line for line in lines if line.partition("=")[0] not in unset))
    values = dotenv_values(path)
    assert len(values) == len(list(generate.settings())) - len(unset)
    monkeypatch.chdir(tmp_path)
    for name in values:
        monkeypatch.delenv(name, raising=False)
    assert Settings(_env_file=path) == Settings(_env_file=None)
