"""What counts as a change: real photographs, changed by code. The table over all of them: docs/pairs.md."""

from __future__ import annotations

import numpy as np
import pytest

from services.pairs.pair_jobs import align, view
from services.rtsp_capture.media.seen import detach_seen
from tests.kits.changed import HARMLESS, jpeg, patched, photograph

MAX_PIXELS = 1_000_000
QUIET, SEEN = 0.002, 0.006  # shares: what no change may reach, and what a patch of 1 % must


def aligned(before: bytes, after: bytes, max_pixels: int = MAX_PIXELS) -> dict[str, object]:
    answer, rest = align([len(before), len(after)], max_pixels, before + after)
    assert detach_seen(answer, rest, 2) == ([None, None], b"")  # neither is a source picture
    return answer


@pytest.mark.parametrize("change", HARMLESS)
def test_a_patch_of_one_per_cent_is_seen_and_what_a_camera_does_is_not(change: str) -> None:
    picture = photograph("chelsea")
    before = jpeg(picture)
    quiet = aligned(before, jpeg(HARMLESS[change](picture)))
    assert quiet["status"] in ("aligned", "same_size")
    assert quiet["changed_share"] < QUIET, quiet  # type: ignore[operator]
    sticker, (x, y, side) = patched(picture, seed=3)
    seen = aligned(before, jpeg(HARMLESS[change](sticker)))
    assert seen["changed_share"] > SEEN, seen  # type: ignore[operator]
    region = seen["regions"][0]  # type: ignore[index]
    middle = region["x"] + region["width"] / 2, region["y"] + region["height"] / 2
    assert abs(middle[0] - x - side / 2) < side / 2
    assert abs(middle[1] - y - side / 2) < side / 2
    assert len(seen["regions"]) <= 20  # type: ignore[arg-type]


def test_the_matrix_maps_pixels_of_after_onto_those_of_before() -> None:
    picture = photograph("astronaut")
    after = np.ascontiguousarray(picture[30:, 12:])  # what was at (12, 30) is at (0, 0): unlike sizes
    found = aligned(jpeg(picture), jpeg(after))
    assert found["status"] == "aligned"
    matrix = np.array(found["matrix"]).reshape(3, 3)
    for x, y in ((50, 50), (400, 60), (250, 400)):
        point = matrix @ (x, y, 1.0)
        assert np.hypot(point[0] / point[2] - x - 12, point[1] / point[2] - y - 30) < 1.0
    assert 0.85 < found["overlap"] < 0.97  # type: ignore[operator]


def test_what_cannot_be_aligned_says_why() -> None:
    picture = jpeg(photograph("astronaut"))
    one_colour = jpeg(np.full((300, 400, 3), 90, np.uint8))
    assert aligned(picture, one_colour) == {"status": "failed", "reason": "one_colour"}
    assert aligned(one_colour, one_colour) == {"status": "failed", "reason": "one_colour"}
    assert aligned(picture, jpeg(photograph("coffee"))) == {"status": "failed", "reason": "too_few_inliers"}
    assert aligned(picture, picture[:40]) == {"status": "failed", "reason": "invalid_image"}
    assert aligned(picture, picture, max_pixels=1000) == {"status": "failed", "reason": "image_too_large"}


@pytest.mark.parametrize("kind", ["before", "after", "aligned", "side", "blend", "difference"])
def test_views_are_pictures(kind: str) -> None:
    picture = photograph("chelsea")
    before, after = jpeg(picture), jpeg(HARMLESS["shift by 20 px"](patched(picture, seed=3)[0]))
    matrix = aligned(before, after)["matrix"]
    sizes = [len(before), len(after)]
    answer, data = view(sizes, MAX_PIXELS, kind, 320, matrix, before + after)  # type: ignore[arg-type]
    assert data.startswith(b"\x89PNG" if kind == "difference" else b"\xff\xd8")
    assert detach_seen(answer, data, 2)[0] == [None, None]
    assert answer == {"content_type": "image/png" if kind == "difference" else "image/jpeg"}
