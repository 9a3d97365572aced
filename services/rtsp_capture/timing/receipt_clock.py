"""When a picture was taken: stream time fitted to receipt times. Pure; clocks come in as numbers.

A packet is received some delay after its picture was taken; jitter only ever adds. So the lower envelope of
(receipt - stream time) is the constant part of that delay, and stream time + envelope is the receipt time without
the jitter. FFmpeg's parser hands each packet over when the next one begins: one frame's duration is subtracted (not of
Motion JPEG, whose pictures RTP's marker bit ends).

Some cameras' stream time is slow or fast by as much as 16 %: `clock_rate` says by how much, once it is sure.

The first packets of a connection come in a burst: FFmpeg held them back while it probed the stream, and some
cameras repeat what they sent before. Each is late, by less and less, until the burst has run dry: `settled` says so.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from itertools import pairwise
from operator import sub

from services.rtsp_capture.timing.clock_rate import ClockRate

WINDOW_SECONDS = 10.0  # of packets that the envelope covers
STEP_SECONDS = 0.020  # a difference beyond this is stepped, below it is slewed
SLEW = 500e-6  # seconds a second
MAX_BACK = 2.0  # seconds of stream time between neighbours that mean another timeline: back,
MAX_AHEAD = 5.0  # or ahead, beyond the time that passed here
MAX_DISTANCE = 12.0  # seconds between pictures
SETTLE_PACKETS = 5  # the burst is over when so many packets in a row did not lower the envelope
SETTLE_ANCHORS = 3  # (so many of them shown later than all before: B-pictures are never early, and cannot lower it)
SETTLE_FALL = 0.002  # by more than this (seconds),
SETTLE_TIMEOUT = 1.0  # or after so many seconds
UNSURE_RATE = 0.2  # of the first seconds: the envelope's fall that may be a fast clock's doing instead of a burst's
LATE_PACKETS = 5  # the earliest of so many may be late because the stream's clock is slow
_KEPT = 64  # stream times that the frame duration is learnt from


class ReceiptClock:
    """Maps stream times of one connection to wall-clock times. One thread calls it, packet by packet."""

    def __init__(self, frame_duration: float | None = None, *, parsed: bool = True) -> None:
        """`parsed`: packets come from FFmpeg's parser, one frame late."""
        self._parsed = parsed
        self._window: deque[tuple[float, float]] = deque()  # (receipt, receipt - pts), ascending differences
        self._offset = 0.0
        self._began = 0.0  # receipt of the timeline's first packet
        self._first = 0.0  # its receipt - stream time
        self._unsure = 0.0  # seconds: the first packets waited for a burst's end that did not come
        self._quiet = self._quiet_anchors = 0  # packets since the envelope fell
        self._newest = float("-inf")  # stream time of the picture shown last
        self._settled = False
        self.timeline = 0  # counts the stream's timelines: times of two cannot be compared
        self._last: tuple[float, float] | None = None  # (pts, receipt)
        self._duration = frame_duration or 0.0
        self._pts: deque[float] = deque(maxlen=_KEPT)
        self._count = 0
        self._rate = ClockRate()
        self._late: deque[float] = deque(maxlen=LATE_PACKETS)  # receipt - stream time of the newest

    @property
    def frame_duration(self) -> float:
        """Seconds between pictures, 0 while unknown."""
        return self._duration

    @property
    def settled(self) -> bool:
        """Whether the first packets' burst is over: before, times are late by as much as the burst lasts."""
        return self._settled

    def observe(self, pts: float, received: float) -> None:
        """Takes in the next packet: its stream time, and when it was received (wall clock), in seconds."""
        if self._last is None or not -MAX_BACK < pts - self._last[0] < MAX_AHEAD + (received - self._last[1]):
            self._begin(received)  # the first packet, or the camera restarted its timeline
        self._learn_duration(pts)
        if self._rate.observe(pts, received):
            self._refit()
        if pts > self._newest:  # B-pictures are late as they are
            self._late.append(received - self._rate.true(pts))
        before = self._window[0][1] if self._window else float("inf")
        difference = received - self._rate.true(pts)
        if not self._window:
            self._first = difference
        while self._window and self._window[-1][1] >= difference:
            self._window.pop()
        self._window.append((received, difference))
        while self._window[0][0] < received - WINDOW_SECONDS:
            self._window.popleft()
        envelope = self._window[0][1]
        self._unsure = 0.0
        if not self._settled:
            self._offset = envelope
            if envelope < before - SETTLE_FALL:
                self._quiet = self._quiet_anchors = 0
            else:
                self._quiet += 1
                self._quiet_anchors += pts > self._newest
            quiet = self._quiet >= SETTLE_PACKETS and self._quiet_anchors >= SETTLE_ANCHORS
            self._settled = quiet or received - self._began >= SETTLE_TIMEOUT
            if self._settled and not quiet:
                self._unsure = min(self._first - envelope, UNSURE_RATE * (received - self._began))
        elif abs(envelope - self._offset) > STEP_SECONDS:
            self._offset = envelope
        else:
            allowed = SLEW * max(0.0, received - self._last[1]) if self._last else 0.0
            self._offset += min(allowed, max(-allowed, envelope - self._offset))
        self._newest = max(self._newest, pts)
        self._last = (pts, received)

    def time_of(self, pts: float) -> float:
        """The capture time, seconds since the epoch, of a picture of the timeline observed last."""
        return self._rate.true(pts) + self._offset - (self._duration * self._rate.rate if self._parsed else 0.0)

    def missing(self, known: list[float]) -> float | None:
        """The stream time of a picture that has none, from those of the pictures around it: the first hole in them.

        Later holes are those of B-pictures that have not come yet.
        """
        holes = [(a + b) / 2 for a, b in pairwise(sorted(known)) if abs(b - a - 2 * self._duration) < self._duration / 4]
        return holes[0] if holes else None

    def uncertainty(self) -> float:
        """Seconds by which `time_of` may be wrong, beside the delay that all packets have in common."""
        if not self._window or self._last is None:
            return STEP_SECONDS
        unfilled = max(0.0, 1 - (self._last[1] - self._began) / WINDOW_SECONDS)
        # What all of the last packets are late by: the network's doing, or that of the stream's own clock.
        late = max(0.0, min(self._late) - self._window[0][1]) if self._late else 0.0
        return self._duration / 2 + abs(self._window[0][1] - self._offset) + late + self._unsure + STEP_SECONDS * unfilled

    def _refit(self) -> None:
        """The stream's rate is another than was thought: differences that were measured by the former mean nothing."""
        self._window.clear()
        self._late.clear()
        for pts, received in self._rate.points():
            difference = received - self._rate.true(pts)
            while self._window and self._window[-1][1] >= difference:
                self._window.pop()
            self._window.append((received, difference))
        self._offset = self._window[0][1]

    def _begin(self, received: float) -> None:
        self._window.clear()
        self._late.clear()
        self._pts.clear()
        self._rate.restart()
        self._began, self._unsure = received, 0.0
        self.timeline += 1
        self._quiet = self._quiet_anchors = self._count = 0
        self._newest = float("-inf")
        self._settled = False

    def _learn_duration(self, pts: float) -> None:
        """The median distance of neighbours in the order of showing, not of decoding."""
        self._pts.append(pts)
        self._count += 1
        if self._count > 2 * SETTLE_PACKETS and self._count % 8:
            return
        shown = sorted(self._pts)
        distances = sorted(map(sub, shown[1:], shown))
        distances = distances[bisect_right(distances, 0.001) : bisect_left(distances, MAX_DISTANCE)]
        if len(distances) >= 4:
            self._duration = distances[(len(distances) - 1) // 2]
        elif distances and distances[0] > 1.5 * self._duration:  # not known, or the camera says another than it sends
            self._duration = distances[0]
