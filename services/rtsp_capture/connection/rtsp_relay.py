"""A camera's stream for FFmpeg, on loopback: FFmpeg never connects to a camera.

Our own client asks the camera, on the one connection to the judged address, and keeps it. FFmpeg gets an SDP of ours with
the one track, and the RTP packets as they come, doubles dropped, with one source, one count and one RTP clock
(`relabel.py`). It sees no password, no other address and no redirect.
FFmpeg is let in only when the camera sends: OpenCV opens one stream at a time, and a mute one would keep the others waiting.

Longer than 250 lines: one protocol, whose callbacks share the state of FFmpeg's session.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import cast

from services.rtsp_capture.connection.rtsp.channels import Channels
from services.rtsp_capture.connection.rtsp.framing import Data, Framing, ProtocolError, ServerRequest
from services.rtsp_capture.connection.rtsp.relabel import Relabel
from services.rtsp_capture.connection.rtsp.rtp import Bye, parse_rtcp
from services.rtsp_capture.connection.rtsp.sdp import VideoTrack
from services.rtsp_capture.connection.rtsp.sequencer import Sequencer
from services.rtsp_capture.connection.rtsp.set_judge import SetJudge
from services.rtsp_capture.connection.rtsp_session import RtspSession
from utils.exceptions import CaptureFailure

_NAMES = {"h264": "H264", "hevc": "H265", "mjpeg": "JPEG"}
_PUBLIC = "OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER"
_MAX_WAITING_BYTES = 32 * 1024 * 1024  # that FFmpeg has not read: its thread is stuck
_DEPTH = 2
_MANY = 8  # pictures: of a camera whose timestamps mean nothing
_PROBED = 0.12  # seconds of stream that FFmpeg probes before an open returns (OpenCvReader)


class RtspRelay(asyncio.Protocol):
    """One camera's; the server's side of FFmpeg's one connection. On the sockets' loop."""

    def __init__(
        self, session: RtspSession, on_play: Callable[[], None], clock: Callable[[], float] = time.monotonic, *,
        max_pixels: int,
    ) -> None:  # fmt: skip
        """`on_play`: the camera sends; `clock`: when packets came, seconds; `max_pixels`: RTSP__MAX_PIXELS."""
        self._session, self._on_play, self._clock = session, on_play, clock
        self._token = secrets.token_urlsafe(16)
        self._framing = Framing()
        self._framing.channels = frozenset((0, 1))  # FFmpeg sends reports
        self._channels = Channels(session.channels, session.track)
        self._sequencer = Sequencer(_DEPTH)
        self._judge = SetJudge(session.track.codec, max_pixels)
        self._relabel = Relabel(session.track.codec, session.track.clock_rate)
        self._transport: asyncio.Transport | None = None
        self._server: asyncio.Server | None = None
        self._early = bytearray()  # what came before FFmpeg asked for it
        self._came, self._enough = asyncio.Event(), asyncio.Event()
        self._first = self._last = -1  # timestamps of packets
        self._pictures = self._packets = 0
        self._begun = False  # parameter sets are known: what comes before them nobody can decode
        self._closed = self._taken = self._playing = False
        self.failure: CaptureFailure | None = None  # why the camera's side ended
        self.goodbye = False
        self.url = ""

    async def play(self, timeout: float) -> None:
        """Returns once as much has come as FFmpeg will probe, however late a camera's first parameter sets are. Raises
        CaptureFailure, after `timeout` seconds in which nothing came, and for pictures of too many pixels."""
        track = self._session.track
        self._track = replace(track, sets=tuple(nal for nal in track.sets if self._judge.judge(nal)))
        self._begun = bool(self._track.sets) or track.codec == "mjpeg"
        try:
            await self._session.start(self.take, self._hung_up)
        except ConnectionError:
            raise CaptureFailure("stream_ended", "The camera closed the connection instead of playing.") from None
        self._on_play()
        try:
            async with asyncio.timeout(timeout):
                await self._came.wait()
        except TimeoutError:
            raise CaptureFailure("read_timeout", "The camera sent nothing for RTSP__READ_TIMEOUT seconds.") from None
        before = 0
        while not self._enough.is_set() and self._packets > before:
            before = self._packets
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._enough.wait()
            if self._begun:
                break  # the rest may be seconds away, and FFmpeg can wait for it
        if self.failure is not None:
            raise self.failure
        if not self._begun:
            raise CaptureFailure("read_timeout", "The camera sent nothing for RTSP__READ_TIMEOUT seconds.")

    async def listen(self) -> None:
        """For one connection of this process's own. Raises CaptureFailure when the camera's side has ended."""
        loop = asyncio.get_running_loop()
        self._server = server = await loop.create_server(self._accept, "127.0.0.1", 0, backlog=1)
        if self._closed:  # meanwhile: nobody else would close it
            server.close()
            raise self.failure or CaptureFailure("stream_ended", "The camera ended the stream or closed the connection.")
        self.url = f"rtsp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/{self._token}"

    def _accept(self) -> asyncio.Protocol:
        return _Refused() if self._taken or self._closed else self

    # -- FFmpeg ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without being its subclass
        self._taken = True
        if self._server is not None:
            self._server.close()

    def data_received(self, data: bytes) -> None:
        try:
            events = self._framing.feed(data)
        except ProtocolError:
            self.close()
            return
        for event in events:
            if isinstance(event, ServerRequest):
                self._asked(event)

    def connection_lost(self, exc: Exception | None) -> None:
        self.close()

    def _asked(self, request: ServerRequest) -> None:
        if self._token not in request.uri:
            self._answer(request, "404 Not Found")
        elif request.method == "DESCRIBE":
            self._answer(request, "200 OK", "Content-Type: application/sdp", body=local_sdp(self._track))
        elif request.method == "SETUP":
            self._answer(request, "200 OK", "Transport: RTP/AVP/TCP;unicast;interleaved=0-1", "Session: 1")
        elif request.method == "PLAY":
            self._answer(request, "200 OK", "Session: 1")  # first, as packets follow at once
            self._playing = True
            early, self._early = self._early, bytearray()
            self._write(early)
        else:
            self._answer(request, "200 OK", f"Public: {_PUBLIC}", "Session: 1")

    def _answer(self, request: ServerRequest, status: str, *headers: str, body: str = "") -> None:
        if self._transport is None:
            return
        lines = [f"RTSP/1.0 {status}", f"CSeq: {request.cseq}", *headers, f"Content-Length: {len(body)}"]
        self._transport.write(("\r\n".join(lines) + "\r\n\r\n" + body).encode())

    # -- the camera --------------------------------------------------------------------------------------------

    def take(self, packets: list[Data | None]) -> None:
        """From the camera; None stands for lost data."""
        if self._closed:
            return
        try:
            self._take(packets)
        except CaptureFailure as failure:
            self._end(failure)

    def _take(self, packets: list[Data | None]) -> None:
        now = self._clock()
        parts: list[bytes] = []
        goodbye = False
        for data in packets:
            if data is None:
                self._sequencer.gap()
            elif (packet := self._channels.video(data)) is not None:
                self._packets += 1
                self._came.set()
                for one in self._sequencer.push(packet, now):
                    if not self._judge.passes(one.packet):
                        continue
                    self._begun = self._begun or self._judge.begins(one.packet)
                    if self._begun:
                        self._note(one.packet.timestamp)
                        parts += [_framed(0, relabelled) for relabelled in self._relabel.push(one)]
            elif data.channel == self._channels.rtcp:
                goodbye |= any(isinstance(one, Bye) for one in parse_rtcp(data.payload))
                parts.append(_framed(1, data.payload))
        self._write(b"".join(parts))
        if goodbye:
            self.goodbye = True
            self._end(CaptureFailure("stream_ended", "The camera said that it ends the stream."))

    def _write(self, data: bytes | bytearray) -> None:
        if self._playing and self._transport is not None:
            self._transport.write(data)
            waiting = self._transport.get_write_buffer_size()
        else:
            self._early += data
            waiting = len(self._early)
        if waiting > _MAX_WAITING_BYTES:
            self._end(CaptureFailure("stream_ended", "The stream was not read in time."))

    def _note(self, timestamp: int) -> None:
        self._pictures += timestamp != self._last
        self._first, self._last = timestamp if self._first < 0 else self._first, timestamp
        ahead = timestamp - self._first & 0xFFFFFFFF
        if _PROBED * self._session.track.clock_rate <= ahead < 1 << 31 or self._pictures > _MANY:
            self._enough.set()

    def _hung_up(self) -> None:
        self._end(CaptureFailure("stream_ended", "The camera ended the stream or closed the connection."))

    def _end(self, failure: CaptureFailure) -> None:
        self.failure = self.failure or failure
        self._came.set()
        self._enough.set()
        self.close()

    def close(self) -> None:
        """Both sides."""
        if self._closed:
            return
        self._closed = True
        if self._server is not None:
            self._server.close()
        if self._transport is not None:
            self._transport.close()
        self._session.close()


class _Refused(asyncio.Protocol):
    """Another connection than the one that was waited for."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).abort()


