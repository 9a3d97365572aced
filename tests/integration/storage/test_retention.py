"""Retention on a real PostgreSQL and a real S3 server: by age, for room, never what is on hold, whatever dies."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from config import RetentionSettings
from models.access import ALL_CAMERAS
from models.values import FrameRecord
from repositories.retention import Policy
from services.housekeeping import retention as module
from services.housekeeping.retention import Retention
from tests.conftest import Backends, running
from tests.kits.forked import run_command
from tests.kits.service_support import service_on, until
from tests.kits.sweep_kit import AT, Place, open_place
from utils.exceptions import FrameOnHold, IngestionException, StorageUnavailable
from utils.ids import new_id
from utils.metrics import RETENTION_CAPPED


@pytest_asyncio.fixture(scope="module")
async def own_place(backends: Backends) -> AsyncIterator[Place]:
    async with open_place(backends, f"retention-{secrets.token_hex(5)}") as made:
        yield made


@pytest_asyncio.fixture
async def place(own_place: Place) -> Place:
    return await own_place.emptied()


async def old_frames(place: Place, count: int, camera_id: str = "cam", days: float = 40) -> list[FrameRecord]:
    """Frames stored so many days ago, the first the oldest."""
    made = []
    for n in range(count):
        made.append(await place.frame(camera_id))
        await place.aged(made[-1], days - n / 10_000)
    return made


async def camera(place: Place, camera_id: str, days: float | None) -> None:
    await place.sql(
        "INSERT INTO camera_configurations (camera_id, rtsp_url, retention_days) VALUES (:id, 'enc1:x', :days)",
        id=camera_id, days=days,
    )  # fmt: skip


async def hold(place: Place, frame: FrameRecord, reason: str | None = None) -> None:
    async with place.database.unit_of_work() as uow:
        assert await uow.frames.hold(frame.frame_id, reason, cameras=ALL_CAMERAS) is not None


async def usage(place: Place) -> tuple[int, int]:
    async with place.database.unit_of_work() as uow:
        return await uow.usage.read()


async def counted(place: Place) -> tuple[int, int]:
    (row,) = await place.sql("SELECT coalesce(sum(size_bytes), 0)::bigint, count(*) FROM frames WHERE state = 'stored'")
    return int(row[0]), int(row[1])


async def test_age_counts_from_when_a_frame_was_stored(place: Place) -> None:
    """Never from its capture time: an upload may carry any."""
    dated_back = await place.frame(at=AT - timedelta(days=4000))
    dated_ahead = await place.frame(at=datetime.now(UTC) + timedelta(days=1))
    await place.aged(dated_ahead, 31)
    old, young = await old_frames(place, 1, days=31), await old_frames(place, 1, days=29)
    assert await place.retention(DAYS=30).poll() == 2
    assert [await place.state(item) for item in (old[0], dated_ahead)] == ["deleted", "deleted"]
    assert await place.keys() == {dated_back.storage_path, young[0].storage_path}
    (row,) = await place.sql("SELECT stored, deleted FROM ingestion_requests WHERE id = :id", id=old[0].request_id)
    assert tuple(row) == (1, 1)  # the ledger keeps it, the total does not
    assert await place.sql("SELECT 1 FROM object_keys WHERE key = :key", key=old[0].storage_path) == []
    assert await place.retention(DAYS=30).poll() == 0


async def test_nothing_is_deleted_unless_it_is_asked_for(place: Place) -> None:
    frames = await old_frames(place, 2, days=9000)
    assert await place.retention().poll() == 0
    assert await place.keys() == {item.storage_path for item in frames}


async def test_a_cameras_own_days_go_before(place: Place) -> None:
    for name, days in (("long", 400.0), ("short", 2.0), ("none", None)):
        await camera(place, name, days)
    names = ("long", "short", "none", "unknown")
    frames = {name: (await old_frames(place, 1, name, 31))[0] for name in names}
    recent = {name: (await old_frames(place, 1, name, 3))[0] for name in names}
    assert await place.retention(DAYS=30).poll() == 4
    assert await place.keys() == {frames["long"].storage_path} | {recent[n].storage_path for n in names if n != "short"}
    await place.sql("UPDATE camera_configurations SET retention_days = 1 WHERE camera_id = 'none'")
    assert await place.retention().poll() == 1  # without RETENTION__DAYS: those cameras only
    assert recent["none"].storage_path not in await place.keys()


async def test_no_row_makes_frames_go_within_a_day(place: Place) -> None:
    """Whatever an earlier version, or a hand in the database, has written."""
    await camera(place, "cam", 1e-5)
    frames = await old_frames(place, 2, days=0.9)
    assert await place.retention(DAYS=30).poll() == 0
    assert await place.keys() == {item.storage_path for item in frames}


async def test_frames_of_a_removed_camera_are_kept_as_long_as_before(place: Place) -> None:
    """Else who may remove cameras could delete frames: the policy's days may be fewer."""
    await camera(place, "cam", 400)
    frames = await old_frames(place, 2)
    async with place.database.unit_of_work() as uow:
        await uow.cameras.remove("cam")
    assert await place.retention(DAYS=30).poll() == 0
    assert await place.keys() == {item.storage_path for item in frames}


