"""Cameras whose pictures crash their decoder, or keep it spinning, beside others in one process: nobody else loses one."""

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
from services.rtsp_capture.streams.trials import PROOF
from services.storage_service.service import StorageService
from tests.conftest import Backends, unique
from tests.kits import worker_jobs
from tests.kits.capture_kit import Kit, open_kit
from utils.metrics import STREAMS_CONDEMNED, WORKERS_REPLACED


@pytest.fixture(scope="module")
def camera(films: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Camera]:
    folder, films = tmp_path_factory.mktemp("films"), {"h264": films["h264"]}
    for name, width in (("aborts", worker_jobs.ABORTING_WIDTH), ("spins", worker_jobs.SPINNING_WIDTH)):
        films[name] = make_film(
            folder, codec="h264", width=width, height=192, fps=25, seconds=4.0, bitrate=300_000, bframes=0, gop=25
        )  # fmt: skip
    with Camera(films) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def kit(
    backends: Backends, storage: StorageService, reader: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Kit]:
    async with open_kit(backends, storage, tmp_path_factory.mktemp("data"), READER=reader, TRIAL_TIMEOUT=2) as made:
        yield made


async def test_streams_that_crash_their_decoder_or_keep_it_spinning_end_alone(
    kit: Kit, camera: Camera, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_job, "DECODE", f"{worker_jobs.__name__}:hostile_decode")
    replaced = {reason: WORKERS_REPLACED.labels(pool="streams", reason=reason)._value for reason in ("crashed", "timeout")}
    before = {reason: value.get() for reason, value in replaced.items()}
    condemned = STREAMS_CONDEMNED._value.get()
    fields: dict[str, Any] = {"capture_mode": "continuous", "fps": 5.0, "sampling": "exact"}
    good = await kit.submit(camera.url_of("h264"), **fields, capture_duration=10.0)
    await kit.until(good, lambda r: r.progress.stored > PROOF, 30)
    cameras = {name: unique() for name in ("aborts", "spins")}
    endless = {**fields, "capture_duration": 60.0}
    bad = [await kit.submit(camera.url_of(name), camera_id, **endless) for name, camera_id in cameras.items()]
    for request in bad:
        ended = await kit.final(request, 60)
        assert ended.status is IngestionStatus.FAILED
        assert ended.error is not None
        assert (ended.error.code, ended.error.retryable) == ("decode_failed", True)
        assert "again and again" in ended.error.message
        assert ended.progress.stored == 0
    for name, camera_id in cameras.items():
        again = await kit.final(await kit.submit(camera.url_of(name), camera_id, capture_mode="single_frame"), 20)
        assert again.error is not None
        assert again.error.code == "decode_failed"
    # Three workers each: none was given a picture of a condemned stream.
    assert {reason: value.get() - before[reason] for reason, value in replaced.items()} == {"crashed": 3, "timeout": 3}
    assert STREAMS_CONDEMNED._value.get() == condemned + 2
    done = await kit.completed(good, 30)
    assert (done.progress.stored, done.progress.dropped) == (50, {})
