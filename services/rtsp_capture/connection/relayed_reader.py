"""Readers of libraries that block, fed by our own client through an `RtspRelay`: how `opencv` reads a camera."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from config import RtspSettings
from services.rtsp_capture.connection.io_loop import IoLoop
from services.rtsp_capture.connection.reader import (
    ConnectionEnd,
    ConnectionPlan,
    PacketConnection,
    ReaderFactory,
    ReaderOptions,
)
from services.rtsp_capture.connection.reader_thread import ReaderThread
from services.rtsp_capture.connection.rtsp_relay import RtspRelay
from services.rtsp_capture.connection.rtsp_session import SessionOpener
from utils.exceptions import CaptureFailure


class RelayedConnector:
    """Asks the camera, then opens what the relay shows. One a process."""

    def __init__(self, settings: RtspSettings, io: IoLoop, opener: SessionOpener, open_reader: ReaderFactory) -> None:
        self._settings, self._io, self._opener, self._open_reader = settings, io, opener, open_reader

    async def __call__(self, plan: ConnectionPlan) -> PacketConnection:
        """Raises CaptureFailure; its message holds neither URL nor credentials."""
        settings = self._settings
        relay = await self._io.run(self._relay(plan), RtspRelay.close)
        options = ReaderOptions(relay.url, settings.OPEN_TIMEOUT, settings.READ_TIMEOUT, settings.MAX_PIXELS)
        thread = ReaderThread(
            plan.name, self._open_reader(options), plan.segment, plan.on_open, plan.on_packets,
            max_offset=settings.MAX_CLOCK_OFFSET, host=plan.host, batches=self._io.batches,
        )  # fmt: skip
        connection = RelayedConnection(thread, relay, self._io)
        thread.start()
        return connection

    async def _relay(self, plan: ConnectionPlan) -> RtspRelay:
        session = await self._opener.open(plan.address, plan.transport)
        relay = RtspRelay(session, lambda: self._opener.succeeded(plan.address), max_pixels=self._settings.MAX_PIXELS)
        try:
            await relay.play(self._settings.READ_TIMEOUT)
            await relay.listen()
        except BaseException:
            relay.close()
            raise
        return relay


class RelayedConnection:
    """A thread that reads a relay (`reader.PacketConnection`). What ended the camera's side is the reason of its end."""

    def __init__(self, thread: ReaderThread, relay: RtspRelay, io: IoLoop) -> None:
        self._thread, self._relay, self._io = thread, relay, io
        self.ended: asyncio.Future[ConnectionEnd] = asyncio.get_running_loop().create_future()
        thread.ended.add_done_callback(self._over)

    def _over(self, ended: asyncio.Future[ConnectionEnd]) -> None:
        end, relay = ended.result(), self._relay
        if end.failure is not None and relay.failure is not None:
            end = replace(end, failure=relay.failure, goodbye=relay.goodbye)
        self._io.call(relay.close)
        self.ended.set_result(end)

    @property
    def reported(self) -> bool:
        return self._thread.reported

    async def catch_up(self, prompt: float = 0.0) -> None:
        await self._thread.catch_up(prompt)

    def stop(self) -> None:
        """The camera's side at once; the thread when its read ends, which the closed relay ends."""
        self._thread.stop()
        self._io.call(self._relay.close)

    def abandon(self, failure: CaptureFailure) -> bool:
        return self._thread.abandon(failure)

    async def join(self) -> None:
        await self._thread.join()
