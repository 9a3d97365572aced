"""Safe retries against a real service: the same answer, one request, one frame, whatever is cut or killed in between."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import httpx
import pytest
import pytest_asyncio

from demo.camera import Camera
from tests.conftest import Backends, Service, running, unique
from tests.kits.pg_proxy import Action, CommitProxy, Gate, after, before, late, then
from tests.kits.service_support import final, jpeg, own_database, service_on, sha256, until
from tests.unit.api.support import problem

RTSP = "/api/v1/ingest/rtsp"
UPLOAD = "/api/v1/ingest/upload"
BOOTSTRAP = f"bootstrap-{token_hex(20)}"
KILLS = int(os.environ.get("TEST_KILLS", "1"))  # each costs a start; `make test-faults` kills more often
FAST = {
    "API__IDEMPOTENCY_LEASE": "1.5", "RTSP__LEASE_TTL": "3", "RTSP__CAPTURE_TIMEOUT": "3", "RTSP__OPEN_TIMEOUT": "1",
    "RTSP__READ_TIMEOUT": "1", "RTSP__LINGER": "0.5", "DB__SSL": "disable", "DB__HOST": "127.0.0.1",
}  # fmt: skip


@dataclass
class Kit:
    """Two services on one database: `a` behind proxies, `b` not."""

    backends: Backends
    proxy: CommitProxy
    store: Gate
    a: Service
    client: httpx.AsyncClient
    other: httpx.AsyncClient

    async def rows(self, query: str, *arguments: Any) -> list[Any]:
        db = self.backends.db
        connection = await asyncpg.connect(host=db.HOST, port=db.PORT, user=db.USER, database=db.NAME,
                                           password=db.PASSWORD.get_secret_value() or None)  # fmt: skip
        try:
            return list(await connection.fetch(query, *arguments))
        finally:
            await connection.close()

    async def counts(self, camera_id: str) -> tuple[int, int, int]:
        """Requests, frames, and object keys of those frames."""
        found = await self.rows(
            "SELECT (SELECT count(*) FROM ingestion_requests WHERE camera_id = $1) AS requests,"
            " (SELECT count(*) FROM frames WHERE camera_id = $1) AS frames,"
            " (SELECT count(*) FROM object_keys WHERE key LIKE '%/' || $1 || '/%') AS keys",
            camera_id,
        )
        return found[0]["requests"], found[0]["frames"], found[0]["keys"]


@pytest.fixture(scope="module")
def camera() -> Iterator[Camera]:
    with Camera(size=(320, 180), fps=15, bitrate=300_000) as camera:
        yield camera


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def kit(backends: Backends, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Kit]:
    own, folder = await own_database(backends), tmp_path_factory.mktemp("keys")
    address = urlsplit(own.storage.ENDPOINT if "://" in own.storage.ENDPOINT else f"//{own.storage.ENDPOINT}")
    store = Gate(address.hostname or "127.0.0.1", address.port or 80)
    direct = {**FAST, "DB__HOST": own.db.HOST} | ({} if own.db.HOST.startswith("/") else {"DB__PORT": str(own.db.PORT)})
    async with CommitProxy(own.db).listening() as proxy, store.listening():
        through = {**FAST, "DB__PORT": str(proxy.port), "STORAGE__ENDPOINT": f"http://127.0.0.1:{store.port}"}
        a, b = service_on(own, folder / "a", **through), service_on(own, folder / "b", **direct)
        for each in (a, b):
            each.log.parent.mkdir()
        async with running(a) as client, running(b) as other:
            yield Kit(own, proxy, store, a, client, other)
    assert "Traceback" not in a.text() + b.text()


@dataclass
class Keyed:
    """A service with access on, and API__IDEMPOTENCY_MAX_KEYS of 3."""

    client: httpx.AsyncClient
    keys: dict[str, str]

    async def upload(self, who: str, key: str | None, picture: bytes) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.keys[who]}"} | ({"Idempotency-Key": key} if key else {})
        parts = [("files", ("a.jpg", picture, "image/jpeg"))]
        return await self.client.post(UPLOAD, data={"camera_id": "c"}, files=parts, headers=headers)

    async def metrics(self) -> str:
        return (await self.client.get("/metrics", headers={"Authorization": f"Bearer {BOOTSTRAP}"})).text


@pytest_asyncio.fixture
async def keyed(backends: Backends, tmp_path: Path) -> AsyncIterator[Keyed]:
    own = await own_database(backends)
    settings = {"AUTH__MODE": "keys", "AUTH__BOOTSTRAP_KEY": BOOTSTRAP, "API__IDEMPOTENCY_MAX_KEYS": "3"}
    async with running(service_on(own, tmp_path, **settings)) as client:
        headers, made = {"Authorization": f"Bearer {BOOTSTRAP}"}, {}
        for who in ("a", "b"):
            body = {"name": who, "scopes": ["ingest:write", "ingest:read"]}
            made[who] = (await client.post("/api/v1/api-keys", json=body, headers=headers)).json()["key"]
        yield Keyed(client, made)


async def post(client: httpx.AsyncClient, path: str, key: str, body: Any = None, **headers: str) -> httpx.Response:
    return await client.post(path, json=body, headers={"Idempotency-Key": key, **headers})


async def upload(client: httpx.AsyncClient, key: str, camera_id: str, *files: bytes) -> httpx.Response:
    parts = [("files", (f"car-{n}.jpg", data, "image/jpeg")) for n, data in enumerate(files)]
    meta = json.dumps({"session": f"mark-{camera_id}"})
    form = {"camera_id": camera_id, "meta": meta}
    return await client.post(UPLOAD, data=form, files=parts, headers={"Idempotency-Key": key})


def bare(body: Any) -> Any:
    """The body without its URLs, which are made for each answer."""
    if isinstance(body, dict):
        return {name: bare(value) for name, value in body.items() if name not in ("storage_url", "url_expires_at")}
    return [bare(value) for value in body] if isinstance(body, list) else body


def is_replay(answer: httpx.Response) -> bool:
    return "idempotent-replayed" in answer.headers


def assert_same(first: httpx.Response, again: httpx.Response) -> None:
    assert is_replay(again), again.text
    assert (again.status_code, again.headers.get("location")) == (first.status_code, first.headers.get("location"))
    assert list(again.json()) == list(first.json())  # the order of names too
    assert bare(again.json()) == bare(first.json())
    assert again.headers["content-type"] == first.headers["content-type"]


async def assert_stored(answer: httpx.Response, *files: bytes) -> None:
    async with httpx.AsyncClient(timeout=10) as store:
        frames = answer.json()["frames"]
        assert [frame["sha256"] for frame in frames] == [sha256(data) for data in files]
        for frame, data in zip(frames, files, strict=True):
            assert (await store.get(frame["storage_url"])).content == data


# -- every route -------------------------------------------------------------------------------------------------


async def test_a_capture(kit: Kit, camera: Camera) -> None:
    key, name = unique("key"), unique()
    body = {"camera_id": name, "rtsp_url": camera.url, "capture_mode": "single_frame"}
    first = await post(kit.client, RTSP, key, body)
    assert first.status_code == 202
    await final(kit.client, first.json()["request_id"])
    assert_same(first, await post(kit.other, RTSP, f'"{key}"', dict(reversed(body.items()))))  # still pending, as it was
    assert_same(first, await post(kit.client, RTSP, key, body, Prefer="wait=5"))
    problem(await post(kit.client, RTSP, key, {**body, "jpeg_quality": 50}), 422, "idempotency_key_reused")
    assert await kit.counts(name) == (1, 1, 1)


async def test_a_capture_that_was_waited_for(kit: Kit, camera: Camera) -> None:
    key, name = unique("key"), unique()
    body = {"camera_id": name, "rtsp_url": camera.url, "capture_mode": "single_frame"}
    first = await post(kit.client, RTSP, key, body, Prefer="wait=20")
    assert (first.status_code, first.json()["status"]) == (200, "completed")
    again = await post(kit.other, RTSP, key, body)
    assert_same(first, again)
    async with httpx.AsyncClient() as store:
        assert (await store.get(again.json()["frames"][0]["storage_url"])).status_code == 200


async def test_an_upload(kit: Kit) -> None:
    key, name, files = unique("key"), unique(), (jpeg(), jpeg())
    first = await upload(kit.client, key, name, *files)
    assert (first.status_code, is_replay(first)) == (201, False)
    for client in (kit.client, kit.other):
        again = await upload(client, key, name, *files)
        assert_same(first, again)
        await assert_stored(again, *files)
    problem(await upload(kit.client, key, name, *reversed(files)), 422, "idempotency_key_reused")
    problem(await upload(kit.client, key, name, files[0]), 422, "idempotency_key_reused")
    assert await kit.counts(name) == (1, 2, 2)
    [row] = await kit.rows("SELECT answer::text AS answer, fingerprint FROM idempotency_keys WHERE key = $1", key)
    assert "X-Amz" not in row["answer"]
    assert row["fingerprint"].startswith("enc1:")


async def test_a_refused_upload(kit: Kit) -> None:
    key, name = unique("key"), unique()
    first = await upload(kit.client, key, name, b"no picture")
    found = problem(first, 422, "image_type_mismatch")
    again = await upload(kit.client, key, name, b"no picture")
    assert_same(first, again)
    assert again.json()["rejected"] == found["rejected"]
    assert await kit.counts(name) == (0, 0, 0)


async def test_a_snapshot(kit: Kit, camera: Camera) -> None:
    name = unique()
    body = {"camera_id": name, "rtsp_url": camera.url}
    (await kit.client.post("/api/v1/cameras", json=body)).raise_for_status()
    path = f"/api/v1/cameras/{name}/snapshot"
    for frames in (1, 2):  # by a request of its own, then from the stream that is open now
        key = unique("key")
        first = await post(kit.client, path, key, {"max_staleness": 0})
        assert first.status_code == 201, first.text
        assert_same(first, await post(kit.other, path, key, {"max_staleness": 0}))
        assert await kit.counts(name) == (frames, frames, frames)
    problem(await post(kit.client, path, key), 422, "idempotency_key_reused")


async def test_a_burst(kit: Kit, camera: Camera) -> None:
    names = [unique(), unique()]
    for name in names:
        (await kit.client.post("/api/v1/cameras", json={"camera_id": name, "rtsp_url": camera.url})).raise_for_status()
    key, body = unique("key"), {"camera_ids": names}
    first = await post(kit.client, "/api/v1/ingest/burst", key, body)
    assert first.status_code == 201, first.text
    assert_same(first, await post(kit.other, "/api/v1/ingest/burst", key, body))
    assert [await kit.counts(name) for name in names] == [(1, 1, 1)] * 2


async def test_trigger_and_cancel(kit: Kit, camera: Camera) -> None:
    name = unique()
    body = {
        "camera_id": name, "rtsp_url": camera.url, "capture_mode": "event_driven", "capture_duration": 60,
        "motion": {"enabled": False},
    }  # fmt: skip
    found = await kit.client.post(RTSP, json=body)
    request_id = found.json()["request_id"]
    path, key = f"/api/v1/ingest/requests/{request_id}/trigger", unique("key")

    async def accepted() -> httpx.Response | None:
        answer = await post(kit.client, path, key, {"label": "x"})
        return answer if answer.status_code == 202 else None  # 409 not_running, until it runs, frees the key

    first = await until(accepted, "the trigger is taken")
    assert_same(first, await post(kit.other, path, key, {"label": "x"}))
    problem(await post(kit.client, path, key), 422, "idempotency_key_reused")
    events = (await kit.client.get(f"/api/v1/ingest/requests/{request_id}/events")).json()["items"]
    assert [event["event_id"] for event in events] == [first.json()["event_id"]]
    path = f"/api/v1/ingest/requests/{request_id}/cancel"
    first = await post(kit.client, path, key)  # another path: another key
    assert (first.status_code, is_replay(first)) == (202, False)
    await final(kit.client, request_id)
    assert_same(first, await post(kit.other, path, key))
    problem(await post(kit.client, path.replace(request_id[:8], "00000000"), key), 404, "request_not_found")


# -- at once -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["upload", "capture"])
async def test_ten_at_once(kit: Kit, what: str) -> None:
    key, name, picture = unique("key"), unique(), jpeg()
    body = {"camera_id": name, "rtsp_url": "rtsp://127.0.0.1:1/x", "capture_mode": "single_frame"}

    async def send(client: httpx.AsyncClient) -> httpx.Response:
        return await (upload(client, key, name, picture) if what == "upload" else post(client, RTSP, key, body))

    answers = await asyncio.gather(*(send(client) for client in [kit.client, kit.other] * 5))
    done = [answer for answer in answers if answer.status_code < 300]
    assert len([answer for answer in done if not is_replay(answer)]) == 1
    for answer in answers:
        if answer not in done:
            problem(answer, 409, "request_in_progress")
            assert int(answer.headers["retry-after"]) >= 1
    assert len({json.dumps(bare(answer.json())) for answer in done}) == 1
    assert (await kit.counts(name))[0] == 1
    assert is_replay(await send(kit.client))


# -- cut at COMMIT -----------------------------------------------------------------------------------------------

CUTS: dict[str, tuple[list[Action], bool]] = {
    # actions, and whether the first answer is the frame's
    "before": ([before], True), "after": ([after], True), "late": ([late], True),
    "before-3": ([before] * 3, False), "after-3": ([after] * 3, False), "late-3": ([late] * 3, False),
}  # fmt: skip


@pytest.mark.parametrize("cut", CUTS)
async def test_an_upload_whose_commit_is_cut(kit: Kit, cut: str) -> None:
    key, name, picture = unique("key"), unique(), jpeg()
    plan, stored = CUTS[cut]
    kit.proxy.arm(f"mark-{name}", *plan)
    first = await upload(kit.client, key, name, picture)
    assert kit.proxy.plan == []
    if stored:
        assert (first.status_code, is_replay(first)) == (201, False), first.text
    else:
        problem(first, 503, "database_unavailable")

    async def again() -> httpx.Response | None:
        answer = await upload(kit.other, key, name, picture)
        if answer.status_code == 201:
            return answer
        problem(answer, 409, "request_in_progress")
        return None

    found = await until(again, "the retry is answered", 10, 0.2)
    if stored:
        assert_same(first, found)
    await assert_stored(found, picture)
    assert await kit.counts(name) == (1, 1, 1)


@pytest.mark.parametrize("cut", ["after-3", "before-3"])
async def test_a_capture_whose_commit_is_cut(kit: Kit, cut: str) -> None:
    key, name = unique("key"), unique()
    body = {"camera_id": name, "rtsp_url": "rtsp://127.0.0.1:1/x", "meta": {"session": f"mark-{name}"}}
    kit.proxy.arm(f"mark-{name}", *CUTS[cut][0])
    problem(await post(kit.client, RTSP, key, body), 503, "database_unavailable")
    found = await post(kit.client, RTSP, key, body)
    assert found.status_code == 202, found.text
    assert is_replay(found) == (cut == "after-3")
    assert (await kit.counts(name))[0] == 1


# -- killed, stopped ---------------------------------------------------------------------------------------------


async def restarted(kit: Kit) -> httpx.AsyncClient:
    assert kit.a.process is not None
    await asyncio.to_thread(kit.a.process.wait, 10)
    await asyncio.to_thread(kit.a.start)
    await kit.client.aclose()
    kit.client = httpx.AsyncClient(base_url=kit.a.url, timeout=70)
    return kit.client


def kill(kit: Kit) -> None:
    assert kit.a.process is not None
    kit.a.process.kill()


@pytest.mark.parametrize("action", [before, after])
async def test_killed_between_storing_and_answering(kit: Kit, action: Action) -> None:
    """The other service answers: at once what was committed, else when the dead one's lease has lapsed."""
    key, name, picture = unique("key"), unique(), jpeg()
    kit.proxy.arm(f"mark-{name}", then(lambda: kill(kit), action))
    with pytest.raises(httpx.TransportError):
        await upload(kit.client, key, name, picture)
    first = await upload(kit.other, key, name, picture)
    if action is after:
        assert is_replay(first), first.text
    else:
        problem(first, 409, "request_in_progress")

        async def again() -> httpx.Response | None:
            answer = await upload(kit.other, key, name, picture)
            return answer if answer.status_code == 201 else None

        first = await until(again, "the retry runs", 5)
        assert not is_replay(first)
    await assert_stored(first, picture)
    assert await kit.counts(name) == (1, 1, 1)
    await restarted(kit)


