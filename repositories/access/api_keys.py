"""API keys: only hashes of their secrets are kept."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import func, or_, update
from sqlalchemy.dialects.postgresql import insert

from models.entities import ApiKey
from repositories.base import AnyKey, Repository


class ApiKeyRepository(Repository[ApiKey]):
    entity = ApiKey

    async def create(self, row: ApiKey) -> ApiKey:
        """A new key; running it twice changes nothing (rule 4)."""
        names = ("key_id", "name", "secret_hash", "scopes", "cameras", "expires_at")
        values = {name: getattr(row, name) for name in names if getattr(row, name) is not None}
        await self.session.execute(insert(ApiKey).values(**values).on_conflict_do_nothing())
        return (await self.session.scalars(self.select().where(ApiKey.key_id == row.key_id))).one()

    async def find(self, *, after: AnyKey | None, limit: int) -> list[ApiKey]:
        """Keys, in the order of their creation; revoked ones too."""
        return await self.page(self.select(), (ApiKey.created_at, ApiKey.key_id), after=after, limit=limit, descending=False)

    async def revoke(self, key_id: str) -> ApiKey | None:
        """Revokes the key for good; the row, None for an unknown key. A revoked key stays as it was revoked."""
        await self.session.execute(
            update(ApiKey).where(ApiKey.key_id == key_id, ApiKey.revoked_at.is_(None)).values(revoked_at=func.now())
        )
        return await self.session.get(ApiKey, key_id, populate_existing=True)

    async def rotate(self, key_id: str, secret_hash: str, overlap: timedelta) -> ApiKey | None:
        """Gives the key another secret; the former one stays good for `overlap`. None for a revoked or unknown key.

        Running it twice changes nothing (rule 4).
        """
        await self.session.execute(
            update(ApiKey)
            .where(ApiKey.key_id == key_id, ApiKey.revoked_at.is_(None), ApiKey.secret_hash != secret_hash)
            .values(
                previous_hash=ApiKey.secret_hash, previous_until=func.now() + overlap, secret_hash=secret_hash,
            )
        )  # fmt: skip
        row = await self.session.get(ApiKey, key_id, populate_existing=True)
        return row if row is not None and row.revoked_at is None else None

    async def set_used(self, key_ids: Sequence[str]) -> None:
        """Notes that the keys were used in this minute."""
        minute = func.date_trunc("minute", func.now())
        await self.session.execute(
            update(ApiKey)
            .where(ApiKey.key_id.in_(key_ids), or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < minute))
            .values(last_used_at=minute),
            execution_options={"synchronize_session": False},
        )
