"""`backup` and `restore`: everything comes back on an empty machine; what is refused; what can be run again."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio

from config import Settings
from demo.camera import Camera
from demo.film import make_film
from models.access import ALL_CAMERAS
from models.entities import Base
from repositories.database import Database
from repositories.table_copy import OWN, overview_of
from services.backup.archive import ABSENT, KEYS, Archive, BackupError, Manifest, ObjectsPart
from services.backup.backup import Backup
from services.backup.restore import MARK_KEY, Restore, Restored
from services.execution.embedded_parts import reach
from services.housekeeping.bucket_marker import Ownership
from services.housekeeping.secrets import open_box
from services.housekeeping.verifier import Verifier, Wanted
from services.spool.folder import SpoolFolder
from services.spool.record import SpoolRecord, encode
from services.storage_service.service import StorageService
from tests.conftest import Backends, make_database, running, unique
from tests.integration.spool.test_spool_replay import add_capture, finish
from tests.kits.forked import run_command
from tests.kits.service_support import (
    all_frames,
    capture,
    embedded_service,
    final,
    jpeg,
    own_database,
    sha256,
    until,
    upload,
)
from tests.kits.spool_frames import FPS, GRID, frame_of, picture
from tests.kits.sweep_kit import Place, open_place
from utils.ids import new_id
from utils.secret_box import SecretBox, new_key

CAMERAS = "/api/v1/cameras"
pytestmark = pytest.mark.timeout(300)  # up to five commands and two services, each with parts of its own


async def command(environment: dict[str, str], *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, the one JSON object on standard output, standard error."""
    done = await asyncio.to_thread(run_command, environment, *arguments)
    return done.returncode, json.loads(done.stdout) if done.stdout.startswith("{") else {"text": done.stdout}, done.stderr


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Camera]:
    film = make_film(tmp_path_factory.mktemp("films"), width=320, height=180, fps=25, seconds=4, bitrate=300_000)
    with Camera({"plain": film}, join="burst") as camera:
        yield camera


def spooled(request_id: UUID, slot: int, data: bytes) -> tuple[SpoolRecord, str]:
    frame = frame_of(request_id, slot, data)
    return SpoolRecord(frame, GRID, FPS, 1, GRID), f"{request_id.hex}-{slot:010d}-00000000"


def write_record(folder: Path, record: SpoolRecord, name: str, data: bytes) -> None:
    spool = SpoolFolder(folder)
    spool.open()
    spool.write(name, (encode(record, data), data), 0)


@asynccontextmanager
async def parts_of(data_dir: Path) -> AsyncIterator[Place]:
    """The embedded parts of a folder: those of the service that runs there, else started for the block."""
    async with reach(Settings(_env_file=None, DATA_DIR=data_dir, ENVIRONMENT="test")) as settings:
        database, storage = Database(settings.DB, "trackshift-tests"), StorageService(settings.STORAGE)
        try:
            yield Place(Backends(settings.DB, settings.STORAGE, outside=False), database, storage)
        finally:
            await storage.close()
            await database.close()


