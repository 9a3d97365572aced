"""What a stream's decoder keeps and shares."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest_asyncio

from services.rtsp_capture.streams.stream_decoder import StreamDecoder
from tests.unit.services.rtsp_capture.capture_films import film, received
from utils.pool import WorkerPool


@pytest_asyncio.fixture
async def decoder() -> AsyncIterator[StreamDecoder]:
    pool = WorkerPool("stream-test", 1)
    made = StreamDecoder(pool, lossy=False)
    yield made
    await made.close()
    await pool.close()


async def test_between_two_pictures_a_stream_holds_no_decoded_frame(decoder: StreamDecoder) -> None:
    """3.3 MB a camera at 1080p, for as long as a capture of one frame a second waits for its next."""
    source = film("h264")
    decoder.opened(source.info, 1)
    await decoder.decode(received(source.packets, source.info)[30], 80)
    inner = decoder._decoder
    assert inner is not None
    assert inner._kept
    async with asyncio.timeout(5):
        while inner._kept:
            await asyncio.sleep(0.05)


async def test_the_size_is_that_of_the_pictures(decoder: StreamDecoder) -> None:
    """Some cameras switch it while they send."""
    source = film("h264")
    picture = received(source.packets, source.info)[0]
    before = replace(source.info, width=640, height=360)
    decoder.opened(before, picture.packet.segment + 1)
    await decoder.decode(picture, 80)
    assert decoder.info is before  # another connection's picture says nothing about this one
    decoder.opened(before, picture.packet.segment)
    await decoder.decode(picture, 90)
    assert decoder.info is not None
    assert (decoder.info.width, decoder.info.height) == (320, 180)


async def test_a_picture_that_two_captures_want_is_decoded_once(decoder: StreamDecoder) -> None:
    source = film("h264")
    decoder.opened(source.info, 1)
    picture = received(source.packets, source.info)[30]
    first, second = await asyncio.gather(decoder.decode(picture, 80), decoder.decode(picture, 80))
    assert first is second
    assert first is not await decoder.decode(picture, 80)
