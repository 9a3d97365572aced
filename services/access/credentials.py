"""From a credential to its principal: API keys, the bootstrap secret, JWTs and browser sessions.

Rows of keys and sessions are cached as long as the database confirms that none of them has changed: `AccessState.version`
rises with each change and is read every POLL_INTERVAL, and at once when the database notifies. A row that was not confirmed
for CONFIRMED_FOR seconds is read again. So a revoked key is refused by every process within 2 s, whether notifications
come or not, and when the database is away nobody is let in by a row that may have changed. On the event loop.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from config import Settings
from models.access import ALL_CAMERAS, ALL_SCOPES, CameraGrant, Principal, effective, known_scopes
from models.entities import ApiKey, BrowserSession, WsTicket
from repositories.database import Database
from services.access.key_text import PREFIX, hash_of, key_id_of
from utils.exceptions import Unauthorized

if TYPE_CHECKING:
    from services.access.jwts import TokenVerifier

CONFIRMED_FOR = 1.2  # seconds
MAX_CACHED = 10_000  # rows of each kind; known and unknown ids
LOOKUPS = 8  # of rows that are not cached, at once: strangers' guesses must not take the pool
BOOTSTRAP = "bootstrap"
R = TypeVar("R")


def refused() -> Unauthorized:
    """A credential was given and does not hold; the same answer whatever the reason."""
    return Unauthorized("The credential is wrong, has expired or was revoked.", details={"given": True})


def _over(principal: Principal) -> bool:
    return principal.expires_at is not None and principal.expires_at <= datetime.now(UTC)


class RowCache(OrderedDict[str, tuple[float, R | None]]):
    """Rows by id with the time of their reading, the oldest reading first; None: there is no such row."""

    def keep(self, row_id: str, row: R | None, at: float) -> None:
        self[row_id] = (at, row)
        self.move_to_end(row_id)
        if len(self) > MAX_CACHED:
            self.popitem(last=False)


class CredentialCheck:
    """`identify` for a credential, `session` for a cookie's value, `renewed` for a principal that is still at it."""

    def __init__(
        self, settings: Settings, database: Database, tokens: TokenVerifier | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """`tokens`: None where JWTs are not accepted. `clock` stands in for the time in tests."""
        auth = settings.AUTH
        self._database = database
        self._tokens = tokens
        self._clock = clock
        self._keys_accepted = auth.MODE in ("keys", "both")
        bootstrap = auth.BOOTSTRAP_KEY.get_secret_value()
        self._bootstrap = hash_of(bootstrap) if bootstrap and self._keys_accepted else None
        self._keys: RowCache[ApiKey] = RowCache()
        self._sessions: RowCache[BrowserSession] = RowCache()
        self._version: int | None = None
        self._confirmed = float("-inf")  # when the newest successful poll began: nothing had changed then
        self._principals: dict[str, tuple[ApiKey, Principal]] = {}  # by the hash of a key that held
        self._lookups = asyncio.Semaphore(LOOKUPS)
        self.used: set[str] = set()  # ids of keys that were used since this was last taken

    # -- credentials -------------------------------------------------------------------------------------------

    async def identify(self, credential: str) -> Principal:
        """Raises Unauthorized, DatabaseUnavailable for keys."""
        if credential.startswith(PREFIX):
            return await self._by_key(credential)
        if self._bootstrap is not None and hmac.compare_digest(hash_of(credential), self._bootstrap):
            return Principal(BOOTSTRAP, "key", f"key:{BOOTSTRAP}", ALL_SCOPES, ALL_CAMERAS)
        if self._tokens is None:
            raise refused()
        return await self._tokens.verify(credential)

    async def session(self, value: str) -> Principal:
        """The principal of a browser session by its cookie's value. Raises Unauthorized, DatabaseUnavailable."""
        if len(value) > 128:
            raise refused()
        return await self._by_session(hash_of(value))

    async def renewed(self, principal: Principal) -> Principal:
        """The principal as it stands now, for work that lasts. Raises Unauthorized, DatabaseUnavailable."""
        if principal.session_id is not None:
            return await self._by_session(principal.session_id)
        if principal.secret_hash is not None:
            return self._of_key(await self._key(principal.subject), principal.secret_hash)
        if principal.expires_at is not None and principal.expires_at <= datetime.now(UTC):
            raise refused()
        return principal

    def session_row(self, credential: str, principal: Principal, value: str, expires_at: datetime) -> BrowserSession:
        """The row of a new browser session of `principal`, who gave `credential`; `value`: the cookie's."""
        kind = BOOTSTRAP if principal.subject == BOOTSTRAP and principal.kind == "key" else principal.kind
        return BrowserSession(
            id=hash_of(value), kind=kind, subject=principal.subject,
            secret_hash=hash_of(credential) if kind != "jwt" else None,
            scopes=sorted(principal.scopes) if kind == "jwt" else [],
            cameras=list(principal.cameras.patterns) if principal.cameras.patterns is not None else None,
            expires_at=expires_at,
        )  # fmt: skip

    def ticket_row(self, principal: Principal, value: str, expires_at: datetime) -> WsTicket:
        """The row of a new ticket of `principal`; `value`: the ticket."""
        kind: str = principal.kind
        if principal.subject == BOOTSTRAP and principal.owner == f"key:{BOOTSTRAP}" and principal.session_id is None:
            kind = BOOTSTRAP
        return WsTicket(
            id=hash_of(value), kind=kind, subject=principal.subject, secret_hash=principal.secret_hash,
            session_id=principal.session_id, scopes=sorted(principal.scopes) if kind == "jwt" else [],
            cameras=list(principal.cameras.patterns) if principal.cameras.patterns is not None else None,
            credential_until=principal.expires_at, expires_at=expires_at,
        )  # fmt: skip

    async def of_ticket(self, row: WsTicket) -> Principal:
        """Whom a ticket stands for, as its credential is now. Raises Unauthorized, DatabaseUnavailable."""
        if row.kind == "session":
            return await self._by_session(row.session_id or "")
        if row.kind == "jwt":
            if self._tokens is None or (row.credential_until is not None and row.credential_until <= datetime.now(UTC)):
                raise refused()
            scopes, cameras = effective(known_scopes(row.scopes), CameraGrant.of(row.cameras))
            return Principal(row.subject, "jwt", f"jwt:{row.subject}", scopes, cameras, row.credential_until)
        if row.kind == BOOTSTRAP:
            if self._bootstrap is None:
                raise refused()
            return Principal(BOOTSTRAP, "key", f"key:{BOOTSTRAP}", ALL_SCOPES, ALL_CAMERAS)
        if not self._keys_accepted:
            raise refused()
        return self._of_key(await self._key(row.subject), row.secret_hash or "")

    # -- changes -----------------------------------------------------------------------------------------------

    def confirm(self, version: int, began: float) -> None:
        """A poll that began at `began` (by the clock) found this version."""
        if version != self._version:
            self._version = version
            self._keys.clear()
            self._sessions.clear()
        self._confirmed = max(self._confirmed, began)

    def doubt(self) -> None:
        """Something has changed: every row is read again."""
        self._keys.clear()
        self._sessions.clear()

    # -- helpers -----------------------------------------------------------------------------------------------

    async def _by_key(self, text: str) -> Principal:
        secret_hash = hash_of(text)
        known = self._principals.get(secret_hash)
        key_id = known[1].subject if known is not None else key_id_of(text)
        if key_id is None or not self._keys_accepted:
            raise refused()
        row = await self._key(key_id)
        if known is not None and known[0] is row and not _over(known[1]):
            principal = known[1]  # made of this very row
        else:
            principal = self._of_key(row, secret_hash)
            assert row is not None
            if len(self._principals) >= MAX_CACHED:
                self._principals.clear()
            self._principals[secret_hash] = (row, principal)
        self.used.add(key_id)
        return principal

    async def _by_session(self, session_id: str) -> Principal:
        row = await self._cached(self._sessions, session_id, self._read_session)
        if row is None or row.expires_at <= datetime.now(UTC):
            raise refused()
        if row.kind == "jwt":
            if self._tokens is None:
                raise refused()
            scopes, cameras = effective(known_scopes(row.scopes), CameraGrant.of(row.cameras))
            return Principal(row.subject, "session", f"jwt:{row.subject}", scopes, cameras, row.expires_at, row.id)
        secret = row.secret_hash or ""
        if row.kind == BOOTSTRAP:
            if self._bootstrap is None or not hmac.compare_digest(secret, self._bootstrap):
                raise refused()
            return Principal(BOOTSTRAP, "session", f"key:{BOOTSTRAP}", ALL_SCOPES, ALL_CAMERAS, row.expires_at, row.id)
        if not self._keys_accepted:
            raise refused()
        of_key = self._of_key(await self._key(row.subject), secret)
        expires = min(row.expires_at, of_key.expires_at or row.expires_at)
        return Principal(of_key.subject, "session", of_key.owner, of_key.scopes, of_key.cameras, expires, row.id)

    @staticmethod
    def _of_key(row: ApiKey | None, secret_hash: str) -> Principal:
        """The key's principal, if the secret is its own, or the one before its rotation while that is good."""
        if row is None or row.revoked_at is not None:
            raise refused()
        until = row.expires_at
        if not hmac.compare_digest(row.secret_hash, secret_hash):
            if row.previous_hash is None or not hmac.compare_digest(row.previous_hash, secret_hash):
                raise refused()
            until = min(filter(None, (row.expires_at, row.previous_until)))
        if until is not None and until <= datetime.now(UTC):
            raise refused()
        scopes, cameras = effective(known_scopes(row.scopes), CameraGrant.of(row.cameras))
        return Principal(row.key_id, "key", f"key:{row.key_id}", scopes, cameras, until, secret_hash=secret_hash)

    async def _key(self, key_id: str) -> ApiKey | None:
        return await self._cached(self._keys, key_id, self._read_key)

    async def _cached(self, cache: RowCache[R], row_id: str, read: Callable[[str], Awaitable[R | None]]) -> R | None:
        now = self._clock()
        found = cache.get(row_id)
        if found is not None and max(found[0], self._confirmed) > now - CONFIRMED_FOR:
            return found[1]
        async with self._lookups:
            version, began = self._version, self._clock()
            row = await read(row_id)
        if version == self._version:  # else a change was seen meanwhile, and this may be from before it
            cache.keep(row_id, row, began)
        return row

    async def _read_key(self, key_id: str) -> ApiKey | None:
        async with self._database.one_statement(events=False) as uow:
            return await uow.api_keys.get(key_id)

    async def _read_session(self, session_id: str) -> BrowserSession | None:
        async with self._database.one_statement(events=False) as uow:
            return await uow.browser_sessions.get(session_id)
