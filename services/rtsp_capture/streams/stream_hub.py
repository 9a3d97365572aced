"""The streams of a process: one connection for all captures of the same (camera, URL, transport).

An *owner* is the principal that a user of a stream works for; None is the service itself (streams that are kept open) and
everybody while access is off. A stream counts for the principal that uses it alone. A principal may hold its share
(LIMITS__SHARE) of the streams that are not kept open; beyond that its captures wait although there is room for others.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from services.access.shares import Shares
from services.rtsp_capture.connection.camera_address import parse_rtsp_url
from services.rtsp_capture.media.ring_budget import RingBudget
from services.rtsp_capture.streams.stream import Stream, StreamDeps, StreamKey
from services.rtsp_capture.streams.stream_state import StreamState
from utils.logger import get_logger

log = get_logger(__name__)


@dataclass(slots=True)
class _Shared:
    stream: Stream
    owners: Counter[str | None] = field(default_factory=Counter)  # how many users each has
    linger: asyncio.TimerHandle | None = None

    @property
    def users(self) -> int:
        return self.owners.total()


class StreamHub:
    """Opens a stream for its first user, closes it RTSP__LINGER seconds after its last. On the event loop."""

    def __init__(self, deps: StreamDeps, shares: Shares | None = None) -> None:
        """`shares`: how much of the streams one principal may hold; None: all."""
        self._deps = deps
        self._limits = shares or Shares(1.0)
        self._budget = RingBudget(deps.settings.RING_BUDGET)
        self._shared: dict[StreamKey, _Shared] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(deps.settings.MAX_CONCURRENT_STREAMS)
        self._waiting = 0  # for room
        self._changed = asyncio.Event()  # who uses which stream

    @property
    def free(self) -> int:
        """How many more streams may be opened now; lingering ones count, because they are closed when room is wanted."""
        idle = sum(1 for shared in self._shared.values() if not shared.users)
        return max(0, self._deps.settings.MAX_CONCURRENT_STREAMS - len(self._shared) - len(self._closing) + idle)

    def find(self, key: StreamKey) -> Stream | None:
        """The stream, if it is open already."""
        shared = self._shared.get(key)
        return shared.stream if shared is not None else None

    def keys(self) -> list[StreamKey]:
        """Every stream."""
        return list(self._shared)

    def streams(self) -> list[tuple[Stream, int]]:
        """Every stream, and how many use it."""
        return [(shared.stream, shared.users) for shared in self._shared.values()]

    def owners(self) -> list[tuple[str, frozenset[str | None]]]:
        """Every stream's camera, and for whom it is used; of one that lingers nobody."""
        return [(key.camera_id, frozenset(shared.owners)) for key, shared in self._shared.items()]

    def may_open(self, owner: str | None, more: int = 1) -> bool:
        """Whether `owner` may open so many more streams; who holds none may."""
        held = sum(1 for shared in self._shared.values() if set(shared.owners) == {owner})
        kept = sum(1 for shared in self._shared.values() if None in shared.owners)
        most = self._limits.most(self._deps.settings.MAX_CONCURRENT_STREAMS - kept)
        return owner is None or not self._limits.limited or not held or held + more <= most

    async def acquire(self, key: StreamKey, owner: str | None, *, beyond_share: bool = False) -> Stream:
        """The stream, opened when it is not open yet; waits while RTSP__MAX_CONCURRENT_STREAMS are, and while `owner` holds
        its share of them, unless `beyond_share`."""
        address = parse_rtsp_url(key.url)
        while (shared := self._shared.get(key)) is None:
            if not beyond_share and not self.may_open(owner):
                self._changed.clear()
                await self._changed.wait()
                continue
            if self._room.locked():
                self._close_idle()
            self._waiting += 1
            try:
                await self._room.acquire()
            finally:
                self._waiting -= 1
            # Meanwhile another capture may have opened it, or others of the same owner have taken its share.
            if key in self._shared or not (beyond_share or self.may_open(owner)):
                self._room.release()
                continue
            self._shared[key] = _Shared(Stream(key, address, self._deps, self._budget))
        shared.owners[owner] += 1
        if shared.linger is not None:
            shared.linger.cancel()
            shared.linger = None
        self._changed.set()
        return shared.stream

    def release(self, key: StreamKey, owner: str | None) -> None:
        """Returns a stream as it was acquired. One that is down or stalled, or whose room is wanted, does not linger."""
        shared = self._shared[key]
        shared.owners[owner] -= 1
        if not shared.owners[owner]:
            del shared.owners[owner]
        self._changed.set()
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
            shared.owners.clear()
        for key in list(self._shared):
            self._close(key)
        if self._closing:
            await asyncio.gather(*self._closing, return_exceptions=True)
