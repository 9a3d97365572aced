"""RTP and RTCP: headers, the camera's clock, order, doubles and gaps."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.rtsp_capture.connection.rtsp.rtp import (
    NTP_EPOCH,
    Bye,
    Rtp,
    SenderReport,
    packet_time,
    parse_rtcp,
    parse_rtp,
    receiver_report,
)
from services.rtsp_capture.connection.rtsp.rtp_clock import RtpClock
from services.rtsp_capture.connection.rtsp.sequencer import Sequencer
from services.rtsp_capture.timing.timestamp_source import IN_PACKET
from tests.kits.fuzz import fuzzed

T0 = 1_800_000_000.0


def packet(number: int = 1, timestamp: int = 0, ssrc: int = 7, extension: bytes = b"", profile: int = -1) -> Rtp:
    return Rtp(96, False, number & 0xFFFF, timestamp & 0xFFFFFFFF, ssrc, b"x", 0, 1, profile, extension)


def ntp(seconds: float) -> int:
    return round((seconds + NTP_EPOCH) * (1 << 32))


def test_a_header_with_all_that_it_may_have() -> None:
    head = struct.pack("!BBHII", 0x80 | 0x20 | 0x10 | 2, 0x80 | 96, 65535, 2**32 - 1, 5)
    data = head + bytes(8) + struct.pack("!HH", 0xABAC, 2) + b"12345678" + b"payload" + b"\0\0\x03"
    found = parse_rtp(data)
    assert found is not None
    assert found[:5] == (96, True, 65535, 2**32 - 1, 5)
    assert (found.data[found.start : found.end], found.profile, found.extension) == (b"payload", 0xABAC, b"12345678")
    for cut in (b"", data[:11], b"\x00" + data[1:], data[:21], head + b"\0" * 7, data[:-1] + b"\xff"):
        assert parse_rtp(cut) is None


def test_reports_and_goodbyes_of_a_compound_packet() -> None:
    report = struct.pack("!BBHIQIII", 0x80, 200, 6, 7, ntp(T0), 90_000, 1, 2)
    bye = struct.pack("!BBHII", 0x82, 203, 2, 7, 9)
    assert parse_rtcp(receiver_report(1) + report + bye) == [SenderReport(7, ntp(T0), 90_000), Bye((7, 9))]
    assert parse_rtcp(b"\x9f\xcb\x00\x00") == [Bye(())]  # says 31 sources, and holds none
    assert parse_rtcp(report[:20]) == []
    assert len(receiver_report(1)) % 4 == 0


@fuzzed
@given(st.binary(max_size=200), st.one_of(st.none(), st.integers(1, 14)))
def test_any_bytes_are_a_packet_or_none(data: bytes, capture_time: int | None) -> None:
    parse_rtcp(data)
    if (found := parse_rtp(data)) is not None:
        assert 12 <= found.start <= found.end <= len(data)
        packet_time(found, capture_time)
    packet_time(packet(extension=data, profile=0xBEDE), capture_time)


def test_the_cameras_time_in_the_packet() -> None:
    """ONVIF's extension, and abs-capture-time where the SDP announces it, beside others."""
    stamp = ntp(T0 + 0.25).to_bytes(8, "big")
    assert packet_time(packet(extension=stamp + bytes(4), profile=0xABAC), None) == pytest.approx(T0 + 0.25, abs=1e-6)
    one_byte = b"\x10\xff\x00\x00" + b"\x37" + stamp + bytes(3)
    assert packet_time(packet(extension=one_byte, profile=0xBEDE), 3) == pytest.approx(T0 + 0.25, abs=1e-6)
    assert packet_time(packet(extension=one_byte, profile=0xBEDE), None) is None
    assert packet_time(packet(extension=one_byte, profile=0xBEDE), 4) is None
    assert packet_time(packet(extension=bytes(12), profile=0xABAC), None) is None  # no clock
    clock = RtpClock(90_000)
    clock.report(SenderReport(7, ntp(T0), 0))
    assert clock.camera_time(packet(extension=stamp, profile=0xABAC))[1] == IN_PACKET


# -- the clock ------------------------------------------------------------------------------------------------------


def test_stream_time_over_a_wrap_and_with_b_pictures() -> None:
    clock, start = RtpClock(90_000), 2**32 - 9000
    shown = [0.0, 0.16, 0.08, 0.12, 0.32, 0.24]
    found = [clock.time_of(start + round(at * 90_000) & 0xFFFFFFFF, T0 + n * 0.04) for n, at in enumerate(shown)]
    assert found == pytest.approx(shown)


