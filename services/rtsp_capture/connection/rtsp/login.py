"""Logging in: Basic (RFC 7617) and Digest (RFC 2617, RFC 7616) with MD5 and SHA-256. Pure.

Cameras lock out who fails too often: of one connection at most MAX_REFUSED logins may be refused. A nonce that has gone
stale is no refused login, but is renewed no more than MAX_RENEWED times in a row.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

MAX_REFUSED = 2
MAX_RENEWED = 3
_MAX_TEXT = 8192  # characters of a challenge
_MAX_CHALLENGES = 16
_TOKEN = re.compile(r'([A-Za-z][\w-]*)(?:\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,]*)))?')
_HASHES: dict[str, Callable[[bytes], str]] = {
    "MD5": lambda data: hashlib.md5(data, usedforsecurity=False).hexdigest(),
    "SHA-256": lambda data: hashlib.sha256(data).hexdigest(),
}
_RANK = ("SHA-256", "SHA-256-SESS", "MD5", "MD5-SESS", "BASIC")  # the strongest first (RFC 7616, section 3.7)


@dataclass(frozen=True, slots=True)
class Challenge:
    """One offer of a 401. `kind`: one of _RANK, or something that we do not know."""

    kind: str
    fields: dict[str, str]

    @property
    def stale(self) -> bool:
        return self.fields.get("stale", "").lower() == "true"

    @property
    def nonce(self) -> str:
        return self.fields.get("nonce", "")


def parse_challenges(values: Iterable[str]) -> list[Challenge]:
    """The offers of all WWW-Authenticate headers, of which each may hold several."""
    found: list[tuple[str, dict[str, str]]] = []
    for value in values:
        value, at = value[:_MAX_TEXT], 0
        while len(found) <= _MAX_CHALLENGES and (token := _TOKEN.search(value, at)) is not None:
            at = token.end()
            name, quoted, plain = token.groups()
            if quoted is None and plain is None:
                found.append((name.upper(), {}))
            elif found:
                found[-1][1].setdefault(name.lower(), quoted if quoted is not None else plain)
    return [Challenge(_kind(scheme, fields), fields) for scheme, fields in found[:_MAX_CHALLENGES]]


def _kind(scheme: str, fields: dict[str, str]) -> str:
    if scheme != "DIGEST":
        return scheme
    offered = [one.strip().lower() for one in fields.get("qop", "auth").split(",")]
    if "nonce" not in fields or "auth" not in offered:
        return "DIGEST"
    return fields.get("algorithm", "MD5").upper()


class Login:
    """The user's name and password on one connection, and what the camera has asked for."""

    def __init__(self, username: str, password: str, cnonce: Callable[[], str] = lambda: os.urandom(8).hex()) -> None:
        self._username, self._password, self._cnonce = username, password, cnonce
        self._challenge: Challenge | None = None
        self._count = 0  # of requests with this nonce
        self._tried: set[str] = set()
        self._refused = self._renewed = 0
        self.accepted = False  # whether a request with a login was answered otherwise than by 401

    def __repr__(self) -> str:
        return "Login()"

    def went_through(self) -> None:
        """A request was not refused."""
        if self._challenge is not None:
            self.accepted = True
            self._renewed = 0

    def challenged(self, values: Iterable[str]) -> bool:
        """A 401 came: whether it is worth asking again, with the new `authorization`."""
        known = (one for one in parse_challenges(values) if one.kind in _RANK)
        offers = sorted(known, key=lambda one: _RANK.index(one.kind))
        before = self._challenge
        if before is None:
            return self._take(next(iter(offers), None))
        same = next((one for one in offers if one.kind == before.kind), None)
        renewed = same is not None and same.nonce != before.nonce
        if same is not None and (same.stale or (renewed and self.accepted)) and self._renewed < MAX_RENEWED:
            self._renewed += 1
            return self._take(same)
        self._refused += 1
        if self._refused >= MAX_REFUSED:
            return False
        other = next((one for one in offers if one.kind not in self._tried), None)
        return self._take(other or (same if renewed else None))

    def _take(self, challenge: Challenge | None) -> bool:
        if challenge is None:
            return False
        self._challenge, self._count = challenge, 0
        self._tried.add(challenge.kind)
        return True

    def authorization(self, method: str, uri: str) -> str | None:
        """The value of the header; None while the camera has asked for none."""
        challenge = self._challenge
        if challenge is None:
            return None
        if challenge.kind == "BASIC":
            return "Basic " + base64.b64encode(f"{self._username}:{self._password}".encode()).decode()
        self._count += 1
        return self._digest(challenge, method, uri)

    def _digest(self, challenge: Challenge, method: str, uri: str) -> str:
        """RFC 7616, section 3.4.1."""
        fields, cnonce, count = challenge.fields, self._cnonce(), f"{self._count:08x}"
        name, session = challenge.kind.removesuffix("-SESS"), challenge.kind.endswith("-SESS")

        def hashed(*parts: str) -> str:
            return _HASHES[name](":".join(parts).encode())

        realm = fields.get("realm", "")
        secret = hashed(self._username, realm, self._password)
        if session:
            secret = hashed(secret, challenge.nonce, cnonce)
        action = hashed(method, uri)
        qop = "auth" if "qop" in fields else None
        middle = (challenge.nonce, count, cnonce, qop) if qop else (challenge.nonce,)
        answer = hashed(secret, *middle, action)
        user = self._username.replace("\\", "\\\\").replace('"', '\\"')
        value = f'Digest username="{user}", realm="{realm}", nonce="{challenge.nonce}", uri="{uri}", response="{answer}"'
        if "algorithm" in fields:
            value += f", algorithm={fields['algorithm']}"
        if qop:
            value += f", qop={qop}, nc={count}"
        if qop or session:
            value += f', cnonce="{cnonce}"'
        if "opaque" in fields:
            value += f', opaque="{fields["opaque"]}"'
        return value