async def test_everything_comes_back_on_an_empty_machine(camera: Camera, tmp_path: Path) -> None:
    """Embedded parts to other embedded parts, by the commands, under a service before and a service after."""
    for name in ("source", "target"):
        (tmp_path / name).mkdir()
    source = embedded_service(tmp_path / "source")
    secret_url = camera.url.replace("rtsp://", "rtsp://user:S3cr3t@")
    async with running(source) as client:
        body = {"camera_id": "registered", "rtsp_url": secret_url, "keep_open": False}
        assert (await client.post(CAMERAS, json=body)).status_code == 201
        captured = await capture(client, "track", camera.url, capture_mode="continuous", capture_duration=1, fps=4)
        assert (await final(client, captured))["progress"]["stored"] == 4
        uploaded = (await upload(client, "pit", jpeg(), jpeg(), jpeg())).raise_for_status().json()["frames"]
        fresh, due, held = [item["frame_id"] for item in uploaded]
        answer = await client.post(f"/api/v1/frames/{held}/hold", json={"reason": "protest of car 44"})
        assert answer.status_code == 200
        frames = {item["frame_id"]: item for item in (await client.get("/api/v1/frames")).json()["items"]}
        cursor = (await client.get("/api/v1/events", params={"after": "latest"})).json()["next_cursor"]
        code, report, errors = await command(source.environment, "backup", str(tmp_path / "while it runs"))
        assert (code, report["objects"]["copied"]) == (0, 7), errors

    late = picture(300)
    async with parts_of(tmp_path / "source" / "data") as place:
        claim = await add_capture(place.database)
        await finish(place.database, claim, 5)
        record, name = spooled(claim.request_id, 2, late)
        write_record(tmp_path / "source" / "data" / "spool", record, name, late)
        for frame_id in (due, held):
            await place.sql("UPDATE frames SET stored_at = now() - interval '3 days' WHERE id = :id", id=frame_id)
        old_log = (await place.sql("SELECT log_id FROM event_log"))[0][0]
    archive = tmp_path / "backup"
    code, report, errors = await command(source.environment, "backup", str(archive))
    assert code == 0, errors
    assert report["objects"] | {"bytes": 0} == {
        "frames": 7, "copied": 7, "bytes": 0, "gone": 0, "missing": 0, "damaged": 0
    }  # fmt: skip
    assert report["spool"]["records"] == 1
    assert (archive / KEYS).stat().st_mode & 0o777 == 0o600
    assert str(archive / KEYS) in errors, "the operator is told that keys are in the backup"
    assert "S3cr3t" not in errors

    target = embedded_service(
        tmp_path / "target", RETENTION__DAYS="1", RETENTION__INTERVAL="0.5", SWEEPER__GRACE="1", SWEEPER__INTERVAL="1"
    )
    code, done, errors = await command(target.environment, "restore", str(archive))
    assert code == 0, errors
    assert (done["objects"], done["spool"], done["left_out"]) == (7, 1, 0)
    assert (done["verified"]["ok"], done["verified"]["orphans"]) == (7, 0)
    assert done["log_id"] != str(old_log)
    orphan = f"frames/2026/05/04/cam/{new_id()}-{secrets.token_hex(8)}.jpg"
    async with parts_of(tmp_path / "target" / "data") as place:
        assert (await place.sql("SELECT log_id FROM event_log"))[0][0] == UUID(done["log_id"])
        assert str((await place.marker.ours()).log_id) == done["log_id"]
        assert await place.marker.check() is Ownership.OURS
        code, report, errors = await command(target.environment, "verify")  # these commands find the parts that run
        assert (code, report["ok"]) == (0, 7), errors
        await place.storage.put(orphan, b"x", "image/jpeg", sha256(b"x"))
        # The policy came with the rows: there was none at the source.
        code, report, errors = await command(target.environment, "retention", "apply")
        assert (code, report["before"]["days"], report["policy"]["days"]) == (0, None, 1), errors
    async with running(target) as client, parts_of(tmp_path / "target" / "data") as place:

        async def gone() -> bool:
            return (await client.get(f"/api/v1/frames/{due}")).status_code == 404

        async def swept() -> bool:
            return await place.storage.head(orphan) is None

        async def replayed() -> bool:
            return (await client.get(f"/api/v1/frames/{record.frame.frame_id}")).status_code == 200

        await until(gone, "retention deletes what is due")
        await until(replayed, "the spooled frame is stored")
        await until(swept, "the sweeper deletes what is nobody's", 40)
        for frame_id, item in frames.items():
            content = await client.get(f"/api/v1/frames/{frame_id}/content", params={"proxy": "true"})
            assert content.status_code == (404 if frame_id == due else 200)
            assert frame_id == due or sha256(content.content) == item["sha256"]
        content = await client.get(f"/api/v1/frames/{record.frame.frame_id}/content", params={"proxy": "true"})
        assert content.content == late
        assert (await client.get(f"/api/v1/frames/{held}")).json()["hold_reason"] == "protest of car 44"
        assert len(await all_frames(client, captured)) == 4
        assert fresh in frames
        answer = await client.get("/api/v1/events", params={"after": cursor})
        assert (answer.status_code, answer.json()["code"]) == (410, "cursor_expired")
        assert (await client.get("/health")).json()["checks"]["sweeper"]["status"] == "healthy"
        snapshot = await client.post(f"{CAMERAS}/registered/snapshot")
        assert snapshot.status_code == 201, snapshot.text
    assert "S3cr3t" not in target.text()


# -- on the session's servers: what else can be there, and what can go wrong -----------------------------------------


