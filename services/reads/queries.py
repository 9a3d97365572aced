"""Reads for clients: requests and frames as the contract shows them, lists by keyset, a frame's bytes, its deletion.

Longer than 250 lines: every read for a client limits itself to the caller's cameras in one way.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic_core import from_json, to_json

from models.access import CameraGrant, Principal
from models.entities import CaptureGap, Frame, IngestionRequest
from models.schemas import (
    EventPage,
    FrameInfo,
    IngestionResponse,
    NearestFrame,
    RequestPage,
    VerifiedFrame,
)
from models.schemas.base import format_time
from models.values import FINAL_STATUSES, EventFilter, FrameFilter, RequestFilter, SourceType
from repositories.database import Database, UnitOfWork
from repositories.frames import Removal
from repositories.hot_reads import Place, Version
from repositories.uploads import StoredUpload
from services.access.cursors import Cursors
from services.housekeeping.object_deletion import delete_objects
from services.reads.kept import Kept, KeptFrame, KeptRequest
from services.reads.serializers.capture_events import to_event, window_of
from services.reads.serializers.frames import frame_json, served, to_frame_info
from services.reads.serializers.requests import request_json, to_summary
from services.storage_service.service import Digest, StorageService
from utils.concurrency_limit import ConcurrencyLimit
from utils.exceptions import FrameNotFound, ObjectMissing, RequestNotFound
from utils.logger import get_logger
from utils.metrics import INTEGRITY_VIOLATIONS
from utils.secret_box import SecretBox

log = get_logger(__name__)

VERIFIED_AT_ONCE = 2
VERIFY_WAITING = 20
_FINAL = frozenset(status.value for status in FINAL_STATUSES)
CAPTURE_FRAMES = 100  # newest frames of a capture in its status


@dataclass(frozen=True, slots=True)
class FrameContent:
    """A stored frame's bytes, to be read in ranges."""

    etag: str
    content_type: str
    disposition: str
    presigned_url: str
    _size: int
    _key: str
    _storage: StorageService

    async def size(self) -> int:
        """In bytes."""
        return self._size

    async def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """The bytes [start, stop) in chunks. Raises StorageUnavailable, ObjectMissing."""
        async for chunk in self._storage.read_range(self._key, start, stop):
            yield chunk


async def read_request(
    uow: UnitOfWork, request_id: UUID, cameras: CameraGrant
) -> tuple[IngestionRequest, list[CaptureGap], list[Frame]]:
    """A request's row, its gaps and the frames that are shown with it. Raises RequestNotFound."""
    row = await uow.requests.visible(request_id, cameras)
    if row is None:
        raise RequestNotFound
    upload = row.source_type == SourceType.UPLOAD.value
    limit = row.expected if upload else CAPTURE_FRAMES
    frames = await uow.frames.of_request(request_id, newest_first=not upload, limit=limit)
    return row, [] if upload else await uow.requests.gaps(request_id), frames


def _with_frames(head: bytes, frames: list[bytes]) -> bytes:
    """A request's JSON, and its frames behind its other members."""
    return b'%b,"frames":[%b]}' % (head[:-1], b",".join(frames))


