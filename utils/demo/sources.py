"""What a demo camera sends: one timeline per camera, the same for every client, tied to the wall clock.

Picture number n of a film of N pictures, and of a live scene with its N = 2**20, is taken whenever
`floor(unix time * fps) % N == n`. So a decoded picture tells when it was taken, whoever receives it.
"""

import asyncio
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
from aio_rtsp_toolkit.server_media import (
    MediaSourceLoader,
    MediaTrackInfo,
    extract_nalus,
    parse_parameter_sets,
    profile_level_id_from_sps,
    to_base64,
)

Join = Literal["key", "now", "burst"]

TICKS = 90_000
_QUEUE = 100  # units a client may lag behind before it loses some
_LATE = 0.5  # seconds behind after which a film jumps forward, as a camera does after a pause


def capture_time(number: int, fps: int, pictures: int, near: float) -> float:
    """When (unix time) the picture with this number was taken: of all its laps the one closest to `near`."""
    lap = pictures / fps
    return number / fps + round((near - number / fps) / lap) * lap


@dataclass(frozen=True, slots=True)
class Unit:
    """One coded picture."""

    taken: float  # unix time
    nalus: tuple[bytes, ...]
    key: bool


class Source:
    """A camera's stream; it runs while somebody watches."""

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
        """The stream's RTP timestamp (not wrapped) at a moment of unix time."""
        return self._rtp_start + round((moment - self._origin) * TICKS)

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

    def __init__(self, path: Path, join: Join, rtp_start: int) -> None:
        media = MediaSourceLoader("camera").load(path)
        track = media.tracks[0]
        super().__init__(track, join, rtp_start)
        self._pictures: list[tuple[float, float, Unit]] = []
        with av.open(str(path)) as film:
            self._fps = film.streams.video[0].average_rate or Fraction(25)
            coded = [p for p in film.demux(video=0) if p.size and p.pts is not None and p.dts is not None]
            first = min(p.pts for p in coded if p.pts is not None)
            for packet in coded:
                assert packet.pts is not None
                assert packet.dts is not None
                assert packet.time_base is not None
                nalus = tuple(extract_nalus(track.codec_name, bytes(packet), track.nal_length_size))
                unit = Unit(float((packet.pts - first) * packet.time_base), nalus, packet.is_keyframe)
                self._pictures.append((float((packet.dts - first) * packet.time_base), unit.taken, unit))
        self._delay = max(taken - dts for dts, taken, _ in self._pictures)
        self._lap = float(len(self._pictures) / self._fps)

    async def _run(self) -> None:
        lap, index = self.now() // self._lap - 1, 0
        wait = True  # for the present, and for a key picture
        while True:
            dts, taken, unit = self._pictures[index]
            due = lap * self._lap + dts + self._delay
            ahead = due - self.now()
            if self._join == "burst" and wait:
                wait = not unit.key or due + self._group_seconds(index) < self.now()
            elif wait:
                wait = ahead < 0 or not (unit.key or self._join == "now")
            elif ahead < -max(_LATE, self._group_seconds(0)):
                wait = True
            if not wait:
                if ahead > 0:
                    await asyncio.sleep(ahead)
                self._publish(Unit(lap * self._lap + taken, unit.nalus, unit.key))
            index += 1
            if index == len(self._pictures):
                lap, index = lap + 1, 0

    def _group_seconds(self, index: int) -> float:
        """How long the group lasts that begins at this key picture."""
        later = (i for i in range(index + 1, len(self._pictures)) if self._pictures[i][2].key)
        return float((next(later, len(self._pictures)) - index) / self._fps)


class Live(Source):
    """The demo scene drawn and encoded as it happens; its burnt-in clock shows UTC."""

    def __init__(self, label: str, seed: int, size: tuple[int, int], fps: int, bitrate: int, join: Join, rtp_start: int):
        from utils.demo.scene import Scene  # here, so that a camera which only shows films needs no OpenCV

        self._fps = fps
        self._scene = Scene(*size, seed, label)
        self._encoder = encoder = av.VideoCodecContext.create("libx264", "w")
        encoder.width, encoder.height, encoder.pix_fmt = *size, "yuv420p"
        encoder.framerate, encoder.time_base = Fraction(fps), Fraction(1, fps)
        encoder.gop_size, encoder.max_b_frames, encoder.bit_rate, encoder.thread_count = fps, 0, bitrate, 1
        encoder.options = {
            "preset": "ultrafast",
            "tune": "zerolatency",
            "forced-idr": "1",
            "sc_threshold": "0",
            "x264-params": f"vbv-maxrate={bitrate // 1000}:vbv-bufsize={bitrate // 1000}",
        }
        self._key = True
        self._worker = ThreadPoolExecutor(1, "scene")
        _, sets = parse_parameter_sets("h264", self._encode(math.floor(time.time() * fps)))
        fmtp = (
            f"packetization-mode=1; profile-level-id={profile_level_id_from_sps(sets['sps'])}; "
            f"sprop-parameter-sets={to_base64(sets['sps'])},{to_base64(sets['pps'])}"
        )
        track: Any = MediaTrackInfo("video", "track1", "h264", 96, TICKS, fmtp=fmtp, parameter_sets=sets)
        super().__init__(track, join, rtp_start)

    def _want_key(self) -> None:
        self._key = True

    def _encode(self, number: int) -> bytes:
        import cv2

        clock = f"{datetime.fromtimestamp(number / self._fps + 1e-5, UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3] + " UTC"
        image = self._scene.render(number / self._fps, clock, number)
        planes = cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420)
        frame = av.VideoFrame.from_ndarray(planes.astype("uint8", copy=False), format="yuv420p")
        frame.pts, frame.time_base = number, Fraction(1, self._fps)
        if self._key:
            self._key = False
            frame.pict_type = av.video.frame.PictureType.I
        return b"".join(bytes(packet) for packet in self._encoder.encode(frame))

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        self._key = True
        number = math.floor(self.now() * self._fps) + 1
        while True:
            await asyncio.sleep(max(0.0, number / self._fps - self.now()))
            nalus = annexb(await loop.run_in_executor(self._worker, self._encode, number))
            kinds = {nalu[0] & 31 for nalu in nalus}
            coded = tuple(nalu for nalu in nalus if nalu[0] & 31 in (1, 5))
            self._publish(Unit(number / self._fps, coded, 5 in kinds))
            number = max(number + 1, math.floor(self.now() * self._fps))


def annexb(data: bytes) -> list[bytes]:
    """The NAL units of an Annex B byte stream."""
    parts = data.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1")
    return [part for part in parts if part]
