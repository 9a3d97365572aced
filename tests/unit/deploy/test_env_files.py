"""Settings on their way: systemd's EnvironmentFile, the guide's block; the S3 policy."""

from __future__ import annotations

import io
import json
import os
import re
from pathlib import Path

import pytest
import yaml
from dotenv import dotenv_values

from config import Settings
from docs.generate import env_example
from docs.generate import settings as all_settings
from utils.secret_box import new_key

ROOT = Path(__file__).resolve().parents[3]
GUIDE = (ROOT / "docs" / "hosts.md").read_text("utf-8")


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    groups = {name.lower() for name in Settings.model_fields}
    for name in list(os.environ):
        if name.lower().split("__")[0] in groups:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def systemd(text: str) -> dict[str, str]:
    """As systemd reads an EnvironmentFile: comments are whole lines; a value is quoted as a whole or not at all."""
    found = {}
    for line in re.sub(r"\\\n", "", text).splitlines():
        line = line.strip()
        if not line or line[0] in "#;":
            continue
        name, _, value = line.partition("=")
        quoted = re.fullmatch(r"""'([^']*)'|"((?:[^"\\]|\\.)*)\"""", value.strip())
        found[name.strip()] = (quoted[1] or quoted[2] or "") if quoted else re.sub(r"\\(.)", r"\1", value.strip())
    return found


def test_systemd_takes_every_setting_as_it_is_generated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line of .env.example uncommented, those without a value too."""
    text = re.sub(r"^#(\w+=)", r"\1", env_example(), flags=re.MULTILINE)
    values = systemd(text)
    assert set(values) == {item.name for item in all_settings()}
    assert values == {name: value or "" for name, value in dotenv_values(stream=io.StringIO(text)).items()}
    default = Settings()
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    assert Settings().model_dump() == default.model_dump()


def test_the_guides_environment_file_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    block = re.search(r"```\w*\n(ENVIRONMENT=production\n.*?)```", GUIDE, re.DOTALL)
    assert block is not None
    values = systemd(block[1])
    assert [value for value in values.values() if "#" in value] == []
    assert values == dotenv_values(stream=io.StringIO(block[1])), "systemd and .env read the same"
    values["SECRETS__KEYS"] = f'["{new_key()}"]'
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.start_refusals() == []
    assert str(settings.DATA_DIR) == "/var/lib/trackshift"
    assert settings.RTSP.ALLOWED_NETWORKS == ["10.20.0.0/16"]


def test_the_comment_that_systemd_would_take_for_a_value_is_seen() -> None:
    assert systemd("A=1   # one\n") == {"A": "1   # one"}


def test_the_policy_is_one_bucket_and_no_more() -> None:
    policy = json.loads((ROOT / "deploy" / "s3-policy.json").read_text("utf-8"))
    assert {resource for part in policy["Statement"] for resource in part["Resource"]} == {
        "arn:aws:s3:::BUCKET", "arn:aws:s3:::BUCKET/*"
    }  # fmt: skip
    actions = {action for part in policy["Statement"] for action in part["Action"]}
    assert not [action for action in actions if "*" in action]
    assert "deploy/s3-policy.json" in GUIDE
    for action in actions:
        assert f"`{action}`" in GUIDE, f"the guide says what {action} is for"


def test_prometheus_shows_its_key() -> None:
    """/metrics needs a credential once access is on."""
    (job,) = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text("utf-8"))["scrape_configs"]
    assert job["authorization"]["credentials_file"] == "/etc/prometheus/trackshift.key"
    assert "> /etc/prometheus/trackshift.key" in (ROOT / "docs" / "deploy.md").read_text("utf-8")
