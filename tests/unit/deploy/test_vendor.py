"""The browser's libraries are those of vendor.json, byte by byte, and small enough."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from deploy import vendor

PACKAGES = json.loads(vendor.MANIFEST.read_text())


def test_files_are_those_of_the_manifest() -> None:
    assert vendor.differing(PACKAGES) == []
    assert all(package["integrity"].startswith("sha512-") for package in PACKAGES)


@pytest.mark.parametrize("change", ["changed", "added", "missing"])
def test_a_difference_is_found(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = tmp_path / "vendor"
    shutil.copytree(vendor.SERVED, served)
    monkeypatch.setattr(vendor, "SERVED", served)
    monkeypatch.setattr(vendor, "ROOT", Path("/"))
    assert vendor.differing(PACKAGES) == []
    file = served / "htm.js"
    if change == "changed":
        file.write_text(file.read_text() + " ")
    elif change == "missing":
        file.unlink()
    else:
        file = served / "other.js"
        file.touch()
    assert vendor.differing(PACKAGES) == [str(file).lstrip("/")]


def test_imports_become_addresses_and_unknown_ones_are_refused() -> None:
    text = 'import{a}from"preact";import"preact/hooks";export{b}from"./x.js";\n//# sourceMappingURL=a.map\n'
    assert vendor.rewritten(text) == 'import{a}from "./preact.js";import "./preact-hooks.js";export{b}from"./x.js";\n'
    with pytest.raises(KeyError):
        vendor.rewritten('import x from"left-pad"')


def test_licences_are_kept() -> None:
    for folder, wanted in ((vendor.SERVED, False), (vendor.TESTS, True)):
        text = (folder / vendor.LICENCES).read_text()
        for package in PACKAGES:
            assert (f"{package['name']} {package['version']}" in text) == (bool(package.get("tests")) is wanted)
