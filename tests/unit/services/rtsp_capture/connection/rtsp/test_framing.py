"""What comes on a connection: messages and packets in any pieces, leftovers, broken framing, bounds."""

from __future__ import annotations

import random
import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.rtsp_capture.connection.rtsp import framing as module
from services.rtsp_capture.connection.rtsp.framing import (
    Data,
    Event,
    Framing,
    ProtocolError,
    Response,
    ServerRequest,
    Skipped,
    write_request,
)
from tests.kits.fuzz import fuzzed

OK = b"RTSP/1.0 200 OK\r\nCSeq: 7\r\nContent-Length: 4\r\n\r\nv=0\n"


def rtp(number: int, size: int = 60, kind: int = 96) -> bytes:
    return struct.pack("!BBHII", 0x80, kind, number, 90_000, 7) + random.Random(number).randbytes(size - 12)


def framed(payload: bytes, channel: int = 0) -> bytes:
    return b"$" + bytes((channel,)) + len(payload).to_bytes(2, "big") + payload


def parse(*pieces: bytes, channels: tuple[int, ...] = (0, 1)) -> list[Event]:
    framing = Framing()
    framing.channels = frozenset(channels)
    return [event for piece in pieces for event in framing.feed(piece)]


def payloads(events: list[Event]) -> list[bytes]:
    return [event.payload for event in events if isinstance(event, Data)]


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 50, 10_000])
def test_answers_and_packets_in_any_pieces(piece: int) -> None:
    """Answers lie between packets, and both are cut anywhere."""
    stream = framed(rtp(1)) + OK + framed(rtp(2)) + framed(b"\x80\xc8" + bytes(26), 1) + b"\r\n" + OK + framed(rtp(3))
    events = parse(*(stream[at : at + piece] for at in range(0, len(stream), piece)))
    assert payloads(events) == [rtp(1), rtp(2), b"\x80\xc8" + bytes(26), rtp(3)]
    answers = [event for event in events if isinstance(event, Response)]
    assert [(answer.status, answer.cseq, answer.body) for answer in answers] == [(200, 7, b"v=0\n")] * 2
    assert not any(isinstance(event, Skipped) for event in events)


@pytest.mark.parametrize(
    "head",
    [
        b"RTSP/1.0 200 OK\nCSeq:7\nSession : a;timeout=5\n\n", b"RTSP/1.0 200\r\ncseq: 7\r\nSESSION: a;timeout=5\r\n\r\n",
        b"RTSP/1.0  200  Fine\r\nCSeq:   7\r\nSession: a;\r\n timeout=5\r\n\r\n",
        b"RTSP/1.0 200 \xff\r\nCSeq: 7\r\nno colon\r\nSession: a;timeout=5\r\nSession: b\r\nContent-Length:\r\n\r\n",
    ],
)  # fmt: skip
def test_heads_as_cameras_write_them(head: bytes) -> None:
    (answer,) = parse(head, channels=())
    assert isinstance(answer, Response)
    assert (answer.status, answer.cseq, answer.header("session").replace(" ", "")) == (200, 7, "a;timeout=5")


def test_a_request_of_the_cameras() -> None:
    request = b"GET_PARAMETER rtsp://x/y RTSP/1.0\r\nCSeq: 12\r\n\r\n"
    events = parse(framed(rtp(1)) + request[:5], request[5:] + framed(rtp(2)))
    assert events[1] == ServerRequest("GET_PARAMETER", "12", "rtsp://x/y")
    assert payloads(events) == [rtp(1), rtp(2)]


