"""Which frames are paired, and how far a sharper one may lie from the nearest."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

from models.entities import Frame
from services.pairs.frame_matching import AROUND, match

AT = datetime(2026, 5, 4, 13, 30, tzinfo=UTC)


def frame(at: float, sharpness: float | None, camera: str = "gate", width: int = 640) -> Frame:
    return Frame(
        id=uuid4(), camera_id=camera, capture_timestamp=AT + timedelta(seconds=at), width=width, height=360,
        quality=None if sharpness is None else {"sharpness": sharpness}, meta={"camera_angle": "front"},
    )  # fmt: skip


def test_sharpness_is_compared_within_one_camera_and_size_around_the_match() -> None:
    far, other_size, not_judged, sharp, near = (
        frame(-2 * AROUND, 900), frame(-4, 800, width=1920), frame(-3, None), frame(-2, 50), frame(-1, 40)
    )  # fmt: skip
    other_camera = frame(-5, 700, camera="lane")
    before = [far, other_camera, other_size, not_judged, sharp, near]
    after = [frame(0, 10)]
    assert match(before, after, "camera_angle", "nearest")[0] == [(near, after[0])]
    assert match(before, after, "camera_angle", "sharpest")[0] == [(sharp, after[0])]
    assert match(before, after, "camera_id", "sharpest")[1] == [("lane", "after", "no_frame")]


def test_frames_without_quality_are_matched_by_time() -> None:
    before, after = [frame(0, None), frame(1, None)], [frame(5, None), frame(6, None)]
    assert match(before, after, "camera_id", "sharpest")[0] == [(before[1], after[0])]


def test_a_frame_of_both_sides_is_not_paired_with_itself() -> None:
    frames = [frame(0, 10), frame(1, 90), frame(2, 20)]
    ((before, after),) = match(frames, frames, "camera_id", "sharpest")[0]
    assert before is not after
    assert {before.id, after.id} <= {one.id for one in frames}
    assert frames[1] in (before, after)
