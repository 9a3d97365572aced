"""GET /api/v1/events of real processes: long polls, streams, the consumer of docs/integration.md."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from demo.camera import Camera
from tests.conftest import ROOT, Backends, Service, free_port, running, unique
from tests.kits.forked import run_command
from tests.kits.service_support import all_frames, capture, jpeg, own_database, service_on, until, upload

EVENTS = "/api/v1/events"
SOON = 0.9  # seconds: sooner than the poll of a relay that nobody woke
STREAM = {"Accept": "text/event-stream"}
UPLOAD = ["request.started", "frame.stored", "request.completed"]


@pytest_asyncio.fixture(scope="module")
async def parts(backends: Backends) -> Backends:
    return await own_database(backends)


@pytest_asyncio.fixture(scope="module")
async def one(parts: Backends, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    """A service that several tests share."""
    async with serving(parts, tmp_path_factory.mktemp("one")) as (_, client):
        yield client


@asynccontextmanager
async def serving(parts: Backends, folder: Path, **environment: str) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    folder.mkdir(exist_ok=True)
    service = service_on(parts, folder, **environment)
    async with running(service) as client:
        yield service, client


class Events:
    """A client of the stream: blocks as the standard has them."""

    def __init__(self, answer: httpx.Response) -> None:
        self._lines = answer.aiter_lines()

    async def block(self) -> dict[str, str]:
        found: dict[str, str] = {}
        async for line in self._lines:
            if not line:
                return found
            name, _, value = line.partition(": ")
            found[name] = value
        raise EOFError

    async def event(self, seconds: float = 10) -> dict[str, Any]:
        """The next event, `data` read; `id` is checked to be the event's own."""
        async with asyncio.timeout(seconds):
            while "data" not in (found := await self.block()):
                pass
        event: dict[str, Any] = json.loads(found["data"])
        assert (found["id"], found["event"]) == (event["id"], event["type"])
        return event

    async def end(self) -> None:
        """Reads until the stream ends as it should, by its last chunk."""

        async def rest() -> None:
            while True:
                await self.block()

        with pytest.raises(EOFError):
            await rest()


async def latest(client: httpx.AsyncClient) -> str:
    answer = (await client.get(EVENTS, params={"after": "latest"})).raise_for_status().json()
    assert answer["items"] == []
    return str(answer["next_cursor"])


async def metric(client: httpx.AsyncClient, name: str) -> float:
    text = (await client.get("/metrics")).text
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))


async def readers(client: httpx.AsyncClient, count: int) -> None:
    async def check() -> bool:
        return await metric(client, "ingestion_event_readers") == count

    await until(check, f"{count} readers wait")


async def test_polls_hear_of_every_process(parts: Backends, one: httpx.AsyncClient, tmp_path: Path) -> None:
    async with serving(parts, tmp_path) as (_, other):
        start, camera = await latest(one), unique()
        for writer in (one, other):
            types = "request.completed,request.failed"
            query = {"after": await latest(one), "wait": "20", "camera_id": camera, "types": types}
            poll = asyncio.create_task(one.get(EVENTS, params=query))
            await readers(one, 1)
            answer = await upload(writer, camera, jpeg())
            began = time.monotonic()
            page = (await poll).raise_for_status()
            assert time.monotonic() - began < SOON
            assert page.headers["content-type"] == "application/json"
            (event,) = page.json()["items"]
            found = (event["type"], event["subject"], event["cameraid"])
            assert found == ("request.completed", answer.json()["request_id"], camera)
        whole = (await other.get(EVENTS, params={"after": start})).json()
        assert [event["type"] for event in whole["items"]] == UPLOAD * 2
        assert whole["next_cursor"] == whole["items"][-1]["id"]
        for headers in ({}, STREAM):  # HEAD answers at once, whatever it is asked for
            began = time.monotonic()
            head = await one.head(EVENTS, params={"after": whole["next_cursor"], "wait": "20"}, headers=headers)
            assert (head.status_code, head.content) == (200, b"")
            assert time.monotonic() - began < 5
        last = (await one.get(EVENTS, params={"newest": "4", "limit": "1"})).json()
        assert (last["items"], last["next_cursor"]) == (whole["items"][-4:], whole["next_cursor"])
        for query in ({"newest": "0"}, {"newest": "1001"}, {"newest": "2", "after": "latest"}):
            refused = await one.get(EVENTS, params=query)
            assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request"), refused.text
        async with one.stream("GET", EVENTS, params={"newest": "2"}, headers=STREAM) as answer:
            stream = Events(answer)
            assert [await stream.event(), await stream.event()] == whole["items"][-2:]
        log_id = start.split(".")[0]
        for headers in ({}, STREAM):  # refused before a stream begins
            for after in (f"{log_id}.999999", f"{'0' * 8}{log_id[8:]}.1"):
                gone = await one.get(EVENTS, params={"after": after}, headers=headers)
                assert gone.status_code == 410, gone.text
                assert (gone.json()["code"], gone.json()["oldest_cursor"]) == ("cursor_expired", f"{log_id}.0")