@dataclass
class Machine:
    """Where something is restored to: a database without tables, a bucket that is not there yet, folders."""

    backends: Backends
    data_dir: Path
    reports: list[str] = field(default_factory=list)

    def settings(self, **groups: object) -> Settings:
        return self.backends.settings(self.data_dir, **groups)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[Place]:
        database, storage = Database(self.backends.db, "trackshift-tests"), StorageService(self.backends.storage)
        try:
            yield Place(self.backends, database, storage)
        finally:
            await storage.close()
            await database.close()

    async def restore(
        self, archive: Path, *, objects: bool = True, without_key: bool = False, fails: str = "never", **groups: object
    ) -> Restored:
        """`fails`: the report at which the restore is cut off."""

        def report(text: str) -> None:
            self.reports.append(text)
            if text.startswith(fails):
                raise CutOff(text)

        async with self.place() as place:
            made = Restore(self.settings(**groups), place.database, place.storage, Archive(archive), report)
            return await made.run(objects=objects, without_key=without_key)

    async def untouched(self) -> bool:
        return (await overview_of(self.backends.db)).revision is None


class CutOff(Exception):
    """As if the process had died."""


@pytest_asyncio.fixture(scope="module")
async def source(backends: Backends) -> AsyncIterator[Place]:
    async with open_place(backends, unique("backup")) as place:
        yield await place.emptied()


@pytest_asyncio.fixture
async def machine(backends: Backends, tmp_path: Path) -> Machine:
    own = await own_database(backends, tables=False)
    return Machine(own, tmp_path / "machine")


async def back_up(
    place: Place, folder: Path, kind: type[Backup] = Backup, *, objects: bool = True, **groups: object
) -> Manifest:
    settings = place.backends.settings(folder.with_name(f"{folder.name}-data"), **groups)
    return await kind(settings, place.database, place.storage, Archive.create(folder)).run(objects=objects)


async def content(place: Place) -> dict[str, Any]:
    """Rows and a digest of them, by table; of those that are not the migrations' own."""
    return {
        table.name: (await place.sql(f"SELECT count(*), md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {table} t"))[0]
        for table in Base.metadata.sorted_tables
        if table.name not in OWN
    }


async def test_every_row_of_every_table_is_as_it_was(source: Place, machine: Machine, tmp_path: Path) -> None:
    await source.emptied()
    record = await source.frame("cam\u00e4ra".encode().hex(), b"y" * 70)
    await source.sql(
        "UPDATE frames SET meta = CAST(:meta AS jsonb), held_at = now(), hold_reason = :why WHERE id = :id",
        meta=json.dumps({"ü": "tab\tnewline\nback\\slash \\N"}), why="line\nand\ttab \\. end", id=record.frame_id,
    )  # fmt: skip
    claim = await add_capture(source.database)
    await finish(source.database, claim, 5)
    await source.sql("INSERT INTO audit (subject, action) VALUES (NULL, 'test')")
    before = await content(source)
    assert before["outbox_pending"][0] > 0
    await back_up(source, tmp_path / "b")
    done = await machine.restore(tmp_path / "b")
    assert done.exit_code == 0
    async with machine.place() as place:
        after = await content(place)
        del before["event_log"], after["event_log"]
        assert after == before
        newest = (await source.sql("SELECT max(id) FROM audit"))[0][0]
        assert (await place.sql("INSERT INTO audit (action) VALUES ('next') RETURNING id"))[0][0] == newest + 1
        again = await place.frame()  # triggers work again: an event, a change of what is stored
        assert (await content(place))["storage_changes"][0] == before["storage_changes"][0] + 1
        assert await place.state(again) == "stored"


async def test_a_frame_deleted_meanwhile_is_gone_and_its_delete_goes_on(
    source: Place, machine: Machine, tmp_path: Path
) -> None:
    await source.emptied()
    kept, deleted = await source.frame(), await source.frame()

    class DeletesMeanwhile(Backup):
        async def _copy_objects(self) -> ObjectsPart:
            async with source.database.unit_of_work() as uow:
                await uow.frames.begin_delete(deleted.frame_id, cameras=ALL_CAMERAS)
            await source.storage.delete(deleted.storage_path)
            return await super()._copy_objects()

    manifest = await back_up(source, tmp_path / "b", DeletesMeanwhile)
    assert manifest.objects is not None
    assert (manifest.objects.copied, manifest.objects.gone, manifest.objects.missing) == (1, 1, 0)
    done = await machine.restore(tmp_path / "b")
    assert (done.exit_code, done.verified.ok, done.left_out) == (0, 1, 0)
    async with machine.place() as place:
        assert [await place.state(item) for item in (kept, deleted)] == ["stored", "deleting"]
        await place.retention().poll()
        assert [await place.state(item) for item in (kept, deleted)] == ["stored", "deleted"]
        assert (await place.sql("SELECT deleted FROM ingestion_requests WHERE id = :id", id=deleted.request_id)) == [(1,)]
        told = "SELECT count(*) FROM outbox_pending WHERE event->>'type' = 'frame.deleted' AND event->>'subject' = :id"
        assert await place.sql(told, id=str(deleted.frame_id)) == [(1,)]


