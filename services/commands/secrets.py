"""`secrets`: the keys under which camera URLs rest encrypted (SECRETS__KEYS)."""

from __future__ import annotations

import typer

from config import get_settings
from repositories.database import Database
from services.commands.running import refuse, run
from services.housekeeping.secrets import open_box, reseal_all
from utils.secret_box import new_key

app = typer.Typer(no_args_is_help=True, help="Keys of SECRETS__KEYS, under which camera URLs rest encrypted.")


@app.command()
def new() -> None:
    """Print a new key."""
    print(new_key())


@app.command()
def rotate() -> None:
    """Encrypt every stored URL again, with the first key of SECRETS__KEYS. Safe while services run.

    Exit code 1: some URLs could not be opened with any key.
    """
    raise typer.Exit(run(_rotate()))


@app.command()
def forget(key_id: str) -> None:
    """Give up a key that is lost: services without it work again; URLs under it have to be set anew.

    Exit code 1: nothing is known to be encrypted with it.
    """
    raise typer.Exit(run(_forget(key_id)))


async def _forget(key_id: str) -> int:
    settings = get_settings()
    if not settings.DB.HOST:
        refuse("DB__HOST is empty: the embedded PostgreSQL runs inside the service.")
    database = Database(settings.DB, "trackshift-secrets")
    try:
        async with database.unit_of_work() as uow:
            known, cameras = await uow.secrets.forget_canary(key_id), await uow.secrets.camera_keys()
    finally:
        await database.close()
    print(f"{key_id}: forgotten. Cameras whose URL needs it: {cameras.get(key_id, 0)}." if known else f"{key_id}: unknown.")
    return 0 if known else 1


async def _rotate() -> int:
    settings = get_settings()
    if not settings.DB.HOST:
        refuse("DB__HOST is empty: the embedded PostgreSQL runs inside the service, which does this when it starts.")
    box = open_box(settings)
    database = Database(settings.DB, "trackshift-secrets")
    try:
        done, left = await reseal_all(database, box)
    finally:
        await database.close()
    print(f"{done} URLs encrypted again with the first key ({box.key_ids[0]}); {left} could not be opened with any key.")
    return 1 if left else 0
