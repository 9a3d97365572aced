"""`python -m services.commands verify` as an operator runs it: exit codes, JSON, and that bytes are read, not believed."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from typer.testing import CliRunner

from config import StorageSettings
from models.access import ALL_CAMERAS
from repositories.database import Database
from services.commands.app import app
from services.housekeeping.verifier import Verifier, Wanted
from services.storage_service.service import StorageService
from tests.conftest import Backends, free_port, running
from tests.kits.forked import run_command
from tests.kits.service_support import embedded_service, jpeg, upload
from tests.kits.sweep_kit import X_SHA256, Place, open_place
from utils import retrying


@pytest_asyncio.fixture(scope="module")
async def own_place(backends: Backends) -> AsyncIterator[Place]:
    async with open_place(backends, f"verify-{secrets.token_hex(5)}") as made:
        yield made


@pytest_asyncio.fixture
async def place(own_place: Place) -> Place:
    return await own_place.emptied()


async def run(environment: dict[str, str], *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, the one JSON object on standard output, standard error."""
    done = await asyncio.to_thread(run_command, environment, "verify", *arguments)
    answer = json.loads(done.stdout) if done.stdout.startswith("{") else {"text": done.stdout}
    return done.returncode, answer, done.stderr


async def test_corrupted_missing_and_short_objects_are_found(place: Place, tmp_path: Path) -> None:
    whole, swapped, missing, short = [await place.frame(f"cam-{n}", b"y" * 60) for n in range(4)]
    well = await Verifier(place.database, place.storage, Wanted()).run(0)
    assert (well.exit_code, well.checked, well.ok, well.bytes_read) == (0, 4, 4, 240)

    # Same length, same name: ETag aside, nothing but the bytes tells.
    other = "z" * 60
    await place.storage.put_if_absent("elsewhere", other.encode(), "image/jpeg")
    await overwrite(place, swapped.storage_path, other.encode())
    await place.storage.delete(missing.storage_path)
    await place.storage.put(short.storage_path, b"x", "image/jpeg", X_SHA256)
    code, report, errors = await run(place.backends.environment(tmp_path), "--orphans")
    assert code == 1
    assert {name: report[name] for name in ("checked", "ok", "missing", "mismatched", "gone", "error")} == {
        "checked": 4, "ok": 1, "missing": 1, "mismatched": 2, "gone": 0, "error": None,
    }  # fmt: skip
    found = {item["frame_id"]: item["kind"] for item in report["violations"]}
    assert found == {
        str(swapped.frame_id): "sha256", str(missing.frame_id): "missing", str(short.frame_id): "size",
    }  # fmt: skip
    assert report["orphans"] == 0
    for item, exit_code in ((whole, 0), (swapped, 1)):
        wanted = Wanted(camera_id=item.camera_id)
        assert (await Verifier(place.database, place.storage, wanted).run(0)).exit_code == exit_code
    assert errors == "" or "object_missing" in errors
    assert {await place.state(item) for item in (whole, swapped, missing, short)} == {"stored"}  # nothing is changed


async def overwrite(place: Place, key: str, data: bytes) -> None:
    url = place.storage._bucket._client.generate_presigned_url(
        "put_object", Params={"Bucket": place.storage.bucket, "Key": key}, ExpiresIn=60
    )
    answer = await asyncio.to_thread(httpx.put, url, content=data)
    assert answer.status_code == 200, answer.text


async def test_a_sample_is_as_large_as_it_is_asked_to_be(place: Place) -> None:
    frames = [await place.frame() for _ in range(20)]
    await place.aged(frames[0], 5)
    report = await Verifier(place.database, place.storage, Wanted(sample=7)).run(0)
    assert (report.checked, report.ok, report.exit_code) == (7, 7, 0)
    assert (await Verifier(place.database, place.storage, Wanted(sample=70)).run(0)).checked == 20
    assert (await Verifier(place.database, place.storage, Wanted(share=0.0)).run(0)).checked == 0
    since = datetime.now(UTC) - timedelta(days=1)
    assert (await Verifier(place.database, place.storage, Wanted(since=since)).run(0)).checked == 19


async def test_a_frame_that_is_deleted_meanwhile_is_no_violation(place: Place) -> None:
    frames = [await place.frame() for _ in range(3)]
    checking = Verifier(place.database, place.storage, Wanted(concurrency=1))
    real = place.storage.digest

    async def delete_first(key: str) -> Any:
        if key == frames[1].storage_path:
            async with place.database.unit_of_work() as uow:
                await uow.frames.begin_delete(frames[1].frame_id, cameras=ALL_CAMERAS)
            await place.storage.delete(key)
        return await real(key)

    place.storage.digest = delete_first  # type: ignore[method-assign]
    try:
        report = await checking.run(0)
    finally:
        place.storage.digest = real  # type: ignore[method-assign]
    assert (report.checked, report.ok, report.gone, report.exit_code) == (3, 2, 1, 0)


async def test_what_cannot_be_checked_is_neither_well_nor_lost(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "FIRST_PAUSE", 0.01)
    frame = await place.frame()
    nowhere = StorageSettings(
        **{**dict(place.backends.storage), "ENDPOINT": f"127.0.0.1:{free_port()}", "CONNECT_TIMEOUT": 0.2}
    )
    away = StorageService(nowhere)
    report = await Verifier(place.database, away, Wanted()).run(0)
    await away.close()
    assert (report.exit_code, report.missing) == (2, 0)
    assert report.error
    assert CliRunner().invoke(app, ["verify", "--sample", "0"]).exit_code == 2
    broken = Database(place.backends.db.model_copy(update={"HOST": "127.0.0.1", "PORT": free_port()}))
    report = await Verifier(broken, place.storage, Wanted()).run(0)
    await broken.close()
    assert (report.exit_code, report.checked) == (2, 0)
    assert await place.state(frame) == "stored"


async def test_on_the_embedded_parts_of_a_running_service_and_of_none(tmp_path: Path) -> None:
    service = embedded_service(tmp_path)
    async with running(service) as client:
        answer = await upload(client, "cam", jpeg((64, 48)), jpeg((64, 48)))
        assert answer.status_code == 201
        code, report, errors = await run(service.environment)
        assert (code, report["checked"], report["ok"]) == (0, 2, 2), errors
    code, report, errors = await run(service.environment)
    assert (code, report["ok"]) == (0, 2), errors
