"""Films and still pictures for tests and the demo, made once and kept by what they show."""

import hashlib
import io
import os
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, cast

import av
import cv2
import numpy as np
from PIL import Image

from demo.colour import matrix_of, name_colours, to_planes
from demo.frame_number import NUMBER_BITS, draw_frame_number, read_frame_number
from demo.paint import Picture
from demo.scene import Scene

Codec = Literal["h264", "hevc", "mjpeg"]
SoundCodec = Literal["aac", "pcmu", "pcma"]

_VERSION = 2  # raise it when the same parameters would give another film
_ENCODERS = {"h264": "libx264", "hevc": "libx265"}
_SOUND = {  # encoder, samples a second, samples a frame, their format
    "aac": ("aac", 16000, 1024, "fltp"),
    "pcmu": ("pcm_mulaw", 8000, 160, "s16"),
    "pcma": ("pcm_alaw", 8000, 160, "s16"),
}

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
    first: int = 0,
    open_gop: bool = False,
    intra_refresh: bool = False,
    interlaced: bool = False,
    slices: int = 1,
    named_colours: bool = True,
    sharp_every: int = 1,
) -> Path:
    """An MP4 file whose picture number n carries `first` + n, readable by people and by `read_frame_number`.

    Colours are limited-range BT.709 from 720 lines up, else BT.601, and the stream says so (`named_colours`).
    `open_gop`: key pictures that pictures shown before them refer across (H.264: recovery points, H.265: CRA).
    `intra_refresh`: one key picture only, then a column of intra blocks that wanders in `gop` pictures.
    `interlaced`: coded in fields where that is better (MBAFF; H.264 only). `slices` of each picture (H.264 only).
    `sharp_every`: all pictures but those whose number is a multiple of it are blurred, their number is not.
    `mjpeg` takes neither these nor `bitrate`.

    A `target` that ends in .mp4 is that file; any other is a folder, where the parameters give the name.
    An existing file is taken as it is.
    """
    key = f"film-{_VERSION}-{codec}-{width}x{height}-{fps}-{seconds}-{gop}-{bframes}-{bitrate}-{label}-{seed}"
    key += f"-{first}-{open_gop}-{intra_refresh}-{interlaced}-{slices}-{named_colours}"
    key += f"-sharp-{sharp_every}" if sharp_every > 1 else ""
    path = _place(target, key)
    if path.exists():
        return path
    partial = _partial(path)
    scene = Scene(width, height, seed, label)
    matrix = matrix_of(height)
    with av.open(str(partial), "w", format="mp4") as film:
        if codec == "mjpeg":
            stream = film.add_stream("mjpeg", rate=Fraction(fps))
            stream.pix_fmt = "yuvj420p"
        else:
            options = _coding(codec, gop, bframes, open_gop, intra_refresh, interlaced, slices)
            stream = cast(av.VideoStream, film.add_stream(_ENCODERS[codec], rate=Fraction(fps), options=options))
            stream.pix_fmt = "yuv420p"
            stream.codec_context.thread_count = 1  # more would cut pictures into as many slices
            stream.bit_rate, stream.gop_size, stream.max_b_frames = bitrate, gop, bframes
            if named_colours:
                name_colours(stream.codec_context, matrix)
        stream.width, stream.height = width, height
        for number in range(round(seconds * fps)):
            image = scene.render(number / fps, _film_clock(number, fps), first + number)
            if (first + number) % sharp_every:
                image = np.asarray(cv2.GaussianBlur(image, (0, 0), height / 60), np.uint8)
                draw_frame_number(image, first + number)
            if codec == "mjpeg":
                film.mux(_jpeg_packet(image, stream, number, fps))
                continue
            frame = av.VideoFrame.from_ndarray(to_planes(image, matrix), format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            film.mux(stream.encode(frame))
        if codec != "mjpeg":
            film.mux(stream.encode(None))
    partial.replace(path)
    return path


def _coding(
    codec: Codec, gop: int, bframes: int, open_gop: bool, intra_refresh: bool, interlaced: bool, slices: int
) -> dict[str, str]:
    """The encoder's options."""
    tools = [f"open-gop={open_gop:d}"] + ["intra-refresh=1"] * intra_refresh
    if codec == "h264":
        tools += ["interlaced=1"] * interlaced + [f"slices={slices}"]
        return {
            "preset": "ultrafast", "bf": str(bframes), "sc_threshold": "0", "keyint_min": str(gop),
            "x264-params": ":".join(tools),
        }  # fmt: skip
    if interlaced or slices != 1:
        raise ValueError("H.264 only")
    tools += [f"keyint={gop}", f"min-keyint={gop}", "scenecut=0", f"bframes={bframes}", "b-adapt=0", "log-level=error"]
    return {"preset": "ultrafast", "x265-params": ":".join(tools)}


def _jpeg_packet(image: Picture, stream: av.VideoStream, number: int, fps: int) -> Any:
    """A baseline 4:2:0 JPEG with standard Huffman tables, as RFC 2435 wants it."""
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 85])
    packet = av.Packet(data.tobytes())
    packet.stream, packet.time_base = stream, Fraction(1, fps)
    packet.pts = packet.dts = number
    packet.duration = 1
    packet.is_keyframe = True
    return packet


def make_sound(target: Path, *, codec: SoundCodec = "aac", seconds: float = 5.0, pitch: float = 440.0) -> Path:
    """A file with a tone and no picture."""
    path = _place(target, f"sound-{_VERSION}-{codec}-{seconds}-{pitch}")
    if path.exists():
        return path
    partial = _partial(path)
    encoder, rate, step, samples = _SOUND[codec]
    with av.open(str(partial), "w", format="mp4" if codec == "aac" else "mov") as film:
        stream = film.add_stream(encoder, rate=rate, layout="mono")
        assert isinstance(stream, av.AudioStream)
        for start in range(0, round(seconds * rate), step):
            wave = 0.2 * np.sin(2 * np.pi * pitch * np.arange(start, start + step) / rate)
            values = wave.astype(np.float32) if samples == "fltp" else (wave * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(values[None, :], format=samples, layout="mono")
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
