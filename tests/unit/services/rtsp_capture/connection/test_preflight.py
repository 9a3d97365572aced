"""The check before opening: status classes, answers that are not RTSP."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from services.rtsp_capture.connection.address import AddressPolicy, parse_rtsp_url
from services.rtsp_capture.connection.preflight import Described, preflight
from services.rtsp_capture.connection.rtsp.conversation import classify
from utils.exceptions import FATAL_BEFORE_FIRST_PICTURE, CaptureFailure

LOOPBACK = AddressPolicy(["127.0.0.0/8"])


SDP = "v=0\r\no=- 0 0 IN IP4 1.2.3.4\r\ns=x\r\nt=0 0\r\n"


def test_statuses() -> None:
    codes = {status: failure.code for status in range(100, 600) if (failure := classify(status)) is not None}
    assert not set(range(200, 300)) & set(codes)
    named = (301, 302, 305, 401, 403, 404, 410, 453, 461, 503)
    assert [codes[status] for status in named] == [
        "redirect_refused", "redirect_refused", "redirect_refused", "unauthorized_camera", "forbidden_camera",
        "stream_not_found", "stream_not_found", "camera_busy", "transport_refused", "camera_busy",
    ]  # fmt: skip
    assert all(codes[status] not in FATAL_BEFORE_FIRST_PICTURE for status in range(500, 600))


Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def ask(answer: Answer, timeout: float = 0.5, userinfo: str = "") -> Described:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        return await preflight(parse_rtsp_url(f"rtsp://{userinfo}127.0.0.1:{port}/s3cret-path"), LOOPBACK, timeout)
    finally:
        server.close()


async def failure(answer: Answer, timeout: float = 0.5, userinfo: str = "u:s3cret@") -> CaptureFailure:
    with pytest.raises(CaptureFailure) as caught:
        await ask(answer, timeout, userinfo)
    assert "s3cret" not in str(caught.value)
    assert "127.0.0.1" not in str(caught.value)
    return caught.value


def says(text: str | bytes) -> Answer:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(text.encode() if isinstance(text, str) else text)
        await writer.drain()

    return answer


async def test_a_camera_answers() -> None:
    body = SDP + "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
    found = await ask(says(f"RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Length: {len(body)}\r\n\r\n{body}"))
    assert found == Described("127.0.0.1", "h264")


@pytest.mark.parametrize(
    "text",
    [
        "", "garbage\r\n\r\n", "HTTP/1.1 400 Bad Request\r\n\r\n", "RTSP/1.0\r\n\r\n", "RTSP/1.0 x y\r\n\r\n", "\r\n\r\n",
        "RTSP/1.0 200 OK\r\nContent-Length: 99\r\n\r\nshort", "RTSP/1.0 200 OK\r\nContent-Length: x\r\n\r\n",
        "RTSP/1.0 200 OK\r\nContent-Length: 999999999\r\n\r\n", "RTSP/1.0 200 OK\r\nContent-Length: -1\r\n\r\n",
        "RTSP/1.0 200 OK\r\nX: " + "y" * 100_000 + "\r\n\r\n", b"\xff\xfe\x00" * 50_000,
    ],
)  # fmt: skip
async def test_what_is_not_rtsp_is_a_stream_that_ended(text: str | bytes) -> None:
    assert (await failure(says(text))).code == "stream_ended"


async def test_silence_and_a_slow_drip_time_out() -> None:
    async def silent(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(3)

    async def drip(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(100):
            writer.write(b"R")
            await asyncio.sleep(0.05)

    loop = asyncio.get_running_loop()
    for answer in (silent, drip):
        began = loop.time()
        assert (await failure(answer, timeout=0.3)).code == "read_timeout"
        assert loop.time() - began < 1


async def test_the_next_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name may have several addresses, and the camera listen on one of them only."""

    async def resolve(*_: object) -> list[str]:
        return ["127.0.0.2", "127.0.0.1"]

    monkeypatch.setattr(AddressPolicy, "resolve", resolve)
    body = SDP + "m=video 0 RTP/AVP 26\r\n"
    found = await ask(says(f"RTSP/1.0 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}"))
    assert found.address == "127.0.0.1"
