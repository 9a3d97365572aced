"""Migrations at start: however many processes start at once, one runs them, the others wait and find them done.

Versions live side by side (docs/upgrade.md): code of before goes on, and starts, on a schema to which later steps have only
added; a step that takes something away waits until no process is alive whose code still uses that.

Alembic is imported by the functions that need it: it and the migrations are 0.4 s of CPU, and most starts find the schema
as it should be.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from config import VERSION, DbSettings, database_url
from repositories.connections import arguments
from repositories.migrations.steps import TABLE, Step, needed, release, revisions, steps

if TYPE_CHECKING:
    from alembic.config import Config

LOCK_KEY = 0x7261636B  # any constant: who migrates this database
# Shorter than PostgreSQL's deadlock_timeout (1 s): of a migration and a service that wait for each other the migration gives
# way, and what queues behind it waits no longer than this. A migration is tried again; a service's statement is an answer.
LOCK_TIMEOUT = 0.8  # seconds
LOCK_PATIENCE = 60.0  # seconds in which a migration is tried again
LOCK_PAUSE = 0.5  # seconds between two tries: what waited behind it gets through
_ALIVE = 8  # seconds, as services.execution.membership says


class SchemaRefused(Exception):
    """This version's code cannot use this schema; the message says which version can."""


class SchemaWaits(Exception):
    """The schema is older than this version's code needs, and may not be changed yet; the message says what it waits for."""


@dataclass(frozen=True, slots=True)
class Other:
    """A process that is alive."""

    host: str
    version: str


@dataclass(frozen=True, slots=True)
class Schema:
    """What is there."""

    revision: str | None  # None: nothing
    unknown: tuple[Step, ...]  # steps made since this version's last one
    missing: tuple[Step, ...]  # steps of this version that were not made
    others: tuple[Other, ...]  # processes that are alive

    @property
    def blocking(self) -> tuple[Step, list[Other]] | None:
        """The first missing step that takes something away from processes which are alive, and these."""
        for step in self.missing:
            old = [each for each in self.others if step.safe_from and release(each.version) < release(step.safe_from)]
            if old:
                return step, old
        return None

    def check_unknown(self) -> None:
        """Raises SchemaRefused when steps that this version does not know took away what its code uses."""
        gone = next((each for each in self.unknown if each.safe_from and release(VERSION) < release(each.safe_from)), None)
        if gone is not None:
            raise SchemaRefused(
                f"the schema is at revision {self.revision}, and its step {gone.revision} took away what version {VERSION} "
                f"uses: start version {gone.safe_from} or a newer one (docs/upgrade.md)"
            )