@pytest.mark.parametrize(
    "rest",
    [
        framed(rtp(1)), framed(rtp(1)) * 3, framed(rtp(1))[20:], framed(rtp(1, 5000))[:900], b"\x00\xff" * 700,
        b"$\x00\xff\xff", framed(rtp(1))[30:] + framed(rtp(2)) + framed(rtp(3))[:17],
    ],
)  # fmt: skip
def test_leftovers_of_another_session_before_the_first_answer(rest: bytes) -> None:
    for cut in (len(rest), len(rest) // 2, len(rest) + 9):
        stream = rest + OK
        events = parse(stream[:cut], stream[cut:], channels=())
        assert [event.status for event in events if isinstance(event, Response)] == [200], cut
        assert payloads(events) == []


def test_packets_of_unknown_channels_pass_whole() -> None:
    events = parse(framed(b"anything$\x00\x00\x04", 9) + framed(rtp(1)) + framed(b"", 0) + framed(rtp(2)))
    assert events == [Data(9, b"anything$\x00\x00\x04"), Data(0, rtp(1)), Data(0, rtp(2))]


@pytest.mark.parametrize("piece", [10_000, 100])
@pytest.mark.parametrize("gone", [1, 5, 64, 65, 200, 1400])
def test_bytes_that_are_missing_in_mid_stream(gone: int, piece: int) -> None:
    """The packet that they are missing from is not given out as whole; the loss is told; what follows is read."""
    whole = [rtp(number, 700) for number in range(40)]
    stream = b"".join(map(framed, whole))
    stream = stream[:8000] + stream[8000 + gone :]
    events = parse(*(stream[at : at + piece] for at in range(0, len(stream), piece)))
    got = payloads(events)
    assert any(isinstance(event, Skipped) for event in events)
    assert got[:11] == whole[:11]
    assert got[-20:] == whole[-20:]
    damaged = [payload for payload in got if payload not in whole]
    # One that the bytes are missing from, where it ends with the piece that came.
    assert len(damaged) <= (0 if piece > 1000 else 1)


@pytest.mark.parametrize("gone", [1, 5, 200, 600])
def test_a_packet_that_bytes_are_missing_from_and_that_seems_to_end_well(gone: int) -> None:
    """Where it should end stands what begins a packet: that the next one begins inside it tells the loss."""
    whole = [rtp(number, 700)[:12] + b"$" * 688 for number in range(12)]
    stream = b"".join(map(framed, whole[:4])) + framed(whole[4])[:-gone] + b"".join(map(framed, whole[5:]))
    for piece in (100_000, 1400):
        events = parse(*(stream[at : at + piece] for at in range(0, len(stream), piece)))
        assert any(isinstance(event, Skipped) for event in events)
        assert [payload for payload in payloads(events) if payload not in whole] == []
        assert payloads(events)[:4] == whole[:4]
        assert payloads(events)[-3:] == whole[-3:]


def test_bytes_that_are_too_many_in_mid_stream() -> None:
    whole = [rtp(number, 700) for number in range(10)]
    for more in (b"\x00", b"$", b"garbage", b"\xff" * 3000, b"$\x00\x10\x00"):
        stream = b"".join(map(framed, whole[:5])) + more + b"".join(map(framed, whole[5:]))
        events = parse(stream)
        got = payloads(events)
        assert any(isinstance(event, Skipped) for event in events)
        assert set(got) <= set(whole)
        assert got[-4:] == whole[-4:]


@pytest.mark.parametrize(
    "data",
    [
        b"RTSP/1.0 x y\r\n\r\n", b"RTSP/1.0\r\n\r\n", b"RTSP/1.0 200 OK\r\nContent-Length: x\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nContent-Length: -1\r\n\r\n", b"RTSP/1.0 200 OK\r\nContent-Length: 262145\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nX: " + b"y" * 70_000, b"\xff" * (module.MAX_SKIPPED_BYTES + 100),
    ],
)  # fmt: skip
def test_bounds_before_the_first_answer(data: bytes) -> None:
    framing = Framing()
    with pytest.raises(ProtocolError):
        framing.feed(data)


def test_bounds_are_those_of_the_contract() -> None:
    assert (module.MAX_HEAD_BYTES, module.MAX_BODY_BYTES) == (64 * 1024, 256 * 1024)


def test_a_head_and_a_body_byte_by_byte_take_no_square_of_time() -> None:
    head = b"RTSP/1.0 200 OK\r\nX: " + b"y" * 65_000 + b"\r\nContent-Length: 100000\r\n\r\n"
    framing, began = Framing(), time.process_time()
    events = [event for byte in head + bytes(100_000) for event in framing.feed(bytes((byte,)))]
    assert len(events) == 1
    assert time.process_time() - began < 5


PIECES = st.one_of(
    st.binary(max_size=300),
    st.sampled_from([OK, framed(rtp(1)), framed(rtp(2), 1), b"$", b"$\x00\xff\xff"]),
    st.sampled_from([b"RTSP/1.0 ", b"\r\n\r\n", b"OPTIONS ", OK[:30]]),
)  # fmt: skip


@fuzzed
@given(st.lists(PIECES, max_size=30), st.booleans())
def test_any_bytes_give_events_or_its_own_error(pieces: list[bytes], playing: bool) -> None:
    framing = Framing()
    framing.channels = frozenset((0, 1)) if playing else frozenset()
    try:
        for piece in pieces:
            for event in framing.feed(piece):
                assert isinstance(event, Response | ServerRequest | Data | Skipped)
            assert len(framing._rest) <= module.MAX_HEAD_BYTES + module.MAX_BODY_BYTES + 4
    except ProtocolError:
        pass


@fuzzed
@given(st.binary(max_size=400))
def test_after_any_bytes_the_stream_goes_on(noise: bytes) -> None:
    whole = [rtp(number, 200) for number in range(600)]
    got = payloads(parse(framed(whole[0]) + noise + b"".join(map(framed, whole))))
    assert got[-20:] == whole[-20:]


def test_no_line_can_be_put_into_a_request() -> None:
    written = write_request("OPTIONS", "rtsp://h/x", 3, [("A", "b")])
    assert written == b"OPTIONS rtsp://h/x RTSP/1.0\r\nCSeq: 3\r\nA: b\r\n\r\n"
    for uri, value in (("rtsp://h/x\r\nEvil: 1", "b"), ("rtsp://h/x", "b\nEvil: 1"), ("rtsp://h/a b", "b")):
        with pytest.raises(ProtocolError):
            write_request("OPTIONS", uri, 3, [("A", value)])
