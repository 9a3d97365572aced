"""PostgreSQL and a store for benchmarks, beside the measured service and not its children."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop
from pydantic import SecretStr

from config import DbSettings, StorageSettings
from repositories.migrations.run import upgrade
from tests.conftest import Backends
from utils.embedded.supervisor import EmbeddedParts


@contextmanager
def parts(folder: Path) -> Iterator[Backends]:
    """With all tables. Not for use in an event loop."""
    made = EmbeddedParts(
        folder / "parts", postgres=True, object_store=True, database="trackshift", bucket="bench", on_event=lambda *_: None
    )
    made.start()
    try:
        assert made.postgres is not None
        assert made.object_store is not None
        postgres, store = made.postgres, made.object_store
        db = DbSettings(HOST=str(postgres.host), PORT=postgres.port, USER=postgres.user, NAME=postgres.database)
        storage = StorageSettings(
            ENDPOINT=store.endpoint, ACCESS_KEY=SecretStr(store.access_key), SECRET_KEY=SecretStr(store.secret_key),
            BUCKET_NAME="bench",
        )  # fmt: skip
        uvloop.run(upgrade(db))
        yield Backends(db, storage, outside=False)
    finally:
        made.stop()


def dsn(db: DbSettings) -> str:
    return f"postgresql://{db.USER}@/{db.NAME}?host={db.HOST}&port={db.PORT}"
