"""A stream that is closed at odd moments."""

from __future__ import annotations

import asyncio

from config import RtspSettings
from services.rtsp_capture.connection.camera_address import parse_rtsp_url
from services.rtsp_capture.connection.reader import ConnectionEnd, ConnectionPlan, PacketConnection
from services.rtsp_capture.media.ring_budget import RingBudget
from services.rtsp_capture.streams.stream import Stream, StreamDeps, StreamKey
from utils.exceptions import CaptureFailure
from utils.pool import WorkerPool


class Idle:
    """A connection on which nothing comes."""

    reported = False

    def __init__(self) -> None:
        self.ended: asyncio.Future[ConnectionEnd] = asyncio.get_running_loop().create_future()

    async def catch_up(self, prompt: float = 0.0) -> None: ...

    def stop(self) -> None:
        self.ended.set_result(ConnectionEnd(None, 0))

    def abandon(self, failure: CaptureFailure) -> bool:
        raise AssertionError

    async def join(self) -> None: ...


async def test_a_close_right_when_the_connection_is_there_stops_it() -> None:
    """Nobody else would: its place would be taken for good."""
    pool, made = WorkerPool("stream-test", 1), list[Idle]()

    async def connect(_: ConnectionPlan) -> PacketConnection:
        asyncio.get_running_loop().call_soon(stream.close)  # after it is there, before whoever waits for it
        made.append(Idle())
        return made[-1]

    address = parse_rtsp_url("rtsp://127.0.0.1:1/x")
    deps = StreamDeps(RtspSettings(), connect, pool)
    stream = Stream(StreamKey("cam", "rtsp://127.0.0.1:1/x", "tcp"), address, deps, RingBudget(10**9))
    async with asyncio.timeout(5):
        await stream.closed()
    assert [connection.ended.done() for connection in made] == [True]
    await pool.close()
