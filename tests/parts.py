"""`make test`: the tests that run side by side, with lint and the audit of the packages beside them; the paced, with the
unit tests beside them; those alone.

`python -m tests.parts [pytest's options]`. What waits for cameras, leases and timeouts leaves the processor to others, so
more tests run at once than there are cores; the longest files begin first. The marker of a test says which part is its own.
The paced wait for most of their time, and unit tests hardly at all: these run by `nice` in what the paced leave.

What failed is tried once more, in a new process: fixtures that a whole file shares are made anew. Nothing else is
excused: what fails twice ends the run with exit code 1. Each part's seconds, and the names of those tests that passed
at the second try only, stand above pytest's closing line, which is the last line: this module is also a pytest plugin.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

import pytest

SO_FAR = "TEST_PARTS_SO_FAR"  # environment: lines about the parts that are done, and the one that runs now (JSON)
CACHE = Path(".pytest_cache").resolve()
ALL = ["tests/integration", "tests/model", "tests/unit"]
# The longest ones, by seconds on a quiet machine. Then the others as they are found.
LONGEST = [
    "storage/test_backup", "console/test_console_frames", "access/test_access", "service/test_embedded",
    "service/test_schemathesis", "service/test_two_services", "uploads/test_idempotency", "spool/test_capture_spool",
    "storage/test_repositories", "console/test_console_cameras", "service/test_bad_input", "uploads/test_upload_sessions",
    "captures/test_cameras", "captures/test_source_programs", "captures/test_camera_gate", "faults/test_faults",
    "service/test_service_start", "captures/test_capture_rtcp", "storage/test_migrations", "access/test_redis",
    "events/test_websocket", "service/test_alerts", "service/test_service_crash", "service/test_roles",
    "captures/test_finding", "captures/test_capture_faults", "service/test_service_http", "events/test_event_log",
    "storage/test_sweeper", "events/test_outbox", "service/test_celery", "captures/test_capture_sharing",
    "captures/test_clock_steps", "storage/test_retention", "access/test_shares", "test_parts", "service/test_pairs",
    "uploads/test_upload_pressure", "spool/test_spool_crash", "storage/test_verify", "service/test_api_docs",
    "captures/test_capture_outages", "test_forked", "captures/test_capture_events", "storage/test_pooler",
    "captures/test_capture_slow_store", "spool/test_spool_replay", "access/test_identity", "storage/test_store_user",
    "storage/test_bucket_guard",
]  # fmt: skip


def workers(count: int) -> list[str]:
    """pytest's options; TEST_WORKERS counts instead."""
    return ["-n", os.environ.get("TEST_WORKERS", str(count)), "--dist", "loadfile", "--no-loadscope-reorder"]


def marked(name: str) -> list[str]:
    """The files with that marker: a part of few files need not import all."""
    return [str(path) for path in sorted(Path("tests").rglob("test_*.py")) if f"mark.{name}" in path.read_text("utf-8")]


def paced_at_once(seconds: float | None) -> int:
    """How many paced tests at once, by the seconds that those side by side have just taken; None: not known.

    Four take 1.35 of a machine's two cores while it is fast. The same machine does half as much at another hour, when others
    share its processor (353 and 713 s seen for the same tests), and then four at once are late.
    """
    return 2 if seconds is None or seconds > 520 else 3 if seconds > 420 else 4


# By name: which tests, where (nothing: the files with its marker), on how many workers.
PARTS: dict[str, tuple[str, list[str], list[str]]] = {
    "side by side": ("not alone and not paced", ["tests/integration"], workers(5)),
    "paced": ("paced", [], []),  # how many: `paced_at_once`
    "unit": ("not alone and not paced", ["tests/unit", "tests/model"], workers(2)),  # beside the paced
    "alone": ("alone", [], []),
}

LINT = "SECONDS=0; make --no-print-directory lint && echo $SECONDS"
# Exit code 1: a known vulnerability. make's own is 2: no network to install pip-audit from.
AUDIT = 'make --no-print-directory build/tools/.install-stamp && exec "$0" -m deploy.audit build/tools/bin/pip-audit'


