"""The camera's side of RTSP authentication: Basic (RFC 7617) and Digest (RFC 2617 and 7616)."""

import base64
import hashlib
import hmac
import re
import secrets
from typing import Literal
from urllib.parse import urlsplit

Scheme = Literal["basic", "digest", "both"]

_PAIR = re.compile(r'(\w+)\s*=\s*(?:"([^"]*)"|([^\s,]+))')
_HASHES = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}


class Challenge:
    """Asks for a user and password and judges the answers."""

    def __init__(
        self,
        user: str,
        password: str,
        scheme: Scheme = "digest",
        *,
        algorithm: Literal["MD5", "SHA-256"] = "MD5",
        qop: bool = False,
        realm: str = "TrackShift camera",
    ) -> None:
        self._user, self._password, self._scheme = user, password, scheme
        self._algorithm, self._qop, self._realm = algorithm, qop, realm
        self._nonce = secrets.token_hex(16)

    def renew(self) -> None:
        """Forget the nonce: the next Digest answer is stale, and the 401 says so."""
        self._nonce = secrets.token_hex(16)

    def headers(self, stale: bool = False) -> list[tuple[str, str]]:
        """The WWW-Authenticate headers of a 401."""
        offers = []
        if self._scheme != "basic":
            offer = f'Digest realm="{self._realm}", nonce="{self._nonce}"'
            offer += f", algorithm={self._algorithm}" if self._algorithm != "MD5" or self._qop else ""
            offer += ', qop="auth"' if self._qop else ""
            offers.append(offer + (", stale=true" if stale else ""))
        if self._scheme != "digest":
            offers.append(f'Basic realm="{self._realm}"')
        return [("WWW-Authenticate", offer) for offer in offers]

    def judge(self, method: str, uri: str, authorization: str | None) -> Literal["right", "wrong", "stale"]:
        """Whether this Authorization header is the right one for this request."""
        scheme, _, rest = (authorization or "").strip().partition(" ")
        if scheme.lower() == "basic" and self._scheme != "digest":
            return "right" if self._basic(rest) else "wrong"
        if scheme.lower() == "digest" and self._scheme != "basic":
            return self._digest(method, uri, {k.lower(): a or b for k, a, b in _PAIR.findall(rest)})
        return "wrong"

    def _basic(self, token: str) -> bool:
        expected = base64.b64encode(f"{self._user}:{self._password}".encode())
        return hmac.compare_digest(token.strip().encode(), expected)

    def _digest(self, method: str, uri: str, answer: dict[str, str]) -> Literal["right", "wrong", "stale"]:
        def digest(*parts: str) -> str:
            return _HASHES[self._algorithm](":".join(parts).encode()).hexdigest()

        if answer.get("username") != self._user or answer.get("realm") != self._realm:
            return "wrong"
        if urlsplit(answer.get("uri", "")).path.strip("/") != urlsplit(uri).path.strip("/"):
            return "wrong"
        nonce = answer.get("nonce", "")
        count = [answer.get("nc", ""), answer.get("cnonce", ""), "auth"] if answer.get("qop") == "auth" else []
        if self._qop and not all(count):
            return "wrong"
        secret = digest(self._user, self._realm, self._password)
        expected = digest(secret, nonce, *count, digest(method, answer.get("uri", "")))
        if not hmac.compare_digest(answer.get("response", "").encode(), expected.encode()):
            return "wrong"
        return "right" if hmac.compare_digest(nonce.encode(), self._nonce.encode()) else "stale"
