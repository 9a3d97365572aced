"""Where cameras may be, and what of their URLs may be shown."""

import ipaddress

import pytest

from config import Settings
from services.rtsp_capture.connection.camera_address import AddressPolicy, CameraAddress, camera_policy, parse_rtsp_url
from services.rtsp_capture.connection.lookups import Lookups
from services.rtsp_capture.connection.own_services import own_services
from services.rtsp_capture.streams.stream import StreamKey
from utils.exceptions import AddressNotAllowed, CaptureFailure, InvalidRequest
from utils.urls import mask_text, mask_url


@pytest.mark.parametrize(
    ("url", "host", "port", "user", "password", "target"),
    [
        ("rtsp://10.0.0.5/", "10.0.0.5", 554, None, None, "/"),
        ("rtsp://10.0.0.5", "10.0.0.5", 554, None, None, "/"),
        ("RTSPS://cam.example/live?x=1&y=2", "cam.example", 322, None, None, "/live?x=1&y=2"),
        ("rtsp://u:p@cam:8554/a/b", "cam", 8554, "u", "p", "/a/b"),
        ("rtsp://u:p@ss@cam/a", "cam", 554, "u", "p@ss", "/a"),
        ("rtsp://u:p:q#r?s@cam/a", "cam", 554, "u", "p:q#r?s", "/a"),
        ("rtsp://u:%40%2F%3A%23%3F%25@cam/a", "cam", 554, "u", "@/:#?%", "/a"),
        ("rtsp://u:100%@cam/a", "cam", 554, "u", "100%", "/a"),
        ("rtsp://u@cam/a", "cam", 554, "u", None, "/a"),
        ("rtsp://u:@cam/a", "cam", 554, "u", "", "/a"),
        ("rtsp://u:p@[fd00::5]:8554/a", "fd00::5", 8554, "u", "p", "/a"),
        ("rtsp://[::ffff:10.0.0.5]/a", "::ffff:10.0.0.5", 554, None, None, "/a"),
        ("rtsp://10.0.0.5:554/cam@home/1", "10.0.0.5", 554, None, None, "/cam@home/1"),
        ("rtsp://cam/a?mail=x@y", "cam", 554, None, None, "/a?mail=x@y"),
    ],
)
def test_parts(url: str, host: str, port: int, user: str | None, password: str | None, target: str) -> None:
    found = parse_rtsp_url(url)
    assert (found.host, found.port, found.username, found.password, found.target) == (host, port, user, password, target)


