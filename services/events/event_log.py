"""Events as consumers read them: CloudEvents 1.0 in the log's order, by cursor.

A cursor is `{log_id}.{seq}`, and an event's id is the cursor after it. Of another log (a restored database), beyond this
log's end, or before what is kept: CursorExpired.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

from models.access import NO_CAMERAS
from models.values import LogFilter
from repositories.database import Database
from repositories.event_log import LogSlice
from services.events.outbox_relay import LogHead
from services.reads.serializers.event_log import LogEvent, to_cloud_event
from utils.exceptions import CursorExpired, InvalidRequest, Overloaded
from utils.metrics import EVENT_READERS

BATCH = 200  # events read by one statement
SCAN = 5000  # events that one statement may pass over because of a filter
SCANS = 20  # such statements for one page
PAGE_BYTES = 4_194_304  # a page ends after the event that goes beyond
BEYOND = 2**63 - 1  # no event has this number
CURSOR_FORM = r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.(0|[1-9][0-9]{0,17})"  # log_id, seq
_CURSOR = re.compile(rf"^{CURSOR_FORM}\Z")


@dataclass(frozen=True, slots=True)
class Position:
    """After the event `seq` of the log `log_id`."""

    log_id: UUID
    seq: int

    def __str__(self) -> str:
        return f"{self.log_id}.{self.seq}"


@dataclass(frozen=True, slots=True)
class Newest:
    """At the last `count` events that there are."""

    count: int


# Where to begin: after a position, at the oldest event that is kept, at the newest ones, or with what comes from now on.
Start = Position | Newest | Literal["oldest", "latest"]


@dataclass(slots=True)
class LogPage:
    """Events and where to go on. `behind`: there is more in the log already."""

    position: Position
    behind: bool
    events: list[LogEvent] = field(default_factory=list)


def parse_cursor(text: str, name: str, location: Literal["query", "header", "body"]) -> Position:
    """Raises InvalidRequest for what was never a cursor of any log."""
    found = _CURSOR.match(text)
    if found is None:
        raise InvalidRequest.of(name, "is not a cursor of the event log", location=location, code="cursor")
    return Position(UUID(found[1]), int(found[2]))


class EventLog:
    """Raises CursorExpired, DatabaseUnavailable. `max_readers`: who may wait at once, streams and long polls."""

    def __init__(self, database: Database, head: LogHead, max_readers: int) -> None:
        self._database = database
        self._head = head
        self._max_readers = max_readers
        self._readers = 0
        self._reading: dict[tuple[Start, LogFilter, int], asyncio.Task[LogPage]] = {}

    @contextmanager
    def reader(self, kind: Literal["stream", "poll"]) -> Iterator[None]:
        """One of the places of those who wait, or Overloaded."""
        if self._readers >= self._max_readers:
            raise Overloaded("EVENTS__MAX_READERS streams and long polls of events are open already. Try again.")
        self._readers += 1
        EVENT_READERS.labels(kind=kind).inc()
        try:
            yield
        finally:
            self._readers -= 1
            EVENT_READERS.labels(kind=kind).dec()

    async def page(self, start: Start, wanted: LogFilter, limit: int, wait: float = 0) -> LogPage:
        """At most `limit` events after `start`, waiting up to `wait` seconds for the first.

        Of the newest ones as many as were asked for, in order, and the log's end as the position.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + wait
        while True:
            page = await self._shared(start, wanted, limit)
            rest = deadline - clock()
            if page.events or page.behind or rest <= 0:
                return page
            if not await self._head.beyond(page.position.log_id, page.position.seq, rest):
                return page
            start = page.position

    async def follow(self, page: LogPage, wanted: LogFilter, limit: int, idle: float) -> AsyncIterator[LogPage]:
        """What comes after `page`, for ever; an empty page when nothing did for `idle` seconds."""
        while True:
            page = await self.page(page.position, wanted, limit, idle)
            yield page

    async def beginning(self) -> Position:
        """Before the oldest event that is kept."""
        found = await self._slice(0, LogFilter(NO_CAMERAS), 1)
        return Position(found.log_id, found.oldest - 1)

    async def _shared(self, start: Start, wanted: LogFilter, limit: int) -> LogPage:
        """One read for all who ask for the same at the same time: they are all woken by the same event."""
        key = (start, wanted, limit)
        task = self._reading.get(key)
        if task is None:
            task = asyncio.ensure_future(self._read(start, wanted, limit))
            self._reading[key] = task
            task.add_done_callback(lambda done: self._finished(key, done))
        return await asyncio.shield(task)

    def _finished(self, key: tuple[Start, LogFilter, int], task: asyncio.Task[LogPage]) -> None:
        del self._reading[key]
        if not task.cancelled():
            task.exception()  # known, should nobody be waiting any more

    async def _read(self, start: Start, wanted: LogFilter, limit: int) -> LogPage:
        if start == "latest":
            found = await self._slice(0, LogFilter(NO_CAMERAS), 1)
            return LogPage(Position(found.log_id, found.head), behind=False)
        if isinstance(start, Newest):
            return await self._newest(start.count, wanted)
        page: LogPage | None = None
        size = 0
        for _ in range(SCANS):
            after = page.position.seq if page else start.seq if isinstance(start, Position) else 0
            found = await self._slice(after, wanted, min(BATCH, limit - (len(page.events) if page else 0)))
            held = page.position if page else start if isinstance(start, Position) else None
            if held is not None and not (held.log_id == found.log_id and found.oldest - 1 <= held.seq <= found.head):
                if page is not None and page.events:
                    return page  # good until there; the next read raises
                raise CursorExpired(details={"oldest_cursor": str(Position(found.log_id, found.oldest - 1))})
            page = page or LogPage(Position(found.log_id, after), behind=True)
            page.events += [to_cloud_event(found.log_id, seq, row) for seq, row in found.events]
            size += sum(len(row) for _, row in found.events)
            page.position = Position(found.log_id, found.scanned_to)
            page.behind = found.scanned_to < found.head
            if not page.behind or len(page.events) >= limit or size >= PAGE_BYTES:
                break
        assert page is not None
        return page

    async def _newest(self, count: int, wanted: LogFilter) -> LogPage:
        """Read from the end back, as far as the bounds of a page allow."""
        page: LogPage | None = None
        size, before = 0, BEYOND
        for _ in range(SCANS):
            found = await self._slice(before, wanted, min(BATCH, count - (len(page.events) if page else 0)), back=True)
            page = page or LogPage(Position(found.log_id, found.head), behind=False)
            if found.log_id != page.position.log_id:
                break  # restored meanwhile: the next read says so
            page.events[:0] = [to_cloud_event(found.log_id, seq, row) for seq, row in found.events]
            size += sum(len(row) for _, row in found.events)
            before = found.scanned_to
            if before < found.oldest or len(page.events) >= count or size >= PAGE_BYTES:
                break
        assert page is not None
        return page

    async def _slice(self, after: int, wanted: LogFilter, at_most: int, back: bool = False) -> LogSlice:
        async with self._database.one_statement() as uow:
            return await uow.event_log.read(
                after,
                wanted.cameras,
                types=wanted.types,
                camera_id=wanted.camera_id,
                at_most=at_most,
                scan=SCAN,
                camera_ids=wanted.camera_ids,
                request_ids=wanted.request_ids,
                back=back,
            )
