"""Whether a picture is fit to be compared, judged against its camera's own recent pictures. Pure: time is an argument.

A `Judge` has one camera's baseline: the figures of its last pictures, of which it takes medians, how much structure each
part of the picture usually has, and the scene (its structure with light and contrast taken out). Learnt from pictures that
are not bad, one a LEARN_INTERVAL at most, so that a fast capture's baseline reaches as far back as a slow one's. What is bad
is never learnt: a camera that is out of focus stays so, however long it lasts. Before MIN_LEARNT pictures only what is
unusable whatever the camera is told: black, white, one colour.

Longer than 250 lines: what each reason is measured by, and the state that it needs, are read together.
"""

from __future__ import annotations

import math
import statistics
import zlib
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models.values import QualityReason, QualityVerdict
from services.quality.measures import VIEW, Measures

MIN_LEARNT = 5  # pictures before anything is judged by the camera's own
LEARN_INTERVAL = 1.0  # seconds of capture time between two pictures that are learnt from
CELLS = (9, 16)  # rows and columns of parts
FROZEN_SECONDS = 10.0  # the same picture for so long, at least, is frozen
FROZEN_PICTURES = 3  # and in so many pictures
GAP_SECONDS = 30.0  # between two pictures, beyond which nobody knows what was shown; of slow captures GAPS of the usual
GAPS = 3
MOVED_SECONDS = 5.0  # another scene for so long, and in MOVED_PICTURES pictures, is another view for good
MOVED_PICTURES = 5
COVERED_SECONDS = 3.0  # a part without structure for so long is covered; before, something passes by

_BLACK, _WHITE, _ONE_COLOUR = 0.98, 0.95, 3.0  # shares, and grey levels of contrast: unusable, whatever the camera
_SOFT, _BLURRED = 0.5, 0.25  # of the usual sharpness: suspect, bad
_SPREADS = (4.0, 7.0)  # the same in spreads of a camera whose sharpness varies by itself: the wider one counts
_LOST = 0.3  # of its usual structure: a part that has less has lost it
_COVERED = (0.2, 0.35)  # shares of the parts with structure: suspect, bad
_STEADY = 0.5  # likeness of a camera's pictures to its scene from which its view counts as fixed
_OTHER, _HIDDEN = 0.65, 0.5  # of its usual likeness: another scene; so little that blur is no reason
_STILL = (0.02, 0.25, 0.5)  # grey levels between two pictures that are one: at least, share of the usual, at most
_WORST_FIRST = ("flat", "dark", "bright", "covered", "frozen", "blurred", "moved")
_VERSION = 1

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Quality:
    """A judgement, as FrameInfo.quality tells it."""

    verdict: QualityVerdict
    reasons: tuple[QualityReason, ...]
    measures: Measures
    frozen_s: float | None

    def to_json(self) -> dict[str, Any]:
        seen = self.measures
        return {
            "verdict": self.verdict.value, "reasons": [reason.value for reason in self.reasons],
            "sharpness": round(seen.sharpness, 2), "brightness": round(seen.brightness, 2),
            "contrast": round(seen.contrast, 2), "dark_share": round(seen.dark_share, 4),
            "bright_share": round(seen.bright_share, 4),
            "frozen_s": None if self.frozen_s is None else round(self.frozen_s, 3),
        }  # fmt: skip


@dataclass(slots=True)
class _Before:
    """The picture before, and since when it has been the same one."""

    view: NDArray[np.uint8]
    at: float
    same_since: float
    same: int = 1


@dataclass(slots=True)
class _Span:
    """A finding that counts once it has lasted."""

    since: float
    pictures: int
    scene: Array | None = None


@dataclass(slots=True)
class _Found:
    bad: set[str] = field(default_factory=set)
    suspect: set[str] = field(default_factory=set)

    def add(self, reason: str, measure: float, suspect: float, bad: float) -> None:
        """`measure` at or beyond one of the two, upwards."""
        if measure >= bad:
            self.bad.add(reason)
        elif measure >= suspect:
            self.suspect.add(reason)

    def judged(self, seen: Measures, frozen_s: float | None) -> Quality:
        verdict = QualityVerdict.BAD if self.bad else QualityVerdict.SUSPECT if self.suspect else QualityVerdict.GOOD
        reasons = tuple(QualityReason(name) for name in _WORST_FIRST if name in self.bad | self.suspect)
        return Quality(verdict, reasons, seen, frozen_s)


