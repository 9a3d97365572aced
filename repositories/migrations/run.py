"""Migrations at start: however many processes start at once, one runs them, the others wait and find them done.

Alembic is imported by the functions that need it: it and the migrations are 0.4 s of CPU, and most starts find the schema
as it should be.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from config import DbSettings, database_url
from repositories.connections import arguments

if TYPE_CHECKING:
    from alembic.config import Config

LOCK_KEY = 0x7261636B  # any constant: who migrates this database


def alembic_config(connection: Connection | None = None) -> Config:
    """Alembic's configuration without an ini file."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("path_separator", "os")
    if connection is not None:
        config.attributes["connection"] = connection
    return config


_CHAIN = re.compile(r'^revision = "(\w+)"\ndown_revision = (?:"(\w+)"|None)$', re.MULTILINE)


def revisions() -> list[str]:
    """The schema's revisions that this version knows, the newest first."""
    # By what each says that it follows: numbers are given out before it is known which is finished first. A test compares
    # this with Alembic's own list.
    after: dict[str | None, str] = {}
    for path in (Path(__file__).parent / "versions").glob("[0-9]*_*.py"):
        found = _CHAIN.search(path.read_text("utf-8"))
        assert found is not None, path.name
        after[found[2]] = found[1]
    chain = [after[None]]
    while (following := after.get(chain[-1])) is not None:
        chain.append(following)
    return chain[::-1]


async def _is_newest(connection: AsyncConnection) -> bool:
    """Whether the schema is this version's. A migration under way is not committed: until then this says no."""
    if await connection.scalar(text("SELECT to_regclass('alembic_version')")) is None:
        return False
    return list(await connection.scalars(text("SELECT version_num FROM alembic_version"))) == revisions()[:1]


async def _run(db: DbSettings, migrate: Callable[[Config], None], *, unless_newest: bool = False) -> None:
    # An engine of its own: waiting for another process's migration is no runaway statement.
    db = db.direct
    engine = create_async_engine(
        database_url(db), poolclass=NullPool, hide_parameters=True,
        connect_args=arguments(db, "trackshift-migrations", {}, startup={}),
    )  # fmt: skip
    try:
        async with engine.begin() as connection:
            if unless_newest and await _is_newest(connection):
                return
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK_KEY})
            await connection.run_sync(lambda sync: migrate(alembic_config(sync)))
    finally:
        await engine.dispose()


async def upgrade(db: DbSettings, revision: str = "head") -> None:
    """Brings the schema to `revision` in one transaction under an advisory lock.

    The lock is the transaction's own: a process killed in mid-migration leaves neither lock nor half a schema.
    Raises SQLAlchemy's errors.
    """

    def migrate(config: Config) -> None:
        from alembic import command

        command.upgrade(config, revision)

    await _run(db, migrate, unless_newest=revision == "head")


async def downgrade(db: DbSettings, revision: str) -> None:
    """Takes the schema back to `revision`, under the same lock."""

    def migrate(config: Config) -> None:
        from alembic import command

        command.downgrade(config, revision)

    await _run(db, migrate)
