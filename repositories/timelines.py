"""What is known of one camera over time: how many frames, how many of them bad, and when there were no pictures.

Each is one statement on a plain connection, as hot reads are; a principal's cameras are an argument without default.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from models.access import CameraGrant
from models.values import GapFilter
from repositories.base import Key
from repositories.reader import Reader, Row

# Frames are counted by an index alone. The few bad ones are counted apart: their verdict is in no column of that index. The
# first of their two conditions on it is that of the partial index, which PostgreSQL does not see in the second.
_HISTOGRAM = """
    WITH counted AS (
        SELECT date_bin($4, capture_timestamp, $2) AS at, count(*) AS frames FROM frames
        WHERE camera_id = $1 AND state = 'stored' AND capture_timestamp >= $2 AND capture_timestamp < $3 GROUP BY 1
    ), bad AS (
        SELECT date_bin($4, capture_timestamp, $2) AS at, count(*) AS bad FROM frames
        WHERE camera_id = $1 AND state = 'stored' AND quality ->> 'verdict' IN ('suspect', 'bad')
            AND quality ->> 'verdict' = 'bad' AND capture_timestamp >= $2 AND capture_timestamp < $3 GROUP BY 1
    )
    SELECT at, frames, coalesce(bad, 0) AS bad FROM counted LEFT JOIN bad USING (at) ORDER BY at
"""
_KNOWN = """
    SELECT EXISTS (SELECT 1 FROM camera_configurations WHERE camera_id = $1)
        OR EXISTS (SELECT 1 FROM ingestion_requests WHERE camera_id = $1)
"""
# `from_at >=` beside the row comparison lets the index skip to the cursor in one step.
_GAPS = """
    SELECT id, request_id, from_at, to_at, reason FROM capture_gaps
    WHERE camera_id = $1 AND from_at < coalesce($3, 'infinity'::timestamptz)
        AND coalesce(to_at, 'infinity'::timestamptz) >= coalesce($2, '-infinity'::timestamptz)
        AND ($4::timestamptz IS NULL OR from_at >= $4 AND (from_at, id) > ($4, $5::uuid))
    ORDER BY from_at, id LIMIT $6
"""


class TimelineReads:
    """All raise DatabaseUnavailable."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    async def histogram(
        self, camera_id: str, from_: datetime, to: datetime, bucket: timedelta, cameras: CameraGrant
    ) -> Sequence[Row]:
        """(at, frames, bad) of each bucket that has stored frames, by time; none of a camera that is not of `cameras`."""
        if not cameras.covers(camera_id):
            return []
        found: Sequence[Row] = await self._reader.read(
            lambda connection: connection.fetch(_HISTOGRAM, camera_id, from_, to, bucket, record_class=Row)
        )
        return found

    async def gaps(self, wanted: GapFilter, cameras: CameraGrant, *, after: Key | None, limit: int) -> Sequence[Row] | None:
        """At most `limit` gaps by the time at which they began, beginning after `after`.

        None for a camera that is not registered and of which there is no request, and for one not of `cameras`.
        """
        if not cameras.covers(wanted.camera_id):
            return None
        at, row_id = after or (None, None)
        values = wanted.camera_id, wanted.from_, wanted.to, at, row_id, limit
        found: Sequence[Row] = await self._reader.read(lambda connection: connection.fetch(_GAPS, *values, record_class=Row))
        if not found:
            known = await self._reader.read(lambda connection: connection.fetchval(_KNOWN, wanted.camera_id))
            return [] if known else None
        return found
