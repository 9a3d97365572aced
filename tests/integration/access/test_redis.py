"""Limits counted in a real Redis: one sum over all processes, and whatever becomes of Redis the service goes on.

First the parts in this process, then two services.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import redis
from pydantic import SecretStr

from config import LimitsSettings, RedisSettings
from services.access.rate_limits import Quota, RateLimits
from services.redis.away import RedisAway
from services.redis.link import RedisLink
from tests.conftest import Backends, Service
from tests.kits.redis_server import RedisServer, certificate, tls_before
from tests.kits.service_support import jpeg, own_database, until, upload
from tests.kits.takeover_kit import Pair, log_lines, pair_on
from tests.kits.tcp_proxy import TcpProxy
from utils.exceptions import RateLimited

LIMITS = LimitsSettings(READ="10/minute", UPLOAD_BYTES="1000/minute", FAILED_LOGINS="4/minute")
KEY = b"of the database of these tests.."
BOOTSTRAP = "bootstrap-secret-of-the-redis-tests-012345"
ADMIN = {"Authorization": f"Bearer {BOOTSTRAP}"}
TIMEOUT = 20.0  # REDIS__TIMEOUT here: a machine that is busy is not a Redis that is away


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


def settings(server: RedisServer, **changes: Any) -> RedisSettings:
    own = {"HOST": "127.0.0.1", "PORT": server.port, "PASSWORD": SecretStr(server.password), "TIMEOUT": TIMEOUT}
    return RedisSettings(**(own | changes))


async def reached(link: RedisLink) -> None:
    """Until a check succeeds: on a busy machine one may be too late."""

    async def look() -> bool:
        with suppress(RedisAway):
            await link.check()
        return link.away is None

    await until(look, "Redis is reached", 60)


@pytest_asyncio.fixture
async def links(server: RedisServer) -> AsyncIterator[list[RedisLink]]:
    """Two processes' connections."""
    with server.client() as client:
        client.flushall()
    made = [RedisLink(settings(server)), RedisLink(settings(server))]
    for link in made:
        await reached(link)
    yield made
    for link in made:
        await link.close()


async def spent(work: Callable[[], Awaitable[Any]]) -> bool:
    """Whether it was counted, not refused."""
    try:
        await work()
    except RateLimited:
        return False
    return True


# -- in this process ---------------------------------------------------------------------------------------------


async def test_the_limit_is_for_all_together(links: list[RedisLink], server: RedisServer) -> None:
    rates = [RateLimits(LIMITS, link, KEY) for link in links]
    left = [await rates[n % 2].request("read", "a") for n in range(10)]
    assert [quota.remaining for quota in left if quota is not None] == list(range(9, -1, -1))
    for one in rates:
        with pytest.raises(RateLimited) as refused:
            await one.request("read", "a")
        quota: Quota = refused.value.details["quota"]
        assert quota.headers()["RateLimit-Policy"] == '"read";q=10;w=60'
        assert (quota.remaining, 0 < quota.reset <= 60) == (0, True)
        assert 0 < (refused.value.retry_after or 0) <= 60
    assert await rates[0].request("read", "b") is not None
    assert await RateLimits(LIMITS, links[0], b"of another database").request("read", "a") is not None
    await rates[0].upload(600, "a")
    assert not await spent(lambda: rates[1].upload(401, "a"))
    bytes_left = await rates[1].upload(400, "a")  # what was refused was not counted
    assert bytes_left is not None
    assert (bytes_left.remaining, 0 < bytes_left.reset <= 60) == (0, True)
    wrong = [await spent(lambda n=n: rates[n % 2].failed("10.0.0.1")) for n in range(6)]  # type: ignore[misc]
    assert wrong == [True] * 4 + [False] * 2
    with server.client() as client:
        keys = [key.decode() for key in client.scan_iter()]
        assert all(client.ttl(key) > 0 for key in keys), "whatever is in Redis goes by itself"
    assert not [key for key in keys if "10.0.0.1" in key]


