"""What the decoding of a stored source picture showed, on its way from a worker process: whole or not, and its measures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

MOST = 25_600  # bytes of the measures' view (`services.quality.measures`)


class Seen(NamedTuple):
    """`measures`: numbers and the bytes of the view, unpacked by who judges them; None: there are none."""

    whole: bool
    measures: tuple[list[Any], bytes] | None


def attach_seen(answer: dict[str, Any], data: bytes, seen: Sequence[Seen | None]) -> tuple[dict[str, Any], bytes]:
    """In the worker: the answer with what was seen of each picture; None: of one that is no source picture."""
    views = [one.measures[1] if one is not None and one.measures is not None else b"" for one in seen]
    answer["seen"] = [
        None if one is None else [one.whole, one.measures[0] if one.measures is not None else None, len(view)]
        for one, view in zip(seen, views, strict=True)
    ]
    return answer, data + b"".join(views)


def detach_seen(answer: dict[str, Any], data: bytes, count: int) -> tuple[list[Seen | None], bytes]:
    """What `attach_seen` was given of `count` pictures, and the rest of the bytes; taken out of the answer.

    The answer may be what a picture made its worker answer: what makes no sense was not seen.
    """
    nothing: list[Seen | None] = [None] * count
    try:
        listed = [None if one is None else (bool(one[0]), one[1], int(one[2])) for one in answer.pop("seen")]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return nothing, data
    sizes = [one[2] if one is not None else 0 for one in listed]
    at = len(data) - sum(sizes)
    if len(listed) != count or at < 0 or not all(0 <= size <= MOST for size in sizes):
        return nothing, data
    rest, found = data[:at], []
    for one, size in zip(listed, sizes, strict=True):
        measures = (one[1], data[at : at + size]) if one is not None and isinstance(one[1], list) else None
        found.append(None if one is None else Seen(one[0], measures))
        at += size
    return found, rest
