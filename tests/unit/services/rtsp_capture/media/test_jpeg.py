"""JPEGs of decoded frames keep their colours; a camera's own are taken as they are, if they are whole."""

from __future__ import annotations

import random
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray

from services.rtsp_capture.media.jpeg import encode_jpeg, received_jpeg
from utils.exceptions import CaptureFailure

Rgb = NDArray[np.float64]
WEIGHTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}


def colourful(width: int, height: int) -> Rgb:
    """Smooth, 0 to 1: every hue at many brightnesses, nothing that 4:2:0 or JPEG would lose."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    waves = ((1, 0.5, 0), (-0.7, 1, 0.33), (0.4, -1.2, 0.66))
    return np.stack([0.5 + 0.5 * np.sin(2 * np.pi * (a * x + b * y + c)) for a, b, c in waves], axis=2)


def planes(rgb: Rgb, weights: tuple[float, float], *, full: bool, bits: int = 8) -> list[Rgb]:
    """Y'CbCr by ITU-T H.273's equations, in float64, not subsampled."""
    red, blue = weights
    luma = red * rgb[..., 0] + (1 - red - blue) * rgb[..., 1] + blue * rgb[..., 2]
    cb, cr = (rgb[..., 2] - luma) / (2 - 2 * blue), (rgb[..., 0] - luma) / (2 - 2 * red)
    scale = 1 << bits - 8
    if full:
        top = (1 << bits) - 1
        return [top * luma, 128 * scale + top * cb, 128 * scale + top * cr]
    return [scale * (16 + 219 * luma), scale * (128 + 224 * cb), scale * (128 + 224 * cr)]


def frame_of(rgb: Rgb, pix_fmt: str, weights: tuple[float, float], *, full: bool) -> Any:
    bits = 10 if "10" in pix_fmt else 8
    height, width = rgb.shape[:2]
    frame: Any = av.VideoFrame(width, height, pix_fmt)
    across, down = {"420": (2, 2), "422": (2, 1), "444": (1, 1)}[pix_fmt.split("p")[0][-3:]]
    for number, (plane, values) in enumerate(zip(frame.planes, planes(rgb, weights, full=full, bits=bits), strict=True)):
        if number:
            values = values.reshape(height // down, down, width // across, across).mean(axis=(1, 3))
        wanted = np.clip(np.rint(values), 0, (1 << bits) - 1).astype("<u2" if bits > 8 else np.uint8)
        lines = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        made = lines.copy()
        made[:, : wanted.shape[1] * wanted.itemsize] = wanted.view(np.uint8).reshape(wanted.shape[0], -1)
        plane.update(made)
    return frame


def error(frame: Any, rgb: Rgb) -> float:
    shown = simplejpeg.decode_jpeg(encode_jpeg(frame, 95).data)
    return float(np.abs(shown - 255 * rgb[: shown.shape[0], : shown.shape[1]]).mean())


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le"])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", [1, 5, 6, 9])
def test_colours_survive_matrix_range_and_subsampling(matrix: int, full: bool, pix_fmt: str) -> None:
    rgb = colourful(320, 180)
    frame = frame_of(rgb, pix_fmt, WEIGHTS[matrix], full=full)
    frame.colorspace, frame.color_range = matrix, 2 if full else 1
    assert error(frame, rgb) <= 1.2  # required: 2 of 255
    other = frame_of(rgb, pix_fmt, WEIGHTS[matrix], full=full)
    other.colorspace, other.color_range = matrix, 1 if full else 2  # the wrong range is told from the right one
    assert error(other, rgb) > 4


@pytest.mark.parametrize("height", [180, 720])
def test_a_stream_that_names_no_matrix_is_taken_as_players_do(height: int) -> None:
    rgb = colourful(320, height)
    frame = frame_of(rgb, "yuv420p", WEIGHTS[1 if height == 720 else 5], full=False)
    assert error(frame, rgb) <= 1.2
    assert error(frame_of(rgb, "yuv420p", WEIGHTS[5 if height == 720 else 1], full=False), rgb) > 2
    full = frame_of(rgb, "yuvj420p", WEIGHTS[1 if height == 720 else 5], full=True)
    assert error(full, rgb) <= 1.2


@pytest.mark.parametrize(("width", "height"), [(322, 182), (318, 178), (16, 16), (1918, 130), (321, 181)])
def test_odd_sizes(width: int, height: int) -> None:
    """Lines are padded in memory; an odd last row or column is left out."""
    rgb = colourful(width, height)
    frame = frame_of(rgb, "yuv444p", WEIGHTS[6], full=False)
    frame.colorspace = 6
    jpeg = encode_jpeg(frame, 95)
    assert (jpeg.width, jpeg.height) == (width // 2 * 2, height // 2 * 2)
    if width > 16 and width % 2 == 0:
        assert error(frame, rgb) <= 1.5
        even = frame_of(rgb, "yuv420p", WEIGHTS[1], full=False)
        even.colorspace = 1
        assert error(even, rgb) <= 1.5


def test_the_frame_is_not_changed() -> None:
    """It is kept for another capture's quality."""
    frame = frame_of(colourful(320, 180), "yuv420p", WEIGHTS[1], full=False)
    before = [bytes(plane) for plane in frame.planes]
    first = encode_jpeg(frame, 80)
    assert encode_jpeg(frame, 95).data != first.data
    assert encode_jpeg(frame, 80) == first
    assert [bytes(plane) for plane in frame.planes] == before