async def test_a_spooled_frame_that_is_stored_meanwhile_is_not_lost(source: Place, tmp_path: Path) -> None:
    """After the rows were copied, and its record has left the spool: it is in the backup as a record."""
    await source.emptied()
    record, name = spooled(new_id(), 1, b"z")
    folder = tmp_path / "b-data" / "spool"
    write_record(folder, record, name, b"z")

    class ReplaysMeanwhile(Backup):
        async def _copy_rows(self, *arguments: Any) -> dict[str, Any]:
            found = await super()._copy_rows(*arguments)
            SpoolFolder(folder).remove(name)
            return found

    manifest = await back_up(source, tmp_path / "b", ReplaysMeanwhile)
    assert manifest.spool.records == 1
    assert (tmp_path / "b" / "spool" / "records" / name).exists()


async def test_objects_that_the_bucket_has_lost_are_said_and_the_rest_is_saved(
    source: Place, machine: Machine, tmp_path: Path
) -> None:
    await source.emptied()
    kept, lost = await source.frame(), await source.frame()
    await source.storage.delete(lost.storage_path)
    code, report, _ = await command(source.backends.environment(tmp_path / "data"), "backup", str(tmp_path / "b"))
    assert (code, report["objects"]["copied"], report["objects"]["missing"]) == (1, 1, 1)
    assert list(Archive(tmp_path / "b").lines(ABSENT)) == [[str(lost.frame_id), "missing", lost.storage_path]]
    done = await machine.restore(tmp_path / "b")
    assert (done.exit_code, done.verified.ok, done.verified.missing) == (1, 1, 1)
    assert kept.frame_id != lost.frame_id


async def test_a_restore_that_is_cut_off_at_each_step_goes_on(source: Place, machine: Machine, tmp_path: Path) -> None:
    """One place, cut off at every step that writes: each time it goes on from where it was."""
    await source.emptied()
    frames = [await source.frame() for _ in range(5)]
    claim = await add_capture(source.database)
    await finish(source.database, claim, 5)
    data = picture()
    record, name = spooled(claim.request_id, 1, data)
    write_record(tmp_path / "b-data" / "spool", record, name, data)
    await back_up(source, tmp_path / "b")
    other = tmp_path / "other"
    await back_up(source, other)
    begun: list[str] = []
    put_file = StorageService.put_file

    def cut(self: SpoolFolder, *_: Any) -> None:
        raise CutOff

    async def cut_at_the_third(self: StorageService, key: str, *more: Any) -> None:
        begun.append(key)
        if len(begun) == 3:
            raise CutOff
        await put_file(self, key, *more)

    for cut_off in ("objects", "spool", "rows", "verifying"):
        with pytest.MonkeyPatch.context() as patch:
            if cut_off == "objects":
                patch.setattr(StorageService, "put_file", cut_at_the_third)
            if cut_off == "spool":
                patch.setattr(SpoolFolder, "write", cut)
            fails = cut_off if cut_off in ("rows", "verifying") else "never"
            with pytest.raises(CutOff):
                await machine.restore(tmp_path / "b", fails=fails)
        with pytest.raises(BackupError, match="another backup"):
            await machine.restore(other)
    assert len(begun) >= 3
    done = await machine.restore(tmp_path / "b")
    assert (done.exit_code, done.verified.ok, done.spool) == (0, 5, 1)
    assert [path.name for path in (machine.data_dir / "spool" / "records").iterdir()] == [name]
    async with machine.place() as place:
        assert await place.storage.head(MARK_KEY) is None
        assert (await place.marker.ours()).log_id == done.log_id
        assert await place.marker.read() == await place.marker.ours()
        assert {await place.state(item) for item in frames} == {"stored"}
    with pytest.raises(BackupError, match="not empty"):
        await machine.restore(tmp_path / "b")


