"""A stream that is closed at odd moments."""

from __future__ import annotations

import asyncio

from config import RtspSettings
from services.rtsp_capture.connection.address import parse_rtsp_url
from services.rtsp_capture.connection.preflight import Described
from services.rtsp_capture.connection.reader import PacketReader, ReaderOptions
from services.rtsp_capture.media.ring_budget import RingBudget
from services.rtsp_capture.streams.stream import Stream, StreamDeps, StreamKey
from utils.pool import WorkerPool


async def test_a_close_right_when_the_check_has_ended_opens_nothing() -> None:
    """Nobody would stop the thread that began after it: its place would be taken for good."""
    pool, opened = WorkerPool("stream-test", 1), 0

    async def check(_: object) -> Described:
        asyncio.get_running_loop().call_soon(stream.close)  # after the check, before whoever waits for it
        return described

    def reader(_: ReaderOptions) -> PacketReader:
        nonlocal opened
        opened += 1
        raise AssertionError

    address = parse_rtsp_url("rtsp://127.0.0.1:1/x")
    described = Described("127.0.0.1", "h264")
    deps = StreamDeps(RtspSettings(), check, reader, pool)
    stream = Stream(StreamKey("cam", "rtsp://127.0.0.1:1/x", "tcp"), address, deps, RingBudget(10**9))
    async with asyncio.timeout(5):
        await stream.closed()
    assert opened == 0
    await pool.close()
