"""`verify`: reads every stored frame, and says whether the bytes are those that were stored."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict
from datetime import datetime
from typing import Annotated

import typer

from config import get_settings
from models.schemas import parse_time
from services.commands.running import EXPECTED, connected
from services.housekeeping.verifier import Report, Verifier, Wanted
from utils.logger import configure_logging, get_logger

log = get_logger(__name__)


def _time(text: str) -> datetime:
    try:
        at: datetime = parse_time(text)
        return at
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def verify(
    sample: Annotated[int | None, typer.Option(min=1, max=100_000, help="So many frames, chosen at random.")] = None,
    share: Annotated[float | None, typer.Option(min=0, max=1, help="About this share of the frames.")] = None,
    camera: Annotated[str | None, typer.Option(help="Only frames of this camera.")] = None,
    since: Annotated[datetime | None, typer.Option(parser=_time, help="Only frames stored since then (RFC 3339).")] = None,
    orphans: Annotated[bool, typer.Option("--orphans", help="Count objects without rows too.")] = False,
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Objects read at once.")] = 4,
) -> None:
    """Read every stored frame's bytes and compare size and SHA-256 with its row. Nothing is changed.

    Prints one JSON object; progress goes to standard error. Exit codes: 0 all is well; 1 an object is missing or is not
    the one that was stored; 2 that could not be found out (the JSON says why, and what was checked until then).
    """
    if sample is not None and share is not None:
        raise typer.BadParameter("--sample and --share exclude each other: give one of them.")
    wanted = Wanted(sample, share, camera, since, orphans, concurrency)
    configure_logging("WARNING", "console")
    try:
        report = asyncio.run(_run(wanted))
    except EXPECTED as error:
        report = Report(error=str(error))
    except Exception as error:  # exit code 1 would say that a frame is lost
        log.exception("verify_failed")
        report = Report(error=f"the check itself failed: {type(error).__name__}")
    print(json.dumps(asdict(report)))
    raise typer.Exit(report.exit_code)


async def _run(wanted: Wanted) -> Report:
    settings = get_settings()
    async with connected(settings, "trackshift-verify") as (_, database, storage):
        return await Verifier(database, storage, wanted, _print_progress).run(settings.SWEEPER.GRACE)


def _print_progress(report: Report) -> None:
    print(f"{report.checked} checked, {report.missing} missing, {report.mismatched} mismatched", file=sys.stderr)
