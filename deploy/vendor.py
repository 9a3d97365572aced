"""`make vendor`: fetches the browser's libraries that api/console/vendor.json names, at exact versions, by npm.

Writes them into api/console/static/vendor (what only tests need into tests/kits/vendor) with their imports made relative,
their licences into LICENCES.txt, npm's integrity of each package and the SHA-256 of each file into vendor.json. A package
that npm gives other bytes for than vendor.json says is refused. The service needs no npm: the files are in the repository.

python -m deploy.vendor [--check]     --check: compares the files with vendor.json, without npm
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MANIFEST = ROOT / "api" / "console" / "vendor.json"
SERVED = ROOT / "api" / "console" / "static" / "vendor"
TESTS = ROOT / "tests" / "kits" / "vendor"
LICENCES = "LICENCES.txt"
# What a module of one package calls another's: browsers know addresses only.
NAMES = {"preact": "./preact.js", "preact/hooks": "./preact-hooks.js", "@preact/signals-core": "./signals-core.js"}
_IMPORT = re.compile(r'\b(from|import)\s*"([^"./][^"]*)"')
_MAP = re.compile(r"\n?//# sourceMappingURL=\S+\s*$")


class VendorError(Exception):
    """The text is for the person in front of it."""


def folder_of(package: dict[str, Any]) -> Path:
    return TESTS if package.get("tests") else SERVED


def rewritten(text: str) -> str:
    """Imports by address, no reference to a source map that is not there. Raises KeyError for an unknown import."""
    return _MAP.sub("\n", _IMPORT.sub(lambda found: f'{found[1]} "{NAMES[found[2]]}"', text))


def tarball(package: dict[str, Any]) -> bytes:
    """The package as npm gives it; raises VendorError where its bytes are not those of the manifest."""
    with tempfile.TemporaryDirectory() as folder:
        spec = f"{package['name']}@{package['version']}"
        subprocess.run(
            ["npm", "pack", spec, "--silent", "--pack-destination", folder], check=True, stdout=subprocess.DEVNULL
        )
        data = next(Path(folder).glob("*.tgz")).read_bytes()
    found = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
    if package.setdefault("integrity", found) != found:
        raise VendorError(f"{spec}: npm gave other bytes than {MANIFEST.name} says ({found})")
    return data


def fetch(package: dict[str, Any]) -> str:
    """Writes the package's files, notes their hashes in `package`; the package's licence as text."""
    folder = folder_of(package)
    folder.mkdir(parents=True, exist_ok=True)
    package["sha256"] = {}
    with tarfile.open(fileobj=io.BytesIO(tarball(package))) as archive:
        held = {member.name.partition("/")[2]: member for member in archive.getmembers() if member.isfile()}

        def read(name: str) -> str:
            file = archive.extractfile(held[name])
            assert file is not None
            return file.read().decode()

        for source, target in package["files"].items():
            text = rewritten(read(source)) if not package.get("tests") else read(source)
            (folder / target).write_text(text, encoding="utf-8")
            package["sha256"][target] = hashlib.sha256(text.encode()).hexdigest()
        own = next((name for name in held if name.upper() in ("LICENSE", "LICENSE.MD", "LICENCE", "LICENSE.TXT")), None)
        about = json.loads(read("package.json"))
        if about["license"] != package["licence"]:
            raise VendorError(f"{package['name']}: licence {about['license']}, and not {package['licence']}")
        licence = (
            read(own) if own else f"{about['license']}, as its package.json says; by {about.get('author', 'its authors')}\n"
        )
    return f"{package['name']} {package['version']} ({package['licence']})\n{'-' * 60}\n{licence.strip()}\n"


def differing(packages: list[dict[str, Any]]) -> list[str]:
    """Files that are not what the manifest says, missing and unknown ones included."""
    known: dict[Path, str | None] = {folder / LICENCES: None for folder in (SERVED, TESTS)}
    for package in packages:
        known |= {folder_of(package) / name: digest for name, digest in package["sha256"].items()}
    there = {path for folder in (SERVED, TESTS) for path in folder.glob("*")}
    wrong = [path for path in there | set(known) if path not in known or not path.is_file()]
    wrong += [
        path for path, digest in known.items()
        if digest and path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() != digest
    ]  # fmt: skip
    return sorted(str(path.relative_to(ROOT)) for path in wrong)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.vendor", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="compare the files with vendor.json; exit code 1 when they differ"
    )
    packages: list[dict[str, Any]] = json.loads(MANIFEST.read_text())
    if parser.parse_args().check:
        wrong = differing(packages)
        print("\n".join(wrong) or "The libraries are those of vendor.json.")
        return 1 if wrong else 0
    try:
        licences = [(folder_of(package), fetch(package)) for package in packages]
    except (VendorError, KeyError, subprocess.CalledProcessError, FileNotFoundError) as error:
        print(f"The libraries could not be fetched: {error}", file=sys.stderr)
        return 1
    for folder in (SERVED, TESTS):
        (folder / LICENCES).write_text("\n\n".join(text for own, text in licences if own == folder), encoding="utf-8")
    MANIFEST.write_text(json.dumps(packages, indent=2) + "\n", encoding="utf-8")
    print(f"{len(packages)} packages; {sum(path.stat().st_size for path in SERVED.glob('*')):,} bytes for the page")
    return 0


if __name__ == "__main__":
    sys.exit(main())
