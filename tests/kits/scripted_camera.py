"""Cameras on a script: RTP and RTCP packets of a numbered film, each with the moment at which it arrives.

`Script` is the server's own log: what was sent when, and when each picture was taken. It is played to the real reading code
without waiting: to `native` on an injected clock, to `opencv` (the relay, FFmpeg, the reader's thread) as fast as it reads,
with the script's time as its clock. `Told` compares each packet's stamp with the log.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import socket
import stat
import sys
import termios
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import urlsplit

import av
import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from demo.film import read_frame_number
from demo.rtp import rtp_header, video_payloads
from services.rtsp_capture.connection.camera_address import parse_rtsp_url
from services.rtsp_capture.connection.native_media import NativeMedia
from services.rtsp_capture.connection.opencv_reader import OpenCvReader
from services.rtsp_capture.connection.reader import ConnectionPlan, ReaderOptions
from services.rtsp_capture.connection.reader_thread import ReaderThread
from services.rtsp_capture.connection.rtsp.framing import Data
from services.rtsp_capture.connection.rtsp.sdp import VideoTrack
from services.rtsp_capture.connection.rtsp_relay import RtspRelay
from services.rtsp_capture.connection.rtsp_session import RtspSession
from services.rtsp_capture.media.gop_buffer import Packet
from services.rtsp_capture.media.packets import StreamInfo
from services.rtsp_capture.timing.host_clock import HostClock
from tests.kits.odd_camera import report
from utils.exceptions import CaptureFailure

T0 = 1_800_000_000.0  # when the first picture is taken, seconds since the epoch
RATE = 90_000
SSRC = 7
DELAY = 0.004  # seconds from the sensor to the socket at the least
JITTER = 0.006  # mean of what the network adds
_UUID = b"trackshift number"[:16]
_QUIET = 0.05  # seconds after which the native reader gives up waiting for the rest of a picture (`native`)
_LIMIT = 1000  # bytes of an RTP payload
MAX_PIXELS = 67_108_864


def number_of(data: bytes) -> int | None:
    """The number in an access unit's SEI."""
    at = data.find(_UUID)
    return int(data[at + 16 : at + 24]) if at >= 0 else None


def _sei(codec: str, number: int) -> bytes:
    """User data (ITU-T H.264, D.1.6): 16 bytes of a UUID and the number in digits, which need no emulation prevention."""
    return (b"\x06" if codec == "h264" else b"\x4e\x01") + b"\x05\x18" + _UUID + b"%08d" % number + b"\x80"


def _nals(data: bytes) -> list[bytes]:
    return [part.rstrip(b"\0") for part in data.split(b"\0\0\1")[1:]]


@dataclass
class Shot:
    """A picture of the log."""

    number: int
    taken: float
    arrives: float
    timestamp: int  # RTP
    key: bool
    payloads: list[bytes]
    ssrc: int = SSRC
    extension: bytes = b""
    sent: bool = True


@dataclass
class Script:
    """A camera's log. `sets`: parameter sets stand in the SDP."""

    codec: str
    shots: list[Shot]
    sdp_sets: tuple[bytes, ...] = ()
    fps: float | None = None
    reports: list[tuple[float, bytes]] = field(default_factory=list)  # (arrival, RTCP packet)
    capture_time: int | None = None
    markers: str = "right"  # each, never
    twice: bool = False

    def track(self) -> VideoTrack:
        return VideoTrack(
            self.codec, 96, frozenset(), RATE, "t", "", self.sdp_sets, self.fps, self.capture_time
        )  # fmt: skip

    def sends(self) -> list[tuple[float, list[Data]]]:
        """(Arrival, packets) in the order of arrival, by one connection."""
        found: list[tuple[float, list[Data]]] = []
        sequence, now = 100, 0.0
        reports = sorted(self.reports)
        for shot in self.shots:
            now = max(now, shot.arrives)
            while reports and reports[0][0] <= now:
                found.append((now, [Data(1, reports.pop(0)[1])]))
            packets = []
            for at, payload in enumerate(shot.payloads):
                marker = {"right": at == len(shot.payloads) - 1, "each": True, "never": False}[self.markers]
                head = bytearray(rtp_header(96, marker, sequence, shot.timestamp, shot.ssrc))
                head[0] |= 0x10 if shot.extension else 0
                sequence += 1
                if shot.sent:
                    packets += [Data(0, bytes(head) + shot.extension + payload)] * (2 if self.twice else 1)
            found.append((now, packets))
        return found


# -- films ----------------------------------------------------------------------------------------------------------


