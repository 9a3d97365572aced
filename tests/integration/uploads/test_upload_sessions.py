"""Direct uploads on a real service and a real S3 server: cut, gone on with, completed once, refused as a form is."""

from __future__ import annotations

import asyncio
import io
import random
import re
import secrets
import select
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import numpy as np
import pytest
import pytest_asyncio
from PIL import Image
from sqlalchemy import select as sql_select

from config import DbSettings
from models.access import ANONYMOUS
from models.entities import UploadSession
from models.schemas import UploadSessionCreate
from models.values import ReceivedFile
from repositories.database import Database
from services.access.shares import Shares
from services.storage_service.service import StorageService
from services.storage_service.staging import staging_key
from services.upload_handler.handler import UploadHandler
from services.upload_sessions.sessions import UploadSessions
from services.upload_sessions.staging_sweeper import StagingSweeper
from tests.conftest import Backends, Service, running, unique
from tests.kits.service_support import (
    all_frames,
    assert_objects,
    jpeg,
    own_database,
    service_on,
    sha256,
    until,
    upload,
)
from tests.kits.tcp_proxy import TcpProxy
from utils.exceptions import IngestionException
from utils.ids import new_id

PATH = "/api/v1/ingest/upload/sessions"
PART = 5_242_880


class Direct:
    """A service whose own way to the store is a proxy, and its client."""

    def __init__(
        self, service: Service, client: httpx.AsyncClient, proxy: TcpProxy, db: DbSettings, storage: StorageService
    ) -> None:
        """`storage`: the service's bucket, past the proxy."""
        self.service, self.client, self.proxy, self.db, self.storage = service, client, proxy, db, storage

    async def open(self, data: bytes, name: str = "car.jpg", status: int = 201, **body: Any) -> dict[str, Any]:
        body = {"camera_id": unique("direct"), "filename": name, "size_bytes": len(data), **body}
        answer = await self.client.post(PATH, json=body)
        assert answer.status_code == status, answer.text
        found: dict[str, Any] = answer.json()
        if status == 201:
            assert answer.headers["location"] == f"{PATH}/{found['session_id']}"
        return found

    async def state(self, session: dict[str, Any]) -> dict[str, Any]:
        answer = await self.client.get(f"{PATH}/{session['session_id']}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def complete(self, session: dict[str, Any], **body: Any) -> httpx.Response:
        return await self.client.post(f"{PATH}/{session['session_id']}/complete", json=body or None)

    async def stored_once(self, session: dict[str, Any], data: bytes) -> dict[str, Any]:
        """Completes; checks the frame, its object, and that asking again changes nothing."""
        first = await self.complete(session)
        assert first.status_code == 201, first.text
        again = await self.complete(session)
        assert again.status_code == 201, again.text
        answer: dict[str, Any] = first.json()
        assert first.headers["location"] == again.headers["location"] == f"/api/v1/ingest/status/{answer['request_id']}"
        assert answer["request_id"] == again.json()["request_id"]
        assert answer["status"] == "completed"
        frames = await all_frames(self.client, answer["request_id"])
        assert [frame["sha256"] for frame in frames] == [sha256(data)]
        assert frames[0]["filename"] == session["filename"]
        await assert_objects(self.client, frames)
        every = (await self.client.get("/api/v1/frames", params={"camera_id": session["camera_id"]})).json()["items"]
        assert len(every) == 1
        state = await self.state(session)
        assert (state["status"], state["request_id"]) == ("completed", answer["request_id"])
        assert state["upload_url"] is None
        return answer


@asynccontextmanager
async def direct_service(backends: Backends, folder: Path, **environment: str) -> AsyncIterator[Direct]:
    host, _, port = backends.storage.ENDPOINT.removeprefix("http://").partition(":")
    own = await own_database(backends)
    with TcpProxy(host, int(port)) as proxy:
        behind = replace(own, storage=own.storage.model_copy(update={"ENDPOINT": f"127.0.0.1:{proxy.port}"}))
        settings = {
            "STORAGE__PUBLIC_ENDPOINT": backends.storage.ENDPOINT, "STORAGE__READ_TIMEOUT": "3",
            "STORAGE__MAX_ATTEMPTS": "1", "UPLOAD__PART_SIZE": str(PART), "UPLOAD__MAX_FILE_SIZE": "1048576",
            "UPLOAD__DISK_RESERVE": "0", **environment,
        }  # fmt: skip
        service = service_on(behind, folder, **settings)
        storage = StorageService(own.storage)
        async with running(service) as client:
            yield Direct(service, client, proxy, own.db, storage)
        await storage.close()


@pytest_asyncio.fixture(scope="module")
async def direct(backends: Backends, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Direct]:
    async with direct_service(backends, tmp_path_factory.mktemp("direct")) as made:
        yield made


def picture(size: int) -> bytes:
    """A BMP of about `size` bytes that no other call makes."""
    side = int((size / 3) ** 0.5)
    buffer = io.BytesIO()
    pixels = np.random.default_rng(secrets.randbits(64)).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "BMP")
    return buffer.getvalue()


