"""`bucket`: whose bucket it is (docs/retention.md)."""

from __future__ import annotations

import typer

from config import get_settings
from services.commands.running import connected, run
from services.housekeeping.bucket_marker import BucketMarker

app = typer.Typer(no_args_is_help=True, help="Whose bucket it is. Both commands work while the service runs.")


@app.command()
def show() -> None:
    """Print which database the bucket's marker names, and which one this is. Exit code 1: they differ."""
    before, ours = run(_marker(adopt=False))
    raise typer.Exit(0 if before == ours else 1)


@app.command()
def adopt() -> None:
    """Make the bucket this database's: from now on, objects without rows are deleted.

    For the operator who moved or restored a database, and knows that no other service uses the bucket.
    """
    run(_marker(adopt=True))
    print("The bucket is this database's now. The sweeper goes on within a minute.")


async def _marker(*, adopt: bool) -> tuple[str | None, str]:
    async with connected(get_settings(), "trackshift-marker") as (settings, database, storage):
        marker = BucketMarker(database, storage)
        before, ours = await marker.adopt() if adopt else (await marker.read(), await marker.ours())
    print(f"bucket {settings.STORAGE.BUCKET_NAME}: {before or 'no marker'}; this database: {ours}")
    return before, str(ours)
