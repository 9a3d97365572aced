"""The RTSP server of the demo cameras: aio-rtsp-toolkit's protocol with one live timeline per camera.

The toolkit shows a file to each client from its start, writes RTP timestamps that B-pictures falsify, answers
`rtptime=0` and knows TCP only. Here all clients of a camera share one timeline, RTP timestamps are presentation times,
sender reports carry the true capture clock, and tracks go by TCP or UDP, with what `Faults` leave out.
Longer than 250 lines: one session class that overrides the toolkit's.
"""

import asyncio
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from aio_rtsp_toolkit.server import RtspServer
from aio_rtsp_toolkit.server_media import MediaSource
from aio_rtsp_toolkit.server_session import RtspServerSession

from demo.rtp import rtp_header
from demo.show import Faults, Show
from demo.sources import Film, Join, Sound, Source, Unit, has_pictures
from demo.udp import UdpPair, client_ports

_NTP = 2_208_988_800  # seconds from 1900 to 1970


class _Silent:
    def log(self, *_: Any, **__: Any) -> None: ...

    debug = info = warning = error = critical = log


@dataclass(slots=True)
class Presentation:
    """What one address serves; `faults` may be changed while it does."""

    sources: Sequence[Source]
    faults: Faults

    def __post_init__(self) -> None:
        for index, source in enumerate(self.sources):
            source.track = replace(source.track, control=f"track{index + 1}")


class CameraServer(RtspServer):  # type: ignore[misc]
    """Serves `rtsp://host:port/{name}` for each named presentation."""

    def __init__(
        self,
        shown: Mapping[str, Presentation],
        host: str,
        port: int,
        *,
        report_every: float = 5.0,
        clock_offset: float = 0.0,
        session_timeout: int = 60,
    ) -> None:
        super().__init__(".", host, port, session_name="TrackShift camera")
        self.session_timeout = session_timeout  # not by the constructor, which allows no less than 15 s
        self.logger = _Silent()
        self.shown = shown
        self.report_every = report_every
        self.clock_offset = clock_offset
        self.sessions: set[CameraSession] = set()

    async def _handle_client(self, sock: Any) -> None:
        session = CameraSession(self, sock)
        self.sessions.add(session)
        try:
            await session.run()
        except OSError:
            return  # the client is gone
        finally:
            self.sessions.discard(session)

    def resolve_request_path(self, uri: str) -> Path:
        name = unquote(urlsplit(uri).path).strip("/")
        if name not in self.shown:
            raise FileNotFoundError(name)
        return Path(name)

    def load_media_source(self, file_path: Path) -> MediaSource:
        name = str(file_path)
        tracks = [source.track for source in self.shown[name].sources]
        return MediaSource(file_path, tracks, self.session_name, "camera", name)

    def is_voice_stream_request(self, uri: str) -> bool:
        return False

    def parse_play_count(self, uri: str) -> int:
        return 0  # for ever

    def parse_pre_fill_ms(self, uri: str) -> int:
        return 0


