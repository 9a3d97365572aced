"""Wakes the workers of a site when a capture was stored: by Celery's messages, or not at all.

A wake is a hint. One that is lost, refused or late costs half a second: every process that captures polls for what nobody
runs (`capture_runner`).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from uuid import UUID

from services.redis.away import RedisAway
from utils.logger import Throttle, get_logger
from utils.metrics import WAKES_SENT
from utils.pool import WorkerPool
from utils.tasks import cancel_all

if TYPE_CHECKING:
    from services.redis.link import RedisLink

log = get_logger(__name__)

MAX_POSTING = 100  # messages on their way; what comes beyond is left to the poll
MAX_QUEUED = 1000  # messages that wait in a site's queue: nobody consumes there
THREADS = 2
STOP_TIMEOUT = 2.0  # seconds that the consumer has to end; its thread is a daemon
LOG_INTERVAL = 60.0


class Wakes:
    """Of a process in which nobody has to be woken elsewhere: nothing is sent."""

    def post(self, request_id: UUID, site: str) -> None:
        """Returns at once."""

    async def close(self) -> None:
        pass


class CeleryWakes(Wakes):
    """Posts messages in threads of its own. Belongs to the event loop."""

    def __init__(self, redis: RedisLink, send: Callable[[str, str], None], clock: Callable[[], float]) -> None:
        """`send(request_id, site)` blocks."""
        self._redis, self._send = redis, send
        self._pool = WorkerPool("wakes", THREADS)
        self._posting: set[asyncio.Task[None]] = set()
        self._throttle = Throttle(LOG_INTERVAL, clock)

    def post(self, request_id: UUID, site: str) -> None:
        if len(self._posting) >= MAX_POSTING:
            WAKES_SENT.labels(outcome="dropped").inc()
            return
        task = asyncio.create_task(self._post(str(request_id), site), name="wake")
        self._posting.add(task)
        task.add_done_callback(self._posting.discard)

    async def _post(self, request_id: str, site: str) -> None:
        outcome = "sent"
        try:
            if await self._redis.queued(f"captures.{site}") >= MAX_QUEUED:
                outcome = "dropped"
            else:
                await self._pool.run(self._send, request_id, site)
        except RedisAway:
            outcome = "away"
        except Exception as error:  # whatever kombu and its transport make of a broker that is sick
            outcome = "failed"
            if (withheld := self._throttle.allow("failed")) is not None:
                log.warning("wake_failed", error=type(error).__name__, withheld=withheld)
        WAKES_SENT.labels(outcome=outcome).inc()

    async def close(self) -> None:
        await cancel_all(*self._posting)
        await self._pool.close()


class CeleryConsumer:
    """Celery's consumer in a thread of this process, for `ROLE=worker python main.py` (and all)."""

    def __init__(self) -> None:
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="celery", daemon=True)

    def start(self) -> None:
        self._thread.start()

    async def stop(self) -> None:
        """Ends it, or leaves it: what it holds is hints."""
        from celery.worker import state

        self._stopping = True
        state.should_stop = 0
        await asyncio.to_thread(self._thread.join, STOP_TIMEOUT)

    def _run(self) -> None:
        from services.execution.celery_app import app

        pause = threading.Event()
        while not self._stopping:
            try:
                # The bare controller: `celery worker`'s own takes signals and prints.
                options: dict[str, Any] = {
                    "pool": "solo", "concurrency": 1, "without_gossip": True, "without_mingle": True,
                    "without_heartbeat": True,
                }  # fmt: skip
                app.WorkController(**options).start()
            except BaseException as error:
                log.warning("celery_consumer_ended", error=type(error).__name__)
            if not self._stopping:
                pause.wait(1.0)