async def test_the_policy_is_the_databases_not_the_process_s(place: Place) -> None:
    """Two processes with different settings do not disagree: the second one says so, and goes by the first one's."""
    frames = await old_frames(place, 2)

    def process(**settings: Any) -> Retention:
        return Retention(RetentionSettings(**settings), place.database, place.storage, place.guard())

    first, second = process(DAYS=365, MAX_SHARE_PER_DAY=1), process(DAYS=30, MAX_BYTES=1, MAX_SHARE_PER_DAY=1)
    assert await first.poll() == 0
    with capture_logs() as logs:
        assert [await second.poll() for _ in range(2)] == [0, 0]
    assert await place.keys() == {item.storage_path for item in frames}
    told = [item["settings"] for item in logs if item["event"] == "retention_settings_differ"]
    assert told == [["RETENTION__DAYS", "RETENTION__MAX_BYTES"]], "once"
    await first.check()
    with pytest.raises(IngestionException, match="RETENTION__DAYS, RETENTION__MAX_BYTES of this process differ"):
        await second.check()
    async with place.database.unit_of_work() as uow:  # as `retention apply` does with the second one's
        await uow.retention.set_policy(Policy(30, None, 1), replace=True)
    assert await first.poll() == 2
    with pytest.raises(IngestionException, match="RETENTION__DAYS"):
        await first.check()


async def test_the_commands_show_and_apply_the_policy(place: Place, tmp_path: Path) -> None:
    service = service_on(place.backends, tmp_path, RETENTION__DAYS="7")
    await place.retention(DAYS=30).poll()

    async def command(word: str) -> tuple[int, dict[str, Any]]:
        ran = await asyncio.to_thread(run_command, service.environment, "retention", word)
        return ran.returncode, json.loads(ran.stdout.splitlines()[-1])

    code, shown = await command("show")
    assert (code, shown["policy"]["days"], shown["settings"]["days"]) == (1, 30, 7)
    code, done = await command("apply")
    assert (code, done["before"]["days"], done["policy"]["days"]) == (0, 30, 7)
    assert await place.sql("SELECT days, max_share_per_day FROM retention_policy") == [(7, 0.5)]


