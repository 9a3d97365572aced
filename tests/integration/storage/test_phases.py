"""Two versions side by side on one schema: what each step may do, and which code starts on which schema."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator
from functools import partial
from importlib import import_module
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from config import VERSION, DbSettings
from repositories.migrations import steps as known
from repositories.migrations.run import SchemaRefused, SchemaWaits, downgrade, read_schema, upgrade, wait
from services.execution.checks import wait_until_usable
from services.execution.embedded_parts import StartError
from services.execution.schema import migrate_or_wait
from tests.conftest import ROOT, Backends, make_database, migrated_database
from tests.kits.catalogue import catalogue, narrowed

VERSIONS = ROOT / "repositories" / "migrations" / "versions"
HEAD = known.revisions()[0]


async def connect(db: DbSettings) -> Any:
    return await asyncpg.connect(
        host=db.HOST, port=db.PORT, user=db.USER, password=db.PASSWORD.get_secret_value() or None, database=db.NAME
    )


@pytest_asyncio.fixture
async def db(backends: Backends) -> DbSettings:
    return await migrated_database(backends.db, f"phases_{secrets.token_hex(5)}")


@pytest_asyncio.fixture
async def connection(db: DbSettings) -> AsyncIterator[Any]:
    made = await connect(db)
    yield made
    await made.close()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def empty(backends: Backends) -> DbSettings:
    """Without rows, and nobody else's: statements lock whole tables. Nothing is committed."""
    return await migrated_database(backends.db, f"phases_{secrets.token_hex(5)}")


def module_of(revision: str) -> Any:
    name = next(path.stem for path in VERSIONS.glob(f"{revision}_*.py"))
    return import_module(f"repositories.migrations.versions.{name}")


@pytest.mark.timeout(120)
async def test_an_expand_only_adds(backends: Backends) -> None:
    """Step by step: what code of before relies on is there afterwards."""
    db = await make_database(backends.db, f"phases_{secrets.token_hex(5)}")
    connection = await connect(db)
    before, found = await catalogue(connection), list[str]()
    for step in known.steps():
        await upgrade(db, step.revision)
        after = await catalogue(connection)
        problems = narrowed(before, after, getattr(module_of(step.revision), "PASSES", {}))
        if (step.phase == "expand") != (not problems):
            found += [f"{step.revision}: {problem}" for problem in problems or ["is marked contract and only adds"]]
        before = after
    await connection.close()
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DROP TABLE pairs", "table pairs is gone"),
        ("ALTER TABLE pairs RENAME TO couples", "table pairs is gone"),
        ("ALTER TABLE frames DROP COLUMN quality", "column frames.quality is gone"),
        ("ALTER TABLE frames RENAME COLUMN hold_reason TO why", "column frames.hold_reason is gone"),
        ("ALTER TABLE frames ALTER COLUMN width TYPE bigint", "column frames.width was integer and is bigint"),
        ("ALTER TABLE frames ALTER COLUMN hold_reason SET NOT NULL", "column frames.hold_reason must not be null any more"),
        ("ALTER TABLE frames ALTER COLUMN stored_at DROP DEFAULT", "column frames.stored_at has lost its default"),
        ("ALTER TABLE pairs ADD COLUMN x int NOT NULL", "new column pairs.x has no default and must not be null"),
        ("ALTER TABLE frames ADD CONSTRAINT x CHECK (width > 1)", "constraint frames.x is new, and not NOT VALID"),
        ("ALTER TABLE pairs ADD CONSTRAINT x UNIQUE (created_at)", "unique index pairs.x is new"),
        ("CREATE INDEX x ON frames (width)", "index frames.x is new on a large table, and nothing says how it is made"),
        ("DROP INDEX uq_pairs_frames_label", "unique index pairs.uq_pairs_frames_label is gone"),
        (
            "DROP FUNCTION slot_count CASCADE; CREATE FUNCTION slot_count(s int4multirange, extra int) RETURNS int "
            "LANGUAGE sql AS 'SELECT 1'",
            "function slot_count(int4multirange) is gone: keep the old signature for one version",
        ),
        (
            "DROP FUNCTION slot_count CASCADE; CREATE FUNCTION slot_count(other int4multirange) RETURNS int "
            "LANGUAGE sql AS 'SELECT 1'",
            "function slot_count(int4multirange) has other names, defaults or results",
        ),
    ],
)
async def test_what_is_no_expand_is_told(empty: DbSettings, statement: str, said: str) -> None:
    connection = await connect(empty)
    before = await catalogue(connection)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(statement)
    assert said in narrowed(before, await catalogue(connection), {})
    await connection.close()  # and rolled back


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE x (y int NOT NULL UNIQUE)",
        "ALTER TABLE frames ADD COLUMN x int NOT NULL DEFAULT 1 CHECK (x > 0)",
        "ALTER TABLE frames ADD CONSTRAINT x CHECK (width > 0) NOT VALID",
        "ALTER TABLE frames ALTER COLUMN sha256 DROP NOT NULL",
        "CREATE INDEX x ON workers (host)",
        "CREATE FUNCTION slot_count(s int4multirange, extra int) RETURNS int LANGUAGE sql AS 'SELECT 1'",
    ],
)
async def test_what_only_adds_is_not_told(empty: DbSettings, statement: str) -> None:
    connection = await connect(empty)
    before = await catalogue(connection)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(statement)
    assert narrowed(before, await catalogue(connection), {}) == []
    await connection.close()  # and rolled back


