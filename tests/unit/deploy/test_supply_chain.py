"""What comes from outside is named by its bytes: packages by hashes, images by digests; licences are those we allow."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from deploy.audit import judged
from deploy.licences import ALLOWED, refused, spdx

ROOT = Path(__file__).resolve().parents[3]
LOCKED = sorted(ROOT.glob("requirements*.txt"))
PIN = re.compile(r"^([A-Za-z0-9_.-]+)(?:\[[^\]]+\])?==", re.MULTILINE)
SAID_IN = [ROOT / "Makefile", ROOT / "Dockerfile", *ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("tests/*.sh")]


def pins(file: Path) -> set[str]:
    return {name.lower().replace("_", "-") for name in PIN.findall(file.read_text("utf-8"))}


@pytest.mark.parametrize("file", LOCKED, ids=lambda file: file.name)
def test_every_pin_has_its_hashes(file: Path) -> None:
    entries = re.split(r"\n(?=\S)", file.read_text("utf-8"))
    packages = [entry for entry in entries if not entry.startswith("#")]
    assert len(packages) >= 10
    assert [entry.split()[0] for entry in packages if not re.search(r"--hash=sha256:[0-9a-f]{64}", entry)] == []


def test_what_is_wanted_with_an_extra_is_pinned_with_it() -> None:
    """Else pip refuses to install into an empty environment; into a full one it does not notice."""
    text, missing = (ROOT / "requirements-dev.txt").read_text("utf-8"), []
    for name in sorted(pins(ROOT / "requirements-dev.txt")):
        try:
            wanted = [Requirement(line) for line in metadata.requires(name) or []]
        except metadata.PackageNotFoundError:  # of another platform or Python
            continue
        for item in wanted:
            applies = item.marker is None or item.marker.evaluate({"extra": ""})
            if item.extras and applies and not re.search(rf"^{item.name}\[\S+\]==", text, re.MULTILINE | re.IGNORECASE):
                missing.append(f"{name}: {item}")
    assert missing == []


def test_every_install_asks_for_the_hashes() -> None:
    asked = []
    for file in SAID_IN:
        lines = re.sub(r"\\\n\s*", "", file.read_text("utf-8")).splitlines()
        asked += [(file.name, line) for line in lines if re.search(r"pip install .*(-r |requirements)", line)]
    assert len(asked) >= 4
    assert [line for line in asked if "--require-hashes" not in line[1]] == []


def test_images_are_named_by_their_digests() -> None:
    digest = re.compile(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}")
    images = re.findall(r"^ARG PYTHON_IMAGE=(\S+)", (ROOT / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    for file in (ROOT / "docker-compose.yml", *(ROOT / "deploy").glob("compose*.yml")):
        services: dict[str, Any] = yaml.safe_load(file.read_text("utf-8"))["services"]
        images += [item["image"] for item in services.values() if "image" in item and "build" not in item]
    assert len(images) >= 4
    assert [image for image in images if not digest.fullmatch(image)] == []
    page = (ROOT / "docs" / "supply-chain.md").read_text("utf-8")
    assert [image for image in images if f"`{image}`" not in page] == []


def test_the_licences_are_those_we_allow() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "piplicenses", "--format=json", "--from=mixed", "--with-system"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    found = {item["Name"].lower().replace("_", "-"): item["License"] for item in json.loads(done.stdout)}
    shipped = pins(ROOT / "requirements.txt")
    assert len(shipped & found.keys()) > 40
    assert refused({name: text for name, text in found.items() if name in shipped}, shipped=True) == []
    pinned = pins(ROOT / "requirements-dev.txt")
    assert refused({name: text for name, text in found.items() if name in pinned}, shipped=False) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("MIT License", {"MIT"}), ("Apache-2.0 OR BSD-2-Clause", {"Apache-2.0", "BSD-2-Clause"}), ("GPL-3.0", {"GPL-3.0"}),
        ("Apache Software License; BSD License", {"Apache-2.0", "BSD-3-Clause"}), ("UNKNOWN", {"UNKNOWN"}),
        ("Mozilla Public License 2.0 (MPL 2.0)", {"MPL-2.0"}),
    ],
)  # fmt: skip
def test_licences_are_told_apart(text: str, words: set[str]) -> None:
    assert spdx(text) == words


def test_a_licence_that_is_not_allowed_is_named() -> None:
    assert refused({"bad": "AGPL-3.0", "good": "MIT", "odd": "UNKNOWN"}, shipped=True) == ["bad: AGPL-3.0", "odd: UNKNOWN"]
    assert "GPL-3.0" not in ALLOWED


AUDITED = {"name": "good", "version": "1", "vulns": []}
SKIPPED = {"name": "away", "skip_reason": "Dependency not found on PyPI and could not be audited: away (1)"}
HOLE = {"name": "bad", "version": "1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2"], "aliases": ["CVE-1"]}]}


@pytest.mark.parametrize(
    ("dependencies", "code", "said"),
    [
        ([AUDITED], 0, "1 of 1 packages audited: no known vulnerability"),
        ([AUDITED, HOLE], 1, "bad 1: PYSEC-1 (CVE-1), mended in 2"),
        ([SKIPPED, HOLE], 1, "NOT AUDITED: 1 of 2"),
        ([AUDITED, SKIPPED], 0, "NOT AUDITED: 1 of 2"),
        ([], 0, "NOT AUDITED"),
    ],
)
def test_what_an_audit_says(dependencies: list[dict[str, Any]], code: int, said: str) -> None:
    """A hole fails the run; an advisory service that does not answer is told, loudly, and fails nothing."""
    found, lines = judged({"dependencies": dependencies}, strict=False)
    assert found == code
    assert any(said in line for line in lines)


def test_a_strict_audit_wants_all() -> None:
    assert judged({"dependencies": [AUDITED, SKIPPED]}, strict=True)[0] == 1
