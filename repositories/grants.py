"""A principal's cameras as a condition of a query."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, any_, bindparam, false, func, or_, true
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import Text

from models.access import CameraGrant


def granted(column: Any, cameras: CameraGrant) -> ColumnElement[bool]:
    """Whether the camera id in `column` is among `cameras`."""
    if cameras.patterns is None:
        return true()
    conditions: list[ColumnElement[bool]] = []
    if cameras.exact:
        conditions.append(column == any_(bindparam(None, cameras.exact, ARRAY(Text))))
    conditions += [func.starts_with(column, prefix) for prefix in cameras.prefixes]
    return or_(*conditions) if conditions else false()


def granted_sql(cameras: CameraGrant, column: str = "camera_id") -> tuple[str, dict[str, Any]]:
    """The same for statements in SQL: what follows WHERE ..., beginning with AND, and its parameters."""
    if cameras.patterns is None:
        return "", {}
    exact = f"{column} = ANY(CAST(:granted AS text[]))"
    prefix = "EXISTS (SELECT 1 FROM unnest(CAST(:granted_prefixes AS text[])) AS p WHERE starts_with({column}, p))"
    condition = f" AND ({exact} OR {prefix.format(column=column)})"
    return condition, {"granted": cameras.exact, "granted_prefixes": cameras.prefixes}
