"""GET status and GET /frames beside bare FastAPI routes with the same SELECTs, in turns, on the same PostgreSQL.

`python -m tests.benchmarks.http [status list] [--seconds 4] [--rounds 5]`: 16 clients on kept connections, raw sockets, so
that the client costs little. The ratio of the servers' CPU times a request is judged, medians of the rounds: the bare
route's rate stays below what its CPU time allows (docs/performance.md). The figures also go to build/bench/http.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
from pydantic import SecretStr

from config import DbSettings, StorageSettings
from repositories.migrations.run import upgrade
from tests.benchmarks.harness import machine
from tests.conftest import Backends, Service, running
from tests.kits.service_support import jpeg, upload
from utils.embedded.supervisor import EmbeddedParts

CLIENTS = 16
FRAMES = 200  # stored before the list is asked for
GOALS = {"status": 0.9, "list": 1.5}


@dataclass
class Side:
    """One server, what it is asked for, and what it did in each round."""

    name: str
    address: tuple[str, int]
    process: psutil.Process
    path: str
    rates: list[float] = field(default_factory=list)  # requests a second
    cpu: list[float] = field(default_factory=list)  # milliseconds a request

    async def round(self, seconds: float) -> None:
        before, began = sum(self.process.cpu_times()[:2]), time.monotonic()
        done = sum(await asyncio.gather(*(self._ask(began + seconds) for _ in range(CLIENTS))))
        self.rates.append(done / (time.monotonic() - began))
        self.cpu.append((sum(self.process.cpu_times()[:2]) - before) / done * 1000)

    async def _ask(self, until: float) -> int:
        reader, writer = await asyncio.open_connection(*self.address, limit=2**20)
        host = f"{self.address[0]}:{self.address[1]}"
        request, done = f"GET {self.path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode(), 0
        try:
            while time.monotonic() < until:
                writer.write(request)
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                if not head.startswith(b"http/1.1 200"):
                    raise RuntimeError(f"{self.name}: {head[:60]!r}")
                length = head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0]
                await reader.readexactly(int(length))
                done += 1
        finally:
            writer.close()
        return done


@contextmanager
def _bare(dsn: str) -> Iterator[tuple[tuple[str, int], psutil.Process]]:
    command = [sys.executable, "-m", "tests.benchmarks.bare_route", dsn]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        try:
            yield ("127.0.0.1", port), psutil.Process(process.pid)
        finally:
            process.terminate()


async def _measure(what: str, ours: Side, theirs: Side, seconds: float, rounds: int) -> dict[str, float]:
    for side in (ours, theirs):
        await side.round(1)
        side.rates.clear()
        side.cpu.clear()
    for turn in range(rounds):
        for side in (ours, theirs) if turn % 2 == 0 else (theirs, ours):
            await side.round(seconds)
    rate, reference = statistics.median(ours.rates), statistics.median(theirs.rates)
    cpu = [statistics.median(side.cpu) for side in (ours, theirs)]
    ratio = cpu[1] / cpu[0]
    verdict = "met" if ratio >= GOALS[what] else "NOT met"
    print(
        f"{what}: {rate:.0f}/s ({cpu[0]:.2f} ms of CPU each), the bare route {reference:.0f}/s ({cpu[1]:.2f} ms): "
        f"{ratio:.2f} by CPU (goal: at least {GOALS[what]}): {verdict}",
        flush=True,
    )
    return {"ours": rate, "reference": reference, "ratio": ratio, "goal": GOALS[what], "ms": cpu[0], "reference_ms": cpu[1]}


async def _run(folder: Path, what: list[str], seconds: float, rounds: int) -> None:
    bucket = f"bench-{secrets.token_hex(6)}"
    parts = EmbeddedParts(
        folder / "parts", postgres=True, object_store=True, database="trackshift", bucket=bucket,
        on_event=lambda *_: None,
    )  # fmt: skip
    await asyncio.to_thread(parts.start)
    try:
        assert parts.postgres is not None
        assert parts.object_store is not None
        postgres, store = parts.postgres, parts.object_store
        db = DbSettings(HOST=str(postgres.host), PORT=postgres.port, USER=postgres.user, NAME=postgres.database)
        storage = StorageSettings(
            ENDPOINT=store.endpoint, ACCESS_KEY=SecretStr(store.access_key), SECRET_KEY=SecretStr(store.secret_key),
            BUCKET_NAME=bucket,
        )  # fmt: skip
        await upgrade(db)
        service = Service(Backends(db, storage, outside=False).environment(folder / "data"), folder / "service.log")
        dsn = f"postgresql://{db.USER}@/{db.NAME}?host={db.HOST}&port={db.PORT}"
        async with running(service) as client:
            request_id = await _fill(client)
            assert service.process is not None
            mine = urlsplit(service.url)
            assert mine.hostname is not None
            assert mine.port is not None
            here, process = (mine.hostname, mine.port), psutil.Process(service.process.pid)
            found = {}
            with _bare(dsn) as (there, other):
                paths = {
                    "status": (f"/api/v1/ingest/status/{request_id}", f"/status/{request_id}"),
                    "list": ("/api/v1/frames?limit=50", "/frames?limit=50"),
                }
                for each in what:
                    own, bare = paths[each]
                    ours, theirs = Side("ours", here, process, own), Side("bare", there, other, bare)
                    found[each] = await _measure(each, ours, theirs, seconds, rounds)
        report = Path("build/bench/http.json")
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(json.dumps({"machine": machine(), "rounds": rounds, "seconds": seconds, **found}, indent=1))
    finally:
        await asyncio.to_thread(parts.stop)


async def _fill(client: httpx.AsyncClient) -> str:
    """Stores FRAMES frames; the id of an upload with one of them."""
    for _ in range(FRAMES // 10):
        (await upload(client, "bench", *(jpeg((64, 48)) for _ in range(10)))).raise_for_status()
    return str((await upload(client, "bench", jpeg())).raise_for_status().json()["request_id"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.http", description=__doc__)
    parser.add_argument("what", nargs="*", help="of: status, list; without: both")
    parser.add_argument("--seconds", type=float, default=4, help="of a round")
    parser.add_argument("--rounds", type=int, default=5, help="of each side")
    options = parser.parse_args()
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        asyncio.run(_run(Path(folder), options.what or list(GOALS), options.seconds, options.rounds))


if __name__ == "__main__":
    main()