async def test_a_snapshot_killed_before_its_picture(kit: Kit, camera: Camera) -> None:
    """The other service runs the capture that was begun, and the retry finds it."""
    key, name = unique("key"), unique()
    (await kit.other.post("/api/v1/cameras", json={"camera_id": name, "rtsp_url": camera.url})).raise_for_status()
    path, body = f"/api/v1/cameras/{name}/snapshot", {"meta": {"session": f"mark-{name}"}}
    kit.proxy.arm(f"mark-{name}", then(lambda: kill(kit), after))
    with pytest.raises(httpx.TransportError):
        await post(kit.client, path, key, body)

    async def again() -> httpx.Response | None:
        answer = await post(kit.other, path, key, body)
        return answer if answer.status_code == 201 else None

    found = await until(again, "the snapshot", 20, 0.2)
    assert_same(found, await post(kit.other, path, key, body))
    assert await kit.counts(name) == (1, 1, 1)
    await restarted(kit)


async def test_stopped_while_another_runs(kit: Kit) -> None:
    """SIGSTOP after the key was taken; the other service takes over under the same ids, the first finds it done."""
    key, name, picture = unique("key"), unique(), jpeg()
    process = kit.a.process
    assert process is not None
    stopped = asyncio.Event()

    async def stop(_link: Any, _message: bytes) -> None:  # the key is taken
        process.send_signal(signal.SIGSTOP)
        stopped.set()

    kit.proxy.arm(key, at_statement=stop)
    first = asyncio.create_task(upload(kit.client, key, name, picture))
    try:
        await asyncio.wait_for(stopped.wait(), 10)

        async def again() -> httpx.Response | None:
            answer = await upload(kit.other, key, name, picture)
            return answer if answer.status_code == 201 else None

        second = await until(again, "the other runs", 10)
    finally:
        process.send_signal(signal.SIGCONT)
    assert not is_replay(second)
    woken = await first
    if woken.status_code == 201:
        assert_same(second, woken)
    else:  # its connection to PostgreSQL was cut meanwhile
        problem(woken, 503, "database_unavailable")
        assert_same(second, await upload(kit.client, key, name, picture))
    assert await kit.counts(name) == (1, 1, 1)


