"""How PostgreSQL is reached: by itself, or through a pooler that lends a session or a single transaction.

| DB__POOLER | the session's values (timeouts, jit) | prepared statements | what spans transactions |
|---|---|---|---|
| none | in the startup message | named, cached | everything |
| session | SET after the connection is made: PgBouncer refuses them in a startup message | named, cached | everything |
| transaction | SET LOCAL, with each BEGIN in one message | the unnamed one, parsed again each time | nothing |

Behind a pooler in transaction mode two messages outside of a transaction may reach two sessions of the server, and asyncpg
sends two for a statement (Parse, then Bind): a statement that is a transaction by itself gets its BEGIN and COMMIT here.

A statement that was prepared before its table changed is refused by PostgreSQL ("cached plan must not change result
type"). It is prepared again and run once more where that repeats nothing: outside of a transaction, as the first
statement of one, and in a read-only one. Elsewhere the transaction has failed (`is_outdated` in `engine.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import asyncpg
from asyncpg.exceptions import InvalidCachedStatementError

from config import DbSettings


@dataclass(slots=True)
class SchemaAge:
    """How often an engine's prepared statements were found outdated: those of before then are prepared again."""

    changes: int = 0


class ServerConnection(asyncpg.Connection):  # type: ignore[misc]
    """A connection whose statements survive a pooler and a changed schema. `_connection_class` fills in its class values."""

    at_begin = ""  # statements that each BEGIN carries
    lent = False  # for single transactions, by a pooler
    schema = SchemaAge()
    _began = "BEGIN;"
    _run = 0  # statements since then

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """As asyncpg's: with a BEGIN, which asyncpg's transactions send by this method, go the transaction's values."""
        if query.startswith("BEGIN") and not args:
            self._began, self._run = query, 0
            query += self.at_begin
        return str(await super().execute(query, *args, timeout=timeout))

    async def executemany(self, command: str, args: Any, *, timeout: float | None = None) -> None:
        self._run += 1
        if not self.lent or self.is_in_transaction():
            await super().executemany(command, args, timeout=timeout)
            return
        async with self.transaction():
            await super().executemany(command, args, timeout=timeout)

    async def prepare(self, query: str, *, name: str | None = None, timeout: float | None = None, **more: Any) -> Statement:
        """As asyncpg's. Lent and outside of a transaction: begins one, which the statement's `fetch` ends."""
        alone = self.lent and not self.is_in_transaction()
        if alone:
            await self.execute("BEGIN;")
        try:
            prepared = await super().prepare(query, name=name, timeout=timeout, **more)
        except Exception:
            if alone:
                await self.undo()
            raise
        return Statement(self, query, name, prepared, alone)

    async def prepare_again(self, query: str, name: str | None) -> Any:
        return await super().prepare(query, name=name)

    @property
    def repeatable(self) -> bool:
        """Whether a refused statement can run again: what came before it in its transaction left nothing behind.

        At READ COMMITTED each statement sees a snapshot of its own.
        """
        reads = "READ ONLY" in self._began and "REPEATABLE" not in self._began and "SERIALIZABLE" not in self._began
        return not self.is_in_transaction() or not self._run or reads

    async def begin_again(self) -> None:
        """After an error: a new transaction in place of the one that failed."""
        if self.is_in_transaction():
            await super().execute("ROLLBACK;")
            await self.execute(self._began)

    def count(self) -> None:
        self._run += 1

    async def undo(self) -> None:
        """Rolls back; a connection on which that fails is closed."""
        try:
            await self.execute("ROLLBACK;")
        except Exception:
            self.terminate()


class Statement:
    """A prepared statement, as far as SQLAlchemy uses one; prepared again when its table has changed since."""

    def __init__(self, connection: ServerConnection, query: str, name: str | None, prepared: Any, alone: bool) -> None:
        self._connection = connection
        self._query, self._name = query, name
        self._prepared = prepared
        self._alone = alone  # its transaction was begun for it
        self._age = connection.schema.changes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._prepared, name)

    async def fetch(self, *args: Any, timeout: float | None = None) -> list[Any]:
        """Runs it; raises asyncpg's errors."""
        if self._alone:
            return await self._fetch_alone(args, timeout)
        connection = self._connection
        if self._age != connection.schema.changes:
            await self._again()
        try:
            rows: list[Any] = await self._prepared.fetch(*args, timeout=timeout)
        except InvalidCachedStatementError:
            connection.schema.changes += 1
            if not connection.repeatable:
                raise
            await connection.begin_again()
            await self._again()
            rows = await self._prepared.fetch(*args, timeout=timeout)
        connection.count()
        return rows

    async def _fetch_alone(self, args: Any, timeout: float | None) -> list[Any]:
        try:
            rows: list[Any] = await self._prepared.fetch(*args, timeout=timeout)
        except Exception:
            await self._connection.undo()
            raise
        await self._connection.execute("COMMIT;")
        return rows

    async def _again(self) -> None:
        self._prepared = await self._connection.prepare_again(self._query, self._name)
        self._age = self._connection.schema.changes


def _settings(values: dict[str, str], local: bool) -> str:
    scope = "SET LOCAL" if local else "SET"
    return "".join(f" {scope} {name} = '{value}';" for name, value in values.items())


def _connection_class(at_begin: str, lent: bool) -> type[ServerConnection]:
    return type("ServerConnection", (ServerConnection,), {"at_begin": at_begin, "lent": lent, "schema": SchemaAge()})


def arguments(db: DbSettings, application_name: str, values: dict[str, str], *, startup: dict[str, str]) -> dict[str, Any]:
    """asyncpg's arguments for SQLAlchemy's engine. `values`: of the session; `startup`: those without a pooler only.

    The password, name and address are not among them: `database_url` has them.
    """
    given: dict[str, Any] = {
        "timeout": db.CONNECT_TIMEOUT,
        "ssl": False if db.HOST.startswith("/") else db.SSL,
        "server_settings": {"application_name": application_name},
    }
    if db.POOLER == "none":
        given["server_settings"] |= values | startup
        given["connection_class"] = _connection_class("", lent=False)
    elif db.POOLER == "session":
        given["connection_class"] = _connection_class("", lent=False)
        given["async_creator_fn"] = _opener(_settings(values, local=False))
    else:
        given |= {
            "connection_class": _connection_class(_settings(values, local=True), lent=True),
            "statement_cache_size": 0, "prepared_statement_cache_size": 0, "prepared_statement_name_func": lambda: "",
        }  # fmt: skip
    return given


def _opener(first: str) -> Callable[..., Any]:
    """asyncpg.connect, and `first` is run on the new connection."""

    async def opened(*args: Any, **given: Any) -> Any:
        connection = await asyncpg.connect(*args, **given)
        try:
            if first:
                await connection.execute(first)
        except BaseException:
            connection.terminate()
            raise
        return connection

    return opened


async def connect(db: DbSettings, application_name: str, values: dict[str, str]) -> Any:
    """A connection of its own, beside the pool. In transaction mode everything on it belongs into `transaction()`.

    Raises asyncpg's errors, OSError, TimeoutError.
    """
    return await connect_by(db, arguments(db, application_name, values, startup={}))


async def connect_by(db: DbSettings, given: dict[str, Any]) -> Any:
    """The same by what `arguments` gave."""
    driver = {name: value for name, value in given.items() if not name.startswith("prepared_statement")}  # SQLAlchemy's
    opened = driver.pop("async_creator_fn", asyncpg.connect)
    return await opened(
        host=db.HOST, port=db.PORT, user=db.USER, password=db.PASSWORD.get_secret_value() or None, database=db.NAME, **driver
    )
