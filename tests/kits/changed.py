"""Changes of photographs, made by code: what must not count as a change of the scene, and what must."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage import data

Picture = NDArray[np.uint8]
# scikit-image's photographs that its wheel holds: people, animals, still life, microscopy, the sky, print, streets.
FILES = {
    "astronaut": "astronaut.png", "camera": "camera.png", "chelsea": "chelsea.png", "coffee": "coffee.png",
    "coins": "coins.png", "motorcycle": "motorcycle_left.png", "ihc": "ihc.png", "hubble": "hubble_deep_field.jpg",
    "rocket": "rocket.jpg", "retina": "retina.jpg",
}  # fmt: skip
SIDE = 960


def photograph(name: str) -> Picture:
    """RGB, its longer side at most SIDE."""
    with Image.open(Path(data.data_dir) / FILES[name]) as image:
        image.thumbnail((SIDE, SIDE))
        picture: Picture = np.array(image.convert("RGB"), np.uint8)
    return picture


def jpeg(picture: Picture, quality: int = 95) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=quality)
    return out.getvalue()


def _again(picture: Picture, quality: int) -> Picture:
    again: Picture = np.array(Image.open(io.BytesIO(jpeg(picture, quality))), np.uint8)
    return again


def _clipped(picture: NDArray[Any]) -> Picture:
    clipped: Picture = np.clip(picture, 0, 255).astype(np.uint8)
    return clipped


def _noisy(picture: Picture, sigma: float) -> Picture:
    return _clipped(picture + np.random.default_rng(7).normal(0, sigma, picture.shape))


def _moved(picture: Picture, x: float, y: float, degrees: float) -> Picture:
    height, width = picture.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    turn[:, 2] += np.array([x, y])
    return np.asarray(cv2.warpAffine(picture, turn, (width, height), borderMode=cv2.BORDER_REFLECT), np.uint8)


HARMLESS: dict[str, Callable[[Picture], Picture]] = {
    "nothing": lambda picture: picture,
    "noise, sigma 5": lambda picture: _noisy(picture, 5),
    "noise, sigma 10": lambda picture: _noisy(picture, 10),
    "JPEG quality 60": lambda picture: _again(picture, 60),
    "exposure +30 %": lambda picture: _clipped(picture * 1.3),
    "exposure -30 %": lambda picture: _clipped(picture * 0.7),
    "shift by 20 px": lambda picture: _moved(picture, 16, 12, 0),
    "rotation by 2°": lambda picture: _moved(picture, 0, 0, 2),
    "all together": lambda picture: _again(_noisy(_clipped(_moved(picture, 10, 8, 1.5) * 1.2), 4), 60),
}


def patched(picture: Picture, seed: int, share: float = 0.01) -> tuple[Picture, tuple[int, int, int]]:
    """With a sticker over `share` of it, a plate with a bar, far from what is below in colour; its x, y and side."""
    rng = np.random.default_rng(seed)
    height, width = picture.shape[:2]
    side = int((share * height * width) ** 0.5)
    margin = 24  # not at the rim, which a shift moves out of sight
    y, x = int(rng.integers(margin, height - side - margin)), int(rng.integers(margin, width - side - margin))
    changed = picture.copy()
    mean = changed[y : y + side, x : x + side].reshape(-1, 3).mean(axis=0)
    colour = np.where(mean > 127, mean - 110, mean + 110)
    changed[y : y + side, x : x + side] = colour.astype(np.uint8)
    changed[y + side // 3 : y + 2 * side // 3, x + 4 : x + side - 4] = (255 - colour).astype(np.uint8)
    return changed, (x, y, side)
