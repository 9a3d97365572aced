"""The service's own parts are no cameras: by whatever name, form or other address of the same machine."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path

import pytest

from config import Settings
from services.rtsp_capture.connection.camera_address import AddressPolicy, parse_rtsp_url
from services.rtsp_capture.connection.lookups import Lookups
from services.rtsp_capture.connection.own_services import (
    FRESH,
    KEPT,
    IpAddress,
    OwnPart,
    OwnServices,
    is_this_machine,
    own_services,
)
from tests.kits.clock import Clock
from utils.embedded.running import object_store_ports
from utils.exceptions import CaptureFailure

HERE = {"192.168.7.7", "fd00::7", "127.0.0.1", "127.0.0.9", "::1"}


class Names:
    """A resolver whose answers the test changes."""

    def __init__(self, **names: str) -> None:
        self.names = {name.replace("_", "."): text.split() for name, text in names.items()}

    def __call__(self, name: str) -> list[str]:
        if name not in self.names:
            raise OSError("no such name")
        return self.names[name]


def made(names: Names, clock: Clock | None = None, *parts: OwnPart) -> OwnServices:
    def here(address: IpAddress) -> bool:
        return str(address) in HERE or address.is_unspecified

    return OwnServices(parts, Lookups(names), clock=clock or Clock(0.0), here=here)


def of(text: str) -> IpAddress:
    return ipaddress.ip_address(text)


@pytest.mark.parametrize(
    ("host", "reached"),
    [
        # PostgreSQL on another machine, by its name: all of its addresses, in every form.
        ("db.test", {"10.0.0.5", "::ffff:10.0.0.5", "64:ff9b::a00:5", "2002:a00:5::", "fd00::5"}),
        ("10.0.0.5", {"10.0.0.5", "::ffff:10.0.0.5", "64:ff9b::a00:5", "2002:a00:5::"}),
        ("::ffff:10.0.0.5", {"10.0.0.5", "::ffff:10.0.0.5", "64:ff9b::a00:5", "2002:a00:5::"}),
        # On this machine: every address of it, for it may listen on all.
        *((host, {*HERE, "::ffff:192.168.7.7", "0.0.0.0", "::"}) for host in (
            "", "/run/postgresql", "0.0.0.0", "::", "127.0.0.1", "192.168.7.7", "here.test",
        )),
    ],
)  # fmt: skip
async def test_a_part_is_known_by_every_address_that_leads_to_it(host: str, reached: set[str]) -> None:
    own = made(Names(db_test="10.0.0.5 fd00::5", here_test="192.168.7.7"), None, OwnPart(host, 5432))
    await own.refresh()
    for text in reached | {"10.0.0.6", "192.168.7.8", "8.8.8.8"}:
        assert own.holds(of(text), 5432) is (text in reached), text
        assert not own.holds(of(text), 5433)


async def test_a_name_that_moves_is_followed_and_its_former_address_kept_for_a_while() -> None:
    names, clock = Names(db_test="10.0.0.5"), Clock(0.0)
    own = made(names, clock, OwnPart("db.test", 5432))
    await own.refresh()
    names.names["db.test"] = ["10.0.0.6"]
    clock.now = FRESH + 1
    await own.fresh(554)
    assert not own.holds(of("10.0.0.6"), 5432)  # a camera's port is none of ours: nothing was looked up
    await own.fresh(5432)
    assert own.holds(of("10.0.0.6"), 5432)
    assert own.holds(of("10.0.0.5"), 5432)
    names.names.clear()
    clock.now += 10
    await own.refresh()
    assert own.holds(of("10.0.0.6"), 5432)  # the resolver is away
    names.names["db.test"] = ["10.0.0.6"]
    clock.now = KEPT + 20
    await own.refresh()
    assert not own.holds(of("10.0.0.5"), 5432)
    assert own.holds(of("10.0.0.6"), 5432)


@pytest.mark.parametrize("host", ["camera.test", "db.test", "DB.test.", "10.0.0.5", "[::ffff:10.0.0.5]"])
async def test_a_camera_whose_address_leads_to_a_part_is_not_connected_to(host: str) -> None:
    names = Names(db_test="10.0.0.5", camera_test="10.0.0.5")
    policy = AddressPolicy(["10.0.0.0/8"], own=made(names, None, OwnPart("db.test", 5432)), lookups=Lookups(names))
    with pytest.raises(CaptureFailure) as caught:
        await policy.resolve(parse_rtsp_url(f"rtsp://{host}:5432/live"), 2)
    assert caught.value.code == "address_not_allowed"
    assert await policy.resolve(parse_rtsp_url(f"rtsp://{host}:554/live"), 2)


async def test_the_parts_that_settings_name() -> None:
    database: dict[str, object] = {"HOST": "10.0.0.1", "POOLER": "session", "DIRECT_HOST": "10.0.0.6", "DIRECT_PORT": 5433}
    settings = Settings(
        _env_file=None, DB=database, REDIS={"HOST": "10.0.0.2"}, API={"PORT": 8001},
        STORAGE={
            "ENDPOINT": "https://10.0.0.3", "PUBLIC_ENDPOINT": "10.0.0.4:9001", "ACCESS_KEY": "x", "SECRET_KEY": "y",
        },
    )  # fmt: skip
    own = own_services(settings, [12345])
    for text, port in (
        ("10.0.0.1", 5432), ("10.0.0.6", 5433), ("10.0.0.2", 6379), ("10.0.0.3", 443), ("10.0.0.4", 9001),
        ("127.0.0.1", 8001), ("127.0.0.1", 12345),
    ):  # fmt: skip
        assert own.holds(of(text), port), text
        assert not own.holds(of(text), 554), text
        assert not own.holds(of("10.0.0.9"), port)


def test_the_embedded_stores_other_ports(tmp_path: Path) -> None:
    assert object_store_ports(tmp_path) == []
    (tmp_path / "object-store").mkdir()
    (tmp_path / "object-store" / "ports.json").write_text('{"s3": 12000, "filer": 12002, "master": 12004}')
    assert object_store_ports(tmp_path) == [12000, 12002, 12004, 22002, 22003, 22004]


def test_which_addresses_are_this_machines() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:
        route.connect(("192.0.2.1", 9))
        mine = route.getsockname()[0]
    for text in (mine, "127.0.0.1", "127.3.2.1", "::1", "0.0.0.0", "::"):
        assert is_this_machine(of(text)), text
    for text in ("192.0.2.77", "8.8.8.8", "2001:db8::1", "fe80::1:2:3:4"):
        assert not is_this_machine(of(text)), text
