"""What a demo camera sends: one timeline per camera, the same for every client, tied to the wall clock.

Picture number n of a film of N pictures, and of a live scene with its N = 2**20, is taken whenever
`floor(unix time * fps) % N == n`. So a decoded picture tells when it was taken, on every client.
"""

import asyncio
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import av
from aio_rtsp_toolkit.server_media import MediaTrackInfo

from demo.show import Sets
from demo.tracks import Coded, read_sound, read_video

Join = Literal["key", "now", "burst"]

_QUEUE = 100  # units a client may lag behind before it loses some
_LATE = 0.5  # seconds behind after which a film jumps forward, as a camera does after a pause


def capture_time(number: int, fps: int, pictures: int, near: float) -> float:
    """When (unix time) the picture with this number was taken: of all its laps the one closest to `near`."""
    lap = pictures / fps
    return number / fps + round((near - number / fps) / lap) * lap


@dataclass(frozen=True, slots=True)
class Unit:
    """One coded picture, or some sound, as RTP payloads."""

    taken: float  # unix time
    number: int  # of the picture in its film
    key: bool
    payloads: tuple[bytes, ...]


class Source:
    """A track of a camera; it runs while somebody watches."""

    def __init__(self, track: MediaTrackInfo, join: Join, rtp_start: int) -> None:
        self.track = track
        self._join = join
        self._rtp_start = rtp_start
        self._shift = time.time() - time.monotonic()
        self._origin = math.floor(self.now())
        self._watchers: set[asyncio.Queue[Unit]] = set()
        self._lost: set[asyncio.Queue[Unit]] = set()
        self._group: list[Unit] = []
        self._task: asyncio.Task[None] | None = None

    def now(self) -> float:
        """Unix time that never jumps while the camera runs."""
        return time.monotonic() + self._shift

    def rtp(self, moment: float) -> int:
        """The track's RTP timestamp (not wrapped) at a moment of unix time."""
        return self._rtp_start + round((moment - self._origin) * float(self.track.clock_rate))

    @contextmanager
    def watch(self) -> Iterator[asyncio.Queue[Unit]]:
        """The units from now on, or from a key picture on, as the camera's `join` says."""
        queue: asyncio.Queue[Unit] = asyncio.Queue(_QUEUE)
        if self._join == "burst" and len(self._group) < _QUEUE:
            for unit in self._group:
                queue.put_nowait(unit)
        if self._join != "now" and queue.empty():
            self._lost.add(queue)
            self._want_key()
        self._watchers.add(queue)
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        try:
            yield queue
        finally:
            self._watchers.discard(queue)
            self._lost.discard(queue)
            if not self._watchers and self._task is not None:
                self._task.cancel()
                self._task = None
                self._group.clear()

    def _publish(self, unit: Unit) -> None:
        if unit.key:
            self._group.clear()
        self._group.append(unit)
        for queue in self._watchers:
            if queue in self._lost and not (unit.key and queue.empty()):
                continue
            self._lost.discard(queue)
            try:
                queue.put_nowait(unit)
            except asyncio.QueueFull:
                self._lost.add(queue)

    def _want_key(self) -> None:
        pass

    async def _run(self) -> None:
        raise NotImplementedError


class Film(Source):
    """A film shown for ever; a picture leaves when its decoding order allows, never before it was taken."""

    def __init__(
        self, path: Path, join: Join, rtp_start: int, *, then: Sequence[Path] = (), sets: Sets = "both", limit: int = 1400
    ) -> None:
        """`then`: films of the same codec and rate shown after it; `limit`: bytes of an RTP payload."""
        film = read_video(path, sets, limit)
        super().__init__(film.track, join, rtp_start)
        self._pictures: list[Coded] = list(film.coded)
        self._step = film.step
        for each in then:
            following = read_video(each, sets, limit)
            start, first = len(self._pictures) * self._step, len(self._pictures)
            self._pictures += [coded.moved(start, first) for coded in following.coded]
        self._delay = max(coded.shown - coded.sent for coded in self._pictures)
        self._lap = float(len(self._pictures) * self._step)

    async def _run(self) -> None:
        lap, index = self.now() // self._lap - 1, 0
        wait = True  # for the present, and for a key picture
        while True:
            coded = self._pictures[index]
            due = lap * self._lap + float(coded.sent + self._delay)
            ahead = due - self.now()
            if self._join == "burst" and wait:
                wait = not coded.key or due + self._group_seconds(index) < self.now()
            elif wait:
                wait = ahead < 0 or not (coded.key or self._join == "now")
            elif ahead < -max(_LATE, self._group_seconds(0)):
                wait = True
            if not wait:
                await asyncio.sleep(max(0.0, ahead))  # a group that is repeated at once may be longer than a queue
                self._publish(Unit(lap * self._lap + float(coded.shown), coded.number, coded.key, coded.payloads))
            index += 1
            if index == len(self._pictures):
                lap, index = lap + 1, 0

    def _group_seconds(self, index: int) -> float:
        """How long the group lasts that begins at this key picture."""
        later = (i for i in range(index + 1, len(self._pictures)) if self._pictures[i].key)
        return float((next(later, len(self._pictures)) - index) * self._step)


class Sound(Source):
    """The sound of a file, for ever."""

    def __init__(self, path: Path, rtp_start: int) -> None:
        track, self._payloads, self._step = read_sound(path)
        super().__init__(track, "now", rtp_start)

    async def _run(self) -> None:
        number = math.floor(self.now() / self._step) + 1
        while True:
            taken = float(number * self._step)
            await asyncio.sleep(max(0.0, taken - self.now()))
            index = number % len(self._payloads)
            self._publish(Unit(taken, index, True, (self._payloads[index],)))
            number = max(number + 1, math.floor((self.now() - _LATE) / self._step))


def has_pictures(path: Path) -> bool:
    """Whether a file shows something; else it is taken as sound."""
    with av.open(str(path)) as film:
        return bool(film.streams.video)
