"""Keeps the streams of cameras with `keep_open` open, and finds the status of a camera's stream.

Of the processes of a site one keeps a camera open (`kept_streams`). The table of cameras is read every few seconds, and at
once when this process changed it, so that changes made by another process are followed, too. While there is no such camera,
the process's heartbeat says when there is one. Everything here runs on the event loop.
"""

from __future__ import annotations

import asyncio
import math
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from models.entities import CameraConfiguration
from models.values import DEFAULT_SITE
from repositories.database import Database
from services.rtsp_capture.streams.outages import outages
from services.rtsp_capture.streams.stream import Stream, StreamKey
from services.rtsp_capture.streams.stream_hub import StreamHub
from utils.exceptions import DatabaseUnavailable, InvalidRequest, SecretUnreadable
from utils.logger import Throttle, get_logger
from utils.secret_box import SecretBox

log = get_logger(__name__)

POLL_INTERVAL = 3.0  # seconds between reads of the table
REST_INTERVAL = 30.0  # the same while no camera is to be kept open, and `found` says when there is one
KEEP_SECONDS = 6.0  # after which another process keeps a camera open whose process does not renew that
MAX_KEPT = 1000


def key_of(row: CameraConfiguration, secrets: SecretBox) -> StreamKey:
    """The stream that captures of a registered camera use. Raises SecretUnreadable."""
    return StreamKey(row.camera_id, secrets.open(row.rtsp_url), row.transport, row.reader)


@dataclass(slots=True)
class _Kept:
    key: StreamKey
    acquiring: asyncio.Task[Stream]


