"""One connection's reader thread: opens, reads until told to stop or the stream breaks, closes. All in that thread.

Packets are handed to the event loop through a bounded queue with at most one wake-up under way, so that a burst
costs one callback. A full queue (a loop that stands still) drops what waits; until the next keyframe what follows
cannot be decoded and is dropped and counted too.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

from services.rtsp_capture.clock import StreamClock
from services.rtsp_capture.damage import LossWatch
from services.rtsp_capture.packets import Packet
from services.rtsp_capture.reader import PacketReader, RawPacket, StreamInfo
from utils.exceptions import CaptureFailure
from utils.metrics import PACKETS, PACKETS_DROPPED

MAX_WAITING = 2000  # packets between thread and loop


@dataclass(frozen=True, slots=True)
class SessionEnd:
    """How a connection ended: `failure` is None when it was told to stop."""

    failure: CaptureFailure | None
    packets: int


def _reordered(raws: list[RawPacket]) -> bool:
    """Whether packets of one origin came in another order than that of showing (B-pictures)."""
    return any(a.pts is not None and b.pts is not None and a.origin == b.origin and b.pts < a.pts for a, b in pairwise(raws))


class ReaderSession:
    """Runs one `PacketReader` in a thread of its own. Made and used on the event loop."""

    def __init__(
        self,
        name: str,
        reader: PacketReader,
        segment: int,
        on_open: Callable[[StreamInfo], None],
        on_packets: Callable[[list[Packet]], None],
    ) -> None:
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
        self._lost = False  # packets were dropped, and no keyframe has come since
        self.ended: asyncio.Future[SessionEnd] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name=f"rtsp-{name}"[:60], daemon=False)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Tells the thread to end; it does within the read timeout (or the open timeout). `ended` says when."""
        self._quit.set()

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
        self._post(lambda: self._finish(SessionEnd(failure, self._count)))

    def _read(self) -> None:
        info = self._reader.open()
        self._post(lambda: self._on_open(info))
        clock = StreamClock(1 / info.fps if info.fps else None, parsed=info.codec != "mjpeg")
        watch = LossWatch(info.codec, info.extradata)
        unsettled: list[RawPacket] = []  # their capture times are known only when the first burst is over
        while not self._quit.is_set():
            raw = self._reader.read()
            self._count += 1
            PACKETS.inc()
            if raw.pts is not None:
                clock.observe(raw.pts, raw.received)
            unsettled.append(raw)
            if not clock.settled:
                continue
            if unsettled[0].origin != raw.origin and _reordered(unsettled):
                # What came before the last origin can be decoded, but nobody knows when it was taken.
                unsettled = [
                    one if one.origin == raw.origin else replace(one, pts=None, origin=raw.origin) for one in unsettled
                ]
                clock = StreamClock(1 / info.fps if info.fps else None, parsed=info.codec != "mjpeg")
                for one in unsettled:
                    if one.pts is not None:
                        clock.observe(one.pts, one.received)
                continue
            self._stamp(unsettled, clock, watch)

    def _stamp(self, raws: list[RawPacket], clock: StreamClock, watch: LossWatch) -> None:
        """Gives packets their capture times and hands them over."""
        known = [raw.pts for raw in raws if raw.pts is not None]
        if self._label is None:
            self._label = min(known, default=0.0) - 1  # nothing is shown before a connection's first keyframe
        for raw in raws:
            pts = clock.missing(known) if raw.pts is None and len(known) == len(raws) - 1 else raw.pts
            timed = pts is not None
            pts = self._label = self._label + 1e-4 if pts is None else pts
            seen = watch.see(raw.data, pts, raw.key)
            if self._lost and not raw.key:
                PACKETS_DROPPED.inc()
                continue
            at = clock.time_of(pts)
            packet = Packet(
                raw.data, pts, raw.key, raw.received, at, clock.uncertainty(), self._segment, timed,
                raw.corrupt, seen.lost, seen.recovery, seen.second_field,
            )  # fmt: skip
            self._lost = not self._hand_over(packet)
        raws.clear()

    def _hand_over(self, packet: Packet) -> bool:
        with self._guard:
            if len(self._waiting) >= MAX_WAITING:
                PACKETS_DROPPED.inc(len(self._waiting) + 1)
                self._waiting.clear()
                return False
            self._waiting.append(packet)
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
            self._waiting.clear()
            self._waking = False
        self._on_packets(packets)

    def _finish(self, end: SessionEnd) -> None:
        if not self.ended.done():
            self.ended.set_result(end)

    async def join(self) -> None:
        """Waits for the thread's end without blocking the loop."""
        while self._thread.is_alive():
            await asyncio.sleep(0.02)