async def test_many_at_once_get_the_limit_and_no_more(links: list[RedisLink]) -> None:
    rates = [RateLimits(LIMITS, link, KEY) for link in links]
    passed = await asyncio.gather(*(spent(lambda n=n: rates[n % 2].request("read", "c")) for n in range(60)))  # type: ignore[misc]
    assert passed.count(True) == 10
    passed = await asyncio.gather(*(spent(lambda n=n: rates[n % 2].upload(300, "c")) for n in range(30)))  # type: ignore[misc]
    assert passed.count(True) == 3


def full(client: redis.Redis) -> None:
    client.config_set("maxmemory", "1")


def another_password(client: redis.Redis) -> None:
    client.config_set("requirepass", "another")
    client.client_kill_filter(_type="normal", skipme=True)


def replica(client: redis.Redis) -> None:
    client.slaveof("127.0.0.1", 9)


FAULTS: dict[str, tuple[Callable[[redis.Redis], None], str]] = {
    "full": (full, "full"), "password": (another_password, "password"), "replica": (replica, "read_only"),
}  # fmt: skip


def break_it(server: RedisServer, fault: str) -> str:
    """Breaks Redis that way; returns the reason that is told."""
    if fault == "killed":
        server.kill()
        return "connection"
    if fault == "stopped":
        server.signal(signal.SIGSTOP)
        return "timeout"
    how, reason = FAULTS[fault]
    with server.client() as client:
        how(client)
    return reason


def mend_it(server: RedisServer) -> None:
    """A new one, empty: what was before is forgotten."""
    server.kill()
    server.start()


@pytest.mark.parametrize("fault", ["killed", "stopped", *FAULTS])
async def test_counting_goes_on_and_costs_nothing(server: RedisServer, fault: str) -> None:
    link = RedisLink(settings(server, TIMEOUT=3.0))
    await reached(link)
    one = RateLimits(LIMITS, link, KEY)
    await one.request("read", "d")
    reason = break_it(server, fault)
    try:
        quota = await one.request("read", "d")
        assert quota is not None
        assert quota.remaining == 9, "this process's own count"
        assert link.away == reason
        for _ in range(9):  # Redis is not asked again: tests/unit/services/redis/test_link.py
            await one.request("read", "d")
        assert not await spent(lambda: one.request("read", "d"))
        with pytest.raises(RedisAway, match=reason):
            await link.check()
    finally:
        mend_it(server)
    await reached(link)
    quota = await one.request("read", "d")
    assert quota is not None
    assert quota.remaining == 9
    await link.close()


async def test_wiped_it_counts_anew(links: list[RedisLink], server: RedisServer) -> None:
    one = RateLimits(LIMITS, links[0], KEY)
    await one.request("read", "e")
    with server.client() as client:
        client.flushall()
        client.script_flush()
    quota = await one.request("read", "e")
    assert quota is not None
    assert (quota.remaining, links[0].away) == (9, None)


async def test_one_that_is_slow_is_not_asked_until_it_is_quick(server: RedisServer) -> None:
    with TcpProxy("127.0.0.1", server.port) as proxy:
        link = RedisLink(settings(server, PORT=proxy.port, TIMEOUT=1.0))
        await reached(link)
        proxy.delay = 0.6
        with pytest.raises(RedisAway, match="slow"):
            await link.check()
        assert link.away == "slow"
        proxy.delay = 0.0
        await reached(link)
        await link.close()


