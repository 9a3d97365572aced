"""API keys as administrators handle them: made, listed, revoked, given another secret."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from models.access import ALL_CAMERAS, UNBOUND_SCOPES, CameraGrant, Principal, Scope
from models.entities import ApiKey
from models.values import ApiKeyFilter
from repositories.database import Database, UnitOfWork
from services.access.cursors import Cursors
from services.access.key_text import hash_of, new_key
from utils.exceptions import FieldError, Forbidden, InvalidRequest, KeyNotFound
from utils.logger import get_logger

log = get_logger(__name__)

OVERLAP = timedelta(hours=24)  # that the secret before a rotation stays good for


class ApiKeys:
    """Raises KeyNotFound, InvalidRequest, DatabaseUnavailable."""

    def __init__(self, database: Database, cursors: Cursors) -> None:
        self._database = database
        self._cursors = cursors

    async def create(
        self, who: Principal, name: str, scopes: Sequence[Scope], cameras: Sequence[str] | None, expires_at: datetime | None
    ) -> tuple[ApiKey, str]:
        """(row, the whole key): the only time that it is shown. Raises Forbidden for more than `who` has."""
        grant = _checked(scopes, cameras, expires_at)
        if not who.admin:
            raise Forbidden("Only an administrator makes keys: nobody hands out more than he has.")
        key_id, text = new_key()
        row = ApiKey(
            key_id=key_id, name=name, secret_hash=hash_of(text), scopes=[scope.value for scope in scopes],
            cameras=list(grant.patterns) if grant.patterns is not None else None, expires_at=expires_at,
        )  # fmt: skip

        async def add(uow: UnitOfWork) -> ApiKey:
            stored = await uow.api_keys.create(row)
            await uow.audit.write(key_id, "key.create")
            return stored

        stored = await self._database.retry_until_known(add)
        log.info("key_created", key_id=key_id, scopes=stored.scopes)
        return stored, text

    async def page(self, who: Principal, limit: int, cursor: str | None) -> tuple[list[ApiKey], str | None]:
        """A page of keys in the order of their creation, revoked ones too, and the cursor after it."""
        wanted = ApiKeyFilter()
        after = self._cursors.decode(cursor, wanted, who, str)
        async with self._database.reading() as uow:
            rows = await uow.api_keys.find(after=after, limit=limit + 1)
        more = rows[limit - 1] if len(rows) > limit else None
        return rows[:limit], self._cursors.encode(more.created_at, more.key_id, wanted, who) if more else None

    async def get(self, key_id: str) -> ApiKey:
        async with self._database.reading() as uow:
            row = await uow.api_keys.get(key_id)
        if row is None:
            raise KeyNotFound
        return row

    async def revoke(self, key_id: str) -> None:
        """For good; repeating it is fine."""

        async def end(uow: UnitOfWork) -> None:
            if await uow.api_keys.revoke(key_id) is None:
                raise KeyNotFound
            await uow.audit.write(key_id, "key.revoke")

        await self._database.retry_until_known(end)
        log.info("key_revoked", key_id=key_id)

    async def rotate(self, key_id: str) -> tuple[ApiKey, str]:
        """(row, the key with its new secret): the same principal; the former secret is good for OVERLAP."""
        _, text = new_key(key_id)

        async def change(uow: UnitOfWork) -> ApiKey:
            row = await uow.api_keys.rotate(key_id, hash_of(text), OVERLAP)
            if row is None:
                raise KeyNotFound
            await uow.audit.write(key_id, "key.rotate")
            return row

        row = await self._database.retry_until_known(change)
        log.info("key_rotated", key_id=key_id)
        return row, text


def _checked(scopes: Sequence[Scope], cameras: Sequence[str] | None, expires_at: datetime | None) -> CameraGrant:
    errors = []
    if not scopes or len(set(scopes)) != len(scopes):
        errors.append(FieldError("body", "scopes", "invalid", "must name one scope or more, each once", "/scopes"))
    if cameras is not None and UNBOUND_SCOPES.intersection(scopes):
        message = "cannot be given together with the scopes admin and metrics:read"
        errors.append(FieldError("body", "cameras", "not_applicable", message, "/cameras"))
    grant = ALL_CAMERAS
    try:
        grant = CameraGrant.of(cameras)
    except ValueError as error:
        errors.append(FieldError("body", "cameras", "invalid", str(error), "/cameras"))
    if expires_at is not None and expires_at <= datetime.now(UTC):
        errors.append(FieldError("body", "expires_at", "invalid", "lies in the past", "/expires_at"))
    if errors:
        raise InvalidRequest(errors=errors)
    return grant
