"""Thumbnails and conversions as the worker makes them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from services.upload_handler.jpeg_job import thumbnail

MAX_PIXELS = 50_000_000
CORNERS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]  # clockwise from the upper left


def quarters(width: int, height: int) -> Image.Image:
    picture = Image.new("RGB", (width, height))
    half = (width // 2, height // 2)
    for colour, at in zip(CORNERS, [(0, 0), (half[0], 0), half, (0, half[1])], strict=True):
        picture.paste(colour, (*at, at[0] + half[0], at[1] + half[1]))
    return picture


def made(tmp_path: Path, kind: str, picture: Image.Image, width: int, **saved: Any) -> Image.Image:
    path = tmp_path / "picture"
    picture.save(path, {"jpg": "JPEG"}.get(kind, kind.upper()), **saved)
    _, data = thumbnail(kind, MAX_PIXELS, width, path.read_bytes())
    found = Image.open(io.BytesIO(data))
    assert found.format == "JPEG"
    assert not found.getexif()
    return found


def corners(picture: Image.Image) -> list[tuple[int, ...]]:
    """The corners' colours, each as the nearest of CORNERS."""
    width, height = picture.size
    points = np.asarray(picture.convert("RGB"))[[2, 2, height - 3, height - 3], [2, width - 3, width - 3, 2]].astype(int)
    return [min(CORNERS, key=lambda colour: np.abs(point - colour).sum()) for point in points]


@pytest.mark.parametrize("kind", ["jpg", "png", "bmp", "tiff", "webp"])
def test_every_kind_becomes_that_wide(tmp_path: Path, kind: str) -> None:
    small = made(tmp_path, kind, quarters(1600, 900), 320)
    assert small.size == (320, 180)
    assert corners(small) == CORNERS


@pytest.mark.parametrize(("orientation", "turned"), [(1, 0), (6, 1), (3, 2), (8, 3)])
def test_it_is_upright_and_its_width_is_the_upright_one(tmp_path: Path, orientation: int, turned: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Make] = "secret maker"
    small = made(tmp_path, "jpg", quarters(1600, 800), 160, exif=exif)
    assert small.size == ((160, 80) if turned % 2 == 0 else (160, 320))
    # Turned clockwise by `turned` quarters: the upper left one is what was so many places before it.
    assert corners(small) == CORNERS[-turned:] + CORNERS[:-turned] if turned else CORNERS


def test_a_small_picture_is_not_enlarged(tmp_path: Path) -> None:
    assert made(tmp_path, "png", quarters(100, 60), 320).size == (100, 60)


def test_a_strip_becomes_no_tower(tmp_path: Path) -> None:
    assert made(tmp_path, "png", quarters(40, 8000), 160).size[1] <= 4 * 160
    assert made(tmp_path, "png", quarters(8000, 40), 160).size == (160, 1)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "I;16", "CMYK", "1"])
def test_modes_that_jpeg_has_not(tmp_path: Path, mode: str) -> None:
    if mode == "I;16":
        picture = Image.fromarray(np.full((90, 160), 0x8000, np.uint16))
    else:
        picture = Image.new("L", (160, 90), 128).convert(mode)
    kind = "jpg" if mode == "CMYK" else "png"
    grey = np.asarray(made(tmp_path, kind, picture, 160).convert("L")).astype(int)
    assert abs(grey.mean() - 128) < 4


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    small = made(tmp_path, "png", Image.new("RGBA", (160, 90), (0, 0, 0, 0)), 160)
    assert np.asarray(small).min() > 250


def test_colours_keep_their_profile(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert made(tmp_path, "jpg", quarters(640, 360), 160, icc_profile=profile).info["icc_profile"] == profile
    assert "icc_profile" not in made(tmp_path, "jpg", quarters(640, 360), 160, icc_profile=profile + bytes(4096)).info
