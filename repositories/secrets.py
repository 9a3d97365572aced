"""Columns that rest encrypted, across their tables: what is plain still, what is not under the first key yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from models.entities import SEALED_PREFIX, CameraConfiguration, IngestionRequest, SecretCanary
from repositories.sql import sql
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

    async def canaries(self) -> dict[str, str | None]:
        """The canary of each key that something is encrypted with, by key id."""
        rows = (await self.session.execute(select(SecretCanary.key_id, SecretCanary.canary))).all()
        return {row.key_id: row.canary for row in rows}

    async def lock_canaries(self) -> dict[str, str | None]:
        """The same; nobody else writes one before this transaction has ended."""
        await self.session.execute(sql("LOCK TABLE secret_canaries IN SHARE ROW EXCLUSIVE MODE"))
        return await self.canaries()

    async def write_canary(self, key_id: str, canary: str) -> None:
        added = insert(SecretCanary).values(key_id=key_id, canary=canary)
        changed = added.on_conflict_do_update(index_elements=["key_id"], set_={"canary": canary})
        await self.session.execute(changed)

    async def forget_canary(self, key_id: str) -> bool:
        """Whether there was one."""
        gone = delete(SecretCanary).where(SecretCanary.key_id == key_id).returning(SecretCanary.key_id)
        return await self.session.scalar(gone) is not None

    async def forget_unused(self, keep: str) -> list[str]:
        """Removes the canaries of keys that nothing is encrypted with any more, but for `keep`; returns their ids."""
        used = {keep}
        for _, column in SEALED:
            name = func.split_part(column, ":", 2)
            used |= set((await self.session.scalars(select(name).where(column.like(f"{SEALED_PREFIX}%")).distinct())).all())
        gone = delete(SecretCanary).where(SecretCanary.key_id.not_in(used)).returning(SecretCanary.key_id)
        return sorted((await self.session.scalars(gone)).all())

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
