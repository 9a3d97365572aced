"""The reader `native`: our own RTSP client, on one event loop for the sockets of all cameras (`io_loop`).

The connection on which the camera is asked is the one that its pictures come by: a camera with one place is captured,
and what answered the questions is what sends.
"""

from __future__ import annotations

import asyncio
import math
import time

from config import RtspSettings
from services.rtsp_capture.connection.batches import Batches
from services.rtsp_capture.connection.io_loop import IoLoop, Linked
from services.rtsp_capture.connection.native_media import NativeMedia
from services.rtsp_capture.connection.reader import ConnectionEnd, ConnectionPlan, PacketConnection
from services.rtsp_capture.connection.rtsp.framing import Data
from services.rtsp_capture.connection.rtsp_session import RtspSession, SessionOpener
from utils.exceptions import CaptureFailure
from utils.logger import get_logger
from utils.metrics import HELD_FULL

log = get_logger(__name__)

_SILENCE_CHECKS = 8  # in RTSP__READ_TIMEOUT
_QUIET = 0.05  # seconds without a packet after which nothing more of a picture is waited for
_MAX_HELD = 512  # reads, or datagrams, that wait for a turn at most,
_MAX_HELD_BYTES = 8 * 1024 * 1024  # and so many bytes


class NativeConnector:
    """Connects to cameras. One a process."""

    def __init__(self, settings: RtspSettings, io: IoLoop, opener: SessionOpener) -> None:
        self._settings, self._io, self._opener = settings, io, opener

    async def __call__(self, plan: ConnectionPlan) -> PacketConnection:
        """Raises CaptureFailure; its message holds neither URL nor credentials."""
        return await Linked(self._io, plan).begin(self._connect)

    async def _connect(self, plan: ConnectionPlan) -> PacketConnection:
        """On the sockets' loop, as all that follows."""
        session = await self._opener.open(plan.address, plan.transport)
        connection = NativeConnection(plan, self._settings, session, self._io.turns)
        try:
            await connection.begin()
        except ConnectionError:
            session.close()
            raise CaptureFailure("stream_ended", "The camera closed the connection instead of playing.") from None
        except BaseException:
            session.close()
            raise
        self._opener.succeeded(plan.address)
        return connection


class NativeConnection:
    """One connection (`reader.PacketConnection`): packets come until `ended`.

    What has come is held, with its time, until the next turn, but for the first packets of a connection.
    """

    def __init__(self, plan: ConnectionPlan, settings: RtspSettings, session: RtspSession, turns: Batches) -> None:
        self._plan, self._settings, self._session, self._turns = plan, settings, session, turns
        self._held: list[tuple[float, bytes | Data]] = []
        self._held_bytes = 0
        self._prompt_until = math.inf  # monotonic seconds: until then nothing is held
        self._received = 0.0  # steady time of the last that was taken
        self._loop = asyncio.get_running_loop()
        self._media = NativeMedia(
            plan, session.track, session.channels,
            lossy=session.udp is not None, max_pixels=settings.MAX_PIXELS, max_offset=settings.MAX_CLOCK_OFFSET,
        )  # fmt: skip
        self._silent = 0  # checks in a row in which no packet had come
        self._heard = False
        self._checking: asyncio.TimerHandle | None = None
        self._quiet: asyncio.TimerHandle | None = None
        self.ended: asyncio.Future[ConnectionEnd] = self._loop.create_future()

    async def begin(self) -> None:
        """Raises CaptureFailure, ConnectionError."""
        await self._session.start(self._at_once, self._hung_up, self._came)
        self._turns.add(self._turn)
        self._checking = self._loop.call_later(self._settings.READ_TIMEOUT / _SILENCE_CHECKS, self._check_silence)

    # -- packets -----------------------------------------------------------------------------------------------

    def _at_once(self, packets: list[Data | None]) -> None:
        self._take(packets, self._plan.host.steady())

    def _came(self, data: bytes | Data) -> None:
        self._held.append((self._plan.host.steady(), data))
        self._held_bytes += len(data if isinstance(data, bytes) else data.payload)
        if len(self._held) >= _MAX_HELD or self._held_bytes >= _MAX_HELD_BYTES:
            HELD_FULL.inc()
            self._turn()
        elif time.monotonic() < self._prompt_until:
            self._turn()

    def _turn(self) -> None:
        if not self._held:
            return
        held, self._held, self._held_bytes = self._held, [], 0
        for received, data in held:
            if self.ended.done():
                return
            self._take(data, received)
        if self._prompt_until == math.inf and self._media.opened:
            self._prompt_until = -math.inf
        if self._quiet is not None:
            self._quiet.cancel()
            self._quiet = None
        if self._media.waits and not self.ended.done():
            late = self._plan.host.steady() - self._received
            self._quiet = self._loop.call_later(max(0.0, _QUIET - late), self._flush)

    def _take(self, came: bytes | Data | list[Data | None], received: float) -> None:
        try:
            packets = self._session.client.understand(came) if isinstance(came, bytes) else came
            packets = [packets] if isinstance(packets, Data) else packets
            if self.ended.done() or not packets:
                return
            self._received = received
            heard, goodbye = self._media.take(packets, received)
        except Exception as error:
            self._failed(error)
            return
        self._heard |= heard
        if goodbye:
            self._finish(CaptureFailure("stream_ended", "The camera said that it ends the stream."), goodbye=True)

    def _flush(self) -> None:
        self._quiet = None
        if self._held:  # what is waited for may have come
            self._turn()
        elif not self.ended.done():
            try:
                self._media.flush()
            except Exception as error:
                self._failed(error)

    def _failed(self, error: Exception) -> None:
        """Nothing that a camera sends may end more than its own connection."""
        if not isinstance(error, CaptureFailure):
            log.error("stream_not_understood", camera_id=self._plan.name, exc_info=error)
            error = CaptureFailure("stream_ended", f"Reading the stream failed ({type(error).__name__}).")
        self._finish(error)

    def _check_silence(self) -> None:
        """In a process that was suspended, one check finds everything silent: that is one of several."""
        self._turn()
        if self.ended.done():
            return
        self._silent = 0 if self._heard else self._silent + 1
        self._heard = False
        if self._silent >= _SILENCE_CHECKS:
            self._finish(CaptureFailure("read_timeout", "The camera sent nothing for RTSP__READ_TIMEOUT seconds."))
        else:
            self._checking = self._loop.call_later(self._settings.READ_TIMEOUT / _SILENCE_CHECKS, self._check_silence)

    def _hung_up(self) -> None:
        self._turn()
        self._finish(CaptureFailure("stream_ended", "The camera ended the stream or closed the connection."))

    # -- the end -----------------------------------------------------------------------------------------------

    @property
    def reported(self) -> bool:
        return self._media.reported

    async def catch_up(self, prompt: float = 0.0) -> None:
        self._prompt_until = max(self._prompt_until, time.monotonic() + prompt)
        self._turn()

    def stop(self) -> None:
        self._finish(None)

    def abandon(self, failure: CaptureFailure) -> bool:
        self._finish(failure)
        return True

    async def join(self) -> None:
        """Nothing is left once it has ended."""

    def _finish(self, failure: CaptureFailure | None, *, goodbye: bool = False) -> None:
        if self.ended.done():
            return
        self._turns.remove(self._turn)
        for timer in (self._checking, self._quiet):
            if timer is not None:
                timer.cancel()
        self._media.close()
        self._session.close()
        self.ended.set_result(ConnectionEnd(failure, self._media.count, goodbye))
