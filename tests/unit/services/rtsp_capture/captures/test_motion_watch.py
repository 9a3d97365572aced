"""Which pictures are analysed for motion, and which motion events follow when the decode pool is slow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np

from models.values import EventNote, MotionParams, Sampling
from services.rtsp_capture.captures.motion import Luma
from services.rtsp_capture.captures.motion_events import WIDTH, MotionResult
from services.rtsp_capture.captures.motion_watch import BUSY_POOL_TIMEOUT, MAX_WAITING, QUIET_SECONDS, MotionWatch
from services.rtsp_capture.grid.sampler import SlotSampler
from services.rtsp_capture.media.gop_buffer import Packet, Picture, Ring

FPS, MOTION_FPS = 25, 5.0
CAME, LEFT = 4.1, 6.7  # seconds: a car is there


def luma(at: float) -> Luma:
    """A grey street, with a car on it while one is there."""
    plane = np.full((WIDTH * 9 // 16, WIDTH), 90, np.uint8)
    if CAME <= at < LEFT:
        plane[30:60, 40:90] = 220
    return plane


class Street:
    """A stream of 25 pictures a second, a keyframe a second, of which `most` can be analysed so far."""

    def __init__(self) -> None:
        self.ring = Ring(30, 10**9)
        self.most = 1_000_000
        self.analysed: list[float] = []

    async def inspect(self, picture: Picture, width: int, judge: Callable[[Luma], MotionResult]) -> MotionResult:
        while len(self.analysed) >= self.most:
            await asyncio.sleep(0)
        self.analysed.append(round(picture.timestamp, 2))
        return judge(luma(picture.timestamp))

    def next(self, number: int) -> Picture:
        at = number / FPS
        picture = self.ring.append(Packet(b"x", at, number % FPS == 0, at, at, 0.0, 1))
        assert picture is not None
        return picture


class Watched:
    def __init__(self) -> None:
        self.street = Street()
        self.watch = MotionWatch(MotionParams(), MOTION_FPS, self.street, self.street.ring, asyncio.Event())
        self.grid = SlotSampler(0.0, 1.0, Sampling.EXACT, 0, None)
        self.number = 0

    async def until(self, seconds: float) -> None:
        """The stream continues up to a moment; analyses that can end do."""
        while self.number / FPS < seconds:
            self.watch.offer(self.street.next(self.number), self.grid)
            self.number += 1
            for _ in range(5):
                await asyncio.sleep(0)

    async def events(self) -> list[EventNote]:
        await self.watch.close()
        return [note for note in self.watch.notes(self.number / FPS) if note.over]


async def test_an_event_is_the_time_that_something_moves() -> None:
    watched = Watched()
    await watched.until(10)
    (event,) = await watched.events()
    assert CAME <= event.start <= CAME + 1 / MOTION_FPS
    assert LEFT - 1.5 / MOTION_FPS <= event.seen < LEFT


async def test_an_event_is_as_long_when_the_pool_is_slow() -> None:
    """Pictures that come due during the search for its beginning are analysed later."""
    watched = Watched()
    await watched.until(5.0)
    watched.street.most = len(watched.street.analysed) + 1  # the keyframe at 5.0, in which the car is, and nothing more
    await watched.until(6.9)
    assert watched.street.analysed[-1] == 5.0
    watched.street.most = 1_000_000
    await watched.until(10)
    (event,) = await watched.events()
    assert CAME <= event.start <= CAME + 1 / MOTION_FPS
    assert LEFT - 1.5 / MOTION_FPS <= event.seen < LEFT


async def test_an_event_lasts_while_pictures_wait_to_be_analysed() -> None:
    """Only for so long: a picture analysed 30 s late may be gone from the ring."""
    watched = Watched()
    await watched.until(5.5)
    watched.street.most = len(watched.street.analysed)
    await watched.until(15.0)
    assert not [note for note in watched.watch.notes(15.0) if note.over]
    assert [note for note in watched.watch.notes(5.5 + QUIET_SECONDS + BUSY_POOL_TIMEOUT) if note.over]
    await watched.watch.close()


async def test_what_waits_is_bounded_and_the_newest() -> None:
    watched = Watched()
    await watched.until(5.5)
    seen = watched.street.most = len(watched.street.analysed)
    await watched.until(30.0)  # keyframes
    watched.street.most = 1_000_000
    await watched.until(30.1)
    caught_up = watched.street.analysed[seen:]
    assert len(caught_up) == MAX_WAITING + 1  # and the one that was under way
    assert caught_up[-MAX_WAITING:] == [21.0 + second for second in range(MAX_WAITING)]
    await watched.watch.close()


async def test_while_nothing_moves_only_keyframes_are_analysed() -> None:
    watched = Watched()
    await watched.until(4.0)
    await watched.watch.close()
    assert watched.street.analysed == [0.0, 1.0, 2.0, 3.0]
