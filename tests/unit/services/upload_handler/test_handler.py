"""UploadHandler with a store of this test: which files become records, which errors decide."""

from __future__ import annotations

import asyncio
import hashlib
import io
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest
from PIL import Image

from config import Settings
from models.schemas import FrameMeta, UploadIngestionRequest
from models.values import ReceivedFile, SourceType, TimestampSource
from services.storage_service.service import StorageService
from services.upload_handler.handler import UploadHandler
from utils.exceptions import ShuttingDown, StorageUnavailable
from utils.ids import frame_id

REQUEST = UUID("0190a0b0-0000-7000-8000-000000000001")
ARRIVED = datetime(2026, 5, 4, 13, 30, tzinfo=UTC)


class Store:
    """Keeps what was put; fails for contents in `broken`."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, str, str]] = {}
        self.broken: set[bytes] = set()
        self.at_once = self.most_at_once = 0

    async def put_file(self, key: str, path: Path, size: int, content_type: str, sha256_hex: str) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0.01)
        self.at_once -= 1
        data = path.read_bytes()
        if data in self.broken:
            raise StorageUnavailable()
        assert len(data) == size
        self.objects[key] = (data, content_type, sha256_hex)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture(scope="module")
async def shared() -> AsyncIterator[UploadHandler]:
    """Its processes are started once."""
    made = UploadHandler(Settings(_env_file=None), cast(StorageService, Store()))
    yield made
    await made.close()


@pytest.fixture
def handler(shared: UploadHandler, store: Store) -> UploadHandler:
    shared._storage = cast(StorageService, store)
    return shared


@pytest.fixture
async def own(store: Store) -> UploadHandler:
    """One that the test closes."""
    return UploadHandler(Settings(_env_file=None), cast(StorageService, store))


@pytest.fixture
def received(tmp_path: Path) -> Any:
    def make(index: int, name: str | None, data: bytes, **fields: Any) -> ReceivedFile:
        path = tmp_path / f"part{index}"
        path.write_bytes(data)
        return ReceivedFile(index, name, None, path, len(data), hashlib.sha256(data).hexdigest(), **fields)

    return make


def picture(fmt: str, colour: int = 0, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (16, 8), (colour, 0, 0)).save(out, fmt, **options)
    return out.getvalue()


def form(**meta: Any) -> UploadIngestionRequest:
    return UploadIngestionRequest(camera_id="pit-1", meta=FrameMeta(**meta))


async def test_each_format_becomes_a_record_with_its_bytes_unchanged(
    handler: UploadHandler, store: Store, received: Any
) -> None:
    data = [picture("JPEG"), picture("PNG"), picture("BMP"), picture("TIFF")]
    names = ["a.JPG", "b.png", "c.bmp", "d.tif"]
    files = [received(i, name, body) for i, (name, body) in enumerate(zip(names, data, strict=True))]
    result = await handler.process(REQUEST, form(session="FP1"), files, ARRIVED)
    assert result.rejected == []
    assert result.first_error is None
    types = [("jpg", "image/jpeg"), ("png", "image/png"), ("bmp", "image/bmp"), ("tiff", "image/tiff")]
    for i, record in enumerate(result.records):
        assert (record.sequence, record.filename, record.source_type) == (i, names[i], SourceType.UPLOAD)
        assert (record.format, record.content_type) == types[i]
        assert (record.width, record.height, record.size_bytes) == (16, 8, len(data[i]))
        assert record.frame_id == frame_id(REQUEST, i, ARRIVED)
        assert re.fullmatch(rf"frames/2026/05/04/pit-1/{record.frame_id}-[0-9a-f]{{16}}\.{types[i][0]}", record.storage_path)
        assert store.objects[record.storage_path] == (data[i], types[i][1], record.sha256)
        assert (record.timestamp, record.timestamp_source, record.meta) == (
            ARRIVED,
            TimestampSource.UPLOAD,
            {"session": "FP1"},
        )


@pytest.mark.parametrize("kept", [False, True])
async def test_where_a_picture_was_taken_is_told_only_if_the_operator_says_so(
    store: Store, received: Any, kept: bool
) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Canon"
    exif.get_ifd(0x8825).update({1: "N", 2: (45.0, 37.0, 12.0), 3: "E", 4: (9.0, 17.0, 24.0)})
    upload = {"KEEP_GPS": True} if kept else {}
    made = UploadHandler(Settings(_env_file=None, UPLOAD=upload), cast(StorageService, store))
    data = [picture("JPEG", exif=exif), picture("PNG", exif=exif)]
    names = ["a.jpg", "b.png"]
    files = [received(i, name, body) for i, (name, body) in enumerate(zip(names, data, strict=True))]
    result = await made.process(REQUEST, form(), files, ARRIVED)
    await made.close()
    place = {"gps": {"lat": 45.62, "lon": 9.29}} if kept else {}
    assert [record.exif for record in result.records] == [{"make": "Canon", **place}] * 2
    assert [store.objects[record.storage_path][0] for record in result.records] == data  # the bytes are the client's


async def test_the_clients_time_dates_every_file_and_its_key(handler: UploadHandler, received: Any) -> None:
    ref = datetime(2025, 12, 31, 23, 0, tzinfo=UTC)
    result = await handler.process(
        REQUEST,
        form(timestamp_ref=ref),
        [received(0, "a.jpg", picture("JPEG")), received(1, "b.jpg", picture("JPEG", 9))],
        ARRIVED,
    )
    assert {(r.timestamp, r.timestamp_source) for r in result.records} == {(ref, TimestampSource.CLIENT)}
    assert len({r.frame_id for r in result.records}) == 2
    assert all(r.storage_path.startswith("frames/2025/12/31/") for r in result.records)


async def test_the_same_upload_again_has_the_same_ids_and_other_keys(handler: UploadHandler, received: Any) -> None:
    files = [received(0, "a.jpg", picture("JPEG"))]
    first = await handler.process(REQUEST, form(), files, ARRIVED)
    second = await handler.process(REQUEST, form(), files, ARRIVED)
    assert first.records[0].frame_id == second.records[0].frame_id
    assert first.records[0].storage_path != second.records[0].storage_path


async def test_bad_files_do_not_stop_good_ones(handler: UploadHandler, store: Store, received: Any) -> None:
    files = [
        received(0, "note.jpg", b"text"), received(1, "ok.jpg", picture("JPEG")), received(2, "x.gif", picture("GIF")),
        received(3, "cut.png", picture("PNG")[:-20]), received(4, "big.jpg", b"", too_large=True),
        received(5, "a.svg", picture("JPEG")),
        received(6, "empty.jpg", b""), received(7, "ok.png", picture("PNG")),
    ]  # fmt: skip
    result = await handler.process(REQUEST, form(), files, ARRIVED)
    assert [record.sequence for record in result.records] == [1, 7]
    assert [(item.index, item.code, item.retryable) for item in result.rejected] == [
        (0, "image_type_mismatch", False), (2, "unsupported_image_format", False), (3, "invalid_image", False),
        (4, "payload_too_large", False), (5, "unsupported_image_format", False), (6, "invalid_image", False),
    ]  # fmt: skip
    assert all(item.detail for item in result.rejected)
    assert result.first_error is not None
    assert result.first_error.code == "image_type_mismatch"
    assert len(store.objects) == 2


async def test_a_failed_put_is_one_retryable_refusal_and_decides_before_the_clients_errors(
    handler: UploadHandler, store: Store, received: Any
) -> None:
    bad = picture("JPEG", 50)
    store.broken.add(bad)
    files = [received(0, "x.gif", b"GIF89a"), received(1, "bad.jpg", bad), received(2, "ok.jpg", picture("JPEG"))]
    result = await handler.process(REQUEST, form(), files, ARRIVED)
    assert [record.sequence for record in result.records] == [2]
    assert [(item.index, item.code, item.retryable) for item in result.rejected] == [
        (0, "unsupported_image_format", False), (1, "storage_unavailable", True),
    ]  # fmt: skip
    assert isinstance(result.first_error, StorageUnavailable)


async def test_a_temporary_file_that_is_gone_or_short_is_our_error(handler: UploadHandler, received: Any) -> None:
    gone, short = received(0, "a.jpg", picture("JPEG")), received(1, "b.jpg", picture("JPEG"))
    gone.path.unlink()
    short.path.write_bytes(picture("JPEG")[:-5])
    result = await handler.process(REQUEST, form(), [gone, short], ARRIVED)
    assert [item.code for item in result.rejected] == ["internal_error", "internal_error"]
    assert str(gone.path) not in result.rejected[0].detail


async def test_many_files_are_bounded_and_stay_in_order(handler: UploadHandler, store: Store, received: Any) -> None:
    files = [received(i, f"{i}.jpg", picture("JPEG", i)) for i in range(40)]
    result = await handler.process(REQUEST, form(), files, ARRIVED)
    assert [record.sequence for record in result.records] == list(range(40))
    assert 1 < store.most_at_once <= Settings().UPLOAD.DECODE_PROCESSES + 2


async def test_after_close_it_says_so(own: UploadHandler, received: Any) -> None:
    await own.close()
    with pytest.raises(ShuttingDown):
        await own.process(REQUEST, form(), [received(0, "a.jpg", picture("JPEG"))], ARRIVED)
    await own.close()


async def test_files_that_wait_at_close_are_refused_not_cancelled(own: UploadHandler, received: Any) -> None:
    files = [received(i, f"{i}.jpg", picture("JPEG", i)) for i in range(30)]
    running = asyncio.create_task(own.process(REQUEST, form(), files, ARRIVED))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await own.close()
    result = await running
    assert len(result.records) + len(result.rejected) == 30
    assert {item.code for item in result.rejected} == {"shutting_down"}


async def test_cancelling_it_cancels(handler: UploadHandler, received: Any) -> None:
    running = asyncio.create_task(handler.process(REQUEST, form(), [received(0, "a.jpg", picture("JPEG"))], ARRIVED))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


@pytest.mark.paced
async def test_large_pictures_do_not_hold_up_the_event_loop(handler: UploadHandler, received: Any) -> None:
    noise = Image.effect_noise((3000, 2000), 90)
    out, png = io.BytesIO(), io.BytesIO()
    noise.save(out, "JPEG", quality=95)
    noise.save(png, "PNG", compress_level=1)
    files = [
        received(0, "a.jpg", out.getvalue()),
        received(1, "b.png", png.getvalue()),
        received(2, "c.jpg", out.getvalue()),
    ]
    worst, running = 0.0, asyncio.create_task(handler.process(REQUEST, form(), files, ARRIVED))
    while not running.done():
        started = asyncio.get_running_loop().time()
        await asyncio.sleep(0.001)
        worst = max(worst, asyncio.get_running_loop().time() - started)
    assert len((await running).records) == 3
    assert worst < 0.15


async def test_the_cameras_time_zone_is_asked_for_where_a_time_depends_on_it(handler: UploadHandler, received: Any) -> None:
    asked = 0

    async def rome() -> str | None:
        nonlocal asked
        asked += 1
        return "Europe/Rome"

    def dated(**tags: str) -> bytes:
        exif = Image.Exif()
        exif.get_ifd(0x8769).update({0x9003: "2026:05:04 15:00:00"} | {int(k[1:], 16): v for k, v in tags.items()})
        return picture("JPEG", exif=exif)

    local, offset = received(0, "a.jpg", dated()), received(1, "b.jpg", dated(x9011="+00:00"))
    result = await handler.process(REQUEST, form(), [local, offset], ARRIVED + timedelta(days=1), rome)
    assert [record.timestamp.hour for record in result.records] == [13, 15]
    assert asked == 1
    ref = datetime(2026, 5, 4, 9, tzinfo=UTC)
    await handler.process(REQUEST, form(timestamp_ref=ref), [local], ARRIVED, rome)
    await handler.process(REQUEST, form(), [received(2, "c.jpg", picture("JPEG"))], ARRIVED, rome)
    assert asked == 1
