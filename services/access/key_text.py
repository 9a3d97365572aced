"""The text of an API key: `tsk_` + 12 base62 (its id) + `_` + 32 base62 (its secret) + 6 base62 (a CRC-32).

The checksum tells a typing error, and a secret scanner's false alarm, without a look at the database. Pure.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string
import zlib

PREFIX = "tsk_"
_DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_TEXT = re.compile(r"tsk_([0-9A-Za-z]{12})_([0-9A-Za-z]{32})([0-9A-Za-z]{6})", re.ASCII)


def checksum(text: str) -> str:
    """The CRC-32 of `tsk_{id}_{secret}` as six base62 digits, left-padded with 0."""
    value, digits = zlib.crc32(text.encode()), ""
    for _ in range(6):
        value, digit = divmod(value, 62)
        digits = _DIGITS[digit] + digits
    return digits


def _random(length: int) -> str:
    return "".join(secrets.choice(_DIGITS) for _ in range(length))


def new_key(key_id: str | None = None) -> tuple[str, str]:
    """(key id, the whole key) of a fresh key; for `key_id` another secret."""
    key_id = key_id or _random(12)
    text = f"{PREFIX}{key_id}_{_random(32)}"
    return key_id, text + checksum(text)


def key_id_of(text: str) -> str | None:
    """The id in a key; None for what is no key or has a wrong checksum."""
    found = _TEXT.fullmatch(text)
    return found[1] if found is not None and checksum(text[:-6]) == found[3] else None


def hash_of(secret: str) -> str:
    """What is kept of a secret with 190 random bits: its SHA-256, hex."""
    return hashlib.sha256(secret.encode()).hexdigest()
