"""The decoder that follows a stream after a snapshot: what is decoded, when it stops."""

from __future__ import annotations

import pytest

from services.rtsp_capture.media import decoder as decoder_module
from services.rtsp_capture.media.decoder import PictureDecoder
from services.rtsp_capture.media.gop_buffer import Packet
from services.rtsp_capture.streams.live_decoder import FOLLOW_SECONDS, LiveDecoder
from tests.unit.services.rtsp_capture.capture_films import film, received
from utils.pool import WorkerPool


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> list[Packet]:
    """Every packet that a decoder was given."""
    given: list[Packet] = []
    feed = PictureDecoder._feed

    def noted(self: PictureDecoder, one: decoder_module._Fed, picture: object) -> None:
        given.append(one.packet)
        feed(self, one, picture)  # type: ignore[arg-type]

    monkeypatch.setattr(PictureDecoder, "_feed", noted)
    return given


class Time:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def settled(decoder: LiveDecoder) -> None:
    if decoder._following is not None:
        await decoder._following


async def test_after_a_snapshot_each_packet_is_decoded_once_as_it_comes(fed: list[Packet]) -> None:
    pool, clock = WorkerPool("in-step", 1), Time()
    made = film("h264")
    pictures = received(made.packets, made.info)
    following = LiveDecoder(pool, lossy=False, monotonic=clock)
    following.follow(pictures[0])
    assert not following.active
    assert not fed

    first = await following.jpeg(made.info, pictures[12], 90)
    assert [packet.pts for packet in fed] == [picture.packet.pts for picture in pictures[:13]]
    fed.clear()
    for picture in pictures[13:40]:
        following.follow(picture)
    await settled(following)
    assert len(fed) == len({packet.pts for packet in fed}) <= 27  # none twice; a GOP that passed meanwhile may be left out
    fed.clear()
    again = await following.jpeg(made.info, pictures[39], 90)
    assert not fed
    assert again.sha256 != first.sha256
    await following.close()
    await pool.close()


async def test_it_stops_some_seconds_after_the_last_snapshot(fed: list[Packet]) -> None:
    pool, clock = WorkerPool("in-step", 1), Time()
    made = film("h264")
    pictures = received(made.packets, made.info)
    following = LiveDecoder(pool, lossy=False, monotonic=clock)
    await following.jpeg(made.info, pictures[3], 90)
    clock.now += FOLLOW_SECONDS - 0.1
    following.follow(pictures[4])
    await settled(following)
    assert following.active
    assert fed[-1] is pictures[4].packet
    clock.now += 0.2
    following.follow(pictures[5])
    assert not following.active
    await settled(following)
    assert fed[-1] is pictures[4].packet
    await pool.close()
