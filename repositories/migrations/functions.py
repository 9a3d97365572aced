"""Today's SQL functions, whole, one file each in repositories/functions; a trigger stands below the function it calls.

A revision that adds or changes a function edits its file and calls `create` for it, as does each earlier revision that
made an older version: a database at any revision ends with today's text, which a test compares. In between, a function
may name columns that a later revision adds: PL/pgSQL looks them up when the function runs, and no service runs then.
"""

from __future__ import annotations

import re
from pathlib import Path

from alembic import op

FOLDER = Path(__file__).parents[1] / "functions"


def names() -> list[str]:
    """All functions, by name."""
    return sorted(path.stem for path in FOLDER.glob("*.sql"))


def statements(name: str) -> list[str]:
    """The statements of a function's file: each begins with CREATE at the start of a line."""
    text = (FOLDER / f"{name}.sql").read_text(encoding="utf-8")
    return re.split(r"^(?=CREATE )", text, flags=re.MULTILINE)[1:]


def create(*functions: str) -> None:
    """Creates or replaces the functions and their triggers, in this order."""
    for name in functions:
        for statement in statements(name):
            op.get_bind().exec_driver_sql(statement)


def drop(*functions: str) -> None:
    """Drops the functions that exist, and the triggers that call them."""
    for name in functions:
        op.execute(f"DROP FUNCTION IF EXISTS {name} CASCADE")
