"""Whole captures on a script: a camera that plays packets on an injected clock, and a database and a store in memory.

The test moves the clock, packet by packet; nothing waits for real time but threads and the event loop. Everything between
the reader and the two stores is the product's own: thread, ring, sampler, decoder (Motion JPEG), pipeline, ledger.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast
from uuid import UUID

import numpy as np
import simplejpeg

from config import RtspSettings, SpoolSettings
from models.entities import CaptureEvent, IngestionRequest
from models.values import CaptureParams, Claim, DropReason, FrameRecord, IngestionStatus
from repositories.ledger import Recorded
from services.rtsp_capture.captures.context import CaptureDeps
from services.rtsp_capture.captures.job import CaptureJob
from services.rtsp_capture.connection.reader import ConnectionPlan, PacketConnection, PacketReader
from services.rtsp_capture.connection.reader_thread import ReaderThread
from services.rtsp_capture.frames.picture_budget import PictureBudget
from services.rtsp_capture.media.packets import RawPacket, StreamInfo
from services.rtsp_capture.streams.stream import StreamDeps
from services.rtsp_capture.streams.stream_hub import StreamHub
from services.rtsp_capture.timing.host_clock import HostClock
from services.spool.spool import Spool
from utils.exceptions import CaptureFailure, LeaseLost, StorageUnavailable
from utils.ids import new_id
from utils.pool import WorkerPool

T = TypeVar("T")
T0 = 1_800_000_000.0  # second 0 of the script, seconds since the epoch
BEGIN = -0.5  # second of the script at which captures begin
FPS = 25
STEP = 1 / FPS
URL = "rtsp://127.0.0.1:1/x"
INFO = StreamInfo("mjpeg", b"", 32, 16, float(FPS))
BROKEN = b"\xff\xd8 no picture \xff\xd9"


@cache
def _picture() -> bytes:
    return bytes(simplejpeg.encode_jpeg(np.full((16, 32, 3), 120, np.uint8), 90))


def jpeg_of(number: int) -> bytes:
    """A small picture with its number in a comment segment."""
    return _picture()[:2] + b"\xff\xfe\x00\x06" + number.to_bytes(4, "big") + _picture()[2:]


def number_of(data: bytes) -> int:
    return int.from_bytes(data[6:10], "big")


class _Keys:
    """URLs in plain text."""

    missing: frozenset[str] = frozenset()

    def open(self, text: str) -> str:
        return text

    def lacks(self, _text: str) -> bool:
        return False


class ManualClock:
    """Seconds of the script; `ahead`: by which the wall clock was set."""

    def __init__(self) -> None:
        self.seconds = BEGIN
        self.ahead = 0.0
        self.host = HostClock(lambda: self.seconds, self.wall)

    def wall(self) -> float:
        return T0 + self.seconds + self.ahead


@dataclass
class Connection:
    """What the camera sends once it is connected to: pictures at these seconds of the script; then `end`, or silence."""

    times: Sequence[float]
    end: CaptureFailure | None = None
    ends_at: float = 0.0
    broken: frozenset[int] = frozenset()  # numbers of pictures whose data is damaged
    keys: Callable[[int], bool] = lambda number: True
    refused: CaptureFailure | None = None  # the answer to connections before second `opens_at`
    opens_at: float = float("-inf")

    @classmethod
    def steady(cls, start: float, stop: float, fps: float = FPS, **fields: Any) -> Connection:
        return cls([start + n / fps for n in range(round((stop - start) * fps))], ends_at=stop, **fields)


class ScriptedReader:
    """A `PacketReader` that hands out each packet when the clock has come to it."""

    def __init__(self, script: Script, connection: Connection) -> None:
        self._script = script
        self._connection = connection
        self._number = 0
        self._closed = False

    def open(self) -> StreamInfo:
        return INFO

    def read(self) -> RawPacket:
        connection, number = self._connection, self._number
        if number >= len(connection.times):
            self._script.wait(connection.ends_at if connection.end is not None else float("inf"))
            raise connection.end or CaptureFailure("stream_ended", "The test is over.")
        at = connection.times[number]
        self._script.wait(at)
        self._number += 1
        whole = round(at * FPS) not in connection.broken
        data = jpeg_of(round(at * FPS)) if whole else BROKEN
        return RawPacket(data, at - connection.times[0], connection.keys(round(at * FPS)), T0 + at)

    def close(self) -> None:
        pass


class Script:
    """The camera's connections, one after the other, on one clock."""

    def __init__(self, clock: ManualClock, connections: Iterable[Connection]) -> None:
        self._clock = clock
        self._connections = list(connections)
        self._changed = threading.Condition()
        self._loop = asyncio.get_running_loop()
        self._waiting = asyncio.Event()  # the reader waits for the clock, and the loop has what it read before
        self._over = False
        self.opened = self.refused = 0

    def reader(self) -> PacketReader:
        self.opened += 1
        return ScriptedReader(self, self._connections.pop(0))

    async def connect(self, plan: ConnectionPlan) -> PacketConnection:
        if not self._connections:
            self._arrived(self._clock.seconds)
            raise CaptureFailure("connection_refused", "Nothing listens at the camera's address and port.")
        first = self._connections[0]
        if first.refused is not None and self._clock.seconds < first.opens_at:
            self._arrived(self._clock.seconds)
            self.refused += 1
            raise first.refused
        thread = ReaderThread(plan.name, self.reader(), plan.segment, plan.on_open, plan.on_packets, host=plan.host)
        thread.start()
        return thread

    def wait(self, until: float) -> None:
        """In the reader's thread."""
        with self._changed:
            while self._clock.seconds < until - 1e-9:
                if self._over:
                    raise CaptureFailure("stream_ended", "The test is over.")
                self._loop.call_soon_threadsafe(self._arrived, self._clock.seconds)
                self._changed.wait()

    def _arrived(self, seconds: float) -> None:
        """The camera has sent what it sends until then."""
        if seconds == self._clock.seconds:
            self._waiting.set()

    async def move(self, seconds: float, capture: asyncio.Task[None]) -> None:
        """Sets the clock; returns when all packets until then have come to the stream, or the capture has ended."""
        self._waiting.clear()
        with self._changed:
            self._clock.seconds = seconds
            self._changed.notify_all()
        waiting = asyncio.ensure_future(self._waiting.wait())
        done, _ = await asyncio.wait({waiting, capture}, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        assert done, "the reader did not come to wait for the clock"

    def end(self) -> None:
        with self._changed:
            self._over = True
            self._changed.notify_all()


class MemoryDatabase:
    """One request's row: what its captures wrote."""

    def __init__(self, row: IngestionRequest) -> None:
        self.row = row
        self.stored: dict[int, FrameRecord] = {}
        self.dropped: dict[int, str] = {}
        self.idle: set[int] = set()
        self.expected = 0
        self.gaps: list[list[float | None]] = []
        self.error: str | None = None
        self.reconnects = 0
        self.status = IngestionStatus.IN_PROGRESS
        self.handed_back = False
        self.taken_over: tuple[int, float] | None = None
        self.triggers_committed: list[CaptureEvent] = []
        self.condemned: set[int] = set()  # slots whose next key the sweeper has taken
        self.refused: set[int] = set()  # slots whose frames the database refuses
        self.books = asyncio.Event()  # cleared: a take-over waits for it
        self.books.set()

    # -- the database's shape ----------------------------------------------------------------------------------

    @asynccontextmanager
    async def unit_of_work(self) -> AsyncIterator[Any]:
        yield SimpleNamespace(requests=self, captures=self, ledger=self, leases=self, events=self)

    one_statement = unit_of_work

    async def retry_until_known(self, work: Callable[[Any], Awaitable[T]]) -> T:
        async with self.unit_of_work() as uow:
            return await work(uow)

    # -- the ledger --------------------------------------------------------------------------------------------

    async def record(
        self, _: UUID, frames: Sequence[FrameRecord], drops: Mapping[DropReason, Iterable[int]], expected: int,
        idle: Iterable[int] = (),
    ) -> list[Recorded]:  # fmt: skip
        found = []
        if self.refused & {frame.sequence for frame in frames}:
            raise ValueError("a frame that no table takes")
        for frame in frames:
            if frame.sequence in self.condemned:
                self.condemned.discard(frame.sequence)
                found.append(Recorded(frame.sequence, "condemned", None))
                continue
            before = self.stored.setdefault(frame.sequence, frame)
            self.dropped.pop(frame.sequence, None)
            self.idle.discard(frame.sequence)
            found.append(Recorded(frame.sequence, "stored" if before is frame else "exists", before.storage_path))
        for reason, slots in drops.items():
            for slot in slots:
                if slot not in self.stored:
                    self.dropped.setdefault(slot, reason.value)
        self.idle |= set(idle) - self.stored.keys() - self.dropped.keys()
        self.expected = max(self.expected, expected)
        return found

    async def open_slots(self, _: UUID, slots: Iterable[int]) -> None:
        self.idle -= set(slots)

    async def finish(
        self, _: Claim, status: IngestionStatus, *, expected: int, rest: DropReason, error: Any, gap_end: datetime,
        events: Any, drops: Mapping[DropReason, Iterable[int]],
    ) -> IngestionStatus:  # fmt: skip
        if events is not None:
            self.idle = (self.idle - events.opened) | set(events.idle)
        await self.record(self.row.id, [], drops, expected)
        for slot in range(self.expected):
            if slot not in self.stored and slot not in self.idle:
                self.dropped.setdefault(slot, rest.value)
        for gap in self.gaps:
            gap[1] = gap_end.timestamp() if gap[1] is None else gap[1]
        if status is IngestionStatus.COMPLETED and not self.stored:
            status, self.error = IngestionStatus.FAILED, error.code
        self.status = status
        return status

    # -- state -------------------------------------------------------------------------------------------------

    async def start(self, claim: Claim) -> IngestionRequest:
        return self.row

    async def set_grid_start(self, claim: Claim, at: datetime, source: object) -> datetime:
        self.row.grid_start = self.row.grid_start or at
        return self.row.grid_start

    async def set_source(self, claim: Claim, source: object) -> None:
        pass

    async def set_error(self, claim: Claim, error: Any) -> None:
        self.error = error.code

    async def set_reconnects(self, claim: Claim, count: int) -> None:
        self.reconnects = count

    async def open_gap(self, claim: Claim, at: datetime, reason: str) -> None:
        if not self.gaps or self.gaps[-1][1] is not None:
            self.gaps.append([at.timestamp(), None])

    async def close_gap(self, claim: Claim, at: datetime) -> None:
        if self.gaps and self.gaps[-1][1] is None:
            self.gaps[-1][1] = at.timestamp()

    async def take_over(self, claim: Claim, expected: int, since: datetime, wanted: Iterable[int] | None = None) -> None:
        await self.books.wait()
        self.taken_over = (expected, since.timestamp())
        self.gaps.append([since.timestamp(), None])
        lost = set(range(expected)) if wanted is None else set(wanted)
        for slot in set(range(expected)) - self.stored.keys():
            if slot in lost:
                self.dropped.setdefault(slot, DropReason.LEASE_LOST.value)
            else:
                self.idle.add(slot)
        self.expected = max(self.expected, expected)

    async def hand_back(self, claim: Claim) -> None:
        self.handed_back = True

    async def triggers(self, since: object, most: int) -> list[CaptureEvent]:
        return self.triggers_committed

    async def recent(self, request_id: UUID, since: datetime, most: int) -> list[CaptureEvent]:
        return self.triggers_committed

    # -- what tests ask ----------------------------------------------------------------------------------------

    @property
    def drops(self) -> dict[str, list[int]]:
        """Slots by reason."""
        return {reason: sorted(s for s, r in self.dropped.items() if r == reason) for reason in set(self.dropped.values())}

    def accounted(self) -> bool:
        """Whether every slot that came due is stored, dropped or idle, and in one of them only."""
        sets = (self.stored.keys(), self.dropped.keys(), self.idle)
        return sum(map(len, sets)) == self.expected and set().union(*sets) == set(range(self.expected))


class MemoryStorage:
    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.away: frozenset[int] = frozenset()  # numbers of pictures that it does not take
        self.answers = asyncio.Event()  # cleared: it hangs
        self.answers.set()

    async def put(self, key: str, data: bytes, content_type: str, sha256: str) -> None:
        if number_of(data) in self.away:
            raise StorageUnavailable("The object store is away.")
        await self.answers.wait()
        self.objects[key] = data


@dataclass
class CaptureRun:
    """One capture, and what it has done so far."""

    clock: ManualClock
    script: Script
    database: MemoryDatabase
    storage: MemoryStorage
    spool: Spool
    hub: StreamHub
    job: CaptureJob
    task: asyncio.Task[None]
    may_act: list[bool] = field(default_factory=lambda: [True])

    async def play(self, until: float) -> None:
        """Moves the clock, 40 ms a step, until a moment or the capture's end."""
        if self.clock.seconds == BEGIN:
            await self.script.move(BEGIN, self.task)  # the stream opens
        while self.clock.seconds < until - 1e-9 and not self.task.done():
            await self.script.move(min(until, self.clock.seconds + STEP), self.task)
            await self.tick()

    async def tick(self) -> None:
        """Lets the capture look at its clock, and the pipeline store what it has."""
        for _ in range(2):
            self.job.wake()
            for _ in range(8):
                await asyncio.sleep(0)

    @property
    def undecided(self) -> int:
        """The first slot that is not decided."""
        capture = self.job._capture
        assert capture is not None
        return capture.mode._context.ledger.grid.next_slot

    async def ended(self, seconds: float = 20) -> IngestionStatus:
        async with asyncio.timeout(seconds):
            with suppress(LeaseLost):
                await self.task
        return self.database.status

    def numbers(self) -> dict[int, int]:
        """By slot, the number of the stored picture: its time in 1/25 s since the script began."""
        stored = sorted(self.database.stored.items())
        return {slot: number_of(self.storage.objects[frame.storage_path]) for slot, frame in stored}

    def times(self) -> list[float]:
        """The capture times of the stored frames, seconds since the script began."""
        return [frame.timestamp.timestamp() - T0 for _, frame in sorted(self.database.stored.items())]


class _Unjudged:
    """Frames without quality: how it comes about is tested by itself."""

    async def judge(self, *_: object) -> None:
        return None


@asynccontextmanager
async def capture_run(
    params: CaptureParams, connections: Iterable[Connection], path: Path, *, resumed: bool = False,
    row_fields: Mapping[str, Any] | None = None, **settings: object,
) -> AsyncIterator[CaptureRun]:  # fmt: skip
    """A capture with these params on a camera that plays the connections, from second 0 of the script."""
    clock = ManualClock()
    script = Script(clock, connections)
    now = datetime.fromtimestamp(T0, UTC)
    fields = {
        "id": new_id(), "camera_id": "cam", "rtsp_url": URL, "params": params.to_json(), "meta": {}, "stored": 0,
        "expected": 0, "reconnects": 0, "created_at": now, "started_at": now, **(row_fields or {}),
    }  # fmt: skip
    row = IngestionRequest(**fields)
    rtsp = RtspSettings(
        **cast(Any, {"RECONNECT_DELAY": 0.01, "RECONNECT_MAX_DELAY": 0.01, "STORE_RETRY": 5, "LINGER": 0, **settings})
    )
    pool = WorkerPool("scripted-decode", 1)
    database, storage, spool = MemoryDatabase(row), MemoryStorage(), Spool(SpoolSettings(), path)
    hub = StreamHub(StreamDeps(rtsp, script.connect, pool, host=clock.host))
    deps = CaptureDeps(
        rtsp, cast(Any, database), cast(Any, storage), hub, cast(Any, _Keys()),
        PictureBudget(10**8, 4), spool, cast(Any, _Unjudged()), clock.wall, clock.host,
    )  # fmt: skip
    await spool.open()
    may_act = [True]
    job = CaptureJob(Claim(row.id, 1, resumed), deps, lambda: may_act[0])
    run = CaptureRun(clock, script, database, storage, spool, hub, job, asyncio.create_task(job.run()), may_act)
    try:
        yield run
    finally:
        script.end()
        run.task.cancel()
        await asyncio.gather(run.task, return_exceptions=True)
        await hub.close()
        await spool.close()
        await pool.close()
