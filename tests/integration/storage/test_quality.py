"""What cameras' pictures are judged by, kept in a real PostgreSQL: resumed, shared by processes, each change told once."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import numpy as np
import pytest
import pytest_asyncio
from sqlalchemy import text

from config import QualitySettings
from models.values import SourceType
from repositories.database import Database
from services.quality import keeper
from services.quality.keeper import QualityKeeper
from services.quality.measures import Measures
from tests.conftest import Backends, migrated_database, unique
from tests.kits.poor_pictures import camera, grey, seen
from utils.exceptions import DatabaseUnavailable
from utils.metrics import QUALITY_FRAMES

AT = datetime(2026, 5, 4, 13, 0, tzinfo=UTC)
SETTINGS = QualitySettings(BASELINE_FRAMES=20, BAD_FRAMES=3)
BLACK = seen(np.zeros((270, 480), np.uint8))


def pictures(count: int, seed: int = 3) -> list[Measures]:
    shown = camera(grey("demo", 2), seed)
    return [seen(next(shown)) for _ in range(count)]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def db(backends: Backends) -> AsyncIterator[Database]:
    made = Database(await migrated_database(backends.db, f"quality_{secrets.token_hex(5)}"), "trackshift-quality")
    yield made
    await made.close()


async def show(judge: QualityKeeper, camera_id: str, shown: list[Measures], start: int) -> list[dict[str, Any] | None]:
    return [
        await judge.judge(camera_id, SourceType.RTSP, measures, AT + timedelta(seconds=start + n))
        for n, measures in enumerate(shown)
    ]


async def told(db: Database, camera_id: str) -> list[dict[str, Any]]:
    query = "SELECT event -> 'data' FROM outbox_pending WHERE event ->> 'type' = 'camera.quality_changed' "
    async with db.unit_of_work() as uow:
        rows = await uow.session.execute(text(query + "AND event ->> 'camera_id' = :id ORDER BY id"), {"id": camera_id})
        return [row[0] for row in rows]


def count(verdict: str) -> float:
    return float(QUALITY_FRAMES.labels(verdict=verdict)._value.get())


async def test_a_baseline_goes_on_after_a_restart_and_in_another_process(db: Database) -> None:
    camera_id, first = unique(), QualityKeeper(SETTINGS, db)
    await show(first, camera_id, pictures(12), 0)
    await first.close()
    second = QualityKeeper(SETTINGS, db)
    sharp_first = await second.judge(camera_id, SourceType.RTSP, pictures(1, 9)[0], AT + timedelta(seconds=60))
    assert sharp_first is not None
    assert sharp_first["verdict"] == "good"
    known = second._cameras[camera_id, SourceType.RTSP]
    assert known.judge.learnt == 13
    half = np.asarray(grey("demo", 2) // 6, np.uint8)  # by itself nothing is wrong with it
    fresh = QualityKeeper(SETTINGS, db)
    assert (await show(fresh, unique(), [seen(half)], 0))[0]["verdict"] == "good"  # type: ignore[index]
    dim = await second.judge(camera_id, SourceType.RTSP, seen(half), AT + timedelta(seconds=61))
    assert dim is not None
    assert "dark" in dim["reasons"]
    await second.close()
    await fresh.close()


async def test_each_change_is_told_once_by_however_many_processes(db: Database) -> None:
    camera_id, both = unique(), [QualityKeeper(SETTINGS, db) for _ in range(2)]
    good = pictures(10)
    for judge in both:
        await show(judge, camera_id, good, 0)
    for judge in both:
        await show(judge, camera_id, [BLACK] * 2, 20)
        assert not judge.changed.is_set()  # two in a row are not three
        await show(judge, camera_id, [BLACK] * 2, 22)
        assert judge.changed.is_set()
        await judge.save()
    (event,) = await told(db, camera_id)
    assert event == {
        "camera_id": camera_id, "verdict": "bad", "reasons": ["flat", "dark"], "frames": 3,
        "since": "2026-05-04T13:00:20.000000Z",
    }  # fmt: skip
    for judge in both:
        await show(judge, camera_id, pictures(3, 5), 40)
        await judge.save()
    assert [event["verdict"] for event in await told(db, camera_id)] == ["bad", "good"]
    for judge in both:
        await judge.close()


async def test_a_change_that_was_undone_before_it_was_written_is_none(db: Database) -> None:
    camera_id, judge = unique(), QualityKeeper(SETTINGS, db)
    await show(judge, camera_id, pictures(8), 0)
    await show(judge, camera_id, [BLACK] * 3, 10)
    await show(judge, camera_id, pictures(3, 6), 20)
    await judge.close()
    assert await told(db, camera_id) == []


async def test_a_process_that_joins_later_ends_what_another_has_told(db: Database) -> None:
    camera_id, first = unique(), QualityKeeper(SETTINGS, db)
    await show(first, camera_id, pictures(8), 0)
    await show(first, camera_id, [BLACK] * 3, 10)
    await first.close()  # it died while the camera was bad
    second = QualityKeeper(SETTINGS, db)
    await show(second, camera_id, pictures(3, 7), 30)
    await second.close()
    assert [event["verdict"] for event in await told(db, camera_id)] == ["bad", "good"]


async def test_rows_are_written_seldom(db: Database) -> None:
    camera_id, judge = unique(), QualityKeeper(SETTINGS, db)
    await show(judge, camera_id, pictures(6), 0)
    version = "SELECT xmin::text FROM camera_quality WHERE camera_id = :id"

    async def row() -> str | None:
        async with db.unit_of_work() as uow:
            return cast(str | None, await uow.session.scalar(text(version), {"id": camera_id}))

    assert await row() is None  # not with a frame
    await judge.save()
    first = await row()
    await judge.save()
    assert await row() == first  # nothing was learnt since
    await judge.close()
    assert keeper.SAVE_INTERVAL >= 30


async def test_baselines_that_nobody_uses_are_forgotten(db: Database) -> None:
    clock, camera_id = [0.0], unique()
    judge = QualityKeeper(SETTINGS, db, monotonic=lambda: clock[0])
    async with db.unit_of_work() as uow:
        await uow.quality.save(camera_id, SourceType.UPLOAD, {}, None)
        old = "UPDATE camera_quality SET updated_at = now() - interval '31 days' WHERE camera_id = :id"
        await uow.session.execute(text(old), {"id": camera_id})
    await judge.save()
    async with db.reading() as uow:
        assert await uow.quality.of(camera_id, SourceType.UPLOAD) is not None  # an hour has not passed
    clock[0] = 3601
    await judge.close()
    async with db.reading() as uow:
        assert await uow.quality.of(camera_id, SourceType.UPLOAD) is None


async def test_without_a_database_frames_are_judged_and_no_row_is_overwritten(db: Database) -> None:
    camera_id, first = unique(), QualityKeeper(SETTINGS, db)
    await show(first, camera_id, pictures(12), 0)
    await first.close()
    clock = [0.0]
    away = QualityKeeper(SETTINGS, cast(Database, _Away()), monotonic=lambda: clock[0])
    found = await show(away, camera_id, pictures(3, 4), 50)
    assert [quality["verdict"] for quality in found if quality] == ["good"] * 3
    await away.save()  # its row was never read: nothing is written
    away._database = db
    clock[0] = keeper.RETRY_INTERVAL + 1
    await show(away, camera_id, pictures(1, 5), 60)
    assert away._cameras[camera_id, SourceType.RTSP].judge.learnt == 13  # the row's, and this one
    await away.close()


class _Away:
    """A database that is not there."""

    def one_statement(self) -> Any:
        raise DatabaseUnavailable


@pytest.mark.parametrize("broken", ["measures", "judge"])
async def test_whatever_fails_costs_no_frame_and_is_counted(db: Database, broken: str) -> None:
    judge, before = QualityKeeper(SETTINGS, db), count("failed")
    if broken == "measures":
        assert await judge.judge(unique(), SourceType.UPLOAD, None, AT) is None
    else:
        view = cast(Any, "no picture")
        assert await judge.judge(unique(), SourceType.UPLOAD, BLACK._replace(view=view), AT) is None
    assert count("failed") == before + 1
    await judge.close()


async def test_the_cameras_in_memory_are_bounded(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "MAX_CAMERAS", 3)
    judge, learning = QualityKeeper(SETTINGS, db), unique()
    await show(judge, learning, pictures(1), 0)
    for _ in range(5):
        await judge.judge(unique(), SourceType.UPLOAD, BLACK, AT)
    assert len(judge._cameras) == 3
    assert (learning, SourceType.RTSP) in judge._cameras  # what it has learnt is not written yet
    await judge.close()
