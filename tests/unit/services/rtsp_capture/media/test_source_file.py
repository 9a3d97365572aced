"""A keyframe in a file of its own: what it decodes to, what its headers say, and what is refused."""

from __future__ import annotations

import io
from dataclasses import replace
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from services.rtsp_capture.media import h264
from services.rtsp_capture.media.gop_buffer import Gop, Picture
from services.rtsp_capture.media.jpeg import encode_jpeg
from services.rtsp_capture.media.packets import StreamInfo
from services.rtsp_capture.media.source_file import source_file
from services.rtsp_capture.media.source_reading import is_source, open_source, rgb
from tests.kits.source_pictures import damaged_file, file_of, keyframes
from tests.unit.services.rtsp_capture.capture_films import FILMS, encode, film, pixels, received, scene, straight
from utils.exceptions import CaptureFailure

MAX_PIXELS = 50_000_000


def with_data(picture: Picture, data: bytes) -> Picture:
    packet = replace(picture.packet, data=data)
    return Picture(packet, Gop([packet]), 0)


@pytest.mark.parametrize("name", FILMS)
def test_it_decodes_to_the_streams_own_picture(name: str) -> None:
    made = film(name)
    stream = straight(made.info, made.packets)
    whole = [picture for picture in keyframes(name) if not picture.needs_previous]
    assert len(whole) == (1 if "refresh" in name else len(keyframes(name)))
    for picture in whole:
        file = source_file(made.info, picture, lossy=False)
        found = open_source(file.data, MAX_PIXELS)
        assert found.whole
        assert np.array_equal(pixels(found.frame), stream[picture.packet.pts])
        assert (file.width, file.height) == (found.frame.width, found.frame.height)
        assert is_source(file.data)


def test_equal_pictures_are_equal_files_and_the_file_shows_one_picture_for_its_time() -> None:
    assert file_of().data == file_of().data
    with av.open(io.BytesIO(file_of().data), "r") as opened:
        stream = opened.streams.video[0]
        assert stream.frames == 1
        assert stream.duration is not None
        assert stream.time_base is not None
        assert stream.duration * stream.time_base == Fraction(1, 25)
        assert not any("Lavf" in text for text in (*opened.metadata.values(), *stream.metadata.values()))


@pytest.mark.parametrize("name", ["hevc", "hevc slices"])
def test_h265_is_hvc1_with_its_parameter_sets_in_the_sample_entry_alone(name: str) -> None:
    file = io.BytesIO(file_of(name).data)
    with av.open(file, "r") as opened:
        (packet,) = [one for one in opened.demux(video=0) if one.size]
        sample, entry = bytes(packet), bytes(opened.streams.video[0].codec_context.extradata or b"")
        assert opened.streams.video[0].codec_context.codec_tag == "hvc1"
    kinds, at = [], 0
    while at < len(sample):
        kinds.append(sample[at + 4] >> 1 & 63)
        at += 4 + int.from_bytes(sample[at : at + 4])
    assert at == len(sample)
    assert not {32, 33, 34} & set(kinds)
    assert set(kinds) & set(range(16, 24))
    arrays, at = [], 23
    for _ in range(entry[22]):
        arrays.append(entry[at])
        count, at = int.from_bytes(entry[at + 1 : at + 3]), at + 3
        for _ in range(count):
            at += 2 + int.from_bytes(entry[at : at + 2])
    assert {0x80 | 32, 0x80 | 33, 0x80 | 34} <= set(arrays)  # complete: nothing follows in the sample
    assert all(one & 0x80 for one in arrays)
    assert at == len(entry)


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_colours_and_the_shape_of_pixels_are_what_the_stream_says(codec: str) -> None:
    name = "x264-params" if codec == "h264" else "x265-params"
    wide = "fullrange=on" if codec == "h264" else "range=full:log-level=none"
    params = f"sar=4\\:3:colorprim=bt709:transfer=bt709:colormatrix=bt709:keyint=5:{wide}"
    made = encode(codec, {name: params}, scene(6, 320, 180))  # type: ignore[arg-type]
    picture = next(one for one in received(made.packets, made.info) if one.packet.key)
    frame = open_source(source_file(made.info, picture, lossy=False).data, MAX_PIXELS).frame
    with av.open(io.BytesIO(source_file(made.info, picture, lossy=False).data), "r") as opened:
        assert opened.streams.video[0].sample_aspect_ratio == Fraction(4, 3)
    assert (int(frame.colorspace), int(frame.color_range)) == (1, 2)


