"""The reader's thread: packets in order with their times, bounded hand-over, ends that are told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from services.rtsp_capture.connection import reader_thread as module
from services.rtsp_capture.connection.opencv_timestamps import OpenCvTimestamps
from services.rtsp_capture.connection.reader import ConnectionEnd
from services.rtsp_capture.connection.reader_thread import ReaderThread
from services.rtsp_capture.media.gop_buffer import Packet
from services.rtsp_capture.media.packets import RawPacket, StreamInfo
from utils.exceptions import CaptureFailure
from utils.metrics import READERS_LEFT

INFO = StreamInfo("h264", b"", 320, 180, 25.0)
T0 = 1_800_000_000.0


class Script:
    """A PacketReader that plays a list; an exception in it is raised, the end of it blocks until it is closed."""

    def __init__(self, items: list[RawPacket | Exception], opens: Exception | None = None) -> None:
        self.items: Iterator[RawPacket | Exception] = iter(items)
        self.opens = opens
        self.threads: list[str] = []
        self.go_on = threading.Event()

    def open(self) -> StreamInfo:
        self.threads.append(threading.current_thread().name)
        if self.opens:
            raise self.opens
        return INFO

    def read(self) -> RawPacket:
        item = next(self.items, None)
        if item is None:
            self.go_on.wait(5)
            raise CaptureFailure("read_timeout", "nothing came")
        if isinstance(item, Exception):
            raise item
        return item

    def close(self) -> None:
        self.threads.append(threading.current_thread().name)


def raw(n: int, *, key: bool = False, pts: float | None = -1.0, late: float = 0.0) -> RawPacket:
    at = n / 25 if pts == -1.0 else pts
    return RawPacket(b"%d" % n, at, key, T0 + n / 25 + 0.04 + late)


async def play(reader: Script) -> tuple[list[Packet], ConnectionEnd]:
    packets: list[Packet] = []
    session = ReaderThread("cam", reader, 3, lambda _: None, packets.extend)
    session.start()
    end = await asyncio.wait_for(session.ended, 5)
    await session.join()
    assert len(set(reader.threads)) == 1  # opened and closed by the same thread
    assert reader.threads[0] == "rtsp-cam"
    return packets, end


STOP = CaptureFailure("stream_ended", "over")


async def test_the_first_burst_is_timed_by_what_comes_after_it() -> None:
    items: list[RawPacket | Exception] = [raw(n, key=n == 0, late=(20 - n) / 25) for n in range(20)]
    items += [raw(n) for n in range(20, 40)]
    packets, end = await play(Script([*items, STOP]))
    assert (end.failure, end.packets) == (STOP, 40)
    assert [p.data for p in packets] == [b"%d" % n for n in range(40)]
    assert [p.timestamp for p in packets] == pytest.approx([T0 + n / 25 for n in range(40)], abs=1e-4)
    assert {p.segment for p in packets} == {3}


async def test_pictures_whose_time_could_not_be_told_before_the_stream_broke_are_given_up() -> None:
    packets, end = await play(Script([raw(0, key=True), raw(1), STOP]))
    assert packets == []
    assert end.packets == 2


async def test_a_packet_without_a_time_takes_the_place_that_is_missing() -> None:
    order = [0, 3, 2, 1, 6, 5, 4, 9, 8, 7, 12, 11, 10, 15, 14, 13]
    items: list[RawPacket | Exception] = [
        RawPacket(b"%d" % n, None if n == 4 else n / 25, n == 0, T0 + i / 25 + 0.2) for i, n in enumerate(order)
    ]
    packets, _ = await play(Script([*items, STOP]))
    assert [round(p.pts * 25) for p in packets] == order
    assert all(p.timed for p in packets)


async def test_a_packet_whose_time_cannot_be_told_is_only_decoded() -> None:
    items: list[RawPacket | Exception] = [raw(n, key=n == 0, pts=None if n == 20 else -1.0) for n in range(40)]
    packets, _ = await play(Script([*items, STOP]))
    assert [i for i, p in enumerate(packets) if not p.timed] == [20]
    assert len({round(p.pts * 90_000) for p in packets}) == 40
    assert packets[19].pts < packets[20].pts < packets[21].pts


@pytest.mark.parametrize(
    "positions",  # of pictures 0 4 2 1 3 8 6 5 7 ..., as FFmpeg gave them under load: 0 is no time, or a new start
    [[0, 0, 80, 40, 0, 200, 120, 80, 160], [0, 160, 0, 40, 0, 200, 120, 80, 160]],
)
async def test_b_pictures_with_a_start_that_moves_and_no_frame_counts(positions: list[int]) -> None:
    order = [0, *(n + 4 * k for k in range(12) for n in (4, 2, 1, 3))]
    times = OpenCvTimestamps()
    items: list[RawPacket | Exception] = []
    for i, n in enumerate(order):
        position = positions[i] / 1000 if i < len(positions) else n / 25 - 0.12
        at = times.next(position, -9.2e18, 50.0)
        items.append(RawPacket(b"%d" % n, at, n == 0, T0 + i / 25 + 0.04, times.origin))
    packets, _ = await play(Script([*items, STOP]))
    assert len(packets) == len(order)
    timed = [p for p in packets if p.timed]
    assert len(timed) >= len(order) - 6
    assert min(timed, key=lambda p: p.pts).pts > packets[0].pts  # the keyframe is not shown after what refers to it
    for p in timed:  # the picture shown last before its sending is the one that is in time
        assert p.timestamp == pytest.approx(T0 + (int(p.data) - 3) / 25, abs=1e-3)


@pytest.mark.parametrize("failing", ["open", "read"])
async def test_foreign_errors_do_not_tell_the_url(failing: str) -> None:
    error = RuntimeError("cannot open rtsp://user:secret@host/")
    reader = Script([], error) if failing == "open" else Script([raw(0, key=True), error])
    _, end = await play(reader)
    assert end.failure is not None
    assert end.failure.code == "stream_ended"
    assert "secret" not in str(end.failure)


async def test_a_loop_that_stands_still_loses_whole_groups_and_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING_PACKETS", 50)
    items: list[RawPacket | Exception] = [raw(n, key=n % 20 == 0) for n in range(200)]
    reader = Script(items)
    packets: list[Packet] = []
    session = ReaderThread("cam", reader, 1, lambda _: None, packets.extend)
    session.start()
    deadline = threading.Event()
    while session._count < 200 and not deadline.wait(0.01):  # the loop stands still: nothing is taken
        pass
    reader.go_on.set()
    await asyncio.wait_for(session.ended, 5)
    await session.join()
    numbers = [int(p.data) for p in packets]
    assert len(numbers) <= 51
    assert packets[0].key
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))  # nothing missing within


async def test_stopping_before_it_began() -> None:
    reader = Script([raw(0, key=True)])
    session = ReaderThread("cam", reader, 1, lambda _: None, lambda _: None)
    session.stop()
    session.start()
    end = await asyncio.wait_for(session.ended, 5)
    assert (end.failure, end.packets) == (None, 0)
    await session.join()


class Stuck(Script):
    """One whose read ends, with a packet, only when it is let."""

    def __init__(self) -> None:
        super().__init__([raw(n, key=n == 0) for n in range(10)])
        self.later = iter([raw(11)])

    def read(self) -> RawPacket:
        item = next(self.items, None)
        if item is None:
            self.go_on.wait(10)
            item = next(self.later)
        assert isinstance(item, RawPacket)
        return item


async def test_a_read_that_does_not_end_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits goes on at once; what it gives after all is for nobody; so many, and no more."""
    monkeypatch.setattr(module, "MAX_ABANDONED", 1)
    readers, packets = [Stuck(), Stuck()], [list[Packet](), list[Packet]()]
    pairs = zip(readers, packets, strict=True)
    sessions = [ReaderThread("cam", reader, 1, lambda _: None, got.extend) for reader, got in pairs]
    for session in sessions:
        session.start()
    async with asyncio.timeout(10):
        while not all(len(got) == 10 for got in packets):
            await asyncio.sleep(0.01)
        assert sessions[0].abandon(STOP)
        assert (await sessions[0].ended).failure is STOP
        await sessions[0].join()
        assert (READERS_LEFT._value.get(), sessions[0]._thread.is_alive()) == (1, True)
        assert not sessions[1].abandon(STOP)
        assert not sessions[1].ended.done()
        readers[0].go_on.set()
        while READERS_LEFT._value.get():
            await asyncio.sleep(0.01)
        assert len(packets[0]) == 10
        assert len(set(readers[0].threads)) == 1  # closed, and by the thread that opened
        assert sessions[1].abandon(STOP)
        readers[1].go_on.set()
        while READERS_LEFT._value.get():
            await asyncio.sleep(0.01)
