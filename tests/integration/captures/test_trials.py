"""A camera whose pictures crash their decoder, beside others in one process: nobody else loses a slot."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from demo.camera import Camera
from demo.film import make_film
from models.values import IngestionStatus
from services.rtsp_capture.media import decode_job
from services.storage_service.service import StorageService
from tests.conftest import Backends, unique
from tests.kits import worker_jobs
from tests.kits.capture_kit import Kit, open_kit
from utils.metrics import STREAMS_CONDEMNED, WORKERS_REPLACED


@pytest.fixture(scope="module")
def camera(films: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Camera]:
    hostile = make_film(
        tmp_path_factory.mktemp("films"), codec="h264", width=worker_jobs.ABORTING_WIDTH, height=192, fps=25, seconds=4.0,
        bitrate=300_000, bframes=0, gop=25,
    )  # fmt: skip
    with Camera({"h264": films["h264"], "hostile": hostile}) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def kit(
    backends: Backends, storage: StorageService, reader: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Kit]:
    async with open_kit(backends, storage, tmp_path_factory.mktemp("data"), READER=reader) as made:
        yield made


async def test_a_stream_that_crashes_its_decoder_ends_alone(
    kit: Kit, camera: Camera, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_job, "DECODE", f"{worker_jobs.__name__}:hostile_decode")
    crashed = WORKERS_REPLACED.labels(pool="streams", reason="crashed")._value
    workers, condemned = crashed.get(), STREAMS_CONDEMNED._value.get()
    fields: dict[str, Any] = {"capture_mode": "continuous", "fps": 5.0, "sampling": "exact"}
    good = await kit.submit(camera.url_of("h264"), **fields, capture_duration=8.0)
    await kit.until(good, lambda r: r.progress.stored > 0, 30)
    camera_id = unique()
    bad = await kit.submit(camera.url_of("hostile"), camera_id, **fields, capture_duration=60.0)
    ended = await kit.final(bad, 40)
    assert ended.status is IngestionStatus.FAILED
    assert ended.error is not None
    assert (ended.error.code, ended.error.retryable) == ("decode_failed", True)
    assert "again and again" in ended.error.message
    assert ended.progress.stored == 0
    assert crashed.get() == workers + 3
    again = await kit.final(await kit.submit(camera.url_of("hostile"), camera_id, capture_mode="single_frame"), 20)
    assert again.error is not None
    assert again.error.code == "decode_failed"
    assert crashed.get() == workers + 3  # no worker was given a picture of it
    assert STREAMS_CONDEMNED._value.get() == condemned + 1
    done = await kit.completed(good, 30)
    assert (done.progress.stored, done.progress.dropped) == (40, {})
