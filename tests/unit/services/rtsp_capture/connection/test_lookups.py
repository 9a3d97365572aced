"""Looking names up: in threads of its own, so that a resolver that hangs holds up nobody else."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from services.rtsp_capture.connection.lookups import Lookups
from utils.exceptions import CaptureFailure


class Resolver:
    """Names that begin with `hang` are answered when the test says so."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.go = threading.Event()

    def __call__(self, name: str) -> list[str]:
        self.asked[name] += 1
        if name.startswith("hang"):
            self.go.wait(30)
        if name == "unknown":
            raise OSError("no such name")
        return ["10.0.0.5"]


@pytest.fixture
def resolver() -> Iterator[Resolver]:
    made = Resolver()
    yield made
    made.go.set()


async def code(lookups: Lookups, name: str, timeout: float = 5) -> str | None:
    try:
        await lookups.addresses(name, timeout)
    except CaptureFailure as failure:
        return failure.code
    return None


async def test_addresses_need_no_resolver(resolver: Resolver) -> None:
    lookups = Lookups(resolver)
    for host, address in (("10.0.0.5", "10.0.0.5"), ("127.1", "127.0.0.1"), ("0x7f000001", "127.0.0.1"), ("::1", "::1")):
        assert await lookups.addresses(host, 1) == [address]
    assert not resolver.asked
    assert await code(lookups, "unknown") == "dns_failure"


async def test_a_name_that_hangs_takes_one_thread_however_often_it_is_asked_for(resolver: Resolver) -> None:
    lookups = Lookups(resolver, most=2)
    waiting = [asyncio.create_task(code(lookups, "hang", 0.05)) for _ in range(50)]
    assert await asyncio.gather(*waiting) == ["dns_failure"] * 50
    assert await code(lookups, "hang", 0.05) == "dns_failure"
    assert resolver.asked == {"hang": 1}
    resolver.go.set()
    assert await code(lookups, "hang") is None  # who gave up has not cancelled it


async def test_names_that_hang_hold_up_no_known_one_and_are_bounded(resolver: Resolver) -> None:
    lookups = Lookups(resolver, most=3)
    assert await code(lookups, "camera") is None
    before = threading.active_count()
    many = [asyncio.create_task(code(lookups, f"hang{number}", 20)) for number in range(40)]
    await asyncio.sleep(0)
    while not all(task.done() for task in many[3:]):
        await asyncio.sleep(0.01)
    assert {task.result() for task in many[3:]} == {"dns_failure"}  # at once: nobody waits for a thread
    assert threading.active_count() - before <= 3
    assert await code(lookups, "new") == "dns_failure"
    began = time.monotonic()
    assert await code(lookups, "CAMERA.") is None
    assert time.monotonic() - began < 5
    assert resolver.asked["camera"] == 2
    resolver.go.set()
    assert await asyncio.gather(*many[:3]) == [None] * 3
    assert await code(lookups, "new") is None


async def test_the_loop_runs_on_while_a_resolver_hangs(resolver: Resolver) -> None:
    lookups, turns = Lookups(resolver), 0
    waiting = asyncio.create_task(code(lookups, "hang", 20))
    while turns < 100:
        await asyncio.sleep(0)
        turns += 1
    assert not waiting.done()
    resolver.go.set()
    assert await waiting is None
