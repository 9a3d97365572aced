"""Columns that rest encrypted, across their tables: what is plain still, what is not under the first key yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from models.entities import SEALED_PREFIX, CameraConfiguration, IngestionRequest
from utils.exceptions import SecretUnreadable
from utils.secret_box import SecretBox


@dataclass(frozen=True, slots=True)
class Resealed:
    """A batch: how many were encrypted again, how many no key opens, where the next batch begins (None: it was the last)."""

    done: int
    unreadable: int
    after: Any


# (primary key, sealed column); the order in which `reseal` is to be called for them does not matter.
SEALED: tuple[tuple[InstrumentedAttribute[Any], InstrumentedAttribute[Any]], ...] = (
    (CameraConfiguration.camera_id, CameraConfiguration.rtsp_url),
    (IngestionRequest.id, IngestionRequest.rtsp_url),
)


class SecretsRepository:
    """Bound to the caller's transaction. Every change is a compare and set: one made meanwhile by others stays."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def seal_plain(self, box: SecretBox, limit: int) -> int:
        """Encrypts up to `limit` plain texts of each table; returns how many. Each table has an index of its plain rows."""
        done = 0
        for key, column in SEALED:
            query = select(key, column).where(column.not_like(f"{SEALED_PREFIX}%")).order_by(key).limit(limit)
            for row_key, text in (await self.session.execute(query)).all():
                await self._replace(key, column, row_key, text, box.seal(text))
                done += 1
        return done

    async def reseal(self, table: int, box: SecretBox, after: Any, limit: int) -> Resealed:
        """The next `limit` texts of SEALED[table] that are not under the box's first key."""
        key, column = SEALED[table]
        query = select(key, column).where(column.not_like(f"{box.current_prefix}%")).order_by(key).limit(limit)
        if after is not None:
            query = query.where(key > after)
        rows = (await self.session.execute(query)).all()
        done = unreadable = 0
        for row_key, text in rows:
            try:
                sealed = box.seal(box.open(text))
            except SecretUnreadable:
                unreadable += 1
                continue
            await self._replace(key, column, row_key, text, sealed)
            done += 1
        return Resealed(done, unreadable, rows[-1][0] if len(rows) == limit else None)

    async def camera_keys(self) -> dict[str, int]:
        """How many registered cameras' URLs are under each key id."""
        name = func.split_part(CameraConfiguration.rtsp_url, ":", 2)
        query = (
            select(name, func.count()).where(CameraConfiguration.rtsp_url.like(f"{SEALED_PREFIX}%")).group_by(name)
        )  # fmt: skip
        return {row[0]: row[1] for row in (await self.session.execute(query)).all()}

    async def _replace(
        self, key: InstrumentedAttribute[Any], column: InstrumentedAttribute[Any], row_key: Any, old: str, new: str
    ) -> None:
        await self.session.execute(
            update(key.class_).where(key == row_key, column == old).values({column: new})
            .execution_options(synchronize_session=False)
        )  # fmt: skip
