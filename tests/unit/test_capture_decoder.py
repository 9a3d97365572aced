"""Any picture of a stream, in any order: the right one, whole, without beginning anew where that can be avoided."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import simplejpeg

from services.rtsp_capture import decoder as module
from services.rtsp_capture.decoder import Jpeg, PictureDecoder, encode_jpeg
from services.rtsp_capture.packets import Packet, Picture, Ring
from services.rtsp_capture.reader import StreamInfo
from utils.demo.film import make_film, read_frame_number
from utils.exceptions import CaptureFailure

FILMS: dict[str, tuple[Any, int]] = {"h264": ("h264", 0), "h264b": ("h264", 3), "hevc": ("hevc", 0), "hevcb": ("hevc", 2)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("films")


@cache
def load(name: str, folder: Path) -> tuple[StreamInfo, list[Picture]]:
    codec, bframes = FILMS[name]
    film = make_film(folder, codec=codec, width=320, height=180, seconds=3.0, bitrate=300_000, bframes=bframes)
    ring = Ring(1000, 10_000_000)
    pictures = []
    with av.open(str(film)) as container:
        annexb = av.BitStreamFilterContext(f"{codec}_mp4toannexb", container.streams.video[0])
        for demuxed in container.demux(video=0):
            for p in annexb.filter(demuxed) if demuxed.size else []:
                assert p.pts is not None
                assert p.time_base is not None
                at = float(p.pts * p.time_base)
                pictures.append(ring.append(Packet(bytes(p), at, p.is_keyframe, at, at, 0.0, 1)))
    return StreamInfo(codec, b"", 320, 180, 25.0), [picture for picture in pictures if picture is not None]


def number(jpeg: Jpeg) -> int | None:
    image = cv2.imdecode(np.frombuffer(jpeg.data, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return read_frame_number(image)


def expected(picture: Picture) -> int:
    return round(picture.packet.pts * 25)


@pytest.mark.parametrize("name", list(FILMS))
def test_pictures_in_any_order_are_the_right_ones(name: str, folder: Path) -> None:
    info, pictures = load(name, folder)
    shift = min(expected(p) for p in pictures)
    for seed in range(3):
        rng = random.Random(seed)
        decoder = PictureDecoder(info)
        for picture in rng.choices(pictures, k=12) + sorted(rng.sample(pictures, 15), key=expected):
            known = rng.choice([0, 1, 3, 100])  # how much of what follows has been received
            jpeg = decoder.decode(picture.to_decode(), picture.following()[:known], 90)
            assert number(jpeg) == expected(picture) - shift
            assert (jpeg.width, jpeg.height) == (320, 180)


@pytest.mark.parametrize("name", list(FILMS))
def test_each_packet_is_decoded_once_when_every_picture_is_wanted(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info, pictures = load(name, folder)
    fed: list[Packet] = []
    original = module._av_packet

    def counted(packet: Packet) -> Any:
        fed.append(packet)
        return original(packet)

    monkeypatch.setattr(module, "_av_packet", counted)
    decoder = PictureDecoder(info)
    for picture in sorted(pictures, key=expected):
        decoder.decode(picture.to_decode(), picture.following()[:6], 50)
    assert len(pictures) == 75
    # The last pictures of a group have nothing after them that could push them out: they cost a drain each.
    assert len(fed) <= len(pictures) + 3 * 3 * 25
    assert len(fed) <= 75 or name.endswith("b")


def test_damaged_data_is_said_to_be(folder: Path) -> None:
    info, pictures = load("h264", folder)
    decoder = PictureDecoder(info)
    broken = Packet(b"\0\0\0\1\x65" + b"\xff" * 300, 0.0, True, 0.0, 0.0, 0.0, 1)
    with pytest.raises(CaptureFailure) as caught:
        decoder.decode([broken], [], 90)
    assert caught.value.code == "decode_failed"
    good = pictures[30]
    assert number(decoder.decode(good.to_decode(), [], 90)) == expected(good) - expected(pictures[0])


def test_motion_jpeg_is_stored_as_the_camera_made_it() -> None:
    image = np.full((32, 48, 3), 128, np.uint8)
    data = simplejpeg.encode_jpeg(image, 77)
    decoder = PictureDecoder(StreamInfo("mjpeg", b"", 48, 32, 25.0))
    jpeg = decoder.decode([Packet(data, 0.0, True, 0.0, 0.0, 0.0, 1)], [], 90)
    assert (jpeg.data, jpeg.width, jpeg.height) == (data, 48, 32)
    with pytest.raises(CaptureFailure):
        decoder.decode([Packet(b"not a picture", 0.0, True, 0.0, 0.0, 0.0, 1)], [], 90)


@pytest.mark.parametrize("height", [180, 720])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", [None, 1, 5])
def test_colours_survive_range_and_matrix(height: int, full: bool, matrix: int | None) -> None:
    """YUV of known colours, made with the textbook's numbers, comes back as those colours."""
    kr, kb = (0.2126, 0.0722) if matrix == 1 or (matrix is None and height >= 720) else (0.299, 0.114)
    for rgb in ((200, 30, 40), (30, 180, 60), (40, 60, 210), (128, 128, 128), (240, 240, 240), (12, 12, 12)):
        red, green, blue = (value / 255 for value in rgb)
        luma = kr * red + (1 - kr - kb) * green + kb * blue
        cb, cr = (blue - luma) / (2 - 2 * kb), (red - luma) / (2 - 2 * kr)
        levels = (255 * luma, 128 + 255 * cb, 128 + 255 * cr) if full else (16 + 219 * luma, 128 + 224 * cb, 128 + 224 * cr)
        planes = np.empty((height * 3 // 2, 320), np.uint8)
        planes[:height] = round(levels[0])
        planes[height : height * 5 // 4] = round(levels[1])
        planes[height * 5 // 4 :] = round(levels[2])
        frame: Any = av.VideoFrame.from_ndarray(planes, format="yuvj420p" if full else "yuv420p")
        if matrix is not None:
            frame.colorspace = matrix
        shown = simplejpeg.decode_jpeg(encode_jpeg(frame, 95).data)
        assert np.abs(shown[height // 2, 160].astype(int) - np.array(rgb)).max() <= 4, rgb
