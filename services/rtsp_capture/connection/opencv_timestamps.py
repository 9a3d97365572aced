"""Stream times from the properties that OpenCV has of a raw packet. Pure."""

from __future__ import annotations

_UNKNOWN_RATE = 25.0  # frames a second, where OpenCV knows none
_MAX_START = 120.0  # seconds for which FFmpeg reads before it sets start_time: pictures may be seconds apart
_MAX_FRAMES = 1e12  # CAP_PROP_PTS beyond it is FFmpeg's "no value", rescaled


class OpenCvTimestamps:
    """The times of one connection, packet by packet in decoding order.

    POS_MSEC counts from the stream's start_time, which FFmpeg sets while the first packets are read: a packet then is
    at 0, and those after it count from there. CAP_PROP_PTS does not jump (in frames, rounded): where the two move
    apart by more than rounding can explain, start_time was set, and what follows is moved back onto the first packets'
    time. Rounding explains a frame where stream times have strayed from the frame rate, which takes a while.

    A packet where FFmpeg's probing ended may have no time: POS_MSEC is then 0, CAP_PROP_PTS still the former's. The
    very first has none either when the camera sends no RTP-Info: it is 0.

    Where CAP_PROP_PTS is missing packets are counted instead. That is right but with B-pictures; `origin` rises with
    every start that was guessed so: with B-pictures only times of the same origin can be compared.
    """

    def __init__(self) -> None:
        self._shift = 0.0  # what positions are moved by
        self._other_shift: float | None = None  # the one that holds if start_time was set at the packet before
        self._base: float | None = None
        self._frames = 0.0  # CAP_PROP_PTS of the packet before
        self._last: float | None = None
        self._count = 0
        self.origin = 0

    def next(self, position: float, frames: float, fps: float | None) -> float | None:
        """Seconds; None for a packet without a time. `position` in seconds, `frames` in frames of 1 / `fps` seconds."""
        self._count += 1
        duration = 1 / (fps or _UNKNOWN_RATE)
        if fps is None or abs(frames) > _MAX_FRAMES or (frames == 0 and self._count > 1):
            self._last = self._by_counting(position, duration)
            return self._last
        if position == 0 and self._count > 1 and frames == self._frames:
            return None
        self._frames = frames
        self._last = self._by_frames(position, frames * duration, duration)
        return self._last

    def _by_frames(self, position: float, at: float, duration: float) -> float:
        base = position + self._shift - at
        if self._base is None:
            self._base = base
        elif (0.9 if self._count * duration < 2 else 1.25) * duration < abs(base - self._base) < _MAX_START:
            self._shift += self._base - base
        return position + self._shift

    def _by_counting(self, position: float, duration: float) -> float:
        """Without CAP_PROP_PTS: at 0 either the packet has no time, or start_time was set; the next packet shows which."""
        if self._last is None:
            return position
        expected = self._last + duration
        if position == 0:
            self._other_shift = expected
            return expected
        if self._other_shift is not None:
            self._shift = min((self._shift, self._other_shift), key=lambda shift: abs(position + shift - expected))
            self._other_shift = None
            self.origin += 1
        return position + self._shift