@pytest.mark.timeout(60 + 40 * KILLS)
async def test_killed_at_any_moment(kit: Kit) -> None:
    """A client that retries with its key until it has its 201 stores each picture once."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}, {KILLS} kills")
    chance = random.Random(seed)
    name, done, tries = unique(), asyncio.Event(), Counter[str]()
    acknowledged: dict[str, str] = {}

    async def uploader() -> None:
        while not done.is_set():
            key, picture = unique("key"), jpeg()
            while True:
                tries[key] += 1
                with contextlib.suppress(httpx.TransportError):
                    answer = await upload(kit.client, key, name, picture)
                    if answer.status_code == 201:
                        break
                    assert answer.status_code in (409, 503), answer.text
                await asyncio.sleep(0.1)
            [frame] = answer.json()["frames"]
            assert frame["sha256"] == sha256(picture)
            acknowledged[frame["frame_id"]] = frame["sha256"]

    uploaders = [asyncio.create_task(uploader()) for _ in range(4)]
    for _ in range(KILLS):
        await asyncio.sleep(0.3 + chance.random())
        kill(kit)
        await restarted(kit)
    done.set()
    await asyncio.gather(*uploaders)
    rows = await kit.rows("SELECT id, sha256 FROM frames WHERE camera_id = $1 AND state = 'stored'", name)
    assert {str(row["id"]): row["sha256"] for row in rows} == acknowledged
    assert await kit.counts(name) == (len(acknowledged),) * 3
    assert len(tries) == len(acknowledged)
    print(f"{len(acknowledged)} uploads, {sum(tries.values()) - len(tries)} retries")


# -- the store is away -------------------------------------------------------------------------------------------


async def test_a_503_frees_the_key(kit: Kit) -> None:
    key, name, files = unique("key"), unique(), (jpeg(), jpeg())
    kit.store.shut()
    try:
        problem(await upload(kit.client, key, name, files[0]), 503, "storage_unavailable")
    finally:
        kit.store.open()
    assert await kit.rows("SELECT 1 FROM idempotency_keys WHERE key = $1", key) == []
    answer = await upload(kit.client, key, name, files[1])  # free, so for another body too
    assert (answer.status_code, is_replay(answer)) == (201, False), answer.text
    assert await kit.counts(name) == (1, 1, 1)


# -- what is kept ------------------------------------------------------------------------------------------------


async def test_what_is_kept_of_a_frame_is_its_id(kit: Kit) -> None:
    """So a replay tells nothing of a frame that was deleted since, and a client's own words give no URL."""
    key, name, files = unique("key"), unique(), (jpeg(), jpeg())
    first = await upload(kit.client, key, name, *files)
    (row,) = await kit.rows("SELECT answer::text AS text, owner FROM idempotency_keys WHERE key = $1", key)
    frames = first.json()["frames"]
    assert json.loads(row["text"])["frames"] == [frame["frame_id"] for frame in frames]
    assert row["owner"] == "anonymous"
    assert "car-0.jpg" not in row["text"]
    assert (await kit.other.delete(f"/api/v1/frames/{frames[0]['frame_id']}")).status_code == 204
    again = await upload(kit.client, key, name, *files)
    blank: dict[str, Any] = {"filename": None, "exif": None, "meta": {}, "storage_url": None, "url_expires_at": None}
    assert is_replay(again)
    assert again.json()["frames"][0] == {**frames[0], **blank}
    assert bare(again.json()["frames"][1]) == bare(frames[1])
    assert (await asyncio.to_thread(httpx.get, again.json()["frames"][1]["storage_url"])).content == files[1]


