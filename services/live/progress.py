"""How running requests stand, for all WebSockets of a process by one read every half second, while somebody wants it.

A row is told when it differs from what was told last. The final state of a request is the last that is told of it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from uuid import UUID

from pydantic_core import to_json

from models.access import ALL_CAMERAS
from models.values import FINAL_STATUSES, IngestionStatus
from repositories.database import Database
from services.live.live_session import Subscription
from services.reads.serializers.requests import AnyRequest, progress_json

INTERVAL = 0.5  # seconds between two reads: a client is told of a request at most twice a second
MAX_RUNNING = 500  # running requests that are read, newest first, beside those that are named


class ProgressWatch:
    """Belongs to the event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._watched: dict[Subscription, None] = {}
        self.wanted = asyncio.Event()  # set when the first one wants it
        self._reported: dict[UUID, bytes] = {}  # what was told last of requests that are not final
        self._ended: set[UUID] = set()  # named requests that are final

    def add(self, subscription: Subscription) -> None:
        if not self._watched:
            self.wanted.set()
        self._watched[subscription] = None

    def pause(self) -> float:
        """Seconds until the next poll."""
        return INTERVAL if self._watched else math.inf

    def remove(self, subscription: Subscription) -> None:
        """Repeating it is fine."""
        self._watched.pop(subscription, None)

    async def poll(self) -> None:
        """Tells what has changed. Raises DatabaseUnavailable."""
        if not self._watched:
            self._reported.clear()
            self._ended.clear()
            return
        named, again = set[UUID](), set[UUID]()
        cameras: set[str] | None = set()
        for subscription in self._watched:
            interest = subscription.interest
            if interest.request_ids is not None:
                named |= interest.request_ids
                if subscription.fresh:
                    again |= self._ended & interest.request_ids  # the others were told of their end
            elif cameras is not None:
                cameras = None if interest.camera_ids is None else cameras | interest.camera_ids
        self._ended = (self._ended & named) - again
        asked = (named - self._ended) | self._reported.keys()
        # Each subscription's own filter has the grant of its principal.
        rows = await self._database.hot.progress(
            list(asked), None if cameras is None else list(cameras), ALL_CAMERAS, limit=MAX_RUNNING
        )
        self._report(rows_of(rows), again)

    def _report(self, states: dict[UUID, tuple[str, bytes, bool]], again: set[UUID]) -> None:
        changed = [
            request_id for request_id, (_, state, _) in states.items()
            if request_id not in again and self._reported.get(request_id) != state
        ]  # fmt: skip
        for subscription in list(self._watched):
            complete = True
            for request_id in states if subscription.fresh else changed:
                camera_id, state, _ = states[request_id]
                if not subscription.interest.takes_request(camera_id, request_id):
                    continue
                complete = subscription.report(request_id, state) and complete
            subscription.fresh = not complete  # what it had no room for comes with the next poll
        self._reported = {request_id: state for request_id, (_, state, final) in states.items() if not final}
        self._ended |= {request_id for request_id, (_, _, final) in states.items() if final}


def rows_of(rows: Iterable[tuple[AnyRequest, object]]) -> dict[UUID, tuple[str, bytes, bool]]:
    """Of each request: its camera, its state as the end of a message, and whether that is final."""
    found = {}
    for row, gaps in rows:
        state = to_json({"status": row.status, "progress": progress_json(row, gaps)})[1:]  # type: ignore[arg-type]
        found[row.id] = (row.camera_id, state, IngestionStatus(row.status) in FINAL_STATUSES)
    return found
