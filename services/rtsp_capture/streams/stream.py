"""One camera stream kept open: check, read, back off, again, until nobody needs it.

Everything here runs on the event loop but the reader's thread (`session`) and the decoding (the pool).
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol, TypeVar

from config import RtspSettings
from models.values import SourceInfo
from services.rtsp_capture.connection.address import CameraAddress
from services.rtsp_capture.connection.preflight import Described
from services.rtsp_capture.connection.reader import ReaderFactory, ReaderOptions
from services.rtsp_capture.connection.reader_thread import ReaderEnd, ReaderThread
from services.rtsp_capture.media.decoder import KEPT_SECONDS, Jpeg, PictureDecoder
from services.rtsp_capture.media.gop_buffer import Packet, Picture, Ring
from services.rtsp_capture.media.luma import Luma
from services.rtsp_capture.media.packets import StreamInfo
from services.rtsp_capture.media.ring_budget import RingBudget
from services.rtsp_capture.streams.live_decoder import LiveDecoder
from services.rtsp_capture.streams.stream_state import StreamTracker
from utils.exceptions import CaptureFailure
from utils.logger import get_logger
from utils.metrics import DECODE_SECONDS, PACKETS_DROPPED, STREAM_OPEN
from utils.pool import WorkerPool

log = get_logger(__name__)
Verdict = TypeVar("Verdict")
_NO_PICTURES = "The camera keeps the connection and sent no picture for twice RTSP__READ_TIMEOUT."


class Listener(Protocol):
    """Who is told what a stream gives. Called on the event loop; must return at once."""

    def on_picture(self, picture: Picture) -> None:
        """A packet came, in decoding order."""

    def on_live(self, info: StreamInfo) -> None:
        """The stream is open."""

    def on_failure(self, failure: CaptureFailure) -> None:
        """An open failed or the stream broke; it is tried again."""


@dataclass(frozen=True, slots=True)
class StreamKey:
    """What makes two captures share a connection. `repr` shows no URL."""

    camera_id: str
    url: str
    transport: str
    reader: str | None = None  # opencv, pyav; None: RTSP__READER

    def __repr__(self) -> str:
        return f"StreamKey({self.camera_id}, {self.transport})"


@dataclass(slots=True)
class StreamDeps:
    """What a stream is given: settings, the check, the reader, the pool that decodes."""

    settings: RtspSettings
    preflight: Callable[[CameraAddress], Awaitable[Described]]
    open_reader: ReaderFactory
    decode_pool: WorkerPool
    readers: Mapping[str, ReaderFactory] = field(default_factory=dict)  # those that a camera may name

    def reader(self, name: str | None) -> ReaderFactory:
        """The reader of that name; the default one without a name, and for one that is not built."""
        return self.readers.get(name or "", self.open_reader)


class Stream:
    """Keeps one RTSP connection for any number of listeners."""

    def __init__(self, key: StreamKey, address: CameraAddress, deps: StreamDeps, budget: RingBudget) -> None:
        self.key = key
        self._address = address
        self._deps = deps
        self._settings = deps.settings
        # A context of its own: the stream outlives the capture that opened it, whose id is not its log lines' id.
        context = contextvars.Context()
        self.standing = context.run(StreamTracker, key.camera_id)
        self.info: StreamInfo | None = None
        self.last_packet: Packet | None = None
        self.first_of_segment: Packet | None = None
        self.ring = Ring(deps.settings.RING_SECONDS, deps.settings.RING_BYTES, budget)
        self._listeners: list[Listener] = []
        self._segment = 0
        self._closing = asyncio.Event()
        self._session: ReaderThread | None = None
        self._decoder: PictureDecoder | None = None
        self._decoder_segment = 0
        self._decode_turn = asyncio.Lock()
        self._letting_go: asyncio.TimerHandle | None = None
        self._in_step = LiveDecoder(deps.decode_pool, lossy=key.transport == "udp")
        self._decoding: dict[tuple[int, float, int], asyncio.Task[Jpeg]] = {}
        self._wanted: Counter[tuple[int, float, int]] = Counter()  # how many wait for each of them
        self._started = time.monotonic()
        self._task = asyncio.create_task(self._run(), name=f"stream-{key.camera_id}", context=context)

    # -- listeners ---------------------------------------------------------------------------------------------

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def unlisten(self, listener: Listener) -> None:
        if listener in self._listeners:
            self._listeners.remove(listener)

    @property
    def live(self) -> bool:
        """Whether there is a connection; a stalled one counts until RTSP__READ_TIMEOUT ends it."""
        return self.standing.open

    @property
    def failure(self) -> CaptureFailure | None:
        """Why there is none."""
        return self.standing.failure

    @property
    def reconnects(self) -> int:
        """How often the connection was made anew."""
        return max(0, self._segment - 1)

    def source_info(self, picture: Jpeg | None = None) -> SourceInfo | None:
        if self.info is None:
            return None
        width, height = (picture.width, picture.height) if picture else (self.info.width, self.info.height)
        return SourceInfo(self.info.codec, width, height, self.info.fps)

    def newest(self, now: float, max_staleness: float) -> Picture | None:
        """What it gives at once: its newest picture, or its last keyframe while that is `max_staleness` seconds young.

        None when nothing came for RTSP__READ_TIMEOUT, or nobody knows when what came was taken.
        """
        if self.standing.silent > self._settings.READ_TIMEOUT:
            return None
        key = self.ring.last_key()
        if key is not None and key.packet.timed and now - key.packet.timestamp <= max_staleness:
            return key
        newest = self.ring.newest()
        return newest if newest is not None and newest.packet.timed else None

    # -- decoding ----------------------------------------------------------------------------------------------

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

    def _decoded(self, key: tuple[int, float, int], task: asyncio.Task[Jpeg]) -> None:
        if self._decoding.get(key) is task:
            del self._decoding[key]
        if not task.cancelled():
            task.exception()  # seen, though nobody may wait for it any more

    async def snapshot(self, picture: Picture, quality: int) -> Jpeg:
        """As `decode`, of a picture wanted at once: a decoder follows the stream from then on, for those to come."""
        if picture.packet.key or self.info is None:
            return await self.decode(picture, quality)
        return await self._in_step.jpeg(self.info, picture, quality)

    async def _decode(self, picture: Picture, quality: int) -> Jpeg:
        async with self._decode_turn:
            if not self._wanted[picture.packet.segment, picture.packet.pts, quality]:
                # Given up while it waited for its turn: decoded all the same, those would keep the others waiting.
                raise CaptureFailure("decode_failed", "Nobody waits for it any more.")
            decoder = self._decoder_for(picture)
            started = time.perf_counter()
            try:
                jpeg = await self._deps.decode_pool.run(decoder.decode, picture, quality)
            finally:
                DECODE_SECONDS.observe(time.perf_counter() - started)
                self._let_go_later()
            if picture.packet.segment == self._segment:
                self._sized(jpeg)
            return jpeg

    def _sized(self, jpeg: Jpeg) -> None:
        """Some cameras switch their size while they send (a JPEG leaves out an odd last row or column)."""
        info = self.info
        if info is not None and (jpeg.width, jpeg.height) != (info.width & ~1, info.height & ~1):
            self.info = replace(info, width=jpeg.width, height=jpeg.height)

    async def inspect(self, picture: Picture, width: int, judge: Callable[[Luma], Verdict]) -> Verdict:
        """What `judge`, called in the decode pool, says of the picture's luma, `width` wide.

        Raises CaptureFailure decode_failed.
        """
        async with self._decode_turn:
            decoder = self._decoder_for(picture)

            def look() -> Verdict:
                return judge(decoder.luma(picture, width))

            try:
                return await self._deps.decode_pool.run(look)
            finally:
                self._let_go_later()

    def _let_go_later(self) -> None:
        """Between two pictures of a slow capture a camera's decoder holds no frame: 3.3 MB at 1080p."""
        if self._letting_go is None:
            self._letting_go = asyncio.get_running_loop().call_later(KEPT_SECONDS, self._let_go)

    def _let_go(self) -> None:
        self._letting_go = None
        if self._decode_turn.locked() or (self._decoder is not None and self._decoder.forget()):
            self._let_go_later()

    def _decoder_for(self, picture: Picture) -> PictureDecoder:
        if self._decoder is None or self._decoder_segment != picture.packet.segment:
            if self.info is None:
                raise CaptureFailure("decode_failed", "The stream was never open.")
            self._decoder = PictureDecoder(self.info, lossy=self.key.transport == "udp")
            self._decoder_segment = picture.packet.segment
        return self._decoder

    # -- keeping it open ---------------------------------------------------------------------------------------

    async def _run(self) -> None:
        failures = 0
        while not self._closing.is_set():
            self.standing.connecting()
            self._started = time.monotonic()
            failure, packets = await self._attempt()
            if failure is None:
                break
            failures = 1 if packets else failures + 1
            self._failed(failure, failures)
            slow = packets == 0 and self._segment > 0 and failure.code in ("unauthorized_camera", "forbidden_camera")
            await self._back_off(failures, slow and self.last_packet is not None)
        self.standing.closed()

    async def _attempt(self) -> tuple[CaptureFailure | None, int]:
        """One connection, from the check to its end: (why it ended, packets read)."""
        try:
            described = await self._until_closing(self._deps.preflight(self._address))
        except CaptureFailure as failure:
            return failure, 0
        except Exception as error:  # nothing may end the stream's task while captures wait for it
            log.exception("stream_check_failed", camera_id=self.key.camera_id)
            return CaptureFailure("stream_ended", f"The camera could not be asked ({type(error).__name__})."), 0
        if described is None or self._closing.is_set():  # told to close right when the check had ended
            return None, 0
        self._segment += 1
        settings = self._settings
        host = self._address.host if self._address.tls else described.address
        options = ReaderOptions(
            self._address.url(host=host, credentials=True), self.key.transport,
            settings.OPEN_TIMEOUT, settings.READ_TIMEOUT, settings.TLS_VERIFY,
        )  # fmt: skip
        session = ReaderThread(
            self.key.camera_id, self._deps.reader(self.key.reader)(options), self._segment, self._opened, self._packets,
            max_offset=settings.MAX_CLOCK_OFFSET,
        )  # fmt: skip
        self._session = session
        session.start()
        end = await self._until_ended(session)
        await session.join()
        self._session = None
        if self._closing.is_set():
            return None, end.packets
        return end.failure or CaptureFailure("stream_ended", "The stream ended."), end.packets

    async def _until_ended(self, session: ReaderThread) -> ReaderEnd:
        """What a read has no timeout of its own for, this ends: a camera that sends reports and no pictures (PyAV).

        Two looks in a row have to find it silent: a process that stood still finds every stream so, at first.
        """
        limit, looks = 2 * self._settings.READ_TIMEOUT, 0
        while not (await asyncio.wait({session.ended}, timeout=limit / 4))[0]:
            looks = looks + 1 if self.standing.open and self.standing.silent > limit else 0
            if looks >= 2 and session.leave(CaptureFailure("read_timeout", _NO_PICTURES)):
                log.warning("stream_left", camera_id=self.key.camera_id, silent_s=round(self.standing.silent, 1))
        return session.ended.result()

    async def _until_closing(self, work: Awaitable[Described]) -> Described | None:
        task = asyncio.ensure_future(work)
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait({task, closing}, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            for each in (task, closing):
                each.cancel()

    def _opened(self, info: StreamInfo) -> None:
        self.info = info
        self.first_of_segment = None
        STREAM_OPEN.observe(time.monotonic() - self._started)
        self.standing.live()
        for listener in list(self._listeners):
            listener.on_live(info)

    def _packets(self, packets: list[Packet]) -> None:
        self.standing.heard()
        for packet in packets:
            self.last_packet = packet
            if self.first_of_segment is None:
                self.first_of_segment = packet
            picture = self.ring.append(packet)
            if picture is None:
                PACKETS_DROPPED.labels(reason="no_keyframe").inc()
                continue
            self._in_step.follow(picture)
            for listener in list(self._listeners):
                listener.on_picture(picture)

    def _failed(self, failure: CaptureFailure, failures: int) -> None:
        self.standing.failed(failure, failures)
        for listener in list(self._listeners):
            listener.on_failure(failure)

    async def _back_off(self, failures: int, slow: bool) -> None:
        """Exponential with jitter (half to whole), interruptible."""
        longest = self._settings.RECONNECT_MAX_DELAY
        delay = longest if slow else min(longest, self._settings.RECONNECT_DELAY * 2 ** min(failures - 1, 16))
        try:
            async with asyncio.timeout(delay * random.uniform(0.5, 1.0)):  # noqa: S311
                await self._closing.wait()
        except TimeoutError:
            pass

    def close(self) -> None:
        """Begins to close; `closed()` waits for it."""
        self._closing.set()
        self.standing.closing()
        if self._session is not None:
            self._session.stop()

    async def closed(self) -> None:
        """Waits until the reader's thread has ended: it must be gone before the interpreter is."""
        await self._task
        await self._in_step.close()
        if self._letting_go is not None:
            self._letting_go.cancel()
        self.ring.clear()