def put(url: str, data: bytes) -> httpx.Response:
    return httpx.put(url, content=data, timeout=30)


def cut_put(url: str, data: bytes, at: int | None) -> None:
    """A PUT whose connection ends after `at` bytes of its body; None: after all of them, the answer never read."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    with socket.create_connection((parts.hostname, parts.port or 80)) as connection:
        head = f"PUT {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: {len(data)}\r\n\r\n"
        connection.sendall(head.encode() + data[:at])
        if at is None:  # MinIO gives up a PUT whose client hangs up before it is answered
            select.select([connection], [], [], 20)


async def gone(storage: StorageService, session: dict[str, Any]) -> None:
    """Nothing of the session is in the staging area, not even begun."""

    key = staging_key(UUID(session["session_id"]))

    def begun() -> Any:
        return storage._bucket._client.list_multipart_uploads(Bucket=storage.bucket, Prefix=key).get("Uploads")

    async def check() -> bool:
        return await storage.head(key) is None and not await asyncio.to_thread(begun)

    await until(check, "the staging object's removal")


async def test_one_put_cut_anywhere_is_sent_again(direct: Direct) -> None:
    data = jpeg((800, 600))
    meta = {"session": "FP1", "timestamp_ref": "2026-05-04T13:30:00.000000Z"}
    session = await direct.open(data, "../x/car 44.JPG", meta=meta, content_type="image/JPEG; q=1", sha256=sha256(data))
    assert (session["method"], session["filename"], session["parts"]) == ("single", "car 44.JPG", None)
    for at in (0, 1, len(data) // 2, len(data) - 1):
        await asyncio.to_thread(cut_put, session["upload_url"], data, at)
        found = (await direct.complete(session)).json()
        assert (found["code"], found["status"], found["missing_parts"]) == ("upload_incomplete", 409, [1])
        state = await direct.state(session)
        assert (state["status"], state["received_bytes"]) == ("open", 0)
    assert (await asyncio.to_thread(put, state["upload_url"], data + b"x")).status_code == 403  # the length is signed
    await asyncio.to_thread(cut_put, state["upload_url"], data, None)  # the answer was lost: asked, not guessed

    async def arrived() -> bool:
        return bool((await direct.state(session))["received_bytes"] == len(data))

    await until(arrived, "the PUT whose answer nobody read")
    answer = await direct.stored_once(session, data)
    frame = answer["frames"][0]
    assert (frame["timestamp"], frame["timestamp_source"], frame["meta"]) == (meta["timestamp_ref"], "client", meta)
    await gone(direct.storage, session)
    assert (await direct.client.delete(f"{PATH}/{session['session_id']}")).status_code == 204
    assert (await direct.state(session))["status"] == "completed"


async def test_parts_cut_anywhere_are_sent_again(direct: Direct) -> None:
    data = picture(2 * PART + 100_000)  # larger than a form takes
    session = await direct.open(data, "car.bmp")
    parts = session["parts"]
    assert [(p["number"], p["offset"], p["size"]) for p in parts] == [
        (1, 0, PART), (2, PART, PART), (3, 2 * PART, len(data) - 2 * PART),
    ]  # fmt: skip

    def body(part: dict[str, Any]) -> bytes:
        return data[part["offset"] : part["offset"] + part["size"]]

    first = await asyncio.to_thread(put, parts[2]["url"], body(parts[2]))
    for part in parts[:2]:
        await asyncio.to_thread(cut_put, part["url"], body(part), random.randrange(part["size"]))
    state = await direct.state(session)
    assert [part["arrived"] for part in state["parts"]] == [False, False, True]
    assert (state["parts"][2]["url"], state["parts"][2]["etag"]) == (None, first.headers["etag"].strip('"'))
    assert state["received_bytes"] == parts[2]["size"]
    found = (await direct.complete(session)).json()
    assert (found["code"], found["missing_parts"]) == ("upload_incomplete", [1, 2])
    answers = [first, *[await asyncio.to_thread(put, part["url"], body(part)) for part in state["parts"][:2]]]
    etags = [answer.headers["etag"] for answer in answers]
    given = [{"number": number, "etag": etag} for number, etag in zip((3, 1, 2), etags, strict=True)]
    wrong = [{**part, "etag": "0" * 32} if part["number"] == 2 else part for part in given]
    found = (await direct.complete(session, parts=wrong)).json()
    assert (found["code"], found["missing_parts"]) == ("upload_incomplete", [2])
    assert (await direct.complete(session, parts=given)).status_code == 201
    await direct.stored_once(session, data)
    await gone(direct.storage, session)


async def test_many_completions_at_once_store_once(direct: Direct) -> None:
    data = jpeg((640, 480))
    session = await direct.open(data)
    await asyncio.to_thread(put, session["upload_url"], data)
    answers = await asyncio.gather(*(direct.complete(session) for _ in range(6)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["request_id"] for answer in answers}) == 1
    await direct.stored_once(session, data)


@pytest.mark.parametrize("case", ["text", "truncated", "another format", "empty picture", "declared type"])
async def test_a_refusal_is_the_forms(direct: Direct, case: str) -> None:
    good = jpeg()
    data, name, kind = {
        "text": (b"not a picture at all\n" * 40, "a.jpg", "image/jpeg"),
        "truncated": (good[: len(good) // 2], "a.jpg", None),
        "another format": (jpeg(kind="PNG"), "a.jpg", "image/jpeg"),
        "empty picture": (b"\xff\xd8\xff\xd9", "a.jpeg", None),
        "declared type": (good, "a.jpg", "image/png"),
    }[case]
    form = await direct.client.post(
        "/api/v1/ingest/upload", data={"camera_id": unique()},
        files=[("files", (name, data, kind or "application/octet-stream"))],
    )  # fmt: skip
    session = await direct.open(data, name, content_type=kind)
    await asyncio.to_thread(put, session["upload_url"], data)
    first, again = await direct.complete(session), await direct.complete(session)
    same = ("status", "code", "title", "detail", "retryable", "errors", "rejected")
    assert form.status_code == first.status_code == again.status_code
    for answer in (first, again):
        assert {key: answer.json()[key] for key in same} == {key: form.json()[key] for key in same}
    state = await direct.state(session)
    assert (state["status"], state["error"]["code"]) == ("failed", form.json()["code"])
    await gone(direct.storage, session)


async def test_what_can_be_refused_before_a_byte_is_sent_is(direct: Direct) -> None:
    for name, size, code in (("a.txt", 5, "unsupported_image_format"), ("a.jpg", 10**12, "payload_too_large")):
        body = {"camera_id": "cam", "filename": name, "size_bytes": size}
        assert (await direct.client.post(PATH, json=body)).json()["code"] == code
    for bad in (
        {"size_bytes": 0}, {"size_bytes": "5"}, {"size_bytes": 5.0}, {"filename": "a/.."}, {"sha256": "AB" * 32},
        {"meta": {"x": 1}}, {"camera_id": ".."}, {"content_type": "a\tb"}, {"other": 1},
    ):  # fmt: skip
        answer = await direct.client.post(PATH, json={"camera_id": "cam", "filename": "a.jpg", "size_bytes": 5, **bad})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), bad
    unknown = {"session_id": "01934f5e-2b7a-7c31-9d5e-6f0a1b2c3d44"}
    assert (await direct.complete(unknown)).json()["code"] == "session_not_found"
    assert (await direct.client.get(f"{PATH}/{unknown['session_id']}")).status_code == 404
    assert (await direct.client.delete(f"{PATH}/{unknown['session_id']}")).status_code == 204


async def test_another_files_bytes_are_refused_by_their_sha256(direct: Direct) -> None:
    data = jpeg()
    session = await direct.open(data, sha256="0" * 64)
    await asyncio.to_thread(put, session["upload_url"], data)
    for _ in range(2):
        answer = await direct.complete(session)
        assert (answer.status_code, answer.json()["code"]) == (422, "checksum_mismatch")
    assert (await direct.client.get("/api/v1/frames", params={"camera_id": session["camera_id"]})).json()["items"] == []


async def test_an_aborted_session_is_over(direct: Direct) -> None:
    data = picture(PART + 1000)
    for session in (await direct.open(data, "a.bmp"), await direct.open(jpeg())):
        url = session["upload_url"] or session["parts"][1]["url"]
        size = session["size_bytes"] if session["upload_url"] else session["parts"][1]["size"]
        assert (await asyncio.to_thread(put, url, bytes(size))).status_code == 200
        for _ in range(2):
            assert (await direct.client.delete(f"{PATH}/{session['session_id']}")).status_code == 204
        await gone(direct.storage, session)
        answer = await direct.complete(session)
        assert (answer.status_code, answer.json()["code"]) == (410, "session_closed")
        assert (await direct.state(session))["status"] == "aborted"


async def test_a_store_that_is_away_at_the_completion(direct: Direct) -> None:
    data = jpeg()
    session = await direct.open(data)
    await asyncio.to_thread(put, session["upload_url"], data)
    direct.proxy.stall()
    for _ in range(2):
        answer = await direct.complete(session)
        assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable"), answer.text
        assert answer.headers["retry-after"]
    assert (await direct.client.post(PATH, json={"camera_id": "c", "filename": "a.jpg", "size_bytes": 9})).status_code == 503
    direct.proxy.go_on()
    await direct.stored_once(session, data)


async def test_a_store_known_to_be_away_refuses_before_the_body_is_read(direct: Direct) -> None:
    client, port = direct.client, int(direct.service.url.rpartition(":")[2])
    asking = (
        b"POST /api/v1/ingest/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=B\r\n"
        b"Content-Length: 1000000\r\nExpect: 100-continue\r\n\r\n"
    )

    def refused() -> bytes:
        with socket.create_connection(("127.0.0.1", port), 10) as connection:
            connection.sendall(asking)
            return connection.recv(65536).partition(b"\r\n")[0]

    assert (await upload(client, unique(), jpeg())).status_code == 201
    for _ in range(3):
        direct.proxy.stall()
        assert (await upload(client, unique(), jpeg())).json()["code"] == "storage_unavailable"  # from now on it is known
        began = time.monotonic()
        answers = await asyncio.gather(*(asyncio.to_thread(refused) for _ in range(10)))
        assert set(answers) == {b"HTTP/1.1 503 Service Unavailable"}
        assert time.monotonic() - began < 4.5  # they share one look, of two seconds at most; pools have 6 threads
        direct.proxy.go_on()
        assert (await upload(client, unique(), jpeg())).status_code == 201  # the very next one, every time


async def test_killed_in_mid_completion_it_stores_once(direct: Direct) -> None:
    """SIGKILL while it hangs before the store, and at some moment of a completion; another start, the same answer."""
    for stalled in (True, False):
        data = jpeg((1200, 900))
        session = await direct.open(data)
        await asyncio.to_thread(put, session["upload_url"], data)
        if stalled:
            direct.proxy.stall()
        asking = asyncio.create_task(direct.complete(session))
        await asyncio.sleep(0.3 if stalled else random.uniform(0, 0.12))
        await asyncio.to_thread(direct.service.kill)
        with pytest.raises((httpx.TransportError, AssertionError)):
            assert (await asking).status_code != 201
        direct.proxy.go_on()
        await asyncio.to_thread(direct.service.start)
        direct.client.base_url = httpx.URL(direct.service.url)
        temp = Path(direct.service.environment["DATA_DIR"]) / "tmp"
        assert len(list(temp.glob("ingest-*"))) == 1  # the dead process's went at the start
        assert list(temp.glob("ingest-*/upload-*")) == []
        await direct.stored_once(session, data)


async def test_open_sessions_are_bounded_expired_ones_swept(backends: Backends, tmp_path: Path) -> None:
    async with direct_service(backends, tmp_path, UPLOAD__MAX_SESSIONS="2", UPLOAD__SESSION_TTL="3") as direct:
        data = picture(PART + 1000)
        sessions = [await direct.open(data, "a.bmp"), await direct.open(jpeg())]
        refused = await direct.open(jpeg(), status=429)
        assert refused["code"] == "too_many_pending"
        late = sessions[1]["upload_url"]
        expires = int(re.findall(r"X-Amz-Expires=(\d+)", late)[0])
        assert expires <= 3  # no URL outlives its session
        part = sessions[0]["parts"][1]
        assert (await asyncio.to_thread(put, part["url"], bytes(part["size"]))).status_code == 200
        assert (await asyncio.to_thread(put, late, bytes(sessions[1]["size_bytes"]))).status_code == 200

        async def expired() -> bool:
            return bool((await direct.state(sessions[1]))["status"] == "expired")

        await until(expired, "its end")
        for session in sessions:
            await gone(direct.storage, session)
            answer = await direct.complete(session)
            assert (answer.status_code, answer.json()["code"]) == (410, "session_closed")
        await direct.open(jpeg())


async def test_the_sweeper_knows_whose_staging_object_it_is(direct: Direct) -> None:
    database = Database(direct.db)
    try:
        data = jpeg()
        open_one, ended = await direct.open(data), await direct.open(data)
        for session in (open_one, ended):
            await asyncio.to_thread(put, session["upload_url"], data)
        assert (await direct.complete(ended)).status_code == 201
        await asyncio.to_thread(put, ended["upload_url"], data)  # the URL outlives the completion
        stranger, odd = staging_key(UUID(int=secrets.randbits(128))), f"staging/{unique()}"
        for key in (stranger, odd):
            await direct.storage.put(key, data, "image/jpeg", sha256(data))
        keys = [staging_key(UUID(session["session_id"])) for session in (open_one, ended)]

        async def there() -> list[bool]:
            return [await direct.storage.head(key) is not None for key in (*keys, stranger, odd)]

        assert await there() == [True, True, True, True]
        await StagingSweeper(database, direct.storage).sweep()
        assert await there() == [True, False, True, True]
        await StagingSweeper(database, direct.storage, orphan_age=timedelta(seconds=-5)).sweep()
        assert await there() == [True, False, False, True]
        await direct.stored_once(open_one, data)
    finally:
        await database.close()


class _Memory:
    """A LocalFile on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data

    def received(self) -> ReceivedFile:
        self.path.write_bytes(self.data)
        return ReceivedFile(0, "a.jpg", None, self.path, len(self.data), sha256(self.data))


