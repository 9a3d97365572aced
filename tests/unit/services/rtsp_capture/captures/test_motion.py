"""Motion on synthetic pictures: objects of every speed are seen, light and noise are not."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from demo.scene import Scene
from services.rtsp_capture.captures.motion import STILL_SECONDS, WARM_UP_PICTURES, MotionModel, fit_light
from services.rtsp_capture.captures.motion_events import WIDTH, MotionEvents, MotionResult

HEIGHT = WIDTH * 9 // 16
THRESHOLD, MIN_AREA = 20.0, 0.005
Picture = NDArray[np.float64]


@cache
def backdrop(seed: int = 1) -> Picture:
    """The demo's pit straight without its car, as the service would see it."""
    scene = Scene(1280, 720, seed)
    grey = cv2.cvtColor(scene._background, cv2.COLOR_BGR2GRAY)
    return cv2.resize(grey, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA).astype(np.float64)


def as_luma(picture: Picture, noise: float = 1.5, seed: int = 0) -> NDArray[np.uint8]:
    grain = noise * np.random.default_rng(seed).standard_normal(picture.shape, np.float32) if noise else 0.0
    return np.clip(picture + grain, 0, 255).astype(np.uint8)


def with_car(picture: Picture, left: float, width: int = 60, height: int = 20, top: int = 55, grey: float = 200) -> Picture:
    made = picture.copy()
    a, b = max(0, round(left)), min(WIDTH, round(left) + width)
    if b > a:
        made[top : top + height, a:b] = grey
        made[top + height // 3 : top + height // 2, a:b] = grey / 3
    return made


class Eye:
    """Looks at pictures at a rate; keeps what it was told."""

    def __init__(self, threshold: float = THRESHOLD, min_area: float = MIN_AREA, hz: float = 5, noise: float = 1.5) -> None:
        self.model = MotionModel(threshold, min_area)
        self.step, self.noise = 1 / hz, noise
        self.at, self.count = 1000.0, 0
        self.results: list[tuple[float, MotionResult]] = []

    def see(self, picture: Picture, times: int = 1) -> MotionResult:
        for _ in range(times):
            self.at += self.step
            self.count += 1
            self.results.append((self.at, self.model.update(as_luma(picture, self.noise, self.count), self.at)))
        return self.results[-1][1]

    def moving(self) -> list[float]:
        return [at for at, result in self.results if result.moving]


@pytest.mark.parametrize("hz", [1, 5])
@pytest.mark.parametrize("noise", [0.0, 2.0, 4.0, 6.0])
def test_noise_is_no_motion(hz: float, noise: float) -> None:
    """Noise sigma of the small picture: a camera's own is averaged over the many points that each stands for."""
    eye = Eye(hz=hz, noise=noise)
    eye.see(backdrop(), 100)
    assert eye.moving() == []


@pytest.mark.parametrize(
    ("gain", "offset"),
    [(1.0, 12.0), (1.0, 40.0), (1.0, -40.0), (1.3, 0.0), (0.7, 0.0), (0.5, 0.0), (1.5, 0.0), (1.2, 20.0), (0.8, -15.0)],
)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_brightness_step_is_no_motion(gain: float, offset: float, seed: int) -> None:
    scene, eye = backdrop(seed), Eye()
    eye.see(scene, 20)
    eye.see(np.clip(gain * scene + offset, 0, 255), 20)
    eye.see(scene, 20)
    assert eye.moving() == []


@pytest.mark.parametrize("per_second", [2, 10, 40])
def test_a_slow_change_of_light_is_no_motion(per_second: float) -> None:
    scene, eye = backdrop(), Eye()
    eye.see(scene, 10)
    for step in range(50):
        eye.see(np.clip(scene * (1 - 0.3 * np.sin(step / 5 * per_second / 40)), 0, 255))
    assert eye.moving() == []


def test_a_light_that_changes_the_whole_view_is_learnt_anew_and_no_motion() -> None:
    """Night view: nothing that gain and offset explain."""
    eye = Eye()
    eye.see(backdrop(1), 10)
    eye.see(255 - backdrop(1)[:, ::-1], 10)
    assert eye.moving() == []
    eye.see(with_car(255 - backdrop(1)[:, ::-1], 50, grey=128))
    assert len(eye.moving()) == 1  # and it sees again


@pytest.mark.parametrize("speed", [4, 15, 60, 150, 400])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_car_that_passes_is_seen_for_as_long_as_it_is_there(speed: float, seed: int) -> None:
    """Speeds in points a second; the picture is 160 wide, the car 60."""
    scene, eye = backdrop(seed), Eye()
    eye.see(scene, 10)
    assert eye.moving() == []
    enters = eye.at
    left, step = -58.0, speed * eye.step
    while left < WIDTH:
        eye.see(with_car(scene, left))
        left += step
    leaves = eye.at
    eye.see(scene, 40)
    seen = eye.moving()
    assert seen, "not seen at all"
    visible = max(2 * eye.step, 8 / speed + eye.step) + 0.01  # 0.5 % of the picture is four columns of the car
    assert seen[0] - enters <= visible
    assert leaves - seen[-1] <= visible
    assert seen[-1] - leaves <= STILL_SECONDS + 2 * eye.step + 0.01  # where it was is background again
    assert max((b - a for a, b in pairwise(seen)), default=0) < 2.0  # one event


def test_a_car_that_stops_is_background_after_a_while_and_seen_when_it_leaves() -> None:
    scene, eye = backdrop(), Eye()
    eye.see(scene, 10)
    for left in range(-50, 40, 10):
        eye.see(with_car(scene, left))
    stopped = eye.at
    eye.see(with_car(scene, 30), 50)
    assert STILL_SECONDS - 1 <= eye.moving()[-1] - stopped <= STILL_SECONDS + 0.5
    parked = len(eye.moving())
    eye.see(with_car(scene, 30), 100)
    assert len(eye.moving()) == parked
    for left in range(30, WIDTH, 10):
        eye.see(with_car(scene, left))
    assert len(eye.moving()) > parked + 5
    eye.see(scene, 40)
    before = len(eye.moving())
    eye.see(scene, 40)
    assert len(eye.moving()) == before


def test_a_car_is_seen_while_the_light_changes() -> None:
    scene, eye = backdrop(), Eye()
    eye.see(scene, 10)
    assert eye.see(np.clip(0.75 * with_car(scene, 40) + 10, 0, 255)).moving
    assert eye.see(np.clip(1.2 * with_car(scene, 50), 0, 255)).moving


@pytest.mark.parametrize(("share", "moving"), [(0.5, False), (2.0, True)])
def test_min_area_is_the_share_of_one_connected_patch(share: float, moving: bool) -> None:
    scene, eye = backdrop(), Eye(min_area=0.02, noise=0)
    eye.see(scene, 5)
    side = round((share * 0.02 * WIDTH * HEIGHT) ** 0.5)
    made = scene.copy()
    made[40 : 40 + side, 60 : 60 + side] = np.where(made[40 : 40 + side, 60 : 60 + side] > 128, 10, 245)
    result = eye.see(made)
    assert result.moving is moving
    assert result.area == pytest.approx(share * 0.02, rel=0.25)


def test_specks_do_not_add_up() -> None:
    scene, eye = backdrop(), Eye(noise=0)
    eye.see(scene, 5)
    made = scene.copy()
    made[20:70:3, 40:120:3] = np.where(made[20:70:3, 40:120:3] > 128, 0, 255)  # rain: 1 x 1 each, but close together
    assert not eye.see(made).moving


def test_patches_do_not_add_up() -> None:
    scene, eye = backdrop(), Eye(noise=0)
    eye.see(scene, 5)
    made = scene.copy()
    for left in (20, 50, 80, 110):  # 0.25 % each, 1 % together
        made[40:46, left : left + 6] = np.where(made[40:46, left : left + 6] > 128, 0, 255)
    assert not eye.see(made).moving


@pytest.mark.parametrize(("step", "moving"), [(15, False), (25, True)])
def test_threshold_is_in_grey_levels(step: float, moving: bool) -> None:
    scene, eye = np.full((HEIGHT, WIDTH), 100.0), Eye(threshold=20, noise=0)
    eye.see(scene, 5)
    scene[40:60, 60:100] += step
    assert eye.see(scene).moving is moving


def test_nothing_moves_while_the_background_is_learnt() -> None:
    eye = Eye()
    for left in range(WARM_UP_PICTURES):
        assert not eye.see(with_car(backdrop(), 30 * left)).moving
    eye.see(with_car(backdrop(), 30 * (WARM_UP_PICTURES - 1)), 30)
    eye.model.forget()
    assert not eye.see(backdrop(2)).moving


def test_comparing_learns_nothing() -> None:
    eye = Eye()
    eye.see(backdrop(), 10)
    car = as_luma(with_car(backdrop(), 50))
    for _ in range(50):
        assert eye.model.compare(car).moving
    assert not eye.model.compare(as_luma(backdrop())).moving


def test_the_light_is_fitted_whatever_covers_a_third() -> None:
    scene = backdrop()
    seen = with_car(np.clip(0.8 * scene + 12, 0, 255), 10, width=140, height=34, top=50, grey=240)
    gain, offset = fit_light(scene.astype(np.float32), seen.astype(np.float32))
    assert gain == pytest.approx(0.8, abs=0.04)
    assert gain * 120 + offset == pytest.approx(0.8 * 120 + 12, abs=3)


def test_events_end_when_nothing_moves_and_wait_for_the_cooldown() -> None:
    events = MotionEvents(quiet=2, cooldown=5)
    assert events.moved(10, 0.1)
    assert not events.moved(11, 0.3)
    assert not events.still(12.9)
    assert not events.moved(12.5, 0.2)
    assert not events.still(14.4)
    assert events.still(14.5)
    assert (events.began, events.last, events.score) == (10, 12.5, 0.3)
    events.end()
    assert not events.open
    assert not events.still(100)
    assert not events.moved(17.4, 0.1)  # within the cooldown: 12.5 + 5
    assert not events.open
    assert events.moved(17.5, 0.1)
