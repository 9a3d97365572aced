"""A camera over time, as the wire shows it: frames by bucket, and the times without pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from models.access import Principal
from models.schemas import CameraGap, CameraGapPage, Histogram, HistogramBucket, LossBucket, Losses
from models.values import GapFilter
from repositories.database import Database
from repositories.reader import Row
from services.access.cursors import Cursors
from utils.concurrency_limit import ConcurrencyLimit
from utils.exceptions import CameraNotFound, InvalidRequest

MAX_BUCKETS = 2000
COUNTED_AT_ONCE = 2  # histograms; one of millions of frames keeps a processor of the database busy for a second
COUNT_WAITING = 40


class Timelines:
    """Raises InvalidRequest, DatabaseUnavailable beside what its methods name."""

    def __init__(self, database: Database, cursors: Cursors) -> None:
        self._database, self._cursors = database, cursors
        self._counting = ConcurrencyLimit(
            COUNTED_AT_ONCE, COUNT_WAITING, "Too many histograms are being counted. Try again."
        )

    async def histogram(self, camera_id: str, from_: datetime, to: datetime, bucket_s: float, who: Principal) -> Histogram:
        """All buckets of `bucket_s` seconds from `from_` on, the last one as far as `to`. Raises Overloaded.

        Of a camera without frames, or one that is not granted, all are empty.
        """
        bucket, count = _counted(from_, to, bucket_s)
        async with self._counting.permit():
            rows = await self._database.timelines.histogram(camera_id, from_, to, bucket, who.cameras)
        return Histogram(buckets=[*_buckets(rows, from_, bucket, count)])

    async def losses(self, camera_id: str, from_: datetime, to: datetime, bucket_s: float, who: Principal) -> Losses:
        """As `histogram`, of slots that were dropped. Raises CameraNotFound, Overloaded."""
        bucket, count = _counted(from_, to, bucket_s)
        async with self._counting.permit():
            rows = await self._database.timelines.losses(camera_id, from_, to, bucket, count, who.cameras)
        if rows is None:
            raise CameraNotFound
        found: dict[int, dict[str, int]] = {}
        for row in rows:
            found.setdefault(row.number, {})[row.reason] = row.slots
        return Losses(
            buckets=[LossBucket(at=from_ + number * bucket, dropped=found.get(number, {})) for number in range(count)]
        )

    async def gaps(self, wanted: GapFilter, limit: int, cursor: str | None, who: Principal) -> CameraGapPage:
        """The camera's gaps, by the time at which they began. Raises CameraNotFound."""
        after = self._cursors.decode(cursor, wanted, who, UUID)
        rows = await self._database.timelines.gaps(wanted, who.cameras, after=after, limit=limit + 1)
        if rows is None:
            raise CameraNotFound
        more = rows[limit - 1] if len(rows) > limit else None
        return CameraGapPage(
            items=[
                CameraGap(from_=row.from_at, to=row.to_at, reason=row.reason, request_id=row.request_id)
                for row in rows[:limit]
            ],
            next_cursor=self._cursors.encode(more.from_at, more.id, wanted, who) if more else None,
        )


def _counted(from_: datetime, to: datetime, bucket_s: float) -> tuple[timedelta, int]:
    """(a bucket, how many there are). Raises InvalidRequest."""
    bucket = timedelta(seconds=bucket_s)
    count = -((from_ - to) // bucket) if to > from_ else 0
    if count > MAX_BUCKETS:
        least = -((from_ - to) // MAX_BUCKETS) / timedelta(seconds=1)
        raise InvalidRequest.of(
            "bucket_s",
            f"makes {count} buckets of this time, more than {MAX_BUCKETS}: take at least {least:.6f}, or a shorter time",
            location="query", code="too_many_buckets",
        )  # fmt: skip
    return bucket, count


def _buckets(rows: Sequence[Row], from_: datetime, bucket: timedelta, count: int) -> Iterator[HistogramBucket]:
    found = {(row.at - from_) // bucket: row for row in rows}
    for number in range(count):
        row = found.get(number)
        at = from_ + number * bucket
        yield HistogramBucket(at=at, frames=row.frames if row else 0, bad=row.bad if row else 0)
