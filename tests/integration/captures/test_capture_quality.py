"""Every frame tells its quality, whichever reader, mode and way it comes by; uploads too. Over HTTP, with a real camera."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio
from PIL import Image

from demo.camera import Camera
from demo.film import make_film
from tests.conftest import Backends, Service, running, unique
from tests.kits.poor_pictures import camera as pictures
from tests.kits.poor_pictures import grey

pytestmark = pytest.mark.paced
INGEST, FRAMES = "/api/v1/ingest", "/api/v1/frames"
FIELDS = {"verdict", "reasons", "sharpness", "brightness", "contrast", "dark_share", "bright_share", "frozen_s"}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def client(backends: Backends, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    folder = tmp_path_factory.mktemp("quality")
    service = Service(backends.environment(folder, QUALITY__BAD_FRAMES="3"), folder / "log")
    async with running(service) as made:
        yield made


@pytest.fixture(scope="module")
def camera(film_folder: Path) -> Any:
    films = {codec: make_film(film_folder, codec=codec, seconds=8.0) for codec in ("h264", "mjpeg")}
    with Camera(films, join="burst") as made:
        yield made


async def captured(client: httpx.AsyncClient, url: str, **fields: object) -> list[dict[str, Any]]:
    body = {"rtsp_url": url, "camera_id": unique("q"), **fields}
    answer = await client.post(f"{INGEST}/rtsp", json=body, headers={"Prefer": "wait=30"}, timeout=40)
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "completed", answer.text
    page = await client.get(FRAMES, params={"request_id": answer.json()["request_id"]})
    frames: list[dict[str, Any]] = page.json()["items"]
    assert frames
    assert {frame["frame_id"]: frame["quality"] for frame in answer.json()["frames"]} == {
        frame["frame_id"]: frame["quality"] for frame in frames
    }
    return frames


@pytest.mark.parametrize("mode", ["exact", "keyframe", "single_frame", "mjpeg"])
async def test_frames_of_captures_tell_their_quality(client: httpx.AsyncClient, camera: Camera, mode: str) -> None:
    url = camera.url_of("mjpeg" if mode == "mjpeg" else "h264")
    fields: dict[str, object] = {} if mode == "single_frame" else {
        "capture_mode": "continuous", "fps": 2.0, "capture_duration": 2.0,
        "sampling": "auto" if mode == "mjpeg" else mode,
    }  # fmt: skip
    frames = await captured(client, url, **fields)
    for frame in frames:
        quality = frame["quality"]
        assert set(quality) == FIELDS
        assert quality["verdict"] == "good"
        assert quality["reasons"] == []
        assert quality["sharpness"] > 20
        assert 20 < quality["brightness"] < 230
    camera_id = frames[0]["camera_id"]
    events = await client.get("/api/v1/events", params={"types": "frame.stored", "camera_id": camera_id, "wait": 10})
    sent = {event["data"]["frame_id"]: event["data"]["quality"] for event in events.json()["items"]}
    assert sent
    assert all(sent[frame["frame_id"]] == frame["quality"] for frame in frames if frame["frame_id"] in sent)


async def test_a_snapshot_tells_its_quality(client: httpx.AsyncClient, camera: Camera) -> None:
    camera_id = unique("q")
    made = await client.post("/api/v1/cameras", json={"camera_id": camera_id, "rtsp_url": camera.url_of("h264")})
    assert made.status_code == 201, made.text
    frame = (await client.post(f"/api/v1/cameras/{camera_id}/snapshot", timeout=40)).json()
    assert frame["quality"]["verdict"] == "good"
    assert frame["quality"]["frozen_s"] == 0.0


def png(picture: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG", compress_level=1)
    return out.getvalue()


def jpeg(picture: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=90)
    return out.getvalue()


async def test_uploads_are_judged_against_those_before_and_the_list_is_filtered(client: httpx.AsyncClient) -> None:
    camera_id, shown = unique("q"), pictures(grey("demo", 2), 3)
    blurred = np.asarray(Image.fromarray(next(shown)).resize((48, 27)).resize((480, 270)), np.uint8)
    sent = [next(shown) for _ in range(8)] + [blurred, np.zeros((270, 480), np.uint8)]
    verdicts = []
    for n, picture in enumerate(sent):
        data, name = (png(picture), "a.png") if n % 2 else (jpeg(picture), "a.jpg")
        meta = json.dumps({"timestamp_ref": f"2026-05-04T13:00:{n:02d}Z"})
        answer = await client.post(
            f"{INGEST}/upload", data={"camera_id": camera_id, "meta": meta}, files={"files": (name, data)}
        )
        assert answer.status_code == 201, answer.text
        (frame,) = answer.json()["frames"]
        assert set(frame["quality"]) == FIELDS
        assert frame["quality"]["frozen_s"] is None
        verdicts.append((frame["quality"]["verdict"], tuple(frame["quality"]["reasons"])))
    assert verdicts[:8] == [("good", ())] * 8
    assert verdicts[8] == ("bad", ("blurred",))
    assert verdicts[9] == ("bad", ("flat", "dark"))

    async def listed(quality: str, **more: str) -> list[str]:
        found = await client.get(FRAMES, params={"camera_id": camera_id, "quality": quality, **more})
        assert found.status_code == 200, found.text
        return [frame["timestamp"][17:19] for frame in found.json()["items"]]

    assert await listed("good") == [f"{n:02d}" for n in range(8)]
    assert await listed("bad") == ["08", "09"]
    assert await listed("bad", order="desc") == ["09", "08"]
    assert await listed("suspect") == []
    first = await client.get(FRAMES, params={"camera_id": camera_id, "quality": "bad", "limit": 1})
    cursor = first.json()["next_cursor"]
    assert await listed("bad", cursor=cursor) == ["09"]
    other = await client.get(FRAMES, params={"camera_id": camera_id, "quality": "good", "cursor": cursor})
    assert other.status_code == 422
    for wrong in ("poor", "", "Good"):
        refused = await client.get(FRAMES, params={"quality": wrong})
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
