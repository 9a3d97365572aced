"""Safe retries: a request with an Idempotency-Key is done once, however often it is sent (docs/rules.md, rule 5).

A key's row is committed first, with the id under which everything is done and a lease. The answer, without URLs, is
committed together with what it reports (`Operation.keep`). Where that is not one transaction, the first of them marks
the key (`Operation.begin`) and the answer is kept at the end. A lease lapses when its process died or stalls: then the
next retry runs under the same ids, and finds what was committed. On the event loop.
"""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

from config import ApiSettings
from models.schemas import format_time
from models.values import KeptAnswer, KeyName
from repositories.database import Database, UnitOfWork
from repositories.idempotency import KeyRow
from services.idempotency.operation import RETRY_AFTER, Operation, each_frame, without_urls
from services.storage_service.service import StorageService
from utils.exceptions import DatabaseUnavailable, IdempotencyKeyReused, RequestInProgress, SecretUnreadable
from utils.ids import new_id
from utils.logger import get_logger
from utils.metrics import IDEMPOTENCY, IDEMPOTENCY_RUNNING, IDEMPOTENCY_SWEPT
from utils.periodic import PeriodicJob
from utils.secret_box import SecretBox

log = get_logger(__name__)

SWEEP_INTERVAL = 60.0  # seconds, at most; a twentieth of API__IDEMPOTENCY_TTL when that is less
SWEEP_BATCH = 1000
TRIES = 3  # to find a key that others free at the same time
KEEP_TIMEOUT = 2.0  # seconds that an answer waits for its key to be written: without it, a retry runs under the same ids


class IdempotencyService:
    """Keys of this process's requests. `jobs` renew and sweep them."""

    def __init__(self, settings: ApiSettings, database: Database, storage: StorageService, secrets: SecretBox) -> None:
        self._lease = settings.IDEMPOTENCY_LEASE
        self._ttl = settings.IDEMPOTENCY_TTL
        self._database = database
        self._storage = storage
        self._secrets = secrets
        self._running: dict[UUID, KeyName] = {}  # by run; as many as requests are served at once
        self.jobs = (  # leases that lapse while the database is away only let retries run
            PeriodicJob("idempotency-renew", self.renew, self._lease / 3, at_start=False),
            PeriodicJob("idempotency-sweep", self.sweep, min(SWEEP_INTERVAL, self._ttl / 20), at_start=False),
        )
        IDEMPOTENCY_RUNNING.set_function(lambda: len(self._running))

    # -- one request -------------------------------------------------------------------------------------------

    async def begin(self, name: KeyName, fingerprint: str) -> Operation | KeptAnswer:
        """Takes the key, or gives the answer that it has, its URLs made now.

        Raises IdempotencyKeyReused for another body, RequestInProgress, DatabaseUnavailable.
        """
        run, request_id = new_id(), new_id()
        # Sealed: it is over a body that may hold a camera's password, and could be used to try guesses.
        sealed = self._secrets.seal(fingerprint)
        try:
            taken: Operation | KeptAnswer | None = await self._new(name, run, request_id, sealed)
            if taken is None:
                taken = await self._database.retry_until_known(
                    lambda uow: self._take(uow, name, fingerprint, sealed, run, request_id)
                )
        except (IdempotencyKeyReused, RequestInProgress) as error:
            IDEMPOTENCY.labels(outcome="reused" if isinstance(error, IdempotencyKeyReused) else "in_progress").inc()
            raise
        if isinstance(taken, KeptAnswer):
            IDEMPOTENCY.labels(outcome="replayed").inc()
            return await self.fresh(taken)
        IDEMPOTENCY.labels(outcome="resumed" if taken.resumed else "taken").inc()
        if taken.resumed:
            log.info("idempotency_key_resumed", ingestion_id=str(taken.request_id))
        self._running[taken.run] = name
        return taken

    async def _new(self, name: KeyName, run: UUID, request_id: UUID, sealed: str) -> Operation | None:
        """A key that was not there, in one round trip; None when there is one, or nobody knows."""
        try:
            async with self._database.one_statement() as uow:
                inserted = await uow.keys.insert(name, run, request_id, sealed, self._lease)
        except DatabaseUnavailable:
            return None
        return Operation(request_id, name, run) if inserted else None

    async def _take(
        self, uow: UnitOfWork, name: KeyName, fingerprint: str, sealed: str, run: UUID, request_id: UUID
    ) -> Operation | KeptAnswer:
        """One transaction; running it twice changes nothing (docs/rules.md, rule 4)."""
        for _ in range(TRIES):
            if await uow.keys.insert(name, run, request_id, sealed, self._lease):
                return Operation(request_id, name, run)
            row = await uow.keys.locked(name, self._ttl)
            if row is None:
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
        """The answer that was committed with what it reports, its URLs made now: it is sent as it is. None without one."""
        if operation.kept is None:
            return None
        operation.given = True
        return await self.fresh(operation.kept)

    async def finish(self, operation: Operation, status: int, location: str | None, body: Any) -> None:
        """Keeps the answer that is sent; the one that the key has already when that is the same. `body` is changed.

        Should the database be away, a retry runs under the same ids, which gives the same answer.
        """
        assert operation.name is not None
        if operation.given:
            self._running.pop(operation.run, None)
            return
        answer = KeptAnswer(operation.run, status, location, without_urls(body))
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
        """The answer with URLs of this moment, for the frames that it shows."""
        shown: list[dict[str, Any]] = []
        each_frame(answer.body, shown.append)
        urls = await self._storage.presign_many([frame["storage_path"] for frame in shown])
        for frame, url in zip(shown, urls, strict=True):
            frame["storage_url"], frame["url_expires_at"] = url.url, format_time(url.expires_at)
        return answer

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
