"""The judges of a process, one for each camera's captures and one for its uploads: asked, kept in rows, resumed.

Each process that has pictures of a camera judges them by a baseline of its own, which begins as the row says and is kept
there every SAVE_INTERVAL seconds at most: whoever goes on, this process after a restart or another one, begins with it. A
camera's verdict is the row's and is changed by compare-and-set, so each change is told once, whichever process found it.

Nothing here costs a frame: whatever fails is counted, and the frame has no quality. On the event loop; arithmetic and
imports (cv2, numpy) in a thread.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from config import QualitySettings
from models.values import QualityVerdict, SourceType
from repositories.database import Database, UnitOfWork
from utils.exceptions import DatabaseUnavailable
from utils.logger import Throttle, get_logger
from utils.metrics import CAMERAS_BAD, QUALITY_CHANGES, QUALITY_FRAMES, follow
from utils.pool import WorkerPool

if TYPE_CHECKING:
    from services.quality.judge import Judge, Quality
    from services.quality.measures import Measures

log = get_logger(__name__)

SAVE_INTERVAL = 30.0  # seconds
LOAD_TIMEOUT = 1.0  # seconds that a camera's first frame waits for its row
RETRY_INTERVAL = 30.0  # seconds between tries to read it
MAX_CAMERAS = 500  # kept in memory, 0.1 MB each; the one not asked for longest goes
FORGET_DAYS = 30  # a baseline that nobody used for so long says nothing of the camera
FORGET_INTERVAL = 3600.0  # seconds
_BAD, _GOOD = "bad", "good"
_Key = tuple[str, SourceType]
Packed = tuple[list[Any], bytes]
"""Measures on their way from a worker process (services/quality/measures.py): unpacked in a thread, which imports numpy."""
_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(slots=True)
class _Run:
    """Frames in a row that are bad, or that are not."""

    bad: bool = False
    frames: int = 0
    since: datetime = _NEVER
    reasons: list[str] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Camera:
    judge: Judge
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    own: bool = False  # pictures came here, which the judge's baseline has
    read: bool = False  # the row, or that there is none: only then is it written
    asked_at: float = float("-inf")  # monotonic, when the row was asked for last
    saved: int = 0  # pictures that the row's baseline knows of
    verdict: str = _GOOD  # the row's, as far as is known here
    run: _Run = field(default_factory=_Run)
    change: _Run | None = None  # to be written

    @property
    def unsaved(self) -> bool:
        return self.judge.learnt_total > self.saved or self.change is not None


class QualityKeeper:
    """Of one event loop."""

    def __init__(
        self, settings: QualitySettings, database: Database, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._database = database
        self._monotonic = monotonic
        self._pool = WorkerPool("quality", 1)
        self._cameras: OrderedDict[_Key, _Camera] = OrderedDict()
        self._changed = asyncio.Event()
        self._forgot_at = monotonic()
        self._throttle = Throttle(60, time.monotonic)
        follow(CAMERAS_BAD, lambda: sum(camera.verdict == _BAD for camera in self._cameras.values()))

    @property
    def changed(self) -> asyncio.Event:
        """Set when a verdict has changed, which `save` should write at once."""
        return self._changed

    async def judge(
        self, camera_id: str, source_type: SourceType, measures: Measures | Packed | None, at: datetime, *,
        aside: bool = False,
    ) -> dict[str, Any] | None:  # fmt: skip
        """FrameInfo.quality of the camera's next picture; None when it could not be measured or judged. `aside`: of one that
        is looked at out of its order: nothing is learnt from it, nor does it change the camera's verdict."""
        try:
            if measures is None:
                QUALITY_FRAMES.labels(verdict="failed").inc()
                return None
            key = (camera_id, source_type)
            camera = await self._camera(key)
            async with camera.lock:
                camera.own |= not aside
                await self._read(key, camera)
                quality = await self._pool.run(_judged, camera.judge, measures, at.timestamp(), aside)
            if source_type is SourceType.RTSP and not aside:
                self._follow(camera, quality, at)
            QUALITY_FRAMES.labels(verdict=quality.verdict.value).inc()
            return quality.to_json()
        except Exception:
            QUALITY_FRAMES.labels(verdict="failed").inc()
            if (withheld := self._throttle.allow(camera_id)) is not None:
                log.exception("quality_not_judged", camera_id=camera_id, withheld=withheld)
            return None

    async def save(self) -> None:
        """Writes what has changed. Raises DatabaseUnavailable; what was not written is written by the next call."""
        self._changed.clear()
        for key, camera in list(self._cameras.items()):
            if camera.read and camera.unsaved:
                await self._write(key, camera)
        if self._monotonic() - self._forgot_at > FORGET_INTERVAL:
            self._forgot_at = self._monotonic()
            async with self._database.unit_of_work(events=False) as uow:
                await uow.quality.forget(FORGET_DAYS)

    async def close(self) -> None:
        """Writes what has changed, if the database takes it at once."""
        try:
            async with asyncio.timeout(2 * LOAD_TIMEOUT):
                await self.save()
        except (DatabaseUnavailable, TimeoutError):
            log.warning("quality_not_saved")
        await self._pool.close()

    # -- one camera --------------------------------------------------------------------------------------------

    async def _camera(self, key: _Key) -> _Camera:
        if (known := self._cameras.get(key)) is None:
            judge = await self._pool.run(_new_judge, self._settings.BASELINE_FRAMES, key[1] is SourceType.RTSP)
            known = self._cameras.setdefault(key, _Camera(judge))
            while len(self._cameras) > MAX_CAMERAS:
                # What is written already goes first: whoever uploads for many cameras must not push out others' baselines.
                settled = (each for each, camera in self._cameras.items() if not camera.unsaved and camera is not known)
                del self._cameras[next(settled, next(iter(self._cameras)))]
        self._cameras.move_to_end(key)
        return known

    async def _read(self, key: _Key, camera: _Camera) -> None:
        """Goes on from the row, once, or again while others alone have pictures of the camera; without a database from
        nothing, and tries again later."""
        if (camera.read and camera.own) or self._monotonic() - camera.asked_at < RETRY_INTERVAL:
            return
        camera.asked_at = self._monotonic()
        try:
            async with asyncio.timeout(LOAD_TIMEOUT), self._database.one_statement() as uow:
                row = await uow.quality.of(*key)
        except (DatabaseUnavailable, TimeoutError):
            return
        camera.read = True
        if row is not None:
            camera.verdict = row.verdict
            # What was learnt without the row is little, and the row's baseline the camera's.
            await self._pool.run(camera.judge.take_row, row.baseline, row.scene)

    def _follow(self, camera: _Camera, quality: Quality, at: datetime) -> None:
        """Counts frames in a row; after BAD_FRAMES of them the camera's verdict changes."""
        bad = quality.verdict is QualityVerdict.BAD
        run = camera.run
        if bad is not run.bad or not run.frames:
            run = camera.run = _Run(bad, 0, at, [])
        run.frames += 1
        if bad:
            run.reasons = [reason.value for reason in quality.reasons]
        if run.frames < self._settings.BAD_FRAMES:
            return
        verdict = _BAD if bad else _GOOD
        if camera.change is not None and camera.change.bad is not bad:
            camera.change = None  # it was never written
        if camera.verdict != verdict and camera.change is None:
            camera.change = _Run(bad, run.frames, run.since, run.reasons)
            self._changed.set()

    async def _write(self, key: _Key, camera: _Camera) -> None:
        change, learnt = camera.change, camera.judge.learnt_total
        async with camera.lock:
            baseline, scene = await self._pool.run(camera.judge.to_row)
        verdict = _BAD if change is not None and change.bad else _GOOD

        async def work(uow: UnitOfWork) -> tuple[str, bool]:
            known = await uow.quality.save(*key, baseline, scene)
            if change is None:
                return known, False
            made = await uow.quality.change(
                key[0], verdict, _reasons(change), streak=change.frames, since=change.since
            )  # fmt: skip
            return verdict, made

        known, made = await self._database.retry_until_known(work)
        if known != camera.verdict and change is None:  # another process's: as many frames again before it is contradicted
            camera.run = _Run()
        camera.verdict = known
        camera.saved = learnt
        if camera.change is change:
            camera.change = None
        if made:
            QUALITY_CHANGES.labels(verdict=verdict).inc()
            level = log.warning if verdict == _BAD else log.info
            level("camera_quality_changed", camera_id=key[0], verdict=verdict, reasons=_reasons(change))


def _reasons(change: _Run | None) -> Sequence[str]:
    return change.reasons if change is not None and change.bad else []


def _judged(judge: Judge, measures: Measures | Packed, at: float, aside: bool) -> Quality:
    from services.quality.measures import Measures, unpacked

    seen = measures if isinstance(measures, Measures) else unpacked(*measures)
    if seen is None:
        raise ValueError("no measures of a picture")
    return judge.aside(seen, at) if aside else judge.judge(seen, at)


def _new_judge(frames: int, capture: bool) -> Judge:
    from services.quality.judge import Judge

    return Judge(frames, capture=capture)
