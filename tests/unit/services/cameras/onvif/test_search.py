"""WS-Discovery against devices that answer by UDP, honest and hostile ones."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import AsyncIterator

import pytest

from services.cameras.onvif import search
from services.cameras.onvif.search import FoundDevice, Search, targets
from services.rtsp_capture.connection.camera_address import AddressPolicy
from tests.kits.onvif_device import Listener, OnvifDevice

POLICY = AddressPolicy(["127.0.0.0/9"])  # of the tests' devices
FORBIDDEN = "127.200.0.9"


async def found_by(policy: AddressPolicy = POLICY, *hosts: str, seconds: float = 1.0) -> list[FoundDevice]:
    return await Search(policy, [ipaddress.ip_network(host) for host in hosts] or None).run(seconds)


async def test_a_device_is_found_by_asking_its_address() -> None:
    with OnvifDevice() as device:
        assert await found_by(POLICY, device.host) == [
            FoundDevice(device.host, device.xaddr, "Pit lane entry", "P3245-LV", onvif=True)
        ]
        assert device.probes >= 2  # with a type and without


async def test_a_device_is_found_by_multicast() -> None:
    with OnvifDevice() as device:
        found = await found_by()
    assert FoundDevice(device.host, device.xaddr, "Pit lane entry", "P3245-LV", onvif=True) in found


async def test_the_ports_of_camera_urls_do_not_bound_the_search_but_what_it_names() -> None:
    with OnvifDevice() as device:
        (found,) = await found_by(AddressPolicy(["127.0.0.0/9"], ["554"]), device.host)
        assert (found.address, found.xaddr) == (device.host, None)


async def test_nothing_goes_out_where_no_interface_is_allowed() -> None:
    with OnvifDevice() as device:
        assert await found_by(AddressPolicy(["10.99.99.0/24"])) == []
        assert device.probes == 0


async def test_a_printer_is_listed_as_one_that_says_nothing_of_onvif() -> None:
    with OnvifDevice() as device:
        device.behaviour.types, device.behaviour.scopes = "wsdp:Device wprt:PrintDeviceType", ""
        assert await found_by(POLICY, device.host) == [FoundDevice(device.host, device.xaddr, None, None, onvif=False)]


async def test_no_address_outside_is_listed_or_taken_from_an_answer() -> None:
    with Listener(FORBIDDEN) as listener, OnvifDevice() as device, OnvifDevice(host="127.200.0.10") as outside:
        evil = f"http://{FORBIDDEN}:{listener.port}/onvif/device_service"
        named = "http://camera.example/onvif ftp://127.0.0.1/x http://[::1/ http://169.254.169.254/latest"
        device.behaviour.xaddrs = f"{evil} {named}"
        (found,) = await found_by(POLICY, device.host)
        assert (found.address, found.xaddr) == (device.host, None)
        device.behaviour.xaddrs = f"{evil} http://127.0.0.7:80/x {device.xaddr}"
        (found,) = await found_by(POLICY, device.host)
        assert found.xaddr == device.xaddr  # of several that are allowed its own
        assert outside.host not in {one.address for one in await found_by()}
        assert listener.connections == 0


async def test_only_answers_to_our_own_probe_count() -> None:
    with OnvifDevice() as device:
        device.behaviour.match = device._match("urn:uuid:00000000-0000-0000-0000-000000000000", 0)
        assert await found_by(POLICY, device.host) == []


GARBAGE = [
    b"\xff" * 100, b"<a/>", b" ", b"<a>" * 1000, b" " * 30_000,
    b'<!DOCTYPE a [<!ENTITY x "xxxxxxxxxx"><!ENTITY y "&x;&x;&x;&x;&x;&x;&x;&x;&x;&x;">]><a>&y;</a>',
    b"<a>" + b"<b/>" * 4000 + b"</a>",
]  # fmt: skip


async def test_garbage_and_bombs_disturb_nobody_else() -> None:
    with OnvifDevice() as good, contextlib.ExitStack() as stack:
        bad = [stack.enter_context(OnvifDevice()) for _ in GARBAGE]
        for device, datagram in zip(bad, GARBAGE, strict=True):
            device.behaviour.match = datagram
        found = await found_by(POLICY, *(device.host for device in bad), good.host)
        assert [one.address for one in found] == [good.host]
        assert all(device.probes for device in bad)


async def test_a_flood_is_bounded_and_the_loop_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "MAX_ANSWERS", 50)
    with OnvifDevice() as device:
        device.behaviour.copies = 2000
        async with ticking() as ticks:
            (found,) = await found_by(POLICY, device.host, seconds=10)  # ends after 50 answers, not after 10 s
        assert found.address == device.host
        assert ticks


async def test_at_most_so_many_devices_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "MAX_FOUND", 1)
    with OnvifDevice() as one, OnvifDevice() as two:
        assert len(await found_by(POLICY, one.host, two.host)) == 1


@contextlib.asynccontextmanager
async def ticking() -> AsyncIterator[list[float]]:
    ticks: list[float] = []

    async def tick() -> None:
        while True:
            ticks.append(asyncio.get_running_loop().time())
            await asyncio.sleep(0.01)

    task = asyncio.create_task(tick())
    await asyncio.sleep(0)
    try:
        yield ticks
    finally:
        task.cancel()


def test_targets_are_allowed_hosts_only() -> None:
    inside = ipaddress.ip_network("127.1.0.0/29")
    assert [str(host) for host in targets([inside], POLICY)] == [f"127.1.0.{n}" for n in range(1, 7)]
    metadata = ipaddress.ip_network("100.100.100.200/32")
    assert targets([metadata], AddressPolicy(["100.64.0.0/10"])) == []
    assert not POLICY.allows_network(ipaddress.ip_network("127.0.0.0/8"))
    assert POLICY.allows_network(inside)
    assert not POLICY.allows_network(ipaddress.ip_network("::/64"))
