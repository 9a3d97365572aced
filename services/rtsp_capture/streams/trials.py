"""The first pictures of a stream, decoded in a worker process that may crash instead of this one (docs/isolation.md).

A stream has proved itself when PROOF pictures with its parameter sets were decoded well there; then threads decode it. New
parameter sets, which is also how a picture's size changes, are proven anew; the former ones stay proven. A proof belongs
to one camera address, and ends with the process. A picture over which its worker dies or spins is `decode_failed`, as are
the pictures after it up to the next keyframe: they need the same data. After MAX_DEATHS within DEATH_SECONDS the stream is
condemned for CONDEMNED_SECONDS: its connection ends, and no picture of it is decoded.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

from config import RtspSettings
from services.rtsp_capture.media import decode_job
from services.rtsp_capture.media.decoder import refuse_incomplete
from services.rtsp_capture.media.gop_buffer import Picture
from services.rtsp_capture.media.h264 import annex_b
from services.rtsp_capture.media.packets import Jpeg, StreamInfo
from services.rtsp_capture.media.parameter_sets import SeenSets
from utils.exceptions import CaptureFailure
from utils.logger import get_logger
from utils.metrics import STREAMS_CONDEMNED, TRIAL_PICTURES
from utils.pool import WorkerPool
from utils.process_pool import JobFailed, PoolClosed, PoolUnavailable, ProcessPool

if TYPE_CHECKING:
    from services.rtsp_capture.media.luma import Luma

log = get_logger(__name__)

PROOF = 5  # pictures
MAX_DEATHS = 3
DEATH_SECONDS = 600.0
CONDEMNED_SECONDS = 300.0
KEPT_CAMERAS = 4096  # whose proofs are remembered; the longest unused are forgotten
KEPT_SETS = 64  # of one camera
_BASE = 67_108_864  # bytes that a job takes beside its pictures
_PER_PIXEL = 48  # bytes: 20 pictures of H.264 or H.265, most of 1.5 bytes a pixel
_ALLOWANCE = _BASE + 1920 * 1088 * _PER_PIXEL  # bytes: 1080p does not wait for room
_PATIENCE = 30.0  # seconds that a large picture waits for room
_DIED = "The picture made its decoder crash, or take longer than RTSP__TRIAL_TIMEOUT."
_CONDEMNED = "Pictures of this camera made their decoder crash again and again: it is left alone for some minutes."


class Record:
    """What is known of one camera address. Pure; `monotonic` in seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._worked: Counter[bytes] = Counter()
        self._proven: OrderedDict[bytes, None] = OrderedDict()
        self._deaths: deque[float] = deque(maxlen=MAX_DEATHS)
        self._condemned_until = 0.0

    @property
    def condemned(self) -> float:
        """Seconds for which the stream is still left alone."""
        return max(0.0, self._condemned_until - self._monotonic())

    def proven(self, sets: frozenset[bytes]) -> bool:
        return all(one in self._proven for one in sets)

    def worked(self, sets: frozenset[bytes]) -> None:
        """A picture with these parameter sets was decoded well."""
        for one in sets:
            self._worked[one] += 1
            if self._worked[one] >= PROOF:
                self._proven[one] = None
                self._proven.move_to_end(one)
        while len(self._proven) > KEPT_SETS:
            self._proven.popitem(last=False)
        if len(self._worked) > 4 * KEPT_SETS:
            self._worked.clear()

    def died(self) -> bool:
        """A worker died over a picture; whether that condemns the stream."""
        now = self._monotonic()
        self._deaths.append(now)
        if len(self._deaths) < MAX_DEATHS or self._deaths[0] < now - DEATH_SECONDS:
            return False
        self._condemned_until = now + CONDEMNED_SECONDS
        return True


class Trials:
    """One a process: the worker processes, and what is known of each camera address. On the event loop."""

    def __init__(self, settings: RtspSettings, threads: WorkerPool, monotonic: Callable[[], float] = time.monotonic) -> None:
        """`threads`: the decode pool."""
        self.settings = settings
        self.threads = threads
        self._monotonic = monotonic
        self._records: OrderedDict[Hashable, Record] = OrderedDict()
        self.pool = ProcessPool(
            "streams", settings.TRIAL_PROCESSES, max_memory=settings.TRIAL_MEMORY, allowance=_ALLOWANCE,
            preload=[decode_job.DECODE.partition(":")[0], *decode_job.PRELOAD], timeout=settings.TRIAL_TIMEOUT, reuse=True,
        )  # fmt: skip

    def warm(self) -> None:
        """Starts a worker process in the background."""
        self.pool.warm()

    def of(self, name: str, key: Hashable | None, *, lossy: bool) -> StreamTrial:
        """The trial of a stream. `key`: its camera address; None: nothing is remembered. `lossy`: see StreamDecoder."""
        record = self._records.pop(key, None) or Record(self._monotonic)
        if key is not None:
            self._records[key] = record
            while len(self._records) > KEPT_CAMERAS:
                self._records.popitem(last=False)
        return StreamTrial(self, record, name, lossy=lossy)

    async def close(self) -> None:
        """Waits for pictures that are being decoded. May be repeated."""
        await self.pool.close()


