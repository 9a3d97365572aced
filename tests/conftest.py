"""Real parts for the tests: one PostgreSQL and one S3 server a session.

Embedded or, by TEST_DB__* and TEST_STORAGE__*, outside.

Tests share both and keep apart by camera ids and request ids of their own (`unique`).
"""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import httpx
import pytest
import pytest_asyncio
from pydantic import SecretStr

from config import DbSettings, Settings, StorageSettings
from repositories.database import Database
from repositories.migrations.run import upgrade
from services.housekeeping.bucket_marker import BucketMarker, Ownership
from services.storage_service.service import StorageService
from tests.kits.forked import Forked
from tests.kits.forked import can as can_fork
from utils.embedded.supervisor import EmbeddedParts
from utils.secret_box import new_key

# While tests are imported and collected, the garbage collector takes a third of the time and finds next to nothing.
gc.disable()
ROOT = Path(__file__).resolve().parents[1]
# httpx reads the system's certificates for each client, 40 ms of CPU: tests make thousands of clients, nearly all for http.
httpx._transports.default.create_ssl_context = functools.cache(httpx.create_ssl_context)  # type: ignore[attr-defined]
# One for all services of a session: they share a database, and take over each other's captures.
SECRETS_KEY = new_key()


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    gc.enable()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)  # collected more rarely: a tenth of the unit tests' CPU


@dataclass(frozen=True)
class Backends:
    """Where the session's PostgreSQL and S3 server are. `outside`: not ours to kill."""

    db: DbSettings
    storage: StorageSettings
    outside: bool

    def settings(self, data_dir: Path, **groups: object) -> Settings:
        """Settings on these parts; `groups` are whole groups as dicts, e.g. RTSP={"LINGER": 0}."""
        shared = {"SECRETS": {"KEYS": [SECRETS_KEY]}, **groups}
        return Settings(_env_file=None, DATA_DIR=data_dir, DB=self.db, STORAGE=self.storage, ENVIRONMENT="test", **shared)  # type: ignore[arg-type]

    def environment(self, data_dir: Path, **more: str) -> dict[str, str]:
        """Environment variables with which `main.py` runs on these parts."""
        return {
            **clean_environment(),
            "ENVIRONMENT": "test", "DATA_DIR": str(data_dir), "API__PORT": "0",
            "DB__HOST": self.db.HOST, "DB__PORT": str(self.db.PORT), "DB__NAME": self.db.NAME, "DB__USER": self.db.USER,
            "DB__PASSWORD": self.db.PASSWORD.get_secret_value(),
            "STORAGE__ENDPOINT": self.storage.ENDPOINT, "STORAGE__BUCKET_NAME": self.storage.BUCKET_NAME,
            "STORAGE__ACCESS_KEY": self.storage.ACCESS_KEY.get_secret_value(),
            "STORAGE__SECRET_KEY": self.storage.SECRET_KEY.get_secret_value(),
            "SECRETS__KEYS": json.dumps([SECRETS_KEY]),
            **more,
        }  # fmt: skip


def clean_environment() -> dict[str, str]:
    """This process's environment without anything that the service would read as a setting."""
    groups = (
        "API__", "DB__", "STORAGE__", "REDIS__", "RTSP__", "SPOOL__", "UPLOAD__", "EVENTS__", "SWEEPER__", "RETENTION__",
        "LOG__", "AUTH__", "SECRETS__", "WORKERS__", "TEST_",
    )  # fmt: skip
    return {
        name: value for name, value in os.environ.items()
        if not name.startswith(groups) and name not in ("ENVIRONMENT", "DEBUG", "DATA_DIR")
    }  # fmt: skip


def unique(prefix: str = "cam") -> str:
    """A camera id that no other test uses."""
    return f"{prefix}-{secrets.token_hex(5)}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def make_database(db: DbSettings, name: str, template: str = "template1") -> DbSettings:
    """Creates a database on the same server: an empty one, or a copy of `template`, to which nobody may be connected."""
    connection = await asyncpg.connect(
        host=db.HOST, port=db.PORT, user=db.USER, password=db.PASSWORD.get_secret_value() or None, database=db.NAME
    )
    try:
        await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    finally:
        await connection.close()
    return db.model_copy(update={"NAME": name})


def template_of(db: DbSettings) -> str:
    """A database with all tables and no row of a test, made once a session: a copy costs a tenth of all migrations."""
    return f"{db.NAME}_template"


# What the migrations of each database draw by chance.
DRAWN = """
UPDATE event_log SET log_id = gen_random_uuid();
UPDATE access_state SET cursor_key = sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8'));
"""


async def migrated_database(db: DbSettings, name: str) -> DbSettings:
    """Creates a database with all tables and without rows on the session's server."""
    made = await make_database(db, name, template_of(db))
    connection = await asyncpg.connect(
        host=made.HOST, port=made.PORT, user=made.USER, password=made.PASSWORD.get_secret_value() or None, database=made.NAME
    )
    try:
        await connection.execute(DRAWN)
    finally:
        await connection.close()
    return made


