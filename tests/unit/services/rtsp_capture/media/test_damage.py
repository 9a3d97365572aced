"""Damaged streams: what is handed out is whole, and what was whole before the damage is handed out."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from models.values import Integrity
from services.rtsp_capture.media import h264
from services.rtsp_capture.media.damage import Damage, LossWatch
from services.rtsp_capture.media.decoder import PictureDecoder
from services.rtsp_capture.media.ffmpeg import decoder_errors
from services.rtsp_capture.media.gop_buffer import Packet
from tests.unit.services.rtsp_capture.capture_films import (
    FILMS,
    Film,
    encode,
    film,
    pixels,
    received,
    scene,
    straight,
)
from utils.exceptions import CaptureFailure

SAME = 0.3  # mean difference of two decodings of one picture, of 255: none
MTU = 1400


def reference(film_: Film) -> dict[float, NDArray[np.uint8]]:
    key = id(film_)
    if key not in _references:
        _references.clear()
        _references[key] = straight(film_.info, film_.packets)
    return _references[key]


_references: dict[int, dict[float, NDArray[np.uint8]]] = {}  # of one film: those of `film` live as long as the tests


def decode_all(film_: Film, packets: Sequence[Packet], lost: int) -> Counter[str]:
    """Every picture of the damaged stream, wanted in the order of showing; what became of them.

    `lost`: the index in `film_.packets` of the packet that is damaged or missing.
    """
    whole = reference(film_)
    order = {packet.pts: index for index, packet in enumerate(film_.packets)}
    next_key = next((i for i, p in enumerate(film_.packets) if p.key and i > lost), len(film_.packets))
    next_key_pts = film_.packets[next_key].pts if next_key < len(film_.packets) else np.inf
    decoder, told = PictureDecoder(film_.info), Counter[str]()
    for picture in sorted(received(packets, film_.info), key=lambda one: one.packet.pts):
        index = order[picture.packet.pts]
        if not lost - 12 <= index <= next_key + 12:
            continue
        try:
            frame = decoder.frame(picture)
        except CaptureFailure:
            told["refused"] += 1
            told["refused before the loss"] += index < lost
            # Leading pictures refer to the group before; after an intra refresh's damage the next has to be gone through.
            told["refused later"] += index > next_key and picture.packet.pts > next_key_pts and not picture.needs_previous
            continue
        difference = cv2.absdiff(pixels(frame), whole[picture.packet.pts]).mean()
        told["good" if difference <= SAME else "smeared"] += 1
    return told


@pytest.mark.parametrize("name", list(FILMS))
def test_nothing_smeared_after_a_lost_access_unit(name: str) -> None:
    """Keyframes, pictures that others refer to and those that none does: each is taken out once in a while."""
    source = film(name)
    total: Counter[str] = Counter()
    for lost in [25, *random.Random(name).sample(range(2, 60), 7)]:
        told = decode_all(source, [p for i, p in enumerate(source.packets) if i != lost], lost)
        assert told["smeared"] == told["refused before the loss"] == told["refused later"] == 0, (lost, told)
        total += told
    assert total["good"] > 8 * (11 if name == "h264 refresh" else 20)
    assert total["refused"] > 8 * 2


@pytest.mark.parametrize("name", [name for name in FILMS if name.startswith("h264") and name != "h264 refresh"])
def test_nothing_smeared_after_a_lost_part_of_an_access_unit(name: str) -> None:
    """As UDP loses it: the end, or a piece of a packet's size out of the middle.

    Of a piece out of the middle the decoder does not always say something (measured: of 40 cuts each 2 silent, with
    B-pictures 7 and 14): there the reader has to tell, as `native` does.
    """
    source = film(name, 60, 640, 360, 2_500_000)
    rng = random.Random(name)
    large = [i for i, p in enumerate(source.packets) if 2 < i < 48 and len(p.data) > 2 * MTU]
    for count, lost in enumerate(rng.sample(large, 4)):
        data = source.packets[lost].data
        at = rng.randrange(1, len(data) // MTU) * MTU
        data = data[:at] + (data[at + MTU :] if count % 2 else b"")
        packets = list(source.packets)
        packets[lost] = replace(packets[lost], data=data, corrupt=bool(count % 2))
        told = decode_all(source, packets, lost)
        assert told["smeared"] == told["refused before the loss"] == told["refused later"] == 0, (lost, told)
        assert told["good"] >= 12
        assert told["refused"] >= 1


def test_a_lost_slice_is_missed() -> None:
    """FFmpeg fills the hole with the picture before, and says so in the frame only."""
    source = film("h264 slices")
    for lost, slice_ in ((12, 1), (30, 2), (41, 3)):
        parts = source.packets[lost].data.split(b"\0\0\1")
        assert len(parts) == 5
        packets = list(source.packets)
        packets[lost] = replace(packets[lost], data=b"\0\0\1".join(parts[: slice_ + 1] + parts[slice_ + 2 :]))
        told = decode_all(source, packets, lost)
        assert (told["smeared"], told["refused before the loss"], told["refused later"]) == (0, 0, 0)


def test_damage_does_not_reach_into_the_next_group() -> None:
    """A picture that ends early waits in the decoder for the rest; the next keyframe then comes out smeared."""
    source = film("h264 baseline", 100)
    for lost in (24, 49, 74):
        packets = list(source.packets)
        packets[lost] = replace(packets[lost], data=packets[lost].data[: len(packets[lost].data) // 2])
        told = decode_all(source, packets, lost)
        assert (told["smeared"], told["refused"]) == (0, 1), lost


def test_beginning_at_an_open_groups_keyframe_is_no_damage() -> None:
    """Pictures before it are to be forgotten that never came."""
    parameters = "scenecut=0:keyint=25:min-keyint=25:bframes=3:b-adapt=0:open-gop=1:threads=1"
    options = {"preset": "veryfast", "x264-params": parameters}
    source = encode("h264", options, scene(80, 320, 180))
    whole = straight(source.info, source.packets)
    for picture in received(source.packets, source.info)[26:32]:
        frame = PictureDecoder(source.info).frame(picture)
        assert np.array_equal(pixels(frame), whole[picture.packet.pts])


def test_it_is_said_where_nothing_would_have_told() -> None:
    """A part lost within an access unit may be silent; a transport that loses nothing has none of that."""
    picture = received(film("hevc").packets, film("hevc").info)[3]
    assert PictureDecoder(film("hevc").info).decode(picture, 90).integrity is Integrity.VERIFIED
    assert PictureDecoder(film("hevc").info, lossy=True).decode(picture, 90).integrity == "unknown"
    other = received(film("h264").packets, film("h264").info)[3]
    assert PictureDecoder(film("h264").info).decode(other, 90).integrity is Integrity.VERIFIED
    assert PictureDecoder(film("h264").info, lossy=True).decode(other, 90).integrity == "unknown"
    told = replace(film("h264").info, tells_losses=True)
    assert PictureDecoder(told, lossy=True).decode(other, 90).integrity is Integrity.VERIFIED


def test_a_packet_that_the_reader_knows_to_be_damaged_spoils_what_follows() -> None:
    source = film("hevc")
    packets = [replace(p, corrupt=i == 30) for i, p in enumerate(source.packets)]
    pictures = received(packets, source.info)
    assert [i for i, picture in enumerate(pictures) if not picture.usable] == list(range(30, 50))
    with pytest.raises(CaptureFailure):
        PictureDecoder(source.info).frame(pictures[35])
    packets = [replace(p, corrupt=i == 25) for i, p in enumerate(source.packets)]
    assert [i for i, one in enumerate(received(packets, source.info)) if not one.usable] == list(range(25, 50))


def test_what_the_decoder_finds_is_known_of_later_pictures() -> None:
    """The sampler then takes another picture instead of trying them all."""
    source = film("hevc")
    pictures = received([p for i, p in enumerate(source.packets) if i != 30], source.info)
    assert all(picture.usable for picture in pictures)
    with pytest.raises(CaptureFailure):
        PictureDecoder(source.info).frame(pictures[40])
    assert [i for i, one in enumerate(pictures) if not one.usable] == list(range(30, 49))


# -- the watch -----------------------------------------------------------------------------------------------------


def losses(packets: Sequence[Packet], name: str) -> list[int]:
    watch = LossWatch(film(name).info.codec, b"")
    return [i for i, p in enumerate(packets) if watch.check(p.data, p.pts, p.key).lost]


@pytest.mark.parametrize("name", list(FILMS))
def test_an_undamaged_stream_has_no_losses(name: str) -> None:
    assert losses(film(name).packets, name) == []


def test_frame_numbers_tell_a_loss_whatever_the_times_are() -> None:
    packets = [replace(p, pts=p.pts * 7 % 3) for p in film("h264").packets]
    assert losses(packets[:10] + packets[11:], "h264") == [10]
    assert losses(packets[:24] + packets[26:], "h264") == [24]  # the keyframe


def test_a_picture_that_nothing_refers_to_is_no_loss() -> None:
    packets = list(film("h264 b").packets)
    unused = next(i for i, p in enumerate(packets) if i > 5 and not p.data[p.data.find(b"\0\0\1") + 3] & 0x60)
    del packets[unused]
    assert losses(packets, "h264 b") == []


def test_a_camera_that_skips_pictures_or_slows_down_loses_nothing() -> None:
    at, times = 0.0, []
    for number in range(80):
        at += 0.04 if number < 30 else 0.1
        at += 0.04 * (number in (11, 36))
        times.append(at)
    assert losses([replace(p, pts=t) for p, t in zip(film("h264").packets, times, strict=True)], "h264") == []


def test_gaps_that_frame_numbers_cannot_show() -> None:
    """16 pictures missing bring 4-bit numbers round; a keyframe may be lost just where they begin anew anyway."""

    def group(size: int) -> list[Packet]:
        parameters = f"scenecut=0:keyint={size}:min-keyint={size}:bframes=0"
        options = {"preset": "veryfast", "x264-params": parameters}
        return list(encode("h264", options, scene(80, 320, 180)).packets)

    packets = group(50)
    sequence = h264.parse_sps(next(n for n in packets[0].data.split(b"\0\0\1") if n and n[0] & 31 == h264.SPS))
    assert (sequence.frame_num_bits, sequence.gaps_allowed, sequence.frames_only) == (4, False, True)
    assert losses(packets[:12] + packets[28:], "h264") == [12]
    assert losses(packets[:5] + packets[21:], "h264") == []  # too early to know the frame rate
    irregular = [replace(p, pts=p.pts + (i % 3) * 0.01) for i, p in enumerate(packets)]
    assert losses(irregular[:12] + irregular[28:], "h264") == []  # it has none

    packets = group(17)
    assert [p.key for p in packets].index(True, 18) == 34
    assert losses(packets[:34] + packets[35:], "h264") == [34]
    assert losses(packets[:17] + packets[18:], "h264") == []  # the first group's length is not known yet


def test_damage_only_gets_worse() -> None:
    told = Damage()
    assert not told.any
    assert not told.spoils(0)
    told.failed(9)
    told.failed(12)
    assert [told.spoils(i) for i in (8, 9, 20)] == [False, True, True]
    told.lost(4)
    assert [told.spoils(i) for i in (3, 4)] == [False, True]
    assert told.any


def test_damage_of_leading_pictures_is_theirs() -> None:
    told = Damage()
    told.failed(2, leading=True)
    assert (told.spoils(3), told.spoils(3, leading=True), told.spoils(1, leading=True)) == (False, True, False)


# -- FFmpeg's messages ----------------------------------------------------------------------------------------------


def test_the_same_error_again_is_heard_again(capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        with decoder_errors() as damaged:
            av.logging.log(av.logging.ERROR, "h264", "error while decoding MB 3 4")
            assert damaged()
    with decoder_errors() as damaged:
        av.logging.log(av.logging.WARNING, "h264", "something odd")
        av.logging.log(av.logging.ERROR, "h264", "SEI type 5 size 800 truncated at 120")
        assert not damaged()
    assert capfd.readouterr() == ("", "")


def test_messages_that_nobody_captures_go_nowhere(capfd: pytest.CaptureFixture[str]) -> None:
    """They may hold URLs with passwords."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler(logging.NOTSET)
    handler.emit = records.append  # type: ignore[method-assign,assignment]
    logging.getLogger().addHandler(handler)
    try:
        av.logging.log(av.logging.ERROR, "rtsp", "rtsp://user:secret@host/ failed")
        logging.getLogger("libav").error("rtsp://user:secret@host/ failed")
    finally:
        logging.getLogger().removeHandler(handler)
    assert records == []
    assert capfd.readouterr() == ("", "")
