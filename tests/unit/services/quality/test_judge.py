"""What is told of made faults over real pictures. The tables over all of them: docs/quality.md."""

from __future__ import annotations

from copy import deepcopy
from itertools import islice

import numpy as np
import pytest

from models.values import QualityVerdict
from services.quality.judge import MIN_LEARNT, Judge
from services.quality.measures import Measures, measure, packed, unpacked
from services.quality.sharpness import sharpness
from tests.kits.poor_pictures import FAULTS, LEARN, camera, demo_film, grey, judged, learnt, seen, with_fault

HALF = 2  # pictures at half of their size: a quarter of the time
NAMES = ("motorcycle", "demo")
AT = 1_000_000.0


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", NAMES)
def test_each_fault_is_told_with_its_reason(name: str, fault: str) -> None:
    reason, _ = FAULTS[fault]
    found = with_fault(name, fault, part=HALF)
    assert any(reason in quality.reasons for quality in found)
    if reason not in ("moved", "covered"):  # what has moved is fit by itself; two fifths covered may be suspect
        assert found[-1].verdict is QualityVerdict.BAD


@pytest.mark.parametrize("name", NAMES)
def test_a_camera_that_nothing_is_wrong_with_is_good(name: str) -> None:
    found = judged(deepcopy(learnt(name, 3, HALF)), camera(grey(name, HALF), 99), 40, LEARN)
    assert [quality.verdict for quality in found] == [QualityVerdict.GOOD] * 40


@pytest.mark.parametrize("weather", ["rain", "dirt"])
def test_weather_is_no_fault(weather: str) -> None:
    found = judged(Judge(60, capture=True), demo_film(weather), LEARN + 15)
    assert all(quality.verdict is not QualityVerdict.BAD for quality in found)


def test_before_a_baseline_only_what_is_unusable_is_told() -> None:
    soft = [*islice(camera(grey("demo", HALF), 3), 2)]
    judge = Judge(60, capture=True)
    assert judge.judge(seen(soft[0]), AT).verdict is QualityVerdict.GOOD
    black = judge.judge(seen(np.zeros_like(soft[0])), AT + 1)
    assert (black.verdict, set(black.reasons)) == ("bad", {"dark", "flat"})
    assert judge.learnt == 1 < MIN_LEARNT