async def claim_bucket(db: DbSettings, settings: StorageSettings) -> None:
    """Before a test puts an object into it: a service takes a bucket with frames of nobody for another database's."""
    database, storage = Database(db, "trackshift-tests"), StorageService(settings)
    try:
        await storage.ensure_bucket()
        assert await BucketMarker(database, storage).check() is Ownership.OURS
    finally:
        await storage.close()
        await database.close()


@pytest.fixture(scope="session")
def backends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backends]:
    bucket = f"test-{secrets.token_hex(6)}"
    if os.environ.get("TEST_DB__HOST"):
        env = os.environ
        db = DbSettings(
            HOST=env["TEST_DB__HOST"], PORT=int(env.get("TEST_DB__PORT", "5432")), NAME=env.get("TEST_DB__NAME", "postgres"),
            USER=env.get("TEST_DB__USER", "postgres"), PASSWORD=SecretStr(env.get("TEST_DB__PASSWORD", "")),
        )  # fmt: skip
        db = asyncio.run(make_database(db, f"test_{secrets.token_hex(6)}"))
        storage = StorageSettings(
            ENDPOINT=env["TEST_STORAGE__ENDPOINT"], ACCESS_KEY=SecretStr(env["TEST_STORAGE__ACCESS_KEY"]),
            SECRET_KEY=SecretStr(env["TEST_STORAGE__SECRET_KEY"]), BUCKET_NAME=bucket,
        )  # fmt: skip
        asyncio.run(upgrade(db))
        asyncio.run(make_database(db, template_of(db), db.NAME))
        asyncio.run(claim_bucket(db, storage))
        yield Backends(db, storage, outside=True)
        return
    folder = tmp_path_factory.mktemp("parts")
    parts = EmbeddedParts(
        folder, postgres=True, object_store=True, database="trackshift", bucket=bucket, on_event=lambda *_: None
    )
    parts.start()
    assert parts.postgres is not None
    assert parts.object_store is not None
    db = DbSettings(
        HOST=str(parts.postgres.host), PORT=parts.postgres.port, USER=parts.postgres.user, NAME=parts.postgres.database
    )
    storage = StorageSettings(
        ENDPOINT=parts.object_store.endpoint, ACCESS_KEY=SecretStr(parts.object_store.access_key),
        SECRET_KEY=SecretStr(parts.object_store.secret_key), BUCKET_NAME=bucket,
    )  # fmt: skip
    asyncio.run(upgrade(db))
    asyncio.run(make_database(db, template_of(db), db.NAME))
    asyncio.run(claim_bucket(db, storage))
    yield Backends(db, storage, outside=False)
    parts.stop()


@pytest_asyncio.fixture(scope="session")
async def database(backends: Backends) -> AsyncIterator[Database]:
    made = Database(backends.db, "trackshift-tests")
    yield made
    await made.close()


@pytest_asyncio.fixture(scope="session")
async def storage(backends: Backends) -> AsyncIterator[StorageService]:
    made = StorageService(backends.storage)
    await made.ensure_bucket()
    yield made
    await made.close()


# Programs that need no fresh interpreter: what they change is changed once all is imported.
FORKABLE = ("main.py", "tests/kits/hasty_keys.py")


class Service:
    """`main.py` as a process of its own, spoken to by HTTP: the black box."""

    program = "main.py"
    root = ROOT
    forked = True  # begins as a copy of a process that has imported it all (tests/kits/forked.py)

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self.environment = environment
        self.log = log
        self.process: subprocess.Popen[bytes] | Forked | None = None
        self.url = ""

    def start(self, timeout: float = 80) -> Service:
        """Starts and waits until it listens and is ready."""
        before = self.log.stat().st_size if self.log.exists() else 0
        self.log.touch()
        if self.forked and self.program in FORKABLE and self.root == ROOT and can_fork(self.environment):
            self.process = Forked(self.program, self.environment, self.log)
        else:
            with self.log.open("ab") as out:
                self.process = subprocess.Popen(
                    [sys.executable, self.program], cwd=self.root, env=self.environment, stdout=out, stderr=out
                )
        deadline = time.monotonic() + timeout
        while True:
            text = self.log.read_bytes()[before:].decode()
            line = next((line for line in text.splitlines() if '"listening"' in line), None)
            if line is not None:
                self.url = json.loads(line)["url"]
                try:
                    if httpx.get(f"{self.url}/health/ready", timeout=3).status_code == 200:
                        return self
                except httpx.TransportError:
                    pass
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()  # nobody else would
                raise AssertionError(f"the service did not start:\n{text[-4000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def stop(self, timeout: float = 40) -> int:
        """SIGTERM; returns the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(timeout)

    def text(self) -> str:
        return self.log.read_text()


@asynccontextmanager
async def running(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    """The started service's client; killed at the end if it still runs."""
    await asyncio.to_thread(service.start)
    try:
        async with httpx.AsyncClient(base_url=service.url, timeout=70) as client:
            yield client
    finally:
        if service.process is not None and service.process.poll() is None:
            await asyncio.to_thread(service.stop)
