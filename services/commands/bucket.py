"""`bucket`: whose bucket it is (docs/retention.md)."""

from __future__ import annotations

import typer

from config import Settings, get_settings
from models.values import DatabaseIdentity
from services.commands.running import connected, run
from services.housekeeping.bucket_marker import BucketMarker, Found, Ownership, described, judge

app = typer.Typer(no_args_is_help=True, help="Whose bucket it is. Both commands work while the service runs.")


@app.command()
def show() -> None:
    """Print which database the bucket's marker names, and which one this is. Exit code 1: they differ."""
    raise typer.Exit(0 if run(_show()) is Ownership.OURS else 1)


@app.command()
def adopt() -> None:
    """Make the bucket this database's: from now on, it stores there, and objects without rows are deleted.

    For the operator who moved, restored or promoted a database, and knows that no other service uses the bucket.
    """
    run(_adopt())
    print("The bucket is this database's now. Running services go on within a minute.")


async def _show() -> Ownership | None:
    async with connected(get_settings(), "trackshift-marker") as (settings, database, storage):
        marker = BucketMarker(database, storage)
        found, ours = await marker.read(), await marker.ours()
    _print(settings, found, ours)
    return judge(found, ours) if found is not None else None


async def _adopt() -> None:
    async with connected(get_settings(), "trackshift-marker") as (settings, database, storage):
        found, ours = await BucketMarker(database, storage).adopt()
    _print(settings, found, ours)


def _print(settings: Settings, found: Found, ours: DatabaseIdentity) -> None:
    print(f"bucket {settings.STORAGE.BUCKET_NAME}: {described(found)}; this database: {described(ours)}")
