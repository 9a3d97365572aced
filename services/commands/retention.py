"""`retention`: how long frames are kept, which stands in the database (docs/retention.md)."""

from __future__ import annotations

import json

import typer

from config import Settings, get_settings
from repositories.retention import Policy
from services.commands.running import connected, run
from services.housekeeping.retention_policy import differing, of_settings
from utils.logger import configure_logging

app = typer.Typer(no_args_is_help=True, help="How long frames are kept. Both commands work while the service runs.")


@app.command()
def show() -> None:
    """Print the policy in the database, and this command's settings. Exit code 1: they differ."""
    configure_logging("WARNING", "console")  # standard output is for the JSON alone
    settings = get_settings()
    policy = run(_policy(settings))
    print(json.dumps({"policy": _shown(policy), "settings": _shown(of_settings(settings.RETENTION))}))
    raise typer.Exit(0 if policy is not None and not differing(settings.RETENTION, policy) else 1)


@app.command()
def apply() -> None:
    """Make this command's settings (RETENTION__*) the policy of all processes, from their next search on."""
    configure_logging("WARNING", "console")
    settings = get_settings()
    before = run(_apply(settings))
    print(json.dumps({"before": _shown(before), "policy": _shown(of_settings(settings.RETENTION))}))


async def _policy(settings: Settings) -> Policy | None:
    async with connected(settings, "trackshift-retention") as (_, database, _storage), database.one_statement() as uow:
        return await uow.retention.policy()


async def _apply(settings: Settings) -> Policy | None:
    policy = of_settings(settings.RETENTION)
    async with connected(settings, "trackshift-retention") as (_, database, _storage):
        async with database.one_statement() as uow:
            before = await uow.retention.policy()
        await database.retry_until_known(lambda uow: uow.retention.set_policy(policy, replace=True))
    return before


def _shown(policy: Policy | None) -> dict[str, float | int | None] | None:
    return policy._asdict() if policy is not None else None
