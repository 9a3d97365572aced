"""Whether something moves before a camera, from small grey pictures. Pure but for OpenCV's arithmetic: no clocks.

Method: a background of its own for every point, kept as a running average. Each picture is first fitted to it in
brightness (one gain and one offset for the whole picture, robustly), so that clouds and auto exposure are no motion.
A point that then differs by more than `threshold` grey levels stands out; specks are removed, and the picture moves
when the largest connected patch covers `min_area` of it. What stands out and holds still for STILL_SECONDS becomes
background: a car that has stopped, and the asphalt where one stood. When more than GLOBAL_SHARE of a picture stands out
(lights switched, camera turned, an exposure that gain and offset do not explain), the background is learnt again from
that picture, and there is no motion event.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from services.rtsp_capture.captures.motion_events import MotionResult

WARM_UP_PICTURES = 3  # pictures that the background is learnt from before anything can move
STILL_SECONDS = 3.0  # after which what stands still is background
LEARN_SECONDS = 4.0  # time constant of the running average
GLOBAL_SHARE = 0.6  # of the picture; when more of it changed it was not an object
_CLIPPED = 8  # grey levels from black and white within which a sensor measures no brightness
_RELIGHT = 10.0  # grey levels by which the fit moves a middle grey; more means another light, which needs more tolerance
_MAX_GAIN = 2.5
_SPECK = np.ones((3, 3), np.uint8)
_PARTS = np.ones((7, 7), np.uint8)

Luma = NDArray[np.uint8]
_Plane = NDArray[np.float32]


class MotionModel:
    """The background of one camera. Not to be used by two threads at once."""

    def __init__(self, threshold: float, min_area: float) -> None:
        """`threshold` in grey levels (of 256), `min_area` a share of the picture (0-1)."""
        self._threshold = threshold
        self._min_area = min_area
        self._background: _Plane | None = None
        self._previous: _Plane | None = None
        self._still: _Plane | None = None  # seconds that each point has stood out unchanged
        self._at = 0.0
        self._seen = 0

    def forget(self) -> None:
        """Begins again with the next picture: another connection, perhaps another view."""
        self._background = None

    def compare(self, luma: Luma) -> MotionResult:
        """Judges a picture against the background without learning from it."""
        if self._background is None or self._seen < WARM_UP_PICTURES or self._background.shape != luma.shape:
            return MotionResult(False, 0.0)
        mask, _, _ = self._foreground(luma.astype(np.float32), self._background)
        return self._judge(mask)

    def update(self, luma: Luma, at: float) -> MotionResult:
        """Judges the next picture, taken at `at` (seconds, any origin), and learns from it."""
        plane = luma.astype(np.float32)
        if self._background is None or self._background.shape != plane.shape:
            self._restart(plane, at)
            self._seen = 1
            return MotionResult(False, 0.0)
        passed, self._at = max(0.0, at - self._at), at
        if self._seen < WARM_UP_PICTURES:
            self._seen += 1
            _, gain, offset = self._foreground(plane, self._background)
            fitted = gain * self._background + offset
            self._background = (fitted + (plane - fitted) / self._seen).astype(np.float32)
            self._previous = plane
            return MotionResult(False, 0.0)
        mask, gain, offset = self._foreground(plane, self._background)
        if np.count_nonzero(mask) > GLOBAL_SHARE * mask.size:
            self._restart(plane, at)
            return MotionResult(False, 0.0)
        self._learn(plane, mask, gain, offset, passed)
        return self._judge(mask)

    def _judge(self, mask: Luma) -> MotionResult:
        count, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        area = max((int(stats[i, cv2.CC_STAT_AREA]) for i in range(1, count)), default=0) / mask.size
        return MotionResult(area >= self._min_area, area)

    def _foreground(self, plane: _Plane, background: _Plane) -> tuple[Luma, float, float]:
        """Where the picture stands out (0 and 1), and the (gain, offset) that fit the background to it."""
        gain, offset = fit_light(background, plane)
        expected = np.clip(gain * background + offset, 0, 255)
        moved = abs((gain - 1) * 128 + offset)
        limit = self._threshold + max(0.0, moved - _RELIGHT) / 2
        different = np.abs(plane - expected) > limit
        if moved > _RELIGHT / 2:  # a clipped point has no known brightness under another light
            for one in (background, plane):
                different &= (one > _CLIPPED) & (one < 255 - _CLIPPED)
        mask = cv2.morphologyEx(different.astype(np.uint8), cv2.MORPH_OPEN, _SPECK)
        mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, _PARTS)  # windows, stripes and wheels of one car
        return mask.astype(np.uint8, copy=False), gain, offset

    def _learn(self, plane: _Plane, mask: Luma, gain: float, offset: float, passed: float) -> None:
        assert self._background is not None
        assert self._previous is not None
        assert self._still is not None
        background = gain * self._background + offset  # under the picture's light
        share = 1 - math.exp(-passed / LEARN_SECONDS)
        outside = mask == 0
        background[outside] += share * (plane - background)[outside]
        unchanged = np.abs(plane - (gain * self._previous + offset)) <= self._threshold
        unchanged |= np.abs(plane - self._previous) <= self._threshold
        self._still = np.where(~outside & unchanged, self._still + passed, 0).astype(np.float32)
        settled = self._still >= STILL_SECONDS
        background[settled] = plane[settled]
        self._still[settled] = 0
        self._background = background.astype(np.float32, copy=False)
        self._previous = plane

    def _restart(self, plane: _Plane, at: float) -> None:
        self._background = plane.copy()
        self._previous = plane
        self._still = np.zeros_like(plane)
        self._at = at


def fit_light(background: _Plane, plane: _Plane) -> tuple[float, float]:
    """(gain, offset) with which the background's brightness is the picture's, whatever moves in less than half of it.

    Of three first guesses (another offset, another gain, both) the one with the smallest median error, then least squares
    twice over the points that the fit before explains.
    """
    x, y = background[::2, ::2].ravel(), plane[::2, ::2].ravel()
    usable = (x > _CLIPPED) & (x < 255 - _CLIPPED) & (y > _CLIPPED) & (y < 255 - _CLIPPED)
    if np.count_nonzero(usable) < usable.size // 10:
        return 1.0, 0.0
    x, y = x[usable], y[usable]
    x_mid, y_mid = float(np.median(x)), float(np.median(y))
    spreads = float(np.median(np.abs(x - x_mid))), float(np.median(np.abs(y - y_mid)))
    gains = [1.0, float(np.median(y / x)), spreads[1] / spreads[0] if spreads[0] > 4 else 1.0]
    guesses = [(1.0, float(np.median(y - x))), (gains[1], 0.0), (gains[2], y_mid - gains[2] * x_mid)]
    errors = [np.abs(y - gain * x - offset) for gain, offset in guesses]
    best = min(range(3), key=lambda i: float(np.median(errors[i])))
    (gain, offset), left = guesses[best], errors[best]
    for _ in range(2):
        near = left <= max(4.0, 2.5 * float(np.median(left)))
        a, b = x[near], y[near]
        a_mean, b_mean = float(a.mean()), float(b.mean())
        spread = float(((a - a_mean) ** 2).mean())
        if spread > 25:
            gain = min(_MAX_GAIN, max(1 / _MAX_GAIN, float(((a - a_mean) * (b - b_mean)).mean()) / spread))
        offset = b_mean - gain * a_mean
        left = np.abs(y - gain * x - offset)
    return gain, offset
