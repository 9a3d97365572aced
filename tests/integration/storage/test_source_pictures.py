"""Stored source pictures on a real PostgreSQL and a real S3 server: shown, and what their first decoding told."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from config import Settings
from models.access import ANONYMOUS
from models.values import FrameRecord, SourceType, TimestampSource
from services.quality.keeper import QualityKeeper
from services.reads.jpegs import Jpegs
from services.reads.thumbnails import Thumbnails
from services.rtsp_capture.frames.integrity import FrameIntegrity
from services.rtsp_capture.frames.source_checks import SourceChecks
from services.rtsp_capture.media.decode_job import PRELOAD
from services.rtsp_capture.media.jpeg import encode_jpeg
from services.rtsp_capture.media.packets import PictureFile
from services.rtsp_capture.media.seen import detach_seen
from services.rtsp_capture.media.source_reading import check, open_source
from services.storage_service.keys import fresh_object_key
from services.upload_handler.handler import UploadHandler
from tests.conftest import Backends, unique
from tests.integration.storage.test_repositories import add_capture
from tests.kits.source_pictures import black_file, damaged_file, file_of
from tests.kits.sweep_kit import AT, Place, open_place
from utils.exceptions import InvalidImage
from utils.ids import frame_id
from utils.metrics import SOURCE_PICTURES_DECODED
from utils.process_pool import ProcessPool

MAX_PIXELS = 50_000_000


@dataclass
class Made:
    place: Place
    uploads: UploadHandler
    quality: QualityKeeper

    @property
    def noted(self) -> FrameIntegrity:
        return FrameIntegrity(self.place.database, self.quality)

    @property
    def jpegs(self) -> Jpegs:
        return Jpegs(self.place.database, self.place.storage, self.uploads, self.noted)

    @property
    def thumbnails(self) -> Thumbnails:
        return Thumbnails(self.place.database, self.place.storage, self.uploads, self.noted)

    async def frame(self, file: PictureFile, at: datetime = AT) -> FrameRecord:
        """A captured frame with that file."""
        request_id = await add_capture(self.place.database)
        identity = frame_id(request_id, 0, at)
        key = fresh_object_key("cam", identity, at, file.format)
        await self.place.storage.put(key, file.data, file.content_type, file.sha256)
        record = FrameRecord(
            frame_id=identity, request_id=request_id, camera_id="cam", source_type=SourceType.RTSP, sequence=0,
            storage_path=key, timestamp=at, timestamp_source=TimestampSource.RECEIPT, timestamp_uncertainty_ms=None,
            width=file.width, height=file.height, size_bytes=len(file.data), format=file.format,
            content_type=file.content_type, sha256=file.sha256, integrity=file.integrity,
            meta={"integrity": "unknown"} if file.silent else {},
        )  # fmt: skip
        await self.place.database.record(request_id, [record], {}, 1, [])
        return record

    async def integrity_of(self, record: FrameRecord) -> str:
        return str((await self.place.sql("SELECT integrity FROM frames WHERE id = :id", id=record.frame_id))[0][0])

    async def quality_of(self, record: FrameRecord) -> dict[str, Any] | None:
        found: dict[str, Any] | None = (
            await self.place.sql("SELECT quality FROM frames WHERE id = :id", id=record.frame_id)
        )[0][0]
        return found


@pytest_asyncio.fixture(scope="module")
async def made(backends: Backends, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Made]:
    async with open_place(backends, f"sources-{secrets.token_hex(5)}") as place:
        await place.marker.check()
        settings = Settings(_env_file=None, DATA_DIR=tmp_path_factory.mktemp("sources"))
        uploads, quality = UploadHandler(settings, place.storage), QualityKeeper(settings.QUALITY, place.database)
        try:
            yield Made(place, uploads, quality)
        finally:
            await uploads.close()
            await quality.close()


@pytest_asyncio.fixture(scope="module")
async def pool() -> AsyncIterator[ProcessPool]:
    made = ProcessPool("streams", 1, max_memory=2_000_000_000, allowance=200_000_000, preload=PRELOAD, timeout=20)
    yield made
    await made.close()


def count(outcome: str) -> float:
    return float(SOURCE_PICTURES_DECODED.labels(outcome=outcome)._value.get())


@pytest.mark.parametrize("name", ["h264", "hevc b open"])
async def test_as_jpeg_it_is_what_a_capture_of_jpegs_would_have_stored(made: Made, name: str) -> None:
    file, before = file_of(name), count("verified")
    record = await made.frame(file)
    assert await made.integrity_of(record) == "undecoded"
    content = await made.jpegs.open(record.frame_id, ANONYMOUS)
    assert content is not None
    jpeg = encode_jpeg(open_source(file.data, MAX_PIXELS).frame, 90)
    expected = jpeg.data
    assert await content.size() == len(expected)
    assert [chunk async for chunk in content.read(10, 20)] == [expected[10:20]]
    assert content.disposition == 'inline; filename="cam-20260504T133000.000000Z.jpg"'
    assert await made.integrity_of(record) == "verified"
    quality = await made.quality_of(record)
    assert quality is not None
    assert jpeg.measures is not None  # full range: what is measured of both can be compared
    assert quality["sharpness"] == pytest.approx(jpeg.measures.sharpness, rel=0.05)
    assert quality["brightness"] == pytest.approx(jpeg.measures.brightness, abs=1.0)
    again = await made.jpegs.open(record.frame_id, ANONYMOUS)
    assert again is not None
    assert await again.size() == len(expected)
    assert count("verified") == before + 1  # of who decodes it, the first one is counted


async def test_a_thumbnail_tells_of_damage_and_is_shown(made: Made, capfd: pytest.CaptureFixture[str]) -> None:
    record, before = await made.frame(damaged_file()), count("damaged")
    thumbnail = await made.thumbnails.get(record.frame_id, 160, ANONYMOUS)
    assert (await thumbnail.load()).startswith(b"\xff\xd8")
    assert await made.integrity_of(record) == "unknown"
    assert await made.quality_of(record) is None  # of what was lost it would tell
    assert count("damaged") == before + 1
    assert "source_picture_damaged" in capfd.readouterr().out


async def test_what_has_no_picture_is_invalid_and_told(made: Made) -> None:
    data = file_of().data[:40] + secrets.token_bytes(2000)
    record = await made.frame(replace(file_of(), data=data, sha256=hashlib.sha256(data).hexdigest()))
    content = await made.jpegs.open(record.frame_id, ANONYMOUS)
    assert content is not None
    with pytest.raises(InvalidImage):
        await content.size()
    assert await made.integrity_of(record) == "unknown"


async def test_where_loss_leaves_no_sign_a_whole_picture_is_not_verified(made: Made) -> None:
    record = await made.frame(replace(file_of("hevc"), silent=True))
    content = await made.jpegs.open(record.frame_id, ANONYMOUS)
    assert content is not None
    await content.size()
    assert await made.integrity_of(record) == "unknown"


async def test_a_share_is_decoded_in_the_background_once_the_machine_is_idle(made: Made, pool: ProcessPool) -> None:
    idle = False
    checks = SourceChecks(1.0, pool, MAX_PIXELS, made.noted, lambda: idle)
    files = {"verified": file_of(number=2), "unknown": damaged_file("h264 slices")}
    records = {outcome: await made.frame(file) for outcome, file in files.items()}
    checks.start()
    try:
        for outcome, record in records.items():
            checks.offer(record, files[outcome])
        await asyncio.sleep(0)
        assert {await made.integrity_of(record) for record in records.values()} == {"undecoded"}
        idle = True
        async with asyncio.timeout(30):
            for outcome, record in records.items():
                while await made.integrity_of(record) == "undecoded":
                    await asyncio.sleep(0.05)
                assert await made.integrity_of(record) == outcome
    finally:
        await checks.stop()


async def test_what_is_checked_in_the_background_is_the_cameras_baseline_and_what_is_looked_at_later_is_not(
    made: Made, pool: ProcessPool
) -> None:
    quality = QualityKeeper(Settings(_env_file=None).QUALITY, made.place.database)
    noted = FrameIntegrity(made.place.database, quality)
    checks = SourceChecks(1.0, pool, MAX_PIXELS, noted, lambda: True)
    camera = unique()
    records = [
        replace(await made.frame(file_of(number=number % 3), AT + timedelta(seconds=2 * number)), camera_id=camera)
        for number in range(6)
    ]
    for number, record in enumerate(records):  # all wait before the first is judged
        checks.offer(record, file_of(number=number % 3))
    checks.start()
    try:
        async with asyncio.timeout(30):
            while await made.quality_of(records[-1]) is None:
                await asyncio.sleep(0.05)
        told = [await made.quality_of(record) for record in records]
        assert [one is not None and one["verdict"] for one in told] == ["good"] * 6
        assert [one is not None and one["frozen_s"] for one in told] == [0.0] * 6  # in the order of capture
        judge = quality._cameras[camera, SourceType.RTSP].judge
        assert (judge.learnt, judge.learnt_total) == (6, 6)
        black = black_file()
        record = replace(await made.frame(black, AT + timedelta(seconds=60)), camera_id=camera)
        seen, _ = detach_seen(*check(MAX_PIXELS, black.data), 1)
        assert seen[0] is not None
        for _ in range(10):
            await noted.decoded(record.frame_id, camera, record.timestamp, seen[0], silent=False, aside=True)
        late = await made.quality_of(record)
        assert late is not None
        assert (late["verdict"], late["reasons"], late["frozen_s"]) == ("bad", ["flat", "dark"], None)
        assert (judge.learnt_total, quality.changed.is_set()) == (6, False)
    finally:
        await checks.stop()
        await quality.close()
