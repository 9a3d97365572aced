"""How often a picture is made for who looks at latest.jpg. What is in it: tests/integration/captures/test_finding.py."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from models.access import ANONYMOUS
from services.cameras.latest import SPACING, LatestPictures
from services.rtsp_capture.media.decoder import Jpeg
from utils.exceptions import CaptureFailure, InvalidImage
from utils.kept_bytes import KeptBytes

NOW = 1_800_000_000.0


class Stream:
    """An open stream whose newest picture a test chooses; decoding takes until `go`."""

    def __init__(self) -> None:
        self.live = True
        self.decoder = self
        self.decoded: list[float] = []
        self.go = asyncio.Event()
        self.failing = False
        self.comes(NOW)

    def comes(self, at: float) -> None:
        self.picture = SimpleNamespace(packet=SimpleNamespace(timestamp=at))

    async def catch_up(self, _seconds: float) -> None:
        pass

    def newest(self, _now: float, _staleness: float) -> Any:
        return self.picture

    async def snapshot(self, picture: Any, _quality: int) -> Jpeg:
        self.decoded.append(picture.packet.timestamp)
        await self.go.wait()
        if self.failing:
            raise CaptureFailure("decode_failed", "damaged")
        return Jpeg(b"x", 1, 1, f"{picture.packet.timestamp}")


class Clock:
    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


def latest_of(stream: Stream, clock: Clock) -> LatestPictures:
    nothing: Any = None
    keeper: Any = SimpleNamespace(stream_of=lambda _: (stream, 0))
    return LatestPictures(nothing, nothing, keeper, nothing, nothing, now=lambda: NOW + clock.at, monotonic=clock)


async def test_fifty_who_look_cost_one_picture_and_then_five_a_second() -> None:
    stream, clock = Stream(), Clock()
    latest = latest_of(stream, clock)
    looking = [asyncio.create_task(latest.get("a", ANONYMOUS, None)) for _ in range(25)]
    await asyncio.sleep(0)
    stream.comes(NOW + 0.04)  # another picture comes while the first one is decoded
    looking += [asyncio.create_task(latest.get("a", ANONYMOUS, None)) for _ in range(25)]
    await asyncio.sleep(0)
    stream.go.set()
    assert len({one.etag for one in await asyncio.gather(*looking)}) == 1
    assert stream.decoded == [NOW]
    for step in range(100):  # a second, in which a picture comes and is asked for every 10 ms
        clock.at = step / 100
        stream.comes(NOW + clock.at)
        await latest.get("a", ANONYMOUS, None)
    assert len(stream.decoded) <= 1 / SPACING + 1
    before = len(stream.decoded)
    clock.at += 10  # the camera sends nothing more: the picture is there already
    assert (await latest.get("a", ANONYMOUS, None)).at.timestamp() == pytest.approx(stream.decoded[-1])
    assert len(stream.decoded) <= before + 1


async def test_one_who_leaves_takes_nothing_from_the_others() -> None:
    stream = Stream()
    latest = latest_of(stream, Clock())
    leaving, staying = (asyncio.create_task(latest.get("a", ANONYMOUS, None)) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.sleep(0)
    stream.go.set()
    assert (await staying).source == "stream"
    assert stream.decoded == [NOW]


async def test_a_picture_that_cannot_be_decoded_is_left_for_the_next() -> None:
    stream = Stream()
    stream.failing = True
    stream.go.set()
    latest = latest_of(stream, Clock())
    assert await latest._of_stream("a", None) is None
    stream.failing = False
    stream.comes(NOW + 0.04)
    found = await latest._of_stream("a", None)
    assert found is not None
    assert stream.decoded == [NOW, NOW + 0.04]


async def test_max_age_is_of_the_picture_itself() -> None:
    stream, clock = Stream(), Clock()
    stream.go.set()
    latest = latest_of(stream, clock)
    clock.at = 5
    assert await latest._of_stream("a", 4.9) is None
    assert await latest._of_stream("a", 5.0) is not None
    stream.comes(NOW + 5)
    found = await latest._of_stream("a", 1.0)  # the one that is kept is too old
    assert found is not None
    assert found.at.timestamp() == pytest.approx(NOW + 5)


async def test_what_is_kept_is_made_once_and_bounded() -> None:
    kept = KeptBytes(max_bytes=10)
    made: list[str] = []

    async def make(name: str, size: int = 4) -> bytes:
        made.append(name)
        await asyncio.sleep(0)
        return name.encode() * size

    assert await asyncio.gather(*(kept.get("a", lambda: make("a")) for _ in range(9))) == [b"aaaa"] * 9
    await kept.get("b", lambda: make("b"))
    await kept.get("a", lambda: make("a"))  # asked for last: b is forgotten before it
    await kept.get("c", lambda: make("c"))
    await kept.get("a", lambda: make("a"))
    assert made == ["a", "b", "c"]
    assert kept._bytes == 8
    await kept.get("b", lambda: make("b"))
    assert made == ["a", "b", "c", "b"]

    async def fail() -> bytes:
        made.append("x")
        raise InvalidImage

    for _ in range(2):  # an error is not kept
        with pytest.raises(InvalidImage):
            await kept.get("x", fail)
    assert made[-2:] == ["x", "x"]
