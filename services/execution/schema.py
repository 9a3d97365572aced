"""The schema at a start and in an operator's command: migrated, or waited for (docs/upgrade.md)."""

from __future__ import annotations

from config import DbSettings
from repositories.migrations.run import upgrade, wait


async def migrate_or_wait(db: DbSettings) -> None:
    """By DB__MIGRATE. Raises SchemaRefused, SchemaWaits, SQLAlchemy's errors."""
    await (wait(db) if db.MIGRATE == "wait" else upgrade(db))
