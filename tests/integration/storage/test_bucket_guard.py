"""One bucket and more than one database: who stores, who deletes, and what an operator does about it."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import pytest_asyncio

from demo.camera import Camera
from models.access import ANONYMOUS
from services.housekeeping.bucket_guard import BucketGuard
from services.housekeeping.bucket_marker import Ownership
from services.storage_service.keys import MARKER_KEY
from services.storage_service.service import StorageService
from services.upload_sessions.staging_sweeper import StagingSweeper
from tests.conftest import Backends, Service, running, unique
from tests.kits.forked import run_command
from tests.kits.service_support import capture, jpeg, own_database, service_on, sha256, status, until, upload
from tests.kits.sweep_kit import Place, open_place
from utils.exceptions import BucketNotOurs
from utils.ids import new_id


@pytest_asyncio.fixture(scope="module")
async def own_place(backends: Backends) -> AsyncIterator[Place]:
    async with open_place(backends, f"guard-{secrets.token_hex(5)}") as made:
        yield made


@pytest_asyncio.fixture
async def place(own_place: Place) -> Place:
    return await own_place.emptied()


@pytest_asyncio.fixture
async def guarded(place: Place) -> AsyncIterator[StorageService]:
    """As a service has it: with a guard."""
    made = StorageService(place.backends.storage)
    made.guard_with(BucketGuard(place.marker))
    yield made
    await made.close()


async def rewrite_marker(storage: StorageService, **changed: Any) -> None:
    body = json.loads(await storage.get(MARKER_KEY)) | changed
    await storage.put_marker(MARKER_KEY, json.dumps(body).encode(), "application/json")


# What makes this database a copy of the one that wrote the marker: a promotion, a restore, a clone.
COPIES: list[dict[str, Any]] = [{"timeline": 99}, {"system_identifier": "7"}, {"database": 1}]


@pytest.mark.parametrize("changed", COPIES, ids=lambda changed: next(iter(changed)))
async def test_a_copy_stores_and_deletes_nothing_until_adopt(
    place: Place, guarded: StorageService, changed: dict[str, Any]
) -> None:
    old, orphan = await place.frame(), await place.record()
    await place.aged(old, 40)
    session = new_id()
    await place.storage.put(f"staging/{session}/object", b"x", "image/jpeg", sha256(b"x"))
    await rewrite_marker(place.storage, **changed)
    assert await place.marker.check() is Ownership.COPY
    before = await place.keys("")
    assert not await place.sweeper().sweep()
    keeping = place.retention(DAYS=30)
    assert await keeping.poll() == 0
    await guarded.put("frames/new", b"x", "image/jpeg", sha256(b"x"))
    assert await guarded.staging.begin(new_id())
    for delete in (
        guarded.delete(old.storage_path), guarded.delete_many([old.storage_path, orphan.storage_path]),
        guarded.staging.remove(session, multipart=False),
    ):  # fmt: skip
        with pytest.raises(BucketNotOurs):
            await delete
    # A client's delete is begun before: its object waits as well.
    async with place.database.unit_of_work() as uow:
        assert await uow.frames.begin_delete(old.frame_id, cameras=ANONYMOUS.cameras)
    assert await keeping.poll() == 0
    assert await place.state(old) == "deleting"
    assert await place.keys("") == before | {"frames/new"}
    await place.marker.adopt()
    assert await place.retention(DAYS=30).poll() == 0  # nothing new: what was begun is finished
    assert await place.state(old) == "deleted"
    assert await place.sweeper().sweep()
    assert await place.keys() == {"frames/new"}


async def test_another_databases_bucket_is_not_written_to(place: Place, guarded: StorageService, tmp_path: Path) -> None:
    await rewrite_marker(place.storage, log_id=str(new_id()))
    before = await place.keys("")
    path = tmp_path / "x"
    path.write_bytes(b"x")
    for write in (
        guarded.put("frames/a", b"x", "image/jpeg", sha256(b"x")),
        guarded.put_file("frames/b", path, 1, "image/jpeg", sha256(b"x")),
        guarded.staging.begin(new_id()), guarded.staging.urls(new_id(), [(1, 5)], None, 60),
        guarded.staging.join(new_id(), "x", []), guarded.check_when_suspect(), guarded.delete("frames/a"),
        StagingSweeper(place.database, guarded)._storage.delete_many(["staging/x"]),
    ):  # fmt: skip
        with pytest.raises(BucketNotOurs):
            await write
    assert await place.keys("") == before


async def test_the_marker_of_an_earlier_version_is_completed(place: Place) -> None:
    ours = await place.marker.ours()
    assert ours.system is not None
    await place.storage.put_marker(MARKER_KEY, json.dumps({"log_id": str(ours.log_id)}).encode(), "application/json")
    assert await place.marker.check() is Ownership.OURS
    assert await place.marker.read() == ours


async def test_a_role_that_may_not_ask_which_server_it_is_goes_by_the_log(place: Place) -> None:
    ours = await place.marker.ours()
    role = f"plain_{secrets.token_hex(4)}"
    db = place.backends.db
    connection = await asyncpg.connect(
        host=db.HOST, port=db.PORT, user=db.USER, password=db.PASSWORD.get_secret_value() or None, database=db.NAME
    )
    try:
        await connection.execute(f"CREATE ROLE {role}")
        await connection.execute(f"GRANT SELECT ON event_log TO {role}")
        await connection.execute(f"SET ROLE {role}")
        everything = await connection.fetchrow("SELECT * FROM database_identity()")
        assert tuple(everything) == tuple(ours), "any role may ask, unless somebody has forbidden it"
        await connection.execute("RESET ROLE")
        await connection.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
        await connection.execute(f"SET ROLE {role}")
        assert tuple(await connection.fetchrow("SELECT * FROM database_identity()")) == (ours.log_id, None, None, None)
    finally:
        await connection.execute("RESET ROLE")
        await connection.execute("GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC")
        await connection.execute(f"REVOKE ALL ON event_log FROM {role}")
        await connection.execute(f"DROP ROLE {role}")
        await connection.close()


# -- a service -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def camera(films: dict[str, Path]) -> Iterator[Camera]:
    with Camera({"h264": films["h264"]}) as made:
        yield made


async def command(service: Service, *words: str) -> tuple[int, str]:
    ran = await asyncio.to_thread(run_command, service.environment, *words)
    return ran.returncode, ran.stdout + ran.stderr


async def test_a_second_database_on_one_bucket(backends: Backends, camera: Camera, tmp_path: Path) -> None:
    """It stores nothing there and loses nothing: uploads are refused, captures wait in the spool until `bucket adopt`."""
    own = await own_database(backends)
    first = StorageService(own.storage)
    await first.ensure_bucket()
    others = {"log_id": str(new_id()), "system_identifier": "7", "timeline": 1, "database": 5}
    await first.put_marker(MARKER_KEY, json.dumps(others).encode(), "application/json")
    service = service_on(own, tmp_path)

    async def bucket(client: httpx.AsyncClient) -> str:
        return str((await client.get("/health")).json()["checks"]["bucket"]["status"])

    async def objects() -> set[str]:
        return {item.key async for item in first.list_keys("")}

    async with running(service) as client:
        health = (await client.get("/health")).json()
        assert (health["status"], health["checks"]["bucket"]["status"]) == ("degraded", "degraded")
        assert "another database" in health["checks"]["bucket"]["detail"]
        refused = await upload(client, unique(), jpeg())
        assert (refused.status_code, refused.json()["code"]) == (503, "storage_unavailable")
        assert "another database" in refused.json()["detail"]
        fields = {"capture_mode": "continuous", "capture_duration": 1.0, "fps": 5.0}
        request = await capture(client, unique(), camera.url_of("h264"), **fields)

        async def all_wait() -> bool:
            progress = (await status(client, request))["progress"]
            return bool(progress["expected"] == 5 and progress["in_flight"] == 5)

        await until(all_wait, "the capture's frames wait")
        assert await objects() == {MARKER_KEY}
        assert (await command(service, "bucket", "show"))[0] == 1
        code, said = await command(service, "bucket", "adopt")
        assert code == 0, said

        async def stored() -> bool:
            return bool((await status(client, request))["progress"]["stored"] == 5)

        await until(stored, "the capture's frames are stored", 40)
        assert await bucket(client) == "healthy"
        assert (await command(service, "bucket", "show"))[0] == 0
        frame = (await upload(client, unique(), jpeg())).raise_for_status().json()["frames"][0]

        await rewrite_marker(first, timeline=99)  # as after a promotion

        async def noticed() -> bool:
            return await bucket(client) == "degraded"

        await until(noticed, "the service sees that it is a copy")
        assert (await client.delete(f"/api/v1/frames/{frame['frame_id']}")).status_code == 204
        assert (await client.get(f"/api/v1/frames/{frame['frame_id']}")).status_code == 404
        assert (await upload(client, unique(), jpeg())).status_code == 201
        assert frame["storage_path"] in await objects(), "the object waits for an operator"
        metrics = (await client.get("/metrics")).text
        assert 'ingestion_bucket_state{state="copy"} 1.0' in metrics
    await first.close()
