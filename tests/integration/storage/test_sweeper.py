"""The sweeper on a real PostgreSQL and a real S3 server: what it may delete, what it finds, when it must not."""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import text
from structlog.testing import capture_logs

from models.access import ALL_CAMERAS
from models.values import FrameRecord
from services.housekeeping import bucket_walk, orphan_sweeper
from services.housekeeping.bucket_marker import Ownership
from services.housekeeping.bucket_walk import compare, windows
from services.storage_service import bucket as bucket_module
from services.storage_service.commit_with_reupload import commit_with_reupload
from services.storage_service.keys import MARKER_KEY
from tests.conftest import ROOT, Backends
from tests.kits.stepped_clock import step
from tests.kits.sweep_kit import AT, X_SHA256, Place, open_place
from utils.exceptions import DatabaseUnavailable, IngestionException, KeysCondemned
from utils.metrics import INTEGRITY_VIOLATIONS, SWEEPER_ALARM


@pytest_asyncio.fixture(scope="module")
async def own_place(backends: Backends) -> AsyncIterator[Place]:
    async with open_place(backends, f"sweep-{secrets.token_hex(5)}") as made:
        yield made


@pytest_asyncio.fixture
async def place(own_place: Place) -> Place:
    return await own_place.emptied()


async def condemned(place: Place) -> set[str]:
    return {row[0] for row in await place.sql("SELECT key FROM object_keys WHERE state = 'condemned'")}


def alarm(reason: str) -> float:
    return float(SWEEPER_ALARM.labels(reason=reason)._value.get())


# -- objects without rows --------------------------------------------------------------------------------------


async def test_objects_without_rows_go_and_nothing_else(place: Place) -> None:
    frames = [await place.frame() for _ in range(3)]
    orphans = {(await place.record()).storage_path for _ in range(2)}
    await place.storage.put("staging/one", b"x", "image/jpeg", X_SHA256)
    assert await place.sweeper().sweep()
    assert await place.keys() == {item.storage_path for item in frames}
    assert await condemned(place) == orphans
    assert await place.keys("staging/") == {"staging/one"}
    assert await place.keys(".trackshift/") == {MARKER_KEY}
    assert (await place.sql("SELECT seen, orphans, finished_at IS NOT NULL FROM sweeper_state")) == [(5, 2, True)]


async def test_what_is_young_stays_and_is_no_orphan(place: Place) -> None:
    record = await place.record()
    assert await place.sweeper(GRACE=3600.0).sweep()
    assert await place.keys() == {record.storage_path}
    await place.commit(record)  # its transaction was only slow
    assert await place.sweeper().sweep()
    assert await place.keys() == {record.storage_path}


async def test_a_put_that_lands_after_its_key_was_condemned(place: Place) -> None:
    """The frame's commit finds the key taken and PUTs again; the late object goes at the next pass."""
    record = await place.record(data=b"late bytes")
    assert await place.sweeper().sweep()
    assert await place.keys() == set()
    await place.storage.put(record.storage_path, b"late bytes", "image/jpeg", record.sha256)  # the stalled PUT
    with pytest.raises(KeysCondemned) as refused:
        await place.commit(record)
    assert refused.value.keys == {record.storage_path}
    assert await place.sql("SELECT 1 FROM ingestion_requests WHERE id = :id", id=record.request_id) == []

    async def put_again(old: FrameRecord) -> FrameRecord:
        key = old.storage_path.replace(old.storage_path[-20:-4], secrets.token_hex(8))
        await place.storage.put(key, b"late bytes", "image/jpeg", old.sha256)
        return replace(old, storage_path=key)

    async def commit(records: object) -> None:
        assert isinstance(records, list)
        await place.commit(records[0])

    await commit_with_reupload([record], commit, put_again)
    (path,) = (await place.sql("SELECT storage_path FROM frames WHERE id = :id", id=record.frame_id))[0]
    assert path != record.storage_path
    assert await place.keys() == {path, record.storage_path}
    assert await place.sweeper().sweep()
    assert await place.keys() == {path}
    assert await place.storage.get(path) == b"late bytes"


