"""What cameras show and what goes wrong with them, made by code from photographs and the demo's scene.

A `camera` yields pictures of a fixed camera: noise, light that wanders, something that passes by. `FAULTS` spoil them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from itertools import islice, repeat

import cv2
import numpy as np
from numpy.typing import NDArray

from demo.scene import Scene
from services.quality.judge import Judge, Quality
from services.quality.measures import Measures, measure
from tests.kits.changed import FILES, photograph

Grey = NDArray[np.uint8]
FPS = 1.0
LEARN = 30  # pictures before the fault
AFTER = 20  # and with it: as many as the slowest reason takes
FRAMES = 60  # of the baseline


def _whole(picture: NDArray[np.float32]) -> Grey:
    return np.clip(picture, 0, 255).astype(np.uint8)


@cache
def grey(name: str, part: int = 1) -> Grey:
    """A photograph in grey, at most 960 wide; `demo`: the demo's scene. `part`: 2 for half of the size."""
    if name == "demo":
        whole = cv2.cvtColor(Scene(960, 540).render(2.0, "12:00:00", 7), cv2.COLOR_BGR2GRAY)
    else:
        whole = cv2.cvtColor(photograph(name), cv2.COLOR_RGB2GRAY)
    size = whole.shape[1] // part, whole.shape[0] // part
    return np.asarray(cv2.resize(whole, size, interpolation=cv2.INTER_AREA), np.uint8)


def camera(picture: Grey, seed: int, noise: float = 2.0) -> Iterator[Grey]:
    """Pictures without end."""
    rng = np.random.default_rng(seed)
    height, width = picture.shape
    passing = np.asarray(cv2.resize(picture[::-1, ::-1], (width // 5, height // 4)), np.uint8)
    n = 0
    while True:
        shown = picture.astype(np.float32)
        if n % 7 in (2, 3):  # a car
            left = int(rng.integers(0, width - passing.shape[1]))
            shown[height // 2 : height // 2 + passing.shape[0], left : left + passing.shape[1]] = passing
        shown *= 1 + 0.1 * np.sin(n / 9)
        yield _coded(_whole(shown + rng.normal(0, noise, shown.shape).astype(np.float32)))
        n += 1


def _coded(picture: Grey, quality: int = 80) -> Grey:
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 0), np.uint8)


def demo_film(weather: str, seed: int = 1) -> Iterator[Grey]:
    """The demo's film, one picture a second, in the weather from picture LEARN on: day, night (falls within a minute), rain,
    dirt (spots on the glass)."""
    rng = np.random.default_rng(seed)
    scene, n = Scene(960, 540, seed), 0
    spots = np.zeros((540, 960), np.float32)
    for _ in range(25):
        centre = int(rng.integers(0, 960)), int(rng.integers(0, 540))
        cv2.circle(spots, centre, int(rng.integers(6, 22)), 1.0, -1)
    spots = np.asarray(cv2.GaussianBlur(spots, (0, 0), 5), np.float32)
    while True:
        plain = cv2.cvtColor(scene.render(n * 1.0, f"12:00:{n % 60:02d}", n), cv2.COLOR_BGR2GRAY)
        shown = np.asarray(plain, np.float32)
        since, noise = n - LEARN, 2.0
        if since >= 0 and weather == "night":
            light = max(0.25, 1 - since / 80)
            shown, noise = shown * light, 2.0 + 4 * (1 - light)
        elif since >= 0 and weather == "rain":
            streaks = np.zeros_like(shown)
            for x, y in zip(rng.integers(0, 960, 300), rng.integers(0, 540, 300), strict=True):
                cv2.line(streaks, (int(x), int(y)), (int(x) + 2, int(y) + 18), 60.0, 1)
            shown = 0.8 * shown + 25 + streaks
        elif since >= 0 and weather == "dirt":
            shown = shown * (1 - 0.8 * spots) + 60 * 0.8 * spots
        yield _coded(_whole(shown + rng.normal(0, noise, shown.shape).astype(np.float32)))
        n += 1


def _blur(sigma: float) -> Callable[[Grey], Grey]:
    return lambda picture: np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma), np.uint8)


def _cover(share: float) -> Callable[[Grey], Grey]:
    def cover(picture: Grey) -> Grey:
        covered = picture.astype(np.float32)
        width = int(picture.shape[1] * share)
        covered[:, :width] = 90 + 20 * np.linspace(0, 1, width)
        return _whole(np.asarray(cv2.GaussianBlur(covered, (0, 0), 2), np.float32) if share == 1 else covered)

    return cover


# A fault: its reason, and what it makes of a camera's pictures. frozen and moved are made of the sequence.
FAULTS: dict[str, tuple[str, Callable[[Grey], Grey]]] = {
    "blur, sigma 1 of 960": ("blurred", _blur(1)),
    "blur, sigma 2": ("blurred", _blur(2)),
    "blur, sigma 4": ("blurred", _blur(4)),
    "blur, sigma 10": ("blurred", _blur(10)),
    "dark, 5 % of the light": ("dark", lambda picture: _whole(picture.astype(np.float32) * 0.05)),
    "dark, 1 %": ("dark", lambda picture: _whole(picture.astype(np.float32) * 0.01)),
    "bright, 6 times the light": ("bright", lambda picture: _whole(picture.astype(np.float32) * 6 + 60)),
    "flat, 1 % of the contrast": ("flat", lambda picture: _whole((picture.astype(np.float32) - 120) * 0.01 + 120)),
    "covered, 40 %": ("covered", _cover(0.4)),
    "covered, 70 %": ("covered", _cover(0.7)),
    "frozen": ("frozen", lambda picture: picture),
    "moved, by 5 % of the width": ("moved", lambda picture: np.roll(picture, round(0.05 * picture.shape[1]), axis=1)),
    "moved, by 30 %": ("moved", lambda picture: np.roll(picture, round(0.3 * picture.shape[1]), axis=1)),
}


def seen(picture: Grey) -> Measures:
    return measure(picture, picture.shape[1], picture.shape[0])


def judged(judge: Judge, pictures: Iterator[Grey], count: int, first: int = 0) -> list[Quality]:
    """The judgements of `count` pictures, taken one after the other from second `first` on."""
    return [judge.judge(seen(picture), 1_000_000 + first + n / FPS) for n, picture in enumerate(islice(pictures, count))]


def spoilt(pictures: Iterator[Grey], fault: str) -> Iterator[Grey]:
    """The camera's pictures with the fault."""
    reason, spoil = FAULTS[fault]
    return (_coded(spoil(picture)) for picture in (repeat(next(pictures)) if reason == "frozen" else pictures))


@cache
def learnt(name: str, seed: int, part: int = 1) -> Judge:
    """The judge of a camera, and nothing was wrong yet: to be copied."""
    judge = Judge(FRAMES, capture=True)
    judged(judge, camera(grey(name, part), seed), LEARN)
    return judge


def with_fault(name: str, fault: str, seed: int = 3, part: int = 1) -> list[Quality]:
    """The judgements of a camera's pictures from the fault on."""
    pictures = islice(camera(grey(name, part), seed + 100), 7, None)  # a picture with nothing that passes first
    return judged(deepcopy(learnt(name, seed, part)), spoilt(pictures, fault), AFTER, LEARN)


NAMES = [*FILES, "demo"]
