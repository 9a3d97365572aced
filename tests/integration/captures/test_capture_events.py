"""event_driven captures on a real camera before which a car passes at known times.

What is stored is exactly the slots of the events, each once; the ledger holds at every look; a trigger that was
accepted is never lost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
import pytest_asyncio

from demo.camera import Camera
from demo.motion_film import make_motion_film
from demo.sources import capture_time
from models.access import ALL_CAMERAS, ANONYMOUS
from models.schemas import CaptureEventInfo, IngestionResponse, TriggerRequest
from models.values import IngestionStatus
from services.storage_service.service import StorageService
from tests.conftest import Backends, unique
from tests.kits.capture_kit import FPS, Kit, Stored, open_kit
from tests.kits.service_support import all_frames, assert_objects, capture, final, own_database, service_on, status
from tests.kits.service_support import until as until_true
from utils.exceptions import InvalidRequest, NotRunning, RequestNotFound
from utils.ids import new_id

LAP = 10.0  # seconds of the film
PASS_AT, PASS_LASTS = 4.0, 2.0
PICTURES = round(LAP * FPS)
MOTION = {"min_area": 0.02}  # the frame number along the bottom edge changes, too: up to 0.017
OFF = {"enabled": False}


def lap_time(at: float) -> float:
    """Where in the film a moment lies."""
    return at % LAP


@dataclass
class Result:
    request: IngestionResponse
    events: list[CaptureEventInfo]
    frames: list[Stored]

    def slots(self) -> set[int]:
        """All slots of all events, as the events tell them."""
        return {
            slot for event in self.events if event.first_sequence is not None and event.last_sequence is not None
            for slot in range(event.first_sequence, event.last_sequence + 1)
        }  # fmt: skip

    def assert_whole(self, *, dropped: bool = False) -> None:
        """Exactly the events' slots are there, each once, each picture where its slot is."""
        progress, fps = self.request.progress, self.fps
        sequences = [frame.info.sequence for frame in self.frames]
        assert len(set(sequences)) == len(sequences) == progress.stored
        assert progress.expected == len(self.slots()), (progress, self.events)
        assert set(sequences) <= self.slots()
        if not dropped:
            assert set(sequences) == self.slots()
            assert progress.dropped == {}
        times = [frame.info.timestamp for frame in self.frames]
        assert all(a < b for a, b in pairwise(times))
        assert self.request.grid_start is not None
        for frame in self.frames:
            due = self.request.grid_start.timestamp() + frame.info.sequence / fps
            assert abs(frame.info.timestamp.timestamp() - due) <= 0.5 / fps + 0.01
            assert abs(frame.error) < 0.06
        for event in self.events:
            assert event.to is not None
            if event.first_sequence is not None and event.last_sequence is not None:
                assert event.frames == sum(event.first_sequence <= one <= event.last_sequence for one in sequences)

    fps: float = 5.0


@pytest.fixture(scope="module")
def camera(film_folder: Path) -> Iterator[Camera]:
    films = {
        "car": make_motion_film(film_folder, starts=(PASS_AT,), lasts=PASS_LASTS, seconds=LAP),
        "still": make_motion_film(film_folder, starts=(), seconds=4.0),
        "busy": make_motion_film(film_folder, starts=(0.0, 2.3, 4.6), lasts=2.3, seconds=7.0),
    }
    with Camera(films) as camera:
        yield camera


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def kit(
    backends: Backends, storage: StorageService, reader: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Kit]:
    mine = await own_database(backends)
    async with open_kit(
        mine, storage, tmp_path_factory.mktemp("data"), CAPTURE_TIMEOUT=15, OPEN_TIMEOUT=5, READ_TIMEOUT=5, READER=reader
    ) as made:
        yield made


Scenario = Callable[[Kit, Camera], Awaitable[None]]
SCENARIOS: dict[str, Scenario] = {}


def scenario(run: Scenario) -> Scenario:
    """All of them run side by side."""
    SCENARIOS[getattr(run, "__name__", "")] = run
    return run


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def outcomes(kit: Kit, camera: Camera) -> dict[str, BaseException | None]:
    ended = await asyncio.gather(*(run(kit, camera) for run in SCENARIOS.values()), return_exceptions=True)
    return dict(zip(SCENARIOS, ended, strict=True))