@pytest.mark.parametrize("ends", ["commit", "rollback"])
async def test_a_frames_transaction_that_is_open_while_its_object_is_swept(place: Place, ends: str) -> None:
    """The sweeper waits for it: committed, the frame keeps its object; rolled back, the object goes."""
    record = await place.record()
    open_ = asyncio.Event()
    go_on = asyncio.Event()

    async def store() -> None:
        async with place.database.unit_of_work() as uow:
            await uow.session.execute(
                text(
                    "INSERT INTO ingestion_requests (id, camera_id, source_type, status) "
                    "VALUES (:id, 'cam', 'upload', 'in_progress')"
                ),
                {"id": record.request_id},
            )
            outcomes = await uow.ledger.record(record.request_id, [record], {}, 1)
            assert [item.outcome for item in outcomes] == ["stored"]
            open_.set()
            await go_on.wait()
            if ends == "rollback":
                raise ZeroDivisionError

    storing = asyncio.create_task(store())
    await open_.wait()
    passing = asyncio.create_task(place.sweeper().sweep())
    await waiting_for_a_lock(place)
    assert await place.keys() == {record.storage_path}
    go_on.set()
    await asyncio.gather(storing, return_exceptions=True)
    assert await passing
    kept = ends == "commit"
    assert await place.keys() == ({record.storage_path} if kept else set())
    assert await condemned(place) == (set() if kept else {record.storage_path})


async def test_a_frame_that_comes_while_its_key_is_being_condemned(place: Place) -> None:
    record = await place.record()
    async with place.database.unit_of_work() as uow:
        assert await uow.object_keys.condemn([record.storage_path]) == [record.storage_path]
        storing = asyncio.create_task(place.commit(record))
        await waiting_for_a_lock(place)
        assert not storing.done()
    with pytest.raises(KeysCondemned):
        await storing


async def waiting_for_a_lock(place: Place) -> None:
    async with asyncio.timeout(10):
        while not await place.sql(
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ):
            await asyncio.sleep(0.02)


async def test_ages_are_by_the_stores_clock(place: Place, tmp_path: Path) -> None:
    """A process whose clock is ten minutes ahead: to it everything would look older than five minutes."""
    record = await place.record()
    code = (
        "import tests.kits.stepped_clock\n"
        "import asyncio, sys, time\n"
        "from config import Settings\n"
        "from repositories.database import Database\n"
        "from services.housekeeping.bucket_guard import BucketGuard\n"
        "from services.housekeeping.bucket_marker import BucketMarker\n"
        "from services.storage_service.service import StorageService\n"
        "from services.housekeeping.orphan_sweeper import OrphanSweeper\n"
        "async def main():\n"
        "    s = Settings(_env_file=None)\n"
        "    db, st = Database(s.DB), StorageService(s.STORAGE)\n"
        "    done = await OrphanSweeper(s.SWEEPER, db, st, BucketGuard(BucketMarker(db, st))).sweep()\n"
        "    print('\\n', done, time.time())\n"
        "    await st.close(); await db.close()\n"
        "asyncio.run(main())\n"
    )
    for ahead in (600, -600):
        step(tmp_path / "clock", ahead)
        await place.sql("UPDATE sweeper_state SET started_at = NULL, finished_at = NULL")
        environment = place.backends.environment(ROOT / "data", SWEEPER__GRACE="300", STEPPED_CLOCK=str(tmp_path / "clock"))
        ran = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", code], cwd=ROOT, env=environment,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        done, clock = ran.stdout.splitlines()[-1].split()
        assert done == "True"
        assert 500 < abs(float(clock) - time.time()) < 700  # it really was
        assert await place.keys() == {record.storage_path}


