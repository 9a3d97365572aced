"""The benchmarks' film: 1080p25 at 4 Mbit/s as a camera's hardware encoder would make it.

A still scene alone would leave all bits to the keyframes: sensor noise and an `ipratio` of 1 give P-pictures their share,
so that a keyframe has about 120 KB (the reference film: 110) and a JPEG 280. x264 "superfast" (CABAC) is nearer to a camera
than the "ultrafast" of the test films.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from demo.scene import Scene

FPS = 25
FILMS = Path("build/bench/films")  # kept from run to run: making one takes ten seconds
_NOISE = 1.6  # standard deviation of the sensor noise, of 255


@dataclass(frozen=True)
class BenchFilm:
    """A film, and how many pictures it has before it begins again."""

    path: Path
    pictures: int
    keyframe_bytes: int  # mean
    bitrate: int  # bits a second


def bench_film(
    folder: Path, *, gop: int, seconds: int = 8, width: int = 1920, height: int = 1080, bitrate: int = 4_000_000
) -> BenchFilm:
    """The film with a keyframe every `gop` pictures, numbered; made once a folder."""
    key = hashlib.sha256(f"2-{gop}-{seconds}-{width}-{height}-{bitrate}".encode()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"bench-{key}.mp4"
    if not path.exists():
        partial = path.with_suffix(f".{os.getpid()}.part")
        _encode(partial, gop, seconds * FPS, width, height, bitrate)
        partial.replace(path)
    with av.open(str(path)) as film:
        packets = [(packet.size, packet.is_keyframe) for packet in film.demux(video=0) if packet.size]
    keys = [size for size, is_key in packets if is_key]
    total = sum(size for size, _ in packets)
    return BenchFilm(path, len(packets), round(sum(keys) / len(keys)), round(total * 8 * FPS / len(packets)))


def _encode(path: Path, gop: int, pictures: int, width: int, height: int, bitrate: int) -> None:
    scene = Scene(width, height, 1, "BENCH")
    random = np.random.default_rng(1)
    noise = random.normal(0, _NOISE, (height + 64, width + 64)).astype(np.int16)
    with av.open(str(path), "w", format="mp4") as film:
        options = {
            "preset": "superfast", "bf": "0", "sc_threshold": "0", "keyint_min": str(gop),
            "maxrate": str(bitrate), "bufsize": str(bitrate), "x264-params": "ipratio=1.0",
        }  # fmt: skip
        stream = film.add_stream("libx264", rate=Fraction(FPS), options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate, stream.gop_size, stream.max_b_frames = bitrate, gop, 0
        for number in range(pictures):
            image = scene.render(number / FPS, f"{number / FPS:09.3f}", number)
            planes = cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420)
            x, y = random.integers(0, 64, 2)
            luma = planes[:height].astype(np.int16) + noise[y : y + height, x : x + width]
            planes[:height] = np.clip(luma, 16, 235).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(planes.astype(np.uint8, copy=False), format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            film.mux(stream.encode(frame))
        film.mux(stream.encode(None))
