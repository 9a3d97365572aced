"""The decoding of one stream's pictures, for all captures that share it.

Pictures of captures are decoded one after the other, by one decoder; a picture that several captures want is decoded
once. Whoever gives up leaves the decoder to the next when its thread has left it: two threads in one of FFmpeg's decoders
end the process. Snapshots have a decoder of their own (`LiveDecoder`). Until the stream has proved itself, all of its
pictures are decoded in a worker process (`trials`).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from services.rtsp_capture.media.contexts import DecoderContexts
from services.rtsp_capture.media.decoder import KEPT_SECONDS, PictureDecoder
from services.rtsp_capture.media.gop_buffer import Picture
from services.rtsp_capture.media.packets import Jpeg, PictureFile, StreamInfo
from services.rtsp_capture.streams.live_decoder import LiveDecoder
from services.rtsp_capture.streams.trials import StreamTrial
from utils.exceptions import CaptureFailure
from utils.metrics import DECODE_SECONDS, PICKS
from utils.pool import WorkerPool

if TYPE_CHECKING:
    from services.rtsp_capture.media.luma import Luma

Verdict = TypeVar("Verdict")
SHARPNESS_WIDTH = 960  # pixels: services.quality.sharpness.WIDTH, which is not imported before a picture is compared


class StreamDecoder:
    """One a stream. On the event loop; decodes in the pool. `info` is that of the newest connection, None before."""

    def __init__(
        self, pool: WorkerPool, *, lossy: bool, trial: StreamTrial | None = None, contexts: DecoderContexts | None = None
    ) -> None:
        """`lossy`: the transport may lose data without saying so (UDP). `trial`: None for a stream that is trusted.
        `contexts`: shared with the other streams of the process."""
        self._pool = pool
        self._contexts = contexts
        self._trial = trial
        self._lossy = lossy
        self.info: StreamInfo | None = None
        self._segment = 0  # of `info`
        self._decoder: PictureDecoder | None = None
        self._decoder_segment = 0
        self._lock = asyncio.Lock()
        self._release_timer: asyncio.TimerHandle | None = None
        self._decoding: dict[tuple[int, float, int], asyncio.Task[Jpeg]] = {}
        self._wanted: Counter[tuple[int, float, int]] = Counter()  # how many wait for each of them
        self._live_decoder = LiveDecoder(pool, lossy=lossy)

    def opened(self, info: StreamInfo, segment: int) -> None:
        """A connection is open."""
        self.info, self._segment = info, segment

    def follow(self, picture: Picture) -> None:
        """A picture came, in decoding order."""
        if self._live_decoder.active and self._on_trial(picture):
            self._live_decoder.stop_following()
        self._live_decoder.follow(picture)

    def _on_trial(self, picture: Picture) -> StreamTrial | None:
        """The trial that decodes the picture; None when threads do."""
        trial = self._trial
        return trial if trial is not None and self.info is not None and not trial.trusted(self.info, picture) else None

    async def decode(self, picture: Picture, quality: int) -> Jpeg:
        """The picture as JPEG; one that is being decoded already, for another capture, is decoded once.

        Raises CaptureFailure decode_failed.
        """
        key = (picture.packet.segment, picture.packet.pts, quality)
        task = self._decoding.get(key)
        if task is None or task.done():
            task = asyncio.create_task(self._decode(picture, quality))
            self._decoding[key] = task
            task.add_done_callback(partial(self._decoded, key))
        self._wanted[key] += 1
        try:
            return await asyncio.shield(task)
        finally:
            self._wanted[key] -= 1
            if not self._wanted[key]:
                del self._wanted[key]

    async def original(self, picture: Picture) -> PictureFile:
        """The camera's own keyframe, not decoded; of Motion JPEG its JPEG, whose scan is read as ever.

        Raises CaptureFailure decode_failed.
        """
        if self.info is None:
            raise CaptureFailure("decode_failed", "The stream was never open.")
        if self.info.codec == "mjpeg":
            return await self.decode(picture, 100)
        file = await self._pool.run(_source_file, self.info, picture, self._lossy)
        if picture.packet.segment == self._segment:
            self._note_size(file)
        return file

    def _decoded(self, key: tuple[int, float, int], task: asyncio.Task[Jpeg]) -> None:
        if self._decoding.get(key) is task:
            del self._decoding[key]
        if not task.cancelled():
            task.exception()  # marks it as retrieved, though no caller may wait for it any more

    async def snapshot(self, picture: Picture, quality: int) -> Jpeg:
        """As `decode`, of a picture wanted at once. A decoder then follows the stream, so that the next one is quick."""
        if picture.packet.key or self.info is None:
            return await self.decode(picture, quality)
        if (trial := self._on_trial(picture)) is not None:
            return await trial.jpeg(self.info, picture, quality)
        return await self._live_decoder.jpeg(self.info, picture, quality)

    async def _decode(self, picture: Picture, quality: int) -> Jpeg:
        async with self._lock:
            if not self._wanted[picture.packet.segment, picture.packet.pts, quality]:
                # Its captures gave it up while it waited for the lock: decoding it would delay the others.
                raise CaptureFailure("decode_failed", "No capture waits for the picture any more.")
            started = time.perf_counter()
            try:
                jpeg = await self._jpeg(picture, quality)
            finally:
                DECODE_SECONDS.observe(time.perf_counter() - started)
                self._release_later()
            if picture.packet.segment == self._segment:
                self._note_size(jpeg)
            return jpeg

    async def _jpeg(self, picture: Picture, quality: int) -> Jpeg:
        trial = self._on_trial(picture)
        if trial is not None and self.info is not None:
            return await trial.jpeg(self.info, picture, quality)
        return await self._pool.run_to_end(self._decoder_for(picture).decode, picture, quality)

    def _note_size(self, file: PictureFile) -> None:
        """Some cameras switch their size while they send (a JPEG leaves out an odd last row or column)."""
        info = self.info
        if info is not None and (file.width & ~1, file.height & ~1) != (info.width & ~1, info.height & ~1):
            self.info = replace(info, width=file.width, height=file.height)

    async def inspect(self, picture: Picture, width: int, judge: Callable[[Luma], Verdict]) -> Verdict:
        """The verdict of `judge`, which is called in the decode pool, on the picture's luma, `width` wide.

        Raises CaptureFailure decode_failed.
        """
        async with self._lock:
            try:
                trial = self._on_trial(picture)
                if trial is not None and self.info is not None:
                    return await self._pool.run(judge, await trial.luma(self.info, picture, width))
                decoder = self._decoder_for(picture)
                return await self._pool.run_to_end(lambda: judge(decoder.luma(picture, width)))
            finally:
                self._release_later()

    async def sharpest(self, pictures: Sequence[Picture], seconds: float) -> Picture:
        """The sharpest of the pictures; of as many as `seconds` are enough for, in this order. Those that cannot be decoded
        are left out. Raises CaptureFailure decode_failed when none can be.

        `decode` of that picture takes little more: its frame is kept.
        """
        best: tuple[float, Picture] | None = None
        failure, compared = CaptureFailure("decode_failed", "There is no picture."), 0
        async with self._lock:
            try:
                until = time.monotonic() + seconds
                for picture in pictures:
                    if best is not None and time.monotonic() >= until:
                        break
                    try:
                        found = await self._sharpness(picture, best[0] if best is not None else None)
                    except CaptureFailure as error:
                        failure = error
                        continue
                    compared += 1
                    if best is None or found > best[0]:
                        best = found, picture
            finally:
                self._release_later()
        if best is None:
            raise failure
        PICKS.labels(outcome="all" if compared == len(pictures) else "some").inc()
        return best[1]

    async def _sharpness(self, picture: Picture, best: float | None) -> float:
        trial = self._on_trial(picture)
        if trial is not None and self.info is not None:
            return await self._pool.run(_sharpness, await trial.luma(self.info, picture, SHARPNESS_WIDTH))
        return await self._pool.run_to_end(self._decoder_for(picture).sharpness, picture, best)

    def _decoder_for(self, picture: Picture) -> PictureDecoder:
        if self._decoder is None or self._decoder_segment != picture.packet.segment:
            if self.info is None:
                raise CaptureFailure("decode_failed", "The stream was never open.")
            self._decoder = PictureDecoder(self.info, lossy=self._lossy, contexts=self._contexts)
            self._decoder_segment = picture.packet.segment
        return self._decoder

    def _release_later(self) -> None:
        """Between two pictures of a slow capture a camera's decoder keeps no frame: 3.3 MB at 1080p."""
        if self._release_timer is None:
            self._release_timer = asyncio.get_running_loop().call_later(KEPT_SECONDS, self._release)

    def _release(self) -> None:
        self._release_timer = None
        if self._lock.locked() or (self._decoder is not None and self._decoder.forget()):
            self._release_later()

    async def close(self) -> None:
        await self._live_decoder.close()
        if self._release_timer is not None:
            self._release_timer.cancel()


def _sharpness(luma: Luma) -> float:
    """In the pool, which imports OpenCV with the first picture."""
    from services.quality.sharpness import sharpness

    return sharpness(luma)


def _source_file(info: StreamInfo, picture: Picture, lossy: bool) -> PictureFile:
    """In the pool, which imports FFmpeg with the first picture."""
    from services.rtsp_capture.media.source_file import source_file

    return source_file(info, picture, lossy=lossy)