async def test_what_is_swapped_after_the_check_is_not_stored(
    backends: Backends, database: Database, storage: StorageService, tmp_path: Path
) -> None:
    """Rule 11: whoever still has the URL may put another picture there while the first one is being checked."""
    data, other = jpeg((320, 240)), jpeg((321, 240))
    settings = backends.settings(tmp_path)
    handler = UploadHandler(settings, storage)
    sessions = UploadSessions(settings, database, storage, handler, shares=Shares(1))
    body = UploadSessionCreate(camera_id=unique(), filename="a.jpg", size_bytes=len(data))
    opened = await sessions.create(body, new_id(), who=ANONYMOUS)
    assert opened.upload_url is not None
    await asyncio.to_thread(put, opened.upload_url, data)
    check: Callable[..., Any] = handler._check

    async def swapped(file: ReceivedFile) -> Any:
        checked = await check(file)
        await storage.put(staging_key(opened.session_id), other, "image/jpeg", sha256(other))
        return checked

    handler._check = swapped  # type: ignore[method-assign]
    request_id = await sessions.complete(opened.session_id, None, _Memory(tmp_path / "a"), who=ANONYMOUS)
    async with database.unit_of_work() as uow:
        [frame] = await uow.frames.of_request(request_id, newest_first=False, limit=10)
    assert frame.sha256 == sha256(data) == sha256(await storage.get(frame.storage_path))
    with pytest.raises(IngestionException):
        await storage.get(staging_key(opened.session_id))
    await handler.close()