def _framed(channel: int, packet: bytes) -> bytes:
    return b"$" + bytes((channel,)) + len(packet).to_bytes(2, "big") + packet


def local_sdp(track: VideoTrack) -> str:
    """What FFmpeg is told: the one track."""
    number = track.payload_type
    lines = [
        "v=0", "o=- 0 0 IN IP4 127.0.0.1", "s=camera", "t=0 0", f"m=video 0 RTP/AVP {number}",
        f"a=rtpmap:{number} {_NAMES[track.codec]}/{track.clock_rate}", "a=control:track",
    ]  # fmt: skip
    sets = [base64.b64encode(nal).decode() for nal in track.sets]
    if track.codec == "h264":
        told = f"; sprop-parameter-sets={','.join(sets)}" if sets else ""
        lines.append(f"a=fmtp:{number} packetization-mode=1{told}")
    elif track.codec == "hevc" and track.sets:
        kinds = {32: "sprop-vps", 33: "sprop-sps", 34: "sprop-pps"}
        named = [
            f"{kinds[nal[0] >> 1 & 63]}={text}"
            for nal, text in zip(track.sets, sets, strict=True) if nal[0] >> 1 & 63 in kinds
        ]  # fmt: skip
        lines.append(f"a=fmtp:{number} {'; '.join(named)}")
    if track.fps:
        lines.append(f"a=framerate:{track.fps:g}")
    return "\r\n".join(lines) + "\r\n"
