"""Cameras of a grant: exact ids and prefixes, nothing cleverer."""

from __future__ import annotations

import pytest

from models.access import ALL_CAMERAS, NO_CAMERAS, CameraGrant


def test_exact_ids_and_prefixes() -> None:
    grant = CameraGrant.of(["pit-1", "lane_*"])
    assert grant.covers("pit-1")
    assert grant.covers("lane_")
    assert grant.covers("lane_7")
    for alien in ("pit-10", "pit-", "Pit-1", "laneX7", "lane", "", "xlane_7"):
        assert not grant.covers(alien)
    assert CameraGrant.of(["*"]).covers("anything")
    assert ALL_CAMERAS.covers("x")
    assert not NO_CAMERAS.covers("x")
    assert CameraGrant.of([]) == NO_CAMERAS


@pytest.mark.parametrize("pattern", ["", "a b", "*a", "a*b", "a**", "%", "a?", "ü", "x" * 101, "a\n"])
def test_what_is_no_pattern(pattern: str) -> None:
    with pytest.raises(ValueError):
        CameraGrant.of([pattern])
