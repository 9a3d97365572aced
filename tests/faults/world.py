"""The world that faults are made in: PostgreSQL, an S3 server, a camera, and services, each of which can be hurt.

Everything is real and local. The services reach PostgreSQL and the S3 server through proxies; the tests read rows and
objects beside them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import httpx
import psutil

from demo.camera import Camera
from tests.conftest import SECRETS_KEY, Service, clean_environment
from tests.faults.proxies import PostgresProxy, S3Proxy
from utils.embedded.supervisor import EmbeddedParts

LEASE_TTL = 3.0
FPS = 5.0


@dataclass
class Outcome:
    """A line of the table. Seconds where a time is meant; `longest_gap` between stored frames, or acknowledgements.

    Of each time: `takeovers`, from the fault until every capture that changed its owner had the new one; `pictures`, until
    every capture had a picture again, by the pictures' own times; `ends`, until the last of the captures that were posted
    had ended.
    """

    fault: str
    tried: int = 0
    failed: int = 0  # of those that did not end as they should
    acknowledged: int = 0
    lost: int = 0
    doubled: int = 0
    longest_gap: float = 0.0
    recover: float = 0.0
    takeovers: list[float] = field(default_factory=list)
    pictures: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return self.tried > 0 and self.failed == 0 and self.lost == 0 and self.doubled == 0

    def add(self, other: Outcome) -> None:
        self.tried += other.tried
        self.failed += other.failed
        self.acknowledged += other.acknowledged
        self.lost += other.lost
        self.doubled += other.doubled
        self.longest_gap = max(self.longest_gap, other.longest_gap)
        self.recover = max(self.recover, other.recover)
        self.takeovers += other.takeovers
        self.pictures += other.pictures
        self.ends += other.ends
        self.notes += other.notes


class World:
    """`with world(folder) as made`: parts, proxies and a camera; services are started by the scenarios."""

    def __init__(self, folder: Path, parts: EmbeddedParts, camera: Camera, sql: PostgresProxy, store: S3Proxy) -> None:
        self.folder = folder
        self.parts = parts
        self.camera = camera
        self.sql = sql
        self.store = store
        self._services: list[Service] = []
        self._count = 0

    def service(self, **settings: str) -> Service:
        """A service of its own DATA_DIR, not yet started; those of one world share database and bucket."""
        assert self.parts.postgres is not None
        assert self.parts.object_store is not None
        self._count += 1
        folder = self.folder / f"service-{self._count}"
        folder.mkdir()
        store = self.parts.object_store
        environment = {
            **clean_environment(),
            "ENVIRONMENT": "test", "DATA_DIR": str(folder / "data"), "API__PORT": "0", "API__SHUTDOWN_TIMEOUT": "10",
            "DB__HOST": "127.0.0.1", "DB__PORT": str(self.sql.port), "DB__NAME": self.parts.postgres.database,
            "DB__USER": self.parts.postgres.user, "DB__SSL": "disable",
            "STORAGE__ENDPOINT": f"127.0.0.1:{self.store.port}", "STORAGE__ACCESS_KEY": store.access_key,
            "STORAGE__PUBLIC_ENDPOINT": store.endpoint,
            "STORAGE__SECRET_KEY": store.secret_key, "STORAGE__BUCKET_NAME": store.bucket,
            "STORAGE__READ_TIMEOUT": "2", "SECRETS__KEYS": json.dumps([SECRETS_KEY]),
            "RTSP__LEASE_TTL": str(LEASE_TTL), "RTSP__READ_TIMEOUT": "2", "RTSP__RECONNECT_DELAY": "0.2",
            "RTSP__RECONNECT_MAX_DELAY": "1",
            # What is tried is the fault: a machine that is full of tests decodes later than that, and drops nothing for it.
            "RTSP__MAX_LAG": "60", **settings,
        }  # fmt: skip
        made = Service(environment, folder / "service.log")
        self._services.append(made)
        return made

    def heal(self) -> None:
        """Nothing is broken any more."""
        self.store.fault = None
        self.sql.cut, self.sql.pattern, self.sql.share, self.sql.sure, self.sql.stalled = None, b"COMMIT", 1.0, 0, False

    def close(self) -> None:
        self.heal()
        for service in self._services:
            with contextlib.suppress(Exception):
                if service.process is not None and service.process.poll() is None:
                    service.process.send_signal(signal.SIGCONT)
                    service.kill()

    # -- parts -------------------------------------------------------------------------------------------------

    def part(self, name: str) -> psutil.Process:
        """The main process of "postgres" or "object_store"."""
        part = getattr(self.parts, name)
        deadline = time.monotonic() + 60
        while not self.parts.alive(name):
            assert time.monotonic() < deadline, f"{name} did not come back"
            time.sleep(0.05)
        return psutil.Process(part.child.pid)

    def kill_part(self, name: str) -> None:
        """SIGKILL to the part and all its processes; the supervisor brings it back, as an operator's would."""
        process = self.part(name)
        for each in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()

    def restart_part(self, name: str) -> None:
        """A restart in good order: SIGINT is PostgreSQL's fast shutdown, and weed's."""
        self.part(name).send_signal(signal.SIGINT)

    @contextmanager
    def stopped_part(self, name: str) -> Iterator[None]:
        """SIGSTOP until the block ends."""
        process = self.part(name)
        family = [process, *process.children(recursive=True)]
        for each in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.suspend()
        try:
            yield
        finally:
            for each in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.resume()

    # -- the truth beside the service --------------------------------------------------------------------------

    async def connect(self) -> asyncpg.Connection:
        """To PostgreSQL, past the proxy."""
        assert self.parts.postgres is not None
        server = self.parts.postgres
        return await asyncpg.connect(host=server.host, port=server.port, user=server.user, database=server.database)


@contextmanager
def world(folder: Path) -> Iterator[World]:
    parts = EmbeddedParts(
        folder / "parts", postgres=True, object_store=True, database="trackshift", bucket="faults", on_event=lambda *_: None
    )
    parts.start()
    assert parts.postgres is not None
    assert parts.object_store is not None
    store = urlsplit(parts.object_store.endpoint)
    assert store.hostname is not None
    assert store.port is not None
    socket = os.path.join(parts.postgres.host, f".s.PGSQL.{parts.postgres.port}")
    try:
        with (
            Camera(size=(320, 180), fps=15, bitrate=300_000) as camera,
            PostgresProxy(socket) as sql,
            S3Proxy((store.hostname, store.port)) as s3,
        ):
            made = World(folder, parts, camera, sql, s3)
            try:
                yield made
            finally:
                made.close()
    finally:
        parts.stop()


async def becomes(check: Callable[[], bool], seconds: float) -> bool:
    """Whether it is so within `seconds`; waits no longer than until it is."""
    ended = time.monotonic() + seconds
    while not check():
        if time.monotonic() > ended:
            return False
        await asyncio.sleep(0.02)
    return True


async def in_time(check: Callable[[], bool], what: str, seconds: float = 30.0) -> float:
    """Waits until it is so; seconds that it took."""
    began = time.monotonic()
    while not check():
        assert time.monotonic() - began < seconds, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.02)
    return time.monotonic() - began


@contextlib.asynccontextmanager
async def client_of(service: Service, timeout: float = 30.0) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=service.url, timeout=timeout) as client:
        yield client
