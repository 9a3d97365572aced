"""What counting a request costs, in memory and in Redis; and whether a cache of rows in Redis would pay.

Half a minute, on an embedded PostgreSQL and a Valkey of its own. For each: the median
of a round, and the CPU time of this process; of seven rounds the best, since CPU also tells what else the machine does.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import uvloop
from pydantic import SecretStr

from config import LimitsSettings, RedisSettings
from services.access.rate_limits import RateLimits
from services.redis.link import RedisLink
from tests.benchmarks.frame import Bench, Goal
from tests.kits.redis_server import RedisServer
from utils.embedded.supervisor import EmbeddedParts

ROUNDS, CALLS = 7, 400
LIMITS = LimitsSettings(READ="100000000/minute", UPLOAD_BYTES="999999999999/minute")
ROW = "x" * 1500  # about a request's row


async def _measure(bench: Bench, what: str, work: Callable[[], Awaitable[Any]]) -> None:
    best = (float("inf"), float("inf"))
    for _ in range(ROUNDS):
        cpu, took = time.process_time(), []
        for _ in range(CALLS):
            began = time.perf_counter()
            await work()
            took.append(time.perf_counter() - began)
        spent = (time.process_time() - cpu) / CALLS
        best = min(best[0], statistics.median(took)), min(best[1], spent)
    bench.compare(what, "ms", [best[0] * 1000], [], Goal(), cpu_ms=best[1] * 1000)


async def _run(bench: Bench, server: RedisServer, parts: EmbeddedParts) -> None:
    assert parts.postgres is not None
    link = RedisLink(RedisSettings(HOST="127.0.0.1", PORT=server.port, PASSWORD=SecretStr(server.password), TIMEOUT=5))
    await link.check()
    alone, together = RateLimits(LIMITS), RateLimits(LIMITS, link, b"benchmark")
    await _measure(bench, "a request counted in memory", lambda: alone.request("read", "a"))
    await _measure(bench, "a request counted in Redis (2 round trips)", lambda: together.request("read", "a"))
    await _measure(bench, "an upload's bytes counted in Redis (4)", lambda: together.upload(1, "a"))
    where = parts.postgres
    database = await asyncpg.connect(host=where.host, port=where.port, user=where.user, database=where.database)
    await database.execute("CREATE TABLE r (id int PRIMARY KEY, version bigint, body text)")
    await database.execute("INSERT INTO r SELECT n, 1, $1 FROM generate_series(1, 1000) n", ROW)
    await link._client.set("row", ROW)
    await _measure(bench, "a row of 1.5 KB from Redis", lambda: link._client.get("row"))
    await _measure(
        bench, "the same from PostgreSQL by its key", lambda: database.fetchrow("SELECT * FROM r WHERE id = $1", 500)
    )
    version = "SELECT version FROM r WHERE id = $1"
    await _measure(bench, "only its version, which a cache would have to ask", lambda: database.fetchval(version, 500))
    await database.close()
    await link.close()


def counting(bench: Bench) -> None:
    parts = EmbeddedParts(
        bench.folder / "parts", postgres=True, object_store=False, database="trackshift", bucket="none",
        on_event=lambda *_: None,
    )  # fmt: skip
    parts.start()
    try:
        with RedisServer(bench.folder) as server:
            uvloop.run(_run(bench, server, parts))
    finally:
        parts.stop()
