"""Faults of disks, clients and limits."""

from __future__ import annotations

import asyncio
import contextlib
import random
import resource
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil

from config import DbSettings
from repositories.migrations.run import upgrade
from tests.conftest import Service, clean_environment, make_database, unique
from tests.faults.audit import audit
from tests.faults.faults import Fault, fault, scenario
from tests.faults.proxies import S3Fault
from tests.faults.storm import Storm, storm
from tests.faults.workload import Upload, Uploaders
from tests.faults.world import Outcome, World, client_of, in_time
from tests.integration.storage.test_migrations import connect, migrate_in_a_process
from tests.kits.service_support import jpeg, sha256

# -- disks -------------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own. Raises CalledProcessError where mounting is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Takes all the room that is left; remove the file to give it back."""
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 65536)
    return ballast


@scenario("disk full: temporary files")
async def temporary_disk_full(world: World, rounds: int) -> Outcome:
    with small_disk(world.folder / f"tmp-{secrets.token_hex(4)}", 8) as disk:

        async def act(made: Storm) -> None:
            ballast = await asyncio.to_thread(fill, disk)
            await asyncio.sleep(2)
            await asyncio.to_thread(ballast.unlink)

        return await storm(
            world, "disk full: temporary files", rounds, act, captures=0,
            settings={"UPLOAD__TEMP_UPLOAD_DIR": str(disk), "UPLOAD__DISK_RESERVE": "0"},
        )  # fmt: skip


@scenario("disk full: spool")
async def spool_disk_full(world: World, rounds: int) -> Outcome:
    """The store hangs and the spool's disk is full: frames are given up and counted, nothing acknowledged goes."""
    with small_disk(world.folder / f"spool-{secrets.token_hex(4)}", 8) as disk:

        async def act(made: Storm) -> None:
            ballast = await asyncio.to_thread(fill, disk)
            made.world.store.fault = S3Fault("hang")
            await asyncio.sleep(10)
            made.world.heal()
            await asyncio.to_thread(ballast.unlink)

        return await storm(
            world, "disk full: spool", rounds, act, clients=0,
            settings={"SPOOL__DIR": str(disk), "SPOOL__DISK_RESERVE": "0"}, may_drop="spool_full,queue_full",
        )  # fmt: skip


@scenario("disk full: embedded parts")
async def embedded_disk_full(world: World, rounds: int) -> Outcome:
    """PostgreSQL and the S3 server have no room left, then some again."""
    with small_disk(world.folder / f"data-{secrets.token_hex(4)}", 700) as disk:
        settings = {
            "ENVIRONMENT": "test", "DATA_DIR": str(disk / "data"), "API__PORT": "0", "UPLOAD__DISK_RESERVE": "0",
        }  # fmt: skip
        service = Service({**clean_environment(), **settings}, world.folder / f"embedded-{secrets.token_hex(4)}.log")
        await asyncio.to_thread(service.start)
        outcome = Outcome("disk full: embedded parts")
        uploads = Uploaders(lambda: service.url, 3).start()
        try:
            for _ in range(rounds):
                outcome.tried += 1
                await _served(uploads, "uploads")
                ballast = await asyncio.to_thread(fill, disk)
                await asyncio.sleep(3)
                await asyncio.to_thread(ballast.unlink)
                outcome.recover = max(outcome.recover, await _served(uploads, "recovery"))
            await uploads.stop()
            await _told_is_there(service, uploads, outcome)
        finally:
            await asyncio.to_thread(service.stop)
    return outcome


async def _served(uploads: Uploaders, what: str) -> float:
    """Waits until uploads are acknowledged again; seconds that the first one took."""
    began = time.monotonic()
    await in_time(lambda: uploads.since(began) >= 3, what, 90)
    return (uploads.recovered_at(began) or began) - began


async def _told_is_there(service: Service, uploads: Uploaders, outcome: Outcome) -> None:
    """As `audit`, by the service's own answers: nobody else reaches its parts."""
    outcome.longest_gap = uploads.longest_gap()
    outcome.notes += uploads.problems
    outcome.lost += len(uploads.problems)
    async with client_of(service) as client:
        for each in uploads.acknowledged:
            assert each.answer is not None
            for frame in each.answer["frames"]:
                outcome.acknowledged += 1
                answer = await client.get(f"/api/v1/frames/{frame['frame_id']}/content", params={"proxy": "true"})
                if answer.status_code != 200 or sha256(answer.content) != frame["sha256"]:
                    outcome.lost += 1
                    outcome.notes.append(f"{frame['frame_id']}: {answer.status_code}")


