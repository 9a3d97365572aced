"""What clients do while things break, and what they were told: uploads that are retried, captures that are watched."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any

import httpx

from tests.conftest import unique
from tests.faults.world import FPS
from tests.kits.service_support import FINAL, assert_ledger, jpeg, sha256

RETRYABLE = (408, 409, 429, 500, 502, 503, 504, 507)


@dataclass
class Answers:
    """What the service answered: counted by status. `unfit`: 5xx that no client can be expected to get."""

    statuses: Counter[int] = field(default_factory=Counter)
    refused: int = 0  # connections that were refused, or cut: the client comes again
    unfit: list[str] = field(default_factory=list)

    def client(self, timeout: float) -> httpx.AsyncClient:
        """A client whose answers are counted here."""
        return httpx.AsyncClient(timeout=timeout, event_hooks={"response": [self._note]})

    async def _note(self, response: httpx.Response) -> None:
        self.statuses[response.status_code] += 1
        if response.status_code >= 500 and not (response.status_code == 503 and "Retry-After" in response.headers):
            await response.aread()
            self.unfit.append(f"{response.request.method} {response.request.url.path}: {response.text[:300]}")


@dataclass
class Upload:
    """One upload as its client knows it: `answer` once it was acknowledged (201)."""

    key: str
    camera_id: str
    files: list[bytes]
    answer: dict[str, Any] | None = None
    replayed: bool = False
    tries: int = 0
    acknowledged_at: float = 0.0


@dataclass
class Uploaders:
    """Clients that upload all the time, each retrying with its Idempotency-Key until it is told 201."""

    url: Callable[[], str]  # of a service that should be up
    clients: int = 4
    pause: float = 0.0
    done: list[Upload] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    camera_id: str = field(default_factory=unique)
    answers: Answers = field(default_factory=Answers)
    _stop: bool = False
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self) -> Uploaders:
        self._tasks = [asyncio.create_task(self._run(n)) for n in range(self.clients)]
        return self

    async def stop(self, patience: float = 60.0) -> None:
        """No new uploads; those begun are retried until they are acknowledged, or `patience` is over."""
        self._stop = True
        _, late = await asyncio.wait(self._tasks, timeout=patience)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        if late:
            self.problems.append(f"{len(late)} uploads were never acknowledged")

    @property
    def acknowledged(self) -> list[Upload]:
        return [each for each in self.done if each.answer is not None]

    def since(self, moment: float) -> int:
        """How many were acknowledged after this monotonic moment."""
        return sum(each.acknowledged_at > moment for each in self.acknowledged)

    def recovered_at(self, moment: float) -> float | None:
        """When the first upload after the moment was acknowledged."""
        return min((each.acknowledged_at for each in self.acknowledged if each.acknowledged_at > moment), default=None)

    def longest_gap(self) -> float:
        times = sorted(each.acknowledged_at for each in self.acknowledged)
        return max((b - a for a, b in pairwise(times)), default=0.0)

    async def _run(self, number: int) -> None:
        async with self.answers.client(20) as client:
            while not self._stop:
                files = [jpeg((160, 120)) for _ in range(random.randint(1, 3))]
                upload = Upload(secrets.token_hex(12), self.camera_id, files)
                self.done.append(upload)
                await self.until_told(client, upload)
                await asyncio.sleep(self.pause)

    async def until_told(self, client: httpx.AsyncClient, upload: Upload) -> None:
        """Sends the upload until it is acknowledged, or refused for good (a problem)."""
        parts = [("files", (f"{n}.jpg", data, "image/jpeg")) for n, data in enumerate(upload.files)]
        while True:
            upload.tries += 1
            try:
                answer = await client.post(
                    f"{self.url()}/api/v1/ingest/upload", data={"camera_id": upload.camera_id}, files=parts,
                    headers={"Idempotency-Key": upload.key},
                )  # fmt: skip
            except httpx.TransportError:
                self.answers.refused += 1
                await asyncio.sleep(random.uniform(0.05, 0.3))
                continue
            if answer.status_code == 201:
                upload.answer, upload.acknowledged_at = answer.json(), time.monotonic()
                upload.replayed = "Idempotent-Replayed" in answer.headers
                return
            if answer.status_code not in RETRYABLE:
                self.problems.append(f"upload: {answer.status_code} {answer.text[:300]}")
                return
            await asyncio.sleep(random.uniform(0.1, 0.4))


@dataclass
class Watched:
    """A capture, and all that its client was ever told of it."""

    request_id: str
    seen: dict[str, dict[str, Any]] = field(default_factory=dict)  # frames by id, from status answers
    stored: int = 0
    last: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def told(self, found: dict[str, Any]) -> None:
        """An answer of status; what must hold at every look is checked."""
        try:
            assert_ledger(found)
        except AssertionError as error:
            self.problems.append(f"ledger: {error}")
        progress = found["progress"]
        if progress["stored"] < self.stored:
            self.problems.append(f"stored fell from {self.stored} to {progress['stored']}")
        if self.last and self.last["status"] in FINAL and found["status"] != self.last["status"]:
            self.problems.append(f"a final state changed: {self.last['status']} to {found['status']}")
        if self.last and progress["expected"] < self.last["progress"]["expected"]:
            self.problems.append("expected fell")
        self.stored, self.last = progress["stored"], found
        for frame in found["frames"]:
            self.seen[frame["frame_id"]] = frame


@dataclass
class Captures:
    """Continuous captures, watched through every service that answers."""

    urls: Callable[[], Sequence[str]]
    all: list[Watched] = field(default_factory=list)
    answers: Answers = field(default_factory=Answers)
    _task: asyncio.Task[None] | None = None

    async def begin(self, camera_url: str, count: int, duration: float | None) -> Captures:
        async with self.answers.client(20) as client:
            for _ in range(count):
                body = {
                    "camera_id": unique(), "rtsp_url": camera_url, "capture_mode": "continuous", "fps": FPS,
                    "sampling": "exact", **({"capture_duration": duration} if duration else {}),
                }  # fmt: skip
                answer = await client.post(f"{self.urls()[0]}/api/v1/ingest/rtsp", json=body)
                assert answer.status_code == 202, answer.text
                self.all.append(Watched(answer.json()["request_id"]))
        self._task = asyncio.create_task(self._watch())
        return self

    async def _watch(self) -> None:
        async with self.answers.client(5) as client:
            while True:
                for watched in self.all:
                    for url in self.urls():
                        await self._look(client, url, watched)
                await asyncio.sleep(0.1)

    async def _look(self, client: httpx.AsyncClient, url: str, watched: Watched) -> bool:
        try:
            answer = await client.get(f"{url}/api/v1/ingest/status/{watched.request_id}")
        except httpx.TransportError:
            return False
        if answer.status_code != 200:
            if answer.status_code not in RETRYABLE:
                watched.problems.append(f"status: {answer.status_code} {answer.text[:200]}")
            return False
        watched.told(answer.json())
        return True

    async def cancel(self) -> None:
        """Asks for the end of all, again until it is taken."""
        async with httpx.AsyncClient(timeout=10) as client:
            for watched in self.all:
                for _ in range(100):
                    try:
                        url = f"{self.urls()[0]}/api/v1/ingest/requests/{watched.request_id}/cancel"
                        if (await client.post(url)).status_code in (200, 202):
                            break
                    except (httpx.TransportError, IndexError):
                        pass
                    await asyncio.sleep(0.2)

    async def settle(self, patience: float = 60.0) -> None:
        """Until every capture is final and nothing that was spooled is still to come."""
        deadline = time.monotonic() + patience

        def settled(watched: Watched) -> bool:
            found = watched.last
            return bool(found) and found["status"] in FINAL and not found["progress"]["dropped"].get("spooled")

        while not all(settled(each) for each in self.all) and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for each in self.all:
            if not settled(each):
                each.problems.append(f"not settled: {each.last.get('status')} {each.last.get('progress')}")

    def frames_after(self, moment: float) -> int:
        """How many frames were stored after this wall-clock moment (seconds since the epoch), of those seen."""
        return sum(_epoch(frame["stored_at"]) > moment for each in self.all for frame in each.seen.values())

    def first_stored_after(self, moment: float) -> float | None:
        times = [_epoch(frame["stored_at"]) for each in self.all for frame in each.seen.values()]
        return min((at for at in times if at > moment), default=None)


def _epoch(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def digests(upload: Upload) -> list[str]:
    return [sha256(data) for data in upload.files]