async def test_a_place_where_a_service_was_started_once_is_empty(backends: Backends, source: Place, tmp_path: Path) -> None:
    await source.emptied()
    await source.frame()
    await back_up(source, tmp_path / "b")
    target = embedded_service(tmp_path)
    async with running(target):
        code, _, errors = await command(target.environment, "restore", str(tmp_path / "b"))
        assert code == 2
        assert "in use" in errors
    code, done, errors = await command(target.environment, "restore", str(tmp_path / "b"))
    assert (code, done["verified"]["ok"]) == (0, 1), errors
    async with parts_of(tmp_path / "data") as place:
        found = await place.marker.read()
        assert found == await place.marker.ours(), "the bucket had the mark of the first start's database"


Fill = Callable[[Machine, Place], Awaitable[None]]


async def _a_frame(machine: Machine, place: Place) -> None:
    from repositories.migrations.run import upgrade

    await upgrade(machine.backends.db)
    await place.storage.ensure_bucket()
    await place.frame()


async def _an_object(machine: Machine, place: Place) -> None:
    await place.storage.ensure_bucket()
    await place.storage.put("frames/2026/05/04/cam/x.jpg", b"x", "image/jpeg", sha256(b"x"))


async def _anothers_marker(machine: Machine, place: Place) -> None:
    await place.storage.ensure_bucket()
    await place.storage.put_if_absent(".trackshift/log", json.dumps({"log_id": str(new_id())}).encode(), "application/json")


async def _a_record(machine: Machine, place: Place) -> None:
    record, name = spooled(new_id(), 1, b"z")
    write_record(machine.data_dir / "spool", record, name, b"z")


@pytest.mark.parametrize(
    ("fill", "says"),
    [(_a_frame, "database"), (_an_object, "bucket"), (_anothers_marker, "another database"), (_a_record, "spool")],
)
async def test_a_place_that_is_not_empty_is_refused(
    fill: Fill, says: str, source: Place, machine: Machine, tmp_path: Path
) -> None:
    await source.emptied()
    await source.frame()
    await back_up(source, tmp_path / "b")
    async with machine.place() as place:
        await fill(machine, place)
        before = await place.keys("") if fill is not _a_record else set()
        with pytest.raises(BackupError, match=says):
            await machine.restore(tmp_path / "b")
        assert not before or await place.keys("") == before
    assert fill is _a_frame or await machine.untouched()


async def test_a_damaged_backup(source: Place, machine: Machine, tmp_path: Path) -> None:
    await source.emptied()
    frames = [await source.frame() for _ in range(3)]
    folder = tmp_path / "b"
    await back_up(source, folder)
    environment = machine.backends.environment(machine.data_dir)
    rows = folder / "rows" / "frames.gz"
    whole = rows.read_bytes()
    rows.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    code, _, errors = await command(environment, "restore", str(folder))
    assert (code, "rows/frames.gz is damaged" in errors) == (2, True), errors
    assert await machine.untouched()
    rows.write_bytes(whole)

    Archive(folder).object_path(frames[0].storage_path).write_bytes(b"w" * frames[0].size_bytes)
    Archive(folder).object_path(frames[1].storage_path).unlink()
    code, report, errors = await command(environment, "restore", str(folder))
    assert (code, report["objects"], report["left_out"]) == (1, 1, 2), errors
    assert {item["frame_id"] for item in report["violations"]} == {str(item.frame_id) for item in frames[:2]}
    async with machine.place() as place:
        assert (await Verifier(place.database, place.storage, Wanted()).run(0)).ok == 1

    (folder / "manifest.json").write_text('{"format": 1}')
    code, _, errors = await command(environment, "restore", str(folder))
    assert (code, "manifest.json is damaged" in errors) == (2, True)
    (folder / "manifest.json").unlink()
    code, _, errors = await command(environment, "restore", str(folder))
    assert (code, "not finished" in errors) == (2, True)
    code, _, errors = await command(environment, "backup", str(folder))
    assert (code, "is not empty" in errors) == (2, True)