class StreamTrial:
    """Of one stream. On the event loop. One picture at a time: a hostile stream keeps one worker busy at most."""

    def __init__(self, trials: Trials, record: Record, name: str, *, lossy: bool) -> None:
        self._trials = trials
        self._record = record
        self._name = name
        self._lossy = lossy
        self._lock = asyncio.Lock()
        self.on_condemned: Callable[[], None] = lambda: None

    @property
    def condemned(self) -> CaptureFailure | None:
        """Why no picture of the stream is decoded now."""
        return CaptureFailure("decode_failed", _CONDEMNED) if self._record.condemned else None

    @property
    def condemned_for(self) -> float:
        """Seconds until the stream is tried again."""
        return self._record.condemned

    def trusted(self, info: StreamInfo, picture: Picture) -> bool:
        """Whether threads may decode it: everything that its decoder would be fed has been proven."""
        sets, _ = self._sets(info, picture)
        return sets is not None and self._record.proven(sets)

    async def jpeg(self, info: StreamInfo, picture: Picture, quality: int) -> Jpeg:
        """As PictureDecoder.decode. Raises CaptureFailure decode_failed."""
        answer, data = await self._decode(info, picture, {"quality": quality})
        return await self._trials.threads.run(decode_job.jpeg_of, answer, data)

    async def luma(self, info: StreamInfo, picture: Picture, width: int) -> Luma:
        """As PictureDecoder.luma. Raises CaptureFailure decode_failed."""
        answer, data = await self._decode(info, picture, {"width": width})
        return await self._trials.threads.run(decode_job.luma_of, answer, data)

    def _sets(self, info: StreamInfo, picture: Picture) -> tuple[frozenset[bytes] | None, int]:
        """The parameter sets that decoding the picture involves (None: far too many), and the largest picture's pixels."""
        gop, codec = picture.gop, info.codec
        if codec == "mjpeg":
            seen = SeenSets()
            seen.note(codec, picture.packet.data)
            return frozenset(seen.found), seen.pixels
        beside = SeenSets()
        if info.extradata:
            beside.found.add(info.extradata)
            beside.note(codec, annex_b(info.extradata))
        parts = [beside, gop.sets.scan(codec, gop.packets, picture.index + 1 + decode_job.AHEAD)]
        if picture.needs_previous:
            parts.append(gop.previous_sets.scan(codec, gop.previous, len(gop.previous)))
        pixels = max(part.pixels for part in parts)
        if any(part.too_many for part in parts):
            return None, pixels
        return frozenset((codec.encode(), *(one for part in parts for one in part.found))), pixels

    async def _decode(self, info: StreamInfo, picture: Picture, wanted: dict[str, int]) -> tuple[Any, bytes]:
        """What the worker answered. A job that was begun is waited for, whoever gave up: its outcome counts."""
        async with self._lock:
            task = asyncio.create_task(self._ask(info, picture, wanted))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            return await asyncio.shield(task)

    async def _ask(self, info: StreamInfo, picture: Picture, wanted: dict[str, int]) -> tuple[Any, bytes]:
        if (failure := self.condemned) is not None:
            TRIAL_PICTURES.labels(outcome="refused").inc()
            raise failure
        if info.codec != "mjpeg":
            refuse_incomplete(picture)
        sets, pixels = self._sets(info, picture)
        if pixels > self._trials.settings.MAX_PIXELS:
            TRIAL_PICTURES.labels(outcome="refused").inc()
            raise CaptureFailure("decode_failed", "The picture has more pixels than RTSP__MAX_PIXELS.")
        pool, job = self._trials.pool, decode_job.request(info, picture, lossy=self._lossy, wanted=wanted)
        memory = min(pool.largest, _BASE + max(pixels, info.width * info.height) * _PER_PIXEL)
        try:
            answer, data = await pool.run_with_bytes(
                decode_job.DECODE, job.spec, attached=job.attached, most=decode_job.MOST, memory=memory, patience=_PATIENCE
            )
            decode_job.learn(answer, picture)
        except JobFailed as failed:
            raise self._failed(failed, picture) from None
        except PoolUnavailable:
            TRIAL_PICTURES.labels(outcome="unavailable").inc()
            raise CaptureFailure("decode_failed", "No process is free to decode the picture.") from None
        except PoolClosed:
            raise CaptureFailure("decode_failed", "The service is shutting down.") from None
        except CaptureFailure:
            TRIAL_PICTURES.labels(outcome="failed").inc()
            raise
        TRIAL_PICTURES.labels(outcome="ok").inc()
        if sets is not None:
            self._record.worked(sets)
        return answer, data

    def _failed(self, failed: JobFailed, picture: Picture) -> CaptureFailure:
        TRIAL_PICTURES.labels(outcome=failed.reason).inc()
        if failed.reason == "error":  # an exception, out of memory for example: its process lives
            return CaptureFailure("decode_failed", "The picture could not be decoded.")
        picture.gop.damage.failed(picture.index)
        log.warning("trial_worker_died", camera_id=self._name, reason=failed.reason)
        if self._record.died():
            STREAMS_CONDEMNED.inc()
            log.error("stream_condemned", camera_id=self._name, deaths=MAX_DEATHS, seconds=CONDEMNED_SECONDS)
            self.on_condemned()
        return CaptureFailure("decode_failed", _DIED)
