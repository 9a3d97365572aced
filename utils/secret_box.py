"""Texts that rest encrypted (Fernet: AES-128-CBC with HMAC-SHA-256), by several keys: the first seals, all open.

A sealed text is `enc1:{key id}:{Fernet token}`. The key id is the beginning of the key's SHA-256: it says which key a
text needs without trying them, and nothing about the key. A text without the prefix is one from before encryption.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from utils.exceptions import SecretKeysMissing, SecretUnreadable
from utils.urls import MASK, mask_url

_SHOWN = 1000  # sealed URLs whose masked ones are kept: to open one takes as long as to write its request's JSON
PREFIX = "enc1:"  # models.entities.SEALED_PREFIX; a test compares them


def new_key() -> str:
    """A fresh key as SECRETS__KEYS takes it."""
    return Fernet.generate_key().decode()


def is_key(text: str) -> bool:
    """Whether `text` is a Fernet key: 32 bytes in URL-safe base64."""
    return re.fullmatch(r"[A-Za-z0-9_-]{43}=", text, re.ASCII) is not None


def key_id(key: str) -> str:
    """How a key is named where it may be seen."""
    return hashlib.sha256(base64.urlsafe_b64decode(key)).hexdigest()[:8]


class SecretBox:
    """Seals with the first key, opens with any. `repr` shows key ids only."""

    def __init__(self, keys: Sequence[str]) -> None:
        if not keys:
            raise ValueError("no key")
        self._fernet = MultiFernet([Fernet(key) for key in keys])
        self.key_ids = [key_id(key) for key in keys]
        self._shown: dict[str, str] = {}  # sealed URLs as they may be shown
        self.missing: frozenset[str] = frozenset()  # keys that the database holds something under and that are not here

    def __repr__(self) -> str:
        return f"SecretBox({', '.join(self.key_ids)})"

    @property
    def current_prefix(self) -> str:
        """How everything begins that was sealed with the first key."""
        return f"{PREFIX}{self.key_ids[0]}:"

    def seal(self, text: str) -> str:
        """Raises SecretKeysMissing while `missing`: what is sealed here could not be opened elsewhere."""
        if self.missing:
            raise SecretKeysMissing
        return self.seal_always(text)

    def seal_url(self, url: str) -> str:
        """As `seal`; `masked` will not have to open it."""
        sealed = self.seal(url)
        self._show(sealed, mask_url(url))
        return sealed

    def lacks(self, stored: str) -> bool:
        """Whether the text is under a key that is not here."""
        return stored.startswith(PREFIX) and stored.removeprefix(PREFIX).partition(":")[0] not in self.key_ids

    def seal_always(self, text: str) -> str:
        """As `seal`, whatever is missing."""
        return self.current_prefix + self._fernet.encrypt(text.encode()).decode()

    def open(self, stored: str) -> str:
        """The text; one from before encryption as it is. Raises SecretUnreadable."""
        if not stored.startswith(PREFIX):
            return stored
        name, _, token = stored.removeprefix(PREFIX).partition(":")
        try:
            return self._fernet.decrypt(token).decode()
        except InvalidToken:
            pass
        if self.missing:
            raise SecretKeysMissing
        if name in self.key_ids:
            raise SecretUnreadable("A stored camera URL is damaged: its key is there and does not open it.")
        raise SecretUnreadable(f"A stored camera URL was encrypted with key {name[:8]}, which SECRETS__KEYS does not hold.")

    def masked(self, stored: str) -> str:
        """A sealed URL as it may be shown; only the mask when it cannot be opened."""
        shown = self._shown.get(stored)
        if shown is None:
            try:
                shown = mask_url(self.open(stored))
            except SecretUnreadable:
                return MASK
            self._show(stored, shown)
        return shown

    def _show(self, sealed: str, shown: str) -> None:
        while len(self._shown) >= _SHOWN:
            self._shown.pop(next(iter(self._shown)), None)
        self._shown[sealed] = shown
