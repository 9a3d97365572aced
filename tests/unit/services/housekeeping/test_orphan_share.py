"""Orphans are judged by folder and by day, not only among all objects of the bucket."""

from __future__ import annotations

from services.housekeeping.orphan_share import Limits, OrphanPlaces, Tally

LIMITS = Limits(min_orphans=10, max_share=0.1)
DAY = "frames/2026/05/04"


def test_a_folder_with_too_many_orphans_is_held_and_the_next_is_judged_by_itself() -> None:
    places = OrphanPlaces().with_window(f"{DAY}/a/x", 900, 5, LIMITS)
    assert not places.stopped
    assert (places.folder, places.day) == (Tally("2026/05/04/a", 900, 5), Tally("2026/05/04", 900, 5))
    places = places.with_window(f"{DAY}/b/x", 40, 12, LIMITS)
    assert (places.folder.stopped, places.day.stopped, places.held) == (True, False, 12)
    places = places.with_window(f"{DAY}/b/y", 1000, 0, LIMITS)
    assert places.folder.stopped, "what came first was too much: the rest of the folder does not change that"
    places = places.with_window(f"{DAY}/c/x", 900, 3, LIMITS)
    assert (places.folder, places.stopped, places.held) == (Tally("2026/05/04/c", 900, 3), False, 12)


def test_a_day_with_too_many_orphans_in_many_folders_is_held() -> None:
    places = OrphanPlaces()
    for camera in "abc":
        places = places.with_window(f"{DAY}/{camera}/x", 20, 5, LIMITS)
        assert not places.folder.stopped, "too few orphans in each"
    assert (places.day.seen, places.day.orphans, places.day.stopped) == (60, 15, True)
    assert places.with_window("frames/2026/05/05/a/x", 20, 5, LIMITS).day == Tally("2026/05/05", 20, 5)


def test_few_orphans_hold_nothing() -> None:
    assert not OrphanPlaces().with_window(f"{DAY}/a/x", 9, 9, LIMITS).stopped


def test_the_state_survives_a_pass_that_is_cut_off() -> None:
    places = OrphanPlaces().with_window(f"{DAY}/a/x", 40, 12, LIMITS)
    assert OrphanPlaces.read(places.to_json()) == places
    assert OrphanPlaces.read({}) == OrphanPlaces()
