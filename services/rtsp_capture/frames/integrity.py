"""What the first decoding of a source picture showed: written into its row, counted, and told loudly when it is damaged."""

from __future__ import annotations

from uuid import UUID

from models.entities import Frame
from models.values import Integrity
from repositories.database import Database
from utils.exceptions import DatabaseUnavailable
from utils.logger import get_logger
from utils.metrics import SOURCE_PICTURES_DECODED

log = get_logger(__name__)


class FrameIntegrity:
    """On the event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def shown(self, row: Frame, whole: bool | None) -> None:
        """The frame was decoded to be shown or compared. `whole`: without an error; None: it is no source picture."""
        if whole is not None and row.integrity == Integrity.UNDECODED:
            silent = row.meta.get("integrity") == Integrity.UNKNOWN
            await self.decoded(row.id, row.camera_id, whole=whole, silent=silent)

    async def decoded(self, frame_id: UUID, camera_id: str, *, whole: bool, silent: bool) -> None:
        """`silent`: parts may have been lost without any sign of it. Of several who decode a frame the first one is counted.
        While the database is away nothing is written: it stays undecoded."""
        verified = whole and not silent
        found = Integrity.VERIFIED if verified else Integrity.UNKNOWN
        try:
            first = await self._database.retry_until_known(lambda uow: uow.frames.note_integrity(frame_id, found))
        except DatabaseUnavailable:
            return
        if first:
            SOURCE_PICTURES_DECODED.labels(outcome="damaged" if not whole else found.value).inc()
            if not whole:
                log.error("source_picture_damaged", frame_id=str(frame_id), camera_id=camera_id)
