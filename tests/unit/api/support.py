"""Stand-ins for the services and what the API tests share. The only place where services are faked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI

from api.http import examples
from api.http.state import AppState
from config import Settings
from main import create_app
from models.access import ANONYMOUS, CameraGrant, Principal
from models.schemas import (
    BurstRequest,
    BurstResponse,
    CameraConfiguration,
    CameraCreate,
    CameraPage,
    CameraPatch,
    EventPage,
    FrameInfo,
    IngestionResponse,
    NearestFrame,
    ProbeRequest,
    ProbeResponse,
    Progress,
    RequestPage,
    RTSPIngestionRequest,
    SnapshotRequest,
    TriggerRequest,
    UploadIngestionRequest,
)
from models.values import (
    FrameFilter,
    IngestionStatus,
    KeptAnswer,
    KeyName,
    ReceivedFile,
    RequestFilter,
    SourceType,
    TimestampSource,
)
from services.execution.health import Health
from services.idempotency.operation import Operation
from services.orchestrator import Accepted
from utils.disposition import inline
from utils.exceptions import (
    CameraNotFound,
    FrameNotFound,
    IdempotencyKeyReused,
    RequestInProgress,
    RequestNotFound,
)
from utils.ids import new_id

NOW = datetime(2026, 5, 4, 13, 30, tzinfo=UTC)
CONTENT = bytes(range(256)) * 4
SHA256 = "ab" * 32
KNOWN = UUID("01934f5e-2b7a-7c31-9d5e-6f0a1b2c3d4e")
RTSP = {"camera_id": "cam-1", "rtsp_url": "rtsp://127.0.0.1/x"}


def response_of(request_id: UUID, status: IngestionStatus = IngestionStatus.PENDING) -> IngestionResponse:
    return IngestionResponse(
        request_id=request_id, status=status, camera_id="cam-1", source_type=SourceType.RTSP, capture_mode=None,
        message="", frames_total=0,
        progress=Progress(
            expected=0, stored=0, in_flight=0, dropped={}, duplicates=0, gaps=[], reconnects=0, last_frame_at=None
        ),
        error=None, rejected=[], meta={}, source=None, grid_start=None, created_at=NOW, started_at=None,
        completed_at=None, updated_at=NOW, frames=[],
    )  # fmt: skip


def frame_of(frame_id: UUID) -> FrameInfo:
    return FrameInfo(
        frame_id=frame_id, request_id=new_id(), camera_id="cam-1", source_type=SourceType.UPLOAD, sequence=0,
        filename="a.jpg", storage_path="frames/a.jpg", storage_url="http://s/a", url_expires_at=NOW, timestamp=NOW,
        timestamp_source=TimestampSource.CLIENT, timestamp_uncertainty_ms=None, width=1, height=1,
        size_bytes=len(CONTENT), format="jpg", content_type="image/jpeg", sha256=SHA256, duplicate_of=None, exif=None,
        meta={}, stored_at=NOW,
    )  # fmt: skip


class FakeOrchestrator:
    def __init__(self) -> None:
        self.accepting_error: Exception | None = None
        self.error: Exception | None = None
        self.submitted: list[RTSPIngestionRequest] = []
        self.uploads: list[tuple[UploadIngestionRequest, list[ReceivedFile], list[bytes]]] = []
        self.waits: list[float] = []
        self.triggers: list[TriggerRequest] = []
        self.becomes_final = False
        self.was_final = False
        self.folders: list[Path] = []
        self.attempts: list[Operation] = []

    def check_accepting(self) -> None:
        if self.accepting_error:
            raise self.accepting_error

    async def submit_capture(self, body: RTSPIngestionRequest, _who: Principal, operation: Operation) -> Accepted:
        if self.error:
            raise self.error
        self.submitted.append(body)
        self.attempts.append(operation)
        return Accepted(KNOWN, response_of(KNOWN).model_dump_json(by_alias=True).encode())

    async def cancel(self, request_id: UUID, _cameras: CameraGrant) -> bool:
        if request_id != KNOWN:
            raise RequestNotFound
        return self.was_final

    async def trigger(self, request_id: UUID, body: TriggerRequest, _cameras: CameraGrant, _attempt: Operation) -> UUID:
        if self.error:
            raise self.error
        if request_id != KNOWN:
            raise RequestNotFound
        self.triggers.append(body)
        return KNOWN

    async def wait_final(self, _request_id: UUID, seconds: float) -> bool:
        self.waits.append(seconds)
        if not self.becomes_final:
            await asyncio.sleep(seconds)
        return self.becomes_final

    async def ingest_upload(self, form: UploadIngestionRequest, files: Sequence[ReceivedFile], operation: Operation) -> Any:
        self.attempts.append(operation)
        self.folders += [file.path.parent for file in files if file.data is None]
        bodies = [file.path.read_bytes() if file.data is None else file.data for file in files]
        self.uploads.append((form, list(files), bodies))
        if self.error:
            raise self.error
        return SimpleNamespace(request=SimpleNamespace(id=KNOWN))


class FakeContent:
    def __init__(self) -> None:
        self.etag, self.content_type, self.disposition = f'"{SHA256}"', "image/jpeg", inline('ü"x.jpg', "jpg")
        self.presigned_url: str | None = "http://store/bucket/key?X-Amz-Signature=1"
        self.reads: list[tuple[int, int]] = []
        self.fail_at: int | None = None

    async def size(self) -> int:
        return len(CONTENT)

    async def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        self.reads.append((start, stop))
        for position in range(start, stop, 100):
            if self.fail_at is not None and position >= self.fail_at:
                raise RuntimeError("the store broke: rtsp://user:hunter2@cam/")
            yield CONTENT[position : min(position + 100, stop)]


class FakeQueries:
    def __init__(self) -> None:
        self.content = FakeContent()
        self.filters: list[tuple[Any, int, str | None]] = []
        self.status = IngestionStatus.PENDING
        self.holds: list[str | None] = []
        self.error: Exception | None = None

    async def get_request(self, request_id: UUID, _who: Principal) -> IngestionResponse:
        if self.error:
            raise self.error
        if request_id != KNOWN:
            raise RequestNotFound
        return response_of(request_id, self.status)

    async def upload_body(self, stored: Any) -> bytes:
        return (await self.get_request(stored.request.id, ANONYMOUS)).model_dump_json(by_alias=True).encode()

    async def request_body(self, request_id: UUID, who: Principal) -> bytes:
        return (await self.get_request(request_id, who)).model_dump_json(by_alias=True).encode()

    async def list_requests(self, matching: RequestFilter, limit: int, cursor: str | None, _who: Principal) -> RequestPage:
        self.filters.append((matching, limit, cursor))
        return RequestPage(items=[], next_cursor=None)

    async def list_events(self, request_id: UUID, limit: int, cursor: str | None, _who: Principal) -> EventPage:
        if request_id != KNOWN:
            raise RequestNotFound
        self.filters.append((request_id, limit, cursor))
        return EventPage.model_validate(examples.EVENT_PAGE)

    async def get_frame(self, frame_id: UUID, _who: Principal = ANONYMOUS) -> FrameInfo:
        if frame_id != KNOWN:
            raise FrameNotFound
        return frame_of(frame_id)

    async def frames_body(self, matching: FrameFilter, limit: int, cursor: str | None, _who: Principal) -> bytes:
        self.filters.append((matching, limit, cursor))
        return b'{"items":[],"next_cursor":null}'

    async def nearest_frame(self, _camera_id: str, _at: datetime, _who: Principal) -> NearestFrame:
        return NearestFrame(**frame_of(KNOWN).model_dump(), distance_ms=1.0)

    async def delete_frame(self, _frame_id: UUID, _who: Principal, *, force: bool = False) -> None:
        if self.error:
            raise self.error

    async def hold_frame(self, frame_id: UUID, reason: str | None, _who: Principal) -> FrameInfo:
        self.holds.append(reason)
        return (await self.get_frame(frame_id)).model_copy(update={"held_at": NOW, "hold_reason": reason})

    async def release_frame(self, frame_id: UUID, _who: Principal) -> None:
        await self.get_frame(frame_id)

    async def open_frame(self, frame_id: UUID, _who: Principal) -> FakeContent:
        if frame_id != KNOWN:
            raise FrameNotFound
        return self.content


def camera_of(camera_id: str) -> CameraConfiguration:
    return CameraConfiguration.model_validate({**examples.CAMERA, "camera_id": camera_id})


class FakeCameras:
    """Knows one camera, `x`."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.created: list[CameraCreate] = []
        self.patches: list[CameraPatch] = []
        self.pages: list[tuple[int, str | None]] = []
        self.snapshots: list[SnapshotRequest] = []
        self.probed: list[ProbeRequest | str] = []
        self.probe_seconds = 0.0
        self.cancelled = False

    def _known(self, camera_id: str) -> None:
        if self.error:
            raise self.error
        if camera_id != "x":
            raise CameraNotFound

    async def create(self, body: CameraCreate, _who: Principal) -> CameraConfiguration:
        self._known("x")
        self.created.append(body)
        return camera_of(body.camera_id)

    async def get(self, camera_id: str, _cameras: CameraGrant) -> CameraConfiguration:
        self._known(camera_id)
        return camera_of(camera_id)

    async def list(self, limit: int, cursor: str | None, _who: Principal) -> CameraPage:
        self.pages.append((limit, cursor))
        return CameraPage(items=[camera_of("x")], next_cursor=None)

    async def update(self, camera_id: str, patch: CameraPatch, _who: Principal) -> CameraConfiguration:
        self._known(camera_id)
        self.patches.append(patch)
        return camera_of(camera_id)

    async def delete(self, camera_id: str) -> None:
        self._known(camera_id)

    async def probe_url(self, body: ProbeRequest, _who: Principal) -> ProbeResponse:
        self._known("x")
        self.probed.append(body)
        try:
            await asyncio.sleep(self.probe_seconds)
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return ProbeResponse.model_validate(examples.PROBE)

    async def probe(self, camera_id: str, _who: Principal) -> ProbeResponse:
        self._known(camera_id)
        self.probed.append(camera_id)
        return ProbeResponse.model_validate(examples.PROBE)

    async def take(self, camera_id: str, body: SnapshotRequest, _who: Principal, _attempt: Operation) -> FrameInfo:
        self._known(camera_id)
        self.snapshots.append(body)
        return frame_of(KNOWN)


