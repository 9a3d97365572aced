"""From RTP and RTCP packets of one track to pictures with their times. On the event loop; no I/O."""

from __future__ import annotations

from dataclasses import replace

from services.rtsp_capture.connection.reader import ConnectionPlan
from services.rtsp_capture.connection.rtsp.access_units import H264, HEVC, AccessUnit, UnitAssembler
from services.rtsp_capture.connection.rtsp.channels import Channels
from services.rtsp_capture.connection.rtsp.framing import Data
from services.rtsp_capture.connection.rtsp.jpeg_units import JpegAssembler
from services.rtsp_capture.connection.rtsp.rtp import HEADER, Bye, Rtp, parse_rtcp
from services.rtsp_capture.connection.rtsp.rtp_clock import RtpClock
from services.rtsp_capture.connection.rtsp.sdp import VideoTrack
from services.rtsp_capture.connection.rtsp.sequencer import Sequenced, Sequencer
from services.rtsp_capture.connection.stamper import Stamper
from services.rtsp_capture.media.gop_buffer import Packet
from services.rtsp_capture.media.packets import RawPacket, StreamInfo
from services.rtsp_capture.media.sps import PictureFormat, picture_format
from utils.exceptions import CaptureFailure
from utils.metrics import PACKETS, PACKETS_DROPPED

_DEPTH_TCP, _DEPTH_UDP = 2, 64  # packets that wait for a missing one
_CODECS = {"h264": (H264, 7), "hevc": (HEVC, 33)}  # with the kind of a sequence parameter set
_START = b"\0\0\0\1"


