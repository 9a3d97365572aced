"""What FFmpeg is given of a camera's RTP packets: one source, one count, one clock."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from services.rtsp_capture.connection.rtsp.relabel import Relabel
from services.rtsp_capture.connection.rtsp.rtp import parse_rtp
from services.rtsp_capture.connection.rtsp.sequencer import Sequenced
from tests.kits.fuzz import fuzzed
from tests.kits.odd_camera import IDR, PPS, SLICE, SPS, rtp

Seen = tuple[int, int, int]  # sequence number, timestamp, SSRC


def one(data: bytes, at: float, *, lost: bool = False, fresh: bool = False) -> Sequenced:
    packet = parse_rtp(data)
    assert packet is not None
    return Sequenced(packet, at, lost or fresh, fresh)


def seen(packets: list[bytes]) -> list[Seen]:
    return [struct.unpack_from("!HII", packet, 2) for packet in packets]


def test_what_is_as_it_should_be_is_unchanged() -> None:
    relabel = Relabel("h264", 90_000)
    for number in range(300):
        packet = rtp(65_400 + number, 2**32 - 9000 + number * 3600, SLICE)
        assert relabel.push(one(packet, number / 25)) == [packet]


def test_a_new_source_and_single_odd_stamps_and_a_new_clock_go_on_as_before() -> None:
    relabel, found = Relabel("h264", 90_000), list[Seen]()
    for number in range(120):
        timestamp, ssrc, sequence = number * 3600, 7, number
        if number >= 40:
            timestamp, ssrc, sequence = number * 3600 + 2**31, 9, number + 30_000
        if number == 70:
            timestamp += 4 * 3600 * 90_000
        if number >= 90:
            timestamp += 10**9
        found += seen(relabel.push(one(rtp(sequence, timestamp, SLICE, ssrc=ssrc), number / 25, fresh=number == 40)))
    assert found == [(number, number * 3600, 7) for number in range(120)]


def test_a_gap_stays_a_gap() -> None:
    relabel = Relabel("h264", 90_000)
    packets = [one(rtp(1, 0, SLICE), 0.0), one(rtp(5, 3600, SLICE), 0.04, lost=True), one(rtp(6, 7200, SLICE), 0.08)]
    assert [number for packet in packets for number, *_ in seen(relabel.push(packet))] == [1, 3, 4]


def test_parameter_sets_get_the_time_of_their_picture() -> None:
    relabel = Relabel("h264", 90_000)
    assert len(relabel.push(one(rtp(1, 0, SLICE), 0.0))) == 1
    assert relabel.push(one(rtp(2, 0, SPS), 0.04)) == []
    assert relabel.push(one(rtp(3, 0, PPS), 0.04)) == []
    assert seen(relabel.push(one(rtp(4, 3600, IDR), 0.04))) == [(2, 3600, 7), (3, 3600, 7), (4, 3600, 7)]


@fuzzed
@given(
    st.sampled_from(["h264", "hevc", "mjpeg"]),
    st.lists(st.tuples(st.binary(min_size=12, max_size=40), st.floats(0, 10), st.booleans(), st.booleans()), max_size=60),
)
def test_any_packets_come_out_at_most_once(codec: str, given_: list[tuple[bytes, float, bool, bool]]) -> None:
    relabel, at, came, gave = Relabel(codec, 90_000), 0.0, 0, 0
    for data, passed, lost, fresh in given_:
        packet = parse_rtp(b"\x80" + data[1:])
        if packet is None:
            continue
        at += passed
        came += 1
        out = relabel.push(Sequenced(packet, at, lost, fresh))
        gave += len(out)
        assert all(each[12:] for each in out) or packet.start == packet.end
    assert came - 16 <= gave <= came
