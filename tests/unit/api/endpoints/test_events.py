"""GET /api/v1/events: strict input, which form is asked for, HEAD, server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from starlette.requests import Request
from structlog.testing import capture_logs

from api.endpoints import events as event_log
from api.endpoints.events import sse_of, wants_stream
from models.access import ALL_CAMERAS
from models.schemas import CloudEventPage
from models.values import LogEventType, LogFilter
from services.events.event_log import LogPage, Position
from services.reads.serializers.event_log import LogEvent, to_cloud_event
from tests.unit.api.support import Api, problem
from tests.unit.api.support import api as api
from utils.exceptions import CursorExpired, Overloaded

EVENTS = "/api/v1/events"
LOG = UUID("7f0c2a44-5d0e-4c39-9a34-0f8d1c7b2e61")
STREAM = {"Accept": "text/event-stream"}


class FakeLog:
    """Has one event, number 5, and one place."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, LogFilter, int, float]] = []
        self.error: Exception | None = None
        self.taken = 0

    @contextmanager
    def reader(self, _kind: str) -> Iterator[None]:
        if self.taken:
            raise Overloaded
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1

    async def page(self, start: Any, wanted: LogFilter, limit: int, wait: float = 0) -> LogPage:
        if self.error:
            raise self.error
        self.asked.append((start, wanted, limit, wait))
        return LogPage(Position(LOG, 6), False, [LogEvent(f"{LOG}.5", "frame.stored", b'{"x":1}')])

    async def follow(self, _page: LogPage, _wanted: LogFilter, _limit: int, _idle: float) -> AsyncIterator[LogPage]:
        yield LogPage(Position(LOG, 6), False)
        raise CursorExpired


async def silent(*_: Any) -> AsyncIterator[LogPage]:
    """In place of `follow`: nothing comes."""
    await asyncio.sleep(3600)
    yield LogPage(Position(LOG, 6), False)


@pytest.fixture
def log(api: Api) -> FakeLog:
    made = FakeLog()
    services: SimpleNamespace = api.state.services
    services.event_log = made
    return made


async def test_a_page(api: Api, log: FakeLog) -> None:
    answer = await api("GET", EVENTS)
    assert answer.json() == {"items": [{"x": 1}], "next_cursor": f"{LOG}.6"}
    assert answer.headers["vary"] == "Accept"
    query = f"after={LOG}.3&types=request.failed,frame.stored,frame.stored&camera_id=a&limit=1000&wait=2.5"
    assert (await api("GET", f"{EVENTS}?{query}")).status_code == 200
    assert (await api("GET", f"{EVENTS}?after=latest&wait=30", headers={"Last-Event-ID": "nonsense"})).status_code == 200
    both = (LogEventType.FRAME_STORED, LogEventType.REQUEST_FAILED)
    assert log.asked == [
        ("oldest", LogFilter(ALL_CAMERAS), 100, 0), (Position(LOG, 3), LogFilter(ALL_CAMERAS, both, "a"), 1000, 2.5),
        ("latest", LogFilter(ALL_CAMERAS), 100, 30),
    ]  # fmt: skip
    assert log.taken == 0


@pytest.mark.parametrize(
    "query",
    [
        "after=x", f"after={LOG}", f"after={LOG}.-1", f"after={LOG}.1.2", "after=", "types=", "types=frame", "types=,",
        "types=frame.stored,", "types=frame.stored&types=frame.deleted", "camera_id=..", "camera_id=a%20b", "wait=-1",
        "wait=30.1", "wait=nan", "wait=1e1", "limit=0", "limit=1001", "limit=1.0", "cursor=x",
    ],
)  # fmt: skip
async def test_input_is_strict(api: Api, log: FakeLog, query: str) -> None:
    for headers in ({}, STREAM):
        problem(await api("GET", f"{EVENTS}?{query}", headers=headers), 422, "invalid_request")
    assert not log.asked


async def test_a_stream(api: Api, log: FakeLog) -> None:
    answer = await api("GET", f"{EVENTS}?after={LOG}.3", headers=STREAM)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "content-length" not in answer.headers
    event = f'event: frame.stored\ndata: {{"x":1}}\nid: {LOG}.5\n\n'
    assert answer.text == f"retry: 1000\n\n{event}id: {LOG}.6\n\n: \n\n"
    assert log.taken == 0
    await api("GET", f"{EVENTS}?after={LOG}.3", headers={**STREAM, "Last-Event-ID": f"{LOG}.4"})
    assert [asked[0] for asked in log.asked] == [Position(LOG, 3), Position(LOG, 4)]
    found = problem(await api("GET", EVENTS, headers={**STREAM, "Last-Event-ID": "x"}), 422, "invalid_request")
    assert (found["errors"][0]["in"], found["errors"][0]["name"]) == ("header", "Last-Event-ID")


