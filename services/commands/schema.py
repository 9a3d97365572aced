"""`schema`: how far the schema is, and bringing it up to date (docs/upgrade.md)."""

from __future__ import annotations

from typing import Any

import typer

from config import VERSION, Settings, get_settings
from repositories.engine import is_unavailable
from repositories.migrations.run import Schema, read_schema
from repositories.migrations.run import upgrade as migrate
from repositories.migrations.steps import revisions
from services.commands.running import run
from services.execution.embedded_parts import reach
from utils.exceptions import DatabaseUnavailable

app = typer.Typer(no_args_is_help=True, help="The schema of the database. Both commands work while services run.")


@app.command()
def show() -> None:
    """Print the schema's revision, what this version knows, and what keeps steps waiting. Exit code 1: some are missing."""
    raise typer.Exit(1 if run(_show(get_settings())).missing else 0)


@app.command()
def upgrade() -> None:
    """Make the missing steps, as far as the processes that are alive allow. Exit code 1: some are still missing."""
    raise typer.Exit(1 if run(_upgrade(get_settings())).missing else 0)


async def _show(settings: Settings) -> Schema:
    async with reach(settings) as effective:
        found: Schema = await _asked(read_schema(effective.DB))
    _print(found)
    return found


async def _upgrade(settings: Settings) -> Schema:
    async with reach(settings) as effective:
        await _asked(migrate(effective.DB))
        found: Schema = await _asked(read_schema(effective.DB))
    _print(found)
    return found


async def _asked(question: Any) -> Any:
    try:
        return await question
    except Exception as error:
        if not is_unavailable(error):
            raise
        raise DatabaseUnavailable(f"PostgreSQL (DB__*) cannot be used: {type(error).__name__}.") from error


def _print(found: Schema) -> None:
    print(f"schema: revision {found.revision or 'none'}; version {VERSION} knows {revisions()[0]}")
    for step in found.unknown:
        print(f"  {step.revision}  {_kind(step)}; made by a newer version")
    blocking = found.blocking
    for step in found.missing:
        print(f"  {step.revision}  {_kind(step)}; missing")
        if blocking is not None and step is blocking[0]:
            for each in blocking[1]:
                print(f"        waits for the process on {each.host}, version {each.version}")


def _kind(step: Any) -> str:
    return step.phase if step.safe_from is None else f"{step.phase}, safe from version {step.safe_from} on"
