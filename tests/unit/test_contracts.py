"""Each import contract of pyproject.toml catches what it forbids: one violation at a time in a skeleton of the tree.

The skeleton has the modules' names and none of their code, so that a run takes milliseconds.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
PRODUCT = ("api", "models", "repositories", "services", "utils")
ONE_WAY = "Imports run one way: api, services, repositories, models, utils"
ROOMS_OF_SERVICES = "Rooms of services"
ROOMS_OF_RTSP_CAPTURE = "Rooms of rtsp_capture"
REPOSITORIES = "Repositories do not drive each other: the unit of work and services compose them"
SCHEMAS = "Wire schemas stay outside the engine"
FASTAPI = "Only api knows FastAPI"
LEAVES = "utils are leaves: no settings, no main, no demo"
MAIN = "Nobody knows main; the product does not know the demo"
BOTO3 = "Only storage_service knows boto3"
REDIS = "Only services.redis knows redis"
CV2 = "Only rtsp_capture, quality, the worker of pairs and the demo know cv2 and av"
# (contract, the module that the import is planted in, what it imports). A module that does not exist is made: a new room.
PLANTS = [
    (ONE_WAY, "services.runtime", "api.http.errors"),
    (ONE_WAY, "repositories.frames", "services.runtime"),
    (ONE_WAY, "models.values", "repositories.frames"),
    (ONE_WAY, "utils.ids", "models.values"),
    ("Rooms of api", "api.http.body", "api.endpoints.frames"),
    ("Rooms of api", "api.new_room", "api.http.body"),
    (ROOMS_OF_SERVICES, "services.storage_service.keys", "services.spool.spool"),
    (ROOMS_OF_SERVICES, "services.reads.queries", "services.cameras.registry"),
    (ROOMS_OF_SERVICES, "services.new_room", "utils.ids"),
    (ROOMS_OF_RTSP_CAPTURE, "services.rtsp_capture.timing.host_clock", "services.rtsp_capture.media.packets"),
    (ROOMS_OF_RTSP_CAPTURE, "services.rtsp_capture.new_room", "utils.ids"),
    (REPOSITORIES, "repositories.captures", "repositories.leases"),
    (REPOSITORIES, "repositories.ledger", "repositories.captures"),
    (REPOSITORIES, "repositories.new_room", "repositories.base"),
    (SCHEMAS, "services.rtsp_capture.streams.probe", "models.schemas.cameras"),
    (SCHEMAS, "services.execution.capture_runner", "models.schemas"),
    (SCHEMAS, "services.spool.spool", "models.schemas.frames"),
    (SCHEMAS, "services.storage_service.keys", "models.schemas.base"),
    ("api never touches repositories", "api.endpoints.frames", "repositories.frames"),
    (FASTAPI, "services.runtime", "fastapi"),
    (FASTAPI, "models.schemas.base", "starlette.requests"),
    (FASTAPI, "utils.ids", "uvicorn"),
    (LEAVES, "utils.ids", "config"),
    (LEAVES, "utils.ids", "demo.camera"),
    (MAIN, "services.runtime", "main"),
    (MAIN, "api.http.body", "demo.camera"),
    (BOTO3, "services.housekeeping.orphan_sweeper", "boto3"),
    (BOTO3, "demo.camera", "botocore.config"),
    (CV2, "services.upload_handler.handler", "cv2"),
    (CV2, "utils.ids", "av"),
    (REDIS, "services.access.rate_limits", "redis"),
    (REDIS, "utils.ids", "redis"),
    (ROOMS_OF_SERVICES, "services.redis.link", "services.access.rate_limits"),
]
NOTHING = ("", "", "")
# Kept in the skeleton: import-linter calls an `ignore_imports` that matches nothing stale.
_KEPT = re.compile(r"^(?:import|from) (boto3|botocore|cv2|av|redis)\b", re.MULTILINE)
_CHECK = """
import json, sys
from pathlib import Path
sys.path.insert(0, ".")
from importlinter.application.use_cases import create_report, read_user_options, _register_contract_types
from importlinter.configuration import configure
configure()
options = read_user_options("pyproject.toml")
_register_contract_types(options)
for _, module, imported in json.load(sys.stdin):
    path = Path(*module.split(".")).with_suffix(".py") if module else None
    if path is not None and not path.exists() and path.with_suffix("").is_dir():
        path = path.with_suffix("") / "__init__.py"
    before = path.read_text() if path is not None and path.exists() else None
    if path is not None:
        path.write_text((before or "") + f"import {imported}\\n")
    report = create_report(options, cache_dir=None)
    print(json.dumps([c.name for c, check in report.get_contracts_and_checks() if not check.kept]), flush=True)
    if path is not None and before is None:
        path.unlink()
    elif path is not None:
        path.write_text(before)
"""


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], list[str]]:
    """The names of the contracts that each plant breaks."""
    folder = tmp_path_factory.mktemp("skeleton")
    for package in CONFIG["root_packages"]:
        for path in (ROOT / package).rglob("*.py"):
            name = path.relative_to(ROOT)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("".join(f"import {kept}\n" for kept in _KEPT.findall(path.read_text())))
    (folder / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    plants = [NOTHING, *PLANTS]
    done = subprocess.run(
        [sys.executable, "-c", _CHECK], cwd=folder, input=json.dumps(plants), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    return dict(zip(plants, answers, strict=True))


def test_the_skeleton_keeps_every_contract(broken: dict[tuple[str, str, str], list[str]]) -> None:
    assert broken[NOTHING] == []


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: f"{plant[1]} -> {plant[2]}")
def test_a_violation_is_caught(broken: dict[tuple[str, str, str], list[str]], plant: tuple[str, str, str]) -> None:
    assert plant[0] in broken[plant]


def test_every_contract_has_a_plant() -> None:
    assert {contract["name"] for contract in CONFIG["contracts"]} == {contract for contract, _, _ in PLANTS}


def test_every_module_that_a_plant_names_is_there() -> None:
    named = {name for _, module, imported in PLANTS for name in (module, imported) if "new_room" not in module}
    ours = [name for name in named if name.partition(".")[0] in CONFIG["root_packages"]]
    for name in ours:
        path = Path(ROOT, *name.split("."))
        assert path.is_dir() or path.with_suffix(".py").exists(), name


def product_files() -> list[Path]:
    product = [path for name in PRODUCT for path in (ROOT / name).rglob("*.py") if "versions" not in path.parts]
    return [*product, ROOT / "config.py", ROOT / "main.py"]


def test_a_long_module_says_why() -> None:
    long = [path for path in product_files() if path.read_text().count("\n") > 250]
    silent = [
        path for path in long if "Longer than 250 lines: " not in (ast.get_docstring(ast.parse(path.read_text())) or "")
    ]
    assert long
    assert silent == []


def test_one_name_is_one_class() -> None:
    """In the product, but for a table's row and what the API shows of it, which bear the name of what they are."""
    found: dict[str, list[str]] = {}
    for path in product_files():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(path.relative_to(ROOT).as_posix())
    twice = {
        name: places for name, places in found.items()
        if len(places) > 1 and [str(Path(place).parent) for place in sorted(places)] != ["models/entities", "models/schemas"]
    }  # fmt: skip
    assert not twice
