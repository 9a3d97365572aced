"""One connection's reader thread: opens, reads until it is stopped or the stream breaks, closes. All in that thread.

Packets are handed to the event loop through a bounded queue with at most one wake-up under way, so that a burst
costs one callback. A full queue (a blocked loop) drops the packets that wait; those until the next keyframe cannot be
decoded, and are dropped and counted, too.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

from services.rtsp_capture.connection.reader import PacketReader
from services.rtsp_capture.media.damage import LossWatch
from services.rtsp_capture.media.gop_buffer import Packet
from services.rtsp_capture.media.packets import RawPacket, StreamInfo
from services.rtsp_capture.timing.host_clock import HOST, HostClock
from services.rtsp_capture.timing.timestamp_source import Stamp, TimestampSelector
from utils.exceptions import CaptureFailure
from utils.logger import Throttle, get_logger
from utils.metrics import CAMERA_CLOCKS_OFF, PACKETS, PACKETS_DROPPED, QUEUE_DEPTH, READERS_LEFT

log = get_logger(__name__)
_throttle = Throttle(600, time.monotonic)

MAX_WAITING_PACKETS = 2000  # packets between thread and loop
MAX_ABANDONED = 16  # threads of the process whose read does not end, and which are not waited for any more
_DEPTH = QUEUE_DEPTH.labels(queue="packets")


@dataclass(frozen=True, slots=True)
class ReaderEnd:
    """How a connection ended: `failure` is None when it was stopped."""

    failure: CaptureFailure | None
    packets: int


def _reordered(raws: list[RawPacket]) -> bool:
    """Whether packets of one origin came in another order than that of showing (B-pictures)."""
    return any(a.pts is not None and b.pts is not None and a.origin == b.origin and b.pts < a.pts for a, b in pairwise(raws))


class ReaderThread:
    """Runs one `PacketReader` in a thread of its own. Made and used on the event loop."""

    def __init__(
        self,
        name: str,
        reader: PacketReader,
        segment: int,
        on_open: Callable[[StreamInfo], None],
        on_packets: Callable[[list[Packet]], None],
        *,
        max_offset: float = 1.0,
        host: HostClock = HOST,
    ) -> None:
        """`max_offset`: RTSP__MAX_CLOCK_OFFSET; `host` brings the reader's receipt times to wall time."""
        self._camera_id = name
        self._max_offset = max_offset
        self._host = host
        self._trusted = True
        self.reported = False  # whether the camera has sent its clock, believed or not
        self._reader = reader
        self._segment = segment
        self._on_open = on_open
        self._on_packets = on_packets
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Packet] = deque()
        self._guard = threading.Lock()
        self._waking = False
        self._quit = threading.Event()
        self._count = 0
        self._label: float | None = None  # the last packet's stream time
        self._after_loss = False  # packets were dropped, and no keyframe has come since
        self._abandoned = False
        self.ended: asyncio.Future[ReaderEnd] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name=f"rtsp-{name}"[:60], daemon=False)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Asks the thread to end, which it does within the read timeout or the open timeout. `ended` says when."""
        self._quit.set()

    def abandon(self, failure: CaptureFailure) -> bool:
        """Ends the connection although its thread is in a read that does not end.

        The thread ends with the read; its packets are ignored. False when MAX_ABANDONED threads are abandoned already.
        """
        if len(_abandoned) >= MAX_ABANDONED:
            return False
        _abandoned.add(self)
        READERS_LEFT.set(len(_abandoned))
        self._abandoned = True
        self._quit.set()
        self._finish(ReaderEnd(failure, self._count))
        return True

    # -- in the thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        failure: CaptureFailure | None = None
        try:
            if not self._quit.is_set():
                self._read()
        except CaptureFailure as error:
            failure = error
        except Exception as error:  # cv2's own errors, whose texts hold the URL
            failure = CaptureFailure("stream_ended", f"Reading the stream failed ({type(error).__name__}).")
        finally:
            self._reader.close()
            self._judge(True, None)
        self._post(lambda: self._finish(ReaderEnd(failure, self._count)))
        self._post(self._gone)

    def _read(self) -> None:
        info = self._reader.open()
        self._post(lambda: self._on_open(info))
        clock = self._clock(info)
        watch = LossWatch(info.codec, info.extradata)
        unsettled: list[RawPacket] = []  # their capture times are known only after the first burst
        while not self._quit.is_set():
            raw = self._reader.read()
            self._count += 1
            PACKETS.inc()
            self.reported = self.reported or raw.camera is not None
            if raw.pts is not None:
                clock.observe(raw.pts, raw.received, raw.camera, raw.report)
            unsettled.append(raw)
            if not clock.receipt.settled:
                continue
            if unsettled[0].origin != raw.origin and _reordered(unsettled):
                # What came before the last origin can be decoded, but when it was taken is not known.
                unsettled = [
                    one if one.origin == raw.origin else replace(one, pts=None, origin=raw.origin) for one in unsettled
                ]
                clock = self._clock(info)
                for one in unsettled:
                    if one.pts is not None:
                        clock.observe(one.pts, one.received, one.camera, one.report)
                continue
            self._stamp(unsettled, clock, watch)
            unsettled = []

    def _clock(self, info: StreamInfo) -> TimestampSelector:
        return TimestampSelector(
            1 / info.fps if info.fps else None, self._max_offset, self._host.to_wall, parsed=info.codec != "mjpeg"
        )

    def _stamp(self, raws: list[RawPacket], clock: TimestampSelector, watch: LossWatch) -> None:
        """Gives packets their capture times and passes them to the loop."""
        known = [raw.pts for raw in raws if raw.pts is not None]
        if self._label is None:
            self._label = min(known, default=0.0) - 1  # nothing is shown before a connection's first keyframe
        for raw in raws:
            pts = clock.receipt.missing(known) if raw.pts is None and len(known) == len(raws) - 1 else raw.pts
            timed = pts is not None
            pts = self._label = self._label + 1e-4 if pts is None else pts
            check = watch.check(raw.data, pts, raw.key)
            if self._after_loss and not raw.key:
                PACKETS_DROPPED.labels(reason="after_loss").inc()
                continue
            stamp, steps = self._stamp_of(clock, pts)
            packet = Packet(
                raw.data, pts, raw.key, self._host.to_wall(raw.received), stamp.at, stamp.uncertainty, self._segment, timed,
                source=stamp.source, camera_time=stamp.camera_time, clock_offset=stamp.offset,
                corrupt=raw.corrupt, lost=check.lost, recovery=check.recovery, second_field=check.second_field, steps=steps,
            )  # fmt: skip
            self._after_loss = not self._hand_over(packet)
            self._judge(clock.trusted, stamp)

    def _stamp_of(self, clock: TimestampSelector, pts: float) -> tuple[Stamp, float]:
        """When the picture was taken, and how far this host's clock had been set by then."""
        while True:
            steps = self._host.steps
            stamp = clock.stamp(pts)
            if steps == self._host.steps:
                return stamp, steps

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

    def _hand_over(self, packet: Packet) -> bool:
        with self._guard:
            if len(self._waiting) >= MAX_WAITING_PACKETS:
                PACKETS_DROPPED.labels(reason="queue_full").inc(len(self._waiting) + 1)
                _DEPTH.dec(len(self._waiting))
                self._waiting.clear()
                return False
            self._waiting.append(packet)
            _DEPTH.inc()
            if self._waking:
                return True
            self._waking = True
        self._post(self._drain)
        return True

    def _post(self, callback: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:  # the loop is closed: the process is ending
            self._quit.set()

    # -- on the loop -------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        with self._guard:
            packets = list(self._waiting)
            _DEPTH.dec(len(packets))
            self._waiting.clear()
            self._waking = False
        if not self._abandoned:
            self._on_packets(packets)

    def _finish(self, end: ReaderEnd) -> None:
        if not self.ended.done():
            self.ended.set_result(end)

    def _gone(self) -> None:
        _abandoned.discard(self)
        READERS_LEFT.set(len(_abandoned))

    async def join(self) -> None:
        """Waits for the thread's end without blocking the loop; not for one that was abandoned."""
        while self._thread.is_alive() and not self._abandoned:
            await asyncio.sleep(0.02)


_abandoned: set[ReaderThread] = set()  # on the loop
