"""How a command runs: its settings, its connections, its exit code."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, NoReturn, TypeVar

import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError

from config import ConfigurationError, Settings
from repositories.database import Database
from repositories.migrations.run import SchemaRefused, SchemaWaits
from services.backup.archive import BackupError
from services.execution.embedded_parts import StartError, reach
from services.storage_service.service import StorageService
from utils.exceptions import IngestionException

T = TypeVar("T")
EXPECTED = (
    BackupError, ConfigurationError, SchemaRefused, SchemaWaits, StartError, ValidationError, SettingsError,
    IngestionException,
)  # fmt: skip


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs the command's coroutine. What settings, database or store refuse is printed, and the exit code is 2."""
    try:
        return asyncio.run(work)
    except EXPECTED as error:
        refuse(str(error))


def refuse(reason: str) -> NoReturn:
    print(reason, file=sys.stderr)
    raise typer.Exit(2)


@asynccontextmanager
async def connected(settings: Settings, name: str) -> AsyncIterator[tuple[Settings, Database, StorageService]]:
    """The effective settings, the database and the object store; `name` is the database session's application_name."""
    async with reach(settings) as effective:
        database, storage = Database(effective.DB, name), StorageService(effective.STORAGE)
        try:
            yield effective, database, storage
        finally:
            await storage.close()
            await database.close()
