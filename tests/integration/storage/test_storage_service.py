"""StorageService against a real S3 server (SeaweedFS)."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from PIL import Image

from config import Settings, StorageSettings
from models.schemas import UploadIngestionRequest
from models.values import ReceivedFile
from services.storage_service.service import Served, StorageService
from services.upload_handler.handler import UploadHandler
from utils.disposition import inline
from utils.exceptions import ObjectMissing, RangeNotSatisfiable, StorageUnavailable
from utils.ids import new_id

ACCESS, SECRET = "test-access", "test-secret-" + secrets.token_hex(8)


@dataclass
class Server:
    endpoint: str
    folder: Path
    ports: dict[str, int]
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        listen = [f"-{name}={port}" for name, port in self.ports.items()]
        self.process = subprocess.Popen(
            [
                str(Path(sys.executable).with_name("weed")), "mini", f"-dir={self.folder / 'objects'}", "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1", *listen, "-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false", "-admin.ui=false",
                "-master.telemetry=false", f"-s3.config={self.folder / 's3.json'}",
                f"-s3.localSocket={self.folder / 's3.sock'}", f"-filer.localSocket={self.folder / 'filer.sock'}",
            ],
            cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"http://{self.endpoint}/healthz", timeout=1).status_code < 500:
                    return
            except httpx.HTTPError:
                time.sleep(0.1)
        raise RuntimeError("SeaweedFS did not start")

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("s3")
    (folder / "objects").mkdir()
    identity = {
        "name": "t",
        "credentials": [{"accessKey": ACCESS, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    sockets = []
    for _ in range(10):
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        sockets.append(sock)
    free = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    names = [
        "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc",
        "s3.port", "s3.port.grpc", "admin.port", "admin.port.grpc",
    ]  # fmt: skip
    ports = dict(zip(names, free, strict=True))
    running = Server(f"127.0.0.1:{ports['s3.port']}", folder, ports)
    running.start()
    yield running
    running.kill()


def settings(**changes: Any) -> StorageSettings:
    return StorageSettings(**{"BUCKET_NAME": "frames-test", **changes})


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def storage(server: Server) -> AsyncIterator[StorageService]:
    service = StorageService(settings(), server.endpoint, ACCESS, SECRET)
    await service.ensure_bucket()
    yield service
    await service.close()


def key() -> str:
    return f"frames/test/{secrets.token_hex(8)}.jpg"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def put(storage: StorageService, data: bytes) -> str:
    name = key()
    await storage.put(name, data, "image/jpeg", digest(data))
    return name


async def test_ensure_bucket_may_race(server: Server) -> None:
    services = [StorageService(settings(BUCKET_NAME="raced"), server.endpoint, ACCESS, SECRET) for _ in range(4)]
    await asyncio.gather(*(service.ensure_bucket() for service in services))
    await services[0].ensure_bucket()
    await services[0].check()
    await asyncio.gather(*(service.close() for service in services))


@pytest.mark.parametrize("size", [1, 250_000, 3_000_000])
async def test_bytes_come_back_unchanged(storage: StorageService, size: int, tmp_path: Path) -> None:
    data = os.urandom(size)
    name = await put(storage, data)
    assert await storage.get(name) == data
    head = await storage.head(name)
    assert head is not None
    assert head.size == size
    assert abs(head.last_modified - datetime.now(UTC)) < timedelta(seconds=10)
    file, second = tmp_path / "f", key()
    file.write_bytes(data)
    await storage.put_file(second, file, size, "image/png", digest(data))
    assert await storage.get(second) == data


async def test_bytes_that_are_not_those_of_the_checksum_are_refused(storage: StorageService, tmp_path: Path) -> None:
    name, file = key(), tmp_path / "f"
    file.write_bytes(b"changed on the way")
    with pytest.raises(StorageUnavailable) as caught:
        await storage.put(name, b"changed on the way", "image/jpeg", digest(b"what was meant"))
    assert caught.value.details["error_code"] == "BadDigest"
    with pytest.raises(StorageUnavailable):
        await storage.put_file(name, file, file.stat().st_size, "image/jpeg", digest(b"what was meant"))
    assert await storage.head(name) is None


async def test_missing_objects(storage: StorageService) -> None:
    assert await storage.head(key()) is None
    with pytest.raises(ObjectMissing):
        await storage.get(key())
    with pytest.raises(ObjectMissing):
        _ = [chunk async for chunk in storage.read_range(key(), 0, 10)]
    await storage.delete(key())


async def test_delete(storage: StorageService) -> None:
    name = await put(storage, b"x")
    await storage.delete(name)
    assert await storage.head(name) is None


async def test_delete_many_and_list(storage: StorageService) -> None:
    prefix = f"frames/list-{secrets.token_hex(4)}/"
    names = [f"{prefix}{i:04d}.jpg" for i in range(1012)]
    await asyncio.gather(*(storage.put(name, b"x", "image/jpeg", digest(b"x")) for name in names))
    listed = [item async for item in storage.list_keys(prefix)]
    assert [item.key for item in listed] == names  # two pages
    ages = [item.store_time - item.last_modified for item in listed]
    assert timedelta(0) <= min(ages)
    assert max(ages) < timedelta(minutes=2)
    assert {item.size for item in listed} == {1}
    assert [item.key async for item in storage.list_keys(prefix, start_after=names[1009])] == names[1010:]
    assert await storage.delete_many([*names, f"{prefix}never-there.jpg"]) == []
    assert [item async for item in storage.list_keys(prefix)] == []


async def test_ranges_stream(storage: StorageService) -> None:
    data = os.urandom(1_000_000)
    name = await put(storage, data)
    chunks = [chunk async for chunk in storage.read_range(name, 10, 700_010)]
    assert b"".join(chunks) == data[10:700_010]
    assert len(chunks) > 2
    assert [chunk async for chunk in storage.read_range(name, 5, 5)] == []
    assert [chunk async for chunk in storage.read_range(name, 999_999, 1_000_000)] == [data[-1:]]
    with pytest.raises(ObjectMissing):
        _ = [chunk async for chunk in storage.read_range(name, 999_000, 1_000_001)]
    with pytest.raises((RangeNotSatisfiable, ObjectMissing)):
        _ = [chunk async for chunk in storage.read_range(name, 2_000_000, 2_000_001)]


async def test_leaving_a_range_early_frees_its_connection(server: Server) -> None:
    service = StorageService(settings(THREADS=1), server.endpoint, ACCESS, SECRET)
    name = await put(service, os.urandom(5_000_000))
    for _ in range(5):
        async with aclosing(service.read_range(name, 0, 5_000_000)) as chunks:
            async for _chunk in chunks:
                break
    assert len(await service.get(name)) == 5_000_000
    await service.close()


def shown(name: str, filename: str = "a.jpg") -> Served:
    return Served(name, "image/jpeg", inline(filename, "jpg"))


async def test_a_presigned_url_works_without_credentials(storage: StorageService) -> None:
    data = os.urandom(10_000)
    name = await put(storage, data)
    (one,) = await storage.presign([shown(name, 'été "1".jpg')])
    async with httpx.AsyncClient() as http:
        answer = await http.get(one.url)
        assert answer.status_code == 200
        assert answer.content == data
        assert answer.headers["content-disposition"] == inline('été "1".jpg', "jpg")  # whatever it was stored with
        assert answer.headers["content-type"] == "image/jpeg"
        for changed in (one.url.replace(name, key()), one.url.replace("image%2Fjpeg", "text%2Fhtml")):
            assert changed != one.url  # neither the object nor what its answer says can be another
            assert (await http.get(changed)).status_code == 403
    assert SECRET not in one.url
    assert timedelta(seconds=290) < one.expires_at - datetime.now(UTC) <= timedelta(seconds=300)


async def test_presigned_urls_name_the_public_endpoint(server: Server) -> None:
    public = f"http://localhost:{server.ports['s3.port']}"
    service = StorageService(settings(PUBLIC_ENDPOINT=public), server.endpoint, ACCESS, SECRET)
    data = b"through the front door"
    name = await put(service, data)
    url = (await service.presign([shown(name)]))[0].url
    assert url.startswith(public + "/frames-test/")
    assert httpx.get(url).content == data
    await service.close()


async def test_presigning_200_does_not_hold_up_the_event_loop(storage: StorageService) -> None:
    worst, stop = 0.0, asyncio.Event()

    async def probe() -> None:
        nonlocal worst
        while not stop.is_set():
            started = time.perf_counter()
            await asyncio.sleep(0.001)
            worst = max(worst, time.perf_counter() - started)

    probing = asyncio.create_task(probe())
    objects = [shown(key()) for _ in range(200)]
    for _ in range(10):
        assert len(await storage.presign(objects)) == 200
    stop.set()
    await probing
    assert worst < 0.1  # 2000 by botocore would be 0.8 s; the bound leaves room for a busy machine


async def test_an_upload_is_stored_unchanged_and_downloads_through_its_url(storage: StorageService, tmp_path: Path) -> None:
    out = io.BytesIO()
    Image.effect_noise((640, 480), 80).save(out, "JPEG")
    data, path = out.getvalue(), tmp_path / "part"
    path.write_bytes(data)
    handler = UploadHandler(Settings(), storage)
    file = ReceivedFile(0, "car.jpg", "image/jpeg", path, len(data), digest(data))
    result = await handler.process(new_id(), UploadIngestionRequest(camera_id="pit-1"), [file], datetime.now(UTC))
    await handler.close()
    (record,) = result.records
    assert await storage.get(record.storage_path) == data
    (link,) = await storage.presign([shown(record.storage_path)])
    answer = httpx.get(link.url)
    assert answer.content == data
    assert answer.headers["content-type"] == "image/jpeg"
    assert not [name for name in answer.headers if name.startswith("x-amz-meta")]


async def test_wrong_credentials_are_unavailable_and_not_told(
    server: Server, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for access, secret in (("AKIDUNKNOWN", "sk-wrong-secret"), (ACCESS, "sk-wrong-secret")):
        service = StorageService(settings(), server.endpoint, access, secret)
        calls = {
            "put": service.put("a", b"x", "image/jpeg", digest(b"x")), "get": service.get("a"), "head": service.head("a"),
            "delete": service.delete("a"), "check": service.check(), "ensure_bucket": service.ensure_bucket(),
            "delete_many": service.delete_many(["a"]),
        }  # fmt: skip
        for operation, call in calls.items():
            with pytest.raises(StorageUnavailable) as caught:
                await call
            assert caught.value.details["operation"] == operation
            said = f"{caught.value!r} {caught.value.details}"
            assert not any(word in said for word in (access, secret, server.endpoint))
        await service.close()
    output = capsys.readouterr()
    logged = output.out + output.err + caplog.text
    assert not any(word in logged for word in ("AKIDUNKNOWN", "sk-wrong-secret", ACCESS, server.endpoint))
    assert "storage.failed" in logged


async def test_a_missing_bucket_is_unavailable_not_missing(server: Server) -> None:
    service = StorageService(settings(BUCKET_NAME="never-made"), server.endpoint, ACCESS, SECRET)
    for call in (service.get("a"), service.head("a"), service.check()):
        with pytest.raises(StorageUnavailable):
            await call
    await service.close()


async def test_a_killed_server_is_unavailable_soon_and_usable_again(server: Server) -> None:
    service = StorageService(settings(), server.endpoint, ACCESS, SECRET)
    name = await put(service, b"before")
    await service.check()
    server.kill()
    started = time.monotonic()
    for call in (
        service.put(key(), b"x", "image/jpeg", digest(b"x")),
        service.get(name),
        service.head(name),
        service.check(),
    ):
        with pytest.raises(StorageUnavailable):
            await call
    assert time.monotonic() - started < 8
    server.start()
    # The bucket answers before the volumes do: a started server says 500 to a get for a moment.
    async with asyncio.timeout(10):
        while True:
            try:
                assert await service.get(name) == b"before"
                break
            except StorageUnavailable:
                await asyncio.sleep(0.2)
    await service.close()
