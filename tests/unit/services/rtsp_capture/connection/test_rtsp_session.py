"""Asking a camera: status classes, answers that are not RTSP, times."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

import pytest

from config import RtspSettings
from services.rtsp_capture.connection.camera_address import AddressPolicy, parse_rtsp_url
from services.rtsp_capture.connection.rtsp.conversation import Conversation, Playing, classify
from services.rtsp_capture.connection.rtsp.framing import Data
from services.rtsp_capture.connection.rtsp.login import Login
from services.rtsp_capture.connection.rtsp.sdp import VideoTrack
from services.rtsp_capture.connection.rtsp_client import RtspClient
from services.rtsp_capture.connection.rtsp_session import RtspSession, SessionOpener
from tests.kits.odd_camera import OddCamera
from utils.exceptions import FATAL_BEFORE_FIRST_PICTURE, CaptureFailure

LOOPBACK = AddressPolicy(["127.0.0.0/8"])


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


async def ask(answer: Answer, userinfo: str = "") -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    opener = SessionOpener(RtspSettings(OPEN_TIMEOUT=0.5), LOOPBACK)
    try:
        await opener.open(parse_rtsp_url(f"rtsp://{userinfo}127.0.0.1:{port}/s3cret-path"), "tcp")
    finally:
        server.close()


async def failure(answer: Answer, userinfo: str = "u:s3cret@") -> CaptureFailure:
    with pytest.raises(CaptureFailure) as caught:
        await ask(answer, userinfo)
    assert "s3cret" not in str(caught.value)
    assert "127.0.0.1" not in str(caught.value)
    return caught.value


def says(text: str | bytes) -> Answer:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(text.encode() if isinstance(text, str) else text)
        await writer.drain()

    return answer


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
        assert (await failure(answer)).code == "read_timeout"
        assert loop.time() - began < 2


async def test_the_next_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name may have several addresses, and the camera listen on one of them only."""

    async def resolve(*_: object) -> list[str]:
        return ["127.0.0.2", "127.0.0.1"]

    monkeypatch.setattr(AddressPolicy, "resolve", resolve)
    async with OddCamera().serving() as odd:
        session = await SessionOpener(RtspSettings(), LOOPBACK).open(parse_rtsp_url(odd.url()), "tcp")
        assert session.track.codec == "h264"
        session.close()


class _Playing:
    """A client whose answer to PLAY is read after the first datagrams have come."""

    closed = False
    on_end: Callable[[], None] | None = None

    def __init__(self) -> None:
        self.session: RtspSession | None = None

    async def run(self, _talk: object) -> None:
        assert self.session is not None
        for number in range(3):
            self.session.datagram(0, bytes((number,)))

    def keep_alive(self, *_: object) -> None: ...

    def deliver(self, on_data: Callable[[list[Data | None]], None]) -> None: ...


async def test_datagrams_that_come_before_the_answer_to_play_is_read_are_kept() -> None:
    client, came = _Playing(), list[Data | None]()
    conversation = Conversation("rtsp://127.0.0.1/x", None)
    track = VideoTrack("h264", 96, frozenset(), 90_000, "", "")
    playing = Playing(track, (5000, 5001), "", 60.0)
    session = client.session = RtspSession(cast(RtspClient, client), conversation, track, playing, None)
    await session.start(came.extend, lambda: None)
    session.datagram(0, b"later")
    assert came == [Data(0, data) for data in (b"\0", b"\1", b"\2", b"later")]


@pytest.mark.parametrize(("login", "code"), [(None, "unauthorized_camera"), (Login("u", "p"), "camera_busy")])
def test_only_a_login_that_was_accepted_can_be_refused_for_want_of_places(login: Login | None, code: str) -> None:
    assert Conversation("rtsp://127.0.0.1/x", login, proven=True).refused().code == code
