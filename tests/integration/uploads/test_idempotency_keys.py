"""The keys themselves, on PostgreSQL: who has one, what a lapsed run may still do, freeing, sweeping."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

import pytest
from sqlalchemy import text

from config import ApiSettings
from models.schemas import TriggerAccepted
from models.values import KeptAnswer, KeyName
from repositories.database import Database
from services.idempotency.answers import Rendered
from services.idempotency.operation import Operation
from services.idempotency.service import SWEEP_BATCH, IdempotencyService
from tests.conftest import unique
from utils.exceptions import IdempotencyKeyReused, RequestInProgress
from utils.ids import new_id, sub_id
from utils.secret_box import SecretBox, new_key


async def no_frames(_ids: Sequence[UUID]) -> Rendered:
    return {}


@pytest.fixture
def keys(database: Database) -> IdempotencyService:
    return IdempotencyService(ApiSettings(IDEMPOTENCY_LEASE=1), database, SecretBox([new_key()]), no_frames)


def a_name() -> KeyName:
    return KeyName(unique("scope"), "k", unique("owner"))


async def take(keys: IdempotencyService, name: KeyName, fingerprint: str = "f") -> Operation:
    found = await keys.begin(name, fingerprint)
    assert isinstance(found, Operation)
    found.answers(202, lambda body: f"/events/{body.event_id}")
    return found


async def lapse(database: Database, name: KeyName) -> None:
    async with database.unit_of_work() as uow:
        await uow.session.execute(
            text("UPDATE idempotency_keys SET expires_at = now() - interval '1 s' WHERE scope = :s"), {"s": name.scope}
        )


async def keep(database: Database, operation: Operation) -> None:
    async with database.unit_of_work() as uow:
        await operation.keep(uow, TriggerAccepted(event_id=operation.request_id))


async def state(database: Database, name: KeyName) -> tuple[UUID, int | None, bool] | None:
    async with database.unit_of_work() as uow:
        found = (
            await uow.session.execute(
                text("SELECT request_id, status, begun FROM idempotency_keys WHERE scope = :s"), {"s": name.scope}
            )
        ).one_or_none()
    return (found.request_id, found.status, found.begun) if found else None


async def test_a_key_runs_once(keys: IdempotencyService, database: Database) -> None:
    name = a_name()
    first = await take(keys, name)
    with pytest.raises(RequestInProgress):
        await keys.begin(name, "f")
    with pytest.raises(IdempotencyKeyReused):
        await keys.begin(name, "g")
    await keep(database, first)
    await keys.finish(first, 202, f"/events/{first.request_id}", {"event_id": str(first.request_id)})
    found = await keys.begin(name, "f")
    assert isinstance(found, KeptAnswer)
    assert (found.status, found.location) == (202, f"/events/{first.request_id}")
    assert found.body == {"event_id": str(first.request_id)}


async def test_a_fingerprint_that_cannot_be_opened_is_another_ones(keys: IdempotencyService, database: Database) -> None:
    name = a_name()
    await take(keys, name)
    without = IdempotencyService(ApiSettings(), database, SecretBox([new_key()]), no_frames)
    with pytest.raises(IdempotencyKeyReused):
        await without.begin(name, "f")


async def test_a_lapsed_key_runs_again_under_the_same_id(keys: IdempotencyService, database: Database) -> None:
    name = a_name()
    first = await take(keys, name)
    await lapse(database, name)
    with pytest.raises(IdempotencyKeyReused):
        await keys.begin(name, "g")
    second = await take(keys, name)
    assert (second.request_id, second.resumed, first.resumed) == (first.request_id, True, False)
    with pytest.raises(RequestInProgress):
        await keys.begin(name, "f")
    # Whoever commits first has given the answer.
    await keep(database, first)
    await keep(database, second)
    assert first.others is None
    assert second.others is not None
    assert second.others.run == first.run


async def test_a_lease_is_renewed_while_the_request_runs(keys: IdempotencyService) -> None:
    name = a_name()
    for job in keys.jobs:
        job.start()
    try:
        operation = await take(keys, name)
        await asyncio.sleep(2.2)  # more than two leases
        with pytest.raises(RequestInProgress):
            await keys.begin(name, "f")
    finally:
        for job in keys.jobs:
            await job.stop()
    await keys.release(operation)


async def test_a_lease_is_as_long_as_its_owner_says(database: Database) -> None:
    """Processes with another API__IDEMPOTENCY_LEASE: a lease is judged by what stands in its row."""
    name, box = a_name(), SecretBox([new_key()])
    short, long = (IdempotencyService(ApiSettings(IDEMPOTENCY_LEASE=lease), database, box, no_frames) for lease in (1, 60))
    running = await take(long, name)
    with pytest.raises(RequestInProgress):
        await short.begin(name, "f")
    await long.renew()
    with pytest.raises(RequestInProgress):
        await short.begin(name, "f")
    async with database.unit_of_work() as uow:
        aged = text("UPDATE idempotency_keys SET created_at = now() - interval '2 days' WHERE scope = :s")
        await uow.session.execute(aged, {"s": name.scope})
    await short.sweep()
    assert await state(database, name) == (running.request_id, None, False)  # it runs still
    async with database.unit_of_work() as uow:
        ahead = text("UPDATE idempotency_keys SET expires_at = now() + interval '40 s', lease = 1 WHERE scope = :s")
        await uow.session.execute(ahead, {"s": name.scope})
    await long.sweep()
    assert await state(database, name) is None  # a clock that was wrong wrote that, however long the reader's leases are


async def test_a_run_whose_key_is_another_requests_commits_nothing(keys: IdempotencyService, database: Database) -> None:
    name = a_name()
    stalled = await take(keys, name)
    await lapse(database, name)
    second = await take(keys, name)
    await keys.release(second)  # a 503, with nothing stored
    assert await state(database, name) is None
    third = await take(keys, name, "g")
    assert third.request_id != stalled.request_id
    for act in (stalled.begin, lambda uow: stalled.keep(uow, TriggerAccepted(event_id=new_id()))):
        with pytest.raises(RequestInProgress):
            async with database.unit_of_work() as uow:
                await act(uow)
    await keys.release(stalled)  # frees nothing that is not its own
    assert await state(database, name) == (third.request_id, None, False)


async def test_what_was_begun_keeps_its_ids_until_it_is_settled(keys: IdempotencyService, database: Database) -> None:
    name = a_name()
    first = await take(keys, name)
    async with database.unit_of_work() as uow:
        await first.begin(uow)
    await keys.release(first)
    assert await state(database, name) == (first.request_id, None, True)
    second = await take(keys, name)  # at once: the first run said that it has ended
    assert second.request_id == first.request_id
    second.settled = True
    await keys.release(second)
    assert await state(database, name) is None


async def test_freeing_waits_for_a_commit_under_way(keys: IdempotencyService, database: Database) -> None:
    """The client was told 503; the COMMIT that got lost arrives after that."""
    name = a_name()
    operation = await take(keys, name)

    @asynccontextmanager
    async def committing() -> AsyncIterator[None]:
        async with database.unit_of_work() as uow:
            await operation.keep(uow, TriggerAccepted(event_id=operation.request_id))
            yield

    async with committing():
        freeing = asyncio.create_task(keys.release(operation))
        await asyncio.sleep(0.3)
        assert not freeing.done()
    await freeing
    assert await state(database, name) == (operation.request_id, 202, False)
    assert isinstance(await keys.begin(name, "f"), KeptAnswer)


async def test_the_answer_that_was_sent_is_kept_over_the_first(keys: IdempotencyService, database: Database) -> None:
    name = a_name()
    operation = await take(keys, name)
    await keep(database, operation)
    await keys.finish(operation, 200, "/x", {"status": "completed", "frames": []})
    found = await keys.begin(name, "f")
    assert isinstance(found, KeptAnswer)
    assert (found.status, found.body) == (200, {"status": "completed", "frames": []})


async def test_old_keys_are_swept_in_batches(database: Database) -> None:
    keys = IdempotencyService(ApiSettings(IDEMPOTENCY_TTL=20), database, SecretBox([new_key()]), no_frames)
    old, running, young = a_name(), a_name(), a_name()
    async with database.unit_of_work() as uow:
        await uow.session.execute(
            text("""
            INSERT INTO idempotency_keys (scope, key, fingerprint, request_id, run, status, answer, created_at)
            SELECT :s, n::text, 'f', gen_random_uuid(), gen_random_uuid(), 201, '{}', now() - interval '1 h'
            FROM generate_series(1, :n) AS n
            """),
            {"s": old.scope, "n": 2 * SWEEP_BATCH + 7},
        )
    for name in (running, young):
        await take(keys, name)
    async with database.unit_of_work() as uow:
        await uow.session.execute(
            text("UPDATE idempotency_keys SET created_at = now() - interval '1 h' WHERE scope = :s"), {"s": running.scope}
        )
    for job in keys.jobs:
        job.start()
    try:
        async with asyncio.timeout(15):
            while await state_count(database, old):
                await asyncio.sleep(0.1)
    finally:
        for job in keys.jobs:
            await job.stop()
    assert await state(database, running) is not None
    assert await state(database, young) is not None
    await lapse(database, running)
    async with database.one_statement() as uow:
        assert await uow.keys.sweep(20, SWEEP_BATCH) >= 1
    assert await state(database, running) is None


async def state_count(database: Database, name: KeyName) -> int:
    async with database.unit_of_work() as uow:
        query = text("SELECT count(*) FROM idempotency_keys WHERE scope = :s")
        return int(await uow.session.scalar(query, {"s": name.scope}) or 0)


def test_sub_ids_follow_from_their_parent() -> None:
    parent = new_id()
    made = [sub_id(parent, index) for index in range(100)]
    assert made == [sub_id(parent, index) for index in range(100)]
    assert len(set(made)) == 100
    assert {each.version for each in made} == {8}
    assert {each.bytes[:6] for each in made} == {parent.bytes[:6]}
    assert sub_id(new_id(), 0) != made[0]