async def later(connection: Any, *made: tuple[str, str | None]) -> None:
    """Writes down what a newer version's migrations would: their phase, and from which release a contract is safe."""
    number = await connection.fetchval("SELECT max(number) FROM schema_steps")
    for phase, safe_from in made:
        number += 1
        add = "INSERT INTO schema_steps (number, revision, phase, safe_from) VALUES ($1, $2, $3, $4)"
        await connection.execute(add, number, f"9{number:03}", phase, safe_from)
    await connection.execute("UPDATE alembic_version SET version_num = $1", f"9{number:03}")


async def test_this_version_starts_on_a_schema_to_which_newer_ones_have_added(db: DbSettings, connection: Any) -> None:
    await later(connection, ("expand", None), ("contract", VERSION), ("expand", None))
    await wait_until_usable("PostgreSQL", partial(migrate_or_wait, db))
    found = await read_schema(db)
    assert [step.phase for step in found.unknown] == ["expand", "contract", "expand"]
    assert await connection.fetchval("SELECT version_num FROM alembic_version") == found.unknown[-1].revision


async def test_this_version_refuses_a_schema_that_lost_what_it_uses(db: DbSettings, connection: Any) -> None:
    await later(connection, ("expand", None), ("contract", "99.0.1"), ("expand", None))
    with pytest.raises(StartError) as told:
        await wait_until_usable("PostgreSQL", partial(migrate_or_wait, db))
    assert f"took away what version {VERSION} uses: start version 99.0.1 or a newer one" in str(told.value)


async def test_a_schema_of_another_line_is_refused(db: DbSettings, connection: Any) -> None:
    await connection.execute("UPDATE alembic_version SET version_num = 'abcd'; DELETE FROM schema_steps")
    with pytest.raises(SchemaRefused, match="neither knows nor finds"):
        await upgrade(db)


async def alive(connection: Any, version: str) -> None:
    await connection.execute(
        "INSERT INTO workers (worker_id, role, site, host, version, started_at, lease_ttl) "
        "VALUES (gen_random_uuid(), 'worker', 'default', 'pit-2', $1, now(), 10)", version,
    )  # fmt: skip


async def test_a_contract_waits_until_no_process_uses_what_goes(
    db: DbSettings, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = known.steps()
    await alive(connection, "0.9.12")
    last = chain[-1]
    before = chain[-2].revision
    await connection.execute("UPDATE alembic_version SET version_num = $1", before)  # the last step is missing
    contract = known.Step(last.revision, "contract", "0.10.0")
    monkeypatch.setattr("repositories.migrations.run.steps", lambda: (*chain[:-1], contract))
    await upgrade(db)  # what is only taken away may wait
    assert await connection.fetchval("SELECT version_num FROM alembic_version") == before
    blocking = (await read_schema(db)).blocking
    assert blocking is not None
    assert [(each.host, each.version) for each in blocking[1]] == [("pit-2", "0.9.12")]
    needed = known.Step("9999", "expand", None)
    monkeypatch.setattr("repositories.migrations.run.steps", lambda: (*chain[:-1], contract, needed))
    with pytest.raises(SchemaWaits, match=r"releases before 0\.10\.0 use, and such processes are alive: pit-2 \(0\.9\.12\)"):
        await upgrade(db)
    await connection.execute("UPDATE workers SET version = '0.10.0'")
    assert (await read_schema(db)).blocking is None


async def test_a_process_that_may_not_migrate_waits_for_what_it_needs(backends: Backends) -> None:
    db = await make_database(backends.db, f"phases_{secrets.token_hex(5)}")
    waiting = db.model_copy(update={"MIGRATE": "wait"})
    with pytest.raises(SchemaWaits, match=f"revision none, and version {VERSION} needs {HEAD}.*schema upgrade"):
        await wait(db)
    pauses = list[float]()

    async def migrated_meanwhile(seconds: float) -> None:
        pauses.append(seconds)
        await upgrade(db)

    await wait_until_usable("PostgreSQL", partial(migrate_or_wait, waiting), migrated_meanwhile)
    assert len(pauses) == 1


async def test_a_table_in_use_delays_a_migration_and_nobody_else(db: DbSettings, connection: Any) -> None:
    """It gives way before PostgreSQL's deadlock detection would end a statement of the service, and comes again."""
    before = known.steps()[-2].revision
    await downgrade(db, before)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("LOCK TABLE workers IN ACCESS SHARE MODE")
    migration = asyncio.create_task(upgrade(db))
    watcher = await connect(db)
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'workers'::regclass"
    seen = list[bool]()
    async with asyncio.timeout(20):
        while (True, False) not in itertools.pairwise(seen):  # it waited, and gave way
            seen.append(bool(await watcher.fetchval(waits)))
            await asyncio.sleep(0.02)
    assert not migration.done()
    await transaction.rollback()
    async with asyncio.timeout(20):
        await migration
    await watcher.close()
    assert await connection.fetchval("SELECT version_num FROM alembic_version") == HEAD


def test_every_step_says_what_it_is() -> None:
    assert {step.phase for step in known.steps()} == {"expand", "contract"}
    for step in known.steps():
        module = module_of(step.revision)
        assert (module.PHASE, getattr(module, "SAFE_FROM", None)) == (step.phase, step.safe_from)
        assert step.safe_from is None or known.release(step.safe_from) <= known.release(VERSION)
    assert known.release("0.10.0") > known.release("0.9.12")