class CameraSession(RtspServerSession):  # type: ignore[misc]
    """One client's connection."""

    def __init__(self, server: CameraServer, sock: Any) -> None:
        super().__init__(server, sock)
        self._pairs: dict[int, UdpPair] = {}  # by both channel numbers that stand for the pair

    async def _send_response(
        self,
        req_headers: dict[str, str],
        status_code: int,
        reason: str,
        extra_headers: dict[str, str] | None = None,
        body: bytes = b"",
    ) -> None:
        if extra_headers:
            extra_headers.pop("RTP-Info", None)  # says rtptime=0; it is optional, and clients take the first packet's
        await super()._send_response(req_headers, status_code, reason, extra_headers, body)

    async def _handle_setup(self, uri: str, req_headers: dict[str, str]) -> None:
        ports = client_ports(req_headers.get("transport", ""))
        name = self.server.resolve_track_name(uri)
        known = (req_headers.get("session") or self.session_id).split(";", 1)[0] == self.session_id
        if ports is None or name not in self.track_states or not known:
            await super()._handle_setup(uri, req_headers)
            return
        state = self.track_states[name]
        if state.rtp_channel in self._pairs:
            self._pairs[state.rtp_channel].close()
        pair = await UdpPair.open(self.server.host, self.peername[0], ports, self._mark_activity)
        # Beyond the one byte of interleaved channels: the toolkit hands RTCP to a channel.
        state.rtp_channel, state.rtcp_channel = (256 + 2 * list(self.track_states).index(name) + i for i in (0, 1))
        self._pairs[state.rtp_channel] = self._pairs[state.rtcp_channel] = pair
        self.session_active = True
        transport = "RTP/AVP;unicast;client_port={}-{};server_port={}-{}".format(*ports, *pair.ports)
        await self._send_response(req_headers, 200, "OK", {"Transport": transport, "Session": self._session_header_value()})

    async def _close_transport(self) -> None:
        await super()._close_transport()
        for pair in self._pairs.values():
            pair.close()

    async def _stream_media(self) -> None:
        presentation = self.server.shown[self.media_source.stream_id]
        wanted = [(i, s) for i, s in enumerate(presentation.sources) if self._state(s).rtp_channel is not None]
        try:
            async with asyncio.TaskGroup() as group:
                for index, source in wanted:
                    group.create_task(self._stream_track(presentation, index, source))
        except* OSError:
            pass  # the client is gone; the reading side closes the session

    def _state(self, source: Source) -> Any:
        return self.track_states[source.track.control]

    async def _stream_track(self, presentation: Presentation, index: int, source: Source) -> None:
        with source.watch() as units:
            while not self.closed:
                unit = await units.get()
                await self._send_unit(source, unit, presentation.faults, index)
                await self._report(source)

    async def _send_unit(self, source: Source, unit: Unit, faults: Faults, index: int) -> None:
        state, count = self._state(source), len(unit.payloads)
        kept = range(count)
        if source.track.media_type == "video":
            if faults.drops(unit.number, unit.key):
                kept = range(0)
            elif faults.cuts(unit.number, unit.key):
                kept = range(half(unit.payloads))
        timestamp = source.rtp(unit.taken)
        packets = []
        for number, payload in enumerate(unit.payloads):
            if number not in kept and faults.hidden:
                continue
            sequence, state.sequence_number = state.sequence_number, (state.sequence_number + 1) & 0xFFFF
            if number in kept and not faults.loses(index, sequence):
                header = rtp_header(source.track.payload_type, number == count - 1, sequence, timestamp, state.ssrc)
                packets.append(header + payload)
        state.packet_count += len(packets)
        state.octet_count += sum(len(packet) - 12 for packet in packets)
        if (pair := self._pairs.get(state.rtp_channel)) is not None:
            for packet in packets:
                await pair.send_rtp(packet)
        elif packets:
            await self._send_interleaved(state.rtp_channel, packets)

    async def _send_interleaved(self, channel: int, packets: Sequence[bytes]) -> None:
        """RFC 2326, section 10.12, all in one write."""
        data = b"".join(struct.pack("!cBH", b"$", channel, len(packet)) + packet for packet in packets)
        async with self.write_lock:
            await self.sock.send(data)

    async def _send_interleaved_frame(self, channel: int, payload: bytes) -> None:
        """One RTCP packet, by whatever the track goes (also for the toolkit's BYE)."""
        if (pair := self._pairs.get(channel)) is not None:
            pair.send_rtcp(payload)
        else:
            await self._send_interleaved(channel, [payload])

    async def _report(self, source: Source) -> None:
        state, now = self._state(source), source.now()
        every = self.server.report_every
        if not every or (state.last_rtcp_send_time is not None and now - state.last_rtcp_send_time < every):
            return
        state.last_rtcp_send_time = now
        ntp = round((now + self.server.clock_offset + _NTP) * (1 << 32)) & 0xFFFFFFFFFFFFFFFF
        counts = state.packet_count & 0xFFFFFFFF, state.octet_count & 0xFFFFFFFF
        rtp = source.rtp(now) & 0xFFFFFFFF
        report = struct.pack("!BBHIQIII", 0x80, 200, 6, state.ssrc & 0xFFFFFFFF, ntp, rtp, *counts)
        await self._send_interleaved_frame(state.rtcp_channel, report)


def half(payloads: Sequence[bytes]) -> int:
    """How many of the first payloads make up at most half of the bytes."""
    sizes = list(accumulate(map(len, payloads)))
    return sum(size <= sizes[-1] / 2 for size in sizes)


def open_show(show: Show, join: Join, rtp_start: int) -> Presentation:
    """The tracks of a show, each on its own timeline."""
    sources: list[Source] = []
    for path, *then in show.films:
        if not has_pictures(path):
            sources.append(Sound(path, rtp_start))
            continue
        film = Film(path, join, rtp_start, then=then, sets=show.sets, limit=show.packet_bytes)
        if show.codec and not any(isinstance(source, Film) for source in sources):
            film.track = replace(film.track, codec_name=show.codec, payload_type=96, fmtp=None)
        sources.append(film)
    return Presentation(sources, show.faults)


def open_live(
    names: Sequence[str], size: tuple[int, int], fps: int, bitrate: int, join: Join, rtp_start: int
) -> dict[str, Presentation]:
    """Live scenes by name."""
    if not names:
        return {}
    from demo.live import Live  # here, so that a camera which only shows films needs no OpenCV

    return {
        name: Presentation([Live(name.upper(), seed, size, fps, bitrate, join, rtp_start)], Faults())
        for seed, name in enumerate(names, 1)
    }


@asynccontextmanager
async def serving(server: CameraServer) -> AsyncIterator[CameraServer]:
    """The server, listening, with its clients told goodbye at the end."""
    await server.start()
    try:
        yield server
    finally:
        for session in list(server.sessions):
            await session.close()
        await server.close()
