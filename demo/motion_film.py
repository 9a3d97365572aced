"""Films in which a thing moves at known times: a car passes an empty pit straight."""

import hashlib
import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from demo.paint import Picture
from demo.scene import Scene

_VERSION = 1  # raise it when the same parameters would give another film
_WHOLE_PASS = 5.0  # seconds that the scene's own car takes


class Passes(Scene):
    """The scene with its car only while it passes: at `starts` (seconds), for `lasts` seconds each."""

    def __init__(self, width: int, height: int, starts: Sequence[float], lasts: float, seed: int = 1) -> None:
        super().__init__(width, height, seed)
        self._starts = starts
        self._speed = _WHOLE_PASS / lasts

    def _draw_car(self, image: Picture, seconds: float) -> None:
        for start in self._starts:
            if 0 <= (passed := (seconds - start) * self._speed) < _WHOLE_PASS:
                super()._draw_car(image, passed)


def make_motion_film(
    folder: Path,
    *,
    starts: Sequence[float] = (5.0,),
    lasts: float = 3.0,
    width: int = 320,
    height: int = 180,
    fps: int = 25,
    seconds: float = 12.0,
    gop: int = 25,
    bitrate: int = 400_000,
    seed: int = 1,
    noise: float = 0.0,
    preset: str = "ultrafast",
) -> Path:
    """An H.264 film (MP4) in the folder, its pictures numbered as in `make_film`; one that is there is taken as it is.

    `noise`: the sensor's, standard deviation in grey levels.
    """
    key = f"{_VERSION}-{starts}-{lasts}-{width}x{height}-{fps}-{seconds}-{gop}-{bitrate}-{seed}-{noise}-{preset}"
    path = folder / f"motion-{hashlib.sha256(key.encode()).hexdigest()[:16]}.mp4"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    scene = Passes(width, height, starts, lasts, seed)
    random = np.random.default_rng(seed)
    grain = random.normal(0, noise, (height + 64, width + 64)).astype(np.int16)
    options = {"preset": preset, "bf": "0", "sc_threshold": "0", "keyint_min": str(gop)}
    with av.open(str(partial), "w", format="mp4") as film:
        stream = film.add_stream("libx264", rate=Fraction(fps), options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate, stream.gop_size = bitrate, gop
        for number in range(round(seconds * fps)):
            planes = cv2.cvtColor(scene.render(number / fps, "", number), cv2.COLOR_BGR2YUV_I420)
            if noise:
                x, y = random.integers(0, 64, 2)
                planes[:height] = np.clip(planes[:height] + grain[y : y + height, x : x + width], 16, 235).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(planes.astype(np.uint8, copy=False), format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            film.mux(stream.encode(frame))
        film.mux(stream.encode(None))
    partial.replace(path)
    return path