def test_a_single_picture_stamped_hours_away_has_no_time() -> None:
    clock = RtpClock(90_000)
    for number in range(200):
        odd = number % 17 == 5
        timestamp = number * 3600 + (4 * 3600 * 90_000 if odd else 0)
        found = clock.time_of(timestamp & 0xFFFFFFFF, T0 + number * 0.04)
        assert found is None if odd else found == pytest.approx(number * 0.04)


def test_a_clock_that_begins_anew_goes_on_from_the_time_that_passed() -> None:
    clock = RtpClock(90_000)
    clock.report(SenderReport(7, ntp(T0), 0))
    for number in range(10):
        clock.time_of(number * 3600, T0 + number * 0.04)
    assert clock.camera_time(packet(timestamp=0))[0] == pytest.approx(T0)
    assert clock.time_of(2**31, T0 + 0.40) is None  # one that may be a single one
    assert clock.time_of(2**31 + 3600, T0 + 0.44) == pytest.approx(0.44, abs=0.001)
    assert clock.time_of(2**31 + 7200, T0 + 0.48) == pytest.approx(0.48, abs=0.001)
    assert clock.camera_time(packet(timestamp=2**31 + 7200)) == (None, None)  # the report was about the former one


def test_a_new_source_with_each_keyframe_keeps_one_time() -> None:
    clock, rng, base = RtpClock(90_000), random.Random(1), 0
    for number in range(100):
        if number % 25 == 0 and number:
            base = rng.randrange(2**32)
            clock.restart(base + number * 3600 & 0xFFFFFFFF, T0 + number * 0.04)
        found = clock.time_of(base + number * 3600 & 0xFFFFFFFF, T0 + number * 0.04)
        assert found == pytest.approx(number * 0.04, abs=0.002)


def test_the_cameras_time_by_the_newest_report_over_a_wrap() -> None:
    clock = RtpClock(90_000)
    assert clock.camera_time(packet()) == (None, None)
    clock.report(SenderReport(7, 0, 5))  # says that it has no clock
    assert clock.camera_time(packet()) == (None, None)
    clock.report(SenderReport(7, ntp(T0), 2**32 - 90_000))
    at, known_by = clock.camera_time(packet(timestamp=90_000))
    assert at == pytest.approx(T0 + 2)
    assert known_by == ntp(T0)
    assert clock.camera_time(packet(timestamp=2**31)) == (None, None)  # far from the report: another clock


# -- order ----------------------------------------------------------------------------------------------------------


def run(numbers: list[int], depth: int = 2) -> list[tuple[int, bool]]:
    sequencer = Sequencer(depth)
    found = [one for number in numbers for one in sequencer.push(packet(number), T0)] + sequencer.flush()
    return [(one.packet.sequence, one.lost) for one in found]


def test_doubles_are_dropped_and_the_order_is_mended() -> None:
    twice = [number for number in range(65500, 65600) for _ in range(2)]
    assert run(twice) == [(number & 0xFFFF, False) for number in range(65500, 65600)]
    assert run([1, 2, 4, 3, 5, 7, 6, 8]) == [(number, False) for number in range(1, 9)]
    assert run([1, 2, 3, 3, 2, 1, 4]) == [(1, False), (2, False), (3, False), (4, False)]


def test_gaps_are_told_once() -> None:
    assert run([1, 2, 5, 6, 7, 8]) == [(1, False), (2, False), (5, True), (6, False), (7, False), (8, False)]
    assert run([1, 3]) == [(1, False), (3, True)]
    sequencer = Sequencer(2)
    sequencer.push(packet(1), T0)
    sequencer.gap()
    assert [one.lost for one in sequencer.push(packet(2), T0)] == [True]


def test_a_new_count_and_a_new_source() -> None:
    assert run([1, 2, 30_000, 30_001, 30_002]) == [(1, False), (2, False), (30_001, True), (30_002, False)]
    assert run([1, 2, 30_000, 3, 4]) == [(1, False), (2, False), (3, False), (4, False)]
    sequencer = Sequencer(2)
    sequencer.push(packet(9), T0)
    (first,) = sequencer.push(packet(500, ssrc=8), T0)
    assert (first.fresh, first.lost) == (True, True)


@fuzzed
@given(st.lists(st.integers(0, 65535), max_size=200), st.integers(1, 64))
def test_any_numbers_come_out_at_most_once_each(numbers: list[int], depth: int) -> None:
    sequencer = Sequencer(depth)
    count = sum(len(sequencer.push(packet(number), T0)) for number in numbers)
    assert len(sequencer._waiting) <= depth
    assert count + len(sequencer.flush()) <= len(numbers)
