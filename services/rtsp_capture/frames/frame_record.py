"""What a stored picture's row says, and a picture on its way there."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from models.values import FrameRecord, Integrity, SourceType
from services.quality.keeper import QualityKeeper
from services.rtsp_capture.frames.encodings import PictureEncoding
from services.rtsp_capture.frames.picture_budget import Reservation
from services.rtsp_capture.media.gop_buffer import Packet
from services.rtsp_capture.media.packets import PictureFile
from services.storage_service.keys import fresh_object_key
from utils.ids import frame_id


@dataclass(frozen=True, slots=True)
class CaptureFacts:
    """What every frame of a capture shares."""

    request_id: UUID
    camera_id: str
    encoding: PictureEncoding
    meta: dict[str, Any]


@dataclass(slots=True, eq=False)
class PendingFrame:
    """A picture that is made, and neither in the row nor in the spool yet."""

    record: FrameRecord
    file: PictureFile
    grid_start: datetime  # of the grid that the record's slot counts on
    since: float  # monotonic seconds at which it was made
    reservation: Reservation  # in the process's picture budget
    settled: bool = False  # its commit has an outcome, which its task has not handled yet

    @property
    def slot(self) -> int:
        return self.record.sequence


def frame_record(
    facts: CaptureFacts,
    slot: int,
    slot_time: float,
    timestamp: float,
    packet: Packet,
    file: PictureFile,
    quality: dict[str, Any] | None,
) -> FrameRecord:
    """The record of the slot's picture, with a fresh object key. `timestamp`: its capture time; seconds since the epoch.
    `quality`: as `quality_of` has it.
    """
    at = datetime.fromtimestamp(timestamp, UTC)
    identity = frame_id(facts.request_id, slot, datetime.fromtimestamp(slot_time, UTC))
    camera_at = datetime.fromtimestamp(packet.camera_time, UTC) if packet.camera_time is not None else None
    # `meta.integrity` is where it was told before the row had a column of its own: kept for one version.
    meta = facts.meta | ({"integrity": Integrity.UNKNOWN.value} if file.silent else {})
    return FrameRecord(
        frame_id=identity, request_id=facts.request_id, camera_id=facts.camera_id, source_type=SourceType.RTSP,
        sequence=slot, storage_path=fresh_object_key(facts.camera_id, identity, at, file.format),
        timestamp=at, timestamp_source=packet.source,
        timestamp_uncertainty_ms=round(packet.uncertainty * 1000, 3), camera_timestamp=camera_at,
        width=file.width, height=file.height, size_bytes=len(file.data), format=file.format,
        content_type=file.content_type, sha256=file.sha256, meta=meta, integrity=file.integrity, quality=quality,
    )  # fmt: skip


async def quality_of(
    keeper: QualityKeeper, facts: CaptureFacts, file: PictureFile, timestamp: float
) -> dict[str, Any] | None:  # fmt: skip
    """Of the capture's next picture; None also for one that nobody has decoded."""
    if file.integrity is Integrity.UNDECODED:
        return None
    return await keeper.judge(facts.camera_id, SourceType.RTSP, file.measures, datetime.fromtimestamp(timestamp, UTC))