async def test_too_many_orphans_are_not_deleted(place: Place) -> None:
    for _ in range(8):
        await place.frame()
    orphans = {(await place.record()).storage_path for _ in range(4)}
    all_keys = await place.keys()
    careful = place.sweeper(MIN_ORPHANS=4, MAX_ORPHAN_SHARE=0.3)
    with capture_logs() as logs:
        assert await careful.sweep()
    assert [item["orphans"] for item in logs if item["event"] == "sweeper_stopped"] == [4]
    assert await place.keys() == all_keys
    assert await condemned(place) == set()
    assert alarm("orphans") == 1
    with pytest.raises(IngestionException, match="SWEEPER__MAX_ORPHAN_SHARE"):
        await careful.check()
    other = place.sweeper(MIN_ORPHANS=4, MAX_ORPHAN_SHARE=0.3)  # another process says so as well
    await other.poll()
    with pytest.raises(IngestionException, match="SWEEPER__MAX_ORPHAN_SHARE"):
        await other.check()
    assert await place.sweeper(MIN_ORPHANS=5, MAX_ORPHAN_SHARE=0.3).sweep()  # few enough never stop it
    assert await place.keys() == all_keys - orphans
    assert alarm("orphans") == 0


async def test_condemned_keys_are_forgotten_one_day(place: Place) -> None:
    await place.sql("INSERT INTO object_keys (key, state, at) VALUES ('a', 'condemned', now() - interval '31 days'), "
                    "('b', 'condemned', now() - interval '29 days'), ('c', 'live', now() - interval '99 days')")  # fmt: skip
    assert await place.sweeper().sweep()
    assert [row[0] for row in await place.sql("SELECT key FROM object_keys ORDER BY key")] == ["b", "c"]


async def test_what_is_no_key_of_ours_is_left_alone_and_not_counted(place: Place) -> None:
    frame, orphan = await place.frame(), await place.record()
    folder = frame.storage_path.rpartition("/")[0]
    alien = {f"{folder}/holiday.jpg", f"{folder}/{frame.frame_id}.jpg", f"{folder}/below/{orphan.storage_path[-60:]}"}
    for key in alien:
        await place.storage.put(key, b"x", "image/jpeg", X_SHA256)
    assert await place.sweeper().sweep()
    assert await place.keys() == {frame.storage_path} | alien
    assert await place.sql("SELECT seen, orphans FROM sweeper_state") == [(2, 1)]


async def test_too_many_orphans_of_one_folder_or_day_are_not_deleted(place: Place) -> None:
    """Rows of one camera, or of one day, are missing: too few to be seen among all objects."""
    frames = [await place.frame("a", at=AT + timedelta(days=n % 2)) for n in range(24)]
    bare = [(await place.record("bare")).storage_path for _ in range(4)]
    other_day = AT + timedelta(days=5)
    spread = [(await place.record(camera, at=other_day)).storage_path for camera in "abcd"]
    usual = [(await place.record("a", at=AT + timedelta(days=1))).storage_path for _ in range(2)]
    careful = place.sweeper(MIN_ORPHANS=4, MAX_ORPHAN_SHARE=0.3)
    with capture_logs() as logs:
        assert await careful.sweep()
    held = [(item["kind"], item["place"]) for item in logs if item["event"] == "sweeper_place_held"]
    assert held == [("folder", "2026/05/04/bare"), ("day", "2026/05/09")]
    left = await place.keys() - {item.storage_path for item in frames}
    assert set(bare) <= left, "the folder's are all there"
    assert spread[3] in left, "the day's last is there; before it, the day had too few to be judged"
    assert not set(usual) & left, "what is usual is swept"
    assert (alarm("places"), alarm("orphans")) == (1, 0)
    with pytest.raises(IngestionException, match="objects without rows are not swept"):
        await careful.check()
    assert await place.sweeper(MIN_ORPHANS=4, MAX_ORPHAN_SHARE=1.0).sweep()
    assert await place.keys() == {item.storage_path for item in frames}
    assert alarm("places") == 0


# -- whose bucket ----------------------------------------------------------------------------------------------


