"""What is known of one camera over time: frames, bad ones, slots that were dropped, and when there were no pictures.

Each is one statement on a plain connection, as hot reads are; a principal's cameras are an argument without default.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from models.access import CameraGrant
from models.entities.requests import dropped_column
from models.values import DropReason, GapFilter
from repositories.base import Key
from repositories.reader import Reader, Row

_SECOND = timedelta(seconds=1)
MOST_REQUESTS = 1000  # of a camera, whose dropped slots are counted together

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
_REASONS = ", ".join(f"('{reason.value}', {dropped_column(reason)})" for reason in DropReason)
# Slot k is due at grid_start + k / fps (services.rtsp_capture.grid.sampler); where no picture ever came, counted from the
# start. Of each range of dropped slots the part in each bucket is the overlap of two ranges of slots: no slot is counted by
# itself. `1e-6`: what rounding takes from a slot that is due just where a bucket begins. Looked at are captures that run,
# and the newest of those that were made before `to`. A row without a rate, which no version of ours writes, has no grid.
_LOSSES = f"""
    WITH looked AS (
        (SELECT id FROM ingestion_requests WHERE status = 'in_progress' AND camera_id = $1 LIMIT {MOST_REQUESTS})
        UNION
        (SELECT id FROM ingestion_requests WHERE camera_id = $1 AND created_at < $3
         ORDER BY created_at DESC, id DESC LIMIT {MOST_REQUESTS})
    ), lost AS (
        SELECT reason, extract(epoch FROM begun - $2)::float8 AS grid, (params ->> 'fps')::float8 AS fps,
               lower(slots) AS first, upper(slots) AS after
        FROM looked JOIN ingestion_requests USING (id), LATERAL (VALUES {_REASONS}) AS dropped(reason, many),
             unnest(many) AS slots, LATERAL (SELECT coalesce(grid_start, started_at) AS begun) AS grid
        WHERE source_type = 'rtsp' AND begun < $3 AND coalesce(completed_at, 'infinity') >= $2
            AND (params ->> 'fps')::float8 > 0
    )
    SELECT number, reason, sum(least(after, upto) - greatest(first, since))::int AS slots
    FROM lost,
         generate_series(least($5::int, greatest(0, floor((grid + first / fps) / $4::float8 - 1e-6)))::int,
                         least($5::int, greatest(0, ceil((grid + after / fps) / $4::float8 + 1e-6)))::int - 1) AS number,
         LATERAL (SELECT ceil((number * $4::float8 - grid) * fps - 1e-6)::bigint AS since,
                         ceil((least((number + 1) * $4::float8, $6::float8) - grid) * fps - 1e-6)::bigint AS upto) AS bucket
    WHERE least(after, upto) > greatest(first, since)
    GROUP BY number, reason ORDER BY number, reason
"""  # noqa: S608 - columns of our own
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

    async def losses(
        self, camera_id: str, from_: datetime, to: datetime, bucket: timedelta, count: int, cameras: CameraGrant
    ) -> Sequence[Row] | None:
        """(number, reason, slots) of each of `count` buckets from `from_` on in which slots due then were dropped.

        None as `gaps` has it.
        """
        if not cameras.covers(camera_id):
            return None
        values = camera_id, from_, to, bucket / _SECOND, count, (to - from_) / _SECOND
        found: Sequence[Row] = await self._reader.read(
            lambda connection: connection.fetch(_LOSSES, *values, record_class=Row)
        )
        return found or await self._none(camera_id)

    async def _none(self, camera_id: str) -> Sequence[Row] | None:
        """Nothing of a camera that is known, None of one that is not."""
        known = await self._reader.read(lambda connection: connection.fetchval(_KNOWN, camera_id))
        return [] if known else None

    async def gaps(self, wanted: GapFilter, cameras: CameraGrant, *, after: Key | None, limit: int) -> Sequence[Row] | None:
        """At most `limit` gaps by the time at which they began, beginning after `after`.

        None for a camera that is not registered and of which there is no request, and for one not of `cameras`.
        """
        if not cameras.covers(wanted.camera_id):
            return None
        at, row_id = after or (None, None)
        values = wanted.camera_id, wanted.from_, wanted.to, at, row_id, limit
        found: Sequence[Row] = await self._reader.read(lambda connection: connection.fetch(_GAPS, *values, record_class=Row))
        return found or await self._none(wanted.camera_id)
