"""Where the service connects to, and where it does not, on one service: hostile cameras, TLS, wrong passwords, own parts."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import pytest
import pytest_asyncio

from demo.challenge import Challenge
from models.access import ALL_CAMERAS, ANONYMOUS
from models.schemas import (
    BurstRequest,
    CameraConfiguration,
    CameraCreate,
    RTSPIngestionRequest,
    SnapshotRequest,
    StreamStatus,
)
from models.values import IngestionStatus
from repositories.database import Database
from services.storage_service.service import StorageService
from tests.conftest import Backends, free_port, unique
from tests.kits.capture_kit import Kit, open_kit
from tests.kits.certificates import Authority
from tests.kits.hostile_camera import FORBIDDEN, Hostile, Listeners, hostile_cameras, pictures
from tests.kits.odd_camera import OddCamera
from utils.exceptions import AddressNotAllowed, IngestionException

READERS = ["opencv", "native"]
MAX_DELAY = 0.2  # RTSP__RECONNECT_MAX_DELAY
DAY = timedelta(days=1)
T = TypeVar("T")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def kit(
    backends: Backends, storage: StorageService, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Kit]:
    folder = tmp_path_factory.mktemp("data")
    settings: dict[str, Any] = {
        "MAX_CONCURRENT_STREAMS": 200, "ALLOWED_NETWORKS": ["127.0.0.1/32"], "TLS_CA_FILE": authority.file,
        "RECONNECT_DELAY": 0.1, "RECONNECT_MAX_DELAY": MAX_DELAY, "OPEN_TIMEOUT": 4, "READ_TIMEOUT": 2, "CAPTURE_TIMEOUT": 5,
        "LINGER": 0.1,
    }  # fmt: skip
    async with open_kit(backends, storage, folder, **settings) as made:
        yield made


async def register(kit: Kit, url: str, **fields: Any) -> str:
    camera = unique()
    await kit.services.cameras.create(CameraCreate(camera_id=camera, rtsp_url=url, **fields), ANONYMOUS)
    return camera


async def stream(kit: Kit, camera: str) -> StreamStatus | None:
    found: CameraConfiguration = await kit.services.cameras.get(camera, ALL_CAMERAS)
    return found.stream


async def capture(kit: Kit, camera: str, **fields: Any) -> UUID:
    """Of a registered camera."""
    body = RTSPIngestionRequest.model_validate({"camera_id": camera, **fields})
    request = (await kit.services.orchestrator.submit_capture(body, who=ANONYMOUS)).request_id
    kit._submitted.append(request)
    return request


async def until(look: Callable[[], Awaitable[T | None]], seconds: float = 60) -> T:
    deadline = time.monotonic() + seconds
    while (found := await look()) is None:
        assert time.monotonic() < deadline, "did not come true in time"
        await asyncio.sleep(0.05)
    return found


_AT_ONCE = asyncio.Semaphore(3)  # cameras


async def everything(kit: Kit, url: str, lost: str = "", **fields: Any) -> dict[str, str]:
    """Keeps a camera open, captures, takes a snapshot and a burst, probes; what became of each.

    `lost`: the code that the stream which is kept open ends with.
    """
    async with _AT_ONCE:
        return await _everything(kit, url, lost, **fields)


async def _everything(kit: Kit, url: str, lost: str, **fields: Any) -> dict[str, str]:
    kept, camera = await register(kit, url, keep_open=True, **fields), await register(kit, url, **fields)
    services, told = kit.services, dict[str, str]()

    async def note(name: str, work: Awaitable[Any]) -> None:
        try:
            done = await work
            told[name] = str(getattr(done, "code", None) or "ok")
        except IngestionException as error:
            told[name] = error.code

    async def captured() -> None:
        wanted = {"capture_mode": "continuous", "capture_duration": 1.0, "fps": 4.0, "sampling": "exact"}
        final = await kit.final(await capture(kit, camera, **wanted), 90)
        told["capture"] = final.error.code if final.error is not None else final.status.value

    async def ended() -> bool | None:
        found = await stream(kit, kept)
        return (found is not None and found.last_error is not None and found.last_error.code == lost) or None

    await asyncio.gather(captured(), note("probe", services.cameras.probe(camera, ANONYMOUS)))
    await note("snapshot", services.snapshots.take(camera, SnapshotRequest(), ANONYMOUS))
    await note("burst", services.bursts.take(BurstRequest(camera_ids=[camera, kept], tolerance_ms=2000), ANONYMOUS))
    if lost:
        await until(ended)
    for each in (kept, camera):
        await services.cameras.delete(each)
    return told


@pytest.mark.timeout(400)
@pytest.mark.parametrize("reader", READERS)
async def test_a_camera_leads_nobody_elsewhere(
    kit: Kit, authority: Authority, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it answers, in captures, snapshots, bursts, probes and streams that are kept open: a listener on the
    forbidden address sees no connection and no datagram."""
    real, asked = socket.getaddrinfo, 0

    def resolve(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        nonlocal asked
        if host != "camera.test":
            return real(host, port, *rest, **more)
        if more.get("flags"):
            raise socket.gaierror
        asked += 1
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1" if asked == 1 else FORBIDDEN, 0))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with Listeners().listening() as there:
        kinds = hostile_cameras(there)
        async with contextlib.AsyncExitStack() as stack:
            cameras: dict[str, Hostile] = {}
            works: dict[str, Awaitable[dict[str, str]]] = {}
            for name, (make, transport) in kinds.items():
                cameras[name] = camera = make()
                await stack.enter_async_context(camera.serving())
                lost = "redirect_refused" if name == "the second DESCRIBE redirects" else ""
                works[name] = everything(kit, camera.url(), lost, transport=transport, reader=reader)
            cameras["another name"] = moving = Hostile(pictures=pictures, counts=frozenset(), timeout=1.0)
            await stack.enter_async_context(moving.serving(authority.context("camera.test")))
            there_too = f"rtsps://camera.test:{moving.port}/live"
            works["another name"] = everything(kit, there_too, "address_not_allowed", reader=reader)
            told = dict(zip(works, await asyncio.gather(*works.values()), strict=True))
        assert there.touched == []
    for name in ("DESCRIBE redirects", "SETUP redirects"):
        assert set(told[name].values()) == {"redirect_refused"}, name
    for name in ("REDIRECT in mid-session", "absolute control URL", "Content-Base", "address in the SDP"):
        assert set(told[name].values()) == {"ok", "completed"}, name  # they were captured, from where they are
    assert told["PLAY redirects"]["capture"] == "redirect_refused"
    for name in ("the second DESCRIBE redirects", "source of datagrams", "another name"):
        assert cameras[name].asked("PLAY"), name  # it was believed until then
    assert asked > 1


@pytest.mark.parametrize("reader", READERS)
async def test_certificates(kit: Kit, authority: Authority, reader: str, tmp_path: Path) -> None:
    """By RTSP__TLS_CA_FILE: a good one opens, by name and by address; others do not."""
    good = authority.context("localhost")
    cases = {
        "good": ("localhost", good, "completed", ""),
        "address": ("127.0.0.1", authority.context("127.0.0.1"), "completed", ""),
        "another name": ("localhost", authority.context("camera.test"), "tls_error", "another name"),
        "another address": ("127.0.0.1", good, "tls_error", "another address"),
        "expired": ("localhost", authority.context("localhost", valid=(-2 * DAY, -DAY)), "tls_error", "expired"),
        "not yet": ("localhost", authority.context("localhost", valid=(DAY, 2 * DAY)), "tls_error", "not valid yet"),
        "a stranger's": ("localhost", Authority(tmp_path, "Other").context("localhost"), "tls_error", "not trusted"),
    }
    async with contextlib.AsyncExitStack() as stack:
        made: dict[str, UUID] = {}
        odd: dict[str, OddCamera] = {}
        for name, (host, context, _, _) in cases.items():
            odd[name] = await stack.enter_async_context(OddCamera(pictures=pictures).serving(context))
            camera = await register(kit, f"rtsps://u:s3cret@{host}:{odd[name].port}/live", reader=reader)
            made[name] = await capture(kit, camera, capture_mode="single_frame")
        for name, (_, _, wanted, why) in cases.items():
            found = await kit.final(made[name], 60)
            code, message = (found.error.code, found.error.message) if found.error else (found.status.value, "")
            assert code == wanted, (name, found)
            assert why in message, (name, message)
            assert bool(odd[name].requests) is (wanted == "completed"), name  # the others were asked nothing


async def test_a_wrong_password_is_tried_ever_more_rarely_and_told_so(kit: Kit) -> None:
    """A stream that is kept open, and a capture without an end, which begins when the password is put right."""
    wrong = [Challenge("u", "right")]
    kept_odd, odd = OddCamera(challenges=list(wrong)), OddCamera(challenges=list(wrong), pictures=pictures)
    async with kept_odd.serving(), odd.serving():
        kept = await register(kit, kept_odd.url(userinfo="u:wrong@"), keep_open=True)
        camera = await register(kit, odd.url(userinfo="u:wrong@"))
        endless = await capture(kit, camera, capture_mode="continuous", fps=5.0)

        async def backs_off(name: str, count: int) -> StreamStatus | None:
            found = await stream(kit, name)
            return found if found is not None and found.refused_logins >= count and found.retry_at is not None else None

        told = await until(lambda: backs_off(kept, 3))
        assert told.state == "backing_off"
        assert told.last_error is not None
        assert told.last_error.code == "unauthorized_camera"
        assert "logins in a row were refused" in told.last_error.message
        assert told.retry_at is not None
        assert told.retry_at - told.last_error.at > timedelta(seconds=MAX_DELAY * 10 * 0.49)
        await until(lambda: backs_off(camera, 5))
        running = await kit.get(endless)
        assert running.status is IngestionStatus.IN_PROGRESS
        assert running.error is not None
        assert (running.error.code, running.grid_start) == ("unauthorized_camera", None)
        assert [gap.reason for gap in running.progress.gaps] == ["camera_down"]
        pauses = [after - before for before, after in pairwise(odd.came)]
        assert min(pauses[2:]) >= MAX_DELAY * 10 * 0.49, pauses  # after the third refused login
        odd.challenges.clear()
        found = await kit.until(endless, lambda r: r.progress.stored > 0, 60)
        (gap,) = found.progress.gaps
        assert gap.to == found.grid_start
        await kit.services.orchestrator.cancel(endless, ALL_CAMERAS)
        await kit.final(endless, 60)
        status = await stream(kit, camera)
        assert status is None or status.refused_logins == 0
        await kit.services.cameras.delete(kept)


async def test_a_camera_that_is_never_there_is_accounted_for(kit: Kit, database: Database) -> None:
    """In the answer and in the row."""
    url = f"rtsp://127.0.0.1:{free_port()}/x"
    request = await kit.submit(url, capture_mode="continuous", capture_duration=2.3, fps=2.0)
    found = await kit.final(request, 60)
    assert found.status is IngestionStatus.FAILED
    assert found.error is not None
    assert found.error.code == "connection_refused"
    assert (found.progress.expected, found.progress.dropped, found.progress.stored) == (5, {"camera_down": 5}, 0)
    (gap,) = found.progress.gaps
    assert found.started_at is not None
    assert gap.to is not None
    assert gap.reason == "camera_down"
    assert gap.from_ >= found.started_at
    assert gap.to - gap.from_ >= timedelta(seconds=4.9)  # RTSP__CAPTURE_TIMEOUT
    async with database.unit_of_work() as uow:
        row = await uow.requests.get(request)
        gaps = await uow.requests.gaps(request)
    assert row is not None
    assert (row.expected, row.stored, row.in_flight, row.grid_start) == (5, 0, 0, None)
    assert [(slots.lower, slots.upper) for slots in row.dropped_camera_down] == [(0, 5)]
    assert [(each.from_at, each.to_at, each.reason) for each in gaps] == [(gap.from_, gap.to, "camera_down")]


async def test_the_services_own_parts_are_no_cameras(kit: Kit, backends: Backends) -> None:
    """Though 127.0.0.1/32 is listed: its PostgreSQL and its store, by address when posted, by name when connected to."""
    store = int(backends.storage.ENDPOINT.rpartition(":")[2].rstrip("/"))
    requests = []
    for port in (backends.db.PORT, store):
        for host in ("127.0.0.1", "[::ffff:127.0.0.1]"):
            with pytest.raises(AddressNotAllowed):
                await kit.submit(f"rtsp://{host}:{port}/x")
        requests += [await kit.submit(f"rtsp://{host}:{port}/x") for host in ("localhost", "127.1", "0x7f000001")]
    for request in requests:
        found = await kit.final(request, 60)
        assert found.error is not None
        assert found.error.code == "address_not_allowed"
        assert "RTSP__ALLOWED_NETWORKS" in found.error.message


async def test_cameras_that_play_and_send_nothing_hold_up_nobody(kit: Kit) -> None:
    """By opencv, whose opens the process does one at a time."""
    async with contextlib.AsyncExitStack() as stack:
        mute = [await stack.enter_async_context(OddCamera(stops_at=0).serving()) for _ in range(6)]
        good = await stack.enter_async_context(OddCamera(pictures=pictures).serving())
        waiting = [await kit.submit(odd.url(), capture_mode="continuous") for odd in mute]

        async def all_play() -> bool | None:
            return all(odd.asked("PLAY") for odd in mute) or None

        began = time.monotonic()
        found = await kit.completed(await kit.submit(good.url(), capture_mode="single_frame"), 60)
        print(f"beside {len(mute)} mute cameras: {time.monotonic() - began:.2f} s", [len(odd.asked("PLAY")) for odd in mute])
        assert found.progress.stored == 1
        for request in waiting:
            await kit.services.orchestrator.cancel(request, ALL_CAMERAS)
            await kit.final(request, 60)
