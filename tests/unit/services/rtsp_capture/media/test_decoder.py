"""Any picture of a stream, in any order: the right one, whole, and nothing decoded twice where that can be avoided."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg

from demo.film import read_frame_number
from services.rtsp_capture.media import ffmpeg
from services.rtsp_capture.media.contexts import DecoderContexts
from services.rtsp_capture.media.decoder import KEPT, KEPT_SECONDS, PictureDecoder
from services.rtsp_capture.media.gop_buffer import Gop, Packet, Picture
from services.rtsp_capture.media.packets import Jpeg, StreamInfo
from tests.unit.services.rtsp_capture.capture_films import FILMS, FPS, Film, encode, film, pixels, received, scene, straight
from utils.exceptions import CaptureFailure

REORDERED = [name for name in FILMS if " b" in name and "baseline" not in name]
IN_ORDER = [name for name in FILMS if name not in REORDERED]


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> list[Packet]:
    """The packets that any decoder is given, as they are."""
    packets: list[Packet] = []
    original = ffmpeg.av_packet

    def counted(packet: Packet, label: int) -> Any:
        packets.append(packet)
        return original(packet, label)

    monkeypatch.setattr(ffmpeg, "av_packet", counted)
    return packets


def pictures(name: str) -> list[Picture]:
    return received(film(name).packets, film(name).info)


def shown(found: Sequence[Picture]) -> list[Picture]:
    return sorted(found, key=lambda picture: picture.packet.pts)


def number(jpeg: Jpeg) -> int | None:
    image = cv2.imdecode(np.frombuffer(jpeg.data, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return read_frame_number(image)


def expected(picture: Picture) -> int:
    return round(picture.packet.pts * FPS)


@pytest.mark.parametrize("name", list(FILMS))
def test_pictures_in_any_order_are_the_right_ones(name: str) -> None:
    source = film(name)
    whole = straight(source.info, source.packets)
    assert len(whole) == 80
    for seed in range(2):
        rng = random.Random(seed)
        decoder = PictureDecoder(source.info)
        # As much of the stream as has come: with none after the picture, some, or all.
        come = [received(source.packets[:end], source.info) for end in (30, 47, 80)]
        some = rng.choices(come[0] + come[1] + come[2], k=25)
        for picture in some + shown(rng.sample(come[2], 20)):
            assert np.array_equal(pixels(decoder.frame(picture)), whole[picture.packet.pts]), expected(picture)
    assert number(decoder.decode(pictures(name)[40], 90)) == expected(pictures(name)[40])


@pytest.mark.parametrize("name", list(FILMS))
def test_each_packet_is_decoded_once_when_every_picture_is_wanted(name: str, fed: list[Packet]) -> None:
    decoder = PictureDecoder(film(name).info)
    for picture in shown(pictures(name)):
        decoder.frame(picture)
    assert len(fed) == 80 + 1  # the first was taken for a dedicated keyframe


@pytest.mark.parametrize("name", IN_ORDER)
def test_nothing_beyond_the_picture_is_decoded(name: str, fed: list[Packet]) -> None:
    found = pictures(name)
    decoder = PictureDecoder(film(name).info)
    decoder.frame(found[10])
    assert fed == [picture.packet for picture in found[:11]]
    fed.clear()
    decoder.frame(found[20])  # on the way: it goes on
    assert fed == [picture.packet for picture in found[11:21]]
    fed.clear()
    decoder.frame(found[12])  # behind: it begins anew
    assert fed == [picture.packet for picture in found[:13]]
    fed.clear()
    decoder.frame(found[73])  # in a later group: it begins there
    assert fed == [picture.packet for picture in found[50:74]]


@pytest.mark.parametrize("name", REORDERED)
def test_a_picture_held_back_is_pushed_out_by_what_has_come(name: str, fed: list[Packet]) -> None:
    ahead = []
    for picture in [one for one in pictures(name)[26:45] if not one.needs_previous]:
        fed.clear()
        PictureDecoder(film(name).info).frame(picture)
        ahead.append(len(fed) - picture.index - 1)
    assert min(ahead) >= 0
    assert 0 < max(ahead) <= 6


@pytest.mark.parametrize("name", [name for name in FILMS if name != "h264 refresh"])
def test_a_keyframe_costs_one_packet(name: str, fed: list[Packet]) -> None:
    found = pictures(name)
    keys = [picture for picture in found if picture.packet.key]
    decoder = PictureDecoder(film(name).info)
    for picture in keys:
        decoder.frame(picture)
    assert fed == [picture.packet for picture in keys]
    assert decoder._context is None  # idle until the next one


@pytest.mark.parametrize("name", [name for name in IN_ORDER if name != "h264 refresh"])
def test_a_keyframe_among_others_is_decoded_once(name: str, fed: list[Packet]) -> None:
    """Two slots a group, one of them at its keyframe, which is the dearest of its pictures."""
    found = pictures(name)
    decoder = PictureDecoder(film(name).info)
    for at in (0, 12, 25, 37, 50, 62):
        decoder.frame(found[at])
    groups = [found[0:1] + found[0:13], found[25:38], found[50:63]]  # the first was taken for a dedicated keyframe
    assert fed == [picture.packet for group in groups for picture in group]


def test_a_picture_wanted_twice_is_decoded_once(fed: list[Packet]) -> None:
    now = 100.0
    found = pictures("h264")
    decoder = PictureDecoder(film("h264").info, monotonic=lambda: now)
    first, again = decoder.decode(found[30], 80), decoder.decode(found[30], 95)
    assert first.data != again.data
    assert len(fed) == 6
    decoder.decode(found[31], 80)
    decoder.decode(found[30], 90)
    assert len(fed) == 7
    assert len(decoder._kept) <= KEPT
    now += KEPT_SECONDS  # not for ever: a frame of 1080p takes 3 MB
    decoder.decode(found[32], 80)
    assert len(decoder._kept) == 1
    decoder.decode(found[30], 90)
    assert len(fed) == 8 + 6


@pytest.mark.parametrize("name", list(FILMS))
def test_a_decoder_kept_in_step_has_little_left_to_do(name: str, fed: list[Packet]) -> None:
    """Every packet once as it comes; then a picture costs its encoding, or what pushes it out."""
    source = film(name)
    whole = straight(source.info, source.packets)
    decoder = PictureDecoder(source.info)
    found = received(source.packets, source.info)
    for picture in found[:60]:
        decoder.advance(picture)
        assert len(decoder._kept) <= KEPT + 4
    assert len(fed) == 60
    wanted = found[59] if name in IN_ORDER else max(found[:57], key=lambda one: one.packet.pts)
    assert np.array_equal(pixels(decoder.frame(wanted)), whole[wanted.packet.pts])
    assert len(fed) <= 60 + (0 if name in IN_ORDER else 4)


# -- what cannot be decoded ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["h264", "hevc", "mjpeg"])
def test_junk_is_said_to_be(codec: str) -> None:
    rng = random.Random(1)
    decoder = PictureDecoder(StreamInfo(codec, b"", 0, 0, None))
    for start in (b"", b"\0\0\0\1\x65", b"\0\0\0\1\x26\1", b"\xff\xd8", b"\0\0\0\1\x67\x64\0\x28", b"\0\0\1\x67", b"\0\0\1"):
        for size in (0, 1, 3, 300):
            packet = Packet(start + rng.randbytes(size), 0.0, True, 0.0, 0.0, 0.0, 1)
            with pytest.raises(CaptureFailure) as caught:
                decoder.decode(Picture(packet, Gop.begin(packet, None), 0), 90)
            assert caught.value.code == "decode_failed"


def test_after_junk_the_next_keyframe_comes_through() -> None:
    source = film("h264")
    packets = list(source.packets)
    packets[25] = replace(packets[25], data=b"\0\0\0\1\x65" + b"\xff" * 300)
    found = received(packets, source.info)
    decoder = PictureDecoder(source.info)
    for index in (25, 30):
        with pytest.raises(CaptureFailure):
            decoder.frame(found[index])
    whole = straight(source.info, source.packets)
    for index in (24, 50, 60):
        assert np.array_equal(pixels(decoder.frame(found[index])), whole[found[index].packet.pts])


# -- forms of streams ------------------------------------------------------------------------------------------------


def all_right(source: Film, decoder: PictureDecoder | None = None) -> list[Any]:
    whole = straight(source.info, source.packets)
    decoder = decoder or PictureDecoder(source.info)
    frames = [(picture, decoder.frame(picture)) for picture in shown(received(source.packets, source.info))]
    assert all(np.array_equal(pixels(frame), whole[picture.packet.pts]) for picture, frame in frames)
    return [frame for _, frame in frames]


@pytest.mark.parametrize("name", ["h264 b", "hevc b"])
def test_parameter_sets_only_beside_the_stream(name: str) -> None:
    codec, options = FILMS[name]
    source = encode(codec, options, scene(40, 320, 180), extradata=True)
    assert source.info.extradata
    assert len(all_right(source)) == 40
    with pytest.raises(CaptureFailure):  # nor are they made up
        PictureDecoder(replace(source.info, extradata=b"")).frame(received(source.packets, source.info)[0])


def test_parameter_sets_in_avcc_form() -> None:
    source = encode(*FILMS["h264"], scene(40, 320, 180), extradata=True)
    sps, pps = [nal.rstrip(b"\0") for nal in source.info.extradata.split(b"\0\0\1")[1:] if nal[0] & 31 in (7, 8)]
    avcc = bytes([1, *sps[1:4], 0xFF, 0xE1, 0, len(sps)]) + sps + bytes([1, 0, len(pps)]) + pps
    info = replace(source.info, extradata=avcc)
    packets = [replace(p, data=b"".join(len(n).to_bytes(4, "big") + n for n in nals(p.data))) for p in source.packets]
    whole = straight(info, packets)
    decoder = PictureDecoder(info)
    for picture in received(packets, info):
        assert np.array_equal(pixels(decoder.frame(picture)), whole[picture.packet.pts])
    del packets[10]
    annexb = [p for i, p in enumerate(source.packets) if i != 10]
    assert [i for i, one in enumerate(received(annexb, info)) if one.packet.lost] == [10]


def nals(data: bytes) -> list[bytes]:
    return [part for part in data.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1") if part]


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_the_resolution_changes_in_the_stream(codec: str) -> None:
    """New parameter sets in band while those beside the stream are the old ones."""
    name = "h264" if codec == "h264" else "hevc"
    options = FILMS[name][1]
    before = encode(FILMS[name][0], options, scene(40, 320, 180))
    after = encode(FILMS[name][0], options, scene(40, 480, 270))
    beside = encode(FILMS[name][0], options, scene(40, 320, 180), extradata=True).info.extradata
    packets = (*before.packets, *[replace(p, pts=p.pts + 1.6) for p in after.packets])
    source = Film(replace(before.info, extradata=beside), packets)
    whole = straight(source.info, packets)
    decoder = PictureDecoder(source.info)
    found = received(packets, source.info)
    for picture in [*found, *random.Random(3).choices(found, k=20)]:
        frame = decoder.frame(picture)
        small = picture.packet.pts < 1.59
        assert (frame.width, frame.height) == ((320, 180) if small else (480, 270))
        assert np.array_equal(pixels(frame), whole[picture.packet.pts])
        jpeg = decoder.decode(picture, 80)
        assert (jpeg.width, jpeg.height) == (frame.width, frame.height)


def test_intra_refresh_hands_out_no_picture_before_it_is_whole(fed: list[Packet]) -> None:
    """No IDR but the film's first: who joins later begins at a recovery point."""
    source = film("h264 refresh")
    whole = straight(source.info, source.packets)
    found = received(source.packets[25:], source.info)
    assert found[0].packet.recovery == 18
    assert [i for i, one in enumerate(found) if not one.usable] == list(range(18))
    for picture in random.Random(1).sample(found[18:], 25):
        assert np.array_equal(pixels(PictureDecoder(source.info).frame(picture)), whole[picture.packet.pts])
    for picture in found[:18]:
        with pytest.raises(CaptureFailure):
            PictureDecoder(source.info).frame(picture)
    fed.clear()
    PictureDecoder(source.info).frame(found[30])  # 5 into the next round: from the round before
    assert fed == [one.packet for one in found[:31]]


