"""What a start demands of PostgreSQL and the object store, and what /health asks of the parts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_delay, wait_fixed

from config import Environment, Settings
from repositories.database import Database
from repositories.engine import is_unavailable
from repositories.migrations.run import SchemaRefused, SchemaWaits
from services.execution.embedded_parts import StartError
from services.execution.health import Degraded
from services.redis.away import RedisAway
from services.spool.spool import Spool
from services.storage_service.service import StorageService
from utils.exceptions import IngestionException
from utils.logger import get_logger
from utils.urls import mask_text

if TYPE_CHECKING:
    from services.redis.link import RedisLink

log = get_logger(__name__)

START_TIMEOUT = 30.0  # seconds that a start waits for PostgreSQL and the object store to answer
START_RETRY_INTERVAL = 0.5  # seconds
SPOOL_WARNING_AGE = 60.0  # seconds that a spooled frame may wait before health says degraded


def is_transient(error: BaseException) -> bool:
    """Whether the database or the store may answer later."""
    if isinstance(error, IngestionException):
        return error.retryable
    return is_unavailable(error) or isinstance(error, SchemaWaits)


async def wait_until_usable(
    part: str, work: Callable[[], Awaitable[object]], sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> None:
    """Runs `work`, again while its part is still coming up, for START_TIMEOUT. Raises StartError."""

    def waiting(state: RetryCallState) -> None:
        if state.attempt_number == 1 and state.outcome is not None:
            error = state.outcome.exception()
            told = {"detail": str(error)} if isinstance(error, SchemaWaits) else {}
            log.info("waiting_for", part=part, reason=type(error).__name__, **told)

    retrying = AsyncRetrying(
        retry=retry_if_exception(is_transient), stop=stop_after_delay(START_TIMEOUT),
        wait=wait_fixed(START_RETRY_INTERVAL), before_sleep=waiting, sleep=sleep, reraise=True,
    )  # fmt: skip
    try:
        await retrying(work)
    except (SchemaRefused, SchemaWaits) as error:
        raise StartError(f"The database's schema does not fit: {error}.") from error
    except Exception as error:
        reason = mask_text(str(error) or "no answer").splitlines()[0]
        raise StartError(f"{part} cannot be used: {type(error).__name__}: {reason}") from error


async def check_durability(settings: Settings, database: Database) -> None:
    """Production refuses a PostgreSQL that can lose commits (docs/rules.md, rule 8). Raises StartError."""
    found = await database.durability_settings()
    if int(found["server_version_num"]) < 150_000:
        raise StartError("PostgreSQL is older than 15.")
    off = [name for name in ("fsync", "full_page_writes", "synchronous_commit") if found[name] == "off"]
    if off and settings.ENVIRONMENT is Environment.PRODUCTION:
        raise StartError(f"PostgreSQL runs with {', '.join(off)} off: it can lose what was acknowledged.")
    if off:
        log.warning("database_not_durable", off=off)


async def check_database(database: Database) -> str:
    """Raises DatabaseUnavailable."""
    return f"PostgreSQL {await database.version()}"


async def check_storage(storage: StorageService) -> str:
    """Raises StorageUnavailable."""
    await storage.check()
    return f"bucket {storage.bucket}"


async def check_redis(redis: RedisLink) -> str:
    """Raises Degraded: nothing needs Redis."""
    try:
        await redis.check()
    except RedisAway as error:
        raise Degraded(f"Redis is not used ({error.reason}): each process counts its callers' limits for itself") from None
    return "the limits of all processes together"


async def check_spool(spool: Spool) -> str:
    """Raises Degraded when frames were dropped, or wait for too long."""
    state = spool.state()
    held = f"{state.frames} frames, {state.bytes} bytes, the oldest {state.oldest:.0f} s"
    if state.full:
        raise Degraded(f"full: frames were dropped; {held}")
    if state.oldest > SPOOL_WARNING_AGE:
        raise Degraded(f"frames wait for store or database; {held}")
    return held