def test_delimiters_and_filler_are_left_out_and_parameter_sets_come_from_the_description() -> None:
    made, picture = film("h264"), keyframes()[1]
    nals = picture.packet.data.split(b"\0\0\1")[1:]
    sets = [nal for nal in nals if nal[0] & 31 in (h264.SPS, h264.PPS)]
    rest = [nal for nal in nals if nal[0] & 31 not in (h264.SPS, h264.PPS)]
    padded = b"".join(b"\0\0\0\1" + nal for nal in (b"\x09\xf0", *rest, b"\x0c" + b"\xff" * 50_000 + b"\x80"))
    info = replace(made.info, extradata=b"".join(b"\0\0\0\1" + nal for nal in sets) or made.info.extradata)
    file = source_file(info, with_data(picture, padded), lossy=False)
    assert len(file.data) < len(picture.packet.data) + 2000
    found, plain = open_source(file.data, MAX_PIXELS), open_source(file_of().data, MAX_PIXELS)
    assert np.array_equal(pixels(found.frame), pixels(plain.frame))


def test_without_parameter_sets_there_is_no_file() -> None:
    made, picture = film("h264"), keyframes()[1]
    bare = b"".join(
        b"\0\0\0\1" + nal for nal in picture.packet.data.split(b"\0\0\1")[1:] if nal[0] & 31 not in (h264.SPS, h264.PPS)
    )
    with pytest.raises(CaptureFailure, match="parameter sets never came"):
        source_file(replace(made.info, extradata=b""), with_data(picture, bare), lossy=False)


@pytest.mark.parametrize("data", [b"", b"\0\0\1", b"\0\0\1\x65", b"\0\0\0\1\x67\xff\xff\xff\0\0\1\x65\xff\xff", bytes(5000)])
@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_garbage_is_decode_failed(codec: str, data: bytes) -> None:
    info = StreamInfo(codec, b"", 320, 180, 25.0)
    with pytest.raises(CaptureFailure) as caught:
        source_file(info, with_data(keyframes()[0], data), lossy=False)
    assert caught.value.code == "decode_failed"


def test_what_is_known_to_be_lost_and_what_is_no_keyframe_is_refused() -> None:
    made, picture = film("h264"), keyframes()[1]
    with pytest.raises(CaptureFailure, match="no keyframe"):
        source_file(made.info, Picture(picture.gop.packets[3], picture.gop, 3), lossy=False)
    packet = replace(picture.packet, corrupt=True)
    with pytest.raises(CaptureFailure, match="was lost"):
        source_file(made.info, Picture(packet, Gop.begin(packet, None), 0), lossy=False)


def test_a_field_by_itself_is_refused() -> None:
    made, picture = film("h264 interlaced"), keyframes("h264 interlaced")[1]
    nals = picture.packet.data.split(b"\0\0\1")[1:]
    sets = [nal.rstrip(b"\0") for nal in nals if nal[0] & 31 in (h264.SPS, h264.PPS)]
    sets = sets or [nal.rstrip(b"\0") for nal in made.info.extradata.split(b"\0\0\1")[1:]]
    number_bits = h264.parse_sps(next(nal for nal in sets if nal[0] & 31 == h264.SPS)).frame_num_bits
    bits = "1" + "0001000" + "1" + "0" * number_bits + "1" + "0"  # of macroblock 0, I, the set 0; a field, the upper one
    head = int(bits.ljust(320, "1"), 2).to_bytes(40)
    data = b"".join(b"\0\0\0\1" + nal for nal in (*sets, b"\x65" + head))
    with pytest.raises(CaptureFailure, match="interlaced fields"):
        source_file(made.info, with_data(picture, data), lossy=False)


@pytest.mark.parametrize("name", ["h264", "hevc"])
def test_damage_shows_when_it_is_decoded(name: str) -> None:
    assert not open_source(damaged_file(name).data, MAX_PIXELS).whole
    assert open_source(b"no file at all", MAX_PIXELS) == (None, False)
    assert open_source(file_of(name).data, 1000).frame is None  # more pixels than it may have


def test_loss_without_a_sign_is_told_of_opencv_by_udp_only() -> None:
    made, picture = film("h264"), keyframes()[1]
    assert source_file(made.info, picture, lossy=True).silent
    assert not source_file(replace(made.info, tells_losses=True), picture, lossy=True).silent
    assert not source_file(made.info, picture, lossy=False).silent


def test_its_colours_are_those_of_the_jpeg() -> None:
    frame = open_source(file_of().data, MAX_PIXELS).frame
    jpeg = cv2.imdecode(np.frombuffer(encode_jpeg(frame, 100).data, np.uint8), cv2.IMREAD_COLOR)
    assert jpeg is not None
    smooth = [cv2.blur(np.ascontiguousarray(one), (16, 16)) for one in (rgb(frame)[:, :, ::-1], jpeg)]  # chroma is halved
    assert float(cv2.absdiff(*smooth).mean()) < 1.5
