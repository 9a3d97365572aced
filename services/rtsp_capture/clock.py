"""When a picture was taken: stream time fitted to receipt times. Pure; clocks come in as numbers.

A packet is received some delay after its picture was taken; jitter only ever adds. So the lower envelope of
(receipt - stream time) is the constant part of that delay, and stream time + envelope is the receipt time without
the jitter. FFmpeg's parser hands each packet over when the next one begins: one frame's duration is subtracted.
"""

from __future__ import annotations

from collections import deque

WINDOW = 10.0  # seconds of packets that the envelope looks at
STEP = 0.020  # seconds; a difference beyond this is stepped, below it is slewed
SLEW = 500e-6  # seconds a second
MAX_JUMP = 2.0  # seconds of stream time between neighbours that mean another timeline
_DURATIONS = 64


class StreamClock:
    """Maps stream times of one connection to wall-clock times. One thread calls it, packet by packet."""

    def __init__(self, frame_duration: float | None = None) -> None:
        self._window: deque[tuple[float, float]] = deque()  # (receipt, receipt - pts), ascending differences
        self._offset: float | None = None
        self._last_receipt = 0.0
        self._last_pts: float | None = None
        self._duration = frame_duration or 0.0
        self._recent: deque[float] = deque(maxlen=_DURATIONS)

    @property
    def frame_duration(self) -> float:
        """Seconds between pictures: the median of the last distances, 0 while unknown."""
        return self._duration

    def observe(self, pts: float, received: float) -> float:
        """The capture time, seconds since the epoch, of the picture at `pts`, received at `received` (wall clock)."""
        if self._last_pts is not None and not -MAX_JUMP < pts - self._last_pts < MAX_JUMP + (received - self._last_receipt):
            self._window.clear()  # the camera restarted its timeline
            self._offset = None
        self._learn_duration(pts)
        difference = received - pts
        while self._window and self._window[-1][1] >= difference:
            self._window.pop()
        self._window.append((received, difference))
        while self._window[0][0] < received - WINDOW:
            self._window.popleft()
        envelope = self._window[0][1]
        if self._offset is None or abs(envelope - self._offset) > STEP:
            self._offset = envelope
        else:
            allowed = SLEW * max(0.0, received - self._last_receipt)
            self._offset += min(allowed, max(-allowed, envelope - self._offset))
        self._last_receipt, self._last_pts = received, pts
        return pts + self._offset - self._duration

    def uncertainty(self) -> float:
        """Seconds by which the envelope has moved over its window: how well the fit is known."""
        spread = self._window[-1][1] - self._window[0][1] if len(self._window) > 1 else 0.0
        return spread + self._duration / 2

    def _learn_duration(self, pts: float) -> None:
        if self._last_pts is None:
            return
        distance = abs(pts - self._last_pts)
        if 0.001 < distance < 1.5:
            self._recent.append(distance)
            # With B-frames distances are multiples of the duration; the smallest common one is what repeats.
            ordered = sorted(self._recent)
            self._duration = ordered[len(ordered) // 4]
