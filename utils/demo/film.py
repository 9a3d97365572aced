"""Films and still pictures for tests and the demo, made once and kept by what they show."""

import hashlib
import io
import os
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import cv2
import numpy as np
from PIL import Image

from utils.demo.frame_number import NUMBER_BITS, read_frame_number
from utils.demo.scene import Scene

Codec = Literal["h264", "hevc"]

_VERSION = 1  # raise it when the same parameters would give another film
_ENCODERS = {"h264": "libx264", "hevc": "libx265"}

__all__ = ["NUMBER_BITS", "Codec", "make_film", "make_sound", "make_still", "read_frame_number"]


def make_film(
    target: Path,
    *,
    codec: Codec = "h264",
    width: int = 640,
    height: int = 360,
    fps: int = 25,
    seconds: float = 20.0,
    gop: int = 25,
    bframes: int = 0,
    bitrate: int = 800_000,
    label: str = "CAM 1",
    seed: int = 1,
) -> Path:
    """An MP4 file whose picture number n carries n, readable by people and by `read_frame_number`.

    A `target` that ends in .mp4 is that file; any other is a folder, where the parameters give the name.
    An existing file is taken as it is.
    """
    key = f"film-{_VERSION}-{codec}-{width}x{height}-{fps}-{seconds}-{gop}-{bframes}-{bitrate}-{label}-{seed}"
    path = _place(target, key)
    if path.exists():
        return path
    options = {"preset": "ultrafast"}
    if codec == "h264":
        options |= {"bf": str(bframes), "sc_threshold": "0", "keyint_min": str(gop)}
    else:
        options["x265-params"] = (
            f"keyint={gop}:min-keyint={gop}:scenecut=0:open-gop=0:bframes={bframes}:b-adapt=0:log-level=error"
        )
    partial = _partial(path)
    scene = Scene(width, height, seed, label)
    with av.open(str(partial), "w", format="mp4") as film:
        stream = film.add_stream(_ENCODERS[codec], rate=Fraction(fps), options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate, stream.gop_size, stream.max_b_frames = bitrate, gop, bframes
        for number in range(round(seconds * fps)):
            image = scene.render(number / fps, _film_clock(number, fps), number)
            planes = cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420)
            frame = av.VideoFrame.from_ndarray(planes.astype(np.uint8, copy=False), format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            film.mux(stream.encode(frame))
        film.mux(stream.encode(None))
    partial.replace(path)
    return path


def make_sound(target: Path, *, seconds: float = 5.0, pitch: float = 440.0) -> Path:
    """An MP4 file with an AAC tone and no picture: the source that has no video track."""
    path = _place(target, f"sound-{_VERSION}-{seconds}-{pitch}")
    if path.exists():
        return path
    partial = _partial(path)
    rate = 16000
    with av.open(str(partial), "w", format="mp4") as film:
        stream = film.add_stream("aac", rate=rate, layout="mono")
        assert isinstance(stream, av.AudioStream)
        for start in range(0, round(seconds * rate), 1024):
            wave = 0.2 * np.sin(2 * np.pi * pitch * np.arange(start, start + 1024) / rate)
            frame = av.AudioFrame.from_ndarray(wave.astype(np.float32)[None, :], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            film.mux(stream.encode(frame))
        film.mux(stream.encode(None))
    partial.replace(path)
    return path


def make_still(seed: int, width: int, height: int, taken_at: datetime, *, wear: float = 0.0, quality: int = 90) -> bytes:
    """A JPEG as a photographer would upload it, with EXIF for `taken_at`, which needs a time zone.

    The same seed is the same car; `wear` near 1 shows it after the session: dirty, its sponsor's patch gone.
    """
    offset = taken_at.strftime("%z")
    if not offset:
        raise ValueError("taken_at needs a time zone")
    image = Scene(width, height, seed, "PADDOCK", wear).render(
        2.2 + seed % 7 * 0.1, taken_at.isoformat(" ", "milliseconds"), seed
    )
    picture = Image.fromarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
    exif = picture.getexif()
    exif[0x010F], exif[0x0110], exif[0x0131] = "TrackShift", "Demo Camera", "trackshift-demo"
    exif[0x0132] = taken_at.strftime("%Y:%m:%d %H:%M:%S")
    details = exif.get_ifd(0x8769)
    details[0x9003] = details[0x9004] = taken_at.strftime("%Y:%m:%d %H:%M:%S")
    details[0x9010] = details[0x9011] = f"{offset[:3]}:{offset[3:5]}"
    details[0x9291] = f"{taken_at.microsecond // 1000:03d}"
    details[0x829A], details[0x8827] = 1 / 1000, 200
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=quality, exif=exif)
    return data.getvalue()


def _place(target: Path, key: str) -> Path:
    if target.suffix == ".mp4":
        target.parent.mkdir(parents=True, exist_ok=True)
        return target
    target.mkdir(parents=True, exist_ok=True)
    return target / f"{key.split('-', 1)[0]}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.mp4"


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}")


def _film_clock(number: int, fps: int) -> str:
    seconds, rest = divmod(number, fps)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{rest * 1000 // fps:03d}"
