"""One event loop in a thread of its own for the sockets of all cameras of a process, and the way from it to ours.

When packets came is when that loop read them: the service's own loop may be late by much more than a camera's jitter.
What it has read becomes pictures in `turns`, for all cameras together, the first of a connection at once; they are posted
with at most one wake-up under way. A connection of which too much waits (our loop is blocked) drops what comes until the
next keyframe that finds room.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from services.rtsp_capture.connection.batches import INTERVAL, Batches
from services.rtsp_capture.connection.reader import ConnectionEnd, ConnectionPlan, PacketConnection
from services.rtsp_capture.media.gop_buffer import Packet
from utils.exceptions import CaptureFailure
from utils.metrics import PACKETS_DROPPED, QUEUE_DEPTH

MAX_WAITING_PACKETS = 2000  # of a connection
MAX_WAITING_BYTES = 64 * 1024 * 1024
_DEPTH = QUEUE_DEPTH.labels(queue="packets")

T = TypeVar("T")


def _new_loop() -> asyncio.AbstractEventLoop:
    """uvloop's, as uvicorn takes for the service's own: a read costs half of asyncio's. Not on Windows."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class IoLoop:
    """Begun with the first use. Made and closed on the service's loop."""

    def __init__(self) -> None:
        self._home = asyncio.get_running_loop()
        self._loop = _new_loop()
        self._thread: threading.Thread | None = None
        self._guard = threading.Lock()
        self._waiting: list[Callable[[], None]] = []
        self._waking = False
        self.batches = Batches(self._home)  # of packets that reader threads have
        self.turns = Batches(self._loop, self._wake)  # of what connections there have read; to be used there

    async def run(self, work: Coroutine[Any, Any, T], discard: Callable[[T], object] = lambda _: None) -> T:
        """Awaits a coroutine that runs there; cancelled, it is cancelled there.

        `discard` is called there with a result that came when the caller had been cancelled already: nobody else
        would ever close it.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop.run_forever, name="cameras", daemon=True)
            self._thread.start()
        guard = threading.Lock()
        results: list[T] = []
        cancelled = False

        async def there() -> T:
            result = await work
            with guard:
                results.append(result)
                unwanted = cancelled
            if unwanted:
                discard(result)
            return result

        try:
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(there(), self._loop))
        except asyncio.CancelledError:
            with guard:
                cancelled = True
                unwanted = results[:]
            for result in unwanted:
                self.call(partial(discard, result))
            raise

    def call(self, function: Callable[[], object]) -> None:
        """Calls it there, soon."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function)

    def post(self, function: Callable[[], None]) -> None:
        """From there: calls it on the service's loop, in order; what a turn posts, after the turn."""
        with self._guard:
            self._waiting.append(function)
        if not self.turns.under_way:
            self._wake()

    def _wake(self) -> None:
        with self._guard:
            if self._waking or not self._waiting:
                return
            self._waking = True
        try:
            self._home.call_soon_threadsafe(self._drain)
        except RuntimeError:  # the service's loop is closed: the process is ending
            pass

    def _drain(self) -> None:
        with self._guard:
            waiting, self._waiting = self._waiting, []
            self._waking = False
        for function in waiting:
            function()

    async def close(self) -> None:
        """Once all connections have ended."""
        if self._thread is None:
            self._loop.close()
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join)
        self._loop.close()


class Linked:
    """A connection there, as the service's loop sees it (`reader.PacketConnection`)."""

    def __init__(self, io: IoLoop, plan: ConnectionPlan) -> None:
        self._io, self._plan = io, plan
        self._there: PacketConnection | None = None
        self._guard = threading.Lock()
        self._waiting: list[Packet] = []
        self._bytes = 0  # of those
        self._posted = False  # a call of `_take` is on its way
        self._after_loss = False
        self._stopped = False
        self.ended: asyncio.Future[ConnectionEnd] = asyncio.get_running_loop().create_future()

    async def begin(self, connect: Callable[[ConnectionPlan], Coroutine[Any, Any, PacketConnection]]) -> PacketConnection:
        """Raises CaptureFailure."""
        on_open = self._plan.on_open
        plan = replace(self._plan, on_open=lambda info: self._io.post(lambda: on_open(info)), on_packets=self._came)

        async def connect_there() -> None:
            self._there = there = await connect(plan)
            there.ended.add_done_callback(lambda ended: self._io.post(lambda: self._end(ended.result())))

        try:
            await self._io.run(connect_there())
        except asyncio.CancelledError:
            self.stop()  # it may be there already
            raise
        return self

    # -- there -------------------------------------------------------------------------------------------------

    def _came(self, packets: list[Packet]) -> None:
        taken: list[Packet] = []
        size = 0
        for packet in packets:
            full = len(self._waiting) + len(taken) >= MAX_WAITING_PACKETS or self._bytes + size >= MAX_WAITING_BYTES
            if full or (self._after_loss and not packet.key):
                PACKETS_DROPPED.labels(reason="queue_full" if full else "after_loss").inc()
                self._after_loss = True
                continue
            self._after_loss = False
            taken.append(packet)
            size += len(packet.data)
        if not taken:
            return
        _DEPTH.inc(len(taken))
        with self._guard:
            self._waiting += taken
            self._bytes += size
            post, self._posted = not self._posted, True
        if post:
            self._io.post(self._take)

    # -- here --------------------------------------------------------------------------------------------------

    def _take(self) -> None:
        if not self._waiting:
            return
        with self._guard:
            packets, self._waiting = self._waiting, []
            self._bytes, self._posted = 0, False
        _DEPTH.dec(len(packets))
        if not self._stopped:
            self._plan.on_packets(packets)

    def _end(self, end: ConnectionEnd) -> None:
        self._take()
        if not self.ended.done():
            self.ended.set_result(end)

    async def catch_up(self, prompt: float = 0.0) -> None:
        if self._there is not None and not self.ended.done():
            with contextlib.suppress(TimeoutError):  # the other thread is busy: what has come comes with its next turn
                async with asyncio.timeout(INTERVAL):
                    await self._io.run(self._there.catch_up(prompt))
        self._take()

    @property
    def reported(self) -> bool:
        return self._there is not None and self._there.reported

    def stop(self) -> None:
        self._stopped = True
        self._io.call(lambda: self._there.stop() if self._there is not None else None)

    def abandon(self, failure: CaptureFailure) -> bool:
        self._stopped = True
        self._io.call(lambda: self._there.stop() if self._there is not None else None)
        self._end(ConnectionEnd(failure, 0))
        return True

    async def join(self) -> None:
        """Nothing is left once it has ended."""
