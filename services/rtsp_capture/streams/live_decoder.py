"""A decoder that follows its stream for some seconds after a snapshot.

The first snapshot decodes from the last keyframe on, up to a whole GOP; the next ones find their picture decoded. At 25
pictures a second this costs about 9 % of a core. It is not the decoder of the stream's captures, whose position is at
their slots, somewhat in the past.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from services.rtsp_capture.media.decoder import PictureDecoder
from services.rtsp_capture.media.gop_buffer import Picture
from services.rtsp_capture.media.packets import Jpeg, StreamInfo
from utils.pool import WorkerPool

FOLLOW_SECONDS = 5.0  # after the last snapshot


class LiveDecoder:
    """One a stream. On the event loop; decodes in the pool, one call at a time."""

    def __init__(self, pool: WorkerPool, *, lossy: bool, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._pool = pool
        self._lossy = lossy
        self._monotonic = monotonic
        self._decoder: PictureDecoder | None = None
        self._segment = 0
        self._until = 0.0
        self._lock = asyncio.Lock()
        self._newest: Picture | None = None
        self._following: asyncio.Task[None] | None = None

    @property
    def active(self) -> bool:
        """Whether it follows the stream now."""
        return self._decoder is not None

    async def jpeg(self, info: StreamInfo, picture: Picture, quality: int) -> Jpeg:
        """The picture; the decoder then follows the stream. Raises CaptureFailure decode_failed."""
        self._until = self._monotonic() + FOLLOW_SECONDS
        async with self._lock:
            if self._decoder is None or self._segment != picture.packet.segment:
                self._decoder = PictureDecoder(info, lossy=self._lossy)
                self._segment = picture.packet.segment
            return await self._pool.run_to_end(self._decoder.decode, picture, quality)

    def follow(self, picture: Picture) -> None:
        """A picture came, in decoding order."""
        if self._decoder is None:
            return
        if self._monotonic() > self._until or self._segment != picture.packet.segment:
            self.stop_following()
            return
        self._newest = picture
        if self._following is None or self._following.done():
            self._following = asyncio.create_task(self._advance())

    def stop_following(self) -> None:
        """Follows no longer."""
        self._decoder = self._newest = None

    async def _advance(self) -> None:
        """Decodes up to the newest picture, and then up to those that came meanwhile."""
        while self._newest is not None:
            async with self._lock:
                picture, self._newest = self._newest, None
                if self._decoder is not None and picture is not None:
                    await self._pool.run_to_end(self._decoder.advance, picture)

    async def close(self) -> None:
        """Releases the decoder once it is idle."""
        self._decoder = self._newest = None
        if self._following is not None:
            await asyncio.gather(self._following, return_exceptions=True)
