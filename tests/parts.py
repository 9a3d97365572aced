"""`make test`: lint, the tests that run side by side, those that run alone, and beside them the audit of the packages.

`python -m tests.parts [pytest's options]`.

What failed is tried once more, in a new process: fixtures that a whole file shares are made anew. Nothing else is
excused: what fails twice ends the run with exit code 1. Each part's seconds, and the names of those tests that passed
at the second try only, stand above pytest's closing line, which is the last line: this module is also a pytest plugin.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

SO_FAR = "TEST_PARTS_SO_FAR"  # environment: lines about the parts that are done, and the one that runs now (JSON)
CACHE = Path(".pytest_cache").resolve()
# In this order, file by file: integration tests wait much, and the short unit tests fill what is left of the time.
FOLDERS = ["tests/integration", "tests/model", "tests/unit"]
WORKERS = ["-n", os.environ.get("TEST_WORKERS", "3"), "--dist", "loadfile", "--no-loadscope-reorder"]
PARTS = {"side by side": ("not alone", WORKERS), "alone": ("alone", [])}


# Exit code 1: a known vulnerability. make's own is 2: no network to install pip-audit from.
AUDIT = 'make --no-print-directory build/tools/.install-stamp && exec "$0" -m deploy.audit build/tools/bin/pip-audit'


class Runs:
    """What was run so far."""

    def __init__(self, options: list[str]) -> None:
        self.options = options
        self.chosen = any(Path(each.partition("::")[0]).exists() for each in options)  # some tests, not all
        self.lines: list[str] = []
        self.flaky: list[str] = []

    def lint(self) -> int:
        began = time.monotonic()
        code = subprocess.run(["make", "--no-print-directory", "lint"], check=False).returncode
        self.lines.append(f"lint: {time.monotonic() - began:.0f} s")
        return code

    def begin_audit(self) -> None:
        """It waits for the network: beside everything else."""
        self._audit = subprocess.Popen(
            ["bash", "-c", AUDIT, sys.executable], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def end_audit(self) -> int:
        """What it says stands above the closing line. A known vulnerability fails the run; no network is told, loudly."""
        said = self._audit.communicate()[0].rstrip()
        self.lines += [f"audit: {line.strip()}" for line in said.splitlines()]
        if self._audit.returncode not in (0, 1):
            self.lines.append("audit: NOT AUDITED: its tools could not be installed")
        if self._audit.returncode == 1:
            print(said, flush=True)
        return int(self._audit.returncode == 1)

    def tests(self, part: str) -> int:
        began = time.time()
        marked, more = PARTS[part]
        folders = [] if self.chosen else FOLDERS
        cache = CACHE / part.replace(" ", "-")
        select = ["-o", f"cache_dir={cache}", "-m", marked]
        code = self._pytest(part, began, [*select, "--cache-clear", *more, *folders])
        failed = sorted(json.loads(path.read_text())) if (path := cache / "v/cache/lastfailed").exists() else []
        if code == pytest.ExitCode.TESTS_FAILED and failed:
            print("Once more, what failed:", *failed, sep="\n  ", flush=True)
            self.flaky += failed  # unless they fail again: then the run ends here
            code = self._pytest(part, began, [*select, "--last-failed", "--last-failed-no-failures=none", *folders])
        self.lines.append(f"{part}: {time.time() - began:.0f} s")
        return 0 if self.chosen and code == pytest.ExitCode.NO_TESTS_COLLECTED else code

    def _pytest(self, part: str, began: float, arguments: list[str]) -> int:
        now = {"lines": self.lines, "part": part, "began": began, "flaky": self.flaky}
        command = [sys.executable, "-m", "pytest", "-p", "tests.parts", *arguments, *self.options]
        return subprocess.run(command, env={**os.environ, SO_FAR: json.dumps(now)}, check=False).returncode


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    found = json.loads(os.environ[SO_FAR])
    failed = {report.nodeid for kind in ("failed", "error") for report in terminalreporter.stats.get(kind, [])}
    terminalreporter.section("make test, so far")
    for line in [*found["lines"], f"{found['part']}: {time.time() - found['began']:.0f} s"]:
        terminalreporter.write_line(line)
    flaky = [name for name in found["flaky"] if name not in failed]
    terminalreporter.write_line("flaky: none" if not flaky else "flaky, passed at the second try only:")
    for name in flaky:
        terminalreporter.write_line(f"  {name}")


def main() -> int:
    runs = Runs(sys.argv[1:])
    if not runs.chosen:
        runs.begin_audit()
    if code := runs.lint():
        return code
    for part in PARTS:
        if code := runs.tests(part):
            return code
        if part == "side by side" and not runs.chosen and (code := runs.end_audit()):
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