async def test_a_capture_tells_of_each_frame_once(one: httpx.AsyncClient) -> None:
    """Followed while it runs: what was told is what is stored, in the order of the grid, from started to completed."""
    query = {"after": await latest(one), "camera_id": unique(), "wait": "20"}
    with Camera(size=(320, 180), fps=10, bitrate=300_000) as source:
        request_id = await capture(one, query["camera_id"], source.url, capture_mode="continuous", capture_duration=2, fps=5)
        told: list[dict[str, Any]] = []
        async with asyncio.timeout(60):
            while not any(event["type"] == "request.completed" for event in told):
                page = (await one.get(EVENTS, params=query)).raise_for_status().json()
                told += page["items"]
                query["after"] = page["next_cursor"]
    frames = await all_frames(one, request_id)
    assert len(frames) >= 8
    stored = [event["data"] for event in told if event["type"] == "frame.stored"]
    assert {"frame_id", "timestamp", "storage_path", "sha256", "meta"} <= stored[0].keys()
    shown = [{name: frame[name] for name in stored[0]} for frame in frames]
    assert sorted(stored, key=lambda frame: frame["sequence"]) == sorted(shown, key=lambda frame: frame["sequence"])
    assert (told[0]["type"], told[-1]["type"]) == ("request.started", "request.completed")
    ledger = told[-1]["data"]["progress"]
    assert ledger["expected"] == ledger["stored"] + sum(ledger["dropped"].values()) == 10
    assert ledger["stored"] == len(frames)


async def test_a_stream_is_resumed_where_it_was_cut(one: httpx.AsyncClient) -> None:
    start, camera = await latest(one), unique()
    await upload(one, camera, jpeg(), jpeg())
    query = {"after": start, "camera_id": camera}
    async with one.stream("GET", EVENTS, params=query, headers=STREAM) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = Events(answer)
        seen = [await events.event() for _ in range(2)]
    await readers(one, 0)
    again = {**STREAM, "Last-Event-ID": seen[-1]["id"]}  # goes before `after`, which browsers repeat
    async with one.stream("GET", EVENTS, params=query, headers=again) as answer:
        events = Events(answer)
        seen += [await events.event() for _ in range(2)]
        assert seen == (await one.get(EVENTS, params=query)).json()["items"]
        await upload(one, unique(), jpeg())  # another camera's: not shown
        await upload(one, camera, jpeg())
        began = time.monotonic()
        assert [(await events.event())["type"] for _ in range(3)] == UPLOAD
        assert time.monotonic() - began < SOON