async def test_a_clients_own_meta_gives_no_url(kit: Kit) -> None:
    mark = {"storage_path": ".trackshift/log", "storage_url": None, "url_expires_at": None, "frame_id": str(uuid4())}
    body = {"camera_id": unique(), "rtsp_url": "rtsp://127.0.0.1:1/x", "meta": {"extra": mark}}
    key = unique("key")
    for _ in range(2):
        answer = await post(kit.client, RTSP, key, body)
        assert answer.status_code == 202
        assert answer.json()["meta"]["extra"] == mark
    assert is_replay(answer)
    await kit.client.post(f"/api/v1/ingest/requests/{answer.json()['request_id']}/cancel")


async def test_a_caller_has_a_bounded_number_of_keys(keyed: Keyed) -> None:
    """Beyond it a new key is 429, a kept one is answered again, other callers and requests without a key go on."""
    picture = jpeg()
    for n in range(3):
        assert (await keyed.upload("a", f"k{n}", picture)).status_code == 201
    refused = await keyed.upload("a", "k3", picture)
    problem(refused, 429, "rate_limited")
    assert 80_000 < int(refused.headers["retry-after"]) <= 86_400
    assert is_replay(await keyed.upload("a", "k0", picture))
    assert (await keyed.upload("a", None, picture)).status_code == 201
    assert (await keyed.upload("b", "k3", picture)).status_code == 201
    assert 'ingestion_idempotency_total{outcome="over_quota"} 1.0' in (await keyed.metrics())


# -- time --------------------------------------------------------------------------------------------------------


async def test_after_its_time_a_key_is_new(kit: Kit) -> None:
    key, name, files = unique("key"), unique(), (jpeg(), jpeg())
    first = await upload(kit.client, key, name, files[0])
    for hours, code in ((23.9, 422), (24.1, 201)):
        await kit.rows(
            "UPDATE idempotency_keys SET created_at = now() - make_interval(secs => $2) WHERE key = $1", key, hours * 3600
        )
        answer = await upload(kit.client, key, name, files[1])
        assert answer.status_code == code, answer.text
    assert answer.json()["request_id"] != first.json()["request_id"]
    assert await kit.counts(name) == (2, 2, 2)


async def test_metrics(kit: Kit) -> None:
    key, name, picture = unique("key"), unique(), jpeg()
    await upload(kit.other, key, name, picture)
    await upload(kit.other, key, name, picture)
    await upload(kit.other, key, name, jpeg())
    text = (await kit.other.get("/metrics")).text
    for outcome in ("taken", "replayed", "reused"):
        assert f'ingestion_idempotency_total{{outcome="{outcome}"}}' in text
    assert "ingestion_idempotency_running 0.0" in text
