"""What a connection of the native reader has received is held until its turn, with the times when it came."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import pytest

from config import RtspSettings
from services.rtsp_capture.connection import native_reader
from services.rtsp_capture.connection.batches import Batches
from services.rtsp_capture.connection.camera_address import parse_rtsp_url
from services.rtsp_capture.connection.native_reader import _MAX_HELD, NativeConnection
from services.rtsp_capture.connection.reader import ConnectionPlan
from services.rtsp_capture.connection.rtsp.framing import Data, Framing
from services.rtsp_capture.connection.rtsp_session import RtspSession
from services.rtsp_capture.media.gop_buffer import Packet
from services.rtsp_capture.timing.host_clock import HostClock
from tests.kits.odd_camera import framed
from tests.kits.scripted_camera import T0, Script, of_film, shots
from tests.unit.services.rtsp_capture.capture_films import film
from utils.metrics import HELD_FULL

PICTURES = 400


class Scripted:
    """A connection whose camera sends a film's pictures when the test says, over TCP or UDP; its turns are the test's."""

    def __init__(self, *, udp: bool = False) -> None:
        self.now, self.udp = T0, udp
        self.packets: list[Packet] = []
        framing = Framing()
        framing.channels = frozenset((0, 1))
        self.client = SimpleNamespace(
            understand=lambda data: [each for each in framing.feed(data) if isinstance(each, Data)]
        )
        script = Script("h264", shots(of_film(film("h264").packets, PICTURES), "h264"))
        self.sends = [list(packets) for _, packets in script.sends()]
        session = SimpleNamespace(
            track=script.track(), channels=(0, 1), udp=object() if udp else None, client=self.client,
            start=self.start, close=lambda: None,
        )  # fmt: skip
        host = HostClock(lambda: self.now, lambda: self.now)
        address = parse_rtsp_url("rtsp://127.0.0.1/x")
        plan = ConnectionPlan("cam", address, "tcp", 1, host, lambda info: None, self.packets.extend)
        turns = Batches(asyncio.get_running_loop())
        self.connection = NativeConnection(plan, RtspSettings(), cast(RtspSession, session), turns)

    async def start(
        self, _: object, on_end: Callable[[], None], hold: Callable[[bytes | Data], None]
    ) -> None:  # fmt: skip
        self.hold, self.hang_up = hold, on_end

    def send(self, count: int) -> None:
        """So many pictures, 40 ms apart; the loop has no turn meanwhile."""
        for _ in range(count):
            self.now += 0.04
            packets = self.sends.pop(0)
            if self.udp:
                for packet in packets:
                    self.hold(packet)
            else:
                self.hold(b"".join(framed(packet.payload, packet.channel) for packet in packets))


async def begun(*, udp: bool = False) -> Scripted:
    """Once the first pictures have come, which are taken at once."""
    scripted = Scripted(udp=udp)
    await scripted.connection.begin()
    scripted.send(20)
    assert 0 < len(scripted.packets) < 20  # once they had come the next ones were held
    await scripted.connection.catch_up()
    assert len(scripted.packets) == 20
    return scripted


async def test_pictures_are_held_until_a_turn_and_keep_the_times_when_they_came() -> None:
    for udp in (False, True):
        scripted = await begun(udp=udp)
        before = len(scripted.packets)
        scripted.send(10)
        assert len(scripted.packets) == before
        scripted.now += 0.1
        async with asyncio.timeout(5):
            while len(scripted.packets) < before + 10:
                await asyncio.sleep(0.01)
        received = [round(packet.received - T0, 3) for packet in scripted.packets[before:]]
        assert received == [round(0.04 * number, 3) for number in range(before + 1, before + 11)]
        scripted.connection.stop()


async def test_what_is_held_is_bounded() -> None:
    scripted = await begun(udp=True)
    before, held, full = len(scripted.packets), 0, HELD_FULL._value.get()
    while held < _MAX_HELD:
        assert len(scripted.packets) == before
        held += len(scripted.sends[0])
        scripted.send(1)
    assert len(scripted.packets) > before
    assert HELD_FULL._value.get() == full + 1
    scripted.connection.stop()


async def test_what_is_held_is_bounded_in_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = await begun()
    before = len(scripted.packets)
    scripted.send(1)
    assert len(scripted.packets) == before
    monkeypatch.setattr(native_reader, "_MAX_HELD_BYTES", 1)
    scripted.send(1)
    assert len(scripted.packets) == before + 2
    scripted.connection.stop()


async def test_bytes_that_cannot_be_read_end_their_own_connection() -> None:
    """In a turn of all connections: what is held after them is dropped with it."""
    scripted = await begun()
    before = len(scripted.packets)

    def fails(_data: bytes) -> list[Data | None]:
        raise ValueError("not understood")

    scripted.client.understand = fails
    scripted.send(2)
    await scripted.connection.catch_up()
    failure = scripted.connection.ended.result().failure
    assert failure is not None
    assert (failure.code, len(scripted.packets)) == ("stream_ended", before)


async def test_who_catches_up_has_all_that_came_and_what_comes_soon_at_once() -> None:
    scripted = await begun()
    before = len(scripted.packets)
    scripted.send(2)
    await scripted.connection.catch_up(60.0)
    assert len(scripted.packets) == before + 2
    scripted.send(1)
    assert len(scripted.packets) == before + 3
    scripted.connection.stop()


async def test_what_is_held_when_the_camera_hangs_up_is_not_lost() -> None:
    scripted = await begun()
    before = len(scripted.packets)
    scripted.send(5)
    scripted.hang_up()
    assert len(scripted.packets) == before + 5
    assert scripted.connection.ended.result().failure is not None
