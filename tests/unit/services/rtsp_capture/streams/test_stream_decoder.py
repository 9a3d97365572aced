"""What a stream's decoder keeps and shares."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from services.rtsp_capture.streams.stream_decoder import StreamDecoder
from tests.unit.services.rtsp_capture.capture_films import film, received
from utils.exceptions import CaptureFailure
from utils.metrics import REGISTRY
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


async def test_of_several_pictures_the_sharpest_is_taken_and_at_hand(
    decoder: StreamDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = film("h264")
    decoder.opened(source.info, 1)
    shown = received(source.packets, source.info)[5:12]
    scores = iter([3.0, 9.0, 4.0, 1.0, 2.0, 8.0, 7.0])
    monkeypatch.setattr("services.quality.sharpness.sharpness", lambda _: next(scores))
    assert await decoder.sharpest(shown, 10) is shown[1]
    inner = decoder._decoder
    assert inner is not None
    alone = StreamDecoder(decoder._pool, lossy=False)
    alone.opened(source.info, 1)
    wanted = await alone.decode(shown[1], 80)
    await alone.close()
    fed = inner._last
    assert (await decoder.decode(shown[1], 80)).data == wanted.data
    assert inner._last is fed  # nothing was decoded again
    assert inner._best is None


def picks(outcome: str) -> float:
    return REGISTRY.get_sample_value("ingestion_picks_total", {"outcome": outcome}) or 0


async def test_what_cannot_be_compared_in_time_or_at_all_is_left_out(
    decoder: StreamDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = film("h264")
    decoder.opened(source.info, 1)
    shown = received(source.packets, source.info)
    rising = iter(range(100))
    monkeypatch.setattr("services.quality.sharpness.sharpness", lambda _: float(next(rising)))
    before = picks("some")
    assert await decoder.sharpest(shown[5:12], 0) is shown[5]  # one is compared, whatever the time
    assert picks("some") == before + 1
    shown[30].gop.damage.failed(shown[30].index + 1)
    assert shown[31].damaged
    assert await decoder.sharpest(shown[29:33], 10) is shown[30]
    with pytest.raises(CaptureFailure) as failed:
        await decoder.sharpest(shown[31:34], 10)
    assert failed.value.code == "decode_failed"


async def test_a_picture_that_two_captures_want_is_decoded_once(decoder: StreamDecoder) -> None:
    source = film("h264")
    decoder.opened(source.info, 1)
    picture = received(source.packets, source.info)[30]
    first, second = await asyncio.gather(decoder.decode(picture, 80), decoder.decode(picture, 80))
    assert first is second
    assert first is not await decoder.decode(picture, 80)


async def test_who_gives_up_leaves_the_decoder_when_the_thread_has_left_it() -> None:
    """Two threads in one decoder end the process: a capture that is cancelled, and the next one on its stream."""
    source = film("h264")
    shown = received(source.packets, source.info)
    pool = WorkerPool("stream-two", 2)
    decoder = StreamDecoder(pool, lossy=False)
    decoder.opened(source.info, 1)
    entered, leave = threading.Event(), threading.Event()

    def judge(_luma: object) -> None:
        entered.set()
        leave.wait(10)

    try:
        look = asyncio.create_task(decoder.inspect(shown[3], 160, judge))
        await asyncio.to_thread(entered.wait, 10)
        for _ in range(3):  # as often as it is told
            look.cancel()
            await asyncio.sleep(0)
        assert not look.done()
        following = asyncio.create_task(decoder.decode(shown[5], 80))
        await asyncio.sleep(0)
        assert decoder._lock.locked()
        leave.set()
        with pytest.raises(asyncio.CancelledError):
            await look
        assert (await following).width == 320
    finally:
        leave.set()
        await decoder.close()
        await pool.close()
