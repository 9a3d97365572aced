"""Keys and tokens side by side: a provider whose keys change and go, closed documents, a database that is away."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import httpx
import pytest
import pytest_asyncio
from joserfc import jwt
from joserfc.jwk import RSAKey

from tests.conftest import Backends, running
from tests.kits.faulty import FaultyProxy, behind, database_proxy
from tests.kits.key_server import KeyServer
from tests.kits.service_support import own_database, service_on, until

BOOTSTRAP = "bootstrap-secret-of-the-identity-tests-0123"
ISSUER, AUDIENCE = "https://issuer.example", "trackshift"


@cache  # not at import: every worker imports this file
def key_of(kid: str) -> RSAKey:
    return RSAKey.generate_key(2048)


def bearer(credential: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {credential}"}


def public(*kids: str) -> bytes:
    return json.dumps({"keys": [{**key_of(kid).as_dict(private=False), "kid": kid} for kid in kids]}).encode()


def token(kid: str, key: RSAKey | None = None, **changes: Any) -> str:
    claims = {
        "iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": int(time.time()) + 300, "scope": "frames:read ingest:read",
        "cameras": ["pit-*"], **changes,
    }  # fmt: skip
    return jwt.encode({"alg": "RS256", "kid": kid}, claims, key or key_of(kid), algorithms=["RS256"])


@dataclass
class Place:
    client: httpx.AsyncClient
    provider: KeyServer
    database: FaultyProxy
    key: str
    kid: str = "first"  # that the provider signs with now

    async def me(self, credential: str) -> httpx.Response:
        return await self.client.get("/api/v1/me", headers=bearer(credential))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def place(backends: Backends, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    own = await own_database(backends)
    with KeyServer(public("first")) as provider, database_proxy(own.db) as database:
        settings = {
            "AUTH__MODE": "both", "AUTH__BOOTSTRAP_KEY": BOOTSTRAP, "AUTH__DOCS": "false", "AUTH__JWKS_URL": provider.url,
            "AUTH__JWT_ISSUER": ISSUER, "AUTH__JWT_AUDIENCE": AUDIENCE, "LIMITS__FAILED_LOGINS": "1000/minute",
            "DB__STATEMENT_TIMEOUT": "2", "DB__POOL_TIMEOUT": "2",
        }  # fmt: skip
        folder = tmp_path_factory.mktemp("identity")
        service = service_on(behind(own, database=database), folder, **settings)
        service.program = "tests/kits/hasty_keys.py"
        async with running(service) as client:
            body = {"name": "both", "scopes": ["ingest:read"]}
            made = await client.post("/api/v1/api-keys", headers=bearer(BOOTSTRAP), json=body)
            yield Place(client, provider, database, made.raise_for_status().json()["key"])


async def test_keys_and_tokens_side_by_side(place: Place) -> None:
    me = (await place.me(token("first"))).raise_for_status().json()
    assert (me["kind"], me["subject"], me["cameras"]) == ("jwt", "alice", ["pit-*"])
    assert sorted(me["scopes"]) == ["frames:read", "ingest:read"]
    assert (await place.me(place.key)).json()["kind"] == "key"
    assert (await place.me(BOOTSTRAP)).json()["scopes"] != []
    for wrong in (
        token("first", key_of("second")), token("first", iss="https://evil.example"), token("first", exp=1), "a.b.c",
        place.key[:-1], "tsk_" + token("first"),
    ):  # fmt: skip
        answer = await place.me(wrong)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="trackshift", error="invalid_token"'
    allowed = await place.client.get("/api/v1/frames", headers=bearer(token("first")))
    assert allowed.status_code == 200
    lacking = await place.client.get("/api/v1/events", headers=bearer(token("first")))
    assert (lacking.status_code, lacking.json()["code"]) == (403, "forbidden")
    resource = (await place.client.get("/.well-known/oauth-protected-resource")).json()
    assert resource["authorization_servers"] == [ISSUER]
    opened = await place.client.post("/api/v1/session", json={"credential": token("first")})
    assert opened.status_code == 204
    place.client.cookies.clear()


async def test_a_providers_keys_change_and_go(place: Place) -> None:
    """The service of this test reads them again after 1 s, not 30."""
    assert (await place.me(token(place.kid))).status_code == 200
    before = place.provider.requests
    place.provider.document = public("second")
    flood = await asyncio.gather(*(place.me(token(f"unknown-{n}", key_of("second"))) for n in range(30)))
    assert {answer.status_code for answer in flood} == {401}
    assert place.provider.requests - before <= 2

    async def rotated() -> bool:
        return (await place.me(token("second"))).status_code == 200

    await until(rotated, "the new key holds", 4)
    place.kid = "second"
    assert (await place.me(token("first"))).status_code == 401
    for broken in ((302, b"", {"Location": f"{place.provider.url}?again"}), (200, b"x" * 70_000, {}), (500, b"{}", {})):
        place.provider.answer = broken
        asked = place.provider.requests

        async def refreshed(asked: int = asked) -> bool:
            assert (await place.me(token("unknown", key_of("second")))).status_code == 401
            return place.provider.requests > asked

        await until(refreshed, "it was asked", 4)
        assert (await place.me(token("second"))).status_code == 200  # the last good set
    assert place.provider.followed == 0
    place.provider.close()
    await asyncio.sleep(1.1)
    assert (await place.me(token("second"))).status_code == 200
    assert (await place.me(place.key)).status_code == 200


async def test_closed_documents_are_for_any_credential(place: Place) -> None:
    for path in ("/docs", "/redoc", "/openapi.json", "/docs/assets/swagger-ui.css"):
        closed = await place.client.get(path)
        assert (closed.status_code, closed.headers["WWW-Authenticate"]) == (401, 'Bearer realm="trackshift"'), path
        opened = await place.client.get(path, headers=bearer(place.key))
        assert opened.status_code in (200, 404) if "assets" in path else opened.status_code == 200, path
    live = await place.client.get("/health/live")
    assert live.status_code == 200


async def test_with_the_database_away_keys_are_503_and_never_401(place: Place) -> None:
    """Asked the whole time: while rows are still confirmed, while nothing answers, and when it comes back."""
    seen: list[int] = []

    async def ask(credential: str) -> int:
        answer = await place.me(credential)
        if answer.status_code == 503:
            assert answer.json()["code"] == "database_unavailable"
            assert int(answer.headers["Retry-After"]) > 0
        return answer.status_code

    assert await ask(place.key) == 200
    unknown = "tsk_" + "0" * 12 + "_" + "0" * 38  # a checksum that does not hold needs no database
    began = time.monotonic()
    place.database.fail("killed")
    while time.monotonic() - began < 3:
        seen.append(await ask(place.key))
        assert await ask(BOOTSTRAP) == 200
        assert await ask(token(place.kid)) == 200
        assert await ask(unknown) == 401
        await asyncio.sleep(0.05)
    away = time.monotonic() - began
    place.database.heal()
    while seen[-1] != 200:
        seen.append(await ask(place.key))
        assert time.monotonic() - began < 15
        await asyncio.sleep(0.05)
    print(f"away {away:.1f} s: {seen.count(200)} answers 200, {seen.count(503)} answers 503, {set(seen)}")
    assert set(seen) == {200, 503}
