"""GET status and GET /frames beside bare FastAPI routes with the same SELECTs, in turns, on the same PostgreSQL.

16 clients ask without a pause, so that the server is what limits the rate; both sides are uvicorn with uvloop and httptools,
with as many connections to PostgreSQL as there are clients. The CPU time a request is printed beside the rates.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import uvloop
from pydantic import SecretStr

from config import DbSettings, StorageSettings
from repositories.migrations.run import upgrade
from tests.benchmarks.clients import Side, get
from tests.benchmarks.frame import Bench, Goal
from tests.conftest import Backends, Service, running
from tests.kits.service_support import jpeg, upload
from utils.embedded.supervisor import EmbeddedParts

CLIENTS = 16
SECONDS = 4.0  # of a round
FRAMES = 200  # stored before the list is asked for


@dataclass(frozen=True)
class Both:
    """The service and the bare routes on one PostgreSQL."""

    client: httpx.AsyncClient
    service: Service
    dsn: str
    ours: tuple[tuple[str, int], psutil.Process]
    bare: tuple[tuple[str, int], psutil.Process]


@contextmanager
def _bare(dsn: str) -> Iterator[tuple[tuple[str, int], psutil.Process]]:
    command = [sys.executable, "-m", "tests.benchmarks.bare_route", dsn, str(CLIENTS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        try:
            yield ("127.0.0.1", port), psutil.Process(process.pid)
        finally:
            process.terminate()


@asynccontextmanager
async def both(folder: Path, **settings: str) -> AsyncIterator[Both]:
    """Started by itself, not forked of this process: its memory is its own from the beginning."""
    parts = EmbeddedParts(
        folder / "parts", postgres=True, object_store=True, database="trackshift", bucket="bench", on_event=lambda *_: None
    )
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
        environment = Backends(db, storage, outside=False).environment(folder / "data", **settings)
        service = Service({"DB__POOL_SIZE": str(CLIENTS), **environment}, folder / "service.log")
        service.forked = False
        dsn = f"postgresql://{db.USER}@/{db.NAME}?host={db.HOST}&port={db.PORT}"
        async with running(service) as client:
            assert service.process is not None
            address = urlsplit(service.url)
            assert address.hostname is not None
            assert address.port is not None
            with _bare(dsn) as bare:
                ours = (address.hostname, address.port), psutil.Process(service.process.pid)
                yield Both(client, service, dsn, ours, bare)
    finally:
        parts.stop()


async def turns(rounds: int, *sides: Side, seconds: float = SECONDS, clients: int = CLIENTS) -> None:
    """A second of each side that does not count, then rounds in turns."""
    for side in sides:
        await side.round(1, clients)
        side.forget()
    for number in range(rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            await side.round(seconds, clients)


def beside(bench: Bench, what: str, ours: Side, bare: Side, goal: Goal) -> None:
    """The rates, and the CPU times a request."""
    mine, other = statistics.median(ours.cpu), statistics.median(bare.cpu)
    bench.compare(what, "/s", ours.rates, bare.rates, goal, cpu_ms=mine, bare_cpu_ms=other, by_cpu=other / mine)


async def _compare(bench: Bench, what: str, goal: Goal, own: str, bare: str) -> None:
    """Beside the bare route twice: as most write it, and with a return type, by which pydantic writes the answer."""
    async with both(bench.folder) as sides:
        for _ in range(FRAMES // 10):
            (await upload(sides.client, "bench", *(jpeg((64, 48)) for _ in range(10)))).raise_for_status()
        request_id = (await upload(sides.client, "bench", jpeg())).raise_for_status().json()["request_id"]
        mine = Side(*sides.ours, [get(own.format(request_id))])
        untyped = Side(*sides.bare, [get(f"/untyped{bare.format(request_id)}")])
        typed = Side(*sides.bare, [get(bare.format(request_id))])
        await turns(bench.rounds, mine, untyped, typed)
        beside(bench, f"{what} / bare route", mine, untyped, goal)
        beside(bench, f"{what} / bare route with a return type", mine, typed, goal)


def status(bench: Bench) -> None:
    """Of an upload with one frame."""
    what = f"GET status, {CLIENTS} clients"
    uvloop.run(_compare(bench, what, Goal(">=", 0.9), "/api/v1/ingest/status/{}", "/status/{}"))


def frames(bench: Bench) -> None:
    what = f"GET /frames?limit=50, {CLIENTS} clients"
    uvloop.run(_compare(bench, what, Goal(">=", 1.5), "/api/v1/frames?limit=50", "/frames?limit=50"))
