"""Whether this process's SECRETS__KEYS open what the database holds: asked of a canary per key.

A process with other keys would take over captures whose cameras it cannot open, and seal URLs that nobody else can open. So
it claims no capture and seals nothing until the keys are right. The first process on a database decides whose they are.
"""

from __future__ import annotations

from repositories.database import Database, UnitOfWork
from utils.exceptions import IngestionException, SecretUnreadable
from utils.logger import get_logger
from utils.metrics import SECRET_KEYS_MISSING
from utils.secret_box import SecretBox

log = get_logger(__name__)

POLL_INTERVAL = 15.0  # seconds
_TEXT = "canary"


class KeyGuard:
    """One a process. On the event loop."""

    def __init__(self, database: Database, box: SecretBox) -> None:
        self._database = database
        self._box = box

    async def poll(self) -> None:
        """Compares now, and writes the first key's canary when it is used for the first time. Raises DatabaseUnavailable."""
        missing = frozenset(await self._database.retry_until_known(self._compare))
        if missing and missing != self._box.missing:
            log.error(
                "secret_keys_missing", key_ids=sorted(missing), have=self._box.key_ids,
                effect="no capture is claimed, no camera URL is encrypted", hint="set SECRETS__KEYS as in other processes",
            )  # fmt: skip
        elif self._box.missing and not missing:
            log.info("secret_keys_complete")
        self._box.missing = missing
        SECRET_KEYS_MISSING.set(len(missing))

    async def check(self) -> str:
        """For /health. Raises IngestionException while keys are missing."""
        if self._box.missing:
            missing = ", ".join(sorted(self._box.missing))
            raise IngestionException(f"SECRETS__KEYS lacks {missing}: no capture is claimed, what needs a URL is 503")
        return "the keys open what the database holds"

    async def _compare(self, uow: UnitOfWork) -> list[str]:
        found = await uow.secrets.canaries()
        missing = [name for name, canary in found.items() if not self._opens(name, canary)]
        own = self._box.key_ids[0]
        if not missing and found.get(own) is None:
            found = await uow.secrets.lock_canaries()
            missing = [name for name, canary in found.items() if not self._opens(name, canary)]
            if not missing:
                await uow.secrets.write_canary(own, self._box.seal_always(_TEXT))
        return missing

    def _opens(self, name: str, canary: str | None) -> bool:
        if name not in self._box.key_ids:
            return False
        try:
            return canary is None or self._box.open(canary) == _TEXT
        except SecretUnreadable:
            return False
