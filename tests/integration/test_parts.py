"""`make test` itself: what passes at the second try is named, what fails twice fails the run, the closing line is last."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.parts import LONGEST, PARTS, Runs, main, paced_at_once

RUN = """
import sys
from tests.parts import PARTS, Runs
runs = Runs(sys.argv[1:])
runs.lines.append("lint: 1 s")
code = 0
for part in PARTS:
    if part == "paced":
        runs.begin("unit")
    if code := runs.tests(part):
        runs.stop()
        break
sys.exit(code)
"""
TESTS = """
import pathlib, pytest
def tried(name):
    mark = pathlib.Path(__file__).with_name(name)
    before = mark.exists()
    mark.touch()
    return before
def test_good(): pass
def test_second(): assert tried("second")
@pytest.mark.alone
def test_lonely(): assert {lonely}
"""


# Plugins of no use here cost seconds of each start.
WITHOUT = [word for name in ("anyio", "asyncio", "hypothesispytest", "schemathesis") for word in ("-p", f"no:{name}")]


@pytest.mark.parametrize(
    ("lonely", "code", "flaky", "last"),
    [("tried('lonely')", 0, ["test_second", "test_lonely"], "1 passed"), ("False", 1, ["test_second"], "1 failed")],
    ids=["passes at the second try", "fails twice"],
)
def test_second_tries(tmp_path: Path, lonely: str, code: int, flaky: list[str], last: str) -> None:
    (tmp_path / "test_odd.py").write_text(TESTS.format(lonely=lonely))
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  alone: as ours\n  paced: as ours\n")
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path), *WITHOUT], cwd=ROOT, env={**os.environ, "TEST_WORKERS": "0"},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert last in lines[-1]
    end = [line for line in lines[max(n for n, line in enumerate(lines) if "make test, so far" in line) :] if line]
    assert [line.split(":")[0] for line in end[1:6]] == ["lint", *PARTS]
    assert [line.partition("::")[2] for line in end if line.startswith("  ")] == flaky


def test_lint_beside_the_tests_fails_the_run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    ran: list[str] = []
    begun: list[str] = []

    def tests(_: Runs, part: str) -> int:
        ran.append(part)
        return 0

    monkeypatch.setattr("sys.argv", ["parts"])
    monkeypatch.setattr("tests.parts.AUDIT", "exit 2")
    monkeypatch.setattr(Runs, "tests", tests)
    monkeypatch.setattr(Runs, "begin", lambda _, part: begun.append(part))
    monkeypatch.setattr("tests.parts.LINT", "echo a complaint >&2; exit 3")
    assert (main(), ran) == (3, ["side by side"])
    assert "a complaint" in capfd.readouterr().out
    monkeypatch.setattr("tests.parts.LINT", "echo 7")
    assert (main(), ran[1:], begun) == (0, list(PARTS), ["unit"])


@pytest.mark.parametrize(("seconds", "count"), [(None, 2), (353, 4), (480, 3), (595, 2)])
def test_the_slower_the_machine_the_fewer_paced_tests_at_once(seconds: float | None, count: int) -> None:
    assert paced_at_once(seconds) == count


def test_the_longest_files_are_there() -> None:
    assert [name for name in LONGEST if not (ROOT / "tests/integration" / f"{name}.py").exists()] == []


@pytest.mark.parametrize(
    ("audit", "code", "line"),
    [
        ("echo 'NOT AUDITED: 3 of 3'", 0, "audit: NOT AUDITED: 3 of 3"),
        ("echo bad 1: PYSEC-1; exit 1", 1, "audit: bad 1: PYSEC-1"),
        ("exit 2", 0, "audit: NOT AUDITED: its tools could not be installed"),
    ],
)  # fmt: skip
def test_the_audit_fails_a_run_for_a_vulnerability_alone(
    audit: str, code: int, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.parts.AUDIT", audit)
    runs = Runs([])
    runs.begin_audit()
    assert runs.end_audit() == code
    assert runs.lines == [line]