def test_interlaced_pictures_are_one_frame_each() -> None:
    frames = all_right(film("h264 interlaced"))
    assert len(frames) == 80
    assert all(frame.interlaced_frame for frame in frames)
    assert {(frame.width, frame.height) for frame in frames} == {(320, 180)}


@pytest.mark.parametrize(("width", "height"), [(322, 182), (66, 50), (1918, 34)])
def test_sizes_that_are_cropped(width: int, height: int) -> None:
    planes = [np.full((height * 3 // 2, width), 60 + n, np.uint8) for n in range(3)]
    source = encode(*FILMS["h264"], planes)
    jpeg = PictureDecoder(source.info).decode(received(source.packets, source.info)[0], 90)
    assert (jpeg.width, jpeg.height) == (width, height)
    assert simplejpeg.decode_jpeg(jpeg.data).shape == (height, width, 3)


@pytest.mark.parametrize("codec", ["h264", "hevc"])
@pytest.mark.parametrize("pix_fmt", ["yuv420p10le", "yuv422p", "yuv444p", "yuv422p10le"])
def test_other_depths_and_subsamplings(codec: str, pix_fmt: str) -> None:
    source = encode(*FILMS[codec], scene(30, 320, 180), pix_fmt=pix_fmt)
    assert all(frame.format.name == pix_fmt for frame in all_right(source))
    picture = received(source.packets, source.info)[27]
    assert number(PictureDecoder(source.info).decode(picture, 90)) == 27


def test_motion_jpeg_is_stored_as_the_camera_made_it() -> None:
    data = simplejpeg.encode_jpeg(np.full((32, 48, 3), 128, np.uint8), 77)
    packet = Packet(data, 0.0, True, 0.0, 0.0, 0.0, 1)
    jpeg = PictureDecoder(StreamInfo("mjpeg", b"", 48, 32, 25.0)).decode(Picture(packet, Gop.begin(packet, None), 0), 90)
    assert (jpeg.data, jpeg.width, jpeg.height) == (data, 48, 32)


def test_times_that_repeat_do_not_mix_pictures_up() -> None:
    """A camera that starts again at 0 on the same connection."""
    source = film("h264")
    packets = [replace(p, pts=p.pts % 1.0) for p in source.packets]
    whole = straight(source.info, source.packets)
    decoder = PictureDecoder(source.info)
    found = received(packets, source.info)
    for index in (3, 28, 53, 29, 4):
        assert np.array_equal(pixels(decoder.frame(found[index])), whole[source.packets[index].pts])


def test_keyframes_of_many_streams_are_decoded_by_few_decoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has decoded what before: each picture is that of its own stream, and sets of others are not mixed in."""
    made: list[StreamInfo] = []
    original = ffmpeg.new_context

    def counted(info: StreamInfo) -> Any:
        made.append(info)
        return original(info)

    contexts, rng = DecoderContexts(), random.Random(1)
    films = [film(name) for name in FILMS for _ in range(2)]  # each by two cameras
    whole = [straight(one.info, one.packets) for one in films]
    decoders = [PictureDecoder(one.info, contexts=contexts) for one in films]
    keys = [[each for each in received(one.packets, one.info) if each.packet.key and each.usable] for one in films]
    monkeypatch.setattr(ffmpeg, "new_context", counted)
    wanted = [(at, picture) for at in range(len(films)) for picture in keys[at] if not picture.needs_previous]
    rng.shuffle(wanted)
    for at, picture in wanted:
        assert np.array_equal(pixels(decoders[at].frame(picture)), whole[at][picture.packet.pts]), list(FILMS)[at // 2]
    assert len(wanted) > 3 * len(FILMS)
    assert len(made) <= len(FILMS)
    assert len(contexts) == len(made)


def test_a_decoder_that_has_seen_more_than_one_keyframe_is_not_shared() -> None:
    contexts = DecoderContexts()
    source = film(IN_ORDER[0])
    decoder = PictureDecoder(source.info, contexts=contexts)
    found = received(source.packets, source.info)
    keys = [picture for picture in found if picture.packet.key]
    decoder.frame(found[1])
    decoder.frame(keys[1])
    decoder.frame(keys[2])
    assert len(contexts) == 0
    decoder.frame(keys[0])
    assert len(contexts) == 1


def test_decoders_that_have_waited_longest_are_given_up() -> None:
    contexts = DecoderContexts(most_pixels=250)
    key = ("h264", b"", 1, frozenset[bytes]())
    contexts.give(key, one := object(), 100)
    contexts.give(key, two := object(), 100)
    contexts.give(("hevc", *key[1:]), three := object(), 100)
    assert contexts.take(key) is two
    assert contexts.take(key) is None
    assert one is not two
    assert contexts.take(("hevc", *key[1:])) is three
