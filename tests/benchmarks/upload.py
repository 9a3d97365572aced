"""POST /ingest/upload beside boto3's put_object of the same bytes to the same store, in turns.

8 clients on kept connections upload pictures of 178 KB, each checked whole, stored, committed and answered 201; so put 8
threads of boto3 pictures like them. No two pictures have the same bytes. The CPU time that each takes is told by process.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import secrets
import statistics
import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import boto3
import numpy as np
import psutil
import uvloop
from botocore.config import Config
from PIL import Image
from pydantic import SecretStr

from config import DbSettings, StorageSettings
from repositories.migrations.run import upgrade
from services.storage_service.presign import endpoint_url
from tests.benchmarks.frame import Bench, Goal
from tests.conftest import Backends, Service, running
from utils.embedded.supervisor import EmbeddedParts

CLIENTS = 8
SECONDS = 4.0  # of a round
PICTURE_BYTES = 178_000
_BOUNDARY = b"trackshift-benchmark"
_counter = itertools.count()


def picture() -> bytes:
    """A JPEG of 1920 x 1080 and about PICTURE_BYTES, with as much detail as that takes."""
    shape = np.linspace(0, 255, 1920 * 1080 * 3).reshape(1080, 1920, 3)
    noise = np.random.default_rng(1).normal(0, 1, shape.shape)
    low, high = 0.0, 60.0
    data = b""
    for _ in range(12):
        grain = (low + high) / 2
        buffer = io.BytesIO()
        Image.fromarray((shape + noise * grain).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
        data = buffer.getvalue()
        low, high = (grain, high) if len(data) < PICTURE_BYTES else (low, grain)
    return data


def distinct(data: bytes) -> tuple[bytes, bytes, bytes]:
    """The same picture with a comment of its own, so that its bytes are no other's; in pieces."""
    return data[:2], b"\xff\xfe\x00\x12" + f"{next(_counter):016d}".encode(), data[2:]


class Processes:
    """CPU seconds by part."""

    def __init__(self, service: int) -> None:
        self._service = psutil.Process(service)

    def seconds(self) -> dict[str, float]:
        found = {"service": _cpu(self._service), "workers": 0.0, "store": 0.0, "postgres": 0.0}
        for child in self._service.children(recursive=True):
            found["workers"] += _cpu(child)
        for process in psutil.Process().children(recursive=True):
            try:
                name = process.name()
                part = "store" if name in ("weed", "minio") else name
                if part in found:
                    found[part] += _cpu(process)
            except psutil.Error:
                continue
        found["client"] = sum(psutil.Process().cpu_times()[:2])
        return found


def _cpu(process: psutil.Process) -> float:
    try:
        return float(sum(process.cpu_times()[:2]))
    except psutil.Error:
        return 0.0


async def uploads(address: tuple[str, int], data: bytes, seconds: float) -> int:
    until = time.monotonic() + seconds
    return sum(await asyncio.gather(*(_client(n, address, data, until) for n in range(CLIENTS))))