async def test_keys_that_do_not_open_the_cameras_urls(
    source: Place, machine: Machine, backends: Backends, tmp_path: Path
) -> None:
    await source.emptied()
    key, other = new_key(), new_key()
    url = SecretBox([key]).seal("rtsp://user:S3cr3t@127.0.0.1/x")
    await source.sql("INSERT INTO camera_configurations (camera_id, rtsp_url) VALUES ('cam', :url)", url=url)
    await back_up(source, tmp_path / "b", SECRETS={"KEYS": [key]})
    assert not (tmp_path / "b" / KEYS).exists()
    refused_with: tuple[dict[str, Any], ...] = ({"SECRETS": {"KEYS": [other]}}, {"SECRETS": {}})
    for groups in refused_with:
        with pytest.raises(BackupError, match=SecretBox([key]).key_ids[0]) as refused:
            await machine.restore(tmp_path / "b", **groups)
        assert key not in str(refused.value)
    assert await machine.untouched()
    done = await machine.restore(tmp_path / "b", without_key=True, SECRETS={"KEYS": [other]})
    assert done.exit_code == 0


async def test_keys_of_both_places_are_kept(source: Place, machine: Machine, tmp_path: Path) -> None:
    """A service that was started once has made a key: the backup's goes before it, and neither is lost."""
    await source.emptied()
    key, other = new_key(), new_key()
    (tmp_path / "b-data").mkdir()
    (tmp_path / "b-data" / KEYS).write_text(json.dumps([key]))
    url = SecretBox([key]).seal("rtsp://user:S3cr3t@127.0.0.1/x")
    await source.sql("INSERT INTO camera_configurations (camera_id, rtsp_url) VALUES ('cam', :url)", url=url)
    await back_up(source, tmp_path / "b", SECRETS={})
    machine.data_dir.mkdir()
    (machine.data_dir / KEYS).write_text(json.dumps([other]))
    await machine.restore(tmp_path / "b", SECRETS={})
    assert json.loads((machine.data_dir / KEYS).read_text()) == [key, other]
    async with machine.place() as place:
        stored = (await place.sql("SELECT rtsp_url FROM camera_configurations"))[0][0]
    assert open_box(machine.settings(SECRETS={})).open(stored) == "rtsp://user:S3cr3t@127.0.0.1/x"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """64 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a full disk needs the right to mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


async def test_a_full_disk(source: Place, machine: Machine, small_disk: Path, tmp_path: Path) -> None:
    await source.emptied()
    await source.frame(data=b"q" * 100_000)
    environment = source.backends.environment(tmp_path / "data")
    code, _, errors = await command(environment, "backup", str(small_disk / "b"))
    assert (code, "bytes free" in errors) == (2, True), errors
    await source.sql("INSERT INTO audit (action) SELECT md5(n::text) FROM generate_series(1, 8000) AS n")
    code, _, errors = await command(environment, "backup", "--no-objects", str(small_disk / "c"))
    assert (code, "No space left" in errors) == (2, True), errors
    assert not list(small_disk.rglob("manifest.json"))

    claim = await add_capture(source.database)
    await finish(source.database, claim, 5)
    data = picture(100_000)
    record, name = spooled(claim.request_id, 1, data)
    write_record(tmp_path / "b-data" / "spool", record, name, data)
    await back_up(source, tmp_path / "b")
    with pytest.raises(BackupError, match="No space left"):
        await machine.restore(tmp_path / "b", SPOOL={"DIR": small_disk / "spool"})
    done = await machine.restore(tmp_path / "b")
    assert (done.exit_code, done.spool) == (0, 1)


async def test_a_bucket_that_is_backed_up_by_itself(source: Place, backends: Backends, tmp_path: Path) -> None:
    """The bucket is the same one, or a copy: it becomes the restored database's."""
    await source.emptied()
    await source.frame()
    await back_up(source, tmp_path / "b", objects=False)
    assert not (tmp_path / "b" / "objects").exists()
    later = await source.frame()  # after the backup: an object without a row
    db = await make_database(backends.db, unique("restored").replace("-", "_"))
    machine = Machine(Backends(db, source.backends.storage, backends.outside), tmp_path / "machine")
    with pytest.raises(BackupError, match="--no-objects"):
        await machine.restore(tmp_path / "b")
    done = await machine.restore(tmp_path / "b", objects=False)
    assert (done.exit_code, done.verified.ok, done.verified.orphans) == (0, 1, 1)
    async with machine.place() as place:
        assert await place.marker.check() is Ownership.OURS
    assert await source.marker.check() is Ownership.FOREIGN
    assert await source.storage.head(later.storage_path) is not None
