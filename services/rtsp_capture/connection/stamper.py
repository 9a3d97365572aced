"""From a reader's packets to packets with capture times. Pure but for the log and the metrics; one thread calls it.

The first packets of a connection wait until it is known how late they are (`ReceiptClock.settled`).
"""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import pairwise

from services.rtsp_capture.media.damage import LossWatch
from services.rtsp_capture.media.gop_buffer import Packet
from services.rtsp_capture.media.packets import RawPacket, StreamInfo
from services.rtsp_capture.timing.host_clock import HostClock
from services.rtsp_capture.timing.timestamp_source import Stamp, TimestampSelector
from utils.logger import Throttle, get_logger
from utils.metrics import CAMERA_CLOCKS_OFF

log = get_logger(__name__)
_throttle = Throttle(600, time.monotonic)

MAX_UNSETTLED = 1000  # packets whose times wait for the clock
MAX_UNSETTLED_BYTES = 32 * 1024 * 1024


def _reordered(raws: list[RawPacket]) -> bool:
    """Whether packets of one origin came in another order than that of showing (B-pictures)."""
    return any(a.pts is not None and b.pts is not None and a.origin == b.origin and b.pts < a.pts for a, b in pairwise(raws))


class Stamper:
    """Of one connection."""

    def __init__(
        self, camera_id: str, segment: int, info: StreamInfo, *, max_offset: float, host: HostClock, parsed: bool
    ) -> None:
        """`max_offset`: RTSP__MAX_CLOCK_OFFSET; `parsed`: packets come one frame late (`ReceiptClock`)."""
        self._camera_id, self._segment, self._info, self._parsed = camera_id, segment, info, parsed
        self._max_offset, self._host = max_offset, host
        self._clock = self._new_clock()
        self._watch = LossWatch(info.codec, info.extradata)
        self._unsettled: list[RawPacket] = []
        self._unsettled_bytes = 0
        self._label: float | None = None  # the last packet's stream time
        self._trusted = True
        self.reported = False  # whether the camera has sent its clock, believed or not

    def _new_clock(self) -> TimestampSelector:
        fps = self._info.fps
        return TimestampSelector(1 / fps if fps else None, self._max_offset, parsed=self._parsed)

    @property
    def fps(self) -> float | None:
        """As far as it has been learnt from the packets."""
        duration = self._clock.receipt.frame_duration
        return 1 / duration if duration else None

    def push(self, raw: RawPacket) -> list[Packet]:
        """The packets whose times are known now."""
        self.reported = self.reported or raw.camera is not None
        self._observe(raw)
        self._unsettled.append(raw)
        self._unsettled_bytes += len(raw.data)
        too_many = len(self._unsettled) > MAX_UNSETTLED or self._unsettled_bytes > MAX_UNSETTLED_BYTES
        if not self._clock.receipt.settled and not too_many:
            return []
        if self._unsettled[0].origin != raw.origin and _reordered(self._unsettled):
            # What came before the last origin can be decoded, but when it was taken is not known.
            self._unsettled = [
                one if one.origin == raw.origin else replace(one, pts=None, origin=raw.origin) for one in self._unsettled
            ]
            self._clock = self._new_clock()
            for one in self._unsettled:
                self._observe(one)
            return []
        raws, self._unsettled, self._unsettled_bytes = self._unsettled, [], 0
        return self._stamp(raws)

    def _observe(self, raw: RawPacket) -> None:
        if raw.pts is not None:
            self._clock.observe(raw.pts, raw.received, raw.camera, raw.report)

    def _stamp(self, raws: list[RawPacket]) -> list[Packet]:
        packets: list[Packet] = []
        known = [raw.pts for raw in raws if raw.pts is not None]
        if self._label is None:
            self._label = min(known, default=0.0) - 1  # nothing is shown before a connection's first keyframe
        for raw in raws:
            pts = self._clock.receipt.missing(known) if raw.pts is None and len(known) == len(raws) - 1 else raw.pts
            timed = pts is not None
            pts = self._label = self._label + 1e-4 if pts is None else pts
            lost, recovery, second_field = self._watch.check(raw.data, pts, raw.key)
            shift, steps = self._host.shift()
            at, uncertainty, source, camera_time, offset = stamp = self._clock.stamp(pts, shift)
            # By position: keywords cost as much as all the rest of making it.
            packet = Packet(
                raw.data, pts, raw.key, raw.received + shift, at, uncertainty, self._segment, timed,
                raw.corrupt, lost, recovery, second_field, source, camera_time, offset, steps,
            )  # fmt: skip
            packets.append(packet)
            self._judge(self._clock.trusted, stamp)
        return packets

    def close(self) -> None:
        """The connection is over: its camera's clock is not counted as off any more."""
        self._judge(True, None)

    def _judge(self, trusted: bool, stamp: Stamp | None) -> None:
        """A camera whose clock is off is counted while it is, and logged now and then."""
        if trusted is not self._trusted:
            self._trusted = trusted
            CAMERA_CLOCKS_OFF.dec() if trusted else CAMERA_CLOCKS_OFF.inc()
        if trusted or stamp is None or stamp.offset is None:
            return
        if (withheld := _throttle.allow(self._camera_id)) is not None:
            log.warning(
                "camera_clock_off", camera_id=self._camera_id, offset_s=round(stamp.offset, 3),
                limit_s=self._max_offset, withheld=withheld,
            )  # fmt: skip
