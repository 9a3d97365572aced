"""How a capture's pictures become files: a strategy, which the capture's parameters choose once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from models.values import CaptureParams, Encoding
from services.rtsp_capture.media.gop_buffer import Picture
from services.rtsp_capture.media.packets import PictureFile


class PictureSource(Protocol):
    """Makes files of a stream's pictures: its decoder. All raise CaptureFailure decode_failed."""

    async def decode(self, picture: Picture, quality: int) -> PictureFile:
        """A JPEG."""

    async def snapshot(self, picture: Picture, quality: int) -> PictureFile:
        """The same, of a picture that is wanted at once."""

    async def original(self, picture: Picture) -> PictureFile:
        """The camera's own keyframe."""

    async def sharpest(self, pictures: Sequence[Picture], seconds: float) -> Picture:
        """The sharpest of them, as far as `seconds` are enough to compare them."""


class PictureEncoding(Protocol):
    """Raises CaptureFailure decode_failed."""

    @property
    def keyframes_only(self) -> bool:
        """Whether it makes files of keyframes alone."""

    async def make(self, source: PictureSource, picture: Picture, *, at_once: bool = False) -> PictureFile:
        """`at_once`: of a snapshot."""


@dataclass(frozen=True, slots=True)
class AsJpeg:
    """Decoded, and encoded with `quality` (50-100)."""

    quality: int
    keyframes_only: bool = False

    async def make(self, source: PictureSource, picture: Picture, *, at_once: bool = False) -> PictureFile:
        return await (source.snapshot if at_once else source.decode)(picture, self.quality)


@dataclass(frozen=True, slots=True)
class AsSource:
    """Keyframes as they came."""

    keyframes_only: bool = True

    async def make(self, source: PictureSource, picture: Picture, *, at_once: bool = False) -> PictureFile:
        return await source.original(picture)


def encoding_of(params: CaptureParams) -> PictureEncoding:
    """The strategy that a capture asked for."""
    return encoding_named(params.encoding, params.jpeg_quality)


def encoding_named(name: Encoding, quality: int) -> PictureEncoding:
    """`quality`: of a JPEG."""
    return AsSource() if name is Encoding.SOURCE else AsJpeg(quality)
