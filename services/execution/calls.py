"""Calls between processes, over PostgreSQL: a picture, a probe, whatever only the process with the stream can tell.

A call is a row. NOTIFY wakes the one who is asked, and then the one who asked; both poll besides, so a lost notification
costs time and nothing else. The row says everything: a caller that goes away takes it back, and who works on it stops.
A request is encrypted. Rows that nobody took back expire. On the event loop.

Longer than 250 lines: who asks and who answers share the row, its states and what wakes them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from repositories.database import Database
from repositories.worker_calls import Taken
from services.execution.membership import ALIVE_SECONDS, RARELY, Membership
from services.execution.notices import FINAL_CHANNEL, Notices, channel_of, site_channel
from utils.exceptions import AnsweredElsewhere, DatabaseUnavailable, IngestionException, NoWorker
from utils.ids import new_id
from utils.logger import get_logger
from utils.metrics import WORKER_CALLS
from utils.periodic import PeriodicJob, wait_for
from utils.secret_box import SecretBox
from utils.tasks import cancel_all

log = get_logger(__name__)

NO_WORKER_AFTER = 5.0  # seconds without a process that could be asked, or that takes the call
TAKEN_WITHIN = 1.0  # seconds after which another process is asked
SITE_POLL_INTERVAL = 0.25  # seconds between two polls for a process of the site
POLL_INTERVAL = 1.0  # seconds, where notifications come, while this process answers
POLL_INTERVAL_UNHEARD = 0.1  # where they do not
HANDED_OVER = "handed over"
MOST_AT_ONCE = 64  # calls answered at once; more wait for their turn


@dataclass(frozen=True, slots=True)
class CallAnswer:
    """What a process found: JSON, and a picture."""

    body: Any = None
    picture: bytes | None = None


Handler = Callable[[Any], Awaitable[CallAnswer]]


class Calls:
    """One a process. `serve` says what it can be asked."""

    def __init__(
        self, database: Database, secrets: SecretBox, membership: Membership, notices: Notices,
        on_final: Callable[[UUID], None], on_capture: Callable[[], None],
    ) -> None:  # fmt: skip
        """`notices`: how this process hears and tells. `on_final`: a request has ended in another process. `on_capture`:
        there is something to claim."""
        self._database, self._secrets, self._membership, self._notices = database, secrets, membership, notices
        self._on_capture = on_capture
        self._handlers: dict[str, Handler] = {}
        self._on_notice: dict[str, Callable[[str], None]] = {}
        self._waiting: dict[UUID, asyncio.Event] = {}
        self._answering: dict[UUID, asyncio.Task[None]] = {}
        self._job = PeriodicJob("worker-calls", self._poll, self._pause)
        notices.on(channel_of(membership.worker_id), self._on_own)
        notices.on(FINAL_CHANNEL, lambda payload: on_final(UUID(payload)))
        notices.on(site_channel(membership.site), self._on_site)
        notices.when_heard(self._job.wake)
        membership.when_found(lambda waiting: self._job.wake() if waiting.calls else None)

    def serve(self, handlers: dict[str, Handler]) -> None:
        """What this process answers, by kind."""
        self._handlers.update(handlers)

    def on_notice(self, what: str, callback: Callable[[str], None]) -> None:
        """`callback(name)` is called with each notice "`what` name" to this process."""
        self._on_notice[what] = callback

    @property
    def heard(self) -> bool:
        """Whether notices come."""
        return self._notices.heard

    def start(self) -> None:
        if self._handlers:
            self._job.start()

    async def stop(self) -> None:
        await self._job.stop()
        await cancel_all(*self._answering.values())

    # -- asking ------------------------------------------------------------------------------------------------

    async def call(
        self, kind: str, request: Any, *, site: str = "", camera_id: str = "", to: UUID | None = None, seconds: float
    ) -> CallAnswer:
        """Asks a process that captures at `site` (empty: anywhere), the one with the camera's stream before others; or `to`.

        Raises NoWorker when none is there, or none takes the call, within NO_WORKER_AFTER, and when the one that works on it
        is gone or has not answered within `seconds`; AnsweredElsewhere, SecretKeysMissing, DatabaseUnavailable.
        """
        outcome = "no_worker"
        try:
            answer = await self._call(kind, self._secrets.seal(json.dumps(request)), site, camera_id, to, seconds)
            outcome = "ok"
            return answer
        except NoWorker:
            raise
        except IngestionException:
            outcome = "error"
            raise
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            WORKER_CALLS.labels(kind=kind, outcome=outcome).inc()

    async def _call(self, kind: str, request: str, site: str, camera_id: str, to: UUID | None, seconds: float) -> CallAnswer:
        clock = asyncio.get_running_loop().time
        began, tried = clock(), list[UUID]()
        while True:
            call_id, own = new_id(), self._membership.worker_id
            event = self._waiting[call_id] = asyncio.Event()
            try:
                asked = await self._database.calls.post(
                    call_id, own, kind, request, site=site, camera_id=camera_id, to=to, but=tried,
                    seconds=seconds + 10, alive=ALIVE_SECONDS,
                )  # fmt: skip
                if asked is not None:
                    found = await self._answered(call_id, event, seconds)
                    if found is not None:
                        return found
                    tried.append(asked)
            except BaseException:
                await asyncio.shield(self._withdraw(call_id))
                raise
            finally:
                del self._waiting[call_id]
            if clock() - began > NO_WORKER_AFTER:
                raise NoWorker(retry_after=2)
            if asked is None:
                tried.clear()  # they may have been busy
                await asyncio.sleep(SITE_POLL_INTERVAL)

    async def _answered(self, call_id: UUID, event: asyncio.Event, seconds: float) -> CallAnswer | None:
        """The answer; None when nobody took the call in time, and nobody will. Raises NoWorker, AnsweredElsewhere."""
        clock = asyncio.get_running_loop().time
        began, pause = clock(), 0.005
        while True:
            await wait_for(event, TAKEN_WITHIN / 2 if self._notices.heard else pause)
            event.clear()
            pause = min(2 * pause, POLL_INTERVAL_UNHEARD)
            if (found := await self._database.calls.collect(call_id)) is not None:
                return _opened(*found)
            taken, alive = await self._database.calls.state(call_id, ALIVE_SECONDS) or (False, False)
            waited = clock() - began
            if not taken and (not alive or waited > TAKEN_WITHIN):
                await self._withdraw(call_id)
                return None
            if not alive or waited > seconds:
                raise NoWorker("The process that captures this camera did not answer. Try again.", retry_after=2)

    async def _withdraw(self, call_id: UUID) -> None:
        with suppress(DatabaseUnavailable):
            await self._database.calls.withdraw(call_id)

    async def streams(self, camera_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The status of these cameras' streams in other processes, as they told within the last seconds."""
        if self._membership.alone or not camera_ids:
            return {}
        found = await self._database.calls.streams(camera_ids, self._membership.worker_id, ALIVE_SECONDS)
        return {camera_id: status for camera_id, (status, _) in found.items()}

    async def holders(self, camera_ids: Sequence[str]) -> dict[str, UUID]:
        """The other processes that have streams of these cameras."""
        found = await self._database.calls.streams(camera_ids, self._membership.worker_id, ALIVE_SECONDS)
        return {camera_id: holder for camera_id, (_, holder) in found.items()}

    # -- telling and hearing -----------------------------------------------------------------------------------

    def capture_waits(self, site: str) -> None:
        """Wakes the processes of a site; each finds the capture within half a second anyway."""
        self._notices.announce(site_channel(site))

    def handed_over(self) -> None:
        """Wakes the processes of this one's site: its captures are theirs now."""
        self._notices.announce(site_channel(self._membership.site), f"{HANDED_OVER} {self._membership.worker_id}")

    def ended(self, request_id: UUID) -> None:
        """Wakes those who wait for the request in other processes."""
        self._notices.announce(FINAL_CHANNEL, str(request_id))

    def _on_site(self, payload: str) -> None:
        if payload.startswith(HANDED_OVER):
            self._membership.drained(payload.removeprefix(HANDED_OVER).strip())
        self._on_capture()

    def _on_own(self, payload: str) -> None:
        what, _, name = payload.partition(" ")
        if what == "call":
            self._job.wake()
        elif what == "drain":
            self._membership.heartbeat_now()
        elif what in self._on_notice:
            self._on_notice[what](name)
        elif what in ("answer", "gone"):
            call_id = UUID(name)
            if what == "answer" and (event := self._waiting.get(call_id)) is not None:
                event.set()
            elif what == "gone" and (task := self._answering.get(call_id)) is not None:
                task.cancel()

    # -- answering ---------------------------------------------------------------------------------------------

    def _pause(self) -> float:
        if self._membership.notified:
            return POLL_INTERVAL if self._answering else RARELY
        return POLL_INTERVAL_UNHEARD

    async def _poll(self) -> None:
        if self._membership.alone and not self._notices.heard:
            return
        own = self._membership.worker_id
        room = MOST_AT_ONCE - len(self._answering)
        taken = await self._database.calls.take(own, room) if room > 0 else []
        wanted = await self._database.calls.wanted(own) if self._answering else set()
        for call_id, task in self._answering.items():
            if call_id not in wanted:  # its caller has gone, and that was not heard
                task.cancel()
        for call in taken:
            task = asyncio.create_task(self._answer(call), name=f"call-{call.kind}")
            self._answering[call.id] = task
            task.add_done_callback(partial(self._done, call.id))

    def _done(self, call_id: UUID, _task: asyncio.Task[None]) -> None:
        del self._answering[call_id]
        if len(self._answering) == MOST_AT_ONCE - 1:
            self._job.wake()

    async def _answer(self, call: Taken) -> None:
        picture = None
        try:
            handler = self._handlers.get(call.kind)
            if handler is None:
                raise NoWorker("The process that was asked is of another version.")
            found = await handler(json.loads(self._secrets.open(call.request)))
            text, picture = json.dumps({"body": found.body}), found.picture
        except IngestionException as error:
            text = json.dumps({"error": _error(error)})
        except Exception:
            log.exception("call_failed", kind=call.kind)
            text = json.dumps({"error": _error(IngestionException())})
        with suppress(DatabaseUnavailable):  # the caller asks again
            await self._database.calls.answer(call.id, text, picture)


def _error(error: IngestionException) -> dict[str, Any]:
    return {
        "code": error.code, "message": error.message, "retryable": error.retryable, "retry_after": error.retry_after,
        "details": error.details,
    }  # fmt: skip


def _opened(text: str, picture: bytes | None) -> CallAnswer:
    """Raises AnsweredElsewhere."""
    answer = json.loads(text)
    if "error" in answer:
        raise AnsweredElsewhere(**answer["error"])
    return CallAnswer(answer["body"], picture)