async def test_a_stop_ends_a_stream(api: Api, log: FakeLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "follow", silent)
    task = asyncio.create_task(api("GET", EVENTS, headers=STREAM))
    while not log.taken:
        await asyncio.sleep(0.01)
    with capture_logs() as lines:
        api.state.stopping.set()
        async with asyncio.timeout(5):
            assert (await task).text.endswith(f"id: {LOG}.6\n\n")
    assert [line["reason"] for line in lines if line["event"] == "event_stream_ended"] == ["shutting_down"]
    assert log.taken == 0


async def test_a_client_that_leaves_is_called_that(api: Api, log: FakeLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "follow", silent)
    headers = [(b"accept", b"text/event-stream")]
    scope = {"type": "http", "method": "GET", "path": EVENTS, "query_string": b"", "headers": headers, "app": api.app}
    begun = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if not begun.is_set():
            return {"type": "http.request", "body": b"", "more_body": False}
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            begun.set()

    with capture_logs() as lines:
        async with asyncio.timeout(5):
            await api.app(scope, receive, send)
    assert [line["reason"] for line in lines if line["event"] == "event_stream_ended"] == ["client_left"]
    assert log.taken == 0


async def test_a_client_that_does_not_read_is_let_go(api: Api, log: FakeLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "STALL_TIMEOUT", 0.05)
    monkeypatch.setattr(event_log, "FAREWELL_TIMEOUT", 0.05)
    headers = [(b"accept", b"text/event-stream")]
    scope = {"type": "http", "method": "GET", "path": EVENTS, "query_string": b"", "headers": headers, "app": api.app}
    started = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if not started.is_set():
            return {"type": "http.request", "body": b"", "more_body": False}
        await asyncio.sleep(3600)
        raise AssertionError

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            started.set()
        else:
            await asyncio.sleep(3600)

    async with asyncio.timeout(5):
        await api.app(scope, receive, send)
    assert started.is_set()
    assert log.taken == 0


async def test_refusals_come_as_problems(api: Api, log: FakeLog) -> None:
    log.error = CursorExpired(details={"oldest_cursor": f"{LOG}.3"})
    for headers in ({}, STREAM):
        assert problem(await api("GET", EVENTS, headers=headers), 410, "cursor_expired")["oldest_cursor"] == f"{LOG}.3"
    assert log.taken == 0
    log.error, log.taken = None, 1
    problem(await api("GET", EVENTS, headers=STREAM), 503, "overloaded")
    problem(await api("GET", f"{EVENTS}?wait=1"), 503, "overloaded")
    assert (await api("GET", EVENTS)).status_code == 200
    problem(await api("POST", EVENTS), 405, "method_not_allowed")


async def test_head_does_not_wait(api: Api, log: FakeLog) -> None:
    answer = await api("HEAD", f"{EVENTS}?wait=30")
    assert (answer.status_code, answer.content) == (200, b"")
    answer = await api("HEAD", EVENTS, headers=STREAM)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert [asked[3] for asked in log.asked] == [0, 0]
    assert log.taken == 0


@pytest.mark.parametrize(
    ("accept", "stream"),
    [
        ("text/event-stream", True), ("*/*", False), ("", False), ("application/json", False), ("text/*", False),
        ("Text/Event-Stream; charset=utf-8", True), ("text/event-stream;q=0", False), ("text/event-stream;q=x", False),
        ("text/event-stream, */*;q=0.1", True), ("application/json, text/event-stream;q=0.5", False),
        ("application/json;q=0.5, text/event-stream", True),
    ],
)  # fmt: skip
def test_which_form_is_asked_for(accept: str, stream: bool) -> None:
    assert wants_stream(Request({"type": "http", "headers": [(b"accept", accept.encode())]})) is stream


def test_a_page_as_server_sent_events() -> None:
    quiet = LogPage(Position(LOG, 7), False)
    assert sse_of(quiet, f"{LOG}.7") == b": \n\n"
    assert sse_of(quiet, f"{LOG}.6") == f"id: {LOG}.7\n\n".encode()
    one = LogPage(Position(LOG, 7), False, [LogEvent(f"{LOG}.7", "a.b", b"{}")])
    assert sse_of(one, "") == f"event: a.b\ndata: {{}}\nid: {LOG}.7\n\n".encode()


def test_an_event_is_one_line_and_keeps_its_six_digits() -> None:
    row = (
        '{"type": "frame.stored", "subject": "01934f5e-2c10-8a5b-8f21-0c9d8e7f6a5b", "camera_id": "a",'
        ' "time": "2026-05-04T13:30:00.000000Z", "data": {"filename": "ü\\n\\u2028.jpg"}}'
    )
    event = to_cloud_event(LOG, 5, row)
    assert b"\n" not in event.body
    assert b"\r" not in event.body
    assert b'"time":"2026-05-04T13:30:00.000000Z"' in event.body
    assert CloudEventPage.model_validate_json(b'{"items":[%b],"next_cursor":"x"}' % event.body).items[0].id == event.id
