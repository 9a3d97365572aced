"""Worker processes for what may crash, spin or take all memory: strangers' pictures in C libraries.

A job is a function named by its import path ("module:function") with JSON arguments and a JSON result; a file is handed
over by its path, other data as bytes beside the JSON, both ways. A worker is a fresh interpreter (utils/worker_process.py),
never a fork of this threaded process. It is kept warm for many jobs; one that crashes, exceeds its time or keeps memory is
replaced, and only its own job fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from utils.decoder_process import DecoderProcess, StartFailed, WorkerDied
from utils.logger import get_logger
from utils.memory_room import MemoryRoom, RoomTimeout
from utils.metrics import POOL_BUSY, WORKERS_REPLACED
from utils.tasks import cancel_all

MAX_JOBS = 5000  # of one worker: whatever its libraries leak goes with it
MAX_KEPT = 67_108_864  # bytes that a worker may keep of one job
_log = get_logger(__name__)

Reason = Literal["crashed", "killed", "timeout", "error"]


class JobFailed(Exception):
    """The job has no result. `reason`: crashed (its process ended), killed (by a signal from outside, twice), timeout,
    error (an exception, whose type `error` names)."""

    def __init__(self, reason: Reason, error: str = "") -> None:
        self.reason = reason
        self.error = error
        super().__init__(f"{reason} {error}".strip())


class PoolUnavailable(Exception):
    """No worker could be started, or there was no room of memory for too long. Trying again later may help."""


class PoolClosed(Exception):
    """The pool is closed, or was while the job waited."""


@dataclass(frozen=True, slots=True)
class _Job:
    call: dict[str, Any]  # as JSON has it
    attached: Sequence[bytes]
    most: int  # bytes that may come back


class ProcessPool:
    """At most `processes` workers, started when they are first needed; the one used last is used first.

    Memory: a job may take `memory` bytes beyond what its process has (RLIMIT_AS, on Linux). Jobs of up to `allowance`
    start as soon as a worker is free; larger ones first wait, in order, for room in what `max_memory` leaves beside
    every worker's allowance. So all jobs together never exceed `max_memory`.
    Belongs to one event loop, whose thread starts the workers: they die with that thread.
    """

    def __init__(
        self, name: str, processes: int, *, max_memory: int, allowance: int, preload: Sequence[str] = (),
        timeout: float = 60, reuse: bool = False,
    ) -> None:  # fmt: skip
        """`timeout`: seconds for each job. `reuse`: jobs are much alike, so workers keep memory between them until they
        are idle."""
        self.processes = processes
        self.allowance = min(allowance, max_memory // (2 * processes))
        self.largest = max_memory - processes * self.allowance  # bytes that one job may ask for
        self._name = name
        self._preload = list(preload)
        self._timeout = timeout
        self._reuse = reuse
        self._room = MemoryRoom(name, self.largest)
        self._free = asyncio.Semaphore(processes)
        self._idle: list[DecoderProcess] = []
        self._starting: asyncio.Task[None] | None = None
        self._jobs: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._busy = POOL_BUSY.labels(pool=name)

    def warm(self) -> None:
        """Starts the first worker in the background, so that the first job does not wait for it."""
        if not self._idle and self._starting is None and not self._closed:
            self._starting = asyncio.create_task(self._start(), name=f"{self._name}-worker")
            self._starting.add_done_callback(_seen)

    async def run(self, function: str, *args: Any, memory: int = 0, patience: float = 120) -> Any:
        """The function's result. A job that has begun goes on when its caller is cancelled: its worker stays warm, and
        its memory stays counted until it ends.

        `memory`: bytes, at most `largest`; less than the allowance counts as the allowance. `patience`: seconds for which
        it waits for room. Raises JobFailed, PoolUnavailable, PoolClosed.
        """
        return (await self._run({"call": function, "args": args}, (), 0, memory, patience))[0]

    async def run_with_bytes(
        self, function: str, *args: Any, attached: Sequence[bytes], most: int, memory: int = 0, patience: float = 120
    ) -> tuple[Any, bytes]:
        """As `run`, of a function that takes bytes (`attached`, joined) as its last argument and returns (result, bytes).

        `most`: how many bytes it may return; a worker that sends more is replaced, and its job has crashed.
        """
        job = {"call": function, "args": args}
        return await self._run(job, attached, most, memory, patience)

    async def _run(
        self, job: dict[str, Any], attached: Sequence[bytes], most: int, memory: int, patience: float
    ) -> tuple[Any, bytes]:
        self._busy.inc()
        reserved = memory if memory > self.allowance else 0
        try:
            await self._enter(reserved, patience)
        except BaseException:
            self._busy.dec()
            raise

        def ended(task: asyncio.Task[Any]) -> None:
            self._jobs.discard(task)
            self._busy.dec()
            self._free.release()
            self._room.give(reserved)
            _seen(task)

        job["memory"] = max(memory, self.allowance)
        task = asyncio.create_task(self._job(_Job(job, attached, most)))
        self._jobs.add(task)
        task.add_done_callback(ended)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Refuses jobs that wait, waits for those that run (bounded by their time), ends the workers. May be repeated."""
        self._closed = True
        self._room.close()
        while self._jobs:
            await asyncio.wait(self._jobs)
        if self._starting is not None:
            await cancel_all(self._starting)
        idle, self._idle = self._idle, []
        await asyncio.gather(*(worker.end() for worker in idle))

    async def _enter(self, reserved: int, patience: float) -> None:
        """Takes the memory, then a worker's place; neither when it raises."""
        try:
            await self._room.take(reserved, patience)
        except RoomTimeout:
            raise PoolUnavailable("no room of memory") from None
        try:
            if self._closed:
                raise PoolClosed
            await self._free.acquire()
            if self._closed:
                self._free.release()
                raise PoolClosed
        except BaseException:
            self._room.give(reserved)
            raise

    async def _job(self, job: _Job) -> tuple[Any, bytes]:
        if self._closed:
            raise PoolClosed
        answered = await self._answer(job)
        if answered is None:
            # A signal from outside, such as the kernel's that found no memory: this file need not be the cause.
            answered = await self._answer(job)
        if answered is None:
            raise JobFailed("killed")
        answer, back = answered
        if "error" in answer:
            raise JobFailed("error", str(answer["error"]))
        return answer.get("result"), back

    async def _answer(self, job: _Job) -> tuple[dict[str, Any], bytes] | None:
        """What the worker answered; None when something outside killed it. Raises JobFailed, PoolUnavailable."""
        worker = await self._worker()
        try:
            async with asyncio.timeout(self._timeout):
                answer, back = await worker.call(job.call, job.attached, job.most)
        except (TimeoutError, WorkerDied) as error:
            reason: Reason = "timeout" if isinstance(error, TimeoutError) else await worker.cause()
            await self._replace(worker, reason)
            if reason == "killed":
                return None
            raise JobFailed(reason) from None
        except BaseException:  # cancelled with its loop: nobody would end a worker in mid-job
            worker.abandon()
            raise
        if self._closed:
            await worker.end()
        elif worker.jobs >= MAX_JOBS or answer.get("grown", 0) > MAX_KEPT:
            await self._replace(worker, "retired")
        else:
            self._idle.append(worker)
        return answer, back

    async def _replace(self, worker: DecoderProcess, reason: str) -> None:
        WORKERS_REPLACED.labels(pool=self._name, reason=reason).inc()
        level = _log.info if reason == "retired" else _log.warning
        level("worker_replaced", pool=self._name, reason=reason, jobs=worker.jobs, exit_code=await worker.end())
        self.warm()

    async def _worker(self) -> DecoderProcess:
        """One that is idle, else a new one; one after the other is started. Raises PoolUnavailable."""
        while True:
            while self._idle:
                worker = self._idle.pop()
                if worker.alive:
                    return worker
                await self._replace(worker, await worker.cause())
            if self._starting is None:
                self._starting = asyncio.create_task(self._start(), name=f"{self._name}-worker")
            try:
                await asyncio.shield(self._starting)
            except (StartFailed, OSError) as error:
                raise PoolUnavailable(f"a worker process cannot be started: {error}") from error

    async def _start(self) -> None:
        try:
            worker = await DecoderProcess.start(self._preload, reuse=self._reuse)
        except (StartFailed, OSError) as error:
            _log.error("worker_not_started", pool=self._name, error=str(error))
            raise
        finally:
            self._starting = None
        self._idle.append(worker)


def _seen(task: asyncio.Task[Any]) -> None:
    """Its error was told, or has nobody to be told to."""
    if not task.cancelled():
        task.exception()
