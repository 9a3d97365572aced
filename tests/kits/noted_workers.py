"""The worker processes that a file's own pools start; a test file imports the fixture.

Not the children of this process: beside other files' workers these are PostgreSQL, the S3 server and services, where
integration tests ran before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from utils.decoder_process import DecoderProcess


class Workers(list[psutil.Process]):
    """Every worker that was started, the ended ones too."""

    def alive(self) -> list[psutil.Process]:
        return [one for one in self if _lives(one)]


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="module", autouse=True, name="workers")
def noted_workers() -> Iterator[Workers]:
    """Of this file's pools."""
    found, start = Workers(), DecoderProcess.start.__func__  # type: ignore[attr-defined]

    async def noted(cls: type[DecoderProcess], /, preload: list[str], **more: Any) -> DecoderProcess:
        worker: DecoderProcess = await start(cls, preload, **more)
        found.append(psutil.Process(worker.pid))
        return worker

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DecoderProcess, "start", classmethod(noted))
        yield found
