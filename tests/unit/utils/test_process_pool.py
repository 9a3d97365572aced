"""ProcessPool: what a job does to its process stays there."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from utils.decoder_process import DecoderProcess
from utils.metrics import MEMORY_RESERVED, QUEUE_DEPTH
from utils.process_pool import JobFailed, PoolClosed, PoolUnavailable, ProcessPool
from utils.shared_bytes import SIZE

ROOT = Path(__file__).resolve().parents[3]
JOBS = "tests.kits.worker_jobs"
MEGABYTE = 1_048_576


def made(processes: int = 2, **fields: Any) -> ProcessPool:
    usual: dict[str, Any] = {
        "max_memory": 400 * MEGABYTE, "allowance": 20 * MEGABYTE, "preload": [JOBS], "timeout": 20,
    }  # fmt: skip
    return ProcessPool("test-images", processes, **(usual | fields))


@pytest.fixture(scope="module")
async def pool() -> AsyncIterator[ProcessPool]:
    made_pool = made()
    yield made_pool
    await made_pool.close()


async def test_a_job_has_its_result_from_a_process_that_stays(pool: ProcessPool) -> None:
    assert await pool.run(f"{JOBS}:echo", 1, "ä\n", None, {"a": [2.5]}) == [1, "ä\n", None, {"a": [2.5]}]
    pids = {await pool.run(f"{JOBS}:pid") for _ in range(20)}
    assert len(pids) == 1
    assert os.getpid() not in pids


async def test_a_jobs_bytes_arrive_whole_whatever_their_size(pool: ProcessPool) -> None:
    for size in (0, 1, 178_000, 5 * MEGABYTE, SIZE, SIZE + 1):  # the last one by the socket
        data = b"a" + bytes(size - 2) + b"z" if size > 1 else b"z" * size
        sent = [data[: size // 2], data[size // 2 :]]
        found, _ = await pool.run_with_bytes(f"{JOBS}:measured", attached=sent, most=0, memory=40 * MEGABYTE)
        assert found == [size, data[:1].hex(), data[-1:].hex()]


@pytest.mark.skipif(sys.platform != "linux", reason="memory is shared on Linux only")
async def test_a_worker_cannot_shorten_the_memory_that_its_parent_writes_to(pool: ProcessPool) -> None:
    """The parent's next write would be a SIGBUS, and its end."""
    found, _ = await pool.run_with_bytes(f"{JOBS}:shrink", attached=[b"x"], most=0)
    assert found == ["refused"]
    data = bytes(SIZE)
    assert (await pool.run_with_bytes(f"{JOBS}:measured", attached=[data], most=0))[0][0] == SIZE


async def test_it_has_no_secrets_and_cannot_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB__PASSWORD", "canary-of-the-database")
    own = made(1)
    assert "canary-of-the-database" not in str(await own.run(f"{JOBS}:secrets"))
    assert await own.run(f"{JOBS}:write", str(tmp_path / "a")) == "OSError"
    await own.close()


async def test_an_exception_is_told_by_its_type_alone(pool: ProcessPool) -> None:
    with pytest.raises(JobFailed) as caught:
        await pool.run(f"{JOBS}:fail", "canary of the file")
    assert (caught.value.reason, caught.value.error) == ("error", "ValueError")
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("how", ["null", "abort", "exit"])
async def test_a_crash_fails_its_own_job_and_nothing_else(pool: ProcessPool, how: str) -> None:
    beside = asyncio.create_task(pool.run(f"{JOBS}:sleep", 0.3))
    await asyncio.sleep(0.05)
    with pytest.raises(JobFailed) as caught:
        await pool.run(f"{JOBS}:end", how)
    assert caught.value.reason == "crashed"
    assert await beside
    assert await pool.run(f"{JOBS}:pid")


async def test_a_job_that_does_not_end_is_killed() -> None:
    own = made(1, timeout=0.3)
    first = await own.run(f"{JOBS}:pid")
    started = time.monotonic()
    with pytest.raises(JobFailed) as caught:
        await own.run(f"{JOBS}:spin")
    assert caught.value.reason == "timeout"
    assert time.monotonic() - started < 3
    assert not psutil.pid_exists(first)
    assert await own.run(f"{JOBS}:pid") != first
    await own.close()


