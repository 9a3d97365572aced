"""The output of a reader: encoded packets, and what is known about their stream. And what is made of a picture: a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from models.values import Integrity

if TYPE_CHECKING:
    from services.quality.measures import Measures

CONTENT_TYPES = {"jpg": "image/jpeg", "h264": "video/mp4", "h265": "video/mp4"}


@dataclass(slots=True)
class RawPacket:
    """One access unit as the demuxer gave it; never changed."""

    data: bytes  # Annex B
    pts: float | None  # seconds on the stream's own clock, its origin the connection's; None: FFmpeg did not say
    key: bool
    received: float  # steady time (`host_clock`), seconds since the epoch, when the reader got it
    origin: int = 0  # times of different origins cannot be compared where there are B-pictures (`opencv_timestamps`)
    corrupt: bool = False  # parts of it are known never to have come
    camera: float | None = None  # the camera's own clock at this picture, seconds since the epoch; None: not known
    report: int | None = None  # NTP time of the sender report that `camera` is based on, where the demuxer has it


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What the reader knows once open."""

    codec: str  # h264, hevc, mjpeg
    extradata: bytes  # parameter sets, Annex B; may be empty
    width: int
    height: int
    fps: float | None
    tells_losses: bool = False  # packets that miss something are marked as `corrupt`, on UDP too
    max_pixels: int = field(default=67_108_864, compare=False)  # RTSP__MAX_PIXELS: the largest picture a decoder takes


@dataclass(frozen=True, slots=True)
class PictureFile:
    """One picture as it is stored."""

    data: bytes
    width: int
    height: int
    sha256: str  # hex
    integrity: Integrity = Integrity.VERIFIED
    format: str = "jpg"  # a key of CONTENT_TYPES
    silent: bool = False  # parts may be lost without any sign of it
    measures: Measures | None = field(default=None, compare=False, repr=False)  # None: not decoded, or not measured

    @property
    def content_type(self) -> str:
        return CONTENT_TYPES[self.format]


class Jpeg(PictureFile):
    """One encoded as JPEG."""

    __slots__ = ()
