"""The RTSP server of the demo cameras: aio-rtsp-toolkit's protocol with one live timeline per camera.

The toolkit shows a file to each client from its start, writes RTP timestamps that B-pictures falsify and
answers `rtptime=0`. Here all clients of a camera share one timeline, RTP timestamps are presentation times, and
sender reports carry the true capture clock. Sources without video are left to the toolkit.
"""

import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import av
from aio_rtsp_toolkit.server import RtspServer
from aio_rtsp_toolkit.server_media import MediaSource
from aio_rtsp_toolkit.server_session import RtspServerSession

from utils.demo.sources import Film, Join, Live, Source, Unit

_NTP = 2_208_988_800  # seconds from 1900 to 1970


class _Silent:
    def log(self, *_: Any, **__: Any) -> None: ...

    debug = info = warning = error = critical = log


class CameraServer(RtspServer):  # type: ignore[misc]
    """Serves `rtsp://host:port/{name}` for each named source; a Path is a file the toolkit streams itself."""

    def __init__(
        self,
        sources: Mapping[str, Source | Path],
        host: str,
        port: int,
        *,
        report_every: float = 5.0,
        clock_offset: float = 0.0,
    ) -> None:
        super().__init__(".", host, port, session_name="TrackShift camera")
        self.logger = _Silent()
        self.sources = sources
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
        if name not in self.sources:
            raise FileNotFoundError(name)
        return Path(name)

    def load_media_source(self, file_path: Path) -> MediaSource:
        source = self.sources[str(file_path)]
        if isinstance(source, Path):
            return super().load_media_source(source)
        return MediaSource(file_path, [source.track], self.session_name, "camera", str(file_path))

    def is_voice_stream_request(self, uri: str) -> bool:
        return False

    def parse_play_count(self, uri: str) -> int:
        return 0  # for ever

    def parse_pre_fill_ms(self, uri: str) -> int:
        return 0


class CameraSession(RtspServerSession):  # type: ignore[misc]
    """One client's connection."""

    def _source(self) -> Source | None:
        if self.media_source is None:
            return None
        source = self.server.sources.get(self.media_source.stream_id)
        return source if isinstance(source, Source) else None

    async def _send_response(
        self,
        req_headers: dict[str, str],
        status_code: int,
        reason: str,
        extra_headers: dict[str, str] | None = None,
        body: bytes = b"",
    ) -> None:
        if extra_headers and self._source() is not None:
            extra_headers.pop("RTP-Info", None)  # says rtptime=0; it is optional, and clients take the first packet's
        await super()._send_response(req_headers, status_code, reason, extra_headers, body)

    async def _stream_media(self) -> None:
        source = self._source()
        if source is None:
            await super()._stream_media()
            return
        state = self.track_states[source.track.control]
        try:
            with source.watch() as units:
                while not self.closed:
                    await self._send_unit(source, state, await units.get())
        except OSError:
            return  # the client is gone; the reading side closes the session

    async def _send_unit(self, source: Source, state: Any, unit: Unit) -> None:
        sets = source.track.parameter_sets
        nalus = [*(sets[name] for name in ("vps", "sps", "pps") if unit.key and name in sets), *unit.nalus]
        timestamp = source.rtp(unit.taken) & 0xFFFFFFFF
        for index, nalu in enumerate(nalus):
            marker = int(index == len(nalus) - 1)
            for payload, last in self._packetize_video_nalu(nalu, marker, source.track.codec_name):
                await self._send_rtp_packet(state, payload, timestamp, last)

    async def _maybe_send_rtcp_sr(self, state: Any) -> None:
        source = self._source()
        if source is None:
            await super()._maybe_send_rtcp_sr(state)
            return
        now = source.now()
        every = self.server.report_every
        if not every or (state.last_rtcp_send_time is not None and now - state.last_rtcp_send_time < every):
            return
        state.last_rtcp_send_time = now
        ntp = round((now + self.server.clock_offset + _NTP) * (1 << 32)) & 0xFFFFFFFFFFFFFFFF
        counts = state.packet_count & 0xFFFFFFFF, state.octet_count & 0xFFFFFFFF
        rtp = source.rtp(now) & 0xFFFFFFFF
        report = struct.pack("!BBHIQIII", 0x80, 200, 6, state.ssrc & 0xFFFFFFFF, ntp, rtp, *counts)
        await self._send_interleaved_frame(state.rtcp_channel, report)


def open_sources(
    films: Mapping[str, Path],
    live: Sequence[str],
    size: tuple[int, int],
    fps: int,
    bitrate: int,
    join: Join,
    rtp_start: int,
) -> dict[str, Source | Path]:
    """The sources by name: films (a file without video stays a path), then live scenes."""
    sources: dict[str, Source | Path] = {}
    for name, path in films.items():
        with av.open(str(path)) as film:
            has_video = bool(film.streams.video)
        sources[name] = Film(path, join, rtp_start) if has_video else path
    for seed, name in enumerate(live, 1):
        sources[name] = Live(name.upper(), seed, size, fps, bitrate, join, rtp_start)
    return sources


@asynccontextmanager
async def serve(
    sources: Mapping[str, Source | Path], host: str, port: int, report_every: float, clock_offset: float
) -> AsyncIterator[CameraServer]:
    """The server, listening, with its clients told goodbye at the end."""
    server = CameraServer(sources, host, port, report_every=report_every, clock_offset=clock_offset)
    await server.start()
    try:
        yield server
    finally:
        for session in list(server.sessions):
            await session.close()
        await server.close()