class Runs:
    """What was run so far."""

    def __init__(self, options: list[str]) -> None:
        self.options = options
        self.chosen = any(Path(each.partition("::")[0]).exists() for each in options)  # some tests, not all
        self.lines: list[str] = []
        self.flaky: list[str] = []
        self._side_by_side: float | None = None  # seconds that all tests of that part took
        self._begun: dict[str, tuple[subprocess.Popen[str], IO[str], float]] = {}

    def lint(self) -> int:
        self.begin_lint()
        return self.end_lint()

    def begin_lint(self) -> None:
        self._lint = subprocess.Popen(["bash", "-c", LINT], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def end_lint(self) -> int:
        """What it complains of is printed, and fails the run once the tests beside it have ended."""
        said = self._lint.communicate()[0].rstrip()
        if self._lint.returncode == 0:
            self.lines.append(f"lint: {said.rpartition(chr(10))[2]} s")
        else:
            print(said, flush=True)
        return self._lint.returncode

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

    def compile(self) -> None:
        """In a new clone all the processes that begin at once would compile what they import: here it is done once."""
        if not any(Path("tests/__pycache__").glob("conftest.*-pytest-*.pyc")):
            began = time.time()
            command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-qq", "--collect-only", *ALL]
            subprocess.run(command, stdout=subprocess.DEVNULL, check=False)  # what is wrong with a test is told by its part
            self.lines.append(f"compiled: {time.time() - began:.0f} s")

    def begin(self, part: str) -> None:
        """Begins a part on what others leave of the processor; `tests` waits for it, and prints what it said."""
        began, said = time.time(), tempfile.TemporaryFile("w+")  # noqa: SIM115 (`tests` closes it)
        command, environment = self._pytest(part, began, self._arguments(part))
        process = subprocess.Popen(["nice", "-n", "19", *command], env=environment, stdout=said, stderr=said, text=True)
        self._begun[part] = process, said, began

    def stop(self) -> None:
        """What is begun and not waited for: the part beside it has failed, and its closing line is the last."""
        for process, said, _ in self._begun.values():
            process.send_signal(signal.SIGINT)
            process.wait()
            said.close()

    def tests(self, part: str) -> int:
        if part in self._begun:
            process, said, began = self._begun.pop(part)
            code = process.wait()
            with said:
                said.seek(0)
                print(said.read(), flush=True)
        else:
            began = time.time()
            code = self._run(part, began, self._arguments(part))
        if part == "side by side" and not self.chosen:
            self._side_by_side = time.time() - began
        cache = CACHE / part.replace(" ", "-")
        failed = sorted(json.loads(path.read_text())) if (path := cache / "v/cache/lastfailed").exists() else []
        if code == pytest.ExitCode.TESTS_FAILED and failed:
            print("Once more, what failed:", *failed, sep="\n  ", flush=True)
            self.flaky += failed  # unless they fail again: then the run ends here
            again = ["--last-failed", "--last-failed-no-failures=none"]
            code = self._run(part, began, [*self._select(part), *again, *self._folders(part)])
        self.lines.append(f"{part}: {time.time() - began:.0f} s")
        return 0 if self.chosen and code == pytest.ExitCode.NO_TESTS_COLLECTED else code

    def _select(self, part: str) -> list[str]:
        return ["-o", f"cache_dir={CACHE / part.replace(' ', '-')}", "-m", PARTS[part][0]]

    def _folders(self, part: str) -> list[str]:
        return [] if self.chosen else PARTS[part][1] or marked(PARTS[part][0])

    def _arguments(self, part: str) -> list[str]:
        options = workers(paced_at_once(self._side_by_side)) if part == "paced" else PARTS[part][2]
        return [*self._select(part), "--cache-clear", *options, *self._folders(part)]

    def _pytest(self, part: str, began: float, arguments: list[str]) -> tuple[list[str], dict[str, str]]:
        """Command and environment."""
        now = {"lines": self.lines, "part": part, "began": began, "flaky": self.flaky}
        command = [sys.executable, "-m", "pytest", "-p", "tests.parts", *arguments, *self.options]
        return command, {**os.environ, SO_FAR: json.dumps(now)}

    def _run(self, part: str, began: float, arguments: list[str]) -> int:
        command, environment = self._pytest(part, began, arguments)
        return subprocess.run(command, env=environment, check=False).returncode


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {f"tests/integration/{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.nodeid.partition("::")[0], len(order)))


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
    if runs.chosen and (code := runs.lint()):
        return code
    if not runs.chosen:
        runs.begin_audit()
        runs.compile()
        runs.begin_lint()
    for part in PARTS:
        if part == "unit" and runs.chosen:  # some tests: those that have no mark were the first part
            continue
        if part == "paced" and not runs.chosen:
            runs.begin("unit")
        code = runs.tests(part)
        if part == "side by side" and not runs.chosen:
            code = runs.end_lint() or runs.end_audit() or code
        if code:
            runs.stop()
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
