"""Migrations at start: however many processes start at once, one runs them, the others wait and find them done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from config import DbSettings, database_url
from repositories.connections import arguments

LOCK_KEY = 0x7261636B  # any constant: who migrates this database


def alembic_config(connection: Connection | None = None) -> Config:
    """Alembic's configuration without an ini file."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("path_separator", "os")
    if connection is not None:
        config.attributes["connection"] = connection
    return config


def revisions() -> list[str]:
    """The schema's revisions that this version knows, the newest first."""
    return [script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()]


async def _run(db: DbSettings, migrate: Callable[[Config], None]) -> None:
    # An engine of its own: waiting for another process's migration is no runaway statement.
    db = db.direct
    engine = create_async_engine(
        database_url(db), poolclass=NullPool, hide_parameters=True,
        connect_args=arguments(db, "trackshift-migrations", {}, startup={}),
    )  # fmt: skip
    try:
        async with engine.begin() as connection:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK_KEY})
            await connection.run_sync(lambda sync: migrate(alembic_config(sync)))
    finally:
        await engine.dispose()


async def upgrade(db: DbSettings, revision: str = "head") -> None:
    """Brings the schema to `revision` in one transaction under an advisory lock.

    The lock is the transaction's own: a process killed in mid-migration leaves neither lock nor half a schema.
    Raises SQLAlchemy's errors.
    """
    await _run(db, lambda config: command.upgrade(config, revision))


async def downgrade(db: DbSettings, revision: str) -> None:
    """Takes the schema back to `revision`, under the same lock."""
    await _run(db, lambda config: command.downgrade(config, revision))
