"""Cameras that try to lead their viewers to another address, and the listeners there that must see nobody."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import accumulate
from typing import Any

import av
import numpy as np

from demo.rtp import video_payloads
from demo.wire import Request
from tests.kits.odd_camera import FPS, H264, OddCamera, rtp

FORBIDDEN = "127.0.0.9"
_PICTURES, _GOP = 20, 10


@cache
def _film() -> tuple[list[tuple[bytes, ...]], list[int]]:
    """RTP payloads of each picture of a short film that repeats itself; how many come before each picture."""
    made: Any = av.CodecContext.create("libx264", "w")
    made.width, made.height, made.pix_fmt, made.time_base = 128, 96, "yuv420p", Fraction(1, FPS)
    made.options = {
        "preset": "ultrafast", "tune": "zerolatency",
        "x264-params": f"keyint={_GOP}:min-keyint={_GOP}:scenecut=0:annexb=1:repeat-headers=1",
    }  # fmt: skip
    packets = []
    for number in range(_PICTURES):
        frame = av.VideoFrame.from_ndarray(np.full((96, 128, 3), number * 10, np.uint8), format="rgb24")
        frame = frame.reformat(format="yuv420p")
        frame.pts = number
        packets += made.encode(frame)
    packets += made.encode(None)
    nals = [[part.rstrip(b"\0") for part in bytes(packet).split(b"\0\0\1")[1:]] for packet in packets]
    payloads = [video_payloads("h264", each, 1400) for each in nals]
    return payloads, [0, *accumulate(len(each) for each in payloads)]


def pictures(number: int) -> list[bytes]:
    """Picture `number` in RTP packets, to be decoded."""
    payloads, before = _film()
    turn, at = divmod(number, len(payloads))
    first, timestamp = turn * before[-1] + before[at] + 1, number * 90_000 // FPS
    parts = payloads[at]
    return [rtp(first + n, timestamp, part, marker=n == len(parts) - 1) for n, part in enumerate(parts)]


@dataclass
class Hostile(OddCamera):
    """`location` of its redirects; `source`: what it names as the source and destination of its datagrams."""

    location: str = ""
    source: str = ""

    def _reply(self, request: Request, playing: bool) -> bytes | None:
        made = super()._reply(request, playing)
        if made is None:
            return None
        if b" 302 " in made[:16] and b"Location:" not in made:
            made = made.replace(b"\r\n", f"\r\nLocation: {self.location}\r\n".encode(), 1)
        if self.source and request.method == "SETUP":
            before, _, after = made.partition(b"Transport: ")
            asked = request.headers.get("transport", "")
            made = before + f"Transport: {asked};{self.source}".encode() + b"\r\n" + after.partition(b"\r\n")[2]
        return made


class Listeners:
    """On the forbidden address, TCP and UDP on a pair of ports. What comes is counted."""

    def __init__(self) -> None:
        self.touched: list[str] = []
        self.port = 0

    @contextmanager
    def listening(self) -> Iterator[Listeners]:
        loop = asyncio.get_running_loop()
        while True:
            sockets = self._sockets()
            if sockets:
                break
        for one in sockets:
            one.setblocking(False)
            loop.add_reader(one, self._look, one)
        try:
            yield self
        finally:
            for one in sockets:
                loop.remove_reader(one)
                one.close()

    def _sockets(self) -> list[socket.socket]:
        made: list[socket.socket] = []
        try:
            self.port = 0
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                for more in (0, 1):
                    one = socket.socket(socket.AF_INET, kind)
                    made.append(one)
                    one.bind((FORBIDDEN, self.port + more if self.port else 0))
                    self.port = self.port or one.getsockname()[1]
                    if kind == socket.SOCK_STREAM:
                        one.listen()
        except OSError:
            for one in made:
                one.close()
            return []
        return made

    def _look(self, one: socket.socket) -> None:
        if one.type == socket.SOCK_STREAM:
            peer, address = one.accept()
            peer.close()
            self.touched.append(f"TCP from {address}")
        else:
            self.touched.append(f"UDP of {len(one.recv(2000))} bytes")

    @property
    def url(self) -> str:
        return f"rtsp://{FORBIDDEN}:{self.port}/live/"


def hostile_cameras(there: Listeners) -> dict[str, tuple[Callable[[], Hostile], str]]:
    """By what they try: how to make one, and the transport to ask for."""
    url, ports = there.url, f"{there.port}-{there.port + 1}"
    redirect = f"REDIRECT {url} RTSP/1.0\r\nCSeq: 7\r\nLocation: {url}\r\nSession: 12345678\r\n\r\n".encode()
    elsewhere = f"c=IN IP4 {FORBIDDEN}\r\n" + H264.replace("video 0", f"video {there.port}")
    short: dict[str, Any] = {"counts": frozenset(), "timeout": 1.0}  # the session ends after a second

    def made(**fields: Any) -> Callable[[], Hostile]:
        return lambda: Hostile(location=url, pictures=pictures, **fields)

    return {
        "DESCRIBE redirects": (made(redirect=url), "tcp"),
        "the second DESCRIBE redirects": (made(redirect=url, honest=1, **short), "tcp"),
        "SETUP redirects": (made(setup_status=302), "tcp"),
        "PLAY redirects": (made(play_status=302), "tcp"),
        "REDIRECT in mid-session": (made(controls=lambda number: redirect if number == 5 else b""), "tcp"),
        "absolute control URL": (made(sdp=H264.replace("track1", url + "track1")), "tcp"),
        "Content-Base": (made(base=url), "tcp"),
        "address in the SDP": (made(sdp=elsewhere), "tcp"),
        "source of datagrams": (
            made(source=f"source={FORBIDDEN};destination={FORBIDDEN};server_port={ports}", stops_at=0), "udp"
        ),
    }  # fmt: skip
