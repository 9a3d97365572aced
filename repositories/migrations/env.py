"""Alembic's environment. The connection comes from `run.upgrade` or, on the command line, from the settings."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

from alembic import context
from alembic.runtime.migration import MigrationContext, MigrationInfo
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine

from config import database_url, get_settings
from models.entities import Base
from repositories.connections import arguments
from repositories.migrations.steps import RECORDED_FROM, TABLE, steps


def _record(ctx: MigrationContext, step: MigrationInfo, heads: Collection[Any], run_args: Mapping[str, Any]) -> None:
    """Writes beside Alembic's own revision which steps were made: code that does not know one can judge it by that."""
    chain = steps()
    known = [each.revision for each in chain]
    if step.up_revision_id not in known or known.index(step.up_revision_id) < known.index(RECORDED_FROM):
        return  # without the table, or before it
    connection = ctx.connection
    assert connection is not None
    place = known.index(step.up_revision_id)
    if step.is_upgrade:
        add = text(f"INSERT INTO {TABLE} (number, revision, phase, safe_from) VALUES (:number, :revision, :phase, :safe_from) "
                   "ON CONFLICT DO NOTHING")  # fmt: skip
        for number, each in enumerate(chain[: place + 1]):
            connection.execute(add, {"number": number, **asdict(each)})
    elif step.up_revision_id != RECORDED_FROM:
        connection.execute(text(f"DELETE FROM {TABLE} WHERE number >= :number"), {"number": place})


def _migrate(connection: Connection) -> None:
    context.configure(
        connection=connection, target_metadata=Base.metadata, compare_type=True, compare_server_default=True,
        on_version_apply=_record,
    )  # fmt: skip
    with context.begin_transaction():
        context.run_migrations()


async def _from_settings() -> None:
    db = get_settings().DB.direct
    engine = create_async_engine(database_url(db), connect_args=arguments(db, "alembic", {}, startup={}))
    async with engine.connect() as connection:
        await connection.run_sync(_migrate)
        await connection.commit()
    await engine.dispose()


given = context.config.attributes.get("connection")
if given is not None:
    _migrate(given)
else:
    asyncio.run(_from_settings())
