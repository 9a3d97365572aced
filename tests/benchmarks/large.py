"""Memory of the service while 32 pictures of 34-50 MB are uploaded at once, above what it has while it is idle."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator

import httpx
import psutil
import uvloop

from tests.benchmarks.frame import Bench, Goal
from tests.benchmarks.http import both
from tests.kits.service_support import jpeg

_UPLOADS = 32
_SIZES = (34_000_000, 50_000_000)  # bytes, the smallest and the largest


def _picture(size: int) -> bytes:
    """A small JPEG with comments (64 KB of chance each) up to that size: what is decoded does not weigh beside the bytes."""
    picture = jpeg((640, 480))
    comment = b"\xff\xfe\xff\xff" + os.urandom(65_533)
    times = (size - len(picture)) // len(comment)
    return picture[:2] + comment * times + picture[2:]


async def _body(head: bytes, picture: bytes, tail: bytes) -> AsyncIterator[bytes]:
    yield head
    for begin in range(0, len(picture), 1 << 18):
        yield picture[begin : begin + (1 << 18)]
    yield tail


async def _upload(client: httpx.AsyncClient, number: int, picture: bytes) -> int:
    form = f'--b\r\nContent-Disposition: form-data; name="camera_id"\r\n\r\nlarge-{number}\r\n'
    head = form + '--b\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    parts, tail = (head.encode(), picture), b"\r\n--b--\r\n"
    length = len(parts[0]) + len(picture) + len(tail)
    headers = {"Content-Type": "multipart/form-data; boundary=b", "Content-Length": str(length)}
    while True:
        try:
            answer = await client.post("/api/v1/ingest/upload", content=_body(*parts, tail), headers=headers, timeout=250)
        except (httpx.WriteError, httpx.RemoteProtocolError):
            answer = None  # refused and closed while it was sent
        if answer is not None and answer.status_code not in (429, 503):
            return answer.raise_for_status().status_code
        await asyncio.sleep(1)  # refused for want of room: it is sent again


async def _peak(process: psutil.Process, most: list[float]) -> None:
    while True:
        family = [process, *process.children(recursive=True)]
        most.append(sum(each.memory_info().rss for each in family if each.is_running()) / 1e6)
        await asyncio.sleep(0.1)


async def _run(bench: Bench) -> None:
    pictures = [_picture(_SIZES[0] + number * (_SIZES[1] - _SIZES[0]) // 7) for number in range(8)]
    beyond, seconds = [], []
    async with both(bench.folder) as sides:
        process = sides.ours[1]
        await _upload(sides.client, 0, pictures[0])
        for _ in range(bench.rounds):
            await asyncio.sleep(5)
            most: list[float] = []
            watch = asyncio.create_task(_peak(process, most))
            await asyncio.sleep(0.5)
            idle, began = most[0], time.monotonic()
            limits = httpx.Limits(max_connections=_UPLOADS)
            async with httpx.AsyncClient(base_url=sides.service.url, limits=limits) as client:
                await asyncio.gather(*(_upload(client, n, pictures[n % 8]) for n in range(_UPLOADS)))
            seconds.append(time.monotonic() - began)
            watch.cancel()
            beyond.append(max(most) - idle)
    what = f"{_UPLOADS} uploads of 34-50 MB: memory above idle"
    bench.compare(what, "MB", beyond, [], Goal("<=", 200), seconds=seconds[0])


def large(bench: Bench) -> None:
    """The service and its children; PostgreSQL and store are beside it."""
    uvloop.run(_run(bench))