async def test_tls_is_verified(server: RedisServer, tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    (tmp_path / "bad").mkdir()
    good, bad = certificate(tmp_path / "good", "127.0.0.1"), certificate(tmp_path / "bad", "redis.example")
    for chain, changes, expected in (
        (good, {"TLS": True, "TLS_CA": good[0]}, None),
        (good, {"TLS": True}, "connection"),
        (bad, {"TLS": True, "TLS_CA": bad[0]}, "connection"),
        (good, {}, "connection"),
    ):
        async with tls_before(server, chain) as port:
            link = RedisLink(settings(server, PORT=port, **changes))
            if expected is None:
                await reached(link)
            else:
                with pytest.raises(RedisAway, match=expected):
                    await link.check()
            await link.close()


# -- two services ------------------------------------------------------------------------------------------------


@dataclass
class Two:
    """Two services on one Redis, and a client of each."""

    pair: Pair
    clients: list[httpx.AsyncClient]
    server: RedisServer
    folder: Path
    keys: int = field(default=0)

    async def key(self) -> dict[str, str]:
        """A caller that has used nothing yet."""
        self.keys += 1
        body = {"name": f"k{self.keys}", "scopes": ["ingest:read", "ingest:write"]}
        made = await self.clients[0].post("/api/v1/api-keys", headers=ADMIN, json=body)
        assert made.status_code == 201, made.text
        return {"Authorization": f"Bearer {made.json()['key']}"}

    async def told(self, status: str, detail: str = "") -> None:
        """Until /health of both says so."""
        for client in self.clients:

            async def look(client: httpx.AsyncClient = client) -> bool:
                answer = await client.get("/health", headers=ADMIN)
                assert answer.status_code == 200, "Redis makes nothing unhealthy"
                body = answer.json()
                return bool(body["dependencies"]["redis"] == status and detail in (body["checks"]["redis"]["detail"] or ""))

            await until(look, f"/health says that Redis is {status}: {detail}", 60)

    def lines(self, event: str) -> list[int]:
        """How many log lines of each service."""
        return [len(log_lines(service, event)) for service in self.pair.services]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def two(backends: Backends, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Two]:
    """Redis is not there yet when they start."""
    folder = tmp_path_factory.mktemp("two")
    server = RedisServer(folder)
    limits: dict[str, str] = {
        "AUTH__MODE": "keys", "AUTH__BOOTSTRAP_KEY": BOOTSTRAP, "LIMITS__READ": "100/minute", "LIMITS__WRITE": "1000/minute",
        "LIMITS__UPLOAD_BYTES": "1000000/minute", "LIMITS__FAILED_LOGINS": "10/minute",
        "REDIS__TIMEOUT": str(TIMEOUT), **server.environment,
    }  # fmt: skip
    own = await own_database(backends)
    async with pair_on(own, folder, first=None, **limits) as pair:
        clients = [httpx.AsyncClient(base_url=service.url, timeout=60) for service in pair.services]
        try:
            yield Two(pair, clients, server, folder)
        finally:
            for client in clients:
                await client.aclose()
            server.kill()


async def metric(client: httpx.AsyncClient) -> float:
    text = (await client.get("/metrics", headers=ADMIN)).text
    (line,) = [line for line in text.splitlines() if line.startswith('ingestion_dependency_up{dependency="redis"}')]
    return float(line.split()[-1])


async def test_they_start_without_it_and_find_it(two: Two) -> None:
    await two.told("degraded", "connection")
    key = await two.key()
    for client in two.clients:
        assert (await client.get("/api/v1/me", headers=key)).headers["RateLimit"].startswith('"read";r=99;')
        assert await metric(client) == 0
    two.server.start()
    await two.told("healthy")
    for client in two.clients:
        assert await metric(client) == 1
    assert two.lines("redis_unavailable") == [1, 1], "told once"
    assert two.lines("redis_available") == [1, 1]


async def test_50_clients_of_two_services_share_one_limit(two: Two) -> None:
    key, other = await two.key(), await two.key()
    answers: list[httpx.Response] = []

    async def one_client(number: int) -> None:
        for step in range(3):
            answer = await two.clients[(number + step) % 2].get("/api/v1/me", headers=key)
            answers.append(answer)

    beside = asyncio.create_task(two.clients[0].get("/api/v1/me", headers=other))
    await asyncio.gather(*(one_client(number) for number in range(50)))
    assert (await beside).status_code == 200
    codes = [answer.status_code for answer in answers]
    assert (codes.count(200), codes.count(429)) == (100, 50)
    assert {answer.headers["RateLimit-Policy"] for answer in answers} == {'"read";q=100;w=60'}
    limited = [answer for answer in answers if answer.status_code == 429]
    assert {str(answer.request.url.port) for answer in limited} == {str(client.base_url.port) for client in two.clients}
    for answer in limited:
        assert answer.json()["code"] == "rate_limited"
        assert answer.headers["RateLimit"].startswith('"read";r=0;t=')
        assert 0 < int(answer.headers["Retry-After"]) <= 60


async def test_bytes_and_wrong_credentials_are_one_sum_too(two: Two) -> None:
    picture = jpeg((1024, 768))
    assert 100_000 < len(picture) < 900_000
    key, stored = await two.key(), 0
    for number in range(12):
        client = two.clients[number % 2]
        client.headers.update(key)
        answer = await upload(client, f"cam-{number}", picture)
        del client.headers["Authorization"]
        stored += answer.status_code == 201
        assert answer.status_code in (201, 429), answer.text
    sent = int(answer.request.headers["Content-Length"])
    assert stored == 1_000_000 // sent, "as much as one process would take"
    bad = {"Authorization": "Bearer x"}
    wrong = [(await two.clients[number % 2].get("/api/v1/me", headers=bad)).status_code for number in range(12)]
    assert wrong == [401] * 10 + [429] * 2
    assert (await two.clients[0].get("/api/v1/me", headers=key)).status_code == 200


@pytest.mark.parametrize("fault", ["killed", "stopped", "full", "password"])
async def test_requests_go_on_whatever_becomes_of_it(two: Two, fault: str) -> None:
    before = two.lines("redis_unavailable")
    callers = [await two.key() for _ in range(4)]
    stop = asyncio.Event()
    took: list[list[float]] = [[], []]

    async def ask(service: int, key: dict[str, str]) -> None:
        for _ in range(48):  # with both services fewer than one caller's limit
            if stop.is_set():
                return
            began = time.monotonic()
            answer = await two.clients[service].get("/api/v1/me", headers=key)
            took[service].append(time.monotonic() - began)
            assert answer.status_code == 200, answer.text
            await asyncio.sleep(0.02)

    async def work() -> None:
        await asyncio.gather(*(ask(service, key) for key in callers for service in (0, 1)))

    asking = asyncio.create_task(work())
    try:
        await until(lambda: _enough(took, 20), "requests before the fault")
        reason = break_it(two.server, fault)
        await two.told("degraded", reason)
        stop.set()
        await asking
        key = await two.key()
        for client in two.clients:  # each counts for itself
            assert (await client.get("/api/v1/me", headers=key)).headers["RateLimit"].startswith('"read";r=99;')
        # Those on their way when it happened were let go by the check that found it, and no other asked Redis.
        assert max(map(max, took)) < TIMEOUT * 0.75, [max(each) for each in took]
    finally:
        stop.set()
        await asyncio.gather(asking, return_exceptions=True)
        mend_it(two.server)
    await two.told("healthy")
    said = [after - was for after, was in zip(two.lines("redis_unavailable"), before, strict=True)]
    assert said == [1, 1], "told once"
    key = await two.key()
    left = [(await client.get("/api/v1/me", headers=key)).headers["RateLimit"].split(";")[1] for client in two.clients]
    assert left == ["r=99", "r=98"], "one sum again"


async def _enough(took: list[list[float]], many: int) -> bool:
    return all(len(each) >= many for each in took)


def test_no_line_holds_the_password(two: Two) -> None:
    service: Service
    for service in two.pair.services:
        assert two.server.password not in service.text()