async def test_readers_are_bounded_and_a_stop_ends_them(parts: Backends, tmp_path: Path) -> None:
    async with serving(parts, tmp_path, EVENTS__MAX_READERS="2") as (service, client):
        query = {"after": "latest"}
        async with client.stream("GET", EVENTS, params=query, headers=STREAM) as answer:
            poll = asyncio.create_task(client.get(EVENTS, params={**query, "wait": "30"}))
            await readers(client, 2)
            refusals: list[tuple[dict[str, str], dict[str, str]]] = [({"wait": "1"}, {}), ({}, STREAM)]
            for more, headers in refusals:
                refused = await client.get(EVENTS, params=more, headers=headers)
                assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
                assert refused.headers["retry-after"]
            assert (await client.get(EVENTS)).status_code == 200  # who does not wait takes no place
            began = time.monotonic()
            assert await asyncio.to_thread(service.stop) == 0
            assert time.monotonic() - began < 8
            await Events(answer).end()
        assert (await poll).status_code == 503
        assert (await poll).json()["code"] == "shutting_down"
        assert '"level": "error"' not in service.text()


def consumer() -> str:
    """The first program of docs/integration.md."""
    code, _ = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "integration.md").read_text("utf-8"), re.DOTALL)
    assert len(code.splitlines()) < 75
    return str(code)


class Consumer:
    def __init__(self, folder: Path, url: str) -> None:
        self.script, self.state, self.out = folder / "consumer.py", folder / "cursor", folder / "out"
        self.script.write_text(consumer())
        self.url = url
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.out.open("ab") as out:
            command = [sys.executable, str(self.script), f"{self.url}/api/v1", str(self.state)]
            self.process = subprocess.Popen(command, stdout=out, stderr=out)

    def kill(self) -> None:
        if self.process is not None:
            assert self.process.poll() is None, self.out.read_text()
            self.process.kill()
            self.process.wait(10)

    @property
    def seen(self) -> set[str]:
        """Frames whose work was done: whole lines."""
        return {line.split()[0] for line in self.out.read_text().splitlines() if line.count(" ") == 3}


async def test_the_documented_consumer_misses_nothing(backends: Backends, tmp_path: Path) -> None:
    """It is killed, the service is killed, both are; what was stored meanwhile comes when they are back."""
    service = service_on(await own_database(backends), tmp_path, API__PORT=str(free_port()))
    stored: set[str] = set()
    await asyncio.to_thread(service.start)
    taker = Consumer(tmp_path, service.url)

    async def store(count: int) -> None:
        async with httpx.AsyncClient(base_url=service.url, timeout=30) as client:
            for _ in range(count):
                answer = await upload(client, "pit-lane-1", jpeg((64, 48)), jpeg((64, 48)))
                stored.update(item["frame_id"] for item in answer.raise_for_status().json()["frames"])

    async def all_seen() -> bool:
        return taker.seen >= stored

    try:
        await store(3)
        taker.start()
        await until(all_seen, "what was there before it")
        taker.kill()
        await store(3)
        taker.start()
        await store(3)
        service.kill()
        await asyncio.to_thread(service.start)
        await store(3)
        await until(all_seen, "what was stored around the service's end")
        taker.kill()
        await store(1)
        taker.start()
        await until(all_seen, "everything")
        assert taker.seen == stored
        assert "missed" not in taker.out.read_text()
        new = await asyncio.to_thread(run_command, service.environment, "reset-event-log")
        assert new.returncode == 0, new.stderr
        adopted = await asyncio.to_thread(run_command, service.environment, "bucket", "adopt")
        assert adopted.returncode == 0, adopted.stderr

        async def ours() -> bool:  # in between, the service may have seen another database's bucket
            return 'ingestion_bucket_state{state="ours"} 1.0' in httpx.get(f"{service.url}/metrics").text

        await until(ours, "the service stores again")
        await store(1)
        await until(all_seen, "what was stored after the restore")
        assert "events were missed" in taker.out.read_text()

        async def follows_the_new_log() -> bool:
            return str(json.loads(taker.state.read_text())[0]).startswith(new.stdout.strip())

        await until(follows_the_new_log, "its cursor")
    finally:
        taker.kill()
        if service.process is not None and service.process.poll() is None:
            await asyncio.to_thread(service.stop)
