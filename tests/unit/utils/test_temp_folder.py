"""Temporary folders: a dead process's go at the next start, a living one's never, whoever else starts meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from utils.temp_folder import OWNER_FILE, TempRoot

_OTHER = """
import sys
from pathlib import Path
from utils.temp_folder import TempRoot
root = TempRoot(Path(sys.argv[1]))
root.open()
(root.folder("upload-") / "0").write_bytes(b"x" * 1000)
print("ready", flush=True)
sys.stdin.read()
"""


def other(parent: Path) -> subprocess.Popen[bytes]:
    """A process that owns a folder, with an upload in it."""
    process = subprocess.Popen(
        [sys.executable, "-c", _OTHER, parent], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def uploads(parent: Path) -> int:
    return len(list(parent.glob("ingest-*/upload-*/0")))


def test_the_dead_ones_go_at_once_the_living_stay(tmp_path: Path) -> None:
    dead, living = other(tmp_path), other(tmp_path)
    assert uploads(tmp_path) == 2
    dead.kill()
    dead.wait()
    assert uploads(tmp_path) == 2
    root = TempRoot(tmp_path)
    assert root.open() == 1
    assert root.open() == 0
    assert uploads(tmp_path) == 1
    os.kill(living.pid, 19)  # SIGSTOP: it lives
    assert TempRoot(tmp_path).open() == 0
    living.kill()
    living.wait()
    assert TempRoot(tmp_path).open() >= 1
    assert uploads(tmp_path) == 0
    assert root.folder("upload-").stat().st_mode & 0o777 == 0o700
    root.close()
    root.close()


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "file").touch()
    (tmp_path / "ingest-link").symlink_to(tmp_path / "target")
    (tmp_path / "ingest-file").touch()
    (tmp_path / "upload-else").mkdir()
    (tmp_path / "ingest-died-in-making-it").mkdir()
    root = TempRoot(tmp_path)
    assert root.open() == 1
    assert (tmp_path / "target" / "file").exists()
    assert {path.name for path in tmp_path.iterdir()} >= {"ingest-link", "ingest-file", "upload-else", "target"}
    root.close()


def test_many_starts_at_once_take_nothing_from_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = tempfile.mkdtemp

    def slowly(*args: Any, **kwargs: Any) -> str:
        path: str = make(*args, **kwargs)
        time.sleep(0.005)  # there, and nobody's yet
        return path

    monkeypatch.setattr(tempfile, "mkdtemp", slowly)
    roots = [TempRoot(tmp_path) for _ in range(40)]
    with ThreadPoolExecutor(20) as pool:
        removed = list(pool.map(TempRoot.open, roots))
    assert sum(removed) == 0
    assert len(list(tmp_path.glob(f"ingest-*/{OWNER_FILE}"))) == 40
    for root in roots:
        root.close()
    assert list(tmp_path.glob("ingest-*")) == []
