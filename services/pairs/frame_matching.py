"""Which frames of two sides belong together: one pair a camera or camera angle.

They are the two that are closest in time; or, of each side's frames around these two, the sharpest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

from models.entities import Frame

AROUND = 600.0  # seconds from the frame that is closest in time within which a sharper one may take its place
Choose = Literal["nearest", "sharpest"]
By = Literal["camera_id", "camera_angle"]
Code = Literal["no_frame", "same_frame", "no_camera_angle"]
Missing = tuple[str | None, Literal["before", "after"], Code]


def match(
    before: Sequence[Frame], after: Sequence[Frame], by: By, choose: Choose = "nearest"
) -> tuple[list[tuple[Frame, Frame]], list[Missing]]:
    """The pairs by key, and the keys that have none. Both sides are sorted by capture time."""
    sides = _by_key(before, by), _by_key(after, by)
    pairs: list[tuple[Frame, Frame]] = []
    missing: list[Missing] = []
    for side, name in zip(sides, ("before", "after"), strict=True):
        if side.pop("", None):
            missing.append((None, "before" if name == "before" else "after", "no_camera_angle"))
    for key in sorted(sides[0].keys() | sides[1].keys()):
        ours, theirs = sides[0].get(key, []), sides[1].get(key, [])
        if not ours or not theirs:
            missing.append((key, "after" if ours else "before", "no_frame"))
        elif (found := _nearest(ours, theirs)) is not None:
            if choose == "sharpest":
                first = _sharpest(found[0], ours, not_this=found[1])
                found = first, _sharpest(found[1], theirs, not_this=first)
            pairs.append(found)
        else:
            missing.append((key, "after", "same_frame"))
    return pairs, missing


def _by_key(frames: Sequence[Frame], by: By) -> dict[str, list[Frame]]:
    found: dict[str, list[Frame]] = defaultdict(list)
    for frame in frames:
        found[frame.camera_id if by == "camera_id" else str(frame.meta.get("camera_angle") or "")].append(frame)
    return found


def _nearest(before: list[Frame], after: list[Frame]) -> tuple[Frame, Frame] | None:
    """The two that are closest in time; None when both sides are one and the same frame. In one walk over both."""
    best: tuple[float, Frame, Frame] | None = None
    n = 0
    for frame in before:
        while n < len(after) and after[n].capture_timestamp < frame.capture_timestamp:
            n += 1
        for other in after[max(0, n - 1) : n + 2]:
            apart = abs((other.capture_timestamp - frame.capture_timestamp).total_seconds())
            if other.id != frame.id and (best is None or apart < best[0]):
                best = apart, frame, other
    return best[1:] if best is not None else None


def _sharpest(nearest: Frame, frames: list[Frame], not_this: Frame) -> Frame:
    """Of the frames around `nearest` the sharpest; of two as sharp, the one closer to it. Sharpness is comparable within one
    camera and size only, so that others, and frames that were not judged, are left out: `nearest` itself stays then."""

    def comparable(frame: Frame) -> bool:
        same = (frame.camera_id, frame.width, frame.height) == (nearest.camera_id, nearest.width, nearest.height)
        return same and frame.quality is not None and frame.id != not_this.id and _apart(frame, nearest) <= AROUND

    found = [frame for frame in frames if comparable(frame)]
    return max(found, key=lambda frame: ((frame.quality or {})["sharpness"], -_apart(frame, nearest)), default=nearest)


def _apart(one: Frame, other: Frame) -> float:
    return abs((one.capture_timestamp - other.capture_timestamp).total_seconds())
