"""HEIC, WebP and AVIF: whole ones are taken and dated, cut and huge ones refused."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any

import pytest

from models.values import ReceivedFile
from services.upload_handler.check_call import CheckedImage
from services.upload_handler.memory import NeedsMemory
from services.upload_handler.validation import check_image
from tests.kits.heic import HEIC
from tests.kits.pictures import PHOTO, encoded, rich_exif
from utils.exceptions import ImageTooLarge, ImageTypeMismatch, InvalidImage, UnsupportedImageFormat

ALL = ["jpg", "png", "bmp", "tiff", "heic", "webp", "avif"]
WEBP = encoded("WEBP", exif=rich_exif())
AVIF = encoded("AVIF", exif=rich_exif(), speed=10)
FILES = {
    "a.heic": ("heic", HEIC, (64, 48)),
    "a.webp": ("webp", WEBP, (320, 240)),
    "lossless.webp": ("webp", encoded("WEBP", lossless=True), (320, 240)),
    "animated.webp": ("webp", encoded("WEBP", save_all=True, append_images=[PHOTO.rotate(9)]), (320, 240)),
    "a.avif": ("avif", AVIF, (320, 240)),
}
each = pytest.mark.parametrize("name", FILES)


@pytest.fixture
def check(tmp_path: Path) -> Any:
    def run(
        data: bytes, name: str, declared: str | None = None, formats: list[str] = ALL, max_pixels: int = 10**6, **fields: Any
    ) -> CheckedImage:
        path = tmp_path / "received"
        path.write_bytes(data)
        file = ReceivedFile(0, name, declared, path, len(data), hashlib.sha256(data).hexdigest())
        return check_image(file, formats, max_pixels, **fields)

    return run


@each
def test_whole_ones_are_taken(check: Any, name: str) -> None:
    kind, data, size = FILES[name]
    for called in (name, "blob"):
        found = check(data, called, f"image/{kind}")
        assert (found.format, found.content_type, found.width, found.height) == (kind, f"image/{kind}", *size)


def test_their_exif_is_read(check: Any) -> None:
    for name in ("a.heic", "a.webp", "a.avif"):
        exif = check(FILES[name][1], name).exif
        assert exif is not None
        assert (exif["make"], exif["time_original"]) == ("Maker", "2026:05:04 15:30:00")


@each
def test_cut_ones_are_refused(check: Any, name: str) -> None:
    data = FILES[name][1]
    for step in range(1, 20):
        with pytest.raises((InvalidImage, ImageTypeMismatch)):
            check(data[: len(data) * step // 20], name)


@each
def test_pixels_and_memory_are_known_first(check: Any, name: str) -> None:
    _, data, (width, height) = FILES[name]
    with pytest.raises(ImageTooLarge):
        check(data, name, max_pixels=width * height - 1)
    with pytest.raises(NeedsMemory) as caught:
        check(data, name, memory=1000)
    assert caught.value.size > 16 * width * height


def test_bombs(check: Any) -> None:
    huge = struct.pack(">II", 65_535, 65_535)
    at = HEIC.index(b"ispe") + 8
    vp8x = encoded("WEBP", PHOTO.convert("RGBA"), exif=rich_exif())
    canvas = vp8x.index(b"VP8X") + 12
    for data, name in (
        (HEIC[:at] + huge + HEIC[at + 8 :], "a.heic"),
        (AVIF[: AVIF.index(b"ispe") + 8] + huge + AVIF[AVIF.index(b"ispe") + 16 :], "a.avif"),
        (vp8x[:canvas] + b"\xff" * 6 + vp8x[canvas + 6 :], "a.webp"),
    ):
        with pytest.raises(ImageTooLarge):
            check(data, name)
    boxes = HEIC[:28] + b"\0\0\0\x08free" * 20_000
    with pytest.raises(InvalidImage, match="too many boxes"):
        check(boxes, "a.heic")
    with pytest.raises(InvalidImage, match="no picture"):
        check(HEIC[:28], "a.heic")
    with pytest.raises(InvalidImage, match="cut off"):
        check(HEIC[:28] + b"\0\0\0\x01meta" + b"\xff" * 8, "a.heic")


def test_only_what_is_taken(check: Any) -> None:
    with pytest.raises(UnsupportedImageFormat):
        check(HEIC, "a.heic", formats=["jpg", "png"])
    with pytest.raises(UnsupportedImageFormat):
        check(HEIC, "blob", formats=["jpg", "png"])
    with pytest.raises(ImageTypeMismatch):
        check(HEIC, "a.jpg")
    with pytest.raises(ImageTypeMismatch):
        check(AVIF, "a.heic")
