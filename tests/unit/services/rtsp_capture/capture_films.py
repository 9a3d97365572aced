"""Encoded films in memory, as packets of a stream: every picture carries its number."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, Literal

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from demo.scene import Scene
from services.rtsp_capture.media.damage import LossWatch
from services.rtsp_capture.media.gop_buffer import Packet, Picture, Ring
from services.rtsp_capture.media.packets import StreamInfo

FPS = 25
KEPT = Path(__file__).resolve().parents[4] / "build" / "test-films"
Codec = Literal["h264", "hevc"]


def _x264(*more: str, keyint: int = 25) -> dict[str, str]:
    fixed = f"scenecut=0:keyint={keyint}:min-keyint={keyint}:threads=1"
    return {"preset": "veryfast", "x264-params": ":".join((fixed, *more))}


def _x265(*more: str, keyint: int = 25) -> dict[str, str]:
    fixed = f"keyint={keyint}:min-keyint={keyint}:scenecut=0:b-adapt=0:log-level=none"
    return {"preset": "ultrafast", "x265-params": ":".join((fixed, *more))}


FILMS: dict[str, tuple[Codec, dict[str, str]]] = {
    "h264": ("h264", _x264("bframes=0")),
    "h264 baseline": ("h264", _x264("bframes=0", "cabac=0", "8x8dct=0")),
    "h264 slices": ("h264", _x264("bframes=0", "slices=4")),
    "h264 b": ("h264", _x264("bframes=3", "b-adapt=0")),
    "h264 b open": ("h264", _x264("bframes=3", "b-adapt=0", "open-gop=1", "b-pyramid=normal", keyint=27)),
    "h264 refresh": ("h264", _x264("bframes=0", "intra-refresh=1")),
    "h264 interlaced": ("h264", _x264("bframes=0", "tff=1")),
    "hevc": ("hevc", _x265("bframes=0", "open-gop=0")),
    "hevc slices": ("hevc", _x265("bframes=0", "open-gop=0", "slices=3")),
    "hevc b": ("hevc", _x265("bframes=3", "open-gop=0")),
    "hevc b open": ("hevc", _x265("bframes=3", "open-gop=1", keyint=27)),
}


@dataclass(frozen=True, slots=True)
class Film:
    info: StreamInfo
    packets: tuple[Packet, ...]  # in decoding order; their pts in seconds


@cache
def scene(count: int, width: int, height: int) -> tuple[NDArray[np.uint8], ...]:
    """Numbered pictures as 4:2:0 planes."""
    made = Scene(width, height, 1, "CAM")
    return tuple(
        np.asarray(cv2.cvtColor(made.render(n / FPS, str(n), n), cv2.COLOR_BGR2YUV_I420), np.uint8) for n in range(count)
    )


def encode(
    codec: Codec,
    options: dict[str, str],
    planes: Sequence[NDArray[np.uint8]],
    *,
    pix_fmt: str = "yuv420p",
    extradata: bool = False,
    bitrate: int = 400_000,
) -> Film:
    """`extradata`: parameter sets beside the stream. Kept on disk, since each process of a run wants most of them."""
    height, width = planes[0].shape[0] * 2 // 3, planes[0].shape[1]
    wanted = repr((codec, options, pix_fmt, extradata, bitrate, av.__version__)).encode()
    kept = KEPT / hashlib.sha256(wanted + b"".join(each.tobytes() for each in planes)).hexdigest()
    if not kept.exists():
        made = pickle.dumps(_encoded(codec, options, planes, pix_fmt, extradata, bitrate))
        KEPT.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(f".{os.getpid()}")
        partial.write_bytes(made)
        partial.replace(kept)
    sets, units = pickle.loads(kept.read_bytes())
    packets = tuple(Packet(data, at, key, at, at, 0.0, 1) for data, at, key in units)
    return Film(StreamInfo(codec, sets, width, height, float(FPS)), packets)


def _encoded(
    codec: Codec, options: dict[str, str], planes: Sequence[NDArray[np.uint8]], pix_fmt: str, extradata: bool, bitrate: int
) -> tuple[bytes, list[tuple[bytes, float, bool]]]:  # fmt: skip
    """Parameter sets, and of each packet its bytes, its pts in seconds and whether it is a keyframe."""
    height, width = planes[0].shape[0] * 2 // 3, planes[0].shape[1]
    encoder: Any = av.CodecContext.create({"h264": "libx264", "hevc": "libx265"}[codec], "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, pix_fmt
    encoder.time_base, encoder.framerate = Fraction(1, FPS), Fraction(FPS)
    encoder.bit_rate, encoder.gop_size, encoder.options = bitrate, 25, options
    if extradata:
        encoder.flags |= int(av.codec.context.Flags.global_header)
    if "tff=1" in str(options):
        encoder.flags |= int(av.codec.context.Flags.interlaced_dct) | int(av.codec.context.Flags.interlaced_me)
    units = []
    for number, each in enumerate([*planes, None]):
        frame: Any = None
        if each is not None:
            frame = av.VideoFrame.from_ndarray(each, format="yuv420p")
            frame = frame if pix_fmt == "yuv420p" else frame.reformat(format=pix_fmt)
            frame.pts, frame.time_base = number, Fraction(1, FPS)
        units += [(bytes(packet), packet.pts / FPS, packet.is_keyframe) for packet in encoder.encode(frame)]
    return bytes(encoder.extradata or b"") if extradata else b"", units


@cache
def film(name: str, count: int = 80, width: int = 320, height: int = 180, bitrate: int = 400_000) -> Film:
    codec, options = FILMS[name]
    return encode(codec, options, scene(count, width, height), bitrate=bitrate)


def straight(info: StreamInfo, packets: Sequence[Packet]) -> dict[float, NDArray[np.uint8]]:
    """What a decoder that is given everything once shows, by stream time: the pictures to compare with."""
    decoder: Any = av.CodecContext.create(info.codec, "r")
    decoder.thread_count = 1
    if info.extradata:
        decoder.extradata = info.extradata
    shown, times = {}, [packet.pts for packet in packets]
    for number, packet in enumerate([*packets, None]):
        made = None
        if packet is not None:
            made = av.Packet(packet.data)
            made.pts, made.time_base = number, Fraction(1, FPS)
        for frame in decoder.decode(made):
            shown[times[frame.pts]] = pixels(frame)
    return shown


def pixels(frame: Any) -> NDArray[np.uint8]:
    """The planes as they were decoded."""
    size = 2 if "10" in frame.format.name else 1
    lines = [np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:, : plane.width * size] for plane in frame.planes]
    return np.concatenate([each.ravel() for each in lines])


def received(packets: Sequence[Packet], info: StreamInfo, *, watched: bool = True) -> list[Picture]:
    """The pictures of a stream that gave these packets."""
    ring, watch, pictures = Ring(1000, 100_000_000), LossWatch(info.codec, info.extradata), []
    for packet in packets:
        if watched:
            check = watch.check(packet.data, packet.pts, packet.key)
            lost = packet.lost or check.lost
            packet = replace(packet, lost=lost, recovery=check.recovery, second_field=check.second_field)
        if (picture := ring.append(packet)) is not None:
            pictures.append(picture)
    return pictures
