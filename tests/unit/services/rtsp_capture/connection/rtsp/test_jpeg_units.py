"""Motion JPEG by RTP (RFC 2435): pictures come out as they went in, whole or not at all."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st

from services.rtsp_capture.connection.rtsp.access_units import AccessUnit
from services.rtsp_capture.connection.rtsp.jpeg_units import _CHROMA, _LUMA, JpegAssembler, _scaled
from services.rtsp_capture.connection.rtsp.rtp import Rtp
from tests.kits.camera_table import jpeg_parts, jpeg_payloads, with_restarts
from tests.kits.fuzz import fuzzed
from tests.kits.scripted_camera import jpegs
from utils.exceptions import CaptureFailure

MAX = 67_108_864


def packets(payloads: list[bytes], timestamp: int = 0, profile: int = -1, extension: bytes = b"") -> list[Rtp]:
    last = len(payloads) - 1
    return [
        Rtp(26, at == last, at, timestamp, 7, part, 0, len(part), profile, extension) for at, part in enumerate(payloads)
    ]


def push(assembler: JpegAssembler, given_: list[Rtp]) -> list[AccessUnit]:
    return [unit for one in given_ for unit in assembler.push(one, 1.0, False)]


def image_of(data: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image.astype(np.uint8)


@pytest.mark.parametrize("limit", [200, 1400])
@pytest.mark.parametrize(("subsampling", "restart"), [("420", 0), ("422", 0), ("420", 4)])  # OpenCV's restarts are 4:2:0
def test_a_picture_comes_out_as_it_went_in(subsampling: str, restart: int, limit: int) -> None:
    picture = jpegs(3, 320, 184, subsampling)[2]
    picture = with_restarts(picture, restart) if restart else picture
    tables, scan = jpeg_parts(picture)
    payloads = jpeg_payloads(
        tables, scan, 320, 184, kind=0 if subsampling == "422" else 1, interval=restart, limit=limit
    )  # fmt: skip
    (unit,) = push(JpegAssembler(MAX), packets(payloads))
    assert (unit.key, unit.corrupt) == (True, False)
    assert np.array_equal(image_of(unit.data), image_of(picture))
    simplejpeg.decode_jpeg(unit.data, strict=True)
    assert unit.data.count(b"\xff\xdd\x00\x04") == bool(restart)


@pytest.mark.parametrize("quality", [1, 5, 25, 50, 75, 99])
def test_tables_by_q(quality: int) -> None:
    """RFC 2435, section 4.2 and appendix A: what libjpeg makes of the same quality, which OpenCV writes."""
    rng = np.random.default_rng(quality)
    image = cv2.resize(rng.integers(0, 255, (24, 40, 3), np.uint8), (320, 184))
    _, made = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    picture = made.tobytes()
    tables, scan = jpeg_parts(picture)
    assert _scaled(quality) == tables
    (unit,) = push(JpegAssembler(MAX), packets(jpeg_payloads(b"", scan, 320, 184, quality=quality)))
    assert np.array_equal(image_of(unit.data), image_of(picture))


def test_the_tables_are_those_of_the_rfc() -> None:
    """Appendix A at Q = 50: the first and last of each, in zigzag order."""
    assert _scaled(50) == _LUMA + _CHROMA
    assert (list(_LUMA[:8]), list(_LUMA[-3:])) == ([16, 11, 12, 14, 12, 10, 16, 14], [101, 103, 99])
    assert (list(_CHROMA[:6]), len(_LUMA), len(_CHROMA)) == ([17, 18, 18, 24, 21, 24], 64, 64)


def test_tables_that_come_once_count_for_their_q() -> None:
    """Section 4.2: for Q from 128 to 254 they may be left out later; for 255 they may not."""
    picture = jpegs(1, 320, 184)[0]
    tables, scan = jpeg_parts(picture)
    with_them = jpeg_payloads(tables, scan, 320, 184, quality=200)
    without = jpeg_payloads(b"", scan, 320, 184, quality=200)
    other = jpeg_payloads(b"", scan, 320, 184, quality=201)
    assembler = JpegAssembler(MAX)
    assert push(assembler, packets(without, 1)) == []
    first = push(assembler, packets(with_them, 2))
    assert [unit.data for unit in push(assembler, packets(without, 3))] == [unit.data for unit in first]
    assert push(assembler, packets(other, 4)) == []
    assembler = JpegAssembler(MAX)
    push(assembler, packets(jpeg_payloads(tables, scan, 320, 184), 1))
    assert push(assembler, packets(jpeg_payloads(b"", scan, 320, 184), 2)) == []


def test_a_picture_with_a_lost_fragment_is_left_out_and_the_next_is_whole() -> None:
    tables, scan = jpeg_parts(jpegs(1, 320, 184)[0])
    payloads = jpeg_payloads(tables, scan, 320, 184, limit=300)
    assert len(payloads) >= 4
    for gone in range(len(payloads)):
        assembler = JpegAssembler(MAX)
        given_ = packets(payloads, 1)
        assert push(assembler, given_[:gone] + given_[gone + 1 :]) == [], gone
        assert len(push(assembler, packets(payloads, 2))) == 1, gone


def extension(width: int, height: int, *, before: bytes = b"") -> bytes:
    """The headers of the original picture (ONVIF Streaming Specification, 5.1.3)."""
    return b"\xff\xd8" + before + struct.pack("!HHBHHB", 0xFFC0, 17, 8, height, width, 3) + bytes(9)


@pytest.mark.parametrize("before", [b"", b"\xff\xdb\x00\x05abc", b"\xff\xff"])
@pytest.mark.parametrize("profile", [0xFFD8, 0xFFFF])
def test_sizes_over_2040_pixels_by_onvifs_extension(profile: int, before: bytes) -> None:
    picture = jpegs(1, 2304, 1296)[0]
    tables, scan = jpeg_parts(picture)
    payloads = jpeg_payloads(tables, scan, 2304, 1296, extended=True)
    assert payloads[0][6:8] == b"\0\0"
    assembler = JpegAssembler(MAX)
    (unit,) = push(assembler, packets(payloads, 0, profile, extension(2304, 1296, before=before)))
    assert assembler.size == (2304, 1296)
    assert np.array_equal(image_of(unit.data), image_of(picture))
    assert push(JpegAssembler(MAX), packets(payloads)) == []  # without it there is no size
    assert push(JpegAssembler(MAX), packets(payloads, 0, 0xABAC, extension(2304, 1296))) == []


def test_pictures_are_bounded() -> None:
    tables, scan = jpeg_parts(jpegs(1, 320, 184)[0])
    payloads = jpeg_payloads(tables, scan, 320, 184)
    for most in (320 * 184, 320 * 184 - 1):
        assembler = JpegAssembler(most)
        if most == 320 * 184:
            assert len(push(assembler, packets(payloads))) == 1
            continue
        with pytest.raises(CaptureFailure):
            push(assembler, packets(payloads))
    with pytest.raises(CaptureFailure):
        push(JpegAssembler(MAX), packets(payloads, 0, 0xFFD8, extension(16384, 16384)))


PART = st.tuples(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255), st.integers(0, 255), st.binary(max_size=150))


@fuzzed
@given(st.lists(st.tuples(PART, st.integers(0, 2), st.booleans(), st.booleans(), st.binary(max_size=40)), max_size=40))
def test_any_payloads_give_pictures_or_a_failure(
    given_: list[tuple[tuple[int, int, int, int, bytes], int, bool, bool, bytes]],
) -> None:
    assembler = JpegAssembler(MAX)
    expected = 0
    for (kind, quality, width, height, body), timestamp, marker, begins, extension_ in given_:
        expected = 0 if begins else expected
        payload = expected.to_bytes(4, "big") + bytes((kind, quality, width, height)) + body
        expected += len(body)
        packet = Rtp(26, marker, 0, timestamp, 7, payload, 0, len(payload), 0xFFD8 if extension_ else -1, extension_)
        try:
            units = assembler.push(packet, 1.0, False)
        except CaptureFailure:
            assembler = JpegAssembler(MAX)
            continue
        for unit in units:
            assert unit.data.startswith(b"\xff\xd8")
            assert unit.data.endswith(b"\xff\xd9")
