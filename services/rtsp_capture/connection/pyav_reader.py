"""The second reader: FFmpeg's demuxer by PyAV. It has exact stream times and the camera's own clock, and its opens hold
no lock.

Of FFmpeg's log only messages about missing RTP packets are read (`damage`). Failures have codes of our own, as FFmpeg's
texts hold the whole URL.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import av
from av.error import FFmpegError

from services.rtsp_capture.connection.reader import ReaderOptions
from services.rtsp_capture.media.damage import lost_packets
from services.rtsp_capture.media.packets import RawPacket, StreamInfo
from services.rtsp_capture.timing.host_clock import HOST
from utils.exceptions import CaptureFailure

_CODECS = {"h264": "h264", "hevc": "hevc", "mjpeg": "mjpeg"}
_PROBING = "100000"  # microseconds that FFmpeg probes a stream before it returns packets
# AVProducerReferenceTime (libavutil, defs.h): wall clock in microseconds since 1970, flags.
_PRFT = struct.Struct("=qi")
# AVRTCPSenderReport (libavcodec, packet.h): SSRC, NTP time (RFC 3550, section 6.4.1); what follows is not needed.
_REPORT = struct.Struct("=I4xQ")


class PyAvReader:
    """One connection, its first video track only; other kinds of tracks are not asked for.

    FFmpeg's socket timeout shows as a packet first: what its parser held back, maybe half a picture; only the read
    after that one fails. So a read that took RTSP__READ_TIMEOUT is the end, whatever it gave. PyAV's own timeout asks
    for the interpreter's lock with every piece of a packet; it bounds the opening only. A camera that sends reports
    and no pictures blocks a read for ever: the stream abandons such a thread (`ReaderThread.abandon`).

    Over TCP FFmpeg's demuxer has three messages for each RTP packet, and PyAV 18 takes the interpreter's lock for a
    message before it checks its level: with 40 cameras at 4 Mbit/s that cost 30 ms of CPU a camera and second, where
    OpenCV's took 9.
    """

    def __init__(self, options: ReaderOptions, clock: Callable[[], float] = HOST.steady) -> None:
        self._options = options
        self._clock = clock
        self._container: Any = None
        self._packets: Iterator[Any] = iter(())
        self._tick = 0.0
        self._begun = False
        self._second: RawPacket | None = None  # read already, to know the first one's time
        self._missed = False  # RTP packets were missing when the packet before was handed over

    def open(self) -> StreamInfo:
        options = self._options
        wanted = {
            "rtsp_transport": options.transport,
            "allowed_media_types": "video",
            "analyzeduration": _PROBING,
            "timeout": str(int(options.read_timeout * 1_000_000)),
            # Over TCP FFmpeg checks sequence numbers only with a queue: cameras and relays drop packets there, too.
            "reorder_queue_size": "500" if options.transport == "udp" else "2",
        }
        if options.tls_verify and options.url.startswith("rtsps"):
            wanted["tls_verify"] = "1"
        started = time.monotonic()
        try:
            self._container = av.open(options.url, options=wanted, timeout=(options.open_timeout, None))
        except (FFmpegError, OSError, ValueError):  # their texts hold the URL
            if time.monotonic() - started >= min(options.open_timeout, options.read_timeout) * 0.95:
                raise CaptureFailure("connect_timeout", "The stream did not open in time.") from None
            raise CaptureFailure("stream_ended", "The camera answered, and the stream could not be opened.") from None
        return self._info()

    def _info(self) -> StreamInfo:
        stream = next(iter(self._container.streams.video), None)
        if stream is None:
            raise CaptureFailure("no_video", "The camera offers no video.")
        context = stream.codec_context
        codec = _CODECS.get(context.name) if context is not None else None
        if codec is None:
            raise CaptureFailure("unsupported_codec", "The video is neither H.264, H.265 nor Motion JPEG.")
        self._tick = float(stream.time_base)
        self._packets = self._container.demux(stream)
        fps = float(stream.average_rate or 0)
        return StreamInfo(
            codec, bytes(context.extradata or b""), context.width, context.height, fps if 0 < fps < 1000 else None,
            tells_losses=True,
        )  # fmt: skip

    def read(self) -> RawPacket:
        if self._second is not None:
            raw, self._second = self._second, None
            return raw
        raw = self._next()
        if not self._begun:
            self._begun = True
            if raw.pts is None:
                self._second = self._next()
                raw = first_timed(raw, self._second)
        return raw

    def _next(self) -> RawPacket:
        started = time.monotonic()
        packet = None
        with lost_packets() as missing:
            try:
                packet = next(self._packets, None)
            except (FFmpegError, OSError, ValueError):  # their texts hold the URL
                pass
            missed = missing()
        if time.monotonic() - started >= self._options.read_timeout * 0.95:
            raise CaptureFailure("read_timeout", "The camera sent nothing for RTSP__READ_TIMEOUT seconds.")
        received = self._clock()
        if packet is None or not packet.size:  # empty: the demuxer's end
            raise CaptureFailure("stream_ended", "The camera ended the stream or closed the connection.")
        wall, report = _camera_clock(packet)
        pts = packet.pts * self._tick if packet.pts is not None else None
        # FFmpeg's parser hands a picture over when the next begins: what is missing belongs to this one or to the
        # beginning of the next, and a keyframe without its beginning is not known to be one.
        corrupt = packet.is_corrupt or missed or (self._missed and not packet.is_keyframe)
        self._missed = missed
        return RawPacket(bytes(packet), pts, packet.is_keyframe, received, corrupt=corrupt, camera=wall, report=report)

    def close(self) -> None:
        self._packets = iter(())  # the generator goes before what it reads from
        if self._container is not None:
            self._container.close()
            self._container = None


def first_timed(first: RawPacket, second: RawPacket) -> RawPacket:
    """A connection's first packet, which FFmpeg gives no time unless the camera sent RTP-Info.

    FFmpeg counts from it, or from a sender report that came before it: then the camera's clock at both packets shows it. A
    report that came with the second one is on the first too (the parser hands over side data of what ended the packet):
    the same camera time twice says so.
    """
    if first.camera is None or second.camera is None or first.camera == second.camera:
        return replace(first, pts=0.0, camera=None, report=None)
    if second.pts is None:
        return first
    return replace(first, pts=second.pts + first.camera - second.camera)


def _camera_clock(packet: Any) -> tuple[float | None, int | None]:
    """The camera's clock at this picture (seconds since 1970), and the newest report's NTP time where it is known."""
    wall = report = None
    if packet.has_sidedata("prft"):
        wall = _PRFT.unpack_from(bytes(packet.get_sidedata("prft")))[0] / 1e6
    if packet.has_sidedata("rtcp_sr"):
        report = _REPORT.unpack_from(bytes(packet.get_sidedata("rtcp_sr")))[1]
    return wall, report