@pytest.mark.parametrize(
    "url",
    [
        "http://cam/", "rtsp:/cam/", "rtsp://", "rtsp:///a", "rtsp://u:p@/a", "rtsp://cam:0/", "rtsp://cam:99999/",
        "rtsp://cam:x/", "rtsp://[::1/", "rtsp://cam/a b", "rtsp://cam/a\r\nX: y", "rtsp://cam\\@evil/", "rtsp://cam/a#b",
        "rtsp://u:se/cret@cam/a", "rtsp://u:p%0d%0aX:y@cam/", "rtsp://u%00:p@cam/", "rtsp://u:a@b/cret@cam/x",
    ],
)  # fmt: skip
def test_what_is_refused_is_not_repeated(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_rtsp_url(url)
    assert "cret" not in caught.value.message
    assert all(url not in error.message for error in caught.value.errors)


@pytest.mark.parametrize("password", ["p", "@/:#?%", "a b\u00e9", "p@ss/word:1", "%41", "&=+"])
def test_the_url_for_ffmpeg_means_the_same(password: str) -> None:
    address = CameraAddress("rtsp", "fd00::5", 8554, "/a?b=c", "us:er", password)
    again = parse_rtsp_url(address.url(credentials=True))
    assert again == address
    assert address.url() == "rtsp://[fd00::5]:8554/a?b=c"
    assert parse_rtsp_url(address.url(host="10.0.0.9", credentials=True)).host == "10.0.0.9"


@pytest.mark.parametrize("url", ["rtsp://10.0.0.5/live", "rtsp://@10.0.0.5/live"])
def test_an_empty_login_is_none(url: str) -> None:
    address = parse_rtsp_url(url)
    assert (address.username, address.password) == (None, None)
    assert address.url(credentials=True) == "rtsp://10.0.0.5:554/live"


def test_nothing_shows_credentials() -> None:
    secret = "s3cr:t@x"
    url = f"rtsp://admin:{secret}@10.0.0.5/live"
    for shown in (
        repr(parse_rtsp_url(url)),
        repr(StreamKey("cam", url, "tcp")),
        mask_url(url),
        mask_text(f"open {url} failed"),
    ):
        assert "s3cr" not in shown
        assert "t@x" not in shown


@pytest.mark.parametrize(
    ("environment", "address", "allowed"),
    [
        ("development", "127.0.0.1", True), ("production", "127.0.0.1", False), ("production", "::1", False),
        ("production", "10.1.2.3", True), ("production", "192.168.0.9", True), ("production", "fd00::1", True),
        ("production", "::ffff:10.1.2.3", True), ("production", "::ffff:127.0.0.1", False),
        ("production", "::ffff:169.254.169.254", False), ("development", "169.254.169.254", False),
        ("development", "fe80::1", False), ("development", "0.0.0.0", False), ("development", "::", False),
        ("development", "8.8.8.8", False), ("development", "2001:db8::1", False), ("development", "fd00:ec2::254", False),
        ("development", "100.100.100.200", False), ("development", "100.100.100.201", True),
        ("development", "224.0.0.1", False), ("development", "255.255.255.255", False),
    ],
)  # fmt: skip
def test_networks_by_default(environment: str, address: str, allowed: bool) -> None:
    policy = AddressPolicy(Settings(_env_file=None, ENVIRONMENT=environment).camera_networks)
    assert policy.allows(ipaddress.ip_address(address), 554) is allowed


@pytest.mark.parametrize(
    ("environment", "listed", "allowed"),
    [
        ("production", None, {554, 322, 80, 443, 1024, 8554, 65535}), ("production", [554, "8000-8999"], {554, 8554}),
        ("development", None, {1, 22, 554, 322, 80, 443, 1024, 8554, 65535}), ("development", ["8554"], {8554}),
        ("development", [], set()),
    ],
)  # fmt: skip
async def test_ports(environment: str, listed: list[int | str] | None, allowed: set[int]) -> None:
    """Of addresses and of names; when they are posted and when they are connected to."""
    settings = Settings(_env_file=None, ENVIRONMENT=environment, RTSP={"ALLOWED_PORTS": listed})
    policy = AddressPolicy(["10.0.0.0/8"], settings.camera_ports, lookups=Lookups(lambda _: ["10.0.0.5"]))
    for port in (1, 22, 554, 322, 80, 443, 1024, 8554, 65535):
        for host in ("10.0.0.5", "camera.test"):
            camera = parse_rtsp_url(f"rtsp://{host}:{port}/live")
            if port in allowed:
                policy.check_literal(camera)
                assert await policy.resolve(camera, 2) == ["10.0.0.5"]
                continue
            with pytest.raises(AddressNotAllowed, match="RTSP__ALLOWED_PORTS"):
                policy.check_literal(camera)
            with pytest.raises(CaptureFailure, match="RTSP__ALLOWED_PORTS") as caught:
                await policy.resolve(camera, 2)
            assert caught.value.code == "address_not_allowed"


def test_the_services_own_parts_only_when_the_operator_names_address_and_port() -> None:
    def policy(networks: list[str], ports: list[int] | list[str] | None = None) -> AddressPolicy:
        settings = Settings(
            _env_file=None, API={"PORT": 8000}, STORAGE={"ENDPOINT": "127.0.0.1:9000", "ACCESS_KEY": "x"},
            RTSP={"ALLOWED_NETWORKS": networks, "ALLOWED_PORTS": ports},
        )  # fmt: skip
        return camera_policy(settings, own_services(settings))

    loopback = ipaddress.ip_address("127.0.0.1")
    for networks, ports in ((["127.0.0.0/8"], None), (["127.0.0.1/32"], None), (["127.0.0.0/8"], [8000, 8554, 9000])):
        judged = [policy(networks, ports).allows(loopback, port) for port in (8000, 5432, 9000, 6379, 8554)]
        assert judged == [False] * 4 + [True]
        assert not policy([*networks, "::/0"], ports).allows(ipaddress.ip_address("::ffff:127.0.0.1"), 9000)
    assert policy(["127.0.0.1/32"], [8000]).allows(loopback, 8000)
    assert not policy(["127.0.0.1/32"], ["8000-8001"]).allows(loopback, 8000)


def test_metadata_addresses_only_by_name() -> None:
    address = ipaddress.ip_address("169.254.169.254")
    assert not AddressPolicy(["169.254.0.0/16", "0.0.0.0/0"]).allows(address, 554)
    assert AddressPolicy(["169.254.169.254/32"]).allows(address, 554)
    assert AddressPolicy(["169.254.0.0/16"]).allows(ipaddress.ip_address("169.254.1.1"), 554)


@pytest.mark.parametrize("host", ["169.254.169.254", "[fe80::1%25eth0]", "[::ffff:8.8.8.8]", "8.8.8.8"])
def test_a_literal_is_judged_when_posted(host: str) -> None:
    policy = AddressPolicy(["10.0.0.0/8"])
    with pytest.raises(AddressNotAllowed):
        policy.check_literal(parse_rtsp_url(f"rtsp://{host}/"))
    policy.check_literal(parse_rtsp_url("rtsp://10.0.0.5/"))
    policy.check_literal(parse_rtsp_url("rtsp://some.name/"))


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "127.1", "017700000001", "localhost"])
async def test_other_spellings_of_an_address_are_judged_when_resolved(host: str) -> None:
    with pytest.raises(CaptureFailure) as caught:
        await AddressPolicy(["10.0.0.0/8"]).resolve(parse_rtsp_url(f"rtsp://{host}/"), 2)
    assert caught.value.code in ("address_not_allowed", "dns_failure")
    if host in ("127.1", "localhost"):
        assert caught.value.code == "address_not_allowed"


async def test_resolving() -> None:
    policy = AddressPolicy(["127.0.0.0/8"])
    assert await policy.resolve(parse_rtsp_url("rtsp://localhost/"), 2) == ["127.0.0.1"]
    for host in ("no-such-host.invalid", "x" * 70, "a..b"):
        with pytest.raises(CaptureFailure) as caught:
            await policy.resolve(parse_rtsp_url(f"rtsp://{host}/"), 3)
        assert caught.value.code == "dns_failure"
        assert host not in caught.value.message
