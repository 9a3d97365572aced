"""One run of a POST: its ids, and how its answer is kept in the transaction that does the work (docs/rules.md, rule 5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from models.values import KeptAnswer, KeyName
from repositories.database import UnitOfWork
from services.idempotency.answers import packed
from utils.exceptions import RequestInProgress
from utils.ids import new_id

RETRY_AFTER = 1.0  # seconds, for a key whose request is being served


class Operation:
    """One run of a POST: the id under which everything is done and, with a key, where its answer is kept.

    Without a key the id is a fresh one, and `keep` and `begin` do nothing.
    """

    def __init__(self, request_id: UUID | None = None, name: KeyName | None = None, run: UUID | None = None) -> None:
        self.request_id = request_id or new_id()
        self.name = name
        self.run = run or new_id()
        self.resumed = False  # an earlier run of this key may have left something under request_id
        self.settled = False  # what was begun has ended, and nothing of it is left to report
        self.kept: KeptAnswer | None = None  # committed, or about to be, with what it reports
        self.others: KeptAnswer | None = None  # the answer of another run of this key, which was first
        self.given = False  # what is kept is what is sent
        self._describe: Callable[[Any], tuple[int, str]] | None = None

    def answers(self, status: int, location: Callable[[Any], str]) -> None:
        """How the endpoint will answer what is done: HTTP status, and Location by the body."""
        self._describe = lambda body: (status, location(body))

    @property
    def keyed(self) -> bool:
        return self.name is not None

    async def keep(self, uow: UnitOfWork, body: BaseModel) -> None:
        """Keeps the answer in the transaction of what it reports; the last statement before its COMMIT.

        When another run was first, its answer is the one that counts (`others`). Raises RequestInProgress when the key
        has gone to another request meanwhile: nothing of this transaction may be committed.
        """
        if self.name is None:
            return
        if self._describe is None:  # the endpoint gives another answer, at its end
            await self.begin(uow)
            return
        status, location = self._describe(body)
        answer = KeptAnswer(self.run, status, location, packed(body.model_dump(mode="json", by_alias=True)))
        if await uow.keys.keep(self.name, self.request_id, answer):
            self.kept = answer
            return
        found = await uow.keys.kept(self.name, self.request_id)
        if found is None:
            raise RequestInProgress(retry_after=RETRY_AFTER)
        if found.run == self.run:  # this very transaction, whose COMMIT was not known to have succeeded
            self.kept = found
        else:
            self.kept, self.others = None, found

    async def begin(self, uow: UnitOfWork) -> None:
        """Marks the key in the first of several transactions; the last statement before its COMMIT.

        Raises RequestInProgress as `keep` does.
        """
        if self.name is not None and not await uow.keys.begin(self.name, self.request_id):
            raise RequestInProgress(retry_after=RETRY_AFTER)
