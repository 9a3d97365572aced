"""`main.py` as a process: it starts, says clearly why it cannot, and ends with nothing left behind."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest
from pydantic import SecretStr

from demo.camera import Camera
from services import runtime
from services.execution import checks
from tests.conftest import ROOT, Backends, Service, clean_environment, free_port, unique
from tests.kits.forked import Forked
from tests.kits.service_support import (
    all_frames,
    assert_objects,
    capture,
    embedded_service,
    family,
    final,
    jpeg,
    own_database,
    service_on,
    until,
    upload,
)
from utils.embedded.lock import DataDirLock

SECRET = "S3cr3t-of-the-database"


@pytest.fixture(scope="module")
def camera() -> Iterator[Camera]:
    with Camera(size=(320, 180), fps=10, bitrate=300_000) as camera:
        yield camera


def refused(environment: dict[str, str], folder: Path, timeout: float = 60) -> tuple[int, str]:
    """Exit code and output of a service that is not meant to start."""
    out = folder / "refused.log"
    process = Forked("main.py", environment, out)
    try:
        return process.wait(timeout), out.read_text()
    finally:
        process.kill()


def assert_clear(output: str, *words: str) -> None:
    assert "Traceback" not in output, output[-1500:]
    for word in words:
        assert word in output, output[-1500:]
    assert SECRET not in output


async def test_a_second_start_finds_everything(tmp_path: Path, camera: Camera) -> None:
    """Embedded parts: data outlives the service, processes do not."""
    service = embedded_service(tmp_path)
    service.forked = False
    await asyncio.to_thread(service.start)
    assert service.process is not None
    try:
        async with httpx.AsyncClient(base_url=service.url, timeout=30) as client:

            async def healthy() -> bool:  # on a busy machine, a part may take a second to answer: it is degraded then
                health = (await client.get("/health")).json()
                parts = {"database": "healthy", "storage": "healthy"}
                return bool(health["status"] == "healthy" and health["dependencies"] == parts)

            await until(healthy, "everything is healthy", 60, 0.5)
            name = unique()
            sent = jpeg()
            uploaded = (await upload(client, name, sent)).json()
            request_id = await capture(client, name, camera.url)
            assert (await final(client, request_id))["status"] == "completed"
            frames = await all_frames(client, request_id) + uploaded["frames"]
        children = family(service)
        assert any("postgres" in child.name() for child in children)
        assert any("weed" in child.name() for child in children)
        service.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(service.process.wait, 30) == 0
        assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
        assert family(service) == []
        service.forked = True
        await asyncio.to_thread(service.start)
        async with httpx.AsyncClient(base_url=service.url, timeout=30) as client:
            for item in frames:
                again = (await client.get(f"/api/v1/frames/{item['frame_id']}")).json()
                kept = ("frame_id", "sha256", "storage_path", "timestamp", "sequence", "stored_at")
                assert {key: again[key] for key in kept} == {key: item[key] for key in kept}
                await assert_objects(client, [again])
            found = await client.get(f"/api/v1/frames/{uploaded['frames'][0]['frame_id']}/content?proxy=true")
            assert found.content == sent
    finally:
        assert await asyncio.to_thread(service.stop) == 0


async def test_one_service_a_data_dir(backends: Backends, tmp_path: Path) -> None:
    service = service_on(await own_database(backends, tables=False), tmp_path)
    service.forked = False
    await asyncio.to_thread(service.start)
    assert service.process is not None
    try:
        receiving = tmp_path / "data" / "tmp" / "upload-being-received"
        receiving.mkdir(parents=True)
        (receiving / "0").write_bytes(b"half a file")
        code, output = await asyncio.to_thread(refused, service.environment, tmp_path)
        assert code == 1
        assert_clear(output, "DATA_DIR", str(service.process.pid))
        assert (receiving / "0").read_bytes() == b"half a file"
        assert httpx.get(f"{service.url}/health").json()["status"] == "healthy"
        began = time.monotonic()
        service.process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(service.process.wait, 20) == 0
        assert time.monotonic() - began < 5
        assert family(service) == []
    finally:
        await asyncio.to_thread(service.stop)


def postgres_that_refuses() -> tuple[socket.socket, int]:
    """Speaks just enough of the protocol to ask for a password and refuse it (the embedded server trusts its socket)."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()

    def message(kind: bytes, body: bytes) -> bytes:
        return kind + (len(body) + 4).to_bytes(4, "big") + body

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                data = connection.recv(4096)
                if data[4:8] == b"\x04\xd2\x16\x2f":  # SSLRequest
                    connection.sendall(b"N")
                    data = connection.recv(4096)
                connection.sendall(message(b"R", (3).to_bytes(4, "big")))  # cleartext password
                connection.recv(4096)
                text = b'SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed for user "u"\0\0'
                connection.sendall(message(b"E", text))

    threading.Thread(target=serve, daemon=True).start()
    return listener, int(listener.getsockname()[1])


