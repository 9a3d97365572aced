"""The keys of what rests encrypted (camera URLs), and what keeps the rows under them."""

from __future__ import annotations

import json
from typing import Any

from tenacity import AsyncRetrying, retry_if_exception_type, wait_fixed

from config import ConfigurationError, Environment, Settings
from repositories.database import Database
from repositories.secrets import SEALED
from utils.embedded.files import write_private
from utils.exceptions import DatabaseUnavailable
from utils.logger import get_logger
from utils.secret_box import SecretBox, is_key, new_key

log = get_logger(__name__)

KEY_FILE = "secrets.keys"  # in DATA_DIR; its text is what SECRETS__KEYS would be
BATCH = 500
RETRY_INTERVAL = 5.0  # seconds between tries while the database is away


def open_box(settings: Settings) -> SecretBox:
    """The box for these settings. Without SECRETS__KEYS the key of DATA_DIR, made at the first start.

    Raises ConfigurationError: in production without keys, and for a key file that cannot be used. A file that is
    there is never replaced: what its keys have encrypted would be lost.
    """
    if settings.SECRETS.KEYS:
        return SecretBox([key.get_secret_value() for key in settings.SECRETS.KEYS])
    if settings.ENVIRONMENT is Environment.PRODUCTION:
        raise ConfigurationError(["SECRETS__KEYS is empty"])
    path = settings.DATA_DIR / KEY_FILE
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        key = new_key()
        write_private(path, json.dumps([key]) + "\n")
        box = SecretBox([key])
        log.info("secrets_key_made", path=str(path), key_id=box.key_ids[0])
        return box
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError([f"{path} cannot be read ({type(error).__name__})"]) from None
    try:
        keys = json.loads(text)
    except ValueError:
        keys = None
    if not isinstance(keys, list) or not keys or not all(isinstance(key, str) and is_key(key) for key in keys):
        raise ConfigurationError([f"{path} is damaged: it should be a JSON list of Fernet keys. Restore it from a backup"])
    return SecretBox(keys)


async def seal_plain(database: Database, box: SecretBox) -> int:
    """Encrypts URLs from before encryption; returns how many there were."""
    sealed = 0
    while True:
        async with database.unit_of_work() as uow:
            done = await uow.secrets.seal_plain(box, BATCH)
        sealed += done
        if done == 0:
            return sealed


async def put_in_order(database: Database, box: SecretBox, *, everything: bool) -> None:
    """At a start, beside the work: seals plain rows (`everything`: also those under older keys), reports what no key opens.

    Waits out an absent database; never raises.
    """

    async def once() -> None:
        if box.missing:  # `key_guard` says so
            return
        for name, cameras in (await unreadable(database, box)).items():
            log.error("secrets_unreadable", key_id=name, cameras=cameras, hint="add that key to SECRETS__KEYS")
        done, left = await reseal_all(database, box) if everything else (await seal_plain(database, box), 0)
        if done or left:
            log.info("secrets_sealed", urls=done, unreadable=left)

    retrying = AsyncRetrying(retry=retry_if_exception_type(DatabaseUnavailable), wait=wait_fixed(RETRY_INTERVAL))
    try:
        await retrying(once)
    except Exception:
        log.exception("secrets_failed")


async def unreadable(database: Database, box: SecretBox) -> dict[str, int]:
    """Registered cameras whose URL no key here opens, counted by the id of the key that they need."""
    async with database.unit_of_work() as uow:
        needed = await uow.secrets.camera_keys()
    return {name: count for name, count in needed.items() if name and name not in box.key_ids}


async def reseal_all(database: Database, box: SecretBox) -> tuple[int, int]:
    """Encrypts again what is not under the first key: (done, left because no key opens it). Safe while services run."""
    done = left = 0
    for table in range(len(SEALED)):
        after: Any = None
        while True:
            async with database.unit_of_work() as uow:
                batch = await uow.secrets.reseal(table, box, after, BATCH)
            done, left, after = done + batch.done, left + batch.unreadable, batch.after
            if after is None:
                break
    if not left:
        async with database.unit_of_work() as uow:
            await uow.secrets.forget_unused(box.key_ids[0])
    return done, left
