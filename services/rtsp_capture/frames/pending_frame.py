"""A decoded picture on its way."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from models.values import FrameRecord
from services.rtsp_capture.frames.picture_budget import Reservation
from services.rtsp_capture.media.decoder import Jpeg


@dataclass(slots=True, eq=False)
class PendingFrame:
    """A decoded picture that is neither in the row nor in the spool yet."""

    record: FrameRecord
    jpeg: Jpeg
    grid_start: datetime  # of the grid that the record's slot counts on
    since: float  # monotonic seconds at which it was decoded
    held: Reservation  # by the process's budget
