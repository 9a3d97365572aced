"""Alembic's environment. The connection comes from `run.upgrade` or, on the command line, from the settings."""

from __future__ import annotations

import asyncio

from alembic import context
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from config import database_url, get_settings
from models.entities import Base
from repositories.connections import arguments


def _migrate(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=Base.metadata, compare_type=True, compare_server_default=True)
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