class FakeBursts:
    def __init__(self) -> None:
        self.error: Exception | None = None
        self.taken: list[BurstRequest] = []
        self.seconds = 0.0
        self.cancelled = False

    async def take(self, body: BurstRequest, _who: Principal, _attempt: Operation) -> BurstResponse:
        if self.error:
            raise self.error
        self.taken.append(body)
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return BurstResponse.model_validate(examples.BURST)

    async def get(self, group_id: UUID, _cameras: CameraGrant) -> BurstResponse:
        if group_id != KNOWN:
            raise RequestNotFound
        return BurstResponse.model_validate(examples.BURST)


class FakeDirect:
    async def check_store(self) -> None:
        return None


class FakeKeys:
    """Keys in memory, by the rules of services.idempotency.service; nothing lapses."""

    def __init__(self) -> None:
        self.known: dict[KeyName, tuple[str, KeptAnswer | None]] = {}
        self.released: list[Operation] = []

    async def begin(self, name: KeyName, fingerprint: str) -> Operation | KeptAnswer:
        if name not in self.known:
            self.known[name] = (fingerprint, None)
            return Operation(name=name)
        before, answer = self.known[name]
        if before != fingerprint:
            raise IdempotencyKeyReused
        if answer is None:
            raise RequestInProgress(retry_after=1)
        return answer

    async def finish(self, operation: Operation, status: int, location: str | None, body: Any) -> None:
        assert operation.name is not None
        answer = KeptAnswer(operation.run, status, location, body)
        self.known[operation.name] = (self.known[operation.name][0], answer)

    async def release(self, operation: Operation) -> None:
        assert operation.name is not None
        del self.known[operation.name]
        self.released.append(operation)

    async def given(self, _attempt: Operation) -> KeptAnswer | None:
        return None

    async def fresh(self, answer: KeptAnswer) -> KeptAnswer:
        return answer


