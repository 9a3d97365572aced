"""Which frames of two sides belong together: one pair a camera or camera angle, the two that are closest in time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

from models.entities import Frame

By = Literal["camera_id", "camera_angle"]
Code = Literal["no_frame", "same_frame", "no_camera_angle"]
Missing = tuple[str | None, Literal["before", "after"], Code]


def match(before: Sequence[Frame], after: Sequence[Frame], by: By) -> tuple[list[tuple[Frame, Frame]], list[Missing]]:
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
