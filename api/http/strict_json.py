"""Strict JSON: refuses what Python's parser accepts beyond RFC 8259 and I-JSON, and more of it than any schema has.

The model would make an error of each unknown field, on the event loop: a megabyte of them would hold it for a second.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from utils.exceptions import MalformedRequest

MAX_DEPTH = 64
MAX_KEYS = 1000  # of one object
MAX_VALUES = 20_000  # of a whole document: 16 KiB of free meta have 8192 at most, a direct upload's parts 3000


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_KEYS:
        raise MalformedRequest(f"The JSON has an object with more than {MAX_KEYS} keys.")
    result = dict(pairs)
    if len(result) != len(pairs):
        raise MalformedRequest("The JSON has an object with the same key twice.")
    return result


def _constant(_name: str) -> NoReturn:
    raise MalformedRequest("NaN and Infinity are not JSON.")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):  # 1e999
        raise MalformedRequest("The JSON has a number that is too large.")
    return value


def _check_text(text: str) -> None:
    if "\x00" in text:  # PostgreSQL's jsonb and text cannot hold it
        raise MalformedRequest("The JSON has a NUL character in a string.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise MalformedRequest("The JSON has a lone surrogate in a string.") from None


def _check(root: Any, texts: bool) -> None:
    """Depth, and with `texts` the characters of every key and string. Iterative: depth is what it bounds."""
    level, depth = [root], 0
    while level:
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                if texts:
                    for key in value:
                        _check_text(key)
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
            elif texts and isinstance(value, str):
                _check_text(value)
        depth += 1
        if below and depth > MAX_DEPTH:
            raise MalformedRequest(f"The JSON is nested deeper than {MAX_DEPTH} levels.")
        level = below


def loads(raw: bytes) -> Any:
    """The value, or MalformedRequest. No message carries any of the input."""
    # Before anything is built of it. Commas in texts count too: no text of the schemas has so many.
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > MAX_VALUES:
        raise MalformedRequest(f"The JSON has more than {MAX_VALUES} values.")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedRequest("The JSON is not UTF-8.") from None
    try:
        value = json.loads(text, object_pairs_hook=_pairs, parse_constant=_constant, parse_float=_float)
    except json.JSONDecodeError as error:
        raise MalformedRequest(f"The JSON cannot be parsed (line {error.lineno}, column {error.colno}).") from None
    except RecursionError:
        raise MalformedRequest(f"The JSON is nested deeper than {MAX_DEPTH} levels.") from None
    except ValueError:  # an integer of more digits than Python converts
        raise MalformedRequest("The JSON has a number that is too long.") from None
    # NUL and lone surrogates come only from escapes: raw ones are not JSON and not UTF-8.
    _check(value, texts="\\u" in text)
    return value