async def test_no_more_than_a_share_of_a_cameras_frames_goes_in_a_day(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistaken setting: it takes days, with an alarm, what would have been a minute."""
    monkeypatch.setattr(module, "BATCH", 3)
    many = await old_frames(place, 10, "many")
    few = await old_frames(place, 1, "few")
    new = [await place.frame("many") for _ in range(2)]
    keeping = place.retention(DAYS=30, MAX_SHARE_PER_DAY=0.5)
    with capture_logs() as logs:
        assert [await keeping.poll() for _ in range(2)] == [7, 0]  # 6 of 12, and the last one of `few`
    assert [item["camera_id"] for item in logs if item["event"] == "retention_capped"] == ["many"]
    left = {item.storage_path for item in [*many[6:], *new]}
    assert await place.keys() == left
    assert few[0].storage_path not in left
    assert RETENTION_CAPPED._value.get() == 1
    with pytest.raises(IngestionException, match="1 cameras: more frames are to be deleted today"):
        await keeping.check()
    other = place.retention(DAYS=30, MAX_SHARE_PER_DAY=0.5)  # another process, or the next start, knows it too
    assert await other.poll() == 0
    await place.sql("UPDATE retention_tallies SET day = day - 1")
    assert await keeping.poll() == 3  # the next day: 3 of 6
    await place.sql("UPDATE retention_tallies SET day = day - 1")
    assert await keeping.poll() == 1  # 1 of 3: what is left to go
    assert await keeping.check() is None
    assert RETENTION_CAPPED._value.get() == 0
    assert await place.keys() == {item.storage_path for item in new}


async def test_what_a_camera_gains_in_a_day_counts(place: Place) -> None:
    """One that keeps a day's frames loses as many each day as it gains: no alarm."""
    now = [1000.0]
    await old_frames(place, 4)
    keeping = place.retention(DAYS=30, MAX_SHARE_PER_DAY=0.5)
    keeping._clock = lambda: now[0]
    assert await keeping.poll() == 2
    for _ in range(4):
        await place.frame()
    assert await keeping.poll() == 0  # counted a moment ago
    now[0] += module.RECOUNT_INTERVAL
    assert await keeping.poll() == 2
    assert await keeping.check() is None


async def test_room_is_made_from_cameras_that_are_not_at_their_share(place: Place) -> None:
    oldest, later = await old_frames(place, 4, "a", days=9), await old_frames(place, 4, "b", days=5)
    size = oldest[0].size_bytes
    keeping = place.retention(MAX_BYTES=5 * size, MAX_SHARE_PER_DAY=0.5)
    assert await keeping.poll() == 3
    assert await place.keys() == {item.storage_path for item in [*oldest[2:], *later[1:]]}
    with capture_logs() as logs:
        assert await place.retention(MAX_BYTES=1, MAX_SHARE_PER_DAY=0.5).poll() == 1
    reasons = [item["reason"] for item in logs if item["event"] == "retention_no_room"]
    assert reasons == ["all others are at their daily share"]


async def test_the_oldest_make_room_but_not_those_on_hold(place: Place) -> None:
    frames = await old_frames(place, 6, days=9)
    sizes = sum(item.size_bytes for item in frames)
    await hold(place, frames[0])
    assert await place.retention(MAX_BYTES=sizes).poll() == 0
    assert await place.retention(MAX_BYTES=sizes - 1).poll() == 1
    assert [await place.state(item) for item in frames[:3]] == ["stored", "deleted", "stored"]
    assert await place.retention(MAX_BYTES=2 * frames[0].size_bytes).poll() == 3
    assert await place.keys() == {frames[0].storage_path, frames[5].storage_path}
    assert await place.retention(MAX_BYTES=1).poll() == 1
    assert await place.retention(MAX_BYTES=1).poll() == 0  # what is left is on hold
    assert await place.keys() == {frames[0].storage_path}


async def test_what_is_stored_is_known_without_reading_it_all(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [await place.frame(data=secrets.token_bytes(100 + n)) for n in range(12)]
    async with place.database.unit_of_work() as uow:
        await uow.frames.begin_delete(frames[3].frame_id, cameras=ALL_CAMERAS)
    assert await usage(place) == await counted(place)
    monkeypatch.setattr("repositories.storage_usage._AT_ONCE", 5)
    await place.retention().poll()  # sums the changes up
    assert await place.sql("SELECT count(*) FROM storage_changes") == [(0,)]
    assert await usage(place) == await counted(place) == (sum(f.size_bytes for f in frames) - frames[3].size_bytes, 11)
    with suppress(ZeroDivisionError):  # what is rolled back was never there
        async with place.database.unit_of_work() as uow:
            await uow.frames.begin_delete(frames[4].frame_id, cameras=ALL_CAMERAS)
            raise ZeroDivisionError
    assert await usage(place) == await counted(place)


async def test_a_hold_between_the_choice_and_the_delete(place: Place) -> None:
    """It is committed after the frames were chosen and before the UPDATE."""
    frames = await old_frames(place, 3)
    keeping = place.retention(DAYS=30)

    async def meanwhile(_: int) -> None:
        await hold(place, frames[1], "protest")

    keeping._rate.acquire = meanwhile  # type: ignore[method-assign, assignment]
    assert await keeping.poll() == 2
    assert await place.keys() == {frames[1].storage_path}
    assert [await place.state(item) for item in frames] == ["deleted", "stored", "deleted"]


async def test_a_hold_whose_transaction_is_open_is_waited_for(place: Place) -> None:
    (frame,) = await old_frames(place, 1)
    async with place.database.unit_of_work() as uow:
        assert await uow.frames.hold(frame.frame_id, None, cameras=ALL_CAMERAS) is not None
        await uow.session.flush()
        looking = asyncio.create_task(place.retention(DAYS=30).poll())
        async with asyncio.timeout(10):
            while not await place.sql(
                "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            ):
                await asyncio.sleep(0.02)
    assert await looking == 0
    assert await place.state(frame) == "stored"
    assert await place.keys() == {frame.storage_path}


async def test_a_frame_stored_anew_between_the_choice_and_the_delete_is_young(place: Place) -> None:
    (frame,) = await old_frames(place, 1)
    keeping = place.retention(DAYS=30)

    async def meanwhile(_: int) -> None:
        await place.aged(frame, 1)

    keeping._rate.acquire = meanwhile  # type: ignore[method-assign, assignment]
    assert await keeping.poll() == 0
    assert await place.state(frame) == "stored"


async def test_holds_are_noted_once_and_a_delete_is_refused(place: Place) -> None:
    frame = await place.frame()
    for reason in (None, None, "protest", "protest"):
        await hold(place, frame, reason)
    async with place.database.unit_of_work() as uow:
        with pytest.raises(FrameOnHold):
            await uow.frames.begin_delete(frame.frame_id, cameras=ALL_CAMERAS)
    held = await place.sql("SELECT held_at IS NOT NULL, hold_reason FROM frames WHERE id = :id", id=frame.frame_id)
    assert held == [(True, "protest")]
    for _ in range(2):
        async with place.database.unit_of_work() as uow:
            assert await uow.frames.release(frame.frame_id, cameras=ALL_CAMERAS)
    target = str(frame.frame_id)
    query = "SELECT action, target, details FROM audit WHERE target = :target ORDER BY id"  # nobody can empty the audit
    rows = await place.sql(query, target=target)
    assert [tuple(row) for row in rows] == [
        ("frame.hold", target, None), ("frame.hold", target, {"reason": "protest"}), ("frame.release", target, None),
    ]  # fmt: skip
    async with place.database.unit_of_work() as uow:
        assert await uow.frames.begin_delete(frame.frame_id, cameras=ALL_CAMERAS) == frame.storage_path
    async with place.database.unit_of_work() as uow:
        assert await uow.frames.hold(frame.frame_id, None, cameras=ALL_CAMERAS) is None
        assert not await uow.frames.release(new_id(), cameras=ALL_CAMERAS)


async def test_while_the_store_is_away_no_more_is_begun(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = await old_frames(place, 6)
    monkeypatch.setattr(module, "BATCH", 2)
    keeping = place.retention(DAYS=30)
    real = place.storage.delete_many

    async def away(_: Any) -> list[str]:
        raise StorageUnavailable

    place.storage.delete_many = away  # type: ignore[method-assign, assignment]
    with pytest.raises(StorageUnavailable):
        await keeping.poll()
    assert sorted([await place.state(item) for item in frames]) == ["deleting"] * 2 + ["stored"] * 4
    place.storage.delete_many = real  # type: ignore[method-assign]
    assert await keeping.poll() == 4
    assert await place.keys() == set()
    assert {await place.state(item) for item in frames} == {"deleted"}


async def test_one_process_at_a_time(place: Place) -> None:
    await old_frames(place, 1)
    async with place.database.exclusive(module.LOCK_KEY) as turn:
        assert turn is not None
        assert await place.retention(DAYS=30).poll() == 0
    assert await place.retention(DAYS=30).poll() == 1


async def test_retention_goes_on_after_a_kill_and_holds_bind_clients(place: Place, tmp_path: Path) -> None:
    """A service that is killed while it deletes, and its next start, over HTTP."""
    made = [str(item.frame_id) for item in await old_frames(place, 12)]
    settings = {
        "RETENTION__DAYS": "30", "RETENTION__INTERVAL": "0.3", "RETENTION__MAX_DELETES_PER_SECOND": "3",
        "RETENTION__MAX_SHARE_PER_DAY": "1",
    }  # fmt: skip
    service = service_on(place.backends, tmp_path, **settings)
    path = f"/api/v1/frames/{made[-1]}"

    async def left(client: httpx.AsyncClient) -> list[str]:
        page = (await client.get("/api/v1/frames", params={"limit": "200"})).json()
        return [item["frame_id"] for item in page["items"]]

    async with running(service) as client:
        first = await client.post(f"{path}/hold", json={"reason": "protest"})
        assert (first.status_code, first.json()["hold_reason"]) == (200, "protest")
        again = await client.post(f"{path}/hold")
        assert again.json()["held_at"] == first.json()["held_at"] is not None
        assert (await client.get(path)).json()["held_at"] == first.json()["held_at"]
        refused = await client.delete(path)
        assert (refused.status_code, refused.json()["code"]) == (409, "frame_on_hold")

        async def some_are_gone() -> bool:
            return len(await left(client)) < 10

        await until(some_are_gone, "the first frames deleted")
        service.kill()
    (count,) = (await place.sql("SELECT count(*) FROM frames WHERE state = 'stored'"))[0]
    assert 1 < count < 10
    async with running(service) as client:

        async def one_is_left() -> bool:
            return await left(client) == [made[-1]]

        await until(one_is_left, "all but the one on hold deleted")
        for _ in range(2):
            assert (await client.delete(f"{path}/hold")).status_code == 204

        async def none_is_left() -> bool:
            return await left(client) == []

        await until(none_is_left, "the released one deleted")
        metrics = (await client.get("/metrics")).text
        assert 'ingestion_retention_deleted_total{reason="age"}' in metrics

    async def all_gone() -> bool:
        return await place.keys() == set()

    await until(all_gone, "the objects deleted")
    assert await place.sql("SELECT DISTINCT state FROM frames") == [("deleted",)]