class Queries:
    """Raises RequestNotFound, FrameNotFound, InvalidRequest for a cursor, DatabaseUnavailable, StorageUnavailable."""

    def __init__(self, database: Database, storage: StorageService, secrets: SecretBox, cursors: Cursors) -> None:
        self._database = database
        self._storage = storage
        self._secrets = secrets
        self._cursors = cursors
        self._frames: Kept[UUID, KeptFrame] = Kept("frame", KeptFrame.size)
        self._requests: Kept[UUID, KeptRequest] = Kept("request", lambda kept: len(kept.head))
        self._verifying = ConcurrencyLimit(
            VERIFIED_AT_ONCE, VERIFY_WAITING, "Too many frames are being verified. Try again."
        )

    async def request_body(self, request_id: UUID, who: Principal) -> bytes:
        """The request, its ledger in one snapshot, its frames: an upload's all, a capture's newest 100. An
        IngestionResponse as JSON."""
        kept = self._requests.get(request_id)
        if kept is not None and who.cameras.covers(kept.camera_id):
            current = await self._database.hot.request_versions(request_id, newest_first=kept.newest_first, limit=kept.limit)
            if current is not None and current[0] == kept.version:
                self._requests.count(1, 0)
                return _with_frames(kept.head, await self._frames_of(current[1], who))
            self._requests.drop(request_id)
        found = await self._database.hot.request(request_id, who.cameras, newest=CAPTURE_FRAMES)
        if found is None:
            raise RequestNotFound
        self._requests.count(0, 1)
        row, gaps, frames = found
        head = to_json(request_json(row, gaps, self._secrets, row.lease_owner))
        if row.lease_owner is None and row.status in _FINAL:
            capture = row.capture_mode is not None
            limit = CAPTURE_FRAMES if capture else row.expected
            self._requests.put(request_id, KeptRequest(row.version, row.camera_id, capture, limit, head))
        return _with_frames(head, await self._frames_of(frames, who))

    async def upload_body(self, stored: StoredUpload) -> bytes:
        """An upload as it was committed: what `request_body` would read."""
        urls = await self._storage.presign([served(frame) for frame in stored.frames])
        frames = [frame_json(frame, url) for frame, url in zip(stored.frames, urls, strict=True)]
        return to_json({**request_json(stored.request, [], self._secrets), "frames": frames})

    async def get_request(self, request_id: UUID, who: Principal) -> IngestionResponse:
        """The same as a model."""
        return IngestionResponse.model_validate(from_json(await self.request_body(request_id, who)))

    async def list_requests(self, wanted: RequestFilter, limit: int, cursor: str | None, who: Principal) -> RequestPage:
        """Requests, newest first."""
        after = self._cursors.decode(cursor, wanted, who, UUID)
        async with self._database.reading() as uow:
            rows = await uow.requests.find(wanted, who.cameras, after=after, limit=limit + 1)
            ids = [row.id for row in rows[:limit]]
            gaps, owners = await uow.requests.gaps_of(ids), await uow.leases.owners(ids)
        more = rows[limit - 1] if len(rows) > limit else None
        return RequestPage(
            items=[to_summary(row, gaps[row.id], self._secrets, owners.get(row.id)) for row in rows[:limit]],
            next_cursor=self._cursors.encode(more.created_at, more.id, wanted, who) if more else None,
        )

    async def list_events(self, request_id: UUID, limit: int, cursor: str | None, who: Principal) -> EventPage:
        """A request's events, by the time at which they began; other requests than event_driven ones have none."""
        wanted = EventFilter(request_id)
        after = self._cursors.decode(cursor, wanted, who, UUID)
        async with self._database.reading() as uow:
            request = await uow.requests.visible(request_id, who.cameras)
            if request is None:
                raise RequestNotFound
            rows = await uow.events.find(request_id, after=after, limit=limit + 1)
            windows = [window_of(row, request) for row in rows[:limit]]
            counts = await uow.events.count_frames(request_id, windows) if windows else []
        more = rows[limit - 1] if len(rows) > limit else None
        return EventPage(
            items=[to_event(*each) for each in zip(rows, windows, counts, strict=False)],
            next_cursor=self._cursors.encode(more.from_at, more.id, wanted, who) if more else None,
        )

    async def get_frame(self, frame_id: UUID, who: Principal) -> FrameInfo:
        return (await self._infos([await self._frame(frame_id, who)]))[0]

    async def info(self, row: Frame) -> FrameInfo:
        """A row that was just read, as the wire shows it."""
        return (await self._infos([row]))[0]

    async def rendered(self, frame_ids: Sequence[UUID]) -> dict[UUID, dict[str, Any]]:
        """These frames as JSON has them, by id; one that was deleted without URL and what its deletion blanked."""
        async with self._database.reading() as uow:
            rows = await uow.frames.by_ids(frame_ids)
        stored = [row for row in rows if row.state == "stored"]
        gone = [to_frame_info(row, None) for row in rows if row.state != "stored"]
        found = [*await self._infos(stored), *gone]
        return {info.frame_id: info.model_dump(mode="json", by_alias=True) for info in found}

    async def frames_body(self, wanted: FrameFilter, limit: int, cursor: str | None, who: Principal) -> bytes:
        """Stored frames by capture time: a FramePage as JSON. One that is deleted meanwhile is left out."""
        after = self._cursors.decode(cursor, wanted, who, UUID)
        places = await self._database.hot.frames(wanted, who.cameras, after=after, limit=limit + 1)
        more = places[limit - 1] if len(places) > limit else None
        items = await self._frames_of(places[:limit], who)
        next_cursor = self._cursors.encode(more[2], more[0], wanted, who) if more else None
        return b'{"items":[%b],"next_cursor":%b}' % (b",".join(items), to_json(next_cursor))

    async def nearest_frame(self, camera_id: str, at: datetime, who: Principal) -> NearestFrame:
        """The camera's frame closest in time. Raises FrameNotFound when it has none."""
        async with self._database.reading() as uow:
            row = await uow.frames.nearest(camera_id, at, who.cameras)
        if row is None:
            raise FrameNotFound("This camera has no stored frame.")
        info = (await self._infos([row]))[0]
        return NearestFrame(**dict(info), distance_ms=abs((row.capture_timestamp - at).total_seconds()) * 1000)

    async def open_frame(self, frame_id: UUID, who: Principal) -> FrameContent:
        """What is needed to hand out a frame's bytes."""
        row = await self._frame(frame_id, who)
        shown = served(row)
        (url,) = await self._storage.presign([shown])
        return FrameContent(
            f'"{row.sha256}"', shown.content_type, shown.disposition, url.url, row.size_bytes, shown.key, self._storage
        )

    async def verify_frame(self, frame_id: UUID, who: Principal) -> VerifiedFrame:
        """Reads all of a frame's object. What is wrong with it is told, logged, and noted as the sweeper does.

        Raises FrameNotFound, StorageUnavailable, Overloaded.
        """
        row = await self._frame(frame_id, who)
        found: Digest | None = None
        async with self._verifying.permit():
            try:
                found = await self._storage.digest(row.storage_path)
            except ObjectMissing:
                await self._frame(frame_id, who)  # deleted meanwhile
        if found is not None and (found.size, found.sha256) == (row.size_bytes, row.sha256):
            return VerifiedFrame(ok=True, sha256=found.sha256, size_bytes=found.size)
        size = found.size if found else None
        kind = "missing" if found is None else "size" if size != row.size_bytes else "sha256"
        fresh = True
        if kind != "sha256":  # which the sweeper, who reads no bytes, could not take back
            fresh = await self._database.retry_until_known(
                lambda uow: uow.object_keys.flag(row.id, row.storage_path, kind, size)
            )
        if fresh:
            INTEGRITY_VIOLATIONS.labels(kind=kind).inc()
            log.error("integrity_violation", kind=kind, frame_id=str(row.id), expected=row.size_bytes, found=size)
        return VerifiedFrame(ok=False, sha256=found.sha256 if found else None, size_bytes=size)

    async def delete_frame(self, frame_id: UUID, who: Principal, *, force: bool = False) -> None:
        """Deletes row and object; repeated or unknown: nothing. The row stays as the slot's tombstone.

        Should the object store be away, the frame is gone for clients, and retention deletes its object later.
        `force`: one in pairs, too; they go with it. Raises FrameOnHold, FrameInPair.
        """

        async def begin(uow: UnitOfWork) -> str | None:
            key = await uow.frames.begin_delete(frame_id, who.cameras, pairs=force)
            if key is not None:
                await uow.audit.write(frame_id, "frame.delete")
            return key

        key = await self._database.retry_until_known(begin)
        if key is not None:
            await delete_objects(self._database, self._storage, [Removal(frame_id, key)])

    async def hold_frame(self, frame_id: UUID, reason: str | None, who: Principal) -> FrameInfo:
        """Neither clients nor retention delete the frame until it is released. Raises FrameNotFound."""
        row = await self._database.retry_until_known(lambda uow: uow.frames.hold(frame_id, reason, who.cameras))
        if row is None:
            raise FrameNotFound
        return await self.info(row)

    async def release_frame(self, frame_id: UUID, who: Principal) -> None:
        """Ends the hold; a frame on none stays as it is. Raises FrameNotFound."""
        if not await self._database.retry_until_known(lambda uow: uow.frames.release(frame_id, who.cameras)):
            raise FrameNotFound

    async def _frame(self, frame_id: UUID, who: Principal) -> Frame:
        async with self._database.reading() as uow:
            row = await uow.frames.get_stored(frame_id, who.cameras)
        if row is None:
            raise FrameNotFound
        return row

    async def _frames_of(self, wanted: Sequence[Version] | Sequence[Place], who: Principal) -> list[bytes]:
        """These frames as JSON, in order, with URLs of this moment: kept ones of that version, the others as they are now.

        Frames that are no longer stored are left out.
        """
        found = self._frames.current(wanted)
        missing = [each[0] for each in wanted if each[0] not in found]
        if missing:
            for row in await self._database.hot.frames_by_ids(missing, who.cameras):
                found[row.id] = entry = KeptFrame.of(row, self._storage.prepare)
                self._frames.put(row.id, entry)
        entries = [found[each[0]] for each in wanted if each[0] in found]
        urls, expires_at = self._storage.sign([entry.prepared for entry in entries])
        expires = to_json(format_time(expires_at))
        return [entry.json(url, expires) for entry, url in zip(entries, urls, strict=True)]

    async def _infos(self, rows: Sequence[Frame]) -> list[FrameInfo]:
        urls = await self._storage.presign([served(row) for row in rows])
        return [to_frame_info(row, url) for row, url in zip(rows, urls, strict=True)]
