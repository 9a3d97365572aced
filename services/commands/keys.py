"""`keys`: API keys (AUTH__MODE keys or both), the first of which no API call can make."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeVar

import typer

from config import get_settings
from models.access import ACTOR, ANONYMOUS, Actor, Scope
from models.entities import ApiKey
from models.schemas import format_time
from repositories.database import Database
from services.access.api_keys import ApiKeys
from services.access.service import Access
from services.commands.running import refuse, run
from services.execution.embedded_parts import reach
from services.execution.schema import migrate_or_wait
from utils.exceptions import InvalidRequest
from utils.ids import new_id
from utils.logger import configure_logging

T = TypeVar("T")
app = typer.Typer(no_args_is_help=True, help="API keys. Every command works while the service runs.")
KeyId = Annotated[str, typer.Argument(help="The 12 characters between tsk_ and the second _.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    scope: Annotated[list[Scope] | None, typer.Option(help="May be given several times. Without: admin.")] = None,
    camera: Annotated[
        list[str] | None, typer.Option(help="A camera id, or a prefix with *. May be given several times. Without: all.")
    ] = None,
    expires: Annotated[float | None, typer.Option(min=0.001, max=36_500, help="Days until it expires.")] = None,
) -> None:
    """Make a key and print it. It is shown this once."""
    until = datetime.now(UTC) + timedelta(days=expires) if expires is not None else None
    scopes = list(dict.fromkeys(scope or [Scope.ADMIN]))

    async def work(keys: ApiKeys) -> str:
        return (await keys.create(ANONYMOUS, name, scopes, camera or None, until))[1]

    print(_run(work, "key.create"))


@app.command("list")
def list_keys() -> None:
    """Print every key, one JSON object a line; never a secret."""

    async def work(keys: ApiKeys) -> None:
        cursor: str | None = None
        while True:
            rows, cursor = await keys.page(ANONYMOUS, 200, cursor)
            for row in rows:
                print(json.dumps(_shown(row)))
            if cursor is None:
                return

    _run(work, "key.list")


@app.command()
def revoke(key_id: KeyId) -> None:
    """Revoke a key for good: every process refuses it within 2 seconds."""

    async def work(keys: ApiKeys) -> None:
        await keys.revoke(key_id)

    _run(work, "key.revoke")


@app.command()
def rotate(key_id: KeyId) -> None:
    """Print a new secret for a key. The former one stays good for 24 hours."""

    async def work(keys: ApiKeys) -> str:
        return (await keys.rotate(key_id))[1]

    print(_run(work, "key.rotate"))


def _shown(row: ApiKey) -> dict[str, Any]:
    def text(at: datetime | None) -> str | None:
        return format_time(at) if at is not None else None

    return {
        "key_id": row.key_id, "name": row.name, "scopes": row.scopes, "cameras": row.cameras,
        "created_at": text(row.created_at), "expires_at": text(row.expires_at), "last_used_at": text(row.last_used_at),
        "revoked_at": text(row.revoked_at),
    }  # fmt: skip


def _run(work: Callable[[ApiKeys], Awaitable[T]], action: str) -> T:
    configure_logging("WARNING", "console")  # standard output is for the key alone
    return run(_with_keys(work, action))


async def _with_keys(work: Callable[[ApiKeys], Awaitable[T]], action: str) -> T:
    settings = get_settings()
    # What an operator does by hand is in the audit too, under the name of his account on this machine.
    operator = f"command:{os.environ.get('USER') or os.getuid()}"
    ACTOR.set(Actor(new_id(), operator, "anonymous", None, "", 0, action, settings.AUDIT.RETENTION))
    async with reach(settings) as effective:
        await migrate_or_wait(effective.DB)
        database = Database(effective.DB, "trackshift-keys")
        try:
            access = await Access.open(effective, database)
            return await work(ApiKeys(database, access.cursors))
        except InvalidRequest as error:
            refuse("; ".join(f"{item.name}: {item.message}" for item in error.errors) or error.message)
        finally:
            await database.close()
