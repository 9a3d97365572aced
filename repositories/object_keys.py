"""The sweeper's side of the database: condemned keys, rows beside objects, how far the pass has come, what it found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import select

from models.entities import Frame, Json, ObjectKey
from repositories.base import Repository
from repositories.sql import sql


class KeyedRow(NamedTuple):
    """A frame that has, or still has, its object. `flagged`: what was found wrong with that before."""

    id: UUID
    key: str
    size_bytes: int
    state: str
    flagged: str | None


@dataclass(frozen=True, slots=True)
class PassState:
    """The sweeper's pass as the database knows it; `due`: one is to begin or to go on, by the database's clock.

    `places`: the share of orphans in the folder and the day that the cursor is in (services/housekeeping/orphan_share.py).
    """

    cursor: str
    seen: int
    orphans: int
    stopped: bool
    in_progress: bool
    due: bool
    finished_at: datetime | None
    places: Json


class ObjectKeyRepository(Repository[ObjectKey]):
    entity = ObjectKey

    # -- objects without rows ----------------------------------------------------------------------------------

    async def condemn(self, keys: Sequence[str]) -> list[str]:
        """Condemns those of the keys that no frame has; returns what is condemned now, or was before.

        A transaction that is just storing a frame under one of them is waited for: the first to commit has the key.
        """
        wanted = sorted(keys)
        await self.session.execute(
            sql(
                "INSERT INTO object_keys (key, state) SELECT k, 'condemned' FROM unnest(CAST(:keys AS text[])) AS k "
                "ON CONFLICT DO NOTHING"
            ),
            {"keys": wanted},
        )
        found = select(ObjectKey.key).where(ObjectKey.key.in_(wanted), ObjectKey.state == "condemned")
        return list((await self.session.scalars(found.order_by(ObjectKey.key))).all())

    async def forget(self, older_than_s: float, limit: int) -> int:
        """Forgets at most `limit` keys that were condemned longer ago than that; returns how many."""
        gone = await self.session.execute(
            sql(
                "WITH old AS (SELECT key FROM object_keys WHERE state = 'condemned' "
                "AND at < now() - make_interval(secs => :age) ORDER BY at LIMIT :n FOR UPDATE SKIP LOCKED), "
                "gone AS (DELETE FROM object_keys USING old WHERE object_keys.key = old.key RETURNING 1) "
                "SELECT count(*) FROM gone"
            ),
            {"age": older_than_s, "n": limit},
        )
        return int(gone.scalar_one())

    # -- rows beside objects -----------------------------------------------------------------------------------

    async def rows_between(self, after: str, upto: str, limit: int) -> list[KeyedRow]:
        """Frames that are not deleted with after < key <= upto, by key, byte by byte."""
        rows = await self.session.execute(
            sql(
                "SELECT f.id, f.storage_path, f.size_bytes, f.state, v.kind FROM frames f "
                "LEFT JOIN integrity_violations v ON v.frame_id = f.id "
                "WHERE f.storage_path > :after AND f.storage_path <= :upto AND f.state <> 'deleted' "
                "ORDER BY f.storage_path LIMIT :n"
            ),
            {"after": after, "upto": upto, "n": limit},
        )
        return [KeyedRow(*row) for row in rows]

    async def stored(self, keys: Sequence[str]) -> set[str]:
        """Those of the keys under which a stored frame is."""
        rows = await self.session.scalars(
            select(Frame.storage_path).where(Frame.storage_path.in_(keys), Frame.state == "stored")
        )
        return set(rows)

    async def folders(self, prefix: str) -> list[str]:
        """The names directly below the prefix that keys of frames go through, by skipping from one to the next."""
        step = (
            "SELECT storage_path FROM frames WHERE storage_path > {above} AND storage_path < :end AND state <> 'deleted' "
            "ORDER BY storage_path LIMIT 1"
        )
        name = "split_part(substr(p, CAST(:n AS int)), '/', 1)"
        # Behind all keys of a folder come those that begin with its name and a `0`, the character after `/`.
        above = f"CAST(:prefix AS text) || {name} || '0'"
        rows = await self.session.execute(
            sql(
                f"WITH RECURSIVE walk(p) AS (({step.format(above=':prefix')}) "  # noqa: S608 - no input in it
                f"UNION ALL SELECT ({step.format(above=above)}) FROM walk WHERE p IS NOT NULL) "
                f"SELECT {name} FROM walk WHERE p IS NOT NULL"
            ),
            {"prefix": prefix, "end": prefix[:-1] + "0", "n": len(prefix) + 1},
        )
        return [str(row[0]) for row in rows]

    async def flag(self, frame_id: UUID, key: str, kind: str, found_bytes: int | None) -> bool:
        """Notes that a stored frame's object is not as its row says; False: known before, or the frame is gone."""
        fresh = await self.session.scalar(
            sql(
                "INSERT INTO integrity_violations (frame_id, kind, found_bytes) "
                "SELECT id, :kind, CAST(:found AS bigint) FROM frames "
                "WHERE id = :id AND state = 'stored' AND storage_path = :key "
                "ON CONFLICT (frame_id) DO UPDATE SET kind = excluded.kind, found_bytes = excluded.found_bytes, "
                "found_at = now() WHERE integrity_violations.kind <> excluded.kind RETURNING frame_id"
            ),
            {"id": frame_id, "key": key, "kind": kind, "found": found_bytes},
        )
        return fresh is not None

    async def clear(self, frame_ids: Sequence[UUID]) -> None:
        """These frames' objects are as they should be."""
        await self.session.execute(
            sql("DELETE FROM integrity_violations WHERE frame_id = ANY(CAST(:ids AS uuid[]))"), {"ids": list(frame_ids)}
        )

    async def clear_gone(self) -> None:
        """Frames that have been deleted have no object to miss."""
        await self.session.execute(
            sql("DELETE FROM integrity_violations v USING frames f WHERE f.id = v.frame_id AND f.state <> 'stored'")
        )

    async def violations(self, at_most: int) -> dict[str, int]:
        """How many stored frames are flagged, by kind; counted no further than `at_most`."""
        rows = await self.session.execute(
            sql(
                "SELECT flagged.kind, count(*) AS n FROM (SELECT v.kind FROM integrity_violations v "
                "JOIN frames f ON f.id = v.frame_id WHERE f.state = 'stored' LIMIT :n) AS flagged GROUP BY flagged.kind"
            ),
            {"n": at_most},
        )
        return {row.kind: row.n for row in rows}

    # -- the pass ----------------------------------------------------------------------------------------------

    async def pass_state(self, interval_s: float) -> PassState:
        """Where the sweeper is; the next pass is due `interval_s` after the end of the last one."""
        row = (
            await self.session.execute(
                sql(
                    "SELECT cursor, seen, orphans, stopped, finished_at, places, "
                    "started_at IS NOT NULL AND (finished_at IS NULL OR finished_at < started_at) AS running, "
                    "finished_at IS NULL OR finished_at < now() - make_interval(secs => :interval) AS due "
                    "FROM sweeper_state"
                ),
                {"interval": interval_s},
            )
        ).one()
        return PassState(
            row.cursor, row.seen, row.orphans, row.stopped, row.running, row.running or row.due, row.finished_at,
            row.places,
        )  # fmt: skip

    async def begin_pass(self) -> None:
        await self.session.execute(
            sql(
                "UPDATE sweeper_state SET cursor = '', seen = 0, orphans = 0, stopped = false, places = '{}', "
                "started_at = clock_timestamp()"
            )
        )

    async def save_pass(self, state: PassState) -> None:
        """How far the pass has come: where another process, or the next start, goes on."""
        await self.session.execute(
            sql(
                "UPDATE sweeper_state SET cursor = :cursor, seen = :seen, orphans = :orphans, stopped = :stopped, "
                "places = CAST(:places AS jsonb)"
            ),
            {
                "cursor": state.cursor, "seen": state.seen, "orphans": state.orphans, "stopped": state.stopped,
                "places": json.dumps(state.places),
            },
        )  # fmt: skip

    async def end_pass(self) -> None:
        await self.session.execute(sql("UPDATE sweeper_state SET finished_at = clock_timestamp()"))

    async def any_frame(self) -> bool:
        return await self.session.scalar(sql("SELECT 1 FROM frames LIMIT 1")) is not None