async def test_a_job_has_the_memory_that_it_asked_for_and_no_more(pool: ProcessPool) -> None:
    assert await pool.run(f"{JOBS}:take", 15 * MEGABYTE)
    with pytest.raises(JobFailed) as caught:
        await pool.run(f"{JOBS}:take", 25 * MEGABYTE)
    assert (caught.value.reason, caught.value.error) == ("error", "MemoryError")
    assert await pool.run(f"{JOBS}:take", 25 * MEGABYTE, memory=30 * MEGABYTE)
    with pytest.raises(JobFailed):  # the former grant is gone
        await pool.run(f"{JOBS}:take", 25 * MEGABYTE)


async def test_a_process_that_keeps_memory_is_replaced() -> None:
    own = made(1)
    first = await own.run(f"{JOBS}:keep", 5 * MEGABYTE)
    assert await own.run(f"{JOBS}:keep", 70 * MEGABYTE, memory=90 * MEGABYTE) == first
    assert await own.run(f"{JOBS}:pid") != first
    assert not psutil.pid_exists(first)
    await own.close()


async def test_jobs_use_memory_again_and_it_is_given_back_once_no_more_come() -> None:
    """With `reuse`: asking the kernel for the same memory for each picture costs more than half as much as decoding it."""
    size = 16 * MEGABYTE
    own, plain = made(1, reuse=True), made(1)
    faults = [await own.run(f"{JOBS}:touch", size) for _ in range(3)]
    assert faults[0] > 3000
    assert faults[2] < 300
    assert min([await plain.run(f"{JOBS}:touch", size) for _ in range(3)]) > 3000
    worker = psutil.Process(await own.run(f"{JOBS}:pid"))
    kept, deadline = worker.memory_info().rss, time.monotonic() + 20
    while worker.memory_info().rss > kept - size // 2:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    await own.close()
    await plain.close()


async def test_who_was_killed_from_outside_is_asked_again_once(pool: ProcessPool) -> None:
    victim = await pool.run(f"{JOBS}:pid")
    running = asyncio.create_task(pool.run(f"{JOBS}:sleep", 0.5))
    await asyncio.sleep(0.1)
    os.kill(victim, signal.SIGKILL)
    assert await running != victim


async def test_an_idle_process_that_was_killed_costs_no_job(pool: ProcessPool) -> None:
    victim = await pool.run(f"{JOBS}:pid")
    os.kill(victim, signal.SIGKILL)
    assert await pool.run(f"{JOBS}:pid") != victim


async def test_large_jobs_share_one_budget_in_order_and_small_ones_pass() -> None:
    own = made(4)
    assert own.largest == 320 * MEGABYTE
    for _ in range(4):
        await own.run(f"{JOBS}:pid")
    most, ended = 0.0, []

    async def large(number: int, size: int) -> None:
        await own.run(f"{JOBS}:sleep", 0.05, memory=size)
        ended.append(number)

    sizes = [150, 150, 300, 60, 150, 100]
    running = [asyncio.create_task(large(i, size * MEGABYTE)) for i, size in enumerate(sizes)]
    await asyncio.sleep(0)
    waiting = QUEUE_DEPTH.labels(queue="test-images-memory")._value.get()
    assert waiting == 4
    assert await own.run(f"{JOBS}:echo", "small") == ["small"]
    while not all(task.done() for task in running):
        most = max(most, MEMORY_RESERVED.labels(pool="test-images")._value.get())
        await asyncio.sleep(0.002)
    assert 300 * MEGABYTE <= most <= own.largest
    assert ended.index(2) >= 2  # alone: after the first two, and before those that came later
    assert set(ended[:2]) == {0, 1}
    assert MEMORY_RESERVED.labels(pool="test-images")._value.get() == 0
    with pytest.raises(ValueError, match="more than there is"):
        await own.run(f"{JOBS}:pid", memory=own.largest + 1)
    await own.close()


async def test_waiting_for_room_ends() -> None:
    own = made(1)
    running = asyncio.create_task(own.run(f"{JOBS}:sleep", 0.5, memory=own.largest))
    await asyncio.sleep(0)
    with pytest.raises(PoolUnavailable):
        await own.run(f"{JOBS}:pid", memory=own.largest, patience=0.05)
    cancelled = asyncio.create_task(own.run(f"{JOBS}:pid", memory=own.largest))
    await asyncio.sleep(0.02)
    cancelled.cancel()
    assert await running
    assert await own.run(f"{JOBS}:pid", memory=own.largest)  # neither of them has kept anything
    await own.close()