async def _client(number: int, address: tuple[str, int], data: bytes, until: float) -> int:
    reader, writer = await asyncio.open_connection(*address, limit=2**20)
    head = (
        b"--" + _BOUNDARY + b'\r\nContent-Disposition: form-data; name="camera_id"\r\n\r\n' + f"bench-{number}".encode()
        + b"\r\n--" + _BOUNDARY + b'\r\nContent-Disposition: form-data; name="files"; filename="car-44.jpg"\r\n'
        b"Content-Type: image/jpeg\r\n\r\n"
    )  # fmt: skip
    tail = b"\r\n--" + _BOUNDARY + b"--\r\n"
    length = len(head) + len(data) + 20 + len(tail)
    request = (
        f"POST /api/v1/ingest/upload HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\n"
        f"Content-Type: multipart/form-data; boundary={_BOUNDARY.decode()}\r\nContent-Length: {length}\r\n\r\n"
    ).encode()
    done = 0
    try:
        while time.monotonic() < until:
            writer.writelines([request + head, *distinct(data), tail])
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            size = int(answer.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
            body = await reader.readexactly(size)
            if not answer.startswith(b"http/1.1 201"):
                raise RuntimeError(f"{answer[:60]!r} {body[:300]!r}")
            done += 1
    finally:
        writer.close()
    return done


def _puts(storage: StorageSettings, data: bytes, seconds: float) -> int:
    client = boto3.client(
        "s3", endpoint_url=endpoint_url(storage.ENDPOINT, False), region_name=storage.REGION,
        aws_access_key_id=storage.ACCESS_KEY.get_secret_value(),
        aws_secret_access_key=storage.SECRET_KEY.get_secret_value(), config=Config(max_pool_connections=CLIENTS),
    )  # fmt: skip
    done, until = [0] * CLIENTS, time.monotonic() + seconds

    def put(number: int) -> None:
        while time.monotonic() < until:
            body, key = b"".join(distinct(data)), f"bench/{number}/{secrets.token_hex(8)}.jpg"
            client.put_object(Bucket=storage.BUCKET_NAME, Key=key, Body=body, ContentType="image/jpeg")
            done[number] += 1

    threads = [threading.Thread(target=put, args=(n,)) for n in range(CLIENTS)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    client.close()
    return sum(done)


def _timed(run: Callable[[], int], processes: Processes) -> tuple[float, dict[str, float]]:
    """Done a second, and CPU milliseconds each by process."""
    before, began = processes.seconds(), time.monotonic()
    done = run()
    took, after = time.monotonic() - began, processes.seconds()
    return done / took, {name: (after[name] - before[name]) / done * 1000 for name in after}


async def _measure(bench: Bench) -> None:
    parts = EmbeddedParts(
        bench.folder / "parts", postgres=True, object_store=True, database="trackshift", bucket="bench",
        on_event=lambda *_: None,
    )  # fmt: skip
    parts.start()
    try:
        assert parts.postgres is not None
        assert parts.object_store is not None
        postgres, store = parts.postgres, parts.object_store
        db = DbSettings(HOST=str(postgres.host), PORT=postgres.port, USER=postgres.user, NAME=postgres.database)
        storage = StorageSettings(
            ENDPOINT=store.endpoint, ACCESS_KEY=SecretStr(store.access_key), SECRET_KEY=SecretStr(store.secret_key),
            BUCKET_NAME="bench",
        )  # fmt: skip
        await upgrade(db)
        environment = Backends(db, storage, outside=False).environment(bench.folder / "data")
        service = Service(environment, bench.folder / "service.log")
        service.forked = False
        async with running(service):
            await asyncio.to_thread(_turns, bench, service, storage)
    finally:
        parts.stop()


def _turns(bench: Bench, service: Service, storage: StorageSettings) -> None:
    address = urlsplit(service.url)
    assert service.process is not None
    assert address.hostname is not None
    assert address.port is not None
    here, data, processes = (address.hostname, address.port), picture(), Processes(service.process.pid)
    used: dict[str, list[dict[str, float]]] = {"ours": [], "boto3": []}

    def side(name: str, run: Callable[[float], int]) -> Callable[[], float]:
        run(1.0)  # does not count

        def measure() -> float:
            rate, cpu = _timed(lambda: run(SECONDS), processes)
            used[name].append(cpu)
            return rate

        return measure

    ours = side("ours", lambda seconds: uvloop.run(uploads(here, data, seconds)))
    boto3s = side("boto3", lambda seconds: _puts(storage, data, seconds))
    mine, other = bench.turns(ours, boto3s)
    cpu = {
        f"{name}_{part}_ms": statistics.median(turn[part] for turn in rounds)
        for name, rounds in used.items() for part in rounds[0]
    }  # fmt: skip
    bench.compare(f"uploads of {len(data)} bytes, {CLIENTS} clients / boto3", "/s", mine, other, Goal(">=", 0.4), **cpu)


def upload(bench: Bench) -> None:
    asyncio.run(_measure(bench))