async def test_a_wrong_database_password_is_said_without_it(backends: Backends, tmp_path: Path) -> None:
    listener, port = postgres_that_refuses()
    with listener:
        environment = backends.environment(
            tmp_path / "data", DB__HOST="127.0.0.1", DB__PORT=str(port), DB__USER="u", DB__PASSWORD=SECRET, DB__SSL="disable"
        )
        code, output = await asyncio.to_thread(refused, environment, tmp_path)
    assert code == 1
    assert_clear(output, "DB__PASSWORD", "password authentication failed")


@pytest.mark.parametrize("part", ["DB__HOST", "STORAGE__ENDPOINT"])
async def test_a_part_that_cannot_be_reached_is_named(
    backends: Backends, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """It is waited for first, for a compose file starts everything at once. `main` prints a StartError as above."""
    monkeypatch.setattr(checks, "START_TIMEOUT", 1.0)
    secret = SecretStr(SECRET)
    if part == "DB__HOST":
        db = backends.db.model_copy(update={"HOST": "127.0.0.1", "PORT": free_port(), "PASSWORD": secret})
        nowhere = replace(backends, db=db)
    else:
        endpoint = f"127.0.0.1:{free_port()}"
        nowhere = replace(backends, storage=backends.storage.model_copy(update={"ENDPOINT": endpoint, "SECRET_KEY": secret}))
    began = time.monotonic()
    with pytest.raises(runtime.StartError, match=part) as caught:
        async with runtime.open_services(nowhere.settings(tmp_path / "data")):
            pass
    assert 1 <= time.monotonic() - began < 10
    assert SECRET not in str(caught.value)
    with DataDirLock(tmp_path / "data"):  # let go of
        pass


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"RTSP__LEASE_TTL": "0.1", "DB__PORT": SECRET}, ["RTSP__LEASE_TTL", "DB__PORT"]),
        ({"API__CORS_ORIGINS": "not json"}, ["API"]),
        ({"ENVIRONMENT": "production"}, ["DB__HOST", "STORAGE__ENDPOINT"]),
    ],
    ids=["values", "no JSON", "production"],
)
def test_a_bad_setting_is_named(tmp_path: Path, bad: dict[str, str], said: list[str]) -> None:
    code, output = refused({**clean_environment(), "DATA_DIR": str(tmp_path / "data"), "API__PORT": "0", **bad}, tmp_path)
    assert code == 2
    assert_clear(output, *said)
    assert not (tmp_path / "data").exists()


async def test_a_signal_during_the_start_ends_it_cleanly(tmp_path: Path) -> None:
    service = embedded_service(tmp_path)
    with service.log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "main.py"], cwd=ROOT, env=service.environment, stdout=out, stderr=out)
    service.process = process
    deadline = time.monotonic() + 20
    while not any("initdb" in " ".join(child.cmdline()) or "postgres" in child.name() for child in family(service)):
        assert time.monotonic() < deadline
        assert process.poll() is None, service.text()
        await asyncio.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 30) == 0, service.text()
    assert "Traceback" not in service.text()
    assert family(service) == []


def test_the_helper_finds_processes(tmp_path: Path) -> None:
    """`family` must not say "nobody left" because it cannot see."""
    sleeper = subprocess.Popen(["sleep", "30"], cwd=tmp_path)
    try:
        service = Service({"DATA_DIR": str(tmp_path)}, tmp_path / "log")
        service.process = subprocess.Popen(["true"])
        assert sleeper.pid in [process.pid for process in family(service)]
        service.process.wait()
    finally:
        sleeper.kill()
        sleeper.wait()
