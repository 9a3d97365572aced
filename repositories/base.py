"""What the repositories share: a session bound once, typed reads, keyset pages."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

from sqlalchemy import Select, and_, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from models.entities import Base
from models.values import Claim
from repositories.sql import sql

E = TypeVar("E", bound=Base)
Key = tuple[datetime, UUID]
AnyKey = tuple[datetime, UUID | str]


class Repository(Generic[E]):
    """Reads and writes of one table inside the caller's transaction; subclasses hold only domain queries."""

    entity: type[E]

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def get(self, key: Any) -> E | None:
        """The row with this primary key."""
        return await self.session.get(self.entity, key)

    async def add(self, row: E) -> E:
        """Inserts the row; its server defaults are loaded."""
        self.session.add(row)
        await self.session.flush()
        await self.session.refresh(row)
        return row

    async def page(
        self,
        query: Select[E],
        by: tuple[InstrumentedAttribute[datetime], InstrumentedAttribute[Any]],
        *,
        after: AnyKey | None,
        limit: int,
        descending: bool,
    ) -> list[E]:
        """At most `limit` rows in the order of `by`, beginning after `after`: the same cost at any depth."""
        at, row_id = by
        if after is not None:
            beyond, tie = (at < after[0], row_id < after[1]) if descending else (at > after[0], row_id > after[1])
            # `at <=` beside the row comparison lets the index skip to the cursor in one step.
            edge = at <= after[0] if descending else at >= after[0]
            query = query.where(edge, or_(beyond, and_(at == after[0], tie)))
        order = (at.desc(), row_id.desc()) if descending else (at.asc(), row_id.asc())
        return list((await self.session.scalars(query.order_by(*order).limit(limit))).all())

    def select(self) -> Select[E]:
        return select(self.entity)

    async def fence(self, claim: Claim) -> bool:
        """Locks the capture's lease if `claim` has its newest epoch; False when another owner has taken over."""
        found = await self.session.scalar(
            sql("SELECT 1 FROM capture_leases WHERE request_id = :id AND epoch = :epoch FOR UPDATE"),
            {"id": claim.request_id, "epoch": claim.epoch},
        )
        return found is not None
