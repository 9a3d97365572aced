"""Conditional and range requests (RFC 9110, 13 and 14) for an object whose strong ETag is its SHA-256.

By hand (30 lines): Starlette answers ranges of files only. Werkzeug, tried on the tests' headers, takes an unquoted tag for
the ETag (304 instead of 200) and `bytes=-0` for the whole (200 instead of 416).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TAG = re.compile(r'\s*(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")\s*(?:,|$)')
_SPEC = re.compile(r"^([0-9]*)-([0-9]*)$")


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes to send: start to stop, exclusive."""

    start: int
    stop: int


class Unsatisfiable(Exception):
    """The range lies outside: 416."""


def none_match(header: str | None, etag: str) -> bool:
    """Whether If-None-Match names this ETag (weak comparison): answer 304."""
    if header is None:
        return False
    if header.strip() == "*":
        return True
    position = 0
    while position < len(header):
        tag = _TAG.match(header, position)
        if tag is None:
            return False
        if tag[1] == etag:
            return True
        position = tag.end()
    return False


def requested_span(range_header: str | None, if_range: str | None, etag: str, size: int) -> Span | None:
    """The one range to answer with 206, or None: the whole. Raises Unsatisfiable.

    Another unit, a malformed header, several ranges, or an If-Range that is not exactly this strong ETag (a date
    cannot match: there is no Last-Modified) mean the whole, as RFC 9110 allows.
    """
    if range_header is None or (if_range is not None and if_range.strip() != etag):
        return None
    unit, equals, specs = range_header.partition("=")
    if not equals or unit.strip().lower() != "bytes" or "," in specs:
        return None
    match = _SPEC.match(specs.strip())
    if match is None or not (match[1] or match[2]):
        return None
    # More digits than any size has: no number of ours is compared with them, and int() would refuse thousands.
    first, last = (int(text) if len(text) <= 18 else 10**18 for text in (match[1] or "0", match[2] or "0"))
    if not match[1]:  # the last bytes
        if last == 0 or size == 0:
            raise Unsatisfiable
        return Span(max(0, size - last), size)
    if match[2] and last < first:
        return None
    if first >= size:
        raise Unsatisfiable
    return Span(first, min(last + 1, size) if match[2] else size)
