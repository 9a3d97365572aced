"""`reset-event-log`: a new identity for the event log, after a restore by other means than `restore`."""

from __future__ import annotations

from contextlib import AsyncExitStack
from uuid import UUID

from config import Settings, get_settings
from repositories.database import Database
from repositories.engine import is_unavailable
from services.commands.running import run
from services.execution.embedded_parts import start_embedded
from services.execution.schema import migrate_or_wait
from utils.exceptions import DatabaseUnavailable


def reset() -> None:
    """Give the event log a new identity, and print it. Cursors of before are answered 410 afterwards.

    `restore` does this by itself. After a restore by other means run `bucket adopt` too: the bucket's marker names the log.
    """
    print(run(reset_event_log(get_settings())))


async def reset_event_log(settings: Settings) -> UUID:
    """Starts the embedded parts where there is no DB__HOST; the service must not run then.

    Raises StartError, DatabaseUnavailable.
    """
    async with AsyncExitStack() as stack:
        if not settings.DB.HOST:
            settings = await start_embedded(settings, stack)
        try:
            await migrate_or_wait(settings.DB)  # the backup may be of an older version
        except Exception as error:
            if not is_unavailable(error):
                raise
            raise DatabaseUnavailable(f"PostgreSQL (DB__*) cannot be used: {type(error).__name__}.") from error
        database = Database(settings.DB, "trackshift-reset-event-log")
        stack.push_async_callback(database.close)
        async with database.unit_of_work() as uow:
            return await uow.event_log.reset()