async def submit(kit: Kit, url: str, **fields: Any) -> UUID:
    """All on one stream a film: what one capture does must not disturb another."""
    fields = {"capture_mode": "event_driven", "fps": 5.0, "motion": OFF, **fields}
    return await kit.submit(url, url.rsplit("/", 1)[-1], **fields)


async def trigger(
    kit: Kit, request_id: UUID, ago: float | None = None, label: str | None = None, at: datetime | None = None
) -> UUID:
    """`at` and `ago` (seconds before now): the moment that is meant; else it is the one at which the trigger comes in."""
    if ago is not None:
        at = datetime.now(UTC) - timedelta(seconds=ago)
    return await kit.services.orchestrator.trigger(request_id, TriggerRequest(label=label, at=at), cameras=ALL_CAMERAS)


async def begun(kit: Kit, request_id: UUID, seconds: float = 0.0) -> IngestionResponse:
    """Waits until the grid is `seconds` old."""
    found = await kit.until(request_id, lambda r: r.grid_start is not None)
    assert found.grid_start is not None
    await asyncio.sleep(max(0.0, found.grid_start.timestamp() + seconds - time.time()))
    return found


async def all_events(kit: Kit, request_id: UUID, limit: int = 2) -> list[CaptureEventInfo]:
    found: list[CaptureEventInfo] = []
    cursor = None
    while True:
        page = await kit.services.queries.list_events(request_id, limit, cursor, who=ANONYMOUS)
        found += page.items
        if (cursor := page.next_cursor) is None:
            return found


async def result(kit: Kit, request_id: UUID, fps: float = 5.0, seconds: float = 25) -> Result:
    request = await kit.settled(request_id, seconds)
    frames = await kit.frames(request_id)
    for frame in frames:
        frame.taken = capture_time(frame.number, FPS, PICTURES, frame.info.timestamp.timestamp())
    return Result(request, await all_events(kit, request_id), frames, fps)


