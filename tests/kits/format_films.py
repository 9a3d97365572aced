"""Every format of pictures that cameras send, as films and shows, and what their pictures really are."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from demo.film import make_film, make_sound, read_frame_number
from demo.show import Show
from tests.kits.capture_kit import FPS, PICTURES, SECONDS, SIZE

MEAN = 6.0  # of 255: JPEG of a small, busy picture
BLOCK = 20.0  # of 255: the mean of the worst 16 x 16 pixels; whole ones stay below 15
WIDE = (480, 272)
Image = NDArray[np.uint8]


def film(folder: Path, **fields: Any) -> Path:
    size = {"width": SIZE[0], "height": SIZE[1]}
    return make_film(folder, **{**size, "fps": FPS, "seconds": SECONDS, "bitrate": 400_000, **fields})


SHOWS: dict[str, Callable[[Path], Show]] = {
    "plain": lambda f: Show([film(f)]),
    "hevc": lambda f: Show([film(f, codec="hevc")]),
    "b": lambda f: Show([film(f, bframes=3)]),
    "hevc-b": lambda f: Show([film(f, codec="hevc", bframes=3)]),
    "sets-in-sdp": lambda f: Show([film(f)], sets="sdp"),
    "sets-in-band": lambda f: Show([film(f)], sets="band"),
    "hevc-sets-in-sdp": lambda f: Show([film(f, codec="hevc")], sets="sdp"),
    "hevc-sets-in-band": lambda f: Show([film(f, codec="hevc")], sets="band"),
    "switch": lambda f: Show([[film(f, seconds=2.0), wide(f)]]),
    "hevc-switch": lambda f: Show([[film(f, seconds=2.0, codec="hevc"), wide(f, codec="hevc")]]),
    "open-gop": lambda f: Show([film(f, bframes=3, open_gop=True)]),
    "hevc-open-gop": lambda f: Show([film(f, codec="hevc", bframes=3, open_gop=True)]),
    "intra-refresh": lambda f: Show([film(f, intra_refresh=True)]),
    "hevc-intra-refresh": lambda f: Show([film(f, codec="hevc", intra_refresh=True)]),
    "interlaced": lambda f: Show([film(f, interlaced=True)]),
    "interlaced-b": lambda f: Show([film(f, interlaced=True, bframes=2)]),
    "slices": lambda f: Show([film(f, slices=4)]),
    "sound-after": lambda f: Show([film(f), make_sound(f)]),
    "sound-before": lambda f: Show([make_sound(f), film(f, bframes=3)]),
    "hevc-sound-before": lambda f: Show([make_sound(f, codec="pcmu"), film(f, codec="hevc")]),
    "two": lambda f: Show([film(f), wide(f, first=1000)]),
    "two-codecs": lambda f: Show([film(f, codec="hevc"), wide(f, first=1000)]),
    "mjpeg": lambda f: Show([film(f, codec="mjpeg", height=184)]),
    "mjpeg-sound": lambda f: Show([make_sound(f, codec="pcma"), film(f, codec="mjpeg", height=184)]),
    "vp8": lambda f: Show([film(f)], codec="vp8"),
    "vp8-first": lambda f: Show([film(f), film(f, seed=2)], codec="vp8"),
    "mpeg4-and-sound": lambda f: Show([make_sound(f), film(f)], codec="mp4v-es"),
}


def wide(folder: Path, **fields: Any) -> Path:
    """The second half of a film, with larger pictures."""
    return film(folder, **{"width": WIDE[0], "height": WIDE[1], "seconds": 2.0, "first": PICTURES // 2, "seed": 2, **fields})


class Truth:
    """What a film's files hold: pictures by number, in colour by OpenCV's BT.601. Decoded once, converted when asked for."""

    def __init__(self, paths: tuple[Path, ...]) -> None:
        self._frames: list[tuple[str, Image]] = []
        for path in paths:
            with av.open(str(path)) as whole:
                for frame in whole.decode(video=0):
                    planes = frame.format.name == "yuv420p"
                    array = frame.to_ndarray() if planes else frame.to_ndarray(format="bgr24")
                    self._frames.append(("planes" if planes else "bgr", array.astype(np.uint8, copy=False)))

    def __getitem__(self, number: int) -> Image:
        kind, array = self._frames[number]
        image = array if kind == "bgr" else cv2.cvtColor(array, cv2.COLOR_YUV2BGR_I420).astype(np.uint8, copy=False)
        assert read_frame_number(image) == number
        return image


decoded = cache(Truth)


def truth(show: Show) -> Truth:
    """Of the show's first film."""
    films = next(films for films in show.films if "sound" not in films[0].name)
    return decoded(tuple(films))


def difference(image: Image, other: Image) -> tuple[float, float]:
    """Mean absolute difference of two pictures (of 255): of all, and of the worst block of 16 x 16 pixels."""
    assert image.shape == other.shape
    apart = cv2.absdiff(image, other).mean(axis=2)
    height, width = apart.shape[0] // 16 * 16, apart.shape[1] // 16 * 16
    blocks = apart[:height, :width].reshape(height // 16, 16, width // 16, 16).mean(axis=(1, 3))
    return float(apart.mean()), float(blocks.max())
