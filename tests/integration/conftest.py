"""What the capture tests share: which reader they run on, and their films."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.kits.capture_kit import make_films


@pytest.fixture(scope="module")
def reader() -> str:
    """RTSP__READER of a module's `kit` (`open_kit(..., READER=reader)`): the default one.

    Modules about what a reader makes of a stream have a fixture of this name that runs them on both.
    """
    return "opencv"


@pytest.fixture(scope="session")
def film_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all workers: a film that is there is not made again."""
    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "films"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def films(film_folder: Path) -> dict[str, Path]:
    """By name (`make_films`)."""
    return make_films(film_folder)