async def test_nothing_is_deleted_from_another_databases_bucket(backends: Backends, place: Place) -> None:
    await place.frame()
    orphan = await place.record()
    async with open_place(backends, place.storage.bucket) as other:
        await other.frame()
        await other.aged(await other.frame(), 9)
        everything = await other.keys()
        intruder = other.sweeper()
        with capture_logs() as logs:
            await intruder.poll()
        assert [item["state"] for item in logs if item["event"] == "bucket_not_ours"] == ["foreign"]
        assert not await intruder.sweep()
        assert await other.retention(DAYS=1).poll() == 0
        assert await other.keys() == everything
        # The marker changes in mid-pass: what is deleted is asked for again.
        before, ours = await other.marker.adopt()
        assert before == await place.marker.ours()
        assert await other.marker.read() == ours
        assert await place.marker.check() is Ownership.FOREIGN
        assert await other.marker.check() is Ownership.OURS
        assert not await place.sweeper().sweep()
        assert orphan.storage_path in await other.keys()


async def test_a_bucket_with_frames_that_a_new_database_knows_nothing_of_is_not_taken(place: Place) -> None:
    await place.storage.delete(MARKER_KEY)
    orphan = await place.record()
    assert await place.marker.check() is Ownership.UNCLAIMED
    assert not await place.sweeper().sweep()
    assert await place.keys("") == {orphan.storage_path}
    await place.marker.adopt()
    assert await place.sweeper().sweep()
    assert await place.keys("") == {MARKER_KEY}


async def test_the_marker_is_written_once_and_a_damaged_one_is_nobodys(place: Place) -> None:
    await place.storage.delete(MARKER_KEY)
    found = await asyncio.gather(*(place.marker.check() for _ in range(8)))
    assert set(found) == {Ownership.OURS}
    ours = await place.marker.ours()
    assert json.loads(await place.storage.get(MARKER_KEY)) == {
        "log_id": str(ours.log_id), "system_identifier": ours.system, "timeline": ours.timeline, "database": ours.database
    }  # fmt: skip
    await place.storage.put_if_absent(MARKER_KEY, b"{}", "application/json")
    assert await place.marker.check() is Ownership.OURS
    await place.storage.delete(MARKER_KEY)
    await place.storage.put_if_absent(MARKER_KEY, b"{}", "application/json")
    assert await place.marker.check() is Ownership.FOREIGN


# -- rows without objects --------------------------------------------------------------------------------------


def counted(kind: str) -> float:
    return float(INTEGRITY_VIOLATIONS.labels(kind=kind)._value.get())


async def flagged(place: Place) -> dict[object, str]:
    return {row[0]: row[1] for row in await place.sql("SELECT frame_id, kind FROM integrity_violations")}


async def test_frames_without_their_object_are_flagged_counted_once_and_healed(place: Place) -> None:
    whole, lost, short, doomed = [await place.frame(data=secrets.token_bytes(50)) for _ in range(4)]
    kept = await place.storage.get(lost.storage_path)
    for item in (lost, doomed):
        await place.storage.delete(item.storage_path)
    await place.storage.put(short.storage_path, b"x", "image/jpeg", X_SHA256)
    before = counted("missing"), counted("size")
    looking = place.sweeper()
    for _ in range(2):  # the second pass counts nothing again
        assert await looking.sweep()
    assert await flagged(place) == {lost.frame_id: "missing", doomed.frame_id: "missing", short.frame_id: "size"}
    assert (counted("missing") - before[0], counted("size") - before[1]) == (2, 1)
    await looking.poll()
    with pytest.raises(IngestionException, match=r"2 frames: object missing\. 1 frames: object size\."):
        await looking.check()
    assert await place.state(whole) == "stored"

    await place.storage.put(lost.storage_path, kept, "image/jpeg", lost.sha256)  # restored from a copy
    async with place.database.unit_of_work() as uow:
        assert await uow.frames.begin_delete(doomed.frame_id, cameras=ALL_CAMERAS) == doomed.storage_path
    assert await looking.sweep()
    assert await flagged(place) == {short.frame_id: "size"}