def test_what_is_bad_is_never_learnt_however_long_it_lasts() -> None:
    judge = deepcopy(learnt("demo", 3, HALF))
    before = judge.to_row()[0]["figures"]["brightness"]
    dark = seen((grey("demo", HALF) // 50).astype(np.uint8))
    assert all(judge.judge(dark, AT + 1000 + n).verdict == "bad" for n in range(200))
    assert judge.to_row()[0]["figures"]["brightness"] == before


def test_another_size_begins_anew_and_so_does_another_view() -> None:
    judge = deepcopy(learnt("demo", 3, HALF))
    judge.judge(seen(grey("demo", 1)), AT + 100)
    assert judge.learnt == 1
    turned = deepcopy(learnt("demo", 3, HALF))
    found = judged(turned, (picture[:, ::-1] for picture in camera(grey("demo", HALF), 50)), 30, LEARN)
    first = next(n for n, quality in enumerate(found) if "moved" in quality.reasons)
    assert first == 5  # after five seconds, not for something that passes
    assert found[-1].verdict is QualityVerdict.GOOD  # the new view is what it is judged by
    assert turned.learnt < LEARN


def test_a_still_scene_widens_what_counts_as_frozen() -> None:
    judge, still = deepcopy(learnt("demo", 3, HALF)), seen(grey("demo", HALF))
    lasted = []
    other = judged(Judge(60, capture=True), camera(grey("demo", HALF), 8), 1)[0].measures
    at = AT + 100
    for _ in range(3):
        first = next(n for n in range(200) if "frozen" in judge.judge(still, at + n).reasons)
        judge.judge(other, at + first + 1)
        lasted.append(first)
        at += first + 2
    assert lasted == [10, 20, 40]  # a freeze widens it by twice at most, however long it lasts


def test_what_was_shown_in_a_gap_is_not_known() -> None:
    """Between two events of a capture minutes pass, and the empty track looks the same before and after."""
    judge, still = deepcopy(learnt("demo", 3, HALF)), seen(grey("demo", HALF))
    for n in range(4):
        assert judge.judge(still, AT + 100 + 0.2 * n).verdict is QualityVerdict.GOOD
    found = [judge.judge(still, AT + 700 + 0.2 * n) for n in range(4)]
    assert [quality.verdict for quality in found] == [QualityVerdict.GOOD] * 4
    assert found[0].frozen_s == 0.0


def test_the_same_picture_of_another_capture_is_judged_once_and_a_late_one_is_not_learnt() -> None:
    judge, first = Judge(60, capture=True), seen(grey("demo", HALF))
    told = judge.judge(first, AT)
    assert judge.judge(first, AT) is told
    assert judge.judge(first, AT - 5).frozen_s == 0.0
    assert judge.learnt == 1


def test_a_baseline_goes_on_from_its_row() -> None:
    judge, resumed = deepcopy(learnt("demo", 3, HALF)), Judge(60, capture=True)
    row, scene = judge.to_row()
    assert scene is not None
    assert len(scene) < 65_536
    assert resumed.take_row(row, scene)
    assert resumed.learnt == judge.learnt
    blurred = FAULTS["blur, sigma 4"][1](grey("demo", HALF))
    assert resumed.judge(seen(blurred), AT + 500).reasons == judge.judge(seen(blurred), AT + 500).reasons != ()


@pytest.mark.parametrize("broken", [{}, {"version": 1}, {"version": 99}, {"version": 1, "size": [1, 2], "figures": 3}])
def test_a_row_of_another_version_is_left_alone(broken: dict[str, object]) -> None:
    judge = deepcopy(learnt("demo", 3, HALF))
    assert not judge.take_row(broken, b"nothing")
    assert judge.learnt == LEARN


def test_uploads_are_neither_frozen_nor_moved() -> None:
    judge = Judge(60, capture=False)
    found = [judge.judge(seen(grey("demo", HALF)), AT + n) for n in range(30)]
    found += [judge.judge(seen(np.ascontiguousarray(grey("demo", HALF)[:, ::-1])), AT + n) for n in range(30)]
    assert {reason for quality in found for reason in quality.reasons} <= {"covered"}
    assert all(quality.frozen_s is None for quality in found)


def test_measures_survive_the_way_from_a_worker_and_nonsense_does_not() -> None:
    measures = seen(grey("demo", HALF))
    numbers, view = packed(measures)
    again = unpacked(numbers, view)
    assert isinstance(again, Measures)
    assert again[:-1] == measures[:-1]
    assert (again.view == measures.view).all()
    for bad in (numbers[:-1], [*numbers[:2], float("nan"), *numbers[3:]], [-1, *numbers[1:]], [*numbers[:-1], 9_999]):
        assert unpacked(bad, view) is None
    assert unpacked(numbers, view[:-1]) is None


def test_video_levels_are_told_as_full_range() -> None:
    full = grey("demo", HALF)
    limited = np.rint(16 + full.astype(np.float32) * 219 / 255).astype(np.uint8)
    a, b = measure(full, 480, 270), measure(limited, 480, 270, limited=True)
    assert abs(a.brightness - b.brightness) < 1
    assert b.sharpness == pytest.approx(a.sharpness, rel=0.05)


def test_sharpness_falls_with_blur_and_is_nothing_of_one_colour() -> None:
    picture = grey("motorcycle")
    values = [sharpness(FAULTS[f"blur, sigma {sigma}"][1](picture)) for sigma in ("1 of 960", "2", "4", "10")]
    assert values == sorted(values, reverse=True)
    assert sharpness(picture) > values[0] > 2 * values[1]
    assert sharpness(np.full((40, 60), 93, np.uint8)) == 0.0
    assert sharpness(np.zeros((1, 1), np.uint8)) == 0.0