# -- Motion JPEG -----------------------------------------------------------------------------------------------------


def picture(width: int = 320, height: int = 180, subsampling: str = "420") -> bytes:
    image = np.rint(255 * colourful(width, height)).astype(np.uint8)
    image[::7, ::5] = 255 - image[::7, ::5]
    return bytes(simplejpeg.encode_jpeg(image, 85, "RGB", subsampling))


def without_tables(data: bytes) -> bytes:
    at = 2
    while data[at + 1] != 0xDA:
        size = 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] == 0xC4:
            data = data[:at] + data[at + size :]
        else:
            at += size
    return data


@pytest.mark.parametrize("subsampling", ["420", "422", "444", "Gray"])
def test_a_whole_picture_is_kept_byte_by_byte(subsampling: str) -> None:
    data = picture(subsampling=subsampling) if subsampling != "Gray" else bytes(
        simplejpeg.encode_jpeg(np.full((180, 320, 1), 90, np.uint8), 85, "GRAY")
    )  # fmt: skip
    jpeg = received_jpeg(data)
    assert (jpeg.data, jpeg.width, jpeg.height) == (data, 320, 180)
    assert received_jpeg(data + b"\0" * 7).data == data  # RTP pads


def test_ffmpegs_pictures_are_accepted() -> None:
    encoder: Any = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 320, 180, "yuvj420p", Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(np.rint(255 * colourful(320, 180)).astype(np.uint8), format="rgb24")
    data = bytes(encoder.encode(frame.reformat(format="yuvj420p"))[0])
    assert received_jpeg(data).data == data


def test_a_cut_or_damaged_picture_is_refused() -> None:
    data = picture()
    rng = random.Random(1)
    for size in [0, 1, 2, 3, 20, 200, len(data) - 3, *rng.choices(range(300, len(data)), k=10)]:
        for end in (b"", b"\xff\xd9"):
            if data[:size] + end == data:
                continue
            with pytest.raises(CaptureFailure) as caught:
                received_jpeg(data[:size] + end)
            assert caught.value.code == "decode_failed"
    soi, eoi = b"\xff\xd8", b"\xff\xd9"
    for junk in (b"", b"not a picture", soi + eoi, soi + bytes(500) + eoi, soi + b"\xff" + eoi):
        with pytest.raises(CaptureFailure):
            received_jpeg(junk)


def test_a_picture_with_a_hole_is_refused() -> None:
    """A lost RTP packet: FFmpeg's depacketizer puts the rest together."""
    data = picture(1280, 720)
    scan = data.find(b"\xff\xda")
    refused = 0
    for at in range(scan + 500, len(data) - 2000, len(data) // 20):
        try:
            received_jpeg(data[:at] + data[at + 1400 :])
        except CaptureFailure:
            refused += 1
    assert refused >= 15


def test_left_out_huffman_tables_are_put_in() -> None:
    data = picture()
    bare = without_tables(data)
    assert b"\xff\xc4" in data
    assert b"\xff\xc4" not in bare[: bare.find(b"\xff\xda")]
    jpeg = received_jpeg(bare)
    assert b"\xff\xc4" in jpeg.data
    assert np.array_equal(simplejpeg.decode_jpeg(jpeg.data), simplejpeg.decode_jpeg(data))


def test_two_fields_in_one_picture_are_refused() -> None:
    with pytest.raises(CaptureFailure, match="field"):
        received_jpeg(picture(320, 90) + picture(320, 90))
