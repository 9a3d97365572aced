"""Access units from RTP: the demo camera's packets of films, and what cameras do with markers, sets, doubles and losses."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo.rtp import video_payloads
from services.rtsp_capture.connection.rtsp.access_units import MAX_UNIT_BYTES, AccessUnit, UnitAssembler
from services.rtsp_capture.connection.rtsp.rtp import Rtp
from services.rtsp_capture.media.sps import picture_format
from tests.kits.fuzz import fuzzed
from tests.unit.services.rtsp_capture.capture_films import film
from utils.exceptions import CaptureFailure

START = b"\0\0\0\1"
SPS, PPS = bytes.fromhex("6742c00dda05067e79a83032000003000200000300641e285540"), bytes.fromhex("68ce3c80")
IDR, SLICE, MORE = b"\x65\x88", b"\x41\x9a", b"\x41\x00\x40"  # the last: a slice whose first macroblock is not 0


def packets(payloads: Iterable[bytes], timestamp: int, marker: bool = True) -> list[Rtp]:
    parts = list(payloads)
    return [Rtp(96, marker and at == len(parts) - 1, 0, timestamp, 7, part, 0, len(part)) for at, part in enumerate(parts)]


def nals(data: bytes) -> list[bytes]:
    return [part.rstrip(b"\0") for part in data.split(b"\0\0\1")[1:]]


class Run:
    """An assembler, and what came of it."""

    def __init__(self, codec: str = "h264", **fields: bool) -> None:
        self.sets: list[bytes] = []
        self.assembler = UnitAssembler(codec, self.sets.append, **fields)
        self.units: list[AccessUnit] = []

    def push(self, given: Iterable[Rtp], *, lost: bool = False) -> Run:
        for one in given:
            self.units += self.assembler.push(one, one.timestamp / 90_000, lost)
            lost = False
        return self

    def trusted(self) -> Run:
        """Its markers are believed."""
        self.push(packets([SPS, PPS, IDR], 0))
        for number in range(1, 5):
            self.push(packets([SLICE], number * 3600))
        self.units.clear()
        return self


@pytest.mark.parametrize("name", ["h264", "h264 slices", "h264 b", "hevc", "hevc b"])
@pytest.mark.parametrize("markers", [True, False])
@pytest.mark.parametrize("limit", [300, 1400])
def test_a_films_pictures_come_out_as_they_went_in(name: str, markers: bool, limit: int) -> None:
    source = film(name)
    run = Run(source.info.codec)
    for number, packet in enumerate(source.packets):
        run.push(packets(video_payloads(source.info.codec, nals(packet.data), limit), number * 3600, markers))
    run.units += run.assembler.flush()
    expected = source.packets if markers else source.packets[:-1]
    assert [nals(unit.data) for unit in run.units] == [nals(packet.data) for packet in expected]
    assert [unit.key for unit in run.units] == [packet.key for packet in expected]
    assert not any(unit.corrupt for unit in run.units)
    found = picture_format(source.info.codec, next(nal for nal in run.sets if nal[0] & 31 == 7 or nal[0] >> 1 & 63 == 33))
    assert (found.width, found.height) == (source.info.width, source.info.height)


def test_a_marker_ends_a_picture_at_once_when_markers_are_believed() -> None:
    run = Run().push(packets([SPS, PPS, IDR], 0))
    assert run.units == []
    assert run.assembler.waits
    run.units += run.assembler.flush()  # nothing followed for a while
    assert [(unit.key, unit.packet.timestamp) for unit in run.units] == [(True, 0)]
    run = Run().trusted().push(packets([SLICE], 9 * 3600))
    assert len(run.units) == 1
    assert not run.assembler.waits


def test_markers_on_each_slice_and_markers_never() -> None:
    for marked in (True, False):
        run = Run()
        for number in range(12):
            for part in ([SPS, PPS, IDR] if number == 0 else [SLICE]) + [MORE, MORE]:
                run.push(packets([part], number * 3600, marked))
        assert [len(nals(unit.data)) for unit in run.units] == [5, *[3] * 10]
        assert not any(unit.corrupt for unit in run.units)


def test_markers_that_turn_out_to_lie_spoil_what_was_cut() -> None:
    run = Run().trusted()
    for number in range(10, 14):
        for part in (SLICE, MORE):
            run.push(packets([part], number * 3600))
    assert not run.units[0].corrupt  # it looked whole
    assert run.units[1].corrupt  # its rest
    assert all(len(nals(unit.data)) == 2 for unit in run.units[2:])


def test_sets_sent_alone_with_the_marker_and_the_former_time() -> None:
    """They belong to the keyframe that follows, whatever they are stamped."""
    run = Run().trusted()
    run.push(packets([SLICE], 10 * 3600)).push(packets([SPS], 10 * 3600)).push(packets([PPS], 10 * 3600))
    run.push(packets([IDR], 11 * 3600)).push(packets([SLICE], 12 * 3600))
    assert [nals(unit.data) for unit in run.units] == [[SLICE], [SPS, PPS, IDR], [SLICE]]
    assert [unit.packet.timestamp for unit in run.units] == [36_000, 39_600, 43_200]


def test_two_fields_of_one_time_are_two_units() -> None:
    run = Run().trusted().push(packets([SLICE], 36_000)).push(packets([SLICE], 36_000))
    assert [nals(unit.data) for unit in run.units] == [[SLICE], [SLICE]]
    assert not any(unit.corrupt for unit in run.units)


def test_what_gets_lost_spoils_its_picture_and_those_that_refer_to_it() -> None:
    long = packets(video_payloads("h264", [SLICE, MORE + bytes(range(1, 200)) * 10], 300), 36_000)
    middle = Run().trusted().push(long[:2]).push(long[3:], lost=True)
    assert [unit.corrupt for unit in middle.units] == [True]
    end = Run().trusted().push(long[:-1]).push(packets([SLICE], 39_600), lost=True)
    assert [unit.corrupt for unit in end.units] == [True, True]
    beginning = Run().trusted().push(long[1:], lost=True)
    assert [unit.corrupt for unit in beginning.units] == [True]
    between = Run().trusted().push(packets([SLICE], 36_000)).push(packets([SLICE], 50_000), lost=True)
    assert [unit.corrupt for unit in between.units] == [False, True]
    key = Run().trusted().push(packets([SPS, PPS, IDR], 36_000), lost=True).push(packets([SLICE], 39_600))
    assert [(unit.key, unit.corrupt) for unit in key.units] == [(True, False), (False, False)]  # it refers to nothing
    half = Run().trusted().push(packets([b"\x65\x00\x40"], 36_000), lost=True)
    assert [(unit.key, unit.corrupt) for unit in half.units] == [(True, True)]


def test_aggregates_and_sets_with_start_codes() -> None:
    """STAP-A (RFC 6184, section 5.7.1), AP (RFC 7798, section 4.4.2), and several NAL units in one, which is neither."""
    parts = [SPS, PPS, IDR]
    stap = b"\x78" + b"".join(len(part).to_bytes(2, "big") + part for part in parts)
    assert nals(Run().push([*packets([stap], 0), *packets([SLICE], 3600)]).units[0].data) == parts
    glued = SPS + START + PPS + START + IDR
    unit = Run().push([*packets([glued], 0), *packets([SLICE], 3600)]).units[0]
    assert (nals(unit.data), unit.key) == (parts, True)
    hevc = [b"\x40\x01\x0c", b"\x44\x01\xc1", b"\x26\x01\xaf"]
    aggregate = b"\x60\x01" + b"".join(len(part).to_bytes(2, "big") + part for part in hevc)
    unit = Run("hevc").push([*packets([aggregate], 0), *packets([b"\x02\x01\xd0"], 3600)]).units[0]
    assert (nals(unit.data), unit.key) == (hevc, True)
    numbered = b"\x60\x01" + b"\0\1" + b"\0\x03" + hevc[0] + b"\0" + b"\0\x03" + hevc[2]
    run = Run("hevc", don=True).push([*packets([numbered], 0), *packets([b"\x02\x01\0\2\xd0"], 3600)])
    run.units += run.assembler.flush()
    assert [nals(unit.data) for unit in run.units] == [[hevc[0], hevc[2]], [b"\x02\x01\xd0"]]


def test_a_set_that_must_not_reach_a_decoder_is_left_out() -> None:
    def judge(nal: bytes) -> None:
        raise ValueError

    assembler = UnitAssembler("h264", judge)
    units = [u for one in [*packets([SPS, IDR], 0), *packets([SLICE], 3600)] for u in assembler.push(one, 0.0, False)]
    assert [(nals(unit.data), unit.corrupt) for unit in units] == [([IDR], True)]


def test_pictures_and_parts_are_bounded() -> None:
    pieces = [b"\x7c\x85\x88", *[b"\x7c\x05" + bytes(60_000)] * (MAX_UNIT_BYTES // 60_000 + 2)]
    with pytest.raises(CaptureFailure):
        Run().push(packets(pieces, 0, False))
    with pytest.raises(CaptureFailure):
        Run().push(packets([SLICE] * 30_000, 0, False))
    run = Run()
    for number in range(3000):  # sets without a picture
        run.push(packets([SPS + bytes((number % 251 + 1,)) * 100], number * 3600))
    assert sum(map(len, run.assembler._carried)) <= 64 * 1024


PAYLOADS = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([SPS, PPS, IDR, SLICE, MORE, b"\x7c\x85\x88", b"\x7c\x05abc", b"\x7c\x45end", b"\x06\x06"]),
    st.just(b"\x78\0\2\x67\x42\xff\xff"),
)  # fmt: skip


@fuzzed
@given(
    st.sampled_from(["h264", "hevc"]), st.booleans(),
    st.lists(st.tuples(PAYLOADS, st.integers(0, 3), st.booleans(), st.booleans()), max_size=60),
)  # fmt: skip
def test_any_payloads_give_units_or_a_failure(codec: str, don: bool, given_: list[tuple[bytes, int, bool, bool]]) -> None:
    def judge(nal: bytes) -> None:
        picture_format(codec, nal)

    assembler = UnitAssembler(codec, judge, don=don)
    came = 0
    for payload, timestamp, marker, lost in given_:
        came += len(payload)
        for unit in assembler.push(Rtp(96, marker, 0, timestamp, 7, payload, 0, len(payload)), 0.0, lost):
            assert unit.data.startswith(START)
            came -= len(unit.data) - 4 * unit.data.count(START)
    assembler.flush()
    assert came >= -64 * len(given_)  # nothing is made up


@fuzzed
@given(st.sampled_from(["h264", "hevc"]), st.binary(min_size=1, max_size=200), st.integers(0, 2**32))
def test_any_sps_gives_a_size_or_a_value_error(codec: str, data: bytes, seed: int) -> None:
    bent = bytearray(SPS)
    bent[seed % len(SPS)] ^= 1 << seed % 8
    for nal in (data, bytes(bent), SPS + data, b"\x67" + data * 100):
        try:
            found = picture_format(codec, nal)
        except ValueError:
            continue
        assert found.width > 0
        assert found.coded >= found.width * found.height > 0


def test_of_lost_packets_no_damaged_picture_is_called_whole() -> None:
    """Against the film's own bytes: each unit that is not marked is one of the film's pictures."""
    source, rng = film("h264 slices"), random.Random(5)
    for share in (0.01, 0.1, 0.4):
        run = Run()
        lost = False
        for number, packet in enumerate(source.packets):
            for one in packets(video_payloads("h264", nals(packet.data), 200), number * 3600):
                if rng.random() < share:
                    lost = True
                    continue
                run.push([one], lost=lost)
                lost = False
        whole = [nals(packet.data) for packet in source.packets]
        for unit in run.units:
            assert unit.corrupt or nals(unit.data) in whole or unit.key
