"""Finding cameras, and their newest pictures, over HTTP: `main.py`, PostgreSQL, S3, an RTSP camera, ONVIF devices."""

from __future__ import annotations

import asyncio
import io
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from PIL import Image

from demo.camera import Camera
from tests.conftest import ROOT, Backends, Service, running, unique
from tests.kits.heic import HEIC
from tests.kits.onvif_device import Listener, OnvifDevice, Stream
from tests.kits.service_support import jpeg, own_database, service_on, sha256, until, upload

CAMERAS = "/api/v1/cameras"
DISCOVER = f"{CAMERAS}/discover"
BOOTSTRAP = "bootstrap-secret-of-the-finding-tests-01"
FORBIDDEN = "127.200.0.9"
# The devices' and the camera's addresses; not FORBIDDEN.
ALLOWED = json.dumps(["127.0.0.0/9"])


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def camera() -> Iterator[Camera]:
    with Camera(name="demo", size=(320, 180), fps=10, bitrate=300_000) as camera:
        yield camera


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def service(backends: Backends, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    settings = {
        "AUTH__MODE": "keys", "AUTH__BOOTSTRAP_KEY": BOOTSTRAP, "RTSP__ALLOWED_NETWORKS": ALLOWED, "LOG__LEVEL": "DEBUG",
        "LIMITS__SHARE": "0.1", "RTSP__LINGER": "0.3",
    }  # fmt: skip
    made = service_on(await own_database(backends), tmp_path_factory.mktemp("finding"), **settings)
    async with running(made):
        yield made
    text = made.text()
    assert "Traceback" not in text
    assert "S3cr3t" not in text


@pytest_asyncio.fixture(loop_scope="session")
async def client(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=service.url, timeout=60, headers=bearer(BOOTSTRAP)) as made:
        yield made


async def key_of(client: httpx.AsyncClient, *scopes: str, cameras: list[str] | None = None) -> dict[str, str]:
    answer = await client.post("/api/v1/api-keys", json={"name": "t", "scopes": list(scopes), "cameras": cameras})
    return bearer(str(answer.raise_for_status().json()["key"]))


def code(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    return str(answer.json()["code"])


async def metric(client: httpx.AsyncClient, name: str, **labels: str) -> float:
    text = (await client.get("/metrics")).text
    wanted = name + ("{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}" if labels else "")
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(f"{wanted} "))


# -- finding -----------------------------------------------------------------------------------------------------


async def test_from_the_search_to_a_picture(client: httpx.AsyncClient, camera: Camera) -> None:
    """What somebody does who unpacks a camera, by nothing but the answers."""
    stream = f"{camera.url}?channel=1&token=S3cr3tQ"
    profiles = [
        Stream("main", "H264", 320, 180, stream, "http://127.0.0.1:80/snap?pw=S3cr3t"),
        Stream("elsewhere", "H264", 320, 180, f"rtsp://{FORBIDDEN}:554/x", f"http://{FORBIDDEN}/snap"),
        Stream("odd", "H265", 320, 180, "http://127.0.0.1/not-rtsp", ""),
    ]
    with OnvifDevice(password="p/ S3cr3t@%", streams=profiles) as device:
        (found,) = (await client.post(DISCOVER, json={"timeout_s": 1, "networks": [f"{device.host}/32"]})).json()["items"]
        assert found == {
            "address": device.host, "xaddr": device.xaddr, "name": "Pit lane entry", "hardware": "P3245-LV",
            "onvif": True, "registered_as": None, "clock_offset_s": None, "profiles": None,
        }  # fmt: skip
        login = {"username": device.username, "password": device.password}
        answer = await client.post(DISCOVER, json={"address": found["xaddr"], **login})
        assert answer.status_code == 200, answer.text
        assert "S3cr3t" not in answer.text
        (told,) = answer.json()["items"]
        assert told | {"profiles": None} == {**found, "clock_offset_s": told["clock_offset_s"]}
        assert abs(told["clock_offset_s"]) < 30
        main, elsewhere, odd = told["profiles"]
        ref = main.pop("rtsp_ref")
        assert main == {
            "token": "main", "name": "main name", "codec": "h264", "width": 320, "height": 180, "fps": 25.0,
            "bitrate_bps": 4096000, "rtsp_url": camera.url, "snapshot_uri": "http://127.0.0.1:80/snap", "code": None,
        }  # fmt: skip
        assert (elsewhere["rtsp_url"], elsewhere["rtsp_ref"], elsewhere["snapshot_uri"], elsewhere["code"]) == (
            None, None, None, "address_not_allowed",
        )  # fmt: skip
        assert (odd["codec"], odd["rtsp_url"], odd["code"]) == ("h265", None, "stream_not_found")

        camera_id = unique()
        made = await client.post(CAMERAS, json={"camera_id": camera_id, "rtsp_ref": ref})
        assert made.status_code == 201, made.text
        assert made.json()["rtsp_url"] == camera.url
        assert (await client.post(f"{CAMERAS}/{camera_id}/snapshot")).status_code == 201
        # As it is shown, it can be handed on, too: of a stream without login and query.
        shown = await client.post(CAMERAS, json={"camera_id": unique(), "rtsp_url": main["rtsp_url"]})
        assert shown.status_code == 201

        # Another caller's reference is worth nothing, nor is one that was changed.
        other = await key_of(client, "cameras:write")
        for text, who in ((ref, other), (ref[:-3] + "AAA", {}), ("ref1.{}", {}), (ref.removeprefix("ref1."), {})):
            refused = await client.post(CAMERAS, json={"camera_id": unique(), "rtsp_ref": text}, headers=who)
            assert code(refused, 422) == "invalid_request"
            assert refused.json()["errors"][0]["name"] == "rtsp_ref"


async def test_a_registered_camera_is_named_to_those_who_may_see_it(client: httpx.AsyncClient) -> None:
    with OnvifDevice() as device:
        camera_id = unique()
        body = {"camera_id": camera_id, "rtsp_url": f"rtsp://admin:S3cr3t@{device.host}/main"}
        assert (await client.post(CAMERAS, json=body)).status_code == 201
        search = {"timeout_s": 0.7, "networks": [f"{device.host}/32"]}
        narrow = await key_of(client, "cameras:write", cameras=["another-*"])
        for who, name in (({}, camera_id), (narrow, None)):
            (found,) = (await client.post(DISCOVER, json=search, headers=who)).json()["items"]
            assert found["registered_as"] == name


async def test_failures_have_codes_and_forbidden_places_see_nothing(client: httpx.AsyncClient) -> None:
    with Listener(FORBIDDEN) as listener, OnvifDevice(password="S3cr3t") as device:
        evil = f"{FORBIDDEN}:{listener.port}"
        login = {"username": "admin", "password": "S3cr3t"}
        for body in (
            {"address": evil, **login}, {"address": f"http://{evil}/onvif/device_service"},
            {"networks": [f"{FORBIDDEN}/32"]}, {"networks": ["127.0.0.0/30", "0.0.0.0/0"]}, {"address": "169.254.169.254"},
        ):  # fmt: skip
            assert code(await client.post(DISCOVER, json=body), 403) == "address_not_allowed"
        device.behaviour.xaddrs = f"http://{evil}/onvif/device_service"
        search = {"timeout_s": 0.7, "networks": [f"{device.host}/32"]}
        (found,) = (await client.post(DISCOVER, json=search)).json()["items"]
        assert found["xaddr"] is None
        device.behaviour.service_host = evil
        assert code(await client.post(DISCOVER, json={"address": device.xaddr, **login}), 502) == "connection_refused"
        device.behaviour.redirect = f"http://{evil}/"
        assert code(await client.post(DISCOVER, json={"address": device.xaddr, **login}), 502) == "redirect_refused"
        assert listener.connections == 0
        device.behaviour.redirect = None
        wrong = await client.post(DISCOVER, json={"address": device.xaddr, "username": "admin", "password": "no"})
        assert code(wrong, 502) == "unauthorized_camera"
        device.behaviour.answer = b"<html/>"
        assert code(await client.post(DISCOVER, json={"address": device.xaddr}), 502) == "not_onvif"
        device.behaviour.drip = True
        slow = await client.post(DISCOVER, json={"address": device.xaddr, "timeout_s": 0.3})
        assert code(slow, 504) == "read_timeout"
        assert (await client.get("/health/live")).status_code == 200
    assert await metric(client, "ingestion_discoveries_total", kind="device", outcome="not_onvif") == 1
    assert await metric(client, "ingestion_discovery_answers_total", outcome="listed") > 0


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({"timeout_s": 11}, "timeout_s"), ({"timeout_s": 0}, "timeout_s"), ({"timeout_s": "3"}, "timeout_s"),
        ({"networks": []}, "networks"), ({"networks": ["127.0.0.1/8"]}, "networks"),
        ({"networks": ["127.0.0.0/16"]}, "networks"), ({"networks": ["x"]}, "networks"), ({"address": ""}, "address"),
        ({"address": "a b"}, "address"),
        ({"address": "http://u:p@127.0.0.1/"}, "address"), ({"address": "ftp://127.0.0.1/"}, "address"),
        ({"username": "a", "password": "b"}, None), ({"address": "127.0.0.1", "username": "a"}, None),
        ({"address": "127.0.0.1", "networks": ["127.0.0.1/32"]}, None), ({"multicast": True}, "multicast"),
    ],
)  # fmt: skip
async def test_the_body_is_strict(client: httpx.AsyncClient, body: dict[str, Any], name: str | None) -> None:
    answer = await client.post(DISCOVER, json=body)
    assert code(answer, 422) == "invalid_request"
    if name is not None:
        assert name in answer.json()["errors"][0]["pointer"] or answer.json()["errors"][0]["name"] == name