async def test_a_form_upload_still_works_beside(direct: Direct) -> None:
    assert (await upload(direct.client, unique(), jpeg())).status_code == 201


@pytest.mark.parametrize("size", [100_000, 40_000_000])
async def test_a_session_that_an_earlier_run_has_left_is_the_one_that_is_answered(
    backends: Backends, database: Database, storage: StorageService, tmp_path: Path, size: int
) -> None:
    """A process that dies between opening it and answering: its key runs again, under the same id."""
    settings = backends.settings(tmp_path)
    sessions = UploadSessions(settings, database, storage, UploadHandler(settings, storage), shares=Shares(1))
    body, session_id = UploadSessionCreate(camera_id=unique(), filename="a.jpg", size_bytes=size), new_id()
    first, again = [await sessions.create(body, session_id, who=ANONYMOUS) for _ in range(2)]
    assert first.session_id == again.session_id == session_id
    assert first.expires_at == again.expires_at
    assert (first.parts is None) == (size == 100_000)
    assert [part.number for part in first.parts or []] == [part.number for part in again.parts or []]
    async with database.unit_of_work() as uow:
        rows = (await uow.session.scalars(sql_select(UploadSession).where(UploadSession.camera_id == body.camera_id))).all()
    assert [row.id for row in rows] == [session_id]
    await sessions.abort(session_id, who=ANONYMOUS)
