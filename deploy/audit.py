"""`make audit`: known vulnerabilities of every pinned package, by pip-audit. `python -m deploy.audit PIP_AUDIT [--strict]`.

A vulnerability ends it with exit code 1. Where the advisory service does not answer, that is said in capitals and ends it
with 0, so that a run without a network goes on; with `--strict` with 1.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

TIMEOUT = 300  # seconds for one list
# The first has what requirements.txt and -embedded have.
FILES = ("requirements-dev.txt", "requirements-tools.txt", "requirements-deploy.txt")


def judged(report: Mapping[str, Any], *, strict: bool) -> tuple[int, list[str]]:
    """The exit code and what to print, of pip-audit's JSON."""
    found = list(report.get("dependencies", []))
    audited = [item for item in found if "skip_reason" not in item]
    lines, code = [], 0
    for item in audited:
        for hole in item["vulns"]:
            names = f" ({', '.join(hole['aliases'])})" if hole.get("aliases") else ""
            mended = ", ".join(hole.get("fix_versions", [])) or "no version yet"
            lines.append(f"{item['name']} {item['version']}: {hole['id']}{names}, mended in {mended}")
            code = 1
    missing = len(found) - len(audited)
    if missing or not found:
        lines.append(f"NOT AUDITED: {missing} of {len(found)} packages. The advisory service does not answer here.")
        lines.append("Run `make audit` where it does (PyPI's), before every release: docs/supply-chain.md.")
        code = max(code, int(strict))
    elif not code:
        lines.append(f"{len(audited)} of {len(found)} packages audited: no known vulnerability")
    return code, lines


def main(arguments: list[str]) -> int:
    """Runs pip-audit on the lists of pins."""
    worst = 0
    for file in FILES:
        report: dict[str, Any] = {}
        try:
            done = subprocess.run(
                [arguments[0], "--require-hashes", "--disable-pip", "--progress-spinner=off", "--format=json", "-r", file],
                capture_output=True, text=True, timeout=TIMEOUT, check=False,
            )  # fmt: skip
            report = json.loads(done.stdout)
        except subprocess.TimeoutExpired:
            print(f"pip-audit had no end within {TIMEOUT} s")
        except ValueError:  # it ends with a message instead, as without a network
            print(done.stderr.strip()[-500:])
        code, lines = judged(report, strict="--strict" in arguments)
        print(f"{file}:", *lines, sep="\n  ")
        worst = max(worst, code)
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