class NativeMedia:
    """Of one connection."""

    def __init__(
        self, plan: ConnectionPlan, track: VideoTrack, channels: tuple[int, int], *,
        lossy: bool, max_pixels: int, max_offset: float,
    ) -> None:  # fmt: skip
        """`channels`: of RTP and RTCP; `lossy`: packets may come out of order or never."""
        self._plan, self._track = plan, track
        self._channels = Channels(channels, track)
        self._max_pixels, self._max_offset = max_pixels, max_offset
        self._sequencer = Sequencer(_DEPTH_UDP if lossy else _DEPTH_TCP)
        self._clock = RtpClock(track.clock_rate, track.capture_time)
        self._jpeg = JpegAssembler(max_pixels) if track.codec == "mjpeg" else None
        self._units = UnitAssembler(track.codec, self._judge_set, don=track.don)
        self._assembler = self._jpeg or self._units
        self._format: PictureFormat | None = None
        self._source = -1  # SSRC
        self._stamper: Stamper | None = None
        self._info: StreamInfo | None = None
        self._open = False
        self.count = self._counted = 0  # pictures that came, and of those the ones that the metric has
        for nal in track.sets:
            try:
                self._judge_set(nal)
            except ValueError:
                continue

    @property
    def reported(self) -> bool:
        return self._stamper is not None and self._stamper.reported

    def _judge_set(self, nal: bytes) -> None:
        """Of each new parameter set, before it comes to a decoder. Raises ValueError, CaptureFailure."""
        codec, sps = _CODECS[self._track.codec]
        if not nal or codec.kind[nal[0]] != sps:
            return
        found = picture_format(self._track.codec, nal)
        if found.coded > self._max_pixels:
            raise CaptureFailure("unsupported_codec", "The camera's pictures have more pixels than RTSP__MAX_PIXELS.")
        self._format = found

    # -- packets -----------------------------------------------------------------------------------------------

    def take(self, packets: list[Data | None], received: float) -> tuple[bool, bool]:
        """(Whether video came, whether the camera said goodbye). None stands for lost data. `received`: steady time
        (`host_clock`). Raises CaptureFailure."""
        heard = goodbye = False
        done: list[Packet] = []
        at, count = 0, len(packets)
        while at < count:
            if taken := self._go_on(packets, at, received, done):
                at, heard = at + taken, True
                continue
            data, at = packets[at], at + 1
            if data is None:
                self._sequencer.gap()
            elif (packet := self._channels.video(data)) is not None:
                heard = True
                if self._sequencer.follows(packet):
                    self._source = packet.ssrc
                    for unit in self._assembler.push(packet, received, False):
                        self._unit(unit, done)
                    continue
                for sequenced in self._sequencer.push(packet, received):
                    self._push(sequenced, done)
            elif data.channel == self._channels.rtcp:
                goodbye |= self._control(data.payload)
        self._deliver(done)
        return heard, goodbye

    def _go_on(self, packets: list[Data | None], at: int, received: float, done: list[Packet]) -> int:
        """Takes packets from the middle and the end of a NAL unit, which nothing but their bytes is wanted of; returns how
        many."""
        if (under_way := self._units.under_way) is None or (next_one := self._sequencer.next_one) is None:
            return 0
        (ssrc, number), (timestamp, fragment, flags, pieces) = next_one, under_way
        header, rtp, payload_type = HEADER.unpack_from, self._channels.rtp, self._track.payload_type
        first, size, count, last = at, 0, len(packets), None
        while at < count and last is None and (data := packets[at]) is not None and data[0] == rtp:
            payload = data[1]
            if len(payload) < 16 or payload[12] not in fragment:
                break
            head, part = header(payload), payload[flags] & 0xC0
            if part == 0 and head == (0x80, payload_type, number, timestamp, ssrc):
                pieces.append(payload[flags + 1 :])
            elif part == 0x40 and head in (
                (0x80, kind, number, timestamp, ssrc) for kind in (payload_type, payload_type | 0x80)
            ):
                last = payload
            else:
                break
            size += len(payload) - 12
            at, number = at + 1, number + 1 & 0xFFFF
        if at > first:
            self._sequencer.took(number)
            self._units.went_on(size, received)
            if last is not None:
                for unit in self._units.ended(last[flags + 1 :], received, marker=last[1] > 127):
                    self._unit(unit, done)
        return at - first

    @property
    def opened(self) -> bool:
        """Whether the first packets were delivered."""
        return self._open

    @property
    def waits(self) -> bool:
        """Whether `flush` would give something that waits for what may not come."""
        return self._assembler.waits or self._sequencer.waits

    def flush(self) -> None:
        """Nothing has come for a while. Raises CaptureFailure."""
        done: list[Packet] = []
        for sequenced in self._sequencer.flush():
            self._push(sequenced, done)
        for unit in self._assembler.flush():
            self._unit(unit, done)
        self._deliver(done)

    def _control(self, payload: bytes) -> bool:
        for one in parse_rtcp(payload):
            if isinstance(one, Bye):
                if not one.ssrcs or self._source in one.ssrcs:
                    return True
            elif one.ssrc == self._source or self._source < 0:
                self._clock.report(one)
        return False

    def _push(self, sequenced: Sequenced, done: list[Packet]) -> None:
        packet: Rtp = sequenced.packet
        if sequenced.fresh:
            self._clock.restart(packet.timestamp, sequenced.received)
        self._source = packet.ssrc
        for unit in self._assembler.push(packet, sequenced.received, sequenced.lost):
            self._unit(unit, done)

    # -- pictures ----------------------------------------------------------------------------------------------

    def _unit(self, unit: AccessUnit, done: list[Packet]) -> None:
        self.count += 1
        pts = self._clock.time_of(unit.packet.timestamp, unit.received)
        camera, report = self._clock.camera_time(unit.packet) if pts is not None else (None, None)
        if self._stamper is None and not self._begin():
            PACKETS_DROPPED.labels(reason="no_keyframe").inc()
            return
        assert self._stamper is not None
        raw = RawPacket(unit.data, pts, unit.key, unit.received, corrupt=unit.corrupt, camera=camera, report=report)
        done.extend(self._stamper.push(raw))

    def _begin(self) -> bool:
        """Once it is known what the pictures are like."""
        track, found = self._track, self._format
        width, height = self._jpeg.size if self._jpeg is not None else (found.width, found.height) if found else (0, 0)
        if not width:
            return False
        sets: dict[int, bytes] = {}
        if track.codec in _CODECS:  # what the stream sent, and of the SDP what it has not sent, or what got lost
            sets = {_CODECS[track.codec][0].kind[nal[0]]: nal for nal in track.sets if nal} | self._units.sets
        extradata = b"".join(_START + sets[kind] for kind in sorted(sets))
        fps = track.fps or (found.fps if found else None)
        self._info = StreamInfo(track.codec, extradata, width, height, fps, tells_losses=True, max_pixels=self._max_pixels)
        plan = self._plan
        self._stamper = Stamper(
            plan.name, plan.segment, self._info, max_offset=self._max_offset, host=plan.host, parsed=False
        )
        return True

    def _deliver(self, done: list[Packet]) -> None:
        PACKETS.inc(self.count - self._counted)
        self._counted = self.count
        if not done:
            return
        if not self._open and self._info is not None and self._stamper is not None:
            self._open = True
            fps = self._info.fps or self._stamper.fps
            self._plan.on_open(replace(self._info, fps=round(fps, 3) if fps else None))
        self._plan.on_packets(done)

    def close(self) -> None:
        if self._stamper is not None:
            self._stamper.close()
