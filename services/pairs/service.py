"""Pairs: made, matched, listed, shown; aligned at once where that takes no longer than WAIT, else in the background.

An alignment in the background runs under a lease in the pair's row, in any process; after ATTEMPTS processes that died over
it the pair is failed as `crashed`. On the event loop.

Longer than 250 lines: what is done to a pair shares its lease and what becomes of it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from models.access import ALL_CAMERAS, Principal
from models.entities import Frame, Pair
from models.schemas import FrameRef, MatchRequest, MatchResponse, MatchSide, PairCreate, PairPage, Unmatched
from models.schemas import Pair as PairInfo
from models.values import AlignmentStatus, PairFilter, PairSide
from repositories.database import Database, UnitOfWork
from services.access.cursors import Cursors
from services.pairs.frame_matching import match
from services.pairs.pair_calls import PairCalls
from services.reads.queries import Queries
from services.rtsp_capture.frames.integrity import FrameIntegrity
from services.storage_service.service import StorageService
from utils.exceptions import (
    FieldError,
    Forbidden,
    FrameNotFound,
    IngestionException,
    InvalidRequest,
    NoFrame,
    PairNotAligned,
    PairNotFound,
    SameFrame,
)
from utils.ids import new_id
from utils.kept_bytes import KeptBytes
from utils.logger import get_logger

WAIT = 10.0  # seconds for an alignment at creation
WITHIN = 5.0  # seconds, of a reference by camera and moment
LEASE = 180.0  # seconds: longer than one alignment may take
ATTEMPTS = 3
POLL_INTERVAL = 2.0  # seconds
MAX_CANDIDATES = 10_000  # frames of one side of a match
MAX_PAIRS = 200
WIDTHS = (320, 640, 960, 1280, 1920)  # pixels of views
KEPT = 33_554_432  # bytes of views in memory
ALIGNED = frozenset({AlignmentStatus.ALIGNED.value, AlignmentStatus.SAME_SIZE.value})
log = get_logger(__name__)


class Pairs:
    """Raises PairNotFound, DatabaseUnavailable beside what its methods name."""

    def __init__(
        self, database: Database, storage: StorageService, queries: Queries, cursors: Cursors, integrity: FrameIntegrity
    ) -> None:  # fmt: skip
        self._database, self._queries, self._cursors = database, queries, cursors
        self._calls = PairCalls(storage, integrity)
        self._views = KeptBytes(KEPT)
        self.pending = asyncio.Event()  # set when one waits for its alignment

    async def create(self, body: PairCreate, who: Principal) -> PairInfo:
        """The pair of these frames with this label; the one that there is, if so.

        Raises FrameNotFound, NoFrame, SameFrame, Forbidden for a camera that is not `who`'s.
        """
        async with self._database.reading() as uow:
            before = await self._resolve(uow, body.before, who, "before")
            after = await self._resolve(uow, body.after, who, "after")
            if before.id == after.id:
                raise SameFrame
            row = await uow.pairs.of_frames(before.id, after.id, body.label)
        if row is None:
            alignment = await self._align_soon(before, after) if body.align else {"status": AlignmentStatus.OFF.value}
            row = await self._insert(before, after, body.label, body.subject, body.meta, alignment)
        return await self._info(row)

    async def match(self, body: MatchRequest, who: Principal) -> MatchResponse:
        """A pair for each camera, or camera angle, that has frames on both sides; all of them are aligned in the background.

        Raises InvalidRequest for more than MAX_CANDIDATES frames or MAX_PAIRS pairs,
        Forbidden for a camera that is not `who`'s.
        """
        sides = []
        async with self._database.reading() as uow:
            for name in ("before", "after"):
                side: MatchSide = getattr(body, name)
                if side.camera_ids is not None and not who.cameras.covers_all(side.camera_ids):
                    raise Forbidden("The credential is not for this camera.")
                cameras = tuple(side.camera_ids) if side.camera_ids is not None else None
                wanted = PairSide(side.session, side.subject, side.phase, side.from_, side.to, cameras)
                found = await uow.pairs.candidates(wanted, who.cameras, MAX_CANDIDATES + 1)
                if len(found) > MAX_CANDIDATES:
                    raise InvalidRequest.of(name, f"matches more than {MAX_CANDIDATES} frames: narrow it", code="too_many")
                sides.append(found)
        pairs, missing = match(sides[0], sides[1], body.by, body.choose)
        if len(pairs) > MAX_PAIRS:
            raise InvalidRequest.of("before", f"gives more than {MAX_PAIRS} pairs: narrow it", code="too_many")
        items = []
        for before, after in pairs:
            try:
                pending = {"status": AlignmentStatus.PENDING.value}
                items.append(await self._info(await self._insert(before, after, body.label, None, {}, pending)))
            except FrameNotFound:  # deleted meanwhile
                missing.append((before.camera_id, "before", "no_frame"))
        return MatchResponse(items=items, unmatched=[Unmatched(key=k, side=s, code=c) for k, s, c in missing])

    async def get(self, pair_id: UUID, who: Principal) -> PairInfo:
        return await self._info(await self._visible(pair_id, who))

    async def page(self, wanted: PairFilter, limit: int, cursor: str | None, who: Principal) -> PairPage:
        """Pairs, newest first."""
        after = self._cursors.decode(cursor, wanted, who, UUID)
        async with self._database.reading() as uow:
            rows = await uow.pairs.find(wanted, who.cameras, after=after, limit=limit + 1)
        more = rows[limit - 1] if len(rows) > limit else None
        return PairPage(
            items=await self._infos(rows[:limit]),
            next_cursor=self._cursors.encode(more.created_at, more.id, wanted, who) if more else None,
        )

    async def delete(self, pair_id: UUID, who: Principal) -> None:
        """The pair only; its frames stay. Raises PairNotFound."""

        async def remove(uow: UnitOfWork) -> bool:
            gone = await uow.pairs.remove(pair_id, who.cameras)
            if gone:
                await uow.audit.write(pair_id, "pair.delete")
            return gone

        if not await self._database.retry_until_known(remove):
            raise PairNotFound

    async def view(self, pair_id: UUID, kind: str, width: int, who: Principal) -> tuple[str, Any]:
        """The picture's ETag, and a function that gives its bytes.

        Raises PairNotAligned, FrameNotFound. The function raises ImageTooLarge, InvalidImage, Overloaded,
        StorageUnavailable.
        """
        pair = await self._visible(pair_id, who)
        width = next((size for size in WIDTHS if size >= width), WIDTHS[-1])
        matrix = pair.alignment.get("matrix") if pair.status in ALIGNED else None
        if matrix is None and kind in ("aligned", "blend", "difference"):
            if pair.status == AlignmentStatus.PENDING.value:
                raise PairNotAligned("The alignment has not ended yet: wait for the event pair.aligned.")
            raise PairNotAligned
        before, after = await self._frames(pair)
        key = hashlib.sha256(repr((before.sha256, after.sha256, kind, width, matrix)).encode()).hexdigest()

        async def make() -> bytes:
            return await self._calls.view(before, after, kind, width, matrix)

        return f'"{key}"', lambda: self._views.get(key, make)

    # -- the background ----------------------------------------------------------------------------------------

    async def align_pending(self) -> None:
        """Aligns what waits, one after the other; for a periodic job."""
        while await self._database.hot.any_unaligned():  # nearly every poll ends here: one statement instead of four
            async with self._database.unit_of_work(events=False) as uow:
                pair = await uow.pairs.lease(LEASE)
            if pair is None:
                return
            found: dict[str, Any] = {"status": AlignmentStatus.FAILED.value, "reason": "crashed"}
            if pair.attempts <= ATTEMPTS:
                try:
                    found = await self._calls.align(*await self._frames(pair))
                except FrameNotFound:
                    continue  # deleted, and the pair with it
                except IngestionException as error:  # the store is away, or all is busy: again when the lease has lapsed
                    log.warning("pair_not_aligned_yet", pair_id=str(pair.id), code=error.code)
                    return
            await self._save(pair.id, found)

    async def close(self) -> None:
        await self._calls.close()

    async def _save(self, pair_id: UUID, alignment: dict[str, Any]) -> None:
        rest = {name: value for name, value in alignment.items() if name != "status"}
        status = AlignmentStatus(alignment["status"])
        await self._database.retry_until_known(lambda uow: uow.pairs.save(pair_id, status, rest))

    # -- parts -------------------------------------------------------------------------------------------------

    async def _align_soon(self, before: Frame, after: Frame) -> dict[str, Any]:
        try:
            async with asyncio.timeout(WAIT):
                return await self._calls.align(before, after)
        except (TimeoutError, IngestionException):
            return {"status": AlignmentStatus.PENDING.value}

    async def _insert(
        self, before: Frame, after: Frame, label: str | None, subject: str | None, meta: dict[str, Any],
        alignment: dict[str, Any],
    ) -> Pair:  # fmt: skip
        session = before.meta.get("session") or after.meta.get("session")
        values = {
            "id": new_id(), "before_id": before.id, "after_id": after.id, "before_camera": before.camera_id,
            "after_camera": after.camera_id, "label": label,
            "subject": subject or before.meta.get("subject") or after.meta.get("subject"), "session": session, "meta": meta,
            "status": alignment["status"],
            "alignment": {name: value for name, value in alignment.items() if name != "status"},
        }  # fmt: skip

        async def add(uow: UnitOfWork) -> Pair | None:
            row = await uow.pairs.create(values, [before.request_id, after.request_id])
            if row is not None and row.id == values["id"]:
                await uow.audit.write(row.id, "pair.create")
            return row

        row = await self._database.retry_until_known(add)
        if row is None:
            raise FrameNotFound("A frame of the pair was deleted meanwhile.")
        if row.status == AlignmentStatus.PENDING.value:
            self.pending.set()
        return row

    async def _resolve(self, uow: UnitOfWork, ref: FrameRef, who: Principal, name: str) -> Frame:
        if ref.frame_id is not None:
            frame = await uow.frames.get_stored(ref.frame_id, who.cameras)
            if frame is None:
                raise FrameNotFound(f"{name}: there is no such frame.")
            return frame
        assert ref.camera_id is not None
        assert ref.at is not None
        if not who.cameras.covers(ref.camera_id):
            raise Forbidden("The credential is not for this camera.")
        frame = await uow.frames.nearest(ref.camera_id, ref.at, who.cameras)
        if frame is None or abs(frame.capture_timestamp - ref.at) > timedelta(seconds=ref.within_s or WITHIN):
            raise NoFrame(errors=[FieldError("body", "at", "no_frame", NoFrame.default_message, f"/{name}/at")])
        return frame

    async def _visible(self, pair_id: UUID, who: Principal) -> Pair:
        async with self._database.reading() as uow:
            row = await uow.pairs.visible(pair_id, who.cameras)
        if row is None:
            raise PairNotFound
        return row

    async def _frames(self, pair: Pair) -> tuple[Frame, Frame]:
        async with self._database.reading() as uow:
            before = await uow.frames.get_stored(pair.before_id, ALL_CAMERAS)
            after = await uow.frames.get_stored(pair.after_id, ALL_CAMERAS)
        if before is None or after is None:
            raise FrameNotFound("A frame of the pair was deleted meanwhile.")
        return before, after

    async def _info(self, row: Pair) -> PairInfo:
        found = await self._infos([row])
        if not found:
            raise PairNotFound
        return found[0]

    async def _infos(self, rows: Sequence[Pair]) -> list[PairInfo]:
        frames = await self._queries.rendered(list({frame for row in rows for frame in (row.before_id, row.after_id)}))
        found = []
        for row in rows:
            before, after = frames[row.before_id], frames[row.after_id]
            found.append(PairInfo.model_validate({
                "pair_id": row.id, "label": row.label, "subject": row.subject, "meta": row.meta, "before": before,
                "after": after, "seconds_apart": _seconds_apart(before, after),
                "alignment": {**row.alignment, "status": row.status}, "created_at": row.created_at,
            }))  # fmt: skip
        return found


def _seconds_apart(before: dict[str, Any], after: dict[str, Any]) -> float:
    first, second = (datetime.fromisoformat(frame["timestamp"]) for frame in (before, after))
    return (second - first).total_seconds()
