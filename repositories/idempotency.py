"""Idempotency keys: who runs a request, under which ids, and how it was answered (docs/rules.md, rule 5).

A row is locked by every transaction that commits something under it (`keep`, `begin`), as its last statement before
COMMIT. So a transaction that finds the row unlocked knows the outcome of that COMMIT: `release` waits instead of guessing.
Only the database's clock decides when a lease has lapsed or a key's time is over.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Row

from models.entities import IdempotencyKey
from models.values import KeptAnswer, KeyName
from repositories.base import Repository
from repositories.sql import sql

# A lease that ends further ahead than a lease can be was written by a clock that was wrong: lapsed as well. How far a
# lease can be ahead stands in its row (`lease`): the reader's own API__IDEMPOTENCY_LEASE may be shorter than its owner's.
_LAPSED = """(expires_at IS NULL OR expires_at < clock_timestamp()
               OR expires_at > clock_timestamp() + make_interval(secs => lease))"""
_HELD = "expires_at = clock_timestamp() + make_interval(secs => :lease), lease = CAST(:lease AS float8)"
_ROW = "scope = :scope AND key = :key"


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key as it stands. `answer` is None until there is one; `expired`: its time is over."""

    request_id: UUID
    run: UUID
    fingerprint: str
    status: int | None
    location: str | None
    answer: Any
    lapsed: bool
    expired: bool