async def test_a_cancelled_callers_job_counts_until_it_ends() -> None:
    own = made(1)
    await own.run(f"{JOBS}:pid")
    running = asyncio.create_task(own.run(f"{JOBS}:sleep", 0.3, memory=own.largest))
    await asyncio.sleep(0.05)
    running.cancel()
    await asyncio.wait([running])
    assert MEMORY_RESERVED.labels(pool="test-images")._value.get() == own.largest
    assert await own.run(f"{JOBS}:pid", memory=own.largest)
    await own.close()


async def test_close_lets_running_jobs_end_and_refuses_waiting_ones() -> None:
    own = made(1)
    pid = await own.run(f"{JOBS}:pid")
    running = asyncio.create_task(own.run(f"{JOBS}:sleep", 0.2, memory=own.largest))
    waiting = [asyncio.create_task(own.run(f"{JOBS}:pid", memory=memory)) for memory in (0, own.largest)]
    await asyncio.sleep(0.05)
    await own.close()
    assert running.result() == pid
    for task in waiting:
        with pytest.raises(PoolClosed):
            await task
    with pytest.raises(PoolClosed):
        await own.run(f"{JOBS}:pid")
    assert not psutil.pid_exists(pid)
    await own.close()


async def test_warming_returns_at_once_and_closing_does_not_wait_for_it() -> None:
    own = made(1, preload=["http.server", "xml.dom.minidom", JOBS])
    started = time.perf_counter()
    own.warm()
    assert time.perf_counter() - started < 0.01
    await asyncio.sleep(0.001)
    await own.close()


async def test_a_worker_that_cannot_start_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    own = made(1, preload=["no_such_module"])
    with pytest.raises(PoolUnavailable, match="no_such_module"):
        await own.run(f"{JOBS}:pid")
    await own.close()


_PARENT = f"""
import asyncio, sys
sys.path.insert(0, {str(ROOT)!r})
from utils.process_pool import ProcessPool

async def main():
    pool = ProcessPool("orphans", 2, max_memory=2**28, allowance=2**24)
    print(await pool.run("{JOBS}:pid"), flush=True)
    spinning = asyncio.create_task(pool.run("{JOBS}:spin"))
    await asyncio.sleep(0)
    print(await pool.run("{JOBS}:pid"), flush=True)
    await spinning

asyncio.run(main())
"""


def test_workers_die_with_a_killed_parent_at_work_or_idle() -> None:
    with subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, cwd=ROOT, text=True) as parent:
        assert parent.stdout is not None
        pids = {int(parent.stdout.readline()) for _ in range(2)}
        workers = [psutil.Process(pid) for pid in pids]
        parent.kill()
        gone, alive = psutil.wait_procs(workers, 5)
    assert (len(gone), alive) == (2, [])


async def test_a_job_that_is_cancelled_leaves_no_worker() -> None:
    """As the end of a loop does, of which nobody closed the pool."""
    own = made(1)
    worker = psutil.Process(await own.run(f"{JOBS}:pid"))
    waiting = asyncio.create_task(own.run(f"{JOBS}:spin"))
    await asyncio.sleep(0.05)
    for job in own._jobs:
        job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gone, alive = await asyncio.to_thread(psutil.wait_procs, [worker], 20)
    assert (len(gone), alive) == (1, [])
    await own.close()


async def test_a_start_that_is_cancelled_leaves_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever: before the process has its connection, and before it said that it is ready."""
    connected, started = asyncio.Event(), asyncio.Event()

    async def never(**_: Any) -> Any:
        connected.set()
        await asyncio.Event().wait()

    create = asyncio.create_subprocess_exec
    pids = []

    async def noted(*arguments: Any, **fields: Any) -> Any:
        process = await create(*arguments, **fields)
        pids.append(process.pid)
        started.set()
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", noted)
    for reached in (connected, started):
        with monkeypatch.context() as patch:
            if reached is connected:
                patch.setattr(asyncio, "open_connection", never)
            started.clear()
            starting = asyncio.create_task(DecoderProcess.start([JOBS]))
            await reached.wait()
            starting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await starting
        assert not psutil.pid_exists(pids[-1])
