"""What the first decoding of a source picture showed: integrity and quality written into its row, and damage told loudly."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from models.entities import Frame
from models.values import Integrity, SourceType
from repositories.database import Database
from services.quality.keeper import QualityKeeper
from services.rtsp_capture.media.seen import Seen
from utils.exceptions import DatabaseUnavailable
from utils.logger import get_logger
from utils.metrics import SOURCE_PICTURES_DECODED

log = get_logger(__name__)


class FrameIntegrity:
    """On the event loop."""

    def __init__(self, database: Database, quality: QualityKeeper) -> None:
        self._database, self._quality = database, quality

    async def shown(self, row: Frame, seen: Seen | None) -> None:
        """The frame was decoded to be shown or compared. `seen`: None where it is no source picture."""
        if seen is not None and (row.integrity == Integrity.UNDECODED or (seen.whole and row.quality is None)):
            silent = row.meta.get("integrity") == Integrity.UNKNOWN
            await self.decoded(row.id, row.camera_id, row.capture_timestamp, seen, silent=silent, aside=True)

    async def decoded(
        self, frame_id: UUID, camera_id: str, at: datetime, seen: Seen, *, silent: bool, aside: bool
    ) -> None:  # fmt: skip
        """`at`: when it was taken. `silent`: parts may have been lost without any sign of it. `aside`: out of the order in
        which its camera's pictures came. Of several who decode a frame the first one is counted. While the database is away
        nothing is written: it stays undecoded."""
        verified = seen.whole and not silent
        found = Integrity.VERIFIED if verified else Integrity.UNKNOWN
        quality: dict[str, Any] | None = None
        if seen.whole:
            quality = await self._quality.judge(camera_id, SourceType.RTSP, seen.measures, at, aside=aside)
        try:
            first = await self._database.retry_until_known(lambda uow: uow.frames.note_decoded(frame_id, found, quality))
        except DatabaseUnavailable:
            return
        if first:
            SOURCE_PICTURES_DECODED.labels(outcome="damaged" if not seen.whole else found.value).inc()
            if not seen.whole:
                log.error("source_picture_damaged", frame_id=str(frame_id), camera_id=camera_id)