class FakeHealth:
    status: Any = "healthy"

    async def check(self) -> Health:
        return Health(self.status, NOW, dependencies={}, checks={})


_APPS: dict[str, FastAPI] = {}


def _app_for(settings: Settings) -> FastAPI:
    """An application whose state is new. Its routes are made once: FastAPI builds each at its first request, in 40 ms."""
    settings.check_start()
    api, auth = settings.API, settings.AUTH
    # All that create_app builds from settings.
    console = settings.CONSOLE.ENABLED
    built = repr((api.CORS_ORIGINS, api.CORS_CREDENTIALS, api.ALLOWED_HOSTS, api.HOST, auth.MODE, auth.DOCS, console))
    if built not in _APPS:
        _APPS[built] = create_app(settings)
    app = _APPS[built]
    vars(app.state.trackshift).clear()
    vars(app.state.trackshift).update(vars(AppState(settings)))
    return app


class Api:
    """An application over fakes, and a client that calls it in-process. The newest one's state is the application's."""

    def __init__(self, tmp_path: Path, **environment: Any) -> None:
        values = {"UPLOAD": {"TEMP_UPLOAD_DIR": str(tmp_path / "tmp"), "DISK_RESERVE": 0}, **environment}
        values["UPLOAD"] = {"TEMP_UPLOAD_DIR": str(tmp_path / "tmp"), "DISK_RESERVE": 0, **environment.get("UPLOAD", {})}
        self.settings = Settings(_env_file=None, DATA_DIR=tmp_path, **values)
        self.app: FastAPI = _app_for(self.settings)
        self.state = self.app.state.trackshift
        self.orchestrator, self.queries, self.health = FakeOrchestrator(), FakeQueries(), FakeHealth()
        self.cameras, self.bursts, self.keys = FakeCameras(), FakeBursts(), FakeKeys()
        self.state.services = SimpleNamespace(
            settings=self.settings, orchestrator=self.orchestrator, queries=self.queries, health=self.health,
            cameras=self.cameras, snapshots=self.cameras, bursts=self.bursts, idempotency=self.keys, direct=FakeDirect(),
            access=None, store_url="http://store.example:9000/below",
        )  # fmt: skip
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app, raise_app_exceptions=True), base_url="http://localhost"
        )

    async def __call__(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        return await self.client.request(method, path, **kwargs)

    @property
    def temp_folders(self) -> list[Path]:
        return list(self.settings.temp_dir.glob("ingest-*/upload-*"))


@pytest.fixture
def api(tmp_path: Path) -> Api:
    return Api(tmp_path)


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem, after checking what every problem must have."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["code"] == code, body
    assert body["status"] == status
    assert body["type"] == "about:blank"
    assert body["trace_id"] == answer.headers["x-request-id"]
    assert {"title", "detail", "instance", "retryable", "errors"} <= body.keys()
    assert "?" not in body["instance"]
    for error in body["errors"]:
        assert error.keys() == {"in", "pointer", "name", "code", "message"}
    return body
