"""Thumbnails on a real PostgreSQL and a real S3 server: made once, kept, gone with their frame."""

from __future__ import annotations

import asyncio
import io
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio
from PIL import Image

from config import Settings
from models.access import ANONYMOUS
from models.values import FrameRecord
from repositories.frames import Removal
from services.housekeeping.object_deletion import delete_objects
from services.quality.keeper import QualityKeeper
from services.reads.thumbnails import Thumbnails
from services.rtsp_capture.frames.integrity import FrameIntegrity
from services.storage_service.keys import thumbnail_key, thumbnail_keys
from services.upload_handler.check_call import Converted
from services.upload_handler.handler import UploadHandler
from tests.conftest import Backends
from tests.kits.service_support import jpeg
from tests.kits.sweep_kit import Place, open_place
from utils.exceptions import FrameNotFound, InvalidImage, StorageUnavailable
from utils.metrics import THUMBNAILS


@dataclass
class Made:
    place: Place
    uploads: UploadHandler
    quality: QualityKeeper

    def anew(self) -> Thumbnails:
        """As another process has them: nothing in memory."""
        return Thumbnails(
            self.place.database, self.place.storage, self.uploads, FrameIntegrity(self.place.database, self.quality)
        )

    async def frame(self) -> FrameRecord:
        return await self.place.frame(data=jpeg((640, 360)))

    async def delete(self, frame: FrameRecord) -> None:
        async with self.place.database.unit_of_work() as uow:
            key = await uow.frames.begin_delete(frame.frame_id, ANONYMOUS.cameras)
        assert key is not None
        await delete_objects(self.place.database, self.place.storage, [Removal(frame.frame_id, key)])


@pytest_asyncio.fixture(scope="module")
async def made(backends: Backends, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Made]:
    async with open_place(backends, f"thumbs-{secrets.token_hex(5)}") as place:
        await place.marker.check()
        settings = Settings(_env_file=None, DATA_DIR=tmp_path_factory.mktemp("thumbs"))
        uploads, quality = UploadHandler(settings, place.storage), QualityKeeper(settings.QUALITY, place.database)
        try:
            yield Made(place, uploads, quality)
        finally:
            await uploads.close()
            await quality.close()


def count(outcome: str) -> float:
    return float(THUMBNAILS.labels(outcome=outcome)._value.get())


async def test_it_is_made_once_and_kept(made: Made) -> None:
    frame, before = await made.frame(), count("made")
    thumbnails = made.anew()
    first = await thumbnails.get(frame.frame_id, 161, ANONYMOUS)
    assert first.etag == f'"{frame.sha256}-320"'
    several = await asyncio.gather(*(first.load() for _ in range(5)))
    assert len(set(several)) == 1
    assert Image.open(io.BytesIO(several[0])).size[0] == 320
    assert count("made") == before + 1
    assert await made.place.storage.get(thumbnail_key(frame.storage_path, 320)) == several[0]
    again = await made.anew().get(frame.frame_id, 320, ANONYMOUS)
    assert await again.load() == several[0]
    assert count("made") == before + 1


async def test_it_goes_with_its_frame(made: Made) -> None:
    frame, other = await made.frame(), await made.frame()
    for one in (frame, other):
        for width in (160, 1024):
            await (await made.anew().get(one.frame_id, width, ANONYMOUS)).load()
    await made.delete(frame)
    kept = await made.place.keys("thumbnails/")
    assert kept & set(thumbnail_keys(frame.storage_path)) == set()
    assert kept >= {thumbnail_key(other.storage_path, width) for width in (160, 1024)}
    with pytest.raises(FrameNotFound):
        await made.anew().get(frame.frame_id, 160, ANONYMOUS)


async def test_a_frame_that_is_deleted_meanwhile_leaves_none(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = await made.frame()
    thumbnail = await made.anew().get(frame.frame_id, 320, ANONYMOUS)
    make = made.uploads.thumbnail

    async def late(*arguments: object) -> Converted:
        data = await make(*arguments)  # type: ignore[arg-type]
        await made.delete(frame)
        return data

    monkeypatch.setattr(made.uploads, "thumbnail", late)
    with pytest.raises(FrameNotFound):
        await thumbnail.load()
    assert thumbnail_key(frame.storage_path, 320) not in await made.place.keys("thumbnails/")


async def test_a_store_that_takes_no_writes_shows_it_all_the_same(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = await made.frame()

    async def refuses(*_: object) -> None:
        raise StorageUnavailable

    monkeypatch.setattr(made.place.storage, "put", refuses)
    assert await (await made.anew().get(frame.frame_id, 320, ANONYMOUS)).load()
    assert await made.place.keys("thumbnails/") & set(thumbnail_keys(frame.storage_path)) == set()


async def test_what_cannot_be_decoded_is_told_and_stores_nothing(made: Made) -> None:
    frame = await made.place.frame(data=b"\xff\xd8\xff\xe0 no picture")
    with pytest.raises(InvalidImage):
        await (await made.anew().get(frame.frame_id, 320, ANONYMOUS)).load()
    assert await made.place.keys("thumbnails/") & set(thumbnail_keys(frame.storage_path)) == set()


async def test_the_sweeper_takes_those_of_frames_that_are_gone(made: Made) -> None:
    frame, gone = await made.frame(), await made.place.record()
    await (await made.anew().get(frame.frame_id, 320, ANONYMOUS)).load()
    mine, left = thumbnail_key(frame.storage_path, 320), thumbnail_key(gone.storage_path, 320)
    foreign = "thumbnails/2026/05/04/cam/holiday.jpg"
    await made.place.storage.delete(gone.storage_path)
    for key in (left, foreign):
        await made.place.storage.put_marker(key, b"x", "image/jpeg")
    assert await made.place.sweeper(GRACE=3600.0).sweep()
    assert await made.place.keys("thumbnails/") >= {mine, left, foreign}  # it is young
    assert await made.place.sweeper().sweep()
    kept = await made.place.keys("thumbnails/")
    assert kept >= {mine, foreign}
    assert left not in kept
