"""Safe retries: a request with an Idempotency-Key is done once, however often it is sent (docs/rules.md, rule 5).

A key's row is committed first, with the id under which everything is done and a lease. The answer, its frames as ids, is
committed together with what it reports (`Operation.keep`). Where that is not one transaction, the first of them marks
the key (`Operation.begin`) and the answer is kept at the end. A lease lapses when its process died or stalls: then the
next retry runs under the same ids, and finds what was committed. On the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from config import ApiSettings
from models.values import KeptAnswer, KeyName
from repositories.database import Database, UnitOfWork
from repositories.idempotency import KeyRow
from services.idempotency.answers import Rendered, frame_ids, packed, unpacked
from services.idempotency.operation import RETRY_AFTER, Operation
from services.idempotency.quota import KeyQuota
from utils.exceptions import DatabaseUnavailable, IdempotencyKeyReused, RateLimited, RequestInProgress, SecretUnreadable
from utils.ids import new_id
from utils.logger import get_logger
from utils.metrics import IDEMPOTENCY, IDEMPOTENCY_RUNNING, IDEMPOTENCY_SWEPT, follow
from utils.periodic import PeriodicJob
from utils.secret_box import SecretBox

log = get_logger(__name__)

ShowFrames = Callable[[Sequence[UUID]], Awaitable[Rendered]]
_REFUSED = {IdempotencyKeyReused: "reused", RequestInProgress: "in_progress", RateLimited: "over_quota"}
SWEEP_INTERVAL = 60.0  # seconds, at most; a twentieth of API__IDEMPOTENCY_TTL when that is less
SWEEP_BATCH = 1000
TRIES = 3  # to find a key that others free at the same time
KEEP_TIMEOUT = 2.0  # seconds that an answer waits for its key to be written: without it, a retry runs under the same ids


class IdempotencyService:
    """Keys of this process's requests. `jobs` renew and sweep them."""

    def __init__(self, settings: ApiSettings, database: Database, secrets: SecretBox, show: ShowFrames) -> None:
        """`show`: frames as the wire has them, by id (services.reads)."""
        self._lease = settings.IDEMPOTENCY_LEASE
        self._ttl = settings.IDEMPOTENCY_TTL
        self._database = database
        self._show = show
        self._secrets = secrets
        self._quota = KeyQuota(settings.IDEMPOTENCY_MAX_KEYS, time.monotonic)
        self._running: dict[UUID, KeyName] = {}  # by run; as many as requests are served at once
        self.jobs = (  # leases that lapse while the database is away only let retries run
            PeriodicJob("idempotency-renew", self.renew, self._lease / 3, at_start=False),
            PeriodicJob("idempotency-sweep", self.sweep, min(SWEEP_INTERVAL, self._ttl / 20), at_start=False),
        )
        follow(IDEMPOTENCY_RUNNING, lambda: len(self._running))

    # -- one request -------------------------------------------------------------------------------------------

    async def begin(self, name: KeyName, fingerprint: str) -> Operation | KeptAnswer:
        """Takes the key, or gives the answer that it has, rendered now.

        Raises IdempotencyKeyReused for another body, RequestInProgress, DatabaseUnavailable; RateLimited for a new key
        when its owner has API__IDEMPOTENCY_MAX_KEYS.
        """
        run, request_id = new_id(), new_id()
        # Sealed: it is over a body that may hold a camera's password, and could be used to try guesses.
        sealed = self._secrets.seal(fingerprint)
        try:
            room = await self._room(name.owner)
            taken: Operation | KeptAnswer | None = await self._new(name, run, request_id, sealed) if room else None
            if taken is None:
                taken = await self._database.retry_until_known(
                    lambda uow: self._take(uow, name, fingerprint, sealed, run, request_id, room)
                )
        except (IdempotencyKeyReused, RequestInProgress, RateLimited) as error:
            IDEMPOTENCY.labels(outcome=_REFUSED[type(error)]).inc()
            raise
        if isinstance(taken, KeptAnswer):
            IDEMPOTENCY.labels(outcome="replayed").inc()
            return await self.fresh(taken)
        IDEMPOTENCY.labels(outcome="resumed" if taken.resumed else "taken").inc()
        if taken.resumed:
            log.info("idempotency_key_resumed", ingestion_id=str(taken.request_id))
        self._running[taken.run] = name
        return taken

    async def _room(self, owner: str) -> bool:
        """Whether a key of this owner may be added. With the database away it may: the insert says so then."""
        if not self._quota.known(owner):
            try:
                async with self._database.one_statement() as uow:
                    kept, oldest_left = await uow.keys.count(owner, self._quota.most, self._ttl)
            except DatabaseUnavailable:
                return True
            self._quota.counted(owner, kept, oldest_left)
        return self._quota.take(owner)

    async def _new(self, name: KeyName, run: UUID, request_id: UUID, sealed: str) -> Operation | None:
        """A key that was not there, in one round trip; None when there is one, or nobody knows."""
        try:
            async with self._database.one_statement() as uow:
                inserted = await uow.keys.insert(name, run, request_id, sealed, self._lease)
        except DatabaseUnavailable:
            return None
        return Operation(request_id, name, run) if inserted else None

    async def _take(
        self, uow: UnitOfWork, name: KeyName, fingerprint: str, sealed: str, run: UUID, request_id: UUID, room: bool
    ) -> Operation | KeptAnswer:
        """One transaction; running it twice changes nothing (docs/rules.md, rule 4). Without `room` only a key that is
        there."""
        for _ in range(TRIES):
            if room and await uow.keys.insert(name, run, request_id, sealed, self._lease):
                return Operation(request_id, name, run)
            row = await uow.keys.locked(name, self._ttl)
            if row is None:
                if not room:
                    raise self._quota.refusal(name.owner)
                continue  # freed in between
            if row.run == run:
                return Operation(row.request_id, name, run)  # this very call, whose COMMIT was not known to have succeeded
            if row.expired and (row.status is not None or row.lapsed):
                await uow.keys.forget(name)
                continue
            answer = self._answer(row, fingerprint)
            if answer is not None:
                return answer
            await uow.keys.take_over(name, run, self._lease)
            operation = Operation(row.request_id, name, run)
            operation.resumed = True
            return operation
        raise RequestInProgress(retry_after=RETRY_AFTER)

    def _answer(self, row: KeyRow, fingerprint: str) -> KeptAnswer | None:
        """The answer that the key has; None when it may run again."""
        try:
            same = self._secrets.open(row.fingerprint) == fingerprint
        except SecretUnreadable:  # its key was taken out of SECRETS__KEYS: it cannot be compared any more
            same = False
        if not same:
            raise IdempotencyKeyReused
        if row.status is not None:
            return KeptAnswer(row.run, row.status, row.location, row.answer)
        if not row.lapsed:
            raise RequestInProgress(retry_after=RETRY_AFTER)
        return None

    async def given(self, operation: Operation) -> KeptAnswer | None:
        """The answer that was committed with what it reports, rendered now: it is sent as it is. None without one."""
        if operation.kept is None:
            return None
        operation.given = True
        return await self.fresh(operation.kept)

    async def finish(self, operation: Operation, status: int, location: str | None, body: Any) -> None:
        """Keeps the answer that is sent; the one that the key has already when that is the same.

        Should the database be away, a retry runs under the same ids, which gives the same answer.
        """
        assert operation.name is not None
        if operation.given:
            self._running.pop(operation.run, None)
            return
        answer = KeptAnswer(operation.run, status, location, packed(body))
        try:
            if answer != operation.kept:
                async with asyncio.timeout(KEEP_TIMEOUT), self._database.unit_of_work() as uow:
                    await uow.keys.keep(operation.name, operation.request_id, answer, replace=True)
        except (DatabaseUnavailable, TimeoutError):
            log.warning("idempotency_answer_not_kept", ingestion_id=str(operation.request_id), status=status)
        finally:
            self._running.pop(operation.run, None)

    async def release(self, operation: Operation) -> None:
        """The run ends without an answer to keep: the key is free again, if nothing may be left under its ids."""
        assert operation.name is not None
        self._running.pop(operation.run, None)
        if operation.others is not None:
            IDEMPOTENCY.labels(outcome="overtaken").inc()
            return
        try:
            async with asyncio.timeout(KEEP_TIMEOUT), self._database.unit_of_work() as uow:
                freed = await uow.keys.release(operation.name, operation.run, settled=operation.settled)
        except (DatabaseUnavailable, TimeoutError):
            freed = False  # the lease lapses; the next run has the same ids
        IDEMPOTENCY.labels(outcome="freed" if freed else "left").inc()

    async def fresh(self, answer: KeptAnswer) -> KeptAnswer:
        """The answer with its frames as they are now: URLs of this moment; none, and nothing that was blanked, of a frame
        that was deleted since. Raises FrameNotFound, DatabaseUnavailable."""
        ids = frame_ids(answer.body)
        return replace(answer, body=unpacked(answer.body, await self._show(ids) if ids else {}))

    # -- jobs --------------------------------------------------------------------------------------------------

    async def renew(self) -> None:
        """Renews the leases of the keys whose requests are being served. Raises DatabaseUnavailable."""
        if runs := [(name, run) for run, name in self._running.items()]:
            async with self._database.one_statement() as uow:
                await uow.keys.renew(runs, self._lease)

    async def sweep(self) -> None:
        """Removes keys whose time is over. Raises DatabaseUnavailable."""
        swept = SWEEP_BATCH
        while swept == SWEEP_BATCH:
            async with self._database.one_statement() as uow:
                swept = await uow.keys.sweep(self._ttl, SWEEP_BATCH)
            IDEMPOTENCY_SWEPT.inc(swept)
