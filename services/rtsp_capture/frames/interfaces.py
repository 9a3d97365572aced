"""What a frame pipeline needs from others: its stores, the capture that it reports to."""

from __future__ import annotations

from typing import Protocol

from config import RtspSettings
from repositories.database import Database
from services.quality.keeper import QualityKeeper
from services.rtsp_capture.frames.picture_budget import PictureBudget
from services.rtsp_capture.frames.source_checks import SourceChecks
from services.rtsp_capture.media.packets import PictureFile
from services.spool.spool import Spool
from services.storage_service.service import StorageService


class FrameListener(Protocol):
    """What the pipeline reports to its capture; drops it reports to the ledger. Both must return at once."""

    def on_stored(self, picture: PictureFile) -> None:
        """A frame is stored, and the ledger has it."""

    def on_damaged(self, slot: int) -> bool:
        """The slot's picture cannot be decoded. True: the capture wants another one; False: the slot is dropped."""


class PipelineDeps(Protocol):
    """What a pipeline works with; `CaptureDeps` has it."""

    settings: RtspSettings
    database: Database
    storage: StorageService
    pictures: PictureBudget
    spool: Spool
    quality: QualityKeeper
    checks: SourceChecks | None