class KeepOpenStreams:
    """One a process, on its hub. A kept stream takes one of RTSP__MAX_CONCURRENT_STREAMS."""

    def __init__(
        self, database: Database, hub: StreamHub, secrets: SecretBox, *, site: str = DEFAULT_SITE,
        worker_id: UUID, peers: Callable[[], int] = lambda: 1, poll_interval: float = POLL_INTERVAL,
        notified: Callable[[], bool] = lambda: False,
    ) -> None:  # fmt: skip
        """`site`: whose cameras are kept open here. `worker_id`: this process; `peers`: how many do so at this site.
        `notified`: whether `found` is called."""
        self._notified, self._any = notified, True  # whether the last poll found cameras to be kept open, by whomever
        self._worker_id, self._peers = worker_id, peers
        self._unkept: set[str] = set()  # cameras that nobody kept open at the last poll
        self._site = site
        self._draining = False
        self._database = database
        self._hub = hub
        self._secrets = secrets
        self._poll_interval = poll_interval
        self._kept: dict[str, _Kept] = {}
        self._without: set[str] = set()  # cameras to be kept open that have no stream
        self._wake = asyncio.Event()
        self._throttle = Throttle(60, time.monotonic)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="keep-open")

    def poll_now(self) -> None:
        """The table was changed by this process: reads it now."""
        self._wake.set()

    def found(self) -> None:
        """There are cameras of the site to be kept open."""
        if not self._any and not self._draining:
            self._wake.set()

    def drain(self) -> None:
        """Releases all streams soon, and keeps none open from now on."""
        self._draining = True
        self._wake.set()

    async def stop(self) -> None:
        """Releases all streams; captures that use them keep them."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        held = list(self._kept)
        for camera_id in held:
            await self._release(camera_id)
        self._report_without(set())
        with suppress(DatabaseUnavailable):
            await self._let_go(held)

    # -- following the table -----------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            try:
                await self._follow()
            except DatabaseUnavailable:
                pass  # logged where it happened; what is open stays open
            except Exception:
                log.exception("keep_open_failed")
            try:
                resting = not self._any and not self._kept and self._notified()
                async with asyncio.timeout(REST_INTERVAL if resting else self._poll_interval):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()

    async def _follow(self) -> None:
        rows = await self._ours()
        wanted: dict[str, StreamKey] = {}
        without: set[str] = set()
        for row in rows:
            try:
                wanted[row.camera_id] = key_of(row, self._secrets)
            except SecretUnreadable as error:
                without.add(row.camera_id)
                self._report(row.camera_id, error.message)
        for camera_id, kept in list(self._kept.items()):
            if wanted.get(camera_id) != kept.key or (kept.acquiring.done() and kept.acquiring.exception()):
                if kept.acquiring.done() and kept.acquiring.exception() and camera_id in wanted:
                    without.add(camera_id)
                await self._release(camera_id)
        for camera_id, key in wanted.items():
            if camera_id in self._kept:
                continue
            if self._hub.find(key) is None and self._hub.free <= 0:
                without.add(camera_id)
                await self._let_go([camera_id])  # another process may have room
                self._report(camera_id, "RTSP__MAX_CONCURRENT_STREAMS are open")
                continue
            log.info("keep_open", camera_id=camera_id)
            self._kept[camera_id] = _Kept(key, asyncio.create_task(self._hub.acquire(key, None), name=f"keep-{camera_id}"))
            await asyncio.sleep(0)  # the hub counts it before the next one asks whether there is room
        self._report_without(without | {name for name, kept in self._kept.items() if not kept.acquiring.done()})

    async def _ours(self) -> list[CameraConfiguration]:
        """The cameras that this process is to keep open: a camera is kept open by one process, which renews that.

        Of those that nobody keeps it takes its share; what is left over at the next poll it takes beyond that.
        """
        if self._draining:
            await self._let_go(list(self._kept))
            return []
        async with self._database.unit_of_work(events=False) as uow:
            rows = await uow.cameras.kept_open(MAX_KEPT, self._site)
            self._any = bool(rows)
            if not rows:
                self._unkept = set()
                return []
            elsewhere = await uow.workers.kept_elsewhere(self._worker_id)
            held = [row.camera_id for row in rows if row.camera_id in self._kept]
            unkept = [row.camera_id for row in rows if row.camera_id not in elsewhere and row.camera_id not in self._kept]
            # Processes that poll at the same time do not all begin with the same ones.
            unkept.sort(key=lambda camera_id: zlib.crc32(f"{self._worker_id}{camera_id}".encode()))
            share = max(0, math.ceil(len(rows) / max(1, self._peers())) - len(held))
            left = [camera_id for camera_id in unkept if camera_id in self._unkept]
            chosen = list(dict.fromkeys([*unkept[:share], *left]))
            ours = await uow.workers.keep(self._worker_id, [*held, *chosen], KEEP_SECONDS)
        self._unkept = set(unkept) - ours
        return [row for row in rows if row.camera_id in ours]

    async def _let_go(self, camera_ids: list[str]) -> None:
        if camera_ids:
            async with self._database.one_statement(events=False) as uow:
                await uow.workers.let_go(self._worker_id, camera_ids)

    def _report_without(self, cameras: set[str]) -> None:
        """A stream reports its own outage; these cameras have none that could."""
        for camera_id in self._without - cameras:
            outages.end(camera_id, self)
        for camera_id in cameras - self._without:
            outages.begin(camera_id, self)
        self._without = cameras

    async def _release(self, camera_id: str) -> None:
        kept = self._kept.pop(camera_id)
        if not kept.acquiring.done():
            kept.acquiring.cancel()
        await asyncio.gather(kept.acquiring, return_exceptions=True)
        if kept.acquiring.cancelled():
            return
        if (error := kept.acquiring.exception()) is not None:
            code = error.code if isinstance(error, InvalidRequest) else type(error).__name__
            self._report(camera_id, f"the stream cannot be opened ({code})")
            return
        self._hub.release(kept.key, None)
        log.info("keep_open_ended", camera_id=camera_id)

    def _report(self, camera_id: str, reason: str) -> None:
        if (withheld := self._throttle.allow(camera_id)) is not None:
            log.warning("keep_open_not_possible", camera_id=camera_id, reason=reason, withheld=withheld)

    # -- a stream's status -------------------------------------------------------------------------------------

    def stream_of(self, camera_id: str) -> tuple[Stream, int] | None:
        """The camera's stream in this process, and how many captures use it.

        Of several (a capture with another URL) the kept one, else the busiest.
        """
        kept = self._kept.get(camera_id)
        found = [(stream, users) for stream, users in self._hub.streams() if stream.key.camera_id == camera_id]
        if not found:
            return None
        stream, users = max(found, key=lambda item: (kept is not None and item[0].key == kept.key, item[1]))
        mine = kept is not None and kept.key == stream.key and kept.acquiring.done()
        return stream, users - mine