def alembic_config(connection: Connection | None = None) -> Config:
    """Alembic's configuration without an ini file."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("path_separator", "os")
    if connection is not None:
        config.attributes["connection"] = connection
    return config


async def _there(connection: AsyncConnection, *names: str) -> bool:
    query = text("SELECT to_regclass(name) IS NOT NULL FROM unnest(CAST(:names AS text[])) AS name")
    return all(await connection.scalars(query, {"names": list(names)}))


async def _read_schema(connection: AsyncConnection) -> Schema:
    """A migration under way is not committed: until then its steps are missing. Raises SchemaRefused."""
    known = steps()
    if not await _there(connection, "alembic_version"):
        return Schema(None, (), known, ())
    revision = await connection.scalar(text("SELECT version_num FROM alembic_version"))
    place = next((number for number, step in enumerate(known) if step.revision == revision), None)
    if revision is None or place == len(known) - 1:
        return Schema(revision, (), () if revision else known, ())
    if place is not None:
        others: list[Any] = []
        if await _there(connection, "workers"):
            alive = "SELECT host, version FROM workers WHERE seen_at > now() - make_interval(secs => :ttl) ORDER BY host"
            others = list(await connection.execute(text(alive), {"ttl": _ALIVE}))
        return Schema(revision, (), known[place + 1 :], tuple(Other(*row) for row in others))
    made = [Step(*row) for row in await connection.execute(
        text(f"SELECT revision, phase, safe_from FROM {TABLE} ORDER BY number")
    )] if await _there(connection, TABLE) else []  # fmt: skip
    place = next((number for number, step in enumerate(made) if step.revision == known[-1].revision), None)
    if place is None:
        raise SchemaRefused(
            f"the schema is at revision {revision}, which version {VERSION} (revision {known[-1].revision}) neither knows nor "
            "finds among those it came from: is DB__NAME another program's, or this version not of this line?"
        )
    return Schema(revision, tuple(made[place + 1 :]), (), ())


def _target(found: Schema) -> str | None:
    """To which revision the schema may be brought now; None: it stays. Raises SchemaRefused, SchemaWaits."""
    found.check_unknown()
    if not found.missing:
        return None
    if found.blocking is None:
        return found.missing[-1].revision
    step, old = found.blocking
    allowed = found.missing[: found.missing.index(step)]
    if any(each.phase == "expand" for each in found.missing[len(allowed) :]):
        names = ", ".join(sorted({f"{each.host} ({each.version})" for each in old}))
        raise SchemaWaits(
            f"step {step.revision} takes away what releases before {step.safe_from} use, and such processes are alive: "
            f"{names}. Stop or replace them first (docs/upgrade.md)"
        )
    return allowed[-1].revision if allowed else None


async def read_schema(db: DbSettings) -> Schema:
    """What is there. Raises SchemaRefused when this version's code cannot use it, and SQLAlchemy's errors."""
    found: list[Schema] = []

    async def keep(connection: AsyncConnection) -> None:
        found.append(await _read_schema(connection))

    await _connected(db, keep)
    found[0].check_unknown()
    return found[0]


async def _connected(db: DbSettings, work: Callable[[AsyncConnection], Any]) -> None:
    # An engine of its own: waiting for another process's migration is no runaway statement.
    db = db.direct
    engine = create_async_engine(
        database_url(db), poolclass=NullPool, hide_parameters=True,
        connect_args=arguments(db, "trackshift-migrations", {}, startup={}),
    )  # fmt: skip
    try:
        async with engine.begin() as connection:
            await work(connection)
    finally:
        await engine.dispose()


async def _locked(connection: AsyncConnection, migrate: Callable[[Config], None]) -> None:
    await connection.execute(text(f"SET LOCAL lock_timeout = {int(LOCK_TIMEOUT * 1000)}"))
    await connection.run_sync(lambda sync: migrate(alembic_config(sync)))


async def _lock(connection: AsyncConnection) -> None:
    await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK_KEY})


def _is_lock_timeout(error: BaseException) -> bool:
    return str(getattr(getattr(error, "orig", None), "sqlstate", "")) in ("55P03", "40P01")


async def _patiently(db: DbSettings, work: Callable[[AsyncConnection], Any]) -> None:
    """Runs `work` in a transaction, again while a table that it wants is in use."""
    from sqlalchemy.exc import DBAPIError

    deadline = time.monotonic() + LOCK_PATIENCE
    while True:
        try:
            return await _connected(db, work)
        except DBAPIError as error:
            if not _is_lock_timeout(error) or time.monotonic() > deadline:
                raise
        await asyncio.sleep(LOCK_PAUSE)


async def upgrade(db: DbSettings, revision: str = "head") -> None:
    """Brings the schema to `revision` in one transaction under an advisory lock.

    `head`: as far as processes that are alive allow, and not at all where later versions have only added to it.
    The lock is the transaction's own: a process killed in mid-migration leaves neither lock nor half a schema.
    Raises SchemaRefused, SchemaWaits, SQLAlchemy's errors.
    """

    async def work(connection: AsyncConnection) -> None:
        target: str | None = revision
        if revision == "head" and (target := _target(await _read_schema(connection))) is None:
            return
        await _lock(connection)
        if revision == "head" and (target := _target(await _read_schema(connection))) is None:
            return

        def migrate(config: Config) -> None:
            from alembic import command

            command.upgrade(config, str(target))

        await _locked(connection, migrate)

    await _patiently(db, work)


async def wait(db: DbSettings) -> None:
    """For a process that may not migrate: raises SchemaWaits until the schema has what this version's code needs."""
    found = await read_schema(db)
    missing = [step.revision for step in found.missing]
    if needed() in missing:
        raise SchemaWaits(
            f"it is at revision {found.revision or 'none'}, and version {VERSION} needs {needed()}. DB__MIGRATE is wait: run "
            "`python -m services.commands schema upgrade`"
        )


async def downgrade(db: DbSettings, revision: str) -> None:
    """Takes the schema back to `revision`, under the same lock."""

    def migrate(config: Config) -> None:
        from alembic import command

        command.downgrade(config, revision)

    async def work(connection: AsyncConnection) -> None:
        await _lock(connection)
        await _locked(connection, migrate)

    await _patiently(db, work)


__all__ = ["Schema", "SchemaRefused", "SchemaWaits", "downgrade", "read_schema", "revisions", "upgrade", "wait"]