@scenario
async def a_car_that_passes_is_an_event_and_what_was_before_it_is_there(kit: Kit, camera: Camera) -> None:
    while not 3.0 < lap_time(time.time()) < 7.0:  # so that a whole pass lies well within the capture
        await asyncio.sleep(0.1)
    request_id = await submit(
        kit, camera.url_of("car"), fps=5.0, capture_duration=LAP + 6, pre_roll=2, post_roll=1, motion=MOTION
    )
    found = await result(kit, request_id)
    assert found.request.status is IngestionStatus.COMPLETED
    found.assert_whole()
    assert found.events
    start = found.request.grid_start
    assert start is not None
    end = start.timestamp() + LAP + 6
    # Where the machine is short of CPU, no picture may be looked at for a moment: a pass is then told as two events.
    passes: dict[int, list[CaptureEventInfo]] = {}
    for event in found.events:
        passes.setdefault(int(event.from_.timestamp() // LAP), []).append(event)
    whole = [each for each in passes.values() if start.timestamp() + 4 < each[0].from_.timestamp() < end - PASS_LASTS - 3]
    assert whole
    for events in whole:
        for event in events:
            assert event.kind == "motion"
            assert event.score is not None
            assert 0.02 < event.score < 0.2
        began, ended = events[0].from_.timestamp(), events[-1].to
        assert ended is not None
        print(f"{len(events)} events, {lap_time(began):.2f} - {lap_time(ended.timestamp()):.2f}")
        assert PASS_AT <= lap_time(began) <= PASS_AT + 0.8
        assert PASS_AT + PASS_LASTS - 0.7 <= lap_time(ended.timestamp()) <= PASS_AT + PASS_LASTS + 1.5
        first = next(frame for frame in found.frames if frame.info.sequence == events[0].first_sequence)
        assert lap_time(first.taken) < PASS_AT - 1.0  # from the ring: nothing moved yet
    assert len(found.frames) < 5.0 * (LAP + 6) * 0.75  # and the rest of the time nothing is stored


@scenario
async def nothing_moves_and_nothing_is_stored(kit: Kit, camera: Camera) -> None:
    request_id = await submit(kit, camera.url_of("still"), capture_duration=4.0, motion=MOTION)
    found = await kit.completed(request_id)
    progress = found.progress
    assert (progress.expected, progress.stored, progress.dropped) == (0, 0, {})
    assert await all_events(kit, request_id) == []


@scenario
async def triggers_now_in_the_past_and_overlapping_store_each_slot_once(kit: Kit, camera: Camera) -> None:
    request_id = await submit(kit, camera.url_of("car"), fps=5.0, capture_duration=9.0, pre_roll=1, post_roll=1)
    await begun(kit, request_id, 6.0)
    asked = datetime.now(UTC)
    past = await trigger(kit, request_id, at=asked - timedelta(seconds=4), label="past")
    now = await trigger(kit, request_id, label="now")
    before = await trigger(kit, request_id, at=asked - timedelta(seconds=1))  # overlaps with `now`
    events = await all_events(kit, request_id)
    assert [event.event_id for event in events] == [past, before, now]  # by time, whatever came in first
    assert {event.event_id: event.label for event in events} == {past: "past", now: "now", before: None}
    found = await result(kit, request_id)
    assert found.request.status is IngestionStatus.COMPLETED
    found.assert_whole()
    windows = [(event.first_sequence, event.last_sequence) for event in found.events]
    print(windows)
    later = (events[2].from_ - asked).total_seconds()  # when `now` came in
    assert abs(len(found.slots()) - 5 * (2 + 3 + later)) <= 2  # two seconds; three, of two that overlap
    assert found.request.grid_start is not None
    for event in found.events:
        assert event.first_sequence is not None
        assert event.last_sequence is not None
        first, last = (found.request.grid_start.timestamp() + s / 5 for s in (event.first_sequence, event.last_sequence))
        at = event.from_.timestamp()
        assert at - 1 <= first < at - 1 + 0.2
        assert at + 1 - 0.2 < last <= at + 1


@scenario
async def pre_roll_is_sampled_exactly(kit: Kit, camera: Camera) -> None:
    await _pre_roll(kit, camera, "exact")


@scenario
async def pre_roll_is_sampled_by_keyframes(kit: Kit, camera: Camera) -> None:
    await _pre_roll(kit, camera, "keyframe")


@scenario
async def pre_roll_is_stored_as_it_came(kit: Kit, camera: Camera) -> None:
    """Of the ring's keyframes."""
    await _pre_roll(kit, camera, "keyframe", encoding="source")


async def _pre_roll(kit: Kit, camera: Camera, sampling: str, **more: str) -> None:
    request_id = await submit(
        kit, camera.url_of("car"), fps=1.0, sampling=sampling, capture_duration=6.0, pre_roll=3, post_roll=0, **more
    )
    await begun(kit, request_id, 4.2)
    await trigger(kit, request_id)
    found = await result(kit, request_id, 1.0)
    found.assert_whole()
    assert len(found.frames) == 3
    if sampling == "keyframe":
        assert [frame.number % FPS for frame in found.frames] == [0, 0, 0]
    assert {frame.info.format for frame in found.frames} == {"h264" if more else "jpg"}


@scenario
async def a_long_pre_roll_does_not_overrun_the_buffer(kit: Kit, camera: Camera) -> None:
    """150 pictures of the past at once, 100 places for pictures on their way."""
    request_id = await submit(kit, camera.url_of("car"), fps=25.0, capture_duration=8.0, pre_roll=6, post_roll=0)
    await begun(kit, request_id, 6.5)
    await trigger(kit, request_id)
    found = await result(kit, request_id, 25.0)
    found.assert_whole()
    assert len(found.frames) in (150, 151)


@scenario
async def a_cancel_during_an_event_keeps_what_was_captured(kit: Kit, camera: Camera) -> None:
    request_id = await submit(kit, camera.url_of("car"), fps=5.0, pre_roll=1, post_roll=30)
    await begun(kit, request_id, 1.5)
    await trigger(kit, request_id)
    await kit.until(request_id, lambda r: r.progress.stored >= 8)
    began = time.monotonic()
    await kit.services.orchestrator.cancel(request_id, cameras=ALL_CAMERAS)
    with pytest.raises(NotRunning):
        await trigger(kit, request_id)
    await kit.final(request_id)
    assert time.monotonic() - began < 3
    found = await result(kit, request_id)
    assert found.request.status is IngestionStatus.CANCELLED
    found.assert_whole(dropped=True)
    assert set(found.request.progress.dropped) <= {"cancelled"}
    assert sum(found.request.progress.dropped.values()) <= 4


@scenario
async def a_trigger_right_before_the_cancel_is_stored(kit: Kit, camera: Camera) -> None:
    request_id = await submit(kit, camera.url_of("car"), fps=5.0, pre_roll=1, post_roll=5)
    await begun(kit, request_id, 2.0)
    event_id = await trigger(kit, request_id, ago=0.5)
    await kit.services.orchestrator.cancel(request_id, cameras=ALL_CAMERAS)
    found = await result(kit, request_id)
    found.assert_whole(dropped=True)
    (event,) = found.events
    assert event.event_id == event_id
    assert event.frames >= 4  # 1.5 s before now


@scenario
async def max_frames_ends_it(kit: Kit, camera: Camera) -> None:
    request_id = await submit(kit, camera.url_of("car"), fps=5.0, max_frames=7, pre_roll=2, post_roll=10)
    await begun(kit, request_id, 1.0)
    await trigger(kit, request_id)
    found = await result(kit, request_id)
    assert found.request.status is IngestionStatus.COMPLETED
    assert found.request.progress.stored == 7
    found.assert_whole(dropped=True)
    with pytest.raises(NotRunning):
        await trigger(kit, request_id)


@scenario
async def what_is_beyond_max_frames_is_no_longer_idle(kit: Kit, camera: Camera) -> None:
    """Slots that were booked idle long ago, and that an event wants and cannot have."""
    request_id = await submit(kit, camera.url_of("car"), fps=5.0, max_frames=3, pre_roll=4, post_roll=0)
    await begun(kit, request_id, 7.0)
    await trigger(kit, request_id)
    found = await result(kit, request_id)
    assert found.request.progress.stored == 3
    assert found.request.progress.dropped.keys() == {"surplus"}
    found.assert_whole(dropped=True)
    assert len(found.slots()) >= 15  # of 20: it ends with the third picture, and what was not due by then is not expected


@scenario
async def a_rare_grid_gives_each_event_its_nearest_slot(kit: Kit, camera: Camera) -> None:
    request_id = await submit(kit, camera.url_of("car"), fps=0.5, capture_duration=5.0, pre_roll=0, post_roll=0)
    await begun(kit, request_id, 2.9)
    await trigger(kit, request_id)
    found = await result(kit, request_id, 0.5)
    found.assert_whole()
    assert [frame.info.sequence for frame in found.frames] == [1]


@scenario
async def what_is_no_running_event_driven_capture_takes_no_trigger(kit: Kit, camera: Camera) -> None:
    with pytest.raises(RequestNotFound):
        await trigger(kit, new_id())
    with pytest.raises(RequestNotFound):
        await all_events(kit, new_id())
    continuous = await kit.submit(camera.url_of("car"), capture_mode="continuous", capture_duration=4.0, fps=5.0)
    await kit.until(continuous, lambda r: r.status is IngestionStatus.IN_PROGRESS)
    with pytest.raises(NotRunning):
        await trigger(kit, continuous)
    assert await all_events(kit, continuous) == []
    request_id = await submit(kit, camera.url_of("car"))
    await begun(kit, request_id)
    for ago in (33.0, 8.0, -11.0):  # beyond the ring, before the first picture, ahead
        with pytest.raises(InvalidRequest) as caught:
            await trigger(kit, request_id, ago=ago)
        assert caught.value.code == "timestamp_out_of_range"
    assert await all_events(kit, request_id) == []
    await kit.services.orchestrator.cancel(request_id, cameras=ALL_CAMERAS)
    await kit.final(request_id)
    await kit.final(continuous)


@pytest.mark.paced
@pytest.mark.parametrize("name", list(SCENARIOS))
def test_events(outcomes: dict[str, BaseException | None], name: str) -> None:
    if (error := outcomes[name]) is not None:
        raise error


async def test_a_trigger_that_another_process_took(
    backends: Backends, storage: StorageService, camera: Camera, tmp_path: Path
) -> None:
    mine = await own_database(backends)
    async with open_kit(mine, storage, tmp_path / "a") as owner:
        request_id = await submit(owner, camera.url_of("car"), fps=5.0, pre_roll=1, post_roll=1)
        await begun(owner, request_id, 1.1)
        async with open_kit(mine, storage, tmp_path / "b") as other:
            assert not other.services.orchestrator.runner._running
            await trigger(other, request_id)
            accepted = time.monotonic()
            await owner.until(request_id, lambda r: r.progress.stored > 0)
            print(f"first frame {time.monotonic() - accepted:.2f} s after the trigger")
            assert time.monotonic() - accepted < 2
            await owner.until(request_id, lambda r: r.progress.stored == r.progress.expected >= 10)
            await owner.services.orchestrator.cancel(request_id, cameras=ALL_CAMERAS)
            found = await result(owner, request_id)
            found.assert_whole()
            assert len(found.frames) in (10, 11)


async def test_events_survive_a_kill_9(backends: Backends, camera: Camera, tmp_path: Path) -> None:
    """A trigger that was accepted just before, and a motion event that lasted: both are told, their slots accounted for."""
    service = service_on(await own_database(backends), tmp_path, RTSP__LEASE_TTL="2", RTSP__CAPTURE_TIMEOUT="15")
    await asyncio.to_thread(service.start)

    def client() -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=service.url, timeout=30)

    async def events(http: httpx.AsyncClient, request_id: str) -> list[dict[str, Any]]:
        answer = await http.get(f"/api/v1/ingest/requests/{request_id}/events", params={"limit": "200"})
        found: list[dict[str, Any]] = answer.raise_for_status().json()["items"]
        return found

    async def stored(http: httpx.AsyncClient, request_id: str, more_than: int) -> dict[str, Any]:
        async def check() -> dict[str, Any] | None:
            found = await status(http, request_id)
            return found if found["progress"]["stored"] > more_than else None

        found: dict[str, Any] = await until_true(check, f"more than {more_than} frames", 20)
        return found

    common = {"capture_mode": "event_driven", "fps": 5.0, "pre_roll": 1.0}
    try:
        async with client() as http:
            asked = await capture(http, unique(), camera.url_of("still"), **common, post_roll=30.0, motion=OFF)
            moves = await capture(http, unique(), camera.url_of("busy"), **common, post_roll=1.0, motion=MOTION)
            before = await stored(http, moves, 8)
            await asyncio.sleep(1)
            (lasting,) = await events(http, moves)
            assert lasting["to"] is None
            accepted = await http.post(f"/api/v1/ingest/requests/{asked}/trigger", json={"label": "last words"})
            service.kill()
            assert accepted.status_code == 202
            assert accepted.headers["location"] == f"/api/v1/ingest/requests/{asked}/events"
        await asyncio.to_thread(service.start)
        async with client() as http:
            (event,) = await events(http, asked)
            assert (event["event_id"], event["label"]) == (accepted.json()["event_id"], "last words")
            at_start = [await status(http, each) for each in (asked, moves)]
            found = await stored(http, asked, at_start[0]["progress"]["stored"] + 3)  # the post-roll goes on
            assert "lease_lost" in found["progress"]["dropped"]
            again = await stored(http, moves, at_start[1]["progress"]["stored"] + 5)
            assert again["grid_start"] == before["grid_start"]
            for request_id in (asked, moves):
                assert (await http.post(f"/api/v1/ingest/requests/{request_id}/cancel")).status_code == 202
                found = await final(http, request_id)
                told, frames = await events(http, request_id), await all_frames(http, request_id)
                slots: set[int] = set()
                for each in told:
                    assert each["to"] is not None
                    if each["first_sequence"] is not None:
                        slots |= set(range(each["first_sequence"], each["last_sequence"] + 1))
                sequences = [item["sequence"] for item in frames]
                progress = found["progress"]
                print(progress, [(e["first_sequence"], e["last_sequence"], e["frames"]) for e in told])
                assert set(sequences) <= slots
                assert len(sequences) == len(set(sequences)) == progress["stored"]
                assert progress["expected"] == len(slots)
                assert set(progress["dropped"]) <= {"lease_lost", "cancelled", "camera_down"}
                # Where the machine is short of CPU, motion is told late: the kill may find none of its slots open.
                assert progress["stored"] + sum(progress["dropped"].values()) == len(slots)
                assert {gap["reason"] for gap in progress["gaps"]} == {"lease_lost"}
                await assert_objects(http, frames)
            assert told[0]["event_id"] == lasting["event_id"]
            assert len(told) >= 2  # the motion after the restart is another event
    finally:
        if service.process is not None and service.process.poll() is None:
            await asyncio.to_thread(service.stop)
