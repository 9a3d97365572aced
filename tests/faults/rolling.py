"""A new version comes in while the old one serves: its schema under the old code, then one process after the other.

The old version is a commit of this repository's history, without which nothing can be tried. Clients upload, capture, list,
and ask workers of either version for pictures, all the time; a connection that is refused is tried again elsewhere.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from tests.conftest import ROOT, unique
from tests.faults.faults import scenario
from tests.faults.storm import Storm
from tests.faults.workload import Answers
from tests.faults.world import Outcome, World

# The last commit before there were steps, series of single cameras, and all that came with them. ROLLING_BASE names another.
BASE = "877e1785d249e1d62e18ace7a78624502bbdda4e"
READ = ("frames?limit=20", "ingest/requests?limit=20", "events?limit=5", "workers")
NAME = "rolling upgrade from an older commit"


class NoHistory(Exception):  # the table says so; nothing is tried
    """The old version's commit is not here: a shallow clone, or no repository."""


def old_version(folder: Path) -> Path:
    """The old version's files, in a new folder below `folder`. Raises NoHistory."""
    base = os.environ.get("ROLLING_BASE", BASE)
    target = folder / "old-version"
    try:
        packed = subprocess.run(["git", "archive", base], cwd=ROOT, check=True, capture_output=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise NoHistory(f"commit {base[:9]} is not in this copy of the repository ({type(error).__name__})") from error
    target.mkdir()
    subprocess.run(["tar", "-x", "-C", str(target)], input=packed, check=True)
    return target


class Upgrade(Storm):
    """One process that answers and two workers of the old version; clients that also list and take snapshots."""

    def __init__(self, world: World, old: Path) -> None:
        settings = {"ROLE": "api"}
        super().__init__(world, NAME, clients=2, pause=0.1, captures=3, settings=settings, workers=2)
        for each in (self.service, *self.workers):
            each.root = old
        self.others = Answers()
        self.pictures = list[str]()  # of snapshots that were acknowledged
        self.schemas = set[str | None]()  # that processes told to know, at any time
        self._tasks = list[asyncio.Task[None]]()
        self._camera = unique()

    async def start(self) -> None:
        await asyncio.gather(*(asyncio.to_thread(each.start) for each in (self.service, *self.workers)))
        async with httpx.AsyncClient(base_url=self.service.url) as client:
            body = {"camera_id": self._camera, "rtsp_url": self.world.camera.url, "keep_open": True}
            (await client.post("/api/v1/cameras", json=body)).raise_for_status()

    async def begin(self) -> None:
        await super().begin()
        self._tasks = [asyncio.create_task(self._reads()), asyncio.create_task(self._snapshots())]

    async def all_new(self) -> None:
        """Each old process is replaced by a new one, which is there before the old one is told to stop."""
        environment = self.service.environment
        command = [sys.executable, "-m", "services.commands", "schema", "upgrade"]
        done = await asyncio.to_thread(subprocess.run, command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr + done.stdout
        await self.recovered()  # the old version goes on
        for old in list(self.workers):
            new = self.world.service(ROLE="worker")
            await asyncio.to_thread(new.start)
            self.workers.append(new)
            await self.strike()
            assert await asyncio.to_thread(old.stop) == 0, old.text()[-2000:]
        former, new = self.service, self.world.service(ROLE="api")
        await asyncio.to_thread(new.start)
        self.service = new  # where clients go from now on
        self.services.append(new)
        assert await asyncio.to_thread(former.stop) == 0, former.text()[-2000:]

    async def quiet(self) -> None:
        """No more lists and snapshots."""
        for task in self._tasks:
            task.cancel()
        for ended in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended

    async def _reads(self) -> None:
        async with self.others.client(20) as client:
            while True:
                for path in (*READ, f"cameras/{self._camera}"):
                    found = await self._asked(client, "GET", path)
                    if path == "workers" and found is not None:
                        self.schemas |= {each.get("schema_revision") for each in found["items"]}
                await asyncio.sleep(0.1)

    async def _snapshots(self) -> None:
        async with self.others.client(20) as client:
            while True:
                key, began = unique(), time.monotonic()
                path = f"cameras/{self._camera}/snapshot"
                while (found := await self._asked(client, "POST", path, {"Idempotency-Key": key})) is None:
                    assert time.monotonic() - began < 30, f"no snapshot for 30 s; {self.others}"
                    await asyncio.sleep(0.2)
                self.pictures.append(str(found["frame_id"]))
                await asyncio.sleep(0.3)

    async def _asked(self, client: httpx.AsyncClient, method: str, path: str, headers: Any = None) -> Any:
        """The answer's body; None where the client is to come again."""
        try:
            answer = await client.request(method, f"{self.service.url}/api/v1/{path}", headers=headers)
        except httpx.TransportError:
            self.others.refused += 1
            return None
        return answer.json() if answer.is_success else None


@scenario(NAME)
async def from_history(world: World, _: int) -> Outcome:
    """Once: the schema is new afterwards. Raises NoHistory."""
    return await rolling_upgrade(world, old_version(world.folder))


async def rolling_upgrade(world: World, old: Path) -> Outcome:
    made = Upgrade(world, old)
    await made.begin()
    try:
        made.outcome.tried += 1
        await made.all_new()
        await made.recovered()
        await made.quiet()
    finally:
        outcome = await made.end(frozenset())
    await _compare(made, outcome)
    return outcome


async def _compare(made: Upgrade, outcome: Outcome) -> None:
    """Adds what snapshots and answers tell."""
    assert made.uploads is not None
    assert made.captures is not None
    connection = await made.world.connect()
    try:
        ids = "SELECT id::text FROM frames WHERE state = 'stored' AND id = ANY($1::text[]::uuid[])"
        stored = {row["id"] for row in await connection.fetch(ids, made.pictures)}
    finally:
        await connection.close()
    missing = set(made.pictures) - stored
    outcome.acknowledged += len(made.pictures)
    outcome.lost += len(missing)
    outcome.doubled += len(made.pictures) - len(set(made.pictures))
    outcome.notes += [f"the snapshot {each} was acknowledged and has no row" for each in missing]
    kinds = {"uploads": made.uploads.answers, "captures": made.captures.answers, "other": made.others}
    for name, answers in kinds.items():
        outcome.notes.append(f"{name}: {dict(sorted(answers.statuses.items()))}, refused connections {answers.refused}")
        outcome.notes += [f"{name}: {each}" for each in answers.unfit]
        outcome.lost += len(answers.unfit)
    outcome.notes.append(f"snapshots: {len(made.pictures)}; schemas that processes knew: {sorted(map(str, made.schemas))}")