async def test_a_caller_searches_no_more_than_its_share(client: httpx.AsyncClient) -> None:
    """LIMITS__SHARE 0.1 of 20: two at once."""
    who = await key_of(client, "cameras:write")
    answers = await asyncio.gather(*(client.post(DISCOVER, json={"timeout_s": 2}, headers=who) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 429, 429, 429]
    assert {answer.json()["code"] for answer in answers if answer.status_code == 429} == {"rate_limited"}


async def test_the_lines_of_the_page_work(client: httpx.AsyncClient, camera: Camera, tmp_path: Path) -> None:
    """docs/finding-cameras.md as it stands; only the addresses and the key are ours."""
    if missing := [tool for tool in ("bash", "curl", "jq") if shutil.which(tool) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")
    page = (ROOT / "docs" / "finding-cameras.md").read_text("utf-8")
    password = "p@ss/w:rd$1"
    stream = Stream("main", "H264", 320, 180, camera.url, "http://127.0.0.1/snap")
    with OnvifDevice(password=password, streams=[stream]) as device:
        lines = "\n".join(re.findall(r"```sh\n(.*?)```", page, re.DOTALL))
        for old, new in (
            ("http://127.0.0.1:8000", str(client.base_url)), ("192.168.1.0/24", f"{device.host}/32"),
            ("CAMERA=192.168.1.20 ", f"CAMERA={device.host}:{device.port} "),
            ("192.168.1.20:554/stream1", camera.url.removeprefix("rtsp://")),
            ('"capture_duration": 10', '"capture_duration": 3'), ('"timeout_s": 3', '"timeout_s": 1'),
        ):  # fmt: skip
            assert old in lines
            lines = lines.replace(old, new)
        head = 'curl() { command curl --fail-with-body --max-time 60 -H "Authorization: Bearer $KEY" "$@"; }\n'
        done = await asyncio.to_thread(
            subprocess.run, ["bash", "-euo", "pipefail", "-c", head + lines], cwd=tmp_path, capture_output=True, check=False,
            timeout=110, env={"PATH": "/usr/bin:/bin:/usr/local/bin", "KEY": BOOTSTRAP},
        )  # fmt: skip
    assert done.returncode == 0, (done.stdout[-2000:], done.stderr[-2000:])
    told = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert [device.host, "Pit lane entry", "P3245-LV"] in told
    assert ["main", "h264", 320, 180, camera.url] in told
    assert ["first", camera.url] in told
    assert any(line[0] == "completed" and line[1] >= 2 for line in told), told
    assert told[-1] == [True, None, None]
    assert (tmp_path / "first.jpg").read_bytes()[:2] == b"\xff\xd8"
    assert password not in done.stdout.decode()


# -- latest.jpg --------------------------------------------------------------------------------------------------


def latest(camera_id: str) -> str:
    return f"{CAMERAS}/{camera_id}/latest.jpg"


def shown(answer: httpx.Response) -> Image.Image:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["cache-control"] == "private, no-cache"
    assert answer.headers["content-security-policy"] == "sandbox"
    picture = Image.open(io.BytesIO(answer.content))
    assert picture.format == "JPEG"
    picture.load()
    return picture


async def test_the_newest_picture_of_an_open_stream(client: httpx.AsyncClient, camera: Camera) -> None:
    camera_id = unique()
    made = await client.post(CAMERAS, json={"camera_id": camera_id, "rtsp_url": camera.url, "keep_open": True})
    assert made.status_code == 201

    async def there() -> httpx.Response | None:
        answer = await client.get(latest(camera_id))
        return answer if answer.status_code == 200 else None

    answer = await until(there, "a picture", 30)
    assert shown(answer).size == (320, 180)
    assert answer.headers["x-picture-source"] == "stream"
    at = datetime.fromisoformat(answer.headers["x-picture-timestamp"])
    assert abs(datetime.now(UTC) - at) < timedelta(seconds=30)
    assert parsedate_to_datetime(answer.headers["last-modified"]) == at.replace(microsecond=0)
    assert float(answer.headers["x-picture-age"]) < 30

    async def newer() -> bool:
        return bool((await client.get(latest(camera_id))).headers["etag"] != answer.headers["etag"])

    await until(newer, "another picture")

    # Fifty dashboards at once cost one picture, or two when one comes in between.
    metric_name = "ingestion_decode_seconds_count"
    before = await metric(client, metric_name)
    answers = await asyncio.gather(*(client.get(latest(camera_id)) for _ in range(50)))
    assert {one.status_code for one in answers} == {200}
    assert len({one.headers["etag"] for one in answers}) < 25
    assert await metric(client, metric_name) - before < 25
    head = await client.head(latest(camera_id))
    assert (head.status_code, head.content, int(head.headers["content-length"]) > 1000) == (200, b"", True)
    # Nothing is stored by it.
    assert (await client.get("/api/v1/frames", params={"camera_id": camera_id})).json()["items"] == []
    assert (await client.get("/api/v1/ingest/requests", params={"camera_id": camera_id})).json()["items"] == []

    await client.patch(f"{CAMERAS}/{camera_id}", json={"keep_open": False})

    async def gone() -> bool:
        return (await client.get(latest(camera_id))).status_code == 404

    await until(gone, "the stream closed", 40)  # it lingers
    assert code(await client.get(latest(camera_id)), 404) == "frame_not_found"


def picture_of(kind: str, **save: Any) -> bytes:
    mode = {"BMP": "RGB", "TIFF": "I;16"}.get(kind, "RGBA")
    image = Image.new(mode, (3000, 1000), 40_000 if mode == "I;16" else (200, 30, 30, 255)[: len(mode)])
    out = io.BytesIO()
    image.save(out, kind, **save)
    return out.getvalue()


def turned() -> bytes:
    """A WebP that stands on its side, and says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture_of("WEBP", exif=exif, quality=10)


@pytest.mark.parametrize(
    ("make", "name", "size"),
    [
        (lambda: picture_of("PNG"), "a.png", (1920, 640)), (lambda: picture_of("BMP"), "a.bmp", (1920, 640)),
        (lambda: picture_of("TIFF"), "a.tiff", (1920, 640)), (turned, "a.webp", (640, 1920)),
        (lambda: HEIC, "a.heic", (64, 48)),
    ],
    ids=["png", "bmp", "tiff of 16 bits", "webp, turned", "heic"],
)  # fmt: skip
async def test_a_stored_frame_of_another_kind_is_shown_as_jpeg(
    client: httpx.AsyncClient, make: Any, name: str, size: tuple[int, int]
) -> None:
    camera_id = unique()
    stored = await client.post(
        "/api/v1/ingest/upload", data={"camera_id": camera_id}, files=[("files", (name, make(), "application/octet-stream"))]
    )
    assert stored.status_code == 201, stored.text
    first, again = await client.get(latest(camera_id)), await client.get(latest(camera_id))
    picture = shown(first)
    assert picture.size == size
    if name.endswith("tiff"):
        assert abs(int(picture.convert("L").getpixel((5, 5))) - 156) < 4  # type: ignore[arg-type]  # 40,000 of 65,535
    assert again.content == first.content
    assert first.headers["x-picture-source"] == "frame"
    tag = {"If-None-Match": first.headers["etag"]}
    unchanged = await client.get(latest(camera_id), headers=tag)
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert unchanged.headers["content-security-policy"] == "sandbox"


async def test_the_newest_stored_frame_its_age_and_who_may_see_it(client: httpx.AsyncClient) -> None:
    camera_id, other = unique("seen"), unique("alien")
    old, new, alien = jpeg(), jpeg(), jpeg()
    now = datetime.now(UTC)
    for at, data in ((now - timedelta(seconds=100), new), (now - timedelta(hours=2), old)):  # the newest is not the last
        meta = json.dumps({"timestamp_ref": at.isoformat()})
        assert (await upload(client, camera_id, data, meta=meta)).status_code == 201
    assert (await upload(client, other, alien)).status_code == 201
    answer = await client.get(latest(camera_id))
    shown(answer)
    assert answer.content == new
    assert answer.headers["etag"] == f'"{sha256(new)}"'
    assert 90 < float(answer.headers["x-picture-age"]) < 1000
    for tag in (f'"{sha256(new)}"', f'"x", W/"{sha256(new)}"', "*"):
        assert (await client.get(latest(camera_id), headers={"If-None-Match": tag})).status_code == 304
    assert (await client.get(latest(camera_id), headers={"If-None-Match": '"x"'})).status_code == 200
    assert (await client.get(latest(camera_id), params={"max_age": 3600})).status_code == 200
    assert code(await client.get(latest(camera_id), params={"max_age": 50}), 404) == "frame_not_found"
    assert (await client.head(latest(camera_id), params={"max_age": 50})).status_code == 404
    for bad in ("-1", "nan", "x", "1e3", ""):
        assert code(await client.get(latest(camera_id), params={"max_age": bad}), 422) == "invalid_request"

    narrow = await key_of(client, "frames:read", cameras=["seen-*"])
    assert (await client.get(latest(camera_id), headers=narrow)).status_code == 200
    refused, unknown = await client.get(latest(other), headers=narrow), await client.get(latest("nobody"), headers=narrow)
    assert (code(refused, 404), refused.json()["detail"]) == (code(unknown, 404), unknown.json()["detail"])
    assert code(await client.get(latest("seen-nothing"), headers=narrow), 404) == "camera_not_found"
    empty = unique("seen")
    await client.post(CAMERAS, json={"camera_id": empty, "rtsp_url": "rtsp://127.0.0.1:9/x"})
    assert code(await client.get(latest(empty), headers=narrow), 404) == "frame_not_found"
    assert code(await client.get(latest(camera_id), headers=await key_of(client, "cameras:read")), 403) == "forbidden"


async def test_a_large_stored_jpeg_is_passed_on_whole(client: httpx.AsyncClient) -> None:
    camera_id = unique()
    out = io.BytesIO()
    noise = Image.effect_noise((2600, 2600), 250)
    noise.save(out, "JPEG", quality=97)
    assert out.tell() > 4_194_304
    assert (await upload(client, camera_id, out.getvalue())).status_code == 201
    answer = await client.get(latest(camera_id))
    assert answer.content == out.getvalue()
    head = await client.head(latest(camera_id))
    assert int(head.headers["content-length"]) == len(out.getvalue())
