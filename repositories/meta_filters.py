"""Filters by keys of `meta`, written as their indexes are (models.entities.base.meta_indexes)."""

from __future__ import annotations

from models.entities.base import META_FILTERS, META_INDEXED
from models.values import FrameFilter, PairSide, RequestFilter

__all__ = ["META_INDEXED", "meta_condition", "meta_filters"]


def meta_filters(wanted: FrameFilter | RequestFilter | PairSide) -> list[tuple[str, str, str]]:
    """For each key of `meta` that is asked for: its name, the value's head, which the index holds, and the value."""
    asked = [(key, getattr(wanted, key)) for key in META_FILTERS]
    return [(key, str(value)[:META_INDEXED], str(value)) for key, value in asked if value is not None]


def meta_condition(key: str, head: str, value: str) -> str:
    """SQL; `head` and `value` are parameters. A short value is its own head, and is in the index whole."""
    return f"left(meta ->> '{key}', {META_INDEXED}) = {head} AND meta ->> '{key}' = {value}"
