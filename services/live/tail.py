"""One reader of the event log for all WebSockets of a process.

A subscription that has read up to where the tail is, is attached to it: from then on the tail hands it every event that it
wants, and it costs no query. Subscriptions that want the same are one group, and groups are found by camera or request, so
an event is compared with few of them. On the event loop; what happens between two awaits is one step.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from models.access import ALL_CAMERAS
from models.values import LogFilter
from services.events.event_log import EventLog, LogPage, Position
from services.live.interest import Interest, Key, keys_of
from services.reads.serializers.event_log import LogEvent
from utils.exceptions import CursorExpired, DatabaseUnavailable
from utils.logger import get_logger
from utils.tasks import cancel_all

log = get_logger(__name__)

# What the tail itself reads: everything. Each group's own filter has the grant of its principal.
EVERYTHING = LogFilter(ALL_CAMERAS)
PAGE = 500  # events of one read of the tail
CATCH_UP_PAGE = 100  # and of one read of a subscription that is behind
CATCH_UPS = 8  # such reads at once
WAIT = 30.0  # seconds that one read waits for the next event
RETRY = 1.0  # seconds after the database was away


class Subscriber(Protocol):
    """A subscription."""

    interest: Interest

    def offer(self, seq: int, event: LogEvent) -> None:
        """The next event that it wants. It detaches itself when it has no room."""

    def left_behind(self, position: Position) -> None:
        """The tail cannot go on: it has been detached, and has all until `position`."""


class SameInterest:
    """Subscriptions that want the same."""

    __slots__ = ("interest", "members")

    def __init__(self, interest: Interest) -> None:
        self.interest = interest
        self.members: dict[Subscriber, None] = {}  # in the order of their coming


class Tail:
    """Reads while it is started. `page` is for subscriptions that are behind."""

    def __init__(self, event_log: EventLog) -> None:
        self._log = event_log
        self._groups: dict[LogFilter, SameInterest] = {}
        self._found: dict[Key, dict[SameInterest, None]] = {}
        self._position: Position | None = None
        self._known = asyncio.Event()  # there is a position
        self._catching_up = asyncio.Semaphore(CATCH_UPS)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="live-tail")

    async def stop(self) -> None:
        task, self._task = self._task, None
        self._position = None
        self._known.clear()
        if task is not None:
            await cancel_all(task)

    async def position(self) -> Position:
        """How far the tail has come; all that is committed from now on lies beyond."""
        while self._position is None:
            await self._known.wait()
        return self._position

    def attach(self, subscriber: Subscriber, position: Position) -> bool:
        """Takes in who has all until `position`; False when that is not as far as the tail is."""
        here = self._position
        if here is None or here.log_id != position.log_id or position.seq < here.seq:
            return False
        wanted = subscriber.interest.wanted
        group = self._groups.get(wanted)
        if group is None:
            group = self._groups[wanted] = SameInterest(subscriber.interest)
            for key in group.interest.index_keys():
                self._found.setdefault(key, {})[group] = None
        subscriber.interest = group.interest  # one copy of the sets for all who want the same
        group.members[subscriber] = None
        return True

    def detach(self, subscriber: Subscriber) -> None:
        """Repeating it is fine."""
        group = self._groups.get(subscriber.interest.wanted)
        if group is None or group.members.pop(subscriber, group) is group or group.members:
            return
        del self._groups[subscriber.interest.wanted]
        for key in group.interest.index_keys():
            found = self._found[key]
            del found[group]
            if not found:
                del self._found[key]

    async def page(self, position: Position, wanted: LogFilter) -> LogPage:
        """What a subscription that is behind reads. Raises CursorExpired, DatabaseUnavailable."""
        async with self._catching_up:
            return await self._log.page(position, wanted, CATCH_UP_PAGE)

    async def oldest(self) -> Position:
        """Before the oldest event that is kept. Raises DatabaseUnavailable."""
        async with self._catching_up:
            return await self._log.beginning()

    async def _run(self) -> None:
        while True:
            try:
                if self._position is None:
                    self._position = (await self._log.page("latest", EVERYTHING, 1)).position
                    self._known.set()
                page = await self._log.page(self._position, EVERYTHING, PAGE, WAIT)
                # No await from here to the position: whoever attaches sees both or neither.
                for event in page.events:
                    self._hand_out(event)
                self._position = page.position
            except CursorExpired:
                self._lost()
            except DatabaseUnavailable:
                await asyncio.sleep(RETRY)
            except Exception:
                log.exception("live_tail_failed")
                await asyncio.sleep(RETRY)

    def _hand_out(self, event: LogEvent) -> None:
        seq = int(event.id.rpartition(".")[2])
        for key in keys_of(event):
            for group in list(self._found.get(key, ())):
                if group.interest.takes_event(event):
                    for subscriber in list(group.members):
                        subscriber.offer(seq, event)

    def _lost(self) -> None:
        """The log is another one, or has lost what was not read yet: each subscription finds out for itself."""
        position, self._position = self._position, None
        self._known.clear()
        assert position is not None
        groups = list(self._groups.values())
        self._groups.clear()
        self._found.clear()
        log.warning("live_tail_lost")
        for group in groups:
            for subscriber in group.members:
                subscriber.left_behind(position)