# -- migrations --------------------------------------------------------------------------------------------------


async def _at_work(db: DbSettings) -> None:
    """Until somebody is connected: they get there one after the other, so any of them may be the one that migrates."""
    connection = await connect(db)
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    deadline = time.monotonic() + 30
    while not await connection.fetchval(others):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    await connection.close()
    await asyncio.sleep(random.uniform(0, 0.3))


@scenario("migration by 6 processes, one killed")
async def migrations(world: World, rounds: int) -> Outcome:
    outcome = Outcome("migration by 6 processes, one killed")
    server = world.parts.postgres
    assert server is not None
    base = DbSettings(HOST=server.host, PORT=server.port, USER=server.user, NAME=server.database)
    for _ in range(rounds):
        outcome.tried += 1
        db = await make_database(base, f"migrate_{secrets.token_hex(5)}")
        processes = [migrate_in_a_process(db) for _ in range(6)]
        await _at_work(db)
        processes[0].kill()
        began = time.monotonic()
        codes = [await asyncio.to_thread(each.wait, 60) for each in processes]
        outcome.recover = max(outcome.recover, time.monotonic() - began)
        outcome.lost += sum(code != 0 for code in codes[1:])
        await upgrade(db)  # nothing is left to do, and nothing half done
        connection = await connect(db)
        outcome.lost += await connection.fetchval("SELECT count(*) FROM alembic_version") != 1
        await connection.close()
    return outcome


# -- clients -----------------------------------------------------------------------------------------------------


def _body(camera_id: str, data: bytes) -> tuple[bytes, bytes]:
    """Head and body of an upload by hand."""
    boundary = b"fault-boundary"
    body = (
        b'--%b\r\nContent-Disposition: form-data; name="camera_id"\r\n\r\n%b\r\n--%b\r\nContent-Disposition: form-data; '
        b'name="files"; filename="car.jpg"\r\nContent-Type: image/jpeg\r\n\r\n%b\r\n--%b--\r\n'
        % (boundary, camera_id.encode(), boundary, data, boundary)
    )
    head = (
        b"POST /api/v1/ingest/upload HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=%b\r\n"
        b"Content-Length: %d\r\n\r\n" % (boundary, len(body))
    )
    return head, body


def _connected(service: Service) -> socket.socket:
    url = urlsplit(service.url)
    return socket.create_connection((url.hostname or "", url.port or 0), timeout=30)


async def _client_gone(made: Storm, seconds: float) -> None:
    """Clients hang up after any number of bytes; nothing of theirs is left, the others are served."""
    camera_id = unique()
    for _ in range(20):
        head, body = _body(camera_id, jpeg((640, 480)))
        stop = secrets.randbelow(len(body))

        def hang_up(head: bytes = head, body: bytes = body, stop: int = stop) -> None:
            with _connected(made.service) as link:
                link.sendall(head + body[:stop])

        await asyncio.to_thread(hang_up)
    async with client_of(made.service) as client:
        answer = await client.get("/api/v1/ingest/requests", params={"camera_id": camera_id})
        assert answer.json()["items"] == []
    left = Path(made.service.environment["DATA_DIR"]) / "tmp"
    async with client_of(made.service):
        await in_time(lambda: not list(left.glob("ingest-*/upload-*")), "temporary files to go", 20)


fault(Fault("client gone in mid-upload", _client_gone, captures=0))


async def _slow_clients(made: Storm, seconds: float) -> None:
    """As many slow clients as places: they are ended, the others get theirs."""
    links = []
    for _ in range(4):
        link = await asyncio.to_thread(_connected, made.service)
        head, body = _body(unique(), jpeg((64, 48)))
        await asyncio.to_thread(link.sendall, head + body[:20])
        links.append((link, body))
    answers: set[bytes] = set()
    for at in range(20, 60):
        for link, body in list(links):
            try:
                await asyncio.to_thread(link.sendall, body[at : at + 1])
                link.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    answers.add(link.recv(200)[:12])
                    links.remove((link, body))
                    link.close()
                    continue
                link.setblocking(True)
            except OSError:
                links.remove((link, body))
        if not links:
            break
        await asyncio.sleep(1)
    for link, _ in links:
        link.close()
    assert not links, "slow clients were never ended"
    assert answers <= {b"HTTP/1.1 408", b""}, answers


