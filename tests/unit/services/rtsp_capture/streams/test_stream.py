"""A stream that is told to close at odd moments, and what it keeps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from config import RtspSettings
from services.rtsp_capture.connection.address import parse_rtsp_url
from services.rtsp_capture.connection.preflight import Described
from services.rtsp_capture.connection.reader import PacketReader, ReaderOptions
from services.rtsp_capture.media.ring_budget import RingBudget
from services.rtsp_capture.streams.stream import Stream, StreamDeps, StreamKey
from tests.unit.services.rtsp_capture.capture_films import film, received
from utils.pool import WorkerPool


async def test_a_close_right_when_the_check_has_ended_opens_nothing() -> None:
    """Nobody would stop the session that began after it: its place would be taken for good."""
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


@asynccontextmanager
async def connecting() -> AsyncIterator[Stream]:
    """A stream whose check does not end."""
    pool = WorkerPool("stream-test", 1)

    async def check(_: object) -> Described:
        await asyncio.Event().wait()
        raise AssertionError

    deps = StreamDeps(RtspSettings(), check, lambda _: pytest.fail("not to be opened"), pool)
    address = parse_rtsp_url("rtsp://127.0.0.1:1/x")
    stream = Stream(StreamKey("cam", "rtsp://127.0.0.1:1/x", "tcp"), address, deps, RingBudget(10**9))
    yield stream
    stream.close()
    async with asyncio.timeout(5):
        await stream.closed()
    await pool.close()


async def test_between_two_pictures_a_stream_holds_no_decoded_frame() -> None:
    """3.3 MB a camera at 1080p, for as long as a capture of one frame a second waits for its next."""
    source = film("h264")
    async with connecting() as stream:
        stream.info = source.info
        await stream.decode(received(source.packets, source.info)[30], 80)
        decoder = stream._decoder
        assert decoder is not None
        assert decoder._kept
        async with asyncio.timeout(5):
            while decoder._kept:
                await asyncio.sleep(0.05)


async def test_the_size_is_that_of_the_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some cameras switch it while they send."""
    source = film("h264")
    picture = received(source.packets, source.info)[0]
    async with connecting() as stream:
        stream.info = before = replace(source.info, width=640, height=360)
        await stream.decode(picture, 80)
        assert stream.info is before  # another connection's picture tells nothing about this one
        monkeypatch.setattr(stream, "_segment", picture.packet.segment)
        await stream.decode(picture, 90)
        assert (stream.info.width, stream.info.height) == (320, 180)
