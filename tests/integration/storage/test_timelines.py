"""A camera over time, on a real PostgreSQL: frames by bucket, and the times without pictures."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest
import pytest_asyncio

from models.access import ANONYMOUS, CameraGrant
from models.schemas import CameraGap
from models.values import GapFilter
from repositories.database import Database
from repositories.timelines import _HISTOGRAM, _LOSSES, MOST_REQUESTS
from services.access.cursors import Cursors
from services.reads.timelines import MAX_BUCKETS, Timelines
from tests.conftest import Backends, migrated_database
from utils.exceptions import CameraNotFound, InvalidRequest

AT = datetime(2026, 5, 4, 13, 30, tzinfo=UTC)
ALIEN = replace(ANONYMOUS, cameras=CameraGrant(("other",)))
SECOND = timedelta(seconds=1)


@dataclass
class Place:
    timelines: Timelines
    sql: asyncpg.Connection

    async def request(self, camera: str) -> UUID:
        request_id = uuid4()
        await self.sql.execute(
            "INSERT INTO ingestion_requests (id, camera_id, source_type, capture_mode, status) "
            "VALUES ($1, $2, 'rtsp', 'continuous', 'in_progress')", request_id, camera,
        )  # fmt: skip
        return request_id

    async def gap(self, request_id: UUID, begin: float, end: float | None) -> None:
        """Written as the version before writes one: without the camera."""
        to = None if end is None else AT + end * SECOND
        await self.sql.execute(
            "INSERT INTO capture_gaps (id, request_id, from_at, to_at, reason) VALUES ($1, $2, $3, $4, 'camera_down')",
            uuid4(), request_id, AT + begin * SECOND, to,
        )  # fmt: skip

    async def frames(self, camera: str, count: int, bad_every: int = 10**9, state: str = "stored") -> None:
        """One a second from AT on."""
        request_id = await self.request(camera)
        await self.sql.execute("SET session_replication_role = replica")  # without the triggers of events: 100,000 rows
        await self.sql.execute(
            """
            INSERT INTO frames (id, request_id, camera_id, source_type, sequence, storage_path, capture_timestamp, state,
                timestamp_source, width, height, size_bytes, format, content_type, sha256, quality)
            SELECT gen_random_uuid(), $1::text::uuid, $2, 'rtsp', n, 'frames/' || $1::text || '/' || n,
                $3::timestamptz + n * interval '1 s', $6, 'rtcp', 4, 3, 500, 'jpg', 'image/jpeg', repeat('a', 64),
                CASE WHEN n % $5 = $5 - 1 THEN '{"verdict": "bad"}'::jsonb
                     WHEN n % 7 = 0 THEN '{"verdict": "suspect"}' WHEN n % 7 = 1 THEN '{"verdict": "good"}' END
            FROM generate_series(0, $4::int - 1) AS n
            """,
            str(request_id), camera, AT, count, bad_every, state,
        )  # fmt: skip
        await self.sql.execute("SET session_replication_role = origin")


@pytest_asyncio.fixture
async def place(backends: Backends) -> AsyncIterator[Place]:
    own = await migrated_database(backends.db, f"time_{secrets.token_hex(5)}")
    db = Database(own, "trackshift-timelines")
    sql = await asyncpg.connect(
        host=own.HOST, port=own.PORT, user=own.USER, database=own.NAME, password=own.PASSWORD.get_secret_value() or None
    )
    yield Place(Timelines(db, Cursors(b"k")), sql)
    await sql.close()
    await db.close()


async def test_frames_and_bad_ones_by_bucket(place: Place) -> None:
    await place.frames("gate", 90, bad_every=40)  # bad: 39 and 79
    await place.frames("gate", 90, state="deleted")
    await place.frames("lane", 90, bad_every=1)
    found = (await place.timelines.histogram("gate", AT + 30 * SECOND, AT + 135 * SECOND, 30, ANONYMOUS)).buckets
    assert [(each.at, each.frames, each.bad) for each in found] == [
        (AT + 30 * SECOND, 30, 1), (AT + 60 * SECOND, 30, 1), (AT + 90 * SECOND, 0, 0), (AT + 120 * SECOND, 0, 0)
    ]  # fmt: skip
    for camera, who in (("gate", ALIEN), ("nobody", ANONYMOUS)):
        found = (await place.timelines.histogram(camera, AT, AT + 60 * SECOND, 30, who)).buckets
        assert [(each.frames, each.bad) for each in found] == [(0, 0)] * 2


async def test_the_last_bucket_ends_where_the_time_ends(place: Place) -> None:
    await place.frames("gate", 90)
    found = (await place.timelines.histogram("gate", AT, AT + 45 * SECOND, 30, ANONYMOUS)).buckets
    assert [each.frames for each in found] == [30, 15]
    assert (await place.timelines.histogram("gate", AT, AT, 30, ANONYMOUS)).buckets == []


async def test_too_many_buckets_say_what_to_change(place: Place) -> None:
    hour = AT + 3600 * SECOND
    assert len((await place.timelines.histogram("gate", AT, hour, 1.8, ANONYMOUS)).buckets) == MAX_BUCKETS
    with pytest.raises(InvalidRequest) as refused:
        await place.timelines.histogram("gate", AT, hour, 1.7, ANONYMOUS)
    assert "2118 buckets" in str(refused.value)
    assert "at least 1.800000" in str(refused.value)


async def test_frames_are_counted_by_an_index_alone(place: Place) -> None:
    await place.frames("gate", 20_000, bad_every=100)
    await place.frames("lane", 20_000)
    await place.sql.execute("VACUUM ANALYZE frames")
    span = AT, AT + 20_000 * SECOND
    found = (await place.timelines.histogram("gate", *span, 60, ANONYMOUS)).buckets
    assert (len(found), sum(each.frames for each in found), sum(each.bad for each in found)) == (334, 20_000, 200)
    plan = await place.sql.fetch(f"EXPLAIN (ANALYZE, TIMING OFF) {_HISTOGRAM}", "gate", *span, 60 * SECOND)
    nodes = [row[0] for row in plan if "frames" in row[0] and "Scan" in row[0]]
    counted, bad = sorted(nodes, key=lambda node: "poor" in node)
    assert "Index Only Scan" in counted, plan
    assert "ix_frames_camera_poor" in bad, plan


async def test_dropped_slots_by_the_time_at_which_they_were_due(place: Place) -> None:
    async def capture(camera: str, grid: float, fps: float, ended: float | None = None, **dropped: str) -> None:
        request_id = await place.request(camera)
        await place.sql.execute(
            "UPDATE ingestion_requests SET grid_start = $2, created_at = $2, params = $3, expected = 5000, "
            "completed_at = $4 WHERE id = $1",
            request_id, AT + grid * SECOND, f'{{"fps": {fps}}}', None if ended is None else AT + ended * SECOND,
        )  # fmt: skip
        for reason, slots in dropped.items():
            await place.sql.execute(
                f"UPDATE ingestion_requests SET dropped_{reason} = $2::text::int4multirange WHERE id = $1", request_id, slots
            )

    # Slot k is due at 0.2 k - 5 s: 25 before AT, 200 to 299 from 35 s on, 324 at 59.8 s, 325 at 60 s.
    await capture("gate", -5, 5, camera_down="{[0,50),[200,300)}", no_picture="{[324,326)}")
    await capture("gate", 0.5, 3, no_picture="{[0,3)}")  # thirds of a second
    await capture("gate", 0, 1, ended=-100, camera_down="{[0,50)}")  # was over before
    await capture("lane", 0, 1, camera_down="{[0,50)}")

    async def found(begin: float, end: float, bucket: float) -> list[dict[str, int]]:
        losses = await place.timelines.losses("gate", AT + begin * SECOND, AT + end * SECOND, bucket, ANONYMOUS)
        assert losses.buckets[1].at - losses.buckets[0].at == timedelta(seconds=bucket)
        return [each.dropped for each in losses.buckets]

    assert await found(0, 90, 30) == [
        {"camera_down": 25, "no_picture": 3}, {"camera_down": 100, "no_picture": 1}, {"no_picture": 1}
    ]  # fmt: skip
    assert await found(35, 36, 0.4) == [{"camera_down": 2}, {"camera_down": 2}, {"camera_down": 1}]  # the last ends at 36
    assert await found(0.5, 1.5, 0.5) == [{"camera_down": 2, "no_picture": 2}, {"camera_down": 3, "no_picture": 1}]
    assert await found(200, 320, 60) == [{}, {}]
    # Years of slots, and buckets of a millisecond: more of both than an integer counts.
    await capture("gate", -3600 * 24 * 3000, 30, no_picture="{[0,5000)}")
    assert await found(0, 0.002, 0.001) == [{"camera_down": 1}, {}]
    assert (await place.timelines.losses("lane", AT, AT, 60, ANONYMOUS)).buckets == []
    for camera, who in (("gate", ALIEN), ("nobody", ANONYMOUS)):
        with pytest.raises(CameraNotFound):
            await place.timelines.losses(camera, AT, AT + SECOND, 60, who)
    with pytest.raises(InvalidRequest):
        await found(0, 3600, 1)


async def _captures(place: Place, camera: str, many: int, params: str = '{"fps": 1}') -> None:
    """As many that are over, one begun each second from AT on, each without a picture at the first of its slots."""
    await place.sql.execute("SET session_replication_role = replica")  # without the triggers of events
    await place.sql.execute(
        """
        INSERT INTO ingestion_requests (id, camera_id, source_type, capture_mode, status, params, expected,
            created_at, grid_start, completed_at, dropped_no_picture)
        SELECT gen_random_uuid(), $1, 'rtsp', 'continuous', 'completed', $4::jsonb, 1,
            $2::timestamptz + n * interval '1 s', $2::timestamptz + n * interval '1 s',
            $2::timestamptz + (n + 5) * interval '1 s', '{[0,1)}'
        FROM generate_series(0, $3::int - 1) AS n
        """,
        camera, AT, many, params,
    )  # fmt: skip
    await place.sql.execute("SET session_replication_role = origin")


async def test_dropped_slots_are_found_by_indexes_and_those_of_the_newest_captures_counted(place: Place) -> None:
    await _captures(place, "lane", 60_000)
    await _captures(place, "gate", MOST_REQUESTS + 200)
    await place.sql.execute("VACUUM ANALYZE ingestion_requests")
    values = "gate", AT, AT + 3600 * SECOND, 60.0, 60, 3600.0
    plan = [row[0] for row in await place.sql.fetch(f"EXPLAIN (ANALYZE, TIMING OFF) {_LOSSES}", *values)]
    nodes = [node for node in plan if "ingestion_requests" in node and "Scan" in node]
    assert len(nodes) == 3, plan
    assert all("Index" in node for node in nodes), plan
    found = (await place.timelines.losses("gate", AT, AT + 3600 * SECOND, 200, ANONYMOUS)).buckets
    assert [each.dropped.get("no_picture", 0) for each in found[:7]] == [0, 200, 200, 200, 200, 200, 0]
    # What is left out is told for an earlier time.
    found = (await place.timelines.losses("gate", AT, AT + 200 * SECOND, 200, ANONYMOUS)).buckets
    assert [each.dropped for each in found] == [{"no_picture": 200}]


async def test_a_capture_without_a_rate_is_not_counted(place: Place) -> None:
    for params in ('{"fps": null}', "{}", '{"fps": 0}'):
        await _captures(place, "gate", 2, params)
    await _captures(place, "gate", 1)
    found = (await place.timelines.losses("gate", AT, AT + 60 * SECOND, 60, ANONYMOUS)).buckets
    assert [each.dropped for each in found] == [{"no_picture": 1}]


def _spans(items: list[CameraGap]) -> list[tuple[float, float | None]]:
    return [
        ((gap.from_ - AT) / SECOND, None if gap.to is None else (gap.to - AT) / SECOND) for gap in items
    ]  # fmt: skip


async def test_gaps_of_a_camera_by_time(place: Place) -> None:
    first, second, other = await place.request("gate"), await place.request("gate"), await place.request("lane")
    for request_id, begin, end in ((first, 0, 10), (second, 5, 6), (first, 20, None), (second, 30, 40), (other, 1, 2)):
        await place.gap(request_id, begin, end)
    page = await place.timelines.gaps(GapFilter("gate"), 50, None, ANONYMOUS)
    assert _spans(page.items) == [(0, 10), (5, 6), (20, None), (30, 40)]
    assert [gap.request_id for gap in page.items] == [first, second, first, second]
    assert page.next_cursor is None
    # Those that last at some moment of the time, however long ago they began.
    inside = GapFilter("gate", AT + 8 * SECOND, AT + 30 * SECOND)
    assert _spans((await place.timelines.gaps(inside, 50, None, ANONYMOUS)).items) == [(0, 10), (20, None)]
    seen, cursor = [], None
    while True:
        page = await place.timelines.gaps(GapFilter("gate"), 1, cursor, ANONYMOUS)
        seen += _spans(page.items)
        cursor = page.next_cursor
        if cursor is None:
            break
        with pytest.raises(InvalidRequest):
            await place.timelines.gaps(inside, 1, cursor, ANONYMOUS)
    assert seen == [(0, 10), (5, 6), (20, None), (30, 40)]


async def test_a_camera_that_nobody_knows_and_one_without_gaps(place: Place) -> None:
    await place.request("gate")
    await place.sql.execute("INSERT INTO camera_configurations (camera_id, rtsp_url) VALUES ('lane', 'enc1:k:1')")
    for camera in ("gate", "lane"):
        assert (await place.timelines.gaps(GapFilter(camera), 50, None, ANONYMOUS)).items == []
        with pytest.raises(CameraNotFound):
            await place.timelines.gaps(GapFilter(camera), 50, None, ALIEN)
    with pytest.raises(CameraNotFound):
        await place.timelines.gaps(GapFilter("nobody"), 50, None, ANONYMOUS)