class IdempotencyRepository(Repository[IdempotencyKey]):
    entity = IdempotencyKey

    async def insert(self, name: KeyName, run: UUID, request_id: UUID, fingerprint: str, lease: float) -> bool:
        """A key that is not there yet, leased for `lease` seconds; False when there is one, committed or about to be."""
        found = await self.session.scalar(
            sql("""
            INSERT INTO idempotency_keys (scope, key, owner, fingerprint, request_id, run, expires_at, lease)
            VALUES (:scope, :key, :owner, :fingerprint, :request_id, :run,
                    clock_timestamp() + make_interval(secs => :lease), CAST(:lease AS float8))
            ON CONFLICT DO NOTHING RETURNING 1
            """),
            {
                **_named(name), "owner": name.owner, "fingerprint": fingerprint, "request_id": request_id, "run": run,
                "lease": lease,
            },
        )  # fmt: skip
        return found is not None

    async def count(self, owner: str, at_most: int, ttl: float) -> tuple[int, float]:
        """How many keys an owner has, counted up to `at_most`, and in how many seconds the time of the oldest is over."""
        row = (
            await self.session.execute(
                sql("""
                SELECT count(*) AS n, coalesce(extract(epoch FROM min(created_at) - clock_timestamp()) + :ttl, 0) AS oldest
                FROM (SELECT created_at FROM idempotency_keys WHERE owner = :owner ORDER BY created_at LIMIT :most) AS k
                """),
                {"owner": owner, "most": at_most, "ttl": ttl},
            )
        ).one()
        return row.n, float(row.oldest)

    async def locked(self, name: KeyName, ttl: float) -> KeyRow | None:
        """The key, its row locked until the transaction's end. `ttl` in seconds."""
        found = (
            await self.session.execute(
                sql(f"""
                SELECT request_id, run, fingerprint, status, location, CAST(answer AS text) AS answer, {_LAPSED} AS lapsed,
                       created_at < clock_timestamp() - make_interval(secs => :ttl) AS expired
                FROM idempotency_keys WHERE {_ROW} FOR UPDATE
                """),  # noqa: S608 - constants of this module
                {**_named(name), "ttl": ttl},
            )
        ).one_or_none()
        if found is None:
            return None
        return KeyRow(
            found.request_id, found.run, found.fingerprint, found.status, found.location, _json(found.answer),
            found.lapsed, found.expired,
        )  # fmt: skip

    async def take_over(self, name: KeyName, run: UUID, lease: float) -> None:
        """A lapsed key goes to another run, under the same ids. The caller holds the row locked."""
        await self.session.execute(
            sql(f"""
            UPDATE idempotency_keys SET run = :run, {_HELD} WHERE {_ROW}
            """),  # noqa: S608
            {**_named(name), "run": run, "lease": lease},
        )

    async def forget(self, name: KeyName) -> None:
        """Removes a key whose time is over. The caller holds the row locked."""
        await self.session.execute(sql(f"DELETE FROM idempotency_keys WHERE {_ROW}"), _named(name))  # noqa: S608

    async def begin(self, name: KeyName, request_id: UUID) -> bool:
        """What this transaction commits, it commits under `request_id`; the answer comes later.

        False when the key is no longer there with these ids: nothing may be committed then.
        """
        found = await self.session.scalar(
            sql(f"UPDATE idempotency_keys SET begun = true WHERE {_ROW} AND request_id = :id RETURNING 1"),  # noqa: S608
            {**_named(name), "id": request_id},
        )
        return found is not None

    async def keep(self, name: KeyName, request_id: UUID, answer: KeptAnswer, *, replace: bool = False) -> bool:
        """Keeps the answer of `request_id`; False when there is one already, or the key is not there with these ids.

        `replace`: over an earlier answer of the same run.
        """
        over = "(status IS NULL OR run = :run)" if replace else "status IS NULL"
        found = await self.session.scalar(
            sql(f"""
            UPDATE idempotency_keys
            SET run = :run, status = :status, location = :location, answer = CAST(:answer AS json), expires_at = NULL
            WHERE {_ROW} AND request_id = :id AND {over} RETURNING 1
            """),  # noqa: S608
            {
                **_named(name), "id": request_id, "run": answer.run, "status": answer.status, "location": answer.location,
                "answer": json.dumps(answer.body, ensure_ascii=False, separators=(",", ":")),
            },
        )  # fmt: skip
        return found is not None

    async def kept(self, name: KeyName, request_id: UUID) -> KeptAnswer | None:
        """The answer of `request_id`, if the key has one."""
        found: Row[Any] | None = (
            await self.session.execute(
                sql(f"""
                SELECT run, status, location, CAST(answer AS text) AS answer FROM idempotency_keys
                WHERE {_ROW} AND request_id = :id AND status IS NOT NULL
                """),  # noqa: S608
                {**_named(name), "id": request_id},
            )
        ).one_or_none()
        return KeptAnswer(found.run, found.status, found.location, _json(found.answer)) if found is not None else None

    async def release(self, name: KeyName, run: UUID, *, settled: bool) -> bool:
        """Frees the key of a run that has no answer to keep; True when it was freed.

        One under which something was begun stays, with its ids and lapsed, unless its outcome is `settled`: the next
        run goes on with it. So does one whose answer was committed after all.
        """
        freed = await self.session.scalar(
            sql(f"""
            DELETE FROM idempotency_keys
            WHERE {_ROW} AND run = :run AND status IS NULL AND (:settled OR NOT begun) RETURNING 1
            """),  # noqa: S608
            {**_named(name), "run": run, "settled": settled},
        )
        if freed is None:
            await self.session.execute(
                sql(f"UPDATE idempotency_keys SET expires_at = NULL WHERE {_ROW} AND run = :run AND status IS NULL"),  # noqa: S608
                {**_named(name), "run": run},
            )
        return freed is not None

    async def renew(self, runs: Sequence[tuple[KeyName, UUID]], lease: float) -> None:
        """Renews the leases of these runs, those that are still theirs and have no answer, in one statement."""
        await self.session.execute(
            sql(f"""
            UPDATE idempotency_keys k SET {_HELD}
            FROM unnest(CAST(:scopes AS text[]), CAST(:keys AS text[]), CAST(:runs AS uuid[])) AS r(scope, key, run)
            WHERE k.scope = r.scope AND k.key = r.key AND k.run = r.run AND k.status IS NULL
            """),  # noqa: S608 - a constant of this module
            {
                "lease": lease, "scopes": [name.scope for name, _ in runs], "keys": [name.key for name, _ in runs],
                "runs": [run for _, run in runs],
            },
        )  # fmt: skip

    async def sweep(self, ttl: float, limit: int) -> int:
        """Removes up to `limit` keys whose time is over, oldest first; not those that run, nor those being used now."""
        rows = await self.session.execute(
            sql(f"""
            DELETE FROM idempotency_keys k USING (
                SELECT scope, key FROM idempotency_keys
                WHERE created_at < clock_timestamp() - make_interval(secs => :ttl) AND (status IS NOT NULL OR {_LAPSED})
                ORDER BY created_at LIMIT :limit FOR UPDATE SKIP LOCKED
            ) AS old WHERE k.scope = old.scope AND k.key = old.key RETURNING 1
            """),  # noqa: S608
            {"ttl": ttl, "limit": limit},
        )
        return len(rows.all())


def _named(name: KeyName) -> dict[str, str]:
    return {"scope": name.scope, "key": name.key}


def _json(stored: str | None) -> Any:
    return json.loads(stored) if stored is not None else None
