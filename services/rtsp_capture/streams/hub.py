"""The streams of a process: one connection for all captures of the same (camera, URL, transport)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from services.rtsp_capture.connection.address import parse_rtsp_url
from services.rtsp_capture.media.ring_budget import RingBudget
from services.rtsp_capture.streams.stream import Stream, StreamDeps, StreamKey
from services.rtsp_capture.streams.stream_state import StreamState
from utils.logger import get_logger

log = get_logger(__name__)


@dataclass(slots=True)
class _Shared:
    stream: Stream
    users: int = 0
    linger: asyncio.TimerHandle | None = None


class StreamHub:
    """Opens a stream for its first user, closes it RTSP__LINGER seconds after its last. On the event loop."""

    def __init__(self, deps: StreamDeps) -> None:
        self._deps = deps
        self._budget = RingBudget(deps.settings.RING_BUDGET)
        self._shared: dict[StreamKey, _Shared] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(deps.settings.MAX_CONCURRENT_STREAMS)
        self._waiting = 0  # for room

    @property
    def free(self) -> int:
        """How many more streams may be opened now; lingering ones count, because they are closed when room is wanted."""
        idle = sum(1 for shared in self._shared.values() if not shared.users)
        return max(0, self._deps.settings.MAX_CONCURRENT_STREAMS - len(self._shared) - len(self._closing) + idle)

    def find(self, key: StreamKey) -> Stream | None:
        """The stream, if it is open already."""
        shared = self._shared.get(key)
        return shared.stream if shared is not None else None

    def streams(self) -> list[tuple[Stream, int]]:
        """Every stream, and how many use it."""
        return [(shared.stream, shared.users) for shared in self._shared.values()]

    async def acquire(self, key: StreamKey) -> Stream:
        """The stream, opened when it is not open yet; waits while RTSP__MAX_CONCURRENT_STREAMS are."""
        address = parse_rtsp_url(key.url)
        while (shared := self._shared.get(key)) is None:
            if self._room.locked():
                self._close_idle()
            self._waiting += 1
            try:
                await self._room.acquire()
            finally:
                self._waiting -= 1
            if key in self._shared:  # another capture opened it while this one waited
                self._room.release()
                continue
            self._shared[key] = _Shared(Stream(key, address, self._deps, self._budget))
        shared.users += 1
        if shared.linger is not None:
            shared.linger.cancel()
            shared.linger = None
        return shared.stream

    def release(self, key: StreamKey) -> None:
        """Returns an acquired stream. A stream that is down or stalled, or whose room is wanted, does not linger."""
        shared = self._shared[key]
        shared.users -= 1
        if shared.users:
            return
        if self._waiting or shared.stream.status.state is not StreamState.LIVE:
            self._close(key)
        else:
            shared.linger = asyncio.get_running_loop().call_later(self._deps.settings.LINGER, self._close, key)

    def _close_idle(self) -> None:
        for key, shared in list(self._shared.items()):
            if not shared.users:
                self._close(key)
                return

    def _close(self, key: StreamKey) -> None:
        shared = self._shared.get(key)
        if shared is None or shared.users:
            return
        del self._shared[key]
        if shared.linger is not None:
            shared.linger.cancel()
        shared.stream.close()
        task = asyncio.create_task(self._finish(shared.stream))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _finish(self, stream: Stream) -> None:
        try:
            await stream.closed()
        finally:
            self._room.release()

    async def close(self) -> None:
        """Closes all streams and waits for their threads."""
        for shared in self._shared.values():
            shared.users = 0
        for key in list(self._shared):
            self._close(key)
        if self._closing:
            await asyncio.gather(*self._closing, return_exceptions=True)
