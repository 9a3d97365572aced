"""SOAP against a simulated device: what it says, logins, and what hostile ones do."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import timedelta

import pytest

from services.cameras.onvif.device import Device, OnvifDevice
from services.cameras.onvif.http_post import MAX_BODY, http_address
from services.cameras.onvif.soap import SoapClient
from services.rtsp_capture.connection.camera_address import AddressPolicy
from tests.kits.onvif_device import Listener, Stream
from tests.kits.onvif_device import OnvifDevice as Simulated
from utils.exceptions import CaptureFailure, NotOnvif

POLICY = AddressPolicy(["127.0.0.0/9"])
FORBIDDEN = "127.200.0.9"
MAIN = Stream(
    "main", "H264", 1920, 1080, "rtsp://127.0.0.1:554/main?channel=1&subtype=0", "http://127.0.0.1/snap?u=admin&p=1"
)
SUB = Stream("sub", "JPEG", 640, 360, "rtsp://127.0.0.1:554/sub", "http://127.0.0.1/snap2")
HEVC = Stream("hevc", "H265", 3840, 2160, "rtsp://127.0.0.1:554/hevc", "http://127.0.0.1/snap3")


async def described(device: Simulated, password: str | None = None, timeout: float = 20) -> Device:
    at = http_address(device.xaddr)
    assert at is not None
    login = (device.username, device.password if password is None else password)
    return await OnvifDevice(SoapClient(at, POLICY, login, timeout, tls_verify=True)).describe()


async def failed(device: Simulated, password: str | None = None, timeout: float = 20) -> str:
    with pytest.raises((CaptureFailure, NotOnvif)) as raised:
        await described(device, password, timeout)
    assert isinstance(raised.value, CaptureFailure | NotOnvif)
    return str(raised.value.code)


@pytest.mark.parametrize("login", ["token", "digest", "none"])
async def test_profiles_with_urls_sizes_and_codecs(login: str) -> None:
    with Simulated(streams=[MAIN, HEVC]) as device:
        device.behaviour.login = login
        found = await described(device)
    assert (found.name, found.hardware) == ("Pit lane entry", "P3245-LV")
    assert [(one.token, one.name, one.codec, one.width, one.height) for one in found.profiles] == [
        ("main", "main name", "h264", 1920, 1080), ("hevc", "hevc name", "h265", 3840, 2160),
    ]  # fmt: skip
    assert {(one.fps, one.bitrate_bps) for one in found.profiles} == {(25.0, 4_096_000)}
    assert [(one.stream_url, one.snapshot_url) for one in found.profiles] == [
        (MAIN.url, MAIN.snapshot), (HEVC.url, HEVC.snapshot),
    ]  # fmt: skip
    assert device.requests[0] == "GetSystemDateAndTime"
    assert all(device.password not in text for text in device.seen)  # only digests of it
    assert "Security" not in device.seen[0]
    if login == "digest":  # asked once without, then each time with it
        assert device.requests.count("GetServices") == 2
        assert len(device.requests) == len(set(device.requests)) + 3


async def test_nonces_go_stale_and_the_time_may_ask_for_a_login() -> None:
    with Simulated(streams=[MAIN, SUB]) as device:
        device.behaviour.login, device.behaviour.nonce_uses, device.behaviour.all_by_login = "digest", 3, True
        found = await described(device)
    assert ([one.token for one in found.profiles], found.clock_offset) == (["main", "sub"], None)


async def test_an_older_device_knows_the_first_media_service_only() -> None:
    with Simulated(streams=[MAIN, SUB]) as device:
        device.behaviour.media2, device.behaviour.scopes = False, ""
        found = await described(device)
    assert [(one.token, one.codec, one.stream_url) for one in found.profiles] == [
        ("main", "h264", MAIN.url), ("sub", "mjpeg", SUB.url),
    ]  # fmt: skip
    assert (found.name, found.hardware) == ("Acme A-1", "A-1")


@pytest.mark.parametrize("clock", [timedelta(days=-8000), timedelta(hours=2), timedelta(seconds=-90)])
async def test_logins_are_dated_by_the_devices_own_clock(clock: timedelta) -> None:
    with Simulated(streams=[MAIN]) as device:
        device.behaviour.clock = clock
        found = await described(device)
    assert len(found.profiles) == 1
    assert found.clock_offset == pytest.approx(clock.total_seconds(), abs=30)


@pytest.mark.parametrize("login", ["token", "digest"])
async def test_a_wrong_password_is_told_and_not_tried_again(login: str) -> None:
    """Devices lock out who fails too often."""
    with Simulated(streams=[MAIN]) as device:
        device.behaviour.login = login
        assert await failed(device, "wrong") == "unauthorized_camera"
        assert device.requests == ["GetSystemDateAndTime", *["GetServices"] * (2 if login == "digest" else 1)]


async def test_a_login_goes_to_the_device_that_was_named_and_nowhere_else() -> None:
    with Listener(FORBIDDEN) as forbidden, Listener("127.0.0.6") as allowed, Simulated(streams=[MAIN]) as device:
        for other in (forbidden, allowed):
            device.behaviour.service_host = f"{other.host}:{device.port}"  # its port is used, its host is not
            assert [one.token for one in (await described(device)).profiles] == ["main"]
            device.behaviour.service_host = f"{other.host}:{other.port}"
            assert await failed(device) == "connection_refused"
        for other in (forbidden, allowed):
            device.behaviour.redirect = f"http://{other.host}:{other.port}/onvif/device_service"
            assert await failed(device) == "redirect_refused"
        assert (forbidden.connections, allowed.connections) == (0, 0)


async def test_a_forbidden_address_is_not_connected_to() -> None:
    with Listener(FORBIDDEN) as listener:
        at = http_address(f"http://{FORBIDDEN}:{listener.port}/onvif/device_service")
        assert at is not None
        with pytest.raises(CaptureFailure) as raised:
            await OnvifDevice(SoapClient(at, POLICY, None, 5, tls_verify=True)).describe()
        assert (raised.value.code, listener.connections) == ("address_not_allowed", 0)


LAUGHS = (
    b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "'
    + b"ha" * 1000
    + b'">'
    + b"".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 20}">'.encode() for n in range(8))
    + b"]><s:Envelope><s:Body>&i;</s:Body></s:Envelope>"
)
HOSTILE = {
    "a bomb": LAUGHS,
    "more than is read": b'<s:Envelope xmlns:s="x"><s:Body><GetSystemDateAndTimeResponse/>'
    + b" " * MAX_BODY
    + b"</s:Body></s:Envelope>",
    "elements": b"<a>" + b"<b/>" * 100_000 + b"</a>",
    "a page": b"<html><body>Please log in</body></html>",
    "no XML": b"\x00\x01",
    "an envelope of nothing": b'<s:Envelope xmlns:s="x"><s:Body/></s:Envelope>',
    "another answer": b'<s:Envelope xmlns:s="x"><s:Body><HelloResponse/></s:Body></s:Envelope>',
}


@pytest.mark.parametrize("what", HOSTILE)
async def test_what_is_no_onvif_device(what: str) -> None:
    with Simulated() as device:
        device.behaviour.answer = HOSTILE[what]
        assert await failed(device) == "not_onvif"
        assert len(device.requests) == 1


async def test_slow_answers_end_in_time() -> None:
    with Simulated() as device:
        device.behaviour.drip = True
        began = time.monotonic()
        assert await failed(device, timeout=0.5) == "read_timeout"
        assert time.monotonic() - began < 20


async def test_what_speaks_another_protocol_or_nothing() -> None:
    async def banner(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.6\r\n")
        writer.close()

    server = await asyncio.start_server(banner, "127.0.0.1", 0)
    at = http_address(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    assert at is not None
    with pytest.raises(NotOnvif):
        await OnvifDevice(SoapClient(at, POLICY, None, 5, tls_verify=True)).describe()
    server.close()
    with pytest.raises(CaptureFailure) as raised:
        await OnvifDevice(SoapClient(replace(at, port=1), POLICY, None, 5, tls_verify=True)).describe()
    assert raised.value.code == "connection_refused"


@pytest.mark.parametrize(
    "url",
    ["ftp://10.0.0.1/", "http://", "http://10.0.0.1:0/", "http://10.0.0.1:99999/", "http://10.0.0.1/a b", "http://[::1",
     "rtsp://10.0.0.1/", "http://10.0.0.1/\n", "//10.0.0.1/", "http://10.0.0.1\\@169.254.169.254/"],
)  # fmt: skip
def test_what_is_no_address_of_a_service(url: str) -> None:
    assert http_address(url) is None
