"""Processes that tests fork (tests/kits/forked.py) do what processes of their own do."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, clean_environment
from tests.kits.forked import Forked, can, run_command


def real(environment: dict[str, str], *words: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=90, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_a_command_says_and_answers_the_same(tmp_path: Path) -> None:
    environment = {**clean_environment(), "DATA_DIR": str(tmp_path / "data")}
    for words in (("keys", "--help"), ("keys", "nonsense")):
        done = run_command(environment, *words)
        assert (done.returncode, done.stdout, done.stderr) == real(environment, "-m", "services.commands", *words)


def test_it_has_its_own_environment_and_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {**clean_environment(), "DATA_DIR": str(tmp_path / "data"), "API__PORT": "0", "DB__PORT": "none"}
    monkeypatch.setenv("RTSP__LEASE_TTL", "of pytest's environment alone")
    out, err = tmp_path / "out", tmp_path / "err"
    code = Forked("main.py", environment, out, err).wait(60)
    assert (code, out.read_text(), err.read_text()) == real(environment, "main.py")
    assert (code, "DB__PORT" in err.read_text(), "LEASE_TTL" in err.read_text()) == (2, True, False)


def test_signals_and_time_outs_are_as_of_a_child(tmp_path: Path) -> None:
    waits = tmp_path / "waits.py"
    waits.write_text("import time; time.sleep(60)")
    process = Forked(str(waits), clean_environment(), tmp_path / "out")
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    process.terminate()
    assert process.wait(20) == process.returncode == -signal.SIGTERM
    process.kill()  # of one that is gone: nothing


def test_what_an_interpreter_reads_at_its_start_is_not_forked() -> None:
    assert can(clean_environment())
    assert not can({**clean_environment(), "MALLOC_ARENA_MAX": "7"})
