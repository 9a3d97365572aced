"""Streams as they are shared, and what one principal may hold of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from config import RtspSettings
from services.access.shares import Shares
from services.rtsp_capture.connection.reader import PacketReader, ReaderOptions
from services.rtsp_capture.streams.stream import Stream, StreamDeps, StreamKey
from services.rtsp_capture.streams.stream_hub import StreamHub
from utils.exceptions import CaptureFailure
from utils.pool import WorkerPool

Acquiring = asyncio.Task[Stream]


def key(name: str) -> StreamKey:
    return StreamKey(name, f"rtsp://127.0.0.1:1/{name}", "tcp")


async def _down(_: object) -> None:
    raise CaptureFailure("connection_refused", "nobody is there")


def _no_reader(_: ReaderOptions) -> PacketReader:
    raise AssertionError


@asynccontextmanager
async def hub_of(streams: int, share: float) -> AsyncIterator[StreamHub]:
    pool = WorkerPool("hub-test", 1)
    settings = RtspSettings(MAX_CONCURRENT_STREAMS=streams, RECONNECT_DELAY=60, RECONNECT_MAX_DELAY=60)
    check: Callable[..., Awaitable[None]] = _down
    hub = StreamHub(StreamDeps(settings, check, _no_reader, pool), Shares(share))  # type: ignore[arg-type]
    try:
        yield hub
    finally:
        await hub.close()
        await pool.close()


async def settled(*tasks: Acquiring) -> list[bool]:
    for _ in range(20):
        await asyncio.sleep(0)
    return [task.done() for task in tasks]


async def test_one_principal_leaves_streams_for_another() -> None:
    async with hub_of(4, 0.5) as hub:
        a = [asyncio.create_task(hub.acquire(key(f"a{n}"), "a")) for n in range(3)]
        assert await settled(*a) == [True, True, False]
        b = asyncio.create_task(hub.acquire(key("b"), "b"))
        assert await settled(a[2], b) == [False, True]
        hub.release(key("a0"), "a")
        assert await settled(a[2]) == [True]
        for name, owner in (("a1", "a"), ("a2", "a"), ("b", "b")):
            hub.release(key(name), owner)


async def test_what_others_use_too_or_is_kept_open_does_not_count() -> None:
    """Joining costs nothing; the share is of the streams that are not kept open."""
    async with hub_of(4, 0.5) as hub:
        await hub.acquire(key("kept"), None)
        await hub.acquire(key("kept"), "a")
        await hub.acquire(key("shared"), "b")
        await hub.acquire(key("shared"), "a")
        assert hub.may_open("a")
        await hub.acquire(key("own"), "a")
        assert not hub.may_open("a")  # of the three that are not kept one is a half
        late = asyncio.create_task(hub.acquire(key("late"), "a"))
        assert await settled(late) == [False]
        hub.release(key("kept"), None)  # now it is a's alone
        hub.release(key("kept"), "a")
        assert await settled(late) == [True]
        for name, owner in (("shared", "a"), ("shared", "b"), ("own", "a"), ("late", "a")):
            hub.release(key(name), owner)


async def test_a_sole_user_gets_one_and_what_ran_before_goes_on() -> None:
    async with hub_of(1, 0.1) as hub:
        await hub.acquire(key("a"), "a")
        hub.release(key("a"), "a")
    async with hub_of(3, 0.1) as hub:
        await hub.acquire(key("a"), "a")
        await hub.acquire(key("resumed"), "a", beyond_share=True)
        assert not hub.may_open("a")
        assert hub.may_open("b", 2)
        for name in ("a", "resumed"):
            hub.release(key(name), "a")


async def test_without_shares_one_may_have_all() -> None:
    async with hub_of(3, 1) as hub:
        held = [asyncio.create_task(hub.acquire(key(f"a{n}"), "a")) for n in range(4)]
        assert await settled(*held) == [True, True, True, False]
        hub.release(key("a0"), "a")
        async with asyncio.timeout(5):
            await held[3]
        for n in (1, 2, 3):
            hub.release(key(f"a{n}"), "a")