def shots(
    pictures: Iterable[tuple[bool, list[bytes]]], codec: str, *, fps: float = 25.0, seed: int = 1, ticks: float = RATE,
    jitter: float = JITTER, start: int = 1_000_000,
) -> list[Shot]:  # fmt: skip
    """Of pictures as (key, NAL units). `ticks`: of the RTP clock in a true second."""
    rng, made = random.Random(seed), []
    for number, (key, nals) in enumerate(pictures):
        taken = T0 + number / fps
        late = rng.expovariate(1 / jitter) if jitter else 0.0
        late += rng.uniform(0.02, 0.12) if jitter and rng.random() < 0.01 else 0.0  # now and then it stalls
        at = next((at for at, nal in enumerate(nals) if _coded(codec, nal)), len(nals))
        payloads = list(video_payloads(codec, [*nals[:at], _sei(codec, number), *nals[at:]], _LIMIT))
        timestamp = start + round(number / fps * ticks) & 0xFFFFFFFF
        made.append(Shot(number, taken, taken + DELAY + late, timestamp, key, payloads))
    return made


def _coded(codec: str, nal: bytes) -> bool:
    return nal[0] & 31 in (1, 5) if codec == "h264" else nal[0] >> 1 & 63 < 32


def of_film(packets: Iterable[Packet], count: int) -> list[tuple[bool, list[bytes]]]:
    """A film over and over, as pictures of `shots`."""
    once = [(packet.key, _nals(packet.data)) for packet in packets]
    return [once[number % len(once)] for number in range(count)]


