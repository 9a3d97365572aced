"""The check before opening: Authorization values, SDP, status classes, answers that are not RTSP."""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable

import pytest

from services.rtsp_capture.connection import preflight as module
from services.rtsp_capture.connection.address import AddressPolicy, parse_rtsp_url
from services.rtsp_capture.connection.preflight import Described, authorization, classify, preflight, video_codec
from utils.exceptions import FATAL_BEFORE_FIRST_PICTURE, CaptureFailure

LOOPBACK = AddressPolicy(["127.0.0.0/8"])


def fields(value: str | None) -> dict[str, str]:
    assert value is not None
    return {name: quoted or plain for name, quoted, plain in re.findall(r'(\w+)=(?:"([^"]*)"|([^,\s]+))', value)}


def test_digest_of_rfc_2617_section_3_5() -> None:
    challenge = (
        'Digest realm="testrealm@host.com", qop="auth,auth-int", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", '
        'opaque="5ccc069c403ebaf9f0171e9517f40e41"'
    )
    found = fields(authorization([challenge], "GET", "/dir/index.html", "Mufasa", "Circle Of Life", "0a4f113b"))
    assert found["response"] == "6629fae49393a05397450978507c4ef1"
    assert found["opaque"] == "5ccc069c403ebaf9f0171e9517f40e41"
    assert (found["qop"], found["nc"], found["cnonce"]) == ("auth", "00000001", "0a4f113b")


MD5 = (
    'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm=MD5, '
    'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
)
SHA = MD5.replace("=MD5", "=SHA-256")


@pytest.mark.parametrize("challenges", [[MD5], [SHA, MD5], [MD5, SHA], [f"{SHA}, {MD5}"], [f'Basic realm="x", {MD5}']])
def test_digest_of_rfc_7616_section_3_9_1(challenges: list[str]) -> None:
    """FFmpeg knows MD5 only: of several challenges it is found, whatever their order."""
    cnonce = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
    value = authorization(challenges, "GET", "/dir/index.html", "Mufasa", "Circle of Life", cnonce)
    found = fields(value)
    assert found["response"] == "8ca523f5e9506fed4657c9700eebdbec"
    assert found["realm"] == "http-auth@example.org"


def test_digest_without_qop() -> None:
    found = fields(authorization(['Digest realm="cam", nonce="n"'], "DESCRIBE", "rtsp://h/x", "u", "p", "c"))
    ha1, ha2 = (hashlib.md5(text.encode()).hexdigest() for text in ("u:cam:p", "DESCRIBE:rtsp://h/x"))
    assert found["response"] == hashlib.md5(f"{ha1}:n:{ha2}".encode()).hexdigest()
    assert "qop" not in found


def test_basic_of_rfc_7617_and_what_is_preferred() -> None:
    basic = 'Basic realm="WallyWorld"'
    assert authorization([basic], "DESCRIBE", "u", "Aladdin", "open sesame", "c") == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
    value = authorization([basic, 'Digest realm="x", nonce="n"'], "DESCRIBE", "u", "a", "b", "c")
    assert value is not None
    assert value.startswith("Digest ")
    assert authorization([SHA], "DESCRIBE", "u", "a", "b", "c") is None
    assert authorization([SHA, basic], "DESCRIBE", "u", "a", "b", "c") == "Basic YTpi"
    assert authorization([], "DESCRIBE", "u", "a", "b", "c") is None


def test_a_quote_in_the_name_stays_inside_its_quotes() -> None:
    value = authorization(['Digest realm="x", nonce="n"'], "DESCRIBE", "u", 'a"b\\', "p", "c")
    assert value is not None
    assert value.startswith('Digest username="a\\"b\\\\", realm="x"')


SDP = "v=0\r\no=- 0 0 IN IP4 1.2.3.4\r\ns=x\r\nt=0 0\r\n"


@pytest.mark.parametrize(
    ("media", "codec"),
    [
        ("m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n", "h264"),
        ("m=video 0 RTP/AVP 97\na=rtpmap:96 H264/90000\na=rtpmap:97 h265/90000\n", "hevc"),
        ("m=audio 0 RTP/AVP 0\r\nm=video 0 RTP/AVP 26\r\na=control:x\r\n", "mjpeg"),
        ("m=video 0 RTP/AVP 98\r\na=rtpmap:98 JPEG/90000\r\nm=audio 0 RTP/AVP 8\r\n", "mjpeg"),
        ("m=video 0 RTP/AVP 96\r\na=rtpmap:96 H265/90000\r\nm=video 0 RTP/AVP 97\r\na=rtpmap:97 H264/90000\r\n", "hevc"),
        ("m=audio 0 RTP/AVP 0\r\n", "no_video"), ("", "no_video"), ("m=\r\n", "no_video"), ("m=video\r\n", "no_video"),
        ("m=application 0 RTP/AVP 107\r\na=rtpmap:107 vnd.onvif.metadata/90000\r\n", "no_video"),
        ("m=video 0 RTP/AVP 96\r\na=rtpmap:96 VP9/90000\r\n", "unsupported_codec"),
        ("m=video 0 RTP/AVP 96\r\n", "unsupported_codec"),
    ],
)  # fmt: skip
def test_the_first_video_tracks_codec(media: str, codec: str) -> None:
    if codec in ("no_video", "unsupported_codec"):
        with pytest.raises(CaptureFailure) as caught:
            video_codec(SDP + media)
        assert caught.value.code == codec
    else:
        assert video_codec(SDP + media) == codec


def test_statuses() -> None:
    codes = {status: failure.code for status in range(100, 600) if (failure := classify(status)) is not None}
    assert not set(range(200, 300)) & set(codes)
    named = (301, 302, 305, 401, 403, 404, 410, 453, 503)
    assert [codes[status] for status in named] == [
        "redirect_refused", "redirect_refused", "redirect_refused", "unauthorized_camera", "forbidden_camera",
        "stream_not_found", "stream_not_found", "camera_busy", "camera_busy",
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


def test_bounds_are_sane() -> None:
    assert module.MAX_HEAD_BYTES <= 64 * 1024
    assert module.MAX_SDP_BYTES <= 1024 * 1024
