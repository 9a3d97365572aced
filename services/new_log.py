"""Gives the event log a new identity, after a database was restored (docs/integration.md).

python -m services.new_log
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from uuid import UUID

from config import ConfigurationError, Settings, get_settings
from repositories.database import Database, is_unavailable
from repositories.migrations.run import upgrade
from services.embedded_parts import StartError, start_embedded
from utils.exceptions import DatabaseUnavailable


async def new_log(settings: Settings) -> UUID:
    """Starts the embedded parts where there is no DB__HOST; the service must not run then.

    Raises StartError, DatabaseUnavailable.
    """
    async with AsyncExitStack() as stack:
        if not settings.DB.HOST:
            settings = await start_embedded(settings, stack)
        try:
            await upgrade(settings.DB)  # the backup may be of an older version
        except Exception as error:
            if not is_unavailable(error):
                raise
            raise DatabaseUnavailable(f"PostgreSQL (DB__*) cannot be used: {type(error).__name__}.") from error
        database = Database(settings.DB, "trackshift-new-log")
        stack.push_async_callback(database.close)
        async with database.unit_of_work() as uow:
            return await uow.outbox.new_log()


def main() -> int:
    """Returns the exit code."""
    try:
        print(asyncio.run(new_log(get_settings())))
    except (ConfigurationError, DatabaseUnavailable, StartError) as error:
        print(str(error), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
