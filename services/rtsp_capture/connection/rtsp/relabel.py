"""RTP packets for a reader that knows one source, one count and one RTP clock a connection: FFmpeg. Pure.

A camera that begins another of them in mid-stream, or stamps single pictures hours away, is made to look as if it had not;
and parameter sets get the time of the picture that they come before, whatever they are stamped.
"""

from __future__ import annotations

import struct

from services.rtsp_capture.connection.rtsp.access_units import H264, HEVC, Codec
from services.rtsp_capture.connection.rtsp.rtp import Rtp
from services.rtsp_capture.connection.rtsp.rtp_clock import RtpClock
from services.rtsp_capture.connection.rtsp.sequencer import Sequenced

_HEADER = struct.Struct("!HII")  # sequence number, timestamp, SSRC (RFC 3550, section 5.1)


_MAX_HELD = 16  # packets of parameter sets that wait for their picture


class Relabel:
    """Of one track."""

    def __init__(self, codec: str, rate: int) -> None:
        """`codec`: h264, hevc, mjpeg; `rate`: ticks a second of the RTP clock."""
        self._codec = {"h264": H264, "hevc": HEVC}.get(codec)
        self._rate = rate
        self._clock = RtpClock(rate)
        self._held: list[Sequenced] = []
        self._came = -1  # the timestamp of the last picture as it came,
        self._given = 0  # and as it is given on
        self._start = self._sequence = self._ssrc = 0
        self._begun = False

    def push(self, one: Sequenced) -> list[bytes]:
        """Packets to give on. Those that are as they should be are unchanged."""
        if self._codec is not None and len(self._held) < _MAX_HELD and self._is_set(self._codec, one.packet):
            self._held.append(one)
            return []
        held, self._held = self._held, []
        if not self._begun:
            self._sequence = (held or [one])[0].packet.sequence - 1
        self._picture(one, fresh=any(each.fresh for each in (*held, one)))
        return [self._written(each) for each in (*held, one)]

    @staticmethod
    def _is_set(codec: Codec, packet: Rtp) -> bool:
        return packet.end - packet.start > codec.header and codec.kind[packet.data[packet.start]] in codec.before

    def _picture(self, one: Sequenced, *, fresh: bool) -> None:
        packet = one.packet
        if not self._begun:
            self._begun = True
            self._start, self._ssrc = packet.timestamp, packet.ssrc
        if fresh:
            self._clock.restart(packet.timestamp, one.received)
        if packet.timestamp != self._came or fresh:
            self._came = packet.timestamp
            at = self._clock.time_of(packet.timestamp, one.received)
            ticks = self._start + round(at * self._rate) if at is not None else self._given + self._step()
            self._given = ticks & 0xFFFFFFFF

    def _step(self) -> int:
        """Ticks to the next picture, where no more is known of it than that."""
        return max(1, round(self._clock.distance * self._rate))

    def _written(self, one: Sequenced) -> bytes:
        packet = one.packet
        # A gap stays one, of one packet: FFmpeg must know that data was lost.
        self._sequence = self._sequence + (2 if one.lost and not one.fresh else 1) & 0xFFFF
        if (self._sequence, self._given, self._ssrc) == (packet.sequence, packet.timestamp, packet.ssrc):
            return packet.data
        return packet.data[:2] + _HEADER.pack(self._sequence, self._given, self._ssrc) + packet.data[12:]