fault(Fault("slow clients, 1 byte a second", _slow_clients, captures=0, settings={"API__BODY_TIMEOUT": "5"}))


@scenario("same key from 10 clients")
async def same_key(world: World, rounds: int) -> Outcome:
    """One upload sent by ten clients at once with one key: each is told of the same frames, which are stored once."""
    outcome = Outcome("same key from 10 clients")
    service = world.service()
    await asyncio.to_thread(service.start)
    try:
        for _ in range(rounds):
            outcome.tried += 1
            data, camera_id, key = jpeg(), unique(), secrets.token_hex(8)
            told = Uploaders(lambda: service.url, 0, camera_id=camera_id)
            one = Upload(key, camera_id, [data])

            began = time.monotonic()
            answers = await asyncio.gather(*(_sent(told, one) for _ in range(10)))
            outcome.recover = max(outcome.recover, time.monotonic() - began)
            one.answer = answers[0]
            outcome.doubled += len({answer["request_id"] for answer in answers}) - 1
            told.done.append(one)
            await audit(world, outcome, told, None)
    finally:
        await asyncio.to_thread(service.stop)
    return outcome


async def _sent(uploaders: Uploaders, one: Upload) -> dict[str, Any]:
    """The same upload by another client, until it is told 201."""
    mine = Upload(one.key, one.camera_id, one.files)
    async with httpx.AsyncClient(timeout=30) as http:
        await uploaders.until_told(http, mine)
    assert mine.answer is not None, uploaders.problems
    return mine.answer


# -- limits ------------------------------------------------------------------------------------------------------


async def _many_pending(made: Storm, seconds: float) -> None:
    """Captures of dead cameras wait by the thousand; uploads and a live camera are served meanwhile."""
    connection = await made.world.connect()
    try:
        # As admission writes them: 10,000 POSTs would take minutes.
        await connection.execute(
            "INSERT INTO ingestion_requests (id, camera_id, source_type, capture_mode, status, rtsp_url, params)"
            " SELECT gen_random_uuid(), 'pending-' || n, 'rtsp', 'single_frame', 'pending', rtsp_url,"
            " params || $1::jsonb"
            " FROM generate_series(1, 10000) AS n,"
            " (SELECT rtsp_url, params FROM ingestion_requests WHERE capture_mode = 'continuous' LIMIT 1) AS model",
            '{"mode": "single_frame", "max_frames": null, "duration": null}',
        )
        await connection.execute(
            "INSERT INTO capture_leases (request_id, camera_id) SELECT id, camera_id FROM ingestion_requests"
            " WHERE status = 'pending' AND camera_id LIKE 'pending-%'"
        )
        async with client_of(made.service) as client:
            answer = await client.post(
                "/api/v1/ingest/rtsp", json={"camera_id": unique(), "rtsp_url": made.world.camera.url}
            )
            assert answer.status_code == 429, answer.text
            assert answer.json()["code"] == "too_many_pending"
            assert "retry-after" in answer.headers
        await made.recovered()
    finally:
        await connection.execute("DELETE FROM capture_leases WHERE camera_id LIKE 'pending-%'")
        await connection.execute("DELETE FROM frames WHERE camera_id LIKE 'pending-%'")
        await connection.execute("DELETE FROM ingestion_requests WHERE camera_id LIKE 'pending-%'")
        await connection.close()


fault(Fault("10,000 requests pending", _many_pending, settings={"RTSP__MAX_PENDING": "9000"}))


async def _descriptors_used_up(made: Storm, seconds: float) -> None:
    """The process may open few files more, and clients hold connections: it serves again when they are gone."""
    assert made.service.process is not None
    process = psutil.Process(made.service.process.pid)
    soft, hard = process.rlimit(resource.RLIMIT_NOFILE)
    process.rlimit(resource.RLIMIT_NOFILE, (process.num_fds() + 8, hard))
    links = []
    try:
        for _ in range(40):
            with contextlib.suppress(OSError):
                links.append(await asyncio.to_thread(_connected, made.service))
        await asyncio.sleep(seconds)
    finally:
        for link in links:
            link.close()
        process.rlimit(resource.RLIMIT_NOFILE, (soft, hard))


fault(Fault("file descriptors used up", _descriptors_used_up, seconds=3, briefly=1))