async def test_listing_and_rows_page_by_page_agree_with_a_plain_comparison(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any mixture of rows and objects, however the pages fall; keys sort by bytes, whatever the database's locale."""
    monkeypatch.setattr(bucket_module, "BATCH", 3)
    monkeypatch.setattr(bucket_walk, "PAGE", 2)
    dice = random.Random(5)
    rows, orphans, missing = set(), set(), set()
    for n in range(60):
        camera = dice.choice(["a", "B", "a-b", "a.b", "a_b", "Z9"])
        record = await place.record(camera, at=AT + timedelta(days=n % 3))
        if dice.random() < 0.7:
            await place.commit(record)
            rows.add(record.storage_path)
            if dice.random() < 0.4:
                await place.storage.delete(record.storage_path)
                missing.add(record.storage_path)
        else:
            orphans.add(record.storage_path)
    for cut in (1, 3, 1000):  # as if the walk ended after so many windows and began again
        found_orphans, found_missing, cursor, seen = set(), set(), "", 0
        while True:
            done = True
            async with aclosing(windows(place.database, place.storage, cursor)) as walk:
                async for window in walk:
                    found = await compare(place.database, window)
                    found_orphans |= {item.key for item in found.orphans}
                    found_missing |= {item.key for item in found.suspects}
                    cursor, seen = window.upto, seen + 1
                    if seen % cut == 0:
                        done = False
                        break
            if done:
                break
        assert (found_orphans, found_missing) == (orphans, missing)
        assert seen > 20


# -- one at a time, and on from where it was -------------------------------------------------------------------


async def test_a_pass_that_was_cut_off_goes_on_where_it_was(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_module, "BATCH", 5)
    for _ in range(20):
        await place.frame()
    orphans = [(await place.record()).storage_path for _ in range(3)]
    first = place.sweeper(MAX_OBJECTS_PER_SECOND=20.0)
    passing = asyncio.create_task(first.sweep())
    async with asyncio.timeout(10):
        while (await place.sql("SELECT seen FROM sweeper_state"))[0][0] < 5:
            await asyncio.sleep(0.02)
    assert not await place.sweeper().sweep()  # one at a time
    passing.cancel()
    await asyncio.gather(passing, return_exceptions=True)
    ((cursor, seen),) = await place.sql("SELECT cursor, seen FROM sweeper_state WHERE finished_at IS NULL")
    assert cursor in await place.keys() | set(orphans)
    assert 5 <= seen < 23
    assert await place.sweeper().sweep()
    assert (await place.sql("SELECT seen FROM sweeper_state WHERE finished_at IS NOT NULL")) == [(23,)]
    assert not set(orphans) & await place.keys()


async def test_a_pass_ends_when_its_lock_is_gone(place: Place) -> None:
    async with place.database.exclusive(orphan_sweeper.LOCK_KEY) as turn:
        assert turn is not None
        await turn.check()
        async with place.database.exclusive(orphan_sweeper.LOCK_KEY) as second:
            assert second is None
        await place.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid = :key AND database = "
            "(SELECT oid FROM pg_database WHERE datname = current_database())", key=orphan_sweeper.LOCK_KEY,
        )  # fmt: skip
        with pytest.raises(DatabaseUnavailable):
            await turn.check()
        with pytest.raises(DatabaseUnavailable):  # not by a new connection either
            await turn.check()
    async with place.database.exclusive(orphan_sweeper.LOCK_KEY) as turn:
        assert turn is not None


async def test_a_pass_is_due_at_once_and_then_after_the_interval(place: Place) -> None:
    looking = place.sweeper(INTERVAL=3600.0)
    await place.frame()
    await looking.poll()
    orphan = await place.record()
    await looking.poll()
    assert orphan.storage_path in await place.keys()
    await place.sql("UPDATE sweeper_state SET finished_at = now() - interval '2 h', started_at = now() - interval '3 h'")
    await looking.poll()
    assert orphan.storage_path not in await place.keys()