@cache
def jpegs(count: int, width: int, height: int, subsampling: str = "420") -> tuple[bytes, ...]:
    """Numbered by what they show: 16 blocks of light and dark."""
    made = []
    for number in range(count):
        image = np.full((height, width, 3), 90, np.uint8)
        for bit in range(16):
            image[:32, bit * width // 16 : (bit + 1) * width // 16] = 230 if number >> bit & 1 else 20
        made.append(bytes(simplejpeg.encode_jpeg(image, 60, colorsubsampling=subsampling)))
    return tuple(made)


def jpeg_number(data: bytes) -> int | None:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    if image is None:
        return None
    width = image.shape[1]
    return sum(1 << bit for bit in range(16) if image[16, (2 * bit + 1) * width // 32] > 128)


def reports_of(
    script: Script, every: float, error: Callable[[float], float] = lambda at: 0.0, first: float = 0.0,
    ticks: float = RATE,
) -> None:  # fmt: skip
    """Sender reports each `every` seconds; `error`: seconds by which the camera's clock is ahead of the truth then."""
    at, start, last = T0 + first, script.shots[0], script.shots[-1].taken
    while at < last:
        timestamp = start.timestamp + round((at - start.taken) * ticks)
        script.reports.append((at + DELAY, report(at + error(at - T0), timestamp & 0xFFFFFFFF, SSRC)))
        at += every


# -- playing --------------------------------------------------------------------------------------------------------


@dataclass
class Told:
    """What a reader made of a script."""

    script: Script
    infos: list[StreamInfo]
    packets: list[Packet]
    failure: CaptureFailure | None = None

    def number(self, packet: Packet) -> int | None:
        return jpeg_number(packet.data) if self.script.codec == "mjpeg" else number_of(packet.data)

    def rows(self) -> list[tuple[int, float, Packet]]:
        """(Number, stamp less truth in seconds, packet) of the packets that have a time and are whole."""
        found = []
        taken = {shot.number: shot.taken for shot in self.script.shots}
        for packet in self.packets:
            number = self.number(packet)
            if number is not None and packet.timed and not packet.corrupt:
                found.append((number, packet.timestamp - taken[number], packet))
        return found

    @property
    def within(self) -> tuple[int, int]:
        """(Frames within their stated uncertainty, frames)."""
        rows = self.rows()
        return sum(abs(error) <= packet.uncertainty for _, error, packet in rows), len(rows)

    @property
    def worst(self) -> float:
        return max((abs(error) for _, error, _ in self.rows()), default=0.0)


def shown(told: Told, pictures: int, count: int) -> list[tuple[int, int | None]]:
    """(Number told, number seen) of the first pictures, decoded in one go; H.264 and H.265. `pictures` of the film."""
    decoder: Any = av.CodecContext.create(told.infos[0].codec, "r")
    decoder.thread_count = 1
    if told.infos[0].extradata:
        decoder.extradata = told.infos[0].extradata
    first = next(at for at, packet in enumerate(told.packets) if packet.key)
    found: list[tuple[int, int | None]] = []
    numbers: dict[int, int] = {}
    for at, packet in enumerate([*told.packets[first : first + count], None]):
        made = None
        if packet is not None:
            numbers[at] = (told.number(packet) or 0) % pictures
            made = av.Packet(packet.data)
            made.pts = at
        found += [(numbers[one.pts], read_frame_number(_luma(one))) for one in decoder.decode(made)]
    return found


def _luma(frame: Any) -> NDArray[np.uint8]:
    """The plane as it is: a conversion costs more than the decoding."""
    plane = frame.planes[0]
    return np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]


def _plan(script: Script, host: HostClock, told: Told) -> ConnectionPlan:
    return ConnectionPlan(
        "cam", parse_rtsp_url("rtsp://127.0.0.1/x"), "tcp", 1, host, told.infos.append, told.packets.extend
    )  # fmt: skip


def play_native(script: Script, *, max_pixels: int = MAX_PIXELS) -> Told:
    """By the reader `native`, from its packets on."""
    now = [T0]
    host = HostClock(lambda: now[0], lambda: now[0])
    told = Told(script, [], [])
    media = NativeMedia(
        _plan(script, host, told), script.track(), (0, 1), lossy=False, max_pixels=max_pixels, max_offset=1.0
    )  # fmt: skip
    for at, packets in script.sends():
        if media.waits and at - now[0] > _QUIET:
            now[0] += _QUIET
            media.flush()
        now[0] = max(now[0], at)
        try:
            media.take(list(packets), host.steady())
        except CaptureFailure as failure:
            told.failure = failure
            break
    now[0] += 1.0
    if media.waits and told.failure is None:
        media.flush()
    media.close()
    return told


_POLL = frozenset((b"7", b"271", b"73"))  # system calls of x86-64 and arm64 in which FFmpeg waits for data


class _Waits:
    """Whether FFmpeg has read all that it was sent and waits for more. Linux only."""

    def __init__(self, port: int, thread: int) -> None:
        """`port` of the relay; `thread`: the reader's, by the kernel's number."""
        self._port = port
        self._call = Path(f"/proc/self/task/{thread}/syscall")
        self._socket: socket.socket | None = None

    def __call__(self) -> bool:
        if self._socket is None:
            self._socket = self._find()
        if self._socket is None or self._unread():
            return False
        try:
            return self._call.read_bytes().split(b" ", 1)[0] in _POLL and not self._unread()
        except OSError:  # the thread has ended
            return True

    def _unread(self) -> int:
        assert self._socket is not None
        return int.from_bytes(fcntl.ioctl(self._socket, termios.FIONREAD, bytes(4)), sys.byteorder)

    def _find(self) -> socket.socket | None:
        """FFmpeg's end of its connection, which is this process's."""
        for name in os.listdir("/proc/self/fd"):
            try:
                if not stat.S_ISSOCK(os.stat(int(name)).st_mode):
                    continue
                found = socket.socket(fileno=os.dup(int(name)))
            except OSError:
                continue
            try:
                if found.family == socket.AF_INET and found.getpeername()[1] == self._port:
                    return found
            except OSError:
                pass
            found.close()
        return None

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()


async def play_opencv(script: Script, *, max_pixels: int = MAX_PIXELS) -> Told:
    """By the reader `opencv`: each picture is sent when FFmpeg has taken in the one before and waits."""
    now, told = [T0], Told(script, [], [])
    loop = asyncio.get_running_loop()
    host = HostClock(lambda: now[0], lambda: now[0])
    playing: asyncio.Future[Callable[[list[Data | None]], None]] = loop.create_future()

    async def start(on_packets: Callable[[list[Data | None]], None], _on_end: Callable[[], None]) -> None:
        playing.set_result(on_packets)

    session = SimpleNamespace(
        client=SimpleNamespace(on_end=None), track=script.track(), channels=(0, 1), start=start, close=lambda: None
    )
    relay = RtspRelay(cast(RtspSession, session), lambda: None, lambda: now[0], max_pixels=max_pixels)
    beginning = asyncio.create_task(relay.play(60.0))
    either: set[asyncio.Future[Any]] = {beginning, playing}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    take = playing.result() if playing.done() else lambda packets: None
    sends = iter(script.sends())

    def send() -> bool:
        at, packets = next(sends, (0.0, None))
        if packets is not None:
            now[0] = max(now[0], at)
            take(list(packets))
        return packets is not None

    while not beginning.done() and send():
        for _ in range(5):
            await asyncio.sleep(0)
    try:
        await asyncio.wait_for(beginning, 60)
    except CaptureFailure as failure:
        told.failure = failure
        relay.close()
        return told
    await relay.listen()
    reader = OpenCvReader(ReaderOptions(relay.url, 60.0, 60.0, max_pixels), lambda: now[0])
    plan = _plan(script, host, told)
    thread = ReaderThread(plan.name, reader, 1, plan.on_open, plan.on_packets, host=host)
    thread.start()
    waits = _Waits(urlsplit(relay.url).port or 0, thread._thread.native_id or 0)

    async def caught_up() -> None:
        deadline = loop.time() + 20
        while not thread.ended.done() and not (relay._playing and waits()):
            assert loop.time() < deadline, "FFmpeg did not come to wait"
            await asyncio.sleep(0)

    try:
        await caught_up()
        while send():
            await caught_up()
        await asyncio.sleep(0.01)
        count = len(told.packets)
    finally:
        waits.close()
        thread.stop()
        relay.close()
    told.failure = relay.failure or (await asyncio.wait_for(thread.ended, 60)).failure
    await thread.join()
    del told.packets[count:]  # what the end of the stream pushed out
    return told
