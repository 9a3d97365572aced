"""What access control costs: GET status with a key and without access, requests a second and CPU a request.

Two services on embedded parts, asked in turns, about a minute and a half in all. CPU time is judged: requests a second also
tell what else the machine does.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from tests.benchmarks.frame import Bench, Goal
from tests.conftest import running
from tests.kits.service_support import embedded_service, jpeg, upload

BOOTSTRAP = "bootstrap-secret-of-the-benchmark-0123"
CLIENTS = 8
ROUNDS, SECONDS = 7, 4.0
GOAL = Goal("<=", 1.05)  # a key's check may cost 5 % of a GET status


@dataclass
class Side:
    """One service, and how its requests are sent."""

    mode: str
    client: httpx.AsyncClient
    process: psutil.Process
    path: str
    headers: dict[str, str]

    async def round(self, seconds: float) -> tuple[float, float]:
        """(requests a second, CPU ms of the service a request)."""
        before, until = sum(self.process.cpu_times()[:2]), time.monotonic() + seconds
        done = sum(await asyncio.gather(*(self._ask(until) for _ in range(CLIENTS))))
        return done / seconds, (sum(self.process.cpu_times()[:2]) - before) / done * 1000

    async def _ask(self, until: float) -> int:
        done = 0
        while time.monotonic() < until:
            (await self.client.get(self.path, headers=self.headers)).raise_for_status()
            done += 1
        return done


async def _side(stack: AsyncExitStack, folder: Path, mode: str) -> Side:
    settings = {"AUTH__MODE": mode, "AUTH__BOOTSTRAP_KEY": BOOTSTRAP}
    folder.mkdir()
    service = embedded_service(folder, **settings)
    client = await stack.enter_async_context(running(service))
    admin = {"Authorization": f"Bearer {BOOTSTRAP}"}
    client.headers.update(admin)
    headers = dict(admin)
    if mode == "keys":
        scopes = ["ingest:read", "frames:read", "cameras:read"]  # the answer is the same as without access
        made = await client.post("/api/v1/api-keys", json={"name": "bench", "scopes": scopes})
        headers = {"Authorization": f"Bearer {made.raise_for_status().json()['key']}"}
    request_id = (await upload(client, "bench", jpeg())).raise_for_status().json()["request_id"]
    assert service.process is not None
    return Side(mode, client, psutil.Process(service.process.pid), f"/api/v1/ingest/status/{request_id}", headers)


def access(bench: Bench) -> None:
    asyncio.run(_run(bench))


async def _run(bench: Bench) -> None:
    rates: dict[str, list[float]] = {"off": [], "keys": []}
    cpu: dict[str, list[float]] = {"off": [], "keys": []}
    async with AsyncExitStack() as stack:
        sides = [await _side(stack, bench.folder / mode, mode) for mode in rates]
        for side in sides:
            await side.round(1)
        for turn in range(ROUNDS):
            for side in sides if turn % 2 == 0 else reversed(sides):
                rate, spent = await side.round(SECONDS)
                rates[side.mode].append(rate)
                cpu[side.mode].append(spent)
    medians = {f"{mode}_per_second": statistics.median(rates[mode]) for mode in rates}
    bench.compare("GET status, CPU with a key / without access", "ms", cpu["keys"], cpu["off"], GOAL, **medians)
