"""Whole captures on a scripted camera and an injected clock: what each slot becomes, and how a capture ends."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from models.entities import CaptureEvent
from models.values import CaptureMode, CaptureParams, EventKind, IngestionStatus, MotionParams, Sampling, Transport
from tests.unit.services.rtsp_capture.scripted import BEGIN, FPS, STEP, T0, Connection, capture_run
from utils.exceptions import CaptureFailure, LeaseLost
from utils.ids import new_id

BROKE = CaptureFailure("stream_ended", "The camera closed the connection.")
COMPLETED, FAILED, CANCELLED = IngestionStatus.COMPLETED, IngestionStatus.FAILED, IngestionStatus.CANCELLED


def wanted(mode: CaptureMode = CaptureMode.CONTINUOUS, **fields: Any) -> CaptureParams:
    known: dict[str, Any] = {"fps": 5.0, "duration": 2.0, "sampling": Sampling.EXACT, "max_frames": None}
    return CaptureParams(**{"mode": mode, "jpeg_quality": 90, "transport": Transport.TCP, **known, **fields})


def at(seconds: float) -> datetime:
    """A moment of the script."""
    return datetime.fromtimestamp(T0 + seconds, UTC)


def every(step: int, count: int) -> dict[int, int]:
    """Slots filled with every so many-th picture."""
    return {slot: slot * step for slot in range(count)}


# -- continuous ------------------------------------------------------------------------------------------------------


async def test_every_slot_gets_its_nearest_picture_with_its_time(tmp_path: Path) -> None:
    async with capture_run(wanted(), [Connection.steady(0, 10)], tmp_path) as run:
        await run.play(10)
        assert await run.ended() is COMPLETED
        assert run.clock.seconds < 2.5  # as soon as the last slot was decided
        assert run.numbers() == every(5, 10)
        assert run.times() == pytest.approx([slot / 5 for slot in range(10)], abs=2e-4)
        assert (run.database.expected, run.database.dropped, run.database.gaps) == (10, {}, [])


async def test_a_grid_that_no_picture_meets_takes_the_nearest(tmp_path: Path) -> None:
    async with capture_run(wanted(fps=2.7, duration=4.0), [Connection.steady(0, 10)], tmp_path) as run:
        await run.play(10)
        assert await run.ended() is COMPLETED
        assert run.numbers() == {slot: round(slot / 2.7 * FPS) for slot in range(11)}


async def test_keyframes_come_first_in_auto_and_alone_in_keyframe(tmp_path: Path) -> None:
    for sampling, numbers in ((Sampling.AUTO, [0, 12, 25, 37, 50, 62]), (Sampling.KEYFRAME, [0, 25, 50])):
        params = wanted(fps=2.0, duration=3.0, sampling=sampling)
        camera = [Connection.steady(0, 10, keys=lambda number: number % FPS == 0)]
        async with capture_run(params, camera, tmp_path / sampling.value) as run:
            await run.play(10)
            assert await run.ended() is COMPLETED
            assert list(run.numbers().values()) == numbers
            assert run.database.accounted()
            missing = {"no_picture": [1, 3, 5]} if sampling is Sampling.KEYFRAME else {}
            assert run.database.drops == missing


async def test_more_slots_than_pictures_are_dropped_for_want_of_one(tmp_path: Path) -> None:
    async with capture_run(wanted(fps=50.0, duration=1.0), [Connection.steady(0, 10)], tmp_path) as run:
        await run.play(10)
        assert await run.ended() is COMPLETED
        assert run.database.drops == {"no_picture": list(range(1, 50, 2))}
        assert run.numbers() == {slot: slot // 2 for slot in range(0, 50, 2)}


async def test_a_silent_stream_loses_its_slots_when_it_is_known_why(tmp_path: Path) -> None:
    """Not before RTSP__READ_TIMEOUT and the lag that pictures may have."""
    silent = Connection.steady(0, 1)
    async with capture_run(wanted(duration=1.6), [silent], tmp_path, READ_TIMEOUT=3) as run:
        await run.play(1.0 + 3.0)
        assert run.database.dropped == {}
        assert not run.task.done()
        await run.play(1.5 + 1.0 + 3.0 + STEP)
        assert await run.ended() is COMPLETED
        assert run.database.drops == {"no_picture": [6, 7]}


async def test_an_outage_is_a_gap_with_its_slots_and_a_reconnect(tmp_path: Path) -> None:
    camera = [Connection.steady(0, 1.0, end=BROKE), Connection.steady(2.0, 9.0)]
    async with capture_run(wanted(duration=4.0), camera, tmp_path) as run:
        await run.play(9)
        assert await run.ended() is COMPLETED
        assert run.database.drops == {"camera_down": [6, 7, 8, 9]}
        assert run.database.gaps == [pytest.approx([T0 + 0.96, T0 + 2.0], abs=1e-3)]
        assert run.database.reconnects == 1
        assert run.numbers() == {slot: slot * 5 for slot in range(20) if not 5 <= slot < 10} | {5: 24}


async def test_damaged_pictures_are_dropped_and_the_others_stored(tmp_path: Path) -> None:
    camera = [Connection.steady(0, 9, broken=frozenset({5, 20}))]
    async with capture_run(wanted(), camera, tmp_path) as run:
        await run.play(9)
        assert await run.ended() is COMPLETED
        assert run.database.drops == {"decode_failed": [1, 4]}
        assert run.database.accounted()


async def test_frames_that_the_store_does_not_take_are_spooled(tmp_path: Path) -> None:
    async with capture_run(wanted(), [Connection.steady(0, 9)], tmp_path, STORE_RETRY=1) as run:
        run.storage.away = frozenset({10, 15, 45})
        await run.play(9)
        assert await run.ended() is COMPLETED
        assert run.database.drops == {"spooled": [2, 3, 9]}
        assert run.spool.index.slots_of(run.database.row.id) == {2, 3, 9}
        assert run.database.accounted()


async def test_a_frame_whose_object_the_sweeper_took_is_stored_under_a_fresh_key(tmp_path: Path) -> None:
    async with capture_run(wanted(), [Connection.steady(0, 9)], tmp_path) as run:
        run.database.condemned = {2, 7}
        await run.play(9)
        assert await run.ended() is COMPLETED
        assert run.numbers() == every(5, 10)
        assert len(run.storage.objects) == 12


async def test_a_frame_that_the_database_refuses_blocks_no_other(tmp_path: Path) -> None:
    async with capture_run(wanted(), [Connection.steady(0, 9)], tmp_path, STORE_RETRY=60) as run:
        run.database.refused = {3}
        await run.play(9)
        assert await run.ended(60) is COMPLETED  # tracebacks in colour take seconds
        assert run.database.drops == {"spool_full": [3]}
        assert run.database.accounted()


async def test_max_frames_ends_a_capture_exactly(tmp_path: Path) -> None:
    for duration, most in ((2.0, 3), (None, 4)):
        params = wanted(duration=duration, max_frames=most)
        async with capture_run(params, [Connection.steady(0, 30)], tmp_path / str(most)) as run:
            await run.play(30)
            assert await run.ended() is COMPLETED
            assert run.numbers() == every(5, most)
            assert run.database.drops.keys() <= {"surplus"}
            assert run.database.accounted()


async def test_a_slot_beyond_max_frames_is_used_when_one_before_was_damaged(tmp_path: Path) -> None:
    camera = [Connection.steady(0, 9, broken=frozenset({5}))]
    async with capture_run(wanted(duration=None, max_frames=3), camera, tmp_path) as run:
        await run.play(9)
        assert await run.ended() is COMPLETED
        assert len(run.numbers()) == 3
        assert run.database.drops["decode_failed"] == [1]
        assert run.database.accounted()


async def test_a_cancel_keeps_what_was_captured(tmp_path: Path) -> None:
    async with capture_run(wanted(duration=None), [Connection.steady(0, 9)], tmp_path) as run:
        await run.play(1.5)
        run.job.cancel()
        assert await run.ended() is CANCELLED
        assert list(run.numbers()) == list(range(len(run.numbers())))
        assert len(run.numbers()) >= 7
        assert run.database.accounted()
        assert run.database.drops.keys() <= {"cancelled"}


async def test_a_capture_handed_back_stores_what_it_has_and_stays_open(tmp_path: Path) -> None:
    async with capture_run(wanted(duration=None), [Connection.steady(0, 9)], tmp_path) as run:
        await run.play(1.5)
        run.job.hand_back()
        assert await run.ended() is IngestionStatus.IN_PROGRESS
        assert run.database.handed_back
        assert len(run.numbers()) >= 7
        assert run.database.dropped == {}


async def test_the_next_owner_waits_for_no_store(tmp_path: Path) -> None:
    """The lease is given back at once; what is under way is stored after that."""
    async with capture_run(wanted(duration=None), [Connection.steady(0, 9)], tmp_path) as run:
        await run.play(1.0)
        run.storage.answers.clear()
        await run.play(1.5)
        run.job.hand_back()
        async with asyncio.timeout(5):
            while not run.database.handed_back:
                await asyncio.sleep(0.001)
        before = len(run.numbers())
        run.storage.answers.set()
        assert await run.ended() is IngestionStatus.IN_PROGRESS
        assert len(run.numbers()) >= max(7, before + 2)
        assert list(run.numbers()) == list(range(len(run.numbers())))
        assert run.database.dropped == {}


async def test_a_capture_that_another_process_has_ends_without_a_word(tmp_path: Path) -> None:
    """What it captured before is evidence, and stored."""
    async with capture_run(wanted(), [Connection.steady(0, 9)], tmp_path) as run:
        await run.play(1.5)
        run.job.lose()
        with pytest.raises(LeaseLost):
            await run.task
        assert run.database.status is IngestionStatus.IN_PROGRESS
        assert not run.database.handed_back
        assert len(run.numbers()) >= 7
        assert run.database.dropped == {}


async def test_a_capture_without_a_certain_lease_decides_no_slot(tmp_path: Path) -> None:
    """Slots without a picture are dropped once the lease is certain again."""
    async with capture_run(wanted(duration=3.0), [Connection.steady(0, 1)], tmp_path, READ_TIMEOUT=3) as run:
        await run.play(0.8)
        run.may_act[0] = False
        await run.play(9.0)
        assert not run.task.done()
        assert run.undecided == 5
        run.may_act[0] = True
        await run.tick()
        assert await run.ended() is COMPLETED
        assert run.database.drops == {"no_picture": list(range(6, 15))}


async def test_a_clock_that_is_set_moves_no_slot(tmp_path: Path) -> None:
    async with capture_run(wanted(), [Connection.steady(0, 9)], tmp_path) as run:
        await run.play(1.0)
        run.clock.ahead = 3600.0
        await run.play(9)
        assert await run.ended() is COMPLETED
        assert run.numbers() == every(5, 10)
        assert run.times() == pytest.approx([slot / 5 for slot in range(10)], abs=2e-4)


TAKEN_OVER = {"grid_start": at(-10.0), "stored": 5, "expected": 5, "last_frame_at": at(-9.2), "started_at": at(-10.0)}


async def test_a_resumed_capture_goes_on_with_the_slot_after_now(tmp_path: Path) -> None:
    camera = [Connection.steady(0, 9)]
    async with capture_run(wanted(duration=12.0), camera, tmp_path, resumed=True, row_fields=TAKEN_OVER) as run:
        run.database.stored.update(dict.fromkeys(range(5)))  # type: ignore[arg-type]
        await run.play(9)
        assert await run.ended() is COMPLETED
        assert run.database.taken_over == (48, T0 - 9.2)
        assert run.database.drops == {"lease_lost": list(range(5, 48)), "camera_down": [48, 49]}
        assert sorted(run.database.stored) == [*range(5), *range(50, 60)]
        assert run.database.gaps == [pytest.approx([T0 - 9.2, T0], abs=1e-3)]


async def test_the_next_owner_opens_its_stream_while_it_books_and_keeps_what_comes_meanwhile(tmp_path: Path) -> None:
    params, camera = wanted(duration=12.0), [Connection.steady(0, 9)]
    async with capture_run(params, camera, tmp_path, resumed=True, row_fields=TAKEN_OVER) as run:
        run.database.stored.update(dict.fromkeys(range(5)))  # type: ignore[arg-type]
        run.database.books.clear()
        await run.play(1.0)
        assert run.script.opened == 1
        assert run.database.taken_over is None
        run.database.books.set()
        await run.play(9)
        assert await run.ended() is COMPLETED
        assert run.database.drops == {"lease_lost": list(range(5, 48)), "camera_down": [48, 49]}
        assert sorted(run.database.stored) == [*range(5), *range(50, 60)]
        assert run.script.opened == 1


@pytest.mark.parametrize(("duration", "cancelled"), [(9.0, None), (None, at(-9.0))], ids=["past its end", "cancelled"])
async def test_who_wants_no_picture_any_more_opens_no_stream(
    tmp_path: Path, duration: float | None, cancelled: datetime | None
) -> None:
    """A grid that ended while nobody ran it, and a capture that was cancelled then."""
    fields = TAKEN_OVER | {"cancel_requested_at": cancelled}
    camera = [Connection.steady(0, 9)]
    async with capture_run(wanted(duration=duration), camera, tmp_path, resumed=True, row_fields=fields) as run:
        run.database.stored.update(dict.fromkeys(range(5)))  # type: ignore[arg-type]
        await run.play(1.0)
        await run.ended()
        assert run.script.opened == 0
        assert run.database.accounted()


async def test_no_picture_in_time_fails_the_capture(tmp_path: Path) -> None:
    async with capture_run(wanted(), [Connection([], ends_at=99.0)], tmp_path, CAPTURE_TIMEOUT=3) as run:
        await run.play(BEGIN + 2.9)
        assert not run.task.done()
        await run.play(BEGIN + 3.1)
        assert await run.ended() is FAILED
        assert run.database.error == "read_timeout"
        assert (run.database.expected, run.database.drops) == (10, {"camera_down": list(range(10))})
        assert run.database.gaps == [pytest.approx([T0 + BEGIN, T0 + BEGIN + 3.0], abs=0.3)]


REFUSED = CaptureFailure("connection_refused", "Nothing listens at the camera's address and port.")
WRONG = CaptureFailure("unauthorized_camera", "The camera refused the user name or password.")


async def test_the_wait_for_the_first_picture_is_a_gap_without_slots(tmp_path: Path) -> None:
    camera = [Connection.steady(2.0, 9.0, refused=REFUSED, opens_at=1.96)]
    async with capture_run(wanted(duration=2.0), camera, tmp_path, CAPTURE_TIMEOUT=30) as run:
        await run.play(1.0)
        assert run.database.gaps == [[pytest.approx(T0 + BEGIN, abs=0.05), None]]  # told while it lasts
        assert run.database.expected == 0
        await run.play(9)
        assert await run.ended() is COMPLETED
        assert run.numbers() == {slot: 50 + slot * 5 for slot in range(10)}  # slot 0 is the first picture
        assert run.database.gaps == [pytest.approx([T0 + BEGIN, T0 + 2.0], abs=0.05)]
        assert (run.database.expected, run.database.drops, run.database.reconnects) == (10, {}, 0)


async def test_a_camera_that_is_there_from_the_start_has_no_gap(tmp_path: Path) -> None:
    """However long its first picture takes."""
    async with capture_run(wanted(), [Connection.steady(2.5, 9)], tmp_path, CAPTURE_TIMEOUT=30) as run:
        await run.play(9)
        assert await run.ended() is COMPLETED
        assert (run.database.gaps, run.database.drops) == ([], {})


async def test_an_owner_that_takes_over_before_the_first_picture_ends_the_gap_of_the_former_one(tmp_path: Path) -> None:
    async with capture_run(
        wanted(), [Connection.steady(0, 9)], tmp_path, resumed=True, row_fields={"started_at": at(-10.0)}
    ) as run:
        run.database.gaps.append([T0 - 10.0, None])
        await run.play(9)
        assert await run.ended() is COMPLETED
        assert run.database.gaps == [pytest.approx([T0 - 10.0, T0], abs=1e-3)]
        assert run.database.reconnects == 0


async def test_a_wrong_password_ends_a_capture_that_has_an_end_and_all_its_slots_are_accounted_for(tmp_path: Path) -> None:
    camera = [Connection.steady(0, 9, refused=WRONG, opens_at=5.0)]
    async with capture_run(wanted(fps=2.7, duration=4.0), camera, tmp_path) as run:
        await run.play(1.0)
        assert await run.ended() is FAILED
        assert run.clock.seconds < 1.0
        assert run.database.error == "unauthorized_camera"
        assert run.database.drops == {"camera_down": list(range(11))}
        assert run.database.gaps == [pytest.approx([T0 + BEGIN, T0 + BEGIN], abs=0.5)]


@pytest.mark.parametrize("mode", [CaptureMode.CONTINUOUS, CaptureMode.EVENT_DRIVEN])
async def test_a_wrong_password_does_not_end_a_capture_without_an_end(tmp_path: Path, mode: CaptureMode) -> None:
    """What it says is an error meanwhile; with the right password it begins."""
    params = wanted(mode, duration=None, pre_roll=0.4, post_roll=0.6, motion=MotionParams(enabled=False))
    camera = [Connection.steady(1.0, 9, refused=WRONG, opens_at=0.96)]
    async with capture_run(params, camera, tmp_path) as run:
        await run.play(0.9)
        assert not run.task.done()
        assert run.database.error == "unauthorized_camera"
        await run.play(3.0)
        assert run.database.row.grid_start == at(1.0)
        assert run.database.gaps == [pytest.approx([T0 + BEGIN, T0 + 1.0], abs=0.05)]
        run.job.cancel()
        await run.tick()
        assert await run.ended() is CANCELLED


async def test_other_failures_that_no_retry_helps_end_it_all_the_same(tmp_path: Path) -> None:
    failure = CaptureFailure("forbidden_camera", "The camera forbids this stream to this user.")
    camera = [Connection.steady(0, 9, refused=failure, opens_at=5.0)]
    async with capture_run(wanted(duration=None), camera, tmp_path) as run:
        await run.play(1.0)
        assert await run.ended() is FAILED
        assert (run.database.expected, run.database.drops) == (0, {})  # without an end there is no count of slots
        assert len(run.database.gaps) == 1


@pytest.mark.parametrize(("refused", "gaps"), [(None, 0), (REFUSED, 1)])
async def test_who_cancels_before_the_first_picture_wants_no_slot(
    tmp_path: Path, refused: CaptureFailure | None, gaps: int
) -> None:
    camera = [Connection.steady(5.0, 9, refused=refused, opens_at=4.0)]
    async with capture_run(wanted(), camera, tmp_path) as run:
        await run.play(0.5)
        run.job.cancel()
        await run.tick()
        assert await run.ended() is CANCELLED
        assert (run.database.expected, run.database.drops, len(run.database.gaps)) == (0, {}, gaps)


async def test_an_event_driven_capture_without_a_picture_has_a_gap_and_no_slot(tmp_path: Path) -> None:
    params = wanted(CaptureMode.EVENT_DRIVEN, pre_roll=0.4, post_roll=0.6, motion=MotionParams(enabled=False))
    camera = [Connection.steady(0, 9, refused=REFUSED, opens_at=99.0)]
    async with capture_run(params, camera, tmp_path, CAPTURE_TIMEOUT=2) as run:
        await run.play(9)
        assert await run.ended() is FAILED
        assert (run.database.expected, run.database.drops, len(run.database.gaps)) == (0, {}, 1)


# -- single_frame ----------------------------------------------------------------------------------------------------


def single(**fields: Any) -> CaptureParams:
    return wanted(CaptureMode.SINGLE_FRAME, fps=1.0, duration=None, sampling=Sampling.AUTO, **fields)


async def test_a_single_frame_is_the_first_picture(tmp_path: Path) -> None:
    async with capture_run(single(), [Connection.steady(0, 9)], tmp_path) as run:
        await run.play(9)
        assert await run.ended() is COMPLETED
        assert run.numbers() == {0: 0}
        assert run.clock.seconds < 0.5


async def test_a_damaged_picture_is_followed_by_the_next(tmp_path: Path) -> None:
    async with capture_run(single(), [Connection.steady(0, 9, broken=frozenset({0, 1}))], tmp_path) as run:
        await run.play(9)
        assert await run.ended() is COMPLETED
        assert list(run.numbers()) == [0]
        assert 2 <= run.numbers()[0] <= 25
        assert run.database.dropped == {}


async def test_a_camera_of_damaged_pictures_fails_in_time(tmp_path: Path) -> None:
    broken = frozenset(range(1000))
    async with capture_run(single(), [Connection.steady(0, 20, broken=broken)], tmp_path, CAPTURE_TIMEOUT=2) as run:
        await run.play(20)
        assert await run.ended() is FAILED
        assert 2 <= run.clock.seconds - BEGIN < 3
        assert (run.database.error, run.database.drops) == ("decode_failed", {"decode_failed": [0]})


async def test_a_moment_gets_the_picture_nearest_to_it(tmp_path: Path) -> None:
    params = single(frame_timestamp=at(1.013))
    async with capture_run(params, [Connection.steady(0, 9)], tmp_path) as run:
        await run.play(9)
        assert await run.ended() is COMPLETED
        assert run.numbers() == {0: 25}


async def test_a_past_moment_needs_a_ring_that_reaches_back(tmp_path: Path) -> None:
    params = single(frame_timestamp=at(-1.0))
    async with capture_run(params, [Connection.steady(0, 9)], tmp_path) as run:
        assert await run.ended() is FAILED
        assert run.script.opened == 0
        assert (run.database.error, run.database.drops) == ("timestamp_out_of_range", {"no_picture": [0]})


async def test_a_moment_without_a_picture_is_given_up(tmp_path: Path) -> None:
    """The stream is open and sends nothing; a picture may come until RTSP__CAPTURE_TIMEOUT after the moment."""
    params = single(frame_timestamp=at(5.0))
    async with capture_run(params, [Connection([], ends_at=99)], tmp_path, CAPTURE_TIMEOUT=2) as run:
        await run.play(6.9)
        assert not run.task.done()
        await run.play(7.1)
        assert await run.ended() is FAILED
        assert run.database.drops == {"camera_down": [0]}


# -- event_driven ----------------------------------------------------------------------------------------------------


def event_driven(**fields: Any) -> CaptureParams:
    still = MotionParams(enabled=False)
    return wanted(CaptureMode.EVENT_DRIVEN, pre_roll=0.4, post_roll=0.6, motion=still, **fields)


def trigger(seconds: float, request_id: Any) -> CaptureEvent:
    return CaptureEvent(
        id=new_id(), request_id=request_id, kind=EventKind.TRIGGER.value, from_at=at(seconds), seen_at=at(seconds),
        created_at=at(seconds),
    )  # fmt: skip


@pytest.mark.parametrize("moments", [[2.0], [2.0, 2.4], [2.0, 4.0]])
async def test_the_slots_around_triggers_are_stored_and_the_others_idle(tmp_path: Path, moments: Sequence[float]) -> None:
    async with capture_run(event_driven(duration=6.0), [Connection.steady(0, 9)], tmp_path) as run:
        for moment in moments:
            await run.play(moment)
            run.job.trigger(trigger(moment, run.database.row.id))
        await run.play(9)
        assert await run.ended() is COMPLETED
        slots = {slot for moment in moments for slot in range(round((moment - 0.4) * 5), round((moment + 0.6) * 5) + 1)}
        assert run.numbers() == {slot: slot * 5 for slot in sorted(slots)}
        assert run.database.idle == set(range(30)) - slots
        assert run.database.accounted()


async def test_a_trigger_that_comes_late_takes_its_pictures_out_of_the_ring(tmp_path: Path) -> None:
    async with capture_run(event_driven(duration=6.0), [Connection.steady(0, 9)], tmp_path) as run:
        await run.play(4.0)
        run.job.trigger(trigger(1.0, run.database.row.id))
        await run.play(9)
        assert await run.ended() is COMPLETED
        assert run.numbers() == {slot: slot * 5 for slot in range(3, 9)}
        assert run.database.idle == set(range(30)) - set(range(3, 9))


async def test_of_the_slots_before_a_takeover_only_those_of_events_are_lost(tmp_path: Path) -> None:
    fields = {"grid_start": at(-10.0), "expected": 30, "started_at": at(-10.0), "created_at": at(-10.0)}
    camera = [Connection.steady(0, 9)]
    async with capture_run(event_driven(duration=12.0), camera, tmp_path, resumed=True, row_fields=fields) as run:
        run.database.triggers_committed = [trigger(-5.0, run.database.row.id)]
        await run.play(1.0)
        run.job.trigger(trigger(1.0, run.database.row.id))
        await run.play(9)
        assert await run.ended() is COMPLETED
        assert run.database.drops == {"lease_lost": list(range(23, 29))}
        assert sorted(run.database.stored) == list(range(53, 59))


async def test_no_event_is_a_completed_capture_of_idle_slots(tmp_path: Path) -> None:
    async with capture_run(event_driven(), [Connection.steady(0, 9)], tmp_path) as run:
        await run.play(9)
        async with asyncio.timeout(10):
            await run.task
        assert run.database.stored == {}
        assert run.database.idle == set(range(10))
