"""docs/deploy.md, hosts.md and sites.md: environment files as systemd reads them, the proxy, the commands, curl lines."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from config import Role, Settings
from docs.generate import settings
from models.access import Scope
from models.schemas import CameraCreate
from models.schemas.access import ApiKeyCreate
from services.commands.app import app
from utils.secret_box import new_key

DOCS = Path(__file__).resolve().parents[3] / "docs"
GUIDE = (DOCS / "deploy.md").read_text("utf-8")
HOSTS = (DOCS / "hosts.md").read_text("utf-8")
SITES = (DOCS / "sites.md").read_text("utf-8")


def environment(page: str = HOSTS, first: str = "ENVIRONMENT=production") -> dict[str, str]:
    """systemd's EnvironmentFile: a line that begins with # is a comment; what follows = is the value, to the line's end."""
    (block,) = re.findall(rf"```sh\n({first}\n.*?)```", page, re.DOTALL)
    lines = [line for line in block.splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def test_the_documented_proxy_believes_no_client() -> None:
    """What tells a client's address and scheme is overwritten, and the service believes this proxy alone."""
    (proxy,) = re.findall(r"```nginx\n(.*?)```", HOSTS, re.DOTALL)
    assert re.findall(r"^\s*proxy_set_header X-Forwarded-For (\S+);", proxy, re.MULTILINE) == ["$remote_addr"]
    assert re.findall(r"^\s*proxy_set_header X-Forwarded-Proto (\S+);", proxy, re.MULTILINE) == ["https"]
    assert "proxy_add_x_forwarded_for" not in proxy
    assert environment()["API__TRUSTED_PROXIES"] == '["127.0.0.1/32"]'


def test_the_production_settings_start(monkeypatch: pytest.MonkeyPatch) -> None:
    found = environment()
    assert found.keys() <= {item.name for item in settings()}
    assert not [name for name, value in found.items() if "#" in value or value != value.strip()]
    for name, value in (found | {"SECRETS__KEYS": f'["{new_key()}"]'}).items():
        monkeypatch.setenv(name, value)
    assert Settings(_env_file=None).start_refusals() == []


@pytest.mark.parametrize(("role", "site"), [(Role.API, "default"), (Role.WORKER, "monza")])
def test_each_process_of_the_two_sites_starts(role: Role, site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = environment(SITES) | environment(SITES, f"ROLE={role}") | {"SECRETS__KEYS": f'["{new_key()}"]'}
    assert found.keys() <= {item.name for item in settings()}
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    made = Settings(_env_file=None)
    assert made.start_refusals() == []
    assert made.ROLE is role
    assert site == made.WORKERS.SITE


def commands() -> list[list[str]]:
    """The arguments of each `python -m services.commands` line, up to a comment or a redirection."""
    lines = re.findall(r"^python -m services\.commands (.*)$", GUIDE, re.MULTILINE)
    return [shlex.split(line.partition(" > ")[0], comments=True) for line in lines]


def understood(words: list[str]) -> bool:
    """Whether the command takes these arguments and options, and the scopes are scopes; it does not run."""
    scopes = [after for word, after in pairwise(words) if word == "--scope"]
    return CliRunner().invoke(app, [*words, "--help"]).exit_code == 0 and set(scopes) <= set(Scope)


def test_its_commands_are_understood() -> None:
    assert len(commands()) > 5
    assert [words for words in commands() if not understood(words)] == []
    assert not understood(["keys", "create", "x", "--scope", "frames:see"])
    assert not understood(["keys", "create", "x", "--expiry", "90"])
    assert not understood(["keys", "make", "x"])


def test_the_bodies_of_its_curl_lines_are_valid() -> None:
    camera, key = re.findall(r"-d '(\{.*\})'$", GUIDE, re.MULTILINE)
    CameraCreate.model_validate_json(camera)
    assert ApiKeyCreate.model_validate_json(key).cameras == [CameraCreate.model_validate_json(camera).camera_id]
