"""What access control costs: GET status with a key and without access, requests a second and CPU a request.

`python -m tests.benchmarks.access [--seconds 10]`. Both services run on embedded parts, one after the other, in turns.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import httpx
import psutil

from tests.conftest import running
from tests.kits.service_support import embedded_service, jpeg, upload

BOOTSTRAP = "bootstrap-secret-of-the-benchmark-0123"
CLIENTS = 8
ROUNDS = 3


async def _status(client: httpx.AsyncClient, path: str, headers: dict[str, str], until: float) -> int:
    done = 0
    while time.monotonic() < until:
        (await client.get(path, headers=headers)).raise_for_status()
        done += 1
    return done


async def _measure(folder: Path, seconds: float, mode: str) -> tuple[float, float]:
    """(requests a second, CPU ms of the service a request)."""
    service = embedded_service(folder, AUTH__MODE=mode, AUTH__BOOTSTRAP_KEY=BOOTSTRAP, LOG__LEVEL="WARNING")
    async with running(service) as client:
        headers = {"Authorization": f"Bearer {BOOTSTRAP}"}
        if mode == "keys":
            body = {"name": "bench", "scopes": ["ingest:read"]}
            made = (await client.post("/api/v1/api-keys", json=body, headers=headers)).raise_for_status().json()
        client.headers.update(headers)
        request_id = (await upload(client, "bench", jpeg())).raise_for_status().json()["request_id"]
        if mode == "keys":
            headers = {"Authorization": f"Bearer {made['key']}"}
        path = f"/api/v1/ingest/status/{request_id}"
        await _status(client, path, headers, time.monotonic() + 1)
        assert service.process is not None
        process = psutil.Process(service.process.pid)
        before, until = sum(process.cpu_times()[:2]), time.monotonic() + seconds
        done = sum(await asyncio.gather(*(_status(client, path, headers, until) for _ in range(CLIENTS))))
        return done / seconds, (sum(process.cpu_times()[:2]) - before) / done * 1000


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.access", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10, help="of one round")
    seconds = parser.parse_args().seconds
    found: dict[str, list[tuple[float, float]]] = {"off": [], "keys": []}
    for turn in range(ROUNDS):
        for mode in sorted(found, reverse=bool(turn % 2)):
            with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
                found[mode].append(asyncio.run(_measure(Path(folder), seconds, mode)))
            print(f"{mode}: {found[mode][-1][0]:.0f} requests/s, {found[mode][-1][1]:.3f} ms of CPU a request", flush=True)
    off, keys = (statistics.median(cpu for _, cpu in found[mode]) for mode in ("off", "keys"))
    print(f"a key's check: {keys - off:.3f} ms of CPU, {(keys / off - 1) * 100:.1f} % of a GET status (goal: <= 5 %)")


if __name__ == "__main__":
    main()
