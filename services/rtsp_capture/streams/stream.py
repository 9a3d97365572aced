"""One camera stream: check, read, back off, and again, until it is closed.

Everything here runs on the event loop except a reader's thread, if it has one, and the decoding (the pool).

Longer than 250 lines: all stages of a connection share its state.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from config import RtspSettings
from models.values import SourceInfo
from services.rtsp_capture.connection.camera_address import CameraAddress
from services.rtsp_capture.connection.reader import ConnectionEnd, ConnectionPlan, Connector, PacketConnection
from services.rtsp_capture.media.contexts import DecoderContexts
from services.rtsp_capture.media.gop_buffer import Packet, Picture, Ring
from services.rtsp_capture.media.packets import PictureFile, StreamInfo
from services.rtsp_capture.media.ring_budget import RingBudget
from services.rtsp_capture.streams.back_off import BackOff
from services.rtsp_capture.streams.stream_decoder import StreamDecoder
from services.rtsp_capture.streams.stream_state import StreamTracker
from services.rtsp_capture.streams.trials import StreamTrial, Trials
from services.rtsp_capture.timing.host_clock import HOST, HostClock
from utils.exceptions import CaptureFailure
from utils.logger import get_logger
from utils.metrics import PACKETS_DROPPED, STREAM_OPEN
from utils.pool import WorkerPool
from utils.tasks import first_of

log = get_logger(__name__)
_NO_PICTURES = "The camera keeps the connection and sent no picture for twice RTSP__READ_TIMEOUT."


class PictureListener(Protocol):
    """Receives what a stream delivers. Called on the event loop; must return at once."""

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
    reader: str | None = None  # opencv, native; None: RTSP__READER

    def __repr__(self) -> str:
        return f"StreamKey({self.camera_id}, {self.transport})"


@dataclass(slots=True)
class StreamDeps:
    """What a stream is given: settings, what connects, the pool that decodes."""

    settings: RtspSettings
    connect: Connector
    decode_pool: WorkerPool
    connectors: Mapping[str, Connector] = field(default_factory=dict)  # the readers that a camera may name
    host: HostClock = HOST  # brings receipt times to wall time
    trials: Trials | None = None  # where streams prove themselves; None: they are trusted
    contexts: DecoderContexts = field(default_factory=DecoderContexts)

    def connector(self, reader: str | None) -> Connector:
        """That of the reader of this name; the default one without a name, and for one that is not built."""
        return self.connectors.get(reader or "", self.connect)


class Stream:
    """Keeps one RTSP connection for any number of listeners."""

    def __init__(self, key: StreamKey, address: CameraAddress, deps: StreamDeps, budget: RingBudget) -> None:
        self.key = key
        self._address = address
        self._deps = deps
        self._settings = deps.settings
        # A context of its own: the stream outlives the capture that opened it, whose id is not its log lines' id.
        context = contextvars.Context()
        self.status = context.run(StreamTracker, key.camera_id)
        self.last_packet: Packet | None = None
        self.first_of_segment: Packet | None = None
        self.ring = Ring(deps.settings.RING_SECONDS, deps.settings.RING_BYTES, budget)
        self._listeners: list[PictureListener] = []
        self._segment = 0
        self._closing = asyncio.Event()
        self._back_off = BackOff(deps.settings)
        self._connection: PacketConnection | None = None
        self._trial = self._on_trial()
        self.decoder = StreamDecoder(
            deps.decode_pool, lossy=key.transport == "udp", trial=self._trial, contexts=deps.contexts
        )
        self._started = time.monotonic()
        self._task = asyncio.create_task(self._run(), name=f"stream-{key.camera_id}", context=context)

    def _on_trial(self) -> StreamTrial | None:
        if (trials := self._deps.trials) is None:
            return None
        trials.warm()  # while the connection opens
        trial = trials.of(self.key.camera_id, self.key, lossy=self.key.transport == "udp")
        trial.on_condemned = self._condemned
        return trial

    def _condemned(self) -> None:
        """Its pictures crash their decoder: the connection ends."""
        if self._connection is not None:
            self._connection.stop()

    # -- listeners ---------------------------------------------------------------------------------------------

    def listen(self, listener: PictureListener) -> None:
        self._listeners.append(listener)

    def unlisten(self, listener: PictureListener) -> None:
        if listener in self._listeners:
            self._listeners.remove(listener)

    @property
    def live(self) -> bool:
        """Whether there is a connection; a stalled one counts until RTSP__READ_TIMEOUT ends it."""
        return self.status.open

    @property
    def info(self) -> StreamInfo | None:
        """Of the newest connection; None before the first."""
        return self.decoder.info

    @property
    def failure(self) -> CaptureFailure | None:
        """Why there is none."""
        return self.status.failure

    @property
    def reconnects(self) -> int:
        """How often the stream was reconnected."""
        return max(0, self._segment - 1)

    def source_info(self, picture: PictureFile | None = None) -> SourceInfo | None:
        if self.info is None:
            return None
        width, height = (picture.width, picture.height) if picture else (self.info.width, self.info.height)
        return SourceInfo(self.info.codec, width, height, self.info.fps)

    async def catch_up(self, prompt: float = 0.0) -> None:
        """Takes in what has come and waits for its batch, before the ring is looked at. What comes in the next `prompt`
        seconds is taken in at once."""
        if self._connection is not None:
            await self._connection.catch_up(prompt)

    def newest(self, now: float, max_staleness: float, *, keyframe: bool = False) -> Picture | None:
        """A picture that is there now: the last keyframe when it is at most `max_staleness` seconds old, else the newest.

        `keyframe`: no other will do. None when nothing came for RTSP__READ_TIMEOUT, or when it is not known when the picture
        was taken.
        """
        if self.status.silent > self._settings.READ_TIMEOUT:
            return None
        key = self.ring.last_key()
        if key is not None and key.packet.timed and now - key.packet.timestamp <= max_staleness:
            return key
        if keyframe:
            return None
        newest = self.ring.newest()
        return newest if newest is not None and newest.packet.timed else None

    # -- the connections ---------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while not self._closing.is_set():
            self.status.connecting()
            self._started = time.monotonic()
            failure, end = await self._attempt()
            if failure is None:
                break
            delay = self._back_off.failed(failure, packets=end.packets > 0)
            if end.goodbye and time.monotonic() - self._started > self._settings.RECONNECT_DELAY:
                delay = 0.0  # it has told us, so that nothing is waited for; unless it says so each time
            if self._trial is not None and self._trial.condemned:
                delay = self._trial.condemned_for
            self._failed(failure, delay)
            await self._wait(delay)
        self.status.closed()

    async def _attempt(self) -> tuple[CaptureFailure | None, ConnectionEnd]:
        """One connection, from the first question to its end: (why it ended, how)."""
        plan = ConnectionPlan(
            self.key.camera_id, self._address, self.key.transport, self._segment + 1, self._deps.host,
            partial(self._opened, self._segment + 1), self._packets,
        )  # fmt: skip
        nothing = ConnectionEnd(None, 0)
        if self._trial is not None and (failure := self._trial.condemned) is not None:
            return failure, nothing
        try:
            connection = await self._until_closing(self._deps.connector(self.key.reader)(plan))
        except CaptureFailure as failure:
            return failure, nothing
        except Exception as error:  # nothing may end the stream's task while captures wait for it
            log.exception("stream_check_failed", camera_id=self.key.camera_id)
            return CaptureFailure("stream_ended", f"The camera could not be asked ({type(error).__name__})."), nothing
        if connection is None:
            return None, nothing
        self._connection, self._segment = connection, plan.segment
        if self._closing.is_set():  # closed right when it was there
            connection.stop()
        end = await self._until_ended(connection)
        await connection.join()
        self._connection = None
        if self._closing.is_set():
            return None, end
        condemned = self._trial.condemned if self._trial is not None else None
        return condemned or end.failure or CaptureFailure("stream_ended", "The stream ended."), end

    async def _until_ended(self, connection: PacketConnection) -> ConnectionEnd:
        """Waits for the connection's end; abandons a camera that sends no pictures and whose reader does not notice.

        The stream must be silent in two checks in a row: in a process that was suspended the first one always finds it so.
        """
        limit, silent_checks = 2 * self._settings.READ_TIMEOUT, 0
        while not (await asyncio.wait({connection.ended}, timeout=limit / 4))[0]:
            silent_checks = silent_checks + 1 if self.status.open and self.status.silent > limit else 0
            if silent_checks >= 2 and connection.abandon(CaptureFailure("read_timeout", _NO_PICTURES)):
                log.warning("stream_left", camera_id=self.key.camera_id, silent_s=round(self.status.silent, 1))
        return connection.ended.result()

    async def _until_closing(self, work: Awaitable[PacketConnection]) -> PacketConnection | None:
        task = await first_of(work, self._closing.wait())
        return task.result() if task is not None else None

    def _opened(self, segment: int, info: StreamInfo) -> None:
        self._segment = segment
        self.decoder.opened(info, segment)
        self.first_of_segment = None
        STREAM_OPEN.observe(time.monotonic() - self._started)
        self.status.live()
        for listener in list(self._listeners):
            listener.on_live(info)

    def _packets(self, packets: list[Packet]) -> None:
        self.status.heard()
        for packet in packets:
            self.last_packet = packet
            if self.first_of_segment is None:
                self.first_of_segment = packet
            picture = self.ring.append(packet)
            if picture is None:
                PACKETS_DROPPED.labels(reason="no_keyframe").inc()
                continue
            self.decoder.follow(picture)
            for listener in list(self._listeners):
                listener.on_picture(picture)

    def _failed(self, failure: CaptureFailure, delay: float) -> None:
        if explanation := self._back_off.explanation:
            failure = CaptureFailure(failure.code, failure.message + explanation)
        self.status.failed(failure, self._back_off.failures, refused_logins=self._back_off.refused_logins, retry_in=delay)
        for listener in list(self._listeners):
            listener.on_failure(failure)

    async def _wait(self, delay: float) -> None:
        """Or until the stream is closed."""
        try:
            async with asyncio.timeout(delay):
                await self._closing.wait()
        except TimeoutError:
            pass

    def close(self) -> None:
        """Begins to close; `closed()` waits for it."""
        self._closing.set()
        self.status.closing()
        if self._connection is not None:
            self._connection.stop()

    async def closed(self) -> None:
        """Waits until the reader's thread has ended: it must be gone before the interpreter is."""
        await self._task
        await self.decoder.close()
        self.ring.clear()
