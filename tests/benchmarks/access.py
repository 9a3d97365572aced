"""What access control costs: GET status with a key and without access, requests a second and CPU a request.

`python -m tests.benchmarks.access [--seconds 4]`: two services on embedded parts, asked in turns, about a minute and a half
in all. CPU time is judged: requests a second also tell what else the machine does.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from tests.conftest import running
from tests.kits.service_support import embedded_service, jpeg, upload

BOOTSTRAP = "bootstrap-secret-of-the-benchmark-0123"
CLIENTS = 8
ROUNDS = 7
GOAL = 5.0  # per cent of a GET status that a key's check may cost


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


async def _run(folder: Path, seconds: float) -> None:
    rates: dict[str, list[float]] = {"off": [], "keys": []}
    cpu: dict[str, list[float]] = {"off": [], "keys": []}
    async with AsyncExitStack() as stack:
        sides = [await _side(stack, folder / mode, mode) for mode in rates]
        for side in sides:
            await side.round(1)
        for turn in range(ROUNDS):
            for side in sides if turn % 2 == 0 else reversed(sides):
                rate, spent = await side.round(seconds)
                rates[side.mode].append(rate)
                cpu[side.mode].append(spent)
    for mode in rates:
        print(
            f"{mode}: {statistics.median(rates[mode]):.0f} requests/s, {statistics.median(cpu[mode]):.3f} ms of CPU a "
            f"request (rounds {min(cpu[mode]):.3f} to {max(cpu[mode]):.3f})"
        )
    extra = [keys - off for off, keys in zip(cpu["off"], cpu["keys"], strict=True)]
    share = statistics.median(extra) / statistics.median(cpu["off"]) * 100
    verdict = f"(goal: at most {GOAL:.0f} %): {'met' if share <= GOAL else 'NOT met'}"
    print(f"a key's check: {statistics.median(extra):.3f} ms of CPU, {share:.1f} % of a GET status {verdict}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.access", description=__doc__)
    parser.add_argument("--seconds", type=float, default=4, help=f"of one round; there are {ROUNDS} for each service")
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        asyncio.run(_run(Path(folder), parser.parse_args().seconds))


if __name__ == "__main__":
    main()