class Judge:
    """One camera's. Not to be used by two threads at once."""

    def __init__(self, frames: int, *, capture: bool) -> None:
        """`frames`: pictures of the baseline. `capture`: pictures follow each other in time; of uploads frozen and moved are
        not told."""
        self._frames = frames
        self._capture = capture
        self._begin((0, 0))
        self._before: _Before | None = None
        self._last: tuple[float, Quality] | None = None
        self._intervals: deque[float] = deque(maxlen=11)  # seconds between pictures
        self.learnt_total = 0  # rises with every picture that is learnt: what is kept elsewhere is old when it has risen

    def _begin(self, size: tuple[int, int]) -> None:
        """Anew: another size, another view."""
        self._size = size
        self._log_sharpness: deque[float] = deque(maxlen=self._frames)
        self._log_detail: deque[float] = deque(maxlen=self._frames)
        self._brightness: deque[float] = deque(maxlen=self._frames)
        self._contrast: deque[float] = deque(maxlen=self._frames)
        self._bright: deque[float] = deque(maxlen=self._frames)
        self._change: deque[float] = deque(maxlen=self._frames)
        self._structure: Array | None = None  # of each part
        self._scene: Array | None = None
        self._likeness = 0.0  # usual, of a picture to the scene
        self._longest_same = 0.0
        self._learnt_at = -math.inf
        self._other: _Span | None = None
        self._covered: _Span | None = None
        self._new_view = 0  # pictures for which `moved` is still told

    @property
    def learnt(self) -> int:
        """Pictures that the baseline has."""
        return len(self._log_sharpness)

    def judge(self, seen: Measures, at: float) -> Quality:
        """The next picture, taken at `at` (seconds since the epoch). The same picture again, of another capture, gets the
        same judgement; one from before the last is judged, and not learnt from."""
        if self._last is not None and abs(at - self._last[0]) < 1e-4 and self._capture:
            return self._last[1]
        if (seen.width, seen.height) != self._size:
            self._begin((seen.width, seen.height))
            self._before = None
        late = self._capture and self._last is not None and at < self._last[0]
        found, frozen_s = _Found(), None
        self._absolute(seen, found)
        parts, scene = _parts(seen.view), _scene(seen.view)
        same = False
        if self._capture:
            frozen_s, same = (0.0, False) if late else self._frozen(seen, at, found)
        if self.learnt >= MIN_LEARNT:
            self._light(seen, found)
            likeness = _alike(scene, self._scene)
            lost = self._lost(parts)
            self._sharp(seen, found)
            self._cover(lost, likeness, at, found)
            if self._capture and not late and not found.bad and self._moved(scene, likeness, at):
                self._begin(self._size)
                self._new_view = MIN_LEARNT
        if self._new_view and not found.bad:
            self._new_view -= 1
            found.suspect.add("moved")
        quality = found.judged(seen, frozen_s)
        if not late:
            fresh = not 0 <= at - self._learnt_at < LEARN_INTERVAL or not self._capture
            if fresh and not found.bad and not same and self._other is None:
                self._learn(seen, parts, scene, at)
            self._last = at, quality
        return quality

    def aside(self, seen: Measures, at: float) -> Quality:
        """A picture that is looked at out of its order: by what it shows alone, and nothing is learnt from it."""
        found = _Found()
        self._absolute(seen, found)
        if self.learnt >= MIN_LEARNT and (seen.width, seen.height) == self._size:
            self._light(seen, found)
            self._sharp(seen, found)
            covered, self._covered = self._covered, None
            self._cover(self._lost(_parts(seen.view)), _alike(_scene(seen.view), self._scene), at, found)
            self._covered = covered
        return found.judged(seen, None)

    # -- reasons -----------------------------------------------------------------------------------------------

    @staticmethod
    def _absolute(seen: Measures, found: _Found) -> None:
        """Unusable, whatever the camera usually shows."""
        found.add("dark", seen.dark_share, 2.0, _BLACK)
        found.add("bright", seen.bright_share, 2.0, _WHITE)
        found.add("flat", -seen.contrast, 2.0, -_ONE_COLOUR)

    def _light(self, seen: Measures, found: _Found) -> None:
        usual = max(1.0, statistics.median(self._brightness))
        found.add("dark", -seen.brightness / usual, -0.4, -0.2)
        more = seen.bright_share - statistics.median(self._bright)
        found.add("bright", more, 0.3, 0.6)
        found.add("flat", -seen.contrast / max(1.0, statistics.median(self._contrast)), -0.35, -0.15)

    def _sharp(self, seen: Measures, found: _Found) -> None:
        """Blurred: less fine structure than usual, both for itself and for the picture's contrast: dusk lowers the first
        alone."""
        if found.bad & {"dark", "flat", "bright"}:
            return
        steps = []
        for kept, value in ((self._log_sharpness, _log(seen.sharpness)), (self._log_detail, _detail(seen))):
            middle, spread = _spread(kept)
            limits = [max(-math.log(one), wide * spread) for one, wide in zip((_SOFT, _BLURRED), _SPREADS, strict=True)]
            steps.append(sum(middle - value >= limit for limit in limits))
        found.add("blurred", min(steps), 1.0, 2.0)

    def _lost(self, parts: Array) -> float:
        """The share of parts with structure that have lost it, at most 1. Parts of which three quarters are as usual but
        weaker are under another light."""
        if self._structure is None or self._structure.shape != parts.shape:
            return 0.0
        usual = self._structure.ravel()
        middle = float(np.partition(usual, usual.size // 2)[usual.size // 2])  # numpy's own median takes five times as long
        rich = usual >= max(2.0, 0.25 * middle)
        if np.count_nonzero(rich) < 8:
            return 0.0
        share = np.sort(parts.ravel()[rich] / usual[rich])
        light = min(1.0, float(share[round(0.75 * (share.size - 1))]))
        if light < _LOST:
            return 1.0
        return float(np.searchsorted(share, _LOST * light)) / share.size

    def _cover(self, lost: float, likeness: float, at: float, found: _Found) -> None:
        """Covered: where there was structure, there is none, and it lasts. All of it at once without another light or
        blur: something lies on the lens."""
        steady = self._likeness >= _STEADY
        whole = lost >= 1.0 and likeness < _HIDDEN * self._likeness
        if not steady or lost < _COVERED[0] or (lost >= 1.0 and not whole) or found.bad & {"dark", "bright"}:
            self._covered = None
            return
        if self._covered is None or at < self._covered.since:
            self._covered = _Span(at, 0)
        self._covered.pictures += 1
        lasted = not self._capture or (self._covered.pictures >= 2 and at - self._covered.since >= COVERED_SECONDS)
        if lost >= _COVERED[1] and lasted:
            found.bad.add("covered")
        else:
            found.suspect.add("covered")
        if whole:
            found.bad.discard("blurred")
            found.suspect.discard("blurred")

    def _frozen(self, seen: Measures, at: float, found: _Found) -> tuple[float, bool]:
        """For how long the picture has been the same, and whether it is the same as the one before."""
        before = self._before
        if self._last is not None:
            self._intervals.append(at - self._last[0])
        apart = max(GAP_SECONDS, GAPS * statistics.median(self._intervals)) if self._intervals else GAP_SECONDS
        if before is None or before.view.shape != seen.view.shape or at - before.at > apart:
            self._before = _Before(seen.view, at, at)
            return 0.0, False
        change = float(cv2.norm(seen.view, before.view, cv2.NORM_L1)) / seen.view.size
        usual = statistics.median(self._change) if self._change else 0.0
        same = change <= max(_STILL[0], min(_STILL[1] * usual, _STILL[2]))
        limit = max(FROZEN_SECONDS, 2 * self._longest_same)
        if same:
            before.at, before.same = at, before.same + 1
            frozen_s = at - before.same_since
            empty = found.bad & {"dark", "bright", "flat"}  # nothing is in it that could move
            if frozen_s >= limit and before.same >= FROZEN_PICTURES and not empty:
                found.bad.add("frozen")
            return frozen_s, True
        # A scene that stands still by itself widens the limit, but one long freeze by no more than twice.
        self._longest_same = max(self._longest_same, min(before.at - before.same_since, limit))
        self._change.append(change)
        self._before = _Before(seen.view, at, at)
        return 0.0, False

    def _moved(self, scene: Array, likeness: float, at: float) -> bool:
        """Whether the camera shows another scene, and for good."""
        if self._likeness < _STEADY or likeness >= _OTHER * self._likeness:
            self._other = None
            return False
        other = self._other
        if other is None or other.scene is None or _alike(scene, other.scene) < _OTHER * self._likeness:
            self._other = _Span(at, 1, scene)
            return False
        other.pictures += 1
        return other.pictures >= MOVED_PICTURES and at - other.since >= MOVED_SECONDS

    # -- the baseline ------------------------------------------------------------------------------------------

    def _learn(self, seen: Measures, parts: Array, scene: Array, at: float) -> None:
        share = 1 / min(self.learnt + 1, self._frames)
        if self._structure is None or self._scene is None or self._scene.shape != scene.shape:
            self._structure, self._scene = parts, scene
        else:
            if self.learnt >= 2:
                likeness = _alike(scene, self._scene)
                known = min(self.learnt - 1, self._frames)
                self._likeness += (likeness - self._likeness) / known
            self._structure = self._structure + share * (parts - self._structure)
            self._scene = self._scene + share * (scene - self._scene)
        self._log_sharpness.append(_log(seen.sharpness))
        self._log_detail.append(_detail(seen))
        self._brightness.append(seen.brightness)
        self._contrast.append(seen.contrast)
        self._bright.append(seen.bright_share)
        self._learnt_at = at
        self.learnt_total += 1

    def to_row(self) -> tuple[dict[str, Any], bytes | None]:
        """The baseline as it is kept."""
        scene = self._scene
        kept = {
            "version": _VERSION, "size": list(self._size), "likeness": round(self._likeness, 4),
            "longest_same": round(self._longest_same, 3),
            "figures": {name: [round(value, 4) for value in getattr(self, f"_{name}")] for name in _FIGURES},
            "structure": [] if self._structure is None else [round(float(v), 3) for v in self._structure.ravel()],
            "scene": [] if scene is None else list(scene.shape),
        }  # fmt: skip
        if scene is None:
            return kept, None
        return kept, zlib.compress(np.clip(scene * _SCALE, -127, 127).astype(np.int8).tobytes(), 1)

    def take_row(self, kept: dict[str, Any], scene: bytes | None) -> bool:
        """Goes on from a kept baseline. False, and nothing is changed, for one that this version cannot read."""
        try:
            if kept["version"] != _VERSION:
                return False
            size = (int(kept["size"][0]), int(kept["size"][1]))
            figures = {name: [float(value) for value in kept["figures"][name]] for name in _FIGURES}
            structure = np.asarray(kept["structure"], np.float32)
            shape = tuple(int(side) for side in kept["scene"])
            likeness, longest = float(kept["likeness"]), float(kept["longest_same"])
            picture = None
            if scene is not None:
                unpacker = zlib.decompressobj()
                raw = unpacker.decompress(scene, VIEW * VIEW)
                picture = np.frombuffer(raw, np.int8).reshape(shape).astype(np.float32) / _SCALE
            parts = structure.reshape(CELLS) if structure.size else None
        except (KeyError, IndexError, TypeError, ValueError, zlib.error):
            return False
        self._begin(size)
        for name, values in figures.items():
            getattr(self, f"_{name}").extend(values)
        self._structure, self._scene, self._likeness, self._longest_same = parts, picture, likeness, longest
        return True


_FIGURES = ("log_sharpness", "log_detail", "brightness", "contrast", "bright", "change")
_SCALE = 32.0  # of a scene's values, which lie within 4, to bytes


def _log(value: float) -> float:
    return math.log(max(value, 0.01))


def _detail(seen: Measures) -> float:
    """Fine structure for the picture's contrast, as a logarithm: the same at noon and at dusk."""
    return _log(seen.sharpness) - 2 * _log(seen.contrast)


def _spread(values: Iterable[float]) -> tuple[float, float]:
    """Median, and the median distance from it as a standard deviation."""
    kept = list(values)
    middle = statistics.median(kept)
    return middle, 1.4826 * statistics.median(abs(value - middle) for value in kept)


def _parts(view: NDArray[np.uint8]) -> Array:
    """How much structure each of the CELLS has: the mean change of grey from a point to its neighbours."""
    across = cv2.Scharr(view, cv2.CV_32F, 1, 0, scale=1 / 32)
    down = cv2.Scharr(view, cv2.CV_32F, 0, 1, scale=1 / 32)
    strength = cv2.magnitude(across, down)
    return np.asarray(cv2.resize(strength, CELLS[::-1], interpolation=cv2.INTER_AREA), np.float32)


def _scene(view: NDArray[np.uint8]) -> Array:
    """What the picture shows, whatever the light: each point against the mean and the spread around it."""
    plane = view.astype(np.float32)
    mean = cv2.blur(plane, (15, 15))
    spread = np.sqrt(np.maximum(cv2.blur(plane * plane, (15, 15)) - mean * mean, 0.0))
    soft = cv2.blur(plane, (3, 3))
    return np.asarray((soft - mean) / (spread + 4.0), np.float32)


def _alike(a: Array | None, b: Array | None) -> float:
    """How alike two scenes are, 0 to 1 (a correlation)."""
    if a is None or b is None or a.shape != b.shape:
        return 0.0
    product = float(np.vdot(a, b)) / math.sqrt(float(np.vdot(a, a)) * float(np.vdot(b, b)) + 1e-6)
    return max(0.0, product)
