"""The event log: what moves events into their one order, what reads them, what removes old ones (docs/rules.md, rule 12).

No repository writes events: triggers do, in the transaction of what they report (functions/report_*.sql).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from models.access import CameraGrant
from models.entities import Event
from repositories.base import Repository
from repositories.grants import granted_sql
from repositories.sql import sql

LOCK_KEY = 0x65766E74  # 1702260340 in relay_events and expire_events: who moves or removes events
_RELAY = sql("""
    SELECT moved, busy, waited, log, head, CASE WHEN moved > 0 AND CAST(:channel AS text) IS NOT NULL
        THEN (SELECT count(*) FROM pg_notify(CAST(:channel AS text), CAST(:notice AS text))) END AS told
    FROM relay_events(CAST(:at_most AS int))
""")
_EXPIRE = sql("SELECT expire_events(CAST(:retention AS float8), CAST(:at_most AS int))")
# `scanned` bounds what a filter may pass over in one read; its index gives the order, so nothing is sorted. All in one
# statement: what is read, where the log begins and where it ends are of one moment.
_READ = """
WITH scanned AS (
    SELECT seq, type, camera_id{other} FROM events WHERE seq {beyond} :after{of_camera} ORDER BY seq {order} LIMIT :scan
), chosen AS (
    SELECT seq FROM scanned WHERE true{chosen} ORDER BY seq {order} LIMIT :at_most
)
SELECT l.log_id, l.seq AS head, l.oldest, (SELECT {last}(seq) FROM scanned) AS last_scanned,
       (SELECT count(*) FROM scanned) AS scanned, e.seq, CAST(e.event AS text) AS event
FROM event_log l LEFT JOIN (events e JOIN chosen ON chosen.seq = e.seq) ON true
WHERE l.id = 1 ORDER BY e.seq
"""
_FORWARD = {"beyond": ">", "order": "", "last": "max"}
_BACK = {"beyond": "<", "order": "DESC", "last": "min"}
_OF_REQUESTS = """
    AND EXISTS (SELECT 1 FROM events x WHERE x.seq = scanned.seq
                AND x.event -> 'data' ->> 'request_id' = ANY(CAST(:request_ids AS text[])))"""


@dataclass(frozen=True, slots=True)
class Relayed:
    """What one run of the relay did, and where the log stands. `waited`: seconds that its oldest event had waited."""

    moved: int
    busy: bool  # another process was at it
    waited: float
    log_id: UUID
    head: int


@dataclass(frozen=True, slots=True)
class LogSlice:
    """What one read found: (seq, event as JSON), and how far it scanned."""

    log_id: UUID
    head: int  # the newest event
    oldest: int  # the first that is kept
    scanned_to: int  # as far as here (read back: down to here), no event that the filter takes is left out
    events: list[tuple[int, str]]


class EventLogRepository(Repository[Event]):
    entity = Event

    async def relay(self, at_most: int, channel: str | None = None, notice: str = "") -> Relayed:
        """Moves what is pending into the log, `at_most` events, unless somebody else is at it. One statement.

        `channel`: where `notice` is given, once committed, if events were moved.
        """
        row = (await self.session.execute(_RELAY, {"at_most": at_most, "channel": channel, "notice": notice})).one()
        return Relayed(row.moved, row.busy, row.waited, row.log, row.head)

    async def expire(self, retention: float, at_most: int) -> int:
        """Removes events older than `retention` seconds from the log's beginning; returns how many. One statement."""
        return int(await self.session.scalar(_EXPIRE, {"retention": retention, "at_most": at_most}) or 0)

    async def read(
        self, after: int, cameras: CameraGrant, *, types: Sequence[str] | None, camera_id: str | None, at_most: int,
        scan: int, camera_ids: Sequence[str] | None = None, request_ids: Sequence[UUID] | None = None, back: bool = False,
    ) -> LogSlice:  # fmt: skip
        """Events of `cameras` with a higher number than `after`, in order. `back`: the last of those with a lower one.

        A filter by anything but one camera, and a grant of some cameras, scan at most `scan` events.
        """
        of_camera = " AND camera_id = :camera_id" if camera_id is not None else ""
        of_grant, granted = granted_sql(cameras)
        # A pair is of two cameras: who does not see both is not told of it.
        other = ""
        if of_grant:
            other = ", CASE WHEN type LIKE 'pair.%' THEN event #>> '{data,after,camera_id}' ELSE camera_id END AS other"
            of_grant += granted_sql(cameras, "other")[0]
        of_types = " AND type = ANY(CAST(:types AS text[]))" if types is not None else ""
        chosen = of_types + of_grant
        if camera_ids is not None:
            chosen += " AND camera_id = ANY(CAST(:camera_ids AS text[]))"
            granted["camera_ids"] = list(camera_ids)
        if request_ids is not None:
            chosen += _OF_REQUESTS
            granted["request_ids"] = [str(request_id) for request_id in request_ids]
        filtered = chosen != ""
        values: dict[str, object] = {"after": after, "at_most": at_most, "scan": scan if filtered else at_most, **granted}
        if camera_id is not None:
            values["camera_id"] = camera_id
        if types is not None:
            values["types"] = list(types)
        statement = sql(_READ.format(of_camera=of_camera, other=other, chosen=chosen, **(_BACK if back else _FORWARD)))
        rows = (await self.session.execute(statement, values)).all()
        found = [(int(row.seq), str(row.event)) for row in rows if row.seq is not None]
        state = rows[0]
        if len(found) == at_most:
            scanned_to = found[0 if back else -1][0]
        elif state.scanned == values["scan"]:
            scanned_to = int(state.last_scanned)
        elif back:
            scanned_to = 0
        else:
            scanned_to = max(after, int(state.head))
        return LogSlice(state.log_id, int(state.head), int(state.oldest), scanned_to, found)

    async def reset(self) -> UUID:
        """Gives the log another identity: every cursor given so far is void."""
        await self.session.execute(sql("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK_KEY})
        made = await self.session.scalar(
            sql("UPDATE event_log SET log_id = gen_random_uuid() WHERE id = 1 RETURNING log_id")
        )
        assert isinstance(made, UUID)
        return made
