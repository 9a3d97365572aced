"""Packets from the middle of a NAL unit are taken in by a short cut: nothing comes out that the long way would not give."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from demo.rtp import video_payloads
from services.rtsp_capture.connection.camera_address import parse_rtsp_url
from services.rtsp_capture.connection.native_media import NativeMedia
from services.rtsp_capture.connection.reader import ConnectionPlan
from services.rtsp_capture.connection.rtsp.framing import Data, Event, Framing
from services.rtsp_capture.connection.rtsp.sdp import VideoTrack
from services.rtsp_capture.media.gop_buffer import Packet
from services.rtsp_capture.timing.host_clock import HostClock
from tests.kits.odd_camera import framed, rtp
from tests.unit.services.rtsp_capture.capture_films import film

T0 = 1_800_000_000.0


def sent(name: str, rng: random.Random, trouble: float) -> list[Data | None]:
    """A film's packets, of which some are lost, doubled, swapped, marked wrongly or of another source."""
    packets: list[Data | None] = []
    number = 65_500
    for picture in film(name).packets:
        nals = [part.rstrip(b"\0") for part in picture.data.split(b"\0\0\1")[1:]]
        payloads = video_payloads(film(name).info.codec, nals, rng.choice((60, 300, 1400)))
        for at, payload in enumerate(payloads):
            last = at == len(payloads) - 1
            packets.append(Data(0, rtp(number & 0xFFFF, round(picture.pts * 90_000) & 0xFFFFFFFF, payload, marker=last)))
            number += 1
    at = 0
    while at < len(packets):
        one = packets[at]
        if one is not None and rng.random() < trouble:
            kind = rng.randrange(6)
            if kind == 0:
                packets[at] = None
            elif kind == 1:
                del packets[at]
            elif kind == 2:
                packets.insert(at, one)
            elif kind == 3 and at:
                packets[at - 1], packets[at] = packets[at], packets[at - 1]
            elif kind == 4:
                packets[at] = Data(0, one.payload[:1] + bytes((one.payload[1] ^ 0x80,)) + one.payload[2:])
            else:
                packets[at] = Data(0, one.payload[:11] + bytes((one.payload[11] ^ 1,)) + one.payload[12:])
        at += 1
    return packets


def taken(name: str, packets: list[Data | None], *, lossy: bool) -> tuple[list[Packet], int]:
    """What comes out, and how many packets took the short cut."""
    seconds = [0.0]
    host = HostClock(lambda: seconds[0], lambda: T0 + seconds[0])
    out: list[Packet] = []
    plan = ConnectionPlan("cam", parse_rtsp_url("rtsp://127.0.0.1/x"), "tcp", 1, host, lambda info: None, out.extend)
    sets = tuple(part.rstrip(b"\0") for part in film(name).info.extradata.split(b"\0\0\1")[1:])
    track = VideoTrack(film(name).info.codec, 96, frozenset(), 90_000, "", "", sets, 25.0)
    media = NativeMedia(plan, track, (0, 1), lossy=lossy, max_pixels=10_000_000, max_offset=1.0)
    short, original = [0], media._go_on

    def counted(packets: list[Data | None], at: int, received: float, done: list[Packet]) -> int:
        found = original(packets, at, received, done)
        short[0] += found
        return found

    media._go_on = counted  # type: ignore[method-assign]
    for at in range(0, len(packets), 7):
        seconds[0] += 0.05
        media.take(packets[at : at + 7], host.steady())
    media.flush()
    media.close()
    return out, short[0]


@pytest.mark.parametrize("name", ["h264", "h264 slices", "h264 b", "hevc", "hevc b"])
@pytest.mark.parametrize("trouble", [0.0, 0.003, 0.05])
def test_the_short_cut_gives_what_the_long_way_gives(name: str, trouble: float, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(4):
        packets = sent(name, random.Random(seed), trouble)
        lossy = seed % 2 == 1
        quick, short = taken(name, packets, lossy=lossy)
        with monkeypatch.context() as without:
            without.setattr(NativeMedia, "_go_on", lambda *_: 0)
            slow, none = taken(name, packets, lossy=lossy)
        assert none == 0
        assert short > len(packets) / 10
        assert quick == slow
        assert quick


def test_packets_that_follow_each_other_are_read_as_those_that_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """With bytes missing anywhere, and two channels."""

    def events(pieces: Iterable[bytes]) -> list[Event]:
        framing = Framing()
        framing.channels = frozenset((0, 1))
        return [event for piece in pieces for event in framing.feed(piece)]

    rng = random.Random(3)
    for _ in range(300):
        stream = b"".join(
            framed(rtp(number, 3600, rng.randbytes(rng.choice((4, 20, 200)))), 0)
            + (framed(b"\x80\xc9" + rng.randbytes(26), 1) if rng.random() < 0.2 else b"")
            for number in range(12)
        )
        if rng.random() < 0.7:
            at = rng.randrange(len(stream))
            # Also as many as a whole packet has: then another packet begins where the cut one says that it ends.
            stream = stream[:at] + stream[at + rng.choice((20, 36, 56, rng.randrange(1, 300))) :]
        size = rng.choice((50, 500, 5000))
        pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
        quick = events(pieces)
        with monkeypatch.context() as without:
            without.setattr(Framing, "_plain", lambda _, data, at, events: at)
            assert events(pieces) == quick
