"""JWTs as credentials: which algorithms, whose, for whom, until when; scopes and cameras from their claims."""

from __future__ import annotations

import base64
import json
import re
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from joserfc import jws
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import KeySet, OctKey

from config import AuthSettings
from models.access import ALL_CAMERAS, NO_CAMERAS, CameraGrant, Principal, effective, known_scopes
from services.access.jwks import KeySource, KeysUnavailable
from utils.exceptions import Unauthorized

# RFC 9864 renamed the algorithm; providers still write the old name, with the same keys.
warnings.filterwarnings("ignore", "EdDSA is deprecated", SecurityWarning)

MAX_TOKEN_CHARS = 8192
MAX_SUBJECT_CHARS = 255
_LATEST = 253_402_300_799  # the last second that datetime knows
_FORM = re.compile(r"[A-Za-z0-9_-]{1,4096}\.[A-Za-z0-9_-]{1,8192}\.[A-Za-z0-9_-]{1,2048}", re.ASCII)
_HEADERS = frozenset({"alg", "kid", "typ", "cty", "x5t", "x5t#S256"})  # a key that a token brings or names is never used
_TYPES = ("jwt", "at+jwt", "application/at+jwt")
_KEY_TYPES = {"RS256": "RSA", "ES256": "EC", "EdDSA": "OKP"}


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _no_constant(_text: str) -> Any:
    raise ValueError("not a JSON number")


def _object(data: bytes) -> dict[str, Any]:
    value = json.loads(data, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


class TokenVerifier:
    """Raises Unauthorized for a token that does not hold, whatever the reason."""

    def __init__(
        self, settings: AuthSettings, source: KeySource | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        """`source` and `clock` stand in for the configured keys and the time in tests."""
        self._settings = settings
        self._clock = clock
        self._secret: OctKey | None = None
        self._source: KeySource | None = None
        if settings.JWT_ALGORITHMS == ["HS256"]:
            self._secret = OctKey.import_key(settings.JWT_SECRET.get_secret_value())
        else:
            self._source = source or KeySource(file=settings.JWKS_FILE, url=settings.JWKS_URL)

    async def verify(self, token: str) -> Principal:
        try:
            return self._principal(await self._claims(token))
        except (JoseError, KeysUnavailable, ValueError, TypeError, KeyError, OverflowError, RecursionError):
            raise Unauthorized(details={"given": True}) from None

    async def _claims(self, token: str) -> dict[str, Any]:
        if len(token) > MAX_TOKEN_CHARS or not _FORM.fullmatch(token):
            raise ValueError("not a compact JWS")
        head = token.partition(".")[0]
        header = _object(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm not in self._settings.JWT_ALGORITHMS or not header.keys() <= _HEADERS:
            raise ValueError("header not accepted")
        if str(header.get("typ", "jwt")).lower() not in _TYPES or not (kid is None or isinstance(kid, str)):
            raise ValueError("header not accepted")
        keys = self._secret or await self._candidates(algorithm, kid)
        verified = jws.deserialize_compact(token, keys, algorithms=[algorithm])
        return _object(verified.payload)

    async def _candidates(self, algorithm: str, kid: str | None) -> KeySet:
        """The keys of the algorithm's own type; with a `kid` the ones of that name, else the only one there is."""
        assert self._source is not None
        found = [
            key for key in (await self._source.keys(kid)).keys
            if key.key_type == _KEY_TYPES[algorithm] and (kid is None or key.kid == kid)
            and key.get("alg", algorithm) == algorithm
        ]  # fmt: skip
        if len(found) != 1:
            raise ValueError("no key, or not one alone, for this token")
        return KeySet(found)

    def _principal(self, claims: dict[str, Any]) -> Principal:
        auth, now = self._settings, self._clock()
        audience = claims["aud"]
        audiences = audience if isinstance(audience, list) else [audience]
        if claims["iss"] != auth.JWT_ISSUER or auth.JWT_AUDIENCE not in audiences:
            raise ValueError("of another issuer, or for another audience")
        expires = _number(claims["exp"])
        if now >= expires + auth.JWT_LEEWAY or _number(claims.get("nbf", 0)) > now + auth.JWT_LEEWAY:
            raise ValueError("not valid now")
        subject = claims["sub"]
        if not isinstance(subject, str) or not 0 < len(subject) <= MAX_SUBJECT_CHARS or not subject.isprintable():
            raise ValueError("no subject")
        given = claims.get("scope", "")
        names = given.split(" ") if isinstance(given, str) else _texts(given)
        scopes, cameras = effective(known_scopes(names), self._cameras(claims.get(auth.JWT_CAMERAS_CLAIM)))
        at = datetime.fromtimestamp(min(expires + auth.JWT_LEEWAY, _LATEST), UTC)
        return Principal(subject, "jwt", f"jwt:{subject}", scopes, cameras, at)

    def _cameras(self, claim: Any) -> CameraGrant:
        if claim is None or claim == []:
            return ALL_CAMERAS if self._settings.JWT_CAMERAS_DEFAULT == "all" else NO_CAMERAS
        return CameraGrant.of(_texts(claim))


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("not a number")
    return float(value)


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("not a list of texts")
    return value
