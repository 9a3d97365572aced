"""Refused credentials on their way into the audit: one row an address, code and minute, however many there were."""

from __future__ import annotations

import time
from typing import NamedTuple

from repositories.database import Database

MAX_PER_MINUTE = 1000  # rows of one process; beyond, one without an address stands for all others


class Refusal(NamedTuple):
    address: str | None
    code: str
    status: int
    minute: int


class Refusals:
    """`note` is cheap and never waits; `flush` writes. On the event loop."""

    def __init__(self, database: Database, keep: float) -> None:
        """`keep`: seconds that rows are protected (AUDIT__RETENTION)."""
        self._database = database
        self._keep = keep
        self._minute = 0
        self._seen: set[Refusal] = set()
        self._waiting: dict[Refusal, str] = {}

    def note(self, address: str | None, code: str, status: int, trace_id: str) -> None:
        minute = int(time.time() // 60)
        if minute != self._minute:
            self._minute = minute
            self._seen.clear()
        refusal = Refusal(address if len(self._seen) < MAX_PER_MINUTE else None, code, status, minute)
        if refusal not in self._seen and len(self._waiting) < 2 * MAX_PER_MINUTE:
            self._seen.add(refusal)
            self._waiting[refusal] = trace_id

    async def flush(self) -> None:
        """Writes what waits; what cannot be written waits on. Raises DatabaseUnavailable."""
        if not self._waiting:
            return
        batch = dict(self._waiting)
        async with self._database.unit_of_work(events=False) as uow:
            for (address, code, status, minute), trace_id in batch.items():
                await uow.audit.refused(address, code, status, minute, trace_id, self._keep)
        for refusal in batch:
            self._waiting.pop(refusal, None)
