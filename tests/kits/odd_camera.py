"""An RTSP server in the test's own loop that does what owners of cameras report: each oddity is an attribute.

It sends small pictures that nobody can decode, 50 a second, a keyframe with each tenth.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from demo.challenge import Challenge
from demo.wire import Request, parse_request, read_message, response

SPS, PPS = bytes.fromhex("6742c00dda05067e79a83032000003000200000300641e285540"), bytes.fromhex("68ce3c80")
IDR, SLICE = b"\x65\x88\x11", b"\x41\x9a\x11"
H264 = "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:track1\r\n"
FPS = 50
_NTP = 2_208_988_800


def rtp(number: int, timestamp: int, payload: bytes, *, marker: bool = True, ssrc: int = 7, extension: bytes = b"") -> bytes:
    first = 0x90 if extension else 0x80
    head = struct.pack("!BBHII", first, marker << 7 | 96, number & 0xFFFF, timestamp & 0xFFFFFFFF, ssrc)
    return head + extension + payload


def framed(packet: bytes, channel: int = 0) -> bytes:
    return b"$" + bytes((channel,)) + len(packet).to_bytes(2, "big") + packet


def report(at: float, timestamp: int, ssrc: int = 7) -> bytes:
    ntp = round((at + _NTP) * (1 << 32)) & 0xFFFFFFFFFFFFFFFF
    return struct.pack("!BBHIQIII", 0x80, 200, 6, ssrc, ntp, timestamp & 0xFFFFFFFF, 1, 1)


def goodbye(ssrc: int = 7) -> bytes:
    return struct.pack("!BBHI", 0x81, 203, 1, ssrc)


@dataclass
class OddCamera:
    """What it does, and what it saw."""

    sdp: str = H264
    base: str | None = None  # Content-Base; {url}: what was asked
    challenges: list[Challenge] = field(default_factory=list)  # offered; `takes`: the ones whose answers are right
    one_line: bool = False  # all challenges in one header
    takes: list[Challenge] | None = None
    options: str = "ok"  # ok, 501, close, silent
    counts: frozenset[str] = frozenset({"OPTIONS", "GET_PARAMETER"})  # signs of life
    answers_signs: bool = True
    timeout: float = 60.0
    setup_status: int = 200
    play_status: int = 200
    places: int = 99
    busy_status: int = 453
    leftovers: bytes = b""  # before its first answer
    before_play: bool = False  # packets before the answer to PLAY
    channels: str = "{asked}"  # what SETUP answers
    sends_on: int = 0  # channel
    pictures: Callable[[int], list[bytes]] | None = None  # RTP packets of picture n, instead of its own
    controls: Callable[[int], bytes] | None = None  # what is sent before picture n, framed already
    stops_at: int = 10**9  # after so many pictures: silence on the open connection
    wrong_numbers: bool = False  # CSeq of its answers
    redirect: str = ""  # DESCRIBE is answered with 302 to there, from the `honest`-th on
    honest: int = 0

    def __post_init__(self) -> None:
        self.requests: list[Request] = []
        self.came: list[float] = []  # when it was connected to, monotonic seconds
        self.logins = 0  # requests with a wrong login
        self.open = self.total = 0
        self.port = 0
        self._serving: set[asyncio.Task[object]] = set()
        self.ended: list[float] = []  # when sessions were ended because nothing counted had come

    def url(self, path: str = "live", userinfo: str = "") -> str:
        return f"rtsp://{userinfo}127.0.0.1:{self.port}/{path}"

    def asked(self, method: str) -> list[Request]:
        return [request for request in self.requests if request.method == method]

    @asynccontextmanager
    async def serving(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[OddCamera]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in list(self._serving):
                task.cancel()
            await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        self.open += 1
        self.total += 1
        self.came.append(time.monotonic())
        sending: asyncio.Task[None] | None = None
        self._heard = time.monotonic()
        try:
            writer.write(self.leftovers)
            while True:
                message = await read_message(reader)
                if message.startswith(b"$"):
                    self._alive("RTCP")
                    continue
                request = parse_request(message)
                self.requests.append(request)
                self._alive(request.method)
                if request.method == "OPTIONS" and self.options == "close":
                    return
                playing = sending is not None
                if request.method == "PLAY" and self.play_status == 200 and self.before_play:
                    sending = asyncio.create_task(self._send(writer))
                    await asyncio.sleep(0.1)
                if (reply := self._reply(request, playing)) is not None:
                    writer.write(reply)
                if request.method == "PLAY" and sending is None and reply is not None and b" 200 " in reply[:20]:
                    sending = asyncio.create_task(self._send(writer))
                if request.method == "TEARDOWN":
                    return
        except (OSError, EOFError, asyncio.CancelledError):
            return
        finally:
            self._serving.discard(task)
            self.open -= 1
            if sending is not None:
                sending.cancel()
            writer.close()

    def _alive(self, method: str) -> None:
        if method in self.counts or method not in ("OPTIONS", "GET_PARAMETER", "RTCP"):
            self._heard = time.monotonic()

    def _reply(self, request: Request, playing: bool) -> bytes | None:
        def answer(status: int, *headers: tuple[str, str], body: str = "") -> bytes:
            more = [("Content-Length", str(len(body)))] if body else []
            made = response(request, status, "Whatever", [*headers, *more]) + body.encode()
            return made.replace(b"CSeq: ", b"CSeq: 9", 1) if self.wrong_numbers else made

        if request.method == "OPTIONS" and not playing:
            public = ("Public", "OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER")
            return {"ok": answer(200, public), "501": answer(501), "silent": None}[self.options]
        if playing and request.method in ("OPTIONS", "GET_PARAMETER") and not self.answers_signs:
            return None
        if self.challenges and (refusal := self._refusal(request)) is not None:
            return answer(401, *refusal)
        if request.method == "DESCRIBE":
            if self.redirect and len(self.asked("DESCRIBE")) > self.honest:
                return answer(302, ("Location", self.redirect))
            base = [("Content-Base", self.base.format(url=request.uri))] if self.base is not None else []
            return answer(200, *base, ("Content-Type", "application/sdp"), body="v=0\r\ns=x\r\n" + self.sdp)
        if request.method == "SETUP":
            if self.open > self.places:
                return answer(self.busy_status)
            transport = request.headers.get("transport", "").partition("interleaved=")[2] or "0-1"
            given = self.channels.format(asked=transport)
            session = ("Session", f"12345678;timeout={self.timeout:g}")
            return answer(self.setup_status, ("Transport", f"RTP/AVP/TCP;unicast;interleaved={given}"), session)
        return answer(self.play_status if request.method == "PLAY" else 200)

    def _refusal(self, request: Request) -> list[tuple[str, str]] | None:
        value, stale = request.headers.get("authorization"), False
        for one in self.takes if self.takes is not None else self.challenges:
            verdict = one.judge(request.method, request.uri, value)
            if verdict == "right":
                return None
            stale |= verdict == "stale"
        self.logins += value is not None and not stale
        headers = [header for one in self.challenges for header in one.headers(stale)]
        return [("WWW-Authenticate", ", ".join(text for _, text in headers))] if self.one_line else headers

    async def _send(self, writer: asyncio.StreamWriter) -> None:
        began, number = time.monotonic(), 0
        pictures = self.pictures or plain
        while True:
            if self.timeout and time.monotonic() - self._heard > self.timeout:
                self.ended.append(time.monotonic())
                writer.close()
                return
            if number < self.stops_at:
                if self.controls is not None:
                    writer.write(self.controls(number))
                writer.write(b"".join(framed(packet, self.sends_on) for packet in pictures(number)))
            number += 1
            await asyncio.sleep(max(0.0, began + number / FPS - time.monotonic()))


def plain(number: int) -> list[bytes]:
    """Picture `number` in RTP packets; three for a keyframe, with its parameter sets."""
    timestamp = number * 90_000 // FPS
    if number % 10:
        return [rtp(number + number // 10 * 2 + 3, timestamp, SLICE)]
    first = number + number // 10 * 2 + 1
    return [rtp(first + at, timestamp, nal, marker=at == 2) for at, nal in enumerate((SPS, PPS, IDR))]
