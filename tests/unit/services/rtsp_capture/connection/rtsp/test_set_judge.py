"""16384 x 16384 never reaches a decoder, by whatever way its parameter set comes, and by neither reader."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.rtsp_capture.connection.rtsp.rtp import Rtp
from services.rtsp_capture.connection.rtsp.set_judge import SetJudge
from services.rtsp_capture.media import h264
from services.rtsp_capture.media.decoder import PictureDecoder
from services.rtsp_capture.media.sps import picture_format
from tests.kits.big_sets import h264_sps, hevc_sps
from tests.kits.camera_table import CAMERAS
from tests.kits.fuzz import fuzzed
from tests.kits.odd_camera import IDR, PPS, SLICE, SPS
from tests.kits.scripted_camera import play_native, play_opencv
from tests.unit.services.rtsp_capture.capture_films import film, received
from utils.exceptions import CaptureFailure

MAX = 67_108_864
BIG = h264_sps(16384, 16384)
BIG_HEVC = hevc_sps(16384, 16384)


def packet(payload: bytes) -> Rtp:
    return Rtp(96, False, 0, 0, 7, payload, 0, len(payload))


def aggregate(head: bytes, *nals: bytes) -> bytes:
    return head + b"".join(len(nal).to_bytes(2, "big") + nal for nal in nals)


def test_sizes_are_read() -> None:
    assert picture_format("h264", BIG).coded == picture_format("hevc", BIG_HEVC).coded == 16384 * 16384
    assert picture_format("h264", h264_sps(1920, 1088)).coded == 1920 * 1088


@pytest.mark.parametrize(
    ("codec", "payload"),
    [
        ("h264", BIG), ("h264", aggregate(b"\x78", SPS, BIG, PPS)), ("h264", SPS + b"\0\0\1" + BIG),
        ("h264", SLICE + bytes(3) + b"\1" + BIG), ("h264", b"\x7c\x05" + b"abc\0\0\1" + BIG),
        ("h264", aggregate(b"\x78", IDR + b"\0\0\1" + BIG)), ("hevc", BIG_HEVC),
        ("hevc", aggregate(b"\x60\x01", b"\x40\x01\x0c", BIG_HEVC)), ("hevc", b"\x02\x01\xd0\0\0\1" + BIG_HEVC),
    ],
)  # fmt: skip
def test_a_set_of_too_many_pixels_ends_the_connection(codec: str, payload: bytes) -> None:
    with pytest.raises(CaptureFailure) as caught:
        SetJudge(codec, MAX).passes(packet(payload))
    assert caught.value.code == "unsupported_codec"


def test_what_cannot_be_judged_does_not_pass() -> None:
    judge = SetJudge("h264", MAX)
    assert not judge.passes(packet(b"\x7c\x87" + BIG[1:10]))  # in fragments, the first
    assert not judge.passes(packet(b"\x7c\x47" + BIG[10:]))
    assert not judge.passes(packet(b"\x67\x42\xc0\x1e\x00"))  # it makes no sense
    assert judge.passes(packet(b"\x7c\x85" + b"abc\0\0"))
    assert not judge.passes(packet(b"\x7c\x05\1" + BIG))  # a start code across two fragments
    with pytest.raises(CaptureFailure):
        SetJudge("mjpeg", 2_000_000).passes(packet(bytes((0, 0, 0, 0, 1, 255, 255, 255))))


@pytest.mark.parametrize("name", ["h264", "h264 slices", "hevc", "h264 b open"])
def test_films_pass(name: str) -> None:
    source = film(name)
    judge = SetJudge(source.info.codec, MAX)
    for one in source.packets:
        for nal in one.data.split(b"\0\0\1")[1:]:
            assert judge.passes(packet(nal.rstrip(b"\0")))


CHANGES: list[Callable[[list[bytes]], list[bytes]]] = [
    lambda old: [BIG, *old],
    lambda old: [old[0] + b"\0\0\0\1" + BIG, *old[1:]],
    lambda old: [SLICE + b"\0\0\1" + BIG],
]


@pytest.mark.parametrize("change", CHANGES)
async def test_by_both_readers_nothing_of_it_comes_through(change: Callable[[list[bytes]], list[bytes]]) -> None:
    script = CAMERAS["no reports"].made(4.0)
    script.shots[50].payloads = change(script.shots[50].payloads)
    for told in (play_native(script), await play_opencv(script)):
        assert told.failure is not None
        assert told.failure.code == "unsupported_codec"
        assert 40 < len(told.packets) <= 50
        assert not any(BIG in one.data for one in told.packets)


async def test_in_the_sdp_too() -> None:
    script = dataclasses.replace(CAMERAS["no reports"].made(1.0), sdp_sets=(BIG, PPS))
    with pytest.raises(CaptureFailure):
        play_native(script)
    told = await play_opencv(script)
    assert told.failure is not None
    assert told.failure.code == "unsupported_codec"


@pytest.mark.parametrize("name", ["h264", "hevc"])
def test_the_decoder_itself_refuses(name: str) -> None:
    """Were all else wrong."""
    source = film(name)
    for most, whole in ((MAX, True), (320 * 180 - 1, False)):
        info = dataclasses.replace(source.info, max_pixels=most)
        picture = received(source.packets[:1], info)[0]
        if whole:
            assert PictureDecoder(info).decode(picture, 90).width == 320
        else:
            with pytest.raises(CaptureFailure):
                PictureDecoder(info).decode(picture, 90)


def test_sets_are_bounded() -> None:
    """1 KB, and 255 frames in a cycle."""
    assert picture_format("h264", h264_sps(320, 192, cycle=255)).coded == 320 * 192
    with pytest.raises(ValueError, match="cycle"):
        picture_format("h264", h264_sps(320, 192, cycle=256))
    long = SPS + b"\xff" * (h264.MAX_SPS_BYTES - len(SPS))
    assert picture_format("h264", long).width == 320
    for codec in ("h264", "hevc"):
        with pytest.raises(ValueError, match="bytes"):
            picture_format(codec, long + b"\xff")


@fuzzed
@given(st.sampled_from(["h264", "hevc", "mjpeg"]), st.lists(st.binary(max_size=80), max_size=20))
def test_any_payloads_are_judged(codec: str, payloads: list[bytes]) -> None:
    judge = SetJudge(codec, MAX)
    for payload in payloads:
        try:
            judge.passes(packet(payload))
            judge.passes(packet(b"\x78" + payload))
            judge.passes(packet(b"\x7c" + payload))
        except CaptureFailure:
            pass
